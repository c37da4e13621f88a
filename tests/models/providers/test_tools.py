"""Tools on the wire: what is sent of them, and the calls that come back, whole and streamed, by both doors."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fusion.core.errors import BadResponseError
from fusion.core.types import Message, Reply, Request, ToolCall, ToolSpec
from fusion.models.base import check_usable
from fusion.models.catalog import lookup
from fusion.models.providers.direct import direct
from fusion.models.providers.litellm import LiteLLMModel, close_all
from tests.models.conformance import Collected
from tests.models.providers.reader.bodies import chunk, stream, whole
from tests.provider import Answer, Provider

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = ToolSpec(name="weather", description="The weather of a city.", parameters=PARAMETERS)
CALLS = (ToolCall(id="c1", name="weather", arguments='{"city":"Oslo"}'),)
ASKED = (Message(role="user", content="Weather in Oslo?"),)
ANSWERED = (
    *ASKED,
    Message(role="assistant", content="", tool_calls=CALLS),
    Message(role="tool", content="5 degrees", tool_call_id="c1"),
)


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    yield
    await close_all()


@pytest.fixture(name="make", params=[direct, LiteLLMModel], ids=["direct", "litellm"])
def _make(request: pytest.FixtureRequest) -> Any:
    return request.param


async def asked(
    make: Any, model_id: str, answer: Answer, *, streamed: bool = False, messages: Any = ASKED, **more: Any
) -> tuple[Reply, dict[str, Any]]:
    with Provider(answer) as provider:
        base = provider.root if model_id.startswith("anthropic/") else provider.url
        model = make(model_id, info=lookup(model_id), api_base=base, api_key="sk-of-a-test")
        given = Request(**{"messages": messages, "max_tokens": 500, "tools": (TOOL,), **more})
        reply = await model.complete(given, Collected() if streamed else None)
        return check_usable(reply), provider.requests[-1].body


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic"),
    [
        ("auto", "auto", {"type": "auto"}),
        ("required", "required", {"type": "any"}),
        ("none", "none", {"type": "none"}),
        ("weather", {"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
    ],
)
async def test_tools_and_the_choice_of_one_are_sent(choice: str, openai: Any, anthropic: Any) -> None:
    _, body = await asked(direct, "openai/m", Answer(), tool_choice=choice)
    function = {"name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS}
    assert (body["tools"], body["tool_choice"]) == ([{"type": "function", "function": function}], openai)
    _, body = await asked(direct, "anthropic/claude-haiku-4-5", Answer(), tool_choice=choice)
    tool = {"name": "weather", "description": "The weather of a city.", "input_schema": PARAMETERS}
    assert (body["tools"], body["tool_choice"]) == ([tool], anthropic)


async def test_no_tools_are_no_field() -> None:
    _, body = await asked(direct, "openai/m", Answer(), tools=())
    assert not {"tools", "tool_choice"} & body.keys()


async def test_a_call_and_its_result_are_sent_back(make: Any) -> None:
    _, body = await asked(make, "openai/m", Answer(), messages=ANSWERED)
    function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
    call, result = body["messages"][1:]
    assert call["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert not call.get("content")
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "c1", "5 degrees")


async def test_anthropic_gets_them_as_blocks() -> None:
    _, body = await asked(direct, "anthropic/claude-haiku-4-5", Answer(), messages=ANSWERED)
    call, result = body["messages"][1:]
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}
    assert (call["role"], call["content"]) == ("assistant", [use])
    given = {"type": "tool_result", "tool_use_id": "c1", "content": "5 degrees"}
    assert (result["role"], result["content"]) == ("user", [given])


def called(index: Any, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments, **more}}


FIRST = {**called(0, "", name="weather"), "id": "c1", "type": "function"}
SECOND = {**called(1, '{"city":"Rome"}', name="weather"), "id": "c2"}
WHOLE = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}]
BODIES = {
    "whole": whole(None, "tool_calls", tool_calls=WHOLE),
    "with text": whole("I look.", "tool_calls", tool_calls=WHOLE),
    "finished as a text": whole(None, "stop", tool_calls=WHOLE),
    "an object of arguments": whole(
        None, "tool_calls", tool_calls=[{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    ),
    "in pieces": stream(
        [chunk({"tool_calls": [one]}) for one in (FIRST, called(0, '{"city":'), called(0, '"Oslo"}'))]
        + [chunk({}, "tool_calls")]
    ),
    "two, in turn": stream(
        [chunk({"tool_calls": [one]}) for one in (FIRST, SECOND, called(0, '{"city":"Oslo"}'))]
        + [chunk({}, "tool_calls")]
    ),
    "pieces without an index": stream(
        [chunk({"tool_calls": [{**one, "index": None}]}) for one in (FIRST, called(0, '{"city":"Oslo"}'))]
        + [chunk({}, "tool_calls")]
    ),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_are_read(body: Any, streamed: bool) -> None:
    answer = Answer(body=body if isinstance(body, str) else json.dumps(body))
    reply, _ = await asked(direct, "openai/m", answer, streamed=streamed)
    assert reply.finish_reason == "tool_calls"
    assert reply.tool_calls[0].id == "c1"
    assert (reply.tool_calls[0].name, json.loads(reply.tool_calls[0].arguments)) == ("weather", {"city": "Oslo"})
    assert len(reply.tool_calls) == (2 if body == BODIES["two, in turn"] else 1)
    assert reply.text == ("I look." if body == BODIES["with text"] else "")


USE = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}
MESSAGE = {
    "type": "message",
    "model": "m",
    "content": [{"type": "text", "text": "I look."}, USE],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 9, "output_tokens": 5},
}
EVENTS = [
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look."}},
    {"type": "content_block_start", "index": 1, "content_block": {**USE, "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"Oslo"}'}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_of_anthropic_are_read(streamed: bool, make: Any) -> None:
    events = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS)
    answer = Answer(body=events if streamed else json.dumps(MESSAGE))
    reply, _ = await asked(make, "anthropic/claude-haiku-4-5", answer, streamed=streamed)
    assert (reply.text, reply.finish_reason) == ("I look.", "tool_calls")
    ((call_id, name, arguments),) = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
    assert (call_id, name, json.loads(arguments)) == ("c1", "weather", {"city": "Oslo"})


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "c1", "function": {"arguments": "{}"}}],
        ["weather"],
        [{"id": "c1"}],
    ],
)
async def test_a_call_that_names_no_tool_is_a_failed_attempt(calls: Any) -> None:
    body = json.dumps(whole(None, "tool_calls", tool_calls=calls))
    with pytest.raises(BadResponseError, match="tool call"):
        await asked(direct, "openai/m", Answer(body=body))


async def test_a_key_in_the_arguments_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk-0123456789abcdef")
    calls = [{"id": "c1", "function": {"name": "weather", "arguments": '{"city":"gsk-0123456789abcdef"}'}}]
    reply, _ = await asked(direct, "openai/m", Answer(body=json.dumps(whole(None, "tool_calls", tool_calls=calls))))
    assert reply.tool_calls[0].arguments == '{"city":"[GROQ_API_KEY]"}'


async def test_calls_where_text_was_asked_for_are_no_answer() -> None:
    body = json.dumps(whole(None, "tool_calls", tool_calls=WHOLE))
    with pytest.raises(BadResponseError, match="empty answer"):
        await asked(direct, "openai/m", Answer(body=body), tools=())
