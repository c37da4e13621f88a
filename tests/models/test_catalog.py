"""Prices and abilities from the price file, without litellm itself."""

import subprocess
import sys
import time
from decimal import Decimal
from functools import cache

import pytest

from fusion.core.types import Usage
from fusion.models import catalog
from fusion.models.catalog import price_file


def test_a_known_model_has_its_price_without_noise() -> None:
    info = catalog.lookup("openai/gpt-5.6")
    assert info.price is not None
    assert (info.price.input, info.price.output) == (Decimal("0.000004"), Decimal("0.00002"))
    assert (info.price.cached_read, info.price.cache_write) == (Decimal("0.0000004"), Decimal("0.000005"))
    assert (info.provider, info.local, info.json_schema) == ("openai", False, True)
    assert info.context is not None
    assert info.context > 100_000
    assert info.max_output is not None
    assert "gpt-5.6" in info.price_source


@pytest.mark.parametrize(
    "model_id", ["anthropic/claude-opus-5-5", "claude-opus-5-5", "openrouter/anthropic/claude-opus-5.5"]
)
def test_one_model_under_its_several_names(model_id: str) -> None:
    price = catalog.lookup(model_id).price
    assert price is not None
    assert price.output == Decimal("0.00002")


def test_the_price_of_long_input() -> None:
    price = catalog.lookup("anthropic/claude-haiku-5-5").price
    assert price is not None
    assert price.of(Usage(input=100_000)) == Decimal("0.01")
    assert price.of(Usage(input=100_001, output=10)) == Decimal("0.0000005") * 100_001 + Decimal("0.0000025") * 10
    assert price.bound(200_000, 0) >= price.of(Usage(input=200_000))


@pytest.mark.parametrize(
    "model_id", ["openai/no-such-model", "nobody/nothing", "", "/", "openai/", "mistral/gpt-5.6"]
)
def test_what_is_unknown_is_none(model_id: str) -> None:
    info = catalog.lookup(model_id)
    assert info.id == model_id
    assert (info.price, info.context, info.max_output) == (None, None, None)
    assert info.price_source == "unknown"
    assert not catalog.known(model_id)


def test_nothing_for_nothing_is_unknown() -> None:
    free = [
        key
        for key, entry in price_file.entries().items()
        if entry.get("input_cost_per_token") == 0 == entry.get("output_cost_per_token")
    ]
    assert free
    own = {key for key in free if key.startswith("ollama/") and not key.endswith("-cloud")}
    assert all(catalog.lookup(key).price is None for key in free if key not in own)
    assert own
    assert {catalog.lookup(key).price_source for key in own} == {"local (your own server)"}


def test_an_entry_alone_is_that_of_the_whole_file() -> None:
    entries = price_file.entries()
    assert [name for name, entry in entries.items() if price_file.entry(name) != entry] == []
    nested = {key for entry in entries.values() for key in entry} | {"us", "chat", "sample_spec", 'a"b'}
    assert [name for name in nested - entries.keys() if price_file.entry(name) is not None] == []


X = '{"litellm_provider": "x", "max_input_tokens": 5}'
OTHERS = {
    "compact": '{"x/a":{"litellm_provider":"x","max_input_tokens":5},"x/b":{"litellm_provider":"x"}}',
    "indented by two": f'{{\n  "x/b": {{\n    "litellm_provider": "x"\n  }},\n  "x/a": {X}\n}}',
    "twice": f'{{\n    "x/a": {{"litellm_provider": "y"}},\n    "x/a": {X}\n}}',
    "named within": f'{{\n    "x/a": {X},\n    "x/b": {{"litellm_provider": "x", "like": {{"x/a": {{}}}}}}\n}}',
    "spaced": '{\n    "x/a" : {"litellm_provider" : "x", "max_input_tokens" : 5}\n}',
}
"""Price files in other layouts than the usual one."""


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_an_entry_is_found_in_any_layout(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    price_file.forget()
    monkeypatch.setattr(price_file, "_text", cache(lambda file: text))
    try:
        assert catalog.lookup("x/a").context == 5
        assert not catalog.known("x/c")
        assert not catalog.known("like")
    finally:
        price_file.forget()


@pytest.mark.parametrize("model_id", ["local/small", "local/strong", "local/tiny", "local:/somewhere/any.gguf"])
def test_local_models_are_free(model_id: str) -> None:
    info = catalog.lookup(model_id)
    assert (info.provider, info.local, info.json_schema, info.price_source) == ("local", True, True, "local (free)")
    assert info.price is not None
    assert info.price.of(Usage(input=10, output=10)) == 0
    assert catalog.known(model_id)


def test_a_local_model_that_does_not_exist() -> None:
    assert not catalog.known("local/smal")
    assert "local/small" in catalog.suggest("local/smal")


def test_near_names() -> None:
    assert catalog.suggest("openai/gpt-5.6-lunna")[0] == "openai/gpt-5.6-luna"
    assert all(catalog.known(name) for name in catalog.suggest("anthropic/claude-opus-55"))
    assert catalog.suggest("@@@@") == ()


def test_a_name_without_its_provider_is_looked_for_among_those_of_the_makers() -> None:
    assert catalog.suggest("claude-opus-55")[0].startswith("anthropic/claude-opus")


@pytest.mark.parametrize(
    "model_id", ["openai/gpt-99", "openrouter/x/y", "hosted_vllm/z", "ollama/q", "lm_studio/q", "gpt-5.6", "poe/x"]
)
def test_what_a_known_provider_may_have_by_now_can_be_reached(model_id: str) -> None:
    assert catalog.reachable(model_id)


@pytest.mark.parametrize(
    "model_id", ["nonsense", "opnai/gpt-5.6", "localai/x", "open/gpt-5.6", "openai/", "/gpt-5.6", "", "local/x"]
)
def test_what_nobody_can_have_cannot_be_reached(model_id: str) -> None:
    assert not catalog.reachable(model_id)


def test_a_huge_name_is_not_looked_at_for_long() -> None:
    catalog.suggest("x")
    started = time.process_time()
    catalog.suggest("openai/" + "gpt" * 1_000_000)
    assert time.process_time() - started < 1


def test_litellm_is_not_imported() -> None:
    code = (
        "import sys; from fusion.models import catalog, profiles; catalog.lookup('openai/gpt-5.6'); "
        "profiles.load_profiles(); sys.exit('litellm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
