"""How many workers: the documented min-formula over a machine snapshot and the job's limits (no I/O)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chora_mp.machine import Machine
    from chora_mp.profiles import Profile

MB = 10**6
ASSUMED_MEMORY = 200 * MB
"""Bytes that a worker is taken to need until somebody has measured it (the published formula's figure)."""

CPU_FACTORS = {"threads": 2.0, "asyncio": math.inf}
"""Workers per CPU on lanes where items wait: 2 as published; coroutines are not bounded by CPUs. Else it is 1."""

NO_LIMIT = "no limit set"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job allows itself; `None` limits nothing.

    `timeout`: seconds an item. `memory_per_item`: bytes. `rate`: items per second. `latency`: seconds an item
    waits for somebody else. `max_workers`: processes. `max_in_flight`: items at the same time, in whatever workers.
    Of a whole batch: `batch_size` items are begun before all of those begun are done, `batch_timeout` in seconds,
    `batch_memory` in bytes for all workers together.
    """

    timeout: float | None = 300.0
    memory_per_item: int | None = None
    rate: float | None = None
    latency: float | None = None
    max_workers: int | None = None
    max_in_flight: int | None = None
    batch_size: int | None = None
    batch_timeout: float | None = None
    batch_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the formula.

    `name` is "cpus" (or "tuned", in its place, where that was measured), "memory", "rate", "max_workers" or
    "max_in_flight". `value`: the workers that it allows, not yet rounded down, or `None` where it limits nothing.
    `detail` tells people where the value comes from.
    """

    name: str
    value: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """The number of workers, the name of the term that binds, and every term in the formula's order.

    `at_once`: the number is that of items that one worker has in work at a time, in threads or on an event loop.
    """

    workers: int
    binds: str
    terms: tuple[Term, ...]
    at_once: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The sizing as the summary and `size --json` show it: workers, binds, terms."""
        shown = {"workers": self.workers, "binds": self.binds, "terms": [asdict(term) for term in self.terms]}
        return {**shown, "at_once": True} if self.at_once else shown


def optimal_workers(
    machine: Machine | None = None,
    limits: Limits | None = None,
    *,
    cpu_factor: float = 1,
    profile: Profile | None = None,
) -> Sizing:
    """The workers that fit `machine` (default: this one, as it is now) within `limits`; at least 1.

    `cpu_factor` is workers per CPU: 1 for rendering in processes, 2 for threads that wait, `math.inf` for
    coroutines, which CPUs don't bound. What a `profile` has measured takes the place of that, and of the memory that a
    worker is assumed to need; where it was not allowed more than what it found best, it never takes the place of
    a larger number. Of equal terms the first binds. Pure, where it is given a machine.
    """
    if machine is None:
        machine = _this_machine()
    limits = limits or Limits()
    terms: tuple[Term, ...] = (
        _cpus_or_tuned(machine, cpu_factor, profile),
        _memory(machine, limits, profile.memory if profile else None),
        _rate(limits),
        _max_workers(limits),
    )
    if limits.max_in_flight is not None:
        terms += (Term("max_in_flight", float(limits.max_in_flight), "limits.max_in_flight"),)
    value, binds = min(_bounds(terms), key=lambda bound: bound[0])
    return Sizing(workers=max(1, math.floor(value)), binds=binds, terms=terms)


def _this_machine() -> Machine:
    from chora_mp.machine import Machine  # noqa: PLC0415  (it looks at the system, and stands a layer above)

    return Machine.here()


def _bounds(terms: tuple[Term, ...]) -> list[tuple[float, str]]:
    return [(term.value, term.name) for term in terms if term.value is not None]


def _cpus(machine: Machine, factor: float) -> Term:
    unit = "cpu" if machine.cpus == 1 else "cpus"
    have = f"{machine.cpus:.4g} {unit} ({machine.cpus_from})"
    if math.isinf(factor):
        return Term("cpus", None, f"{have}, which don't bound work that only waits")
    return Term("cpus", _exact(machine.cpus * factor), f"{have} {TIMES} {factor:g}")


def _cpus_or_tuned(machine: Machine, factor: float, profile: Profile | None) -> Term:
    cpus = _cpus(machine, factor)
    if profile is None or (profile.is_capped and (cpus.value is None or cpus.value > profile.workers)):
        return cpus
    return _tuned(profile)


def _tuned(profile: Profile) -> Term:
    best = profile.best
    measured = f"{figure(best.throughput)} items/s measured on {profile.measured[:10]}, {profile.sureness:.0%} sure"
    return Term("tuned", float(profile.workers), measured)


def _memory(machine: Machine, limits: Limits, measured: int | None) -> Term:
    need = limits.memory_per_item or measured or ASSUMED_MEMORY
    assumed = "" if limits.memory_per_item else " (measured)" if measured else " (assumed)"
    have, told = machine.memory, machine.memory_from
    if limits.batch_memory is not None and limits.batch_memory < have:
        have, told = limits.batch_memory, "limits.batch_memory"
    return Term("memory", _exact(have / need), f"{_size(have)} ({told}) / {_size(need)} per worker{assumed}")


def _rate(limits: Limits) -> Term:
    """Little's law: items under way = items per second times the seconds that each takes."""
    if limits.rate is None:
        return Term("rate", None, NO_LIMIT)
    if limits.latency is None:
        return Term("rate", None, f"{_pace(limits.rate)}, but no latency is set")
    detail = f"{_pace(limits.rate)} {TIMES} {limits.latency:g} s"
    return Term("rate", _exact(limits.rate * limits.latency), detail)


def _max_workers(limits: Limits) -> Term:
    if limits.max_workers is None:
        return Term("max_workers", None, NO_LIMIT)
    return Term("max_workers", float(limits.max_workers), "limits.max_workers")


def _exact(value: float) -> float:
    """`value` to 12 significant digits.

    Otherwise 84/min at 45 s would be 62.99999999999999, rounded down to 62, and such noise would decide ties.
    """
    return float(f"{value:.12g}")


def _size(count: int) -> str:
    """`8.0 GB`, `200 MB`: bytes for people."""
    return f"{count / (1000 * MB):.1f} GB" if count >= 1000 * MB else f"{count / MB:.4g} MB"


def figure(value: float) -> str:
    """`86,722`, `12.3`, `0.0451`: a number for people."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pace(rate: float) -> str:
    """`10/s`, `60/min`: items per second for people; a minute up to one a second, as job files have it."""
    return f"{rate:.6g}/s" if rate > 1 else f"{rate * 60:.6g}/min"
