"""Between runs: what `verify`, `status` and `check` find, say and exit with; none of them changes anything."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp import Job, JobError, LedgerError, batch_generate
from chora_mp.upkeep import check, check_file, status, verify

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from conftest import Project

    from chora_mp import BatchResult


def make(
    project: Project, names: Iterable[str] = "abc", more: str = "", template: str = "{{ name }} {{ 1 // v }}"
) -> None:
    """A job of a few records; `v: 0` would make one fail."""
    project.records(*({"name": name, "v": 1} for name in names))
    project.job(f'key: "{{{{ name }}}}"\nworkers: 0\n{more}', template=template, path="sub/{{ name }}.txt")


def loaded(project: Project, name: str = "job.yaml") -> Job:
    """The job."""
    return Job.load(project.folder / name)


def render(project: Project, **wishes: Any) -> BatchResult:
    """One run."""
    return batch_generate(loaded(project), **wishes)


def said(project: Project, *arguments: str, code: int) -> list[str]:
    """What a command prints, which exits with `code` and says nothing on stderr."""
    run = project.run(*arguments)
    assert (code, "") == (run.returncode, run.stderr), run.stdout
    return run.stdout.splitlines()


def refused(project: Project, *arguments: str) -> str:
    """What a command says that is refused with exit code 2; nothing goes to stdout."""
    run = project.run(*arguments)
    assert (2, "") == (run.returncode, run.stdout), run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.strip().removeprefix("chora-mp: ")


def findings(project: Project) -> set[str]:
    """What `check` finds, with paths as a person in the project's folder reads them."""
    return {line.replace(f"{project.folder}/", "") for line in check(loaded(project)).findings}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time stamp of every file and folder."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for name, path in found.items()
    }


# ---- verify ------------------------------------------------------------------------------------------------


def test_verify_sound(project: Project) -> None:
    """Where all is as it was written: exit code 0, and how many were read; a time stamp is not looked at."""
    make(project)
    render(project)
    os.utime(project.out / "sub/a.txt", (1, 1))
    assert ["job: 3 documents read, all as they were written"] == said(project, "verify", "job.yaml", code=0)
    found = verify(loaded(project))
    assert (True, 3, (), (), ()) == (found.sound, found.checked, found.missing, found.edited, found.unknown)


def test_verify_with_odd_names(project: Project) -> None:
    """Outputs with any name are known, and a file whose name is no UTF-8 is not."""
    names = ["é", "漢字", "e\u0301", "a b", "new\nline"]
    make(project, names)
    render(project)
    with open(os.fsencode(project.out) + b"/\xff", "wb"):
        pass
    found = verify(loaded(project))
    assert (len(names), (), (), ("\udcff",)) == (found.checked, found.missing, found.edited, found.unknown)


def test_verify_beside_a_path_that_no_file_has(project: Project) -> None:
    """An item that failed for its path is no damage of the ledger."""
    make(project, ["a", "nul\0"])
    assert 1 == render(project).failed
    found = verify(loaded(project))
    assert (1, True) == (found.checked, found.sound)


def test_verify_finds(project: Project) -> None:
    """What is missing, edited or unknown is named, each by its path and sorted: exit code 1."""
    make(project, "abcde")
    render(project)
    (project.out / "sub/a.txt").unlink()
    project.write("out/sub/b.txt", "b 2")  # of the same size
    project.write("out/sub/deep/mine", "mine")
    project.write("out/also mine", "mine")
    (project.out / "sub/d.txt").unlink()
    (project.out / "sub/d.txt").symlink_to(project.out / "sub/c.txt")
    (project.out / "sub/e.txt").unlink()
    (project.out / "sub/e.txt").mkdir()
    expected = [
        "missing: sub/a.txt",
        "edited: sub/b.txt",
        "edited: sub/d.txt",
        "edited: sub/e.txt",
        "unknown: also mine",
        "unknown: sub/deep/mine",
        "job: 5 documents read, 1 missing, 3 edited, 2 unknown",
    ]
    assert expected == said(project, "verify", "job.yaml", code=1)


def test_verify_json(project: Project) -> None:
    """`--json` leaves stdout to one line of JSON; the exit code is the same."""
    make(project)
    render(project)
    project.write("out/sub/b.txt", "edited")
    (line,) = said(project, "verify", "job.yaml", "--json", code=1)
    expected = {"job": "job", "checked": 3, "missing": [], "edited": ["sub/b.txt"], "unknown": []}
    assert expected == json.loads(line)
    render(project)
    (line,) = said(project, "verify", "job.yaml", "--json", code=0)
    assert {**expected, "edited": []} == json.loads(line)


def test_verify_after_failures(project: Project) -> None:
    """An item that failed and made no file is not missed; the old file of one that failed later is read."""
    make(project)
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 0})
    render(project)
    assert verify(loaded(project)).sound
    project.records({"name": "a", "v": 0}, {"name": "b", "v": 0})
    render(project)
    found = verify(loaded(project))
    assert (True, 1) == (found.sound, found.checked)
    project.write("out/sub/a.txt", "edited")
    assert ("sub/a.txt",) == verify(loaded(project)).edited


def test_verify_of_outputs_whose_record_is_gone(project: Project) -> None:
    """They are known, and read as all others, until they are removed."""
    make(project)
    render(project)
    make(project, "a")
    render(project)
    assert (True, 3) == ((found := verify(loaded(project))).sound, found.checked)
    render(project, prune=True)
    assert (True, 1) == ((found := verify(loaded(project))).sound, found.checked)


def test_verify_without_a_ledger(project: Project) -> None:
    """A job that was never rendered has nothing to compare: exit code 2, and nothing is made."""
    make(project)
    assert "out: holds no ledger; nothing was rendered here yet" == refused(project, "verify", "job.yaml")
    project.out.mkdir()
    assert "out: holds no ledger; nothing was rendered here yet" == refused(project, "verify", "job.yaml")
    assert [] == [*project.out.iterdir()]


def test_verify_of_another_jobs_folder(project: Project) -> None:
    """The ledger of another job is no measure: exit code 2, and whose it is."""
    make(project)
    render(project)
    project.write("other.yaml", (project.folder / "job.yaml").read_text())
    for command in ("verify", "status"):
        message = refused(project, command, "other.yaml")
        assert message.startswith("out: holds the outputs of another job, 'job' (job.yaml);")


def test_verify_of_another_folder(project: Project) -> None:
    """`-o` names the folder to look at, as it does for `render`."""
    make(project)
    assert 0 == project.render("-o", "other")[0]
    assert ["job: 3 documents read, all as they were written"] == said(
        project, "verify", "job.yaml", "-o", "other", code=0
    )
    assert refused(project, "verify", "job.yaml").startswith("out: holds no ledger")


def test_a_job_that_writes_nothing(project: Project) -> None:
    """Without `output` there is no ledger to ask."""
    project.records()
    job = Job.from_mapping({"template": "x", "source": "data.jsonl", "templates": "."}, project.folder)
    for ask in (verify, status):
        with pytest.raises(JobError, match=r"output\.path: missing; a job that writes nothing has no ledger"):
            ask(job)


@pytest.mark.parametrize("command", ["verify", "status"])
def test_looking_changes_nothing(project: Project, command: str) -> None:
    """Neither files nor time stamps, the ledger's included, whatever is found."""
    make(project)
    render(project)
    project.write("out/sub/b.txt", "edited")
    before = snapshot(project.folder)
    project.run(command, "job.yaml")
    left = {name: kept for name, kept in snapshot(project.folder).items() if name != "out/.chora-mp"}
    assert left == {name: kept for name, kept in before.items() if name != "out/.chora-mp"}


# ---- status ------------------------------------------------------------------------------------------------


def test_status(project: Project) -> None:
    """The last runs, the latest first, with what was asked for; then what stands, and failures by cause."""
    make(project, "abcd")
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 0}, {"name": "c", "v": 0}, "{broken")
    for arguments in ((), ("--force", "-k", "a"), ("--failed",), ("--shard", "1/1")):
        project.render(*arguments)
    lines = said(project, "status", "job.yaml", code=0)
    assert "job: 1 document in out, 3 items failed" == lines[0]
    assert ["STARTED", "TIME", "RENDERED", "FAILED", "UP", "TO", "DATE", "NOT", "REACHED", "WORKERS"] == lines[
        1
    ].split()
    cells = [line.split() for line in lines[2:6]]
    assert sorted((row[0] for row in cells), reverse=True) == [row[0] for row in cells]
    expected = [
        ["0", "3", "1", "0", "1", "--shard", "1/1"],
        ["0", "3", "0", "0", "1", "--failed"],
        ["1", "1", "0", "0", "1", "--only", "a", "--force"],
        ["1", "3", "0", "0", "1"],
    ]
    assert expected == [row[3:] for row in cells]
    expected_failures = [
        "3 items failed:",
        "  2 × page.txt.j2:1: ZeroDivisionError: integer division or modulo by zero",
        "      b (data.jsonl:2), c (data.jsonl:3)",
        "  1 × JSONDecodeError: not valid JSON: Expecting property name enclosed in double quotes (column 2)",
        "      data.jsonl:4",
    ]
    assert expected_failures == lines[6:]


def test_status_of_so_many_runs(project: Project) -> None:
    """`-l` says how many runs are shown; ten by default."""
    make(project)
    names = [render(project, force=number % 2 == 1).run_id for number in range(12)]
    assert 2 + 10 == len(said(project, "status", "job.yaml", code=0))
    assert 2 + 3 == len(said(project, "status", "job.yaml", "-l", "3", code=0))
    assert names[::-1][:3] == [run["name"] for run in status(loaded(project), runs=3).runs]
    assert "Invalid value for '-l'" in refused(project, "status", "job.yaml", "-l", "0")


def test_status_json(project: Project) -> None:
    """`--json` holds every column of the runs, options and sizing as objects, and every failure as the summary has it."""
    make(project)
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 0})
    render(project)
    result = render(project, only="b")
    (line,) = said(project, "status", "job.yaml", "--json", code=0)
    found = json.loads(line)
    assert ("job", "out", 1, 1) == tuple(found[name] for name in ("job", "folder", "rendered", "failed"))
    assert json.loads(json.dumps([failure.as_dict() for failure in result.failures])) == found["failures"]
    last, first = found["runs"]
    assert (2, 1, "b") == (last["id"], first["id"], last["options"]["only"])
    assert result.sizing == last["sizing"]
    columns = {
        "id", "name", "job", "started", "ended", "total", "successful", "failed", "unchanged", "not_reached", "pruned",
        "seconds", "written", "workers", "sizing", "options",
    }  # fmt: skip
    assert columns == {*last}


def test_status_of_a_run_that_was_killed(project: Project) -> None:
    """A run without an end is told as what it may be: stopped, or under way."""
    make(project)
    render(project)
    project.job('key: "{{ name }}"\nplugins: [end.py]', template="{{ name | end }}")
    project.write("end.py", "import os\ndef end(v):\n    os.kill(os.getpid(), 9)\nFILTERS = {'end': end}\n")
    assert -9 == project.run("render", "job.yaml", "-j", "0").returncode
    lines = said(project, "status", "job.yaml", code=0)
    assert ["-", "-", "-", "-", "-", "-", "stopped,", "or", "under", "way"] == lines[2].split()[1:]
    assert ["3", "0", "0", "0"] == lines[3].split()[3:7]


def test_status_without_failures(project: Project) -> None:
    """Once nothing fails, none is listed, and a record that is gone fails no more."""
    make(project)
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 0}, {"name": "c", "v": 0})
    render(project)
    assert (1, 2, 2) == ((found := status(loaded(project))).rendered, found.failed, len(found.failures))
    project.records({"name": "a", "v": 1}, {"name": "b", "v": 1})
    render(project)
    assert (2, 0, ()) == ((found := status(loaded(project))).rendered, found.failed, found.failures)


def test_status_of_failures_in_shards(project: Project) -> None:
    """What failed in one shard is still told of when the other has run."""
    make(project)
    names = [f"n{number}" for number in range(20)]
    project.records("{broken", *({"name": name, "v": 0} for name in names))
    for number in (1, 2):
        render(project, shard=(number, 2))
    found = status(loaded(project))
    assert (0, 21) == (found.rendered, found.failed)
    assert {"data.jsonl:1", *names} == {failure.key for failure in found.failures}


def test_status_without_a_ledger(project: Project) -> None:
    """A job that was never rendered has no past: exit code 2."""
    make(project)
    assert "out: holds no ledger; nothing was rendered here yet" == refused(project, "status", "job.yaml")
    with pytest.raises(LedgerError, match="holds no ledger"):
        status(loaded(project))


# ---- check -------------------------------------------------------------------------------------------------


def test_check_of_a_sound_job(project: Project) -> None:
    """Nothing found: exit code 0, how many records were looked at, and nothing is written anywhere."""
    make(project)
    before = snapshot(project.folder)
    assert ["job: 3 records looked at, 0 findings"] == said(project, "check", "job.yaml", code=0)
    assert before == snapshot(project.folder)


def test_check_writes_nothing_beside_a_ledger(project: Project) -> None:
    """Also of a job that was rendered, and of one with all kinds of faults."""
    make(project)
    render(project)
    project.records({"name": "a"}, "{broken", {"name": "../x", "v": 1})
    project.write("templates/page.txt.j2", "{{ nmae }}{% include 'gone.j2' %}")
    before = snapshot(project.folder)
    assert 1 == project.run("check", "job.yaml").returncode
    assert before == snapshot(project.folder)


def test_check_undeclared_names(project: Project) -> None:
    """A name that no record, constant or plug-in has is told with its line, and what it may have meant."""
    template = "{{ name }}\n{{ nmae }}\n{{ site }} {{ today }} {{ loop }} {{ xyzzy.at }}"
    make(project, more="context: {site: x}\nplugins: [own.py]", template=template)
    project.write("own.py", "GLOBALS = {'today': 1}\n")
    expected = {
        "templates/page.txt.j2:3: 'loop' is in no record, constant or plug-in",
        "templates/page.txt.j2:2: 'nmae' is in no record, constant or plug-in; did you mean 'name'?",
        "templates/page.txt.j2:3: 'xyzzy' is in no record, constant or plug-in",
    }
    assert expected == findings(project)


@pytest.mark.parametrize(
    "template",
    [
        "{{ maybe | default('x') }}",
        "{{ maybe | d('x') | upper }}",
        "{% if maybe is defined %}{{ maybe }}{% endif %}",
        "{{ maybe if maybe is defined else '' }}",
        "{% if maybe is not defined %}{% else %}{{ maybe.x }}{% endif %}",
        "{% set maybe = 1 %}{{ maybe }}",
        "{% for maybe in [1] %}{{ maybe }}{{ loop.index }}{% endfor %}",
        "{% macro maybe(x) %}{{ x }}{{ caller is defined }}{% endmacro %}{{ maybe(1) }}",
        "{% import 'lib.j2' as maybe %}{{ maybe.x }}",
        "{% from 'lib.j2' import maybe %}{{ maybe }}",
        "{{ range(3) | sum }}{{ dict(a=1) }}{{ lipsum is callable }}",
        "{% include 'gone.j2' ignore missing %}",
        "{% include ['gone.j2', 'lib.j2'] %}",
        "{% include name ~ '.j2' ignore missing %}",
    ],
)
def test_check_guarded_names(project: Project, template: str) -> None:
    """A name that is asked after first, or that the template makes itself, is no finding, nor is what may be missing."""
    make(project, template="{{ name }}" + template)
    project.write("templates/lib.j2", "{% set x = 1 %}{% set maybe = 1 %}")
    assert () == check(loaded(project)).findings


def test_check_a_name_that_only_some_records_have(project: Project) -> None:
    """A name that is in one record at least may be meant: whether it is in each is for rendering to tell."""
    make(project, template="{{ title }}")
    project.records({"name": "a"}, {"name": "b", "title": "B"})
    assert () == check(loaded(project)).findings


def test_check_names_in_includes(project: Project) -> None:
    """Names are looked for in all that a template extends, includes and imports, and nowhere else."""
    make(project, template="{% extends 'base.j2' %}{% block body %}{% include 'part.j2' %}{% endblock %}")
    project.write("templates/base.j2", "{{ titel }}{% block body %}{% endblock %}")
    project.write("templates/part.j2", "\n{{ nmae }}")
    project.write("templates/spare.j2", "{{ never }}{% if %}")
    expected = {
        "templates/base.j2:1: 'titel' is in no record, constant or plug-in",
        "templates/part.j2:2: 'nmae' is in no record, constant or plug-in; did you mean 'name'?",
    }
    assert expected == findings(project)


def test_check_missing_templates(project: Project) -> None:
    """A template that is not there, asked for by the job or by another template, is told where it is asked for."""
    make(project, template="{{ name }}\n{% include 'prat.j2' %}\n{% extends 'base.j2' %}{% import '../x.j2' as x %}")
    project.write("templates/part.j2", "")
    expected = {
        "templates/page.txt.j2:2: no template 'prat.j2' in the template folders; did you mean 'part.j2'?",
        "templates/page.txt.j2:3: no template 'base.j2' in the template folders",
        "templates/page.txt.j2:3: no template '../x.j2' in the template folders",
    }
    assert expected == findings(project)
    project.write("job.yaml", (project.folder / "job.yaml").read_text().replace("page.txt.j2", "pgae.txt.j2"))
    expected = {"job.yaml:2: template: no template 'pgae.txt.j2' in the template folders; did you mean 'page.txt.j2'?"}
    assert expected == findings(project)


def test_check_syntax_errors_in_two_templates(project: Project) -> None:
    """All broken templates that the job reaches are told at once, with the records' faults."""
    make(project, template="{% include 'one.j2' %}{% include 'two.j2' %}")
    project.write("templates/one.j2", "\n{% if %}")
    project.write("templates/two.j2", "\n\n{{ name | nosuch }}")
    project.records({"name": "a", "v": 1}, "{broken")
    expected = [
        "templates/one.j2:2: Expected an expression, got 'end of statement block'",
        "templates/two.j2:3: No filter named 'nosuch'.",
        "data.jsonl:2: JSONDecodeError: not valid JSON: Expecting property name enclosed in double quotes (column 2)",
        "job: 2 records looked at, 3 findings",
    ]
    assert expected == said(project, "check", "job.yaml", code=1)


def test_check_templates_chosen_per_record(project: Project) -> None:
    """Every template that some record chooses is looked at, and one that is not there is told."""
    make(project)
    project.job('key: "{{ name }}"')
    text = (project.folder / "job.yaml").read_text().replace("page.txt.j2", '"{{ kind }}.j2"')
    project.write("job.yaml", text)
    project.write("templates/a.j2", "{{ nmae }}")
    project.write("templates/b.j2", "{% if %}")
    project.records(*({"name": f"n{number}", "kind": kind} for number, kind in enumerate("aabbc")))
    expected = {
        "templates/a.j2:1: 'nmae' is in no record, constant or plug-in; did you mean 'name'?",
        "templates/b.j2:1: Expected an expression, got 'end of statement block'",
        "job.yaml:2: template: no template 'c.j2' in the template folders; did you mean 'b.j2'?",
    }
    assert expected == findings(project)


def test_check_clashes(project: Project) -> None:
    """Keys and paths that two records lay claim to are told with both places."""
    make(project)
    project.job('key: "{{ id }}"\nworkers: 0', path="{{ path }}")
    project.records(
        {"name": "x", "id": "a", "path": "a"}, {"name": "x", "id": "a", "path": "b"}, {"name": "x", "id": "c", "path": "b"},
        {"name": "x", "id": "d", "path": "a/d"},
    )  # fmt: skip
    expected = [
        "data.jsonl:2: key 'a' is that of the record at data.jsonl:1, too; keys must be unique",
        "data.jsonl:3: output path 'b' is that of the record at data.jsonl:2, too; paths must be unique",
        "data.jsonl:4: output path 'a/d' and 'a' of the record at data.jsonl:1: one is a folder of the other",
    ]
    found = said(project, "check", "job.yaml", code=1)
    assert ({*expected}, "job: 4 records looked at, 3 findings") == ({*found[:-1]}, found[-1])


def test_check_bad_records(project: Project) -> None:
    """Records that cannot be read or have no key or path are told with file and line, blank lines counted."""
    make(project)
    project.records(
        {"name": "a", "v": 1}, "", "{broken", "[1]", b'{"name": "\xff"}', {"v": 1}, {"name": "", "v": 1}, {"name": None}
    )
    found = check(loaded(project))
    expected = [
        "data.jsonl:3: JSONDecodeError: not valid JSON: Expecting property name enclosed in double quotes (column 2)",
        "data.jsonl:4: RecordError: record is not a mapping (found a list); write names and values",
        "data.jsonl:5: UnicodeDecodeError: not valid UTF-8 (byte 10 of the line: invalid start byte)",
        f"data.jsonl:6: UndefinedError: {project.folder}/job.yaml:4: key: 'name' is undefined",
    ]
    assert expected == [*found.findings[:4]]
    assert 7 == found.records


@pytest.mark.parametrize("source", ["data.csv", "data.json"])
def test_check_bad_records_of_other_sources(project: Project, source: str) -> None:
    """The same of sources that are spooled, with the line of the record."""
    project.write("data.csv", "name,v\na,1\n,2\n/x,3\n")
    project.write("data.json", '[\n{"name": "a", "v": 1},\n{"name": "", "v": 2},\n{"name": "/x", "v": 3}]')
    project.job("workers: 0", source=source, path="{{ name }}")
    found = check(loaded(project))
    assert 3 == found.records
    expected = (
        f"{source}:3: PathError: output path '' is empty",
        f"{source}:4: PathError: output path '/x' is absolute; it must lie inside output.dir",
    )
    assert expected == found.findings


def test_check_bad_paths(project: Project) -> None:
    """A path that leads nowhere good is told, though nothing is written."""
    make(project)
    project.job('key: "{{ name }}"\nworkers: 0', path="{{ path }}")
    paths = ["../up", "/absolute", "a//b", ".chora-mp/x", "n" * 300, "good"]
    project.records(*({"name": f"n{number}", "path": path} for number, path in enumerate(paths)))
    found = check(loaded(project)).findings
    assert [f"data.jsonl:{number}: PathError: output path" for number in range(1, 6)] == [line[:36] for line in found]


def test_check_an_empty_source(project: Project) -> None:
    """No record at all is worth telling."""
    make(project, "")
    assert ["data.jsonl: holds no record", "job: 0 records looked at, 1 finding"] == said(
        project, "check", "job.yaml", code=1
    )


def test_check_a_broken_plugin(project: Project) -> None:
    """A plug-in that cannot be loaded is a finding with its own line."""
    make(project, more="plugins: [own.py]")
    project.write("own.py", "FILTERS = {}\nraise ValueError('not today')\n")
    expected = ["job.yaml:6: plugins: own.py:2: ValueError: not today", "job: 0 records looked at, 1 finding"]
    assert expected == said(project, "check", "job.yaml", code=1)


def test_check_a_broken_job_file(project: Project) -> None:
    """What is wrong with the job file itself is a finding, too, all of it at once; a file that is not there is refused."""
    make(project, more="templtes: x\nlimits: {timeot: 3}")
    expected = [
        "job.yaml:6: templtes: unknown key; did you mean 'templates'?",
        "job.yaml:7: limits.timeot: unknown key; did you mean 'timeout'?",
        "job: 0 records looked at, 2 findings",
    ]
    assert expected == said(project, "check", "job.yaml", code=1)
    assert "nowhere.yaml: no such file; check the path" == refused(project, "check", "nowhere.yaml")


def test_check_a_source_that_cannot_be_read(project: Project) -> None:
    """A source that is not there or broken as a whole ends the check: exit code 2, or a finding with 1."""
    make(project)
    (project.folder / "data.jsonl").unlink()
    run = project.run("check", "job.yaml")
    assert (True, True) == (run.returncode in (1, 2), "data.jsonl" in run.stdout + run.stderr)
    project.write("data.json", '[{"name": "a"')
    project.job(source="data.json")
    run = project.run("check", "job.yaml")
    assert (True, True) == (run.returncode in (1, 2), "data.json" in run.stdout + run.stderr)
    assert "Traceback" not in run.stderr


def test_check_json(project: Project) -> None:
    """`--json` leaves stdout to one line of JSON; the exit code is the same."""
    make(project)
    (line,) = said(project, "check", "job.yaml", "--json", code=0)
    assert {"job": "job", "records": 3, "findings": []} == json.loads(line)
    project.records({"name": "a", "v": 1}, "{broken")
    (line,) = said(project, "check", "job.yaml", "--json", code=1)
    message = (
        "data.jsonl:2: JSONDecodeError: not valid JSON: Expecting property name enclosed in double quotes (column 2)"
    )
    assert {"job": "job", "records": 2, "findings": [message]} == json.loads(line)


def test_check_in_processes(project: Project) -> None:
    """With workers, of a source of many pieces, lines are those of the whole file."""
    lines: list[Any] = [{"name": f"n{number}", "v": 1, "text": "x" * 400} for number in range(25_000)]
    lines[20_000] = "{broken"
    lines.insert(3, "")
    project.records(*lines)
    project.job('key: "{{ name }}"\nworkers: 2')
    assert (project.folder / "data.jsonl").stat().st_size > 2 * 2**22
    (line, last) = said(project, "check", "job.yaml", code=1)
    assert line.startswith("data.jsonl:20002: JSONDecodeError")
    assert "job: 25,000 records looked at, 1 finding" == last


def test_check_file(project: Project) -> None:
    """The library's way: findings as data, an error only where there is no file."""
    make(project)
    assert ("job", 3, ()) == ((found := check_file(project.folder / "job.yaml")).job, found.records, found.findings)
    project.write("job.yaml", "[]")
    assert 1 == len(check_file(project.folder / "job.yaml").findings)
    with pytest.raises(JobError, match="no such file"):
        check_file(project.folder / "nowhere.yaml")
    with pytest.raises(JobError, match="source: missing; there is nothing to check"):
        check(Job.from_mapping({"template": "page.txt.j2"}, project.folder))
