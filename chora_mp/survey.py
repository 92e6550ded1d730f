"""The survey: what a worker can tell of templates without rendering any, for `check`.

Syntax errors, references to templates that are not there, and names that no constant and no plug-in declares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from chora_mp import failures
from chora_mp.closures import normal_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.renderer import Renderer

_GUARDS = {"defined", "undefined"}
_DEFAULTS = {"default", "d"}
_REFERENCES = (nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)


class Wanted(NamedTuple):
    """A name that a template takes from its record: where it first does so, as messages show it, and the name."""

    place: str
    name: str


class Survey:
    """What is found in the templates that a job reaches."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._environment = renderer.environment
        self.problems: list[str] = []
        self.wanted: dict[str, Wanted] = {}
        self._done: set[str] = set()

    def look_at(self, name: str, where: str) -> None:
        """Look at the template `name`, which `where` refers to, and at all that it refers to in turn."""
        normal = normal_or_none(name)
        templates = self._renderer.bundle.templates
        if normal is None or normal not in templates:
            near = failures.did_you_mean(name, templates)
            self.problems.append(f"{where}: no template {name!r} in the template folders{near}")
            return
        if normal in self._done:
            return
        self._done.add(normal)
        path = templates[normal][0]
        tree = self._parsed(normal, path)
        if tree is not None:
            self._note_names(tree, path)
            for reference, line in _references(tree):
                self.look_at(reference, f"{path}:{line}")

    def _parsed(self, name: str, path: str) -> nodes.Template | None:
        loader = self._environment.loader
        assert loader is not None  # noqa: S101
        try:
            source, _, _ = loader.get_source(self._environment, name)
            self._environment.compile(self._environment.parse(source, name, path), name, path)
            return self._environment.parse(source, name, path)  # compiling rearranges a tree
        except jinja2.TemplateSyntaxError as error:
            self.problems.append(failures.syntax_problem(error, path))
        except Exception as error:  # noqa: BLE001  (constant folding runs filters, an extension its own code)
            self.problems.append(f"{path}: {type(error).__name__}: {error}")
        return None

    def _note_names(self, tree: nodes.Template, path: str) -> None:
        """Note the names that the template needs of its record; what it asks after first, it can do without."""
        asked = {name for kind in (nodes.Test, nodes.Filter) for node in tree.find_all(kind) for name in _asked(node)}
        free = find_undeclared_variables(tree) - asked - self._renderer.globals.keys()
        lines: dict[str, int] = {}
        for node in tree.find_all(nodes.Name):
            if node.ctx == "load":
                lines[node.name] = min(node.lineno, lines.get(node.name, node.lineno))
        for name in sorted(free):
            self.wanted.setdefault(name, Wanted(f"{path}:{lines.get(name, 1)}", name))


def _asked(node: nodes.Node) -> Iterator[str]:
    """The name that a test or filter asks after before it is used."""
    guards = _GUARDS if isinstance(node, nodes.Test) else _DEFAULTS
    if isinstance(node, (nodes.Test, nodes.Filter)) and node.name in guards and isinstance(node.node, nodes.Name):
        yield node.node.name


def _references(tree: nodes.Template) -> Iterator[tuple[str, int]]:
    """Every template that must be there, and the line that says so; of several to choose from none must."""
    for node in tree.find_all(_REFERENCES):
        template = getattr(node, "template", None)
        if getattr(node, "ignore_missing", False) or not isinstance(template, nodes.Const):
            continue
        if isinstance(template.value, str):
            yield template.value, node.lineno
