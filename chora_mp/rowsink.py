"""Rows for the ledger, from a worker to the coordinator: too much for a message, so they go in files."""

from __future__ import annotations

import marshal
import os
import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from chora_mp.sources.chunks import storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.item import Item
    from chora_mp.records import Span


class RowSink:
    """Keeps what the ledger is told of each rendered item in one file a span: it is too much for a message.

    A row is the record's place in the ledger, its key, path and digest, the number of the template's closure, the
    digest of the document, its size, mtime in ns and inode, and the seconds it took.
    """

    def __init__(self, folder: str, name: int | str, closures: dict[str, int]) -> None:
        self._folder = folder
        self._prefix = os.path.join(folder, f"rows-{name}-")
        self._count = 0
        self._closures = closures
        self._values: list[Any] = []
        self._span: Span | None = None  # whose records come in any order
        self._shifts: Iterator[tuple[int, int]] = iter(())
        self._shift, self._following = 0, (sys.maxsize, 0)

    def beside(self, name: str, span: Span) -> RowSink:
        """Another one for the same templates, with files of that name, for a span whose records come in any order."""
        other = RowSink(self._folder, name, self._closures)
        other._span = span
        return other

    def begin(self, span: Span) -> None:
        """Turn to a span, whose records come in order."""
        self._shifts = iter(span.shifts)
        self._shift, self._following = 0, next(self._shifts)

    def add(self, item: Item, status: os.stat_result, seconds: float) -> None:
        """Keep one more row."""
        seq, data = item.seq, item.data
        while seq >= self._following[0]:
            self._shift, self._following = self._following[1], next(self._shifts, (sys.maxsize, 0))
        place = seq + self._shift if self._span is None else self._span.at(seq)
        closure = self._closures.get(item.template)
        if closure is None:  # a template that the scan has not met: its choice is not the same twice
            closure = self._closures[item.template] = item.renderer.closure(item.template).number
        key = item.key if item.key.isascii() else storable(item.key)
        source, document = blake2b(item.raw, digest_size=16).digest(), blake2b(data, digest_size=16).digest()
        self._values += (
            place, key, item.path, source, closure, document, len(data), status.st_mtime_ns, status.st_ino, seconds
        )  # fmt: skip

    def store(self) -> str | None:
        """The file that holds the rows, one after the other; None where there are none."""
        if not self._values:
            return None
        self._count += 1
        path = f"{self._prefix}{self._count}"
        with open(path, "wb") as file:
            file.write(marshal.dumps(self._values))
        self._values.clear()
        return path
