"""The worker: all that happens to a record, from bytes in a file to a document in another. Runs in every seat."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import marshal
import math
import os
import pickle
import re
import sys
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from hashlib import blake2b
from itertools import count, islice
from typing import IO, TYPE_CHECKING, Any

import jinja2

from chora_mp import failures, memory
from chora_mp.bundle import shown
from chora_mp.closures import ANY_TEMPLATE, NO_TEMPLATE
from chora_mp.errors import OutputError, SourceError, TemplateError
from chora_mp.findings import CLAIMS, EXPECTED, Findings
from chora_mp.gate import Gate, gate_path
from chora_mp.generators import Throttled
from chora_mp.memory import Allowance
from chora_mp.policy import may_pass
from chora_mp.records import BadRecord, Failure, Gauge, ItemResult, NoRecordError, Orders, Outcome, Place, Span
from chora_mp.renderer import Renderer
from chora_mp.sinks import FileSink, TextSink, is_sound
from chora_mp.sources import jsonl, spool
from chora_mp.sources.chunks import digest, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Entry = tuple[int | None, bytes]
    _Entries = Iterator[_Entry]
    _Reader = Callable[[Span], _Entries]

    from chora_mp.bundle import Bundle
    from chora_mp.generation import Call
    from chora_mp.generators import Generated
    from chora_mp.inflight import InFlight
    from chora_mp.job import Source
    from chora_mp.records import ScanOrders, Usage
    from chora_mp.slots import Slot

# A message must fit the pipe beside its neighbour, or a worker's death in the middle of it leaves the other end waiting
# for ever. Estimated generously below; the pipe holds 64 KiB.
_FULL_MESSAGE = 9 * 2**10  # bytes; the item that goes beyond adds 6 KiB at the most
_LONGEST_KEY = 1024
_LONGEST_PATH = 4096  # bytes; the sinks take no longer ones
_FULL_TEXTS = 8 * 2**20  # bytes of kept documents before a span is handed back early: memory stays flat

# What leaves a worker that had better be replaced: its memory, or its descriptors, are used up.
_SPENT = frozenset({errno.EMFILE, errno.ENOMEM})
_LITTER = 0.05  # of a worker's cap
_LOOK_SECONDS = 0.01  # between looks at how much memory is taken, which cost 2 µs

MOST_THROTTLED = 20  # times that an item is asked to wait by a service, before that is its failure

_clock = time.monotonic


class Worker:
    """One worker's state: its orders, its slot, the bundle it renders from and the file it reads from."""

    def __init__(self, orders: Orders, slot: Slot, seat: int, *, inline: bool = False) -> None:
        self.orders = orders
        self.slot = slot
        self.seat = seat
        self.inline = inline
        self._renderer: Renderer | None = None
        self._open: tuple[str, IO[bytes]] | None = None
        self._known: tuple[str | None, dict[Any, Any]] = (None, {})
        self._ledger_rows: RowSink | None = None
        self._expected: Expected | None = None
        self._in_flight: InFlight | None = None
        self._numbers: Iterator[int] = count()
        self.allowance = Allowance(orders.memory, orders.growth)
        self._spent = False
        self._gates: dict[str, Gate] = {}
        # A descriptor in reserve: what a span leaves for the ledger has to be written also when items have used up all.
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if not inline else -1

    def give_way(self) -> None:
        """Let go of the descriptor in reserve."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def prepare(self) -> bool:
        """Compile what the job reaches, once for all workers; whether keys, paths and templates are sure not to vary.

        Raises `TemplateError` with every problem of templates, expressions and plug-ins at once.
        """
        with self.allowance.capped():  # constants are worked out, and plug-ins run
            renderer = Renderer(self._bundle(), {}, self.orders.texts)
            code = renderer.compile_reachable()
        with open(self.orders.bundle + ".code", "wb") as file:
            pickle.dump(code, file, 5)
        self._renderer = renderer
        self.close_over([renderer.template.constant] if renderer.template.constant is not None else [])
        expressions = (renderer.key, renderer.path, renderer.template)
        return all(one is None or one.is_pure(renderer.globals) for one in expressions)

    def scan(self, orders: ScanOrders, start: int, end: int, into: str) -> None:
        """Write to the file `into` what bytes `start` to `end` of a source hold. Raises `SourceError`."""
        from chora_mp.scan import Scan  # noqa: PLC0415  (most workers only render)

        if self._known[0] != orders.known:
            self._known = orders.known, _load(orders.known)
        renderer = self._renderer or self._start_renderer()
        try:
            found = Scan(orders, renderer, self._known[1], inline=self.inline).run(start, end)
        except OSError as error:
            raise SourceError(f"{orders.input.name}: cannot be read: {error.strerror}") from None
        found.save(into)

    def clashes(self, prefix: str, pieces: int, kind: str, share: int, count: int) -> list[tuple[int, int]]:
        """Numbers of records that may lay claim to one key or path, of a share of those in so many files."""
        from chora_mp.claims import clashes  # noqa: PLC0415  (as above)

        return clashes([f"{prefix}{number}{CLAIMS}" for number in range(pieces)], kind, share, count)

    def survey(self, names: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """What is wrong with the templates that the job reaches, and place and name of all that they take from records.

        `names` are templates that records choose. Raises `TemplateError` where no record can be looked at either.
        """
        from chora_mp.survey import Survey  # noqa: PLC0415  (only `check` needs it)

        renderer = self._renderer = self._renderer or Renderer(self._bundle(), {}, self.orders.texts)
        with open(self.orders.bundle + ".code", "wb") as file:
            pickle.dump({}, file, 5)
        survey, constant = Survey(renderer), renderer.template.constant
        if renderer.bundle.generator not in (None, "jinja2"):  # whose templates may be anything
            renderer.compile_reachable()
            return [], []
        for name in names if constant is None else [constant]:
            if name not in (NO_TEMPLATE, ANY_TEMPLATE):
                survey.look_at(name, renderer.bundle.labels["template"])
        if renderer.bundle.generator is None:  # what configs give their templates is not in their own names
            return sorted(survey.problems), []
        return sorted(survey.problems), [(wanted.place, wanted.name) for wanted in survey.wanted.values()]

    def close_over(self, names: list[str]) -> None:
        """Add to the run's closures those of the templates `names`."""
        renderer = self._renderer or self._start_renderer()
        with open(self.orders.bundle + ".closures", "wb") as file:
            file.write(marshal.dumps({name: tuple(renderer.closure(name)) for name in names}))

    def spool(self, source: Source, path: str) -> list[int]:
        """Read `source` once, into a spool at `path`; where it can be cut for a scan. Raises `SourceError`."""
        from chora_mp.sources.spooling import spool_source  # noqa: PLC0415  (parsers that only this call needs)

        if source.format == "content":
            from chora_mp.contents import spool_content  # noqa: PLC0415

            renderer = self._renderer or self._start_renderer()
            with self.allowance.capped():  # expressions are evaluated
                return spool_content(source, renderer, path)
        if source.python and self._bundle().folder not in sys.path:
            sys.path.insert(0, self._bundle().folder)  # a module may lie beside the job file
        return spool_source(source, path)

    def compare(self, span: Span, engine: str) -> list[tuple[int | None, Any]]:
        """Line and what came of it for each record of a span, through Jinja2 and another engine.

        Raises `TemplateError` where there is no such engine.
        """
        from chora_mp.generation import Generation  # noqa: PLC0415  (only `check` needs it)

        renderer = self._renderer or self._start_renderer()
        generation, found = renderer.generation or Generation(renderer, self.orders.texts), []
        try:
            generation.generator(engine)
        except Exception as error:  # noqa: BLE001  (a package's own code)
            raise TemplateError([f"--engine {engine}: {error or type(error).__name__}"]) from None
        for line, raw in islice(self.records(span), span.count):
            record = parser(span)(raw)
            if isinstance(record, BadRecord):
                continue
            variables = {**renderer.globals, **record}
            with contextlib.suppress(Exception):  # a template that cannot be chosen is told of elsewhere
                template = renderer.template.constant or renderer.template(variables)
                found.append((line, tuple(generation.compare(engine, variables, record, template))))
        return found

    def lane_of(self, generator: str) -> tuple[str, bool]:
        """The lane that suits a generator, and whether it may run concurrently."""
        renderer = self._renderer or self._start_renderer()
        assert renderer.generation is not None  # noqa: S101  (who asks knows that it is not Jinja2 alone)
        found = renderer.generation.generator(generator)
        return found.lane, found.concurrent

    def render(self, span: Span, budget: float) -> Outcome:
        """Render the records of `span`, in order, for about `budget` seconds; what is left is the caller's to see.

        Raises `SourceError` where the records are no longer what they were, nothing else.
        """
        if self._spent:  # what was given to it already is for its successor
            return Outcome(0, 0, 0, 0, 0.0, (), spent=True)
        renderer = self._renderer or self._start_renderer()
        self.allowance.begin()
        sinks = self._sinks()
        one = Pass(self, renderer, sinks, self._rows(), self._expectations())
        try:
            with self.allowance.capped():
                outcome = one.run(span, self.records, parser(span), budget)
            if sinks[0]:
                sinks[0].settle()
        except OSError as error:  # an item's own are among its failures: this befell what the run keeps for itself
            raise self.unwritable(error) from None
        self._spent = outcome.spent or self.allowance.is_over()
        return replace(outcome, spent=self._spent)

    def render_into(self, folder: str, span: Span, budget: float = math.inf) -> Outcome:
        """Render as `render`, but into another output folder, which is made."""
        if self.orders.output != folder:
            os.makedirs(folder, exist_ok=True)
            self.orders = replace(self.orders, output=folder)
            if self._renderer and self._renderer.files:
                self._renderer.files.close()
                self._renderer.files = None
        return self.render(span, budget)

    def make_ready(self) -> None:
        """Load templates and plug-ins, so that what comes next takes no longer than its items."""
        if self._renderer is None:
            self._start_renderer()

    def gauge(self, folder: str, span: Span, budget: float = math.inf) -> Gauge:
        """What `render_into` takes, of time and of memory."""
        began, cpu, queued = _clock(), time.process_time(), memory.queued()
        outcome = self.render_into(folder, span, budget)
        times = (_clock() - began, time.process_time() - cpu, memory.queued() - queued)
        return Gauge(outcome, *times, *memory.own())

    def footprint(self) -> int:
        """The most bytes that this process has had to itself; 0: nobody can tell."""
        return memory.own()[1]

    def advance(self, arrivals: list[tuple[int, Span]], seconds: float) -> Any:
        """Go on with many items at a time, as `InFlight.advance`. Raises `OutputError`."""
        if self._in_flight is None:
            from chora_mp.inflight import InFlight  # noqa: PLC0415  (brings asyncio, which most jobs do without)

            self._in_flight = InFlight(self, self.orders.in_flight or 1, threads=self.orders.threads)
            self.allowance.begin()
        try:
            with self.allowance.capped():
                answers = self._in_flight.advance(arrivals, seconds)
            if self._renderer and self._renderer.files:
                self._renderer.files.settle()
        except OSError as error:
            raise self.unwritable(error) from None
        return answers

    def new_pass(self, span: Span) -> Pass:
        """What becomes of one span beside others, with rows and texts of its own."""
        renderer, name = self._renderer or self._start_renderer(), f"{self.seat}-{next(self._numbers)}"
        files, texts = self._sinks()
        rows = self._rows()
        texts = TextSink(self.orders.scratch, name) if texts else None
        return Pass(self, renderer, (files, texts), rows and rows.beside(name, span), self._expectations())

    def gate(self, generator: str) -> Gate | None:
        """The gate that items of a generator go through; None where there are no gates. Raises `OSError`."""
        if not self.orders.gated:
            return None
        if generator not in self._gates:
            rate = self.orders.rates.get(generator, self.orders.rate)
            self._gates[generator] = Gate(gate_path(self.orders.scratch, generator), rate)
        return self._gates[generator]

    def unwritable(self, error: OSError) -> OutputError:
        """What befell a file that the run keeps for itself."""
        where = os.fsdecode(error.filename) if error.filename else self.orders.scratch
        return OutputError(f"{shown(where)}: cannot be written: {error.strerror or error}")

    def identify(self, span: Span) -> tuple[str, str, int | None]:
        """Key, path and line of the span's first record, for the failure of an item that could not tell itself."""
        renderer = self._renderer or self._start_renderer()
        self.slot.at(span.seq, span.seq, _clock())
        entry = next(self.records(span), None)
        item = Item(renderer)
        record = BadRecord("", "") if entry is None else parser(span)(entry[1])
        if not isinstance(record, BadRecord):
            with contextlib.suppress(Exception, SystemExit):
                item.open(record)
            with contextlib.suppress(Exception, SystemExit):
                item.place()
        self.slot.idle()
        if entry is None:
            raise cut_short(span, span.seq)
        line = entry[0]
        # Paths that can be written are whole, so that two of them can be compared.
        return failures.printable(item.key, _LONGEST_KEY), failures.printable(item.path, _LONGEST_PATH), line

    def close(self) -> None:
        """Let go of files and folders."""
        self.give_way()
        if self._open:
            self._open[1].close()
        if self._renderer and self._renderer.files:
            self._renderer.files.close()
        if self._renderer and self._renderer.generation:
            self._renderer.generation.close()
        for gate in self._gates.values():
            gate.let_go()
        self.slot.close()

    def _bundle(self) -> Bundle:
        with open(self.orders.bundle, "rb") as file:
            bundle: Bundle = pickle.load(file)
            return bundle

    def _start_renderer(self) -> Renderer:
        with open(self.orders.bundle + ".code", "rb") as file:
            self._renderer = Renderer(self._bundle(), pickle.load(file), self.orders.texts)
        return self._renderer

    def _expectations(self) -> Expected | None:
        path = os.path.join(self.orders.scratch, EXPECTED)
        if self._expected is None and os.path.exists(path):
            with open(path, "rb") as file:
                self._expected = Expected(marshal.loads(file.read()))
        return self._expected

    def _rows(self) -> RowSink | None:
        if self.orders.rows and self._ledger_rows is None:
            closures = _load(self.orders.bundle + ".closures")
            numbers = {name: number for name, (number, _) in closures.items()}
            self._ledger_rows = RowSink(self.orders.scratch, self.seat, numbers)
        return self._ledger_rows

    def _sinks(self) -> tuple[FileSink | None, TextSink | None]:
        renderer, orders = self._renderer, self.orders
        if renderer is None:
            return None, None
        if orders.output and renderer.files is None:
            renderer.files = FileSink(
                orders.output, f"{orders.temporary}{self.seat}", self.slot.entering, fsync=orders.fsync
            )
        if orders.keep_text and renderer.texts is None:
            renderer.texts = TextSink(orders.scratch, self.seat)
        return renderer.files, renderer.texts

    def records(self, span: Span) -> Iterator[tuple[int | None, bytes]]:
        """Line and bytes of the span's records and of all that follow."""
        if span.data is not None:
            import io  # noqa: PLC0415

            return spool.read_frames(io.BytesIO(span.data), span.skip)
        file = self._file(span)
        file.seek(span.offset)
        if span.input.spooled:
            return spool.read_frames(file, span.skip)
        return jsonl.read_lines(file, span.line, span.skip)

    def _file(self, span: Span) -> IO[bytes]:
        path = span.input.path
        try:
            if self._open is None or self._open[0] != path:
                if self._open:
                    self._open[1].close()
                self._open = (path, open(path, "rb", buffering=2**17))  # noqa: SIM115  (kept for the next span)
            if span.input.stamp not in (None, jsonl.stamp(path)):
                raise SourceError(f"{span.input.name}: the file changed while it was read; run again")
        except OSError as error:
            raise SourceError(f"{span.input.name}: cannot be read: {error.strerror}") from None
        return self._open[1]


class Pass:
    """One span's way through the worker: counts, items and where each began."""

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
        self._one = Item(renderer)
        self._items: list[ItemResult] = []
        self._weight = 0
        self._full = False
        self._rendered = self._skipped = self._written = 0
        self._passing: list[int] = []
        self._refusals: Counter[int] = Counter()
        self._spent = False
        self._usage: Counter[str] = Counter()

    def run(self, span: Span, read: _Reader, parse: Callable[[bytes], Any], budget: float) -> Outcome:
        """Render the span's records one after the other, for about `budget` seconds. Raises `SourceError`."""
        at, records = self._slot.at, read(span)
        if self._rows:
            self._rows.begin(span)
        started = since = _clock()
        end = started + budget
        look = min(end, started + _LOOK_SECONDS)
        done = size = 0
        for place in span.places():
            seq = span.seq + place
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
            if not self._item(span, seq, entry, parse, since):
                break
            done, size, since = place + 1, size + 1, _clock()
            if self._full:
                break
            if since > look:
                if since > end or self._allowance.is_over():
                    break
                look = min(end, since + _LOOK_SECONDS)
        self._slot.done(span.seq)
        self._allowance.loosen()  # what the span leaves is no item's
        return self._outcome(done, size, since - started)

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

    # -- for items that are in work beside others

    def new_item(self) -> Item:
        """An item of its own."""
        return Item(self._renderer)

    def outcome(self, span: Span, seconds: float, dropped: int) -> Outcome:
        """What became of a span, of which so many items were not begun. Raises `OSError`."""
        self._spent |= self._allowance.is_over()
        outcome = self._outcome(span.count, span.size, seconds)
        return replace(outcome, unpicked=outcome.unpicked + dropped) if dropped else outcome

    def skip(self) -> None:
        """Count a record that is not asked for."""
        self._skipped += 1

    def _read_again(self, rest: Span, read: _Reader, error: OSError | MemoryError) -> tuple[_Entries, _Entry | None]:
        """The records of `rest` but for the first, and the first: reading is not what the cap is for."""
        if isinstance(error, OSError):
            raise SourceError(f"{rest.input.name}: cannot be read: {error.strerror}") from None
        self._allowance.loosen()
        records = read(rest)
        entry = next(records, None)
        self._allowance.tighten()
        return records, entry

    def _item(
        self, span: Span, seq: int, entry: tuple[int | None, bytes], parse: Callable[[bytes], Any], since: float
    ) -> bool:
        """Render one record and note what became of it; whether that was done, and not left to another worker."""
        item, rendered = self._one, True
        try:
            rendered = self.open(item, seq, entry[1], parse)
            if rendered:
                if self._gated:
                    since = self._pass_gate(item, span, seq, since)
                    data = self._generated(item, span, seq, since)
                else:
                    data = item.render()
                self.keep(item, seq, entry[1], data, since)
        except ClosedError:
            return False
        except BaseException as error:
            if self._inline and isinstance(error, KeyboardInterrupt):
                raise
            if isinstance(error, MemoryError) and (self._rendered or self._items) and self._is_littered():
                error.__traceback__ = None
                self._spent = True
                return False  # what is in the way may be what others have left: a new worker begins with this one
            self.fail(item, span, seq, entry[0], since, error)
            return True
        if not rendered:
            self._skipped += 1
            return True
        self.succeed(item, span, seq, entry[0], since, data)
        return True

    def fail(self, item: Item, span: Span, seq: int, line: int | None, since: float, error: BaseException) -> None:
        """Note that an item has failed."""
        failure, error.__traceback__ = self._failure(item, error), None
        self._take_note_of(error, item, seq)
        self._note(span, seq, line, item, since, failure=failure)

    def succeed(self, item: Item, span: Span, seq: int, line: int | None, since: float, data: bytes) -> None:
        """Note that an item's document is where it belongs."""
        self._rendered += 1
        if self._orders.details:
            self._note(span, seq, line, item, since, data=data)

    def open(self, item: Item, seq: int, raw: bytes, parse: Callable[[bytes], Any]) -> bool:
        """Turn an item to a record; whether it is asked for."""
        item.begin()
        record = parse(raw)
        if record.__class__ is BadRecord:
            raise NoRecordError(record)
        item.open(record)
        if self._only and not self._only(item.key):
            return False
        if self._expected:
            self._expected.check(seq, item.key, item.place())
        return True

    def _pass_gate(self, item: Item, span: Span, seq: int, since: float) -> float:
        """Wait until the item may begin; when that was. Raises `ClosedError` where nothing is begun any more."""
        gate = self._passed = self._worker.gate(item.generator_name())
        if gate is None:
            return since
        # What waits here is not late: its time begins when it does.
        if not gate.wait(lambda seconds: self._slot.at(span.seq, seq, _clock() + seconds)):
            raise ClosedError
        since = _clock()
        self._slot.at(span.seq, seq, since)
        return since

    def _generated(self, item: Item, span: Span, seq: int, since: float) -> bytes:
        """The document; a service that asks to wait is obeyed by all, and then asked again."""
        for _ in range(MOST_THROTTLED):
            try:
                return item.render()
            except Throttled as throttled:
                if self._passed is None:
                    raise
                self._passed.hold(throttled.seconds)
                self._pass_gate(item, span, seq, since)
        return item.render()

    def keep(self, item: Item, seq: int, raw: bytes, data: bytes, since: float) -> None:
        """Put the document where it belongs."""
        if self._files:
            item.doing = "write"
            written, status = self._files.write(item.path, data)
            self._written += written
            if self._rows:
                self._rows.add(seq, item, raw, data, status, _clock() - since)
        if self._texts:
            self._texts.add(data)
            self._full |= self._texts.size > _FULL_TEXTS
        if item.usage:
            self._usage.update(dict(item.usage))

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

    def _take_note_of(self, error: BaseException, item: Item, seq: int) -> None:
        """What an error means beyond its own item."""
        number = error.errno if isinstance(error, OSError) else None
        if number and item.doing == "write":
            self._refusals[number] += 1
        if number in _SPENT and not self._inline:
            self._spent = self._full = True
            self._worker.give_way()
        if self._orders.retry_on is not None and may_pass(error, self._orders.retry_on):
            self._passing.append(seq)
            self._weight += 9

    def _note(
        self,
        span: Span,
        seq: int,
        line: int | None,
        item: Item,
        since: float,
        data: bytes = b"",
        failure: Failure | None = None,
    ) -> None:
        of_content = self._renderer.bundle.generator is None
        place = Place((of_content and item.record.get("config")) or span.input.name, line)
        key = failures.printable(item.key, _LONGEST_KEY) if item.key else f"{place.file}:{line or seq + 1}"
        path = failures.printable(item.path, _LONGEST_KEY if failure else sys.maxsize)
        self._items.append(
            ItemResult(
                key,
                path,
                seq,
                "failed" if failure else "rendered",
                size=len(data),
                digest="" if failure else digest(data).hex(),
                duration_s=_clock() - since,
                error=failure,
                source=place,
                generator=item.generator_name(),
                usage=item.usage,
            )
        )
        self._weight += 160 + len(key.encode()) + len(path.encode())
        if failure:
            texts = (failure.type, failure.message, failure.template or "", *failure.chain)
            self._weight += 100 + sum(len(text.encode()) + 4 for text in texts)
        self._full |= self._weight > _FULL_MESSAGE


class Expected:
    """What the scan has found keys and paths to be, where they are made by more than look-ups.

    What counts, draws lots or asks the clock gives another path now than the one that was checked for being unique.
    """

    def __init__(self, pieces: list[tuple[int, str]]) -> None:
        """`pieces`: the first record of each piece of the source, and the file with its findings."""
        self._firsts = [first for first, _ in pieces]
        self._paths = [path for _, path in pieces]
        self._piece = -1
        self._found: dict[int, tuple[str, str]] = {}

    def check(self, seq: int, key: str, path: str) -> None:
        """Raise `ValueError` where the scan has found something else."""
        piece = bisect_right(self._firsts, seq) - 1
        if piece != self._piece:
            rows = Findings.load(self._paths[piece]).rows
            self._piece, self._found = piece, {self._firsts[piece] + row[0]: (row[1], row[2]) for row in rows}
        if not key:  # there is no path to be written to either
            return
        found = self._found.get(seq)
        if found is None:
            raise ValueError(f"the key is {key!r} and there was none before; it must be the same each time")
        now = storable(key), storable(path) if is_sound(path) else ""
        if found != now:
            what, one, real = ("key", 0, key) if found[0] != now[0] else ("output path", 1, path)
            raise ValueError(f"the {what} is {real!r} and was {found[one]!r} before; it must be the same each time")


class RowSink:
    """Keeps what the ledger is told of each rendered item in one file a span: it is too much for a message.

    A row is the record's place in the ledger, its key, path and digest, the number of the template's closure, the
    digest of the document, its size, mtime in ns and inode, and the seconds it took.
    """

    def __init__(self, folder: str, name: int | str, closures: dict[str, int]) -> None:
        self._folder = folder
        self._prefix = os.path.join(folder, f"rows-{name}-")
        self._count = 0
        self._closures = closures
        self._values: list[Any] = []
        self._span: Span | None = None  # whose records come in any order
        self._shifts: Iterator[tuple[int, int]] = iter(())
        self._shift, self._following = 0, (sys.maxsize, 0)

    def beside(self, name: str, span: Span) -> RowSink:
        """Another one for the same templates, with files of that name, for a span whose records come in any order."""
        other = RowSink(self._folder, name, self._closures)
        other._span = span
        return other

    def begin(self, span: Span) -> None:
        """Turn to a span, whose records come in order."""
        self._shifts = iter(span.shifts)
        self._shift, self._following = 0, next(self._shifts)

    def add(self, seq: int, item: Item, raw: bytes, data: bytes, status: os.stat_result, seconds: float) -> None:
        """Keep one more row."""
        while seq >= self._following[0]:
            self._shift, self._following = self._following[1], next(self._shifts, (sys.maxsize, 0))
        place = seq + self._shift if self._span is None else self._span.at(seq)
        closure = self._closures.get(item.template)
        if closure is None:  # a template that the scan has not met: its choice is not the same twice
            closure = self._closures[item.template] = item.renderer.closure(item.template).number
        key = item.key if item.key.isascii() else storable(item.key)
        source, document = blake2b(raw, digest_size=16).digest(), blake2b(data, digest_size=16).digest()
        self._values += (
            place, key, item.path, source, closure, document, len(data), status.st_mtime_ns, status.st_ino, seconds
        )  # fmt: skip

    def store(self) -> str | None:
        """The file that holds the rows, one after the other; None where there are none."""
        if not self._values:
            return None
        self._count += 1
        path = f"{self._prefix}{self._count}"
        with open(path, "wb") as file:
            file.write(marshal.dumps(self._values))
        self._values.clear()
        return path


class LateError(Exception):
    """An item took longer than it may, and was cancelled."""


class ClosedError(Exception):
    """The gate is closed: the item is not begun."""


class Item:
    """One record after the other on its way to a document; `doing` is the step that an error would belong to."""

    __slots__ = ("call", "doing", "key", "path", "record", "renderer", "template", "usage", "variables")

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.record: dict[str, Any]
        self.variables: dict[str, Any]
        self.call: Any  # a `Call`, once it is asked for
        self.usage: Usage = ()
        self.begin()

    def begin(self) -> None:
        """Turn to the next record; the last one makes room for it, in memory that is still in the CPU's caches."""
        self.record, self.variables, self.call = {}, {}, None
        self.key = self.path = self.template = ""
        self.doing = "output.path"

    def open(self, record: dict[str, Any]) -> None:
        """Merge globals, constants and the record, and evaluate the key, which is the path where the job has none."""
        renderer = self.renderer
        self.record = record
        self.variables = {**renderer.globals, **record}
        if renderer.key is None:
            path = self.place()
            self.key = path if is_sound(path) else ""  # what leads nowhere is no key
            return
        self.doing = "key"
        self.key = renderer.key(self.variables)
        if len(self.key) > _LONGEST_KEY:
            raise ValueError(f"the key is over {_LONGEST_KEY} characters long (found {self.key[:40] + '…'!r})")

    def place(self) -> str:
        """Evaluate the output path."""
        if self.renderer.path and not self.path:
            self.doing = "output.path"
            self.path = self.renderer.path(self.variables)
        return self.path

    def render(self) -> bytes:
        """The document, encoded."""
        self.place()
        self.doing, renderer = "template", self.renderer
        name = self.template = renderer.template.constant or renderer.template(self.variables)
        if renderer.generation is not None:
            return self.accept(renderer.generation.run(self.ask()))
        document = renderer.document(name)
        self.doing = "document"
        return document.render(self.variables).encode()

    def ask(self) -> Call:
        """What has to be called for the document, where that is not the job's own template."""
        self.place()
        self.doing, renderer = "template", self.renderer
        self.template = renderer.template.constant or renderer.template(self.variables)
        if renderer.generation is None:  # on a lane that has many items in work
            from chora_mp.generation import plain_call  # noqa: PLC0415

            call = plain_call(renderer.document(self.template), self.variables)
        self.doing, self.usage = "document", ()
        if renderer.generation is not None:
            call = renderer.generation.call(self.record, self.key, self.template)
        self.call = call
        return call

    def accept(self, made: str | Generated) -> bytes:
        """The document that a generator has made, encoded; kept beside, where others need it."""
        text: Any = made
        if isinstance(made, tuple):
            text, self.usage = made[0], tuple(made[1].items())
        if not isinstance(text, str):
            raise TypeError(f"the generator {self.generator_name()!r} gave no text (found {type(text).__name__})")
        data = text.encode()
        if self.call is not None and self.call.text is not None and self.renderer.generation is not None:
            self.renderer.generation.keep(self.call.text, data)
        return data

    def generator_name(self) -> str:
        """What makes the document."""
        name = self.renderer.bundle.generator
        return name if name is not None else str(self.record.get("generator", ""))

    def failure(self, error: BaseException) -> Failure:
        """What went wrong, told where the person can mend it."""
        if isinstance(error, LateError):
            return Failure("Timeout", str(error))
        if isinstance(error, NoRecordError):
            return Failure(failures.printable(error.bad.type, 200), failures.printable(error.bad.message, 1500))
        bundle, doing = self.renderer.bundle, self.doing
        if doing == "key":  # the path may be known all the same, and names the item
            with contextlib.suppress(Exception, SystemExit):
                self.place()
        if isinstance(error, UnicodeEncodeError) and doing == "document":
            character = error.object[error.start : error.start + 1]
            message = f"the document holds a lone surrogate ({character!r}), which UTF-8 cannot express"
            return Failure("UnicodeEncodeError", message, self.template)
        # What a template's own lines say needs no prefix; of an expression only the job file knows the line.
        prefix = f"{bundle.labels[doing]}: " if doing in bundle.labels else ""
        if isinstance(error, jinja2.TemplateSyntaxError):
            prefix = ""
        return failures.failure_of(error, prefix, bundle.templates)


def parser(span: Span) -> Callable[[bytes], Any]:
    """What makes a record, or a `BadRecord`, of the bytes that a span's file has of it."""
    return spool.parse if span.input.spooled else jsonl.parse


def _load(path: str | None) -> dict[Any, Any]:
    """The plain dictionary in one of the run's own files; an empty one where there is no file."""
    if path is None:
        return {}
    with open(path, "rb") as file:
        found: dict[Any, Any] = marshal.loads(file.read())
        return found


def cut_short(span: Span, seq: int) -> SourceError:
    """The error of a file that ends before the record `seq`."""
    return SourceError(f"{span.input.name}: the file ends before record {seq + 1}; run again")
