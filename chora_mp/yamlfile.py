"""Strict YAML: safe types only, no key twice, no alias bomb, and the line of every key.

Whatever is wrong with a text, you get a `JobError` of one line: `place:line: what is wrong; what to do`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from chora_mp.errors import JobError
from chora_mp.units import quoted
from chora_mp.yamlmerge import Merging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yaml import SafeLoader as _Base
else:
    # Ten times faster, but PyYAML can be built without libyaml.
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LIBYAML_TOO_DEEP = "exceeded maximum nesting depth"
"""What newer builds of libyaml say of a thousand open brackets."""

MAX_DEPTH = 100
MAX_ALIASED = 100_000
_LINES_DEPTH = 3  # errors.backoff.min
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Document(NamedTuple):
    """The one document of a YAML text; `lines` maps dotted keys, down to three names, to lines from 1."""

    data: Any
    lines: dict[str, int]


def read_yaml(path: Path, place: str) -> Document:
    """The YAML file at `path`, which messages call `place`; raises `JobError`."""
    return parse_yaml(read_text(path, place), place)


def read_text(path: Path, place: str) -> str:
    """The UTF-8 text in the file at `path`, without a byte order mark; raises `JobError` with one line."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x}"
        raise _refusal(f"{place}:{line}: not UTF-8 text (found {found}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refusal(f"{place}: {_unreadable(error)}") from None


def parse_yaml(text: str, place: str) -> Document:
    """The document in a YAML text, which messages call `place`; its data is None where there is none.

    Raises `JobError` with one line.
    """
    try:
        _refuse_streams(text)
        loader = _Loader(text)
        try:
            return _document(loader)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _refusal(_explanation(error, text, place)) from None


def one_line(text: str) -> str:
    r"""`text` with line breaks and control characters spelled as `\n`, so that it stays on its line."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that PyYAML would take and we don't; `problem` says what is wrong and what to do."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(Merging, _Base):
    """PyYAML's safe loader, refusing keys given twice and naming the line of values that it cannot read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._flat: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve merge keys (`<<`), once; before that every key must be there once."""
        if id(node) not in self._flat:
            self._flat.add(id(node))
            self._refuse_duplicates(node)
            super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The Python value of a node; PyYAML's own errors about `2026-13-45` and the like name no line."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _RefusedError(
                f"not a valid {kind} (found {quoted(node.value)}); correct it, or put it in quotes",
                node.start_mark,
            ) from None

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = self.construct_object(key) if key.tag != "tag:yaml.org,2002:merge" else "<<"
            if not isinstance(name, Hashable):
                continue  # PyYAML will say so
            if name in seen:
                what = f"duplicate key {quoted(key.value)} (the first is on line {seen[name]})"
                raise _RefusedError(f"{what}; remove one of them", key.start_mark)
            seen[name] = key.start_mark.line + 1


def _document(loader: _Loader) -> Document:
    node = loader.get_single_node()
    if node is None:
        return Document(None, {})
    _refuse_expansion(node)
    data = loader.construct_document(node)
    return Document(data, dict(_lines(node, "", 1)))


def _refuse_streams(text: str) -> None:
    """Refuse a second document, and nesting that would overflow the stack of PyYAML's C composer: a crash."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _RefusedError("a second document; keep one in a file", event.start_mark)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep(event.start_mark)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


class _Measure(NamedTuple):
    """A node with its aliases written out: number of nodes and depth."""

    nodes: int
    depth: int


def _refuse_expansion(root: yaml.Node) -> None:
    """Refuse aliases that contain themselves, or that would multiply the document ("billion laughs").

    Without recursion, since a chain of aliases nests deeper than the text does.
    """
    measures: dict[int, _Measure] = {}
    open_nodes: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in measures:
            stack.pop()
        elif id(node) in open_nodes:
            open_nodes.discard(id(node))
            measures[id(node)] = _measured(node, [measures[id(part)] for part in _parts(node)], len(measures))
        else:
            open_nodes.add(id(node))
            parts = _parts(node)
            if any(id(part) in open_nodes for part in parts):
                raise _RefusedError("an alias contains itself; write the value out", node.start_mark)
            stack.extend(part for part in parts if id(part) not in measures)


def _measured(node: yaml.Node, parts: list[_Measure], distinct: int) -> _Measure:
    nodes = 1 + sum(part.nodes for part in parts)
    depth = 1 + max((part.depth for part in parts), default=0)
    if nodes - distinct > MAX_ALIASED:
        raise _RefusedError(f"aliases expand to more than {MAX_ALIASED:,} values; use fewer", node.start_mark)
    if depth > MAX_DEPTH + 1:
        raise _too_deep(node.start_mark)
    return _Measure(nodes, depth)


def _too_deep(mark: Any) -> _RefusedError:
    return _RefusedError(f"nested more than {MAX_DEPTH} levels deep; flatten it", mark)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _lines(node: yaml.Node, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    """Dotted key and line of what stands in a node, merge keys resolved; a list's items count from 0."""
    if depth > _LINES_DEPTH:
        return
    for name, line, value in _entries(node):
        yield prefix + name, line
        yield from _lines(value, f"{prefix}{name}.", depth + 1)


def _entries(node: yaml.Node) -> Iterator[tuple[str, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield str(index), value.start_mark.line + 1, value


def _explanation(error: yaml.YAMLError, text: str, place: str) -> str:
    """An error of PyYAML's, or ours, as `place:line: what is wrong; what to do`."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1
        return f"{place}:{line}: not valid YAML ({error.reason}); remove what is no text"
    mark = getattr(error, "problem_mark", None)
    where = f"{place}:{mark.line + 1}" if mark else place
    problem = getattr(error, "problem", None) or str(error)
    if problem == LIBYAML_TOO_DEEP:
        error = _too_deep(mark)
        problem = error.problem
    if isinstance(error, _RefusedError):
        return f"{where}: {problem}"
    if problem == "second occurrence":
        return f"{where}: duplicate anchor; name it differently"
    tag = re.search(r"could not determine a constructor for the tag '(.*)'", problem)
    if tag:
        return f"{where}: unknown tag {quoted(tag[1])}; remove it, only plain YAML is read"
    return f"{where}: not valid YAML ({problem}); {_advice(mark, text)}"


def _advice(mark: yaml.Mark | None, text: str) -> str:
    """What to do about a syntax error; unquoted expressions are the commonest mistake in a job file."""
    lines = text.splitlines()
    near = lines[max(mark.line - 1, 0) : mark.line + 1] if mark else []
    if any("{{" in line or "{%" in line for line in near):
        return "put values with {{ or {% in quotes"
    return "correct the line" if mark else "correct the file"


def _unreadable(error: OSError | ValueError) -> str:
    """Why a file cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a folder; name a file in it"
    reason = getattr(error, "strerror", None) or str(error)
    return f"cannot be read ({reason}); check the path and its permissions"


def _refusal(message: str) -> JobError:
    return JobError([one_line(message)])
