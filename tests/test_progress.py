"""What people see: plain progress on a clock of the test's own, the summary, and the bar on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp import progress
from chora_mp.events import Noticed, ReadingStarted, RenderingEnded, RenderingStarted, SpanCompleted
from chora_mp.progress import PLAIN_SECONDS, PlainProgress, failures_by_cause, summary
from chora_mp.records import BatchResult, Failure, ItemResult, Place
from chora_mp.sizing import Sizing, Term

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Project

BOUND = 30.0
"""Seconds that a condition may take to come true, however busy the machine is."""

SIZING = Sizing(2, "cpus", (Term("cpus", 2.0, "2 cpus (affinity) × 1"), Term("rate", None, "no limit set")))


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


def started(clock: Clock, total: int | None = 1000) -> tuple[PlainProgress, list[str]]:
    """Plain progress of a run that has just begun to render, and the lines that it prints."""
    lines: list[str] = []
    plain = PlainProgress(lines.append, clock)
    plain(ReadingStarted("pages", "data.jsonl"))
    plain(RenderingStarted("pages", total, SIZING))
    return plain, lines


def result(**changes: Any) -> BatchResult:
    """The result of a run of 1,200 documents, with changes."""
    usual = BatchResult("pages", "id", 1200, 1200, 0, 0, 0, 0, 2.5, 480.0, 1_340_000, 2, SIZING.as_dict())
    return replace(usual, **changes)


def failed(key: str, error: Failure | None, line: int | None = None) -> ItemResult:
    """A failed item."""
    place = Place("data.jsonl", line) if line else None
    return ItemResult(key, f"{key}.txt", 0, "failed", error=error, source=place)


# ---- plain progress ----------------------------------------------------------------------------------------


def test_no_lines_for_a_quick_run(clock: Clock) -> None:
    """A run that is over sooner than the first line is due prints none."""
    plain, lines = started(clock)
    for done in (100, 500, 1000):
        clock.now += PLAIN_SECONDS / 4
        plain(SpanCompleted(done, 0, 1000, 2))
    plain(RenderingEnded(result()))
    assert [] == lines


def test_a_line_every_few_seconds(clock: Clock) -> None:
    """A line is printed when enough time has gone by since the last, and not for every span."""
    plain, lines = started(clock)
    for done in range(10, 210, 10):
        clock.now += PLAIN_SECONDS / 5
        plain(SpanCompleted(done, 0, 1000, 2))
    expected = [
        "pages: 50 of 1,000, 10/s, 1 min 35 s left",
        "pages: 100 of 1,000, 10/s, 1 min 30 s left",
        "pages: 150 of 1,000, 10/s, 1 min 25 s left",
        "pages: 200 of 1,000, 10/s, 1 min 20 s left",
    ]
    assert expected == lines


def test_reading_does_not_count(clock: Clock) -> None:
    """Rate and first line count from where rendering began, not from where reading did."""
    lines: list[str] = []
    plain = PlainProgress(lines.append, clock)
    plain(ReadingStarted("pages", "data.jsonl"))
    clock.now += 100 * PLAIN_SECONDS
    plain(RenderingStarted("pages", 100, SIZING))
    clock.now += PLAIN_SECONDS / 2
    plain(SpanCompleted(10, 0, 100, 1))
    assert [] == lines
    clock.now += PLAIN_SECONDS / 2
    plain(SpanCompleted(50, 0, 100, 1))
    assert ["pages: 50 of 100, 10/s, 5.00 s left"] == lines


def test_what_is_up_to_date_is_no_speed(clock: Clock) -> None:
    """Items that were up to date before rendering began are done, but nobody has rendered them at that rate."""
    plain, lines = started(clock)
    plain(SpanCompleted(900, 0, 1000, 0))
    clock.now += PLAIN_SECONDS
    plain(SpanCompleted(950, 0, 1000, 1))
    assert ["pages: 950 of 1,000, 10/s, 5.00 s left"] == lines


def test_what_is_noticed_is_no_progress(clock: Clock) -> None:
    """A notice, which the command prints itself, is no line of progress."""
    plain, lines = started(clock)
    clock.now += PLAIN_SECONDS
    plain(Noticed("the ledger was damaged"))
    assert [] == lines


def test_failures_in_a_line(clock: Clock) -> None:
    """A line tells of failures as soon as there are some."""
    plain, lines = started(clock)
    clock.now += PLAIN_SECONDS
    plain(SpanCompleted(500, 1234, 1000, 2))
    assert ["pages: 500 of 1,000, 100/s, 5.00 s left, 1,234 failed"] == lines


def test_line_without_a_total(clock: Clock) -> None:
    """Where nobody knows how many there will be, a line promises no end."""
    plain, lines = started(clock, None)
    clock.now += PLAIN_SECONDS
    plain(SpanCompleted(5000, 0, None, 2))
    assert ["pages: 5,000, 1,000/s"] == lines


def test_line_before_the_first_item(clock: Clock) -> None:
    """A span of which nothing is done yet is no division by nought."""
    plain, lines = started(clock)
    clock.now += PLAIN_SECONDS
    plain(SpanCompleted(0, 0, 1000, 1))
    assert 1 == len(lines)
    assert "pages: 0 of 1,000, 0/s" == lines[0]


# ---- the summary -------------------------------------------------------------------------------------------


def test_summary_of_a_good_run() -> None:
    """How much, how fast, where to, on how many workers and why no more."""
    expected = [
        "pages: 1,200 documents in 2.50 s (480/s), 1.3 MB written to build/pages",
        "2 workers (at most 2 by cpus: 2 cpus (affinity) × 1)",
    ]
    assert expected == [*summary(result(), "build/pages")]


def test_summary_of_workers_as_asked_for() -> None:
    """A number of workers that the person gave needs no other reason."""
    sizing = Sizing(4, "workers", SIZING.terms).as_dict()
    assert "1 worker (at most 4, as asked for)" == [*summary(result(workers=1, sizing=sizing), "out")][1]


def test_summary_of_nothing() -> None:
    """No records are worth a note, and how many workers might have rendered them is not."""
    expected = [
        "pages: 0 documents in 2.50 s (0/s), 0 B written to out",
        "there was no record to render: the source holds none, or none that was asked for",
    ]
    assert expected == [*summary(result(total=0, successful=0, bytes_written=0, items_per_s=0.0), "out")]


def test_summary_of_a_run_with_nothing_to_do() -> None:
    """Where all is up to date that is the whole story."""
    nothing = {"successful": 0, "bytes_written": 0, "items_per_s": 0.0, "workers": 0}
    assert ["pages: nothing to do in 2.50 s, 1,200 documents are up to date in out"] == [
        *summary(result(unchanged=1200, **nothing), "out")
    ]
    assert ["pages: nothing to do in 2.50 s, 1 document is up to date in out"] == [
        *summary(result(total=1, unchanged=1, **nothing), "out")
    ]


def test_summary_of_what_is_up_to_date() -> None:
    """Beside documents that were rendered those are told that needed no rendering."""
    lines = [*summary(result(successful=200, unchanged=1000), "out")]
    assert (3, "1,000 documents are up to date") == (len(lines), lines[2])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pruned": 1}, ["1 document removed, whose record is gone"]),
        (
            {"orphaned": 1, "orphans": ("a.md",)},
            ["1 document whose record is gone: a.md; --prune removes what was not edited"],
        ),
        (
            {"orphaned": 1200, "orphans": ("a", "b", "c", "d")},
            ["1,200 documents whose record is gone: a, b, c and 1,197 more; --prune removes what was not edited"],
        ),
        (
            {"pruned": 2, "orphaned": 1, "orphans": ("a.md",), "asked_to_prune": True},
            [
                "2 documents removed, whose record is gone",
                "1 document whose record is gone: a.md; edited since, or not to be removed, and kept",
            ],
        ),
    ],
)
def test_summary_of_orphans(changes: dict[str, Any], expected: list[str]) -> None:
    """Documents whose record is gone are told, how to be rid of them, and which of them were removed."""
    assert expected == [*summary(result(**changes), "out")][2:]


def test_summary_of_a_run_that_was_stopped() -> None:
    """What was not reached is told, in the singular too."""
    assert "700 items not reached" == [*summary(result(successful=500, not_reached=700), "out")][2]
    assert "1 item not reached" == [*summary(result(successful=1199, not_reached=1), "out")][2]


def test_summary_of_failures() -> None:
    """Failures come last, by cause."""
    item = failed("a", Failure("ValueError", "no"), 3)
    lines = [*summary(result(successful=1199, failed=1, failures=(item,)), "out")]
    assert ["1 item failed:", "  1 × ValueError: no", "      a (data.jsonl:3)"] == lines[2:]


def test_failures_by_cause() -> None:
    """Alike failures make one row, the most frequent first, with at most three keys; place, type and message count."""
    name = Failure("UndefinedError", "'name' is undefined", "page.md.j2", 12, ("base.j2:3", "page.md.j2:12"))
    elsewhere = replace(name, line=13)
    whole = Failure("TemplateNotFound", "no template 'x'", "page.md.j2")
    items = [
        failed("w", whole),
        *(failed(f"n{number}", name, number + 1) for number in range(4567)),
        failed("e", elsewhere, 7),
        failed("f", elsewhere),
    ]
    expected = [
        "4,570 items failed:",
        "  4,567 × page.md.j2:12: UndefinedError: 'name' is undefined",
        "      n0 (data.jsonl:1), n1 (data.jsonl:2), n2 (data.jsonl:3) and 4,564 more",
        "  2 × page.md.j2:13: UndefinedError: 'name' is undefined",
        "      e (data.jsonl:7), f",
        "  1 × page.md.j2: TemplateNotFound: no template 'x'",
        "      w",
    ]
    assert expected == [*failures_by_cause(items)]


def test_a_path_makes_no_cause() -> None:
    """What differs in nothing but the item's own path is one cause."""
    items = [failed(key, Failure("OSError", f"[Errno 28] No space left on device: '{key}.txt'")) for key in "ab"]
    assert ["2 items failed:", "  2 × OSError: [Errno 28] No space left on device: …", "      a, b"] == [
        *failures_by_cause(items)
    ]


def test_many_causes() -> None:
    """More causes than fit a screen are counted, and it is said where they are all listed."""
    items = [failed(f"n{number}", Failure("ValueError", f"no {number}")) for number in range(1022)]
    lines = [*failures_by_cause(items)]
    assert (42, "1,022 items failed:", "  1 × ValueError: no 0") == (len(lines), *lines[:2])
    assert "  and 1,002 more causes; --summary FILE lists every failure" == lines[-1]
    assert "  and 1 more cause; --summary FILE lists every failure" == [*failures_by_cause(items[:21])][-1]
    assert 41 == len([*failures_by_cause(items[:20])])


def test_the_chain_makes_no_cause() -> None:
    """One broken include is one cause, whichever way it was reached."""
    error = Failure("ValueError", "no", "x.j2", 2, ("a.j2:1", "x.j2:2"))
    items = [failed("a", error), failed("b", replace(error, chain=("b.j2:9", "x.j2:2")))]
    assert ["2 items failed:", "  2 × x.j2:2: ValueError: no", "      a, b"] == [*failures_by_cause(items)]


def test_three_keys_need_no_more() -> None:
    """Where all keys are shown, nobody is told of more."""
    items = [failed(key, Failure("ValueError", "no")) for key in "abc"]
    assert "      a, b, c" == [*failures_by_cause(items)][2]


def test_item_named_by_its_line() -> None:
    """An item that has no key is called by file and line, and that is said once."""
    items = [failed("data.jsonl:7", Failure("JSONDecodeError", "not valid JSON"), 7)]
    assert "      data.jsonl:7" == [*failures_by_cause(items)][2]


# ---- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.00 s"),
        (0.4249, "0.42 s"),
        (9.99, "9.99 s"),
        (9.996, "10.0 s"),
        (10, "10.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (60, "1 min 0 s"),
        (200.4, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    """Durations for people, rounded into the next unit where they come that near."""
    assert expected == progress.duration(seconds)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1340, "1.3 kB"),
        (999_940, "999.9 kB"),
        (999_960, "1.0 MB"),
        (91_240_000, "91.2 MB"),
        (5_000_000_000, "5.0 GB"),
        (7_000_000_000_000, "7.0 TB"),
        (1_234_000_000_000_000, "1234.0 TB"),
    ],
)
def test_size(number: int, expected: str) -> None:
    """Bytes for people, in powers of ten."""
    assert expected == progress.size(number)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 items"), (1, "1 item"), (2, "2 items"), (12345, "12,345 items")]
)
def test_count(number: int, expected: str) -> None:
    """One item, several items."""
    assert expected == progress.count(number, "item")


# ---- the command -------------------------------------------------------------------------------------------

# From the hundredth item on they wait for the file `go`: the bar can be looked at for as long as that takes.
GATE = """\
import os, time

def gate(name):
    end = time.monotonic() + 60
    while int(name) >= 100 and not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
        assert time.monotonic() < end
        time.sleep(0.002)
    return name

FILTERS = {"gate": gate}
"""


def gated(project: Project) -> Project:
    """The project with a job of 200 items that halts after the first hundred."""
    project.records(*({"name": f"{number:03}"} for number in range(200)))
    project.job("plugins: [gate.py]", template="{{ name | gate }}")
    project.write("gate.py", GATE)
    return project


class Terminal:
    """A command whose stderr is a terminal, 100 columns wide, and what it has drawn so far."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._terminal, end = pty.openpty()
        clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chora_mp", *arguments],
            cwd=folder,
            env={**clean, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=end,
            text=True,
        )
        os.close(end)
        self.drawn = ""

    def _read(self) -> bool:
        """Take what has been drawn meanwhile; whether there may be more."""
        try:
            data = os.read(self._terminal, 65536) if select.select([self._terminal], [], [], 0.05)[0] else None
        except OSError:  # Linux's way to say that nobody has the other end
            return False
        self.drawn += (data or b"").decode(errors="replace")
        return data != b""

    def await_drawn(self, pattern: str) -> None:
        """Wait until something is drawn that matches."""
        end = time.monotonic() + BOUND
        while not re.search(pattern, self.drawn):
            assert time.monotonic() < end, f"waited in vain for {pattern}: {self.drawn!r}"
            self._read()

    def await_end(self) -> tuple[int, str]:
        """Wait for the end; exit code and stdout."""
        end = time.monotonic() + BOUND
        while self._read():
            assert time.monotonic() < end
        stdout, _ = self.process.communicate(timeout=BOUND)
        return self.process.returncode, stdout

    def close(self) -> None:
        """Let go of the terminal, and of a command that a failed test has left."""
        self.process.kill()
        self.process.communicate()
        os.close(self._terminal)


@pytest.fixture
def on_terminal(project: Project) -> Any:
    """Runs commands in the project's folder with a terminal for stderr."""
    terminals: list[Terminal] = []

    def starts(*arguments: str, **environment: str) -> Terminal:
        terminals.append(Terminal(project.folder, *arguments, **environment))
        return terminals[-1]

    yield starts
    for terminal in terminals:
        terminal.close()


def screen(drawn: str) -> list[str]:
    """The lines that are left on the screen: carriage return, line up and erase carried out, colours dropped."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", drawn):
        if piece == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif match := re.fullmatch(r"\x1b\[(\d*)A", piece):
            row = max(0, row - int(match[1] or 1))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] not in "\x1b\r":
            lines[row] += piece
    return [line for line in lines if line.strip()]


COLOUR = r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[25];[\d;]+)m"


def test_bar_on_a_terminal(project: Project, on_terminal: Callable[..., Terminal]) -> None:
    """On a terminal a bar in colour counts the items; when all is done it is gone, and stdout knows nothing of it."""
    gated(project)
    terminal = on_terminal("render", "job.yaml")
    terminal.await_drawn(r"\b[1-9]\d*/200\b")
    assert re.search(COLOUR, terminal.drawn)
    project.write("go", "")
    code, stdout = terminal.await_end()
    assert (0, []) == (code, screen(terminal.drawn))
    assert terminal.drawn.rstrip().endswith("\x1b[2K")
    assert stdout.startswith("job: 200 documents in ")
    assert "\x1b" not in stdout


def test_bar_without_colour(project: Project, on_terminal: Callable[..., Terminal]) -> None:
    """With NO_COLOR there is a bar, but no colour in it."""
    gated(project)
    terminal = on_terminal("render", "job.yaml", NO_COLOR="1")
    terminal.await_drawn(r"\b[1-9]\d*/200\b")
    project.write("go", "")
    assert 0 == terminal.await_end()[0]
    assert None is re.search(COLOUR, terminal.drawn)


@pytest.mark.parametrize("arguments", [["-q"], ["--progress", "none"]])
def test_no_bar_where_none_is_wanted(
    project: Project, on_terminal: Callable[..., Terminal], arguments: list[str]
) -> None:
    """Quiet, or asked not to, the command leaves the terminal alone."""
    gated(project)
    project.write("go", "")
    terminal = on_terminal("render", "job.yaml", *arguments)
    assert 0 == terminal.await_end()[0]
    assert "" == terminal.drawn


def test_bar_goes_where_a_run_fails(project: Project, on_terminal: Callable[..., Terminal]) -> None:
    """An error takes the bar off the screen and the cursor is shown again."""
    project.job(source="{python: 'rows.py:records'}")
    project.write("rows.py", "def records():\n    raise ValueError('no')\n")
    terminal = on_terminal("render", "job.yaml")
    assert 2 == terminal.await_end()[0]
    assert ["chora-mp: rows.py:2: records: raised ValueError: no; correct it there"] == screen(terminal.drawn)
    assert terminal.drawn.rindex("\x1b[?25h") > terminal.drawn.rindex("\x1b[?25l")


@pytest.mark.parametrize("kind", ["auto", "plain"])
def test_no_progress_of_a_quick_job(project: Project, kind: str) -> None:
    """Without a terminal there is no bar, and a quick job is over before the first plain line is due."""
    project.records(*({"name": f"n{number}"} for number in range(50)))
    project.job()
    done = project.run("render", "job.yaml", "--progress", kind)
    assert (0, "") == (done.returncode, done.stderr)


def test_plain_progress_of_the_command(project: Project) -> None:
    """With `--progress plain` a job that takes long prints lines on stderr, though that is no terminal."""
    project.records(*({"name": f"n{number}"} for number in range(50)))
    project.job()
    script = "from chora_mp import cli, progress\n\nprogress.PLAIN_SECONDS = 0\ncli.main()\n"  # each span is late now
    done = subprocess.run(
        [sys.executable, "-c", script, "render", "job.yaml", "--progress", "plain"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert 0 == done.returncode
    assert "job: 50 of 50, " in done.stderr.splitlines()[-1]
    assert done.stdout.startswith("job: 50 documents in ")


def test_bar_where_stderr_is_no_terminal(project: Project) -> None:
    """A bar that is asked for where it cannot be drawn does not fill the log with escape sequences."""
    project.records(*({"name": f"n{number}"} for number in range(50)))
    project.job()
    done = project.run("render", "job.yaml", "--progress", "bar")
    assert (0, False) == (done.returncode, "\x1b" in done.stderr)
