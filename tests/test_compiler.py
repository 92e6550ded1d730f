"""The compiler beside Jinja2's own: the same documents and the same errors, on the same lines."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chora_mp.environment import DocumentEnvironment, SandboxedDocumentEnvironment
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
    bodies.map(lambda body: f"{{% extends 'base' %}}{START}{{% block body %}}{body}{{{{ super() }}}}{{% endblock %}}"),
)

KINDS = [
    (DocumentEnvironment, jinja2.Environment),
    (SandboxedDocumentEnvironment, jinja2.sandbox.ImmutableSandboxedEnvironment),
]


def told(environment: jinja2.Environment, source: str, record: dict[str, Any]) -> tuple[Any, ...]:
    """The document, or the error with the lines it came by."""
    try:
        template = environment.from_string(source)
    except Exception as error:  # noqa: BLE001  (any error is a result here)
        return type(error), str(error)
    try:
        return ("document", template.render(record))
    except Exception as error:  # noqa: BLE001
        failure = failure_of(error)
        return failure.type, failure.message, failure.template, failure.line, failure.chain


@pytest.mark.parametrize("autoescape", [False, True, lambda name: name == "macros"], ids=["off", "on", "some"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0].__name__)
@settings(deadline=None)
@given(source=templates, record=RECORDS, undefined=st.sampled_from([jinja2.Undefined, jinja2.StrictUndefined]))
def test_any_template_is_stock(kind, autoescape, source, record, undefined):
    """Whatever a template does with whatever data, the document or the error is Jinja2's, line numbers included."""
    options = {"loader": jinja2.DictLoader(LIBRARY), "autoescape": autoescape, "undefined": undefined}
    stock, ours = kind[1](**options), kind[0](**options)
    assert told(stock, source, record) == told(ours, source, record)
