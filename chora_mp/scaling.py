"""Scaling (no I/O): how throughput follows from the number of workers, and which number to take.

The law is Gunther's Universal Scalability Law, X(N) = λN / (1 + σ(N-1) + κN(N-1)): λ is what one worker does alone, σ
the share of the work that only one of them can do at a time (contention), κ what each pair of them has to agree upon
(coherency). N. J. Gunther, "Guerrilla Capacity Planning", Springer 2007, chapters 4 to 6.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Round = Mapping[float, float]
    """What was measured in one round: the throughput of each setting, by the setting."""

TOLERANCE = 0.02
"""By how much a count may be slower than the best and be taken for it being smaller: noise must not decide."""

SURE = 0.95
"""The share of resamples from which on an answer is taken as settled."""

_RESAMPLES = 400
_LEAST_DETERMINANT = 1e-12  # of equations whose columns have length 1: what is smaller is no plane, but noise


@dataclass(frozen=True, slots=True)
class Scaling:
    """A curve X(N) of the law: `rate` is λ in items/s; `error`: how far points lie from it, as a share (rms)."""

    rate: float
    sigma: float
    kappa: float
    error: float

    def throughput(self, workers: float) -> float:
        """Items per second that so many workers do."""
        others = workers - 1
        return self.rate * workers / (1 + self.sigma * others + self.kappa * workers * others)

    @property
    def knee(self) -> float | None:
        """The number beyond which throughput falls, √((1 - σ) / κ); None: it never does."""
        if self.sigma >= 1:
            return 1.0
        return max(1.0, math.sqrt((1 - self.sigma) / self.kappa)) if self.kappa else None


def fit(points: Mapping[int, float]) -> Scaling:
    """The curve nearest to the throughputs of some counts of workers, in shares of them; σ and κ are never below 0.

    N / X(N) = a + b(N-1) + cN(N-1) is linear in a = 1/λ, b = σ/λ and c = κ/λ. The nearest of all curves with b and c of
    at least 0 is the nearest one of those where some of them are 0 and the others free: each of the four is tried.
    Raises `ValueError` where there is no point, or a throughput that is not above 0.
    """
    if not points or min(points.values()) <= 0:
        raise ValueError("a curve needs a throughput above 0 for each count")
    fits = [found for free in ((0,), (0, 1), (0, 2), (0, 1, 2)) if (found := _fitted(points, free))]
    error, (a, b, c) = min(fits, key=lambda one: one[0])
    return Scaling(1 / a, b / a, c / a, math.sqrt(error / len(points)))


def _fitted(points: Mapping[int, float], free: Sequence[int]) -> tuple[float, list[float]] | None:
    """Sum of squared errors and a, b, c of the nearest curve, all but the `free` ones 0; None: none is allowed."""
    rows = []
    for workers, throughput in points.items():
        share = throughput / workers  # errors are to be shares of what was measured
        rows.append([share * term for term in (1.0, workers - 1.0, workers * (workers - 1.0))])
    lengths = [math.hypot(*(row[column] for row in rows)) or 1.0 for column in free]
    scaled = [[row[column] / length for column, length in zip(free, lengths, strict=True)] for row in rows]
    solution = _solved(
        [[math.fsum(row[i] * row[j] for row in scaled) for j in range(len(free))] for i in range(len(free))],
        [math.fsum(row[i] for row in scaled) for i in range(len(free))],
    )
    if solution is None:
        return None
    found = [0.0, 0.0, 0.0]
    for column, value, length in zip(free, solution, lengths, strict=True):
        found[column] = value / length
    if found[0] <= 0 or min(found) < 0:
        return None
    errors = (math.fsum(x * y for x, y in zip(row, found, strict=True)) - 1 for row in rows)
    return math.fsum(error * error for error in errors), found


def _solved(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """The solution of up to three linear equations, by Cramer's rule; None: there is no single one."""
    whole = _determinant(matrix)
    if abs(whole) < _LEAST_DETERMINANT:
        return None
    replaced = ([[*row[:at], value, *row[at + 1 :]] for row, value in zip(matrix, right, strict=True)]
                for at in range(len(right)))  # fmt: skip
    return [_determinant(one) / whole for one in replaced]


def _determinant(matrix: list[list[float]]) -> float:
    if len(matrix) == 1:
        return matrix[0][0]
    minors = ([row[:at] + row[at + 1 :] for row in matrix[1:]] for at in range(len(matrix)))
    return math.fsum((-1) ** at * matrix[0][at] * _determinant(minor) for at, minor in enumerate(minors))


# ---- choosing among what was measured ----------------------------------------------------------------------


def levels(rounds: Sequence[Round]) -> dict[float, float]:
    """The throughput of each setting, a median over the rounds, as if all rounds had met the machine in one mood.

    A machine that is slow for a while is so for all settings of a round: each round is first divided by its own level,
    which is the geometric mean of the settings that every round has.
    """
    common = set.intersection(*(set(one) for one in rounds))
    moods = [_mean(one[setting] for setting in common) if common else 1.0 for one in rounds]
    overall = median(moods)
    settings = sorted(set().union(*rounds))
    return {
        setting: overall
        * median(one[setting] / mood for one, mood in zip(rounds, moods, strict=True) if setting in one)
        for setting in settings
    }


def choose(rounds: Sequence[Round], standing: float | None = None, tolerance: float = TOLERANCE) -> float:
    """The smallest setting that is hardly slower than the best; the `standing` one, if that holds for it."""
    found = levels(rounds)
    least = max(found.values()) * (1 - tolerance)
    if standing is not None and found.get(standing, 0.0) >= least:
        return standing
    return min(setting for setting, throughput in found.items() if throughput >= least)


def sureness(
    rounds: Sequence[Round], chosen: float, standing: float | None = None, tolerance: float = TOLERANCE
) -> float:
    """The share of resamples of the rounds that choose the same, or one worker more or less (a bootstrap)."""
    picks = [choose(drawn, standing, tolerance) for drawn in _resampled(rounds)]
    return fmean(abs(pick - chosen) <= 1 for pick in picks)


def improve(rounds: Sequence[Round], standing: float) -> float:
    """The setting that is surely faster than the `standing` one, and by more than the tolerance; else that."""
    found = levels(rounds)
    best = max(found, key=lambda setting: found[setting])
    wins = [levels(drawn) for drawn in _resampled(rounds)]
    share = fmean(one.get(best, 0.0) > (1 + TOLERANCE) * one.get(standing, math.inf) for one in wins)
    return best if share >= SURE else standing


def spread(rounds: Sequence[Round]) -> float:
    """How far the figures of one setting lie apart, (most - least) / median: the median over all settings."""
    shares = []
    for setting in set().union(*rounds):
        values = [one[setting] for one in rounds if setting in one]
        shares.append((max(values) - min(values)) / median(values))
    return median(shares)


def _resampled(rounds: Sequence[Round]) -> Iterator[list[Round]]:
    """Draws of as many rounds, with replacement; the same ones each time, so that figures alike give one answer."""
    draw = random.Random(len(rounds))  # noqa: S311  (nobody is to be kept from guessing)
    for _ in range(_RESAMPLES):
        yield draw.choices(rounds, k=len(rounds))


def _mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(fmean(math.log(value) for value in values))
