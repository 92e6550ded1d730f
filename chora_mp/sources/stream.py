"""Spans of an iterable that the caller owns: it may be endless, so the records travel inside the spans."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from chora_mp.records import Input, Span
from chora_mp.sources.shapes import record_of
from chora_mp.sources.spool import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.records import Outcome

# A span leaves as soon as it holds this much or took this long to fill: first results do not wait for a slow source.
_MOST_BYTES = 2**20
_MOST_SECONDS = 0.02


class StreamSpans:
    """Spans of `records`, pulled only when asked for; `left` is None as long as there may be more."""

    def __init__(self, records: Iterable[Any], first: int = 0) -> None:
        """`first`: the first record's place in the ledger."""
        self._records: Iterator[Any] = iter(records)
        self._input = Input("", spooled=True, name="records")
        self._returned: deque[Span] = deque()
        self._seq = 0
        self._shifts = ((0, first),)
        self._error: Exception | None = None
        self._ended = False
        self.slow = 0.0

    @property
    def left(self) -> int | None:
        """Records still to be handed out; None while the iterable has not ended."""
        return sum(span.count for span in self._returned) if self._ended else None

    def take(self, count: int) -> Span | None:
        """The next span, of at most `count` records; None when all are handed out. Raises what the iterable raises."""
        if self._returned:
            span = self._returned.popleft()
            if span.count > count:
                self._returned.appendleft(span.after(count))
            return span.first(min(count, span.count))
        if self._error:
            error, self._error, self._ended = self._error, None, True
            raise error
        frames = [] if self._ended else self._pull(count)
        if not frames:
            return None
        span = Span(self._input, self._seq, len(frames), data=b"".join(frames), shifts=self._shifts)
        self._seq += len(frames)
        return span

    def give_back(self, spans: Iterable[Span]) -> None:
        """Take back spans that were not, or not wholly, dealt with; the first of them comes out next."""
        self._returned.extendleft(reversed(list(spans)))

    def completed(self, span: Span, outcome: Outcome, pending: Callable[[int], bool]) -> None:
        """Nothing: what is done is nobody's concern here."""

    def _pull(self, count: int) -> list[bytes]:
        frames: list[bytes] = []
        size, start = 0, time.monotonic()
        self.slow = 0.0
        while len(frames) < count and size < _MOST_BYTES and not self.slow:
            try:
                value = next(self._records)
            except StopIteration:
                self._ended = True
                break
            except Exception as error:
                if not frames:
                    self._ended = True
                    raise
                self._error = error  # raised once what came before it is handed out
                break
            frames.append(frame(None, record_of(value)))
            size += len(frames[-1])
            taken = time.monotonic() - start
            self.slow = taken if taken >= _MOST_SECONDS else 0.0
        return frames
