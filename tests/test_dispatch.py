"""Dispatch: spans sized by time, exact blame for a death, timeouts that spare neighbours. Real processes die here."""

from __future__ import annotations

import os
import signal
import time
from array import array
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp import Job, WorkerError, batch_generate, batch_generate_stream
from chora_mp.claims import Claims
from chora_mp.crew import Crew
from chora_mp.dispatch import SPAN_SECONDS, Dispatch, Pace, Seating
from chora_mp.lanes import Ending, ProcessLane
from chora_mp.records import Input, Orders, Outcome
from chora_mp.slots import Note
from chora_mp.sources.chunks import Chunks, FileSpans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chora_mp.records import BatchResult, Span
    from tests.conftest import Project

PLUGIN = """
import ctypes, os, re, signal, time

def deadly(value):
    if value == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if value == "segfault": ctypes.string_at(0)
    if value == "abort": os.abort()
    if value == "exit": os._exit(3)
    if value == "leave": os._exit(0)
    if value == "loop":
        while True: pass
    if value == "sleep": time.sleep(1000)
    if value == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
        while True: time.sleep(1000)
    if value == "regex": re.match(r"(a+)+$", "a" * 64 + "b")
    return value

FILTERS = {"deadly": deadly}
"""


def deadly_job(project: Project, records: list[dict[str, Any]], more: str = "") -> Job:
    """A job whose records say what they do to their worker."""
    project.records(*records)
    project.write("deadly.py", PLUGIN)
    template = "{{ (do or 'well') | deadly }} {{ name }}"
    return Job.load(project.job(f"plugins: [deadly.py]\n{more}", template=template))


def records(count: int, bad: dict[int, str]) -> list[dict[str, Any]]:
    """So many records, some of which misbehave."""
    return [{"name": f"n{number}", "do": bad.get(number, "")} for number in range(count)]


def assert_only_these_failed(project: Project, result: BatchResult, count: int, bad: dict[int, str]) -> None:
    """The guilty failed, each once; all others are rendered, whole; nothing else lies about."""
    assert sorted(bad) == [item.seq for item in result.failures]
    assert (count, count - len(bad)) == (result.total, result.successful)
    assert {f"n{number}.txt": f"well n{number}" for number in range(count) if number not in bad} == project.outputs()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "was killed by SIGKILL"),
        ("segfault", "was killed by SIGSEGV"),
        ("abort", "was killed by SIGABRT"),
        ("exit", "ended with exit code 3"),
        ("leave", "ended with exit code 0"),
    ],
)
def test_a_dead_worker_costs_the_guilty_item_alone(project: Project, how: str, words: str) -> None:
    """The failure names key, path, line, and the signal or exit code; it was tried twice."""
    bad = {57: how}
    result = batch_generate(deadly_job(project, records(200, bad)).replace(workers=2))
    assert_only_these_failed(project, result, 200, bad)
    (item,) = result.failures
    assert item.error is not None
    assert item.source is not None
    assert ("n57.txt", "n57.txt", 58, "WorkerDied", 2) == (
        item.key,
        item.path,
        item.source.line,
        item.error.type,
        item.attempts,
    )
    assert f"the worker {words} while it rendered the item" == item.error.message


def test_many_culprits_are_each_found(project: Project) -> None:
    """Several in one span, some side by side, first and last of all: each is blamed, nobody else."""
    bad = dict.fromkeys((0, 1, 2, 40, 41, 90, 99), "kill")
    assert_only_these_failed(project, batch_generate(deadly_job(project, records(100, bad))), 100, bad)


def test_every_item_may_be_guilty(project: Project) -> None:
    """A job in which every item kills its worker ends, with every item blamed."""
    bad = dict.fromkeys(range(6), "kill")
    assert_only_these_failed(project, batch_generate(deadly_job(project, records(6, bad))), 6, bad)


def test_the_guilty_are_found_among_those_that_are_picked(project: Project) -> None:
    """Where every other record is up to date, blame falls on the same items as where all are rendered."""
    job = deadly_job(project, records(100, {})).replace(workers=2)
    assert 100 == batch_generate(job).successful
    before = project.outputs()
    bad = {21: "kill", 23: "segfault", 25: "exit", 60: "kill", 99: "kill"}
    changed = records(100, bad)
    for number in range(1, 100, 2):
        changed[number]["changed"] = True
    project.records(*changed)
    result = batch_generate(job)
    assert sorted(bad) == [item.seq for item in result.failures]
    assert ({"WorkerDied"}, {f"n{seq}.txt" for seq in bad}) == (
        {item.error.type for item in result.failures if item.error},
        {item.key for item in result.failures},
    )
    assert (100, 46, 49) == (result.total, result.successful, result.unchanged)
    assert before == project.outputs()


@pytest.mark.parametrize("how", ["loop", "sleep", "deaf", "regex"])
def test_a_hanging_item_is_ended_by_its_timeout(project: Project, how: str) -> None:
    """In Python, in a system call, deaf to signals or in C: the item fails as Timeout, the others are rendered."""
    bad = {11: how}
    result = batch_generate(deadly_job(project, records(60, bad), "limits: {timeout: 500ms}").replace(workers=2))
    assert_only_these_failed(project, result, 60, bad)
    (item,) = result.failures
    assert item.error is not None
    assert ("Timeout", "the item took longer than 0.5 s; its worker was killed", 1, "n11.txt") == (
        item.error.type,
        item.error.message,
        item.attempts,
        item.key,
    )


def test_slow_but_honest_items_are_no_timeouts(project: Project) -> None:
    """The time limit is an item's, not a span's."""
    project.records(*({"name": f"n{number}"} for number in range(12)))
    project.write("nap.py", "import time\nFILTERS = {'nap': lambda v: time.sleep(0.1) or v}\n")
    job = Job.load(project.job("plugins: [nap.py]\nlimits: {timeout: 1s}", template="{{ name | nap }}"))
    assert 0 == batch_generate(job).failed


def test_a_worker_killed_from_outside_is_replaced(project: Project) -> None:
    """Somebody kills a worker twice in mid-run: no item is lost, none fails."""
    job = deadly_job(project, records(8_000, {})).replace(workers=2)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    stream = batch_generate_stream(job)
    seqs = [next(stream).seq]
    for _ in range(2):
        server = next(child for child in psutil.Process().children() if _is_server(child))
        victim = next(child for child in server.children() if child.pid not in before)
        os.kill(victim.pid, signal.SIGKILL)
        seqs += [next(stream).seq for _ in range(500)]
    seqs += [item.seq for item in stream if item.status == "rendered"]
    assert list(range(8_000)) == sorted(seqs)


def _is_server(process: psutil.Process) -> bool:
    return "multiprocessing.forkserver" in " ".join(process.cmdline())


def test_a_worker_killed_before_it_rendered_is_asked_again(project: Project) -> None:
    """A death while the job is prepared, with nobody to blame, costs nothing."""
    flag = project.folder / "started"
    project.records({"name": "a"})
    project.write(
        "once.py", f"import os\ntry: os.mkdir({str(flag)!r})\nexcept FileExistsError: pass\nelse: os._exit(7)\n"
    )
    project.write("plugin.py", "import once\nFILTERS = {}\n")
    assert 1 == batch_generate(Job.load(project.job("plugins: [plugin.py]"))).successful


def test_what_a_dead_worker_had_finished_counts(project: Project) -> None:
    """A slow observer finds a span done and the next one's worker dead: only the deadly item fails."""
    bad = dict.fromkeys(range(1, 24, 2), "kill")
    job = deadly_job(project, records(24, bad)).replace(workers=2)
    result = batch_generate(job, on_progress=lambda *call: time.sleep(0.02))
    assert_only_these_failed(project, result, 24, bad)


@pytest.mark.parametrize("where", ["plugin", "source"])
def test_a_thread_that_stays_holds_nobody(project: Project, where: str) -> None:
    """A plug-in or a source that leaves a thread running does not keep the run from ending."""
    stay = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n"
    project.write("plugin.py", (stay if where == "plugin" else "") + "FILTERS = {}\n")
    project.write("rows.py", (stay if where == "source" else "") + "def rows(): return [{'name': 'a'}]\n")
    job = Job.load(project.job("plugins: [plugin.py]", source="{python: 'rows.py:rows'}"))
    assert 1 == batch_generate(job).successful


def test_workers_that_cannot_start_end_the_run(project: Project) -> None:
    """A plug-in that kills every worker at its start: a clear error, no endless circle."""
    project.records(*({"name": f"n{number}"} for number in range(10)))
    project.write("deadly.py", "import os\nos._exit(7)\n")
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        batch_generate(Job.load(project.job("plugins: [deadly.py]")))


def test_workers_that_die_later_at_start_end_the_run(project: Project) -> None:
    """The same where only the second worker and its followers die before they reach a record."""
    flag = project.folder / "started"
    project.records(*({"name": f"n{number}", "do": "kill"} for number in range(3)))
    start = f"import os\ntry: os.mkdir({str(flag)!r})\nexcept FileExistsError: os._exit(7)\n"
    project.write("deadly.py", start + PLUGIN)
    template = "{{ do | deadly }} {{ name }}"
    with pytest.raises(WorkerError, match="3 times in a row"):
        batch_generate(Job.load(project.job("plugins: [deadly.py]", template=template)))


# -- the rules, with workers that only pretend


class FakeSeat:
    """A seat that answers when it is told to, and notes what it was given."""

    def __init__(self, number: int, pace: float, given: list[int]) -> None:
        self.number = number
        self.pace = pace
        self.given = given

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Answer at once, as if the items had taken their time."""
        span: Span = arguments[0]
        self.given.append(span.size)
        future: Future[Any] = Future()
        rendered = max(1, min(span.size, int(arguments[1] / self.pace)))
        done = span.places()[rendered - 1] + 1
        future.set_result(Outcome(done, rendered, 0, 0, rendered * self.pace, (), unpicked=done - rendered))
        return future

    def note(self) -> Note:
        """Idle."""
        return Note(0, -1, None, 0.0, b"")

    def kill(self) -> None:
        """Nothing to end."""

    def bury(self) -> str:
        """Nothing to clear up."""
        return "ended"

    def dismiss(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""


class FakeLane:
    """A lane of such seats."""

    depth = 2
    span = None
    exact = True

    def __init__(self, most: int, pace: float) -> None:
        self.most = most
        self.pace = pace
        self.opened: list[FakeSeat] = []
        self.given: list[int] = []

    def open(self) -> FakeSeat:
        """One more."""
        self.opened.append(FakeSeat(len(self.opened), self.pace, self.given))
        return self.opened[-1]

    def close(self) -> None:
        """Nothing to end."""


def supply(count: int, picks: bytes | None = None) -> FileSpans:
    """Spans of so many records that nobody will read, of all of them or of those that are picked."""
    chunks = Chunks()
    chunks.add(1, 0, 0, count)
    return FileSpans(Input("none", spooled=False, name="none"), chunks, picks)


def dispatched(
    count: int, most: int, pace: float, picks: bytes | None = None
) -> tuple[FakeLane, list[tuple[Span, Outcome]]]:
    """What a lane of such workers was given, and what it answered."""
    lane = FakeLane(most, pace)
    with Crew(lane) as crew:
        answers = [answer for answer in Dispatch(crew, supply(count, picks), None).run() if answer]
    return lane, answers


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 500), most=st.integers(1, 16), pace=st.floats(1e-5, 2.0))
def test_every_record_is_answered_for_once(count: int, most: int, pace: float) -> None:
    """However long items take and however many seats there are: no record is lost, none is done twice."""
    _, answers = dispatched(count, most, pace)
    done = sorted(seq for span, outcome in answers for seq in range(span.seq, span.seq + outcome.done))
    assert list(range(count)) == done


@settings(deadline=None, max_examples=40)
@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 600)), max_size=8),
    most=st.integers(1, 16),
    pace=st.floats(1e-4, 2.0),
)
def test_every_picked_record_is_answered_for_once(runs: list[tuple[bool, int]], most: int, pace: float) -> None:
    """Where only some records are to be rendered each of them is, once, and none of the others."""
    picks = b"".join(bytes([pick]) * count for pick, count in runs)
    _, answers = dispatched(len(picks), most, pace, picks)
    done = sorted(span.seq + place for span, outcome in answers for place in span.first(outcome.done).places())
    assert [seq for seq, pick in enumerate(picks) if pick] == done
    assert sum(picks) == sum(outcome.size for _, outcome in answers)


@settings(deadline=None, max_examples=40)
@given(most=st.integers(1, 16), pace=st.floats(1e-5, 0.01))
def test_spans_aim_at_their_time_and_shrink_at_the_end(most: int, pace: float) -> None:
    """Once the pace is known no span is longer than it should be, and the last ones are short."""
    lane, _ = dispatched(2_000, most, pace)
    assert max(lane.given) <= max(64, SPAN_SECONDS / pace + 1)
    assert lane.given[-1] * pace <= max(0.003, 2 * pace, SPAN_SECONDS / 2)
    assert len(lane.opened) <= most


def test_a_seat_is_opened_only_where_it_pays() -> None:
    """Three quick items: one seat. Many slow ones: all seats."""
    assert 1 == len(dispatched(3, 8, 0.001)[0].opened)
    assert 8 == len(dispatched(400, 8, 0.05)[0].opened)


def test_the_pace_follows_the_last_spans() -> None:
    """Items that become ten times slower are noticed within a few spans."""
    pace = Pace()
    assert not pace.known
    for seconds in (0.001, 0.001, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01):
        pace.learn(Outcome(100, 100, 0, 0, 100 * seconds, ()))
    assert pace.seconds == pytest.approx(0.01, rel=0.25)


def test_the_first_result_of_an_iterable_comes_at_once(tmp_path: Path) -> None:
    """It is out before a second record is asked for: nobody knows how long that one takes."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.txt.j2").write_text("{{ n }}")
    asked: list[int] = []

    def pausing() -> Iterator[dict[str, int]]:
        for number in range(3):
            asked.append(number)
            yield {"n": number}

    stream = batch_generate_stream(Job.from_mapping({"template": "page.txt.j2"}, tmp_path), pausing(), keep_text=True)
    assert 0 == next(stream).seq
    assert [0] == asked
    assert 2 == len(list(stream))


def test_a_slow_source_holds_no_result_back(tmp_path: Path) -> None:
    """A result is out before the record after the next is asked for."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.txt.j2").write_text("{{ n }}")
    story: list[tuple[str, int]] = []

    def slowly() -> Iterator[dict[str, int]]:
        for number in range(10):
            story.append(("asked", number))
            time.sleep(0.2)
            yield {"n": number}

    job = Job.from_mapping({"template": "page.txt.j2"}, tmp_path)
    for item in batch_generate_stream(job, slowly(), keep_text=True):
        story.append(("got", item.seq))  # noqa: PERF401  (told while it goes on)
    assert [] == [n for n in range(3, 8) if story.index(("got", n)) > story.index(("asked", n + 2))]


def test_tasks_are_shared_and_answered_in_order(project: Project) -> None:
    """Answers come in the order of the tasks, from as many workers as there is work for, and from new ones for dead."""
    files = [str(project.folder / f"claims-{number}-0.claims") for number in range(12)]
    for number, file in enumerate(files):
        keys = array("q", range(50_000 if number % 4 == 0 else 2))
        keys[-1] = 0
        Claims(len(keys), [(0, len(keys))], keys, keys, {}).save(file)
    scratch = str(project.folder)
    with Crew(ProcessLane(Orders(f"{scratch}/bundle", None, scratch, ".t"), 2)) as crew:
        for die in (False, True):
            answers = crew.ask_all([("clashes", file.removesuffix("0.claims"), 1, "keys", 0, 1) for file in files])
            first = next(answers)
            if die:
                crew.seats[-1].kill()
            found = [first, *answers]
            assert [[(0, 49_999)] if number % 4 == 0 else [(0, 1)] for number in range(12)] == found
        assert 2 == crew.most_open


def test_a_stopped_dispatch_hands_out_nothing_more() -> None:
    """After `stop`, what is in work ends and the rest is left."""
    lane = FakeLane(2, 0.001)
    supplied = supply(100_000)
    with Crew(lane) as crew:
        dispatch = Dispatch(crew, supplied, None)
        answers = dispatch.run()
        next(answers)
        given = len(lane.given)
        dispatch.stop(1.0)
        assert given - 1 == len([answer for answer in answers if answer])
    assert given == len(lane.given)
    assert supplied.left > 0


def test_who_is_told_to_stop_twice_keeps_the_deadline(tmp_path: Path) -> None:
    """A run that stops for a failure, without a limit, then for a signal: what is in work has the signal's limit."""

    class Hanging(FakeSeat):
        def submit(self, name: str, *arguments: Any) -> Future[Any]:
            return Future()

    lane = FakeLane(1, 0.001)
    lane.open = lambda: Hanging(0, 0.001, [])  # type: ignore[method-assign]
    with Crew(lane) as crew:
        dispatch = Dispatch(crew, supply(10), None)
        answers = dispatch.run()
        assert next(answers) is None
        dispatch.stop()
        dispatch.stop(0.2)
        started = time.monotonic()
        assert [] == [answer for answer in answers if answer]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("startable", [0, 1])
def test_workers_that_die_together_and_cannot_be_replaced(startable: int) -> None:
    """Who cannot start is done without; with nobody left the run stops, and does not take itself for done."""

    class Dying(FakeSeat):
        def submit(self, name: str, *arguments: Any) -> Future[Any]:
            if self.number < 2:  # both are dead before anybody looks
                future: Future[Any] = Future()
                future.set_exception(BrokenExecutor("died"))
                return future
            if self.number < 4 - startable:
                raise WorkerError("cannot start a worker process: no room")
            return super().submit(name, *arguments)

        def bury(self) -> Ending:  # type: ignore[override]
            return Ending("was killed by SIGKILL")

    lane = FakeLane(2, 0.001)
    lane.open = lambda: lane.opened.append(Dying(len(lane.opened), 0.001, lane.given)) or lane.opened[-1]  # type: ignore[func-returns-value, method-assign]
    supplied = supply(100)
    with Crew(lane) as crew:
        dispatch = Dispatch(crew, supplied, None, seating=Seating(asked=True))
        if startable:
            answers = [answer for answer in dispatch.run() if answer]
            assert 100 == sum(outcome.done for _, outcome in answers)
        else:
            with pytest.raises(WorkerError, match="no room"):
                list(dispatch.run())
            assert 100 == supplied.left


def test_a_deadline_ends_the_wait(project: Project) -> None:
    """An item that never ends holds a stopped run for no longer than it was given."""
    started = time.monotonic()
    asked = iter([False] + [True] * 1000)
    job = deadly_job(project, records(4, {0: "sleep", 1: "sleep"}), "limits: {timeout: 2s}")
    with pytest.raises(KeyboardInterrupt):
        batch_generate(job, interrupted=lambda: next(asked))
    assert time.monotonic() - started < 60
