"""Profiles: the shipped ones, and which one a run takes."""

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, ScriptedModel
from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.params import NO_MODEL
from fusion.engine.roles import Cast
from fusion.models import catalog
from fusion.models import profiles as profiles_module
from fusion.models.catalog import describe
from fusion.models.gateway import Gateway
from fusion.models.profiles import choose, family_of, keys_for, load_profiles, region_of
from fusion.pipeline.loader import LoadedPipeline
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts


def settings(*keys: str, **more: Any) -> Settings:
    return Settings(
        models_dir=Path("/none"), local_threads=1, library_dir=Path("/none"), keys=frozenset(keys), **more
    )


EVERY = {
    "anthropic", "openai", "gemini", "openrouter", "groq", "deepseek", "azure", "bedrock", "ollama", "mixed", "local",
}  # fmt: skip
OF_PROFILES = {
    model_id for profile in load_profiles().values() for chain in profile.roles.values() for model_id in chain
} - {NO_MODEL}


def test_every_profile_has_both_roles_with_known_prices() -> None:
    profiles = load_profiles()
    assert set(profiles) == EVERY
    for name, profile in profiles.items():
        assert profile.name == name
        assert {"frontier", "bulk"} <= set(profile.roles)
        if not profile.providers:
            assert {keys_for(catalog.lookup(one).provider) for c in profile.roles.values() for one in c} == {
                profile.keys
            }


@pytest.mark.parametrize("model_id", sorted(OF_PROFILES))
def test_every_model_of_a_profile_is_known(model_id: str) -> None:
    info = describe(model_id, settings())
    assert catalog.known(model_id)
    assert info.price is not None
    if not info.local:
        assert info.context is not None
        assert info.max_output is not None
    assert (info.retires or date.max) > date(2026, 12, 31)
    data = tomllib.loads(Path(profiles_module.__file__).with_name("profiles.toml").read_text())
    facts = data["models"][model_id]
    assert (info.provider, info.family) == (facts["provider"], facts["family"])
    assert info.region == data["providers"][info.provider]["region"]
    assert all(
        source.startswith("https://") or source == "weights.toml"
        for source in data["providers"][info.provider]["sources"]
    )


def test_a_family_is_told_by_the_name_where_the_id_is_unknown() -> None:
    assert family_of("vertex_ai/claude-opus-9") == "claude"
    assert family_of("cerebras/gpt-oss-120b") == "gpt"
    assert (family_of("mystery/one"), region_of("mystery")) == (None, None)


def test_the_cheap_role_is_the_cheaper_one() -> None:
    for profile in load_profiles().values():
        frontier, bulk = (catalog.lookup(profile.roles[role][0]).price for role in ("frontier", "bulk"))
        assert frontier is not None
        assert bulk is not None
        assert bulk.output <= frontier.output


def test_without_keys_the_local_one() -> None:
    profile = choose(settings(), None)
    assert (profile.name, profile.keys) == ("local", ())
    strong, small = ("local/strong",), ("local/small",)
    assert profile.roles == {"frontier": strong, "bulk": small, "second": strong, "reviewer": (NO_MODEL,)}


def test_the_first_whose_keys_are_all_set() -> None:
    assert choose(settings("ANTHROPIC_API_KEY"), None).name == "anthropic"
    assert choose(settings("OPENROUTER_API_KEY", "ANTHROPIC_API_KEY"), None).name == "anthropic"
    assert choose(settings("GROQ_API_KEY", "DEEPSEEK_API_KEY"), None).name == "groq"
    assert choose(settings("OTHER_API_KEY"), None).name == "local"
    assert choose(settings("AZURE_API_KEY"), None).name == "local"
    assert choose(settings("AZURE_API_KEY", "AZURE_API_BASE", "AZURE_API_VERSION"), None).name == "azure"
    assert choose(settings("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), None).name == "local"


def test_some_profiles_are_taken_only_where_they_are_asked_for() -> None:
    two = settings("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
    assert choose(two, None).name == "openai"
    assert choose(two, "mixed").name == "mixed"
    assert choose(settings(), "ollama").name == "ollama"
    with pytest.raises(MissingKeyError, match="'mixed' needs the keys of 2 providers, and 1 of these is set: A"):
        choose(settings("OPENAI_API_KEY"), "mixed")


def test_of_a_mixed_chain_those_with_a_key_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("GEMINI_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.setenv(key, "sk-test")
    pipeline = Pipeline.from_yaml("stages: {a: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: a\n")
    own = {name: ScriptedModel("hello", name=name) for name in OF_PROFILES if name.startswith("openai/")}
    settings = Settings.from_environment()
    cast = Cast(settings, Gateway(settings, models=own), models={}, profile="mixed", roles={}, model=None)
    roles = cast.of(LoadedPipeline(pipeline, Prompts(Library.standard())))
    assert [model.id for model in roles["bulk"].models] == [
        "gemini/gemini-3.5-flash-lite",
        "deepseek/deepseek-v4-flash",
    ]
    assert roles.notes == ()


def test_a_model_of_a_chain_without_its_key_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "sk-test")
    text = "roles: {bulk: {chain: [deepseek/deepseek-v4-pro, own/one]}}\n"
    text += "stages: {a: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: a\n"
    with Fusion(models={"own/one": ScriptedModel("hello", name="own/one")}) as fusion:
        result = fusion.complete(None, pipeline=Pipeline.from_yaml(text))
    assert result.notes[0] == (
        "left out of its chain: role 'bulk' needs 'deepseek/deepseek-v4-pro', and DEEPSEEK_API_KEY is not set"
    )


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
    ("provider", "keys"),
    [
        ("openai", ("OPENAI_API_KEY",)),
        ("openrouter", ("OPENROUTER_API_KEY",)),
        ("mistral", ("MISTRAL_API_KEY",)),
        ("azure", ("AZURE_API_KEY", "AZURE_API_BASE", "AZURE_API_VERSION")),
        ("local", ()),
        ("ollama", ()),
        ("unknown", ()),
    ],
)
def test_the_keys_of_a_provider(provider: str, keys: tuple[str, ...]) -> None:
    assert keys_for(provider) == keys
