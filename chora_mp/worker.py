"""The worker: all that happens to a record, from bytes in a file to a document in another. Runs in every seat."""

from __future__ import annotations

import contextlib
import marshal
import math
import os
import pickle
import sys
import time
from dataclasses import replace
from itertools import count, islice
from typing import IO, TYPE_CHECKING, Any

from chora_mp import failures, memory
from chora_mp.bundle import shown
from chora_mp.closures import ANY_TEMPLATE, NO_TEMPLATE
from chora_mp.errors import OutputError, SourceError, TemplateError
from chora_mp.findings import CLAIMS, EXPECTED, Expected
from chora_mp.gate import Gate, gate_path
from chora_mp.item import LONGEST_KEY, Item
from chora_mp.memory import Allowance
from chora_mp.records import BadRecord, Gauge, Orders, Outcome, Span
from chora_mp.renderer import Renderer
from chora_mp.rendering import Pass, cut_short, parser
from chora_mp.rowsink import RowSink
from chora_mp.sinks import FileSink, TextSink
from chora_mp.sources import jsonl, spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp.bundle import Bundle
    from chora_mp.inflight import InFlight
    from chora_mp.job import Source
    from chora_mp.records import ScanOrders
    from chora_mp.slots import Slot

_LONGEST_PATH = 4096  # bytes; the sinks take no longer ones
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
        self.abreast = 1
        """How many items are next to go through each step together."""
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
        item = Item(renderer, span.seq, entry or (None, b""), _clock())
        record = BadRecord("", "") if entry is None else parser(span)(item.raw)
        if not isinstance(record, BadRecord):
            with contextlib.suppress(Exception, SystemExit):
                item.open(record)
            with contextlib.suppress(Exception, SystemExit):
                item.place()
        self.slot.idle()
        if entry is None:
            raise cut_short(span, span.seq)
        # Paths that can be written are whole, so that two of them can be compared.
        return failures.printable(item.key, LONGEST_KEY), failures.printable(item.path, _LONGEST_PATH), item.line

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


def _load(path: str | None) -> dict[Any, Any]:
    """The plain dictionary in one of the run's own files; an empty one where there is no file."""
    if path is None:
        return {}
    with open(path, "rb") as file:
        found: dict[Any, Any] = marshal.loads(file.read())
        return found
