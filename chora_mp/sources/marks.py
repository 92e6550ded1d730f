"""Marks: every so many bytes, the place, line and number of a record, so that any run of records can be cut."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

from chora_mp.records import Input, Span

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK_EVERY = 32 * 2**10
"""Bytes between marks: a worker reads past half of that on average before its span begins (some 10 µs)."""


class Marks:
    """Counts of `records` and `lines`, and for each mark its byte offset, line and record number (24 bytes a mark)."""

    __slots__ = ("line", "lines", "offset", "records", "seq")

    def __init__(self) -> None:
        self.records = 0
        self.lines = 0
        self.offset = array("q")
        self.line = array("q")
        self.seq = array("q")

    def mark(self, offset: int) -> None:
        """Note that the next record to be counted begins at `offset`."""
        self.offset.append(offset)
        self.line.append(self.lines)
        self.seq.append(self.records)

    def extend(self, other: Marks) -> None:
        """Append the marks of the part of the file that follows."""
        self.offset.extend(other.offset)
        self.line.extend(line + self.lines for line in other.line)
        self.seq.extend(seq + self.records for seq in other.seq)
        self.records += other.records
        self.lines += other.lines


class FileSpans:
    """Spans of a marked file, cut as large as asked for, in order; what comes back is handed out again first."""

    slow = 0.0

    def __init__(self, source: Input, marks: Marks) -> None:
        self._input = source
        self._marks = marks
        self._todo = deque([(0, marks.records)]) if marks.records else deque()
        self.left = marks.records

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records; None when all are handed out."""
        if not self._todo:
            return None
        start, end = self._todo.popleft()
        cut = min(end, start + count)
        if cut < end:
            self._todo.appendleft((cut, end))
        self.left -= cut - start
        return self._span(start, cut - start)

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take back spans that were not, or not wholly, dealt with; the first of them comes out next."""
        for span in reversed(list(spans)):
            self._todo.appendleft((span.seq, span.seq + span.count))
            self.left += span.count

    def _span(self, seq: int, count: int) -> Span:
        marks = self._marks
        index = bisect_right(marks.seq, seq) - 1
        # Marks on blank lines share a record number; the last of them is the nearest.
        return Span(self._input, seq, count, marks.offset[index], marks.line[index] + 1, seq - marks.seq[index])
