"""Spans of an iterable: numbered, pulled when asked for, and never waiting for what isn't there yet."""

from __future__ import annotations

import io
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.records import BadRecord
from chora_mp.sources.spool import parse, read_frames
from chora_mp.sources.stream import StreamSpans

if TYPE_CHECKING:
    from chora_mp.records import Span


def held(span: Span) -> list[Any]:
    """The records of a span, as a worker reads them."""
    assert span.data is not None
    frames = itertools.islice(read_frames(io.BytesIO(span.data), span.skip), span.count)
    return [parse(payload) for _, payload in frames]


def numbered(count: int) -> list[dict[str, int]]:
    """Records that know their number."""
    return [{"n": number} for number in range(count)]


@given(count=st.integers(0, 30), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=4))
@settings(deadline=None)
def test_each_record_once(count, sizes):
    """Spans of any sizes hold all records in order, numbered from 0, and none is larger than asked for."""
    spans = StreamSpans(iter(numbered(count)))
    found = []
    for size in itertools.cycle(sizes):
        span = spans.take(size)
        if span is None:
            break
        assert (len(found), True) == (span.seq, 0 < span.count <= size)
        found += held(span)
    assert numbered(count) == found
    assert (None, 0) == (spans.take(1), spans.left)


@given(count=st.integers(0, 20), moves=st.data())
@settings(deadline=None, max_examples=50)
def test_each_record_once_when_some_come_back(count, moves):
    """Spans dealt with in part and given back come out again: each record is dealt with exactly once."""
    spans = StreamSpans(numbered(count))
    out: list[Span] = []
    dealt: list[Any] = []
    while True:
        if moves.draw(st.booleans()) or not out:
            span = spans.take(moves.draw(st.integers(1, 6)))
            if span is not None:
                assert [{"n": span.seq + number} for number in range(span.count)] == held(span)
                out.append(span)
            elif not out:
                break
        else:
            span = out.pop(0)
            done = moves.draw(st.integers(0 if moves.draw(st.booleans()) else span.count, span.count))
            dealt += held(span.first(done))
            if done < span.count:
                waiting = [out.pop() for _ in range(moves.draw(st.integers(0, len(out))))][::-1]
                spans.give_back([span.after(done), *waiting])
    assert numbered(count) == sorted(dealt, key=lambda record: record["n"])


def test_what_comes_back_goes_out_first():
    """Spans given back come out next, in their order, cut to what is asked for, and are counted as left."""
    spans = StreamSpans(numbered(6))
    first, second = spans.take(2), spans.take(4)
    assert None is spans.left
    assert None is spans.take(1)
    spans.give_back([first.after(1), second])
    assert 5 == spans.left
    found = [spans.take(3), spans.take(3), spans.take(3), spans.take(3)]
    assert [(1, 1), (2, 3), (5, 1), None] == [span and (span.seq, span.count) for span in found]
    assert [[{"n": 1}], numbered(6)[2:5], [{"n": 5}]] == [held(span) for span in found if span]


def test_an_endless_iterable():
    """Only what is asked for is pulled from an iterable, which may have no end."""
    pulled = []

    def endless():
        for number in itertools.count():
            pulled.append(number)
            yield {"n": number}

    spans = StreamSpans(endless())
    assert [] == pulled
    taken = [spans.take(3), spans.take(2)]
    assert [(0, 3), (3, 2)] == [(span.seq, span.count) for span in taken if span]
    assert (5, None) == (len(pulled), spans.left)


def test_a_slow_iterable():
    """The first record of a slow source leaves when it is there, not when the span is full."""

    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield {"n": number}

    spans = StreamSpans(slow())
    assert [1, 1, 1, None] == [span and span.count for span in (spans.take(100) for _ in range(4))]


def test_big_records():
    """A span leaves when it holds a megabyte, however many records were asked for."""
    spans = StreamSpans({"text": "x" * 300_000} for _ in range(8))
    counts = [span.count for span in iter(lambda: spans.take(100), None)]
    assert (8, True) == (sum(counts), max(counts) <= 4)


def test_what_is_no_record():
    """Values that are no mapping and names that are no string become failures in their places."""
    spans = StreamSpans([{"a": 1}, "text", {1: 2}, None, {"a": 2}])
    found = []
    for span in iter(lambda: spans.take(9), None):
        found += held(span)
    assert [{"a": 1}, {"a": 2}] == [found[0], found[4]]
    assert [BadRecord] * 3 == [type(record) for record in found[1:4]]
    assert "record is not a mapping (found a string); write names and values" == found[1].message


def test_an_iterable_that_raises():
    """The caller's own error comes out as it is, when the records before it have been handed out."""

    def failing():
        yield {"n": 0}
        yield {"n": 1}
        raise LookupError("no more")

    spans = StreamSpans(failing())
    found = [spans.take(1), spans.take(1)]
    assert [[{"n": 0}], [{"n": 1}]] == [held(span) for span in found if span]
    with pytest.raises(LookupError, match="no more"):
        spans.take(1)


def test_an_iterable_that_raises_in_the_middle_of_a_span():
    """Records that were pulled before an error are handed out before the error is."""

    def failing():
        yield {"n": 0}
        raise LookupError("no more")

    spans = StreamSpans(failing())
    span = spans.take(9)
    assert [{"n": 0}] == (held(span) if span else None)
    with pytest.raises(LookupError, match="no more"):
        spans.take(9)


def test_what_the_caller_changes_later():
    """A record is what it was when it was pulled: a caller may use one dictionary for all."""

    def reused():
        record = {}
        for number in range(3):
            record["n"] = number
            yield record

    spans = StreamSpans(reused())
    found = []
    for span in iter(lambda: spans.take(9), None):
        found += held(span)
    assert numbered(3) == found
