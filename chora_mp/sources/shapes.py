"""The shape that records must have, and what messages say where it is another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from chora_mp.errors import SourceError
from chora_mp.records import BadRecord

if TYPE_CHECKING:
    from chora_mp.job import Source

Record = Mapping[str, Any] | BadRecord
Pair = tuple[int | None, Record]

_SHOWN = 8  # names listed in a message; beyond that nobody reads on


def kind(value: object) -> str:
    """What a value is in the words of JSON and YAML: `a list`, `a string`, `true`, `null`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    for types, word in (
        (Mapping, "a mapping"),
        (list, "a list"),
        (str, "a string"),
        ((int, float), "a number"),
    ):
        if isinstance(value, types):
            return word
    return f"a value of type {type(value).__name__}"


def as_record(value: Any) -> Record:
    """The value as a record, or what stands in its place: a record is a mapping whose keys are strings."""
    if isinstance(value, BadRecord):
        return value
    if not isinstance(value, Mapping):
        return BadRecord("RecordError", f"record is not a mapping (found {kind(value)}); write names and values")
    record = value if isinstance(value, dict) else dict(value)
    for key in record:
        if not isinstance(key, str):
            return BadRecord("RecordError", f"key {key!r} is not a string (found {kind(key)}); put it in quotes")
    return record


def record_of(value: Any) -> Record:
    """The same of a value that somebody's code made: its own methods may fail, and then it is no record."""
    try:
        return as_record(value)
    except Exception as error:  # noqa: BLE001  (a mapping of the user's may raise anything)
        try:
            text = str(error)
        except Exception as broken:  # noqa: BLE001
            text = f"(its text can't be had: {type(broken).__name__})"
        return BadRecord(type(error).__name__, f"record can't be read: {text}")


def listed(names: Iterable[str]) -> str:
    """`'a', 'b', 'c'`, cut short where there are many."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def suggestion(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?`, or else the names that there are."""
    names = list(names)
    close = get_close_matches(name, names, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of {listed(names)}" if names else "there is nothing to choose from"


def not_a_list(source: Source, found: str, lists: Iterable[str] = ()) -> SourceError:
    """Where the list of records should be there is something else; `lists` names lists that it holds."""
    place = f"records: {_dotted(source.records)!r}" if source.records else "its top level"
    ways = [_dotted((*source.records, name)) for name in lists]
    advice = (
        f"set records: to {'one of ' * (len(ways) > 1)}{listed(ways)}" if ways else "write a list of mappings there"
    )
    return SourceError(f"{source.name}: {place} is {found}, not a list; {advice}")


def no_way(source: Source, depth: int, found: str) -> SourceError:
    """`records:` goes on into something that is no mapping, `depth` names from the top."""
    advice = f"set records: to {_dotted(source.records[:depth])!r}" if depth else "leave records: out"
    return SourceError(
        f"{source.name}: records: {_dotted(source.records)!r} leads nowhere "
        f"({_level(source, depth)} is {found}); {advice}"
    )


def no_such_name(source: Source, depth: int, names: Iterable[str]) -> SourceError:
    """The mapping `depth` names from the top holds `names`, but not the next of `records:`."""
    names = list(names)
    start, rest = source.records[:depth], source.records[depth + 1 :]
    ways = {name: _dotted((*start, name, *rest)) for name in get_close_matches(source.records[depth], names, 1)}
    advice = f"did you mean {next(iter(ways.values()))!r}?" if ways else "name the list that holds the records"
    return SourceError(
        f"{source.name}: records: {_dotted(source.records)!r} leads nowhere "
        f"({_level(source, depth)} has {listed(names) or 'no names'}); {advice}"
    )


def list_inside(source: Source, document: object) -> list[Any]:
    """The list of records in a document that is all in memory; raises `SourceError` where there is none."""
    inside = document
    for depth, name in enumerate(source.records):
        if not isinstance(inside, Mapping):
            raise no_way(source, depth, kind(inside))
        if name not in inside:
            raise no_such_name(source, depth, map(str, inside))
        inside = inside[name]
    if not isinstance(inside, list):
        holder = inside if isinstance(inside, Mapping) else {}
        raise not_a_list(source, kind(inside), [name for name, value in holder.items() if isinstance(value, list)])
    return inside


def _dotted(names: Iterable[str]) -> str:
    """A path of names as job files spell it."""
    return ".".join(names)


def _level(source: Source, depth: int) -> str:
    """How messages call the mapping that is `depth` names of `records:` from the top."""
    return repr(_dotted(source.records[:depth])) if depth else "the top level"
