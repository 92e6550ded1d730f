"""chora-mp renders records through Jinja2 templates on all cores, one document per record.

The names below are the library. They are imported when first used: a worker process, which imports this package too,
needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chora_mp.version import __version__

if TYPE_CHECKING:
    from chora_mp.abatch import abatch_generate, abatch_generate_stream
    from chora_mp.batch import batch_generate, batch_generate_stream, plan, retry_failed
    from chora_mp.errors import (
        BatchFailed,
        ChoraError,
        Interrupted,
        JobError,
        LedgerError,
        OutputError,
        SourceError,
        TemplateError,
        WorkerError,
    )
    from chora_mp.events import BatchCompleted, BatchStarted, ItemCompleted
    from chora_mp.generators import Generated, GenerationError, Throttled, generator
    from chora_mp.job import Job
    from chora_mp.machine import Machine
    from chora_mp.planning import Plan, PlannedItem
    from chora_mp.records import BatchResult, Failure, ItemResult
    from chora_mp.sizing import Limits, Sizing, optimal_workers
    from chora_mp.subscription import subscribe_events
    from chora_mp.tuning import Tuning, tune
    from chora_mp.upkeep import Check, Status, Verification, check, status, verify

_HOMES = {
    "ItemCompleted": "events",
    "BatchStarted": "events",
    "BatchCompleted": "events",
    "abatch_generate": "abatch",
    "abatch_generate_stream": "abatch",
    "BatchFailed": "errors",
    "Generated": "generators",
    "GenerationError": "generators",
    "Throttled": "generators",
    "generator": "generators",
    "batch_generate": "batch",
    "batch_generate_stream": "batch",
    "plan": "batch",
    "retry_failed": "batch",
    "ChoraError": "errors",
    "Interrupted": "errors",
    "JobError": "errors",
    "LedgerError": "errors",
    "OutputError": "errors",
    "SourceError": "errors",
    "TemplateError": "errors",
    "WorkerError": "errors",
    "Job": "job",
    "Machine": "machine",
    "Plan": "planning",
    "PlannedItem": "planning",
    "BatchResult": "records",
    "Failure": "records",
    "ItemResult": "records",
    "Limits": "sizing",
    "Sizing": "sizing",
    "optimal_workers": "sizing",
    "Check": "upkeep",
    "Status": "upkeep",
    "Verification": "upkeep",
    "check": "upkeep",
    "status": "upkeep",
    "subscribe_events": "subscription",
    "verify": "upkeep",
    "Tuning": "tuning",
    "tune": "tuning",
}

__all__ = [
    "BatchCompleted",
    "BatchFailed",
    "BatchResult",
    "BatchStarted",
    "Check",
    "ChoraError",
    "Failure",
    "Generated",
    "GenerationError",
    "Interrupted",
    "ItemCompleted",
    "ItemResult",
    "Job",
    "JobError",
    "LedgerError",
    "Limits",
    "Machine",
    "OutputError",
    "Plan",
    "PlannedItem",
    "Sizing",
    "SourceError",
    "Status",
    "TemplateError",
    "Throttled",
    "Tuning",
    "Verification",
    "WorkerError",
    "__version__",
    "abatch_generate",
    "abatch_generate_stream",
    "batch_generate",
    "batch_generate_stream",
    "check",
    "generator",
    "optimal_workers",
    "plan",
    "retry_failed",
    "status",
    "subscribe_events",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'chora_mp' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"chora_mp.{home}"), name)
