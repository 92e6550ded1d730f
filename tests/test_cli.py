"""The command line: every command and option, what goes to stdout, signals, and the page that documents it all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil
import pytest

import chora_mp
from chora_mp import cli
from chora_mp.jobfile import job_schema
from chora_mp.seats import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Project

ROOT = Path(__file__).parent.parent
BOUND = 30.0
"""Seconds that a condition may take to come true, however busy the machine is."""

SUMMARY_FIELDS = [
    "job", "run_id", "total", "successful", "failed", "unchanged", "not_reached", "pruned", "orphaned",
    "duration_s", "items_per_s", "bytes_written", "workers", "sizing", "stopped", "notes", "failures",
]  # fmt: skip

# Every item leaves a mark, then waits for the file `go`: tests open the gate when they have seen enough.
GATE = """\
import itertools, os, time
from collections import deque

HERE = os.path.dirname(__file__)


def mark(name):
    open(os.path.join(HERE, "started", name), "w").close()


def gate(name):
    mark(name)
    end = time.monotonic() + 60
    while not os.path.exists(os.path.join(HERE, "go")) and time.monotonic() < end:
        time.sleep(0.002)
    return name


def hang(name):
    mark(name)
    deque(itertools.repeat(None), maxlen=0)


FILTERS = {"gate": gate, "hang": hang}
"""


def named(count: int) -> list[dict[str, str]]:
    """So many records, n0 first."""
    return [{"name": f"n{number}"} for number in range(count)]


def await_(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives as soon as that is true; fails where it doesn't come true in time."""
    end = time.monotonic() + BOUND
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Running:
    """A command under way, in a process group of its own as a shell starts it."""

    project: Project
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def started(self) -> set[str]:
        """The items that workers have begun."""
        return {path.name for path in (self.project.folder / "started").iterdir()}

    def family(self) -> list[psutil.Process]:
        """The processes that the command has started, and those that they have."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def await_stopping(self) -> None:
        """Wait until the command says that it stops."""
        await_(lambda: "stopping; what is in work is finished" in self.stderr.read_text(), "the word that it stops")

    def said_so(self) -> bool:
        """Whether the last thing that it said is that it was interrupted."""
        return re.search(r"^chora-mp: interrupted.*\n\Z", self.stderr.read_text(), re.MULTILINE) is not None

    def await_end(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(BOUND)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` that still run; one that only its parent has not yet taken note of does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def launch(project: Project) -> Iterator[Callable[..., Running]]:
    """Starts to render the project's job, and kills what is left of it after the test."""
    groups = []

    def launches(*arguments: str, **options: Any) -> Running:
        stdout, stderr = project.folder / "stdout", project.folder / "stderr"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "chora_mp", "render", "job.yaml", "-j", "2", *arguments],
                cwd=project.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                **options,
            )
        groups.append(process)
        return Running(project, process, stdout, stderr)

    yield launches
    for process in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(BOUND)


@pytest.fixture
def start(project: Project, launch: Callable[..., Running]) -> Callable[..., Running]:
    """Starts a job of 1000 items that all wait at a gate."""

    def starts(*arguments: str, template: str = "{{ name | gate }}", **options: Any) -> Running:
        project.records(*named(1000))
        project.job("plugins: [gate.py]", template=template)
        project.write("gate.py", GATE)
        (project.folder / "started").mkdir()
        running = launch(*arguments, **options)
        await_(running.started, "the first item")
        return running

    return starts


# ---- help --------------------------------------------------------------------------------------------------


def test_version(project: Project) -> None:
    """`--version` names the program and its version."""
    done = project.run("--version")
    assert (0, f"chora-mp, version {chora_mp.__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(project: Project, option: str) -> None:
    """`--help` lists every command."""
    done = project.run(option)
    assert (0, "") == (done.returncode, done.stderr)
    listed = re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert sorted(cli.cli.commands) == listed


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_every_command_has_help(name: str) -> None:
    """Every command and each of its options says what it is for."""
    command = cli.cli.commands[name]
    assert command.help
    assert [] == [option.name for option in options(command) if not option.help]


# ---- render ------------------------------------------------------------------------------------------------


def test_same_bytes_on_any_number_of_workers(project: Project) -> None:
    """Inline, on one worker, on two or on as many as fit: the documents are the same, byte for byte."""
    project.records(*({"name": f"n{number}", "text": "ü<&>\r\n" * (number % 7)} for number in range(300)))
    project.job(template="{% for i in range(3) %}{{ i }} {{ text }}{{ loop.last }}\n{% endfor %}")
    expected = None
    for jobs, folder in (("0", "inline"), ("1", "one"), ("2", "two"), ("auto", "auto")):
        code, summary, stderr = project.render("-j", jobs, "-o", folder)
        assert (0, 300, 300) == (code, summary["total"], summary["successful"]), stderr
        found = (path for path in (project.folder / folder).iterdir() if path.name != ".chora-mp")
        files = {path.name: path.read_bytes() for path in found}
        assert 300 == len(files)
        assert sum(map(len, files.values())) == summary["bytes_written"]
        expected = expected or files
        assert expected == files
    assert not project.out.exists()
    assert [] == project.leftovers()


def test_second_run_renders_nothing(project: Project) -> None:
    """What is up to date is not rendered again, and said to be unchanged; its files are left alone."""
    project.records(*named(3))
    project.job()
    assert (0, 6) == (project.render()[0], project.render()[1]["bytes_written"] + 6)
    before = {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}
    code, summary, _ = project.render()
    assert (0, 3, 0, 3, 0) == (
        code,
        summary["total"],
        summary["successful"],
        summary["unchanged"],
        summary["bytes_written"],
    )
    assert before == {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}


def test_force_renders_all_and_writes_nothing(project: Project) -> None:
    """`-f` renders what is up to date, too; documents that come out as they were are left alone, time stamp and all."""
    project.records(*named(3))
    project.job()
    project.render()
    before = {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}
    assert 3 == len(before)
    code, summary, _ = project.render("-f")
    assert (0, 3, 0, 0) == (code, summary["successful"], summary["unchanged"], summary["bytes_written"])
    assert before == {path.name: path.stat().st_mtime_ns for path in project.out.glob("*.txt")}


def test_define(project: Project) -> None:
    """`-D` sets constants, as YAML; they win over the job's, and a record's own names over both."""
    project.records({"name": "a"}, {"name": "b", "year": 1999})
    project.job(
        "context: {year: 2025, site: x}", template="{{ year + 1 }} {{ tags[1] }} [{{ empty }}] {{ text }} {{ site }}"
    )
    code, _, stderr = project.render("-D", "year=2026", "-D", "tags=[a, b]", "-D", "empty=", "-D", "text=a=b")
    assert (0, {"a.txt": "2027 b [] a=b x", "b.txt": "2000 b [] a=b x"}) == (code, project.outputs()), stderr


def test_only(project: Project) -> None:
    """`-k` renders the items whose key matches; nothing else counts."""
    project.records(*named(120))
    project.job("key: 'pages/{{ name }}'")
    code, summary, _ = project.render("-k", "pages/n1?")
    assert (0, 10, 10, 0) == (code, summary["total"], summary["successful"], summary["not_reached"])
    assert {f"n1{number}.txt" for number in range(10)} == {*project.outputs()}
    code, summary, _ = project.render("-k", "pages/n?")
    assert (0, 10, 10, 0) == (code, summary["total"], summary["successful"], summary["unchanged"])
    code, summary, _ = project.render("-k", "nothing")
    assert (0, 0) == (code, summary["total"])


@pytest.mark.parametrize("more", ["", "errors: {policy: fail-fast}"])
def test_fail_fast(project: Project, more: str) -> None:
    """`-x`, like the job's own policy, stops at the first failed item and says how many were not reached."""
    project.records({"name": "n0", "bad": 1}, *({"name": f"n{number}"} for number in range(1, 5000)))
    project.job(more, template="{% if bad is defined %}{{ nix }}{% endif %}{{ name }}")
    code, summary, _ = project.render("-j", "1", *([] if more else ["-x"]))
    assert (1, 5000, 1) == (code, summary["total"], summary["failed"])
    assert summary["not_reached"] > 0
    assert 5000 == summary["successful"] + summary["failed"] + summary["unchanged"] + summary["not_reached"]
    assert len(project.outputs()) == summary["successful"]


def test_quiet(project: Project) -> None:
    """`-q` prints nothing where all is well, and the failures on stderr where it is not."""
    project.records(*named(2))
    project.job()
    done = project.run("render", "job.yaml", "-q")
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    project.records(*named(2), {})
    done = project.run("render", "job.yaml", "-q")
    expected = [
        "1 item failed:",
        "  1 × UndefinedError: job.yaml:3: output.path: 'name' is undefined",
        "      data.jsonl:3",
    ]
    assert (1, "", expected) == (done.returncode, done.stdout, done.stderr.splitlines())


def test_data_cannot_talk_to_the_terminal(project: Project) -> None:
    """Escape sequences and line breaks in keys and messages are shown, not sent."""
    project.records({"name": "a\x1b]0;title\x07", "n": 0}, {"name": "two\nlines", "n": 0})
    project.job('key: "{{ name }}"', template="{{ name.missing }}", path="{{ name|length }}.txt")
    done = project.run("render", "job.yaml")
    assert 1 == done.returncode
    assert "\x1b" not in done.stdout + done.stderr
    assert r"a\x1b]0;title\x07 (data.jsonl:1)" in done.stdout
    assert r"two\nlines (data.jsonl:2)" in done.stdout


def test_summary_on_stdout(project: Project) -> None:
    """With `--summary -` stdout is JSON with the fields of the contract, and people read stderr."""
    project.records(*named(3), {})
    project.job()
    done = project.run("render", "job.yaml", "--summary", "-")
    summary = json.loads(done.stdout)
    assert (1, SUMMARY_FIELDS) == (done.returncode, list(summary))
    assert ("job", 4, 3, 1, 0, 0, 0, 1) == tuple(
        summary[name]
        for name in ("job", "total", "successful", "failed", "unchanged", "not_reached", "pruned", "workers")
    )
    assert {"workers", "binds", "terms"} == {*summary["sizing"]}
    expected = {
        "key": "data.jsonl:4",
        "path": "",
        "seq": 3,
        "source": {"file": "data.jsonl", "line": 4},
        "error": {
            "type": "UndefinedError",
            "message": "job.yaml:3: output.path: 'name' is undefined",
            "template": None,
            "line": None,
            "chain": [],
        },
        "attempts": 1,
    }
    assert [expected] == summary["failures"]
    assert done.stderr.startswith("job: 3 documents in ")


def test_summary_in_a_file(project: Project) -> None:
    """`--summary FILE` writes the same to a file; people read stdout."""
    project.records(*named(3))
    project.job()
    done = project.run("render", "job.yaml", "--summary", "summary.json")
    summary = json.loads((project.folder / "summary.json").read_text())
    assert (0, SUMMARY_FIELDS, "") == (done.returncode, list(summary), done.stderr)
    assert done.stdout.startswith("job: 3 documents in ")


def test_summary_that_cannot_be_written(project: Project) -> None:
    """A summary file that cannot be written is known before anything is rendered."""
    project.records(*named(3))
    project.job()
    done = project.run("render", "job.yaml", "--summary", "nowhere/summary.json")
    assert (2, False) == (done.returncode, project.out.exists())
    assert done.stderr.startswith("chora-mp: --summary nowhere/summary.json: cannot be written")


def test_summary_into_a_pipe(project: Project) -> None:
    """A named pipe, like a shell's `>(…)`, is written to and not replaced by a file."""
    project.records(*named(3))
    project.job()
    pipe = project.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # open before the writer, which would wait for it
    try:
        done = project.run("render", "job.yaml", "--summary", "pipe")
        assert pipe.is_fifo()
        assert (0, 3) == (done.returncode, json.loads(os.read(reader, 65536))["total"])
    finally:
        os.close(reader)


def test_failures_by_cause(project: Project) -> None:
    """The summary for people groups failures by cause, with count and first keys, and says why so many workers."""
    project.records(*({"name": f"n{number}"} for number in range(5)), {"name": "m", "ok": 1}, {"name": "o", "ok": 0})
    project.job("workers: 1", template="{{ ok }}{{ 1 // ok }}")
    done = project.run("render", "job.yaml")
    first, *rest = done.stdout.splitlines()
    expected = [
        "1 worker (at most 1, as asked for)",
        "6 items failed:",
        "  5 × page.txt.j2:1: UndefinedError: 'ok' is undefined",
        "      n0.txt (data.jsonl:1), n1.txt (data.jsonl:2), n2.txt (data.jsonl:3) and 2 more",
        "  1 × page.txt.j2:1: ZeroDivisionError: integer division or modulo by zero",
        "      o.txt (data.jsonl:7)",
    ]
    assert (1, expected) == (done.returncode, rest)
    assert re.fullmatch(r"job: 1 document in \d+\.\d+ s \(\d+/s\), 2 B written to out", first)


def test_few_items_open_one_worker(project: Project) -> None:
    """Three quick items are not worth a second process, unless somebody asks for one."""
    project.records(*named(3))
    project.job("limits: {max_workers: 8}")
    code, summary, _ = project.render()
    assert (0, 1) == (code, summary["workers"])
    code, summary, _ = project.render("-j", "8", "-o", "other")
    assert (0, 3, 8) == (code, summary["workers"], summary["sizing"]["workers"])


def test_slow_items_open_all_workers(project: Project) -> None:
    """A job that takes long opens every worker that it may."""
    project.records(*named(60))
    project.job("plugins: [slow.py]", template="{{ name | slow }}")
    project.write("slow.py", "import time\n\nFILTERS = {'slow': lambda text: time.sleep(0.05) or text}\n")
    code, summary, _ = project.render("-j", "3")
    assert (0, 3) == (code, summary["workers"])


# ---- where and how it is called ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["my jobs/a job.yaml", "grüße/日本.yaml", "two\nlines/a\nb.yaml", os.fsdecode(b"latin-\xfc.yaml")]
)
def test_odd_file_names(project: Project, name: str) -> None:
    """Spaces, any script, line breaks and bytes that are no text are all fine in the job's path."""
    folder = os.path.dirname(name)
    project.records(*named(2), name=os.path.join(folder, "data.jsonl"))
    project.write(name, PAGE)
    project.write(os.path.join(folder, "templates/page.txt.j2"), "{{ name }}")
    done = project.run("render", name, errors="surrogateescape")
    assert (0, "") == (done.returncode, done.stderr)
    found = (path for path in (project.folder / folder / "out").iterdir() if path.name != ".chora-mp")
    assert {"n0.txt": "n0", "n1.txt": "n1"} == {path.name: path.read_text() for path in found}


PAGE = "source: data.jsonl\ntemplate: page.txt.j2\noutput: {dir: out, path: '{{ name }}.txt'}\n"


@pytest.mark.parametrize("more", ["", "plugins: [gate.py]"])
def test_folder_with_files_named_like_modules(project: Project, more: str) -> None:
    """The person's own files may be called like Python's or Jinja2's: the installed command does not import them."""
    project.records(*named(3))
    project.job(more)
    project.write("gate.py", "FILTERS = {}\n")
    for name in ("random", "json", "jinja2", "orjson", "pickle", "copy", "fnmatch", "chora_mp"):
        project.write(f"{name}.py", f"raise RuntimeError('imported the {name}.py of the current folder')\n")
    command = project.write("bin/chora-mp", "import sys\n\nfrom chora_mp.cli import main\n\nsys.exit(main())\n")
    done = subprocess.run(
        [sys.executable, command, "render", "job.yaml"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert (0, "", 3) == (done.returncode, done.stderr, len(project.outputs()))


@pytest.mark.parametrize("descriptor", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_closed_descriptors(project: Project, descriptor: int) -> None:
    """A service manager may start the command without stdin, stdout or stderr."""
    project.records(*named(3))
    project.job()
    done = subprocess.run(
        f"exec {sys.executable} -m chora_mp render job.yaml --summary summary.json {descriptor}>&-",
        shell=True,
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert (0, "", 3) == (done.returncode, done.stderr, len(project.outputs()))
    assert 3 == json.loads((project.folder / "summary.json").read_text())["successful"]


@pytest.mark.parametrize(
    ("arguments", "bad", "expected"),
    [
        (["schema"], False, 0),
        (["render", "job.yaml"], False, 0),
        (["render", "job.yaml"], True, 1),
        (["render", "job.yaml", "--summary", "-"], True, 1),
    ],
)
def test_reader_of_stdout_is_gone(project: Project, arguments: list[str], bad: bool, expected: int) -> None:
    """Where nobody reads stdout any more (`| head`), the command ends quietly, and its exit code tells of the work."""
    project.records(*named(3), *([{}] if bad else []))
    project.job()
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "chora_mp", *arguments],
            cwd=project.folder,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BOUND,
            check=False,
        )
    finally:
        os.close(writer)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert expected == done.returncode


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
@pytest.mark.parametrize("arguments", [["schema"], ["render", "job.yaml"]])
def test_stdout_that_is_full(project: Project, arguments: list[str]) -> None:
    """What cannot be printed for want of room is the disk's fault, not a bug of the command's."""
    project.records(*named(3))
    project.job()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "chora_mp", *arguments],
            cwd=project.folder,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BOUND,
            check=False,
        )
    assert (2, True) == (done.returncode, "No space left on device" in done.stderr)
    assert "bug" not in done.stderr


def test_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that nobody foresaw is owned up to in one line; CHORA_MP_DEBUG shows the traceback."""

    def broken(**_: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(cli.generators, "callback", broken)
    monkeypatch.setattr(sys, "argv", ["chora-mp", "generators"])
    assert 2 == cli._run()
    expected = "chora-mp: this is a bug in chora-mp: RuntimeError: oh; set CHORA_MP_DEBUG=1 to see where\n"
    assert expected == capsys.readouterr().err
    monkeypatch.setenv("CHORA_MP_DEBUG", "1")
    with pytest.raises(RuntimeError, match="oh"):
        cli._run()


# ---- size, schema, generators ------------------------------------------------------------------------------

WHAT_IF = [
    "--cores", "8", "--memory", "8GB", "--memory-per-item", "200MB", "--rate", "60/min", "--latency", "5s",
    "--max-workers", "10",
]  # fmt: skip


def test_size_of_the_published_example(project: Project) -> None:
    """8 cores, 8 GB, 60 a minute at 5 s, at most 10: five workers, bound by the rate."""
    done = project.run("size", "--json", *WHAT_IF)
    answer = json.loads(done.stdout)
    assert (0, "", 5, "rate") == (done.returncode, done.stderr, answer["workers"], answer["binds"])
    terms = {term["name"]: term["value"] for term in answer["terms"]}
    assert {"cpus": 8.0, "memory": 40.0, "rate": 5.0, "max_workers": 10.0} == terms
    assert ["workers", "binds", "terms"] == list(answer)


def test_size_for_people(project: Project) -> None:
    """Without `--json`: every term, what it comes from and which one binds."""
    done = project.run("size", *WHAT_IF)
    expected = """\
TERM         WORKERS  FROM
cpus               8  8 cpus (--cores) × 1
memory            40  8.0 GB (--memory) / 200 MB per worker
rate               5  60/min × 5 s                           <- binds
max_workers       10  limits.max_workers
workers: 5
"""
    assert (0, expected) == (done.returncode, done.stdout)


def test_size_of_a_job(project: Project) -> None:
    """With a job its limits count, and what-if options win over them."""
    project.records()
    project.job("limits: {max_workers: 3, memory_per_item: 1GB}")
    suppose = ("--cores", "8", "--memory", "5GB", "--json")
    answer = json.loads(project.run("size", "job.yaml", *suppose).stdout)
    assert (3, "max_workers") == (answer["workers"], answer["binds"])
    answer = json.loads(project.run("size", "job.yaml", "--max-workers", "9", *suppose).stdout)
    assert (5, "memory") == (answer["workers"], answer["binds"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no CPU affinity here")
def test_size_on_one_cpu(project: Project) -> None:
    """Only CPUs that the process may use count, as under `taskset -c 0`."""
    one = {min(os.sched_getaffinity(0))}
    done = project.run("size", "--json", preexec_fn=lambda: os.sched_setaffinity(0, one))
    answer = json.loads(done.stdout)
    assert (1, "cpus", 1) == (answer["workers"], answer["binds"], answer["terms"][0]["value"])


@pytest.mark.parametrize("option", ["--cores", "--memory", "--rate", "--latency", "--max-workers"])
def test_size_of_nothing(project: Project, option: str) -> None:
    """Nought of anything is refused: nothing could be rendered with it."""
    done = project.run("size", option, "0")
    assert (2, "") == (done.returncode, done.stdout)
    assert f"Invalid value for '{option}'" in done.stderr


def test_schema(project: Project) -> None:
    """`schema` prints the schema of job files, in which every reference leads somewhere."""
    done = project.run("schema")
    schema = json.loads(done.stdout)
    assert (0, "", job_schema()) == (done.returncode, done.stderr, schema)
    assert {"source", "template", "output"} <= {*schema["properties"]}
    references = {*re.findall(r'"#/\$defs/(\w+)"', done.stdout)}
    assert {*schema["$defs"]} == references


def test_schema_in_the_repository(project: Project) -> None:
    """The schema that editors find in the repository is the one that the command prints."""
    stored = ROOT / "configs/job.schema.json"
    if not stored.exists():
        pytest.skip("no schema is stored")
    assert json.loads(stored.read_text(encoding="utf-8")) == json.loads(project.run("schema").stdout)


def test_generators(project: Project) -> None:
    """`generators` lists what can turn a record into a document, one a line, and what suits it."""
    done = project.run("generators")
    assert (0, "") == (done.returncode, done.stderr)
    names = ["bdd_scenario", "code_generation", "demonstration", "jinja2", "minijinja", "template_fill"]
    assert ["GENERATOR", *names] == [line.split()[0] for line in done.stdout.splitlines()]
    rows = json.loads(project.run("generators", "--json").stdout)
    assert names == [row["name"] for row in rows]
    assert {"code_generation": "asyncio"} == {row["name"]: row["lane"] for row in rows if row["lane"] != "processes"}


# ---- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, True)],
)
def test_one_signal(start: Callable[..., Running], project: Project, number: signal.Signals, to_all: bool) -> None:
    """One signal: what is in work is finished, the summary is printed, 130, and nothing is left behind."""
    running = start("--summary", "-")
    family = running.family()
    if to_all:
        running.signal(number)
    else:
        running.process.send_signal(number)
    running.await_stopping()
    begun = running.started()
    project.write("go", "")
    assert 130 == running.await_end()
    assert running.said_so()
    assert "Traceback" not in running.stderr.read_text()
    assert begun <= running.started() == {name.removesuffix(".txt") for name in project.outputs()}
    summary = json.loads(running.stdout.read_text())
    assert (1000, len(project.outputs()), 0) == (summary["total"], summary["successful"], summary["failed"])
    assert summary["not_reached"] == 1000 - summary["successful"] > 0
    await_(lambda: not alive(family), "the end of all processes")
    assert [] == project.leftovers()


def test_two_signals(start: Callable[..., Running], project: Project) -> None:
    """A second Ctrl-C ends the run at once, whatever is in work; nothing but the ledger is left behind."""
    running = start()
    family = running.family()
    running.signal(signal.SIGINT)
    running.await_stopping()
    running.signal(signal.SIGINT)
    assert 130 == running.await_end()
    assert running.said_so()
    assert "Traceback" not in running.stderr.read_text()
    await_(lambda: not alive(family), "the end of all processes")
    assert [] == project.leftovers()
    assert {} == project.outputs()


def test_ignored_signal(start: Callable[..., Running], project: Project) -> None:
    """A signal that whoever started the command had it ignore, as `nohup` does, stays ignored."""
    running = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None)
    running.signal(signal.SIGHUP)
    project.write("go", "")
    assert (0, "") == (running.await_end(), running.stderr.read_text())
    assert 1000 == len(project.outputs())


def test_signal_before_rendering(start: Callable[..., Running], project: Project) -> None:
    """Ctrl-C while plug-ins are loaded ends the run at once: there is nothing to finish."""
    running = start(template="{{ 'constant' | gate }}")  # evaluated when the template is compiled
    assert {"constant"} == running.started()
    family = running.family()
    running.signal(signal.SIGINT)
    assert 130 == running.await_end()
    assert ["chora-mp: interrupted"] == [line for line in running.stderr.read_text().splitlines() if line]
    await_(lambda: not alive(family), "the end of all processes")
    assert not project.out.exists()


@pytest.mark.parametrize("milliseconds", range(0, 260, 20))
def test_a_signal_at_any_time(project: Project, launch: Callable[..., Running], milliseconds: int) -> None:
    """While the command starts, plans or renders: it ends soon, says so, and leaves nothing but the ledger."""
    project.records(*named(20_000))
    project.job()
    running = launch()
    await_(lambda: bool(running.family()), "the first process that it starts")
    time.sleep(milliseconds / 1000)
    family = running.family()
    running.signal(signal.SIGINT)
    code, said = running.await_end(), running.stderr.read_text()
    assert code in (0, 130)
    assert "Traceback" not in said
    assert "Warning" not in said
    assert (code == 130) == ("chora-mp: interrupted" in said), said
    await_(lambda: not alive(family), "the end of all processes")
    assert [] == project.leftovers()


def test_a_process_that_never_hears_who_it_is() -> None:
    """A process that was forked just before a signal came does not hold up the server's end, and dies with it."""
    server = Server()
    sentinel, writer = server.new_process([])
    server.stop()
    assert [sentinel] == wait([sentinel], BOUND)
    os.close(sentinel)
    os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal for children")
@pytest.mark.parametrize("template", ["{{ name | gate }}", "{{ name | hang }}"], ids=["waiting", "hanging in C code"])
def test_killed_coordinator(start: Callable[..., Running], template: str) -> None:
    """A coordinator that is killed outright takes all its processes along, also one that hangs in C code."""
    running = start(template=template)
    family = running.family()
    assert len(family) >= 2  # the fork server and a worker
    running.process.kill()
    assert -signal.SIGKILL == running.await_end()
    await_(lambda: not alive(family), "the end of all processes")


def test_next_run_after_a_kill(start: Callable[..., Running], project: Project) -> None:
    """What a killed run has left does not stop the next one, which writes every document and clears up."""
    running = start()
    family = running.family()
    running.process.kill()
    running.await_end()
    await_(lambda: not alive(family), "the end of all processes")
    project.write("go", "")
    code, summary, stderr = project.render()
    assert (0, 1000) == (code, summary["successful"]), stderr
    assert {f"n{number}.txt" for number in range(1000)} == {*project.outputs()}
    assert [] == project.leftovers()


# ---- the page that documents it ----------------------------------------------------------------------------

PAGE_OF_COMMANDS = ROOT / "docs/cli.md"


def options(command: click.Command) -> list[click.Option]:
    """The options of a command, `--help` included."""
    context = click.Context(command, info_name=command.name, help_option_names=["-h", "--help"])
    return [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]


def shown_option(option: click.Option) -> tuple[str, str]:
    """What an option's row shows: its names and value, and its help."""
    context = click.Context(cli.cli)
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    if isinstance(option.type, (click.IntRange, click.FloatRange)):
        value = " N"
    return ", ".join(option.opts) + value, (option.help or "").partition("  [")[0]


def sections() -> dict[str, str]:
    """The sections of the page that are about a command, by its name; "" is the program's own."""
    parts = re.split(r"^## `chora-mp ?(\w*).*`$", PAGE_OF_COMMANDS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    bodies = (re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[2::2])
    return dict(zip(parts[1::2], bodies, strict=True))


def rows(section: str) -> list[tuple[str, str]]:
    """The rows of a section's table of options: what the first two columns show."""
    found = re.findall(r"^\| (`-.*?`) \| (.*?) \|$", section, re.MULTILINE)
    return [(names.replace("`", "").replace("\\|", "|"), text.replace("\\|", "|")) for names, text in found]


def test_every_command_is_documented() -> None:
    """Every command has a section, in alphabetical order; no section is about a command that does not exist."""
    assert ["", *sorted(cli.cli.commands)] == list(sections())


@pytest.mark.parametrize("name", ["", *sorted(cli.cli.commands)])
def test_every_option_is_documented(name: str) -> None:
    """A command's section says what its help says, and its table has exactly its options, with their help."""
    command = cli.cli.commands[name] if name else cli.cli
    section = " ".join(sections()[name].split())
    for paragraph in (command.help or "").split("\n\n"):
        assert " ".join(paragraph.split()) in section
    assert [shown_option(option) for option in options(command)] == rows(sections()[name])


def test_nothing_else_is_documented() -> None:
    """No option is mentioned anywhere on the page that does not exist."""
    known = {
        name for command in (cli.cli, *cli.cli.commands.values()) for option in options(command) for name in option.opts
    }
    mentioned = {*re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", PAGE_OF_COMMANDS.read_text(encoding="utf-8"))}
    assert set() == mentioned - known


def test_documented_summary() -> None:
    """The page lists the fields of the JSON summary and of a failure, in their order."""
    text = PAGE_OF_COMMANDS.read_text(encoding="utf-8").partition("## The JSON summary")[2].partition("\n## ")[0]
    summary, _, failure = text.partition("Each failure:")
    fields = ["key", "path", "seq", "source", "error", "attempts"]
    assert SUMMARY_FIELDS == re.findall(r"^\| `(\w+)` \|", summary, re.MULTILINE)
    assert fields == re.findall(r"^\| `(\w+)` \|", failure, re.MULTILINE)
