"""The plan: what is to be rendered. For now that is every record; where they are is found out on the lane."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chora_mp.errors import SourceError
from chora_mp.records import Input
from chora_mp.sources import jsonl
from chora_mp.sources.marks import FileSpans, Marks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.crew import Crew
    from chora_mp.dispatch import Spans
    from chora_mp.job import Source

_PIECE = 2**24  # bytes of a JSONL file scanned in one task: its marks fit one message (512 × 24 bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do: the `spans` to render and how many records they hold (None: nobody knows yet)."""

    spans: Spans
    total: int | None


def make_plan(source: Source, crew: Crew, scratch: str) -> Plan:
    """Find the records of `source`, with the workers' help; the coordinator never reads them.

    Raises `SourceError` where the source cannot be read as a whole, `OutputError` where its spool cannot be written.
    """
    if source.format == "jsonl" and not source.gzip:
        found, marks = _scan(source, crew)
    else:
        found, marks = _spool(source, crew, scratch)
    spans = FileSpans(found, marks)
    return Plan(spans, spans.left)


def _scan(source: Source, crew: Crew) -> tuple[Input, Marks]:
    path = str(source.path)
    try:
        stamp = jsonl.stamp(path)
        if not os.path.isfile(path):
            raise SourceError(f"{source.name}: is not a file")
    except OSError as error:
        raise SourceError(f"{source.name}: cannot be read: {error.strerror}") from None
    marks = Marks()
    for piece in _pieces(crew, path, stamp[0]):
        marks.extend(piece)
    return Input(path, spooled=False, name=source.name, stamp=stamp), marks


def _pieces(crew: Crew, path: str, size: int) -> Iterator[Marks]:
    """The marks of a file's pieces, in order, scanned by as many workers as there is work for."""
    tasks = [("scan", path, start, min(start + _PIECE, size)) for start in range(0, size, _PIECE)]
    yield from crew.ask_all(tasks)


def _spool(source: Source, crew: Crew, scratch: str) -> tuple[Input, Marks]:
    path = os.path.join(scratch, "spool")
    crew.ask("spool", source, path)
    # What a callable imported and what a parser has built is nothing that should stay in a worker.
    crew.renew()
    with open(path + ".marks", "rb") as file:
        marks: Marks = pickle.load(file)
    return Input(path, spooled=True, name=source.name), marks
