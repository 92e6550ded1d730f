"""What does a run cost that finds little to do? chora-mp on 138,552 outputs, beside ninja on the same files.

`python bench/incremental.py --rounds 7` renders the Unicode job once and then measures, in turn, round after round:

ninja       `ninja` with a rule for every output, nothing to do (its rule is a `generator`, which spares it the log)
nothing     `chora-mp render`, nothing changed
record      `chora-mp render`, one record in the middle of the source changed: one file written
include     `chora-mp render`, an include edited that one template in a hundred reaches (another job, made here)

Printed are median seconds with the range, processor seconds of all processes, the greatest memory of the main process,
and the median of the ratios to ninja and to `nothing` within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import REPOSITORY, measure, say

from chora_mp.measuring import adopt_orphans

if TYPE_CHECKING:
    from collections.abc import Callable

    from measuring import Run

ITEMS = 20_000  # of the job with a hundred templates
TEMPLATES = 100


class Bench:
    """A folder in memory with the jobs, rendered once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "unicode.jsonl"
        self.lines = (REPOSITORY / "build" / "corpora" / "unicode.jsonl").read_bytes().splitlines(keepends=True)
        self.source.write_bytes(b"".join(self.lines))
        os.utime(self.source, (1, 1))  # older than what ninja takes to be made from it
        self.turn = 0

    def prepare(self) -> None:
        """Render both jobs."""
        text = (REPOSITORY / "configs" / "unicode.yaml").read_text(encoding="utf-8")
        text = text.replace("../build/corpora", str(self.folder)).replace("../build/unicode", str(self.folder / "out"))
        for name in ("templates", "context"):
            shutil.copytree(REPOSITORY / "configs" / name, self.folder / name)
        (self.folder / "unicode.yaml").write_text(text, encoding="utf-8")
        self.prepare_many_templates()
        for job in ("unicode.yaml", "many.yaml"):
            subprocess.run(self.command(job), check=True, stdout=subprocess.DEVNULL)
        self.prepare_ninja()

    def prepare_many_templates(self) -> None:
        """A job whose records choose among a hundred templates, one of which includes a part."""
        templates = self.folder / "many"
        templates.mkdir()
        (templates / "part.md.j2").write_text("part 0\n")
        for number in range(TEMPLATES):
            part = '{% include "part.md.j2" %}' if number == 7 else "no part"
            (templates / f"t{number}.md.j2").write_text(f"{part} {{{{ name }}}}\n")
        records = ({"name": f"n{number}", "kind": f"t{number % TEMPLATES}"} for number in range(ITEMS))
        (self.folder / "many.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (self.folder / "many.yaml").write_text(
            'source: many.jsonl\ntemplates: many\ntemplate: "{{ kind }}.md.j2"\n'
            'output: {dir: many-out, path: "{{ kind }}/{{ name }}.md"}\n'
        )

    def prepare_ninja(self) -> None:
        """A build file for the outputs of the Unicode job."""
        rule = "rule render\n  command = false $out\n  generator = 1\n"
        records = map(json.loads, self.lines)
        edges = (f"build out/{one['folder']}/{one['code']}.md: render unicode.jsonl\n" for one in records)
        (self.folder / "build.ninja").write_text(rule + "".join(edges))

    def command(self, job: str) -> list[str]:
        """`chora-mp render` of one of the jobs."""
        return [
            sys.executable,
            "-m",
            "chora_mp",
            "render",
            str(self.folder / job),
            "-q",
            "--summary",
            str(self.summary),
        ]

    @property
    def summary(self) -> Path:
        """Where runs leave their summaries."""
        return self.folder / "summary.json"

    def ninja(self) -> Run:
        """Ninja, with nothing to do."""
        return measure([str(Path(sys.executable).with_name("ninja")), "-C", str(self.folder)])

    def nothing(self) -> Run:
        """Nothing changed."""
        return self.counted("unicode.yaml", 0)

    def record(self) -> Run:
        """One record changed; changed back before the next round."""
        self.turn += 1
        middle = len(self.lines) // 2
        changed = json.loads(self.lines[middle])
        changed["name"] += f" {self.turn}"
        self.source.write_bytes(
            b"".join([*self.lines[:middle], json.dumps(changed).encode() + b"\n", *self.lines[middle + 1 :]])
        )
        os.utime(self.source, (1, 1 + self.turn))
        return self.counted("unicode.yaml", 1)

    def include(self) -> Run:
        """A part edited that one template in a hundred includes."""
        (self.folder / "many" / "part.md.j2").write_text(f"part {self.turn}\n")
        return self.counted("many.yaml", ITEMS // TEMPLATES)

    def counted(self, job: str, expected: int) -> Run:
        """Run a job; RuntimeError where another number of items was rendered."""
        run = measure(self.command(job))
        found: dict[str, Any] = json.loads(self.summary.read_text())
        if found["successful"] != expected:
            raise RuntimeError(f"{job}: {found['successful']} items rendered, not {expected}")
        return run


def main() -> int:
    """Measure and print; 2 without the records."""
    parser = argparse.ArgumentParser(description="Measure runs that find little to do.")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    options = parser.parse_args()
    if not (REPOSITORY / "build" / "corpora" / "unicode.jsonl").exists():
        say("the records are not there; make them with: python bench/corpora.py unicode")
        return 2
    adopt_orphans()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="incremental-", dir=memory) as name:
        bench = Bench(Path(name).resolve())
        bench.prepare()
        cases: dict[str, Callable[[], Run]] = {
            "ninja": bench.ninja,
            "nothing": bench.nothing,
            "record": bench.record,
            "include": bench.include,
        }
        runs: dict[str, list[Run]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, run in cases.items():
                runs[case].append(run())
                say(f"{case}: {runs[case][-1].seconds:.2f} s")
    tell(runs)
    return 0


def tell(runs: dict[str, list[Run]]) -> None:
    """Print the table."""
    print(f"{'':<10}{'seconds':>8}{'(min–max)':>15}{'× ninja':>9}{'- nothing':>11}{'CPU s':>8}{'main MB':>9}")
    for case, found in runs.items():
        seconds = [run.seconds for run in found]
        ratio = statistics.median(one.seconds / other.seconds for one, other in zip(found, runs["ninja"], strict=True))
        more = statistics.median(one.seconds - other.seconds for one, other in zip(found, runs["nothing"], strict=True))
        spread = f"({min(seconds):.2f}–{max(seconds):.2f})"
        cpu = statistics.median(run.cpu_s for run in found)
        peak = max(run.peak_mb or 0 for run in found)
        print(
            f"{case:<10}{statistics.median(seconds):>8.2f}{spread:>15}{ratio:>9.2f}{more:>11.2f}{cpu:>8.2f}{peak:>9.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
