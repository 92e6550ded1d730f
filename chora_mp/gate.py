"""The gate: the one place that all items of a generator go through when they begin, whatever process they are in.

It is a page of a file that coordinator and workers map, and keeps to a token bucket of capacity 1 on the monotonic
clock, which all processes share: an item begins no sooner than 1/rate seconds after the one before it really began. So
in any window of T seconds at most floor(rate * T) + 1 begin. A service that asks everybody to wait is obeyed here, too.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
import time
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = struct.Struct(
    "<ddB"
)  # when the last item began, until when all have to wait, whether nobody may begin any more
_SIZE = mmap.ALLOCATIONGRANULARITY
_LOOK_SECONDS = 0.1  # between looks, while waiting, whether the gate is closed
_MARGIN = 0.005  # an item is at work some microseconds after it may be, not each as many: the spaces between them hold
_EARLY_SECONDS = 0.0003  # a sleep ends some 0.1 ms late: the rest is waited for awake, or 100 items/s would be 99


class Gate:
    """One generator's gate; `rate` in items per second, None: as many as come."""

    def __init__(self, path: str, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Map the page in the file at `path`, which is made if it is not there. Raises `OSError`."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < _SIZE:  # written: a page without room on the disk would kill when touched
            os.pwrite(self._file, _PAGE.pack(-math.inf, -math.inf, 0) + bytes(_SIZE - _PAGE.size), 0)
        self._page = mmap.mmap(self._file, _SIZE)
        self._interval = 0.0 if rate is None else (1 + _MARGIN) / rate
        self._clock = clock
        self._lock = Lock()  # a file's lock is the process's, and no matter between its threads

    def knock(self) -> float:
        """Begin an item, if it may begin now: 0; else the seconds after which to ask again; infinite: never."""
        if not self._interval:  # nobody has to be let in one after the other
            _, held, closed = _PAGE.unpack_from(self._page)
            return math.inf if closed else max(0.0, float(held - self._clock()))
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                last, held, closed = _PAGE.unpack_from(self._page)
                if closed:
                    return math.inf
                now = self._clock()
                wait = max(last + self._interval, held) - now
                if wait > 0:
                    return float(wait)
                _PAGE.pack_into(self._page, 0, now, held, closed)
                return 0.0
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def is_narrow(self) -> bool:
        """Whether items have to go through one after the other."""
        return bool(self._interval)

    def hold(self, seconds: float) -> None:
        """Let nobody begin for so many seconds from now."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                last, held, closed = _PAGE.unpack_from(self._page)
                _PAGE.pack_into(self._page, 0, last, max(held, self._clock() + seconds), closed)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let nobody begin any more: who waits gives up, in whatever process."""
        self._page[_PAGE.size - 1] = 1

    def wait(self, told: Callable[[float], None]) -> bool:
        """Begin an item as soon as it may; whether it may at all. `told` gets the seconds that it has to wait still."""
        while seconds := self.knock():
            if seconds == math.inf:
                return False
            told(seconds)
            rest(seconds)
        return True

    def let_go(self) -> None:
        """Unmap the page."""
        self._page.close()
        os.close(self._file)


def rest(seconds: float) -> None:
    """Sleep until shortly before so many seconds are over, a tenth of one at most."""
    if seconds > _EARLY_SECONDS:
        time.sleep(min(seconds - _EARLY_SECONDS, _LOOK_SECONDS))


def gate_path(scratch: str, generator: str) -> str:
    """The file of a generator's gate, in a run's own folder."""
    return os.path.join(scratch, f"gate-{generator.encode().hex()[:100]}")
