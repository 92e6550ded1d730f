"""Files that are whole or not there, inside the output folder and nowhere else; and documents kept as text."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chora_mp import sinks
from chora_mp.sinks import FileSink, PathError, TextSink, components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEMPORARY = ".chora-test-0"

# One folder for all examples of a test.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output folder with something beside it that nobody may touch."""
    root = tmp_path / "out"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"outside")
    return root


@pytest.fixture
def entered() -> list[bytes]:
    """The folders that the sink said it was going to write to."""
    return []


@pytest.fixture
def sink(root: Path, entered: list[bytes]) -> Iterator[FileSink]:
    """A sink into the output folder."""
    sink = FileSink(str(root), TEMPORARY, entered.append)
    yield sink
    sink.close()


def files(root: Path) -> dict[str, bytes]:
    """Every file below the folder, and what it holds."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))


def refused(call: Callable[[], object], kind: type[Exception] = PathError) -> str:
    """What the error says that the call ends with."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def write(sink: FileSink, root: Path, path: str, data: bytes) -> int:
    """Bytes written; the status that comes with them is that of the file as it lies there now."""
    written, status = sink.write(path, data)
    found = os.lstat(root / path)
    assert 1 == len({(one.st_size, one.st_mtime_ns, one.st_ino) for one in (found, status)})
    return written


# ---- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["file", "a/file", "a/b/c/d/file.md", "é/漢字.txt", " ", "a\nb", "...", "..a", "-", "\\"]
)
def test_writes(root, sink, path):
    """A document lands where its path says, folders and all; the answer is its size and the file's status."""
    assert 5 == write(sink, root, path, b"bytes")
    assert {path: b"bytes"} == files(root)


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff", b"x" * (3 * 2**20)], ids=["empty", "short", "binary", "long"])
def test_replaces(root, sink, data):
    """A file that is there already holds the new bytes, and nothing else, afterwards."""
    (root / "file").write_bytes(b"what was there before")
    assert len(data) == write(sink, root, "file", data)
    assert {"file": data} == files(root)


def test_a_reader_keeps_what_it_has_opened(root, sink):
    """Whoever has the old file open reads it to its end: the new one is another file, put in its place."""
    (root / "file").write_bytes(b"old and whole")
    with (root / "file").open("rb", buffering=0) as reader:
        start = reader.read(3)
        sink.write("file", b"new")
        assert b"old and whole" == start + reader.read()


def test_an_unchanged_file_is_left_alone(root, sink):
    """The same bytes again: nothing is written, inode and every time stamp stay, and the status tells of them."""
    (root / "file").write_bytes(b"same")
    os.utime(root / "file", ns=(10**18, 10**18))
    before = os.stat(root / "file")
    assert 0 == write(sink, root, "file", b"same")
    after = os.stat(root / "file")
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


@pytest.mark.parametrize("data", [b"sam", b"sane", b"same\n", b""])
def test_a_file_that_differs_is_replaced(root, sink, data):
    """Shorter, longer or merely different: the file is another one afterwards."""
    (root / "file").write_bytes(b"same")
    before = os.stat(root / "file").st_ino
    assert len(data) == write(sink, root, "file", data)
    assert (data, True) == ((root / "file").read_bytes(), before != os.stat(root / "file").st_ino)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000, 0o027])
@pytest.mark.parametrize("there", [False, True])
def test_mode(root, sink, mask, there):
    """A file's mode is what the person's umask makes of any new file, whatever was there before."""
    if there:
        (root / "file").write_bytes(b"old")
        (root / "file").chmod(0o755)
    before = os.umask(mask)
    try:
        sink.write("file", b"new")
    finally:
        os.umask(before)
    assert 0o666 & ~mask == stat.S_IMODE((root / "file").stat().st_mode)


def test_folders_are_told(root, sink, entered):
    """Whoever clears up after a killed worker is told each folder before anything is written there."""
    seen = []
    for path in ("x", "a/x", "a/y", "a/b/x", "a/z", "w"):
        sink.write(path, b"")
        seen.append(len(entered))
    base = os.fsencode(root)
    assert [base, base + b"/a", base + b"/a/b", base + b"/a", base] == [os.path.normpath(folder) for folder in entered]
    assert [1, 2, 2, 3, 4, 5] == seen


def test_a_folder_is_told_before_the_temporary_is_there(root):
    """At the time of telling, the folder holds no temporary file yet."""
    found = []
    sink = FileSink(str(root), TEMPORARY, lambda folder: found.append(os.listdir(folder)))
    sink.write("a/file", b"x")
    sink.close()
    assert [[]] == found


def test_the_root_may_be_a_symlink(tmp_path, root):
    """An output folder that is a symlink itself is the folder that it points to."""
    (tmp_path / "link").symlink_to(root)
    sink = FileSink(str(tmp_path / "link"), TEMPORARY, lambda folder: None)
    sink.write("a/file", b"x")
    sink.close()
    assert {"a/file": b"x"} == files(root)


def test_a_closed_sink_can_be_used_again(root, sink):
    """Closing lets go of the folders; the next document opens what it needs."""
    sink.write("a/x", b"1")
    sink.close()
    sink.write("a/y", b"2")
    assert {"a/x": b"1", "a/y": b"2"} == files(root)


# ---- paths -----------------------------------------------------------------------------------------------

BAD_PATHS = [
    ("", "is empty"),
    ("/", "is absolute; it must lie inside output.dir"),
    ("/etc/passwd", "is absolute; it must lie inside output.dir"),
    ("..", "holds '..'; it must lie inside output.dir"),
    ("../file", "holds '..'; it must lie inside output.dir"),
    ("a/../../file", "holds '..'; it must lie inside output.dir"),
    ("a/..", "holds '..'; it must lie inside output.dir"),
    (".", "has an empty or '.' component"),
    ("./file", "has an empty or '.' component"),
    ("a/./file", "has an empty or '.' component"),
    ("a//b", "has an empty or '.' component"),
    ("a/", "has an empty or '.' component"),
    ("a\0b", "holds a NUL character"),
    ("x" * 256, "has a component over 255 bytes"),
    ("é" * 128, "has a component over 255 bytes"),
    ("a/" + "x" * 256 + "/b", "has a component over 255 bytes"),
    (".chora-mp", "lies in .chora-mp, chora-mp's own folder"),
    (".chora-mp/ledger.db", "lies in .chora-mp, chora-mp's own folder"),
    (".Chora-MP/x", "lies in .chora-mp, chora-mp's own folder"),
    ("a\ud800", "holds a lone surrogate"),
]


@pytest.mark.parametrize(("path", "fault"), BAD_PATHS)
def test_bad_paths(root, sink, path, fault):
    """A path that leads nowhere good is refused with the path and the reason, and nothing is made."""
    assert f"output path {path!r} {fault}" == refused(lambda: sink.write(path, b"x"))
    assert [] == list(root.iterdir())


@pytest.mark.parametrize("path", ["x" * 255, "é" * 127, "a/.chora-mp", ".chora-mpx/x", "x.chora-mp", "..."])
def test_paths_that_look_bad(root, sink, path):
    """What only resembles a bad path is a good one."""
    sink.write(path, b"x")
    assert {path: b"x"} == files(root)


tricky = st.lists(
    st.sampled_from(["..", ".", "", "/", "a", "\0", "b/..", ".chora-mp", "x" * 256, "\ud800"]) | st.text(max_size=4),
    max_size=6,
)


@given(path=tricky.map("/".join) | tricky.map("".join) | st.text())
@example(path="a/..//../b")
@example(path="~/x")
def test_no_path_leads_out(path):
    """Whatever is accepted lies inside the folder when the path is resolved as text, and has one spelling."""
    try:
        parts = components(path)
    except PathError:
        return
    root = b"/root/of/outputs"
    joined = os.path.normpath(os.path.join(root, path.encode()))
    assert root + b"/" + b"/".join(parts) == joined
    assert path.encode() == b"/".join(parts)
    assert all(0 < len(part) <= 255 and part not in (b".", b"..") for part in parts)


writes = st.tuples(st.sampled_from(["", "a/", "a/b/", "c/"]), st.sampled_from("wxyz"), st.binary(max_size=3))


@given(paths=st.lists(writes, max_size=8), fsync=st.booleans())
@same_folder
def test_any_sequence_of_writes(tmp_path_factory, paths, fsync):
    """After any writes the folder holds the last bytes of each path and nothing else, with no descriptor left."""
    root = tmp_path_factory.mktemp("out")
    before = descriptors()
    sink = FileSink(str(root), TEMPORARY, lambda folder: None, fsync=fsync)
    expected = {}
    for folder, name, data in paths:
        sink.write(folder + name, data)
        expected[folder + name] = data
    sink.close()
    assert (dict(sorted(expected.items())), before) == (dict(sorted(files(root).items())), descriptors())


def test_a_deep_path(root, sink):
    """A path of a few thousand bytes is one that every program can open."""
    path = "/".join(["d" * 200] * 10) + "/file"
    sink.write(path, b"x")
    assert b"x" == (root / path).read_bytes()


@pytest.mark.parametrize("depth", [20, 60])
def test_a_path_too_deep(root, sink, depth):
    """A path longer than the system's limit is refused: step by step it could be written, but by nobody be opened."""
    with pytest.raises((PathError, OSError)):
        sink.write("/".join(["d" * 250] * depth) + "/file", b"x")
    assert [] == list(root.iterdir())


# ---- symlinks --------------------------------------------------------------------------------------------


def test_a_symlink_that_leads_out(tmp_path, root, sink):
    """A folder that is a symlink to somewhere else is refused, and nothing is written there."""
    (root / "link").symlink_to(tmp_path / "outside")
    expected = f"symlink {str(root / 'link')!r} leads out of output.dir"
    assert expected == refused(lambda: sink.write("link/file", b"x"))
    assert expected == refused(lambda: sink.write("link/new/file", b"x"))
    assert {"file": b"outside"} == files(tmp_path / "outside")


@pytest.mark.parametrize("target", ["..", "../outside", "/", "a/../..", "inside/out"])
def test_ways_out(tmp_path, root, sink, target):
    """Relative, absolute and nested symlinks lead out as little as direct ones."""
    (root / "a").mkdir()
    (root / "inside").mkdir()
    (root / "inside" / "out").symlink_to(tmp_path / "outside")
    (root / "link").symlink_to(target)
    assert "leads out of output.dir" in refused(lambda: sink.write("link/file", b"x"))
    assert {"file": b"outside"} == files(tmp_path / "outside")


def test_a_neighbour_with_a_longer_name(tmp_path, root, sink):
    """A folder whose name begins like the root's is outside all the same."""
    (tmp_path / "out-side").mkdir()
    (root / "link").symlink_to(tmp_path / "out-side")
    assert "leads out of output.dir" in refused(lambda: sink.write("link/file", b"x"))


@pytest.mark.parametrize("target", ["real", "real/below", "../out/real", "."])
def test_a_symlink_that_stays_inside(root, sink, target):
    """A symlink to another folder of the output works as the folder that it points to."""
    (root / "real" / "below").mkdir(parents=True)
    (root / "link").symlink_to(target)
    sink.write("link/new/file", b"x")
    assert b"x" == (root / target / "new" / "file").read_bytes()


def test_a_symlink_to_the_state_folder(root, sink):
    """A symlink is no way round into chora-mp's own folder."""
    (root / ".chora-mp").mkdir()
    (root / ".chora-mp" / "ledger.db").write_bytes(b"ledger")
    (root / "link").symlink_to(".chora-mp")
    refused(lambda: sink.write("link/ledger.db", b"x"))
    assert b"ledger" == (root / ".chora-mp" / "ledger.db").read_bytes()


@pytest.mark.parametrize("same", [False, True])
def test_a_file_that_is_a_symlink(tmp_path, root, sink, same):
    """A symlink where the file is to be is replaced by the file; what it pointed to is untouched, equal or not."""
    data = b"outside" if same else b"new"
    (root / "file").symlink_to(tmp_path / "outside" / "file")
    assert len(data) == write(sink, root, "file", data)
    assert (False, data) == ((root / "file").is_symlink(), (root / "file").read_bytes())
    assert {"file": b"outside"} == files(tmp_path / "outside")


def test_a_dangling_symlink_for_a_file(tmp_path, root, sink):
    """A symlink to nothing is replaced; nothing appears where it pointed."""
    (root / "file").symlink_to(tmp_path / "outside" / "absent")
    sink.write("file", b"new")
    assert {"file": b"new"} == files(root)
    assert {"file": b"outside"} == files(tmp_path / "outside")


@pytest.mark.parametrize("target", ["absent", "loop"])
def test_symlinks_to_nowhere_for_a_folder(root, sink, target):
    """A dangling symlink or a loop where a folder is needed is an error that names the path."""
    (root / "loop").symlink_to(target)
    assert "'loop/file'" in refused(lambda: sink.write("loop/file", b"x"), OSError)
    assert {} == files(root)


def test_the_temporary_is_not_written_through_a_symlink(tmp_path, root, sink):
    """A symlink planted under the temporary file's name is removed, not followed."""
    (root / TEMPORARY).symlink_to(tmp_path / "outside" / "file")
    sink.write("file", b"new")
    assert ({"file": b"new"}, {"file": b"outside"}) == (files(root), files(tmp_path / "outside"))


# ---- what lies in the way --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a/file", "a/b/file"])
def test_a_file_where_a_folder_is_needed(root, sink, path):
    """The error names the output path, and the file that lies in the way stays."""
    (root / "a").write_bytes(b"a file")
    error = refused(lambda: sink.write(path, b"x"), NotADirectoryError)
    assert f"[Errno {errno.ENOTDIR}] Not a directory: {path!r}" == error
    assert {"a": b"a file"} == files(root)


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_where_the_file_is_to_be(root, sink, full):
    """A folder is not replaced by a file, not even an empty one; no temporary is left."""
    (root / "a").mkdir()
    if full:
        (root / "a" / "file").write_bytes(b"x")
    error = refused(lambda: sink.write("a", b"x"), IsADirectoryError)
    assert f"[Errno {errno.EISDIR}] Is a directory: 'a'" == error
    assert (["a"], full) == (os.listdir(root), (root / "a" / "file").exists())


def test_a_fifo_in_the_way(root, sink):
    """A FIFO is replaced without waiting for somebody to write to it."""
    os.mkfifo(root / "file")

    def too_long(number, frame):
        raise AssertionError("held by the FIFO")  # no OSError, which the sink would take for an answer

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        sink.write("file", b"x")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert {"file": b"x"} == files(root)


def test_a_socket_in_the_way(root, sink, monkeypatch):
    """A socket is replaced."""
    monkeypatch.chdir(root)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("file")
        sink.write("file", b"x")
    assert {"file": b"x"} == files(root)


def test_what_a_killed_worker_left(root, sink):
    """A temporary file of the same name, from a worker killed in this seat, is in nobody's way."""
    (root / TEMPORARY).write_bytes(b"half a docu")
    sink.write("file", b"x")
    assert {"file": b"x"} == files(root)


def test_a_file_that_cannot_be_read(root, sink):
    """An old file without permission to read is replaced, equal or not."""
    (root / "file").write_bytes(b"x")
    (root / "file").chmod(0)
    sink.write("file", b"y")
    assert {"file": b"y"} == files(root)


def test_a_folder_that_is_removed(root, sink):
    """A folder that somebody removes while the sink has it open is made again."""
    import shutil

    sink.write("a/b/x", b"1")
    shutil.rmtree(root / "a")
    assert 1 == write(sink, root, "a/b/y", b"2")
    assert {"a/b/y": b"2"} == files(root)


def test_a_root_that_is_removed(root, sink):
    """The output folder itself is nobody's to make again: the error names the path."""
    import shutil

    sink.write("x", b"1")
    shutil.rmtree(root)
    assert "'y'" in refused(lambda: sink.write("y", b"2"), FileNotFoundError)


def test_a_folder_swapped_for_a_symlink(tmp_path, root, sink):
    """A folder that is held open stays the folder that it was, even if a symlink takes its name."""
    sink.write("a/x", b"1")
    os.rename(root / "a", root / "b")
    (root / "a").symlink_to(tmp_path / "outside")
    sink.write("a/file", b"2")
    assert {"file": b"outside"} == files(tmp_path / "outside")


def test_many_folders(root, sink):
    """Far more folders than descriptors are kept: all are written, few stay open, none are lost."""
    before = descriptors()
    for turn in range(2):
        for number in range(100):
            sink.write(f"{number}/file", b"%d" % turn)
    assert 32 >= descriptors() - before
    sink.close()
    assert (before, 100, {b"1"}) == (descriptors(), len(files(root)), set(files(root).values()))


def test_errors_leak_no_descriptors(tmp_path, root, sink):
    """Each way to fail closes what it has opened and leaves no temporary."""
    (root / "file").write_bytes(b"x")
    (root / "folder").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "deep").mkdir()
    (root / "deep" / "out").symlink_to(tmp_path)
    sink.write("first", b"x")
    before = descriptors()
    for path in ["file/x", "folder", "out/x", "loop/x", "deep/out/x", "../x"] * 5:
        with pytest.raises((OSError, PathError)):
            sink.write(path, b"y")
    sink.close()
    assert before >= descriptors()
    assert {"deep", "file", "first", "folder", "loop", "out"} == set(os.listdir(root))


def test_a_failed_write_leaves_the_old_file(root, sink, monkeypatch):
    """An error in the middle of writing: the old document is whole, and no temporary is left."""
    (root / "file").write_bytes(b"old")

    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    error = refused(lambda: sink.write("file", b"new"), OSError)
    monkeypatch.undo()
    assert (f"[Errno {errno.ENOSPC}] No space left on device: 'file'", {"file": b"old"}) == (error, files(root))


def test_an_interrupt_leaves_no_temporary(root, sink, monkeypatch):
    """A signal's exception in the middle of writing passes through, and the folder is clean."""
    (root / "file").write_bytes(b"old")

    def interrupted(file, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    refused(lambda: sink.write("file", b"new"), KeyboardInterrupt)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert {"file": b"old"} == files(root)


LIMITED = """
import os, resource, signal, sys
from chora_mp.sinks import FileSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
sink = FileSink(sys.argv[1], ".chora-test-0", lambda folder: None)
try:
    sink.write("file", b"x" * 20_000)
except OSError as error:
    print(error.errno, error.filename)
print(sink.write("file", b"y" * 10_000)[0])
"""


def test_a_file_size_limit(root):
    """A document over the limit on file sizes fails after a part of it is written; one at the limit succeeds."""
    (root / "file").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(root)], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{errno.EFBIG} file\n10000\n" == done.stdout
    assert {"file": b"y" * 10_000} == files(root)


def test_a_full_disk(root):
    """On a file system that is full the error says so, the old file is whole and there is no temporary."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a small file system")
    try:
        sink = FileSink(str(root), TEMPORARY, lambda folder: None)
        sink.write("file", b"old")
        error = refused(lambda: sink.write("file", b"x" * 2**20), OSError)
        sink.close()
        assert (f"[Errno {errno.ENOSPC}] No space left on device: 'file'", {"file": b"old"}) == (error, files(root))
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


RACER = """
import sys
from chora_mp.sinks import FileSink
sink = FileSink(sys.argv[1], ".chora-test-" + sys.argv[2], lambda folder: None)
for number in range(200):
    sink.write(f"{number}/{number}/{sys.argv[2]}", b"x")
"""


def test_workers_beside_each_other(root):
    """Processes that make the same folders at the same time all get their files written."""
    racers = [subprocess.Popen([sys.executable, "-c", RACER, str(root), str(number)]) for number in range(3)]
    assert [0, 0, 0] == [racer.wait(60) for racer in racers]
    assert 600 == len(files(root))


# ---- fsync -----------------------------------------------------------------------------------------------


class Log:
    """What was synced and renamed, in order, by inode: names change in between."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.fails: dict[int | str, int] = {}  # inodes (or "file") whose sync fails, and the error's number
        self._sync, self._rename = os.fsync, os.rename

    def fsync(self, file: int) -> None:
        """Note a sync, and do it or fail."""
        found = os.fstat(file)
        self.events.append(("sync", found.st_ino))
        number = self.fails.get(found.st_ino) or (stat.S_ISREG(found.st_mode) and self.fails.get("file"))
        if number:
            raise OSError(number, os.strerror(number))
        self._sync(file)

    def rename(self, source: bytes, target: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Note a rename and do it."""
        self._rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.events.append(("rename", os.lstat(target, dir_fd=dst_dir_fd).st_ino))

    def told(self, root: Path) -> list[str]:
        """The events since the last call, with paths; what is above the folder around the root is left out."""
        names = {path.lstat().st_ino: str(path.relative_to(root)) for path in [root, *root.rglob("*")]}
        names[root.parent.stat().st_ino] = ".."
        events = [f"{what} {names[inode]}" for what, inode in self.events if inode in names]
        self.events.clear()
        return events


@pytest.fixture
def log(monkeypatch):
    """A log of syncs and renames, on every system with the calls that Linux has."""
    log = Log()
    monkeypatch.setattr(sinks, "_FULL_SYNC", None)
    monkeypatch.setattr(os, "fsync", log.fsync)
    monkeypatch.setattr(os, "rename", log.rename)
    return log


@pytest.fixture
def durable(root, entered, log):
    """A sink with `fsync` into the output folder."""
    sink = FileSink(str(root), TEMPORARY, entered.append, fsync=True)
    yield sink
    sink.close()


def settled(sink: FileSink, root: Path, log: Log) -> FileSink:
    """The sink, after a document in `a` that has settled, with an empty log."""
    sink.write("a/settled", b"x")
    sink.settle()
    log.told(root)
    return sink


def test_without_fsync_nothing_is_synced(root, sink, log, entered):
    """A sink without `fsync` leaves it to the system when bytes reach the disk; settling changes nothing."""
    for data in (b"1", b"1", b"2"):
        sink.write("a/b/x", data)
        sink.settle()
    sink.close()
    assert ([], [os.fsencode(root / "a" / "b")]) == ([one for one in log.events if one[0] == "sync"], entered)


def test_bytes_are_synced_before_the_rename(root, durable, log):
    """No name ever stands for bytes that are not on the disk."""
    durable.write("a/x", b"1")
    durable.write("y", b"2")
    assert ["sync a/x", "rename a/x", "sync y", "rename y"] == log.told(root)


def test_settling_syncs_each_folder_once(root, durable, log):
    """However many documents a folder took, its names are made durable by one sync; and again only for new ones."""
    settled(durable, root, log)
    for number in range(5):
        durable.write(f"a/{number}", b"x")
    log.told(root)
    durable.settle()
    first = log.told(root)
    durable.settle()
    second = log.told(root)
    durable.write("a/0", b"y")
    durable.settle()
    assert (["sync a"], [], ["sync a/0", "rename a/0", "sync a"]) == (first, second, log.told(root))


@pytest.mark.parametrize("there", [False, True])
def test_settling_makes_folders_durable(root, durable, log, there):
    """The names of all folders on the way are synced, the root's own too, even where a worker beside made them."""
    if there:
        (root / "a" / "b").mkdir(parents=True)
    durable.write("a/b/x", b"1")
    log.told(root)
    durable.settle()
    assert ["sync a/b", "sync .", "sync a", "sync .."] == log.told(root)
    durable.write("a/c/x", b"1")
    log.told(root)
    durable.settle()
    assert ["sync a/c", "sync .", "sync a"] == log.told(root)


def test_folders_above_the_root_are_synced(tmp_path, log):
    """A run may have made several folders for its root: the names of all are synced, once."""
    root = tmp_path / "new" / "newer" / "out"
    root.mkdir(parents=True)
    sink = FileSink(str(root), TEMPORARY, lambda folder: None, fsync=True)
    for number in range(2):
        sink.write(f"{number}", b"x")
        sink.settle()
    sink.close()
    told = [one for one in log.told(tmp_path / "new") if one.split()[1] in ("..", ".", "newer")]
    assert ["sync newer", "sync .", "sync .."] == told


def test_a_folder_above_that_may_not_be_read(tmp_path, root, durable, log, monkeypatch):
    """A folder around the root that this person may not open was not made by this run: nothing fails."""
    opened = os.open

    def guarded(path, *arguments, **options):
        if path == os.fsencode(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", guarded)
    durable.write("x", b"1")
    durable.settle()
    assert ["sync x", "rename x", "sync ."] == log.told(root)


def test_a_folder_through_a_symlink_is_durable(root, durable, log):
    """Where a symlink leads to is synced with the folders above it, and the one that the symlink lies in."""
    (root / "real" / "below").mkdir(parents=True)
    (root / "links").mkdir()
    (root / "links" / "link").symlink_to("../real/below")
    durable.write("links/link/x", b"1")
    log.told(root)
    durable.settle()
    assert {"sync real/below", "sync real", "sync links", "sync .", "sync .."} == set(log.told(root))


def test_settling_many_folders(root, durable, log):
    """Folders that had to be closed before the end were synced first, after their documents; few stay open."""
    before = descriptors()
    for number in range(100):
        durable.write(f"{number % 50}/{number}/x", b"x")
    assert 2 * 32 + 1 >= descriptors() - before
    durable.settle()
    told = log.told(root)
    for number in range(100):
        after = told[told.index(f"rename {number % 50}/{number}/x") :]
        assert {f"sync {number % 50}/{number}", f"sync {number % 50}", "sync ."} <= set(after)
    durable.close()
    assert before == descriptors()


def test_closing_syncs_first(root, durable, log):
    """A sink that is closed without being settled has its names on the disk all the same."""
    durable.write("a/x", b"1")
    log.told(root)
    durable.close()
    assert ["sync a", "sync .", "sync .."] == log.told(root)


def test_a_file_left_alone_is_synced(root, durable, log):
    """Bytes that are there already may be in nothing but the cache: they are synced, and so is their name."""
    settled(durable, root, log)
    durable.close()  # the folder is not one that this sink has made, from here on
    (root / "a" / "x").write_bytes(b"same")
    assert 0 == write(durable, root, "a/x", b"same")
    durable.settle()
    assert ["sync a/x", "sync a", "sync ."] == log.told(root)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_file_that_cannot_be_synced_is_replaced(root, durable, log, number):
    """Of an equal file whose sync fails nobody knows what is on the disk: another one takes its place."""
    (root / "x").write_bytes(b"same")
    log.fails[before := (root / "x").stat().st_ino] = number
    assert 4 == write(durable, root, "x", b"same")
    assert before != (root / "x").stat().st_ino


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_bytes_that_cannot_be_synced(root, durable, log, number):
    """The item fails with the path and the reason; nothing is renamed, the old file is whole, no temporary is left."""
    (root / "x").write_bytes(b"old")
    log.fails["file"] = number
    error = refused(lambda: durable.write("x", b"new"), OSError)
    assert (f"[Errno {number}] {os.strerror(number)}: 'x'", {"x": b"old"}) == (error, files(root))
    assert [] == [one for one in log.told(root) if one.startswith("rename")]


@pytest.mark.parametrize("path", ["a", "b", "."])
def test_a_folder_that_cannot_be_synced(root, durable, log, path):
    """The error names the folder, after all others were synced; the documents after it do not suffer from it."""
    settled(durable, root, log)
    (root / "b").mkdir()
    for folder in ("a", "b", "."):
        durable.write(f"{folder}/x" if folder != "." else "x", b"1")
    log.told(root)
    log.fails[(root / path).stat().st_ino] = errno.EIO
    error = refused(durable.settle, OSError)
    log.fails.clear()
    assert f"[Errno {errno.EIO}] Input/output error: {str(root / path)!r}" == error
    assert {"sync a", "sync b", "sync ."} == set(log.told(root))
    durable.settle()
    durable.write("a/y", b"1")
    durable.settle()
    assert ["sync a/y", "rename a/y", "sync a"] == log.told(root)


@pytest.mark.parametrize("close", [False, True])
def test_a_folder_that_cannot_be_synced_when_closed(root, durable, log, close):
    """A folder that is closed before the span's end fails at its end; the document at hand is another's."""
    durable.write("first/x", b"1")
    log.fails[(root / "first").stat().st_ino] = errno.EIO
    if close:
        durable.close()
    for number in range(40):
        durable.write(f"{number}/x", b"1")
    log.fails.clear()
    assert f"[Errno {errno.EIO}] Input/output error: {str(root / 'first')!r}" == refused(durable.settle, OSError)
    durable.settle()


def test_the_root_above_that_cannot_be_synced(tmp_path, root, durable, log):
    """As long as the root's own name could not be synced, each settling tries again."""
    log.fails[tmp_path.stat().st_ino] = errno.EIO
    durable.write("x", b"1")
    assert f"[Errno {errno.EIO}] Input/output error: {str(tmp_path)!r}" == refused(durable.settle, OSError)
    log.fails.clear()
    durable.write("y", b"1")
    log.told(root)
    durable.settle()
    assert ["sync .", "sync .."] == log.told(root)


def test_a_file_system_that_cannot_sync_folders(root, durable, log):
    """Some file systems know no sync of a folder; there is no more to be done, and nothing fails."""
    log.fails[root.stat().st_ino] = errno.EINVAL
    durable.write("x", b"1")
    durable.settle()
    assert ["sync x", "rename x", "sync .", "sync .."] == log.told(root)


def test_a_removed_folder_is_made_and_synced_again(root, durable, log):
    """A folder that somebody removed is made again, and its name is synced again."""
    import shutil

    settled(durable, root, log)
    shutil.rmtree(root / "a")
    durable.write("a/x", b"1")
    durable.settle()
    assert ["sync a/x", "rename a/x", "sync a", "sync ."] == log.told(root)[-4:]


def test_a_removed_root_with_fsync(tmp_path, root, durable):
    """Without the output folder the error names the path, and no descriptor stays open."""
    import shutil

    before = descriptors()
    durable.write("a/x", b"1")
    shutil.rmtree(root)
    assert "'a/y'" in refused(lambda: durable.write("a/y", b"2"), FileNotFoundError)
    assert before == descriptors()


def test_folders_are_told_again_after_settling(durable, entered, root):
    """A folder is told again before the first document after a settling, and not at each."""
    for _ in range(2):
        durable.write("a/x", b"1")
        durable.write("a/y", b"1")
        durable.settle()
    assert [os.fsencode(root / "a")] * 2 == entered


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, ["full"]), (errno.ENOTSUP, ["full", "fsync"]), (errno.ENOTTY, ["full", "fsync"]), (errno.EIO, ["full"])],
)
def test_macos(root, monkeypatch, number, expected):
    """A sync empties the drive's cache there as well; where a file system cannot do that, fsync has to do."""
    calls = []

    def control(file, what):
        calls.append("full" if what == 51 else what)
        if number:
            raise OSError(number, os.strerror(number))

    sink = FileSink(str(root), TEMPORARY, lambda folder: None, fsync=True)
    monkeypatch.setattr(sinks, "_FULL_SYNC", 51)
    monkeypatch.setattr(sinks.fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync"))
    if number == errno.EIO:
        refused(lambda: sink.write("x", b"1"), OSError)
    else:
        sink.write("x", b"1")
    monkeypatch.undo()
    sink.close()
    assert expected == calls


# ---- text ------------------------------------------------------------------------------------------------


def test_text(tmp_path):
    """A span's documents are one after the other in one file; the next span has a file of its own."""
    sink = TextSink(str(tmp_path), 3)
    sink.add(b"one")
    sink.add("zwei é".encode())
    assert 10 == sink.size
    first = sink.store()
    sink.add(b"")
    second = sink.store()
    assert {first: "onezwei é".encode(), second: b""} == {str(path): path.read_bytes() for path in tmp_path.iterdir()}
    assert 0 == sink.size


def test_no_text(tmp_path):
    """Without documents there is no file."""
    assert None is TextSink(str(tmp_path), 0).store()
    assert [] == list(tmp_path.iterdir())


def test_texts_of_seats_are_apart(tmp_path):
    """Two seats never share a file."""
    sinks = [TextSink(str(tmp_path), seat) for seat in (1, 11)]
    for sink in sinks * 2:
        sink.add(b"x")
    paths = [sink.store() for sink in sinks]
    for sink in sinks:
        sink.add(b"y")
    paths += [sink.store() for sink in sinks]
    assert 4 == len(set(paths))
