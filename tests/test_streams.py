"""Streams and sources: however a caller leaves, and whatever an iterable does, nothing of the run stays behind."""

from __future__ import annotations

import itertools
import time
import weakref
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faults import Case, text, wait_for

from chora_mp import Job, batch_generate, batch_generate_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.records import ItemResult
    from tests.conftest import Project


def processes() -> set[int]:
    """Everything that this process has started, but for Python's resource tracker, which stays."""
    found = psutil.Process().children(recursive=True)
    return {one.pid for one in found if one.is_running() and not is_tracker(one)}


def is_tracker(process: psutil.Process) -> bool:
    """Whether it is Python's resource tracker, or about to vanish."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return True


class Streams:
    """A case whose job runs in this process, and what has to hold afterwards."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch, count: int = 400) -> None:
        self.case = Case(project, count)
        self.job = Job.load(project.folder / "job.yaml").replace(workers=2)
        self.before = processes()
        monkeypatch.setenv("TMPDIR", str(self.case.temporary))
        monkeypatch.setattr("tempfile.tempdir", None)

    def started(self) -> set[int]:
        """The processes of the run."""
        return processes() - self.before

    def assert_nothing_left(self) -> None:
        """No process within 5 s, no temporary file, each document whole; and the folder is free for the next run."""
        wait_for(lambda: not self.started(), "the end of all processes", 5)
        assert [] == self.case.project.leftovers()
        assert [] == sorted(self.case.temporary.iterdir())
        for name, content in self.case.documents().items():
            assert text(int(name.removeprefix("n").removesuffix(".txt"))) == content
        result = batch_generate(self.job)
        assert (self.case.count, 0) == (result.successful + result.unchanged, result.failed)
        assert {f"n{number}.txt": text(number) for number in range(self.case.count)} == self.case.documents()


@pytest.fixture
def streams(project: Project, monkeypatch: pytest.MonkeyPatch) -> Streams:
    """A job of 400 records, to be run in this process."""
    return Streams(project, monkeypatch)


def close(stream: Iterator[ItemResult]) -> None:
    """What a consumer does that has enough."""
    stream.close()  # type: ignore[attr-defined]


def leave_in_a_loop(stream: Iterator[ItemResult]) -> None:
    """A consumer that raises in the midst of its loop."""
    with pytest.raises(LookupError, match="enough"):
        raise_at_once(stream)
    stream.close()  # type: ignore[attr-defined]  # pytest keeps the traceback, and that the stream


def raise_at_once(stream: Iterator[ItemResult]) -> None:
    """Look at one item, and raise."""
    for item in stream:
        raise LookupError(f"enough after {item.key}")


def throw(stream: Iterator[ItemResult]) -> None:
    """An exception that is thrown into the iterator, as Ctrl-C is."""
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def forget(stream: Iterator[ItemResult]) -> None:
    """A consumer that never comes back; its caller holds no reference either."""


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("leave", [close, leave_in_a_loop, throw, forget])
def test_a_consumer_that_leaves(streams: Streams, leave: Callable[[Iterator[ItemResult]], None], count: int) -> None:
    """After the first item and in the middle; closing, raising, interrupted or just forgetting."""
    stream = batch_generate_stream(streams.job)
    seqs = [item.seq for item in itertools.islice(stream, count)]
    assert count == len(set(seqs))
    assert streams.started()
    leave(stream)
    gone = weakref.ref(stream)
    del stream
    assert None is gone()
    streams.assert_nothing_left()


def test_a_consumer_that_never_begins(streams: Streams) -> None:
    """A stream that nobody asks for an item has started nothing."""
    close(batch_generate_stream(streams.job))
    assert set() == streams.started()
    assert not streams.case.project.out.exists()


def test_a_slow_consumer(streams: Streams) -> None:
    """Workers stop until there is room again: few files, and little memory, however many documents there are."""
    project, size = streams.case.project, 500_000
    project.job('key: "{{ name }}"', template=f"{{{{ name }}}}{{{{ 'x' * {size} }}}}")
    job = Job.load(project.folder / "job.yaml").replace(workers=2, output=None)
    own, most_files, most_bytes, seqs = psutil.Process(), 0, 0, []
    start = own.memory_info().rss
    for item in batch_generate_stream(job, keep_text=True):
        seqs.append(item.seq)
        assert size < len(item.text or "")
        if len(seqs) % 20 == 0:  # slow enough for the workers to do all that they may
            wait_for(lambda: is_quiet(streams.started()), "workers that wait")
            found = [path for path in streams.case.temporary.rglob("*") if path.is_file()]
            most_files = max(most_files, len(found))
            most_bytes = max(most_bytes, sum(path.stat().st_size for path in found))
            assert own.memory_info().rss - start < 150e6
    assert list(range(400)) == sorted(seqs)
    assert [] == list(streams.case.temporary.iterdir())
    # Two workers have two spans each, and one more is being handed over; each holds 8 MiB and one document at most.
    assert 0 < most_files < 5 + 10
    assert most_bytes < 5 * (8 * 2**20 + size) + 2**20


def is_quiet(pids: set[int]) -> bool:
    """Whether none of these processes does anything for 50 ms, which is long beside what a document takes."""
    before = spent(pids)
    time.sleep(0.05)
    return before == spent(pids)


def spent(pids: set[int]) -> dict[int, Any]:
    """The CPU seconds of each."""
    return {pid: psutil.Process(pid).cpu_times()[:2] for pid in pids}


# -- iterables


class OwnError(Exception):
    """What a caller's iterable raises."""


def failing(case: Case, count: int, error: BaseException) -> Iterator[dict[str, Any]]:
    """So many records, and then an error."""
    yield from map(case.record, range(count))
    raise error


@pytest.mark.parametrize("count", [0, 7, 300])
def test_an_iterable_that_raises(streams: Streams, count: int) -> None:
    """The items of the records before are delivered, each once; then comes the caller's own exception, as it is."""
    error, seqs = OwnError("no more"), []
    with pytest.raises(OwnError) as raised:  # noqa: PT012  (what comes before it is what this is about)
        for item in batch_generate_stream(streams.job, failing(streams.case, count, error)):
            seqs.append(item.seq)  # noqa: PERF401  (kept though it raises)
    assert raised.value is error
    assert list(range(count)) == sorted(seqs)
    assert {f"n{number}.txt" for number in range(count)} == set(streams.case.documents())
    streams.assert_nothing_left()


def test_an_iterable_that_interrupts(streams: Streams) -> None:
    """Ctrl-C while a record is being waited for goes to the caller; what is written is whole, and nothing is left."""
    with pytest.raises(KeyboardInterrupt):
        batch_generate(streams.job, failing(streams.case, 100, KeyboardInterrupt()))
    streams.assert_nothing_left()


def test_an_iterable_that_never_ends(streams: Streams) -> None:
    """Closed after some items, it was asked for few more than were delivered, and nothing is left."""
    asked = itertools.count()

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield streams.case.record(next(asked) % 400)

    job = streams.job.replace(output=None)
    stream = batch_generate_stream(job, endless(), keep_text=True)
    found = {item.seq: item.text for item in itertools.islice(stream, 300)}
    stream.close()  # type: ignore[attr-defined]
    assert {seq: text(seq % 400) for seq in found} == found
    assert 300 == len(found)
    assert {} == streams.case.documents()
    streams.assert_nothing_left()


@pytest.mark.parametrize(("count", "words"), [(0, ""), (150, " after record 150")])
def test_a_source_of_ones_own_that_raises(project: Project, count: int, words: str) -> None:
    """Exit code 2, one line that names file and line; nothing is rendered and nothing left."""
    case = Case(project)
    project.write("rows.py", f"def rows():\n    for n in range({count}):\n        yield {{'n': n}}\n    1 / 0\n")
    project.job('key: "{{ name }}"\nplugins: [faults.py]', source="{python: 'rows.py:rows'}")
    ended = case.run()
    ended.assert_tidy()
    assert (2, {}) == (ended.code, case.documents())
    message = f"rows.py:4: rows: raised ZeroDivisionError: division by zero{words}; correct it there"
    assert [f"chora-mp: {message}"] == ended.err.splitlines()


def test_a_source_of_ones_own_that_kills_its_process(project: Project) -> None:
    """Exit code 2, one line that says how it died; nothing is rendered and nothing left."""
    case = Case(project)
    project.write("rows.py", "import os\ndef rows():\n    yield {'n': 1}\n    os._exit(7)\n")
    project.job('key: "{{ name }}"', source="{python: 'rows.py:rows'}")
    ended = case.run()
    ended.assert_tidy()
    assert (2, {}) == (ended.code, case.documents())
    words = "the worker ended with exit code 7 while it read the source, before anything was rendered"
    assert [f"chora-mp: {words}"] == ended.err.splitlines()
