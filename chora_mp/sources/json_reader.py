"""Records from a JSON document, one element after the other: memory holds an element, not the file."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from chora_mp.errors import SourceError
from chora_mp.records import BadRecord
from chora_mp.sources.shapes import as_record, kind, no_such_name, no_way, not_a_list
from chora_mp.sources.text import open_text, undecodable, undecoded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair

CHUNK = 1 << 16  # characters read at a time; from 32 Ki to 1 Mi no difference in speed was measured

_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST = 16  # more than the longest thing that reads differently when it is cut: `-Infinity`, `\ud83d\ude00`
_decode = json.JSONDecoder().raw_decode
_decode_any_digits = json.JSONDecoder(parse_int=len).raw_decode


def read(source: Source, chunk: int = CHUNK) -> Iterator[Pair]:
    """Line and record of each element of the top-level list, or of the list that `records` names."""
    with open_text(source) as file:
        scan = _Scanner(source, file, chunk)
        if not scan.peek():
            raise SourceError(f"{source.name}: is empty; write [] where there are no records")
        yield from _records(scan, source, 0)
        if scan.peek():
            raise scan.error("Extra data")


def _records(scan: _Scanner, source: Source, depth: int) -> Iterator[Pair]:
    """The records below the value that the scanner is at, `depth` names of `records` from the top."""
    if depth == len(source.records):
        yield from _elements(scan, source)
        return
    if scan.peek() != "{":
        raise no_way(source, depth, scan.kind())
    seen: dict[str, None] = {}
    for key in scan.names():
        if key != source.records[depth]:
            scan.skip()
        elif key in seen:
            raise scan.error(f"{key!r} is there twice")
        else:
            yield from _records(scan, source, depth + 1)
        seen[key] = None
    if source.records[depth] not in seen:
        raise no_such_name(source, depth, seen)


def _elements(scan: _Scanner, source: Source) -> Iterator[Pair]:
    """The elements of the list that the scanner is at."""
    if scan.peek() != "[":
        raise _no_list(scan, source)
    for _ in scan.members("[", "]"):
        line = scan.line_here()
        yield line, as_record(scan.value())


def _no_list(scan: _Scanner, source: Source) -> SourceError:
    """Why there are no elements where the scanner is, naming the lists that stand nearby."""
    if scan.peek() != "{":
        return not_a_list(source, scan.kind())
    lists = []
    for key in scan.names():
        if scan.peek() == "[":
            lists.append(key)
        scan.skip()
    if not source.records and scan.peek() == "{":
        return SourceError(f"{source.name}: holds one mapping after the other, not a list; set format: jsonl")
    return not_a_list(source, "a mapping", lists)


class _Scanner:
    """A place in a JSON text of which only a window is in memory.

    `_text` is the window, `_at` the place in it; `_line` and `_column` (from 1, in the file) are those of
    `_mark`, a place at or before `_at`.
    """

    def __init__(self, source: Source, file: TextIO, chunk: int) -> None:
        self._source, self._file, self._chunk = source, file, chunk
        self._text, self._ended = "", False
        self._at = self._mark = 0
        self._line = self._column = 1

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def line_here(self) -> int:
        """The line, from 1, of what comes next."""
        self.peek()
        self._move_mark(self._at)
        return self._line

    def value(self) -> Any:
        """Takes the next value; `BadRecord` for one with an integer that Python refuses to read."""
        closes_itself = self.peek() in {"{", "[", '"'}
        while True:
            try:
                value, end = self._decoded()
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error):
                    raise self.error(error.msg, error.pos) from None
            except RecursionError:
                raise self.error("nested too deeply", self._at) from None
            else:
                # `12` may be the start of `1234`, and the `1` of `1e5` reads well when cut before the `5`.
                if closes_itself or self._ended or end + _LONGEST < len(self._text):
                    self._at = end
                    return value
            self._read_on()

    def kind(self) -> str:
        """Takes the next value and says what it is."""
        return {"{": "a mapping", "[": "a list"}.get(self.peek()) or kind(self.value())

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Takes a list or mapping: stops before each member, which the caller takes."""
        self._take(opening)
        if self.peek() != closing:
            yield
            while self.peek() != closing:
                self._take(",")
                yield
        self._take(closing)

    def names(self) -> Iterator[str]:
        """Takes a mapping: gives each key and stops before its value, which the caller takes."""
        for _ in self.members("{", "}"):
            if self.peek() != '"':
                raise self.error("Expecting property name enclosed in double quotes")
            key = self.value()
            self._take(":")
            yield key

    def skip(self) -> None:
        """Takes the next value without keeping it; a long list element by element."""
        if self.peek() != "[":
            self.value()
            return
        for _ in self.members("[", "]"):
            self.value()

    def error(self, message: str, at: int | None = None) -> SourceError:
        """The error that says `message` of place `at` in the window, or else of the next character."""
        if at is None:
            self.peek()
        self._move_mark(self._at if at is None else at)
        place = f"{self._source.name}:{self._line}:{self._column}"
        return SourceError(f"{place}: not valid JSON: {message}; correct the file there")

    def _take(self, character: str) -> None:
        """Goes past a character that must come next."""
        if self.peek() != character:
            raise self.error(f"Expecting {character!r}" + " delimiter" * (character in ",:"))
        self._at += 1

    def _decoded(self) -> tuple[Any, int]:
        """The value in the window and where it ends, as far as it can be seen."""
        try:
            return _decode(self._text, self._at)
        except json.JSONDecodeError:
            raise
        except ValueError:  # CVE-2020-10735: Python reads no integer of more than 4,300 digits
            _, end = _decode_any_digits(self._text, self._at)
            most = sys.get_int_max_str_digits()
            return BadRecord("ValueError", f"an integer has more than {most} digits; write it as a string"), end

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether a value that doesn't read may be whole once more of the file is there."""
        if self._ended:
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST

    def _read_on(self) -> None:
        """Forgets what has been taken and reads on.

        Reads as much again as is held, so that the attempts at a value of n characters cost O(n) together.
        """
        self._move_mark(self._at)
        held = self._text[self._at :]
        new = self._file.read(max(self._chunk, len(held)))
        self._text, self._ended = held + new, not new
        self._at = self._mark = 0
        bad = undecodable(new)
        if bad is not None:
            self._move_mark(len(held) + bad)
            place = f"{self._source.name}:{self._line}:{self._column}"
            raise SourceError(f"{place}: {undecoded(self._source, new[bad])}")

    def _move_mark(self, at: int) -> None:
        """Counts lines and columns up to `at`."""
        newlines = self._text.count("\n", self._mark, at)
        if newlines:
            self._line += newlines
            self._column = at - self._text.rindex("\n", self._mark, at)
        else:
            self._column += at - self._mark
        self._mark = at
