"""Exceptions become failures here: plain data, made where the traceback still knows the templates."""

from __future__ import annotations

import difflib
import functools
import sys
from typing import TYPE_CHECKING

import jinja2

from chora_mp.records import Failure

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    _Place = tuple[str, int | None]

# Bytes: a failure has to fit a message between processes.
_LONGEST_MESSAGE = 1500
_LONGEST_NAME = 200
_LONGEST_CHAIN = 10
_PLUGIN_MODULE = "chora_mp_plugin_"


def plugin_module_name(number: int, stem: str) -> str:
    """The name that a plug-in file's module goes by: its own, whatever else is called like the file."""
    return f"{_PLUGIN_MODULE}{number}_{stem}"


def failure_of(error: BaseException, prefix: str = "", names: Collection[str] = ()) -> Failure:
    """`error` as plain data.

    `prefix` leads the message, where something else than a template failed; `names` are the templates that there are.
    """
    # What `next()` raises inside a filter reaches us in Python's own wrapping, without the frames that tell.
    inner = error.__cause__ if isinstance(error.__cause__, StopIteration) else error
    chain, plugin = _places(inner.__traceback__)
    if isinstance(error, jinja2.TemplateSyntaxError) and error.name:
        chain.append((error.name, error.lineno))
    template, line = chain[-1] if chain else (None, None)
    return Failure(
        printable(type(error).__name__, _LONGEST_NAME),
        printable(prefix + _message(error, names), _LONGEST_MESSAGE),
        None if template is None else printable(template, _LONGEST_NAME),
        line,
        tuple(f"{printable(name, _LONGEST_NAME)}:{number}" for name, number in _shortened(chain + plugin)),
    )


def printable(text: str, most: int = sys.maxsize) -> str:
    """`text` without lone surrogates, so that every file can take it, and cut to `most` bytes of UTF-8."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data.decode()
    return data[: most - 3].decode(errors="ignore") + "…"


def did_you_mean(word: str, words: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no word comes near."""
    near = _nearest(word, tuple(words))
    return f"; did you mean {near!r}?" if near else ""


@functools.lru_cache(maxsize=64)
def _nearest(word: str, words: tuple[str, ...]) -> str | None:
    """The nearest of many words takes milliseconds to find, and ten thousand items may miss the same one."""
    return next(iter(difflib.get_close_matches(word, words, 1)), None)


def syntax_problem(error: jinja2.TemplateSyntaxError, path: str | None) -> str:
    """A syntax error as messages show it: `templates/page.md.j2:12: …`."""
    return f"{error.filename or path}:{error.lineno}: {error.message}"


def _message(error: BaseException, names: Collection[str]) -> str:
    if isinstance(error, jinja2.TemplatesNotFound) and len(error.templates) > 1:
        return f"none of the templates {', '.join(map(repr, error.templates))} exists"
    if isinstance(error, jinja2.TemplateNotFound):
        return f"no template {error.name!r}{did_you_mean(str(error.name), names)}"
    if isinstance(error, jinja2.TemplateSyntaxError):
        return str(error.message)
    try:
        return str(error) or repr(error)
    except BaseException:  # noqa: BLE001  (an exception's own __str__ may raise anything)
        return "its message cannot be shown"


def _places(traceback: TracebackType | None) -> tuple[list[_Place], list[_Place]]:
    """Templates and lines from the outermost to the innermost; the innermost place in a plug-in, if it came to that."""
    chain: list[_Place] = []
    plugin: list[_Place] = []
    while traceback is not None:
        names = traceback.tb_frame.f_globals
        template = names.get("__jinja_template__")
        if template is not None and template.name is not None:
            place = (template.name, template.get_corresponding_lineno(traceback.tb_lineno))
            if not chain or chain[-1] != place:
                chain.append(place)
            plugin = []
        elif str(names.get("__name__")).startswith(_PLUGIN_MODULE):
            plugin = [(names["__file__"], traceback.tb_lineno)]
        traceback = traceback.tb_next
    return chain, plugin


def _shortened(chain: list[_Place]) -> list[_Place]:
    """A runaway recursion's chain, cut in the middle."""
    if len(chain) <= _LONGEST_CHAIN:
        return chain
    return [*chain[:3], *chain[3 - _LONGEST_CHAIN :]]
