"""What observers are told. An observer is any callable that takes an event; it is told spans, never records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from chora_mp.records import BatchResult, Failure, Status, Usage
    from chora_mp.sizing import Sizing


@dataclass(frozen=True, slots=True)
class ReadingStarted:
    """The records are being looked for: `source` as the job names it."""

    job: str
    source: str


@dataclass(frozen=True, slots=True)
class RenderingStarted:
    """Rendering begins: `total` items (None: nobody knows yet), at most `sizing.workers` workers."""

    job: str
    total: int | None
    sizing: Sizing


@dataclass(frozen=True, slots=True)
class SpanCompleted:
    """Items `done` so far, `failed` among them, of `total`, by `workers` workers; 0: they were up to date before.

    `waiting`: items that failed and are going to be tried again.
    """

    done: int
    failed: int
    total: int | None
    workers: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class RenderingEnded:
    """The run is over."""

    result: BatchResult


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something that a person should know, and that stops nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class BatchStarted:
    """A batch of `total` items begins (None: nobody knows yet); all of its events carry its `batch_id`."""

    batch_id: str
    total: int | None


@dataclass(frozen=True, slots=True)
class ItemCompleted:
    """What became of one item; the fields are those of its `ItemResult`, `config_id` is its key."""

    batch_id: str
    config_id: str
    path: str
    status: Status
    size: int
    digest: str
    duration_s: float
    attempts: int
    generator: str
    error: Failure | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class BatchCompleted:
    """A batch is over; `stopped` says why it ended early, None: it did not."""

    batch_id: str
    successful: int
    failed: int
    unchanged: int
    not_reached: int
    duration_s: float
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class ItemsCounted:
    """Items were dealt with: `done` so far of `total`, the last of them those with `keys`. Only `Progress` is told."""

    done: int
    total: int | None
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TuningAdvanced:
    """`tune` is at work: at `what`, with so large a share of its budget used up, `done`.

    `throughput`: the items per second that were just measured; None: they are about to be.
    """

    job: str
    what: str
    done: float
    throughput: float | None = None


Event = (
    ReadingStarted
    | RenderingStarted
    | SpanCompleted
    | RenderingEnded
    | Noticed
    | BatchStarted
    | ItemCompleted
    | BatchCompleted
    | ItemsCounted
    | TuningAdvanced
)

if TYPE_CHECKING:
    Observer = Callable[[Event], None]
