"""What compiled templates work with, where it is quicker than Jinja2's own and gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2.nodes import EvalContext
from jinja2.runtime import Macro as StockMacro
from jinja2.utils import internalcode, missing, pass_eval_context
from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment


class Macro(StockMacro):
    """A macro whose arguments are sorted out once, and not at each call, where they are what they mostly are."""

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        special = self.catch_kwargs or self.catch_varargs or self.caller or self.explicit_caller
        self._most = -1 if special or environment.is_async else self._argument_count

    @internalcode
    @pass_eval_context
    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """The macro's text; the first argument says how to escape, if a template calls."""
        given = len(args) - 1
        if not 0 <= given <= self._most or type(args[0]) is not EvalContext:
            return super().__call__(*args, **kwargs)
        evaluation, *values = args
        if given < self._most or kwargs:
            rest = self.arguments[given:]
            if not kwargs.keys() <= set(rest):
                return super().__call__(*args, **kwargs)  # which says what is wrong
            values += [kwargs.get(name, missing) for name in rest]
        try:
            text = self._func(*values)
        except StopIteration:  # as whoever calls on behalf of a template takes it
            why = "value was undefined because a callable raised a StopIteration exception"
            return self._environment.undefined(why)  # type: ignore[return-value]
        return Markup(text) if evaluation.autoescape else text  # noqa: S704  (what a macro escapes, it has escaped)
