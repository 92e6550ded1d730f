"""Memory: a cap fails the greedy item alone, workers that grew are replaced, seats are closed where it is short."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from faults import Case

import chora_mp.batch
from chora_mp import Job, batch_generate, batch_generate_stream
from chora_mp.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Project

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux caps the memory of a process")

CAP = "limits: {memory_per_item: 200MB, timeout: 20s}"


@linux
@pytest.mark.parametrize("what", ["huge", "grow"])
def test_a_greedy_item_fails_alone(project: Project, what: str) -> None:
    """A string of 2 GB at once, or ten megabytes after the other: a MemoryError, and no worker dies."""
    done = Case(project, 120, {57: what, 58: what, 100: what}, CAP).run()
    done.assert_only(dict.fromkeys((57, 58, 100), "MemoryError"))
    assert {1} == {failure["attempts"] for failure in done.failures.values()}


@linux
def test_the_cap_is_for_items_alone(project: Project) -> None:
    """Looking at twenty thousand records takes more than a single one may; that is nobody's fault."""
    case = Case(project, 20_000, {57: "grow"}, "limits: {memory_per_item: 2MB, timeout: 20s}")
    case.run().assert_only({57: "MemoryError"})


@linux
def test_a_big_record_fails_alone(project: Project) -> None:
    """One of 30 MB under a cap of 20: it can be read, but nothing can be made of it."""
    case = Case(project, 200, {57: "x" * 30_000_000}, "limits: {memory_per_item: 20MB, timeout: 20s}")
    done = case.run()
    done.assert_only({57: "MemoryError"})
    assert "limits.memory_per_item allows 20 MB" in done.errors[57][1]


@linux
def test_a_big_record_that_is_passed_fails_alone(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """The same where records travel inside the spans."""
    Case(project, 1)
    job = Job.load(project.folder / "job.yaml")
    job = job.replace(limits=replace(job.limits, memory_per_item=20_000_000))
    records = ({"name": f"n{n}", "number": n, "fault": "", "more": "x" * (n == 57) * 30_000_000} for n in range(200))
    found = {item.seq: item for item in batch_generate_stream(job, records)}
    assert (200, ["failed"]) == (len(found), [found[57].status])
    assert {57} == {seq for seq, item in found.items() if item.error}
    assert "Traceback" not in capfd.readouterr().err


@linux
def test_what_others_have_left_is_nobodys_fault(project: Project) -> None:
    """An item that needs most of the cap is rendered, though the one before it has kept a good part of it."""
    plugin = """
kept = []
def fault(value):
    if value == "keep": kept.append("x" * 90_000_000)
    if value == "need": return ("y" * 150_000_000)[:0]
    return ""
FILTERS = {"fault": fault}
"""
    case = Case(project, 40, {10: "keep", 11: "need", 20: "keep", 22: "need"}, CAP, plugin)
    case.run("-j", "1").assert_only({}, code=0)


@linux
def test_a_greedy_template_fails_its_item(project: Project) -> None:
    """What the template language itself can ask for, with the number from the record."""
    template = "{{ name }} is {% for n in range(20) %}{{ n * number }},{% endfor %}{{ fault * 700000000 }}"
    done = Case(project, 60, {30: "x", 31: "x"}, CAP, template=template).run()
    done.assert_only(dict.fromkeys((30, 31), "MemoryError"))


@linux
def test_a_template_that_is_greedy_when_compiled(project: Project) -> None:
    """Constants are folded by a worker, under its cap; what cannot be folded is an item's, and fails it."""
    case = Case(project, 20, more=CAP, template="{{ 'x' * 700000000 }}")
    done = case.run()
    done.assert_only(dict.fromkeys(range(20), "MemoryError"))


@linux
def test_the_cap_is_a_workers_alone(project: Project) -> None:
    """Neither reading the source nor rendering inline is under it."""
    case = Case(project, 20, more=CAP)
    rows = "[{'name': f'n{n}', 'number': n, 'fault': ''} for n in range(20)]"
    project.write("rows.py", f"def rows():\n    held = 'x' * 400_000_000\n    return {rows}\n")
    more = f'key: "{{{{ name }}}}"\nplugins: [faults.py]\n{CAP}'
    case.project.job(more, source="{python: 'rows.py:rows'}", template=case.template)
    case.run().assert_only({}, code=0)


LEAK = """
held = []

def leak(value):
    held.append(bytearray(8_000_000))
    return ""

FILTERS = {"fault": leak}
"""


@linux
def test_a_worker_that_has_grown_is_replaced(project: Project) -> None:
    """A filter that keeps 8 MB an item: 60 items need 480 MB, and no worker may take more than 200; none fails."""
    done = Case(project, 60, more=CAP, plugin=LEAK).run("-j", "1")
    done.assert_only({}, code=0)
    (note,) = done.summary["notes"]
    times = int(note.split()[0])
    assert 3 <= times <= 8
    assert note.endswith("workers were replaced, having grown too large")


@linux
def test_a_worker_may_grow_by_its_share(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is said of an item's memory: by an even share of what was free at the start."""
    Case(project, 60, plugin=LEAK)
    monkeypatch.setattr(chora_mp.batch.Machine, "here", lambda: Machine(2, 400_000_000))
    result = batch_generate(Job.load(project.folder / "job.yaml").replace(workers=2))
    assert (60, 0) == (result.successful, result.failed)
    assert any("replaced" in note for note in result.notes)


# -- a machine that runs short


class Weather:
    """A machine whose free memory is as told, whoever asks."""

    def __init__(self) -> None:
        self.free = 20 * 10**9

    def here(self) -> Machine:
        """The machine now."""
        return Machine(4, self.free)


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    """A machine to tell what it has."""
    found = Weather()
    monkeypatch.setattr(chora_mp.batch, "Machine", found)
    return found


NAP = "import time\ndef nap(value):\n    time.sleep(0.02)\n    return ''\nFILTERS = {'fault': nap}\n"


def workers() -> int:
    """How many processes the fork servers of this process have forked."""
    count = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "forkserver" in " ".join(child.cmdline()):
                count += sum(one.status() != psutil.STATUS_ZOMBIE for one in child.children())
    return count


@pytest.mark.parametrize("free", [700_000_000, 100_000_000], ids=["short", "critical"])
def test_seats_are_closed_while_memory_is_short(project: Project, weather: Weather, free: int) -> None:
    """Down to one, and back when there is memory again; nothing is lost, nobody is blamed, and the summary says so."""
    Case(project, 700, plugin=NAP)
    job = Job.load(project.folder / "job.yaml").replace(workers=4)
    told: list[str] = []
    observers = [lambda event: told.append(event.message) if hasattr(event, "message") else None]
    stream = batch_generate_stream(job, observers=observers)
    seen: list[int] = []
    least, most = 9, 0
    for item in stream:
        seen.append(item.seq)
        assert ("rendered", 1) == (item.status, item.attempts)
        if len(seen) == 100:
            weather.free = free
        if 100 < len(seen) < 400 or weather.free == free:
            least = min(least, workers())
            if least == 1:
                weather.free = 20 * 10**9
        elif least == 1:
            most = max(most, workers())
    assert list(range(700)) == sorted(seen)
    assert 1 == least
    assert most > 1
    assert told[0].startswith(f"memory is running short ({free / 10**6:,.0f} MB free): at most ")
    assert "there is more memory again (20,000 MB free): at most 2 of 4 workers" in told
    assert 700 == len([path for path in project.outputs() if path.startswith("n")])


def test_the_summary_tells_of_a_shortage(project: Project, weather: Weather) -> None:
    """A run that was short of memory from its first moments has one worker, and says why."""
    Case(project, 200, plugin=NAP)

    def starve(done: int, total: int | None, key: str) -> None:
        weather.free = 10_000_000

    job = Job.load(project.folder / "job.yaml").replace(workers=4)
    result = batch_generate(job, on_progress=starve)
    assert (200, 0) == (result.successful, result.failed)
    assert ("memory ran short: at times there was room for no more than 1 of 4 workers",) == result.notes


@pytest.fixture
def narrow_group() -> Iterator[Path]:
    """A control group with 600 MB of memory, where this machine lets us make one."""
    mine = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "")
    folder = Path("/sys/fs/cgroup/memory" + mine.rpartition(":")[2]) / f"chora-mp-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text("600000000")
    except OSError as error:
        pytest.skip(f"no control group to be had: {error}")
    yield folder
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()


def test_a_real_group_runs_short(project: Project, narrow_group: Path) -> None:
    """In a control group that is too narrow for four greedy workers: they are closed before the kernel kills."""
    plugin = """
import time
taken = []
def take(value):
    taken.append(bytearray(5_000_000))
    for place in range(0, 5_000_000, 4096): taken[-1][place] = 1
    time.sleep(0.1)
    return ""
FILTERS = {"fault": take}
"""
    case = Case(project, 160, plugin=plugin)

    def enter() -> None:
        (narrow_group / "cgroup.procs").write_text(str(os.getpid()))

    done = case.start("--summary", "summary.json", "-j", "4", preexec_fn=enter).end()
    done.assert_only({}, code=0)
    assert done.summary["notes"]
    kills = (narrow_group / "memory.oom_control").read_text()
    assert "oom_kill 0" in kills


@linux
def test_a_process_knows_what_it_takes() -> None:
    """Fifty megabytes more, fifty megabytes less; a cap is for what comes on top, and can be lifted."""
    code = """
from chora_mp.memory import Allowance
allowance = Allowance(80_000_000, 30_000_000)
allowance.begin()
held = bytearray(50_000_000)
assert 45_000_000 < allowance.grown() < 60_000_000, allowance.grown()
assert allowance.is_over()
more = None
with allowance.capped():
    small = bytearray(10_000_000)
    try:
        more = bytearray(60_000_000)
    except MemoryError:
        pass
assert more is None
more = bytearray(60_000_000)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
