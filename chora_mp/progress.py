"""Progress for people: a bar on a terminal, a line every few seconds elsewhere, and the summary at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

from chora_mp.events import ReadingStarted, RenderingStarted, SpanCompleted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.events import Event
    from chora_mp.records import BatchResult, ItemResult

PLAIN_SECONDS = 5.0
"""Between two lines of plain progress: often enough to see that it lives, rare enough for a log."""

_FIRST_KEYS = 3
_MOST_CAUSES = 20  # a screen; who wants all of them reads the JSON summary


class PlainProgress:
    """An observer that prints a line every few seconds."""

    def __init__(self, echo: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._echo = echo
        self._clock = clock
        self._job = ""
        self._started = self._told = clock()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, ReadingStarted):
            self._job = event.job
        elif isinstance(event, RenderingStarted):
            self._job = event.job
            self._started = self._told = self._clock()
        elif isinstance(event, SpanCompleted) and self._clock() - self._told >= PLAIN_SECONDS:
            self._told = self._clock()
            self._echo(f"{self._job}: {self._line(event)}")

    def _line(self, event: SpanCompleted) -> str:
        rate = event.done / max(self._clock() - self._started, 1e-9)
        parts = [f"{event.done:,} of {event.total:,}" if event.total is not None else f"{event.done:,}"]
        parts.append(f"{rate:,.0f}/s")
        if event.total is not None:
            parts.append(f"{duration((event.total - event.done) / max(rate, 1e-9))} left")
        if event.failed:
            parts.append(f"{event.failed:,} failed")
        return ", ".join(parts)


class Bar:
    """An observer that draws a bar: count, rate, time left, failures."""

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

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, ReadingStarted):
            self._start(f"{event.job}: reading {event.source}", None)
        elif isinstance(event, RenderingStarted):
            self._start(event.job, event.total)
        elif isinstance(event, SpanCompleted):
            rate = event.done / max(time.monotonic() - self._started, 1e-9)
            failed = f"{event.failed:,} failed" if event.failed else ""
            self._progress.update(
                self._task, completed=event.done, total=event.total, rate=f"{rate:,.0f}/s", failed=failed
            )
        else:
            self.close()

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
    yield (
        f"{result.job}: {count(result.successful, 'document')} in {duration(result.duration_s)}"
        f" ({result.items_per_s:,.0f}/s), {size(result.bytes_written)} written to {where}"
    )
    yield f"{count(result.workers, 'worker')}{_why(result)}" if result.sizing["workers"] else "rendered inline"
    if result.total == 0:
        yield "there was no record to render: the source holds none, or none that was asked for"
    if result.not_reached:
        yield f"{count(result.not_reached, 'item')} not reached"
    if result.failed:
        yield from failures_by_cause(result.failures)


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
    return place if item.key.startswith(place) else f"{item.key} ({place})"


def _why(result: BatchResult) -> str:
    sizing = result.sizing
    if sizing["binds"] == "workers":
        return f" (at most {sizing['workers']}, as asked for)"
    binding = next((term for term in sizing["terms"] if term["name"] == sizing["binds"]), None)
    detail = f": {binding['detail']}" if binding else ""
    return f" (at most {sizing['workers']} by {sizing['binds']}{detail})"


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
