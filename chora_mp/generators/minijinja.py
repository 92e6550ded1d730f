"""The generator `minijinja`: the same templates through MiniJinja, which is written in Rust and knows less of Jinja2.

It prints some values otherwise (1e20 with all its zeros), and some filters and all extensions are not there. So it is
for templates that `chora-mp check --engine minijinja` finds to agree, byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chora_mp.generators import GenerationError, Generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chora_mp.job import JinjaOptions

_UNDEFINED = {"strict": "strict", "default": "lenient", "chainable": "chainable", "debug": "lenient"}
_OPTIONS = (
    "block_start_string", "block_end_string", "variable_start_string", "variable_end_string", "comment_start_string",
    "comment_end_string", "line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks",
    "keep_trailing_newline",
)  # fmt: skip


def generate(spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """A Jinja2 template, through MiniJinja (in Rust): faster for some templates, if they stay inside its language."""
    return str(_module().Environment(undefined_behavior="strict").render_str(spec["template"], **context))


def generator_for(
    options: JinjaOptions,
    templates: Mapping[str, tuple[str, bytes]],
    spaces: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]],
    escapes: Callable[[str | None], bool],
) -> Generator:
    """The generator for a job's templates, by name their path and bytes.

    `spaces`: filters, tests and globals of the job's own. `escapes`: whether a template's output is escaped. Raises
    `GenerationError` for options that MiniJinja does not have.
    """
    if options.extensions:
        raise GenerationError(
            f"minijinja has no extensions (found {options.extensions[0]}); leave out jinja.extensions"
        )
    if options.sandbox:
        raise GenerationError("minijinja has no sandbox of ours; leave out jinja.sandbox")
    module = _module()
    given = {name: value for name, value in options.extra.items() if name in _OPTIONS}
    auto = options.autoescape
    environment = module.Environment(
        loader=lambda name: templates[name][1].decode() if name in templates else None,
        undefined_behavior=_UNDEFINED[options.undefined],
        auto_escape_callback=escapes if auto == "auto" else lambda _: auto,
        pycompat=True,
        **given,
    )
    environment.reload_before_render = False
    for add, space in zip((environment.add_filter, environment.add_test, environment.add_global), spaces, strict=True):
        for name, value in space.items():
            add(name, value)

    def render(spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
        name = spec.get("name") or spec["template"]
        try:
            if name in templates:
                return str(environment.render_template(name, **context))
            return str(environment.render_str(spec["template"], **context))
        except module.TemplateError as error:
            place = f"{error.name}:{error.line}: " if getattr(error, "line", None) else ""
            raise GenerationError(f"{place}{error.message}") from None

    return Generator("minijinja", render)


def _module() -> Any:
    try:
        import minijinja  # noqa: PLC0415  (an extra)
    except ImportError:
        raise GenerationError("minijinja is not installed; install chora-mp[rust]") from None
    return minijinja
