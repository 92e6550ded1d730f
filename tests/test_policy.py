"""Rules about failures: what may pass, how long it waits, when a run stops early, how many seats there is room for."""

from __future__ import annotations

import errno
import socket
import urllib.error
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.policy import Breaker, Errors, Room, may_pass, pause
from chora_mp.records import Failure, ItemResult, Outcome

GB = 10**9


class RateLimitError(RuntimeError):
    """Somebody's own exception."""


class TooManyRequestsError(RateLimitError):
    """One that is derived from it."""


@pytest.mark.parametrize(
    ("error", "names", "expected"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), (), True),
        (ConnectionError("made by hand"), (), True),
        (TimeoutError(), (), True),
        (OSError(errno.EAGAIN, "again"), (), True),
        (OSError(errno.EMFILE, "too many"), (), True),
        (OSError(errno.EHOSTUNREACH, "no way"), (), True),
        (urllib.error.URLError(ConnectionResetError(errno.ECONNRESET, "reset")), (), True),
        (socket.gaierror(socket.EAI_AGAIN, "temporary"), (), True),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), (), False),
        (urllib.error.URLError("unknown url type"), (), False),
        (OSError(errno.ENOSPC, "full"), (), False),
        (PermissionError(errno.EACCES, "denied"), (), False),
        (FileNotFoundError(errno.ENOENT, "nothing"), (), False),
        (OSError("no number"), (), False),
        (ValueError("x"), (), False),
        (ValueError("x"), ("ValueError",), True),
        (TooManyRequestsError("x"), ("RateLimitError",), True),
        (TooManyRequestsError("x"), (f"{__name__}.RateLimitError",), True),
        (RateLimitError("x"), ("TooManyRequestsError",), False),
        (OSError(errno.ENOSPC, "full"), ("OSError",), True),
    ],
)
def test_what_may_pass(error: BaseException, names: tuple[str, ...], *, expected: bool) -> None:
    """What the system calls temporary, and what is named, by class or base class."""
    assert expected == may_pass(error, names)


@given(
    attempt=st.integers(1, 5000),
    shortest=st.floats(0.001, 100),
    more=st.floats(0, 1000),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_pauses_double_between_their_bounds(attempt: int, shortest: float, more: float, drawn: float) -> None:
    """Never shorter than the shortest, never longer than the longest, and at most twice as long each time."""
    longest = shortest + more
    found = pause(attempt, (shortest, longest), lambda: drawn)
    assert shortest <= found <= longest
    assert found <= pause(attempt + 1, (shortest, longest), lambda: drawn) <= max(2 * found, longest)


def test_pauses_of_those_that_failed_together_differ() -> None:
    """From 2 to 4 seconds, then from 4 to 8, then from 5 to 10: what was asked for, spread."""
    found = [[pause(attempt, (2.0, 10.0), lambda one=one: one) for one in (0.0, 1.0)] for attempt in (1, 2, 3, 9)]
    assert [[2.0, 4.0], [4.0, 8.0], [5.0, 10.0], [5.0, 10.0]] == found


def outcome(rendered: int, failed: int, refused: int = 0) -> Outcome:
    """What became of so many items."""
    items = tuple(ItemResult(f"k{n}", "", n, "failed", error=Failure("E", "m")) for n in range(failed))
    return Outcome(rendered + failed, rendered, 0, 0, 0.1, items, refused=refused)


def stops(errors: Errors, outcomes: list[Outcome], todo: int | None = 1000) -> int | None:
    """After how many of the outcomes a run stops."""
    breaker = Breaker(errors)
    return next((number for number, one in enumerate(outcomes, 1) if breaker.judge(one, todo)), None)


@given(most=st.integers(0, 50), spans=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_a_number_of_failures_is_tolerated(most: int, spans: list[tuple[int, int]]) -> None:
    """The run stops with the first failure beyond the number, and not before."""
    found = stops(Errors(max_failures=most), [outcome(*span) for span in spans])
    failed = [sum(failed for _, failed in spans[:number]) for number in range(1, len(spans) + 1)]
    assert next((number for number, count in enumerate(failed, 1) if count > most), None) == found


@given(
    percent=st.integers(0, 100),
    todo=st.integers(1, 400),
    spans=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40),
)
def test_a_share_of_failures_is_tolerated(percent: int, todo: int, spans: list[tuple[int, int]]) -> None:
    """Of all items that the run is to render, so that where it stops does not hang on which come first."""
    share = Fraction(percent, 100)
    found = stops(Errors(max_failure_share=percent / 100), [outcome(*span) for span in spans], todo)
    failed = [sum(failed for _, failed in spans[:number]) for number in range(1, len(spans) + 1)]
    assert next((number for number, count in enumerate(failed, 1) if count > share * todo), None) == found


def test_a_share_is_exact() -> None:
    """29 of 100 are not more than 29 %, though 0.29 * 100 is a little less than 29."""
    assert stops(Errors(max_failure_share=0.29), [outcome(0, 29), outcome(0, 1)], 100) == 2


def test_a_share_of_nobody_knows_how_many() -> None:
    """Of those that are done then, but a hundred at least: the first failure of an endless source is no half of all."""
    errors = Errors(max_failure_share=0.5)
    assert stops(errors, [outcome(0, 50), outcome(0, 1)], None) == 2
    assert stops(errors, [outcome(1, 1)] * 500, None) is None
    assert stops(errors, [outcome(100, 0), outcome(0, 100), outcome(0, 1)], None) == 3


def test_the_first_failure_is_enough_where_it_should_be() -> None:
    """fail-fast stops at the first failure; collect at none."""
    spans = [outcome(5, 0), outcome(4, 1), outcome(0, 5)]
    assert (2, None) == (stops(Errors("fail-fast"), spans), stops(Errors(), spans))


def test_a_full_disk_stops_the_run() -> None:
    """Some tens of items in a row that could not be written; one that could begins the count anew."""
    full = outcome(0, 15, errno.ENOSPC)
    assert stops(Errors(), [full, full]) == 2
    assert stops(Errors(), [full, outcome(1, 0), full]) is None
    assert stops(Errors(), [full, outcome(0, 15, errno.EROFS), full]) is None
    assert stops(Errors(), [full, outcome(0, 0), full]) == 3  # a span whose items wait for another try says nothing
    stop = Breaker(Errors()).judge(outcome(0, 20, errno.ENOSPC), 1000)
    assert stop == ("No space left on device: the last 20 items could not be written", True)


def test_a_lack_of_rights_may_be_one_folders() -> None:
    """A thousand in a row; what is an item's own fault never stops a run."""
    assert stops(Errors(), [outcome(0, 100, errno.EACCES)] * 20) == 10
    assert stops(Errors(), [outcome(0, 100, errno.EISDIR)] * 200) is None


# -- room


def test_seats_are_closed_one_by_one() -> None:
    """Each time that it is short still once the last seat is gone."""
    room = Room(8, 20 * GB)
    assert 8 == room.allow(2 * GB, 8, 0.0)
    assert [7, 7, 6, 5] == [room.allow(GB - 1, seats, 0.5) for seats in (8, 8, 7, 6)]


def test_one_seat_is_left_when_it_is_critical() -> None:
    """At once, whether others have gone or not; and never none."""
    room = Room(8, 20 * GB)
    assert [1, 1] == [room.allow(GB // 2 - 1, seats, 0.0) for seats in (8, 1)]
    assert 1 == room.least


def test_seats_come_back_with_the_memory() -> None:
    """One after the other, when there is plenty and some time has passed; later each time that it was too soon."""
    room = Room(3, 20 * GB)
    room.allow(0, 3, 0.0)
    assert [1, 1, 2, 2, 3] == [room.allow(free, 1, now) for free, now in (
        (4 * GB, 1.9), (2 * GB, 9.0), (4 * GB, 10.0), (4 * GB, 11.0), (4 * GB, 12.0))]  # fmt: skip
    assert 1 == room.allow(0, 3, 13.0)
    assert [1, 2] == [room.allow(4 * GB, 1, now) for now in (16.9, 17.0)]


@given(st.lists(st.tuples(st.integers(0, 30 * GB), st.integers(1, 16), st.floats(0, 1000)), max_size=60))
def test_room_has_bounds(story: list[tuple[int, int, float]]) -> None:
    """There is always room for one, and never for more than there were to be."""
    room, now = Room(16, 20 * GB), 0.0
    for free, seats, seconds in story:
        now += seconds
        assert 1 <= room.allow(free, seats, now) <= 16
        assert room.least <= room.allowed
