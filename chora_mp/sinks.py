"""Sinks: where a document goes. Files inside the output folder, or the text itself for a caller who wants it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STATE_FOLDER = ".chora-mp"
"""The folder inside an output folder that is chora-mp's own."""

_LONGEST_NAME = 255  # bytes in one component: the limit of every common file system
_LONGEST_PATH = 4095  # bytes, Linux's PATH_MAX: what is longer could be written step by step, and opened by nobody
_OPEN_FOLDERS = 32  # descriptors kept; documents of a folder usually follow each other
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO that lies in the way would hold the worker for ever.
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
    """

    def __init__(self, root: str, temporary: str, entering: Callable[[bytes], None]) -> None:
        self._root = os.path.realpath(os.fsencode(root))
        self._room = _LONGEST_PATH - len(self._root) - 1
        self._temporary = temporary.encode()
        self._entering = entering
        self._folders: dict[str, tuple[int, bool]] = {}
        self._current: str | None = None

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
        if not new and (held := _holding(folder, name, data)):
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
                os.close(self._folders.pop(next(iter(self._folders)))[0])
            self._folders[path] = known
        if path != self._current:
            self._current = path
            self._entering(os.path.join(self._root, path.encode()))
        return known

    def _open(self, path: str) -> tuple[int, bool]:
        folder, new = os.open(self._root, _FOLDER), False
        reached = self._root
        for name in path.encode().split(b"/") if path else ():
            reached = os.path.join(reached, name)
            try:
                below, new = self._step(folder, name, reached)
            finally:
                os.close(folder)
            folder = below
        return folder, new

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
        folder = os.open(self._root, _FOLDER)
        for name in os.path.relpath(target, self._root).split(b"/"):
            above = folder
            try:
                folder = os.open(name, _FOLDER, dir_fd=above)
            finally:
                os.close(above)
        return folder

    def close(self) -> None:
        """Close the folders; the sink can be used again."""
        for folder, _ in self._folders.values():
            os.close(folder)
        self._folders.clear()
        self._current = None


def _holding(folder: int, name: bytes, data: bytes) -> os.stat_result | None:
    """The status of the regular file `name` in an open folder, where it consists of exactly `data`."""
    try:
        file = os.open(name, _OLD, dir_fd=folder)
    except OSError:  # not there, or not to be read: then it is to be replaced
        return None
    try:
        status = os.fstat(file)
        same = stat.S_ISREG(status.st_mode) and status.st_size == len(data) and _read(file, len(data)) == data
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

    def __init__(self, folder: str, seat: int) -> None:
        self._prefix = os.path.join(folder, f"text-{seat}-")
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
