"""What does `fsync: true` cost? Many small documents through `FileSink`, in one process, with and without it.

`python bench/fsync.py --rounds 7` writes the same documents in turn, round after round, each time into a new folder:

without     what is written is in the system's cache
fsync       each document is synced before it is renamed, and each folder when a span ends
fdatasync   the same with os.fdatasync where os.fsync stands, to see whether that would be any cheaper
again       `fsync` on documents that are all there already: each is read and synced, none is written

Printed are median microseconds a document with the range, and the median of the ratios to `without` within each round.
The folder has to be on a real disk (`--output-dir`): in memory a sync costs nothing. Nothing is removed before the end,
and a second run should wait for a minute: ext4 passes over inodes that were freed a moment ago, one by one, which makes
each new file several times as dear.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chora_mp.sinks import FileSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Bench:
    """Documents and where they are written."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.turn = 0
        self.span: int = options.span
        self.data = b"x" * options.bytes
        self.paths = [f"{number % options.folders}/{number}.md" for number in range(options.documents)]
        self.paths.sort(key=lambda path: int(path.partition("/")[0]))

    def without(self) -> float:
        """Microseconds a document without `fsync`."""
        return self.timed(fsync=False)

    def fsync(self) -> float:
        """The same with it."""
        return self.timed(fsync=True)

    def fdatasync(self) -> float:
        """The same with the other system call."""
        with replaced_fsync():
            return self.timed(fsync=True)

    def again(self) -> float:
        """The same where every document is there, and on the disk."""
        self.write(fsync=True)
        return self.timed(fsync=True)

    def timed(self, *, fsync: bool) -> float:
        """Write, with the clock running."""
        started = time.perf_counter()
        self.write(fsync=fsync)
        return (time.perf_counter() - started) / len(self.paths) * 1e6

    def write(self, *, fsync: bool) -> None:
        """Write all documents, settling as a worker does."""
        sink = FileSink(str(self.folder / f"{self.turn}"), ".chora-bench-0", lambda _: None, fsync=fsync)
        for first in range(0, len(self.paths), self.span):
            for path in self.paths[first : first + self.span]:
                sink.write(path, self.data)
            sink.settle()
        sink.close()

    def turn_over(self) -> None:
        """An empty output folder and a disk that is done with what was before."""
        self.turn += 1
        (self.folder / f"{self.turn}").mkdir()
        os.sync()


@contextlib.contextmanager
def replaced_fsync() -> Iterator[None]:
    """`os.fdatasync` where `os.fsync` stands."""
    before, os.fsync = os.fsync, getattr(os, "fdatasync", os.fsync)
    try:
        yield
    finally:
        os.fsync = before


def main() -> None:
    """Measure, interleaved, and print."""
    parser = argparse.ArgumentParser(description="Measure what fsync costs.")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="on a real disk; default: the current folder")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--documents", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--bytes", type=int, default=2000, help="of one document; default: %(default)s")
    parser.add_argument("--folders", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--span", type=int, default=100, help="documents between two settlings; default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsync-", dir=options.output_dir) as name:
        bench = Bench(Path(name).resolve(), options)
        cases: dict[str, Callable[[], float]] = {
            "without": bench.without,
            "fsync": bench.fsync,
            "fdatasync": bench.fdatasync,
            "again": bench.again,
        }
        found: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, run in cases.items():
                bench.turn_over()
                found[case].append(run())
    print("$ python", shlex.join(sys.argv))
    tell(found)


def tell(found: dict[str, list[float]]) -> None:
    """Print the table."""
    print(f"{'':<10}{'µs/document':>12}{'(min–max)':>16}{'× without':>11}")
    for case, values in found.items():
        ratio = statistics.median(one / other for one, other in zip(values, found["without"], strict=True))
        spread = f"({min(values):.0f}–{max(values):.0f})"
        print(f"{case:<10}{statistics.median(values):>12.0f}{spread:>16}{ratio:>11.1f}")


if __name__ == "__main__":
    main()
