"""Slots: what a worker writes there, the coordinator reads, even when the worker is dead."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.slots import Note, Slot, read_notes


@pytest.fixture
def path(tmp_path):
    """The file of the slots."""
    return str(tmp_path / "slots")


@pytest.fixture
def both(path):
    """One seat's slot, as the worker and as the coordinator have it."""
    slots = Slot(path, 2), Slot(path, 2)
    slots[0].start(77)
    yield slots
    for slot in slots:
        slot.close()


def test_a_new_slot(path):
    """A slot that nobody has written to names no worker."""
    slot = Slot(path, 0)
    assert Note(0, 0, 0, 0.0, b"") == slot.read()
    slot.start(0)
    assert Note(0, -1, None, 0.0, b"") == slot.read()
    slot.close()


def test_what_is_written_is_read(both):
    """Each note is seen at once on the other side, and changes only what it is about."""
    worker, coordinator = both
    seen = [coordinator.read()]
    worker.at(10, 12, 3.5)
    seen.append(coordinator.read())
    worker.entering(b"/out/a")
    seen.append(coordinator.read())
    worker.idle()
    seen.append(coordinator.read())
    worker.start(78)
    seen.append(coordinator.read())
    assert [
        Note(77, -1, None, 0.0, b""),
        Note(77, 10, 12, 3.5, b""),
        Note(77, 10, 12, 3.5, b"/out/a"),
        Note(77, -1, None, 0.0, b"/out/a"),
        Note(78, -1, None, 0.0, b""),
    ] == seen


HURRYING = """
import sys
from chora_mp.slots import Slot
slot = Slot(sys.argv[1], 4)
slot.start(7)
number = 0
while True:
    number += 1
    slot.at(number, number + 1, number + 2.0)
    if number % 3 == 0:
        slot.idle()
"""


def test_never_half_a_note(path):
    """What is read while the worker writes is one of the things that it wrote: no new record with an old time."""
    slot = Slot(path, 4)
    slot.start(7)
    writer = subprocess.Popen([sys.executable, "-c", HURRYING, path])
    try:
        seen = set()
        end = time.monotonic() + 60
        while len(seen) < 100_000 and time.monotonic() < end:
            note = slot.read()
            seen.add(note.span)
            what = (note.span, note.seq, note.since)
            assert what in ((-1, None, 0.0), (note.span, note.span + 1, note.span + 2.0))
        assert len(seen) == 100_000
    finally:
        writer.kill()
        writer.wait()
        slot.close()


@given(
    pid=st.integers(0, 2**63),
    span=st.integers(0, 2**63 - 1),
    seq=st.integers(0, 2**63 - 1),
    since=st.floats(allow_nan=False),
    folders=st.lists(st.binary(max_size=4096), min_size=1, max_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_note(both, pid, span, seq, since, folders):
    """Numbers and folders of any size that occurs come back as they were, long after short and short after long."""
    worker, coordinator = both
    worker.start(pid)
    worker.at(span, seq, since)
    for folder in folders:
        worker.entering(folder)
        assert Note(pid, span, seq, since, folder) == coordinator.read()


def test_seats_are_apart(path):
    """What one seat writes is not seen in another's slot, whichever was opened first."""
    slots = [Slot(path, number) for number in (3, 0, 1)]
    for number, slot in enumerate(slots):
        slot.start(number + 1)
        slot.entering(b"%d" % number * 4096)
        slot.at(number, number, 1.0)
    assert [Note(n + 1, n, n, 1.0, b"%d" % n * 4096) for n in range(3)] == [slot.read() for slot in slots]
    for slot in slots:
        slot.close()


def test_reopened(path):
    """Opening a slot again finds what was in it: nothing is wiped under a worker's feet."""
    slot = Slot(path, 1)
    slot.start(5)
    slot.close()
    slot = Slot(path, 1)
    assert 5 == slot.read().pid
    slot.close()


def test_nobody_else_may_read(path):
    """The file is for the person's own processes."""
    Slot(path, 0).close()
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)


def test_closed_slots_hold_nothing(path):
    """A slot costs one descriptor at most, which Python's mapping keeps, and none when it is closed."""
    before = len(os.listdir("/dev/fd"))
    slots = [Slot(path, number) for number in range(20)]
    assert before + 20 >= len(os.listdir("/dev/fd"))
    for slot in slots:
        slot.close()
    assert before == len(os.listdir("/dev/fd"))


DYING = """
import os, signal, sys
from chora_mp.slots import Slot
slot = Slot(sys.argv[1], 4)
slot.start(os.getpid())
slot.at(40, 42, 1.25)
slot.entering(b"/out")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_workers_note(path):
    """After SIGKILL the slot says what the worker was at."""
    slot = Slot(path, 4)
    process = subprocess.Popen([sys.executable, "-c", DYING, path])
    assert -signal.SIGKILL == process.wait(60)
    assert Note(process.pid, 40, 42, 1.25, b"/out") == slot.read()
    slot.close()


def test_the_notes_of_a_dead_run(path):
    """All notes in a file of slots are read by seat, though nobody has the slots open any more; a torn one is none."""
    for number in (0, 2):
        slot = Slot(path, number)
        slot.start(number + 70)
        slot.entering(b"/out/%d" % number)
        slot.close()
    nobody = Note(0, 0, 0, 0.0, b"")
    expected = [Note(70, -1, None, 0.0, b"/out/0"), nobody, Note(72, -1, None, 0.0, b"/out/2")]
    assert expected == read_notes(path)
    os.truncate(path, os.path.getsize(path) - 1)
    assert expected[:2] == read_notes(path)


@pytest.mark.parametrize("content", [b"", b"x"])
def test_no_notes(tmp_path, content):
    """A file that is not there, empty or no file of slots has no notes."""
    (tmp_path / "slots").write_bytes(content)
    assert [[], []] == [read_notes(str(tmp_path / name)) for name in ("slots", "absent")]


@pytest.mark.parametrize("bad", ["/nowhere/slots", "/"])
def test_no_place_for_slots(bad):
    """Where the file cannot be made the error is the system's own."""
    with pytest.raises(OSError, match=r"nowhere|/"):
        Slot(bad, 0)


def test_no_room_for_a_slot(tmp_path):
    """A page that the file system cannot back is an error when it is opened, not SIGBUS when it is used."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a small file system")
    try:
        slots = [Slot(str(tmp_path / "slots"), number) for number in (0, 1)]
        with pytest.raises(OSError, match="No space left on device"):
            Slot(str(tmp_path / "slots"), 2)
        for slot in slots:
            slot.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
