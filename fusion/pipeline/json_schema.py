"""JSON Schema of pipeline files, for editors."""

from typing import Any

from fusion.core.types import Value
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import BODY_SHAPE, INLINE_SHAPE
from fusion.stages.fields import NAME, OF_JINJA, RESERVED
from fusion.stages.registry import kinds


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of pipeline files, with the kinds of plug-ins, for editors."""
    schema = schema_of(Pipeline)
    definitions = schema["$defs"]
    definitions.pop("Stage", None)
    names = {kind: f"stage_{kind}" for kind in sorted(kinds())}
    for kind, name in names.items():
        of_kind = schema_of(kinds()[kind])
        definitions.update(of_kind.pop("$defs", {}))
        definitions[name] = {**of_kind, "required": ["kind", *of_kind.get("required", ())]}
        definitions[name] = _with_stages(definitions[name])
    definitions["stage"] = {
        "description": "A stage of any kind.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in names.values()],
        "discriminator": {"propertyName": "kind", "mapping": {k: f"#/$defs/{name}" for k, name in names.items()}},
    }
    schema["properties"]["stages"]["additionalProperties"] = {"$ref": "#/$defs/stage"}
    for key in ("stages", "inputs"):
        taken = sorted(RESERVED | OF_JINJA)
        schema["properties"][key]["propertyNames"] = {"pattern": f"^{NAME.pattern}$", "not": {"enum": taken}}
    # pydantic drops a bound behind the conversion of money.
    definitions["Limits"]["properties"]["usd"]["anyOf"][0] = {"type": "number", "exclusiveMinimum": 0}
    for name, short in (("InputSpec", "What the input is."), ("RoleSpec", "The model, as provider/model.")):
        definitions[name] = {"anyOf": [{"type": "string", "description": short}, definitions[name]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Fusion pipeline"}


def _with_stages(schema: Any) -> Any:
    """Allow every kind for an inner stage; outside of a body without `when` and `needs`, which the outer one sets."""
    if schema == BODY_SHAPE:
        return {"$ref": "#/$defs/stage"}
    if schema == INLINE_SHAPE:
        return {"$ref": "#/$defs/stage", "properties": {"when": False, "needs": False}}
    if isinstance(schema, dict):
        return {key: _with_stages(part) for key, part in schema.items()}
    return [_with_stages(part) for part in schema] if isinstance(schema, list) else schema


def schema_of(model: type[Value]) -> dict[str, Any]:
    """Return the JSON Schema of a class, without titles."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core.core_schema import DecimalSchema

    class Untitled(GenerateJsonSchema):
        """Drops titles, which only repeat the keys, and writes money as a number."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def decimal_schema(self, schema: DecimalSchema) -> JsonSchemaValue:
            return {"type": "number"}

    schema: dict[str, Any] = model.model_json_schema(ref_template="#/$defs/{model}", schema_generator=Untitled)
    return schema
