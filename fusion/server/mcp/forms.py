"""Forms: the inputs of a pipeline as the schema of a tool's arguments, and its answer as that of the result."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fusion.core.schema import validate
from fusion.core.types import JsonSchema
from fusion.pipeline.loader import LoadedPipeline
from fusion.pipeline.spec import InputSpec

_FORMATS: Final = {
    "csv": "CSV with a line of column names.",
    "jsonl": "JSON Lines: a JSON object on each line.",
    "image": "A picture as a data URL: data:image/png;base64,…",
    "file": "A picture or PDF as a data URL: data:application/pdf;base64,…",
}
_SHOWN_AT_MOST: Final = 1_000
"""Characters of a default that a schema shows."""


def arguments_schema(loaded: LoadedPipeline) -> JsonSchema:
    """Return the JSON Schema of the arguments: an object with one property for each input.

    Tables, pictures and documents are texts. An input whose items a stage works on is a list.
    """
    inputs = loaded.pipeline.inputs
    listed = {getattr(stage, "over", None) for stage in loaded.pipeline.stages.values()}
    required = [name for name, spec in inputs.items() if spec.required]
    return {
        "type": "object",
        "properties": {name: _property(spec, f"inputs.{name}" in listed) for name, spec in inputs.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def result_schema(loaded: LoadedPipeline) -> JsonSchema | None:
    """Return the JSON Schema of structured results; None for a pipeline that promises no object."""
    pipeline = loaded.pipeline
    output = pipeline.output if isinstance(pipeline.output, str) else ""
    name, _, field = output.strip().partition(".")
    if name not in pipeline.stages or field not in ("", "data") or pipeline.stages[name].output_fields[0].feed:
        return None
    schema = loaded.schemas[name].get("schema")
    return schema if schema is not None and schema.get("type") == "object" else None


def problems_of(arguments: Mapping[str, Any], loaded: LoadedPipeline, *, most: int) -> list[str]:
    """Return the problems of arguments, each a sentence; `most` is the size of their texts in bytes."""
    size = sum(len(text.encode("utf-8", "replace")) for text in _texts(arguments))
    if size > most:
        return [f"the arguments have {size:,} bytes, more than {most:,} (`max_body` in [server])"]
    return [_by_name(problem) for problem in validate(arguments, arguments_schema(loaded))]


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


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as parts:
                left += parts
            case dict() as parts:
                left += parts
                left += parts.values()


def _by_name(problem: str) -> str:
    """Return a problem with its place in the words of a caller: `$.task: …` is `task: …`."""
    return problem.removeprefix("$.").removeprefix("$: ")
