"""The spool: records of any source, framed, so that they can be read again by anyone from any mark.

A frame is a header (line, length) and a payload: a byte that tells its kind, and the pickled record, or the pickled
reason why there is none.
Pickle keeps values as they are: dates, decimals, bytes, NaN, integers of any length.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from types import BuiltinFunctionType, FunctionType
from typing import IO, TYPE_CHECKING, Any

from chora_mp.records import BadRecord
from chora_mp.sources.chunks import ends_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HEADER = struct.Struct("<QI")  # line (0: unknown), length of the payload in bytes
_RECORD, _BAD = b"\0", b"\1"
HEADER_BYTES = _HEADER.size

# Modules whose types every worker has; markupsafe for text that is HTML already.
_KNOWN = (sys.stdlib_module_names | {"markupsafe"}) - {"builtins"}
_KNOWN_BUILTINS = (bytearray, complex, range, slice)


class _Pickler(pickle.Pickler):
    """Pickles plain data only: what a worker could not rebuild, or not rebuild alike, is refused here, by name."""

    def reducer_override(self, obj: Any) -> Any:
        named = isinstance(obj, (type, FunctionType, BuiltinFunctionType))  # pickled by name
        kind = obj if named else type(obj)
        home = (kind.__module__ or "builtins").partition(".")[0]
        if home in _KNOWN or (home == "builtins" and (named or kind in _KNOWN_BUILTINS)):
            return NotImplemented
        raise TypeError(
            f"the record holds a {kind.__module__}.{kind.__qualname__}; "
            "records carry plain data, so convert it to a dict, list, string or number"
        )


def frame(line: int | None, record: Mapping[str, Any] | BadRecord) -> bytes:
    """One record as bytes; a record that cannot be carried becomes a `BadRecord` that says why."""
    if not isinstance(record, BadRecord):
        try:
            payload = _RECORD + _dumps(record)
            return _HEADER.pack(line or 0, len(payload)) + payload
        except Exception as error:  # noqa: BLE001  (a value's own __reduce__ may raise anything)
            record = BadRecord(type(error).__name__, str(error))
    payload = _BAD + pickle.dumps(tuple(record), 5)
    return _HEADER.pack(line or 0, len(payload)) + payload


def _dumps(record: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, 5)
    # Without the memo equal records give equal bytes, however their values are shared; cycles are refused.
    pickler.fast = True
    pickler.dump(record if type(record) is dict else dict(record))
    return buffer.getvalue()


def read_frames(file: IO[bytes], skip: int) -> Iterator[tuple[int | None, bytes]]:
    """Line and payload of every frame from where `file` stands, but for the first `skip`."""
    read, size, unpack = file.read, _HEADER.size, _HEADER.unpack
    while header := read(size):
        line, length = unpack(header)
        if skip:
            skip -= 1
            file.seek(length, 1)
            continue
        yield line or None, read(length)


def cut(data: bytes, skip: int, count: int) -> bytes:
    """Of frames one after the other, `count` after the first `skip`."""
    ends = [0]
    while len(ends) <= skip + count:
        ends.append(ends[-1] + HEADER_BYTES + _HEADER.unpack_from(data, ends[-1])[1])
    return data[ends[skip] : ends[-1]]


def read_chunks(path: str, start: int, end: int) -> Iterator[tuple[int, list[tuple[int | None, bytes]]]]:
    """Offset and frames (line, payload) of each chunk in bytes `start` to `end` of a spool, both at a frame's edge."""
    with open(path, "rb") as file:
        file.seek(start)
        offset = position = start
        frames: list[tuple[int | None, bytes]] = []
        for line, payload in read_frames(file, 0):
            if position >= end:
                break
            frames.append((line, payload))
            position += HEADER_BYTES + len(payload)
            if ends_chunk(payload, position - offset):
                yield offset, frames
                offset, frames = position, []
        if frames:
            yield offset, frames


def parse(payload: bytes) -> Any:
    """The record in a frame, or the `BadRecord`; a value whose own code fails on the way makes it one."""
    try:
        value = pickle.loads(memoryview(payload)[1:])
    except Exception as error:  # noqa: BLE001
        return BadRecord(type(error).__name__, str(error))
    return BadRecord(*value) if payload[:1] == _BAD else value


def parse_all(
    payloads: list[bytes],
    together: bytes,  # noqa: ARG001  (as `jsonl` has it)
    names: frozenset[str],  # noqa: ARG001  (as `jsonl` has it)
) -> list[Any] | None:
    """What `parse` makes of each payload; None: there are some that are no records."""
    records = list(map(parse, payloads))
    return records if {*map(type, records)} == {dict} else None
