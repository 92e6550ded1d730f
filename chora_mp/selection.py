"""Which items a run is about: by glob, by key, by shard, or those that failed (no I/O)."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run is asked to deal with; nothing given: all items.

    `only`: a glob over keys. `keys`: the keys themselves. `shard`: (I, N), counted from 1: the items whose key's digest
    falls into the shard. `failed`: those that failed last time. `using`: those that are made from this template.
    """

    only: str | None = None
    keys: frozenset[str] | None = None
    shard: tuple[int, int] | None = None
    failed: bool = False
    using: str | None = None

    @property
    def is_of_source(self) -> bool:
        """Whether it takes a look at the whole source to know which items these are."""
        return self.failed or self.shard is not None or self.using is not None

    @property
    def shard_name(self) -> str:
        """`2/5`, or nothing: what the ledger knows a shard's source by."""
        return f"{self.shard[0]}/{self.shard[1]}" if self.shard else ""

    def chosen(self) -> Callable[[str], bool] | None:
        """Whether a key is asked for, within the shard; None: every one is."""
        tests: list[Callable[[str], object]] = []
        if self.only is not None:
            tests.append(re.compile(fnmatch.translate(self.only)).match)
        if self.keys is not None:
            tests.append(self.keys.__contains__)
        if not tests:
            return None
        return lambda key: all(test(key) for test in tests)

    def sharded(self) -> Callable[[str], bool] | None:
        """Whether a key belongs to the shard; None: there are no shards."""
        if self.shard is None:
            return None
        number, count = self.shard[0] - 1, self.shard[1]
        return lambda key: shard_of(key, count) == number


def shard_of(key: str, count: int) -> int:
    """The shard of a key, from 0: it depends on nothing else, and so stays when records come and go."""
    data = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") % count


def parse_shard(text: str) -> tuple[int, int]:
    """`2/5` as (2, 5). Raises `ValueError` with what a person should write."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    shard = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"{text!r} is no shard; write I/N with I from 1 to N, such as 2/5")
    return shard
