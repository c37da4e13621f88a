"""Arguments: specs of tools that can be shown to a model, and arguments held to them."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from fusion.core.bounded import clock
from fusion.core.errors import StageError
from fusion.core.schema import strict_json, validate
from fusion.core.types import JsonSchema, ToolSpec, as_text

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ANY: Final[JsonSchema] = {"type": "object"}
_MOST_DESCRIPTION: Final = 4_000
"""Most characters of the description of a tool; the rest is cut off."""
_MOST_PARAMETERS: Final = 60_000
"""Most characters of the JSON Schema of the arguments."""
_MOST_ARGUMENTS: Final = 1_000_000
_MOST_ERRORS: Final = 10


async def shown(spec: ToolSpec) -> ToolSpec:
    """Return a spec as a model sees it. Raises StageError for a name or a schema that no model can use."""
    if not _NAME.fullmatch(spec.name):
        raise StageError(f"tool {spec.name[:80]!r}: the name is not of 1 to 64 letters, digits, '_' and '-'")
    parameters = spec.parameters or _ANY
    try:
        size = len(json.dumps(parameters))
        flaw = await clock.run(lambda: _flaw(parameters), size=size) if size <= _MOST_PARAMETERS else None
    except (TypeError, ValueError, RecursionError) as error:
        raise StageError(f"tool {spec.name!r}: the schema of its arguments is no JSON: {error}") from error
    if size > _MOST_PARAMETERS:
        flaw = f"it has {size:,} characters; the most is {_MOST_PARAMETERS:,}"
    if flaw is not None:
        raise StageError(f"tool {spec.name!r}: the schema of its arguments cannot be used: {flaw}")
    description = str(spec.description)[:_MOST_DESCRIPTION]
    return ToolSpec(name=spec.name, description=description, parameters=parameters)


def _flaw(schema: Any) -> str | None:
    """Return the reason why a schema is not one of the arguments of a tool; None if it is."""
    from jsonschema import Draft202012Validator, SchemaError

    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        return "it is not that of an object"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return error.message[:200]
    return None


async def read(given: str | Mapping[str, Any], spec: ToolSpec) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of a call, and the reasons why they do not fit the tool."""
    size = len(given) if isinstance(given, str) else clock.size_of(given)
    if size > _MOST_ARGUMENTS:
        return {}, [f"the arguments have {size:,} characters; the most is {_MOST_ARGUMENTS:,}"]
    try:
        return await clock.run(lambda: _read(given, spec.parameters), size=size)
    except clock.TimeUpError:
        return {}, ["the arguments take too long to check"]


def _read(given: str | Mapping[str, Any], schema: JsonSchema) -> tuple[dict[str, Any], list[str]]:
    try:
        data = strict_json.loaded((given if isinstance(given, str) else as_text(given)) or "{}")
    except (ValueError, RecursionError) as error:
        return {}, [f"the arguments are no JSON: {error}"]
    if not isinstance(data, Mapping):
        return {}, ["the arguments are no JSON object"]
    try:
        return dict(data), validate(data, schema)[:_MOST_ERRORS]
    except clock.TimeUpError:
        raise
    except Exception as error:  # noqa: BLE001 - of the validator, for a schema that refers to what is not there
        return {}, [f"the schema of the tool cannot be used: {type(error).__name__}: {str(error)[:200]}"]
