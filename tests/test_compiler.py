"""The compiler beside Jinja2's own: the same documents and the same errors, on the same lines."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jinja2
import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.environment import UNDEFINED, Document, DocumentEnvironment, SandboxedDocumentEnvironment
from chora_mp.failures import failure_of

LIBRARY = {
    "macros": "{% macro pair(a, b='B') %}[{{ a }}|{{ b }}]{% endmacro %}"
    "{% macro wide(a, b=1, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}"
    "{% macro rest(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{% macro wrap(n) %}<{{ caller(n) }}>{% endmacro %}"
    "{% macro late() %}{{ nowhere.to_be.found }}{% endmacro %}",
    "part": "({{ row.a }}{{ loop.index }})",
    "base": "{% block head %}H{{ a }}{% endblock %}\n{% block body %}{% endblock %}",
}
START = "{% import 'macros' as m %}{% from 'macros' import pair, wide as w, wrap %}\n"

NAMES = ["a", "b", "items", "get", "keys", "loop", "nowhere", "upper"]
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from(["", "x", "<b>", "a b"])
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.sampled_from(["a", "b", "rows", "text"]), DATA, max_size=4)

names = st.sampled_from(["a", "b", "row", "rows", "text", "nowhere", "loop"])
MACROS = ["pair", "m.pair", "w", "m.wide", "m.rest", "m.late", "m.absent", "mine"]
ARGUMENTS = ["", "a", "a, b", "a, b, 1", "a=1", "b=a, a=b", "a, b=text", "a, z=1", "*rows", "**b"]
STEPS = [*(f".{name}" for name in NAMES), "['a']", "['items']", "[0]", "[b]"]
METHODS = ["items()", "get('a')", "get('a', b)", "keys()", "upper()", "split()", "replace(a, b)", "pop()", "no()"]
paths = st.lists(st.sampled_from(STEPS), max_size=3).map("".join)
plain = st.builds("{}{}".format, names, paths)
calls = st.one_of(
    st.builds("{}({})".format, st.sampled_from(MACROS), st.sampled_from(ARGUMENTS)),
    st.builds("{}.{}".format, plain, st.sampled_from(METHODS)),
    st.sampled_from(["'{}-{}'.format(a, b)", "range(3)", "loop.cycle('x', 'y')", "loop.changed(a)", "dict(a=a).a"]),
)  # fmt: skip
expressions = st.one_of(
    plain,
    calls,
    st.builds("({}).a".format, plain),
    st.builds("{} | {}".format, plain, st.sampled_from(
        ["length", "default('D')", "join(',')", "wordwrap(3)", "sort(attribute='a')", "upper", "escape", "safe"]
    )),
    st.builds("{} if {} else {}".format, plain, plain, plain),
    st.builds("{} if {}".format, plain, plain),
    st.builds("({} if {}).a".format, plain, plain),
    st.builds("{} ~ {}".format, plain, plain),
    st.builds("{} == {}".format, plain, plain),
    st.sampled_from([f"loop.{name}" for name in ("index", "first", "last", "length", "previtem", "nextitem", "depth")]),
)  # fmt: skip


def blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Statements with a body."""
    body = st.lists(inner, min_size=1, max_size=3).map("\n".join)
    return st.one_of(
        st.builds("{{% for row in {} %}}{}{{% else %}}none{{% endfor %}}".format, expressions, body),
        st.builds("{{% for row in {} if row %}}{}{{% endfor %}}".format, expressions, body),
        st.builds("{{% for k, row in {}.items() %}}{{{{ k }}}}{}{{% endfor %}}".format, plain, body),
        st.builds("{{% if {} %}}{}{{% endif %}}".format, expressions, body),
        st.builds("{{% set a = {} %}}{}".format, expressions, body),
        st.builds("{{% set a %}}{}{{% endset %}}{{{{ a }}}}".format, body),
        st.builds("{{% macro mine(a, b=3) %}}{}{{% endmacro %}}{{{{ mine({}) }}}}".format, body, plain),
        st.builds("{{% call(row) wrap({}) %}}{}{{% endcall %}}".format, plain, body),
        st.builds("{{% with b = {} %}}{}{{% endwith %}}".format, expressions, body),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, body),
        st.builds("{{% autoescape true %}}{}{{% endautoescape %}}".format, body),
        st.builds("{{% set ns = namespace(a={}) %}}{{% set ns.a = 1 %}}{{{{ ns.a }}}}{}".format, plain, body),
    )


pieces = st.one_of(
    st.builds("{{{{ {} }}}}".format, expressions),
    st.sampled_from(["text", "\n", "{% include 'part' %}", "{% import 'macros' as m with context %}"]),
)
bodies = st.lists(st.recursive(pieces, blocks, max_leaves=8), min_size=1, max_size=4).map("\n".join)
templates = st.one_of(
    bodies.map(lambda body: START + body),
    bodies,
    bodies.map(lambda body: f"{{% extends 'base' %}}{START}{{% block body %}}{body}{{{{ super() }}}}{{% endblock %}}"),
)

KINDS = [
    (DocumentEnvironment, jinja2.Environment),
    (SandboxedDocumentEnvironment, jinja2.sandbox.ImmutableSandboxedEnvironment),
]


def told(environment: jinja2.Environment, record: dict[str, Any]) -> tuple[Any, ...]:
    """The document of the template `main`, or the error with the lines it came by."""
    try:
        template = environment.get_template("main")
    except Exception as error:  # noqa: BLE001  (any error is a result here)
        return type(error), str(error)
    try:
        if isinstance(environment, DocumentEnvironment):
            return ("document", Document(template).render({**environment.globals, **record}))
        # `render` would put frames of Jinja2's own in the place of those that tell of templates.
        return ("document", "".join(template.root_render_func(template.new_context(record))))
    except Exception as error:  # noqa: BLE001
        failure = failure_of(error)
        return failure.type, failure.message, failure.template, failure.line, failure.chain


def both(kind, source: str, record: dict[str, Any], **options: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What stock Jinja2 makes of a template, and what ours does."""
    options = {"loader": jinja2.DictLoader({**LIBRARY, "main": source}), **options}
    return told(kind[1](**options), record), told(kind[0](**options), record)


@pytest.mark.parametrize("autoescape", [False, True, lambda name: name == "macros"], ids=["off", "on", "some"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)
@settings(deadline=None)
@given(source=templates, record=RECORDS, undefined=st.sampled_from([*UNDEFINED.values()]), trim=st.booleans())
def test_any_template_is_stock(kind, autoescape, source, record, undefined, trim):
    """Whatever a template does with whatever data, the document or the error is Jinja2's, line numbers included."""
    stock, ours = both(kind, source, record, autoescape=autoescape, undefined=undefined, trim_blocks=trim)
    assert stock == ours


class Stopping:
    """Its text is the end of an iteration."""

    def __str__(self):
        raise StopIteration


def broken():
    """An iterable that fails in the middle, in a way that a look-up takes for a name that is not there."""
    yield 1
    raise AttributeError("broken")


@pytest.mark.parametrize(
    "source",
    [
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m.title.x }}",
        "{% macro m(a) %}{{ a }}{{ stopping }}{% endmacro %}[{{ m(1) }}]",
        "{% macro m(a) %}{{ varargs }}{{ a }}{{ stopping }}{% endmacro %}[{{ m(1, 2) }}]",
        "{% macro m(a, caller=0) %}{{ a }}{{ caller }}{% endmacro %}{{ m() }}{{ m(1, 2) }}{% call m(1)%}{% endcall %}",
        "{% macro m(a) %}{{ caller(a) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(a) %}{{ caller(a) }}{% endmacro %}{% call(b) m(1) %}{{ b }}{% endcall %}{{ m(1, caller=2) }}",
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, caller=m) }}",
        "{% macro m(a) %}{{ a }}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(1, 2, 3, b=4) }}{{ m(b=1) }}{{ m() }}",
        "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(20) }}",
        "{% macro m(n) %}{{ varargs }}{% if n %}{{ m(n - 1, 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
        "{% set f = dict %}{% from 'macros' import pair as g %}{{ (f if true else g)(_=1) }}",
        "{% for x in broken() %}{{ loop.last }}{{ loop.length }}{% endfor %}",
        "{% for x in broken() %}{{ loop.first }}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}",
        "{% set a = 1 %}\ntext\n{% with b = nope.x.y %}{{ b }}{% endwith %}",
        "{% for k, v in d.items() recursive %}{{ k }}{{ loop.depth }}{{ loop(v.items()) if v.items }}{% endfor %}",
        "{% extends 'base' %}{% block head %}{{ super() }}{% if d %}{{ self.body() }}{% endif %}{% endblock %}",
        "{% extends 'base' %}{% block body scoped %}B{{ d.a.b }}{{ super() }}{% endblock %}",
        "{{ d.a.b }}{{ d['a']['c'] }}{{ d.items }}{{ d.get('a').b }}{{ d.nope }}",
        "{{ '{:>5}|{}'.format(1, d.a) }}{{ ' x '.strip() }}{{ '{0.x}'.format(d) }}",
        "{{ true }}{{ none }}{{ 1.5 }}{{ 10 ** 30 }}{{ odd }}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("undefined", UNDEFINED.values(), ids=UNDEFINED)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)
def test_corners_are_stock(kind, undefined, source):
    """What arguments a macro takes, what iterables and texts raise, and how errors are worded and where."""
    odd = type("Odd", (type,), {"__eq__": lambda self, other: True})("odd", (), {"__str__": lambda self: "odd"})()
    record = {"stopping": Stopping(), "broken": broken, "d": {"a": {"b": 1, "items": 2}}, "odd": odd}
    for autoescape in (False, True):
        stock, ours = both(kind, source, record, autoescape=autoescape, undefined=undefined)
        assert stock == ours


@pytest.mark.parametrize(
    ("source", "is_enough"),
    [
        ("{{ a }}", True),
        ("{{ a }}{{ b.c }}{{ d }}", True),
        ("{% for a in b %}{{ a.c }}{{ loop.index }}{{ d }}{% else %}{{ nowhere }}{% endfor %}", True),
        ("{% with x = a %}{{ x | upper }}{{ b is none }}{% endwith %}", True),
        ("{% for i in b %}{% set x = (a, 'b') | named %}{{ x }}{% endfor %}", False),
        ("{% for i in b %}{% set x = ('a', 'b') | named %}{{ x }}{% endfor %}", False),
        ("{{ a | map('named') | join }}", False),
        ("{{ a() }}", False),
        ("{{ a is in_context }}", False),
        ("{% set x = a %}{{ x }}", False),
        ("{% include 'part' %}", False),
        ("{% block x %}{% endblock %}", False),
        ("{% macro m() %}{% endmacro %}{{ m() }}", False),
        ("resolve = context.resolve_or_missing\n{{ a }}", False),
        ("{% autoescape a %}{{ b }}{% endautoescape %}", False),
    ],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)
def test_who_needs_names_only(kind, source, is_enough):
    """A template that asks for the values of names gets these alone; one that may ask for more, a whole context."""
    record, found = {"a": str, "b": [1], "d": "D"}, []
    for one in kind:
        environment = one(loader=jinja2.DictLoader({**LIBRARY, "main": source}))
        environment.filters["named"] = jinja2.pass_context(lambda context, value: f"{context.name}{value}")
        environment.tests["in_context"] = jinja2.pass_context(lambda context, value: value in context.parent.values())
        found.append(told(environment, record))
        if isinstance(environment, DocumentEnvironment):
            assert is_enough == Document(environment.get_template("main"))._names_only
    assert found[0] == found[1]


def test_records_go_with_their_documents():
    """What a macro refers to in circles does not keep the last record until Python looks for garbage."""

    class Record(str):
        """Text that knows when it goes."""

        __slots__ = ("__weakref__",)

    environment = DocumentEnvironment()
    source = "{% macro m(x) %}{{ x }}{{ site }}{% endmacro %}{% set a = text %}{{ m(a) }}"
    document, text = Document(environment.from_string(source)), Record("text")
    seen = weakref.ref(text)
    gc.disable()
    try:
        assert "text" == document.render({"text": text})
        del text
        assert seen() is None
    finally:
        gc.enable()
