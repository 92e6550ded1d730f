"""What does it cost to start? CPU seconds of `--help` and of a job of three items, beside a bare Python.

    python bench/startup.py [--rounds 9]

CPU time, all processes included, is steadier than the clock on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

JOB = 'source: data.jsonl\ntemplate: page.txt.j2\noutput: {dir: out, path: "{{ name }}.txt"}\n'


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system seconds of a command and of everything that it started and waited for."""
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def small_job(folder: Path) -> None:
    """A job of three items."""
    (folder / "templates").mkdir()
    (folder / "templates" / "page.txt.j2").write_text("Hello {{ name }}\n")
    (folder / "data.jsonl").write_text("".join(f'{{"name": "n{number}"}}\n' for number in range(3)))
    (folder / "job.yaml").write_text(JOB)


def main() -> None:
    """Measure, interleaved, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    command = [sys.executable, "-m", "chora_mp"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "chora-mp --help": [*command, "--help"],
        "a job of 3 items": [*command, "render", "job.yaml"],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_job(folder)
        found: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(rounds):
            for label, arguments in commands.items():
                found[label].append(cpu_seconds(arguments, folder))
    for label, values in found.items():
        print(f"{label:<18} {statistics.median(values):.3f} s of CPU  ({min(values):.3f}–{max(values):.3f})")


if __name__ == "__main__":
    main()
