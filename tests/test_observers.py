"""Telling observers: none is told too little without notice, none slows or breaks who tells."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp import observers as module
from chora_mp.events import BatchStarted, ItemsCounted, Noticed, SpanCompleted
from chora_mp.observers import Observers, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from chora_mp.events import Event

BOUND = 30.0


class Kept(list[Any]):
    """A foreign observer that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.append(event)


class Prompt(Kept):
    """One of ours."""

    prompt = True


class Held:
    """An observer that does not return from its first event before it is let go."""

    __name__ = "held"

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.reached.set()
        assert self.go.wait(BOUND)
        self.told.append(event)


def silent(text: str) -> None:
    """Raise, as a `notice` may; that there was none to give is in what `close` returns."""
    raise AssertionError(text)


def noticed(number: int) -> list[Event]:
    """Different events."""
    return [Noticed(str(one)) for one in range(number)]


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def raising(error: BaseException) -> Callable[[Event], None]:
    """An observer `f` that raises."""

    def f(event: Event) -> None:
        raise error

    return f


def test_everybody_is_told_everything_in_order() -> None:
    """Foreign observers and ours get the same events, and those are all told when `close` returns."""
    one, two, ours = Kept(), Kept(), Prompt()
    observers = Observers([one, ours, two], silent)
    observers.tell(Noticed("first"))
    assert [Noticed("first")] == ours
    observers.tell_all([SpanCompleted(1, 0, 2, 1), *noticed(500)])
    assert [] == observers.close(BOUND)
    expected = [Noticed("first"), SpanCompleted(1, 0, 2, 1), *noticed(500)]
    assert (expected, expected, expected) == (one, two, ours)


def test_ours_are_called_in_the_callers_thread_and_others_are_not() -> None:
    """A prompt observer has been told when `tell` returns; a foreign one has a thread that cannot keep Python alive."""
    threads: dict[str, threading.Thread] = {}

    def foreign(event: Event) -> None:
        threads["foreign"] = threading.current_thread()

    def ours(event: Event) -> None:
        threads["ours"] = threading.current_thread()

    ours.prompt = True  # type: ignore[attr-defined]
    observers = Observers([foreign, ours], silent)
    observers.tell(Noticed("x"))
    assert [] == observers.close(BOUND)
    assert threading.current_thread() is threads["ours"]
    assert threading.current_thread() is not threads["foreign"]
    assert threads["foreign"].daemon


def test_a_prompt_observer_may_take_many_at_once() -> None:
    """`tell_all` of an observer is called once for many events."""

    class Many(Prompt):
        def tell_all(self, events: list[Event]) -> None:
            self.append(list(events))

    many = Many()
    observers = Observers([many], silent)
    observers.tell_all(noticed(3))
    observers.tell(Noticed("x"))
    assert [noticed(3), [Noticed("x")]] == many


def test_no_thread_before_the_first_event() -> None:
    """Nothing is started for an empty list, for ours, or before there is something to tell."""
    before = threading.active_count()
    for told in ([], [Prompt()]):
        observers = Observers(told, silent)
        observers.tell(Noticed("x"))
        assert before == threading.active_count()
        assert [] == observers.close()
    held = Held()
    observers = Observers([held], silent)
    assert before == threading.active_count()
    observers.tell(Noticed("x"))
    assert before + 1 == threading.active_count()
    held.go.set()
    assert [] == observers.close(BOUND)
    assert before == threading.active_count()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x"), "ValueError: x"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_foreign_observer_that_raises_is_dropped(error: BaseException, text: str) -> None:
    """It is noticed once, told nothing more, and the others are told everything."""
    notices: list[str] = []
    kept = Kept()
    observers = Observers([raising(error), kept], notices.append)
    observers.tell_all(noticed(10))
    expected = [f"observer 'f' raised {text}; it is told nothing more"]
    assert expected == observers.close(BOUND)
    assert (expected, noticed(10)) == (notices, kept)


def test_a_notice_does_not_wait_for_the_end() -> None:
    """An observer that has raised is noticed with the next event, in the thread that tells."""
    notices: list[tuple[str, threading.Thread]] = []
    observers = Observers([raising(ValueError("x"))], lambda text: notices.append((text, threading.current_thread())))

    def tell() -> bool:
        observers.tell(Noticed("x"))
        return bool(notices)

    until(tell)
    observers.close(BOUND)
    assert [threading.current_thread()] == [thread for _, thread in notices]


def test_a_prompt_observer_that_raises_is_dropped() -> None:
    """One of ours is protected against alike, and `notice` may tell events itself."""
    ours = Prompt()
    bad = raising(ValueError("x"))
    bad.prompt = True  # type: ignore[attr-defined]
    observers = Observers([bad, ours], lambda text: observers.tell(Noticed(text)))
    observers.tell_all([Noticed("1"), Noticed("2")])
    text = "observer 'f' raised ValueError: x; it is told nothing more"
    assert [Noticed("1"), Noticed("2"), Noticed(text)] == ours
    assert [text] == observers.close()


def test_a_signal_in_a_prompt_observer_gets_through() -> None:
    """In the caller's thread a KeyboardInterrupt is a person's, who means the run."""
    bad = raising(KeyboardInterrupt())
    bad.prompt = True  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        Observers([bad], silent).tell(Noticed("x"))


def test_errors_that_cannot_be_shown_and_notices_that_fail_break_nothing() -> None:
    """Neither an error whose text raises nor a `notice` that raises reaches who tells."""

    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    observers = Observers([raising(BadError())], silent)
    observers.tell(Noticed("x"))
    assert ["observer 'f' raised BadError; it is told nothing more"] == observers.close(BOUND)


def test_a_slow_observer_does_not_slow_who_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans go first, then what is oldest; what was not told is counted."""
    monkeypatch.setattr(module, "ROOM", 4)
    held, notices = Held(), list[str]()
    observers = Observers([held], notices.append)
    observers.tell(Noticed("in work"))
    assert held.reached.wait(BOUND)
    observers.tell_all([Noticed("0"), SpanCompleted(1, 0, 2, 1), Noticed("1"), SpanCompleted(2, 0, 2, 1)])
    observers.tell_all([Noticed("2"), Noticed("3"), Noticed("4")])
    held.go.set()
    assert ["observer 'held' was too slow: 3 events were not told"] == observers.close(BOUND)
    assert [Noticed("in work"), *noticed(5)[1:]] == held.told


def test_a_full_queue_is_cheap() -> None:
    """An observer that is stuck costs no more than one that is not: 100,000 events are told within the bound."""
    held = Held()
    observers = Observers([held], lambda text: None)
    observers.tell(Noticed("in work"))
    assert held.reached.wait(BOUND)
    event = BatchStarted("b", 1)
    begun = time.monotonic()
    for _ in range(100_000):
        observers.tell(event)
    assert time.monotonic() - begun < BOUND
    assert ["observer 'held' was too slow: 100,000 events were not told"] == observers.close(0)
    held.go.set()


def test_close_gives_up_together() -> None:
    """However many observers are stuck, the wait is bounded once; what they still hold is told to nobody."""
    stuck = [Held(), Held(), Held()]
    observers = Observers(stuck, lambda text: None)
    observers.tell_all([Noticed("in work"), Noticed("1")])
    for held in stuck:
        assert held.reached.wait(BOUND)
    begun = time.monotonic()
    notices = observers.close(0.3)
    assert 0.3 <= time.monotonic() - begun < 0.3 + 0.5 * BOUND
    assert ["observer 'held' was too slow: 1 event was not told"] * 3 == notices
    for held in stuck:
        held.go.set()
    until(lambda: all(held.told for held in stuck))
    assert [[Noticed("in work")]] * 3 == [held.told for held in stuck]


def test_an_observer_that_does_not_return_is_noticed() -> None:
    """The event that it hangs in is its last, and nothing else is lost."""
    held = Held()
    observers = Observers([held], lambda text: None)
    observers.tell(Noticed("x"))
    assert held.reached.wait(BOUND)
    assert ["observer 'held' was too slow: it has not returned from the last event"] == observers.close(0)
    held.go.set()


def test_nothing_is_told_after_close() -> None:
    """What comes late is ignored, and closing again changes nothing."""
    kept, ours = Kept(), Prompt()
    observers = Observers([kept, ours], silent)
    observers.close()
    observers.tell(Noticed("late"))
    assert ([], [], []) == (observers.close(), kept, ours)


def test_without_threads_everybody_is_called_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, observers are told all the same, and dropped when they raise."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    kept, notices = Kept(), list[str]()
    observers = Observers([kept, raising(ValueError("x"))], notices.append)
    observers.tell_all(noticed(2))
    observers.tell(Noticed("x"))
    assert [*noticed(2), Noticed("x")] == kept
    assert ["observer 'f' raised ValueError: x; it is told nothing more"] == notices


def test_a_stuck_observer_does_not_keep_python_alive() -> None:
    """A program ends though an observer never returns, and what is told at its very end is ignored."""
    code = """
import time
from chora_mp.events import Noticed
from chora_mp.observers import Observers
observers = Observers([lambda event: time.sleep(3600)], print)
class Late:
    def __del__(self, tell=observers.tell):
        tell(Noticed("late"))
late = Late()
observers.tell(Noticed("x"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_progress_counts_items() -> None:
    """`on_progress` is called once an item with its running number; nobody else is told of the counting."""
    calls: list[tuple[int, int | None, str]] = []
    kept, ours = Kept(), Prompt()
    progress = Progress(lambda done, total, key: calls.append((done, total, key)))
    observers = Observers([progress, kept, ours], silent)
    observers.tell_all([ItemsCounted(2, None, ("a", "b")), Noticed("x"), ItemsCounted(5, 9, ("c", "d", "e"))])
    assert [] == observers.close(BOUND)
    assert [(1, None, "a"), (2, None, "b"), (3, 9, "c"), (4, 9, "d"), (5, 9, "e")] == calls
    assert ([Noticed("x")], [Noticed("x")]) == (kept, ours)


def test_progress_has_its_functions_name() -> None:
    """A notice names the function that a person has passed."""

    def on_progress(done: int, total: int | None, key: str) -> None:
        raise ValueError(key)

    observers = Observers([Progress(on_progress)], lambda text: None)
    observers.tell(ItemsCounted(1, 1, ("a",)))
    assert ["observer 'on_progress' raised ValueError: a; it is told nothing more"] == observers.close(BOUND)


def test_who_tells_knows_what_is_wanted() -> None:
    """Items and counts are only worth their while where somebody takes them."""

    class Many(Prompt):
        def tell_all(self, events: list[Event]) -> None:
            """Take many events."""

    def wanted(*observers: Any) -> tuple[bool, bool]:
        found = Observers(observers, silent)
        return found.per_item, found.counted

    assert (False, False) == wanted()
    assert (False, False) == wanted(Prompt())
    assert (True, False) == wanted(Many())
    assert (True, False) == wanted(Kept())
    assert (False, True) == wanted(Progress(print))
