"""Attempts: whatever fails how often, each record ends in one state, after no more tries than were asked for."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.attempts import Attempts
from chora_mp.crew import Crew
from chora_mp.dispatch import Dispatch
from chora_mp.lanes import Ending
from chora_mp.policy import Errors
from chora_mp.records import Failure, Input, ItemResult, Outcome, Span
from chora_mp.slots import Note
from chora_mp.sources.chunks import Chunks, FileSpans
from chora_mp.sources.spool import cut, frame

if TYPE_CHECKING:
    from collections.abc import Mapping


class Clock:
    """A clock that stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Pass the time."""
        self.now += seconds


class FlakySeat:
    """A seat whose records fail as often as it is told before they are rendered; the failures may pass."""

    number = 0

    def __init__(self, failing: Mapping[int, int], tried: Counter[int]) -> None:
        self.failing = failing
        self.tried = tried

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Answer at once."""
        span: Span = arguments[0]
        seqs = range(span.seq, span.seq + span.count)
        self.tried.update(seqs)
        failed = [seq for seq in seqs if self.tried[seq] <= self.failing.get(seq, 0)]
        items = tuple(ItemResult(f"k{seq}", "", seq, "failed", error=Failure("E", "m")) for seq in failed)
        future: Future[Any] = Future()
        future.set_result(Outcome(span.count, span.count - len(failed), 0, 0, 0.01, items, passing=tuple(failed)))
        return future

    def note(self) -> Note:
        """Idle."""
        return Note(0, -1, None, 0.0, b"")

    def kill(self) -> None:
        """Nothing to end."""

    dismiss = close = kill

    def bury(self) -> Ending:
        """Nothing to clear up."""
        return Ending("ended")


class FlakyLane:
    """A lane of one such seat."""

    most = 1
    depth = 2
    span = None
    exact = True

    def __init__(self, failing: Mapping[int, int]) -> None:
        self.tried: Counter[int] = Counter()
        self.failing = failing

    def open(self) -> FlakySeat:
        """The seat."""
        return FlakySeat(self.failing, self.tried)

    def close(self) -> None:
        """Nothing to end."""


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 300),
    failing=st.dictionaries(st.integers(0, 299), st.integers(1, 6), max_size=60),
    retries=st.integers(0, 4),
)
def test_each_record_has_one_end(count: int, failing: dict[int, int], retries: int) -> None:
    """It is tried until it is rendered, or as often as may be; the outcomes say how often, and of each once."""
    clock, lane = Clock(), FlakyLane(failing)
    chunks = Chunks()
    chunks.add(1, 0, 0, count)
    spans = FileSpans(Input("none", spooled=False, name="none"), chunks)
    failed: list[ItemResult] = []
    tries: dict[int, int] = {}
    rendered = 0
    with Crew(lane) as crew:
        dispatch = Dispatch(crew, spans, None, Errors(retries=retries), clock=clock, sleep=clock.sleep)
        for answer in dispatch.run():
            if answer is not None:
                failed += answer[1].items
                rendered += answer[1].rendered
                assert not tries.keys() & dict(answer[1].tries).keys()
                tries.update(answer[1].tries)
    wanted = {seq: times for seq, times in failing.items() if seq < count}
    assert sorted(seq for seq, times in wanted.items() if times > retries) == sorted(item.seq for item in failed)
    assert count - len(failed) == rendered
    assert {seq: min(wanted.get(seq, 0), retries) + 1 for seq in range(count)} == lane.tried
    assert {seq: times for seq, times in lane.tried.items() if times > 1} == tries
    assert {item.seq: item.attempts for item in failed} == {item.seq: lane.tried[item.seq] for item in failed}
    assert 0 == dispatch.attempts.waiting


def span(first: int, count: int) -> Span:
    """A span of so many records."""
    return Span(Input("none", spooled=False, name="none"), first, count)


def test_who_waits_comes_back_in_time() -> None:
    """Not before its pause is over; those of one span together."""
    clock = Clock()
    attempts = Attempts(Errors(retries=1, backoff=(2.0, 2.0)), clock)
    assert attempts.seconds() is None
    attempts.put_off(span(5, 3))
    clock.sleep(1.0)
    attempts.put_off(span(20, 1))
    assert (4, 1.0, []) == (attempts.waiting, attempts.seconds(), list(attempts.due()))
    clock.sleep(1.0)
    assert [(5, 3)] == [(one.seq, one.count) for one in attempts.due()]
    assert (1, 3) == (attempts.waiting, attempts.repeated)
    assert [False, True] == [attempts.may_repeat(seq) for seq in (6, 9)]


def test_failures_that_lie_together_wait_together() -> None:
    """One span for each run of them, cut out of the span that they were in."""
    clock = Clock()
    attempts = Attempts(Errors(retries=1, backoff=(1.0, 1.0)), clock)
    seqs = (3, 4, 5, 8, 9)
    items = tuple(ItemResult(f"k{seq}", "", seq, "failed", error=Failure("E", "m")) for seq in (2, *seqs))
    found = attempts.put_off_some(span(2, 10), Outcome(10, 4, 0, 0, 0.1, items, passing=seqs))
    assert ([2], 1, 5) == ([item.seq for item in found.items], found.failed, found.size)
    clock.sleep(1.0)
    assert [(3, 3), (8, 2)] == sorted((one.seq, one.count) for one in attempts.due())


def test_deaths_and_failures_add_up() -> None:
    """How often a record was tried is both together, and forgotten with the record."""
    attempts = Attempts(Errors(retries=3), Clock())
    attempts.put_off(span(7, 1))
    assert [1, 2] == [attempts.note_death(7), attempts.note_death(7)]
    assert [3, 0] == [attempts.give_up(7), attempts.give_up(7)]


def test_who_waits_holds_no_other_records() -> None:
    """Records that travel inside a span are parted from the others that it had."""
    frames = [frame(number, {"n": number}) for number in range(10)]
    data = b"".join(frames)
    assert [b"".join(frames[2:5]), b"", data] == [cut(data, 2, 3), cut(data, 3, 0), cut(data, 0, 10)]
    clock = Clock()
    attempts = Attempts(Errors(retries=1), clock)
    attempts.put_off(Span(Input("", spooled=True, name="records"), 104, 2, skip=4, data=data))
    clock.sleep(10.0)
    assert [(104, 2, 0, b"".join(frames[4:6]))] == [(one.seq, one.count, one.skip, one.data) for one in attempts.due()]
