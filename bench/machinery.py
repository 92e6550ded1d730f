"""What does it cost to be ready for faults that never come? A job with every limit beside the same job with none.

`python bench/machinery.py unicode --rounds 15` renders a corpus of `bench/corpora.py` in turn, round after round, each
time into a new folder on a RAM disk:

none   no timeout, no cap, no retries
all    a timeout, a memory cap, retries and a limit of failures

Printed are median seconds and processor seconds with the range, and the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import JOBS, job_of
from measuring import Run, measure, ram_disk
from opponents import variant

from chora_mp.measuring import adopt_orphans

LIMITS: dict[str, dict[str, Any]] = {
    "none": {"limits": {"timeout": None}, "errors": {}},
    "all": {
        "limits": {"timeout": "60s", "memory_per_item": "1GB"},
        "errors": {"retries": 2, "retry_on": ["ValueError", "Timeout"], "max_failures": "5%"},
    },
}


def jobs(corpus: str, folder: Path) -> dict[str, Path]:
    """The corpus's job file with and without limits."""
    original = job_of(corpus)
    return {name: variant(original, folder / f"{name}.yaml", **limits).file for name, limits in LIMITS.items()}


def rendered(job: Path, output: Path, workers: int) -> Run:
    """One run into a fresh folder."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "chora_mp", "render", str(job), "-j", str(workers), "-o", str(output), "-q"]
    return measure(command)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=[*JOBS])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output-dir", default=ram_disk())
    options = parser.parse_args()
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="machinery-", dir=options.output_dir))
    runs: dict[str, list[Run]] = {name: [] for name in LIMITS}
    try:
        files = jobs(options.corpus, folder)
        for number in range(options.rounds + 1):
            for name in list(files)[:: 1 if number % 2 else -1]:
                run = rendered(files[name], folder / "out", options.workers)
                if number:  # the first round warms up
                    runs[name].append(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("$ " + shlex.join(["python", *sys.argv]))
    for name, found in runs.items():
        seconds, cpu = [run.seconds for run in found], [run.cpu_s for run in found]
        ratios = [one.seconds / other.seconds for one, other in zip(found, runs["none"], strict=True)]
        shares = [one.cpu_s / other.cpu_s for one, other in zip(found, runs["none"], strict=True)]
        print(
            f"{name:<5} {statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f}), "
            f"{statistics.median(cpu):.2f} s of CPU; × none {statistics.median(ratios):.3f}, "
            f"of CPU {statistics.median(shares):.3f}"
        )


if __name__ == "__main__":
    main()
