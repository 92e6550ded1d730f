"""The documents: what they promise is there, and what they show is what happens."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chora_mp.generation import listed

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


BATCHES = ROOT / "docs" / "batches.md"


def test_every_pattern_has_its_tests() -> None:
    """The files of tests that docs/batches.md names are there, and every pattern of its table names one."""
    rows = re.findall(r"^\| (?!pattern|---)[^|]+\| .* \| (`tests/.*) \|$", BATCHES.read_text(), re.MULTILINE)
    assert 16 == len(rows)
    named = {name for row in rows for name in re.findall(r"`(tests/\w+\.py)`", row)}
    assert set() == {name for name in named if not (ROOT / name).is_file()}


def test_every_generator_is_documented() -> None:
    """Each built-in generator has a row with its lane, and a section of its own."""
    text = BATCHES.read_text()
    found = dict(re.findall(r"^\| `(\w+)` \| (\w+) \| .* \| .* \| .*\|$", text, re.MULTILINE))
    assert {one.name: one.lane for one in listed() if one.source == "chora-mp"} == found
    assert set() == {name for name in found if f"\n### {name}\n" not in text}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every example of docs/batches.md that names its file, and with what they need."""
    folder = tmp_path_factory.mktemp("batches")
    for _, block in fenced(BATCHES.read_text()):
        if named := re.match(r"# (\S+\.(?:yaml|py))\n", block):
            path = folder / named[1]
            path.parent.mkdir(exist_ok=True)
            assert not path.exists(), path
            path.write_text(block)
    for name in ("data", "templates"):
        (folder / name).mkdir()
    (folder / "data" / "site.json").write_text('{"name": "Example"}')
    (folder / "templates" / "page.md.j2").write_text("{{ opening }}{{ site.name }}\n")
    (folder / "templates" / "word.txt").write_text("{{ word }}")
    (folder / "words.jsonl").write_text('{"id": "a", "word": "hello"}\n{"id": "b", "word": "again"}\n{"id": "c"}\n')
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's in `folder`, without a key for the service."""
    clean = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("job", "folder", "documents"),
    [
        ("content", "build", "greeting.md login.feature opening.md page.md release-note.md slug.py"),
        ("requests", "build-requests", "grace.md greeting.md release-note.md"),
        ("by-generator", "build-by-generator", "bdd_scenario code_generation demonstration jinja2 template_fill"),
        ("served", "build-served", "greeting.md login.feature opening.md page.md release-note.md slug.py"),
    ],
)
def test_jobs_of_batches_are_rendered(examples: Path, job: str, folder: str, documents: str) -> None:
    """The jobs about content configs in docs/batches.md make the documents that it says."""
    done = run(examples, "-m", "chora_mp", "render", f"{job}.yaml")
    assert (0, "") == (done.returncode, done.stderr)
    assert documents.split() == sorted(path.name for path in (examples / folder).iterdir() if path.name[0] != ".")
    if job == "content":
        assert "# Lighthouse\n\nIt watches certificates.\n\nLicence: MIT\nExample" == (
            (examples / folder / "page.md").read_text()
        )


def in_any_order(text: str) -> tuple[list[str], list[str], list[str]]:
    """The counts, the names and the rest of `1 3 a`, `2 3 b`, …: items that wait come as they are completed."""
    lines = text.splitlines()
    counts = [line.rsplit(" ", 1) for line in lines[:3]]
    return [count for count, _ in counts], sorted(name for _, name in counts), lines[3:]


def test_programs_of_batches_run(examples: Path) -> None:
    """The programs in docs/batches.md print what it says; the generators that it shows do what they should."""
    shown = re.search(r"^\$ python run\.py\n(.*?)^```", BATCHES.read_text(), re.DOTALL | re.MULTILINE)
    assert shown is not None
    done = run(examples, "run.py")
    assert (in_any_order(shown[1]), "") == (in_any_order(done.stdout), done.stderr)
    assert "HELLO!\n" == (examples / "build-words" / "a.txt").read_text()
    assert ["0 0", "1 1", "2 2"] == sorted(run(examples, "stream.py").stdout.splitlines())
    assert ["0 of 3", "one ONE!", "two TWO!"] == sorted(run(examples, "arun.py").stdout.splitlines())
    options = ("-f", "-q", "--events", "events.jsonl")
    with subprocess.Popen([sys.executable, "follow.py"], cwd=examples, stdout=subprocess.PIPE, text=True) as follower:
        while follower.poll() is None:  # it may begin to look when a batch is over, and waits for the next one then
            run(examples, "-m", "chora_mp", "render", "words.yaml", *options)
        told, _ = follower.communicate()
    assert ["chora.batch_started None", "chora.batch_completed None"] == [told.splitlines()[at] for at in (0, -1)]
    (examples / "lookup.yaml").write_text((examples / "words.yaml").read_text().replace("shout", "lookup"))
    words = "".join(f'{{"id": "{word}", "word": "{word}"}}\n' for word in "abcd")
    (examples / "words.jsonl").write_text(words)
    found = run(examples, "-m", "chora_mp", "render", "lookup.yaml", "-o", "build-lookup", "--summary", "-")
    assert (4, {"requests": 4}) == tuple(json.loads(found.stdout)[name] for name in ("successful", "usage"))


FAULTS = ("crashes", "hangs", "memory", "signals", "orphans", "disks", "streams")


def test_every_fault_has_its_test() -> None:
    """What docs/reliability.md names is there, and every test of the faults is named in it."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = {path.stem: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    tests = {name: set(re.findall(r"^def (test_\w+)", source, re.MULTILINE)) for name, source in sources.items()}
    assert set() == named - set().union(*tests.values())
    assert set() == set().union(*(tests[f"test_{name}"] for name in FAULTS)) - named
