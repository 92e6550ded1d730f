"""The library: from a script without a guard, `python -c`, a REPL and a notebook; files, streams and iterables."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from conftest import STATE

import chora_mp
from chora_mp import BatchResult, ItemResult, Job, JobError, SourceError, batch_generate, batch_generate_stream
from chora_mp.policy import Errors
from chora_mp.sizing import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Project

BOUND = 60.0

SCRIPT = """
from chora_mp import Job, batch_generate
result = batch_generate(Job.load("job.yaml"))
print(result.total, result.successful, result.failed)
"""


def text_job(folder: Path, template: str = "Hello {{ name }}", **more: Any) -> Job:
    """A job without source and output."""
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "templates" / "page.txt.j2").write_text(template)
    return Job.from_mapping({"template": "page.txt.j2", **more}, folder)


def own_processes() -> set[int]:
    """Every process below this one, but for multiprocessing's resource tracker, which lives as long as Python does."""
    below = psutil.Process().children(recursive=True)
    return {child.pid for child in below if not _is_tracker(child)}


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline()) or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Any) -> bool:
    """Wait for a condition, within bounds."""
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_every_public_name_is_there() -> None:
    """What `__all__` promises can be imported."""
    assert [] == [name for name in chora_mp.__all__ if not hasattr(chora_mp, name)]
    with pytest.raises(AttributeError, match="no attribute 'batch_genrate'"):
        _ = chora_mp.batch_genrate


def test_a_job_file_is_rendered(project: Project) -> None:
    """Load, render, read the result."""
    project.records({"name": "a"}, {"name": "b"}, {"nome": "c"})
    result = batch_generate(Job.load(project.job()))
    assert isinstance(result, BatchResult)
    assert (3, 2, 1, 0) == (result.total, result.successful, result.failed, result.not_reached)
    assert {"a.txt": "a", "b.txt": "b"} == project.outputs()
    (failure,) = result.failures
    assert failure.error is not None
    assert ("UndefinedError", 2, ("data.jsonl", 3)) == (
        failure.error.type,
        failure.seq,
        (failure.source.file, failure.source.line) if failure.source else None,
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_lane_gives_the_same(project: Project, workers: int) -> None:
    """Inline, one worker, two workers: the same files and the same failures."""
    project.records(*({"name": f"n{number}", "v": number % 7} for number in range(500)))
    job = Job.load(project.job(template="{{ name }} {{ 10 // v }}")).replace(workers=workers)
    result = batch_generate(job)
    assert {f"n{number}.txt": f"n{number} {10 // (number % 7)}" for number in range(500) if number % 7} == (
        project.outputs()
    )
    assert [number for number in range(500) if number % 7 == 0] == [item.seq for item in result.failures]
    assert ["ZeroDivisionError"] == sorted({item.error.type for item in result.failures if item.error})


def test_progress_is_told_after_every_item(project: Project) -> None:
    """`on_progress(done, total, key)`: done rises by one, every key comes once."""
    project.records(*({"name": f"n{number}"} for number in range(300)))
    calls: list[tuple[int, int | None, str]] = []
    batch_generate(Job.load(project.job('key: "{{ name }}"')), on_progress=lambda *call: calls.append(call))
    assert list(range(1, 301)) == [done for done, _, _ in calls]
    assert {300} == {total for _, total, _ in calls}
    assert {f"n{number}" for number in range(300)} == {key for _, _, key in calls}


def test_the_stream_has_every_item_with_digest_and_size(project: Project) -> None:
    """Items carry what is known of their files."""
    project.records(*({"name": f"n{number}"} for number in range(50)))
    items = sorted(batch_generate_stream(Job.load(project.job())), key=lambda item: item.seq)
    assert list(range(50)) == [item.seq for item in items]
    assert [(f"n{n}.txt", "rendered", len(f"n{n}")) for n in range(50)] == [
        (item.path, item.status, item.size) for item in items
    ]
    assert 50 == len({item.digest for item in items})
    assert {None} == {item.text for item in items}


def test_texts_are_kept_and_nothing_is_written(tmp_path: Path) -> None:
    """`keep_text` without output: the documents come back, long and short, and the folder stays as it was."""
    job = text_job(tmp_path, "{{ name * size }}")
    records = [{"name": chr(0x41 + n % 26) + "é", "size": n * 97} for n in range(300)]
    items = {item.seq: item for item in batch_generate_stream(job, records, keep_text=True)}
    assert {n: record["name"] * record["size"] for n, record in enumerate(records)} == {  # type: ignore[operator]
        seq: item.text for seq, item in items.items()
    }
    assert ["templates"] == os.listdir(tmp_path)


def test_records_stand_in_for_the_source(tmp_path: Path) -> None:
    """An iterable of records renders to files; one that is no mapping fails alone."""
    job = text_job(tmp_path, output={"dir": "out", "path": "{{ name }}.txt"})
    result = batch_generate(job, [{"name": "a"}, ["b"], {"name": "c"}, {"name": object()}])  # type: ignore[list-item]
    assert (4, 2, 2) == (result.total, result.successful, result.failed)
    assert [".chora-mp", "a.txt", "c.txt"] == sorted(os.listdir(tmp_path / "out"))
    assert ["found a list", "builtins.object"] == [
        next(word for word in ("found a list", "builtins.object") if item.error and word in item.error.message)
        for item in result.failures
    ]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """No source and no records, or no output and no wish for text: an error that says what to do."""
    job = text_job(tmp_path)
    with pytest.raises(JobError, match="pass the records"):
        batch_generate(job)
    with pytest.raises(JobError, match="keep_text=True"):
        batch_generate_stream(job, [])
    with pytest.raises(JobError, match=r"output\.path"):
        batch_generate(job, [])


def test_an_endless_source_streams_in_flat_memory_and_stops_clean(tmp_path: Path) -> None:
    """First results at once, no growth over 40,000 items, and after closing no process and no file is left.

    The ledger's cache grows to its 16 MB first: with long paths it is full after 40,000 items.
    """
    name = "n" * 200
    job = text_job(tmp_path, output={"dir": "out", "path": f"{name}{{{{ n % 10 }}}}.txt"}, template="page.txt.j2")
    (tmp_path / "templates" / "page.txt.j2").write_text("{{ n % 10 }}")
    before = own_processes()
    stream = batch_generate_stream(job, ({"n": n} for n in itertools.count()))
    assert "rendered" == next(stream).status
    memory = psutil.Process().memory_info
    for _ in itertools.islice(stream, 50_000):
        pass
    settled = memory().rss
    for _ in itertools.islice(stream, 40_000):
        pass
    grown = memory().rss - settled
    stream.close()  # type: ignore[attr-defined]
    assert grown < 2 * 2**20
    assert until(lambda: own_processes() <= before)
    assert [".chora-mp", *(f"{name}{n}.txt" for n in range(10))] == sorted(os.listdir(tmp_path / "out"))
    assert STATE >= {f".chora-mp/{path}" for path in os.listdir(tmp_path / "out" / ".chora-mp")}


def test_a_slow_consumer_slows_the_renderer(tmp_path: Path) -> None:
    """Nobody reads ahead of a consumer by more than a few spans."""
    taken = 0

    def records() -> Iterator[dict[str, int]]:
        nonlocal taken
        for taken in itertools.count():
            yield {"name": taken}

    stream = batch_generate_stream(text_job(tmp_path), records(), keep_text=True)
    next(stream)
    first = taken
    time.sleep(0.3)
    assert first == taken
    stream.close()  # type: ignore[attr-defined]


def test_an_error_in_the_callers_iterable_is_the_callers(tmp_path: Path) -> None:
    """What the iterable raises comes through as it is, after what came before it; and the workers are gone."""

    def records() -> Iterator[dict[str, int]]:
        yield from ({"name": number} for number in range(100))
        raise RuntimeError("the database is gone")

    before = own_processes()
    got: list[int] = []
    with pytest.raises(RuntimeError, match="the database is gone"):  # noqa: PT012
        for item in batch_generate_stream(text_job(tmp_path), records(), keep_text=True):
            got.append(item.seq)  # noqa: PERF401  (what was given before the error counts)
    assert list(range(100)) == sorted(got)
    assert until(lambda: own_processes() <= before)


def test_what_was_given_back_is_rendered_before_the_callers_error(tmp_path: Path) -> None:
    """Spans that were cut short are finished although the iterable has raised meanwhile."""
    (tmp_path / "nap.py").write_text("import time\nFILTERS = {'nap': lambda v: time.sleep(0.05) or v}\n")

    def records() -> Iterator[dict[str, int]]:
        yield from ({"name": number} for number in range(40))
        raise OSError("the connection is gone")

    job = text_job(tmp_path, "{{ name | nap }}", plugins=["nap.py"])
    got: list[int] = []
    with pytest.raises(OSError, match="the connection is gone"):  # noqa: PT012
        for item in batch_generate_stream(job, records(), keep_text=True):
            got.append(item.seq)  # noqa: PERF401  (what was given before the error counts)
    assert list(range(40)) == sorted(got)


def test_a_mapping_that_raises_fails_alone(tmp_path: Path) -> None:
    """A record whose own methods raise is one failed item."""

    class Broken(Mapping[str, int]):
        def __getitem__(self, name: str) -> int:
            raise RuntimeError("broken")

        def __iter__(self) -> Iterator[str]:
            raise RuntimeError("broken")

        def __len__(self) -> int:
            return 1

    items = list(batch_generate_stream(text_job(tmp_path), [{"name": 1}, Broken(), {"name": 2}], keep_text=True))
    assert ["rendered", "failed", "rendered"] == [item.status for item in sorted(items, key=lambda item: item.seq)]


def test_fail_fast_reaches_no_further(project: Project) -> None:
    """The first failure ends the run; the counts add up."""
    project.records({"nome": "x"}, *({"name": f"n{number}"} for number in range(20_000)))
    result = batch_generate(Job.load(project.job()).replace(errors=Errors("fail-fast")))
    assert 1 == result.failed
    assert result.not_reached > 0
    assert 20_001 == result.total == result.successful + result.failed + result.not_reached


def test_a_second_run_renders_nothing(project: Project) -> None:
    """What is up to date is counted, not rendered; time stamps stay."""
    project.records({"name": "a"}, {"name": "b"})
    job = Job.load(project.job())
    assert (2, 0) == (batch_generate(job).successful, batch_generate(job).successful)
    before = (project.out / "a.txt").stat()
    again = batch_generate(job)
    assert (2, 0, 2, 0, 0) == (again.total, again.successful, again.unchanged, again.bytes_written, again.workers)
    after = (project.out / "a.txt").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_unchanged_bytes_are_left_alone(project: Project) -> None:
    """A second run that is forced to render writes nothing, and says so in `bytes_written`; time stamps stay."""
    project.records({"name": "a"})
    job = Job.load(project.job())
    assert 1 == batch_generate(job).bytes_written
    before = (project.out / "a.txt").stat()
    again = batch_generate(job, force=True)
    assert (0, 1, 0) == (again.bytes_written, again.successful, again.unchanged)
    after = (project.out / "a.txt").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_only_what_is_not_up_to_date_is_rendered(project: Project) -> None:
    """A record that changed or is new, an output that is gone or was edited, an item that failed; the rest stays."""
    project.job('key: "{{ name }}"', template="{{ name }} {{ 2 // v }}")
    before = {"same": 1, "changed": 1, "missing": 1, "edited": 1, "failed": 0}
    after = {"new": 1, "same": 1, "changed": 2, "missing": 1, "edited": 1, "failed": 1}
    project.records(*({"name": name, "v": v} for name, v in before.items()))
    job = Job.load(project.folder / "job.yaml")
    assert (4, 1) == (batch_generate(job).successful, len(batch_generate(job).failures))
    (project.out / "missing.txt").unlink()
    project.write("out/edited.txt", "by hand")
    project.records(*({"name": name, "v": v} for name, v in after.items()))
    found = {item.key: item.status for item in batch_generate_stream(job)}
    assert {name: "unchanged" if name == "same" else "rendered" for name in after} == found
    assert {f"{name}.txt": f"{name} {2 // v}" for name, v in after.items()} == project.outputs()


@pytest.mark.parametrize("names", [["a", "A"], ["A", "a/x"], ["a/x", "A"], ["A/x", "a/y", "A"], ["é/x", "e\u0301"]])
def test_paths_that_a_folding_file_system_takes_for_one(
    project: Project, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Where `A` is `a`, files and folders that differ in no more than that are refused, and rendered elsewhere."""
    project.records(*({"name": name} for name in names))
    job = Job.load(project.job("workers: 0", path="{{ name }}"))
    with monkeypatch.context() as patch:
        patch.setattr("chora_mp.planning.Planner._folds", lambda self: True)
        with pytest.raises(JobError, match=r"paths must be unique|one is a folder of the other"):
            batch_generate(job)
    assert not project.out.exists()
    if "A/x" not in names:
        assert len(names) == batch_generate(job).successful


@pytest.mark.parametrize("workers", [0, 2])
def test_only_counts_what_is_asked_for(project: Project, workers: int) -> None:
    """Items that the glob leaves out are none of the run; records that have no key always belong to it."""
    project.records(*({"name": f"n{number}"} for number in range(20)), {"nome": "x"}, "[1]")
    job = Job.load(project.job('key: "{{ name }}"')).replace(workers=workers)
    first = batch_generate(job, only="n1*")
    assert (13, 11, 2, 0) == (first.total, first.successful, first.failed, first.unchanged)
    assert {f"n{number}.txt" for number in (1, *range(10, 20))} == {*project.outputs()}
    second = batch_generate(job, only="n?")
    assert (12, 9, 2, 1) == (second.total, second.successful, second.failed, second.unchanged)
    third = batch_generate(job)
    assert (22, 0, 2, 20) == (third.total, third.successful, third.failed, third.unchanged)


def test_a_template_that_changed_renders_what_it_reaches(project: Project) -> None:
    """An edit of a template renders the items that are made from it again, and no others."""
    project.records({"name": "a", "kind": "one"}, {"name": "b", "kind": "two"})
    project.write("templates/one.txt.j2", "one {{ name }}")
    project.write("templates/two.txt.j2", "two {{ name }}")
    text = "source: data.jsonl\ntemplate: '{{ kind }}.txt.j2'\noutput: {dir: out, path: '{{ name }}.txt'}\n"
    job = Job.load(project.write("job.yaml", text))
    assert 2 == batch_generate(job).successful
    project.write("templates/two.txt.j2", "2 {{ name }}")
    again = batch_generate(job)
    assert (1, 1) == (again.successful, again.unchanged)
    assert {"a.txt": "one a", "b.txt": "2 b"} == project.outputs()


def test_constants_yield_to_the_record(project: Project) -> None:
    """A record's own names win over the job's constants, in templates and in paths."""
    project.records({"name": "a"}, {"name": "b", "edition": 1})
    project.job("context: {edition: 2026}", template="{{ edition }}", path="{{ name }}-{{ edition }}.txt")
    batch_generate(Job.load(project.folder / "job.yaml"))
    assert {"a-2026.txt": "2026", "b-1.txt": "1"} == project.outputs()


def test_a_small_job_opens_one_worker(project: Project) -> None:
    """Three items are not worth a second process, unless somebody asks for one."""
    project.records({"name": "a"}, {"name": "b"}, {"name": "c"})
    job = Job.load(project.job())
    assert 1 == batch_generate(job.replace(limits=Limits(max_workers=8))).workers
    shutil.rmtree(project.out)
    assert 1 < batch_generate(job.replace(workers=8)).workers <= 3


def test_a_source_that_changes_under_the_run_is_noticed(project: Project) -> None:
    """A JSONL file that somebody writes to in mid-run stops the run with a word about it."""
    data = project.records(*({"name": f"n{number}"} for number in range(5_000)))
    stream = batch_generate_stream(Job.load(project.job("workers: 1")))
    next(stream)
    with data.open("a") as file:
        file.write('{"name": "late"}\n')
    with pytest.raises(SourceError, match=r"data\.jsonl: the file changed"):
        list(stream)


def test_a_template_edited_in_mid_run_does_not_mix_in(project: Project) -> None:
    """Every document of a run comes from the templates as they were at its start."""
    project.records(*({"name": f"n{number}"} for number in range(5_000)))
    stream = batch_generate_stream(Job.load(project.job(template="old {{ name }}")))
    next(stream)
    project.write("templates/page.txt.j2", "new {{ name }}")
    assert 4_999 == sum(1 for _ in stream)
    assert {"old"} == {text.split()[0] for text in project.outputs().values()}


def test_two_batches_run_side_by_side_in_threads(tmp_path: Path) -> None:
    """Nothing of a run is global: two threads render at once."""
    results: dict[str, list[str | None]] = {}

    def generate(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        items = batch_generate_stream(text_job(folder), ({"name": name} for _ in range(500)), keep_text=True)
        results[name] = [item.text for item in items]

    threads = [threading.Thread(target=generate, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert {name: [f"Hello {name}"] * 500 for name in ("left", "right")} == results


@pytest.mark.parametrize("way", ["script", "command", "standard input", "interactive"])
def test_no_main_guard_is_needed(project: Project, way: str) -> None:
    """A script without a guard, `python -c`, `python -` and a REPL: the caller's code runs once, in one process."""
    project.records(*({"name": f"n{number}"} for number in range(3)))
    project.job()
    script = project.write("use.py", SCRIPT)
    commands = {
        "script": ([sys.executable, str(script)], None),
        "command": ([sys.executable, "-c", SCRIPT], None),
        "standard input": ([sys.executable, "-"], SCRIPT),
        "interactive": ([sys.executable, "-i", "-q"], SCRIPT),
    }
    command, given = commands[way]
    done = subprocess.run(
        command, cwd=project.folder, capture_output=True, text=True, timeout=BOUND, check=False, input=given
    )
    assert "3 3 0" == done.stdout.strip(), done.stderr


def test_a_notebook_renders(project: Project) -> None:
    """A Jupyter kernel renders a job, cell by cell."""
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    project.records({"name": "a"}, {"name": "b"})
    project.job()
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(project.folder))
    try:
        printed: list[str] = []
        client.execute_interactive(
            SCRIPT, timeout=BOUND, output_hook=lambda message: printed.append(json.dumps(message["content"]))
        )
        assert any("2 2 0" in text for text in printed), printed
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_observers_hear_the_run_in_order(project: Project) -> None:
    """Reading, rendering, spans, end; the last span's counts are the result's."""
    from chora_mp.events import RenderingEnded, SpanCompleted

    project.records(*({"name": f"n{number}"} for number in range(200)))
    heard: list[Any] = []
    result = batch_generate(Job.load(project.job()), observers=[heard.append])
    names = [type(event).__name__ for event in heard]
    assert ["ReadingStarted", "BatchStarted", "RenderingStarted"] == names[:3]
    assert {"SpanCompleted", "ItemCompleted"} == set(names[3:-2])
    assert ["RenderingEnded", "BatchCompleted"] == names[-2:]
    spans = [event for event in heard if isinstance(event, SpanCompleted)]
    ended = next(event for event in heard if isinstance(event, RenderingEnded))
    assert (200, 200, result.total) == (spans[-1].done, names.count("ItemCompleted"), ended.result.total)


def test_results_cross_process_boundaries() -> None:
    """An item knows how to be shown in the summary."""
    item = ItemResult("k", "p", 3, "failed", error=chora_mp.Failure("T", "m", "t", 1, ("t:1",)))
    expected = {
        "key": "k",
        "path": "p",
        "seq": 3,
        "source": None,
        "error": {"type": "T", "message": "m", "template": "t", "line": 1, "chain": ("t:1",)},
        "attempts": 1,
    }
    assert expected == item.as_dict()
    assert replace(item, seq=4) != item
