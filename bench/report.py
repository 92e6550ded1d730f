"""The tables that people read at the end of a comparison."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from contest import LIMIT, OURS, PLAIN, RUST, best_rival, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contest import Result

LEGEND = """\
of plain, of bare: an opponent's time by that of the plain loop, and of bare processes, the limit for stock Jinja2.
ours: its time by that of chora-mp, so that more than 1 is slower than chora-mp. All are medians of the rounds' ratios.
CPU s: of all processes. MB: greatest memory of the main process (resident, high-water mark), and of all processes
together (sum of PSS at one of many looks). *: the best of what people would take instead; †: extrapolated."""


class Target(NamedTuple):
    """What chora-mp must reach: times as fast as plain and as the best rival, and its share of the limit's time."""

    plain: float
    best: float | None = None
    limit: float | None = None


# For two workers on two cores, output on a RAM disk, medians of one run.
TARGETS = {
    "aws": Target(2.1, 1.25, 0.95),
    "unicode": Target(1.8, 1.4, 1.05),
    "tables": Target(2.7, 1.45, 0.75),
    "heavy": Target(2.1, 1.1, 0.95),
    "skewed": Target(1.9, 1.2, 0.97),
}
RUST_TARGETS = {"tables": Target(6.0)}


def table(results: dict[str, Result], others: Iterable[str] = (PLAIN, LIMIT)) -> Iterator[str]:
    """The lines of a comparison: seconds, and ratios to some of the others."""
    heads = "".join(f"{f'of {other[:9]}':>13}" for other in others)
    yield f"{'':<12}{'seconds':>9} {'(min–max)':<18}{heads}{'ours':>7}{'CPU s':>9}{'MB main':>9}{'MB all':>8}"
    best = best_rival(results)
    for name, result in results.items():
        mark = "*" if name == best else "†" if result.factor != 1 else ""
        if result.runs:
            yield f"{name[:10] + mark:<12}{cells(name, results, others)}{problem(result)}"
        else:
            yield f"{name[:11]:<12}{result.missing or result.error or 'not run'}"


def cells(name: str, results: dict[str, Result], others: Iterable[str]) -> str:
    """What stands beside an opponent's name."""
    runs, seconds = results[name].runs, results[name].seconds
    spread = f"({min(seconds):.2f}–{max(seconds):.2f})"
    beside = "".join(f"{number(ratio(name, other, results)):>13}" for other in others)
    cpu = statistics.median(run.cpu_s for run in runs)
    main, everything = (greatest(sizes) for sizes in ((run.peak_mb for run in runs), (run.all_mb for run in runs)))
    times = number(ratio(name, OURS, results))
    return f"{statistics.median(seconds):>9.2f} {spread:<18}{beside}{times:>7}{cpu:>9.2f}{main:>9}{everything:>8}"


def problem(result: Result) -> str:
    """What is wrong with an opponent that has run all the same."""
    if result.error:
        return f"  failed: {result.error}"
    return f"  differs at {result.difference}" if result.difference else ""


def greatest(sizes: Iterable[float | None]) -> str:
    """The greatest of some sizes in MB."""
    known = [size for size in sizes if size is not None]
    return f"{max(known):.0f}" if known else "–"


def number(value: float | None) -> str:
    """A ratio with two digits."""
    return "–" if value is None else f"{value:.2f}"


def targets(contests: dict[str, dict[str, Result]]) -> Iterator[str]:
    """The lines that say what must be, what is, and whether that will do.

    They are about whole corpora: of a few records, most of the time is that of starting.
    """
    yield f"{'':<12}{'':<36}{'must be':>10}{'is':>8}"
    for corpus, results in contests.items():
        if OURS in results and results[OURS].runs:
            yield from target_lines(corpus, results, OURS, TARGETS.get(corpus))
        if RUST in results and results[RUST].runs:
            yield from target_lines(corpus, results, RUST, RUST_TARGETS.get(corpus))


def target_lines(corpus: str, results: dict[str, Result], name: str, target: Target | None) -> Iterator[str]:
    """The lines of one corpus."""
    if target is None:
        return
    best, by = best_rival(results), " with minijinja" if name == RUST else ""
    yield target_line(corpus, f"times as fast as plain{by}", target.plain, ratio(PLAIN, name, results))
    if target.best is not None and best is not None:
        yield target_line(corpus, f"times as fast as {best}", target.best, ratio(best, name, results))
    if target.limit is not None and LIMIT in results:
        yield target_line(corpus, "of the limit's time", target.limit, ratio(name, LIMIT, results), most=True)


def target_line(corpus: str, what: str, wanted: float, found: float | None, *, most: bool = False) -> str:
    """One line; `most`: the number must not be more, where it else must not be less."""
    reached = found is not None and (found <= wanted if most else found >= wanted)
    met = "not measured" if found is None else "met" if reached else "not met"
    sign = "≤" if most else "≥"
    return f"{corpus:<12}{what:<36}{f'{sign} {wanted:.2f}':>10}{number(found):>8}  {met}"
