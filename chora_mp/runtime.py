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
    """A macro that sorts its arguments out only where they are not simply as many as it has names for."""

    __module__ = StockMacro.__module__  # messages of undefined names tell of the class

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        self._special = self.catch_kwargs or self.catch_varargs or self.caller

    @internalcode
    @pass_eval_context
    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """The macro's text; the first argument says how to escape, if a template calls."""
        if not args or type(args[0]) is not EvalContext or self._environment.is_async:
            return super().__call__(*args, **kwargs)
        evaluation, *values = args
        if kwargs or self._special or len(values) != self._argument_count:
            values = self._sorted(args, values, kwargs)
        try:
            text = self._func(*values)
        except StopIteration:  # as `Context.call` takes it, which templates come by otherwise
            why = "value was undefined because a callable raised a StopIteration exception"
            return self._environment.undefined(why)  # type: ignore[return-value]
        return Markup(text) if evaluation.autoescape else text  # noqa: S704  (what a macro escapes, it has escaped)

    def _sorted(self, args: tuple[Any, ...], values: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """What the macro's function is called with. Raises what Jinja2 raises for arguments that fit nowhere."""
        rest, count = dict(kwargs), self._argument_count
        names = self.arguments[len(values) :]
        found = values[:count] + [rest.pop(name, missing) for name in names]
        if self.caller and not ("caller" in names if names else self.explicit_caller):
            caller = rest.pop("caller", None)
            nobody = self._environment.undefined("No caller defined", name="caller")
            found.append(nobody if caller is None else caller)
        if (rest and not self.catch_kwargs) or (len(values) > count and not self.catch_varargs):
            super().__call__(*args, **kwargs)  # raises
        if self.catch_kwargs:
            found.append(rest)
        if self.catch_varargs:
            found.append(tuple(values[count:]))
        return found
