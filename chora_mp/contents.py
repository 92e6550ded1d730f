"""Content configs on their way into a spool, in a worker: each gets its key, its path and what it is made from."""

from __future__ import annotations

import marshal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chora_mp import failures
from chora_mp.bundle import digest_of
from chora_mp.errors import OutputError
from chora_mp.generation import closure_of
from chora_mp.sources.content import read_content
from chora_mp.sources.spooling import write_spool
from chora_mp.supply import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chora_mp.environment import Expression
    from chora_mp.job import Source
    from chora_mp.renderer import Renderer


def spool_content(source: Source, renderer: Renderer, path: str) -> list[int]:
    """Write what a job asks of content configs to a spool at `path`; where it may be cut for a scan.

    Raises `SourceError` where the configs cannot be found, `OutputError` where the spool cannot be written.
    """
    generation, bundle = renderer.generation, renderer.bundle
    assert generation is not None  # noqa: S101  (the bundle is of content)
    content = read_content(source.path, source.requests, Path(bundle.folder), generation.names())
    key, output = (
        renderer.expression(name, text) for name, text in zip(("key", "output.path"), bundle.asked, strict=True)
    )
    _name_texts(content.records, renderer)
    placed = ((None, _placed(record, key, output, renderer)) for record in content.records)
    cuts = write_spool(placed, path, source.name)
    groups = [(*group, *_lane(renderer, group.generator)) for group in content.groups]
    texts = {seq: record["text"] for seq, record in enumerate(content.records) if "text" in record}
    try:
        with open(path + GROUPS, "wb") as file:
            file.write(marshal.dumps((groups, content.needs, texts)))
    except OSError as error:
        raise OutputError(f"{path}{GROUPS}: cannot be written: {error.strerror}") from None
    return cuts


def _name_texts(records: list[dict[str, Any]], renderer: Renderer) -> None:
    """Have the names of texts cover the templates, too, that they are made from; whoever needs one comes later."""
    names: dict[str, str] = {}
    for record in records:
        if "needs" in record:
            record["needs"] = {name: [key, names[text]] for name, (key, text) in record["needs"].items()}
        if "text" in record:
            parts = renderer.closure(closure_of(record, renderer.bundle.templates)).parts
            names[record["text"]] = digest_of(record["text"], parts, record.get("needs"))
            record["text"] = names[record["text"]]


def _placed(
    record: dict[str, Any], key: Expression | None, output: Expression | None, renderer: Renderer
) -> Mapping[str, Any]:
    """A record with its key and path, or with what was wrong about them."""
    variables = {**renderer.globals, **record}
    placed = {**record, "closure": closure_of(record, renderer.bundle.templates)}
    for name, expression in (("key", key), ("output", output)):
        if expression is None or (name == "output" and record["output"]):
            continue
        try:
            placed[name] = expression(variables)
        except Exception as error:  # noqa: BLE001  (the person's own expression)
            label = renderer.bundle.labels["key" if name == "key" else "output.path"]
            failure = failures.failure_of(error, f"{label}: ")
            placed.setdefault("problem", {"type": failure.type, "message": failure.message})
            placed[name] = record[name] or ""
    placed["output"] = placed["output"] or ""
    return placed


def _lane(renderer: Renderer, name: str) -> Iterator[Any]:
    """The lane that suits a generator, and whether it may run concurrently; of one that is not there, the usual."""
    assert renderer.generation is not None  # noqa: S101  (as above)
    try:
        found = renderer.generation.generator(name)
    except Exception:  # noqa: BLE001  (its items fail with this)
        return iter(("processes", True))
    return iter((found.lane, found.concurrent))
