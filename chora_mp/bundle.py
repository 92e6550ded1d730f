"""The bundle: a snapshot of all that decides the output besides the records, read once, the same for every worker."""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chora_mp.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chora_mp.job import JinjaOptions, Job

# No template is this long; what is, is data that happens to lie in the folder, and every worker would hold a copy.
LARGEST_TEMPLATE = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Plugin:
    """A Python file (`path` and its `source` as it was read) or the `name` of an installed module."""

    name: str
    path: str | None = None
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a worker needs to render any record of a job.

    `templates` maps a template's name to its path, as messages show it, and its bytes. `labels` says how messages name
    the job's keys (`output.path` → `job.yaml:12: output.path`). `digest`: BLAKE2b-128 in hexadecimal.
    """

    template: str
    path: str | None
    key: str | None
    jinja: JinjaOptions
    folder: str
    templates: Mapping[str, tuple[str, bytes]] = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    plugins: tuple[Plugin, ...]
    labels: Mapping[str, str]
    digest: str


def take_bundle(job: Job) -> Bundle:
    """The bundle of `job` as the files stand now.

    Raises `JobError` where a plug-in, a dependency or a template folder cannot be read, or where a constant cannot be
    carried to another process.
    """
    templates = {name: (shown(path), data) for name, path, data in _templates(job)}
    plugins = tuple(_plugin(job, name) for name in job.plugins)
    output = job.output.path if job.output else None
    labels = {key: job.where(key) for key in ("template", "key", "output.path", "plugins", "jinja.extensions")}
    parts = (job.template, output, job.key, job.jinja, sorted(templates.items()), dict(job.context), plugins)
    depends = [_read(job, "depends", path) for path in job.depends]
    try:
        digest = hashlib.blake2b(pickle.dumps((parts, depends), 5), digest_size=16).hexdigest()
    except Exception as error:  # noqa: BLE001  (a constant's own __reduce__ may raise anything)
        raise JobError([f"{job.where('context')}: a constant cannot be sent to the workers ({error})"]) from None
    folder = str(job.folder)
    return Bundle(
        job.template,
        output,
        job.key,
        job.jinja,
        folder,
        templates,
        dict(job.context),
        plugins,
        labels,
        digest,
    )


def shown(path: str | os.PathLike[str]) -> str:
    """`path` as messages show it: relative to where the person stands, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _plugin(job: Job, name: str) -> Plugin:
    if not name.endswith(".py"):
        return Plugin(name)
    return Plugin(Path(name).stem, name, _read(job, "plugins", Path(name)))


def _read(job: Job, key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobError([f"{job.where(key)}: cannot read {shown(path)}: {error.strerror}"]) from None


def _templates(job: Job) -> Iterator[tuple[str, str, bytes]]:
    """Name, path and bytes of every template; a name in an earlier folder hides one in a later."""
    seen: set[str] = set()
    left_out = os.path.realpath(job.output.dir) if job.output else None
    for folder in job.templates:
        for path in _files(str(folder), left_out):
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            if name in seen:
                continue
            data = _template_bytes(path)
            if data is not None:
                seen.add(name)
                yield name, path, data


def _template_bytes(path: str) -> bytes | None:
    """A template's bytes; None for what cannot be read: only a job that reaches the file needs to know."""
    try:
        if os.path.getsize(path) > LARGEST_TEMPLATE:
            return None
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _files(folder: str, left_out: str | None) -> Iterator[str]:
    """Every regular file below `folder`, through symlinks, but for hidden folders and the job's own output."""
    visited = {left_out}
    for top, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(files):
            path = os.path.join(top, name)
            if os.path.isfile(path):
                yield path
