"""Exceptions as plain data: the right words, the right template, the right line, whatever was raised."""

from __future__ import annotations

import pickle
import types
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.environment import Document, DocumentEnvironment
from chora_mp.failures import did_you_mean, failure_of, plugin_module_name, printable, syntax_problem
from chora_mp.records import Failure

if TYPE_CHECKING:
    from collections.abc import Callable


def failure(call: Callable[[], Any], prefix: str = "", names: tuple[str, ...] = ()) -> Failure:
    """What becomes of the exception that `call` ends with; it travels as every failure has to."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001  (any exception is what this is about)
        found = failure_of(error, prefix, names)
        assert found == pickle.loads(pickle.dumps(found))
        return found
    raise AssertionError("nothing was raised")


def rendering(templates: dict[str, str], name: str = "page", /, **variables: Any) -> Failure:
    """What becomes of the error in rendering the template `name`."""
    environment = DocumentEnvironment(loader=jinja2.DictLoader(templates), undefined=jinja2.StrictUndefined)
    environment.globals.update(variables)
    return failure(
        lambda: Document(environment.get_template(name)).render(dict(environment.globals)), names=tuple(templates)
    )


def raising(error: BaseException) -> Callable[[], None]:
    """A function that raises `error`."""

    def call():
        raise error

    return call


# ---- what was raised -------------------------------------------------------------------------------------


def unpicklable(cause: str) -> Exception:
    """An exception whose class nobody else can find, and that needs more arguments than it keeps."""

    class LocalError(Exception):
        def __init__(self, cause, more):
            super().__init__(f"caused by {cause}")
            self.lock = (x for x in more)

    return LocalError(cause, [])


class SilentError(Exception):
    """An exception that cannot tell what it is about."""

    def __str__(self):
        raise ValueError("no words")


class LeavingError(Exception):
    """An exception that ends the program when asked."""

    def __str__(self):
        raise SystemExit(1)


class NumberError(Exception):
    """An exception whose message is no text."""

    __str__ = lambda self: 5  # type: ignore[assignment, return-value]  # noqa: E731


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (ValueError("no good"), "ValueError", "no good"),
        (ValueError(), "ValueError", "ValueError()"),
        (ValueError(""), "ValueError", "ValueError('')"),
        (KeyError("name"), "KeyError", "'name'"),
        (unpicklable("this"), "LocalError", "caused by this"),
        (SilentError(), "SilentError", "its message cannot be shown"),
        (LeavingError(), "LeavingError", "its message cannot be shown"),
        (NumberError(), "NumberError", "its message cannot be shown"),
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt()"),
        (MemoryError(), "MemoryError", "MemoryError()"),
        (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "ExceptionGroup", "two (2 sub-exceptions)"),
        (ValueError("half \ud800 a pair"), "ValueError", "half \\ud800 a pair"),
        (ValueError("é 漢字 😀"), "ValueError", "é 漢字 😀"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), "UnicodeEncodeError",
         "'ascii' codec can't encode character '\\xe9' in position 0: no"),
        (OSError(28, "No space left on device", "out/file"), "OSError",
         "[Errno 28] No space left on device: 'out/file'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_any_exception(error, type_, message):
    """Type and message of whatever was raised; outside of templates there is no place to name."""
    assert Failure(type_, message) == failure(raising(error))


def test_a_prefix_leads_the_message():
    """Where something else than a template failed, the message says so first."""
    expected = Failure("ValueError", "job.yaml:3: key: no good")
    assert expected == failure(raising(ValueError("no good")), "job.yaml:3: key: ")


def test_long_messages_are_cut():
    """A message has 1,500 bytes at most, and ends in dots where it was cut."""
    assert "x" * 1497 + "…" == failure(raising(ValueError("x" * 10**6))).message
    assert "é" * 748 + "…" == failure(raising(ValueError("é" * 10**6))).message


@given(text=st.text(st.characters(exclude_categories=())))
def test_printable(text):
    """Text without lone surrogates stays as it is, and any text can be written as UTF-8."""
    found = printable(text)
    found.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert text == found


# ---- where it was raised ---------------------------------------------------------------------------------


def test_template_and_line():
    """The failure names the template and its line, counted from 1."""
    found = rendering({"page": "one\ntwo {{ absent }}\n"})
    assert Failure("UndefinedError", "'absent' is undefined", "page", 2, ("page:2",)) == found


def test_includes():
    """The chain leads from the outermost template to the innermost, which is the one that is named."""
    found = rendering(
        {
            "page": "\n{% include 'a/part' %}",
            "a/part": "\n\n{% for x in [1] %}\n{% include ['b'] %}{% endfor %}",
            "b": "{{ 1 / 0 }}",
        }
    )
    expected = Failure("ZeroDivisionError", "division by zero", "b", 1, ("page:2", "a/part:4", "b:1"))
    assert expected == found


def test_inheritance():
    """A block that fails is found in the template that it stands in, by way of the one that renders it."""
    found = rendering(
        {
            "page": "{% extends 'base' %}\n{% block body %}\n{{ super() }}{% endblock %}",
            "base": "\n\n{% block body %}\n\n{{ absent }}{% endblock %}",
        }
    )
    assert ("base", 5, ("page:1", "base:3", "page:3", "base:5")) == (found.template, found.line, found.chain)


def test_macros():
    """A macro that fails is found where it is written; the chain says who called it."""
    found = rendering(
        {
            "page": "{% from 'macros' import outer %}\n\n{{ outer(0) }}",
            "macros": "{% macro outer(x) %}\n{{ inner(x) }}{% endmacro %}\n"
            "{% macro inner(x) %}\n{{ 1 / x }}{% endmacro %}",
        }
    )
    assert ("macros", 4, ("page:3", "macros:2", "macros:4")) == (found.template, found.line, found.chain)


def plugin(source: str) -> dict[str, Any]:
    """What a plug-in file defines, run as the worker runs it."""
    module = types.ModuleType(plugin_module_name(0, "mine"))
    module.__file__ = "/job/mine.py"
    exec(compile(source, "/job/mine.py", "exec"), module.__dict__)
    return module.__dict__


PLUGIN = "def outer(x):\n    return inner(x)\n\ndef inner(x):\n    return int(x)\n"


def test_plugin_lines():
    """After the templates the chain names the plug-in's innermost line; template and line stay the template's."""
    found = rendering({"page": "\n{{ outer('x') }}"}, outer=plugin(PLUGIN)["outer"])
    expected = Failure(
        "ValueError",
        "invalid literal for int() with base 10: 'x'",
        "page",
        2,
        ("page:2", "/job/mine.py:5"),
    )
    assert expected == found


def test_a_plugin_that_only_passed_on():
    """A plug-in that calls back into a template, which then fails, is not the place of the error."""
    found = rendering(
        {"page": "{% macro m() %}\n{{ absent }}{% endmacro %}{{ through(m) }}"},
        through=plugin("def through(call):\n    return call()\n")["through"],
    )
    assert ("page", 2, ("page:2",)) == (found.template, found.line, found.chain)


def test_an_error_outside_of_templates_and_plugins():
    """Lines of Jinja2 and of the libraries that a plug-in calls are nobody's business here."""
    found = failure(lambda: plugin(PLUGIN)["outer"]("x"))
    assert (None, None, ("/job/mine.py:5",)) == (found.template, found.line, found.chain)


def test_a_runaway_recursion():
    """Templates that include each other without end: how it began, how it ended, and not all that lay between."""
    found = rendering(
        {"page": "\n{% include 'part' %}", "part": "{% include 'other' %}", "other": "\n{% include 'part' %}"}
    )
    assert ("RecursionError", "page:2", "part:1", "other:2") == (found.type, *found.chain[:3])
    assert 10 == len(found.chain)
    assert {"part:1", "other:2"} == set(found.chain[1:])


def test_a_chain_of_ten_is_whole():
    """As many includes as fit are all named."""
    templates = {str(number): f"{{% include '{number + 1}' %}}" for number in range(9)}
    found = rendering({**templates, "9": "{{ absent }}"}, "0")
    assert tuple(f"{number}:1" for number in range(10)) == found.chain


def test_surrogates_in_names():
    """Half a character in a template's name is shown, not raised."""
    found = rendering({"page\ud800": "{{ absent }}"}, "page\ud800")
    assert ("page\\ud800:1",) == found.chain
    assert found.template is not None
    found.template.encode()


# ---- templates that are missing or broken ----------------------------------------------------------------


def test_a_template_that_is_not_there():
    """The message names the template and one that comes near; the place is where it was asked for."""
    found = rendering({"page": "\n{% include 'parts/haeder.html' %}", "parts/header.html": ""})
    expected = Failure(
        "TemplateNotFound",
        "no template 'parts/haeder.html'; did you mean 'parts/header.html'?",
        "page",
        2,
        ("page:2",),
    )
    assert expected == found


def test_several_templates_that_are_not_there():
    """A list of names of which none exists is shown whole, and a list of one as that one."""
    found = rendering({"page": "{% include ['x1', 'y2'] %}"})
    assert ("TemplatesNotFound", "none of the templates 'x1', 'y2' exists") == (found.type, found.message)
    assert "no template 'pagr'; did you mean 'page'?" == rendering({"page": "{% include ['pagr'] %}"}).message


def test_a_template_by_an_undefined_name():
    """A name that is undefined is what the message is about."""
    found = rendering({"page": "{% include absent %}"})
    assert ("UndefinedError", "'absent' is undefined", ("page:1",)) == (found.type, found.message, found.chain)


def test_a_syntax_error():
    """The place of a syntax error is in the broken template, at the end of the chain that led to it."""
    found = rendering({"page": "\n{% include 'part' %}", "part": "one\ntwo {% if %}"})
    assert "TemplateSyntaxError" == found.type
    assert ("part", 2, ("page:2", "part:2")) == (found.template, found.line, found.chain)
    assert "Expected an expression, got 'end of statement block'" == found.message


def test_a_syntax_error_without_a_name():
    """A syntax error in something that is no template has a message and no place."""
    found = failure(lambda: jinja2.Environment().from_string("{% if %}"))
    assert ("TemplateSyntaxError", None, ()) == (found.type, found.template, found.chain)


@pytest.mark.parametrize(
    ("filename", "path", "expected"),
    [
        ("templates/page.md.j2", None, "templates/page.md.j2:12: no good"),
        (None, "templates/page.md.j2", "templates/page.md.j2:12: no good"),
        ("shown", "other", "shown:12: no good"),
    ],
)
def test_syntax_problems(filename, path, expected):
    """A syntax error as it is listed: path, line and what is wrong."""
    assert expected == syntax_problem(jinja2.TemplateSyntaxError("no good", 12, "page.md.j2", filename), path)


@pytest.mark.parametrize(
    ("word", "words", "expected"),
    [
        ("pge.md", ["page.md", "x"], "; did you mean 'page.md'?"),
        ("page.md", [], ""),
        ("zzz", ["page.md"], ""),
        ("", ["page.md"], ""),
    ],
)
def test_did_you_mean(word, words, expected):
    """A name that comes near is proposed, and none where none does."""
    assert expected == did_you_mean(word, words)
