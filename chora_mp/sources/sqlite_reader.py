"""Records from an SQLite database: the rows of one query, which may read and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from chora_mp.errors import SourceError
from chora_mp.records import BadRecord
from chora_mp.sources.shapes import listed
from chora_mp.sources.text import path_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair, Record


class _Undecodable(bytes):
    """A text of the database that is not valid UTF-8."""


def read(source: Source) -> Iterator[Pair]:
    """Number, from 1, and record of each row of the query; values have the types that they have there."""
    path = path_of(source)
    with path.open("rb"):
        pass  # the operating system says what SQLite sums up as "unable to open database file"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.text_factory = _text
            database.set_authorizer(_allow)
            yield from _rows(source, database)
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
        raise SourceError(f"{source.name}: query: {error}; correct the query or the file") from error


def _rows(source: Source, database: sqlite3.Connection) -> Iterator[Pair]:
    """The rows, streamed."""
    cursor = database.execute(source.query or "")
    names = _names(source, cursor)
    for number, row in enumerate(cursor, 1):
        yield number, _record(names, row)


def _names(source: Source, cursor: sqlite3.Cursor) -> list[str]:
    """The names of the columns; raises `SourceError` where there are none or two are the same."""
    names = [column[0] for column in cursor.description or ()]
    if not names:
        raise SourceError(f"{source.name}: query: gives no rows (found {source.query!r}); write a SELECT")
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    if twice:
        raise SourceError(f"{source.name}: query: names {listed(twice)} more than once; tell columns apart with AS")
    return names


def _record(names: list[str], row: tuple[Any, ...]) -> Record:
    """The row under the names of its columns."""
    for name, value in zip(names, row, strict=True):
        if type(value) is _Undecodable:
            return BadRecord(
                "UnicodeDecodeError",
                f"column {name!r} is not valid utf-8 (found {bytes(value[:40])!r}); store a blob",
            )
    return dict(zip(names, row, strict=True))


def _text(data: bytes) -> str | bytes:
    """A text of the database; marked where it doesn't decode, so that only its row is lost."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _Undecodable(data)


def _allow(action: int, *_: object) -> int:
    """Refuses other files: `mode=ro` covers only the database, not what ATTACH and VACUUM INTO write."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
