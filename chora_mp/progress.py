"""Progress for people: a bar on a terminal, a line every few seconds elsewhere, and the summary at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

from chora_mp.events import ReadingStarted, RenderingEnded, RenderingStarted, SpanCompleted, TuningAdvanced

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from chora_mp.events import Event
    from chora_mp.generation import Listed
    from chora_mp.planning import Plan
    from chora_mp.records import BatchResult, ItemResult
    from chora_mp.upkeep import Check, Status, Verification

PLAIN_SECONDS = 5.0
"""Between two lines of plain progress: often enough to see that it lives, rare enough for a log."""

_FIRST_KEYS = 3
_MOST_CAUSES = 20  # a screen; who wants all of them reads the JSON summary


class PlainProgress:
    """An observer that prints a line every few seconds."""

    prompt = True

    def __init__(self, echo: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._echo = echo
        self._clock = clock
        self._job = ""
        self._started = self._told = clock()
        self._before = 0  # items that were up to date, and that nobody has rendered at any rate

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, ReadingStarted):
            self._job = event.job
        elif isinstance(event, RenderingStarted):
            self._job = event.job
            self._started = self._told = self._clock()
            self._before = 0
        elif isinstance(event, SpanCompleted) and not event.workers:
            self._before = event.done
        elif isinstance(event, SpanCompleted) and self._clock() - self._told >= PLAIN_SECONDS:
            self._told = self._clock()
            self._echo(f"{self._job}: {self._line(event)}")
        elif isinstance(event, TuningAdvanced) and event.throughput and self._clock() - self._told >= PLAIN_SECONDS:
            self._told = self._clock()
            self._echo(f"{event.job}: {event.done:.0%}, {event.what}: {event.throughput:,.4g}/s")

    def _line(self, event: SpanCompleted) -> str:
        rate = (event.done - self._before) / max(self._clock() - self._started, 1e-9)
        parts = [f"{event.done:,} of {event.total:,}" if event.total is not None else f"{event.done:,}"]
        parts.append(f"{rate:,.0f}/s")
        if event.total is not None and rate:
            parts.append(f"{duration((event.total - event.done) / rate)} left")
        if event.failed:
            parts.append(f"{event.failed:,} failed")
        if event.waiting:
            parts.append(f"{event.waiting:,} to be tried again")
        return ", ".join(parts)


class Bar:
    """An observer that draws a bar: count, rate, time left, failures."""

    prompt = True

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console  # noqa: PLC0415  (only those who watch pay for it)
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            console=Console(file=stream),
            transient=True,
        )
        self._task: Any = None
        self._started = 0.0
        self._before = 0
        self._measuring = False
        self._rate = ""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, ReadingStarted):
            self._start(f"{event.job}: reading {event.source}", None)
        elif isinstance(event, RenderingStarted):
            self._start(event.job, event.total)
        elif isinstance(event, SpanCompleted):
            self._before = self._before if event.workers else event.done
            rate = (event.done - self._before) / max(time.monotonic() - self._started, 1e-9)
            failed = f"{event.failed:,} failed" if event.failed else ""
            failed += f" {event.waiting:,} to be tried again" if event.waiting else ""
            self._progress.update(
                self._task, completed=event.done, total=event.total, rate=f"{rate:,.0f}/s", failed=failed
            )
        elif isinstance(event, TuningAdvanced):
            self._show(event)
        elif isinstance(event, RenderingEnded):
            self.close()

    def _show(self, event: TuningAdvanced) -> None:
        """How much of the budget of a tuning is used up, in percent, and what was measured last."""
        from rich.markup import escape  # noqa: PLC0415

        if self._task is None or not self._measuring:
            self._start(event.job, 100)
            self._measuring = True
        self._rate = f"{event.throughput:,.4g}/s" if event.throughput else self._rate
        what = escape(f"{event.job}: {event.what}")
        self._progress.update(self._task, completed=round(100 * event.done), description=what, rate=self._rate)

    def close(self) -> None:
        """Take the bar off the screen."""
        self._progress.stop()

    def _start(self, description: str, total: int | None) -> None:
        from rich.markup import escape  # noqa: PLC0415

        self._started = time.monotonic()
        self._progress.start()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(escape(description), total=total, rate="", failed="")


def summary(result: BatchResult, where: str) -> Iterator[str]:
    """What was done, in lines for people: how much, how fast, on how many workers and why; failures by cause.

    `where` is the output folder as messages show it.
    """
    rendered = result.successful + result.failed
    if result.total and result.total == result.unchanged:
        yield f"{result.job}: nothing to do in {duration(result.duration_s)}, {_up_to_date(result)} in {where}"
    else:
        yield (
            f"{result.job}: {count(result.successful, 'document')} in {duration(result.duration_s)}"
            f" ({result.items_per_s:,.0f}/s), {size(result.bytes_written)} written to {where}"
        )
    if rendered:
        yield f"{count(result.workers, 'worker')}{_why(result)}" if result.sizing["workers"] else "rendered inline"
    if rendered and result.unchanged:
        yield _up_to_date(result)
    if result.total == 0:
        yield "there was no record to render: the source holds none, or none that was asked for"
    if result.stopped:
        yield f"stopped early: {result.stopped}"
    if result.not_reached:
        yield f"{count(result.not_reached, 'item')} not reached"
    yield from result.notes
    yield from _about_orphans(result)
    if result.failed:
        yield from failures_by_cause(result.failures)


def _up_to_date(result: BatchResult) -> str:
    return f"{count(result.unchanged, 'document')} {'is' if result.unchanged == 1 else 'are'} up to date"


def _about_orphans(result: BatchResult) -> Iterator[str]:
    if result.pruned:
        yield f"{count(result.pruned, 'document')} removed, whose record is gone"
    if not result.orphaned:
        return
    what = f"{count(result.orphaned, 'document')} whose record is gone: {_first(result.orphans, result.orphaned)}"
    yield (
        f"{what}; edited since, or not to be removed, and kept"
        if result.asked_to_prune
        else f"{what}; --prune removes what was not edited"
    )


def _first(names: Sequence[str], number: int) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(names[:_FIRST_KEYS])
    return f"{shown} and {number - _FIRST_KEYS:,} more" if number > _FIRST_KEYS else shown


def plan_lines(plan: Plan, job: str, *, verbose: bool) -> Iterator[str]:
    """What a plan would do, in lines for people; with `verbose` every item, and why."""
    total = plan.total or 0
    todo = total - plan.unchanged
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in plan.reasons.items())
    yield f"{job}: {todo:,} of {count(total, 'item')} to render{f' ({reasons})' if reasons else ''}"
    if plan.orphans:
        yield f"{count(len(plan.orphans), 'document')} whose record is gone; --prune removes what was not edited"
    if verbose:
        for item in plan.items:
            path = "" if item.path in ("", item.key) else f" -> {item.path}"
            yield f"  {item.key}{path}: {item.reason}"


def status_lines(status: Status) -> Iterator[str]:
    """What a ledger tells, in lines for people: runs, the latest first, and what failed, by cause."""
    standing = f"{count(status.rendered, 'document')} in {status.folder}, {count(status.failed, 'item')} failed"
    yield f"{status.job}: {standing}"
    rows = [("STARTED", "TIME", "RENDERED", "FAILED", "UP TO DATE", "NOT REACHED", "WORKERS", "")]
    for run in status.runs:
        if run["ended"] is None:
            rows.append((run["started"], "-", "-", "-", "-", "-", "-", "stopped, or under way"))
        else:
            numbers = [f"{run[name]:,}" for name in ("successful", "failed", "unchanged", "not_reached", "workers")]
            rows.append((run["started"], duration(run["seconds"]), *numbers, _options(run["options"])))
    yield from aligned(rows, left=(0, len(rows[0]) - 1))
    if status.failures:
        yield from failures_by_cause(status.failures)


def _options(options: Mapping[str, Any]) -> str:
    """What was asked for beyond a plain run: `--only 'de/*' --force`."""
    told = {"only", "shard", "failed", "force", "prune"}
    return " ".join(
        f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items() if name in told
    )


def verification_lines(found: Verification) -> Iterator[str]:
    """What became of a job's outputs, in lines for people."""
    for what, paths in (("missing", found.missing), ("edited", found.edited), ("unknown", found.unknown)):
        yield from (f"{what}: {path}" for path in paths)
    told = ((found.missing, "missing"), (found.edited, "edited"), (found.unknown, "unknown"))
    counts = ", ".join(f"{len(paths):,} {what}" for paths, what in told if paths)
    yield f"{found.job}: {count(found.checked, 'document')} read, {counts or 'all as they were written'}"


def check_lines(found: Check) -> Iterator[str]:
    """What is wrong with a job, in lines for people."""
    yield from found.findings
    if found.engine is not None:
        one = found.engine
        alike = "all" if one.agree == one.records else f"{one.agree:,}"
        pace = f"; {one.times_as_fast:.3g} times as fast as Jinja2" if one.agree else ""
        yield f"{one.name}: {alike} of {count(one.records, 'document')} agree byte by byte{pace}"
    yield f"{found.job}: {count(found.records, 'record')} looked at, {count(len(found.findings), 'finding')}"


def failures_by_cause(failures: Iterable[ItemResult]) -> Iterator[str]:
    """Failures with one template, line, type and message make one row, most frequent first."""
    causes: Counter[str] = Counter()
    keys: dict[str, list[str]] = {}
    for item in failures:
        cause = _cause(item)
        causes[cause] += 1
        keys.setdefault(cause, [])
        if len(keys[cause]) < _FIRST_KEYS:
            keys[cause].append(_label(item))
    yield f"{count(causes.total(), 'item')} failed:"
    for cause, number in causes.most_common(_MOST_CAUSES):
        more = f" and {number - _FIRST_KEYS:,} more" if number > _FIRST_KEYS else ""
        yield f"  {number:,} × {cause}"
        yield f"      {', '.join(keys[cause])}{more}"
    if len(causes) > _MOST_CAUSES:
        yield f"  and {count(len(causes) - _MOST_CAUSES, 'more cause')}; --summary FILE lists every failure"


def _cause(item: ItemResult) -> str:
    error = item.error
    if error is None:
        return "unknown"
    place = f"{error.template}:{error.line}: " if error.template and error.line else ""
    place = place or (f"{error.template}: " if error.template else "")
    # Each item has its own path: a message that names it would make each its own cause.
    message = error.message.replace(repr(item.path), "…") if item.path else error.message
    return f"{place}{error.type}: {message}"


def _label(item: ItemResult) -> str:
    """An item's key, and where its record stands."""
    if item.source is None:
        return item.key
    place = f"{item.source.file}:{item.source.line}" if item.source.line else item.source.file
    key = item.key.replace("\n", "\\n")
    return place if key.startswith(place) else f"{key} ({place})"


def _why(result: BatchResult) -> str:
    sizing = result.sizing
    if sizing["binds"] == "generators":
        lanes = ", ".join(f"{term['name']}: {term['detail']}" for term in sizing["terms"])
        return f" ({lanes})"
    most = f"at most {sizing['workers']:,}"
    if sizing.get("at_once"):
        most += " item at a time" if sizing["workers"] == 1 else " items at a time"
    if sizing["binds"] == "workers":
        return f" ({most}, as asked for)"
    binding = next((term for term in sizing["terms"] if term["name"] == sizing["binds"]), None)
    detail = f": {binding['detail']}" if binding else ""
    return f" ({most} by {sizing['binds']}{detail})"


def generator_lines(rows: Iterable[Listed]) -> Iterator[str]:
    """A table of generators, a line each."""
    table = [("GENERATOR", "LANE", "AT A TIME", "WHAT IT IS")]
    table += [(row.name, row.lane, "many" if row.concurrent else "one", row.about) for row in rows]
    yield from aligned(table, left=range(len(table[0])))


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> Iterator[str]:
    """The lines of a table: columns with the numbers `left` stand to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            f"{cell:<{width}}" if number in left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def count(number: int, noun: str) -> str:
    """`1 item`, `12,345 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds for people: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.995:  # what would be rounded up to 10.00
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(number: int) -> str:
    """Bytes for people, in powers of ten: `512 B`, `1.3 kB`, `91.2 MB`."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < (1000 if unit == "B" else 999.95):
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
