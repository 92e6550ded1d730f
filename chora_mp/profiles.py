"""Profiles (no I/O): what `tune` has found out about one generator of a job on one machine, as the ledger keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from chora_mp.scaling import Scaling
from chora_mp.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Point:
    """The throughput of one count of workers, in items per second: the median of so many `rounds`, least and most."""

    workers: int
    throughput: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Profile:
    """How a generator's documents scale on one machine.

    `workers`: the best count of those on the `curve`, which on a `lane` of threads or coroutines are items at a time;
    `sureness`: the share of resampled rounds that would choose the same, or one more or less. `memory`: bytes that each
    needs, with some to spare; None: nobody could tell. `span_seconds`: the work that is handed out together. Of an
    item, on one worker that has nobody beside it: `cpu` and `wait` seconds, and the bytes that it leaves behind,
    `growth`. `measured`: UTC, ISO 8601. `own_lane`: where the generator's items are rendered if nobody says where.
    `most`: the largest count that limits, records or a person allowed. `version`: that of chora-mp.
    """

    generator: str
    lane: str
    workers: int
    sureness: float
    span_seconds: float
    memory: int | None
    curve: tuple[Point, ...]
    scaling: Scaling
    cpu: float
    wait: float
    growth: float
    measured: str
    own_lane: str
    most: int
    version: str = __version__

    @property
    def best(self) -> Point:
        """The point of the curve that is chosen."""
        return next(point for point in self.curve if point.workers == self.workers)

    @property
    def is_capped(self) -> bool:
        """Whether the best is the largest count that was allowed, so that more may be better still."""
        return self.workers >= self.most

    def as_dict(self) -> dict[str, Any]:
        """The profile as JSON shows it and the ledger keeps it."""
        return asdict(self)


def stored(profile: Profile) -> str:
    """The profile as the ledger keeps it."""
    return json.dumps(profile.as_dict())


def revived(text: str) -> Profile | None:
    """The profile in a ledger's text; None for what is none, or another version's: it is a hint, and no more."""
    try:
        found: Mapping[str, Any] = json.loads(text)
        curve = tuple(Point(**point) for point in found["curve"])
        profile = Profile(**{**found, "curve": curve, "scaling": Scaling(**found["scaling"])})
        sane = profile.version == __version__ and profile.best.throughput > 0 < profile.workers
        return profile if sane and profile.span_seconds > 0 and (profile.memory is None or profile.memory > 0) else None
    except (ValueError, TypeError, KeyError, StopIteration):
        return None
