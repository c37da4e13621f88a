"""The door to litellm: what it alone does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fusion.core.errors import BadRequestError
from fusion.models.providers.litellm import LiteLLMModel, close_all, warm
from tests.models.conformance import request
from tests.provider import Provider

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),  # litellm's own types, said by pydantic
]


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    yield
    await close_all()


def model(provider: Provider, model_id: str = "openai/mock", **options: Any) -> LiteLLMModel:
    return LiteLLMModel(model_id, **{"api_base": provider.url, "api_key": "sk-of-a-test", **options})


async def test_a_parameter_that_a_model_does_not_take_is_an_error_and_is_not_dropped() -> None:
    with Provider() as provider, pytest.raises(BadRequestError, match="temperature"):
        await model(provider, "openai/gpt-5.6").complete(request(temperature=0.2))
    assert provider.requests == []


async def test_an_id_without_a_provider_is_an_error() -> None:
    with Provider() as provider, pytest.raises(BadRequestError, match="names no provider"):
        await model(provider, "nothing-known").complete(request())


async def test_cancelling_before_anything_is_sent_sends_nothing() -> None:
    await warm()
    with Provider() as provider:
        for turns in range(6):
            call = asyncio.create_task(model(provider).complete(request()))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        sent = len(provider.requests)
        assert (await model(provider).complete(request())).text == "hello"
    assert sent == 0
