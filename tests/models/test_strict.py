"""Shapes as strict modes take them, as they reach a provider; the answer is held to the whole shape all the same."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.core.schema import to_json_schema, validate
from fusion.models.base import ModelInfo
from fusion.models.providers.litellm import LiteLLMModel
from fusion.models.structured.strict import strict
from fusion.stages.kinds.plan import plan_schema
from fusion.stages.kinds.review import VERDICT_SCHEMA
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

# What the documentation of each names as supported; anything else is a 400.
EVERYWHERE = {"type", "enum", "const", "anyOf", "items", "properties", "required", "additionalProperties"}
EVERYWHERE |= {"$ref", "$defs", "description", "title"}
NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
SUPPORTED = {"openai": EVERYWHERE | NUMBERS | {"minItems", "maxItems"}, "anthropic": EVERYWHERE}

SHAPE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 9, "pattern": "^[A-Z]", "description": "The name"},
        "day": {"type": "string", "format": "date", "default": "2026-01-01", "maxLength": 10},
        "marks": {"type": "array", "maxItems": 3, "uniqueItems": True, "items": {"type": "integer", "minimum": 1}},
        "note": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        "part": {"$ref": "#/$defs/part", "description": "kept out: a reference stands alone"},
    },
    "required": ["name", "day", "marks", "part"],
    "$defs": {"part": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}},
}
GOOD = {"name": "Ada", "day": "2026-11-24", "marks": [1], "note": None, "part": {"n": 1}}


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside of a schema."""
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for part in [*inner, *([schema["items"]] if "items" in schema else [])]:
        yield from parts(part)


def refusals(schema: Mapping[str, Any], provider: str) -> list[str]:
    """What a provider would refuse in a schema."""
    found = []
    for part in parts(schema):
        found += sorted(part.keys() - SUPPORTED[provider])
        if "$ref" in part and len(part) > 1:
            found.append("$ref with siblings")
        if part.get("type") == "object":
            if part.get("additionalProperties") is not False:
                found.append("additionalProperties")
            if set(part["required"]) != set(part["properties"]):
                found.append("required")
    return found


def schema_in(seen: Seen) -> dict[str, Any]:
    body = seen.body
    if "response_format" in body:
        return dict(body["response_format"]["json_schema"]["schema"])
    return dict((body.get("output_format") or body["output_config"]["format"])["schema"])


def text_of(shape: Any) -> str:
    return f"""
stages: {{answer: {{kind: generate, role: bulk, prompt: "Say it.", schema: {json.dumps(shape)}}}}}
output: answer.data
"""


def asked(fusion: Any, provider: Provider, model_id: str, shape: Any, **info: Any) -> Any:
    known = {"id": model_id, "provider": model_id.partition("/")[0], "json_schema": True, **info}
    base = provider.root if model_id.startswith("anthropic") else provider.url
    model = LiteLLMModel(model_id, info=ModelInfo(**known), api_base=base, api_key="sk-test")
    result, _ = run(fusion({"bulk": model}), None, pipeline=pipeline(text_of(shape)))
    return result


@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5"])
def test_no_provider_is_sent_what_its_strict_mode_refuses(fusion: Any, model_id: str) -> None:
    with Provider(Answer(json.dumps(GOOD))) as provider:
        result = asked(fusion, provider, model_id, SHAPE)
    sent = schema_in(provider.requests[0])
    assert refusals(sent, model_id.partition("/")[0]) == []
    assert (result.status, result.data, len(provider.requests)) == ("ok", GOOD, 1)
    assert sent["properties"]["name"]["description"] == (
        "The name; at least 2 characters; at most 9 characters; matches the regular expression ^[A-Z]"
    )


def test_what_was_left_out_is_checked_on_our_side(fusion: Any) -> None:
    bad = {**GOOD, "name": "Ada Lovelace", "marks": [1, 1]}
    with Provider([Answer(json.dumps(bad)), Answer(json.dumps(GOOD))]) as provider:
        result = asked(fusion, provider, "openai/mock", SHAPE)
    assert result.data == GOOD
    again = provider.requests[1].body["messages"][-1]["content"]
    assert "$.name: a text of 12 characters; at most 9 are wanted" in again
    assert "$.marks" in again


@pytest.mark.parametrize(
    "shape",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "number"}},
        {"type": "object", "properties": {"a": {"type": "string"}}},  # optional, and null is no value for it
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}]},
    ],
)
def test_a_shape_that_no_strict_mode_can_say_is_asked_for_in_words(fusion: Any, shape: Any) -> None:
    good = {"a": ["x"]} if "array" in json.dumps(shape) else {"a": "x"}
    with Provider(Answer(json.dumps(good))) as provider:
        result = asked(fusion, provider, "openai/mock", shape)
    body = provider.requests[0].body
    assert body["response_format"] == {"type": "json_object"}
    assert "It must hold to this JSON Schema" in body["messages"][0]["content"]
    assert result.data == good


def test_an_embedded_model_keeps_every_bound_since_its_grammar_does(fusion: Any) -> None:
    with Provider(Answer(json.dumps(GOOD))) as provider:
        asked(fusion, provider, "openai/mock", SHAPE, local=True)
    assert schema_in(provider.requests[0])["properties"]["name"]["maxLength"] == 9


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("schema", [plan_schema(12), VERDICT_SCHEMA], ids=["plan", "verdict"])
def test_our_own_shapes_can_be_said_strictly(schema: dict[str, Any], provider: str) -> None:
    made = strict(schema, provider)
    assert made is not None
    assert refusals(made, provider) == []


TYPES = st.recursive(
    st.sampled_from(["string", "integer", "number", "string?", "list[number]", "one of: a, b", "one of: a?"]),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3) | inner.map(lambda t: [t]),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(shape=st.dictionaries(st.sampled_from("abcd"), TYPES, min_size=1, max_size=4))
def test_every_short_type_can_be_said_strictly(shape: dict[str, Any]) -> None:
    schema = to_json_schema(shape)
    for provider in SUPPORTED:
        made = strict(schema, provider)
        assert made is not None
        assert refusals(made, provider) == []
        assert validate({}, made)  # it still asks for its fields
