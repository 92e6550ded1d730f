"""Spooling: read a source once, into a file of frames that any worker can read from any mark."""

from __future__ import annotations

import gzip
import pickle
import zlib
from typing import TYPE_CHECKING, Any

from chora_mp.errors import OutputError, SourceError
from chora_mp.sources import jsonl
from chora_mp.sources.marks import MARK_EVERY, Marks
from chora_mp.sources.spool import frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.job import Source


def spool_source(source: Source, path: str) -> None:
    """Write the records of `source` to `path` and the marks to `path` + ".marks".

    Raises `SourceError` where the source cannot be read as a whole, `OutputError` where the spool cannot be written.
    """
    marks = Marks()
    position = next_mark = 0
    try:
        with open(path, "wb", buffering=2**20) as file:
            for line, record in _entries(source):
                if position >= next_mark:
                    marks.mark(position)
                    next_mark = position + MARK_EVERY
                marks.records += 1
                position += file.write(frame(line, record))
        with open(path + ".marks", "wb") as file:
            pickle.dump(marks, file, 5)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the records read from {source.name}: {error.strerror}") from None


def _entries(source: Source) -> Iterator[tuple[int | None, Any]]:
    if source.format != "jsonl":
        from chora_mp.sources.readers import read_records  # noqa: PLC0415  (brings YAML, SQLite and CSV along)

        return read_records(source)
    return _zipped_lines(source)


def _zipped_lines(source: Source) -> Iterator[tuple[int, Any]]:
    try:
        with gzip.open(str(source.path), "rb") as file:
            yield from jsonl.read_lines(file, 1, 0)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{source.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
