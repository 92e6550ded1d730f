"""Telling observers: each of those that are not ours has a thread and a queue, so that none can slow or break a run."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from chora_mp.events import ItemsCounted, SpanCompleted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chora_mp.events import Event, Observer

ROOM = 10_000
"""Events that may wait for an observer; then those that matter least are dropped."""


class Progress:
    """An observer that calls `on_progress(completed, total, config_id)` once an item."""

    def __init__(self, on_progress: Callable[[int, int | None, str], None]) -> None:
        self.__name__ = _name(on_progress)
        self._on_progress = on_progress

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, ItemsCounted):
            for number, key in enumerate(event.keys, event.done - len(event.keys) + 1):
                self._on_progress(number, event.total, key)


class Observers:
    """Tells observers what happens, and `notice(text)` what is the matter with one of them.

    Observers with a true `prompt` are called at once, with `tell_all` for many events where they have it; the others in
    a thread each. `ItemsCounted` is told to `Progress` alone, and `Progress` nothing else. `notice` is called in the
    thread that tells or closes.
    """

    def __init__(self, observers: Iterable[Observer], notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._complaints: deque[str] = deque()  # not given yet: threads leave them here
        self._given: list[str] = []
        self._closed = False
        told = tuple(observers)
        self._prompt = [_Prompt(one, self._complaints) for one in told if getattr(one, "prompt", False)]
        self._foreign = [_Foreign(one, self._complaints) for one in told if not getattr(one, "prompt", False)]

    @property
    def per_item(self) -> bool:
        """Whether anybody wants to be told of each item: foreign observers, and prompt ones that take many at once."""
        return any(not one.counts and not one.ended for one in self._foreign) or any(
            one.takes_many and not one.ended for one in self._prompt
        )

    @property
    def counted(self) -> bool:
        """Whether anybody wants to be told `ItemsCounted`."""
        return any(one.counts and not one.ended for one in self._foreign)

    def tell(self, event: Event) -> None:
        """Tell everybody what has happened; never waits for a foreign observer."""
        self.tell_all((event,))

    def tell_all(self, events: Sequence[Event]) -> None:
        """Tell everybody many things at once."""
        if self._closed or sys.is_finalizing():
            return
        counted = [event for event in events if isinstance(event, ItemsCounted)]
        others = [event for event in events if not isinstance(event, ItemsCounted)] if counted else events
        if others:
            for prompt in self._prompt:
                prompt.tell(others)
        for foreign in self._foreign:
            wanted = counted if foreign.counts else others
            if wanted:
                foreign.tell(wanted)
        self._complain()

    def close(self, seconds: float = 5.0) -> list[str]:
        """Wait until everything is told, at most so many seconds in all; the notices that were given."""
        self._closed = True
        for foreign in self._foreign:
            foreign.end()
        deadline = time.monotonic() + seconds
        for foreign in self._foreign:
            foreign.join(max(0.0, deadline - time.monotonic()))
        self._complain()
        return list(self._given)

    def _complain(self) -> None:
        """Give what notices there are; `notice` may tell events in turn."""
        while self._complaints:
            text = self._complaints.popleft()
            self._given.append(text)
            try:
                self._notice(text)
            except Exception:  # noqa: BLE001, S110  (nobody is left to be told)
                pass


class _Prompt:
    """An observer that is called in the caller's thread."""

    def __init__(self, observer: Any, complaints: deque[str]) -> None:
        self.takes_many = hasattr(observer, "tell_all")
        self.ended = False
        self._observer = observer
        self._complaints = complaints

    def tell(self, events: Sequence[Event]) -> None:
        if self.ended:
            return
        try:
            if self.takes_many:
                self._observer.tell_all(events)
            else:
                for event in events:
                    self._observer(event)
        # A KeyboardInterrupt is let through: here it is a signal's, which means the run and not the observer.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self.ended = True
            self._complaints.append(_raised(self._observer, error))


class _Foreign:
    """An observer with a thread and a queue of its own.

    The queue is two, so that what matters least is found at once: spans, and all else, each entry with its number.
    """

    def __init__(self, observer: Observer, complaints: deque[str]) -> None:
        self.counts = isinstance(observer, Progress)
        self.ended = False  # it is told nothing more
        self._observer = observer
        self._complaints = complaints
        self._spans: deque[tuple[int, Event]] = deque()
        self._others: deque[tuple[int, Event]] = deque()
        self._number = self._lost = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._at_once = False  # there is no thread to be had
        self._changed = threading.Condition()

    def tell(self, events: Sequence[Event]) -> None:
        """Put events into the queue; the first ones start the thread."""
        with self._changed:
            if self._thread is None and not self._at_once and not self.ended:
                self._start()
            if not self._at_once:
                self._put(events)
                return
        for event in events:
            self._call(event)

    def end(self) -> None:
        """Nothing more is going to come."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait until all is told, or give up."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(seconds)
        with self._changed:
            untold = self._lost + len(self._spans) + len(self._others)
            if self.ended:
                return
            if untold:
                text = f"was too slow: {untold:,} event{' was' if untold == 1 else 's were'} not told"
                self._complaints.append(f"observer {_name(self._observer)!r} {text}")
            elif thread.is_alive():
                text = "was too slow: it has not returned from the last event"
                self._complaints.append(f"observer {_name(self._observer)!r} {text}")
            self._give_up()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"observer {_name(self._observer)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is about to end
            self._at_once = True
        else:
            self._thread = thread

    def _put(self, events: Sequence[Event]) -> None:
        if self.ended:
            return
        for event in events:
            self._number += 1
            (self._spans if isinstance(event, SpanCompleted) else self._others).append((self._number, event))
            if len(self._spans) + len(self._others) > ROOM:
                (self._spans or self._others).popleft()
                self._lost += 1
        self._changed.notify()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            self._call(event)

    def _next(self) -> Event | None:
        """The oldest event, as soon as there is one; None where no more are to come."""
        spans, others = self._spans, self._others
        with self._changed:
            while not spans and not others:
                if self._closing or self.ended:
                    return None
                self._changed.wait()
            first = spans if spans and (not others or spans[0] < others[0]) else others
            return first.popleft()[1]

    def _call(self, event: Event) -> None:
        if self.ended:
            return
        try:
            self._observer(event)
        except BaseException as error:
            # Signals come to the main thread only: whatever is raised in another is the observer's own.
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            with self._changed:
                if not self.ended:  # else the run is over, and nobody wants to know
                    self._complaints.append(_raised(self._observer, error))
                self._give_up()

    def _give_up(self) -> None:
        self.ended = True
        self._spans.clear()
        self._others.clear()


def _name(observer: object) -> str:
    return str(getattr(observer, "__name__", type(observer).__name__))


def _raised(observer: object, error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (the error is a stranger's, too)
        text = ""
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"observer {_name(observer)!r} raised {what}; it is told nothing more"
