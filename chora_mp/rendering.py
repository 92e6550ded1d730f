"""Rendering: the records of one span, from bytes in a file to documents in others."""

from __future__ import annotations

import errno
import fnmatch
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chora_mp import failures
from chora_mp.errors import SourceError
from chora_mp.generators import Throttled
from chora_mp.item import LONGEST_KEY, ClosedError, Item
from chora_mp.policy import may_pass
from chora_mp.records import BadRecord, Failure, ItemResult, NoRecordError, Outcome, Place, Span
from chora_mp.sources import jsonl, spool
from chora_mp.sources.chunks import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.findings import Expected
    from chora_mp.gate import Gate
    from chora_mp.item import Entry
    from chora_mp.renderer import Renderer
    from chora_mp.rowsink import RowSink
    from chora_mp.sinks import FileSink, TextSink
    from chora_mp.worker import Worker

    _Entries = Iterator[Entry]
    _Reader = Callable[[Span], _Entries]

# A message must fit the pipe beside its neighbour, or a worker's death in the middle of it leaves the other end waiting
# for ever. Estimated generously below; the pipe holds 64 KiB.
_FULL_MESSAGE = 9 * 2**10  # bytes; the item that goes beyond adds 6 KiB at the most
_USUAL_WEIGHT = 160  # bytes that tell of an item, besides its key and path
_FULL_TEXTS = 8 * 2**20  # bytes of kept documents before a span is handed back early: memory stays flat

# What leaves a worker that had better be replaced: its memory, or its descriptors, are used up.
_SPENT = frozenset({errno.EMFILE, errno.ENOMEM})
_LITTER = 0.05  # of a worker's cap
_LOOK_SECONDS = 0.01  # between looks at how much memory is taken, which cost 2 µs

# Items that go through each step together, as many as are rendered in that time, and of so many bytes in all. With 32
# nearly all is won that there is to win; those that take longer, or are larger, gain nothing by it.
_MOST_ABREAST = 32
_SECONDS_ABREAST = 0.001
_BYTES_ABREAST = 2**12
_AMPLE_CAP = 2**24  # bytes for an item, of which what the others of its batch hold is a few hundredths at the most

MOST_THROTTLED = 20
"""Times that an item is asked to wait by a service, before that is its failure."""

_clock = time.monotonic


class Pass:
    """One span's way through the worker, and what came of it."""

    def __init__(
        self,
        worker: Worker,
        renderer: Renderer,
        sinks: tuple[FileSink | None, TextSink | None],
        rows: RowSink | None,
        expected: Expected | None,
    ) -> None:
        orders = worker.orders
        self._worker = worker
        self._orders = orders
        self._slot = worker.slot
        self._allowance = worker.allowance
        self._inline = worker.inline
        self._renderer = renderer
        self._files, self._texts = sinks
        self._rows = rows
        self._expected = expected
        self._gated = worker.orders.gated
        self._passed: Gate | None = None  # the one that the item at hand went through
        self._only = re.compile(fnmatch.translate(orders.only)).match if orders.only is not None else None
        self._items: list[ItemResult] = []
        self._weight = 0
        self._full = False
        self._rendered = self._skipped = self._written = 0
        self._passing: list[int] = []
        self._refusals: Counter[int] = Counter()
        self._spent = False
        self._usage: Counter[str] = Counter()

    def run(self, span: Span, read: _Reader, parse: Callable[[bytes], Any], budget: float) -> Outcome:
        """Render the span's records in order, for about `budget` seconds. Raises `SourceError`."""
        if self._rows:
            self._rows.begin(span)
        started, done, size = _clock(), 0, 0
        for item in self._made(span, read, parse, started + budget):
            if not self._finish(item, span):
                break
            done, size = item.seq - span.seq + 1, size + 1
            if item.failed and self._full:  # the others of its batch are done again: the message has no room for them
                break
        self._slot.done(span.seq)
        self._allowance.loosen()  # what the span leaves is no item's
        return self._outcome(done, size, _clock() - started)

    def _outcome(self, done: int, size: int, seconds: float) -> Outcome:
        """What became of the first `done` records, `size` of which were to be rendered."""
        texts = self._texts.store() if self._texts else None
        rows = self._rows.store() if self._rows else None
        (refused, times), *_ = self._refusals.most_common(1) or [(0, 0)]
        return Outcome(
            done,
            self._rendered,
            self._skipped,
            self._written,
            seconds,
            tuple(self._items),
            texts,
            rows,
            done - size,
            passing=tuple(self._passing),
            refused=refused if times == size else 0,
            spent=self._spent,
            usage=tuple(self._usage.items()),
        )

    # -- a span's items, in order

    def _made(self, span: Span, read: _Reader, parse: Callable[[bytes], Any], end: float) -> Iterator[Item]:
        """The span's items in order, as far as their documents, or with a failure instead, until it is `end`.

        Small ones go through each step some at a time: what a CPU has at hand is then of use for the next item, and is
        not driven out by the file system's code and data, and theirs by ours.
        """
        look = min(end, _clock() + _LOOK_SECONDS)
        entries = self._entries(span, read)
        while items := self._opened(entries, parse):
            while items:
                made = self._render(items, span)
                if not made:  # it is left to another worker
                    return
                yield from items[:made]
                del items[:made]
                if self._full or self._spent:
                    return
                if (now := _clock()) > look:
                    if now > end or self._allowance.is_over():
                        return
                    look = min(end, now + _LOOK_SECONDS)

    def _entries(self, span: Span, read: _Reader) -> Iterator[Item]:
        """The span's records, still as bytes. Raises `SourceError`."""
        at, records, done = self._slot.at, read(span), 0
        for place in span.places():
            seq, since = span.seq + place, _clock()
            at(span.seq, seq, since)
            try:
                while done < place:  # those that the span does not pick
                    next(records, None)
                    done += 1
                entry = next(records, None)
            except (OSError, MemoryError) as error:
                records, entry = self._read_again(span.after(place), read, error)
                done = place
            if entry is None:
                self._slot.idle()
                raise cut_short(span, seq)
            done += 1
            yield Item(self._renderer, seq, entry, since)

    def _read_again(self, rest: Span, read: _Reader, error: OSError | MemoryError) -> tuple[_Entries, Entry | None]:
        """The records of `rest` but for the first, and the first: reading is not what the cap is for."""
        if isinstance(error, OSError):
            raise SourceError(f"{rest.input.name}: cannot be read: {error.strerror}") from None
        self._allowance.loosen()
        records = read(rest)
        entry = next(records, None)
        self._allowance.tighten()
        return records, entry

    def _opened(self, entries: Iterator[Item], parse: Callable[[bytes], Any]) -> list[Item]:
        """The next items, turned to records: as many as the last ones were that could be rendered together.

        One at a time where each has its turn, or so little memory that others' would count; no more than a message has
        room for.
        """
        cap = self._orders.memory
        most = 1 if self._gated or (cap is not None and cap < _AMPLE_CAP) else self._worker.abreast
        items: list[Item] = []
        size, room = 0, _FULL_MESSAGE - self._weight
        for item in entries:
            try:
                self.open(item, parse)
            except BaseException as error:  # noqa: BLE001  (the person's own code may raise anything)
                if self._is_left(error):
                    break
                self._blame(item, error)
            items.append(item)
            item.seconds = _clock() - item.since
            size += len(item.raw)
            if self._orders.details:
                room -= _USUAL_WEIGHT + len(item.key) + len(item.path)
            if len(items) >= most or size > _BYTES_ABREAST or room < 0 or item.failed:
                break
        return items

    def _render(self, items: list[Item], span: Span) -> int:
        """Make documents, for as long as they are soon made and small; of how many items that was."""
        at, size, now = self._slot.at, 0, _clock()
        until = now + _SECONDS_ABREAST
        for made, item in enumerate(items):
            if item.failed or not item.wanted:
                continue
            item.since = now - item.seconds
            at(span.seq, item.seq, item.since)
            try:
                if self._gated:
                    self._pass_gate(item, span)
                    item.data = self._generated(item, span)
                else:
                    item.data = item.render()
            except ClosedError:
                return made
            except BaseException as error:  # noqa: BLE001  (the person's own code may raise anything)
                if self._is_left(error):
                    return made
                self._blame(item, error)
            now = _clock()
            item.seconds = now - item.since
            size += len(item.data)
            if now > until or size > _BYTES_ABREAST or item.failed:
                self._worker.abreast = made + 1
                return made + 1
        self._worker.abreast = min(_MOST_ABREAST, 2 * len(items))
        return len(items)

    def _pass_gate(self, item: Item, span: Span) -> None:
        """Wait until the item may begin, which is when its time does.

        Raises `ClosedError` where nothing is begun any more.
        """
        gate = self._passed = self._worker.gate(item.generator_name())
        if gate is None:
            return
        # What waits here is not late.
        if not gate.wait(lambda seconds: self._slot.at(span.seq, item.seq, _clock() + seconds)):
            raise ClosedError
        item.since = _clock()
        self._slot.at(span.seq, item.seq, item.since)

    def _generated(self, item: Item, span: Span) -> bytes:
        """The document; a service that asks to wait is obeyed by all, and then asked again."""
        for _ in range(MOST_THROTTLED):
            try:
                return item.render()
            except Throttled as throttled:
                if self._passed is None:
                    raise
                self._passed.hold(throttled.seconds)
                self._pass_gate(item, span)
        return item.render()

    def _finish(self, item: Item, span: Span) -> bool:
        """Put a document where it belongs, and note what became of its item; whether that was done."""
        if item.wanted and item.failed is None:
            item.since = _clock() - item.seconds
            self._slot.at(span.seq, item.seq, item.since)
            try:
                self.keep(item)
            except BaseException as error:  # noqa: BLE001  (the person's own code may raise anything)
                if self._is_left(error):
                    return False
                self._blame(item, error)
        if item.failed:
            self._note_failure(item, span)
        elif item.wanted:
            self.succeed(item, span)
        else:
            self.skip()
        item.let_go()
        return True

    def _is_left(self, error: BaseException) -> bool:
        """Whether an item is left to another worker: what is in its way may be what others have left behind.

        Raises Ctrl-C where the coordinator renders in its own process.
        """
        if self._inline and isinstance(error, KeyboardInterrupt):
            raise error
        if not isinstance(error, MemoryError) or not (self._rendered or self._items) or not self._is_littered():
            return False
        error.__traceback__ = None
        self._spent = True
        return True

    # -- the steps, for items that are in work beside others, too

    def new_item(self, seq: int, entry: Entry) -> Item:
        """A record, still as bytes, of those that the pass is about."""
        return Item(self._renderer, seq, entry, _clock())

    def outcome(self, span: Span, seconds: float, dropped: int) -> Outcome:
        """What became of a span, of which so many items were not begun. Raises `OSError`."""
        self._spent |= self._allowance.is_over()
        outcome = self._outcome(span.count, span.size, seconds)
        return replace(outcome, unpicked=outcome.unpicked + dropped) if dropped else outcome

    def open(self, item: Item, parse: Callable[[bytes], Any]) -> bool:
        """Turn an item to a record; whether it is asked for."""
        record = parse(item.raw)
        if record.__class__ is BadRecord:
            raise NoRecordError(record)
        item.open(record)
        if self._only and not self._only(item.key):
            item.wanted = False
        elif self._expected:
            self._expected.check(item.seq, item.key, item.place())
        return item.wanted

    def keep(self, item: Item) -> None:
        """Put the document where it belongs."""
        if self._files:
            item.doing = "write"
            written, status = self._files.write(item.path, item.data)
            self._written += written
            if self._rows:
                self._rows.add(item, status, _clock() - item.since)
        if self._texts:
            self._texts.add(item.data)
            self._full |= self._texts.size > _FULL_TEXTS
        if item.usage:
            self._usage.update(dict(item.usage))

    def succeed(self, item: Item, span: Span) -> None:
        """Note that an item's document is where it belongs."""
        self._rendered += 1
        if self._orders.details:
            self._note(item, span)

    def skip(self) -> None:
        """Count a record that is not asked for."""
        self._skipped += 1

    def fail(self, item: Item, span: Span, error: BaseException) -> None:
        """Note that an item has failed."""
        self._blame(item, error)
        self._note_failure(item, span)

    # -- what came of an item

    def _blame(self, item: Item, error: BaseException) -> None:
        """Have an item fail."""
        item.error, item.failed, error.__traceback__ = error, self._failure(item, error), None

    def _note_failure(self, item: Item, span: Span) -> None:
        assert item.error is not None  # noqa: S101
        self._take_note_of(item.error, item)
        self._note(item, span)

    def _failure(self, item: Item, error: BaseException) -> Failure:
        failure = item.failure(error)
        if isinstance(error, MemoryError) and not str(error) and self._orders.memory is not None:
            limit = f"limits.memory_per_item allows {self._orders.memory / 10**6:,.4g} MB"
            return replace(failure, message=f"the item needs more memory than there is for it; {limit}")
        return failure

    def _is_littered(self) -> bool:
        """Whether items have left memory behind that the next ones lack."""
        cap = self._orders.memory
        return cap is not None and self._allowance.grown() > cap * _LITTER

    def _take_note_of(self, error: BaseException, item: Item) -> None:
        """What an error means beyond its own item."""
        number = error.errno if isinstance(error, OSError) else None
        if number and item.doing == "write":
            self._refusals[number] += 1
        if number in _SPENT and not self._inline:
            self._spent = self._full = True
            self._worker.give_way()
        if self._orders.retry_on is not None and may_pass(error, self._orders.retry_on):
            self._passing.append(item.seq)
            self._weight += 9

    def _note(self, item: Item, span: Span) -> None:
        of_content, failed = self._renderer.bundle.generator is None, item.failed
        place = Place((of_content and item.record.get("config")) or span.input.name, item.line)
        key = failures.printable(item.key, LONGEST_KEY) if item.key else f"{place.file}:{item.line or item.seq + 1}"
        path = failures.printable(item.path, LONGEST_KEY if failed else sys.maxsize)
        self._items.append(
            ItemResult(
                key,
                path,
                item.seq,
                "failed" if failed else "rendered",
                size=0 if failed else len(item.data),
                digest="" if failed else digest(item.data).hex(),
                duration_s=_clock() - item.since,
                error=failed,
                source=place,
                generator=item.generator_name(),
                usage=item.usage,
            )
        )
        self._weight += _USUAL_WEIGHT + len(key.encode()) + len(path.encode())
        if failed:
            texts = (failed.type, failed.message, failed.template or "", *failed.chain)
            self._weight += 100 + sum(len(text.encode()) + 4 for text in texts)
        self._full |= self._weight > _FULL_MESSAGE


def parser(span: Span) -> Callable[[bytes], Any]:
    """What makes a record, or a `BadRecord`, of the bytes that a span's file has of it."""
    return spool.parse if span.input.spooled else jsonl.parse


def cut_short(span: Span, seq: int) -> SourceError:
    """The error of a file that ends before the record `seq`."""
    return SourceError(f"{span.input.name}: the file ends before record {seq + 1}; run again")
