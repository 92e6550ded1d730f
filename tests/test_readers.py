"""Every format, good and bad: what arrives, from which line, and what is said of what doesn't."""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
import io
import json
import math
import os
import pickle
import sqlite3
import sys
import tracemalloc
from collections import OrderedDict
from contextlib import closing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.errors import SourceError
from chora_mp.job import Source
from chora_mp.records import BadRecord
from chora_mp.sources import json_reader
from chora_mp.sources.readers import read_records
from chora_mp.sources.shapes import as_record, kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One folder for all examples of a test: each writes its file anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def written(folder: Path, format_: Any, content: str | bytes, **options: Any) -> Source:
    """A source over a file with this content."""
    path = folder / f"data.{format_}"
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if options.get("gzip") else data)
    return Source(name=path.name, format=format_, path=path, **options)


def read(folder: Path, format_: str, content: str | bytes, **options: Any) -> list[Any]:
    """What the reader gives for a file with this content."""
    return list(read_records(written(folder, format_, content, **options)))


def refused(source: Source) -> str:
    """What the error says that ends the reading."""
    with pytest.raises(SourceError) as caught:
        list(read_records(source))
    return str(caught.value)


def bad(message: str, type_: str = "RecordError") -> BadRecord:
    """What stands for a record that is none."""
    return BadRecord(type_, message)


def no_mapping(found: str) -> BadRecord:
    """What stands for a record that is some other kind of value."""
    return bad(f"record is not a mapping (found {found}); write names and values")


# ---- all formats -----------------------------------------------------------------------------------------

SAME = [
    ("json", '[{"a": "é", "b": "2"}]', {}),
    ("json", '{"in": {"side": [{"a": "é", "b": "2"}]}}', {"records": ("in", "side")}),
    ("yaml", "a: é\nb: '2'\n", {}),
    ("yaml", "- {a: é, b: '2'}\n", {}),
    ("yaml", "in: {side: [{a: é, b: '2'}]}\n", {"records": ("in", "side")}),
    ("toml", "[[in.side]]\na = 'é'\nb = '2'\n", {"records": ("in", "side")}),
    ("csv", "a,b\né,2\n", {}),
]


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "utf-16"])
@pytest.mark.parametrize("zipped", [False, True])
def test_text_in_any_encoding(tmp_path, case, encoding, zipped):
    """The same record comes out of every text format, in any encoding, zipped or not."""
    format_, text, options = case
    pairs = read(tmp_path, format_, text.encode(encoding), encoding=encoding, gzip=zipped, **options)
    assert [record for _, record in pairs] == [{"a": "é", "b": "2"}]


@pytest.mark.parametrize(("format_", "text", "options"), SAME)
def test_byte_order_mark(tmp_path, format_, text, options):
    """A byte order mark is no part of the first record."""
    pairs = read(tmp_path, format_, codecs.BOM_UTF8 + text.encode(), **options)
    assert [record for _, record in pairs] == [{"a": "é", "b": "2"}]


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv", "sqlite"])
def test_no_such_file(tmp_path, format_):
    """A missing file is named, with the operating system's reason."""
    source = Source("data/x", format_, tmp_path / "x", records=("a",), query="SELECT 1")
    assert refused(source).startswith("data/x: cannot be read (No such file or directory); ")


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv", "sqlite"])
def test_folder_instead_of_file(tmp_path, format_):
    """A folder where a file should be is refused."""
    assert "x: cannot be read (Is a directory)" in refused(Source("x", format_, tmp_path, query="SELECT 1"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    """A file that may not be read is refused with the reason."""
    source = written(tmp_path, "json", "[]")
    os.chmod(str(source.path), 0)
    assert "cannot be read (Permission denied)" in refused(source)


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv", "sqlite"])
def test_no_path(format_):
    """A source that lacks its path is refused, not crashed on."""
    assert refused(Source("x", format_)).startswith("x: has no path; ")


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"[]", "Not a gzipped file"),
        (lambda data: data[:-10], "Compressed file ended before"),
        (lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:], ""),
        (lambda data: data[:-8] + b"\0" * 8, "CRC check failed"),
    ],
)
def test_damaged_gzip(tmp_path, format_, damage, reason):
    """Whatever is wrong with a zipped file ends as one kind of error."""
    source = written(tmp_path, format_, "[]", gzip=True)
    with open(str(source.path), "wb") as file:
        file.write(damage(gzip.compress(b"# 0123456789\n" * 500)))
    assert refused(source).startswith(f"data.{format_}: cannot be read ({reason}")


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv"])
def test_unknown_encoding(tmp_path, format_):
    """An encoding that doesn't exist is refused by name."""
    assert "data." + format_ + ": unknown encoding: utf-9; set" in refused(
        written(tmp_path, format_, "a", encoding="utf-9")
    )


@pytest.mark.parametrize("format_", ["json", "yaml", "toml", "csv"])
def test_truncated_utf16(tmp_path, format_):
    """An encoding whose broken bytes can't be kept apart ends the reading."""
    content = "[]\n[]\n".encode("utf-16")[:-1]
    assert refused(written(tmp_path, format_, content, encoding="utf-16")).startswith(f"data.{format_}: cannot be")


@pytest.mark.parametrize(
    ("format_", "content", "place"),
    [
        ("json", b'[{"a": 1},\n {"a": "\xff"}]', "2:9"),
        ("yaml", b"- a: 1\n- a: \xff\n", "2"),
        ("toml", b"[[a]]\nb = '\xff'\n", "2"),
        ("csv", b"a,\xff\n1,2\n", "1"),
    ],
)
def test_undecodable_source(tmp_path, format_, content, place):
    """Bytes that don't decode are named with their place."""
    message = refused(written(tmp_path, format_, content))
    assert message.startswith(f"data.{format_}:{place}: not valid utf-8 (found the byte 0xff); save it as utf-8")


PATHS = [
    (("a", "x"), {"a": {"b": [{}]}}, "'a.x' leads nowhere ('a' has 'b'); name the list"),
    (("itmes",), {"items": [{}], "n": 1}, "nowhere (the top level has 'items', 'n'); did you mean 'items'?"),
    (("a", "itmes", "b"), {"a": {"items": {}}}, "('a' has 'items'); did you mean 'a.items.b'?"),
    (("a", "b"), {"a": [{}]}, "'a.b' leads nowhere ('a' is a list); set records: to 'a'"),
    (("a", "b"), {"a": "x"}, "'a.b' leads nowhere ('a' is a string); "),
    (("a",), {"a": {"b": [], "c": 1}}, "'a' is a mapping, not a list; set records: to 'a.b'"),
    (("a",), {"a": 3}, "'a' is a number, not a list; "),
    (("a",), {"a": True}, "'a' is true, not a list; "),
    (("z",), {}, "'z' leads nowhere (the top level has no names); "),
    (("zz",), {f"k{n}": n for n in range(10)}, "has 'k0', 'k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'k7' and 2 more)"),
]  # fmt: skip


def as_text(format_: str, document: Any) -> str:
    """A document in JSON, which is YAML too, or the little TOML that the paths need."""
    if format_ != "toml":
        return json.dumps(document)
    return "".join(f"{name} = {inline(value)}\n" for name, value in document.items())


def inline(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {inline(member)}" for name, member in value.items()) + "}"
    return f"[{', '.join(map(inline, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.mark.parametrize("format_", ["json", "yaml", "toml"])
@pytest.mark.parametrize(("path", "document", "message"), PATHS)
def test_paths_that_lead_nowhere(tmp_path, format_, path, document, message):
    """A path to no list is answered with what is there, in the same words for every format."""
    told = refused(written(tmp_path, format_, as_text(format_, document), records=path))
    assert told.startswith(f"data.{format_}: records: {'.'.join(path)!r}")
    assert message in told


@pytest.mark.parametrize("format_", ["json", "yaml"])
def test_path_into_a_list(tmp_path, format_):
    """A path into a file that is a list already says to leave it out."""
    message = refused(written(tmp_path, format_, "[]", records=("a",)))
    assert f"data.{format_}: records: 'a' leads nowhere (the top level is a list); leave records: out" == message


@pytest.mark.parametrize("format_", ["json", "toml"])
@pytest.mark.parametrize(
    ("document", "advice"),
    [
        ({"items": [{}], "n": 1, "users": []}, "set records: to one of 'items', 'users'"),
        ({"n": 1, "users": [{"a": 1}]}, "set records: to 'users'"),
        ({"n": 1}, "write a list of mappings there"),
    ],
)
def test_mapping_at_the_top(tmp_path, format_, document, advice):
    """A mapping where the list should be is answered with the lists that it holds."""
    message = refused(written(tmp_path, format_, as_text(format_, document)))
    assert f"data.{format_}: its top level is a mapping, not a list; {advice}" == message


NO_RECORDS = [
    ("[1]", "a list"), ('"x"', "a string"), ("1", "a number"), ("1.5", "a number"), ("true", "true"),
    ("false", "false"), ("null", "null"),
]  # fmt: skip


@pytest.mark.parametrize("format_", ["json", "yaml"])
@pytest.mark.parametrize(("text", "found"), NO_RECORDS)
def test_elements_that_are_no_records(tmp_path, format_, text, found):
    """An element that is no mapping is bad in its place, and the rest goes on."""
    assert [(1, {"a": 1}), (2, no_mapping(found)), (3, {"b": 2})] == read(
        tmp_path, format_, f'[{{"a": 1}},\n{text},\n{{"b": 2}}]'
    )


@pytest.mark.parametrize("format_", ["json", "yaml"])
@pytest.mark.parametrize(("text", "found"), NO_RECORDS[1:])
def test_files_that_are_no_list(tmp_path, format_, text, found):
    """A file that is one bare value says so."""
    assert f"data.{format_}: its top level is {found}, not a list; " in refused(written(tmp_path, format_, text))


@pytest.mark.parametrize("format_", ["json", "yaml", "toml"])
def test_nested_too_deeply(tmp_path, format_):
    """A file that would exhaust the stack is refused."""
    text = "a = " * (format_ == "toml") + "[" * 100_000
    assert "nested too deeply" in refused(written(tmp_path, format_, text, records=("a",) * (format_ == "toml")))


@pytest.mark.parametrize(
    ("error", "message"), [(MemoryError(), "does not fit into memory"), (RecursionError(), "nested too deeply")]
)
def test_exhaustion(tmp_path, monkeypatch, error, message):
    """Running out of memory or stack, wherever it happens, ends as an error of the source."""

    def read_nothing(source: Source) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(json_reader, "read", read_nothing)
    assert refused(written(tmp_path, "json", "[]")).startswith(f"data.json: {message}; ")


def test_kinds():
    """Values are called what JSON and YAML call them, and others by their type."""
    values = [{}, OrderedDict(), [], "", 1, 1.0, True, False, None, b""]
    words = ["a mapping"] * 2 + ["a list", "a string", "a number", "a number", "true", "false", "null"]
    assert [*words, "a value of type bytes"] == [kind(value) for value in values]


def test_as_record_keeps_dictionaries():
    """A dictionary is the record itself, another mapping is copied into one."""
    record = {"a": 1}
    assert as_record(record) is record
    assert type(as_record(MappingProxyType(record))) is dict


# ---- JSON ------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
records = st.lists(st.dictionaries(st.text(), values, max_size=5), max_size=8)
tables = st.lists(st.dictionaries(st.text(), values, max_size=3) | values, max_size=8)


@same_folder
@given(
    elements=tables,
    indent=st.none() | st.integers(0, 3),
    ascii_=st.booleans(),
    chunk=st.integers(1, 40),
    path=st.sampled_from([(), ("a",), ("a", "b")]),
)
def test_json_round_trip(tmp_path, elements, indent, ascii_, chunk, path):
    """Whatever the json module writes arrives unchanged, however small the pieces it is read in."""
    document: Any = elements
    for name in reversed(path):
        document = {"before": [1, {"x": "]"}], name: document, "after": -0.5e-7}
    # utf-8 has no lone surrogates; escaped they are legal.
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_).encode("utf-8", "replace")
    source = written(tmp_path, "json", text, records=path)
    expected: Any = json.loads(text)
    for name in path:
        expected = expected[name]
    read_back = [record for _, record in json_reader.read(source, chunk)]
    assert [as_record(element) for element in expected] == read_back


@same_folder
@given(elements=records, chunk=st.integers(1, 40), path=st.sampled_from([(), ("a",)]))
def test_json_lines(tmp_path, elements, chunk, path):
    """Each element's line is that of its first character."""
    text = (
        "[" + ",".join("\n" * (1 + n % 3) + json.dumps(element, indent=1) for n, element in enumerate(elements)) + "\n]"
    )
    lines = []
    line = 1
    for n, element in enumerate(elements):
        line += 1 + n % 3
        lines.append(line)
        line += json.dumps(element, indent=1).count("\n")
    source = written(tmp_path, "json", f'{{"a":{text}}}' if path else text, records=path)
    assert lines == [line for line, _ in json_reader.read(source, chunk)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("number", ["1234567890123456789012345", "-12.5e-17", "1E400", "-Infinity", "NaN", "0"])
def test_json_numbers_are_never_cut(tmp_path, number, chunk):
    """A number that ends where a piece of the file ends is read on."""
    source = written(tmp_path, "json", f'[{number},{{"a":{number}}},{number}]')
    values = [record["a"] for _, record in json_reader.read(source, chunk) if isinstance(record, dict)]
    assert [repr(json.loads(number))] == [repr(value) for value in values]
    words = [record.message for _, record in json_reader.read(source, chunk) if isinstance(record, BadRecord)]
    assert words == ["record is not a mapping (found a number); write names and values"] * 2


@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 17, 1000])
@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[", "1:2", "Expecting value"),
        ('[{"a": 1}', "1:10", "Expecting ',' delimiter"),
        ('[{"a": 1} {"a": 2}]', "1:11", "Expecting ',' delimiter"),
        ('[{"a": 1},\n]', "2:1", "Expecting value"),
        ('[{"a": 1}]\n\n x', "3:2", "Extra data"),
        ('[{"a": 1},\n {"b" 2}]', "2:7", "Expecting ':' delimiter"),
        ('[{"a": 1},\n {"b": tru}]', "2:8", "Expecting value"),
        ('[{"a": 1},\n {"b": "tru}]', "2:8", "Unterminated string starting at"),
        ('[{"a": 1},\n {"b": "\\uD8"}]' + " " * 40, "2:10", "Invalid \\uXXXX escape"),
        ('[{"a": "x\ny"}]', "1:10", "Invalid control character at"),
        ('[{"é": 1},\n\n\n {"é": 01}]', "4:9", "Expecting ',' delimiter"),
        ("[{}, 1x]", "1:7", "Expecting ',' delimiter"),
        ("tru", "1:1", "Expecting value"),
    ],
)
def test_json_error_places(tmp_path, text, place, message, chunk):
    """Line and column of an error are those in the file, whatever pieces it is read in."""
    with pytest.raises(SourceError) as caught:
        list(json_reader.read(written(tmp_path, "json", text), chunk))
    assert f"data.json:{place}: not valid JSON: {message}; correct the file there" == str(caught.value)


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"a": [{}], "a": [{}]}', "1:18", "'a' is there twice"),
        ('{"a": [{}], "b": }', "1:18", "Expecting value"),
        ('{"a": [{}], }', "1:13", "Expecting property name enclosed in double quotes"),
        ('{"a" [{}]}', "1:6", "Expecting ':' delimiter"),
        ('{"a": [{}]', "1:11", "Expecting ',' delimiter"),
        ('{"a": [{}]} []', "1:13", "Extra data"),
        ('{"b": [1, 2,,], "a": [{}]}', "1:13", "Expecting value"),
    ],
)
def test_json_error_places_around_records(tmp_path, text, place, message, chunk):
    """Errors around the list are found as well as those in it."""
    with pytest.raises(SourceError) as caught:
        list(json_reader.read(written(tmp_path, "json", text, records=("a",)), chunk))
    assert f"data.json:{place}: not valid JSON: {message}; correct the file there" == str(caught.value)


@same_folder
@given(elements=records, cut=st.integers(1, 10_000), chunk=st.integers(1, 40))
def test_json_cut_anywhere(tmp_path, elements, cut, chunk):
    """A file that ends too soon is always refused, at a place inside it, never taken for shorter."""
    text = json.dumps(elements, indent=1)
    text = text[: max(len(text) - cut, 0)]
    with pytest.raises(SourceError, match=r"data.json:( is empty|\d+:\d+: not valid JSON)"):
        list(json_reader.read(written(tmp_path, "json", text), chunk))


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_json_empty(tmp_path, text):
    """A file with nothing in it is no list."""
    assert refused(written(tmp_path, "json", text)) == "data.json: is empty; write [] where there are no records"


def test_json_lines_by_mistake(tmp_path):
    """A file of JSON lines says which format it is."""
    message = refused(written(tmp_path, "json", '{"a": 1}\n{"a": 2}\n'))
    assert message == "data.json: holds one mapping after the other, not a list; set format: jsonl"


@pytest.mark.parametrize("chunk", [1, 100, 10_000])
def test_json_endless_integer(tmp_path, chunk):
    """An integer that Python refuses to read costs its record only."""
    text = f'[{{"a": {"9" * 5000}}},\n{{"b": {"9" * 4000}}}]'
    pairs = list(json_reader.read(written(tmp_path, "json", text), chunk))
    message = "an integer has more than 4300 digits; write it as a string"
    assert [(1, bad(message, "ValueError")), (2, {"b": int("9" * 4000)})] == pairs


def test_json_not_a_number(tmp_path):
    """NaN arrives as Python's json gives it."""
    ((_, record),) = read(tmp_path, "json", '[{"a": NaN}]')
    assert math.isnan(record["a"])


@pytest.mark.parametrize(("before", "after", "path"), [("[", "]", ()), ('{"x": [', '], "a": []}', ("a",))])
def test_json_memory_is_flat(tmp_path, before, after, path):
    """20 MB of list, read or skipped, need memory for a few elements."""
    element = json.dumps({"name": "x" * 200, "values": list(range(20))})
    source = written(tmp_path, "json", before + ",\n".join([element] * 70_000) + after, records=path)
    assert os.path.getsize(str(source.path)) > 20e6
    tracemalloc.start()
    count = sum(1 for _ in read_records(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (0 if path else 70_000) == count
    assert peak < 5e6


# ---- YAML ------------------------------------------------------------------------------------------------


@same_folder
@given(
    elements=st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=2, max_size=6),
    flow=st.booleans(),
)
@pytest.mark.parametrize("form", ["list", "documents", "inside"])
def test_yaml_round_trip(tmp_path, elements, flow, form):
    """What PyYAML writes arrives as PyYAML reads it, as a list, as documents or inside of one."""
    if form == "documents":
        text = yaml.dump_all(elements, default_flow_style=flow, explicit_end=flow)
        expected = list(yaml.safe_load_all(text))
    else:
        text = yaml.dump({"a": {"b": elements}} if form == "inside" else elements, default_flow_style=flow)
        expected = yaml.safe_load(text)
        expected = expected["a"]["b"] if form == "inside" else expected
    path = ("a", "b") if form == "inside" else ()
    assert expected == [record for _, record in read(tmp_path, "yaml", text, records=path)]


YAML = [
    ("nothing", "", []),
    ("only comments", "# a\n---\n# b\n...\n---\n", []),
    ("one mapping", "# a\n\na: 1\n", [(3, {"a": 1})]),
    ("one list", "# a\n- a: 1\n-\n  b: 2\n- {c: 3}\n", [(2, {"a": 1}), (4, {"b": 2}), (5, {"c": 3})]),
    ("list after a marker", "--- # a\n- a: 1\n", [(2, {"a": 1})]),
    ("documents", "a: 1\n---\n\n# x\nb: 2\n--- {c: 3}\n", [(1, {"a": 1}), (5, {"b": 2}), (6, {"c": 3})]),
    ("empty documents", "---\n---\na: 1\n---\n# x\n---\nb: 2\n---\n", [(3, {"a": 1}), (7, {"b": 2})]),
    ("after an end", "# a\n...\n- a: 1\n", [(3, {"a": 1})]),
    ("one among empty ones", "---\n---\n- a: 1\n---\n", [(3, {"a": 1})]),
    ("directives", "%YAML 1.1\n---\na: 1\n...\n%TAG ! tag:yaml.org,2002:\n---\nb: !str 2\n",
     [(3, {"a": 1}), (7, {"b": "2"})]),
    ("percent in a text", "a: x\n---\nb:\n  x\n  %y\n---\n'c': '\n%z'\n",
     [(1, {"a": "x"}), (3, {"b": "x %y"}), (7, {"c": " %z"})]),
    ("no marker in a block", "a: |\n  ---\n  ...\nb: ---x\n---\nc: 1\n",
     [(1, {"a": "---\n...\n", "b": "---x"}), (6, {"c": 1})]),
    ("carriage returns", "a: 1\r\n---\r\nb: 2\r\n", [(1, {"a": 1}), (3, {"b": 2})]),
    ("dates", "- a: 2024-02-03\n", [(1, {"a": datetime.date(2024, 2, 3)})]),
    ("bytes", "- a: !!binary aGk=\n", [(1, {"a": b"hi"})]),
    ("equals sign", "- op: =\n", [(1, {"op": "="})]),
    ("aliases", "- &x {a: 1}\n- *x\n- <<: *x\n  b: 2\n", [(1, {"a": 1}), (2, {"a": 1}), (3, {"a": 1, "b": 2})]),
    ("an anchor twice", "- {a: &x 1, b: *x, c: &x 2, d: *x}\n", [(1, {"a": 1, "b": 1, "c": 2, "d": 2})]),
    ("overridden merge", "- &x {a: 1, b: 1}\n- {<<: *x, a: 2}\n- {<<: *x, a: 2}\n",
     [(1, {"a": 1, "b": 1}), (2, {"a": 2, "b": 1}), (3, {"a": 2, "b": 1})]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in YAML], ids=[case[0] for case in YAML])
def test_yaml(tmp_path, text, expected):
    """Documents and lists, each record with the line on which it begins."""
    assert expected == read(tmp_path, "yaml", text)


BAD_YAML = [
    ("unknown type", "!foo x", "line 2, column 3: could not determine a constructor for the tag '!foo'"),
    ("key twice", "{a: 1, b: 2, a: 3}", "line 2, column 16: key 'a' is there twice; remove one"),
    ("key twice below", "{x: [{a: 1, a: 3}]}", "line 2, column 15: key 'a' is there twice; remove one"),
    ("no date", "x: {y: 2024-13-45}",
     "line 2, column 10: '2024-13-45' can't be read: ValueError: month must be in 1..12"),
    ("no boolean", "x: !!bool maybe", "line 2, column 6: 'maybe' can't be read: KeyError: 'maybe'"),
    ("no integer", 'x: !!int ""', "line 2, column 6: '' can't be read: IndexError: string index out of range"),
    ("unhashable key", "? [1]\n  : 2", "line 2, column 5: while constructing a mapping: found unhashable key"),
    ("no anchor", "x: *nope", "line 2, column 6: there is no anchor &nope before *nope"),
    ("endless", "&e {x: [*e]}", "line 2, column 11: *e stands inside of what it stands for"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in BAD_YAML], ids=[case[0] for case in BAD_YAML])
def test_yaml_bad_element(tmp_path, text, message):
    """An element that can't be built is bad in its place, and the list goes on."""
    pairs = read(tmp_path, "yaml", f"- a: 1\n- {text}\n- b: 2\n")
    assert [(1, {"a": 1}), (2, bad(message, "YAMLError"))] == pairs[:2]
    assert [record for _, record in pairs[2:]] == [{"b": 2}]


DIRECTIVE = "while scanning a directive: found unexpected non-alphabetical character"
CONTROL = 'unacceptable character #x0001: control characters are not allowed in "<unicode string>", position 7'


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (
            "b: [",
            bad("line 4, column 1: while parsing a flow node: did not find expected node content", "YAMLError"),
        ),
        (
            "b: 'x",
            bad(
                "line 4, column 1: while scanning a quoted scalar: found unexpected end of stream",
                "YAMLError",
            ),
        ),
        ("b: 1\n... x", bad("line 4, column 5: did not find expected <document start>", "YAMLError")),
        ("%b: 1", bad(f"line 3, column 3: {DIRECTIVE}", "YAMLError")),
        (
            "b: \x01",
            bad(CONTROL, "YAMLError"),
        ),
        (
            "b: !foo 1",
            bad("line 3, column 4: could not determine a constructor for the tag '!foo'", "YAMLError"),
        ),
        ("b: {a: 1, a: 2}", bad("line 3, column 11: key 'a' is there twice; remove one", "YAMLError")),
        ("- b: 1", no_mapping("a list")),
        ("null", no_mapping("null")),
        ("1: 2", bad("key 1 is not a string (found a number); put it in quotes")),
    ],
)
def test_yaml_bad_document(tmp_path, text, record):
    """A document that is no record is bad in its place, and the next is read as if nothing had been."""
    pairs = read(tmp_path, "yaml", f"a: 1\n---\n{text}\n---\nb: 2\n")
    assert [(1, {"a": 1}), (3, record), {"b": 2}] == [*pairs[:2], pairs[-1][1]]
    assert len(pairs) == 3


def test_yaml_document_that_is_nested_too_deeply(tmp_path):
    """Whether Python's stack or libyaml gives up first, only its own record is lost."""
    (_, first), (line, deep), *_, (_, last) = read(tmp_path, "yaml", f"a: 1\n---\n{'[' * 5000}\n---\nb: 2\n")
    assert ({"a": 1}, 3, {"b": 2}) == (first, line, last)
    assert ("YAMLError", True) == (deep.type, deep.message.endswith("nested too deeply"))


def test_yaml_undecodable_document(tmp_path):
    """Bytes that don't decode cost their document only."""
    pairs = read(tmp_path, "yaml", b"a: 1\n---\nb:\n  \xff\n---\nc: 3\n")
    assert [pairs[0], pairs[2]] == [(1, {"a": 1}), (6, {"c": 3})]
    assert pairs[1][1].type == "UnicodeDecodeError"
    assert pairs[1][1].message.startswith("line 4: not valid utf-8 (found the byte 0xff)")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# x\n- a: 1\n- b: [}\n", "3:7"),
        ("a: [1", "2:1"),
        ("- a: 1\nb: 2\n", "2:1"),
        ("---\na: 1\n]\n", "3:1"),
    ],
)
def test_yaml_broken_single_document(tmp_path, text, place):
    """A document that is the only one is read whole or not at all."""
    assert refused(written(tmp_path, "yaml", text)).startswith(f"data.yaml:{place}: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !foo 1",
            "data.yaml:1:4: not valid YAML: could not determine a constructor for the tag '!foo'; ",
        ),
        ("a: [1]\na: [2]", "data.yaml:2:1: not valid YAML: key 'a' is there twice; remove one; "),
        ("a: 1\n---\nb: 1", "data.yaml:3: a second document begins, records: is for a single one; "),
    ],
)
def test_yaml_no_list_inside(tmp_path, text, message):
    """A document in which the path can't be followed is refused."""
    assert refused(written(tmp_path, "yaml", text, records=("a",))).startswith(message)


def test_yaml_merge_keys(tmp_path):
    """A record's own names win over merged ones, and earlier mappings over later ones, however long a name is."""
    text = "- &a {x: 1, name: 1}\n- &b {x: 2, name: 2}\n- &c {<<: [*a, *b], more: 3}\n- {<<: *c, x: 4, name: 4}\n"
    records = [record for _, record in read(tmp_path, "yaml", text)]
    assert [{"x": 1, "name": 1, "more": 3}, {"x": 4, "name": 4, "more": 3}] == records[2:]


def test_yaml_path_through_merge_key(tmp_path):
    """A list that a merge key brings in is found."""
    text = "base: &base {items: [{a: 1},\n {a: 2}]}\n<<: *base\n"
    assert read(tmp_path, "yaml", text, records=("items",)) == [(1, {"a": 1}), (2, {"a": 2})]


def bomb(indent: str) -> str:
    """A mapping of 9 ** 10 values in ten lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    return f"\n{indent}".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (bomb(""), {}),
        (bomb("") + "---\nz: 1\n", {}),
        ("- " + bomb("  ") + "- z: 1\n", {}),
        ("in:\n- " + bomb("  ") + "- z: 1\n", {"records": ("in",)}),
    ],
)
def test_yaml_alias_bomb(tmp_path, text, options):
    """Aliases that multiply beyond measure cost the record in which they do."""
    (_, first), *rest = read(tmp_path, "yaml", text, **options)
    assert first.message.endswith("aliases add more than 1,000,000 values")
    assert [{"z": 1}] * ("z: 1" in text) == [record for _, record in rest]


@pytest.mark.parametrize(("before", "path"), [("", ()), ("in:\n", ("in",))])
def test_yaml_aliases_are_counted_by_record(tmp_path, before, path):
    """Defaults that every record of a long list takes in are no bomb, however many they are together."""
    defaults = ", ".join(f"k{n}: {n}" for n in range(300))
    text = f"{before}- &d {{{defaults}}}\n" + "- {<<: *d, a: 1}\n" * 2000
    pairs = read(tmp_path, "yaml", text, records=path)
    assert len(pairs) == 2001
    assert not [record for _, record in pairs if isinstance(record, BadRecord)]


@pytest.mark.parametrize("separator", ["", "---\n"])
def test_yaml_memory_is_flat(tmp_path, separator):
    """A list needs memory for its text, documents only for one; the nodes of the whole would need much more."""
    element = "name: somebody\n  value: 12\n" if not separator else "name: somebody\nvalue: 12\n"
    text = (separator or "- ").join(["", *[element] * 10_000])
    source = written(tmp_path, "yaml", text)
    tracemalloc.start()
    count = sum(1 for _ in read_records(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < (1e6 if separator else 5e6)


def test_yaml_without_libyaml(tmp_path, monkeypatch):
    """PyYAML's own parser gives the same."""
    monkeypatch.setattr("chora_mp.sources.yaml_tree._Parser", yaml.SafeLoader)
    for _, text, expected in YAML:
        assert expected == read(tmp_path, "yaml", text)


# ---- TOML ------------------------------------------------------------------------------------------------


def test_toml_values_and_lines(tmp_path):
    """Tables arrive with TOML's types, each with the line of its header."""
    first = "[[a.b]]\nd = 2024-02-03T04:05:06Z\nn = 12345678901234567890123\n"
    text = f"title = 'x'\n\n{first}\n[[ a . \"b\" ]]\nt = 04:05:06\n".replace("\n", "\r\n")
    when = datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    assert [(3, {"d": when, "n": 12345678901234567890123}), (7, {"t": datetime.time(4, 5, 6)})] == read(
        tmp_path, "toml", text, records=("a", "b")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = [{b = 1}, 2]", [(None, {"b": 1}), (None, no_mapping("a number"))]),
        ("s = '''\n[[a]]\n'''\n[[a]]\nb = 1\n", [(None, {"b": 1})]),
        ("a = []", []),
    ],
)  # fmt: skip
def test_toml_lists_without_headers(tmp_path, text, expected):
    """Where a line can't be told for certain there is none."""
    assert expected == read(tmp_path, "toml", text, records=("a",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\na = ?", "data.toml:2:5: not valid TOML: Invalid value; correct the file there"),
        ("x = 1\na = [1", "data.toml:2: not valid TOML: Unclosed array; correct the file there"),
        ("x = 1\ry = 2\n", "data.toml:1:6: not valid TOML: "),
        ("x = 1\nx = 2\n", "data.toml:2:6: not valid TOML: Cannot overwrite a value; correct the file there"),
        ("a = " + "9" * 5000, "data.toml: not valid TOML: Exceeds the limit (4300 digits)"),
    ],
)
def test_toml_errors(tmp_path, text, message):
    """What tomllib says of a broken file, with the place first."""
    assert refused(written(tmp_path, "toml", text, records=("a",))).startswith(message)


# ---- CSV -------------------------------------------------------------------------------------------------

cells = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "a\nb", "\r\n", ",", "\r", ";", " x "]
)


def no_csv(message: str) -> BadRecord:
    """What stands for a row in which the csv module finds a fault."""
    return bad(f"row is not valid CSV: {message}; check its quotes", "CSVError")


@same_folder
@given(
    rows=st.lists(st.lists(cells, min_size=3, max_size=3), max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    # Python before 3.13 leaves "\r" unquoted where lines end in "\n".
    form=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
)
def test_csv_round_trip(tmp_path, rows, delimiter, form):
    """What the csv module writes arrives unchanged, each row with the line on which it starts."""
    text, lines = io.StringIO(newline=""), []
    writer = csv.writer(text, delimiter=delimiter, lineterminator=form[0], quoting=form[1])
    writer.writerow(["a", "b", "c"])
    for row in rows:
        lines.append(1 + len(io.StringIO(text.getvalue(), newline="").readlines()))
        writer.writerow(row)
    expected = [(line, dict(zip("abc", row, strict=True))) for line, row in zip(lines, rows, strict=True)]
    assert expected == read(tmp_path, "csv", text.getvalue(), delimiter=delimiter)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\n", []),
        ("a,b\n", []),
        ("\na,b\n\n1,2\n\n", [(4, {"a": "1", "b": "2"})]),
        ("a,b\n1,2", [(2, {"a": "1", "b": "2"})]),
        ("a,b\n\0,2\n", [(2, {"a": "\0", "b": "2"})]),
        ("a,b\n1\n3,4\n", [(2, bad("row has 1 field, the header has 2")), (3, {"a": "3", "b": "4"})]),
        ("a,b\n1,2,3\n3,4\n", [(2, bad("row has 3 fields, the header has 2")), (3, {"a": "3", "b": "4"})]),
        ('a,b\n"x"y,2\n3,4\n', [(2, no_csv("',' expected after '\"'")), (3, {"a": "3", "b": "4"})]),
        ('a,b\n1,2\n"x\n3,4\n', [(2, {"a": "1", "b": "2"}), (3, no_csv("unexpected end of data"))]),
    ],
)  # fmt: skip
def test_csv_rows(tmp_path, text, expected):
    """Rows that don't fit the header are bad in their place, and the rest goes on."""
    assert expected == read(tmp_path, "csv", text)


def test_csv_undecodable_row(tmp_path):
    """Bytes that don't decode cost their row only."""
    pairs = read(tmp_path, "csv", b"a,b\n1,\xff\n3,4\n")
    message = "field 'b' is not valid utf-8 (found the byte 0xff); save it as utf-8 or set encoding: to what it is"
    assert [(2, bad(message, "UnicodeDecodeError")), (3, {"a": "3", "b": "4"})] == pairs


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,,b\n", {}, "data.csv:1: column 2 has no name; name it in the header"),
        ("\na,b,a,c,b\n", {}, "data.csv:2: the header names 'a', 'b' more than once; rename the columns"),
        (
            '"a,b\n',
            {},
            "data.csv:1: the header is wrong: row is not valid CSV: unexpected end of data; check its quotes",
        ),
        ("a", {"delimiter": "ab"}, "data.csv: delimiter: "),
        ("a", {"delimiter": ""}, "data.csv: delimiter: "),
    ],
)
def test_csv_unusable(tmp_path, text, options, message):
    """Without names for the fields there are no records."""
    assert refused(written(tmp_path, "csv", text, **options)).startswith(message)


def test_csv_long_field(tmp_path):
    """A field longer than the csv module's usual limit arrives whole."""
    assert read(tmp_path, "csv", "a\n" + "x" * 500_000) == [(2, {"a": "x" * 500_000})]


# ---- SQLite ----------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with a table `t` of every kind of value, in a file whose name means something in a URI."""
    path = tmp_path / "a b?mode=rwc#%41.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (i, r, s, b, n)")
        connection.execute("INSERT INTO t VALUES (9007199254740993, 1.5, 'é', x'00ff', NULL)")
        connection.execute("INSERT INTO t VALUES (2, 2, CAST(x'ff41' AS TEXT), x'', NULL)")
        connection.execute("INSERT INTO t VALUES (3, 3, '', x'', NULL)")
    return path


def test_sqlite_rows(database):
    """Rows arrive numbered and with the database's types; text that doesn't decode costs its row only."""
    pairs = list(read_records(Source("app.db", "sqlite", database, query="SELECT * FROM t ORDER BY rowid")))
    assert pairs[0] == (1, {"i": 9007199254740993, "r": 1.5, "s": "é", "b": b"\0\xff", "n": None})
    message = "column 's' is not valid utf-8 (found b'\\xffA'); store a blob"
    assert (2, bad(message, "UnicodeDecodeError")) == pairs[1]
    assert pairs[2] == (3, {"i": 3, "r": 3, "s": "", "b": b"", "n": None})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT i, r AS i, s, b AS s FROM t",
            "query: names 'i', 's' more than once; tell columns apart with AS",
        ),
        ("BEGIN", "query: gives no rows (found 'BEGIN'); write a SELECT"),
        ("", "query: gives no rows"),
        (None, "query: gives no rows"),
        ("SELECT * FROM nope", "query: no such table: nope; correct the query or the file"),
        ("SELECT 1; SELECT 2", "query: You can only execute one statement at a time"),
        ("SELECT ?", "query: Incorrect number of bindings supplied"),
        ("SELECT '\ud800'", "query: "),
        ("DELETE FROM t", "query: attempt to write a readonly database; "),
        ("INSERT INTO t (i) VALUES (1) RETURNING i", "query: attempt to write a readonly database; "),
        ("ATTACH DATABASE 'stolen.db' AS s", "query: not authorized; "),
        ("VACUUM INTO 'stolen.db'", "query: auth"),
        ("SELECT load_extension('x')", "query: not authorized"),
    ],
)
def test_sqlite_queries_that_fail(database, tmp_path, monkeypatch, query, message):
    """A query that gives no rows, or would change anything anywhere, is refused."""
    monkeypatch.chdir(tmp_path)
    before = database.read_bytes()
    assert refused(Source("app.db", "sqlite", database, query=query)).startswith(f"app.db: {message}")
    assert before == database.read_bytes()
    assert [database.name] == os.listdir(tmp_path)


def test_sqlite_no_database(tmp_path):
    """A file of another kind is refused."""
    source = written(tmp_path, "sqlite", "hello " * 1000, query="SELECT 1 FROM t")
    assert refused(source).startswith("data.sqlite: query: file is not a database; ")


def test_sqlite_damage_in_the_middle(tmp_path):
    """Rows come until the damage, and then the error: nothing is taken for the end."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 1000)
    with open(path, "r+b") as file:
        file.seek(4096 * 60)
        file.write(b"\xff" * 4096 * 20)
    rows = read_records(Source("x.db", "sqlite", path, query="SELECT a FROM t"))
    assert next(rows) == (1, {"a": "x" * 500})
    with pytest.raises(SourceError, match=r"^x.db: query: database disk image is malformed"):
        list(rows)


# ---- Python ----------------------------------------------------------------------------------------------


def callable_in(folder: Path, code: str, function: str = "records") -> Source:
    """A source over a function in `lib/rows.py`, which has a sibling that fails when asked to."""
    lib = folder / "lib"
    lib.mkdir(exist_ok=True)
    (lib / "rows.py").write_text(code)
    (lib / "rows_sibling.py").write_text("def fail():\n    return 1 / 0\n\n\nVALUE = 7\n")
    return Source(f"lib/rows.py:{function}", "python", python=(str(lib / "rows.py"), function))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Modules and paths that a test brings in are gone after it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    assert path == sys.path
    for name in set(sys.modules) - modules:
        if "rows" in name or name.startswith("chora_mp_source_"):
            del sys.modules[name]


GOOD_CALLABLES = [
    ("def records():\n yield {'a': 1}\n yield {'a': 2}\n", [{"a": 1}, {"a": 2}]),
    ("def records():\n return [{'a': 1}]\n", [{"a": 1}]),
    ("records = lambda: ({'a': n} for n in range(2))", [{"a": 0}, {"a": 1}]),
    ("class records:\n def __iter__(self):\n  return iter([{'a': 1}])\n", [{"a": 1}]),
    ("import rows_sibling\ndef records():\n yield {'a': rows_sibling.VALUE}\n", [{"a": 7}]),
    ("def records():\n import rows_sibling\n yield {'a': rows_sibling.VALUE}\n", [{"a": 7}]),
    ("import types\ndef records():\n yield types.MappingProxyType({'a': 1})\n", [{"a": 1}]),
    ("def records():\n return []\n", []),
    ("def records():\n yield 1\n yield [1]\n yield {1: 2}\n yield (1,)\n yield {'a': 1}\n",
     [no_mapping("a number"),
      no_mapping("a list"),
      bad("key 1 is not a string (found a number); put it in quotes"),
      no_mapping("a value of type tuple"), {"a": 1}]),
    (("from collections.abc import Mapping\nclass M(Mapping):\n def __len__(self): return 1\n"
     " def __iter__(self): return iter('a')\n def __getitem__(self, key): raise OSError('gone')\n"
     "def records():\n yield M()\n yield {'a': 1}\n"),
     [bad("record can't be read: gone", "OSError"), {"a": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), GOOD_CALLABLES)
def test_python(tmp_path, code, expected):
    """Whatever a callable gives that can be iterated over; what is no record is bad in its place."""
    assert [(None, record) for record in expected] == list(read_records(callable_in(tmp_path, code)))


RAISED = [
    ("def records():\n yield {}\n raise ValueError('boom')\n",
     "lib/rows.py:3: records: raised ValueError: boom after record 1; correct it there"),
    ("def records():\n raise KeyError\n", "lib/rows.py:2: records: raised KeyError; correct it there"),
    ("def records():\n raise StopIteration\n", "lib/rows.py:2: records: raised StopIteration; "),
    ("import sys\ndef records():\n yield {}\n sys.exit(3)\n",
     "lib/rows.py:4: records: raised SystemExit: 3 after record 1; "),
    ("def records():\n yield {}\n raise GeneratorExit\n",
     "lib/rows.py:3: records: raised GeneratorExit after record 1"),
    ("import json\ndef records():\n json.loads('{')\n", "lib/rows.py:3: records: raised JSONDecodeError: "),
    ("import rows_sibling\ndef records():\n yield rows_sibling.fail()\n",
     "lib/rows_sibling.py:2: records: raised ZeroDivisionError: "),
    ("class E(Exception):\n def __str__(self): raise OSError\ndef records():\n raise E\n",
     "lib/rows.py:4: records: raised E: (its text can't be had: OSError); "),
    ("class C:\n def __iter__(self): raise ValueError('no')\nrecords = C\n",
     "lib/rows.py:2: records: raised ValueError: no; "),
    ("def records(a):\n pass\n", "lib/rows.py: records: raised TypeError: records() missing 1 required"),
    ("def records():\n return 3\n", "lib/rows.py: records: returns a number; return or yield mappings"),
    ("def records():\n return {'a': 1}\n", "lib/rows.py: records: returns a mapping; return or yield mappings"),
    ("def records():\n return 'abc'\n", "lib/rows.py: records: returns a string; return or yield mappings"),
    ("def records():\n pass\n", "lib/rows.py: records: returns null; return or yield mappings"),
    ("def recrods():\n pass\n", "lib/rows.py: records: is not there; did you mean 'recrods'?"),
    ("def x():\n pass\n", "lib/rows.py: records: is not there; choose one of 'x'"),
    ("", "lib/rows.py: records: is not there; there is nothing to choose from"),
    ("records = [1]", "lib/rows.py: records: is not callable (found a list); name a function"),
    ("x = 1\ndef records(:\n", "lib/rows.py:2: records: raised SyntaxError: "),
    ("x = 1\nimport nowhere_to_be_found\n",
     "lib/rows.py:2: records: raised ModuleNotFoundError: No module named 'nowhere_to_be_found' while it was imp"),
    ("x = 1\nx = x.y\n", "lib/rows.py:2: records: raised AttributeError: "),
    ("raise SystemExit(1)\n", "lib/rows.py:1: records: raised SystemExit: 1 while it was imported; "),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message"), RAISED)
def test_python_raises(tmp_path, code, message):
    """Whatever the user's code raises is told with the innermost line of it."""
    assert refused(callable_in(tmp_path, code)).startswith(message)


def test_python_syntax_error_in_sibling(tmp_path):
    """A sibling that isn't Python is named itself, not the line that imports it."""
    source = callable_in(tmp_path, "import rows_broken\n")
    (tmp_path / "lib" / "rows_broken.py").write_text("x = 1\n\n)\n")
    assert refused(source).startswith("lib/rows_broken.py:3: records: raised SyntaxError: ")


def test_python_no_file(tmp_path):
    """A missing file is refused with the operating system's reason."""
    source = Source("rows.py:records", "python", python=(str(tmp_path / "rows.py"), "records"))
    assert refused(source).startswith("rows.py:records: cannot be read (No such file or directory); ")


@pytest.mark.parametrize(
    "code", ["", "def records():\n ", "def records():\n yield {}\n "], ids=["import", "call", "iteration"]
)
def test_python_interrupt_passes(tmp_path, code):
    """Only an interrupt from the keyboard is left alone."""
    with pytest.raises(KeyboardInterrupt):
        list(read_records(callable_in(tmp_path, code + "raise KeyboardInterrupt\n")))


def test_python_names_nothing():
    """A source that lacks its callable is refused, not crashed on."""
    assert refused(Source("x", "python")).startswith("x: names no callable; ")


@pytest.fixture
def path_entry(tmp_path: Path) -> Iterator[Path]:
    """A folder from which modules can be imported, as the job's is."""
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))


def test_python_module(path_entry):
    """A module is imported by its name and told apart from one that is missing."""
    package = path_entry / "rows_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def records():\n yield {'a': 1}\n\ndef bad():\n raise OSError('x')\n")
    name = "rows_package.inner"
    assert list(read_records(Source(f"{name}:records", "python", python=(name, "records")))) == [(None, {"a": 1})]
    assert f"{name}:5: bad: raised OSError: x; correct it there" == refused(
        Source(f"{name}:bad", "python", python=(name, "bad"))
    )
    for missing in ("rows_package.outer", "rows_packet", "rows_packet.inner"):
        told = refused(Source(f"{missing}:records", "python", python=(missing, "records")))
        assert told.startswith(f"{missing}:records: no module '{missing.removesuffix('.inner')}'; ")


def test_python_shadows_nothing(tmp_path, monkeypatch):
    """A file may have the name of a module, is seen afresh each time, and leaves no bytecode behind."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "json.py"
    source = Source("json.py", "python", python=(str(path), "records"))
    for number in (1, 2):
        path.write_text(f"def records():\n yield {{'a': {number}}}\n")
        assert [(None, {"a": number})] == list(read_records(source))
    assert os.listdir(tmp_path) == ["json.py"]
    assert sys.modules["json"] is json


def test_python_classes_of_the_file_can_be_pickled(tmp_path):
    """Things that the file defines are found again under its module's name while it lasts."""
    code = "import dataclasses\n@dataclasses.dataclass\nclass P:\n x: int\ndef records():\n yield {'p': P(3)}\n"
    ((_, record),) = list(read_records(callable_in(tmp_path, code)))
    assert record == pickle.loads(pickle.dumps(record))


def test_python_is_lazy(tmp_path):
    """Records are asked for one at a time, and a generator that is left is closed."""
    code = (
        "told = []\ndef records():\n try:\n  for n in range(10):\n   told.append(n)\n   yield {'n': n}\n"
        " finally:\n  told.append('closed')\n"
    )
    before = set(sys.modules)
    rows = read_records(callable_in(tmp_path, code))
    assert next(rows) == (None, {"n": 0})
    (module,) = [sys.modules[name] for name in set(sys.modules) - before if name.startswith("chora_mp_source_")]
    assert module.told == [0]
    rows.close()
    assert module.told == [0, "closed"]
