"""Chunks and the spans cut from them: what did not change is known again, and each record goes out once."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chora_mp.records import Input, Span
from chora_mp.sources import jsonl
from chora_mp.sources.chunks import (
    LEAST_BYTES,
    MOST_BYTES,
    MOST_RECORDS,
    Chunks,
    FileSpans,
    digest,
    ends_chunk,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SOURCE = Input("/data.jsonl", spooled=False, name="data.jsonl")

MOST_GAP = 512
"""So many records in a row that nobody picked are worth another span."""

# A line's length in bytes, and whether it is a record or blank.
layouts = st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=40)

some_picks = st.lists(st.booleans(), max_size=30).map(bytes)
gap = st.integers(MOST_GAP - 2, MOST_GAP + 2).map(bytes)
gapped_picks = st.lists(some_picks | gap, max_size=4).map(b"".join)


def chunked(layout: list[tuple[int, bool]], every: int) -> Chunks:
    """Chunks of a file of such lines, about `every` bytes each; those without records are there, too."""
    chunks, starts, position = Chunks(), [0], 0
    for place, (length, _) in enumerate(layout):
        position += length
        if position >= every:
            starts.append(place + 1)
            position = 0
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(layout)], strict=True)):
        records = sum(is_record for _, is_record in layout[start:end])
        chunks.add(7 * number + 3, sum(length for length, _ in layout[:start]), start, records)
    return chunks


def chunks_of(count: int) -> Chunks:
    """Chunks of `count` records, ten bytes each, three in a chunk."""
    return chunked([(10, True)] * count, 30)


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


def picked(span: Span) -> list[int]:
    """The numbers of the records that a span wants rendered."""
    return [span.seq + place for place in span.places()]


def wanted(picks: bytes) -> list[int]:
    """The numbers of the records that are picked."""
    return [seq for seq, pick in enumerate(picks) if pick]


# ---- chunks ----------------------------------------------------------------------------------------------


@given(layout=layouts, every=st.integers(1, 50))
def test_each_record_has_its_chunk(layout, every):
    """By its number a record is found in its chunk, and its place in the ledger is that of no other."""
    chunks = chunked(layout, every)
    found, taken = [], set()
    for seq in range(chunks.records):
        index = chunks.index(seq)
        assert chunks.seq[index] <= seq < [*chunks.seq, chunks.records][index + 1]
        found.append((chunks.number[index], seq - chunks.seq[index]))
        taken.add(chunks.at(index) + seq)
    assert [number * MOST_RECORDS + place for number, place in found] == sorted(taken)
    assert sum(is_record for _, is_record in layout) == len(taken)


@given(layout=layouts, every=st.integers(1, 50), data=st.data())
def test_a_span_knows_the_places_of_its_records(layout, every, data):
    """Whichever part of a file it is, and whichever part of a span: what chunks say of a place, spans say, too."""
    chunks = chunked(layout, every)
    spans = FileSpans(SOURCE, chunks)
    while span := spans.take(data.draw(st.integers(1, 60))):
        cut = data.draw(st.integers(0, span.count))
        for part in (span, span.first(cut), span.after(cut)):
            for seq in range(part.seq, part.seq + part.count):
                assert seq + chunks.at(chunks.index(seq)) == part.at(seq)


@given(data=st.binary(max_size=40))
def test_a_digest_is_blake2b(data):
    """The digest of a record or a chunk is one that other tools can work out."""
    assert hashlib.blake2b(data, digest_size=16).digest() == digest(data)


@given(text=st.text(st.characters(exclude_categories=()), max_size=8))
@example("a\ud800b\udfff")
def test_text_for_a_database(text):
    """Any text can be stored; what is no text in a file either is spelled out, all else stays."""
    found = storable(text)
    assert "".join(rf"\u{ord(one):x}" if "\ud800" <= one <= "\udfff" else one for one in text) == found
    assert found.encode().decode() == found


# ---- where a chunk ends ----------------------------------------------------------------------------------

LENGTHS = {"short": (0, 200, 3000), "one length": (60, 60, 5000), "long": (0, 9_000, 120), "beyond": (0, 150_000, 30)}
"""Least and most length of a line, and how many lines."""


def random_lines(rng: random.Random, kind: str) -> list[bytes]:
    """Lines of JSON, no two of them alike."""
    least, most, count = LENGTHS[kind]
    return [b'{"n": %d, "pad": "%s"}\n' % (rng.getrandbits(60), b"x" * rng.randint(least, most)) for _ in range(count)]


def read(path: Path, lines: Iterable[bytes]) -> list[bytes]:
    """The chunks of a file of these lines."""
    path.write_bytes(b"".join(lines))
    return [b"".join(held) for _, held in jsonl.read_chunks(str(path), 0, path.stat().st_size)]


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(LENGTHS)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_chunks_have_their_size(tmp_path, seed, kind):
    """Every chunk but the last has the least size, none has more than the most and one line."""
    lines = random_lines(random.Random(seed), kind)
    found = read(tmp_path / "data.jsonl", lines)
    assert b"".join(lines) == b"".join(found)
    assert all(len(chunk) >= LEAST_BYTES for chunk in found[:-1])
    assert all(len(chunk) < MOST_BYTES + len(chunk.splitlines(keepends=True)[-1]) for chunk in found)
    assert len(found) > 6


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["short", "one length", "long"]), edit=st.sampled_from("caro"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_an_edit_leaves_other_chunks_alone(tmp_path, seed, kind, edit):
    """A line that is changed, added or removed, or all in another order from some line on: other chunks stay."""
    rng = random.Random(seed)
    lines = random_lines(rng, kind)
    before = read(tmp_path / "data.jsonl", lines)
    place, line = rng.randrange(len(lines)), b'{"n": "new"}\n'
    lines = {
        "c": [*lines[:place], line, *lines[place + 1 :]],
        "a": [*lines[:place], line, *lines[place:]],
        "r": [*lines[:place], *lines[place + 1 :]],
        "o": [*lines[place:], *lines[:place]],
    }[edit]
    after = read(tmp_path / "data.jsonl", lines)
    assert len(before) > 8
    assert len({*map(digest, after)} - {*map(digest, before)}) <= 6


def test_lines_without_end_end():
    """Where lines are all alike, so that none of them is ever the last by what it holds, size decides."""
    line = next(line for line in (b"%d\n" % number for number in range(10**6)) if not ends_chunk(line, LEAST_BYTES))
    held = [size for size in range(0, 2 * MOST_BYTES, 2**10) if ends_chunk(line, size)]
    assert MOST_BYTES == held[0]


def test_no_chunk_ends_too_soon():
    """However likely a line ends a chunk, one of less than the least size goes on."""
    lines = [b"%d\n" % number * 10_000 for number in range(100)]
    assert {True} == {ends_chunk(line, LEAST_BYTES) for line in lines}
    assert {False} == {ends_chunk(line, LEAST_BYTES - 1) for line in lines}


# ---- spans -----------------------------------------------------------------------------------------------


@given(layout=layouts, every=st.integers(1, 50), sizes=st.lists(st.integers(1, 7), min_size=1))
def test_spans_lead_to_their_records(layout, every, sizes):
    """Reading from where a span says, at the line it says, gives the records with the numbers it says."""
    spans = FileSpans(SOURCE, chunked(layout, every))
    found = []
    for turn in range(len(layout) + 1):
        span = spans.take(sizes[turn % len(sizes)])
        if span is None:
            break
        assert len(found) == span.seq
        found += reached(layout, span)
    assert places(layout) == found


@given(layout=layouts, every=st.integers(1, 50), picks=st.data())
def test_one_record_whoever_picked_it(layout, every, picks):
    """A span of one record leads to it, picked or not, and takes nothing from what is left."""
    chunks = chunked(layout, every)
    choice = bytes(picks.draw(st.lists(st.booleans(), min_size=chunks.records, max_size=chunks.records)))
    spans = FileSpans(SOURCE, chunks, choice)
    ones = [spans.one(seq) for seq in range(chunks.records)]
    assert [(seq, 1, None) for seq in range(chunks.records)] == [(one.seq, one.size, one.picks) for one in ones]
    assert places(layout) == [place for one in ones for place in reached(layout, one)]
    assert sum(choice) == spans.left


def deal_with(spans: FileSpans, total: int, moves: Any) -> list[int]:
    """The numbers of all records that were rendered, when spans are taken, done in part and given back anyhow."""
    out: deque[Span] = deque()
    dealt: list[int] = []
    while True:
        assert total == spans.left + sum(span.size for span in out) + len(dealt)
        if moves.draw(st.booleans()) or not out:
            most = moves.draw(st.integers(1, 9))
            span = spans.take(most)
            if span is not None:
                assert 1 <= span.size <= most
                out.append(span)
            elif not out:
                return dealt
        else:
            span = out.popleft()
            # As a worker does: it ends behind a record that is picked. Or as the dispatch does, which parts anywhere.
            ends = [0, *(place + 1 for place in span.places()), span.count]
            done = moves.draw(st.sampled_from(ends) if moves.draw(st.booleans()) else st.integers(0, span.count))
            dealt += picked(span.first(done))
            if done < span.count:
                # As the dispatch does when a worker dies: what it had begun, and all that waited behind it.
                waiting = [out.pop() for _ in range(moves.draw(st.integers(0, len(out))))][::-1]
                spans.give_back([span.after(done), *waiting])


@given(count=st.integers(0, 30), moves=st.data())
@settings(max_examples=50, deadline=None)
def test_each_record_once(count, moves):
    """Spans taken, dealt with in part and given back, in any order: each record is dealt with exactly once."""
    spans = FileSpans(SOURCE, chunks_of(count))
    assert list(range(count)) == sorted(deal_with(spans, count, moves))
    assert 0 == spans.left


@given(picks=some_picks | gapped_picks, moves=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
def test_each_picked_record_once(picks, moves):
    """The same where only some are picked: each of them is dealt with once, the others never."""
    spans = FileSpans(SOURCE, chunks_of(len(picks)), picks)
    assert wanted(picks) == sorted(deal_with(spans, sum(picks), moves))
    assert 0 == spans.left


@given(picks=gapped_picks, most=st.integers(1, 9))
def test_spans_skip_what_nobody_picked(picks, most):
    """A span begins and ends with a record that is picked, has no more than asked for and no long gap inside."""
    supply = FileSpans(SOURCE, chunks_of(len(picks)), picks)
    spans = [*iter(lambda: supply.take(most), None)]
    assert wanted(picks) == [seq for span in spans for seq in picked(span)]
    for span in spans:
        held = picks[span.seq : span.seq + span.count]
        assert (1, 1) == (held[0], held[-1])
        assert (held.count(1), None if all(held) else held) == (span.size, span.picks)
        assert span.size <= most
        assert bytes(MOST_GAP) not in held


def test_short_gaps_are_passed_over():
    """Records that nobody picked are no reason for a span of its own: reading on costs less."""
    spans = FileSpans(SOURCE, chunks_of(1200), b"\1\0" * 300 + bytes(600))
    assert [(0, 199, 100), (200, 199, 100), (400, 199, 100)] == [
        (span.seq, span.count, span.size) for span in iter(lambda: spans.take(100), None)
    ]


def test_a_long_gap_ends_a_span():
    """From so many records on that nobody picked, the ones behind them are a span of their own."""
    found = []
    for gap in (MOST_GAP - 1, MOST_GAP):
        spans = FileSpans(SOURCE, chunks_of(gap + 2), b"\1" + bytes(gap) + b"\1")
        found.append([(span.seq, span.count, span.size) for span in iter(lambda: spans.take(9), None)])  # noqa: B023
    assert [[(0, MOST_GAP + 1, 2)], [(0, 1, 1), (MOST_GAP + 1, 1, 1)]] == found


def test_what_comes_back_goes_out_first():
    """Spans given back come out next, in their order, before the rest of the file."""
    spans = FileSpans(SOURCE, chunks_of(10))
    first, second = spans.take(2), spans.take(3)
    spans.give_back([first.after(1), second])
    assert 9 == spans.left
    assert [(1, 1), (2, 3), (5, 5)] == [(span.seq, span.count) for span in iter(lambda: spans.take(9), None)]


def test_spans_come_in_order():
    """The first span begins with the first record, and none is larger than asked for."""
    spans = FileSpans(SOURCE, chunks_of(7))
    assert [(0, 3), (3, 3), (6, 1)] == [(span.seq, span.count) for span in iter(lambda: spans.take(3), None)]
    assert None is spans.take(1)


@pytest.mark.parametrize(
    ("chunks", "picks"),
    [(Chunks(), None), (chunked([(1, False)] * 5, 2), None), (chunks_of(9), bytes(9)), (Chunks(), b"")],
    ids=["empty", "blank lines", "nothing picked", "nothing to pick"],
)
def test_nothing_to_take(chunks, picks):
    """A file without records, or of which none is picked, has no spans."""
    spans = FileSpans(SOURCE, chunks, picks)
    assert (0, None) == (spans.left, spans.take(5))


@given(count=st.integers(1, 20), data=st.data())
def test_a_span_divides(count, data):
    """The first part of a span and what is left after it are the whole span, picks and all, also twice over."""
    picks = data.draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count).map(bytes))
    span = Span(SOURCE, 5, count, offset=7, line=3, skip=2, picks=picks)
    cut = data.draw(st.integers(0, count))
    first, rest = span.first(cut), span.after(cut)
    assert [(5, cut, 2), (5 + cut, count - cut, 2 + cut)] == [
        (part.seq, part.count, part.skip) for part in (first, rest)
    ]
    assert rest.after(rest.count) == span.after(count)
    assert {(7, 3)} == {(part.offset, part.line) for part in (first, rest)}
    assert picked(span) == picked(first) + picked(rest)
    assert [len(picked(part)) for part in (span, first, rest)] == [part.size for part in (span, first, rest)]
