"""Caps under weather: a limit of a run is never passed, by requests that fail any more than by those that succeed."""

import random
from decimal import Decimal
from typing import Any

import pytest

from fusion import Limits, Price
from fusion.models.base import ModelInfo
from fusion.models.providers.litellm import LiteLLMModel
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider

PRICE = Price(input=Decimal("0.00001"), output=Decimal("0.00002"))
INFO = ModelInfo(id="openai/mock", provider="openai", price=PRICE)
WORK = """
inputs:
  task: The task.
  rows: {default: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}
stages:
  work: {kind: map, over: inputs.rows, role: bulk, prompt: "Row {{ item.value }}", max_tokens: 60, concurrency: 4}
output: work
"""
REFUSALS = {
    "server errors": [Answer(status=500)],
    "rate limits": [Answer(status=429)],
    "resets": [Answer(drop="reset")],
    "hang-ups": [Answer(drop="before")],
    "overload, then an answer": [Answer(status=503), Answer(status=529), Answer("fine")],
    "everything at once": [Answer(status=500), Answer(drop="reset"), Answer("fine"), Answer(status=429)],
}


def model(provider: Provider) -> LiteLLMModel:
    return LiteLLMModel("openai/mock", info=INFO, api_base=provider.url, api_key="sk-test")


def drawn(answers: list[Answer], seed: int) -> Any:
    weather = random.Random(seed)
    return lambda seen: weather.choice(answers)


@pytest.mark.parametrize("weather", sorted(REFUSALS))
@pytest.mark.parametrize("calls", [1, 7])
def test_a_cap_in_calls_counts_refused_requests(fusion: Any, without_pauses: None, weather: str, calls: int) -> None:
    with Provider(drawn(REFUSALS[weather], calls)) as provider:
        run(fusion({"bulk": model(provider)}), pipeline=pipeline(WORK), budget=Limits(calls=calls))
        assert 1 <= len(provider.requests) <= calls
