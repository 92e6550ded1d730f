"""Strict YAML: what is refused, in which words, and the lines of keys."""

import string
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chora_mp import yamlfile
from chora_mp.errors import JobError
from chora_mp.yamlfile import MAX_ALIASED, MAX_DEPTH, parse_yaml, read_text, read_yaml

BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "m0: &m0 {k: 1}\n" + "".join(f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}]\n" for n in range(1, 40))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "y:3: duplicate key 'a' (the first is on line 1); remove one of them"),
        ("x:\n  a: 1\n  a: 2\n", "y:3: duplicate key 'a' (the first is on line 2); remove one of them"),
        ("1: a\n0x1: b\n", "y:2: duplicate key '0x1' (the first is on line 1); remove one of them"),
        ("a: &a [*a]\n", "y:1: an alias contains itself; write the value out"),
        ("a: &a {b: [*a]}\n", "y:1: an alias contains itself; write the value out"),
        (BOMB, "y:5: aliases expand to more than 100,000 values; use fewer"),
        (MERGE_BOMB, "y:31: aliases expand to more than 100,000 values; use fewer"),
        (CHAIN, "y:101: nested more than 100 levels deep; flatten it"),
        ("[" * 200_000, "y:1: nested more than 100 levels deep; flatten it"),
        ("[1, " * 200_000, "y:1: nested more than 100 levels deep; flatten it"),
        ("? [a]\n: b\n", "y:1: not valid YAML (found unhashable key); correct the line"),
        ("? !!seq a\n: b\n", "y:1: not valid YAML (found unhashable key); correct the line"),
        ("a: 1\n---\nb: 2\n", "y:2: a second document; keep one in a file"),
        ("a: !secret x\n", "y:1: unknown tag '!secret'; remove it, only plain YAML is read"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "tag 'tag:yaml.org,2002:python/object/apply:os.system'; remove it, only plain YAML is read",
        ),
        (
            "a: 2026-13-45\n",
            "y:1: not a valid timestamp (found '2026-13-45'); correct it, or put it in quotes",
        ),
        ("\na: !!bool x\n", "y:2: not a valid bool (found 'x'); correct it, or put it in quotes"),
        ("a: {{ id }}\n", "y:1: not valid YAML (found unhashable key); put values with {{ or {% in quotes"),
        ("a: {{ id }}.md\nb: 1\n", "put values with {{ or {% in quotes"),
        (
            "a: b: c\n",
            "y:1: not valid YAML (mapping values are not allowed in this context); correct the line",
        ),
        (
            "a: 1\nb: \x07\n",
            "y:2: not valid YAML (control characters are not allowed); remove what is no text",
        ),
        ("a: &x 1\nb: &x 2\n", "y:2: duplicate anchor; name it differently"),
        ("a: *x\n", "y:1: not valid YAML (found undefined alias); correct the line"),
    ],
    ids=lambda value: value[:20],
)
def test_refused(text, message):
    """What is wrong comes as one line with its number; libyaml's crash on deep nesting would end the tests."""
    with pytest.raises(JobError) as error:
        parse_yaml(text, "y")
    (problem,) = error.value.problems
    assert message == problem if message.startswith("y:") else problem.endswith(message)


@pytest.mark.parametrize(
    "text", [BOMB, CHAIN, "[" * 500, "a: 1\na: 2", "a: &a [*a]", "a: !x 1", "a: 2026-13-45", "a: \a"]
)
def test_without_libyaml(monkeypatch, text):
    """PyYAML's own parser, where the C library is missing, refuses the same in the same words."""
    monkeypatch.delattr("yaml.CSafeLoader")
    spec = spec_from_file_location("yamlfile_without_libyaml", yamlfile.__file__)
    pure = module_from_spec(spec)
    spec.loader.exec_module(pure)
    with pytest.raises(JobError) as fast:
        parse_yaml(text, "y")
    with pytest.raises(JobError) as slow:
        pure.parse_yaml(text, "y")
    assert fast.value.problems[0].split(" (")[0] == slow.value.problems[0].split(" (")[0]
    assert pure.parse_yaml("a: [1, {b: ~}]", "y").data == {"a": [1, {"b": None}]}


def test_merge_keys():
    """A merge key fills in what a mapping lacks, and its keys keep the line where they stand."""
    data, lines = parse_yaml("base: &b {x: 1, y: 2}\nnew:\n  <<: *b\n  x: 3\n", "y")
    assert data == {"base": {"x": 1, "y": 2}, "new": {"x": 3, "y": 2}}
    assert (lines["new.x"], lines["new.y"]) == (4, 1)


@pytest.mark.parametrize("name", ["x", "a longer name", "é"])
def test_what_wins_in_a_merge(name):
    """A mapping's own keys win over merged ones, earlier mappings over later ones; merged ones merge in turn."""
    text = f"a: &a {{{name}: 1}}\nb: &b\n  <<: *a\n  {name}: 2\nc:\n  <<: *b\nd:\n  <<: [*a, *b]\ne: {{<<: [*b, *a]}}\n"
    assert {"a": 1, "b": 2, "c": 2, "d": 1, "e": 2} == {
        key: value[name] for key, value in parse_yaml(text, "y").data.items()
    }


@pytest.mark.parametrize("value", ["1", "[1]", "[{a: 1}, x]"])
def test_what_cannot_be_merged(value):
    """Only mappings can be."""
    with pytest.raises(JobError, match=r"^y:2: not valid YAML \(expected a mapping or list of mappings for merging"):
        parse_yaml(f"a: 1\nb: {{<<: {value}}}\n", "y")


def test_lines():
    """Each key down to three names has its line; the items of a list are numbered from 0."""
    text = "a:\n  b:\n    c:\n      d: 1\nl:\n- x\n- y\n"
    assert parse_yaml(text, "y").lines == {"a": 1, "a.b": 2, "a.b.c": 3, "l": 5, "l.0": 6, "l.1": 7}


def test_nothing_there():
    """An empty text, or one of comments, is no document."""
    assert [tuple(parse_yaml(text, "y")) for text in ("", "# nothing\n")] == [(None, {})] * 2


def test_as_much_as_allowed():
    """Depth up to the limit, any length without aliases, and an alias used often are fine."""
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "y").data
    assert len(parse_yaml("- 1\n" * (MAX_ALIASED + 2), "y").data) == MAX_ALIASED + 2
    assert parse_yaml("- &a {x: 1}\n" + "- *a\n" * 1000, "y").data[1000] == {"x": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.yaml", "y: no such file; check the path"),
        (".", "y: is a folder; name a file in it"),
        ("nul\0.yaml", "y: cannot be read (embedded null byte); check the path and its permissions"),
        ("latin.yaml", "y:2: not UTF-8 text (found byte 0xfc); save it as UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, message):
    """Whatever keeps a file from being read, it is one line that says so."""
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: Grün\n".encode("latin-1"))
    with pytest.raises(JobError) as error:
        read_yaml(tmp_path / name, "y")
    assert (message,) == error.value.problems


def test_no_permission(tmp_path, monkeypatch):
    """A file that may not be read is named with the system's reason."""

    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(JobError) as error:
        read_text(tmp_path / "x", "y")
    assert error.value.problems == ("y: cannot be read (Permission denied); check the path and its permissions",)


def test_byte_order_mark(tmp_path):
    """What Windows editors put at the start of a file is no part of it."""
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa")
    assert read_text(tmp_path / "bom.txt", "y") == "a"


TAGS = ["map", "seq", "set", "omap", "pairs", "int", "float", "bool", "timestamp", "binary", "null", "merge", "value"]
PIECES = [
    *"abc01:-,[]{}&*!|>'\"#%@`?~=.<\n\t ",
    *(f"!!{tag} " for tag in TAGS),
    *("\n  ", "a: ", "- ", "<<: ", "*a", "&a ", "? ", "---\n", "2026-13-45", "{{ a }}", "\0", "\ufeff", "\u2028"),
]
YAMLISH = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(st.one_of(YAMLISH, st.text(max_size=50), st.text(alphabet=string.printable, max_size=80)))
@example("? !!seq x\n: y")
@example("? !!map x\n: y")
@example("!!int ''")
@example("!!timestamp x")
@example("a: !!binary ü")
def test_nothing_but_job_errors(text):
    """Whatever the text, it is a document or a `JobError` of one line."""
    try:
        parse_yaml(text, "y")
    except JobError as error:
        (problem,) = error.problems
        assert problem.startswith("y:")
        assert len(problem.splitlines()) == 1
        assert "; " in problem
