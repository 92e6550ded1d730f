"""The documents: what they promise is there, and what they show is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_begins_with_the_quick_start() -> None:
    """The first fenced block is one command: make an environment, install, render the job that needs no download."""
    _, command = fenced((ROOT / "README.md").read_text())[0]
    steps = [shlex.split(step) for step in command.strip().split("&&")]
    assert [["python3", "-m", "venv", ".venv"], ".venv/bin/pip", ".venv/bin/chora-mp"] == [
        steps[0],
        steps[1][0],
        steps[2][0],
    ]
    job = ROOT / steps[2][-1]
    folder = yaml.safe_load(job.read_text())["output"]["dir"]
    assert (ROOT / "build") in (job.parent / folder).resolve().parents


def test_the_readme_has_the_test_command() -> None:
    """One line that `.ci/run` finds and runs, word for word."""
    lines = [line for _, block in fenced((ROOT / "README.md").read_text()) for line in block.splitlines()]
    assert ["python3 -m venv .venv && .venv/bin/pip install --quiet tox && .venv/bin/tox"] == [
        line for line in lines if re.fullmatch(r"python3 .*/tox", line)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link and picture of a document is there, and so is the heading that it names."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), target
            if heading:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
                assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_the_layers_of_the_architecture_are_those_of_the_code() -> None:
    """Each module is named in the table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = {path.stem for path in (ROOT / "chora_mp").glob("*.py")} - {"__init__", "__main__", "version"}
    assert set() == {name for name in modules if f"`{name}`" not in text}


FAULTS = ("crashes", "hangs", "memory", "signals", "orphans", "disks", "streams")


def test_every_fault_has_its_test() -> None:
    """What docs/reliability.md names is there, and every test of the faults is named in it."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = {path.stem: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    tests = {name: set(re.findall(r"^def (test_\w+)", source, re.MULTILINE)) for name, source in sources.items()}
    assert set() == named - set().union(*tests.values())
    assert set() == set().union(*(tests[f"test_{name}"] for name in FAULTS)) - named
