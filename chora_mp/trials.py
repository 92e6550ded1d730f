"""Trials: a sample of the records, rendered again and again by so many workers, to see how many items a second come.

Trials go the way of a real run, through `dispatch`, seats and worker, with files written and rows taken down, but into
folders of the run's own. What a trial tells is not the end of its last item but how much work was done in a stretch of
time: each span's part in it counts, by what the span takes alone. So it matters neither which items of unlike cost the
stretch happens to meet, nor where it ends.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from chora_mp.bundle import shown
from chora_mp.crew import Crew
from chora_mp.dispatch import SPAN_SECONDS, Dispatch, span_aim
from chora_mp.errors import Interrupted, OutputError, WorkerError
from chora_mp.findings import load_rows
from chora_mp.lanes import ConcurrentLane, ProcessLane, ProcessSeat
from chora_mp.machine import busy_seconds, cpu_seconds
from chora_mp.policy import DEADLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from chora_mp import seats
    from chora_mp.dispatch import Spans
    from chora_mp.lanes import Workshop
    from chora_mp.ledger import Ledger
    from chora_mp.records import Gauge, ItemResult, Orders, Outcome, Span

    Interruption = Callable[[], bool]

_REGIONS = 16  # places of the source that records are taken from
_PIECES, _PIECE_SECONDS = 8, 0.02  # of each: spans are put together from these
_ITEMS = 64  # of each, on lanes that have many items in work
_ENDLESS = 1 << 40
_UNFIT = "nothing can be measured like this, mend that first"
_NAMES = "'chora-mp render' names it"
_WARM_UP_SECONDS = 60.0  # besides what an item may take
_BESIDES = 5.0  # seconds that a few items may take besides what the last of them may
_LONG = 3  # so many of the longest spans make a stretch long enough
_MOST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A few records in a row, so many of them to be rendered, `items`, and the `seconds` that they take alone."""

    span: Span
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Region:
    """A run of records somewhere in the source, and the pieces that it begins with."""

    span: Span
    pieces: tuple[Piece, ...]

    def spans(self, seconds: float) -> Iterator[Span]:
        """The pieces, put together to spans of about so many seconds."""
        start = end = self.span.seq
        held = 0.0
        for piece in self.pieces:
            if end > start and held + piece.seconds / 2 > seconds:
                yield self._cut(start, end)
                start, held = end, 0.0
            end, held = piece.span.seq + piece.span.count, held + piece.seconds
        if end > start:
            yield self._cut(start, end)

    def _cut(self, start: int, end: int) -> Span:
        return self.span.after(start - self.span.seq).first(end - start)


class Sample:
    """Records from all over the source, and what they take on one worker with nobody beside it.

    `cpu` and `wait` are seconds an item, `growth` the bytes that each leaves behind, `memory` those that the worker had
    at most (0: nobody can tell). `failed` of the `items` failed, the first of them was `failure`. `usage`: what
    services have counted.
    """

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.failed = self.memory = self.items = 0
        self.failure: ItemResult | None = None
        self.usage: Counter[str] = Counter()
        self.cpu = self.wait = self.growth = 0.0
        self._firsts: list[int] = []
        self._pieces: list[Piece] = []

    def hold(self, regions: Iterable[Region]) -> None:
        """Take what was found of all regions."""
        self.regions = [region for region in regions if region.pieces]
        self._pieces = sorted((piece for one in self.regions for piece in one.pieces), key=lambda one: one.span.seq)
        self._firsts = [piece.span.seq for piece in self._pieces]
        self.items = sum(piece.items for piece in self._pieces)

    def gauged(self, gauges: Sequence[Gauge]) -> None:
        """Work out what an item takes, from pieces that were all rendered before."""
        self.cpu = sum(gauge.cpu for gauge in gauges) / self.items
        self.wait = sum(gauge.wait for gauge in gauges) / self.items
        self.growth = max(0, gauges[-1].own - gauges[0].own) / self.items
        self.memory = max(gauge.peak for gauge in gauges)
        self.failed = sum(gauge.outcome.failed for gauge in gauges)
        self.failure = next((item for gauge in gauges for item in gauge.outcome.items if item.error), None)

    @property
    def seconds(self) -> float:
        """What all of its items take alone."""
        return sum(piece.seconds for piece in self._pieces)

    @property
    def longest(self) -> float:
        """What the longest piece takes alone."""
        return max(piece.seconds for piece in self._pieces)

    def work(self, span: Span, done: int) -> float:
        """The seconds that the first `done` records of a span take alone."""
        seq, end, seconds = span.seq, span.seq + done, 0.0
        for piece in self._pieces[max(0, bisect_right(self._firsts, seq) - 1) :]:
            first, count = piece.span.seq, piece.span.count
            if first >= end:
                break
            seconds += piece.seconds * max(0, min(end, first + count) - max(seq, first)) / count
        return seconds


class Sampler:
    """Takes a sample, in about so many `seconds`, with the help of one worker of a crew that has not rendered yet."""

    def __init__(self, crew: Crew, folder: str, seconds: float, timeout: float | None) -> None:
        """`timeout`: seconds that an item may take; beyond that, and some more, nothing is waited for."""
        self._crew = crew
        self._folder = folder
        self._seconds = seconds
        self._timeout = timeout
        self._number = 0

    def take(self, records: Records, *, careful: bool) -> Sample:
        """The sample; if `careful`, one item alone where a service counts it."""
        sample = Sample()
        spans = records.spread(_REGIONS)
        first = self._gauge(spans[0].first(spans[0].places()[0] + 1))
        sample.usage.update(dict(first.outcome.usage))
        if careful and sample.usage:
            return sample
        spans = records.spread(self._regions(spans))
        until = time.monotonic() + self._seconds
        # Every other one first, and so on: who runs out of time has been everywhere all the same.
        order = sorted(range(len(spans)), key=lambda number: f"{number:04b}"[::-1])
        sample.hold([self._region(spans[number], until if at else math.inf) for at, number in enumerate(order)])
        self._look_again(sample)
        return sample

    def _gauge(self, span: Span, budget: float = math.inf) -> Gauge:
        self._number += 1
        folder = os.path.join(self._folder, f"sample-{self._number}")
        try:
            seconds = math.inf if self._timeout is None else self._timeout + _BESIDES
            gauge: Gauge = self._crew.ask("gauge", folder, span, budget, seconds=seconds)
        except TimeoutError:
            raise WorkerError(f"an item takes longer than {self._timeout:g} s, {_NAMES}; {_UNFIT}") from None
        except WorkerError:
            raise WorkerError(f"an item ends its worker, {_NAMES}; {_UNFIT}") from None
        if gauge.outcome.spent:
            self._crew.renew()
        return gauge

    def _regions(self, spans: Sequence[Span]) -> int:
        """How many regions to take: fewer where the source is small, so that spans can be as long as they will be."""
        looks, until = [], time.monotonic() + self._seconds / 2
        for span in spans:
            looks.append(self._gauge(span, _PIECE_SECONDS))
            if time.monotonic() > until:
                break
        pace = sum(look.wall for look in looks) / max(1, sum(look.outcome.size for look in looks))
        whole = pace * sum(span.size for span in spans)
        return min(_REGIONS, max(1, int(whole / (_PIECES * _PIECE_SECONDS))))

    def _region(self, span: Span, until: float) -> Region:
        """What a region begins with, in pieces; none once time is up."""
        pieces: list[Piece] = []
        rest = span
        while rest.size and len(pieces) < _PIECES and time.monotonic() < until:
            gauge = self._gauge(rest, _PIECE_SECONDS)
            done, size = gauge.outcome.done, gauge.outcome.size
            if not done:
                break
            pieces.append(Piece(rest.first(done), size, gauge.wall))
            rest = rest.after(done)
        return Region(span, tuple(pieces))

    def _look_again(self, sample: Sample) -> None:
        """Gauge all pieces once more: the first time, templates were compiled and files read from the disk."""
        gauges: list[Gauge] = []
        regions = []
        for region in sample.regions:
            pieces = []
            for piece in region.pieces:
                gauges.append(self._gauge(piece.span))
                pieces.append(replace(piece, seconds=max(1e-6, min(piece.seconds, gauges[-1].wall))))
            regions.append(replace(region, pieces=tuple(pieces)))
        sample.hold(regions)
        sample.gauged(gauges)


class Records:
    """The records that a sample is taken from: `ranges` of numbers, first and the one after the last.

    `cut` makes spans of all that there is between two numbers.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], cut: Callable[[int, int], Spans]) -> None:
        self._ranges = ranges
        self._cut = cut

    def spread(self, count: int) -> list[Span]:
        """About so many spans, or as many as there are records, that share all of them out evenly."""
        each = -(-sum(end - start for start, end in self._ranges) // count)
        borders = ((at, min(end, at + each)) for start, end in self._ranges for at in range(start, end, each))
        return [span for one in borders if (span := self._cut(*one).take(each)) is not None]


def refuse_deaths(outcome: Outcome) -> None:
    """Raise `WorkerError` for an item that ended its worker or took too long: each time would cost as much again."""
    for item in outcome.items:
        if item.error is not None and item.error.type in DEADLY:
            raise WorkerError(f"{complaint(item)}; {_UNFIT}")


def complaint(item: ItemResult) -> str:
    """What is wrong with an item: `key (file:line): Type: message`."""
    where = f" ({item.source.file}:{item.source.line})" if item.source and item.source.line else ""
    return f"{item.key}{where}: {item.error.type}: {item.error.message}" if item.error else f"{item.key}{where}"


class Rotation:
    """A supply that hands out the same spans for ever, each time round in another order.

    `whole`: as they are; else cut to what is asked for. `times`: how often a span was handed out, by its first record.
    """

    slow = 0.0
    left = _ENDLESS  # that nobody knows would be taken for a source that may be slow

    def __init__(self, spans: Sequence[Span], *, whole: bool) -> None:
        self._spans = list(spans)
        self._whole = whole
        self._draw = random.Random(len(spans))  # noqa: S311  (nobody is to be kept from guessing)
        self._coming: deque[Span] = deque()
        self.times: Counter[int] = Counter()

    def take(self, count: int) -> Span:
        """The next span."""
        if not self._coming:
            self._coming.extend(self._draw.sample(self._spans, len(self._spans)))
        span = self._coming.popleft()
        if not self._whole and span.size > count:
            cut = span.places()[count]
            self._coming.appendleft(span.after(cut))
            span = span.first(cut)
        self.times[span.seq] += 1
        return span

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take spans back; the first of them comes out next."""
        self._coming.extendleft(reversed([span for span in spans if span.size]))

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Nothing: it goes on for ever."""


class TrialSeat(ProcessSeat):
    """A worker process that renders each span into the folder that is named for it at that moment."""

    def __init__(self, place: Callable[[Span], str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._place = place

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Have the worker's method called; spans are rendered whole."""
        if name == "render":
            return super().submit("render_into", self._place(arguments[0]), arguments[0])
        return super().submit(name, *arguments)


class TrialLane(ProcessLane):
    """Worker processes for trials; `place` names the folder that a span is rendered into."""

    def __init__(self, orders: Orders, most: int, workshop: Workshop, place: Callable[[Span], str]) -> None:
        super().__init__(orders, most, workshop)
        self._place = place

    def _seat(self, number: int, server: seats.Server) -> ProcessSeat:
        return TrialSeat(self._place, number, self._orders, self._slots, server)


class Field(NamedTuple):
    """What all trials have in common.

    `folder`: where documents go; `ledger`: one that forgets, for the rows; `timeout`: seconds that an item may take.
    """

    orders: Orders
    workshop: Workshop
    folder: str
    ledger: Ledger
    timeout: float | None
    interrupted: Interruption


class Trial(NamedTuple):
    """Items per second, how many CPUs others have kept busy meanwhile, and the seconds that it took in all.

    `memory`: the most bytes that a worker has had to itself by then; 0: nobody can tell.
    """

    throughput: float
    others: float
    seconds: float
    memory: int = 0


class _Load:
    """How many CPUs others keep busy from now on, beside this process and the workers of a crew."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._began = time.monotonic()
        self._busy, self._own = busy_seconds(), self._taken()

    def others(self) -> float:
        """So many, on average; 0 where nobody can tell."""
        busy, own = busy_seconds(), self._taken()
        if busy is None or self._busy is None:
            return 0.0
        return max(0.0, busy - self._busy - (own - self._own)) / max(1e-9, time.monotonic() - self._began)

    def _taken(self) -> float:
        pids = [note.pid for seat in self._crew.seats if (note := seat.note()).pid]
        return time.process_time() + sum(map(cpu_seconds, pids))


class _Trials:
    """What trials of all lanes do alike."""

    def __init__(self, field: Field, sample: Sample) -> None:
        self._field = field
        self._sample = sample
        self._number = 0

    def _fresh_folder(self) -> str:
        self._number += 1
        return os.path.join(self._field.folder, f"trial-{self._number}")

    def _watched(
        self, crew: Crew, supply: Rotation, warm: float, seconds: float, work: Callable[[Span, Outcome], float]
    ) -> Trial:
        """Work a second, in a stretch of about so many seconds that begins when `warm` work is done."""
        dispatch = Dispatch(crew, supply, self._field.timeout)
        seconds = max(seconds, min(_MOST_SECONDS, _LONG * self._sample.longest))
        began, since, until = time.monotonic(), math.inf, math.inf
        load: _Load | None = None
        total = others = 0.0
        answers: list[tuple[float, float, float]] = []
        for answer in dispatch.run():
            now = time.monotonic()
            self._look(dispatch, now - began if since == math.inf else 0.0)
            if answer is not None:
                self._take_down(answer[1])
                answers.append((now, answer[1].seconds, work(*answer)))
                total += answers[-1][2]
            if load is None and total >= warm:
                since, load = now, _Load(crew)
            if load is not None and until == math.inf and now - since >= seconds:
                until, others = now, load.others()
                dispatch.stop()
        done = sum(share * _overlap(end - took, end, since, until) for end, took, share in answers)
        return Trial(done / (until - since), others, time.monotonic() - began)

    def _look(self, dispatch: Dispatch, waited: float) -> None:
        """See that all is well. Raises `Interrupted`, `WorkerError`."""
        if self._field.interrupted():
            raise Interrupted("interrupted")
        if dispatch.died:
            raise WorkerError(f"a worker died, 'chora-mp render' tells of what; {_UNFIT}")
        if waited > _WARM_UP_SECONDS + (self._field.timeout or math.inf):
            raise WorkerError(f"no item comes to its end; {_UNFIT}")

    def _take_down(self, outcome: Outcome) -> None:
        """What the coordinator of a run does with an outcome."""
        refuse_deaths(outcome)
        rows = load_rows(outcome.rows) if outcome.rows else []
        self._field.ledger.record(rows, [])

    def _clear(self, folder: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._field.ledger.told():
            self._field.ledger.db.execute("DELETE FROM outputs")


class ProcessTrials(_Trials):
    """Trials of worker processes, which stay open from one to the next."""

    def __init__(self, field: Field, sample: Sample, most: int) -> None:
        """At most `most` workers."""
        super().__init__(field, sample)
        self._place: Callable[[Span], str] = str
        lane = TrialLane(field.orders, most, field.workshop, self._folder_of)
        self._crew = Crew(lane, field.interrupted)
        self.most = lane.most

    def measure(self, workers: int, seconds: float, span_seconds: float = SPAN_SECONDS) -> Trial:
        """What so many workers do, measured for about so many seconds. Raises as `Dispatch`."""
        sample, folder = self._sample, self._fresh_folder()
        span_seconds = span_aim(span_seconds, workers)
        spans = [span for region in sample.regions for span in region.spans(span_seconds)]
        supply = Rotation(spans, whole=True)
        self._place = lambda span: os.path.join(folder, str(supply.times[span.seq]))
        self._open(workers, spans[0])
        spare = self._crew.seats[workers:]
        del self._crew.seats[workers:]
        self._crew.allowed = workers
        try:
            warm = workers * span_seconds
            found = self._watched(self._crew, supply, warm, seconds, lambda span, out: sample.work(span, out.done))
        finally:
            self._crew.seats += spare
            self._clear(folder)
        return found._replace(throughput=found.throughput * sample.items / sample.seconds)

    def _folder_of(self, span: Span) -> str:
        """Where a span goes: each time somewhere else, for a file that is there already is another matter."""
        return self._place(span)

    def _open(self, workers: int, span: Span) -> None:
        """Have so many workers, all of them warm."""
        missing = workers - len(self._crew.seats)
        if missing <= 0:
            return
        while len(self._crew.seats) < workers:
            self._crew.open()
        one, folder = span.first(span.places()[0] + 1), self._fresh_folder()
        for _ in self._crew.ask_all([("render_into", f"{folder}-{number}", one) for number in range(workers)]):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._crew.__exit__(kind, *rest)


class WaitingTrials(_Trials):
    """Trials of one worker that has so many items in work at a time, in `threads` or as coroutines."""

    def __init__(self, field: Field, sample: Sample, *, threads: bool, exact: bool) -> None:
        super().__init__(field, sample)
        self._threads = threads
        self._exact = exact
        self.most = _ENDLESS

    def measure(self, workers: int, seconds: float, span_seconds: float = SPAN_SECONDS) -> Trial:
        """What comes of so many at a time, measured for about so many seconds. Raises as `Dispatch`."""
        del span_seconds  # spans are a share of what is in work, whatever they take
        folder = self._fresh_folder()
        os.makedirs(folder)
        orders = replace(self._field.orders, output=folder, in_flight=workers, threads=self._threads)
        lane = ConcurrentLane(replace(orders, timeout=self._field.timeout), self._field.workshop, exact=self._exact)
        supply = Rotation([region.span.first(min(_ITEMS, region.span.count)) for region in self._sample.regions],
                          whole=False)  # fmt: skip
        try:
            with Crew(lane, self._field.interrupted) as crew:
                found = self._watched(crew, supply, workers, seconds, lambda _, out: float(out.size))
                return found._replace(memory=crew.ask("footprint"))
        finally:
            self._clear(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open from one trial to the next."""


def _overlap(start: float, end: float, since: float, until: float) -> float:
    """The share of a stretch that lies in another one."""
    both = min(end, until) - max(start, since)
    return max(0.0, both) / (end - start) if end > start else float(since <= end <= until)


def make_room(folder: str) -> None:
    """Make the folder that trials write into. Raises `OutputError`."""
    try:
        os.mkdir(folder)
    except OSError as error:
        raise OutputError(f"{shown(folder)}: cannot be made: {error.strerror}") from None
