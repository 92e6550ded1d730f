"""A process's memory: what it takes, and a cap on what it may. Linux counts and caps; others hardly do."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Pages in /proc/self/statm, see proc_pid_statm(5): `data` is what RLIMIT_DATA limits, and the stack.
_RESIDENT, _DATA = 1, 5
_PAGE = resource.getpagesize()


class Allowance:
    """What this process may take for items: bytes on top of what it has before the first, where there is a `cap`.

    `growth`: bytes by which it may grow before another process had better take its place; None: it may have them all.
    """

    def __init__(self, cap: int | None, growth: int | None) -> None:
        self._cap = cap if sys.platform == "linux" else None
        self._growth = growth
        self._column = _DATA if cap is not None else _RESIDENT  # what is capped is what counts
        self._before: int | None = None
        self._capped = False

    def begin(self) -> None:
        """Note that items come from now on."""
        if self._before is None:
            self._before = _pages(self._column)

    def grown(self) -> int:
        """Bytes by which the process has grown since then."""
        return _pages(self._column) - (self._before or 0)

    def is_over(self) -> bool:
        """Whether it has grown by too much."""
        return self._growth is not None and self.grown() > self._growth

    @contextlib.contextmanager
    def capped(self) -> Iterator[None]:
        """Hold this process to its cap while the block runs: beyond it, Python raises `MemoryError`.

        RLIMIT_DATA counts what is allocated (since Linux 4.7 also by mmap), and not what is only mapped, such as the
        libraries: RLIMIT_AS would count those too, which differ from one machine to the other.
        """
        if self._cap is None:
            yield
            return
        self._capped = True
        self.tighten()
        try:
            yield
        finally:
            self._capped = False
            self.loosen()

    @contextlib.contextmanager
    def exempted(self) -> Iterator[None]:
        """Let the block take what it needs, and don't count it: it is no item's."""
        before = _pages(self._column)
        self.loosen()
        try:
            yield
        finally:
            if self._before is not None:
                self._before += max(0, _pages(self._column) - before)
                if self._capped:
                    self.tighten()

    def tighten(self) -> None:
        """Hold this process to its cap, until `loosen`."""
        if self._cap is not None:
            _limit((_pages(_DATA) if self._before is None else self._before) + self._cap)

    def loosen(self) -> None:
        """Let this process take as much as there is."""
        if self._cap is not None:
            _limit(resource.RLIM_INFINITY)


def own() -> tuple[int, int]:
    """Bytes that this process has to itself now, and at most had; pages shared with the fork server are not counted.

    On Linux from proc_pid_status(5) and proc_pid_smaps_rollup(5); elsewhere only the most is known, shared pages
    included; 0: nobody can tell.
    """
    try:
        status, rollup = (_fields(f"/proc/self/{name}") for name in ("status", "smaps_rollup"))
        private = rollup["Private_Clean"] + rollup["Private_Dirty"]
        return private, private + max(0, status["VmHWM"] - status["VmRSS"])
    except (OSError, KeyError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return 0, most if sys.platform == "darwin" else most * 1024


def queued() -> float:
    """Seconds that this process's main thread has waited for a CPU so far; 0 where nobody can tell."""
    try:
        with open("/proc/self/schedstat", "rb") as file:  # nanoseconds; see Documentation/scheduler/sched-stats
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _fields(path: str) -> dict[str, int]:
    """The sizes in a file of lines such as `VmRSS:    1234 kB`, in bytes."""
    with open(path, encoding="ascii", errors="replace") as file:
        rows = (line.split() for line in file)
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def _limit(wanted: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
        wanted = hard
    with contextlib.suppress(OSError, ValueError):  # a sandbox around us may not have it
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _pages(column: int) -> int:
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(file, 256).split()[column]) * _PAGE
    finally:
        os.close(file)
