"""The crew: the seats that are open, and what may be asked of them one task at a time."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import TYPE_CHECKING, Any, Self

from chora_mp.errors import Interrupted, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.lanes import Ending, Lane, Seat

_TICK = 0.1  # seconds between looks whether to stop

# What a worker was at when it died of it, for a person who has to find out why.
_DOING = {
    "prepare": "compiled the templates, before anything was rendered",
    "survey": "compiled the templates, before anything was rendered",
    "spool": "read the source, before anything was rendered",
    "scan": "looked through the source, before anything was rendered",
    "compare": "rendered the sample",
    "gauge": "rendered the sample",
    "render_into": "rendered the sample",
}


class Crew:
    """The open seats of a lane. Leaving the context ends them, at once if it is left by an error."""

    def __init__(self, lane: Lane, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`interrupted` is asked now and then whether to stop."""
        self.lane = lane
        self._interrupted = interrupted
        self.seats: list[Seat] = []
        self.most_open = 0
        self.allowed = sys.maxsize
        """How many seats there is memory for."""
        self._gone: list[Seat] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is not None:
                self.kill()
            self.renew()
        finally:
            self.kill()
            self.lane.close()

    @property
    def full(self) -> bool:
        """Whether no further seat may be opened."""
        return len(self.seats) >= min(self.lane.most, self.allowed)

    def open(self) -> Seat:
        """Open one more seat."""
        seat = self.lane.open()
        self.seats.append(seat)
        self.most_open = max(self.most_open, len(self.seats))
        return seat

    def replace(self, seat: Seat) -> Ending:
        """Bury a seat whose worker died and open another in its place, if there is room; how the worker ended."""
        ending = self.drop(seat)
        try:
            self.open()
        except WorkerError:
            if not self.seats:
                raise
            self.lane.most = len(self.seats)
        return ending

    def drop(self, seat: Seat) -> Ending:
        """Bury a seat whose worker died; how it ended."""
        self.seats.remove(seat)
        return seat.bury()

    def retire(self, seat: Seat) -> None:
        """Send away a worker that has nothing to do."""
        self.seats.remove(seat)
        seat.dismiss()
        self._gone.append(seat)

    def tidy(self) -> None:
        """Clear up after those that were sent away before the last call; who has not left by then is made to."""
        gone, self._gone = self._gone, []
        for seat in gone:
            seat.close()

    def kill(self) -> None:
        """End every worker at once and remove what they leave."""
        for seat in (*self.seats, *self._gone):
            seat.kill()
        while self.seats:
            self.seats.pop().bury()
        self.tidy()

    def renew(self) -> None:
        """End the workers, which have nothing to do; the next task opens a fresh one."""
        while self.seats:
            self.retire(self.seats[-1])
        self.tidy()

    def do_without(self, seat: Seat) -> None:
        """Give up a seat whose worker cannot be started, and open no others: the machine has no room for them."""
        self.seats.remove(seat)
        seat.bury()
        self.lane.most = len(self.seats)
        self.most_open = min(self.most_open, self.lane.most)

    def ask(self, name: str, *arguments: Any, seconds: float = math.inf) -> Any:
        """What a worker's method returns.

        Raises what it raises, `WorkerError` where the worker dies of it, `TimeoutError` where there is no answer within
        so many seconds.
        """
        return next(self.ask_all([(name, *arguments)], seconds))

    def ask_all(self, tasks: Iterable[tuple[Any, ...]], seconds: float = math.inf) -> Iterator[Any]:
        """The results of all `tasks` (method and arguments), in order; more seats are opened for many.

        Raises as `ask` (the seconds count anew with each answer), and `Interrupted`.
        """
        until = time.monotonic() + seconds
        waiting = deque(enumerate(tasks))
        wanted = min(self.lane.most, max(1, len(waiting) // 2))
        while len(self.seats) < wanted:
            self.open()
        asked: dict[Future[Any], tuple[int, Seat, tuple[Any, ...]]] = {}
        answers: dict[int, Any] = {}
        lost: set[int] = set()
        following = 0
        while waiting or asked:
            while waiting and len(asked) < len(self.seats) * self.lane.depth:
                busy = Counter(seat.number for _, seat, _ in asked.values())
                seat = min(self.seats, key=lambda one: busy[one.number])
                number, task = waiting.popleft()
                asked[seat.submit(*task)] = number, seat, task
            done = wait(asked, _TICK, FIRST_COMPLETED).done
            if self._interrupted():
                raise Interrupted("interrupted")
            if done:
                until = time.monotonic() + seconds
            elif time.monotonic() > until:
                raise TimeoutError
            for future in done:
                number, seat, task = asked.pop(future)
                try:
                    answers[number] = future.result()
                except BrokenExecutor:
                    self._ask_once_more(seat, task, again=number in lost)
                    lost.add(number)
                    waiting.appendleft((number, task))
            while following in answers:
                yield answers.pop(following)
                following += 1

    def _ask_once_more(self, seat: Seat, task: tuple[Any, ...], *, again: bool) -> None:
        """Have another worker do what one has died of: it may have been killed from outside. Raises `WorkerError`."""
        ending = self.replace(seat) if seat in self.seats else None
        if again:
            words = ending.words if ending else "ended"
            raise WorkerError(f"the worker {words} while it {_DOING.get(task[0], 'got things ready')}")
