"""Does `tune` pick a count that is as good as the best, and the same one twice? On every corpus, one core, and waiting.

    python bench/tune.py [CORPUS ...] [--tries N] [--budget SECONDS] [--rounds N]

For each corpus: plain, under `taskset` to one core, and with a generator whose items sleep. Each try tunes anew, in an
output folder of its own, so that no earlier profile helps; whether a second tuning in the same folder keeps to its
answer is counted, too. Then the count that was chosen, its neighbours and the best that any try has measured are run
against each other, in interleaved rounds of `render --force` on a share of the records, and the chosen one's throughput
is told as a share of the best. "agree": pairs of tries in a row whose answers are at most one worker apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("aws-operations", "unicode", "tables", "heavy", "skewed")
PLUGIN = """
import time

def slow(spec, context):
    time.sleep(0.02)
    return "\\n".join(f"{name}: {value}" for name, value in context.items())[:1000]

GENERATORS = {"slow": slow}
"""


@dataclass(frozen=True)
class Case:
    """A job as it is to be tuned: its file, what the command is started with, and what it may use at the most."""

    name: str
    job: Path
    cpus: frozenset[int]
    most: int | None = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command, on these CPUs only."""
        return subprocess.run(
            [sys.executable, "-m", "chora_mp", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cpus),
        )

    def tuned(self, folder: Path, budget: float) -> dict[str, Any]:
        """What a tuning finds."""
        most = () if self.most is None else ("--max-workers", str(self.most))
        done = self.run("tune", str(self.job), "-o", str(folder), "--budget", str(budget), "--json", *most)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rendered(self, folder: Path, workers: int, shards: int) -> float:
        """Items a second by so many workers, of one of so many shares of the records; starting is left out."""
        options = ("-f", "-q", "-j", str(workers), "--shard", f"1/{shards}", "--events", str(folder / "events"))
        out = folder / f"out-{time.monotonic_ns()}"
        summary = folder / "summary.json"
        self.run("render", str(self.job), "-o", str(out), "--summary", str(summary), *options)
        found = json.loads(summary.read_text())
        subprocess.run(["rm", "-rf", str(out)], check=True)
        return float(found["items_per_s"])


def cases(names: list[str], folder: Path) -> list[Case]:
    """Every corpus in every way."""
    every = frozenset(os.sched_getaffinity(0))
    found = []
    (folder / "slow.py").write_text(PLUGIN)
    for name in names:
        job = ROOT / "configs" / f"{name}.yaml"
        found.append(Case(f"{name}, plain", job, every))
        found.append(Case(f"{name}, one core", job, frozenset({min(every)})))
        waiting = folder / f"{name}-waiting.yaml"
        waiting.write_text(_waiting(job.read_text(), job.parent, folder))
        found.append(Case(f"{name}, waiting", waiting, every, 8 * len(every)))
    return found


def _waiting(text: str, home: Path, folder: Path) -> str:
    """The job with a generator that sleeps; its paths are as they were."""
    lines = []
    for line in text.splitlines():
        key, colon, value = line.partition(": ")
        moved = f"{key}{colon}{(home / value).resolve()}" if key in ("source", "templates") and value else line
        lines.append(moved.replace("{file: ", f"{{file: {home}/").replace("dir: ../", f"dir: {folder}/"))
    return "\n".join([*lines, f"plugins: [{folder / 'slow.py'}]", "generator: slow", ""])


def judge(case: Case, tries: int, budget: float, rounds: int, folder: Path) -> str:
    """A row of the table."""
    answers: list[int] = []
    seen: dict[int, list[float]] = {}
    kept, settled, seconds = 0, 0, []
    for number in range(tries):
        out = folder / f"{case.job.stem}-{len(case.cpus)}-{number}"
        found = case.tuned(out, budget)
        answers.append(found["best"] or found["workers"])
        settled += found["settled"]
        seconds.append(found["seconds"])
        for point in found["curve"]:
            seen.setdefault(point["workers"], []).append(point["throughput"])
        if number == 0:
            again = case.tuned(out, budget)
            kept = abs((again["best"] or again["workers"]) - answers[-1]) <= 1
        subprocess.run(["rm", "-rf", str(out)], check=True)
    agree = [abs(one - other) <= 1 for one, other in pairwise(answers)]
    chosen = int(statistics.median_low(answers))
    medians = {count: statistics.median(values) for count, values in seen.items()}
    share = against(case, chosen, medians, rounds, folder)
    told = f"{sum(agree)}/{len(agree)}" if agree else "-"
    counts = " ".join(map(str, answers))
    return (
        f"{case.name:<26} {counts:<22} {told:>6} {'yes' if kept else 'no':>5} {settled:>4}/{tries} "
        f"{statistics.median(seconds):>7.0f} s {medians[chosen] / max(medians.values()):>9.1%} {share:>9}"
    )


def against(case: Case, chosen: int, medians: dict[int, float], rounds: int, folder: Path) -> str:
    """The chosen count's throughput in real runs, as a share of the best of the three most promising others."""
    if not rounds:
        return "-"
    others = sorted((count for count in medians if count != chosen), key=lambda count: -medians[count])[:3]
    records = sum(1 for _ in (ROOT / "build" / "corpora" / f"{case.name.split(',')[0]}.jsonl").open("rb"))
    shards = max(1, round(records / (3 * medians[chosen])))
    found: dict[int, list[float]] = {count: [] for count in (chosen, *others)}
    for number in range(rounds):
        for count in list(found)[:: -1 if number % 2 else 1]:
            found[count].append(case.rendered(folder, count, shards))
    best = max(statistics.median(values) for values in found.values())
    return f"{statistics.median(found[chosen]) / best:.1%}"


def main() -> None:
    """Tune, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpora", nargs="*", default=CORPORA, metavar="CORPUS")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=0, help="rounds of real runs; 0: none")
    options = parser.parse_args()
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None, prefix="bench-tune-") as name:
        print(
            f"{'':<26} {'CHOSEN':<22} {'AGREE':>6} {'KEPT':>5} {'SETTLED':>6} {'TIME':>9} {'OF BEST':>9} {'RENDER':>9}"
        )
        for case in cases(list(options.corpora), Path(name)):
            print(judge(case, options.tries, options.budget, options.rounds, Path(name)), flush=True)


if __name__ == "__main__":
    main()
