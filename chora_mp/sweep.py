"""A sweep: counts of workers are measured in rounds until more of them would not change the answer.

What a trial is, and how long it may all take, is the caller's matter: here is which count is next, and what to choose.
"""

from __future__ import annotations

import math
import time
from statistics import median
from typing import TYPE_CHECKING, Protocol

from chora_mp.dispatch import SPAN_SECONDS
from chora_mp.figures import RESTLESS
from chora_mp.profiles import Point
from chora_mp.scaling import SURE, TOLERANCE, choose, improve, levels, sureness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from chora_mp.trials import Sample, Trial

    Measure = Callable[[int, float, float], Trial]

SPAN_SHARE = 0.2
"""What is kept of the budget for trying sizes of spans."""

LEAST_ROUNDS = 3
"""Rounds without which nothing can be told."""

_PAYS = 1.05  # what a larger count must bring for a still larger one to be tried
_CONTENDER = 0.9  # of the best: those below need no more than the least rounds
_FAR = 1.5  # times as fast: no company makes a difference like that
_SPANS = (0.02, 0.04, SPAN_SECONDS, 0.15)


class Pace(Protocol):
    """How long a sweep may take, and who is told how far it is."""

    @property
    def most_rounds(self) -> int:
        """How many rounds there are at the most."""

    @property
    def trial_seconds(self) -> float:
        """How long one trial goes on for."""

    def is_over(self, share: float = 1.0) -> bool:
        """Whether so large a share of the budget is used up."""

    def has(self, seconds: float, reserve: float) -> bool:
        """Whether so many seconds of the budget are left, besides a share of it that is held back."""

    def check(self) -> None:
        """Raise `Interrupted` if somebody wants an end."""

    def tell(self, workers: int, what: str, throughput: float | None) -> None:
        """Tell observers what is measured next, or what the last trial gave."""


class Sweep:
    """The rounds over counts of workers, and the answer."""

    def __init__(
        self, pace: Pace, measure: Measure, standing: int | None, usual: int, cores: float, *, idle: bool
    ) -> None:
        """`standing`: what an earlier tuning has found; `usual`: what the formula says where nobody has measured.

        `idle`: items wait for something, so that more workers than CPUs may pay.
        """
        self._pace = pace
        self._measure = measure
        self._standing = standing
        self._usual = usual
        self._cores = cores
        self.counts: list[int] = []
        self.rounds: list[dict[float, float]] = []
        self.others: list[float] = []
        """The most CPUs that others kept busy during a trial of each round."""
        self.chosen = 1
        self.sureness = 0.0
        self.settled = False
        self.beyond_doubt = False
        """Whether the choice is so much faster than the usual one that no company can be the reason."""
        self.memory: dict[int, int] = {}
        """The most bytes that a worker has had to itself, by count."""
        self.cut_off = False
        """Whether there was no time for counts that may be better still."""
        self._seconds: dict[int, float] = {}
        self._idle = idle

    # -- measuring

    def run(self, most: int, *, waits: bool) -> None:
        """Measure counts up to `most` until the answer is settled, or rounds or budget are used up.

        `waits`: they are items at a time in one worker.
        """
        self._add(self._climb(most, waits=waits), most)
        self.counts = sorted(int(count) for count in self.rounds[0])
        while not self._judge() and len(self.rounds) < self._pace.most_rounds:
            if self.cut_off:
                self._reach_further(most)
            counts = self._contenders()
            if not self._has_time(counts) or not self._add(self._one_round(counts), len(counts)):
                break
        self.counts = [count for count in self.counts if any(count in one for one in self.rounds)]

    def alone(self, throughput: float) -> None:
        """Take one worker for the answer, which does so many items per second: there is no other count to try."""
        self.counts, self.rounds, self.others, self.settled = [1], [{1: throughput}], [0.0], True

    def tune_spans(self, standing: float, sample: Sample) -> float:
        """The seconds of work that are best handed out together; those that stand, if none is surely better."""
        sizes = [size for size in dict.fromkeys((*_SPANS, standing)) if _is_distinct(sample, size, standing)]
        if len(sizes) < 2 or self._pace.most_rounds < LEAST_ROUNDS or self._pace.is_over(1 - SPAN_SHARE / 2):
            return standing
        rounds: list[dict[float, float]] = []
        while len(rounds) < LEAST_ROUNDS:
            found: dict[float, float] = {}
            for size in sizes[:: -1 if len(rounds) % 2 else 1]:
                if self._pace.is_over():
                    return standing
                trial = self._trial(self.chosen, f"spans, round {len(rounds) + 1}", size)
                if not self._is_quiet(trial.others):  # a few hundredths are all that there is to find
                    return standing
                found[size] = trial.throughput
            rounds.append(found)
            reached = levels(rounds)
            least = (1 + TOLERANCE) * reached[standing]
            sizes = [size for size in sizes if size == standing or reached.get(size, 0.0) > least]
            if len(sizes) < 2:
                return standing
        return improve([{size: one[size] for size in sizes} for one in rounds], standing)

    def _climb(self, most: int, *, waits: bool) -> Iterator[tuple[int, Trial]]:
        """The first round: upwards, to past the cores, and on from there as long as it pays for work that waits."""
        past = 0 if waits else max(math.ceil(self._cores) + 2, math.ceil(1.5 * self._cores))
        best, pays, seconds = 0.0, True, 0.0
        for count in ladder(past, most):
            if count > past and not (self._idle and pays):
                return
            if count > 1 and self._pace.is_over():
                self.cut_off = True
                return
            # Twice as many take up to twice as long to be opened, and there are to be more rounds.
            if count > past and (self._pace.is_over(0.6) or not self._pace.has(2 * seconds, SPAN_SHARE)):
                self.cut_off = True
                return
            trial = self._trial(count, "round 1")
            seconds = self._seconds[count]
            yield count, trial
            best, pays = max(best, trial.throughput), trial.throughput > _PAYS * best

    def _reach_further(self, most: int) -> None:
        """Add a count that there was no time for in the first round, if the best so far is the largest."""
        found, last = self._levels(), self.counts[-1]
        before = max((found[count] for count in self.counts[:-1]), default=0.0)
        if self.chosen == last and last in found and found[last] > _PAYS * before:
            self.counts.append(min(2 * last, most))
        self.cut_off = self.chosen == last and self.counts[-1] < most

    def _one_round(self, counts: Sequence[int]) -> Iterator[tuple[int, Trial]]:
        for count in counts[:: -1 if len(self.rounds) % 2 else 1]:
            if self._pace.is_over():
                return
            yield count, self._trial(count, f"round {len(self.rounds) + 1}")

    def _add(self, found: Iterable[tuple[int, Trial]], wanted: int) -> bool:
        """Take one more round; whether it has come to its end."""
        trials = dict(found)
        if self.rounds and len(trials) < wanted:
            return False
        self.rounds.append({count: trial.throughput for count, trial in trials.items()})
        self.others.append(max(trial.others for trial in trials.values()))
        return True

    def _trial(self, workers: int, what: str, span_seconds: float = SPAN_SECONDS) -> Trial:
        self._pace.check()
        self._pace.tell(workers, what, None)
        began = time.monotonic()
        trial = self._measure(workers, self._pace.trial_seconds, span_seconds)
        # Clearing up is none of a trial's own seconds, but takes of the budget, too.
        self._seconds[workers] = max(trial.seconds, time.monotonic() - began)
        self.memory[workers] = max(trial.memory, self.memory.get(workers, 0))
        self._pace.tell(workers, what, trial.throughput)
        return trial

    def _contenders(self) -> list[int]:
        """The counts that are worth another trial: all at first, then those near the best, and the next below."""
        missing = LEAST_ROUNDS - sum(map(self._is_quiet, self.others))
        if missing > 0 and self._pace.has(self._expected(self.counts) * missing, SPAN_SHARE):
            return self.counts
        found = self._levels()
        least = _CONTENDER * max(found.values())
        near = [count for count in self.counts if found.get(count, least) >= least]
        # Else nobody would see that the next below had a bad start.
        below = self.counts[max(0, self.counts.index(near[0]) - 1)]
        return sorted({below, *near})

    def _has_time(self, counts: Sequence[int]) -> bool:
        """Whether one more round would come to its end; half a round is worth nothing.

        Spans can wait until there are as many rounds as are wanted at the least.
        """
        return self._pace.has(self._expected(counts), SPAN_SHARE if len(self.rounds) >= LEAST_ROUNDS else 0.0)

    def _expected(self, counts: Iterable[int]) -> float:
        """The seconds that a round of these takes; a count that was never tried takes as long as the longest."""
        longest = max(self._seconds.values(), default=0.0)
        return sum(self._seconds.get(count, longest) for count in counts)

    # -- judging

    @property
    def quiet(self) -> bool:
        """Whether there are as many quiet rounds as are wanted at the least."""
        return sum(map(self._is_quiet, self.others)) >= LEAST_ROUNDS

    @property
    def told(self) -> bool:
        """Whether the choice is an answer: counts were compared, in enough rounds, and no company is its reason."""
        return len(self.counts) > 1 and len(self.rounds) >= LEAST_ROUNDS and (self.quiet or self.beyond_doubt)

    def judged(self) -> list[dict[float, float]]:
        """The rounds that count: the quiet ones, or where there are too few the quietest half of all."""
        return [self.rounds[number] for number in self._judged()]

    def _judged(self) -> list[int]:
        numbers = range(len(self.rounds))
        if self.quiet:
            return [number for number in numbers if self._is_quiet(self.others[number])]
        many = max(LEAST_ROUNDS, len(self.rounds) // 2)
        return sorted(sorted(numbers, key=lambda number: self.others[number])[:many])

    def _levels(self) -> dict[float, float]:
        """The throughput of each count that was ever measured, by the rounds that count.

        Or by all where it was in none of them: later rounds have contenders only, and the first one may not count.
        """
        return {**levels(self.rounds), **levels(self.judged())}

    def _is_restless(self) -> bool:
        """Whether others were at work in any round."""
        return not all(map(self._is_quiet, self.others))

    def _is_quiet(self, others: float) -> bool:
        return others <= RESTLESS * self._cores

    def _judge(self) -> bool:
        """Choose; whether that is settled."""
        rounds, enough = self.judged(), len(self.rounds) >= LEAST_ROUNDS
        tolerance = self._tolerance()
        self.beyond_doubt = False
        if self.quiet or not self._is_restless():
            self.chosen = int(choose(rounds, self._standing, tolerance))
        else:
            self.chosen = self._in_company(rounds)
        self.sureness = sureness(rounds, self.chosen, self._standing, tolerance) if enough else 0.0
        reached = not (self.cut_off and self.chosen == self.counts[-1])
        self.settled = len(self.counts) == 1 or (reached and self.quiet and self.sureness >= SURE)
        return self.settled

    def _tolerance(self) -> float:
        """By how much a smaller count may be slower: also by what more workers take from others by being more."""
        return TOLERANCE + (self.company() / self._cores if self.quiet and not self._idle else 0.0)

    def company(self) -> float:
        """How many CPUs others kept busy in the rounds that count."""
        return median(self.others[number] for number in self._judged())

    def _in_company(self, rounds: list[dict[float, float]]) -> int:
        """What to choose while others are at work: the usual count, unless items wait and another is beyond doubt.

        Work that needs the CPUs is done the faster the more of them it takes from others: that is nothing to aim at.
        """
        found = self._levels()
        below = [int(count) for count in found if count <= self._usual]
        usual = self._standing if self._standing in found else max(below, default=int(min(found)))
        assert usual is not None  # noqa: S101  (None is in no round)
        best = int(choose(rounds))
        self.beyond_doubt = self._idle and found[best] > _FAR * found[usual]
        return best if self.beyond_doubt else usual

    def curve(self) -> tuple[Point, ...]:
        """Each count with what was measured of it."""
        points = []
        for count in self.counts:
            values = [one[count] for one in self.judged() if count in one]
            values = values or [one[count] for one in self.rounds if count in one]
            points.append(Point(count, median(values), min(values), max(values), len(values)))
        return tuple(points)


def ladder(past: int, most: int) -> Iterator[int]:
    """Counts to try, up to `most`: 1, 2, 3, 4, 6, 8, 12, 16, … to `past` the cores, and beyond 1, 2, 4, 8, … only."""
    powers = {1 << exponent for exponent in range(most.bit_length())}
    between = {3 << exponent for exponent in range(past.bit_length())}
    near = {one for one in (*between, past) if 0 < one <= min(past, most)}
    yield from sorted({*powers, *near, most})


def _is_distinct(sample: Sample, size: float, standing: float) -> bool:
    """Whether the sample is large enough for spans of that size to be others than those that stand."""
    if size == standing:
        return True
    spans = [list(region.spans(seconds)) for seconds in (size, standing) for region in sample.regions]
    half = len(spans) // 2
    return spans[:half] != spans[half:]
