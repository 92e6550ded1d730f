"""The sections of a job file as pydantic models, the reference of its keys; `chora-mp schema` prints them.

The checks of a section run in the order of its fields, so that a later one may look at an earlier one
(`ValidationInfo.data`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chora_mp.jobvalues import (
    FORMATS,
    OPTIONAL,
    Constants,
    Context,
    Count,
    Delimiter,
    Duration,
    Encoding,
    ExceptionNames,
    Extensions,
    File,
    Files,
    Flag,
    Folder,
    Folders,
    Format,
    Lane,
    MostFailures,
    Name,
    Names,
    OutputFolder,
    Plugins,
    Priority,
    PythonCallable,
    Rate,
    Requests,
    Retries,
    Size,
    Text,
    Unguessed,
    Workers,
    advice,
    choice,
    found,
    missing,
    origin,
    problem,
)
from chora_mp.policy import Policy  # noqa: TC001  (pydantic evaluates the annotation)
from chora_mp.sizing import Limits

if TYPE_CHECKING:
    from pathlib import Path

_READ_BY = {
    "query": ("sqlite",),
    "records": ("json", "yaml", "toml"),
    "delimiter": ("csv", "tsv"),
    "encoding": ("json", "yaml", "csv", "tsv", "toml"),
}
_NEEDED_BY = {"query": "sqlite", "records": "toml"}


def _key(default: Any, description: str) -> Any:
    """A key of a section; its default is checked and turned into its value like what a file gives."""
    return Field(default, description=description)


class Section(BaseModel):
    """A mapping in a job file: no unknown keys, no types changed silently; null stands for the default."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True)
    keeps_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise problem(f"must be a mapping (found {found(value)}); write its keys indented below it")
        nulls = cls.model_fields.keys() - cls.keeps_null
        return {key: item for key, item in value.items() if item is not None or key not in nulls}


class SourceSection(Section):
    """Where records come from: a file, a database, or a Python callable."""

    format: Format | None = _key(None, "What the file is; default: by its extension, less .gz.")
    python: PythonCallable | None = _key(
        None, "A callable that returns records: file.py:function or package.module:function."
    )
    path: File | None = _key(None, "The file of records.")
    query: Text | None = _key(None, "SQLite: the SELECT whose rows are the records.")
    records: Names | None = _key(None, "JSON, YAML, TOML: the path to the list of records inside the document, as a.b.")
    delimiter: Delimiter | None = _key(None, "CSV: the character between fields; default: a comma, for TSV a tab.")
    encoding: Encoding | None = _key(None, "JSON, YAML, CSV, TOML: the file's encoding; default: utf-8.")

    @field_validator("python")
    @classmethod
    def _check_python(cls, value: tuple[str, str] | None, info: ValidationInfo) -> tuple[str, str] | None:
        if value and info.data.get("format", "python") != "python":
            raise problem("a Python source has no format; remove 'format'")
        return value

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        form = info.data.get("format")
        # `python` is None where it isn't given, and absent where it is wrong.
        if value is None and info.data.get("python", "wrong") is None:
            raise missing("source.path")
        if value and form == "python":
            raise problem("a file is no Python source; give either path or python: file.py:function")
        if value and form == "sqlite" and is_gzip(value):
            raise problem(f"a compressed database cannot be read (found {value.name!r}); unpack it")
        return value

    @field_validator("query", "records", "delimiter", "encoding")
    @classmethod
    def _check_option(cls, value: object, info: ValidationInfo) -> object:
        option, form = str(info.field_name), info.data.get("format")
        if value is None and form and form == _NEEDED_BY.get(option):
            raise problem(f"format {form} needs '{option}'; {advice(f'source.{option}')}")
        if value is not None and form and form not in _READ_BY[option]:
            raise problem(f"not read by format {form}, only by {', '.join(_READ_BY[option])}; remove it")
        return value


class OutputSection(Section):
    """The folder that documents go to, and their paths inside it."""

    dir: OutputFolder | None = _key(
        None, "The folder that every output stays inside; default: build/ and the job's name."
    )
    path: Text | None = _key(None, "The path of a document inside the folder: a Jinja2 expression over the record.")
    fsync: Flag = _key(False, "Have each document on the disk itself before it counts as written.")

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        needs = origin(info)
        if value is None and "output" in needs.require and not needs.about_content:
            raise missing("output.path")
        return value


class JinjaSection(Section):
    """Options of the Jinja2 environment, by its own names and with its own defaults but for the first two."""

    undefined: Annotated[
        Literal["strict", "default", "chainable", "debug"], choice("strict", "default", "chainable", "debug")
    ] = _key("strict", "What an undefined name does; strict: the item fails.")
    autoescape: Annotated[bool | Literal["auto"], choice("auto", True, False)] = _key(
        "auto", "Escape HTML; auto: by the extension under .j2, so page.html.j2 and not page.md.j2."
    )
    sandbox: Flag = _key(False, "Keep templates away from unsafe attributes and methods.")
    extensions: Extensions = _key([], "Jinja2 extensions: import names, or do, loopcontrols, debug, i18n.")
    block_start_string: Text = _key("{%", "The start of a block.")
    block_end_string: Text = _key("%}", "The end of a block.")
    variable_start_string: Text = _key("{{", "The start of an expression.")
    variable_end_string: Text = _key("}}", "The end of an expression.")
    comment_start_string: Text = _key("{#", "The start of a comment.")
    comment_end_string: Text = _key("#}", "The end of a comment.")
    line_statement_prefix: Text | None = _key(None, "What starts a line that is a statement.")
    line_comment_prefix: Text | None = _key(None, "What starts a comment to the end of the line.")
    trim_blocks: Flag = _key(False, "Remove the line break after a block.")
    lstrip_blocks: Flag = _key(False, "Remove the blanks before a block that starts its line.")
    newline_sequence: Annotated[str, choice("\n", "\r\n", "\r")] = _key("\n", "What ends a line.")
    keep_trailing_newline: Flag = _key(False, "Keep a single line break at the end of a template.")

    @field_validator("variable_start_string", "comment_start_string")
    @classmethod
    def _check_starts(cls, value: str, info: ValidationInfo) -> str:
        """Jinja2 itself has but an assertion about this."""
        for other in ("block_start_string", "variable_start_string"):
            if info.data.get(other) == value:
                raise problem(f"must not be that of {other} (found {value!r}); change one of them")
        return value


class LimitsSection(Section):
    """What an item and the run may use; null limits nothing."""

    keeps_null = frozenset({"timeout"})

    timeout: Duration | None = _key(
        Limits().timeout, "The longest that an item may take; null: for ever, left out: 300 s."
    )
    memory_per_item: Size | None = _key(None, "The memory that a worker may take: for sizing, and a hard cap.")
    rate: Rate | None = _key(None, "The most items that begin in a time, such as 60/min.")
    latency: Duration | None = _key(None, "How long an item waits for somebody else, for sizing.")
    max_workers: Count | None = _key(None, "The most worker processes.")
    max_in_flight: Count | None = _key(None, "The most items of a generator at the same time, in whatever workers.")
    batch_size: Count | None = _key(None, "Items of a chunk: the next one begins when all of it is done.")
    batch_timeout: Duration | None = _key(None, "What the whole batch may take; then nothing more is begun.")
    batch_memory: Size | None = _key(None, "The memory that all workers together may take, for sizing.")


class GeneratorSection(Section):
    """What a job wants of one generator; limits that are not given are the job's."""

    keeps_null = frozenset({"timeout"})

    lane: Lane | None = _key(None, "Where it runs; default: where it says that it runs best.")
    timeout: Duration | None = _key(None, "The longest that an item of it may take; null: for ever.")
    rate: Rate | None = _key(None, "The most of its items that begin in a time, such as 60/min.")
    latency: Duration | None = _key(None, "How long an item of it waits for somebody else, for sizing.")
    max_workers: Count | None = _key(None, "The most workers for it.")
    max_in_flight: Count | None = _key(None, "The most of its items at the same time.")


class RequestSection(Section):
    """One document that is asked of a content config."""

    config: Text = Field(description="A config's id, or its file, which ends in .json, .yaml or .yml.")
    context: Context = _key({}, "What of the config's context is to be other for this document.")
    output: Text | None = _key(None, "The document's path inside the output folder; default: as output.path says.")
    priority: Priority | None = _key(None, "high, medium, low, or a number: higher ones are handed out first.")
    key: Text | None = _key(None, "The item's name; default: its output, or the config's id.")


class BackoffSection(Section):
    """The pauses before retries."""

    min: Duration = _key("2s", "The first pause.")
    max: Duration = _key("10s", "The longest pause.")

    @field_validator("max")
    @classmethod
    def _check_order(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("min", 0) > value:
            raise problem(f"less than min (found {value:g}s after {info.data['min']:g}s); exchange them")
        return value


class ErrorsSection(Section):
    """What a failed item means for the others."""

    policy: Annotated[Policy, choice("collect", "fail-fast")] = _key(
        "collect", "collect: go on and list the failures at the end; fail-fast: stop at the first one."
    )
    retries: Retries = _key(
        None, "How often a failure that may pass is tried again; true: twice, as is the default with the next two keys."
    )
    retry_on: ExceptionNames = _key([], "Names of exceptions that may pass, besides what the system calls temporary.")
    backoff: BackoffSection = _key({}, "The pause before a retry: doubling from min to max.")
    max_failures: MostFailures = _key(None, "Stop when more items have failed: a number, or a share such as 5%.")


def _told_source(value: object, info: ValidationInfo) -> object:
    """A source as a mapping with the format that its name tells, unless one is given."""
    if value is None:
        if "source" in origin(info).require and not is_about_content(info):
            raise missing("source")
        return None
    if is_about_content(info):
        raise problem("records and content configs are two kinds of jobs; remove source, or configs and requests")
    source = {"path": value} if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(source, Mapping):
        raise problem(f"must be a path or a mapping (found {found(value)}); {advice('source')}")
    if source is not value and re.search(r"\.py:\w+$", str(value)):
        raise problem(f"a callable is no path (found {str(value)!r}); write {{python: {str(value)!r}}}")
    return source if source.get("format") is not None else {**source, "format": _told_format(source)}


def _told_format(source: Mapping[str, object]) -> str | None:
    if source.get("python") is not None:
        return "python"
    path = source.get("path")
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        return None
    name = str(path)
    stem, extension = os.path.splitext(name.lower())
    kind = os.path.splitext(stem)[1] if extension == ".gz" else extension
    return FORMATS.get(kind, Unguessed(name))


def is_about_content(info: ValidationInfo) -> bool:
    """Whether the job renders content configs, and not records."""
    return origin(info).about_content


def is_gzip(path: Path) -> bool:
    """Whether a source's name says that it is compressed."""
    return path.suffix.lower() == ".gz"


class JobSection(Section):
    """A chora-mp job: records in, one document per record out. Paths are relative to the job file."""

    name: Name | None = _key(None, "What the job is called; default: the job file's name without .yaml.")
    source: Annotated[
        SourceSection | None,
        BeforeValidator(_told_source, json_schema_input_type=Text | SourceSection | None),
    ] = _key(None, "Where records come from: a file, or a mapping with its options.")
    configs: Folder | None = _key(None, "The folder of content configs; without requests, each config is an item.")
    requests: Requests[RequestSection] = _key([], "The documents that are asked of content configs.")
    generator: Text = _key("jinja2", "What makes a document of a record and its template; configs say their own.")
    generators: dict[str, GeneratorSection] = _key({}, "By a generator's name, its lane and limits.")
    lane: Lane | None = _key(None, "Where items run, whatever their generators say.")
    templates: Folders = _key("templates", "The folder of templates, or a list of folders.")
    template: Text | None = _key(None, "The template of a document; may be an expression over the record.")
    key: Text | None = _key(
        None, "An item's unique, stable name: an expression over the record; default: its output path."
    )
    output: OutputSection = _key({}, "Where documents go.")
    context: Constants = _key({}, "Constants for every document; {file: site.yaml} loads a file.")
    plugins: Plugins = _key([], "Python files or modules with dictionaries FILTERS, TESTS, GLOBALS and GENERATORS.")
    depends: Files = _key([], "Other files that the documents depend on.")
    jinja: JinjaSection = _key({}, "Options of the Jinja2 environment.")
    workers: Workers = _key("auto", "How many worker processes; 0 renders inline, for debugging.")
    limits: LimitsSection = _key({}, "What an item and the run may use.")
    errors: ErrorsSection = _key({}, "What happens when an item fails.")

    @field_validator("templates", mode="before")
    @classmethod
    def _check_templates(cls, value: object, info: ValidationInfo) -> object:
        """Content configs may do without a folder of templates."""
        own = is_about_content(info) and value == "templates" and not (origin(info).folder / "templates").is_dir()
        return OPTIONAL if own else value

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and not is_about_content(info):
            raise missing("template")
        if value is not None and is_about_content(info):
            raise problem("content configs name their own templates; remove it")
        return value

    @field_validator("generators", mode="before")
    @classmethod
    def _check_generators(cls, value: object) -> object:
        if isinstance(value, Mapping) and (names := [name for name in value if not isinstance(name, str)]):
            raise problem(f"must name generators (found {found(names[0])}); write their names as text")
        return value


SECTIONS: dict[str, type[Section]] = {
    "": JobSection,
    "source": SourceSection,
    "output": OutputSection,
    "jinja": JinjaSection,
    "limits": LimitsSection,
    "errors": ErrorsSection,
    "errors.backoff": BackoffSection,
    "generators.*": GeneratorSection,
    "requests.*": RequestSection,
}
