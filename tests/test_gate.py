"""The gate: in any window of T seconds at most floor(rate * T) + 1 items begin, in whatever process or thread."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from faults import wait_for
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.gate import Gate, gate_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Project

BOUND = 30.0
LATE = 0.002
"""Seconds by which a process may be late to note that it has begun."""


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now


def begun(gate: Gate, clock: Clock, steps: list[float]) -> list[float]:
    """When items began that knock once after each step of the clock."""
    times = []
    for step in steps:
        clock.now += step
        if not gate.knock():
            times.append(clock.now)
    return times


def most_in_windows(times: list[float], rate: float, late: float = 0.0) -> Iterator[tuple[int, int]]:
    """How many began from each beginning to each later one, and how many may: floor(rate * T) + 1."""
    times = sorted(times)
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            yield last - first + 1, math.floor(rate * (times[last] - since + late) + 1e-9) + 1


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a gate's page is."""
    return gate_path(str(tmp_path), "a generator")


def test_no_saving_up(path: str) -> None:
    """After a pause of any length one may begin, and the next one no sooner than 1/rate after it."""
    gate = Gate(path, 10.0, clock := Clock())
    for _ in range(3):
        clock.now += 3600.0
        assert 0.0 == gate.knock()
        assert 0.1 <= gate.knock() < 0.102
        clock.now += 0.0999
        assert 0.0 < gate.knock() < 0.002
    gate.let_go()


@given(
    rate=st.floats(0.01, 5000.0),
    steps=st.lists(st.one_of(st.floats(0.0, 0.3), st.floats(0.0, 100.0), st.just(0.0)), max_size=60),
)
def test_windows(tmp_path_factory: pytest.TempPathFactory, rate: float, steps: list[float]) -> None:
    """Whenever they knock, no window holds more than it may, and the first one never waits."""
    folder = tmp_path_factory.mktemp("gate")
    clock = Clock()
    gates = [Gate(gate_path(str(folder), "g"), rate, clock) for _ in range(2)]
    times = [time for number, step in enumerate(steps) for time in begun(gates[number % 2], clock, [step])]
    for gate in gates:
        gate.let_go()
    assert all(many <= allowed for many, allowed in most_in_windows(times, rate))
    assert bool(steps) == bool(times)


@given(rate=st.floats(0.01, 5000.0), pauses=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20))
def test_who_waits_as_told_gets_in(tmp_path_factory: pytest.TempPathFactory, rate: float, pauses: list[float]) -> None:
    """After the seconds that it was told nobody waits any longer, but for what a float rounds away."""
    clock = Clock()
    gate = Gate(gate_path(str(tmp_path_factory.mktemp("gate")), "g"), rate, clock)
    for pause in pauses:
        clock.now += pause
        clock.now += gate.knock() + 1e-9
        gate.knock()
        clock.now += gate.knock() + 1e-9
        assert 0.0 == gate.knock()
    gate.let_go()


def test_names_have_gates_of_their_own(tmp_path: Path) -> None:
    """Two generators never wait for each other, whatever their names are made of."""
    names = ["a", "A", "a/b", "a b", "ä", ".."]
    assert len(names) == len({gate_path(str(tmp_path), name) for name in names})
    gates = [Gate(gate_path(str(tmp_path), name), 0.001) for name in names]
    assert [0.0] * len(names) == [gate.knock() for gate in gates]
    for gate in gates:
        gate.let_go()


# -- hold and close


@pytest.mark.parametrize("rate", [None, 1000.0])
def test_hold(path: str, rate: float | None) -> None:
    """Nobody begins before the time is over, in whatever process; a shorter wish does not shorten a longer one."""
    clock = Clock()
    mine, other = (Gate(path, rate, clock) for _ in range(2))
    mine.hold(5.0)
    other.hold(1.0)
    assert (5.0, 5.0) == (pytest.approx(mine.knock()), pytest.approx(other.knock()))
    clock.now += 4.99
    assert 0.0 < other.knock() <= 0.011
    clock.now += 0.011
    assert 0.0 == other.knock()
    mine.let_go()
    other.let_go()


@pytest.mark.parametrize("rate", [None, 0.001, 1000.0])
def test_nobody_begins_after_the_end(path: str, rate: float | None) -> None:
    """A closed gate stays closed, also for those that come later and for those that were told to wait."""
    mine, other = Gate(path, rate), Gate(path, rate)
    mine.hold(1000.0)
    mine.close()
    late = Gate(path, rate)
    for gate in (mine, other, late):
        assert math.inf == gate.knock()
        assert gate.wait(lambda _: None) is False
        gate.let_go()


@pytest.mark.parametrize("rate", [None, 0.001])
def test_close_ends_those_who_wait(path: str, rate: float | None) -> None:
    """Threads that would wait for a quarter of an hour give up soon after somebody else has closed the gate."""
    gates, other = [Gate(path, rate) for _ in range(4)], Gate(path, rate)
    other.hold(1000.0)
    told = [threading.Event() for _ in gates]
    with ThreadPoolExecutor(len(gates)) as pool:
        waits = [
            pool.submit(gate.wait, lambda _, event=event: event.set()) for gate, event in zip(gates, told, strict=True)
        ]
        assert all(event.wait(BOUND) for event in told)
        assert not any(wait.done() for wait in waits)
        other.close()
        assert [False] * len(gates) == [wait.result(BOUND) for wait in waits]
    for gate in (*gates, other):
        gate.let_go()


def test_no_rate_is_free(path: str) -> None:
    """A hundred thousand items begin at the same instant, and nobody is told to wait."""
    gate = Gate(path, None, Clock())
    assert not gate.is_narrow()
    assert {0.0} == {gate.knock() for _ in range(100_000)}
    assert gate.wait(lambda seconds: pytest.fail(f"told to wait for {seconds} s"))
    gate.let_go()


def test_a_descriptor_is_let_go(path: str) -> None:
    """A gate that was let go cannot be knocked at by mistake."""
    gate = Gate(path, 1.0)
    gate.let_go()
    with pytest.raises((ValueError, OSError)):
        gate.knock()


def test_no_room_for_the_page(tmp_path: Path) -> None:
    """What cannot be written is an `OSError` at the beginning, and no death at the first touch."""
    with pytest.raises(OSError, match="No such file"):
        Gate(gate_path(str(tmp_path / "nowhere"), "g"), 1.0)


# -- real processes

KNOCKING = """
import sys, time
from chora_mp.gate import Gate
path, rate, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
gate = Gate(path, rate)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(count):
    if not gate.wait(lambda seconds: None): sys.exit(7)
    print(repr(time.monotonic()), flush=True)
"""


def knocking(path: str, rate: float, count: int) -> subprocess.Popen[str]:
    """A process that lets so many items through, and prints when each began."""
    arguments = [sys.executable, "-c", KNOCKING, path, str(rate), str(count)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def begin(processes: list[subprocess.Popen[str]]) -> None:
    """Have them all begin at once, when all are ready."""
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_many_processes_through_one_gate(path: str) -> None:
    """Four processes and two threads here: all windows hold over all of them, and each gets its items through."""
    rate, count = 100.0, 15
    processes = [knocking(path, rate, count) for _ in range(4)]
    begin(processes)
    gate, times = Gate(path, rate), []

    def work() -> None:
        for _ in range(count):
            assert gate.wait(lambda _: None)
            times.append(time.monotonic())

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result(BOUND)
    for process in processes:
        out, _ = process.communicate(timeout=BOUND)
        assert 0 == process.returncode
        times += map(float, out.split())
    gate.let_go()
    assert 6 * count == len(times)
    assert [] == [window for window in most_in_windows(times, rate, LATE) if window[0] > window[1]]


def test_a_process_that_dies_at_the_gate(path: str) -> None:
    """One that is killed while it waits, or holds the lock, is in nobody's way."""
    processes = [knocking(path, 200.0, 10**6) for _ in range(3)]
    begin(processes)
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate(timeout=BOUND)
    gate = Gate(path, 200.0)
    assert gate.wait(lambda _: None)
    gate.let_go()


def test_close_ends_other_processes(path: str) -> None:
    """Who waits in another process gives up, too."""
    processes = [knocking(path, 0.001, 2) for _ in range(2)]
    begin(processes)
    gate = Gate(path, 0.001)
    wait_for(lambda: gate.knock() > 0, "the first item", BOUND)
    gate.close()
    assert [7, 7] == [process.wait(BOUND) for process in processes]
    for process in processes:
        process.communicate()
    gate.let_go()


# -- in a job

STAMPING = """
import time
def stamp(spec, context): return repr(time.monotonic())
GENERATORS = {"stamp": stamp}
"""


def test_a_job_on_several_workers(project: Project) -> None:
    """The rate of a job is that of all its workers together, and all items are rendered."""
    project.write("stamping.py", STAMPING)
    project.records(*({"name": f"n{number}"} for number in range(40)))
    project.job("generator: stamp\nplugins: [stamping.py]\nworkers: 3\nlimits: {rate: 50/s}")
    code, summary, err = project.render()
    assert (0, 40) == (code, summary["successful"]), err
    times = [float(text) for text in project.outputs().values()]
    assert [] == [window for window in most_in_windows(times, 50.0, LATE) if window[0] > window[1]]


def test_a_generators_own_rate(project: Project) -> None:
    """What stands under the generator's name is what counts."""
    project.write("stamping.py", STAMPING)
    project.records(*({"name": f"n{number}"} for number in range(20)))
    limits = "limits: {rate: 1/h}\ngenerators: {stamp: {rate: 100/s}}"
    project.job(f"generator: stamp\nplugins: [stamping.py]\nworkers: 2\n{limits}")
    code, summary, err = project.render()
    assert (0, 20) == (code, summary["successful"]), err
    times = [float(text) for text in project.outputs().values()]
    assert [] == [window for window in most_in_windows(times, 100.0, LATE) if window[0] > window[1]]
