"""Supplies: everything is handed out exactly once, whatever is given back; priorities, chunks and needs hold."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.records import Input, Outcome, Span
from chora_mp.supply import Chunked, ChunkRoom, Needs, Prioritized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOURCE = Input("data.jsonl", spooled=False, name="data.jsonl", stamp=None)


class Records:
    """A plain supply: the records of a range, in order."""

    def __init__(self, start: int, count: int) -> None:
        self._spans = [Span(SOURCE, start, count)] if count else []
        self.slow = 0.0
        self.heard: list[int] = []

    @property
    def left(self) -> int | None:
        """Records still to be handed out."""
        return sum(span.size for span in self._spans)

    def take(self, count: int) -> Span | None:
        """The next span."""
        if not self._spans:
            return None
        span = self._spans.pop(0)
        if span.count > count:
            self._spans.insert(0, span.after(count))
        return span.first(min(count, span.count))

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take spans back."""
        self._spans[:0] = list(spans)

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Note what is done."""
        self.heard += [span.seq + place for place in span.places() if place < outcome.done]


def seqs(span: Span) -> list[int]:
    """The numbers of a span's records."""
    return [span.seq + place for place in span.places()]


def outcome(done: int, unpicked: int = 0) -> Outcome:
    """What became of a span whose first `done` records are done."""
    return Outcome(done, done, 0, 0, 0.0, (), unpicked=unpicked)


never = lambda _: False  # noqa: E731

groups = st.lists(st.tuples(st.sampled_from([0.0, 50.0, 100.0, 7.5]), st.integers(0, 12)), max_size=5)
steps = st.lists(
    st.tuples(st.sampled_from(["take", "finish", "part", "back", "back all"]), st.integers(1, 9)), max_size=60
)


def laid_out(sizes: list[tuple[float, int]]) -> tuple[list[tuple[float, Records]], dict[int, float]]:
    """Parts of consecutive records, and each record's priority."""
    parts, priorities, start = [], {}, 0
    for priority, size in sizes:
        parts.append((priority, Records(start, size)))
        priorities.update(dict.fromkeys(range(start, start + size), priority))
        start += size
    return parts, priorities


class Handling:
    """What is done with the spans of a supply: some are finished, in part or whole, some are given back."""

    def __init__(self, supply: Prioritized | Chunked) -> None:
        self.supply = supply
        self.in_work: list[Span] = []
        self.done: list[int] = []
        self.most = 0

    def step(self, what: str, number: int) -> Span | None:
        """One of the things that a dispatch does."""
        if what == "take":
            span = self.supply.take(number)
            if span is not None:
                assert 1 <= span.size <= number
                self.in_work.append(span)
                self.most = max(self.most, sum(span.size for span in self.in_work))
            return span
        if self.in_work:
            getattr(self, what.replace(" ", "_"))(number)
        return None

    def finish(self, number: int) -> None:
        """All of a span is done."""
        self._end(self.in_work.pop(number % len(self.in_work)), None)

    def part(self, number: int) -> None:
        """A span's first records are done, and the rest comes back."""
        self._end(self.in_work.pop(number % len(self.in_work)), number)

    def back(self, number: int) -> None:
        """A worker died."""
        self.supply.give_back([self.in_work.pop(number % len(self.in_work))])

    def back_all(self, _: int) -> None:
        """Two pieces of each span come back."""
        spans, self.in_work = self.in_work, []
        self.supply.give_back([piece for span in spans for piece in (span.first(1), span.after(1)) if piece.count])

    def _end(self, span: Span, count: int | None) -> None:
        done = span.count if count is None else min(count, span.count)
        self.done += seqs(span.first(done))
        if done < span.count:
            self.supply.give_back([span.after(done)])
        self.supply.completed(span, outcome(done), never)

    def go_on_to_the_end(self) -> None:
        """Finish all that there is."""
        while True:
            while self.in_work:
                self.finish(0)
            if self.step("take", 5) is None:
                return


# -- priorities


@given(groups, steps)
def test_prioritized_hands_out_everything_once(sizes: list[tuple[float, int]], moves: list[tuple[str, int]]) -> None:
    """Whatever is given back, each record is finished exactly once, and `left` counts what is not handed out."""
    parts, priorities = laid_out(sizes)
    handling = Handling(Prioritized(parts))  # type: ignore[arg-type]
    for move in moves:
        handling.step(*move)
        in_work = sum(span.size for span in handling.in_work)
        assert len(priorities) == (handling.supply.left or 0) + in_work + len(handling.done)
    handling.go_on_to_the_end()
    assert sorted(priorities) == sorted(handling.done)
    assert (0, None) == (handling.supply.left, handling.supply.take(1))


@given(groups, st.lists(st.integers(1, 9), min_size=70, max_size=70))
def test_the_highest_priority_comes_first(sizes: list[tuple[float, int]], counts: list[int]) -> None:
    """With nothing given back, priorities fall, equal ones keep their order, and a span has one priority."""
    parts, priorities = laid_out(sizes)
    supply = Prioritized(parts)  # type: ignore[arg-type]
    taken: list[int] = []
    for count in counts:
        urgent = supply.most_urgent()
        span = supply.take(count)
        assert (urgent is None) == (span is None)
        if span is not None:
            assert {urgent} == {priorities[seq] for seq in seqs(span)}
            taken += seqs(span)
    assert sorted(priorities, key=lambda seq: (-priorities[seq], seq)) == taken


def test_what_is_given_back_comes_out_next() -> None:
    """In the order in which it is given back, cut to what is asked for, before anything of any priority."""
    supply = Prioritized([(0.0, Records(0, 9)), (5.0, Records(9, 3))])
    first, second = supply.take(3), supply.take(4)
    assert first is not None
    assert second is not None
    supply.give_back([second, first.first(0), first])
    found = [supply.take(3) for _ in range(4)]
    assert [[0, 1, 2], [3], [9, 10, 11], [4, 5, 6]] == [seqs(span) for span in found if span is not None]


def test_somebody_more_urgent_elsewhere() -> None:
    """Nothing new is handed out meanwhile, but what is given back is: it was begun."""
    may_go_on = [True]
    supply = Prioritized([(5.0, Records(0, 9))], lambda priority: may_go_on[0] or priority > 5.0)
    span = supply.take(2)
    assert span is not None
    may_go_on[0] = False
    assert (None, 7, 5.0) == (supply.take(2), supply.left, supply.most_urgent())
    supply.give_back([span])
    assert span == supply.take(2)
    may_go_on[0] = True
    assert [2, 3] == seqs(supply.take(2) or span)


# -- chunks


@given(st.integers(1, 10), groups, steps)
def test_a_chunk_is_never_exceeded(size: int, sizes: list[tuple[float, int]], moves: list[tuple[str, int]]) -> None:
    """No more records than a chunk has are in work at a time, and each is finished exactly once."""
    parts, priorities = laid_out(sizes)
    handling = Handling(Chunked(Prioritized(parts), ChunkRoom(size)))  # type: ignore[arg-type]
    for move in moves:
        handling.step(*move)
    handling.go_on_to_the_end()
    assert handling.most <= size
    assert sorted(priorities) == sorted(handling.done)


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 20), st.lists(st.booleans(), max_size=60))
def test_supplies_share_a_chunk(size: int, one: int, other: int, moves: list[bool]) -> None:
    """The room is that of the whole batch; when nothing is in work there is some, as long as anything is left."""
    room = ChunkRoom(size)
    supplies = [Chunked(Records(0, one), room), Chunked(Records(100, other), room)]
    in_work: list[tuple[Chunked, Span]] = []
    done: list[int] = []

    def finish() -> None:
        supply, span = in_work.pop(0)
        supply.completed(span, outcome(span.count), never)
        done.extend(seqs(span))

    for move in moves:
        span = supplies[move].take(3)
        if span is not None:
            in_work += [(supplies[move], span)]
        elif in_work:
            finish()
        assert sum(span.size for _, span in in_work) <= size
    while in_work or any(supply.left for supply in supplies):
        while in_work:
            finish()
        for supply in supplies:
            if (span := supply.take(3)) is not None:
                in_work += [(supply, span)]
        assert in_work or not any(supply.left for supply in supplies), "there is no room for what is left"
    assert sorted([*range(one), *range(100, 100 + other)]) == sorted(done)


def test_the_next_chunk_begins_when_all_of_the_last_is_done() -> None:
    """Nothing is handed out after the last of a chunk, though most of it is done; what waits to be retried is not."""
    supply = Chunked(Records(0, 20), ChunkRoom(4))
    spans = [supply.take(1) for _ in range(5)]
    assert [[0], [1], [2], [3]] == [seqs(span) for span in spans if span is not None]
    first, second, third, fourth, _ = spans
    for span in (first, second, fourth):
        assert span is not None
        supply.completed(span, outcome(1), never)
        assert supply.take(1) is None
    assert third is not None
    supply.completed(third, outcome(1, unpicked=1), never)  # it failed, and is to be tried again
    assert supply.take(1) is None
    supply.give_back([third])
    assert third == supply.take(5)
    supply.completed(third, outcome(1), never)
    assert [4, 5, 6, 7] == seqs(supply.take(9) or third)


# -- needs


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    """Records that need some of those with smaller numbers."""
    count = draw(st.integers(0, 12))
    needs = {}
    for seq in range(1, count):
        others = draw(st.lists(st.integers(0, seq - 1), max_size=4))
        if draw(st.booleans()):
            needs[seq] = others
    return needs


@given(graphs(), st.randoms(use_true_random=False))
def test_needs(needs: dict[int, list[int]], random: object) -> None:
    """Each that waits is released exactly once, when the last that it needs is done, and not before."""
    released: list[int] = []
    everybody = set(needs).union(*needs.values())
    waits = Needs(needs, released.append)
    done: set[int] = set()
    while True:
        assert {seq for seq in needs if done.issuperset(needs[seq])} == set(released)
        assert len(released) == len(set(released))
        ready = [seq for seq in everybody - done if seq not in needs or seq in released]
        if not ready:
            break
        some = random.sample(sorted(ready), random.randint(1, len(ready)))  # type: ignore[attr-defined]
        done.update(some)
        waits.done([*some, 1000, 1001])  # and others whom nobody needs
    assert everybody == done
    assert set(needs) == set(released)


def test_a_cycle_of_needs() -> None:
    """Nobody waits for ever: it is refused at once."""
    with pytest.raises(CycleError):
        Needs({1: [2], 2: [1]}, lambda _: None)


@given(graphs(), st.integers(1, 3), st.lists(st.integers(0, 5), max_size=40))
def test_needs_through_supplies(needs: dict[int, list[int]], size: int, moves: list[int]) -> None:
    """Two supplies whose records need each other's, a chunk at a time: all is done, each after what it needs."""
    everybody = sorted({*needs}.union(*needs.values())) if needs else []
    supplies = [_Releasing([seq for seq in everybody if seq % 2 == half]) for half in range(2)]
    waits = Needs(needs, lambda seq: supplies[seq % 2].release(seq))
    for supply in supplies:
        supply.release_all(set(needs))
    room = ChunkRoom(size)
    chunked = [Chunked(Prioritized([(0.0, supply)], needs=waits), room) for supply in supplies]  # type: ignore[list-item]
    order: list[int] = []
    in_work: list[tuple[Chunked, Span]] = []

    def work() -> bool:
        for supply in chunked:
            if (span := supply.take(2)) is not None:
                in_work.append((supply, span))  # noqa: PERF401  (each is asked once)
        return bool(in_work)

    picks = iter(moves)
    while work():
        supply, span = in_work.pop(next(picks, 0) % len(in_work))
        order += seqs(span)
        supply.completed(span, outcome(span.count), never)
    assert everybody == sorted(order)
    assert all(order.index(other) < order.index(seq) for seq, others in needs.items() for other in others)
    assert everybody == sorted(TopologicalSorter(needs).static_order())


def test_what_is_tried_again_is_not_done() -> None:
    """A record that is pending releases nobody."""
    released: list[int] = []
    supply = Prioritized([(0.0, Records(0, 2))], needs=Needs({5: [0, 1]}, released.append))
    span = supply.take(2)
    assert span is not None
    supply.completed(span, outcome(2), lambda seq: seq == 1)
    assert [] == released
    supply.completed(span.after(1), outcome(1), never)
    assert [5] == released


class _Releasing:
    """A supply of records that are handed out one by one, once they are released."""

    def __init__(self, records: list[int]) -> None:
        self._records = records
        self._ready: list[int] = []
        self.slow = 0.0

    @property
    def left(self) -> int | None:
        return len(self._ready)

    def release(self, seq: int) -> None:
        self._ready.append(seq)

    def release_all(self, but: set[int]) -> None:
        self._ready += [seq for seq in self._records if seq not in but]

    def take(self, count: int) -> Span | None:
        return Span(SOURCE, self._ready.pop(0), 1) if self._ready and count else None

    def give_back(self, spans: Iterable[Span]) -> None:
        raise NotImplementedError

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Nobody to tell."""
