"""Jinja2 environments: stock behaviour with a faster look-up, and the one that renders a bundle's templates."""

from __future__ import annotations

import datetime
import decimal
import functools
import marshal
import operator
import types
from collections import deque
from collections.abc import MutableMapping, MutableSet
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

import jinja2
from jinja2 import nodes
from jinja2.loaders import split_template_path
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.sandbox import SandboxedEnvironment as StockSandboxedEnvironment
from jinja2.utils import missing

from chora_mp.compiler import DICT_NAMES, DocumentCode
from chora_mp.filters import FILTERS
from chora_mp.runtime import Macro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import CodeType

    from chora_mp.job import JinjaOptions

# Jinja2's own list for `select_autoescape`, and two more dialects of XML that browsers run scripts from.
_ESCAPED = ("html", "htm", "xml", "xhtml", "svg")

_new = object.__new__
_getter = functools.cache(operator.itemgetter)

# Methods that change what they are called on, and that Jinja2's own list for the sandbox leaves out.
_CHANGING = frozenset(
    ("intersection_update", "appendleft", "extendleft", "popleft", "rotate", "move_to_end", "subtract")
)

_PLAIN = {str, bytes, int, float, bool, datetime.date, datetime.datetime, datetime.time, decimal.Decimal}

UNDEFINED: dict[str, type[jinja2.Undefined]] = {
    "strict": jinja2.StrictUndefined,
    "default": jinja2.Undefined,
    "chainable": jinja2.ChainableUndefined,
    "debug": jinja2.DebugUndefined,
}


class _DictFirst(jinja2.Environment):
    """`{{ row.name }}` on a plain dict goes straight to the item.

    Stock Jinja2 asks for the attribute first, and for a dict that means an `AttributeError` raised and caught for every
    look-up. For names that dict itself has (`items`, `get`, `__class__`) and for every other type, subclasses of dict
    included, nothing changes. The sandbox may take the same way: it guards attributes, and an item is none.
    """

    _misses: tuple[type[Exception], ...] = (TypeError, LookupError, AttributeError)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`, or `obj["attribute"]`, or an undefined: the same value as stock Jinja2's, sooner."""
        if type(obj) is dict and type(attribute) is str and attribute not in DICT_NAMES:
            try:
                return obj[attribute]
            except self._misses:  # a key's own comparison may raise more than KeyError
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


class Environment(_DictFirst):
    """Stands in for `jinja2.Environment` anywhere: the same results, faster on templates that read dictionaries."""


class SandboxedEnvironment(_DictFirst, StockSandboxedEnvironment):
    """Stands in for `jinja2.sandbox.SandboxedEnvironment` anywhere."""

    _misses = (TypeError, LookupError)  # stock differs here


class DocumentEnvironment(Environment):
    """The environment that documents are rendered in: bytes in the output are an error, not `b'…'`."""

    code_generator_class = DocumentCode
    joins = True
    """Whether text between two tags comes in one piece, which only who streams a template could tell."""
    Macro = Macro

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, (stock, faster) in FILTERS.items():
            if self.filters.get(name) is stock:  # and not an extension's
                self.filters[name] = faster

    @staticmethod
    def calling(context: Context, called: Any, **own: dict[str, Any]) -> Callable[..., Any]:
        """What calls anything that stands in a macro's place; its first argument is for macros only."""

        def call(_: EvalContext, /, *arguments: Any, **named: Any) -> Any:
            return context.call(called, *arguments, **named, **own)

        return call

    def calling_method(self, context: Context, holder: Any, name: str, **own: dict[str, Any]) -> Callable[..., Any]:
        """What calls the attribute of an object, whatever that is."""
        return functools.partial(context.call, self.getattr(holder, name), **own)

    @staticmethod
    def look_up(context: Context, names: tuple[str, ...]) -> tuple[Any, ...]:
        """The values of two names or more, as the context resolves them; in one step where all are there."""
        if not context.vars:
            try:
                found: tuple[Any, ...] = _getter(*names)(context.parent)
                return found
            except KeyError:
                pass
        return tuple(map(context.resolve_or_missing, names))

    @staticmethod
    def no_bytes(value: Any) -> Any:
        """`value` itself. Raises `TypeError` for bytes."""
        if isinstance(value, (bytes, bytearray)):
            raise TypeError(f"the output would hold bytes, not text (found {bytes(value[:40])!r}); decode them first")
        return value

    def text(self, value: Any) -> str:
        """`value` as text. Raises `TypeError` for bytes."""
        return str(self.no_bytes(value))


class SandboxedDocumentEnvironment(DocumentEnvironment, ImmutableSandboxedEnvironment):
    """The same for templates one does not trust: no access to internals, no change of the data they are given."""

    _misses = SandboxedEnvironment._misses  # noqa: SLF001

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have `value`, the attribute `attr` of `obj`; stricter than Jinja2's own sandbox."""
        if _takes_any_object(obj, attr, value):
            return False
        if attr in _CHANGING and isinstance(obj, (MutableSet, MutableMapping, deque)):
            return False
        return super().is_safe_attribute(obj, attr, value)


def _takes_any_object(holder: Any, name: str, value: Any) -> bool:
    """Whether an attribute, of a class or of what stands for one (`dict['x']`), is a method without its object.

    It goes round all checks on that object: `dict.update(record, …)` changes it, `str.format('{0.__class__}', x)` shows
    internals, and `cycler.reset(x)` sets an attribute of anything.
    """
    if isinstance(value, types.FunctionType):
        kind = get_origin(holder) or holder
        return isinstance(kind, type) and not isinstance(getattr_static(kind, name, None), staticmethod)
    return isinstance(value, (types.MethodDescriptorType, property))


class _SnapshotLoader(jinja2.BaseLoader):
    """Loads templates from a bundle's snapshot; compiled ones are run as they are."""

    def __init__(self, sources: Mapping[str, tuple[str, bytes]], code: Mapping[str, bytes]) -> None:
        self._sources = sources
        self._code = code

    def get_source(
        self,
        environment: jinja2.Environment,  # noqa: ARG002
        template: str,
    ) -> tuple[str, str, Callable[[], bool]]:
        found = self._sources.get(normal_name(template))
        if found is None:
            raise jinja2.TemplateNotFound(template)
        path, source = found
        try:
            return source.decode(), path, lambda: True
        except UnicodeDecodeError as error:
            raise jinja2.TemplateSyntaxError(
                f"the file is not UTF-8 (byte {error.start}: {error.reason})",
                source.count(b"\n", 0, error.start) + 1,
                template,
                path,
            ) from None

    def load(
        self,
        environment: jinja2.Environment,
        name: str,
        globals: MutableMapping[str, Any] | None = None,  # noqa: A002
    ) -> jinja2.Template:
        compiled = self._code.get(name)
        if compiled is None:
            return super().load(environment, name, globals)
        code: CodeType = marshal.loads(compiled)
        return environment.template_class.from_code(environment, code, {} if globals is None else globals)

    def list_templates(self) -> list[str]:
        return sorted(self._sources)


def normal_name(name: str) -> str:
    """A template's name without `./`, `//` and a leading `/`, as Jinja2's own loaders take it.

    Raises `jinja2.TemplateNotFound` for a name with `..`.
    """
    return "/".join(split_template_path(name))


@functools.cache
def autoescape_by_name(name: str | None) -> bool:
    """Whether a template's output is escaped: by its extension, under a final `.j2`, `.jinja` or `.jinja2`."""
    if name is None:
        return False
    stem, dot, extension = name.lower().rpartition(".")
    if extension in ("j2", "jinja", "jinja2"):
        _, dot, extension = stem.rpartition(".")
    return bool(dot) and extension in _ESCAPED


def document_environment(
    options: JinjaOptions, sources: Mapping[str, tuple[str, bytes]], code: Mapping[str, bytes]
) -> DocumentEnvironment:
    """The environment of a job's templates.

    `sources` maps a template's name to its path and bytes, `code` to its marshalled code where it is compiled.
    Raises what Jinja2 raises for an extension that cannot be imported.
    """
    return _class(options)(
        loader=_SnapshotLoader(sources, code),
        undefined=UNDEFINED[options.undefined],
        autoescape=autoescape_by_name if options.autoescape == "auto" else options.autoescape,
        extensions=options.extensions,
        auto_reload=False,
        cache_size=-1,
        **options.extra,
    )


def expression_environment(options: JinjaOptions) -> DocumentEnvironment:
    """The environment of key, path and template expressions: Jinja2's own syntax, always strict, never escaped."""
    return _class(options)(undefined=jinja2.StrictUndefined, extensions=options.extensions)


def _class(options: JinjaOptions) -> type[DocumentEnvironment]:
    return SandboxedDocumentEnvironment if options.sandbox else DocumentEnvironment


class Document:
    """A template ready to render records: one call, no copy of the globals through Jinja2's chained maps."""

    __slots__ = ("_blocks", "_evaluation", "_fields", "_names_only", "_render", "template")

    def __init__(self, template: jinja2.Template) -> None:
        self.template = template
        self._render = template.root_render_func
        self._names_only = "needs_names_only" in self._render.__globals__
        self._blocks = template.blocks
        model = Context(template.environment, {}, template.name, template.blocks)
        self._fields, self._evaluation = vars(model), vars(model.eval_ctx)

    def render(self, variables: dict[str, Any]) -> str:
        """The document for `variables`, which hold globals, constants and the record's names, in rising order."""
        if self._names_only:
            return "".join(self._render(_Names(variables)))  # type: ignore[arg-type]  # as much of a context as it needs
        # A copy of a context that was made once, with all that a template may change made anew: half the time.
        context, evaluation = _new(Context), _new(EvalContext)
        evaluation.__dict__.update(self._evaluation)
        context.__dict__.update(self._fields)
        context.parent, context.vars, context.exported_vars = variables, {}, set()
        context.eval_ctx = evaluation
        context.blocks = {name: [block] for name, block in self._blocks.items()} if self._blocks else {}
        try:
            return "".join(self._render(context))
        finally:
            # A macro holds its context and the context its macros: the record is to go now, not when Python looks for
            # garbage, or hundreds of them are kept.
            context.parent, context.vars = {}, {}


class _Names:
    """As much of a context as a template needs that wants nothing but the values of names."""

    __slots__ = ("parent",)

    vars: ClassVar[dict[str, Any]] = {}

    def __init__(self, variables: dict[str, Any]) -> None:
        self.parent = variables

    def resolve_or_missing(self, name: str) -> Any:
        """The value of a name, or what stands for none."""
        return self.parent.get(name, missing)


class Expression:
    """A key, path or template expression, compiled.

    Names, look-ups and plain text, which is what nearly all of them are, become a few Python calls; anything more is
    an ordinary template. `constant` is the text of an expression that looks nothing up. `names` are those that it needs
    of a record, as far as `fill` goes.
    """

    __slots__ = ("_document", "_environment", "_parts", "constant", "fill", "names")

    def __init__(self, environment: DocumentEnvironment, source: str) -> None:
        """Compile `source`. Raises `jinja2.TemplateSyntaxError`."""
        self._environment = environment
        self._document = Document(environment.from_string(source))
        self._parts = _simple_parts(environment.parse(source))
        self.fill = _filler(self._parts)
        self.names = frozenset(part[0] for part in self._parts or () if not isinstance(part, str))
        self.constant: str | None = None
        if self._parts is not None and all(isinstance(part, str) for part in self._parts):
            self.constant = "".join(part for part in self._parts if isinstance(part, str))

    def is_pure(self, others: Mapping[str, Any]) -> bool:
        """Whether evaluating it twice gives the same, as far as that can be told.

        Filters and functions may count, draw lots or ask the clock, and so may objects among `others`, the names that
        do not come from the record.
        """
        if self._parts is None:
            return False
        names = (part[0] for part in self._parts if not isinstance(part, str))
        return all(_is_plain(others.get(name)) for name in names)

    def of_record(self, record: dict[str, Any], others: dict[str, Any]) -> str:
        """The expression's text for a record's names over `others`: soonest where it needs only texts of the record."""
        return self.filled(record) or self({**others, **record})

    def filled(self, variables: dict[str, Any]) -> str:
        """The text, where all that goes into it is text that is there; else none, and the longer way tells."""
        try:
            return self.fill(variables)
        except (KeyError, TypeError):  # a number, or a name that is not there
            return ""

    def __call__(self, variables: dict[str, Any]) -> str:
        """The expression's text. Raises whatever the look-ups and filters in it raise."""
        if text := self.filled(variables):
            return text
        if self._parts is None:
            return self._document.render(variables)
        texts = []
        for part in self._parts:
            if part.__class__ is str:
                texts.append(part)
            else:
                value = self._look_up(part, variables)
                texts.append(value if value.__class__ is str else self._environment.text(value))
        return "".join(texts)

    def _look_up(self, names: Any, variables: dict[str, Any]) -> Any:
        first = names[0]
        value = variables[first] if first in variables else self._environment.undefined(name=first)
        for name in names[1:]:
            value = self._environment.getattr(value, name)
        return value


def _is_plain(value: Any) -> bool:
    """Whether a value is data all the way down."""
    if isinstance(value, dict):
        return type(value) is dict and all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in _PLAIN


def _simple_parts(tree: nodes.Template) -> list[str | tuple[str, ...]] | None:
    """The text and dotted names that an expression consists of; None where there is anything else in it."""
    parts: list[str | tuple[str, ...]] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            part = node.data if isinstance(node, nodes.TemplateData) else _dotted(node)
            if part is None:
                return None
            parts.append(part)
    return parts


def _filler(parts: list[str | tuple[str, ...]] | None) -> Callable[[dict[str, Any]], str]:
    """What joins text and the values of names, in one expression of Python; raises `TypeError` for all that takes more.

    Raises `KeyError` for a name that is not there, `TypeError` for a value that is no text.
    """
    if parts is None or not all(isinstance(part, str) or len(part) == 1 for part in parts):
        return _takes_more
    pieces = (repr(part) if isinstance(part, str) else f"names[{part[0]!r}]" for part in parts)
    made: Callable[[dict[str, Any]], str] = eval(f"lambda names: ''.join(({''.join(f'{one}, ' for one in pieces)}))")  # noqa: S307  (texts and names as Python spells them)
    return made


def _takes_more(variables: dict[str, Any]) -> str:  # noqa: ARG001
    raise TypeError


def _dotted(node: nodes.Node) -> tuple[str, ...] | None:
    """`a.b.c` as its names; None for any other expression."""
    names: list[str] = []
    while isinstance(node, nodes.Getattr):
        names.insert(0, node.attr)
        node = node.node
    # `self` is no name of the record to Jinja2, but the template.
    return (node.name, *names) if isinstance(node, nodes.Name) and node.name != "self" else None


def referenced(tree: nodes.Template) -> Iterable[str | None]:
    """The templates that a parsed template extends, includes or imports; None for a name known only when rendering."""
    from jinja2.meta import find_referenced_templates  # noqa: PLC0415  (only the worker that prepares needs it)

    return find_referenced_templates(tree)
