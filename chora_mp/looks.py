"""Looks at outputs from outside: which files are not, by size, mtime and inode, those that were written.

One `stat` an output is what a run costs that finds nothing to do. So where there are many a second process looks as
well, from the last output to the first, until it meets this one, which goes from the first to the last. It is this very
file, run by itself, which therefore imports nothing of the package and little of the library; and it may be started
ahead, while this process is still importing what it needs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    import subprocess
    from collections.abc import Iterable

LEDGER, SEAL = "ledger.db", "ledger.sha256"
"""The files in a state folder that hold the ledger and its digest."""

_WORTH_BYTES = 2**21  # of a ledger: some 20,000 outputs; a process takes 15 ms to start, and 10,000 looks as long
_PART = 2048  # outputs looked at before the two see whether they have met
_ROWS = "SELECT path, size, mtime, inode, at FROM outputs WHERE"


def changed(rows: Iterable[tuple[str, int, int, int, int]], root: int) -> list[int]:
    """The places in the ledger of those `rows` whose files, below the open folder `root`, are not as they were."""
    look, found = os.stat, []
    for path, size, mtime, inode, at in rows:
        try:
            status = look(path, dir_fd=root, follow_symlinks=False)
            if status.st_mtime_ns == mtime and status[6] == size and status[1] == inode:
                continue
        except (OSError, ValueError):  # ValueError: a NUL that a damaged ledger has put into a path
            pass
        found.append(at)
    return found


class Other:
    """The other process. What it finds are places of outputs that may have changed, whatever they are made from."""

    def __init__(self, ledger: str, folder: str, seal: str = "") -> None:
        """Start it; with a `seal` what it finds counts only if it sees that one beside the ledger. Raises `OSError`."""
        import subprocess  # noqa: PLC0415  (the other process has no use for it)

        command = [sys.executable, "-I", "-S", __file__, ledger, folder, seal]
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        self.task = _task(ledger, folder)
        self.found: list[int] = []
        self._process: subprocess.Popen[bytes] = subprocess.Popen(command, stdin=null, stdout=pipe, stderr=null)  # noqa: S603  (ourselves)
        assert self._process.stdout is not None  # noqa: S101
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._unread = b""
        self.seal = seal
        self._seal: str | None = None
        self._reached: int | None = None

    def has_reached(self, at: int) -> bool:
        """Whether it has looked at all outputs behind the place `at`, and in the right state of the ledger."""
        try:
            while said := os.read(self._pipe, 2**16):
                self._unread += said
        except BlockingIOError:
            pass
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            if self._seal is None:
                self._seal = line.decode()
            else:
                *found, self._reached = (int(word) for word in line.split())
                self.found += found
        return self._seal == self.seal and self._reached is not None and self._reached <= at + 1

    def end(self) -> None:
        """End it, wherever it is."""
        self._process.kill()
        self._process.communicate()


_ahead: list[Other] = []


def start_ahead(ledger: str, folder: str, seal: str) -> None:
    """Have the other process begin with the outputs in `folder`, if their `ledger` is large and has its `seal`."""
    if seal and len(_ahead) == 0 and _is_worth_it(ledger):
        _ahead.append(Other(ledger, folder, seal))


def changed_in_two(db: sqlite3.Connection, ledger: str, folder: str, where: str, seal: str | None) -> list[int]:
    """The places of outputs whose files are not as they were: all that `where` selects, and maybe some others.

    What was begun ahead counts if it was with this `seal`; None: it does not, it was too early.
    """
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return [at for (at,) in db.execute("SELECT at FROM outputs")]
    other = _taken(ledger, folder, seal)
    try:
        rows = db.execute(f"{_ROWS} {where} ORDER BY at")
        found: list[int] = []
        while part := rows.fetchmany(_PART):
            found += changed(part, root)
            last = part[-1][-1]
            if other and other.has_reached(last):
                return found + [at for at in other.found if at > last]
        return found
    finally:
        os.close(root)
        if other:
            other.end()


def _taken(ledger: str, folder: str, seal: str | None) -> Other | None:
    """The other process, the one that was started ahead or a new one; None where it would not be worth it."""
    while _ahead:
        other = _ahead.pop()
        if (*_task(ledger, folder), seal) == (*other.task, other.seal):
            return other
        other.end()
    try:
        return Other(ledger, folder) if _is_worth_it(ledger) else None
    except OSError:
        return None


def _task(ledger: str, folder: str) -> tuple[str, str]:
    return os.path.realpath(ledger), os.path.realpath(folder)


def _is_worth_it(ledger: str) -> bool:
    try:
        return os.path.getsize(ledger) >= _WORTH_BYTES
    except OSError:
        return False


def seal_beside(ledger: str) -> str:
    """The seal beside a ledger; a run takes it away before it changes anything."""
    try:
        with open(os.path.join(os.path.dirname(ledger), SEAL), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _main(ledger: str, folder: str, seal: str) -> None:
    """What the other process does; it tells after each part which outputs have changed, and where it is."""
    import sqlite3  # noqa: PLC0415  (this process has it by the time that it needs it)

    db = sqlite3.connect(ledger, isolation_level=None, timeout=10)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    # One state of the ledger, whatever happens to it meanwhile: that of the seal, if it was there before and is after.
    before = seal_beside(ledger)
    db.execute("BEGIN")
    db.execute("SELECT 1 FROM outputs LIMIT 1").fetchone()
    print(seal if before == seal == seal_beside(ledger) or not seal else "none", flush=True)
    rows = db.execute(f"{_ROWS} error IS NULL ORDER BY at DESC")
    while part := rows.fetchmany(_PART):
        print(*changed(part, root), part[-1][-1], flush=True)
    print(-1, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
