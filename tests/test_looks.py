"""Looks: two processes find together which outputs are not as they were, and one alone finds the same."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from chora_mp import ahead, looks, seats
from chora_mp.looks import Other, changed_in_two, start_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Project

COUNT = 5000
CHANGED = [0, 1, 2047, 2048, 2049, 2500, 4095, 4096, 4998, 4999]
"""Numbers of outputs that are changed, at the edges of the parts above all."""

EDITS = [
    lambda path: path.write_text("edited"),
    lambda path: path.unlink(),
    lambda path: os.utime(path, (1, 1)),
    lambda path: shutil.copyfile(path, f"{path}~") and os.replace(f"{path}~", path),
    lambda path: (path.unlink(), path.symlink_to("n3")),
    lambda path: (path.unlink(), path.mkdir()),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs and as much of a ledger as the looks need."""
    folder = tmp_path_factory.mktemp("looks")
    (folder / "out").mkdir()
    (folder / "ledger.sha256").write_text("sealed\n")
    rows = []
    for number in range(COUNT):
        path = folder / "out" / f"n{number}"
        path.write_text(f"{number}")
        status = path.stat()
        rows.append((10 * number, path.name, status.st_size, status.st_mtime_ns, status.st_ino, number % 2))
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        db.executescript("CREATE TABLE outputs (at INTEGER PRIMARY KEY, path, size, mtime, inode, closure, error);")
        db.execute("BEGIN")
        db.executemany("INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, NULL)", rows)
        db.execute("COMMIT")
    for number in CHANGED:
        EDITS[number % len(EDITS)](folder / "out" / f"n{number}")
    return folder


@pytest.fixture(autouse=True)
def _nothing_ahead() -> Iterator[None]:
    yield
    while looks._ahead:
        looks._ahead.pop().end()


def found(shop: Path, where: str = "error IS NULL", seal: str | None = "sealed") -> list[int]:
    """The numbers of the outputs that have changed, in order."""
    with closing(sqlite3.connect(shop / "ledger.db", isolation_level=None)) as db:
        places = changed_in_two(db, str(shop / "ledger.db"), str(shop / "out"), where, seal)
    assert len(places) == len(set(places))
    return sorted(place // 10 for place in places)


def begin(shop: Path) -> Other:
    """The other process, started ahead; it has begun by now."""
    start_ahead(str(shop / "out" / ".." / "ledger.db"), str(shop / "out"), "sealed")
    (other,) = looks._ahead
    return other


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until it is so, for a minute at the most."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("worth", [0, 2**40], ids=["two", "one"])
def test_alone_and_in_two(shop: Path, monkeypatch: pytest.MonkeyPatch, worth: int) -> None:
    """What one process finds by itself two find as well."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", worth)
    assert CHANGED == found(shop)


@pytest.mark.parametrize("part", [1, 7, 2048, 10**6])
@pytest.mark.parametrize("reached", [COUNT, 3000, 10, 0])
def test_wherever_they_meet(shop: Path, monkeypatch: pytest.MonkeyPatch, reached: int, part: int) -> None:
    """The other may have gone far before this one begins, or all the way."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    monkeypatch.setattr(looks, "_PART", part)
    other = begin(shop)
    wait_for(lambda: other.has_reached(10 * reached))
    assert CHANGED == found(shop)
    assert [] == looks._ahead


def test_only_what_is_asked_for_is_sure(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `where` selects is complete; nothing unchanged is ever told."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    for early in (False, True):
        if early:
            begin(shop)
        even = {number for number in CHANGED if number % 2 == 0}
        assert even <= {*found(shop, "closure = 0")} <= {*CHANGED}
    assert [] == found(shop, "closure = 5")


def test_another_process_that_dies(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of the other, at once or in the middle, this one goes on to the end."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    for reached in (10 * COUNT, 25_000):
        other = begin(shop)
        wait_for(lambda other=other, reached=reached: other.has_reached(reached))  # type: ignore[misc]
        os.kill(other._process.pid, signal.SIGKILL)
        assert CHANGED == found(shop)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert CHANGED == found(shop)


def test_what_was_begun_too_early(shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was begun on another ledger, before a scan, or beside another seal does not count."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    shutil.copyfile(shop / "ledger.db", tmp_path / "ledger.db")
    (tmp_path / "ledger.sha256").write_text("sealed\n")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.execute("UPDATE outputs SET size = size + 1")
        db.commit()
    start_ahead(str(tmp_path / "ledger.db"), str(shop / "out"), "sealed")
    assert CHANGED == found(shop)
    for seal in (None, "another"):
        other = begin(shop)
        wait_for(lambda other=other: other.has_reached(0))  # type: ignore[misc]
        other.found = [33]  # as if it had been another state
        assert CHANGED == found(shop, seal=seal)


@pytest.mark.parametrize("seal", ["", "another"])
def test_a_seal_that_is_gone(shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seal: str) -> None:
    """Where a run has begun meanwhile, the seal is gone or another one: nothing that the other says counts."""
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    shutil.copyfile(shop / "ledger.db", tmp_path / "ledger.db")
    (tmp_path / "ledger.sha256").write_text(seal)
    start_ahead(str(tmp_path / "ledger.db"), str(shop / "out"), "sealed")
    (other,) = looks._ahead
    wait_for(lambda: other._reached == -1 or other.has_reached(0))
    assert not other.has_reached(10 * COUNT)
    start_ahead(str(tmp_path / "ledger.db"), str(shop / "out"), "")
    assert [other] == looks._ahead


def test_no_folder(shop: Path) -> None:
    """Where the folder is gone every output has changed."""
    with closing(sqlite3.connect(shop / "ledger.db")) as db:
        places = changed_in_two(db, str(shop / "ledger.db"), str(shop / "absent"), "error IS NULL", None)
    assert [10 * number for number in range(COUNT)] == sorted(places)


# ---- the command -----------------------------------------------------------------------------------------

MANY = 21_000


def test_the_command_looks_ahead(project: Project) -> None:
    """With many outputs, changes in any of them are found, also by a run that changes the ledger under its feet."""
    project.records(*({"name": f"n{number}"} for number in range(MANY)))
    project.job("workers: 2")
    assert 0 == project.render()[0]
    assert looks._is_worth_it(str(project.out / ".chora-mp" / "ledger.db"))
    names = [f"n{number}.txt" for number in (0, 1, MANY // 2, MANY - 1)]
    for name in names[:2]:
        (project.out / name).unlink()
    for name in names[2:]:
        (project.out / name).write_text("edited")
    counts = []
    for _ in range(2):
        code, summary, _ = project.render()
        counts.append((code, summary["successful"], summary["unchanged"]))
    assert [(0, 4, MANY - 4), (0, 0, MANY)] == counts
    assert [name.removesuffix(".txt") for name in names] == [(project.out / name).read_text().strip() for name in names]
    project.write("templates/page.txt.j2", "new {{ name }}")
    code, summary, _ = project.render()
    assert (0, MANY) == (code, summary["successful"])


@pytest.mark.parametrize(
    "text",
    ["", "[", "7", "output: 7", "output: {dir: 7}", "output: {dir: ''}", "source: data.jsonl\noutput: {dir: out}"],
)
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("more", [(), ("-o", "out")])
def test_a_guess_that_comes_to_nothing(project: Project, text: str, state: bool, more: tuple[str, ...]) -> None:
    """Whatever is in a job file, what is said of it is said once, and nothing is left."""
    project.write("job.yaml", text)
    if state:
        project.write("out/.chora-mp/ledger.db", b"x" * looks._WORTH_BYTES)
    code, _, stderr = project.render(*more)
    assert code == 2
    assert stderr.startswith("chora-mp: job.yaml:"), stderr
    assert "Traceback" not in stderr


def test_what_is_started_ahead(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first run the fork server; later the looks, if there are many outputs and no run is under way."""
    options = {"output_dir": None, "jobs": None}
    monkeypatch.setattr(looks, "_WORTH_BYTES", 0)
    project.records({"name": "a"})
    job = str(project.job())
    ahead.start_ahead(job, {**options, "jobs": 0})
    assert ([], []) == (looks._ahead, seats._ahead)
    ahead.start_ahead(job, options)
    seats.Server.next().stop()
    assert ([], []) == (looks._ahead, seats._ahead)
    assert 0 == project.render()[0]
    ahead.start_ahead(job, options)
    assert (1, []) == (len(looks._ahead), seats._ahead)
    looks._ahead.pop().end()
    (project.out / ".chora-mp" / "ledger.sha256").unlink()
    ahead.start_ahead(job, options)
    assert ([], []) == (looks._ahead, seats._ahead)


def test_edits_while_the_source_is_read(project: Project) -> None:
    """What happens to outputs while a slow source is read is seen: they are looked at after that."""
    project.write("rows.py", ROWS)
    project.job(source='{python: "rows.py:records"}')
    assert 0 == project.render()[0]
    code, summary, _ = project.render()
    assert (0, 1, MANY - 1) == (code, summary["successful"], summary["unchanged"])
    assert (project.out / "n20900.txt").exists()


ROWS = f"""
import os, time

def records():
    if os.path.exists("out/n20900.txt"):
        time.sleep(0.5)
        os.unlink("out/n20900.txt")
    return ({{"name": f"n{{number}}"}} for number in range({MANY}))
"""


def test_a_job_from_a_pipe(project: Project) -> None:
    """A job file that can be read only once is read only once."""
    project.records({"name": "a"})
    project.job()
    os.mkfifo(project.folder / "pipe.yaml")
    with subprocess.Popen(["cp", "job.yaml", "pipe.yaml"], cwd=project.folder) as writer:
        code, summary, stderr = project.render(job="pipe.yaml")
        writer.wait(60)
    assert (0, 1) == (code, summary["successful"]), stderr
