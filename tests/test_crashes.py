"""Crashes: however a worker dies, only the item it died of fails. Real processes and real signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from faults import PLUGIN, TEMPLATE, Case, Run, text

from chora_mp import Job, batch_generate_stream

if TYPE_CHECKING:
    import psutil
    from faults import Ended

    from tests.conftest import Project

WORDS = {
    "kill": "was killed by SIGKILL",
    "segfault": "was killed by SIGSEGV",
    "abort": "was killed by SIGABRT",
    "overflow": "was killed by SIGSEGV",
    "terminate": "was killed by SIGTERM",
    "exit 0": "ended with exit code 0",
    "exit 3": "ended with exit code 3",
}

ONCE = """
import os, signal, time

def once(name):
    try: os.mkdir(os.path.join(os.path.dirname(__file__), name))
    except FileExistsError: return False
    return True

def die(*_): os.kill(os.getpid(), signal.SIGKILL)
"""
"""For plug-ins: `once` is true for whoever asks first in the whole run."""


def stages(case: Case) -> set[str]:
    """The flags that `once` has put up."""
    return {path.name for path in case.project.folder.iterdir() if path.name.startswith("flag-")}


def only_complaint(ended: Ended) -> str:
    """The one line that a run which could not go on has told, without the program's name."""
    (line,) = ended.err.splitlines()
    return line.removeprefix("chora-mp: ")


def assert_stopped(ended: Ended) -> None:
    """It could not go on (exit code 2), left nothing behind, and what it had written is whole."""
    ended.assert_tidy()
    assert 2 == ended.code, ended.err


def test_the_expected_text_is_what_a_serial_run_writes(project: Project) -> None:
    """`faults.text`, which every other test here compares with, is what `-j 0` renders."""
    case = Case(project, 20)
    case.run("-j", "0").assert_only({}, code=0)
    assert {f"n{number}.txt": text(number) for number in range(20)} == case.documents()


# -- in the template


@pytest.mark.parametrize("how", WORDS)
def test_a_death_costs_the_guilty_item_alone(project: Project, how: str) -> None:
    """In mid-span, twice; the failure names the signal or the exit code."""
    ended = Case(project, faults={57: how}).run()
    ended.assert_only({57: "WorkerDied"})
    assert f"the worker {WORDS[how]} while it rendered the item" == ended.errors[57][1]
    assert (2, "n57", "n57.txt", 58) == (
        ended.failures[57]["attempts"],
        ended.failures[57]["key"],
        ended.failures[57]["path"],
        ended.failures[57]["source"]["line"],
    )


@pytest.mark.parametrize(
    "guilty",
    [(20, 21), (20, 50), (0, 1, 198, 199), tuple(range(0, 200, 8))],
    ids=["adjacent", "apart", "first and last", "one in every span"],
)
def test_several_deadly_items(project: Project, guilty: tuple[int, ...]) -> None:
    """In one span, side by side or apart, in every span, first and last: each is found, nobody else is blamed."""
    ended = Case(project, faults=dict.fromkeys(guilty, "kill")).run()
    ended.assert_only(dict.fromkeys(guilty, "WorkerDied"))
    assert {2} == {failure["attempts"] for failure in ended.failures.values()}


def test_a_poison_item_is_poison_again(project: Project) -> None:
    """What kills a worker is tried again by the next run, which renders nothing else; mended, it is rendered."""
    case = Case(project, faults={57: "segfault"})
    case.run().assert_only({57: "WorkerDied"})
    again = case.run()
    again.assert_only({57: "WorkerDied"})
    assert 199 == again.summary["unchanged"]
    project.write("faults.py", PLUGIN + "FILTERS = {'fault': lambda value: ''}\n")
    case.run().assert_only({}, code=0)


RAISED = {
    "raise": "ValueError",
    "unpicklable": "Unpicklable",
    "two arguments": "TwoArguments",
    "system exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "recurse": "RecursionError",
    "no memory": "MemoryError",
}


def test_an_exception_costs_its_item_alone(project: Project) -> None:
    """Whether it can be pickled, unpickled or caught by `except Exception` or not; it is tried once."""
    faults = dict(enumerate((*RAISED, "", *RAISED), 180))
    ended = Case(project, 195, {**faults, 0: "interrupt"}).run()
    ended.assert_only({0: "KeyboardInterrupt", **{seq: RAISED[how] for seq, how in faults.items() if how}})
    assert {1} == {failure["attempts"] for failure in ended.failures.values()}


# -- after the template

AFTER = """
from chora_mp.sinks import FileSink

rename, write = os.rename, FileSink.write

def deadly_rename(temporary, name, **folders):
    rename(temporary, name, **folders)
    if name == b"n57.txt" {condition}: die()

def deadly_write(self, path, data):
    done = write(self, path, data)
    if path == "n57.txt" {condition}: die()
    return done

{what}
"""


def dying_after_the_document(project: Project, what: str, condition: str = "") -> Case:
    """A case whose worker dies when document 57 is there and its span not yet answered."""
    return Case(project, plugin=PLUGIN + ONCE + AFTER.format(what=what, condition=condition))


def test_a_death_right_after_the_rename(project: Project) -> None:
    """The second attempt finds the document and leaves it alone, so that it renames nothing and lives."""
    dying_after_the_document(project, "os.rename = deadly_rename").run().assert_only({}, code=0)


@pytest.mark.parametrize("what", ["os.rename = deadly_rename", "FileSink.write = deadly_write"])
def test_a_single_death_after_the_document_was_written(project: Project, what: str) -> None:
    """Nothing fails: the item is tried once more, and counts once."""
    case = dying_after_the_document(project, what, "and once('flag-dead')")
    case.run().assert_only({}, code=0)
    assert {"flag-dead"} == stages(case)


def test_a_death_after_the_document_was_written_each_time(project: Project) -> None:
    """The item fails, though its document is there, whole; the others are as ever."""
    case = dying_after_the_document(project, "FileSink.write = deadly_write")
    ended = case.run()
    ended.assert_tidy()
    assert (1, {57: "WorkerDied"}, 2) == (
        ended.code,
        {seq: type_ for seq, (type_, _) in ended.errors.items()},
        ended.failures[57]["attempts"],
    )
    assert (200, 199, 1, 0) == ended.counts()
    assert {f"n{number}.txt": text(number) for number in range(200)} == case.documents()


BOMB = """
from multiprocessing.connection import Connection

send, well, lit = Connection._send_bytes, fault, []

def fault(value):
    if value == "bomb": lit.append(value)
    return "" if value == "bomb" else well(value)

def deadly_send(self, data):
    if lit and b"Outcome" in bytes(data): die()
    send(self, data)

Connection._send_bytes = deadly_send
FILTERS = {"fault": fault}
"""


@pytest.mark.parametrize("guilty", [0, 57, 199])
def test_an_item_that_kills_its_worker_later(project: Project, guilty: int) -> None:
    """Each time after the last record of its span, before the answer: halving finds it, nobody else is blamed."""
    ended = Case(project, faults={guilty: "bomb"}, plugin=PLUGIN + ONCE + BOMB).run()
    ended.assert_tidy()
    assert (1, {guilty: "WorkerDied"}) == (ended.code, {seq: type_ for seq, (type_, _) in ended.errors.items()}), (
        ended.err
    )
    assert (200, 199, 1, 0) == ended.counts()
    assert {f"n{number}.txt": text(number) for number in range(200)} == ended.case.documents()


# -- while the answer travels

SENDING = """
from multiprocessing.connection import Connection
from struct import pack

send = Connection._send_bytes

def deadly_send(self, data):
    data = bytes(data)
    with open(os.path.join(os.path.dirname(__file__), "lengths"), "a") as file: file.write(f"{len(data)}\\n")
    deadly = b"Outcome" in data and STAGE and once("flag-" + STAGE)
    if deadly and STAGE == "before": die()
    if deadly and STAGE == "middle":
        whole = pack("!i", len(data)) + data
        os.write(self.fileno(), whole[:len(whole) // 2])
        die()
    send(self, data)
    if deadly and STAGE == "after": die()

Connection._send_bytes = deadly_send
"""
LONG = """
well = fault
def fault(value):
    if value == "long": raise ValueError("é" * 1500)
    return well(value)
FILTERS = {"fault": fault}
"""
STAGES = ("before", "middle", "after")
LONGEST_MESSAGE = 16_384
"""Bytes. What a worker sends at once, beside one more that waits, has to fit a pipe of 64 KiB."""


def sending(stage: str) -> str:
    """A plug-in that notes how long each message of a worker's is, and dies once at `stage` of sending an outcome."""
    return PLUGIN + ONCE + SENDING.replace("STAGE", repr(stage))


def assert_short_messages(project: Project) -> None:
    """Every message that a worker has sent is short, and some were sent."""
    lengths = [int(line) for line in (project.folder / "lengths").read_text().split()]
    assert len(lengths) > 2
    assert max(lengths) <= LONGEST_MESSAGE


@pytest.mark.parametrize("stage", STAGES)
def test_a_death_while_the_answer_travels(project: Project, stage: str) -> None:
    """Just before, in the middle of or just after sending: the span is done again, nothing fails, nothing twice."""
    case = Case(project, plugin=sending(stage))
    case.run().assert_only({}, code=0)
    assert {f"flag-{stage}"} == stages(case)
    assert_short_messages(project)


@pytest.mark.parametrize("stage", STAGES)
def test_a_death_while_many_long_failures_travel(project: Project, stage: str) -> None:
    """Two thousand failures with long messages go in messages that fit the pipe: a death in one holds nobody."""
    faults = dict.fromkeys(range(2000), "long")
    case = Case(project, 2000, faults, plugin=sending(stage) + LONG)
    case.run().assert_only(dict.fromkeys(faults, "ValueError"))
    assert {f"flag-{stage}"} == stages(case)
    assert_short_messages(project)


KEEPING = """
import json
from chora_mp import Job, batch_generate_stream

for item in batch_generate_stream(Job.load("job.yaml").replace(workers=2), keep_text=True):
    long = item.text.rstrip("x")
    print(json.dumps([item.seq, item.error and item.error.message, long, len(item.text) - len(long)]))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_death_while_long_texts_travel(project: Project, stage: str) -> None:
    """Documents that are kept go past the pipe, in files: each comes once, whole, and no file is left."""
    case = Case(project, 120, plugin=sending(stage), template=TEMPLATE + "{{ 'x' * 204800 }}")
    project.write("keeping.py", KEEPING)
    ended = script(case, "keeping.py").end()
    assert ("", 0) == (ended.err, ended.code)
    assert [[number, None, text(number), 204_800] for number in range(120)] == (
        sorted(json.loads(line) for line in ended.out.splitlines())
    )
    assert [] == project.leftovers() + list(case.temporary.iterdir())
    assert {f"flag-{stage}"} == stages(case)
    assert_short_messages(project)


BIG = """
from chora_mp import Job, batch_generate

records = ({"name": f"n{n}", "number": n, "fault": "kill" if n in (0, 7, 19) else "", "much": "x" * 300_000}
           for n in range(20))
result = batch_generate(Job.load("job.yaml").replace(workers=2), records)
print(result.successful, [item.seq for item in result.failures], {item.error.type for item in result.failures})
"""


def test_a_death_while_big_records_travel(project: Project) -> None:
    """Spans of a megabyte are on their way to a worker as it dies: only the deadly items fail."""
    case = Case(project, 20)
    project.write("big.py", BIG)
    ended = script(case, "big.py").end()
    ended.assert_tidy()
    assert ("17 [0, 7, 19] {'WorkerDied'}\n", "", 0) == (ended.out, ended.err, ended.code)
    assert {f"n{number}.txt": text(number) for number in range(20) if number not in (0, 7, 19)} == case.documents()


# -- plug-ins


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_plugin_that_cannot_be_imported(project: Project, line: str, words: str) -> None:
    """One line names file, line and error; nothing is rendered."""
    ended = Case(project, plugin=f"import sys\n{line}\n{PLUGIN}").run()
    assert_stopped(ended)
    assert f"job.yaml:5: plugins: faults.py:2: {words}" == only_complaint(ended)
    assert {} == ended.case.documents()


def test_a_plugin_that_can_be_imported_once(project: Project) -> None:
    """The first worker is ready, the next cannot start: the run ends, and says why once."""
    plugin = ONCE + "if not once('flag-first'): raise RuntimeError('the licence is taken')\n" + PLUGIN
    ended = Case(project, 2000, {0: "kill"}, plugin=plugin).run()
    assert_stopped(ended)
    number = plugin[: plugin.index("if not once")].count("\n") + 1
    assert f"job.yaml:5: plugins: faults.py:{number}: RuntimeError: the licence is taken" == only_complaint(ended)


def test_a_plugin_that_kills_its_process_at_import(project: Project) -> None:
    """Every worker dies before it is ready: the run ends, and says how they died."""
    ended = Case(project, plugin="import os\nos._exit(7)\n").run()
    assert_stopped(ended)
    assert (
        "the worker ended with exit code 7 while it compiled the templates, before anything was rendered"
        == only_complaint(ended)
    )


def test_a_plugin_that_kills_every_process_but_the_first(project: Project) -> None:
    """The first worker dies of an item, and no other gets ready: the run ends, and says so once."""
    plugin = ONCE + "if not once('flag-first'): os._exit(7)\n" + PLUGIN
    ended = Case(project, faults={0: "kill"}, plugin=plugin).run()
    assert_stopped(ended)
    assert "a worker ended with exit code 7 before it reached a record, 3 times in a row" == only_complaint(ended)


def test_a_key_that_kills(project: Project) -> None:
    """Who cannot tell its records' keys cannot render: the run ends before anything is rendered, and says so."""
    case = Case(project, faults={57: "kill"})
    project.job('key: "{{ name }}{{ fault|fault }}"\nplugins: [faults.py]', template=TEMPLATE)
    ended = case.run()
    assert_stopped(ended)
    assert (
        "the worker was killed by SIGKILL while it looked through the source, before anything was rendered"
        == only_complaint(ended)
    )
    assert {} == case.documents()


# -- from outside

SLOW = """
import time
well = fault
def fault(value):
    time.sleep(0.005)
    return well(value)
FILTERS = {"fault": fault}
"""


def test_a_worker_killed_from_outside(project: Project) -> None:
    """Three times, while it renders: nothing is lost, and nobody is blamed."""
    run = (case := Case(project, 300, plugin=PLUGIN + SLOW)).start("--summary", "summary.json", "-j", "2")
    dead: set[int] = set()
    for count in (20, 80, 140):
        run.wait_for_documents(count)
        victim = run.wait_for(lambda: [one for one in run.workers() if one.pid not in dead], "a worker")[0]
        dead.add(victim.pid)
        victim.kill()
    run.end().assert_only({}, code=0)
    assert 3 == len(dead)
    assert 300 == len(case.documents())


WAITING = """
import os, sys, time
from chora_mp import Job, batch_generate

def records():
    yield {"name": "n0", "number": 0, "fault": ""}
    open("waiting", "w").close()
    while not os.path.exists("go on"): time.sleep(0.01)
    for number in range(1, 20): yield {"name": f"n{number}", "number": number, "fault": ""}

job = Job.load("job.yaml").replace(workers=2)
result = batch_generate(job, records())
assert (20, 0) == (result.successful, result.failed), result
"""


@pytest.mark.parametrize("who", ["worker", "server"])
def test_an_idle_worker_killed_from_outside(project: Project, who: str) -> None:
    """While the source is being waited for, or its fork server is: all is rendered, nobody is blamed."""
    case = Case(project, 20)
    project.write("waiting.py", WAITING)
    run = script(case, "waiting.py")
    run.wait_for(lambda: (project.folder / "waiting").exists() and case.documents(), "the first document")
    time.sleep(0.1)
    (victim,) = run.workers() if who == "worker" else servers(run)
    victim.kill()
    time.sleep(0.2)
    project.write("go on", "")
    ended = run.end()
    ended.assert_tidy()
    assert 0 == ended.code, ended.err
    assert {f"n{number}.txt": text(number) for number in range(20)} == case.documents()


def script(case: Case, name: str) -> Run:
    """A script in the project's folder under way, as `Case.start` has the command."""
    process = subprocess.Popen(
        [sys.executable, name],
        cwd=case.project.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(case.temporary)},
    )
    return Run(case, process)


def servers(run: Run) -> list[psutil.Process]:
    """The fork server, as a list."""
    parents = {worker.ppid() for worker in run.workers()}
    return [process for process in run.others() if process.pid in parents]


LONG_ITEM = """
well = fault
def fault(value):
    if value != "long": return well(value)
    with open(os.path.join(os.path.dirname(__file__), "begun"), "a") as file: file.write("x")
    time.sleep(0.5)
    return ""
FILTERS = {"fault": fault}
"""


def test_the_fork_server_killed_from_outside(project: Project) -> None:
    """Three times while one and the same item is in work: its workers go with it, and the item is not blamed."""
    run = Case(project, 60, {0: "long"}, plugin=PLUGIN + LONG_ITEM).start("--summary", "summary.json", "-j", "2")
    begun = project.folder / "begun"
    for count in range(1, 4):
        run.wait_for(lambda: begun.exists() and begun.stat().st_size == count, f"attempt {count}")  # noqa: B023
        (server,) = servers(run)
        server.kill()
    run.end().assert_only({}, code=0)
    assert "xxxx" == begun.read_text()


def test_an_item_that_kills_the_fork_server(project: Project) -> None:
    """All workers go with it each time: after some of those it is no accident any more."""
    plugin = """
import os, signal, time
def fault(value):
    if value: os.kill(os.getppid(), signal.SIGKILL); time.sleep(1000)
    return ""
FILTERS = {"fault": fault}
"""
    Case(project, 100, {57: "kill"}, plugin=plugin).run().assert_only({57: "WorkerDied"})


def test_a_worker_that_loses_its_pipes(project: Project) -> None:
    """A filter that closes what is not its own breaks the executor, and its worker lives: it is ended all the same."""
    plugin = """
import os, time
def fault(value):
    if value: os.closerange(3, 512); time.sleep(1000)
    return ""
FILTERS = {"fault": fault}
"""
    Case(project, 100, {57: "close"}, "limits: {timeout: 1s}", plugin).run().assert_only({57: "WorkerDied"})


def test_runs_in_several_threads(project: Project) -> None:
    """Of one process, at once: each has its workers, and the process is as it was."""
    from multiprocessing import process
    from threading import Thread

    before = dict(process.current_process()._config)
    results: list[int] = []

    def run(number: int) -> None:
        job = Job.load(project.folder / "job.yaml")
        for _turn in range(2):
            stream = batch_generate_stream(job.replace(output=None), keep_text=True)
            results.append(sum(1 for item in stream if item.status == "rendered"))

    Case(project, 60)
    threads = [Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [60] * 8 == results
    assert before == dict(process.current_process()._config)
