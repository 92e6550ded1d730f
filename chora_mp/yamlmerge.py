"""Merge keys of YAML (`<<`), by the letter of their specification (https://yaml.org/type/merge.html).

A mapping's own keys win over merged ones, and of several mappings that are merged the first. PyYAML 6.0.4 decides by
whether two keys are one object in memory, so that there the winner depends on how long a key is: we don't leave it to
PyYAML. No key is kept twice, so merges of merges don't multiply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG = "tag:yaml.org,2002:"


class Merging:
    """Goes before one of PyYAML's constructors among the bases of a class."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put the pairs that merge keys stand for in their place. Raises `yaml.YAMLError`."""
        merges = [value for key, value in node.value if key.tag == f"{_TAG}merge"]
        own = [(key, value) for key, value in node.value if key.tag != f"{_TAG}merge"]
        node.value = own  # before looking into others: one that merges itself comes to an end
        pairs: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for merge in merges:
            for mapping in reversed(list(_mappings(node, merge))):
                self.flatten_mapping(mapping)
                pairs.update((_identity(key), (key, value)) for key, value in mapping.value)
        for key, value in own:
            if key.tag == f"{_TAG}value":  # a plain `=`, which PyYAML has no value for
                key.tag = f"{_TAG}str"
            pairs[_identity(key)] = key, value
        node.value = list(pairs.values())


def _mappings(node: yaml.MappingNode, merge: yaml.Node) -> Iterator[yaml.MappingNode]:
    """The mappings that a merge key's value names, in the order in which they win."""
    parts: list[yaml.Node] = merge.value if isinstance(merge, yaml.SequenceNode) else [merge]
    for part in parts:
        if not isinstance(part, yaml.MappingNode):
            problem = f"expected a mapping or list of mappings for merging, but found {_kind(part)}"
            raise ConstructorError("while constructing a mapping", node.start_mark, problem, part.start_mark)
        yield part


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
