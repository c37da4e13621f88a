"""Usage is measured where its counts can be right, else estimated: never thrown away, never below zero."""

import asyncio
import json
from typing import Any

import pytest

from fusion import Fusion, Settings
from fusion.core.config import Endpoint, Tariff
from fusion.core.types import Usage
from tests.models.providers.reader.bodies import both, chunks, stream, whole
from tests.models.providers.reader.test_thoughts import one
from tests.provider import Answer, Provider

pytestmark = [
    pytest.mark.usefixtures("closing"),
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),
]


def counts(taken: Any, given: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": taken, "completion_tokens": given, "total_tokens": total, **more}


ABSURD: dict[str, Any] = {
    "fractions": counts(10.5, 1.0, 11.5),
    "negative": counts(-1, -1, -2),
    "texts": counts("10", "5", "15"),
    "huge": counts(10**15, 10**15, 2 * 10**15),
    "larger than a float": counts(10**400, 10**400),
    "many": counts(50_000_000, 50_000_000),
    "lists": counts([], {"a": 1}, "x"),
    "booleans": counts(True, True),
    "nulls": counts(None, None),
    "zeros": counts(0, 0, 0),
    "a list": [1, 2, 3],
    "a number": 7,
    "empty": {},
}
PARTS: dict[str, Any] = {
    "no output": ({"prompt_tokens": 9}, "estimated"),
    "no input": ({"completion_tokens": 5}, "estimated"),
    "output of nothing": (counts(9, 0, 9), "estimated"),
    "names of Anthropic": ({"input_tokens": 9, "output_tokens": 5}, "measured"),
    "whole floats": (counts(9.0, 5.0, 14.0), "measured"),
    "a wrong total": (counts(9, 5, 3), "measured"),
}
APART = {
    "by the total": counts(9, 5, 114, completion_tokens_details={"reasoning_tokens": 100}),
    "by its size": counts(9, 5, None, completion_tokens_details={"reasoning_tokens": 105}),
    "in the total alone": counts(9, 5, 114),
    "a part of the output": counts(9, 105, 114, completion_tokens_details={"reasoning_tokens": 100}),
    "beside the counts": counts(9, 5, 114, reasoning_tokens=100),
}


@pytest.mark.parametrize("usage", ABSURD.values(), ids=ABSURD.keys())
async def test_counts_that_cannot_be_right_are_estimated(usage: Any) -> None:
    body = json.dumps(whole(usage={"x": 1})).replace('{"x": 1}', json.dumps(usage))
    reply = (await both(body)).reply
    assert reply is not None
    assert reply.text == "Oslo"
    assert reply.usage == Usage(input=5, output=1, source="estimated")


@pytest.mark.parametrize("raw", ["1e999", "NaN", "-Infinity", "1" * 5000])
async def test_numbers_that_are_no_json_cost_no_answer(raw: str) -> None:
    body = json.dumps(whole(usage={"prompt_tokens": "X", "completion_tokens": 5})).replace('"X"', raw)
    reply = (await both(body)).reply
    assert reply is not None
    assert reply.usage == Usage(input=5, output=5, source="estimated")


@pytest.mark.parametrize(("usage", "source"), PARTS.values(), ids=PARTS.keys())
async def test_what_is_left_out_is_estimated(usage: Any, source: str) -> None:
    reply = (await both(whole(usage=usage))).reply
    assert reply is not None
    assert reply.usage.source == source
    assert reply.usage.input in (5, 9)
    assert reply.usage.output in (1, 5)


@pytest.mark.parametrize("usage", APART.values(), ids=APART.keys())
async def test_reasoning_that_is_counted_apart_is_counted(usage: Any) -> None:
    reply = (await both(whole(usage=usage))).reply
    assert reply is not None
    assert (reply.usage.input, reply.usage.source) == (9, "measured")
    assert reply.usage.output in (105, 110)


async def test_cached_tokens_that_are_counted_apart_are_input() -> None:
    usage = counts(10, 5, None, prompt_tokens_details={"cached_tokens": 90})
    reply = (await both(whole(usage=usage))).reply
    assert reply is not None
    assert reply.usage == Usage(input=100, cached_read=90, output=5)


async def test_usage_may_come_after_the_end_and_again() -> None:
    base = {"id": "1", "object": "chat.completion.chunk", "choices": []}
    late = [{**base, "usage": counts(9, 3)}, {**base, "usage": None}, {**base, "usage": counts(9, 5)}]
    reply = (await both(stream([*_oslo(), *late]))).reply
    assert reply is not None
    assert reply.usage == Usage(input=9, output=5)


def _oslo() -> list[Any]:
    return chunks("Oslo", usage=None)


async def test_a_receipt_tells_an_estimate_from_a_measure(tmp_path: Any) -> None:
    settings = Settings(models_dir=tmp_path, local_threads=1, library_dir=tmp_path)
    with Provider(Answer("Oslo", usage={"prompt_tokens": -7, "completion_tokens": 2.5})) as provider:
        mine = Endpoint(model="m", api_base=provider.url, price=Tariff(input=1, output=2))
        with Fusion(settings=settings.model_copy(update={"endpoints": {"mine": mine}}), model="mine") as fusion:
            result = await asyncio.to_thread(fusion.complete, "Capital?", pipeline=one())
    assert result.text == "Oslo"
    assert result.receipt.lines[0].estimated.usage.total > 0
    assert result.receipt.lines[0].measured.usage.total == 0
