"""A model of OpenAI's API whose replies follow from its requests, so that each client's job has one right end."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HELLO = "Hello from Fusion."
_ASKS = re.compile(r"call (\w+) (\{.*?\})")
_USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """The message that answers: a call of a tool where one is asked for, data of a schema, else a greeting.

    A user asks for a tool by `call NAME {"argument": …}`. The result of a tool is told in words.
    """
    last = body["messages"][-1]
    tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or []}
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"The tool said: {text_of(last)[:2000]}"}
    asked = _ASKS.findall(text_of(last))
    if asked and asked[-1][0] in tools:
        return calling(asked[-1][0], asked[-1][1].replace('\\"', '"'))  # some clients quote the words of their user
    choice = body.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        name = choice["function"]["name"] if isinstance(choice, dict) else next(iter(tools))
        return calling(name, json.dumps(smallest(tools[name].get("parameters") or {})))
    return {"role": "assistant", "content": data_of(body.get("response_format")) or HELLO}


def calling(name: str, arguments: str) -> dict[str, Any]:
    call = {"id": "call_fake", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def text_of(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def data_of(form: dict[str, Any] | None) -> str | None:
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return json.dumps(smallest(schema))
        case {"type": "json_object"}:
            return '{"city": "Oslo"}'
    return None


def smallest(schema: dict[str, Any]) -> Any:
    """A small value of a schema."""
    whole = schema

    def of(part: dict[str, Any]) -> Any:
        if "$ref" in part:
            part = whole["$defs"][part["$ref"].rpartition("/")[2]]
        if "const" in part or "enum" in part:
            return part.get("const", part.get("enum", [None])[0])
        for name in ("anyOf", "allOf", "oneOf"):
            if name in part:
                return of(part[name][0])
        kind = part.get("type")
        match kind if isinstance(kind, str) else (kind or ["object"])[0]:
            case "string":
                return "Oslo"
            case "integer" | "number":
                return 5
            case "boolean":
                return True
            case "array":
                return [of(part["items"])]
        return {name: of(one) for name, one in part.get("properties", {}).items()}

    return of(schema)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Model"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        message = reply(body)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        if body.get("stream"):
            self._send("text/event-stream", b"".join(_chunks(message, finish)))
        else:
            choice = {"index": 0, "message": message, "finish_reason": finish}
            whole = {"id": "fake", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice]}
            self._send("application/json", json.dumps({**whole, "usage": _USAGE}).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


def _chunks(message: dict[str, Any], finish: str) -> Iterator[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in re.findall(r"\S+\s*", message["content"] or "")]
    deltas += [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(message.get("tool_calls", []))]
    head = {"id": "fake", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    for delta in deltas:
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    yield _event({**head, "choices": [], "usage": _USAGE})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


class Model(ThreadingHTTPServer):
    """Serves the model on loopback, from a thread of its own, while it is entered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> "Model":
        threading.Thread(target=self.serve_forever, name="model", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
