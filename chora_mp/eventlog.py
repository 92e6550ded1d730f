"""The event log: what becomes of a batch and its items, as JSON lines in a file or on stdout."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from chora_mp.errors import OutputError
from chora_mp.events import BatchCompleted, BatchStarted, ItemCompleted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chora_mp.events import Event

TRACE_ID = "CHORA_TRACE_ID"
"""The environment variable with the trace that a run belongs to."""


def lines(event: Event, now: float, trace_id: str | None) -> bytes:
    """The JSON lines of `event`, told `now` (seconds since the epoch); none for what is no matter of the log.

    An item that was generated has two: the second is the one that chora-compose's consumers read.
    """
    return _lines(event, _stamp(now), trace_id)


class EventLog:
    """An observer that appends lines to the file `target`, or writes them to stdout for `-`.

    What is told at once is written at once: runs can share a file. Raises `OutputError` where it cannot be opened, and
    when called `OSError` where it cannot be written; a reader that has gone is no error.
    """

    prompt = True

    def __init__(self, target: str, clock: Callable[[], float] = time.time) -> None:
        self.__name__ = "event log"
        self._clock = clock
        self._trace_id = _escaped(os.environ.get(TRACE_ID) or None)
        try:
            self._file: int | None = _stdout() if target == "-" else _appending(target)
        except (OSError, ValueError) as error:  # ValueError: stdout is closed, or the name holds a null character
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise OutputError(f"{target}: cannot be written: {why}") from None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.tell_all((event,))

    def tell_all(self, events: Sequence[Event]) -> None:
        """Take many events, which happened about now."""
        if self._file is None:
            return
        stamp, trace_id = _stamp(self._clock()), self._trace_id
        data = b"".join([_lines(event, stamp, trace_id) for event in events])
        if not data:
            return
        try:
            _write(self._file, data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """Write no more."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _lines(event: Event, stamp: str, trace_id: str | None) -> bytes:
    """The lines of an event at the time `stamp`."""
    if isinstance(event, ItemCompleted):
        told = _item(event, stamp, trace_id)
        return told if event.status == "unchanged" else told + _generated(event, stamp, trace_id)
    if isinstance(event, BatchStarted):
        return _line("chora.batch_started", stamp, trace_id, asdict(event))
    if isinstance(event, BatchCompleted):
        return _line("chora.batch_completed", stamp, trace_id, asdict(event))
    return b""


def _item(event: ItemCompleted, stamp: str, trace_id: str | None) -> bytes:
    content = {
        "batch_id": event.batch_id,
        "config_id": event.config_id,
        "path": event.path,
        "status": event.status,
        "size": event.size,
        "digest": event.digest,
        "duration_ms": round(event.duration_s * 1000),
        "attempts": event.attempts,
        "error": asdict(event.error) if event.error else None,
    }
    if event.usage:
        content["usage"] = dict(event.usage)
    return _line("chora.item_completed", stamp, trace_id, content)


def _generated(event: ItemCompleted, stamp: str, trace_id: str | None) -> bytes:
    """The line that chora-compose writes for a generated content; its consumers know these keys and no others."""
    content = {
        "content_config_id": event.config_id,
        "generator_type": event.generator,
        "status": "error" if event.status == "failed" else "success",
        "duration_ms": round(event.duration_s * 1000),
        "error_message": event.error.message if event.error else None,
    }
    return _line("chora.content_generated", stamp, trace_id, content)


def _line(kind: str, stamp: str, trace_id: str | None, content: dict[str, Any]) -> bytes:
    told = {"timestamp": stamp, "trace_id": trace_id, "event_type": kind, **content}
    try:
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate, which is rare: nobody else pays for looking
        return orjson.dumps(_escaped(told), option=orjson.OPT_APPEND_NEWLINE)


def _escaped(value: Any) -> Any:
    """`value` with lone surrogates spelled out, as no UTF-8 can express them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(name): _escaped(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_escaped(one) for one in value]
    return value


def _stamp(now: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stdout() -> int:
    """A descriptor of our own for stdout, which may be closed while stdout stays open."""
    if sys.stdout is None:
        raise ValueError("stdout is closed")
    sys.stdout.flush()
    return os.dup(sys.stdout.fileno())


def _appending(path: str) -> int:
    """A descriptor to append to the file at `path`; a line that a full disk has cut off there is ended first."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if _is_cut_off(path, file):
            os.write(file, b"\n")
    except BaseException:
        os.close(file)
        raise
    return file


def _is_cut_off(path: str, file: int) -> bool:
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or not state.st_size:
        return False
    try:
        with open(path, "rb") as reader:
            reader.seek(-1, os.SEEK_END)
            return reader.read(1) != b"\n"
    except OSError:  # it may be written and not read
        return False


def _write(file: int, data: bytes) -> None:
    """Write all of `data`, at once where the system allows it."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(file, left) :]
        except BlockingIOError:  # somebody else has made the pipe that we share non-blocking
            waiting = select.poll()
            waiting.register(file, select.POLLOUT)
            waiting.poll()
