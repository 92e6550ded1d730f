"""The benchmark suite: `tox -e bench`, or `pytest bench/suite.py --benchmark-autosave`.

Every figure is a ratio within one run, since seconds of two runs are not of the same machine: others use it, its clock
changes. Speed is reported, not asserted. A test fails where an opponent does, or makes other bytes than the plain loop.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
from corpora import MissingExtraError
from generators import PACKAGES

if TYPE_CHECKING:
    from arena import Arena


# A test that fails has not come as far as to use it; that is no second error.
pytestmark = pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")


class Clock:
    """Time as it was in the rounds that are replayed, in seconds."""

    now = 0.0


def replayed() -> float:
    """The timer that pytest-benchmark reads."""
    return Clock.now


def replay(benchmark: Any, seconds: list[float]) -> None:
    """Hand measured rounds to pytest-benchmark.

    It would run all rounds of one test before those of the next: minutes would lie between the first round of one
    opponent and the first of another, and their ratio would be that of two moments of the machine. So the rounds have
    been run before, opponents in turn, and here its timer goes on by what each of them took.
    """
    rounds = iter(seconds)

    def take() -> None:
        Clock.now += next(rounds)

    benchmark.pedantic(take, rounds=len(seconds), iterations=1)


@pytest.mark.benchmark(timer=replayed)
def test_opponent(benchmark: Any, arena: Arena, corpus: str, opponent: str) -> None:
    """One way to render a corpus: it runs, and makes the same documents as the plain loop."""
    try:
        result = arena.results(corpus)[opponent]
    except MissingExtraError as error:
        pytest.skip(str(error))
    if result.missing:
        pytest.skip(f"{opponent}: {result.missing}")
    assert result.error is None, f"{opponent}: {result.error}"
    assert result.difference is None, f"{opponent} differs from plain at {result.difference}"
    benchmark.group = corpus
    benchmark.extra_info.update(arena.about(corpus, opponent))
    replay(benchmark, result.seconds)


@pytest.mark.benchmark(timer=replayed, group="generators")
def test_generator(benchmark: Any, arena: Arena, generator: str) -> None:
    """A built-in generator: what an item takes, and what more workers bring; the rounds are those of many workers."""
    package = PACKAGES.get(generator)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{generator}: {package} is not installed")
    profile = arena.profile(generator)
    benchmark.extra_info.update(
        generator=generator, items=profile.count, usual_s=profile.usual, alone_s=profile.alone, times=profile.times
    )
    replay(benchmark, profile.together)
