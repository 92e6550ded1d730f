"""Our environments beside Jinja2's own: the same results, except that documents never hold bytes."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes
from markupsafe import Markup

from chora_mp.environment import (
    UNDEFINED,
    Document,
    DocumentEnvironment,
    Environment,
    Expression,
    SandboxedDocumentEnvironment,
    SandboxedEnvironment,
    autoescape_by_name,
    document_environment,
    expression_environment,
    referenced,
)
from chora_mp.job import JinjaOptions

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = [
    (Environment, jinja2.Environment),
    (SandboxedEnvironment, jinja2.sandbox.SandboxedEnvironment),
    (DocumentEnvironment, jinja2.Environment),
    (SandboxedDocumentEnvironment, jinja2.sandbox.ImmutableSandboxedEnvironment),
]
"""Ours, and the one of Jinja2's that it stands in for."""


class Missing(dict):
    """Makes up what it doesn't have."""

    def __missing__(self, key):
        return f"made up {key}"


class Attributed(dict):
    """Has attributes beside its items."""

    name = "attribute"
    b = "attribute b"


class Answering(dict):
    """Answers for attributes itself."""

    def __getattr__(self, name):
        if name == "missing":
            raise AttributeError(name)
        return f"answer {name}"


class Refusing(dict):
    """Refuses items with an error that depends on the name."""

    def __getitem__(self, key):
        raise {"a": KeyError, "b": TypeError, "c": AttributeError, "name": IndexError}.get(key, ValueError)(key)


class Broken:
    """Has properties that raise."""

    present = "value"

    @property
    def a(self):
        """An attribute that isn't there after all."""
        raise AttributeError("a")

    @property
    def b(self):
        """An attribute that fails in a way that Jinja2 lets through."""
        raise ValueError("b")

    def __getitem__(self, key):
        if isinstance(key, int):  # or it would be a sequence without end
            raise IndexError(key)
        return f"item {key}"


def holders() -> dict[str, Any]:
    """Everything that a template may look something up in."""
    inner = {"a": {"b": {"c": 1}, "items": "item named items"}, "b": [1, 2], "name": "inner", "get": 5}
    plain = {"a": 1, "b": inner, "c": None, "name": "n", "": "empty", 1: "one", "_private": "p", "__class__": "c"}
    return {
        "plain": plain,
        "inner": inner,
        "empty": {},
        "shadowing": {"items": 1, "get": 2, "keys": 3, "values": 4, "update": 5, "__len__": 6, "pop": 7, "copy": 8},
        "missing": Missing(a=1, items=2),
        "attributed": Attributed(a=1, name="item", b=inner),
        "answering": Answering(a=1, missing=2),
        "refusing": Refusing(a=1),
        "ordered": OrderedDict(inner),
        "defaulting": defaultdict(lambda: "default", a=1),
        "namespace": SimpleNamespace(a=1, b=inner, items="attribute", _private=1),
        "broken": Broken(),
        "list": [1, {"a": 2}],
        "tuple": ("x",),
        "text": "text",
        "markup": Markup("<b>"),
        "number": 7,
        "none": None,
        "function": len,
        **{f"undefined_{name}": kind(name="u", obj=plain) for name, kind in UNDEFINED.items()},
    }


HOLDERS = holders()

NAMES = [
    "a", "b", "c", "name", "items", "get", "keys", "values", "update", "copy", "pop", "setdefault", "fromkeys",
    "missing", "present", "_private", "__class__", "__len__", "__dict__", "__init__", "__missing__", "__getitem__",
    "__doc__", "__name__", "__mro__", "__module__", "__weakref__", "__html__", "format", "upper", "", "1", "append",
]  # fmt: skip


def told(call: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """What a call gives, in a form that can be compared: the value, an undefined's parts, or the error."""
    try:
        value = call(*arguments)
    except Exception as error:  # noqa: BLE001  (any error is a result here)
        return "error", type(error), str(error)
    if isinstance(value, jinja2.Undefined):
        return (
            "undefined",
            type(value),
            value._undefined_hint,
            id(value._undefined_obj),
            value._undefined_name,
            value._undefined_exception,
        )
    # The sandbox wraps `format` anew at each look-up, in a function that knows what it stands for.
    return "value", type(value), getattr(value, "__wrapped__", value)


def both(pair: tuple[type, type], **options: Any) -> tuple[jinja2.Environment, jinja2.Environment]:
    """Ours and stock, with the same options."""
    return pair[0](**options), pair[1](**options)


any_name = st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=()), max_size=6)


# ---- look-ups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undefined", UNDEFINED)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_look_ups_are_stock(pair, undefined):
    """Every name in every kind of holder gives stock Jinja2's value, undefined or error."""
    ours, stock = both(pair, undefined=UNDEFINED[undefined])
    for holder in HOLDERS.values():
        for name in NAMES:
            assert told(stock.getattr, holder, name) == told(ours.getattr, holder, name)
            assert told(stock.getitem, holder, name) == told(ours.getitem, holder, name)


@given(
    pair=st.sampled_from(PAIRS),
    undefined=st.sampled_from(list(UNDEFINED.values())),
    holder=st.sampled_from(list(HOLDERS)) | st.dictionaries(any_name | st.integers(), st.integers() | st.none()),
    name=any_name,
)
@settings(deadline=None)
def test_look_ups_are_stock_for_any_name(pair, undefined, holder, name):
    """Names that nobody thought of give stock Jinja2's result as well."""
    if isinstance(holder, str):
        holder = HOLDERS[holder]
    ours, stock = both(pair, undefined=undefined)
    assert told(stock.getattr, holder, name) == told(ours.getattr, holder, name)


def test_the_item_is_found_first():
    """A plain dict's item is found without asking for the attribute: the reason for the look-up to be there."""
    asked = []

    class Watched(jinja2.Environment):
        def getattr(self, obj, attribute):
            asked.append(attribute)
            return super().getattr(obj, attribute)

    class Ours(Environment, Watched):
        pass

    environment = Ours()
    assert (1, jinja2.Undefined) == (environment.getattr({"a": 1}, "a"), type(environment.getattr({"a": 1}, "b")))
    environment.getattr({"a": 1}, "items")
    environment.getattr(OrderedDict(a=1), "a")
    assert ["items", "a"] == asked


@pytest.mark.parametrize("error", [TypeError, KeyError, IndexError, AttributeError, ValueError])
@pytest.mark.parametrize("pair", PAIRS[:2], ids=lambda pair: pair[0].__name__)
def test_a_key_that_cannot_be_compared(pair, error):
    """A key whose comparison raises leads to stock Jinja2's result, an undefined for most errors."""

    class Key:
        def __hash__(self):
            return hash("name")

        def __eq__(self, other):
            raise error("compared")

    ours, stock = both(pair)
    holder = {Key(): 1}
    assert told(stock.getattr, holder, "name") == told(ours.getattr, holder, "name")


SHAPES = [
    "{{ h.X }}",
    "{{ h['X'] }}",
    "{{ h.X.Y }}",
    "{{ h.X['Y'] }}",
    "{{ h['X'].Y }}",
    "{{ h.X.Y|default('x') }}",
    "{{ h.X|default('x', true) }}",
    "{{ h.X is defined }}",
    "{{ h.X is mapping }}",
    "{{ h.get('X') }}",
    "{{ h.get('X', 'fallback').Y }}",
    "{{ h|attr('X') }}",
    "{{ [h]|map(attribute='X')|list }}",
    "{{ [h]|map(attribute='X.Y')|first }}",
    "{% for k, v in h.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in h.keys()|map('string')|sort %}{{ k }};{% endfor %}",
    "{% for k in h %}{{ k }}{{ h[k] }}{% else %}none{% endfor %}",
    "{% set x = h.X %}{{ x }}",
    "{% with x = h.X %}{{ x.Y }}{% endwith %}",
    "{% macro m(x) %}{{ x.X }}{% endmacro %}{{ m(h) }}",
    "{{ h.X() }}",
    "{{ h.update({'X': 1}) }}{{ h.X }}",
    "{{ h.__class__.__name__ }}",
    "{{ h.X|upper ~ h.Y }}",
]


@given(
    pair=st.sampled_from(PAIRS),
    undefined=st.sampled_from(list(UNDEFINED.values())),
    autoescape=st.booleans(),
    shape=st.sampled_from(SHAPES),
    holder=st.sampled_from(list(HOLDERS)),
    first=st.sampled_from([name for name in NAMES if name.isidentifier()]),
    second=st.sampled_from([name for name in NAMES if name.isidentifier()]),
)
@settings(deadline=None, max_examples=300)
def test_rendered_look_ups_are_stock(pair, undefined, autoescape, shape, holder, first, second):
    """A template that looks something up renders as stock Jinja2 renders it, or fails with the same words."""
    ours, stock = both(pair, undefined=undefined, autoescape=autoescape)
    source = shape.replace("X", first).replace("Y", second)
    # Some of the shapes change what they are given, and addresses in a `repr` differ: the same objects, made twice.
    expected = told(lambda: stock.from_string(source).render(h=holders()[holder]))
    actual = told(lambda: ours.from_string(source).render(h=holders()[holder]))
    assert _without_addresses(expected) == _without_addresses(actual)


def _without_addresses(result: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*result[:-1], re.sub(r"0x[0-9a-f]+", "0x", str(result[-1]), flags=re.IGNORECASE))


# ---- documents -------------------------------------------------------------------------------------------

LIBRARY = {
    "base": "<{% block title %}base{% endblock %}|{% block body %}{{ value }}{% endblock %}>{{ value }}",
    "part": "[{{ value }}]",
    "many": "[{{ value }}{{ flag }}{{ parent }}{{ range(2)|list }}{{ absent }}]",
    "macros": "{% macro wrap(x) %}({{ x }}{{ caller() if caller else '' }}){% endmacro %}{% set constant = 'c' %}",
}

TEMPLATES = [
    "",
    "plain text, é, 漢字, {{ '{{' }}\n",
    "{{ value }}",
    "{{ value }}{{ value }} {{ value }}",
    "{{ 1 }}{{ 1.5 }}{{ none }}{{ true }}{{ 'a' }}{{ [1, 'x'] }}{{ {'a': 1} }}{{ (1, 2) }}",
    "{{ 'text <b>' }}{{ 'a' ~ 1 }}{{ '<'|e }}{{ '<'|safe }}",
    "{{ value|string }}{{ value|e }}{{ value|safe }}{{ value|default('d') }}",
    "{{ absent }}",
    "{{ absent|default('d') }}",
    "{{ value if false }}",
    "{{ [value, value]|join(', ') }}",
    "{{ value ~ '<' ~ value }}",
    "{% if value %}{{ value }}{% elif absent %}-{% else %}{{ none }}{% endif %}",
    "{% for x in [value, 2, none] %}{{ loop.index }}{{ x }}{% else %}none{% endfor %}",
    "{% for x in [1, [2]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "{% macro m(a, b=2) %}<{{ a }}{{ b }}{{ varargs }}{{ kwargs }}>{% endmacro %}{{ m(value) }}{{ m(1, 2, 3, c=4) }}",
    "{% macro m() %}<{{ caller(value) }}>{% endmacro %}{% call(x) m() %}{{ x }}{{ value }}{% endcall %}",
    "{% set x %}<i>{{ value }}</i>{% endset %}{{ x }}",
    "{% set x | upper %}{{ value }}{% endset %}{{ x }}",
    "{% filter upper %}{{ value }} <x>{% endfilter %}",
    "{% autoescape true %}{{ value }}{{ '<' }}{% endautoescape %}{{ value }}",
    "{% autoescape false %}{{ value }}{{ '<' }}{% endautoescape %}{{ value }}",
    "{% autoescape flag %}{{ value }}{{ '<' }}{% set y %}{{ value }}{% endset %}{{ y }}{% endautoescape %}{{ value }}",
    "{% autoescape flag %}{% macro m(a) %}{{ a }}{% endmacro %}{{ m(value) }}{% endautoescape %}",
    "{% extends 'base' %}{% block body %}{{ super() }}{{ value }}{% endblock %}",
    "{% extends 'base' %}{% block title %}{{ self.body() }}{% endblock %}",
    "{% extends parent %}{% block body %}{{ value }}{% endblock %}",
    "{% if flag %}{% extends 'base' %}{% endif %}{{ value }}{% block body %}{{ value }}{% endblock %}",
    "{% include 'part' %}{% include ['absent', 'part'] %}{% include 'absent' ignore missing %}",
    "{% include 'part' without context %}",
    "{% import 'macros' as m %}{{ m.wrap(value) }}{{ m.constant }}",
    "{% from 'macros' import wrap, constant %}{% call wrap(value) %}{{ value }}{% endcall %}{{ constant }}",
    "{% from 'macros' import wrap with context %}{{ wrap(wrap(value)) }}",
    "{% set ns = namespace(x=value) %}{% for i in range(2) %}{% set ns.x = i %}{% endfor %}{{ ns.x }}",
    "{% set _t = 'mine' %}{{ value }}{{ _t }}",
    "{% raw %}{{ value }}{% endraw %}{# comment #}{{- value -}} x",
    "{{ value if value is string else value|string }}{{ (value, value)|first }}",
    "{{ 'loooong'|truncate(5) }}{{ 3|round(1) }}{{ 'a,b'.split(',') }}{{ '%s'|format(value) }}",
    "{{ range(3)|list }}{{ dict(a=1).a }}{{ cycler('x', 'y').next() }}{{ joiner()() }}",
    "{{ text_like }}{{ other }}",
    "{{ 1 / 0 }}",
    "{{ value.nothing.nothing }}",
    # frames with many names, which are looked up together: all there, some set before, some not there
    "{{ value }}{{ flag }}{{ parent }}{{ other }}",
    "{{ value }}{{ flag }}{{ absent }}{{ parent }}",
    "{{ value }}{% set flag = 'set' %}{{ flag }}{{ parent }}{{ other }}{{ text_like }}",
    "{% if flag %}{% set value = 'set' %}{% endif %}{{ value }}{{ parent }}{{ other }}{{ text_like }}",
    "{% set parent = 'part' %}{% for x in [1] %}{{ x }}{{ value }}{{ parent }}{{ other }}{{ flag }}{% endfor %}",
    "{% set parent = 'part' %}{% include parent %}{{ value }}{{ other }}{{ text_like }}{{ flag }}",
    "{% set value = 'set' %}{% extends parent %}{% block body %}{{ value }}{{ flag }}{{ parent }}{% endblock %}",
    "{% macro m(flag) %}{{ flag }}{{ value }}{{ other }}{{ parent }}{{ absent }}{% endmacro %}{{ m(1) }}{{ value }}",
    "{% set value = 'set' %}{% macro m() %}{{ flag }}{{ value }}{{ other }}{{ parent }}{% endmacro %}{{ m() }}",
    "{% block a %}{{ value }}{{ flag }}{{ parent }}{{ other }}{% endblock %}{% set value = 1 %}{{ self.a() }}",
    "{% import 'macros' as value %}{{ value.constant }}{{ flag }}{{ parent }}{{ other }}{{ text_like }}",
    "{% with flag = 1, parent = value %}{{ flag }}{{ parent }}{{ other }}{{ text_like }}{% endwith %}{{ flag }}",
    "{% include 'many' %}{% set value = 'set' %}{% include 'many' %}{% include 'many' without context %}",
]  # fmt: skip


class TextLike(str):
    """A string with a text of its own."""

    __slots__ = ()

    def __str__(self):
        return "text of its own"


class Html:
    """Something that knows its HTML and its text."""

    def __html__(self):
        return "<html>"

    def __str__(self):
        return "<text>"

    __repr__ = __str__


VALUES = [
    "text",
    "<b>&amp;</b>",
    "",
    Markup("<i>"),
    0,
    -1.5,
    float("nan"),
    True,
    None,
    [1, "<", None],
    {"a": "<"},
    (),
    TextLike("x"),
    Html(),
    jinja2.Undefined(name="u"),
    jinja2.DebugUndefined(name="u"),
    [b"bytes in a list"],
]

FINALIZERS: dict[str, Any] = {
    "none": None,
    "plain": lambda value: "" if value is None else value,
    "context": jinja2.pass_context(lambda context, value: f"{context.name}{value}"),
    "environment": jinja2.pass_environment(lambda environment, value: [value]),
}


def rendered(environment: jinja2.Environment, source: str, values: list[Any]) -> list[tuple[Any, ...]]:
    """The document or the error for each value, and the same from the template's stream."""
    try:
        template = environment.from_string(source)
    except Exception as error:  # noqa: BLE001  (any error is a result here)
        return [("error", type(error), str(error))]
    variables = {"flag": True, "parent": "base", "text_like": TextLike("x"), "other": Html()}
    results = [told(template.render, {**variables, "value": value}) for value in values]
    streams = [told(lambda value: "".join(template.generate({**variables, "flag": False, "value": value})), value)
               for value in values]  # fmt: skip
    return results + streams


@pytest.mark.parametrize("finalize", FINALIZERS)
@pytest.mark.parametrize("autoescape", [False, True, lambda name: name != "part"], ids=["off", "on", "chosen"])
@pytest.mark.parametrize("pair", PAIRS[2:], ids=lambda pair: pair[0].__name__)
def test_documents_are_stock(pair, autoescape, finalize):
    """Without bytes, documents are byte for byte what stock Jinja2 makes of the same templates."""
    for undefined in (jinja2.Undefined, jinja2.StrictUndefined):
        ours, stock = both(
            pair,
            loader=jinja2.DictLoader(LIBRARY),
            autoescape=autoescape,
            finalize=FINALIZERS[finalize],
            undefined=undefined,
        )
        for source in TEMPLATES:
            assert rendered(stock, source, VALUES) == rendered(ours, source, VALUES), source


def test_documents_are_stock_when_awaited():
    """Asynchronous templates come out alike, too."""
    ours, stock = both(PAIRS[2], loader=jinja2.DictLoader(LIBRARY), enable_async=True)
    variables = {"value": "<v>", "flag": True, "parent": "base"}
    for source in TEMPLATES:
        expected = told(stock.from_string(source).render, variables)
        assert expected == told(ours.from_string(source).render, variables), source


def test_what_only_claims_to_be_text():
    """A proxy that gives itself out as a string is made one, as stock Jinja2 does."""

    class Proxy:
        __class__ = property(lambda self: str)  # type: ignore[assignment]

        def __str__(self):
            return "proxied"

    ours, stock = both(PAIRS[2])
    source = "{{ value }}"
    assert stock.from_string(source).render(value=Proxy()) == ours.from_string(source).render(value=Proxy())


BYTES_TEMPLATES = {
    "variable": "{{ data }}",
    "beside text": "text {{ 1 }}{{ data }} text",
    "filter": "{{ text|encoded }}",
    "filter on a filter": "{{ text|lower|encoded }}",
    "method": "{{ text.encode() }}",
    "condition": "{{ data if data else '' }}",
    "default": "{{ absent|default(data) }}",
    "autoescape": "{% autoescape true %}{{ data }}{% endautoescape %}",
    "no autoescape": "{% autoescape false %}{{ data }}{% endautoescape %}",
    "volatile on": "{% autoescape yes %}{{ data }}{% endautoescape %}",
    "volatile off": "{% autoescape no %}{{ data }}{% endautoescape %}",
    "macro": "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(data) }}",
    "caller": "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ data }}{% endcall %}",
    "block": "{% block b %}{{ data }}{% endblock %}",
    "inherited block": "{% extends 'base' %}{% block body %}{{ data }}{% endblock %}",
    "include": "{% include 'part' %}",
    "import": "{% import 'macros' as m %}{{ m.wrap(data) }}",
    "loop": "{% for x in [data] %}{{ x }}{% endfor %}",
    "recursive loop": "{% for x in [[data]] recursive %}{{ loop(x) if x is not string and x[0] is not number else x }}"
    "{% endfor %}",
    "set block": "{% set x %}{{ data }}{% endset %}{{ x }}",
    "filter block": "{% filter upper %}{{ data }}{% endfilter %}",
    "with": "{% with x = data %}{{ x }}{% endwith %}",
}


def encoding(environment: jinja2.Environment) -> jinja2.Environment:
    """`environment` with a filter that returns bytes."""
    environment.filters["encoded"] = str.encode
    return environment


def bytes_options(autoescape: bool, finalize: Any) -> dict[str, Any]:
    """Options of the environments that are given bytes."""
    return {"loader": jinja2.DictLoader(LIBRARY), "autoescape": autoescape, "finalize": finalize}


@pytest.mark.parametrize("data", [b"raw", bytearray(b"raw")], ids=["bytes", "bytearray"])
@pytest.mark.parametrize("finalize", [None, lambda value: value], ids=["", "finalize"])
@pytest.mark.parametrize("autoescape", [False, True], ids=["plain", "escaped"])
@pytest.mark.parametrize("pair", PAIRS[2:], ids=lambda pair: pair[0].__name__)
@pytest.mark.parametrize("name", BYTES_TEMPLATES)
def test_bytes_are_refused(pair, name, autoescape, finalize, data):
    """Bytes in the output are an error that shows them, wherever in a template they would come out."""
    ours, stock = both(pair, **bytes_options(autoescape, finalize))
    variables = {"data": data, "value": data, "text": "raw", "yes": True, "no": False}
    source = BYTES_TEMPLATES[name]
    assert "raw" in encoding(stock).from_string(source).render(variables).lower()
    with pytest.raises(TypeError) as caught:
        encoding(ours).from_string(source).render(variables)
    assert "the output would hold bytes, not text (found b'raw'); decode them first" == str(caught.value)


@pytest.mark.parametrize("autoescape", [False, True], ids=["plain", "escaped"])
@pytest.mark.parametrize("source", ["{{ 'raw'|encoded }}", "a {{ 'raw'|upper|encoded }} b"])
def test_bytes_made_while_compiling_are_refused(source, autoescape):
    """A filter on a constant runs when the template is compiled; the bytes it returns are refused all the same."""
    ours = encoding(DocumentEnvironment(autoescape=autoescape))
    with pytest.raises(TypeError, match="the output would hold bytes"):
        ours.from_string(source).render()


def test_finalize_may_decode():
    """What `finalize` makes of bytes is what counts."""
    ours = DocumentEnvironment(finalize=lambda value: value.decode() if isinstance(value, bytes) else value)
    assert "raw 1" == ours.from_string("{{ data }} {{ 1 }}").render(data=b"raw")


def test_long_bytes_are_cut_in_the_message():
    """The message shows how the bytes begin, not a megabyte of them."""
    with pytest.raises(TypeError) as caught:
        DocumentEnvironment().from_string("{{ data }}").render(data=b"x" * 10**6)
    assert f"the output would hold bytes, not text (found {b'x' * 40!r}); decode them first" == str(caught.value)


def test_a_document_renders_as_its_template():
    """A document gives what `Template.render` gives for globals and variables merged."""
    environment = DocumentEnvironment(loader=jinja2.DictLoader(LIBRARY), autoescape=True)
    environment.globals["shared"] = "<shared>"
    for source in TEMPLATES:
        template = environment.from_string(source + "{{ shared }}")
        variables = {"value": "<v>", "flag": True, "parent": "base"}
        expected = told(template.render, variables)
        assert expected == told(Document(template).render, {**environment.globals, **variables}), source


def test_a_documents_variables_are_left_alone():
    """What a template sets stays in that rendering: the next document starts afresh."""
    document = Document(DocumentEnvironment().from_string("{{ x }}{% set x = 2 %}{{ x }}"))
    variables = {"x": 1}
    assert ["12", "12"] == [document.render(variables), document.render(variables)]
    assert {"x": 1} == variables


# ---- the environments of a job ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, False),
        ("", False),
        ("page", False),
        ("html", False),
        ("page.html", True),
        ("page.htm", True),
        ("page.xml", True),
        ("page.xhtml", True),
        ("page.svg", True),
        ("PAGE.HTML", True),
        ("page.html.j2", True),
        ("page.HTML.J2", True),
        ("page.html.jinja", True),
        ("page.html.jinja2", True),
        ("folder.html/page.md.j2", False),
        ("folder/page.html.j2", True),
        ("page.md", False),
        ("page.md.j2", False),
        ("page.txt", False),
        ("page.j2", False),
        ("page.html.md", False),
        ("page.html.md.j2", False),
        ("page.html.j2.j2", False),
        ("page.htmlx", False),
        ("page.json.j2", False),
        (".j2", False),
        (".html.j2", True),
    ],
)
def test_autoescape_by_name(name, expected):
    """Documents are escaped by the extension under a final `.j2`, `.jinja` or `.jinja2`."""
    assert expected is autoescape_by_name(name)


SOURCES = {
    "page.html.j2": ("templates/page.html.j2", b"{{ v }}{% include 'part.md' %}"),
    "part.md": ("templates/part.md", b"{{ v }}"),
    "latin.md": ("templates/latin.md", b"one\ntwo \xe9\n"),
}


def test_templates_come_from_the_snapshot():
    """Templates are loaded from what the bundle holds, and escaped by their own names."""
    environment = document_environment(JinjaOptions(), SOURCES, {})
    assert "&lt;<" == environment.get_template("page.html.j2").render(v="<")
    assert ["latin.md", "page.html.j2", "part.md"] == environment.list_templates()
    assert "templates/part.md" == environment.get_template("part.md").filename


def test_compiled_templates_are_run_as_they_are():
    """Marshalled code is used where there is some, and the source where there is none."""
    import marshal

    code = marshal.dumps(compile_elsewhere("part.md", "compiled {{ v }}"))
    environment = document_environment(JinjaOptions(), SOURCES, {"part.md": code})
    assert "&lt;compiled <" == environment.get_template("page.html.j2").render(v="<")


def compile_elsewhere(name: str, source: str) -> Any:
    """The code that another worker would have made."""
    return DocumentEnvironment().compile(source, name, f"templates/{name}")


def test_a_template_that_is_not_there():
    """A name that the bundle lacks is the error that Jinja2 has for it."""
    environment = document_environment(JinjaOptions(), SOURCES, {})
    with pytest.raises(jinja2.TemplateNotFound) as caught:
        environment.get_template("../page.html.j2")
    assert "../page.html.j2" == caught.value.name


def test_a_template_that_is_not_utf8():
    """The error says which line holds the byte that isn't UTF-8."""
    environment = document_environment(JinjaOptions(), SOURCES, {})
    with pytest.raises(jinja2.TemplateSyntaxError) as caught:
        environment.get_template("latin.md")
    error = caught.value
    assert (2, "latin.md", "templates/latin.md") == (error.lineno, error.name, error.filename)
    assert "the file is not UTF-8 (byte 8: invalid continuation byte)" == error.message


@pytest.mark.parametrize("undefined", UNDEFINED)
def test_options_reach_the_environment(undefined):
    """Kind of undefined, escaping, extensions and Jinja2's own parameters arrive as the job says."""
    options = JinjaOptions(
        undefined=undefined,
        autoescape=True,
        extensions=("jinja2.ext.do",),
        extra={"trim_blocks": True, "variable_start_string": "<<", "variable_end_string": ">>"},
    )
    environment = document_environment(options, {}, {})
    assert UNDEFINED[undefined] is environment.undefined
    assert "&lt;x" == environment.from_string("{% do [] %}\n<< v >>x").render(v="<")


@pytest.mark.parametrize("make", [lambda options: document_environment(options, {}, {}), expression_environment])
def test_the_sandbox(make):
    """With the sandbox on, internals are out of reach and data cannot be changed; without it, they are."""
    attack = "{{ v.append(1) }}{{ ''.__class__ }}"
    assert "None<class 'str'>" == make(JinjaOptions()).from_string(attack).render(v=[])
    for source in ("{{ v.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ '{0.__class__}'.format(v) }}"):
        with pytest.raises(jinja2.sandbox.SecurityError):
            make(JinjaOptions(sandbox=True)).from_string(source).render(v=[])


def test_expressions_have_their_own_syntax():
    """Job options for documents don't bear on expressions: Jinja2's own delimiters, strict, not escaped."""
    options = JinjaOptions(undefined="default", autoescape=True, extra={"variable_start_string": "<<"})
    environment = expression_environment(options)
    assert "<" == Expression(environment, "{{ a }}")({"a": "<"})
    with pytest.raises(jinja2.UndefinedError, match="'b' is undefined"):
        Expression(environment, "{{ b }}")({"a": "<"})


def test_referenced():
    """Everything that a template extends, includes or imports is listed; None for what is chosen while rendering."""
    source = "{% extends 'a' %}{% include ['b', 'c'] %}{% import 'd' as d %}{% from 'e' import x %}{% include f %}"
    assert ["a", "b", "c", "d", "e", None] == list(referenced(jinja2.Environment().parse(source)))


# ---- expressions -----------------------------------------------------------------------------------------

simple = st.sampled_from(["{{ a }}", "{{ b }}", "{{ a.b }}", "{{ a.b.c }}", "{{ a.items }}", "{{ absent }}",
                          "{{a.name}}", "{{- b -}}", "{{ a._private }}", "{{ range }}", "{{ a.keys }}"])  # fmt: skip
involved = st.sampled_from(
    ["{{ a|upper }}", "{{ a['b'] }}", "{{ a.b|default('x') }}", "{{ 'c' }}", "{{ 1 + 1 }}", "{{ none }}",
     "{{ b.upper() }}", "{% if a %}yes{% endif %}", "{% for x in a %}{{ x }}{% endfor %}", "{% set x = 1 %}{{ x }}",
     "{{ a[0] }}", "{{ a ~ b }}", "{{ a if b else b }}", "{{ loop }}", "{{ [a, b]|join('/') }}", "{{ a(b) }}"]
)  # fmt: skip
wording = st.sampled_from(
    ["/", "x", " ", "\n", "é", "{# note #}", "{% raw %}{{ a }}{% endraw %}", ".md", "}}", "  \n", "{"]
)
expressions = st.lists(simple | wording | involved, max_size=5).map("".join)

values = st.recursive(
    st.text(max_size=3) | st.integers() | st.none() | st.booleans() | st.floats() | st.just(Markup("<b>")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["b", "c", "name", "items", "_private"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(
    sandbox=st.booleans(),
    source=expressions,
    variables=st.dictionaries(st.sampled_from(["a", "b", "range", "loop"]), values, max_size=4),
)
@settings(deadline=None, max_examples=400)
def test_expressions_are_stock(sandbox, source, variables):
    """An expression gives what a strict stock template gives, or fails with the same words."""
    kind = jinja2.sandbox.ImmutableSandboxedEnvironment if sandbox else jinja2.Environment
    stock = kind(undefined=jinja2.StrictUndefined)
    ours = expression_environment(JinjaOptions(sandbox=sandbox))
    expected = told(lambda: stock.from_string(source).render(variables))
    assert expected == told(lambda: Expression(ours, source)({**ours.globals, **variables}))


@pytest.mark.parametrize("name", ["items", "get", "__class__", "b", "name"])
def test_dotted_names_prefer_the_attribute(name):
    """`a.items` in an expression is what it is in a template: the dictionary's method, not an item called so."""
    source, variables = "{{ a." + name + " }}", {"a": {"items": 1, "get": 2, "b": 3, "name": 4}}
    stock = jinja2.Environment(undefined=jinja2.StrictUndefined)
    ours = Expression(expression_environment(JinjaOptions()), source)
    assert stock.from_string(source).render(variables) == ours(variables)


@pytest.mark.parametrize("source", ["{{ a }}", "x{{ a.b }}", "{{ a }}{{ a }}", "{{ a|e }}"])
def test_expressions_refuse_bytes(source):
    """A key or path made of bytes is an error, simple expression or not."""
    environment = expression_environment(JinjaOptions())
    environment.filters["e"] = lambda value: value
    raw = b"raw"
    with pytest.raises(TypeError, match=r"the output would hold bytes, not text \(found b'raw'\)"):
        Expression(environment, source)({"a": {"b": raw} if ".b" in source else raw})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("page.md.j2", "page.md.j2"),
        ("a{# note #}b", "ab"),
        ("{% raw %}{{ a }}{% endraw %}.md", "{{ a }}.md"),
        ("{{ a }}", None),
        ("page-{{ a.b }}.md", None),
        ("{% if a %}b{% endif %}", None),
        ("{{ 'a'|upper }}", None),
    ],
)
def test_constant_expressions(source, expected):
    """Plain text is told from what looks something up."""
    assert expected == Expression(expression_environment(JinjaOptions()), source).constant


def test_simple_expressions_run_no_template():
    """Names and look-ups skip the template machinery: what nearly all keys and paths consist of."""
    environment = expression_environment(JinjaOptions())
    expression = Expression(environment, "{{ a.b }}/{{ c }}.md")
    expression._document = None
    assert "1/x.md" == expression({"a": {"b": 1}, "c": "x"})


@pytest.mark.parametrize("source", ["{{ a", "{% if %}", "{{ a|nothing }}", "{{ a b }}"])
def test_broken_expressions(source):
    """An expression with a syntax error is refused when it is made."""
    with pytest.raises(jinja2.TemplateSyntaxError):
        Expression(expression_environment(JinjaOptions()), source)


def test_the_tree_is_what_jinja_parses():
    """Simple expressions are recognised by the nodes that Jinja2 parses them into: a change of those would be seen."""
    tree = jinja2.Environment().parse("x{{ a.b }}")
    assert [nodes.TemplateData, nodes.Getattr] == [type(node) for node in tree.body[0].nodes]


@pytest.mark.parametrize("name", ["./page.j2", "/page.j2", "sub//part.j2", "sub/./part.j2", ".hidden/part.j2"])
def test_names_as_stock_takes_them(tmp_path, name):
    """A template is found under every spelling of its name that Jinja2's own loader takes."""
    for path in ("page.j2", "sub/part.j2", ".hidden/part.j2"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"this is {path}")
    stock = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path))
    sources = {path: (path, f"this is {path}".encode()) for path in ("page.j2", "sub/part.j2", ".hidden/part.j2")}
    ours = document_environment(JinjaOptions(), sources, {})
    assert stock.get_template(name).render() == ours.get_template(name).render()
