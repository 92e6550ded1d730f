"""Looking after a job between runs: what its ledger tells, whether its outputs are as written, what would fail."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chora_mp.bundle import shown, take_bundle
from chora_mp.crew import Crew
from chora_mp.errors import ChoraError, JobError, LedgerError, OutputError
from chora_mp.job import Job
from chora_mp.lanes import InlineLane, ProcessLane
from chora_mp.ledger import NAME, Ledger, job_identity, profiles_in
from chora_mp.outputs import Folder, files_in
from chora_mp.planning import Planner, Wishes
from chora_mp.records import Failure, ItemResult, Orders, Place
from chora_mp.sinks import STATE_FOLDER
from chora_mp.sizing import optimal_workers
from chora_mp.state import run_name, store_bundle, without_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chora_mp.machine import Machine
    from chora_mp.planning import Surveyed
    from chora_mp.profiles import Profile


_SAMPLE = 200
_MOST_DIFFERENCES = 5
_AS_WRITTEN, _MISSING, _EDITED = range(3)


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of a job's outputs since they were written: paths relative to the output folder, sorted.

    `checked`: how many were read. `missing`: no longer there. `edited`: their bytes are others. `unknown`: files that
    the ledger knows nothing of.
    """

    job: str
    checked: int
    missing: tuple[str, ...]
    edited: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether all is as it was written, and nothing else is there."""
        return not (self.missing or self.edited or self.unknown)

    def as_dict(self) -> dict[str, Any]:
        """The verification as `verify --json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Status:
    """What a job's ledger tells.

    `runs`: the last ones, the latest first, each a mapping of the columns of `runs`; `rendered` and `failed` count the
    outputs as they stand, `failures` lists those that failed last.
    """

    job: str
    folder: str
    rendered: int
    failed: int
    runs: tuple[dict[str, Any], ...] = ()
    failures: tuple[ItemResult, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The status as `status --json` prints it."""
        return {
            "job": self.job,
            "folder": self.folder,
            "rendered": self.rendered,
            "failed": self.failed,
            "runs": list(self.runs),
            "failures": [failure.as_dict() for failure in self.failures],
        }


@dataclass(frozen=True, slots=True)
class Engine:
    """Another engine beside Jinja2: of a sample of `records`, how many came out alike byte by byte.

    `times_as_fast`: how much faster those were made; 0: there are none.
    """

    name: str
    records: int
    agree: int
    times_as_fast: float


@dataclass(frozen=True, slots=True)
class Check:
    """What is wrong with a job, each a line `file:line: what is wrong`; `records`: how many were looked at.

    `engine`: how another engine fares, where one was to be tried.
    """

    job: str
    records: int
    findings: tuple[str, ...]
    engine: Engine | None = None

    def as_dict(self) -> dict[str, Any]:
        """The check as `check --json` prints it."""
        found = asdict(self)
        if self.engine is None:
            del found["engine"]
        return found


def verify(job: Job) -> Verification:
    """Read every output of `job` and compare it with what the ledger says was written.

    Raises `LedgerError` where there is no ledger, or it is damaged or another job's.
    """
    with _ledger(job) as ledger, contextlib.closing(sqlite3.connect("")) as paths:
        try:
            return _verified(job, ledger, paths)
        except sqlite3.Error as error:  # the ledger's own are told by the ledger
            raise OutputError(f"the paths that were looked at cannot be kept in a temporary file: {error}") from None


def _verified(job: Job, ledger: Ledger, paths: sqlite3.Connection) -> Verification:
    """The verification; `paths` is an empty database, on disk where it grows too large for the memory."""
    paths.execute("CREATE TABLE looked_at (path BLOB PRIMARY KEY, found INTEGER) WITHOUT ROWID")
    # Of several rows for one path, which a shard may leave, one that agrees with the file is enough.
    paths.executemany(
        "INSERT INTO looked_at VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET found = min(found, excluded.found)",
        _looked_at(ledger, _root(job)),
    )
    (checked,) = paths.execute("SELECT count(*) FROM looked_at").fetchone()
    missing, edited = (
        [
            path.decode()
            for (path,) in paths.execute("SELECT path FROM looked_at WHERE found = ? ORDER BY path", (what,))
        ]
        for what in (_MISSING, _EDITED)
    )
    query = "SELECT 1 FROM looked_at WHERE path = ?"
    unknown = (path for path in files_in(_root(job)) if not paths.execute(query, (_raw(path),)).fetchone())
    return Verification(job.name, checked, tuple(missing), tuple(edited), tuple(sorted(unknown)))


def _looked_at(ledger: Ledger, root: str) -> Iterator[tuple[bytes, int]]:
    """The path of every output, and what became of it."""
    folder = Folder(root)
    for output in ledger.outputs():
        doubt = folder.doubt(output)
        yield _raw(output.path), _MISSING if doubt.missing else _EDITED if doubt.edited else _AS_WRITTEN
    folder.close()


def _raw(path: str) -> bytes:
    """A path as the file system has it; what is no UTF-8 there comes back as it was."""
    return path.encode("utf-8", "surrogateescape")


def status(job: Job, *, runs: int = 10) -> Status:
    """What the ledger of `job` tells: its last runs, and what failed. Raises `LedgerError` as `verify`."""
    with _ledger(job) as ledger, ledger.told():
        cursor = ledger.db.execute("SELECT * FROM runs ORDER BY id DESC LIMIT ?", (runs,))
        names = [column[0] for column in cursor.description]
        found = tuple(_readable(dict(zip(names, row, strict=True))) for row in cursor)
        counts = dict(ledger.db.execute("SELECT status, count(*) FROM outputs GROUP BY status"))
        failures = tuple(_failures(ledger))
        keyless = sum(failure.unkeyed for failure in failures)
    return Status(
        job.name, shown(_root(job)), counts.get("rendered", 0), counts.get("failed", 0) + keyless, found, failures
    )


def check_file(path: str | os.PathLike[str], engine: str | None = None) -> Check:
    """Check the job in the file at `path`; what is wrong with the file itself is a finding, too. Raises as `check`."""
    try:
        job = Job.load(path, require=("source", "output"))
    except JobError as error:
        if not os.path.isfile(path):
            raise
        return Check(Path(path).stem, 0, error.problems)
    return check(job, engine)


def check(job: Job, engine: str | None = None) -> Check:
    """Look at templates, plug-ins and every record of `job` without rendering any.

    With an `engine`, a sample of the records is rendered by it and by Jinja2, to see whether every byte agrees.

    Raises `SourceError` where the records cannot be read as a whole, `OutputError`, `WorkerError`; the rest is found.
    """
    if job.source is None:
        raise JobError([f"{job.where('source')}: missing; there is nothing to check"])
    try:
        bundle = take_bundle(job)
        with without_output(run_name()) as state:
            store_bundle(state, bundle)
            orders = Orders(state.bundle, None, state.scratch, state.temporary)
            workers = optimal_workers(limits=job.limits).workers if job.workers == "auto" else job.workers
            lane = ProcessLane(orders, workers) if workers else InlineLane(orders)
            with Crew(lane) as crew:
                planner = Planner(job, bundle, crew, state.scratch, None, Wishes(faults=True))
                found = Check(job.name, *_findings(job, planner.survey()))
                return found if engine is None else _compared(job, found, planner, crew, engine)
    except JobError as error:
        return Check(job.name, 0, tuple(error.problems))


def _compared(job: Job, found: Check, planner: Planner, crew: Crew, engine: str) -> Check:
    """The check, with what another engine makes of a sample."""
    if job.template is None:
        raise JobError([f"--engine {engine}: content configs name their generators; there is nothing to compare"])
    assert job.source is not None  # noqa: S101  (asked for by the caller)
    agree, records, seconds, other = 0, 0, 0.0, 0.0
    differences: list[str] = []
    for span in planner.sample(_SAMPLE):
        for line, (text, others, took, other_took) in crew.ask("compare", span, engine):
            records += 1
            if text == others:
                agree, seconds, other = agree + 1, seconds + took, other + other_took
            elif len(differences) < _MOST_DIFFERENCES:
                place = f"{job.source.name}:{line}" if line else f"{job.source.name}: record {span.seq + 1}"
                differences.append(f"{place}: {engine} differs: {_difference(text, others)}")
    comparison = Engine(engine, records, agree, seconds / other if other else 0.0)
    return replace(found, findings=(*found.findings, *differences), engine=comparison)


def _difference(text: str, other: str) -> str:
    """Where two documents begin to differ, and how."""
    pairs = enumerate(zip(text, other, strict=False))
    at = next((place for place, (one, two) in pairs if one != two), min(len(text), len(other)))
    line = text.count("\n", 0, at) + 1
    start = max(0, at - 10)
    return f"line {line} of the document is {other[start : at + 60]!r} and not {text[start : at + 60]!r}"


def used_of(job: Job, found: Iterable[Profile]) -> Profile | None:
    """The one of all profiles that a run goes by: of the job's generator, on its lane; None: there is none.

    Of content configs, which name their generators, the one that there is; None where there are several.
    """
    found = [one for one in found if job.generator in (None, one.generator)]
    used = [one for one in found if one.lane == (job.options_of(one.generator).lane or one.own_lane)]
    return used[0] if len(used) == 1 else None


def profiles_of(job: Job, machine: Machine) -> list[Profile]:
    """What `tune` has measured with the templates of `job`, on this machine, by whatever generator and on any lane.

    It is a hint, so that nothing is raised: not where the templates are broken, nor where the ledger is.
    """
    if job.output is None:
        return []
    try:
        digest = take_bundle(job).digest
    except ChoraError:
        return []
    return profiles_in(os.path.join(job.output.dir, STATE_FOLDER), digest, machine)


def _findings(job: Job, found: Surveyed) -> tuple[int, tuple[str, ...]]:
    """How many records were looked at, and all that is wrong, a line each."""
    assert job.source is not None  # noqa: S101  (asked for above)
    lines = list(found.problems)
    if found.records:
        for place, name in found.wanted:
            if name not in found.names:
                near = _near(name, found.names)
                lines.append(f"{place}: {name!r} is in no record, constant or plug-in{near}")
    lines += found.clashes
    name = job.source.name
    lines += [f"{name}:{line}: {message}" if line else f"{name}: {message}" for line, message in found.faults]
    if not found.records:
        lines.append(f"{name}: holds no record")
    return found.records, tuple(lines)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _readable(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, **{name: json.loads(run[name]) for name in ("sizing", "options") if run[name]}}


def _failures(ledger: Ledger) -> Iterator[ItemResult]:
    sql = "SELECT seq, key, path, file, line, attempts, error FROM failures ORDER BY seq"
    for seq, key, path, file, line, attempts, error in ledger.db.execute(sql):
        told = json.loads(error)
        failure = Failure(**{**told, "chain": tuple(told["chain"])}) if told else None
        place = None if file is None else Place(file, line)
        yield ItemResult(key, path, seq, "failed", attempts=attempts, error=failure, source=place)


def _root(job: Job) -> str:
    if job.output is None:
        raise JobError([f"{job.where('output.path')}: missing; a job that writes nothing has no ledger"])
    return str(job.output.dir)


def _ledger(job: Job) -> Ledger:
    """The ledger of a job, to be read only."""
    state = os.path.join(_root(job), STATE_FOLDER)
    if not os.path.exists(os.path.join(state, NAME)):
        raise LedgerError(f"{shown(_root(job))}: holds no ledger; nothing was rendered here yet")
    ledger = Ledger(state, read_only=True)
    try:
        job_identity(ledger, job)
    except BaseException:
        ledger.close()
        raise
    return ledger
