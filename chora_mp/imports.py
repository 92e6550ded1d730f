"""The local modules that plug-ins import, found by reading them and not by running them: an edit there counts, too."""

from __future__ import annotations

import ast
import os
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def imported_files(
    plugins: Iterable[tuple[str, bytes]], modules: Iterable[str], folders: list[str]
) -> dict[str, bytes]:
    """Path and bytes of every Python file in `folders` that the plug-ins (path and source) come to import.

    Imports inside functions count; those whose names are made up while running don't. `modules` are plug-ins that are
    modules themselves: their files count wherever they lie. What cannot be read or parsed is nobody's dependency: who
    imports it fails with a better message.
    """
    found: dict[str, bytes] = {}
    todo = [(source, os.path.dirname(path)) for path, source in plugins]
    everywhere = [*folders, *(folder for folder in sys.path if folder)]
    todo += list(_read(_files(modules, everywhere), found))
    while todo:
        source, package = todo.pop()
        todo += _read(_files(_names(source), folders), found)
        todo += _read(_relative_files(source, package), found)
    return dict(sorted(found.items()))


def _read(paths: Iterable[str], found: dict[str, bytes]) -> Iterator[tuple[bytes, str]]:
    """Source and folder of the files that are new."""
    for path in paths:
        if path not in found:
            try:
                with open(path, "rb") as file:
                    found[path] = file.read()
            except OSError:
                continue
            yield found[path], os.path.dirname(path)


def _imports(source: bytes) -> Iterator[ast.Import | ast.ImportFrom]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def _names(source: bytes) -> Iterator[str]:
    """Every absolute name that an import statement mentions, as a module that it may be."""
    for node in _imports(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not node.level and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _relative_files(source: bytes, package: str) -> Iterator[str]:
    """The files that relative imports of a module in the folder `package` may lead to."""
    for node in _imports(source):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = os.path.normpath(os.path.join(package, *[".."] * (node.level - 1), *(node.module or "").split(".")))
            for name in ("", *(alias.name for alias in node.names)):
                path = os.path.join(base, name) if name else base
                yield from (one for one in (f"{path}.py", os.path.join(path, "__init__.py")) if os.path.isfile(one))


def _files(names: Iterable[str], folders: list[str]) -> Iterator[str]:
    """The files of modules and of the packages that they are in, as far as they are in these folders."""
    for name in names:
        path = folders
        for end in range(1, name.count(".") + 2):
            spec = PathFinder.find_spec(".".join(name.split(".")[:end]), path)
            if spec is None:
                break
            if spec.origin and spec.origin.endswith(".py"):
                yield os.path.abspath(spec.origin)
            if spec.submodule_search_locations is None:
                break
            path = list(spec.submodule_search_locations)
