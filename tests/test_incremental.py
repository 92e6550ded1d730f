"""Incremental rendering: what is rendered again, and why; what is not; what nobody makes any more; who is in the way.

Most runs are inline and in this process, to be quick; where processes, signals or exit codes matter the command is run.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chora_mp import Job, JobError, LedgerError, SourceError, batch_generate, batch_generate_stream, plan, retry_failed
from chora_mp.policy import Errors
from chora_mp.upkeep import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from conftest import Project

    from chora_mp import BatchResult

BOUND = 60.0

GONE, NO_KEY = "record gone", "no record, or no key"

TEMPLATES = {
    "page.txt.j2": "{% include 'head.txt.j2' %}page {{ name }} {{ v }} {{ year }}\n",
    "note.txt.j2": "note {{ name }} {{ v | loud }} {{ year }}\n",
    "head.txt.j2": "head\n",
    "spare.txt.j2": "nobody asks for it\n",
}
JOB = """\
source: data.jsonl
template: "{{ kind }}.txt.j2"
key: "{{ name }}"
output: {dir: out, path: "{{ name }}.txt"}
context: {year: 2026}
plugins: [filters.py]
depends: [logo.svg]
"""
RECORDS = [{"name": name, "kind": kind, "v": name * 2} for name, kind in zip("abcd", ("page", "page", "note", "note"), strict=True)]  # fmt: skip


def make(project: Project, records: Iterable[Any] = RECORDS, job: str = JOB, **templates: str) -> None:
    """A job whose templates are chosen per record, with all that a job may depend on."""
    project.records(*records)
    project.write("job.yaml", job)
    project.write("filters.py", "FILTERS = {'loud': str.upper}\n")
    project.write("logo.svg", "<svg/>")
    for name, text in (TEMPLATES | {f"{name}.txt.j2": text for name, text in templates.items()}).items():
        project.write(f"templates/{name}", text)


def plain(
    project: Project, records: Iterable[Any], more: str = "", template: str = "{{ name }} {{ 1 // v }}\n"
) -> None:
    """A job with one template; `v: 0` makes an item fail."""
    project.records(*records)
    project.job(
        f'key: "{{{{ name }}}}"\n{more}', template=template, path="{{ path or name }}.txt".replace("path or ", "")
    )


def loaded(project: Project, **changes: Any) -> Job:
    """The job, to be rendered inline."""
    return Job.load(project.folder / "job.yaml").replace(**{"workers": 0, **changes})


def render(project: Project, **wishes: Any) -> BatchResult:
    """One run."""
    return batch_generate(loaded(project), **wishes)


def counts(result: BatchResult) -> tuple[int, int, int]:
    """How many items were rendered, failed and were up to date."""
    return result.successful, result.failed, result.unchanged


def done(project: Project, *, workers: int = 0, **wishes: Any) -> dict[str, str]:
    """Why each item that was not up to date was rendered, by key; orphans by path.

    That the run renders what the plan has said, and nothing else, is made sure of.
    """
    job = loaded(project, workers=workers)
    planned = plan(job, **wishes)
    items = list(batch_generate_stream(job, **wishes))
    expected = {item.seq for item in planned.items if item.seq is not None}
    assert expected == {item.seq for item in items if item.status != "unchanged"}
    assert (planned.total, planned.unchanged) == (len(items), sum(item.status == "unchanged" for item in items))
    return {item.path if item.seq is None else item.key: item.reason for item in planned.items}


def documents(project: Project, folder: str = "out") -> dict[str, str]:
    """Path and text of every document in an output folder."""
    root = project.folder / folder
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and ".chora-mp" not in path.parts)
    return {str(path.relative_to(root)): path.read_text() for path in files}


def fresh(project: Project) -> dict[str, str]:
    """The documents of a run into a folder of its own, which goes."""
    job = loaded(project)
    assert job.output is not None
    folder = project.folder / "fresh"
    batch_generate(job.replace(output=type(job.output)(folder, job.output.path)))
    found = documents(project, "fresh")
    shutil.rmtree(folder)
    return found


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Bytes, time stamp, inode and mode of every file; the lock, which is opened by each run, without its time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        time_stamp = 0 if path.name in {"lock", ".chora-mp"} else status.st_mtime_ns
        found[str(path.relative_to(folder))] = (data, time_stamp, status.st_ino, status.st_mode)
    return found


def edit(project: Project, name: str, old: str, new: str) -> None:
    """Replace a text in a file of the project, which must be there."""
    text = (project.folder / name).read_text()
    assert old in text
    project.write(name, text.replace(old, new))


# ---- what is rendered again, and why -----------------------------------------------------------------------


def _touch(project: Project) -> None:
    for path in project.out.glob("*.txt"):
        os.utime(path, (1, 1))


def _copy_over(project: Project) -> None:
    shutil.copy(project.out / "a.txt", project.folder / "copy")
    os.replace(project.folder / "copy", project.out / "a.txt")


def _edit_output(project: Project) -> None:
    edit(project, "out/a.txt", "page", "PAGE")


def _symlink_output(project: Project) -> None:
    (project.out / "a.txt").rename(project.folder / "elsewhere")
    (project.out / "a.txt").symlink_to(project.folder / "elsewhere")


class Change(NamedTuple):
    """Something that a person does between two runs, and what the second renders, each item with its reason."""

    what: str
    does: Callable[[Project], object]
    expected: dict[str, str]


PAGES = ("a", "b")
ALL = ("a", "b", "c", "d")


def each(keys: Iterable[str], reason: str) -> dict[str, str]:
    """One reason for all."""
    return dict.fromkeys(keys, reason)


CHANGES = [
    Change("nothing", lambda _: None, {}),
    Change("outputs touched", _touch, {}),
    Change("output replaced by a copy of it", _copy_over, {}),
    Change("output edited", _edit_output, {"a": "output edited"}),
    Change("output emptied", lambda p: p.write("out/a.txt", ""), {"a": "output edited"}),
    Change("output removed", lambda p: (p.out / "b.txt").unlink(), {"b": "output missing"}),
    Change("output replaced by a symlink", _symlink_output, {"a": "output edited"}),
    Change("unknown file added", lambda p: p.write("out/mine", "mine"), {}),
    Change("record changed", lambda p: p.records(*RECORDS[:3], {**RECORDS[3], "v": "new"}), {"d": "record changed"}),
    Change("record given another template", lambda p: p.records({**RECORDS[0], "kind": "note"}, *RECORDS[1:]), {"a": "record changed"}),
    Change("records reordered", lambda p: p.records(*RECORDS[::-1]), {}),
    Change("blank lines added", lambda p: p.records("", RECORDS[0], "  ", *RECORDS[1:], "", ""), {}),
    Change("record added", lambda p: p.records({**RECORDS[0], "name": "e"}, *RECORDS), {"e": "new"}),
    Change("record removed", lambda p: p.records(*RECORDS[1:]), {"a.txt": GONE}),
    Change("record without a key", lambda p: p.records(*RECORDS, {"kind": "note"}), {"record 5": NO_KEY}),
    Change("output path of a record changed", lambda p: p.records({**RECORDS[0], "name": "z"}, *RECORDS[1:]), {"z": "new", "a.txt": GONE}),
    Change("source touched", lambda p: os.utime(p.folder / "data.jsonl", (1, 1)), {}),
    Change("template edited", lambda p: edit(p, "templates/note.txt.j2", "note", "NOTE"), each("cd", "template note.txt.j2 changed")),
    Change("include edited", lambda p: edit(p, "templates/head.txt.j2", "head", "HEAD"), each("ab", "template head.txt.j2 changed")),
    Change("template edited and back", lambda p: edit(p, "templates/head.txt.j2", "head", "head"), {}),
    Change("unused template edited", lambda p: edit(p, "templates/spare.txt.j2", "nobody", "somebody"), {}),
    Change("unused template removed", lambda p: (p.folder / "templates/spare.txt.j2").unlink(), {}),
    Change("unused template added", lambda p: p.write("templates/more.txt.j2", "{{ x }}"), {}),
    Change("constant changed", lambda p: edit(p, "job.yaml", "2026", "2027"), each(ALL, "context.year changed")),
    Change("constant of another type", lambda p: edit(p, "job.yaml", "2026", "'2026'"), each(ALL, "context.year changed")),
    Change("constant added", lambda p: edit(p, "job.yaml", "year: 2026", "year: 2026, x: 1"), each(ALL, "context.x added")),
    Change("plug-in edited", lambda p: edit(p, "filters.py", "upper", "lower"), each(ALL, "plug-in filters.py changed")),
    Change("plug-in removed", lambda p: (edit(p, "job.yaml", "plugins: [filters.py]\n", ""), edit(p, "templates/note.txt.j2", " | loud", "")),
           {**each("ab", "plug-in filters.py removed"), **each("cd", "template note.txt.j2 changed, plug-in filters.py removed")}),
    Change("dependency changed", lambda p: p.write("logo.svg", "<svg></svg>"), each(ALL, "depends logo.svg changed")),
    Change("option of Jinja2 changed", lambda p: edit(p, "job.yaml", "depends", "jinja: {trim_blocks: true}\ndepends"), each(ALL, "jinja changed")),
    Change("workers and limits changed", lambda p: edit(p, "job.yaml", "depends", "workers: 1\nlimits: {timeout: 5s}\ndepends"), {}),
    Change("key expression changed, keys the same", lambda p: edit(p, "job.yaml", 'key: "{{ name }}"', 'key: "{{ name | string }}"'), {}),
    Change("key expression changed", lambda p: edit(p, "job.yaml", 'key: "{{ name }}"', 'key: "x{{ name }}"'), each(("xa", "xb", "xc", "xd"), "new")),
    Change("path expression changed, paths the same", lambda p: edit(p, "job.yaml", '"{{ name }}.txt"', '"{{ name ~ \'.txt\' }}"'), {}),
    Change("path expression changed for one record", lambda p: edit(p, "job.yaml", '"{{ name }}.txt"', '"{{ name if name > \'a\' else \'z\' }}.txt"'), {"a": "new", "a.txt": GONE}),
    Change("template expression changed, templates the same", lambda p: edit(p, "job.yaml", '"{{ kind }}.txt.j2"', '"{{ kind ~ \'.txt\' }}.j2"'), {}),
    Change("one template for all", lambda p: edit(p, "job.yaml", '"{{ kind }}.txt.j2"', "page.txt.j2"), each("cd", "template note.txt.j2 is not used any more")),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.what.replace(" ", "-"))
def test_what_is_rendered_again(project: Project, change: Change) -> None:
    """After a change the plan names exactly the items that it reaches, the run renders these, and the next one none."""
    make(project)
    assert each(ALL, "new") == done(project)
    change.does(project)
    assert change.expected == done(project)
    gone = {path for path, reason in change.expected.items() if reason == GONE}
    assert fresh(project) == {path: text for path, text in documents(project).items() if path not in {*gone, "mine"}}
    assert each(gone, GONE) == {path: reason for path, reason in done(project).items() if reason != NO_KEY}


def test_templates_swapped_by_the_job_file(project: Project) -> None:
    """Another template expression renders each item whose template is another now, also where both are still in use."""
    make(project, [{"name": "a", "kind": "page", "other": "note", "v": "x"}, {"name": "b", "kind": "note", "other": "page", "v": "x"}])  # fmt: skip
    done(project)
    edit(project, "job.yaml", "{{ kind }}", "{{ other }}")
    assert {"a", "b"} == {*done(project)}
    assert {"a.txt": "note a X 2026", "b.txt": "headpage b x 2026"} == documents(project)


def test_records_moved_to_another_template_by_a_constant(project: Project) -> None:
    """Where a constant chooses the template, another constant renders everything."""
    make(project, job=JOB.replace('"{{ kind }}.txt.j2"', '"{{ theme }}.txt.j2"').replace("{year", "{theme: page, year"))
    done(project)
    edit(project, "job.yaml", "theme: page", "theme: note")
    assert {*ALL} == {*done(project)}
    assert fresh(project) == documents(project)


@pytest.mark.parametrize("name", ["Jinja2", "chora-mp"])
def test_another_version(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another version of Jinja2 or of chora-mp may render otherwise: everything is rendered again, and told why."""
    make(project)
    done(project)
    if name == "Jinja2":
        monkeypatch.setattr("chora_mp.bundle.version", lambda _: "9.9.9")
    else:
        monkeypatch.setattr("chora_mp.bundle.__version__", "9.9.9")
    assert each(ALL, f"{name} changed") == done(project)
    assert {} == done(project)


def test_a_module_that_a_plugin_imports(project: Project) -> None:
    """An edit in a local module that a plug-in imports, here in a process that has not imported it yet."""
    make(project)
    project.write("filters.py", "import words\nFILTERS = {'loud': words.loud}\n")
    project.write("words.py", "def loud(text):\n    return text.upper()\n")
    assert each(ALL, "new") == done(project, workers=1)
    edit(project, "words.py", "upper", "title")
    assert each(ALL, "module words.py changed") == done(project, workers=1)
    assert "note c Cc 2026" == documents(project)["c.txt"]
    assert {} == done(project, workers=1)


def test_an_imported_module_changed_in_one_process(project: Project) -> None:
    """A job that is rendered inline twice by one process gets the module as it is now, not as it was imported first."""
    make(project)
    project.write("filters.py", "import shouting\nFILTERS = {'loud': shouting.loud}\n")
    project.write("shouting.py", "def loud(text):\n    return text.upper()\n")
    done(project)
    edit(project, "shouting.py", "upper", "title")
    assert each(ALL, "module shouting.py changed") == done(project)
    assert "note c Cc 2026" == documents(project)["c.txt"]


@pytest.mark.parametrize("include", ["kind ~ '.inc'", "['x.inc', kind ~ '.inc']", "'a.inc' if v else 'b.inc'"])
def test_a_dynamic_include_may_reach_any_template(project: Project, include: str) -> None:
    """Where the name of an include is known only when rendering, an edit of any template counts."""
    make(project, page="{% include " + include + " ignore missing %}")
    done(project)
    edit(project, "templates/spare.txt.j2", "nobody", "somebody")
    assert each(PAGES, "template spare.txt.j2 changed") == done(project)


def test_the_template_that_ignore_missing_waits_for(project: Project) -> None:
    """A template that is there at last is taken up by the documents that did without it, and by no others."""
    make(project, page="{% include 'foot.txt.j2' ignore missing %}page")
    done(project)
    project.write("templates/foot.txt.j2", "foot\n")
    found = done(project)
    assert each(PAGES, "template foot.txt.j2 added") == {key: reason.partition(",")[0] for key, reason in found.items()}
    assert "footpage" == documents(project)["a.txt"]
    assert {} == done(project)
    (project.folder / "templates/foot.txt.j2").unlink()
    assert {*PAGES} == {*done(project)}
    assert "page" == documents(project)["a.txt"]


def test_a_plugin_that_gets_the_environment_may_load_any_template(project: Project) -> None:
    """With a filter that is handed the environment or the context, an edit of any template counts."""
    make(project)
    project.write("filters.py", "import jinja2\n@jinja2.pass_environment\ndef loud(env, text):\n    return text.upper()\nFILTERS = {'loud': loud}\n")  # fmt: skip
    done(project)
    edit(project, "templates/spare.txt.j2", "nobody", "somebody")
    assert each(ALL, "template spare.txt.j2 changed") == done(project)


def test_several_reasons_for_one_item(project: Project) -> None:
    """All that has changed of what a document is made from is named."""
    make(project)
    done(project)
    edit(project, "templates/head.txt.j2", "head", "HEAD")
    edit(project, "job.yaml", "2026", "2027")
    found = done(project)
    assert {"context.year changed", "template head.txt.j2 changed"} == {*found["a"].split(", ")}
    assert "context.year changed" == found["c"]


def test_force(project: Project) -> None:
    """With `force` everything is rendered; files whose bytes come out as they were are left alone, time stamp and all."""
    make(project)
    done(project)
    before = {path: kept for path, kept in snapshot(project.out).items() if path.endswith(".txt")}
    edit(project, "out/a.txt", "page", "PAGE")
    assert each("bcd", "forced") | {"a": "output edited"} == done(project, force=True)
    after = snapshot(project.out)
    assert [before[f"{key}.txt"] for key in "bcd"] == [after[f"{key}.txt"] for key in "bcd"]
    assert {} == done(project)


def test_folder_in_an_outputs_place(project: Project) -> None:
    """An output that somebody has replaced by a folder is no reason to remove the folder: the item fails until it goes."""
    make(project)
    done(project)
    (project.out / "a.txt").unlink()
    project.write("out/a.txt/mine", "mine")
    result = render(project)
    assert (0, 1, 3) == counts(result)
    assert "IsADirectoryError" == result.failures[0].error.type
    assert "mine" == (project.out / "a.txt/mine").read_text()
    shutil.rmtree(project.out / "a.txt")
    assert (1, 0, 3) == counts(render(project))
    assert fresh(project) == documents(project)


def test_another_output_folder(project: Project) -> None:
    """With `-o` another folder has a ledger of its own; what is up to date here is no reason to leave it out there."""
    make(project)
    for folder, expected in (("out", 4), ("other", 4), ("other", 0), ("out", 0)):
        code, summary, stderr = project.render("-j", "0", "-o", folder)
        assert (0, expected, 4 - expected) == (code, summary["successful"], summary["unchanged"]), stderr
    assert documents(project) == documents(project, "other")


def test_a_constant_of_the_command_line(project: Project) -> None:
    """A constant given with `-D` counts as one of the job file's."""
    make(project)
    for define, expected in (("year=2026", 4), ("year=2026", 0), ("year=2027", 4), ("year='2027'", 4)):
        _, summary, stderr = project.render("-j", "0", "-D", define)
        assert (expected, 4 - expected) == (summary["successful"], summary["unchanged"]), stderr
    assert {"2027"} == {text.split()[-1] for text in documents(project).values()}


def test_a_record_at_the_head_of_a_large_source(project: Project) -> None:
    """A record inserted before 20,000 others renders one document, in real processes, and leaves the others' alone."""
    records = [{"name": f"n{number}", "v": number + 1, "text": "x" * 200} for number in range(20_000)]
    plain(project, records, "workers: 2")
    job = Job.load(project.folder / "job.yaml")
    assert (20_000, 0, 0) == counts(batch_generate(job))
    before = {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}
    project.records({"name": "first", "v": 1, "text": ""}, *records)
    planned = plan(job)
    assert ({"new": 1}, 20_001, 20_000) == (planned.reasons, planned.total, planned.unchanged)
    assert (1, 0, 20_000) == counts(batch_generate(job))
    after = {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}
    assert {"first.txt"} == {name for name, written in after.items() if before.get(name) != written}
    assert (0, 0, 20_001) == counts(batch_generate(job))


def test_changes_anywhere_in_a_source_of_many_chunks(project: Project) -> None:
    """Of thousands of records those that are changed, added, removed or moved are told apart, wherever they stand."""
    records = [{"name": f"n{number}", "v": number + 1, "text": "x" * (number % 97)} for number in range(6000)]
    plain(project, records)
    render(project)
    changed = [dict(record) for record in records]
    for number in (0, 2999, 5999):
        changed[number]["text"] = "changed"
    removed = {f"n{number}" for number in (1, 1500, 4500)}
    moved = changed[4000:4010]
    changed = [record for record in changed if record not in moved and record["name"] not in removed]
    project.records(*moved, *changed[:100], {"name": "new", "v": 1}, *changed[100:])
    expected = {**each(("n0", "n2999", "n5999"), "record changed"), "new": "new", **each((f"{name}.txt" for name in removed), GONE)}  # fmt: skip
    assert expected == done(project)
    assert (0, 0, 5998) == counts(render(project, prune=True))
    assert fresh(project) == documents(project)


def test_the_same_records_from_another_file(project: Project) -> None:
    """Records count, not the file they come from: a copy under another name renders nothing."""
    plain(project, [{"name": f"n{number}", "v": 1} for number in range(5)])
    render(project)
    project.job('key: "{{ name }}"', template="{{ name }} {{ 1 // v }}\n", source="copy.jsonl")
    shutil.copy(project.folder / "data.jsonl", project.folder / "copy.jsonl")
    assert {} == done(project)
    assert (0, 0, 5) == counts(render(project))


# ---- plan and dry run --------------------------------------------------------------------------------------


def _messy(project: Project) -> None:
    """A job that was rendered, with something for nearly every reason to render again."""
    make(project)
    render(project)
    project.records({**RECORDS[0], "v": "new"}, *RECORDS[1:3], {**RECORDS[0], "name": "e"}, {"kind": "note"})
    edit(project, "out/b.txt", "page", "PAGE")
    (project.out / "c.txt").unlink()


def test_dry_run(project: Project) -> None:
    """`-n` says how much would be rendered and why, and nothing of it is done."""
    _messy(project)
    run = project.run("render", "job.yaml", "-n", "-j", "0")
    expected = [
        "job: 5 of 5 items to render (1 new, 1 record changed, 1 output missing, 1 output edited, 1 no record, or no key)",
        "1 document whose record is gone; --prune removes what was not edited",
    ]
    assert (0, "", expected) == (run.returncode, run.stderr, run.stdout.splitlines())


def test_verbose_dry_run(project: Project) -> None:
    """`-nv` names every item in the order of the source, with its reason, and then the orphans."""
    _messy(project)
    run = project.run("render", "job.yaml", "-nv", "-j", "0")
    expected = [
        "  a -> a.txt: record changed",
        "  b -> b.txt: output edited",
        "  c -> c.txt: output missing",
        "  e -> e.txt: new",
        "  record 5: no record, or no key",
        "  d -> d.txt: record gone",
    ]
    assert (0, expected) == (run.returncode, run.stdout.splitlines()[2:])


def test_summary_of_a_dry_run(project: Project) -> None:
    """`-n --summary -` leaves stdout to the plan as JSON; what people read goes to stderr."""
    _messy(project)
    code, summary, stderr = project.render("-n", "-j", "0")
    reasons = {"new": 1, "record changed": 1, "output missing": 1, "output edited": 1, NO_KEY: 1}
    assert ("job", 5, 0, 1, reasons) == tuple(
        summary[name] for name in ("job", "total", "unchanged", "orphaned", "reasons")
    )
    assert (0, "job: 5 of 5 items to render") == (code, stderr.partition(" (")[0])
    assert {"key": "b", "path": "b.txt", "seq": 1, "reason": "output edited"} in summary["items"]
    assert {"key": "d", "path": "d.txt", "seq": None, "reason": GONE} in summary["items"]


@pytest.mark.parametrize(
    "wishes", [{}, {"force": True}, {"prune": True}, {"only": "a"}, {"failed": True}, {"shard": (1, 2)}], ids=str
)
def test_a_plan_changes_nothing(project: Project, wishes: dict[str, Any]) -> None:
    """After a plan all files are what they were, time stamps and the ledger's bytes included."""
    _messy(project)
    project.records(*RECORDS[:3])
    before = snapshot(project.folder)
    plan(loaded(project), **wishes)
    assert before == snapshot(project.folder)


def test_a_dry_run_changes_nothing(project: Project) -> None:
    """The same of the command, with processes, where nearly everything is to be done."""
    _messy(project)
    before = snapshot(project.folder)
    assert 0 == project.run("render", "job.yaml", "-n", "--force").returncode
    assert before == snapshot(project.folder)


def test_a_dry_run_of_a_job_never_rendered(project: Project) -> None:
    """It leaves no output folder, and says that all is new."""
    make(project)
    before = snapshot(project.folder)
    run = project.run("render", "job.yaml", "-n")
    assert (0, "job: 4 of 4 items to render (4 new)\n") == (run.returncode, run.stdout)
    assert before == snapshot(project.folder)


def test_a_dry_run_leaves_a_damaged_ledger_where_it_is(project: Project) -> None:
    """Setting a damaged ledger aside is for a run that renders."""
    make(project)
    render(project)
    project.write("out/.chora-mp/ledger.db", "no ledger at all" * 1000)
    before = snapshot(project.folder)
    assert 4 == len(plan(loaded(project)).items)
    assert before == snapshot(project.folder)


# ---- two records for one key or path -----------------------------------------------------------------------

MANY = 3100


class Clash(NamedTuple):
    """A record that is added at the end, the one in the way (`n7`), and what is said of them."""

    id: str
    path: str
    message: str


CLASHES = {
    "key": Clash("n7", "other.txt", "{1}: key 'n7' is that of the record at {0}, too; keys must be unique"),
    "path": Clash("x", "f7/n7.txt", "{1}: output path 'f7/n7.txt' is that of the record at {0}, too; paths must be unique"),
    "folder": Clash("x", "f7", "{1}: output path 'f7' and 'f7/n7.txt' of the record at {0}: one is a folder of the other"),
    "below": Clash("x", "f7/n7.txt/x", "{1}: output path 'f7/n7.txt/x' and 'f7/n7.txt' of the record at {0}: one is a folder of the other"),
}  # fmt: skip


def _write_jsonl(project: Project, records: list[dict[str, str]]) -> tuple[str, str, int]:
    project.records(*records)
    return "data.jsonl", "data.jsonl", 1


def _write_csv(project: Project, records: list[dict[str, str]]) -> tuple[str, str, int]:
    with (project.folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "path", "text"])
        writer.writeheader()
        writer.writerows(records)
    return "data.csv", "data.csv", 2


def _write_python(project: Project, records: list[dict[str, str]]) -> tuple[str, str, int]:
    project.write("rows.json", json.dumps(records))
    project.write("rows.py", "import json, pathlib\ndef records():\n    return json.loads(pathlib.Path(__file__).with_name('rows.json').read_text())\n")  # fmt: skip
    return "{python: 'rows.py:records'}", "rows.py:records", 1


WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "python": _write_python}


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        *(("jsonl", kind) for kind in CLASHES),
        ("csv", "key"),
        ("csv", "folder"),
        ("python", "path"),
        ("python", "below"),
    ],
)
def test_two_records_for_one_key_or_path(project: Project, format: str, kind: str) -> None:  # noqa: A002
    """Within one run, and against a record that was rendered long ago: both are named, and nothing is written."""
    records = [{"id": f"n{number}", "path": f"f{number}/n{number}.txt", "text": "x" * 40} for number in range(MANY)]
    clash = CLASHES[kind]
    extra = {"id": clash.id, "path": clash.path, "text": "y"}
    source, name, first = WRITERS[format](project, [*records, extra])
    project.job('key: "{{ id }}"', template="{{ text }}", source=source, path="{{ path }}")
    expected = (clash.message.format(f"{name}:{first + 7}", f"{name}:{first + MANY}"),)
    with pytest.raises(JobError) as caught:
        render(project)
    assert (expected, 2) == (caught.value.problems, caught.value.exit_code)
    assert not project.out.exists()
    WRITERS[format](project, records)
    render(project)
    before = snapshot(project.out)
    WRITERS[format](project, [*records, extra])
    with pytest.raises(JobError) as caught:
        render(project)
    assert expected == caught.value.problems
    assert before == snapshot(project.out)
    WRITERS[format](project, records)
    assert (0, 0, MANY) == counts(render(project))


def test_a_run_of_records_given_twice(project: Project) -> None:
    """Also where it is given twice to the byte where chunks begin and end, so that each of them is known from before."""
    records = [{"name": f"n{number}", "v": 1, "text": "x" * (number % 89)} for number in range(MANY)]
    plain(project, records)
    render(project)
    with closing(sqlite3.connect(project.out / ".chora-mp/ledger.db")) as ledger:
        offsets = [offset for (offset,) in ledger.execute("SELECT offset FROM chunks ORDER BY place")]
    assert len(offsets) > 5
    data = (project.folder / "data.jsonl").read_bytes()
    for start, end in ((2, 3), (2, 5), (0, 1)):
        project.write("data.jsonl", data[: offsets[end]] + data[offsets[start] :])
        with pytest.raises(JobError, match="keys must be unique"):
            render(project)
    project.write("data.jsonl", data + data)
    with pytest.raises(JobError, match="keys must be unique"):
        render(project)


def test_a_clash_ends_the_command(project: Project) -> None:
    """The command exits with 2 and names both records; what is there stays up to date."""
    plain(project, [{"name": f"n{number}", "v": 1} for number in range(MANY)], "workers: 2")
    assert 0 == project.render()[0]
    with (project.folder / "data.jsonl").open("a") as file:
        file.write('{"name": "n7", "v": 2}\n')
    code, _, stderr = project.render()
    expected = [
        "chora-mp: data.jsonl:3101: key 'n7' is that of the record at data.jsonl:8, too; keys must be unique",
        "chora-mp: data.jsonl:3101: output path 'n7.txt' is that of the record at data.jsonl:8, too; paths must be unique",
    ]
    assert (2, expected) == (code, stderr.splitlines())
    project.records(*({"name": f"n{number}", "v": 1} for number in range(MANY)))
    assert (0, 0, MANY) == counts(render(project))


# ---- outputs whose record is gone --------------------------------------------------------------------------


def named(names: Iterable[str], **more: Any) -> list[dict[str, Any]]:
    """A record for each name, which says its path too."""
    return [{"name": name, "path": f"{name}.txt", "v": 1, **more} for name in names]


def with_paths(project: Project, records: Iterable[Any], more: str = "", template: str = "{{ name }} {{ 1 // v }}\n") -> None:  # fmt: skip
    """A job whose records say their paths."""
    project.records(*records)
    project.job(f'key: "{{{{ name }}}}"\n{more}', template=template, path="{{ path }}")


def told_of_orphans(result: BatchResult) -> tuple[int, int, tuple[str, ...]]:
    """How many outputs were removed, how many are left though their record is gone, and which."""
    return result.pruned, result.orphaned, result.orphans


def test_orphans_are_listed_and_kept(project: Project) -> None:
    """Without `prune` an output whose record is gone stays, and every run tells of it."""
    with_paths(project, named("abc"))
    render(project)
    project.records(*named("b"))
    before = documents(project)
    for _ in range(2):
        result = render(project)
        assert ((0, 0, 1), (0, 2, ("a.txt", "c.txt"))) == (counts(result), told_of_orphans(result))
    assert before == documents(project)
    run = project.run("render", "job.yaml", "-j", "0")
    assert "2 documents whose record is gone: a.txt, c.txt; --prune removes what was not edited" in run.stdout


def test_prune_removes_what_was_not_edited(project: Project) -> None:
    """With `prune` unedited orphans go, with the folders that they leave empty; edited ones stay and are named."""
    paths = ["deep/er/a.txt", "deep/b.txt", "empty/in/c.txt", "kept/d.txt", "e.txt", "f.txt"]
    with_paths(project, [{"name": path[-5], "path": path, "v": 1} for path in paths])
    render(project)
    project.write("out/kept/mine", "mine")
    project.write("out/e.txt", "edited")
    os.utime(project.out / "deep/b.txt", (1, 1))  # touched is not edited
    project.records({"name": "f", "path": "f.txt", "v": 1})
    run = project.run("render", "job.yaml", "-j", "0", "--prune")
    assert ("", 0) == (run.stderr, run.returncode)
    expected = ["4 documents removed, whose record is gone", "1 document whose record is gone: e.txt; edited since, or not to be removed, and kept"]  # fmt: skip
    assert expected == run.stdout.splitlines()[1:]
    assert {"e.txt": "edited", "f.txt": "f 1", "kept/mine": "mine"} == documents(project)
    assert {"kept", ".chora-mp"} == {path.name for path in project.out.iterdir() if path.is_dir()}
    assert (0, 1, ("e.txt",)) == told_of_orphans(render(project, prune=True))


def test_the_summary_of_a_run_that_prunes(project: Project) -> None:
    """The JSON summary counts what was removed and what is left."""
    with_paths(project, named("abc"))
    render(project)
    project.records(*named("a"))
    project.write("out/b.txt", "edited")
    _, summary, _ = project.render("-j", "0", "--prune")
    assert (1, 1, 1, 1) == tuple(summary[name] for name in ("total", "unchanged", "pruned", "orphaned"))


@pytest.mark.parametrize("lines", [[], ["", "  "]], ids=["nothing", "blank lines"])
def test_prune_refuses_an_empty_source(project: Project, lines: list[str]) -> None:
    """An export that came out empty removes nothing: exit code 2. Once it is mended all is up to date."""
    with_paths(project, named("abc"))
    render(project)
    before = documents(project)
    project.records(*lines)
    code, summary, stderr = project.render("-j", "0", "--prune")
    assert (2, {}) == (code, summary)
    assert "chora-mp: data.jsonl: holds no record; with --prune that would remove every output" == stderr.strip()
    assert before == documents(project)
    project.records(*named("abc"))
    assert (0, 0, 3) == counts(render(project, prune=True))


@pytest.mark.parametrize("bad", ["{broken", "[]", '{"v": 1}', '{"name": "\\ud800", "path": 1}{'], ids=str)
def test_prune_refuses_records_without_a_key(project: Project, bad: str) -> None:
    """A record that cannot be read may be that of an output that would be removed: exit code 2, nothing removed."""
    with_paths(project, named("abc"))
    render(project)
    before = documents(project)
    project.records(*named("a"), bad, *named("b"))
    message = "^data.jsonl: holds records that cannot be read or have no key"
    for wishes in ({}, {"only": "a"}, {"shard": (1, 1)}):
        with pytest.raises(SourceError, match=message) as caught:
            render(project, prune=True, **wishes)
        assert 2 == caught.value.exit_code
    assert before == documents(project)
    project.records(*named("ab"))
    assert (1, 0, ()) == told_of_orphans(render(project, prune=True))


def test_prune_within_only(project: Project) -> None:
    """With `only`, no other orphans than those whose key matches are told of and removed."""
    with_paths(project, named(("a1", "a2", "b1", "b2")))
    render(project)
    project.records(*named(("a1", "b1")))
    assert (0, 1, ("a2.txt",)) == told_of_orphans(render(project, only="a*"))
    assert (1, 0, ()) == told_of_orphans(render(project, only="a*", prune=True))
    assert {"a1.txt", "b1.txt", "b2.txt"} == {*documents(project)}
    assert (0, 1, ("b2.txt",)) == told_of_orphans(render(project))


def test_prune_within_a_shard(project: Project) -> None:
    """A shard removes its own orphans; all shards together remove them all."""
    names = [f"n{number}" for number in range(40)]
    with_paths(project, named(names))
    render(project)
    project.records(*named(names[:10]))
    removed = [render(project, shard=(number, 3), prune=True).pruned for number in (1, 2, 3)]
    assert (30, True) == (sum(removed), all(0 < number < 30 for number in removed))
    assert {f"{name}.txt" for name in names[:10]} == {*documents(project)}
    assert ((0, 0, 10), (0, 0, ())) == (counts(render(project)), told_of_orphans(render(project)))


@pytest.mark.parametrize("template", ["{{ name }}\n", "the same for all\n"], ids=["other bytes", "the same bytes"])
def test_a_path_that_another_item_has_taken_over(project: Project, template: str) -> None:
    """The file is the other item's now: it is not told of as an orphan, not removed, and `verify` finds it sound."""
    with_paths(project, named("ab"), template=template)
    render(project)
    project.records(*named("c", path="a.txt"), *named("b"))
    assert {"c": "new"} == {item.key: item.reason for item in plan(loaded(project)).items}
    result = render(project, prune=True)
    assert ((1, 0, 1), (0, 0, ())) == (counts(result), told_of_orphans(result))
    assert fresh(project) == documents(project)
    assert verify(loaded(project)).sound
    result = render(project, prune=True)
    assert ((0, 0, 2), (0, 0, ())) == (counts(result), told_of_orphans(result))


@pytest.mark.parametrize("wishes", [{}, {"only": "c"}, {"shard": (1, 1)}, {"failed": False, "force": True}], ids=str)
def test_a_path_taken_over_while_another_item_fails(project: Project, wishes: dict[str, Any]) -> None:
    """What was written in another's place is known by what was written last, also where the run was no whole one."""
    with_paths(project, [*named("ab"), *named("f", v=0)])
    render(project)
    project.records(*named("c", path="a.txt"), *named("b"), *named("f", v=0))
    render(project, **wishes)
    assert verify(loaded(project)).sound
    assert "c 1" == documents(project)["a.txt"]


def test_paths_that_items_exchange(project: Project) -> None:
    """Two items that take each other's paths are both rendered, and nothing is removed."""
    with_paths(project, named("ab"), template="the same for all\n")
    render(project)
    project.records(*named("a", path="b.txt"), *named("b", path="a.txt"))
    result = render(project, prune=True)
    assert ((2, 0, 0), (0, 0, ())) == (counts(result), told_of_orphans(result))
    assert fresh(project) == documents(project)
    assert (0, 0, 2) == counts(render(project))


def test_keys_that_change_while_paths_stay(project: Project) -> None:
    """With another key expression all files are other items' now, and `prune` removes none of them."""
    with_paths(project, named("ab"))
    render(project)
    edit(project, "job.yaml", '"{{ name }}"', '"x-{{ name }}"')
    result = render(project, prune=True)
    assert ((2, 0, 0), (0, 0, ())) == (counts(result), told_of_orphans(result))
    assert {"a.txt", "b.txt"} == {*documents(project)}


def test_the_last_of_several_items_of_one_path(project: Project) -> None:
    """When the record that took a path over goes as well, `prune` removes the file and nothing is left to tell of."""
    with_paths(project, named("ab"))
    render(project)
    project.records(*named("c", path="a.txt"), *named("b"))
    render(project)
    project.records(*named("b"))
    assert (1, 0, ()) == told_of_orphans(render(project, prune=True))
    assert {"b.txt": "b 1"} == documents(project)
    assert (0, 0, ()) == told_of_orphans(render(project))


@pytest.mark.parametrize("wishes", [{"only": "b"}, {"failed": True}, {"shard": (1, 1)}], ids=str)
def test_a_path_that_was_only_claimed(project: Project, wishes: dict[str, Any]) -> None:
    """A path that an item laid claim to, but never wrote to before its record went, is still the first one's orphan."""
    with_paths(project, named("ab"))
    render(project)
    project.records(*named("c", path="a.txt", v=0), *named("b"))
    render(project, **wishes)
    project.records(*named("b"))
    assert (1, 0, ()) == told_of_orphans(render(project, prune=True))
    assert {"b.txt": "b 1"} == documents(project)


def test_a_record_that_comes_back(project: Project) -> None:
    """The output that was kept while its record was gone is up to date when it returns."""
    with_paths(project, named("abc"))
    render(project)
    project.records(*named("b"))
    render(project)
    project.records(*named("cba"))
    result = render(project)
    assert ((0, 0, 3), (0, 0, ())) == (counts(result), told_of_orphans(result))


def test_an_item_whose_path_changes_leaves_an_orphan(project: Project) -> None:
    """Its new file is written, and the old one is an orphan until it is removed."""
    with_paths(project, named("ab"))
    render(project)
    project.records(*named("a", path="new/a.txt"), *named("b"))
    result = render(project)
    assert ((1, 0, 1), (0, 1, ("a.txt",))) == (counts(result), told_of_orphans(result))
    assert (1, 0, ()) == told_of_orphans(render(project, prune=True))
    assert {"new/a.txt", "b.txt"} == {*documents(project)}


def test_prune_follows_no_symlink_out_of_the_folder(project: Project) -> None:
    """Where a folder was replaced by a symlink, what the symlink leads to is nobody's to remove."""
    with_paths(project, [*named("a", path="sub/a.txt"), *named("b")])
    render(project)
    (project.out / "sub").rename(project.folder / "elsewhere")
    (project.out / "sub").symlink_to(project.folder / "elsewhere")
    project.records(*named("b"))
    assert (0, 1, ("sub/a.txt",)) == told_of_orphans(render(project, prune=True))
    assert "a 1" == (project.folder / "elsewhere/a.txt").read_text()


def _without_privileges() -> None:
    """Make the command obey permissions even where root runs the tests."""
    import ctypes

    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP (linux/prctl.h), CAP_DAC_OVERRIDE (linux/capability.h)


def test_an_orphan_that_may_not_be_removed(project: Project) -> None:
    """The run says so and does not fall over: the documents are rendered, and the orphan is told of."""
    with_paths(project, [*named("a", path="sub/a.txt"), *named("b")])
    render(project)
    project.records(*named("bc"))
    (project.out / "sub").chmod(0o555)
    run = project.run("render", "job.yaml", "-j", "0", "--prune", preexec_fn=_without_privileges)
    (project.out / "sub").chmod(0o755)
    assert "bug" not in run.stderr, run.stderr
    assert {"sub/a.txt", "b.txt", "c.txt"} == {*documents(project)}
    assert ((0, 0, 2), (1, 0, ())) == (counts(found := render(project, prune=True)), told_of_orphans(found))


# ---- failures ----------------------------------------------------------------------------------------------


def test_failures_are_tried_again(project: Project) -> None:
    """What failed is rendered by the next run, and again by the one after it, until it goes well."""
    plain(project, [{"name": "a", "v": 1}, {"name": "b", "v": 0}, {"name": "c", "v": 1}])
    assert (2, 1, 0) == counts(render(project))
    for _ in range(2):
        assert {"b": "failed last time"} == done(project)
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 1}, {"name": "c", "v": 1})
    assert {"b": "failed last time"} == done(project)
    assert (0, 0, 3) == counts(render(project))
    assert fresh(project) == documents(project)


def test_a_failed_item_leaves_the_old_file(project: Project) -> None:
    """What was rendered from the old record or template stays until the new one can be."""
    plain(project, [{"name": "a", "v": 1}, {"name": "b", "v": 1}])
    render(project)
    before = documents(project)
    project.records({"name": "a", "v": 0}, {"name": "b", "v": 1})
    assert (0, 1, 1) == counts(render(project))
    assert before == documents(project)
    assert (0, 1, 1) == counts(render(project, prune=True))
    assert before == documents(project)
    project.write("templates/page.txt.j2", "mended {{ name }}\n")
    assert (2, 0, 0) == counts(render(project))
    assert {"a.txt": "mended a", "b.txt": "mended b"} == documents(project)


def test_a_template_broken_and_mended(project: Project) -> None:
    """Where a template fails for every record and is mended as it was, everything is rendered once, and no file changes."""
    plain(project, [{"name": name, "v": 1} for name in "abc"])
    render(project)
    before = snapshot(project.out)
    text = (project.folder / "templates/page.txt.j2").read_text()
    project.write("templates/page.txt.j2", "{{ nowhere }}")
    assert (0, 3, 0) == counts(render(project))
    project.write("templates/page.txt.j2", text)
    assert (3, 0, 0) == counts(render(project))
    after = snapshot(project.out)
    assert [before[f"{name}.txt"] for name in "abc"] == [after[f"{name}.txt"] for name in "abc"]
    assert (0, 0, 3) == counts(render(project))


MIXED = [{"name": "a", "v": 1}, {"name": "b", "v": 0}, "{broken", {"name": "c", "v": 0}, {"v": 1}, {"name": "d", "v": 1}]  # fmt: skip


def test_only_the_failed(project: Project) -> None:
    """`failed` renders what failed last time, records that cannot be read among it, and nothing that is new."""
    plain(project, MIXED)
    assert (2, 4, 0) == counts(render(project))
    project.records(*MIXED[:1], {"name": "b", "v": 1}, *MIXED[2:], {"name": "e", "v": 1})
    expected = {"b": "failed last time", "c": "failed last time", "record 3": NO_KEY, "record 5": NO_KEY}
    assert expected == done(project, failed=True)
    assert (0, 3, 0) == counts(render(project, failed=True))
    assert {"a.txt", "b.txt", "d.txt"} == {*documents(project)}
    assert {"e": "new"} == {key: reason for key, reason in done(project).items() if reason == "new"}


def test_only_the_failed_when_none_failed(project: Project) -> None:
    """Nothing is rendered then, whatever else would be to do."""
    plain(project, [{"name": "a", "v": 1}])
    render(project)
    project.records({"name": "a", "v": 2}, {"name": "b", "v": 2})
    assert (0, 0, 0) == counts(render(project, failed=True))
    assert {"a": "record changed", "b": "new"} == done(project)


def test_the_failed_of_a_path_too_long(project: Project) -> None:
    """An item that failed for its long path is still known by it: `failed` takes it, and no row is left behind."""
    with_paths(project, [*named("a", path="n" * 2000), *named("b")])
    assert (1, 1, 0) == counts(render(project))
    project.records(*named("a", path="n" * 2000, more=1), *named("b"))
    assert {"a": "failed last time"} == done(project, failed=True)


def test_failures_of_the_command(project: Project) -> None:
    """`--failed` on the command line: exit code 1 while something fails, 0 once it is mended."""
    plain(project, MIXED)
    assert (1, 4) == (project.render("-j", "0")[0], len(project.render("-j", "0", "--failed")[1]["failures"]))
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 1}, {"name": "c", "v": 1}, {"name": "d", "v": 1})
    code, summary, _ = project.render("-j", "0", "--failed")
    assert (0, 2, 2) == (code, summary["total"], summary["successful"])
    assert (0, 0, 4) == counts(render(project))


def test_retry_failed(project: Project) -> None:
    """The failures of a result are rendered again by themselves; a plain list of some of them needs the job."""
    plain(project, [{"name": name, "v": v} for name, v in zip("abcd", (1, 0, 0, 0), strict=True)])
    result = render(project)
    assert ["b", "c", "d"] == [item.key for item in result.failures]
    project.records(*({"name": name, "v": 1} for name in "abcde"))
    some = [item for item in result.failures if item.key == "c"]
    with pytest.raises(JobError, match="pass it"):
        retry_failed(some)
    assert (1, 0, 0) == counts(retry_failed(some, loaded(project)))
    assert {"a.txt", "c.txt"} == {*documents(project)}
    seen: list[tuple[int, int | None, str]] = []
    again = retry_failed(result.failures, on_progress=lambda *told: seen.append(told))
    assert (2, 0, 1) == counts(again)
    assert (3, {"b", "c", "d"}) == (len(seen), {key for _, _, key in seen})
    assert (1, 0, 4) == counts(render(project))


# ---- shards ------------------------------------------------------------------------------------------------


def _of_shard(project: Project, shard: tuple[int, int]) -> dict[str, str]:
    """What one machine of several makes of its share, into a folder of its own."""
    job = loaded(project)
    assert job.output is not None
    name = f"shard-{shard[0]}-{shard[1]}"
    batch_generate(job.replace(output=type(job.output)(project.folder / name, job.output.path)), shard=shard)
    return documents(project, name)


def test_all_shards_make_the_whole(project: Project) -> None:
    """Each document is made by exactly one shard, byte for byte as without shards."""
    plain(project, [{"name": f"n{number}", "v": 1} for number in range(200)])
    shards = [_of_shard(project, (number, 4)) for number in (1, 2, 3, 4)]
    assert fresh(project) == {path: text for shard in shards for path, text in shard.items()}
    assert 200 == sum(len(shard) for shard in shards)
    assert all(30 < len(shard) < 70 for shard in shards)


def test_a_key_stays_in_its_shard(project: Project) -> None:
    """Records that are added, wherever they are put, move no other to another shard."""
    records = [{"name": f"n{number}", "v": 1} for number in range(100)]
    plain(project, records)
    before = [_of_shard(project, (number, 3)) for number in (1, 2, 3)]
    for folder in project.folder.glob("shard-*"):
        shutil.rmtree(folder)
    project.records(*({"name": f"new{number}", "v": 1} for number in range(57)), *records)
    after = [_of_shard(project, (number, 3)) for number in (1, 2, 3)]
    assert before == [{path: text for path, text in shard.items() if not path.startswith("new")} for shard in after]


def test_shards_one_after_the_other(project: Project) -> None:
    """In one output folder, then a run without shards: nothing is rendered twice, and nothing is an orphan."""
    plain(project, [{"name": f"n{number}", "v": number % 50} for number in range(200)])
    for turn in range(2):
        results = [render(project, shard=(number, 3)) for number in (1, 2, 3)]
        assert (0 if turn else 196, 4) == (sum(one.successful for one in results), sum(one.failed for one in results))
        assert [(0, 0, ())] * 3 == [told_of_orphans(one) for one in results]
    result = render(project)
    assert ((0, 4, 196), (0, 0, ())) == (counts(result), told_of_orphans(result))
    assert (0, 196) == (sum(render(project, shard=(n, 3)).successful for n in (1, 2, 3)), len(documents(project)))


def test_shards_see_changes(project: Project) -> None:
    """A record changed after a whole run is rendered by its shard alone; one that cannot be read by the first."""
    records = [{"name": f"n{number}", "v": 1} for number in range(50)]
    plain(project, records)
    render(project)
    project.records({"name": "n0", "v": 2}, *records[1:], "{broken")
    results = [counts(render(project, shard=(number, 2))) for number in (1, 2)]
    assert (1, 1, 49) == tuple(map(sum, zip(*results, strict=True)))
    assert 1 == results[0][1]
    assert "n0 0" == documents(project)["n0.txt"]


# ---- whose folder it is ------------------------------------------------------------------------------------


def test_two_jobs_in_one_output_folder(project: Project) -> None:
    """The second is refused, and told whose folder it is; nothing of the first is touched."""
    plain(project, named("ab"))
    render(project)
    project.write("other.yaml", (project.folder / "job.yaml").read_text())
    before = snapshot(project.folder)
    for options in ((), ("-n",), ("--prune", "--force")):
        code, _, stderr = project.render("-j", "0", *options, job="other.yaml")
        expected = "chora-mp: out: holds the outputs of another job, 'job' (job.yaml); give this one an output.dir"
        assert (2, True) == (code, stderr.startswith(expected)), stderr
    assert before == snapshot(project.folder)


def test_two_jobs_of_one_name(project: Project) -> None:
    """A job file that is there beside another of the same name is another job."""
    plain(project, named("ab"))
    render(project)
    text = (project.folder / "job.yaml").read_text()
    project.write("sub/job.yaml", text.replace("data", "../data").replace("dir: out", "dir: ../out") + "templates: ../templates\n")  # fmt: skip
    with pytest.raises(LedgerError, match=r"another job, 'job' \("):
        batch_generate(Job.load(project.folder / "sub/job.yaml").replace(workers=0))
    (project.folder / "job.yaml").unlink()
    assert (0, 0, 2) == counts(batch_generate(Job.load(project.folder / "sub/job.yaml").replace(workers=0)))


def test_a_project_that_is_moved(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder that is renamed, job and output together, is that of the same job, and all is up to date."""
    make(project)
    render(project)
    place = tmp_path_factory.mktemp("moved") / "project"
    shutil.move(project.folder, place)
    assert (0, 0, 4) == counts(batch_generate(Job.load(place / "job.yaml").replace(workers=0)))
    project.folder.mkdir()


def test_two_runs_at_once(project: Project) -> None:
    """The second is refused, and told who is at work and since when; the first is none the wiser."""
    plain(project, named(("a", "b")), "plugins: [slow.py]", template="{{ name | slow }}")
    project.write("slow.py", "import os, time\ndef slow(v):\n    open('begun', 'w').close()\n    while not os.path.exists('go'):\n        time.sleep(0.01)\n    return v\nFILTERS = {'slow': slow}\n")  # fmt: skip
    command = [sys.executable, "-m", "chora_mp", "render", "job.yaml", "-q", "-j", "1"]
    first = subprocess.Popen(command, cwd=project.folder, stdin=subprocess.DEVNULL)
    try:
        until((project.folder / "begun").exists)
        for options in ((), ("-n",)):
            code, summary, stderr = project.render(*options)
            expected = f"chora-mp: out: another run is at work here (pid {first.pid}, since 20"
            assert (2, {}, True) == (code, summary, stderr.startswith(expected)), stderr
    finally:
        project.write("go", "")
        assert 0 == first.wait(BOUND)
    assert {"a.txt": "a", "b.txt": "b"} == documents(project)
    assert (0, 0, 2) == counts(render(project))


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, within bounds."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_interrupted_run_is_finished_by_the_next(project: Project) -> None:
    """Ctrl-C: what was rendered is up to date for the next run, which does the rest."""
    plain(project, named(f"n{number}" for number in range(300)), "plugins: [slow.py]", template="{{ name | slow }}")
    project.write(
        "slow.py", "import time\ndef slow(v):\n    time.sleep(0.003)\n    return v\nFILTERS = {'slow': slow}\n"
    )
    command = [sys.executable, "-m", "chora_mp", "render", "job.yaml", "--summary", "-", "-j", "2"]
    run = subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    until(lambda: len([*project.out.glob("*.txt")]) > 20)
    run.send_signal(signal.SIGINT)
    summary = json.loads(run.communicate(timeout=BOUND)[0])
    assert (130, True) == (run.returncode, 0 < summary["successful"] < 300)
    result = render(project)
    assert (300 - summary["successful"], 0, summary["successful"]) == counts(result)
    assert (0, 0, 300) == counts(render(project))


# ---- sources other than JSON lines -------------------------------------------------------------------------


def _yaml(project: Project, records: list[dict[str, Any]]) -> str:
    project.write("data.yaml", "".join(f"- {json.dumps(record)}\n" for record in records))
    return "data.yaml"


def _json(project: Project, records: list[dict[str, Any]]) -> str:
    project.write("data.json", json.dumps(records))
    return "data.json"


def _gzip(project: Project, records: list[dict[str, Any]]) -> str:
    project.write("data.jsonl.gz", gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return "data.jsonl.gz"


def _sqlite(project: Project, records: list[dict[str, Any]]) -> str:
    path = project.folder / "app.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE pages (id, path, text)")
        database.executemany("INSERT INTO pages VALUES (:id, :path, :text)", records)
    return "{path: app.db, query: 'SELECT id, path, text FROM pages'}"


SOURCES: dict[str, Callable[[Project, list[dict[str, Any]]], str]] = {
    "csv": lambda project, records: _write_csv(project, records)[0],
    "python": lambda project, records: _write_python(project, records)[0],
    "yaml": _yaml,
    "json": _json,
    "gzip": _gzip,
    "sqlite": _sqlite,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_that_are_spooled(project: Project, kind: str) -> None:
    """Of whatever is read into a spool first only what changed is rendered, and with the same reasons."""
    records = [{"id": f"n{number}", "path": f"n{number}.txt", "text": "x" * 30} for number in range(800)]
    project.job('key: "{{ id }}"', template="{{ text }}", source=SOURCES[kind](project, records), path="{{ path }}")
    assert (800, 0, 0) == counts(render(project))
    assert (0, 0, 800) == counts(render(project))
    records[400]["text"] = "changed"
    SOURCES[kind](project, [records[799], *records[:799]])
    assert {"n400": "record changed"} == done(project)
    project.write("out/n7.txt", "edited")
    assert {"n7": "output edited"} == done(project)
    SOURCES[kind](project, records[:-1])
    assert {"n799.txt": GONE} == done(project)
    assert fresh(project) == {path: text for path, text in documents(project).items() if path != "n799.txt"}


def test_a_python_source_of_its_own_process(project: Project) -> None:
    """In real processes too: an edit of the callable's module that changes one record renders one document."""
    text = "def records():\n    for n in range(50):\n        yield {'name': f'n{n}', 'v': n + 1}\n"
    project.write("rows.py", text)
    project.job('key: "{{ name }}"', template="{{ v }}", source="{python: 'rows.py:records'}")
    assert (50, 0, 0) == counts(batch_generate(loaded(project, workers=1)))
    assert (0, 0, 50) == counts(batch_generate(loaded(project, workers=1)))
    project.write("rows.py", text.replace("n + 1", "n + 1 if n else 77"))
    assert {"n0": "record changed"} == done(project, workers=1)
    assert "77" == documents(project)["n0.txt"]


# ---- expressions that vary ---------------------------------------------------------------------------------

COUNTER = """\
class Counter:
    value = 0

    @property
    def next(self):
        Counter.value += 1
        return Counter.value

    def __str__(self):
        return str(self.next)


counter = Counter()
GLOBALS = {"counter": counter, "count": lambda: counter.next}
FILTERS = {"counted": lambda text: f"{text}-{counter.next}"}
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "expression",
    ["{{ name | counted }}", "{{ count() }}", "{{ counter.next }}", "{{ counter }}", "{{ range(10**9) | random }}"],
)
def test_a_path_that_is_not_the_same_twice(project: Project, expression: str, workers: int) -> None:
    """A path that counts or draws lots was never checked for being unique: its item fails, and nothing is written."""
    project.records(*named("abc"))
    project.job('key: "{{ name }}"\nplugins: [counter.py]', template="{{ name }}", path=expression)
    project.write("counter.py", COUNTER)
    result = batch_generate(loaded(project, workers=workers))
    assert (0, 3, 0) == counts(result)
    assert all("it must be the same each time" in item.error.message for item in result.failures)
    assert {} == documents(project)


@pytest.mark.parametrize("expression", ["{{ name | counted }}", "{{ counter.next }}"])
def test_a_key_that_is_not_the_same_twice(project: Project, expression: str) -> None:
    """The same of keys, by which the ledger knows the items."""
    project.records(*named("abc"))
    project.job(f'key: "{expression}"\nplugins: [counter.py]', template="{{ name }}")
    project.write("counter.py", COUNTER)
    result = render(project)
    assert (0, 3, 0) == counts(result)
    assert all("it must be the same each time" in item.error.message for item in result.failures)
    assert {} == documents(project)


def test_some_paths_that_are_not_the_same_twice(project: Project) -> None:
    """Only those items fail whose path does vary; the others are rendered, and up to date the next time."""
    project.records(*named("abcd"))
    path = "{{ name | counted if name == 'b' else name }}.txt"
    project.job('key: "{{ name }}"\nplugins: [counter.py]', template="{{ name }}", path=path)
    project.write("counter.py", COUNTER)
    for expected in ((3, 1, 0), (0, 1, 3)):
        assert expected == counts(render(project))
        assert {"a.txt": "a", "c.txt": "c", "d.txt": "d"} == documents(project)


def test_expressions_that_compute_but_do_not_vary(project: Project) -> None:
    """A filter in key and path is no obstacle: nothing fails, and the second run renders nothing."""
    project.records(*named("abcd"))
    project.job('key: "{{ name | upper }}"', template="{{ name }}", path="{{ name | lower }}.txt")
    assert (4, 0, 0) == counts(render(project))
    assert (0, 0, 4) == counts(render(project))
    project.records(*named("abc"), {"name": "d", "v": 2})
    assert {"D": "record changed"} == done(project)


def test_outputs_that_another_key_has_written_since(project: Project) -> None:
    """A key that is spelled anew takes its file along: the old one's row says nothing of it any more, in any shard."""
    project.records(*named("abcdefgh"))
    project.job('key: "{{ name }}"', template="{{ v }}")
    render(project)
    project.records(*({"name": name, "v": 2} for name in "abcdefgh"))
    project.job('key: "new-{{ name }}"', template="{{ v }}")
    for shard in ((1, 2), (2, 2)):
        assert 0 < batch_generate(loaded(project), shard=shard).successful < 8
        found = verify(loaded(project))
        assert ((), (), 8) == (found.missing, found.edited, found.checked)
    project.records({"name": "a", "v": 2})
    result = render(project, prune=True)
    assert (7, 0, {"a.txt": "2"}) == (result.pruned, result.orphaned, documents(project))
    assert verify(loaded(project)).sound


def test_a_run_that_is_stopped_removes_nothing(project: Project) -> None:
    """Whether by a failure or by a signal: what it would remove may be what it was stopped for."""
    project.records(*named("abcd"))
    project.job('key: "{{ name }}"\nworkers: 0', template="{{ 1 // v }}")
    render(project)
    project.records({"name": "a", "v": 0}, {"name": "b", "v": 2})
    job = loaded(project, errors=Errors("fail-fast"))
    result = batch_generate(job, prune=True)
    assert (0, 1, {"a.txt", "b.txt", "c.txt", "d.txt"}) == (result.pruned, result.not_reached, {*documents(project)})
    project.records({"name": "a", "v": 1})
    with pytest.raises(KeyboardInterrupt):
        batch_generate(loaded(project), prune=True, interrupted=lambda: True)
    assert {"a.txt", "b.txt", "c.txt", "d.txt"} == {*documents(project)}
    assert 3 == render(project, prune=True).pruned


def test_a_template_choice_that_varies(project: Project) -> None:
    """A template that is chosen by lot is looked at anew each time; what is written comes from one of them."""
    project.records(*named("abcdefgh"))
    project.job('key: "{{ name }}"')
    edit(project, "job.yaml", "page.txt.j2", '"{{ [1, 2] | random }}.j2"')
    project.write("templates/1.j2", "one")
    project.write("templates/2.j2", "two")
    for _ in range(3):
        result = render(project)
        assert (8, 0) == (result.successful + result.unchanged, result.failed)
        assert {"one", "two"} >= {*documents(project).values()}
    project.write("templates/1.j2", "uno")
    project.write("templates/2.j2", "due")
    assert (8, 0, 0) == counts(render(project))
    assert {"uno", "due"} >= {*documents(project).values()}


# ---- anything, in any order --------------------------------------------------------------------------------

NAMES = [f"n{number}" for number in range(14)]
KINDS = ("page", "note", "spare")
RECORD = st.fixed_dictionaries({
    "kind": st.sampled_from(KINDS), "style": st.sampled_from(KINDS), "folder": st.sampled_from(("x", "y", "x/z")),
    "v": st.sampled_from((0, 1, 2, 3, 4, 5)),
})  # fmt: skip
"""With `v: 0` the item fails."""

STEPS = st.one_of(
    st.tuples(st.just("put"), st.dictionaries(st.sampled_from(NAMES), RECORD, min_size=1, max_size=8)),
    st.tuples(st.just("remove"), st.sets(st.sampled_from(NAMES), min_size=1, max_size=8)),
    st.tuples(st.just("reorder"), st.randoms(use_true_random=False)),
    st.tuples(st.just("template"), st.sampled_from(("head", *KINDS)), st.sampled_from("12")),
    st.tuples(st.just("expression"), st.sampled_from(("template", "key", "path", "context")), st.integers(0, 1)),
    st.tuples(st.just("delete"), st.sets(st.sampled_from(NAMES), min_size=1, max_size=4)),
    st.tuples(st.just("edit"), st.sets(st.sampled_from(NAMES), min_size=1, max_size=4)),
    st.tuples(st.just("touch"), st.just(0)),
    st.tuples(st.just("unseal"), st.just(0)),
    st.tuples(st.just("stop"), st.just(0)),
    st.tuples(st.just("only"), st.sampled_from(("n1*", "*2", "n[3-7]"))),
    st.tuples(st.just("failed"), st.just(0)),
    st.tuples(st.just("shard"), st.integers(1, 2)),
    st.tuples(st.just("run"), st.booleans()),
)

EXPRESSIONS = {
    "template": ("{{ kind }}.j2", "{{ style }}.j2"),
    "key": ("{{ name }}", "x-{{ name }}"),
    "path": ("{{ folder }}/{{ name }}.txt", "{{ folder | lower }}/{{ name }}.txt"),
    "context": (2026, 2027),
}


class World:
    """A project under random hands, and what its output folder may hold besides the documents of a fresh run."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.records: dict[str, dict[str, Any]] = {
            name: {
                "kind": KINDS[number % 3],
                "style": KINDS[number % 2],
                "folder": "xy"[number % 2],
                "v": number % 5 + 1,
            }
            for number, name in enumerate(NAMES[:9])
        }
        self.chosen = dict.fromkeys(EXPRESSIONS, 0)
        self.edited: set[str] = set()
        for name in KINDS:
            self.template(name, "1")
        self.template("head", "1")
        self.save()
        self.rendered()

    def take(self, step: tuple[str, Any]) -> None:
        """Do what a person may do."""
        getattr(self, step[0])(*step[1:])
        self.save()

    def save(self) -> None:
        """Write records and job file as they are now."""
        self.project.records(*({"name": name, **record} for name, record in self.records.items()))
        used = {what: values[self.chosen[what]] for what, values in EXPRESSIONS.items()}
        job = {
            "source": "data.jsonl", "template": used["template"], "key": used["key"],
            "output": {"dir": "out", "path": used["path"]}, "context": {"year": used["context"]}, "workers": 0,
        }  # fmt: skip
        self.project.write("job.yaml", json.dumps(job))

    def put(self, records: dict[str, dict[str, Any]]) -> None:
        """Add records, or change those of the same name."""
        self.records.update(records)

    def remove(self, names: set[str]) -> None:
        """Remove records, but for the last."""
        left = {name: record for name, record in self.records.items() if name not in names}
        self.records = left or self.records

    def reorder(self, draw: Any) -> None:
        """Shuffle the records."""
        pairs = list(self.records.items())
        draw.shuffle(pairs)
        self.records = dict(pairs)

    def template(self, name: str, text: str) -> None:
        """Write a template."""
        head = "" if name == "head" else "{% include 'head.j2' %}"
        self.project.write(
            f"templates/{name}.j2", f"{head}{name} {text} {{{{ name }}}} {{{{ 6 // v }}}} {{{{ year }}}}"
        )

    def expression(self, what: str, number: int) -> None:
        """Choose an expression or a constant of the job."""
        self.chosen[what] = number

    def files(self, names: Iterable[str]) -> Iterator[Path]:
        """The outputs of these names, wherever they are."""
        yield from (path for name in sorted(names) for path in sorted(self.project.out.rglob(f"{name}.txt")))

    def delete(self, names: set[str]) -> None:
        """Delete outputs."""
        for path in self.files(names):
            path.unlink()

    def edit(self, names: set[str]) -> None:
        """Edit outputs by hand."""
        for path in self.files(names):
            path.write_text(path.read_text() + "!")
            self.edited.add(str(path.relative_to(self.project.out)))

    def touch(self, _: int) -> None:
        """Change the time stamps of some outputs, and nothing else."""
        for path in self.files(NAMES[::2]):
            os.utime(path, (1, 1))

    def unseal(self, _: int) -> None:
        """Take away what the ledger is trusted for."""
        (self.project.out / ".chora-mp/ledger.sha256").unlink(missing_ok=True)

    def stop(self, _: int) -> None:
        """A run that stops at the first failure."""
        self.rendered(Errors("fail-fast"))

    def only(self, glob: str) -> None:
        """A run of some items."""
        self.rendered(only=glob)

    def failed(self, _: int) -> None:
        """A run of what failed."""
        self.rendered(failed=True)

    def shard(self, number: int) -> None:
        """A run of one half of the items."""
        self.rendered(shard=(number, 2))

    def run(self, prune: bool) -> None:
        """A run of all items."""
        self.rendered(prune=prune)

    def rendered(self, errors: Errors | None = None, **wishes: Any) -> BatchResult:
        """One run, which must do what its plan says."""
        job = loaded(self.project, errors=errors or Errors())
        planned = plan(job, **wishes)
        result = batch_generate(job, **wishes)
        todo = sum(item.seq is not None for item in planned.items)
        assert (planned.total, planned.unchanged) == (result.total, result.unchanged)
        assert todo == result.successful + result.failed + result.not_reached
        return result

    def settle(self) -> None:
        """Run to the end, with `prune`, and compare with a fresh run; then again, which must find nothing to do."""
        result = self.rendered(prune=True)
        assert 0 == result.not_reached
        assert result.failed == sum(record["v"] == 0 for record in self.records.values())
        failing = {f"{record['folder']}/{name}.txt" for name, record in self.records.items() if record["v"] == 0}
        expected, found = fresh(self.project), documents(self.project)
        extra = found.keys() - expected.keys()
        assert {path: text for path, text in found.items() if path not in extra} == expected
        assert set() == extra - failing - self.edited
        assert {*result.orphans} <= self.edited
        checked = verify(loaded(self.project))
        assert (True, True) == ({*checked.missing} <= failing, {*checked.edited} <= self.edited)
        again = self.rendered(prune=True)
        assert (0, result.failed, len(self.records) - result.failed) == counts(again)
        assert found == documents(self.project)
        assert again.failed or not plan(loaded(self.project)).reasons


def _small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Have a dozen records make several chunks and pieces."""
    for name, value in {
        "chora_mp.sources.chunks.LEAST_BYTES": 64,
        "chora_mp.sources.jsonl.LEAST_BYTES": 64,
        "chora_mp.sources.chunks.MOST_BYTES": 512,
        "chora_mp.sources.chunks._MEAN_SHIFT": 25,
        "chora_mp.planning.PIECE_BYTES": 600,
    }.items():
        patch.setattr(name, value)


def _in_any_order(project: Project, steps: list[tuple[str, Any]]) -> None:
    world = World(project)
    for step in steps:
        world.take(step)
    world.settle()


@given(steps=st.lists(STEPS, min_size=2, max_size=8))
@example(steps=[("expression", "key", 1)])
@example(steps=[("expression", "template", 1)])
@example(steps=[("expression", "key", 1), ("shard", 1), ("shard", 2), ("remove", {"n0", "n1", "n2", "n3"})])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_anything_in_any_order(steps: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is edited, removed, stopped and run in between, a run with `prune` leaves what a fresh run would."""
    from conftest import Project

    with pytest.MonkeyPatch.context() as patch:
        _small_chunks(patch)
        _in_any_order(Project(tmp_path_factory.mktemp("world")), steps)


@pytest.mark.slow
@given(steps=st.lists(STEPS, min_size=1, max_size=25))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_much_in_any_order(steps: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same five hundred times, and for longer."""
    from conftest import Project

    with pytest.MonkeyPatch.context() as patch:
        _small_chunks(patch)
        _in_any_order(Project(tmp_path_factory.mktemp("world")), steps)
