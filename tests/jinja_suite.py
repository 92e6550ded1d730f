"""Jinja2's own tests, run with our environments in the place of Jinja2's: `python jinja_suite.py FOLDER [--documents]`.

FOLDER keeps the source distribution between runs. `--documents` puts the environments there that render documents,
with all of the compiler's own code; `--streamed` has them leave text in pieces as Jinja2 does. The tests that ask for
what is different on purpose are left out and named. Further arguments go to pytest. The exit code is pytest's, or 3
where the tests never reached our code.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.nativetypes
import jinja2.sandbox
import pytest

from chora_mp import environment as ours

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER_REACHED = 3
STREAMING = "tests/test_api.py::TestStreaming::test_buffered_streaming"
DIFFERENT = {
    STREAMING: "it counts the pieces that a stream comes in, and documents are never streamed",
    "tests/test_tests.py::TestTestsCase::test_multiple_tests": "it prints bytes, which no document may hold",
}
"""Tests that ask for what documents have otherwise, and why."""

calls: Counter[str] = Counter()
"""How often the tests looked something up in each of our environments."""


def main(arguments: list[str]) -> int:
    """Fetch the tests, replace the environments, run; pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", action="store_true")
    parser.add_argument("--streamed", action="store_true")
    options, more = parser.parse_known_args(arguments)
    suite = fetched(options.folder)
    left_out = dict(DIFFERENT) if options.documents else {}
    if options.streamed:
        ours.DocumentEnvironment.joins = False
        left_out.pop(STREAMING, None)
    replace(ours.DocumentEnvironment if options.documents else ours.Environment)
    os.chdir(suite)
    for test, why in left_out.items():
        print(f"left out: {test}: {why}")
    without = [f"--deselect={test}" for test in left_out]
    code = pytest.main(["-c", "pyproject.toml", "-p", "no:cacheprovider", "tests", *without, *more])
    return code or in_effect()


def fetched(folder: Path) -> Path:
    """The unpacked source distribution of the Jinja2 that is installed."""
    name = f"jinja2-{version('jinja2')}"
    archive = folder / f"{name}.tar.gz"
    if not archive.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps",
             "--dest", str(folder), name.replace("-", "==")],
            check=True,
        )  # fmt: skip
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / name


def replace(environment: type[jinja2.Environment]) -> None:
    """Put `environment` and what derives from it wherever Jinja2's modules have their own."""

    class SandboxedEnvironment(environment, jinja2.sandbox.SandboxedEnvironment):  # type: ignore[misc, valid-type]
        """The sandbox on top of `environment`."""

    class ImmutableSandboxedEnvironment(environment, jinja2.sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc, valid-type]
        """The immutable sandbox on top of `environment`."""

    # Native types have a code generator of their own, so nothing but the look-up can be ours there.
    class NativeEnvironment(ours.Environment, jinja2.nativetypes.NativeEnvironment):
        """Native types on top of our look-up."""

    replacements: dict[type, type] = {
        jinja2.Environment: environment,
        jinja2.sandbox.SandboxedEnvironment: (
            ours.SandboxedEnvironment if environment is ours.Environment else SandboxedEnvironment
        ),
        jinja2.sandbox.ImmutableSandboxedEnvironment: ImmutableSandboxedEnvironment,
        jinja2.nativetypes.NativeEnvironment: NativeEnvironment,
    }
    homes = [module for name, module in sys.modules.items() if name.partition(".")[0] == "jinja2"]
    # `Template("…")` makes its environment from this.
    homes += [jinja2.Template, jinja2.nativetypes.NativeTemplate]
    for home in homes:
        for name, value in list(vars(home).items()):
            if isinstance(value, type) and value in replacements:
                setattr(home, name, replacements[value])
    # All first, then all at once: one of them inherits from another, and a look-up counts once.
    look_ups = [(replacement, counted(replacement.getattr)) for replacement in replacements.values()]  # type: ignore[attr-defined]
    for replacement, look_up in look_ups:
        replacement.getattr = look_up  # type: ignore[attr-defined]


def counted(look_up: Callable[..., Any]) -> Callable[..., Any]:
    """`look_up`, with its calls counted by the environment's class."""

    def getattr(self: jinja2.Environment, obj: Any, attribute: str) -> Any:  # noqa: A001
        calls[type(self).__name__] += 1
        return look_up(self, obj, attribute)

    return getattr


def in_effect() -> int:
    """0 where the tests came by all of our environments, and `NEVER_REACHED` where they did not."""
    expected = {jinja2.Environment.__name__, "SandboxedEnvironment", "NativeEnvironment"}
    missing = expected - set(calls)
    if missing:
        print(f"the tests never reached our {', '.join(sorted(missing))}", file=sys.stderr)
        return NEVER_REACHED
    print("look-ups in our environments:", ", ".join(f"{name} {count}" for name, count in sorted(calls.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
