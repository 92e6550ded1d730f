"""A contest: all opponents in turn, round after round, each in a fresh process, their documents compared."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from measuring import REPOSITORY, Run, files, first_difference, measure, say
from opponents import OPPONENTS, Job, missing, variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOBS = {
    "aws": "aws-operations.yaml",
    "unicode": "unicode.yaml",
    "tables": "tables.yaml",
    "heavy": "heavy.yaml",
    "skewed": "skewed.yaml",
}
PLAIN, LIMIT, OURS, RUST = "plain", "bare", "chora-mp", "minijinja"
NO_RIVALS = {PLAIN, LIMIT, OURS, RUST, "parallel"}  # the others are rivals, and one of them is the best


class Entry(NamedTuple):
    """Who takes part: the command for an output folder, where chora-mp comes from, and how many records it is for."""

    command: Callable[[Path], list[str]]
    code: Path = REPOSITORY
    items: int | None = None


@dataclass(slots=True)
class Result:
    """All runs of one opponent.

    `missing` says why there are none, `error` why there are no more, `difference` at which document it differs from
    `plain`. `factor` is what seconds were multiplied with where only the first records were rendered.
    """

    runs: list[Run] = field(default_factory=list)
    missing: str | None = None
    error: str | None = None
    difference: str | None = None
    factor: float = 1.0

    @property
    def seconds(self) -> list[float]:
        """Seconds of all runs."""
        return [run.seconds for run in self.runs]


def by_hand(name: str, job: Job, workers: int) -> Entry:
    """One of the opponents."""
    script = str(REPOSITORY / "bench" / "opponents.py")
    start = [sys.executable, script, name, "--job", str(job.file), "--workers", str(workers), "--output-dir"]
    return Entry(lambda output: [*start, str(output)], items=OPPONENTS[name].items)


def ours(job: Job, workers: int, code: Path = REPOSITORY) -> Entry:
    """The command `chora-mp render`."""
    start = [sys.executable, "-m", "chora_mp", "render", str(job.file), "-j", str(workers), "-q", "-o"]
    return Entry(lambda output: [*start, str(output), "--summary", str(output.with_suffix(".json"))], code)


def in_rust(job: Job, workers: int, scratch: Path) -> Entry:
    """The same with the generator `minijinja`."""
    return ours(variant(job, scratch / "minijinja-job" / "minijinja.yaml", generator="minijinja"), workers)


class Contest:
    """Runs the opponents, `PLAIN` first among them, and keeps what came out."""

    def __init__(
        self, entries: dict[str, Entry | str], scratch: Path, records: int, tell: Callable[[str], None] = say
    ) -> None:
        self.entries = {name: entry for name, entry in entries.items() if isinstance(entry, Entry)}
        self.results = {
            name: Result(missing=None if isinstance(entry, Entry) else entry) for name, entry in entries.items()
        }
        self.scratch = scratch
        self.records = records
        self.tell = tell

    def run(self, rounds: int) -> dict[str, Result]:
        """All rounds; in the first one plain is first, since the others are compared with it."""
        for number in range(rounds):
            for name in in_turn(list(self.entries), number):
                if self.results[name].error is None:
                    self.run_one(name, number)
        shutil.rmtree(self.scratch / PLAIN, ignore_errors=True)
        return self.results

    def run_one(self, name: str, number: int) -> None:
        """Run one opponent into a fresh folder; in the first round its documents are compared with those of plain."""
        output = self.scratch / name
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        try:
            self.note(name, measure(self.entries[name].command(output), self.entries[name].code), number)
        except RuntimeError as error:
            self.results[name].error = str(error)
            self.tell(f"{name}: {error}")
        if number == 0 and self.results[name].error is None and name != PLAIN:
            self.compare(name)
        if name != PLAIN or number > 0:
            shutil.rmtree(output, ignore_errors=True)

    def note(self, name: str, run: Run, number: int) -> None:
        """Keep a run; one of the first records only is multiplied to what all would have taken."""
        result, items = self.results[name], self.entries[name].items
        if items is not None and items < self.records:
            result.factor = self.records / items
            run.seconds *= result.factor
            run.cpu_s *= result.factor
        result.runs.append(run)
        extrapolated = f", of {items} records extrapolated" if result.factor != 1 else ""
        self.tell(f"{name}, round {number + 1}: {run.seconds:.2f} s{extrapolated}")

    def compare(self, name: str) -> None:
        """Note whether an opponent made the same documents as plain."""
        expected, actual = self.scratch / PLAIN, self.scratch / name
        made = files(actual)
        whole = self.results[name].factor == 1
        short = not whole and len(made) != self.entries[name].items
        only = None if whole else [path for path in files(expected) if path in set(made)]
        difference = f"{len(made)} documents" if short else first_difference(expected, actual, only)
        self.results[name].difference = difference
        right = f"{len(made):,} documents, byte for byte those of plain"
        self.tell(f"{name}: {right if difference is None else f'differs from plain at {difference}'}")


def in_turn(names: list[str], number: int) -> list[str]:
    """Another order in each round, every other one backwards, so that nobody always runs after the same one."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]][:: -1 if number % 2 else 1]


def entries(names: list[str], job: Job, workers: int, scratch: Path) -> dict[str, Entry | str]:
    """Those of the names that can run here, and for the others what is missing."""
    found: dict[str, Entry | str] = {}
    for name in names:
        if name == OURS:
            found[name] = ours(job, workers)
        elif name == RUST:
            there = importlib.util.find_spec("minijinja") is not None
            found[name] = in_rust(job, workers, scratch) if there else "minijinja is not installed"
        else:
            found[name] = missing(name) or by_hand(name, job, workers)
    return found


def job_of(corpus: str) -> Job:
    """The job of a corpus."""
    return Job(REPOSITORY / "configs" / JOBS[corpus])


def count_records(job: Job) -> int:
    """The records of a job's source."""
    with job.source.open("rb") as lines:
        return sum(1 for _ in lines)


def ratios(one: Result, other: Result) -> list[float]:
    """One opponent's seconds by another's, round by round."""
    return [a / b for a, b in zip(one.seconds, other.seconds, strict=False)]


def ratio(name: str, other: str, results: dict[str, Result]) -> float | None:
    """The median of an opponent's seconds by another's in the same round; None where one has not run."""
    if name not in results or other not in results:
        return None
    found = ratios(results[name], results[other])
    return statistics.median(found) if found else None


def best_rival(results: dict[str, Result]) -> str | None:
    """The quickest of those that people would take, by its median; None where none has run."""
    rivals = [
        name
        for name, result in results.items()
        if name not in NO_RIVALS and result.runs and not (result.error or result.difference)
    ]
    return min(rivals, key=lambda name: statistics.median(results[name].seconds), default=None)
