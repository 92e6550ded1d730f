"""Hangs: an item that does not come to its end fails as `Timeout`, and nothing else does. Real hangs, real clocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from faults import PLUGIN, Case, Run, wait_for

import chora_mp.watchdog
from chora_mp import Job, JobError, batch_generate

if TYPE_CHECKING:
    from faults import Ended

    from tests.conftest import Project

TIMEOUT = "limits: {timeout: 500ms}"
MESSAGE = "the item took longer than 0.5 s; its worker was killed"

WORK = """
well = fault

def fault(value):
    if not value.startswith("work "): return well(value)
    end = time.process_time() + float(value[5:])
    while time.process_time() < end: pass
    return ""

FILTERS = {"fault": fault}
"""
"""A plug-in's items may take so many seconds of a processor's time."""


def assert_timed_out(ended: Ended, guilty: tuple[int, ...]) -> None:
    """The guilty failed as `Timeout`, at the first attempt, and nothing else failed."""
    ended.assert_only(dict.fromkeys(guilty, "Timeout"))
    assert {MESSAGE} == {message for _, message in ended.errors.values()}
    assert {1} == {failure["attempts"] for failure in ended.failures.values()}
    assert {f"n{number}" for number in guilty} == {failure["key"] for failure in ended.failures.values()}


@pytest.mark.parametrize("how", ["loop", "sleep", "deaf", "regex"])
def test_a_hanging_item(project: Project, how: str) -> None:
    """In Python, in a system call, deaf to every signal that can be blocked, and in C code that never looks up."""
    assert_timed_out(Case(project, faults={57: how}, more=TIMEOUT).run(), (57,))


@pytest.mark.parametrize("guilty", [(10, 11), (5, 150), (0, 199)], ids=["in one span", "apart", "first and last"])
def test_several_hanging_items(project: Project, guilty: tuple[int, ...]) -> None:
    """Side by side in one span, in two workers at once, first and last: each is found, nobody else is blamed."""
    assert_timed_out(Case(project, faults=dict.fromkeys(guilty, "sleep"), more=TIMEOUT).run(), guilty)


def test_every_worker_hangs_at_once(project: Project) -> None:
    """Both workers at their first item: the run comes to its end all the same, in a few timeouts."""
    faults = {0: "loop", 1: "sleep", 2: "deaf", 3: "sleep"}
    assert_timed_out(Case(project, 4, faults=faults, more=TIMEOUT).run(), (0, 1, 2, 3))


def test_hangs_and_deaths_together(project: Project) -> None:
    """Each fails for its own reason."""
    faults = {3: "sleep", 4: "kill", 5: "raise", 60: "segfault", 61: "loop"}
    ended = Case(project, faults=faults, more=TIMEOUT).run()
    ended.assert_only({3: "Timeout", 4: "WorkerDied", 5: "ValueError", 60: "WorkerDied", 61: "Timeout"})
    assert {3: 1, 4: 2, 5: 1, 60: 2, 61: 1} == {seq: failure["attempts"] for seq, failure in ended.failures.items()}


# -- beside the template

READING = """
from chora_mp.sources import jsonl
parse = jsonl.parse

def hanging(line):
    if b'"n57"' in line: time.sleep(1000)
    return parse(line)

jsonl.parse = hanging
"""
WRITING = """
rename = os.rename

def hanging(temporary, name, **folders):
    if name == b"n57.txt": time.sleep(1000)
    return rename(temporary, name, **folders)

os.rename = hanging
"""


def test_a_hang_in_reading_a_record(project: Project) -> None:
    """One line that its parser never comes back from; who is asked for the item's name hangs at it, too."""
    ended = Case(project, plugin=PLUGIN + READING, more=TIMEOUT).run()
    ended.assert_only({57: "Timeout"})
    assert MESSAGE == ended.errors[57][1]
    assert ("data.jsonl:58", 1) == (ended.failures[57]["key"], ended.failures[57]["attempts"])


def test_a_hang_in_writing_a_document(project: Project) -> None:
    """One file that its disk never takes: its item fails, and its temporary file is cleared away."""
    assert_timed_out(Case(project, plugin=PLUGIN + WRITING, more=TIMEOUT).run(), (57,))


# -- clocks

STEPPING = """
import time
real = time.time
time.time = lambda: real() + (-86_400 * 30, 0, 86_400 * 400)[int(time.monotonic() * 20) % 3]
"""


def test_a_wall_clock_that_is_stepped(project: Project) -> None:
    """By months, back and forth, in every process, many times a second: no false timeout, and true ones as ever."""
    project.write("clock/sitecustomize.py", STEPPING)
    environment = {"PYTHONPATH": str(project.folder / "clock")}
    faults = {**dict.fromkeys(range(0, 200, 10), "work 0.02"), 57: "sleep"}
    case = Case(
        project, faults=faults, plugin=PLUGIN + WORK + "assert time.time.__name__ == '<lambda>'\n", more=TIMEOUT
    )
    assert_timed_out(case.run(environment=environment), (57,))


STOPPED_SECONDS = 3 * 0.6 + 3
"""For how long a run is stopped whose items may take 0.6 s."""


def test_a_run_that_is_stopped_for_long(project: Project) -> None:
    """Ctrl-Z, and much later `fg`: nobody fails who was in work meanwhile, and who hangs goes on hanging and does."""
    faults = {**dict.fromkeys(range(14), "work 0.1"), 3: "sleep"}
    case = Case(project, 14, faults, "limits: {timeout: 600ms}", PLUGIN + WORK)
    run = case.start("--summary", "summary.json", "-j", "2")
    run.wait_for_documents(2)
    time.sleep(0.05)  # in the midst of the next items
    run.signal(signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    assert len(case.documents()) < 10, "it was not stopped"
    run.signal(signal.SIGCONT)
    run.end().assert_only({3: "Timeout"})


STOPPING = """
import os, signal
from chora_mp import Job, batch_generate

def stop(done, total, key):
    if done == 3: os.killpg(0, signal.SIGSTOP)

result = batch_generate(Job.load("job.yaml").replace(workers=2), on_progress=stop)
print(result.successful, [item.seq for item in result.failures])
"""


def test_a_run_that_is_stopped_while_its_coordinator_is_busy(project: Project) -> None:
    """The same when the stop does not meet the coordinator waiting, but at work on what was answered."""
    case = Case(project, 10, dict.fromkeys(range(10), "work 0.08"), "limits: {timeout: 600ms}", PLUGIN + WORK)
    project.write("stopping.py", STOPPING)
    run = script(case, "stopping.py")
    leader = psutil.Process(run.pid)
    wait_for(lambda: leader.status() == psutil.STATUS_STOPPED, "the stop")
    time.sleep(STOPPED_SECONDS)
    run.signal(signal.SIGCONT)
    ended = run.end()
    ended.assert_tidy()
    assert ("10 []\n", "", 0) == (ended.out, ended.err, ended.code)


SLOWLY = """
import time
from chora_mp import Job, batch_generate

result = batch_generate(Job.load("job.yaml").replace(workers=2), on_progress=lambda *_: time.sleep(0.7))
print(result.successful, [(item.seq, item.error.type) for item in result.failures])
"""


def test_a_hang_under_a_slow_observer(project: Project) -> None:
    """Who is told of progress takes longer than the timeout: no healthy item fails of it, and a hang still does."""
    case = Case(project, 5, {0: "sleep"}, TIMEOUT, PLUGIN + WORK)
    project.write("slowly.py", SLOWLY)
    ended = script(case, "slowly.py").end()
    ended.assert_tidy()
    assert ("4 [(0, 'Timeout')]\n", "", 0) == (ended.out, ended.err, ended.code)


def script(case: Case, name: str) -> Run:
    """A script in the project's folder under way, as `Case.start` has the command."""
    process = subprocess.Popen(
        [sys.executable, name],
        cwd=case.project.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(case.temporary)},
    )
    return Run(case, process)


def test_a_slow_neighbour_of_a_hanging_item(project: Project) -> None:
    """Items that need much of their time, before, behind and beside one that hangs: untouched."""
    faults = {**dict.fromkeys(range(6), "work 0.1"), 3: "sleep"}
    case = Case(project, 6, faults, "limits: {timeout: 700ms}", PLUGIN + WORK)
    case.run().assert_only({3: "Timeout"})


# -- what a job says


def test_no_timeout(project: Project) -> None:
    """With `timeout: null` nobody is killed, however long it takes."""
    case = Case(project, 30, {7: "work 0.7"}, "limits: {timeout: null}", PLUGIN + WORK)
    assert None is Job.load(project.folder / "job.yaml").limits.timeout
    case.run().assert_only({}, code=0)


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [
        ("retries: 1, retry_on: [Timeout]", 2),
        ("retries: 1, retry_on: [ValueError]", 1),
        ("retries: 1", 1),
    ],
)
def test_timeouts_are_retried_if_asked(project: Project, errors: str, attempts: int) -> None:
    """Only where `retry_on` names them and `retries` allows."""
    more = f"{TIMEOUT}\nerrors: {{{errors}, backoff: {{min: 100ms, max: 200ms}}}}"
    ended = Case(project, 80, {57: "sleep"}, more).run()
    ended.assert_only({57: "Timeout"})
    assert attempts == ended.failures[57]["attempts"]


def test_a_hang_that_passes(project: Project) -> None:
    """The second attempt of an item that hung once is fine: nothing failed."""
    passing = """
well = fault
def fault(value):
    if value != "once": return well(value)
    try: os.mkdir(os.path.join(os.path.dirname(__file__), "flag"))
    except FileExistsError: return ""
    time.sleep(1000)
FILTERS = {"fault": fault}
"""
    more = f"{TIMEOUT}\nerrors: {{retries: 1, retry_on: [Timeout], backoff: {{min: 100ms, max: 200ms}}}}"
    Case(project, 80, {57: "once"}, more, PLUGIN + passing).run().assert_only({}, code=0)


def test_a_key_that_hangs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot tell its records' keys cannot render: that ends the run, too, after a minute or an item's time."""
    monkeypatch.setattr(chora_mp.watchdog, "START_SECONDS", 1.0)
    Case(project, 80, {57: "loop"}, TIMEOUT)
    job = Job.load(project.folder / "job.yaml").replace(key="{{ name ~ fault|fault }}")
    with pytest.raises(JobError, match="telling the keys and paths of a piece of the source takes longer than 1 s"):
        batch_generate(job)
    assert {} == project.outputs()
