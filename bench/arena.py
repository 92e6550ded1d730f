"""Where the suite measures: once for each corpus, when the first of its tests asks, and once for the generators."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import corpora
from contest import JOBS, LIMIT, OURS, PLAIN, RUST, Contest, count_records, entries, job_of, ratios
from generators import PATTERNS, Profile
from measuring import REPOSITORY, orphans_cpu
from opponents import OPPONENTS, variant
from report import RUST_TARGETS

from chora_mp.measuring import adopt_orphans

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contest import Result
    from opponents import Job

GENERATORS = "generators"  # stands for their profiles among the names of corpora


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a run of the suite is to measure; `opponents` is None for all that there are."""

    corpora: list[str]
    opponents: list[str] | None
    rounds: int
    limit: int | None
    workers: int

    def of(self, corpus: str) -> list[str]:
        """Who takes part with a corpus: plain first, ours last, and minijinja where it knows enough of Jinja2."""
        wished = [*OPPONENTS, RUST] if self.opponents is None else self.opponents
        left_out = {PLAIN, OURS} if corpus in RUST_TARGETS else {PLAIN, OURS, RUST}
        return [PLAIN, *(name for name in wished if name not in left_out), OURS]


def names_of(text: str, known: list[str], option: str) -> list[str]:
    """The names in a list with commas; ValueError for one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{option}: {unknown[0] if unknown else 'nothing'} is not one of {', '.join(known)}")
    return list(dict.fromkeys(names))


CORPUS_NAMES = [*JOBS, GENERATORS]
OPPONENT_NAMES = [*OPPONENTS, RUST, OURS]


@dataclass(slots=True)
class Arena:
    """Measures what is wished, in a scratch folder on the file system that outputs go to."""

    wishes: Wishes
    scratch: Path
    tell: Callable[[str], None]
    contests: dict[str, dict[str, Result]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)

    def results(self, corpus: str) -> dict[str, Result]:
        """All runs of all opponents with a corpus; MissingExtraError where its records cannot be made."""
        if corpus not in self.contests:
            self.contests[corpus] = self.contest(corpus)
        return self.contests[corpus]

    def contest(self, corpus: str) -> dict[str, Result]:
        """Measure all opponents with a corpus."""
        adopt_orphans()
        folder = self.scratch / corpus
        folder.mkdir(exist_ok=True)
        job = self.job(corpus, folder)
        self.records[corpus] = count_records(job)
        taking_part = entries(self.wishes.of(corpus), job, self.wishes.workers, folder)
        return Contest(taking_part, folder, self.records[corpus], self.tell).run(self.wishes.rounds)

    def job(self, corpus: str, folder: Path) -> Job:
        """The corpus's job; its records are made where they are not there, no more of them than are wished for."""
        job, limit = job_of(corpus), self.wishes.limit
        if limit is not None and not job.source.exists():
            self.tell(corpora.build(corpus, folder, limit=limit))
            job.source = folder / job.source.name
        elif not job.source.exists():
            self.tell(corpora.build(corpus, job.source.parent))
        return job if limit is None else variant(job, folder / "short" / "job.yaml", limit)

    def profile(self, name: str) -> Profile:
        """What was measured of a generator; RuntimeError with what was said where that failed."""
        if name not in self.profiles:
            self.profiles |= self.measured_profiles()
        return self.profiles[name]

    def measured_profiles(self) -> dict[str, Profile]:
        """Measure all generators, in a process of its own: its fork server must not be here when CPU seconds count."""
        file = self.scratch / "profiles.json"
        limit = [] if self.wishes.limit is None else ["--limit", str(self.wishes.limit)]
        script = [sys.executable, str(REPOSITORY / "bench" / "generators.py"), "--rounds", str(self.wishes.rounds)]
        self.tell("generators")
        done = subprocess.run([*script, *limit, "--json", str(file)], capture_output=True, text=True, check=False)
        orphans_cpu()
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return {name: Profile(**values) for name, values in json.loads(file.read_text(encoding="utf-8")).items()}

    def about(self, corpus: str, name: str) -> dict[str, Any]:
        """What is saved of an opponent beside its seconds: all else that was measured, a value a round."""
        results = self.contests[corpus]
        result = results[name]
        others = [other for other in (results if name in {OURS, RUST} else (PLAIN, LIMIT, OURS)) if other != name]
        return {
            "corpus": corpus,
            "opponent": name,
            "records": self.records[corpus],
            "workers": self.wishes.workers,
            "extrapolated": round(result.factor, 4) if result.factor != 1 else None,
            "runs": [asdict(run) for run in result.runs],
            "times_of": {
                other: ratios(result, results[other]) for other in others if other in results and other != name
            },
        }


def generator_names() -> list[str]:
    """All built-in generators."""
    return [*PATTERNS]
