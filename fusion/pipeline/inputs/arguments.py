"""Arguments: the inputs of a pipeline as the JSON Schema of a tool's arguments."""

from typing import Final

from fusion.core.types import JsonSchema
from fusion.pipeline.spec import InputSpec, Pipeline

_FORMATS: Final = {
    "csv": "CSV with a line of column names.",
    "jsonl": "JSON Lines: a JSON object on each line.",
    "image": "A picture as a data URL: data:image/png;base64,…",
    "file": "A picture or PDF as a data URL: data:application/pdf;base64,…",
}
_SHOWN_AT_MOST: Final = 1_000
"""Characters of a default that a schema shows."""


def arguments_schema(pipeline: Pipeline) -> JsonSchema:
    """Return the JSON Schema of the arguments: an object with one property for each input.

    Tables, pictures and documents are texts. An input whose items a stage works on is a list.
    """
    inputs = pipeline.inputs
    listed = {getattr(stage, "over", None) for stage in pipeline.stages.values()}
    required = [name for name, spec in inputs.items() if spec.required]
    return {
        "type": "object",
        "properties": {name: _property(spec, f"inputs.{name}" in listed) for name, spec in inputs.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _property(spec: InputSpec, listed: bool) -> JsonSchema:
    words = " ".join(filter(None, [_sentence(spec.description), _FORMATS.get(spec.format, "")]))
    found: JsonSchema = {"type": _type(spec, listed), **({"description": words} if words else {})}
    if not spec.required and spec.default is not None and len(str(spec.default)) <= _SHOWN_AT_MOST:
        found["default"] = spec.default
    return found


def _type(spec: InputSpec, listed: bool) -> str | list[str]:
    """Return the JSON type of an input: that of its default, a list of items, else a text."""
    if spec.format != "text":
        return "string"
    match spec.default:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case list() | tuple():
            return "array"
        case dict():
            return "object"
    kind = "array" if listed else "string"
    return [kind, "null"] if not spec.required and spec.default is None else kind


def _sentence(words: str) -> str:
    words = " ".join(words.split())
    return words if not words or words.endswith((".", "!", "?", ":")) else f"{words}."
