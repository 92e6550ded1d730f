"""The scan, in this very process: what it tells of each record, whichever way it takes, and of what is known."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.bundle import take_bundle
from chora_mp.claims import NOTHING, Claims
from chora_mp.findings import CHOSEN, CLAIMS, LEFT_OUT, NEVER_KNOWN, UNKEYED, Findings
from chora_mp.job import Job, Output
from chora_mp.records import BadRecord, Input, ScanOrders
from chora_mp.renderer import Renderer
from chora_mp.scan import Scan
from chora_mp.selection import Selection
from chora_mp.sources import jsonl, spool
from chora_mp.sources.chunks import digest
from chora_mp.sources.spool import frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

CONTEXT = {"site": {"name": "a site"}, "edition": "2026"}


class Bench:
    """A file of records and what is needed to scan it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "data"
        (folder / "templates").mkdir()
        (folder / "templates" / "page").write_text("")

    def renderer(self, path: str | None = "{{ name }}.txt", key: str | None = None, template: str = "page") -> Renderer:
        """A renderer of a job with these expressions."""
        output = None if path is None else Output(self.folder / "out", path)
        job = Job("job", self.folder, template, (self.folder / "templates",), output=output, key=key, context=CONTEXT)
        return Renderer(take_bundle(job), {})

    def lines(self, *records: Any) -> bytes:
        """Write records as lines; bytes stand for a raw line. The file's bytes."""
        lines = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in records)
        self.file.write_bytes(b"".join(one + b"\n" for one in lines))
        return self.file.read_bytes()

    def scan(
        self,
        renderer: Renderer,
        selection: Selection | None = None,
        *,
        known: Mapping[bytes, tuple[int, int]] | None = None,
        spooled: bool = False,
        inline: bool = False,
        **orders: bool,
    ) -> Scan:
        """A scan of the file."""
        source = Input(str(self.file), spooled=spooled, name="data.jsonl")
        return Scan(ScanOrders(source, selection or Selection(), **orders), renderer, known or {}, inline=inline)

    def found(self, *arguments: Any, **options: Any) -> Findings:
        """What the scan of the whole file finds."""
        return self.scan(*arguments, **options).run(0, self.file.stat().st_size)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench without records."""
    return Bench(tmp_path)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of some ten records."""
    for reader in (jsonl, spool):
        monkeypatch.setattr(reader, "ends_chunk", lambda raw, held: held >= 200)
    monkeypatch.setattr(jsonl, "LEAST_BYTES", 1)


def told(found: Findings) -> dict[str, Any]:
    """All that was found, by name."""
    return {field.name: getattr(found, field.name) for field in fields(found)}


def hashes(*texts: str) -> list[int]:
    """What claims to these keys or paths look like."""
    return [hash(text) for text in texts]


# ---- the two ways ----------------------------------------------------------------------------------------

texts = st.text(max_size=5) | st.sampled_from(["a", "b", "a/b", "a/b/c", "/", "", "é", "e\u0301", "\ud800", "A"])
values = texts | st.integers() | st.none() | st.booleans() | st.floats() | st.lists(st.integers(), max_size=2)
mappings = st.fixed_dictionaries(
    {}, optional={name: values | st.dictionaries(st.just("name"), values) for name in ("name", "id", "site", "edition")}
)


def plain(name: str, least: int) -> st.SearchStrategy[dict[str, str]]:
    """Records of texts that consist of these characters."""
    return st.fixed_dictionaries({"name": st.text(name, min_size=least, max_size=5), "id": st.text("01", min_size=1)})


no_records = st.sampled_from([b"[1]", b"null", b'"name"', b"{", b"\xff", b'{"name": NaN}', b'{"name": "\xff"}', b"7"])
blank = st.sampled_from([b"", b" ", b"\t\r"])
some_lines = (
    st.lists(plain("abc/é", 1), min_size=10, max_size=30)
    | st.lists(plain("a/", 0), max_size=10)
    | st.lists(plain("a\ud800", 1), max_size=10)
    | st.lists(plain("abc/", 1) | mappings | no_records | blank, max_size=20)
)

PATHS = [
    "{{ name }}",
    "{{ name }}.txt",
    "{{ id }}/{{ name }}",
    "{{ edition }}/{{ name }}",
    "{{ site.name }}/{{ name }}",
    "{{ name | lower }}",
    "{{ name }}{{ 1 // id | length }}",
    "'{{ name }}'\\{{ id }}",
]
KEYS = [None, "{{ id }}", "{{ name }}", "{{ edition }}{{ id }}", "the same", "{{ name.name }}", "{{ id or name }}"]


@pytest.mark.usefixtures("small_chunks")
@given(
    records=some_lines,
    path=st.sampled_from(PATHS),
    key=st.sampled_from(KEYS),
    rows=st.booleans(),
    spooled=st.booleans(),
)
@same_folder
def test_both_ways_find_the_same(bench_with_all, records, path, key, rows, spooled):
    """Records looked at together are told of as records looked at one by one, row for row."""
    bench, renderers = bench_with_all
    assert_both_ways_agree(bench, renderers[path, key], records, rows=rows, spooled=spooled)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize(
    "odd", [{}, {"name": ""}, {"id": ""}, {"name": "\ud800", "id": "\udfff"}, {"name": 5}, {"id": None}]
)
def test_one_odd_record_among_plain_ones(bench, odd, spooled):
    """The same for a file of some chunks in which one record is not like the others."""
    records = [{"name": f"{number}/{number}", "id": str(number)} for number in range(40)]
    records[25] = {**records[25], **odd}
    assert_both_ways_agree(bench, bench.renderer("{{ name }}", "{{ id }}"), records, rows=True, spooled=spooled)


def assert_both_ways_agree(bench: Bench, renderer: Renderer, records: Any, *, rows: bool, spooled: bool) -> None:
    """Scan the records, from a spool or as lines, with and without looking at them together."""
    if spooled:
        good = (one for one in records if isinstance(one, dict))
        bench.file.write_bytes(b"".join(frame(line, one) for line, one in enumerate(good, 1)))
    else:
        bench.lines(*records)
    quick = bench.scan(renderer, rows=rows, spooled=spooled)
    slow = bench.scan(renderer, rows=rows, spooled=spooled)
    slow._quick = (None, None)
    size = bench.file.stat().st_size
    assert told(slow.run(0, size)) == told(quick.run(0, size))


@pytest.fixture(scope="module")
def bench_with_all(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, dict[tuple[str, str | None], Renderer]]:
    """A bench, and a renderer for each path with each key."""
    bench = Bench(tmp_path_factory.mktemp("bench"))
    return bench, {(path, key): bench.renderer(path, key) for path in PATHS for key in KEYS}


@pytest.mark.parametrize("line", [b"[1]", b"7", b"null", b'"name"', b"{"])
def test_no_record_has_no_key(bench, line):
    """What is no record has no key, also where the path, which is the key, is the same for all."""
    bench.lines(line)
    found = bench.found(bench.renderer("all.txt"))
    assert (1, bytes([UNKEYED]), [NOTHING]) == (found.unkeyed, bytes(found.flags), list(found.paths))


@pytest.mark.parametrize("spooled", [False, True])
def test_plain_records_take_the_quick_way(bench, monkeypatch, spooled):
    """The records of a plain job are looked at together, whether they come from lines or from a spool."""
    monkeypatch.setattr(Scan, "_examine", None)
    records = [{"name": f"n{number}", "folder": f"f/{number % 3}"} for number in range(500)]
    bench.lines(*records)
    if spooled:
        bench.file.write_bytes(b"".join(frame(None, record) for record in records))
    found = bench.found(bench.renderer("{{ folder }}/{{ name }}"), spooled=spooled)
    assert (500, bytes([CHOSEN]) * 500) == (found.records, bytes(found.flags))


# ---- what is told ----------------------------------------------------------------------------------------


def test_what_is_told_of_records(bench):
    """Claims by hash and number, folders with the record that needs them first, rows, and the chunk."""
    data = bench.lines({"id": 1, "name": "a/b/x"}, b"", {"id": 2, "name": "a/y"}, {"id": 3, "name": "z\ud800"})
    lines = data.splitlines(keepends=True)
    expected = Findings(
        records=3,
        lines=4,
        chunks=[(digest(data), 0, 0, 3, 3, None)],
        flags=bytearray([CHOSEN] * 3),
        folders={hash("a"): 0, hash("a/b"): 0},
        rows=[
            (0, "1", "a/b/x", digest(lines[0]), ""),
            (1, "2", "a/y", digest(lines[2]), ""),
            (2, "3", "", digest(lines[3]), ""),
        ],
    )
    expected.keys.extend(hashes("1", "2", "3"))
    expected.paths.extend([*hashes("a/b/x", "a/y"), NOTHING])  # the third path is none: it has half a character
    assert told(expected) == told(bench.found(bench.renderer("{{ name }}", "{{ id }}"), rows=True))


@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_told_where_they_stand(bench):
    """Each chunk has the digest of its bytes, and says where it begins; pieces count from their own beginning."""
    data = bench.lines(*({"name": f"n{number}"} if number % 4 else b"" for number in range(100)))
    renderer, half = bench.renderer(), data.index(b"\n", len(data) // 2) + 1
    whole = bench.found(renderer)
    parts = [bench.scan(renderer).run(0, half), bench.scan(renderer).run(half, len(data))]
    for base, line, part in ((0, 0, whole), (0, 0, parts[0]), (half, data[:half].count(b"\n"), parts[1])):
        ends = [*(chunk[1] for chunk in part.chunks[1:]), half if part is parts[0] else len(data)]
        position = records = 0
        for (mark, offset, first, held, keyed, number), end in zip(part.chunks, ends, strict=True):
            piece = data[offset:end]
            assert blake2b(piece, digest_size=16).digest() == mark
            assert (base + position, data[:offset].count(b"\n") - line) == (offset, first)
            count = sum(not text.isspace() for text in piece.splitlines(keepends=True))
            assert (count, count, None) == (held, keyed, number)
            position, records = position + len(piece), records + held
        assert part.records == records
    assert whole.records == parts[0].records + parts[1].records == 75
    assert len(whole.chunks) > 4


@pytest.mark.usefixtures("small_chunks")
def test_blank_lines_make_no_chunk(bench):
    """A chunk without records is none: there is nothing in it to know; its lines count all the same."""
    bench.lines(*[b" " * 99] * 9, {"name": "a"})
    found = bench.found(bench.renderer())
    assert [(1, 1)] == [chunk[3:5] for chunk in found.chunks]
    assert (1, 10) == (found.records, found.lines)
    bench.lines(*[b" " * 99] * 9)
    assert ([], 0, 9) == ((found := bench.found(bench.renderer())).chunks, found.records, found.lines)


def test_templates_that_records_choose(bench):
    """The templates that records choose are told, each once, and that of each; whose cannot be told has none."""
    bench.lines(*({"name": str(number), "kind": kind} for number, kind in enumerate("abab")), {"name": "4"})
    found = bench.found(bench.renderer(template="{{ kind }}.j2"), rows=True)
    assert ({"a.j2", "b.j2"}, 0, 5) == (found.templates, found.unkeyed, len(found.keys))
    assert ["a.j2", "b.j2", "a.j2", "b.j2", ""] == [row[4] for row in found.rows]


def test_a_job_without_output(bench):
    """Where nothing is written there are keys and no paths."""
    bench.lines({"name": "a"}, {"name": "b"})
    found = bench.found(bench.renderer(None, "{{ name }}"), rows=True)
    assert (hashes("a", "b"), [NOTHING] * 2, {}) == (list(found.keys), list(found.paths), found.folders)
    assert [("a", ""), ("b", "")] == [row[1:3] for row in found.rows]


# ---- records without a key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (None, {"name": "a"}, b"[1]"),
        (None, {"name": "a"}, b"{"),
        (None, {"name": "a"}, b"{}"),
        (None, {"name": "a"}, b"\xff"),
        ("{{ id }}", {"name": "a", "id": 1}, b'{"name": "b"}'),
        ("{{ id.x.y }}", {"name": "a", "id": {"x": {"y": 1}}}, b'{"name": "b", "id": {"x": {}}}'),
        ("{{ 1 // id }}", {"name": "a", "id": 1}, b'{"name": "b", "id": 0}'),
        ("{{ id[0].strip() }}", {"name": "a", "id": ["x"]}, b'{"name": "b", "id": [1]}'),
    ],
)
def test_unkeyed_records(bench, key, good, bad):
    """No record, no such name, an error on the way: there is no key and no claim, and the chunk is never known."""
    bench.lines(good, bad, good)
    found = bench.found(bench.renderer(key=key), rows=True)
    assert (1, 3, bytes([CHOSEN, UNKEYED, CHOSEN])) == (found.unkeyed, found.records, bytes(found.flags))
    assert [NOTHING] == list(found.keys[1:2]) == list(found.paths[1:2])
    assert NOTHING not in {*found.keys[::2], *found.paths[::2]}
    assert [0, 2] == [row[0] for row in found.rows]
    assert [(3, NEVER_KNOWN)] == [chunk[3:5] for chunk in found.chunks]


def test_a_path_that_fails_is_its_items_affair(bench):
    """A record whose path cannot be told has its key all the same, and lays claim to no path."""
    bench.lines({"id": "1", "name": "a/b"}, {"id": "2"}, {"id": "3", "name": ""})
    found = bench.found(bench.renderer("{{ name }}", "{{ id }}"), rows=True)
    assert (0, hashes("1", "2", "3")) == (found.unkeyed, list(found.keys))
    assert [hash("a/b"), NOTHING, NOTHING] == list(found.paths)
    assert ["a/b", "", ""] == [row[2] for row in found.rows]
    assert [3] == [chunk[4] for chunk in found.chunks]


MALFORMED = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "a/./b",
    "..",
    "../a",
    "a\0",
    "\ud800",
    ".chora-mp/x",
    "a" * 300,
    "é" * 200,
]


@pytest.mark.parametrize("path", MALFORMED)
@pytest.mark.parametrize("spooled", [False, True])
def test_a_path_that_leads_nowhere(bench, path, spooled):
    """It claims neither a path nor folders, and where it is the key there is no key; among plain ones as well."""
    records = [*({"id": str(number), "name": f"n/{number}"} for number in range(3)), {"id": "3", "name": path}]
    bench.lines(*records)
    if spooled:
        bench.file.write_bytes(b"".join(frame(None, record) for record in records))
    found = bench.found(bench.renderer("{{ name }}", "{{ id }}"), rows=True, spooled=spooled)
    assert ({hash("n"): 0}, 0) == (found.folders, found.unkeyed)
    assert (4, 4, [NOTHING]) == (len(found.keys), len({*found.keys}), list(found.paths[3:]))
    assert ["n/0", "n/1", "n/2", ""] == [row[2] for row in found.rows]
    found = bench.found(bench.renderer("{{ name }}"), rows=True, spooled=spooled)
    assert ({hash("n"): 0}, 1) == (found.folders, found.unkeyed)
    assert [NOTHING] == list(found.keys[3:]) == list(found.paths[3:])
    assert [0, 1, 2] == [row[0] for row in found.rows]


def test_neither_key_nor_path(bench):
    """Where a job has no output and no key, nothing is claimed: no two records are in each other's way."""
    bench.lines({"name": "a"}, {"name": "b"})
    found = bench.found(bench.renderer(None))
    assert [NOTHING] * 2 == list(found.keys) == list(found.paths)
    assert (bytes([CHOSEN] * 2), 0) == (bytes(found.flags), found.unkeyed)


@pytest.mark.parametrize("path", ["{{ leave() }}", "{{ name }}"])
def test_an_interrupt(bench, path):
    """In a worker Ctrl-C out of an expression is the item's trouble; in the person's own process it is theirs."""

    def leave() -> None:
        raise KeyboardInterrupt

    renderer = bench.renderer(path, None if "leave" in path else "{{ leave() }}")
    renderer.globals["leave"] = leave
    bench.lines({"name": "a"})
    assert 1 == bench.found(renderer).unkeyed
    with pytest.raises(KeyboardInterrupt):
        bench.found(renderer, inline=True)


# ---- what is known ---------------------------------------------------------------------------------------


def marks(found: Findings) -> dict[bytes, tuple[int, int]]:
    """The chunks that were found, as known ones."""
    return {mark: (number, records) for number, (mark, _, _, records, _, _) in enumerate(found.chunks, 50)}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that were parsed."""
    lines: list[bytes] = []

    def parse_all(texts: Iterable[bytes], together: bytes, names: frozenset[str]) -> None:
        pass

    def parse(text: bytes, parse: Any = jsonl.parse) -> Any:
        lines.append(text)
        return parse(text)

    monkeypatch.setattr(jsonl, "parse_all", parse_all)
    monkeypatch.setattr(jsonl, "parse", parse)
    return lines


@pytest.mark.usefixtures("small_chunks")
def test_known_chunks_are_not_parsed(bench, parsed):
    """Of chunks that are known only the bytes are read; they come with their numbers, and nothing in them is fresh."""
    bench.lines(*({"name": f"n{number}"} for number in range(100)))
    first = bench.found(bench.renderer())
    assert 100 == len(parsed)
    parsed.clear()
    again = bench.found(bench.renderer(), known=marks(first), rows=True)
    assert ([], 100, 100) == (parsed, again.records, again.lines)
    assert [(*chunk[:5], number) for number, chunk in enumerate(first.chunks, 50)] == again.chunks
    assert told(Findings(records=100, lines=100, chunks=again.chunks)) == told(again)


@pytest.mark.usefixtures("small_chunks")
def test_what_is_fresh_beside_what_is_known(bench, parsed):
    """Of a file that was edited only the chunks that are new are looked at; numbers count all records before them."""
    records = [{"name": f"n{number:03}"} for number in range(100)]
    bench.lines(*records)
    first = bench.found(bench.renderer())
    parsed.clear()
    records[50] = {"name": "new"}
    bench.lines(*records, {"name": "last"})
    again = bench.found(bench.renderer(), known=marks(first), rows=True)
    fresh = [seq for seq, *_ in again.rows]
    assert len(parsed) == len(fresh) == len(again.flags) < 60
    assert {50, 100} <= set(fresh)
    again.save(str(bench.folder / "found"))
    assert fresh == list(Claims.load(str(bench.folder / "found") + CLAIMS).seqs())
    expected = ["new" if seq == 50 else "last" if seq == 100 else f"n{seq:03}" for seq in fresh]
    assert [f"{name}.txt" for name in expected] == [row[1] for row in again.rows]
    assert hashes(*(f"{name}.txt" for name in expected)) == list(again.keys)
    assert 101 == again.records


@pytest.mark.usefixtures("small_chunks")
def test_what_another_shard_knows_is_not_known(bench):
    """A chunk is known by its bytes and by the shard: each has rows for some of its records only."""
    bench.lines(*({"name": f"n{number}"} for number in range(20)))
    first = bench.found(bench.renderer(), Selection(shard=(1, 2)))
    for shard, expected in (((1, 2), 0), ((2, 2), 20), ((1, 3), 20), (None, 20)):
        assert expected == len(bench.found(bench.renderer(), Selection(shard=shard), known=marks(first)).flags)


# ---- what is asked for -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@given(names=st.sets(st.text(max_size=4), max_size=30), count=st.integers(1, 4), broken=st.booleans())
@same_folder
def test_shards_part_the_keys(bench_with_all, names, count, broken):
    """Each key is in one shard, whose claim it is; all else is left out there, and what has no key is in the first."""
    bench, renderers = bench_with_all
    bench.lines(*({"name": name, "id": "i"} for name in sorted(names)), *([b"broken"] if broken else []))
    renderer = renderers["{{ name }}.txt", "{{ name }}"]
    shards = [bench.found(renderer, Selection(shard=(number, count)), rows=True) for number in range(1, count + 1)]
    assert sorted(names) == sorted(row[1] for found in shards for row in found.rows)
    assert sorted(hashes(*names)) == sorted(claim for found in shards for claim in found.keys if claim != NOTHING)
    for number, found in enumerate(shards, 1):
        seqs = [row[0] for row in found.rows]
        flags = [CHOSEN if seq in seqs else LEFT_OUT for seq in range(len(names))]
        assert [*flags, *([UNKEYED if number == 1 else LEFT_OUT] if broken else [])] == list(found.flags)
    for chunks in zip(*(found.chunks for found in shards), strict=True):
        held = {chunk[3] for chunk in chunks}
        keyed = {NEVER_KNOWN} if NEVER_KNOWN in (chunk[4] for chunk in chunks) else {sum(chunk[4] for chunk in chunks)}
        assert (1, keyed) == (len(held), {chunk[4] for chunk in chunks} if NEVER_KNOWN in keyed else held)
    assert broken == any(chunk[4] == NEVER_KNOWN for chunk in shards[-1].chunks)


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(only="a*"), {"a", "ab"}),
        (Selection(only="?"), {"a", "b", "A"}),
        (Selection(only="[ab]"), {"a", "b"}),
        (Selection(keys=frozenset({"ab", "A", "elsewhere"})), {"ab", "A"}),
        (Selection(only="a*", keys=frozenset({"ab", "b"})), {"ab"}),
        (Selection(only="nothing"), set()),
        (Selection(failed=True), {"a", "ab", "b", "A"}),
        (Selection(), {"a", "ab", "b", "A"}),
    ],
)
def test_flags_say_what_is_asked_for(bench, selection, chosen):
    """A glob or a set of keys leaves out other keys, which claim their paths all the same; never what has no key."""
    names = ["a", "ab", "b", "A"]
    bench.lines(*({"name": name} for name in names), {"nome": "a"}, b"null")
    found = bench.found(bench.renderer("x/{{ name }}", "{{ name }}"), selection)
    assert [*(CHOSEN if name in chosen else LEFT_OUT for name in names), UNKEYED, UNKEYED] == list(found.flags)
    assert [*hashes(*names), NOTHING, NOTHING] == list(found.keys)
    assert [*hashes(*(f"x/{name}" for name in names)), NOTHING, NOTHING] == list(found.paths)


# ---- file systems that take A for a ----------------------------------------------------------------------


@given(text=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=6))
@same_folder
def test_what_a_folding_file_system_takes_for_one_path(bench_with_all, text):
    """Where the file system folds case and accents, paths that it takes for one are one claim; keys are not folded."""
    bench, renderers = bench_with_all
    forms = [text, text.upper(), text.casefold(), *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
    bench.lines(*({"name": f"x{form}", "id": f"{number}"} for number, form in enumerate(forms)))
    found = bench.found(renderers["{{ name }}", "{{ id }}"], folds=True)
    same = {unicodedata.normalize("NFC", f"x{form}").casefold() for form in forms}
    assert len(same) == len(set(found.paths))
    assert hashes(*map(str, range(5))) == list(found.keys)


@pytest.mark.parametrize("folds", [False, True])
def test_paths_that_differ_in_case(bench, folds):
    """`A` and `a` are one path where the file system says so, and two elsewhere; so are their folders."""
    names = ["A/x", "a/X", "a/\u00c9", "a/e\u0301"]
    bench.lines(*({"name": name} for name in names))
    found = bench.found(bench.renderer("{{ name }}"), folds=folds)
    expected = ["a/x", "a/x", "a/\u00e9", "a/\u00e9"] if folds else names
    assert hashes(*expected) == list(found.paths)
    assert hashes(*names) == list(found.keys)
    assert ({hash("a"): 0} if folds else {hash("A"): 0, hash("a"): 1}) == found.folders


# ---- faults ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("before", [0, 1, 40])
def test_faults(bench, before):
    """Where they are asked for, each record that cannot be rendered is told with line and reason; names are counted."""
    good = [{"name": f"n{number}", "id": number, "more": number} for number in range(before)]
    bench.lines(*good, {"name": "a", "id": ""}, b"", b"[1]", {"id": 2}, {"name": "../x", "id": 3}, {"name": "b"})
    found = bench.found(bench.renderer("{{ name }}", "{{ id }}"), faults=True)
    expected = [
        (1, 3, "RecordError: record is not a mapping (found a list); write names and values"),
        (2, 4, "UndefinedError: job: output.path: 'name' is undefined"),
        (3, 5, "PathError: output path '../x' holds '..'; it must lie inside output.dir"),
        (4, 6, "UndefinedError: job: key: 'id' is undefined"),
    ]
    assert [(before + seq, before + line, message) for seq, line, message in expected] == found.faults
    assert {"name": before + 3, "id": before + 3, **({"more": before} if before else {})} == found.names


def test_faults_in_a_spool(bench):
    """Records of a spool are told with the lines that they came from."""
    bench.file.write_bytes(frame(5, {"name": "a"}) + frame(9, BadRecord("ValueError", "no good")) + frame(None, {}))
    found = bench.found(bench.renderer(), faults=True, spooled=True)
    assert [(1, 9, "ValueError: no good"), (2, None, "UndefinedError: job: output.path: 'name' is undefined")] == (
        found.faults
    )


# ---- on the way to the plan ------------------------------------------------------------------------------


@given(records=some_lines)
@same_folder
def test_findings_come_through_a_file(bench_with_all, records):
    """What was found is read again as it was, the claims by themselves."""
    bench, renderers = bench_with_all
    bench.lines(*records)
    found = bench.found(renderers["{{ id }}/{{ name }}", None], rows=True)
    found.templates.add("page")
    found.names["name"] += 1
    found.faults.append((1, None, "broken"))
    path = str(bench.folder / "findings")
    found.save(path)
    claims = Claims.load(path + CLAIMS)
    again = Findings.load(path)
    assert [] == [*again.keys, *again.paths, *again.folders]
    for name in ("keys", "paths", "folders"):
        setattr(again, name, getattr(claims, name))
    assert told(found) == told(again)
