"""Which models have a batch API, the way to it, its price, and what the policy says to it."""

from decimal import Decimal

import pytest

from fusion import ScriptedModel, Settings
from fusion.core.errors import AuthenticationError, PolicyError
from fusion.core.types import Usage
from fusion.models.base import ModelInfo, Price
from fusion.models.batches.base import Entry, at_share, batch_price
from fusion.models.catalog import describe, lookup
from fusion.models.gateway import Gateway
from tests.conftest import Write
from tests.models.batches.conftest import entries, read, request
from tests.models.batches.double import Double, DoubleProcess

pytestmark = pytest.mark.anyio

NAMES = {
    "openai/gpt-5.6": "OpenAIBatches",
    "openai/o3-mini": "OpenAIBatches",
    "groq/llama-3.3-70b-versatile": "OpenAIBatches",
    "anthropic/claude-haiku-5-5": "AnthropicBatches",
    "openrouter/openai/gpt-5.6": "OpenRouterBatches",
    "openrouter/no/such": "OpenRouterBatches",
    "gemini/gemini-3.8-flash": "GeminiBatches",
}
REASONS = {
    "deepseek/deepseek-chat": "no batch API",
    "mistral/mistral-large-latest": "no batch API",
    "bedrock/anthropic.claude-haiku": "no batch API",
    "local/small": "an embedded model",
    "openai/o3-pro": "no chat model",
    "script": "own",
    "replay:runs": "kept answers",
}


def gateway(**more: object) -> Gateway:
    return Gateway(Settings.from_environment(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model_id", "name"), NAMES.items())
def test_models_with_a_batch_api(double: Double, model_id: str, name: str) -> None:
    door = gateway().batch_door(model_id)
    assert type(door).__name__ == name
    assert gateway().no_batches(model_id) is None


@pytest.mark.parametrize(("model_id", "reason"), REASONS.items())
def test_models_without_one_say_why(model_id: str, reason: str) -> None:
    own = gateway(models={"script": ScriptedModel("hello")})
    assert own.batch_door(model_id) is None
    assert reason in (own.no_batches(model_id) or "")


async def test_a_server_of_the_user_has_one_if_it_says_so(
    double: Double, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-of-my-server-1")
    write(
        f'[endpoints.mine]\nmodel = "llama"\napi_base = "{double.root}/v1"\nkey_env = "MY_KEY"\nbatch = true\n'
        "price = {input = 2, output = 8}\n"
        f'[endpoints.other]\nmodel = "llama"\napi_base = "{double.root}/v1"\n'
    )
    double.set(key="sk-of-my-server-1")
    found = gateway()
    assert "batch = true" in (found.no_batches("other") or "")
    door = found.batch_door("mine")
    assert door is not None
    rows = entries(3)
    assert len(await read(door, await door.submit(rows, "mine"), rows)) == 3
    assert door.price is not None
    assert door.price.of(Usage(input=1_000_000, output=1_000_000)) == 5
    await found.close()


async def test_azure_answers_beside_its_query(double: Double, write: Write) -> None:
    write(f'[endpoints.azure]\nmodel = "gpt"\napi_base = "{double.root}/v1/?api-version=1"\nbatch = true\n')
    found = gateway()
    door = found.batch_door("azure")
    assert door is not None
    rows = entries(2)
    assert len(await read(door, await door.submit(rows, "azure"), rows)) == 2
    await found.close()


@pytest.mark.parametrize("model_id", ["openai/gpt-5.6", "anthropic/claude-haiku-5-5", "gemini/gemini-3.8-flash"])
async def test_without_a_key_a_batch_is_no_batch(
    double: Double, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{model_id.partition('/')[0].upper()}_API_KEY")
    found = gateway()
    door = found.batch_door(model_id)
    assert door is not None
    with pytest.raises(AuthenticationError, match="needs a key"):
        await door.find("any", ["c1"])
    await found.close()


# Policy.


def test_a_forbidden_model_has_no_batches(double: Double, write: Write) -> None:
    write('[policy]\ndeny = ["openai/*"]\n')
    with pytest.raises(PolicyError):
        gateway().batch_door("openai/gpt-5.6")
    assert gateway().batch_door("anthropic/claude-haiku-5-5") is not None


async def test_no_row_names_a_forbidden_model(double: Double, write: Write) -> None:
    write('[policy]\ndeny = ["openrouter/openai/gpt-5.6"]\n')
    found = gateway()
    door = found.batch_door("openrouter/meta/llama")
    assert door is not None
    bad = Entry("c9", request("x", extra={"models": ["openai/gpt-5.6"]}))
    with pytest.raises(PolicyError):
        door.size(bad)
    with pytest.raises(PolicyError):
        await door.submit([*entries(2), bad], "bad")
    assert double.counts.batches == 0
    await found.close()


# Prices.


@pytest.mark.parametrize(
    "model_id", ["openai/gpt-5.6", "openai/gpt-4o-mini", "anthropic/claude-sonnet-5", "gemini/gemini-3.8-flash"]
)
def test_batches_cost_half_by_the_price_file(model_id: str) -> None:
    info, usage = lookup(model_id), Usage(input=1000, output=100, cached_read=300)
    assert info.price is not None
    assert info.batch_price is not None
    assert info.batch_price.of(usage) * 2 == info.price.of(usage)
    assert info.batch_price.bound(500_000, 10) * 2 == info.price.bound(500_000, 10)


@pytest.mark.parametrize(
    ("entry", "usd"),
    [
        ({"input_cost_per_token_batches": 1e-6, "output_cost_per_token_batches": 4e-6}, "0.0014"),
        ({"input_cost_per_token_batches": 1.6e-6, "output_cost_per_token_batches": 6.4e-6}, "0.00224"),
        ({"input_cost_per_token_batches": 1e-6}, None),
        ({"input_cost_per_token_batches": "1e-6", "output_cost_per_token_batches": 4e-6}, None),
        ({}, None),
        ({"input_cost_per_token": 0, "input_cost_per_token_batches": 0, "output_cost_per_token_batches": 0}, None),
    ],
)
def test_the_price_file_names_the_price_of_batches(
    entry: dict[str, object], usd: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = {"litellm_provider": "openai", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6, "mode": "chat"}
    monkeypatch.setattr("fusion.models.catalog.catalog._find", lambda model_id: ("m", {**live, **entry}))
    found = lookup("openai/m").batch_price
    assert (found and found.of(Usage(input=1000, output=100))) == (usd and Decimal(usd))


def test_a_price_of_the_user_counts_for_batches_too(write: Write) -> None:
    write('[prices]\n"openai/gpt-5.6" = {input = 100, output = 200}\n')
    info = describe("openai/gpt-5.6", Settings.from_environment())
    found = batch_price(info, Decimal("0.5"))
    assert found is not None
    assert (found.input, found.output) == (Decimal("0.00005"), Decimal("0.0001"))


def test_an_unknown_price_stays_unknown() -> None:
    assert batch_price(ModelInfo(id="a/b", provider="a"), Decimal("0.5")) is None
    price = Price(input=Decimal(2), output=Decimal(8), above=10, beyond=Price(input=Decimal(4), output=Decimal(8)))
    half = at_share(price, Decimal("0.5"))
    assert half.beyond is not None
    assert (half.output, half.beyond.input, half.above) == (4, 2, 10)


# The double.


async def test_the_double_outlives_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    with DoubleProcess(polls=1) as double:
        for name, value in double.env.items():
            monkeypatch.setenv(name, value)
        rows, first = entries(5), gateway()
        door = first.batch_door("openai/gpt-5.6")
        assert door is not None
        batch_id = await door.submit(rows, "ours")
        await first.close()
        second = gateway()
        door = second.batch_door("openai/gpt-5.6")
        assert door is not None
        assert await door.find("ours", ["c0"]) == batch_id
        assert (await door.state(batch_id)).status == "open"
        assert (await door.state(batch_id)).status == "ended"
        assert len(await read(door, batch_id, rows)) == 5
        counts = double.counts
        assert (counts.batches, counts.worked["row 3"], counts.ids["c3"], counts.live["row 3"]) == (1, 1, 1, 0)
        await second.close()
