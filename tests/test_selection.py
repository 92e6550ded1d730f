"""Selections: globs, keys and shards, which between them hold every key once."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.selection import Selection, parse_shard, shard_of

any_text = st.text(st.characters(exclude_categories=()), max_size=8)


# ---- shards ----------------------------------------------------------------------------------------------


@given(count=st.integers(1, 10**9 - 1), data=st.data())
def test_a_shard_is_read_as_it_is_written(count, data):
    """I/N with I from 1 to N gives both numbers, and the name of the selection is what was written."""
    number = data.draw(st.integers(1, count))
    assert (number, count) == parse_shard(f"{number}/{count}")
    assert f"{number}/{count}" == Selection(shard=(number, count)).shard_name


@pytest.mark.parametrize("text", ["1/1", "01/2", "2/2", "999999999/999999999"])
def test_good_shards(text):
    """The first and the last shard are shards, leading zeros or not."""
    first, last = text.split("/")
    assert (int(first), int(last)) == parse_shard(text)


@pytest.mark.parametrize(
    "text",
    ["", "1", "/", "1/", "/2", "0/2", "3/2", "-1/2", "+1/2", "1/0", "0/0", "1/2/3", " 1/2", "1/2\n", "1.0/2", "a/b",
     "1/1e3", "1 / 2", "\u0661/\u0662", "1/1000000000", "½/1"],
)  # fmt: skip
def test_what_is_no_shard(text):
    """Anything else is refused, with what was found and what to write."""
    with pytest.raises(ValueError, match="write I/N") as caught:
        parse_shard(text)
    assert f"{text!r} is no shard; write I/N with I from 1 to N, such as 2/5" == str(caught.value)


@given(keys=st.sets(any_text, max_size=20), count=st.integers(1, 9))
def test_shards_part_all_keys(keys, count):
    """Every key, lone surrogates and all, belongs to exactly one of N shards."""
    tests = [Selection(shard=(number, count)).sharded() for number in range(1, count + 1)]
    assert [1] * len(keys) == [sum(test(key) for test in tests if test) for key in keys]
    assert [shard_of(key, count) for key in keys] == [
        next(number for number, test in enumerate(tests) if test and test(key)) for key in keys
    ]


def test_shards_are_about_equal():
    """Keys spread over the shards evenly, also those that differ in a digit only."""
    counts = [0] * 8
    for number in range(8000):
        counts[shard_of(f"page-{number}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize(
    ("key", "count", "shard"), [("a", 2, 1), ("a", 5, 3), ("b", 7, 5), ("pages/é", 7, 1), ("", 3, 0), ("\ud800", 9, 8)]
)
def test_shards_stay(key, count, shard):
    """A key's shard is `b2sum -l 64` of it, modulo N, on every machine and in every version: each renders its share."""
    assert shard == shard_of(key, count)


def test_no_shard():
    """Without a shard nobody is asked whether a key belongs to it, and the selection has no name."""
    assert (None, "") == (Selection().sharded(), Selection().shard_name)


# ---- globs and keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("*", ["a", "ab", "a/b", "A", "[x]", "a\nb", ""]),
        ("a*", ["a", "ab", "a/b", "a\nb"]),
        ("a?b", ["a/b", "a\nb"]),
        ("?", ["a", "A"]),
        ("[ab]", ["a"]),
        ("[!a]", ["A"]),
        ("[[]x]", ["[x]"]),
        ("a", ["a"]),
        ("", [""]),
        ("b", []),
        ("a/*", ["a/b"]),
    ],
)
def test_globs(only, expected):
    """A glob matches whole keys; a star goes over slashes and line breaks, and case counts."""
    keys = ["a", "ab", "a/b", "A", "[x]", "a\nb", ""]
    chosen = Selection(only=only).chosen()
    assert chosen is not None
    assert expected == [key for key in keys if chosen(key)]


@given(pattern=st.text("ab*?[]!-", max_size=6), key=st.text("ab[]*-", max_size=4))
def test_any_glob(pattern, key):
    """Globs are those that Python and its users know from `fnmatch`."""
    chosen = Selection(only=pattern).chosen()
    assert chosen is not None
    assert fnmatchcase(key, pattern) == bool(chosen(key))


def test_keys():
    """Given keys are taken as they are, stars and all."""
    chosen = Selection(keys=frozenset({"a*", "b"})).chosen()
    assert chosen is not None
    assert ["a*", "b"] == [key for key in ("a", "a*", "ab", "b", "c") if chosen(key)]
    none = Selection(keys=frozenset()).chosen()
    assert none is not None
    assert not none("a")


def test_a_glob_among_keys():
    """Where both are given a key has to pass both."""
    chosen = Selection(only="a*", keys=frozenset({"ab", "b"})).chosen()
    assert chosen is not None
    assert ["ab"] == [key for key in ("a", "ab", "b") if chosen(key)]


@pytest.mark.parametrize("selection", [Selection(), Selection(failed=True), Selection(shard=(1, 2))])
def test_nothing_to_choose_by(selection):
    """Without glob and keys nobody is asked whether a key is chosen: all are."""
    assert None is selection.chosen()
