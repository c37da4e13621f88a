"""The scripted model: what it says, when it fails, and what it remembers."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from fusion.core.errors import BadRequestError, BadResponseError, RateLimitError, UsageError
from fusion.core.types import Message, Reply, Request, Usage
from fusion.models.base import ModelInfo, Price
from fusion.models.providers.scripted import Say, ScriptedModel


def request(text: str = "Say something.", **fields: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=fields.pop("max_tokens", 100), **fields)


class Pieces:
    committed = False

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def add(self, text: str) -> None:
        self.pieces.append(text)

    def restart(self) -> None:
        self.pieces.clear()


def ask(model: ScriptedModel, text: str = "Say something.", **fields: Any) -> Reply:
    return asyncio.run(model.complete(request(text, **fields)))


def test_one_text_for_every_call() -> None:
    model = ScriptedModel("hello")
    assert [ask(model).text for _ in range(3)] == ["hello"] * 3
    assert len(model.requests) == 3


def test_a_list_in_order_and_a_clear_end() -> None:
    model = ScriptedModel(
        ["one", Say("two", finish_reason="length"), RateLimitError("slow down", retry_after=3), {"n": 1}]
    )
    assert ask(model).text == "one"
    assert ask(model).finish_reason == "length"
    with pytest.raises(RateLimitError, match="slow down"):
        ask(model)
    assert json.loads(ask(model).text) == {"n": 1}
    with pytest.raises(BadRequestError, match="called 5 times and its script has 4 answers"):
        ask(model)


def test_a_function_of_the_request() -> None:
    model = ScriptedModel(lambda asked: {"length": len(asked.messages[0].content)})
    assert ask(model, "four").text == '{"length": 4}'


def test_an_async_function_of_the_request() -> None:
    async def script(asked: Request) -> Say:
        await asyncio.sleep(0)
        return Say(asked.messages[0].content.upper())

    assert ask(ScriptedModel(script), "loud").text == "LOUD"


def test_usage_is_estimated_unless_it_is_given() -> None:
    reply = ask(ScriptedModel("12345678"), "1234")
    assert reply.usage == Usage(input=1, output=2, source="estimated")
    given = Usage(input=7, output=9)
    assert ask(ScriptedModel(Say("x", usage=given))).usage == given


def test_cost_follows_the_price() -> None:
    said = Say("x", usage=Usage(input=10, output=5))
    assert ask(ScriptedModel(said)).cost == 0
    assert ask(ScriptedModel(said, price=Price(input="0.1", output="0.2"))).cost == Decimal(2)  # type: ignore[arg-type]
    unknown = ScriptedModel(said, info=ModelInfo(id="made/up", provider="made"))
    reply = ask(unknown)
    assert reply.cost is None
    assert reply.asked == reply.served == "made/up"


def test_info_and_price_together_are_refused() -> None:
    with pytest.raises(UsageError):
        ScriptedModel("x", info=ModelInfo(id="a/b", provider="a"), price=Price(input=Decimal(1), output=Decimal(1)))


def test_the_name_is_the_model() -> None:
    model = ScriptedModel("x", name="fake/large")
    assert (model.info.id, model.info.provider) == ("fake/large", "fake")


def test_a_stream_in_pieces() -> None:
    model, heard = ScriptedModel(Say(pieces=["one ", (0.0, "two "), "three"])), Pieces()
    reply = asyncio.run(model.complete(request(), heard))
    assert heard.pieces == ["one ", "two ", "three"]
    assert reply.text == "one two three"
    assert reply.first_token is not None
    assert ask(model).text == "one two three"


def test_a_text_is_one_piece() -> None:
    heard = Pieces()
    asyncio.run(ScriptedModel("whole").complete(request(), heard))
    assert heard.pieces == ["whole"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_stream_that_breaks(streamed: bool) -> None:
    model, heard = ScriptedModel(Say(pieces=["half", " of"], finish_reason=None)), Pieces()
    with pytest.raises(BadResponseError, match="without a finish reason") as caught:
        asyncio.run(model.complete(request(), heard if streamed else None))
    assert caught.value.text == "half of"
    assert heard.pieces == (["half", " of"] if streamed else [])


def test_an_error_after_the_pieces() -> None:
    model, heard = ScriptedModel(Say(pieces=["half"], error=RateLimitError("too many"))), Pieces()
    with pytest.raises(RateLimitError):
        asyncio.run(model.complete(request(), heard))
    assert heard.pieces == ["half"]


def test_text_and_pieces_together_are_refused() -> None:
    with pytest.raises(UsageError):
        Say("text", pieces=["pieces"])


def test_the_output_limit_is_kept() -> None:
    reply = ask(ScriptedModel("x" * 100), max_tokens=3)
    assert (reply.text, reply.finish_reason, reply.usage.output) == ("x" * 12, "length", 3)


def test_the_output_limit_cuts_a_stream_between_characters() -> None:
    model, heard = ScriptedModel(Say(pieces=["ab", "ééé", "never"])), Pieces()
    reply = asyncio.run(model.complete(request(max_tokens=1), heard))
    assert heard.pieces == ["ab", "é"]
    assert (reply.text, reply.finish_reason) == ("abé", "length")


def test_a_text_of_exactly_the_limit_is_whole() -> None:
    assert ask(ScriptedModel("x" * 12), max_tokens=3).finish_reason == "stop"


def test_over_delivery() -> None:
    reply = ask(ScriptedModel("x" * 100, respect_limit=False), max_tokens=3)
    assert (len(reply.text), reply.finish_reason, reply.usage.output) == (100, "stop", 25)


def test_calls_under_way_are_counted() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(asked: Request) -> str:
            await go.wait()
            return "done"

        model = ScriptedModel(script)
        tasks = [asyncio.ensure_future(model.complete(request(str(n)))) for n in range(5)]
        await asyncio.sleep(0)
        assert (model.in_flight, model.peak) == (5, 5)
        assert [asked.messages[0].content for asked in model.requests] == list("01234")
        tasks[0].cancel()
        await asyncio.sleep(0)
        assert (model.in_flight, model.cancelled) == (4, 1)
        go.set()
        await asyncio.gather(*tasks[1:])
        assert (model.in_flight, model.peak, model.cancelled) == (0, 5, 1)

    asyncio.run(main())


def test_delays_add_up() -> None:
    model = ScriptedModel(Say(delay=0.01, pieces=[(0.01, "a"), (0.01, "b")]), delay=0.01)
    assert ask(model).latency >= 0.04
