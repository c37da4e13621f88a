"""Profiles: the shipped ones, and which one a run takes."""

from pathlib import Path
from typing import Any

import pytest

from fusion.config import Settings
from fusion.errors import MissingKeyError, UsageError
from fusion.models import prices
from fusion.models.profiles import choose, key_for, load_profiles


def settings(*keys: str, **more: Any) -> Settings:
    return Settings(
        models_dir=Path("/none"), local_threads=1, library_dir=Path("/none"), keys=frozenset(keys), **more
    )


def test_every_profile_has_both_roles_with_known_prices() -> None:
    profiles = load_profiles()
    assert {"local", "openai", "anthropic", "openrouter"} <= set(profiles)
    for name, profile in profiles.items():
        assert profile.name == name
        assert {"frontier", "bulk"} <= set(profile.roles)
        for model_id in (model_id for chain in profile.roles.values() for model_id in chain):
            assert prices.known(model_id)
            assert prices.lookup(model_id).price is not None
            assert key_for(prices.lookup(model_id).provider) == profile.key


def test_the_cheap_role_is_the_cheaper_one() -> None:
    for profile in load_profiles().values():
        frontier, bulk = (prices.lookup(profile.roles[role][0]).price for role in ("frontier", "bulk"))
        assert frontier is not None
        assert bulk is not None
        assert bulk.output <= frontier.output


def test_without_keys_the_local_one() -> None:
    profile = choose(settings(), None)
    assert (profile.name, profile.key) == ("local", None)
    assert profile.roles == {"frontier": ("local/strong",), "bulk": ("local/small",), "second": ("local/strong",)}


def test_the_first_whose_key_is_set() -> None:
    assert choose(settings("ANTHROPIC_API_KEY"), None).name == "anthropic"
    assert choose(settings("OPENROUTER_API_KEY", "ANTHROPIC_API_KEY"), None).name == "anthropic"
    assert choose(settings("OTHER_API_KEY"), None).name == "local"


def test_what_is_asked_for_comes_first() -> None:
    known = settings("OPENAI_API_KEY", "ANTHROPIC_API_KEY", profile="anthropic")
    assert choose(known, None).name == "anthropic"
    assert choose(known, "openai").name == "openai"
    assert choose(known, "local").name == "local"


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"'antropic' does not exist; did you mean 'anthropic'\?.*openrouter"):
        choose(settings(), "antropic")
    with pytest.raises(UsageError, match=r"FUSION_PROFILE.*'xyz'.*local"):
        choose(settings(profile="xyz"), None)


def test_a_profile_without_its_key() -> None:
    with pytest.raises(MissingKeyError, match=r"OPENAI_API_KEY is not set.*--profile local"):
        choose(settings("ANTHROPIC_API_KEY"), "openai")


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("openrouter", "OPENROUTER_API_KEY"),
        ("deepseek", "DEEPSEEK_API_KEY"),
        ("local", None),
        ("ollama", None),
        ("unknown", None),
    ],
)
def test_the_key_of_a_provider(provider: str, key: str | None) -> None:
    assert key_for(provider) == key
