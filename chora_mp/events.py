"""What observers are told. An observer is any callable that takes an event; it is told spans, never records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from chora_mp.records import BatchResult
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


Event = ReadingStarted | RenderingStarted | SpanCompleted | RenderingEnded | Noticed

if TYPE_CHECKING:
    Observer = Callable[[Event], None]
