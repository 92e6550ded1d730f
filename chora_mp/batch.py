"""Rendering a job: asks for a plan, dispatches it, counts, and tells observers. Everything else is a client of this."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chora_mp import ledger as ledgers
from chora_mp.bundle import shown, take_bundle
from chora_mp.comparison import UP_TO_DATE
from chora_mp.crew import Crew
from chora_mp.dispatch import Dispatch, Surroundings
from chora_mp.errors import ChoraError, Interrupted, JobError, OutputError
from chora_mp.events import Noticed, ReadingStarted, RenderingEnded, RenderingStarted, SpanCompleted
from chora_mp.findings import load_rows
from chora_mp.lanes import InlineLane, ProcessLane
from chora_mp.ledger import Ledger, job_identity
from chora_mp.machine import Machine
from chora_mp.outputs import Folder
from chora_mp.planning import Plan, Planner, Wishes, ask_to_compile
from chora_mp.policy import Breaker, Room
from chora_mp.records import BatchResult, Failure, Failures, ItemResult, Orders
from chora_mp.selection import Selection
from chora_mp.sizing import Sizing, optimal_workers
from chora_mp.sources.chunks import MOST_RECORDS
from chora_mp.sources.stream import StreamSpans
from chora_mp.state import held, run_name, store_bundle, without_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from chora_mp.bundle import Bundle
    from chora_mp.comparison import Layout
    from chora_mp.events import Event, Observer
    from chora_mp.job import Job
    from chora_mp.lanes import Lane
    from chora_mp.policy import Stop
    from chora_mp.records import Outcome, Span
    from chora_mp.state import State

    Records = Iterable[Mapping[str, Any]]
    OnProgress = Callable[[int, int | None, str], None]

_MOST_ORPHANS = 20  # named in the summary
_MOST_TOGETHER = 1000  # items that are up to date, handed to a consumer together
_GRACE_SECONDS = 10.0  # what an interrupted run gives the items in work, where the job's timeout is not shorter


def batch_generate(
    job: Job,
    records: Records | None = None,
    *,
    on_progress: OnProgress | None = None,
    only: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    prune: bool = False,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> BatchResult:
    """Render what of `job` is not up to date, and return what became of it; failed items are in the result, not raised.

    `records` stand in for the job's source; they are rendered whether up to date or not.
    `on_progress(done, total, key)` is called after every item (total: None while nobody knows). `only` is a glob that
    keys must match, `failed` selects the items that failed last time, `shard` (I of N, from 1) those whose key's digest
    falls into it. `force` renders what is up to date, too; `prune` removes outputs whose record is gone. `interrupted`
    is asked now and then whether to stop.
    Raises `ChoraError` where the run cannot go on, `Interrupted` with the result so far.
    """
    wishes = Wishes(Selection(only, None, shard, failed), force, prune)
    return _generate(job, records, wishes, on_progress, observers, interrupted)


def batch_generate_stream(
    job: Job,
    records: Records | None = None,
    *,
    keep_text: bool = False,
    only: str | None = None,
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
    if job.output is None and not keep_text:
        raise JobError([f"{job.where('output.path')}: missing; give it, or ask for the text (keep_text=True)"])
    wishes = Wishes(Selection(only, None, shard, failed), force or keep_text)
    run = _Run(job, records, wishes, observers=observers, details=True, keep_text=keep_text)
    return (item for items in run.outcomes() for item in items)


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
    return _generate(job, None, Wishes(Selection(keys=keys)), on_progress, observers, lambda: False)


def plan(
    job: Job,
    *,
    only: str | None = None,
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
    wishes = Wishes(Selection(only, None, shard, failed), force, prune, explain=True)
    return _Run(job, None, wishes, observers=observers).plan_only()


def _generate(
    job: Job,
    records: Records | None,
    wishes: Wishes,
    on_progress: OnProgress | None,
    observers: Iterable[Observer],
    interrupted: Callable[[], bool],
) -> BatchResult:
    details = on_progress is not None
    run = _Run(job, records, wishes, observers=observers, interrupted=interrupted, details=details)
    if job.output is None:
        raise JobError([f"{job.where('output.path')}: missing; a job that writes files needs it"])
    done = 0
    for items in run.outcomes():
        for item in items if on_progress else ():
            done += 1
            on_progress(done, run.total, item.key)  # type: ignore[misc]  # there is one, or there are no items
    return run.result()


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
        details: bool = False,
        keep_text: bool = False,
    ) -> None:
        if records is None and job.source is None:
            raise JobError([f"{job.where('source')}: missing; give it, or pass the records"])
        if records is not None and (wishes.selection.failed or wishes.selection.shard or wishes.prune):
            raise JobError(["failed, shard and prune need a job with a source: passed records have no past"])
        self._job = job
        self._records = records
        self._wishes = wishes
        self._observers = tuple(observers)
        self._interrupted = interrupted
        self._details = details
        self._keep_text = keep_text
        self._id = run_name()
        self._file = os.path.abspath(job.file) if job.file else None
        self._machine = Machine.here()
        self._sizing = _size(job, self._machine)
        self._room = Room(self._sizing.workers, self._machine.memory)
        self._dispatch: Dispatch | None = None
        self._stopped: Stop | None = None
        self._plan: Plan | None = None
        self._ledger: Ledger | None = None
        self._successful = self._failed = self._skipped = self._written = 0
        self._gone: set[int] = set()
        self._workers = 0
        self._failures: list[ItemResult] = []
        self._causes: dict[Failure, Failure] = {}
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
        with self._begun() as (bundle, state), Crew(self._lane(state), self._interrupted) as crew:
            plan = self._plan = self._planned(bundle, crew, state)
            if self._interrupted():
                raise Interrupted("interrupted")
            ledger = self._opened(state)
            try:
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
        with self._begun() as (bundle, state), Crew(self._lane(state)) as crew:
            self._ledger = self._ledger or Ledger(None)
            self._plan = self._planned(bundle, crew, state)
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
        )

    def _notes(self) -> Iterator[str]:
        """What a person should know of the run besides its figures."""
        dispatch = self._dispatch
        if dispatch is not None and dispatch.attempts.repeated:
            yield f"{_count(dispatch.attempts.repeated, 'failure was', 'failures were')} tried again"
        if dispatch is not None and dispatch.cut_off:
            records = ", ".join(f"{seq + 1:,}" for seq in dispatch.cut_off)
            yield f"in work when time was up: record {records}"
        if dispatch is not None and dispatch.died:
            yield f"{_count(dispatch.died, 'worker', 'workers')} died and had another in their place"
        if dispatch is not None and dispatch.renewed:
            yield f"{_count(dispatch.renewed, 'worker was', 'workers were')} replaced, having grown too large"
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
            store_bundle(state, bundle)
            yield bundle, state

    def _own(self, ledger: Ledger) -> None:
        """Make sure that the ledger is this job's; tell if it is a new one in a damaged one's place."""
        if ledger.set_aside:
            name = shown(ledger.set_aside)
            self._tell(Noticed(f"the ledger was damaged and is set aside as {name}; every output is checked anew"))
        self._file = job_identity(ledger, self._job)

    def _lane(self, state: State) -> Lane:
        orders = Orders(
            state.bundle,
            str(self._job.output.dir) if self._job.output else None,
            state.scratch,
            state.temporary,
            self._wishes.selection.only if self._records is not None else None,
            self._details,
            self._keep_text,
            state.folder is not None,
            self._job.errors.retry_on if self._job.errors.retries else None,
            None if self._job.workers == 0 else self._job.limits.memory_per_item,
            None if self._job.workers == 0 else self._growth(),
            self._job.output is not None and self._job.output.fsync,
        )
        return InlineLane(orders) if self._job.workers == 0 else ProcessLane(orders, self._sizing.workers)

    def _growth(self) -> int:
        """By how many bytes a worker may grow: by its share, and by half of it where there is a cap at the whole."""
        asked = self._job.limits.memory_per_item
        return asked // 2 if asked else self._machine.memory // max(1, self._sizing.workers)

    def _planned(self, bundle: Bundle, crew: Crew, state: State) -> Plan:
        if self._records is not None:
            ask_to_compile(crew, self._job, "prepare")
            first = self._ledger.next_number() if self._ledger else 1
            spans = StreamSpans(self._records, first * MOST_RECORDS)
            return Plan(spans, len(self._records) if isinstance(self._records, Sized) else None)
        assert self._job.source is not None  # noqa: S101  (the constructor raised otherwise)
        self._tell(ReadingStarted(self._job.name, self._job.source.name))
        with _own_files(state):
            return Planner(self._job, bundle, crew, state.scratch, self._ledger, self._wishes).plan()

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
                    yield from _unchanged(ledger, plan.layout)
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
        ledger.drop(ledger.overwritten(plan.superseded))
        # A run that was stopped early removes nothing: it may have been stopped for what it would remove.
        if ended and self._wishes.prune and self.done == self.total and not self._interrupted():
            self._prune(ledger, plan)
        ledger.forget_failures(every=whole)
        ledger.end(self.result())
        ledger.seal()

    def _render(self, state: State, crew: Crew, plan: Plan) -> Iterator[tuple[ItemResult, ...]]:
        self._tell(RenderingStarted(self._job.name, plan.total, self._sizing))
        if plan.unchanged:
            self._tell(SpanCompleted(self.done, 0, self.total, 0))
        errors, timeout = self._job.errors, self._job.limits.timeout
        machine = Surroundings(self._room, lambda: Machine.here().memory, self._tell_of_room)
        inline = self._job.workers == 0  # where there is nothing to close
        dispatch = self._dispatch = Dispatch(crew, plan.spans, timeout, errors, None if inline else machine)
        breaker = Breaker(errors)
        todo = None if plan.total is None else plan.total - plan.unchanged
        for answer in dispatch.run():
            self._workers = crew.most_open
            if self._interrupted():
                dispatch.stop(min(_GRACE_SECONDS, timeout or _GRACE_SECONDS))
            if answer is None:
                continue
            self._record(state, *answer)
            items = self._count(answer[1])
            self._stopped = self._stopped or breaker.judge(answer[1], todo)
            if self._stopped:
                dispatch.stop()
            self._tell(SpanCompleted(self.done, self._failed, self.total, len(crew.seats), dispatch.attempts.waiting))
            yield items
        if self._interrupted():
            raise Interrupted(
                "interrupted; what is written is whole, run the same command again to go on", self.result()
            )
        if self._stopped and self._stopped.fatal:
            assert self._job.output is not None  # noqa: S101  (there is something to write)
            message = f"{self._stopped.reason}; what is written is whole, mend that and run the same command again"
            raise OutputError(f"{shown(self._job.output.dir)}: {message}")

    def _tell_of_room(self, seats: int, free: int) -> None:
        short = seats < self._room.most
        what = "memory is running short" if free < self._room.floor else "there is more memory again"
        limit = f"at most {seats:,} of {self._room.most:,} workers" if short else "as many workers as before"
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
        for item in outcome.items:
            if item.error:
                # Ten thousand items that fail alike share one error: a failing run stays small.
                cause = self._causes.setdefault(item.error, item.error)
                self._failures.append(item if cause is item.error else replace(item, error=cause))
        return _with_texts(outcome) if self._keep_text else outcome.items

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


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


def _size(job: Job, machine: Machine) -> Sizing:
    """The workers of a job: as many as it says, or as many as fit."""
    sizing = optimal_workers(machine, job.limits)
    if job.workers == "auto":
        return sizing
    return Sizing(job.workers, "workers", sizing.terms)


def _with_texts(outcome: Outcome) -> tuple[ItemResult, ...]:
    """The items with their documents, from the file that the worker left."""
    if outcome.texts is None:
        return outcome.items
    with open(outcome.texts, "rb") as file:
        texts = {item.seq: file.read(item.size).decode() for item in outcome.items if item.status == "rendered"}
    os.unlink(outcome.texts)
    return tuple(replace(item, text=texts.get(item.seq)) for item in outcome.items)
