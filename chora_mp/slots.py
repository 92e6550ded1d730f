"""Slots: a page of shared memory a seat, where its worker notes what it is at, for the time when it cannot tell."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

_FIELDS = struct.Struct("<QqqdH")  # pid, the span's first record, the record, since when, length of the folder
_WHERE = struct.Struct("<qqd")
_FOLDER_AT = _FIELDS.size
_SIZE = max(8192, mmap.ALLOCATIONGRANULARITY)  # what can be mapped, with room for PATH_MAX
_IDLE = -1


@dataclass(frozen=True, slots=True)
class Note:
    """What a slot says.

    The worker's `pid`, the first record of its `span`, the record it is at (`seq`; None: between spans), `since` when
    in seconds on the monotonic clock, and the `folder` it writes to.
    """

    pid: int
    span: int
    seq: int | None
    since: float
    folder: bytes


class Slot:
    """One seat's page in a file that coordinator and worker both map."""

    def __init__(self, path: str, number: int) -> None:
        """Map the page of seat `number`. Raises `OSError`."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            offset = number * _SIZE
            # Written, not just made longer: a page that the file system cannot back kills with SIGBUS when touched.
            # What was written in part is gone on with, to hear why.
            while (size := os.fstat(self._file).st_size) < offset + _SIZE:
                os.pwrite(self._file, bytes(offset + _SIZE - size), size)
            self._page = mmap.mmap(self._file, _SIZE, offset=offset)
        finally:
            os.close(self._file)

    def start(self, pid: int) -> None:
        """Note a new worker."""
        _FIELDS.pack_into(self._page, 0, pid, _IDLE, _IDLE, 0.0, 0)

    def at(self, span: int, seq: int, since: float) -> None:
        """Note that the worker begins record `seq` of the span that begins at record `span`."""
        _WHERE.pack_into(self._page, 8, span, seq, since)

    def idle(self) -> None:
        """Note that the worker is between spans."""
        _WHERE.pack_into(self._page, 8, _IDLE, _IDLE, 0.0)

    def entering(self, folder: bytes) -> None:
        """Note the folder that the worker is going to write to."""
        self._page[_FOLDER_AT : _FOLDER_AT + len(folder)] = folder
        struct.pack_into("<H", self._page, _FOLDER_AT - 2, len(folder))

    def read(self) -> Note:
        """What the slot says now."""
        pid, span, seq, since, length = _FIELDS.unpack_from(self._page, 0)
        folder = self._page[_FOLDER_AT : _FOLDER_AT + length]
        return Note(pid, span, None if seq == _IDLE else seq, since, folder)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


def read_notes(path: str) -> list[Note]:
    """The notes of all seats in a file of slots, by number; none where there is no such file, or it is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return []
    notes = []
    for start in range(0, len(data) - _SIZE + 1, _SIZE):
        pid, span, seq, since, length = _FIELDS.unpack_from(data, start)
        folder = data[start + _FOLDER_AT : start + _FOLDER_AT + length]
        notes.append(Note(pid, span, None if seq == _IDLE else seq, since, folder))
    return notes
