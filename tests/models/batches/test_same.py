"""The same request and the same reply mean the same, live and in a batch."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fusion import Settings
from fusion.core.errors import ModelError
from fusion.core.types import File, Message, Reply, Request, ToolCall, ToolSpec
from fusion.models.base import Model
from fusion.models.batches.base import Entry
from fusion.models.batches.carried import ended
from fusion.models.catalog import describe
from fusion.models.providers.direct import direct
from fusion.models.providers.litellm import LiteLLMModel, close_all
from fusion.models.providers.wire import WireModel
from tests.models.batches.conftest import Open, read, request
from tests.models.batches.double import Double
from tests.provider import Answer, Provider

pytestmark = pytest.mark.anyio

MODELS = (
    "openai/gpt-5.6",
    "anthropic/claude-haiku-5-5",
    "openrouter/openai/gpt-5.6",
    "openrouter/anthropic/claude-haiku-5.5",
    "gemini/gemini-3.8-flash",
)

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
TOOL = ToolSpec(
    name="look", description="Looks.", parameters={"type": "object", "properties": {"x": {"type": "string"}}}
)


def said(*messages: tuple[str, str], **more: Any) -> Request:
    found = tuple(Message(role=role, content=text) for role, text in messages)  # type: ignore[arg-type]
    return Request(messages=found, **{"max_tokens": 300, **more})


REQUESTS: dict[str, Request] = {
    "plain": request("hello"),
    "unicode": request('ümlaut 😀 中文 \u2028 "quoted" \\ back\n\ttab'),
    "system": said(("system", "Be brief."), ("user", "hello")),
    "turns": said(("user", "one"), ("assistant", "two"), ("user", "three"), ("user", "four")),
    "schema": request("as JSON", json_schema=SCHEMA),
    "object": request("as JSON", json_schema=SCHEMA, json_mode="object"),
    "tools": request("use it", tools=(TOOL,), tool_choice="required"),
    "one tool": request("use it", tools=(TOOL,), tool_choice="look"),
    "tool result": Request(
        messages=(
            Message(role="user", content="look"),
            Message(
                role="assistant", content="", tool_calls=(ToolCall(id="a", name="look", arguments='{"x": "y"}'),)
            ),
            Message(role="tool", content="seen", tool_call_id="a"),
        ),
        tools=(TOOL,),
        max_tokens=300,
    ),
    "effort": request("think", reasoning_effort="low", max_tokens=5000),
    "stop": request("stop there", max_tokens=17),
    "extra": request("more", extra={"metadata": {"user_id": "u"}}),
    "cached": Request(
        messages=(Message(role="user", content="stable part and rest", stable=11),), max_tokens=300, cache_key="k"
    ),
    "image": Request(
        messages=(
            Message(
                role="user", content="look", files=((4, File(media_type="image/png", data=b"\x89PNG", name="a.png")),)
            ),
        ),
        max_tokens=300,
    ),
}


def live(model_id: str) -> Model:
    info = describe(model_id, Settings.from_environment())
    if model_id.startswith("gemini/"):
        return LiteLLMModel(model_id, info=info)
    return direct(model_id, info=info)


@pytest.mark.parametrize("model_id", MODELS)
async def test_rows_have_the_bodies_of_live_calls_and_the_same_replies(
    double: Double, opened: Open, model_id: str
) -> None:
    door, model = opened(model_id), live(model_id)
    rows = [
        Entry(f"c{number}", one)
        for number, (name, one) in enumerate(REQUESTS.items())
        if not (name == "extra" and "gemini" in model_id)
    ]
    batch_id = await door.submit(rows, "same")
    found = await read(door, batch_id, rows)
    assert set(double.counts.bodies.values()) == {1}, "a body is not made once"
    for row in rows:
        reply = await model.complete(row.request)
        ours = found[row.custom_id].reply
        assert ours is not None, found[row.custom_id].error
        assert kept(ours) == kept(reply)
    assert set(double.counts.bodies.values()) == {2}, "live bodies are other ones"
    await close_all()


def kept(reply: Reply) -> Reply:
    """Return what a reply has whatever way it came by; litellm makes up the ids of Gemini's calls."""
    calls = tuple(call.model_copy(update={"id": ""}) for call in reply.tool_calls)
    return reply.model_copy(update={"cost": None, "latency": 0.0, "first_token": None, "tool_calls": calls})


def of_openai(**choice: Any) -> dict[str, Any]:
    usage = choice.pop("usage", {"prompt_tokens": 7, "completion_tokens": 3})
    head = {"id": "1", "object": "chat.completion", "model": "m-2026", "usage": usage}
    whole = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop", **choice}
    return {**head, "choices": [whole]}


BODIES: dict[str, Any] = {
    "plain": of_openai(),
    "empty": of_openai(message={"role": "assistant", "content": ""}),
    "null": of_openai(message={"role": "assistant", "content": None}),
    "cut": of_openai(finish_reason="length"),
    "filtered": of_openai(finish_reason="content_filter"),
    "refused": of_openai(message={"role": "assistant", "content": None, "refusal": "no"}),
    "no finish": of_openai(finish_reason=None),
    "strange finish": of_openai(finish_reason="tired"),
    "thoughts": of_openai(message={"role": "assistant", "content": "<think>hm</think>the answer"}),
    "reasoning": of_openai(message={"role": "assistant", "content": "a", "reasoning_content": "long " * 40}),
    "parts": of_openai(message={"role": "assistant", "content": [{"type": "text", "text": "a"}]}),
    "no usage": of_openai(usage=None),
    "absurd usage": of_openai(usage={"prompt_tokens": 10**12, "completion_tokens": -3}),
    "cached usage": of_openai(
        usage={"prompt_tokens": 50, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 40}}
    ),
    "error within": {"error": {"message": "overloaded", "type": "overloaded_error", "code": 529}},
    "context within": {"error": {"message": "maximum context length", "code": "context_length_exceeded"}},
    "error choice": {
        "choices": [{"index": 0, "error": {"code": 502, "message": "upstream"}, "finish_reason": "error"}]
    },
    "no choices": {"id": "1", "choices": []},
    "a list": [1, 2],
    "a text": "hello",
    "nothing": None,
    "too long": of_openai(message={"role": "assistant", "content": "x" * 300_000}),
    "key": of_openai(message={"role": "assistant", "content": "the key is sk-double-12345"}),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_is_read_as_of_a_live_call(double: Double, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, asked = json.dumps(BODIES[name]).encode(), request("hello", json_schema=SCHEMA)
    with Provider(Answer(body=raw)) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        model = direct("openai/gpt-5.6")
        live_end = await end_of(lambda: model.complete(asked))
    row = await ended(model, "c", asked, 200, raw)
    assert told(row.reply or row.error) == told(live_end)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "maximum context length is 10", "code": "context_length_exceeded"}}),
        (400, {"error": {"message": "flagged", "code": "content_filter"}}),
        (401, {"error": {"message": "wrong key sk-double-12345"}}),
        (402, {"error": {"message": "no credit"}}),
        (404, {"error": {"message": "no such model"}}),
        (429, {"error": {"message": "slow down"}}),
        (429, {"error": {"message": "exceeded your current quota", "code": "insufficient_quota"}}),
        (500, {"error": {"message": "oops"}}),
        (503, "plain text"),
        (302, ""),
    ],
)
async def test_an_error_is_read_as_of_a_live_call(
    double: Double, status: int, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.dumps(body).encode()
    with Provider(Answer(status=status, body=raw)) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        model = direct("openai/gpt-5.6")
        live_end = await end_of(lambda: model.complete(request("hello")))
    row = await ended(model, "c", request("hello"), status, raw)
    assert told(row.error) == told(live_end)


async def test_a_field_that_is_refused_is_left_out_of_the_next_batch(double: Double, opened: Open) -> None:
    model = direct("openai/gpt-5.6")
    assert isinstance(model, WireModel)
    body = {"error": {"message": "Unsupported parameter: 'max_completion_tokens'. Use 'max_tokens' instead."}}
    row = await ended(model, "c", request("hello"), 400, json.dumps(body).encode())
    assert row.error is not None
    assert row.error.retryable
    assert "max_tokens" in model.body(request("hello"), stream=False)


async def end_of(call: Callable[[], Any]) -> Reply | ModelError:
    try:
        found: Reply = await call()
    except ModelError as error:
        return error
    return found


def told(end: Reply | ModelError | None) -> tuple[Any, ...]:
    """Return what a caller learns from the end of a call."""
    if isinstance(end, Reply):
        return end.text, end.finish_reason, end.tool_calls, end.usage, end.served
    assert end is not None
    return type(end), str(end), end.retryable, end.answered, getattr(end, "text", "")
