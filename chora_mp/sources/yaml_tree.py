"""The nodes of one YAML document, composed piece by piece: memory holds a record's nodes, not the document's.

PyYAML composes a document whole, follows aliases without bound and lets the last of two equal keys win. Here
a list is composed element by element from the parser's events, and what must not be built is replaced, where
it stands, by a node that refuses to be: so only the record is lost that holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from chora_mp.yamlmerge import Merging

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ALIASED = 1_000_000  # nodes that aliases may add to a record: some 100 MB

_TAG = "tag:yaml.org,2002:"
_REFUSED = "!chora-mp/refused"
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML has it


def _refuse(_: SafeConstructor, node: yaml.ScalarNode) -> None:
    """Raises what a node from `_refused` says."""
    raise ConstructorError(None, None, str(node.value), node.end_mark)


class _Constructor(Merging, SafeConstructor):
    """Values from nodes, as `yaml.safe_load` makes them."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **SafeConstructor.yaml_constructors,
        _REFUSED: _refuse,
        # PyYAML gives a plain `=` a type of its own (YAML 1.1) and then cannot build it.
        f"{_TAG}value": SafeConstructor.construct_yaml_str,
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of one node, whose place an error names."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # `!!bool x` is a KeyError, `!!int ""` an IndexError, and so on
            message = f"{node.value!r:.40} can't be read: {type(error).__name__}: {error}"
            raise ConstructorError(None, None, message, node.start_mark) from error


def construct(node: yaml.Node) -> Any:
    """The value of a node; raises `yaml.YAMLError`, and `RecursionError` where it is nested too deeply."""
    return _Constructor().construct_document(node)


def members(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """The values of a mapping node by key, merge keys (`<<`) included."""
    _Constructor().flatten_mapping(node)
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


class Tree:
    """The nodes of a text that is one document; methods raise `yaml.YAMLError` and `RecursionError`."""

    def __init__(self, text: str) -> None:
        self._events = _Parser(text)
        self._anchors: dict[str, tuple[yaml.Node, int] | None] = {}  # node and number of nodes; None: not yet whole
        self._nodes = self._aliased = 0
        self._depth = 0  # of the records, below the root: there the count of what aliases add begins anew
        self._events.get_event()  # the stream's start
        self._events.get_event()  # the document's

    def is_list(self) -> bool:
        """Whether the root is a list; asked before anything is taken."""
        return bool(self._events.check_event(SequenceStartEvent))

    def elements(self) -> Iterator[tuple[int, yaml.Node]]:
        """Takes the root, a list of records: line (from 0 in the text) and node of each element."""
        self._depth = 1
        self._events.get_event()
        while not self._events.check_event(SequenceEndEvent):
            yield self._events.peek_event().start_mark.line, self._node(1)
        self._events.get_event()
        self._end()

    def root(self, depth: int = 0) -> yaml.Node:
        """Takes the root whole, which is a record or holds records `depth` below it."""
        self._depth = depth
        node = self._node(0)
        self._end()
        return node

    def _end(self) -> None:
        """Takes the document's end; the parser raises its error if there is something else first."""
        while self._events.check_event(DocumentEndEvent):
            self._events.get_event()
        self._events.get_event()

    def _node(self, depth: int) -> yaml.Node:
        """Takes one node, `depth` below the root."""
        if depth == self._depth:
            self._aliased = 0
        event: Any = self._events.get_event()
        if isinstance(event, AliasEvent):
            return self._alias(event)
        before = self._nodes
        self._nodes += 1
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = node, self._nodes - before
        return node

    def _alias(self, event: Any) -> yaml.Node:
        """The node that an alias stands for, counted as often as it is there."""
        if event.anchor not in self._anchors:
            return _refused(event, event, f"there is no anchor &{event.anchor} before *{event.anchor}")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            return _refused(event, event, f"*{event.anchor} stands inside of what it stands for")
        node, count = anchored
        if self._aliased + count > MOST_ALIASED:
            return _refused(event, event, f"aliases add more than {MOST_ALIASED:,} values")
        self._aliased += count
        self._nodes += count
        return node

    def _scalar(self, event: Any) -> yaml.Node:
        """A scalar with its type."""
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._events.resolve(yaml.ScalarNode, event.value, event.implicit)
        return yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, event.style)

    def _sequence(self, event: Any, depth: int) -> yaml.Node:
        """A list with all that is in it."""
        items: list[yaml.Node] = []
        while not self._events.check_event(SequenceEndEvent):
            items.append(self._node(depth + 1))
        return yaml.SequenceNode(_tag(event, "seq"), items, event.start_mark, self._events.get_event().end_mark)

    def _mapping(self, event: Any, depth: int) -> yaml.Node:
        """A mapping with all that is in it, or what refuses it if a key is there twice."""
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        seen: set[tuple[str, str]] = set()
        twice: yaml.Node | None = None
        while not self._events.check_event(MappingEndEvent):
            key = self._node(depth + 1)
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                twice = twice or (key if (key.tag, key.value) in seen else None)
                seen.add((key.tag, key.value))
            pairs.append((key, self._node(depth + 1)))
        end = self._events.get_event().end_mark
        if twice is not None:
            return _refused(event, twice, f"key {twice.value!r} is there twice; remove one")
        return yaml.MappingNode(_tag(event, "map"), pairs, event.start_mark, end)


def _tag(event: Any, default: str) -> str:
    """The type of a collection."""
    return str(event.tag) if event.tag not in {None, "!"} else _TAG + default


def _refused(node: Any, place: Any, message: str) -> yaml.ScalarNode:
    """Stands for `node`, and raises `message` of the place where `place` starts when it is to be built."""
    return yaml.ScalarNode(_REFUSED, message, node.start_mark, place.start_mark)
