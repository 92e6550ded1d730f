"""The state folder: one run at a time, whatever becomes of it; what dead runs left goes; what came to nothing leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from chora_mp import ChoraError, Job, LedgerError, OutputError, batch_generate
from chora_mp.slots import Slot
from chora_mp.state import held, locked, run_name, without_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Project

BOUND = 60.0

WAIT = """\
import os, time


def wait(name):
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return name


FILTERS = {"wait": wait}
"""


def make(project: Project, template: str = "{{ name }}", more: str = "") -> None:
    """A job of two records."""
    project.records({"name": "a"}, {"name": "b"})
    project.job(more, template=template)


def render(project: Project) -> tuple[int, int]:
    """One run; how many items were rendered, and how many were up to date."""
    result = batch_generate(Job.load(project.folder / "job.yaml").replace(workers=0))
    return result.successful, result.unchanged


def refused(project: Project) -> int:
    """What the command would exit with for a run that cannot go on."""
    with pytest.raises(ChoraError) as caught:
        render(project)
    return caught.value.exit_code


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time stamp of every file and folder below."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for name, path in found.items()
    }


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, within bounds."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def waiting(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose first item waits for a file `go`; what is left of it is ended."""
    make(project, "{{ name | wait }}", "plugins: [wait.py]")
    project.write("wait.py", WAIT)
    command = [sys.executable, "-m", "chora_mp", "render", "job.yaml", "-q", "-j", "1"]
    run = subprocess.Popen(command, cwd=project.folder, stdin=subprocess.DEVNULL, start_new_session=True)
    until((project.folder / "begun").exists)
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    yield run
    project.write("go", "")
    run.wait(BOUND)
    psutil.wait_procs(family, BOUND)


# ---- one run at a time -------------------------------------------------------------------------------------


def test_who_holds_it(project: Project, waiting: subprocess.Popen[bytes]) -> None:
    """Who is refused is told the holder's pid and when it began; the holder's file goes with it."""
    begun = datetime.now(UTC)
    code, _, stderr = project.render()
    found = re.fullmatch(
        r"chora-mp: out: another run is at work here \(pid (\d+), since (\S+)\); wait for it, or end it\n", stderr
    )
    assert (2, True) == (code, found is not None), stderr
    assert found is not None
    assert waiting.pid == int(found[1])
    assert abs((begun - datetime.fromisoformat(found[2])).total_seconds()) < BOUND
    project.write("go", "")
    assert 0 == waiting.wait(BOUND)
    assert {"a.txt": "a", "b.txt": "b"} == project.outputs()
    assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(project.out / ".chora-mp"))


def test_the_lock_of_a_killed_holder(project: Project, waiting: subprocess.Popen[bytes]) -> None:
    """When its holder is killed the folder is free: the next run goes ahead, and clears up after it."""
    state = project.out / ".chora-mp"
    assert {"holder.json", "lock"} < {*os.listdir(state)}
    assert 1 == len([*state.glob("run-*")])
    waiting.send_signal(signal.SIGKILL)
    waiting.wait(BOUND)
    make(project)
    assert (2, 0) == render(project)
    assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(state))
    assert (0, 2) == render(project)


def test_a_holder_that_does_not_say(project: Project, waiting: subprocess.Popen[bytes]) -> None:
    """Without the holder's file, or with nonsense in it, the lock counts all the same."""
    for content in (None, "{}", "[1]"):
        holder = project.out / ".chora-mp/holder.json"
        holder.unlink(missing_ok=True)
        if content is not None:
            holder.write_text(content)
        code, _, stderr = project.render()
        assert (2, "chora-mp: out: another run is at work here; wait for it, or end it\n") == (code, stderr)


def test_a_stale_holder_file_is_no_lock(project: Project) -> None:
    """The kernel's lock counts, not what a file says."""
    make(project)
    render(project)
    project.write("out/.chora-mp/holder.json", json.dumps({"pid": os.getpid(), "started": "2026-01-01T00:00:00+00:00"}))
    assert (0, 2) == render(project)
    assert not (project.out / ".chora-mp/holder.json").exists()


def test_one_after_the_other_in_one_process(tmp_path: Path) -> None:
    """A second run in the same process is refused while the first holds the folder, and may go ahead after it."""
    output = str(tmp_path / "out")
    with held(output, run_name()) as state:
        with pytest.raises(LedgerError, match=rf"another run is at work here \(pid {os.getpid()}, since "), held(output, run_name()):  # fmt: skip
            pytest.fail("two hold it")
        assert os.path.isdir(state.scratch)
    with held(output, run_name()):
        pass


def test_a_run_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    """Who comes an instant too early need not come again."""
    output, state = str(tmp_path), str(tmp_path / ".chora-mp")
    os.mkdir(state)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(output, state):
            entered.set()
            leave.wait(0.1)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(BOUND)
    with locked(output, state):
        assert os.path.exists(os.path.join(state, "lock"))
    thread.join()


def test_only_one_of_many_holds_it(tmp_path: Path) -> None:
    """Of many that take and leave the folder at once, runs that come to nothing among them, never two hold it."""
    script = (
        "import os, sys, time\n"
        "from chora_mp.state import held, run_name\n"
        "from chora_mp.errors import LedgerError\n"
        "done = 0\n"
        "end = time.monotonic() + 1.5\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        with held(sys.argv[1], run_name()):\n"
        "            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))\n"  # fails where another is inside
        "            time.sleep(0.001)\n"
        "            os.unlink(sys.argv[2])\n"
        "            done += 1\n"
        "    except LedgerError:\n"
        "        pass\n"
        "print(done)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(tmp_path / "inside")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    found = [run.communicate(timeout=BOUND) for run in runs]
    assert [""] * 4 == [stderr for _, stderr in found]
    assert sum(int(stdout) for stdout, _ in found) > 20
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- what dead runs left -----------------------------------------------------------------------------------


def test_what_dead_runs_left_goes(project: Project) -> None:
    """Their folders, and the temporary files where their workers were last writing; what is not theirs stays."""
    make(project)
    render(project)
    state = project.out / ".chora-mp"
    scratch = state / "run-20260101T000000Z-abc123"
    (scratch / "below").mkdir(parents=True)
    (scratch / "below" / "spool").write_text("x")
    (project.out / "sub").mkdir()
    slot = Slot(str(scratch / "slots"), 0)
    slot.entering(os.fsencode(project.out / "sub"))
    slot.close()
    mine, others = (
        project.out / "sub/.chora-abc123-0",
        [project.out / "sub/.chora-abc124-0", project.out / ".chora-abc123-0"],
    )
    for path in (mine, *others):
        path.write_text("half a docum")
    for number, content in enumerate((b"nonsense", b"\xff" * 20_000, b"\7" * 64 + bytes([200, 0, 65, 0]) * 5000)):
        (state / f"run-nonsense-{number}").mkdir()
        (state / f"run-nonsense-{number}" / "slots").write_bytes(content)
    (state / "mine").write_text("mine")
    assert (0, 2) == render(project)
    assert ["ledger.db", "ledger.sha256", "lock", "mine"] == sorted(os.listdir(state))
    assert [False, True, True] == [path.exists() for path in (mine, *others)]


# ---- runs that come to nothing -----------------------------------------------------------------------------


def _syntax_error(project: Project) -> None:
    project.write("templates/page.txt.j2", "{% if %}")


def _clash(project: Project) -> None:
    project.records({"name": "a"}, {"name": "a"})


def _broken_plugin(project: Project) -> None:
    project.write("broken.py", "raise ValueError('no')\n")
    project.job("plugins: [broken.py]")


def _broken_source(project: Project) -> None:
    project.write("data.json", "[{")
    project.job(source="data.json")


FAULTS = [_syntax_error, _clash, _broken_plugin, _broken_source]


@pytest.mark.parametrize(("break_it", "jobs"), [*((fault, "0") for fault in FAULTS), (_syntax_error, "1")])
def test_a_run_that_fails_before_it_renders(project: Project, break_it: Callable[[Project], Any], jobs: str) -> None:
    """It leaves no folder that it made itself, however deep."""
    make(project)
    break_it(project)
    before = {*os.listdir(project.folder)}
    for options in ((), ("-o", "deep/er/out")):
        code, _, stderr = project.render("-j", jobs, *options)
        assert (2, before) == (code, {*os.listdir(project.folder)}), stderr


@pytest.mark.parametrize("break_it", FAULTS)
def test_a_run_that_fails_in_a_folder_that_existed(project: Project, break_it: Callable[[Project], Any]) -> None:
    """The folder stays as it was, empty or not."""
    make(project)
    break_it(project)
    project.out.mkdir()
    assert 2 == refused(project)
    assert [] == os.listdir(project.out)
    project.write("out/mine/text", "mine")
    before = {name: kept[0] for name, kept in snapshot(project.out).items()}
    assert 2 == refused(project)
    assert before == {name: kept[0] for name, kept in snapshot(project.out).items()}


@pytest.mark.parametrize("break_it", FAULTS)
def test_a_run_that_fails_beside_a_ledger(project: Project, break_it: Callable[[Project], Any]) -> None:
    """Documents, ledger and seal are what they were, and once the fault is mended all is up to date."""
    make(project)
    render(project)
    before = {name: kept for name, kept in snapshot(project.out).items() if name not in {".chora-mp", ".chora-mp/lock"}}
    break_it(project)
    assert 2 == refused(project)
    after = {name: kept for name, kept in snapshot(project.out).items() if name not in {".chora-mp", ".chora-mp/lock"}}
    assert before == after
    make(project)
    assert (0, 2) == render(project)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where a folder should be: an error that names it, and nothing is left of what was made on the way."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="the output folder cannot be written to: Not a directory"), held(str(tmp_path / "file" / "out"), run_name()):  # fmt: skip
        pytest.fail("it was made")
    assert ["file"] == os.listdir(tmp_path)


def test_without_an_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that writes nothing has a scratch folder elsewhere, which goes, also when the run fails."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="no"), without_output(run_name()) as state:  # noqa: PT012
        assert (None, True) == (state.folder, os.path.isdir(state.scratch))
        raise ValueError("no")
    assert [] == os.listdir(tmp_path)


def test_a_state_folder_that_is_gone(project: Project) -> None:
    """Without it nothing is known: all is rendered again, and no file changes."""
    import shutil

    make(project)
    render(project)
    before = {name: kept for name, kept in snapshot(project.out).items() if name.endswith(".txt")}
    shutil.rmtree(project.out / ".chora-mp")
    assert (2, 0) == render(project)
    assert before == {name: kept for name, kept in snapshot(project.out).items() if name.endswith(".txt")}
