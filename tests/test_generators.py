"""Placeholders, the generators template_fill, demonstration and bdd_scenario, and the content configs."""

import json
import re
import sys
from pathlib import Path

import jinja2
import pytest
import yaml
from gherkin.parser import Parser
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.generators import GenerationError, bdd_scenario, built_in, demonstration, proper_name, template_fill
from chora_mp.generators.placeholders import fill

CONTENT = Path(__file__).parents[1] / "configs" / "content"
CONFIGS = {path.stem: path for path in sorted(CONTENT.iterdir()) if path.is_file()}

CONTEXT = {
    "name": "Ada",
    "user": {"name": "Bob", "tags": ["a", {"b": 7}], "none": None, "empty": ""},
    "codes": {404: "lost"},
    "zero": 0,
    "no": False,
    "braces": "{{name}}",
    "größe": "XL",
}

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


def refusal(function, *arguments, **options):
    """The message that a call is refused with."""
    with pytest.raises(GenerationError) as caught:
        function(*arguments, **options)
    return str(caught.value)


# ---- placeholders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("no braces", "no braces"),
        ("{{name}}", "Ada"),
        ("{{ name }}{{\tname}}", "AdaAda"),
        ("{{user.name}}", "Bob"),
        ("{{user.tags.0}}{{ user.tags.1.b }}", "a7"),
        ("{{user.tags}}", "['a', {'b': 7}]"),
        ("{{codes.404}}", "lost"),
        ("{{zero}} {{no}} [{{user.empty}}]", "0 False []"),
        ("{{braces}}", "{{name}}"),
        ("{{größe}}", "XL"),
        ("{{{name}}}", "{Ada}"),
        ("{{ 1 + 2 }}", "{{ 1 + 2 }}"),
        (
            "{{ name | upper }} {{}} {{ }} {{name} {{.name}} {{name.}}",
            "{{ name | upper }} {{}} {{ }} {{name} {{.name}} {{name.}}",
        ),
        ("{{\nname}}", "{{\nname}}"),
        (r"\n{{name}}", r"\nAda"),
    ],
)
def test_fill(template, expected):
    """Names, paths and indices are filled, and what only looks like a placeholder stays."""
    assert expected == fill(template, CONTEXT)


@pytest.mark.parametrize("name", ["nobody", "user.none", "user.tags.2", "user.tags.x", "name.first", "user.none.x"])
@pytest.mark.parametrize(("undefined", "expected"), [("keep", "<{{ %s }}>"), ("empty", "<>")])
def test_undefined(name, undefined, expected):
    """What is missing, or null, stays as it is written or leaves nothing."""
    assert expected.replace("%s", name) == fill(f"<{{{{ {name} }}}}>", CONTEXT, undefined)


@pytest.mark.parametrize(
    ("template", "context", "expected"),
    [
        ("a\nb\n{{user.nmae}}", CONTEXT, "line 3: undefined variable 'user.nmae'; did you mean 'name'?"),
        ("{{nmae}}", CONTEXT, "line 1: undefined variable 'nmae'; did you mean 'name'?"),
        ("{{name}}\n{{x}}", {"name": 1, "b": 2}, "line 2: undefined variable 'x'; there is 'name', 'b'"),
        ("{{x}}", {}, "line 1: undefined variable 'x'; there is nothing"),
        ("{{user.none}}", CONTEXT, "line 1: undefined variable 'user.none' (found null); give it a value"),
        (
            "{{user.tags.2}}",
            CONTEXT,
            "line 1: undefined variable 'user.tags.2'; 'user.tags' is a list of 2, counted from 0",
        ),
        ("{{name.x}}", CONTEXT, "line 1: undefined variable 'name.x'; 'name' has no names in it (found 'Ada')"),
    ],
)
def test_undefined_is_an_error(template, context, expected):
    """The message has the line, the name, and what there is where the look-up ended."""
    assert expected == refusal(fill, template, context)


def test_few_names_are_shown():
    """Of many names a message shows ten."""
    message = refusal(fill, "{{x}}", {f"name{number:03}": 1 for number in range(500)})
    assert (10, "…") == (message.count("'name"), message[-1])


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_braces(text):
    """Text without placeholders comes out as it went in."""
    assert text == fill(text, {})


@given(st.lists(st.sampled_from(["{{a}}", "{{b_1}}", "{", "}", "x", "\n", "\\n", "ä"])), st.text(), st.text())
def test_like_replace(parts, one, two):
    """Simple names are filled as by str.replace, were it not that this would fill values again."""
    template = "".join(parts)
    expected = template.replace("{{a}}", "\0").replace("{{b_1}}", "\1").replace("\0", "\2").replace("\1", "\3")
    expected = "".join({"\2": one, "\3": two}.get(letter, letter) for letter in expected)
    assert expected == fill(template, {"a": one, "b_1": two})


@given(st.dictionaries(names, names.map("{{{{{}}}}}".format), min_size=1))
def test_values_are_never_filled(context):
    """A value that holds a placeholder goes into the text as it is."""
    template = "|".join(f"{{{{{name}}}}}" for name in context)
    assert "|".join(context.values()) == fill(template, context)


@given(st.text(), names)
def test_keep_is_the_identity(text, name):
    """With nothing to fill from, kept placeholders give the template back."""
    template = f"{text}{{{{ {name} }}}}{text}"
    assert template == fill(template, {}, "keep")


# ---- template_fill -----------------------------------------------------------------------------------------


def filled(template, context=None, **settings):
    """The text that template_fill makes."""
    return template_fill.generate({"template": template, "generation_config": settings}, context or CONTEXT)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\"\'", "\"'"),
        (r"\x \{{name}} \u0041", r"\x \Ada \u0041"),
        (r"\\{{name}}\n", "\\Ada\n"),
        ("end\\", "end\\"),
    ],
)
def test_escapes(template, expected):
    """Escapes are replaced in one pass from left to right, and unknown ones stay."""
    assert expected == filled(template)


@given(st.text(st.sampled_from("\\ntr'\"x ")))
def test_values_are_never_unescaped(value):
    """A value keeps its backslashes, such as those of a Windows path."""
    assert f"\n{value}\n" == filled(r"\n{{path}}\n", {"path": value})


@given(st.text(st.sampled_from("\\\n\t\r'\"nab"), min_size=1))
def test_escapes_round_trip(text):
    """Text whose backslashes and line ends are escaped comes back."""
    written = text.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r")
    assert text == filled(written)


def test_escapes_can_be_left():
    """With escape_sequences off, the template's backslashes stay."""
    assert r"a\nAda" == filled(r"a\n{{name}}", escape_sequences=False)


def test_lines_are_counted_as_written():
    """An escape doesn't count as a line."""
    assert "line 2: undefined variable 'x'; there is 'y'" == refusal(filled, "a\\nb\n{{x}}", {"y": 1})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"undefined_behavior": "keep"}, "{{ x }}"), ({"undefined_behavior": "empty"}, "")],
)
def test_undefined_behavior(settings, expected):
    """The config says what becomes of what is missing."""
    assert expected == filled("{{ x }}", **settings)


@pytest.mark.parametrize("settings", [{}, {"undefined_behavior": "error"}, {"undefined_behavior": "strict"}])
def test_undefined_behavior_error(settings):
    """What is missing is an error unless the config says otherwise."""
    assert "line 1: undefined variable 'x'; there is 'y'" == refusal(filled, "{{ x }}", {"y": 1}, **settings)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "template: must be text (found None); write the text to be filled"),
        ({"template": ""}, "template: must be text (found ''); write the text to be filled"),
        ({"template": ["a"]}, "template: must be text (found list); write the text to be filled"),
        (
            {"template": "a", "generation_config": {"undefined_behavior": "kep"}},
            "undefined_behavior: must be error, keep or empty (found 'kep'); did you mean 'keep'?",
        ),
        (
            {"template": "a", "generation_config": {"undefined_behavior": 3}},
            "undefined_behavior: must be error, keep or empty (found 3); write one of these",
        ),
        (
            {"template": "a", "generation_config": {"escape_sequences": "no"}},
            "escape_sequences: must be true or false (found 'no'); write one of these",
        ),
        (
            {"template": "a", "generation_config": []},
            "generation_config: must be a mapping (found list); write names and values",
        ),
    ],
)
def test_template_fill_refuses(spec, expected):
    """A config that makes no sense is refused with what was found."""
    assert expected == refusal(template_fill.generate, spec, {})


# ---- demonstration -----------------------------------------------------------------------------------------

ELEMENTS = [
    {"name": "title", "example_output": "T", "description": "D"},
    {"name": "empty", "example_output": ""},
    {"name": "null", "example_output": None},
    {"name": "1", "example_output": "one"},
    {"example_output": "nameless"},
    {"name": "v1.2", "example_output": "dots"},
]


def shown(template, variables=(), context=None, elements=ELEMENTS):
    """The text that demonstration makes."""
    spec = {"template": template, "variables": list(variables), "elements": elements}
    return demonstration.generate(spec, context or {})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("elements.title.example_output", "T"),
        ("elements.title", "T"),
        ("elements.title.description", "D"),
        ("elements.empty.example_output", ""),
        ("elements.0.example_output", "T"),
        ("elements.1.example_output", "one"),
        ("elements.4", "nameless"),
        ("elements.v1.2", "dots"),
        ("elements.v1.2.example_output", "dots"),
    ],
)
def test_sources(source, expected):
    """An element is found by name, then by number from 0, with any of its fields."""
    assert f"<{expected}>" == shown("<{{x}}>", [{"name": "x", "source": source, "default": "unused"}])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("elements.titel.example_output", "no element 'titel'; did you mean 'title'?"),
        ("elements.titel", "no element 'titel'; did you mean 'title'?"),
        ("elements.null.example_output", "element 'null' has no example_output"),
        ("elements.title.descripton", "element 'title' has no descripton; did you mean 'description'?"),
        ("elements.6.example_output", "no element '6'"),
        ("elsewhere", "source must be elements.<name>.example_output (found 'elsewhere'); correct it"),
        (None, "source must be elements.<name>.example_output (found None); correct it"),
    ],
)
def test_defaults(source, expected):
    """What isn't there is the default, even an empty one, or else an error."""
    variable = {"name": "x", "source": source}
    assert "<>" == shown("<{{x}}>", [{**variable, "default": ""}])
    assert f"variable 'x': {expected}" == refusal(shown, "<{{x}}>", [variable])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{title}}", "T"),
        ("{{elements.title.example_output}}", "T"),
        ("{{elements.title}}", "T"),
        ("{{elements.0.example_output}}", "T"),
        ("{{elements.1.example_output}}", "one"),
        ("{{elements.4.example_output}}", "nameless"),
        ("{{elements.title.description}}", "D"),
        (r"{{title}}\n", "T\n"),
    ],
)
def test_elements_in_templates(template, expected):
    """A template may name elements without any variables."""
    assert expected == shown(template)


def test_precedence():
    """The context comes before variables, and these before elements; a null in the context doesn't count."""
    variables = [{"name": "title", "source": "elements.1"}, {"name": "a", "source": "elements.gone"}]
    assert "one A" == shown("{{title}} {{a}}", variables, {"title": None, "a": "A"})
    assert "C A" == shown("{{title}} {{a}}", variables, {"title": "C", "a": "A"})


def test_demonstration_leaves_backslashes():
    """An example output keeps its backslashes and braces."""
    element = {"name": "path", "example_output": r"C:\new {{title}}"}
    assert r"C:\new {{title}}" == shown("{{path}}", elements=[element])


@pytest.mark.parametrize("template", [None, ""])
def test_without_template(template):
    """Without a template, the outputs that there are follow each other with one blank line between."""
    elements = [{"example_output": "a\n\n"}, {"name": "none"}, {"example_output": 2}, {"example_output": "c\n"}]
    assert "a\n\n2\n\nc\n" == shown(template, elements=elements)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "neither a template nor an element with example_output; write either"),
        ({"elements": [{"name": "a"}]}, "neither a template nor an element with example_output; write either"),
        ({"elements": {"a": 1}}, "elements: must be a list (found dict); correct it"),
        ({"elements": ["a"]}, "elements.0: must be a mapping (found 'a'); write name and value"),
        ({"template": "a", "variables": [{}]}, "variables.0: no name (found None); write name and source"),
        ({"template": "a", "variables": ["b"]}, "variables.0: no name (found None); write name and source"),
        (
            {"template": "\n{{titel}}", "elements": ELEMENTS},
            "line 2: undefined variable 'titel'; did you mean 'title'?",
        ),
        (
            {"template": "{{elements.null}}", "elements": ELEMENTS},
            "element 'null' has no example_output; give it one",
        ),
    ],
)
def test_demonstration_refuses(spec, expected):
    """A config that gives no text is refused with what is missing."""
    assert expected == refusal(demonstration.generate, spec, {})


# ---- bdd_scenario ------------------------------------------------------------------------------------------

SCENARIO = {"title": "S", "steps": ["Given a"]}
OUTLINE = {"title": "O", "steps": ["Given <a>"], "examples": {"headers": ["a"], "rows": [["1"]]}}


def feature(context=None, **parts):
    """The text that bdd_scenario makes of a small feature with other parts."""
    settings = {"feature": {"title": "F"}, "scenarios": [SCENARIO], **parts}
    return bdd_scenario.generate({"generation_config": settings}, context or {})


def step(value, context=None):
    """A step's lines in the feature, below those of feature and scenario."""
    return feature(context, scenarios=[{"title": "S", "steps": [value]}]).split("\n", 3)[3]


def cells(text):
    """What the parser reads from the first table."""
    steps = Parser().parse(text)["feature"]["children"][0]["scenario"]["steps"]
    return [[cell["value"] for cell in row["cells"]] for row in steps[0]["dataTable"]["rows"]]


def test_layout():
    """A feature with everything in it has Gherkin's usual layout."""
    made = feature(
        {"what": "Login", "tag": "web", "cell": "a|b"},
        feature={"title": "{{what}}", "description": "As a user\nI log in\n", "tags": ["auth", "@{{tag}}"]},
        background={"title": "B", "steps": ["Given {{what}}"]},
        scenarios=[
            {"title": "S1", "description": "Why.", "tags": "@a b", "steps": ["When x:\n| {{cell}} | y |"]},
            {"title": "S2", "steps": [{"keyword": "Then", "text": "z:", "docstring": "p\n\n  q\n"}]},
        ],
        scenario_outlines=[
            {
                "title": "O",
                "steps": ["Given <a>"],
                "examples": [
                    {"name": "E", "tags": ["slow"], "headers": ["a", "b"], "rows": [["long", 1], [None, True]]},
                    {"headers": ["a"], "rows": [["{{cell}}"]]},
                ],
            }
        ],
    )
    expected = r'''@auth @web
Feature: Login
  As a user
  I log in

  Background: B
    Given Login

  @a @b
  Scenario: S1
    Why.

    When x:
      | a\|b | y |

  Scenario: S2
    Then z:
      """
      p

        q
      """

  Scenario Outline: O
    Given <a>

    @slow
    Examples: E
      | a    | b    |
      | long | 1    |
      |      | true |

    Examples:
      | a    |
      | a\|b |
'''
    assert expected == made


def test_background_as_list():
    """A background may be its steps alone."""
    assert "Feature: F\n\n  Background:\n    Given b\n\n  Scenario: S\n    Given a\n" == feature(background=["Given b"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Given a\n", "    Given a\n"),
        ("Given a:\n      | x |\n      | y |\n", "    Given a:\n      | x |\n      | y |\n"),
        ('Given a:\n"""\n  {{v}}\n"""', '    Given a:\n      """\n        p|q\n        \\"\\"\\"\n      """\n'),
        ("Given a:\n```\n{{v}}\n```", '    Given a:\n      ```\n      p|q\n      """\n      ```\n'),
        ("Given a:\n| {{v}} |", '    Given a:\n      | p\\|q\\n""" |\n'),
        (
            {"keyword": "Given", "text": "a", "docstring": "{{v}}"},
            '    Given a\n      """\n      p|q\n      \\"\\"\\"\n      """\n',
        ),
        ({"keyword": "*", "text": "a", "table": {"rows": [[1, 2.5]]}}, "    * a\n      | 1 | 2.5 |\n"),
    ],
)
def test_steps(value, expected):
    """Steps as text or mapping, whose values can't break out of a table or doc string."""
    assert expected == step(value, {"v": 'p|q\n"""'})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"feature": None}, "no feature; write one with a title"),
        ({"feature": "F"}, "feature: must be a mapping (found 'F'); correct it"),
        ({"feature": {"tags": ["a"]}}, "feature: no title; write one"),
        ({"feature": {"title": "a\nb"}}, r"feature.title: must be a single line (found 'a\nb'); shorten it"),
        ({"feature": {"title": ["a"]}}, "feature.title: must be text (found list); correct it"),
        (
            {"feature": {"title": "F", "tags": ["a", "b c"]}},
            "feature.tags.1: no tag (found 'b c'); write a single word",
        ),
        ({"feature": {"title": "F", "tags": [""]}}, "feature.tags.0: no tag (found ''); write a single word"),
        ({"background": {"title": "B"}}, "background: no steps; write a list of them"),
        ({"background": "Given"}, "background: must be a list (found 'Given'); correct it"),
        ({"scenarios": []}, "neither scenarios nor scenario_outlines; write at least one"),
        ({"scenarios": {"title": "S"}}, "scenarios: must be a list (found dict); correct it"),
        ({"scenarios": [SCENARIO, SCENARIO, {"steps": ["Given a"]}]}, "scenarios.2: no title; write one"),
        ({"scenarios": [{"title": "S"}]}, "scenarios.0: no steps; write a list of them"),
        ({"scenarios": [{"title": "S", "steps": []}]}, "scenarios.0: no steps; write a list of them"),
        (
            {"scenarios": [{"title": "S", "steps": [7]}]},
            "scenarios.0.steps.0: no step (found 7); write text such as 'Given a user'",
        ),
        (
            {"scenarios": [{"title": "S", "steps": [{"text": "a"}]}]},
            "scenarios.0.steps.0: a step needs keyword and text; write both",
        ),
        (
            {"scenarios": [{"title": "S", "steps": ["Given {{nobody}}"]}]},
            "scenarios.0.steps.0: line 1: undefined variable 'nobody'; there is nothing",
        ),
        (
            {"scenario_outlines": [{**OUTLINE, "examples": None}]},
            "scenario_outlines.0: no examples; write headers and rows",
        ),
        (
            {"scenario_outlines": [{**OUTLINE, "examples": [{"rows": [["1"]]}]}]},
            "scenario_outlines.0.examples.0: no headers; write a list of names",
        ),
        (
            {"scenario_outlines": [{**OUTLINE, "examples": {"headers": ["a"]}}]},
            "scenario_outlines.0.examples: no rows; write a list of lists",
        ),
        (
            {"scenario_outlines": [OUTLINE, {**OUTLINE, "examples": {"headers": ["a"], "rows": [["1"], ["1", "2"]]}}]},
            "scenario_outlines.1.examples.rows.1: 2 cells, where there should be 1; correct it",
        ),
    ],
)
def test_bdd_refuses(parts, expected):
    """What is missing or wrong is named with its place, numbered from 0."""
    assert expected == refusal(feature, **parts)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            ["Given a", "Wenn b"],
            "line 5: expected a scenario, examples, a tag, a step, a table row or a doc string, got 'Wenn b'",
        ),
        (["Given a:\n| x |\n| y | z |"], "line 6: inconsistent cell count within the table, got '| y | z |'"),
        (['Given a:\n"""\nx'], "line 7: expected a doc string, got the end"),
    ],
)
def test_parser_refuses(steps, expected):
    """What Gherkin's parser refuses is refused with the line, its text, and what could be there."""
    assert expected == refusal(feature, scenarios=[{"title": "S", "steps": steps}])


def test_without_parser(monkeypatch):
    """Without Gherkin's parser nothing is made, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "gherkin.parser", None)
    assert "no Gherkin parser; install chora-mp[bdd]" == refusal(feature)


@pytest.mark.parametrize(("behavior", "expected"), [("keep", "{{x}}"), ("empty", "")])
def test_bdd_undefined(behavior, expected):
    """The undefined_behavior holds for features, too."""
    made = feature(undefined_behavior=behavior, feature={"title": "F {{x}}"})
    assert f"Feature: F {expected}".rstrip() == made.partition("\n")[0]


# Blanks around a cell are layout to Gherkin, and so are those before a line break that ends it.
cell_texts = st.text(st.sampled_from('|\\n\n #@<>"{}aä\u3000')).map(
    lambda text: re.sub(r"[^\S\n]*(\n?)\Z", r"\1", text.lstrip(" \u3000"))
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cell_texts, min_size=width, max_size=width), min_size=1, max_size=4)
)


@given(tables)
def test_cells_are_read_back(rows):
    """The parser reads from a table what went into it, whatever it has to be escaped from."""
    value = {"keyword": "Given", "text": "a", "table": {"rows": rows}}
    assert rows == cells(feature(undefined_behavior="keep", scenarios=[{"title": "S", "steps": [value]}]))


@given(cell_texts)
def test_values_in_cells_are_read_back(value):
    """The same of a value that a placeholder puts into a table, be it written as a mapping or as text."""
    table = {"keyword": "Given", "text": "a", "table": {"rows": [["{{v}}", "x"]]}}
    for written in (table, "Given a\n| {{v}} | x |"):
        assert [[value, "x"]] == cells(feature({"v": value}, scenarios=[{"title": "S", "steps": [written]}]))


@given(st.lists(st.text(st.sampled_from('"`|\\ #@a')), min_size=1).map("\n".join))
def test_doc_strings_are_read_back(text):
    """The parser reads the doc string that went in."""
    value = {"keyword": "Given", "text": "a", "docstring": "{{v}}\n"}
    made = feature({"v": text}, scenarios=[{"title": "S", "steps": [value]}])
    read = Parser().parse(made)["feature"]["children"][0]["scenario"]["steps"][0]["docString"]["content"]
    assert text.replace('\\"\\"\\"', '"""') == read


# ---- the content configs -----------------------------------------------------------------------------------


def config(stem):
    """A config's data."""
    text = CONFIGS[stem].read_text(encoding="utf-8")
    return json.loads(text) if CONFIGS[stem].suffix == ".json" else yaml.safe_load(text)


def parts(stem):
    """What its generator is called with."""
    data = config(stem)
    pattern = data["generation"]["patterns"][0]
    settings = dict(pattern.get("generation_config", {}))
    context = settings.pop("context", {})
    return {**pattern, "elements": data["elements"], "generation_config": settings}, context


def rendered(template, context):
    """What Jinja2 makes of a template that may leave nothing undefined."""
    return jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(template).render(context)


@pytest.mark.parametrize("stem", CONFIGS)
def test_config(stem):
    """Every config says what it is, goes by its file's name, and has a generator that there is."""
    data = config(stem)
    assert ("content", stem) == (data["type"], data["id"])
    assert {"id": "content-schema", "version": "3.1"} == data["schemaRef"]
    assert {"description", "version", "generation_frequency", "output_format"} == set(data["metadata"])
    assert proper_name(data["generation"]["patterns"][0]["type"]) in built_in()


@pytest.mark.parametrize(
    ("stem", "module", "first", "last"),
    [
        ("readme-intro", demonstration, "# Lighthouse", "Licensed under the MIT licence."),
        (
            "release-announcement",
            template_fill,
            "# Lighthouse 2.1.0 is out",
            "Questions go to <support@lighthouse.example>.",
        ),
        ("login-feature", bdd_scenario, "@authentication @web", "| bob   | tin-opener | Account not active       |"),
    ],
)
def test_config_generates(stem, module, first, last):
    """The configs have all that their templates need."""
    lines = module.generate(*parts(stem)).splitlines()
    assert (first, last) == (lines[0], lines[-1].strip())


def test_api_reference():
    """The reference has a heading for each operation of the description."""
    spec, context = parts("api-reference")
    api = json.loads((CONTENT / context["api"]["path"]).read_text(encoding="utf-8"))
    text = rendered((CONTENT / "templates" / spec["template"]).read_text(encoding="utf-8"), {**context, "api": api})
    expected = [f"### `{method.upper()} {path}`" for path, methods in api["paths"].items() for method in methods]
    assert expected == [line for line in text.splitlines() if line.startswith("### `")]


def test_release_page():
    """The page holds the texts of the two configs that it names."""
    spec, context = parts("release-page")
    context |= {"announcement": template_fill.generate(*parts("release-announcement")), "introduction": "# Intro"}
    text = rendered(spec["template"], context)
    assert r"C:\new\reports" in text
    assert text.endswith("\n---\n\n## Intro")


def test_fallback_works():
    """The validator's fallback is a working function."""
    spec, context = parts("email-validator")
    names = {}
    exec(fill(spec["generation_config"]["fallback_template"], context), names)
    addresses = ["ada@example.org", "a+b@mail.example.org", "ada@localhost", "@example.org", "a b@example.org", ""]
    assert [True, True, False, False, False, False] == [names["is_mail_address"](text) for text in addresses]
