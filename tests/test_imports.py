"""Imports: the local files that a plug-in comes to import are found by reading, and nothing else is taken for one."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from chora_mp.imports import imported_files

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = {
    "pack/__init__.py": "",
    "pack/one.py": "",
    "pack/two.py": "",
    "pack/below/__init__.py": "",
    "pack/below/three.py": "",
}


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    """Write files, folders included."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())


def found(folder: Path, plugin: str, modules: tuple[str, ...] = ()) -> set[str]:
    """The files that a plug-in with this source comes to import, as paths in the folder."""
    source = textwrap.dedent(plugin).encode()
    files = imported_files([(str(folder / "plugin.py"), source)], modules, [str(folder)])
    for path, data in files.items():
        with open(path, "rb") as file:
            assert file.read() == data
    return {os.path.relpath(path, folder) for path in files}


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("import single", {"single.py"}),
        ("import single as other, absent", {"single.py"}),
        ("from single import a_name, another", {"single.py"}),
        ("from single import *", {"single.py"}),
        ("import pack", {"pack/__init__.py"}),
        ("import pack.one", {"pack/__init__.py", "pack/one.py"}),
        ("from pack import one", {"pack/__init__.py", "pack/one.py"}),
        ("from pack import a_name", {"pack/__init__.py"}),
        ("from pack.below import three, a_name", {"pack/__init__.py", "pack/below/__init__.py", "pack/below/three.py"}),
        ("import pack.absent.three", {"pack/__init__.py"}),
        ("import single.below", {"single.py"}),
        ("import without_init.module", {"without_init/module.py"}),
        ("import without_init", set()),
        ("import absent", set()),
        ("def f():\n    import single\n    return single", {"single.py"}),
        ("try:\n    import absent\nexcept ImportError:\n    from pack import two", {"pack/__init__.py", "pack/two.py"}),
        ("class C:\n    if True:\n        import single", {"single.py"}),
        ("__import__('single')", set()),
        ("'import single'  # import single", set()),
    ],
)
def test_what_an_import_leads_to(tmp_path, plugin, expected):
    """Modules, packages on the way to them and names that may be modules, wherever in a file they are imported."""
    write(tmp_path, {"single.py": "", "without_init/module.py": "", **PACKAGE})
    assert expected == found(tmp_path, plugin)


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        ("pack/one.py", "from . import two", {"pack/two.py"}),
        ("pack/one.py", "from .two import a_name", {"pack/two.py"}),
        ("pack/one.py", "from .below import three", {"pack/below/__init__.py", "pack/below/three.py"}),
        ("pack/one.py", "from .below.three import a_name", {"pack/below/three.py"}),
        ("pack/one.py", "from . import *", set()),
        ("pack/one.py", "from .absent import a_name", set()),
        ("pack/below/__init__.py", "from .three import a_name", {"pack/below/three.py"}),
        ("pack/below/three.py", "from ..two import a_name", {"pack/two.py"}),
        ("pack/below/three.py", "def f():\n    from .. import two", {"pack/two.py"}),
        ("pack/below/three.py", f"from {'.' * 60} import two", set()),
    ],
)
def test_relative_imports(tmp_path, place, source, expected):
    """A module's relative imports lead to its neighbours, above and below."""
    write(tmp_path, {**PACKAGE, place: source})
    module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    way = found(tmp_path, f"import {module}")
    write(tmp_path, {place: ""})
    assert expected | found(tmp_path, f"import {module}") == way


def test_imports_of_imports(tmp_path):
    """What is imported is read in turn, round in circles too."""
    write(
        tmp_path,
        {"a.py": "import b", "b.py": "from pack import one", **PACKAGE, "pack/one.py": "import a, c", "c.py": ""},
    )
    assert {"a.py", "b.py", "c.py", "pack/__init__.py", "pack/one.py"} == found(tmp_path, "import a")


def test_nothing_of_others(tmp_path):
    """The standard library and what is installed are no local modules, under whatever name they are imported."""
    plugin = """
        import json, os.path, sqlite3, _csv, sys, xml.etree.ElementTree
        import jinja2, yaml, orjson
        from jinja2.filters import do_map
        from markupsafe import Markup
        import chora_mp.worker
    """
    assert set() == found(tmp_path, plugin)


def test_a_local_module_with_a_name_of_the_library(tmp_path):
    """A file of the person's own counts, whatever it is called."""
    write(tmp_path, {"json.py": "import yaml", "yaml/__init__.py": ""})
    assert {"json.py", "yaml/__init__.py"} == found(tmp_path, "import json")


@pytest.mark.parametrize(
    "broken", [b"def f(:", b"\xff", b"import a\0", b"x = " + b"-" * 100_000 + b"1", b"# coding: nonsense\nimport b"]
)
def test_broken_files(tmp_path, broken):
    """A file that is no Python leads nowhere, and nobody is the worse for it; nor for a plug-in that is none."""
    write(tmp_path, {"broken.py": broken, "good.py": "", "b.py": ""})
    assert {"broken.py", "good.py"} == found(tmp_path, "import broken\nimport good")
    assert {} == imported_files([(str(tmp_path / "plugin.py"), broken)], [], [str(tmp_path)])


def test_what_cannot_be_read(tmp_path, monkeypatch):
    """A file that is gone between finding and reading it is no dependency."""
    write(tmp_path, {"fleeting.py": "", "good.py": ""})
    monkeypatch.setattr("chora_mp.imports._files", lambda names, folders: iter([f"{folders[0]}/{n}.py" for n in names]))
    (tmp_path / "fleeting.py").unlink()
    assert {"good.py"} == found(tmp_path, "import fleeting, good")


def test_several_plugins_and_folders(tmp_path):
    """Plug-ins share the folders that they import from; files come in one order, each once."""
    write(tmp_path, {"here/a.py": "", "there/b.py": "import a", "there/a.py": ""})
    folders = [str(tmp_path / "here"), str(tmp_path / "there")]
    plugins = [(str(tmp_path / "here" / "p.py"), b"import b"), (str(tmp_path / "there" / "q.py"), b"import a")]
    expected = [str(tmp_path / "here" / "a.py"), str(tmp_path / "there" / "b.py")]
    assert expected == list(imported_files(plugins, [], folders))
    assert expected == list(imported_files(plugins[::-1], [], folders))


def test_plugins_that_are_modules(tmp_path, monkeypatch):
    """The file of a plug-in that is a module counts wherever Python finds it, with its neighbours and local imports."""
    write(
        tmp_path,
        {
            "elsewhere/a_plugin_of_mine/__init__.py": "from .part import a_name",
            "elsewhere/a_plugin_of_mine/part.py": "import json, local",
            "elsewhere/a_plugin_of_mine/unused.py": "",
            "job/local.py": "",
        },
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    files = imported_files([], ["a_plugin_of_mine", "absent_altogether", "sys"], [str(tmp_path / "job")])
    package = "elsewhere/a_plugin_of_mine"
    expected = [f"{package}/__init__.py", f"{package}/part.py", "job/local.py"]
    assert expected == [os.path.relpath(path, tmp_path) for path in files]


def test_a_plugin_that_is_a_module_beside_the_job(tmp_path):
    """A worker finds such a module in the job's folder, though it is on nobody's path yet: so its file counts, too."""
    write(tmp_path, {"a_plugin_beside_the_job.py": "import local", "local.py": ""})
    assert {"a_plugin_beside_the_job.py", "local.py"} == found(tmp_path, "", ("a_plugin_beside_the_job",))


def test_nothing_is_run(tmp_path):
    """Plug-ins and what they import are read, not imported."""
    write(tmp_path, {"harmful.py": "raise SystemExit", "pack/__init__.py": "raise SystemExit", "pack/one.py": ""})
    before = set(sys.modules)
    assert {"harmful.py", "pack/__init__.py", "pack/one.py"} == found(
        tmp_path, "import harmful, pack.one\nraise OSError"
    )
    assert set() == {"harmful", "pack", "pack.one"} & (set(sys.modules) - before)
