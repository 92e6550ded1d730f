"""The generator `bdd_scenario`: a feature in Gherkin, put together from the parts that a config lists.

The text is read back with Gherkin's own parser, so that no feature comes out that a test runner would refuse.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from chora_mp.generators import GenerationError
from chora_mp.generators.placeholders import Undefined, fill, found, settings_of, undefined_behavior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DELIMITERS = ('"""', "```")
_LONGEST_LINE = 80  # characters of a line that a message shows

# What the parser expects, in words; the rest (comments, blank lines, the end) helps nobody.
_EXPECTED = {
    "#FeatureLine": "a feature",
    "#BackgroundLine": "a background",
    "#ScenarioLine": "a scenario",
    "#ExamplesLine": "examples",
    "#TagLine": "a tag",
    "#StepLine": "a step",
    "#TableRow": "a table row",
    "#DocStringSeparator": "a doc string",
}


def generate(spec: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Put a Gherkin feature together from `feature`, `background`, `scenarios` and `scenario_outlines`.

    Placeholders are filled in every text; `undefined_behavior` is that of `template_fill`. Raises `GenerationError`,
    also for what Gherkin's parser refuses.
    """
    settings = settings_of(spec)
    text = "\n".join(_feature(_Part(settings, "", context, undefined_behavior(settings)))) + "\n"
    _check(text)
    return text


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the config: its `value`, `where` it stands, and what its placeholders are filled from."""

    value: Any
    where: str
    context: Mapping[str, Any]
    undefined: Undefined

    def problem(self, what: str) -> GenerationError:
        """An error that says where it is."""
        return GenerationError(f"{self.where}: {what}" if self.where else what)

    def has(self, name: str) -> bool:
        """Whether there is something of that name."""
        return self.value.get(name) not in (None, [], {})

    def part(self, name: str) -> _Part:
        """What is under a name of a mapping."""
        return self._below(name, self.value.get(name))

    def items(self) -> list[_Part]:
        """What is in a list, numbered from 0; nothing if there is no list."""
        if self.value is None:
            return []
        if not isinstance(self.value, (list, tuple)):
            raise self.problem(f"must be a list (found {found(self.value)}); correct it")
        return [self._below(str(number), value) for number, value in enumerate(self.value)]

    def mapping(self) -> _Part:
        """The part itself, which must be a mapping."""
        if isinstance(self.value, Mapping):
            return self
        raise self.problem(f"must be a mapping (found {found(self.value)}); correct it")

    def text(self, show: Callable[[Any], str] = str) -> str:
        """The part as text, filled."""
        if isinstance(self.value, str):
            return self.fill(self.value, show)
        if isinstance(self.value, (Mapping, list, tuple)):
            raise self.problem(f"must be text (found {found(self.value)}); correct it")
        return _plain(self.value)

    def line(self) -> str:
        """The part as text of a single line, since a second one would be something else to Gherkin."""
        return self.single(self.text())

    def single(self, text: str) -> str:
        """`text`, which must be a single line."""
        text = text.strip()
        if "\n" in text:
            raise self.problem(f"must be a single line (found {found(text)}); shorten it")
        return text

    def fill(self, text: str, show: Callable[[Any], str] = str) -> str:
        """`text` with its placeholders filled."""
        try:
            return fill(text, self.context, self.undefined, show=show)
        except GenerationError as error:
            raise self.problem(str(error)) from None

    def _below(self, name: str, value: Any) -> _Part:
        return _Part(value, f"{self.where}.{name}" if self.where else name, self.context, self.undefined)


def _plain(value: object) -> str:
    """A value as JSON and YAML write it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- from parts to lines -----------------------------------------------------------------------------------


def _feature(root: _Part) -> Iterator[str]:
    if not root.has("feature"):
        raise root.problem("no feature; write one with a title")
    yield from _head(root.part("feature").mapping(), "Feature", 0)
    if root.has("background"):
        yield ""
        yield from _background(root.part("background"))
    scenarios, outlines = root.part("scenarios").items(), root.part("scenario_outlines").items()
    if not (scenarios or outlines):
        raise root.problem("neither scenarios nor scenario_outlines; write at least one")
    for scenario in scenarios:
        yield ""
        yield from _scenario(scenario.mapping(), "Scenario")
    for outline in outlines:
        yield ""
        yield from _scenario(outline.mapping(), "Scenario Outline")
        yield from _all_examples(outline)


def _head(part: _Part, keyword: str, depth: int, title: str = "title", *, required: bool = True) -> Iterator[str]:
    """Tags, the line with keyword and title, and the description."""
    tags = list(_tags(part.part("tags")))
    if tags:
        yield _indented(" ".join(tags), depth)
    name = part.part(title).line()
    if required and not name:
        raise part.problem(f"no {title}; write one")
    yield _indented(f"{keyword}: {name}".rstrip(), depth)
    for line in _dedented(part.part("description").text()):
        yield _indented(line, depth + 2)


def _tags(part: _Part) -> Iterator[str]:
    """The tags of a list, or of a text with blanks between; each with its @."""
    if isinstance(part.value, str):
        yield from (_tag(word, part) for word in part.text().split())
    else:
        yield from (_tag(tag.line(), tag) for tag in part.items())


def _tag(text: str, part: _Part) -> str:
    name = text.removeprefix("@")
    if not name or "@" in name or any(letter.isspace() for letter in name):
        raise part.problem(f"no tag (found {found(text)}); write a single word")
    return f"@{name}"


def _background(part: _Part) -> Iterator[str]:
    if isinstance(part.value, Mapping):
        yield from _head(part, "Background", 2, required=False)
        yield from _steps(part, described=part.has("description"))
    else:
        yield _indented("Background:", 2)
        for step in part.items():
            yield from _step(step)


def _scenario(part: _Part, keyword: str) -> Iterator[str]:
    yield from _head(part, keyword, 2)
    yield from _steps(part, described=part.has("description"))


def _steps(part: _Part, *, described: bool) -> Iterator[str]:
    if not part.has("steps"):
        raise part.problem("no steps; write a list of them")
    if described:
        yield ""
    for step in part.part("steps").items():
        yield from _step(step)


def _all_examples(outline: _Part) -> Iterator[str]:
    if not outline.has("examples"):
        raise outline.problem("no examples; write headers and rows")
    examples = outline.part("examples")
    for part in [examples] if isinstance(examples.value, Mapping) else examples.items():
        yield ""
        yield from _head(part.mapping(), "Examples", 4, "name", required=False)
        if not part.has("headers"):
            raise part.problem("no headers; write a list of names")
        yield from _table(part)


# ---- steps -------------------------------------------------------------------------------------------------


def _step(part: _Part) -> Iterator[str]:
    """A step, written as text or as a mapping."""
    if isinstance(part.value, Mapping):
        yield from _composed(part)
    elif isinstance(part.value, str) and part.value.strip():
        first, *rest = part.value.strip().split("\n")
        yield _indented(part.single(part.fill(first)), 4)
        yield from _argument(part, _dedented("\n".join(rest)))
    else:
        raise part.problem(f"no step (found {found(part.value)}); write text such as 'Given a user'")


def _composed(part: _Part) -> Iterator[str]:
    words = [part.part("keyword").line(), part.part("text").line()]
    if not all(words):
        raise part.problem("a step needs keyword and text; write both")
    yield _indented(" ".join(words), 4)
    if part.has("table"):
        yield from _table(part.part("table").mapping())
    if part.part("docstring").value is not None:
        yield from _doc_string(part.part("docstring").text())


def _doc_string(text: str) -> Iterator[str]:
    for line in ('"""', *_shielded(text, '"""').removesuffix("\n").split("\n"), '"""'):
        yield _indented(line, 6)


def _argument(part: _Part, lines: list[str]) -> Iterator[str]:
    """The table or doc string below a step's first line; values are written so that they stay inside of it."""
    delimiter = ""
    for line in lines:
        start = line.lstrip()
        filled = part.fill(line, _show(start, delimiter))
        if start.startswith(delimiter or _DELIMITERS):
            delimiter = "" if delimiter else start[:3]
        margin = line[: len(line) - len(start)]
        for number, text in enumerate(filled.split("\n")):
            yield _indented(margin + text if number else text, 6)


def _show(start: str, delimiter: str) -> Callable[[Any], str]:
    """How values are written on a line that begins so, inside of a doc string or not."""
    if delimiter:
        return lambda value: _shielded(str(value), delimiter)
    return _cell if start.startswith("|") else str


def _shielded(text: str, delimiter: str) -> str:
    return text.replace(delimiter, "".join(f"\\{letter}" for letter in delimiter))


# ---- tables ------------------------------------------------------------------------------------------------


def _table(part: _Part) -> Iterator[str]:
    """The lines of a table, its columns lined up."""
    if not part.has("rows"):
        raise part.problem("no rows; write a list of lists")
    rows = [part.part("headers")] if part.has("headers") else []
    rows += part.part("rows").items()
    cells = [[_cell(cell.text()) for cell in row.items()] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        if not line or len(line) != len(cells[0]):
            raise row.problem(f"{len(line)} cells, where there should be {len(cells[0]) or 'some'}; correct it")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield _indented(f"| {' | '.join(map(str.ljust, line, widths))} |", 6)


def _cell(value: object) -> str:
    """A value as Gherkin wants it in a cell."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", "\\n")


def _indented(line: str, depth: int) -> str:
    return " " * depth + line if line else ""


def _dedented(text: str) -> list[str]:
    """The lines of a text without the margin that they share, and without blank lines around."""
    text = textwrap.dedent(text).strip("\n").rstrip()
    return text.split("\n") if text else []


# ---- reading back ------------------------------------------------------------------------------------------


def _check(text: str) -> None:
    """Raise `GenerationError` with the first thing that Gherkin's parser has against a text."""
    try:
        from gherkin.errors import ParserError  # noqa: PLC0415  (only this generator needs it)
        from gherkin.parser import Parser  # noqa: PLC0415
    except ImportError:
        raise GenerationError("no Gherkin parser; install chora-mp[bdd]") from None
    try:
        Parser().parse(text)
    except ParserError as error:
        _refuse(error, text)


def _refuse(error: Exception, text: str) -> NoReturn:
    """Raise the parser's first error, with the line that it means."""
    first = getattr(error, "errors", [error])[0]
    number = first.location["line"]
    line = "".join(text.split("\n")[number - 1 : number]).strip()
    shown = f"'{line[:_LONGEST_LINE]}'" if line else "the end"
    raise GenerationError(f"line {number}: {_reason(str(first))}, got {shown}") from None


def _reason(message: str) -> str:
    """The parser's message in short: no column, no token names, and not what it got."""
    message = message.partition("): ")[2]
    _, expected, rest = message.partition("expected: ")
    if not expected:
        return message[:1].lower() + message[1:]
    words = [word for token, word in _EXPECTED.items() if token in rest.partition(", got '")[0].split(", ")]
    return f"expected {' or '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words or ['the end'])}"
