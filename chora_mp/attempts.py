"""Attempts: how often records were tried, and which wait to be tried again. They are spans while they wait, too."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from chora_mp.policy import pause
from chora_mp.records import ItemResult, Outcome, Span
from chora_mp.sources.spool import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.policy import Errors


@dataclass(slots=True)
class _Past:
    """How often a record's worker has died at it, and how often it has failed and was to be tried again."""

    deaths: int = 0
    failures: int = 0

    @property
    def tries(self) -> int:
        return self.deaths + self.failures


class _Waiting(NamedTuple):
    """Records that failed and are tried again when it is time (`due`, on the clock); `items`: how they failed."""

    due: float
    number: int
    span: Span
    items: tuple[ItemResult, ...]


class Attempts:
    """The records of a run that were tried before and are not done with; there are few, and most of them wait."""

    def __init__(self, errors: Errors, clock: Callable[[], float]) -> None:
        self._errors = errors
        self._clock = clock
        self._past: dict[int, _Past] = {}
        self._heap: list[_Waiting] = []
        self._numbers = count()
        self.waiting = self.repeated = 0
        """How many records wait to be tried again; how many were, so far."""

    def note_death(self, seq: int) -> int:
        """Note that a record's worker has died at it; how often that has happened."""
        past = self._past.setdefault(seq, _Past())
        past.deaths += 1
        return past.deaths

    def give_up(self, seq: int) -> int:
        """Forget a record that is not tried again; how often it was tried before."""
        return self._past.pop(seq, _Past()).tries

    def may_repeat(self, seq: int) -> bool:
        """Whether a record that failed may be tried again."""
        past = self._past.get(seq)
        return (past.failures if past else 0) < self._errors.retries

    def is_pending(self, seq: int) -> bool:
        """Whether a record is to be tried again, or has been and is not done."""
        return seq in self._past

    def put_off(self, span: Span, items: tuple[ItemResult, ...] = ()) -> None:
        """Have the records of `span`, all of which failed, tried again after a while."""
        if span.data is not None:  # it has all the records of a larger one
            span = replace(span, data=cut(span.data, span.skip, span.count), skip=0)
        for seq in range(span.seq, span.seq + span.count):
            self._past.setdefault(seq, _Past()).failures += 1
        due = self._clock() + pause(self._past[span.seq].failures, self._errors.backoff, random.random)
        heappush(self._heap, _Waiting(due, next(self._numbers), span, items))
        self.waiting += span.count

    def put_off_some(self, span: Span, outcome: Outcome) -> Outcome:
        """The outcome without the failures that are tried again later."""
        again = [seq for seq in outcome.passing if self.may_repeat(seq)]
        if not again:
            return outcome
        items = {item.seq: item for item in outcome.items}
        for run in _runs(again):
            failed = tuple(items.pop(seq) for seq in run)
            self.put_off(span.after(run[0] - span.seq).first(len(run)), failed)
        return replace(outcome, items=tuple(items.values()), unpicked=outcome.unpicked + len(again))

    def seconds(self) -> float | None:
        """Seconds until the next attempt; None: nobody waits."""
        return max(0.0, self._heap[0].due - self._clock()) if self._heap else None

    def due(self) -> Iterator[Span]:
        """The spans whose time has come."""
        while self._heap and self._heap[0].due <= self._clock():
            span = heappop(self._heap).span
            self.waiting -= span.count
            self.repeated += span.count
            yield span

    def counted(self, span: Span, outcome: Outcome) -> Outcome:
        """The outcome with how often its items were tried, where more than once; they have no past any more.

        Those that wait are none of its items.
        """
        if not self._past:
            return outcome
        seqs = range(span.seq, span.seq + outcome.done)
        few, many = (self._past, seqs) if len(self._past) < len(seqs) else (seqs, self._past)
        again = {seq for seq in outcome.passing if seq in self._past}.difference(item.seq for item in outcome.items)
        tries = {seq: 1 + self._past[seq].tries for seq in few if seq in many and seq not in again}
        for seq in tries:
            del self._past[seq]
        items = tuple(replace(item, attempts=tries[item.seq]) if item.seq in tries else item for item in outcome.items)
        return replace(outcome, items=items, tries=tuple(tries.items()))

    def given_up(self) -> Iterator[tuple[Span, Outcome]]:
        """What became of the records that wait still, when their run ends; of hangs nobody knows."""
        for entry in self._heap:
            if entry.items:
                items = tuple(replace(item, attempts=self._past[item.seq].tries) for item in entry.items)
                yield entry.span, Outcome(entry.span.count, 0, 0, 0, 0.0, items)


def _runs(seqs: list[int]) -> Iterator[list[int]]:
    """Numbers that count up, parted where one is left out."""
    run: list[int] = []
    for seq in seqs:
        if run and seq != run[-1] + 1:
            yield run
            run = []
        run.append(seq)
    if run:
        yield run
