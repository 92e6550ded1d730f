"""Findings: what the scan of one piece of a source has found, on its way from a worker to the plan, in a file."""

from __future__ import annotations

import marshal
import os
from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chora_mp.claims import Claims
from chora_mp.sinks import is_sound
from chora_mp.sources.chunks import storable

if TYPE_CHECKING:
    from collections.abc import Iterator

CHOSEN, LEFT_OUT, UNKEYED = 1, 2, 3
"""What is said of a fresh record: it is asked for; it is not; it has no key: no record, or no such name."""

EXPECTED = "expected"
"""The file in the run's scratch folder that lists the files of findings, where keys and paths may vary."""

CLAIMS = ".claims"
"""Ends the name of the file with the claims, beside that with the other findings."""

NEVER_KNOWN = -1
"""Stands for the count of keys in a chunk with records that have none: it is looked at in every run."""

ChunkFound = tuple[bytes, int, int, int, int, int | None]
"""Digest, byte offset, line, records, how many of them have a key within the shard; its number where it is known."""

RecordFound = tuple[int, str, str, bytes, str]
"""Number, key, path (empty: it has none), digest and template (empty: it chooses none) of a fresh record."""

FaultFound = tuple[int, int | None, str]
"""Number and line of a record, and what is wrong with it."""


@dataclass(slots=True)
class Findings:
    """Numbers and lines count from 0 at the piece's beginning.

    `flags` has a byte for each fresh record, in order; `keys`, `paths` and `folders` are what they claim (`Claims`).
    `rows`, `names` (how many records have each) and `faults` are there only where they are asked for.
    """

    records: int = 0
    lines: int = 0
    unkeyed: int = 0
    chunks: list[ChunkFound] = field(default_factory=list)
    flags: bytearray = field(default_factory=bytearray)
    keys: array[int] = field(default_factory=lambda: array("q"))
    paths: array[int] = field(default_factory=lambda: array("q"))
    folders: dict[int, int] = field(default_factory=dict)
    rows: list[RecordFound] = field(default_factory=list)
    templates: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    faults: list[FaultFound] = field(default_factory=list)

    def save(self, path: str) -> None:
        """Write the findings to a file, and the claims to keys and paths to one beside it. Raises `OSError`."""
        plain = (self.records, self.lines, self.unkeyed, self.chunks, bytes(self.flags), self.rows)
        with open(path, "wb") as file:
            file.write(marshal.dumps((*plain, self.templates, dict(self.names), self.faults)))
        Claims(self.records, list(self._fresh()), self.keys, self.paths, self.folders).save(path + CLAIMS)

    def _fresh(self) -> Iterator[tuple[int, int]]:
        """The runs of fresh records."""
        first = 0
        for _, _, _, records, _, number in self.chunks:
            if number is None:
                yield first, records
            first += records

    @classmethod
    def load(cls, path: str) -> Findings:
        """The findings in a file, but for the claims. Raises `OSError`."""
        with open(path, "rb") as file:
            records, lines, unkeyed, chunks, flags, rows, templates, names, faults = marshal.loads(file.read())
        found = cls(records, lines, unkeyed, chunks, bytearray(flags), rows=rows)
        found.templates, found.names, found.faults = templates, Counter(names), faults
        return found


def load_rows(path: str) -> list[Any]:
    """What a worker has left for the ledger in the file `path`, which goes: the values of one row after the other.

    Raises `OSError`.
    """
    with open(path, "rb") as file:
        values: list[Any] = marshal.loads(file.read())
    os.unlink(path)
    return values


class Expected:
    """What the scan has found keys and paths to be, where they are made by more than look-ups.

    What counts, draws lots or asks the clock gives another path now than the one that was checked for being unique.
    """

    def __init__(self, pieces: list[tuple[int, str]]) -> None:
        """`pieces`: the first record of each piece of the source, and the file with its findings."""
        self._firsts = [first for first, _ in pieces]
        self._paths = [path for _, path in pieces]
        self._piece = -1
        self._found: dict[int, tuple[str, str]] = {}

    def check(self, seq: int, key: str, path: str) -> None:
        """Raise `ValueError` where the scan has found something else."""
        piece = bisect_right(self._firsts, seq) - 1
        if piece != self._piece:
            rows = Findings.load(self._paths[piece]).rows
            self._piece, self._found = piece, {self._firsts[piece] + row[0]: (row[1], row[2]) for row in rows}
        if not key:  # there is no path to be written to either
            return
        found = self._found.get(seq)
        if found is None:
            raise ValueError(f"the key is {key!r} and there was none before; it must be the same each time")
        now = storable(key), storable(path) if is_sound(path) else ""
        if found != now:
            what, one, real = ("key", 0, key) if found[0] != now[0] else ("output path", 1, path)
            raise ValueError(f"the {what} is {real!r} and was {found[one]!r} before; it must be the same each time")
