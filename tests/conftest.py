"""What the tests share: a folder to put a job into, and the command as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from pathlib import Path

BOUND = 60.0
"""Seconds that any command in a test may take, however busy the machine is."""

STATE = {".chora-mp/ledger.db", ".chora-mp/ledger.sha256", ".chora-mp/lock"}
"""What a run keeps in its output folder for the next one; anything else in there is a leftover."""


# Whoever has started the tests in the background has them ignore Ctrl-C, and so all commands that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Project:
    """A folder with a job in it."""

    folder: Path

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the project, folders included."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def records(self, *records: Any, name: str = "data.jsonl") -> Path:
        """Write records as JSON lines; a string or bytes stand for a raw line."""
        lines = [one if isinstance(one, (str, bytes)) else json.dumps(one) for one in records]
        return self.write(name, b"".join((one.encode() if isinstance(one, str) else one) + b"\n" for one in lines))

    def job(self, more: str = "", *, template: str = "{{ name }}\n", name: str = "job.yaml", source: str = "data.jsonl",
            path: str = "{{ name }}.txt") -> Path:  # fmt: skip
        """Write a job file with its template; `more` is appended to the file."""
        self.write("templates/page.txt.j2", template)
        text = f"source: {source}\ntemplate: page.txt.j2\noutput: {{dir: out, path: {json.dumps(path)}}}\n{more}\n"
        return self.write(name, text)

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.folder / "out"

    def outputs(self) -> dict[str, str]:
        """Relative path and text of every file in the output folder, hidden ones too, but for the `STATE`."""
        found = (path for path in sorted(self.out.rglob("*")) if path.is_file())
        names = {str(path.relative_to(self.out)): path for path in found}
        return {name: path.read_bytes().decode(errors="replace") for name, path in names.items() if name not in STATE}

    def leftovers(self) -> list[str]:
        """Whatever runs have made for themselves anywhere in the project and neither removed nor kept as `STATE`."""
        kept = tuple(f"/{name}" for name in (".chora-mp", *STATE))
        names = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        return sorted(name for name in names if ".chora" in name and not name.endswith(kept))

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command in the project's folder, as a person does."""
        return subprocess.run(
            [sys.executable, "-m", "chora_mp", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def render(self, *arguments: str, job: str = "job.yaml") -> tuple[int, dict[str, Any], str]:
        """Render the job: exit code, JSON summary (empty where there is none) and stderr."""
        done = self.run("render", job, "--summary", "-", *arguments)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


# As many examples as find a mistake that is there; HYPOTHESIS_PROFILE=many looks longer.
settings.register_profile("usual", max_examples=40)
settings.register_profile("many", max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project."""
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour and no debugging, whatever the person who runs the tests has set."""
    for name in ("FORCE_COLOR", "CHORA_MP_DEBUG", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
