"""What the coordinator costs an item, and how many seats it could feed.

`python bench/coordinator.py --items 138552 --seats 1,4,16,64,256` runs a job whose workers are real processes that
only pretend to work: they answer every span at once with all that a real worker would tell, and say that an item took
0.6 ms, so that spans are as long as for such items. The plan, the pools, the ledger and all that is told are real.
Printed is the processor time of the coordinator's own process, all of its threads included, from reading the job file
to the sealed ledger, by the number of items; and for how many seats that would be enough, were its own cost all that
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pretender
from measuring import ram_disk

JOB = """\
source: records.jsonl
template: "page.txt.j2"
key: "{{ id }}"
output: {dir: out, path: "{{ id }}.txt"}
"""


class Cost(NamedTuple):
    """Processor and wall seconds of one run, and the coordinator's greatest memory in MB."""

    cpu: float
    wall: float
    memory: float


def make_job(folder: Path, items: int) -> Path:
    """A job of so many small records."""
    (folder / "templates").mkdir()
    (folder / "templates" / "page.txt.j2").write_text("{{ id }}\n", encoding="utf-8")
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"id": "{seq >> 8:x}/{seq:x}", "text": "{seq:0200d}"}}\n' for seq in range(items))
    job = folder / "job.yaml"
    job.write_text(JOB, encoding="utf-8")
    return job


def run(job: str, seats: int) -> Cost:
    """One run in this process."""
    from dataclasses import replace

    from chora_mp import Job, batch_generate
    from chora_mp import seats as processes

    processes.start = pretender.start
    began, cpu = time.perf_counter(), time.process_time()
    result = batch_generate(replace(Job.load(job), workers=seats))
    cost = Cost(
        time.process_time() - cpu,
        time.perf_counter() - began,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    if result.successful != result.total or result.workers != seats:
        sys.exit(f"{result.successful:,} of {result.total:,} items with {result.workers:,} of {seats:,} workers")
    return cost


def measured(job: Path, seats: int) -> Cost:
    """One run in a process of its own, into a new folder."""
    import subprocess

    shutil.rmtree(job.parent / "out", ignore_errors=True)
    command = [sys.executable, __file__, "--job", str(job), "--seats", str(seats)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=os.path.dirname(__file__))
    return Cost(*json.loads(done.stdout))


def numbers(text: str) -> list[int]:
    """A list of counts."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=138_552, help="default: %(default)s")
    parser.add_argument("--seats", type=numbers, default=[1, 4, 16, 64, 256], help="default: 1,4,16,64,256")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run(options.job, options.seats[0])))
        return
    with tempfile.TemporaryDirectory(prefix="coordinator-", dir=ram_disk()) as folder:
        job = make_job(Path(folder), options.items)
        costs: dict[int, list[Cost]] = {seats: [] for seats in options.seats}
        for _ in range(options.rounds):
            for seats in options.seats:
                costs[seats].append(measured(job, seats))
    print(f"{options.items:,} items, {options.rounds} rounds, interleaved; medians (min–max)\n")
    print(f"{'seats':>5}{'µs an item':>22}{'feeds seats':>13}{'wall s':>8}{'MB':>6}")
    for seats, several in costs.items():
        each = [cost.cpu / options.items * 1e6 for cost in several]
        median = statistics.median(each)
        wall, memory = (statistics.median(cost[field] for cost in several) for field in (1, 2))
        spread = f"{median:.2f} ({min(each):.2f}–{max(each):.2f})"
        print(f"{seats:>5}{spread:>22}{pretender.ITEM_SECONDS * 1e6 / median:>13.0f}{wall:>8.1f}{memory:>6.0f}")


if __name__ == "__main__":
    main()
