"""Generation: from a record to the call of a generator, in a worker; the texts that documents take from each other."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp import generators
from chora_mp.closures import ANY_TEMPLATE, NO_TEMPLATE
from chora_mp.environment import Document, autoescape_by_name
from chora_mp.failures import did_you_mean, failure_of
from chora_mp.generators import Generated, GenerationError, Generator, about, generator_of
from chora_mp.records import BadRecord, NoRecordError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from chora_mp.renderer import Renderer

_INLINE_MARKS = ("{{", "{%", "{#", "\n")
_MOST_INLINE = 256  # compiled templates that are kept, of those that stand in configs


class NeedFailed(Exception):  # noqa: N818  (the name is what people read: `NeedFailed: needs 'intro', which failed`)
    """A config whose text is needed has none."""


class UnknownGenerator(GenerationError):  # noqa: N818  (as above)
    """There is no generator of that name."""


class Call(NamedTuple):
    """What a record asks for: a generator, and what it is called with. `text`: the name that others need it by."""

    generator: Generator
    spec: Mapping[str, Any]
    context: dict[str, Any]
    text: str | None = None


def plain_call(document: Document, variables: dict[str, Any]) -> Call:
    """The call of a job's own Jinja2 template."""
    return Call(Generator("jinja2", lambda _, names: document.render(dict(names))), {}, variables)


class Compared(NamedTuple):
    """One record's document as two engines make it, or what they failed with, and the seconds that each took."""

    text: str
    other: str
    seconds: float
    other_seconds: float


class Listed(NamedTuple):
    """A generator as a person sees it; `source`: the package that it comes from."""

    name: str
    lane: str
    concurrent: bool
    source: str
    about: str


def listed() -> list[Listed]:
    """The generators that are built in or installed; one that cannot be imported says why."""
    return [*map(_built_in, sorted(generators.built_in())), *map(_installed, sorted(generators.installed()))]


def _built_in(name: str) -> Listed:
    if name == "jinja2":
        return Listed(name, "processes", True, "chora-mp", about(Generation._jinja2))  # noqa: SLF001
    module = import_module(f"chora_mp.generators.{name}")
    found = generator_of(name, module.generate)
    return Listed(name, found.lane, found.concurrent, "chora-mp", found.about)


def _installed(name: str) -> Listed:
    entry = generators.installed()[name]
    source = entry.dist.name if entry.dist is not None else entry.value
    try:
        found = generator_of(name, entry.load())
    except Exception as error:  # noqa: BLE001  (a package's own code)
        return Listed(name, "-", False, source, f"cannot be used: {type(error).__name__}: {error}")
    return Listed(name, found.lane, found.concurrent, source, found.about)


class Generation:
    """The generators of a renderer: those that are built in, of plug-ins and of installed packages."""

    def __init__(self, renderer: Renderer, texts: str) -> None:
        """`texts`: the folder with the texts that documents take from each other."""
        self._renderer = renderer
        self._bundle = renderer.bundle
        self._texts = texts
        self._found: dict[str, Generator] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inline = functools.lru_cache(_MOST_INLINE)(self._compile)
        self._sources: dict[str, str] = {}

    def names(self) -> list[str]:
        """Every generator that there is."""
        return sorted({*generators.built_in(), *self._renderer.generators, *generators.installed()})

    def generator(self, name: str) -> Generator:
        """The generator of that name. Raises `UnknownGenerator`, and what importing it raises."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._load(generators.proper_name(name))
        return found

    def _load(self, name: str) -> Generator:
        if name in self._renderer.generators:
            return generator_of(name, self._renderer.generators[name])
        if name == "jinja2":
            return Generator(name, self._jinja2)
        if name == "minijinja":
            return self._minijinja()
        if name in generators.built_in():
            return generator_of(name, import_module(f"chora_mp.generators.{name}").generate)
        if name in generators.installed():
            return generator_of(name, generators.installed()[name].load())
        raise UnknownGenerator(f"unknown generator {name!r}{did_you_mean(name, self.names())}")

    def compare(self, engine: str, variables: dict[str, Any], record: dict[str, Any], template: str) -> Compared:
        """A record through the job's own Jinja2 template and through another engine."""
        constants = self._bundle.context
        spec = {"id": "", "name": template, "template": self._source(template), "generation_config": {}}
        call = Call(self.generator(engine), spec, {**constants, **record})
        document = self._renderer.document(template)
        one = _timed(lambda: document.render(variables))
        other = _timed(lambda: self.run(call))
        return Compared(one[0], other[0], one[1], other[1])

    def call(self, record: dict[str, Any], key: str, template: str) -> Call:
        """What a record asks for; `template`: that of its job. Raises what is wrong with it."""
        constants = self._bundle.context
        if self._bundle.generator is not None:
            spec = {"id": key, "name": template, "template": self._source(template), "generation_config": {}}
            return Call(self.generator(self._bundle.generator), spec, {**constants, **record})
        text = record.get("text")
        if text is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._texts, text))  # what was made of other data is nobody's text any more
        if "problem" in record:
            raise NoRecordError(BadRecord(record["problem"]["type"], record["problem"]["message"]))
        context = {**constants, **record["context"]}
        for name, (needed, stored) in record.get("needs", {}).items():
            context[name] = self._text(needed, stored)
        return Call(self.generator(record["generator"]), record["spec"], context, text)

    def run(self, call: Call) -> str | Generated:
        """What the generator gives, waited for where it is `async`. Raises what it raises."""
        made = call.generator.function(call.spec, call.context)
        if not inspect.isawaitable(made):
            return made
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(awaited(made))

    def close(self) -> None:
        """End what generators have left open on the event loop."""
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._loop = None

    def keep(self, name: str, data: bytes) -> None:
        """Keep a text that others need. Raises `OSError`."""
        path = os.path.join(self._texts, name)
        os.makedirs(self._texts, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _text(self, needed: str, stored: str) -> str:
        try:
            with open(os.path.join(self._texts, stored), encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            raise NeedFailed(f"needs {needed!r}, which failed") from None

    def _source(self, template: str) -> str:
        """The text of the job's template. Raises `jinja2.TemplateNotFound`, `jinja2.TemplateSyntaxError`."""
        if template not in self._sources:
            environment = self._renderer.environment
            assert environment.loader is not None  # noqa: S101
            self._sources[template] = environment.loader.get_source(environment, template)[0]
        return self._sources[template]

    def _minijinja(self) -> Generator:
        from chora_mp.generators.minijinja import generator_for  # noqa: PLC0415

        bundle, spaces = self._bundle, (self._renderer.filters, self._renderer.tests, self._renderer.own_globals)
        return generator_for(bundle.jinja, bundle.templates, spaces, autoescape_by_name)

    # -- the generator `jinja2`

    def _jinja2(self, spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
        """A Jinja2 template: a file of the job's, or the text in a content config."""
        template = spec.get("template")
        if not isinstance(template, str) or not template:
            raise GenerationError("the pattern has no template; name a file, or write the template itself")
        document = self._renderer.document(template) if self._is_file(template) else self._inline(template)
        return document.render({**self._renderer.globals, **context})

    def _is_file(self, template: str) -> bool:
        return is_file(template, self._bundle.templates)

    def _compile(self, text: str) -> Document:
        return Document(self._renderer.environment.from_string(text))


def _timed(render: Callable[[], str | Generated]) -> tuple[str, float]:
    """The text, or what failed, and the seconds that it took."""
    started = time.perf_counter()
    try:
        made = render()
    except Exception as error:  # noqa: BLE001  (templates and what they call may raise anything)
        failure = failure_of(error)
        made = f"{failure.type}: {failure.message}"
    return made if isinstance(made, str) else made.text, time.perf_counter() - started


async def awaited(made: Awaitable[str | Generated]) -> str | Generated:
    """What an awaitable gives, as a coroutine, which is what event loops run."""
    return await made


def is_file(template: str, templates: Mapping[str, object]) -> bool:
    """Whether a config's template is the name of a file, and not the template itself."""
    return template in templates or not any(mark in template for mark in _INLINE_MARKS)


def closure_of(record: Mapping[str, Any], templates: Mapping[str, object]) -> str:
    """What a content record's document is made from besides itself: a template's name, nothing, or anything.

    What needs other documents, and what loads templates from inside a config, may come from any template.
    """
    template = record.get("template")
    if record.get("needs"):
        return ANY_TEMPLATE
    if template is None:
        return NO_TEMPLATE
    if is_file(template, templates):
        return str(template)
    return ANY_TEMPLATE if any(word in template for word in ("include", "import", "extends")) else NO_TEMPLATE
