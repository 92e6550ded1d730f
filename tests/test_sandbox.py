"""The sandbox: published ways out of Jinja2's are refused, and what takes for ever ends with its item's time."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jinja2
import pytest
from jinja2.sandbox import SecurityError, unsafe

import chora_mp.watchdog
from chora_mp import Job, TemplateError, batch_generate
from chora_mp.environment import (
    UNDEFINED,
    Document,
    DocumentEnvironment,
    Expression,
    document_environment,
    expression_environment,
)
from chora_mp.job import JinjaOptions

if TYPE_CHECKING:
    from tests.conftest import Project

Kind = TypeVar("Kind")

SECRET = "the secret of a plug-in's module"
LEAKS = (SECRET, "<class", "<function", "<built-in", "<method", "<module", "<frame", "<code", "<slot")
"""What only somebody outside the sandbox gets to see."""


class Thing(Generic[Kind]):
    """An object that a plug-in gives to its templates."""

    name = "thing"
    _hidden = SECRET

    def __init__(self) -> None:
        self.size = 1

    def greet(self) -> str:
        """A method that templates may call."""
        return "hello"

    @staticmethod
    def shout(text: str) -> str:
        """A function that happens to be in a class."""
        return text.upper()

    @classmethod
    def make(cls) -> Thing:
        """Another one."""
        return cls()

    @property
    def width(self) -> int:
        """What can be set on any object that gets here."""
        return self.size

    @width.setter
    def width(self, value: int) -> None:
        self.size = value

    @unsafe
    def delete(self) -> str:
        """A method that templates may not call."""
        return SECRET


def helper() -> str:
    """A function that a plug-in gives to its templates."""
    return "help"


def counting():
    """A generator that a plug-in gives to its templates."""
    yield SECRET


async def awaited():
    """A coroutine that a plug-in gives to its templates."""


async def awaited_each():
    """An asynchronous generator that a plug-in gives to its templates."""
    yield SECRET


def run(function: Any, *arguments: Any) -> Any:
    """A filter that calls what it is given."""
    return function(*arguments)


def environment(*, sandbox: bool = True, sources: dict[str, str] | None = None, **options: Any) -> DocumentEnvironment:
    """The environment of documents as a worker makes it, with what a careless plug-in might add."""
    templates = {name: (name, text.encode()) for name, text in (sources or {}).items()}
    made = document_environment(JinjaOptions(sandbox=sandbox, **options), templates, {})
    made.filters["run"] = run
    made.globals.update({"str": str, "Thing": Thing, "thing": Thing(), "helper": helper, "counting": counting})
    return made


def render(source: str, *, made: DocumentEnvironment | None = None, **variables: Any) -> str:
    """The document of a template, as a worker makes it."""
    made = made or environment()
    return Document(made.from_string(source)).render({**made.globals, **RECORD, **variables})


RECORD: dict[str, Any] = {
    "text": "text",
    "row": {"name": "row", "__class__": "a key", "format": "{0.__class__}", "_key": "hidden", "mro": 1},
    "rows": [{"name": "a"}],
    "numbers": [1],
    "dunder": "__class__",
}

ATTACKS = [
    # the way up to `object` and down again, by every kind of look-up
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ ''['__class__'|safe] }}",
    "{{ ''[dunder] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__class__'|safe) }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ''|attr(['__', 'class', '__']|join) }}",
    "{{ [].__class__.__base__ }}",
    "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ {}.__class__.mro() }}",
    "{{ rows.__init_subclass__ }}",
    "{{ numbers.__reduce_ex__(2) }}",
    "{{ text.__doc__ }}",
    "{{ row|attr('__class__') }}",
    "{{ dict.mro() }}",
    "{{ dict.__subclasses__() }}",
    "{{ true.__class__ }}",
    "{{ none.__class__ }}",
    "{{ numbers|map(attribute='__class__')|first }}",
    "{{ numbers|map('attr', '__class__')|first }}",
    "{{ rows|map(attribute='name.__class__')|first }}",
    "{{ (numbers|groupby('__class__')|first).grouper }}",
    "{{ [1, 2]|sort(attribute='__class__.__name__') }}",
    "{{ [1, 2]|unique(attribute='__class__.__name__')|list }}",
    "{{ [1, 2]|max(attribute='__class__.__name__') }}",
    "{{ numbers|sum(attribute='__class__.__flags__') }}",
    "{{ numbers|selectattr('__class__')|list }}",
    "{{ numbers|rejectattr('__class__')|list }}",
    # what Jinja2 itself puts into every template
    "{{ lipsum.__globals__ }}",
    "{{ lipsum.__globals__['os'].getpid() }}",
    "{{ lipsum|attr('__globals__') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ cycler('a').__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace().__class__ }}",
    "{{ dict.__init__ }}",
    "{{ range.__class__ }}",
    "{{ range(1).__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% block b %}{{ self.b._context }}{% endblock %}",
    "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% for x in numbers %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in numbers %}{{ loop._iterator }}{% endfor %}",
    "{% macro m() %}{{ caller._func }}{% endmacro %}{% call m() %}{% endcall %}",
    # format strings that look things up themselves
    "{{ '{0.__class__}'.format(text) }}",
    "{{ '{x.__class__}'.format(x=text) }}",
    "{{ '{x.__class__}'.format_map({'x': text}) }}",
    "{{ '{0:{1.__class__.__itemsize__}}'.format(text, 1) }}",
    "{{ '{0.__globals__}'.format(helper) }}",
    "{{ ('{0.__class__}'|safe).format(text) }}",
    "{{ ('{x.__class__}'|safe).format_map({'x': text}) }}",
    "{{ '{0.__class__}'['format'](text) }}",
    "{{ ('{0.__class__}'|attr('format'))(text) }}",
    "{{ ('{x.__class__}'|attr('format_map'))({'x': text}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(text) }}",
    "{% set ns = namespace(f='{0.__class__}'.format) %}{{ ns.f(text) }}",
    "{{ {'f': '{0.__class__}'.format}.f(text) }}",
    "{{ ['{0.__class__}'.format][0](text) }}",
    "{{ '{0.__class__}'.format|run(text) }}",
    "{{ '{0.__class__}'|attr('format')|run(text) }}",
    "{{ ['{0.__class__}'.format]|map('run', text)|first }}",
    "{{ ['{0.__class__}']|map(attribute='format')|map('run', text)|first }}",
    "{{ ['{0.__class__}']|map('attr', 'format')|map('run', text)|first }}",
    "{{ row.format.format(text) }}",
    "{{ '%s'|format(text.__class__) }}",
    # what plug-ins give
    "{{ helper.__globals__ }}",
    "{{ helper.__code__ }}",
    "{{ helper['__globals__'] }}",
    "{{ thing._hidden }}",
    "{{ thing['_hidden'] }}",
    "{{ thing|attr('_hidden') }}",
    "{{ [thing]|map(attribute='_hidden')|first }}",
    "{{ thing.greet.__func__ }}",
    "{{ thing.greet.__self__.__class__ }}",
    "{{ thing.__dict__ }}",
    "{{ thing.delete() }}",
    "{{ thing['delete']() }}",
    "{{ counting().gi_frame }}",
    "{{ counting().gi_code }}",
    "{{ counting()|attr('gi_frame') }}",
    "{{ (numbers|map('string')).gi_frame.f_back }}",
    "{{ (numbers|select).gi_frame.f_globals }}",
]
"""Each gets at something in a template that is trusted."""

ELSEWHERE = [
    "{{ '{0[__class__]}'.format(text) }}",
    "{{ config }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ helper.func_globals }}",
    "{{ helper.func_code }}",
    "{{ thing.greet.im_func }}",
    "{{ environment }}",
    "{{ context }}",
    "{{ __builtins__ }}",
    "{{ resolve }}",
    "{{ missing }}",
    "{{ Markup }}",
    "{{ undefined }}",
]
"""Each gets at something in another framework, another Python, or but for a detail."""

HOLES = [
    "{{ str.format('{0.__class__}', text) }}",
    "{{ str['format']('{0.__globals__}', helper) }}",
    "{{ (str|attr('format'))('{0.__class__}', text) }}",
    "{{ [str]|map(attribute='format')|map('run', '{0.__class__}', text)|first }}",
    "{{ str.format_map('{x.__class__}', {'x': text}) }}",
    "{{ dict.update(row, {'name': 'changed'}) }}",
    "{{ dict['pop'].pop(row, 'name') }}",
    "{{ dict.clear(row) }}",
    "{{ dict.setdefault(row, 'new', 1) }}",
    "{{ cycler.reset(helper) }}",
    "{{ Thing.greet(text) }}",
    "{{ Thing['any'].greet(text) }}",
    "{{ Thing.width.fset(thing, 5) }}",
]
"""Each gets past the sandbox of Jinja2 3.1.6: a class's method is given an object that nobody checks."""


@pytest.mark.parametrize("source", ATTACKS + ELSEWHERE + HOLES)
def test_ways_out_are_refused(source):
    """The item fails, because the attribute is unsafe or because nothing of that name is there."""
    with pytest.raises((SecurityError, jinja2.UndefinedError)):
        render(source)


@pytest.mark.parametrize("source", ATTACKS + HOLES)
def test_the_ways_lead_out(source):
    """Without the sandbox, each of them works: what is refused above is refused by the sandbox."""
    render(source, made=environment(sandbox=False), row=dict(RECORD["row"]))
    helper.__dict__.clear()


@pytest.mark.parametrize("undefined", UNDEFINED)
@pytest.mark.parametrize("source", ATTACKS + ELSEWHERE + HOLES)
def test_nothing_leaks(source, undefined):
    """Whatever an undefined name may do in a job: neither document nor message holds what is out of reach."""
    try:
        shown = render(source, made=environment(undefined=undefined))
    except Exception as error:  # noqa: BLE001  (any error is a refusal)
        shown = str(error)
    assert [] == [leak for leak in LEAKS if leak in shown]


@pytest.mark.parametrize(
    ("make", "name"),
    [(awaited, "cr_frame"), (awaited, "cr_code"), (awaited_each, "ag_frame"), (awaited_each, "ag_code")],
)
def test_what_is_awaited_shows_no_frames(make, name):
    """Coroutines and asynchronous generators keep their frames and code to themselves."""
    one = make()
    with pytest.raises(SecurityError):
        render("{{ one[name] }}", one=one, name=name)
    if make is awaited:
        one.close()


@pytest.mark.parametrize("source", ["{{ row.__class__.__name__ }}", "{{ rows.format }}", "{{ row[''.__class__] }}"])
def test_keys_like_attributes(source):
    """A record's keys do not make attributes of the same name safer."""
    with pytest.raises((SecurityError, jinja2.UndefinedError)):
        render(source)


@pytest.mark.parametrize(
    "source", ["{{ text.__class__ }}", "{{ row.name.__class__ }}", "{{ thing._hidden }}/{{ text }}"]
)
def test_expressions_are_guarded(source):
    """Keys, paths and templates' names meet the same sandbox, by the short way, too."""
    made = expression_environment(JinjaOptions(sandbox=True))
    with pytest.raises(SecurityError):
        Expression(made, source)({**RECORD, "thing": Thing()})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ row.name }}{{ row['__class__'] }}{{ row._key }}{{ row.mro }}", "rowa keyhidden1"),
        ("{{ '{} {x.name} {0[name]}'.format(row, x=thing) }}", "{} thing row"),
        ("{{ thing.greet() }}{{ thing.name }}{{ thing.width }}{{ helper() }}", "hellothing1help"),
        ("{{ Thing.shout('a') }}{{ Thing.make().name }}{{ Thing.name }}", "Athingthing"),
        ("{{ dict(a=1) }}{{ dict.fromkeys('a', 1) }}{{ str(1) }}", "{'a': 1}{'a': 1}1"),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.reset() }}", "abNone"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
        ("{{ range(100000)|length }}", "100000"),
    ],
)
def test_what_templates_may_do(source, expected):
    """Items under any key, methods of objects, static and class methods, Jinja2's own helpers work as ever."""
    if "{}" in source:
        source, expected = source.replace("{} ", ""), expected.replace("{} ", "")
    assert expected == render(source)


CHANGES = [
    (["a"], "append(1)"),
    (["a"], "clear()"),
    ({"a": 1}, "update({'a': 2})"),
    ({"a": 1}, "pop('a')"),
    ({"a"}, "add(1)"),
    ({"a"}, "intersection_update([])"),
    (deque("ab"), "append(1)"),
    (deque("ab"), "appendleft(1)"),
    (deque("ab"), "extendleft([1])"),
    (deque("ab"), "popleft()"),
    (deque("ab"), "rotate(1)"),
    (OrderedDict(a=1, b=2), "move_to_end('a')"),
    (Counter(a=1), "subtract({'a': 1})"),
    (bytearray(b"ab"), "reverse()"),
]


@pytest.mark.parametrize(
    ("value", "call"), CHANGES, ids=lambda one: one if isinstance(one, str) else type(one).__name__
)
def test_data_cannot_be_changed(value, call):
    """No method changes what a plug-in or a constant shares among all items."""
    before = repr(value)
    with pytest.raises(SecurityError):
        render(f"{{{{ value.{call} }}}}", value=value)
    assert before == repr(value)


def test_a_name_of_a_template_is_not_run():
    """Braces and quotes in a template's name stay what they are in the code that is made of it."""
    for name in ("{helper.__globals__}", "{1/0}", "'+helper()+'", '"""{1/0}', "\\", "\n"):
        made = environment(sources={name: "{% from 'part' import nothing %}{{ nothing }}", "part": ""})
        with pytest.raises(jinja2.UndefinedError) as caught:
            Document(made.get_template(name)).render(dict(made.globals))
        assert SECRET not in str(caught.value)


def test_templates_stay_among_themselves():
    """No name leads out of the folders of the templates."""
    for name in ("../secret", "/../secret", "a/../../secret", "/etc/passwd", "..\\secret"):
        with pytest.raises(jinja2.TemplateNotFound):
            render("{% include name %}", name=name)


def test_long_ranges_are_refused():
    """A range of more than 100,000 numbers fails the item, also where it is never gone through."""
    with pytest.raises(OverflowError):
        render("{% for x in range(999999999) %}{% endfor %}")


# ---- whole jobs ------------------------------------------------------------------------------------------

PLUGIN = """
SECRET = "the secret of a plug-in's module"
def helper(): return "help"
GLOBALS = {"helper": helper, "str": str, "shared": {"a": [1]}}
FILTERS = {"run": lambda function, *arguments: function(*arguments)}
"""


def sandboxed_job(project: Project, templates: dict[str, str], records: list[dict[str, Any]], more: str = "") -> Job:
    """A job whose records choose from templates that nobody trusts."""
    project.write("plugin.py", PLUGIN)
    project.records(*records)
    for name, text in templates.items():
        project.write(f"templates/{name}", text)
    return Job.load(project.job(f"jinja: {{sandbox: true}}\nplugins: [plugin.py]\n{more}", template=templates["page"]))


def failed(job: Job) -> dict[str, str]:
    """The type of every failed item's error, by the item's path."""
    return {item.path: item.error.type for item in batch_generate(job.replace(workers=2)).failures if item.error}


def test_ways_out_fail_their_items_alone(project: Project) -> None:
    """In real workers, a template with an attack fails its item; the data that all share stays what it was."""
    attacks = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ helper.__globals__ }}",
        "{{ '{0.__globals__}'.format(helper) }}",
        "{{ '{0.__globals__}'.format|run(helper) }}",
        "{{ str.format('{0.__globals__}', helper) }}",
        "{{ dict.update(shared, {'a': 2}) }}",
        "{{ shared.a.append(2) }}",
    ]
    templates = {f"attack{number}": text for number, text in enumerate(attacks)}
    records = [{"name": name, "part": name} for name in templates] + [{"name": "well", "part": "fine"}]
    parts = {**templates, "fine": "{{ shared }}", "page": "{% include part %}"}
    assert {f"{name}.txt": "SecurityError" for name in templates} == failed(sandboxed_job(project, parts, records))
    assert {"well.txt": "{'a': [1]}"} == project.outputs()


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 9**n }}",
        "{{ n**n }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = (lipsum(n=99999999)) %}",
    ],
)
def test_bombs_fail_their_items_alone(project: Project, bomb: str) -> None:
    """What takes for ever ends with the item's time limit."""
    page = f"{{% if n %}}{bomb}{{% else %}}well{{% endif %}}"
    records = [{"name": "bomb", "n": 9**9}, *({"name": f"n{number}", "n": 0} for number in range(20))]
    job = sandboxed_job(project, {"page": page}, records, "limits: {timeout: 1s}")
    assert {"bomb.txt": "Timeout"} == failed(job)
    assert {f"n{number}.txt": "well" for number in range(20)} == project.outputs()


def test_a_bomb_that_goes_off_when_compiled(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja2 works out constants while it compiles: that has a limit, too, and ends the run with a clear error."""
    monkeypatch.setattr(chora_mp.watchdog, "START_SECONDS", 1.0)
    records = [{"name": f"n{number}"} for number in range(20)]
    job = sandboxed_job(project, {"page": "{{ 9**(9**9) }}"}, records, "limits: {timeout: 500ms}")
    with pytest.raises(TemplateError, match="loading the plug-ins and compiling the templates takes longer than 1 s"):
        failed(job)
    assert {} == project.outputs()
