"""A coordinator that is killed takes its workers along, whatever they do, and the next run waits for them."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from faults import Case, wait_for

from chora_mp.slots import Slot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Project

# What a worker may be at: nothing that comes back by itself.
BUSY = """
import pathlib, re, signal, time

def busy(value):
    if value: pathlib.Path(f"busy-{value}").touch()
    match value:
        case "sleep": time.sleep(1000)
        case "loop":
            while True: pass
        case "regex": re.match(r"(a+)+$", "a" * 64 + "b")
        case "deaf":
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
            while True: time.sleep(1000)
    return ""

FILTERS = {"fault": busy}
"""


@pytest.mark.parametrize("what", ["sleep", "loop", "regex", "deaf"])
@pytest.mark.parametrize("group", [True, False], ids=["group", "coordinator"])
def test_workers_end_with_the_coordinator(project: Project, what: str, *, group: bool) -> None:
    """Within a second, by themselves; the next run clears up after them and goes on."""
    case = Case(project, 60, {30: what}, "limits: {timeout: 30s}", BUSY)
    run = case.start("-j", "2")
    run.wait_for((project.folder / f"busy-{what}").exists, "a busy worker")
    assert run.workers()
    run.signal(signal.SIGKILL, group=group)
    wait_for(lambda: not run.others(), "the end of all processes", 1.0)
    run.process.communicate()
    again = case.run("--timeout", "300ms")
    again.assert_only({30: "Timeout"})


def test_a_stopped_worker_ends_too(project: Project) -> None:
    """One that was held by Ctrl-Z or a debugger."""
    case = Case(project, 60, {30: "sleep"}, plugin=BUSY)
    run = case.start("-j", "2")
    run.wait_for((project.folder / "busy-sleep").exists, "a busy worker")
    for worker in run.workers():
        worker.suspend()
    run.signal(signal.SIGKILL, group=False)
    wait_for(lambda: not run.others(), "the end of all processes", 1.0)
    run.process.communicate()


def test_workers_end_while_the_source_is_read(project: Project) -> None:
    """Spooling, too, is a worker's."""
    case = Case(project, plugin=BUSY)
    project.write("rows.py", "import pathlib\ndef rows():\n    pathlib.Path('reading').touch()\n    while True: pass\n")
    case.project.job('key: "{{ name }}"\nplugins: [faults.py]', source="{python: 'rows.py:rows'}")
    run = case.start("-j", "2")
    run.wait_for((project.folder / "reading").exists, "the source")
    run.signal(signal.SIGKILL, group=False)
    wait_for(lambda: not run.others(), "the end of all processes", 1.0)
    run.process.communicate()


def test_nothing_is_left_of_a_group_that_was_killed(project: Project) -> None:
    """After the next run no semaphore, no socket and no temporary file is left of the one that was killed."""
    before = semaphores()
    case = Case(project, 60, {30: "sleep"}, "limits: {timeout: 30s}", BUSY)
    run = case.start("-j", "2")
    run.wait_for((project.folder / "busy-sleep").exists, "a busy worker")
    run.signal(signal.SIGKILL)
    wait_for(lambda: not run.others(), "the end of all processes", 1.0)
    run.process.communicate()
    case.run("--timeout", "300ms").assert_only({30: "Timeout"})
    assert set() == semaphores() - before


def semaphores() -> set[str]:
    """The semaphores of multiprocessing that have a name."""
    return (
        {name for name in os.listdir("/dev/shm") if name.startswith("sem.mp-")} if os.path.isdir("/dev/shm") else set()
    )


def left_by_a_killed_run(project: Project) -> Path:
    """A run's folder as a coordinator that was killed leaves it; its file of slots."""
    scratch = project.out / ".chora-mp" / "run-20260101T000000Z-abcdef"
    scratch.mkdir(parents=True)
    slots = scratch / "slots"
    slot = Slot(str(slots), 0)
    slot.start(4711)
    slot.entering(os.fsencode(project.out))
    slot.close()
    (project.out / ".chora-abcdef-0").write_text("half a docu")
    return slots


def test_a_new_run_waits_for_the_workers_of_the_last(project: Project) -> None:
    """It touches nothing as long as one of them holds its share of the lock."""
    case = Case(project, 20)
    slots = left_by_a_killed_run(project)
    with slots.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        run = case.start("--summary", "summary.json", "-j", "2")
        time.sleep(1.5)
        assert (None, True) == (run.process.poll(), (project.out / ".chora-abcdef-0").exists())
        assert {".chora-abcdef-0"} == {*case.documents()}
    run.end().assert_only({}, code=0)


def test_workers_that_do_not_end_are_named(project: Project) -> None:
    """After some seconds the new run gives up and says which processes are in its way."""
    case = Case(project, 20)
    slots = left_by_a_killed_run(project)
    with slots.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        done = case.run()
        assert 2 == done.code
        assert "out: workers of a run that was killed are still at work here (pid 4711); end them, or wait" in done.err
    assert {".chora-abcdef-0"} == {*case.documents()}


def test_a_worker_holds_its_share_until_it_has_ended(tmp_path: Path) -> None:
    """Of two workers the last one counts."""
    from chora_mp.slots import wait_for_workers

    path = str(tmp_path / "slots")
    assert wait_for_workers(path, 0)
    pids = []
    for number in range(2):
        if not (pid := os.fork()):
            Slot(path, number, shared=True).start(os.getpid())
            time.sleep(1000)
        pids.append(pid)
    wait_for(lambda: not wait_for_workers(path, 0) if os.path.exists(path) else False, "the workers")
    os.kill(pids[0], signal.SIGKILL)
    os.waitpid(pids[0], 0)
    time.sleep(0.1)
    assert not wait_for_workers(path, 0)
    threading.Timer(0.5, os.kill, (pids[1], signal.SIGKILL)).start()
    assert wait_for_workers(path, 10)
    os.waitpid(pids[1], 0)
