"""How worker processes are started: from a fork server of the run's own that knows nothing of the caller's script.

Differs from `multiprocessing.get_context("forkserver")` in four ways. Workers never import the caller's `__main__`, so
scripts without a guard, a REPL and a notebook work. The server is this run's own: it is preloaded with the worker's
modules and ends with the run. Server and workers are shielded from signals that a terminal sends to the whole process
group. And a worker is gone when the coordinator is: it keeps no end of the server's lifeline open, and the kernel kills
it when the server ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing import context, forkserver, popen_forkserver, process, resource_tracker, spawn, synchronize, util
from multiprocessing.reduction import ForkingPickler
from threading import RLock, Timer
from typing import TYPE_CHECKING, Any

from chora_mp.errors import ChoraError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from chora_mp.records import Orders
    from chora_mp.worker import Worker

_SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_GONE_SECONDS = 0.1  # its workers may be seen to end before it is
_LONGEST_FOLDER = 60  # bytes; the address of a socket has 108, or 104 on macOS
_END_SECONDS = 1.0  # what a server may take to end; it takes a millisecond


_ahead: list[Server] = []

# Starting a server or a worker changes, for a moment, what belongs to the whole process: runs in other threads wait.
_starting = RLock()


class Server:
    """The fork server of one run. Started by the first worker if not before, ended by `stop`."""

    @staticmethod
    def start_ahead() -> None:
        """Start the server of this process's next run, while there are other things still to be got ready."""
        server = Server()
        with _starting, _shield(), _environment():
            server._start()
        _ahead.append(server)

    @staticmethod
    def next() -> Server:
        """The server that was started ahead, or else a new one."""
        return _ahead.pop() if _ahead else Server()

    def __init__(self) -> None:
        self._server = forkserver.ForkServer()
        self._socket: int | None = None
        self._server.set_forkserver_preload(["chora_mp.worker", "chora_mp.seats"])
        with (
            _starting,
            _environment(),
            _shield(),
        ):  # the first queue of an executor would start the resource tracker without
            resource_tracker.ensure_running()

    def new_process(self, descriptors: list[int]) -> tuple[int, int]:
        """Have a process forked; the ends of its status and data pipes."""
        with _starting, _shield(), _environment():
            self._start()
            return self._server.connect_to_new_process(descriptors)

    def _start(self) -> None:
        """Start the server, unless it runs already."""
        if not self._has_ended():
            return
        with _socket_folder():
            self._server.ensure_running()
            self._hide_socket()

    def _has_ended(self) -> bool:
        pid = self.pid
        with contextlib.suppress(ChildProcessError):  # somebody has waited for it already
            return pid is None or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    def _hide_socket(self) -> None:
        """Take the name of the server's socket away, so that nothing is left of it, however we end."""
        if sys.platform != "linux":
            return
        # What an open descriptor stands for can be connected to without a name; see path_resolution(7) and proc(5).
        if self._socket is not None:
            os.close(self._socket)
        address = self._server._forkserver_address  # type: ignore[attr-defined]  # noqa: SLF001
        self._socket = os.open(address, os.O_PATH | os.O_CLOEXEC)
        os.unlink(address)
        self._server._forkserver_address = f"/proc/self/fd/{self._socket}"  # type: ignore[attr-defined]  # noqa: SLF001

    @property
    def pid(self) -> int | None:
        """The server's process; None: it is not started."""
        pid: int | None = self._server._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
        return pid

    def has_lost(self, process: SeatProcess) -> bool:
        """Whether the server that a worker was forked from has ended, or does so at this moment."""
        until = time.monotonic() + _GONE_SECONDS
        while process.forked_by == self.pid and not self._has_ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def stop(self) -> None:
        """End the server, once its workers have ended.

        It ends when nobody holds its lifeline any more. A process that was forked and never heard who it is (a signal
        came in between) does hold it, so the server is killed if it takes long, and such a process dies with it.
        """
        pid = self.pid
        if pid is None:
            return
        late = Timer(_END_SECONDS, os.kill, (pid, signal.SIGKILL))
        late.daemon = True
        try:
            late.start()
        except RuntimeError:  # no room for one more thread
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):  # its socket has no name any more
            self._server._stop()  # type: ignore[attr-defined]  # noqa: SLF001  (multiprocessing's own tests use it)
        late.cancel()
        if self._socket is not None:
            os.close(self._socket)
            self._socket = None


class _Popen(popen_forkserver.Popen):
    """`popen_forkserver.Popen` with a server of the run's own and no word of `__main__` in what it sends."""

    def _launch(self, process_obj: SeatProcess) -> None:
        data = spawn.get_preparation_data(process_obj.name)
        for key in ("init_main_from_name", "init_main_from_path"):
            data.pop(key, None)
        server, process_obj.server = process_obj.server, None
        message = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            ForkingPickler(message, 5).dump(data)
            ForkingPickler(message, 5).dump(process_obj)
        finally:
            context.set_spawning_popen(None)
        assert server is not None  # noqa: S101
        self.sentinel, writer = server.new_process(self._fds)  # type: ignore[attr-defined]
        parent_writer = os.dup(writer)
        self.finalizer = util.Finalize(self, util.close_fds, (parent_writer, self.sentinel))  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as file:  # nobody reads where it could not fork
            file.write(message.getbuffer())
        process_obj.forked_by = server.pid
        pid = forkserver.read_signed(self.sentinel)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        self.pid = pid


class SeatProcess(context.ForkServerProcess):
    """A worker process."""

    server: Server | None = None
    forked_by: int | None = None

    def terminate(self) -> None:
        """End the process at once. An executor does so when it finds its worker's pipes broken, and waits for its end.

        Workers pass over SIGTERM, and one that has lost its pipes may live on.
        """
        self.kill()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Popen(process_obj)


class SeatContext(context.ForkServerContext):
    """The context for one seat's executor; `process` is the worker that it started."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.process: SeatProcess | None = None
        self.semaphores: list[str] = []
        """Names of the semaphores in the seat's queues, which go as soon as the worker has found them by them."""

    def Lock(self) -> Any:  # noqa: N802
        """Make a lock, and remember its name."""
        return self._adopted(super().Lock())

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        """Make a semaphore, and remember its name."""
        return self._adopted(super().BoundedSemaphore(value))

    def _adopted(self, lock: Any) -> Any:
        """A lock whose name is ours to remove, and no longer Python's when we end: we may be killed."""
        name: str = lock._semlock.name  # noqa: SLF001
        for finalizer in reversed(list(util._finalizer_registry.values())):  # type: ignore[attr-defined]  # noqa: SLF001
            if finalizer._args == (name,):  # noqa: SLF001
                finalizer.cancel()
                resource_tracker.unregister(name, "semaphore")
                self.semaphores.append(name)
                break
        return lock

    def Process(self, *arguments: Any, **options: Any) -> SeatProcess:  # type: ignore[override]  # noqa: N802
        """Make the worker process, and remember it."""
        self.process = SeatProcess(*arguments, **options)
        self.process.server = self._server
        return self.process


_worker: Worker | ChoraError | None = None


def forget_names(semaphores: list[str]) -> None:
    """Remove the names of semaphores; who has them open keeps them."""
    for name in semaphores:
        with contextlib.suppress(FileNotFoundError):
            synchronize.sem_unlink(name)  # type: ignore[attr-defined]


def start(orders: Orders, slots: str, seat: int, semaphores: list[str]) -> None:
    """Make this process the worker of `seat`: the first thing it is told. What is wrong is told to whoever calls."""
    # Here, where only the child comes by: the coordinator needs neither the worker's code nor Jinja2.
    from chora_mp.slots import Slot  # noqa: PLC0415
    from chora_mp.worker import Worker  # noqa: PLC0415

    global _worker  # noqa: PLW0603  (a process is one worker; calls reach it by name)
    forget_names(semaphores)
    sys.dont_write_bytecode = True  # beside a person's modules nothing is left
    try:
        _settle_in()
        slot = Slot(slots, seat, shared=True)
        slot.start(os.getpid())
        _worker = Worker(orders, slot, seat)
    except OSError as error:  # an initializer that raises leaves a traceback on the screen and a pool that is broken
        _worker = WorkerError(f"a worker cannot start: {error}")
    except MemoryError:
        _worker = _out_of_memory("start")


def call(name: str, *arguments: Any) -> Any:
    """Call a method of this process's worker. Raises `ChoraError` only: no other exception is sure to travel well."""
    if isinstance(_worker, ChoraError):
        raise _worker
    method: Callable[..., Any] = getattr(_worker, name)
    try:
        return method(*arguments)
    except ChoraError:
        raise
    except MemoryError:
        raise _out_of_memory(name) from None
    except BaseException as error:  # noqa: BLE001
        text = str(error).encode("utf-8", "backslashreplace").decode()
        raise WorkerError(f"{name}: {type(error).__name__}: {text}") from None


def _out_of_memory(doing: str) -> WorkerError:
    return WorkerError(f"a worker has no memory left (in {doing!r}); give limits.memory_per_item more, or leave it out")


def _settle_in() -> None:
    """Leave to the server what is the server's, keep stdout clean."""
    gc.freeze()  # what the server has imported is nobody's garbage, and its pages stay shared if nobody looks at them
    for name, value in _FOR_SERVER.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    os.fork, sys.excepthook = _fork, sys.__excepthook__
    _leave_signals_to_the_coordinator()
    lifeline = forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]  # noqa: SLF001
    if lifeline is not None:
        os.close(lifeline)
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]  # noqa: SLF001
    os.dup2(2, 1)  # what a template prints must not mix with what the command answers


def _leave_signals_to_the_coordinator() -> None:
    """Pass over the signals that a whole process group gets, but only in this very process.

    What a plug-in starts gets them as usual: programs don't inherit handlers, as they do blocked and ignored signals.
    """
    for number in _SHIELDED:
        signal.signal(number, _pass_over)
        signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=_hear_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SHIELDED)


def _pass_over(*_: object) -> None:
    """The coordinator decides what happens."""


def _hear_signals() -> None:
    for number in _SHIELDED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        server = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it ended before the kernel knew
            os._exit(1)


@contextlib.contextmanager
def _shield() -> Iterator[None]:
    """Block the signals that a whole process group gets; what is started meanwhile keeps them blocked.

    The resource tracker goes first, since on its start CPython unblocks SIGINT and SIGTERM, blocked before or not.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _socket_folder() -> Iterator[None]:
    """Have `multiprocessing` put its socket into a folder that is gone afterwards, and whose path is short enough."""
    if sys.platform != "linux":  # the socket needs its name as long as the server runs
        yield
        return
    where = tempfile.gettempdir()
    short = len(os.fsencode(where)) < _LONGEST_FOLDER
    folder = tempfile.mkdtemp(prefix="chora-mp-", dir=where if short else "/tmp")  # noqa: S108  (mkdtemp is secure)
    options = process.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001
    before = options.get("tempdir")
    options["tempdir"] = folder
    try:
        yield
    finally:
        if before is None:
            options.pop("tempdir", None)
        else:
            options["tempdir"] = before
        shutil.rmtree(folder, ignore_errors=True)  # where the server could not be started the socket is in it


_IS_SERVER = "CHORA_MP_SERVER"

# What the server's interpreter is told, and workers need not tell others. The current folder stays off its import path:
# a `random.py` there is the person's, not Python's. Strings hash alike in every run, so that a template that goes
# through a set gives the same bytes tomorrow.
_FOR_SERVER = {"PYTHONSAFEPATH": "chora-mp", "PYTHONHASHSEED": "0", _IS_SERVER: "1"}


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set the server's environment variables, but for those that the person has set."""
    ours = {name: value for name, value in _FOR_SERVER.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _fork_or_tell() -> int:
    """Fork as `os.fork` does; where that fails, the errno instead of a process, but negative.

    `multiprocessing`'s server would end of the error, and its healthy workers with it. So it passes on to who asked for
    a worker what it takes for a process (`_Popen`).
    """
    try:
        return _fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def _say_nothing(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What ends the server shows in those that wait for it; it is no news for the person at the terminal."""
    if not isinstance(error, (OSError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


_fork = os.fork

if os.environ.get(_IS_SERVER):  # imported by the server, whose every child ends with it, from its first moment
    os.register_at_fork(after_in_child=_die_with_parent)
    os.fork = _fork_or_tell
    sys.excepthook = _say_nothing
