"""A sample of a job's records, with a source of its own: a run of it costs what the sample costs, and no more.

A shard would not do: to know a record's shard is to read it, so every run would read, parse and key all records, and
where the sample is small that would be most of what is measured.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chora_mp.errors import SourceError
from chora_mp.sources import jsonl, spool, spooling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.job import Job, Source

MOST_BYTES = 64 * 2**20
"""What is kept of a source to take samples from; to render as much takes longer than anybody wants to wait."""

_HEADER = struct.Struct("<QI")  # the record's number, length of what follows
_TURN = 2**64
_GOLDEN = 0x9E3779B97F4A7C15  # of a turn; see `_place`
_READER = """\
import os
from chora_mp.sources.spool import parse, read_frames

def records():
    with open(os.path.join(os.path.dirname(__file__), "sample"), "rb") as file:
        for _, payload in read_frames(file, 0):
            record = parse(payload)
            yield record if type(record) is dict else None
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a source: `path` of the file, `total` records of the source, `share` of them kept (1: all).

    `seconds`: how long it took to go through the source.
    """

    path: str
    total: int
    share: float
    seconds: float


def keep(job: Job, path: str, most: int = MOST_BYTES) -> Kept:
    """Go through the job's source once, and keep a share of its records, evenly spread, of at most `most` bytes.

    Raises `SourceError` where the source cannot be read.
    """
    assert job.source is not None  # noqa: S101  (asked for by the caller)
    started, total, size, limit = time.monotonic(), 0, 0, _TURN
    kept: dict[int, bytes] = {}
    for total, record in enumerate(_raw(job, job.source), 1):
        if _place(total) < limit:
            kept[total] = record
            size += len(record)
        while size > most and len(kept) > 1:
            limit //= 2
            kept = {number: one for number, one in kept.items() if _place(number) < limit}
            size = sum(map(len, kept.values()))
    with open(path, "wb") as file:
        file.writelines(_HEADER.pack(number, len(one)) + one for number, one in kept.items())
    return Kept(path, total, limit / _TURN, time.monotonic() - started)


def sample(source: Source, kept: Kept, records: int, folder: str) -> tuple[Source, int]:
    """A source of about so many of the records that were kept, in their order, and how many they are.

    It has its files in `folder`, which is made.
    """
    os.mkdir(folder)
    path = os.path.join(folder, "sample")
    limit = round(_TURN * records / max(1, kept.total))
    count = 0
    with open(path, "wb") as file:
        for number, record in _stored(kept.path):
            if _place(number) < limit or records >= kept.total:
                file.write(record)
                count += 1
    if is_lines(source):
        return replace(source, path=Path(path)), count
    reader = os.path.join(folder, "sample_source.py")
    with open(reader, "w", encoding="utf-8") as file_of_reader:
        file_of_reader.write(_READER)
    return replace(source, format="python", path=None, python=(reader, "records"), gzip=False), count


def _place(number: int) -> int:
    """Where a record is on the circle on which each is a golden section further than the one before.

    Those in any arc of it are spread over the source as evenly as can be, and fall in step with no period of it.
    """
    return number * _GOLDEN % _TURN


def _raw(job: Job, source: Source) -> Iterator[bytes]:
    """The records as a sample's file has them: lines, or frames of a spool."""
    if is_lines(source):
        yield from _lines(source)
        return
    if source.python:
        sys.path.insert(0, str(job.folder))  # a module may lie beside the job file
    for line, record in spooling.read_entries(source):
        yield spool.frame(line, record)


def _lines(source: Source) -> Iterator[bytes]:
    try:
        with open(str(source.path), "rb") as file:
            for _, text in jsonl.read_lines(file, 1, 0):
                yield text if text.endswith(b"\n") else text + b"\n"
    except OSError as error:
        raise SourceError(f"{source.name}: cannot be read: {error.strerror or error}") from None


def is_lines(source: Source) -> bool:
    """Whether a source can be cut as it stands, and a sample of it is lines of it."""
    return source.format == "jsonl" and not source.gzip


def _stored(path: str) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        while header := file.read(_HEADER.size):
            number, length = _HEADER.unpack(header)
            yield number, file.read(length)
