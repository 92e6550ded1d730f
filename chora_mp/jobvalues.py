"""The single values of a job file: each check takes what YAML gave and returns what a `Job` holds.

A check raises `problem("what is wrong (what was found); what to do")`; pydantic collects these, and `jobfile`
puts file, line and key before them.
"""

from __future__ import annotations

import codecs
import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from chora_mp.errors import JobError
from chora_mp.generators import LANES
from chora_mp.policy import RETRIES
from chora_mp.units import quoted, rate, seconds, size
from chora_mp.yamlfile import one_line, read_text, read_yaml

# By extension; `.gz` may stand behind those of text.
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".csv": "csv",
    ".tsv": "tsv",
    ".toml": "toml",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
}
_FORMATS = tuple(dict.fromkeys(FORMATS.values()))
_EXTENSIONS = {name: f"jinja2.ext.{name}" for name in ("debug", "do", "i18n", "loopcontrols")}
_EXAMPLES = {
    "source": "'source: data.jsonl'",
    "source.path": "'path: data.jsonl'",
    "source.query": "'query: SELECT * FROM pages'",
    "source.records": "'records: name.of.the.list'",
    "template": "'template: page.md.j2'",
    "output.path": "'path: \"{{ id }}.md\"'",
}
_NEAR = 1000  # names in a folder that are looked through for the one that was meant


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job comes from, and what the caller needs of it: the context of every check.

    `place`: what messages call the job; `name`: its name if it gives none; `file`, `lines`: as in `Job`;
    `about_content`: whether it renders content configs.
    """

    place: str
    name: str
    folder: Path
    require: frozenset[str] = frozenset()
    file: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    about_content: bool = False


def origin(info: ValidationInfo) -> Origin:
    """The origin of the job that is being checked."""
    return cast("Origin", info.context)


# ---- the words of messages ---------------------------------------------------------------------------------


def problem(text: str) -> PydanticCustomError:
    """A problem in the house's words, to be raised in a check."""
    return PydanticCustomError("job", "{text}", {"text": text})


def advice(key: str) -> str:
    """What to do about a missing key."""
    return f"add {_EXAMPLES.get(key, 'it')}"


def missing(key: str) -> PydanticCustomError:
    """The problem of a key that has to be there."""
    return problem(f"missing; {advice(key)}")


def found(value: object) -> str:
    """A value as messages call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    names = {str: "the text ", int: "the number ", float: "the number "}
    if type(value) in names:
        return names[type(value)] + quoted(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def meant(word: object, known: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown word: the nearest of the known ones, or other advice."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


# ---- words, names and numbers ------------------------------------------------------------------------------


def choice(*choices: str | bool) -> PlainValidator:
    """A check for one of a few words."""
    return PlainValidator(lambda value: _chosen(value, choices), json_schema_input_type=Literal[choices])


def _chosen(value: object, choices: Collection[str | bool]) -> object:
    # Types too, since 1 == True.
    if any(value == word and type(value) is type(word) for word in choices):
        return value
    words = [str(word).lower() if isinstance(word, bool) else word for word in choices]
    wanted = ", ".join(word if word.isprintable() else repr(word) for word in words)
    raise problem(f"must be one of {wanted} (found {found(value)}); {meant(value, words, 'choose one of them')}")


def _unit(parse: Callable[[object], float]) -> PlainValidator:
    """A check for a quantity with a unit; None stays None."""

    def check(value: object) -> float | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise problem(str(error)) from None

    return PlainValidator(check, json_schema_input_type=float | str)


def _text(value: object) -> str:
    """A text that is not empty; numbers are no text, since YAML may have changed how they are spelled."""
    if not isinstance(value, str):
        raise problem(f"must be text (found {found(value)}); {_how_to_spell(value)}")
    if not value:
        raise problem("must not be empty (found ''); write text or remove the key")
    return value


def _how_to_spell(value: object) -> str:
    if isinstance(value, bool):
        return "put it in quotes, as YAML takes yes, no, on, off, true and false for booleans"
    if isinstance(value, Mapping):
        return "put it in quotes if it is an expression"
    return "write text" if isinstance(value, (list, tuple)) or value is None else "put it in quotes"


def _listed(value: object) -> object:
    """A tuple as the list that it would be in YAML."""
    return list(value) if isinstance(value, tuple) else value


def _mapped(value: object) -> object:
    """Any mapping as a dictionary; its values are not copied."""
    return dict(value) if isinstance(value, Mapping) else value


def _one_or_more(value: object) -> object:
    """A single text or path as a list of one."""
    if value is not OPTIONAL and value in ([], ()):
        raise problem("must not be empty (found []); name a folder or remove the key")
    return [value] if isinstance(value, (str, os.PathLike)) else _listed(value)


def _any_number(value: object) -> object:
    """A single text as a list of one."""
    return [value] if isinstance(value, str) else _listed(value)


def _name(value: object) -> str:
    name = _text(value)
    if name in {".", ".."} or re.search(r"[/\\\x00-\x1f]", name):
        raise problem(f"must be a plain name (found {quoted(name)}); leave out slashes")
    return name


def _identifier(value: object) -> str:
    if isinstance(value, str) and value.isidentifier():
        return value
    raise problem(f"no name that templates can use (found {found(value)}); use letters, digits and _")


def _is_whole(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _workers(value: object) -> object:
    if value == "auto" or _is_whole(value, 0):
        return value
    raise problem(f"must be auto or a whole number from 0 (found {found(value)}); write one of these")


def _count(value: object) -> object:
    if _is_whole(value, 1):
        return value
    raise problem(f"must be a whole number from 1 (found {found(value)}); write one, or null for no limit")


def _lane(value: object) -> object:
    return None if value is None else _chosen(value, LANES)


PRIORITIES = {"high": 100.0, "medium": 50.0, "low": 0.0}
"""What the words for a priority stand for; medium is the usual one."""


def _priority(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise problem(
        f"must be high, medium, low or a number (found {found(value)}); {meant(value, PRIORITIES, 'write one')}"
    )


def _retries(value: object) -> int | None:
    """A number of further attempts; `true` stands for the usual number, None for no word about it."""
    if value is True:
        return RETRIES
    if value in (None, False) or _is_whole(value, 0):
        return None if value is None else int(value)  # type: ignore[call-overload]
    raise problem(f"must be a whole number from 0 (found {found(value)}); write how often to try again")


def _exception_name(value: object) -> str:
    name = _text(value)
    if not all(part.isidentifier() for part in name.split(".")):
        raise problem(f"no name of an exception (found {quoted(name)}); write one such as TimeoutError")
    if name == "WorkerDied":
        raise problem(
            "a worker's death is no exception (found 'WorkerDied'); each is tried once more anyway, remove it"
        )
    return name


def most_failures(value: object) -> tuple[int | None, float | None]:
    """How many items may fail, as a number or as a share of all (`5%`). Raises `ValueError`."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", value.strip())):
        share = float(match[1]) / 100
        if share <= 1:
            return None, share
    elif _is_whole(value, 0):
        return cast("int", value), None
    raise ValueError(f"must be a whole number from 0, or a share such as 5% (found {found(value)}); write one of these")


def _most_failures(value: object) -> tuple[int | None, float | None] | None:
    try:
        return None if value is None else most_failures(value)
    except ValueError as error:
        raise problem(str(error)) from None


def _extension(value: object) -> str:
    """An extension of Jinja2's by its import name; those that come with Jinja2 go by their last name, too."""
    name = _text(value)
    if "." not in name and name not in _EXTENSIONS:
        names = ", ".join(_EXTENSIONS)
        guess = meant(name, _EXTENSIONS, f"write an import name, or one of {names}")
        raise problem(f"unknown extension (found {quoted(name)}); {guess}")
    return _EXTENSIONS.get(name, name)


# ---- the parts of a source ---------------------------------------------------------------------------------


class Unguessed(str):
    """The name of a source whose extension tells no format; stands where the format should."""

    __slots__ = ()


def _format(value: object) -> object:
    if not isinstance(value, Unguessed):
        return value if value in (None, "python") else _chosen(value, _FORMATS)
    wanted = f"set path and format, one of {', '.join(_FORMATS)}"
    raise problem(f"the name tells no format (found {quoted(str(value))}); {wanted}")


def _encoding(value: str) -> str:
    try:
        codecs.lookup(value)
        " ".encode(value)  # base64 and the like are codecs, but not of text
    except (LookupError, ValueError):
        raise problem(f"unknown encoding (found {quoted(value)}); write utf-8, cp1252 or the like") from None
    return value


def _delimiter(value: str) -> str:
    if len(value) != 1 or value in '"\r\n\0':
        raise problem(f"must be one character, but no quote or line break (found {quoted(value)}); choose one")
    return value


def _records(value: object) -> tuple[str, ...]:
    """`a.b`, or a list of names, as names."""
    names = _listed(value) if isinstance(value, (list, tuple)) else _text(value).split(".")
    if not names or "" in cast("list[object]", names):
        raise problem(f"a name is empty (found {quoted(value)}); write names with dots between, as a.b")
    return tuple(_text(name) for name in cast("list[object]", names))


def _callable(value: object, info: ValidationInfo) -> tuple[str, str]:
    """`rows.py:records` or `package.module:records` as file or module, and callable."""
    text = _text(value)
    home, _, name = text.rpartition(":")
    if not (home and name.isidentifier()):
        raise problem(f"no callable (found {quoted(text)}); write file.py:function or package.module:function")
    return _plugin(home, info), name


# ---- paths and what is in files ----------------------------------------------------------------------------


def _spelled(value: object) -> str:
    """A path as the job gives it."""
    text = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if "\0" in text:
        raise problem(f"no path (found {quoted(text)}); remove the NUL character")
    return text


def _path(value: object, info: ValidationInfo) -> Path:
    """A path, relative to the job's folder, as an absolute one; it need not exist."""
    return origin(info).folder / _spelled(value)


def _file(value: object, info: ValidationInfo) -> Path:
    """A path of a file that is there and can be read."""
    path, name = _path(value, info), quoted(_spelled(value))
    if not os.path.exists(path):
        raise _nowhere("file", name, path)
    if not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "no regular file"
        raise problem(f"is {kind} (found {name}); name a file")
    if not os.access(path, os.R_OK):
        raise problem(f"cannot be read (found {name}); check its permissions")
    return path


def _folder(value: object, info: ValidationInfo) -> Path:
    """A path of a folder that is there."""
    path, name = _path(value, info), quoted(_spelled(value))
    if not os.path.exists(path):
        raise _nowhere("folder", name, path)
    if not os.path.isdir(path):
        raise problem(f"is no folder (found {name}); name one")
    return path


def _nowhere(kind: str, name: str, path: Path) -> PydanticCustomError:
    """The problem of a path that leads nowhere, with the nearest name beside it."""
    try:
        beside = os.listdir(path.parent)[:_NEAR]
    except OSError:
        beside = []
    return problem(f"no such {kind} (found {name}); {meant(path.name, beside, 'check the path')}")


def _output_folder(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    if os.path.exists(path) and not os.path.isdir(path):
        raise problem(f"is no folder (found {quoted(_spelled(value))}); name another one")
    return path


def _plugin(value: object, info: ValidationInfo) -> str:
    """An absolute path of a Python file, or the name of a module."""
    if isinstance(value, os.PathLike) or _text(value).endswith(".py"):
        return str(_file(value, info))
    name = _text(value)
    if not all(part.isidentifier() for part in name.split(".")):
        raise problem(f"no module (found {quoted(name)}); write a module's name, or a file ending in .py")
    return name


def _constant(value: object, info: ValidationInfo) -> object:
    """A constant as it is, or what is in the file that `{file: …}` names."""
    if not (isinstance(value, Mapping) and set(value) == {"file"}):
        return value
    path = _file(value["file"], info)
    try:
        return _content(path, _spelled(value["file"]))
    except JobError as error:
        raise problem(str(error)) from None


def _content(path: Path, place: str) -> object:
    """The data in a YAML, JSON or TOML file, the text in any other; raises `JobError` with one line."""
    kind = path.suffix.lower()
    if kind in {".yaml", ".yml"}:
        return read_yaml(path, place).data
    text = read_text(path, place)
    parsers: dict[str, Callable[[str], object]] = {".json": json.loads, ".toml": tomllib.loads}
    try:
        return parsers[kind](text) if kind in parsers else text
    except (ValueError, RecursionError) as error:
        raise JobError([one_line(f"{place}: not valid {kind[1:].upper()} ({error}); correct it")]) from None


# ---- the types of keys -------------------------------------------------------------------------------------

_SomeText = Annotated[str, Field(min_length=1)]

Text = Annotated[str, PlainValidator(_text, json_schema_input_type=_SomeText)]
Name = Annotated[str, PlainValidator(_name, json_schema_input_type=_SomeText)]
Flag = Annotated[bool, choice(True, False)]
Workers = Annotated[
    int | Literal["auto"],
    PlainValidator(_workers, json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=0)]),
]
Count = Annotated[int, PlainValidator(_count, json_schema_input_type=Annotated[int, Field(ge=1)])]
Duration = Annotated[float, _unit(seconds)]
Size = Annotated[int, _unit(size)]
Rate = Annotated[float, _unit(rate)]
Lane = Annotated[
    Literal["inline", "threads", "processes", "asyncio"],
    PlainValidator(
        lambda value: None if value is None else _chosen(value, LANES), json_schema_input_type=Literal[LANES]
    ),
]
Priority = Annotated[float, PlainValidator(_priority, json_schema_input_type=Literal["high", "medium", "low"] | float)]
Retries = Annotated[
    int | None, PlainValidator(_retries, json_schema_input_type=bool | Annotated[int, Field(ge=0)] | None)
]
ExceptionNames = Annotated[
    list[Annotated[str, PlainValidator(_exception_name, json_schema_input_type=_SomeText)]],
    BeforeValidator(_any_number, json_schema_input_type=_SomeText | list[_SomeText]),
]
MostFailures = Annotated[
    tuple[int | None, float | None] | None,
    PlainValidator(_most_failures, json_schema_input_type=Annotated[int, Field(ge=0)] | _SomeText | None),
]
Format = Annotated[str, PlainValidator(_format, json_schema_input_type=Literal[_FORMATS])]
Encoding = Annotated[Text, AfterValidator(_encoding)]
Delimiter = Annotated[Text, AfterValidator(_delimiter)]
Names = Annotated[tuple[str, ...], PlainValidator(_records, json_schema_input_type=_SomeText | list[_SomeText])]
Extensions = Annotated[
    list[Annotated[str, PlainValidator(_extension, json_schema_input_type=_SomeText)]],
    BeforeValidator(_listed),
]
PythonCallable = Annotated[tuple[str, str], PlainValidator(_callable, json_schema_input_type=_SomeText)]
File = Annotated[Path, PlainValidator(_file, json_schema_input_type=_SomeText)]
Files = Annotated[list[File], BeforeValidator(_listed)]
Folder = Annotated[Path, PlainValidator(_folder, json_schema_input_type=_SomeText)]
OPTIONAL: list[Path] = []
"""Stands for a folder that need not be there."""

Folders = Annotated[list[Folder], BeforeValidator(_one_or_more, json_schema_input_type=_SomeText | list[_SomeText])]
OutputFolder = Annotated[Path, PlainValidator(_output_folder, json_schema_input_type=_SomeText)]
Plugins = Annotated[
    list[Annotated[str, PlainValidator(_plugin, json_schema_input_type=_SomeText)]], BeforeValidator(_listed)
]
Constants = Annotated[
    dict[
        Annotated[str, PlainValidator(_identifier, json_schema_input_type=str)],
        Annotated[Any, BeforeValidator(_constant)],
    ],
    BeforeValidator(_mapped),
]
_T = TypeVar("_T")
Context = Annotated[dict[str, Any], BeforeValidator(_mapped)]
Requests = Annotated[list[_T], BeforeValidator(_listed)]
