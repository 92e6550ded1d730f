"""Records from content configs: what is to be generated, by which generator, from which context, in which order.

A content config is a JSON or YAML file with `type: content` at its top level; fields that nobody knows are nobody's
concern. In the folder of configs every other file is passed over, with one exception: a file that cannot be parsed is
a bad item, named by its stem, if `type: content` stands near its start, and so is one that cannot be read at all. What
is hidden (`.git`, `.#draft.json`) isn't looked at.

What is wrong with one config is the problem of its item and of those that need its text; it ends nothing.
"""

from __future__ import annotations

import datetime
import heapq
import itertools
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp.bundle import digest_of
from chora_mp.errors import JobError, SourceError
from chora_mp.failures import did_you_mean
from chora_mp.generators import proper_name
from chora_mp.job import Request
from chora_mp.sources.shapes import kind, listed
from chora_mp.units import PRIORITIES, priority, quoted
from chora_mp.yamlfile import MAX_DEPTH, one_line, parse_yaml, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

USUAL_PRIORITY = PRIORITIES["medium"]
EXTENSIONS = {
    "markdown": "md",
    "python": "py",
    "javascript": "js",
    "typescript": "ts",
    "gherkin": "feature",
    "text": "txt",
    "rust": "rs",
    "ruby": "rb",
    "kotlin": "kt",
    "csharp": "cs",
    "c#": "cs",
    "c++": "cpp",
    "bash": "sh",
    "shell": "sh",
}
"""The extension of a format or language, where it isn't its name."""

_SUFFIXES = (".json", ".yaml", ".yml")
_CLAIM = re.compile(r"""\btype["']?\s*:\s*["']?content(?![\w-])""")
_NEAR_THE_START = 2000  # characters
_EXTENSION = re.compile(r"[a-z0-9]{1,16}")
_NO_EXTENSION = "code"  # what elements say whose language stands elsewhere
_SCALARS = (datetime.date, datetime.time)  # a datetime is a date
_LONGEST_CYCLE = 20  # names in a message
_GUESSED = 1000  # ids that are looked through for the one that was meant


class Group(NamedTuple):
    """A run of `count` records that are alike in generator and priority; `needy` ones need the texts of others."""

    generator: str
    priority: float
    count: int  # type: ignore[assignment]  # it hides the method of tuples, which nobody calls
    needy: bool


class Content(NamedTuple):
    """What is to be generated: `records` in order, their `groups`, and which numbers of records a record `needs`."""

    records: list[dict[str, Any]]
    groups: list[Group]
    needs: dict[int, tuple[int, ...]]


def read_content(
    folder: Path | None, requests: tuple[Request, ...], base: Path, generators: Collection[str]
) -> Content:
    """What `requests` ask for of the configs in `folder`, or, where they ask for nothing, all that there are.

    Paths of configs, and in a request's context, are relative to `base`; `generators` are the names that there are.
    Records that need nothing come first, then those that need others' texts, each after what it needs; of those that
    could come next, the one of the highest priority does, then by generator, then in the order of the requests or
    files. A record that cannot be generated holds a `problem`. Raises `SourceError` where the folder cannot be read.
    """
    catalog = _Catalog(folder, base, [request.config for request in requests])
    drafts = _Drafts(catalog, base, generators)
    wanted = (
        [(request, catalog.find(request.config)) for request in requests]
        if requests
        else [(Request(config.id), config) for config in catalog.configs]
    )
    items = [drafts.item(request, config, order) for order, (request, config) in enumerate(wanted)]
    _link(items, catalog, drafts)
    _break_cycles(items)
    _pass_on_problems(items)
    return _content(_ordered(items))


class _BadItemError(Exception):
    """An item that cannot be generated: `type` and message of its problem."""

    def __init__(self, message: str, type_: str = "ConfigError") -> None:
        super().__init__(one_line(message))
        self.type = type_


# ---- files -------------------------------------------------------------------------------------------------


def _files(folder: str, seen: set[str]) -> Iterator[str]:
    """What may be a config below `folder`, in order; no folder twice, whatever symlinks say."""
    seen.add(os.path.realpath(folder))
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            if os.path.realpath(path) not in seen:
                yield from _files(path, seen)
        # A symlink that leads nowhere is a config that cannot be read; a pipe is none.
        elif _is_path(name) and (os.path.isfile(path) or not os.path.exists(path)):
            yield path


def _is_path(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _identity(path: Path) -> object:
    """What two names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return os.fspath(path)
    return found.st_dev, found.st_ino


def _text(path: Path, place: str) -> str:
    """The UTF-8 text of a file, which messages call `place`; raises `_BadItemError`."""
    if not os.path.exists(path):
        raise _BadItemError(f"{place}: no such file; check the path", "FileNotFoundError")
    if not os.path.isfile(path):  # reading a pipe would wait for ever
        raise _BadItemError(f"{place}: is no file; name one")
    try:
        return read_text(path, place)
    except JobError as error:
        raise _BadItemError(str(error)) from None


def _parsed(text: str, suffix: str, place: str) -> Any:
    """The data in a text, by the file's suffix; the text itself if that tells no format. Raises `_BadItemError`."""
    try:
        match suffix.lower():
            case ".json":
                return json.loads(text)
            case ".yaml" | ".yml":
                return parse_yaml(text, place).data
            case ".toml":
                return tomllib.loads(text)
        return text
    except JobError as error:
        raise _BadItemError(str(error)) from None
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}:{error.colno}"
        raise _BadItemError(f"{where}: not valid JSON ({error.msg}); correct it") from None
    except RecursionError:
        raise _BadItemError(f"{place}: {_too_deep()}") from None
    except ValueError as error:  # TOML's, and integers of more digits than Python reads
        raise _BadItemError(f"{place}: not valid {suffix[1:].upper()} ({error}); correct it") from None


def _plain(value: Any, place: str, depth: int = 0) -> Any:
    """A copy of `value` made of nothing but dicts, lists, texts, numbers, dates and None; raises `_BadItemError`."""
    if depth > MAX_DEPTH:
        raise _BadItemError(f"{place}: {_too_deep()}")
    if isinstance(value, Mapping):
        return {_scalar(name, place): _plain(inner, place, depth + 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, place, depth + 1) for inner in value]
    return _scalar(value, place)


def _scalar(value: Any, place: str) -> Any:
    if value is None or isinstance(value, (bool, *_SCALARS)):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # str() would ask an enumeration for its name
    for exact in (int, float):
        if isinstance(value, exact):
            return exact(value)
    raise _BadItemError(f"{place}: holds {kind(value)}; write text, a number, a list or a mapping")


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep; flatten it"


# ---- configs -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Config:
    """A file that is a content config, or should be; `claims`: whether the file itself says so."""

    id: str
    path: Path
    place: str
    data: dict[str, Any] = field(default_factory=dict)
    problem: _BadItemError | None = None
    claims: bool = True


class _Catalog:
    """The configs of a folder and those that are asked for by path, each file once."""

    def __init__(self, folder: Path | None, base: Path, names: Iterable[str]) -> None:
        self._base = base
        self._loaded: dict[object, _Config] = {}
        self.where = f" in {self.place(folder)}" if folder else "; there is no folder of configs to look in"
        for path in self._listed(folder) if folder else ():
            self._load(path)
        self.configs = [config for config in self._loaded.values() if config.claims]
        for name in names:
            if _is_path(name):
                self._load(base / name)
        self._ids: dict[str, list[_Config]] = {}
        self._others: dict[str, _Config] = {}
        for config in self._loaded.values():
            if config.problem:
                self._others.setdefault(config.id, config)
            else:
                self._ids.setdefault(config.id, []).append(config)
        self._refuse_duplicates()

    def place(self, path: Path) -> str:
        """How messages call a file."""
        return one_line(os.path.relpath(path, self._base))

    def find(self, name: str) -> _Config | None:
        """The config of this id, or at this path if it was among the names; None if there is none.

        A file that holds no config goes by its stem, so that its item can say what is wrong with it.
        """
        if _is_path(name):
            return self._loaded.get(_identity(self._base / name))
        return self._ids[name][0] if name in self._ids else self._others.get(name)

    def unknown(self, name: str) -> str:
        """What to say of an id that there is not."""
        guess = did_you_mean(name, list(itertools.islice(self._ids, _GUESSED)))
        return f"no content config {quoted(name)}{self.where}{guess}"

    def _listed(self, folder: Path) -> list[Path]:
        try:
            return [Path(path) for path in _files(os.fspath(folder), set())]
        except OSError as error:
            where = self.place(Path(error.filename or folder))
            reason = {FileNotFoundError: "no such folder", NotADirectoryError: "is no folder"}.get(
                type(error), f"cannot be read ({error.strerror})"
            )
            raise SourceError(f"{where}: {reason}; name the folder of the configs") from None

    def _load(self, path: Path) -> None:
        identity = _identity(path)
        if identity not in self._loaded:
            self._loaded[identity] = _config(path, self.place(path))

    def _refuse_duplicates(self) -> None:
        for id_, rivals in self._ids.items():
            if len(rivals) > 1:
                places = listed(rival.place for rival in rivals)
                for rival in rivals:
                    rival.problem = _BadItemError(
                        f"id {quoted(id_)} is that of several files ({places}); rename all but one"
                    )


def _config(path: Path, place: str) -> _Config:
    """What the file at `path` is as a config."""
    config = _Config(path.stem, path, place)
    text = None
    try:
        text = _text(path, place)
        # Parsing is slow, and the folder may hold large files of data.
        data = _parsed(text, path.suffix, place) if "content" in text else None
        if not (isinstance(data, dict) and data.get("type") == "content"):
            config.claims = False
            raise _BadItemError(f"{place}: no content config (no 'type: content' at its top level); name another file")
    except _BadItemError as error:
        config.problem = error
        config.claims = config.claims and _claims(path, text)
        return config
    try:
        config.data = _plain(data, place)
        config.id = _id(config.data, place)
    except _BadItemError as error:
        config.problem = error
    return config


def _claims(path: Path, text: str | None) -> bool:
    """Whether a file that cannot be parsed seems to be a content config; one that cannot be read might be."""
    try:
        start = path.read_bytes()[:_NEAR_THE_START].decode("latin-1") if text is None else text[:_NEAR_THE_START]
    except (OSError, ValueError):
        return True
    return _CLAIM.search(start) is not None


def _id(data: Mapping[str, Any], place: str) -> str:
    value = data.get("id")
    if isinstance(value, str) and value:
        return value
    raise _BadItemError(f"{place}: no id (found {_found(value)}); write one such as 'id: release-notes'")


def _found(value: Any) -> str:
    return quoted(value) if isinstance(value, (str, int, float)) else kind(value)


def _part(data: Mapping[str, Any], name: str, type_: type[Any], place: str) -> Any:
    """The mapping or list under a name, an empty one if there is none; raises `_BadItemError`."""
    value = data.get(name)
    if value is None:
        return type_()
    if not isinstance(value, type_):
        wanted = "a mapping" if type_ is dict else "a list"
        raise _BadItemError(f"{place}: {name}: must be {wanted} (found {_found(value)}); correct it")
    return value


# ---- from a config to a record -----------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Draft:
    """What the items of one config have in common: `fields` of their records, and the context as it is written."""

    fields: dict[str, Any]
    spec: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    problem: _BadItemError | None = None


@dataclass(slots=True, eq=False)
class _Item:
    """A record in the making: the ids that it needs by context name, and the items that these turn out to be."""

    order: int
    config: _Config | None
    record: dict[str, Any]
    ids: dict[str, str] = field(default_factory=dict)
    links: dict[str, _Item] = field(default_factory=dict)
    cause: str = ""

    @property
    def rank(self) -> tuple[float, str, int]:
        """What it is sorted by."""
        return -self.record["priority"], self.record["generator"], self.order

    def spoil(self, error: _BadItemError, cause: str = "") -> None:
        """Make it an item that cannot be generated; `cause`: what all those will say that need it."""
        self.ids, self.links = {}, {}
        self.cause = cause or str(error)
        self.record |= {"spec": {}, "context": {}, "problem": {"type": error.type, "message": str(error)}}


class _Drafts:
    """Makes items; what is read for one is kept for the next."""

    def __init__(self, catalog: _Catalog, base: Path, generators: Collection[str]) -> None:
        self._catalog = catalog
        self._base = base
        self._generators = generators
        self._drafts: dict[_Config, _Draft] = {}
        self._data: dict[Path, Any] = {}

    def item(self, request: Request, config: _Config | None, order: int) -> _Item:
        """The item that a request asks for; its needs are not looked for yet."""
        draft = self._draft(config) if config else _Draft(_fields())
        id_ = config.id if config else request.config
        names = {"key": request.key or request.output or id_, "id": id_, "config": config.place if config else ""}
        item = _Item(order, config, {**names, **draft.fields, "output": request.output, "priority": USUAL_PRIORITY})
        if config is None or draft.problem:
            item.spoil(draft.problem or _BadItemError(self._catalog.unknown(request.config), "UnknownConfig"))
            return item
        try:
            item.record["priority"] = _priority(request, config)
            item.record["spec"] = draft.spec
            item.record["context"] = self._context(request, config, draft, item.ids)
        except _BadItemError as error:
            item.spoil(error)
        return item

    def _draft(self, config: _Config) -> _Draft:
        draft = self._drafts.get(config)
        if draft is None:
            draft = self._drafts[config] = _Draft(_fields())
            try:
                self._fill(draft, config)
            except _BadItemError as error:
                draft.problem = error
        return draft

    def _fill(self, draft: _Draft, config: _Config) -> None:
        """Fill in what can be told, up to the first problem."""
        if config.problem:
            raise config.problem
        data, place, fields = config.data, config.place, draft.fields
        fields["metadata"] = metadata = _part(data, "metadata", dict, place)
        elements = _part(data, "elements", list, place)
        pattern = _pattern(
            _part(_part(data, "generation", dict, place), "patterns", list, place), place, self._generators
        )
        fields["generator"] = generator = proper_name(pattern["type"])
        fields["pattern"] = pattern.get("id")
        settings = _part(pattern, "generation_config", dict, place)
        fields["extension"] = _extension(generator, metadata, elements, settings)
        if generator in {"jinja2", "minijinja"}:
            fields["template"] = _template(pattern, place)
        draft.spec = {
            "id": config.id,
            "pattern": pattern.get("id"),
            "template": pattern.get("template"),
            "variables": _part(pattern, "variables", list, place),
            "elements": elements,
            "generation_config": {name: value for name, value in settings.items() if name != "context"},
            "metadata": metadata,
        }
        draft.context = _part(pattern, "context", dict, place) | _part(settings, "context", dict, place)

    def _context(self, request: Request, config: _Config, draft: _Draft, needed: dict[str, str]) -> dict[str, Any]:
        """The context with files read; the ids of needed configs are put into `needed`."""
        own = _plain(request.context, f"{config.place}: context of the request")
        context = {}
        for name, value in (draft.context | own).items():
            where = f"{config.place}: context.{name}"
            if not isinstance(name, str):
                raise _BadItemError(f"{where}: a name must be text (found {_found(name)}); put it in quotes")
            source = value.get("source") if isinstance(value, dict) else None
            if source == "config":
                needed[name] = _path(value, where)
            elif source == "file":
                folders = [self._base] if name in own else [config.path.parent, self._base]
                context[name] = self._file(_path(value, where), folders, where)
            else:
                context[name] = value
        return context

    def _file(self, name: str, folders: list[Path], where: str) -> Any:
        """What is in the first file of that name."""
        paths = list(dict.fromkeys(folder / name for folder in folders))
        for path in paths:
            if os.path.exists(path):
                try:
                    return self._content(path)
                except _BadItemError as error:
                    raise _BadItemError(f"{where}: {error}", error.type) from None
        looked = " and ".join(dict.fromkeys(self._catalog.place(path) for path in paths))
        what = f"no such file {quoted(name)} (looked for {looked}); check the path"
        raise _BadItemError(f"{where}: {what}", "FileNotFoundError")

    def _content(self, path: Path) -> Any:
        if path not in self._data:
            place = self._catalog.place(path)
            self._data[path] = _plain(_parsed(_text(path, place), path.suffix, place), place)
        return self._data[path]


def _fields() -> dict[str, Any]:
    """The fields of a record before anything is known."""
    return {"generator": "", "pattern": None, "extension": "txt", "template": None, "metadata": {}}


def _pattern(patterns: list[Any], place: str, generators: Collection[str]) -> dict[str, Any]:
    """The first pattern of a known generator; raises `_BadItemError` with what is wrong with the first of all."""
    if not patterns:
        raise _BadItemError(f"{place}: no generation.patterns; write one with the generator as its type")
    for pattern in patterns:
        name = pattern.get("type") if isinstance(pattern, dict) else None
        if isinstance(name, str) and proper_name(name) in generators:
            return pattern  # type: ignore[no-any-return]
    where = f"{place}: generation.patterns[0]"
    if not isinstance(patterns[0], dict):
        raise _BadItemError(f"{where}: must be a mapping (found {_found(patterns[0])}); correct it")
    name = patterns[0].get("type")
    if not (isinstance(name, str) and name):
        raise _BadItemError(f"{where}: no type (found {_found(name)}); write the name of a generator")
    guess = did_you_mean(name, sorted(generators)) or f"; choose one of {listed(sorted(generators))}"
    raise _BadItemError(f"{where}: unknown generator {quoted(name)}{guess}", "UnknownGenerator")


def _template(pattern: Mapping[str, Any], place: str) -> str | None:
    value = pattern.get("template")
    if value is None or isinstance(value, str):
        return value
    raise _BadItemError(
        f"{place}: template: must be text (found {_found(value)}); write a name, or the template itself"
    )


def _extension(generator: str, metadata: Mapping[str, Any], elements: list[Any], settings: Mapping[str, Any]) -> str:
    """The extension of what is generated: the first that can be told from a format, else that of the generator."""
    first = elements[0] if elements and isinstance(elements[0], dict) else {}
    words = [metadata.get("output_format"), first.get("output_format"), first.get("format")]
    if generator == "code_generation":
        words.append(settings.get("language"))
    if generator == "bdd_scenario":
        words.append("gherkin")
    for word in words:
        name = word.strip().lower().removeprefix(".") if isinstance(word, str) else ""
        extension = EXTENSIONS.get(name, name)
        if _EXTENSION.fullmatch(extension) and extension != _NO_EXTENSION:
            return extension
    return "txt"


def _priority(request: Request, config: _Config) -> float:
    """The priority of the request, or else of the config; raises `_BadItemError`."""
    data = config.data
    homes = [data, data.get("metadata") or {}, data.get("generation") or {}]
    values: list[Any] = [request.priority, *(home.get("priority") for home in homes)]
    value = next((value for value in values if value is not None), USUAL_PRIORITY)
    if (number := priority(value.lower() if isinstance(value, str) else value)) is not None:
        return number
    guess = did_you_mean(value, PRIORITIES) if isinstance(value, str) else ""
    what = f"priority: must be high, medium, low or a number (found {_found(value)})"
    raise _BadItemError(f"{config.place}: {what}{guess or '; write one of these'}")


def _path(value: Mapping[str, Any], where: str) -> str:
    path = value.get("path")
    if isinstance(path, str) and path:
        return path
    raise _BadItemError(f"{where}: source {value['source']!r} has no path (found {_found(path)}); write one")


# ---- what needs what ---------------------------------------------------------------------------------------


def _link(items: list[_Item], catalog: _Catalog, drafts: _Drafts) -> None:
    """Find the item behind each id that another needs; the list grows by those that nobody asked for."""
    homes: dict[_Config, list[_Item]] = {}
    for item in items:
        if item.config:
            homes.setdefault(item.config, []).append(item)

    def needed(id_: str) -> _Item:
        config = None if _is_path(id_) else catalog.find(id_)
        if config is None:
            raise _BadItemError(catalog.unknown(id_), "UnknownConfig")
        found = homes.setdefault(config, [])
        if not found:
            found.append(drafts.item(Request(id_), config, len(items)))
            items.append(found[0])
        if len(found) > 1:
            what = f"needs {quoted(id_)}, which is asked for {len(found)} times"
            raise _BadItemError(f"{what}; ask for it once, or copy the config under another id", "NeedError")
        return found[0]

    for item in items:  # and those that are added meanwhile
        _link_one(item, needed)


def _link_one(item: _Item, needed: Callable[[str], _Item]) -> None:
    for name, id_ in item.ids.items():
        try:
            item.links[name] = needed(id_)
        except _BadItemError as error:
            item.spoil(_BadItemError(f"{item.record['config']}: context.{name}: {error}", error.type))
            return


def _break_cycles(items: list[_Item]) -> None:
    """Make every item on a cycle one that cannot be generated.

    Item by item, since the sorter names one cycle at a time, and a search among all for each would take for ever.
    """
    done: set[_Item] = set()
    for item in items:
        graph = _needed_by(item, done)
        while cycle := _cycle(graph):
            error = _BadItemError(f"cycle: {_spelled(cycle)}", "CycleError")
            for one in cycle:
                one.spoil(error)
                graph[one] = []
        done.update(graph)


def _needed_by(item: _Item, done: set[_Item]) -> dict[_Item, list[_Item]]:
    """All that an item needs, near and far, but for what is `done`: each with what it needs itself."""
    graph: dict[_Item, list[_Item]] = {}
    open_ = [item]
    while open_:
        one = open_.pop()
        if one not in graph and one not in done:
            graph[one] = [link for link in one.links.values() if link not in done]
            open_ += graph[one]
    return graph


def _cycle(graph: Mapping[_Item, list[_Item]]) -> list[_Item]:
    """The items of a cycle, each before the one that it needs, from the first of them on."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # The sorter lists each before the one that needs it, and the first again at the end.
        cycle: list[_Item] = error.args[1][:0:-1]
        first = min(range(len(cycle)), key=lambda number: cycle[number].order)
        return cycle[first:] + cycle[:first]
    return []


def _spelled(cycle: list[_Item]) -> str:
    names = [item.record["id"] for item in cycle]
    shown = names if len(names) <= _LONGEST_CYCLE else [*names[: _LONGEST_CYCLE - 1], f"({len(names)} configs)"]
    return " needs ".join([*shown, names[0]])


def _pass_on_problems(items: list[_Item]) -> None:
    """Make every item that needs one with a problem one with a problem itself, which names the first cause."""
    for item in TopologicalSorter({item: item.links.values() for item in items}).static_order():
        bad = next((link for link in item.links.values() if "problem" in link.record), None)
        if bad:
            what = f"needs {quoted(bad.record['id'])}, which cannot be generated"
            item.spoil(_BadItemError(f"{what}: {bad.cause}", "NeedError"), bad.cause)


# ---- in order ----------------------------------------------------------------------------------------------


def _ordered(items: list[_Item]) -> list[_Item]:
    """Those that need nothing by rank, then the others: of those whose needs are met, always the first by rank."""
    ordered = sorted((item for item in items if not item.links), key=lambda item: item.rank)
    graph = {item: [link for link in item.links.values() if link.links] for item in items if item.links}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    ready: list[tuple[tuple[float, str, int], _Item]] = []
    while sorter.is_active():
        for item in sorter.get_ready():
            heapq.heappush(ready, (item.rank, item))
        item = heapq.heappop(ready)[1]
        ordered.append(item)
        sorter.done(item)
    return ordered


def _content(items: list[_Item]) -> Content:
    """The records of items in order; a text's name covers all that it is made from, texts that it needs included."""
    numbers = {item: number for number, item in enumerate(items)}
    needed = {link for item in items for link in item.links.values()}
    for item in items:
        record = item.record
        if item.links:
            record["needs"] = {name: [link.record["key"], link.record["text"]] for name, link in item.links.items()}
        if item in needed:
            record["text"] = digest_of(record)
    groups = [
        Group(generator, priority, len(list(run)), needy)
        for (generator, priority, needy), run in itertools.groupby(items, _alike)
    ]
    needs = {
        numbers[item]: tuple(dict.fromkeys(numbers[link] for link in item.links.values()))
        for item in items
        if item.links
    }
    return Content([item.record for item in items], groups, needs)


def _alike(item: _Item) -> tuple[str, float, bool]:
    return item.record["generator"], item.record["priority"], bool(item.links)
