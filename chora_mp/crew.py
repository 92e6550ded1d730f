"""The crew: the seats that are open, and what may be asked of them one task at a time."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import TYPE_CHECKING, Any, Self

from chora_mp.errors import Interrupted, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chora_mp.lanes import Lane, Seat

_TICK = 0.1  # seconds between looks whether to stop


class Crew:
    """The open seats of a lane. Leaving the context ends them, at once if it is left by an error."""

    def __init__(self, lane: Lane, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`interrupted` is asked now and then whether to stop."""
        self.lane = lane
        self._interrupted = interrupted
        self.seats: list[Seat] = []
        self.most_open = 0

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
        return len(self.seats) >= self.lane.most

    def open(self) -> Seat:
        """Open one more seat."""
        seat = self.lane.open()
        self.seats.append(seat)
        self.most_open = max(self.most_open, len(self.seats))
        return seat

    def replace(self, seat: Seat) -> str:
        """Bury a seat whose worker died and open another in its place; how the worker ended, in words."""
        self.seats.remove(seat)
        ending = seat.bury()
        self.open()
        return ending

    def kill(self) -> None:
        """End every worker at once and remove what they leave."""
        for seat in self.seats:
            seat.kill()
        while self.seats:
            self.seats.pop().bury()

    def renew(self) -> None:
        """End the workers, which have nothing to do; the next task opens a fresh one."""
        for seat in self.seats:
            seat.dismiss()
        while self.seats:
            self.seats.pop().close()

    def do_without(self, seat: Seat) -> None:
        """Give up a seat whose worker cannot be started, and open no others: the machine has no room for them."""
        self.seats.remove(seat)
        seat.bury()
        self.lane.most = len(self.seats)
        self.most_open = min(self.most_open, self.lane.most)

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a worker's method returns. Raises what it raises, or `WorkerError` where the worker dies of it."""
        return next(self.ask_all([(name, *arguments)]))

    def ask_all(self, tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of all `tasks` (method and arguments), in order; more seats are opened for many.

        Raises as `ask`, and `Interrupted`.
        """
        waiting = deque(enumerate(tasks))
        wanted = min(self.lane.most, max(1, len(waiting) // 2))
        while len(self.seats) < wanted:
            self.open()
        asked: dict[Future[Any], tuple[int, Seat, tuple[Any, ...]]] = {}
        answers: dict[int, Any] = {}
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
            for future in done:
                number, seat, task = asked.pop(future)
                answers[number] = self._answer(seat, task, future)
            while following in answers:
                yield answers.pop(following)
                following += 1

    def _answer(self, seat: Seat, task: tuple[Any, ...], future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenExecutor:
            if seat in self.seats:
                self.replace(seat)
        # Once more: nothing is lost by asking again, and it may have been killed from outside.
        seat = self.seats[-1]
        try:
            return seat.submit(*task).result()
        except BrokenExecutor:
            self.seats.remove(seat)
            raise WorkerError(f"the worker {seat.bury()} in {task[0]!r}, before anything was rendered") from None
