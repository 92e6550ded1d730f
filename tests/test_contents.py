"""Jobs of content configs from end to end: every generator, needs across lanes, and what a change renders again."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from messages_api import MALFORMED, MessagesAPI, Reply, lead_to, prompt_of

from chora_mp import BatchResult, Job, abatch_generate_stream, batch_generate, batch_generate_stream, retry_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chora_mp import ItemResult
    from tests.conftest import Project

KEY = "sk-ant-test-0123456789abcdef"
BOUND = 30.0

PLUGIN = """
import asyncio, os, time
from chora_mp.generators import generator

async def awaited(spec, context):
    if context.get("fail"): raise ValueError("as asked")
    await asyncio.sleep(context.get("seconds", 0))
    return "awaited " + " ".join(str(context[name]) for name in sorted(context))

@generator(lane="threads")
def threaded(spec, context):
    return "threaded " + " ".join(str(context[name]) for name in sorted(context))

def once(spec, context):
    if not os.path.exists(context["flag"]): raise ValueError("not yet")
    return "there"

GENERATORS = {"awaited": awaited, "threaded": threaded, "once": once}
"""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesAPI]:
    """The service, and an environment that leads to it."""
    with MessagesAPI() as server:
        server.script = lambda body: f"```python\n{answer(asked(body))}```\n"
        lead_to(server, KEY, monkeypatch)
        yield server


def asked(body: dict[str, Any]) -> str:
    """What stands in a request's prompt between double brackets, as `code` writes it."""
    found = re.search(r"\[\[(.*?)\]\]", prompt_of(body), re.DOTALL)
    assert found
    return found[1]


def answer(prompt: str) -> str:
    """The code that the server gives for a prompt."""
    return f"ANSWER = {prompt!r}\n"


def config(project: Project, id_: str, type_: str = "jinja2", template: str | None = "I am {{ id }}{{ nl }}",
           context: dict[str, Any] | None = None, needs: tuple[str, ...] = (), **more: Any) -> None:  # fmt: skip
    """Write a config with one pattern; `more` goes to its top level, `settings` among it to the pattern's."""
    found = {"id": id_, "nl": "\n"} if type_ == "jinja2" else {}
    found |= (context or {}) | {name: {"source": "config", "path": name} for name in needs}
    settings = {"context": found, **more.pop("settings", {})}
    pattern = {"id": "p", "type": type_, "template": template, "generation_config": settings, **more.pop("pattern", {})}
    data = {"type": "content", "id": id_, "generation": {"patterns": [pattern]}, **more}
    project.write(f"configs/content/{id_}.json", json.dumps(data))


def code(project: Project, id_: str, prompt: str, needs: tuple[str, ...] = (), **settings: Any) -> None:
    """Write a config that asks a model."""
    given = {"model": "m", "prompt": f"[[{prompt}]]", "language": "python", "max_retries": 0} | settings
    config(project, id_, "code_generation", None, needs=needs, settings=given)


def job(project: Project, more: str = "", name: str = "job.yaml") -> Job:
    """A job of all configs."""
    project.write("templates/page.j2", "page {{ title }}")
    project.write("plugin.py", PLUGIN)
    output = '{dir: out, path: "{{ id }}.{{ extension }}"}'
    text = f"configs: configs/content\nplugins: [plugin.py]\noutput: {output}\n{more}\n"
    return Job.load(project.write(name, text))


def errors(result: BatchResult) -> dict[str, str]:
    """The type of each failure by key."""
    return {item.key: item.error.type for item in result.failures if item.error}


def message(result: BatchResult, key: str) -> str:
    """What is said of a failed item."""
    return next(item.error.message for item in result.failures if item.key == key and item.error)


def rendered(job_: Job, **options: Any) -> set[str]:
    """The keys of what a run renders or fails at; what is up to date is not among them."""
    return {item.key for item in batch_generate_stream(job_, **options) if item.status != "unchanged"}


def stems(project: Project) -> dict[str, str]:
    """The documents by id, without what a run keeps for others to take."""
    found = project.outputs().items()
    return {name.partition(".")[0]: text for name, text in found if not name.startswith(".chora-mp/")}


# -- every generator


def all_generators(project: Project) -> None:
    """Configs for all built-in generators and those of a plug-in."""
    config(project, "jinja", template="{% for n in range(3) %}{{ n }}{% endfor %} {{ id }}")
    config(project, "page", template="page.j2", context={"title": "One"})
    config(project, "rusty", "minijinja", "{{ 1 + 1 }} {{ who }}", {"who": "mini"})
    config(project, "filled", "template_fill", "Dear {{name}}", {"name": "Ada"})
    elements = [{"name": "intro", "format": "markdown", "example_output": "Hello"}]
    config(project, "shown", "demonstration", "{{intro}}!", elements=elements)
    feature = {
        "feature": {"title": "Login"},
        "scenarios": [{"title": "Good", "steps": ["Given a user", "Then all is well"]}],
    }
    config(project, "feature", "bdd_scenario_assembly", None, settings=feature)
    code(project, "coded", "write it")
    config(project, "awaited", "awaited", None, {"a": 1})
    config(project, "threaded", "threaded", None, {"a": 2})


def test_every_generator_in_one_batch(project: Project, api: MessagesAPI) -> None:
    """Each on the lane that suits it; what the service counted is in the result, and a second run renders nothing."""
    all_generators(project)
    result = batch_generate(job(project))
    assert ({}, 9) == (errors(result), result.successful)
    found = stems(project)
    expected = {
        "jinja": "012 jinja", "page": "page One", "rusty": "2 mini", "filled": "Dear Ada", "shown": "Hello!",
        "coded": answer("write it"), "awaited": "awaited 1", "threaded": "threaded 2",
    }  # fmt: skip
    assert expected == {id_: found[id_] for id_ in expected}
    assert found["feature"].startswith("Feature: Login")
    assert {"coded.py", "feature.feature", "shown.md"} <= project.outputs().keys()
    assert dict(result.usage)["output_tokens"] > 0
    again = batch_generate(job(project))
    assert (9, 0, 0, {}) == (again.unchanged, again.successful, again.failed, dict(again.usage))
    assert 1 == len(api.requests)
    assert [] == project.leftovers()
    assert 0 == project.run("verify", "job.yaml").returncode


@pytest.mark.parametrize("lane", ["asyncio"])
def test_every_generator_on_one_lane(project: Project, api: MessagesAPI, lane: str) -> None:
    """Wherever a person sends them, the documents are the same."""
    all_generators(project)
    result = batch_generate(job(project, f"lane: {lane}"))
    assert ({}, 9) == (errors(result), result.successful)
    assert "2 mini" == stems(project)["rusty"]
    assert answer("write it") == stems(project)["coded"]


def test_requests(project: Project) -> None:
    """A job asks for one config several times, with contexts and paths of its own."""
    config(project, "letter", "template_fill", "Dear {{name}}", {"name": "nobody"})
    config(project, "unasked")
    more = "requests:\n" + "".join(
        f"  - {{config: letter, output: {name}.txt, context: {{name: {name}}}}}\n" for name in ("Ada", "Bob")
    )
    result = batch_generate(job(project, more))
    assert (2, {}) == (result.successful, errors(result))
    assert {"Ada.txt": "Dear Ada", "Bob.txt": "Dear Bob"} == project.outputs()


# -- needs


def chain(project: Project) -> None:
    """Five configs, each of which needs the one before, on a lane of its own."""
    config(project, "a", template="A{{ more }}", context={"more": ""})
    code(project, "b", "after {{a}}", needs=("a",))
    config(project, "c", "awaited", None, needs=("b",))
    config(project, "d", "threaded", None, needs=("c",))
    config(project, "e", "template_fill", "[{{d}} and {{a}}]", needs=("d", "a"))
    config(project, "other")


def test_needs_across_lanes(project: Project, api: MessagesAPI) -> None:
    """Each has the text of what it needs, whatever lanes and processes they are made on."""
    chain(project)
    result = batch_generate(job(project))
    assert {} == errors(result)
    b = answer("after A")
    expected = {
        "a": "A",
        "b": b,
        "c": f"awaited {b}",
        "d": f"threaded awaited {b}",
        "e": f"[threaded awaited {b} and A]",
    }
    assert expected == {id_: text for id_, text in stems(project).items() if id_ != "other"}
    assert set() == rendered(job(project))


@pytest.mark.parametrize("more", ["workers: 0", "limits: {batch_size: 1}\nworkers: 1"])
def test_needs_however_narrow(project: Project, api: MessagesAPI, more: str) -> None:
    """With one worker, none, or a chunk of one, nobody waits for ever."""
    chain(project)
    result = batch_generate(job(project, more))
    assert ({}, 6) == (errors(result), result.successful)


def test_a_need_that_fails(project: Project) -> None:
    """Those that need it, near and far, fail with its name; all others are rendered."""
    config(project, "bad", "awaited", None, {"fail": True})
    config(project, "near", "template_fill", "{{bad}}", needs=("bad",))
    config(project, "far", template="{{ near }}", needs=("near",))
    config(project, "good")
    config(project, "fine", template="{{ good }}", needs=("good",))
    result = batch_generate(job(project))
    assert {"bad": "ValueError", "near": "NeedFailed", "far": "NeedFailed"} == errors(result)
    assert "needs 'bad', which failed" in message(result, "near")
    assert "needs 'near', which failed" in message(result, "far")
    assert result.failed
    assert {"good": "I am good\n", "fine": "I am good\n"} == stems(project)
    config(project, "bad", "awaited", None)
    assert {"bad", "near", "far"} == rendered(job(project))
    assert set() == rendered(job(project))


def test_a_need_that_is_tried_again(project: Project) -> None:
    """Who needs it waits until it is done in the end."""
    flag = project.folder / "flag"
    project.write("plugin.py", PLUGIN)
    config(project, "late", "flaky", None, {"flag": str(flag)})
    config(project, "needing", template="<{{ late }}>", needs=("late",))
    loaded = job(project, "errors: {retries: 2, backoff: {min: 10ms, max: 20ms}}")
    flaky = (
        "\ndef flaky(spec, context):\n    try: os.mkdir(context['flag'])\n"
        "    except FileExistsError: return 'there'\n    raise ConnectionError('not yet')\n"
        "GENERATORS['flaky'] = flaky\n"
    )
    project.write("plugin.py", PLUGIN + flaky)
    assert {} == errors(batch_generate(loaded))
    assert "<there>" == stems(project)["needing"]


# -- what is wrong with an item


def test_bad_configs_fail_alone(project: Project) -> None:
    """Cycles, unknown generators and configs, missing files: a failure each, exit code 1, the rest is rendered."""
    config(project, "good")
    config(project, "one", needs=("two",))
    config(project, "two", needs=("one",))
    config(project, "self", needs=("self",))
    config(project, "unknown", "jinja3")
    config(project, "lonely", needs=("nobody",))
    config(project, "file", context={"data": {"source": "file", "path": "nowhere.json"}})
    config(project, "template", template="nowhere.j2")
    config(project, "syntax", template="{% if %}")
    config(project, "undefined", "template_fill", "{{nobody}}")
    project.write("configs/content/broken.json", '{"type": "content", ')
    result = batch_generate(job(project))
    expected = {
        "one": "CycleError", "two": "CycleError", "self": "CycleError", "unknown": "UnknownGenerator",
        "lonely": "UnknownConfig", "file": "FileNotFoundError", "template": "TemplateNotFound",
        "syntax": "TemplateSyntaxError", "undefined": "GenerationError", "broken": "ConfigError",
    }  # fmt: skip
    assert expected == errors(result)
    assert {"good": "I am good\n"} == stems(project)
    assert "nowhere.json" in message(result, "file")
    assert "jinja3" in message(result, "unknown")
    done = project.run("render", "job.yaml")
    assert 1 == done.returncode
    assert "Traceback" not in done.stderr


def test_no_key(project: Project, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key for the service its items fail, those with a fallback do not, and nothing is asked."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    code(project, "keyless", "x")
    code(project, "fallback", "x", fallback_template="PASS = {{ 1 }}")
    config(project, "good")
    result = batch_generate(job(project))
    assert "GenerationError" == errors(result)["keyless"]
    assert "ANTHROPIC_API_KEY" in message(result, "keyless")
    assert "good" in stems(project)
    assert [] == api.requests
    assert result.failed


def test_malformed_answers(project: Project, api: MessagesAPI) -> None:
    """Answers that are none, of every kind: a failure each, with no traceback, and the others have theirs."""
    names = [name for name in MALFORMED if "usage" not in name]
    for number, name in enumerate(names):
        code(project, f"bad-{number}", f"malformed: {name}")
        code(project, f"good-{number}", f"fine {number}")
    usual = api.script
    assert callable(usual)
    api.script = lambda body: MALFORMED.get(asked(body).partition("malformed: ")[2]) or usual(body)
    result = batch_generate(job(project))
    assert {f"good-{number}": answer(f"fine {number}") for number in range(len(names))} == stems(project)
    assert {f"bad-{number}" for number in range(len(names))} == errors(result).keys()
    assert result.failed
    assert KEY not in project.run("status", "job.yaml").stdout


def test_a_service_that_throttles(project: Project, api: MessagesAPI) -> None:
    """A 429 holds all, and all are done in the end, within the rate."""
    for number in range(12):
        code(project, f"c{number}", f"number {number}")
    replies: list[Reply | None] = [None, Reply(status=429, headers={"retry-after": "0.3"})]
    api.script = lambda _: replies.pop(0) if replies else None
    result = batch_generate(job(project, "generators: {code_generation: {rate: 60/s, max_in_flight: 4}}"))
    assert ({}, 12) == (errors(result), result.successful)
    assert 13 == len(api.requests)
    assert api.most_at_once <= 4


def test_many_requests_at_once(project: Project, api: MessagesAPI) -> None:
    """The service sees as many as may be in flight at once, from one worker."""
    for number in range(40):
        code(project, f"c{number}", f"number {number}")
    api.script = lambda _: Reply(together=20)
    result = batch_generate(job(project, "generators: {code_generation: {max_in_flight: 20}}"))
    assert ({}, 40, 20) == (errors(result), result.successful, api.most_at_once)


# -- what a change renders again


@pytest.fixture
def done(project: Project) -> Project:
    """A project whose documents are all up to date."""
    project.write("configs/content/data.toml", "x = 1")
    config(project, "data", template="{{ d.x }}", context={"d": {"source": "file", "path": "data.toml"}})
    config(project, "page", template="page.j2", context={"title": "One"})
    config(project, "on-page", "template_fill", "<{{page}}>", needs=("page",))
    config(project, "on-data", "awaited", None, needs=("data",))
    config(project, "far", template="{{ x }}", context={"x": {"source": "config", "path": "on-data"}})
    config(project, "alone")
    assert 6 == batch_generate(job(project)).successful
    return project


def test_a_config_changes(done: Project) -> None:
    """One that nobody needs is rendered alone."""
    config(done, "alone", context={"more": 1})
    assert {"alone"} == rendered(job(done))
    assert set() == rendered(job(done))


def test_a_file_of_a_context_changes(done: Project) -> None:
    """Those that are made from it, near and far, and nothing else."""
    done.write("configs/content/data.toml", "x = 2")
    assert {"data", "on-data", "far"} == rendered(job(done))
    assert "awaited 2" == stems(done)["far"]
    assert set() == rendered(job(done))


def test_a_needed_config_changes(done: Project) -> None:
    """So are those that need it."""
    config(done, "page", template="page.j2", context={"title": "Two"})
    assert {"page", "on-page"} == rendered(job(done))
    assert "<page Two>" == stems(done)["on-page"]
    assert set() == rendered(job(done))


def test_a_template_changes(done: Project) -> None:
    """What is made from it, and from what is made from it; what has no template of the folder's stays as it is."""
    loaded = job(done)
    done.write("templates/page.j2", "new {{ title }}")
    assert {"page", "on-page"} <= rendered(loaded) <= {"page", "on-page", "on-data", "far"}
    assert "<new One>" == stems(done)["on-page"]
    assert set() == rendered(loaded)


def test_a_dependent_alone_after_its_needs_template_has_changed(done: Project) -> None:
    """Asked for by itself, it is made from what its need is now."""
    loaded = job(done)
    done.write("templates/page.j2", "new {{ title }}")
    rendered(loaded, only="on-page")
    assert "<new One>" == stems(done)["on-page"]


def test_a_document_is_gone(done: Project) -> None:
    """It is rendered again, without those that need its text."""
    (done.out / "page.txt").unlink()
    assert "page" in rendered(job(done))
    assert "<page One>" == stems(done)["on-page"]
    assert set() == rendered(job(done))


def test_a_config_is_gone(done: Project) -> None:
    """Its document is an orphan, and those that need it say so."""
    (done.folder / "configs/content/page.json").unlink()
    result = batch_generate(job(done))
    assert {"on-page": "UnknownConfig"} == errors(result)
    assert 1 == result.orphaned


def test_only_a_dependent(project: Project) -> None:
    """Asked for by itself, it takes along what it needs and is not there, and nothing more."""
    config(project, "a")
    config(project, "b", needs=("a",), template="<{{ a }}>")
    config(project, "c", needs=("b",), template="({{ b }})")
    config(project, "other")
    loaded = job(project)
    assert {"a", "b"} == rendered(loaded, only="b")
    assert {"c"} == rendered(loaded, only="c")
    assert "(<I am a\n>)" == stems(project)["c"]
    assert {"other"} == rendered(loaded)


def test_a_text_is_gone(done: Project) -> None:
    """What others take from each other is made again if somebody wants it and it is gone."""
    for path in (done.out / ".chora-mp" / "texts").iterdir():
        path.unlink()
    assert set() == rendered(job(done))
    config(done, "on-page", "template_fill", "!{{page}}", needs=("page",))
    assert {"page", "on-page"} == rendered(job(done))
    assert "!page One" == stems(done)["on-page"]


def test_failed_and_retry_failed(project: Project) -> None:
    """`failed` and `retry_failed` render what failed, and what that took with it."""
    flag = project.folder / "flag"
    config(project, "late", "once", None, {"flag": str(flag)})
    config(project, "needing", template="<{{ late }}>", needs=("late",))
    config(project, "good")
    loaded = job(project)
    result = batch_generate(loaded)
    assert {"late": "ValueError", "needing": "NeedFailed"} == errors(result)
    assert {"late", "needing"} == rendered(loaded, failed=True)
    flag.write_text("")
    again = retry_failed(result.failures)
    assert ({}, 2) == (errors(again), again.successful)
    assert "<there>" == stems(project)["needing"]
    assert set() == rendered(loaded, failed=True) | rendered(loaded)


def test_failed_after_mending(project: Project) -> None:
    """The command's --failed does the same."""
    flag = project.folder / "flag"
    config(project, "late", "once", None, {"flag": str(flag)})
    config(project, "needing", template="<{{ late }}>", needs=("late",))
    job(project)
    assert 1 == project.render()[0]
    flag.write_text("")
    code_, summary, err = project.render("--failed")
    assert (0, 2) == (code_, summary["successful"]), err
    assert "<there>" == stems(project)["needing"]


def test_using_a_template(done: Project) -> None:
    """Whatever is made from a template, up to date or not, if it is forced."""
    config(done, "other-page", template="page.j2", context={"title": "Three"})
    found = rendered(job(done), using="page.j2", force=True)
    assert {"page", "other-page"} <= found
    assert not {"alone", "data"} & found


# -- order


@pytest.mark.parametrize("workers", [0, 1])
def test_priorities(project: Project, workers: int) -> None:
    """High before medium before low, whatever their names are, where there is one worker."""
    levels = ["low", "high", "medium", 75, -1]
    for number in range(20):
        config(project, f"c{number:02}", priority=levels[number % 5])
    order = [item.key for item in batch_generate_stream(job(project, f"workers: {workers}"))]
    rank = ["high", 75, "medium", "low", -1]
    expected = sorted(
        (f"c{number:02}" for number in range(20)), key=lambda key: (rank.index(levels[int(key[1:]) % 5]), key)
    )
    assert expected == order


def test_priorities_over_generators(project: Project) -> None:
    """The same where two generators take turns, inline: what is low begins when all that is high has begun."""
    for number in range(10):
        priority = ["low", "high"][number % 2]
        config(project, f"j{number}", priority=priority)
        config(project, f"t{number}", "template_fill", "x", priority=priority)
    order = [item.key for item in batch_generate_stream(job(project, "workers: 0"))]
    low = [place for place, key in enumerate(order) if int(key[1:]) % 2 == 0]
    # A span that is done may be told of after one that was handed out later; it is one of ten records at the most.
    assert sum(place < 10 for place in low) <= 5
    assert {"high"} == {["low", "high"][int(key[1:]) % 2] for key in order[:5]}


def test_duplicate_outputs(project: Project) -> None:
    """Two configs that would be written to one file end the run before anything is rendered."""
    config(project, "a")
    config(project, "b")
    job(project)
    text = (project.folder / "job.yaml").read_text().replace("{{ id }}", "same")
    project.write("job.yaml", text)
    done = project.run("render", "job.yaml")
    assert 2 == done.returncode
    assert "must be unique" in done.stderr
    assert {} == project.outputs()


def test_the_fast_ones_do_not_wait_for_the_slow_ones(project: Project, api: MessagesAPI) -> None:
    """All documents of templates are back while the service has not answered once."""
    gate = threading.Event()

    def held(_: dict[str, Any]) -> Reply | None:
        return None if gate.is_set() else Reply(status=529, message="busy")

    api.script = held
    fast = {f"f{number}" for number in range(30)}
    for name in fast:
        config(project, name)
    for number in range(5):
        code(project, f"slow{number}", f"number {number}", priority="high")
    loaded = job(project, "errors: {retries: 400, backoff: {min: 50ms, max: 50ms}}\nlimits: {batch_timeout: 30s}")
    items: list[ItemResult] = []

    async def main() -> None:
        async for item in abatch_generate_stream(loaded):
            items.append(item)
            if fast <= {one.key for one in items}:
                gate.set()

    asyncio.run(main())
    assert gate.is_set()
    assert {"rendered"} == {item.status for item in items}
    assert {f"slow{number}" for number in range(5)} == {item.key for item in items[-5:]}


def test_a_death_in_a_mixed_batch(project: Project) -> None:
    """Each lane finds its own culprit; the others' items are rendered, and needs of the dead fail by name."""
    deadly = "\nasync def adie(spec, context): os._exit(3)\ndef die(spec, context): os._exit(4)\n"
    for number in range(10):
        config(project, f"j{number}")
        config(project, f"w{number}", "awaited", None, {"a": number})
    config(project, "adie", "adie", None)
    config(project, "die", "die", None)
    config(project, "needing", template="{{ die }}", needs=("die",))
    loaded = job(project)
    project.write("plugin.py", PLUGIN + deadly + "GENERATORS |= {'adie': adie, 'die': die}\n")
    result = batch_generate(loaded)
    assert {"adie": "WorkerDied", "die": "WorkerDied", "needing": "NeedFailed"} == errors(result)
    assert 20 == result.successful
