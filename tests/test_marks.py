"""Marks and the spans cut from them: whatever is taken and given back, each record goes out once."""

from __future__ import annotations

import pickle
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.records import Input, Span
from chora_mp.sources.marks import FileSpans, Marks

SOURCE = Input("/data.jsonl", spooled=False, name="data.jsonl")

# A line's length in bytes, and whether it is a record or blank.
layouts = st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=40)


def marked(layout: list[tuple[int, bool]], every: int) -> Marks:
    """Marks of a file of such lines, about `every` bytes apart."""
    marks, position, next_mark = Marks(), 0, 0
    for length, is_record in layout:
        if position >= next_mark:
            marks.mark(position)
            next_mark = position + every
        position += length
        marks.lines += 1
        marks.records += is_record
    return marks


def places(layout: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    """Byte offset and line, from 1, of each record."""
    found, position = [], 0
    for line, (length, is_record) in enumerate(layout, 1):
        if is_record:
            found.append((position, line))
        position += length
    return found


def reached(layout: list[tuple[int, bool]], span: Span) -> list[tuple[int, int]]:
    """Byte offset and line of the records that a worker finds who reads from where the span says."""
    found, position, skip = [], 0, span.skip
    line = span.line - 1
    for length, is_record in layout:
        if position >= span.offset:
            line += 1
            if is_record and skip:
                skip -= 1
            elif is_record and len(found) < span.count:
                found.append((position, line))
        position += length
    return found


def all_marks(count: int) -> Marks:
    """Marks of `count` records, ten bytes each, with one for every third."""
    return marked([(10, True)] * count, 30)


@given(layout=layouts, every=st.integers(1, 50), sizes=st.lists(st.integers(1, 7), min_size=1))
def test_spans_lead_to_their_records(layout, every, sizes):
    """Reading from where a span says, at the line it says, gives the records with the numbers it says."""
    spans = FileSpans(SOURCE, marked(layout, every))
    found = []
    for turn in range(len(layout) + 1):
        span = spans.take(sizes[turn % len(sizes)])
        if span is None:
            break
        assert len(found) == span.seq
        found += reached(layout, span)
    assert places(layout) == found


@given(layout=layouts, every=st.integers(1, 50), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_extend_equals_one_scan(layout, every, cuts):
    """Marks of a file's parts, put together, count as one scan counts, and each of them is true."""
    bounds = [0, *sorted(min(cut, len(layout)) for cut in cuts), len(layout)]
    whole, together, position = marked(layout, every), Marks(), 0
    for start, end in pairwise(bounds):
        part = marked(layout[start:end], every)
        shifted = Marks()
        for offset, line, seq in zip(part.offset, part.line, part.seq, strict=True):
            shifted.lines, shifted.records = line, seq
            shifted.mark(offset + position)
        shifted.lines, shifted.records = part.lines, part.records
        together.extend(shifted)
        position += sum(length for length, _ in layout[start:end])
    assert (whole.records, whole.lines) == (together.records, together.lines)
    truth = {}
    offset = records = 0
    for line, (length, is_record) in enumerate(layout):
        truth[offset] = (line, records)
        offset += length
        records += is_record
    for offset, line, seq in zip(together.offset, together.line, together.seq, strict=True):
        assert truth[offset] == (line, seq)
    if bounds == [0, len(layout)]:
        assert list(whole.offset) == list(together.offset)


@given(count=st.integers(0, 30), moves=st.data())
@settings(max_examples=50, deadline=None)
def test_each_record_once(count, moves):
    """Spans taken, dealt with in part and given back, in any order: each record is dealt with exactly once."""
    spans = FileSpans(SOURCE, all_marks(count))
    out: deque[Span] = deque()
    dealt: list[int] = []
    while True:
        held = sum(span.count for span in out)
        assert count == spans.left + held + len(dealt)
        if moves.draw(st.booleans()) or not out:
            span = spans.take(moves.draw(st.integers(1, 9)))
            if span is not None:
                out.append(span)
            elif not out:
                break
        else:
            span = out.popleft()
            done = moves.draw(st.integers(0 if moves.draw(st.booleans()) else span.count, span.count))
            dealt += range(span.seq, span.seq + done)
            if done < span.count:
                # As the dispatch does when a worker dies: what it had begun, and all that waited behind it.
                waiting = [out.pop() for _ in range(moves.draw(st.integers(0, len(out))))][::-1]
                spans.give_back([span.after(done), *waiting])
    assert list(range(count)) == sorted(dealt)
    assert 0 == spans.left


def test_what_comes_back_goes_out_first():
    """Spans given back come out next, in their order, before the rest of the file."""
    spans = FileSpans(SOURCE, all_marks(10))
    first, second = spans.take(2), spans.take(3)
    spans.give_back([first.after(1), second])
    assert 9 == spans.left
    assert [(1, 1), (2, 3), (5, 5)] == [(span.seq, span.count) for span in iter(lambda: spans.take(9), None)]


def test_spans_come_in_order():
    """The first span begins with the first record, and none is larger than asked for."""
    spans = FileSpans(SOURCE, all_marks(7))
    assert [(0, 3), (3, 3), (6, 1)] == [(span.seq, span.count) for span in iter(lambda: spans.take(3), None)]
    assert None is spans.take(1)


@pytest.mark.parametrize("marks", [Marks(), marked([(1, False)] * 5, 2)], ids=["empty", "blank lines"])
def test_nothing_to_take(marks):
    """A file without records has no spans."""
    spans = FileSpans(SOURCE, marks)
    assert (0, None) == (spans.left, spans.take(5))


def test_marks_are_pickled():
    """Marks come from a worker: a copy on the other side holds the same."""
    marks = all_marks(20)
    copy = pickle.loads(pickle.dumps(marks))
    assert [getattr(marks, name) for name in Marks.__slots__] == [getattr(copy, name) for name in Marks.__slots__]


@given(count=st.integers(1, 20), data=st.data())
def test_a_span_divides(count, data):
    """The first part of a span and what is left after it are the whole span, also twice over."""
    span = Span(SOURCE, 5, count, offset=7, line=3, skip=2)
    cut = data.draw(st.integers(0, count))
    first, rest = span.first(cut), span.after(cut)
    assert [(5, cut, 2), (5 + cut, count - cut, 2 + cut)] == [
        (part.seq, part.count, part.skip) for part in (first, rest)
    ]
    assert rest.after(rest.count) == span.after(count)
    assert {(7, 3)} == {(part.offset, part.line) for part in (first, rest)}
