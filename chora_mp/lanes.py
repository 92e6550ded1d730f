"""Lanes: where spans run. A crew of seats, each a process pool of one, or the coordinator's own process.

Nothing of `multiprocessing` is imported before a process is wanted: a run that finds nothing to do wants none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import resource
import signal
import time
from concurrent.futures import BrokenExecutor, Future
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from chora_mp.errors import ChoraError, OutputError, WorkerError
from chora_mp.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from chora_mp import seats
    from chora_mp.records import Orders, Span
    from chora_mp.slots import Note


_LEAVE_SECONDS = 1.0  # what an idle worker may take to end
_NOBODY_KNOWS = 255  # what multiprocessing says where the fork server could not tell how a process ended
_ROOM_SECONDS = 0.02  # what a worker with room for more goes on for before it asks whether there is more
_FULL_SECONDS = 0.5
_SPANS = 16  # that the items in work at a time are in
_MOST_READY = 500  # records that wait in the worker
_SEAT_DESCRIPTORS = 10  # 9 were counted: queues, locks, sentinel and slot
_OTHER_DESCRIPTORS = 40


class Ending(NamedTuple):
    """How a worker ended, in `words`; `orphaned`: with the fork server that it came from, by no fault of its own."""

    words: str
    orphaned: bool = False


class Seat(Protocol):
    """One worker that tasks can be given to. `answered`: when it was last heard of while at a task; 0: nobody knows."""

    number: int
    answered: float

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Have the worker's method `name` called; its result, or what it raises, comes in the future."""

    def note(self) -> Note:
        """What the worker is at."""

    def kill(self) -> None:
        """End the worker at once, in whatever it does."""

    def bury(self) -> Ending:
        """Clear up after a worker that died; how it ended."""

    def dismiss(self) -> None:
        """Tell a worker that has nothing to do to leave."""

    def close(self) -> None:
        """End a worker that has nothing to do."""


class Lane(Protocol):
    """A place where spans run: at most `most` seats, each with at most `depth` spans at a time.

    `span`: how many records a span has, where that is not learned; `exact`: whether a slot names the item that is to
    blame for a death.
    """

    most: int
    depth: int
    span: int | None
    exact: bool
    workshop: Workshop

    def open(self) -> Seat:
        """Open one more seat. Raises `WorkerError`."""

    def close(self) -> None:
        """End what the lane as a whole has started; seats are closed by those who opened them."""


class ProcessSeat:
    """A worker process behind a `ProcessPoolExecutor` of one.

    One pool of N breaks whole when one worker dies, and blames every future; a pool of one loses only its own.
    """

    def __init__(self, number: int, orders: Orders, slots: str, server: seats.Server) -> None:
        from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

        from chora_mp import seats  # noqa: PLC0415

        self.number = number
        self.answered = 0.0
        self._slot = Slot(slots, number)
        self._slot.start(0)
        self._temporary = f"{orders.temporary}{number}".encode()
        self._server = server
        self._context = seats.SeatContext(server)
        self._leaving: Thread | None = None
        self._executor: Executor = ProcessPoolExecutor(
            1, self._context, initializer=seats.start, initargs=(orders, slots, number, self._context.semaphores)
        )
        self._function, self._forget_names = seats.call, seats.forget_names

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Have the worker's method called, after what it was given before. The first call starts the process."""
        try:
            self._start_feeding()
            future = self._executor.submit(self._function, name, *arguments)
            self._hear_of_death()
            return future
        except BrokenExecutor as error:  # it died, and its futures are about to say so: this one says the same
            future = Future()
            future.set_exception(error)
            return future
        except (OSError, EOFError, RuntimeError) as error:  # EOF: the fork server has ended; RuntimeError: no threads
            raise WorkerError(f"cannot start a worker process: {error}") from None

    def _start_feeding(self) -> None:
        """Start the thread that feeds the executor's queue. Raises `RuntimeError`.

        Otherwise the executor's own thread would start it at the first task: where the system has no room for one more,
        that one dies unheard, and the task's future is never done.
        """
        queue: Any = self._executor._call_queue  # type: ignore[attr-defined]  # noqa: SLF001
        with queue._notempty:  # noqa: SLF001
            if queue._thread is None:  # noqa: SLF001
                queue._start_thread()  # noqa: SLF001

    def _hear_of_death(self) -> None:
        """Close our own end of the pipe that the worker answers through, now that it has its own.

        Else a worker that dies in the middle of a message leaves the executor waiting for the rest of it for ever.
        """
        self._executor._result_queue._writer.close()  # type: ignore[attr-defined]  # noqa: SLF001

    def note(self) -> Note:
        """What the worker is at."""
        return self._slot.read()

    def kill(self) -> None:
        """End the worker with SIGKILL: it may hang in C code, and the milder signals are blocked in it."""
        process = self._context.process
        if process is not None and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def bury(self) -> Ending:
        """Wait for the end of a worker that died or was killed, remove what it left; how it ended."""
        process = self._context.process
        self._shut_down()
        self._forget_names(self._context.semaphores)
        code = None
        if process is not None and process.pid is not None:
            process.join()
            code = process.exitcode
        folder = self._slot.read().folder
        if folder:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, self._temporary))
        self._slot.close()
        if process is not None and code == _NOBODY_KNOWS and self._server.has_lost(process):
            return Ending("was killed as its fork server ended", orphaned=True)
        return Ending(_ending(code))

    def dismiss(self) -> None:
        """Tell a worker that has nothing to do to leave."""
        leaving = Thread(target=self._executor.shutdown, daemon=True)
        try:
            leaving.start()
            self._leaving = leaving
        except RuntimeError:  # no room for one more thread
            self.kill()
            self._shut_down()

    def _shut_down(self) -> None:
        """End the executor's threads; its worker has ended or is about to."""
        with contextlib.suppress(RuntimeError):  # they could not be started
            self._executor.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """End a worker that has nothing to do; one that a thread of a plug-in's keeps alive is not waited for."""
        from multiprocessing.connection import wait  # noqa: PLC0415

        if self._leaving is None:
            self.dismiss()
        process = self._context.process
        if process is not None and process.pid is not None and not wait([process.sentinel], _LEAVE_SECONDS):
            self.kill()
        if self._leaving is not None:
            self._leaving.join()
        self._forget_names(self._context.semaphores)
        self._slot.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "did not start"
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


class ProcessLane:
    """Worker processes, started one by one from a fork server of the run's own."""

    depth = 2  # one span in work and one waiting, so that no worker waits for the coordinator
    span: int | None = None
    exact = True

    def __init__(self, orders: Orders, most: int, workshop: Workshop | None = None) -> None:
        """A lane of at most `most` seats, or of as many as this process may open files for.

        `workshop`: what it shares with other lanes of the run; None: it is the first.
        """
        self.limit(most)
        self.workshop = workshop or Workshop()
        self._owns_workshop = workshop is None
        self._orders = orders
        self._slots = os.path.join(orders.scratch, "slots")

    def open(self) -> ProcessSeat:
        """Open one more seat; its process starts with its first task. Raises `WorkerError`."""
        try:
            return self._seat(self.workshop.number(), self.workshop.started())
        except OSError as error:
            where = " (its semaphores are in /dev/shm)" if error.errno == errno.ENOSPC and not error.filename else ""
            raise WorkerError(f"cannot start a worker: {error}{where}") from None

    def limit(self, most: int) -> None:
        """Have at most so many seats from now on, or as many as this process may open files for."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_DESCRIPTORS
        self.most = max(1, min(most, descriptors // _SEAT_DESCRIPTORS))

    def _seat(self, number: int, server: seats.Server) -> ProcessSeat:
        return ProcessSeat(number, self._orders, self._slots, server)

    def close(self) -> None:
        """End the fork server, if it is this lane's own."""
        if self._owns_workshop:
            self.workshop.close()


class Workshop:
    """What the lanes of one run share: the fork server, and the numbers of seats."""

    def __init__(self) -> None:
        self._server: seats.Server | None = None  # a run that finds nothing to do starts nothing
        self.number: Callable[[], int] = iter(range(1 << 30)).__next__
        """The number of the next seat."""

    def started(self) -> seats.Server:
        """The fork server. Raises `OSError`."""
        if self._server is None:
            from chora_mp import seats  # noqa: PLC0415

            self._server = seats.Server.next()
        return self._server

    def close(self) -> None:
        """End the fork server."""
        if self._server is not None:
            self._server.stop()


class ConcurrentSeat(ProcessSeat):
    """A worker process that has many items in work at a time, of several spans.

    The pool of one gives it one task after the other. So its spans do not travel as tasks of their own: a task says "go
    on" (`Worker.advance`), takes new spans along and brings back those that are done.
    """

    def __init__(self, number: int, orders: Orders, slots: str, server: seats.Server, depth: int) -> None:
        super().__init__(number, orders, slots, server)
        self._depth = depth
        self._lock = RLock()
        self._tickets = iter(range(1 << 62))
        self._spans: dict[int, Future[Any]] = {}
        self._arrivals: list[tuple[int, Span]] = []
        self._asked: Future[Any] | None = None

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Have the worker's method called; `render` takes place beside what the worker is at."""
        if name != "render":
            return super().submit(name, *arguments)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            ticket = next(self._tickets)
            self._spans[ticket] = future
            self._arrivals.append((ticket, arguments[0]))
            self._go_on()
        return future

    def _go_on(self) -> None:
        """Ask the worker to go on, unless it is asked or there is nothing to do. Raises `WorkerError`."""
        if self._asked is not None or not self._spans:
            return
        arrivals, self._arrivals = self._arrivals, []
        seconds = _FULL_SECONDS if len(self._spans) >= self._depth else _ROOM_SECONDS
        asked = self._asked = super().submit("advance", arrivals, seconds)
        asked.add_done_callback(self._answered)

    def _answered(self, asked: Future[Any]) -> None:
        """Hand on what is done, after asking the worker to go on. Called by a thread of the pool's."""
        with self._lock:
            self._asked = None
            try:
                answers = _unpacked(asked.result())
                done = [(self._spans.pop(ticket), answer) for ticket, answer in answers]
                self.answered = time.monotonic()
                self._go_on()
            except BaseException as error:  # noqa: BLE001  (of a worker that is gone, in whatever words)
                lost = error if isinstance(error, (BrokenExecutor, ChoraError)) else BrokenExecutor(str(error))
                done = [(future, lost) for future in self._spans.values()]
                self._spans.clear()
        for future, answer in done:
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _unpacked(answers: Any) -> list[tuple[int, Any]]:
    """A worker's answers, from the file where they were too long for a message."""
    if isinstance(answers, str):
        with open(answers, "rb") as file:
            found: list[tuple[int, Any]] = pickle.load(file)
        os.unlink(answers)
        return found
    return list(answers)


class ConcurrentLane(ProcessLane):
    """One worker process that has many items in work at a time, for generators that wait."""

    def __init__(self, orders: Orders, workshop: Workshop, *, exact: bool) -> None:
        """As many items as `orders.in_flight` says; `exact`: they are coroutines all."""
        super().__init__(orders, 1, workshop)
        most = orders.in_flight or 1
        self.span = max(1, most // _SPANS)
        # As many again wait in the worker, so that none of its places is empty for want of a message.
        self.depth = -(-(most + min(most, _MOST_READY)) // self.span)
        self.exact = exact

    def _seat(self, number: int, server: seats.Server) -> ProcessSeat:
        return ConcurrentSeat(number, self._orders, self._slots, server, self.depth)


class InlineSeat:
    """The coordinator's own process as a seat: for debuggers, and for comparing."""

    def __init__(self, number: int, orders: Orders, slots: str) -> None:
        self.number = number
        self.answered = 0.0
        self._slot = Slot(slots, number)
        self._slot.start(os.getpid())
        from chora_mp.worker import Worker  # noqa: PLC0415  (brings Jinja2, which a coordinator of processes never needs)

        self._worker = Worker(orders, self._slot, number, inline=True)

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        """Call the worker's method here and now."""
        import sys  # noqa: PLC0415

        future: Future[Any] = Future()
        with contextlib.redirect_stdout(sys.stderr):
            try:
                future.set_result(getattr(self._worker, name)(*arguments))
            except Exception as error:  # noqa: BLE001  (the future carries it to where it is dealt with)
                future.set_exception(error)
        return future

    def note(self) -> Note:
        """What the worker is at."""
        return self._slot.read()

    def kill(self) -> None:
        """Nothing: what runs here has ended when anybody can ask."""

    def dismiss(self) -> None:
        """Nothing: it leaves with `close`."""

    def bury(self) -> Ending:
        """Close the seat."""
        self.close()
        return Ending("ended")

    def close(self) -> None:
        """Let go of files and folders."""
        self._worker.close()


class InlineLane:
    """One seat, in this process."""

    most = 1
    depth = 1
    span: int | None = None
    exact = True

    def __init__(self, orders: Orders, workshop: Workshop | None = None) -> None:
        """`workshop`: what it shares with other lanes of the run; None: it is the first."""
        self._orders = orders
        self.workshop = workshop or Workshop()

    def open(self) -> InlineSeat:
        """The seat. Raises `OutputError` where its slot cannot be written."""
        slots = os.path.join(self._orders.scratch, "slots")
        try:
            return InlineSeat(self.workshop.number(), self._orders, slots)
        except OSError as error:
            raise OutputError(f"{slots}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Nothing was started."""
