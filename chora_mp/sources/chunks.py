"""Chunks: runs of records that a file is cut into by its content, so that what did not change is known again.

Where a chunk ends depends on the bytes near its end alone. A record that is changed, added or removed makes one chunk
another, or two; those behind it come out as they were, wherever in the file they stand then. (The idea is that of
content-defined chunking, as in rsync and restic.) Chunks are also where reading can begin: spans are cut from them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING
from zlib import crc32

from chora_mp.records import Input, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chora_mp.records import Outcome

LEAST_BYTES = 2**13
MOST_BYTES = 2**16
PIECE_BYTES = 2**22
"""What one worker scans in one task."""

MOST_RECORDS = 2**16
"""A record's place in the ledger is its chunk's number times this, plus its place in the chunk."""

_MEAN_SHIFT = 32 - 14  # beyond the least, a chunk goes on for 16 KiB on average
_TAIL = 128
_MOST_GAP = 512  # records; beyond that another span costs less than passing over them


def digest(data: bytes) -> bytes:
    """The digest of a record or a chunk: BLAKE2b-128."""
    return blake2b(data, digest_size=16).digest()


def storable(text: str) -> str:
    """`text` as a database takes it: lone surrogates, which no file can hold, spelled out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def ends_chunk(raw: bytes, held: int) -> bool:
    """Whether a chunk of `held` bytes ends with this record; the longer the record, the likelier."""
    size = len(raw)
    if held < LEAST_BYTES:
        return False
    sample = raw if size <= 2 * _TAIL else raw[:_TAIL] + raw[-_TAIL:]
    return held >= MOST_BYTES or crc32(sample) < size << _MEAN_SHIFT


class Chunks:
    """Where the chunks of a file begin: each one's `number`, byte `offset`, line and record, both from 0.

    32 bytes of memory a chunk, which is some 24 KiB of the file.
    """

    __slots__ = ("line", "number", "offset", "records", "seq")

    def __init__(self) -> None:
        self.records = 0
        self.number = array("q")
        self.offset = array("q")
        self.line = array("q")
        self.seq = array("q")

    def add(self, number: int, offset: int, line: int, records: int) -> None:
        """Append a chunk of so many records."""
        self.number.append(number)
        self.offset.append(offset)
        self.line.append(line)
        self.seq.append(self.records)
        self.records += records

    def index(self, seq: int) -> int:
        """Which chunk a record is in. Of chunks with the same first record, which hold blank lines, the last."""
        return bisect_right(self.seq, seq) - 1

    def at(self, index: int) -> int:
        """What added to a record's number gives its place in the ledger, for the records of one chunk."""
        return self.number[index] * MOST_RECORDS - self.seq[index]

    def shifts(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Where the records from `start` to `end` (exclusive) stand in the ledger, as a span has it."""
        chunks = range(self.index(start), self.index(end - 1) + 1)
        return tuple((self.seq[index], self.at(index)) for index in chunks)


class FileSpans:
    """Spans of a chunked file, cut as large as asked for, in order; what comes back is handed out again first.

    `picks` holds a byte for every record, 1 for those to render; None: all.
    """

    slow = 0.0

    def __init__(
        self,
        source: Input,
        chunks: Chunks,
        picks: bytes | bytearray | None = None,
        within: tuple[int, int] | None = None,
    ) -> None:
        """`within`: the first of the records that this supply is about, and the one after the last; None: all."""
        self._input = source
        self._chunks = chunks
        self._picks = picks
        start, end = within or (0, chunks.records)
        self._todo: deque[tuple[int, int]] = deque([(start, end)])
        self.left = end - start if picks is None else picks.count(1, start, end)

    def release(self, seq: int) -> None:
        """Hand out one more record, after all others."""
        self._todo.append((seq, seq + 1))
        self.left += 1

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records to render; None when all are handed out."""
        while self._todo:
            start, end = self._todo.popleft()
            start, cut = self._cut(start, end, count)
            if cut < end:
                self._todo.appendleft((cut, end))
            if start < cut:
                span = self._span(start, cut)
                self.left -= span.size
                return span
        return None

    def one(self, seq: int) -> Span:
        """A span of one record, whether it is picked or not; nobody is to give it back."""
        return replace(self._span(seq, seq + 1), picks=None)

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take back spans that were not, or not wholly, dealt with; the first of them comes out next."""
        for span in reversed(list(spans)):
            self._todo.appendleft((span.seq, span.seq + span.count))
            self.left += span.size

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Nothing: what is done is nobody's concern here."""

    def _cut(self, start: int, end: int, count: int) -> tuple[int, int]:
        """The stretch that holds the next `count` picked records of `start` to `end`, up to a long gap; empty: none."""
        picks = self._picks
        if picks is None:
            return start, min(end, start + count)
        start = picks.find(1, start, end)
        if start < 0:
            return end, end
        if picks.find(0, start, min(end, start + count)) < 0:
            return start, min(end, start + count)
        cut = start + 1
        for _ in range(count - 1):
            following = picks.find(1, cut, min(end, cut + _MOST_GAP))
            if following < 0:
                break
            cut = following + 1
        return start, cut

    def _span(self, start: int, end: int) -> Span:
        chunks, index = self._chunks, self._chunks.index(start)
        picks = None
        if self._picks is not None and self._picks.find(0, start, end) >= 0:
            picks = bytes(self._picks[start:end])
        skip = start - chunks.seq[index]
        line, offset = chunks.line[index] + 1, chunks.offset[index]
        return Span(self._input, start, end - start, offset, line, skip, None, picks, chunks.shifts(start, end))
