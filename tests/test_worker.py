"""The worker, with a slot and files of its own: what becomes of each record, and when a span is handed back."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import pickle
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp import seats
from chora_mp.bundle import take_bundle
from chora_mp.claims import Claims
from chora_mp.errors import ChoraError, SourceError, TemplateError, WorkerError
from chora_mp.findings import CLAIMS, EXPECTED, Findings, load_rows
from chora_mp.job import JinjaOptions, Job, Output
from chora_mp.records import BadRecord, Failure, Input, Orders, Outcome, Place, ScanOrders, Span
from chora_mp.selection import Selection
from chora_mp.slots import Slot
from chora_mp.sources.chunks import digest
from chora_mp.sources.jsonl import stamp
from chora_mp.sources.spool import frame
from chora_mp.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST_MESSAGE = 16 * 2**10
AMPLE = 600.0
"""A budget, in seconds, that no test uses up."""

SLOW = "import time\nFILTERS = {'slow': lambda x: time.sleep(0.02) or x}"


class Workshop:
    """A folder with a job, and workers for it in this very process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        self.slot = Slot(str(folder / "slots"), 0)
        self.workers: list[Worker] = []

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file, folders included."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    def unprepared(self, template: str | dict[str, str | bytes] = "{{ name }}", *, plugin: str = "",
                   inline: bool = False, job: dict[str, Any] | None = None, **orders: Any) -> Worker:  # fmt: skip
        """A worker for a job with these templates, the first of which is `page`."""
        for name, source in (template if isinstance(template, dict) else {"page": template}).items():
            self.write(f"templates/{name}", source)
        if plugin:
            self.write("plugin.py", plugin)
        described = Job(
            name="job",
            folder=self.folder,
            file="job.yaml",
            template="page",
            templates=(self.folder / "templates",),
            output=Output(self.out, "{{ name }}.txt"),
            plugins=(str(self.folder / "plugin.py"),) if plugin else (),
        ).replace(**(job or {}))
        bundle = self.folder / "bundle"
        bundle.write_bytes(pickle.dumps(take_bundle(described)))
        defaults = {"output": str(self.out), "scratch": str(self.folder), "temporary": ".chora-test-"}
        worker = Worker(Orders(str(bundle), **{**defaults, **orders}), self.slot, 0, inline=inline)
        self.workers.append(worker)
        return worker

    def worker(self, *arguments: Any, **options: Any) -> Worker:
        """The same, with what the job reaches compiled."""
        worker = self.unprepared(*arguments, **options)
        worker.prepare()
        return worker

    def span(self, *records: Any) -> Span:
        """A span of all these records, in a file; a string or bytes stand for a raw line."""
        lines = [one if isinstance(one, (str, bytes)) else json.dumps(one) for one in records]
        self.write("data.jsonl", b"".join((one.encode() if isinstance(one, str) else one) + b"\n" for one in lines))
        path = str(self.folder / "data.jsonl")
        return Span(Input(path, spooled=False, name="data.jsonl", stamp=stamp(path)), 0, len(records))

    def outputs(self) -> dict[str, str]:
        """Path and text of every file in the output folder."""
        found = (path for path in sorted(self.out.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.out)): path.read_text() for path in found}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    """An empty workshop."""
    monkeypatch.chdir(tmp_path)
    shop = Workshop(tmp_path)
    yield shop
    for worker in shop.workers:
        worker.close()


def failures(outcome: Outcome) -> list[Failure]:
    """The errors of the items that failed."""
    return [item.error for item in outcome.items if item.error]


def names(*given: str) -> list[dict[str, str]]:
    """Records with these names."""
    return [{"name": name} for name in given]


# ---- rendering -------------------------------------------------------------------------------------------


def test_a_span_is_rendered(shop):
    """Each record becomes a file; the outcome counts them, and only failures are told one by one."""
    outcome = shop.worker("<{{ name }}>\n").render(shop.span(*names("a", "b", "é")), AMPLE)
    assert {"a.txt": "<a>", "b.txt": "<b>", "é.txt": "<é>"} == shop.outputs()
    assert (3, 3, 0, 0, 10, ()) == (
        outcome.done,
        outcome.rendered,
        outcome.skipped,
        outcome.failed,
        outcome.written,
        outcome.items,
    )


def test_details(shop):
    """With details, every item comes back: key, path, number, size, digest and place."""
    job = {"key": "key-{{ name }}"}
    outcome = shop.worker(job=job, details=True).render(shop.span({"name": "a"}, "", {"name": "é"}).first(2), AMPLE)
    found = [(i.key, i.path, i.seq, i.status, i.size, i.digest, i.source) for i in outcome.items]
    expected = [
        (f"key-{name}", f"{name}.txt", seq, "rendered", len(name.encode()),
         hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), Place("data.jsonl", line))
        for seq, line, name in ((0, 1, "a"), (1, 3, "é"))
    ]  # fmt: skip
    assert expected == found


def test_an_unchanged_file_counts_as_rendered(shop):
    """The same bytes again: rendered, and nothing written."""
    worker, span = shop.worker(), shop.span(*names("a"))
    outcomes = [worker.render(span, AMPLE), worker.render(span, AMPLE)]
    assert [(1, 1), (1, 0)] == [(outcome.rendered, outcome.written) for outcome in outcomes]


def test_kept_text(shop):
    """Kept documents lie one after the other in a file; without an output folder nothing else is written."""
    worker = shop.worker(job={"output": None, "key": "{{ name }}"}, output=None, details=True, keep_text=True)
    outcome = worker.render(shop.span({"name": "one"}, {"no": 1}, {"name": "zweié"}), AMPLE)
    with open(outcome.texts, "rb") as file:
        assert "onezweié".encode() == file.read()
    assert ([3, 0, 6], {}) == ([item.size for item in outcome.items], shop.outputs())


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_spans_in_the_middle(shop, skip):
    """A span that starts further on renders its own records, with their own numbers and lines."""
    span = shop.span({"name": "a"}, "", {"name": "b"}, {"x": 1}, {"name": "c"})
    outcome = shop.worker(details=True).render(Span(span.input, skip, 4 - skip, skip=skip), AMPLE)
    expected = [(0, 1), (1, 3), (2, 4), (3, 5)][skip:]
    assert expected == [(item.seq, item.source.line) for item in outcome.items]


def test_records_inside_a_span(shop):
    """Records may travel in the span itself."""
    data = frame(None, {"name": "a"}) + frame(None, BadRecord("ValueError", "no good")) + frame(None, {"name": "c"})
    outcome = shop.worker().render(Span(Input("", spooled=True, name="records"), 7, 2, skip=1, data=data), AMPLE)
    assert {"c.txt": "c"} == shop.outputs()
    assert [("records:8", 7, Place("records", None), Failure("ValueError", "no good"))] == [
        (item.key, item.seq, item.source, item.error) for item in outcome.items
    ]


def test_records_from_a_spool(shop):
    """Spooled records are read by frames, with the lines that they came from."""
    shop.write("spool", frame(5, {"name": "a"}) + frame(9, {"x": 1}))
    outcome = shop.worker().render(Span(Input(str(shop.folder / "spool"), spooled=True, name="x.yaml"), 0, 2), AMPLE)
    assert [("x.yaml:9", Place("x.yaml", 9))] == [(item.key, item.source) for item in outcome.items]


def test_names_in_order_of_strength(shop):
    """A record's names win over constants, constants over plug-ins' globals, and those over Jinja2's own."""
    worker = shop.worker(
        "{{ a }}{{ b }}{{ c }}{{ range is callable }}",
        plugin="GLOBALS = {'a': 'plugin', 'b': 'plugin', 'c': 'plugin', 'range': 1}",
        job={"context": {"a": "constant", "b": "constant"}},
    )
    worker.render(shop.span({"name": "x", "a": "record"}), AMPLE)
    assert {"x.txt": "recordconstantpluginFalse"} == shop.outputs()


def test_plugins_reach_everywhere(shop):
    """Filters, tests and globals work in templates, keys and paths; a plug-in may import what lies beside it."""
    shop.write("beside_this_plugin.py", "def shout(text):\n    return text.upper()\n")
    worker = shop.worker(
        "{{ name|shout }}{{ name is short }}{{ edition }}",
        plugin="from beside_this_plugin import shout\nFILTERS = {'shout': shout}\n"
        "TESTS = {'short': lambda t: len(t) < 3}\nGLOBALS = {'edition': 5}",
        job={"key": "{{ name|shout }}-{{ edition }}", "output": Output(shop.out, "{{ name|shout }}.txt")},
        details=True,
    )
    outcome = worker.render(shop.span(*names("ab")), AMPLE)
    assert (["AB-5"], {"AB.txt": "ABTrue5"}) == ([item.key for item in outcome.items], shop.outputs())


def test_a_second_worker_runs_what_the_first_compiled(shop):
    """Templates are compiled once: the others take the code, not the source."""
    shop.worker({"page": "{% include 'part' %}", "part": "{{ name }}"})
    code = pickle.loads((shop.folder / "bundle.code").read_bytes())
    assert {"page", "part"} == set(code)
    second = shop.workers[0].__class__(shop.workers[0].orders, Slot(str(shop.folder / "slots"), 1), 1)
    shop.workers.append(second)
    second.render(shop.span(*names("a")), AMPLE)
    assert {"a.txt": "a"} == shop.outputs()


def test_edits_do_not_reach_a_run(shop):
    """Templates and plug-ins are those of the snapshot, whatever happens to the files."""
    worker = shop.worker("{{ name|f }}", plugin="FILTERS = {'f': str.upper}")
    shop.write("templates/page", "edited")
    shop.write("plugin.py", "broken(")
    worker.render(shop.span(*names("a")), AMPLE)
    assert {"a.txt": "A"} == shop.outputs()


@pytest.mark.parametrize("picks", [b"\1\0\0\1\0", b"\0\1\1\0\0", b"\0\0\0\0\1", b"\1\1\1\1\1"])
def test_picked_records(shop, picks):
    """Of a span only the records that it picks are rendered, with their own numbers and lines; the others are none."""
    span = shop.span({"name": "0"}, "", {"name": "1"}, {"name": "2"}, "", {"name": "3"}, "[1]")
    lines = [1, 3, 4, 6, 7]
    outcome = shop.worker(details=True).render(replace(span, count=5, picks=picks), AMPLE)
    expected = [seq for seq in range(5) if picks[seq]]
    assert [(seq, lines[seq]) for seq in expected] == [(item.seq, item.source.line) for item in outcome.items]
    assert {f"{seq}.txt": str(seq) for seq in expected if seq != 4} == shop.outputs()
    assert (len(expected), int(4 in expected), 0) == (outcome.size, outcome.failed, outcome.skipped)
    assert (expected[-1] + 1, expected[-1] + 1 - len(expected)) == (outcome.done, outcome.unpicked)


def test_picked_records_one_by_one(shop):
    """A span is handed back behind a record that it picks, and what is left of it picks the rest."""
    worker = shop.worker("{{ name|slow }}", plugin=SLOW, details=True)  # else two are done in no time
    span = shop.span(*names(*"abcdef"))
    span, found = replace(span, picks=b"\0\1\0\1\1\0"), []
    while span.size:
        outcome = worker.render(span, 0.0)
        assert (1, 1) == (outcome.rendered, outcome.size)
        found += [item.seq for item in outcome.items]
        span = span.after(outcome.done)
    assert ([1, 3, 4], ["b.txt", "d.txt", "e.txt"]) == (found, [*shop.outputs()])


# ---- for the ledger --------------------------------------------------------------------------------------


def rows_of(outcome: Outcome) -> list[tuple[Any, ...]]:
    """What an outcome has left for the ledger, row by row."""
    values = load_rows(outcome.rows)
    return [tuple(values[start : start + 10]) for start in range(0, len(values), 10)]


def test_rows_for_the_ledger(shop):
    """Of each rendered item a row is left: place, key, path, digests of record and document, closure, status."""
    job = {"key": "key-{{ name }}"}
    worker = shop.worker({"page": "<{{ name }}>"}, job=job, rows=True)
    records = shop.span({"name": "a"}, {"no": 1}, {"name": "é"})
    outcome = worker.render(records, AMPLE)
    lines = (shop.folder / "data.jsonl").read_bytes().splitlines(keepends=True)
    closure = worker._renderer.closure("page").number
    expected = []
    for seq, name in ((0, "a"), (2, "é")):
        status = (shop.out / f"{name}.txt").stat()
        document = f"<{name}>".encode()
        expected.append((seq, f"key-{name}", f"{name}.txt", digest(lines[seq]), closure, digest(document),
                         len(document), status.st_mtime_ns, status.st_ino))  # fmt: skip
    found = rows_of(outcome)
    assert expected == [row[:-1] for row in found]
    assert all(0 < row[-1] < 10 for row in found)
    assert not os.path.exists(outcome.rows)


def test_rows_of_files_left_alone(shop):
    """A document that came out as it was has a row, too: it was rendered, and is up to date from now on."""
    worker, span = shop.worker(rows=True), shop.span(*names("a"))
    rows = [[row[:-1] for row in rows_of(worker.render(span, AMPLE))] for _ in range(2)]
    assert (1, rows[0]) == (len(rows[0]), rows[1])


@pytest.mark.parametrize("rows", [True, False])
def test_no_rows(shop, rows):
    """Where nothing was rendered, or nobody keeps a ledger, there are no rows."""
    worker = shop.worker("{{ absent }}" if rows else "x", rows=rows)
    assert None is worker.render(shop.span(*names("a")), AMPLE).rows


def test_rows_of_templates_chosen_by_the_record(shop):
    """Each row has the closure of its own template, also of one that nobody closed over before."""
    worker = shop.worker({"page": "x", "one": "1", "two": "2"}, job={"template": "{{ kind }}"}, rows=True)
    worker.close_over(["one"])
    outcome = worker.render(shop.span({"name": "a", "kind": "one"}, {"name": "b", "kind": "two"}), AMPLE)
    expected = [worker._renderer.closure(name).number for name in ("one", "two")]
    assert expected == [row[4] for row in rows_of(outcome)]
    assert expected[0] != expected[1]


def test_closures_of_a_run(shop):
    """The closures of templates lie beside the bundle, where the coordinator finds number and parts of each."""
    worker = shop.worker({"page": "{% include 'part' %}", "part": "", "other": ""})
    path = shop.folder / "bundle.closures"
    found = marshal.loads(path.read_bytes())
    assert {"page"} == set(found)
    assert {"template page", "template part"} == {name for name in found["page"][1] if name.startswith("template ")}
    worker.close_over(["other", "absent"])
    found = marshal.loads(path.read_bytes())
    assert {name: tuple(worker._renderer.closure(name)) for name in ("other", "absent")} == found


@pytest.mark.parametrize(
    ("job", "pure"),
    [
        ({}, True),
        ({"key": "{{ id }}-{{ site.name }}", "template": "page"}, True),
        ({"key": "{{ name | lower }}"}, False),
        ({"output": "{{ name }}{{ lottery() }}"}, False),
        ({"template": "{{ kind }}"}, True),
        ({"template": "{{ kind or 'page' }}"}, False),
        ({"output": None, "key": "{{ name }}"}, True),
    ],
)
def test_what_is_sure_not_to_vary(shop, job, pure):
    """Preparing tells whether key, path and template are made of look-ups and text alone."""
    if job.get("output"):
        job = {**job, "output": Output(shop.out, job["output"])}
    assert pure is shop.unprepared("x", job=job).prepare()


COUNTING = """
import itertools
counts = itertools.count()
GLOBALS = {"count": counts.__next__}
"""


@pytest.mark.parametrize(
    ("job", "what"),
    [
        ({"key": "{{ count() }}", "output": "{{ name }}.txt"}, "key"),
        ({"key": "{{ name }}", "output": "{{ count() }}"}, "output path"),
    ],
)
def test_keys_and_paths_that_vary(shop, job, what):
    """What is another key or path than the scan has found fails its item: it was not checked for being unique."""
    job = {**job, "output": Output(shop.out, job["output"])}
    worker = shop.worker("x", job=job, plugin=COUNTING)
    span = shop.span(*names("a", "b", "c"))
    scan_in_two(shop, worker, span, 2)
    found = failures(worker.render(span, AMPLE))
    expected = [f"the {what} is '{seq + 3}' and was '{seq}' before; it must be the same each time" for seq in range(3)]
    assert [True] * 3 == [one.message.endswith(message) for one, message in zip(found, expected, strict=True)]
    assert ({"ValueError"}, {}) == ({one.type for one in found}, shop.outputs())


def scan_in_two(shop: Workshop, worker: Worker, span: Span, first: int) -> None:
    """Scan the source of a span in two pieces, the first of so many lines, and leave what keys and paths must be."""
    cut = len(b"".join((shop.folder / "data.jsonl").read_bytes().splitlines(keepends=True)[:first]))
    pieces = []
    for record, start, end in ((0, 0, cut), (first, cut, span.input.stamp[0])):
        into = str(shop.folder / f"scan-{record}")
        worker.scan(ScanOrders(span.input, Selection(), rows=True), start, end, into)
        pieces.append((record, into))
    (shop.folder / EXPECTED).write_bytes(marshal.dumps(pieces))


def test_keys_and_paths_that_stay(shop):
    """The same expressions, where what they give is what the scan has found, in whichever piece of the source."""
    worker = shop.worker("x", job={"key": "{{ name | upper }}", "output": Output(shop.out, "{{ name | lower }}")})
    span = shop.span(*names("a", "B", "c\ud800", "D"))
    scan_in_two(shop, worker, span, 2)
    assert ["PathError"] == [found.type for found in failures(worker.render(span, AMPLE))]
    assert {"a": "x", "b": "x", "d": "x"} == shop.outputs()


# ---- handing back ----------------------------------------------------------------------------------------


def test_the_budget(shop):
    """When the time is up the rest of the span is left: what is done is done, in order."""
    worker = shop.worker("{{ name|slow }}", plugin=SLOW)
    span = shop.span(*names(*"abcdefghij"))
    outcome = worker.render(span, 0.03)
    assert 1 <= outcome.done < 10
    assert list("abcdefghij"[: outcome.done]) == [name[0] for name in shop.outputs()]
    assert 0.02 <= outcome.seconds < 10
    rest = worker.render(span.after(outcome.done), AMPLE)
    assert (10, 10) == (outcome.done + rest.done, len(shop.outputs()))


def test_no_budget_is_one_record(shop):
    """A span always gets on by at least one record."""
    assert 1 == shop.worker().render(shop.span(*names("a", "b")), 0.0).done


def test_kept_text_has_a_limit(shop):
    """A span is handed back when its documents fill eight megabytes: memory stays flat."""
    worker = shop.worker("{{ 'x' * 3000000 }}", keep_text=True)
    outcome = worker.render(shop.span(*names(*"abcdef")), AMPLE)
    assert 3 == outcome.done
    assert 9_000_000 == os.path.getsize(outcome.texts)


LETTERS = {"ascii": "x", "accents": "é", "japanese": "漢", "astral": "😀", "control": "\x01"}

NASTY: dict[str, dict[str, Any]] = {
    "short failures": {"template": "{{ absent }}"},
    "long messages": {"template": "{{ fail(text) }}"},
    "long keys": {"template": "{{ absent }}", "job": {"key": "{{ text }}"}},
    "long paths": {"template": "{{ absent }}", "job": {"output": "{{ text }}"}},
    "paths that cannot be": {"template": "", "job": {"output": "{{ text }}", "key": "{{ text }}"}},
    "all of it": {"template": "{{ fail(text) }}", "job": {"output": "{{ text }}", "key": "{{ text }}"}},
    "details": {"template": "{{ name }}", "details": True},
    "details, long keys": {"template": "{{ name }}", "job": {"key": "{{ text }}"}, "details": True},
    "long names of templates": {
        "template": {"page": "{% include 'L1' %}", **{f"L{n}": f"{{% include 'L{n + 1}' %}}" for n in range(1, 30)},
                     "L30": "{{ fail(text) }}"},
    },
    "long names of exceptions, made up": {"template": "{{ fail_by_name(text) }}"},
}  # fmt: skip

FAILING = """
def fail(text):
    raise ValueError(text)

def fail_by_name(text):
    raise type("E" + text.encode("unicode_escape").decode().replace("\\\\", "_"), (Exception,), {})("no good")

GLOBALS = {"fail": fail, "fail_by_name": fail_by_name}
"""


@pytest.mark.parametrize("size", [10, 500, 2000, 20_000])
@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("case", NASTY)
def test_messages_are_small(shop, case, letters, size):
    """Whatever fails in however many words of whatever script, an outcome is a message of 16 KiB at most."""
    options = {"job": {}, **NASTY[case]}
    template = options.pop("template")
    if isinstance(template, dict):
        # Folders as long as a file system lets them be: one name of a few hundred bytes for each template.
        long = lambda text: text.replace("L", "folder-" + LETTERS[letters].replace("\x01", "x")[0] * 50 + "/L")  # noqa: E731
        template = {long(name): long(source) for name, source in template.items()}
    if "output" in options["job"]:
        options["job"] = {**options["job"], "output": Output(shop.out, options["job"]["output"])}
    worker = shop.worker(template, plugin=FAILING, **options)
    records = [{"name": f"n{number}", "text": f"{number:04}" + LETTERS[letters] * size} for number in range(60)]
    span = shop.span(*records)
    sizes = []
    while span.count:
        outcome = worker.render(span, AMPLE)
        assert outcome.done
        sizes.append(len(pickle.dumps(outcome, 5)))
        span = span.after(outcome.done)
    assert max(sizes) <= LARGEST_MESSAGE


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=30).map(lambda text: text * 200), max_size=8),
    template=st.sampled_from(["{{ absent }}", "{{ fail(text) }}", "{{ name }}"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_messages_of_any_text_are_small(shop, texts, template):
    """Any text at all, lone surrogates included, in key, path and message: 16 KiB at most, and it can be written."""
    job = {"key": "{{ text }}", "output": Output(shop.out, "{{ text }}")}
    worker = shop.worker(template, plugin=FAILING, job=job)
    span = shop.span(*({"name": "x", "text": text} for text in texts))
    while span.count:
        outcome = worker.render(span, AMPLE)
        assert LARGEST_MESSAGE >= len(pickle.dumps(outcome, 5))
        json.dumps([item.as_dict() for item in outcome.items], ensure_ascii=False).encode()
        span = span.after(outcome.done)


def test_many_failures_are_handed_back_early(shop):
    """A span of failures is handed back when the message is full, and goes on from there."""
    worker, span = shop.worker("{{ absent }}"), shop.span(*names(*map(str, range(500))))
    outcome = worker.render(span, AMPLE)
    assert 20 < outcome.done < 500
    assert (outcome.done, outcome.done) == (outcome.failed, len(outcome.items))
    assert outcome.done == worker.render(span.after(outcome.done), AMPLE).items[0].seq


# ---- abreast ---------------------------------------------------------------------------------------------

KINDS = {
    "good": lambda name: {"name": name},
    "long": lambda name: {"name": name, "text": "x" * 3000},
    "no JSON": lambda name: name,
    "no name": lambda name: {"text": name},
    "fails": lambda name: {"name": name, "fails": True},
    "in the way": lambda name: {"name": f"folder/{name}"},
    "not asked for": lambda name: {"name": f"other-{name}"},
}


@given(kinds=st.lists(st.sampled_from(list(KINDS)), max_size=100), details=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_items_abreast_are_what_they_are_one_by_one(shop, kinds, details):
    """Whatever goes through the steps together: the same outcomes in the same order as of spans of one record."""
    shop.write("out/folder.txt", "")
    job = {"key": "{{ name }}", "output": Output(shop.out, "{{ 'folder.txt/' if '/' in name }}{{ name }}.txt")}
    template = "{% if fails %}{{ absent }}{% endif %}{{ text or name }}"
    span = shop.span(*(KINDS[kind](f"n{number}") for number, kind in enumerate(kinds)))

    def rendered(most: int, folder: str) -> tuple[list[Any], list[int], list[Any]]:
        os.makedirs(shop.folder / folder, exist_ok=True)
        shop.write(f"{folder}/folder.txt", "")
        worker = shop.worker(template, job={**job, "jinja": JinjaOptions(undefined="default")}, details=details,
                             only="[nf]*", output=str(shop.folder / folder), rows=True)  # fmt: skip
        rest, items, rows, counts = span, [], [], Counter()
        while rest.count:
            outcome = worker.render(rest.first(min(most, rest.count)), AMPLE)
            items += [(one.seq, one.key, one.path, one.status, one.size, one.digest, one.error and one.error.type)
                      for one in outcome.items]  # fmt: skip
            rows += [row[:5] for row in rows_of(outcome)] if outcome.rows else []
            counts += Counter(rendered=outcome.rendered, skipped=outcome.skipped, written=outcome.written)
            rest = rest.after(outcome.done)
        return items, rows, sorted(counts.items())

    together, alone = rendered(1000, "together"), rendered(1, "alone")
    assert together == alone
    assert [seq for seq, *_ in together[0]] == sorted(seq for seq, *_ in together[0])


@pytest.mark.parametrize(
    ("template", "orders"),
    [
        ("{{ look() }}{{ pause() }}", {}),
        ("{{ look() }}{{ 'x' * 5000 }}", {}),
        ("{{ look() }}", {"memory": 10**7}),
        ("{{ look() }}", {"gated": True}),
    ],
    ids=["slow", "large", "capped", "behind a gate"],
)
def test_who_goes_alone(shop, template, orders):
    """Slow items, large ones, and those that need memory or a turn of their own are written before the next begins."""
    seen = []
    worker = shop.worker(template, plugin="GLOBALS = {'look': None, 'pause': None}", **orders)
    worker._renderer.globals.update(look=lambda: seen.append(len(shop.outputs())), pause=lambda: time.sleep(0.002))
    worker.render(shop.span(*names(*map(str, range(10)))), AMPLE)
    assert list(range(10)) == seen


def test_what_is_rendered_is_written(shop):
    """Time that is up leaves no document made for nothing: the rest begins with what nobody has rendered."""
    seen = []
    worker = shop.worker("{{ look(name) }}", plugin="GLOBALS = {'look': None}", details=True)
    worker._renderer.globals["look"] = seen.append
    rest = shop.span(*names(*map(str, range(600))))
    while rest.count:
        rest = rest.after(worker.render(rest, 0.001).done)
    assert [str(number) for number in range(600)] == seen


@pytest.mark.parametrize("step", ["key", "template"])
def test_who_lacks_memory_is_left_to_another(shop, step, monkeypatch):
    """Where others have left much behind, the rest of the span begins with who lacks memory, in a batch, too."""
    seen = []

    def greedy(name: str) -> str:
        if name == "40" and name not in seen:
            monkeypatch.setattr(worker.allowance, "grown", lambda: 2**24)
            raise MemoryError
        seen.append(name)
        return name

    plugin, expression = "GLOBALS = {'greedy': None}", "{{ greedy(name) }}"
    worker = shop.worker(expression if step == "template" else "x", job={"key": expression if step == "key" else None},
                         plugin=plugin, memory=2**25)  # fmt: skip
    worker._renderer.globals["greedy"] = greedy
    outcome = worker.render(shop.span(*names(*map(str, range(100)))), AMPLE)
    assert (40, 40, True, ()) == (outcome.done, outcome.rendered, outcome.spent, outcome.items)
    assert [str(number) for number in range(40)] == seen
    assert {f"{number}.txt" for number in range(40)} == set(shop.outputs())


def test_tiny_items_go_abreast(shop):
    """Each with its own note in the slot, and its own time in the row."""
    seen, written = [], []
    worker = shop.worker("{{ look() }}", plugin="GLOBALS = {'look': None}", rows=True)
    worker._renderer.globals["look"] = lambda: (seen.append(shop.slot.read().seq), written.append(os.listdir(shop.out)))
    outcome = worker.render(shop.span(*names(*map(str, range(100)))), AMPLE)
    assert list(range(100)) == seen
    assert len({len(found) for found in written}) < 50
    assert all(0 < row[-1] < outcome.seconds for row in rows_of(outcome))


# ---- failures --------------------------------------------------------------------------------------------


def raised(name: str) -> str:
    """A plug-in with a filter that raises such an exception."""
    return f"import sys\ndef fail(x):\n    {name}\nFILTERS = {{'fail': fail}}\n"


@pytest.mark.parametrize(
    ("statement", "type_", "message"),
    [
        ("sys.exit(3)", "SystemExit", "3"),
        ("raise SystemExit", "SystemExit", "SystemExit()"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt()"),
        ("raise MemoryError", "MemoryError", "MemoryError()"),
        ("raise GeneratorExit", "GeneratorExit", "GeneratorExit()"),
        ("fail(x)", "RecursionError", None),
        ("raise BaseException('b')", "BaseException", "b"),
        ("return b'bytes'", "TypeError", "the output would hold bytes, not text (found b'bytes'); decode them first"),
        ("return '\\ud800'", "UnicodeEncodeError",
         "the document holds a lone surrogate ('\\ud800'), which UTF-8 cannot express"),
    ],
)  # fmt: skip
def test_whatever_a_filter_does(shop, statement, type_, message):
    """A filter that raises, exits or recurses fails its item; the next one is rendered."""
    worker = shop.worker("{% if name == 'b' %}{{ name|fail }}{% endif %}{{ name }}", plugin=raised(statement))
    span = shop.span(*names("a", "b", "c"))
    outcome = worker.render(span, AMPLE)
    [found] = failures(outcome)
    assert (type_, message or found.message) == (found.type, found.message)
    assert ({"a.txt": "a", "c.txt": "c"}, "page", None) == (shop.outputs(), found.template, shop.slot.read().seq)


def test_a_filter_that_runs_out(shop):
    """`next()` on nothing, inside a filter: Python makes another error of it, which still names template and line."""
    worker = shop.worker("one\n{{ name|fail }}", plugin=raised("return next(iter(''))"))
    [found] = failures(worker.render(shop.span(*names("a")), AMPLE))
    assert ("page", 2) == (found.template, found.line)


def test_an_interrupt_inline(shop):
    """In the person's own process Ctrl-C is theirs; everything else fails the item."""
    worker = shop.worker("{{ name|fail }}", plugin=raised("raise KeyboardInterrupt"), inline=True)
    with pytest.raises(KeyboardInterrupt):
        worker.render(shop.span(*names("a")), AMPLE)
    second = shop.worker("{{ name|fail }}", plugin=raised("sys.exit(1)"), inline=True)
    assert ["SystemExit"] == [found.type for found in failures(second.render(shop.span(*names("a")), AMPLE))]


@pytest.mark.parametrize(
    ("line", "type_", "start"),
    [
        ("[1]", "RecordError", "record is not a mapping"),
        ("{", "JSONDecodeError", "not valid JSON"),
        (b'{"name": "\xff"}', "UnicodeDecodeError", "not valid UTF-8"),
    ],
)
def test_bad_records(shop, line, type_, start):
    """A line that is no record fails on its own, by its line; it is called by file and line."""
    outcome = shop.worker().render(shop.span({"name": "a"}, line, {"name": "c"}), AMPLE)
    [item] = outcome.items
    assert (type_, True) == (item.error.type, item.error.message.startswith(start))
    assert ("data.jsonl:2", "", Place("data.jsonl", 2)) == (item.key, item.path, item.source)
    assert {"a.txt": "a", "c.txt": "c"} == shop.outputs()


@pytest.mark.parametrize(
    ("job", "record", "expected"),
    [
        ({}, {}, Failure("UndefinedError", "job.yaml: output.path: 'name' is undefined")),
        ({"key": "{{ id }}"}, {"name": "a"}, Failure("UndefinedError", "job.yaml: key: 'id' is undefined")),
        ({"template": "{{ kind }}"}, {"name": "a"},
         Failure("UndefinedError", "job.yaml: template: 'kind' is undefined")),
        ({"template": "{{ kind }}"}, {"name": "a", "kind": "pag"},
         Failure("TemplateNotFound", "job.yaml: template: no template 'pag'; did you mean 'page'?")),
        ({}, {"name": "../a"},
         Failure("PathError", "output path '../a.txt' holds '..'; it must lie inside output.dir")),
        ({}, {"name": "a\ud800"}, Failure("PathError", "output path 'a\\ud800.txt' holds a lone surrogate")),
    ],
)  # fmt: skip
def test_what_the_job_file_is_to_blame_for(shop, job, record, expected):
    """An expression that fails is named with its place in the job file; a bad path says what is bad about it."""
    assert [expected] == failures(shop.worker("x", job=job).render(shop.span(record), AMPLE))


def test_a_file_in_the_way(shop):
    """An error of the file system fails the item in the system's words."""
    (shop.out / "a.txt").mkdir()
    [found] = failures(shop.worker().render(shop.span(*names("a")), AMPLE))
    assert Failure("IsADirectoryError", "[Errno 21] Is a directory: 'a.txt'") == found


def test_keys_and_paths_of_failures(shop):
    """What is known of an item when it fails is told, whichever of key and path is at fault."""
    job = {"key": "{{ id }}"}
    outcome = shop.worker("{{ absent }}", job=job).render(
        shop.span({"name": "a", "id": 5}, {"name": "b"}, {"id": 7}), AMPLE
    )
    assert [("5", "a.txt"), ("data.jsonl:2", "b.txt"), ("7", "")] == [(i.key, i.path) for i in outcome.items]


# ---- only, identify --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "expected"),
    [("a*", ["a", "ab"]), ("*", ["a", "ab", "b", "[x]"]), ("?", ["a", "b"]), ("[[]x]", ["[x]"]), ("A", []), ("", [])],
)
def test_only(shop, only, expected):
    """Keys that the pattern doesn't match are skipped: neither rendered nor failed."""
    worker = shop.worker("{{ name }}", job={"key": "{{ name }}"}, only=only)
    outcome = worker.render(shop.span(*names("a", "ab", "b", "[x]")), AMPLE)
    assert sorted(f"{name}.txt" for name in expected) == sorted(shop.outputs())
    assert (4, len(expected), 4 - len(expected), 0) == (outcome.done, outcome.rendered, outcome.skipped, outcome.failed)


def test_only_spares_the_rest(shop):
    """An item that isn't asked for cannot fail, by its template or by its path."""
    worker = shop.worker("{{ text }}", job={"key": "{{ id }}", "output": Output(shop.out, "{{ place }}")}, only="a")
    outcome = worker.render(
        shop.span({"id": "a", "place": "a", "text": ""}, {"id": "b", "place": "b"}, {"id": "c"}), AMPLE
    )
    assert (1, 2, []) == (outcome.rendered, outcome.skipped, failures(outcome))


def test_identify(shop):
    """Key, path and line of a span's first record, whatever the template would do with it."""
    worker = shop.worker("{{ 1 / 0 }}", job={"key": "k-{{ name }}"})
    span = shop.span({"name": "a"}, "", {"name": "b"}, "[1]", {"x": 1})
    rest = Span(span.input, 0, 4)
    found = [worker.identify(rest.after(done)) for done in range(4)]
    assert [("k-a", "a.txt", 1), ("k-b", "b.txt", 3), ("", "", 4), ("", "", 5)] == found
    assert None is shop.slot.read().seq


def test_identify_by_expressions_that_exit(shop):
    """A key that ends the program is no key; the path is known all the same."""
    worker = shop.worker("x", job={"key": "{{ name|fail }}"}, plugin=raised("sys.exit(1)"))
    assert ("", "a.txt", 1) == worker.identify(shop.span(*names("a")))


# ---- the slot and the files ------------------------------------------------------------------------------


def test_the_slot_while_rendering(shop):
    """While a template runs the slot says which record it is at, of which span, since when and in which folder."""
    seen = []
    worker = shop.worker("{{ look() }}", job={"output": Output(shop.out, "{{ name }}/x")},
                         plugin="GLOBALS = {'look': lambda: None}")  # fmt: skip
    before = time.monotonic()
    worker._renderer.globals["look"] = lambda: seen.append(shop.slot.read())
    worker.render(Span(shop.span(*names("a", "b", "c")).input, 1, 2, skip=1), AMPLE)
    assert [(1, 1), (1, 2)] == [(note.span, note.seq) for note in seen]
    assert before <= seen[0].since <= seen[1].since <= time.monotonic()
    assert [b"", b"b"] == [os.path.basename(note.folder) for note in seen]
    assert None is shop.slot.read().seq


def test_a_changed_file_is_noticed(shop):
    """Records of a file that was written to since the scan are not rendered."""
    worker, span = shop.worker(), shop.span(*names("a", "b"))
    worker.render(span.first(1), AMPLE)
    shop.write("data.jsonl", '{"name": "other"}\n{"name": "b"}\n')
    with pytest.raises(SourceError) as caught:
        worker.render(span.after(1), AMPLE)
    assert "data.jsonl: the file changed while it was read; run again" == str(caught.value)
    assert {"a.txt": "a"} == shop.outputs()


def test_a_replaced_file_is_noticed(shop):
    """Another file put in the place of the one that is open is not taken for it."""
    worker, span = shop.worker(), shop.span(*names("a", "b"))
    worker.render(span.first(1), AMPLE)
    shop.write("new", (shop.folder / "data.jsonl").read_bytes())
    os.replace(shop.folder / "new", shop.folder / "data.jsonl")
    with pytest.raises(SourceError, match="the file changed"):
        worker.render(span.after(1), AMPLE)


def test_a_file_that_is_gone(shop):
    """A source that cannot be read any more ends the run with its name."""
    worker, span = shop.worker(), shop.span(*names("a"))
    os.unlink(shop.folder / "data.jsonl")
    with pytest.raises(SourceError) as caught:
        worker.render(span, AMPLE)
    assert "data.jsonl: cannot be read: No such file or directory" == str(caught.value)


@pytest.mark.parametrize("method", ["render", "identify"])
def test_a_file_that_ends_early(shop, method):
    """Fewer records than the scan counted: the run ends with an error that says so, and the slot is idle."""
    span = shop.span(*names("a"))
    longer = Span(span.input, 0, 3).after(1 if method == "identify" else 0)
    worker = shop.worker()
    with pytest.raises(SourceError) as caught:
        worker.render(longer, AMPLE) if method == "render" else worker.identify(longer)
    assert "data.jsonl: the file ends before record 2; run again" == str(caught.value)
    assert None is shop.slot.read().seq


def test_scan(shop):
    """Scanning leaves what it has found in a file, and the claims beside it; a source that cannot be read is named."""
    worker, into = shop.worker(), str(shop.folder / "found")
    span = shop.span({"name": "a"}, "", {"name": "b"})
    worker.scan(ScanOrders(span.input, Selection()), 0, span.input.stamp[0], into)
    found = Findings.load(into)
    assert (2, 3, 0) == (found.records, found.lines, found.unkeyed)
    assert [hash("a.txt"), hash("b.txt")] == list(Claims.load(into + CLAIMS).paths)
    absent = ScanOrders(Input("/nowhere", spooled=False, name="data.jsonl"), Selection())
    with pytest.raises(SourceError) as caught:
        worker.scan(absent, 0, 1, into)
    assert "data.jsonl: cannot be read: No such file or directory" == str(caught.value)


def test_scan_of_what_is_known(shop):
    """Chunks that are known come from a file; another file is another run's."""
    worker, into = shop.worker(), str(shop.folder / "found")
    span = shop.span(*names("a", "b"))
    mark = digest((shop.folder / "data.jsonl").read_bytes())
    numbers = []
    for name, content in (("known", {mark: (7, 2)}), ("other", {}), (None, {})):
        if name:
            (shop.folder / name).write_bytes(marshal.dumps(content))
        orders = ScanOrders(span.input, Selection(), known=name and str(shop.folder / name))
        worker.scan(orders, 0, span.input.stamp[0], into)
        numbers.append([chunk[-1] for chunk in Findings.load(into).chunks])
    assert [[7], [None], [None]] == numbers


# ---- preparing -------------------------------------------------------------------------------------------


def problems(worker: Worker) -> tuple[str, ...]:
    """What preparing finds wrong."""
    with pytest.raises(TemplateError) as caught:
        worker.prepare()
    return caught.value.problems


def test_every_broken_template_is_told(shop):
    """Syntax errors anywhere in what the job reaches are told at once, with path and line."""
    templates = {
        "page": "{% extends 'base' %}{% include ['a', 'absent'] %}{% import 'm' as m %}",
        "base": "\n{% endif %}",
        "a": "{% include 'b/c' %}",
        "b/c": "\n\n{{ x | nothing }}",
        "m": b"one\n\xff",
        "unreached": "{% if",
    }
    assert (
        "templates/b/c:3: No filter named 'nothing'.",
        "templates/base:2: Encountered unknown tag 'endif'.",
        "templates/m:2: the file is not UTF-8 (byte 4: invalid start byte)",
    ) == problems(shop.unprepared(templates))


def test_what_is_not_reached_does_not_matter(shop):
    """A broken file that no template of the job refers to is nobody's problem."""
    worker = shop.worker({"page": "{{ name }}", "broken": "{% if", "binary.png": b"\x89PNG\xff"})
    worker.render(shop.span(*names("a")), AMPLE)
    assert {"a.txt": "a"} == shop.outputs()


def test_templates_that_include_each_other(shop):
    """A circle of includes is walked once."""
    worker = shop.worker({"page": "{% include 'b' %}", "b": "{% if false %}{% include 'page' %}{% endif %}{{ name }}"})
    assert 1 == worker.render(shop.span(*names("a")), AMPLE).rendered


def test_a_broken_template_chosen_by_the_record(shop):
    """A template that the record chooses is compiled where it is met, and broken fails only its items."""
    worker = shop.worker({"page": "{{ name }}", "broken": "\n{% if"}, job={"template": "{{ kind }}"})
    records = [{"name": name, "kind": kind} for name, kind in (("a", "page"), ("b", "broken"), ("c", "page"))]
    outcome = worker.render(shop.span(*records), AMPLE)
    [found] = failures(outcome)
    assert ("TemplateSyntaxError", "broken", 2) == (found.type, found.template, found.line)
    assert {"a.txt": "a", "c.txt": "c"} == shop.outputs()


def test_a_template_included_by_the_record(shop):
    """A broken template that only some records include fails those."""
    worker = shop.worker({"page": "{% include kind %}", "good": "{{ name }}", "broken": "{% if"})
    outcome = worker.render(shop.span({"name": "a", "kind": "good"}, {"name": "b", "kind": "broken"}), AMPLE)
    assert ([("page:1", "broken:1")], {"a.txt": "a"}) == ([found.chain for found in failures(outcome)], shop.outputs())


def test_no_such_template(shop):
    """The job's template must exist; one that comes near is proposed."""
    expected = ("job.yaml: template: no template 'pgae' in the template folders; did you mean 'page'?",)
    assert expected == problems(shop.unprepared("x", job={"template": "pgae"}))


def test_broken_expressions(shop):
    """Template, path and key are checked together."""
    job = {"template": "{{", "key": "{% if %}", "output": Output(shop.out, "{{ a|nothing }}")}
    found = problems(shop.unprepared("x", job=job))
    assert ["template", "output.path", "key"] == [problem.split(": ")[1] for problem in found]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(:\n", "plugin.py:1: SyntaxError: invalid syntax"),
        ("x = 1\nraise ValueError('no good')", "plugin.py:2: ValueError: no good"),
        ("import nothing_like_this", "plugin.py:1: ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("import sys\nsys.exit(3)", "plugin.py:2: SystemExit: 3"),
        ("x = 1", "plugin has none of FILTERS, TESTS, GLOBALS and GENERATORS"),
        ("FILTERS = [1]", "plugin: FILTERS is not a dictionary of names"),
        ("TESTS = {1: 2}", "plugin: TESTS is not a dictionary of names"),
    ],
)
def test_broken_plugins(shop, source, problem):
    """A plug-in that cannot be used is named with its line and what it raised."""
    assert (f"job.yaml: plugins: {problem}",) == problems(shop.unprepared("x", plugin=source))


def test_a_plugin_that_is_not_installed(shop):
    """A module that there is none of is a problem of `plugins`."""
    [problem] = problems(shop.unprepared("x", job={"plugins": ("no_such_module_anywhere",)}))
    assert problem.startswith("job.yaml: plugins: no_such_module_anywhere: ModuleNotFoundError: ")


def test_an_unknown_extension(shop):
    """An extension that cannot be imported is a problem of `jinja.extensions`."""
    [problem] = problems(shop.unprepared("x", job={"jinja": JinjaOptions(extensions=("no.such.Extension",))}))
    assert problem.startswith("job.yaml: jinja.extensions: ")


def test_a_constant_that_fails_while_compiling(shop):
    """A filter on a constant that fails while templates are compiled fails where it is rendered, not before."""
    worker = shop.worker("{{ 'x'|fail }}", plugin=raised("raise ValueError('no good')"))
    assert ["no good"] == [found.message for found in failures(worker.render(shop.span(*names("a")), AMPLE))]


# ---- calls from the coordinator --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (SourceError("as it is"), SourceError, "as it is"),
        (TemplateError(["a", "b"]), TemplateError, "a\nb"),
        (ValueError("no good"), WorkerError, "method: ValueError: no good"),
        (SystemExit(3), WorkerError, "method: SystemExit: 3"),
        (ValueError("\ud800"), WorkerError, "method: ValueError: \\ud800"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_our_own_errors_travel(monkeypatch, error, kind, message):
    """What a method raises reaches the coordinator as an error of ours, which can be unpickled anywhere."""

    class Raising:
        def method(self):
            raise error

    monkeypatch.setattr(seats, "_worker", Raising())
    with pytest.raises(ChoraError) as caught:
        seats.call("method")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (kind, message) == (type(copy), str(copy))


@pytest.mark.parametrize("value", [Orders("b", "o", "s", "t"), Outcome(1, 1, 0, 0, 0.0, ())])
def test_what_is_told_and_answered_can_be_pickled(value):
    """Orders and outcomes cross process boundaries unchanged."""
    assert value == pickle.loads(pickle.dumps(value))
