"""Faults of all kinds together, at random times: `pytest -m stress`; what fails can be run again by its seed."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from faults import Case, Ended, Run

if TYPE_CHECKING:
    from tests.conftest import Project

pytestmark = pytest.mark.stress

DEADLY = ("kill", "segfault", "abort", "exit 0", "exit 3", "terminate")
HANGING = ("loop", "sleep", "deaf", "regex")
RAISING = {
    "raise": "ValueError",
    "system exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "recurse": "RecursionError",
    "no memory": "MemoryError",
    "two arguments": "TwoArguments",
    "unpicklable": "Unpicklable",
    "huge": "MemoryError",
    "grow": "MemoryError",
}
ERRORS = {**dict.fromkeys(DEADLY, "WorkerDied"), **dict.fromkeys(HANGING, "Timeout"), **RAISING}
MORE = "limits: {timeout: 500ms, memory_per_item: 200MB}"


def drawn(draw: random.Random, count: int) -> dict[int, str]:
    """Faults of some of so many records."""
    numbers = draw.sample(range(count), draw.randrange(0, min(count, 12)))
    return {number: draw.choice([*ERRORS]) for number in numbers}


def seen(draw: random.Random, run: Run) -> Ended:
    """Something that befalls a run at a random time, or nothing."""
    what = draw.choice(("nothing", "worker", "worker", "server", "signal", "coordinator", "group"))
    time.sleep(draw.random() * 1.5)
    if run.process.poll() is None:
        match what:
            case "worker":
                for worker in run.workers()[:1]:
                    with contextlib.suppress(psutil.Error):
                        worker.kill()
            case "server":
                for process in run.others():
                    with contextlib.suppress(psutil.Error):
                        if "forkserver" in " ".join(process.cmdline()):
                            process.kill()
            case "signal":
                run.signal(draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)), group=draw.random() < 0.5)
            case "coordinator" | "group":
                run.signal(signal.SIGKILL, group=what == "group")
    return run.end()


@pytest.mark.parametrize("seed", range(60))
def test_any_faults_at_any_time(project: Project, seed: int) -> None:
    """Whatever befell a run, the next one finishes it: the guilty failed as they should, everything else is there."""
    draw = random.Random(seed)
    count = draw.randrange(1, 1500)
    faults = drawn(draw, count)
    case = Case(project, count, faults, MORE)
    done = seen(draw, case.start("--summary", "summary.json", "-j", str(draw.randrange(1, 5))))
    killed = done.code == -signal.SIGKILL
    if not killed:
        done.assert_tidy()
    assert done.code in (0, 1, 130, -signal.SIGKILL)
    again = case.run("-j", str(draw.randrange(1, 5)))
    guilty = {number: ERRORS[fault] for number, fault in faults.items()}
    again.assert_only(guilty, code=1 if guilty else 0)
