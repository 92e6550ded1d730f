"""The bundle: a snapshot of all that decides the output besides the records, read once, the same for every worker."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chora_mp.errors import JobError
from chora_mp.generators import installed
from chora_mp.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chora_mp.job import JinjaOptions, Job

# No template is this long, and no job has so many; what is, is data that happens to lie in the folder, and the
# coordinator and every worker would hold a copy.
LARGEST_TEMPLATE = 2**20
MOST_TEMPLATES = 64 * 2**20
_LABELS = ("template", "key", "output.path", "plugins", "jinja.extensions", "generator")
_OF_CONTENT = ("{{ closure }}", "{{ output }}", "{{ key }}")
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

    `template`, `path` and `key` are expressions over a record; where `generator` is None the record is a content
    config's, and they only name what was told of it when it was read, `asked` being the job's own key and path.
    `configured` says how messages name the generators that the job has options for.
    `templates` maps a template's name to its path, as messages show it, and its bytes. `imported`: the files of local
    modules that plug-ins import. `labels` says how messages name the job's keys (`output.path` →
    `job.yaml:12: output.path`). `parts` maps whatever else decides what a document says to its digest or version, under
    the name that a person would give it. `setting` is the digest of the parts and of the expressions for key, path and
    template, `digest` that of it all: BLAKE2b-128 in hexadecimal.
    """

    template: str
    path: str | None
    key: str | None
    jinja: JinjaOptions
    folder: str
    templates: Mapping[str, tuple[str, bytes]] = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    plugins: tuple[Plugin, ...]
    imported: tuple[str, ...]
    labels: Mapping[str, str]
    parts: Mapping[str, str] = field(repr=False)
    setting: str
    digest: str
    generator: str | None = "jinja2"
    asked: tuple[str | None, str | None] = (None, None)
    configured: Mapping[str, str] = field(default_factory=dict)


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
    asked = (job.key, output)
    labels = {key: job.where(key) for key in _LABELS}
    try:
        imported = _imported(job, plugins)
        parts = dict(_parts(job, plugins, imported))
        setting = digest_of(parts, job.template, output, job.key)
    except JobError:
        raise
    except Exception as error:  # noqa: BLE001  (a constant's own __reduce__ may raise anything)
        raise JobError([f"{job.where('context')}: a constant cannot be sent to the workers ({error})"]) from None
    folder = str(job.folder)
    template, output, key = (job.template, output, job.key) if job.template is not None else _OF_CONTENT
    return Bundle(
        template,
        output,
        key,
        job.jinja,
        folder,
        templates,
        dict(job.context),
        plugins,
        tuple(imported),
        labels,
        parts,
        setting,
        digest_of(setting, {name: data for name, (_, data) in sorted(templates.items())}),
        job.generator,
        asked,
        {name: job.where(f"generators.{name}") for name in job.generators},
    )


def version(package: str) -> str:
    """The version of an installed package."""
    from importlib import metadata  # noqa: PLC0415  (20 ms that a worker need not spend)

    return metadata.version(package)


def _parts(job: Job, plugins: tuple[Plugin, ...], imported: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Whatever decides what documents say, but for templates and records: its name, and its digest or version."""
    yield "chora-mp", __version__
    yield "Jinja2", version("jinja2")
    yield "Python", ".".join(map(str, sys.version_info[:2]))
    yield "jinja", digest_of(astuple(job.jinja))
    if job.generator != "jinja2":
        yield from _generator_versions(job.generator)
    for name, value in job.context.items():
        yield f"context.{name}", digest_of(value)
    for plugin in plugins:
        name = os.path.relpath(plugin.path, job.folder) if plugin.path else plugin.name
        yield f"plug-in {name}", digest_of(plugin.source)
    for path, source in imported.items():
        yield f"module {os.path.relpath(path, job.folder)}", digest_of(source)
    for depend in job.depends:
        yield f"depends {os.path.relpath(depend, job.folder)}", digest_of(_read(job, "depends", depend))


def _generator_versions(name: str | None) -> Iterator[tuple[str, str]]:
    """The packages that a generator comes from, with their versions; None: those that content configs may name."""
    for generator, entry in installed().items():
        if entry.dist is not None and name in (generator, None):
            yield f"generator {generator}", f"{entry.dist.name} {entry.dist.version}"
    for generator, package in (("minijinja", "minijinja"), ("bdd_scenario", "gherkin-official")):
        if name in (generator, None):
            with contextlib.suppress(ImportError):  # not installed: its items say so
                yield package, version(package)


def _imported(job: Job, plugins: tuple[Plugin, ...]) -> dict[str, bytes]:
    """The local modules that plug-ins import, from where `plugin_folders` lets them."""
    if not plugins:
        return {}
    from chora_mp.imports import imported_files  # noqa: PLC0415  (few jobs have plug-ins)

    files = [(plugin.path, plugin.source) for plugin in plugins if plugin.path]
    modules = [plugin.name for plugin in plugins if not plugin.path]
    return imported_files(files, modules, plugin_folders(plugins, str(job.folder)))


def plugin_folders(plugins: tuple[Plugin, ...], folder: str) -> list[str]:
    """Where plug-ins may import from: beside themselves, and beside the job file in `folder`."""
    if not plugins:
        return []
    return [*dict.fromkeys(os.path.dirname(plugin.path) for plugin in plugins if plugin.path), folder]


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


def digest_of(*values: Any) -> str:
    """The BLAKE2b-128 of values in hexadecimal: alike in every process, sets in order, and however parts are shared."""
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
        parts = sorted(digest_of(part) for part in value)
    data = b"" if parts is not None else value if isinstance(value, bytes) else pickle.dumps(value, 5)
    update(f"{type(value).__qualname__} {len(data if parts is None else parts)}:".encode())
    update(data)
    for part in parts or ():
        _feed(update, part)
