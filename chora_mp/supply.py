"""The supplies of a mixed batch: a generator's spans by priority, what others need first, and a chunk at a time."""

from __future__ import annotations

import marshal
from collections import deque
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from chora_mp.dispatch import Spans
    from chora_mp.generators import LaneName
    from chora_mp.records import Outcome, Span


GROUPS = ".groups"
"""Ends the name of the file, beside the spool, that says which records belong together."""


class Group(NamedTuple):
    """A run of so many `records` for one `generator`, whose lane and whether it runs `concurrent`ly go with it.

    `needy`: they need the texts of others.
    """

    generator: str
    priority: float
    records: int
    needy: bool
    lane: LaneName
    concurrent: bool


class Grouping(NamedTuple):
    """How the records of a spool belong together: `groups` in order; who `needs` whom; the names of `texts` needed."""

    groups: list[Group]
    needs: dict[int, tuple[int, ...]]
    texts: dict[int, str]


def load_grouping(spool: str) -> Grouping | None:
    """What was said beside a spool; None where its records are all alike."""
    try:
        with open(spool + GROUPS, "rb") as file:
            groups, needs, texts = marshal.loads(file.read())
    except FileNotFoundError:
        return None
    return Grouping([Group(*group) for group in groups], needs, texts)


class Prioritized:
    """One generator's supply: parts by priority, the highest first.

    `may_go_on` says of a priority whether there is nothing more urgent elsewhere that the same workers are wanted for.
    """

    def __init__(
        self,
        parts: list[tuple[float, Spans]],
        may_go_on: Callable[[float], bool] = lambda _: True,
        needs: Needs | None = None,
    ) -> None:
        """`needs`: who waits for records of this or another supply; None: nobody does."""
        self._parts = sorted(parts, key=lambda part: -part[0])
        self._may_go_on = may_go_on
        self._needs = needs
        self._returned: deque[Span] = deque()
        self.slow = 0.0

    @property
    def left(self) -> int | None:
        """Records that can be handed out."""
        return sum(spans.left or 0 for _, spans in self._parts) + sum(span.size for span in self._returned)

    def most_urgent(self) -> float | None:
        """The highest priority that there is something left of; None: nothing is left.

        What came back was begun: it is as urgent as can be here.
        """
        if self._returned:
            return self._parts[0][0]
        return next((priority for priority, spans in self._parts if spans.left), None)

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records; None when there is none now."""
        if self._returned:
            return self._take_returned(count)
        for priority, spans in self._parts:
            if spans.left:
                return spans.take(count) if self._may_go_on(priority) else None
        return None

    def _take_returned(self, count: int) -> Span:
        span = self._returned.popleft()
        if span.size <= count:
            return span
        cut = span.places()[count]
        self._returned.appendleft(span.after(cut))
        return span.first(cut)

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take spans back; the first of them comes out next."""
        self._returned.extendleft(reversed([span for span in spans if span.size]))

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Tell those who need one of these records that it is done."""
        if self._needs is not None:
            done = (span.seq + place for place in span.places() if place < outcome.done)
            self._needs.done([seq for seq in done if not pending(seq)])


class Chunked:
    """A supply that is handed out so many records at a time: the next ones when all of those are done.

    `room` is shared by all supplies of the batch.
    """

    def __init__(self, spans: Spans, room: ChunkRoom) -> None:
        self._spans = spans
        self._room = room

    @property
    def left(self) -> int | None:
        """Records still to be handed out; None while nobody knows."""
        return self._spans.left

    @property
    def slow(self) -> float:
        """As that of the supply itself."""
        return self._spans.slow

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records, if the chunk has room for them; None: there is none now."""
        room = self._room.left
        span = self._spans.take(min(count, room)) if room else None
        if span is not None:
            self._room.take(span.size)
        return span

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take spans back; the first of them comes out next."""
        returned = list(spans)
        self._room.give_back(sum(span.size for span in returned))
        self._spans.give_back(returned)

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Note that a span's records are done."""
        self._room.done(outcome.size)
        self._spans.completed(span, outcome, pending)


class ChunkRoom:
    """How much of a chunk of `size` records is not handed out, and how much is in work."""

    def __init__(self, size: int) -> None:
        self._size = self.left = size
        self._in_work = 0

    def take(self, count: int) -> None:
        """Note so many records as handed out."""
        self.left -= count
        self._in_work += count

    def give_back(self, count: int) -> None:
        """Note so many as not handed out after all."""
        self.left += count
        self._in_work -= count

    def done(self, count: int) -> None:
        """Note so many as done; with the last of a chunk the next one begins."""
        self._in_work -= count
        if self._in_work <= 0:
            self.left = self._size


class Needs:
    """Which records wait for the texts of others, and which of them need wait no more.

    `needs` maps a record to those that it needs and that are to be rendered; `release` hands out one that can be made.
    """

    def __init__(self, needs: Mapping[int, Iterable[int]], release: Callable[[int], None]) -> None:
        """Raises `graphlib.CycleError`."""
        self._sorter: TopologicalSorter[int] = TopologicalSorter(needs)
        self._waiting = frozenset(needs)
        self._relevant = self._waiting.union(*needs.values())
        self._release = release
        self._sorter.prepare()
        self._hand_out()

    def done(self, seqs: Iterable[int]) -> None:
        """Note records that are done, whatever became of them: who needs one that has failed fails with its name."""
        for seq in self._relevant.intersection(seqs):
            self._sorter.done(seq)
        self._hand_out()

    def _hand_out(self) -> None:
        for seq in self._sorter.get_ready():
            if seq in self._waiting:
                self._release(seq)
