"""Dispatch: hand spans to seats, take outcomes back. Holds spans and never a record; a few spans a seat, no more."""

from __future__ import annotations

import time
from collections import Counter, deque
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from chora_mp.attempts import Attempts
from chora_mp.errors import WorkerError
from chora_mp.policy import Errors
from chora_mp.records import Failure, ItemResult, Outcome, Place, Span
from chora_mp.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from chora_mp.crew import Crew
    from chora_mp.lanes import Seat
    from chora_mp.policy import Room
    from chora_mp.slots import Note

SPAN_SECONDS = 0.075
"""Work in a span: long beside what handing it over costs (0.3 ms), short beside what anybody waits for."""

_MOST_ANSWERS = 250  # spans a second, of all seats: one costs the coordinator 0.3 to 0.5 ms
_FIRST_SECONDS = 0.01  # as little as it takes to learn how long items are
_FIRST_COUNT = 64
_MOST_COUNT = 20_000
_THROUGHPUT_SECONDS = 0.25
_SHARE_SECONDS, _MOST_SHARE = 0.02, 500  # of what many items at a time come to, in one span
_SEAT_SECONDS = 0.05  # what a further seat costs: 10 ms to open, the rest to load the bundle and warm up
_MOST_DEATHS = 2
_MOST_STILLBORN = 3
_MOST_ORPHANED = 5  # a fork server that is ended takes all workers along, so that nobody is blamed at first
_IDLE_TICK = 0.5  # seconds between looks at the slots, and at free memory (0.8 ms)
_NARROW_TICK = 0.1  # … where there is not much of it left
_SLOW_TICK, _MOST_SLOW_TICK = 0.02, 1.0  # what a slow source's next record waits for the last one's result
# No span is shorter than this at the end, or than the share by the number of seats: or handing over costs more than it
# levels.
_LEAST_SECONDS, _LEAST_SHARE = 0.002, 0.0005
_MOST_WAITING = 10_000  # records that are to be tried again; nothing new is begun then, or memory would not stay flat
_TIMEOUT = "Timeout"


class Spans(Protocol):
    """The supply: spans of any size, in order, and back again."""

    @property
    def left(self) -> int | None:
        """Records still to be handed out; None while nobody knows."""

    @property
    def slow(self) -> float:
        """Seconds that the last record had to be waited for, 0 if not: results come before the next is asked for."""

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records; None when all are handed out."""

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take spans back; the first of them comes out next."""

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Hear what became of a span that was handed out; `pending`: whether a record is to be tried again."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What a seat was given: a span to render, or, with a `verdict`, the one record whose failure is to be named."""

    seat: Seat
    span: Span
    verdict: Failure | None = None
    attempts: int = 1


class Pace:
    """Seconds an item, learned from outcomes; the last few spans count most."""

    def __init__(self, seconds: float | None = None) -> None:
        """`seconds`: what an item took last time; it counts as one span of a single item."""
        self._seconds, self._items = (0.0, 0.0) if seconds is None else (seconds, 1.0)

    def learn(self, outcome: Outcome) -> None:
        """Take one more outcome into account."""
        self._seconds = 0.8 * self._seconds + outcome.seconds
        self._items = 0.8 * self._items + outcome.size

    @property
    def known(self) -> bool:
        """Whether there was an outcome yet."""
        return self._items > 0

    @property
    def seconds(self) -> float:
        """Seconds an item; at least what reading a record costs."""
        return max(self._seconds / self._items, 1e-6)


class Throughput:
    """Items a second, over the last quarter of one or more; 0 at first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since, self._items = clock(), 0
        self.rate = 0.0

    def add(self, items: int) -> None:
        """Take so many more into account."""
        self._items += items
        elapsed = self._clock() - self._since
        if elapsed > _THROUGHPUT_SECONDS:
            self.rate = self._items / elapsed
            self._since, self._items = self._clock(), 0


class Surroundings(NamedTuple):
    """The machine's memory: the rule for how many seats there is `room`, the bytes `free` now, and who is told.

    `notice` takes the number of seats that there is room for from now on, and the bytes that are free.
    """

    room: Room
    free: Callable[[], int]
    notice: Callable[[int, int], None]


class Seating(NamedTuple):
    """When further seats are opened: where the person asked for so many, at once; else as measuring tells.

    `few`: there are so few items that nobody guesses. `seconds`: what an item took last time, None: nobody knows.
    """

    asked: bool = False
    few: bool = False
    seconds: float | None = None


class Dispatch:
    """One crew's part of the loop that renders: fill, wait, settle.

    `timeout` in seconds an item, None for none. `clock` is monotonic and the one the slots are written by. Spans are to
    take about `span_seconds`.
    """

    def __init__(
        self,
        crew: Crew,
        spans: Spans,
        timeout: float | None,
        errors: Errors = Errors(),  # noqa: B008  (frozen)
        surroundings: Surroundings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        seating: Seating = Seating(),  # noqa: B008  (frozen)
        span_seconds: float = SPAN_SECONDS,
    ) -> None:
        self._crew = crew
        self._span_seconds = span_seconds
        self._spans = spans
        self._seating = seating
        self._errors = errors
        self.attempts = Attempts(errors, clock)
        self._surroundings = surroundings
        self._clock, self._sleep = clock, sleep
        self._watchdog = Watchdog(crew, timeout, clock)
        self._pace = Pace(seating.seconds)
        self._throughput = Throughput(clock)
        self._seat_seconds = _SEAT_SECONDS
        self._window: dict[Future[Any], _Task] = {}
        self._load: Counter[int] = Counter()
        self._leaving: set[int] = set()
        self._sacrificed: set[int] = set()
        self._narrow = False
        self._losses: Counter[tuple[int, int]] = Counter()
        self._unexplained = 0  # deaths of workers with many items in work, that no item could be blamed for
        self._suspects: deque[list[Span]] = deque()
        self._orphaned: Counter[int] = Counter()
        self._stillborn = 0
        self._stopping = False
        self._source_error: Exception | None = None
        self._deadline = float("inf")
        self.died = self.renewed = 0
        """How many workers have died, not by our hand; how many were replaced because they had grown."""
        self.cut_off: list[int] = []
        """The records that were in work when a run that was stopped ran out of patience."""

    def stop(self, seconds: float = float("inf")) -> None:
        """Hand out nothing more; what is in work has so many seconds to end, from the first time that it is so told."""
        self._stopping = True
        if self._deadline == float("inf"):
            self._deadline = self._clock() + seconds

    def run(self) -> Iterator[tuple[Span, Outcome] | None]:
        """What became of each span, as `together` tells of several."""
        return together([self], self._sleep)

    @property
    def window(self) -> Collection[Future[Any]]:
        """What is in work."""
        return self._window

    def fill(self) -> bool:
        """Hand out what can be handed out; whether there is anything to wait for."""
        if not self._stopping:
            for span in self.attempts.due():
                self._spans.give_back([span])
        if not (self._spans.slow and any(future.done() for future in self._window)):
            self._fill()
        waits = (self.attempts.waiting or self._suspects) and not self._stopping
        return self._clock() <= self._deadline and bool(self._window or waits)

    def tell(self, answers: Iterable[tuple[Span, Outcome]]) -> Iterator[tuple[Span, Outcome]]:
        """The answers, of which the supply hears, too."""
        for span, outcome in answers:
            self._spans.completed(span, outcome, self.attempts.is_pending)
            yield span, outcome

    def end(self) -> Iterator[tuple[Span, Outcome]]:
        """What became of those that will not be tried again, now that all is over. Raises what the supply raised."""
        if self._window:
            notes = [seat.note() for seat in self._crew.seats]
            self.cut_off = sorted(note.seq for note in notes if note.seq is not None)
        yield from self.attempts.given_up()
        if self._source_error:
            raise self._source_error

    def look_up(self, seconds: float, *, idle: bool) -> None:
        """See after the workers, if it is time."""
        if idle or self._watchdog.is_due(seconds):
            self._look_after()

    # -- handing out

    def _fill(self) -> None:
        if self._stopping or self.attempts.waiting > _MOST_WAITING or self._first_result_is_due():
            return
        if self._suspects:
            self._try_suspects()
            return
        if self._crew.lane.span and not self._crew.seats and self._worth_a_seat():
            self._crew.open()  # the one that there is; it takes many spans at once
        if not self._fill_to(1):
            return
        while self._worth_a_seat():
            if not self._hand_out(self._crew.open()):
                return
        for depth in range(2, self._crew.lane.depth + 1):
            if not self._fill_to(depth):
                return

    def _try_suspects(self) -> None:
        """Hand out those that a worker may have died of, one group after the other and nothing beside it."""
        if self._window:
            return
        seat = self._crew.seats[0] if self._crew.seats else self._crew.open()
        for span in self._suspects.popleft():
            self._submit(_Task(seat, span), "render", span, 0.0)

    def _fill_to(self, depth: int) -> bool:
        """Give each seat so many spans; whether there may be more to hand out at once."""
        for seat in tuple(self._crew.seats):
            if self._load[seat.number] < depth and seat.number not in self._leaving and not self._hand_out(seat):
                return False
        return True

    def _first_result_is_due(self) -> bool:
        """Whether to wait: of an iterable nobody knows how long the next record takes, and the first result is near."""
        if self._pace.known or not self._window or self._spans.left is not None or self._crew.lane.span:
            return False
        return not all(self._is_long_at_it(seat.note()) for seat in self._crew.seats)

    def _hand_out(self, seat: Seat) -> bool:
        """Give the seat a span; whether there may be more to hand out at once."""
        try:
            span = self._spans.take(self._count())
        except Exception as error:  # noqa: BLE001  (the caller's iterable; raised once what is in work has ended)
            self._source_error = error
            return False
        if span is None:
            return False
        budget = 2 * self._aim() if self._pace.known else _FIRST_SECONDS
        try:
            self._submit(_Task(seat, span), "render", span, budget)
        except WorkerError:
            self._spans.give_back([span])
            if len(self._crew.seats) == 1:
                raise
            self._crew.do_without(seat)
            return True  # the next one may start, and if none does, that is raised: nothing else is there to wait for
        return not (self._spans.slow or self._first_result_is_due())

    def _submit(self, task: _Task, name: str, *arguments: Any) -> None:
        self._window[task.seat.submit(name, *arguments)] = task
        self._load[task.seat.number] += 1

    def _count(self) -> int:
        """How many records the next span should have: its share of the time, and towards the end of what is left."""
        if self._crew.lane.span:  # items that wait: how long one takes says nothing, but how many come to their end
            return max(self._crew.lane.span, min(int(self._throughput.rate * _SHARE_SECONDS), _MOST_SHARE))
        wanted = int(self._aim() / self._pace.seconds) if self._pace.known else _FIRST_COUNT
        left = self._spans.left
        if left is None and not self._pace.known:
            return 1
        if left is not None:
            shortest = max(_LEAST_SECONDS, len(self._crew.seats) * _LEAST_SHARE)
            least = int(shortest / self._pace.seconds) if self._pace.known else 1
            wanted = min(wanted, max(least, left // (2 * max(1, len(self._crew.seats)))))
        return min(max(1, wanted), _MOST_COUNT)

    def _aim(self) -> float:
        return span_aim(self._span_seconds, len(self._crew.seats))

    def _worth_a_seat(self) -> bool:
        """Whether another seat would save more time than it costs: work / n - work / (n + 1) against its opening."""
        seats, left = len(self._crew.seats), self._spans.left
        if not seats:
            return left != 0
        if self._crew.full or left == 0:
            return False
        if self._seating.asked and left is not None:
            return True
        if not self._pace.known:
            return not self._seating.few and all(self._is_long_at_it(seat.note()) for seat in self._crew.seats)
        return left is None or left * self._pace.seconds / (seats * (seats + 1)) > self._seat_seconds

    def _is_long_at_it(self, note: Note) -> bool:
        """Whether the seat has been at an item, and not at starting up, for longer than another seat costs."""
        return note.seq is not None and self._clock() - note.since > _SEAT_SECONDS

    # -- taking back

    def settle(self, future: Future[Any]) -> Iterator[tuple[Span, Outcome]]:
        """What became of the span whose future is done, and of all else that its worker had, if that has died."""
        task = self._window[future]
        try:
            answer = future.result()
        except BrokenExecutor:
            yield from self._bury(task.seat)
            return
        del self._window[future]
        self._load[task.seat.number] -= 1
        self._watchdog.has_answered(task.seat)
        self._stillborn = 0
        if task.verdict:
            self._let_go(task.seat)
            yield task.span, _condemned(task, *answer)
            return
        outcome: Outcome = answer
        if outcome.spent and task.seat in self._crew.seats and task.seat.number not in self._leaving:
            self.renewed += 1
            self._leaving.add(task.seat.number)
        self._let_go(task.seat)
        if not self._pace.known:  # the first items pay for compiling and warming up, as they would on any seat
            self._seat_seconds += outcome.seconds / max(1, outcome.size)
        self._pace.learn(outcome)
        self._throughput.add(outcome.size)
        if outcome.done < task.span.count:
            self._spans.give_back([task.span.after(outcome.done)])
        if not self._stopping:
            outcome = self.attempts.put_off_some(task.span, outcome)
        yield task.span, self.attempts.counted(task.span, outcome)

    def _let_go(self, seat: Seat) -> None:
        """Close a seat that is to leave, once it has nothing to do."""
        if seat.number in self._leaving and not self._load[seat.number]:
            self._leaving.discard(seat.number)
            del self._load[seat.number]
            self._crew.retire(seat)

    # -- deaths

    def _bury(self, seat: Seat) -> Iterator[tuple[Span, Outcome]]:
        """Deal with a dead worker: the record it was at, all else it was given, and a new seat in its place."""
        note, (overdue, getting_ready) = seat.note(), self._watchdog.forget(seat)
        sacrificed = seat.number in self._sacrificed
        going = sacrificed or seat.number in self._leaving
        self._sacrificed.discard(seat.number)
        self._leaving.discard(seat.number)
        ending = self._crew.drop(seat) if going else self._crew.replace(seat)
        mine = [future for future, task in self._window.items() if task.seat is seat]
        for future in mine:
            if future.exception() is None:  # done before the death, and only not looked at yet
                yield from self.settle(future)
        tasks = [self._window.pop(future) for future in mine if future in self._window]
        del self._load[seat.number]
        if getting_ready:
            seconds = self._watchdog.start_seconds()
            ending = ending._replace(words=f"did not get ready within {seconds:g} s and was killed")
        self.died += overdue is None and not sacrificed
        if sacrificed or (ending.orphaned and not self._is_suspect(tasks, note)):
            self._start_over(tasks)
        elif tasks:
            yield from self._apportion(tasks, note, overdue, ending.words)

    def _is_suspect(self, tasks: list[_Task], note: Note) -> bool:
        """Whether the fork server has ended so often while this worker was at one item that it is no accident."""
        if not tasks or note.seq is None or tasks[0].verdict:
            return False
        self._orphaned[note.seq] += 1
        return self._orphaned[note.seq] >= _MOST_ORPHANED

    def _start_over(self, tasks: list[_Task]) -> None:
        """Hand out again what a worker had that died by no fault of its own."""
        self._spans.give_back([task.span for task in tasks if not task.verdict])
        for task in tasks:
            if task.verdict:
                self._identify(task.span, task.verdict, task.attempts)

    def _apportion(
        self, tasks: list[_Task], note: Note, overdue: Note | None, ending: str
    ) -> Iterator[tuple[Span, Outcome]]:
        """Find out who is to blame for a death."""
        if self._crew.lane.span:
            self._apportion_many(tasks, note, overdue, ending)
            return
        oldest, *waiting = tasks  # the one that it was at; what waited behind is as it was
        self._start_over(waiting)
        if oldest.verdict:
            yield oldest.span, _condemned(oldest, "", "", None)
        elif note.seq is not None and oldest.span.seq == note.span:
            self._blame(oldest.span, note, overdue, ending)
        else:
            self._mourn(oldest.span, ending, rendered=note.span == oldest.span.seq)

    def _apportion_many(self, tasks: list[_Task], note: Note, overdue: Note | None, ending: str) -> None:
        """The same of a worker that had many items in work; where its slot cannot tell, all of them are suspects."""
        known = note.seq is not None and (self._crew.lane.exact or overdue is not None)
        guilty = next((task for task in tasks if known and task.span.seq == note.span and not task.verdict), None)
        self._start_over([task for task in tasks if task is not guilty and (guilty or task.verdict)])
        if guilty:
            self._blame(guilty.span, note, overdue, ending)
            return
        self._suspect([task.span for task in tasks if not task.verdict], ending)

    def _suspect(self, spans: list[Span], ending: str) -> None:
        """Look for the one that is to blame: after a second death half of them are tried again, then the others."""
        self._unexplained += 1
        if self._unexplained < _MOST_DEATHS:
            self._spans.give_back(spans)
        elif len(spans) > 1:
            half = len(spans) // 2
            self._suspects.extendleft([spans[half:], spans[:half]])
        elif spans and spans[0].size > 1:
            middle = spans[0].places()[spans[0].size // 2]
            self._suspects.extendleft([[spans[0].after(middle)], [spans[0].first(middle)]])
        elif spans:
            verdict = Failure("WorkerDied", f"the worker {ending} while it rendered the item")
            culprit = spans[0].after(spans[0].places()[0])
            self._identify(culprit, verdict, self.attempts.give_up(culprit.seq) + _MOST_DEATHS)
            self._unexplained = 0

    def _mourn(self, span: Span, ending: str, *, rendered: bool) -> None:
        """A death between records: nobody to blame by the slot, so a span that it happens to twice is halved."""
        self._stillborn = 0 if rendered else self._stillborn + 1
        if self._stillborn >= _MOST_STILLBORN:
            raise WorkerError(f"a worker {ending} before it reached a record, {self._stillborn} times in a row")
        self._losses[span.seq, span.count] += 1
        if self._losses[span.seq, span.count] < _MOST_DEATHS:
            self._spans.give_back([span])
        elif span.size > 1:
            half = span.places()[span.size // 2]
            self._spans.give_back([span.first(half), span.after(half)])
        else:
            verdict = Failure("WorkerDied", f"the worker {ending} after it rendered the item")
            culprit = span.after(span.places()[0])
            self._identify(culprit, verdict, self.attempts.give_up(culprit.seq) + _MOST_DEATHS)

    def _blame(self, span: Span, note: Note, overdue: Note | None, ending: str) -> None:
        """Part the span at the record that the worker was at: it alone may be guilty."""
        assert note.seq is not None  # noqa: S101
        before = note.seq - span.seq
        culprit, rest = span.after(before).first(1), span.after(before + 1)
        verdict, late = None, overdue == note
        if late and self._may_time_out_again(note.seq):
            self.attempts.put_off(culprit)
        elif late:
            words = f"the item took longer than {self._watchdog.timeout:g} s; its worker was killed"
            verdict = Failure(_TIMEOUT, words)
        elif overdue is None and self.attempts.note_death(note.seq) >= _MOST_DEATHS:
            verdict = Failure("WorkerDied", f"the worker {ending} while it rendered the item")
        parts = [span.first(before), *([] if verdict or late else [culprit]), rest]
        self._spans.give_back([part for part in parts if part.count])
        if verdict:
            self._identify(culprit, verdict, self.attempts.give_up(note.seq) + late)

    def _may_time_out_again(self, seq: int) -> bool:
        return _TIMEOUT in self._errors.retry_on and not self._stopping and self.attempts.may_repeat(seq)

    def _identify(self, culprit: Span, verdict: Failure, attempts: int) -> None:
        """Give up on a record; a worker that has done no wrong is asked for its name."""
        while True:
            seat = self._crew.seats[-1] if self._crew.seats else self._crew.open()
            try:
                return self._submit(_Task(seat, culprit, verdict, attempts), "identify", culprit)
            except WorkerError:
                self._crew.do_without(seat)
                if not self._crew.seats:
                    raise

    # -- looking after

    def tick(self) -> float:
        """How long to wait for an outcome before looking up."""
        tick = self._quiet_tick()
        if self._narrow:
            tick = min(tick, _NARROW_TICK)
        due = None if self._stopping else self.attempts.seconds()
        return tick if due is None else min(tick, max(_SLOW_TICK, due))

    def _quiet_tick(self) -> float:
        if self._spans.slow and not self._stopping:
            return max(_SLOW_TICK, min(_MOST_SLOW_TICK, self._spans.slow / 2))
        if not self._pace.known and not self._crew.full:
            return _SEAT_SECONDS
        timeout = self._watchdog.timeout
        return max(_SLOW_TICK, min(_IDLE_TICK, timeout / 4)) if timeout else _IDLE_TICK

    def _look_after(self) -> None:
        """See after workers that are late, that have left, and that there is no room for."""
        self._watchdog.look(self._load)
        self._crew.tidy()
        if self._surroundings:
            self._make_room(*self._surroundings)

    def _make_room(self, room: Room, measure: Callable[[], int], notice: Callable[[int, int], None]) -> None:
        """Close seats while memory is short: when they have done what they have, or at once where that is too late."""
        free, before = measure(), room.allowed
        allowed = room.allow(free, len(self._crew.seats), self._clock())
        self._crew.allowed = allowed
        self._narrow = room.is_narrow(free)
        if allowed != before:
            notice(allowed, free)
        staying = [seat for seat in self._crew.seats if seat.number not in self._leaving]
        for seat in staying[allowed:]:
            self._leaving.add(seat.number)
            self._let_go(seat)
        if allowed == 1 and room.is_critical(free):
            for seat in self._crew.seats[1:]:
                self._sacrificed.add(seat.number)
                seat.kill()


def span_aim(seconds: float, seats: int) -> float:
    """Seconds of work that a span should have: so many, or with many seats more, for the coordinator's sake."""
    return max(seconds, seats / _MOST_ANSWERS)


def together(
    dispatches: Sequence[Dispatch], sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[Span, Outcome] | None]:
    """What became of each span of all crews, as completed; an outcome speaks of the span's first `done` records.

    None where nothing was completed for a while, so that the caller may look up.

    Raises `WorkerError` where workers keep dying before they reach an item, and what workers and the caller's
    iterable raise, the latter after the outcomes of the records before.
    """
    while True:
        busy = [dispatch.fill() for dispatch in dispatches]
        if not any(busy):
            break
        window = [future for dispatch in dispatches for future in dispatch.window]
        tick = min(dispatch.tick() for dispatch, is_busy in zip(dispatches, busy, strict=True) if is_busy)
        if not window:
            sleep(tick)
            yield None
            continue
        completed = _completed(window, tick)
        if not completed:
            for dispatch in dispatches:
                dispatch.look_up(tick, idle=True)
            yield None
            continue
        for future in completed:
            for dispatch in dispatches:
                dispatch.look_up(tick, idle=False)  # each time: a slow consumer may hold every answer for a while
                if future in dispatch.window:
                    yield from dispatch.tell(dispatch.settle(future))
    for dispatch in dispatches:
        yield from dispatch.end()


def _completed(window: Sequence[Future[Any]], seconds: float) -> list[Future[Any]]:
    """The first future that is completed within so many seconds, and all others that are by then.

    With many seats they come faster than one by one: to wait for the next of 512 costs 2 ms, to look at them 0.1 ms.
    """
    try:
        first = next(as_completed(window, seconds))
    except TimeoutError:
        return []
    return [first, *(future for future in window if future is not first and future.done())]


def _condemned(task: _Task, key: str, path: str, line: int | None) -> Outcome:
    """The outcome of a record that killed its worker or had it killed."""
    name, seq = task.span.input.name, task.span.seq
    item = ItemResult(
        key or f"{name}:{line or seq + 1}",
        path,
        seq,
        "failed",
        attempts=task.attempts,
        error=task.verdict,
        source=Place(name, line),
    )
    return Outcome(1, 0, 0, 0, 0.0, (item,))
