"""Caps under weather: a limit of a run is never passed, by requests that fail any more than by those that succeed."""

import json
import random
import re
import sys
from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion, Limits, Price
from fusion.models.base import ModelInfo
from fusion.models.providers.litellm import LiteLLMModel
from fusion.models.wrappers.retry import Retrying
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

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


def test_a_request_that_never_connected_costs_no_call(fusion: Any, without_pauses: None) -> None:
    with Provider() as gone:
        dead = model(gone)
    text = WORK.replace("stages:", "roles: {bulk: {chain: [openai/mock, openai/other]}}\nstages:")
    other = INFO.model_copy(update={"id": "openai/other"})
    with Provider(Answer("fine")) as provider:
        alive = LiteLLMModel("openai/mock", info=other, api_base=provider.url, api_key="sk-test")
        made = fusion(models={"openai/mock": dead, "openai/other": alive})
        result, _ = run(made, pipeline=pipeline(text), budget=Limits(calls=12))
        assert (result.status, len(provider.requests)) == ("ok", 12)


# Storms: runs under mixed weather with caps in all four units. `python -m tests.engine.test_caps 500` makes so many.

STORM = [
    Answer("fine"),
    Answer("fine", usage={"prompt_tokens": 40, "completion_tokens": 60}),
    Answer(status=429),
    Answer(status=500),
    Answer(status=503, headers={"retry-after": "0"}),
    Answer(drop="reset"),
    Answer(drop="before"),
    Answer(drop="headers"),
    Answer(drop="body"),
    Answer(finish_reason=None),
    Answer(""),
    Answer(body="<html>busy</html>"),
    Answer(hang=True),
    Answer("fine", usage=None),
    Answer("fine", usage={"prompt_tokens": 10**15, "completion_tokens": 10**15}),
    Answer("fine", usage={"prompt_tokens": -5, "completion_tokens": -1000}),
    Answer("fine", usage={"prompt_tokens": 2.5, "completion_tokens": "many"}),
    Answer("fine", usage={"prompt_tokens": 20, "completion_tokens": 200}),  # more than was allowed
]
SECONDS = 4
"""Time that a loaded machine may take to end a run at its deadline."""


class Sky:
    """The weather of one run: each request meets a part of the storm; `excess` is what was given beyond the limit."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.parts = self.luck.sample(STORM, self.luck.randint(2, 8))
        self.excess = 0
        self.sent = 0

    def __call__(self, seen: Seen) -> Answer:
        self.sent += 1
        answer = self.luck.choice(self.parts)
        given = (answer.usage or {}).get("completion_tokens")
        if isinstance(given, int) and 60 < given < 10**6:
            self.excess += given - 60
        return answer

    def caps(self) -> Limits:
        return Limits(
            usd=Decimal(self.luck.randint(5, 60)) / 1000,
            tokens=self.luck.randint(400, 6000),
            calls=self.luck.randint(1, 20),
            seconds=self.luck.choice([0.3, 1, 20]),
        )


class Skies:
    """The weather of each run, found by its number in a request: one may arrive after its run has ended."""

    def __init__(self) -> None:
        self.of: dict[int, Sky] = {}

    def __call__(self, seen: Seen) -> Answer:
        found = re.search(r"storm (\d+)", json.dumps(seen.body))
        assert found is not None
        return self.of[int(found[1])](seen)


def passed(fusion: Fusion, provider: Provider, seed: int) -> list[str]:
    """The caps that a run has passed, but by what the provider gave beyond the limits of requests in flight."""
    skies = provider.script
    assert isinstance(skies, Skies)
    sky = skies.of[seed] = Sky(seed)
    caps = sky.caps()
    text = WORK.replace("{{ item.value }}", "{{ item.value }} of {{ inputs.task }}")
    text = text.replace("stages:", f"on_budget: {sky.luck.choice(['fail', 'finish'])}\nstages:")
    result, _ = run(fusion, f"storm {seed}", pipeline=pipeline(f"defaults: {{timeout: 0.4}}\n{text}"), budget=caps)
    assert caps.usd is not None
    assert caps.tokens is not None
    assert caps.calls is not None
    assert caps.seconds is not None
    spent = sum((line.measured + line.estimated + line.charged).usage.total for line in result.receipt.lines)
    found = []
    if result.cost.usd > caps.usd + PRICE.output * sky.excess:
        found.append(f"usd {result.cost.usd} > {caps.usd}")
    if spent > caps.tokens + sky.excess:
        found.append(f"tokens {spent} > {caps.tokens}")
    if sky.sent > caps.calls:
        found.append(f"calls {sky.sent} > {caps.calls}")
    if result.seconds > caps.seconds + SECONDS:
        found.append(f"seconds {result.seconds:.1f} > {caps.seconds}")
    return [f"run {seed}: {one}" for one in found]


def storms(count: int) -> list[str]:
    with Provider(Skies()) as provider, Fusion(profile="local", model=model(provider)) as fusion:
        return [line for seed in range(count) for line in passed(fusion, provider, seed)]


def test_no_cap_is_passed_in_a_storm(without_pauses: None) -> None:
    assert storms(60) == []


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrying, "_jitter", lambda self, number: 0.0)
        lines = storms(int(sys.argv[1]))
    sys.stdout.write("\n".join([f"{sys.argv[1]} runs, {len(lines)} caps passed", *lines]) + "\n")
