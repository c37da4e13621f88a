"""Parameters of a call: from role, stage and defaults to the request's body, and what a model does not take."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fusion import Fusion, ModelInfo, PipelineError, RoleSpec, ScriptedModel, UsageError
from fusion.core.params import PARAMS
from fusion.models.catalog import lookup, refused
from fusion.models.profiles import load_profiles
from fusion.models.providers.litellm import LiteLLMModel
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider

ONE = """
defaults: {{{defaults}}}
roles: {{asked: {{chain: [{model}]{role}}}}}
stages: {{answer: {{kind: generate, role: asked, prompt: Say hello.{stage}}}}}
output: answer
"""


def text(model: str = "scripted/x", *, defaults: str = "", role: str = "", stage: str = "") -> str:
    role, stage = (f", {part}" if part else "" for part in (role, stage))
    return ONE.format(model=model, defaults=defaults, role=role, stage=stage)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(Answer("hello")) as running:
        yield running


def body(provider: Provider, model_id: str, **given: str) -> dict[str, Any]:
    """What a provider is sent for a call with these parameters."""
    own = not model_id.startswith("anthropic/")
    base = provider.url if own else provider.root
    info = lookup(model_id)
    with Fusion(models={model_id: LiteLLMModel(model_id, info=info, api_base=base, api_key="sk-test")}) as fusion:
        result, _ = run(fusion, None, pipeline=pipeline(text(model_id, **given)))
    assert result.status == "ok", result.error
    return provider.requests[-1].body


def test_every_parameter_is_in_the_body_as_openai_takes_it(provider: Provider) -> None:
    sent = body(
        provider,
        "openai/gpt-4.1",
        role="temperature: 0.25, top_p: 0.5, seed: 7",
        stage="stop: [END, STOP], extra: {logit_bias: {'50256': -100}, verbosity: low}",
    )
    wanted = {"temperature": 0.25, "top_p": 0.5, "seed": 7, "stop": ["END", "STOP"]}
    assert {name: sent[name] for name in wanted} == wanted
    assert (sent["logit_bias"], sent["verbosity"]) == ({"50256": -100}, "low")


def test_reasoning_effort_is_in_the_body(provider: Provider) -> None:
    assert body(provider, "openai/gpt-5.6", role="reasoning_effort: high")["reasoning_effort"] == "high"


def test_a_server_of_ones_own_gets_the_effort_whatever_its_model_is_called(provider: Provider) -> None:
    own = LiteLLMModel("openai/qwen", info=ModelInfo(id="own", provider="own"), api_base=provider.url, api_key="none")
    with Fusion(models={"own": own}) as fusion:
        result, _ = run(fusion, None, pipeline=pipeline(text("own", role="reasoning_effort: low")))
    assert result.status == "ok", result.error
    assert provider.requests[0].body["reasoning_effort"] == "low"


def test_every_parameter_is_in_the_body_as_anthropic_takes_it(provider: Provider) -> None:
    sent = body(
        provider,
        "anthropic/claude-haiku-4-5",
        role="temperature: 0.25, stop: END",
        stage="extra: {inference_geo: us, metadata: {user_id: u1}}",
    )
    assert (sent["temperature"], sent["stop_sequences"]) == (0.25, ["END"])
    assert (sent["inference_geo"], sent["metadata"]) == ("us", {"user_id": "u1"})
    sent = body(provider, "anthropic/claude-haiku-4-5", role="thinking_budget: 1500", stage="max_tokens: 3000")
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 1500}


def test_a_stage_goes_before_its_role_and_that_before_the_defaults() -> None:
    model = ScriptedModel("hello")
    with Fusion(models={"scripted/x": model}) as fusion:
        levels = {
            "defaults": "temperature: 1, seed: 1, top_p: 0.1, extra: {a: 1, b: 1}",
            "role": "temperature: 0.5, seed: 2, extra: {b: 2, c: 2}",
            "stage": "temperature: 0, extra: {c: 3}",
        }
        run(fusion, None, pipeline=pipeline(text(**levels)))
    asked = model.requests[0]
    assert (asked.temperature, asked.seed, asked.top_p, asked.extra) == (0, 2, 0.1, {"a": 1, "b": 2, "c": 3})


def test_parameters_make_another_call(fusion: Any) -> None:
    digests = set()
    for stage in ("", "seed: 1", "seed: 2", "top_p: 0.5", "stop: a", "reasoning_effort: low", "extra: {x: 1}"):
        model = ScriptedModel("hello", name="scripted/x")
        with Fusion(models={"scripted/x": model}) as one:
            run(one, None, pipeline=pipeline(text(stage=stage)))
        assert model.requests[0].key is not None
        digests.add(model.requests[0].key.digest)
    assert len(digests) == 7


# What a model does not take.


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        (
            "openai/gpt-5.6",
            {"role": "temperature: 0"},
            "role 'asked': the model 'openai/gpt-5.6' of role 'asked' takes no `temperature` while it reasons; set"
            " `reasoning_effort: none`",
        ),
        (
            "openai/gpt-5.6",
            {"stage": "stop: [x]"},
            "stages.answer.stop: the model 'openai/gpt-5.6' of role 'asked' takes no `stop`",
        ),
        (
            "openai/gpt-4.1",
            {"stage": "reasoning_effort: low"},
            "stages.answer.reasoning_effort: the model 'openai/gpt-4.1' of role 'asked' takes no `reasoning_effort`;"
            " leave it out",
        ),
        ("anthropic/claude-opus-5-5", {"stage": "top_p: 0.5"}, "takes no `top_p`"),
        (
            "anthropic/claude-opus-5-5",
            {"stage": "thinking_budget: 9"},
            "takes no `thinking_budget`; set `reasoning_e",
        ),
        ("anthropic/claude-haiku-4-5", {"role": "seed: 1"}, "takes no `seed`"),
        ("anthropic/claude-haiku-4-5", {"role": "thinking_budget: 9000"}, "leaves nothing of `max_tokens` 2000 for"),
        (
            "gpt-4.1, anthropic/claude-haiku-4-5",
            {"role": "seed: 1"},
            "'anthropic/claude-haiku-4-5' of role 'asked' t",
        ),
    ],
)
def test_what_a_model_does_not_take_is_refused_before_any_call(
    monkeypatch: pytest.MonkeyPatch, model: str, given: dict[str, str], says: str
) -> None:
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(key, "sk-test")
    with Fusion() as fusion, pytest.raises(UsageError) as caught:
        fusion.complete(None, pipeline=pipeline(text(model, **given)))
    assert says in str(caught.value)


def test_a_default_is_left_out_for_a_model_that_does_not_take_it() -> None:
    models = {
        "a/one": ScriptedModel(
            "hello", info=ModelInfo(id="a/one", provider="a", refuses=frozenset({"temperature"}), json_schema=True)
        ),
        "b/two": ScriptedModel("hello", name="b/two"),
    }
    with Fusion(models=models) as fusion:
        for model in models:
            run(fusion, None, pipeline=pipeline(text(model, defaults="temperature: 0, seed: 3")))
    asked = [model.requests[0] for model in models.values()]
    assert [(one.temperature, one.seed) for one in asked] == [(None, 3), (0, 3)]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("{model: other}", "'model' is no extra: give it as `chain`"),
        ("{temperature: 1}", "'temperature' is no extra: give it as `temperature`"),
        ("{stream: true}", "'stream' is no extra: Fusion sets it itself"),
    ],
)
def test_what_is_said_elsewhere_is_no_extra(extra: str, says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        pipeline(text(stage=f"extra: {extra}"))
    assert f"stages.answer.extra: {says}" in str(caught.value)


def test_a_pipeline_cannot_say_where_a_key_is_sent(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider() as thief:
        where = {"api_base": thief.url, "base_url": thief.url, "headers": {"host": "x"}, "custom_llm_provider": "x"}
        sent = body(provider, "openai/gpt-4.1", stage=f"extra: {json.dumps(where)}")
        assert thief.requests == []
    assert {name: sent[name] for name in where} == where  # a field of the body like any other
    for key in ("api_base", "key_env", "api_key"):
        with pytest.raises(PipelineError, match=f"unknown key '{key}'"):
            pipeline(text(role=f"{key}: x"))


def test_what_we_say_of_a_model_is_what_litellm_says() -> None:
    """Every parameter, for every model of every profile and some more."""
    import litellm
    from litellm.utils import get_optional_params

    litellm.suppress_debug_info = True
    given = {"temperature": 0.5, "top_p": 0.5, "seed": 1, "stop": ["x"], "reasoning_effort": "low"}
    ids = {one for profile in load_profiles().values() for chain in profile.roles.values() for one in chain}
    more = {"openai/gpt-4.1", "openai/o3", "anthropic/claude-haiku-4-5", "openai/gpt-5.4-mini", "xai/grok-4.5"}
    for model_id in sorted(one for one in ids | more if one != "none" and not one.startswith("local/")):
        name, provider, _, _ = litellm.get_llm_provider(model_id)
        for param, value in given.items():
            ours = param not in refused(lookup(model_id), {param: value})
            try:
                get_optional_params(model=name, custom_llm_provider=provider, **{param: value})
                theirs = True
            except litellm.UnsupportedParamsError:
                theirs = False
            if provider != "openrouter":  # it takes everything, and leaves out what the model behind it does not
                assert ours == theirs, (model_id, param)


def test_a_role_and_a_stage_take_the_same_parameters() -> None:
    assert PARAMS == ("temperature", "top_p", "seed", "stop", "reasoning_effort", "thinking_budget", "extra")
    assert set(PARAMS) <= set(RoleSpec.model_fields)
