"""Following a batch from another process, by the event log that its run writes."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Generator

_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25
_STRETCH = 1 << 18  # bytes read at a time: memory stays flat however long the file is


def subscribe_events(
    batch_id: str | None, path: str | os.PathLike[str], *, timeout: float | None = None
) -> Generator[dict[str, Any], None, None]:
    """The events of a batch in the event log at `path`, from its first to its `chora.batch_completed`, as they come.

    Without `batch_id` it is the batch that is under way now (of several the one that began last), else the next one to
    begin. The file need not be there yet; one that is cut or replaced is read from its beginning again. Raises
    `TimeoutError` after `timeout` seconds without an event of the batch, `OSError` where the file cannot be read.
    """
    return _follow(batch_id, _Tail(os.fspath(path)), timeout)  # the tail notes at once how long the file is


def _follow(batch_id: str | None, tail: _Tail, timeout: float | None) -> Generator[dict[str, Any], None, None]:
    pauses = _Pauses(tail.path, timeout)
    with contextlib.closing(tail):
        if batch_id is None:
            batch_id = _find(tail, pauses)
        while True:
            for _, line in _more(tail, pauses):
                event = _event(line)
                if event.get("batch_id") == batch_id:
                    yield event
                    pauses.heard()
                    if event.get("event_type") == "chora.batch_completed":
                        return


def _find(tail: _Tail, pauses: _Pauses) -> str:
    """The batch that is under way or the next to begin; leaves `tail` where it begins."""
    begun: dict[str, int] = {}
    life = tail.life
    while True:
        lines = tail.read()
        if life != tail.life:
            life = tail.life
            begun.clear()
        if lines is None and not begun:
            pauses.wait()
            continue
        for offset, line in lines or ():
            _note(begun, _event(line), offset, tail.mark)
            if begun and offset >= tail.mark:
                break
        else:
            if lines is not None:  # there may be more of what was there
                continue
        under_way = [one for one, offset in begun.items() if offset < tail.mark]
        found = under_way[-1] if under_way else next(iter(begun))
        tail.seek(begun[found])
        return found


def _note(begun: dict[str, int], event: dict[str, Any], offset: int, mark: int) -> None:
    """Take down a batch that begins, and strike one that ended before `mark`."""
    name = event.get("batch_id")
    if not isinstance(name, str):
        return
    if event.get("event_type") == "chora.batch_started":
        begun[name] = offset
    elif event.get("event_type") == "chora.batch_completed" and offset < mark:
        begun.pop(name, None)


def _more(tail: _Tail, pauses: _Pauses) -> list[tuple[int, bytes]]:
    """The next lines, as soon as there is something new."""
    while (lines := tail.read()) is None:
        pauses.wait()
    pauses.shorten()
    return lines


def _event(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one where there is none."""
    try:
        event = orjson.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


class _Pauses:
    """Pauses that grow while nothing comes, until patience ends."""

    def __init__(self, path: str, timeout: float | None) -> None:
        self._path = path
        self._timeout = timeout
        self._pause = _SHORTEST_PAUSE
        self._since: float | None = None  # not before all that was there is read

    def heard(self) -> None:
        """Begin to wait anew: there was an event, and the consumer has dealt with it."""
        self._since = time.monotonic()

    def shorten(self) -> None:
        """Look again soon: something has come."""
        self._pause = _SHORTEST_PAUSE

    def wait(self) -> None:
        """Pause; raise `TimeoutError` where that has been of no use for too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause = self._pause
        if self._timeout is not None:
            left = self._since + self._timeout - now
            if left <= 0:
                raise TimeoutError(f"{self._path}: no event of the batch for {self._timeout:g} s")
            pause = min(pause, left)
        time.sleep(pause)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)


class _Tail:
    """The lines of a file that grows, and that may be cut or replaced.

    `mark` is where the file ended when this was made, 0 for what has come later; `life` counts beginnings.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        state = _state(path)
        self.mark = state.st_size if state else 0
        self.life = 0
        self._was = _identity(state) if state else None
        self._file: int | None = None
        self._offset = 0  # of the byte to read next; `_rest` stands before it
        self._rest = b""

    def read(self) -> list[tuple[int, bytes]] | None:
        """Whole lines and where they begin, from the next stretch of the file; None: there is nothing new."""
        if self._file is None and not self._open():
            return None
        assert self._file is not None  # noqa: S101  (opened above)
        data = os.pread(self._file, _STRETCH, self._offset)
        if data:
            return self._lines(data)
        if os.fstat(self._file).st_size < self._offset:
            self._restart()
            return []
        # Only now, that the old file is read to its end, a new one in its place is begun.
        state = _state(self.path)
        if state and _identity(state) != self._was:
            self.close()
            self._was = None
            return []
        return None

    def seek(self, offset: int) -> None:
        """Go on reading at the line that begins at `offset`."""
        self._offset, self._rest = offset, b""

    def close(self) -> None:
        """Close the file; the next `read` opens whatever is there then."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> bool:
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        now = _identity(os.fstat(self._file))
        if now != self._was:
            self._was = now
            self._restart()
        return True

    def _restart(self) -> None:
        self.mark = 0
        self.life += 1
        self.seek(0)

    def _lines(self, data: bytes) -> list[tuple[int, bytes]]:
        at = self._offset - len(self._rest)
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in whole:
            found.append((at, line))
            at += len(line) + 1
        return found


def _state(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
