"""A server on the loopback that speaks Anthropic's Messages API, and misbehaves as it is told to.

`with MessagesAPI() as api:` gives `api.url` for `ANTHROPIC_BASE_URL`. What it answers stands in `api.script`: a list of
replies, used up from the front, or a function from the request's body to a reply; None, or nothing left, is the usual
answer. A plain string in their place is the text of an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    Script = list["Reply | str | None"] | Callable[[dict[str, Any]], "Reply | str | None"]

How = Literal["", "drop", "refuse", "drip"]

_BACKLOG = 1024  # connections that may wait to be accepted
_DRIP = 0.2  # seconds between two bytes

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One way to answer.

    `text`: what the model says (None: the usual). `latency`: seconds before the answer. `together`: no answer before so
    many requests were in hand at once. `change`: fields of the message to replace; None takes one away. `body`: bytes
    in place of the JSON. `how`: 'refuse' closes the connection with no answer, 'drop' in the middle of one, 'drip'
    sends a byte now and then and never comes to an end.
    """

    text: str | None = None
    latency: float = 0.0
    together: int = 0
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "as asked"
    change: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    how: How = ""


MALFORMED = {
    "not JSON": Reply(body=b"<html>Bad Gateway</html>"),
    "no body": Reply(body=b""),
    "half a body": Reply(body=b'{"content": [{"type": "te'),
    "not UTF-8": Reply(body=b'{"content": "\xff\xfe"}'),
    "deep": Reply(body=b"[" * 100_000),
    "a list": Reply(body=b"[]"),
    "another object": Reply(body=b'{"hello": "world"}'),
    "no content": Reply(change={"content": None}),
    "content is text": Reply(change={"content": "print()"}),
    "block is text": Reply(change={"content": ["print()"]}),
    "block without type": Reply(change={"content": [{"text": "print()"}]}),
    "text is a number": Reply(change={"content": [{"type": "text", "text": 7}]}),
    "half a surrogate pair": Reply(change={"content": [{"type": "text", "text": "\ud800"}]}),
    "stop reason is a number": Reply(change={"stop_reason": 7}),
    "no usage": Reply(change={"usage": None}),
    "usage is a list": Reply(change={"usage": [1, 2]}),
    "usage is text": Reply(change={"usage": {"input_tokens": "1", "output_tokens": 1}}),
    "usage is half": Reply(change={"usage": {"input_tokens": 1}}),
    "usage is negative": Reply(change={"usage": {"input_tokens": 1, "output_tokens": -1}}),
}
"""Answers with HTTP status 200 that are none."""


class Request(NamedTuple):
    """A request that has come in: when by `time.monotonic()`, its headers with lower-case names, and its body."""

    time: float
    headers: dict[str, str]
    body: dict[str, Any]


class MessagesAPI:
    """The server; it listens as long as the `with` statement lasts, in a thread of its own."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = [] if script is None else script
        self.requests: list[Request] = []
        self.connections = 0
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._talks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messages API", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the server does not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._more = asyncio.Event(), asyncio.Condition()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=_BACKLOG)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: start_server would report the end of a cancelled coroutine as an error.
        self.connections += 1
        talk = self._loop.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of a connection."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client is gone or speaks no HTTP
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request with its answer, and whether there may be another on the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._at_once += 1
        try:
            await self._count()
            going_on = await self._answer(writer, self._reply(method, path, headers, body))
        finally:
            self._at_once -= 1
        return going_on and headers.get("connection", "").lower() != "close"

    async def _count(self) -> None:
        async with self._more:
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._more.notify_all()

    def _reply(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> tuple[Reply, dict[str, Any]]:
        """What to answer to a request, and the request's body."""
        if method != "POST" or path.partition("?")[0] != "/v1/messages":
            return Reply(status=404, message=f"{method} {path} is not here"), {}
        bearer = headers.get("authorization", "").removeprefix("Bearer").strip()
        # The SDK sends the key as a bearer token from 2.0 on, and as x-api-key before; the API takes both.
        if not (headers.get("x-api-key") or bearer):
            return Reply(status=401, message="x-api-key header is required"), {}
        try:
            body = json.loads(raw)
        except ValueError:
            return Reply(status=400, message="the body is no JSON"), {}
        if not isinstance(body, dict):
            return Reply(status=400, message="the body is no object"), {}
        self.requests.append(Request(time.monotonic(), headers, body))
        for name in ("model", "max_tokens", "messages"):
            if name not in body:
                return Reply(status=400, message=f"{name}: Field required"), body
        return self._scripted(body), body

    def _scripted(self, body: dict[str, Any]) -> Reply:
        script = self.script
        following = script if callable(script) else lambda _: script.pop(0) if script else None
        reply = following(body)
        return Reply(text=reply) if reply is None or isinstance(reply, str) else reply

    async def _answer(self, writer: asyncio.StreamWriter, what: tuple[Reply, dict[str, Any]]) -> bool:
        """Send a reply; whether the connection may be used again."""
        reply, request = what
        async with self._more:
            await self._more.wait_for(lambda: self.most_at_once >= reply.together)
        await asyncio.sleep(reply.latency)
        if reply.how == "refuse":
            return False
        body = _body(reply, request)
        writer.write(_head(reply, len(body)))
        if reply.how == "drip":
            await _drip(writer)
        writer.write(body[: len(body) // 2] if reply.how == "drop" else body)
        await writer.drain()
        if reply.how == "drop":
            writer.close()  # sends what there is, as abort() would not
            await writer.wait_closed()
        return not reply.how


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(_DRIP)
    raise ConnectionResetError


def _head(reply: Reply, length: int) -> bytes:
    """The status line and the headers."""
    known = reply.status in HTTPStatus._value2member_map_
    phrase = HTTPStatus(reply.status).phrase if known else "Unknown"
    length = 10**6 if reply.how == "drip" else length
    headers = {
        "content-type": "application/json",
        "content-length": str(length),
        "request-id": "req_1",
        **reply.headers,
    }
    lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _body(reply: Reply, request: dict[str, Any]) -> bytes:
    if reply.body is not None:
        return reply.body
    if reply.status != 200:
        error = {"type": _KINDS.get(reply.status, "api_error"), "message": reply.message}
        return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
    prompt = prompt_of(request)
    text = usual_text(prompt) if reply.text is None else reply.text
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(prompt.split()),
            "output_tokens": len(text.split()),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
        **reply.change,
    }
    return json.dumps({name: value for name, value in message.items() if value is not None}).encode()


_ELSEWHERE = (
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_CUSTOM_HEADERS",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
)


def lead_to(server: MessagesAPI, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the environment lead to a server, with a key, and nowhere else."""
    for name in _ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)


def prompt_of(request: Mapping[str, Any]) -> str:
    """All text in the messages of a request."""
    texts = []
    for message in request["messages"]:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [block.get("text", "") for block in content]
    return "\n".join(texts)


def usual_code(prompt: str) -> str:
    """The code that the server gives for a prompt."""
    return f'ANSWER = "{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"\n'


def usual_text(prompt: str) -> str:
    """The answer that the server gives for a prompt: its code in a fenced block."""
    return f"```python\n{usual_code(prompt)}```\n"
