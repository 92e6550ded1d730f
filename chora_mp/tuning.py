"""Tuning: how many workers a job is best rendered with on this machine, measured and not guessed.

A sample of the records is rendered on one worker, then by 1, 2, 3, … of them, in rounds, until more rounds would not
change the answer. `docs/tuning.md` tells how to read what comes of it; `trials` has the measuring itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp.batch import size_of
from chora_mp.bundle import take_bundle
from chora_mp.comparison import TO_RENDER
from chora_mp.crew import Crew
from chora_mp.dispatch import SPAN_SECONDS
from chora_mp.errors import Interrupted, JobError, SourceError
from chora_mp.events import ReadingStarted, TuningAdvanced
from chora_mp.figures import RESTLESS
from chora_mp.generators import PAID, built_in
from chora_mp.lanes import ProcessLane
from chora_mp.ledger import NAME, Ledger, job_identity
from chora_mp.machine import Machine, machine_name
from chora_mp.observers import Observers
from chora_mp.planning import Planner, Wishes, patience
from chora_mp.profiles import Profile
from chora_mp.records import Orders
from chora_mp.scaling import SURE, fit, spread
from chora_mp.selection import Selection
from chora_mp.sizing import CPU_FACTORS
from chora_mp.sources.chunks import FileSpans
from chora_mp.state import held, run_name, store_bundle
from chora_mp.sweep import LEAST_ROUNDS, Sweep
from chora_mp.trials import Field, ProcessTrials, Records, Sampler, WaitingTrials, complaint, make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from chora_mp.bundle import Bundle
    from chora_mp.events import Observer
    from chora_mp.job import Job
    from chora_mp.planning import Plan, PlannedGroup
    from chora_mp.profiles import Point
    from chora_mp.sizing import Limits, Sizing
    from chora_mp.state import State
    from chora_mp.trials import Sample

BUDGET = 60.0
"""Seconds that measuring takes at most, if nobody says otherwise; a trial that is begun is finished."""

LEAST_BUDGET = 1.0
"""Seconds in which one trial can be made at all."""

_MOST_ROUNDS = 12
_LEAST_TRIAL, _MOST_TRIAL = 0.3, 1.0  # seconds; a fiftieth of the budget if that lies between
_SAMPLE_SHARE = 0.06  # of the budget: gauging the sample once
_WAITS = 0.1  # the share of an item's time from which on more workers than CPUs may pay
_MARGIN = 1.5  # of the most memory that was seen: the largest record of all was hardly in the sample
_LEAST_MARGIN = 16 * 10**6  # bytes
_MOST_TRIED = 4096
_UNSTEADY = 0.4  # a quiet machine has 0.02; a disk that fell behind with writing has made 2.5


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `tune` has found: the `profile`, and what comes of it.

    `sizing`: the workers that `workers: auto` means from now on, and the term that binds. `sampled` items, `failed` of
    which failed, the first of them with `failure`. `rounds` were measured in `seconds`; `spread`: how far the figures
    of one count lay apart, as a share, None: there is one figure of each; `others`: how many CPUs others kept busy
    meanwhile. `settled`: whether more rounds would not have changed the answer. `kept`: whether the profile is in the
    ledger now; it is not where nothing could be told, and `doubt` says why, or how much company there was. `advice`:
    what a person should know of it or do about it.
    """

    job: str
    machine: str
    profile: Profile
    sizing: Sizing
    sampled: int
    failed: int
    failure: str | None
    rounds: int
    seconds: float
    spread: float | None
    others: float
    settled: bool
    kept: bool = True
    doubt: str = ""
    advice: tuple[str, ...] = field(default=())

    @property
    def workers(self) -> int:
        """How many workers, or items at a time, `workers: auto` means from now on."""
        return self.sizing.workers

    def as_dict(self) -> dict[str, Any]:
        """The tuning as `tune --json` prints it."""
        profile, scaling = self.profile, self.profile.scaling
        alone = profile.curve[0]
        told = ("generator", "lane", "span_seconds", "memory", "cpu", "wait", "growth", "measured")
        return {
            "job": self.job,
            "machine": self.machine,
            "workers": self.workers,
            "binds": self.sizing.binds,
            "kept": self.kept,
            "best": profile.workers if self.kept else None,
            "sureness": profile.sureness if self.kept else None,
            **{name: getattr(profile, name) for name in told},
            "sigma": scaling.sigma,
            "kappa": scaling.kappa,
            "lambda": scaling.rate,
            "fit_error": scaling.error,
            "knee": scaling.knee,
            "curve": [_row(point, alone, scaling.throughput(point.workers)) for point in profile.curve],
            "sizing": self.sizing.as_dict(),
            "sampled": self.sampled,
            "failed": self.failed,
            "failure": self.failure,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "spread": self.spread,
            "others": self.others,
            "settled": self.settled,
            "advice": [self.doubt, *self.advice] if self.doubt else list(self.advice),
        }


def _row(point: Point, alone: Point, predicted: float) -> dict[str, Any]:
    """A point with what follows from it: as many times as fast as one worker, that by worker, and what the law says."""
    times = point.throughput / alone.throughput * alone.workers
    return {**asdict(point), "speedup": times, "efficiency": times / point.workers, "predicted": predicted}


def tune(
    job: Job,
    *,
    budget: float = BUDGET,
    rounds: int = _MOST_ROUNDS,
    max_workers: int | None = None,
    generator: str | None = None,
    paid: bool = False,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> Tuning:
    """Measure with how many workers `job` is rendered fastest here, and keep that for `workers: auto`.

    It takes about `budget` seconds, besides the plan, the sample and clearing up, and at most so many `rounds`; no more
    than `max_workers` are tried, nor more than the limits of the job allow, nor than there are items. Where nothing can
    be told, nothing is kept. Of a mixed batch the `generator` with the most items is measured, or the one that is
    named. Documents are written to a folder of its own, which goes; outputs, and what the ledger knows of them, stay as
    they are. `paid`: measure also what asks a service that counts what it is asked.

    Raises as `batch_generate`; `JobError` for what cannot be measured, `WorkerError` where an item ends its worker,
    `ValueError` for a budget below a second, and for less than one round or worker.
    """
    _refuse_nonsense(budget, rounds, max_workers)
    if job.source is None or job.output is None:
        lacking = "source" if job.source is None else "output.path"
        raise JobError([f"{job.where(lacking)}: missing; there is nothing to measure"])
    told = Observers(observers, lambda _: None)
    try:
        return _Tuner(job, _Wish(budget, rounds, generator, paid, max_workers), told, interrupted).tuning()
    finally:
        told.close()


def _refuse_nonsense(budget: float, rounds: int, max_workers: int | None) -> None:
    if not budget >= LEAST_BUDGET:
        raise ValueError(f"budget: {budget:g} s is too short for anything to be measured; {LEAST_BUDGET:g} s at least")
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} are none; 1 at least")
    if max_workers is not None and max_workers < 1:
        raise ValueError(f"max_workers: {max_workers} are none; 1 at least")


class _Wish(NamedTuple):
    """What is asked of a tuning: the options of `tune`."""

    budget: float
    rounds: int
    generator: str | None
    paid: bool
    max_workers: int | None


class _Tuner:
    """One tuning: its folders and workers, and what was measured so far."""

    def __init__(self, job: Job, wish: _Wish, observers: Observers, interrupted: Callable[[], bool]) -> None:
        self._job = job.replace(workers="auto")
        self._asked = job.workers
        self._wish = wish
        self._observers = observers
        self._interrupted = interrupted
        self._machine = Machine.here()
        self._began = time.monotonic()
        self._id = run_name()
        self._items = 0

    def tuning(self) -> Tuning:
        """Measure, and keep it."""
        bundle = take_bundle(self._job)
        assert self._job.output is not None  # noqa: S101  (asked for by the caller)
        with held(str(self._job.output.dir), self._id) as state, contextlib.ExitStack() as stack:
            assert state.folder is not None  # noqa: S101  (there is an output folder)
            ledger = None
            if os.path.exists(os.path.join(state.folder, NAME)):
                ledger = stack.enter_context(Ledger(state.folder))
                job_identity(ledger, self._job)
            earlier = ledger.profiles(bundle.digest, self._machine) if ledger else []
            known, name = {(one.generator, one.lane): one for one in earlier}, machine_name(self._machine)
            found = self._measured(bundle, state, known, name)
            if found.kept:
                (ledger or stack.enter_context(Ledger(state.folder))).keep_profile(name, bundle.digest, found.profile)
            return found

    def _measured(self, bundle: Bundle, state: State, known: Mapping[tuple[str, str], Profile], machine: str) -> Tuning:
        store_bundle(state, bundle)
        orders = self._orders(state)
        lane = ProcessLane(orders, size_of(self._job, self._machine, self._job.limits, "processes").workers)
        with Crew(lane, self._interrupted) as crew:
            assert self._job.source is not None  # noqa: S101  (asked for by the caller)
            self._observers.tell(ReadingStarted(self._job.name, self._job.source.name))
            planner = Planner(
                self._job, bundle, crew, state.scratch, None, Wishes(Selection(), force=True), orders.texts
            )
            plan = planner.plan()
            group = self._group(plan)
            self._items = _items(group)  # before any are taken
            self._refuse_inline(group)
            self._refuse_rate(group)
            crew.renew()  # the sample is gauged by a worker that has done nothing else
            crew.ask("make_ready", seconds=patience(self._job))
            self._began = time.monotonic()
            folder = os.path.join(state.scratch, "trials")
            make_room(folder)
            self._tell("one worker alone", None)
            timeout = self._job.limits_of(group.generator).timeout
            sampler = Sampler(crew, folder, max(0.3, self._wish.budget * _SAMPLE_SHARE), timeout)
            sample = sampler.take(_records(plan, group), careful=not self._wish.paid)
            crew.renew()
            self._refuse_sample(group, sample)
            with Ledger(state.scratch) as rows:
                field_ = Field(orders, lane.workshop, folder, rows, timeout, self._interrupted)
                return self._swept(group, sample, field_, known, machine)

    def _orders(self, state: State) -> Orders:
        """As for a run, but with no output folder, no gates that hold back, and no texts of other runs."""
        limits = self._job.limits
        asked = limits.memory_per_item
        growth = asked // 2 if asked else self._machine.memory // 2
        return Orders(
            state.bundle, None, state.scratch, state.temporary, rows=True, memory=asked, growth=growth,
            fsync=self._job.output is not None and self._job.output.fsync,
            texts=os.path.join(state.scratch, "texts"), gated=self._job.generator != "jinja2",
        )  # fmt: skip

    # -- what is measured, and what is not

    def _group(self, plan: Plan) -> PlannedGroup:
        """The generator to measure: the one that is named, or the one with the most items."""
        groups = {group.generator: group for group in plan.groups if _items(group)}
        if not groups:
            assert self._job.source is not None  # noqa: S101
            which = " that can be measured by itself" if plan.total else ""
            raise SourceError(f"{self._job.source.name}: holds no record{which}")
        name = self._wish.generator
        if name is None:
            return max(groups.values(), key=_items)
        if name not in groups:
            raise JobError([f"--generator {name}: makes none of the documents; there are {', '.join(sorted(groups))}"])
        return groups[name]

    def _refuse_inline(self, group: PlannedGroup) -> None:
        """The process of the command is one, and renders one item at a time."""
        if (self._job.options_of(group.generator).lane or group.lane) == "inline":
            words = "'inline' renders in one process, so that there is nothing to tune; --lane measures another"
            raise JobError([f"{self._job.where('lane')}: {words}"])

    def _refuse_rate(self, group: PlannedGroup) -> None:
        """Nothing is called more often than it may be, and what is paid for only if somebody says so."""
        name, limits = group.generator, self._job.limits_of(group.generator)
        if limits.rate is not None and (name in PAID or name not in built_in()):
            says = "limits.latency says how long one takes" if limits.latency is None else "see 'chora-mp size'"
            held = f"holds {name!r} back, so that it decides, and no number of workers"
            raise JobError([f"{self._job.where('limits.rate')}: {held}; {says}"])
        if name in PAID and not self._wish.paid:
            raise JobError([_paid_words(name)])

    def _refuse_sample(self, group: PlannedGroup, sample: Sample) -> None:
        if sample.usage and not self._wish.paid:
            counted = ", ".join(sorted(sample.usage))
            raise JobError([f"{_paid_words(group.generator)} ({counted})"])
        if sample.failed >= sample.items:
            why = complaint(sample.failure) if sample.failure else "nobody knows why"
            raise SourceError(f"nothing can be measured: all of {sample.items:,} items failed: {why}")

    # -- measuring

    def _swept(
        self,
        group: PlannedGroup,
        sample: Sample,
        field_: Field,
        known: Mapping[tuple[str, str], Profile],
        machine: str,
    ) -> Tuning:
        """Measure counts, and what comes of it."""
        lane = self._job.options_of(group.generator).lane or group.lane
        standing, limits = known.get((group.generator, lane)), self._job.limits_of(group.generator)
        sweep, most, span_seconds, memory = self._counted(group, lane, limits, standing, sample, field_)
        profile = _profile(group, lane, sweep, sample, span_seconds, memory, most)
        counts = profile if sweep.told else standing
        sizing = size_of(self._job, self._machine, limits, lane, concurrent=group.concurrent, profile=counts)
        return Tuning(
            self._job.name,
            machine,
            profile,
            sizing,
            sample.items,
            sample.failed,
            complaint(sample.failure) if sample.failure else None,
            len(sweep.rounds) if most > 1 else 0,
            time.monotonic() - self._began,
            spread(sweep.judged()) if len(sweep.judged()) > 1 else None,
            sweep.company(),
            sweep.settled,
            sweep.told,
            self._doubt(sweep, most),
            tuple(self._advice(profile, sizing, sweep, most) if sweep.told else self._what_stays(sizing, sweep, most)),
        )

    def _counted(
        self,
        group: PlannedGroup,
        lane: str,
        limits: Limits,
        standing: Profile | None,
        sample: Sample,
        field_: Field,
    ) -> tuple[Sweep, int, float, int | None]:
        """The sweep, the most that it was allowed, the seconds of a span, and the bytes that a worker needs."""
        waits, memory = lane in CPU_FACTORS, _with_margin(sample.memory)
        most = min(self._items, self._most(limits, lane, memory, concurrent=group.concurrent))
        most = min(most, self._wish.max_workers or most)
        usual = size_of(self._job, self._machine, limits, lane, concurrent=group.concurrent).workers
        idle = waits or sample.wait > _WAITS * (sample.wait + sample.cpu)
        span_seconds = standing.span_seconds if standing else SPAN_SECONDS
        with (
            WaitingTrials(field_, sample, threads=lane == "threads", exact=lane == group.lane == "asyncio")
            if waits
            else ProcessTrials(field_, sample, most)
        ) as trials:
            best = _standing(standing, most)
            sweep = Sweep(self, trials.measure, best, usual, self._machine.cpus, idle=idle)
            if most == 1:
                sweep.alone(sample.items / sample.seconds)
            else:
                most = min(most, trials.most)
                sweep.run(most, waits=waits)
            if most > 1 and not waits and sweep.told:
                span_seconds = sweep.tune_spans(span_seconds, sample)
            elif waits:  # shared out: the worker's own is among what they need
                taken = _with_margin(sweep.memory.get(sweep.chosen, 0))
                memory = taken and taken // sweep.chosen
        return sweep, most, span_seconds, memory

    def _most(self, limits: Limits, lane: str, memory: int | None, *, concurrent: bool) -> int:
        """What all terms of the formula but the one for CPUs leave: no larger count could be used."""
        if not concurrent:
            return 1
        need = limits.memory_per_item or (None if lane == "asyncio" else memory)
        sizing = size_of(self._job, self._machine, replace(limits, memory_per_item=need), lane)
        values = [term.value for term in sizing.terms if term.name != "cpus" and term.value is not None]
        return max(1, min(_MOST_TRIED, math.floor(min(values))))

    def is_over(self, share: float = 1.0) -> bool:
        """Whether so large a share of the budget is used up."""
        return time.monotonic() - self._began > share * self._wish.budget

    def has(self, seconds: float, reserve: float) -> bool:
        """Whether so many seconds of the budget are left, besides a share of it that is held back."""
        return time.monotonic() - self._began + seconds <= (1 - reserve) * self._wish.budget

    @property
    def most_rounds(self) -> int:
        """How many rounds there are at the most."""
        return self._wish.rounds

    @property
    def trial_seconds(self) -> float:
        """How long one trial goes on for."""
        return min(_MOST_TRIAL, max(_LEAST_TRIAL, self._wish.budget / 50))

    def tell(self, workers: int, what: str, throughput: float | None) -> None:
        """Tell observers what is measured next, and what the last trial gave."""
        self._tell(f"{workers:,} at work, {what}", throughput)

    def _tell(self, what: str, throughput: float | None) -> None:
        done = min(1.0, (time.monotonic() - self._began) / self._wish.budget)
        self._observers.tell(TuningAdvanced(self._job.name, what, done, throughput))

    def check(self) -> None:
        """Raise `Interrupted` if somebody wants an end."""
        if self._interrupted():
            raise Interrupted("interrupted")

    # -- what to make of it

    def _doubt(self, sweep: Sweep, most: int) -> str:
        """What makes the figures worth less than they look; empty: nothing."""
        if most > 1 and not sweep.quiet and sweep.company() > RESTLESS * self._machine.cpus:
            company = f"{sweep.company():.1f}".removesuffix(".0")
            busy = f"{company} cpu" if company == "1" else f"{company} cpus"
            return f"others kept {busy} busy meanwhile: this says little; tune again when the machine is quiet"
        apart = spread(sweep.judged())
        if apart > _UNSTEADY:
            steadier = "a larger --budget, or an -o on another disk, may tell more"
            return f"figures of one count lie {apart:.0%} apart, as on a disk that is behind with writing: {steadier}"
        return ""

    def _what_stays(self, sizing: Sizing, sweep: Sweep, most: int) -> Iterator[str]:
        """Why nothing is kept, and what could be done about it."""
        if most == 1:
            yield "one is all that may be tried, so that there is nothing to compare: " + self._why_one(sizing)
        elif len(sweep.counts) < 2 or len(sweep.rounds) < LEAST_ROUNDS:
            had = f"there was time, or leave, for {len(sweep.rounds)} of the {LEAST_ROUNDS} rounds that it takes"
            yield f"{had}; a larger --budget, or more --rounds, makes it tell something"
        if self._asked != "auto":
            yield f"the job says 'workers: {self._asked}'; with 'workers: auto' it would be {sizing.workers:,}"

    def _why_one(self, sizing: Sizing) -> str:
        if self._wish.max_workers == 1:
            return "--max-workers 1"
        return f"{sizing.binds} binds" if sizing.workers == 1 else "there is one item"

    def _advice(self, profile: Profile, sizing: Sizing, sweep: Sweep, most: int) -> Iterator[str]:
        if self._asked == "auto":
            yield f"'workers: auto' means {sizing.workers:,} from now on, until templates or machine change"
        else:
            yield f"the job says 'workers: {self._asked}'; with 'workers: auto' it would be {sizing.workers:,}"
        if sizing.binds not in ("tuned", "generator") and sizing.workers < profile.workers:
            yield f"{profile.workers:,} would be best; {sizing.binds} allows {sizing.workers:,}"
        elif profile.is_capped:
            yield from self._capped(most)
        elif sweep.cut_off and profile.workers == max(sweep.counts):
            yield "there was no time to try more, which might be better still; --budget gives it more"
        if not sweep.settled and sweep.sureness < SURE:
            yield "it is not settled, and rounds or time were used up; a larger --budget makes it surer"

    def _capped(self, most: int) -> Iterator[str]:
        """That nobody knows what more would bring."""
        what = f"--max-workers {most}" if most == self._wish.max_workers else f"limits and records ({most:,})"
        yield f"the best is the most that {what} let it try; more might be better still"
        yield "it counts only where the formula by itself says less, and not for a 'tune' that may try more"


def _standing(earlier: Profile | None, most: int) -> int | None:
    """The answer of an earlier tuning; not one that knew of no more than it had tried, if there is more to try now."""
    return None if earlier is None or (earlier.is_capped and earlier.workers < most) else earlier.workers


def _profile(
    group: PlannedGroup, lane: str, sweep: Sweep, sample: Sample, span_seconds: float, memory: int | None, most: int
) -> Profile:
    """What is kept of it all."""
    curve = sweep.curve()
    return Profile(
        group.generator,
        lane,
        sweep.chosen,
        sweep.sureness,
        span_seconds,
        memory,
        curve,
        fit({point.workers: point.throughput for point in curve}),
        sample.cpu,
        sample.wait,
        sample.growth,
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        group.lane,
        most,
    )


def _items(group: PlannedGroup) -> int:
    return sum(spans.left or 0 for _, spans in group.parts)


def _records(plan: Plan, group: PlannedGroup) -> Records:
    """The records of a group, to take a sample from."""
    whole = [span for _, spans in group.parts for span in iter(lambda spans=spans: spans.take(1 << 62), None)]  # type: ignore[misc]
    assert plan.layout is not None  # noqa: S101  (there is a source)
    chunks, source = plan.layout.chunks, whole[0].input
    picks = plan.layout.codes.translate(TO_RENDER)
    some = None if picks.count(1) == len(picks) else picks
    ranges = [(span.seq, span.seq + span.count) for span in whole]
    return Records(ranges, lambda start, end: FileSpans(source, chunks, some, (start, end)))


def _with_margin(memory: int) -> int | None:
    """Bytes that a worker is sized by, of the most that one was seen to have; None: nobody could tell."""
    return max(int(memory * _MARGIN), memory + _LEAST_MARGIN) if memory else None


def _paid_words(name: str) -> str:
    return (
        f"{name!r} asks a service that counts what it is asked, and would be called over and over; --yes if it may be"
    )
