"""The generator `template_fill`: a text in the config, with placeholders that the context fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chora_mp.generators import GenerationError
from chora_mp.generators.placeholders import fill, found, settings_of, undefined_behavior

if TYPE_CHECKING:
    from collections.abc import Mapping


def generate(spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    r"""Fill the placeholders of a template that stands in the config.

    `undefined_behavior` says what becomes of a name without a value: `error` (as usual), `keep` or `empty`. Unless
    `escape_sequences` is false, `\n`, `\t`, `\r`, `\\`, `\'` and `\"` in the template become what they stand for.
    Values are left alone, otherwise than in chora-compose, where the value `C:\new` lost its backslash to a line
    break. Raises `GenerationError`.
    """
    template = spec.get("template")
    if not isinstance(template, str) or not template:
        raise GenerationError(f"template: must be text (found {found(template)}); write the text to be filled")
    settings = settings_of(spec)
    return fill(template, context, undefined_behavior(settings), escapes=_escapes(settings))


def _escapes(settings: Mapping[str, Any]) -> bool:
    value = settings.get("escape_sequences")
    if value is None or isinstance(value, bool):
        return value is not False
    raise GenerationError(f"escape_sequences: must be true or false (found {found(value)}); write one of these")
