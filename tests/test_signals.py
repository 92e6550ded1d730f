"""Signals in the middle of a run, as a terminal sends them: what is in work is finished, the rest is the next run's."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from faults import Case, wait_for

if TYPE_CHECKING:
    from tests.conftest import Project

# Items that take a few milliseconds, so that a run of some hundred of them can be met in the middle.
SLOW = "import time\ndef slow(value):\n    time.sleep(0.01)\n    return ''\nFILTERS = {'fault': slow}\n"
HANG = (
    "import time\ndef hang(value):\n    time.sleep(1000 if value else 0.01)\n    return ''\nFILTERS = {'fault': hang}\n"
)
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("group", [True, False], ids=["group", "coordinator"])
def test_the_first_signal_ends_the_run_in_good_order(project: Project, number: signal.Signals, *, group: bool) -> None:
    """What is in work is finished and told, the exit code is 130, and the same command goes on with the rest."""
    case = Case(project, 400, plugin=SLOW)
    run = case.start("--summary", "summary.json", "-j", "2")
    run.wait_for_documents(20)
    run.signal(number, group=group)
    done = run.end()
    done.assert_tidy()
    total, written, failed, left = done.counts()
    assert (130, 400, 0) == (done.code, total, failed)
    assert written == len(case.documents())
    assert left > 0
    assert "stopping; what is in work is finished, within 10 s (once more to stop at once)" in done.err
    assert "run the same command again to go on" in done.err
    assert done.seconds < 8
    done.assert_finished_by_the_next()


def test_what_is_in_work_has_its_timeout(project: Project) -> None:
    """An item that hangs holds a run that was asked to stop no longer than its timeout; it is the next run's."""
    case = Case(project, 60, {30: "hang"}, "limits: {timeout: 1s}", HANG)
    run = case.start("--summary", "summary.json", "-j", "1")
    run.wait_for_documents(30)
    run.signal(signal.SIGINT)
    done = run.end()
    done.assert_tidy()
    assert 130 == done.code
    assert done.seconds < 8
    done.assert_finished_by_the_next({30: "Timeout"})


def test_the_second_signal_ends_the_run_at_once(project: Project) -> None:
    """Whatever is in work, and however long it might take."""
    case = Case(project, 60, {30: "hang", 31: "hang"}, plugin=HANG)
    run = case.start("-j", "2")
    run.wait_for_documents(30)
    run.signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.process.poll() is None
    started = time.monotonic()
    run.signal(signal.SIGINT)
    done = run.end()
    done.assert_tidy()
    assert (130, True) == (done.code, time.monotonic() - started < 5)
    assert done.err.rstrip().endswith("chora-mp: interrupted")


def test_who_keeps_pressing_changes_nothing(project: Project) -> None:
    """Ten signals in a row, of all kinds: the clearing up is not interrupted."""
    case = Case(project, 60, {30: "hang"}, plugin=HANG)
    run = case.start("-j", "2")
    run.wait_for_documents(30)
    for number in (*SIGNALS, *SIGNALS, *SIGNALS, signal.SIGINT):
        if run.process.poll() is None:
            run.signal(number)
        time.sleep(0.02)
    done = run.end()
    done.assert_tidy()
    assert 130 == done.code


def test_a_signal_while_the_source_is_read(project: Project) -> None:
    """Before anything is rendered: nothing is written, nothing stays."""
    case = Case(project, plugin=SLOW)
    project.write("rows.py", "import pathlib, time\ndef rows():\n    pathlib.Path('reading').touch()\n"
                             "    time.sleep(1000)\n    yield {}\n")  # fmt: skip
    case.project.job('key: "{{ name }}"\nplugins: [faults.py]', source="{python: 'rows.py:rows'}")
    run = case.start("-j", "2")
    run.wait_for((project.folder / "reading").exists, "the source")
    run.signal(signal.SIGTERM)
    done = run.end()
    done.assert_tidy()
    assert (130, False) == (done.code, project.out.exists())


def test_a_signal_that_is_ignored_stays_ignored(project: Project) -> None:
    """Under `nohup` a terminal that is closed ends nothing."""
    case = Case(project, 300, plugin=SLOW)
    run = case.start(
        "--summary", "summary.json", "-j", "2", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    run.wait_for_documents(20)
    run.signal(signal.SIGHUP)
    run.end().assert_only({}, code=0)


def test_nobody_reads_what_is_printed(project: Project) -> None:
    """`| head` that is gone before the summary comes: no word about it, and every document is there."""
    case = Case(project, 100, plugin=SLOW)
    reader, writer = os.pipe()
    run = case.start("--summary", "-", "-j", "2", stdout=writer)
    os.close(writer)
    run.wait_for_documents(5)
    os.close(reader)
    done = run.end()
    done.assert_tidy()
    # With `--summary -` people read stderr; what is there is the summary and nothing else.
    assert (0, 100) == (done.code, len(case.documents()))
    assert "100 documents in" in done.err
    assert "roken" not in done.err


def test_nobody_reads_what_goes_wrong(project: Project) -> None:
    """A stderr that is gone holds up nothing."""
    case = Case(project, 60, {3: "raise"})
    reader, writer = os.pipe()
    run = case.start("--summary", "-", "--progress", "plain", "-j", "2")
    run.end()
    process = run.process
    done = __import__("subprocess").run(
        process.args, cwd=project.folder, stdout=writer, stderr=writer, timeout=40, check=False, pass_fds=()
    )
    os.close(reader)
    os.close(writer)
    assert 1 == done.returncode
    wait_for(lambda: not list(case.temporary.iterdir()), "an empty temporary folder", 5)


def test_programs_that_a_filter_starts(project: Project) -> None:
    """They can be ended by the filter, as by anybody else."""
    plugin = """
import subprocess
def fault(value):
    if value:
        process = subprocess.Popen(["sleep", "1000"])
        process.terminate()
        assert process.wait() == -15
    return ""
FILTERS = {"fault": fault}
"""
    Case(project, 40, {7: "start"}, "limits: {timeout: 10s}", plugin).run().assert_only({}, code=0)
