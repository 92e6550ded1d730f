"""Records on disk to documents on disk: chora-mp beside what people write by hand.

`python bench/end_to_end.py aws --rounds 5` runs the opponents in turn, round after round, each in a fresh process:

plain      one process, plain Jinja2: read a line, render, write the file
bare       N processes, each with a fixed share of the file, nothing between them: the limit for plain Jinja2
imap       `multiprocessing.Pool(N).imap_unordered(chunksize=64)` over the lines, the workers render and write
chora-mp   `chora-mp render JOB -j N`
REVISION   with `--revision REVISION`, the same of another revision of this repository, such as the one before a change

Printed are the median seconds with the range, the median of the ratios within each round, processor seconds of
all processes, and the greatest memory of the main process. After the first round all documents are compared
byte for byte with those of `plain`.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jinja2
import orjson
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
JOBS = {"aws": "aws-operations.yaml", "unicode": "unicode.yaml"}
CHUNK = 64  # the best chunk size for imap_unordered on the AWS pages
SAMPLE = 0.02  # seconds between two looks at a process's memory
STATE = ".chora-mp"  # where chora-mp keeps its ledger, below the output folder
PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>


# The opponents


class Job:
    """As much of a job file as the opponents need, read without chora-mp's own code."""

    def __init__(self, file: Path) -> None:
        with file.open(encoding="utf-8") as stream:
            self.options: dict[str, Any] = yaml.safe_load(stream)
        self.file = file
        self.folder = file.parent
        self.source = Path(os.path.normpath(self.folder / self.options["source"]))

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
        options = dict(self.options.get("jinja", {}))
        return jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.folder / self.options["templates"]),
            undefined=jinja2.StrictUndefined,
            autoescape=escapes,
            **options,
        )


def escapes(name: str | None) -> bool:
    """Whether a template makes HTML or XML, by its extension under `.j2`."""
    return name is not None and name.removesuffix(".j2").endswith((".html", ".htm", ".xml", ".xhtml"))


class Documents:
    """What a hand-written loop does for each record: render it and write it to its place."""

    def __init__(self, job: Job, output: str) -> None:
        environment = job.environment()
        self.template = environment.get_template(job.options["template"], globals=job.context())
        names = jinja2.Environment(undefined=jinja2.StrictUndefined)
        self.path = names.from_string(job.options["output"]["path"])
        self.output = output
        self.folders: set[str] = set()

    def write(self, line: bytes) -> str:
        """Make one document; returns its path."""
        record = orjson.loads(line)
        path = f"{self.output}/{self.path.render(record)}"
        folder = os.path.dirname(path)
        if folder not in self.folders:
            os.makedirs(folder, exist_ok=True)
            self.folders.add(folder)
        text = self.template.render(record)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        return path


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
            file.seek(size * share // shares)
            file.readline()
            offsets.append(file.tell())
    return [*offsets, size]


def render_share(job: Job, output: str, start: int, end: int) -> None:
    """Render the lines between two offsets."""
    documents = Documents(job, output)
    with job.source.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            documents.write(line)
            start += len(line)
            if start >= end:
                break


worker_documents: Documents


def start_worker(job: Job, output: str) -> None:
    """Prepare one process of the pool."""
    global worker_documents  # noqa: PLW0603  what the pool's documentation offers
    worker_documents = Documents(job, output)


def render_line(line: bytes) -> str:
    """Make one document in a process of the pool."""
    return worker_documents.write(line)


def run_imap(job: Job, output: str, workers: int) -> None:
    """The lines through a pool."""
    with multiprocessing.Pool(workers, start_worker, (job, output)) as pool, job.source.open("rb") as lines:
        for _ in pool.imap_unordered(render_line, lines, chunksize=CHUNK):
            pass


BY_HAND = {"plain": run_plain, "bare": run_bare, "imap": run_imap}
OURS = "chora-mp"


# Measuring


@dataclass(slots=True)
class Run:
    """One run of one opponent; `peak_mb` is of its main process, None where the system does not tell."""

    seconds: float
    cpu_s: float
    peak_mb: float | None


@dataclass(slots=True)
class Result:
    """All runs of one opponent; `error` says why there are no more, `same` whether its documents are right."""

    runs: list[Run] = field(default_factory=list)
    error: str | None = None
    same: bool | None = None


def command(name: str, job: Job, output: Path, workers: int) -> list[str]:
    """What starts an opponent."""
    if name not in BY_HAND:
        summary = output.with_suffix(".json")
        start = [sys.executable, "-m", "chora_mp", "render", str(job.file)]
        return [*start, "-j", str(workers), "-o", str(output), "-q", "--summary", str(summary)]
    options = ["--workers", str(workers), "--output-dir", str(output)]
    return [sys.executable, __file__, "--run", name, "--job", str(job.file), *options]


def surroundings(code: Path) -> dict[str, str]:
    """The environment of the opponents: chora-mp is imported from `code`, and compiled modules are kept."""
    found = dict(os.environ)
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), found.get("PYTHONPATH")]))
    return found


def measure(arguments: list[str], code: Path = REPOSITORY) -> Run:
    """Run a command to its end, with the chora-mp in `code`; RuntimeError with what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=said, stderr=said, env=surroundings(code), cwd=code)
        with watched(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime + orphans_cpu()
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(f"exit code {process.returncode}: {last[0]}")
    return Run(seconds, cpu, peak.megabytes)


class watched:  # noqa: N801  reads as a word in a with statement
    """Looks at a process's greatest memory while the block runs; `megabytes` is None without /proc."""

    def __init__(self, pid: int) -> None:
        self.status = f"/proc/{pid}/status"
        self.megabytes: float | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        """Look until the block is over; the kernel keeps the maximum, so the last look counts."""
        while not self.over.is_set():
            self.look()
            self.over.wait(SAMPLE)

    def look(self) -> None:
        """Note the high-water mark; a process at its end has none any more."""
        try:
            with open(self.status, encoding="ascii") as lines:
                for line in lines:
                    if line.startswith("VmHWM:"):
                        self.megabytes = int(line.split()[1]) / 1024
        except OSError:
            pass


def adopt_orphans() -> None:
    """Become the parent of processes that outlive an opponent's main process, as a fork server does for a moment.

    Only so is their processor time counted. On systems other than Linux nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def orphans_cpu(patience: float = 10.0) -> float:
    """Processor seconds of adopted processes; waits for their end for some seconds."""
    seconds = 0.0
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return seconds
        if pid:
            seconds += usage.ru_utime + usage.ru_stime
        else:
            time.sleep(0.01)
    raise RuntimeError(f"processes were still running {patience:g} s after the main process")


def first_difference(expected: Path, actual: Path) -> str | None:
    """The first path at which two folders differ; None where all files are the same, byte for byte."""
    here, there = files(expected), files(actual)
    for mine, theirs in itertools.zip_longest(here, there):
        if mine != theirs:
            return str(mine or theirs)
        if (expected / mine).read_bytes() != (actual / mine).read_bytes():
            return str(mine)
    return None


def files(folder: Path) -> list[str]:
    """The relative paths of the documents in a folder, sorted."""
    found = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name != STATE]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(found)


def rounds(job: Job, scratch: Path, options: argparse.Namespace) -> dict[str, Result]:
    """Run all opponents, in turn and each time in another order, and compare their first documents."""
    opponents = [*BY_HAND, *([options.revision] if options.revision else []), OURS]
    results = {name: Result() for name in opponents}
    for number in range(options.rounds):
        turn = number % len(opponents)
        for name in [*opponents[turn:], *opponents[:turn]]:
            if results[name].error is None:
                one_run(name, job, scratch, options.workers, results[name])
            if number > 0:
                shutil.rmtree(scratch / name, ignore_errors=True)
        if number == 0:
            compare(scratch, results)
            for name in opponents:
                shutil.rmtree(scratch / name, ignore_errors=True)
    return results


def one_run(name: str, job: Job, scratch: Path, workers: int, result: Result) -> None:
    """Run one opponent into a fresh folder."""
    output = scratch / name
    output.mkdir()
    try:
        run = measure(command(name, job, output, workers), REPOSITORY if name in {*BY_HAND, OURS} else scratch / "code")
    except RuntimeError as error:
        result.error = str(error)
        say(f"{name}: {error}")
        return
    result.runs.append(run)
    say(f"{name}: {run.seconds:.2f} s")


def compare(scratch: Path, results: dict[str, Result]) -> None:
    """Note for each opponent whether it made the same documents as `plain`, and say it."""
    count = len(files(scratch / "plain"))
    for name in [name for name in results if name != "plain"]:
        if results[name].error is None:
            difference = first_difference(scratch / "plain", scratch / name)
            results[name].same = difference is None
            found = f"{count:,} documents, byte for byte those of plain"
            say(f"{name}: {found if difference is None else f'differs from plain at {difference}'}")


def say(message: str) -> None:
    """Tell how it goes."""
    print(message, file=sys.stderr, flush=True)


# Telling


def table(results: dict[str, Result]) -> Iterator[str]:
    """The lines of the comparison."""
    other = next((name for name in results if name not in {*BY_HAND, OURS}), "bare")
    yield f"{'':<10}{'seconds':>8}{'(min–max)':>15}{'× plain':>9}{f'× {other[:8]}':>11}{'CPU s':>8}{'main MB':>9}"
    for name, result in results.items():
        if result.runs:
            yield row(name, other, results)
        else:
            yield f"{name:<10}{result.error or 'not run'}"


def row(name: str, other: str, results: dict[str, Result]) -> str:
    """One opponent's line; `other` is whom it is compared with besides `plain`."""
    runs = results[name].runs
    seconds = [run.seconds for run in runs]
    spread = f"({min(seconds):.2f}–{max(seconds):.2f})"
    ratios = f"{number(ratio(name, 'plain', results)):>9}{number(ratio(name, other, results)):>11}"
    cpu = statistics.median(run.cpu_s for run in runs)
    peaks = [run.peak_mb for run in runs if run.peak_mb is not None]
    peak = f"{max(peaks):.0f}" if peaks else "–"
    return f"{name[:9]:<10}{statistics.median(seconds):>8.2f}{spread:>15}{ratios}{cpu:>8.2f}{peak:>9}"


def ratio(name: str, other: str, results: dict[str, Result]) -> float | None:
    """The median of an opponent's seconds by another's in the same round."""
    pairs = [(a.seconds, b.seconds) for a, b in zip(results[name].runs, results[other].runs, strict=False)]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def number(value: float | None) -> str:
    """A ratio with two digits."""
    return "–" if value is None else f"{value:.2f}"


def facts(job: Job, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    with job.source.open("rb") as lines:
        records = sum(1 for _ in lines)
    return {
        "corpus": options.corpus,
        "records": records,
        "megabytes": round(job.source.stat().st_size / 1e6, 1),
        "rounds": options.rounds,
        "workers": options.workers,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jinja2": version("jinja2"),
        "system": platform.platform(),
        "output": str(scratch),
    }


# The command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare chora-mp with hand-written renderers.")
    parser.add_argument("corpus", nargs="?", choices=[*JOBS], default="aws")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N records")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--revision", help="compare with this revision of chora-mp, too")
    parser.add_argument("--output-dir", type=Path, help="default: a fresh folder in memory where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs to this file, too")
    parser.add_argument("--run", choices=[*BY_HAND], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def check_out(revision: str, folder: Path) -> None:
    """Put the package as it was at a revision of this repository into a folder."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", revision, "chora_mp"], check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def shortened(job: Job, limit: int, folder: Path) -> Job:
    """A copy of a job with all its files, and only the first records of its source."""
    shutil.copytree(job.folder, folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    copy = Job(folder / "configs" / job.file.name)
    copy.source.parent.mkdir(parents=True)
    with job.source.open("rb") as lines, copy.source.open("wb") as short:
        short.writelines(itertools.islice(lines, limit))
    return copy


def main() -> int:
    """Run the comparison: 0 where all opponents ran and agree, else 1; 2 without the records."""
    options = parse()
    if options.run:
        BY_HAND[options.run](Job(options.job), str(options.output_dir), options.workers)
        return 0
    job = Job(REPOSITORY / "configs" / JOBS[options.corpus])
    if not job.source.exists():
        say(f"{job.source}: not there; make it with: python bench/corpora.py {options.corpus}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the scratch folder goes, too
    return compete(job, options)


def compete(job: Job, options: argparse.Namespace) -> int:
    """Run, print and write down the comparison."""
    adopt_orphans()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    if options.output_dir:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="end-to-end-", dir=options.output_dir or memory) as folder:
        scratch = Path(folder).resolve()
        if options.limit:
            job = shortened(job, options.limit, scratch / "short")
        if options.revision:
            check_out(options.revision, scratch / "code")
        about = facts(job, scratch, options)
        results = rounds(job, scratch, options)
    print(*table(results), sep="\n")
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    if options.json:
        answer = {"facts": about, "results": {name: asdict(result) for name, result in results.items()}}
        options.json.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    return int(any(result.error or result.same is False for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
