"""Generators: functions from a specification and a context to text, found by name.

The built-in ones are modules of this package; a plug-in file has them in a dictionary `GENERATORS`, an installed
package offers them through the entry point group `chora_mp.generators`.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from importlib.metadata import EntryPoint

    Function = Callable[[Mapping[str, Any], Mapping[str, Any]], "str | Generated | Awaitable[str | Generated]"]

LaneName = Literal["inline", "threads", "processes", "asyncio"]
LANES: tuple[LaneName, ...] = ("inline", "threads", "processes", "asyncio")
GROUP = "chora_mp.generators"
"""The entry point group of installed generators."""

# Each is a module of this package, but for jinja2, which the renderer brings along.
_BUILT_IN = ("jinja2", "minijinja", "template_fill", "demonstration", "bdd_scenario", "code_generation")
PAID = frozenset({"code_generation"})
"""Those that ask a service for every item, which counts what it is asked."""

_ALIASES = {"bdd_scenario_assembly": "bdd_scenario"}

_F = TypeVar("_F", bound="Callable[..., Any]")


class GenerationError(ValueError):
    """A document cannot be generated; the message says what is wrong, with what was found."""


class Throttled(Exception):  # noqa: N818  (it is a request to wait, and no error of the item's)
    """A service asks all to wait: nothing of this generator begins for so many `seconds`, then the item does again."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Generated(NamedTuple):
    """A generator's text, and what it cost: `usage` counts what the service counts (`input_tokens`, …)."""

    text: str
    usage: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Generator:
    """A generator by its `name`: the `function`, the `lane` that suits it, and whether it may run `concurrent`ly."""

    name: str
    function: Function = field(repr=False)
    lane: LaneName = "processes"
    concurrent: bool = True

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return about(self.function)


def about(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def generator(*, lane: LaneName = "processes", concurrent: bool = True) -> Callable[[_F], _F]:
    """Say of a generator function on which `lane` it runs best, and whether it may run more than once at a time.

    Raises `ValueError` for a lane that there is not.
    """
    if lane not in LANES:
        raise ValueError(f"unknown lane {lane!r}; choose one of {', '.join(LANES)}")

    def mark(function: _F) -> _F:
        function.chora_mp_lane = lane  # type: ignore[attr-defined]
        function.chora_mp_concurrent = concurrent  # type: ignore[attr-defined]
        return function

    return mark


def generator_of(name: str, function: Function) -> Generator:
    """A function as the generator `name`; one that is not marked runs in processes, or, if `async def`, on asyncio.

    Raises `TypeError` for what is no function.
    """
    if not callable(function):
        raise TypeError(f"generator {name!r} is no function (found {type(function).__name__})")
    usual: LaneName = "asyncio" if inspect.iscoroutinefunction(function) else "processes"
    lane: LaneName = getattr(function, "chora_mp_lane", usual)
    return Generator(name, function, lane, getattr(function, "chora_mp_concurrent", True))


def proper_name(name: str) -> str:
    """The name of a generator that also goes by another."""
    return _ALIASES.get(name, name)


def built_in() -> tuple[str, ...]:
    """The names of the generators that come with chora-mp."""
    return _BUILT_IN


@functools.cache
def installed() -> dict[str, EntryPoint]:
    """The generators that installed packages offer, by name; none of them is imported."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (20 ms that few workers need to spend)

    return {entry.name: entry for entry in entry_points(group=GROUP)}
