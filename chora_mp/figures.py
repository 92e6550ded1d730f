"""What the runs of a benchmark tell: medians, ranges, ratios within rounds, notes, verdicts (no I/O)."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

STEPS = (1, 2, 5, 10, 20)
"""The numbers of workers that people know from such tables."""

LONGEST = 10.0
"""Seconds that the sequential run of a sample takes at most."""

FORMAT = "chora-mp bench 1"
"""What a saved benchmark begins with."""

RESTLESS = 0.1
"""The share of the CPUs beyond which what others take is nothing that a median sets right; an idle desktop has less."""

_FEWEST = 20  # records in a sample: one for each worker of the widest row
_TURNS = 10  # items that each of those that wait side by side should have: with few, the last ones wait alone
_WIDEST = 10  # workers for each CPU: more only take memory
_MOST_WAITING = 10_000  # as many coroutines as one worker has
_SURE = 3.0  # times between the least and the most that an item may take: beyond that an estimate tells nothing
_NEARLY_ALL = 0.8  # a sample of so much of the whole saves nothing worth a doubt
_ALIKE = 1.02  # less than that no three runs can tell apart


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, with the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """That of `values`, of which there is at least one."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])


@dataclass(frozen=True, slots=True)
class Run:
    """One run as seen from outside; what the system does not tell is None.

    `round` counts from 1. `seconds` of wall time; `cpu_s` of all its processes. Peaks in bytes: `main_bytes` of the
    main process, `all_bytes` of all together (pages that they share count in each). `others`: how many CPUs were kept
    busy meanwhile by anything else. `opened`: worker processes that were there at a time. `complaint`: its first
    failure.
    """

    round: int
    seconds: float
    cpu_s: float | None
    main_bytes: int | None
    all_bytes: int | None
    others: float | None
    opened: int
    successful: int
    failed: int
    not_reached: int
    bytes_written: int
    complaint: str | None = None

    @property
    def made(self) -> tuple[int, int]:
        """What every run of a job has to agree on: successful items and bytes written."""
        return self.successful, self.bytes_written


@dataclass(frozen=True, slots=True)
class Approach:
    """A number of workers (0: sequential, in the main process) and its runs; `error`: why there are no more."""

    workers: int
    runs: tuple[Run, ...] = ()
    error: str | None = None

    @property
    def seconds(self) -> Spread:
        """Wall time of a run."""
        return Spread.of(run.seconds for run in self.runs)

    @property
    def items_per_s(self) -> Spread:
        """Items, successful or failed, per second."""
        return Spread.of((run.successful + run.failed) / run.seconds for run in self.runs)

    @property
    def items_per_cpu_s(self) -> Spread | None:
        """The same per second of processor time; None: nobody knows it."""
        found = [(run.successful + run.failed) / run.cpu_s for run in self.runs if run.cpu_s]
        return Spread.of(found) if found else None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the numbers depend on.

    `cpus` and `memory` (bytes) as the process may use them; `output`: where documents went. `records` were rendered of
    `total`; `read_s`: seconds to read the whole source once, where the runs leave that out; `start_s`: what a run of
    the best approach takes however few its records; `whole`: seconds that it would take for all, None: that cannot be
    told; `few`: the records of the shorter runs from which both are known. `auto`: the workers that `workers: auto`
    takes at most, 0: that depends; `tuned`: it is what `tune` has found; `asked`: what the job itself says, None: auto.
    `waiting`: workers are items in flight. `about`: what else a reader should know.
    """

    version: str
    python: str
    jinja2: str
    system: str
    cpus: float
    memory: int
    output: str
    records: int
    total: int
    rounds: int
    auto: int
    asked: int | None = None
    waiting: bool = False
    read_s: float | None = None
    start_s: float = 0.0
    about: tuple[str, ...] = ()
    tuned: bool = False
    few: int = 0
    whole: Spread | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The approaches to one job, measured side by side; the first of them is the sequential one."""

    job: str
    facts: Facts
    approaches: tuple[Approach, ...] = field(default=())

    @property
    def measured(self) -> tuple[Approach, ...]:
        """Those that came to an end in every round."""
        return tuple(one for one in self.approaches if one.runs and not one.error)

    @property
    def fastest(self) -> Approach:
        """The one with the least median of seconds; of equals the one with fewer workers."""
        return min(self.measured, key=lambda one: (one.seconds.median, one.workers))

    @property
    def best(self) -> Approach:
        """What to use: the fewest workers that are as fast as the fastest, as far as can be told."""
        return min((one for one in self.measured if self.is_as_fast(one)), key=lambda one: one.workers)

    def ratios(self, one: Approach, other: Approach) -> list[float]:
        """How many times as fast as `other` an approach was, in each round: drift of the machine cancels out."""
        seconds = {run.round: run.seconds for run in other.runs}
        return [seconds[run.round] / run.seconds for run in one.runs if run.round in seconds]

    def speedup(self, one: Approach) -> Spread:
        """How many times as fast as the sequential approach."""
        return Spread.of(self.ratios(one, self.approaches[0]))

    def is_as_fast(self, one: Approach) -> bool:
        """Whether the rounds leave it open that an approach is slower than the fastest."""
        ratios = self.ratios(one, self.fastest)
        return max(ratios) >= 1 or statistics.median(ratios) * _ALIKE > 1

    def name(self, one: Approach) -> str:
        """What people call an approach: `sequential`, `2 workers`, `20 at a time`."""
        return approach_name(one.workers, waiting=self.facts.waiting)

    def notes(self, one: Approach) -> list[str]:
        """What is to be said of an approach besides its figures."""
        return [*self._faults(one), *self._remarks(one)]

    def _faults(self, one: Approach) -> Iterator[str]:
        """What makes its figures doubtful."""
        if one.error:
            yield one.error
        if not one.runs:
            return
        last, first = one.runs[-1], self.approaches[0].runs[0]
        if last.failed:
            yield f"{_items(last.failed)} failed"
        if last.not_reached:
            yield f"{_items(last.not_reached)} not reached"
        if {run.made for run in one.runs} != {first.made}:
            yield f"made other documents: {_items(last.successful)}, {last.bytes_written:,} B"

    def _remarks(self, one: Approach) -> Iterator[str]:
        facts = self.facts
        if one.workers == 0:
            yield "baseline"
        elif one.workers == facts.asked:
            yield "what the job says"
        elif one.workers == facts.auto:
            yield "most that workers: auto takes" + (", as tuned" if facts.tuned else "")
        if not facts.waiting and one.workers > facts.cpus:
            yield "more workers than cores"
        if not facts.waiting and one.runs and max(run.opened for run in one.runs) < one.workers:
            yield f"only {max(run.opened for run in one.runs)} had work"
        if len(self.measured) > 1 and one in self.measured:
            if one is self.fastest:
                yield "fastest"
            elif self.is_as_fast(one):
                yield "within noise of the fastest"

    def others(self) -> float | None:
        """The CPUs that everything else kept busy during the runs, on average; None: nobody knows."""
        found = [run for one in self.approaches for run in one.runs]
        busy = [run.others * run.seconds for run in found if run.others is not None]
        return sum(busy) / sum(run.seconds for run in found) if busy else None

    def is_restless(self) -> bool:
        """Whether enough else was going on to make workers look worse than they are."""
        return (self.others() or 0.0) > RESTLESS * self.facts.cpus

    def as_dict(self) -> dict[str, Any]:
        """The benchmark as `bench --json` prints it and `--save` writes it."""
        facts = self.facts
        return {
            "format": FORMAT,
            "job": self.job,
            "facts": {**asdict(facts), "about": list(facts.about)},
            "approaches": [self._row(one) for one in self.approaches],
            "others": self.others(),
            "fastest": self.name(self.fastest),
            "best": self.name(self.best),
        }

    def _row(self, one: Approach) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if one in self.measured:
            spreads = {"seconds": one.seconds, "speedup": self.speedup(one), "items_per_s": one.items_per_s}
            figures = {name: asdict(spread) for name, spread in spreads.items()}
        told = {"name": self.name(one), "workers": one.workers, "error": one.error, "notes": self.notes(one)}
        return {**told, **figures, "runs": [asdict(run) for run in one.runs]}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The benchmark that `as_dict` has told of. Raises `ValueError` for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError("is not what chora-mp bench --save has written")
        try:
            facts = _facts(data["facts"])
            found = cls(str(data["job"]), facts, tuple(map(_approach, data["approaches"])))
            if not (found.approaches[0].workers == 0 and found.measured[0] is found.approaches[0]):
                raise ValueError
            found.as_dict()  # which looks at every figure
            return found
        except (TypeError, KeyError, AttributeError, IndexError, ValueError, ArithmeticError):
            raise ValueError("is damaged") from None


def _facts(row: Mapping[str, Any]) -> Facts:
    whole = row.get("whole")
    return Facts(**{**row, "about": tuple(row["about"]), "whole": Spread(**whole) if whole else None})


def _approach(row: Mapping[str, Any]) -> Approach:
    return Approach(int(row["workers"]), tuple(Run(**run) for run in row["runs"]), row["error"])


def approach_name(workers: int, *, waiting: bool) -> str:
    """What people call so many workers, or items in flight."""
    if workers == 0:
        return "sequential"
    return f"{workers:,} at a time" if waiting else f"{workers:,} worker{'' if workers == 1 else 's'}"


def _items(number: int) -> str:
    return f"{number:,} item{'' if number == 1 else 's'}"


# ---- what to measure ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pace:
    """What an inline run takes: `fixed` seconds however few the records, and `each` for every record."""

    fixed: float
    each: float

    @classmethod
    def of(cls, runs: Sequence[tuple[int, float]]) -> Self:
        """The pace of runs of so many records that took so many seconds, the shortest first."""
        (few, short), (many, long) = runs[0], runs[-1]
        if many > few and long > short:
            each = (long - short) / (many - few)
            return cls(max(0.0, short - each * few), each)
        return cls(0.0, max(long / max(1, many), 1e-9))


def worker_counts(cpus: float, auto: int, asked: int | None, *, waiting: bool) -> tuple[int, ...]:
    """The numbers of workers to measure, beside none: the familiar ones as far as the machine goes, and one beyond.

    Those that `auto` or the job itself would take are among them. For items that wait, cores are no bound.
    """
    beyond = next((step for step in STEPS if step > cpus), None)
    usual = set(STEPS) if waiting else {step for step in STEPS if step <= cpus or step == beyond}
    own = auto if asked is None else asked
    if own and (own <= STEPS[-1] or not waiting):  # ten thousand coroutines are not a step further than twenty
        usual.add(own)
    return tuple(sorted(usual))


def least_sample(counts: Sequence[int], *, waiting: bool) -> int:
    """The records with which so many workers can show what they gain, or so many items in flight."""
    return max(_FEWEST, _TURNS * max(counts, default=0)) if waiting else _FEWEST


def most_workers(cpus: float, *own: int | None, waiting: bool) -> int:
    """The largest number of workers that makes sense to measure, `own` being those that the job would take."""
    usual = _MOST_WAITING if waiting else max(STEPS[-1], math.floor(_WIDEST * cpus))
    return max(usual, *(number or 0 for number in own))


def sample_size(
    total: int, pace: Pace, counts: Sequence[int], cpus: float, rounds: int, budget: float, least: int = _FEWEST
) -> int:
    """How many of `total` records to render so that all runs together take about `budget` seconds.

    The sequential run takes at most `LONGEST` seconds, or what `least` records take, where the budget goes so far.
    Workers are taken to bring what they can, and no less.
    """
    shares = [1.0, *(1 / max(1.0, min(count, cpus)) for count in counts)]
    room = budget / rounds - len(shares) * pace.fixed
    records = min(room / (pace.each * sum(shares)), max((LONGEST - pace.fixed) / pace.each, least))
    if records >= _NEARLY_ALL * total:
        return total
    return min(total, max(_FEWEST, math.floor(records)))


def orders(approaches: Sequence[int], rounds: int) -> Iterator[tuple[int, int]]:
    """Round and workers of every run: each round begins with another approach, so that none is always the first."""
    for number in range(rounds):
        turn = number % len(approaches)
        yield from ((number + 1, workers) for workers in (*approaches[turn:], *approaches[:turn]))


def with_whole(found: Benchmark, few: int, seconds: Spread) -> Benchmark:
    """The benchmark of a sample with what the whole would take by the best approach.

    Runs of `few` of its records took so many seconds: what a further record takes is the difference, so that the time
    for starting, whatever that is, counts once. Where noise is as large as the difference, nobody can tell.
    """
    facts, times = found.facts, found.best.seconds
    further, rest = facts.records - few, facts.total - facts.records
    low, each, high = (
        difference / further
        for difference in (times.low - seconds.high, times.median - seconds.median, times.high - seconds.low)
    )
    start = min(max(0.0, times.median - max(0.0, each) * facts.records), times.median)
    whole = None
    if low > 0 and high < _SURE * low:
        pairs = ((times.median, each), (times.low, low), (times.high, high))
        whole = Spread(*(time + one * rest + (facts.read_s or 0.0) for time, one in pairs))
    return replace(found, facts=replace(facts, start_s=start, few=few, whole=whole))


# ---- what has changed --------------------------------------------------------------------------------------


_JUDGED = ("speed-up", "items/s", "items/CPU s")
_ROUNDS_TO_JUDGE = 2

Pair = tuple[Spread, Spread]
"""A figure then and now."""


@dataclass(frozen=True, slots=True)
class Change:
    """An approach then and now; `worse` says what has become worse beyond threshold and noise.

    `items_per_cpu_s`: per second of processor time, which other programs hardly touch; None: nobody knows it.
    """

    workers: int
    speedup: Pair
    items_per_s: Pair
    items_per_cpu_s: Pair | None = None
    worse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Two benchmarks of a job compared, by what was `judged`; `remarks`: how far that can be done."""

    approaches: tuple[Change, ...]
    remarks: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing has become worse."""
        return not any(one.worse for one in self.approaches)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as `bench --json --compare` prints it."""
        return {"sound": self.sound, **asdict(self)}


def compare(before: Benchmark, after: Benchmark, threshold: float) -> Changes:
    """What has changed between two benchmarks of one job; `threshold` is a share, 0.05 for 5 %.

    Worse is a median that is lower by more than that, where no value of now reaches any of then: noise is not worse.
    Nothing is judged unless the machine was quiet both times and there are two rounds or more of both: then speed-ups,
    and items per second, of processor time, too, with the same machine, versions and records only.
    Raises `ValueError` for different jobs.
    """
    if before.job != after.job:
        raise ValueError(f"is of another job ({before.job}; this is {after.job})")
    then = {one.workers: one for one in before.measured}
    pairs = [(then[one.workers], one) for one in after.measured if one.workers in then]
    if not any(one.workers for one, _ in pairs):
        raise ValueError("has none of these numbers of workers")
    differences, doubts = list(_differences(before.facts, after.facts)), list(_doubts(before, after))
    judged = () if doubts else ("speed-up",) if differences else _JUDGED
    changes = [_change((before.speedup(old), after.speedup(new)), old, new) for old, new in pairs]
    remarks = doubts or [f"{one}: only speed-ups are judged" for one in differences]
    return Changes(tuple(_judged(one, judged, threshold) for one in changes), tuple(remarks), judged)


def _change(speedup: Pair, old: Approach, new: Approach) -> Change:
    then, now = old.items_per_cpu_s, new.items_per_cpu_s
    cpu = (then, now) if then and now else None
    return Change(new.workers, speedup, (old.items_per_s, new.items_per_s), cpu)


def _judged(change: Change, judged: Collection[str], threshold: float) -> Change:
    figures = {"speed-up": change.speedup, "items/s": change.items_per_s, "items/CPU s": change.items_per_cpu_s}
    worse = (name for name, pair in figures.items() if name in judged and pair and _is_worse(*pair, threshold))
    return replace(change, worse=tuple(worse))


def _doubts(before: Benchmark, after: Benchmark) -> Iterator[str]:
    """Why no figure tells anything. Who shares a machine shares its caches and clock, so not processor time either."""
    for when, one in (("then", before), ("now", after)):
        if one.is_restless():
            busy = f"other programs kept {one.others():.1f} cpus busy {when}"
            yield f"{busy}: nothing is judged; measure when it is quiet"
        if len(one.approaches[0].runs) < _ROUNDS_TO_JUDGE:
            yield f"there was only one round {when}, which does not tell what is noise: nothing is judged"


def _is_worse(then: Spread, now: Spread, threshold: float) -> bool:
    return now.median < then.median * (1 - threshold) and now.high < then.low


def _differences(then: Facts, now: Facts) -> Iterator[str]:
    """Why items per second are not to be compared."""
    for name in ("cpus", "python", "jinja2", "system", "output", "records"):
        old, new = getattr(then, name), getattr(now, name)
        if old != new:
            yield f"{name} was {old} and is {new}"
