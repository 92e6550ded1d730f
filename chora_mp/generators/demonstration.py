"""The generator `demonstration`: the example outputs of a config's elements, as they are or put into a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chora_mp.generators import GenerationError, template_fill
from chora_mp.generators.placeholders import found, guess

_OUTPUT = "example_output"
_SOURCE = "elements."


def generate(spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Show the example outputs of the elements, one after the other or in a template.

    A placeholder is a name of the context, else a variable, else an element, also as `elements.intro.example_output`
    or `elements.0.example_output`. The template's settings are those of `template_fill`. Raises `GenerationError`.
    """
    elements = _elements(spec)
    if not spec.get("template"):
        return _joined(elements)
    outputs = {name: element[_OUTPUT] for name, element in _by_name(elements).items() if _OUTPUT in element}
    given = {name: value for name, value in context.items() if value is not None}
    variables = _variables(spec, elements, given)
    return template_fill.generate(spec, {**outputs, "elements": _reachable(elements), **variables, **given})


class _Element(dict[str, Any]):
    """The fields of an element that have a value; as text, its example output."""

    def __str__(self) -> str:
        if _OUTPUT in self:
            return str(self[_OUTPUT])
        raise GenerationError(f"element {self.get('name')!r} has no {_OUTPUT}; give it one")


def _elements(spec: Mapping[str, Any]) -> list[_Element]:
    elements = []
    for number, element in enumerate(_list(spec, "elements")):
        if not isinstance(element, Mapping):
            raise GenerationError(
                f"elements.{number}: must be a mapping (found {found(element)}); write name and value"
            )
        elements.append(_Element({name: value for name, value in element.items() if value is not None}))
    return elements


def _list(spec: Mapping[str, Any], name: str) -> list[Any]:
    value = spec.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise GenerationError(f"{name}: must be a list (found {found(value)}); correct it")
    return value


def _joined(elements: list[_Element]) -> str:
    """All outputs with a blank line between, however many line ends each has of its own."""
    texts = [str(element) for element in elements if _OUTPUT in element]
    if not texts:
        raise GenerationError(f"neither a template nor an element with {_OUTPUT}; write either")
    return "\n\n".join([*(text.rstrip("\n") for text in texts[:-1]), texts[-1]])


def _by_name(elements: list[_Element]) -> dict[str, _Element]:
    """The elements that have a name; of several with the same one, the first."""
    named: dict[str, _Element] = {}
    for element in elements:
        if isinstance(element.get("name"), str):
            named.setdefault(element["name"], element)
    return named


def _reachable(elements: list[_Element]) -> dict[str | int, _Element]:
    """The elements by name and by number."""
    reachable: dict[str | int, _Element] = dict(enumerate(elements))
    reachable.update(_by_name(elements))
    return reachable


# ---- variables ---------------------------------------------------------------------------------------------


def _variables(spec: Mapping[str, Any], elements: list[_Element], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the variables that the context doesn't override."""
    values = {}
    for number, variable in enumerate(_list(spec, "variables")):
        name = variable.get("name") if isinstance(variable, Mapping) else None
        if not isinstance(name, str) or not name:
            raise GenerationError(f"variables.{number}: no name (found {found(name)}); write name and source")
        if name not in given:
            values[name] = _value(name, variable, elements)
    return values


def _value(name: str, variable: Mapping[str, Any], elements: list[_Element]) -> Any:
    """What the source of a variable leads to, or else its default."""
    try:
        return _sourced(variable.get("source"), elements)
    except GenerationError as error:
        if variable.get("default") is not None:
            return variable["default"]
        raise GenerationError(f"variable {name!r}: {error}") from None


def _sourced(source: object, elements: list[_Element]) -> Any:
    if not isinstance(source, str) or not source.startswith(_SOURCE):
        raise GenerationError(f"source must be elements.<name>.{_OUTPUT} (found {found(source)}); correct it")
    place = source.removeprefix(_SOURCE)
    # The whole is tried first: a name may hold dots of its own.
    element, field = _element(place, elements), _OUTPUT
    if element is None:
        name, _, field = place.rpartition(".")
        element = _element(name, elements)
    if element is None:
        name = name or place
        raise GenerationError(f"no element {name!r}{guess(name, _by_name(elements))}")
    if field not in element:
        raise GenerationError(f"element {element.get('name', place)!r} has no {field}{guess(field, element)}")
    return element[field]


def _element(word: str, elements: list[_Element]) -> _Element | None:
    """The element of that name, or else of that number."""
    named = _by_name(elements).get(word)
    if named is None and word.isdecimal() and len(word) < 10:
        return elements[int(word)] if int(word) < len(elements) else None
    return named
