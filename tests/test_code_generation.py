"""Code from a language model: what is asked, what is taken from the answer, and what each failure becomes."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import pickle
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from messages_api import MALFORMED, MessagesAPI, Reply, lead_to, prompt_of, usual_code

from chora_mp.generators import Generated, GenerationError, Throttled, code_generation, generator_of
from chora_mp.generators.code_generation import MODEL, ServiceError, generate
from chora_mp.policy import may_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-ant-test-0123456789abcdef"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesAPI]:
    """The server, and an environment that leads to it."""
    with MessagesAPI() as server:
        lead_to(server, KEY, monkeypatch)
        yield server


def ask(context: dict[str, Any] | None = None, **config: Any) -> Generated:
    """One document, as a run of its own; the prompt is 'Add.' where there is no other."""
    return asyncio.run(generate({"generation_config": {"prompt": "Add.", **config}}, context or {}))


def failure(**config: Any) -> Exception:
    """What one document fails with."""
    with pytest.raises((GenerationError, OSError, Throttled)) as caught:
        ask(**config)
    return caught.value


def saying(text: str, **config: Any) -> Any:
    """The code taken from an answer."""
    with MessagesAPI([text]) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_BASE_URL", server.url)
        return ask(**config).text


def test_the_code_and_its_cost_come_back(api: MessagesAPI) -> None:
    """The block in the answer is the document, and what the answer says of tokens is its cost."""
    made = ask()
    prompt = prompt_of(api.requests[0].body)
    assert usual_code(prompt) == made.text
    assert {"input_tokens": len(prompt.split()), "output_tokens": 5} == made.usage


def test_cache_fields_count_where_they_are_not_zero(api: MessagesAPI) -> None:
    """Tokens of the cache are counted only where there are any."""
    usage = {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": None}
    api.script = [Reply(change={"usage": usage})]
    assert {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3} == ask().usage


def test_what_is_asked(api: MessagesAPI) -> None:
    """Prompt, language, hints and system prompt are in the request, with their placeholders filled."""
    ask(
        {"name": "Ada"},
        prompt="Greet {{name}}.",
        system_prompt="Be {{name}}.",
        style_hints=["short", "for {{name}}"],
        language="Rust",
        model="claude-haiku-5-5",
        max_tokens=99,
        temperature=0.5,
    )
    body = api.requests[0].body
    prompt = prompt_of(body)
    assert ["Greet Ada.", True, True, True] == [
        prompt.split("\n")[0], "in Rust" in prompt, "- short\n- for Ada" in prompt, "code only" in prompt,
    ]  # fmt: skip
    assert ("Be Ada.", "claude-haiku-5-5", 99, 0.5) == tuple(
        body[name] for name in ("system", "model", "max_tokens", "temperature")
    )


def test_usual_values(api: MessagesAPI) -> None:
    """A temperature and a system prompt are sent only where they are asked for, as current models refuse the former."""
    ask()
    body = api.requests[0].body
    assert (MODEL, 4096) == (body["model"], body["max_tokens"])
    assert {"model", "max_tokens", "messages"} == set(body)


def test_a_temperature_goes_with_the_version_that_takes_one(api: MessagesAPI) -> None:
    """A temperature of 0 is sent, with the last version of the API that had it."""
    ask(temperature=0)
    assert (0, "2023-06-01") == (api.requests[0].body["temperature"], api.requests[0].headers["anthropic-version"])


def test_the_template_stands_in_for_the_prompt(api: MessagesAPI) -> None:
    """Without a prompt the template is it."""
    asyncio.run(generate({"template": "Write {{what}}.", "generation_config": {}}, {"what": "less"}))
    assert prompt_of(api.requests[0].body).startswith("Write less.\n")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("x = 1", None, "x = 1\n"),
        ("\nx = 1\n\n\n", "python", "x = 1\n"),
        ("Here:\n```python\nx = 1\n```\nDone.", "python", "x = 1\n"),
        ("```sh\npip\n```\n```py\nx = 1\n```\n```python\ny\n```", "Python", "x = 1\n"),
        ("```sh\npip\n```\n```js\nx\n```", "python", "pip\n"),
        ("```sh\npip\n```\n```js\nx\n```", None, "pip\n"),
        ("~~~\nx\n```\ny\n~~~", None, "x\n```\ny\n"),
        ("````md\n```python\nx\n```\n````", "markdown", "```python\nx\n```\n"),
        ('```python\n"""\n    ```\n    x\n    ```\n"""\n```', "python", '"""\n    ```\n    x\n    ```\n"""\n'),
        ("```c++\nint x;\n```", "cpp", "int x;\n"),
        ("```python title=a.py\r\nx\r\n```\r\n", "python", "x\n"),
        ("```{.python .numbered}\nx\n```", "python", "x\n"),
        ("```python\nx = 1\n", "python", "x = 1\n"),
        ("Use ```x``` here.", None, "Use ```x``` here.\n"),
        ("```python\n    x\n\n```", "python", "    x\n"),
    ],
)
def test_code_is_taken_out_of_its_fences(api: MessagesAPI, text: str, language: str | None, expected: str) -> None:
    """The first block in the language, else the first block, else the text, with one newline at the end."""
    assert expected == saying(text, language=language)


def test_text_blocks_are_joined(api: MessagesAPI) -> None:
    """All text blocks make the text; blocks of other types are left out."""
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x ="}, {"type": "text", "text": " 1"}]
    api.script = [Reply(change={"content": blocks})]
    assert "x = 1\n" == ask().text


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(text=""), "the answer has no text in it"),
        (Reply(text=" \n "), "the answer has no text in it"),
        (Reply(change={"content": []}), "the answer has no text in it"),
        (Reply(change={"content": [{"type": "tool_use", "id": "1"}]}), "the answer has no text in it"),
        (Reply(text="```\n\n```"), "a code block with nothing in it"),
        (Reply(change={"stop_reason": "max_tokens"}), "the code is cut off"),
        (Reply(change={"stop_reason": "refusal"}), "the model declines"),
    ],
)
def test_answers_that_are_no_code(api: MessagesAPI, reply: Reply, words: str) -> None:
    """An answer that is empty, cut off or a refusal fails the document, and has been paid for all the same."""
    api.script = [reply, reply]
    problem = failure()
    assert (GenerationError, True) == (type(problem), words in str(problem))
    made = ask(fallback_template="pass")
    assert ("pass\n", True) == (made.text, made.usage["input_tokens"] > 0)


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_answers(api: MessagesAPI, kind: str) -> None:
    """An answer of any other shape fails the document and says so."""
    api.script = [MALFORMED[kind]]
    problem = failure()
    assert (GenerationError, "the API's answer is malformed") == (type(problem), str(problem).partition(":")[0])


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, GenerationError, "HTTP 400: as asked"),
        (404, GenerationError, "HTTP 404: as asked"),
        (422, GenerationError, "HTTP 422: as asked"),
        (401, GenerationError, "the API refuses the key (HTTP 401): as asked"),
        (403, GenerationError, "the API refuses the key (HTTP 403): as asked"),
        (408, ServiceError, "HTTP 408: as asked"),
        (500, ServiceError, "HTTP 500: as asked"),
        (502, ServiceError, "HTTP 502: as asked"),
        (503, ServiceError, "HTTP 503: as asked"),
        (529, ServiceError, "HTTP 529: as asked"),
    ],
)
def test_statuses(api: MessagesAPI, status: int, kind: type[Exception], message: str) -> None:
    """Each HTTP status becomes what the run can do about it, and is asked for once."""
    api.script = [Reply(status=status)]
    problem = failure()
    assert (kind, message, 1) == (type(problem), str(problem), len(api.requests))
    assert issubclass(kind, OSError) == may_pass(problem, ())


def test_an_error_that_is_no_json(api: MessagesAPI) -> None:
    """The text of a proxy in between is told as it is, on one line."""
    api.script = [Reply(status=502, body=b"<p>Bad\n Gateway</p>")]
    assert "HTTP 502: <p>Bad Gateway</p>" == str(failure())


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {}, 5.0),
        (429, {"retry-after": "7"}, 7.0),
        (429, {"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        (429, {"retry-after": "0"}, 0.1),
        (429, {"retry-after": "-3"}, 0.1),
        (429, {"retry-after": "86400"}, 600.0),
        (429, {"retry-after": "soon"}, 5.0),
        (429, {"retry-after": "nan"}, 5.0),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.1),
        (503, {"retry-after": "2"}, 2.0),
        (529, {"retry-after": "3"}, 3.0),
    ],
)
def test_requests_to_wait(api: MessagesAPI, status: int, headers: dict[str, str], expected: float) -> None:
    """A request to wait gives the seconds, within bounds, and passes by retries and fallbacks."""
    api.script = [Reply(status=status, headers=headers)]
    problem = failure(retry_count=3, fallback_template="pass")
    assert isinstance(problem, Throttled)
    assert (expected, f"HTTP {status}: as asked", 1) == (problem.seconds, str(problem), len(api.requests))


def test_a_date_to_wait_for(api: MessagesAPI) -> None:
    """A date in the header is so many seconds from now."""
    api.script = [Reply(status=429, headers={"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})]
    problem = failure()
    assert isinstance(problem, Throttled)
    assert 30 < problem.seconds <= 60


@pytest.mark.parametrize("how", ["drop", "refuse"])
def test_broken_connections(api: MessagesAPI, how: Any) -> None:
    """A connection that ends before the answer does may do better later."""
    api.script = [Reply(how=how)]
    problem = failure()
    assert (ConnectionError, True) == (type(problem), may_pass(problem, ()))
    assert str(problem).startswith("no connection to the API: ")


def test_nobody_listens(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which nobody listens is a broken connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert ConnectionError is type(failure())


@pytest.mark.parametrize("reply", [Reply(latency=30), Reply(how="drip")])
def test_no_answer_in_time(api: MessagesAPI, reply: Reply) -> None:
    """The timeout bounds the whole request, bytes that drip included."""
    api.script = [reply]
    start = time.monotonic()
    problem = failure(timeout="700ms")
    assert (TimeoutError, "no answer within 0.7 s", True) == (type(problem), str(problem), may_pass(problem, ()))
    assert time.monotonic() - start < 15


def test_further_attempts(api: MessagesAPI) -> None:
    """Failures that may pass are tried again after pauses that double; others are not."""
    api.script = [Reply(status=500), Reply(how="drop"), "x = 1"]
    assert "x = 1\n" == ask(retry_count=2, retry_delay="100ms").text
    first, second, third = (request.time for request in api.requests)
    assert second - first >= 0.1
    assert third - second >= 0.2
    api.script = [Reply(status=400)]
    failure(retry_count=2)
    assert 4 == len(api.requests)


def test_attempts_come_to_an_end(api: MessagesAPI) -> None:
    """After the last attempt the failure is the document's."""
    api.script = lambda _: Reply(status=500)
    assert (ServiceError, 3) == (type(failure(retry_count=2, retry_delay=0.01)), len(api.requests))


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(status=401), Reply(how="drop"), MALFORMED["a list"]])
def test_the_fallback(api: MessagesAPI, reply: Reply) -> None:
    """Where the service fails, the fallback is the document, with its placeholders filled, and costs nothing."""
    api.script = [reply]
    assert Generated("# Ada\n", {}) == ask({"name": "Ada"}, fallback_template="# {{name}}")


@pytest.mark.parametrize("key", [None, "", "  "])
def test_no_key(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    """Without a key there is the fallback, or an error before any other."""
    monkeypatch.delenv("ANTHROPIC_API_KEY") if key is None else monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    assert str(failure(model=7)).startswith("ANTHROPIC_API_KEY is not set; ")
    assert Generated("pass\n", {}) == ask(fallback_template="pass")
    assert "generation_config.prompt" in str(failure(fallback_template="pass", prompt=None))
    assert [] == api.requests


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", 7),
        ("model", " "),
        ("prompt", ["x"]),
        ("prompt", None),
        ("prompt", ""),
        ("system_prompt", 1),
        ("language", True),
        ("style_hints", "short"),
        ("style_hints", ["short", 1]),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", 1.5),
        ("temperature", float("nan")),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("max_tokens", 1.5),
        ("timeout", "soon"),
        ("timeout", 0),
        ("retry_count", -1),
        ("retry_count", True),
        ("retry_delay", "x"),
        ("fallback_template", 3),
    ],
)
def test_wrong_configurations(api: MessagesAPI, key: str, value: Any) -> None:
    """A wrong value fails with its key and what was found, fallback or not, and nothing is asked."""
    problem = failure(**{"fallback_template": "pass", key: value})
    assert (GenerationError, f"generation_config.{key}") == (type(problem), str(problem).partition(":")[0])
    assert "(found " in str(problem)
    assert [] == api.requests


def test_a_configuration_that_is_none(api: MessagesAPI) -> None:
    """A configuration is a mapping."""
    with pytest.raises(GenerationError, match=r"generation_config: must be a mapping \(found 'x'\)"):
        asyncio.run(generate({"generation_config": "x"}, {}))


@pytest.mark.parametrize("address", ["nowhere", "ftp://host", "http://", "http://u:secret@host:port"])
def test_wrong_addresses(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """An address that is none is an error of the settings, told without the password in it."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
    problem = failure()
    assert (GenerationError, "ANTHROPIC_BASE_URL") == (type(problem), str(problem).partition(":")[0])
    assert "secret" not in str(problem)


def everything(problem: BaseException) -> str:
    """All that a report may show of an error."""
    shown = "".join(traceback.format_exception(problem))
    return shown + repr(problem) + str(vars(problem)) + repr(pickle.dumps(problem))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=401, message=f"invalid key {KEY}"),
        Reply(status=429, message=f"too much of {KEY}"),
        Reply(status=500, body=KEY.encode()),
        Reply(how="drop"),
        Reply(latency=30),
    ],
)
def test_the_key_is_nowhere(api: MessagesAPI, reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """No message, traceback, log or module variable holds the key, even if the service repeats it."""
    caplog.set_level("DEBUG")
    api.script = [reply]
    assert KEY not in everything(failure(timeout=0.5))
    assert KEY not in repr(vars(code_generation))
    assert not [record for record in caplog.records if KEY in record.getMessage()]
    assert any(KEY in value for value in api.requests[0].headers.values())


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY} x", f"{KEY}\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_key_that_no_header_takes(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A key with wrong characters is refused without being shown; blanks around one are not part of it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    problem = failure()
    assert (True, False) == ("ANTHROPIC_API_KEY" in str(problem), KEY in everything(problem))
    monkeypatch.setenv("ANTHROPIC_API_KEY", f" {KEY}\n")
    made = ask()
    assert usual_code(prompt_of(api.requests[0].body)) == made.text


def test_a_key_in_the_configuration(api: MessagesAPI) -> None:
    """A key in a file is refused without being shown."""
    problem = failure(api_key=KEY)
    assert ("generation_config.api_key", False) == (str(problem).partition(":")[0], KEY in str(problem))


def test_without_the_sdk(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says how to get it."""
    monkeypatch.setitem(sys.modules, "anthropic", None)
    assert str(failure(fallback_template="pass")).endswith("; install chora-mp[ai]")


def test_a_loop_has_one_client(api: MessagesAPI) -> None:
    """Requests one after the other share a connection; the loop's end closes it, and the next loop has its own."""

    async def several() -> None:
        for _ in range(3):
            await generate({"generation_config": {"prompt": "Add."}}, {})
        assert 1 == len(code_generation._open)

    asyncio.run(several())
    assert (1, {}) == (api.connections, code_generation._open)
    asyncio.run(several())
    assert (2, {}, 6) == (api.connections, code_generation._open, len(api.requests))
    gc.collect()  # an unclosed socket would warn here


def test_another_key_has_another_client(api: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed key is used from then on."""

    async def two() -> None:
        for key in (KEY, "sk-other"):
            monkeypatch.setenv("ANTHROPIC_API_KEY", key)
            await generate({"generation_config": {"prompt": "Add."}}, {})

    asyncio.run(two())
    assert [KEY in str(request.headers) for request in api.requests] == [True, False]


def test_many_at_once(api: MessagesAPI) -> None:
    """Hundreds of requests are under way together, and each gets its own answer."""
    count = 500
    api.script = lambda _: Reply(together=count)

    async def all_of_them() -> list[Generated]:
        specs = [{"generation_config": {"prompt": f"Add {number}."}} for number in range(count)]
        return await asyncio.gather(*(generate(spec, {}) for spec in specs))

    made = asyncio.run(all_of_them())
    assert (count, count) == (api.most_at_once, len({one.text for one in made}))


def test_cancelling_frees_the_connection(api: MessagesAPI) -> None:
    """A cancelled request ends at once, and the client serves the next."""
    api.script = [Reply(latency=30), "x = 1"]

    async def cancelled() -> str:
        spec = {"generation_config": {"prompt": "Add."}}
        first = asyncio.ensure_future(generate(spec, {}))
        while not api.requests:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return (await generate(spec, {})).text

    assert "x = 1\n" == asyncio.run(cancelled())


def test_it_runs_on_asyncio() -> None:
    """The generator is one for the lane of waiting."""
    assert ("asyncio", True) == (generator_of("x", generate).lane, generator_of("x", generate).concurrent)


def test_errors_travel() -> None:
    """The service's error comes out of a pickle as it went in."""
    error = pickle.loads(pickle.dumps(ServiceError("HTTP 500: x")))
    assert (ServiceError, "HTTP 500: x") == (type(error), str(error))
