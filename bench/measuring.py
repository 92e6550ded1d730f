"""Running a command to its end, and what that took: seconds, processor seconds and memory of all its processes."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from chora_mp.machine import Machine, cpu_model
from chora_mp.measuring import Watch

if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
RAM_DISK = "/dev/shm"
SAMPLE = 0.02  # seconds between two looks at the main process's memory
TREE_SAMPLE = 0.2  # the same for all processes, or more: the kernel walks through their pages, and that may take
TREE_SHARE = 0.01  # at most so much of a CPU's time
STATE = ".chora-mp"  # where chora-mp keeps its ledger, below the output folder


@dataclass(slots=True)
class Run:
    """One run of a command.

    `peak_mb` is the greatest memory of its main process, `all_mb` the greatest sum of all its processes' proportional
    shares (PSS, so that what they share counts once) at one of the looks; None where the system does not tell.
    """

    seconds: float
    cpu_s: float
    peak_mb: float | None = None
    all_mb: float | None = None


def surroundings(code: Path) -> dict[str, str]:
    """The environment of what is measured: chora-mp is imported from `code`, and compiled modules are kept."""
    found = dict(os.environ)
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), found.get("PYTHONPATH")]))
    return found


def measure(arguments: list[str], code: Path = REPOSITORY) -> Run:
    """Run a command to its end, with the chora-mp in `code`; RuntimeError with what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            arguments, stdout=said, stderr=said, env=surroundings(code), cwd=code, start_new_session=True
        )
        with watched(process.pid) as peak:
            status, usage = waited(process)
            seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime + orphans_cpu()
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-2:] or ["no message"]
            raise RuntimeError(f"exit code {process.returncode}: {' / '.join(line.strip() for line in last)}")
    return Run(seconds, cpu, peak.megabytes, peak.all_megabytes)


def waited(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
    """The status and the resources of a process that has ended; an interrupted wait ends all of its session."""
    try:
        return os.wait4(process.pid, 0)[1:]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


class watched(Watch):  # noqa: N801  reads as a word in a with statement
    """Looks at memory while the block runs: of a process, and of all processes below this one."""

    seconds = SAMPLE

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.status = f"/proc/{pid}/status"
        self.megabytes: float | None = None
        self.all_megabytes: float | None = None
        self.due = time.monotonic() + SAMPLE

    def look(self) -> None:
        """Note the high-water mark, which the kernel keeps; a process at its end has none any more."""
        found = kilobytes(self.status, "VmHWM:")
        if found is not None:
            self.megabytes = found / 1024
        if time.monotonic() >= self.due:
            self.due = self.look_at_all()

    def look_at_all(self) -> float:
        """Note the sum of those below this process, adopted ones included; returns the moment to look again."""
        start = time.monotonic()
        found = [kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in descendants(os.getpid())]
        total = sum(size for size in found if size is not None)
        if total:
            self.all_megabytes = max(self.all_megabytes or 0.0, total / 1024)
        end = time.monotonic()
        return end + max(TREE_SAMPLE, (end - start) / TREE_SHARE)


def kilobytes(file: str, name: str) -> int | None:
    """A number of a file in /proc; None where there is none, or no such process any more."""
    try:
        with open(file, encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)
    except OSError:
        return None


def descendants(pid: int) -> Iterator[int]:
    """The processes below a process, as the kernel lists the children of each thread."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                found = [int(child) for child in children.read().split()]
            for child in found:
                yield child
                yield from descendants(child)
    except OSError:
        return


def orphans_cpu(patience: float = 10.0) -> float:
    """Processor seconds of adopted processes; waits for their end for some seconds."""
    seconds = 0.0
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return seconds
        if pid:
            seconds += usage.ru_utime + usage.ru_stime
        else:
            time.sleep(0.01)
    raise RuntimeError(f"processes were still running {patience:g} s after the main process")


def first_difference(expected: Path, actual: Path, only: list[str] | None = None) -> str | None:
    """The first path at which two folders differ, byte for byte; None where none does.

    With `only`, these are all documents that there should be.
    """
    here, there = only if only is not None else files(expected), files(actual)
    for mine, theirs in itertools.zip_longest(here, there):
        if mine != theirs:
            return str(mine or theirs)
        if (expected / mine).read_bytes() != (actual / mine).read_bytes():
            return str(mine)
    return None


def files(folder: Path) -> list[str]:
    """The relative paths of the documents in a folder, sorted."""
    found = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name != STATE]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(found)


def ram_disk() -> str | None:
    """A folder in memory where there is one; None stands for the usual temporary folder."""
    return RAM_DISK if os.access(RAM_DISK, os.W_OK) else None


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, Any]:
    """What figures depend on: the machine as this process may use it, its software, and how busy it is now."""
    here, memory = Machine.here(), psutil.virtual_memory()
    return {
        "usable_cpus": usable_cpus(),
        "cpu_quota": here.cpus if here.cpus_from.startswith("cgroup") else None,
        "memory_mb": memory.total // 2**20,
        "available_memory_mb": here.memory // 2**20,
        "cpu_model": cpu_model() or platform.processor() or "unknown",
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def packages() -> dict[str, str]:
    """The versions of what takes part, as far as it is installed."""
    found = {}
    for name in ("jinja2", "minijinja", "orjson", "joblib", "mpire", "pebble", "dask", "distributed", "jinja2-cli"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, such as "tmpfs"."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    above = [(len(point), kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above, default=(0, "unknown"))[1]


def say(message: str) -> None:
    """Tell how it goes."""
    print(message, file=sys.stderr, flush=True)
