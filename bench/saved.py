"""Runs of the suite that pytest-benchmark has saved, as those that compare and draw them need them."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORAGE = Path(".benchmarks")  # where pytest-benchmark saves runs
FACTS = ("usable_cpus", "cpu_quota", "cpu_model", "memory_mb", "python", "system", "packages", "output_on")


class BadFileError(Exception):
    """A file that is no saved run, or none that can be used here; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An opponent with a corpus: how it was run, its seconds, and by other opponents' names its times of theirs."""

    records: int
    workers: int
    seconds: list[float]
    times_of: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved run: its file, the machine, and the entries by corpus and opponent."""

    file: Path
    facts: dict[str, Any]
    contests: dict[str, dict[str, Entry]] = field(default_factory=dict)


def load(file: Path) -> Saved:
    """A saved run; BadFileError where the file is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFileError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # no JSON, or no text at all
        raise BadFileError(f"{file}: no JSON ({error})") from None
    try:
        return read(file, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadFileError(f"{file}: not a saved run of bench/suite.py ({type(error).__name__}: {error})") from None


def read(file: Path, content: dict[str, Any]) -> Saved:
    """The part of a saved run that is of use; what other tests have saved is left out."""
    machine = content["machine_info"]
    saved = Saved(file, {name: machine.get(name) for name in FACTS})
    for benchmark in content["benchmarks"]:
        info = benchmark["extra_info"]
        if "opponent" in info:
            saved.contests.setdefault(info["corpus"], {})[info["opponent"]] = entry(info)
    if not saved.contests:
        raise BadFileError(f"{file}: no runs of any corpus in it; save some with: tox -e bench")
    return saved


def entry(info: dict[str, Any]) -> Entry:
    """One opponent's part."""
    times_of = {name: times(values) for name, values in info["times_of"].items()}
    return Entry(int(info["records"]), int(info["workers"]), times([run["seconds"] for run in info["runs"]]), times_of)


def times(values: list[Any]) -> list[float]:
    """A value a round; ValueError unless all are more than 0, and there are some."""
    found = [float(value) for value in values]
    if not found or not all(0 < value < math.inf for value in found):
        raise ValueError(f"times must be more than 0 (found {found})")
    return found


def latest(folder: Path = STORAGE) -> Path:
    """The file that was saved last; BadFileError where there is none."""
    files = sorted(folder.glob("**/*.json"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        raise BadFileError(f"{folder}: no saved runs; make one with: tox -e bench")
    return files[-1]


def noise(rounds: list[float]) -> float:
    """How far a ratio lies from its median, as a share of it: the median of the rounds' distances (0 for one round)."""
    middle = statistics.median(rounds)
    return statistics.median(abs(one - middle) for one in rounds) / middle
