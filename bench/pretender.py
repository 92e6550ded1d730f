"""A worker that only pretends to render: it answers at once, with all that a real one would have told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from chora_mp import seats
from chora_mp.records import Outcome
from chora_mp.worker import Worker

if TYPE_CHECKING:
    from chora_mp.records import Orders, Span

ITEM_SECONDS = 0.0006
"""What an item is said to have taken: that of an AWS operation in stock Jinja2."""

_DIGEST = bytes(16)
_SIZE = 300  # bytes


class Pretender(Worker):
    """Plans like any worker, and renders nothing."""

    def render(self, span: Span, budget: float) -> Outcome:  # noqa: ARG002
        """The outcome of a span whose items are all rendered, with their rows for the ledger."""
        rows, now = self._rows(), time.time_ns()
        if rows is not None:
            for seq in (span.seq + place for place in span.places()):
                name = f"{seq >> 8:x}/{seq:x}"
                rows._values += (  # noqa: SLF001
                    span.at(seq), name, f"{name}.txt", _DIGEST, 1, _DIGEST, _SIZE, now, seq, ITEM_SECONDS
                )  # fmt: skip
        seconds = span.size * ITEM_SECONDS
        path = rows.store() if rows else None
        return Outcome(span.count, span.size, 0, span.size * _SIZE, seconds, (), None, path, span.count - span.size)


def start(orders: Orders, slots: str, seat: int, semaphores: list[str]) -> None:
    """Make this process the pretender of `seat`."""
    real_start(orders, slots, seat, semaphores)
    if isinstance(seats._worker, Worker):  # noqa: SLF001
        seats._worker.__class__ = Pretender  # noqa: SLF001


real_start = seats.start
