"""Fields: the columns that a pipeline's answer fills, known before any run."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fusion.core.types import JsonSchema
from fusion.pipeline.loader import LoadedPipeline

_DEEPEST: Final = 4
_DATA: Final = "data"


def answer_fields(loaded: LoadedPipeline) -> tuple[str, ...] | None:
    """Return the dotted names of an answer's fields; None for text, lists, and data of an unknown form.

    They are the names of a mapping as `output`, or the fields of the schema of the stage that writes the answer.
    Objects within objects are flattened, four levels deep.
    """
    output = loaded.pipeline.output
    if isinstance(output, str):
        schema = _schema_of(output, loaded, bare=True)
        return None if schema is None else tuple(_leaves("", schema, schema, 0)) or None
    if not isinstance(output, Mapping):
        return None
    found: list[str] = []
    for name, expression in output.items():
        schema = _schema_of(expression, loaded, bare=False)
        found += [name] if schema is None else _leaves(name, schema, schema, 1)
    return tuple(found)


def _schema_of(expression: str, loaded: LoadedPipeline, *, bare: bool) -> JsonSchema | None:
    """Return the schema of the object that an expression reads; `bare`: the name of a stage alone means its data."""
    name, *path = expression.strip().split(".")
    stage = loaded.pipeline.stages.get(name)
    if stage is None or stage.outputs[0].feed or (path[:1] != [_DATA] and not (bare and not path)):
        return None
    root: JsonSchema = loaded.schemas.get(name, {}).get("schema", {})
    schema: Any = root
    for field in path[1:]:
        schema = (_properties(schema, root) or {}).get(field)
    return {**root, **schema} if _properties(schema, root) else None


def _leaves(name: str, schema: JsonSchema, root: JsonSchema, depth: int) -> Iterator[str]:
    properties = _properties(schema, root) if depth < _DEEPEST else None
    if not properties:
        yield name
        return
    for field, inner in properties.items():
        yield from _leaves(f"{name}.{field}" if name else field, inner, root, depth + 1)


def _properties(schema: Any, root: JsonSchema) -> Mapping[str, Any] | None:
    """Return the fields of an object that has these and no others; None for anything else."""
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or schema.get("additionalProperties", False) is not False:
        return None
    fields = schema.get("properties")
    return fields if isinstance(fields, Mapping) else None


def _resolved(schema: Any, root: JsonSchema) -> Any:
    """Return the schema that a reference names, and of a nullable one the other part."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return None
        options = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            schema = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
        elif len(options) == 1:
            schema = options[0]
        else:
            return schema
    return None
