"""Does it pay to have more than one item wait? Generators that wait, on threads and on an event loop, behind rates.

    python bench/waiting.py [--rounds N]

Three questions: what 5, 10 and 20 workers gain on 10 items of 50 ms and on 5 items of 300 ms; whether a rate is kept,
and kept to; and how long 10,000 and 100,000 items take that wait a second each, in how much memory.

Speed-ups are of the time from the first item's start to the last one's end, as the items themselves tell it, since
what starting a worker takes (some 0.15 s) does not depend on their number; the whole run is beside it. All in one run,
rounds interleaved, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from chora_mp import Job, batch_generate_stream
from chora_mp.measuring import Watch, resident

PLUGIN = """
import asyncio, time
from chora_mp import generator

@generator(lane="threads")
def nap(spec, context):
    began = time.monotonic()
    time.sleep(context["seconds"])
    return f"{began} {time.monotonic()}"

@generator(lane="asyncio")
async def wait(spec, context):
    began = time.monotonic()
    await asyncio.sleep(context["seconds"])
    return f"{began} {time.monotonic()}"

GENERATORS = {"nap": nap, "wait": wait}
"""


class Run(NamedTuple):
    """One run: seconds from the first start to the last end, in all, the starts, and the most memory in bytes."""

    span: float
    wall: float
    starts: list[float]
    memory: int


def measured(job: Job, items: int, seconds: float) -> Run:
    """Run so many items that wait so long; their texts are their times."""
    records = ({"n": number, "seconds": seconds} for number in range(items))
    starts, ends = [], []
    began = time.monotonic()
    with Memory() as memory:
        for item in batch_generate_stream(job, records, keep_text=True):
            assert item.text is not None, item.error
            start, end = map(float, item.text.split())
            starts.append(start)
            ends.append(end)
    assert items == len(starts)
    return Run(max(ends) - min(starts), time.monotonic() - began, sorted(starts), memory.most)


class Memory(Watch):
    """The most memory that this process and all below it had at one time, looked at ten times a second."""

    seconds = 0.1
    most = 0

    def look(self) -> None:
        """Look once."""
        self.most = max(self.most, resident(os.getpid()))


def job_for(folder: Path, generator: str, workers: int | str = "auto", **limits: Any) -> Job:
    """A job of a generator that waits."""
    parts = {"generator": generator, "plugins": ["waiting.py"], "template": "any.txt", "key": "{{ n }}"}
    return Job.from_mapping({**parts, "workers": workers, "limits": limits}, folder)


def speed_ups(folder: Path, rounds: int) -> None:
    """The table that batch users know."""
    print("| items | lane | workers | speed-up | of the whole run | seconds |\n|---|---|---|---|---|---|")
    for items, seconds in ((10, 0.05), (5, 0.3)):
        for generator, lane in (("nap", "threads"), ("wait", "asyncio")):
            runs: dict[int, list[Run]] = {workers: [] for workers in (1, 5, 10, 20)}
            for _ in range(rounds):
                for workers, done in runs.items():
                    done.append(measured(job_for(folder, generator, workers), items, seconds))
            spans = {workers: statistics.median(run.span for run in done) for workers, done in runs.items()}
            walls = {workers: statistics.median(run.wall for run in done) for workers, done in runs.items()}
            for workers in runs:
                ratios = f"{spans[1] / spans[workers]:.2f} | {walls[1] / walls[workers]:.2f}"
                print(f"| {items} of {seconds * 1000:g} ms | {lane} | {workers} | {ratios} | {spans[workers]:.3f} |")


def rates(folder: Path, rounds: int) -> None:
    """Whether so many items a second begin, and never more than floor(rate * T) + 1 in any window of T seconds."""
    print("\n| rate | lane | items | reached | of the rate | starts too many in the fullest window |")
    print("|---|---|---|---|---|---|")
    for rate, items, seconds in ((20, 41, 0.3), (100, 301, 0.05), (10 / 3, 5, 0.3)):
        for generator, lane in (("nap", "threads"), ("wait", "asyncio")):
            runs = [
                measured(job_for(folder, generator, 20, rate=f"{rate * 3600:.0f}/h"), items, seconds)
                for _ in range(rounds)
            ]
            reached = statistics.median((items - 1) / (run.starts[-1] - run.starts[0]) for run in runs)
            worst = max(0, *(excess(run.starts, round(rate * 3600) / 3600) for run in runs))
            print(f"| {rate:.3g}/s | {lane} | {items} | {reached:.2f}/s | {reached / rate:.1%} | {worst} |")


def excess(starts: list[float], rate: float) -> int:
    """By how many starts the fullest window is over floor(rate * T) + 1.

    Items note their start when they run, which is some time after they went through the gate, not always as long: a
    millisecond is allowed for that.
    """
    worst = -len(starts)
    for first in range(len(starts)):
        for last in range(first + 1, len(starts)):
            window = starts[last] - starts[first] + 0.001
            worst = max(worst, last - first + 1 - (int(rate * window) + 1))
    return worst


def many(folder: Path) -> None:
    """Ten thousand items that wait a second each, and ten times as many."""
    print("\n| items that wait 1 s | seconds | most memory of all processes |\n|---|---|---|")
    for items in (10_000, 100_000):
        run = measured(job_for(folder, "wait"), items, 1.0)
        print(f"| {items:,} | {run.wall:.2f} | {run.memory / 10**6:.0f} MB |", flush=True)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "waiting.py").write_text(PLUGIN)
        (folder / "templates").mkdir()
        (folder / "templates/any.txt").write_text("")
        speed_ups(folder, arguments.rounds)
        rates(folder, arguments.rounds)
        many(folder)


if __name__ == "__main__":
    main()
