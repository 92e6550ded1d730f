"""Tuning: counts are really measured, the answer is kept and used, nothing is left behind. By real processes."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp import (
    Interrupted,
    Job,
    JobError,
    LedgerError,
    SourceError,
    WorkerError,
    batch_generate,
    charts,
    cli,
    sweep,
    trials,
    tune,
    tuning,
)
from chora_mp.events import TuningAdvanced
from chora_mp.machine import Machine, machine_name
from chora_mp.profiles import Point, Profile
from chora_mp.progress import PLAIN_SECONDS, Bar, PlainProgress
from chora_mp.records import Input, Span
from chora_mp.scaling import Scaling
from chora_mp.sizing import Sizing, Term, optimal_workers
from chora_mp.state import held
from chora_mp.sweep import Sweep, ladder
from chora_mp.trials import Piece, Region, Rotation, Sample, Trial
from chora_mp.tuning import Tuning
from chora_mp.upkeep import profiles_of, used_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chora_mp.events import Event
    from tests.conftest import Project


def profile_of(job: Job, machine: Machine) -> Profile | None:
    """What a run of the job goes by."""
    return used_of(job, profiles_of(job, machine))


LONG = "{% for n in range(500) %}{{ name }}{{ n }}{% endfor %}"  # so that not all of it is the file system
QUICK = 2.0  # seconds that measuring may take; the least that trials take is what these tests take
NAPS = """
import asyncio, os, time
from chora_mp import Generated, generator

def nap(spec, context):
    time.sleep(0.03)
    return context["name"]

@generator(lane="threads")
def doze(spec, context):
    time.sleep(0.03)
    return context["name"]

async def dream(spec, context):
    await asyncio.sleep(0.03)
    return context["name"]

@generator(lane="threads", concurrent=False)
def alone(spec, context):
    return context["name"]

def counted(spec, context):
    with open(os.environ["CALLS"], "a") as file:
        file.write("x")
    return Generated(context["name"], {"tokens": 3})

def sleep(spec, context):
    time.sleep(1000)

def deadly(spec, context):
    os.kill(os.getpid(), 9)

GENERATORS = {name: globals()[name] for name in ("nap", "doze", "dream", "alone", "counted", "deadly", "sleep")}
"""


def job_of(project: Project, more: str = "", count: int = 400, template: str = LONG) -> Job:
    """A job of quick items."""
    project.records(*({"name": f"n{number}"} for number in range(count)))
    return Job.load(project.job(more, template=template))


def waiting(project: Project, generator: str, more: str = "", count: int = 200) -> Job:
    """A job whose items wait."""
    project.write("naps.py", NAPS)
    return job_of(project, f"plugins: [naps.py]\ngenerator: {generator}\n{more}", count)


def quick(job: Job, **options: Any) -> Tuning:
    """A tuning that takes as little time as there can be."""
    return tune(job, **{"budget": QUICK, "rounds": 1, "max_workers": 2, **options})


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody else uses, as it seems, and one round that tells all: what is measured is kept."""
    monkeypatch.setattr(trials._Load, "others", lambda _: 0.0)
    monkeypatch.setattr(sweep, "LEAST_ROUNDS", 1)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that others keep busy, as it seems."""
    monkeypatch.setattr(trials._Load, "others", lambda _: 1.5)


def kept(project: Project) -> list[tuple[str, str, int]]:
    """Generator, lane and workers of each profile in the ledger."""
    with closing(sqlite3.connect(project.out / ".chora-mp" / "ledger.db")) as ledger:
        return ledger.execute("SELECT generator, lane, workers FROM profiles ORDER BY 1, 2").fetchall()


# ---- what comes of it --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
def test_a_tuning(project: Project) -> None:
    """All of it is told, the choice is among the counts, nothing but the ledger is left, and the profile is in it."""
    events: list[Event] = []
    found = tune(job_of(project), budget=4, rounds=2, max_workers=3, observers=[events.append])
    profile = found.profile
    assert [1, 2, 3] == [point.workers for point in profile.curve]
    assert profile.workers in (1, 2, 3)
    assert all(0 < point.least <= point.throughput <= point.most for point in profile.curve)
    assert found.kept
    assert (True, 0, None) == (40 < found.sampled <= 400, found.failed, found.failure)
    assert profile.cpu > 0
    assert profile.memory is None or 5 * 10**6 < profile.memory < 10**9
    assert profile.scaling.sigma >= 0 <= profile.scaling.kappa
    assert [("jinja2", "processes", profile.workers)] == kept(project)
    assert ({}, []) == (project.outputs(), project.leftovers())
    shares = [event.done for event in events if isinstance(event, TuningAdvanced)]
    assert shares == sorted(shares)
    assert len(shares) > 6


@pytest.mark.usefixtures("quiet")
def test_the_profile_is_used(project: Project) -> None:
    """By `render` and `size`, in place of the CPUs; the other terms still bind; with other templates it is none."""
    job = job_of(project)
    found = quick(job, max_workers=None)
    assert found.profile == profile_of(job, Machine.here())
    sizing = batch_generate(job).sizing
    assert ["tuned", "memory", "rate", "max_workers"] == [term["name"] for term in sizing["terms"]]
    assert (found.profile.workers, "tuned") == (sizing["workers"], sizing["binds"])
    assert "(measured)" in sizing["terms"][1]["detail"]
    shown = json.loads(project.run("size", "job.yaml", "--json").stdout)
    assert (sizing["binds"], found.profile.as_dict()["workers"]) == (shown["binds"], shown["profile"]["workers"])
    told = project.run("size", "job.yaml").stdout
    assert "items/s measured on" in told
    assert "no profile" not in told
    bound = json.loads(project.run("size", "job.yaml", "--json", "--rate", "1/s", "--latency", "0.5s").stdout)
    assert (1, "rate") == (bound["workers"], bound["binds"])
    supposed = json.loads(project.run("size", "job.yaml", "--json", "--cores", "8").stdout)
    assert "cpus" == supposed["terms"][0]["name"]
    project.write("templates/page.txt.j2", "{{ name }}!\n")
    assert profile_of(job, Machine.here()) is None
    assert "no profile for these templates and this machine; 'chora-mp tune job.yaml' makes one" in (
        project.run("size", "job.yaml").stdout
    )
    assert "cpus" == batch_generate(Job.load(project.folder / "job.yaml")).sizing["terms"][0]["name"]


def test_a_number_that_is_asked_for_wins(project: Project) -> None:
    """`workers: 2` is 2, whatever was measured; the tuning tells what `auto` would be."""
    found = quick(job_of(project, "workers: 2"), max_workers=1)
    assert (1, True) == (found.profile.workers, any("the job says 'workers: 2'" in line for line in found.advice))
    sizing = batch_generate(Job.load(project.folder / "job.yaml")).sizing
    assert ("workers", 2) == (sizing["binds"], sizing["workers"])


def test_what_the_ledger_knows_stays(project: Project) -> None:
    """Documents that are up to date are so still, the ledger is trusted as before, and no run is taken down."""
    job = job_of(project)
    batch_generate(job)
    before = project.outputs()
    quick(job)
    assert before == project.outputs()
    again = batch_generate(job)
    assert (400, 0) == (again.unchanged, again.successful)
    assert {".chora-mp/ledger.db", ".chora-mp/ledger.sha256", ".chora-mp/lock"} == {
        f".chora-mp/{name}" for name in os.listdir(project.out / ".chora-mp")
    }
    with closing(sqlite3.connect(project.out / ".chora-mp" / "ledger.db")) as ledger:
        assert 2 == ledger.execute("SELECT count(*) FROM runs").fetchone()[0]
    seal = project.out / ".chora-mp" / "ledger.sha256"
    seal.unlink()
    quick(job)
    assert not seal.exists()  # what was in doubt stays so


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_second_tuning_keeps_to_the_first(project: Project) -> None:
    """As long as nothing is surely better, the answer is the earlier one: noise must not make it flap."""
    job = job_of(project)
    first = quick(job, max_workers=None)
    assert first.profile.workers == quick(job, max_workers=None).profile.workers
    assert 1 == len(kept(project))


def one_cpu() -> None:
    """Leave this process one CPU, as `taskset` does."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture
def alone() -> Iterator[None]:
    """One CPU for as long as a test takes."""
    before = os.sched_getaffinity(0)
    one_cpu()
    yield
    os.sched_setaffinity(0, before)


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no CPU affinity here")


@needs_affinity
def test_on_one_cpu_one_worker_is_best(project: Project) -> None:
    """Where there is one CPU, work that needs it is done by one worker; that machine is another one."""
    job_of(project)
    done = project.run("tune", "job.yaml", "--budget", "4", "--json", preexec_fn=one_cpu)
    found = json.loads(done.stdout)
    assert (0, "") == (done.returncode, done.stderr)
    assert 3 == found["curve"][-1]["workers"]
    assert 1 == found["workers"] or found["others"] > 0.03
    assert ", 1 cpu, " in found["machine"]


@needs_affinity
@pytest.mark.usefixtures("quiet", "alone")
@pytest.mark.parametrize("generator", ["nap", "dream", pytest.param("doze", marks=pytest.mark.slow)])
def test_work_that_waits_gets_more_workers_than_cpus(project: Project, generator: str) -> None:
    """On every lane: processes that sleep, threads, coroutines. `size` shows what `render` has."""
    job = waiting(project, generator)
    found = quick(job, budget=5, max_workers=4)
    assert (generator, True) == (found.profile.generator, found.profile.workers > 2)
    assert found.profile.wait > found.profile.cpu
    assert [] == project.leftovers()
    sizing = json.loads(project.run("size", "job.yaml", "--json").stdout)
    rendered = batch_generate(job).sizing
    assert found.sizing.binds == sizing["binds"] == rendered["binds"]
    assert rendered["workers"] == pytest.approx(sizing["workers"], rel=0.2)  # where it is the memory that is left
    assert (generator == "dream") == (sizing["binds"] != "tuned")  # 4 coroutines were all that were allowed


@pytest.mark.usefixtures("quiet")
def test_a_lane_that_is_not_the_generators(project: Project) -> None:
    """What was measured there counts for runs there, and `size` says of others what they have."""
    job = waiting(project, "dream", count=20)
    found = quick(job.replace(lane="threads"), budget=30, max_workers=8)
    assert ("threads", "asyncio", True) == (found.profile.lane, found.profile.own_lane, found.kept)
    assert profile_of(job, Machine.here()) is None
    assert found.profile == profile_of(job.replace(lane="threads"), Machine.here())
    done = project.run("size", "job.yaml")
    assert "tuned besides: dream on threads" in done.stdout
    assert "'chora-mp tune" not in done.stdout
    assert f"workers: {batch_generate(job).sizing['workers']}" in done.stdout.splitlines()


def test_inline_is_refused(project: Project) -> None:
    """One process is one process."""
    with pytest.raises(JobError, match="lane: 'inline' renders in one process, so that there is nothing to tune"):
        quick(job_of(project, "lane: inline"))
    assert not project.out.exists()


def test_what_may_not_run_beside_itself(project: Project) -> None:
    """Is measured alone, and one at a time is the answer."""
    found = quick(waiting(project, "alone"))
    assert (1, "generator", [1]) == (found.workers, found.sizing.binds, [one.workers for one in found.profile.curve])
    assert (0, False, None) == (found.rounds, found.kept, found.spread)
    assert any("nothing to compare: generator binds" in line for line in charts.tuning_lines(found))
    assert not project.out.exists()


@pytest.mark.usefixtures("quiet")
def test_a_mixed_batch(project: Project) -> None:
    """The generator with the most items is measured, or the one that is named; each has a profile of its own."""
    for number in range(6):
        kind = "template_fill" if number < 4 else "jinja2"
        config = {
            "type": "content",
            "id": f"c{number}",
            "elements": [],
            "generation": {"patterns": [{"type": kind, "template": "Hello\n", "variables": []}]},
        }
        project.write(f"configs/c{number}.json", json.dumps(config))
    project.write("job.yaml", "configs: configs\noutput: {dir: out, path: '{{ id }}.txt'}\n")
    job = Job.load(project.folder / "job.yaml")
    found = quick(job, max_workers=None)
    assert ("template_fill", 4) == (found.profile.generator, found.profile.most)
    shown = json.loads(project.run("size", "job.yaml", "--json").stdout)
    assert "template_fill" == shown["profile"]["generator"]
    assert "jinja2" == quick(job, generator="jinja2").profile.generator
    assert ["jinja2", "template_fill"] == [name for name, _, _ in kept(project)]
    done = project.run("size", "job.yaml")
    assert 2 == done.stdout.count("tuned besides: ")
    assert "no profile" not in done.stdout
    with pytest.raises(JobError, match="--generator nobody: makes none of the documents; there are jinja2, template_"):
        quick(job, generator="nobody")


# ---- what cannot be measured -------------------------------------------------------------------------------


def test_items_that_fail_are_counted(project: Project) -> None:
    """Some may fail, and that is told; where all do, nothing can be measured."""
    found = quick(job_of(project, template="{{ 1 // ((name[1:] | int) % 4) }}" + "{{ name }}" * 9))
    assert 1 <= found.failed < found.sampled <= 400
    assert "n0.txt (data.jsonl:1): ZeroDivisionError" in (found.failure or "")
    assert any("items in the sample failed, such as n0.txt" in line for line in charts.tuning_lines(found))
    with pytest.raises(SourceError, match=r"all of \d+ items failed: n\d+.txt \(data.jsonl:\d+\): UndefinedError"):
        quick(job_of(project, template="{{ nothing }}"))
    assert [] == project.leftovers()


def test_no_records(project: Project) -> None:
    """An empty source is told from one that cannot be measured."""
    with pytest.raises(SourceError, match=r"data.jsonl: holds no record$"):
        quick(job_of(project, count=0))
    assert not project.out.exists()


def test_few_records(project: Project) -> None:
    """No count is tried that could not have work; of one record there is nothing to compare, and nothing is kept."""
    found = quick(job_of(project, count=3), max_workers=None)
    assert [1, 2, 3] == [point.workers for point in found.profile.curve]
    events: list[Event] = []
    found = quick(job_of(project, count=1), max_workers=None, observers=[events.append])
    assert (False, 0, [1]) == (found.kept, found.rounds, [point.workers for point in found.profile.curve])
    assert not any("at work" in event.what for event in events if isinstance(event, TuningAdvanced))
    assert any("nothing to compare: there is one item" in line for line in charts.tuning_lines(found))


def test_nothing_could_be_told(project: Project) -> None:
    """After one round: no best, no share of sureness, nothing kept; the formula goes on, or an earlier profile."""
    job = job_of(project)
    found = quick(job)
    assert (False, None, None) == (found.kept, found.as_dict()["best"], found.as_dict()["sureness"])
    assert not any("<- best" in line for line in charts.curve_lines(found))
    lines = list(charts.tuning_lines(found))
    assert any("nothing could be told; it stays at" in line and "by the formula" in line for line in lines)
    assert any("figures of one count unknown apart" in line for line in lines)
    assert not any("sure" in line.replace("measure", "") and "%" in line for line in lines)
    assert not any("from now on" in line for line in lines)
    assert not project.out.exists()


def test_an_earlier_profile_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing could be told, what was found before counts on."""
    job = job_of(project)
    with monkeypatch.context() as patch:
        patch.setattr(trials._Load, "others", lambda _: 0.0)
        patch.setattr(sweep, "LEAST_ROUNDS", 1)
        first = quick(job, max_workers=None)
    again = quick(job)
    assert (True, False) == (first.kept, again.kept)
    assert first.profile == profile_of(job, Machine.here())
    assert (first.workers, first.sizing.binds) == (again.workers, again.sizing.binds)
    assert any("by an earlier profile" in line for line in charts.tuning_lines(again))


@pytest.mark.usefixtures("busy")
def test_company_is_told_first(project: Project) -> None:
    """That others were at work matters most; the count of CPUs has a unit that suits it."""
    found = quick(job_of(project))
    first = next(charts.tuning_lines(found))
    assert "others kept 1.5 cpus busy meanwhile: this says little; tune again when the machine is quiet" == first
    assert (False, first) == (found.kept, found.as_dict()["advice"][0])


def test_a_disk_that_is_behind_is_told_first(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one count is now fast and now slow the figures are worth little, whatever the reason."""
    found = quick(job_of(project), max_workers=1)
    assert "" == found.doubt
    paces = iter((17838.0, 17000.0, 3045.0, 3100.0, 1803.0, 1790.0))
    monkeypatch.setattr(trials.ProcessTrials, "measure", lambda *_: Trial(next(paces, 1790.0), 0.0, 0.1))
    found = quick(job_of(project), rounds=3)
    assert found.doubt.startswith("figures of one count lie ")
    assert found.doubt == next(charts.tuning_lines(found))


@pytest.mark.usefixtures("quiet")
def test_a_cap_does_not_stick(project: Project) -> None:
    """What was the most that was allowed takes nobody's place who says more."""
    job = job_of(project)
    assert not quick(job, max_workers=1).kept
    capped = replace(PROFILE, most=2)
    assert ("cpus", 8) == ((found := optimal_workers(Machine(8, 10**10), profile=capped)).binds, found.workers)
    assert ("tuned", 2) == ((found := optimal_workers(Machine(1, 10**10), profile=capped)).binds, found.workers)
    assert [None, 2, 2] == [tuning._standing(capped, 8), tuning._standing(capped, 2), tuning._standing(PROFILE, 8)]
    assert tuning._standing(None, 8) is None


@pytest.mark.parametrize("options", [{"budget": 0.0}, {"budget": 0.5}, {"budget": float("nan")}, {"rounds": 0},
                                     {"max_workers": 0}])  # fmt: skip
def test_nonsense_is_refused(project: Project, options: Any) -> None:
    """By the library, too, and before anything is done."""
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        tune(job_of(project), **options)
    assert not project.out.exists()


def test_an_item_that_ends_its_worker(project: Project) -> None:
    """Ends the tuning with a word about it, and no hang."""
    with pytest.raises(WorkerError, match=r"^an item ends its worker, 'chora-mp render' names it; nothing can be"):
        quick(waiting(project, "deadly"))
    assert [] == project.leftovers()


def test_an_item_that_hangs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is waited for no longer than an item may take, and a little more."""
    monkeypatch.setattr(trials, "_BESIDES", 0.5)
    job = waiting(project, "sleep", "limits: {timeout: 500ms}", 5)
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"^an item takes longer than 0.5 s, 'chora-mp render' names it"):
        quick(job)
    assert time.monotonic() - began < 30
    assert [] == project.leftovers()


def test_an_item_that_takes_too_long(project: Project) -> None:
    """One that is late among many in work ends the tuning, named."""
    job = waiting(project, "dream", "limits: {timeout: 10ms}")
    with pytest.raises(WorkerError, match=r"n\d+.txt \(data.jsonl:\d+\): Timeout: the item took longer than 0.01 s"):
        quick(job)
    assert [] == project.leftovers()


def test_what_a_rate_holds_back(project: Project) -> None:
    """A service that may be asked only so often is not asked at all; a rate of our own templates just binds."""
    with pytest.raises(JobError, match=r"limits.rate: holds 'nap' back, so that it decides, and no number of workers"):
        quick(waiting(project, "nap", "limits: {rate: 2/s}"))
    found = quick(job_of(project, "limits: {rate: 4/s, latency: 0.25s}"))
    assert ([1], 1) == ([point.workers for point in found.profile.curve], found.workers)


def test_what_is_paid_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that counts is asked once, if nobody says that it may be more; the one that is known not at all."""
    calls = project.folder / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    job = waiting(project, "counted")
    with pytest.raises(JobError, match=r"'counted' asks a service that counts .* --yes if it may be \(tokens\)"):
        quick(job)
    assert "x" == calls.read_text()
    assert 1 <= quick(job, paid=True).profile.workers <= 2
    assert len(calls.read_text()) > 50
    with pytest.raises(JobError, match="'code_generation' asks a service that counts"):
        quick(job_of(project, "generator: code_generation"))


@pytest.mark.usefixtures("quiet")
def test_a_folder_that_is_held(project: Project) -> None:
    """Another run at work in the output folder: exit code 2, and a word about it; `size` doesn't mind."""
    assert quick(job_of(project)).kept
    with held(str(project.out), "20261126T120000Z-abcdef"):
        with pytest.raises(LedgerError, match="another run is at work here"):
            quick(job_of(project))
        done = project.run("size", "job.yaml")
        assert (0, True) == (done.returncode, "items/s measured" in done.stdout)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(project: Project) -> None:
    """Is an error with exit code 2."""
    job_of(project)
    project.folder.chmod(0o500)
    done = project.run("tune", "job.yaml")
    project.folder.chmod(0o700)
    assert (2, True) == (done.returncode, "cannot be written to" in done.stderr)


def test_a_ledger_that_is_broken(project: Project) -> None:
    """Hinders nobody from seeing a size, and none is made by looking."""
    job_of(project)
    assert 0 == project.run("size", "job.yaml").returncode
    assert not project.out.exists()
    for content in (b"", b"nonsense", b"SQLite format 3\0" + bytes(100)):
        project.write("out/.chora-mp/ledger.db", content)
        assert (0, True) == ((done := project.run("size", "job.yaml")).returncode, "no profile for" in done.stdout)
        assert content == (project.out / ".chora-mp" / "ledger.db").read_bytes()


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command(project: Project) -> None:
    """For people a table and sentences, as JSON all of it, and a page that can be looked at without a network."""
    job_of(project)
    options = ("--budget", "3", "--rounds", "1", "--max-workers", "2")
    done = project.run("tune", "job.yaml", *options, "--plot", "curve.html", "--progress", "plain")
    assert 0 == done.returncode, done.stderr
    assert ["WORKERS", "ITEMS/S"] == done.stdout.split()[:2]
    for words in ("σ = ", "κ = ", "ITEMS/S", "nothing could be told", "an item alone: ", " binds: "):
        assert words in done.stdout
    assert "<- best" not in done.stdout
    page = (project.folder / "curve.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "measured: median, least and most" in page
    assert len(page) > 10**6  # plotly itself is in it
    found = json.loads(project.run("tune", "job.yaml", *options, "--json").stdout)
    names = {"job", "workers", "binds", "best", "curve", "sigma", "kappa", "lambda", "knee", "sureness", "sizing",
             "memory", "cpu", "wait", "growth", "span_seconds", "advice", "machine", "settled", "kept"}  # fmt: skip
    assert set() == names - found.keys()


def test_a_plot_that_has_no_place(project: Project) -> None:
    """Is known before anything is measured."""
    job_of(project)
    done = project.run("tune", "job.yaml", "--plot", "missing/curve.html")
    assert (2, "") == (done.returncode, done.stdout)
    assert "--plot missing/curve.html: cannot be written" in done.stderr
    assert not project.out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--plot", ""), "--plot '': cannot be written"),
        (("--plot", "job.yaml/x.html"), "--plot job.yaml/x.html: cannot be written"),
        (("--plot", "data.jsonl"), "--plot data.jsonl: is there and is no HTML page"),
        (("-o", ""), "-o: names no folder"),
        (("--budget", "0.9"), "0.9 s is too short"),
    ],
)
def test_what_is_refused_before_measuring(project: Project, options: tuple[str, ...], words: str) -> None:
    """With exit code 2, nothing written, nothing lost."""
    job_of(project)
    before = {path.name: path.stat().st_size for path in project.folder.iterdir()}
    done = project.run("tune", "job.yaml", *options)
    assert (2, "") == (done.returncode, done.stdout)
    assert words in done.stderr
    assert before == {path.name: path.stat().st_size for path in project.folder.iterdir()}


def test_a_page_that_is_there_is_replaced(tmp_path: Path) -> None:
    """And an empty file; anything else is no page. A file is written whole or not at all, and nothing beside it."""
    target = tmp_path / "curve.html"
    for content, is_one in (("", True), ("\n<!DOCTYPE html><p>", True), ("<html>", True), ("a,b\n1,2\n", False)):
        target.write_text(content)
        assert is_one == charts.is_page(str(target))
    assert not charts.is_page(str(tmp_path / "nothing"))
    target.chmod(0o604)
    cli._write(str(target), "<html>")
    assert ("<html>", 0o604) == (target.read_text(), target.stat().st_mode & 0o777)
    with pytest.raises(UnicodeEncodeError):
        cli._write(str(target), "\ud800")
    assert ("<html>", ["curve.html"]) == (target.read_text(), os.listdir(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(project: Project, number: signal.Signals) -> None:
    """Whenever it comes: exit code 130, one line, no folder, no process."""
    job_of(project)
    command = [sys.executable, "-m", "chora_mp", "tune", "job.yaml"]
    with subprocess.Popen(
        command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        until = time.monotonic() + 30
        while not list(project.folder.glob("out/.chora-mp/run-*/trials/trial-*")) and time.monotonic() < until:
            time.sleep(0.01)
        run.send_signal(number)
        out, err = run.communicate(timeout=30)
    assert (130, "", "chora-mp: interrupted") == (run.returncode, out, err.strip())
    assert not project.out.exists()


def test_who_interrupts_the_library(project: Project) -> None:
    """Is obeyed soon, by `Interrupted`."""
    calls = iter(range(10**6))
    with pytest.raises(Interrupted):
        quick(job_of(project), interrupted=lambda: next(calls) > 20)
    assert not project.out.exists()


PROFILE = Profile(
    "jinja2", "processes", 2, 0.97, 0.075, 30_000_000,
    (Point(1, 1234.5, 1200.0, 1300.0, 3), Point(2, 2345.6, 2300.0, 2400.0, 3), Point(3, 2300.0, 2200.0, 2380.0, 3)),
    Scaling(1234.5, 0.05, 0.01, 0.01), 0.0008, 0.0, 12.5, "2026-11-26T17:27:58Z",
    "processes", 64,
)  # fmt: skip
SIZING = Sizing(2, "tuned", (Term("tuned", 2.0, "2,346 items/s measured on 2026-11-26, 97% sure"),))
TUNING = Tuning("pages", "one cpu", PROFILE, SIZING, 400, 0, None, 3, 20.0, 0.03, 0.0, settled=True)


def test_progress_of_a_tuning() -> None:
    """A line every few seconds, or a bar, says how much of the budget is used up and what was measured last."""
    now, stream = [0.0], io.StringIO()
    lines: list[str] = []
    plain, bar = PlainProgress(lines.append, lambda: now[0]), Bar(stream)
    for share in (0.1, 0.2, 0.3):
        now[0] += PLAIN_SECONDS / 2
        for event in (
            TuningAdvanced("pages", "2 at work, round 1", share),
            TuningAdvanced("pages", "2 at work, round 1", share, 1234.5),
        ):
            plain(event)
            bar(event)
    bar.close()
    assert ["pages: 20%, 2 at work, round 1: 1,234/s"] == lines


@pytest.mark.parametrize(("width", "shown"), [(40, 1), (80, 6), (120, 6)])
def test_a_chart_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, width: int, shown: int) -> None:
    """Narrow ones get counts, throughputs and bars; no line is longer than it may be, and the best is marked."""
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    charts.print_curve(TUNING, stream)
    lines = stream.getvalue().splitlines()
    assert 4 == len(lines)
    assert all(len(line) <= width for line in lines)
    assert [False, False, True, False] == ["<- best" in line for line in lines]
    assert lines[2].count("█") > lines[1].count("█") > 0
    assert (shown > 1) == ("EFFICIENCY" in lines[0])
    assert (shown > 1) == ("LAW" in lines[0])
    assert "\x1b" not in stream.getvalue()


def test_figures_for_people() -> None:
    """What is next to nothing is not told, and what could not be told has no best."""
    lines = "\n".join(charts.tuning_lines(replace(TUNING, profile=replace(PROFILE, wait=6.43e-9, growth=1.0))))
    assert "0.8 ms of CPU, no waiting; with some to spare" in lines
    lines = "\n".join(charts.tuning_lines(replace(TUNING, profile=replace(PROFILE, wait=0.02, growth=2000.0))))
    assert "0.8 ms of CPU, 20 ms of waiting, leaves 2.0 kB behind" in lines
    assert "97% sure" in lines
    points = (Point(one.workers, 1e9 * one.throughput, 1e9 * one.least, 1e9 * one.most, 3) for one in PROFILE.curve)
    wide = replace(PROFILE, curve=tuple(points))
    shown, taken = charts._fitting(replace(TUNING, profile=wide), 80)
    assert 2 <= (shown.stop or 0) < 6
    assert taken <= 80 - 12


def test_a_page_says_nothing_to_the_browser(project: Project) -> None:
    """A job's name is text, not markup."""
    assert "<script>alert" not in charts.page(replace(TUNING, job="<script>alert(1)</script>"))


# ---- parts of it -------------------------------------------------------------------------------------------

INPUT = Input("/data.jsonl", spooled=False, name="data.jsonl")


def region(start: int, costs: list[float]) -> Region:
    """A region of pieces of two records each."""
    whole = Span(INPUT, start, 2 * len(costs))
    pieces = (Piece(whole.after(2 * at).first(2), 2, cost) for at, cost in enumerate(costs))
    return Region(whole, tuple(pieces))


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=12), st.floats(0.01, 1))
def test_spans_cover_a_region(costs: list[float], seconds: float) -> None:
    """Put together, pieces make spans of all their records, once each; what a span takes is what its pieces take."""
    one, sample = region(100, costs), Sample()
    sample.hold([one, region(500, [1.0])])
    spans = list(one.spans(seconds))
    assert list(range(100, 100 + 2 * len(costs))) == [span.seq + at for span in spans for at in range(span.count)]
    assert sum(costs) == pytest.approx(sum(sample.work(span, span.count) for span in spans))
    assert sum(costs) + 1.0 == pytest.approx(sample.seconds)
    assert costs[0] / 2 == pytest.approx(sample.work(spans[0], 1))


@given(st.integers(1, 9), st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_a_rotation_hands_out_all_alike(many: int, asked: list[int]) -> None:
    """However much is asked for at a time, no record is handed out twice more often than another."""
    spans = [Span(INPUT, 10 * number, 3) for number in range(many)]
    supply, given_out = Rotation(spans, whole=False), [0] * (10 * many)
    for count in asked:
        span = supply.take(count)
        assert 1 <= span.count <= count
        for at in range(span.seq, span.seq + span.count):
            given_out[at] += 1
    counts = [given_out[span.seq + at] for span in spans for at in range(3)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 200), st.integers(1, 5000))
def test_a_ladder_goes_up(past: int, most: int) -> None:
    """From 1 to the most, each once, with the count past the cores among them; no step more than doubles."""
    counts = list(ladder(past, most))
    assert (1, most) == (counts[0], counts[-1])
    assert counts == sorted(set(counts))
    assert past == 0 or min(past, most) in counts
    assert all(following <= 2 * count for count, following in pairwise(counts))


class FakePace:
    """Stands in for a tuning whose budget never ends; or, where it is `short`, has no time for all counts again."""

    trial_seconds = 0.0

    def __init__(self, short: bool, most_rounds: int = 12) -> None:
        self.short = short
        self.most_rounds = most_rounds

    def has(self, seconds: float, *_: Any) -> bool:
        """Whether there is time left."""
        return not self.short or seconds < 5

    def is_over(self, share: float = 1.0) -> bool:
        """Whether so much of the time is used up."""
        return self.short and share < 0.7

    def check(self) -> None:
        """Nobody interrupts."""

    def tell(self, *_: Any) -> None:
        """Nobody listens."""


def swept(truth: Callable[[int], float], seed: int, *, noise: float, others: Any = 0.0, **more: Any) -> Sweep:
    """A sweep on 2 cores over a machine that is as fast as `truth` says; `others`: CPUs, or a list of them by round."""
    draw = random.Random(seed)
    options = {"standing": None, "usual": 2, "cores": 2.0, "idle": False, "short": False, "rounds": 12, **more}

    def measure(workers: int, *_: float) -> Trial:
        company = others[len(found.rounds) % len(others)] if isinstance(others, list) else others
        return Trial(truth(workers) * draw.gauss(1, noise), company, 1.0)

    pace: Any = FakePace(options["short"], options["rounds"])
    found = Sweep(pace, measure, options["standing"], options["usual"], options["cores"], idle=options["idle"])
    found.run(1000, waits=False)
    return found


@settings(deadline=None)  # a slow machine's first example
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=12, max_size=12),
    st.sampled_from([None, 1, 2, 4, 8, 512]),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_a_sweep_always_ends_with_an_answer(
    others: list[float], standing: int | None, rounds: int, idle: bool, short: bool
) -> None:
    """Whichever rounds are the quietest, and whichever counts those have: later ones have contenders only."""
    found = swept(lambda n: 10.0 * min(n, 20), 1, noise=0.02, others=others, standing=standing, rounds=rounds,
                  idle=idle, short=short)  # fmt: skip
    assert found.chosen in found.counts == [point.workers for point in found.curve()]
    assert found.told <= (len(found.rounds) >= 3)


def test_the_first_round_is_the_loudest() -> None:
    """The count that stays while others are at work need not be in any of the rounds that count."""
    others = [2.0, 2.0, 2.0, *[1.0] * 9]
    found = swept(lambda n: 10.0 * min(n, 20), 1, noise=0.02, others=others, idle=True, short=True)
    assert not any(2 in one for one in found.judged())
    assert (True, True) == (found.chosen >= 16, found.beyond_doubt)


def test_what_was_told() -> None:
    """Enough rounds that were quiet, or an answer that no company explains; else nothing."""
    assert swept(lambda n: 100.0 * min(n, 2), 1, noise=0.01).told
    assert not swept(lambda n: 100.0 * min(n, 2), 1, noise=0.01, rounds=2).told
    assert not swept(lambda n: 100.0 * min(n, 2), 1, noise=0.01, others=1.0).told
    assert swept(lambda n: 10.0 * min(n, 20), 1, noise=0.01, others=1.0, idle=True).told


def test_sweeps_find_the_count_that_is_best() -> None:
    """On two cores two, where work waits as many as it takes; two sweeps agree in nine of ten tries."""
    bound = [swept(lambda n: 100.0 * min(n, 2) ** 0.9, seed, noise=0.02) for seed in range(40)]
    assert all(abs(one.chosen - 2) <= 1 and [1, 2, 3, 4] == one.counts for one in bound)
    waits = [swept(lambda n: 10.0 * min(n, 20), seed, noise=0.02, idle=True) for seed in range(40)]
    assert 36 <= sum(one.chosen == 32 for one in waits)
    assert {64, 128} >= {one.counts[-1] for one in waits}


def test_sweeps_in_company() -> None:
    """While others are at work the usual count stays, whatever they leave; where work waits it shows all the same."""
    busy = swept(lambda n: 100.0 * n / (n + 1), 3, noise=0.02, others=1.0)
    assert (2, False, False) == (busy.chosen, busy.quiet, busy.settled)
    assert 4 == swept(lambda n: 100.0 * n / (n + 1), 3, noise=0.02, others=1.0, standing=4).chosen
    for short in (False, True):
        waits = swept(lambda n: 10.0 * min(n, 20), 3, noise=0.02, others=1.0, idle=True, short=short)
        assert 16 <= waits.chosen
        assert waits.counts == [point.workers for point in waits.curve()]


def test_the_formula_with_a_profile() -> None:
    """The tuned count stands for the CPUs and the measured memory for the assumed; what is set still wins."""
    machine = Machine(8, 10**8)
    sizing = optimal_workers(machine, profile=PROFILE)
    assert (2, "tuned", 3.33333333333) == (sizing.workers, sizing.binds, sizing.terms[1].value)
    assert "2,346 items/s measured on 2026-11-26, 97% sure" == sizing.terms[0].detail
    assert "100 MB (given) / 30 MB per worker (measured)" == sizing.terms[1].detail
    limits = replace(Job("j", TUNING and __file__, "p", ()).limits, memory_per_item=10**8)  # type: ignore[arg-type]
    assert (1, "memory") == ((found := optimal_workers(machine, limits, profile=PROFILE)).workers, found.binds)


def test_a_machine_has_a_name(tmp_path: Any) -> None:
    """It tells machines apart that are not alike: by model, by CPUs that may be used, by memory."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast  CPU 3000\nflags\t: x\n")
    assert machine_name(Machine(1, 10**9), tmp_path).startswith("Fast CPU 3000, 1 cpu, ")
    assert machine_name(Machine(1.5, 10**9), tmp_path).startswith("Fast CPU 3000, 1.5 cpus, ")
    assert machine_name(Machine(2, 10**9), tmp_path / "none").startswith(f"{os.uname().machine}, 2 cpus, ")
