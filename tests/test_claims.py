"""Claims: two records that want one key or path are found among all, whatever lies between them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp import claims
from chora_mp.claims import NOTHING, Claims, clashes, shares

Piece = tuple[list[tuple[str, str]], int]
"""Keys and paths of a piece's fresh records, and how many records that are known stand before them."""


def saved(folder, pieces: list[Piece]) -> list[str]:
    """The files with the claims of these pieces; an empty key or path claims nothing."""
    files = []
    for number, (pairs, known) in enumerate(pieces):
        keys = array("q", [hash(key) if key else NOTHING for key, _ in pairs])
        paths = array("q", [hash(path) if path else NOTHING for _, path in pairs])
        folders: dict[int, int] = {}
        for seq, (_, path) in enumerate(pairs, known):
            while path := path.rpartition("/")[0]:
                folders.setdefault(hash(path), seq)
        files.append(str(folder / f"piece-{number}"))
        Claims(known + len(pairs), [(known, len(pairs))], keys, paths, folders).save(files[-1])
    return files


def found(files: list[str], records: int) -> list[tuple[int, int]]:
    """All pairs, whichever share they are in."""
    return [pair for share in shares(records) for pair in clashes(files, *share)]


def expected(pieces: list[Piece]) -> set[tuple[int, int]]:
    """Pairs by comparing each with each: the first that has something with every other that has it."""
    records, base = [], 0
    for pairs, known in pieces:
        records += [(base + known + seq, *pair) for seq, pair in enumerate(pairs)]
        base += known + len(pairs)
    wanted = set()
    for field in (1, 2):
        first: dict[str, int] = {}
        for record in records:
            if record[field] and first.setdefault(record[field], record[0]) != record[0]:
                wanted.add((first[record[field]], record[0]))
    for seq, _, path in records:
        above = [one for one, _, other in records if path and other.startswith(f"{path}/")]
        if above:
            wanted.add((min(above), seq))
    return wanted


texts = st.sampled_from(["", "a", "b", "a/b", "a/c", "a/b/c", "d", "e/f/g", "e", "e/f"])
some_pieces = st.lists(st.tuples(st.lists(st.tuples(texts, texts), max_size=6), st.integers(0, 3)), max_size=4)


@given(pieces=some_pieces, share=st.sampled_from([2, 3, 2**20]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_clashes_is_found(tmp_path, pieces, share):
    """Keys, paths and folders, in one piece or two, with known records between, looked at together or in shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "_SHARE", share)
        records = sum(len(pairs) + known for pairs, known in pieces)
        assert expected(pieces) == set(found(saved(tmp_path, pieces), records))


def test_many_clashes(tmp_path):
    """Of very many some are told, and what is told fits a message."""
    pairs = [("same", f"n{number}") for number in range(5000)]
    assert [(0, number) for number in range(1, 101)] == found(saved(tmp_path, [(pairs, 0)]), 5000)


def test_shares():
    """A million claims are looked at together; of more, each share is a task of its own."""
    assert [("keys", 0, 1), ("paths", 0, 1)] == shares(0) == shares(2**20 - 1)
    assert [(kind, share, 3) for share in range(3) for kind in ("keys", "paths")] == shares(2**21 + 5)
