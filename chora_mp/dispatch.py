"""Dispatch: hand spans to seats, take outcomes back. Holds spans and never a record; a few spans a seat, no more."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from chora_mp.errors import WorkerError
from chora_mp.records import Failure, ItemResult, Outcome, Place, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.crew import Crew
    from chora_mp.lanes import Seat
    from chora_mp.slots import Note

SPAN_SECONDS = 0.075
"""Work in a span: long beside what handing it over costs (0.3 ms), short beside what anybody waits for."""

_FIRST_SECONDS = 0.01  # as little as it takes to learn how long items are
_FIRST_COUNT = 64
_MOST_COUNT = 20_000
_SEAT_SECONDS = 0.05  # what a further seat costs: 10 ms to open, the rest to load the bundle and warm up
_MOST_DEATHS = 2
_MOST_STILLBORN = 3
_IDLE_TICK = 0.5  # seconds between looks at the slots
_START_SECONDS = 60.0
_SLOW_TICK, _MOST_SLOW_TICK = 0.02, 1.0  # what a slow source's next record waits for the last one's result
_LEAST_SECONDS = 0.002  # no span shorter than this at the end, or handing over costs more than it levels


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


@dataclass(frozen=True, slots=True)
class _Task:
    """What a seat was given: a span to render, or, with a `verdict`, the one record whose failure is to be named."""

    seat: Seat
    span: Span
    verdict: Failure | None = None
    attempts: int = 1


class Pace:
    """Seconds an item, learned from outcomes; the last few spans count most."""

    def __init__(self) -> None:
        self._seconds = self._items = 0.0

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


class Dispatch:
    """The one loop that renders: fill, wait, settle.

    `timeout` in seconds an item, None for none. `clock` is monotonic and the one the slots are written by.
    """

    def __init__(
        self, crew: Crew, spans: Spans, timeout: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._crew = crew
        self._spans = spans
        self._timeout = timeout
        self._clock = clock
        self._pace = Pace()
        self._seat_seconds = _SEAT_SECONDS
        self._window: dict[Future[Any], _Task] = {}
        self._load: Counter[int] = Counter()
        self._overdue: dict[int, Note] = {}
        self._quiet: dict[int, float] = {}
        self._deaths: Counter[int] = Counter()
        self._losses: Counter[tuple[int, int]] = Counter()
        self._stillborn = 0
        self._stopping = False
        self._source_error: Exception | None = None
        self._deadline = float("inf")
        self._looked = clock()

    def stop(self, seconds: float = float("inf")) -> None:
        """Hand out nothing more; what is in work has so many seconds to end."""
        if not self._stopping:
            self._stopping = True
            self._deadline = self._clock() + seconds

    def run(self) -> Iterator[tuple[Span, Outcome] | None]:
        """What became of each span, as completed; an outcome speaks of the span's first `done` records.

        None where nothing was completed for a while, so that the caller may look up.

        Raises `WorkerError` where workers keep dying before they reach an item, and what workers and the caller's
        iterable raise, the latter after the outcomes of the records before.
        """
        while True:
            if not (self._spans.slow and any(future.done() for future in self._window)):
                self._fill()
            if not self._window or self._clock() > self._deadline:
                break
            tick = self._tick()
            future = next(_completed(self._window, tick), None)
            if future is None or self._clock() - self._looked > tick:
                self._look()
            if future is None:
                yield None
            else:
                yield from self._settle(future)
        if self._source_error:
            raise self._source_error

    # -- handing out

    def _fill(self) -> None:
        if self._stopping or self._first_result_is_due():
            return
        for depth in range(1, self._crew.lane.depth + 1):
            for seat in self._crew.seats:
                if self._load[seat.number] < depth and not self._hand_out(seat):
                    return
        while self._worth_a_seat():
            if not self._hand_out(self._crew.open()):
                return

    def _first_result_is_due(self) -> bool:
        """Whether to wait: of an iterable nobody knows how long the next record takes, and the first result is near."""
        if self._pace.known or not self._window or self._spans.left is not None:
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
        budget = 2 * SPAN_SECONDS if self._pace.known else _FIRST_SECONDS
        try:
            self._submit(_Task(seat, span), "render", span, budget)
        except WorkerError:
            self._spans.give_back([span])
            if len(self._crew.seats) == 1:
                raise
            self._crew.do_without(seat)
            return False
        return not (self._spans.slow or self._first_result_is_due())

    def _submit(self, task: _Task, name: str, *arguments: Any) -> None:
        self._window[task.seat.submit(name, *arguments)] = task
        self._load[task.seat.number] += 1

    def _count(self) -> int:
        """How many records the next span should have: its share of the time, and towards the end of what is left."""
        wanted = int(SPAN_SECONDS / self._pace.seconds) if self._pace.known else _FIRST_COUNT
        left = self._spans.left
        if left is None and not self._pace.known:
            return 1
        if left is not None:
            least = int(_LEAST_SECONDS / self._pace.seconds) if self._pace.known else 1
            wanted = min(wanted, max(least, left // (2 * max(1, len(self._crew.seats)))))
        return min(max(1, wanted), _MOST_COUNT)

    def _worth_a_seat(self) -> bool:
        """Whether another seat would save more time than it costs: work / n - work / (n + 1) against its opening."""
        seats, left = len(self._crew.seats), self._spans.left
        if not seats:
            return left != 0
        if self._crew.full or left == 0:
            return False
        if not self._pace.known:
            return all(self._is_long_at_it(seat.note()) for seat in self._crew.seats)
        return left is None or left * self._pace.seconds / (seats * (seats + 1)) > self._seat_seconds

    def _is_long_at_it(self, note: Note) -> bool:
        """Whether the seat has been at an item, and not at starting up, for longer than another seat costs."""
        return note.seq is not None and self._clock() - note.since > _SEAT_SECONDS

    # -- taking back

    def _settle(self, future: Future[Any]) -> Iterator[tuple[Span, Outcome]]:
        task = self._window[future]
        try:
            answer = future.result()
        except BrokenExecutor:
            yield from self._bury(task.seat)
            return
        del self._window[future]
        self._load[task.seat.number] -= 1
        self._quiet.pop(task.seat.number, None)
        self._stillborn = 0
        if task.verdict:
            yield task.span, _condemned(task, *answer)
            return
        outcome: Outcome = answer
        if not self._pace.known:  # the first items pay for compiling and warming up, as they would on any seat
            self._seat_seconds += outcome.seconds / max(1, outcome.size)
        self._pace.learn(outcome)
        if outcome.done < task.span.count:
            self._spans.give_back([task.span.after(outcome.done)])
        yield task.span, self._with_attempts(outcome)

    def _with_attempts(self, outcome: Outcome) -> Outcome:
        """The outcome, with the deaths that its items have caused before counted in."""
        if not self._deaths:
            return outcome
        items = tuple(replace(item, attempts=1 + self._deaths[item.seq]) for item in outcome.items)
        return replace(outcome, items=items)

    def _bury(self, seat: Seat) -> Iterator[tuple[Span, Outcome]]:
        """Deal with a dead worker: the record it was at, all else it was given, and a new seat in its place."""
        note, overdue = seat.note(), self._overdue.pop(seat.number, None)
        ending = self._crew.replace(seat)
        mine = [future for future, task in self._window.items() if task.seat is seat]
        for future in mine:
            if future.exception() is None:  # done before the death, and only not looked at yet
                yield from self._settle(future)
        tasks = [self._window.pop(future) for future in mine if future in self._window]
        del self._load[seat.number]
        if self._quiet.pop(seat.number, None) is not None and overdue:
            ending = f"did not get ready within {self._start_seconds():g} s and was killed"
        if not tasks:
            return
        oldest, *waiting = tasks  # the one that it was at; what waited behind is as it was
        for task in tasks:
            if task.verdict:
                yield task.span, _condemned(task, "", "", None)
        self._spans.give_back([task.span for task in waiting if not task.verdict])
        if oldest.verdict:
            return
        if note.seq is not None and oldest.span.seq == note.span:
            self._blame(oldest.span, note, overdue, ending)
        else:
            self._mourn(oldest.span, ending)

    def _mourn(self, span: Span, ending: str) -> None:
        """A death between records: nobody to blame by the slot, so a span that it happens to twice is halved."""
        self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN:
            raise WorkerError(f"a worker {ending} before it reached a record, {self._stillborn} times in a row")
        self._losses[span.seq, span.count] += 1
        if self._losses[span.seq, span.count] < _MOST_DEATHS:
            self._spans.give_back([span])
        elif span.size > 1:
            half = span.places()[span.size // 2]
            self._spans.give_back([span.first(half), span.after(half)])
        else:
            self._condemn(
                span.after(span.places()[0]), Failure("WorkerDied", f"the worker {ending} after it rendered the item")
            )

    def _blame(self, span: Span, note: Note, overdue: Note | None, ending: str) -> None:
        """Part the span at the record that the worker was at: it alone may be guilty."""
        assert note.seq is not None  # noqa: S101
        before = note.seq - span.seq
        culprit, rest = span.after(before).first(1), span.after(before + 1)
        verdict = None
        if overdue == note:
            verdict = Failure("Timeout", f"the item took longer than {self._timeout:g} s; its worker was killed")
        elif overdue is None:
            self._deaths[note.seq] += 1
            if self._deaths[note.seq] >= _MOST_DEATHS:
                verdict = Failure("WorkerDied", f"the worker {ending} while it rendered the item")
        parts = [span.first(before), *([] if verdict else [culprit]), rest]
        self._spans.give_back([part for part in parts if part.count])
        if verdict:
            self._condemn(culprit, verdict)

    def _condemn(self, culprit: Span, verdict: Failure) -> None:
        """Give up on a record; a worker that has done no wrong is asked for its name."""
        attempts = max(1, self._deaths[culprit.seq])
        self._submit(_Task(self._crew.seats[-1], culprit, verdict, attempts), "identify", culprit)

    # -- looking after

    def _tick(self) -> float:
        """How long to wait for an outcome before looking up."""
        if self._spans.slow and not self._stopping:
            return max(_SLOW_TICK, min(_MOST_SLOW_TICK, self._spans.slow / 2))
        if not self._pace.known and not self._crew.full:
            return _SEAT_SECONDS
        return max(_SLOW_TICK, min(_IDLE_TICK, self._timeout / 4)) if self._timeout else _IDLE_TICK

    def _look(self) -> None:
        """Kill the seats that have been at one item for too long."""
        self._looked = now = self._clock()
        if self._timeout is None:
            return
        for seat in self._crew.seats:
            note = seat.note()
            if note.seq is not None:
                self._quiet.pop(seat.number, None)
                late = now - note.since > self._timeout
            else:
                since = self._quiet.setdefault(seat.number, now) if self._load[seat.number] else now
                late = now - since > self._start_seconds()
            if late:
                # Which item it was is read again after the death: it may just have ended, and then nobody is guilty.
                self._overdue[seat.number] = note
                seat.kill()

    def _start_seconds(self) -> float:
        """What a worker may take between records, for its plug-ins above all: an item's time, but at least a minute."""
        return max(_START_SECONDS, self._timeout or 0)


def _completed(window: Iterable[Future[Any]], seconds: float) -> Iterator[Future[Any]]:
    """The futures as completed; the end after so many seconds."""
    try:
        yield from as_completed(window, seconds)
    except TimeoutError:
        return


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
