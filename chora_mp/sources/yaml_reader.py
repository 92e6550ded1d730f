"""Records from YAML: each of several documents, or the elements of the list in a single one."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import yaml

from chora_mp.errors import SourceError
from chora_mp.records import BadRecord
from chora_mp.sources.shapes import as_record, kind, no_such_name, no_way, not_a_list
from chora_mp.sources.text import open_text, undecodable, undecoded
from chora_mp.sources.yaml_tree import Tree, construct, members
from chora_mp.yamlfile import LIBYAML_TOO_DEEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair, Record

# At the start of a line these are markers, even in a block or quoted scalar (YAML 1.2.2, section 9.1.2).
_MARKER = re.compile(r"(?:---|\.\.\.)(?=[ \t\n]|$)")
_HOLLOW = re.compile(r"[ \t]*(?:#|$)")


class _Document(NamedTuple):
    """The text of one document; `line`: of its first line, `begins`: of its first content, both from 1."""

    line: int
    begins: int
    text: str


def read(source: Source) -> Iterator[Pair]:
    """Line and record of each document, or, where there is one, of each element of its list."""
    with open_text(source) as file:
        documents = _documents(file)
        first, second = next(documents, None), next(documents, None)
        if first is None:
            return
        if second is None:
            yield from _single(source, first)
            return
        if source.records:
            raise SourceError(
                f"{source.name}:{second.begins}: a second document begins, records: is for a single one; "
                "leave records: out, and each document is a record"
            )
        for document in chain((first, second), documents):
            yield document.begins, _record(source, document)


def _documents(lines: Iterable[str]) -> Iterator[_Document]:
    """The documents that hold something, one at a time: a broken one doesn't hide where the next begins."""
    piece = _Piece(1)
    for number, line in enumerate(lines, 1):
        marker = line[:3] if _MARKER.match(line) else ""
        if marker == "---" and piece.is_open:
            yield from piece.document()
            piece = _Piece(number)
        piece.add(number, line, marker)
        if marker == "...":
            yield from piece.document()
            piece = _Piece(number + 1)
    yield from piece.document()


class _Piece:
    """The lines of a document so far, from line `start` on."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._begins = 0
        self._marked = False
        self._lines: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether `---` would begin another document; directives belong to the one that follows."""
        return self._marked or bool(self._begins)

    def add(self, number: int, line: str, marker: str) -> None:
        """Adds one line."""
        self._lines.append(line)
        self._marked = self._marked or marker == "---"
        directive = line.startswith("%") and not self._marked
        if not (self._begins or directive or _HOLLOW.match(line[len(marker) :].rstrip("\n"))):
            self._begins = number

    def document(self) -> Iterator[_Document]:
        """The document, if there is anything in it."""
        if self._begins:
            yield _Document(self._start, self._begins, "".join(self._lines))


def _record(source: Source, document: _Document) -> Record:
    """The record that a document is, one of several."""
    bad = undecodable(document.text)
    if bad is not None:
        line = document.line + document.text.count("\n", 0, bad)
        return BadRecord("UnicodeDecodeError", f"line {line}: {undecoded(source, document.text[bad])}")
    try:
        node = Tree(document.text).root()
    except (yaml.YAMLError, RecursionError) as error:
        return BadRecord("YAMLError", _told(error, document))
    return _built(node, document)


def _built(node: yaml.Node, document: _Document) -> Record:
    """The record that a node is."""
    try:
        return as_record(construct(node))
    except (yaml.YAMLError, RecursionError) as error:
        return BadRecord("YAMLError", _told(error, document))


def _single(source: Source, document: _Document) -> Iterator[Pair]:
    """The records of a document that is the only one."""
    bad = undecodable(document.text)
    if bad is not None:
        line = document.line + document.text.count("\n", 0, bad)
        raise SourceError(f"{source.name}:{line}: {undecoded(source, document.text[bad])}")
    try:
        for line, node in _nodes(source, document):
            yield document.line + line, _built(node, document)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{document.line + mark.line}:{mark.column + 1}" if mark else ""
        raise SourceError(f"{source.name}{place}: not valid YAML: {_problem(error)}; correct the file there") from None


def _nodes(source: Source, document: _Document) -> Iterator[tuple[int, yaml.Node]]:
    """Line, from 0 in the document, and node of each record in a document that is the only one."""
    tree = Tree(document.text)
    if source.records:
        for node in _inside(source, tree.root(len(source.records) + 1)):
            yield node.start_mark.line, node
    elif tree.is_list():
        yield from tree.elements()
    else:
        root = tree.root()
        if isinstance(root, yaml.ScalarNode) and not root.tag.startswith("!"):
            raise not_a_list(source, kind(construct(root)))
        yield root.start_mark.line, root


def _inside(source: Source, node: yaml.Node) -> list[yaml.Node]:
    """The elements of the list that `records` names."""
    for depth, name in enumerate(source.records):
        if not isinstance(node, yaml.MappingNode):
            raise no_way(source, depth, _kind(node))
        inside = members(node)
        if name not in inside:
            raise no_such_name(source, depth, inside)
        node = inside[name]
    if not isinstance(node, yaml.SequenceNode):
        holder = members(node) if isinstance(node, yaml.MappingNode) else {}
        lists = [name for name, value in holder.items() if isinstance(value, yaml.SequenceNode)]
        raise not_a_list(source, _kind(node), lists)
    return list(node.value)


def _kind(node: yaml.Node) -> str:
    """What a node is, in words; raises `yaml.YAMLError` for one that can't be built."""
    names: dict[type, str] = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list"}
    return names.get(type(node)) or kind(construct(node))


def _told(error: Exception, document: _Document) -> str:
    """The error with its place in the file."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {document.line + mark.line}, column {mark.column + 1}: " if mark else ""
    return place + _problem(error)


def _problem(error: Exception) -> str:
    """What is wrong, in the parser's words."""
    if isinstance(error, RecursionError) or getattr(error, "problem", None) == LIBYAML_TOO_DEEP:
        return "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        return ": ".join(filter(None, (error.context, error.problem)))
    return " ".join(str(error).split())
