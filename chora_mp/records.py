"""The vocabulary that crosses process boundaries: spans in, outcomes back, results out. Plain, frozen data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from chora_mp.errors import BatchFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from chora_mp.job import Job
    from chora_mp.selection import Selection

Usage = tuple[tuple[str, int], ...]
Status = Literal["rendered", "unchanged", "failed"]


class BadRecord(NamedTuple):
    """What stands in a record's place when there is none: `type` and `message` of the failure it will be."""

    type: str
    message: str


class NoRecordError(Exception):
    """There is no record to render; `bad` says why."""

    def __init__(self, bad: BadRecord) -> None:
        self.bad = bad


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as plain data.

    `template` is relative to its template folder; `line` counts from 1; `chain` lists `template:line` from the
    outermost template to the innermost, then a plug-in's `file:line` where the error came from one.
    """

    type: str
    message: str
    template: str | None = None
    line: int | None = None
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands: the source as the job names it, and its line (row for databases), from 1."""

    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item.

    `seq` counts records from 0. `path` is relative to the output folder. `size` in bytes; `digest` is the BLAKE2b-128
    of the document, in hexadecimal. `duration_s`: seconds from reading the record to the finished file. `text` only
    where it was asked for. `generator`: what made it; `usage`: what that cost, by the names that the service counts by.
    """

    key: str
    path: str
    seq: int
    status: Status
    size: int = 0
    digest: str = ""
    duration_s: float = 0.0
    attempts: int = 1
    error: Failure | None = None
    text: str | None = None
    source: Place | None = None
    generator: str = "jinja2"
    usage: Usage = ()

    @property
    def config_id(self) -> str:
        """The key, as who knows content configs calls it."""
        return self.key

    @property
    def unkeyed(self) -> bool:
        """Whether the record gave no key, and the place where it stands does instead."""
        return self.source is not None and self.key == f"{self.source.file}:{self.source.line or self.seq + 1}"

    def as_dict(self) -> dict[str, Any]:
        """The failure as the summary lists it: key, path, seq, source, error, attempts."""
        return {
            "key": self.key,
            "path": self.path,
            "seq": self.seq,
            "source": asdict(self.source) if self.source else None,
            "error": asdict(self.error) if self.error else None,
            "attempts": self.attempts,
        }


class Failures(tuple[ItemResult, ...]):
    """The failed items of a result, in the order of their records; `job` is what `retry_failed` renders again."""

    job: Job | None

    def __new__(cls, job: Job | None, items: Iterable[ItemResult] = ()) -> Self:
        """The `items` of a run of `job`."""
        self = super().__new__(cls, items)
        self.job = job
        return self

    def __reduce__(self) -> tuple[type[Failures], tuple[Job | None, tuple[ItemResult, ...]]]:
        return type(self), (self.job, tuple(self))


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The summary of a run; `total = successful + failed + unchanged + not_reached`.

    `duration_s` in seconds of wall time, `bytes_written` those that went to disk, `sizing` the terms that gave
    `workers` (how many processes were really opened is in `workers`). `orphaned`: files that are still there though
    their record is gone, with `asked_to_prune` those that were edited; `orphans`: the paths of some, for people.
    `stopped`: why the run stopped early, None: it did not; `notes`: what else a person should know of it. `usage`: what
    the services behind generators have counted, in all.
    """

    job: str
    run_id: str
    total: int
    successful: int
    failed: int
    unchanged: int
    not_reached: int
    pruned: int
    duration_s: float
    items_per_s: float
    bytes_written: int
    workers: int
    sizing: dict[str, Any]
    failures: tuple[ItemResult, ...] = field(default=())
    orphaned: int = 0
    orphans: tuple[str, ...] = field(default=())
    asked_to_prune: bool = False
    stopped: str | None = None
    notes: tuple[str, ...] = field(default=())
    usage: Usage = ()

    def raise_if_failed(self) -> None:
        """Raise `BatchFailed`, with this result, where an item has failed."""
        if self.failed:
            raise BatchFailed(self)

    def as_dict(self) -> dict[str, Any]:
        """The JSON summary of the contract."""
        names = ("job", "run_id", "total", "successful", "failed", "unchanged", "not_reached", "pruned", "orphaned",
                 "duration_s", "items_per_s", "bytes_written", "workers", "sizing", "stopped")  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "notes": list(self.notes),
            **({"usage": dict(self.usage)} if self.usage else {}),
            "failures": [f.as_dict() for f in self.failures],
        }


@dataclass(frozen=True, slots=True)
class Input:
    """One file of records that spans point into.

    `path`: the file to read, absolute. `spooled`: framed by `sources.spool` rather than lines of JSON. `name`: what
    messages call it. `stamp`: size, mtime in ns and inode at the scan, to notice a change; None for our own files.
    """

    path: str
    spooled: bool
    name: str
    stamp: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A run of `count` records that a worker can load by itself.

    `seq` is the first record's number. Reading starts at byte `offset` of `input`, which is the start of line `line`,
    and passes over `skip` records. `data` holds the records themselves, framed as in a spool, where there is no file.
    `picks` has a byte for each of the records, 1 for those to render; None: all of them. `shifts` tells where records
    stand in the ledger: pairs of a record's number, and what is to be added to it and to those that follow.
    """

    input: Input
    seq: int
    count: int
    offset: int = 0
    line: int = 1
    skip: int = 0
    data: bytes | None = None
    picks: bytes | None = None
    shifts: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def size(self) -> int:
        """How many records are to be rendered."""
        return self.count if self.picks is None else self.picks.count(1)

    def places(self) -> Sequence[int]:
        """The places in the span, from 0, of the records to render."""
        if self.picks is None:
            return range(self.count)
        return [place for place, pick in enumerate(self.picks) if pick]

    def after(self, done: int) -> Span:
        """What is left of the span when its first `done` records are dealt with."""
        picks = None if self.picks is None else self.picks[done:]
        return replace(self, seq=self.seq + done, count=self.count - done, skip=self.skip + done, picks=picks)

    def first(self, count: int) -> Span:
        """The first `count` records of the span."""
        return replace(self, count=count, picks=None if self.picks is None else self.picks[:count])

    def at(self, seq: int) -> int:
        """A record's place in the ledger."""
        return seq + next(shift for first, shift in reversed(self.shifts) if first <= seq)


@dataclass(frozen=True, slots=True)
class ScanOrders:
    """What to look for in `input`.

    `known`: the file with the chunks that need no closer look; None: there are none. `selection`: what is asked for.
    `rows`: whether to tell every fresh record's key, path and digest. `faults`: whether to tell of every record that
    cannot be rendered why, and how often each name is there. `folds`: whether the output's file system takes `A` for
    `a`.
    """

    input: Input
    selection: Selection
    known: str | None = None
    rows: bool = False
    faults: bool = False
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Orders:
    """What every worker of a run is told once.

    `bundle`: the file that holds the pickled bundle. `output`: the output folder, None to write nothing. `scratch`: the
    run's own folder. `temporary`: how temporary files' names begin. `only`: a glob that keys must match. `details`:
    whether to answer with every item or with the failures alone. `keep_text`: whether to hand documents back. `rows`:
    whether to leave what the ledger keeps of each item. `retry_on`: names of exceptions that may pass,
    None where nothing is tried again. `memory`: the
    bytes that a worker may take at the most, None: as many as there are; `growth`: those by which it may grow before it
    had better be replaced. `fsync`: whether documents are to be on the disk itself. `texts`: the folder with texts that
    documents take from each other. `gated`: whether items go through gates, at most `rate` of a generator's in a second
    (None: as many as come), or as `rates` has it for that generator. `in_flight`: how many items a worker has in work
    at the same time, `threads` in threads; None: one after the other. `timeout`: seconds that an item of such a worker
    may take.
    """

    bundle: str
    output: str | None
    scratch: str
    temporary: str
    only: str | None = None
    details: bool = False
    keep_text: bool = False
    rows: bool = False
    retry_on: tuple[str, ...] | None = None
    memory: int | None = None
    growth: int | None = None
    fsync: bool = False
    texts: str = ""
    gated: bool = False
    rate: float | None = None
    rates: Mapping[str, float | None] = field(default_factory=dict)
    in_flight: int | None = None
    threads: bool = False
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a span's first `done` records: so many `rendered`, so many `skipped` (not asked for).

    `written` in bytes, `seconds` of work. `items`: the failures, or all items where details were asked for, in order.
    `texts`: the file with the documents of the rendered ones, one after the other. `rows`: the file with what the
    ledger keeps of them. `unpicked`: how many were passed over because the span does not pick them. `passing`: numbers
    of the failed records whose failure may pass. `refused`: the errno with which every single document could not be
    written; 0: that is not so. `spent`: whether the worker had better be replaced. `tries`: numbers of records that
    were tried more than once, and how often. `usage`: what services have counted for all of them.
    """

    done: int
    rendered: int
    skipped: int
    written: int
    seconds: float
    items: tuple[ItemResult, ...]
    texts: str | None = None
    rows: str | None = None
    unpicked: int = 0
    passing: tuple[int, ...] = ()
    refused: int = 0
    spent: bool = False
    tries: tuple[tuple[int, int], ...] = ()
    usage: Usage = ()

    @property
    def size(self) -> int:
        """How many of the records were dealt with."""
        return self.done - self.unpicked

    @property
    def failed(self) -> int:
        """How many of the records failed."""
        return self.done - self.rendered - self.skipped - self.unpicked


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a span took in a worker: its `outcome`; seconds by the clock, of CPU time, and of waiting for a CPU.

    Then the bytes that the process has to itself (pages that it shares with others are not counted), `own`, and the
    most that it ever had, `peak`; 0 where nobody can tell.
    """

    outcome: Outcome
    wall: float
    cpu: float
    queued: float
    own: int
    peak: int

    @property
    def wait(self) -> float:
        """Seconds that it waited for something else than a CPU."""
        return max(0.0, self.wall - self.cpu - self.queued)
