"""Looks at outputs from outside: which files are not, by size, mtime and inode, those that were written.

One `stat` an output is what a run costs that finds nothing to do. So a second process takes half of them where there
are many: this very file, run by itself, which therefore imports nothing of the package and little of the library.
"""

from __future__ import annotations

import os
import sqlite3
import sys

if __name__ != "__main__":
    import subprocess  # the other process starts sooner without

_WORTH_A_PROCESS = 20_000  # outputs; a process takes 15 ms to start, and 10,000 looks as long


def changed(db: sqlite3.Connection, root: int, where: str, first: int, last: int) -> list[int]:
    """The places in the ledger, from `first` to `last`, of outputs whose files are not as they were.

    `root`: the open output folder. `where` selects the rows.
    """
    look, found = os.stat, []
    sql = f"SELECT path, size, mtime, inode, at FROM outputs WHERE at BETWEEN {first} AND {last} AND {where}"
    for path, size, mtime, inode, at in db.execute(sql):
        try:
            status = look(path, dir_fd=root, follow_symlinks=False)
            if status.st_mtime_ns == mtime and status[6] == size and status[1] == inode:
                continue
        except (OSError, ValueError):  # ValueError: a NUL that a damaged ledger has put into a path
            pass
        found.append(at)
    return found


def changed_in_two(db: sqlite3.Connection, ledger: str, folder: str, where: str) -> list[int]:
    """The same for all outputs, half of them in another process if there are many."""
    first, last, count = db.execute("SELECT min(at), max(at), count(*) FROM outputs").fetchone()
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return [at for (at,) in db.execute("SELECT at FROM outputs")]
    try:
        if count < _WORTH_A_PROCESS:
            return changed(db, root, where, first or 0, last or 0)
        middle = (first + last) // 2
        other = _other(ledger, folder, where, str(middle + 1), str(last))
        found = changed(db, root, where, first, middle)
        theirs = _answer(other)
        return [*found, *(changed(db, root, where, middle + 1, last) if theirs is None else theirs)]
    finally:
        os.close(root)


def _other(*arguments: str) -> subprocess.Popen[bytes] | None:
    """Another process that looks; None where it cannot be started."""
    command = [sys.executable, "-I", "-S", __file__, *arguments]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=null, stdout=pipe, stderr=null)  # noqa: S603  (ourselves)
    except OSError:
        return None


def _answer(other: subprocess.Popen[bytes] | None) -> list[int] | None:
    """What the other process has found; None where it has not come to its end."""
    said = other.communicate()[0].split() if other else []
    return [int(word) for word in said[:-1]] if said[-1:] == [b"all"] else None


def _main(ledger: str, folder: str, where: str, first: str, last: str) -> None:
    db = sqlite3.connect(ledger, isolation_level=None, timeout=10)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    print(*changed(db, root, where, int(first), int(last)), "all")


if __name__ == "__main__":
    _main(*sys.argv[1:])
