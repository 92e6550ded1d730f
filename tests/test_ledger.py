"""The ledger: what it says, and that no damage to it, cut, flipped, foreign or full, leads to a wrong skip."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp import ChoraError, Job, LedgerError, batch_generate, ledger, plan, progress
from chora_mp.events import SpanCompleted
from chora_mp.upkeep import status, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Project

    from chora_mp import BatchResult
    from chora_mp.events import Event

COUNT = 60
FAILING = ("n7", "n21")
V1 = os.path.join(os.path.dirname(__file__), "data", "ledger-v1.db")


def make(project: Project, count: int = COUNT) -> None:
    """A job of two templates, two of whose items fail."""
    project.records(*records(count))
    project.write("templates/page.j2", "page {{ name }} {{ v }} {{ 1 // divisor }}\n")
    project.write("templates/note.j2", "note {{ name }} {{ v }} {{ 1 // divisor }}\n")
    project.write(
        "job.yaml",
        'source: data.jsonl\ntemplate: "{{ kind }}.j2"\nkey: "{{ name }}"\n'
        'output: {dir: out, path: "{{ folder }}/{{ name }}.txt"}\ncontext: {year: 2026}\nworkers: 0\n',
    )


def records(count: int = COUNT) -> list[dict[str, Any]]:
    """Records that know their template and folder."""
    return [
        {"name": f"n{n}", "kind": ("page", "note")[n % 2], "folder": f"f{n % 5}", "v": n, "divisor": int(f"n{n}" not in FAILING)}
        for n in range(count)
    ]  # fmt: skip


def loaded(project: Project) -> Job:
    """The job."""
    return Job.load(project.folder / "job.yaml")


def render(project: Project, **options: Any) -> BatchResult:
    """One run."""
    return batch_generate(loaded(project), **options)


def counts(result: BatchResult) -> tuple[int, int, int]:
    """How many items were rendered, failed and were up to date."""
    return result.successful, result.failed, result.unchanged


def documents(project: Project) -> dict[str, str]:
    """Path and text of every document."""
    return {path: text for path, text in project.outputs().items() if not path.startswith(".chora-mp/")}


def fresh(project: Project) -> dict[str, str]:
    """The documents of a run into a folder of its own, which goes."""
    job = loaded(project)
    assert job.output is not None
    folder = project.folder / "fresh"
    batch_generate(job.replace(output=type(job.output)(folder, job.output.path)))
    found = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}
    shutil.rmtree(folder)
    return found


def state(project: Project, name: str = "") -> Path:
    """A file of the state folder."""
    return project.out / ".chora-mp" / name


def ask(project: Project, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What the ledger answers, as a person asks it."""
    with closing(sqlite3.connect(state(project, "ledger.db"))) as database, database:
        return database.execute(sql, values).fetchall()


# ---- what it says ------------------------------------------------------------------------------------------


def test_what_the_file_is(project: Project) -> None:
    """An SQLite database in WAL mode that says whose it is and of which version; closed, it is one file."""
    make(project)
    render(project)
    found = [ask(project, f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version", "journal_mode")]
    assert [0x43684D50, ledger.VERSION, "wal"] == found
    assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(state(project)))


def test_a_row_for_each_output(project: Project) -> None:
    """Each item's key, path, record, closure and file, as they are."""
    make(project)
    render(project)
    rows = ask(
        project, "SELECT key, path, input, digest, size, mtime, inode, status, error, attempts, run FROM outputs"
    )
    found = {row[0]: row[1:] for row in rows}
    assert {f"n{n}" for n in range(COUNT)} == {*found}
    lines = (project.folder / "data.jsonl").read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        path, source, digest, size, mtime, inode, state_, error, attempts, run = found[f"n{number}"]
        assert (f"f{number % 5}/n{number}.txt", 1, 1) == (path, attempts, run)
        if f"n{number}" in FAILING:
            assert (None, None, "failed", "ZeroDivisionError") == (source, digest, state_, json.loads(error)["type"])
            continue
        data, file = (project.out / path).read_bytes(), (project.out / path).stat()
        assert (digest_of(line), digest_of(data), "rendered", None) == (source, digest, state_, error)
        assert (file.st_size, file.st_mtime_ns, file.st_ino) == (size, mtime, inode)
    assert [(True,)] == ask(project, "SELECT min(duration) > 0 AND max(duration) < 60 FROM outputs")
    assert [(0,)] == ask(project, "SELECT count(*) FROM outputs WHERE error IS NULL AND closure NOT IN (SELECT number FROM closures)")  # fmt: skip


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, as `docs/ledger.md` says."""
    return blake2b(data, digest_size=16).digest()


def test_a_row_for_each_run(project: Project) -> None:
    """When it began and ended, what came of it, on how many workers and why, and what was asked for."""
    make(project)
    first = render(project)
    second = render(project, only="n1*", force=True, prune=True)
    columns = "name, job, total, successful, failed, unchanged, not_reached, pruned, written, workers"
    expected = [
        tuple(getattr(result, {"name": "run_id", "written": "bytes_written"}.get(name, name)) for name in columns.split(", "))
        for result in (first, second)
    ]  # fmt: skip
    assert expected == ask(project, f"SELECT {columns} FROM runs ORDER BY id")
    assert [(True, True)] * 2 == ask(
        project, "SELECT started <= ended, started LIKE '20__-__-__T__:__:__.___Z' FROM runs"
    )
    (plain,), (wishes,) = ask(project, "SELECT options FROM runs ORDER BY id")
    assert {"workers": 0, "timeout": 300, "policy": "collect"} == json.loads(plain)
    assert {"only": "n1*", "force": True, "prune": True} == {name: json.loads(wishes)[name] for name in ("only", "force", "prune")}  # fmt: skip
    assert first.sizing == json.loads(ask(project, "SELECT sizing FROM runs")[0][0])


def test_failures(project: Project) -> None:
    """The items that failed last, with file and line of their records, those without a key among them."""
    make(project)
    project.records(*records(8), "{broken")
    render(project)
    rows = ask(project, "SELECT seq, key, path, file, line, attempts, json_extract(error, '$.type'), run FROM failures")
    expected = [
        (7, "n7", "f2/n7.txt", "data.jsonl", 8, 1, "ZeroDivisionError", 1),
        (8, "data.jsonl:9", "", "data.jsonl", 9, 1, "JSONDecodeError", 1),
    ]
    assert expected == rows
    project.records(*records(8)[:7])
    render(project)
    assert [] == ask(project, "SELECT * FROM failures")


def test_a_failed_item_whose_record_is_gone(project: Project) -> None:
    """Nothing of it is kept: it made no file, and it fails no more."""
    make(project)
    render(project)
    project.records(*(record for record in records() if record["name"] not in FAILING))
    assert (0, 0, COUNT - 2) == counts(render(project))
    assert [("rendered", COUNT - 2)] == ask(project, "SELECT status, count(*) FROM outputs GROUP BY status")
    assert 0 == status(loaded(project)).failed


def test_failures_that_a_run_left_alone(project: Project) -> None:
    """What failed and was not asked for in the last run is still told of."""
    make(project)
    render(project)
    render(project, only="n1")
    found = status(loaded(project))
    assert (2, list(FAILING)) == (found.failed, [failure.key for failure in found.failures])


def test_rows_follow_records(project: Project) -> None:
    """However records come and go, there is one row for each key and path, and it says what is on disk."""
    make(project)
    draw = random.Random(7)
    for turn in range(8):
        kept = draw.sample(records(), k=draw.randint(20, COUNT))
        project.records(*kept)
        if turn % 2:
            edited = (project.folder / "templates/page.j2").read_text()
            project.write("templates/page.j2", f"{edited}.")
        render(project, prune=True)
        names = sorted(record["name"] for record in kept)
        assert [(name,) for name in names] == sorted(ask(project, "SELECT key FROM outputs"))
        assert verify(loaded(project)).sound
        assert fresh(project) == documents(project)


# ---- other versions and other files ------------------------------------------------------------------------


def test_newer_schema(project: Project) -> None:
    """A ledger of a newer version is refused and left alone: exit code 2, both versions named, no traceback."""
    make(project)
    render(project)
    ask(project, f"PRAGMA user_version = {ledger.VERSION + 1}")
    before = state(project, "ledger.db").read_bytes()
    for command in (
        ("render", "job.yaml"),
        ("render", "job.yaml", "-n"),
        ("verify", "job.yaml"),
        ("status", "job.yaml"),
    ):
        run = project.run(*command)
        assert (2, "") == (run.returncode, run.stdout)
        expected = (
            f"chora-mp: out/.chora-mp/ledger.db: has schema {ledger.VERSION + 1}, made by a newer chora-mp; this one ("
        )
        assert run.stderr.startswith(expected), run.stderr
        assert f"knows up to {ledger.VERSION}: upgrade it" in run.stderr
    assert before == state(project, "ledger.db").read_bytes()
    assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(state(project)))


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE outputs (whose)")
        database.execute("INSERT INTO outputs VALUES ('mine')")


def _text(path: Path) -> None:
    path.write_text("# my notes\n" * 100)


def _short_text(path: Path) -> None:
    path.write_text("x")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def _other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA application_id = 7")


@pytest.mark.parametrize("replace", [_foreign, _text, _short_text, _zeros, _other_application])
def test_another_file_in_its_place(project: Project, replace: Callable[[Path], None]) -> None:
    """What is no ledger is set aside as it is, the person is told, and all is rendered anew; N counts up."""
    make(project)
    render(project)
    expected = documents(project)
    for number in (1, 2):
        replace(state(project, "ledger.db"))
        content = state(project, "ledger.db").read_bytes()
        code, summary, stderr = project.render()
        name = f"ledger.db.bad-{number}"
        told = (
            f"chora-mp: the ledger was damaged and is set aside as out/.chora-mp/{name}; every output is checked anew"
        )
        assert (1, told) == (code, stderr.splitlines()[0])
        assert (COUNT - 2, 0) == (summary["successful"], summary["bytes_written"])
        assert content == state(project, name).read_bytes()
        assert expected == {path: text for path, text in documents(project).items() if ".bad-" not in path}
        assert (0, 2, COUNT - 2) == counts(render(project))


def test_older_schema(project: Project) -> None:
    """A ledger of version 1 is brought up to date; what it knows counts, and nothing of it is lost.

    `tests/data/ledger-v1.db` was made by `make_v1` below.
    """
    _as_in_v1(project)
    shutil.copy(V1, state(project, "ledger.db"))
    assert [(1,)] == ask(project, "PRAGMA user_version")
    with pytest.raises(LedgerError, match="has schema 1, of an older chora-mp; the next run brings it up to date"):
        verify(loaded(project))
    result = render(project)
    assert (0, 3) == (result.failed, result.successful + result.unchanged)
    assert {"a.txt": "a", "b.txt": "b", "c.txt": "c"} == documents(project)
    assert ("gone.txt",) == result.orphans
    assert [(ledger.VERSION,)] == ask(project, "PRAGMA user_version")
    assert [("a",), ("b",), ("c",), ("gone",)] == ask(project, "SELECT key FROM outputs ORDER BY key")
    assert ["first", result.run_id] == [name for (name,) in ask(project, "SELECT name FROM runs ORDER BY id")]
    assert [] == [name for name in os.listdir(state(project)) if "bad" in name]
    assert verify(loaded(project)).missing == ("gone.txt",)


def _as_in_v1(project: Project) -> None:
    """The project that `ledger-v1.db` speaks of."""
    project.records(*({"name": name} for name in "abc"))
    project.job('key: "{{ name }}"\nworkers: 0', template="{{ name }}")
    for name in "abc":
        project.write(f"out/{name}.txt", name)
    state(project).mkdir()


def make_v1(path: str = V1) -> None:
    """Make `tests/data/ledger-v1.db`: the first step of the schema alone, with the rows of a small finished job.

    To make it again: `.venv/bin/python -c "import sys; sys.path.insert(0, 'tests'); import test_ledger as t; t.make_v1()"`.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA page_size = 512")
        database.executescript(ledger._STEPS[0])
        database.execute(f"PRAGMA application_id = {ledger.APPLICATION_ID}")
        database.execute("PRAGMA user_version = 1")
        database.execute("INSERT INTO job VALUES ('job', NULL)")
        run = "(1, 'first', 'job', '2026', '2026', 4, 4, 0, 0, 0, 0, 0.5, 10, 2, '{}', '{}')"
        database.execute(f"INSERT INTO runs VALUES {run}")
        for number, name in enumerate(("a", "b", "c", "gone")):
            source = digest_of(json.dumps({"name": name}).encode() + b"\n")
            sql = "INSERT INTO outputs VALUES (?, ?, ?, ?, 1, ?, ?, 1, 1, 0.1, 1, 1, NULL)"
            row = (65536 + number, name, f"{name}.txt", source, digest_of(name.encode()), len(name))
            database.execute(sql, row)
        database.execute("""INSERT INTO closures VALUES (1, 'page.txt.j2', '{"Jinja2": "3.1.0"}')""")
        database.execute("INSERT INTO chunks VALUES (1, '', x'00', 0, 0, 0, 4, 4)")
        database.execute("""INSERT INTO sources VALUES ('', 'x', 'x', '{"page.txt.j2": 1}', 'x')""")


# ---- damage ------------------------------------------------------------------------------------------------


class Damaged:
    """A job that was rendered, whose ledger is damaged again and again, each time to be found out."""

    def __init__(self, project: Project, seed: int) -> None:
        self.project = project
        self.draw = random.Random(seed)
        self.set_aside = 0
        self.refused = 0
        make(project)
        render(project)

    def goes_well_after(
        self, damage: Callable[[], None], what: object, tell: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Damage the ledger, change a record, edit an output, remove one; then run.

        No output may be what it was if it should not, and a second run must find nothing to do. A `LedgerError` is as
        good if `tell` says so of its message: then nothing is written, and without the ledger all goes well.
        """
        project, draw = self.project, self.draw
        before = documents(project)
        damage()
        logged = state(project, "ledger.db-wal").exists()
        changed, edited, removed = draw.sample([r["name"] for r in records() if r["name"] not in FAILING], 3)
        project.records(*({**r, "v": "changed"} if r["name"] == changed else r for r in records()))
        for path in before:
            if path.endswith(f"/{edited}.txt"):
                (project.out / path).write_text("edited")
            if path.endswith(f"/{removed}.txt"):
                (project.out / path).unlink()
        expected = fresh(project)
        damaged = state(project, "ledger.db").read_bytes()
        try:
            result = render(project)
        except LedgerError as error:
            assert tell(str(error)), f"{what}: {error}"  # noqa: PT017  (an error is not what is wanted, only allowed)
            self.refused += 1
            for path in state(project).glob("ledger.*"):
                path.unlink()
            result = render(project)
        aside = [*state(project).glob("ledger.db.bad-*[0-9]")]
        if len(aside) > self.set_aside:
            self.set_aside += 1
            kept = state(project, f"ledger.db.bad-{self.set_aside}").read_bytes()
            assert logged or damaged == kept, what  # of a log SQLite may have taken over what it could
        assert expected == documents(project), what
        assert (COUNT - 2, 2) == (result.successful + result.unchanged, result.failed), what
        assert result.successful >= 3, what
        assert (0, 2, COUNT - 2) == counts(render(project)), what
        project.records(*records())
        result = render(project)
        assert 2 == result.failed
        assert [] != told_by(project, result)


def told_by(project: Project, result: BatchResult) -> list[str]:
    """All that people and programs are told of a run and of the ledger, which must not fall over."""
    lines = [*progress.summary(result, "out"), json.dumps(result.as_dict())]
    found, checked = status(loaded(project)), verify(loaded(project))
    lines += [*progress.status_lines(found), json.dumps(found.as_dict())]
    return [*lines, *progress.verification_lines(checked), json.dumps(checked.as_dict())]


def offsets(size: int, many: int) -> list[int]:
    """Where to cut: all over the file, and around the edges of pages."""
    edges = [edge + around for edge in range(0, size + 1, 4096) for around in (-1, 0, 1)]
    spread = [size * number // many for number in range(many)]
    return sorted({offset for offset in (*edges[: 3 * 6], *spread, 1, 15, 16, 99, 100) if 0 <= offset < size})


@pytest.mark.parametrize("seal", ["left", "removed"])
def test_a_ledger_cut_short(project: Project, seal: str) -> None:
    """Cut anywhere, the ledger is set aside or known not to hold, and nothing that is to be rendered is skipped."""
    damaged = Damaged(project, seed=1)
    size = state(project, "ledger.db").stat().st_size
    for offset in offsets(size, 12):
        damaged.goes_well_after(lambda offset=offset: cut(project, offset, seal), f"cut at {offset}")
    assert damaged.set_aside > 20
    assert 0 == damaged.refused


def cut(project: Project, offset: int, seal: str) -> None:
    """Cut the ledger."""
    os.truncate(state(project, "ledger.db"), offset)
    if seal == "removed":
        state(project, "ledger.sha256").unlink()


def is_foreseen(message: str) -> bool:
    """Whether a slip of a bit may have made the ledger what it says: one of a newer version, or of another job."""
    return "made by a newer chora-mp" in message or "holds the outputs of another job" in message


def flip(project: Project, draw: random.Random, seal: str) -> list[int]:
    """Flip a few bits of the ledger, mostly where something is; where they are."""
    path = state(project, "ledger.db")
    data = bytearray(path.read_bytes())
    used = [place for place, byte in enumerate(data) if byte]
    places = [draw.choice(used) if draw.random() < 0.8 else draw.randrange(len(data)) for _ in range(draw.choice((1, 1, 1, 4)))]  # fmt: skip
    for place in places:
        data[place] ^= 1 << draw.randrange(8) if draw.random() < 0.7 else draw.randrange(1, 256)
    with path.open("r+b") as file:  # in place: a disk makes no new file
        file.write(data)
    if seal == "removed":
        state(project, "ledger.sha256").unlink()
    return places


def flipped(project: Project, seed: int, cases: int) -> Damaged:
    """So many ledgers with bits flipped."""
    damaged = Damaged(project, seed)
    for number in range(cases):
        case = f"seed {seed}, case {number}"
        seal = ("left", "removed")[number % 2]
        damaged.goes_well_after(lambda seal=seal: flip(project, damaged.draw, seal), case, is_foreseen)
    return damaged


@pytest.mark.slow
def test_flipped_bits(project: Project) -> None:
    """With any bits of it flipped, the ledger misleads nobody and no run falls over."""
    damaged = flipped(project, seed=4, cases=60)
    assert damaged.set_aside > 3
    assert damaged.refused < 6


@pytest.mark.slow
def test_flipped_bits_of_the_header(project: Project) -> None:
    """The same of every other byte of SQLite's own header, which says how all the rest is to be read."""
    damaged = Damaged(project, seed=6)

    def bend(offset: int) -> None:
        with state(project, "ledger.db").open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 0x80]))

    for offset in (*range(0, 72, 2), *range(92, 100, 2)):
        damaged.goes_well_after(lambda offset=offset: bend(offset), f"byte {offset}", is_foreseen)
    assert damaged.set_aside > 8


@pytest.mark.slow
def test_many_flipped_bits(project: Project) -> None:
    """The same for two thousand ledgers, others each time the test is run."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    assert flipped(project, seed, cases=2000).refused < 200


def with_log(project: Project) -> tuple[bytes, bytes]:
    """The ledger and its log (`-wal`) as a run leaves them that is killed while it takes down its last span."""
    project.records(*({**record, "v": -1} if number % 3 == 0 else record for number, record in enumerate(records())))
    kept: list[tuple[bytes, bytes]] = []

    def look(event: Event) -> None:
        if isinstance(event, SpanCompleted):
            kept.append((state(project, "ledger.db").read_bytes(), state(project, "ledger.db-wal").read_bytes()))

    render(project, observers=[look])
    project.records(*records())
    render(project, observers=[look])
    return kept[-1]


def test_a_log_cut_short(project: Project) -> None:
    """Where a run was killed, the log beside the ledger may be of any length; cut anywhere, or gone, it misleads nobody."""
    damaged = Damaged(project, seed=2)
    main, log = with_log(project)
    assert len(log) > 3 * 4096
    lengths = sorted({0, 1, 31, 32, 33, 55, 56, *range(0, len(log), len(log) // 20), *(32 + n * 4120 for n in range(4)), len(log)})  # fmt: skip

    def killed(length: int) -> None:
        state(project, "ledger.db").write_bytes(main)
        state(project, "ledger.db-wal").write_bytes(log[:length])
        state(project, "ledger.sha256").unlink()

    for length in lengths:
        damaged.goes_well_after(lambda length=length: killed(length), f"log of {length}")
    assert 0 == damaged.refused


def test_a_ledger_cut_short_beside_its_log(project: Project) -> None:
    """The ledger cut, and the log of a killed run beside it whole or with bits flipped."""
    damaged = Damaged(project, seed=3)
    main, log = with_log(project)

    def killed(offset: int) -> None:
        state(project, "ledger.db").write_bytes(main[:offset])
        bent = bytearray(log)
        if offset % 2:
            bent[damaged.draw.randrange(len(bent))] ^= 1 << damaged.draw.randrange(8)
        state(project, "ledger.db-wal").write_bytes(bent)
        state(project, "ledger.sha256").unlink()

    for offset in offsets(len(main), 6):
        damaged.goes_well_after(lambda offset=offset: killed(offset), f"cut at {offset}", is_foreseen)


@pytest.mark.parametrize("name", ["ledger.db", "ledger.sha256"])
def test_a_file_that_is_gone(project: Project, name: str) -> None:
    """Without the ledger all is rendered again and no file changes; without the seal the ledger is looked through."""
    make(project)
    render(project)
    state(project, name).unlink()
    result = render(project)
    assert (COUNT - 2 if name == "ledger.db" else 0, 0) == (result.successful, result.bytes_written)
    assert (0, 2, COUNT - 2) == counts(render(project))


def test_a_plan_with_a_damaged_ledger(project: Project) -> None:
    """A dry run, too, sees that nothing is known."""
    make(project)
    render(project)
    cut(project, 5000, "left")
    assert ({"new": COUNT}, 0) == ((planned := plan(loaded(project))).reasons, planned.unchanged)


@pytest.mark.parametrize("command", ["verify", "status"])
def test_reading_a_damaged_ledger(project: Project, command: str) -> None:
    """What only reads says that the ledger is damaged, and leaves it."""
    make(project)
    render(project)
    cut(project, 20_000, "left")
    run = project.run(command, "job.yaml")
    expected = "chora-mp: out/.chora-mp/ledger.db: is damaged; the next run sets it aside\n"
    assert (2, "", expected) == (run.returncode, run.stdout, run.stderr)
    assert [] == [*state(project).glob("*.bad-*")]


# ---- the seal, and a person's own hand ---------------------------------------------------------------------


def test_the_seal(project: Project) -> None:
    """After a run that came to its end its digest lies beside the ledger; while one is under way it does not."""
    make(project)
    seen: list[bool] = []

    def look(_: Event) -> None:
        seen.append(state(project, "ledger.sha256").exists())

    look.prompt = True  # type: ignore[attr-defined]
    render(project, observers=[look])
    assert not any(seen[:-2])
    expected = sha256(state(project, "ledger.db").read_bytes()).hexdigest()
    assert expected == state(project, "ledger.sha256").read_text().strip()
    render(project)
    assert expected != state(project, "ledger.sha256").read_text().strip()


class StopError(KeyboardInterrupt):
    """Ends a run from outside."""


def test_a_run_that_is_ended_early(project: Project) -> None:
    """What it has written is known; that the source was looked at is not taken for granted by the next run."""
    make(project)
    render(project)
    project.write("templates/page.j2", "{{ name }}")

    def stop(event: Event) -> None:
        if isinstance(event, SpanCompleted) and event.done > 35:
            raise StopError

    stop.prompt = True  # type: ignore[attr-defined]
    with pytest.raises(StopError):
        render(project, observers=[stop])
    assert [(None,)] == ask(project, "SELECT content FROM sources")
    (done,) = ask(project, "SELECT count(*) FROM outputs WHERE run = 2 AND error IS NULL")[0]
    assert done > 0
    result = render(project)
    assert (COUNT // 2 - done, COUNT // 2 - 2 + done) == (result.successful, result.unchanged)
    assert fresh(project) == documents(project)


def test_a_run_that_is_killed_leaves_no_seal(project: Project) -> None:
    """Then nothing is taken on trust by the next run."""
    make(project)
    render(project)
    project.job("plugins: [end.py]", template="{{ name | end }}", path="{{ name }}.txt")
    project.write("end.py", "import os\ndef end(v):\n    os.kill(os.getpid(), 9)\nFILTERS = {'end': end}\n")
    run = project.run("render", "job.yaml", "-j", "0")
    assert -9 == run.returncode
    assert not state(project, "ledger.sha256").exists()
    make(project)
    assert (0, 2, COUNT - 2) == counts(render(project))
    assert state(project, "ledger.sha256").exists()


CHANGES = [
    "DELETE FROM outputs",
    "DELETE FROM outputs WHERE key LIKE 'n1%'",
    "DELETE FROM chunks",
    "DELETE FROM closures",
    "DELETE FROM sources",
    "DELETE FROM failures",
    "DELETE FROM job",
    "DELETE FROM runs",
    "UPDATE outputs SET input = NULL",
    "UPDATE outputs SET input = x'00'",
    "UPDATE outputs SET closure = NULL",
    "UPDATE outputs SET closure = 7",
    "UPDATE outputs SET closure = 'x'",
    "UPDATE outputs SET closure = (SELECT min(closure) FROM outputs)",
    "UPDATE outputs SET digest = NULL",
    "UPDATE outputs SET digest = 'x'",
    "UPDATE outputs SET size = NULL",
    "UPDATE outputs SET size = 'x', mtime = 'y', inode = x'00'",
    "UPDATE outputs SET size = CAST(x'ff' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET mtime = CAST(x'ff' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET inode = CAST(x'ff' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET duration = CAST(x'ff' AS TEXT), attempts = x'ff', run = CAST(x'ff' AS TEXT)",
    "UPDATE outputs SET path = path || 'x'",
    "UPDATE outputs SET path = x'ff' WHERE key = 'n3'",
    "UPDATE outputs SET path = CAST(x'ff' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET path = 7 WHERE key = 'n3'",
    "UPDATE outputs SET path = CAST(x'610062' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET path = '../../job.yaml' WHERE key = 'n3'",
    "UPDATE outputs SET key = x'ff' WHERE key = 'n3'",
    "UPDATE outputs SET key = CAST(x'ff' AS TEXT) WHERE key = 'n3'",
    "UPDATE outputs SET error = NULL",
    "UPDATE outputs SET error = 'x'",
    "UPDATE outputs SET error = x'ff'",
    "UPDATE outputs SET at = at + 1000000",
    "UPDATE outputs SET at = -at",
    "UPDATE outputs SET at = 9223372036854775807 WHERE key = 'n3'",
    "UPDATE outputs SET at = -9223372036854775808 WHERE key = 'n3'",
    "UPDATE outputs SET at = 4611686018427387904 WHERE key = 'n3'",
    (
        "INSERT INTO outputs (at, key, path, input, closure, digest, size, mtime, inode) "
        "SELECT at + 999999, key, path, input, closure, digest, size, mtime, inode FROM outputs"
    ),
    "UPDATE chunks SET records = records + 1",
    "UPDATE chunks SET number = 99",
    "UPDATE chunks SET number = 9223372036854775807",
    "UPDATE chunks SET records = 'x'",
    "UPDATE chunks SET digest = 'x'",
    "UPDATE closures SET parts = '{'",
    "UPDATE closures SET parts = '[]'",
    "UPDATE closures SET parts = x'ff'",
    "UPDATE closures SET template = x'ff'",
    "UPDATE sources SET closures = '{'",
    "UPDATE sources SET closures = '[]'",
    "UPDATE sources SET closures = '{}'",
    'UPDATE sources SET closures = \'{"page.j2": "x"}\'',
    "UPDATE sources SET bundle = 7, setting = x'ff', content = 'x'",
    "UPDATE runs SET options = '{', sizing = x'ff'",
    "UPDATE runs SET id = 9223372036854775807",
    "UPDATE runs SET job = x'ff', name = CAST(x'ff' AS TEXT)",
    "UPDATE runs SET started = x'ff', ended = 7",
    "UPDATE runs SET total = x'ff', successful = 'x', workers = CAST(x'ff' AS TEXT)",
    "UPDATE runs SET seconds = 'x', written = NULL",
    "UPDATE runs SET successful = NULL, workers = NULL, seconds = NULL",
    "INSERT INTO job VALUES ('job', NULL)",
    "UPDATE job SET file = 7",
    "UPDATE failures SET error = '{', seq = 'x', file = x'ff'",
    "UPDATE failures SET error = '[]'",
    "UPDATE failures SET line = x'ff', attempts = CAST(x'ff' AS TEXT)",
    "UPDATE failures SET key = x'ff', path = 7, run = 'x'",
    "UPDATE chunks SET keyed = CAST(x'ff' AS TEXT), place = x'ff', shard = x'ff'",
    "UPDATE job SET name = x'ff', file = CAST(x'ff' AS TEXT)",
    "UPDATE failures SET error = '{\"type\": 1}'",
    "DROP TABLE chunks",
    "DROP TABLE outputs",
    "ALTER TABLE outputs DROP COLUMN inode",
    "CREATE TABLE mine (x)",
    "CREATE INDEX mine ON outputs (path)",
]


@pytest.mark.parametrize("sql", CHANGES)
def test_a_persons_own_change(project: Project, sql: str) -> None:
    """Whatever a person does with `sqlite3`, what is to be rendered is rendered, and no run falls over."""
    damaged = Damaged(project, seed=5)
    damaged.goes_well_after(lambda: ask(project, sql), sql)


def test_a_persons_change_of_the_whole(project: Project) -> None:
    """Also where nothing else gives a reason to look, rows that were removed are rendered again."""
    make(project)
    render(project)
    ask(project, "DELETE FROM outputs WHERE key = 'n3'")
    assert (1, 2, COUNT - 3) == counts(render(project))
    assert [("f3/n3.txt",)] == ask(project, "SELECT path FROM outputs WHERE key = 'n3'")


def test_a_persons_change_that_is_still_in_the_log(project: Project) -> None:
    """Where a person's `sqlite3` is still open, the change is in the log alone, and counts all the same."""
    make(project)
    render(project)
    with closing(sqlite3.connect(state(project, "ledger.db"))) as database:
        database.execute("DELETE FROM outputs WHERE key IN ('n3', 'n5')")
        database.commit()
        (project.out / "f3/n3.txt").write_text("edited")
        assert (2, 2, COUNT - 4) == counts(render(project))
    assert fresh(project) == documents(project)
    assert (0, 2, COUNT - 2) == counts(render(project))


def test_a_person_who_reads(project: Project) -> None:
    """A reader in the middle of a long query holds nobody up, and sees what was there when it began."""
    make(project)
    render(project)
    with closing(sqlite3.connect(state(project, "ledger.db"))) as database:
        cursor = database.execute("SELECT key FROM outputs")
        cursor.fetchone()
        project.records(*records()[:30])
        since = time.monotonic()
        assert (0, 2, 28) == counts(render(project, prune=True))
        assert time.monotonic() - since < 5
        assert COUNT - 1 == len(cursor.fetchall())
    assert (0, 2, 28) == counts(render(project))
    assert [(30,)] == ask(project, "SELECT count(*) FROM outputs")


def test_a_person_who_writes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that somebody else keeps locked is told: exit code 2, and no traceback."""
    make(project)
    render(project)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: connect(*given, **{**options, "timeout": 0.05}))
    with closing(connect(state(project, "ledger.db"), isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            LedgerError, match=r"ledger\.db: cannot be read or written \(database is locked\)"
        ) as caught:
            render(project)
        assert 2 == caught.value.exit_code
        database.execute("ROLLBACK")
    assert (0, 2, COUNT - 2) == counts(render(project))


def test_an_old_ledger_put_back(project: Project) -> None:
    """A backup of ledger and seal, which match, of a time when the outputs were others: these are looked at."""
    make(project)
    render(project)
    kept = {name: state(project, name).read_bytes() for name in ("ledger.db", "ledger.sha256")}
    project.write("templates/page.j2", "new {{ name }}")
    project.records(*({**record, "v": "new"} for record in records()))
    render(project)
    expected = documents(project)
    for name, data in kept.items():
        state(project, name).write_bytes(data)
    assert 2 == render(project).failed
    assert expected == documents(project)
    for name, data in kept.items():
        state(project, name).write_bytes(data)
    make(project)
    render(project)
    assert fresh(project) == documents(project)


# ---- a full disk -------------------------------------------------------------------------------------------


def assert_finished(project: Project) -> None:
    """With room again, the next run does what is left and the one after it nothing."""
    result = render(project)
    assert (COUNT - 2, 2) == (result.successful + result.unchanged, result.failed)
    assert fresh(project) == documents(project)
    assert (0, 2, COUNT - 2) == counts(render(project))
    assert ["ledger.db", "ledger.sha256", "lock"] == sorted(os.listdir(state(project)))


@pytest.mark.parametrize("size", [2_000, 5_000, 9_000, 17_000, 33_000])
def test_files_that_may_not_grow(project: Project, size: int) -> None:
    """Where no file may be larger than a limit, the run ends with 2 or with failed items that say so, not a traceback."""
    make(project)
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    run = project.run("render", "job.yaml", "--summary", "-", preexec_fn=limit)
    assert_told(run, "File too large", "No space left on device", "disk I/O error")
    assert_finished(project)


def assert_told(run: subprocess.CompletedProcess[str], *messages: str) -> None:
    """That the run has ended with 0, or with 1 or 2 and one of the messages for a reason."""
    assert "Traceback" not in run.stderr
    assert "bug" not in run.stderr, run.stderr
    if run.returncode == 2:
        assert any(message in run.stderr for message in messages), run.stderr
        return
    found = json.loads(run.stdout)["failures"]
    assert 1 == run.returncode
    assert {*FAILING} <= {item["key"] for item in found}
    others = [item["error"]["message"] for item in found if item["key"] not in FAILING]
    assert [] == [message for message in others if not any(one in message for one in messages)]


@pytest.fixture
def small_disk(project: Project) -> Iterator[Callable[[int], None]]:
    """Makes the output folder a file system of one megabyte, and leaves so many bytes of it free."""
    project.out.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(project.out)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system cannot be mounted here")

    def leave(free: int) -> None:
        filler = project.out / "filler"
        filler.unlink(missing_ok=True)
        found = os.statvfs(project.out)
        with filler.open("wb") as file:
            file.write(bytes(found.f_bavail * found.f_frsize - free))

    yield leave
    subprocess.run(["umount", project.out], check=True)


@pytest.mark.parametrize("pages", [0, 1, 3, 5, 8, 13, 20, 30])
def test_full_disk(project: Project, small_disk: Callable[[int], None], pages: int) -> None:
    """However little room there is, the run says that there is none, and with room again the next one goes well."""
    make(project)
    small_disk(pages * 4096)
    run = project.run("render", "job.yaml", "--summary", "-")
    assert_told(run, "No space left on device")
    (project.out / "filler").unlink()
    assert_finished(project)


@pytest.mark.parametrize("pages", [0, 2, 6, 12])
def test_disk_that_is_full_the_second_time(project: Project, small_disk: Callable[[int], None], pages: int) -> None:
    """The same for a job that was rendered before: whatever cannot be written, no document is lost."""
    make(project)
    render(project)
    project.write("templates/page.j2", "{{ 'x' * 3000 }} {{ name }} {{ 1 // divisor }}")
    before = documents(project)
    small_disk(pages * 4096)
    run = project.run("render", "job.yaml", "-j", "1", "--summary", "-")
    assert_told(run, "No space left on device")
    (project.out / "filler").unlink()
    assert {*before} <= {*documents(project)}
    assert_finished(project)


def test_every_error_is_one_of_ours() -> None:
    """What the tests above let through is what the command turns into exit code 2."""
    assert (True, 2) == (issubclass(LedgerError, ChoraError), LedgerError.exit_code)
