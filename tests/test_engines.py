"""Other engines for Jinja2 templates: the generator `minijinja`, and what `check --engine` says of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from chora_mp import Job, batch_generate, check

if TYPE_CHECKING:
    from tests.conftest import Project

SAME = (
    "# {{ name }}\n{% for row in rows %}{{ loop.index }}: {{ row.text | upper }}{{ ', ' if not loop.last }}{% endfor %}"
)


def prepared(project: Project, more: str = "", template: str = SAME) -> Job:
    """Thirty records and a job."""
    rows = [{"text": f"row {number}"} for number in range(5)]
    project.records(*({"name": f"n{number}", "rows": rows, "on": number % 2 == 0} for number in range(30)))
    return Job.load(project.job(more, template=template))


def test_minijinja_renders_what_jinja2_renders(project: Project) -> None:
    """For a template inside its language the documents are the same, byte by byte."""
    batch_generate(prepared(project))
    expected = project.outputs()
    result = batch_generate(prepared(project, "generator: minijinja"))
    assert (30, 0, expected) == (result.successful, result.failed, project.outputs())


def test_another_engine_is_another_document(project: Project) -> None:
    """Who changes the generator has everything rendered anew, and then nothing."""
    batch_generate(prepared(project))
    job = prepared(project, "generator: minijinja")
    assert (30, 0) == ((result := batch_generate(job)).successful, result.unchanged)
    assert (0, 30) == ((result := batch_generate(job)).successful, result.unchanged)


def test_minijinja_knows_filters_tests_and_globals_of_plugins(project: Project) -> None:
    """What plug-ins define is there for it, too."""
    project.write(
        "own.py",
        "FILTERS = {'loud': lambda v: v + '!'}\nTESTS = {'long': lambda v: len(v) > 2}\n"
        "GLOBALS = {'site': {'year': 2026}}\n",
    )
    template = "{{ name | loud }} {{ site.year }}{% if name is long %} long{% endif %}"
    batch_generate(prepared(project, "generator: minijinja\nplugins: [own.py]", template))
    assert ("n0! 2026", "n10! 2026 long") == (project.outputs()["n0.txt"], project.outputs()["n10.txt"])


def test_minijinja_loads_templates_from_the_bundle(project: Project) -> None:
    """Inheritance and includes find the job's templates, and escape by their extensions."""
    project.write("templates/base.html.j2", "<p>{% block body %}{% endblock %}</p>{% include 'foot.txt.j2' %}")
    project.write("templates/foot.txt.j2", " & co")
    project.write("templates/page.html.j2", "{% extends 'base.html.j2' %}{% block body %}{{ name }}{% endblock %}")
    project.records({"name": "<a>"})
    job = Job.load(project.job("generator: minijinja", path="x.html")).replace(template="page.html.j2")
    assert 1 == batch_generate(job).successful
    assert {"x.html": "<p>&lt;a&gt;</p> & co"} == project.outputs()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ nmae }}", "page.txt.j2:1: undefined value: `nmae` is undefined"),
        ("{{ name }}\n{{ name | shuot }}", "page.txt.j2:2: unknown filter: filter shuot is unknown"),
        ("{% if %}", "page.txt.j2:1: syntax error: "),
    ],
)
def test_failures_of_minijinja_have_their_line(project: Project, template: str, message: str) -> None:
    """What it cannot render fails its item, with template and line in the message."""
    result = batch_generate(prepared(project, "generator: minijinja", template))
    assert (0, 30) == (result.successful, result.failed)
    assert result.failures[0].error is not None
    assert message in result.failures[0].error.message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("generator: minijnja", "generator: unknown generator 'minijnja'; did you mean 'minijinja'?"),
        ("generator: minijinja\njinja: {sandbox: true}", "minijinja has no sandbox of ours"),
        ("generator: minijinja\njinja: {extensions: [do]}", "minijinja has no extensions"),
    ],
)
def test_what_minijinja_does_not_have_is_said_before_anything_is_written(
    project: Project, more: str, message: str
) -> None:
    """Unknown generators and options that it lacks end the run with one line and exit code 2."""
    prepared(project, more)
    code, _, told = project.render()
    assert (2, True, {}) == (code, message in told, project.outputs())


def test_check_compares_engines(project: Project) -> None:
    """A sample goes through both; all agree, and it says how many were looked at."""
    found = check(prepared(project), "minijinja")
    assert found.engine is not None
    assert ((), "minijinja", 30, 30) == (found.findings, found.engine.name, found.engine.records, found.engine.agree)
    assert found.engine.times_as_fast > 0


def test_check_tells_where_engines_differ(project: Project) -> None:
    """Large numbers are spelled otherwise: the record, the line of the document and both texts are named."""
    prepared(project, template="a\n{{ name }} is {{ 1e20 }}")
    done = project.run("check", "job.yaml", "--engine", "minijinja")
    first = "data.jsonl:1: minijinja differs: line 2 of the document is "
    first += "'a\\nn0 is 100000000000000000000.0' and not 'a\\nn0 is 1e+20'"
    assert (1, first) == (done.returncode, done.stdout.splitlines()[0])
    assert "minijinja: 0 of 30 documents agree byte by byte\n" in done.stdout  # nothing that could be called fast


def test_check_of_engines_as_json(project: Project) -> None:
    """The comparison is part of the JSON, and only where it was asked for."""
    prepared(project)
    with_engine = json.loads(project.run("check", "job.yaml", "--engine", "minijinja", "--json").stdout)
    assert {"name", "records", "agree", "times_as_fast"} == with_engine["engine"].keys()
    assert "engine" not in json.loads(project.run("check", "job.yaml", "--json").stdout)


def test_check_with_an_unknown_engine(project: Project) -> None:
    """It is a finding, with the name that was meant."""
    prepared(project)
    done = project.run("check", "job.yaml", "--engine", "minijnja")
    assert (1, True) == (done.returncode, "unknown generator 'minijnja'; did you mean 'minijinja'?" in done.stdout)
