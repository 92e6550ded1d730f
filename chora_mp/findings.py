"""Findings: what the scan of one piece of a source has found, on its way from a worker to the plan, in a file."""

from __future__ import annotations

import marshal
import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CHOSEN, LEFT_OUT, UNKEYED = 1, 2, 3
"""What is said of a fresh record: it is asked for; it is not; it has no key: no record, or no such name."""

EXPECTED = "expected"
"""The file in the run's scratch folder that lists the files of findings, where keys and paths may vary."""

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

    `flags` has a byte for each fresh record, in order. `keys` and `paths` are hashes, the same for all workers of a
    run, with the numbers of the records that lay claim to them; `folders` maps those of the folders that paths lead
    through to the first record that needs the folder. `rows`, `names` (how many records have each) and `faults` are
    there only where they are asked for.
    """

    records: int = 0
    lines: int = 0
    unkeyed: int = 0
    chunks: list[ChunkFound] = field(default_factory=list)
    flags: bytearray = field(default_factory=bytearray)
    keys: array[int] = field(default_factory=lambda: array("q"))
    key_seqs: array[int] = field(default_factory=lambda: array("I"))
    paths: array[int] = field(default_factory=lambda: array("q"))
    path_seqs: array[int] = field(default_factory=lambda: array("I"))
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
        claims = [one.tobytes() for one in (self.keys, self.key_seqs, self.paths, self.path_seqs)]
        with open(path + ".claims", "wb") as file:
            file.write(marshal.dumps((self.records, *claims, self.folders)))

    @classmethod
    def load(cls, path: str) -> Findings:
        """The findings in a file, but for the claims. Raises `OSError`."""
        with open(path, "rb") as file:
            records, lines, unkeyed, chunks, flags, rows, templates, names, faults = marshal.loads(file.read())
        found = cls(records, lines, unkeyed, chunks, bytearray(flags), rows=rows)
        found.templates, found.names, found.faults = templates, Counter(names), faults
        return found


class Claims(NamedTuple):
    """What a piece's records, so many of them, lay claim to; fields as in `Findings`."""

    records: int
    keys: array[int]
    key_seqs: array[int]
    paths: array[int]
    path_seqs: array[int]
    folders: dict[int, int]

    @classmethod
    def load(cls, path: str) -> Claims:
        """The claims beside the findings in the file `path`. Raises `OSError`."""
        with open(path + ".claims", "rb") as file:
            records, keys, key_seqs, paths, path_seqs, folders = marshal.loads(file.read())
        return cls(records, array("q", keys), array("I", key_seqs), array("q", paths), array("I", path_seqs), folders)


def load_rows(path: str) -> list[tuple[Any, ...]]:
    """What a worker has left for the ledger in the file `path`, which goes. Raises `OSError`."""
    with open(path, "rb") as file:
        rows: list[tuple[Any, ...]] = marshal.loads(file.read())
    os.unlink(path)
    return rows
