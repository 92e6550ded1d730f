"""The compiler: Jinja2's own, emitting better code for what dictionaries, macros, loops and text allow.

`code_generator_class` is Jinja2's documented place for this. What is emitted gives the same documents, and Jinja2's own
tests pass with it (`tox -e jinja`); all that is not spelled out here is Jinja2's.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.idtracking import VAR_LOAD_PARAMETER, VAR_LOAD_RESOLVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.compiler import Frame, MacroRef

DICT_NAMES = frozenset(dir(dict))
"""Names that a plain dict answers as attributes; these, and only these, are looked up there first, as Jinja2 does."""

LOOP_NAMES = frozenset(("index", "index0", "first", "depth", "depth0", "previtem"))
"""What a template may ask of `loop` that runs nobody's code: what an iterable's raises, `getattr` may take."""

# Where code asks a context for nothing but the values of names.
_ASKS_FOR_NAMES = re.compile(
    r"def root\(context, missing=missing, environment=environment\):"
    r"|resolve = context\.resolve_or_missing\n"
    r"|= environment\.look_up\(context, "
)
_ASKS_MORE = re.compile(r"\bcontext\b")  # or is a text that says so: then the template gets a context for nothing

_TOGETHER = 3  # names; for fewer of them one call costs more than it saves

# Methods of built-in types, which want no context; of those that two types have, dict's.
_METHODS = {
    **{name: "str" for name in vars(str) if not name.startswith("_")},
    **dict.fromkeys(("append", "extend", "insert", "remove", "reverse", "sort"), "list"),
    **dict.fromkeys(("get", "items", "keys", "values"), "dict"),
}


class DocumentCode(CodeGenerator):
    """Emits code that lets text through, refuses bytes, and spares calls where a value is what it mostly is.

    - `row.name` on a plain dict is an item of it, looked up in place.
    - All text and values between two tags are joined and yielded once.
    - Text is tested for before `str` is called, which turns bytes into `b'…'`: the check for bytes is free.
    - The names of a frame are looked up together; a template that asks for nothing else is marked (`needs_names_only`).
    - A macro of the template's own, or an imported one, is called without asking what it wants to be passed; so are
      methods of text, lists and dicts, and what `loop` knows is read.

    A sandbox keeps Jinja2's own calls, which it guards; nothing here takes an attribute of anything but `loop`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._macros: set[str] = set()
        self._modules: set[str] = set()
        self._joins = getattr(self.environment, "joins", False) and not self.environment.is_async

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        self._macros = {macro.name for macro in node.find_all(nodes.Macro)} | {"caller"}
        for imported in node.find_all(nodes.FromImport):
            self._macros |= {name if isinstance(name, str) else name[1] for name in imported.names}
        self._modules = {imported.target for imported in node.find_all(nodes.Import)}
        super().visit_Template(node, frame)
        if isinstance(self.stream, StringIO) and not _ASKS_MORE.search(_ASKS_FOR_NAMES.sub("", self.stream.getvalue())):
            self.writeline("needs_names_only = True")

    def write_commons(self) -> None:
        self.writeline("_Macro = environment.Macro")
        super().write_commons()

    def enter_frame(self, frame: Frame) -> None:
        symbols, loads = frame.symbols, frame.symbols.loads
        names = {target: name for target, (action, name) in loads.items() if action == VAR_LOAD_RESOLVE}
        if len(names) < _TOGETHER or self.get_resolve_func() != "resolve":
            super().enter_frame(frame)
            return
        self.writeline(f"{', '.join(names)} = environment.look_up(context, {tuple(names.values())!r})")
        symbols.loads = {target: load for target, load in loads.items() if target not in names}
        super().enter_frame(frame)
        symbols.loads = loads

    # -- output

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        if self._make_finalize().src is None:
            node = nodes.Output([_with_else(child) for child in node.nodes], lineno=node.lineno)
        if frame.buffer is not None or not self._joins:  # a buffer gathers the pieces of its own accord
            super().visit_Output(node, frame)
        elif not frame.require_output_check:
            self._yield(node, frame)
        elif not self.has_known_extends:  # what stands outside of blocks goes nowhere if there is a parent
            self.writeline("if parent_template is None:")
            self.indent()
            self._yield(node, frame)
            self.outdent()

    def _yield(self, node: nodes.Output, frame: Frame) -> None:
        """Emit one `yield` for all pieces; each on a line of its own, by which an error finds its line."""
        pieces = list(self._pieces(node, frame))
        if len(pieces) == 1:
            self.writeline("yield ", _with_line(pieces[0]))
            self._piece(pieces[0], frame)
            return
        self.writeline("yield ''.join((")
        for piece in pieces:
            self.newline(_with_line(piece))
            self._piece(piece, frame)
            self.write(",")
        self.write("))")

    def _piece(self, piece: str | nodes.Expr, frame: Frame) -> None:
        """Emit text, or what makes text of an expression's value."""
        if isinstance(piece, str):
            self.write(repr(piece))
            return
        finalize = self._make_finalize()
        self._output_child_pre(piece, frame, finalize)
        self.visit(piece, frame)
        self._output_child_post(piece, frame, finalize)

    def _pieces(self, node: nodes.Output, frame: Frame) -> Iterator[str | nodes.Expr]:
        """Text, as long as it is, and expressions, in their order."""
        text: list[str] = []
        for child in node.nodes:
            known = self._known_text(child, frame)
            if known is not None:
                text.append(known)
                continue
            if text:
                yield "".join(text)
                text.clear()
            yield child
        if text:
            yield "".join(text)

    def _known_text(self, node: nodes.Expr, frame: Frame) -> str | None:
        """What an expression gives, where that is known now."""
        finalize = self._make_finalize()
        if finalize.const is None and not isinstance(node, nodes.TemplateData):
            return None  # the environment's own `finalize` wants a context
        try:
            return str(self._output_child_to_const(node, frame, finalize))
        except Exception:  # noqa: BLE001  (a filter's own; it is raised again where the document is rendered)
            return None

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:  # noqa: ARG002
        if frame.eval_ctx.volatile:
            self.write("(escape if context.eval_ctx.autoescape else str)(")
        elif frame.eval_ctx.autoescape:
            self.write("escape(")
        else:
            self.write("(")
        self.write("_t if type(_t := (")
        if finalize.src is not None:
            self.write(finalize.src)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:  # noqa: ARG002
        if finalize.src is not None:
            self.write(")")
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            self.write(")) is str else environment.no_bytes(_t))")
        else:
            self.write(")) is str else str(_t) if type(_t) is int or type(_t) is float else environment.text(_t))")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if isinstance(node.as_const(frame.eval_ctx), (bytes, bytearray)):
            raise nodes.Impossible  # not folded, so that it fails its items and not the whole job
        return super()._output_child_to_const(node, frame, finalize)

    # -- look-ups

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if not _varies(node) or self.environment.is_async or node.attr in DICT_NAMES:
            super().visit_Getattr(node, frame)
        elif self._is_loop(node.node, frame) and node.attr in LOOP_NAMES:
            loop = self._reference(node.node, frame)
            self.write(f"({loop}.{node.attr} if type({loop}) is LoopContext else environment.getattr")
            self.write(f"({loop}, {node.attr!r}))")
        else:
            self._look_up(node.node, node.attr, "getattr", frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        name = node.arg.value if isinstance(node.arg, nodes.Const) else None
        if not isinstance(name, str) or not _varies(node) or self.environment.is_async:
            super().visit_Getitem(node, frame)
        else:
            self._look_up(node.node, name, "getitem", frame)

    def _look_up(self, node: nodes.Expr, name: str, otherwise: str, frame: Frame) -> None:
        """Emit an item of a plain dict, or else what the environment makes of it."""
        key, reference = repr(name), self._reference(node, frame)
        value = reference or "_t"
        self.write(f"({value}[{key}] if type(")
        if reference:
            self.write(reference)
        else:
            self.write("_t := ")
            self.visit(node, frame)
        self.write(f") is dict and {key} in {value} else environment.{otherwise}({value}, {key}))")

    def _reference(self, node: nodes.Node, frame: Frame) -> str | None:
        """The variable that holds what a name stands for; None where it may hold nothing, or is no variable."""
        if not isinstance(node, nodes.Name):
            return None
        reference = frame.symbols.ref(node.name)
        load = frame.symbols.find_load(reference)
        known = load is not None and load[0] == VAR_LOAD_PARAMETER
        return reference if known and not self.parameter_is_undeclared(reference) else None

    def _is_loop(self, node: nodes.Node, frame: Frame) -> bool:
        return isinstance(node, nodes.Name) and node.name == "loop" and self._reference(node, frame) is not None

    # -- calls

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if self.environment.is_async or self.environment.sandboxed or forward_caller:
            super().visit_Call(node, frame, forward_caller=forward_caller)
        elif self._is_macro(node.node) and node.dyn_args is None and node.dyn_kwargs is None:
            self._call_macro(node, frame)
        elif (method := _method(node)) is not None:
            self._call_method(node, method, frame)
        else:
            super().visit_Call(node, frame)

    def _is_macro(self, node: nodes.Expr) -> bool:
        """Whether this is likely a macro."""
        if isinstance(node, nodes.Name):
            return node.name in self._macros
        return isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name in self._modules

    def _call_macro(self, node: nodes.Call, frame: Frame) -> None:
        """Emit a macro's call; it is told how to escape, as `context.call` would tell it."""
        self.write("(_t if type(_t := ")
        self.visit(node.node, frame)
        self.write(f") is _Macro else environment.calling(context, _t{self._own_names(frame)}))(context.eval_ctx")
        self.signature(node, frame)
        self.write(")")

    def _call_method(self, node: nodes.Call, method: nodes.Getattr, frame: Frame) -> None:
        """Emit a call of a built-in type's method."""
        self.write(f"(_t.{method.attr} if type(_t := ")
        self.visit(method.node, frame)
        self.write(f") is {_METHODS[method.attr]} else environment.calling_method(context, _t, {method.attr!r}")
        self.write(f"{self._own_names(frame)}))(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")")

    def _own_names(self, frame: Frame) -> str:
        """The names set in loops and blocks, for what wants to be passed a context."""
        names = {"_loop_vars": frame.loop_frame, "_block_vars": frame.block_frame}
        return "".join(f", {name}={name}" for name, there in names.items() if there)

    def macro_def(self, macro_ref: MacroRef, frame: Frame) -> None:
        self.write("environment.")  # its class of macros, not the one that the module imports
        super().macro_def(macro_ref, frame)


def _method(node: nodes.Call) -> nodes.Getattr | None:
    """What is called, where that is likely a method of a built-in type, with nothing but its arguments in order."""
    plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
    if plain and isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS and _varies(node):
        return node.node
    return None


def _with_line(piece: str | nodes.Expr) -> nodes.Expr | None:
    """What has a line to be told in an error: text cannot fail, and Jinja2 gives it none."""
    return None if isinstance(piece, str) else piece


def _with_else(node: nodes.Expr) -> nodes.Expr:
    """`x if y`, of which nothing is printed where y is false: without an undefined made for it each time."""
    if isinstance(node, nodes.CondExpr) and node.expr2 is None:
        return nodes.CondExpr(node.test, node.expr1, nodes.Const("", lineno=node.lineno), lineno=node.lineno)
    return node


def _varies(node: nodes.Node) -> bool:
    """Whether there is a name in an expression, so that no compiler could know its value."""
    return isinstance(node, nodes.Name) or node.find(nodes.Name) is not None
