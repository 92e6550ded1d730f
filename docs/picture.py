"""Draw docs/run.svg: real runs on a pseudo-terminal, the bar caught half-way. Needs pexpect and bench/corpora.py."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pexpect
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
WIDTH = 100
PEOPLE = [f'{{"name": "n{number}", "country": "{["de", "fr", "it"][number % 3]}"}}' for number in range(5000)]


def run(command: str, folder: Path) -> tuple[str, str]:
    """The last bar that a command showed before it was half done, and what it printed in the end."""
    output = pexpect.run(command, cwd=str(folder), timeout=120, encoding="utf-8", env=None)
    lines = [line for line in re.split(r"[\r\n]+", output) if line.strip()]
    bars = [line for line in lines if "━" in line and "/s" in line]
    end = next(number for number, line in enumerate(lines) if re.search(r"documents? in ", line))
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", line) for line in lines[end:]]
    return (bars[len(bars) // 2] if bars else ""), "\n".join(plain)


def broken_job(folder: Path) -> None:
    """A job of which a few records are not what they should be."""
    people = [*PEOPLE[:99], '{"nome": "n99"}', *PEOPLE[100:400], '{"name": "n400"', *PEOPLE[401:], '{"nome": "Eve"}']
    (folder / "templates").mkdir()
    (folder / "people.jsonl").write_text("\n".join(people) + "\n")
    (folder / "templates" / "letter.md.j2").write_text("Dear {{ name }},\n")
    job = "source: people.jsonl\ntemplate: letter.md.j2\noutput: {dir: letters, path: '{{ country }}/{{ name }}.md'}\n"
    (folder / "letters.yaml").write_text(job)


def main() -> None:
    """Run, and draw what was seen."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=(ROOT / "build" / "picture.txt").open("w"))
    letters = Path(tempfile.mkdtemp(prefix="letters-"))
    broken_job(letters)
    for job, folder in (("configs/aws-operations.yaml", ROOT), ("letters.yaml", letters)):
        bar, end = run(f"{sys.executable} -m chora_mp render {job}", folder)
        console.print(f"[bold]$ chora-mp render {job}[/bold]")
        if folder is ROOT:
            console.print(Text.from_ansi(bar))
        console.print(Text(end))
        console.print()
    # Without the fonts that rich would have a reader's browser fetch from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(ROOT / "docs" / "run.svg"), title="chora-mp", code_format=form)


if __name__ == "__main__":
    main()
