"""The watchdog: kills workers that have been at one item, or at getting ready, for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chora_mp.crew import Crew
    from chora_mp.lanes import Seat
    from chora_mp.slots import Note

START_SECONDS = 60.0
"""What a worker may take between records, for its plug-ins above all, where an item may not take longer."""

_ASLEEP_SECONDS = 3.0  # between two looks; they are to be much closer, unless we were stopped (Ctrl-Z), or held up


class Watchdog:
    """Looks at the slots now and then; `timeout` in seconds an item, None: it never kills."""

    def __init__(self, crew: Crew, timeout: float | None, clock: Callable[[], float]) -> None:
        self.timeout = timeout
        self._crew = crew
        self._clock = clock
        self._overdue: dict[int, Note] = {}
        self._quiet: dict[int, float] = {}
        self._excused: dict[int, tuple[Note, float]] = {}
        self._looked = clock()

    def is_due(self, tick: float) -> bool:
        """Whether the last look was more than `tick` seconds ago."""
        return self._clock() - self._looked > tick

    def look(self, load: Mapping[int, int]) -> None:
        """Kill those that are late. `load`: how many spans each seat has, by its number."""
        now = self._clock()
        if now - self._looked > _ASLEEP_SECONDS:
            self._excuse_all(now)
        self._looked = now
        for seat in self._crew.seats if self.timeout is not None else ():
            note = seat.note()
            if self._is_late(seat, note, now, load):
                # Which item it was is read again after the death: it may just have ended, and then nobody is guilty.
                self._overdue[seat.number] = note
                seat.kill()

    def _excuse_all(self, now: float) -> None:
        """Let everybody begin anew: what stopped us stopped the workers, too, and their time went on.

        Once an item: what held us up may be an observer, and an item that hangs must not hide behind one for ever.
        """
        self._quiet.clear()
        for seat in self._crew.seats:
            note = seat.note()
            if self._excused.get(seat.number, (None, 0.0))[0] != note:
                self._excused[seat.number] = note, now

    def has_answered(self, seat: Seat) -> None:
        """Note that a worker is well."""
        self._quiet.pop(seat.number, None)

    def forget(self, seat: Seat) -> tuple[Note | None, bool]:
        """What the seat was at when it was killed for being late, if it was; whether it was getting ready."""
        self._excused.pop(seat.number, None)
        overdue, quiet = self._overdue.pop(seat.number, None), self._quiet.pop(seat.number, None)
        return overdue, overdue is not None and quiet is not None

    def start_seconds(self) -> float:
        """What a worker may take to get ready: an item's time, but at least a minute."""
        return max(START_SECONDS, self.timeout or 0)

    def _is_late(self, seat: Seat, note: Note, now: float, load: Mapping[int, int]) -> bool:
        if note.seq is not None:
            self._quiet.pop(seat.number, None)
            excused, since = self._excused.get(seat.number, (None, 0.0))
            return now - (since if excused == note else note.since) > (self.timeout or 0)
        since = self._quiet.setdefault(seat.number, now) if load[seat.number] else now
        since = max(since, seat.answered)
        return now - since > self.start_seconds()
