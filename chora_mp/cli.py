"""The command line: parses, calls one public function, prints."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

import click

from chora_mp import units
from chora_mp.errors import ChoraError, Interrupted, JobError, OutputError
from chora_mp.generators import LANES
from chora_mp.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.events import Event, Observer
    from chora_mp.figures import Benchmark, Changes
    from chora_mp.job import Job
    from chora_mp.profiles import Profile
    from chora_mp.records import BatchResult
    from chora_mp.sizing import Sizing
    from chora_mp.tuning import Tuning

PROGRAM = "chora-mp"
# Keys, paths and messages are the data's: none of them may move the cursor, or tell the terminal what to do.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _converted(convert: Callable[[str], Any]) -> dict[str, Any]:
    """Options for `click.option`: the value goes through `convert`, whose `ValueError` is what the person reads."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(convert(one) for one in value)
            return None if value is None else convert(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return {"callback": callback}


def _measure(parse: Callable[[object], float]) -> dict[str, Any]:
    """The same for durations, sizes and rates, as in a job file; a bare number is taken as one."""
    return _converted(lambda text: parse(float(text) if _is_number(text) else text))


def _jobs(text: str) -> int | str:
    if text == "auto" or (text.isascii() and text.isdigit()):
        return text if text == "auto" else int(text)
    raise ValueError(f"{text!r} is neither a number of workers nor 'auto'")


def _definition(text: str) -> tuple[str, Any]:
    from chora_mp.yamlfile import parse_yaml  # noqa: PLC0415

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, parse_yaml(value, name).data if value else ""
    except JobError as error:
        raise ValueError(str(error)) from None


def _most_failures(text: str) -> tuple[int | None, float | None]:
    from chora_mp.jobvalues import most_failures  # noqa: PLC0415

    return most_failures(int(text) if text.isascii() and text.isdigit() else text)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{text!r} is no list of numbers; write 1,2,4")
    if not any(map(int, parts)):
        raise ValueError("0 is the sequential run, which is measured anyway; name numbers of workers, such as 1,2,4")
    return tuple(int(part) for part in parts)


def _budget(value: object) -> float:
    from chora_mp.tuning import LEAST_BUDGET  # noqa: PLC0415  (as the command itself does)

    seconds = units.seconds(value)
    if seconds < LEAST_BUDGET:
        raise ValueError(f"{seconds:g} s is too short for anything to be measured; {LEAST_BUDGET:g} s at least")
    return seconds


def _percent(text: str) -> float:
    number = text.removesuffix("%").strip()
    if not _is_number(number) or not 0 <= float(number) < 100:
        raise ValueError(f"{text!r} is no share; write a number of percent from 0 to 99, such as 5%")
    return float(number) / 100


def _shard(text: str) -> tuple[int, int]:
    from chora_mp.selection import parse_shard  # noqa: PLC0415

    return parse_shard(text)


_JOB = click.argument("job", metavar="JOB", type=click.Path())
_OUTPUT_DIR = click.option("-o", "--output-dir", type=click.Path(), help="Look here instead of the job's output.dir.")
_PROGRESS = click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown on stderr; auto: a bar on a terminal, else nothing.",
)
_DURATION = _measure(units.seconds)
_SIZE = _measure(units.size)
_RATE = _measure(units.rate)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Render records through Jinja2 templates on all cores, one document per record."""


@cli.command()
@_JOB
@click.option(
    "-j",
    "--jobs",
    metavar="N|auto",
    help="So many workers, if there are items for them; 0 renders inline, for debugging.  [default: as the job says]",
    **_converted(_jobs),
)
@click.option("-n", "--dry-run", is_flag=True, help="Tell what would be rendered; with -v every item, and why.")
@click.option("-v", "--verbose", is_flag=True, help="With --dry-run: list every item.")
@click.option("-f", "--force", is_flag=True, help="Render what is up to date, too.")
@click.option("-x", "--fail-fast", is_flag=True, help="Stop at the first failed item instead of collecting failures.")
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    help="Try a failure that may pass so many times more, after a pause.",
)
@click.option(
    "--max-failures", metavar="N|P%", help="Stop when more items than this have failed.", **_converted(_most_failures)
)
@click.option("--lane", type=click.Choice(LANES), help="Run items there, whatever their generators say.")
@click.option("--timeout", metavar="SECONDS", help="What an item may take before it fails: 90, 5m, 250ms.", **_DURATION)
@click.option("-o", "--output-dir", type=click.Path(), help="Write here instead of the job's output.dir.")
@click.option(
    "-D",
    "--define",
    "defines",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set a context constant; the value is YAML.",
    **_converted(_definition),
)
@click.option("-k", "--only", metavar="GLOB", help="Render only the items whose key matches.")
@click.option("--using", metavar="TEMPLATE", help="Render only the items whose documents are made from a template.")
@click.option("--failed", is_flag=True, help="Render only the items that failed last time.")
@click.option("--prune", is_flag=True, help="Remove outputs whose record is gone, but for those edited since.")
@click.option(
    "--shard", metavar="I/N", help="Render only the Ith of N shares of the items, by key.", **_converted(_shard)
)
@click.option("--summary", metavar="FILE|-", help="Write the summary as JSON to a file, or to stdout.")
@click.option("--events", metavar="FILE|-", help="Append what happens to a file as JSON lines, or write it to stdout.")
@_PROGRESS
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and failures.")
def render(
    job: str,
    summary: str | None,
    events: str | None,
    progress: str,
    quiet: bool,
    dry_run: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Render the records of JOB whose outputs are not up to date.

    Exits with 0 if all is well, 1 if items failed, 2 if the job is wrong or the run cannot go on, 130 if interrupted.
    """
    if verbose and not dry_run:
        raise click.UsageError("--verbose lists the items of a plan: give --dry-run, too")
    if events == summary == "-":
        raise click.UsageError("--events and --summary cannot both have stdout: give one of them a file")
    from chora_mp.ahead import start_ahead  # noqa: PLC0415

    start_ahead(job, options)
    wishes = {name: options.pop(name) for name in ("only", "using", "failed", "shard", "force", "prune")}
    checked = _job(job, options)
    _check_writable(summary)
    with _watching(progress, quiet) as observers:
        if dry_run:
            _dry_run(checked, wishes, observers, summary, verbose=verbose)
        else:
            with _event_log(events) as log:
                _render(checked, wishes, [*observers, *log], summary, quiet=quiet, only_json="-" in (summary, events))


@contextlib.contextmanager
def _event_log(target: str | None) -> Iterator[list[Observer]]:
    """The observer that writes the event log, if there is to be one."""
    if target is None:
        yield []
        return
    from chora_mp.eventlog import EventLog  # noqa: PLC0415

    with contextlib.closing(EventLog(target)) as log:
        yield [log]


def _render(
    job: Job,
    wishes: dict[str, Any],
    observers: list[Observer],
    summary: str | None,
    *,
    quiet: bool,
    only_json: bool,
) -> None:
    with _Signals(inline=job.workers == 0) as signals:
        from chora_mp.batch import batch_generate  # noqa: PLC0415

        try:
            told: list[Observer] = [*observers, signals]
            result = batch_generate(job, observers=told, interrupted=signals.received, **wishes)
        except (Interrupted, ChoraError) as stopped:
            if stopped.result is not None:
                _report(stopped.result, job, summary, quiet=quiet, only_json=only_json)
            raise
    _report(result, job, summary, quiet=quiet, only_json=only_json)
    if result.failed or result.not_reached:
        sys.exit(1)


def _dry_run(
    job: Job, wishes: dict[str, Any], observers: list[Observer], summary: str | None, *, verbose: bool
) -> None:
    from chora_mp.batch import plan  # noqa: PLC0415
    from chora_mp.progress import plan_lines  # noqa: PLC0415

    found = plan(job, observers=observers, **wishes)
    for line in plan_lines(found, job.name, verbose=verbose):
        _say(line, err=summary == "-")
    _hand_in(summary, found.as_dict(job.name))


@cli.command()
@click.argument("job", metavar="[JOB]", type=click.Path(), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--cores", type=click.FloatRange(min=0, min_open=True), help="Suppose this many CPUs.")
@click.option("--memory", metavar="SIZE", **_SIZE, help="Suppose this much free memory, such as 8GB.")
@click.option("--memory-per-item", metavar="SIZE", **_SIZE, help="Suppose a worker needs this much, such as 200MB.")
@click.option("--rate", metavar="RATE", **_RATE, help="Suppose items may start at this rate, such as 60/min.")
@click.option("--latency", metavar="SECONDS", **_DURATION, help="Suppose an item waits this long, such as 5s.")
@click.option("--max-workers", type=click.IntRange(min=1), help="Suppose no more workers than this are allowed.")
def size(job: str | None, as_json: bool, **what_if: Any) -> None:
    """Show how many workers fit, every term of the formula, and which of them binds."""
    sizing, profile, others = _what_if(job, what_if)
    if as_json:
        _say(json.dumps({**sizing.as_dict(), **({"profile": profile.as_dict()} if profile else {})}))
        return
    _print_sizing(sizing)
    for one in others:
        _say(f"tuned besides: {one.generator} on {one.lane}, {one.workers:,}, for where it is rendered there")
    if job is not None and profile is None and not others and what_if["cores"] is None:
        _say(f"no profile for these templates and this machine; '{PROGRAM} tune {job}' makes one")


@cli.command()
@_JOB
@click.option(
    "-o", "--output-dir", type=click.Path(), help="Write there, and keep the profile there: for runs that have it, too."
)
@click.option("--lane", type=click.Choice(LANES[1:]), help="Measure items there; it counts for runs on that lane.")
@click.option("--generator", metavar="NAME", help="Measure this one.  [default: the one with the most items]")
@click.option(
    "--budget",
    metavar="SECONDS",
    default="60",
    show_default=True,
    help="Measure for about so long, besides planning and clearing up; less where the answer is settled sooner.",
    **_measure(_budget),
)
@click.option("--rounds", type=click.IntRange(min=1), default=12, show_default=True, help="So many rounds at most.")
@click.option(
    "--max-workers", type=click.IntRange(min=1), help="Try no more workers than this; other runs may have more."
)
@click.option("--yes", "paid", is_flag=True, help="Also measure what may cost money: each item is made many times.")
@click.option("--plot", metavar="FILE.html", help="Write the curve to a page to look at (needs the extra 'plots').")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_PROGRESS
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, and print only the number of workers.")
def tune(
    job: str,
    output_dir: str | None,
    lane: str | None,
    plot: str | None,
    as_json: bool,
    progress: str,
    quiet: bool,
    **wanted: Any,
) -> None:
    """Measure with how many workers JOB is rendered fastest on this machine, and keep that for 'workers: auto'.

    Nothing of the job's outputs is touched. Exits with 0 if all is well, 2 if nothing can be measured, 130 if
    interrupted.
    """
    checked = _job_into(job, output_dir, lane=lane)
    if plot is not None:
        _check_plot(plot)
    from chora_mp.tuning import tune as tune_job  # noqa: PLC0415

    with _watching(progress, quiet or as_json) as observers, _Signals(inline=False) as signals:
        found = tune_job(checked, observers=observers, interrupted=signals.received, **wanted)
    if as_json:
        _say(json.dumps(found.as_dict()))
    elif quiet:
        _say(str(found.workers))
    else:
        _print_tuning(found)
    if plot is not None:
        from chora_mp.charts import page  # noqa: PLC0415

        _flush()  # what was measured is told, whatever becomes of the page
        _write(plot, page(found, lambda text: text.translate(_CONTROLS)))


def _check_plot(target: str) -> None:
    """Know before anything is measured that a page can be drawn, and that its place holds nothing else."""
    from chora_mp.charts import is_page, require_plots  # noqa: PLC0415

    _check_writable(target, "--plot")
    if os.path.isfile(target) and not is_page(target):
        raise JobError([f"--plot {target}: is there and is no HTML page; name another file, or remove that one"])
    try:
        require_plots()
    except ImportError:
        raise JobError(["--plot: needs plotly; pip install 'chora-mp[plots]'"]) from None


def _print_tuning(found: Tuning) -> None:
    from chora_mp import charts  # noqa: PLC0415

    if sys.stdout.isatty():
        charts.print_curve(found, sys.stdout)
    else:
        for line in charts.curve_lines(found):
            _say(line)
    _say("")
    for line in charts.tuning_lines(found):
        _say(line)


@cli.command()
@_JOB
@_OUTPUT_DIR
@click.option("-l", "--last", "runs", type=click.IntRange(min=1), default=10, show_default=True, help="So many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(job: str, output_dir: str | None, runs: int, as_json: bool) -> None:
    """Show the last runs of JOB, and what failed in them."""
    from chora_mp.progress import status_lines  # noqa: PLC0415
    from chora_mp.upkeep import status as status_of  # noqa: PLC0415

    found = status_of(_job_into(job, output_dir), runs=runs)
    for line in [json.dumps(found.as_dict())] if as_json else status_lines(found):
        _say(line)


@cli.command()
@_JOB
@_OUTPUT_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(job: str, output_dir: str | None, as_json: bool) -> None:
    """Read all outputs of JOB and tell which are missing, edited or unknown.

    Exits with 0 if every output is as it was written, 1 if not.
    """
    from chora_mp.progress import verification_lines  # noqa: PLC0415
    from chora_mp.upkeep import verify as verify_of  # noqa: PLC0415

    found = verify_of(_job_into(job, output_dir))
    for line in [json.dumps(found.as_dict())] if as_json else verification_lines(found):
        _say(line)
    if not found.sound:
        sys.exit(1)


@cli.command()
@_JOB
@click.option("--engine", metavar="NAME", help="Render a sample with this generator and with Jinja2, and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(job: str, as_json: bool, engine: str | None) -> None:
    """Look at JOB, its templates, its plug-ins and every record, without rendering.

    Exits with 0 if nothing is wrong, 1 if something is.
    """
    from chora_mp.progress import check_lines  # noqa: PLC0415
    from chora_mp.upkeep import check_file  # noqa: PLC0415

    _begin_work()
    found = check_file(job, engine)
    for line in [json.dumps(found.as_dict())] if as_json else check_lines(found):
        _say(line)
    if found.findings:
        sys.exit(1)


@cli.command()
@_JOB
@click.option(
    "-j",
    "--jobs",
    "workers",
    metavar="N,N,…",
    help="Measure these numbers of workers.  [default: 1, 2, 5, 10, 20 as far as the machine goes]",
    **_converted(_numbers),
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measure each so many times.")
@click.option(
    "--budget",
    metavar="SECONDS",
    default="60",
    show_default=True,
    help="Take a sample of the records with which all of it takes about so long.",
    **_DURATION,
)
@click.option("--full", is_flag=True, help="Render all records in every run, however long that takes.")
@click.option("-o", "--output-dir", type=click.Path(), help="Write to a folder in here instead of a RAM disk.")
@click.option("--yes", "paid", is_flag=True, help="Also run what may cost money: each item is made many times.")
@click.option("--save", metavar="FILE", help="Write all figures to a file, for --compare.")
@click.option("--compare", metavar="FILE", help="Repeat a benchmark that was saved, and tell what has changed.")
@click.option(
    "--threshold",
    metavar="P%",
    default="5%",
    show_default=True,
    help="With --compare: what is worse by more than this, and by more than noise, counts.",
    **_converted(_percent),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def bench(
    job: str, compare: str | None, threshold: float, save: str | None, as_json: bool, quiet: bool, **wanted: Any
) -> None:
    """Measure JOB, or a sample of it, in one process and by more and more workers, and tell which to use.

    Exits with 0 if all is well, 1 if --compare finds that something has become worse, 2 if nothing can be measured,
    130 if interrupted.
    """
    checked = _job_into(job, None)
    _check_writable(save, "--save")
    from chora_mp.benchmark import Wanted, benchmark, check_savable, load_benchmark  # noqa: PLC0415

    if save is not None:
        check_savable(save, checked)
    like = None if compare is None else load_benchmark(compare, checked.name)
    with _stepping(checked.name, quiet) as told, _Signals(inline=False) as signals:
        found = benchmark(checked, Wanted(**wanted, like=like), told=told, interrupted=signals.received)
    changes = None if like is None else _compared(like, found, threshold, compare)
    if as_json:
        told_of = {} if changes is None else {"changes": changes.as_dict()}
        _say(json.dumps({**found.as_dict(), **told_of}))
    else:
        _print_benchmark(found, changes)
    if save is not None:
        _hand_in(save, found.as_dict())
    if changes is not None and not changes.sound:
        sys.exit(1)


def _compared(before: Benchmark, found: Benchmark, threshold: float, name: str | None) -> Changes:
    from chora_mp.figures import compare  # noqa: PLC0415

    try:
        return compare(before, found, threshold)
    except ValueError as error:
        raise JobError([f"--compare {name}: {error}"]) from None


def _print_benchmark(found: Benchmark, changes: Changes | None) -> None:
    from chora_mp import table  # noqa: PLC0415

    if sys.stdout.isatty():
        table.print_table(found, sys.stdout, lambda text: text.translate(_CONTROLS))
    else:
        for line in table.table_lines(found):
            _say(line)
    _say("")
    for line in (*table.fact_lines(found), *table.advice_lines(found)):
        _say(line)
    if changes is not None:
        _say("")
        for line in table.change_lines(changes, found):
            _say(line)


@contextlib.contextmanager
def _stepping(job: str, quiet: bool) -> Iterator[Callable[[tuple[str, int, int | None]], None]]:
    """Shows how far a benchmark has come, where somebody watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from chora_mp.table import Steps  # noqa: PLC0415

    with Steps(sys.stderr, job) as steps:
        yield steps


@cli.command()
def schema() -> None:
    """Print the JSON schema of job files."""
    from chora_mp.jobfile import job_schema  # noqa: PLC0415

    _say(json.dumps(job_schema(), indent=2))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def generators(as_json: bool) -> None:
    """List the generators: what can turn a record or a content config into a document."""
    from chora_mp.generation import listed  # noqa: PLC0415
    from chora_mp.progress import generator_lines  # noqa: PLC0415

    rows = listed()
    for line in [json.dumps([row._asdict() for row in rows])] if as_json else generator_lines(rows):
        _say(line)


def main() -> None:
    """Run the command and exit; no error reaches the person as a traceback."""
    gc.disable()  # while all is imported, none of which is garbage: 10 ms
    try:
        _ready_standard_streams()
        code = _run() if _stands_somewhere() else ChoraError.exit_code
        _ignore_signals()  # there is nothing left to be stopped
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:
        # Where Ctrl-C comes while Python runs `exec` on a text, as named tuples and dataclasses do, it remembers that
        # and ends by the signal, whatever we exit with. Nothing of ours waits for the interpreter's end.
        _flush()
        os._exit(code)
    gc.freeze()  # what is there now goes with the process, and need not be looked through for that: 30 ms
    sys.exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run() -> int:
    try:
        cli(prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except click.exceptions.Abort as abort:  # click's name for KeyboardInterrupt
        _complain(str(abort.__cause__ or "") or "interrupted")
        return Interrupted.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ChoraError as error:
        _complain(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001
        return _bug(error)
    return 0


def _stands_somewhere() -> bool:
    """Whether the current folder is there; says so if not."""
    try:
        os.getcwd()
        return True
    except OSError:
        _complain("the current folder is gone; change to one that is there")
        return False


def _ready_standard_streams() -> None:
    """Put /dev/null where the caller has closed a standard stream: the next file opened would take its number.

    And let every name be printed, also one that the terminal's encoding or Unicode itself does not have.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str, *, err: bool = False) -> None:
    """Print a line. Whoever read it may be gone (`| head`): that is no error, and ends nothing but the printing."""
    stream = sys.stderr if err else sys.stdout
    try:
        click.echo(text.translate(_CONTROLS), file=stream)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise OutputError(f"{'stderr' if err else 'stdout'} cannot be written: {error.strerror}") from None


def _complain(message: str) -> None:
    with contextlib.suppress(OutputError):
        for line in message.splitlines():
            _say(f"{PROGRAM}: {line}", err=True)


def _bug(error: Exception) -> int:
    if os.environ.get("CHORA_MP_DEBUG"):
        raise error
    _complain(f"this is a bug in {PROGRAM}: {type(error).__name__}: {error}; set CHORA_MP_DEBUG=1 to see where")
    return ChoraError.exit_code


def _job_into(path: str, output_dir: str | None, **more: Any) -> Job:
    """The job at `path`, with another output folder if one is given, and `more` of what `_job` knows."""
    options = {"defines": (), "jobs": None, "fail_fast": False, "timeout": None, "output_dir": output_dir}
    return _job(path, {**options, **more})


def _job(path: str, options: dict[str, Any]) -> Job:
    """The job at `path` with the command line's changes."""
    from dataclasses import replace  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from chora_mp.job import Job  # noqa: PLC0415

    if options["output_dir"] == "":
        raise JobError(["-o: names no folder; leave it out for the job's own"])
    job = Job.load(path, require=("source", "output"))
    _begin_work()
    changes: dict[str, Any] = {"context": {**job.context, **dict(options["defines"])}}
    if options["jobs"] is not None:
        changes["workers"] = options["jobs"]
    errors: dict[str, Any] = {}
    if options.get("retries") is not None:
        errors["retries"] = options["retries"]
    if options["fail_fast"]:
        errors["policy"] = "fail-fast"
    if options.get("max_failures") is not None:
        errors["max_failures"], errors["max_failure_share"] = options["max_failures"]
    changes["errors"] = replace(job.errors, **errors)
    if options.get("lane") is not None:
        changes["lane"] = options["lane"]
    if options["timeout"] is not None:
        changes["limits"] = replace(job.limits, timeout=options["timeout"])
    if options["output_dir"] is not None and job.output is not None:
        changes["output"] = replace(job.output, dir=Path(os.path.abspath(options["output_dir"])))
    return job.replace(**changes)


def _begin_work() -> None:
    """End the time of imports: from here on there may be garbage, and something to clear up when a signal comes."""
    gc.enable()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


class _Signals:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the run in good order; any other ends it at once.

    In good order means that the run asks and stops: an exception that is raised wherever this process happens to be may
    get lost there, or leave half of something behind. Where all runs `inline`, nobody asks before rendering begins.

    Also an observer: before rendering begins there is nothing in work.
    """

    prompt = True

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline
        self._rendering = self._received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # What is ignored stays ignored: `nohup` and shells that run it in the background mean it.
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._take) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, event: Event) -> None:
        from chora_mp.events import RenderingStarted  # noqa: PLC0415

        self._rendering |= isinstance(event, RenderingStarted)

    def received(self) -> bool:
        """Whether a signal asked for the end."""
        return self._received

    def _take(self, *_: object) -> None:
        if self._received or (self._inline and not self._rendering):
            _ignore_signals()  # who keeps pressing must not interrupt the clearing up
            self._before = {}
            raise KeyboardInterrupt
        self._received = True
        if self._rendering:
            _complain("stopping; what is in work is finished, within 10 s (once more to stop at once)")


@contextlib.contextmanager
def _watching(progress: str, quiet: bool) -> Iterator[list[Observer]]:
    """The observers that show progress on stderr."""
    from chora_mp.events import Noticed  # noqa: PLC0415
    from chora_mp.progress import Bar, PlainProgress  # noqa: PLC0415

    def notice(event: Event) -> None:
        if isinstance(event, Noticed):
            _complain(event.message)

    notice.prompt = True  # type: ignore[attr-defined]

    kind = progress
    if progress == "auto":
        kind = "bar" if sys.stderr.isatty() and not quiet else "none"
    if kind == "plain":
        yield [PlainProgress(lambda line: _say(line, err=True)), notice]
    elif kind == "bar":
        bar = Bar(sys.stderr)
        try:
            yield [bar, notice]
        finally:
            bar.close()
    else:
        yield [notice]


def _check_writable(target: str | None, option: str = "--summary") -> None:
    """Know before the work, not after it, that its result has no place."""
    if target is None or target == "-":
        return
    folder = os.path.dirname(target) or "."
    is_there = os.path.exists(target)
    sound = bool(target) and not os.path.isdir(target) and os.path.isdir(folder)
    if not sound or not os.access(target if is_there else folder, os.W_OK):
        raise JobError([f"{option} {target or repr(target)}: cannot be written; name a file in a folder that is there"])


def _report(result: BatchResult, job: Job, target: str | None, *, quiet: bool, only_json: bool) -> None:
    """The summary: JSON where it was asked for; for people on stdout, or on stderr where stdout holds only JSON."""
    from chora_mp.bundle import shown  # noqa: PLC0415
    from chora_mp.progress import failures_by_cause, summary  # noqa: PLC0415

    assert job.output is not None  # noqa: S101  (required above)
    lines = summary(result, shown(job.output.dir))
    if quiet:
        lines = failures_by_cause(result.failures) if result.failed else iter(())
    for line in lines:
        _say(line, err=quiet or only_json)
    _hand_in(target, result.as_dict())


def _hand_in(target: str | None, content: dict[str, Any]) -> None:
    """Write the JSON to where it was asked for."""
    if target == "-":
        _say(json.dumps(content, indent=2))
    elif target is not None:
        _write(target, json.dumps(content, indent=2) + "\n")


def _write(target: str, text: str) -> None:
    """Write a file, whole or not at all; what is no regular file (a pipe, /dev/null) is never replaced."""
    whole = os.path.isfile(target) or not os.path.exists(target)
    place = f"{os.path.realpath(target)}.{os.getpid()}.new" if whole else target
    try:
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)
        if whole:
            _take_place(place, os.path.realpath(target))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        if whole:
            with contextlib.suppress(OSError):
                os.unlink(place)  # which has gone to its place by now, if all is well


def _take_place(new: str, target: str) -> None:
    """Put a file in the place of another, whose mode it takes."""
    if os.path.exists(target):
        os.chmod(new, os.stat(target).st_mode & 0o7777)
    os.replace(new, target)


def _what_if(path: str | None, changes: dict[str, Any]) -> tuple[Sizing, Profile | None, list[Profile]]:
    """The sizing, the profile that counts, and others that were measured with these templates on this machine."""
    from dataclasses import replace  # noqa: PLC0415

    from chora_mp.machine import Machine  # noqa: PLC0415
    from chora_mp.sizing import Limits, optimal_workers  # noqa: PLC0415

    machine, limits, job = Machine.here(), Limits(), None
    found: list[Profile] = []
    profile: Profile | None = None
    if path is not None:
        from chora_mp.job import Job  # noqa: PLC0415
        from chora_mp.upkeep import profiles_of, used_of  # noqa: PLC0415

        job = Job.load(path)
        found = profiles_of(job, machine)
        profile = used_of(job, found) if changes["cores"] is None else None
        limits = job.limits_of(profile.generator if profile else job.generator or "")
    if changes["cores"] is not None:
        machine = replace(machine, cpus=changes["cores"], cpus_from="--cores")
    if changes["memory"] is not None:
        machine = replace(machine, memory=changes["memory"], memory_from="--memory")
    named = ("memory_per_item", "rate", "latency", "max_workers")
    limits = replace(limits, **{k: changes[k] for k in named if changes[k] is not None})
    if job is None:
        return optimal_workers(machine, limits), None, []
    from chora_mp.batch import size_of  # noqa: PLC0415

    sizing = size_of(job.replace(workers="auto"), machine, limits, _lane_of(job, found, profile), profile=profile)
    return sizing, profile, [] if changes["cores"] is not None else [one for one in found if one != profile]


def _lane_of(job: Job, found: list[Profile], profile: Profile | None) -> str:
    """The lane of a job's generator: as the job says, or as a tuning has found out; else that of most."""
    name = profile.generator if profile else job.generator or ""
    own = next((one.own_lane for one in found if one.generator == name), "processes")
    return job.options_of(name).lane or own


def _print_sizing(sizing: Sizing) -> None:
    from chora_mp.progress import aligned  # noqa: PLC0415

    rows = [("TERM", "WORKERS", "FROM", "")]
    for term in sizing.terms:
        value = "-" if term.value is None else f"{term.value:g}"
        rows.append((term.name, value, term.detail, "<- binds" if term.name == sizing.binds else ""))
    for line in aligned(rows, left=(0, 2, 3)):
        _say(line)
    _say(f"workers: {sizing.workers}")


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
