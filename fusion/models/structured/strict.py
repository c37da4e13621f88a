"""Strict schemas: the subset of JSON Schema that providers support, with the rest moved into descriptions.

OpenAI: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas, Anthropic:
https://docs.claude.com/en/docs/build-with-claude/structured-outputs#json-schema-limitations. An unknown keyword
fails the request. Replies are validated against the full schema, whatever was sent.
"""

from typing import Any, Final

from fusion.core.schema import MAX_ITEMS, MAX_LENGTH
from fusion.core.types import JsonSchema

_BOUNDS: Final = frozenset(
    {"minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
_KEPT: Final = {"openai": _BOUNDS, "azure": _BOUNDS}
"""Keywords supported by some providers only."""
_EVERYWHERE: Final = frozenset({"type", "enum", "const", "description", "title"})
_INSIDE: Final = frozenset({"anyOf", "items", "properties", "required", "additionalProperties", "$defs"})
_SAYING: Final = frozenset({"type", "enum", "const", "anyOf"})
_DROPPED: Final = frozenset({"default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"})
_WORDS: Final = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches the regular expression {}",
    "format": "in the format {}",
    "minItems": "at least {} elements",
    "maxItems": "at most {} elements",
    "uniqueItems": "no two elements alike",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
}
_OURS: Final = {"maxLength": MAX_LENGTH, "maxItems": MAX_ITEMS}
"""Default bounds, which descriptions omit."""


class _LooseError(Exception):
    """The schema cannot be expressed in strict mode."""


def strict(schema: JsonSchema, provider: str) -> JsonSchema | None:
    """Return the schema for a provider's strict mode; None if it cannot be expressed there.

    Strict modes require every field and allow no others, so an optional field must allow null.

    >>> strict({"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]}, "x")
    {'type': 'object', 'properties': {'a': {'type': 'string', 'description': 'at most 9 characters'}}, ...}
    """
    if schema.get("type") != "object":
        return None
    try:
        return _strict(schema, _KEPT.get(provider, frozenset()))
    except _LooseError:
        return None


def _strict(schema: Any, kept: frozenset[str]) -> JsonSchema:
    if not isinstance(schema, dict):
        raise _LooseError
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    if schema.keys() - _EVERYWHERE - _INSIDE - _DROPPED - _WORDS.keys() or not schema.keys() & _SAYING:
        raise _LooseError
    made = {key: value for key, value in schema.items() if key in _EVERYWHERE or key in kept}
    if "anyOf" in schema:
        made["anyOf"] = [_strict(part, kept) for part in schema["anyOf"]]
    if "array" in _types(schema):
        made["items"] = _strict(schema.get("items"), kept)
    if "object" in _types(schema):
        made |= _object(schema, kept)
    if "$defs" in schema:
        made["$defs"] = {name: _strict(part, kept) for name, part in schema["$defs"].items()}
    return _described(made, schema, kept)


def _object(schema: JsonSchema, kept: frozenset[str]) -> JsonSchema:
    properties = schema.get("properties")
    if not properties or schema.get("additionalProperties", False) is not False:
        raise _LooseError
    optional = properties.keys() - set(schema.get("required", ()))
    if any(not _allows_null(properties[name]) for name in optional):
        raise _LooseError
    return {
        "properties": {name: _strict(part, kept) for name, part in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _described(made: JsonSchema, schema: JsonSchema, kept: frozenset[str]) -> JsonSchema:
    """Add the omitted keywords to the description."""
    words = [
        _WORDS[key].format(value)
        for key, value in schema.items()
        if key in _WORDS and key not in kept and value is not False and value != _OURS.get(key)
    ]
    if not words:
        return made
    given = schema.get("description")
    return {**made, "description": "; ".join([given, *words] if given else words)}


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    return "null" in _types(schema) or any(_allows_null(part) for part in schema.get("anyOf", ()))


def _types(schema: JsonSchema) -> list[str]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]
