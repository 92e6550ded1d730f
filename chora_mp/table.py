"""A benchmark for people: the table, what the numbers depend on, what to use, and what has changed."""

from __future__ import annotations

import statistics
from typing import IO, TYPE_CHECKING, Any, Self

from chora_mp.figures import least_sample
from chora_mp.progress import aligned, count, duration
from chora_mp.progress import size as bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.figures import Approach, Benchmark, Changes, Facts, Pair, Spread

_HEADER = ("APPROACH", "TIME", "SPEED-UP", "CPU", "MEMORY", "NOTES")
_NOTABLE = 0.1  # of a run's time
_NOTES = 20  # columns that notes need at least
_SHOWN = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 5), (0, 1, 2))  # columns of the table, by how wide the terminal is
_GAP = 3  # columns around a cell
_HEADER_OF_CHANGES = ("APPROACH", "SPEED-UP", "", "ITEMS/S", "", "ITEMS/CPU S", "", "NOTES")


def table_lines(found: Benchmark) -> Iterator[str]:
    """The table in plain, aligned lines."""
    yield from aligned([_HEADER, *(_row(found, one) for one in found.approaches)], left=(0, len(_HEADER) - 1))


def print_table(found: Benchmark, stream: IO[str], clean: Callable[[str], str]) -> None:
    """The table on a terminal, the approach to use in bold; `clean` takes out what might talk to the terminal."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  (only terminals pay for it)
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console, last = Console(file=stream), len(_HEADER) - 1
    rows, shown = _fitting([_row(found, one) for one in found.approaches], console.width)
    drawn = Table(box=SIMPLE_HEAD)
    for number in shown:
        drawn.add_column(_HEADER[number], justify="left" if number in (0, last) else "right", no_wrap=number < last)
    for one, row in zip(found.approaches, rows, strict=True):
        style = "bold" if one is found.best else ""
        drawn.add_row(*(Text(clean(row[number])) for number in shown), style=style)
    console.print(drawn)


def _fitting(rows: list[tuple[str, ...]], width: int) -> tuple[list[tuple[str, ...]], tuple[int, ...]]:
    """The rows, without ranges if need be, and the columns of them that a terminal of that width has room for."""
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    widths[-1] = _NOTES
    for shown in _SHOWN:
        if sum(widths[number] + _GAP for number in shown) <= width:
            return rows, shown
    return [tuple(cell.partition(" (")[0] for cell in row) for row in rows], _SHOWN[-1]


def _row(found: Benchmark, one: Approach) -> tuple[str, ...]:
    notes = ", ".join(found.notes(one))
    if one not in found.measured:
        return (found.name(one), "-", "-", "-", "-", notes)
    speedup = f"{found.speedup(one).median:.2f}×" + ("" if one.workers == 0 else _range(found.speedup(one), 2))
    return (found.name(one), _time(one.seconds), speedup, _cpu(one), _memory(one), notes)


def _time(seconds: Spread) -> str:
    return f"{duration(seconds.median)}{_range(seconds, 2)}"


def _range(spread: Spread, digits: int) -> str:
    """Least and greatest, where there is more than one."""
    return f" ({spread.low:,.{digits}f}–{spread.high:,.{digits}f})" if spread.low < spread.high else ""


def _cpu(one: Approach) -> str:
    found = [run.cpu_s for run in one.runs if run.cpu_s is not None]
    return duration(statistics.median(found)) if found else "-"


def _memory(one: Approach) -> str:
    """The greatest seen of the main process, and of all together."""
    main = max((run.main_bytes or 0 for run in one.runs), default=0)
    whole = max((run.all_bytes or 0 for run in one.runs), default=0)
    return f"{bytes_of(main)} of {bytes_of(max(main, whole))}" if main else "-"


# ---- below the table ---------------------------------------------------------------------------------------


def fact_lines(found: Benchmark) -> Iterator[str]:
    """What the numbers depend on."""
    facts = found.facts
    yield (
        f"{facts.cpus:.4g} cpus, {bytes_of(facts.memory)} free memory, {facts.system}, Python {facts.python}, "
        f"Jinja2 {facts.jinja2}, chora-mp {facts.version}"
    )
    yield f"{_extent(facts)}, written to {facts.output}, {_rounds(facts.rounds)}"
    if facts.read_s is not None:
        whole = (
            f"to read the whole source, which one process does before any item begins, takes {duration(facts.read_s)}"
        )
        yield f"{whole}; the times leave that out"
    if _is_small(found):
        start = f"starting takes about {duration(facts.start_s)} of a run of {duration(found.best.seconds.median)}"
        yield f"{start}, however few its records: with all of them workers gain more than here"
    if _is_thin(found):
        most = found.approaches[-1]
        few = f"the sample has few records for {found.name(most)}: what so many gain shows with more"
        yield f"{few} (--budget, or --full)"
    yield from facts.about
    others = found.others()
    if others is not None and found.is_restless():
        busy = f"other programs kept {others:.1f} of {facts.cpus:.4g} cpus busy meanwhile"
        yield f"{busy}: workers may look worse than they are"


def _is_small(found: Benchmark) -> bool:
    """Whether it is a sample in which starting counts for more than it does with all records."""
    facts = found.facts
    return facts.records < facts.total and facts.start_s > _NOTABLE * found.best.seconds.median


def _is_thin(found: Benchmark) -> bool:
    """Whether it is a sample in which those that wait side by side have too little to do."""
    facts, counts = found.facts, [one.workers for one in found.approaches]
    return facts.waiting and facts.records < min(facts.total, least_sample(counts, waiting=True))


def _extent(facts: Facts) -> str:
    if facts.records >= facts.total:
        return _all(facts)
    share = f"1 in {facts.total / facts.records:.3g}"
    return f"a sample of {facts.records:,} of {count(facts.total, 'record')} ({share})"


def _all(facts: Facts) -> str:
    return "the only record" if facts.total == 1 else f"all {count(facts.total, 'record')}"


def _rounds(rounds: int) -> str:
    return (
        "one round, which does not tell how much is noise" if rounds == 1 else f"{rounds} rounds, medians (least–most)"
    )


def advice_lines(found: Benchmark) -> Iterator[str]:
    """What to use, in a plain sentence; for a sample also what the whole would take."""
    best, facts = found.best, found.facts
    if best.workers == 0:
        yield f"{found.job}: no number of workers was faster than one process beyond noise; {_why_none(found)}"
    else:
        yield f"{found.job}: use {found.name(best)}, {_gain(found, best)}; {_how(found, best)}"
    if facts.records < facts.total:
        yield _whole(facts)


def _whole(facts: Facts) -> str:
    """What all records would take, where that can be told."""
    if facts.whole is None:
        unknown = f"what {_all(facts)} would take cannot be told from this sample"
        return f"{unknown}: its records take too little beside starting, and noise; measure more of them (--budget)"
    whole = f"{duration(facts.whole.median)} so"
    if facts.whole.low < facts.whole.high:
        whole += f", between {duration(facts.whole.low)} and {duration(facts.whole.high)}"
    guess = f"an estimate from runs of {facts.few:,} and of {facts.records:,} records"
    return f"{_all(facts)} would take about {whole} ({guess})"


def _why_none(found: Benchmark) -> str:
    if found.is_restless():
        return "measure again when the machine is quiet"
    if _is_small(found):
        return "measure a larger sample (--budget), or all (--full)"
    return "leave workers: auto, which opens further ones only where that is worth it"


def _gain(found: Benchmark, best: Approach) -> str:
    speedup = found.speedup(best)
    gain = f"{speedup.median:.2f} times as fast as one process{_range(speedup, 2)}"
    return (
        gain if best is found.fastest else f"{gain} and as fast as {found.name(found.fastest)}, as far as can be told"
    )


def _how(found: Benchmark, best: Approach) -> str:
    """What that means for the job file."""
    facts = found.facts
    if best.workers == (facts.auto if facts.asked is None else facts.asked):
        return "that is what the job does by itself" if facts.asked is None else "that is what the job says"
    return f"write workers: {best.workers} into the job file, or -j {best.workers}"


# ---- then and now ------------------------------------------------------------------------------------------


def change_lines(changes: Changes, found: Benchmark) -> Iterator[str]:
    """What has changed since an earlier benchmark, an approach a line."""
    rows: list[tuple[str, ...]] = [_HEADER_OF_CHANGES]
    names = {one.workers: found.name(one) for one in found.approaches}
    for one in changes.approaches:
        speedup = _cells(one.speedup if one.workers else None, 2)
        notes = f"worse: {', '.join(one.worse)}" if one.worse else ""
        rows.append((names[one.workers], *speedup, *_cells(one.items_per_s, 0), *_cells(one.items_per_cpu_s, 0), notes))
    yield from aligned(rows, left=(0, len(_HEADER_OF_CHANGES) - 1))
    yield from changes.remarks


def _cells(pair: Pair | None, digits: int) -> tuple[str, str]:
    """A figure then and now, and the difference in percent."""
    if pair is None:
        return "", ""
    then, now = pair[0].median, pair[1].median
    return f"{then:,.{digits}f} → {now:,.{digits}f}", f"{100 * (now / then - 1):+.1f} %"


# ---- while it goes on --------------------------------------------------------------------------------------


class Steps:
    """A bar on a terminal that tells how far a benchmark has come."""

    def __init__(self, stream: IO[str], job: str) -> None:
        from rich.console import Console  # noqa: PLC0415  (only those who watch pay for it)
        from rich.markup import escape  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn  # noqa: PLC0415

        columns: Iterable[Any] = (
            SpinnerColumn(),
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(file=stream), transient=True)
        self._job = escape(job)
        self._task = self._progress.add_task(self._job, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, step: tuple[str, int, int | None]) -> None:
        """Show a step: what, how many of how many."""
        what, done, total = step
        self._progress.update(self._task, description=f"{self._job}: {what}", completed=done, total=total)
