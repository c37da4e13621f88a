"""The Messages API over HTTP, as Anthropic's SDK and Claude Code use it."""

import json
from typing import Any

import pytest

from tests.server.conftest import Serve, Served

HEADERS = {"x_api_key": "none", "anthropic_version": "2023-06-01", "anthropic_beta": "effort-2025-11-24"}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def body(content: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "echo", "max_tokens": 100, "messages": [{"role": "user", "content": content}], **more}


def events(served: Served, given: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    raw = served.post("/v1/messages?beta=true", {**given, "stream": True}, **HEADERS).text
    parts = [part.split("\n") for part in raw.split("\n\n") if part and not part.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_a_message_is_answered(serve: Serve) -> None:
    served = serve("It is cold.")
    answer = served.post("/v1/messages?beta=true", body(), **HEADERS)
    assert answer.status_code == 200
    message = answer.json()
    run = answer.headers["x-fusion-run"]
    assert answer.headers["request-id"] == f"req_{run}"
    assert message["content"] == [{"type": "text", "text": "It is cold."}]
    assert (message["id"], message["model"], message["stop_reason"]) == (f"msg_{run}", "echo", "end_turn")
    assert message["usage"]["output_tokens"] > 0
    assert (message["fusion"]["run"], message["fusion"]["status"]) == (run, "ok")


def test_a_stream_holds_the_same_message(serve: Serve) -> None:
    found = events(serve("It is cold."), body())
    assert [name for name, _ in found[:2]] == ["message_start", "ping"]
    assert "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta") == "It is cold."
    assert [name for name, _ in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert found[-2][1]["usage"]["output_tokens"] > 0


def test_the_request_of_claude_code_is_answered(serve: Serve) -> None:
    served = serve("Hello.")
    tools = [{**WEATHER, "name": f"Tool{at}", "description": "x" * 3000} for at in range(24)]
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>today</system-reminder>"}]},
        {"role": "system", "content": "Available agent types: none"},
    ]
    system = [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}]
    found = events(
        served,
        {
            "model": "anthropic/echo",
            "max_tokens": 32000,
            "messages": turns,
            "system": system,
            "tools": tools,
            "metadata": {"user_id": '{"device_id":"1"}'},
            "thinking": {"type": "adaptive"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "high"},
        },
    )
    assert found[-1][0] == "message_stop"
    (asked,) = served.models["frontier"].requests
    assert "You are an agent.\n\nAvailable agent types: none" in asked.messages[0].content


@pytest.mark.parametrize(
    ("given", "status", "kind", "words"),
    [
        (body(model="none"), 404, "not_found_error", "no model 'none'"),
        (body(max_tokens=0), 400, "invalid_request_error", "max_tokens"),
        (body(messages=[]), 400, "invalid_request_error", "messages"),
        (body(fusion={"inputs": {"nope": 1}}), 400, "invalid_request_error", "no input 'nope'"),
        (body(fusion={"budget": {"usd": "much"}}), 400, "invalid_request_error", "fusion.budget"),
        ([], 400, "invalid_request_error", "JSON object"),
    ],
    ids=["model", "limit", "messages", "input", "budget", "body"],
)
def test_a_wrong_request_is_refused_in_the_shape_of_anthropic(
    serve: Serve, given: Any, status: int, kind: str, words: str
) -> None:
    answer = serve().post("/v1/messages", given, **HEADERS)
    found = answer.json()
    assert (answer.status_code, found["type"], found["error"]["type"]) == (status, "error", kind)
    assert words in found["error"]["message"]
    assert found["request_id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        (body("hello"), 1, 200),
        (body("word " * 1000), 1000, 2000),
        (body("hello", system="word " * 1000), 1000, 2000),
        (body("hello", tools=[{**WEATHER, "description": "word " * 1000}]), 1000, 2000),
        (body([{"type": "document", "source": {"type": "text", "data": "word " * 1000}}]), 1000, 2000),
        (body([{"type": "tool_result", "tool_use_id": "call_1", "content": "word " * 1000}]), 1000, 2000),
    ],
    ids=["short", "long", "system", "tools", "document", "result"],
)
def test_tokens_are_counted_without_a_call(serve: Serve, given: dict[str, Any], least: int, most: int) -> None:
    served = serve()
    answer = served.post("/v1/messages/count_tokens", given, **HEADERS)
    assert answer.status_code == 200
    assert least <= answer.json()["input_tokens"] <= most
    assert served.models["frontier"].requests == []


@pytest.mark.parametrize(("path", "status"), [("/v1/messages/count_tokens", 404), ("/v1/messages/batches", 404)])
def test_errors_beside_messages_have_their_shape_too(serve: Serve, path: str, status: int) -> None:
    answer = serve().post(path, body(model="none"), **HEADERS)
    assert (answer.status_code, answer.json()["type"]) == (status, "error")


def test_the_probe_of_claude_code_is_answered(serve: Serve) -> None:
    with serve().client() as client:
        assert client.head("/").status_code == 200


def test_models_are_listed_by_names_that_claude_code_takes(serve: Serve) -> None:
    served = serve(pipelines={"echo": "single", "claude-review": "single"})
    with served.client(headers={"anthropic-version": "2023-06-01"}) as client:
        found = client.get("/v1/models?limit=1000").json()
        ids = [one["id"] for one in found["data"]]
        assert ids == ["anthropic/echo", "claude-review"]
        assert (found["first_id"], found["last_id"], found["has_more"]) == (ids[0], ids[-1], False)
        assert [client.get(f"/v1/models/{name}").json()["id"] for name in ids] == ids
    for name in ids:
        assert served.post("/v1/messages", body(model=name), **HEADERS).status_code == 200
