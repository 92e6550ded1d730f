"""Spooling: read a source once, into a file of frames that any worker can read from any chunk on."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any

from chora_mp.errors import OutputError, SourceError
from chora_mp.sources import jsonl
from chora_mp.sources.chunks import PIECE_BYTES
from chora_mp.sources.spool import frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chora_mp.job import Source


def spool_source(source: Source, path: str) -> list[int]:
    """Write the records of `source` to `path`; the byte offsets at which a scan can begin, and the end, in order.

    Raises `SourceError` where the source cannot be read as a whole, `OutputError` where the spool cannot be written.
    """
    return write_spool(read_entries(source), path, source.name)


def write_spool(entries: Iterable[tuple[int | None, Any]], path: str, name: str) -> list[int]:
    """The same of `entries`: lines, or None, and records; `name`: what messages call where they come from."""
    cuts = [0]
    position = 0
    try:
        with open(path, "wb", buffering=2**20) as file:
            for line, record in entries:
                if position - cuts[-1] >= PIECE_BYTES:
                    cuts.append(position)
                position += file.write(frame(line, record))
    except OSError as error:
        raise OutputError(f"{path}: cannot write the records read from {name}: {error.strerror}") from None
    return [*cuts, position]


def read_entries(source: Source) -> Iterator[tuple[int | None, Any]]:
    """Line, or None, and record of each record of a source that cannot be cut. Raises `SourceError`."""
    if source.format != "jsonl":
        from chora_mp.sources.readers import read_records  # noqa: PLC0415  (brings YAML, SQLite and CSV along)

        return read_records(source)
    return _zipped_lines(source)


def _zipped_lines(source: Source) -> Iterator[tuple[int, Any]]:
    try:
        with gzip.open(str(source.path), "rb") as file:
            for number, text in jsonl.read_lines(file, 1, 0):
                yield number, jsonl.parse(text)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{source.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
