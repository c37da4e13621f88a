"""A provider in this process: an OpenAI-compatible server on loopback that fails in every way we ask it to.

    with Provider([Answer(status=500), Answer("hello")]) as provider:
        model = LiteLLMModel("openai/mock", api_base=provider.url, api_key="sk-test")

It speaks `/chat/completions` as OpenAI does and `/messages` as Anthropic does, whole and streamed.
"""

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakSet

__all__ = ["Answer", "Provider", "Seen"]


@dataclass(frozen=True)
class Answer:
    """What the provider does with one request.

    `pieces` is the text as it is streamed. `finish_reason` None leaves it out, `usage` None too. `body` is sent in
    place of a completion. `delay` and `piece_delay` are seconds. `until` holds the answer back until it is set.
    `hang` never answers and waits for the client to leave. `drop` closes the connection: before anything is sent
    ("before"), by a reset ("reset"), after the headers ("headers"), or in the middle of the body ("body"; of a
    stream, after all pieces but the last). `over_deliver` ignores the request's `max_tokens`, which otherwise cuts
    the text, at four bytes a token. `echo_schema` answers with the smallest value of the requested schema. `echo` is
    hostile: `{key}` in whatever is said, headers and model too, becomes what it makes of the key that came with the
    request. `piece_size` cuts the text of a stream into pieces of so many characters.
    """

    text: str = "hello"
    pieces: Sequence[str] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes | None = None
    delay: float = 0.0
    until: threading.Event | None = None
    piece_delay: float = 0.0
    finish_reason: str | None = "stop"
    usage: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3})
    model: str = "mock-2026"
    hang: bool = False
    drop: Literal["before", "reset", "headers", "body"] | None = None
    over_deliver: bool = False
    echo_schema: bool = False
    end_mark: bool = True
    echo: Callable[[str], str] | None = None
    piece_size: int | None = None

    def echoing(self, seen: "Seen") -> "Answer":
        """The answer with the key in it."""
        if self.echo is None:
            return self
        key = self.echo(seen.headers.get("x-api-key") or seen.headers.get("authorization", "").rpartition(" ")[2])
        said = {name: _with_key(getattr(self, name), key) for name in _SAID}
        return replace(self, **said)


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


_LOOK = 0.01
"""Seconds between two looks for an event."""
_SAID = ("text", "pieces", "headers", "body", "finish_reason", "usage", "model")


def _with_key(said: Any, key: str) -> Any:
    if isinstance(said, bytes):
        return said.replace(b"{key}", key.encode())
    if isinstance(said, str):
        return said.replace("{key}", key)
    if isinstance(said, Mapping):
        return {name: _with_key(value, key) for name, value in said.items()}
    return [_with_key(one, key) for one in said] if isinstance(said, Sequence) else said


Script = Answer | Sequence[Answer] | Callable[[Seen], Answer]


class Provider:
    """Serves from a thread of its own while it is entered. A list is answered in order, its last answer for good.

    A script that waits holds up all requests, and those that follow are not even seen: see `Answer.until`.
    """

    def __init__(self, script: Script = Answer(), *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.requests: list[Seen] = []
        self.disconnects = 0
        self.open = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="provider", daemon=True)
        self._served: set[asyncio.Task[None]] = set()
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()
        self._stopping = False

    def __enter__(self) -> "Provider":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        host, port = self._server.sockets[0].getsockname()[:2]
        self.root = f"http://{host}:{port}" if self._tls is None else f"https://{host}:{port}"
        self.url = f"{self.root}/v1"
        return self

    def __exit__(self, *exit_of: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_until(self, true: "Callable[[Provider], bool]", seconds: float = 10.0) -> bool:
        """Wait until something has happened here; False when it has not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: true(self), seconds)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024, ssl=self._tls)

    async def _stop(self) -> None:
        """End all connections, also those that are only being accepted, and those whose client does not read."""
        self._stopping = True
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())  # asyncio leaks what it has accepted once a server is closed
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._served:
                task.cancel()
            await asyncio.wait(others, timeout=_LOOK)
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)
        if self._stopping:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        self._note(opened=1)
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the test has ended
        finally:
            self._served.discard(task)
            if self._tls is not None:
                writer.transport.abort()  # without the farewell of TLS, for which a client that has left cannot wait
            writer.close()
            self._note(opened=-1)

    def answer(self, seen: Seen) -> Answer:
        """The script's next answer."""
        with self._changed:
            self.requests.append(seen)
            number = len(self.requests)
            self._changed.notify_all()
        if isinstance(self.script, Answer):
            return self.script
        if callable(self.script):
            return self.script(seen)
        return self.script[min(number, len(self.script)) - 1]

    def left(self) -> None:
        """A client has left before its answer was whole."""
        self._note(left=1)

    def _note(self, *, opened: int = 0, left: int = 0) -> None:
        with self._changed:
            self.open += opened
            self.disconnects += left
            self._changed.notify_all()


class _Connection:
    """One client's connection, for as many requests as it makes."""

    def __init__(self, provider: Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._provider = provider
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        while (seen := await self._request()) is not None:
            answer = self._provider.answer(seen).echoing(seen)
            if not await self._answered(seen, answer):
                return

    async def _request(self) -> Seen | None:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Seen(head[0].split(" ")[1], headers, json.loads(body or b"{}"))

    async def _answered(self, seen: Seen, answer: Answer) -> bool:
        """Answer; True where the connection may go on."""
        if answer.hang:
            await self._wait_for_leaving(None)
            return False
        if answer.delay and not await self._wait_for_leaving(answer.delay):
            return False
        if answer.until is not None and not await self._wait_for(answer.until):
            return False
        if answer.drop in ("before", "reset"):
            self._hang_up(reset=answer.drop == "reset")
            return False
        streamed = bool(seen.body.get("stream")) and answer.status == 200 and answer.body is None
        if streamed:
            return await self._stream(seen, answer)
        return await self._send_whole(seen, answer)

    async def _send_whole(self, seen: Seen, answer: Answer) -> bool:
        body = _body(seen, answer)
        self._head(answer, f"content-type: application/json\r\ncontent-length: {len(body)}")
        if answer.drop in ("headers", "body"):
            self._writer.write(body[: len(body) // 2] if answer.drop == "body" else b"")
            await self._writer.drain()
            self._hang_up()
            return False
        self._writer.write(body)
        await self._writer.drain()
        return True

    async def _stream(self, seen: Seen, answer: Answer) -> bool:
        self._head(answer, "content-type: text/event-stream\r\ntransfer-encoding: chunked")
        if answer.drop == "headers":
            await self._writer.drain()
            self._hang_up()
            return False
        events = list(_events(seen, answer))
        for number, event in enumerate(events):
            if answer.piece_delay and not await self._wait_for_leaving(answer.piece_delay):
                return False
            if answer.drop == "body" and number >= max(1, len(events) // 2):
                self._hang_up()
                return False
            self._writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await self._writer.drain()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    def _head(self, answer: Answer, more: str) -> None:
        lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in answer.headers.items())]
        self._writer.write(("\r\n".join(lines) + f"\r\n{more}\r\n\r\n").encode("latin-1"))

    async def _wait_for(self, event: threading.Event) -> bool:
        """Wait for an event; False where the client left meanwhile."""
        while not event.is_set():
            if not await self._wait_for_leaving(_LOOK):
                return False
        return True

    async def _wait_for_leaving(self, seconds: float | None) -> bool:
        """Wait; False where the client left meanwhile."""
        try:
            await asyncio.wait_for(self._reader.read(1), seconds)
        except TimeoutError:
            return True
        except ConnectionError:
            pass
        self._provider.left()
        return False

    def _hang_up(self, *, reset: bool = False) -> None:
        if reset:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        self._writer.close()


def _said(seen: Seen, answer: Answer) -> tuple[list[str], str | None]:
    """The pieces and the finish reason, after the request's limit."""
    if answer.echo_schema:
        return [json.dumps(_smallest(_schema(seen)))], answer.finish_reason
    pieces = [answer.text] if answer.pieces is None else list(answer.pieces)
    if answer.piece_size is not None:
        text, size = "".join(pieces), answer.piece_size
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
    limit = seen.body.get("max_tokens") or seen.body.get("max_completion_tokens")
    if limit is None or answer.over_deliver or len("".join(pieces).encode()) <= 4 * limit:
        return pieces, answer.finish_reason
    return ["".join(pieces).encode()[: 4 * limit].decode(errors="ignore")], "length"


def _body(seen: Seen, answer: Answer) -> bytes:
    if answer.body is not None:
        return answer.body.encode() if isinstance(answer.body, str) else answer.body
    if answer.status != 200:
        return json.dumps({"error": {"message": answer.text, "type": "mock_error", "code": None}}).encode()
    pieces, finish = _said(seen, answer)
    text = "".join(pieces)
    if seen.path.endswith("/messages"):
        return json.dumps(_anthropic_whole(answer, text, finish)).encode()
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": answer.model, "choices": [choice]}
    whole["service_tier"] = "default"  # which litellm's door to Groq does not do without
    return json.dumps(whole if answer.usage is None else {**whole, "usage": _openai_usage(answer)}).encode()


def _events(seen: Seen, answer: Answer) -> Iterator[bytes]:
    pieces, finish = _said(seen, answer)
    if seen.path.endswith("/messages"):
        yield from _anthropic_events(answer, pieces, finish)
        return
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": answer.model}
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in pieces]
    deltas += [] if finish is None else [({}, finish)]
    for delta, reason in deltas:
        yield _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    if answer.usage is not None:
        yield _event({**base, "choices": [], "usage": _openai_usage(answer)})
    if answer.end_mark:
        yield b"data: [DONE]\n\n"


def _openai_usage(answer: Answer) -> dict[str, Any]:
    usage = dict(answer.usage or {})
    counts = [usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
    return {**usage, "total_tokens": sum(count for count in counts if isinstance(count, int))}


def _anthropic_whole(answer: Answer, text: str, finish: str | None) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": _anthropic_stop(finish),
        "stop_sequence": None,
        "usage": _anthropic_usage(answer),
    }


def _anthropic_events(answer: Answer, pieces: Sequence[str], finish: str | None) -> Iterator[bytes]:
    usage = _anthropic_usage(answer)
    start = {**_anthropic_whole(answer, "", None), "content": [], "usage": {**usage, "output_tokens": 1}}
    yield _named({"type": "message_start", "message": start})
    yield _named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for piece in pieces:
        delta = {"type": "text_delta", "text": piece}
        yield _named({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _named({"type": "content_block_stop", "index": 0})
    if finish is not None:
        stop = {"stop_reason": _anthropic_stop(finish), "stop_sequence": None}
        yield _named({"type": "message_delta", "delta": stop, "usage": usage})
    yield _named({"type": "message_stop"})


def _anthropic_stop(finish: str | None) -> str | None:
    return {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}.get(finish or "", finish)


def _anthropic_usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage or {}
    more = {name: count for name, count in usage.items() if name.startswith("cache_")}
    return {"input_tokens": usage.get("prompt_tokens", 0), "output_tokens": usage.get("completion_tokens", 0), **more}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _named(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\n".encode() + _event(data)


def _schema(seen: Seen) -> dict[str, Any]:
    schema: dict[str, Any] = seen.body["response_format"]["json_schema"]["schema"]
    return schema


def _smallest(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: _smallest(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_smallest(schema["items"])] * schema.get("minItems", 1)
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True}.get(str(kind))
