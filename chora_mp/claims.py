"""Claims: which keys and paths fresh records are to have, and where two records lay claim to one.

Claims are 64-bit hashes, compared by the workers, some at a time, so that ten million records take no more memory than
one million. Where two agree, a worker is asked for the keys and paths themselves.
"""

from __future__ import annotations

import marshal
from array import array
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOTHING = -1
"""Stands where a record claims no key or no path: Python gives no text this hash."""

_SHARE = 2**20  # claims looked at together: some 100 MB
_MOST_PAIRS = 100  # told by one share: more than anybody wants to read


class Claims(NamedTuple):
    """What the records of a piece of the source lay claim to; the piece has so many `records`, fresh ones and others.

    `fresh`: the chunks of fresh records, each as its first record's number in the piece and how many it has. `keys` and
    `paths` have a hash for each fresh record, the same for all workers of a run. `folders` maps the hashes of the
    folders that paths lead through to the first record that needs the folder.
    """

    records: int
    fresh: list[tuple[int, int]]
    keys: array[int]
    paths: array[int]
    folders: dict[int, int]

    def save(self, path: str) -> None:
        """Write the claims to a file. Raises `OSError`."""
        with open(path, "wb") as file:
            plain = (self.records, self.fresh, self.keys.tobytes(), self.paths.tobytes(), self.folders)
            file.write(marshal.dumps(plain))

    @classmethod
    def load(cls, path: str) -> Self:
        """The claims in a file. Raises `OSError`."""
        with open(path, "rb") as file:
            records, fresh, keys, paths, folders = marshal.loads(file.read())
        return cls(records, fresh, array("q", keys), array("q", paths), folders)

    def seqs(self) -> Iterator[int]:
        """The fresh records' numbers in the piece."""
        return chain.from_iterable(range(first, first + count) for first, count in self.fresh)


def shares(records: int) -> list[tuple[str, int, int]]:
    """What to ask `clashes` for so many records: every kind of claim, and every share of how many."""
    count = 1 + records // _SHARE
    return [(kind, share, count) for share in range(count) for kind in ("keys", "paths")]


def clashes(pieces: Sequence[str], kind: str, share: int, count: int) -> list[tuple[int, int]]:
    """Numbers of records whose claims of one kind agree, some of them if there are many.

    `pieces`: the files with the claims of all pieces, in order. Only hashes that fall into the `share` of `count` are
    looked at; for the paths also folders that other paths lead through.
    """
    seen = {NOTHING}
    twice: set[int] = set()
    for path in pieces:
        claims: Sequence[int] = getattr(Claims.load(path), kind)
        if count > 1:
            claims = [claim for claim in claims if claim % count == share]
        expected = len(seen) + len(claims) - claims.count(NOTHING)
        seen.update(claims)
        if len(seen) < expected:  # nearly never
            twice.update(claims)
    pairs = list(_pairs(pieces, kind, twice - {NOTHING}))
    if kind == "paths":
        folders = {folder for path in pieces for folder in Claims.load(path).folders if folder in seen}
        pairs += _folder_pairs(pieces, folders)
    return pairs[:_MOST_PAIRS]


def _pairs(pieces: Sequence[str], kind: str, twice: set[int]) -> Iterator[tuple[int, int]]:
    """The first record with each of these claims, with every other."""
    if not twice:
        return
    first: dict[int, int] = {}
    for seq, claim in _claims(pieces, kind):
        if claim in twice and first.setdefault(claim, seq) != seq:
            yield first[claim], seq


def _folder_pairs(pieces: Sequence[str], folders: set[int]) -> Iterator[tuple[int, int]]:
    """Records whose path may be one of these folders, with the first whose path leads through it."""
    if not folders:
        return
    above: dict[int, int] = {}
    base = 0
    for path in pieces:
        claims = Claims.load(path)
        for folder in folders & claims.folders.keys():
            above.setdefault(folder, base + claims.folders[folder])
        base += claims.records
    yield from ((above[claim], seq) for seq, claim in _claims(pieces, "paths") if claim in folders)


def _claims(pieces: Sequence[str], kind: str) -> Iterator[tuple[int, int]]:
    """Number in the source and hash of every claim."""
    base = 0
    for path in pieces:
        claims = Claims.load(path)
        yield from ((base + seq, claim) for seq, claim in zip(claims.seqs(), getattr(claims, kind), strict=True))
        base += claims.records
