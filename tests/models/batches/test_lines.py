"""Lines of results in all the forms that providers give them, and the double's own rules."""

from collections.abc import Mapping
from typing import Any

import pytest

from fusion.core.errors import (
    BadRequestError,
    BadResponseError,
    ModelConnectionError,
    ModelError,
    RateLimitError,
)
from tests.models.batches.conftest import Open, entries, read
from tests.models.batches.double import Double

pytestmark = pytest.mark.anyio

OK = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "model": "m"}
PARTS = {"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}
USAGE = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}

CASES: dict[str, list[tuple[Mapping[str, Any], type[ModelError] | str | None]]] = {
    "openai": [
        ({"response": {"status_code": 200, "body": OK}, "error": None}, "hi"),
        ({"response": {"status_code": 200, "body": OK}}, "hi"),
        ({"response": {"status_code": 0, "body": {}}, "error": None}, ModelConnectionError),
        ({"response": {"status_code": "429", "body": {"error": {"message": "slow"}}}}, RateLimitError),
        ({"response": {"body": {"error": {"message": "x"}}}}, ModelConnectionError),
        ({"response": {"status_code": 200, "body": None}}, BadResponseError),
        ({"response": {"status_code": 200, "body": "text"}}, BadResponseError),
        ({"response": {"status_code": 200, "body": {"error": {"code": "rate_limit_exceeded"}}}}, RateLimitError),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "unanswered"),
        ({"response": None, "error": {"code": "batch_cancelled"}}, "unanswered"),
        ({"response": None, "error": {"code": "invalid_request", "message": "bad"}}, BadRequestError),
        ({"response": None, "error": None}, ModelConnectionError),
        ({}, ModelConnectionError),
        ({"custom_id": 7}, None),
        ({"custom_id": "another"}, None),
    ],
    "anthropic": [
        ({"result": {"type": "succeeded", "message": MESSAGE}}, "hi"),
        ({"result": {"type": "succeeded", "message": None}}, BadResponseError),
        ({"result": {"type": "succeeded", "message": {**MESSAGE, "stop_reason": None}}}, BadResponseError),
        ({"result": {"type": "canceled"}}, "unanswered"),
        ({"result": {"type": "expired"}}, "unanswered"),
        ({"result": {"type": "errored", "error": {"error": {"type": "overloaded_error"}}}}, ModelConnectionError),
        ({"result": {"type": "errored", "error": {"error": {"type": "invalid_request_error"}}}}, BadRequestError),
        ({"result": {"type": "errored", "error": {"type": "rate_limit_error", "message": "x"}}}, RateLimitError),
        ({"result": {"type": "unheard of"}}, BadResponseError),
        ({}, BadResponseError),
        ({"custom_id": "c0"}, None),
        ({"custom_id": "other-program-1"}, None),
    ],
    "gemini": [
        ({"response": {"candidates": [PARTS], "usageMetadata": USAGE}}, "hi"),
        ({"response": {"candidates": [{**PARTS, "finishReason": "SAFETY"}], "usageMetadata": USAGE}}, ""),
        ({"response": {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE}}, ""),
        ({"error": {"code": 8, "message": "x"}}, RateLimitError),
        ({"error": {"code": 3, "message": "x"}}, BadRequestError),
        ({"error": {"code": 503, "message": "x"}}, ModelConnectionError),
        ({"status": {"code": 13, "message": "x"}}, ModelConnectionError),
        ({"error": {"code": 1, "message": "x"}}, "unanswered"),
        ({"key": 7, "response": {}}, None),
        ({}, ModelConnectionError),
    ],
    "openrouter": [
        ({"response": {"status_code": 200, "body": OK}, "error": None}, "hi"),
        ({"response": {"body": OK}}, "hi"),
        ({"response": {"status_code": 402, "body": {"error": {"message": "no credit"}}}}, ModelError),
        ({"response": None, "error": {"type": "rate_limit_exceeded", "message": "slow"}}, RateLimitError),
        ({"response": None, "error": {"type": "batch_expired", "message": "x"}}, "unanswered"),
        ({"response": None, "error": {"type": "x", "message": "the request was cancelled"}}, "unanswered"),
        (
            {"response": None, "error": {"error_type": "invalid_request", "type": None, "message": "x"}},
            BadRequestError,
        ),
        ({}, ModelConnectionError),
        ({"custom_id": None}, None),
    ],
}
MODELS = {
    "openai": "openai/gpt-5.6",
    "anthropic": "anthropic/claude-haiku-5-5",
    "gemini": "gemini/gemini-3.8-flash",
    "openrouter": "openrouter/openai/gpt-5.6",
}


@pytest.mark.parametrize("api", CASES)
async def test_every_form_of_a_line_has_its_meaning(
    double: Double, opened: Open, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, door, rows = CASES[api], opened(MODELS[api]), entries(len(CASES[api]))

    def line(batch: object, outcome: Any, reply: object, status: object) -> dict[str, Any]:
        number = int(outcome.row.custom_id.rpartition("c")[2])
        return {"custom_id": outcome.row.custom_id, "key": outcome.row.custom_id, **cases[number][0]}

    monkeypatch.setattr(f"tests.models.batches.double.{api}._line", line)
    found = await read(door, await door.submit(rows, "forms"), rows)
    for number, (given, wanted) in enumerate(cases):
        end = found.get(f"c{number}")
        if wanted is None:
            assert end is None, given
            continue
        assert end is not None, given
        if wanted == "unanswered":
            assert isinstance(end.error, ModelConnectionError), given
            assert not end.error.sent, given
        elif isinstance(wanted, str):
            assert end.reply is not None, (given, end.error)
            assert end.reply.text == wanted, given
        else:
            assert isinstance(end.error, wanted), (given, end)


@pytest.mark.parametrize("api", MODELS)
async def test_a_row_that_comes_twice_counts_once(
    double: Double, opened: Open, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, rows = opened(MODELS[api]), entries(4)
    batch_id = await door.submit(rows, "twice")
    await door.state(batch_id)
    batch = double.books.batches[batch_id.rpartition("/")[2]]
    batch.outcomes = [*batch.outcomes, *batch.outcomes]
    assert set(await read(door, batch_id, rows)) == {"c0", "c1", "c2", "c3"}
