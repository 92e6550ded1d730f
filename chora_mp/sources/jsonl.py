"""JSON lines: a file that can be cut anywhere at a newline, so that workers read their own share of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import orjson

from chora_mp.records import BadRecord
from chora_mp.sources.marks import MARK_EVERY, Marks
from chora_mp.sources.shapes import as_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Digits to "0", all else away from it: a run of 19 zeros then betrays an integer that may not fit 64 bits. orjson
# would round it to a float without a word. (Measured: 3 µs for 4 KB; a regular expression takes 38.)
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_PART = 2**20  # bytes of a line that are looked at together for its end
_LONG_INTEGER = b"0" * 19


def stamp(path: str) -> tuple[int, int, int]:
    """Size, mtime in ns and inode of a file: what changes when somebody writes to it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def scan(path: str, start: int, end: int) -> Marks:
    """Where the records are whose lines begin in bytes `start` to `end` (exclusive) of the file; blank lines are none.

    Lines and numbers count from 0 at `start`.
    """
    marks = Marks()
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            while not file.readline(_PART).endswith(b"\n"):
                if not start <= file.tell() < end:  # one line goes through all of this part
                    return marks
        position = file.tell()
        next_mark = position
        for text in file:
            if position >= end:
                break
            if position >= next_mark:
                marks.mark(position)
                next_mark = position + MARK_EVERY
            position += len(text)
            marks.lines += 1
            if not text.isspace():
                marks.records += 1
    return marks


def read_lines(file: Iterable[bytes], line: int, skip: int) -> Iterator[tuple[int, Any]]:
    """Line number and record (or `BadRecord`) from where `file` stands, which is line `line`, passing over `skip`."""
    for number, text in enumerate(file, line):
        if text.isspace():
            continue
        if skip:
            skip -= 1
            continue
        yield number, parse(text)


def parse(text: bytes) -> Any:
    """The record in a line, every value as it is written there, or a `BadRecord` that says why there is none."""
    try:
        exact = _LONG_INTEGER in text.translate(_DIGITS)
        record = json.loads(text) if exact else orjson.loads(text)
    except (ValueError, RecursionError):
        record = _parse_again(text)
    return record if record.__class__ is dict else as_record(record)


def _parse_again(text: bytes) -> Any:
    """What Python's parser makes of a line that orjson refused: NaN and lone surrogates are values to it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return BadRecord("JSONDecodeError", f"not valid JSON: {error.msg} (column {error.pos + 1})")
    except UnicodeDecodeError as error:
        return BadRecord("UnicodeDecodeError", f"not valid UTF-8 (byte {error.start} of the line: {error.reason})")
    except RecursionError:
        return BadRecord("RecursionError", "the record is nested too deeply")
    except ValueError as error:  # an integer of more than 4,300 digits
        return BadRecord("ValueError", str(error))
