"""Rules about failures (no I/O): which may pass, how long they wait, when a run stops early, how many seats fit."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from chora_mp.records import Outcome

Policy = Literal["collect", "fail-fast"]

RETRIES = 2
"""Further attempts where retries are asked for without a number: three in all, as chora-compose documents."""

DEADLY = frozenset({"Timeout", "WorkerDied"})
"""Types of failures that the coordinator finds, and not the worker, which has come to its end by the item."""

_NOISE = 1e-9  # 29 of 100 are not more than 0.29 of them, whatever 0.29 * 100 comes to
_FIRST_SHARE = 100  # items before a share of an unknown total means anything


@dataclass(frozen=True, slots=True)
class Errors:
    """What a job wants done about failed items.

    `retries`: further attempts of a failure that may pass, after pauses of `backoff` (shortest, longest) seconds;
    `retry_on`: names of further exceptions that may pass. The run stops when more than `max_failures` items, or more
    than `max_failure_share` (0 to 1) of the items to render, have failed; None: it does not.
    """

    policy: Policy = "collect"
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    backoff: tuple[float, float] = (2.0, 10.0)
    max_failures: int | None = None
    max_failure_share: float | None = None


# What the system says when something is busy, away or used up for the moment; a full disk is not of them, for somebody
# has to make room.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EINTR", "EBUSY", "ENFILE", "EMFILE", "ENOBUFS", "ENOLCK", "EDEADLK", "ETXTBSY", "ESTALE",
        "ETIMEDOUT", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ESHUTDOWN",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH",
    )
    if hasattr(errno, name)
)  # fmt: skip
_PASSING_KINDS = (ConnectionError, TimeoutError, BlockingIOError, InterruptedError)
_LOOKED_UP_LATER = -3  # EAI_AGAIN, "temporary failure in name resolution", of getaddrinfo(3)


def may_pass(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether `error` may be gone at the next attempt: an `OSError` that passes by nature, or one of the `names`.

    A name is that of the exception's class or of a class that it is derived from, with its module or without.
    """
    for kind in type(error).__mro__:
        if kind.__name__ in names or f"{kind.__module__}.{kind.__qualname__}" in names:
            return True
    if not isinstance(error, OSError):
        return False
    reason = getattr(error, "reason", None)  # urllib wraps what befell the connection
    if isinstance(reason, OSError):
        return may_pass(reason, names)
    code = error.errno
    resolving = type(error).__name__ == "gaierror"
    return isinstance(error, _PASSING_KINDS) or (code == _LOOKED_UP_LATER if resolving else code in _PASSING)


def pause(attempt: int, backoff: tuple[float, float], draw: Callable[[], float]) -> float:
    """Seconds before the next attempt after so many failed ones: doubling, and drawn from the upper half.

    Drawn, so that many that failed together do not all come back together; `draw` gives numbers from 0 to 1.
    """
    shortest, longest = backoff
    most = min(longest, shortest * 2.0 ** min(attempt, 60))
    return max(shortest, most * (1 + draw()) / 2)


class Stop(NamedTuple):
    """Why a run stops early. `fatal`: it cannot go on; else it was asked to."""

    reason: str
    fatal: bool = False


# Going on makes no sense once so many items in a row failed to be written for one reason that is not their own. The
# disk is everybody's; rights may be those of one folder.
_HOPELESS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO), 20) | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.ENFILE, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ENODEV, errno.ENXIO), 1000
)


class Breaker:
    """Says when a run is to stop early, from what became of each span."""

    def __init__(self, errors: Errors) -> None:
        self._errors = errors
        self._failed = self._done = 0
        self._refusal = self._refused = 0

    def judge(self, outcome: Outcome, todo: int | None) -> Stop | None:
        """Take one more outcome into account; `todo`: how many items the run is to render, None: nobody knows."""
        self._failed += outcome.failed
        self._done += outcome.size
        if outcome.size:
            again = outcome.refused and outcome.refused == self._refusal
            self._refused = outcome.size + (self._refused if again else 0)
            self._refusal = outcome.refused
        if self._refusal and self._refused >= _HOPELESS.get(self._refusal, float("inf")):
            words = f"{os.strerror(self._refusal)}: the last {self._refused:,} items could not be written"
            return Stop(words, fatal=True)
        return self._tolerated(todo) if self._failed else None

    def _tolerated(self, todo: int | None) -> Stop | None:
        errors = self._errors
        if errors.policy == "fail-fast":
            return Stop("an item failed, and the job is to stop at the first (fail-fast)")
        if errors.max_failures is not None and self._failed > errors.max_failures:
            return Stop(f"more items failed than errors.max_failures allows ({errors.max_failures:,})")
        share = errors.max_failure_share
        if share is None:
            return None
        base = max(_FIRST_SHARE, self._done) if todo is None else todo
        if self._failed > share * base + _NOISE:
            whole = f"{base:,}" if todo is not None else f"the first {base:,}"
            return Stop(f"more items failed than errors.max_failures allows ({share * 100:g}% of {whole})")
        return None


_FLOOR_SHARE = 0.05
_LEAST_FLOOR = 50 * 10**6
_FIRST_WAIT, _MOST_WAIT = 2.0, 60.0


class Room:
    """How many seats there is memory for, from what is free now and then.

    Short is what is under a twentieth of what was free at the start (but 50 MB at least); then one seat less, and one
    seat only where half of that is left. There is room for one more when three times as much is free, after a while
    that doubles each time that it was too soon.
    """

    def __init__(self, most: int, free: int) -> None:
        """`most`: seats with no shortage. `free`: bytes at the start."""
        self.most = self.allowed = self.least = most
        self.floor = max(_LEAST_FLOOR, int(free * _FLOOR_SHARE))
        self._wait, self._raised = _FIRST_WAIT, False
        self._changed = float("-inf")

    def allow(self, free: int, seats: int, now: float) -> int:
        """How many seats may be open at the time `now`, in seconds, with so many open and so many bytes free."""
        if free < self.floor:
            # One after the other: what was taken away last has to be gone before it shows whether that was enough.
            wanted = 1 if self.is_critical(free) else max(1, min(self.allowed, seats) - 1)
            if wanted < self.allowed and (wanted == 1 or seats <= self.allowed):
                if self._raised:
                    self._wait, self._raised = min(_MOST_WAIT, self._wait * 2), False
                self._change(wanted, now)
        elif self.allowed < self.most and free > 3 * self.floor and now - self._changed >= self._wait:
            self._raised = True
            self._change(self.allowed + 1, now)
        return self.allowed

    def is_narrow(self, free: int) -> bool:
        """Whether so few bytes are free that it had better be looked at often."""
        return free < 3 * self.floor

    def is_critical(self, free: int) -> bool:
        """Whether so few bytes are free that nobody's item can be waited for."""
        return free < self.floor / 2

    def _change(self, allowed: int, now: float) -> None:
        self.allowed, self._changed = allowed, now
        self.least = min(self.least, allowed)
