"""Filters of Jinja2's that documents spend their time in, made faster: the same text for the same arguments."""

from __future__ import annotations

import functools
import itertools
import re
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

from jinja2 import filters as stock
from jinja2.utils import pass_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment

# White space that textwrap takes for something else than a space, or `str.strip` and it don't agree upon.
_odd_spaces = re.compile("[\t\x1f\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]").search


def _is_odd(text: str) -> bool:
    return "\t" in text or "\x1f" in text if text.isascii() else _odd_spaces(text) is not None


_KEPT_WORDS = 4096  # with a hyphen, where they may be cut


@pass_environment
def do_wordwrap(environment: Environment, s: Any, width: Any = 79, *options: Any, **more: Any) -> Any:
    """Jinja2's `wordwrap`: that one takes every line to pieces and puts them together, this one looks where to cut.

    What is out of the ordinary, in the text or in what is asked for, is left to Jinja2.
    """
    if type(s) is not str or type(width) is not int or width < 1 or options or more or _is_odd(s):
        return stock.do_wordwrap(environment, s, width, *options, **more)
    wrapped: list[str] = []
    for line in s.splitlines():
        if len(line) <= width:
            wrapped.append(line.rstrip(" "))
        elif line[0] == " " or not _wrap(line, width, wrapped):
            return stock.do_wordwrap(environment, s, width)
    return environment.newline_sequence.join(wrapped)


def _wrap(line: str, width: int, into: list[str]) -> bool:
    """Add the pieces of a line to `into`; False where a word is too long for the width."""
    start, size = 0, len(line)
    while size - start > width:
        stop = line.rfind(" ", start, start + width + 1)
        next_word = stop + 1 if stop >= 0 else start
        if line.find("-", next_word, start + width + 1) >= 0:
            stop = _last_cut(line, next_word, start + width) or stop
        if stop < 0:
            return False
        into.append(line[start:stop].rstrip(" "))
        start = stop
        while start < size and line[start] == " ":
            start += 1
    if start < size:
        into.append(line[start:].rstrip(" "))
    return True


def _last_cut(line: str, begin: int, end: int) -> int:
    """The last place after `begin`, and not after `end`, at which the word there may be cut; 0: there is none."""
    first = line.rfind(" ", 0, begin) + 1
    last = line.find(" ", begin)
    word = line[first:] if last < 0 else line[first:last]
    return max((first + cut for cut in _cuts(word) if begin < first + cut <= end), default=0)


@functools.lru_cache(_KEPT_WORDS)
def _cuts(word: str) -> tuple[int, ...]:
    """Where a word may be cut: textwrap's own rule, which says it of a whole text."""
    pieces = filter(None, TextWrapper.wordsep_re.split(word))
    return tuple(itertools.accumulate(map(len, pieces)))[:-1]


def do_indent(s: Any, width: Any = 4, *options: Any, **more: Any) -> Any:
    """Jinja2's `indent`, which looks at every line; most texts have no empty one, and then all are joined at once."""
    if type(s) is not str or type(width) is not int or options or more:
        return stock.do_indent(s, width, *options, **more)
    start, lines = "\n" + " " * width, (s + "\n").splitlines()
    if "" not in lines:
        return start.join(lines)
    return lines[0] + "".join([start + line if line else "\n" for line in lines[1:]])


FILTERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "indent": (stock.do_indent, do_indent),
    "wordwrap": (stock.do_wordwrap, do_wordwrap),
}
"""Jinja2's own and ours, by the names that templates know them by; ours are called alike, since errors say how."""
