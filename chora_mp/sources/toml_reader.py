"""Records from a list of tables inside a TOML document; TOML has no lists at the top."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from chora_mp.errors import SourceError
from chora_mp.sources.shapes import as_record, list_inside
from chora_mp.sources.text import open_text, undecodable, undecoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read(source: Source) -> Iterator[Pair]:
    """Line (where it can be told) and record of each table of the list that `records` names."""
    with open_text(source, newline="") as file:
        text = file.read()
    tables = list_inside(source, _document(source, text))
    for line, table in zip(_lines(source, text, len(tables)), tables, strict=True):
        yield line, as_record(table)


def _document(source: Source, text: str) -> dict[str, Any]:
    """The document; raises `SourceError` with line and column where the text is none."""
    bad = undecodable(text)
    if bad is not None:
        line = text.count("\n", 0, bad) + 1
        raise SourceError(f"{source.name}:{line}: {undecoded(source, text[bad])}")
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also raised, bare, for integers of more than 4,300 digits
        raise _invalid(source, text, str(error)) from None
    except RecursionError:
        raise _invalid(source, text, "nested too deeply") from None


def _invalid(source: Source, text: str, message: str) -> SourceError:
    """The error with the place moved from the end of tomllib's message to its start."""
    place, found = "", _PLACE.search(message)
    if found:
        message = message[: found.start()]
        place = f":{found[1]}:{found[2]}" if found[1] else f":{max(len(text.splitlines()), 1)}"
    return SourceError(f"{source.name}{place}: not valid TOML: {message}; correct the file there")


def _lines(source: Source, text: str, count: int) -> list[int] | list[None]:
    """The lines of the `[[headers]]` of the tables.

    tomllib doesn't tell. A header that stands in a string, or a list that is written as a value, gives
    another number of matches than of tables, and no lines.
    """
    dot = r"[ \t]*\.[ \t]*"
    name = dot.join(rf"(?:{re.escape(part)}|\"{re.escape(part)}\"|'{re.escape(part)}')" for part in source.records)
    headers = list(re.finditer(rf"^[ \t]*\[\[[ \t]*{name}[ \t]*\]\]", text, re.MULTILINE))
    if len(headers) != count:
        return [None] * count
    line, at, lines = 1, 0, []
    for header in headers:
        line, at = line + text.count("\n", at, header.start()), header.start()
        lines.append(line)
    return lines
