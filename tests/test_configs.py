"""The jobs that come with the project, their records and their templates, rendered here with plain Jinja2."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
import yaml

from chora_mp import Job, batch_generate

if TYPE_CHECKING:
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
BENCH = REPOSITORY / "bench"
CORPORA = BENCH / "corpora.py"
JOBS = sorted(CONFIGS.glob("*.yaml"))
PRINT_RECORDS = "import json, stdlib_reference\nfor record in stdlib_reference.records(): print(json.dumps(record))"
MODULE_FIELDS = {
    "kind", "name", "path", "python", "summary", "doc", "source", "package", "parent", "submodules", "constants",
    "functions", "classes", "exceptions", "previous", "next",
}  # fmt: skip


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def environment(folder: str) -> jinja2.Environment:
    """Stock Jinja2 with the options that all jobs have."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(CONFIGS / "templates" / folder),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: bool(name) and str(name).removesuffix(".j2").endswith((".html", ".xml")),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run of this Python in which every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def stdlib_run(**variables: str) -> subprocess.CompletedProcess[str]:
    """A run that prints the records of the reference, a line each."""
    return python("-c", PRINT_RECORDS, PYTHONPATH=str(CONFIGS), PYTHONIOENCODING="utf-8", **variables)


@pytest.fixture(scope="module")
def printed() -> subprocess.CompletedProcess[str]:
    """One run over the standard library, for all tests."""
    return stdlib_run(PYTHONHASHSEED="1")


@pytest.fixture(scope="module")
def records(printed) -> list[dict[str, Any]]:
    """The records of the standard library's reference."""
    return [json.loads(line) for line in printed.stdout.splitlines()]


@pytest.fixture(scope="module")
def pages(records) -> dict[str, str]:
    """The pages of the reference by path."""
    templates = environment("stdlib")
    title = yaml.safe_load((CONFIGS / "stdlib-reference.yaml").read_text(encoding="utf-8"))["context"]
    return {
        record["path"]: templates.get_template(f"{record['kind']}.html.j2").render(title | record) for record in records
    }


@pytest.fixture(scope="module")
def corpora() -> ModuleType:
    """The script that builds the benchmark's records."""
    sys.path.append(str(BENCH))  # where it finds its neighbours, as when it is run
    return load(CORPORA)


class Links(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        for name, value in attrs:
            if name == "id" and value is not None:
                self.ids[value] += 1
            if name == "href" and value is not None and not value.startswith(("http", "mailto:")):
                self.links.add(value)


# The job files


def test_known_jobs():
    """Everything directly in configs/ is one of the known jobs."""
    known = ["aws-operations", "content", "heavy", "skewed", "stdlib-reference", "tables", "unicode"]
    assert [job.stem for job in JOBS] == known


@pytest.mark.parametrize("job", [job for job in JOBS if job.stem != "content"], ids=lambda job: job.stem)
def test_job_file(job):
    """A job names its schema for editors, has what is required, and its templates are there."""
    text = job.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=./job.schema.json"
    options = yaml.safe_load(text)
    assert {"name", "source", "templates", "template", "key", "output"} <= options.keys()
    assert options["name"] == job.stem
    assert options["output"]["dir"] == f"../build/{job.stem}"
    assert list((CONFIGS / options["templates"]).glob("*.j2"))


def test_content_configs_are_rendered(tmp_path, monkeypatch):
    """Six configs of five generators, one made from two others; without a key the model's code is the fallback."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    job = Job.load(CONFIGS / "content.yaml")
    job = job.replace(output=replace(job.output, dir=tmp_path / "out"))
    assert (6, 0) == ((result := batch_generate(job)).successful, result.failed)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert texts["release-announcement.md"].strip() in texts["release-page.md"]
    assert "Scenario Outline: What is refused" in texts["login-feature.feature"]
    assert "def is_mail_address" in texts["email-validator.py"]
    assert (0, 6) == ((again := batch_generate(job)).successful, again.unchanged)


def test_templates_compile():
    """Every template under configs/ can be compiled by stock Jinja2."""
    for folder in (CONFIGS / "templates").iterdir():
        templates = environment(folder.name)
        for name in templates.list_templates():
            assert templates.get_template(name)


# The reference of the standard library


def test_nothing_is_printed(printed):
    """No module prints or warns while the records are made, and the run ends well."""
    assert printed.stderr == ""
    assert printed.returncode == 0
    assert all(line.startswith("{") for line in printed.stdout.splitlines())


def test_records_are_reproducible(printed, tmp_path):
    """Another hash seed, home, language and time zone give the same records."""
    again = stdlib_run(PYTHONHASHSEED="2", HOME=str(tmp_path), LC_ALL="C", TZ="Asia/Tokyo", TERM="dumb", X_MARK="1")
    assert again.stdout == printed.stdout


def test_module_records(records):
    """There is a record for each of several hundred modules, all with the same fields, and names are unique."""
    modules = [record for record in records if record["kind"] == "module"]
    assert len(modules) > 250
    assert all(record.keys() == MODULE_FIELDS for record in modules)
    names = [record["name"] for record in records]
    assert len(set(names)) == len(names)
    assert {"builtins", "concurrent.futures", "email.mime.text", "sys", "xml.etree.ElementTree"} <= set(names)
    assert not {"antigravity", "idlelib", "this", "__main__", "test"} & set(names)


def test_left_out_modules_are_named(records):
    """The index tells which modules are left out, and why."""
    index = records[-1]
    assert index["kind"] == "index"
    skipped = {module["name"]: module["reason"] for module in index["skipped"]}
    assert skipped["this"] == "prints a poem when imported"
    assert all(skipped.values())


def test_no_addresses_and_no_environment(printed):
    """The records hold no addresses of objects, no folders of this machine and no environment variables."""
    assert " at 0x" not in printed.stdout
    assert sys.prefix not in printed.stdout
    assert sys.base_prefix not in printed.stdout
    assert "PYTHONHASHSEED': " not in printed.stdout


def test_neighbours(records):
    """Each page leads to the one before and the one after."""
    modules = [record for record in records if record["kind"] == "module"]
    assert modules[0]["previous"] is None
    assert modules[-1]["next"] is None
    for before, after in pairwise(modules):
        assert before["next"]["name"] == after["name"]
        assert after["previous"]["name"] == before["name"]


def test_known_members(records):
    """Some well-known functions, methods, bases and constants look as they should."""
    by_name = {record["name"]: record for record in records}
    dumps = next(one for one in by_name["json"]["functions"] if one["name"] == "dumps")
    assert dumps["signature"].startswith("(obj, *, skipkeys=False, ensure_ascii=True")
    counter = next(one for one in by_name["collections"]["classes"] if one["name"] == "Counter")
    assert counter["bases"] == [{"name": "dict", "href": "builtins.html#dict"}]
    most_common = next(one for one in counter["methods"] if one["name"] == "Counter.most_common")
    assert most_common["signature"] == "(n=None)"
    pi = next(one for one in by_name["math"]["constants"] if one["name"] == "pi")
    assert pi == {"name": "pi", "type": "float", "value": "3.141592653589793", "summary": ""}
    assert {"name": "os.path", "href": "posixpath.html"}.items() <= by_name["os"]["submodules"][0].items()
    assert [one["name"] for one in by_name["zlib"]["exceptions"]] == ["error"]
    safe = next(one for one in by_name["uuid"]["classes"] if one["name"] == "SafeUUID")["attributes"][0]
    assert safe == {"name": "SafeUUID.safe", "type": "int", "value": "0", "summary": ""}
    assert by_name["sys"]["source"] is None
    assert by_name["xml.dom"]["parent"] == {"name": "xml", "href": "xml.html"}


def test_links_lead_somewhere(pages):
    """Every link in the reference leads to a page that exists, and to an anchor that is there just once."""
    found = {path: Links(text) for path, text in pages.items()}
    for path, page in found.items():
        assert [name for name, count in page.ids.items() if count > 1] == [], path
        for link in page.links:
            target, _, anchor = link.partition("#")
            assert (target or path) in found, (path, link)
            assert not anchor or anchor in found[target or path].ids, (path, link)


def test_text_is_escaped(pages):
    """What stands in a docstring as markup stays text, and the names for the search box cannot end the script."""
    assert "<body>" not in pages["html.parser.html"].partition("<body id")[2]
    assert pages["index.html"].count("</script>") == 2
    names = pages["index.html"].partition('id="names">')[2].partition("</script>")[0]
    assert "Counter" in json.loads(names)["collections"]


# Unicode


def test_unicode_script(tmp_path):
    """The script writes the records once, says so, and makes them anew only when told to."""
    arguments = [str(CORPORA), "unicode", "--folder", str(tmp_path), "--limit", "500"]
    first = python(*arguments)
    assert first.stderr == ""
    assert "unicode.jsonl: 500 records" in first.stdout
    target = tmp_path / "unicode.jsonl"
    before = target.read_bytes()
    assert len(before.splitlines()) == 500
    assert "there already" in python(*arguments).stdout
    target.write_bytes(b"")
    assert "500 records" in python(*arguments, "--force").stdout
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["unicode.jsonl"]


def test_unicode_records(corpora):
    """Codes are unique and no folder holds more than 256 files; with Python 3.11's tables there are 138,552."""
    folders: Counter[str] = Counter()
    codes = set()
    for record in corpora.unicode_records():
        folders[record["folder"]] += 1
        codes.add(record["code"])
    assert len(codes) == sum(folders.values())
    assert max(folders.values()) <= 256
    if sys.version_info[:2] == (3, 11):
        assert len(codes) == 138_552


def test_unicode_page(corpora):
    """The pages of a few kinds of characters."""
    options = yaml.safe_load((CONFIGS / "unicode.yaml").read_text(encoding="utf-8"))
    file = CONFIGS / options["context"]["categories"]["file"]
    context = {"categories": yaml.safe_load(file.read_text(encoding="utf-8"))}
    template = environment("unicode").get_template(options["template"])
    made = {record["code"]: template.render(context | record) for record in islice(corpora.unicode_records(), 3000)}
    assert made["U+0041"] == (
        "# U+0041 LATIN CAPITAL LETTER A\n\n> A\n\n- category: uppercase letter (Lu)\n"
        "- bidirectional class: L\n- upper case: A, lower case: a\n- in UTF-8: `41`\n- in HTML: `&#x0041;`\n\n"
        "Before: U+0040.\nAfter: U+0042.\n"
    )
    assert "- numeric value: 0.5\n" in made["U+00BD"]
    assert "> ◌\u0300\n" in made["U+0300"]


# AWS


MODEL = {
    "metadata": {"serviceFullName": "Shop", "serviceId": "Shop", "apiVersion": "2026-01-01", "protocol": "json"},
    "operations": {
        "GetTree": {
            "http": {"method": "GET", "requestUri": "/"},
            "documentation": "<p>Gets a <code>Tree</code>.</p><ul><li><p>One</p></li><li>Two &amp; three</li></ul>",
            "input": {"shape": "Request"},
            "output": {"shape": "Tree"},
            "errors": [{"shape": "NotFound"}],
        }
    },
    "shapes": {
        "Request": {"type": "structure", "required": ["Id"], "members": {"Id": {"shape": "Id"}}},
        "Id": {"type": "string", "min": 1, "max": 64},
        "Tree": {"type": "structure", "members": {"Id": {"shape": "Id"}, "Branches": {"shape": "Trees"}}},
        "Trees": {"type": "list", "member": {"shape": "Tree"}},
        "NotFound": {"type": "structure", "error": {"httpStatusCode": 404}, "documentation": "<p>a|b</p>"},
    },
}


def test_aws_operation(corpora):
    """Nested and recursive shapes are spelled out to a bounded depth, and HTML becomes text."""
    record = corpora.operation("shop", "GetTree", "get_tree", MODEL)
    assert record["doc"] == "Gets a `Tree`.\n- One\n- Two & three"
    assert [member["bounds"] for member in record["input"]] == ["1 to 64"]
    branches = record["output"][1]
    assert branches["type"] == "list of Tree"
    assert [member["name"] for member in branches["members"]] == ["Id", "Branches"]
    assert branches["members"][1]["members"] == []


def test_aws_page(corpora):
    """The page of an operation shows request, response and errors."""
    record = corpora.operation("shop", "GetTree", "get_tree", MODEL)
    page = environment("aws").get_template("operation.md.j2").render({"width": 100} | record)
    assert page.startswith("# Shop: GetTree\n\nGets a `Tree`.\n- One\n- Two & three\n\n| | |\n|---|---|\n")
    assert 'client = boto3.client("shop")\nanswer = client.get_tree(\n    Id="…",\n)\n```\n' in page
    assert "## Request\n\n- **Id**: string, required, 1 to 64\n\n## Response\n\n- **Id**: string" in page
    assert "- **Branches**: list of Tree\n\n  - **Id**: string, 1 to 64\n  - **Branches**: list of Tree\n" in page
    assert "| `NotFound` | 404 | a\\|b |\n" in page


def test_missing_botocore(tmp_path):
    """Without botocore the script says what to install."""
    hide = "import runpy, sys; sys.modules['botocore'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.argv = [{str(CORPORA)!r}, 'aws', '--folder', {str(tmp_path)!r}]; {hide}"
    run = python("-c", code, PYTHONPATH=str(BENCH))
    assert run.returncode == 1
    assert run.stderr == ("aws: botocore is not installed; pip install 'chora-mp[bench]' (or botocore==1.44.5)\n")
    assert list(tmp_path.iterdir()) == []
