"""Results of servers as texts and data, the check of their schemas, and a mask of keys."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fusion.core.types import JsonSchema, ToolResult, as_text, whole_text

if TYPE_CHECKING:
    from mcp_types import CallToolResult

_LARGEST_SCHEMA: Final = 30_000
_SHORTEST: Final = 8
"""Characters of the shortest value that is masked; shorter ones are no keys, and would mangle any text."""


class Mask:
    """Puts `[NAME]` in place of each value that a server was given; `values` maps them to their variables."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {value: name for value, name in values.items() if len(value) >= _SHORTEST}

    def text(self, text: str) -> str:
        for value, name in self._values.items():
            text = text.replace(value, f"[{name}]")
        return text


def told(result: "CallToolResult") -> ToolResult:
    """Return a server's result: its texts, one below the other, and its structured content as data."""
    data = result.structured_content
    text = "\n".join(part for one in result.content if (part := _part(one)))
    return ToolResult(whole_text(text or ("" if data is None else as_text(data))), data, failed=bool(result.is_error))


def _part(content: Any) -> str:
    """Return a part of a result as text; pictures and sounds are named."""
    match content.type:
        case "text":
            return str(content.text)
        case "resource_link":
            return f"{content.name}: {content.uri}"
        case "resource":
            text = getattr(content.resource, "text", None)
            return str(text) if text is not None else f"[file {content.resource.uri}, not shown]"
        case _:
            size = len(getattr(content, "data", "")) * 3 // 4
            return f"[{content.type} {getattr(content, 'mime_type', '')}, {size:,} bytes, not shown]"


def schema_flaw(schema: JsonSchema) -> str:
    """Return the reason why a schema of arguments is unusable; empty if it is usable."""
    try:
        text = json.dumps(schema)
        if len(text) > _LARGEST_SCHEMA:
            return f"it has {len(text):,} characters; at most {_LARGEST_SCHEMA:,} are given to a model"
        if schema.get("type", "object") != "object":
            return f"its type is {schema['type']!r}, not 'object'"
        if remote := _remote(schema):
            return f"it refers to {remote!r}, outside of itself"
        return _invalid(schema)
    except RecursionError:
        return "it is nested too deep"


def _invalid(schema: JsonSchema) -> str:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON Schema: {error.message[:200]}"
    return ""


def _remote(part: Any) -> str:
    """Return the first reference that leads out of a schema."""
    if isinstance(part, dict):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(part.get(name), str) and not part[name].startswith("#"):
                return str(part[name])
        part = list(part.values())
    return next((found for one in part if (found := _remote(one))), "") if isinstance(part, list) else ""
