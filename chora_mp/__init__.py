"""chora-mp renders records through Jinja2 templates on all cores, one document per record.

The names below are the library. They are imported when first used: a worker process, which imports this package too,
needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chora_mp.version import __version__

if TYPE_CHECKING:
    from chora_mp.batch import batch_generate, batch_generate_stream
    from chora_mp.errors import (
        ChoraError,
        Interrupted,
        JobError,
        OutputError,
        SourceError,
        TemplateError,
        WorkerError,
    )
    from chora_mp.job import Job
    from chora_mp.machine import Machine
    from chora_mp.records import BatchResult, Failure, ItemResult
    from chora_mp.sizing import Limits, Sizing, optimal_workers

_HOMES = {
    "batch_generate": "batch",
    "batch_generate_stream": "batch",
    "ChoraError": "errors",
    "Interrupted": "errors",
    "JobError": "errors",
    "OutputError": "errors",
    "SourceError": "errors",
    "TemplateError": "errors",
    "WorkerError": "errors",
    "Job": "job",
    "Machine": "machine",
    "BatchResult": "records",
    "Failure": "records",
    "ItemResult": "records",
    "Limits": "sizing",
    "Sizing": "sizing",
    "optimal_workers": "sizing",
}

__all__ = [
    "BatchResult",
    "ChoraError",
    "Failure",
    "Interrupted",
    "ItemResult",
    "Job",
    "JobError",
    "Limits",
    "Machine",
    "OutputError",
    "Sizing",
    "SourceError",
    "TemplateError",
    "WorkerError",
    "__version__",
    "batch_generate",
    "batch_generate_stream",
    "optimal_workers",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'chora_mp' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"chora_mp.{home}"), name)
