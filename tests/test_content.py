"""Content configs: what becomes of each, what is said of the bad ones, and in which order they are generated."""
# ruff: noqa: E501  (tables, a line each)

from __future__ import annotations

import copy
import datetime
import enum
import json
import os
import pickle
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.bundle import digest_of
from chora_mp.errors import SourceError
from chora_mp.job import Request
from chora_mp.sources.content import Content, Group, read_content

GENERATORS = ("jinja2", "minijinja", "template_fill", "demonstration", "bdd_scenario", "code_generation")


def config(id_: str, context: Any = None, generator: str = "jinja2", **fields: Any) -> dict[str, Any]:
    """A content config with one pattern."""
    settings_ = {} if context is None else {"context": context}
    pattern = {"id": "p", "type": generator, "template": "t.j2", "generation_config": settings_}
    return {"type": "content", "id": id_, "generation": {"patterns": [pattern]}} | fields


def needing(id_: str, *needed: str, **fields: Any) -> dict[str, Any]:
    """A config that needs the texts of others, under their own ids."""
    return config(id_, {one: {"source": "config", "path": one} for one in needed}, **fields)


def written(base: Path, files: dict[str, Any]) -> Path:
    """The folder `configs` in `base`, holding these files: data as JSON, text and bytes as they are."""
    folder = base / "configs"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read(base: Path, files: dict[str, Any], *requests: Request) -> Content:
    """What comes of these files in a folder of configs."""
    return read_content(written(base, files), requests, base, GENERATORS)


def configs(base: Path, *all_: dict[str, Any]) -> Content:
    """What comes of these configs, each in a file named by its id."""
    return read(base, {f"{one['id']}.json": one for one in all_})


def one(base: Path, config_: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record of a single config, with changes by the request."""
    return read(base, {"a.json": config_}, Request(config_["id"], **changes)).records[0]


def problems(content: Content) -> dict[str, tuple[str, str]]:
    """Type and message of each problem by key."""
    return {
        record["key"]: (record["problem"]["type"], record["problem"]["message"])
        for record in content.records
        if "problem" in record
    }


def keys(content: Content) -> list[str]:
    """The keys in order."""
    return [record["key"] for record in content.records]


# ---- one config --------------------------------------------------------------------------------------------

FULL = """\
type: content
id: release-notes
schemaRef: {id: content-schema, version: "1.0"}
metadata: {description: Notes, version: 1.0.0, output_format: markdown, released: 2024-02-03}
elements:
  - {name: intro, format: text, example_output: Hello}
generation:
  patterns:
    - id: main
      type: jinja2
      template: notes.md.j2
      variables: [{name: who, source: intro, default: you}]
      generation_config: {context: {title: Notes}, undefined_behavior: strict}
unheard_of: {of: course}
"""


def test_a_config_becomes_a_record(tmp_path: Path) -> None:
    """A record holds all that a generator needs, and nothing that nobody knows."""
    metadata = {
        "description": "Notes",
        "version": "1.0.0",
        "output_format": "markdown",
        "released": datetime.date(2024, 2, 3),
    }
    expected = {
        "key": "release-notes",
        "id": "release-notes",
        "config": "configs/deep/er/notes.yml",
        "generator": "jinja2",
        "pattern": "main",
        "extension": "md",
        "template": "notes.md.j2",
        "metadata": metadata,
        "output": None,
        "priority": 50.0,
        "spec": {
            "id": "release-notes",
            "pattern": "main",
            "template": "notes.md.j2",
            "variables": [{"name": "who", "source": "intro", "default": "you"}],
            "elements": [{"name": "intro", "format": "text", "example_output": "Hello"}],
            "generation_config": {"undefined_behavior": "strict"},
            "metadata": metadata,
        },
        "context": {"title": "Notes"},
    }
    content = read(tmp_path, {"deep/er/notes.yml": FULL})
    assert Content([expected], [Group("jinja2", 50.0, 1, False)], {}) == content


@pytest.mark.parametrize(
    ("request_", "key", "output"),
    [
        (Request("a"), "a", None),
        (Request("configs/a.json"), "a", None),
        (Request("a", output="x/y.md"), "x/y.md", "x/y.md"),
        (Request("a", output="x/y.md", key="k"), "k", "x/y.md"),
        (Request("a", key="k"), "k", None),
    ],
)
def test_key_and_output(tmp_path: Path, request_: Request, key: str, output: str | None) -> None:
    """The key is the request's, or else its output, or else the id."""
    record = read(tmp_path, {"a.json": config("a")}, request_).records[0]
    assert (key, output, "a") == (record["key"], record["output"], record["id"])


@pytest.mark.parametrize(
    ("generator", "metadata", "element", "settings_", "expected"),
    [
        ("jinja2", {}, {}, {}, "txt"),
        ("jinja2", {"output_format": "markdown"}, {"format": "json"}, {}, "md"),
        ("jinja2", {}, {"output_format": "python", "format": "json"}, {}, "py"),
        ("jinja2", {}, {"format": "JavaScript"}, {}, "js"),
        ("jinja2", {}, {"format": "typescript"}, {}, "ts"),
        ("jinja2", {}, {"format": "gherkin"}, {}, "feature"),
        ("jinja2", {}, {"format": "text"}, {}, "txt"),
        ("jinja2", {}, {"format": "json"}, {}, "json"),
        ("jinja2", {}, {"format": "yaml"}, {}, "yaml"),
        ("jinja2", {}, {"format": "html"}, {}, "html"),
        ("jinja2", {}, {"format": "xml"}, {}, "xml"),
        ("jinja2", {"output_format": ".rst"}, {}, {}, "rst"),
        ("jinja2", {"output_format": "../../etc"}, {}, {}, "txt"),
        ("jinja2", {"output_format": "some prose"}, {"format": "html"}, {}, "html"),
        ("jinja2", {"output_format": 7}, {}, {}, "txt"),
        ("jinja2", {}, {}, {"language": "python"}, "txt"),
        ("bdd_scenario", {}, {}, {}, "feature"),
        ("bdd_scenario_assembly", {}, {}, {}, "feature"),
        ("bdd_scenario", {"output_format": "markdown"}, {}, {}, "md"),
        ("code_generation", {}, {}, {"language": "python"}, "py"),
        ("code_generation", {}, {"format": "code"}, {"language": "go"}, "go"),
        ("code_generation", {}, {}, {}, "txt"),
    ],
)
def test_extensions(tmp_path: Path, generator: str, metadata: Any, element: Any, settings_: Any, expected: str) -> None:
    """The first format that tells an extension decides; where none does, the generator."""
    whole = config("a", generator=generator, metadata=metadata, elements=[element])
    whole["generation"]["patterns"][0]["generation_config"] = settings_
    assert expected == one(tmp_path, whole)["extension"]


@pytest.mark.parametrize(
    ("types", "generator", "number"),
    [
        (["jinja2", "demonstration"], "jinja2", 0),
        (["mystery", "demonstration", "jinja2"], "demonstration", 1),
        ([None, "jinja2"], "jinja2", 1),
        (["bdd_scenario_assembly"], "bdd_scenario", 0),
    ],
)
def test_the_first_pattern_of_a_known_generator_counts(
    tmp_path: Path, types: list[Any], generator: str, number: int
) -> None:
    """Patterns that nobody here can follow are passed over while there is one that somebody can."""
    patterns = [{"id": number, "type": type_} for number, type_ in enumerate(types)]
    record = one(tmp_path, config("a", generation={"patterns": patterns}))
    assert (generator, number) == (record["generator"], record["pattern"])


@pytest.mark.parametrize("generator", GENERATORS)
def test_only_templates_of_jinja_are_templates(tmp_path: Path, generator: str) -> None:
    """Other generators find theirs in the spec."""
    record = one(tmp_path, config("a", generator=generator))
    template = "t.j2" if generator in {"jinja2", "minijinja"} else None
    assert (template, "t.j2") == (record["template"], record["spec"]["template"])


@pytest.mark.parametrize(
    ("fields", "requested", "expected"),
    [
        ({}, None, 50.0),
        ({"priority": "high"}, None, 100.0),
        ({"priority": "Medium"}, None, 50.0),
        ({"metadata": {"priority": "low"}}, None, 0.0),
        ({"priority": -3.5, "metadata": {"priority": "low"}}, None, -3.5),
        ({"priority": 0}, None, 0.0),
        ({"priority": "high"}, 7, 7.0),
        ({"priority": "high"}, 0, 0.0),
        ({"priority": "hihg"}, 7, 7.0),
    ],
)
def test_priorities(tmp_path: Path, fields: dict[str, Any], requested: float | None, expected: float) -> None:
    """The request's priority goes before the config's, wherever it stands there."""
    assert expected == one(tmp_path, config("a", **fields), priority=requested)["priority"]


def test_a_priority_beside_the_patterns(tmp_path: Path) -> None:
    """A priority may stand in `generation`, too."""
    whole = config("a")
    whole["generation"]["priority"] = "high"
    assert one(tmp_path, whole)["priority"] == 100.0


@pytest.mark.parametrize(
    ("priority", "end"),
    [
        ("hihg", "(found 'hihg'); did you mean 'high'?"),
        ("zzz", "(found 'zzz'); write one of these"),
        (True, "(found True); write one of these"),
        ([], "(found a list); write one of these"),
        (float("nan"), "(found nan); write one of these"),
        (float("inf"), "(found inf); write one of these"),
        (10**400, "...); write one of these"),
    ],
)
def test_bad_priorities(tmp_path: Path, priority: Any, end: str) -> None:
    """What is no priority is a problem, and the item has the usual one."""
    record = one(tmp_path, config("a", priority=priority))
    assert (50.0, "ConfigError") == (record["priority"], record["problem"]["type"])
    assert record["problem"]["message"].startswith("configs/a.json: priority: must be high, medium, low or a number (")
    assert record["problem"]["message"].endswith(end)


# ---- context -----------------------------------------------------------------------------------------------


def test_a_request_overrides_the_context_name_by_name(tmp_path: Path) -> None:
    """What the request says stands, the rest is the config's; a file that is overridden need not exist."""
    context = {"a": 1, "b": {"x": 1}, "c": {"source": "file", "path": "nowhere.json"}}
    record = one(tmp_path, config("a", context), context={"b": {"y": 2}, "c": 3, "d": (4,)})
    assert {"a": 1, "b": {"y": 2}, "c": 3, "d": [4]} == record["context"]


def test_context_beside_the_settings_of_the_pattern(tmp_path: Path) -> None:
    """A pattern's own context counts as well; that in its settings goes first."""
    whole = config("a", {"a": 1})
    whole["generation"]["patterns"][0]["context"] = {"a": 0, "b": 2}
    record = one(tmp_path, whole)
    assert ({"a": 1, "b": 2}, {}) == (record["context"], record["spec"]["generation_config"])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("d.json", '{"a": [1, null]}', {"a": [1, None]}),
        ("d.JSON", "\ufeff[1]", [1]),
        ("d.yaml", "a: 2024-01-02", {"a": datetime.date(2024, 1, 2)}),
        ("d.yml", "1: x", {1: "x"}),
        ("d.toml", "a = 1.5\nt = 07:32:00", {"a": 1.5, "t": datetime.time(7, 32)}),
        ("d.txt", "{a: 1}\n", "{a: 1}\n"),
        ("d", "é", "é"),
    ],
)
def test_files_in_the_context(tmp_path: Path, name: str, text: str, expected: Any) -> None:
    """Data is read as data, anything else as text."""
    written(tmp_path, {f"sub/{name}": text})
    content = read(tmp_path, {"sub/c.json": config("a", {"x": {"source": "file", "path": name}})}, Request("a"))
    assert expected == content.records[0]["context"]["x"]


def test_where_files_of_the_context_are_looked_for(tmp_path: Path) -> None:
    """Beside the config, then in the base; those of a request in the base only."""
    (tmp_path / "d.txt").write_text("base")
    (tmp_path / "e.txt").write_text("base")
    source = {name: {"source": "file", "path": f"{name}.txt"} for name in "de"}
    files = {"a.json": config("a", source), "d.txt": "beside"}
    content = read(tmp_path, files, Request("a"), Request("a", source, key="own"))
    assert [{"d": "beside", "e": "base"}, {"d": "base", "e": "base"}] == [one["context"] for one in content.records]


@pytest.mark.parametrize(
    "value",
    [
        {"source": "database", "path": "x"},
        {"source": None},
        {"source": ["file"]},
        {"inner": {"source": "file", "path": "nowhere"}},
        [{"source": "file", "path": "nowhere"}],
    ],
)
def test_other_sources_are_data(tmp_path: Path, value: Any) -> None:
    """Only files and configs are sources, and only at the top of the context."""
    assert {"x": value} == one(tmp_path, config("a", {"x": value}))["context"]


@pytest.mark.parametrize(
    ("value", "type_", "message"),
    [
        (
            {"source": "file", "path": "no.json"},
            "FileNotFoundError",
            "no such file 'no.json' (looked for configs/no.json and no.json); check the path",
        ),
        (
            {"source": "file", "path": "bad.json"},
            "ConfigError",
            "configs/bad.json:2:1: not valid JSON (Expecting value); correct it",
        ),
        ({"source": "file", "path": "latin.txt"}, "ConfigError", "configs/latin.txt:2: not UTF-8 text (found byte 0xe9); save it as UTF-8"),
        ({"source": "file", "path": "."}, "ConfigError", "configs: is no file; name one"),
        ({"source": "file", "path": "x\0"}, "FileNotFoundError", "no such file 'x\\x00' (looked for configs/x\\x00 and x\\x00); check the path"),
        ({"source": "file"}, "ConfigError", "source 'file' has no path (found null); write one"),
        ({"source": "config", "path": 7}, "ConfigError", "source 'config' has no path (found 7); write one"),
        ({"source": "config", "path": "nobody"}, "UnknownConfig", "no content config 'nobody' in configs"),
        ({"source": "config", "path": "aa"}, "UnknownConfig", "no content config 'aa' in configs; did you mean 'a'?"),
    ],
)  # fmt: skip
def test_bad_context(tmp_path: Path, value: Any, type_: str, message: str) -> None:
    """A context that cannot be had is the problem of its item, and says which name of which config."""
    written(tmp_path, {"bad.json": "[\n", "latin.txt": b"a\n\xe9"})
    content = read(tmp_path, {"a.json": config("a", {"x": value})}, Request("a"))
    assert {"a": (type_, f"configs/a.json: context.x: {message}")} == problems(content)


def test_a_missing_file_of_a_request(tmp_path: Path) -> None:
    """Of a request's file only the base is named."""
    request = Request("a", {"x": {"source": "file", "path": "no.json"}})
    message = "configs/a.json: context.x: no such file 'no.json' (looked for no.json); check the path"
    content = read(tmp_path, {"a.json": config("a")}, request)
    assert {"a": ("FileNotFoundError", message)} == problems(content)


class Colour(str, enum.Enum):  # noqa: UP042  (str() tells its name)
    """A text that isn't just text."""

    RED = "red"


def test_context_becomes_plain_data(tmp_path: Path) -> None:
    """What a program hands over is turned into plain data where that can be done."""
    context = one(tmp_path, config("a"), context={"x": Colour.RED, "y": {True: (1, 2.5)}})["context"]
    assert ({"x": "red", "y": {True: [1, 2.5]}}, str) == (context, type(context["x"]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "holds a value of type object; write text, a number, a list or a mapping"),
        ({"y": b"bytes"}, "holds a value of type bytes; write text, a number, a list or a mapping"),
        ({(1, 2): 3}, "holds a list; write text, a number, a list or a mapping"),
        (json.loads("[" * 101 + "]" * 101), "nested more than 100 levels deep; flatten it"),
    ],
)
def test_what_is_no_plain_data(tmp_path: Path, value: Any, message: str) -> None:
    """What other processes could not rebuild is refused."""
    record = one(tmp_path, config("a"), context={"x": value})
    found = record["problem"]["message"].replace("holds a value of type tuple", "holds a list")
    assert f"configs/a.json: context of the request: {message}" == found


# ---- bad configs -------------------------------------------------------------------------------------------

BARE = {"type": "content", "id": "a"}
BAD: list[tuple[Any, str, str]] = [
    (BARE, "ConfigError", "no generation.patterns; write one with the generator as its type"),
    (BARE | {"generation": {"patterns": []}}, "ConfigError", "no generation.patterns; write one with the generator as its type"),
    (BARE | {"generation": []}, "ConfigError", "generation: must be a mapping (found a list); correct it"),
    (BARE | {"generation": {"patterns": {}}}, "ConfigError", "patterns: must be a list (found a mapping); correct it"),
    (BARE | {"generation": {"patterns": [1]}}, "ConfigError", "generation.patterns[0]: must be a mapping (found 1); correct it"),
    (BARE | {"generation": {"patterns": [{}]}}, "ConfigError", "generation.patterns[0]: no type (found null); write the name of a generator"),
    (config("a", generator="jinja"), "UnknownGenerator", "generation.patterns[0]: unknown generator 'jinja'; did you mean 'jinja2'?"),
    (config("a", generator="zzz"), "UnknownGenerator", "generation.patterns[0]: unknown generator 'zzz'; choose one of 'bdd_scenario', 'code_generation', 'demonstration', 'jinja2', 'minijinja', 'template_fill'"),
    (config("a", metadata=[]), "ConfigError", "metadata: must be a mapping (found a list); correct it"),
    (config("a", elements={}), "ConfigError", "elements: must be a list (found a mapping); correct it"),
    (config("a", "x"), "ConfigError", "context: must be a mapping (found 'x'); correct it"),
]  # fmt: skip


@pytest.mark.parametrize(("whole", "type_", "message"), BAD)
def test_bad_configs(tmp_path: Path, whole: Any, type_: str, message: str) -> None:
    """A config that says nothing sensible is a record that says what is wrong."""
    content = read(tmp_path, {"a.json": whole})
    assert {"a": (type_, f"configs/a.json: {message}")} == problems(content)


@pytest.mark.parametrize("value", [None, "", 7, ["a"]])
def test_no_id(tmp_path: Path, value: Any) -> None:
    """A config without an id goes by its file's stem."""
    content = read(tmp_path, {"stem.json": config("a") | {"id": value}})
    message = problems(content)["stem"][1]
    assert message.startswith("configs/stem.json: no id (found ")


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    """Jinja's templates are text."""
    whole = config("a")
    whole["generation"]["patterns"][0]["template"] = 7
    message = "configs/a.json: template: must be text (found 7); write a name, or the template itself"
    assert message == one(tmp_path, whole)["problem"]["message"]


def test_yaml_that_is_no_plain_data(tmp_path: Path) -> None:
    """YAML's bytes and sets are refused where a config holds them."""
    content = read(tmp_path, {"a.yaml": "type: content\nid: a\nx: !!binary aGk=\n"})
    message = "configs/a.yaml: holds a value of type bytes; write text, a number, a list or a mapping"
    assert {"a": ("ConfigError", message)} == problems(content)


PROBLEM_FIELDS = {"key", "id", "config", "generator", "extension", "output", "priority", "metadata", "spec", "context"}


@pytest.mark.parametrize(
    ("request_", "id_", "type_", "message"),
    [
        (Request("goood"), "goood", "UnknownConfig", "no content config 'goood' in configs; did you mean 'good'?"),
        (Request("zzz", output="o.md"), "zzz", "UnknownConfig", "no content config 'zzz' in configs"),
        (Request("no/file.yaml"), "file", "FileNotFoundError", "no/file.yaml: no such file; check the path"),
        (Request("configs/x.json/"), "configs/x.json/", "UnknownConfig", "no content config 'configs/x.json/' in configs"),
        (Request("configs/dir.json"), "dir", "ConfigError", "configs/dir.json: is no file; name one"),
        (Request("configs/data.json"), "data", "ConfigError", "configs/data.json: no content config (no 'type: content' at its top level); name another file"),
        (Request("data"), "data", "ConfigError", "configs/data.json: no content config (no 'type: content' at its top level); name another file"),
        (Request("configs/list.yaml"), "list", "ConfigError", "configs/list.yaml: no content config (no 'type: content' at its top level); name another file"),
        (Request("configs/broken.json"), "broken", "ConfigError", "configs/broken.json:1:12: not valid JSON (Expecting value); correct it"),
        (Request("broken"), "broken", "ConfigError", "configs/broken.json:1:12: not valid JSON (Expecting value); correct it"),
        (Request("x\0y.json"), "x\0y", "FileNotFoundError", "x\\x00y.json: no such file; check the path"),
    ],
)  # fmt: skip
def test_what_is_asked_for_and_is_no_config(
    tmp_path: Path, request_: Request, id_: str, type_: str, message: str
) -> None:
    """Whoever asks for what isn't there is told so, with all the fields of a record."""
    files = {
        "good.json": config("good"),
        "dir.json/x.txt": "",
        "data.json": {"type": "artifact", "content": 1},
        "list.yaml": "[content]",
        "broken.json": '{"content":',
    }
    record = read(tmp_path, files, request_).records[0]
    assert ({"type": type_, "message": message}, id_) == (record["problem"], record["id"])
    assert (request_.output or id_, {}, {}, "") == (
        record["key"],
        record["spec"],
        record["context"],
        record["generator"],
    )
    assert set() == PROBLEM_FIELDS - set(record)


def test_without_a_folder(tmp_path: Path) -> None:
    """Configs can be asked for by path alone, and need each other by id; other ids there are none."""
    written(tmp_path, {"a.json": config("a"), "b.json": needing("b", "a")})
    requests = (Request("configs/b.json"), Request("configs/a.json"), Request("c"))
    content = read_content(None, requests, tmp_path, GENERATORS)
    expected = ("UnknownConfig", "no content config 'c'; there is no folder of configs to look in")
    assert ({"c": expected}, {2: (1,)}) == (problems(content), content.needs)


def test_nothing_is_asked_for(tmp_path: Path) -> None:
    """No folder and no requests, or an empty folder: nothing to generate."""
    assert Content([], [], {}) == read_content(None, (), tmp_path, GENERATORS)
    assert Content([], [], {}) == read(tmp_path, {})


# ---- the folder --------------------------------------------------------------------------------------------


def test_which_files_are_configs(tmp_path: Path) -> None:
    """All of the suffixes at any depth, in the order of their names; other files and what is hidden are passed over."""
    files = {
        "z.json": config("one"),
        "a/b/c.yaml": json.dumps(config("two")),
        "a/b.YML": json.dumps(config("three")),
        "a.txt": json.dumps(config("no-1")),
        ".hidden/a.json": config("no-2"),
        ".a.json": config("no-3"),
        "artifact.json": config("no-4") | {"type": "artifact"},
        "list.json": [config("no-5")],
        "text.yaml": "content",
        "number.json": "1",
        "empty.json": "",
        "empty.yaml": "",
        "streams.yaml": "a: 1\n---\nb: 2\n",
        "broken.json": '{"type": "content-block", ',
        "late.json": '{"x": "' + "x" * 2000 + '", "type": "content",',
    }
    assert ["two", "three", "one"] == keys(read(tmp_path, files))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"type": "content",\n "id": }', ":2:8: not valid JSON (Expecting value); correct it"),
        ("x.json", "{'type': 'content'}", ":1:2: not valid JSON (Expecting property name enclosed in double quotes); correct it"),
        ("x.yaml", "type: content\nid: a\nid: b\n", ":3: duplicate key 'id' (the first is on line 2); remove one of them"),
        ("x.yaml", b"type: content\nid: \xff\n", ":2: not UTF-8 text (found byte 0xff); save it as UTF-8"),
        ("x.json", '{"type": "content", "x": ' + "9" * 5000 + "}", ": not valid JSON (Exceeds the limit"),
        ("x.json", '{"type": "content", "x": ' + "[" * 100_000, ": nested more than 100 levels deep; flatten it"),
        ("x.json", '{"type": "content", "x": ' + "[" * 101 + "]" * 101 + "}", ": nested more than 100 levels deep; flatten it"),
    ],
)  # fmt: skip
def test_a_broken_config_is_a_bad_item(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """A file that says near its start that it is a config and cannot be parsed goes by its stem."""
    found = problems(read(tmp_path, {name: content, "good.json": config("good")}))
    assert (["x"], "ConfigError") == (list(found), found["x"][0])
    assert found["x"][1].startswith(f"configs/{name}{message}")


def test_a_link_that_leads_nowhere_is_a_bad_item(tmp_path: Path) -> None:
    """A file that cannot be read might be a config; a pipe is none, and nobody waits for it."""
    folder = written(tmp_path, {})
    (folder / "gone.json").symlink_to("nowhere.json")
    os.mkfifo(folder / "pipe.json")
    expected = {"gone": ("FileNotFoundError", "configs/gone.json: no such file; check the path")}
    assert expected == problems(read(tmp_path, {}))


def test_no_folder_is_read_twice(tmp_path: Path) -> None:
    """Symlinks lead round in circles, and two names of one file are one config."""
    folder = written(tmp_path, {"sub/a.json": config("a")})
    (folder / "sub/up").symlink_to(folder)
    (folder / "twin").symlink_to(folder / "sub")
    (folder / "b.json").symlink_to("sub/a.json")
    (folder / "c.json").hardlink_to(folder / "sub/a.json")
    content = read(tmp_path, {}, Request("a"), Request("configs/c.json", key="k"))
    assert [("a", "configs/b.json"), ("k", "configs/b.json")] == [
        (one["key"], one["config"]) for one in content.records
    ]
    assert ["a"] == keys(read(tmp_path, {}))


def test_an_id_in_two_files(tmp_path: Path) -> None:
    """Both files are a problem, and each names the other."""
    content = read(tmp_path, {"x.json": config("a"), "y.json": config("a"), "b.json": needing("b", "a")})
    message = "id 'a' is that of several files ('configs/x.json', 'configs/y.json'); rename all but one"
    bad = [(one["config"], one["problem"]["message"]) for one in content.records if one["key"] == "a"]
    assert [("configs/x.json", message), ("configs/y.json", message)] == bad
    # Which of the two is needed nobody can tell.
    assert "b" in problems(content)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such folder; name the folder of the configs"),
        ("file", "file: is no folder; name the folder of the configs"),
    ],
)
def test_the_folder_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    """Without a folder there is nothing to go on with."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError) as caught:
        read_content(tmp_path / name, (), tmp_path, GENERATORS)
    assert message == str(caught.value)


def test_a_folder_inside_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that all is generated while configs may be left out."""
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    folder = written(tmp_path, {"locked/a.json": config("a")})
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(SourceError) as caught:
        read_content(folder, (), tmp_path, GENERATORS)
    assert "configs/locked: cannot be read (Permission denied); name the folder of the configs" == str(caught.value)


# ---- needs -------------------------------------------------------------------------------------------------


def test_needs(tmp_path: Path) -> None:
    """A record says whose text it needs, by key and by a name that changes with what the text is made from."""
    content = configs(tmp_path, needing("a", "b", "c"), needing("b", "c"), config("c", {"x": 1}))
    c, b, a = content.records
    assert (["c", "b", "a"], {1: (0,), 2: (1, 0)}) == (keys(content), content.needs)
    assert {"b": ["b", b["text"]], "c": ["c", c["text"]]} == a["needs"]
    assert ({"c": ["c", c["text"]]}, {}) == (b["needs"], b["context"])
    assert ("needs" in c, "text" in a) == (False, False)
    assert [b["text"], c["text"]] == [digest_of({n: v for n, v in one.items() if n != "text"}) for one in (b, c)]


def test_a_needed_config_that_nobody_asked_for(tmp_path: Path) -> None:
    """It becomes an item of its own, and what it needs, too; the rest of the folder does not."""
    files = {"a.json": needing("a", "b"), "b.json": needing("b", "c"), "c.json": config("c"), "d.json": config("d")}
    content = read(tmp_path, files, Request("a", output="a.md"))
    assert (["c", "b", "a.md"], {1: (0,), 2: (1,)}) == (keys(content), content.needs)


def test_a_need_of_a_request_and_one_that_is_overridden(tmp_path: Path) -> None:
    """A request may ask for another's text, or do without."""
    files = {"a.json": needing("a", "b"), "b.json": config("b")}
    content = read(tmp_path, files, Request("a", {"b": "text"}))
    assert (["a"], {}) == (keys(content), content.needs)
    request = Request("b", {"x": {"source": "config", "path": "c"}})
    content = read(tmp_path, files | {"c.json": config("c")}, request)
    assert (["c", "b"], {1: (0,)}) == (keys(content), content.needs)


def test_two_needs_of_one_text(tmp_path: Path) -> None:
    """The text is needed once, whatever it is called."""
    context = {name: {"source": "config", "path": "a"} for name in ("x", "y")}
    content = configs(tmp_path, config("a"), config("b", context))
    assert (["x", "y"], {1: (0,)}) == (list(content.records[1]["needs"]), content.needs)


def test_an_ambiguous_need(tmp_path: Path) -> None:
    """Where a config is asked for twice, nobody can tell which text is needed."""
    requests = (Request("a"), Request("a", key="a2"), Request("b"))
    content = read(tmp_path, {"a.json": config("a"), "b.json": needing("b", "a")}, *requests)
    message = (
        "configs/b.json: context.a: needs 'a', which is asked for 2 times; "
        "ask for it once, or copy the config under another id"
    )
    assert {"b": ("NeedError", message)} == problems(content)


CYCLE = "cycle: a needs b needs c needs a"


def test_cycles(tmp_path: Path) -> None:
    """All on a cycle are told of it; those that need them are told who is to blame; the rest is generated."""
    content = configs(
        tmp_path,
        needing("a", "b"),
        needing("b", "c", "z"),
        needing("c", "a"),
        needing("d", "a"),
        needing("e", "d"),
        needing("self", "self"),
        needing("y", "z"),
        config("z"),
    )
    expected = {
        **dict.fromkeys("abc", ("CycleError", CYCLE)),
        "d": ("NeedError", f"needs 'a', which cannot be generated: {CYCLE}"),
        "e": ("NeedError", f"needs 'd', which cannot be generated: {CYCLE}"),
        "self": ("CycleError", "cycle: self needs self"),
    }
    assert (expected, {7: (6,)}) == (problems(content), content.needs)
    assert ["a", "b", "c", "d", "e", "self", "z", "y"] == keys(content)
    assert all("needs" not in one and one["context"] == {} for one in content.records if "problem" in one)


def test_a_long_cycle_is_not_spelled_out(tmp_path: Path) -> None:
    """A message has an end."""
    content = configs(tmp_path, *(needing(f"c{n:02}", f"c{(n + 1) % 30:02}") for n in range(30)))
    message = content.records[0]["problem"]["message"]
    assert message.endswith("needs c18 needs (30 configs) needs c00")


def test_a_need_with_a_problem(tmp_path: Path) -> None:
    """What is wrong with the needed is what is wrong with the needing, through any number of steps."""
    root = "configs/a.json: no generation.patterns; write one with the generator as its type"
    content = configs(tmp_path, BARE, needing("b", "a"), needing("c", "b"), needing("d", "c"))
    expected = {
        "a": ("ConfigError", root),
        **{x: ("NeedError", f"needs '{y}', which cannot be generated: {root}") for x, y in ("ba", "cb", "dc")},
    }
    assert (expected, {}) == (problems(content), content.needs)


# ---- order -------------------------------------------------------------------------------------------------


def test_order_and_groups(tmp_path: Path) -> None:
    """Needless before needy, then by priority, then by generator, then by file; problems under their generator."""
    content = configs(
        tmp_path,
        needing("a", "h", priority="high"),
        config("b", priority="low"),
        config("c"),
        config("d", generator="demonstration"),
        config("e"),
        config("f", {"x": {"source": "file", "path": "no"}}),
        BARE | {"id": "g"},
        needing("h", "b", priority="low"),
        needing("i", "b", generator="demonstration", priority="high"),
    )
    assert ["g", "d", "c", "e", "f", "b", "i", "h", "a"] == keys(content)
    groups = [
        Group("", 50.0, 1, False),
        Group("demonstration", 50.0, 1, False),
        Group("jinja2", 50.0, 3, False),
        Group("jinja2", 0.0, 1, False),
        Group("demonstration", 100.0, 1, True),
        Group("jinja2", 0.0, 1, True),
        Group("jinja2", 100.0, 1, True),
    ]
    assert groups == content.groups


def test_requests_keep_their_order(tmp_path: Path) -> None:
    """Of equals, what was asked for first comes first."""
    files = {"a.json": config("a"), "b.json": config("b")}
    requests = [Request("b"), Request("a"), Request("b", key="b2"), Request("a", key="a2", priority=60)]
    assert ["a2", "b", "a", "b2"] == keys(read(tmp_path, files, *requests))


@st.composite
def graphs(draw: st.DrawFn, acyclic: bool = True) -> list[dict[str, Any]]:
    """Configs that need each other, in any order of names."""
    count = draw(st.integers(1, 9))
    names = draw(st.permutations([f"n{number}" for number in range(count)]))
    made = []
    for number, name in enumerate(names):
        others = names[:number] if acyclic else names
        needed = draw(st.lists(st.sampled_from(others), unique=True, max_size=3)) if others else []
        priority = draw(st.sampled_from(["high", "low", 7]))
        generator = draw(st.sampled_from(["jinja2", "demonstration"]))
        made.append(needing(name, *needed, priority=priority, generator=generator))
    return made


def needs_of(one_: dict[str, Any]) -> set[str]:
    """The ids that a config needs."""
    return set(one_["generation"]["patterns"][0]["generation_config"]["context"])


def upstream(made: list[dict[str, Any]]) -> dict[str, set[str]]:
    """All that each config needs, near and far; itself only if it is on a cycle."""
    reach = {one_["id"]: needs_of(one_) for one_ in made}
    for _ in made:
        reach = {id_: needed.union(*(reach[n] for n in needed)) for id_, needed in reach.items()}
    return reach


def read_all(made: list[dict[str, Any]]) -> Content:
    """What comes of configs in a folder of their own, which is then gone."""
    with tempfile.TemporaryDirectory() as folder:
        return configs(Path(folder), *made)


@settings(deadline=None)
@given(graphs())
def test_whatever_is_needed_comes_before(made: list[dict[str, Any]]) -> None:
    """In any graph without cycles each record stands after what it needs, and as high as its rank allows."""
    content = read_all(made)
    number = {key: number for number, key in enumerate(keys(content))}
    needs = {number[one_["id"]]: {number[id_] for id_ in needs_of(one_)} for one_ in made if needs_of(one_)}
    assert needs == {one_: set(others) for one_, others in content.needs.items()}
    assert all(other < one_ for one_, others in needs.items() for other in others)

    ranks = [(n in needs, -one_["priority"], one_["generator"], one_["id"]) for n, one_ in enumerate(content.records)]
    for place, rank in enumerate(ranks):
        free = [ranks[n] for n in range(place, len(ranks)) if all(other < place for other in needs.get(n, ()))]
        assert min(free) == rank


@settings(deadline=None)
@given(graphs())
def test_groups_are_the_runs_of_records(made: list[dict[str, Any]]) -> None:
    """Groups, laid end to end, are the records; no two neighbours are alike."""
    content = read_all(made)
    alike = [(one_["generator"], one_["priority"], n in content.needs) for n, one_ in enumerate(content.records)]
    flat = [(group.generator, group.priority, group.needy) for group in content.groups for _ in range(group.count)]
    assert alike == flat
    assert [key for key, _ in groupby(alike)] == [(*group[:2], group.needy) for group in content.groups]


@settings(deadline=None)
@given(graphs(), st.data())
def test_names_of_texts_change_with_what_is_upstream(made: list[dict[str, Any]], data: st.DataObject) -> None:
    """A change in one config changes the name of its text and of all texts made from it, and no other."""
    changed = data.draw(st.sampled_from(made))["id"]
    after = copy.deepcopy(made)
    for one_ in after:
        if one_["id"] == changed:
            one_["elements"] = [{"name": "new"}]
    names = [{r["id"]: r["text"] for r in read_all(files).records if "text" in r} for files in (made, after)]
    reach = upstream(made)
    assert names[0].keys() == names[1].keys() == set().union(*map(needs_of, made))
    different = {id_ for id_ in names[0] if names[0][id_] != names[1][id_]}
    assert {id_ for id_ in names[0] if id_ == changed or changed in reach[id_]} == different


@settings(deadline=None)
@given(graphs(acyclic=False))
def test_whatever_needs_a_cycle_is_a_problem(made: list[dict[str, Any]]) -> None:
    """In any graph those on cycles, and those that need them, are problems; all others are not."""
    content = read_all(made)
    reach = upstream(made)
    looped = {id_ for id_ in reach if id_ in reach[id_]}
    assert {id_ for id_ in reach if id_ in looped or reach[id_] & looped} == set(problems(content))
    cycles = {key for key, (type_, _) in problems(content).items() if type_ == "CycleError"}
    assert (True, bool(looped)) == (cycles <= looped, bool(cycles))


def test_many_configs_and_many_cycles_take_no_time(tmp_path: Path) -> None:
    """Two thousand cycles and a chain of two thousand, beyond Python's depth of recursion, are sorted out."""
    pairs = [needing(f"p{n}", f"p{n ^ 1}") for n in range(2000)]
    chain = [needing(f"c{n}", f"c{n + 1}") for n in range(2000)]
    content = configs(tmp_path, *pairs, *chain, config("c2000"))
    assert (2000, 2000) == (len(problems(content)), len(content.needs))
    assert [f"c{n}" for n in range(2000, -1, -1)] == [key for key in keys(content) if key.startswith("c")]


def test_records_are_plain_and_reading_is_repeatable(tmp_path: Path) -> None:
    """Two readings give equal records, which come out of a pickle as they went in."""
    all_ = [needing("a", "b"), config("b"), BARE | {"id": "c"}, needing("d", "c")]
    content = configs(tmp_path, *all_)
    assert content == configs(tmp_path, *all_) == pickle.loads(pickle.dumps(content))
