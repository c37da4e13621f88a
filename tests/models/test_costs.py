"""What a usage costs by our own sums, held against litellm's for every model of many providers.

Where litellm differs, and why:

- DeepSeek charges half outside of its peak hours. litellm looks at the clock; we charge the full price at any hour,
  so that a bound is one, and a run costs the same whenever its receipt is read.
- xAI's dearer price begins with the 200,000th token of the input for litellm, and behind it for us, as its entries
  say (`above_200k_tokens`) and as both of us read those of every other provider.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from fusion.core.config import Settings
from fusion.core.config.tables import SettingsFile
from fusion.core.types import Usage
from fusion.models import catalog
from fusion.models.base import Price

PROVIDERS = (
    "anthropic", "azure", "dashscope", "deepseek", "gemini", "groq", "kyma", "mistral", "openai", "perplexity", "xai"
)  # fmt: skip
USAGES = {
    "plain": Usage(input=1000, output=300),
    "read from the cache": Usage(input=10_000, cached_read=8000, output=300),
    "written to the cache": Usage(input=10_000, cached_read=2000, cache_write=7000, output=300),
    "reasoning": Usage(input=1000, output=2000, reasoning=1500),
    "up to 200k": Usage(input=200_000, output=10),
    "above 200k": Usage(input=200_001, output=10),
    "long": Usage(input=300_000, output=1000),
    "long, cached": Usage(input=300_000, cached_read=100_000, cache_write=50_000, output=1000, reasoning=400),
}
SPREAD = (
    "openai/gpt-5.6",
    "openai/gpt-4.1",
    "anthropic/claude-opus-5-5",
    "anthropic/claude-haiku-5-5",
    "anthropic/claude-sonnet-4-5",
    "gemini/gemini-2.5-pro",
    "gemini/gemini-2.5-flash",
    "deepseek/deepseek-chat",
    "groq/openai/gpt-oss-20b",
    "dashscope/qwen-turbo",
    "kyma/qwen3.7-flash",
    "perplexity/sonar-deep-research",
)


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        import litellm

        yield litellm


def theirs(usage: Usage) -> Any:
    """A usage as litellm has it."""
    from litellm.types.utils import CompletionTokensDetailsWrapper, PromptTokensDetailsWrapper
    from litellm.types.utils import Usage as TheirUsage

    return TheirUsage(
        prompt_tokens=usage.input,
        completion_tokens=usage.output,
        total_tokens=usage.total,
        prompt_tokens_details=PromptTokensDetailsWrapper(
            cached_tokens=usage.cached_read, cache_creation_tokens=usage.cache_write
        ),
        completion_tokens_details=CompletionTokensDetailsWrapper(
            reasoning_tokens=usage.reasoning, text_tokens=usage.output - usage.reasoning
        ),
        cache_creation_input_tokens=usage.cache_write,
        cache_read_input_tokens=usage.cached_read,
    )


def their_cost(litellm: Any, model: str, usage: Usage) -> float:
    return float(
        sum(
            litellm.cost_per_token(
                model=model,
                prompt_tokens=usage.input,
                completion_tokens=usage.output,
                usage_object=theirs(usage),
            )
        )
    )


def entries(litellm: Any) -> dict[str, dict[str, Any]]:
    """Every chat model of these providers whose price we know, by the id under which it is asked."""
    found = {}
    for key, entry in litellm.model_cost.items():
        if entry.get("mode") == "chat" and entry.get("litellm_provider") in PROVIDERS:
            model = key if "/" in key else f"{entry['litellm_provider']}/{key}"
            if catalog.lookup(model).price is not None and model != "azure/mistral-large-latest":  # unknown to itself
                found[model] = entry
    return found


@pytest.mark.parametrize("name", USAGES)
def test_every_price_comes_to_what_litellm_says(litellm: Any, name: str) -> None:
    usage, differing = USAGES[name], {}
    known = entries(litellm)
    for model in known:
        price = catalog.lookup(model).price
        assert price is not None
        ours, them = float(price.of(usage)), their_cost(litellm, model, usage)
        if not math.isclose(ours, them, rel_tol=1e-9):
            differing[model] = ours / them
    by_the_hour = {model for model, entry in known.items() if "off_peak_pricing" in entry}
    at_the_edge = {model for model in differing if model.startswith("xai/") and name == "up to 200k"}
    assert differing.keys() - by_the_hour - at_the_edge == set()
    assert all(differing[model] > 1 for model in by_the_hour & differing.keys())
    assert all(math.isclose(differing[model], 0.5) for model in at_the_edge)
    assert len(known) > 300


@pytest.mark.parametrize("model", SPREAD)
def test_a_reply_costs_what_litellm_says(litellm: Any, model: str) -> None:
    price = catalog.lookup(model).price
    assert price is not None
    for usage in USAGES.values():
        response = litellm.ModelResponse(model=model, usage=theirs(usage))
        them = litellm.completion_cost(completion_response=response, model=model)
        assert float(price.of(usage)) == pytest.approx(them, rel=1e-9)
        assert price.of(usage) <= price.bound(usage.input, usage.output)


def test_each_class_of_usage_has_its_price() -> None:
    price = Price(
        input=Decimal(1),
        output=Decimal(10),
        cached_read=Decimal("0.1"),
        cache_write=Decimal("1.25"),
        reasoning=Decimal(20),
    )
    assert price.of(Usage(input=100, cached_read=10, cache_write=20, output=8, reasoning=3)) == 70 + 1 + 25 + 50 + 60
    assert price.bound(100, 8) == 125 + 160


def test_a_model_may_have_more_than_two_prices() -> None:
    price = catalog.lookup("kyma/qwen3.7-flash").price
    assert price is not None
    costs = [price.of(Usage(input=tokens)) / tokens for tokens in (32_000, 32_001, 256_000, 256_001)]
    assert costs[0] < costs[1] == costs[2] < costs[3]
    assert price.bound(300_000, 0) == price.of(Usage(input=300_000))


@pytest.mark.parametrize(
    ("more", "usage", "dollars"),
    [
        ({}, Usage(input=1000, cached_read=600, output=10), "0.00202"),
        ({"cache_read": "0.2"}, Usage(input=1000, cached_read=600, output=10), "0.00094"),
        ({"cache_write": "2.5"}, Usage(input=1000, cache_write=400, output=10), "0.00222"),
        ({"cache_read": "0", "cache_write": "4"}, Usage(input=1000, cached_read=500, cache_write=500), "0.002"),
        ({"cache_read": "0.2", "cache_write": "2.5"}, Usage(input=1000, output=10), "0.00202"),
    ],
)
@pytest.mark.parametrize("table", ["prices", "endpoints"])
def test_prices_of_ones_own_tell_cached_tokens_apart(more: Any, usage: Usage, dollars: str, table: str) -> None:
    tariff = {"input": 2, "output": 2, **more}
    endpoint = {"model": "m", "api_base": "http://localhost:1/v1", "price": tariff}
    given = {"prices": {"openai/gpt-5.6": tariff}, "endpoints": {"own": endpoint}}
    tables = SettingsFile.model_validate({table: given[table]})
    settings = Settings.from_environment().model_copy(update={"prices": tables.prices, "endpoints": tables.endpoints})
    price = catalog.describe("own" if table == "endpoints" else "openai/gpt-5.6", settings).price
    assert price is not None
    assert price.of(usage) == Decimal(dollars)
    assert price.of(usage) <= price.bound(usage.input, usage.output)
