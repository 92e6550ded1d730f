"""Placeholders: `{{ name }}` and `{{ user.name }}` in a text, and what a context has for them.

The parts of a name are identifiers, or numbers: those of list items, from 0, or of a mapping's whole-number names.
What merely resembles a placeholder, such as `{{ 1 + 2 }}`, stays as it is.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from chora_mp.generators import GenerationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Undefined = Literal["error", "keep", "empty"]

_PLACEHOLDER = re.compile(r"\{\{[ \t]*([^\W\d]\w*(?:\.(?:[^\W\d]\w*|[0-9]{1,9}))*)[ \t]*\}\}")
_ESCAPE = re.compile(r"\\([ntr\\'\"])")
_MEANINGS = {"n": "\n", "t": "\t", "r": "\r"}
_BEHAVIORS: dict[str, Undefined] = {"error": "error", "keep": "keep", "empty": "empty", "strict": "error"}
_MOST_TEMPLATES = 512  # that are kept in pieces
_GUESSED = 1000  # names that are looked through for the one that was meant
_SHOWN = 10  # names in a message


class _Placeholder(NamedTuple):
    """A placeholder: its name in parts, its own text, and the line that it stands on."""

    path: tuple[str, ...]
    text: str
    line: int


def fill(
    template: str,
    context: Mapping[str, Any],
    undefined: Undefined = "error",
    *,
    escapes: bool = False,
    show: Callable[[Any], str] = str,
) -> str:
    """`template` with what `context` has for its placeholders, each as `show` writes it; values are never filled.

    What the context lacks, or has as None, is `undefined`: kept as it is written, empty, or a `GenerationError`.
    With `escapes`, those in the template's own text become what they stand for.
    """
    if not escapes and "{{" not in template:
        return template
    return "".join(
        [
            piece if isinstance(piece, str) else _filled(piece, context, undefined, show)
            for piece in _pieces(template, escapes)
        ]
    )


def settings_of(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `generation_config` of a pattern, empty if there is none; raises `GenerationError`."""
    settings = spec.get("generation_config")
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise GenerationError(f"generation_config: must be a mapping (found {found(settings)}); write names and values")
    return settings


def undefined_behavior(settings: Mapping[str, Any]) -> Undefined:
    """What `undefined_behavior` says, which is `error` if it says nothing; raises `GenerationError`."""
    value = settings.get("undefined_behavior")
    if value is None:
        return "error"
    if isinstance(value, str) and value in _BEHAVIORS:
        return _BEHAVIORS[value]
    near = guess(value, _BEHAVIORS) if isinstance(value, str) else ""
    what = f"undefined_behavior: must be error, keep or empty (found {found(value)})"
    raise GenerationError(f"{what}{near or '; write one of these'}")


def guess(word: str, names: Iterable[object]) -> str:
    """`; did you mean 'x'?`, or nothing where no name comes near."""
    from chora_mp.failures import did_you_mean  # noqa: PLC0415  (it brings Jinja2, which only mistakes need)

    return did_you_mean(word, [str(name) for name in itertools.islice(names, _GUESSED)])


def found(value: object) -> str:
    """What was found in a place, for a message: short text and numbers as they are, anything else by its type."""
    if value is None or isinstance(value, (str, int, float)):
        shown = repr(value)
        return shown if len(shown) <= 60 else f"{shown[:57]}…"
    return type(value).__name__


@functools.lru_cache(maxsize=_MOST_TEMPLATES)
def _pieces(template: str, escapes: bool) -> tuple[str | _Placeholder, ...]:
    """The template's own text and its placeholders, in order.

    Escapes are looked for in the pieces, so that lines are counted as they are written.
    """
    pieces: list[str | _Placeholder] = []
    line, end = 1, 0
    for match in _PLACEHOLDER.finditer(template):
        text = template[end : match.start()]
        line += text.count("\n")
        pieces += (_unescaped(text) if escapes else text, _Placeholder(tuple(match[1].split(".")), match[0], line))
        end = match.end()
    text = template[end:]
    return (*pieces, _unescaped(text) if escapes else text)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _MEANINGS.get(match[1], match[1]), text)


def _filled(
    placeholder: _Placeholder, context: Mapping[str, Any], undefined: Undefined, show: Callable[[Any], str]
) -> str:
    value: Any = context
    for part in placeholder.path:
        value = _inner(value, part)
        if value is None:
            if undefined == "error":
                raise _problem(placeholder, context)
            return placeholder.text if undefined == "keep" else ""
    return show(value)


def _inner(value: Any, part: str) -> Any:
    """What a mapping or list has under a part of a name, or None."""
    if isinstance(value, (dict, Mapping)):  # a dict is told at once, another mapping slowly
        inner = value.get(part)
        return value.get(int(part)) if inner is None and part.isdecimal() else inner
    if isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    return None


def _problem(placeholder: _Placeholder, context: Mapping[str, Any]) -> GenerationError:
    """What to say of a placeholder that has no value: how far its name leads, and what there is."""
    level: Any = context
    known: list[str] = []
    for part in placeholder.path:
        inner = _inner(level, part)
        if inner is None:
            break
        level = inner
        known.append(part)
    hint = _hint(placeholder.path[len(known)], level, ".".join(known))
    return GenerationError(f"line {placeholder.line}: undefined variable {'.'.join(placeholder.path)!r}{hint}")


def _hint(part: str, level: Any, where: str) -> str:
    if isinstance(level, Mapping):
        if part in level:
            return " (found null); give it a value"
        names = [str(name) for name, value in itertools.islice(level.items(), _GUESSED) if value is not None]
        return guess(part, names) or f"; there is {_listed(names)}"
    if isinstance(level, (list, tuple)):
        return f"; {where!r} is a list of {len(level)}, counted from 0"
    return f"; {where!r} has no names in it (found {found(level)})"


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown}, …"
