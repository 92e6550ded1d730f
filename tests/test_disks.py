"""What becomes of a run whose disk, rights or limits give out, or whose files are changed while it reads them.

The faults are real ones: small file systems that are mounted for the purpose, limits that the kernel keeps, rights that
are given up. Where the machine does not permit that, a test is skipped and says what it would have needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Project
from faults import BOUND, TEMPLATE, Case, Ended, Run, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, capabilities and limits of Linux")

FULL = "No space left on device"
SLOW = """
import errno, os, time

def fault(value):
    match value:
        case "big": return "x" * 3_000_000
        case "leak": os.dup(0)
        case "hoard":
            try:
                while True: os.dup(0)
            except OSError: pass
    time.sleep(PAUSE)
    return ""

PAUSE = float(os.environ.get("PAUSE", 0))

FILTERS = {"fault": fault}
"""
"""A plug-in that takes so many seconds an item as the environment says."""

PAUSE = 0.005
"""Seconds an item that give a test the time to step in."""

# linux/prctl.h and linux/capability.h
_KEEP_CAPS, _DROP_BOUND, _AMBIENT, _RAISE = 8, 24, 47, 2
_DAC_OVERRIDE, _DAC_READ_SEARCH, _VERSION_3 = 1, 2, 0x20080522


# -- what befalls a run


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory at `folder`, with such options."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"a file system cannot be mounted here ({options})")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", folder], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> bool:
    """Change a mounted file system; whether it could be, which it cannot to read-only while a file is being written."""
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill(folder: Path) -> Path:
    """A file that takes what room there is left."""
    path = folder / "filler"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with contextlib.suppress(OSError):
        while os.write(file, bytes(4096)):
            pass
    os.close(file)
    return path


def limited(kind: int, limit: int) -> Callable[[], None]:
    """What sets a limit in a process that is about to become the command."""
    return lambda: resource.setrlimit(kind, (limit, limit))


def _libc(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} is refused")


def without_override() -> None:
    """Let the kernel ask about rights, as it does of everybody but root."""
    if os.geteuid() == 0:
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            _libc("prctl", _DROP_BOUND, capability, 0, 0, 0)


def as_stranger(user: int, limit: int | None = None) -> Callable[[], None]:
    """Become a user who has no other process, and may at most have so many; the interpreter stays readable to them."""

    def become() -> None:
        bit = 1 << _DAC_READ_SEARCH
        os.setgroups([])
        os.setresgid(user, user, user)
        _libc("prctl", _KEEP_CAPS, 1, 0, 0, 0)
        os.setresuid(user, user, user)
        _libc("capset", (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)(bit, bit, bit))
        _libc("prctl", _AMBIENT, _RAISE, _DAC_READ_SEARCH, 0, 0)
        if limit is not None:
            limited(resource.RLIMIT_NPROC, limit)()

    return become


def possible(preexec: Callable[[], None], reason: str) -> None:
    """Skip the test where a process cannot be made what `preexec` makes of it."""
    try:
        subprocess.run([sys.executable, "-c", ""], preexec_fn=preexec, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip(reason)


@pytest.fixture
def shared() -> Iterator[Project]:
    """An empty project in a folder that every user can reach; pytest's own are for whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        yield Project(Path(folder))


_users = iter(range(1_000_000 + 1000 * os.getpid(), 2**31))


def stranger(case: Case) -> int:
    """A user who is nobody else and owns the project; a new one each time, for the dead count until they are buried."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    user = next(_users)
    possible(as_stranger(user), "becoming another user is not permitted here")
    for path in (case.temporary, case.project.folder, *case.project.folder.rglob("*")):
        os.chown(path, user, user)
    return user


def allow_no_more(run: Run, user: int) -> None:
    """Let no process of a run, which are all that user's, start another; asked for in the user's name."""
    code = "import resource, sys; [resource.prlimit(int(p), resource.RLIMIT_NPROC, (1, 1)) for p in sys.argv[1:]]"
    pids = [str(run.pid), *(str(process.pid) for process in run.others())]
    subprocess.run([sys.executable, "-c", code, *pids], preexec_fn=as_stranger(user), check=True)


# -- what is asked of it


@dataclass
class Parted(Case):
    """A case whose documents go to the folders that `path` says; those of an `old version` count as not there."""

    count: int = 120
    plugin: str = SLOW
    path: str = "{{ 'full/' if number % 2 else 'free/' }}{{ name }}.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.write_job(self.template)

    def write_job(self, template: str) -> None:
        """Write job and template anew."""
        keys = f'key: "{{{{ name }}}}"\nplugins: [faults.py]\n{self.more}'
        self.project.job(keys, template=template, path=self.path)

    def documents(self) -> dict[str, str]:
        """The documents by their names alone."""
        found = super().documents().items()
        return {
            path.rpartition("/")[2]: text
            for path, text in found
            if not text.startswith("old version") and not path.endswith("filler")
        }


def slow(project: Project, **options: Any) -> Case:
    """A case with the plug-in that may be told to take its time."""
    return Case(project, **{"count": 120, "plugin": SLOW, **options})


def run_slowly(case: Case, pause: float = PAUSE, **options: Any) -> Ended:
    """A run from start to end that takes so many seconds an item."""
    return begun(case, 0, pause, **options).end()


_under_way: list[Run] = []


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """End what a test that failed has left."""
    yield
    while _under_way:
        run = _under_way.pop()
        if run.process.returncode is None:
            run.signal(signal.SIGKILL)
            run.process.communicate()


def begun(case: Case, count: int = 30, pause: float = PAUSE, **options: Any) -> Run:
    """A run, of so many seconds an item, that has written so many documents and is not at its end."""
    environment = {"PAUSE": str(pause), **options.pop("environment", {})}
    run = case.start("--summary", "summary.json", "-j", "2", environment=environment, **options)
    _under_way.append(run)
    run.wait_for(lambda: _some(case, count), f"{count} documents")
    assert not count or run.process.poll() is None, f"the run was over too soon: {run.end().err}"
    return run


def _some(case: Case, count: int) -> bool:
    return sum(1 for path in case.project.out.rglob("n*.txt") if path.is_file()) >= count


def assert_stopped(ended: Ended, *words: str) -> None:
    """Whoever runs it is told in one line of their own words, and what is there is whole."""
    assert ended.code == 2, ended.err
    for word in words:
        assert word in ended.err
    ended.assert_tidy()


def assert_failed(ended: Ended, numbers: set[int], number: int, path: str) -> None:
    """Of these items, and of them alone, each says with which error at which path; `path` by name."""
    expected = {
        n: ("PermissionError" if number == errno.EACCES else "OSError",
            f"[Errno {number}] {os.strerror(number)}: {path.format(f'n{n}.txt')!r}")
        for n in numbers
    }  # fmt: skip
    assert expected == ended.errors


# -- no room


def test_full_folder_fails_the_items_that_lead_there_and_no_others(project: Project) -> None:
    """A full disk under a part of the outputs is each item's own failure, with path and errno; old files stay."""
    case = Parted(project, plugin=SLOW)
    case.write_job("old version of {{ name }}")
    with mounted(project.out / "full", "size=1m") as full:
        assert case.run().code == 0
        filler = fill(full)
        case.write_job(TEMPLATE)
        odd = set(range(1, case.count, 2))
        ended = case.run()
        ended.assert_only(dict.fromkeys(odd, "OSError"))
        assert_failed(ended, odd, errno.ENOSPC, "full/{}")
        assert {f"old version of n{n}" for n in odd} == {(full / f"n{n}.txt").read_text() for n in odd}
        filler.unlink()
        ended.assert_finished_by_the_next()


def test_folder_that_fills_up_takes_what_fits(project: Project) -> None:
    """Items fail from the moment on that their disk is full; a document that did not fit leaves nothing behind."""
    case = Parted(project)
    with mounted(project.out / "full", "size=100k") as full:
        ended = case.run()
        assert set(ended.failures) <= set(range(1, case.count, 2))
        assert 30 <= len(ended.failures) <= 40  # 25 pages of 4 KiB, a document each
        ended.assert_only(dict.fromkeys(ended.failures, "OSError"))
        assert_failed(ended, set(ended.failures), errno.ENOSPC, "full/{}")
        assert remount(full, "size=4m")
        ended.assert_finished_by_the_next()


def test_run_stops_once_every_item_finds_the_disk_full(project: Project) -> None:
    """After some tens of items that all found the disk full the run stops, and keeps what is done."""
    case = Parted(project, count=600, path="full/{{ name }}.txt")
    with mounted(project.out / "full", "size=200k") as full:
        ended = run_slowly(case)
        assert_stopped(ended, FULL, "items could not be written", "run the same command again")
        _, written, failed, not_reached = ended.counts()
        assert written == len(case.documents()) >= 45
        assert 20 <= failed <= 150
        assert not_reached > 300
        assert_failed(ended, set(ended.failures), errno.ENOSPC, "full/{}")
        assert remount(full, "size=8m")
        ended.assert_finished_by_the_next()


@pytest.mark.parametrize("size", ["8k", "64k", "160k", "600k"])
def test_output_folder_on_a_disk_that_is_too_small(project: Project, size: str) -> None:
    """Wherever the disk is full, in the outputs, in the ledger or before, the run stops and says so in one way."""
    case = Case(project, count=300)
    with mounted(project.out, f"size={size}") as out:
        ended = case.run()
        assert ended.code == 2, ended.err
        assert FULL in ended.err
        assert "Traceback" not in ended.err
        _assert_whole(case)
        assert remount(out, "size=16m")
        ended.assert_finished_by_the_next()


@pytest.mark.parametrize("moment", ["before", "amid"])
def test_full_disk_under_the_ledger(project: Project, moment: str) -> None:
    """A run that cannot write its ledger stops, names the place and says in the same words that the disk is full."""
    case = slow(project)
    with mounted(project.out / ".chora-mp", "size=1m") as state:
        if moment == "before":
            filler = fill(state)
            ended = case.run()
        else:
            run = begun(case)
            filler = fill(state)
            ended = run.end()
        assert ended.code == 2, ended.err
        assert FULL in ended.err
        assert str(state.relative_to(project.folder)) in ended.err
        assert "Traceback" not in ended.err
        _assert_whole(case)
        filler.unlink()
        ended.assert_finished_by_the_next()


def test_ledger_that_may_not_grow(project: Project) -> None:
    """Where the ledger's own file cannot grow the run stops and names it; what is written is whole."""
    case = slow(project, count=200)
    run = begun(case)
    wal = project.out / ".chora-mp" / "ledger.db-wal"
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, resource.RLIM_INFINITY))
    ended = run.end()
    assert ended.code == 2, ended.err
    assert "ledger.db" in ended.err
    assert "Traceback" not in ended.err
    _assert_whole(case)
    ended.assert_finished_by_the_next()


def _assert_whole(case: Case) -> None:
    """Nothing but whole documents is there; a ledger's log may stay where there is no room to fold it in."""
    assert set(case.project.leftovers()) <= {
        f"out/.chora-mp/{name}" for name in ("ledger.db-wal", "ledger.db-shm", "filler")
    }
    for name, content in case.documents().items():
        assert text(int(name.removeprefix("n").removesuffix(".txt"))) == content


def test_document_over_the_limit_of_a_file(project: Project) -> None:
    """A document that is larger than files may be fails alone, and leaves no part of itself."""
    case = slow(project, faults={7: "big"})
    ended = case.run(preexec_fn=limited(resource.RLIMIT_FSIZE, 2_000_000))
    ended.assert_only({7: "OSError"})
    assert_failed(ended, {7}, errno.EFBIG, "{}")
    again = case.run()
    assert again.code == 0
    assert len(case.documents()["n7.txt"]) > 3_000_000


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_disk_that_refuses_every_write(project: Project, number: int) -> None:
    """A quota that is used up and a broken disk, told by a stand-in for the system's call, are as a full one."""
    refusing = SLOW + REFUSING.format(number)
    case = slow(project, count=300, plugin=refusing)
    ended = run_slowly(case)
    assert_stopped(ended, os.strerror(number), "items could not be written")
    assert 20 <= ended.counts()[2] <= 150
    assert_failed(ended, set(ended.failures), number, "{}")
    project.write("faults.py", SLOW)
    ended.assert_finished_by_the_next()


REFUSING = """
write, left = os.write, [50]

def refuse(file, data):
    if b" is " in bytes(data):
        left[0] -= 1
        if left[0] < 0: raise OSError({0}, os.strerror({0}))
    return write(file, data)

os.write = refuse
"""


def test_quota_that_is_used_up(shared: Project) -> None:
    """A real quota, of a file system in memory that knows quotas (Linux 6.6, if so built)."""
    case = Parted(shared, count=400, path="full/{{ name }}.txt")
    with mounted(shared.out / "full", "size=16m,usrquota_block_hardlimit=204800") as full:
        user = stranger(case)
        ended = run_slowly(case, preexec_fn=as_stranger(user))
        assert_stopped(ended, os.strerror(errno.EDQUOT), "items could not be written")
        assert 20 <= ended.counts()[2] <= 150
        assert remount(full, "usrquota_block_hardlimit=0") or full
        _assert_whole(case)


# -- no rights


def test_folder_that_turns_read_only_in_mid_run(project: Project) -> None:
    """The items that lead into a file system that has turned read-only fail, the others are rendered."""
    case = Parted(project, count=200)
    with mounted(project.out / "full", "size=4m") as full:
        run = begun(case)
        run.wait_for(lambda: remount(full, "ro"), "a moment when nothing is being written")
        ended = run.end()
        assert ended.failures
        assert set(ended.failures) <= set(range(1, case.count, 2))
        ended.assert_only(dict.fromkeys(ended.failures, "OSError"))
        assert_failed(ended, set(ended.failures), errno.EROFS, "full/{}")
        assert remount(full, "rw")
        ended.assert_finished_by_the_next()


def test_run_stops_once_all_is_read_only(project: Project) -> None:
    """Where every output leads into a read-only file system, the run stops after some tens of them."""
    case = Parted(project, count=400, path="full/{{ name }}.txt")
    with mounted(project.out / "full", "size=8m") as full:
        run = begun(case)
        run.wait_for(lambda: remount(full, "ro"), "a moment when nothing is being written")
        ended = run.end()
        assert_stopped(ended, "Read-only file system", "items could not be written")
        assert 20 <= ended.counts()[2] <= 150
        assert_failed(ended, set(ended.failures), errno.EROFS, "full/{}")
        assert remount(full, "rw")
        ended.assert_finished_by_the_next()


def test_rights_to_a_folder_lost_in_mid_run(project: Project) -> None:
    """The items of a folder that may not be written to any more fail with `Permission denied`, the others do not."""
    possible(without_override, "rights cannot be given up here")
    case = Parted(project, count=200)
    run = begun(case, preexec_fn=without_override)
    (project.out / "full").chmod(0o555)
    ended = run.end()
    give_back(project.out / "full")
    assert ended.failures
    assert set(ended.failures) <= set(range(1, case.count, 2))
    ended.assert_only(dict.fromkeys(ended.failures, "PermissionError"))
    assert_failed(ended, set(ended.failures), errno.EACCES, "full/{}")
    ended.assert_finished_by_the_next()


def test_run_stops_once_it_may_write_nothing(project: Project) -> None:
    """Rights may be those of one folder: the run goes on for a thousand items, and then it stops."""
    possible(without_override, "rights cannot be given up here")
    case = slow(project, count=3000)
    run = begun(case, pause=PAUSE / 10, preexec_fn=without_override)
    project.out.chmod(0o555)
    ended = run.end()
    give_back(project.out)
    assert_stopped(ended, "Permission denied", "items could not be written")
    _, written, failed, not_reached = ended.counts()
    assert written == len(case.documents())
    assert 1000 <= failed <= 2000
    assert not_reached > 0
    assert_failed(ended, set(ended.failures), errno.EACCES, "{}")
    ended.assert_finished_by_the_next()


def give_back(folder: Path) -> None:
    """Give the rights to a folder back, and take away the file that could be neither finished nor removed without."""
    folder.chmod(0o755)
    for path in folder.glob(".chora-??????-*"):
        path.unlink()


def test_temporary_file_that_may_not_be_removed(project: Project) -> None:
    """A worker that loses its rights between writing and renaming cannot tidy up; the next run does that for it."""
    possible(without_override, "rights cannot be given up here")
    case = slow(project, plugin=SLOW + LOSING)
    ended = case.run("-j", "1", preexec_fn=without_override)
    assert {"PermissionError"} == {type_ for type_, _ in ended.errors.values()}
    assert case.count - 49 == len(ended.failures)  # which ones: spans may be rendered in another order
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert sum(1 for _ in project.out.glob(".chora-??????-*")) == 1
    project.out.chmod(0o755)
    project.write("faults.py", SLOW)
    ended.assert_finished_by_the_next()


LOSING = """
rename, left = os.rename, [50]

def lose(source, target, **options):
    left[0] -= 1
    if left[0] == 0: os.chmod("out", 0o555)
    return rename(source, target, **options)

os.rename = lose
"""


# -- no descriptors, no processes


@pytest.mark.parametrize("fault", ["leak", "hoard"])
def test_plugin_that_leaks_descriptors(project: Project, fault: str) -> None:
    """Few items fail for the descriptors that others have leaked: a worker that has none left is replaced."""
    faults = dict.fromkeys(range(300), "leak") if fault == "leak" else {9: "hoard", 99: "hoard"}
    case = slow(project, count=300, faults=faults)
    ended = case.run(preexec_fn=limited(resource.RLIMIT_NOFILE, 128))
    assert 1 <= len(ended.failures) <= 10
    assert {"Too many open files"} == {re.sub(r"^\[Errno 24\] ([^:]*).*$", r"\1", m) for _, m in ended.errors.values()}
    ended.assert_only(dict.fromkeys(ended.failures, "OSError"))
    project.write("faults.py", SLOW.replace("os.dup(0)", "return ''"))
    ended.assert_finished_by_the_next()


def test_few_descriptors_from_the_start(project: Project) -> None:
    """With few open files allowed a run makes do with fewer workers; with too few it stops and says why."""
    case, codes = slow(project, count=60), []
    for limit in (12, 16, 28, 52, 128):
        shutil.rmtree(project.out, ignore_errors=True)
        pause = {"PAUSE": str(PAUSE)}
        ended = case.run("-j", "4", environment=pause, preexec_fn=limited(resource.RLIMIT_NOFILE, limit))
        codes.append(_assert_enough_or_told(ended, "Too many open files", limit))
    assert codes == sorted(codes, reverse=True)
    assert {0, 2} == set(codes)
    case.run().assert_only({}, 0)


def test_few_processes_from_the_start(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few processes allowed a run makes do with fewer workers; with too few it stops and says why."""
    monkeypatch.setattr("faults.BOUND", 10.0)
    case, codes = Case(shared, count=60), []
    for limit in (1, 2, 3, 4, 5, 6, 12):
        shutil.rmtree(shared.out, ignore_errors=True)
        ended = case.run("-j", "4", preexec_fn=as_stranger(stranger(case), limit))
        codes.append(_assert_enough_or_told(ended, "", limit))
    assert codes == sorted(codes, reverse=True)
    assert {0, 2} == set(codes)
    case.run().assert_only({}, 0)


def _assert_enough_or_told(ended: Ended, words: str, limit: int) -> int:
    assert ended.code in (0, 2), (limit, ended.code, ended.err)
    assert "Traceback" not in ended.err, (limit, ended.err)
    assert "this is a bug" not in ended.err, (limit, ended.err)
    if ended.code:
        assert words in ended.err, (limit, ended.err)
        assert [] == sorted(path.name for path in ended.case.temporary.iterdir()), (limit, ended.err)
        assert 0 < len(ended.err.strip().splitlines()) <= 3, (limit, ended.err)
        ended.assert_tidy()
    else:
        ended.assert_only({}, 0)
    return ended.code


@pytest.mark.parametrize("deaths", [1, 2])
def test_no_process_in_place_of_a_dead_one(shared: Project, deaths: int) -> None:
    """A worker that dies and cannot be replaced is done without; the run stops once there is none left."""
    case = slow(shared, count=300)
    user = stranger(case)
    run = begun(case, preexec_fn=as_stranger(user))
    workers = run.workers()
    assert len(workers) == 2
    allow_no_more(run, user)
    for worker in workers[:deaths]:
        worker.send_signal(signal.SIGKILL)
    ended = run.end()
    if deaths == 1:
        ended.assert_only({}, 0)
    else:
        assert_stopped(ended, "worker")
        ended.assert_finished_by_the_next()


# -- files that are changed meanwhile


def test_template_edited_in_mid_run(project: Project) -> None:
    """All documents of a run are made from what its templates were when it began; the next run makes all anew."""
    case = slow(project)
    run = begun(case)
    project.write("templates/page.txt.j2", "another {{ name }}")
    run.end().assert_only({}, 0)
    again = case.run()
    assert (0, case.count) == (again.code, again.summary["successful"])
    assert {f"n{n}.txt": f"another n{n}" for n in range(case.count)} == case.documents()


@pytest.mark.parametrize("what", ["file", "folder", "folder's name"])
def test_outputs_removed_in_mid_run(project: Project, what: str) -> None:
    """Somebody who removes outputs meanwhile does not disturb the run, and the next one restores them."""
    case = Parted(project)
    run = begun(case)
    if what == "file":
        next(iter((project.out / "full").glob("n*.txt"))).unlink()
    elif what == "folder":
        run.wait_for(lambda: _removed(project.out / "full"), "a moment when nothing is being written")
    else:
        (project.out / "full").rename(project.folder / "gone")
    ended = run.end()
    assert ended.code == 0, ended.err
    ended.assert_tidy()
    assert (case.count, case.count, 0, 0) == ended.counts()
    missing = case.count - len(case.documents())
    assert missing > 0
    again = case.run()
    again.assert_only({}, 0)
    assert missing == again.summary["successful"]


def _removed(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_output_folder_and_ledger_removed_in_mid_run(project: Project, how: str) -> None:
    """Without output folder, ledger and its own files a run ends one way or the other, and says so in a line."""
    case = slow(project)
    run = begun(case)
    if how == "moved":
        project.out.rename(project.folder / "moved")
    else:
        shutil.rmtree(project.out, ignore_errors=True)
    ended = run.end()
    assert "Traceback" not in ended.err
    assert (0, "") == (ended.code, ended.err) or (ended.code == 2 and ended.err.startswith("chora-mp: out")), ended.err
    shutil.rmtree(project.folder / "moved", ignore_errors=True)
    ended.assert_finished_by_the_next()


@pytest.mark.parametrize("how", ["truncated", "appended", "replaced"])
def test_source_changed_in_mid_run(project: Project, how: str) -> None:
    """A run whose source changes under it stops with a word of it; the next one renders what is there then."""
    case = slow(project)
    path = project.folder / "data.jsonl"
    whole = path.read_bytes()
    run = begun(case)
    if how == "truncated":
        os.truncate(path, len(whole) // 2 + 3)
    elif how == "appended":
        with path.open("ab") as file:
            file.write(whole.splitlines(keepends=True)[0].replace(b'n0"', b'n120"').replace(b": 0", b": 120"))
    else:
        project.write("other.jsonl", whole.replace(b'"number": 1', b'"number": 2')).replace(path)
    ended = run.end()
    assert_stopped(ended, "data.jsonl", "changed while it was read; run again")
    if how == "appended":
        case.count += 1
    else:
        path.write_bytes(whole)
    ended.assert_finished_by_the_next()


def test_two_runs_in_one_folder(project: Project) -> None:
    """The second run ends at once and names the first, which is not disturbed."""
    case = slow(project, count=200)
    first = begun(case, pause=4 * PAUSE)
    started = time.monotonic()
    second = case.start("-j", "2").end()
    assert time.monotonic() - started < BOUND / 4
    assert first.process.poll() is None
    assert second.code == 2
    assert f"another run is at work here (pid {first.pid}," in second.err
    assert "Traceback" not in second.err
    first.end().assert_only({}, 0)
