"""Following a batch: real writers in other processes, lines by halves, files that are cut, replaced or yet to come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp.subscription import subscribe_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOUND = 30.0


def line(kind: str, batch_id: str | None = "b", **more: Any) -> bytes:
    """A line of an event log."""
    return json.dumps({"event_type": f"chora.{kind}", "batch_id": batch_id, **more}).encode() + b"\n"


def batch(batch_id: str = "b", *keys: str) -> bytes:
    """The lines of a whole batch."""
    items = [line("item_completed", batch_id, config_id=key) for key in keys]
    return b"".join([line("batch_started", batch_id), *items, line("batch_completed", batch_id)])


def names(events: Iterator[dict[str, Any]]) -> list[str]:
    """What is told, in short, to the end."""
    return [event.get("config_id") or event["event_type"].removeprefix("chora.batch_") for event in events]


def append(path: Path, data: bytes) -> None:
    """Append to a file."""
    with path.open("ab") as file:
        file.write(data)


class Follower(threading.Thread):
    """Follows a batch in a thread, which a test waits for."""

    def __init__(self, events: Iterator[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self._events = events
        self.found: list[str] = []
        self.start()

    def run(self) -> None:
        """Follow."""
        for event in self._events:
            self.found += names(iter([event]))

    def reached(self, *found: str) -> None:
        """Wait until these are told, and nothing else."""
        end = time.monotonic() + BOUND
        while list(found) != self.found and time.monotonic() < end:
            time.sleep(0.005)
        assert list(found) == self.found

    def ended(self) -> list[str]:
        """Wait until it ends; all that was told."""
        self.join(BOUND)
        assert not self.is_alive()
        return self.found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an event log may be."""
    return tmp_path / "events.jsonl"


WRITER = """
import sys, time
from chora_mp.eventlog import EventLog
from chora_mp.events import BatchCompleted, BatchStarted, ItemCompleted
path, name = sys.argv[1:]
log = EventLog(path)
log(BatchStarted(name, 2000))
for number in range(20):
    keys = [f"{name}{number * 100 + one}" for one in range(100)]
    log.tell_all([ItemCompleted(name, key, key, "rendered", 1, "d", 0.1, 1, "jinja2") for key in keys])
    time.sleep(0.005)
log(BatchCompleted(name, 2000, 0, 0, 0, 1.0))
"""


def test_two_runs_in_other_processes_are_followed(path: Path) -> None:
    """Each of two batches that are written into one file is told whole and in order, and nothing of the other."""
    followers = {name: Follower(subscribe_events(name, path, timeout=BOUND)) for name in ("x", "y")}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in followers]
    for name, follower in followers.items():
        expected = ["started", *(f"{name}{number}" for number in range(2000)), "completed"]
        assert expected == follower.ended()
    assert [0, 0] == [writer.wait(BOUND) for writer in writers]


def test_a_batch_that_is_over_is_told_from_its_beginning(path: Path) -> None:
    """Only lines of the batch are told, its end is the last; what is no object is passed over."""
    noise = b'[1]\nnonsense\n\n"b"\n\xff\n' + line("content_generated", None) + b'{"batch_id": ["b"]}\n'
    path.write_bytes(batch("a", "1") + line("batch_started") + noise + line("item_completed", config_id="2"))
    append(path, batch("c", "3") + line("batch_completed") + line("item_completed", config_id="late"))
    assert ["started", "2", "completed"] == names(subscribe_events("b", path, timeout=BOUND))


def test_half_lines_are_waited_for(path: Path) -> None:
    """However the writes fall, a line is told when it has ended, and never before."""
    data = batch("b", "ä" * 3)
    follower = Follower(subscribe_events("b", path, timeout=BOUND))
    half = len(line("batch_started"))
    append(path, data[: half - 1])
    time.sleep(0.1)
    assert [] == follower.found
    append(path, data[half - 1 : half + 20])
    follower.reached("started")
    for at in range(half + 20, len(data)):
        append(path, data[at : at + 1])
    assert ["started", "äää", "completed"] == follower.ended()


def test_long_lines_and_long_files_are_read_whole(path: Path) -> None:
    """Neither a line nor a file has to fit into what is read at a time."""
    keys = ["x" * 1_000_000, *(str(number) for number in range(20_000))]
    path.write_bytes(batch("b", *keys))
    assert ["started", *keys, "completed"] == names(subscribe_events("b", path, timeout=BOUND))


def test_a_file_that_is_truncated_is_read_from_its_beginning(path: Path) -> None:
    """What is written after the file was emptied is told."""
    path.write_bytes(line("batch_started") + line("item_completed", config_id="1") + b'{"half')
    follower = Follower(subscribe_events("b", path, timeout=BOUND))
    follower.reached("started", "1")
    os.truncate(path, 0)
    append(path, line("item_completed", config_id="2"))
    follower.reached("started", "1", "2")
    append(path, line("batch_completed"))
    assert ["started", "1", "2", "completed"] == follower.ended()


def test_a_file_that_is_replaced_is_read_to_its_end_first(path: Path) -> None:
    """After a rotation the rest of the old file is told, then the new one from its beginning."""
    path.write_bytes(line("batch_started"))
    follower = Follower(subscribe_events("b", path, timeout=BOUND))
    follower.reached("started")
    old = path.rename(path.with_suffix(".1"))
    append(old, line("item_completed", config_id="1"))
    path.write_bytes(line("item_completed", config_id="2") + line("batch_completed"))
    assert ["started", "1", "2", "completed"] == follower.ended()


def test_without_a_name_the_next_batch_is_followed(path: Path) -> None:
    """A batch that was over at the call is passed over, one that comes and ends before the first look is not."""
    path.write_bytes(batch("old", "1"))
    events = subscribe_events(None, path, timeout=BOUND)
    append(path, batch("new", "2") + batch("newer", "3"))
    assert ["started", "2", "completed"] == names(events)


def test_without_a_name_the_batch_under_way_is_followed(path: Path) -> None:
    """A batch that has no end yet is told from its beginning; of two the later, as the other may have died."""
    path.write_bytes(line("batch_started", "dead") + batch("old", "1") + line("batch_started", "b"))
    append(path, line("item_completed", "b", config_id="2"))
    events = subscribe_events(None, path, timeout=BOUND)
    append(path, line("item_completed", "b", config_id="3") + line("batch_completed", "b") + batch("new"))
    assert ["started", "2", "3", "completed"] == names(events)


def test_without_a_name_and_a_file_the_first_batch_is_followed(path: Path) -> None:
    """The file may come later, and hold a batch that is over already."""
    events = subscribe_events(None, path, timeout=BOUND)
    path.write_bytes(batch("b", "1"))
    assert ["started", "1", "completed"] == names(events)


def test_without_a_name_a_file_that_is_replaced_is_searched_anew(path: Path) -> None:
    """A file that is another one than at the call holds nothing old."""
    path.write_bytes(batch("old", "1") * 3)
    events = Follower(subscribe_events(None, path, timeout=BOUND))
    time.sleep(0.05)
    path.rename(path.with_suffix(".1"))
    path.write_bytes(batch("b", "2"))
    assert ["started", "2", "completed"] == events.ended()


@pytest.mark.parametrize("batch_id", ["b", None])
@pytest.mark.parametrize("content", [None, b"", batch("old"), b'{"half'])
def test_patience_ends(path: Path, batch_id: str | None, content: bytes | None) -> None:
    """Where nothing comes of a batch, the wait is bounded."""
    if content is not None:
        path.write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"events\.jsonl: no event of the batch for 0\.2 s"):
        next(iter(subscribe_events(batch_id, path, timeout=0.2)))
    assert 0.2 <= time.monotonic() - begun < BOUND


def test_a_slow_consumer_uses_up_nobodys_patience(path: Path) -> None:
    """Time counts only while there is nothing to tell."""
    path.write_bytes(line("batch_started"))
    events = subscribe_events("b", path, timeout=0.3)
    next(events)
    time.sleep(0.4)
    threading.Timer(0.1, append, (path, line("batch_completed"))).start()
    assert ["completed"] == names(events)


def test_the_file_is_closed_with_the_generator(path: Path) -> None:
    """Nothing is open before the first look, after the last event, or once the generator is closed."""
    path.write_bytes(batch("b", "1"))

    def open_files() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{one}") == str(path) for one in os.listdir("/proc/self/fd"))

    events = subscribe_events("b", path, timeout=BOUND)
    assert 0 == open_files()
    next(events)
    assert 1 == open_files()
    events.close()
    assert 0 == open_files()
    assert 3 == len(names(subscribe_events("b", path, timeout=BOUND)))
    assert 0 == open_files()


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    """A folder cannot be followed."""
    with pytest.raises(IsADirectoryError):
        next(subscribe_events("b", tmp_path, timeout=BOUND))
