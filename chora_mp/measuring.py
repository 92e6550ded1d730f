"""A run measured from outside, in processes of its own: whoever asks for it is changed in nothing.

asker ─▶ keeper ─▶ worker of the task and all its processes

The *keeper* starts the task in a fresh process and takes the time; processes that outlive their parent, such as a fork
server at its end, become the keeper's children, so that all processor time is counted. Both are in a process group of
their own, which can be ended as a whole, and end themselves where the asker is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from chora_mp.errors import ChoraError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.job import Job

_START = "import sys; sys.path[:] = {path!r}; from chora_mp.measuring import main; main()"
_ASK_SECONDS = 0.1  # between two questions whether to stop
_STOP_SECONDS = 5.0  # what processes may take to end when they are asked to, before they are killed
_ORPHAN_SECONDS = 10.0  # what processes may take to end after the main one
_LOOK_SECONDS = 0.02  # between two looks at the main process's memory: 50 µs each
_LOOKS_A_ROUND = 10  # of those, one at all processes: a millisecond or more
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class RunError(ChoraError):
    """A run that came to no good end: its process died, or was ended because it took too long."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a fresh process is to do with `job`, and `path`, next to which its answer is put.

    "render": all of it, or a `shard`; "keep": keep records for samples in the file `path`; "plan": see what there is.
    """

    kind: Literal["render", "keep", "plan"]
    job: Job
    path: str
    shard: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a task has answered, and what it took: as in `figures.Run`."""

    answer: dict[str, Any]
    seconds: float
    cpu_s: float | None
    main_bytes: int | None
    all_bytes: int | None
    others: float | None


def measure(task: Task, interrupted: Callable[[], bool] = lambda: False, limit: float | None = None) -> Measured:
    """Have a task done in a fresh process, within `limit` seconds, if that is not None.

    Raises `ChoraError` with what the task itself raised, `RunError` with its last words, or where it took too long, and
    `Interrupted` where it was asked to stop; no process of it is left in any case.
    """
    with open(task.path + ".task", "wb") as file:
        pickle.dump(task, file)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(task.path + ".answer")  # the last task's
    waited = 0.0  # counted, and not read off a clock: whoever was stopped (Ctrl-Z) has not waited
    with _kept(task.path) as keeper:
        while True:
            try:
                told, _ = keeper.communicate(timeout=_ASK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if interrupted():
                    raise Interrupted("interrupted; nothing is kept of what was measured") from None
                waited += _ASK_SECONDS
                if limit is not None and waited > limit:
                    raise RunError(f"a run had not ended after {waited:.0f} s") from None
    if keeper.returncode or not told:
        raise ChoraError(f"the process that measures has come to its end ({_ending(keeper.returncode)})")
    return _read(json.loads(told))


def _read(report: dict[str, Any]) -> Measured:
    """What the keeper has reported. Raises `ChoraError` with what went wrong."""
    answer, code, said = (report.pop(name) for name in ("answer", "code", "said"))
    if answer is None:
        raise RunError(f"a run has come to its end ({_ending(code)}{f': {said}' if said else ''})")
    if "error" in answer:
        raise ChoraError(answer["error"])
    return Measured(answer, **report)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


@contextlib.contextmanager
def _kept(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """The keeper's process; whatever is left of its group in the end is asked to stop, and then killed."""
    keeper = subprocess.Popen(  # noqa: S603  (our own Python)
        [*_command("keep"), path, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield keeper
    except BaseException:
        _signal(keeper.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.communicate(timeout=_STOP_SECONDS)
        raise
    finally:
        _signal(keeper.pid, signal.SIGKILL)
        keeper.communicate()


def _command(role: str) -> list[str]:
    """What starts a process of ours: it finds the modules that we find, and needs nothing of the caller's script."""
    return [sys.executable, "-c", _START.format(path=sys.path), role]


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of zombies
        os.killpg(group, number)


# ---- the keeper's side -------------------------------------------------------------------------------------


def main() -> None:
    """The start of the keeper, and of the process that does the task."""
    role, path, *rest = sys.argv[1:]
    if role == "keep":
        keep(path, int(rest[0]))
    else:
        do(path)


def keep(path: str, asker: int) -> None:
    """Have the task at `path` done, and report on stdout."""
    from chora_mp.machine import busy_seconds  # noqa: PLC0415  (brings psutil)

    signal.signal(signal.SIGINT, lambda *_: None)  # a function, unlike SIG_IGN, is not handed down to the task
    adopt_orphans()
    with open(path + ".said", "w+b") as said:
        busy, started = busy_seconds(), time.perf_counter()
        command = [*_command("do"), path]
        task = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)  # noqa: S603  (our own Python)
        with Memory(task.pid, asker) as memory:
            _, status, usage = os.wait4(task.pid, 0)
            seconds = time.perf_counter() - started
        task.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime + _orphans()
        still, ours = busy_seconds(), cpu + time.process_time()
        said.seek(0)
        words = said.read().decode(errors="replace").split("\n")
    report = {
        "answer": _answer(path),
        "code": task.returncode,
        "said": next((line for line in reversed(words) if line.strip()), ""),
        "seconds": seconds,
        "main_bytes": memory.main,
        "all_bytes": memory.all,
        # Elsewhere nobody adopts orphans, and what they took is not known.
        "cpu_s": cpu if sys.platform == "linux" else None,
        "others": None if busy is None or still is None else max(0.0, (still - busy - ours) / seconds),
    }
    print(json.dumps(report))


def _answer(path: str) -> Any:
    with contextlib.suppress(FileNotFoundError), open(path + ".answer", encoding="utf-8") as file:
        return json.load(file)
    return None


def adopt_orphans() -> None:
    """Become the parent of processes that outlive their own, as a fork server does for a moment.

    Only so is their processor time counted. On systems other than Linux nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _orphans() -> float:
    """Processor seconds of processes that were adopted; those that do not end are killed."""
    seconds, until = 0.0, time.monotonic() + _ORPHAN_SECONDS
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return seconds
        if pid:
            seconds += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > until:
            _end_all()
        else:
            time.sleep(0.005)


def _end_all() -> None:
    import psutil  # noqa: PLC0415

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


class Watch:
    """Looks every so many `seconds` while the block runs, in a thread of its own; `look` says at what."""

    seconds = _LOOK_SECONDS

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.seconds):
            self.look()

    def look(self) -> None:
        """Look once."""
        raise NotImplementedError


class Memory(Watch):
    """Looks at the memory of a process and its descendants while the block runs: the peaks `main` and `all`, in bytes.

    Ends the whole process group where the asker is gone: there is nobody left to do it.
    """

    def __init__(self, pid: int, asker: int) -> None:
        super().__init__()
        self.main: int | None = None
        self.all: int | None = None
        self._pid, self._asker = pid, asker
        self._looks = 0

    def look(self) -> None:
        """Look at the main process, now and then at all of them."""
        import psutil  # noqa: PLC0415

        if os.getppid() != self._asker:
            os.killpg(0, signal.SIGKILL)
        self._looks += 1
        with contextlib.suppress(psutil.Error, OSError):
            self.main = max(self.main or 0, self._peak())
            if self._looks % _LOOKS_A_ROUND == 0:
                self.all = max(self.all or 0, resident(self._pid))

    def _peak(self) -> int:
        """The kernel keeps the greatest that the main process had, so that the last look counts."""
        import psutil  # noqa: PLC0415

        status = f"/proc/{self._pid}/status"
        if not os.path.exists(status):  # not Linux, or over
            return int(psutil.Process(self._pid).memory_info().rss)
        with open(status, encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def resident(pid: int) -> int:
    """Bytes that a process and all below it have in memory; what they share counts in each. Raises `psutil.Error`."""
    import psutil  # noqa: PLC0415

    main, total = psutil.Process(pid), 0
    for process in (main, *main.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


# ---- the task's side ---------------------------------------------------------------------------------------


def do(path: str) -> None:
    """Do the task at `path` and put the answer beside it; what ends it is an answer, too."""
    from chora_mp.seats import Server  # noqa: PLC0415

    with open(path + ".task", "rb") as file:
        task: Task = pickle.load(file)
    try:
        if task.kind == "render" and task.job.workers != 0:
            Server.start_ahead()  # as the command does for a first run
        answer = _DEEDS[task.kind](task)
    except ChoraError as error:
        answer = {"error": str(error)}
    with open(path + ".answer", "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _render(task: Task) -> dict[str, Any]:
    """The run's summary, with the first of its failures, and the first that ended its worker or its time."""
    from chora_mp.batch import batch_generate  # noqa: PLC0415
    from chora_mp.policy import DEADLY  # noqa: PLC0415

    result = batch_generate(task.job, shard=task.shard, force=True).as_dict()
    failures = result["failures"]
    # A template may raise what is called the same, and has a name.
    deadly = [one for one in failures if one["error"]["type"] in DEADLY and one["error"]["template"] is None]
    return {**result, "failures": failures[:1], "deadly": deadly[:1]}


def _keep(task: Task) -> dict[str, Any]:
    from chora_mp.sampling import keep as keep_records  # noqa: PLC0415

    return asdict(keep_records(task.job, task.path))


def _plan(task: Task) -> dict[str, Any]:
    """How many items there are, and the generators that they need."""
    from chora_mp.batch import plan  # noqa: PLC0415

    found = plan(task.job)
    return {"total": found.total, "generators": [group.generator for group in found.groups]}


_DEEDS = {"render": _render, "keep": _keep, "plan": _plan}
