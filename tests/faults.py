"""What the tests of faults share: a job whose records say what befalls them, and what has to hold whatever does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import Project

BOUND = 40.0
"""Seconds that a run with a fault in it may take, however busy the machine is."""

PLUGIN = """
import ctypes, os, re, resource, signal, sys, time

class TwoArguments(Exception):
    def __init__(self, one, two): super().__init__(one)

class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = __import__("threading").Lock()

def recurse(value): return recurse(value)

def overflow():
    # The C library's parser of regular expressions calls itself at every bracket.
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 5_000_000, 1)

def grow(value):
    held = []
    while True: held.append("x" * 10**7)

def fault(value):
    match value:
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "terminate":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        case "segfault": ctypes.string_at(0)
        case "abort": os.abort()
        case "exit 0": os._exit(0)
        case "exit 3": os._exit(3)
        case "overflow": overflow()
        case "loop":
            while True: pass
        case "sleep": time.sleep(1000)
        case "deaf":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
            while True: time.sleep(1000)
        case "regex": re.match(r"(a+)+$", "a" * 64 + "b")
        case "raise": raise ValueError("as asked")
        case "system exit": sys.exit(3)
        case "interrupt": raise KeyboardInterrupt
        case "recurse": return recurse(value)
        case "no memory": raise MemoryError
        case "two arguments": raise TwoArguments(1, 2)
        case "unpicklable": raise Unpicklable("cannot travel")
        case "grow": grow(value)
        case "huge": return "x" * 2_000_000_000
    return ""

FILTERS = {"fault": fault}
"""

TEMPLATE = "{{ name }} is {% for n in range(20) %}{{ n * number }},{% endfor %}{{ fault|fault }}"


def text(number: int) -> str:
    """The document of the record of that number, as plain Python makes it."""
    return f"n{number} is {''.join(f'{n * number},' for n in range(20))}"


@dataclass(eq=False)
class Case:
    """A project with a job of `count` records, of which those at the numbers in `faults` misbehave."""

    project: Project
    count: int = 200
    faults: Mapping[int, str] = field(default_factory=dict)
    more: str = ""
    plugin: str = PLUGIN
    template: str = TEMPLATE
    temporary: Path = field(init=False)
    """The folder for temporary files of the runs; its path has to be short, for sockets lie in it."""

    def __post_init__(self) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="faults-"))
        weakref.finalize(self, shutil.rmtree, self.temporary, ignore_errors=True)
        self.project.write("faults.py", self.plugin)
        self.project.records(*map(self.record, range(self.count)))
        self.project.job(f'key: "{{{{ name }}}}"\nplugins: [faults.py]\n{self.more}', template=self.template)

    def record(self, number: int) -> dict[str, Any]:
        """The record of that number."""
        return {"name": f"n{number}", "number": number, "fault": self.faults.get(number, "")}

    def start(self, *arguments: str, command: tuple[str, ...] = ("render", "job.yaml"), **options: Any) -> Run:
        """The command under way, in a session of its own."""
        environment = {**os.environ, "TMPDIR": str(self.temporary), **options.pop("environment", {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "chora_mp", *command, *(arguments or ("-j", "2"))],
            cwd=self.project.folder,
            stdin=subprocess.DEVNULL,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment,
            **options,
        )
        return Run(self, process)

    def run(self, *arguments: str, **options: Any) -> Ended:
        """The command from start to end, with a JSON summary; two workers unless `arguments` say otherwise."""
        return self.start("--summary", "summary.json", *(arguments or ("-j", "2")), **options).end()

    def documents(self) -> dict[str, str]:
        """Path and text of every file in the output folder, hidden ones too, but for what a run keeps there."""
        return {path: text for path, text in self.project.outputs().items() if not path.startswith(".chora-mp/")}


@dataclass
class Run:
    """A command under way."""

    case: Case
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The coordinator's process, which leads the session and the process group."""
        return self.process.pid

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal, to the whole process group as a terminal does, or to the coordinator alone."""
        (os.killpg if group else os.kill)(self.pid, number)

    def others(self) -> list[psutil.Process]:
        """The processes of the command but for the coordinator."""
        return [process for process in _session(self.pid) if process.pid != self.pid]

    def workers(self) -> list[psutil.Process]:
        """The processes that were forked by the fork server."""
        servers = [process for process in self.others() if "forkserver" in " ".join(_command(process))]
        found = [child for server in servers for child in _children(server)]
        return [process for process in found if _is_alive(process)]

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """What `condition` gives once it is true, while the command is under way."""
        return wait_for(lambda: self.process.poll() is not None or condition(), what)

    def wait_for_documents(self, count: int) -> None:
        """Wait until so many documents are there."""
        self.wait_for(lambda: sum(1 for _ in self.case.project.out.glob("n*.txt")) >= count, f"{count} documents")
        assert self.process.poll() is None, "the run was over too soon"

    def end(self) -> Ended:
        """Wait for the end, and see that nothing stays behind."""
        started = time.monotonic()
        try:
            out, err = self.process.communicate(timeout=BOUND)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        seconds = time.monotonic() - started
        summary = self.case.project.folder / "summary.json"
        found = json.loads(summary.read_text()) if summary.exists() else {}
        summary.unlink(missing_ok=True)
        wait_for(lambda: not self.others(), "the end of all processes", 5)
        return Ended(self.case, self.process.returncode, found, out or "", err, seconds)


@dataclass
class Ended:
    """A command that has ended; `seconds` that its end was waited for."""

    case: Case
    code: int
    summary: dict[str, Any]
    out: str
    err: str
    seconds: float

    @property
    def failures(self) -> dict[int, dict[str, Any]]:
        """The failures, by the number of their record."""
        return {failure["seq"]: failure for failure in self.summary["failures"]}

    @property
    def errors(self) -> dict[int, tuple[str, str]]:
        """Type and message of every failure, by the number of the record."""
        return {seq: (item["error"]["type"], item["error"]["message"]) for seq, item in self.failures.items()}

    def assert_only(self, guilty: Mapping[int, str], code: int = 1) -> None:
        """The guilty failed, each once and as told (record's number: type); all else is as a serial run makes it."""
        self.assert_tidy()
        assert code == self.code, self.err
        assert dict(guilty) == {seq: type_ for seq, (type_, _) in self.errors.items()}
        count = self.case.count
        assert (count, count - len(guilty), len(guilty), 0) == self.counts()
        assert {f"n{number}.txt": text(number) for number in range(count) if number not in guilty} == (
            self.case.documents()
        )

    def counts(self) -> tuple[int, int, int, int]:
        """All items, those that are written, those that failed, those that were not reached."""
        found = self.summary
        return found["total"], found["successful"] + found["unchanged"], found["failed"], found["not_reached"]

    def assert_tidy(self) -> None:
        """Nothing is left behind, no traceback was shown, and each item has one state, in the ledger too."""
        assert "Traceback" not in self.err + self.out
        assert [] == self.case.project.leftovers()
        assert [] == sorted(path.name for path in self.case.temporary.iterdir())
        if self.summary:
            total, written, failed, not_reached = self.counts()
            assert total == written + failed + not_reached
            assert len(self.summary["failures"]) == len(self.failures) == failed
        for name, content in self.case.documents().items():
            assert text(int(name.removeprefix("n").removesuffix(".txt"))) == content
        assert {1} >= set(Counter(key for key, _ in rows(self.case.project)).values())

    def assert_finished_by_the_next(self, guilty: Mapping[int, str] | None = None) -> None:
        """Running again renders what is missing, and then all is there but for the guilty."""
        again = self.case.run()
        again.assert_only(guilty or {}, code=1 if guilty else 0)


def rows(project: Project, columns: str = "key, status") -> list[tuple[Any, ...]]:
    """Key and status, or other columns, of every item that the ledger knows."""
    path = project.out / ".chora-mp" / "ledger.db"
    if not path.exists():
        return []
    db = sqlite3.connect(path)
    try:
        return db.execute(f"SELECT {columns} FROM outputs").fetchall()
    finally:
        db.close()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = BOUND) -> Any:
    """What `condition` gives once it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.005)
    return found


def _session(leader: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and _is_alive(process):
                yield process
        except ProcessLookupError:
            continue


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []
