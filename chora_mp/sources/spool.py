"""The spool: records of any source, framed, so that they can be read again by anyone from any mark.

A frame is a header (kind, line, length) and a payload: the pickled record, or the pickled reason why there is none.
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HEADER = struct.Struct("<BQI")  # kind, line (0: unknown), length of the payload in bytes
_RECORD, _BAD = 0, 1

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
            payload = _dumps(record)
            return _HEADER.pack(_RECORD, line or 0, len(payload)) + payload
        except Exception as error:  # noqa: BLE001  (a value's own __reduce__ may raise anything)
            record = BadRecord(type(error).__name__, str(error))
    payload = pickle.dumps(tuple(record), 5)
    return _HEADER.pack(_BAD, line or 0, len(payload)) + payload


def _dumps(record: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, 5)
    # Without the memo equal records give equal bytes, however their values are shared; cycles are refused.
    pickler.fast = True
    pickler.dump(record if type(record) is dict else dict(record))
    return buffer.getvalue()


def read_frames(file: IO[bytes], skip: int) -> Iterator[tuple[int | None, Any]]:
    """Line and record (or `BadRecord`) of every frame from where `file` stands, but for the first `skip`."""
    read, size, unpack = file.read, _HEADER.size, _HEADER.unpack
    while header := read(size):
        kind, line, length = unpack(header)
        if skip:
            skip -= 1
            file.seek(length, 1)
            continue
        payload = read(length)
        yield line or None, BadRecord(*pickle.loads(payload)) if kind == _BAD else _loads(payload)


def _loads(payload: bytes) -> Any:
    """A record again; a value whose own code fails on the way makes it a `BadRecord`."""
    try:
        return pickle.loads(payload)
    except Exception as error:  # noqa: BLE001
        return BadRecord(type(error).__name__, str(error))
