"""The item: a record on its way to a document."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import jinja2

from chora_mp import failures
from chora_mp.records import Failure, NoRecordError
from chora_mp.sinks import is_sound

if TYPE_CHECKING:
    from chora_mp.generation import Call
    from chora_mp.generators import Generated
    from chora_mp.records import Usage
    from chora_mp.renderer import Renderer

    Entry = tuple[int | None, bytes]
    """Line and bytes of a record."""

LONGEST_KEY = 1024
"""Characters of a key."""


class LateError(Exception):
    """An item took longer than it may, and was cancelled."""


class ClosedError(Exception):
    """The gate is closed: the item is not begun."""


class Item:
    """A record on its way to a document; `doing` is the step that an error would belong to.

    From `line` of the source and its bytes, `raw`, to the document's bytes, `data`; or it has `failed` with an `error`.
    `wanted`: whether it is asked for. `since`: when it was begun, in seconds on the monotonic clock, later by what it
    has waited in between; `seconds`: what it has taken when it is set aside.
    """

    __slots__ = (
        "call",
        "data",
        "doing",
        "error",
        "failed",
        "key",
        "line",
        "path",
        "raw",
        "record",
        "renderer",
        "seconds",
        "seq",
        "since",
        "template",
        "usage",
        "variables",
        "wanted",
    )

    def __init__(self, renderer: Renderer, seq: int, entry: Entry, since: float) -> None:
        self.renderer = renderer
        self.seq = seq
        self.line, self.raw = entry
        self.since = since
        self.seconds = 0.0
        self.record: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        self.call: Any = None  # a `Call`, once it is asked for
        self.usage: Usage = ()
        self.key = self.path = self.template = ""
        self.doing = "output.path"
        self.data = b""
        self.wanted = True
        self.error: BaseException | None = None
        self.failed: Failure | None = None

    def let_go(self) -> None:
        """Make room for the next one, in memory that is still in the CPU's caches."""
        self.record, self.variables, self.raw, self.data, self.call, self.error = {}, {}, b"", b"", None, None

    def open(self, record: dict[str, Any]) -> None:
        """Merge globals, constants and the record, and evaluate the key, which is the path where the job has none."""
        renderer = self.renderer
        self.record = record
        self.variables = {**renderer.globals, **record}
        if renderer.key is None:
            path = self.place()
            self.key = path if is_sound(path) else ""  # what leads nowhere is no key
            return
        self.doing = "key"
        self.key = renderer.key(self.variables)
        if len(self.key) > LONGEST_KEY:
            raise ValueError(f"the key is over {LONGEST_KEY} characters long (found {self.key[:40] + '…'!r})")

    def place(self) -> str:
        """Evaluate the output path."""
        if self.renderer.path and not self.path:
            self.doing = "output.path"
            self.path = self.renderer.path(self.variables)
        return self.path

    def render(self) -> bytes:
        """The document, encoded."""
        self.place()
        self.doing, renderer = "template", self.renderer
        name = self.template = renderer.template.constant or renderer.template(self.variables)
        if renderer.generation is not None:
            return self.accept(renderer.generation.run(self.ask()))
        document = renderer.document(name)
        self.doing = "document"
        return document.render(self.variables).encode()

    def ask(self) -> Call:
        """What has to be called for the document, where that is not the job's own template."""
        self.place()
        self.doing, renderer = "template", self.renderer
        self.template = renderer.template.constant or renderer.template(self.variables)
        if renderer.generation is None:  # on a lane that has many items in work
            from chora_mp.generation import plain_call  # noqa: PLC0415

            call = plain_call(renderer.document(self.template), self.variables)
        self.doing, self.usage = "document", ()
        if renderer.generation is not None:
            call = renderer.generation.call(self.record, self.key, self.template)
        self.call = call
        return call

    def accept(self, made: str | Generated) -> bytes:
        """The document that a generator has made, encoded; kept beside, where others need it."""
        text: Any = made
        if isinstance(made, tuple):
            text, self.usage = made[0], tuple(made[1].items())
        if not isinstance(text, str):
            raise TypeError(f"the generator {self.generator_name()!r} gave no text (found {type(text).__name__})")
        data = text.encode()
        if self.call is not None and self.call.text is not None and self.renderer.generation is not None:
            self.renderer.generation.keep(self.call.text, data)
        return data

    def generator_name(self) -> str:
        """What makes the document."""
        name = self.renderer.bundle.generator
        return name if name is not None else str(self.record.get("generator", ""))

    def failure(self, error: BaseException) -> Failure:
        """What went wrong, told where the person can mend it."""
        if isinstance(error, LateError):
            return Failure("Timeout", str(error))
        if isinstance(error, NoRecordError):
            return Failure(failures.printable(error.bad.type, 200), failures.printable(error.bad.message, 1500))
        bundle, doing = self.renderer.bundle, self.doing
        if doing == "key":  # the path may be known all the same, and names the item
            with contextlib.suppress(Exception, SystemExit):
                self.place()
        if isinstance(error, UnicodeEncodeError) and doing == "document":
            character = error.object[error.start : error.start + 1]
            message = f"the document holds a lone surrogate ({character!r}), which UTF-8 cannot express"
            return Failure("UnicodeEncodeError", message, self.template)
        # What a template's own lines say needs no prefix; of an expression only the job file knows the line.
        prefix = f"{bundle.labels[doing]}: " if doing in bundle.labels else ""
        if isinstance(error, jinja2.TemplateSyntaxError):
            prefix = ""
        return failures.failure_of(error, prefix, bundle.templates)
