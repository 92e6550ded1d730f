"""Sinks: where a document goes. Files inside the output folder, or the text itself for a caller who wants it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATE_FOLDER = ".chora-mp"
"""The folder inside an output folder that is chora-mp's own."""

_LONGEST_NAME = 255  # bytes in one component: the limit of every common file system
_LONGEST_PATH = 4095  # bytes, Linux's PATH_MAX: what is longer could be written step by step, and opened by nobody
_OPEN_FOLDERS = 32  # descriptors kept; documents of a folder usually follow each other
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO that lies in the way would hold the worker for ever.
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# macOS: its fsync hands the bytes to the drive, which may keep them in a cache for long; see its manual, fsync(2).
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_NO_FULL_SYNC = (errno.ENOTSUP, errno.ENOTTY, errno.EINVAL)  # what SMB, WebDAV and some drives' file systems answer


# Most paths are of this kind: nothing is wrong with them, and telling so takes a tenth of the time.
_PLAIN = r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]{,200}"
_is_plain = re.compile(f"{_PLAIN}(?:/{_PLAIN})*").fullmatch
_are_plain = re.compile(f"(?:{_PLAIN}[/\n])*").fullmatch


class PathError(ValueError):
    """An output path that leads nowhere good; says what is wrong with it."""


def is_sound(path: str) -> bool:
    """Whether nothing is wrong with a relative output path as such."""
    return _is_plain(path) is not None or _fault(path) is None


def are_sound(paths: list[str]) -> bool:
    """The same of all of many paths, in half the time."""
    return _are_plain("\n".join(paths) + "\n") is not None or all(map(is_sound, paths))


def components(path: str) -> list[bytes]:
    """The parts of a relative output path, as the file system will see them. Raises `PathError`."""
    fault = _fault(path)
    if fault:
        raise PathError(f"output path {path!r} {fault}")
    return path.encode().split(b"/")


def _fault(path: str) -> str | None:  # noqa: PLR0911  (one answer for each fault)
    """What is wrong with a path."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    parts = raw.split(b"/")
    if not raw:
        return "is empty"
    if raw.startswith(b"/"):
        return "is absolute; it must lie inside output.dir"
    if b"\0" in raw:
        return "holds a NUL character"
    if b".." in parts:
        return "holds '..'; it must lie inside output.dir"
    if b"" in parts or b"." in parts:
        return "has an empty or '.' component"
    if max(map(len, parts)) > _LONGEST_NAME:
        return f"has a component over {_LONGEST_NAME} bytes"
    if parts[0].decode().casefold() == STATE_FOLDER:
        return f"lies in {STATE_FOLDER}, chora-mp's own folder"
    return None


class FileSink:
    """Writes files inside `root`, each whole or not at all.

    A document is written to `temporary`, a name of this worker's own, in the folder it belongs to, and renamed. Folders
    are opened once, step by step and without following symlinks, and files are reached through the open folder: nobody
    can lead the way out of `root` in between. `entering` is told each folder before anything is written to it.

    With `fsync`, a document's bytes are on the disk before its name is, and its name when `settle` returns.
    """

    def __init__(self, root: str, temporary: str, entering: Callable[[bytes], None], *, fsync: bool = False) -> None:
        self._root = os.path.realpath(os.fsencode(root))
        self._room = _LONGEST_PATH - len(self._root) - 1
        self._temporary = temporary.encode()
        self._entering = entering
        self._folders: dict[str, tuple[int, bool]] = {}
        self._current: str | None = None
        # What `fsync` needs to know; without it, all of this stays as it is.
        self._fsync = fsync
        self._unsettled: set[str] = set()  # of the open folders, those that were entered since they were last synced
        self._above: dict[bytes, int] = {}  # open folders that hold such a folder, for the sake of its name
        self._root_settled = False
        self._failed: OSError | None = None  # the first sync of a folder that failed since the last `settle`

    def write(self, path: str, data: bytes) -> tuple[int, os.stat_result]:
        """Bytes written, and the file's status: 0 where it holds `data` already and is left alone, time stamp and all.

        Raises `PathError`, or `OSError` that names `path`.
        """
        if not _is_plain(path):
            components(path)
        if 4 * len(path) > self._room and len(path.encode()) > self._room:
            raise PathError(f"output path {path[:60] + '…'!r} is over {_LONGEST_PATH} bytes with its folder")
        above, _, name = path.rpartition("/")
        try:
            try:
                return self._write(above, name.encode(), data)
            except FileNotFoundError:
                # Somebody removed a folder that we hold open: make it again, once.
                self.close()
                return self._write(above, name.encode(), data)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, path) from None

    def _write(self, above: str, name: bytes, data: bytes) -> tuple[int, os.stat_result]:
        folder, new = self._folders[above] if above == self._current else self._folder(above)
        if not new and (held := _holding(folder, name, data, self._fsync)):
            return 0, held
        temporary = self._temporary
        try:
            file = os.open(temporary, _NEW, 0o666, dir_fd=folder)
        except FileExistsError:  # left by a worker that was killed in this very seat
            os.unlink(temporary, dir_fd=folder)
            file = os.open(temporary, _NEW, 0o666, dir_fd=folder)
        try:
            try:
                written = os.write(file, data)
                while written < len(data):  # a full disk takes a part first and says why at the next call
                    written += os.write(file, memoryview(data)[written:])
                if self._fsync:
                    _sync(file)
                status = os.fstat(file)
            finally:
                os.close(file)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        return len(data), status

    def _folder(self, path: str) -> tuple[int, bool]:
        """An open descriptor of a folder inside the root, and whether this sink has made the folder."""
        known = self._folders.get(path)
        if known is None:
            known = self._open(path)
            if len(self._folders) >= _OPEN_FOLDERS:
                self._let_go(next(iter(self._folders)))
            self._folders[path] = known
        if path != self._current:
            self._current = path
            if self._fsync:  # here and not at each document: `settle` makes every folder one to be entered again
                self._unsettled.add(path)
            self._entering(self._full(path))
        return known

    def _full(self, path: str) -> bytes:
        return os.path.join(self._root, path.encode()) if path else self._root

    def _let_go(self, path: str) -> None:
        if path in self._unsettled:
            self._sync_folder(self._folders[path][0], self._full(path))
            self._unsettled.remove(path)
        os.close(self._folders.pop(path)[0])

    def _open(self, path: str) -> tuple[int, bool]:
        folder, new = os.open(self._root, _FOLDER), False
        reached = self._root
        for name in path.encode().split(b"/") if path else ():
            above, reached = reached, os.path.join(reached, name)
            try:
                below, new = self._step(folder, name, reached)
            finally:
                self._leave(folder, above)
            folder = below
        return folder, new

    def _leave(self, folder: int, path: bytes) -> None:
        """Close a folder on the way to another; with `fsync`, not before the other's name is on the disk.

        Whoever made the other: a worker beside this one may have made it a moment ago, and this one's documents would
        go with it if the power failed before that worker's next `settle`.
        """
        if not self._fsync:
            os.close(folder)
            return
        known = self._above.pop(path, None)
        self._above[path] = folder
        if known is not None:  # the same folder, or one that is no longer at this path
            os.close(known)
        elif len(self._above) > _OPEN_FOLDERS:
            oldest = next(iter(self._above))
            self._sync_folder(self._above[oldest], oldest)
            os.close(self._above.pop(oldest))

    def _step(self, folder: int, name: bytes, reached: bytes) -> tuple[int, bool]:
        made = False
        try:
            return os.open(name, _FOLDER, dir_fd=folder), made
        except FileNotFoundError:
            try:
                os.mkdir(name, dir_fd=folder)
                made = True
            except FileExistsError:  # another worker was faster
                pass
        except OSError as error:  # Linux says ENOTDIR of a symlink, others ELOOP
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or not os.path.islink(reached):
                raise
            return self._through_link(reached), made
        return os.open(name, _FOLDER, dir_fd=folder), made

    def _through_link(self, reached: bytes) -> int:
        target = os.path.realpath(reached)
        if os.path.commonpath([target, self._root]) != self._root:
            raise PathError(f"symlink {os.fsdecode(reached)!r} leads out of output.dir")
        if os.path.relpath(target, self._root).split(b"/")[0].decode(errors="replace").casefold() == STATE_FOLDER:
            raise PathError(f"symlink {os.fsdecode(reached)!r} leads into {STATE_FOLDER}, chora-mp's own folder")
        # Step by step again, from the root: what is swapped in between is not followed.
        folder, reached = os.open(self._root, _FOLDER), self._root
        for name in os.path.relpath(target, self._root).split(b"/"):
            above = folder
            try:
                folder = os.open(name, _FOLDER, dir_fd=above)
            finally:
                self._leave(above, reached)
            reached = os.path.join(reached, name)
        return folder

    def settle(self) -> None:
        """With `fsync`, return when everything up to here is on the disk, names and folders included; else at once.

        Raises `OSError` that names a folder: then no document since the last call is sure to outlast a power failure.
        """
        if not self._fsync:
            return
        self._sync_folders()
        self._current = None
        failed, self._failed = self._failed, None
        if failed:
            raise failed

    def close(self) -> None:
        """Close the folders; the sink can be used again. What a sync has failed with, the next `settle` raises."""
        self._sync_folders()
        for folder, _ in self._folders.values():
            os.close(folder)
        self._folders.clear()
        self._current = None

    def _sync_folders(self) -> None:
        if not self._unsettled and not self._above:
            return
        for path in self._unsettled:
            self._sync_folder(self._folders[path][0], self._full(path))
        for above, folder in self._above.items():
            self._sync_folder(folder, above)
        if not self._root_settled:
            self._root_settled = self._sync_above_root()
        self._unsettled.clear()
        while self._above:
            os.close(self._above.popitem()[1])

    def _sync_above_root(self) -> bool:
        """Sync the folders that hold the root: the run has made it, and as many of them as were missing."""
        done = True
        for path, folder in _above(self._root):
            done &= self._sync_folder(folder, path)
        return done

    def _sync_folder(self, folder: int, path: bytes) -> bool:
        """Whether the names in a folder are on the disk; if not, `settle` is going to say so.

        The document at hand need not be one of those that the folder's names belong to, so the error is not its own. It
        is kept because no later sync would tell: after a failure Linux takes what it couldn't write for written.
        """
        try:
            _sync(folder)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file system that cannot sync folders; PostgreSQL passes over it as well
                return True
            self._failed = self._failed or type(error)(error.errno, error.strerror, os.fsdecode(path))
            return False
        return True


def _above(folder: bytes) -> Iterator[tuple[bytes, int]]:
    """The folders above one, innermost first, each open until the next; only those on the same file system."""
    with contextlib.suppress(FileNotFoundError, PermissionError):  # gone; or not ours to read, so not made by us
        device = os.stat(folder).st_dev
        while folder != (folder := os.path.dirname(folder)):
            above = os.open(folder, _FOLDER)
            try:
                if os.fstat(above).st_dev != device:
                    return
                yield folder, above
            finally:
                os.close(above)


def _sync(file: int) -> None:
    """Return when what an open file or folder holds is on the disk itself. Raises `OSError`.

    Not fdatasync: a new file's size makes it write the inode all the same (bench/fsync.py), and the time stamps that
    the ledger compares need not be part of what it writes.
    """
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(file, _FULL_SYNC)
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(file)


def _holding(folder: int, name: bytes, data: bytes, fsync: bool) -> os.stat_result | None:
    """The status of the regular file `name` in an open folder, where it consists of exactly `data`.

    With `fsync` it is on the disk, too: the bytes may have come out of the cache, from another program or from a run
    without `fsync` that wrote them a moment ago, and the ledger is to say of them what it says of our own. For its name
    the folder is synced as if we had written there, since a worker killed before its `settle` leaves such files. Where
    the sync fails, the file is replaced: nobody knows then what of it is on the disk.
    """
    try:
        file = os.open(name, _OLD, dir_fd=folder)
    except OSError:  # not there, or not to be read: then it is to be replaced
        return None
    try:
        status = os.fstat(file)
        same = stat.S_ISREG(status.st_mode) and status.st_size == len(data) and _read(file, len(data)) == data
        if same and fsync:
            _sync(file)
        return status if same else None
    except OSError:
        return None
    finally:
        os.close(file)


def _read(file: int, size: int) -> bytes:
    parts = []
    while size and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class TextSink:
    """Keeps documents in one file a span, which the coordinator reads and removes: text never crosses a pipe.

    A worker that dies in the middle of a message longer than the pipe would leave its future pending for ever.
    """

    def __init__(self, folder: str, name: int | str) -> None:
        """`name`: that of the files, in a folder that others have theirs in, too."""
        self._prefix = os.path.join(folder, f"text-{name}-")
        self._count = 0
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        """Keep one more document of the span."""
        self._parts.append(data)
        self.size += len(data)

    def store(self) -> str | None:
        """The file that holds the span's documents one after the other; None where there are none."""
        if not self._parts:
            return None
        self._count += 1
        path = f"{self._prefix}{self._count}"
        with open(path, "wb") as file:
            file.writelines(self._parts)
        self._parts.clear()
        self.size = 0
        return path
