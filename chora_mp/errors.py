"""The errors that end a request; what befalls a single item is a `Failure`, not an error.

ChoraError                 exit code 2 unless it says otherwise
├── JobError               the job file or its options: every problem at once
├── SourceError            the records cannot be read at all, or changed while they were read
├── TemplateError          a template that the job reaches, or a plug-in, is broken
├── OutputError            the output folder cannot be used
├── LedgerError            the ledger cannot be read or written, or another run holds it
├── WorkerError            the workers cannot be started or keep dying before they reach an item
└── BatchFailed            items have failed, and the caller asked for that to be an error; exit code 1

KeyboardInterrupt
└── Interrupted            stopped by a signal, in good order; exit code 130
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chora_mp.records import BatchResult


class ChoraError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the command exits with.

    `result` says what was done by then, where a run had begun to render.
    """

    exit_code = 2
    result: BatchResult | None = None


class JobError(ChoraError):
    """Everything that is wrong with a job; `problems` holds one line each, `where: what is wrong; what to do`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[JobError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class SourceError(ChoraError):
    """The records cannot be read: names the file and, where there is one, the line."""


class TemplateError(JobError):
    """Templates or plug-ins that the job reaches are broken; `problems` as in `JobError`."""


class OutputError(ChoraError):
    """The output folder cannot be made or written to."""


class LedgerError(ChoraError):
    """The ledger cannot be read or written, is somebody else's, or is held by another run."""


class WorkerError(ChoraError):
    """Worker processes cannot be started, or die before they reach an item."""


class BatchFailed(ChoraError):  # noqa: N818  (what `raise_if_failed` raises)
    """Items of a batch have failed; `result` says which."""

    exit_code = 1

    def __init__(self, result: BatchResult) -> None:
        self.result = result
        first = result.failures[0] if result.failures else None
        named = (
            f"; the first is {first.key!r}: {first.error.type}: {first.error.message}" if first and first.error else ""
        )
        super().__init__(f"{result.failed:,} of {result.total:,} items failed{named}")

    def __reduce__(self) -> tuple[type[BatchFailed], tuple[BatchResult | None]]:
        return type(self), (self.result,)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; `result` says what was done by then.

    No `ChoraError`: what stops a program must not end in somebody's `except Exception`.
    """

    exit_code = 130

    def __init__(self, message: str, result: BatchResult | None = None) -> None:
        self.result = result
        super().__init__(message)

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, BatchResult | None]]:
        return type(self), (str(self), self.result)
