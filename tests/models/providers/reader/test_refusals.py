"""An error within a body of status 200 is the error that the same refusal is with a status of its own."""

import json
from typing import Any

import pytest

from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from tests.models.providers.reader.bodies import ask, both, chunk, event, whole

pytestmark = [
    pytest.mark.usefixtures("closing"),
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),
]


def said(code: Any, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **more}}


LONG = "This model's maximum context length is 4096 tokens"
REFUSED: list[tuple[Any, type[ModelError]]] = [
    (said(429, "slow down"), RateLimitError),
    (said("429"), RateLimitError),
    (said(429.0), RateLimitError),
    (said("rate_limit_exceeded"), RateLimitError),
    (said(None, type="rate_limit_error"), RateLimitError),
    (said(None, status="RESOURCE_EXHAUSTED"), RateLimitError),
    (said("RateLimitError"), RateLimitError),
    (said(None, "Too many requests, try later"), RateLimitError),
    (said("ThrottlingException"), RateLimitError),
    (said(401, "No auth credentials found"), AuthenticationError),
    (said("invalid_api_key", type="invalid_request_error"), AuthenticationError),
    (said(None, type="authentication_error"), AuthenticationError),
    (said(None, status="UNAUTHENTICATED"), AuthenticationError),
    (said(403), AuthenticationError),
    (said("insufficient_quota"), AuthenticationError),
    (said(402, "Insufficient credits"), AuthenticationError),
    (said("context_length_exceeded", LONG), ContextWindowError),
    (said(400, LONG), ContextWindowError),
    ({"object": "error", "message": LONG, "type": "BadRequestError", "code": 400}, ContextWindowError),
    (said(413), ContextWindowError),
    (said(400), BadRequestError),
    (said("model_not_found"), BadRequestError),
    (said(None, type="invalid_request_error"), BadRequestError),
    (said("content_filter", "blocked by the content filter"), ContentFilterError),
    (said(403, "Your input was flagged"), ContentFilterError),
    (said(504), ModelTimeoutError),
    (said("DEADLINE_EXCEEDED"), ModelTimeoutError),
    (said(529, "overloaded"), ModelConnectionError),
    (said(None, type="overloaded_error"), ModelConnectionError),
    (said(None, "busy"), ModelConnectionError),
    ({"error": "busy"}, ModelConnectionError),
    ({"code": 503, "message": "loading"}, ModelConnectionError),
    ({"success": False, "code": 1301, "msg": "The key has expired"}, ModelConnectionError),
    ({"choices": [{"index": 0, "error": {"code": 429, "message": "x"}, "finish_reason": "error"}]}, RateLimitError),
    ({**chunk({"content": ""}, "error"), **said(429)}, RateLimitError),
]


@pytest.mark.parametrize(
    ("body", "kind"), REFUSED, ids=lambda one: json.dumps(one)[:60] if isinstance(one, dict) else ""
)
async def test_a_refusal_within_200_is_what_it_says(body: Any, kind: type[ModelError]) -> None:
    for sent in (body, event(body), f"event: error\n{event(body)}", ": hello\n\n" + event(body)):
        error = (await both(sent)).error
        assert type(error) is kind
        assert not error.answered


@pytest.mark.parametrize(("body", "kind"), [one for one in REFUSED if "error" in one[0]][:9])
async def test_a_refusal_after_some_text_may_be_billed(body: Any, kind: type[ModelError]) -> None:
    error = (await both(event(chunk({"content": "Os"})) + event(body))).error
    assert type(error) is kind
    assert error.answered


@pytest.mark.parametrize("name", ["message", "msg", "detail", "error_message", "error", "description"])
async def test_the_words_of_a_server_are_in_the_message(name: str) -> None:
    for status in (200, 400, 404, 500):
        error = (await ask({"code": 500, name: "the words"}, streamed=False, status=status)).error
        assert "the words" in str(error)


async def test_words_of_the_provider_behind_a_gateway_are_in_the_message() -> None:
    body = said(502, "Provider returned error", metadata={"raw": "the model is being loaded", "provider_name": "x"})
    assert "the model is being loaded" in str((await both(body)).error)


async def test_an_event_of_words_alone_is_an_error() -> None:
    error = (await both("event: error\ndata: Too many requests\n\n")).error
    assert isinstance(error, RateLimitError)


FLAGGED = ["moderation: violence", "Your input was flagged", "content policy violation", "flagged_input"]


@pytest.mark.parametrize("words", FLAGGED)
@pytest.mark.parametrize("status", [400, 403, 451])
async def test_a_text_refused_for_its_content_is_no_bad_key(words: str, status: int) -> None:
    assert isinstance((await both(said(status, words), status=status)).error, ContentFilterError)


async def test_no_credit_says_to_add_some() -> None:
    error = (await both(said(402, "Payment required"), status=402)).error
    assert isinstance(error, AuthenticationError)
    assert "add credit" in str(error)


async def test_an_endpoint_without_a_key_that_is_asked_for_one_says_so() -> None:
    error = (await both(said(401, "Unauthorized"), status=401)).error
    assert isinstance(error, AuthenticationError)
    assert "set `key_env` of its endpoint" in str(error)


@pytest.mark.parametrize("status", [200, 408, 429, 500, 503, 504, 529])
@pytest.mark.parametrize(
    ("given", "seconds"), [("4", 4), ("0", 0), ("1.5", 1.5), ("in a minute", None), ("-3", None)]
)
async def test_retry_after_counts_with_any_status(status: int, given: str, seconds: float | None) -> None:
    body = said(status if status != 200 else 503)
    error = (await both(body, status=status, headers={"Retry-After": given})).error
    assert error is not None
    assert error.retryable
    assert error.retry_after == seconds


async def test_a_date_is_read_by_the_clock_of_the_server() -> None:
    headers = {"Retry-After": "Wed, 21 Oct 2065 07:28:09 GMT", "Date": "Wed, 21 Oct 2065 07:28:00 GMT"}
    error = (await both(said(503), status=503, headers=headers)).error
    assert error is not None
    assert error.retry_after == 9


WAITS = [
    ("4", "in 4 s"),
    ("90", "in 90 s"),
    ("1800", "in 30 minutes"),
    ("86400", "in 24 hours"),
    ("1e6", "in 12 days"),
]


@pytest.mark.parametrize(
    ("given", "words"), [*WAITS, ("1e6", "in 12 days"), ("1e9", "in 32 years"), ("1e300", "in years")]
)
async def test_a_wait_is_said_for_people(given: str, words: str) -> None:
    error = (await both(said(429), status=429, headers={"Retry-After": given})).error
    assert words in str(error)
    assert "e+" not in str(error)


async def test_a_reply_beside_a_null_error_is_a_reply() -> None:
    assert (await both({**whole(), "error": None, "code": 0, "message": "ok"})).reply is not None
