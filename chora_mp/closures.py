"""Closures: all that a template's documents are made from, besides the record; an edit elsewhere does not touch them.

Worked out by a worker, since templates have to be parsed for it and plug-ins loaded.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2.utils import _PassArg

from chora_mp.bundle import digest_of
from chora_mp.environment import normal_name, referenced
from chora_mp.filters import FILTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import jinja2

    from chora_mp.bundle import Bundle

NO_TEMPLATE = "(no template)"
"""Stands for the template of documents that are made without one."""

ANY_TEMPLATE = "(any template)"
"""Stands for the template of documents that may be made from any."""

_CONTEXT = (_PassArg.context, _PassArg.environment)
_DATA = (str, bytes, int, float, bool, type(None))


class Closure(NamedTuple):
    """What one template's documents are made from: `parts` maps a name to a digest.

    `number` stands for all of it in the ledger: the first 48 bits of the digest, so that no slip of a bit in a file
    makes one closure another.
    """

    number: int
    parts: dict[str, str]


class Closures:
    """The closures of a bundle's templates, each found when it is asked for."""

    def __init__(self, bundle: Bundle, environment: jinja2.Environment) -> None:
        self._bundle = bundle
        self._environment = environment
        self._all = _may_load_any(environment)
        self._references: dict[str, list[str | None]] = {}

    def of(self, name: str) -> Closure:
        """The closure of the template `name`, which may be missing or broken."""
        members = self._bundle.templates if self._all and name != NO_TEMPLATE else self._members(name)
        templates = {f"template {member}": digest_of(self._bundle.templates[member][1]) for member in sorted(members)}
        parts = {**self._bundle.parts, **templates}
        return Closure(int(digest_of(name, parts)[:12], 16), parts)

    def _members(self, name: str) -> Iterable[str]:
        """The templates that `name` may reach; all of them where that cannot be told."""
        if name == NO_TEMPLATE:
            return ()
        todo, found = [name], set()
        while todo:
            one = normal_or_none(todo.pop())
            # A name that is not there may be tomorrow (`ignore missing`), and then something else is loaded.
            if one is None or one not in self._bundle.templates:
                return self._bundle.templates
            if one not in found:
                found.add(one)
                references = self._referenced(one)
                if None in references:
                    return self._bundle.templates
                todo += [reference for reference in references if reference is not None]
        return found

    def _referenced(self, name: str) -> list[str | None]:
        if name not in self._references:
            try:
                tree = self._environment.parse(self._bundle.templates[name][1].decode(), name)
                self._references[name] = list(referenced(tree))
            except Exception:  # noqa: BLE001  (a template that cannot be read may hold anything; extensions parse, too)
                self._references[name] = [None]
        return self._references[name]


def _may_load_any(environment: jinja2.Environment) -> bool:
    """Whether code of the person's own gets hold of the environment, and so of every template."""
    if any(not type(extension).__module__.startswith("jinja2.") for extension in environment.extensions.values()):
        return True
    spaces: tuple[Mapping[str, Any], ...] = (environment.filters, environment.tests, environment.globals)
    return any(_receives(value) for space in spaces for value in space.values() if not _is_jinjas(value))


def _is_jinjas(value: Any) -> bool:
    """Whether a value is Jinja2's own, or ours in the place of one of those."""
    if any(value is faster for _, faster in FILTERS.values()):
        return True
    return str(getattr(value, "__module__", "")).partition(".")[0] == "jinja2"


def _receives(value: Any, depth: int = 3) -> bool:
    """Whether Jinja2 passes the context or the environment to a callable, a method of an object, or one in a list."""
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        inside = value.values() if isinstance(value, dict) else value
        return depth == 0 or any(_receives(one, depth - 1) for one in inside)
    if isinstance(value, _DATA):
        return False
    if _is_marked(value):
        return True
    kind = value if isinstance(value, (type, ModuleType)) else type(value)
    return any(_is_marked(getattr(kind, name, None)) for name in dir(kind))


def _is_marked(value: Any) -> bool:
    try:
        return getattr(value, "jinja_pass_arg", None) in _CONTEXT
    except Exception:  # noqa: BLE001  (an object of the person's, whose attributes may be computed)
        return False


def normal_or_none(name: str) -> str | None:
    """A template's name as the bundle has it; None for one that leads nowhere."""
    return normal_name(name) if ".." not in name else None
