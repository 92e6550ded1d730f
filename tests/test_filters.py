"""The faster filters beside Jinja2's own: the same text for any text, or the same error."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.ext import Extension
from jinja2.filters import do_indent, do_wordwrap
from markupsafe import Markup

from chora_mp.environment import DocumentEnvironment
from chora_mp.filters import do_indent as indent
from chora_mp.filters import do_wordwrap as wordwrap

STOCK = jinja2.Environment()

# What decides where textwrap cuts: letters, digits, punctuation, hyphens, and every kind of white space.
letters = st.sampled_from("abcé漢1_.,!'\"&?") | st.sampled_from("-  \n\t\xa0\u2003\x1f\x85")
words = st.sampled_from(["a", "well-known", "x--y", "e-mail", "--option", "a-b-c", "1-2", "é-à", "long" * 8, "-", "--"])
texts = st.lists(words | st.text(letters, max_size=6), max_size=30).map(" ".join) | st.text(letters, max_size=80)


@settings(max_examples=400, deadline=None)
@given(text=texts, width=st.integers(1, 40))
def test_wordwrap_is_stock(text, width):
    """Lines are cut where Jinja2 cuts them, whatever they consist of."""
    assert do_wordwrap(STOCK, text, width) == wordwrap(STOCK, text, width)


@pytest.mark.parametrize("text", [Markup("<b>one two three four</b>"), "one two-three four", "", " led by a space" * 3])
@pytest.mark.parametrize(
    "options",
    ["", "5", "width=5", "5, false", "5, break_long_words=false", "5, wrapstring='|'", "5, break_on_hyphens=false",
     "0", "-3", "'5'", "true", "4.5", "none"],
)  # fmt: skip
@pytest.mark.parametrize("autoescape", [False, True], ids=["plain", "escaped"])
def test_wordwrap_is_stock_in_templates(text, options, autoescape):
    """With any options, in a document that is escaped or not, the filter gives Jinja2's text or Jinja2's error."""
    source = f"{{{{ text | wordwrap({options}) }}}}"
    answers = []
    for kind in (jinja2.Environment, DocumentEnvironment):
        try:
            answers.append(kind(autoescape=autoescape, newline_sequence="\r\n").from_string(source).render(text=text))
        except Exception as error:  # noqa: BLE001  (any error is a result here)
            answers.append(f"{type(error).__name__}: {error}")
    assert answers[0] == answers[1]


@settings(max_examples=400, deadline=None)
@given(text=texts | st.text(st.sampled_from("ab \n\r\x0b\x0c\x1c\x85\u2028")), width=st.integers(-2, 5))
def test_indent_is_stock(text, width):
    """Lines are indented as Jinja2 indents them, whatever ends them."""
    assert do_indent(text, width) == indent(text, width)


@pytest.mark.parametrize("text", [Markup("<b>\n\n</b>\n"), "one\ntwo\n\nthree\n", "", "\n", 5])
@pytest.mark.parametrize(
    "options",
    ["", "2", "width=2", "'> '", "2, true", "2, first=true", "2, blank=true", "2, true, true", "true", "none"],
)
def test_indent_is_stock_in_templates(text, options):
    """With any options, the filter gives Jinja2's text or Jinja2's error."""
    answers = []
    for kind in (jinja2.Environment, DocumentEnvironment):
        try:
            answers.append(kind().from_string(f"{{{{ text | indent({options}) }}}}").render(text=text))
        except Exception as error:  # noqa: BLE001  (any error is a result here)
            answers.append(f"{type(error).__name__}: {error}")
    assert answers[0] == answers[1]


def test_what_is_no_text_is_refused_as_ever():
    """A number has no lines."""
    for filter_of in (do_wordwrap, wordwrap):
        with pytest.raises(AttributeError, match="splitlines"):
            filter_of(STOCK, 5)


class Louder(Extension):
    """An extension that brings an `indent` of its own."""

    def __init__(self, environment):
        super().__init__(environment)
        environment.filters["indent"] = lambda text: text.upper()


def test_an_extensions_filter_stays():
    """Only Jinja2's own filters have others in their place."""
    ours = DocumentEnvironment(extensions=[Louder])
    assert "A\nB" == ours.from_string("{{ 'a\nb' | indent }}").render()
    assert ours.filters["wordwrap"] is wordwrap


@pytest.mark.parametrize("call", ["indent(5, width=3)", "wordwrap(5, width=3)", "indent(s=1)", "wordwrap(5, nope=1)"])
def test_errors_name_the_filter_as_ever(call):
    """What is wrong with the arguments is told in Jinja2's own words."""
    told = []
    for kind in (jinja2.Environment, DocumentEnvironment):
        with pytest.raises(TypeError) as raised:
            kind().from_string(f"{{{{ 'text' | {call} }}}}").render()
        told.append(str(raised.value))
    assert told[0] == told[1]
