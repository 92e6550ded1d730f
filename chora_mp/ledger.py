"""The ledger: an SQLite file in the output folder that remembers what was rendered from what.

One writer, the coordinator; one transaction a span. `docs/ledger.md` describes the tables, which people query with
`sqlite3`; who changes them adds a step to `_STEPS`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from chora_mp.bundle import shown
from chora_mp.errors import LedgerError
from chora_mp.looks import LEDGER, SEAL, seal_beside
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sources.chunks import MOST_RECORDS, storable
from chora_mp.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from chora_mp.job import Job
    from chora_mp.machine import Machine
    from chora_mp.profiles import Profile
    from chora_mp.records import BatchResult, ItemResult

APPLICATION_ID = 0x43684D50
"""`ChMP`, where SQLite and `file` look for whose database it is."""

NAME = LEDGER

_STEPS = (
    """
    CREATE TABLE job (name TEXT NOT NULL, file TEXT);
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, job TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
        total INTEGER, successful INTEGER, failed INTEGER, unchanged INTEGER, not_reached INTEGER, pruned INTEGER,
        seconds REAL, written INTEGER, workers INTEGER, sizing TEXT, options TEXT
    );
    CREATE TABLE outputs (
        at INTEGER PRIMARY KEY, key TEXT NOT NULL, path TEXT NOT NULL, input BLOB, closure INTEGER, digest BLOB,
        size INTEGER, mtime INTEGER, inode INTEGER, duration REAL, attempts INTEGER, run INTEGER, error TEXT,
        status TEXT AS (CASE WHEN error IS NULL THEN 'rendered' ELSE 'failed' END)
    );
    CREATE TABLE closures (number INTEGER PRIMARY KEY, template TEXT NOT NULL, parts TEXT NOT NULL);
    CREATE TABLE chunks (
        number INTEGER PRIMARY KEY, shard TEXT NOT NULL, digest BLOB NOT NULL, place INTEGER NOT NULL,
        offset INTEGER NOT NULL, line INTEGER NOT NULL, records INTEGER NOT NULL, keyed INTEGER NOT NULL
    );
    CREATE TABLE sources (
        shard TEXT PRIMARY KEY, setting TEXT NOT NULL, bundle TEXT NOT NULL, closures TEXT NOT NULL, content TEXT
    );
    """,
    """
    CREATE TABLE failures (
        seq INTEGER, key TEXT NOT NULL, path TEXT NOT NULL, file TEXT, line INTEGER, attempts INTEGER NOT NULL,
        error TEXT NOT NULL, run INTEGER NOT NULL
    );
    """,
    """
    CREATE TABLE profiles (
        machine TEXT NOT NULL, bundle TEXT NOT NULL, generator TEXT NOT NULL, lane TEXT NOT NULL,
        measured TEXT NOT NULL, workers INTEGER NOT NULL, profile TEXT NOT NULL,
        PRIMARY KEY (machine, bundle, generator, lane)
    );
    """,
)
"""What makes a ledger of each version one of the next; all of them together make a new one."""

VERSION = len(_STEPS)
_ROW = ("at", "key", "path", "input", "closure", "digest", "size", "mtime", "inode", "duration")
_ROWS_TOGETHER = 64  # in one statement: three quarters of what 64 statements cost
_COUNTS = ("total", "successful", "failed", "unchanged", "not_reached", "pruned", "seconds", "written", "workers")
_JSON = {
    "failures": "error", "closures": "parts", "sources": "closures", "runs": "sizing, options", "profiles": "profile"
}  # fmt: skip
_MAGIC = b"SQLite format 3\0"
_WRITE_VERSION = 18  # offset of a byte of 1 or 2, beyond which SQLite will read a file but not write it
_MOST_PLACES = 2**62
_READER_MS = 200  # what a reader may hold up the end of a run
_A_FEW_PAGES = 2**16  # bytes
_SANE_VERSION = 1000  # a version beyond is a slip of a bit, not the future


class Known(NamedTuple):
    """What the last run left about a source: digests of the settings, of the bundle and of the source's content.

    `closures`: the numbers of the closures that templates had, by template. `content` is None where the last run did
    not come to its end, or left a record without a row.
    """

    setting: str
    bundle: str
    closures: dict[str, int]
    content: str | None


class Output(NamedTuple):
    """What the ledger knows of one file."""

    at: int
    key: str
    path: str
    digest: bytes
    size: int
    mtime: int
    inode: int


class ChunkRow(NamedTuple):
    """A chunk of a source as the ledger keeps it; `keyed`: how many of its records have a key, within the shard."""

    number: int
    digest: bytes
    offset: int
    line: int
    records: int
    keyed: int


class Ledger:
    """The ledger of one output folder. Raises `LedgerError` where it cannot be read or written, whatever is asked.

    `sealed`: the digest of its bytes if they are those that the last run left; a stopped run leaves it open.
    `set_aside`: the file that a damaged one was renamed to.
    """

    def __init__(self, folder: str | None, *, read_only: bool = False, replace: bool = True) -> None:
        """Open or make the ledger in the state folder `folder`; None: one in memory, which forgets.

        To read only, it may be that of a run that is under way; it is neither made nor set aside then. Without
        `replace` a damaged one stays where it is, and one in memory takes its part.
        """
        self._folder = folder
        self.path = os.path.join(folder, NAME) if folder else ":memory:"
        self.sealed = _seal_of(folder) if folder else None
        self.set_aside: str | None = None
        self.run = 0
        with self._told():
            try:
                if read_only:
                    self.db = _looked_into(self.path)
                    return
                self.db = _opened(self.path, check=self.sealed is None)
            except _DamagedError:
                if read_only:
                    raise LedgerError(f"{shown(self.path)}: is damaged; the next run sets it aside") from None
                self.sealed = None
                if replace:
                    self.set_aside = _set_aside(self.path)
                else:
                    self.path = ":memory:"
                self.db = _opened(self.path, check=False)

    @property
    def trusted(self) -> bool:
        """Whether its bytes are those that the last run left."""
        return self.sealed is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self.db.close()

    # -- jobs and runs

    def job(self) -> tuple[str, str | None] | None:
        """Name and file of the job that writes here; None: there was none yet."""
        with self._told():
            found: tuple[str, str | None] | None = self.db.execute("SELECT name, file FROM job").fetchone()
            return found

    def begin(self, name: str, job: str, file: str | None, options: Mapping[str, Any]) -> None:
        """Note that a run begins. From here on the ledger is not trusted until `end`."""
        if self._folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, SEAL))
        with self._told(), self.transaction():
            self.db.execute("DELETE FROM job")
            self.db.execute("INSERT INTO job VALUES (?, ?)", (storable(job), file and storable(file)))
            sql = "INSERT INTO runs (name, job, started, options) VALUES (?, ?, ?, ?)"
            self.run = self.db.execute(sql, (name, storable(job), _now(), json.dumps(options))).lastrowid or 0

    def end(self, result: BatchResult) -> None:
        """Note how the run ended."""
        counts = (result.total, result.successful, result.failed, result.unchanged, result.not_reached, result.pruned,
                  result.duration_s, result.bytes_written, result.workers)  # fmt: skip
        row = (_now(), json.dumps(result.sizing), *counts)
        names = ("ended", "sizing", *_COUNTS)
        sql = f"UPDATE runs SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"
        with self._told(), self.transaction():
            self.db.execute(sql, (*row, self.run))

    def seal(self) -> None:
        """Close the ledger and note its digest, so that the next run may trust every byte of it."""
        with self._told():
            self.db.execute(f"PRAGMA busy_timeout = {_READER_MS}")
            (held_up, *_) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self.db.close()
            if self._folder and not held_up:  # somebody reads: part of it is in the log still
                _write_whole(os.path.join(self._folder, SEAL), file_digest(self.path) + "\n")

    # -- the source

    def source(self, shard: str) -> Known | None:
        """What the last run left about the source; None: it left nothing."""
        with self._told():
            sql = "SELECT setting, bundle, closures, content FROM sources WHERE shard = ?"
            found = self.db.execute(sql, (shard,)).fetchone()
            return Known(found[0], found[1], json.loads(found[2]), found[3]) if found else None

    def chunks(self, shard: str) -> list[ChunkRow]:
        """The chunks of the source whose every record has its row, in order."""
        with self._told():
            sql = "SELECT number, digest, offset, line, records, keyed FROM chunks WHERE shard = ? ORDER BY place"
            return [ChunkRow(*row) for row in self.db.execute(sql, (shard,))]

    def numbers(self) -> list[int]:
        """The numbers of all chunks that have rows; found from one to the next, without looking at the rows between."""
        sql = (
            f"WITH RECURSIVE present (number) AS (SELECT min(at) / {MOST_RECORDS} FROM outputs UNION ALL "
            f"SELECT (SELECT min(at) / {MOST_RECORDS} FROM outputs WHERE at >= (number + 1) * {MOST_RECORDS}) "
            "FROM present WHERE number IS NOT NULL) SELECT number FROM present WHERE number IS NOT NULL"
        )
        with self._told():
            return [number for (number,) in self.db.execute(sql)]

    def is_empty(self) -> bool:
        """Whether it knows of no item."""
        with self._told():
            return self.db.execute("SELECT 1 FROM outputs LIMIT 1").fetchone() is None

    def forget_source(self, shard: str) -> None:
        """Drop what is known of the source, as rows move to other places; in a transaction of the caller's."""
        self.db.execute("UPDATE sources SET content = NULL WHERE shard = ?", (shard,))
        self.db.execute("DELETE FROM chunks WHERE shard = ?", (shard,))

    def forget_sources(self) -> None:
        """Drop what is known of the source, in every shard: rows are going to be replaced by those of other records."""
        with self._told(), self.transaction():
            self.db.execute("UPDATE sources SET content = NULL")
            self.db.execute("DELETE FROM chunks")

    def touch(self, at: int, status: os.stat_result) -> None:
        """Note that a file holds what it held, though its status is new; in a transaction of the caller's."""
        row = (status.st_size, status.st_mtime_ns, status.st_ino, at)
        self.db.execute("UPDATE outputs SET size = ?, mtime = ?, inode = ? WHERE at = ?", row)

    def next_number(self) -> int:
        """A number that no chunk has or had, as far as rows tell."""
        with self._told():
            (rows,) = self.db.execute("SELECT coalesce(max(at), 0) FROM outputs").fetchone()
            (chunks,) = self.db.execute("SELECT coalesce(max(number), 0) FROM chunks").fetchone()
            return int(max(rows // MOST_RECORDS, chunks)) + 1

    def keep_source(
        self, shard: str, known: Known, chunks: Sequence[ChunkRow], *, ended: bool, all_done: bool = False
    ) -> None:
        """Keep what was found out about the source.

        Only chunks whose every record has its row are kept, which need not be looked for where `all_done` says so: what
        is not is looked at again by the next run.
        """
        with self._told(), self.transaction():
            counts: dict[int, int] = {}
            if not all_done:
                counts.update(self.db.execute(f"SELECT at / {MOST_RECORDS}, count(*) FROM outputs GROUP BY 1"))
            self.db.execute("DELETE FROM chunks WHERE shard = ?", (shard,))
            rows = [
                (chunk.number, shard, chunk.digest, place, *chunk[2:])
                for place, chunk in enumerate(chunks)
                if all_done or counts.get(chunk.number, 0) == chunk.keyed
            ]
            whole = len(rows) == len(chunks)
            self.db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            content = known.content if whole and ended else None
            row = (shard, known.setting, known.bundle, json.dumps(known.closures), content)
            self.db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)", row)

    def closures(self) -> dict[int, tuple[str, dict[str, str]]]:
        """Template and parts of every closure that outputs were made from, by its number."""
        with self._told():
            rows = self.db.execute("SELECT number, template, parts FROM closures")
            return {number: (template, json.loads(parts)) for number, template, parts in rows}

    def keep_closures(self, closures: Mapping[str, tuple[int, dict[str, str]]]) -> None:
        """Keep the closures of templates, and forget those that nothing is made from any more."""
        rows = [(number, storable(template), json.dumps(parts)) for template, (number, parts) in closures.items()]
        with self._told(), self.transaction():
            self.db.execute("DELETE FROM closures WHERE number NOT IN (SELECT DISTINCT closure FROM outputs "
                            "WHERE closure IS NOT NULL)")  # fmt: skip
            self.db.executemany("INSERT OR REPLACE INTO closures VALUES (?, ?, ?)", rows)

    # -- profiles

    def profiles(self, bundle: str, machine: Machine) -> list[Profile]:
        """The profiles that were measured with a bundle on such a machine, the latest first."""
        with self._told():
            return _profiles(self.db, bundle, machine)

    def keep_profile(self, machine: str, bundle: str, profile: Profile) -> None:
        """Keep what was measured of one generator on one lane, and close; the ledger stays sealed if it was."""
        from chora_mp.profiles import stored  # noqa: PLC0415  (as below)

        if self._folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, SEAL))
        key = (machine, bundle, profile.generator, profile.lane)
        row = [storable(text) for text in (*key, profile.measured)]
        with self._told(), self.transaction():
            values = (*row, profile.workers, stored(profile))
            self.db.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        if self.trusted:  # what was in doubt stays so
            self.seal()
        self.close()

    # -- what was done

    def record(
        self,
        values: Sequence[Any],
        failures: Iterable[tuple[int | None, ItemResult]],
        tries: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Take down what became of a span, in one transaction.

        `values`: the rows of the rendered items, one after the other, as a worker leaves them. `failures`: with where
        each stands in the ledger; None where the item has no key, and so no place. `tries`: places of items that were
        tried more than once, and how often.
        """
        width, together = len(_ROW), len(_ROW) * _ROWS_TOGETHER
        many = self._insert(_ROWS_TOGETHER)
        cut = len(values) // together * together
        with self._told(), self.transaction():
            for start in range(0, cut, together):
                self.db.execute(many, values[start : start + together])
            rest = (values[start : start + width] for start in range(cut, len(values), width))
            self.db.executemany(self._insert(1), rest)
            for at, item in failures:
                self._record_failure(at, item)
            self.db.executemany("UPDATE outputs SET attempts = ? WHERE at = ?", ((often, at) for at, often in tries))

    def _insert(self, rows: int) -> str:
        """The statement that takes down so many rows."""
        row = f"({'?, ' * len(_ROW)}1, {self.run})"
        return f"INSERT OR REPLACE INTO outputs ({', '.join(_ROW)}, attempts, run) VALUES {', '.join([row] * rows)}"

    def _record_failure(self, at: int | None, item: ItemResult) -> None:
        error = json.dumps(asdict(item.error) if item.error else None)
        place = (item.source.file, item.source.line) if item.source else (None, None)
        row = (item.seq, item.key, item.path, place[0] and storable(place[0]), place[1], item.attempts, error, self.run)
        self.db.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        if at is not None:  # what is known of the file, which stays as it was, is kept
            self.db.execute(
                "INSERT INTO outputs (at, key, path, duration, attempts, run, error) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (at) DO UPDATE SET duration = excluded.duration, attempts = excluded.attempts, "
                "run = excluded.run, error = excluded.error, "
                "path = CASE WHEN digest IS NULL THEN excluded.path ELSE path END",
                (at, item.key, item.path, item.duration_s, item.attempts, self.run, error),
            )

    def seconds_an_item(self) -> float | None:
        """What an item took on average when it was last rendered; None where there is none, or that is in doubt."""
        if not self.trusted:
            return None
        few = "SELECT duration FROM outputs WHERE duration IS NOT NULL ORDER BY at DESC LIMIT 10000"
        found: float | None = self.db.execute(f"SELECT avg(duration) FROM ({few})").fetchone()[0]
        return found

    def forget_failures(self, *, every: bool) -> None:
        """Drop the failures of earlier runs: every one, or those that this run has dealt with."""
        dealt_with = (
            "key IN (SELECT key FROM failures WHERE run = :run) OR key IN (SELECT key FROM outputs WHERE error IS NULL)"
        )
        with self._told(), self.transaction():
            sql = f"DELETE FROM failures WHERE run <> :run AND ({'TRUE' if every else dealt_with})"
            self.db.execute(sql, {"run": self.run})

    def drop(self, places: Iterable[int]) -> None:
        """Forget outputs."""
        with self._told(), self.transaction():
            self.db.executemany("DELETE FROM outputs WHERE at = ?", ((at,) for at in places))

    def overwritten(self, places: Collection[int]) -> set[int]:
        """Those of these outputs whose files other items have written in a later run."""
        if not places:
            return set()
        places = set(places)
        with self._told():
            rows = self.db.execute("SELECT at, path, coalesce(run, 0) FROM outputs")
            mine = {at: (path, run) for at, path, run in rows if at in places}
            last = dict.fromkeys((path for path, _ in mine.values()), 0)
            for path, run in self.db.execute("SELECT path, coalesce(run, 0) FROM outputs WHERE error IS NULL"):
                if path in last:
                    last[path] = max(last[path], run)
        return {at for at, (path, run) in mine.items() if last[path] > run}

    def drop_doubles(self) -> None:
        """Of outputs with one key and path keep the last: who passes records passes them again."""
        with self._told(), self.transaction():
            self.db.execute("DELETE FROM outputs WHERE at NOT IN (SELECT max(at) FROM outputs GROUP BY key, path)")

    def outputs(self) -> Iterator[Output]:
        """Every output that was written."""
        sql = "SELECT at, key, path, digest, size, mtime, inode FROM outputs WHERE digest IS NOT NULL"
        with self._told():
            yield from (Output(*row) for row in self.db.execute(sql))

    # -- help

    @contextlib.contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[None]:
        """All or nothing; nothing also where what is done in it is not to be kept."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT" if keep else "ROLLBACK")

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Turns SQLite's errors in a block into `LedgerError`."""
        return self._told()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"{shown(self.path)}: {_reason(error, self._folder)}") from None


def profiles_in(folder: str, bundle: str, machine: Machine) -> list[Profile]:
    """As `Ledger.profiles`, of the ledger in the state folder `folder`; none where there is none that can be read.

    Nothing is made, and nobody kept waiting: what is at work there goes on.
    """
    path = os.path.join(folder, NAME)
    if not os.path.exists(path):
        return []
    try:
        _refuse_other_files(path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=_READER_MS / 1000)) as db:
            db.execute("PRAGMA query_only = ON")
            return _profiles(db, bundle, machine)
    except (sqlite3.Error, OSError, _DamagedError):
        return []


def _profiles(db: sqlite3.Connection, bundle: str, machine: Machine) -> list[Profile]:
    sql = "SELECT machine, profile FROM profiles WHERE bundle = ? ORDER BY measured DESC"
    rows = db.execute(sql, (bundle,)).fetchall()
    if not rows:
        return []
    from chora_mp.machine import machine_name  # noqa: PLC0415  (most jobs have none, and ask nothing of the system)
    from chora_mp.profiles import revived  # noqa: PLC0415

    here = machine_name(machine)
    return [profile for name, text in rows if name == here and (profile := revived(text)) is not None]


def job_identity(ledger: Ledger, job: Job) -> str | None:
    """The absolute path of the job's file. Raises `LedgerError` where the ledger is another job's.

    Two jobs in one folder would take each other's files for orphans. A job file that was moved is the same job still;
    one that is there beside another of the same name is not.
    """
    mine = os.path.abspath(job.file) if job.file else None
    found = ledger.job()
    if found is None:
        return mine
    name, file = found
    other = file is not None and mine is not None and file != storable(mine) and os.path.exists(file)
    if name != storable(job.name) or other:
        assert job.output is not None  # noqa: S101  (there is a ledger)
        whose = repr(name) + (f" ({shown(file)})" if file else "")
        raise LedgerError(
            f"{shown(job.output.dir)}: holds the outputs of another job, {whose}; give this one an output.dir "
            f"of its own, or remove {STATE_FOLDER} in it if that job is gone"
        )
    return mine


class _DamagedError(Exception):
    """The file is no sound ledger."""


def _opened(path: str, *, check: bool) -> sqlite3.Connection:
    """A connection to a ledger of today's version. Raises `_DamagedError`, `LedgerError`, `sqlite3.Error`."""
    _refuse_other_files(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        if check and not _is_sound(db):
            raise _DamagedError
        _bring_up_to_date(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        # Without a sync at each commit a power cut may lose the last spans, and they are rendered again; the file stays
        # sound (https://sqlite.org/wal.html).
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -16000")
    except sqlite3.DatabaseError as error:
        db.close()
        if _is_damage(error):
            raise _DamagedError from None
        raise
    except BaseException:
        db.close()
        raise
    return db


def _looked_into(path: str) -> sqlite3.Connection:
    """A connection that changes nothing. Raises as `_opened`."""
    _refuse_other_files(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        db.execute("PRAGMA query_only = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise LedgerError(_newer(path, version))
        if not _is_sound(db):
            raise _DamagedError
        if version < VERSION:
            raise LedgerError(
                f"{shown(path)}: has schema {version}, of an older chora-mp; the next run brings it up to date"
            )
    except sqlite3.DatabaseError as error:
        db.close()
        if _is_damage(error):
            raise _DamagedError from None
        raise
    except BaseException:
        db.close()
        raise
    return db


def _newer(path: str, version: int) -> str:
    return (
        f"{shown(path)}: has schema {version}, made by a newer chora-mp; this one ({__version__}) knows up to "
        f"{VERSION}: upgrade it, or give it another output folder"
    )


def _refuse_other_files(path: str) -> None:
    """Raise `_DamagedError` for a file that is none of SQLite's, which takes short ones for new."""
    try:
        with open(path, "rb") as file:
            start = file.read(_WRITE_VERSION + 1)
    except FileNotFoundError:
        return
    if start and not (start.startswith(_MAGIC) and start[_WRITE_VERSION:] in (b"\1", b"\2")):
        raise _DamagedError


def _is_sound(db: sqlite3.Connection) -> bool:
    """Whether every page of the file is where it should be, and all in it is of the kind that it should be."""
    try:
        return _is_whole(db) and _has_sound_rows(db)
    except UnicodeDecodeError:  # a column's name that is no UTF-8
        return False
    except sqlite3.OperationalError as error:
        if "decode" in str(error):  # a value that is none
            return False
        raise


def _is_whole(db: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong, and the tables are those of a ledger."""
    if db.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        return False
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = db.execute(_TABLES).fetchall()
    if not tables and version == 0:
        return True
    if application != APPLICATION_ID or not 0 < version <= _SANE_VERSION:
        return False
    return bool(version > VERSION or tables == _tables_of(version))


_TABLES = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


def _tables_of(version: int) -> list[tuple[str, str, str]]:
    """The tables of a ledger of so old a version."""
    db = sqlite3.connect(":memory:")
    for step in _STEPS[:version]:
        db.executescript(step)
    tables = db.execute(_TABLES).fetchall()
    db.close()
    return tables


def _has_sound_rows(db: sqlite3.Connection) -> bool:
    """Whether values are such as a run has written: a slip of a bit, or a person, can make anything of them."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION:  # nothing in it yet, or nothing that could be told
        return True
    odd = {
        "outputs": [f"digest IS NOT NULL AND instr(path, char(0)) OR at < 0 OR at >= {_MOST_PLACES}"],
        "chunks": [f"number < 0 OR number >= {_MOST_PLACES // MOST_RECORDS}"],
        "runs": [f"ended IS NOT NULL AND ({' OR '.join(f'{name} IS NULL' for name in _COUNTS)})"],
    }
    texts: dict[str, list[str]] = {}
    for table, column, kind, needed in db.execute(_COLUMNS).fetchall():
        kinds = (kind.lower(), "integer" if kind == "REAL" else kind.lower())
        wrong = f"typeof({column}) NOT IN {kinds}"
        odd.setdefault(table, []).append(wrong if needed else f"{wrong} AND {column} IS NOT NULL")
        if kind == "TEXT":
            texts.setdefault(table, []).append(column)
    for table, conditions in odd.items():
        if db.execute(f"SELECT 1 FROM {table} WHERE {' OR '.join(conditions)} LIMIT 1").fetchone():
            return False
    for table, columns in texts.items():
        for _ in db.execute(f"SELECT {', '.join(columns)} FROM {table}"):  # what is no UTF-8 cannot be read
            pass
    return all(
        value is None or _is_json(value)
        for table, columns in _JSON.items()
        for row in db.execute(f"SELECT {columns} FROM {table}")
        for value in row
    )


_COLUMNS = (
    'SELECT t.name, c.name, c.type, c."notnull" OR c.pk FROM sqlite_schema t JOIN pragma_table_info(t.name) c '
    "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
)
"""Each column that is stored: its table, its name, its type, and whether it must have a value."""


def _is_json(value: object) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), (dict, list, type(None)))
    except ValueError:
        return False


def _bring_up_to_date(db: sqlite3.Connection, path: str) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= _SANE_VERSION:
        raise _DamagedError
    if version > VERSION:
        raise LedgerError(_newer(path, version))
    for number in range(version, VERSION):
        steps = f"BEGIN; {_STEPS[number]} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number + 1};"
        db.executescript(f"{steps} COMMIT;")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or any(
        text in str(error) for text in ("no such table", "already exists", "unsupported file format")
    )


def _set_aside(path: str) -> str:
    """Rename a damaged ledger to the first `ledger.db.bad-N` that is free; its new path."""
    number = 1
    while os.path.lexists(f"{path}.bad-{number}"):
        number += 1
    os.rename(path, f"{path}.bad-{number}")
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + ending, f"{path}.bad-{number}{ending}")
    return f"{path}.bad-{number}"


def _seal_of(folder: str) -> str | None:
    """The digest of the ledger's file, if it is, byte for byte, what the last run left."""
    path = os.path.join(folder, NAME)
    try:
        if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            return None  # somebody else has changed it, and not yet in the file
        seal = seal_beside(path)
        return seal if seal and seal == file_digest(path) else None
    except OSError:
        return None


def file_digest(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal: for whole files the quickest where the processor knows it."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(path + ".new", path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_full(folder: str | None) -> bool:
    """Whether there is no room for a few pages more."""
    if folder is None:
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < _A_FEW_PAGES


def _reason(error: sqlite3.Error | OSError, folder: str | None) -> str:
    """What went wrong, in the words that a full disk or a lack of rights has everywhere."""
    if isinstance(error, OSError):
        return f"cannot be read or written: {error.strerror}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # A full disk that SQLite meets at one of its helper files it calls an I/O error.
    if code == sqlite3.SQLITE_FULL or (code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(folder)):
        return f"cannot be written: {os.strerror(errno.ENOSPC)}"
    if isinstance(error, sqlite3.DatabaseError) and _is_damage(error):
        return f"is damaged ({error}); the next run sets it aside and checks every output anew"
    return f"cannot be read or written ({error})"
