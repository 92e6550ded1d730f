"""`bench`: real runs of tiny jobs, samples, what is refused, what is left behind, and verdicts over made-up figures."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from chora_mp import Job
from chora_mp.benchmark import Step, Wanted, benchmark
from chora_mp.errors import ChoraError, Interrupted, JobError
from chora_mp.figures import (
    Approach,
    Benchmark,
    Facts,
    Pace,
    Run,
    Spread,
    compare,
    orders,
    sample_size,
    worker_counts,
)
from chora_mp.measuring import Task, measure
from chora_mp.sampling import keep, sample
from chora_mp.table import advice_lines, change_lines, fact_lines, table_lines

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


def test_interrupt(project: Project) -> None:
    """Ctrl-C in the middle of a run: exit code 130, no process, no folder, no file is left."""
    project.records(*named(50))
    project.job("plugins: [gate.py]", template="{{ name | gate }}")
    project.write("gate.py", GATE)
    (project.folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "chora_mp", "bench", "job.yaml", "-o", "documents"],
        cwd=project.folder,
        env={**os.environ, "TMPDIR": str(project.folder / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
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
    project.records(*named(50))
    project.job("plugins: [gate.py]", template="{{ name | gate }}")
    project.write("gate.py", GATE)
    (project.folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "chora_mp", "bench", "job.yaml", "-o", "documents"],
        cwd=project.folder,
        env={**os.environ, "TMPDIR": str(project.folder / "tmp")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
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
        ('{"format": "chora-mp bench 1", "job": "job"}', "is damaged (KeyError: 'facts')"),
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


@pytest.mark.parametrize("arguments", [["-j", "1,x"], ["-j", "auto"], ["--threshold", "x"], ["--rounds", "0"]])
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
    """A sample is called one, and what all would take is called an estimate."""
    project.records(*named(400))
    project.job("plugins: [slow.py]", template="{{ name | slow }}")
    project.write("slow.py", "import time\n\nFILTERS = {'slow': lambda text: time.sleep(0.005) or text}\n")
    done = project.run("bench", "job.yaml", "-j", "1", "--rounds", "1", "--budget", "1s", "-o", "here")
    assert (0, "") == (done.returncode, done.stderr)
    assert "a sample of " in done.stdout
    assert " of 400 records (1 in " in done.stdout
    assert "all 400 records would take about " in done.stdout
    assert " so (an estimate: " in done.stdout


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
    found = made_up({0: [1.0], 2: [0.5]}, total=4000, read_s=7.0, start_s=0.1)
    told = [*fact_lines(found), *advice_lines(found)]
    assert any("takes 7.00 s; the times leave that out" in line for line in told)
    assert any(line.startswith("starting takes about 0.10 s of each run") for line in told)
    guess = "an estimate: 40 times the sample's time, but for 0.10 s to start"
    assert told[-1] == f"all 4,000 records would take about 23.1 s so ({guess})"


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


def test_compare_on_a_busy_machine() -> None:
    """Where other programs took processors away, wall time alone makes nothing worse; processor time still does."""
    before = made_up({0: [10.0, 10.1], 2: [5.0, 5.1]})
    after = made_up({0: [12.0, 12.1], 2: [6.0, 6.1]})
    busy = tuple(
        replace(one, runs=tuple(replace(run, others=1.0, cpu_s=run.cpu_s * share) for run in one.runs if run.cpu_s))
        for one, share in zip(after.approaches, (0.8, 1.0), strict=True)
    )
    changes = compare(before, replace(after, approaches=busy), 0.05)
    assert [(), ("items/CPU s",)] == [one.worse for one in changes.approaches]
    assert ("other programs kept 1.0 cpus busy now: items/s are not judged",) == changes.remarks
    lines = [[part.strip() for part in line.split("  ") if part.strip()] for line in change_lines(changes, before)]
    assert ["sequential", "10 → 8", "-16.6 %", "10 → 10", "+4.3 %"] == lines[1]
    assert ["2 workers", "1.99 → 1.99"] == lines[2][:2]
    assert "worse: items/CPU s" == lines[2][-1]


def test_compare_for_real(project: Project) -> None:
    """`--compare` repeats the saved numbers of workers, prints the changes, and exits with 1 if it was faster once."""
    project.records(*named(20))
    project.job()
    saved = made_up({0: [1e-3] * 3, 1: [1e-4] * 3}, records=20, total=20)
    project.write("saved.json", json.dumps({**saved.as_dict(), "job": "job"}))
    done = project.run("bench", "job.yaml", "--compare", "saved.json", "--rounds", "1", "--json", "-o", "here")
    assert (1, "") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert [0, 1] == [row["workers"] for row in found["approaches"]]
    assert not found["changes"]["sound"]
    assert ["speed-up"] == found["changes"]["approaches"][1]["worse"]
    assert Path(project.folder / "saved.json").exists()
