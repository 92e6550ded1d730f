"""Rendering a job: asks for a plan, dispatches it, counts, and tells observers. Everything else is a client of this."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import shutil
import tempfile
import time
from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chora_mp.bundle import shown, take_bundle
from chora_mp.crew import Crew
from chora_mp.dispatch import Dispatch
from chora_mp.errors import Interrupted, JobError, OutputError
from chora_mp.events import ReadingStarted, RenderingEnded, RenderingStarted, SpanCompleted
from chora_mp.lanes import InlineLane, ProcessLane
from chora_mp.planning import Plan, make_plan
from chora_mp.records import BatchResult, Failure, ItemResult, Orders
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sizing import Sizing, optimal_workers
from chora_mp.sources.stream import StreamSpans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from chora_mp.events import Event, Observer
    from chora_mp.job import Job
    from chora_mp.lanes import Lane
    from chora_mp.records import Outcome

    Records = Iterable[Mapping[str, Any]]
    OnProgress = Callable[[int, int | None, str], None]

_GRACE_SECONDS = 10.0  # what an interrupted run gives the items in work, where the job's timeout is not shorter


def batch_generate(
    job: Job,
    records: Records | None = None,
    *,
    on_progress: OnProgress | None = None,
    only: str | None = None,
    observers: Iterable[Observer] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> BatchResult:
    """Render `job` and return what became of it; failed items are in the result, not raised.

    `records` stand in for the job's source. `on_progress(done, total, key)` is called after every item (total: None
    while nobody knows). `only` is a glob that keys must match. `interrupted` is asked now and then whether to stop.
    Raises `ChoraError` where the run cannot go on, `Interrupted` with the result so far.
    """
    run = _Run(job, records, only=only, observers=observers, interrupted=interrupted, details=on_progress is not None)
    if job.output is None:
        raise JobError([f"{job.where('output.path')}: missing; a job that writes files needs it"])
    for items in run.outcomes():
        if on_progress:
            for done, item in enumerate(items, run.done - len(items) + 1):
                on_progress(done, run.total, item.key)
    return run.result()


def batch_generate_stream(
    job: Job,
    records: Records | None = None,
    *,
    keep_text: bool = False,
    only: str | None = None,
    observers: Iterable[Observer] = (),
) -> Iterator[ItemResult]:
    """The items of `job` as they are completed, in no promised order.

    With `keep_text` every rendered item carries its text, and a job without `output` writes nothing. Memory stays flat
    however many items there are: a slow consumer slows the renderer, and closing the iterator ends it.
    Raises as `batch_generate`.
    """
    if job.output is None and not keep_text:
        raise JobError([f"{job.where('output.path')}: missing; give it, or ask for the text (keep_text=True)"])
    run = _Run(job, records, only=only, observers=observers, details=True, keep_text=keep_text)
    return (item for items in run.outcomes() for item in items)


class _Run:
    """One run: its folders and workers, and the counts so far."""

    def __init__(
        self,
        job: Job,
        records: Records | None,
        *,
        only: str | None,
        observers: Iterable[Observer],
        interrupted: Callable[[], bool] = lambda: False,
        details: bool = False,
        keep_text: bool = False,
    ) -> None:
        if records is None and job.source is None:
            raise JobError([f"{job.where('source')}: missing; give it, or pass the records"])
        self._job = job
        self._records = records
        self._only = only
        self._observers = tuple(observers)
        self._interrupted = interrupted
        self._details = details
        self._keep_text = keep_text
        self._id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        self._sizing = _size(job)
        self._plan_total: int | None = None
        self._successful = self._failed = self._skipped = self._written = 0
        self._workers = 0
        self._failures: list[ItemResult] = []
        self._causes: dict[Failure, Failure] = {}
        self._started = time.monotonic()

    @property
    def done(self) -> int:
        """Items dealt with so far."""
        return self._successful + self._failed

    @property
    def total(self) -> int | None:
        """Items of the run, as far as is known: those that `only` left out are none of it."""
        return None if self._plan_total is None else self._plan_total - self._skipped

    def outcomes(self) -> Iterator[tuple[ItemResult, ...]]:
        """Render; the items of each span as it is completed, or its failures alone where nobody asked for details."""
        self._started = time.monotonic()
        bundle = take_bundle(self._job)
        with _folders(self._job, self._id) as scratch:
            orders = Orders(
                os.path.join(scratch, "bundle"),
                str(self._job.output.dir) if self._job.output else None,
                scratch,
                f".chora-{self._id[-6:]}-",
                self._only,
                self._details,
                self._keep_text,
            )
            _store(orders.bundle, bundle)
            with Crew(self._lane(orders)) as crew:
                crew.ask("prepare")
                yield from self._render(crew, self._plan(crew, scratch))
        self._tell(RenderingEnded(self.result()))

    def result(self) -> BatchResult:
        """The summary as things stand."""
        seconds = time.monotonic() - self._started
        total = self.done if self.total is None else self.total
        return BatchResult(
            self._job.name,
            self._id,
            total,
            self._successful,
            self._failed,
            0,
            total - self.done,
            0,
            seconds,
            self.done / seconds if seconds else 0.0,
            self._written,
            self._workers,
            self._sizing.as_dict(),
            tuple(sorted(self._failures, key=lambda item: item.seq)),
        )

    def _lane(self, orders: Orders) -> Lane:
        return InlineLane(orders) if self._job.workers == 0 else ProcessLane(orders, self._sizing.workers)

    def _plan(self, crew: Crew, scratch: str) -> Plan:
        if self._records is not None:
            return Plan(StreamSpans(self._records), len(self._records) if isinstance(self._records, Sized) else None)
        assert self._job.source is not None  # noqa: S101  (the constructor raised otherwise)
        self._tell(ReadingStarted(self._job.name, self._job.source.name))
        return make_plan(self._job.source, crew, scratch)

    def _render(self, crew: Crew, plan: Plan) -> Iterator[tuple[ItemResult, ...]]:
        self._plan_total = plan.total
        self._tell(RenderingStarted(self._job.name, plan.total, self._sizing))
        dispatch = Dispatch(crew, plan.spans, self._job.limits.timeout)
        for answer in dispatch.run():
            self._workers = crew.most_open
            if self._interrupted():
                dispatch.stop(min(_GRACE_SECONDS, self._job.limits.timeout or _GRACE_SECONDS))
            if answer is None:
                continue
            items = self._count(answer[1])
            if self._failed and self._job.policy == "fail-fast":
                dispatch.stop()
            self._tell(SpanCompleted(self.done, self._failed, self.total, len(crew.seats)))
            yield items
        if self._interrupted():
            raise Interrupted("interrupted; what is written is whole, the rest was not reached", self.result())

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


def _size(job: Job) -> Sizing:
    """The workers of a job: as many as it says, or as many as fit."""
    sizing = optimal_workers(limits=job.limits)
    if job.workers == "auto":
        return sizing
    return Sizing(job.workers, "workers", sizing.terms)


def _store(path: str, bundle: Any) -> None:
    try:
        with open(path, "wb") as file:
            pickle.dump(bundle, file, 5)
    except OSError as error:
        raise OutputError(f"{shown(path)}: cannot be written: {error.strerror}") from None


def _with_texts(outcome: Outcome) -> tuple[ItemResult, ...]:
    """The items with their documents, from the file that the worker left."""
    if outcome.texts is None:
        return outcome.items
    with open(outcome.texts, "rb") as file:
        texts = {item.seq: file.read(item.size).decode() for item in outcome.items if item.status == "rendered"}
    os.unlink(outcome.texts)
    return tuple(replace(item, text=texts.get(item.seq)) for item in outcome.items)


@contextlib.contextmanager
def _folders(job: Job, run_id: str) -> Iterator[str]:
    """The run's scratch folder, gone afterwards; so is every other folder that was made for it and stayed empty."""
    if job.output is None:
        scratch, parents = tempfile.mkdtemp(prefix="chora-mp-"), []
    else:
        folder = str(job.output.dir)
        state = os.path.join(folder, STATE_FOLDER)
        scratch, parents = os.path.join(state, f"run-{run_id}"), [*_missing(folder), state]
        _make(folder, [*parents, scratch])
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(parents)


def _make(folder: str, paths: list[str]) -> None:
    try:
        for path in paths:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
    except OSError as error:
        _remove_empty(paths)
        raise OutputError(f"{shown(folder)}: the output folder cannot be written to: {error.strerror}") from None


def _remove_empty(paths: list[str]) -> None:
    for path in reversed(paths):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _missing(folder: str) -> list[str]:
    """The folders that have to be made for `folder` to be there, outermost first."""
    missing: list[str] = []
    while folder and not os.path.lexists(folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing
