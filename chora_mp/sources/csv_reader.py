"""Records from delimited text: the first row names the fields, each further row is a record."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from chora_mp.errors import SourceError
from chora_mp.records import BadRecord
from chora_mp.sources.shapes import listed
from chora_mp.sources.text import open_text, undecodable, undecoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair, Record

_LONGEST_FIELD = (1 << 31) - 1  # characters; the most that `csv` takes where a C long has 32 bits


def read(source: Source) -> Iterator[Pair]:
    """Line on which it starts and record of each row; blank lines are passed over."""
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(source, newline="") as file:
        rows = _rows(source, file)
        header = _header(source, rows)
        for line, row in rows:
            yield line, row if isinstance(row, BadRecord) else _record(source, header, row)


def _rows(source: Source, file: Iterator[str]) -> Iterator[tuple[int, list[str] | BadRecord]]:
    """Line and fields of each row, or what is wrong with it."""
    try:
        reader = csv.reader(file, delimiter=source.delimiter, strict=True)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{source.name}: delimiter: {error} (found {source.delimiter!r}); set another") from None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRecord("CSVError", f"row is not valid CSV: {error}; check its quotes")
        else:
            if row:
                yield line, row


def _header(source: Source, rows: Iterator[tuple[int, list[str] | BadRecord]]) -> list[str]:
    """The names of the fields; none for an empty file. Raises `SourceError` where two are the same."""
    line, names = next(rows, (1, []))
    where = f"{source.name}:{line}"
    if isinstance(names, BadRecord):
        raise SourceError(f"{where}: the header is wrong: {names.message}")
    bad = undecodable("".join(names))
    if bad is not None:
        raise SourceError(f"{where}: {undecoded(source, ''.join(names)[bad])}")
    if "" in names:
        raise SourceError(f"{where}: column {names.index('') + 1} has no name; name it in the header")
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    if twice:
        raise SourceError(f"{where}: the header names {listed(twice)} more than once; rename the columns")
    return names


def _record(source: Source, header: list[str], row: list[str]) -> Record:
    """The row under the names of the header."""
    if len(row) != len(header):
        fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
        return BadRecord("RecordError", f"row has {fields}, the header has {len(header)}")
    for name, field in zip(header, row, strict=True):
        bad = undecodable(field)
        if bad is not None:
            return BadRecord("UnicodeDecodeError", f"field {name!r} is {undecoded(source, field[bad])}")
    return dict(zip(header, row, strict=True))
