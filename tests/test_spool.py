"""The spool: what goes in comes out, value for value; what would not is refused by name."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import gzip
import io
import ipaddress
import itertools
import math
import os
import pathlib
import sys
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from chora_mp.errors import OutputError, SourceError
from chora_mp.job import Source
from chora_mp.records import BadRecord
from chora_mp.sources import spooling
from chora_mp.sources.chunks import LEAST_BYTES, MOST_BYTES
from chora_mp.sources.spool import HEADER_BYTES, frame, parse, parse_all, read_chunks, read_frames
from chora_mp.sources.spooling import spool_source

if TYPE_CHECKING:
    from pathlib import Path

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.binary(max_size=8)
    | st.binary(max_size=8).map(bytearray)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.ip_addresses()
)
sets = st.sets(st.integers(), max_size=4) | st.frozensets(st.text(max_size=3), max_size=4)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Records of such values, bare and in lists, tuples and mappings."""
    inside = st.recursive(
        values,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        ),
        max_leaves=6,
    )
    return st.dictionaries(st.text(max_size=4), inside, max_size=3)


plain_records = nested(leaves | sets)


class Foreign:
    """Something that only this process knows."""


class Text(str):
    """A string with a type of its own."""

    __slots__ = ()


@dataclass
class Row:
    """What a source may well yield inside a record."""

    name: str = "x"


class Colour(enum.Enum):
    """One of a few."""

    RED = 1


Point = namedtuple("Point", "x y")  # noqa: PYI024  (the one that people have in their scripts)


def read(data: bytes, skip: int = 0) -> list[tuple[int | None, Any]]:
    """Line and record of all frames but the first."""
    return [(line, parse(payload)) for line, payload in read_frames(io.BytesIO(data), skip)]


def through(*records: Any, skip: int = 0) -> list[Any]:
    """The records that come out again, with their lines, which are 1, 2, 3 and so on."""
    return read(b"".join(frame(line, record) for line, record in enumerate(records, 1)), skip)


def refused(value: Any) -> BadRecord:
    """What stands in the place of a record that holds `value`."""
    [(line, found)] = through({"key": [value]})
    assert (1, BadRecord) == (line, type(found))
    return found


def told(value: Any) -> Any:
    """A value in a form that can be compared: type and signs of zeros count, the order in a set does not."""
    if isinstance(value, dict):
        return [(told(key), told(inner)) for key, inner in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    if isinstance(value, (list, tuple)):
        return type(value), [told(inner) for inner in value]
    return type(value), repr(value)


@given(record=plain_records)
def test_records_come_back(record):
    """Every value returns as it was: equal, of its type, NaN and signs of zeros included."""
    [(line, found)] = through(record)
    assert (1, told(record)) == (line, told(found))


@given(records=st.lists(plain_records, max_size=5), skip=st.integers(0, 6))
def test_skipped_frames(records, skip):
    """Reading starts behind as many frames as are to be passed over."""
    expected = [(line, told(record)) for line, record in enumerate(records, 1)][skip:]
    assert expected == [(line, told(record)) for line, record in through(*records, skip=skip)]


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("NaN"),
        decimal.Decimal("1.10"),
        math.nan,
        -0.0,
        10**5000,
        "\ud800",
        Markup("<b>"),
        uuid.UUID(int=1),
        datetime.datetime(2024, 3, 31, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=45))),
        OrderedDict(b=1, a=2),
        Counter("aab"),
        deque([1, 2], maxlen=3),
        fractions.Fraction(1, 3),
        ipaddress.ip_network("10.0.0.0/8"),
        pathlib.PurePosixPath("/a/b"),
        range(3),
        slice(1, 2),
        1j,
        bytearray(b"x"),
        (),
        frozenset(),
        {1: {2: {(): None}}},
        defaultdict(list, a=[1]),
        SimpleNamespace(a=1),
        "x" * 10**6,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_every_kind(value):
    """Values that databases, YAML and TOML give keep type and value."""
    [(_, found)] = through({"key": value})
    sys.set_int_max_str_digits(0)
    try:
        assert (type(value), repr(value)) == (type(found["key"]), repr(found["key"]))
    finally:
        sys.set_int_max_str_digits(4300)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Foreign(), "Foreign"),
        (Foreign, "Foreign"),
        (Text("x"), "Text"),
        (Row(), "Row"),
        (Colour.RED, "Colour"),
        (Point(1, 2), "Point"),
        (through, "through"),
        (SimpleNamespace(a=Row()), "Row"),
        (defaultdict(Row), "Row"),
        ({Colour.RED: 1}, "Colour"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_foreign_types_are_refused(value, name):
    """What only the caller's own code can rebuild is refused, and the reason names its type."""
    expected = BadRecord(
        "TypeError",
        f"the record holds a {__name__}.{name}; "
        "records carry plain data, so convert it to a dict, list, string or number",
    )
    assert expected == refused(value)


@pytest.mark.parametrize("value", [sys.__stderr__, (x for x in ()), lambda: 1, os, MappingProxyType({})],
                         ids=lambda value: type(value).__name__)  # fmt: skip
def test_what_cannot_be_carried(value):
    """Files, generators, functions and modules are refused with a reason."""
    assert ("TypeError", True) == (refused(value).type, bool(refused(value).message))


def test_what_python_can_run_is_refused():
    """A record carries data, not calls: functions that do harm when a worker rebuilds them don't get through."""

    class Harmful:
        def __reduce__(self):
            return os.system, ("exit 1",)

    assert "Harmful" in refused(Harmful()).message


def test_a_cycle():
    """A record that holds itself is refused instead of going on for ever."""
    record: dict[str, Any] = {"name": "x"}
    record["self"] = [record]
    [(line, found)] = through(record)
    assert (1, BadRecord, True) == (line, type(found), "cyclic" in found.message)


def test_nesting_too_deep():
    """A record nested beyond Python's depth is refused."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    [(_, found)] = through({"key": value})
    while value:
        value = value.pop()
    assert "RecursionError" == found.type


@pytest.mark.parametrize("bad", [BadRecord("ValueError", "no good"), BadRecord("X", "\ud800é"), BadRecord("", "")])
def test_bad_records_come_back(bad):
    """What stands in a record's place is carried like one, line and all."""
    assert [(1, bad), (2, {"a": 1})] == through(bad, {"a": 1})
    assert [(2, {"a": 1})] == through(bad, {"a": 1}, skip=1)


def test_a_bad_record_leaves_its_neighbours():
    """One record that cannot be carried is one failure; those before and after it arrive."""
    found = through({"a": 1}, {"a": Foreign()}, {"a": 3})
    assert [(1, {"a": 1}), (3, {"a": 3})] == [found[0], found[2]]
    assert "TypeError" == found[1][1].type


def test_an_unknown_line():
    """A record without a line has none when it is read, and big lines are kept."""
    data = frame(None, {}) + frame(2**40, {})
    assert [(None, {}), (2**40, {})] == read(data)


def test_a_mapping_of_another_type_is_carried_as_a_dict():
    """A record is a dictionary when it arrives, whatever mapping it was."""
    [(_, found)] = through(OrderedDict(a=1))
    assert (dict, {"a": 1}) == (type(found), found)


@given(record=nested(leaves))
def test_equal_records_give_equal_bytes(record):
    """However its values are shared in memory, a record has one form: it can be compared by its bytes."""
    import copy

    shared = {"first": record, "second": record}
    apart = {"first": copy.deepcopy(record), "second": copy.deepcopy(record)}
    assert frame(1, shared) == frame(1, apart)


def test_equal_strings_give_equal_bytes():
    """A string that occurs twice is written as often, be it one object or two."""
    one, other = str(b"a name", "ascii"), str(b"a name", "ascii")
    assert one is not other
    assert frame(1, {"x": one, "y": one}) == frame(1, {"x": one, "y": other})


def test_a_value_that_cannot_be_rebuilt():
    """A value whose own code fails when it is read is one failed record; reading goes on."""
    import pickle
    import struct

    payload = b"\0" + pickle.dumps({"a": uuid.UUID(int=1)}, 5).replace(b"UUID", b"ABCD")
    broken = struct.pack("<QI", 7, len(payload)) + payload
    found = read(broken + frame(8, {"a": 1}))
    assert [7, 8] == [line for line, _ in found]
    assert ("AttributeError", {"a": 1}) == (found[0][1].type, found[1][1])


# ---- chunks ----------------------------------------------------------------------------------------------


@given(records=st.lists(plain_records | st.builds(BadRecord, st.text(), st.text()), max_size=5))
def test_parsed_together(records):
    """What is parsed together is what is parsed one by one; bad records are left to that."""
    payloads = [payload for _, payload in read_frames(io.BytesIO(b"".join(frame(1, one) for one in records)), 0)]
    together = parse_all(payloads, b"".join(payloads), frozenset())
    one_by_one = [parse(payload) for payload in payloads]
    if records and not any(isinstance(record, BadRecord) for record in one_by_one):
        assert together is not None
        assert [told(record) for record in one_by_one] == [told(record) for record in together]
    else:
        assert together is None


@given(
    sizes=st.lists(st.integers(0, 200) | st.sampled_from([4_000, 9_000, 70_000]), max_size=40),
    cuts=st.sets(st.integers(0, 40), max_size=4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_chunks_hold_all_frames(tmp_path, sizes, cuts):
    """However a spool is cut for the scan, its chunks hold every frame once, and each is where its offset says."""
    frames = [frame(number, {"pad": "x" * size}) for number, size in enumerate(sizes, 1)]
    path = tmp_path / "spool"
    path.write_bytes(b"".join(frames))
    offsets = list(itertools.accumulate(map(len, frames), initial=0))
    ends = sorted({0, len(sizes), *(cut for cut in cuts if cut < len(sizes))})
    found = []
    for start, end in itertools.pairwise(ends):
        for offset, held in read_chunks(str(path), offsets[start], offsets[end]):
            assert offsets[len(found)] == offset
            found += held
    expected = [(number, data[HEADER_BYTES:]) for number, data in enumerate(frames, 1)]
    assert expected == found


def test_chunks_are_small(tmp_path):
    """A chunk ends soon after it is big enough, so that an edit costs no more than that."""
    path = tmp_path / "spool"
    frames = [frame(None, {"number": number, "pad": "x" * 100}) for number in range(5000)]
    path.write_bytes(b"".join(frames))
    chunks = read_chunks(str(path), 0, path.stat().st_size)
    sizes = [sum(HEADER_BYTES + len(payload) for _, payload in held) for _, held in chunks]
    assert len(b"".join(frames)) == sum(sizes)
    assert LEAST_BYTES <= min(sizes[:-1])
    assert max(sizes) < MOST_BYTES + max(map(len, frames))
    assert len(sizes) > 10


# ---- spooling --------------------------------------------------------------------------------------------


def spooled(tmp_path: Path, source: Source) -> tuple[list[int], list[tuple[int | None, Any]]]:
    """The cuts of a spooled source, and line and record of all that is in the spool, which is all that is there."""
    path = tmp_path / "spools" / "spool"
    path.parent.mkdir(exist_ok=True)
    cuts = spool_source(source, str(path))
    assert ["spool"] == os.listdir(path.parent)
    return cuts, read(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "content", "source", "expected"),
    [
        ("data.json", b'[{"a": 1},\n{"a": 2},\n3]', {"format": "json"}, [(1, {"a": 1}), (2, {"a": 2}), (3, None)]),
        ("data.yaml", b"- a: 1\n- a: 2024-01-01\n", {"format": "yaml"},
         [(1, {"a": 1}), (2, {"a": datetime.date(2024, 1, 1)})]),
        ("data.jsonl.gz", gzip.compress(b'{"a": 1}\n\n{"a": 2}\nnull'), {"format": "jsonl", "gzip": True},
         [(1, {"a": 1}), (3, {"a": 2}), (4, None)]),
        ("data.csv", b"a,b\n1,2\n", {"format": "csv"}, [(2, {"a": "1", "b": "2"})]),
        ("empty.json", b"[]", {"format": "json"}, []),
    ],
    ids=["JSON", "YAML", "zipped lines", "CSV", "nothing"],
)  # fmt: skip
def test_a_source_is_spooled(tmp_path, name, content, source, expected):
    """Records of any source lie in the spool with their lines, what is no record in its place; one piece, if small."""
    (tmp_path / name).write_bytes(content)
    cuts, found = spooled(tmp_path, Source(name, path=tmp_path / name, **source))
    assert expected == [(line, None if isinstance(record, BadRecord) else record) for line, record in found]
    assert [0, os.path.getsize(tmp_path / "spools" / "spool")] == cuts


@given(sizes=st.lists(st.integers(0, 60), max_size=30), piece=st.integers(1, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_spool_can_be_cut(tmp_path, sizes, piece):
    """The cuts lie between frames, in order, a piece apart; the pieces together are the spool."""
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"a": "%s"}\n' % (b"x" * n) for n in sizes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooling, "PIECE_BYTES", piece)
        source = Source("data.jsonl.gz", "jsonl", tmp_path / "data.jsonl.gz", gzip=True)
        cuts, found = spooled(tmp_path, source)
    edges = [*itertools.accumulate((len(frame(line, record)) for line, record in found), initial=0)]
    assert (0, edges[-1]) == (cuts[0], cuts[-1])
    assert set(cuts) <= set(edges)
    pieces = [end - start for start, end in itertools.pairwise(cuts)]
    assert all(piece <= size for size in pieces[:-1])
    assert all(
        size < piece + max(map(len, (frame(line, record) for line, record in found)), default=0) for size in pieces
    )


def test_a_spool_that_cannot_be_written(tmp_path):
    """Where there is no room for the spool the error names the file and the source."""
    (tmp_path / "data.json").write_bytes(b"[]")
    with pytest.raises(OutputError) as caught:
        spool_source(Source("data.json", "json", tmp_path / "data.json"), str(tmp_path / "absent" / "spool"))
    expected = f"{tmp_path}/absent/spool: cannot write the records read from data.json: No such file or directory"
    assert expected == str(caught.value)


def test_a_source_that_cannot_be_read(tmp_path):
    """What is wrong with the source is told as the source's."""
    (tmp_path / "data.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(SourceError, match=r"^data\.jsonl\.gz: cannot be read: Not a gzipped file"):
        spool_source(Source("data.jsonl.gz", "jsonl", tmp_path / "data.jsonl.gz", gzip=True), str(tmp_path / "spool"))
