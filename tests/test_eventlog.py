"""The event log: what its lines hold, and what befalls the file that they go to."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from chora_mp.errors import OutputError
from chora_mp.eventlog import EventLog, lines
from chora_mp.events import BatchCompleted, BatchStarted, ItemCompleted, Noticed
from chora_mp.records import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from chora_mp.events import Event

BOUND = 30.0
NOW = 1_700_000_000.25
STAMP = "2023-11-14T22:13:20.250Z"
DONE = ItemCompleted("b", "k", "k.txt", "rendered", 3, "abc", 0.0125, 1, "jinja2")
FAILURE = Failure("ValueError", "bad", "page.j2", 3, ("page.j2:3",))
FAILED = ItemCompleted("b", "k", "k.txt", "failed", 0, "", 1.5, 2, "ai", FAILURE, (("tokens", 7),))
UNCHANGED = ItemCompleted("b", "k", "k.txt", "unchanged", 3, "abc", 0.0, 0, "jinja2")


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The objects in lines, each of which has to end."""
    assert data == b"" or data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


def told(event: Event, trace_id: str | None = "t") -> list[dict[str, Any]]:
    """The objects of an event's lines."""
    return parsed(lines(event, NOW, trace_id))


def test_a_batch_begins_and_ends_with_a_line() -> None:
    """A batch's lines hold its fields, and when they were written."""
    head = {"timestamp": STAMP, "trace_id": None}
    started = {**head, "event_type": "chora.batch_started", "batch_id": "b", "total": None}
    assert [started] == told(BatchStarted("b", None), None)
    numbers = {"successful": 1, "failed": 2, "unchanged": 3, "not_reached": 4, "duration_s": 0.5, "stopped": "why"}
    completed = {**head, "event_type": "chora.batch_completed", "batch_id": "b", **numbers}
    assert [completed] == told(BatchCompleted("b", 1, 2, 3, 4, 0.5, "why"), None)


def test_a_rendered_item_has_two_lines() -> None:
    """One line is ours; the other has the keys that chora-compose's consumers know, and no others."""
    item, generated = told(DONE)
    assert {
        "timestamp": STAMP,
        "trace_id": "t",
        "event_type": "chora.item_completed",
        "batch_id": "b",
        "config_id": "k",
        "path": "k.txt",
        "status": "rendered",
        "size": 3,
        "digest": "abc",
        "duration_ms": 12,
        "attempts": 1,
        "error": None,
    } == item
    assert {
        "timestamp": STAMP,
        "trace_id": "t",
        "event_type": "chora.content_generated",
        "content_config_id": "k",
        "generator_type": "jinja2",
        "status": "success",
        "duration_ms": 12,
        "error_message": None,
    } == generated


def test_a_failed_item_says_why() -> None:
    """The error stands in both lines, what the item has cost in ours."""
    item, generated = told(FAILED)
    error = {"type": "ValueError", "message": "bad", "template": "page.j2", "line": 3, "chain": ["page.j2:3"]}
    assert (error, {"tokens": 7}) == (item["error"], item["usage"])
    assert ("error", "bad", "ai") == (generated["status"], generated["error_message"], generated["generator_type"])


def test_what_was_up_to_date_was_not_generated() -> None:
    """An unchanged item has one line; what is no matter of the log has none."""
    assert ["chora.item_completed"] == [line["event_type"] for line in told(UNCHANGED)]
    assert [] == told(Noticed("memory is running short"))


def test_lone_surrogates_are_spelled_out() -> None:
    """A key or message that UTF-8 cannot express is written escaped."""
    error = Failure("E", "m\udfff", "t", 1, ("\ud801",))
    broken = ItemCompleted("b", "k\ud800", "p\udc80", "failed", 0, "", 0.0, 1, "j", error, (("u\ud802", 1),))
    item, generated = told(broken)
    assert ("k\\ud800", "p\\udc80", {"u\\ud802": 1}) == (item["config_id"], item["path"], item["usage"])
    assert ("m\\udfff", ["\\ud801"]) == (item["error"]["message"], item["error"]["chain"])
    assert ("k\\ud800", "m\\udfff") == (generated["content_config_id"], generated["error_message"])


def test_the_log_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logs share a file and keep what was there; the trace is that of the environment."""
    monkeypatch.setenv("CHORA_TRACE_ID", "trace\udcff")
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"{}\n")
    first, second = EventLog(str(path), lambda: NOW), EventLog(str(path), lambda: NOW)
    first(BatchStarted("1", 1))
    second(BatchStarted("2", 1))
    first.tell_all([DONE, UNCHANGED])
    first.close()
    second.close()
    first(DONE)  # closed: ignored
    found = parsed(path.read_bytes())
    assert [None, "1", "2", "b", None, "b"] == [line.get("batch_id") for line in found]
    assert {"trace\\udcff"} == {line["trace_id"] for line in found[1:]}


def test_an_empty_trace_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable that is empty names no trace."""
    monkeypatch.setenv("CHORA_TRACE_ID", "")
    log = EventLog(str(tmp_path / "e"))
    log(BatchStarted("1", 1))
    log.close()
    assert [None] == [line["trace_id"] for line in parsed((tmp_path / "e").read_bytes())]


def test_many_events_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told at once is written at once, so that others that write there come before it or after it."""
    writes: list[int] = []
    real = os.write

    def write(file: int, data: Any) -> int:
        writes.append(len(data))
        return real(file, data)

    log = EventLog(str(tmp_path / "e"))
    monkeypatch.setattr(os, "write", write)
    log.tell_all([DONE] * 1000)
    log.tell_all([Noticed("nothing to write")])
    log.close()
    assert [(tmp_path / "e").stat().st_size] == writes
    assert 2000 == len(parsed((tmp_path / "e").read_bytes()))


def test_a_line_that_was_cut_off_is_ended(tmp_path: Path) -> None:
    """The half line that a full disk has left spoils no line but itself."""
    path = tmp_path / "e"
    path.write_bytes(b'{"half": ')
    log = EventLog(str(path))
    log(BatchStarted("1", 1))
    log.close()
    half, line = path.read_bytes().splitlines()
    assert (b'{"half": ', "1") == (half, orjson.loads(line)["batch_id"])


@pytest.mark.parametrize("name", ["missing/events.jsonl", "", "nul\0"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    """No folder is made, and the error says what cannot be written."""
    target = str(tmp_path / name)
    with pytest.raises(OutputError) as caught:
        EventLog(target)
    assert str(caught.value).startswith(f"{target}: cannot be written: ")
    assert not (tmp_path / "missing").exists()


def test_a_disk_that_is_full_is_an_error(tmp_path: Path) -> None:
    """Where no more can be written, the call says so."""
    log = EventLog(str(tmp_path / "e"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            log(DONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        log.close()
    assert errno.EFBIG == caught.value.errno


WRITER = """
from chora_mp.eventlog import EventLog
from chora_mp.events import BatchStarted
log = EventLog("-")
for number in range(20_000):
    log(BatchStarted(str(number), None))
log.close()
print("still there")
"""


def test_stdout_holds_lines() -> None:
    """`-` means stdout, which stays open for others."""
    out = subprocess.run([sys.executable, "-c", WRITER], capture_output=True, timeout=BOUND, check=True).stdout
    *events, last = out.splitlines()
    assert (b"still there", [str(number) for number in range(20_000)]) == (
        last,
        [orjson.loads(line)["batch_id"] for line in events],
    )


def test_a_reader_that_is_gone_is_no_error() -> None:
    """Who has seen enough may close the pipe."""
    code = WRITER.replace('print("still there")', "import sys; sys.stderr.write('done')")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert b"done" == writer.stderr.read()
        assert 0 == writer.wait(BOUND)


def test_stdout_that_is_closed_is_named() -> None:
    """Without a stdout there is nowhere to write to."""
    code = "import os, sys; os.close(1); sys.stdout = None\nfrom chora_mp.eventlog import EventLog\nEventLog('-')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=False)
    assert "OutputError: -: cannot be written: stdout is closed" in done.stderr


def test_a_pipe_that_does_not_block_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that somebody else has made non-blocking loses nothing."""
    code = WRITER.replace("log = ", "import os; os.set_blocking(1, False)\nlog = ").replace(
        'print("still there")', "os.set_blocking(1, True); print('still there')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=BOUND, check=True).stdout
    assert 20_001 == len(out.splitlines())
