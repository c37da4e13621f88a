"""Forms: the answer of a pipeline as the schema of a tool's result, and arguments held to its inputs."""

from collections.abc import Iterator, Mapping
from typing import Any

from fusion.core.schema import validate
from fusion.core.types import JsonSchema
from fusion.pipeline.inputs.arguments import arguments_schema
from fusion.pipeline.loader import LoadedPipeline


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
    return [_by_name(problem) for problem in validate(arguments, arguments_schema(loaded.pipeline))]


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
