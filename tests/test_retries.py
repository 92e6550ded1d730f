"""Failures that may pass are tried again, in a while and on real workers; too many failures end a run early."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest
from faults import Case, rows, text

from chora_mp import Job, batch_generate, batch_generate_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Project

# An item fails until it has been tried so often; each try leaves its time in a file of the item's own.
FLAKY = """
import os, time

class FlakyError(ValueError): pass

def fault(value, name=None):
    if not value: return ""
    kind, _, times = value.partition(" ")
    os.makedirs("tries", exist_ok=True)
    path = f"tries/{name}"
    with open(path, "a") as file: file.write(f"{time.monotonic()}\\n")
    with open(path) as file: tried = len(file.readlines())
    if tried <= int(times):
        match kind:
            case "refused": raise ConnectionRefusedError(111, "Connection refused")
            case "flaky": raise FlakyError("not yet")
            case "full": raise OSError(28, "No space left on device")
            case "hang": time.sleep(1000)
            case "die": os._exit(9)
    return ""

FILTERS = {"fault": fault}
"""
TEMPLATE = "{{ name }} is {% for n in range(20) %}{{ n * number }},{% endfor %}{{ fault|fault(name) }}"
QUICK = "backoff: {min: 200ms, max: 800ms}"


def flaky(project: Project, faults: dict[int, str], more: str, count: int = 60) -> Case:
    """A job some of whose items fail at first."""
    return Case(project, count, faults, more, FLAKY, TEMPLATE)


def times(folder: Path, number: int) -> list[float]:
    """When the item of that number was tried."""
    return [float(line) for line in (folder / "tries" / f"n{number}").read_text().split()]


def test_what_passes_is_rendered_in_the_end(project: Project) -> None:
    """Refused connections are tried again by themselves, named exceptions because they are; others fail at once."""
    faults = {3: "refused 1", 4: "refused 2", 20: "flaky 1", 40: "refused 3", 50: "full 1"}
    case = flaky(project, faults, f"errors: {{retries: 2, retry_on: [ValueError], {QUICK}}}")
    done = case.run()
    done.assert_only({40: "ConnectionRefusedError", 50: "OSError"})
    assert {40: 3, 50: 1} == {seq: failure["attempts"] for seq, failure in done.failures.items()}
    assert [2, 3, 2, 3, 1] == [len(times(project.folder, number)) for number in faults]
    assert ["6 failures were tried again"] == done.summary["notes"]
    assert {"n3": 2, "n4": 3, "n20": 2, "n40": 3, "n50": 1} == {
        key: attempts for key, attempts in rows(project, "key, attempts") if key in {f"n{n}" for n in faults}
    }
    assert {1} == {attempts for key, attempts in rows(project, "key, attempts") if int(key[1:]) not in faults}


def test_pauses_grow(project: Project) -> None:
    """Between the tries lie at least the pauses that were asked for, and hardly more than the longest."""
    case = flaky(project, {7: "refused 3"}, "errors: {retries: 3, backoff: {min: 200ms, max: 500ms}}", 20)
    case.run().assert_only({}, code=0)
    tried = times(project.folder, 7)
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert 3 == len(pauses)
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.25
    assert pauses[2] >= 0.25


def test_who_waits_keeps_nobody_from_work(project: Project) -> None:
    """All other items are rendered while one waits, on one worker too."""
    case = flaky(project, {0: "refused 1"}, "errors: {retries: 1, backoff: {min: 2s, max: 2s}}")
    run = case.start("-j", "1")
    run.wait_for_documents(59)
    assert 1 == len(times(project.folder, 0))
    run.end()
    assert 2 == len(times(project.folder, 0))
    assert text(0) == case.documents()["n0.txt"]


def test_nothing_is_tried_again_unasked(project: Project) -> None:
    """Without retries each failure is final."""
    case = flaky(project, {3: "refused 1"}, "errors: {backoff: {min: 1s, max: 1s}, retries: 0}")
    case.run().assert_only({3: "ConnectionRefusedError"})
    assert 1 == len(times(project.folder, 3))


def test_the_option_asks_for_retries(project: Project) -> None:
    """`--retries N` wins over the job, either way."""
    case = flaky(project, {3: "refused 2"}, f"errors: {{retries: 1, {QUICK}}}")
    case.run("--retries", "0").assert_only({3: "ConnectionRefusedError"})
    case.run("--retries", "3").assert_only({}, code=0)
    assert 3 == len(times(project.folder, 3))


@pytest.mark.parametrize(("names", "tries"), [("[ValueError]", 1), ("[Timeout]", 2)])
def test_timeouts_are_tried_again_only_if_asked(project: Project, names: str, tries: int) -> None:
    """An item that hung once is rendered at the second try, if `Timeout` is among the names."""
    case = flaky(project, {3: "hang 1"}, f"limits: {{timeout: 400ms}}\nerrors: {{retry_on: {names}, {QUICK}}}")
    case.run().assert_only({} if tries == 2 else {3: "Timeout"}, code=2 - tries)
    assert tries == len(times(project.folder, 3))


def test_an_item_that_always_hangs_fails_in_the_end(project: Project) -> None:
    """As often as it was asked for, and counted so."""
    case = flaky(project, {3: "hang 9"}, f"limits: {{timeout: 300ms}}\nerrors: {{retry_on: Timeout, {QUICK}}}")
    done = case.run()
    done.assert_only({3: "Timeout"})
    assert (3, 3) == (done.failures[3]["attempts"], len(times(project.folder, 3)))


def test_deaths_and_failures_are_counted_apart(project: Project) -> None:
    """An item that kills its worker once and then fails twice has been tried four times when it is done."""
    plugin = FLAKY.replace('case "die": os._exit(9)', 'case "mixed":\n                if tried == 1: os._exit(9)\n'
                                                      '                raise FlakyError("later")')  # fmt: skip
    case = Case(project, 20, {3: "mixed 3"}, f"errors: {{retry_on: FlakyError, {QUICK}}}", plugin, TEMPLATE)
    case.run().assert_only({}, code=0)
    assert [("n3", 4)] == [row for row in rows(project, "key, attempts") if row[1] > 1]


def test_many_that_fail_alike_wait_together(project: Project) -> None:
    """Every item fails twice: nothing is lost, and each has one state."""
    case = flaky(project, dict.fromkeys(range(300), "refused 2"), f"errors: {{retries: 2, {QUICK}}}", 300)
    done = case.run()
    done.assert_only({}, code=0)
    assert {3} == {len(times(project.folder, number)) for number in range(300)}


def test_a_run_that_stops_tells_how_waiting_items_failed(project: Project) -> None:
    """Items that would be tried again later are failures of a run that is stopped before."""
    faults = {3: "refused 1", 40: "full 1"}
    case = flaky(project, faults, "errors: {policy: fail-fast, retries: 1, backoff: {min: 30s, max: 30s}}")
    started = time.monotonic()
    done = case.run("-j", "1")
    assert time.monotonic() - started < 20
    done.assert_tidy()
    assert {3: "ConnectionRefusedError", 40: "OSError"} == {seq: type_ for seq, (type_, _) in done.errors.items()}


def test_passed_records_are_tried_again(tmp_path: Path) -> None:
    """Where records travel inside the spans, too; the stream tells of each item once."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.j2").write_text("{{ n|once }}")
    (tmp_path / "once.py").write_text(
        "import os\n"
        "def once(n):\n"
        f"    path = {str(tmp_path)!r} + f'/{{n}}'\n"
        "    if n % 3 == 0 and not os.path.exists(path):\n"
        "        os.mkdir(path)\n"
        "        raise TimeoutError('later')\n"
        "    return n\n"
        "FILTERS = {'once': once}\n"
    )
    data = {"template": "page.j2", "plugins": ["once.py"], "errors": {"backoff": {"min": 0.1, "max": 0.2}}}
    job = Job.from_mapping(data, tmp_path)
    found = list(batch_generate_stream(job, ({"n": n} for n in range(50)), keep_text=True))
    assert [str(n) for n in range(50)] == [item.text for item in sorted(found, key=lambda item: item.seq)]
    assert {2 if n % 3 == 0 else 1 for n in range(2)} == {item.attempts for item in found}
    assert all(item.attempts == (2 if item.seq % 3 == 0 else 1) for item in found)


# -- too many failures


@pytest.mark.parametrize(("most", "failed"), [("3", 4), ("5%", 11)])
def test_too_many_failures_end_the_run(project: Project, most: str, failed: int) -> None:
    """One more than is allowed and what was in work; the summary says why; the rest is done by the next run."""
    faults = dict.fromkeys(range(0, 200, 2), "raise")
    case = Case(project, 200, faults, f"errors: {{max_failures: {most}}}")
    done = case.run("-j", "1")
    done.assert_tidy()
    assert 1 == done.code
    total, written, count, left = done.counts()
    assert (200, 200) == (total, written + count + left)
    assert failed <= count < 100
    assert left > 0
    assert done.summary["stopped"].startswith(f"more items failed than errors.max_failures allows ({most}")
    assert f"stopped early: {done.summary['stopped']}" in done.out
    again = case.run("--max-failures", "1000")
    again.assert_only(dict.fromkeys(faults, "ValueError"))


def test_as_many_failures_as_allowed_are_tolerated(project: Project) -> None:
    """Three of three."""
    case = Case(project, 50, dict.fromkeys((1, 2, 3), "raise"), "errors: {max_failures: 3}")
    done = case.run()
    done.assert_only(dict.fromkeys((1, 2, 3), "ValueError"))
    assert done.summary["stopped"] is None


def test_the_library_says_why_it_stopped(project: Project) -> None:
    """`BatchResult.stopped`, with what was not reached."""
    Case(project, 200, dict.fromkeys(range(200), "raise"), "errors: {max_failures: 10}\nworkers: 1")
    result = batch_generate(Job.load(project.folder / "job.yaml"))
    assert result.stopped is not None
    assert (200, True) == (result.failed + result.not_reached, result.not_reached > 0)
