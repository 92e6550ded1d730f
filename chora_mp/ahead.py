"""Ahead: what a run is going to want is started while this process still imports and checks what it needs itself.

Only the command does this. A guess costs nothing but processor time: what is not wanted after all ends by itself, and
where a run is at work, whose ledger has no seal, nothing is begun.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from chora_mp import looks
from chora_mp.errors import JobError
from chora_mp.sinks import STATE_FOLDER


def start_ahead(job: str, options: dict[str, Any]) -> None:
    """Start the fork server if this is the job's first run; else look at its outputs, if there are many.

    `options`: the command's, by name.
    """
    try:
        found = _output(job, options["output_dir"])
    except (JobError, OSError):  # told when the job is loaded
        return
    if found is None:
        return
    folder, workers = found
    state = os.path.join(folder, STATE_FOLDER)
    try:
        if os.path.exists(state):
            ledger = os.path.join(state, looks.LEDGER)
            looks.start_ahead(ledger, folder, looks.seal_beside(ledger))
        elif workers != 0 and options["jobs"] != 0:
            from chora_mp.seats import Server  # noqa: PLC0415  (no need of it otherwise)

            Server.start_ahead()
    except OSError:  # no room for processes: told when there is need of one
        return


def _output(job: str, output_dir: str | None) -> tuple[str, Any] | None:
    """The output folder of the job in the file `job`, and its `workers`; None where that cannot be told so soon."""
    from chora_mp.yamlfile import read_yaml  # noqa: PLC0415

    if not os.path.isfile(job):  # a pipe can be read only once
        return None
    data = read_yaml(Path(job), job).data
    if not isinstance(data, dict):
        return None
    output = data.get("output")
    folder = output.get("dir") if isinstance(output, dict) else None
    if isinstance(output, dict) and folder is None:
        folder = os.path.join("build", str(data.get("name") or Path(job).stem))
    if output_dir is not None:
        folder = os.path.abspath(output_dir)
    if not isinstance(folder, str) or not folder:
        return None
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(job)), folder)), data.get("workers")
