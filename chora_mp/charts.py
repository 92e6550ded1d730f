"""A tuning for people: the curve as a table with bars, what to make of it, and a page to look at it closer."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from chora_mp.progress import count, duration
from chora_mp.progress import size as bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.profiles import Point
    from chora_mp.tuning import Tuning

LAW = "X(N) = λN / (1 + σ(N-1) + κN(N-1))"
_BAR = 24  # characters of the longest
_NARROW = 78  # columns; what has fewer gets the count, its throughput and the bar
_MARK = "<- best"
_ALL, _TAKEN = slice(None), (20, 62)  # columns of the table, and what they take: two of them, and all
_STEPS = 120  # of the law's curve, as it is drawn


def curve_lines(found: Tuning) -> Iterator[str]:
    """The curve in plain, aligned lines."""
    marks = ("", *(_MARK if point is found.profile.best else "" for point in found.profile.curve))
    cells = (_header(found), *(_row(found, point) for point in found.profile.curve))
    rows = [(*row, mark) for row, mark in zip(cells, marks, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def print_curve(found: Tuning, stream: IO[str]) -> None:
    """The curve on a terminal, with bars and the best in bold; narrow terminals get what fits."""
    from rich.console import Console  # noqa: PLC0415  (only terminals pay for it)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream)
    shown = _ALL if console.width >= _NARROW else slice(2)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name in _header(found)[shown]:
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("", no_wrap=True)
    longest = max(4, min(_BAR, console.width - len(_MARK) - 1 - _TAKEN[shown is _ALL]))
    most = max(point.throughput for point in found.profile.curve)
    block = "#" if console.options.ascii_only else "█"
    for point in found.profile.curve:
        best = point is found.profile.best
        bar = Text(block * max(1, round(longest * point.throughput / most)), style="green" if best else "cyan")
        bar.append(f" {_MARK}" if best else "")
        drawn.add_row(*_row(found, point)[shown], bar, style="bold" if best else "")
    console.print(drawn)


def _header(found: Tuning) -> tuple[str, ...]:
    unit = "AT A TIME" if found.sizing.at_once else "WORKERS"
    return unit, "ITEMS/S", "LEAST–MOST", "SPEED-UP", "EFFICIENCY", "BY THE LAW"


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
    profile, scaling, best = found.profile, found.profile.scaling, found.profile.best
    unit = count(profile.workers, "item at a time" if found.sizing.at_once else "worker")
    unit = unit.replace("item at a times", "items at a time")
    times = best.throughput / profile.curve[0].throughput * profile.curve[0].workers
    yield f"{found.job}: {unit}: {figure(best.throughput)} items/s, {times:.2f} times one; {profile.sureness:.0%} sure"
    told = f"{count(found.rounds, 'round')} in {duration(found.seconds)}, figures of one count {found.spread:.0%} apart"
    yield f"measured on {found.machine}, {profile.generator} on {profile.lane}: {told}"
    knee = "it never falls" if scaling.knee is None else f"beyond {scaling.knee:.3g} it falls"
    yield (
        f"{LAW}: λ = {figure(scaling.rate)}/s, σ = {scaling.sigma:.3g} (contention), "
        f"κ = {scaling.kappa:.3g} (coherency); {knee}; {scaling.error:.0%} off"
    )
    memory = "" if profile.memory is None else f"; with some to spare, each needs {bytes_of(profile.memory)}"
    alone = f"{_milliseconds(profile.cpu)} of CPU, {_milliseconds(profile.wait)} of waiting"
    yield f"an item alone: {alone}, leaves {bytes_of(round(profile.growth))} behind{memory}"
    if not found.sizing.at_once:
        yield f"work is handed out {profile.span_seconds * 1000:g} ms at a time"
    term = next((term.detail for term in found.sizing.terms if term.name == found.sizing.binds), "")
    yield f"{found.sizing.binds} binds" + (f": {term}" if term else "")
    if found.failed:
        yield f"{found.failed:,} of {count(found.sampled, 'item')} in the sample failed, such as {found.failure}"
    yield from found.advice


def figure(value: float) -> str:
    """`86,722`, `12.3`, `0.0451`: a number for people."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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


def page(found: Tuning, clean: Callable[[str], str] = str) -> str:
    """An HTML page with the curve, to be looked at without a network. Raises `ImportError` without `plots`."""
    from importlib import import_module  # noqa: PLC0415

    plots: Any = import_module("plotly.graph_objects")  # half a second, for those who want it
    profile, unit = found.profile, _header(found)[0].lower()
    drawn = plots.Figure([_law(found, plots), _points(found, plots)])
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
