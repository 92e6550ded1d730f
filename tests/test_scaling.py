"""The law of scaling, and choosing a count: curves are found again, noise decides nothing, ties go to the smaller."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chora_mp.profiles import Point, Profile, revived, stored
from chora_mp.scaling import SURE, TOLERANCE, Scaling, choose, fit, improve, levels, spread, sureness

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNTS = (1, 2, 3, 4, 6, 8, 16, 32)

rates = st.floats(1e-3, 1e6)
curves = st.builds(Scaling, rates, st.floats(0, 0.9), st.floats(0, 0.2), st.just(0.0))
points = st.dictionaries(st.integers(1, 500), st.floats(0.01, 1e6), min_size=1, max_size=12)
rounds = st.lists(st.fixed_dictionaries({count: st.floats(1, 1e4) for count in (1, 2, 4)}), min_size=1, max_size=6)


@given(curves)
def test_exact_curves_are_found_again(curve: Scaling) -> None:
    """What lies on a curve of the law gives that curve: λ, σ and κ as they were, and hardly an error."""
    found = fit({count: curve.throughput(count) for count in COUNTS})
    assert math.isclose(curve.rate, found.rate, rel_tol=1e-6)
    assert math.isclose(curve.sigma, found.sigma, rel_tol=1e-4, abs_tol=1e-6)
    assert math.isclose(curve.kappa, found.kappa, rel_tol=1e-4, abs_tol=1e-6)
    assert found.error < 1e-6


@given(points)
def test_what_is_measured_never_gives_a_negative_share(measured: Mapping[int, float]) -> None:
    """Whatever the points are, σ and κ are at least 0, and λ is above it."""
    found = fit(measured)
    assert found.rate > 0
    assert found.sigma >= 0
    assert found.kappa >= 0
    assert all(found.throughput(count) > 0 for count in measured)


@given(points, st.floats(0, 1), st.floats(0, 1), st.floats(0.2, 5))
def test_no_other_curve_is_nearer(measured: Mapping[int, float], sigma: float, kappa: float, times: float) -> None:
    """No curve that is allowed lies nearer, as the reciprocal law is fitted: N/X against a + b(N-1) + cN(N-1)."""
    found = fit(measured)
    other = Scaling(found.rate * times, sigma, kappa, 0.0)

    def distance(one: Scaling) -> float:
        return sum((measured[count] / one.throughput(count) - 1) ** 2 for count in measured)

    assert distance(found) <= distance(other) * (1 + 1e-6) + 1e-9


@given(curves)
def test_the_knee_is_where_the_curve_is_highest(curve: Scaling) -> None:
    """At √((1 - σ) / κ), and never below one worker."""
    knee = curve.knee
    if knee is None:
        assert curve.kappa == 0
        return
    assume(knee < 1e6)
    highest = curve.throughput(knee)
    assert highest >= curve.throughput(knee * 1.1) * (1 - 1e-9)
    assert highest >= curve.throughput(max(1.0, knee * 0.9)) * (1 - 1e-9)


def test_the_knee_of_special_curves() -> None:
    """Without κ throughput never falls; with a σ of 1 and more it does from the first."""
    assert Scaling(10, 0.1, 0.0, 0.0).knee is None
    assert 1.0 == Scaling(10, 1.0, 0.0, 0.0).knee == Scaling(10, 2.0, 0.3, 0.0).knee
    assert 3.0 == pytest.approx(Scaling(10, 0.1, 0.1, 0.0).knee)


def test_faster_than_linear() -> None:
    """Two that do more than twice as much are taken for linear: nothing is negative."""
    found = fit({1: 100.0, 2: 230.0})
    assert (0.0, 0.0) == (found.sigma, found.kappa)


@pytest.mark.parametrize("measured", [{}, {1: 0.0}, {1: 10.0, 2: -1.0}])
def test_no_curve(measured: Mapping[int, float]) -> None:
    """Without a throughput above 0 there is no curve."""
    with pytest.raises(ValueError, match="above 0"):
        fit(measured)


@given(rounds)
def test_the_choice_is_within_the_tolerance(measured: list[dict[float, float]]) -> None:
    """What is chosen is hardly slower than the best, and no smaller one is as good."""
    found, chosen = levels(measured), choose(measured)
    least = max(found.values()) * (1 - TOLERANCE)
    assert found[chosen] >= least
    assert all(found[count] < least for count in found if count < chosen)


@given(rounds, st.sampled_from((1, 2, 4)))
def test_what_stands_is_kept_if_it_is_good(measured: list[dict[float, float]], standing: int) -> None:
    """An earlier choice stays as long as it is hardly slower than the best, and goes when it is not."""
    found = levels(measured)
    good = found[standing] >= max(found.values()) * (1 - TOLERANCE)
    assert choose(measured, standing) == (standing if good else choose(measured))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_a_slow_machine_is_slow_for_all(moods: list[float]) -> None:
    """Rounds that differ by the machine's mood alone are in perfect agreement."""
    measured = [{1: 100 * mood, 2: 190 * mood, 3: 191 * mood} for mood in moods]
    assert 2 == choose(measured)
    assert 1.0 == sureness(measured, 2)
    assert levels(measured)[2] / levels(measured)[1] == pytest.approx(1.9)


def test_sureness_of_a_toss() -> None:
    """Rounds that contradict each other are not sure of anything; rounds that agree are."""
    apart = [{1: 100.0, 8: 150.0}, {1: 150.0, 8: 100.0}]
    assert sureness(apart, choose(apart)) < SURE
    assert 1.0 == sureness([{1: 100.0, 8: 150.0}] * 3, 8)


def test_counts_that_were_not_in_every_round() -> None:
    """A count that was added or dropped is compared by the rounds that it was in."""
    measured = [{1: 100.0, 2: 200.0, 4: 300.0}, {2: 100.0, 4: 150.0}, {2: 200.0, 4: 300.0}]
    assert {1: 100.0, 2: 200.0, 4: 300.0} == pytest.approx(levels(measured))


def test_an_improvement_has_to_be_sure() -> None:
    """What stands gives way only to what is faster in nearly every resample, and by more than the tolerance."""
    assert 4 == improve([{2: 100.0, 4: 110.0}] * 4, 2)
    assert 2 == improve([{2: 100.0, 4: 101.5}] * 4, 2)
    assert 2 == improve([{2: 100.0, 4: 110.0}, {2: 100.0, 4: 90.0}, {2: 100.0, 4: 110.0}], 2)


def test_spread() -> None:
    """How far the figures of one count lie apart, in the middle."""
    assert 0.1 == pytest.approx(spread([{1: 100.0, 2: 195.0}, {1: 95.0, 2: 200.0}, {1: 105.0, 2: 215.0}]))


def test_two_tunings_agree() -> None:
    """With noise of 3 % a flat top gives the same count, or its neighbour, in nearly all pairs of tunings."""
    draw, truth = random.Random(7), {1: 100.0, 2: 190.0, 3: 191.0, 4: 189.0}

    def tuned() -> float:
        mood = draw.uniform(0.7, 1.0)
        return choose([{count: x * mood * draw.gauss(1, 0.03) for count, x in truth.items()} for _ in range(5)])

    agree = sum(abs(tuned() - tuned()) <= 1 for _ in range(100))
    assert agree >= 90


# ---- profiles ----------------------------------------------------------------------------------------------

PROFILE = Profile(
    "jinja2", "processes", 2, 0.97, 0.075, 30_000_000, (Point(1, 10.0, 9.0, 11.0, 3), Point(2, 19.0, 18.0, 20.0, 3)),
    Scaling(10.0, 0.05, 0.0, 0.01), 0.1, 0.0, 12.5, "2026-11-26T17:27:58Z", "processes", 8,
)  # fmt: skip


def test_a_profile_comes_back_as_it_was() -> None:
    """What the ledger keeps of a profile is all of it."""
    assert PROFILE == revived(stored(PROFILE))
    assert Point(2, 19.0, 18.0, 20.0, 3) == PROFILE.best


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": "', '"version": "0.0.0-'),
        ('"workers": 2, "sureness"', '"workers": 7, "sureness"'),
        ('"workers": 2, "sureness"', '"workers": -2, "sureness"'),
        ('"workers": 2, "sureness"', '"workers": "x", "sureness"'),
        ('"span_seconds": 0.075', '"span_seconds": 0'),
        ('"span_seconds": 0.075', '"span_seconds": null'),
        ('"memory": 30000000', '"memory": 0'),
        ('"memory": 30000000', '"more": 1, "memory": null'),
        ('"curve": [', '"curve": ['[:-1] + "{}, "),
        ("{", "["),
    ],
)
def test_what_is_no_profile_is_none(old: str, new: str) -> None:
    """A profile of another version, or one that somebody has changed to nonsense, is as good as none."""
    text = stored(PROFILE)
    assert old in text
    assert revived(text.replace(old, new, 1)) is None
