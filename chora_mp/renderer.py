"""The renderer: a bundle brought to life in a worker, with its plug-ins, expressions and compiled templates."""

from __future__ import annotations

import importlib
import marshal
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import jinja2

from chora_mp import failures
from chora_mp.bundle import plugin_folders
from chora_mp.environment import (
    Document,
    Expression,
    document_environment,
    expression_environment,
    normal_name,
    referenced,
)
from chora_mp.errors import TemplateError

if TYPE_CHECKING:
    from chora_mp.bundle import Bundle, Plugin
    from chora_mp.closures import Closure, Closures
    from chora_mp.environment import DocumentEnvironment
    from chora_mp.generation import Generation
    from chora_mp.sinks import FileSink, TextSink


class Renderer:
    """A bundle brought to life: the environments, the expressions, the plug-ins' functions and the templates."""

    def __init__(self, bundle: Bundle, code: dict[str, bytes], texts: str = "") -> None:
        """Load plug-ins and compile expressions. Raises `TemplateError` with every problem at once.

        `texts`: the folder with the texts that documents take from each other.
        """
        self.bundle = bundle
        self.files: FileSink | None = None
        self.texts: TextSink | None = None
        self.generators: dict[str, Any] = {}
        self.filters: dict[str, Any] = {}
        self.tests: dict[str, Any] = {}
        self.own_globals: dict[str, Any] = {}
        """What plug-ins bring along, by name."""
        self._code = code
        self._documents: dict[str, Document] = {}
        problems: list[str] = []
        folders = plugin_folders(bundle.plugins, bundle.folder)
        sys.path[:0] = [folder for folder in folders if folder not in sys.path]
        self._start_environments(problems)
        _forget_modules(bundle.imported)
        # Kept bytecode counts as fresh by size and whole seconds: an edit just after a run might go unnoticed.
        keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        for number, plugin in enumerate(bundle.plugins):
            self._add_plugin(number, plugin, problems)
        sys.dont_write_bytecode = keeps
        self.environment.globals.update(bundle.context)
        self.globals = dict(self.environment.globals)
        self._expressions.globals = self.environment.globals
        template = self._expression("template", bundle.template, problems)
        self.path = self._expression("output.path", bundle.path, problems)
        self.key = self._expression("key", bundle.key, problems)
        if problems or template is None:
            raise TemplateError(problems)
        self.template: Expression = template
        self._closures: Closures | None = None
        self.generation: Generation | None = None
        """What makes documents, where it is not the job's own Jinja2 template."""
        if bundle.generator != "jinja2":
            self.generation = self._generation(bundle.generator, texts)

    def _generation(self, name: str | None, texts: str) -> Generation:
        from chora_mp.generation import Generation  # noqa: PLC0415  (brings asyncio, which most jobs do without)

        generation = Generation(self, texts)
        if name is not None:
            try:
                generation.generator(name)
            except Exception as error:  # noqa: BLE001  (a package's own code)
                raise TemplateError([f"{self.bundle.labels['generator']}: {error or type(error).__name__}"]) from None
        return generation

    def closure(self, name: str) -> Closure:
        """All that the documents of the template `name` are made from."""
        from chora_mp.closures import Closures  # noqa: PLC0415  (only the worker that prepares needs it)

        self._closures = self._closures or Closures(self.bundle, self.environment)
        return self._closures.of(name)

    def document(self, name: str) -> Document:
        """The template of that name, compiled. Raises what compiling it raises."""
        found = self._documents.get(name)
        if found is None:
            found = self._documents[name] = Document(self.environment.get_template(name))
        return found

    def compile_reachable(self) -> dict[str, bytes]:
        """Marshalled code of every template that the job surely may reach, by name.

        A template chosen per record is not known yet: it is compiled where it is met, and if broken fails its items.
        Raises `TemplateError` with every syntax error, or where the job's template does not exist.
        """
        self._refuse_unknown_generators()
        name = self.template.constant
        if name is None:
            return self._code
        name = normal_name(name) if ".." not in name else name
        if name not in self.bundle.templates:
            where = self.bundle.labels["template"]
            near = failures.did_you_mean(name, self.bundle.templates)
            raise TemplateError([f"{where}: no template {name!r} in the template folders{near}"])
        if self.generation is not None:  # its templates need not be Jinja2's
            return self._code
        problems: list[str] = []
        todo, done = [name], {name}
        while todo:
            for reached in map(_normal, self._compile(todo.pop(), problems)):
                if reached in self.bundle.templates and reached not in done:
                    done.add(reached)
                    todo.append(reached)
        if problems:
            raise TemplateError(sorted(problems))
        return self._code

    def _refuse_unknown_generators(self) -> None:
        """Raise `TemplateError` where the job has options for generators that there are not."""
        if self.bundle.configured:
            from chora_mp.generation import Generation  # noqa: PLC0415  (as above)

            names = (self.generation or Generation(self, "")).names()
            unknown = [(name, where) for name, where in self.bundle.configured.items() if name not in names]
            if unknown:
                nears = ((where, failures.did_you_mean(name, names)) for name, where in unknown)
                raise TemplateError([f"{where}: no such generator{near}" for where, near in nears])

    def _compile(self, name: str, problems: list[str]) -> list[str | None]:
        """Compile one template; the names of those it refers to."""
        environment, loader = self.environment, self.environment.loader
        assert loader is not None  # noqa: S101
        path: str | None = self.bundle.templates[name][0]
        try:
            source, path, _ = loader.get_source(environment, name)
            tree = environment.parse(source, name, path)
            found = list(referenced(tree))  # before compiling, which rearranges the tree
            code = environment.compile(tree, name, path)
        except jinja2.TemplateSyntaxError as error:
            problems.append(failures.syntax_problem(error, path))
            return []
        except Exception as error:  # noqa: BLE001  (constant folding runs filters, an extension its own code)
            problems.append(f"{path}: {type(error).__name__}: {str(error) or 'no reason given'}")
            return []
        self._code[name] = marshal.dumps(code)
        return found

    def _start_environments(self, problems: list[str]) -> None:
        options, templates = self.bundle.jinja, self.bundle.templates
        try:
            self.environment: DocumentEnvironment = document_environment(options, templates, self._code)
            self._expressions: DocumentEnvironment = expression_environment(options)
        except Exception as error:  # noqa: BLE001  (extensions are foreign code)
            raise TemplateError([f"{self.bundle.labels['jinja.extensions']}: {error}", *problems]) from None
        # One set of filters and tests, whichever environment asks.
        self._expressions.filters = self.environment.filters
        self._expressions.tests = self.environment.tests

    def _add_plugin(self, number: int, plugin: Plugin, problems: list[str]) -> None:
        where = self.bundle.labels["plugins"]
        try:
            names = _run_plugin(number, plugin)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problems.append(f"{where}: {_plugin_error(plugin, error)}")
            return
        for kind, own, home in (
            ("FILTERS", self.filters, self.environment.filters),
            ("TESTS", self.tests, self.environment.tests),
            ("GLOBALS", self.own_globals, self.environment.globals),
            ("GENERATORS", self.generators, {}),
        ):
            given = names.get(kind, {})
            if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
                problems.append(f"{where}: {plugin.name}: {kind} is not a dictionary of names")
                continue
            own.update(given)
            home.update(given)
        if not any(kind in names for kind in ("FILTERS", "TESTS", "GLOBALS", "GENERATORS")):
            problems.append(f"{where}: {plugin.name} has none of FILTERS, TESTS, GLOBALS and GENERATORS")

    def expression(self, key: str, source: str | None) -> Expression | None:
        """An expression of the job's, compiled; None for none. Raises `TemplateError`."""
        problems: list[str] = []
        found = self._expression(key, source, problems)
        if problems:
            raise TemplateError(problems)
        return found

    def _expression(self, key: str, source: str | None, problems: list[str]) -> Expression | None:
        if source is None:
            return None
        try:
            return Expression(self._expressions, source)
        except jinja2.TemplateSyntaxError as error:
            problems.append(f"{self.bundle.labels[key]}: {error.message}")
        except Exception as error:  # noqa: BLE001  (constant folding runs filters)
            problems.append(f"{self.bundle.labels[key]}: {type(error).__name__}: {error}")
        return None


def _normal(name: str | None) -> str:
    """A referenced name as the bundle has it; nothing for one that is known only when rendering."""
    return "" if name is None or ".." in name else normal_name(name)


def _forget_modules(paths: tuple[str, ...]) -> None:
    """Have the modules in these files imported anew: a process that renders inline may have them as they were once."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and os.path.abspath(path) in paths and name != "__main__":
            del sys.modules[name]
    importlib.invalidate_caches()


def _run_plugin(number: int, plugin: Plugin) -> dict[str, Any]:
    """The names that a plug-in defines. Raises whatever it raises."""
    if plugin.path is None:
        return vars(importlib.import_module(plugin.name))
    module = types.ModuleType(failures.plugin_module_name(number, plugin.name))
    module.__file__ = plugin.path
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # noqa: S102  (what a plug-in is for)
    return module.__dict__


def _plugin_error(plugin: Plugin, error: BaseException) -> str:
    """`plugins.py:12: ValueError: …`: the innermost line of the plug-in itself."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == plugin.path else None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == plugin.path:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    place = os.path.basename(plugin.path) if plugin.path else plugin.name
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return failures.printable(f"{place}:{line}: " if line else f"{place}: ") + f"{type(error).__name__}: {message}"
