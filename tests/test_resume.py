"""Resume: a run killed at any instant is finished by running it again, and what it leaves is as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from chora_mp import Job, batch_generate, plan
from chora_mp.slots import Slot, read_notes
from chora_mp.upkeep import verify

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Project

BOUND = 60.0
COUNT = 3000


def documents(project: Project) -> dict[str, str]:
    """Path and text of every file in the output folder, hidden ones too, but for the state folder."""
    return {path: text for path, text in project.outputs().items() if not path.startswith(".chora-mp/")}


def rows(project: Project) -> list[tuple[Any, ...]]:
    """What the ledger says of every output that does not depend on when and where it was written."""
    with sqlite3.connect(project.out / ".chora-mp" / "ledger.db") as db:
        found = db.execute("SELECT key, path, input, digest, size, status FROM outputs ORDER BY key, path").fetchall()
    db.close()
    return found


def big_job(project: Project) -> Path:
    """A job of a few thousand items, one in a hundred of which fails."""
    project.records(*({"name": f"n{number}", "folder": f"f{number % 7}", "v": number % 100} for number in range(COUNT)))
    template = "{{ name }} {{ 1 // v }}{% for i in range(20) %}{{ i }}{% endfor %}\n"
    return project.job('key: "{{ name }}"', template=template, path="{{ folder }}/{{ name }}.txt")


def start(project: Project, *arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "chora_mp", "render", "job.yaml", "-q", *arguments],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill the whole process group after so many seconds; whether it was still at work."""
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(BOUND)
        until(lambda: not any(alive(pid) for pid in family))
        return True


def alive(pid: int) -> bool:
    """Whether a process is there and not only its last word."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Any) -> None:
    """Wait for a condition, within bounds."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def killed_and_finished(project: Project, seed: int, kills: int) -> int:
    """Kill runs at random instants, finish each, and compare with an undisturbed run; how many were at work."""
    draw = random.Random(seed)
    big_job(project)
    job = Job.load(project.folder / "job.yaml")
    batch_generate(job)
    expected, told = documents(project), rows(project)
    took = duration_of_a_first_run(project)
    hits = 0
    for _ in range(kills):
        if draw.random() < 0.7:
            remove(project.out)
        hits += kill_after(start(project, "--force"), draw.uniform(0, took))
        assert set() == {text for path, text in documents(project).items() if expected.get(path) not in (None, text)}
        result = batch_generate(job)
        assert (COUNT, 30) == (result.successful + result.unchanged + result.failed, result.failed)
        assert (expected, told) == (documents(project), rows(project))
        assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(project.out / ".chora-mp"))
    return hits


def duration_of_a_first_run(project: Project) -> float:
    """Seconds from the start of the command to its end."""
    remove(project.out)
    since = time.monotonic()
    start(project).wait(BOUND)
    return time.monotonic() - since


def remove(folder: Path) -> None:
    """Remove a folder and all that is in it."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_killed_runs_are_finished(project: Project) -> None:
    """Killed at random instants, whole group and all, and run again: files and ledger are those of a run in peace."""
    assert killed_and_finished(project, seed=20, kills=8) >= 1


@pytest.mark.slow
def test_a_hundred_killed_runs_are_finished(project: Project) -> None:
    """The same a hundred times, at other instants each time the test is run."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    assert killed_and_finished(project, seed=seed, kills=100) >= 50


def test_what_a_killed_run_had_written_is_not_rendered_again(project: Project) -> None:
    """The ledger has what was done until the kill, and the next run does the rest."""
    big_job(project)
    plugin = "import time\ndef slow(v):\n    time.sleep(0.002)\n    return v\nFILTERS = {'slow': slow}\n"
    project.write("gate.py", plugin)
    project.job('key: "{{ name }}"\nplugins: [gate.py]', template="{{ name | slow }}", path="{{ name }}.txt")
    process = start(project)
    until(lambda: len(list(project.out.glob("*.txt"))) > 500)
    assert kill_after(process, 0.001)
    planned = plan(Job.load(project.folder / "job.yaml"))
    assert 300 < planned.unchanged < COUNT
    result = batch_generate(Job.load(project.folder / "job.yaml"))
    assert (planned.unchanged, COUNT - planned.unchanged) == (result.unchanged, result.successful)


def test_temporary_files_of_dead_runs_are_swept(project: Project) -> None:
    """What a killed worker had begun goes with the next run; what merely looks like it stays."""
    project.records(*({"name": f"n{number}"} for number in range(200)))
    project.write("stop.py", "import time\ndef halt(v):\n    time.sleep(100)\nFILTERS = {'halt': halt}\n")
    project.job("plugins: [stop.py]", template="{{ name | halt }}", path="a/{{ name }}.txt")
    process = start(project, "-j", "1")
    until(lambda: any(note.pid for path in project.out.glob(".chora-mp/run-*/slots") for note in read_notes(str(path))))
    run = next(project.out.glob(".chora-mp/run-*"))
    assert kill_after(process, 0.001)
    (project.out / "a").mkdir(exist_ok=True)
    mine, foreign = project.out / "a" / f".chora-{run.name[-6:]}-0", project.out / "a" / ".chora-abcdef-0"
    mine.write_text("half a docum")
    foreign.write_text("somebody else's")
    slot = Slot(str(run / "slots"), 0)  # as the worker would have noted when it began to write
    slot.entering(os.fsencode(project.out / "a"))
    slot.close()
    project.job(template="{{ name }}", path="a/{{ name }}.txt")
    batch_generate(Job.load(project.folder / "job.yaml"))
    assert (False, True, False) == (mine.exists(), foreign.exists(), run.exists())
    assert ("a/.chora-abcdef-0",) == verify(Job.load(project.folder / "job.yaml")).unknown
