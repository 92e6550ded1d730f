"""The bundle: a snapshot of all that decides the output besides the records, read once, the same for every worker."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chora_mp.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chora_mp.job import JinjaOptions, Job

# No template is this long, and no job has so many; what is, is data that happens to lie in the folder, and the
# coordinator and every worker would hold a copy.
LARGEST_TEMPLATE = 2**20
MOST_TEMPLATES = 64 * 2**20
_NOT_TEMPLATES = {".git", ".hg", ".svn", ".chora-mp", ".tox", ".venv", "__pycache__", "node_modules"}


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
    try:
        templates = {name: (shown(path), data) for name, path, data in _templates(job)}
    except OSError as error:
        raise JobError([f"{job.where('templates')}: cannot read {error.filename}: {error.strerror}"]) from None
    plugins = tuple(_plugin(job, name) for name in job.plugins)
    output = job.output.path if job.output else None
    labels = {key: job.where(key) for key in ("template", "key", "output.path", "plugins", "jinja.extensions")}
    depends = [_read(job, "depends", path) for path in job.depends]
    sources = {name: data for name, (_, data) in sorted(templates.items())}
    code = [(plugin.name, plugin.source) for plugin in plugins]
    try:
        digest = _digest(job.template, output, job.key, astuple(job.jinja), sources, dict(job.context), code, depends)
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
    size = 0
    left_out = os.path.realpath(job.output.dir) if job.output else None
    for folder in job.templates:
        for path in _files(str(folder), left_out):
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            if name in seen:
                continue
            data = _template_bytes(path)
            if data is not None:
                seen.add(name)
                size += len(data)
                if size > MOST_TEMPLATES:
                    most = MOST_TEMPLATES // 2**20
                    raise JobError([f"{job.where('templates')}: over {most} MiB of files; name a folder of templates"])
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


def _files(folder: str, left_out: str | None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every regular file below `folder`, through symlinks, but for the job's own output and what tools keep there."""
    real = os.path.realpath(folder)
    if real == left_out or real in above:  # a symlink to a folder above would go on for ever
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            yield path
        elif os.path.isdir(path) and name not in _NOT_TEMPLATES:
            with contextlib.suppress(PermissionError):  # only a job that reaches a template there needs to know
                yield from _files(path, left_out, (*above, real))


def _digest(*values: Any) -> str:
    """One digest of values, the same in every process: sets in order, and however parts are shared."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    parts: list[Any] | None = None
    if isinstance(value, dict):
        parts = [part for pair in value.items() for part in pair]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, (set, frozenset)):
        parts = sorted(_digest(part) for part in value)
    data = b"" if parts is not None else value if isinstance(value, bytes) else pickle.dumps(value, 5)
    update(f"{type(value).__qualname__} {len(data if parts is None else parts)}:".encode())
    update(data)
    for part in parts or ():
        _feed(update, part)
