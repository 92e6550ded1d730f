"""JSON lines: a file that can be cut anywhere at a newline, so that workers read their own share of it."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any, TypedDict

import orjson

from chora_mp.records import BadRecord
from chora_mp.sources.chunks import LEAST_BYTES, ends_chunk
from chora_mp.sources.shapes import as_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Digits to "0", all else away from it: a run of 19 zeros then betrays an integer that may not fit 64 bits. orjson
# would round it to a float without a word. (Measured: 3 µs for 4 KB; a regular expression takes 38.)
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_PART = 2**20  # bytes of a line that are looked at together for its end
_LONG_INTEGER = b"0" * 19


def stamp(path: str) -> tuple[int, int, int]:
    """Size, mtime in ns and inode of a file: what changes when somebody writes to it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_chunks(path: str, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
    """Offset and lines of each chunk of the lines that begin in bytes `start` to `end` (exclusive) of the file."""
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            while not file.readline(_PART).endswith(b"\n"):
                if not start <= file.tell() < end:  # one line goes through all of this part
                    return
        offset = file.tell()
        least = max(1, LEAST_BYTES - 1)  # what goes beyond may be a chunk: read together, and then line by line
        while offset < end and (lines := file.readlines(least)):
            position = offset + sum(map(len, lines))
            while position - len(lines[-1]) >= end:  # the lines of the next piece
                position -= len(lines.pop())
            text = lines[-1]
            while position < end and not ends_chunk(text, position - offset):
                if not (text := file.readline()):
                    break
                lines.append(text)
                position += len(text)
            yield offset, lines
            offset = position


def read_lines(file: Iterable[bytes], line: int, skip: int) -> Iterator[tuple[int, bytes]]:
    """Line number and text of records from where `file` stands, which is line `line`, passing over `skip`."""
    for number, text in enumerate(file, line):
        if text.isspace():
            continue
        if skip:
            skip -= 1
            continue
        yield number, text


def parse(text: bytes) -> Any:
    """The record in a line, every value as it is written there, or a `BadRecord` that says why there is none."""
    try:
        exact = _LONG_INTEGER in text.translate(_DIGITS)
        record = json.loads(text) if exact else orjson.loads(text)
    except (ValueError, RecursionError):
        record = _parse_again(text)
    return record if record.__class__ is dict else as_record(record)


def parse_all(texts: list[bytes], together: bytes, names: frozenset[str]) -> list[Any] | None:
    """What is under `names` in the record of each of some lines, as `parse` has it; None: ask that, line by line.

    `together`: the bytes of all lines. The rest of a record is looked through, and no values are made of it: a third to
    a seventh of the time.
    """
    import msgspec  # noqa: PLC0415  (only the scan needs it)

    try:
        if not together.isascii():
            together.decode()  # msgspec passes over text that is not asked for, whatever its bytes
        return list(map(_picker(names), texts))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


@functools.cache
def _picker(names: frozenset[str]) -> Callable[[bytes], Any]:
    """What makes a dictionary of a line of JSON, with so many of `names` as are in it."""
    import msgspec  # noqa: PLC0415  (as above)

    shape: Any = TypedDict("shape", dict.fromkeys(names, Any), total=False)  # type: ignore[misc]
    return msgspec.json.Decoder(shape).decode


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
