"""Both doors to a provider, the direct one and litellm, against one that fails in every way it can."""

import asyncio
import datetime
import email.utils
import json
import logging
import sys
import traceback
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.core.types import Reply, Usage
from fusion.models.base import ModelInfo, Price
from fusion.models.providers.direct import direct
from fusion.models.providers.litellm import LiteLLMModel, close_all
from fusion.models.wrappers.limit import Limited
from tests.models.conformance import Collected, request
from tests.provider import Answer, Provider

KEY = "sk-proj-abcdefgh12345678"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "parts": {"type": "array", "items": {"type": "integer"}}},
    "required": ["title", "parts"],
    "additionalProperties": False,
}

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),  # litellm's own types, said by pydantic
]


make: Any = direct
"""Makes a model by the door under test."""


@pytest.fixture(autouse=True, params=[direct, LiteLLMModel], ids=["direct", "litellm"])
async def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(sys.modules[__name__], "make", request.param)
    yield str(request.param.__name__)
    await close_all()


def model(provider: Provider, model_id: str = "openai/mock", **options: Any) -> Any:
    base = provider.root if model_id.startswith("anthropic/") else provider.url
    return make(model_id, **{"api_base": base, "api_key": KEY, **options})


async def asked(answer: Any, *, streamed: bool = False, model_id: str = "openai/mock", **more: object) -> Reply:
    """The reply to one request, which the provider has seen exactly once."""
    with Provider(answer) as provider:
        try:
            return await model(provider, model_id).complete(request(**more), Collected() if streamed else None)
        finally:
            assert len(provider.requests) == 1


# What is sent


async def test_a_request_carries_what_was_asked_and_nothing_else() -> None:
    with Provider() as provider:
        await model(provider).complete(request("hi", max_tokens=77, temperature=0.5))
    (seen,) = provider.requests
    assert seen.body == {
        "model": "mock",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 77,
        "temperature": 0.5,
        "stream": False,
    }
    assert seen.headers["authorization"] == f"Bearer {KEY}"


async def test_a_stream_is_asked_for_with_its_usage_and_only_for_someone_who_listens() -> None:
    with Provider() as provider:
        await model(provider).complete(request(), Collected())
        await model(provider).complete(request())
    streamed, whole = (seen.body for seen in provider.requests)
    assert streamed["stream"] is True
    assert streamed["stream_options"] == {"include_usage": True}
    assert whole["stream"] is False


async def test_a_schema_is_asked_for_strictly() -> None:
    with Provider(Answer(echo_schema=True)) as provider:
        reply = await model(provider).complete(request(json_schema=SCHEMA))
    assert provider.requests[0].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }
    assert reply.text == '{"title": "text", "parts": [1]}'


async def test_json_without_a_schema_can_be_asked_for() -> None:
    with Provider() as provider:
        await model(provider).complete(request(json_schema=SCHEMA, json_mode="object"))
    assert provider.requests[0].body["response_format"] == {"type": "json_object"}


# What comes back


async def test_a_reply_says_what_was_asked_and_what_was_served() -> None:
    info = ModelInfo(id="local/small", provider="local", local=True)
    with Provider(Answer("hi", model="qwen.gguf")) as provider:
        reply = await model(provider, "openai/alias", info=info).complete(request())
    assert (reply.asked, reply.served, reply.text) == ("local/small", "qwen.gguf", "hi")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("said", "means"),
    [("stop", "stop"), ("tool_calls", "stop"), ("length", "length"), ("content_filter", "content_filter")],
)
async def test_finish_reasons(said: str, means: str, streamed: bool) -> None:
    assert (await asked(Answer(finish_reason=said), streamed=streamed)).finish_reason == means


@pytest.mark.parametrize("model_id", ["openai/mock", "openrouter/openai/gpt-5.6"])
async def test_a_refusal_in_a_field_of_its_own_is_no_empty_answer(model_id: str) -> None:
    words = "I cannot help with that."
    message = {"role": "assistant", "content": None, "refusal": words}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    body = {**whole, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    reply = await asked(Answer(body=json.dumps(body)), model_id=model_id)
    assert (reply.finish_reason, reply.text) == ("content_filter", words)
    chunk = {**whole, "object": "chat.completion.chunk"}
    deltas = [({"role": "assistant", "content": ""}, None), ({"refusal": words}, None), ({}, "stop")]
    events = [{**chunk, "choices": [{"index": 0, "delta": d, "finish_reason": f}]} for d, f in deltas]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    reply = await asked(Answer(body=stream), streamed=True, model_id=model_id)
    assert (reply.finish_reason, reply.text) == ("content_filter", words)


@pytest.mark.parametrize("streamed", [False, True])
async def test_usage_by_class_and_its_cost(streamed: bool) -> None:
    price = Price(input=Decimal("0.01"), output=Decimal("0.1"), cached_read=Decimal("0.001"))
    info = ModelInfo(id="mine", provider="openai", price=price)
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    with Provider(Answer(usage=usage)) as provider:
        reply = await model(provider, info=info).complete(request(), Collected() if streamed else None)
    assert reply.usage == Usage(input=100, cached_read=60, output=50, reasoning=40)
    assert reply.cost == Decimal("0.40") + Decimal("0.060") + 5


@pytest.mark.parametrize("streamed", [False, True])
async def test_input_holds_the_cached_tokens_of_anthropic_too(streamed: bool) -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "cache_read_input_tokens": 10,
        "cache_creation_input_tokens": 20,
    }
    reply = await asked(Answer(usage=usage), streamed=streamed, model_id="anthropic/claude-haiku-5-5")
    assert reply.usage == Usage(input=35, cached_read=10, cache_write=20, output=6)


@pytest.mark.parametrize("streamed", [False, True])
async def test_usage_that_a_provider_leaves_out_is_estimated_and_said_to_be(streamed: bool) -> None:
    reply = await asked(Answer("x" * 40, usage=None), streamed=streamed)
    assert reply.usage.source == "estimated"
    assert reply.usage.output == 10
    assert reply.usage.input > 0


async def test_more_than_was_asked_for_is_seen() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 900}
    reply = await asked(Answer("word " * 900, over_deliver=True, usage=usage), max_tokens=10)
    assert reply.usage.output == 900


async def test_pieces_come_while_the_rest_is_written() -> None:
    got = asyncio.Event()

    class Listening(Collected):
        def add(self, text: str) -> None:
            super().add(text)
            got.set()

    pieces = Listening()
    with Provider(Answer(pieces=["first "] + ["more "] * 500, piece_delay=0.02)) as provider:
        call = asyncio.create_task(model(provider).complete(request(max_tokens=5000), pieces))
        await asyncio.wait_for(got.wait(), 10)
        assert not call.done()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert pieces.pieces[0] == "first "


async def test_an_error_of_the_listener_is_its_own() -> None:
    class Refusing(Collected):
        def add(self, text: str) -> None:
            raise LookupError("mine")

    with Provider() as provider, pytest.raises(LookupError, match="mine"):
        await model(provider).complete(request(), Refusing())


# What goes wrong

REFUSALS = [
    (400, BadRequestError),
    (401, AuthenticationError),
    (403, AuthenticationError),
    (404, BadRequestError),
    (408, ModelTimeoutError),
    (413, ContextWindowError),
    (422, BadRequestError),
    (429, RateLimitError),
    (500, ModelConnectionError),
    (503, ModelConnectionError),
    (529, ModelConnectionError),
    (307, BadRequestError),
]


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5", "openrouter/openai/gpt-5.6"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "kind"), REFUSALS)
async def test_a_refusal_is_one_request_and_one_error(
    status: int, kind: type[ModelError], streamed: bool, model_id: str
) -> None:
    words = f"no, said the provider to Bearer {KEY} and sk-ant-{'x' * 20}; " + "and so on " * 200
    answer = Answer(words, status=status, headers={"location": "/elsewhere"})
    with pytest.raises(kind) as caught:
        await asked(answer, streamed=streamed, model_id=model_id)
    message = str(caught.value)
    assert repr(model_id) in message
    assert "no, said the provider" in message
    assert len(message) < 600
    assert caught.value.model == model_id
    everything = "".join(traceback.format_exception(caught.value))
    assert KEY not in everything
    assert "sk-ant-x" not in everything


@pytest.mark.parametrize(
    ("words", "status", "kind"),
    [
        ("This model's maximum context length is 8192 tokens", 400, ContextWindowError),
        ("prompt is too long: 210000 tokens > 200000 maximum", 400, ContextWindowError),
        ("request (9000 tokens) exceeds the available context size (8192 tokens)", 400, ContextWindowError),
        ("The response was filtered by Azure's content management policy", 400, ContentFilterError),
        ("You exceeded your current quota, please check your plan", 429, AuthenticationError),
    ],
)
async def test_words_that_mean_more_than_their_status(words: str, status: int, kind: type[ModelError]) -> None:
    with pytest.raises(kind):
        await asked(Answer(words, status=status))


def in_half_a_minute() -> str:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    return email.utils.format_datetime(then, usegmt=True)


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5"])
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, 1.5),
        ({"Retry-After": "in half a minute"}, 1, 30),
    ],
)
async def test_how_long_to_wait(headers: dict[str, str], least: float, most: float, model_id: str) -> None:
    headers = {name: in_half_a_minute() if "half" in value else value for name, value in headers.items()}
    with pytest.raises(RateLimitError) as caught:
        await asked(Answer(status=429, headers=headers), model_id=model_id)
    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most


async def test_a_wait_that_nobody_can_read_is_none() -> None:
    with pytest.raises(RateLimitError) as caught:
        await asked(Answer(status=429, headers={"Retry-After": "soon"}))
    assert caught.value.retry_after is None


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("drop", ["before", "reset", "headers"])
async def test_a_connection_that_is_dropped(drop: Any, streamed: bool, model_id: str) -> None:
    with pytest.raises(ModelConnectionError, match="dropped the connection"):
        await asked(Answer(drop=drop), streamed=streamed, model_id=model_id)


async def test_a_whole_answer_cut_in_its_middle_is_a_dropped_connection() -> None:
    with pytest.raises(ModelConnectionError):
        await asked(Answer(drop="body"))


async def test_nobody_there() -> None:
    with Provider() as provider:
        address = provider.url
    with pytest.raises(ModelConnectionError, match="api_base"):
        await make("openai/mock", api_base=address, api_key=KEY).complete(request())


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5", "openrouter/openai/gpt-5.6"])
@pytest.mark.parametrize("end_mark", [True, False])
@pytest.mark.parametrize("piece_delay", [0.0, 0.02])
async def test_a_stream_without_a_finish_reason_is_no_answer(
    piece_delay: float, end_mark: bool, model_id: str
) -> None:
    answer = Answer(pieces=["a", "b"], finish_reason=None, end_mark=end_mark, piece_delay=piece_delay)
    with pytest.raises(BadResponseError, match="broke off") as caught:
        await asked(answer, streamed=True, model_id=model_id)
    assert caught.value.text == "ab"


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5"])
async def test_a_stream_cut_in_its_middle_keeps_its_text(model_id: str) -> None:
    with pytest.raises(BadResponseError, match="broke off") as caught:
        await asked(Answer(pieces=["a"] * 8, drop="body", piece_delay=0.01), streamed=True, model_id=model_id)
    assert caught.value.text in ("aa", "aaa", "aaaa", "aaaaa")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("body", ["<html>busy</html>", "{}", "", "[1, 2]"])
async def test_a_success_that_is_no_completion(body: str, streamed: bool) -> None:
    with pytest.raises(BadResponseError, match="'openai/mock'"):
        await asked(Answer(body=body), streamed=streamed)


async def test_an_error_inside_a_stream_is_what_it_says() -> None:
    body = 'data: {"error": {"message": "slow down", "code": 429}}\n\n'
    with pytest.raises(RateLimitError, match="slow down"):
        await asked(Answer(body=body), streamed=True)


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_answer_in_time(streamed: bool) -> None:
    with Provider(Answer(hang=True)) as provider:
        limited = Limited(model(provider), concurrency=1)
        with pytest.raises(ModelTimeoutError, match=r"0\.2 s"):
            await limited.complete(request(timeout=0.2), Collected() if streamed else None)
        assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)
        assert len(provider.requests) == 1


# Leaving


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5"])
@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(pieces=["x"] * 1000, piece_delay=0.05)])
async def test_cancelling_closes_the_connection(answer: Answer, model_id: str) -> None:
    with Provider(answer) as provider:
        call = asyncio.create_task(model(provider, model_id).complete(request(), Collected()))
        await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)


async def test_connections_are_used_again() -> None:
    with Provider() as provider:
        for _ in range(5):
            await model(provider).complete(request(), Collected())
            await model(provider).complete(request())
        assert provider.open == 1


async def test_many_calls_at_once_are_as_many_requests() -> None:
    with Provider(lambda seen: Answer(seen.body["messages"][0]["content"])) as provider:
        one = model(provider)
        replies = await asyncio.gather(*(one.complete(request(f"n{number}")) for number in range(100)))
    assert [reply.text for reply in replies] == [f"n{number}" for number in range(100)]
    assert len(provider.requests) == 100


async def test_nothing_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(ModelConnectionError):
        await asked(Answer(status=500))
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
