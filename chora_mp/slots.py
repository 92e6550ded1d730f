"""Slots: a page of shared memory a seat, where its worker notes what it is at, for the time when it cannot tell."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass

# A page: the worker's pid, a count of what it has noted so far, two places for that, and the folder after its length.
# What is being noted goes to the place that does not count yet, and counts with the one byte that is written then: a
# reader never meets half of it, be the writer held up or killed in the middle.
_PID = struct.Struct("<Q")
_WHERE = struct.Struct("<qqd")  # the span's first record, the record, since when
_LENGTH = struct.Struct("<H")
_COUNT_AT = 8
_WHERE_AT = (16, 16 + _WHERE.size)
_LENGTH_AT = 16 + 2 * _WHERE.size
_FOLDER_AT = _LENGTH_AT + _LENGTH.size
_SIZE = max(8192, mmap.ALLOCATIONGRANULARITY)  # what can be mapped, with room for PATH_MAX
_IDLE = -1


@dataclass(frozen=True, slots=True)
class Note:
    """What a slot says.

    The worker's `pid`, the first record of its `span`, the record it is at (`seq`; None: at none), `since` when
    in seconds on the monotonic clock, and the `folder` it writes to.
    """

    pid: int
    span: int
    seq: int | None
    since: float
    folder: bytes


class Slot:
    """One seat's page in a file that coordinator and worker both map."""

    def __init__(self, path: str, number: int, *, shared: bool = False) -> None:
        """Map the page of seat `number`. `shared`: share in the lock that tells who is at work. Raises `OSError`."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if shared:
                fcntl.flock(self._file, fcntl.LOCK_SH)
            offset = number * _SIZE
            # Written, not just made longer: a page that the file system cannot back kills with SIGBUS when touched.
            # What was written in part is gone on with, to hear why.
            while (size := os.fstat(self._file).st_size) < offset + _SIZE:
                os.pwrite(self._file, bytes(offset + _SIZE - size), size)
            self._page = mmap.mmap(self._file, _SIZE, offset=offset)
        except BaseException:
            os.close(self._file)
            raise
        if not shared:
            os.close(self._file)  # else the lock would go with it

    def start(self, pid: int) -> None:
        """Note a new worker."""
        self.idle()
        _LENGTH.pack_into(self._page, _LENGTH_AT, 0)
        _PID.pack_into(self._page, 0, pid)

    def at(self, span: int, seq: int, since: float) -> None:
        """Note that the worker begins record `seq` of the span that begins at record `span`."""
        count = self._page[_COUNT_AT] + 1 & 255
        _WHERE.pack_into(self._page, _WHERE_AT[count & 1], span, seq, since)
        self._page[_COUNT_AT] = count

    def done(self, span: int) -> None:
        """Note that the worker is through with the span that begins at record `span`, and is going to answer."""
        self.at(span, _IDLE, 0.0)

    def idle(self) -> None:
        """Note that the worker is between spans."""
        self.at(_IDLE, _IDLE, 0.0)

    def entering(self, folder: bytes) -> None:
        """Note the folder that the worker is going to write to."""
        self._page[_FOLDER_AT : _FOLDER_AT + len(folder)] = folder
        _LENGTH.pack_into(self._page, _LENGTH_AT, len(folder))

    def read(self) -> Note:
        """What the slot says now."""
        return _note(self._page, 0)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


def wait_for_workers(path: str, seconds: float) -> bool:
    """Whether every worker that has a slot in a file has ended, or does so within so many seconds.

    The system takes a worker's share of the lock back when it has ended, not before.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no slots, no workers
        return True
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.01)
            except OSError:  # a file system without locks
                return True
    finally:
        os.close(file)


def read_notes(path: str) -> list[Note]:
    """The notes of all seats in a file of slots, by number; none where there is no such file, or it is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return []
    return [_note(data, start) for start in range(0, len(data) - _SIZE + 1, _SIZE)]


def _note(page: mmap.mmap | bytes, start: int) -> Note:
    """What the page that begins at `start` says."""
    count = -1
    while page[start + _COUNT_AT] != count:  # the worker has noted more while it was read
        count = page[start + _COUNT_AT]
        span, seq, since = _WHERE.unpack_from(page, start + _WHERE_AT[count & 1])
    (pid,) = _PID.unpack_from(page, start)
    (length,) = _LENGTH.unpack_from(page, start + _LENGTH_AT)
    folder = page[start + _FOLDER_AT : start + min(_FOLDER_AT + length, _SIZE)]
    return Note(pid, span, None if seq == _IDLE else seq, since, folder)
