"""A process's memory: what it takes, and a cap on what it may. Linux counts and caps; elsewhere there is neither."""

from __future__ import annotations

import contextlib
import os
import resource
import sys

# Pages in /proc/self/statm, see proc_pid_statm(5): `data` is what RLIMIT_DATA limits, and the stack.
_RESIDENT, _DATA = 1, 5
_PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of memory that this process has in use; 0 where that cannot be told."""
    return _pages(_RESIDENT)


class Growth:
    """By how much this process has grown since its first item.

    `most`: the bytes after which another had better take its place; None: it may have them all. Where it is `capped`,
    what counts is what the cap counts.
    """

    def __init__(self, most: int | None, *, capped: bool) -> None:
        self._most = most
        self._column = _DATA if capped else _RESIDENT
        self._before = -1

    def begin(self) -> None:
        """Note that items come from now on."""
        if self._before < 0:
            self._before = _pages(self._column)

    def is_over(self) -> bool:
        """Whether it has grown by too much."""
        return self._most is not None and _pages(self._column) - self._before > self._most


def cap(more: int) -> None:
    """Let this process take so many bytes more than it has now, and no further: then Python raises `MemoryError`.

    RLIMIT_DATA counts what is allocated (since Linux 4.7 also by mmap), and not what is only mapped, such as the
    libraries: RLIMIT_AS would count those too, which differ from one machine to the other.
    """
    if sys.platform == "linux":
        _limit(_pages(_DATA) + more)


def lift_cap() -> None:
    """Let this process take as much as there is."""
    if sys.platform == "linux":
        _limit(resource.RLIM_INFINITY)


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
