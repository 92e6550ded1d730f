"""Rendering a job: asks for a plan, dispatches it, counts, and tells observers. Everything else is a client of this."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp import ledger as ledgers
from chora_mp.bundle import shown, take_bundle
from chora_mp.comparison import UP_TO_DATE
from chora_mp.crew import Crew
from chora_mp.dispatch import SPAN_SECONDS, Dispatch, Seating, Surroundings, together
from chora_mp.errors import ChoraError, Interrupted, JobError, OutputError
from chora_mp.events import (
    BatchCompleted,
    BatchStarted,
    ItemCompleted,
    ItemsCounted,
    Noticed,
    ReadingStarted,
    RenderingEnded,
    RenderingStarted,
    SpanCompleted,
)
from chora_mp.findings import load_rows
from chora_mp.gate import Gate, gate_path
from chora_mp.lanes import ConcurrentLane, InlineLane, ProcessLane
from chora_mp.ledger import Ledger, job_identity
from chora_mp.machine import Machine
from chora_mp.observers import Observers, Progress
from chora_mp.outputs import Folder
from chora_mp.planning import Plan, Planner, Wishes, alone, ask_to_compile
from chora_mp.policy import Breaker, Room, Stop
from chora_mp.records import BatchResult, Failure, Failures, ItemResult, Orders
from chora_mp.selection import Selection
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sizing import CPU_FACTORS, Sizing, Term, optimal_workers
from chora_mp.sources.chunks import MOST_RECORDS
from chora_mp.sources.stream import StreamSpans
from chora_mp.state import held, run_name, store_bundle, without_output
from chora_mp.supply import Chunked, ChunkRoom, Prioritized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from chora_mp.bundle import Bundle
    from chora_mp.comparison import Layout
    from chora_mp.dispatch import Spans
    from chora_mp.events import Event, Observer
    from chora_mp.job import Job
    from chora_mp.lanes import Lane, Workshop
    from chora_mp.planning import PlannedGroup
    from chora_mp.profiles import Profile
    from chora_mp.records import Outcome, Span
    from chora_mp.sizing import Limits
    from chora_mp.state import State

    Records = Iterable[Mapping[str, Any]]
    OnProgress = Callable[[int, int | None, str], None]

_MOST_ORPHANS = 20  # named in the summary
_TEXTS = "texts"
_MOST_TOGETHER = 1000  # items that are up to date, handed to a consumer together
_FEW = 5  # items, from which on a second worker is thought of before anybody knows how long they take
_COROUTINE_BYTES = 10**5  # what an item that waits on an event loop takes; 10,000 of them took 16 to 25 KB each
_MOST_COROUTINES = 10_000
_GRACE_SECONDS = 10.0  # what an interrupted run gives the items in work, where the job's timeout is not shorter


def batch_generate(
    job: Job,
    records: Records | None = None,
    *,
    on_progress: OnProgress | None = None,
    only: str | None = None,
    using: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    prune: bool = False,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> BatchResult:
    """Render what of `job` is not up to date, and return what became of it; failed items are in the result, not raised.

    `records` stand in for the job's source; they are rendered whether up to date or not.
    `on_progress(done, total, key)` is called after every item (total: None while nobody knows), and `observers` with
    each event: in threads of their own, so that none can slow or break the run; one that raises is told nothing more.
    `only` is a glob that keys must match, `using` selects the items whose documents are made from that template,
    `failed` those that failed last time, `shard` (I of N, from 1) those whose key's digest falls into it. `force`
    renders what is up to date, too; `prune` removes outputs whose record is gone. `interrupted` is asked now and then
    whether to stop.
    Raises `ChoraError` where the run cannot go on, `Interrupted` with the result so far.
    """
    wishes = Wishes(Selection(only, None, shard, failed, using), force, prune)
    return generate(job, records, wishes, on_progress, observers, interrupted)


def batch_generate_stream(
    job: Job,
    records: Records | None = None,
    *,
    keep_text: bool = False,
    only: str | None = None,
    using: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    observers: Iterable[Observer] = (),
) -> Iterator[ItemResult]:
    """The items of `job` as they are completed, in no promised order; those that are up to date come first.

    With `keep_text` every item is rendered and carries its text, and a job without `output` writes nothing. Memory
    stays flat however many items there are: a slow consumer slows the renderer, and closing the iterator ends it.
    Otherwise, and in what it raises, as `batch_generate`.
    """
    wishes = Wishes(Selection(only, None, shard, failed, using), force)
    return (item for items in stream(job, records, wishes, keep_text, observers) for item in items)


def retry_failed(
    failures: Iterable[ItemResult],
    job: Job | None = None,
    *,
    on_progress: OnProgress | None = None,
    observers: Iterable[Observer] = (),
) -> BatchResult:
    """Render the items of `failures` again, which are a result's: `retry_failed(result.failures)`.

    `job` is needed only for failures that are no longer those of a result, such as a list of some of them.
    Raises as `batch_generate`.
    """
    job = job or getattr(failures, "job", None)
    if job is None:
        raise JobError(
            ["retry_failed: which job these failures are of is not known; pass it: retry_failed(failures, job)"]
        )
    if job.source is None:
        raise JobError([f"{job.where('source')}: missing; records that were passed have to be passed again"])
    keys = frozenset(item.key for item in failures)
    return generate(job, None, Wishes(Selection(keys=keys)), on_progress, observers)


def plan(
    job: Job,
    *,
    only: str | None = None,
    using: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    prune: bool = False,
    observers: Iterable[Observer] = (),
) -> Plan:
    """What `batch_generate` would do, and for every item why; nothing is rendered and nothing changed.

    Options and errors as there. `plan.items` holds what is not up to date: memory grows with it.
    """
    if job.source is None or job.output is None:
        lacking = "source" if job.source is None else "output.path"
        raise JobError([f"{job.where(lacking)}: missing; there is nothing to compare"])
    wishes = Wishes(Selection(only, None, shard, failed, using), force, prune, explain=True)
    return _Run(job, None, wishes, observers=observers).plan_only()


def generate(
    job: Job,
    records: Records | None,
    wishes: Wishes,
    on_progress: OnProgress | None = None,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
    grace: float = _GRACE_SECONDS,
) -> BatchResult:
    """As `batch_generate`; who interrupts it gives the items in work at most `grace` seconds."""
    told: list[Observer] = [*observers]
    if on_progress is not None:
        told.append(Progress(on_progress))
    run = _Run(job, records, wishes, observers=told, interrupted=interrupted, grace=grace)
    if job.output is None:
        raise JobError([f"{job.where('output.path')}: missing; a job that writes files needs it"])
    for _ in run.outcomes():
        pass
    return run.result()


def stream(
    job: Job,
    records: Records | None,
    wishes: Wishes,
    keep_text: bool,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
    grace: float = _GRACE_SECONDS,
) -> Iterator[tuple[ItemResult, ...]]:
    """As `batch_generate_stream`, the items of each span together; `interrupted` and `grace` as for `generate`."""
    if job.output is None and not keep_text:
        raise JobError([f"{job.where('output.path')}: missing; give it, or ask for the text (keep_text=True)"])
    wishes = replace(wishes, force=wishes.force or keep_text)
    run = _Run(
        job,
        records,
        wishes,
        observers=observers,
        interrupted=interrupted,
        grace=grace,
        details=True,
        keep_text=keep_text,
    )
    return run.outcomes()


class _Part(NamedTuple):
    """One generator's part of a run: its crew, the dispatch of its spans, and the gate that its items go through."""

    crew: Crew
    dispatch: Dispatch
    gate: Gate | None


class _Run:
    """One run: its folders and workers, and the counts so far."""

    def __init__(
        self,
        job: Job,
        records: Records | None,
        wishes: Wishes,
        *,
        observers: Iterable[Observer],
        interrupted: Callable[[], bool] = lambda: False,
        grace: float = _GRACE_SECONDS,
        details: bool = False,
        keep_text: bool = False,
    ) -> None:
        if records is None and job.source is None:
            raise JobError([f"{job.where('source')}: missing; give it, or pass the records"])
        if records is not None and (wishes.selection.is_of_source or wishes.prune):
            raise JobError(["using, failed, shard and prune need a job with a source: passed records have no past"])
        self._job = job
        self._records = records
        self._wishes = wishes
        self._remarks: list[str] = []
        self._observers = Observers(observers, self._remark)
        self._interrupted = interrupted
        self._grace = grace
        self._details = details or self._observers.per_item or self._observers.counted
        self._counted = 0
        self._keep_text = keep_text
        self._id = run_name()
        self._file = os.path.abspath(job.file) if job.file else None
        self._machine = Machine.here()
        self._sizing = size_of(job, self._machine, job.limits_of(job.generator or ""), "processes")
        self._planners = self._sizing.workers
        self._profiles: dict[tuple[str, str], Profile] = {}
        self._room = Room(self._sizing.workers, self._machine.memory)
        self._parts: list[_Part] = []
        self._usage: Counter[str] = Counter()
        self._stopped: Stop | None = None
        self._plan: Plan | None = None
        self._ledger: Ledger | None = None
        self._successful = self._failed = self._skipped = self._written = 0
        self._gone: set[int] = set()
        self._workers = 0
        self._failures: list[ItemResult] = []
        self._causes: dict[Failure, Failure] = {}
        self._usual_lane = "inline" if job.workers == 0 else "processes"
        self._is_gated = job.generator != "jinja2" or job.limits_of("jinja2").rate is not None
        self._started = time.monotonic()

    @property
    def done(self) -> int:
        """Items dealt with so far, those that were up to date among them."""
        return self._successful + self._failed + (self._plan.unchanged if self._plan else 0)

    @property
    def total(self) -> int | None:
        """Items of the run, as far as is known: those that `only` left out are none of it."""
        return None if self._plan is None or self._plan.total is None else self._plan.total - self._skipped

    def outcomes(self) -> Iterator[tuple[ItemResult, ...]]:
        """Render; the items of each span as it is completed, or its failures alone where nobody asked for details."""
        ending = "closed by its consumer"
        try:
            yield from self._outcomes()
            ending = ""
        except (ChoraError, Interrupted) as error:
            ending = str(error)
            raise
        finally:
            if self._plan is not None:
                done = self.result()
                counts = (done.successful, done.failed, done.unchanged, done.not_reached, done.duration_s)
                self._tell(BatchCompleted(self._id, *counts, done.stopped or ending or None))
            self._observers.close()

    def _outcomes(self) -> Iterator[tuple[ItemResult, ...]]:
        with self._begun() as (bundle, state), Crew(self._first_lane(state), self._interrupted) as crew:
            plan = self._plan = self._planned(bundle, crew, state)
            if self._interrupted():
                raise Interrupted("interrupted")
            ledger = self._opened(state)
            try:
                self._tell(BatchStarted(self._id, self.total))
                if ledger is None:
                    yield from self._render(state, crew, plan)
                else:
                    yield from self._render_into(ledger, state, crew, plan)
            except ChoraError as error:
                error.result = self.result()
                raise
        self._tell(RenderingEnded(self.result()))

    def plan_only(self) -> Plan:
        """The plan, and nothing else."""
        with self._begun() as (bundle, state), Crew(self._first_lane(state)) as crew:
            self._ledger = self._ledger or Ledger(None)
            self._plan = self._planned(bundle, crew, state)
            self._observers.close()
            return self._plan

    def result(self) -> BatchResult:
        """The summary as things stand."""
        seconds = time.monotonic() - self._started
        total = self.done if self.total is None else self.total
        rendered = self._successful + self._failed
        orphans = (
            [] if self._plan is None else [output.path for output in self._plan.orphans if output.at not in self._gone]
        )
        return BatchResult(
            self._job.name,
            self._id,
            total,
            self._successful,
            self._failed,
            self._plan.unchanged if self._plan else 0,
            total - self.done,
            len(self._gone),
            seconds,
            rendered / seconds if seconds else 0.0,
            self._written,
            self._workers,
            self._sizing.as_dict(),
            Failures(self._job, sorted(self._failures, key=lambda item: item.seq)),
            len(orphans),
            tuple(orphans[:_MOST_ORPHANS]),
            self._wishes.prune,
            self._stopped.reason if self._stopped else None,
            tuple(self._notes()),
            tuple(self._usage.items()),
        )

    def _notes(self) -> Iterator[str]:
        """What a person should know of the run besides its figures."""
        yield from self._remarks
        dispatches = [part.dispatch for part in self._parts]
        if repeated := sum(dispatch.attempts.repeated for dispatch in dispatches):
            yield f"{_count(repeated, 'failure was', 'failures were')} tried again"
        if cut_off := sorted(seq for dispatch in dispatches for seq in dispatch.cut_off):
            yield f"in work when time was up: record {', '.join(f'{seq + 1:,}' for seq in cut_off)}"
        if died := sum(dispatch.died for dispatch in dispatches):
            yield f"{_count(died, 'worker', 'workers')} died and had another in their place"
        if renewed := sum(dispatch.renewed for dispatch in dispatches):
            yield f"{_count(renewed, 'worker was', 'workers were')} replaced, having grown too large"
        if self._room.least < self._room.most:
            few, most = self._room.least, self._room.most
            yield f"memory ran short: at times there was room for no more than {few:,} of {most:,} workers"

    # -- beginning

    @contextlib.contextmanager
    def _begun(self) -> Iterator[tuple[Bundle, State]]:
        """The bundle, and the state folder with this run's name on it."""
        self._started = time.monotonic()
        bundle = take_bundle(self._job)
        output = self._job.output
        with (
            held(str(output.dir), self._id) if output else without_output(self._id) as state,
            contextlib.ExitStack() as stack,
        ):
            if state.folder is not None and os.path.exists(os.path.join(state.folder, ledgers.NAME)):
                self._ledger = stack.enter_context(Ledger(state.folder, replace=not self._wishes.explain))
                self._own(self._ledger)
                self._heed_profiles(self._ledger, bundle)
            store_bundle(state, bundle)
            yield bundle, state

    def _own(self, ledger: Ledger) -> None:
        """Make sure that the ledger is this job's; tell if it is a new one in a damaged one's place."""
        if ledger.set_aside:
            name = shown(ledger.set_aside)
            self._tell(Noticed(f"the ledger was damaged and is set aside as {name}; every output is checked anew"))
        self._file = job_identity(ledger, self._job)

    def _heed_profiles(self, ledger: Ledger, bundle: Bundle) -> None:
        """Take what `tune` has measured with these templates on this machine for the number of workers."""
        found = ledger.profiles(bundle.digest, self._machine) if self._job.workers == "auto" else []
        self._profiles = {(one.generator, one.lane): one for one in found}
        name = self._job.generator or ""
        if profile := self._profiles.get((name, "processes")):
            limits = self._job.limits_of(name)
            self._sizing = size_of(self._job, self._machine, limits, "processes", profile=profile)

    def _first_lane(self, state: State) -> Lane:
        """The lane that the plan is made on, and most items are rendered on."""
        # For the plan no more than there are CPUs, whatever the items will wait for.
        return self._lane(state, self._usual_lane, min(self._planners, self._sizing.workers))

    def _lane(self, state: State, kind: str, most: int, workshop: Workshop | None = None) -> Lane:
        """The lane `processes`, of so many, or `inline`; `workshop`: that of the run's first lane, None: it is that."""
        orders = self._orders(state)
        return InlineLane(orders, workshop) if kind == "inline" else ProcessLane(orders, most, workshop)

    def _waiting_lane(
        self, state: State, group: PlannedGroup, kind: str, most: int, timeout: float | None, workshop: Workshop
    ) -> Lane:
        """The lane `threads` or `asyncio`, with so many items in work at a time."""
        orders = self._orders(state)
        growth = self._machine.memory if self._job.limits.memory_per_item is None else orders.growth
        orders = replace(orders, in_flight=most, threads=kind == "threads", timeout=timeout, growth=growth)
        return ConcurrentLane(orders, workshop, exact=kind == group.lane == "asyncio")

    def _orders(self, state: State) -> Orders:
        job, inline = self._job, self._job.workers == 0
        return Orders(
            state.bundle,
            str(job.output.dir) if job.output else None,
            state.scratch,
            state.temporary,
            self._wishes.selection.only if self._records is not None else None,
            self._details,
            self._keep_text,
            state.folder is not None,
            job.errors.retry_on if job.errors.retries else None,
            None if inline else job.limits.memory_per_item,
            None if inline else self._growth(),
            job.output is not None and job.output.fsync,
            self._texts(state),
            self._is_gated,
            job.limits.rate,
            {name: job.limits_of(name).rate for name in job.generators},
        )

    @staticmethod
    def _texts(state: State) -> str:
        """The folder with the texts that documents take from each other: it outlasts the run, as documents do."""
        return os.path.join(state.folder or state.scratch, _TEXTS)

    def _growth(self) -> int:
        """By how many bytes a worker may grow: by its share, and by half of it where there is a cap at the whole."""
        asked = self._job.limits.memory_per_item
        return asked // 2 if asked else self._machine.memory // max(1, self._sizing.workers)

    def _planned(self, bundle: Bundle, crew: Crew, state: State) -> Plan:
        if self._records is not None:
            ask_to_compile(crew, self._job, "prepare")
            first = self._ledger.next_number() if self._ledger else 1
            spans = StreamSpans(self._records, first * MOST_RECORDS)
            return Plan(
                [alone(crew, self._job, spans)], len(self._records) if isinstance(self._records, Sized) else None
            )
        assert self._job.source is not None  # noqa: S101  (the constructor raised otherwise)
        self._tell(ReadingStarted(self._job.name, self._job.source.name))
        with _own_files(state):
            return Planner(
                self._job, bundle, crew, state.scratch, self._ledger, self._wishes, self._texts(state)
            ).plan()

    def _opened(self, state: State) -> Ledger | None:
        """The ledger, made now if it is the first run here; none where nothing is written."""
        if state.folder is not None and self._ledger is None:
            self._ledger = Ledger(state.folder)
        return self._ledger

    # -- rendering

    def _render_into(self, ledger: Ledger, state: State, crew: Crew, plan: Plan) -> Iterator[tuple[ItemResult, ...]]:
        """Render, and take down what becomes of it."""
        ended = False
        with ledger:
            ledger.begin(self._id, self._job.name, self._file, self._options())
            if self._records is not None:
                ledger.forget_sources()
            try:
                if self._details and plan.unchanged and plan.layout is not None:
                    yield from self._told(_unchanged(ledger, plan.layout))
                yield from self._render(state, crew, plan)
                ended = True
            finally:
                self._conclude(ledger, plan, ended=ended)

    def _conclude(self, ledger: Ledger, plan: Plan, *, ended: bool) -> None:
        """Keep what is known now; the next run relies on it only if this one came to its end."""
        news = self._successful + self._failed or plan.changed
        if plan.layout is not None and plan.known is not None and news:
            ledger.keep_closures(plan.closures)
            # Each record was rendered in this very run: then each has its row.
            all_done = self._successful == plan.layout.chunks.records
            shard = self._wishes.selection.shard_name
            ledger.keep_source(shard, plan.known, plan.layout.rows, ended=ended, all_done=all_done)
        if self._records is not None:
            ledger.drop_doubles()
        whole = ended and self._wishes.selection == Selection() and self.done == self.total
        if whole and plan.texts is not None:
            self._forget_texts(plan.texts)
        ledger.drop(ledger.overwritten(plan.superseded))
        # A run that was stopped early removes nothing: it may have been stopped for what it would remove.
        if ended and self._wishes.prune and self.done == self.total and not self._interrupted():
            self._prune(ledger, plan)
        ledger.forget_failures(every=whole)
        ledger.end(self.result())
        ledger.seal()

    def _forget_texts(self, names: Collection[str]) -> None:
        """Remove the texts that no document needs any more."""
        assert self._job.output is not None  # noqa: S101  (there is a ledger)
        folder = os.path.join(self._job.output.dir, STATE_FOLDER, _TEXTS)
        with contextlib.suppress(OSError):  # there are none, or they stay
            for name in os.listdir(folder):
                if name not in names:
                    os.unlink(os.path.join(folder, name))

    def _render(self, state: State, crew: Crew, plan: Plan) -> Iterator[tuple[ItemResult, ...]]:
        self._tell(RenderingStarted(self._job.name, plan.total, self._sizing))
        if plan.unchanged:
            self._tell(SpanCompleted(self.done, 0, self.total, 0))
        errors, timeout = self._job.errors, self._job.limits.timeout
        breaker = Breaker(errors)
        todo = None if plan.total is None else plan.total - plan.unchanged
        with contextlib.ExitStack() as stack:
            parts = self._parts = list(self._staffed(state, crew, plan, todo, stack))
            for answer in together([part.dispatch for part in parts]):
                self._workers = max(self._workers, sum(part.crew.most_open for part in parts))
                if self._interrupted():
                    self._stop(min(self._grace, timeout or self._grace))
                elif self._is_out_of_time():
                    self._stop(0.0)
                if answer is None:
                    continue
                self._record(state, *answer)
                items = self._count(answer[1])
                self._stopped = self._stopped or breaker.judge(answer[1], todo)
                if self._stopped:
                    self._stop()
                seats = sum(len(part.crew.seats) for part in parts)
                waiting = sum(part.dispatch.attempts.waiting for part in parts)
                self._tell(SpanCompleted(self.done, self._failed, self.total, seats, waiting))
                yield from self._told([items])
        if self._interrupted():
            raise Interrupted(
                "interrupted; what is written is whole, run the same command again to go on", self.result()
            )
        if self._stopped and self._stopped.fatal:
            assert self._job.output is not None  # noqa: S101  (there is something to write)
            message = f"{self._stopped.reason}; what is written is whole, mend that and run the same command again"
            raise OutputError(f"{shown(self._job.output.dir)}: {message}")

    def _staffed(
        self, state: State, crew: Crew, plan: Plan, todo: int | None, stack: contextlib.ExitStack
    ) -> Iterator[_Part]:
        """A crew and its dispatch for each generator that has something to do; `crew` is the one that made the plan."""
        free: Crew | None = crew
        room = None if self._job.limits.batch_size is None else ChunkRoom(self._job.limits.batch_size)
        ladder: list[tuple[str, Prioritized]] = []
        alone = len(plan.groups) == 1
        terms: list[Term] = []
        for group in plan.groups:
            asked = self._job.options_of(group.generator).lane
            lane = "inline" if self._job.workers == 0 else asked or group.lane
            limits = self._job.limits_of(group.generator)
            if limits.batch_memory is not None:
                limits = replace(limits, batch_memory=max(1, limits.batch_memory // len(plan.groups)))
            profile = self._profiles.get((group.generator, lane))
            sizing = size_of(self._job, self._machine, limits, lane, concurrent=group.concurrent, profile=profile)
            terms.append(Term(group.generator or "unknown", float(sizing.workers), lane))
            if lane == self._usual_lane and free is not None:  # the plan's own crew, for the first that it suits
                mine, free = free, None
                if isinstance(mine.lane, ProcessLane):
                    mine.lane.limit(sizing.workers)
            else:
                workshop, most = crew.lane.workshop, sizing.workers
                made = (
                    self._waiting_lane(state, group, lane, most, limits.timeout, workshop)
                    if lane in CPU_FACTORS
                    else self._lane(state, lane, most, workshop)
                )
                mine = stack.enter_context(Crew(made, self._interrupted))
            plain = alone and len(group.parts) == 1 and group.needs is None
            spans: Spans = group.parts[0][1] if plain else self._supply(group, lane, ladder)
            if room is not None:
                spans = Chunked(spans, room)
            gate = Gate(gate_path(state.scratch, group.generator), None) if self._is_gated else None
            if gate is not None:
                stack.callback(gate.let_go)
            if alone:
                self._sizing = sizing
            seconds = profile.span_seconds if profile is not None else SPAN_SECONDS
            yield _Part(mine, self._dispatched(mine, spans, lane, limits, sizing, todo, seconds, alone=alone), gate)
        if not alone:
            self._sizing = Sizing(sum(int(term.value or 0) for term in terms), "generators", tuple(terms))

    def _supply(self, group: PlannedGroup, lane: str, ladder: list[tuple[str, Prioritized]]) -> Prioritized:
        """A generator's spans by priority; on the same kind of lane the most urgent ones of all go first."""

        def may_go_on(priority: float) -> bool:
            others = [supply.most_urgent() for kind, supply in ladder if kind == lane and supply is not mine]
            return all(other is None or other <= priority for other in others)

        mine = Prioritized(group.parts, may_go_on, group.needs)
        ladder.append((lane, mine))
        return mine

    def _dispatched(
        self,
        crew: Crew,
        spans: Spans,
        lane: str,
        limits: Limits,
        sizing: Sizing,
        todo: int | None,
        seconds: float,
        *,
        alone: bool,
    ) -> Dispatch:
        surroundings = None
        if lane == "processes":
            room = self._room = Room(sizing.workers, self._machine.memory)
            surroundings = Surroundings(
                room, lambda: Machine.here().memory, lambda n, free: self._tell_of_room(room, n, free)
            )
        # Who wants to stop early had better begin with little.
        knows = self._ledger is not None and alone and self._job.errors.policy == "collect"
        last = self._ledger.seconds_an_item() if self._ledger is not None and knows else None
        few = todo is not None and todo < _FEW
        seating = Seating(self._job.workers != "auto", few, last)
        return Dispatch(
            crew, spans, limits.timeout, self._job.errors, surroundings, seating=seating, span_seconds=seconds
        )

    def _stop(self, seconds: float = float("inf")) -> None:
        """Begin nothing more, and let what is in work end, for so long."""
        for part in self._parts:
            part.dispatch.stop(seconds)
            if part.gate is not None:
                part.gate.close()

    def _is_out_of_time(self) -> bool:
        """Whether the batch has taken what it may."""
        most = self._job.limits.batch_timeout
        late = most is not None and time.monotonic() - self._started > most
        if late and self._stopped is None:
            self._stopped = Stop(f"the batch has taken longer than limits.batch_timeout allows ({most:g} s)")
        return late

    def _tell_of_room(self, room: Room, seats: int, free: int) -> None:
        short = seats < room.most
        what = "memory is running short" if free < room.floor else "there is more memory again"
        limit = f"at most {seats:,} of {room.most:,} workers" if short else "as many workers as before"
        self._tell(Noticed(f"{what} ({free / 10**6:,.0f} MB free): {limit}"))

    def _record(self, state: State, span: Span, outcome: Outcome) -> None:
        """Take down what became of a span."""
        ledger = self._ledger
        if ledger is None:
            return
        with _own_files(state):
            rows = load_rows(outcome.rows) if outcome.rows else []
        failures = ((_place(item, span), item) for item in outcome.items if item.error)
        ledger.record(rows, failures, [(span.at(seq), tries) for seq, tries in outcome.tries])

    def _prune(self, ledger: Ledger, plan: Plan) -> None:
        """Remove the outputs whose record is gone, but for those that somebody has edited since."""
        assert self._job.output is not None  # noqa: S101  (there is a ledger)
        folder = Folder(str(self._job.output.dir))
        self._gone = {output.at for output in plan.orphans if folder.remove(output)}
        folder.close()
        ledger.drop(self._gone)

    def _options(self) -> dict[str, Any]:
        """What the person asked for that a later reader of the ledger wants to know."""
        wishes, job = self._wishes, self._job
        options = {
            "only": wishes.selection.only,
            "shard": wishes.selection.shard_name or None,
            "failed": wishes.selection.failed,
            "force": wishes.force,
            "prune": wishes.prune,
            "workers": job.workers,
            "timeout": job.limits.timeout,
            "policy": job.errors.policy,
        }
        return {name: value for name, value in options.items() if value is not None and value is not False}

    def _count(self, outcome: Outcome) -> tuple[ItemResult, ...]:
        self._successful += outcome.rendered
        self._failed += outcome.failed
        self._skipped += outcome.skipped
        self._written += outcome.written
        if outcome.usage:
            self._usage.update(dict(outcome.usage))
        for item in outcome.items:
            if item.error:
                # Ten thousand items that fail alike share one error: a failing run stays small.
                cause = self._causes.setdefault(item.error, item.error)
                self._failures.append(item if cause is item.error else replace(item, error=cause))
        return _with_texts(outcome) if self._keep_text else outcome.items

    def _tell(self, event: Event) -> None:
        self._observers.tell(event)

    def _told(self, many: Iterable[tuple[ItemResult, ...]]) -> Iterator[tuple[ItemResult, ...]]:
        """The items, after those have heard of them who want to hear of each."""
        for items in many:
            if self._observers.per_item:
                self._observers.tell_all([self._completed(item) for item in items])
            if self._observers.counted and items:
                self._counted += len(items)
                keys = tuple(item.key for item in items)
                self._tell(ItemsCounted(self._counted, self.total, keys))
            yield items

    def _completed(self, item: ItemResult) -> ItemCompleted:
        facts = (item.key, item.path, item.status, item.size, item.digest, item.duration_s, item.attempts)
        return ItemCompleted(self._id, *facts, item.generator, item.error, item.usage or None)

    def _remark(self, text: str) -> None:
        """Note what is the matter with an observer, and tell the others."""
        self._remarks.append(text)
        self._tell(Noticed(text))


@contextlib.contextmanager
def _own_files(state: State) -> Iterator[None]:
    """Turn what befalls the run's own files, on a full disk for one, into an error that names them."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{shown(error.filename or state.scratch)}: {error.strerror or error}") from None


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _place(item: ItemResult, span: Span) -> int | None:
    """Where a failed item stands in the ledger; nowhere if it has no key."""
    return None if item.unkeyed else span.at(item.seq)


def _unchanged(ledger: Ledger, layout: Layout) -> Iterator[tuple[ItemResult, ...]]:
    """The items that are up to date, some at a time."""
    items: list[ItemResult] = []
    for output in ledger.outputs():
        seq = layout.seq(output.at)
        if seq is not None and layout.codes[seq] == UP_TO_DATE:
            digest = output.digest.hex()
            items.append(ItemResult(output.key, output.path, seq, "unchanged", output.size, digest, attempts=0))
        if len(items) >= _MOST_TOGETHER:
            yield tuple(items)
            items.clear()
    if items:
        yield tuple(items)


def size_of(
    job: Job, machine: Machine, limits: Limits, lane: str, *, concurrent: bool = True, profile: Profile | None = None
) -> Sizing:
    """The workers of a lane, or its items in work at a time: as many as the job says, or as many as fit."""
    factor, most_asked = CPU_FACTORS.get(lane, 1.0), limits.max_in_flight
    if lane == "asyncio":
        measured = profile.memory if profile is not None else None
        need = limits.memory_per_item or measured or _COROUTINE_BYTES
        most = _MOST_COROUTINES if limits.max_in_flight is None else limits.max_in_flight
        limits = replace(limits, memory_per_item=need, max_in_flight=most)
    sizing = optimal_workers(machine, limits, cpu_factor=factor, profile=profile)
    if lane == "asyncio" and most_asked is None:
        words = "as many coroutines as one worker has at a time, if limits.max_in_flight does not say"
        sizing = replace(sizing, terms=(*sizing.terms[:-1], replace(sizing.terms[-1], detail=words)))
    if job.workers != "auto":
        most = sys.maxsize if limits.max_in_flight is None else limits.max_in_flight
        sizing = Sizing(min(job.workers, most), "workers" if job.workers <= most else "max_in_flight", sizing.terms)
    if not concurrent:
        sizing = Sizing(min(1, sizing.workers), "generator", sizing.terms)
    return replace(sizing, at_once=lane in CPU_FACTORS)


def _with_texts(outcome: Outcome) -> tuple[ItemResult, ...]:
    """The items with their documents, from the file that the worker left."""
    if outcome.texts is None:
        return outcome.items
    with open(outcome.texts, "rb") as file:
        texts = {item.seq: file.read(item.size).decode() for item in outcome.items if item.status == "rendered"}
    os.unlink(outcome.texts)
    return tuple(replace(item, text=texts.get(item.seq)) for item in outcome.items)
