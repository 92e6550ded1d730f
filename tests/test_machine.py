"""What the process may use, told from made-up `/proc` and cgroup trees, and once from the real machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 2**20
AVAILABLE = 16 * 1024 * MIB
UNBOUND = Machine(8.0, AVAILABLE, "affinity", "psutil available")
UNLIMITED_V1 = "9223372036854771712\n"  # PAGE_COUNTER_MAX, in bytes, on a machine with pages of 4 KiB

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate"
CPU_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct"
MEMORY_MOUNT = "34 31 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory"
ROOT_MOUNT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let the machine itself have 8 CPUs and 16 GiB available, but for tests of the real one."""
    if "real" not in request.node.name:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=AVAILABLE))


def tree(root: Path, cgroup: str = "", mounts: tuple[str, ...] = (), files: Mapping[str, str] | None = None) -> Path:
    """A made-up system below `root`: the process's cgroups, the mounts, and files of `/sys/fs/cgroup`."""
    mountinfo = "".join(f"{line}\n" for line in (ROOT_MOUNT, *mounts))
    texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
    texts |= {f"sys/fs/cgroup/{name}": text for name, text in (files or {}).items()}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, files: Mapping[str, str], path: str = "/a.slice/b.slice/c.scope") -> Machine:
    """The machine where this process is in the v2 cgroup `path` of a hierarchy that holds `files`."""
    return Machine.here(tree(root, f"0::{path}\n", (V2_MOUNT,), files))


def v1(root: Path, files: Mapping[str, str], path: str = "/a/b") -> Machine:
    """The machine where this process is in `path` of the v1 hierarchies for CPU and memory."""
    cgroup = f"5:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:/elsewhere\n"
    return Machine.here(tree(root, cgroup, (CPU_MOUNT, MEMORY_MOUNT), files))


def quota(cpus: float, cpus_from: str) -> Machine:
    """The unbound machine, but for its CPUs."""
    return replace(UNBOUND, cpus=cpus, cpus_from=cpus_from)


def room(memory: int, memory_from: str) -> Machine:
    """The unbound machine, but for its memory."""
    return replace(UNBOUND, memory=memory, memory_from=memory_from)


def test_without_cgroups_affinity_and_psutil_decide(tmp_path: Path) -> None:
    """Where no cgroup is mounted, the scheduler's CPUs and psutil's available memory are all there is."""
    assert Machine.here(tree(tmp_path, "0::/\n")) == UNBOUND


def test_without_proc(tmp_path: Path) -> None:
    """A system without /proc works."""
    assert Machine.here(tmp_path) == UNBOUND


def test_without_affinity_all_cpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that know no affinity tell the number of CPUs."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)

    assert Machine.here(tmp_path) == quota(12.0, "os.cpu_count")


def test_without_affinity_or_count_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot even count its CPUs has one, also where asking for the affinity is forbidden."""

    def forbidden(pid: int) -> set[int]:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", forbidden)
    monkeypatch.setattr(os, "cpu_count", lambda: None)

    assert Machine.here(tmp_path) == quota(1.0, "os.cpu_count")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"a.slice/b.slice/c.scope/cpu.max": "150000 100000\n"},
            quota(1.5, "cgroup quota /a.slice/b.slice/c.scope"),
            id="own quota",
        ),
        pytest.param(
            {
                "a.slice/cpu.max": "200000 100000\n",
                "a.slice/b.slice/cpu.max": "max 100000\n",
                "a.slice/b.slice/c.scope/cpu.max": "400000 100000\n",
            },
            quota(2.0, "cgroup quota /a.slice"),
            id="narrowest is an ancestor",
        ),
        pytest.param(
            {"a.slice/b.slice/cpu.max": "75000 50000\n"},
            quota(1.5, "cgroup quota /a.slice/b.slice"),
            id="middle",
        ),
        pytest.param({"cpu.max": "300000 100000\n"}, quota(3.0, "cgroup quota /"), id="top of a container"),
        pytest.param({"a.slice/x.scope/cpu.max": "100000 100000\n"}, UNBOUND, id="a sibling's is not ours"),
        pytest.param({"a.slice/cpu.max": "1600000 100000\n"}, UNBOUND, id="wider than the affinity"),
        pytest.param({"a.slice/cpu.max": "800000 100000\n"}, UNBOUND, id="equal to the affinity"),
        pytest.param({"a.slice/cpu.max": "max 100000\n"}, UNBOUND, id="no quota"),
    ],
)
def test_v2_quota(tmp_path: Path, files: Mapping[str, str], expected: Machine) -> None:
    """The smallest `cpu.max` among the process's cgroup and its ancestors counts."""
    assert v2(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {
                "a.slice/memory.max": f"{1024 * MIB}\n",
                "a.slice/memory.current": f"{600 * MIB}\n",
                "a.slice/memory.stat": f"file 9\nx_inactive_file 7\ninactive_file {100 * MIB}\n",
            },
            room(524 * MIB, "cgroup limit /a.slice"),
            id="max - current + inactive_file",
        ),
        pytest.param(
            {
                "a.slice/memory.max": f"{1024 * MIB}\n",
                "a.slice/memory.current": f"{900 * MIB}\n",
                "a.slice/b.slice/memory.max": f"{512 * MIB}\n",
                "a.slice/b.slice/memory.current": f"{100 * MIB}\n",
            },
            room(124 * MIB, "cgroup limit /a.slice"),
            id="the wider limit may have less room",
        ),
        pytest.param(
            {"a.slice/memory.max": f"{512 * MIB}\n", "a.slice/memory.current": f"{600 * MIB}\n"},
            room(0, "cgroup limit /a.slice"),
            id="never negative",
        ),
        pytest.param(
            {
                "a.slice/memory.max": "4096\n",
                "a.slice/memory.current": "100\n",
                "a.slice/memory.stat": "inactive_file 200\n",
            },
            room(4096, "cgroup limit /a.slice"),
            id="never more than the limit",
        ),
        pytest.param(
            {"a.slice/memory.max": f"{512 * MIB}\n"},
            room(512 * MIB, "cgroup limit /a.slice"),
            id="limit alone",
        ),
        pytest.param({"a.slice/memory.max": "max\n", "a.slice/memory.current": "5\n"}, UNBOUND, id="no limit"),
        pytest.param({"a.slice/memory.max": f"{2 * AVAILABLE}\n"}, UNBOUND, id="wider than the machine"),
    ],
)
def test_v2_memory(tmp_path: Path, files: Mapping[str, str], expected: Machine) -> None:
    """The smallest room among the ancestors counts: what is left of the limit, old page cache being free."""
    assert v2(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {
                "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            quota(2.5, "cgroup quota /a"),
            id="quota of an ancestor",
        ),
        pytest.param(
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            UNBOUND,
            id="no quota",
        ),
        pytest.param({"cpu,cpuacct/a/cpu.cfs_quota_us": "100000\n"}, UNBOUND, id="quota without a period"),
        pytest.param(
            {
                "memory/a/memory.limit_in_bytes": f"{1024 * MIB}\n",
                "memory/a/memory.usage_in_bytes": f"{600 * MIB}\n",
                "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
                "memory/memory.limit_in_bytes": UNLIMITED_V1,
            },
            room(524 * MIB, "cgroup limit /a"),
            id="limit of an ancestor, cache of its descendants",
        ),
        pytest.param(
            {"memory/a/memory.limit_in_bytes": UNLIMITED_V1, "memory/a/memory.usage_in_bytes": "5\n"},
            UNBOUND,
            id="no limit",
        ),
        pytest.param({"memory/elsewhere/memory.limit_in_bytes": "4096\n"}, UNBOUND, id="another hierarchy's path"),
    ],
)
def test_v1(tmp_path: Path, files: Mapping[str, str], expected: Machine) -> None:
    """In version 1 each controller has a hierarchy of its own, found by its mount's options."""
    assert v1(tmp_path, files) == expected


def test_hybrid(tmp_path: Path) -> None:
    """With both versions mounted, each controller is read where it lives."""
    cgroup = "4:memory:/m\n1:name=systemd:/s\n0::/u\n"
    mounts = (MEMORY_MOUNT, V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "))
    files = {
        "memory/m/memory.limit_in_bytes": "4096\n",
        "unified/u/cpu.max": "100000 100000\n",
        "unified/m/cpu.max": "1000 100000\n",
        "memory/u/memory.limit_in_bytes": "1\n",
    }

    expected = Machine(1.0, 4096, "cgroup quota /u", "cgroup limit /m")
    assert Machine.here(tree(tmp_path, cgroup, mounts, files)) == expected


@pytest.mark.parametrize(
    ("top", "path", "files", "expected"),
    [
        pytest.param(
            "/docker/abc",
            "/docker/abc",
            {"cpu.max": "200000 100000\n"},
            quota(2.0, "cgroup quota /docker/abc"),
            id="the container's own cgroup is what is mounted",
        ),
        pytest.param(
            "/docker/abc",
            "/docker/abc/init",
            {"cpu.max": "200000 100000\n", "init/cpu.max": "max 100000\n"},
            quota(2.0, "cgroup quota /docker/abc"),
            id="a cgroup below the container's",
        ),
        pytest.param(
            "/docker/abc",
            "/docker/abc/init",
            {"init/cpu.max": "100000 100000\n"},
            quota(1.0, "cgroup quota /docker/abc/init"),
            id="a quota below the container's",
        ),
        pytest.param(
            "/docker/abc", "/docker/abcdef", {"cpu.max": "100000 100000\n"}, UNBOUND,
            id="a longer name is no child",
        ),
        pytest.param(
            "/docker/abc", "/", {"cpu.max": "100000 100000\n"}, UNBOUND,
            id="somebody else's cgroup",
        ),
        pytest.param(
            "/", "/../other", {"cpu.max": "100000 100000\n", "../other/cpu.max": "1000 100000\n"}, UNBOUND,
            id="moved out of the namespace",
        ),
        pytest.param(
            "/../..", "/", {"cpu.max": "100000 100000\n"}, quota(1.0, "cgroup quota /../.."),
            id="mounted above the namespace",
        ),
        pytest.param(
            "/..", "/../b", {"b/cpu.max": "100000 100000\n"}, quota(1.0, "cgroup quota /../b"),
            id="mounted above the namespace, and in a cgroup beside it",
        ),
    ],
)  # fmt: skip
def test_mount_root(tmp_path: Path, top: str, path: str, files: Mapping[str, str], expected: Machine) -> None:
    """The process's path counts from the hierarchy's root, the files from the cgroup that is mounted."""
    mount = V2_MOUNT.replace(" / /sys", f" {top} /sys")

    assert Machine.here(tree(tmp_path, f"0::{path}\n", (mount,), files)) == expected


def test_deleted_cgroup_still_has_ancestors(tmp_path: Path) -> None:
    """The limits above a cgroup that is gone still hold."""
    machine = v2(tmp_path, {"a/cpu.max": "100000 100000\n"}, path="/a/gone (deleted)")

    assert machine == quota(1.0, "cgroup quota /a")


def test_colon_in_a_name(tmp_path: Path) -> None:
    """Only the first two colons of a line separate its fields."""
    machine = v2(tmp_path, {"a:/b/cpu.max": "100000 100000\n"}, path="/a:/b")

    assert machine == quota(1.0, "cgroup quota /a:/b")


def test_blank_in_a_mount_point(tmp_path: Path) -> None:
    """Blanks in mount points and roots, which the kernel writes as octal numbers, are understood."""
    mount = V2_MOUNT.replace(" / /sys/fs/cgroup ", r" /my\040box /sys/fs/cgroup/the\040groups ")
    root = tree(tmp_path, "0::/my box/a\n", (mount,), {"the groups/a/cpu.max": "100000 100000\n"})

    assert Machine.here(root) == quota(1.0, "cgroup quota /my box/a")


def test_bytes_that_are_no_text_in_a_name(tmp_path: Path) -> None:
    """A cgroup's name of arbitrary bytes is found, and told as text that can be written anywhere."""
    root = tree(tmp_path, "", (V2_MOUNT,))
    (root / "proc/self/cgroup").write_bytes(b"0::/a\xff\n")
    folder = os.fsencode(root / "sys/fs/cgroup") + b"/a\xff"
    os.makedirs(folder)
    Path(os.fsdecode(folder), "cpu.max").write_text("100000 100000\n")

    machine = Machine.here(root)

    assert machine == quota(1.0, r"cgroup quota /a\udcff")
    assert machine.cpus_from.encode()


def test_later_mount_hides_the_one_before(tmp_path: Path) -> None:
    """Of two mounts on one folder the later shows, so its root is the one that paths count from."""
    mounts = (V2_MOUNT.replace(" / /sys", " /a /sys"), V2_MOUNT)
    files = {"a/cpu.max": "300000 100000\n", "b/cpu.max": "100000 100000\n"}

    machine = Machine.here(tree(tmp_path, "0::/a/b\n", mounts, files))

    assert machine == quota(3.0, "cgroup quota /a")


def test_unreadable_files_limit_nothing(tmp_path: Path) -> None:
    """A file that cannot be read, here a folder in its place, limits nothing."""
    for name in ("cpu.max", "memory.max", "memory.limit_in_bytes"):
        (tmp_path / "sys/fs/cgroup/a.slice" / name).mkdir(parents=True)

    assert v2(tmp_path, {}) == UNBOUND


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "100000",
        "100000 0",
        "0 100000",
        "-1 100000",
        "1 2 3",
        "x y",
        "max",
        "1e5 100000",
        "9" * 5000,
        "9" * 400 + " 1",
    ],
)
def test_malformed_quota_limits_nothing(tmp_path: Path, text: str) -> None:
    """A `cpu.max` that is not what the kernel writes limits nothing."""
    assert v2(tmp_path, {"a.slice/cpu.max": text}) == UNBOUND


@pytest.mark.parametrize("text", ["", "\n", "-1", "x", "1 2", "1.5", "9" * 5000])
def test_malformed_limit_limits_nothing(tmp_path: Path, text: str) -> None:
    """A `memory.max` that is not what the kernel writes limits nothing."""
    assert v2(tmp_path, {"a.slice/memory.max": text}) == UNBOUND


@pytest.mark.parametrize("text", ["", "x", "0:", "0::", "::/a.slice", "0:/a.slice", "0::a.slice", "x::/a.slice"])
def test_malformed_membership_limits_nothing(tmp_path: Path, text: str) -> None:
    """A line of /proc/self/cgroup that is not what the kernel writes limits nothing."""
    root = tree(tmp_path, text, (V2_MOUNT,), {"cpu.max": "100000 100000", "a.slice/cpu.max": "100000 100000"})

    assert Machine.here(root) == UNBOUND


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "30 23 0:26 / /sys/fs/cgroup",
        "30 23 0:26 / /sys/fs/cgroup rw -",
        V2_MOUNT.replace("cgroup2", "tmpfs"),
        V2_MOUNT.replace("/cgroup ", "/\\000 "),
    ],
)
def test_malformed_mount_limits_nothing(tmp_path: Path, line: str) -> None:
    """A line of mountinfo that is not what the kernel writes, or no cgroup's, limits nothing."""
    root = tree(tmp_path, "0::/a\n", (line,), {"a/cpu.max": "100000 100000"})

    assert Machine.here(root) == UNBOUND


noise = st.text(max_size=40) | st.from_regex(r"[-\d /:.\\maxcgroup\n]{0,40}", fullmatch=True)
numbers = st.integers(-2, 2**70).map(str)


trees = st.fixed_dictionaries(
    {
        "cpu.max": noise | st.tuples(numbers, numbers).map(" ".join),
        "memory.max": noise | numbers,
        "memory.current": noise | numbers,
        "memory.stat": noise | numbers.map("inactive_file {}".format),
    }
)
memberships = noise | st.just("0::/a\n")
mountinfos = noise | st.just(V2_MOUNT) | noise.map(lambda text: f"30 23 0:26 /{text} rw - cgroup2 none rw")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(trees, memberships, mountinfos)
def test_whatever_the_files_say(tmp_path: Path, files: dict[str, str], cgroup: str, mounts: str) -> None:
    """No content of the files raises an error, or gives more than the machine has or less than nothing."""
    inside = {f"a/{name}": text for name, text in files.items()}

    machine = Machine.here(tree(tmp_path, cgroup, (mounts,), inside))

    assert 0 < machine.cpus <= UNBOUND.cpus
    assert 0 <= machine.memory <= UNBOUND.memory


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_real_machine() -> None:
    """The machine that runs this has something to give, and not more than it has."""
    machine = Machine.here()

    assert 0 < machine.cpus <= len(os.sched_getaffinity(0))
    assert 0 < machine.memory <= psutil.virtual_memory().total
    assert machine.cpus_from.startswith(("affinity", "cgroup quota /"))
    assert machine.memory_from.startswith(("psutil available", "cgroup limit /"))


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")
def test_real_machine_under_taskset() -> None:
    """A process that is bound to one CPU counts one, or less under a narrow quota."""
    code = "from chora_mp.machine import Machine; print(Machine.here().cpus)"
    allowed = str(min(os.sched_getaffinity(0)))
    python = [sys.executable, "-c", code]

    bound = subprocess.run(["taskset", "-c", allowed, *python], capture_output=True, text=True, check=True)

    assert float(bound.stdout) == min(1.0, Machine.here().cpus)
