"""What this process may really use of the machine: CPUs and memory, as cgroups and affinity leave them.

Cgroups nest and the narrowest counts, so every ancestor is read, not only the process's own cgroup: systemd,
and whoever divides up a container, set the limit one level above the process. Files are as in the kernel's
documentation (`admin-guide/cgroup-v2`, `admin-guide/cgroup-v1`), paths as in cgroup_namespaces(7). What is
missing, unreadable or malformed limits nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Machine:
    """A snapshot: `cpus` (a quota may leave fractions of one), `memory` available in bytes, and who says so.

    For a "what if", make one up or use `dataclasses.replace(machine, cpus=64, cpus_from="given")`.
    """

    cpus: float
    memory: int
    cpus_from: str = "given"
    memory_from: str = "given"

    @classmethod
    def here(cls, root: Path = Path("/")) -> Machine:
        """The machine at this moment, with `/proc` and cgroups as found below `root`."""
        groups = tuple(_groups(root))
        # Of equals the first counts: the plainest explanation.
        cpus, cpus_from = min((_usable_cpus(), *_quotas(groups)), key=lambda found: found[0])
        memory, memory_from = min((_free_memory(), *_rooms(groups)), key=lambda found: found[0])
        return cls(cpus, memory, cpus_from, memory_from)


def machine_name(machine: Machine, root: Path = Path("/")) -> str:
    """What machine this is, as far as it matters to how fast it is: `Intel Xeon E5-2680, 2 cpus, 25 GB`.

    The CPUs are those that may be used, so that fewer of them make another machine. No word of the host: containers
    have a new name each time, and machines of one kind are alike.
    """
    model = cpu_model(root) or os.uname().machine
    cpus = "1 cpu" if machine.cpus == 1 else f"{machine.cpus:.4g} cpus"
    return f"{model}, {cpus}, {psutil.virtual_memory().total / 1e9:.0f} GB"


def cpu_model(root: Path = Path("/")) -> str | None:
    """The processor's name, as Linux gives it; None: it gives none."""
    found = re.search(r"^model name\s*:\s*(.+)$", _head(root / "proc/cpuinfo"), re.MULTILINE)
    return " ".join(found[1].split()) if found else None


def busy_seconds() -> float | None:
    """Seconds that the CPUs that we may use have been at work so far, for whomever; None: nobody can tell."""
    try:
        usable = os.sched_getaffinity(0)
        times = psutil.cpu_times(percpu=True)
        mine = [one for number, one in enumerate(times) if number in usable]
    except (AttributeError, OSError, NotImplementedError):
        return None
    return sum(map(_worked, mine)) if len(mine) == len(usable) else None


def _worked(times: Any) -> float:
    """Seconds of psutil's CPU times that were no waiting: for whomever, the host's other guests (`steal`) included."""
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in names))


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has taken so far, with all its threads; 0 where there is none."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _head(path: Path) -> str:
    """The first bytes of a file that gets the longer the more CPUs there are."""
    try:
        with path.open("rb") as file:
            return os.fsdecode(file.read(4096))
    except OSError:
        return ""


def _usable_cpus() -> tuple[float, str]:
    """CPUs that the scheduler may put us on, which covers cpusets."""
    try:
        return float(len(os.sched_getaffinity(0))), "affinity"
    except (AttributeError, NotImplementedError, OSError):  # macOS and Windows; PyPy; a seccomp filter
        return float(os.cpu_count() or 1), "os.cpu_count"


def _free_memory() -> tuple[int, str]:
    return psutil.virtual_memory().available, "psutil available"


class _Group(NamedTuple):
    """A cgroup that holds this process: its path in the hierarchy, and the folder where its files are."""

    name: str
    folder: Path


def _quotas(groups: tuple[_Group, ...]) -> Iterator[tuple[float, str]]:
    for group in groups:
        cpus = _quota(group.folder)
        if cpus is not None:
            yield cpus, f"cgroup quota {group.name}"


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time that a cgroup may use: quota / period, both in microseconds."""
    limit = _text(folder / "cpu.max").split()
    if not limit:
        limit = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    numbers = [_number(word) for word in limit]  # "max" and -1 are no numbers here
    match numbers:
        case [int(quota), int(period)] if quota and period:
            return quota / period
    return None


def _rooms(groups: tuple[_Group, ...]) -> Iterator[tuple[int, str]]:
    for group in groups:
        room = _room(group.folder)
        if room is not None:
            yield room, f"cgroup limit {group.name}"


# The limit, what is used of it, and the key in memory.stat of the page cache that goes first; v2, then v1.
# Version 1 says "unlimited" with a number near 2**63, which never is the smallest.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _room(folder: Path) -> int | None:
    """Bytes that a cgroup has left: max - current + inactive_file; `docker stats` counts use in the same way.

    Without `inactive_file`, documents just written, still in the page cache, would count as memory in use.
    """
    for limit_file, used_file, cache_key in _MEMORY_FILES:
        limit = _number(_text(folder / limit_file))
        if limit is not None:
            used = _number(_text(folder / used_file)) or 0
            cache = _stat(_text(folder / "memory.stat"), cache_key)
            return max(0, limit - max(0, used - cache))
    return None


def _stat(text: str, key: str) -> int:
    found = re.search(rf"^{key} (\d+)$", text, re.MULTILINE)
    return (_number(found[1]) or 0) if found else 0


def _number(text: str) -> int | None:
    """A number as the kernel writes them: not negative, and 64 bits at most."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if 0 <= value < 2**64 else None


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except (OSError, ValueError):  # ValueError: a NUL in a path
        return ""


class _Mount(NamedTuple):
    """A hierarchy as mounted: `top` is the cgroup that shows at `folder`, in containers not always "/"."""

    top: PurePosixPath
    folder: Path
    controllers: frozenset[str]

    def climb(self, path: PurePosixPath) -> Iterator[_Group]:
        """The cgroup at `path` and its ancestors, as far up as this mount shows them."""
        below = self._below(path)
        if below is not None:
            for step in (below, *below.parents):
                yield _Group(_printable(self.top / step), self.folder / step)

    def _below(self, path: PurePosixPath) -> PurePosixPath | None:
        if path.is_relative_to(self.top):
            below = path.relative_to(self.top)
            return None if ".." in below.parts else below  # we were moved out of the namespace's own tree
        # Mounted before our cgroup namespace was made: an ancestor, but the names between are hidden from us.
        return PurePosixPath() if set(self.top.parts) == {"/", ".."} else None


def _printable(path: PurePosixPath) -> str:
    """The path as text that any stream and JSON can take: cgroups may be named with any bytes."""
    return str(path).encode(errors="backslashreplace").decode()


# `4:cpu,cpuacct:/user.slice` for each v1 hierarchy, `0::/user.slice` for v2; see cgroups(7).
_MEMBERSHIP = re.compile(r"^\d+:([^:\n]*):(/.*)$", re.MULTILINE)
# `36 25 0:31 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu`; see proc_pid_mountinfo(5).
_MOUNTED = re.compile(r"^\d+ \d+ \S+ (/\S*) (/\S*) .*- cgroup(2?) \S* (\S+)$", re.MULTILINE)
_V2 = frozenset({""})  # what stands for the controllers of v2 in /proc/self/cgroup


def _groups(root: Path) -> Iterator[_Group]:
    """Every cgroup that holds this process and shows below `root`, in each hierarchy, inside out."""
    mounts = _mounts(root)
    for controllers, path in _MEMBERSHIP.findall(_text(root / "proc/self/cgroup")):
        for mount in mounts:
            if mount.controllers.intersection(controllers.split(",")):
                yield from mount.climb(PurePosixPath(path))


def _mounts(root: Path) -> tuple[_Mount, ...]:
    mounts = {}
    for top, point, v2, options in _MOUNTED.findall(_text(root / "proc/self/mountinfo")):
        controllers = _V2 if v2 else frozenset(options.split(","))
        folder = root / _unescaped(point).lstrip("/")
        # A later mount on the same folder hides the one before.
        mounts[folder] = _Mount(PurePosixPath(_unescaped(top)), folder, controllers)
    return tuple(mounts.values())


def _unescaped(text: str) -> str:
    r"""The text of a field of mountinfo, where a blank is `\040`."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda code: chr(int(code[1], 8)), text)
