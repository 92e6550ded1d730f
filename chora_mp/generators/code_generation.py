"""Code that a language model writes, asked for through Anthropic's Messages API.

The key comes from `ANTHROPIC_API_KEY` and from nowhere else, the address from `ANTHROPIC_BASE_URL` where that is set.
What may pass is an `OSError` (`ServiceError`, `ConnectionError`, `TimeoutError`), a request to wait is `Throttled`, and
all else is a `GenerationError`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from chora_mp.generators import Generated, GenerationError, Throttled, generator
from chora_mp.generators.placeholders import fill, settings_of
from chora_mp.units import quoted, seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    import anthropic

MODEL = "claude-sonnet-5-5"
"""Only what is asked where a configuration names no model: models come and go, and a job had better name its own."""

MAX_TOKENS = 4096
TIMEOUT, RETRY_DELAY = 60.0, 1.0  # seconds

_ADDRESS = "https://api.anthropic.com"
_LONGEST_PAUSE = 600.0
_SHORTEST_WAIT, _USUAL_WAIT, _LONGEST_WAIT = 0.1, 5.0, 600.0

# The API took a temperature up to this version; from 2026-10-21 on it refuses one, whatever the model.
_SAMPLING_VERSION = "2023-06-01"


class ServiceError(ConnectionError):
    """The service failed at a request that may well succeed later."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What to ask for, all placeholders filled."""

    model: str
    prompt: str
    max_tokens: int
    timeout: float
    system: str | None
    temperature: float | None
    language: str | None
    retries: int
    retry_delay: float
    fallback: str | None


class _Answer(NamedTuple):
    """What an answer says and cost, and why it ended."""

    text: str
    usage: dict[str, int]
    stop_reason: str | None


@generator(lane="asyncio")
async def generate(spec: Mapping[str, Any], context: Mapping[str, Any]) -> Generated:
    """Code that a model of Anthropic's writes as `generation_config` asks; if that fails, its `fallback_template`."""
    config = _config(spec)
    key = os.environ.get("ANTHROPIC_API_KEY", "").strip()
    if not key and config.get("fallback_template") is None:
        raise GenerationError("ANTHROPIC_API_KEY is not set; put your key into that environment variable")
    order = _order(config, spec, context)
    if not key and order.fallback is not None:
        return Generated(_ended(order.fallback), {})
    _sdk()
    usage: dict[str, int] = {}
    try:
        answer = await _patiently(order, key)
        usage = answer.usage  # what nobody can use has been paid for all the same
        return Generated(_code(answer, order.language), usage)
    except (GenerationError, OSError):
        if order.fallback is None:
            raise
        return Generated(_ended(order.fallback), usage)


# What is asked for ----------------------------------------------------------------------------------------------------


def _config(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of the specification that is this generator's."""
    config = settings_of(spec)
    if "api_key" in config:  # and its value is nobody's to read in a message
        raise GenerationError("generation_config.api_key: keys do not belong into files; set ANTHROPIC_API_KEY instead")
    return config


def _order(config: Mapping[str, Any], spec: Mapping[str, Any], context: Mapping[str, Any]) -> _Order:
    """What the configuration asks for; every value is looked at, so that a wrong one shows at once."""

    def filled(text: str | None) -> str | None:
        return None if text is None else fill(text, context)

    language = _text(config, "language")
    hints = [fill(hint, context) for hint in _hints(config)]
    return _Order(
        model=_text(config, "model") or MODEL,
        prompt=_prompt(fill(_request(config, spec), context), language, hints),
        max_tokens=_whole(config, "max_tokens", MAX_TOKENS, 1, 10**9),
        timeout=_duration(config, "timeout", TIMEOUT),
        system=filled(_text(config, "system_prompt")),
        temperature=_temperature(config),
        language=language,
        retries=_whole(config, "retry_count", 0, 0, 100),
        retry_delay=_duration(config, "retry_delay", RETRY_DELAY),
        fallback=filled(_text(config, "fallback_template", empty=True)),
    )


def _prompt(request: str, language: str | None, hints: list[str]) -> str:
    """The message to the model."""
    if not request.strip():
        raise GenerationError("generation_config.prompt: nothing is left of it once its placeholders are filled")
    parts = [request.strip()]
    if language:
        parts.append(f"Write it in {language}.")
    if hints:
        parts.append("\n".join(["Keep to this style:", *(f"- {hint}" for hint in hints)]))
    parts.append("Answer with the code only, in one fenced code block, with no words before or after it.")
    return "\n\n".join(parts)


def _request(config: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """The prompt, or the template in its place."""
    prompt = _text(config, "prompt")
    if prompt is None and spec.get("template") is not None:
        prompt = _text(spec, "template", where="")
    if prompt is None:
        raise GenerationError("generation_config.prompt: is missing (found no template either); say what code to write")
    return prompt


def _text(config: Mapping[str, Any], key: str, *, where: str = "generation_config.", empty: bool = False) -> str | None:
    """A text of the configuration, or None where there is none."""
    value = config.get(key)
    if value is None or (isinstance(value, str) and (value.strip() or empty)):
        return value
    raise GenerationError(
        f"{where}{key}: must be a text{'' if empty else ' that is not empty'} (found {quoted(value)})"
    )


def _hints(config: Mapping[str, Any]) -> list[str]:
    """The style hints."""
    value = config.get("style_hints")
    if value is None:
        return []
    if isinstance(value, list | tuple) and all(isinstance(hint, str) for hint in value):
        return list(value)
    raise GenerationError(f"generation_config.style_hints: must be a list of texts (found {quoted(value)})")


def _whole(config: Mapping[str, Any], key: str, usual: int, least: int, most: int) -> int:
    """A whole number of the configuration."""
    value = config.get(key)
    if value is None:
        return usual
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    message = f"must be a whole number from {least:,} to {most:,} (found {quoted(value)})"
    raise GenerationError(f"generation_config.{key}: {message}")


def _temperature(config: Mapping[str, Any]) -> float | None:
    """The temperature, if the configuration has one."""
    value = config.get("temperature")
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise GenerationError(f"generation_config.temperature: must be a number from 0 to 1 (found {quoted(value)})")


def _duration(config: Mapping[str, Any], key: str, usual: float) -> float:
    """Seconds that the configuration gives as a number or as a text with a unit."""
    value = config.get(key)
    try:
        return usual if value is None else seconds(value)
    except ValueError as error:
        raise GenerationError(f"generation_config.{key}: {error}") from None


# Asking ---------------------------------------------------------------------------------------------------------------


async def _patiently(order: _Order, key: str) -> _Answer:
    """The answer after as many attempts as the configuration allows."""
    for attempt in range(order.retries):
        try:
            return await _ask(order, key)
        except OSError:
            await asyncio.sleep(min(_LONGEST_PAUSE, order.retry_delay * 2.0**attempt))
    return await _ask(order, key)


async def _ask(order: _Order, key: str) -> _Answer:
    """The answer to one request."""
    client = await _client(key)
    try:
        # httpx bounds each read by itself, and a byte now and then would do.
        async with asyncio.timeout(order.timeout):
            raw = await client.messages.with_raw_response.create(**_body(order))
        return _read(raw.http_response.content)
    except (TimeoutError, _sdk().APITimeoutError):
        problem: Exception = TimeoutError(f"no answer within {order.timeout:g} s")
    except _sdk().AnthropicError as error:
        problem = _translated(error, lambda text: text.replace(key, "***"))
    raise problem  # out here, for the SDK's errors hold the request and with it the key


def _body(order: _Order) -> dict[str, Any]:
    """The arguments of the SDK's method."""
    body: dict[str, Any] = {
        "model": order.model,
        "max_tokens": order.max_tokens,
        "messages": [{"role": "user", "content": order.prompt}],
        "timeout": order.timeout,
    }
    if order.system is not None:
        body["system"] = order.system
    if order.temperature is not None:  # the SDK's method no longer has it, and newer models refuse it
        body["extra_body"] = {"temperature": order.temperature}
        body["extra_headers"] = {"anthropic-version": _SAMPLING_VERSION}
    return body


def _sdk() -> Any:
    """The SDK, imported when it is needed: that costs more than a second."""
    try:
        import anthropic  # noqa: PLC0415
    except ImportError:
        raise GenerationError("code generation needs the package anthropic; install chora-mp[ai]") from None
    return anthropic


@dataclass(slots=True)
class _Open:
    """A client in use, and the generator that closes it."""

    client: anthropic.AsyncAnthropic = field(repr=False)
    keeper: AsyncGenerator[anthropic.AsyncAnthropic] = field(repr=False)


# By loop, address and digest of the key: a connection is of no use to another loop, and no key is in here to be shown.
_open: dict[tuple[asyncio.AbstractEventLoop, str, str], _Open] = {}


async def _client(key: str) -> anthropic.AsyncAnthropic:
    """The running loop's client."""
    address = _address()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise GenerationError("ANTHROPIC_API_KEY has characters in it that no key has; set it anew")
    name = (asyncio.get_running_loop(), address, hashlib.sha256(key.encode()).hexdigest())
    if name not in _open:
        for other in [other for other in _open if other[0].is_closed()]:
            _open.pop(other, None)
        # The run has its own retries, and it has to hear of every request to wait.
        client = _sdk().AsyncAnthropic(api_key=key, base_url=address, max_retries=0)
        keeper = _kept(client, name)
        _open[name] = _Open(client, keeper)
        await anext(keeper)
    return _open[name].client


async def _kept(
    client: anthropic.AsyncAnthropic, name: tuple[asyncio.AbstractEventLoop, str, str]
) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    """The client until the loop shuts its asynchronous generators down, as `asyncio.run` has it do in the end."""
    try:
        yield client
    finally:
        _open.pop(name, None)
        await client.close()


def _address() -> str:
    """Where the API is."""
    address = os.environ.get("ANTHROPIC_BASE_URL", "").strip() or _ADDRESS
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if sound and address.isascii() and address.isprintable() and " " not in address:
        return address
    shown = quoted(address.rpartition("@")[2])  # a password may be before it
    raise GenerationError(f"ANTHROPIC_BASE_URL: is no address of a server (found {shown}); write https://host")


# What comes back ------------------------------------------------------------------------------------------------------


def _translated(error: Any, hide: Callable[[str], str]) -> Exception:
    """What an error of the SDK is to a run."""
    sdk = _sdk()
    if isinstance(error, sdk.APIStatusError):
        return _refused(error.status_code, hide(_said(error)), error.response.headers)
    if isinstance(error, sdk.APIConnectionError):
        cause = error.__cause__ or error
        words = hide(_short(str(cause))) or type(cause).__name__
        if type(cause).__name__ in ("DecodingError", "TooManyRedirects", "UnsupportedProtocol", "LocalProtocolError"):
            return GenerationError(f"the API's answer is malformed: {words}")
        return ConnectionError(f"no connection to the API: {words}")
    return GenerationError(f"the API cannot be asked: {hide(_short(str(error)))}")


def _refused(status: int, words: str, headers: Mapping[str, str]) -> Exception:
    """What an HTTP status other than success is to a run."""
    message = f"HTTP {status}: {words}"
    asked = "retry-after" in headers or "retry-after-ms" in headers
    if status == 429 or (status in (503, 529) and asked):
        return Throttled(message, _wait(headers))
    if status >= 500 or status in (408, 409):  # too slow a request, or one in the way of another: both may pass
        return ServiceError(message)
    if status in (401, 403):
        return GenerationError(f"the API refuses the key (HTTP {status}): {words}")
    return GenerationError(message)


def _wait(headers: Mapping[str, str]) -> float:
    """The seconds that the service asks to wait, within reason."""
    wanted = _number(headers.get("retry-after-ms", ""), 1000.0)
    if wanted is None:
        wanted = _number(headers.get("retry-after", ""), 1.0)
    if wanted is None:
        wanted = _until(headers.get("retry-after", ""))
    return min(_LONGEST_WAIT, max(_SHORTEST_WAIT, _USUAL_WAIT if wanted is None else wanted))


def _number(text: str, unit: float) -> float | None:
    """A number in a header, divided by `unit`; None where there is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number / unit if math.isfinite(number) else None


def _until(text: str) -> float | None:
    """The seconds from now until an HTTP date; None for what is no date."""
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _said(error: Any) -> str:
    """The API's own words about an error."""
    body = error.body
    detail = body.get("error") if isinstance(body, dict) else None
    message = detail.get("message") if isinstance(detail, dict) else None
    if isinstance(message, str) and message.strip():
        return _short(message)
    return _short(error.response.text) or _short(error.response.reason_phrase) or "no message"


def _short(text: str) -> str:
    """A foreign text on one line of bounded length."""
    line = " ".join(text[:2000].split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _read(body: bytes) -> _Answer:
    """What an answer's body holds. The SDK takes any shape for a message, so each part is looked at here."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise _malformed("it is no JSON", body.decode(errors="replace")) from None
    if not isinstance(message, dict):
        raise _malformed("it is no object", message)
    blocks, reason = message.get("content"), message.get("stop_reason")
    if not isinstance(blocks, list):
        raise _malformed("content is no list", blocks)
    if reason is not None and not isinstance(reason, str):
        raise _malformed("stop_reason is no text", reason)
    return _Answer(_joined(blocks), _usage(message.get("usage")), reason)


def _joined(blocks: list[Any]) -> str:
    """The text blocks, one after the other."""
    texts: list[str] = []
    for block in blocks:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _malformed("a block of content has no type", block)
        if block["type"] == "text":
            text = block.get("text")
            # JSON may hold halves of surrogate pairs, which no file can.
            if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _malformed("a text block has no proper text", text)
            texts.append(text)
    return "".join(texts)


def _usage(usage: Any) -> dict[str, int]:
    """The tokens that an answer cost; those of the cache only where there are any."""
    if not isinstance(usage, dict):
        raise _malformed("usage is missing" if usage is None else "usage is no object", usage)
    counts: dict[str, int] = {}
    for name in ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
        cached = name.startswith("cache_")
        count = usage.get(name)
        if cached and count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise _malformed(f"usage.{name} is no count", count)
        if count or not cached:
            counts[name] = count
    return counts


def _malformed(what: str, found: Any) -> GenerationError:
    return GenerationError(f"the API's answer is malformed: {what} (found {quoted(found)})")


# Code -----------------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)")  # CommonMark 0.31, section 4.5
_NAMED = re.compile(r"\{?\.?([\w+#-]+)")

# Languages that go by more than one name.
_NAMES = (
    ("python", "python3", "py"),
    ("javascript", "js", "jsx", "node"),
    ("typescript", "ts", "tsx"),
    ("bash", "shell", "sh", "zsh"),
    ("c++", "cpp", "cxx"),
    ("c#", "csharp", "cs"),
    ("go", "golang"),
    ("rust", "rs"),
    ("ruby", "rb"),
    ("kotlin", "kt"),
    ("yaml", "yml"),
    ("markdown", "md"),
)
_ALIASES = {name: names[0] for names in _NAMES for name in names}


def _code(answer: _Answer, language: str | None) -> str:
    """The code in an answer, ending with one newline."""
    if answer.stop_reason == "max_tokens":
        raise GenerationError(
            "the code is cut off: the answer reached generation_config.max_tokens"
            f" (found {answer.usage['output_tokens']:,} tokens); allow more"
        )
    if answer.stop_reason == "refusal":
        raise GenerationError("the model declines to answer (stop_reason refusal); ask for something else")
    text = answer.text.replace("\r\n", "\n")
    if not text.strip():
        raise GenerationError(f"the answer has no text in it (stop_reason {answer.stop_reason})")
    code = _ended(_chosen(_blocks(text), language, text))
    if not code.strip():
        raise GenerationError("the answer has a code block with nothing in it")
    return code


def _chosen(blocks: list[tuple[str, str]], language: str | None, text: str) -> str:
    """The first block in the language, else the first at all, else the text."""
    wanted = _known(language or "")
    for named, code in blocks:
        if language and named == wanted:
            return code
    return blocks[0][1] if blocks else text


def _blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a text: language and code of each. One that nothing closes ends with the text."""
    blocks: list[tuple[str, list[str]]] = []
    fence = ""
    for line in text.split("\n"):
        if not fence:
            if opening := _FENCE.fullmatch(line):
                fence = opening[1]
                named = _NAMED.match(opening[2])
                blocks.append((_known(named[1]) if named else "", []))
        elif _closes(line, fence):
            fence = ""
        else:
            blocks[-1][1].append(line)
    return [(named, "\n".join(lines)) for named, lines in blocks]


def _closes(line: str, fence: str) -> bool:
    """Whether a line ends the block that `fence` began."""
    bare = line.strip(" \t")
    return (
        len(bare) >= len(fence)
        and bare == fence[0] * len(bare)
        and line.startswith(tuple(" " * n + fence for n in range(4)))
    )


def _known(language: str) -> str:
    """A language by the one of its names that stands for all."""
    name = language.strip().lower()
    return _ALIASES.get(name, name)


def _ended(text: str) -> str:
    """A text without blank lines around it, ending with one newline."""
    return text.strip("\n").rstrip() + "\n"
