"""Outputs on disk against what the ledger says of them: which are gone or edited, which nobody makes any more."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from chora_mp.ledger import Output
from chora_mp.looks import changed_in_two
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sources.chunks import MOST_RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        os.unlink(output.path, dir_fd=self._root)
        folder = os.path.dirname(output.path)
        with contextlib.suppress(OSError):
            while folder:
                os.rmdir(folder, dir_fd=self._root)
                folder = os.path.dirname(folder)
        return True


def suspects(ledger: Ledger, folder: str, closures: Iterable[int]) -> list[int]:
    """The places in the ledger of outputs made from these closures whose size, mtime or inode is not as it was."""
    marks = ", ".join(map(str, closures)) or "NULL"
    with ledger.told():
        return changed_in_two(ledger.db, ledger.path, folder, f"error IS NULL AND closure IN ({marks})")


def output_at(ledger: Ledger, at: int) -> Output | None:
    """The output at a place in the ledger."""
    sql = "SELECT at, key, path, digest, size, mtime, inode FROM outputs WHERE at = ?"
    found = ledger.db.execute(sql, (at,)).fetchone()
    return Output(*found) if found else None


def orphans(ledger: Ledger, live: Iterable[int]) -> list[Output]:
    """The outputs of chunks that are not `live`, but for those whose place another item's output has taken."""
    db = ledger.db
    with ledger.told():
        db.execute("CREATE TEMP TABLE IF NOT EXISTS live (number INTEGER PRIMARY KEY)")
        db.execute("DELETE FROM temp.live")
        db.executemany("INSERT INTO temp.live VALUES (?)", ((number,) for number in live))
        gone = f"at / {MOST_RECORDS} NOT IN (SELECT number FROM temp.live)"
        found = [Output(*row) for row in db.execute(
            f"SELECT at, key, path, digest, size, mtime, inode FROM outputs WHERE {gone} AND digest IS NOT NULL"
        )]  # fmt: skip
        if not found:
            return []
        taken = {path for (path,) in db.execute(
            f"SELECT path FROM outputs WHERE NOT ({gone}) AND path IN "
            f"(SELECT path FROM outputs WHERE {gone})"
        )}  # fmt: skip
        return [output for output in found if output.path not in taken]


def unknown_files(root: str, known: set[str]) -> Iterator[str]:
    """The paths, relative to `root`, of all files in it that are not `known`; the state folder is left out."""
    for place, below, names in os.walk(root):
        if place == root:
            below[:] = [name for name in below if name != STATE_FOLDER]
        for name in names:
            path = os.path.relpath(os.path.join(place, name), root)
            if path not in known:
                yield path


def _digest(file: int) -> bytes:
    digest = blake2b(digest_size=16)
    while part := os.read(file, _PART):
        digest.update(part)
    return digest.digest()
