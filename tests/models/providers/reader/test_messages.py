"""Replies in Anthropic's format mean the same whole and streamed, by the same reader as OpenAI's."""

import json
from typing import Any

import pytest

from fusion.core.errors import (
    AuthenticationError,
    BadResponseError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    OversizedReplyError,
    RateLimitError,
)
from fusion.core.types import Usage
from fusion.models.providers.direct import direct
from tests.models.conformance import Collected, request
from tests.models.providers.reader.bodies import Outcome
from tests.provider import Answer, Provider

pytestmark = [
    pytest.mark.usefixtures("closing"),
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),
]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def whole(*content: Any, stop: Any = "end_turn", usage: Any = None) -> dict[str, Any]:
    counts = {"input_tokens": 9, "output_tokens": 5} if usage is None else usage
    head = {"id": "1", "type": "message", "role": "assistant", "model": "claude-mock"}
    return {**head, "content": list(content), "stop_reason": stop, "stop_sequence": None, "usage": counts}


def events(*deltas: Any, stop: Any = "end_turn", block: Any = None) -> list[dict[str, Any]]:
    start = {**whole(stop=None), "usage": {"input_tokens": 9, "output_tokens": 1}}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block or text("")},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


def body(given: Any) -> str:
    if isinstance(given, list):
        return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in given)
    return given if isinstance(given, str) else json.dumps(given)


async def ask(given: Any, *, streamed: bool, **options: Any) -> Outcome:
    pieces = Collected()
    with Provider(Answer(body=body(given))) as provider:
        model = direct("anthropic/claude-haiku-5-5", api_base=provider.root, api_key="sk-ant-0123456789")
        try:
            reply = await model.complete(request(**options), pieces if streamed else None)
        except ModelError as error:
            return Outcome(None, error, "")
    return Outcome(reply, None, "".join(pieces.pieces))


async def both(given: Any, **options: Any) -> Outcome:
    one, other = [await ask(given, streamed=streamed, **options) for streamed in (False, True)]
    assert one.said == other.said
    if other.reply is not None:
        assert other.pieces == other.reply.text
    return other


def delta(said: str) -> dict[str, str]:
    return {"type": "text_delta", "text": said}


THINKING = {"type": "thinking", "thinking": "hm", "signature": "x"}
TOOL = {"type": "tool_use", "id": "1", "name": "json_tool_call", "input": {}}
OSLO = {
    "whole": whole(text("Oslo")),
    "parts": whole(THINKING, text("Os"), text("lo")),
    "redacted": whole({"type": "redacted_thinking", "data": "xx"}, text("Oslo")),
    "streamed": events(delta("Os"), delta("lo")),
    "thoughts streamed": events({"type": "thinking_delta", "thinking": "hm"}, delta("Oslo"), block=THINKING),
    "marks": events(delta("<thi"), delta("nk>hm</think>"), delta("\nOslo")),
}


@pytest.mark.parametrize("given", OSLO.values(), ids=OSLO.keys())
async def test_each_of_these_says_oslo(given: Any) -> None:
    reply = (await both(given)).reply
    assert reply is not None
    assert (reply.text, reply.finish_reason) == ("Oslo", "stop")
    assert reply.usage == Usage(input=9, output=5)


async def test_json_by_a_tool_is_the_answer() -> None:
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ('{"a"', ": 1}")]
    for given in (whole({**TOOL, "input": {"a": 1}}, stop="tool_use"), events(*pieces, block=TOOL, stop="tool_use")):
        reply = (await both(given)).reply
        assert reply is not None
        assert reply.text == '{"a": 1}'


@pytest.mark.parametrize("stop", ["mystery", "error", None, "", 7])
async def test_an_end_that_is_no_known_one_is_a_failed_attempt(stop: Any) -> None:
    for given in (whole(text("Oslo"), stop=stop), events(delta("Oslo"), stop=stop)):
        assert isinstance((await both(given)).error, BadResponseError)


async def test_cached_tokens_are_input() -> None:
    usage = {"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}
    reply = (await both(whole(text("Oslo"), usage=usage))).reply
    assert reply is not None
    assert reply.usage == Usage(input=15, cached_read=4, cache_write=2, output=5)


ERRORS: list[tuple[str, str, type[ModelError]]] = [
    ("overloaded_error", "Overloaded", ModelConnectionError),
    ("rate_limit_error", "slow down", RateLimitError),
    ("authentication_error", "invalid x-api-key", AuthenticationError),
    ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", ContextWindowError),
    ("api_error", "Internal server error", ModelConnectionError),
]


@pytest.mark.parametrize(("name", "words", "kind"), ERRORS)
async def test_an_error_in_a_stream_is_what_it_says(name: str, words: str, kind: type[ModelError]) -> None:
    error = {"type": "error", "error": {"type": name, "message": words}}
    for given in (error, [error], [*events(delta("Os"))[:4], error]):
        assert type((await both(given)).error) is kind


async def test_a_reply_that_is_too_large_is_not_read() -> None:
    for given in (whole(text("x" * 500_000)), events(*[delta("word " * 50)] * 3000)):
        assert isinstance((await both(given, max_tokens=50)).error, OversizedReplyError)
