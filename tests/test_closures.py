"""Closures: a document is made from the templates that its own may reach, and no other is its affair."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora_mp.bundle import digest_of, take_bundle
from chora_mp.job import JinjaOptions, Job, Output
from chora_mp.renderer import Renderer

if TYPE_CHECKING:
    from pathlib import Path

    from chora_mp.closures import Closure

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

OTHERS = {"other": "{{ name }}", "sub/another": "x"}
"""Templates that nobody refers to."""


class Shelf:
    """A folder of templates, perhaps with a plug-in, and their closures as a worker finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def closure(self, templates: dict[str, str], name: str = "page", plugin: str = "", **job: Any) -> Closure:
        """The closure of a template when the folder holds these ones."""
        root = self.folder / "templates"
        for path in [*root.rglob("*")] if root.exists() else []:
            if path.is_file():
                path.unlink()
        for one, source in templates.items():
            (root / one).parent.mkdir(parents=True, exist_ok=True)
            (root / one).write_text(source)
        if plugin:
            (self.folder / "plugin.py").write_text(plugin)
        plugins = (str(self.folder / "plugin.py"),) if plugin else ()
        output = Output(self.folder / "out", "{{ name }}")
        described = Job("job", self.folder, "page", (root,), output=output, plugins=plugins)
        return Renderer(take_bundle(described.replace(**job)), {}).closure(name)

    def members(self, templates: dict[str, str], *arguments: Any, **options: Any) -> set[str]:
        """The templates in a closure."""
        return members(self.closure(templates, *arguments, **options))


def members(closure: Closure) -> set[str]:
    """The templates in a closure."""
    return {name.removeprefix("template ") for name in closure.parts if name.startswith("template ")}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """An empty shelf; what plug-ins do to the module path is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Shelf(tmp_path)


# ---- what is reached -------------------------------------------------------------------------------------

WAYS = [
    "{{% include '{}' %}}",
    "{{% include ['{}'] %}}",
    "{{% include '{}' ignore missing %}}",
    "{{% extends '{}' %}}",
    "{{% import '{}' as m %}}",
    "{{% from '{}' import m %}}",
    "{{% if false %}}{{% include '{}' %}}{{% endif %}}",
    "{{% include './{}' %}}",
    "{{% block b %}}{{% for x in y %}}{{% include '{}' %}}{{% endfor %}}{{% endblock %}}",
]
NAMES = ["page", "a", "b", "sub/c", "sub/d"]
references = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(WAYS), st.sampled_from(NAMES)),
    max_size=8,
    unique_by=lambda x: x[::2],
)


def reachable(edges: list[tuple[str, str, str]]) -> set[str]:
    """The templates that the page reaches."""
    found, todo = set(), ["page"]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += [target for origin, _, target in edges if origin == one]
    return found


@given(edges=references, edited=st.sampled_from(NAMES))
@same_folder
def test_a_closure_changes_with_what_is_reached(shelf, edges, edited):
    """An edit of a template changes the closure if the template is reached, by whatever way, and only then."""
    sources = {name: f"{name}\n" for name in NAMES}
    for origin, way, target in edges:
        sources[origin] = way.format(target) + sources[origin]
    before = shelf.closure(sources)
    after = shelf.closure({**sources, edited: sources[edited] + "edited"})
    found = reachable(edges)
    assert (found, found) == (members(before), members(after))
    assert (edited in found) == (before.number != after.number)
    assert before == shelf.closure(sources)


def test_what_goes_and_what_comes(shelf):
    """A template that is not reached may come or go unnoticed; one that is reached may not."""
    page = {"page": "{% include 'part' %}", "part": ""}
    assert shelf.closure(page) == shelf.closure({**page, **OTHERS})
    assert shelf.closure(page) != shelf.closure({"page": page["page"], **OTHERS})


def test_templates_with_the_same_text(shelf):
    """Two templates with the same text have two closures, also where all templates count: the name is part of it."""
    for text in ("x", "{% include kind %}"):
        same = {"page": text, "other": text}
        assert shelf.closure(same, "page").number != shelf.closure(same, "other").number


def test_a_number_of_48_bits(shelf):
    """A closure's number has so many bits and stands for all of its parts; every part has a digest or a version."""
    closure = shelf.closure({"page": "x"})
    assert 2**32 < closure.number < 2**48
    assert digest_of(b"x") == closure.parts["template page"]
    assert all(isinstance(value, str) and value for value in closure.parts.values())


# ---- where it cannot be told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        "{% include kind %}",
        "{% include 'a' ~ kind %}",
        "{% include [kind, 'part'] %}",
        "{% extends base %}",
        "{% import kind as m %}",
        "{% include 'part' if x else 'absent' %}",
        "{% include 'absent' %}",
        "{% include 'absent' ignore missing %}",
        "{% include ['absent', 'part'] %}",
        "{% include '../part' %}",
        "{% if %}",
        "{{ x | nothing_of_the_kind(",
    ],
)
def test_what_may_be_any_template(shelf, page):
    """A name known only when rendering, one that is not there yet, a template that cannot be read: all count."""
    sources = {"page": page, "part": "", **OTHERS}
    assert set(sources) == shelf.members(sources)
    wrapped = {"page": "{% include 'outer' %}", "outer": page, "part": "", **OTHERS}
    assert set(wrapped) == shelf.members(wrapped)
    assert shelf.closure(sources) != shelf.closure({**sources, "other": "edited"})
    assert shelf.closure(sources) != shelf.closure({**sources, "absent": ""})


@pytest.mark.parametrize("name", ["absent", "../page", ""])
def test_a_template_that_is_not_there(shelf, name):
    """A record may choose a template that there is none of: whichever comes makes the difference."""
    sources = {"page": "", **OTHERS}
    assert set(sources) == shelf.members(sources, name)
    assert shelf.closure(sources, name) != shelf.closure({**sources, "new": ""}, name)


def test_what_is_not_utf_8(shelf):
    """A template that is no text may stand for anything."""
    sources = {"page": "{% include 'part' %}", "part": "", **OTHERS}
    shelf.closure(sources)
    (shelf.folder / "templates" / "part").write_bytes(b"\xff")
    job = Job("job", shelf.folder, "page", (shelf.folder / "templates",), output=Output(shelf.folder / "out", "x"))
    assert set(sources) == members(Renderer(take_bundle(job), {}).closure("page"))


# ---- plug-ins and extensions -----------------------------------------------------------------------------

RECEIVES = """
from jinja2 import pass_context, pass_environment, pass_eval_context

@{decorator}
def receives(it, *arguments):
    return ""

class Called:
    @{decorator}
    def __call__(self, it, *arguments):
        return ""

class Methods:
    @{decorator}
    def method(self, it, *arguments):
        return ""

{space} = {{"receives": {value}}}
"""


@pytest.mark.parametrize("decorator", ["pass_context", "pass_environment"])
@pytest.mark.parametrize(
    ("space", "value"),
    [
        ("FILTERS", "receives"),
        ("TESTS", "receives"),
        ("GLOBALS", "receives"),
        ("GLOBALS", "Called()"),
        ("FILTERS", "Methods().method"),
        ("GLOBALS", "Methods()"),
    ],
)
def test_a_plugin_that_may_load_any_template(shelf, decorator, space, value):
    """Whatever receives the context or the environment can load any template, so all of them count."""
    sources = {"page": "x", **OTHERS}
    plugin = RECEIVES.format(decorator=decorator, space=space, value=value)
    assert set(sources) == shelf.members(sources, plugin=plugin)


@pytest.mark.parametrize(
    "plugin",
    [
        RECEIVES.format(decorator="pass_eval_context", space="FILTERS", value="receives"),
        "FILTERS = {'shout': str.upper}",
        "from jinja2.filters import do_map\nFILTERS = {'map_again': do_map}",
        "class Odd:\n    def __getattr__(self, name):\n        raise RuntimeError(name)\nGLOBALS = {'odd': Odd()}",
    ],
)
def test_a_plugin_that_loads_none(shelf, plugin):
    """Other plug-ins, and what is Jinja2's own, leave closures as small as they are."""
    assert {"page"} == shelf.members({"page": "x", **OTHERS}, plugin=plugin)


EXTENSION = """
from jinja2.ext import Extension

class Mine(Extension):
    pass
"""


def test_a_foreign_extension(shelf, monkeypatch):
    """An extension that is not Jinja2's own gets hold of everything; Jinja2's own do not."""
    (shelf.folder / "an_extension_of_mine.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(str(shelf.folder))
    sources = {"page": "x", **OTHERS}
    jinjas = JinjaOptions(extensions=("jinja2.ext.do", "jinja2.ext.loopcontrols"))
    foreign = JinjaOptions(extensions=("jinja2.ext.do", "an_extension_of_mine.Mine"))
    assert {"page"} == shelf.members(sources, jinja=jinjas)
    assert set(sources) == shelf.members(sources, jinja=foreign)


# ---- what else counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"context": {"year": 2026}},
        {"jinja": JinjaOptions(sandbox=True)},
        {"plugin": "FILTERS = {}"},
        {"depends": "logo"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_every_document(shelf, change):
    """Constants, options, plug-ins and other files are in every closure: where one changes all is rendered again."""
    if "depends" in change:
        (shelf.folder / "logo").write_text("")
        change = {"depends": (shelf.folder / "logo",)}
    sources = {"page": "x", **OTHERS}
    assert shelf.closure(sources).number != shelf.closure(sources, **change).number


def test_what_decides_no_document(shelf):
    """Where a document goes and what it is called is not what it says."""
    sources = {"page": "x", **OTHERS}
    elsewhere = Output(shelf.folder / "elsewhere", "{{ name }}.txt")
    assert shelf.closure(sources) == shelf.closure(sources, output=elsewhere, key="{{ name }}", workers=3)
