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
import io
import os
import signal
import sys
from multiprocessing import context, forkserver, popen_forkserver, resource_tracker, spawn, util
from multiprocessing.reduction import ForkingPickler
from threading import Timer
from typing import TYPE_CHECKING, Any

from chora_mp.errors import ChoraError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.records import Orders
    from chora_mp.worker import Worker

_SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_END_SECONDS = 1.0  # what a server may take to end; it takes a millisecond


_ahead: list[Server] = []


class Server:
    """The fork server of one run. Started by the first worker if not before, ended by `stop`."""

    @staticmethod
    def start_ahead() -> None:
        """Start the server of this process's next run, while there are other things still to be got ready."""
        server = Server()
        with _shield(), _environment():
            server._server.ensure_running()
        _ahead.append(server)

    @staticmethod
    def next() -> Server:
        """The server that was started ahead, or else a new one."""
        return _ahead.pop() if _ahead else Server()

    def __init__(self) -> None:
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload(["chora_mp.worker", "chora_mp.seats"])
        with _environment(), _shield():  # the first queue of an executor would start the resource tracker without
            resource_tracker.ensure_running()

    def new_process(self, descriptors: list[int]) -> tuple[int, int]:
        """Have a process forked; the ends of its status and data pipes."""
        with _shield(), _environment():
            return self._server.connect_to_new_process(descriptors)

    def stop(self) -> None:
        """End the server, once its workers have ended.

        It ends when nobody holds its lifeline any more. A process that was forked and never heard who it is (a signal
        came in between) does hold it, so the server is killed if it takes long, and such a process dies with it.
        """
        pid: int | None = self._server._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
        if pid is None:
            return
        late = Timer(_END_SECONDS, os.kill, (pid, signal.SIGKILL))
        late.daemon = True
        late.start()
        with contextlib.suppress(FileNotFoundError):  # at the interpreter's exit its socket may be gone already
            self._server._stop()  # type: ignore[attr-defined]  # noqa: SLF001  (multiprocessing's own tests use it)
        late.cancel()


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
        with open(writer, "wb") as file:
            file.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class SeatProcess(context.ForkServerProcess):
    """A worker process."""

    server: Server | None = None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Popen(process_obj)


class SeatContext(context.ForkServerContext):
    """The context for one seat's executor; `process` is the worker that it started."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.process: SeatProcess | None = None

    def Process(self, *arguments: Any, **options: Any) -> SeatProcess:  # type: ignore[override]  # noqa: N802
        """Make the worker process, and remember it."""
        self.process = SeatProcess(*arguments, **options)
        self.process.server = self._server
        return self.process


_worker: Worker | None = None


def start(orders: Orders, slots: str, seat: int) -> None:
    """Make this process the worker of `seat`: the first thing it is told."""
    # Here, where only the child comes by: the coordinator needs neither the worker's code nor Jinja2.
    from chora_mp.slots import Slot  # noqa: PLC0415
    from chora_mp.worker import Worker  # noqa: PLC0415

    global _worker  # noqa: PLW0603  (a process is one worker; calls reach it by name)
    sys.dont_write_bytecode = True  # beside a person's modules nothing is left
    _settle_in()
    slot = Slot(slots, seat)
    slot.start(os.getpid())
    _worker = Worker(orders, slot, seat)


def call(name: str, *arguments: Any) -> Any:
    """Call a method of this process's worker. Raises `ChoraError` only: no other exception is sure to travel well."""
    method: Callable[..., Any] = getattr(_worker, name)
    try:
        return method(*arguments)
    except ChoraError:
        raise
    except BaseException as error:  # noqa: BLE001
        text = str(error).encode("utf-8", "backslashreplace").decode()
        raise WorkerError(f"{name}: {type(error).__name__}: {text}") from None


def _settle_in() -> None:
    """Leave the lifeline to the server, keep stdout clean."""
    for name, value in _FOR_SERVER.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    lifeline = forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]  # noqa: SLF001
    if lifeline is not None:
        os.close(lifeline)
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]  # noqa: SLF001
    os.dup2(2, 1)  # what a template prints must not mix with what the command answers


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


if os.environ.get(_IS_SERVER):  # imported by the server, whose every child ends with it, from its first moment
    os.register_at_fork(after_in_child=_die_with_parent)
