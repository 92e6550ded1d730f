"""How many workers: the documented min-formula over a machine snapshot and the job's limits (no I/O)."""

from __future__ import annotations

from dataclasses import dataclass

MB = 10**6


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job allows itself; `None` limits nothing.

    `timeout`: seconds an item. `memory_per_item`: bytes. `rate`: items per second. `latency`: seconds an item
    waits for somebody else. `max_workers`: processes.
    """

    timeout: float | None = 300.0
    memory_per_item: int | None = None
    rate: float | None = None
    latency: float | None = None
    max_workers: int | None = None
