"""The state folder inside an output folder: who is at work there, and what runs that were killed have left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chora_mp.bundle import shown
from chora_mp.errors import LedgerError, OutputError
from chora_mp.sinks import STATE_FOLDER
from chora_mp.slots import read_notes, wait_for_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.bundle import Bundle

_LOCK, _HOLDER, _RUN = "lock", "holder.json", "run-"
_TRIES = 100
_LAST_SECONDS = 5.0  # what orphaned workers may take to end; it is a matter of milliseconds
_HAND_OVER_SECONDS = 0.2  # what a run that is just ending may still hold the lock for


@dataclass(frozen=True, slots=True)
class State:
    """Where a run keeps what is its own.

    `folder`: the output folder's state folder; None where there is no output folder. `scratch`: the run's own folder,
    gone afterwards. `temporary`: how the names of temporary files begin.
    """

    folder: str | None
    scratch: str
    temporary: str

    @property
    def bundle(self) -> str:
        """The file with the run's bundle."""
        return os.path.join(self.scratch, "bundle")


def run_name() -> str:
    """A name for a run: the time in UTC, and six digits that no other run of this second has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


@contextlib.contextmanager
def without_output(run: str) -> Iterator[State]:
    """The state of a run that writes nothing into an output folder."""
    scratch = tempfile.mkdtemp(prefix="chora-mp-")
    try:
        yield State(None, scratch, _temporary(run))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def held(output: str, run: str) -> Iterator[State]:
    """The state of a run that has an output folder to itself; folders that were made for it and stayed empty go again.

    Raises `OutputError` where the folder cannot be written to, `LedgerError` where another run holds it, or workers of
    one that was killed are still at work.
    """
    state = os.path.join(output, STATE_FOLDER)
    made: list[str] = []
    try:
        with locked(output, state, made):
            for name in os.listdir(state):
                if name.startswith(_RUN):
                    _wait_for_last(output, os.path.join(state, name))
                    _sweep(os.path.join(state, name), name)
            scratch = os.path.join(state, _RUN + run)
            try:
                os.mkdir(scratch)
            except OSError as error:
                message = f"{shown(output)}: the output folder cannot be written to: {error.strerror}"
                raise OutputError(message) from None
            try:
                yield State(state, scratch, _temporary(run))
            finally:
                _sweep(scratch, run)
    finally:
        _remove_empty(made)


@contextlib.contextmanager
def locked(output: str, state: str, made: list[str] | None = None) -> Iterator[None]:
    """One run at a time: the kernel lets go of the lock when its holder dies, however it dies.

    Missing folders are made, again if a run that came to nothing takes them away meanwhile, and noted in `made`.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  (10 ms that a run without an output folder need not spend)

    lock = FileLock(os.path.join(state, _LOCK), timeout=_HAND_OVER_SECONDS)
    try:
        for last in (False,) * _TRIES + (True,):
            try:
                _make_folders(state, [] if made is None else made)
                lock.acquire(poll_interval=0.02)
                break
            except (FileNotFoundError, FileExistsError):  # the latter: it was there, and then it was no folder
                if last:
                    raise
    except Timeout:
        held_by = f"another run is at work here{_holder(state)}"
        raise LedgerError(f"{shown(output)}: {held_by}; wait for it, or end it") from None
    except OSError as error:
        raise OutputError(f"{shown(output)}: the output folder cannot be written to: {error.strerror}") from None
    holder = os.path.join(state, _HOLDER)
    try:
        _write(holder, {"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")})
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(holder)
            # A run that came to nothing leaves nothing. Who waits for the lock sees that its file has lost its name,
            # and begins anew (`st_nlink`, in filelock); else the file stays.
            if os.listdir(state) == [_LOCK]:
                os.unlink(os.path.join(state, _LOCK))
        lock.release()


def store_bundle(state: State, bundle: Bundle) -> None:
    """Leave the bundle where workers look for it. Raises `OutputError`."""
    try:
        with open(state.bundle, "wb") as file:
            pickle.dump(bundle, file, 5)
    except OSError as error:
        raise OutputError(f"{shown(state.bundle)}: cannot be written: {error.strerror}") from None


def _write(path: str, content: dict[str, object]) -> None:
    """Write a small file; that it could not be is no reason to stop."""
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _holder(state: str) -> str:
    """` (pid 4711, since 2026-11-24T20:15:00+00:00)`, as far as the holder has said."""
    try:
        with open(os.path.join(state, _HOLDER), encoding="utf-8") as file:
            content = json.load(file)
        return f" (pid {content['pid']}, since {content['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _wait_for_last(output: str, scratch: str) -> None:
    """Let the workers of a run that was killed end, as they do by themselves. Raises `LedgerError` if they don't."""
    slots = os.path.join(scratch, "slots")
    if not wait_for_workers(slots, _LAST_SECONDS):
        pids = ", ".join(str(note.pid) for note in read_notes(slots) if note.pid)
        message = f"workers of a run that was killed are still at work here (pid {pids}); end them, or wait"
        raise LedgerError(f"{shown(output)}: {message}")


def _sweep(scratch: str, name: str) -> None:
    """Remove what a run leaves: its own folder, and the temporary files where its workers were last writing.

    The folder stays while such a file does, because somebody has taken our rights: then a later run finds its slots.
    """
    prefix = _temporary(name)
    stays = False
    for number, note in enumerate(read_notes(os.path.join(scratch, "slots"))):
        if note.folder:
            path = os.path.join(note.folder, f"{prefix}{number}".encode())
            with contextlib.suppress(OSError, ValueError):  # the latter: what is no file of slots may say anything
                os.unlink(path)
            with contextlib.suppress(ValueError):
                stays |= os.path.lexists(path)
    if not stays:
        shutil.rmtree(scratch, ignore_errors=True)


def _temporary(run: str) -> str:
    return f".chora-{run[-6:]}-"


def _make_folders(folder: str, made: list[str]) -> None:
    """Make what is missing for `folder` to be there, outermost first, and note it."""
    for path in _missing(folder):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            if path not in made:
                made.append(path)


def _remove_empty(paths: list[str]) -> None:
    for path in sorted(paths, reverse=True):  # the innermost first
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _missing(folder: str) -> list[str]:
    """The folders that have to be made for `folder` to be there, outermost first."""
    missing: list[str] = []
    while folder and not os.path.lexists(folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing
