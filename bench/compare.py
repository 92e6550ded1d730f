"""Has chora-mp become slower? `python bench/compare.py SAVED.json [NEW.json] --threshold 5%`.

Compares two runs that the suite has saved; without NEW, the latest. Compared are ratios: chora-mp's time by that of
each opponent in the same round. Judged are those to `plain` and to `bare`, the same Jinja2 in both runs; other
packages have other versions one day. Worse is a ratio that has grown by more than the threshold and the noise together,
which is how far a round's ratio usually is from the median, in the run where that is more.

Exit code 0: not worse; 1: worse; 2: the files cannot be compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from saved import STORAGE, BadFileError, latest, load, noise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saved import Entry, Saved

OURS = ("chora-mp", "minijinja")
JUDGED = {"plain", "bare"}


class Change(NamedTuple):
    """A ratio in two runs, a value a round."""

    corpus: str
    name: str
    other: str
    old: list[float]
    new: list[float]

    @property
    def change(self) -> float:
        """By how much it has grown, as a share of what it was: more is slower."""
        return statistics.median(self.new) / statistics.median(self.old) - 1

    @property
    def noise(self) -> float:
        """The noise of the run that has more of it."""
        return max(noise(self.old), noise(self.new))

    def verdict(self, threshold: float) -> str:
        """What it means."""
        if self.other not in JUDGED:
            return ""
        if self.change > threshold + self.noise:
            return "worse"
        return "better" if self.change < -threshold - self.noise else "same"


def changes(old: Saved, new: Saved) -> Iterator[Change]:
    """All ratios of chora-mp that both runs have, of as many records with as many workers."""
    for corpus, name, before, after in shared(old, new):
        if (before.records, before.workers) == (after.records, after.workers):
            for other in before.times_of:
                if other in after.times_of:
                    yield Change(corpus, name, other, before.times_of[other], after.times_of[other])


def shared(old: Saved, new: Saved) -> Iterator[tuple[str, str, Entry, Entry]]:
    """What both runs have of chora-mp."""
    for corpus, entries in old.contests.items():
        for name in OURS:
            if name in entries and name in new.contests.get(corpus, {}):
                yield corpus, name, entries[name], new.contests[corpus][name]


def table(found: list[Change], threshold: float) -> Iterator[str]:
    """The lines of the comparison."""
    yield f"{'':<10}{'':<24}{'old':>8}{'new':>8}{'change':>9}{'noise':>8}"
    for one in found:
        ratio = f"{one.name} of {one.other}"
        values = f"{statistics.median(one.old):>8.3f}{statistics.median(one.new):>8.3f}"
        verdict = f"  {one.verdict(threshold)}".rstrip()
        yield f"{one.corpus:<10}{ratio:<24}{values}{one.change:>+9.1%}{one.noise:>8.1%}{verdict}"


def warnings(old: Saved, new: Saved) -> Iterator[str]:
    """What makes a comparison worth less: another machine, other counts, a single round."""
    for name, before in old.facts.items():
        if new.facts[name] != before:
            yield f"the machines differ: {name} was {before}, is {new.facts[name]}"
    for corpus, name, before, after in shared(old, new):
        for what in ("records", "workers"):
            if getattr(before, what) != getattr(after, what):
                yield f"{corpus}, {name}: left out, {getattr(before, what)} {what} and {getattr(after, what)}"
        if min(len(before.seconds), len(after.seconds)) < 3:
            yield f"{corpus}, {name}: fewer than 3 rounds tell nothing of the noise"


def share(text: str) -> float:
    """A threshold: "5%" or 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 100%, such as 5% (found {text})")
    return value


def compared(options: argparse.Namespace) -> tuple[Saved, Saved, list[Change]]:
    """Both runs and their ratios; BadFileError where there is nothing to compare."""
    file = options.new or latest(options.storage)
    if options.new is None and file.resolve() == options.saved.resolve():
        raise BadFileError(f"{file}: the latest run itself; make another one with: tox -e bench")
    old, new = load(options.saved), load(file)
    found = list(changes(old, new))
    if not any(one.other in JUDGED for one in found):
        raise BadFileError(
            f"{old.file} and {file}: nothing that both measured, of as many records with as many workers"
        )
    return old, new, found


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved", type=Path, metavar="SAVED.json")
    parser.add_argument("new", type=Path, metavar="NEW.json", nargs="?", help="default: the latest that was saved")
    parser.add_argument("--threshold", type=share, default="5%", metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--storage", type=Path, default=STORAGE, help="where runs are saved; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        old, new, found = compared(options)
    except BadFileError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(f"old: {old.file}\nnew: {new.file}", *warnings(old, new), "", sep="\n")
    print(*table(found, options.threshold), sep="\n")
    worse = [one for one in found if one.verdict(options.threshold) == "worse"]
    end = (
        "worse in " + ", ".join(f"{one.corpus} ({one.name} of {one.other})" for one in worse) if worse else "not worse"
    )
    print(f"\nmore is slower; threshold {options.threshold:.0%}: {end}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
