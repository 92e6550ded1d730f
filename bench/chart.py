"""Draw a saved run: `python bench/chart.py [SAVED.json] [--output docs/benchmarks.svg]`; without SAVED, the latest.

For each corpus the time of the two best opponents, of the limit (bare processes) and of chora-mp, as a share of the
plain loop's time in the same round, with the range of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from contest import LIMIT, NO_RIVALS, OURS, PLAIN, RUST
from saved import BadFileError, latest, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saved import Entry, Saved

WIDTH, LEFT, RIGHT = 760, 190, 70  # pixels: the picture, and what is kept free for names and numbers
ROW, BAR, GAP, TOP = 20, 14, 30, 44
NAMES = {LIMIT: "bare processes (limit)", RUST: "chora-mp, minijinja"}
KINDS = {LIMIT: "limit", OURS: "ours", RUST: "ours"}
# A ground of its own, so that it can be read on any page; no variables, which not all that draws SVG knows.
STYLE = """\
svg { font: 13px system-ui, sans-serif; }
.ground { fill: #ffffff; } text { fill: #1f2328; } text.faint { fill: #59636e; font-size: 12px; }
.line { stroke: #b6bec8; stroke-dasharray: 3 3; } .range { stroke: #1f2328; stroke-opacity: 0.6; }
.rival { fill: #a3b1c2; } .limit { fill: #d9a440; } .ours { fill: #1f7a4d; }
text.head, text.ours { font-weight: 600; } .end { text-anchor: end; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; } text { fill: #e6edf3; } text.faint { fill: #9198a1; }
  .line { stroke: #4a525c; } .range { stroke: #e6edf3; }
  .rival { fill: #5c6b7d; } .limit { fill: #b98724; } .ours { fill: #3fb27f; }
}
"""


def chosen(entries: dict[str, Entry]) -> list[str]:
    """Who is drawn: the two best opponents, the limit, and chora-mp last."""
    rivals = [name for name, entry in entries.items() if name not in NO_RIVALS and PLAIN in entry.times_of]
    rivals.sort(key=lambda name: statistics.median(entries[name].times_of[PLAIN]))
    return [*rivals[:2], *(name for name in (LIMIT, OURS, RUST) if name in entries and PLAIN in entries[name].times_of)]


def draw(saved: Saved) -> str:
    """The picture; BadFileError where the run has nothing to draw."""
    groups = [(corpus, entries, chosen(entries)) for corpus, entries in saved.contests.items()]
    groups = [group for group in groups if group[2]]
    if not groups:
        raise BadFileError(f"{saved.file}: nothing in it was compared with the plain loop")
    most = max(1.0, *(max(entries[name].times_of[PLAIN]) for _, entries, names in groups for name in names))
    height = TOP + sum(GAP + ROW * len(names) for _, _, names in groups) + 10
    lines = [*opening(height), *axis(height, most)]
    top = TOP
    for corpus, entries, names in groups:
        lines += group_lines(corpus, entries, names, (top, most))
        top += GAP + ROW * len(names)
    return "\n".join([*lines, "</svg>", ""])


def opening(height: int) -> Iterator[str]:
    """The beginning of the picture."""
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    yield "<title>Time to render each corpus, as a share of what a plain loop over Jinja2 takes</title>"
    yield f"<style>\n{STYLE}</style>"
    yield f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>'


def axis(height: int, most: float) -> Iterator[str]:
    """The line of the plain loop."""
    x = place(1, most)
    yield f'<text class="faint end" x="{x}" y="20">a plain loop over Jinja2 = 1 (less is faster)</text>'
    yield f'<line class="line" x1="{x}" x2="{x}" y1="28" y2="{height - 8}"/>'


def group_lines(corpus: str, entries: dict[str, Entry], names: list[str], at: tuple[int, float]) -> Iterator[str]:
    """A corpus; `at` is where it begins, and the greatest value of the scale."""
    top, most = at
    yield f'<text class="head" x="16" y="{top + 14}">{escape(corpus)}</text>'
    yield f'<text class="faint" x="{LEFT}" y="{top + 14}">{entries[names[0]].records:,} documents</text>'
    for number, name in enumerate(names):
        yield from bar(name, entries[name].times_of[PLAIN], top + GAP - 8 + ROW * number, most)


def bar(name: str, times: list[float], y: int, most: float) -> Iterator[str]:
    """One opponent with its range."""
    middle, kind = statistics.median(times), KINDS.get(name, "rival")
    text = "ours" if kind == "ours" else "theirs"
    least, greatest, base = place(min(times), most), place(max(times), most), y + BAR - 3
    yield f'<text class="end {text}" x="{LEFT - 8}" y="{base}">{escape(NAMES.get(name, name))}</text>'
    yield f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{place(middle, most) - LEFT:.1f}" height="{BAR}" rx="2"/>'
    yield f'<line class="range" x1="{least}" x2="{greatest}" y1="{y + BAR / 2}" y2="{y + BAR / 2}"/>'
    yield f'<text class="{text}" x="{max(greatest, place(middle, most)) + 6:.1f}" y="{base}">{middle:.2f}</text>'


def place(value: float, most: float) -> float:
    """Where a value is, in pixels from the left."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value / most, 1)


def main(arguments: list[str] | None = None) -> int:
    """Draw; 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved", type=Path, nargs="?", metavar="SAVED.json", help="default: the latest that was saved")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.svg"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        options.output.write_text(draw(load(options.saved or latest())), encoding="utf-8")
    except (BadFileError, OSError) as error:
        print(f"chart: {error}", file=sys.stderr)
        return 2
    print(f"drawn: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
