"""JSON lines: cut anywhere, every record is read once, from its own line, with its values as they are written."""

from __future__ import annotations

import io
import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chora_mp.records import BadRecord, Input
from chora_mp.sources import jsonl
from chora_mp.sources.chunks import LEAST_BYTES, MOST_BYTES, Chunks, FileSpans
from chora_mp.sources.jsonl import parse, parse_all, read_chunks, read_lines, stamp

if TYPE_CHECKING:
    from pathlib import Path

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


# ---- spans -----------------------------------------------------------------------------------------------

blank = st.sampled_from([b"", b" ", b"\t", b"\r", b" \t \r", b"\x0c", b"   "])
record = st.integers(0, 99).map(lambda number: json.dumps({"n": number}).encode())
padded = st.integers(1, 40).map(lambda size: json.dumps({"pad": "x" * (size * 5000)}).encode())
lines = st.lists(record | record.map(lambda text: text + b"\r") | blank | padded | st.just(b"not JSON"), max_size=30)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A file's bytes: records, blank lines, long lines, either line ending, with and without a final newline."""
    return b"\n".join(draw(lines)) + draw(st.sampled_from([b"", b"\n", b"\n\n", b"\n \n"]))


def expected_records(data: bytes) -> list[tuple[int, Any]]:
    """Line and record, as a plain loop over the file's lines finds them."""
    return [(number, parse(text)) for number, text in enumerate(data.split(b"\n"), 1) if text.strip()]


def scanned(path: Path, cuts: list[int]) -> tuple[Chunks, int]:
    """The chunks of a file scanned in pieces that are cut at these bytes, each where it says; and how many lines."""
    data, chunks, line, position = path.read_bytes(), Chunks(), 0, 0
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        for offset, held in read_chunks(str(path), start, end):
            assert position == offset
            assert start <= offset < end
            assert all(text.count(b"\n") == 1 for text in held[:-1])
            position += len(b"".join(held))
            assert b"".join(held) == data[offset:position]
            chunks.add(len(chunks.seq), offset, line, sum(not text.isspace() for text in held))
            line += len(held)
    assert len(data) == position
    return chunks, line


def all_read(path: Path, chunks: Chunks, sizes: list[int]) -> list[tuple[int, int, Any]]:
    """Sequence number, line and record of everything that spans of these sizes hold, the last size repeated."""
    spans = FileSpans(Input(str(path), spooled=False, name="x"), chunks)
    found = []
    with path.open("rb") as file:
        for turn in range(10**6):
            span = spans.take(sizes[min(turn, len(sizes) - 1)])
            if span is None:
                return found
            file.seek(span.offset)
            entries = read_lines(file, span.line, span.skip)
            for number in range(span.count):
                line, text = next(entries)
                found.append((span.seq + number, line, parse(text)))
    raise AssertionError("spans without end")


@given(
    data=contents(),
    fractions=st.lists(st.floats(0, 1), max_size=5),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    every=st.sampled_from([1, 7, 64, None]),
)
@same_folder
def test_any_cut_reads_every_record_once(tmp_path, data, fractions, sizes, every):
    """However a file is scanned in pieces and cut into chunks and spans, each record comes once, with its line."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        if every:
            patch.setattr(jsonl, "LEAST_BYTES", 1)
            patch.setattr(jsonl, "ends_chunk", lambda text, held: held >= every)
        chunks, _ = scanned(path, [int(fraction * len(data)) for fraction in fractions])
    expected = [(seq, line, value) for seq, (line, value) in enumerate(expected_records(data))]
    assert len(expected) == chunks.records
    assert expected == all_read(path, chunks, sizes)


@pytest.mark.parametrize("data", [b'{"a":1}\n{"a":2}\n{"a":3}\n', b'{"a":1}\r\n\r\n{"a":2}', b"\n\n", b"", b"\n", b"x"])
def test_every_byte_is_a_good_place_to_cut(tmp_path, data):
    """Cut at any byte, in the middle of a record or of a line ending, the pieces together are the file."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    expected = [(seq, line, value) for seq, (line, value) in enumerate(expected_records(data))]
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            chunks, count = scanned(path, [first, second])
            assert (expected, data.count(b"\n") + (not data.endswith(b"\n") and bool(data))) == (
                all_read(path, chunks, [1]),
                count,
            )


def test_chunks_are_small(tmp_path):
    """A big file is cut into chunks of some kilobytes; a long line is whole, however long it is."""
    path = tmp_path / "data.jsonl"
    long = b'{"a": "' + b"x" * 10**6 + b'"}\n'
    path.write_bytes(b"".join(b'{"a": "%010d"}\n' % n for n in range(50_000)) + long + b'{"a": 1}\n')
    sizes = [len(b"".join(held)) for _, held in read_chunks(str(path), 0, path.stat().st_size)]
    *others, longest = sorted(sizes)
    assert path.stat().st_size == sum(sizes)
    assert len(long) <= longest < MOST_BYTES + len(long)
    assert max(others) < MOST_BYTES + 20
    assert LEAST_BYTES <= min(sizes[:-1])
    assert len(others) > 15


def test_a_span_begins_near_its_chunk(tmp_path):
    """A worker passes over no more records than there are in a chunk."""
    path = tmp_path / "data.jsonl"
    text = b'{"a": "0123456789"}\n'
    path.write_bytes(text * 50_000)
    spans = FileSpans(Input(str(path), spooled=False, name="x"), scanned(path, [])[0])
    spans.take(33_333)
    span = spans.take(1)
    assert span is not None
    assert MOST_BYTES / len(text) + 1 >= span.skip
    assert 33_333 == span.offset // len(text) + span.skip


def test_lines_are_counted_from_where_the_file_stands():
    """Line numbers go on from the one given; what is passed over are records, not lines."""
    file = io.BytesIO(b'\n{"a": 1}\n\n{"a": 2}\n{"a": 3}')
    assert [(13, b'{"a": 2}\n'), (14, b'{"a": 3}')] == list(read_lines(file, 10, 1))


def test_a_stamp_changes(tmp_path):
    """Writing to a file, touching it or putting another in its place changes its stamp; reading doesn't."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"one")
    stamps = [stamp(str(path))]
    path.read_bytes()
    assert stamps[0] == stamp(str(path))
    path.write_bytes(b"longer")
    stamps.append(stamp(str(path)))
    os.utime(path, ns=(1, 1))
    stamps.append(stamp(str(path)))
    (tmp_path / "other").write_bytes(b"longer")
    os.utime(tmp_path / "other", ns=(1, 1))
    os.replace(tmp_path / "other", path)
    stamps.append(stamp(str(path)))
    assert 4 == len(set(stamps))


# ---- records ---------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


def same(expected: Any, actual: Any) -> bool:
    """Equal, of the same types all the way down, signs of zeros and NaN included."""
    return repr(expected) == repr(actual)


@given(
    record=st.dictionaries(st.text(max_size=4), json_values, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from(["", " ", "\t", "\r"]),
)
def test_records_are_what_python_reads(record, ascii_only, indent):
    """Any JSON that Python writes is read as Python reads it, value for value and type for type."""
    text = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    line = indent.encode() + text + indent.encode() + b"\n"
    assert same(json.loads(text), parse(line))


numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z")


@given(number=numbers)
@example("9223372036854775807")
@example("9223372036854775808")
@example("-9223372036854775809")
@example("18446744073709551616")
@example("1" * 4300)
@example("-0")
@example("-0.0")
@example("1e400")
@example("0.1e-400")
@example("123456789012345678901234567890.5")
def test_numbers_are_what_python_reads(number):
    """Integers of any length are exact, and floats the nearest to what is written."""
    assert same(json.loads(f'{{"n": [{number}]}}'), parse(f'{{"n": [{number}]}}\n'.encode()))


@given(text=st.binary(max_size=12) | st.text('{}[]":, 0123456789eE.-+tfn\\u\x00ué', max_size=14).map(str.encode))
def test_what_python_refuses_is_refused(text):
    """Any bytes at all: a record where Python finds a mapping, and a reason where it finds none; never an error."""
    found = parse(text)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        assert same(value, found)
    else:
        assert isinstance(found, BadRecord)
        assert "" != found.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a": NaN}', "{'a': nan}"),
        (b'{"a": Infinity, "b": -Infinity}', "{'a': inf, 'b': -inf}"),
        (b'{"a": "\\ud800"}', r"{'a': '\ud800'}"),
        (b'{"\\udfff": 1}', r"{'\udfff': 1}"),
        (b'{"a": "\\ud83d\\ude00"}', "{'a': '😀'}"),
        (b'{"a": 1, "a": 2}', "{'a': 2}"),
        (b'{"id": 12345678901234567890123}', "{'id': 12345678901234567890123}"),
        (b'{"id": "0000000000000000000000"}', "{'id': '0000000000000000000000'}"),
        (b'{"a": 0.1234567890123456789012}', "{'a': 0.12345678901234568}"),
        (b"\xef\xbb\xbf{}", "{}"),
        (b"{}", "{}"),
    ],
)
def test_unusual_records(text, expected):
    """Values that other parsers round, refuse or lose."""
    assert expected == repr(parse(text + b"\n"))


@pytest.mark.parametrize(
    ("text", "type_", "message"),
    [
        (b"[1]", "RecordError", "record is not a mapping (found a list); write names and values"),
        (b'"text"', "RecordError", "record is not a mapping (found a string); write names and values"),
        (b"1", "RecordError", "record is not a mapping (found a number); write names and values"),
        (b"1.5", "RecordError", "record is not a mapping (found a number); write names and values"),
        (b"NaN", "RecordError", "record is not a mapping (found a number); write names and values"),
        (b"12345678901234567890123", "RecordError", "record is not a mapping (found a number); write names and values"),
        (b"true", "RecordError", "record is not a mapping (found true); write names and values"),
        (b"null", "RecordError", "record is not a mapping (found null); write names and values"),
        (b"{", "JSONDecodeError",
         "not valid JSON: Expecting property name enclosed in double quotes (column 3)"),
        (b'{"a": 1} x', "JSONDecodeError", "not valid JSON: Extra data (column 10)"),
        (b'{"a": 1},', "JSONDecodeError", "not valid JSON: Extra data (column 9)"),
        (b'{"a": "\xff"}', "UnicodeDecodeError",
         "not valid UTF-8 (byte 7 of the line: invalid start byte)"),
        (b'{"a": "\xc3', "UnicodeDecodeError",
         "not valid UTF-8 (byte 7 of the line: invalid continuation byte)"),
        (b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "RecursionError", "the record is nested too deeply"),
    ],
)  # fmt: skip
def test_bad_records(text, type_, message):
    """What is no record is a failure that says why and where in the line."""
    assert BadRecord(type_, message) == parse(text + b"\n")


def test_an_integer_of_5000_digits():
    """Python's own limit on the digits of an integer is said as Python says it."""
    found = parse(b'{"a": ' + b"1" * 5000 + b"}\n")
    assert ("ValueError", True) == (found.type, found.message.startswith("Exceeds the limit"))


@pytest.mark.parametrize("depth", [10, 500, 1000, 1020, 1030, 3000])
def test_deep_nesting(depth):
    """A nested record is read, or refused as nested too deeply: nothing in between, at any depth."""
    found = parse(b'{"a": ' + b"[" * depth + b"]" * depth + b"}\n")
    if depth <= 500:
        assert isinstance(found, dict)
    else:
        assert isinstance(found, dict) or found == BadRecord("RecursionError", "the record is nested too deeply")


# ---- records together ------------------------------------------------------------------------------------

written = st.dictionaries(st.text(max_size=4), json_values, max_size=3).map(lambda one: json.dumps(one).encode())
line = (
    written
    | numbers.map(lambda number: f'{{"n": {number}}}'.encode())
    | json_values.map(lambda one: json.dumps(one).encode())
    | st.sampled_from([b"{}", b"[1]", b"null", b'"text"', b"1", b"{", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": 1} x'])
)


def texts_of(record, names):
    """The text under each name that has one, as a key or a path is made of it."""
    return {name: record[name] for name in names if type(record.get(name)) is str}


NAMES = frozenset({"a", "n", "é", ""})


@settings(max_examples=200)
@given(texts=st.lists(line.map(lambda text: text + b"\n"), max_size=6), apart=st.sampled_from([b"", b"\n", b" \n"]))
@example([b'{"n": 1234567890123456789}\n'], b"")
@example([b'{"n": 123456789}\n', b'{"n": 12345678901234567890}\n'], b"")
@example([b'{"a": "1", "x": 1e999}\n', b'{"a": "1", "a": "2"}\n', b'{"\\u0061": "3"}\n'], b"")
@example([b'{"a": "\\ud800"}\n'], b"")
@example([b'{"x": "\\ud800", "a": ""}\n'], b"")
def test_looked_at_together(texts, apart):
    """What is found under some names of lines together is what is there, line by line, or all are refused."""
    found = parse_all(texts, apart.join(texts), NAMES)
    if found is not None:
        records = [parse(text) for text in texts]
        assert [dict] * len(texts) == [type(record) for record in records]
        assert [texts_of(record, NAMES) for record in records] == [texts_of(one, NAMES) for one in found]


def test_plain_records_are_looked_at_together():
    """Records without anything unusual, which nearly all are, are not refused; only what is asked for is made."""
    texts = [b'{"n": "%d", "text": "\xc3\xa9", "f": 1.5, "l": [null, true]}\n' % number for number in range(100)]
    assert [{"n": str(number)} for number in range(100)] == parse_all(texts, b"".join(texts), NAMES)


@pytest.mark.parametrize(
    "text",
    [b"{", b"", b"[1]", b'{"a": NaN}', b'{"a": "\xff"}', b'{"x": "\xff"}', b'{"x": 01}', b'{"x": "\x01"}',
     b'{"a": 1} 2', b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
)  # fmt: skip
def test_what_takes_a_closer_look(text):
    """One line that is no record, or not quite, makes all of them be parsed one by one."""
    texts = [b'{"a": 1}\n', text + b"\n", b'{"a": 2}\n']
    assert None is parse_all(texts, b"".join(texts), NAMES)
