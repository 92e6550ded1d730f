"""A job: read, checked and frozen. The reading and checking of job files is in `jobfile`, imported on demand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chora_mp.policy import Errors
from chora_mp.sizing import Limits

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping

    from chora_mp.generators import LaneName

Format = Literal["jsonl", "json", "yaml", "csv", "toml", "sqlite", "python", "content"]


@dataclass(frozen=True, slots=True)
class Request:
    """One document that is asked of a content config: its id or file, what of its context is to be other, and where to.

    `output`: the path inside the output folder; None: as the job says. `key`: its name; None: the output, or the id.
    """

    config: str
    context: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    priority: float | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from.

    `path` is absolute; `python` is `(file or module, callable)`. `records` is the path to the list inside a JSON,
    YAML or TOML document, as names. `delimiter` and `encoding` matter for text; `query` for SQLite. `name` is what
    messages call it: the path as the job file spells it. Format `content`: `path` is the folder of content configs, and
    `requests` are those that are asked for, none: each config once.
    """

    name: str
    format: Format
    path: Path | None = None
    python: tuple[str, str] | None = None
    records: tuple[str, ...] = ()
    delimiter: str = ","
    encoding: str = "utf-8"
    query: str | None = None
    gzip: bool = False
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """Where documents go: an absolute folder and the Jinja2 expression of the path inside it.

    `fsync`: whether each document is on the disk itself before it counts as written.
    """

    dir: Path
    path: str
    fsync: bool = False


@dataclass(frozen=True, slots=True)
class GeneratorOptions:
    """What a job wants of one generator: the `lane` that it runs on, and the limits that are other than the job's.

    `limits` holds only those that were given, by their names in `Limits`.
    """

    lane: LaneName | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JinjaOptions:
    """Options of the Jinja2 environment; defaults are Jinja2's own but for `undefined` and `autoescape`.

    Any of the `extra` (Jinja2's own parameter names: `trim_blocks`, `variable_start_string`, …) is passed on as it is.
    """

    undefined: Literal["strict", "default", "chainable", "debug"] = "strict"
    autoescape: bool | Literal["auto"] = "auto"
    sandbox: bool = False
    extensions: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What to render, from what, to where; immutable, every path absolute.

    `template` is None, and `generator`, too, where content configs say what to render. `generators`: options by a
    generator's name; `lane` overrides all of theirs. `context` holds the loaded constants. `plugins` are absolute paths
    of Python files or names of modules. `lines` maps a dotted key of the job file (`output.path`) to its line, for
    messages. `workers` 0 renders inline.
    """

    name: str
    folder: Path
    template: str | None
    templates: tuple[Path, ...]
    source: Source | None = None
    output: Output | None = None
    key: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    depends: tuple[Path, ...] = ()
    jinja: JinjaOptions = field(default_factory=JinjaOptions)
    workers: int | Literal["auto"] = "auto"
    limits: Limits = field(default_factory=Limits)
    errors: Errors = field(default_factory=Errors)
    generator: str | None = "jinja2"
    generators: Mapping[str, GeneratorOptions] = field(default_factory=dict)
    lane: LaneName | None = None
    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, require: Collection[str] = ()) -> Job:
        """The job in the file at `path`.

        `require` names keys that the caller cannot do without, of `source` and `output`.
        Raises `JobError` with every problem of the file at once.
        """
        from chora_mp.jobfile import load_job  # noqa: PLC0415  (pydantic is for those who read job files)

        return load_job(Path(path), require)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], folder: str | os.PathLike[str] = ".") -> Job:
        """The job that `data` describes, in the words of a job file; paths are relative to `folder`.

        Raises `JobError` with every problem at once.
        """
        from chora_mp.jobfile import job_from_mapping  # noqa: PLC0415

        return job_from_mapping(data, Path(folder))

    def options_of(self, generator: str) -> GeneratorOptions:
        """What the job wants of a generator, the lane that is asked of all included."""
        options = self.generators.get(generator, GeneratorOptions())
        return replace(options, lane=self.lane) if self.lane else options

    def limits_of(self, generator: str) -> Limits:
        """The job's limits as they hold for a generator."""
        return replace(self.limits, **self.options_of(generator).limits)

    def replace(self, **changes: Any) -> Job:
        """A copy with some fields changed, as `dataclasses.replace`."""
        return replace(self, **changes)

    def where(self, key: str) -> str:
        """`job.yaml:12: output.path`: how messages name a key of this job."""
        place = self.file or "job"
        line = self.lines.get(key)
        return f"{place}:{line}: {key}" if line else f"{place}: {key}"
