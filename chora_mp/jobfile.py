"""Job files: YAML read strictly, checked with pydantic, every problem at once, and frozen into a `Job`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chora_mp.errors import JobError
from chora_mp.generators import proper_name
from chora_mp.job import GeneratorOptions, JinjaOptions, Job, Output, Request, Source
from chora_mp.jobsections import (
    SECTIONS,
    ErrorsSection,
    GeneratorSection,
    JinjaSection,
    JobSection,
    LimitsSection,
    OutputSection,
    SourceSection,
    is_gzip,
)
from chora_mp.jobvalues import Origin, advice, found, meant
from chora_mp.policy import RETRIES, Errors
from chora_mp.sizing import Limits
from chora_mp.yamlfile import one_line, read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from pydantic_core import ErrorDetails

CONTENT_PATH = "{{ id }}.{{ extension }}"
"""Where a content config's document goes if nobody says."""

CONFIGS = "content"
"""The folder in which requests find their configs if the job names none."""

_START = "write keys such as 'template: page.md.j2'"


def load_job(path: Path, require: Collection[str] = ()) -> Job:
    """The job in the YAML file at `path`; `require` names keys that must be there, of `source` and `output`.

    Raises `JobError` with every problem, ordered by line.
    """
    place = str(path)
    data, lines = read_yaml(path, place)
    if data is None:
        raise JobError([one_line(f"{place}: empty; {_START}")])
    name = path.stem.strip(".") or "job"
    return _checked(data, Origin(place, name, path.parent.absolute(), frozenset(require), place, lines))


def job_from_mapping(data: Mapping[str, Any], folder: Path) -> Job:
    """The job that `data` describes in the words of a job file; paths are relative to `folder`.

    Paths may be `pathlib` ones, constants anything that can be pickled. Raises `JobError` with every problem.
    """
    return _checked(data, Origin("job", "job", folder.absolute()))


def job_schema() -> dict[str, Any]:
    """The JSON schema of job files (draft 2020-12), with a description and a default for every key."""
    schema = JobSection.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("title")
        for name, entry in section["properties"].items():
            entry.pop("title", None)
            if name not in section.get("required", ()):
                _allow_null(entry)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "chora-mp job file", **schema}


def _allow_null(entry: dict[str, Any]) -> None:
    """Let a property be null, too: sections drop nulls before pydantic sees them."""
    kinds = {key: entry.pop(key) for key in list(entry) if key not in {"description", "default"}}
    options = kinds["anyOf"] if list(kinds) == ["anyOf"] else [kinds]
    null = {"type": "null"}
    entry["anyOf"] = [*(option for option in options if option != null), null]


def _checked(data: object, origin: Origin) -> Job:
    if not isinstance(data, Mapping):
        raise JobError([one_line(f"{origin.place}: not a mapping (found {found(data)}); {_START}")])
    about_content = data.get("configs") is not None or bool(data.get("requests"))
    origin = replace(origin, about_content=about_content)
    try:
        section = JobSection.model_validate(data, context=origin)
    except ValidationError as error:
        raise JobError(_problems(error, data, origin)) from None
    return _frozen(section, data, origin)


# ---- problems ----------------------------------------------------------------------------------------------


def _problems(error: ValidationError, data: object, origin: Origin) -> list[str]:
    """One line for each problem, `file:line: key: what is wrong; what to do`, ordered by line."""
    found_at = []
    for details in error.errors(include_url=False):
        parts = _spelled(details, data)
        line = _line(parts, origin.lines)
        where = f"{origin.place}:{line}" if line else origin.place
        key = f"{'.'.join(parts)}: " if parts else ""
        found_at.append((line, one_line(f"{where}: {key}{_explained(details, parts)}")))
    return [text for _, text in sorted(found_at, key=lambda entry: entry[0])]


def _spelled(details: ErrorDetails, data: object) -> list[str]:
    """The keys to a problem as far as the job spells them: `source: data.xyz` has no `source.path`."""
    parts: list[str] = []
    # A key that is no text is in the message instead.
    steps = details["loc"][:-1] if details["type"] == "invalid_key" else details["loc"]
    for step in steps:
        if step == "[key]" or not isinstance(data, (Mapping, list, tuple, type(None))):
            break
        parts.append(str(step))
        data = _inside(data, step)
    return parts


def _inside(data: object, step: int | str) -> object:
    if isinstance(data, Mapping):
        return data.get(step)
    return data[step] if isinstance(data, (list, tuple)) and isinstance(step, int) else None


def _line(parts: list[str], lines: Mapping[str, int]) -> int:
    """The line of a key, or of the section that it is missing from; 0 for none."""
    ends = range(len(parts), 0, -1)
    return next((lines[key] for end in ends if (key := ".".join(parts[:end])) in lines), 0)


def _explained(details: ErrorDetails, parts: list[str]) -> str:
    """Pydantic's error in the house's words."""
    kind, value = details["type"], found(details["input"])
    if kind == "job":
        return details["msg"]
    explanations = {
        "missing": f"missing; {advice('.'.join(parts))}",
        "invalid_key": f"unknown key (found {value}); write keys as text",
        "list_type": f"must be a list (found {value}); write [first, second], or lines that start with '- '",
        "dict_type": f"must be a mapping (found {value}); write its keys indented below it",
    }
    if kind == "extra_forbidden":
        return f"unknown key; {_known(parts)}"
    return explanations.get(kind) or f"{details['msg']} (found {value}); correct it"


def _known(parts: list[str]) -> str:
    """What an unknown key may have meant: the same word in another section, or one nearly the same."""
    *outer, name = parts
    section = outer[:1] + ["*"] * (len(outer) - 1) if outer[:1] in (["generators"], ["requests"]) else outer
    names = list(SECTIONS[".".join(section)].model_fields)
    named = ((place, section) for place, section in SECTIONS.items() if place and "*" not in place)
    others = [f"{place}.{name}" for place, section in named if name in section.model_fields]
    if others and not outer:
        return f"did you mean {' or '.join(map(repr, others))}?"
    return meant(name, names, f"the keys here are {', '.join(names)}")


# ---- the frozen job ----------------------------------------------------------------------------------------


def _frozen(section: JobSection, data: Mapping[str, Any], origin: Origin) -> Job:
    name = section.name or origin.name
    return Job(
        name=name,
        folder=origin.folder,
        template=section.template,
        templates=tuple(section.templates),
        source=_content(section, data, origin) or _source(section.source, data.get("source")),
        output=_output(section.output, origin.folder / "build" / name, CONTENT_PATH if origin.about_content else None),
        key=section.key,
        context=section.context,
        plugins=tuple(section.plugins),
        depends=tuple(section.depends),
        jinja=_jinja(section.jinja),
        workers=section.workers,
        limits=_limits(section.limits),
        errors=_errors(section.errors),
        generator=None if origin.about_content else section.generator,
        generators={proper_name(generator): _generator(options) for generator, options in section.generators.items()},
        lane=section.lane,
        file=origin.file,
        lines=origin.lines,
    )


def _source(section: SourceSection | None, spelled: Any) -> Source | None:
    if section is None:
        return None
    if isinstance(spelled, Mapping):
        spelled = spelled["python"] if section.python else spelled["path"]
    tabs = section.format == "tsv"
    return Source(
        name=os.fspath(spelled),
        format="csv" if tabs else section.format,  # type: ignore[arg-type]  # the checks let nothing else through
        path=section.path,
        python=section.python,
        records=section.records or (),
        delimiter=section.delimiter or ("\t" if tabs else ","),
        encoding=section.encoding or "utf-8",
        query=section.query,
        gzip=section.path is not None and is_gzip(section.path),
    )


def _content(section: JobSection, data: Mapping[str, Any], origin: Origin) -> Source | None:
    if not origin.about_content:
        return None
    requests = tuple(Request(one.config, one.context, one.output, one.priority, one.key) for one in section.requests)
    name = os.fspath(data.get("configs") or "requests")
    folder = section.configs or (origin.folder / CONFIGS if (origin.folder / CONFIGS).is_dir() else None)
    return Source(name, "content", path=folder, requests=requests)


def _generator(section: GeneratorSection) -> GeneratorOptions:
    limits = {name: getattr(section, name) for name in section.model_fields_set if name != "lane"}
    return GeneratorOptions(section.lane, limits)


def _output(section: OutputSection, folder: Path, usual: str | None) -> Output | None:
    path = section.path or usual
    return Output(section.dir or folder, path, section.fsync) if path else None


def _jinja(section: JinjaSection) -> JinjaOptions:
    """Only options that were given are passed on, so that Jinja2's own defaults hold for the rest."""
    own = ("undefined", "autoescape", "sandbox")
    given = section.model_dump(include=section.model_fields_set - {*own, "extensions"})
    options = {name: getattr(section, name) for name in own}
    return JinjaOptions(**options, extensions=tuple(section.extensions), extra=given)


def _limits(section: LimitsSection) -> Limits:
    return Limits(**{name: getattr(section, name) for name in type(section).model_fields})


def _errors(section: ErrorsSection) -> Errors:
    """Who says what may be tried again, or how long to wait, asks for it, unless the number says otherwise."""
    retries = section.retries
    if retries is None:
        retries = RETRIES if {"retry_on", "backoff"} & section.model_fields_set else 0
    count, share = section.max_failures or (None, None)
    backoff = (section.backoff.min, section.backoff.max)
    return Errors(section.policy, retries, tuple(section.retry_on), backoff, count, share)
