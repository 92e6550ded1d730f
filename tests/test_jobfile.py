"""Job files: what becomes of every key, and every problem in its own words."""

import gzip
import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.errors import JobError
from chora_mp.job import JinjaOptions, Job, Output, Source
from chora_mp.jobfile import job_from_mapping, job_schema, load_job
from chora_mp.jobsections import SECTIONS
from chora_mp.sizing import Limits

CONTRACT = """\
name: aws-docs
source: data/operations.jsonl
templates: templates
template: operation.md.j2
key: "{{ id }}"
output:
  dir: build/aws
  path: "{{ sid }}/{{ name }}.md"
context: {edition: 2026, site: {file: site.yaml}}
plugins: [chora_plugins.py]
depends: [logo.svg]
jinja: {undefined: strict, autoescape: auto, sandbox: false, trim_blocks: true, lstrip_blocks: true, extensions: []}
workers: auto
limits: {timeout: 60s, memory_per_item: 200MB, rate: 60/min, latency: 5s, max_workers: 8,
         max_in_flight: null, batch_size: null, batch_timeout: null, batch_memory: null}
errors: {policy: collect, retries: 0, backoff: {min: 2s, max: 10s}, max_failures: null}
"""
FORMATS = "jsonl, json, yaml, csv, tsv, toml, sqlite"
SHORTEST = "source: d.jsonl\ntemplate: t.j2\noutput: {path: x}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with everything that the jobs below name; it is the current one, so that messages are short."""
    monkeypatch.chdir(tmp_path)
    for name in ("templates", "more", "data"):
        Path(name).mkdir()
    empty = "d.jsonl d.JSON.GZ d.tsv d.csv d.toml d.db d.db.gz d.xyz rows.py chora_plugins.py logo.svg"
    for name in ("data/operations.jsonl", *empty.split()):
        Path(name).touch()
    Path("site.yaml").write_text("title: Chora\n")
    Path("site.json").write_text('{"title": "Chora"}')
    Path("site.toml").write_text("title = 'Chora'\n")
    Path("note.txt").write_text("Grüße\n", encoding="utf-8")
    Path("bad.yaml").write_text("a: 1\na: 2\n")
    Path("bad.json").write_text('{"a":')
    Path("deep.json").write_text("[" * 100_000)
    Path("latin.txt").write_bytes(b"\xfc")
    return tmp_path


def loaded(text, require=("source", "output")):
    """The job in a file that holds `text`."""
    Path("job.yaml").write_text(text, encoding="utf-8")
    return load_job(Path("job.yaml"), require)


def problems(text, require=("source", "output")):
    """The problems of a job file that holds `text`."""
    with pytest.raises(JobError) as error:
        loaded(text, require)
    return list(error.value.problems)


def test_every_key(folder):
    """The example of the contract, key by key."""
    job = loaded(CONTRACT)
    expected = Job(
        name="aws-docs",
        folder=folder,
        template="operation.md.j2",
        templates=(folder / "templates",),
        source=Source("data/operations.jsonl", "jsonl", folder / "data/operations.jsonl"),
        output=Output(folder / "build/aws", "{{ sid }}/{{ name }}.md"),
        key="{{ id }}",
        context={"edition": 2026, "site": {"title": "Chora"}},
        plugins=(str(folder / "chora_plugins.py"),),
        depends=(folder / "logo.svg",),
        jinja=JinjaOptions(extra={"trim_blocks": True, "lstrip_blocks": True}),
        limits=Limits(60.0, 200_000_000, 1.0, 5.0, 8),
        file="job.yaml",
    )
    assert expected == replace(job, lines={})
    assert tuple(job.lines[key] for key in ("output.dir", "output.path", "errors.backoff.min")) == (7, 8, 16)
    assert job.where("output.path") == "job.yaml:8: output.path"


def test_defaults(folder):
    """The shortest job that writes; all else has its default."""
    expected = Job(
        name="job",
        folder=folder,
        template="t.j2",
        templates=(folder / "templates",),
        source=Source("d.jsonl", "jsonl", folder / "d.jsonl"),
        output=Output(folder / "build/job", "x"),
        file="job.yaml",
        lines={"source": 1, "template": 2, "output": 3, "output.path": 3},
    )
    assert expected == loaded(SHORTEST)


def test_null_is_the_default(folder):
    """A null stands for the default of its key everywhere but in constants and the timeout."""
    nulls = "".join(f"{key}: null\n" for key in SECTIONS[""].model_fields if key not in SHORTEST)
    job = loaded(SHORTEST + nulls)
    assert replace(loaded(SHORTEST), lines={}) == replace(job, lines={})
    job = loaded(SHORTEST + "context: {a: null}\nlimits: {timeout: null, rate: null}\njinja: {sandbox: null}\n")
    assert ({"a": None}, Limits(timeout=None), JinjaOptions()) == (job.context, job.limits, job.jinja)


def test_what_the_library_can_do_without(folder):
    """Source and output may be left out unless they are asked for; an output folder alone is no output."""
    assert (loaded("template: t.j2\n", ()).source, loaded("template: t.j2\n", ()).output) == (None, None)
    assert loaded("template: t.j2\noutput: {dir: x}\n", ()).output is None
    expected = [
        "job.yaml: source: missing; add 'source: data.jsonl'",
        "job.yaml: template: missing; add 'template: page.md.j2'",
        "job.yaml: output.path: missing; add 'path: \"{{ id }}.md\"'",
    ]
    assert expected == problems("name: x\n")
    assert expected[1:2] == problems("name: x\n", ())


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("d.jsonl", Source("d.jsonl", "jsonl")),
        ("./d.jsonl", Source("./d.jsonl", "jsonl")),
        ("d.JSON.GZ", Source("d.JSON.GZ", "json", gzip=True)),
        ("d.tsv", Source("d.tsv", "csv", delimiter="\t")),
        ("{path: d.csv, delimiter: ;, encoding: cp1252}", Source("d.csv", "csv", delimiter=";", encoding="cp1252")),
        ("{path: d.tsv, delimiter: '|'}", Source("d.tsv", "csv", delimiter="|")),
        ("{path: d.xyz, format: tsv}", Source("d.xyz", "csv", delimiter="\t")),
        ("{path: d.jsonl, format: null, query: null}", Source("d.jsonl", "jsonl")),
        ("{path: d.toml, records: a.b}", Source("d.toml", "toml", records=("a", "b"))),
        ("{path: d.xyz, format: yaml, records: [a.b, c]}", Source("d.xyz", "yaml", records=("a.b", "c"))),
        ("{path: d.db, query: SELECT 1}", Source("d.db", "sqlite", query="SELECT 1")),
        ("{python: 'pkg.mod:rows'}", Source("pkg.mod:rows", "python", python=("pkg.mod", "rows"))),
    ],
)
def test_sources(folder, spelled, expected):
    """Each spelling of a source; the format is told by the name unless it is given."""
    path = None if expected.python else folder / expected.name
    assert replace(expected, path=path) == loaded(SHORTEST.replace("d.jsonl", spelled)).source


def test_python_source_in_a_file(folder):
    """A Python file is named by its absolute path, from the job's folder."""
    source = loaded(SHORTEST.replace("d.jsonl", "{python: 'rows.py:records'}")).source
    assert source == Source("rows.py:records", "python", python=(str(folder / "rows.py"), "records"))


@pytest.mark.parametrize("extension", ["jsonl", "ndjson", "json", "yaml", "yml", "csv", "tsv"])
def test_compressed_sources(folder, extension):
    """Every text format may have `.gz` on top."""
    Path(f"x.{extension}.gz").write_bytes(gzip.compress(b""))
    assert loaded(SHORTEST.replace("d.jsonl", f"x.{extension}.gz")).source.gzip


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("none.jsonl", ["no such file (found 'none.jsonl'); did you mean 'd.jsonl'?"]),
        ("more", [f"the name tells no format (found 'more'); set path and format, one of {FORMATS}",
                  "is a folder (found 'more'); name a file"]),
        ("d.xyz", [f"the name tells no format (found 'd.xyz'); set path and format, one of {FORMATS}"]),
        ("rows.py:records", ["a callable is no path (found 'rows.py:records'); write {python: 'rows.py:records'}"]),
        ("5", ["must be a path or a mapping (found the number 5); add 'source: data.jsonl'"]),
        ("[d.jsonl]", ["must be a path or a mapping (found a list); add 'source: data.jsonl'"]),
        ("''", ["must not be empty (found ''); write text or remove the key"]),
        ('"a\\0.csv"', ["no path (found 'a\\x00.csv'); remove the NUL character"]),
        ("d.toml", ["format toml needs 'records'; add 'records: name.of.the.list'"]),
        ("d.db.gz", ["a compressed database cannot be read (found 'd.db.gz'); unpack it",
                     "format sqlite needs 'query'; add 'query: SELECT * FROM pages'"]),
        ("{}", ["path: missing; add 'path: data.jsonl'"]),
        ("{path: d.xyz, format: cvs}",
         [f"format: must be one of {FORMATS} (found the text 'cvs'); did you mean 'csv'?"]),
        ("{path: d.csv, query: x, records: a, delimiter: ab, encoding: utf9}",
         ["query: not read by format csv, only by sqlite; remove it",
          "records: not read by format csv, only by json, yaml, toml; remove it",
          "delimiter: must be one character, but no quote or line break (found 'ab'); choose one",
          "encoding: unknown encoding (found 'utf9'); write utf-8, cp1252 or the like"]),
        ("{path: d.csv, encoding: hex}",
         ["encoding: unknown encoding (found 'hex'); write utf-8, cp1252 or the like"]),
        ("{path: d.jsonl, encoding: utf-8, delimiter: ','}",
         ["delimiter: not read by format jsonl, only by csv, tsv; remove it",
          "encoding: not read by format jsonl, only by json, yaml, csv, tsv, toml; remove it"]),
        ("{path: d.toml, records: a..b}",
         ["records: a name is empty (found 'a..b'); write names with dots between, as a.b"]),
        ("{path: d.toml, records: [a, 5]}", ["records: must be text (found the number 5); put it in quotes"]),
        ("{python: 'rows.py:9'}",
         ["python: no callable (found 'rows.py:9'); write file.py:function or package.module:function"]),
        ("{python: 'rws.py:x'}", ["python: no such file (found 'rws.py'); did you mean 'rows.py'?"]),
        ("{python: 'a b:x'}",
         ["python: no module (found 'a b'); write a module's name, or a file ending in .py"]),
        ("{python: 'm:x', format: csv, query: x}",
         ["python: a Python source has no format; remove 'format'",
          "query: not read by format csv, only by sqlite; remove it"]),
        ("{python: 'm:x', path: d.csv}",
         ["path: a file is no Python source; give either path or python: file.py:function"]),
        ("{pth: d.csv}",
         ["path: missing; add 'path: data.jsonl'", "pth: unknown key; did you mean 'path'?"]),
    ],
)  # fmt: skip
def test_bad_sources(folder, spelled, expected):
    """Each way to get a source wrong; a short source goes by the key that is in the file."""
    where = "job.yaml:1: source" + ("." if spelled.startswith("{") else ": ")
    assert [where + problem for problem in expected] == problems(SHORTEST.replace("d.jsonl", spelled))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tmplates: x", "tmplates: unknown key; did you mean 'templates'?"),
        ("timeout: 5", "timeout: unknown key; did you mean 'limits.timeout'?"),
        ("path: 5", "path: unknown key; did you mean 'source.path' or 'output.path'?"),
        ("key: no", ("key: must be text (found the boolean false); "
                    "put it in quotes, as YAML takes yes, no, on, off, true and false for booleans")),
        ("key: 5", "key: must be text (found the number 5); put it in quotes"),
        ("key: 2026-01-01", "key: must be text (found a date); put it in quotes"),
        ("key: {id: x}", "key: must be text (found a mapping); put it in quotes if it is an expression"),
        ("key: [x]", "key: must be text (found a list); write text"),
        ("key: ''", "key: must not be empty (found ''); write text or remove the key"),
        ("name: a/b", "name: must be a plain name (found 'a/b'); leave out slashes"),
        ("name: ..", "name: must be a plain name (found '..'); leave out slashes"),
        ("templates: temlates", "templates: no such folder (found 'temlates'); did you mean 'templates'?"),
        ("templates: []", "templates: must not be empty (found []); name a folder or remove the key"),
        ("templates: 5", ("templates: must be a list (found the number 5); "
                         "write [first, second], or lines that start with '- '")),
        ("templates: [more, logo.svg]", "templates.1: is no folder (found 'logo.svg'); name one"),
        ("depends: logo.svg", ("depends: must be a list (found the text 'logo.svg'); "
                              "write [first, second], or lines that start with '- '")),
        ("depends: [logo.svg, lgo.svg]", "depends.1: no such file (found 'lgo.svg'); did you mean 'logo.svg'?"),
        ("depends: [null]", "depends.0: must be text (found nothing); write text"),
        ("depends: [more]", "depends.0: is a folder (found 'more'); name a file"),
        ("plugins: [qqq.py]", "plugins.0: no such file (found 'qqq.py'); check the path"),
        ("plugins: [a-b]", "plugins.0: no module (found 'a-b'); write a module's name, or a file ending in .py"),
        ("context: 5", "context: must be a mapping (found the number 5); write its keys indented below it"),
        ("context: {a b: 1}",
         "context.a b: no name that templates can use (found the text 'a b'); use letters, digits and _"),
        ("context: {5: 1}",
         "context.5: no name that templates can use (found the number 5); use letters, digits and _"),
        ("context: {a: {file: none.txt}}", "context.a: no such file (found 'none.txt'); did you mean 'note.txt'?"),
        ("context: {a: {file: bad.yaml}}",
         "context.a: bad.yaml:2: duplicate key 'a' (the first is on line 1); remove one of them"),
        ("context: {a: {file: bad.json}}",
         "context.a: bad.json: not valid JSON (Expecting value: line 1 column 6 (char 5)); correct it"),
        ("context: {a: {file: latin.txt}}",
         "context.a: latin.txt:1: not UTF-8 text (found byte 0xfc); save it as UTF-8"),
        ("context: {a: {file: 5}}", "context.a: must be text (found the number 5); put it in quotes"),
        ("jinja: {undefined: strickt}", ("jinja.undefined: must be one of strict, default, chainable, debug "
                                        "(found the text 'strickt'); did you mean 'strict'?")),
        ("jinja: {autoescape: 1}",
         "jinja.autoescape: must be one of auto, true, false (found the number 1); choose one of them"),
        ("jinja: {trim_blocks: 'yes'}",
         "jinja.trim_blocks: must be one of true, false (found the text 'yes'); choose one of them"),
        ("jinja: {newline_sequence: x}",
         "jinja.newline_sequence: must be one of '\\n', '\\r\\n', '\\r' (found the text 'x'); choose one of them"),
        ("jinja: {extensions: [dooo]}",
         "jinja.extensions.0: unknown extension (found 'dooo'); did you mean 'do'?"),
        ("jinja: {comment_start_string: '{{'}", ("jinja.comment_start_string: must not be that of "
                                                "variable_start_string (found '{{'); change one of them")),
        ("workers: -1",
         "workers: must be auto or a whole number from 0 (found the number -1); write one of these"),
        ("workers: true",
         "workers: must be auto or a whole number from 0 (found the boolean true); write one of these"),
        ("limits: {timeout: 60x}", ("limits.timeout: not a duration (found '60x'); "
                                   "write seconds, or a number with ms, s, m, h or d, such as 90s or 1.5h")),
        ("limits: {max_workers: 0}",
         "limits.max_workers: must be a whole number from 1 (found the number 0); write one, or null for no limit"),
        ("limits: {batch_size: 0}", ("limits.batch_size: must be a whole number from 1 (found the number 0); "
                                    "write one, or null for no limit")),
        ("limits: []", "limits: must be a mapping (found a list); write its keys indented below it"),
        ("errors: {policy: fail_fast}", ("errors.policy: must be one of collect, fail-fast "
                                        "(found the text 'fail_fast'); did you mean 'fail-fast'?")),
        ("errors: {retries: -1}", ("errors.retries: must be a whole number from 0 (found the number -1); "
                                  "write how often to try again")),
        ("errors: {retry_on: [no-name]}", ("errors.retry_on.0: no name of an exception (found 'no-name'); "
                                          "write one such as TimeoutError")),
        ("errors: {retry_on: WorkerDied}", ("errors.retry_on: a worker's death is no exception (found "
                                           "'WorkerDied'); each is tried once more anyway, remove it")),
        ("errors: {max_failures: -1}", ("errors.max_failures: must be a whole number from 0, or a share such as 5% "
                                       "(found the number -1); write one of these")),
        ("errors: {max_failures: 101%}", ("errors.max_failures: must be a whole number from 0, or a share such as 5% "
                                         "(found the text '101%'); write one of these")),
        ("errors: {backoff: {min: 1h}}", "errors.backoff.max: less than min (found 10s after 3600s); exchange them"),
        ("errors: {backoff: {mim: 1s}}", "errors.backoff.mim: unknown key; did you mean 'min'?"),
        ("errors: {3: 4}", "errors: unknown key (found the number 3); write keys as text"),
    ],
)  # fmt: skip
def test_bad_values(folder, line, expected):
    """Each wrong key, type or value by itself, word for word."""
    assert [f"job.yaml:4: {expected}"] == problems(SHORTEST + line + "\n")


def test_output_folder_that_is_a_file(folder):
    """An output folder need not be there, but a file must not be in its place."""
    message = "job.yaml:1: output.dir: is no folder (found 'logo.svg'); name another one"
    assert [message] == problems("output: {dir: logo.svg}\ntemplate: t\n", ())


def test_unreadable_source(folder, monkeypatch):
    """A file without permission to read is a problem before anything starts."""
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    message = "job.yaml:1: source: cannot be read (found 'd.jsonl'); check its permissions"
    assert [message] == problems(SHORTEST)


def test_special_files(folder):
    """A pipe is no file of records: its bytes come only once."""
    os.mkfifo("pipe.jsonl")
    message = "job.yaml:1: source: is no regular file (found 'pipe.jsonl'); name a file"
    assert [message] == problems(SHORTEST.replace("d.jsonl", "pipe.jsonl"))


def test_data_nested_without_end(folder):
    """A constant that would exhaust the parser's stack is a problem like others."""
    (problem,) = problems(SHORTEST + "context: {a: {file: deep.json}}\n")
    assert problem.startswith("job.yaml:4: context.a: deep.json: not valid JSON (maximum recursion depth")


def test_all_at_once_in_order(folder):
    """Problems of every kind are told together, by line, those of keys that are missing first."""
    text = "workers: x\noutput:\n  pth: x\nlimits:\n  rate: 0\ntemplates: none\nsource: none.csv\nfoo: 1\n"
    assert [": ".join(line.split(": ")[:2]) for line in problems(text)] == [
        "job.yaml: template",
        "job.yaml:1: workers",
        "job.yaml:2: output.path",
        "job.yaml:3: output.pth",
        "job.yaml:5: limits.rate",
        "job.yaml:6: templates",
        "job.yaml:7: source",
        "job.yaml:8: foo",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "job.yaml: empty; write keys such as 'template: page.md.j2'"),
        ("- a\n", "job.yaml: not a mapping (found a list); write keys such as 'template: page.md.j2'"),
        ("a: 1\na: 2\n", "job.yaml:2: duplicate key 'a' (the first is on line 1); remove one of them"),
        (
            "template: {{ kind }}.j2\n",
            "job.yaml:1: not valid YAML (did not find expected key); put values with {{ or {% in quotes",
        ),
    ],
)
def test_no_job_at_all(folder, text, expected):
    """A text that holds no keys is one problem."""
    assert [expected] == problems(text)


def test_the_file_goes_by_the_name_that_was_given(folder):
    """Messages and the job name the file as the user did; paths are taken from where it is."""
    Path("data/other.yaml").write_text("source: operations.jsonl\ntemplate: t\ntemplates: .\n")
    job = load_job(Path("data/other.yaml"))
    assert (job.file, job.name) == ("data/other.yaml", "other")
    assert (folder / "data", folder / "data/operations.jsonl") == (job.folder, job.source.path)
    assert folder / "data" == job.templates[0]
    with pytest.raises(JobError, match=r"^data/none.yaml: no such file; check the path$"):
        load_job(Path("data/none.yaml"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("site.yaml", {"title": "Chora"}), ("site.json", {"title": "Chora"}), ("site.toml", {"title": "Chora"}),
     ("note.txt", "Grüße\n")],
)  # fmt: skip
def test_constants_from_files(folder, name, value):
    """A constant may be the data or the text of a file, but only at the top and with nothing beside `file`."""
    job = loaded(SHORTEST + f"context: {{a: {{file: {name}}}, b: [{{file: x}}], c: {{file: x, y: z}}}}\n")
    assert {"a": value, "b": [{"file": "x"}], "c": {"file": "x", "y": "z"}} == job.context


def test_jinja_options(folder):
    """Short names of extensions become import names; only options that were given are passed on."""
    job = loaded(
        SHORTEST + 'jinja: {undefined: chainable, autoescape: yes, sandbox: true, newline_sequence: "\\r\\n",\n'
        "  extensions: [do, loopcontrols, debug, i18n, my.Extension], line_comment_prefix: '##'}\n"
    )
    names = tuple(f"jinja2.ext.{name}" for name in ("do", "loopcontrols", "debug", "i18n"))
    extra = {"newline_sequence": "\r\n", "line_comment_prefix": "##"}
    assert job.jinja == JinjaOptions("chainable", True, True, (*names, "my.Extension"), extra)


def test_from_a_mapping(folder):
    """Without a file: paths may be `Path`s, sequences tuples, and constants are not copied."""
    thing = object()
    job = job_from_mapping(
        MappingProxyType(
            {
                "source": Path("d.jsonl"),
                "template": "t.j2",
                "templates": (Path("templates"), folder / "more"),
                "plugins": (Path("rows.py"), "a.module"),
                "depends": (Path("logo.svg"),),
                "context": MappingProxyType({"thing": thing, "site": {"file": Path("site.yaml")}}),
                "workers": 0,
            }
        ),
        Path(),
    )
    assert job.context == {"thing": thing, "site": {"title": "Chora"}}
    assert (folder / "templates", folder / "more") == job.templates
    assert ((str(folder / "rows.py"), "a.module"), (folder / "logo.svg",)) == (job.plugins, job.depends)
    assert (job.name, job.workers, job.file, job.source.name) == ("job", 0, None, "d.jsonl")


def test_problems_of_a_mapping(folder):
    """Messages name the job where there is no file."""
    with pytest.raises(JobError) as error:
        Job.from_mapping({"template": 5, "output": {"pth": 1}}, folder)
    assert error.value.problems == (
        "job: template: must be text (found the number 5); put it in quotes",
        "job: output.pth: unknown key; did you mean 'path'?",
    )
    with pytest.raises(JobError, match=r"^job: not a mapping \(found a list\); write keys such as "):
        job_from_mapping([], folder)


def test_jobs_are_pickled(folder):
    """A job goes whole to another process."""
    job = loaded(CONTRACT)
    assert job == pickle.loads(pickle.dumps(job))


def properties(schema):
    """Every key of the schema: dotted name, its entry, whether it must be there."""
    stack = [("", schema)]
    while stack:
        prefix, section = stack.pop()
        for name, entry in section["properties"].items():
            yield f"{prefix}{name}", entry, name in section.get("required", ())
            for option in entry.get("anyOf", ()):
                many = option.get("items", option.get("additionalProperties", {}))
                for one, star in ((option, ""), (many, "*.")):
                    if isinstance(one, dict) and "$ref" in one:
                        stack.append((f"{prefix}{name}.{star}", schema["$defs"][one["$ref"].rpartition("/")[2]]))


def test_schema():
    """Every key is described and has a default or must be there; others are not allowed; null always is."""
    schema = json.loads(json.dumps(job_schema()))
    keys = list(properties(schema))
    names = {f"{place}.{name}".lstrip(".") for place, model in SECTIONS.items() for name in model.model_fields}
    assert names == {name for name, _, _ in keys}
    assert [name for name, _, required in keys if required] == ["requests.*.config"]
    for name, entry, required in keys:
        assert entry["description"], name
        assert required or ("default" in entry and {"type": "null"} in entry["anyOf"]), name
    assert all(part["additionalProperties"] is False for part in (schema, *schema["$defs"].values()))


def test_schema_values():
    """An editor is told the words, types and shapes that the checks allow."""
    entries = {name: entry for name, entry, _ in properties(job_schema())}
    text = {"minLength": 1, "type": "string"}
    null = {"type": "null"}
    assert [{"const": "auto", "type": "string"}, {"minimum": 0, "type": "integer"}, null] == entries["workers"]["anyOf"]
    assert [text, {"items": text, "type": "array"}, null] == entries["templates"]["anyOf"]
    assert [text, {"$ref": "#/$defs/SourceSection"}, null] == entries["source"]["anyOf"]
    assert entries["errors.policy"]["anyOf"][0]["enum"] == ["collect", "fail-fast"]
    assert [{"type": "number"}, {"type": "string"}, null] == entries["limits.timeout"]["anyOf"]
    assert tuple(entries[key]["default"] for key in ("limits.timeout", "templates", "workers")) == (
        300.0,
        "templates",
        "auto",
    )


def test_documented():
    """Every key is in the reference."""
    text = (Path(__file__).parent.parent / "docs" / "job-file.md").read_text(encoding="utf-8")
    missing = [name for name, _, _ in properties(job_schema()) if f"`{name}`" not in text]
    assert missing == []


def test_examples_in_the_reference(folder):
    """Every example in the reference is a job, given the files that it names and the keys that it leaves out."""
    for name in ("data/pages.jsonl", "data/pages.csv", "data/pages.txt", "app.db", "LICENSE"):
        Path(name).touch()
    (folder.parent / "shared" / "templates").mkdir(parents=True, exist_ok=True)
    Path("content").mkdir()
    text = (Path(__file__).parent.parent / "docs" / "job-file.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) > 15
    for example in examples:
        extra = "" if re.search("^(template|configs):", example, re.MULTILINE) else "template: t.j2\n"
        assert isinstance(loaded(example + extra, ()), Job)


WORDS = [
    *SECTIONS[""].model_fields,
    "path",
    "file",
    "format",
    "query",
    "python",
    "d.csv",
    "d.db",
    "rows.py:x",
    "a/../b",
]
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(), st.text(),
              st.sampled_from(WORDS), st.sampled_from(["\0", ".", "..", "/", "\ud800", "x" * 5000]),
              st.just(5000).map(lambda digits: 10**digits)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(), st.integers(), st.none()), inner, max_size=4),
    ),
    max_leaves=8,
)  # fmt: skip
SECTION_KEYS = sorted({name for model in SECTIONS.values() for name in model.model_fields})
DATA = st.dictionaries(
    st.sampled_from(list(SECTIONS[""].model_fields)),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(SECTION_KEYS), VALUES)),
)
STILL = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(DATA)
@STILL
def test_nothing_but_job_errors(folder, data):
    """Whatever is in the mapping, it is a job or a `JobError` of single, printable lines."""
    try:
        job_from_mapping(data, folder)
    except JobError as error:
        lines = error.problems
    else:
        return
    assert lines
    assert [line for line in lines if not line.startswith("job: ") or len(line.splitlines()) > 1] == []
    "\n".join(lines).encode("utf-8")


@given(st.one_of(st.text(), st.lists(st.sampled_from([*SECTION_KEYS, *": -[]{},\n\"'&*!", "\n  ", ": "])).map("".join)))
@STILL
def test_nothing_but_job_errors_from_text(folder, text):
    """Whatever is in the file, it is a job or a `JobError` whose lines name it."""
    Path("job.yaml").write_bytes(text.encode("utf-8"))
    try:
        load_job(Path("job.yaml"))
    except JobError as error:
        lines = error.problems
    else:
        return
    assert lines
    assert [line for line in lines if not re.match(r"job\.yaml(:\d+)?: .*; ", line)] == []
