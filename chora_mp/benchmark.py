"""Benchmarks of a person's own job: the same items, sequentially and by more and more workers, run side by side."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from chora_mp.errors import ChoraError, JobError
from chora_mp.figures import (
    FORMAT,
    Approach,
    Benchmark,
    Facts,
    Pace,
    Run,
    Spread,
    approach_name,
    least_sample,
    most_workers,
    orders,
    sample_size,
    with_whole,
    worker_counts,
)
from chora_mp.generators import PAID
from chora_mp.machine import Machine
from chora_mp.measuring import Measured, RunError, Task, measure
from chora_mp.sampling import Kept, is_lines, sample
from chora_mp.sizing import CPU_FACTORS
from chora_mp.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from chora_mp.job import Job, Output, Source

    Told = Callable[["Step"], None]

_RAM_DISK = "/dev/shm"  # noqa: S108  (folders in it get names of their own)
_PROBES = (10, 100, 1_000, 10_000, 100_000)  # records of the first runs, until one takes long enough to tell the pace
_LONG_ENOUGH = 1.0  # seconds, or a tenth of the budget
_BLOCK = 4096  # bytes that the smallest document takes on a disk
_TRIES = 50
_PATIENCE = 4  # times what a run was expected to take: beyond that, and what an item may take, it hangs
_SLACK = 10.0  # seconds that any run may take longer, however busy the machine
_NAMING = 4  # of a budget's parts, what one item may take in the run that is to tell which one hangs
_PART = 4  # of a sample's records, one in so many for the runs that tell what starting takes
_MOST_OF_A_SAMPLE = 0.6  # more than that are not few


class Step(NamedTuple):
    """How far a benchmark has come: `what` is being done, the `done` of `total` measurements (None: not known yet)."""

    what: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a benchmark.

    `workers`: which numbers to measure; None: the familiar ones. `rounds` of all approaches; `budget`: about how many
    seconds all of it may take, `full`: all records, whatever that takes. `output_dir`: a folder for the documents.
    `paid`: the job may use services that cost money. `like`: an earlier benchmark, to be repeated as it was.
    """

    workers: tuple[int, ...] | None = None
    rounds: int = 3
    budget: float = 60.0
    full: bool = False
    output_dir: str | None = None
    paid: bool = False
    like: Benchmark | None = None


def benchmark(
    job: Job,
    wanted: Wanted | None = None,
    *,
    told: Told = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Benchmark:
    """Render the records of `job`, or a sample of them, sequentially and by several numbers of workers, in rounds.

    Each run is a fresh process that renders into an empty folder, with scan and ledger, all else as the job says, but
    that it goes on whatever fails. `told` hears of each step; `interrupted` is asked now and then whether to stop.
    The job's own output folder is neither read nor written.
    Raises `ChoraError` where nothing can be measured, `JobError` for a job that would cost money, `Interrupted`.
    """
    wanted = wanted or Wanted()
    source, output = job.source, job.output
    if source is None or output is None:
        lacking = "source" if source is None else "output.path"
        raise JobError([f"{job.where(lacking)}: missing; there is nothing to measure"])
    if not wanted.paid:
        _refuse_paid(job, {job.generator} if job.generator else set())
    job = job.replace(errors=replace(job.errors, policy="collect", max_failures=None, max_failure_share=None))
    with contextlib.ExitStack() as stack:
        bench = _Bench(job, source, output, wanted, _Teller(told), interrupted, stack)
        return bench.result()


def load_benchmark(path: str, job: str) -> Benchmark:
    """The benchmark of the job of that name that `bench --save` has written. Raises `JobError` for anything else."""
    try:
        with open(path, encoding="utf-8") as file:
            found = Benchmark.from_dict(json.load(file))
        if found.job != job:
            raise ValueError(f"is of another job ({found.job}; this is {job})")
        return found
    except OSError as error:
        raise JobError(
            [f"{path}: cannot be read ({error.strerror}); name a file that bench --save has written"]
        ) from None
    except (ValueError, RecursionError) as error:
        what = "is no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else error
        raise JobError([f"{path}: {what}; name a file that bench --save has written"]) from None


def check_savable(path: str, job: Job) -> None:
    """Know before anything is measured that a benchmark may be saved there.

    Raises `JobError` for the job file, its source, and whatever else no benchmark was saved to.
    """
    own = [("the job file", job.file), ("its source", job.source.path if job.source else None)]
    for what, file in own:
        if file is not None and os.path.exists(path) and os.path.exists(file) and os.path.samefile(path, file):
            raise JobError([f"--save {path}: is {what}; name another file"])
    if os.path.isfile(path) and os.path.getsize(path) and not _is_saved(path):
        raise JobError([f"--save {path}: is no saved benchmark, and stays as it is; name another file"])


def _is_saved(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def _refuse_paid(job: Job, generators: set[str]) -> None:
    """Raises `JobError` for what asks services that count, and maybe bill, every request."""
    reasons = [f"the generator {name} asks a service for every item" for name in generators & PAID]
    if not reasons and any(job.limits_of(name).rate is not None for name in generators or {""}):
        reasons = ["it has a rate, as services have that bill every request"]
    if reasons:
        raise JobError(
            [f"{job.where('generators')}: {reasons[0]}, and a benchmark makes each item many times; --yes does so"]
        )


class _Teller:
    """Counts steps for whoever listens."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._done = 0
        self.total: int | None = None

    def __call__(self, what: str) -> None:
        self._told(Step(what, self._done, self.total))

    def ran(self) -> None:
        """One of the measurements is done."""
        self._done += self.total is not None


class _Load(NamedTuple):
    """What every run renders: the job with its source, a `shard` of it or all, and how many records that is.

    `sampled`: the source is a sample of the job's own.
    """

    job: Job
    records: int
    shard: tuple[int, int] | None = None
    sampled: bool = False

    def placeless(self, text: str) -> str:
        """A message without lines of the source: those of a sample are not the source's."""
        source = self.job.source
        if source is None or not self.sampled:
            return text
        return re.sub(rf"{re.escape(source.name)}:\d+(:\d+)?", source.name, text)


class _Bench:
    """One benchmark under way: its folders, and what is known of the job."""

    def __init__(
        self,
        job: Job,
        source: Source,
        output: Output,
        wanted: Wanted,
        tell: _Teller,
        interrupted: Callable[[], bool],
        stack: contextlib.ExitStack,
    ) -> None:
        self._job, self._source, self._output = job, source, output
        self._wanted, self._tell, self._interrupted, self._stack = wanted, tell, interrupted, stack
        self._machine = Machine.here()
        self._place = wanted.output_dir or (_RAM_DISK if _is_writable(_RAM_DISK) else tempfile.gettempdir())
        self._folder = stack.enter_context(_scratch(tempfile.gettempdir()))
        self._documents = stack.enter_context(_scratch(self._place))
        self._samples = 0
        self._generators: tuple[str, ...] = ()  # of content configs
        self._known: tuple[int, float] | None = None  # records of a run, and seconds that it took in one process
        self._began = time.monotonic()

    def result(self) -> Benchmark:
        """All of it."""
        self._tell("reading the records")
        self._kept = self._gone_through()
        if not self._kept.total:
            raise ChoraError(f"{self._source.name}: holds no record; there is nothing to measure")
        self._tell("trying a few items")
        sizing = self._tried()
        waiting = bool(sizing.get("at_once")) or any(term["detail"] in CPU_FACTORS for term in sizing["terms"])
        asked = None if self._job.workers == "auto" else self._job.workers
        auto, tuned = self._auto(sizing["workers"])
        counts = self._counts(auto, asked, waiting=waiting, tuned=tuned)
        load = self._load(counts, waiting=waiting)
        facts = self._facts(load, auto, asked, waiting=waiting)
        found = Benchmark(self._job.name, replace(facts, tuned=tuned), self._measured(load, counts, waiting=waiting))
        return found if load.records >= self._kept.total else self._estimated(found)

    def _tried(self) -> dict[str, Any]:
        """The sizing of the job, from a run of a few of its items by workers, who may die of them."""
        load = self._of(_PROBES[0])
        found = self._once(load, "auto")
        if found.answer["deadly"]:
            raise self._deadly(load, found.answer["deadly"][0])
        sizing: dict[str, Any] = found.answer["sizing"]
        self._known = load.records, found.seconds * min(sizing["workers"], load.records)
        return sizing

    def _auto(self, formula: int) -> tuple[int, bool]:
        """The workers that `workers: auto` takes at most (0: that depends), and whether `tune` has measured it."""
        from chora_mp.batch import size_of  # noqa: PLC0415  (brings all that renders along)
        from chora_mp.upkeep import profiles_of, used_of  # noqa: PLC0415

        profiles = profiles_of(self._job, self._machine)
        if profiles and len(self._generators) > 1:  # each may have a profile of its own
            return 0, False
        profile = used_of(self._job, profiles)
        if profile is None:
            return formula, False
        job = self._job.replace(workers="auto")
        limits = job.limits_of(profile.generator)
        return size_of(job, self._machine, limits, profile.lane, profile=profile).workers, True

    def _estimated(self, found: Benchmark) -> Benchmark:
        """A sample's benchmark with what the whole would take, from shorter runs of the approach to use."""
        few = self._of(max(_PROBES[0], found.facts.records // _PART))
        if few.records > _MOST_OF_A_SAMPLE * found.facts.records:
            return found
        self._tell(f"what starting takes: {found.name(found.best)}")
        try:
            runs = [self._once(few, found.best.workers).seconds for _ in range(self._wanted.rounds)]
        except ChoraError:  # the benchmark itself stands
            return found
        return with_whole(found, few.records, Spread.of(runs))

    # -- what there is

    def _gone_through(self) -> Kept:
        """The records that samples are taken from. Content configs stay where they are: they name each other."""
        if self._source.format != "content":
            return Kept(**self._measure(Task("keep", self._job, self._path("records"))).answer)
        found = self._measure(Task("plan", self._into("plan"), self._path("plan"))).answer
        self._clear("plan")
        self._generators = tuple(found["generators"])
        if not self._wanted.paid:
            _refuse_paid(self._job, {*self._generators})
        return Kept("", found["total"], 1.0, 0.0)

    def _counts(self, auto: int, asked: int | None, *, waiting: bool, tuned: bool) -> tuple[int, ...]:
        if self._wanted.workers is not None:
            return self._sane(tuple(sorted({*self._wanted.workers} - {0})), auto, asked, waiting=waiting)
        if self._wanted.like is not None:
            return tuple(one.workers for one in self._wanted.like.approaches if one.workers)
        usual = worker_counts(self._machine.cpus, auto, asked, waiting=waiting)
        return tuple(sorted({*usual, auto})) if tuned else usual

    def _sane(self, counts: tuple[int, ...], *own: int | None, waiting: bool) -> tuple[int, ...]:
        """The counts. Raises `JobError` where one is so large that it can only harm."""
        most = most_workers(self._machine.cpus, *own, waiting=waiting)
        if counts and counts[-1] > most:
            what = "items at a time" if waiting else f"workers on {self._machine.cpus:.4g} cpus"
            raise JobError([f"--jobs: {counts[-1]:,} are too many {what}; name at most {most:,}"])
        return counts

    def _of(self, records: int) -> _Load:
        """So many of the records, or nearly so."""
        total = self._kept.total
        if records >= total:
            return _Load(self._job, total)
        if self._source.format == "content":
            parts = -(-total // records)
            return _Load(self._job, round(total / parts), (1, parts))
        self._samples += 1
        source, count = sample(self._source, self._kept, records, self._path(f"sample-{self._samples}"))
        return _Load(self._job.replace(source=source), count, sampled=True)

    # -- how much of it

    def _load(self, counts: Sequence[int], *, waiting: bool) -> _Load:
        """What is rendered in every run."""
        total, like = self._kept.total, self._wanted.like
        if self._wanted.full:
            self._room_for(self._once(self._of(_PROBES[1]), 0), total)
            return self._of(total)
        pace, last = self._pace()
        cpus = max(counts, default=1) if waiting else self._machine.cpus
        budget = self._wanted.budget
        left = max(budget / 2, budget - (time.monotonic() - self._began))
        least = least_sample(counts, waiting=waiting)
        records = sample_size(total, pace, counts, cpus, self._wanted.rounds, left, least)
        if like is not None:
            records = total if like.facts.records == like.facts.total else like.facts.records
        self._room_for(last, records)
        return self._of(records)

    def _pace(self) -> tuple[Pace, Measured]:
        """How long items take, from runs of more and more of them, and the last of these runs."""
        runs: list[tuple[int, float]] = []
        for records in _PROBES:
            load, started = self._of(records), time.monotonic()
            last = self._once(load, 0)
            runs.append((load.records, time.monotonic() - started))  # with what measuring takes
            if load.records == self._kept.total or last.seconds > min(_LONG_ENOUGH, self._wanted.budget / 10):
                break
        return Pace.of(runs), last

    def _room_for(self, run: Measured, records: int) -> None:
        """Leave the RAM disk where the documents of so many records would take more than half of what is free."""
        answer = run.answer
        each = answer["bytes_written"] / max(1, answer["successful"]) + _BLOCK
        free = min(shutil.disk_usage(self._place).free, self._machine.memory)
        if self._place == _RAM_DISK and self._wanted.output_dir is None and each * records > free / 2:
            self._place = tempfile.gettempdir()
            self._documents = self._stack.enter_context(_scratch(self._place))

    # -- the runs

    def _measured(self, load: _Load, counts: Sequence[int], *, waiting: bool) -> tuple[Approach, ...]:
        found = {workers: Approach(workers) for workers in (0, *counts)}
        rounds = self._wanted.rounds
        self._tell.total = rounds * len(found)
        for number, workers in orders(list(found), rounds):
            self._tell(f"round {number} of {rounds}: {approach_name(workers, waiting=waiting)}")
            found[workers] = self._one(found[workers], load, number)
            self._tell.ran()
        return tuple(found.values())

    def _one(self, approach: Approach, load: _Load, number: int) -> Approach:
        """The approach with one more run, or with the reason why there are no more; the baseline must not fail."""
        if approach.error:
            return approach
        try:
            run = _run(number, self._once(load, approach.workers))
        except ChoraError as error:
            if approach.workers == 0:
                raise
            return replace(approach, error=" ".join(str(error).split("\n")))
        if not run.successful:
            complaint = load.placeless(run.complaint or "")
            raise ChoraError(f"{self._job.name}: not one of {run.failed:,} items was rendered; {complaint}")
        return replace(approach, runs=(*approach.runs, run))

    def _once(self, load: _Load, workers: int | str) -> Measured:
        """One run, which is ended where it hangs; its documents are removed.

        Raises `ChoraError`, which names the item where an item has made the run come to a bad end.
        """
        try:
            found = self._rendered(load.job.replace(workers=workers), load, self._limit(load, workers))
        except RunError as error:
            raise self._explained(load, error) if workers in (0, "auto") else error from None
        except ChoraError as error:
            raise ChoraError(load.placeless(str(error))) from None
        if workers == 0:
            self._known = load.records, found.seconds
        return found

    def _rendered(self, job: Job, load: _Load, limit: float) -> Measured:
        job = job.replace(output=replace(self._output, dir=self._folder_of("out")))
        try:
            return self._measure(Task("render", job, self._path("run"), load.shard), limit)
        finally:
            self._clear("out")

    def _limit(self, load: _Load, workers: int | str) -> float:
        """Seconds after which a run hangs, as far as anybody can tell."""
        budget, timeout = self._wanted.budget, self._job.limits_of(self._job.generator or "").timeout
        records, seconds = self._known or (load.records, budget / _PATIENCE)
        item = min(timeout or budget, budget) if self._known else 0.0
        starting = workers if isinstance(workers, int) else 0  # a second for each is plenty
        return _PATIENCE * seconds * max(1.0, load.records / records) + item + _SLACK + starting

    def _explained(self, load: _Load, error: RunError) -> ChoraError:
        """Why a run came to a bad end: workers are given the same items, and tell which one it was, if it is one."""
        limits = self._job.limits
        budget = self._wanted.budget
        timeout = min(limits.timeout or budget, max(1.0, budget / _NAMING))
        errors = replace(self._job.errors, retries=0)
        job = load.job.replace(workers="auto", errors=errors, limits=replace(limits, timeout=timeout))
        self._tell("looking for the item that ended a run")
        with contextlib.suppress(ChoraError):
            if found := self._rendered(job, load, budget + _SLACK).answer["deadly"]:
                return self._deadly(load, found[0])
        what = "an item, or a plug-in, never ends, or ends the process that it is in"
        told = f"{what}, or --budget is too short; 'chora-mp render' names each such item"
        return ChoraError(f"{self._job.name}: {error}; {told}")

    def _deadly(self, load: _Load, item: dict[str, Any]) -> ChoraError:
        what = f"{load.placeless(item['key'])}: {item['error']['type']}: {item['error']['message']}"
        told = "the sequential run is one process, which would not survive it; mend the item, or leave it out"
        return ChoraError(f"{self._job.name}: {what}; {told} ('chora-mp render' names each such item)")

    def _measure(self, task: Task, limit: float | None = None) -> Measured:
        return measure(task, self._interrupted, limit)

    # -- folders

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _folder_of(self, name: str) -> Path:
        from pathlib import Path  # noqa: PLC0415

        return Path(self._documents, name)

    def _into(self, name: str) -> Job:
        return self._job.replace(output=replace(self._output, dir=self._folder_of(name)))

    def _clear(self, name: str) -> None:
        _remove(str(self._folder_of(name)))

    # -- the facts

    def _facts(self, load: _Load, auto: int, asked: int | None, *, waiting: bool) -> Facts:
        system = f"{platform.system()} {platform.machine()}"
        versions = (__version__, platform.python_version(), version("jinja2"), system)
        left_out = load.records < self._kept.total and not load.shard and not is_lines(self._source)
        about = ["every run reads all content configs, also those that are not in the sample"] if load.shard else []
        machine, read_s = self._machine, self._kept.seconds if left_out else None
        return Facts(
            *versions, machine.cpus, machine.memory, self._where(), load.records, self._kept.total,
            self._wanted.rounds, auto, asked, waiting, read_s, about=tuple(about),
        )  # fmt: skip

    def _where(self) -> str:
        """Where documents go, in words."""
        if self._place == _RAM_DISK:
            return f"a RAM disk ({_RAM_DISK})"
        mounts = [mount for mount in psutil.disk_partitions(all=True) if _is_below(self._place, mount.mountpoint)]
        kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown file system"
        return f"{self._place} ({kind})"


def _run(number: int, found: Measured) -> Run:
    answer: dict[str, Any] = found.answer
    outside = {name: getattr(found, name) for name in ("seconds", "cpu_s", "main_bytes", "all_bytes", "others")}
    told = {name: answer[name] for name in ("successful", "failed", "not_reached", "bytes_written")}
    return Run(round=number, **outside, opened=answer["workers"], **told, complaint=_complaint(answer))


def _complaint(answer: dict[str, Any]) -> str | None:
    """The first failure, in words."""
    for item in answer["failures"]:
        error = item["error"]
        place = f"{error['template']}:{error['line']}: " if error["template"] and error["line"] else ""
        return f"the first failure: {item['key']}: {place}{error['type']}: {error['message']}"
    return answer.get("stopped")


def _is_writable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), folder]) == folder


@contextlib.contextmanager
def _scratch(place: str) -> Iterator[str]:
    """A folder of our own in `place`, which is made if need be; all that was made is gone afterwards."""
    made = not os.path.isdir(place)
    try:
        os.makedirs(place, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="chora-mp-bench-", dir=place)
    except OSError as error:
        raise JobError([f"{place}: cannot be written to ({error.strerror}); name another folder"]) from None
    try:
        yield os.path.realpath(folder)
    finally:
        try:
            _remove(folder)
        except KeyboardInterrupt:  # one who keeps pressing must not leave half of it behind
            _remove(folder)
            raise
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(place)


def _remove(folder: str) -> None:
    """Remove a folder, even if processes that were killed a moment ago have not quite ended."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.02)
