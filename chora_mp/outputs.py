"""Outputs on disk against what the ledger says of them: which are gone or edited, which nobody makes any more."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp.ledger import Output
from chora_mp.looks import changed_in_two
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sources.chunks import MOST_RECORDS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.ledger import Ledger

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PART = 2**20


class Doubt(NamedTuple):
    """An output whose file is not as the ledger has it: it is `missing`, or its bytes are others (`edited`).

    Neither: the bytes are the same, and only what `size`, `mtime` and `inode` say is new.
    """

    output: Output
    missing: bool
    edited: bool
    status: os.stat_result | None


class Folder:
    """An output folder, opened for looking."""

    def __init__(self, root: str) -> None:
        self._path = os.path.realpath(root)
        try:
            self._root: int | None = os.open(root, _FOLDER)
        except OSError:  # not there, then nothing in it is
            self._root = None

    def close(self) -> None:
        """Let go of the folder."""
        if self._root is not None:
            os.close(self._root)

    def doubt(self, output: Output) -> Doubt:
        """An output, looked at by its bytes."""
        if self._root is None:
            return Doubt(output, missing=True, edited=False, status=None)
        try:
            file = os.open(output.path, _READ, dir_fd=self._root)
        except OSError as error:
            gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
            return Doubt(output, missing=gone, edited=not gone, status=None)
        try:
            status = os.fstat(file)
            same = stat.S_ISREG(status.st_mode) and status.st_size == output.size and _digest(file) == output.digest
        except OSError:
            return Doubt(output, missing=False, edited=True, status=None)
        finally:
            os.close(file)
        return Doubt(output, missing=False, edited=not same, status=status)

    def remove(self, output: Output) -> bool:
        """Remove an output's file if it is as it was written, and folders that it leaves empty; whether it is gone."""
        if self._root is None:
            return True
        doubt = self.doubt(output)
        if doubt.missing:
            return True
        folder = os.path.realpath(os.path.join(self._path, os.path.dirname(output.path)))
        if doubt.edited or os.path.commonpath([folder, self._path]) != self._path:
            return False
        try:
            os.unlink(output.path, dir_fd=self._root)
        except OSError:
            return False
        folder = os.path.dirname(output.path)
        with contextlib.suppress(OSError):
            while folder:
                os.rmdir(folder, dir_fd=self._root)
                folder = os.path.dirname(folder)
        return True


def suspects(ledger: Ledger, folder: str, closures: Iterable[int], *, ahead: bool) -> list[int]:
    """The places in the ledger of outputs made from these closures whose size, mtime or inode is not as it was.

    There may be some of other outputs among them. `ahead`: whether it is soon enough for what was looked at ahead.
    """
    marks = ", ".join(map(str, closures)) or "NULL"
    where = f"error IS NULL AND closure IN ({marks})"
    with ledger.told():
        return changed_in_two(ledger.db, ledger.path, folder, where, ledger.sealed if ahead else None)


def output_at(ledger: Ledger, at: int) -> Output | None:
    """The output at a place in the ledger."""
    sql = "SELECT at, key, path, digest, size, mtime, inode FROM outputs WHERE at = ?"
    found = ledger.db.execute(sql, (at,)).fetchone()
    return Output(*found) if found else None


def orphans(
    ledger: Ledger, live: Iterable[int], mine: Callable[[str], bool] | None = None
) -> tuple[list[Output], list[int]]:
    """The outputs that no item makes any more, and the places of rows whose files are other items' by now.

    `live`: the numbers of the source's chunks. `mine`: whether a key is in the shard; what is not, is another run's.
    A path that some item lays claim to is never an orphan's, whether the item is rendered yet or not.
    """
    with ledger.told():
        gone = [row for row in _gone(ledger, live) if mine is None or mine(row[1])]
        paths = {path: at for at, _, path, *_ in sorted(gone, key=lambda row: row[-1])}  # of the last run, if several
        if not paths:
            return [], []
        places = {row[0] for row in gone}
        taken = {
            path for at, path in ledger.db.execute("SELECT at, path FROM outputs") if path in paths and at not in places
        }
        taken |= {path for path in _fresh_paths(ledger.db) if path in paths}
    found = [Output(*row[:-1]) for row in gone if paths[row[2]] == row[0] and row[2] not in taken]
    return found, sorted(places - {output.at for output in found})


def _gone(ledger: Ledger, live: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    """The rows of files that were written from records in chunks that are not `live`; at the end the run."""
    sql = (
        "SELECT at, key, path, digest, size, mtime, inode, run FROM outputs "
        f"WHERE at BETWEEN ? AND ? + {MOST_RECORDS - 1} AND digest IS NOT NULL"
    )
    for number in {*ledger.numbers()}.difference(live):
        first = number * MOST_RECORDS
        yield from ledger.db.execute(sql, (first, first))


def _fresh_paths(db: sqlite3.Connection) -> Iterator[str]:
    """The paths of the records that the comparison has looked at."""
    if db.execute("SELECT 1 FROM sqlite_temp_schema WHERE name = 'fresh'").fetchone():
        yield from (path for (path,) in db.execute("SELECT path FROM temp.fresh"))


def files_in(root: str) -> Iterator[str]:
    """The paths, relative to `root`, of all files in it; the state folder is left out."""
    for place, below, names in os.walk(root):
        if place == root:
            below[:] = [name for name in below if name != STATE_FOLDER]
        yield from (os.path.relpath(os.path.join(place, name), root) for name in names)


def _digest(file: int) -> bytes:
    digest = blake2b(digest_size=16)
    while part := os.read(file, _PART):
        digest.update(part)
    return digest.digest()
