"""Many items at a time in one worker: coroutines on an event loop, or threads, for generators that wait.

The loop runs only while the worker is asked to go on (`advance`), a slice at a time; each slice takes new spans and
gives back those that are done. Spans overlap, so that the last items of one do not hold up the first of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import pickle
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any

from chora_mp.gate import rest
from chora_mp.generation import awaited
from chora_mp.generators import Throttled
from chora_mp.item import ClosedError, LateError
from chora_mp.rendering import MOST_THROTTLED, cut_short, parser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

    from chora_mp.generation import Call
    from chora_mp.item import Item
    from chora_mp.records import Outcome, Span
    from chora_mp.rendering import Pass
    from chora_mp.slots import Slot
    from chora_mp.worker import Worker

    Answers = list[tuple[int, Outcome | Exception]]

_LONGEST_ANSWER = 8192  # bytes; a longer one goes through a file, for a message must fit the pipe
_CANCEL_SECONDS = 5.0  # what a coroutine may take to end when it is cancelled, before its worker is ended
_MOST_SPARE = 64  # threads for what is not `async`, on the lane of those that are
_LOOK_SECONDS = 0.5  # between looks for those that do
_COARSE_SECONDS = 0.0015  # the loop's timers end up to a millisecond late

_clock = time.monotonic


class _Ticket:
    """One span on its way: its pass, and the records that are not done."""

    def __init__(
        self, number: int, span: Span, one: Pass, entries: Sequence[tuple[int, tuple[int | None, bytes]]]
    ) -> None:
        self.number = number
        self.span = span
        self.pass_ = one
        self.entries = deque(entries)
        self.left = len(entries)
        self.dropped = 0
        self.began = _clock()


class InFlight:
    """The items that a worker has in work: at most `most`, in threads if `threads`."""

    def __init__(self, worker: Worker, most: int, *, threads: bool) -> None:
        self._worker = worker
        self._slot: Slot = worker.slot
        self._most = most
        self._threads = self._started(most) if threads else None
        self._spare_threads: ThreadPoolExecutor | None = None
        self._timeout = None if threads else worker.orders.timeout  # a thread cannot be ended: the watchdog does it all
        self._loop = asyncio.new_event_loop()
        self._waiting: deque[_Ticket] = deque()
        self._tasks: dict[asyncio.Task[None], tuple[int, int, float]] = {}  # span, record and since when
        self._running: dict[int, tuple[int, float]] = {}  # of items in threads: span and since when, the oldest first
        self._answers: Answers = []
        self._news = asyncio.Event()
        self._passed = asyncio.Event()  # the last item that was begun is through the gate
        self._room = asyncio.Event()  # an item has left
        self._looked = _clock()
        self._feeder: asyncio.Task[None] | None = None
        self._count = 0

    def advance(self, arrivals: list[tuple[int, Span]], seconds: float) -> Answers | str:
        """Take more spans, and go on until one is done, for so many seconds at the most; what is done by then.

        The answers are in the file of that name where they would be too long for a message.
        """
        for number, span in arrivals:
            self._accept(number, span)
        self._run(seconds)
        answers, self._answers = self._answers, []
        data = pickle.dumps(answers, 5)
        if len(data) < _LONGEST_ANSWER:
            return answers
        self._count += 1
        path = os.path.join(self._worker.orders.scratch, f"answers-{self._worker.seat}-{self._count}")
        with open(path, "wb") as file:
            file.write(data)
        return path

    def _run(self, seconds: float) -> None:
        """Run the loop for a slice; that a task of somebody's wants to exit stops the loop, but not us."""
        slice_ = self._loop.create_task(self._slice(seconds))
        while not slice_.done():
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_until_complete(slice_)
        slice_.result()

    def _accept(self, number: int, span: Span) -> None:
        """Read the records of a span, which others may have to be read beside."""
        worker = self._worker
        try:
            records = worker.records(span)
            wanted = span.places()
            found = list(islice(records, wanted[-1] + 1)) if wanted else []
            if wanted and len(found) <= wanted[-1]:
                raise cut_short(span, span.seq + len(found))
            ticket = _Ticket(number, span, worker.new_pass(span), [(place, found[place]) for place in wanted])
        except Exception as error:  # noqa: BLE001  (the future carries it to where it is dealt with)
            self._answers.append((number, error))
            return
        self._waiting.append(ticket)
        if not ticket.left:
            self._finish(ticket)

    async def _slice(self, seconds: float) -> None:
        if self._feeder is None or self._feeder.done():
            self._feeder = self._loop.create_task(self._feed())
        until = _clock() + seconds
        while not self._answers and (left := until - _clock()) > 0 and (self._tasks or self._waiting):
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(left, 0.5))
            self._note_oldest()
        self._end_stubborn()
        await asyncio.sleep(0)

    # -- beginning items

    async def _feed(self) -> None:
        """Begin one item after the other, as long as there are some, and room for them."""
        while self._waiting:
            ticket = self._waiting[0]
            if not ticket.entries:
                self._waiting.popleft()
                continue
            while len(self._tasks) >= self._most:
                self._room.clear()
                await self._room.wait()
            place, entry = ticket.entries.popleft()
            item = ticket.pass_.new_item(ticket.span.seq + place, entry)
            call = self._open(ticket, item)
            if call is None:
                continue
            task = self._loop.create_task(self._one(ticket, item, call))
            self._tasks[task] = ticket.span.seq, item.seq, math.inf
            task.add_done_callback(self._leave)
            gate = self._worker.gate(item.generator_name())
            if gate is not None and gate.is_narrow():  # one after the other, in their order
                await self._passed.wait()
            self._passed.clear()

    def _leave(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._room.set()

    def _open(self, ticket: _Ticket, item: Item) -> Call | None:
        """What an item has to call; None: it has come to its end already."""
        one = ticket.pass_
        self._slot.at(ticket.span.seq, item.seq, item.since)
        try:
            if one.open(item, parser(ticket.span)):
                return item.ask()
            self._done(ticket, skipped=True)
        except BaseException as error:  # noqa: BLE001  (the person's own code may raise anything)
            one.fail(item, ticket.span, error)
            self._done(ticket)
        finally:
            self._slot.idle()
        return None

    async def _gate(self, item: Item) -> None:
        """Wait until an item may begin. Raises `ClosedError` where nothing is begun any more."""
        gate = self._worker.gate(item.generator_name())
        if gate is None:
            return
        while seconds := gate.knock():
            if seconds == float("inf"):
                raise ClosedError
            if seconds > _COARSE_SECONDS:
                await asyncio.sleep(min(seconds - _COARSE_SECONDS, 0.1))
            else:
                rest(seconds)

    # -- an item

    async def _one(self, ticket: _Ticket, item: Item, call: Call) -> None:
        one, span = ticket.pass_, ticket.span
        item.since = _clock()
        try:
            try:
                await self._gate(item)
            finally:
                self._passed.set()
            item.since = self._begin(ticket, item.seq)
            made = await self._made(ticket, item, call)
            item.data = item.accept(made)
            one.keep(item)
            one.succeed(item, span)
        except ClosedError:
            ticket.dropped += 1
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            one.fail(item, span, error)
        self._done(ticket)

    def _begin(self, ticket: _Ticket, seq: int) -> float:
        """Note that an item begins now, which is told."""
        since = _clock()
        self._tasks[asyncio.current_task()] = ticket.span.seq, seq, since  # type: ignore[index]  # it is in a task
        return since

    def _wait(self, ticket: _Ticket, seq: int) -> None:
        """Note that an item is not at work, or in a thread, which the watchdog looks at: it cannot be late here."""
        self._tasks[asyncio.current_task()] = ticket.span.seq, seq, math.inf  # type: ignore[index]  # as above

    async def _made(self, ticket: _Ticket, item: Item, call: Call) -> Any:
        """What the generator gives; a service that asks to wait is obeyed by all, and then asked again."""
        for _ in range(MOST_THROTTLED):
            try:
                return await self._called(ticket, item.seq, call)
            except Throttled as throttled:
                gate = self._worker.gate(call.generator.name)
                if gate is None:
                    raise
                gate.hold(throttled.seconds)
                self._wait(ticket, item.seq)
                await self._gate(item)
                self._begin(ticket, item.seq)
        return await self._called(ticket, item.seq, call)

    async def _called(self, ticket: _Ticket, seq: int, call: Call) -> Any:
        if self._threads is not None or not inspect.iscoroutinefunction(call.generator.function):
            return await self._in_thread(ticket, seq, call)
        work: Any = call.generator.function(call.spec, call.context)
        return await self._in_time(_Watched(work, self._slot, ticket.span.seq, seq))

    async def _in_thread(self, ticket: _Ticket, seq: int, call: Call) -> Any:
        pool = self._threads or self._spare()
        self._wait(ticket, seq)

        def work() -> Any:
            self._running[seq] = ticket.span.seq, _clock()  # not before: it may have waited for a thread
            return _call(call)

        try:
            return await self._loop.run_in_executor(pool, work)
        finally:
            self._running.pop(seq, None)
            self._note_oldest()

    def _spare(self) -> ThreadPoolExecutor:
        """Threads for what is not `async`, though it was sent here."""
        if self._spare_threads is None:
            self._spare_threads = self._started(min(self._most, _MOST_SPARE))
        return self._spare_threads

    def _started(self, count: int) -> ThreadPoolExecutor:
        """So many threads; their stacks are nothing that items take, and must not count against the cap."""
        pool, all_there = ThreadPoolExecutor(count, "item"), Event()
        with self._worker.allowance.exempted(), contextlib.suppress(RuntimeError):  # no room for so many: fewer, then
            for _ in range(count):
                pool.submit(all_there.wait)
        all_there.set()
        return pool

    def _note_oldest(self) -> None:
        """Have the watchdog look at the item that has been in a thread for the longest."""
        if self._running:
            seq, (span, since) = next(iter(self._running.items()))
            self._slot.at(span, seq, since)
        elif self._threads or self._spare_threads:
            self._slot.idle()

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        """What a coroutine gives, within the time that an item has. Raises `LateError`."""
        if self._timeout is None:
            return await work
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise LateError(f"the item took longer than {self._timeout:g} s and was cancelled") from None

    def _end_stubborn(self) -> None:
        """Wait for the watchdog, if an item goes on though it was cancelled: a coroutine cannot be ended otherwise."""
        if self._timeout is None or not self._tasks or _clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = _clock()
        span, seq, since = min(self._tasks.values(), key=lambda task: task[2])
        if _clock() - since > self._timeout + _CANCEL_SECONDS:
            self._slot.at(span, seq, since)
            while True:
                time.sleep(1)

    # -- the end of items and spans

    def _done(self, ticket: _Ticket, *, skipped: bool = False) -> None:
        if skipped:
            ticket.pass_.skip()
        ticket.left -= 1
        if not ticket.left:
            self._finish(ticket)

    def _finish(self, ticket: _Ticket) -> None:
        """Tell what became of a span."""
        try:
            outcome: Outcome | Exception = ticket.pass_.outcome(ticket.span, _clock() - ticket.began, ticket.dropped)
        except OSError as error:
            outcome = self._worker.unwritable(error)
        self._answers.append((ticket.number, outcome))
        self._news.set()


class _Watched:
    """An awaitable that notes in the slot when it is at work: what hangs the loop, or kills, is known by name."""

    def __init__(self, work: Any, slot: Slot, span: int, seq: int) -> None:
        self._work = work
        self._slot = slot
        self._span = span
        self._seq = seq

    def __await__(self) -> Generator[Any, Any, Any]:
        slot, steps = self._slot, self._work.__await__()
        send, value, error = steps.send, None, None
        while True:
            slot.at(self._span, self._seq, _clock())
            try:
                awaited = send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            finally:
                slot.idle()
            value = error = None
            try:
                value = yield awaited
            except BaseException as thrown:  # noqa: BLE001  (a cancellation, for one, is the coroutine's to see)
                error = thrown


def _call(call: Call) -> Any:
    """Call a generator in a thread of its own; what it gives is waited for there, too."""
    made = call.generator.function(call.spec, call.context)
    if inspect.isawaitable(made):
        return asyncio.run(awaited(made))
    return made
