"""What people write to render many documents without chora-mp, each as its own documentation says.

plain      one process, plain Jinja2: read a line, render, write the file
executor   `ProcessPoolExecutor`: submit all, `as_completed`, the parent saves; the textbook pattern
map-1      `ProcessPoolExecutor.map`, one item at a time; the workers write, as with all that follow
map-64     the same with `chunksize=64`
imap       `multiprocessing.Pool.imap_unordered(chunksize=64)`
joblib     `Parallel(return_as="generator_unordered")` over `delayed` calls, batches as it sees fit
mpire      `WorkerPool.imap_unordered(chunk_size=64)` with a worker's state
pebble     `ProcessPool.map(chunksize=64)`
dask       `dask.bag.read_text` of a local cluster, in blocks of a thirty-second of the file at most
parallel   GNU parallel with a `jinja2` command (jinja2-cli) for each item, the first items only
bare       N processes, each with a fixed share of the file, nothing between them: the limit for plain Jinja2

`python bench/opponents.py NAME --job JOB --workers N --output-dir DIR` runs one of them once.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import orjson
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CHUNK = 64  # the best chunk size for imap_unordered on the AWS pages
BLOCKS = 32  # of the source for Dask: enough for workers to end at about the same time
SLICE = 40  # items for GNU parallel, which makes some 17 a second


class Job:
    """As much of a job file as the opponents need, read without chora-mp's own code."""

    def __init__(self, file: Path) -> None:
        with file.open(encoding="utf-8") as stream:
            self.options: dict[str, Any] = yaml.safe_load(stream)
        self.file = file
        self.folder = file.parent
        self.source = Path(os.path.normpath(self.folder / self.options["source"]))
        self.templates = Path(os.path.normpath(self.folder / self.options["templates"]))

    def context(self) -> dict[str, Any]:
        """The constants, those in files included."""
        return {name: self.constant(value) for name, value in self.options.get("context", {}).items()}

    def constant(self, value: Any) -> Any:
        """A constant, read from its file where it is in one."""
        if not (isinstance(value, dict) and value.keys() == {"file"}):
            return value
        with (self.folder / value["file"]).open(encoding="utf-8") as stream:
            return yaml.safe_load(stream)

    def environment(self) -> jinja2.Environment:
        """Plain Jinja2 with the job's options, and undefined names and escaping as chora-mp has them."""
        return jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.templates),
            undefined=jinja2.StrictUndefined,
            autoescape=escapes,
            **self.options.get("jinja", {}),
        )


def escapes(name: str | None) -> bool:
    """Whether a template makes HTML or XML, by its extension under `.j2`."""
    return name is not None and name.removesuffix(".j2").endswith((".html", ".htm", ".xml", ".xhtml"))


def variant(job: Job, file: Path, limit: int | None = None, **options: Any) -> Job:
    """The job written to another file, with other options and, where asked for, only the first records."""
    file.parent.mkdir(parents=True, exist_ok=True)
    places = {"source": str(job.source.resolve()), "templates": str(job.templates.resolve())}
    if limit is not None:
        places["source"] = str(shortened(job.source, limit, file.with_suffix(".jsonl")))
    changed = {**job.options, **places, "context": job.context(), **options}
    file.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8")
    return Job(file)


def shortened(source: Path, limit: int, target: Path) -> Path:
    """A copy of a source with only its first records."""
    with source.open("rb") as lines, target.open("wb") as short:
        short.writelines(itertools.islice(lines, limit))
    return target


class Documents:
    """What a hand-written loop does for each record: render it and write it to its place."""

    def __init__(self, job: Job, output: str) -> None:
        environment = job.environment()
        self.template = environment.get_template(job.options["template"], globals=job.context())
        names = jinja2.Environment(undefined=jinja2.StrictUndefined)
        self.path = names.from_string(job.options["output"]["path"])
        self.output = output
        self.folders: set[str] = set()

    def render(self, line: bytes) -> tuple[str, str]:
        """The path and the text of one document."""
        record = orjson.loads(line)
        return f"{self.output}/{self.path.render(record)}", self.template.render(record)

    def save(self, path: str, text: str) -> None:
        """Write one document."""
        folder = os.path.dirname(path)
        if folder not in self.folders:
            os.makedirs(folder, exist_ok=True)
            self.folders.add(folder)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

    def write(self, line: bytes) -> str:
        """Make one document; returns its path."""
        path, text = self.render(line)
        self.save(path, text)
        return path


# One process, and several without any coordination


def run_plain(job: Job, output: str, _workers: int) -> None:
    """One process, one loop."""
    documents = Documents(job, output)
    with job.source.open("rb") as lines:
        for line in lines:
            documents.write(line)


def run_bare(job: Job, output: str, workers: int) -> None:
    """A process for each share of the file."""
    processes = [
        multiprocessing.Process(target=render_share, args=(job, output, start, end))
        for start, end in itertools.pairwise(cuts(job.source, workers))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("bare: a process failed")


def cuts(source: Path, shares: int) -> list[int]:
    """The offsets that cut a file into shares of about the same size at the ends of lines."""
    size = source.stat().st_size
    offsets = [0]
    with source.open("rb") as file:
        for share in range(1, shares):
            file.seek(max(size * share // shares, offsets[-1]))
            file.readline()
            offsets.append(file.tell())
    return [*offsets, size]


def render_share(job: Job, output: str, start: int, end: int) -> None:
    """Render the lines between two offsets."""
    documents = Documents(job, output)
    with job.source.open("rb") as lines:
        lines.seek(start)
        while start < end:
            line = lines.readline()
            documents.write(line)
            start += len(line)


# Pools


worker_documents: Documents


def start_worker(job: Job, output: str) -> None:
    """Prepare one process of a pool."""
    global worker_documents  # noqa: PLW0603  what the pools' documentation offers
    worker_documents = Documents(job, output)


def render_line(line: bytes) -> str:
    """Make one document in a process of a pool."""
    return worker_documents.write(line)


def render_text(line: bytes) -> tuple[str, str]:
    """The path and the text of one document, from a process of a pool to its parent."""
    return worker_documents.render(line)


def run_executor(job: Job, output: str, workers: int) -> None:
    """A future for each item, and the parent saves what comes back."""
    documents = Documents(job, output)
    with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(job, output)) as executor:
        with job.source.open("rb") as lines:
            futures = [executor.submit(render_text, line) for line in lines]
        for future in as_completed(futures):
            documents.save(*future.result())


def run_map(job: Job, output: str, workers: int, *, chunksize: int) -> None:
    """The executor's map."""
    with (
        ProcessPoolExecutor(workers, initializer=start_worker, initargs=(job, output)) as executor,
        job.source.open("rb") as lines,
    ):
        exhaust(executor.map(render_line, lines, chunksize=chunksize))


def run_imap(job: Job, output: str, workers: int) -> None:
    """The lines through a pool."""
    with multiprocessing.Pool(workers, start_worker, (job, output)) as pool, job.source.open("rb") as lines:
        exhaust(pool.imap_unordered(render_line, lines, chunksize=CHUNK))


def exhaust(results: Iterable[Any]) -> None:
    """Wait for all results; an error is raised."""
    for _ in results:
        pass


# Packages


@functools.cache
def documents_of(file: Path, output: str) -> Documents:
    """A worker's own documents, made at its first item, for pools that have no initializer."""
    return Documents(Job(file), output)


def write_line(file: Path, output: str, line: bytes) -> str:
    """Make one document in a process that knows nothing yet."""
    return documents_of(file, output).write(line)


def run_joblib(job: Job, output: str, workers: int) -> None:
    """A delayed call for each line."""
    from joblib import Parallel, delayed

    with job.source.open("rb") as lines:
        calls = (delayed(write_line)(job.file, output, line) for line in lines)
        exhaust(Parallel(n_jobs=workers, return_as="generator_unordered")(calls))


def prepare_state(shared: tuple[Job, str], state: dict[str, Any]) -> None:
    """Prepare one process of an mpire pool."""
    state["documents"] = Documents(*shared)


def render_with_state(_shared: tuple[Job, str], state: dict[str, Any], line: bytes) -> str:
    """Make one document in a process of an mpire pool."""
    return str(state["documents"].write(line))


def run_mpire(job: Job, output: str, workers: int) -> None:
    """The lines through a pool whose workers have a state."""
    from mpire import WorkerPool

    with (
        WorkerPool(n_jobs=workers, shared_objects=(job, output), use_worker_state=True) as pool,
        job.source.open("rb") as lines,
    ):
        exhaust(pool.imap_unordered(render_with_state, lines, chunk_size=CHUNK, worker_init=prepare_state))


def run_pebble(job: Job, output: str, workers: int) -> None:
    """The lines through a pool that can stop what takes too long, which nothing does here."""
    from pebble import ProcessPool

    with (
        ProcessPool(max_workers=workers, initializer=start_worker, initargs=(job, output)) as pool,
        job.source.open("rb") as lines,
    ):
        exhaust(pool.map(render_line, lines, chunksize=CHUNK).result())


def write_block(lines: Iterable[str], file: Path, output: str) -> list[int]:
    """Make the documents of one of Dask's partitions; returns how many."""
    documents = documents_of(file, output)
    return [sum(1 for line in lines if documents.write(line.encode()))]


def run_dask(job: Job, output: str, workers: int) -> None:
    """A bag of lines, cut up and read by the workers of a local cluster."""
    import dask.bag
    from dask.distributed import Client

    size = job.source.stat().st_size // BLOCKS + 1
    with Client(n_workers=workers, threads_per_worker=1, dashboard_address=None):
        bag = dask.bag.read_text(str(job.source), blocksize=size, encoding="utf-8")
        bag.map_partitions(write_block, job.file, output).compute()


# A command for each item


def run_parallel(job: Job, output: str, workers: int) -> None:
    """GNU parallel and the command `jinja2`, for the first items only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_templates(job, folder)
        (folder / "constants.json").write_bytes(orjson.dumps(job.context()))
        arguments = "".join(f"{record}\t{path}\n" for record, path in write_records(job, output, folder))
        command = ["parallel", "--will-cite", "-j", str(workers), "--halt", "now,fail=1", "--colsep", "\t"]
        subprocess.run([*command, jinja2_command(job, folder)], input=arguments.encode(), check=True)


def jinja2_command(job: Job, folder: Path) -> str:
    """What makes one document; {1} and {2} are its record's file and its own."""
    flags = [f"--{name.replace('_', '-')}" for name, value in job.options.get("jinja", {}).items() if value is True]
    if escapes(job.options["template"]):
        flags.append("--autoescape")
    template, constants = folder / job.options["template"], folder / "constants.json"
    start = shlex.join([jinja2_program(), "--strict", *flags, "--format", "json", str(template), str(constants)])
    return f"{start} {{1}} --outfile {{2}}"


def copy_templates(job: Job, folder: Path) -> None:
    """The templates without their last line break, which Jinja2 does not print and jinja2-cli does."""
    for path in job.templates.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(job.templates)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes().removesuffix(b"\n"))


def write_records(job: Job, output: str, folder: Path) -> Iterable[tuple[Path, str]]:
    """Write the first records to a file each; yields it with the path of its document, whose folder is made."""
    documents = Documents(job, output)
    with job.source.open("rb") as lines:
        for number, line in enumerate(itertools.islice(lines, SLICE)):
            record = folder / f"{number}.json"
            record.write_bytes(line)
            path = f"{output}/{documents.path.render(orjson.loads(line))}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            yield record, path


def jinja2_program() -> str:
    """The command `jinja2`: beside this Python, else as the shell finds it."""
    beside = Path(sys.executable).with_name("jinja2")
    return str(beside) if beside.exists() else shutil.which("jinja2") or "jinja2"


class Opponent(NamedTuple):
    """How one is run, what has to be installed for it, and of how many records it makes documents (None: of all)."""

    run: Callable[[Job, str, int], None]
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    items: int | None = None


OPPONENTS = {
    "plain": Opponent(run_plain),
    "executor": Opponent(run_executor),
    "map-1": Opponent(functools.partial(run_map, chunksize=1)),
    "map-64": Opponent(functools.partial(run_map, chunksize=CHUNK)),
    "imap": Opponent(run_imap),
    "joblib": Opponent(run_joblib, ("joblib",)),
    "mpire": Opponent(run_mpire, ("mpire",)),
    "pebble": Opponent(run_pebble, ("pebble",)),
    "dask": Opponent(run_dask, ("dask", "distributed")),
    "parallel": Opponent(run_parallel, ("jinja2cli",), ("parallel",), SLICE),
    "bare": Opponent(run_bare),
}


def missing(name: str) -> str | None:
    """What an opponent lacks to run here, such as "joblib is not installed"; None where nothing is missing."""
    opponent = OPPONENTS[name]
    lacking = [package for package in opponent.packages if importlib.util.find_spec(package) is None]
    lacking += [program for program in opponent.programs if shutil.which(program) is None]
    return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed" if lacking else None


def main() -> int:
    """Run one opponent."""
    parser = argparse.ArgumentParser(description="Render a job in one of the ways that people write by hand.")
    parser.add_argument("name", choices=[*OPPONENTS])
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--output-dir", required=True)
    options = parser.parse_args()
    lacking = missing(options.name)
    if lacking:
        sys.exit(f"{options.name}: {lacking}; pip install 'chora-mp[bench]'")
    try:
        OPPONENTS[options.name].run(Job(options.job), options.output_dir, options.workers)
    except OSError as error:
        sys.exit(f"{options.name}: {error}")
    return 0


if __name__ == "__main__":
    # What workers are to call must be found under the module's own name, not under that of the script.
    from opponents import main

    sys.exit(main())
