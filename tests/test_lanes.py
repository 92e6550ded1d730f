"""The lanes that hold many items at a time: that they do, and that whatever befalls one item is nobody else's."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faults import rows, wait_for

from chora_mp import (
    BatchResult,
    Interrupted,
    Job,
    abatch_generate,
    abatch_generate_stream,
    batch_generate,
    batch_generate_stream,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from chora_mp import ItemResult
    from tests.conftest import Project

BOUND = 30.0
LATE = 0.002
LANES = ("asyncio", "threads", "processes", "inline")
CONCURRENT = ("asyncio", "threads")

PLUGIN = """
import asyncio, ctypes, os, signal, sys, threading, time
from chora_mp.generators import Generated, Throttled, generator

import chora_mp.inflight
chora_mp.inflight._CANCEL_SECONDS = 0.2

HERE = os.path.dirname(os.path.abspath(__file__))
lock, here, most = threading.Lock(), 0, 0

def once(name):
    try: os.mkdir(os.path.join(HERE, "flag-" + name))
    except FileExistsError: return False
    return True

def enter():
    global here, most
    with lock:
        here += 1
        most = max(most, here)

def leave():
    global here
    with lock: here -= 1

def meet(count):
    until = time.monotonic() + 20
    while most < count:
        assert time.monotonic() < until, f"only {most} of {count} at once"
        yield

async def amet(spec, context):
    enter()
    try:
        for _ in meet(context["together"]): await asyncio.sleep(0.002)
        await asyncio.sleep(0.002)
        return f"{context['name']} {most}"
    finally: leave()

def met(spec, context):
    enter()
    try:
        for _ in meet(context["together"]): time.sleep(0.002)
        time.sleep(0.002)
        return f"{context['name']} {most} {threading.current_thread() is threading.main_thread()}"
    finally: leave()

@generator(lane="asyncio", concurrent=False)
async def aalone(spec, context): return await amet(spec, context)

@generator(lane="threads", concurrent=False)
def alone(spec, context): return met(spec, context)

class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()

def die(): os._exit(3)

async def child(what):
    await asyncio.sleep(0)
    common(what)

def common(what):
    if what == "raise": raise ValueError("as asked")
    if what == "unpicklable": raise Unpicklable("cannot travel")
    if what == "system exit": sys.exit(3)
    if what == "interrupt": raise KeyboardInterrupt
    if what == "cancelled": raise asyncio.CancelledError
    if what == "base": raise BaseException("of the base")
    if what == "number": return 7
    if what == "surrogate": return "\\ud800"
    if what == "exit": os._exit(3)
    if what == "segfault": ctypes.string_at(0)
    if what == "grow":
        held = []
        while True: held.append("x" * 10**7)
    if what == "loop":
        while True: time.sleep(1000)
    if what == "timeout": raise TimeoutError("of its own")
    if what == "connection": raise ConnectionError("came to nothing")
    if what == "once" and once("once"): raise ConnectionError("came to nothing")
    if what == "throttled" and once("throttled"): raise Throttled("slow down", 0.3)
    if what == "always throttled": raise Throttled("slow down", 0.001)
    return None

async def afault(spec, context):
    what = context["fault"]
    await asyncio.sleep(0.001 * (context["number"] % 7))
    if what == "hang": await asyncio.sleep(1000)
    if what == "stubborn":
        while True:
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: pass
    if what.startswith("sleep "): await asyncio.sleep(float(what[6:]))
    if what.startswith("child "):
        await asyncio.gather(asyncio.create_task(child(what[6:])), asyncio.sleep(0.001))
    if what == "thread exit": await asyncio.to_thread(os._exit, 3)
    found = common(what)
    return context["name"] if found is None else found

def fault(spec, context):
    what = context["fault"]
    time.sleep(0.001 * (context["number"] % 7))
    if what == "hang": time.sleep(1000)
    if what.startswith("sleep "): time.sleep(float(what[6:]))
    found = common(what)
    return context["name"] if found is None else found

async def astamp(spec, context):
    start = time.monotonic()
    await asyncio.sleep(context.get("seconds", 0))
    return f"{start!r} {time.monotonic()!r} {os.getpid()}"

def stamp(spec, context):
    start = time.monotonic()
    time.sleep(context.get("seconds", 0))
    return f"{start!r} {time.monotonic()!r} {os.getpid()}"

async def acount(spec, context):
    return Generated(context["name"], {"input_tokens": context["number"], "output_tokens": 1})

async def asay(spec, context):
    await asyncio.sleep(0.001 * (7 - context["number"] % 7))
    return context["name"] * (1 + context["number"] % 50)

def say(spec, context): return context["name"] * (1 + context["number"] % 50)

GENERATORS = dict(amet=amet, met=met, aalone=aalone, alone=alone, afault=afault, fault=fault, astamp=astamp,
                  stamp=stamp, acount=acount, asay=asay, say=say)
"""


@dataclass(eq=False)
class Batch:
    """A job of `count` records for a generator of the plug-in; those at the numbers in `faults` misbehave."""

    project: Project
    generator: str
    count: int
    more: str = ""
    faults: Mapping[int, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project.write("plugin.py", PLUGIN)
        self.project.records(*map(self.record, range(self.count)))
        more = f'key: "{{{{ name }}}}"\nplugins: [plugin.py]\ngenerator: {self.generator}\n{self.more}'
        self.file = self.project.job(more)

    def record(self, number: int) -> dict[str, Any]:
        """The record of that number."""
        return {"name": f"n{number}", "number": number, "fault": self.faults.get(number, ""), **self.fields}

    @property
    def job(self) -> Job:
        """The job as it is in the file."""
        return Job.load(self.file)

    def run(self, **options: Any) -> BatchResult:
        """What becomes of it."""
        return batch_generate(self.job, **options)

    def texts(self) -> dict[str, str]:
        """The documents by key."""
        return {name.removesuffix(".txt"): text for name, text in self.project.outputs().items()}

    def assert_only(self, guilty: Mapping[int, str], result: BatchResult) -> None:
        """The guilty failed, each once and as told (record's number: type), and all else is there."""
        found = {item.seq: item.error.type for item in result.failures if item.error}
        assert dict(guilty) == found, list(result.failures)
        assert len(found) == len(result.failures)
        assert (self.count, self.count - len(guilty), 0) == (result.total, result.successful, result.not_reached)
        names = {f"n{number}" for number in range(self.count) if number not in guilty}
        assert {name: name for name in names} == self.texts()
        assert {f"n{number}" for number in guilty} == {item.key for item in result.failures}
        lines = {item.seq: item.source.line for item in result.failures if item.source}
        assert {number: number + 1 for number in guilty} == lines
        assert [] == self.project.leftovers()


def children() -> list[psutil.Process]:
    """The processes of batches below this one; what keeps account of semaphores stays as long as we do."""
    return [process for process in psutil.Process().children(recursive=True) if not _is_tracker(process)]


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    """Whatever happened, no worker and no fork server is left."""
    before = {process.pid for process in children()}
    yield
    wait_for(lambda: not [one for one in children() if one.pid not in before], "the end of all workers", 10)


def lane(name: str, in_flight: int = 8, more: str = "") -> str:
    """A job's lines for a lane with so many items at a time."""
    limits = f"limits: {{{more}}}\n" if more else ""
    return f"lane: {name}\nworkers: {0 if name == 'inline' else in_flight}\n{limits}"


def suited(name: str, which: str) -> str:
    """The generator for a lane: `async def` for asyncio."""
    return f"a{which}" if name == "asyncio" else which


# -- many at a time


@pytest.mark.parametrize("name", CONCURRENT)
def test_all_at_once(project: Project, name: str) -> None:
    """Each waits until sixty are there: none would come to its end if they were not all in work together."""
    batch = Batch(project, suited(name, "met"), 60, lane(name, 60), fields={"together": 60})
    result = batch.run()
    assert (60, 0, "") == (result.successful, result.failed, " ".join(map(str, result.failures)))
    assert {"60"} == {text.split()[1] for text in batch.texts().values()}


@pytest.mark.parametrize("name", ["threads"])
def test_never_more_than_asked_for(project: Project, name: str) -> None:
    """`max_in_flight` is reached, over many spans, and never exceeded."""
    limits = f"lane: {name}\nworkers: 50\nlimits: {{max_in_flight: 7}}"
    batch = Batch(project, suited(name, "met"), 150, limits, fields={"together": 7})
    result = batch.run()
    assert (150, 0) == (result.successful, result.failed)
    assert "7" == max(text.split()[1] for text in batch.texts().values())


def test_thousands_at_once(project: Project) -> None:
    """As many coroutines as the job says, with one worker."""
    batch = Batch(project, "amet", 1000, "limits: {max_in_flight: 1000}", fields={"together": 1000})
    result = batch.run()
    assert (1000, 0) == (result.successful, result.failed)


def test_a_usual_function_on_the_event_loop_runs_in_threads(project: Project) -> None:
    """A generator that is not `async` does not hold up the others, though it was sent to asyncio."""
    batch = Batch(project, "met", 40, lane("asyncio", 20), fields={"together": 20})
    result = batch.run()
    assert (40, 0) == (result.successful, result.failed)
    assert {("20", "False")} == {tuple(text.split()[1:]) for text in batch.texts().values()}


@pytest.mark.parametrize("name", ["processes", "inline"])
def test_a_coroutine_on_other_lanes(project: Project, name: str) -> None:
    """An `async def` is waited for where there is no event loop of its own."""
    batch = Batch(project, "asay", 30, lane(name, 2))
    result = batch.run()
    assert (30, 0) == (result.successful, result.failed)
    assert {f"n{number}": f"n{number}" * (1 + number) for number in range(30)} == batch.texts()


@pytest.mark.parametrize(("name", "which"), [("asyncio", "aalone"), ("processes", "aalone")])
def test_one_at_a_time(project: Project, name: str, which: str) -> None:
    """`concurrent=False` means one item at a time, whatever the lane and whatever is asked for."""
    batch = Batch(project, which, 12, lane(name), fields={"together": 1})
    result = batch.run()
    assert (12, 0) == (result.successful, result.failed)
    assert {"1"} == {text.split()[1] for text in batch.texts().values()}


@pytest.mark.parametrize("name", CONCURRENT)
def test_a_plain_job_on_any_lane(project: Project, name: str) -> None:
    """A job of Jinja2 templates renders the same wherever it runs."""
    project.records(*({"name": f"n{number}"} for number in range(30)))
    project.job(lane(name, 4), template="{{ name }}!")
    code, summary, err = project.render()
    assert (0, 30) == (code, summary["successful"]), err
    assert {f"n{number}.txt": f"n{number}!" for number in range(30)} == project.outputs()


# -- failures

RAISED = {
    "raise": "ValueError",
    "unpicklable": "Unpicklable",
    "system exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "base": "BaseException",
    "number": "TypeError",
    "surrogate": "UnicodeEncodeError",
    "timeout": "TimeoutError",
    "connection": "ConnectionError",
}


@pytest.mark.parametrize("name", CONCURRENT)
def test_failures_are_contained(project: Project, name: str) -> None:
    """Whatever is raised or given instead of text fails the one item, named with its line."""
    faults = {5 * number + 3: what for number, what in enumerate(RAISED)}
    batch = Batch(project, suited(name, "fault"), 60, lane(name), faults)
    result = batch.run()
    batch.assert_only({number: RAISED[what] for number, what in faults.items()}, result)


def test_a_coroutine_that_is_cancelled_by_itself(project: Project) -> None:
    """A `CancelledError` that nobody asked for is the item's failure."""
    batch = Batch(project, "afault", 30, lane("asyncio"), {7: "cancelled"})
    batch.assert_only({7: "CancelledError"}, batch.run())


@pytest.mark.parametrize("what", ["raise", "system exit"])
def test_an_error_in_a_child_task(project: Project, what: str) -> None:
    """What a task raises that a coroutine has started is the coroutine's item's failure."""
    batch = Batch(project, "afault", 30, lane("asyncio"), {7: f"child {what}"})
    batch.assert_only({7: RAISED[what]}, batch.run())


def test_records_that_cannot_be_read(project: Project) -> None:
    """Broken lines among the records of a lane fail by their place."""
    batch = Batch(project, "afault", 20, lane("asyncio"))
    lines = [json.dumps(batch.record(number)) for number in range(20)]
    lines[4], lines[19] = "{", "[1]"
    project.records(*lines)
    result = batch.run()
    assert {4: "data.jsonl:5", 19: "data.jsonl:20"} == {item.seq: item.key for item in result.failures}
    assert (18, 2) == (result.successful, result.failed)


@pytest.mark.parametrize("name", ["asyncio"])
def test_a_crowd_of_failures(project: Project, name: str) -> None:
    """Three thousand failures in few spans, more than fits a message, are all told."""
    count = 3000
    batch = Batch(project, suited(name, "fault"), count, lane(name, 1000 if name == "asyncio" else 64),
                  dict.fromkeys(range(count), "raise"))  # fmt: skip
    result = batch.run()
    assert (0, count) == (result.successful, result.failed)
    assert list(range(count)) == [item.seq for item in result.failures]


# -- time


@pytest.mark.parametrize("name", CONCURRENT)
def test_a_timeout(project: Project, name: str) -> None:
    """Only those that hang fail, whether they are cancelled or their worker is killed."""
    guilty = (3, 4, 27) if name == "asyncio" else (7,)
    batch = Batch(project, suited(name, "fault"), 40, lane(name, 8, "timeout: 500ms"), dict.fromkeys(guilty, "hang"))
    result = batch.run()
    batch.assert_only(dict.fromkeys(guilty, "Timeout"), result)


def test_many_timeouts_at_once(project: Project) -> None:
    """All that wait are cancelled together: the batch takes a few timeouts, not one for each item."""
    batch = Batch(project, "afault", 200, lane("asyncio", 100, "timeout: 500ms"), dict.fromkeys(range(200), "hang"))
    result = batch.run()
    batch.assert_only(dict.fromkeys(range(200), "Timeout"), result)
    assert result.duration_s < 20


@pytest.mark.parametrize("what", ["loop", "stubborn"])
def test_a_coroutine_that_cannot_be_cancelled(project: Project, what: str) -> None:
    """One that blocks the event loop, or goes on when it is cancelled, takes its worker along and no other item."""
    batch = Batch(project, "afault", 40, lane("asyncio", 8, "timeout: 400ms"), {7: what})
    batch.assert_only({7: "Timeout"}, batch.run())


def test_threads_that_wait_for_a_thread_are_not_late(project: Project) -> None:
    """Of more items than there are threads on the event loop's lane, the time of each begins when it does."""
    batch = Batch(project, "fault", 150, lane("asyncio", 150, "timeout: 1s"), dict.fromkeys(range(150), "sleep 0.45"))
    batch.assert_only({}, batch.run())


@pytest.mark.parametrize("name", ["asyncio"])
def test_items_at_the_gate_are_not_late(project: Project, name: str) -> None:
    """Waiting for a slow rate is no part of an item's time."""
    batch = Batch(project, suited(name, "fault"), 4, lane(name, 8, "timeout: 200ms, rate: 2/s"))
    batch.assert_only({}, batch.run())


@pytest.mark.parametrize("name", ["asyncio"])
def test_items_that_a_service_makes_wait_are_not_late(project: Project, name: str) -> None:
    """Nor is what a service asks for."""
    batch = Batch(project, suited(name, "fault"), 12, lane(name, 8, "timeout: 200ms"), {2: "throttled"})
    project.write("plugin.py", PLUGIN.replace('"slow down", 0.3', '"slow down", 1.2'))
    batch.assert_only({}, batch.run())


# -- deaths


@pytest.mark.parametrize("what", ["exit", "segfault", "thread exit", "child exit"])
def test_a_death_in_a_coroutine(project: Project, what: str) -> None:
    """The item is known by name, at once or after looking for it, and nobody else is blamed."""
    batch = Batch(project, "afault", 60, lane("asyncio", 16), {17: what})
    batch.assert_only({17: "WorkerDied"}, batch.run())


def test_several_deaths_in_coroutines(project: Project) -> None:
    """Side by side and far apart: each is found."""
    guilty = (0, 1, 30, 59)
    batch = Batch(project, "afault", 60, lane("asyncio", 16), dict.fromkeys(guilty, "exit"))
    batch.assert_only(dict.fromkeys(guilty, "WorkerDied"), batch.run())


@pytest.mark.parametrize("in_flight", [4, 64])
def test_a_death_in_a_thread(project: Project, in_flight: int) -> None:
    """Whose it is nobody knows: it is found by trying, though all the others were in work with it and take longer."""
    faults = {**dict.fromkeys(range(60), "sleep 0.1"), 17: "exit"}
    batch = Batch(project, "fault", 60, lane("threads", in_flight), faults)
    batch.assert_only({17: "WorkerDied"}, batch.run())


def test_a_death_in_a_thread_of_the_event_loops_lane(project: Project) -> None:
    """The same for a usual function that was sent to asyncio."""
    faults = {**dict.fromkeys(range(40), "sleep 0.1"), 17: "exit"}
    batch = Batch(project, "fault", 40, lane("asyncio", 8), faults)
    batch.assert_only({17: "WorkerDied"}, batch.run())


# -- memory


@pytest.mark.parametrize(("name", "in_flight"), [("asyncio", 8), ("threads", 4)])
def test_a_greedy_item(project: Project, name: str, in_flight: int) -> None:
    """One that takes all the memory that it may fails by itself."""
    limits = lane(name, in_flight, "memory_per_item: 300MB")
    batch = Batch(project, suited(name, "fault"), 40, limits, {7: "grow"})
    batch.assert_only({7: "MemoryError"}, batch.run())


def test_threads_fit_under_a_small_cap(project: Project) -> None:
    """The stacks of many threads are no item's memory."""
    batch = Batch(
        project, "fault", 100, lane("threads", 50, "memory_per_item: 30MB"), dict.fromkeys(range(100), "sleep 0.02")
    )
    batch.assert_only({}, batch.run())


# -- trying again


@pytest.mark.parametrize("name", ["asyncio"])
def test_retries(project: Project, name: str) -> None:
    """What may pass is tried again: done in the end, or failed after all attempts."""
    more = lane(name) + "errors: {retries: 2, backoff: {min: 10ms, max: 20ms}}"
    faults = {3: "once", 4: "connection", 5: "raise", 20: "connection", 21: "connection"}
    batch = Batch(project, suited(name, "fault"), 40, more, faults)
    result = batch.run()
    guilty = {4: "ConnectionError", 5: "ValueError", 20: "ConnectionError", 21: "ConnectionError"}
    batch.assert_only(guilty, result)
    assert {4: 3, 5: 1, 20: 3, 21: 3} == {item.seq: item.attempts for item in result.failures}


@pytest.mark.parametrize("name", ["asyncio", "inline"])
def test_throttled(project: Project, name: str) -> None:
    """A service's wish to wait is no failure: the item is done in the end, and one that is asked for ever fails."""
    batch = Batch(project, suited(name, "fault"), 30, lane(name, 4), {2: "throttled", 9: "always throttled"})
    result = batch.run()
    batch.assert_only({9: "Throttled"}, result)
    assert result.duration_s >= 0.3


HOLDING = """
import asyncio, os, time
from chora_mp.generators import Throttled
async def ahold(spec, context):
    if context["fault"] == "throttled":
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "told")
        if not os.path.exists(path):
            with open(path, "w") as file: file.write(repr(time.monotonic()))
            raise Throttled("slow down", 0.6)
    begun = time.monotonic()
    await asyncio.sleep(0.02)
    return repr(begun)
def hold(spec, context): return asyncio.run(ahold(spec, context))
GENERATORS = {"ahold": ahold, "hold": hold}
"""


@pytest.mark.parametrize("name", ["asyncio", "processes"])
def test_throttled_holds_all(project: Project, name: str) -> None:
    """Nothing of the generator begins meanwhile, in any worker."""
    batch = Batch(project, suited(name, "hold"), 80, lane(name, 3), {10: "throttled"})
    project.write("plugin.py", HOLDING)
    result = batch.run()
    assert (80, 0) == (result.successful, result.failed)
    told = float((project.folder / "told").read_text())
    begun = sorted(float(text) for text in batch.texts().values())
    # Who has passed the gate when the service asks has begun; a process may be slow to note that.
    assert [] == [since for since in begun if told + 0.1 < since < told + 0.6]
    assert begun[-1] >= told + 0.6
    assert float(batch.texts()["n10"]) >= told + 0.6


# -- the ledger, and texts


@pytest.mark.parametrize("name", ["asyncio"])
def test_rows_after_completion_out_of_order(project: Project, name: str) -> None:
    """Items that end in any order are taken down as they are: nothing is left to do, and all is sound."""
    faults = {number: f"sleep {0.03 * (40 - number) / 40:.4f}" for number in range(0, 40, 3)}
    batch = Batch(project, suited(name, "fault"), 100, lane(name, 24), faults)
    batch.assert_only({}, batch.run())
    assert {f"n{number}": "rendered" for number in range(100)}.keys() == {key for key, _ in rows(project)}
    again = batch.run()
    assert (100, 0, 0) == (again.unchanged, again.successful, again.failed)
    done = project.run("verify", "job.yaml")
    assert 0 == done.returncode, done.stdout + done.stderr
    project.write("out/n57.txt", "edited")
    assert 0 != project.run("verify", "job.yaml").returncode


@pytest.mark.parametrize("name", ["threads"])
def test_a_change_renders_what_has_changed(project: Project, name: str) -> None:
    """After completion out of order, one changed record is one item, with its key and its place right."""
    batch = Batch(project, suited(name, "say"), 60, lane(name, 24))
    batch.run()
    project.records(*(batch.record(number) for number in reversed(range(60)) if number != 11))
    assert (59, 0) == (batch.run().unchanged, batch.run().successful)
    project.records(*(batch.record(number) | ({"more": 1} if number == 30 else {}) for number in range(60)))
    items = [item for item in batch_generate_stream(batch.job) if item.status == "rendered"]
    assert ["n30"] == [item.key for item in items]


@pytest.mark.parametrize("name", CONCURRENT)
def test_each_item_has_its_own_text(project: Project, name: str) -> None:
    """Whatever the order in which items end, a stream gives each with its document."""
    batch = Batch(project, suited(name, "say"), 200, lane(name, 40 if name in CONCURRENT else 2))
    items = {item.key: item for item in batch_generate_stream(batch.job, keep_text=True)}
    expected = {f"n{number}": f"n{number}" * (1 + number % 50) for number in range(200)}
    assert expected == {key: item.text for key, item in items.items()}
    assert expected == batch.texts()
    assert {number: f"n{number}" for number in range(200)} == {item.seq: item.key for item in items.values()}


def test_usage_is_summed(project: Project) -> None:
    """What services count is in the result, over all items and only for those of this run."""
    batch = Batch(project, "acount", 100)
    assert {"input_tokens": sum(range(100)), "output_tokens": 100} == dict(batch.run().usage)
    assert {} == dict(batch.run().usage)
    project.records(*(batch.record(number) | ({"more": 1} if number == 9 else {}) for number in range(100)))
    assert {"input_tokens": 9, "output_tokens": 1} == dict(batch.run().usage)


# -- stopping


@pytest.mark.parametrize("name", ["threads"])
def test_fail_fast(project: Project, name: str) -> None:
    """The first failure ends the batch: nothing more begins, what is in work ends, and the rest was not reached."""
    more = lane(name) + "errors: {policy: fail-fast}"
    batch = Batch(project, suited(name, "fault"), 2000, more, {3: "raise"})
    result = batch.run()
    assert result.stopped
    assert 1 == result.failed
    assert result.total == 2000 == result.successful + result.failed + result.not_reached
    assert 1000 < result.not_reached
    assert result.successful == len(batch.texts())
    assert [] == project.leftovers()


@pytest.mark.parametrize("name", ["asyncio"])
def test_the_batch_is_out_of_time(project: Project, name: str) -> None:
    """Items that would never end are left where they are, and what is done counts."""
    faults = dict.fromkeys(range(20, 60), "hang")
    batch = Batch(project, suited(name, "fault"), 60, lane(name, 8, "batch_timeout: 2s"), faults)
    result = batch.run()
    assert result.stopped is not None
    assert "limits.batch_timeout" in result.stopped
    assert (60, 0) == (result.total, result.failed)
    assert result.successful == len(batch.texts())
    assert 60 == result.successful + result.not_reached
    assert result.duration_s < 20
    assert [] == project.leftovers()


@pytest.mark.parametrize("name", CONCURRENT)
def test_interrupted(project: Project, name: str) -> None:
    """What is in work ends, nothing more begins, the next run does the rest."""
    batch = Batch(project, suited(name, "fault"), 400, lane(name, 4), dict.fromkeys(range(400), "sleep 0.02"))
    with pytest.raises(Interrupted) as caught:
        batch.run(interrupted=lambda: len(list(project.out.glob("n*.txt"))) >= 20)
    result = caught.value.result
    assert result is not None
    assert result.total == 400 == result.successful + result.not_reached
    assert 20 <= result.successful == len(batch.texts()) < 300
    assert [] == project.leftovers()
    again = batch.run()
    assert (result.successful, 400 - result.successful) == (again.unchanged, again.successful)


def test_interrupted_at_the_gate(project: Project) -> None:
    """Those that wait for an hour until they may begin are not waited for."""
    batch = Batch(project, "afault", 40, lane("asyncio", 8, "rate: 1/h"))
    with pytest.raises(Interrupted) as caught:
        batch.run(interrupted=lambda: any(project.out.glob("n*.txt")))
    result = caught.value.result
    assert result is not None
    assert (1, 39, 0) == (result.successful, result.not_reached, result.failed)


# -- chunks and rates


def stamps(batch: Batch) -> list[tuple[float, float]]:
    """When each item began and ended, as it says itself, in the order in which they began."""
    return sorted((float(text.split()[0]), float(text.split()[1])) for text in batch.texts().values())


@pytest.mark.parametrize("name", ["asyncio", "processes"])
def test_a_chunk_at_a_time(project: Project, name: str) -> None:
    """Never more than a chunk is in work, and the next chunk begins when all of the last one is done."""
    limits = lane(name, 50 if name in CONCURRENT else 2, "batch_size: 10")
    batch = Batch(project, suited(name, "stamp"), 45, limits, fields={"seconds": 0.02})
    result = batch.run()
    assert (45, 0) == (result.successful, result.failed)
    times = stamps(batch)
    changes = sorted([(start, 1) for start, _ in times] + [(end, -1) for _, end in times])
    most = here = 0
    for _, change in changes:
        here += change
        most = max(most, here)
    assert most <= 10
    if name in CONCURRENT:  # one worker begins them in their order
        for number in range(10, 45, 10):
            assert max(end for _, end in times[number - 10 : number]) <= times[number][0]


def test_a_chunk_whose_items_are_tried_again(project: Project) -> None:
    """Retries, deaths and timeouts inside of chunks: all comes to its end."""
    more = lane("asyncio", 8, "batch_size: 5, timeout: 500ms") + "errors: {retries: 1, backoff: {min: 10ms, max: 20ms}}"
    faults = {3: "once", 8: "connection", 14: "exit", 22: "hang", 23: "loop", 29: "raise"}
    batch = Batch(project, "afault", 30, more, faults)
    guilty = {8: "ConnectionError", 14: "WorkerDied", 22: "Timeout", 23: "Timeout", 29: "ValueError"}
    batch.assert_only(guilty, batch.run())


@pytest.mark.parametrize(("name", "in_flight"), [("processes", 3), ("asyncio", 20)])
def test_rate(project: Project, name: str, in_flight: int) -> None:
    """No window of the starts that the items noted themselves holds more than the rate allows."""
    rate = 60.0
    limits = lane(name, in_flight, "rate: 60/s")
    batch = Batch(project, suited(name, "stamp"), 60, limits, fields={"seconds": 0.01})
    result = batch.run()
    assert (60, 0) == (result.successful, result.failed)
    times = [start for start, _ in stamps(batch)]
    windows = [(last - first + 1, math.floor(rate * (times[last] - times[first] + LATE)) + 1)
               for first in range(60) for last in range(first, 60)]  # fmt: skip
    assert [] == [window for window in windows if window[0] > window[1]]
    assert result.duration_s >= 59 / rate
    if name == "processes":
        assert len({text.split()[2] for text in batch.texts().values()}) > 1


# -- from an event loop


def test_abatch(project: Project) -> None:
    """The same result as without an event loop, which goes on meanwhile."""
    batch = Batch(project, "afault", 60, lane("asyncio"), {7: "raise", **dict.fromkeys(range(20, 40), "sleep 0.05")})
    turns = 0

    async def main() -> BatchResult:
        nonlocal turns
        task = asyncio.create_task(abatch_generate(batch.job))
        while not task.done():
            turns += 1
            await asyncio.sleep(0.005)
        return await task

    batch.assert_only({7: "ValueError"}, asyncio.run(main()))
    assert turns > 10


def test_abatch_stream_is_in_the_order_of_completion(project: Project) -> None:
    """The quick ones come while the slow ones are still in work, each once."""
    faults = dict.fromkeys(range(4), "sleep 1.5")
    batch = Batch(project, "afault", 40, lane("asyncio", 40), faults)

    async def main() -> list[ItemResult]:
        return [item async for item in abatch_generate_stream(batch.job)]

    items = asyncio.run(main())
    assert dict.fromkeys(range(40), 1) == Counter(item.seq for item in items)
    # A span is told of when all of it is done, and the slow ones are in the first two.
    assert {0, 1, 2, 3} <= {item.seq for item in items[-6:]}


async def _numbered(batch: Batch, count: int, asked: list[int]) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        asked.append(number)
        await asyncio.sleep(0)
        yield batch.record(number)


@pytest.mark.parametrize("generator", ["asay", "say"])
def test_abatch_of_an_async_iterable(project: Project, generator: str) -> None:
    """Records that are awaited one by one are all rendered, once."""
    batch = Batch(project, generator, 1)

    async def main() -> list[ItemResult]:
        return [item async for item in abatch_generate_stream(batch.job, _numbered(batch, 100, []), keep_text=True)]

    items = asyncio.run(main())
    expected = {f"n{number}": f"n{number}" * (1 + number % 50) for number in range(100)}
    assert expected == {item.key: item.text for item in items}


@pytest.mark.parametrize("how", ["stream", "batch"])
def test_what_an_async_iterable_raises(project: Project, how: str) -> None:
    """It comes to the caller as it is, after what came of the records before it."""
    batch = Batch(project, "asay", 1)

    async def records() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            yield batch.record(number)
        raise LookupError("no more")

    async def main() -> None:
        if how == "batch":
            await abatch_generate(batch.job, records())
        else:
            async for item in abatch_generate_stream(batch.job, records()):
                keys.append(item.key)  # noqa: PERF401  (what came before the error counts)

    keys: list[str] = []
    with pytest.raises(LookupError, match="no more"):
        asyncio.run(main())
    assert {f"n{number}" for number in range(10)} == batch.texts().keys()
    assert how == "batch" or 10 == len(keys)


@pytest.mark.parametrize(
    ("name", "how"), [("asyncio", "cancel"), ("threads", "break"), ("processes", "cancel"), ("asyncio", "close")]
)
def test_leaving_a_stream(project: Project, name: str, how: str) -> None:
    """Who cancels, or breaks off, leaves no process behind, though items hang; what is written is whole."""
    faults = dict.fromkeys(range(10, 50), "hang")
    batch = Batch(project, suited(name, "fault"), 50, lane(name, 4 if name in CONCURRENT else 2), faults)
    before = {process.pid for process in children()}

    async def consume() -> None:
        items = abatch_generate_stream(batch.job)
        try:
            async for item in items:
                seen.set()
                if how != "cancel" and item:
                    break
        finally:
            if how == "close":
                await items.aclose()  # type: ignore[attr-defined]

    async def main() -> None:
        task = asyncio.create_task(consume())
        await asyncio.wait_for(seen.wait(), BOUND)
        if how == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, BOUND)
        else:
            await asyncio.wait_for(task, BOUND)
        if how != "break":
            assert [] == [one for one in children() if one.pid not in before and one.is_running()]

    seen = asyncio.Event()
    asyncio.run(main())
    wait_for(lambda: not [one for one in children() if one.pid not in before], "the end of the workers", BOUND)
    assert all(text == key for key, text in batch.texts().items())
    wait_for(lambda: not project.leftovers(), "the end of the run", BOUND)


def test_cancelling_a_batch(project: Project) -> None:
    """The same for one that is awaited as a whole."""
    batch = Batch(project, "afault", 50, lane("asyncio", 50), dict.fromkeys(range(10, 50), "hang"))

    async def main() -> None:
        task = asyncio.create_task(abatch_generate(batch.job))
        until = time.monotonic() + BOUND
        while not children() and time.monotonic() < until:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, BOUND)
        assert [] == [one for one in children() if one.is_running()]

    asyncio.run(main())
    assert [] == project.leftovers()


def test_a_slow_consumer_slows_the_renderer(project: Project) -> None:
    """Who takes no further item is not buried in them: no more records are asked for than fit what is in work."""
    batch = Batch(project, "asay", 1, lane("asyncio", 16))

    async def main() -> int:
        asked: list[int] = []
        items = abatch_generate_stream(batch.job, _numbered(batch, 100_000, asked))
        await anext(items)
        quiet, last = 0, -1
        until = time.monotonic() + BOUND
        while quiet < 20 and time.monotonic() < until:
            await asyncio.sleep(0.02)
            quiet, last = (quiet + 1, last) if last == len(asked) else (0, len(asked))
        await items.aclose()  # type: ignore[attr-defined]
        return last

    assert asyncio.run(main()) < 200


def test_an_iterable_that_never_comes(project: Project) -> None:
    """Cancelling ends a batch that waits for its caller's next record."""
    batch = Batch(project, "say", 1)

    async def records() -> AsyncIterator[dict[str, Any]]:
        yield batch.record(0)
        await asyncio.sleep(1000)

    async def main() -> None:
        async with asyncio.timeout(BOUND):
            items = abatch_generate_stream(batch.job, records())
            assert "n0" == (await anext(items)).key
            following = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0.3)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following

    asyncio.run(main())
    assert [] == project.leftovers()
