"""A tuning for people: the curve as a table with bars, what to make of it, and a page to look at it closer."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from chora_mp.progress import aligned, count, duration
from chora_mp.progress import size as bytes_of
from chora_mp.sizing import figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.profiles import Point
    from chora_mp.tuning import Tuning

LAW = "X(N) = λN / (1 + σ(N-1) + κN(N-1))"
_BAR, _LEAST_BAR = 24, 4  # characters of the longest bar
_GAP = 2  # between columns
_MARK = "<- best"
_LITTLE = 0.001  # of an item's time: not worth a figure
_STEPS = 120  # of the law's curve, as it is drawn


def curve_lines(found: Tuning) -> Iterator[str]:
    """The curve in plain, aligned lines."""
    marks = ("", *(_MARK if _is_best(found, point) else "" for point in found.profile.curve))
    cells = (_header(found), *(_row(found, point) for point in found.profile.curve))
    yield from aligned([(*row, mark) for row, mark in zip(cells, marks, strict=True)], left=())


def print_curve(found: Tuning, stream: IO[str]) -> None:
    """The curve on a terminal, with bars and the best in bold; narrow terminals get what fits."""
    from rich.console import Console  # noqa: PLC0415  (only terminals pay for it)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream)
    shown, taken = _fitting(found, console.width)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name in _header(found)[shown]:
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("", no_wrap=True)
    longest = max(_LEAST_BAR, min(_BAR, console.width - len(_MARK) - 1 - taken))
    most = max(point.throughput for point in found.profile.curve)
    block = "#" if console.options.ascii_only else "█"
    for point in found.profile.curve:
        best = _is_best(found, point)
        bar = Text(block * max(1, round(longest * point.throughput / most)), style="green" if best else "cyan")
        bar.append(f" {_MARK}" if best else "")
        drawn.add_row(*_row(found, point)[shown], bar, style="bold" if best else "")
    console.print(drawn)


def _header(found: Tuning) -> tuple[str, ...]:
    unit = "AT A TIME" if found.sizing.at_once else "WORKERS"
    return unit, "ITEMS/S", "LEAST–MOST", "SPEED-UP", "EFFICIENCY", "LAW"


def _fitting(found: Tuning, width: int) -> tuple[slice, int]:
    """As many of the columns as there is room for beside a bar and the mark, but two, and what they take."""
    rows = (_header(found), *(_row(found, point) for point in found.profile.curve))
    widths = [max(map(len, column)) + _GAP for column in zip(*rows, strict=True)]
    room = width - _LEAST_BAR - 1 - len(_MARK)
    fitting = next((many for many in range(len(widths), 2, -1) if sum(widths[:many]) <= room), 2)
    return slice(fitting), sum(widths[:fitting])


def _is_best(found: Tuning, point: Point) -> bool:
    """Whether it is the answer; where nothing could be told none is."""
    return found.kept and point is found.profile.best


def _row(found: Tuning, point: Point) -> tuple[str, ...]:
    profile = found.profile
    alone = profile.curve[0].throughput / profile.curve[0].workers
    return (
        f"{point.workers:,}",
        figure(point.throughput),
        f"{figure(point.least)}–{figure(point.most)}",
        f"{point.throughput / alone:.2f}×",
        f"{point.throughput / alone / point.workers:.0%}",
        figure(profile.scaling.throughput(point.workers)),
    )


def tuning_lines(found: Tuning) -> Iterator[str]:
    """What was found, in sentences."""
    profile, scaling = found.profile, found.profile.scaling
    if found.doubt:
        yield found.doubt
    yield _answer(found) if found.kept else _no_answer(found)
    apart = "unknown" if found.spread is None else f"{found.spread:.0%}"
    told = f"{count(found.rounds, 'round')} in {duration(found.seconds)}, figures of one count {apart} apart"
    yield f"measured on {found.machine}, {profile.generator} on {profile.lane}: {told}"
    knee = "it never falls" if scaling.knee is None else f"beyond {scaling.knee:.3g} it falls"
    yield (
        f"{LAW}: λ = {figure(scaling.rate)}/s, σ = {scaling.sigma:.3g} (contention), "
        f"κ = {scaling.kappa:.3g} (coherency); {knee}; {scaling.error:.0%} off"
    )
    memory = "" if profile.memory is None else f"; with some to spare, each needs {bytes_of(profile.memory)}"
    waits = profile.wait >= max(1e-6, _LITTLE * profile.cpu)
    waiting = f"{_milliseconds(profile.wait)} of waiting" if waits else "no waiting"
    behind = f", leaves {bytes_of(round(profile.growth))} behind" if profile.growth >= 1000 else ""
    yield f"an item alone: {_milliseconds(profile.cpu)} of CPU, {waiting}{behind}{memory}"
    if not found.sizing.at_once:
        yield f"work is handed out {profile.span_seconds * 1000:g} ms at a time"
    term = next((term.detail for term in found.sizing.terms if term.name == found.sizing.binds), "")
    yield f"{found.sizing.binds} binds" + (f": {term}" if term else "")
    if found.failed:
        yield f"{found.failed:,} of {count(found.sampled, 'item')} in the sample failed, such as {found.failure}"
    yield from found.advice


def _at_work(found: Tuning, workers: int) -> str:
    if not found.sizing.at_once:
        return count(workers, "worker")
    return f"{count(workers, 'item')} at a time"


def _answer(found: Tuning) -> str:
    profile, best, alone = found.profile, found.profile.best, found.profile.curve[0]
    times = best.throughput / alone.throughput * alone.workers
    unit, sure = _at_work(found, profile.workers), f"{profile.sureness:.0%} sure"
    return f"{found.job}: {unit}: {figure(best.throughput)} items/s, {times:.2f} times one; {sure}"


def _no_answer(found: Tuning) -> str:
    """That nothing could be told, and what counts instead."""
    earlier = any(term.name == "tuned" for term in found.sizing.terms)
    by = "an earlier profile" if earlier else "the formula"
    return f"{found.job}: nothing could be told; it stays at {_at_work(found, found.sizing.workers)}, by {by}"


def _milliseconds(seconds: float) -> str:
    if seconds < 1e-6:
        return "0 ms"
    return f"{seconds * 1000:,.3g} ms" if seconds < 1 else duration(seconds)


# ---- a page ------------------------------------------------------------------------------------------------


def require_plots() -> None:
    """Raise `ImportError` where pages cannot be drawn."""
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec("plotly") is None:
        raise ImportError("plotly")


def is_page(path: str) -> bool:
    """Whether a file is an HTML page, or empty. Raises nothing: what cannot be read is none."""
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError:
        return False
    return not start or start.startswith((b"<!doctype html", b"<html"))


def page(found: Tuning, clean: Callable[[str], str] = str) -> str:
    """An HTML page with the curve, to be looked at without a network. Raises `ImportError` without `plots`."""
    from importlib import import_module  # noqa: PLC0415

    plots: Any = import_module("plotly.graph_objects")  # half a second, for those who want it
    profile, unit = found.profile, _header(found)[0].lower()
    drawn = plots.Figure([_law(found, plots), _points(found, plots)])
    if found.kept:
        drawn.add_vline(profile.workers, line={"dash": "dot"}, annotation_text=f"best: {profile.workers:,}")
    knee = profile.scaling.knee
    if knee is not None and knee <= _reach(found):
        drawn.add_vline(knee, line={"dash": "dash", "width": 1}, annotation_text=f"knee: {knee:.3g}")
    drawn.update_layout(
        title={"text": _escaped(clean(f"{found.job}: {unit} on {found.machine}"))},
        xaxis={"title": {"text": unit}, "rangemode": "tozero"},
        yaxis={"title": {"text": "items per second"}, "rangemode": "tozero"},
        template="plotly_white",
    )
    text: str = drawn.to_html(include_plotlyjs=True, full_html=True)
    return text


def _points(found: Tuning, plots: Any) -> Any:
    curve = found.profile.curve
    return plots.Scatter(
        x=[point.workers for point in curve],
        y=[point.throughput for point in curve],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [point.most - point.throughput for point in curve],
            "arrayminus": [point.throughput - point.least for point in curve],
        },
        mode="markers",
        marker={"size": 10},
        name="measured: median, least and most",
    )


def _law(found: Tuning, plots: Any) -> Any:
    scaling = found.profile.scaling
    steps = [1 + (_reach(found) - 1) * step / _STEPS for step in range(_STEPS + 1)]
    return plots.Scatter(
        x=steps,
        y=[scaling.throughput(step) for step in steps],
        mode="lines",
        name=f"{LAW}<br>λ = {figure(scaling.rate)}/s, σ = {scaling.sigma:.3g}, κ = {scaling.kappa:.3g}",
    )


def _reach(found: Tuning) -> float:
    """Up to how many workers the law is drawn."""
    return 1.25 * max(2, found.profile.curve[-1].workers)


def _escaped(text: str) -> str:
    """Text that means nothing to HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
