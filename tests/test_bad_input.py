"""Whatever a person gets wrong: the exit code, a message that says where and what, and all else rendered all the same.

Every test runs the real command; after each, nothing of the run's own may be left in the project.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import resource
import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Project

PAGE = "source: data.jsonl\ntemplate: page.txt.j2\noutput: {dir: out, path: '{{ name }}.txt'}\n"
PLUGIN = "plugins: [filters.py]"

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


def named(*names: str) -> list[dict[str, str]]:
    """A record for each name."""
    return [{"name": name} for name in names]


def assert_clean(project: Project, stderr: str) -> None:
    """No traceback, and nothing in the project that the run has made for itself, but for what the next one needs."""
    assert "Traceback" not in stderr
    assert [] == project.leftovers()


def refused(project: Project, *arguments: str, job: str = "job.yaml", **options: Any) -> list[str]:
    """What the command says, line by line, of a job that it refuses with exit code 2, nothing written."""
    done = project.run("render", job, *arguments, **options)
    assert (2, "") == (done.returncode, done.stdout), done.stderr
    assert_clean(project, done.stderr)
    assert [] == [*project.folder.rglob(".chora*")]
    assert not project.out.is_dir() or project.outputs() == {}
    lines = done.stderr.splitlines()
    assert all(line.startswith("chora-mp: ") for line in lines), done.stderr
    return [line.removeprefix("chora-mp: ") for line in lines]


def failures(project: Project, *arguments: str) -> dict[str, dict[str, Any]]:
    """The failed items by key, of a run that ends with exit code 1 and leaves nothing."""
    code, summary, stderr = project.render(*arguments)
    assert code == 1, stderr
    assert_clean(project, stderr)
    assert summary["total"] == summary["successful"] + summary["failed"]
    assert len(summary["failures"]) == summary["failed"]
    return {item["key"]: item for item in summary["failures"]}


def told(items: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Type and message of each failure, by key."""
    return {key: (item["error"]["type"], item["error"]["message"]) for key, item in items.items()}


# ---- the job file ------------------------------------------------------------------------------------------


def test_missing_job_file(project: Project) -> None:
    """A job file that is not there is named."""
    assert ["nowhere.yaml: no such file; check the path"] == refused(project, job="nowhere.yaml")


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n"])
def test_empty_job_file(project: Project, content: str) -> None:
    """An empty job file is refused with a hint at what to write."""
    project.write("job.yaml", content)
    assert ["job.yaml: empty; write keys such as 'template: page.md.j2'"] == refused(project)


def test_job_file_that_is_not_yaml(project: Project) -> None:
    """A YAML mistake is told with its line."""
    project.job("context: [1, 2")
    (line,) = refused(project)
    assert line.startswith("job.yaml:5: not valid YAML (")


def test_duplicate_keys(project: Project) -> None:
    """A key given twice is refused: YAML would silently take the last."""
    project.job("context: {}\ncontext: {}")
    expected = ["job.yaml:5: duplicate key 'context' (the first is on line 4); remove one of them"]
    assert expected == refused(project)


def test_alias_bomb(project: Project) -> None:
    """Aliases that would fill the memory are refused."""
    levels = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
    project.job(f"context:\n  a0: &a0 [x, x]\n{levels}")
    (line,) = refused(project)
    assert "aliases expand to more than 100,000 values; use fewer" in line


def test_every_problem_of_a_job_file_at_once(project: Project) -> None:
    """Unknown keys, with what they may have meant, and wrong types are all told, each with its line."""
    project.records()
    project.job(
        "templtes: x\nworkers: many\nlimits: {timeot: 3, rate: fast}\njinja: {trim_blocks: 1}\nundefined: strict"
    )
    expected = [
        "job.yaml:4: templtes: unknown key; did you mean 'templates'?",
        "job.yaml:5: workers: must be auto or a whole number from 0 (found the text 'many'); write one of these",
        (
            "job.yaml:6: limits.rate: not a rate (found 'fast'); "
            "write a number a second, or a number with /s, /min, /hour or /day, such as 60/min"
        ),
        "job.yaml:6: limits.timeot: unknown key; did you mean 'timeout'?",
        "job.yaml:7: jinja.trim_blocks: must be one of true, false (found the number 1); choose one of them",
        "job.yaml:8: undefined: unknown key; did you mean 'jinja.undefined'?",
    ]
    assert expected == refused(project)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-D", "edition"], "Invalid value for '-D' / '--define': 'edition' is not NAME=VALUE"),
        (["-D", "a-b=1"], "Invalid value for '-D' / '--define': 'a-b=1' is not NAME=VALUE"),
        (["-D", "a=1: 2: 3"], "Invalid value for '-D' / '--define': a:1: not valid YAML"),
        (["-j", "some"], "Invalid value for '-j' / '--jobs': 'some' is neither a number of workers nor 'auto'"),
        (["-j", "-1"], "Invalid value for '-j' / '--jobs': '-1' is neither a number of workers nor 'auto'"),
        (["--timeout", "soon"], "Invalid value for '--timeout': not a duration (found 'soon')"),
        (["--timeout", "0"], "Invalid value for '--timeout': must be more than 0"),
        (["--progress", "loud"], "Invalid value for '--progress': 'loud' is not one of"),
        (["--jbos", "2"], "No such option '--jbos'"),
        (["other.yaml"], "Got unexpected extra argument (other.yaml)"),
    ],
)
def test_bad_options(project: Project, arguments: list[str], expected: str) -> None:
    """A bad option is refused in click's own words, with how to get help."""
    project.records(*named("a"))
    project.job()
    done = project.run("render", "job.yaml", *arguments)
    assert (2, "") == (done.returncode, done.stdout)
    assert "Try 'chora-mp render --help' for help." in done.stderr
    assert f"Error: {expected}" in done.stderr
    assert {project.folder / name for name in ("data.jsonl", "job.yaml", "templates")} == {*project.folder.iterdir()}


def test_command_that_does_not_exist(project: Project) -> None:
    """An unknown command is refused in click's own words; a missing job, too."""
    done = project.run("rendr")
    assert 2 == done.returncode
    assert "No such command 'rendr'" in done.stderr
    done = project.run("render")
    assert 2 == done.returncode
    assert "Missing argument 'JOB'" in done.stderr


# ---- templates and plug-ins --------------------------------------------------------------------------------


def test_missing_template(project: Project) -> None:
    """A template that is not there is refused before anything is rendered; a near name is offered."""
    project.records(*named("a"))
    project.job()
    project.write("job.yaml", PAGE.replace("page.txt", "pgae.txt"))
    expected = "job.yaml:2: template: no template 'pgae.txt.j2' in the template folders; did you mean 'page.txt.j2'?"
    assert [expected] == refused(project)


def test_syntax_error_in_an_include(project: Project) -> None:
    """A syntax error in an included template is found before anything is rendered."""
    project.records(*named("a"))
    project.job(template="{% include 'x.j2' %}")
    project.write("templates/x.j2", "one\ntwo\n{% if %}\n")
    assert ["templates/x.j2:3: Expected an expression, got 'end of statement block'"] == refused(project)


def test_syntax_errors_in_includes_of_includes(project: Project) -> None:
    """Broken templates are found however far down, all at once."""
    project.records(*named("a"))
    project.job(template="{% include 'x.j2' %}")
    project.write("templates/x.j2", "{% include 'deep/y.j2' %}{% import 'z.j2' as z %}")
    project.write("templates/deep/y.j2", "\n{{ name")
    project.write("templates/z.j2", "{% for x in %}")
    expected = [
        "templates/deep/y.j2:2: unexpected end of template, expected 'end of print statement'.",
        "templates/z.j2:1: Expected an expression, got 'end of statement block'",
    ]
    assert expected == refused(project)


def test_broken_templates_that_nobody_reaches(project: Project) -> None:
    """Syntax errors, bytes that are no text and dangling links in the template folder are nobody's business."""
    project.records(*named("a"))
    project.job()
    project.write("templates/broken.j2", "{% if %}")
    project.write("templates/logo.png", b"\x89PNG\xff\xfe\x00")
    (project.folder / "templates/gone.j2").symlink_to("nowhere")
    code, summary, stderr = project.render()
    assert (0, 1, {"a.txt": "a"}) == (code, summary["successful"], project.outputs())
    assert_clean(project, stderr)


def test_undecodable_template(project: Project) -> None:
    """A template that is not UTF-8 and that the job reaches is refused, with the line."""
    project.records(*named("a"))
    project.job(template="{% include 'x.j2' %}")
    project.write("templates/x.j2", b"one\ntwo \xfc\n")
    assert ["templates/x.j2:2: the file is not UTF-8 (byte 8: invalid start byte)"] == refused(project)


def test_unknown_filter(project: Project) -> None:
    """A filter that does not exist is a mistake in the template."""
    project.records(*named("a"))
    project.job(template="one\n{{ name | uper }}")
    (line,) = refused(project)
    assert line.startswith("templates/page.txt.j2:2: No filter named 'uper'")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("FILTERS = {\n}}\n", "filters.py:2: SyntaxError: unmatched '}'"),
        ("\nimport nowhere_at_all\n", "filters.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "filters.py:2: ZeroDivisionError: division by zero"),
        ("import sys\n\nsys.exit('no')\n", "filters.py:3: SystemExit: no"),
        ("filters = {}\n", "filters has none of FILTERS, TESTS, GLOBALS and GENERATORS"),
        ("FILTERS = ['x']\n", "filters: FILTERS is not a dictionary of names"),
    ],
)
def test_broken_plugin(project: Project, content: str, expected: str) -> None:
    """A plug-in that cannot be used is refused, with its own line where there is one."""
    project.records(*named("a"))
    project.job(PLUGIN)
    project.write("filters.py", content)
    assert [f"job.yaml:4: plugins: {expected}"] == refused(project)


def test_plugin_that_kills_its_worker(project: Project) -> None:
    """A plug-in that ends the process while it is loaded is no reason to hang."""
    project.records(*named("a"))
    project.job(PLUGIN)
    project.write("filters.py", "import os\n\nos._exit(3)\n")
    assert [
        "the worker ended with exit code 3 while it compiled the templates, before anything was rendered"
    ] == refused(project)


# ---- sources -----------------------------------------------------------------------------------------------


def test_missing_source(project: Project) -> None:
    """A source that is not there is named, with the key and the nearest file."""
    project.job()
    project.write("data.json", "[]")
    expected = "job.yaml:1: source: no such file (found 'data.jsonl'); did you mean 'data.json'?"
    assert [expected] == refused(project)


def test_source_that_is_a_folder(project: Project) -> None:
    """A folder is no source of lines."""
    project.job()
    (project.folder / "data.jsonl").mkdir()
    assert ["job.yaml:1: source: is a folder (found 'data.jsonl'); name a file"] == refused(project)


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_source_without_records(project: Project, content: str) -> None:
    """No records are no error, but nobody should wonder where the documents are."""
    project.job()
    project.write("data.jsonl", content)
    done = project.run("render", "job.yaml")
    assert (0, True) == (
        done.returncode,
        "there was no record to render: the source holds none, or none that was asked for\n" in done.stdout,
    )
    assert_clean(project, done.stderr)
    assert {} == project.outputs()


def test_truncated_gzip(project: Project) -> None:
    """A compressed source that ends too early is refused as a whole: what is missing nobody knows."""
    project.job(source="data.jsonl.gz")
    whole = gzip.compress(b"".join(b'{"name": "%d"}\n' % n for n in range(5000)))
    project.write("data.jsonl.gz", whole[: len(whole) // 2])
    expected = "data.jsonl.gz: cannot be read: Compressed file ended before the end-of-stream marker was reached"
    assert [expected] == refused(project)


def test_wrong_query(project: Project) -> None:
    """What SQLite says of a query is passed on, with the file's name."""
    with closing(sqlite3.connect(project.folder / "app.db")) as database:
        database.execute("CREATE TABLE pages (name)")
    project.job(source="{path: app.db, query: SELECT * FROM page}")
    assert ["app.db: query: no such table: page; correct the query or the file"] == refused(project)


def test_python_source_that_raises(project: Project) -> None:
    """An error in the callable that gives the records is told with its own file and line."""
    project.job(source="{python: 'rows.py:records'}")
    project.write("rows.py", "def records():\n    yield {'name': 'a'}\n    yield {}['b']\n")
    assert ["rows.py:3: records: raised KeyError: 'b' after record 1; correct it there"] == refused(project)


# ---- records -----------------------------------------------------------------------------------------------


def test_bad_records(project: Project) -> None:
    """A line that holds no record is one failed item, with its file and line; all others are rendered."""
    project.records(
        *named("a", "b"), "[1, 2]", "null", '"text"', *named("c"), '{"name": "x', b'{"name": "\xff"}', "{}", *named("d")
    )
    project.job()
    found = failures(project)
    expected = {
        "data.jsonl:3": ("RecordError", "record is not a mapping (found a list); write names and values"),
        "data.jsonl:4": ("RecordError", "record is not a mapping (found null); write names and values"),
        "data.jsonl:5": ("RecordError", "record is not a mapping (found a string); write names and values"),
        "data.jsonl:7": ("JSONDecodeError", "not valid JSON: Invalid control character at (column 12)"),
        "data.jsonl:8": ("UnicodeDecodeError", "not valid UTF-8 (byte 10 of the line: invalid start byte)"),
        "data.jsonl:9": ("UndefinedError", "job.yaml:3: output.path: 'name' is undefined"),
    }
    assert expected == told(found)
    assert {"file": "data.jsonl", "line": 7} == found["data.jsonl:7"]["source"]
    assert {f"{name}.txt": name for name in "abcd"} == project.outputs()


def test_broken_line_in_what_people_read(project: Project) -> None:
    """The human summary, too, says in which line of which file the broken record stands."""
    project.records(*named("a"), "{broken}")
    project.job()
    done = project.run("render", "job.yaml")
    assert 1 == done.returncode
    expected = [
        "1 item failed:",
        "  1 × JSONDecodeError: not valid JSON: Expecting property name enclosed in double quotes (column 2)",
        "      data.jsonl:2",
    ]
    assert expected == done.stdout.splitlines()[2:]


# ---- rendering ---------------------------------------------------------------------------------------------


def test_undefined_name(project: Project) -> None:
    """A name that a record lacks fails its item, with template, line and how the template was reached."""
    project.records({"name": "a", "title": "A"}, {"name": "b"}, {"name": "c", "title": "C"})
    project.job(template="{% include 'x.j2' %}")
    project.write("templates/x.j2", "one\n{{ title }}")
    expected = {
        "type": "UndefinedError",
        "message": "'title' is undefined",
        "template": "x.j2",
        "line": 2,
        "chain": ["page.txt.j2:1", "x.j2:2"],
    }
    assert {"b.txt": expected} == {key: item["error"] for key, item in failures(project).items()}
    assert {"a.txt": "one\nA", "c.txt": "one\nC"} == project.outputs()


FAULTS = '''\
import sys


class Two(Exception):
    """Cannot be unpickled: its arguments are not what it is made of."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def boom(kind):
    class Local(Exception):
        """Cannot be pickled: nobody can import it."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no")

    if kind == "raise":
        raise ValueError("not today")
    if kind == "bytes":
        return b"raw"
    if kind == "exit":
        sys.exit(7)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "two":
        raise Two("a", "b")
    if kind == "local":
        raise Local("here")
    if kind == "mute":
        raise Mute
    print("a filter prints")
    return kind


FILTERS = {"boom": boom}
'''


def test_filters_that_raise_anything(project: Project) -> None:
    """Whatever a filter raises fails its item alone, also what cannot be pickled or would end the process."""
    kinds = ("raise", "bytes", "exit", "interrupt", "two", "local", "mute")
    project.records(*named("first", *kinds, "last"))
    project.job(PLUGIN, template="{{ name | boom }}")
    project.write("filters.py", FAULTS)
    found = failures(project)
    expected = {
        "raise.txt": ("ValueError", "not today"),
        "bytes.txt": ("TypeError", "the output would hold bytes, not text (found b'raw'); decode them first"),
        "exit.txt": ("SystemExit", "7"),
        "interrupt.txt": ("KeyboardInterrupt", "KeyboardInterrupt()"),
        "two.txt": ("Two", "a and b"),
        "local.txt": ("Local", "here"),
        "mute.txt": ("Mute", "its message cannot be shown"),
    }
    assert expected == told(found)
    assert {"first.txt": "first", "last.txt": "last"} == project.outputs()
    raised = FAULTS.splitlines().index('        raise ValueError("not today")') + 1
    assert ["page.txt.j2:1", f"{project.folder}/filters.py:{raised}"] == found["raise.txt"]["error"]["chain"]


def test_print_in_a_filter_stays_out_of_stdout(project: Project) -> None:
    """What a filter prints goes to stderr: stdout holds the summary and nothing else, inline too."""
    project.records(*named("a"))
    project.job(PLUGIN, template="{{ name | boom }}")
    project.write("filters.py", FAULTS)
    for jobs in ("1", "0"):
        code, summary, stderr = project.render("-j", jobs, "--force")  # which parses stdout
        assert (0, 1) == (code, summary["successful"])
        assert "a filter prints\n" in stderr


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
)
def test_dead_worker(project: Project, fault: str, ending: str) -> None:
    """A record that kills its worker fails alone, is named, and the message says how the worker died."""
    names = [f"n{number}" for number in range(40)]
    project.records(*named(*names))
    project.job(PLUGIN, template="{{ name | fatal }}")
    project.write(
        "filters.py",
        f"import ctypes, os\n\ndef fatal(name):\n    if name == 'n17':\n        {fault}\n    return name\n\n"
        "FILTERS = {'fatal': fatal}\n",
    )
    found = failures(project, "-j", "2")
    assert {"n17.txt": ("WorkerDied", f"the worker {ending} while it rendered the item")} == told(found)
    assert (17, {"file": "data.jsonl", "line": 18}) == (found["n17.txt"]["seq"], found["n17.txt"]["source"])
    assert {f"{name}.txt": name for name in names if name != "n17"} == project.outputs()


@pytest.mark.parametrize(
    "template",
    [
        "{% if name == 'n17' %}{% for i in range(10**9) %}{% endfor %}{% endif %}{{ name }}",
        "{% if name == 'n17' %}{{ range(10**12) | sum }}{% endif %}{{ name }}",
    ],
    ids=["in Python code", "in C code"],
)
def test_item_that_hangs(project: Project, template: str) -> None:
    """An item that takes longer than it may is ended; all others are rendered."""
    names = [f"n{number}" for number in range(40)]
    project.records(*named(*names))
    project.job(template=template)
    found = failures(project, "--timeout", "1")
    assert {"n17.txt": ("Timeout", "the item took longer than 1 s; its worker was killed")} == told(found)
    assert {f"{name}.txt": name for name in names if name != "n17"} == project.outputs()


def test_template_chosen_per_record(project: Project) -> None:
    """A template that only a record names fails the records that name a missing or a broken one."""
    project.records({"name": "a", "kind": "page"}, {"name": "b", "kind": "pgae"}, {"name": "c", "kind": "broken"})
    project.job()
    project.write("job.yaml", PAGE.replace("page.txt.j2", "'{{ kind }}.txt.j2'"))
    project.write("templates/broken.txt.j2", "\n{% if %}")
    found = failures(project)
    expected = {
        "b.txt": (
            "TemplateNotFound",
            "job.yaml:2: template: no template 'pgae.txt.j2'; did you mean 'page.txt.j2'?",
        ),
        "c.txt": ("TemplateSyntaxError", "Expected an expression, got 'end of statement block'"),
    }
    assert expected == told(found)
    assert ("broken.txt.j2", 2) == (found["c.txt"]["error"]["template"], found["c.txt"]["error"]["line"])
    assert {"a.txt": "a"} == project.outputs()


# ---- output paths and files --------------------------------------------------------------------------------


def test_bad_output_paths(project: Project) -> None:
    """A path that leads anywhere but to a file of the output folder fails its item; nothing is written elsewhere."""
    outside = project.folder / "outside"
    outside.mkdir()
    project.out.mkdir()
    (project.out / "link").symlink_to(outside)
    paths = {
        "../up": "output path '../up' holds '..'; it must lie inside output.dir",
        "a/../../up": "output path 'a/../../up' holds '..'; it must lie inside output.dir",
        "/absolute": "output path '/absolute' is absolute; it must lie inside output.dir",
        "": "output path '' is empty",
        "nul\0": "output path 'nul\\x00' holds a NUL character",
        "b//c": "output path 'b//c' has an empty or '.' component",
        "./a": "output path './a' has an empty or '.' component",
        "a/": "output path 'a/' has an empty or '.' component",
        ".chora-mp/x": "output path '.chora-mp/x' lies in .chora-mp, chora-mp's own folder",
        ".CHORA-MP/x": "output path '.CHORA-MP/x' lies in .chora-mp, chora-mp's own folder",
        "link/x": f"symlink {str(project.out / 'link')!r} leads out of output.dir",
        "n" * 300: f"output path {'n' * 300!r} has a component over 255 bytes",
        "ü" * 150: f"output path {'ü' * 150!r} has a component over 255 bytes",
    }
    project.records(*({"id": f"k{n}", "path": path} for n, path in enumerate(paths)), {"id": "good", "path": "a/good"})
    project.job("key: '{{ id }}'", template="{{ id }}", path="{{ path }}")
    found = told(failures(project))
    assert {f"k{n}": ("PathError", message) for n, message in enumerate(paths.values())} == found
    assert {"a/good": "good"} == project.outputs()
    assert [] == [*outside.iterdir()]
    assert {"data.jsonl", "job.yaml", "out", "outside", "templates"} == {*os.listdir(project.folder)}


@pytest.mark.parametrize("key", ["key: '{{ id }}'", ""])
@pytest.mark.parametrize("path", ["{{ path }}", "{{ path ~ '' }}"], ids=["pure", "impure"])
def test_bad_output_paths_are_in_nobodys_way(project: Project, key: str, path: str) -> None:
    """Paths that lead nowhere are not unique, nor folders of others, in any run: each is its own failure."""
    paths = ["a//b", "a//b", "a/", "/a", "/a", "..", "", ""]
    records = [{"id": f"k{n}", "path": one} for n, one in enumerate(paths)]
    project.job(key, template="{{ id }}", path=path)
    for names in (["good"], ["good", "a"], ["a"]):
        more = [{"id": name, "path": name} for name in names]
        project.records(*records, *more)
        code, summary, stderr = project.render()
        assert (1, len(paths)) == (code, summary["failed"]), stderr
        assert {"PathError"} == {item["error"]["type"] for item in summary["failures"]}
        assert {name: name for name in {"good", *names}} == project.outputs()


def test_a_bad_path_is_no_key(project: Project) -> None:
    """Where the path is the key, an item whose path leads nowhere has none: its line is its name, in any run once."""
    project.records(*({"name": name} for name in ("good", "a//b", "x")))
    project.job(path="{{ name }}")
    for shard in ("1/2", "2/2", "1/2", "1/2"):
        assert project.render("--shard", shard)[0] in (0, 1)
    code, summary, _ = project.render()
    assert (1, ["data.jsonl:2"]) == (code, [item["key"] for item in summary["failures"]])
    assert "1 item failed" in project.run("status", "job.yaml").stdout
    assert 2 == project.render("--prune")[0]  # whose output it would be is not known


FLIP = """
calls = {}
def flip(name):
    calls[name] = calls.get(name, 0) + 1
    return "a//b" + name if calls[name] == 1 else "same.txt"
FILTERS = {"flip": flip}
"""


def test_a_path_that_was_bad_at_first(project: Project) -> None:
    """It was not compared with the others, so nothing is written to it."""
    project.records(*({"id": f"{number}"} for number in range(4)))
    project.job("plugins: [flip.py]", template="{{ id }}", path="{{ id | flip }}")
    project.write("flip.py", FLIP)
    found = failures(project, "-j", "0")
    expected = "job.yaml:3: output.path: the key is 'same.txt' and there was none before; it must be the same each time"
    assert {("ValueError", expected)} == {*told(found).values()}
    assert {} == project.outputs()


def test_two_records_with_one_long_path(project: Project) -> None:
    """However long a path is that can be written, two records must not have it."""
    path = "/".join([*(letter * 191 for letter in "abcd"), "e" * 255, "tail"])
    project.records({"id": "1", "path": path}, {"id": "2", "path": path})
    project.job("key: '{{ id }}'", template="{{ id }}", path="{{ path }}")
    code, _, stderr = project.render()
    assert code == 2
    assert stderr.endswith("of the record at data.jsonl:1, too; paths must be unique\n")


def test_lone_surrogates(project: Project) -> None:
    """Half a character, which JSON can spell and UTF-8 cannot, fails the item, in the text as in the path."""
    project.records({"name": "a", "text": "\ud800"}, {"name": "\udc00", "text": "x"}, {"name": "c", "text": "ü😀"})
    project.job(template="{{ text }}")
    found = failures(project)
    message = "the document holds a lone surrogate ('\\ud800'), which UTF-8 cannot express"
    assert ("UnicodeEncodeError", message) == told(found)["a.txt"]
    assert ("PathError", "output path '\\udc00.txt' holds a lone surrogate") == told(found)["data.jsonl:2"]
    assert {"c.txt": "ü😀"} == project.outputs()


def test_file_where_the_output_folder_should_be(project: Project) -> None:
    """A file in the output folder's place is left alone and told."""
    project.records(*named("a"))
    project.job()
    project.write("out", "mine")
    assert ["job.yaml:3: output.dir: is no folder (found 'out'); name another one"] == refused(project)
    assert "mine" == project.out.read_text()
    assert refused(project, "-o", "out/below") != []


def _without_privileges() -> None:
    """Make the command obey permissions even where root runs the tests."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)


@pytest.mark.parametrize("folder", ["out", "out/new/below"])
def test_output_folder_that_cannot_be_written(project: Project, folder: str) -> None:
    """A folder that one may not write to is told before any work is done."""
    project.records(*named("a"))
    project.job()
    project.out.mkdir(mode=0o555)
    expected = [f"{folder}: the output folder cannot be written to: Permission denied"]
    assert expected == refused(project, "-o", folder, preexec_fn=_without_privileges)


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_file_size_limit(project: Project) -> None:
    """Documents that the system refuses for their size fail one by one; the small ones are written."""
    project.records(*({"name": f"n{n}", "size": 300_000 if n % 3 == 2 else 5} for n in range(9)))
    project.job(template="{{ 'x' * size }}")
    done = project.run("render", "job.yaml", "--summary", "-", preexec_fn=_small_files_only)
    found = {item["key"]: item["error"] for item in json.loads(done.stdout)["failures"]}
    assert (1, {"n2.txt", "n5.txt", "n8.txt"}) == (done.returncode, {*found})
    assert all("File too large" in error["message"] for error in found.values())
    assert_clean(project, done.stderr)
    assert {f"n{n}.txt": "xxxxx" for n in range(9) if n % 3 != 2} == project.outputs()


def test_one_cause_of_many_failed_files(project: Project) -> None:
    """What the system refuses for one reason, such as a full disk, is one row for people, not one for each file."""
    project.records(*({"name": f"n{n}", "size": 300_000} for n in range(9)))
    project.job(template="{{ 'x' * size }}")
    done = project.run("render", "job.yaml", preexec_fn=_small_files_only)
    assert "9 items failed:\n  9 × OSError: " in done.stdout


@pytest.fixture
def tiny_disk(project: Project) -> Iterator[None]:
    """A file system of half a megabyte as the output folder."""
    project.out.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", project.out], capture_output=True, check=False
    )
    if not made or made.returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield
    subprocess.run(["umount", project.out], check=True)


@pytest.mark.usefixtures("tiny_disk")
def test_full_disk(project: Project) -> None:
    """Where the disk is full, items fail and say so; what fits is written whole."""
    project.records(*({"name": f"n{n}", "size": 700_000 if n % 3 == 2 else 5} for n in range(9)))
    project.job(template="{{ 'x' * size }}")
    found = told(failures(project))
    assert {f"n{n}.txt" for n in (2, 5, 8)} == {*found}
    assert all("No space left on device" in message for _, message in found.values())
    assert {f"n{n}.txt": "xxxxx" for n in range(9) if n % 3 != 2} == project.outputs()
