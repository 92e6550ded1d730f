"""`bench`: real runs of tiny jobs, samples, what is refused, what is left behind, and verdicts over made-up figures."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner

import chora_mp.benchmark as subject
from chora_mp import Job, cli
from chora_mp.benchmark import Step, Wanted, benchmark, check_savable
from chora_mp.bundle import take_bundle
from chora_mp.errors import ChoraError, Interrupted, JobError
from chora_mp.figures import (
    Approach,
    Benchmark,
    Facts,
    Pace,
    Run,
    Spread,
    compare,
    least_sample,
    most_workers,
    orders,
    sample_size,
    with_whole,
    worker_counts,
)
from chora_mp.ledger import Ledger
from chora_mp.machine import Machine, machine_name
from chora_mp.measuring import RunError, Task, measure
from chora_mp.profiles import Point, Profile
from chora_mp.sampling import _place, keep, sample
from chora_mp.scaling import Scaling
from chora_mp.table import advice_lines, change_lines, fact_lines, print_table, table_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Project

BOUND = 30.0
"""Seconds that a condition may take to come true, however busy the machine is."""


def made_up(seconds: dict[int, Sequence[float]], **facts: Any) -> Benchmark:
    """A benchmark of 100 items whose runs took so many seconds, by workers, a round after the other."""
    about: dict[str, Any] = {"records": 100, "total": 100, "rounds": 3, "auto": 2, "cpus": 2.0}
    about |= {"version": "1", "python": "3.11", "jinja2": "3.1", "system": "Linux", "output": "disk", "memory": 10**9}
    runs = {
        workers: tuple(
            Run(number, one, one, 10**7, 2 * 10**7, 0.0, workers, 100, 0, 0, 1000) for number, one in enumerate(each, 1)
        )
        for workers, each in seconds.items()
    }
    return Benchmark("pages", Facts(**{**about, **facts}), tuple(Approach(*one) for one in runs.items()))


def named(count: int) -> list[dict[str, Any]]:
    """So many records, n0 first."""
    return [{"name": f"n{number}", "number": number} for number in range(count)]


# ---- real runs ---------------------------------------------------------------------------------------------


def test_json(project: Project) -> None:
    """Stdout is one JSON object: facts, every run with its figures, and what they come to; nothing is left behind."""
    project.records(*named(30))
    project.job(template="{{ name }} {{ 'x' * 1000 }}")
    done = project.run(
        "bench", "job.yaml", "-j", "1,2", "--rounds", "1", "--json", "--save", "saved.json", "-o", "here"
    )
    assert (0, "") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert found == json.loads((project.folder / "saved.json").read_text())
    assert ["format", "job", "facts", "approaches", "others", "fastest", "best"] == list(found)
    assert (30, 30, 1, False) == tuple(found["facts"][name] for name in ("records", "total", "rounds", "waiting"))
    assert ["sequential", "1 worker", "2 workers"] == [row["name"] for row in found["approaches"]]
    for row in found["approaches"]:
        (run,) = row["runs"]
        assert (30, 0, 30 * 1000 + sum(len(one["name"]) + 1 for one in named(30))) == (
            run["successful"],
            run["failed"],
            run["bytes_written"],
        )
        assert 0 < row["seconds"]["median"] == run["seconds"] < BOUND
        assert row["speedup"]["median"] == pytest.approx(found["approaches"][0]["runs"][0]["seconds"] / run["seconds"])
        assert run["main_bytes"] > 10**7
        if sys.platform == "linux":
            assert 0.05 < run["cpu_s"] < BOUND
    assert not project.out.exists()
    assert not (project.folder / "here").exists()


def test_table_and_failures(project: Project) -> None:
    """For people: a table with notes, the facts and a sentence of advice; failing items are told and end nothing."""
    project.records(*named(12), {"number": 0}, {"name": "bad", "number": "x"})
    project.job("errors: {policy: fail-fast}", template="{{ 1 + number }}")
    done = project.run("bench", "job.yaml", "-j", "2", "--rounds", "1")
    assert (0, "") == (done.returncode, done.stderr)
    header, sequential, two, empty, *rest = done.stdout.splitlines()
    assert ["APPROACH", "TIME", "SPEED-UP", "CPU", "MEMORY", "NOTES"] == header.split()
    assert sequential.startswith("sequential ")
    assert "2 items failed, baseline" in sequential
    assert two.startswith("2 workers ")
    assert "2 items failed" in two
    assert "" == empty
    assert any(line.startswith("all 14 records, written to ") for line in rest)
    assert rest[-1].startswith("job: ")
    assert [] == project.leftovers()


def test_all_items_fail(project: Project) -> None:
    """Where nothing can be rendered there is nothing to measure: the first failure is told."""
    project.records(*named(3))
    project.job(template="{{ nix }}")
    done = project.run("bench", "job.yaml")
    expected = "the first failure: n0.txt: page.txt.j2:1: UndefinedError: 'nix' is undefined"
    assert (2, "") == (done.returncode, done.stdout)
    assert f"chora-mp: job: not one of 3 items was rendered; {expected}\n" == done.stderr


def test_a_job_that_is_wrong(project: Project) -> None:
    """Every problem of the job file at once, before anything is started."""
    project.records()
    project.job("workerz: 2\nlimits: {rate: x}")
    done = project.run("bench", "job.yaml")
    assert (2, "", 2) == (done.returncode, done.stdout, len(done.stderr.splitlines()))


def test_a_template_that_is_wrong(project: Project) -> None:
    """What ends a run ends the benchmark, in the run's own words."""
    project.records(*named(3))
    project.job(template="{% if %}")
    done = project.run("bench", "job.yaml")
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("chora-mp: templates/page.txt.j2:1: ")


def test_library(project: Project) -> None:
    """The function takes a job that no file holds, tells its steps and changes nothing about this process."""
    project.records(*named(5))
    before = (os.getcwd(), signal.getsignal(signal.SIGINT), len(psutil.Process().children()))
    project.job()
    job = Job.load(project.folder / "job.yaml").replace(file=None, name="mine")
    steps: list[Step] = []
    found = benchmark(job, Wanted(workers=(), rounds=2, full=True), told=steps.append)
    assert ("round 2 of 2: sequential", 1, 2) == steps[-1]
    assert ("mine", [0]) == (found.job, [one.workers for one in found.measured])
    assert before == (os.getcwd(), signal.getsignal(signal.SIGINT), len(psutil.Process().children()))
    assert found == Benchmark.from_dict(json.loads(json.dumps(found.as_dict())))


def test_a_run_that_dies(project: Project) -> None:
    """A process that comes to a bad end is told with its signal and its last words."""
    project.records(*named(3))
    project.job("plugins: [bad.py]", template="{{ name | bad }}")
    project.write("bad.py", "import os, sys\n\n\ndef bad(_):\n    sys.stderr.write('oh')\n    sys.stderr.flush()\n"
                  "    os.kill(os.getpid(), 9)\n\n\nFILTERS = {'bad': bad}\n")  # fmt: skip
    job = Job.load(project.folder / "job.yaml").replace(workers=0)
    with pytest.raises(ChoraError, match=r"^a run has come to its end \(signal 9: oh\)$"):
        measure(Task("render", job, str(project.folder / "task")))


ENDS = """\
import os, time


def ends(name):
    if name == "bad":
        os._exit(7)
    if name == "slow":
        time.sleep(60)
    return name


FILTERS = {"ends": ends}
"""


@pytest.mark.parametrize(("name", "kind"), [("slow", "Timeout"), ("bad", "WorkerDied")])
def test_an_item_that_ends_its_time_or_its_process(project: Project, name: str, kind: str) -> None:
    """No run by one process survives such an item: it is named, before one is begun."""
    project.records(*named(3), {"name": name})
    project.job("plugins: [ends.py]\nlimits: {timeout: 1s}", template="{{ name | ends }}")
    project.write("ends.py", ENDS)
    done = project.run("bench", "job.yaml", "-j", "2")
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"chora-mp: job: {name}.txt: {kind}: ")
    assert "mend the item, or leave it out ('chora-mp render' names each such item)" in done.stderr


def test_an_item_that_is_met_later(project: Project) -> None:
    """A run that dies is explained: workers, who may die, are given the same items, and tell which one it was."""
    project.records(*named(40))
    project.job("plugins: [ends.py]", template="{{ name | ends }}")
    project.write("ends.py", ENDS.replace('name == "bad"', f'name == "n{_not_among_ten_of(40)}"'))
    with pytest.raises(ChoraError, match=rf"^job: n{_not_among_ten_of(40)}\.txt: WorkerDied: .*; mend the item"):
        benchmark(Job.load(project.folder / "job.yaml"), Wanted(workers=(1,), rounds=1))


def _not_among_ten_of(total: int) -> int:
    """A record, from 0, that the smallest sample has not."""
    return next(number for number in range(total) if _place(number + 1) >= 2**63)


def test_a_run_that_hangs(project: Project) -> None:
    """A run is given so many seconds; then it is ended, and nothing of it is left."""
    project.records({"name": "slow"})
    project.job("plugins: [ends.py]", template="{{ name | ends }}")
    project.write("ends.py", ENDS)
    job = Job.load(project.folder / "job.yaml").replace(workers=0)
    before = len(psutil.Process().children())
    with pytest.raises(RunError, match=r"^a run had not ended after 2 s$"):
        measure(Task("render", job, str(project.folder / "task")), limit=1.5)
    assert before == len(psutil.Process().children())


def test_every_run_is_bounded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run may take much longer than those before it, an item's time, or part of it, and the budget."""
    limits: list[float | None] = []

    def noted(task: Task, interrupted: Any, limit: float | None = None) -> Any:
        limits.extend([limit] if task.kind == "render" else [])
        return measure(task, interrupted, limit)

    monkeypatch.setattr(subject, "measure", noted)
    project.records(*named(5))
    project.job()
    benchmark(Job.load(project.folder / "job.yaml"), Wanted(workers=(), rounds=1, budget=5.0))
    assert 3 == len(limits)
    assert all(limit is not None and limit < 5 + 5 + 10 + BOUND for limit in limits)
    monkeypatch.setattr(subject, "_SLACK", -1000.0)
    with pytest.raises(ChoraError, match=r"^job: a run had not ended after 0 s; an item, or a plug-in, never ends"):
        benchmark(Job.load(project.folder / "job.yaml"), Wanted(workers=(), rounds=1, budget=5.0))


def test_what_was_tuned_is_what_auto_takes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that `tune` has found is measured, and called what it is, and no other number is."""
    project.records(*named(3))
    project.job()
    assert 0 == project.render()[0]
    job = Job.load(project.folder / "job.yaml")
    machine = Machine.here()
    told: dict[str, Any] = {"generator": "jinja2", "lane": "processes", "own_lane": "processes", "workers": 3}
    told |= {"sureness": 1.0, "span_seconds": 0.05, "memory": 10**7, "curve": (Point(3, 9.0, 8.0, 10.0, 3),)}
    told |= {"growth": 0.0, "scaling": Scaling(10.0, 0.05, 0.0, 0.01), "cpu": 0.1, "wait": 0.0, "most": 3}
    profile = Profile(**told, measured="2026-11-26T12:00:00Z")
    ledger = Ledger(str(project.out / ".chora-mp"))
    ledger.keep_profile(machine_name(machine), take_bundle(job).digest, profile)
    monkeypatch.setattr(subject, "worker_counts", lambda *_, **__: (2,))
    found = benchmark(job, Wanted(rounds=1))
    assert (3, True) == (found.facts.auto, found.facts.tuned)
    notes = {one.workers: ", ".join(found.notes(one)) for one in found.approaches}
    assert "most that workers: auto takes, as tuned" in notes[3]
    assert [3] == [workers for workers, note in notes.items() if "auto" in note]


GATE = """\
import os, time

HERE = os.path.dirname(__file__)


def gate(name):
    open(os.path.join(HERE, "started"), "w").close()
    end = time.monotonic() + 60
    while not os.path.exists(os.path.join(HERE, "go")) and time.monotonic() < end:
        time.sleep(0.002)
    return name


FILTERS = {"gate": gate}
"""


def start_gated(project: Project, output: int) -> subprocess.Popen[bytes]:
    """Start a benchmark whose items wait at a gate, in a session of its own."""
    project.records(*named(50))
    project.job("plugins: [gate.py]", template="{{ name | gate }}")
    project.write("gate.py", GATE)
    (project.folder / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "chora_mp", "bench", "job.yaml", "-o", "documents"],
        cwd=project.folder,
        env={**os.environ, "TMPDIR": str(project.folder / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def test_interrupt(project: Project) -> None:
    """Ctrl-C in the middle of a run: exit code 130, no process, no folder, no file is left."""
    process = start_gated(project, subprocess.PIPE)
    try:
        await_((project.folder / "started").exists, "the first item")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2  # the keeper and the run
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=BOUND)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (130, b"") == (process.returncode, stdout)
    assert b"chora-mp: interrupted" in stderr
    assert b"Traceback" not in stderr
    await_(lambda: not any(map(runs, family)), "the end of all processes")
    assert [] == list((project.folder / "tmp").iterdir())
    assert not (project.folder / "documents").exists()
    assert not project.out.exists()


def test_the_asker_is_killed(project: Project) -> None:
    """Where the one who asked is gone, the processes end themselves."""
    process = start_gated(project, subprocess.DEVNULL)
    await_((project.folder / "started").exists, "the first item")
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(BOUND)
    await_(lambda: not any(map(runs, family)), "the end of all processes")


def test_interrupted_library(project: Project) -> None:
    """Who asks to stop is told so by `Interrupted`."""
    project.records(*named(50))
    project.job("plugins: [gate.py]", template="{{ name | gate }}")
    project.write("gate.py", GATE)
    job = Job.load(project.folder / "job.yaml")
    with pytest.raises(Interrupted):
        benchmark(job, Wanted(), interrupted=(project.folder / "started").exists)


def await_(condition: Any, what: str) -> None:
    """Wait until a condition is true; fails where it doesn't come true in time."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that only its parent has not yet taken note of does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("generator: code_generation", "the generator code_generation asks a service for every item"),
        ("limits: {rate: 10/s}", "it has a rate"),
        ("generators: {jinja2: {rate: 1/s}}", "it has a rate"),
    ],
)
def test_paid_services(project: Project, more: str, reason: str) -> None:
    """What may cost money is not run many times without a word."""
    project.records(*named(3))
    project.job(more)
    with pytest.raises(JobError, match=f"{reason}.*; --yes does so"):
        benchmark(Job.load(project.folder / "job.yaml"))


def test_paid_services_of_content_configs(project: Project) -> None:
    """Content configs name their generators: they are looked through before any of them runs."""
    pattern = "{id: p, type: code_generation, generation_config: {prompt: x}}"
    project.write("content/a.yaml", f"type: content\nid: a\ngeneration: {{patterns: [{pattern}]}}\n")
    project.write("batch.yaml", "configs: content\noutput: {dir: out}\n")
    done = project.run("bench", "batch.yaml")
    assert (2, "") == (done.returncode, done.stdout)
    assert "the generator code_generation asks a service for every item" in done.stderr


def test_no_records(project: Project) -> None:
    """A source without a record gives nothing to measure."""
    project.records()
    project.job()
    done = project.run("bench", "job.yaml")
    assert (2, "chora-mp: data.jsonl: holds no record; there is nothing to measure\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "is no JSON"),
        ("[]", "is not what chora-mp bench --save has written"),
        ('{"format": "chora-mp bench 1", "job": "job"}', "is damaged"),
        (json.dumps(made_up({0: [1.0]}).as_dict()).replace('"seconds": 1.0', '"seconds": "x"'), "is damaged"),
        (json.dumps({**made_up({0: [1.0]}).as_dict(), "job": "other"}), "is of another job (other; this is job)"),
    ],
)
def test_wrong_file_to_compare_with(project: Project, content: str | None, problem: str) -> None:
    """What `--save` has not written for this job is refused before anything is run."""
    project.records()
    project.job()
    if content is not None:
        project.write("saved.json", content)
    done = project.run("bench", "job.yaml", "--compare", "saved.json")
    expected = f"chora-mp: saved.json: {problem}; name a file that bench --save has written\n"
    assert (2, "", expected) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("save", "problem"),
    [
        ("job.yaml", "--save job.yaml: is the job file; name another file"),
        ("data.jsonl", "--save data.jsonl: is its source; name another file"),
        ("templates/page.txt.j2", "--save templates/page.txt.j2: is no saved benchmark, and stays as it is"),
        ("", "--save '': cannot be written"),
        ("data.jsonl/x.json", "--save data.jsonl/x.json: cannot be written"),
        ("nowhere/x.json", "--save nowhere/x.json: cannot be written"),
    ],
)
def test_what_must_not_be_saved_to(project: Project, monkeypatch: pytest.MonkeyPatch, save: str, problem: str) -> None:
    """Files that are something else stay what they are, and nothing is measured in vain, or left behind."""
    project.records(*named(3))
    project.job()
    before = {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(subject, "benchmark", lambda *_, **__: pytest.fail("it was measured"))
    found = CliRunner().invoke(cli.cli, ["bench", "job.yaml", "--save", save]).exception
    assert isinstance(found, JobError)
    assert str(found).startswith(problem)
    assert before == {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}


def test_what_may_be_saved_to(project: Project) -> None:
    """A file that is new, empty or an earlier benchmark."""
    project.records()
    project.job()
    job = Job.load(project.folder / "job.yaml")
    saved = project.write("saved.json", json.dumps(made_up({0: [1.0]}).as_dict()))
    for path in (saved, project.write("empty.json", ""), project.folder / "new.json"):
        check_savable(str(path), job)


def test_too_many_workers(project: Project) -> None:
    """Numbers that can only harm are refused before they are tried."""
    project.records(*named(3))
    project.job()
    done = project.run("bench", "job.yaml", "-j", "2,100000")
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("chora-mp: --jobs: 100,000 are too many workers on ")


@pytest.mark.parametrize(
    ("cpus", "own", "waiting", "expected"),
    [(1.0, (1, None), False, 20), (4.0, (4, None), False, 40), (2.0, (2, 50), False, 50), (2.0, (2,), True, 10_000)],
)
def test_most_workers(cpus: float, own: tuple[int | None, ...], waiting: bool, expected: int) -> None:
    """Ten for each CPU, the widest usual row, or what the job itself takes; items that wait have another bound."""
    assert expected == most_workers(cpus, *own, waiting=waiting)


@pytest.mark.parametrize(
    "arguments", [["-j", "1,x"], ["-j", "auto"], ["-j", "0"], ["--threshold", "x"], ["--rounds", "0"]]
)
def test_wrong_options(project: Project, arguments: list[str]) -> None:
    """Options that mean nothing are refused."""
    project.records()
    project.job()
    done = project.run("bench", "job.yaml", *arguments)
    assert (2, "") == (done.returncode, done.stdout)
    assert f"Invalid value for '{arguments[0]}" in done.stderr


# ---- how much is run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "auto", "asked", "waiting", "expected"),
    [
        (1.0, 1, None, False, (1, 2)),
        (2.0, 2, None, False, (1, 2, 5)),
        (8.0, 8, None, False, (1, 2, 5, 8, 10)),
        (2.5, 2, 7, False, (1, 2, 5, 7)),
        (64.0, 64, None, False, (1, 2, 5, 10, 20, 64)),
        (2.0, 10_000, None, True, (1, 2, 5, 10, 20)),
        (2.0, 4, 0, True, (1, 2, 5, 10, 20)),
        (2.0, 4, None, True, (1, 2, 4, 5, 10, 20)),
    ],
)
def test_worker_counts(cpus: float, auto: int, asked: int | None, waiting: bool, expected: tuple[int, ...]) -> None:
    """The familiar numbers as far as the machine goes, one step more, and what the job would take."""
    assert expected == worker_counts(cpus, auto, asked, waiting=waiting)


@pytest.mark.parametrize(
    ("total", "pace", "expected"),
    [
        (1000, Pace(0.0, 0.001), 1000),  # a second for all of it
        (10**6, Pace(0.0, 0.001), 6666),  # (60 / 3 rounds) / (1 + 1 + 1/2 + 1/2 of the sequential time)
        (10**6, Pace(0.5, 0.001), 6000),  # four runs a round take two seconds, however few the items
        (10**6, Pace(0.0, 1e-4), 66666),
        (10**6, Pace(30.0, 1.0), 20),  # no room at all: as few as make sense
        (10, Pace(30.0, 1.0), 10),
        (7000, Pace(0.0, 0.001), 7000),  # nearly all is all
    ],
)
def test_sample_size(total: int, pace: Pace, expected: int) -> None:
    """The sample is what fits into the budget."""
    assert expected == sample_size(total, pace, (1, 2, 5), 2.0, 3, 60.0)


def test_no_sample_takes_longer_than_ten_seconds() -> None:
    """However large the budget, the sequential run of a sample stays short."""
    assert 9000 == sample_size(10**6, Pace(1.0, 0.001), (1, 2), 2.0, 3, 3600.0)


def test_a_sample_for_items_that_wait() -> None:
    """Ten items for each of those that wait side by side, even if the sequential run takes long, within the budget."""
    least = least_sample((1, 20), waiting=True)
    assert (200, 20) == (least, least_sample((1, 20), waiting=False))
    pace = Pace(0.0, 0.1)
    assert [100, 200] == [sample_size(5000, pace, (1, 20), 20.0, 3, 600.0, each) for each in (20, least)]
    assert 97 == sample_size(5000, pace, (1, 20), 20.0, 3, 60.0, least)  # the budget comes first


def test_a_sample_that_is_thin() -> None:
    """Where the budget leaves too few items for the largest number at a time, the report says so."""
    found = made_up({0: [10.0], 20: [1.0]}, waiting=True, total=4000)
    told = "the sample has few records for 20 at a time: what so many gain shows with more (--budget, or --full)"
    assert told in list(fact_lines(found))
    assert told not in list(fact_lines(replace(found, facts=replace(found.facts, records=200))))


def test_lines_of_a_sample_are_not_told(project: Project) -> None:
    """A message about a record of a sample would name a line of the sample."""
    project.records()
    project.job()
    load = subject._Load(Job.load(project.folder / "job.yaml"), 10, sampled=True)
    text = "data.jsonl:12: is also of data.jsonl:3:7; page.txt.j2:1"
    assert "data.jsonl: is also of data.jsonl; page.txt.j2:1" == load.placeless(text)
    assert text == load._replace(sampled=False).placeless(text)


def test_pace() -> None:
    """Two runs tell what is fixed and what an item takes; one alone, or noise, tells only the latter."""
    assert Pace(pytest.approx(0.3), pytest.approx(0.01)) == Pace.of([(10, 0.4), (110, 1.4)])
    assert Pace(0.0, 0.04) == Pace.of([(10, 0.4)])
    assert Pace(0.0, pytest.approx(0.004)) == Pace.of([(10, 0.5), (100, 0.4)])


def test_orders() -> None:
    """Every round has each approach once and begins with another."""
    found = list(orders([0, 1, 2], 4))
    assert [0, 1, 2, 0] == [next(group)[1] for _, group in itertools.groupby(found, key=lambda one: one[0])]
    assert all([0, 1, 2] == sorted(workers for number, workers in found if number == each) for each in range(1, 5))


@pytest.mark.parametrize("kind", ["lines", "csv", "python"])
def test_sample(project: Project, kind: str) -> None:
    """A sample has records evenly spread over the source, in their order, unchanged; as lines where they are lines."""
    source = {"lines": "data.jsonl", "csv": "data.csv", "python": "{python: 'rows.py:rows'}"}[kind]
    project.records(*named(1000))
    project.write("data.csv", "name,number\n" + "".join(f"n{number},{number}\n" for number in range(1000)))
    project.write("rows.py", "def rows():\n    return [{'name': f'n{n}', 'number': n} for n in range(1000)]\n")
    project.job(source=source, template="{{ number }}")
    job = Job.load(project.folder / "job.yaml")
    assert job.source
    kept = keep(job, str(project.folder / "kept"))
    assert (1000, 1.0) == (kept.total, kept.share)
    part, count = sample(job.source, kept, 100, str(project.folder / "part"))
    assert count == pytest.approx(100, abs=2)
    result = measure(Task("render", job.replace(source=part, workers=0), str(project.folder / "task"))).answer
    assert (count, count) == (result["total"], result["successful"])
    numbers = sorted(int(text) for text in project.outputs().values())
    assert all(text == name[1:-4] for name, text in project.outputs().items())
    assert max(later - earlier for earlier, later in itertools.pairwise(numbers)) < 25
    assert numbers[0] < 25
    assert numbers[-1] >= 975


def test_a_source_that_is_large(project: Project) -> None:
    """Of a source that is larger than what is to be kept an even share stays."""
    project.records(*named(1000))
    project.job()
    job = Job.load(project.folder / "job.yaml")
    kept = keep(job, str(project.folder / "kept"), most=10_000)
    assert (1000, 0.25) == (kept.total, kept.share)
    assert job.source
    assert 250 == pytest.approx(sample(job.source, kept, 1000, str(project.folder / "part"))[1], abs=2)


def test_a_sample_in_the_report(project: Project) -> None:
    """A sample is called one, and what all would take is an estimate that is about right."""
    project.records(*named(400))
    project.job("plugins: [slow.py]", template="{{ name | slow }}")
    project.write("slow.py", "import time\n\nFILTERS = {'slow': lambda text: time.sleep(0.005) or text}\n")
    found = benchmark(Job.load(project.folder / "job.yaml"), Wanted(workers=(), rounds=1, budget=2.0))
    text = "\n".join((*fact_lines(found), *advice_lines(found)))
    assert "a sample of " in text
    assert " of 400 records (1 in " in text
    if found.facts.whole is None:
        assert "what all 400 records would take cannot be told from this sample" in text
    else:
        assert "all 400 records would take about " in text
        assert 1.0 < found.facts.whole.median < 8.0  # 2 s for the items, and starting


# ---- what the figures come to ------------------------------------------------------------------------------


def test_speedup_is_that_within_rounds() -> None:
    """A machine that slows down from round to round changes no ratio."""
    found = made_up({0: [10.0, 20.0, 40.0], 2: [5.0, 10.0, 20.0]})
    assert Spread(2.0, 2.0, 2.0) == found.speedup(found.approaches[1])


def test_the_best_is_the_least_that_is_as_fast() -> None:
    """Fewer workers are better where the rounds cannot tell them from the fastest; one clearly slower is not."""
    found = made_up({0: [10, 11, 10], 1: [10, 10, 10.5], 2: [5.1, 5.3, 5.0], 5: [5.0, 5.0, 5.2]})
    assert ("5 workers", "2 workers") == (found.name(found.fastest), found.name(found.best))
    notes = {one.workers: found.notes(one) for one in found.approaches}
    assert ["most that workers: auto takes", "within noise of the fastest"] == notes[2]
    assert ["more workers than cores", "fastest"] == notes[5]
    assert (["baseline"], []) == (notes[0], notes[1])
    (advice,) = advice_lines(found)
    assert advice.startswith(
        "pages: use 2 workers, 2.00 times as fast as one process (1.96–2.08) and as fast as 5 workers"
    )
    assert advice.endswith("that is what the job does by itself")


def test_where_workers_gain_nothing() -> None:
    """Nobody is told to use workers that bring nothing, and a busy machine is named."""
    found = made_up({0: [1.0, 1.1, 1.0], 2: [1.1, 1.0, 1.1]})
    (advice,) = advice_lines(found)
    assert "pages: no number of workers was faster than one process beyond noise; leave workers: auto" in advice
    busy = replace(found.approaches[0], runs=tuple(replace(run, others=1.2) for run in found.approaches[0].runs))
    found = replace(found, approaches=(busy, replace(busy, workers=2)))
    assert any(line.startswith("other programs kept 1.2 of 2 cpus busy") for line in fact_lines(found))
    assert "measure again when the machine is quiet" in next(advice_lines(found))


def test_what_makes_figures_doubtful() -> None:
    """Documents that are others, workers without work and runs that failed are noted."""
    found = made_up({0: [1.0], 2: [0.5], 5: [0.5]})
    odd = replace(found.approaches[1], runs=(replace(found.approaches[1].runs[0], successful=99, failed=1, opened=1),))
    found = replace(
        found, approaches=(found.approaches[0], odd, Approach(5, (), "a run has come to its end (signal 9)"))
    )
    expected = ["1 item failed", "made other documents: 99 items, 1,000 B", "most that workers: auto takes"]
    assert [*expected, "only 1 had work", "fastest"] == found.notes(odd)
    lines = list(table_lines(found))
    assert lines[-1].split("  ")[0] == "5 workers"
    assert lines[-1].endswith("a run has come to its end (signal 9), more workers than cores")
    assert "2 workers" == found.as_dict()["best"]


def test_a_sample_of_a_source_that_is_read_first() -> None:
    """What the sample leaves out is told, and is part of the estimate."""
    found = made_up({0: [1.0], 2: [0.5]}, total=4000, read_s=7.0)
    found = with_whole(found, 25, Spread(0.2, 0.2, 0.2))  # 4 ms a record, and 0.1 s to start
    told = [*fact_lines(found), *advice_lines(found)]
    assert any("takes 7.00 s; the times leave that out" in line for line in told)
    assert any(line.startswith("starting takes about 0.10 s of a run of 0.50 s, however few") for line in told)
    guess = "an estimate from runs of 25 and of 100 records"
    assert told[-1] == f"all 4,000 records would take about 23.1 s so ({guess})"


@pytest.mark.parametrize(
    ("few", "is_told"),
    [
        (Spread(0.2, 0.2, 0.2), True),
        (Spread(0.2, 0.2, 0.45), False),  # the least difference is nought
        (Spread(0.3, 0.3, 0.33), False),  # it is a fourth of the greatest
        (Spread(0.6, 0.6, 0.6), False),  # fewer records took longer
    ],
)
def test_what_the_whole_would_take(few: Spread, is_told: bool) -> None:
    """An estimate has the range that the runs leave open; where that says nothing, there is none."""
    found = with_whole(made_up({0: [1.0, 1.0, 1.0], 2: [0.5, 0.4, 0.6]}, total=4000), 25, few)
    whole = found.facts.whole
    if not is_told:
        assert whole is None
        assert "what all 4,000 records would take cannot be told" in list(advice_lines(found))[-1]
    else:
        assert whole is not None
        assert (whole.low, whole.median, whole.high) == pytest.approx((10.8, 16.1, 21.4))
        assert "all 4,000 records would take about 16.1 s so, between " in list(advice_lines(found))[-1]
    assert found == Benchmark.from_dict(json.loads(json.dumps(found.as_dict())))


def test_a_single_record() -> None:
    """One record is not `all 1 record`."""
    assert any(line.startswith("the only record, written to ") for line in fact_lines(made_up({0: [1.0]}, total=1)))


@pytest.mark.parametrize(("columns", "last"), [(40, "SPEED-UP"), (80, "NOTES"), (140, "NOTES")])
def test_the_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, last: str) -> None:
    """A narrow terminal gets fewer columns, and what it gets can be read."""
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    print_table(made_up({0: [1.0, 1.1, 1.2], 2: [0.5, 0.6, 0.55]}), stream, str)
    lines = [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]
    assert all(len(line) <= columns for line in lines)
    assert last == lines[0].split()[-1]
    assert ["2", "workers", "0.55", "s"] == lines[3].split()[:4]
    assert "2.00×" in lines[3]
    assert (columns == 140) == ("MEMORY" in lines[0])


ALL_WORSE = ("speed-up", "items/s", "items/CPU s")


@pytest.mark.parametrize(
    ("seconds", "facts", "worse"),
    [
        ([5.0, 5.1, 4.9], {}, ()),
        ([5.2, 5.2, 5.2], {}, ()),  # within the threshold
        ([6.0, 6.1, 6.2], {}, ALL_WORSE),
        ([4.9, 6.5, 6.6], {}, ()),  # one of them was as fast as ever: noise
        ([6.0, 6.1, 6.2], {"cpus": 4.0}, ("speed-up",)),  # another machine
        ([2.0, 2.0, 2.0], {}, ()),  # better
    ],
)
def test_compare(seconds: list[float], facts: dict[str, Any], worse: tuple[str, ...]) -> None:
    """Worse is what lies below the threshold and out of all that was seen before."""
    before = made_up({0: [10.0, 10.1, 9.9], 2: [5.0, 5.0, 5.1]})
    changes = compare(before, made_up({0: [10.0, 10.1, 9.9], 2: seconds}, **facts), 0.05)
    assert [(), worse] == [one.worse for one in changes.approaches]
    assert changes.sound == (not worse)
    assert bool(facts) == bool(changes.remarks)


def busy(found: Benchmark) -> Benchmark:
    """The same, while others kept a CPU busy."""
    runs = (replace(one, runs=tuple(replace(run, others=1.0) for run in one.runs)) for one in found.approaches)
    return replace(found, approaches=tuple(runs))


@pytest.mark.parametrize("when", ["then", "now"])
def test_compare_on_a_busy_machine(when: str) -> None:
    """Where other programs took processors away, nothing is judged, and that is told."""
    before, after = made_up({0: [10.0, 10.1], 2: [5.0, 5.1]}), made_up({0: [14.0, 14.1], 2: [12.0, 12.1]})
    assert [ALL_WORSE[1:], ALL_WORSE] == [one.worse for one in compare(before, after, 0.05).approaches]
    before, after = (busy(before), after) if when == "then" else (before, busy(after))
    changes = compare(before, after, 0.05)
    assert ([(), ()], (), True) == ([one.worse for one in changes.approaches], changes.judged, changes.sound)
    told = f"other programs kept 1.0 cpus busy {when}: nothing is judged; measure when it is quiet"
    assert (told,) == changes.remarks
    lines = [[part.strip() for part in line.split("  ") if part.strip()] for line in change_lines(changes, before)]
    assert ["sequential", "10 → 7", "-28.5 %", "10 → 7", "-28.5 %"] == lines[1]
    assert [told] == lines[-1]


def test_compare_of_one_round() -> None:
    """One round on either side does not tell what is noise."""
    before, after = made_up({0: [10.0], 2: [5.0]}), made_up({0: [10.0, 10.1], 2: [9.0, 9.1]})
    changes = compare(before, after, 0.05)
    assert changes.sound
    assert ("there was only one round then, which does not tell what is noise: nothing is judged",) == changes.remarks
    assert compare(after, before, 0.05).remarks[0].startswith("there was only one round now")


def test_compare_for_real(project: Project) -> None:
    """`--compare` repeats the saved numbers of workers and adds the changes; one round makes nothing worse."""
    project.records(*named(20))
    project.job()
    saved = made_up({0: [1e-3] * 3, 1: [1e-4] * 3}, records=20, total=20)
    project.write("saved.json", json.dumps({**saved.as_dict(), "job": "job"}))
    done = project.run("bench", "job.yaml", "--compare", "saved.json", "--rounds", "1", "--json", "-o", "here")
    assert (0, "") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert [0, 1] == [row["workers"] for row in found["approaches"]]
    assert (True, []) == (found["changes"]["sound"], found["changes"]["judged"])
    assert "there was only one round now" in " ".join(found["changes"]["remarks"])


def test_what_is_worse_is_exit_code_1(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it in a script hears of it."""
    project.records(*named(3))
    project.job()
    monkeypatch.chdir(project.folder)
    saved = replace(made_up({0: [10.0, 10.1], 2: [5.0, 5.1]}), job="job")
    project.write("saved.json", json.dumps(saved.as_dict()))
    found = replace(made_up({0: [10.0, 10.1], 2: [9.0, 9.1]}), job="job")
    monkeypatch.setattr(subject, "benchmark", lambda *_, **__: found)
    done = CliRunner().invoke(cli.cli, ["bench", "job.yaml", "--compare", "saved.json"])
    assert 1 == done.exit_code
    assert "worse: speed-up, items/s, items/CPU s" in done.output
