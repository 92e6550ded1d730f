"""Batches for callers on an event loop: the same run, in a thread of its own, that never holds up the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chora_mp.batch import generate, stream
from chora_mp.errors import Interrupted
from chora_mp.planning import Wishes
from chora_mp.selection import Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from chora_mp.batch import OnProgress
    from chora_mp.events import Observer
    from chora_mp.job import Job
    from chora_mp.records import BatchResult, ItemResult

    Records = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]

_T = TypeVar("_T")
_LOOK_SECONDS = 0.1  # between looks whether a wait for the caller's next record is still wanted


async def abatch_generate(
    job: Job,
    records: Records | None = None,
    *,
    on_progress: OnProgress | None = None,
    only: str | None = None,
    using: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    prune: bool = False,
    observers: Iterable[Observer] = (),
) -> BatchResult:
    """As `batch_generate`, with its options, awaited; `records` may be an async iterable.

    Cancelling it stops the batch cleanly: workers end at once, what is written is whole. Raises as `batch_generate`.
    """
    async with _Thread() as thread:
        given, wishes = thread.pulled(records), Wishes(Selection(only, None, shard, failed, using), force, prune)
        stopped = thread.is_stopped
        return await thread.run(lambda: generate(job, given, wishes, on_progress, observers, stopped, grace=0.0))


async def abatch_generate_stream(
    job: Job,
    records: Records | None = None,
    *,
    keep_text: bool = False,
    only: str | None = None,
    using: str | None = None,
    failed: bool = False,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    observers: Iterable[Observer] = (),
) -> AsyncIterator[ItemResult]:
    """As `batch_generate_stream`, with its options: the items as they are completed, in flat memory.

    A consumer that is slow slows the renderer. Closing the iterator, or cancelling who awaits it, stops the batch
    cleanly.
    """
    async with _Thread() as thread:
        given, wishes = thread.pulled(records), Wishes(Selection(only, None, shard, failed, using), force)
        items = stream(job, given, wishes, keep_text, observers, thread.is_stopped, grace=0.0)
        try:
            while (some := await thread.run(lambda: next(items, None))) is not None:
                for item in some:
                    yield item
        finally:
            thread.stop()
            await thread.run(lambda: _close(items), shielded=True)


def _close(items: Iterator[Any]) -> None:
    close: Callable[[], None] = getattr(items, "close", lambda: None)
    close()


class _Thread:
    """One thread that a batch runs in, whoever awaits it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "chora-mp")
        self._stopped = False
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stop()
        self._pool.shutdown(wait=False)

    def stop(self) -> None:
        """Have the batch end as soon as it asks."""
        self._stopped = True

    def is_stopped(self) -> bool:
        """Whether the batch is to end."""
        return self._stopped

    async def run(self, work: Callable[[], _T], *, shielded: bool = False) -> _T:
        """What `work` returns; who is cancelled meanwhile waits until it has ended, which it is asked for."""
        future = self._loop.run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not shielded:
                self.stop()
            with contextlib.suppress(Exception, Interrupted):
                await future
            raise

    def pulled(self, records: Records | None) -> Iterable[Mapping[str, Any]] | None:
        """The records for the thread: those of an async iterable are awaited on the caller's loop."""
        return self._pull(records) if isinstance(records, AsyncIterable) else records

    def _pull(self, records: AsyncIterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        iterator = aiter(records)

        async def following() -> Mapping[str, Any] | None:
            return await anext(iterator, None)

        while not self._stopped:
            future = asyncio.run_coroutine_threadsafe(following(), self._loop)
            record = self._waited(future)
            if record is None:
                return
            yield record

    def _waited(self, future: Future[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
        """The next record; None: there is none, or nobody wants it any more. Raises what the iterable raises."""
        while not wait([future], _LOOK_SECONDS).done:
            if self._stopped:
                future.cancel()
                return None
        return future.result()
