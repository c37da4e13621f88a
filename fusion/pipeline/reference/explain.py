"""Explain: kinds of stages and keys of pipelines in words, taken from the JSON Schema and the kinds."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fusion.core.errors import UsageError, close_names
from fusion.core.schema import FORMS, to_json_schema
from fusion.core.schema.formats import FORMATS
from fusion.core.yaml import Place
from fusion.pipeline.json_schema import json_schema
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import PromptUse, Stage
from fusion.stages.registry import kinds

_NAME = re.compile(r"[\w-]+(?:/[\w-]+)*")
_SEEN = ("inputs", "request", "the stages named in it")
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "below"}

Schema = Mapping[str, Any]


class Parameter(NamedTuple):
    """A key of a stage. `default` is None if it is required or has no default."""

    name: str
    type: str
    required: bool
    default: Any
    description: str


class TemplateUse(NamedTuple):
    """A key that holds a template: its default and the variables that it can read."""

    key: str
    default: str
    sees: tuple[str, ...]


class Explanation(NamedTuple):
    """Reference of a kind of stage."""

    kind: str
    purpose: str
    parameters: tuple[Parameter, ...]
    fields: tuple[str, ...]
    templates: tuple[TemplateUse, ...]
    cost: str
    calls: tuple[tuple[int, int], ...]
    """(items, most calls) pairs of the stage in the example."""
    supposed: tuple[str, ...]
    """Assumptions of a quote about its answers and decisions."""
    example: str


class ShapeForm(NamedTuple):
    """A short type of a `schema`: an example, its meaning, and its JSON Schema."""

    written: str
    meaning: str
    json_schema: Mapping[str, Any]


SHAPES = "shapes"
"""Name of the explanation of short types, in place of a kind."""


def shapes() -> tuple[ShapeForm, ...]:
    """Return every short type of a `schema`."""
    return tuple(
        ShapeForm(form.written, form.meaning, next(iter(to_json_schema(form.example)["properties"].values())))
        for form in FORMS
    )


def formats() -> tuple[str, ...]:
    """Return the formats that are checked in a JSON Schema."""
    return tuple(FORMATS)


def summary() -> dict[str, str]:
    """Return every kind with the first sentence of its docstring."""
    return {kind: _first_sentence(cls) for kind, cls in kinds().items()}


def explain(kind: str) -> Explanation:
    """Return the reference of a kind: purpose, keys, fields, cost. Raises UsageError for an unknown kind."""
    cls = kinds().get(kind)
    if cls is None:
        raise UsageError(f"no kind {kind!r}{close_names(kind, [*kinds(), SHAPES])}")
    example = _of_example(cls)
    return Explanation(
        kind=kind,
        purpose=_purpose(cls),
        parameters=tuple(sorted(_parameters(kind), key=lambda one: not one.required)),
        fields=(
            *(f"{output.name} (items)" if output.feed else output.name for output in cls.outputs),
            *(f"{output.name} (items, with `over`)" for output in cls.item_outputs),
        ),
        templates=tuple(_template(cls, use) for use in _own_prompts(example.among({}) if example else None)),
        cost=cls.estimate.cost,
        calls=tuple(_calls(example)) if example else (),
        supposed=tuple(_supposed(cls)) if example and any(example.roles()) else (),
        example=cls.estimate.example,
    )


def comments(pipeline: Pipeline) -> dict[Place, str]:
    """Return the descriptions of a pipeline's keys, by their places in the file."""
    schema = json_schema()
    found: dict[Place, str] = {(key,): _said(value) for key, value in schema["properties"].items()}
    for key, name in (("budget", "Limits"), ("defaults", "Defaults")):
        found |= _described((key,), schema["$defs"][name])
    for key, model, names in (("inputs", "InputSpec", pipeline.inputs), ("roles", "RoleSpec", pipeline.roles)):
        for name in names:
            found |= _described((key, name), schema["$defs"][model]["anyOf"][-1])
    for name, stage in pipeline.stages.items():
        found[("stages", name)] = f"{_first_sentence(type(stage))} All its keys: fusion explain {stage.kind}"
        found |= _described(("stages", name), schema["$defs"][f"stage_{stage.kind}"])
    return {place: text for place, text in found.items() if text}


def _purpose(cls: type[Stage]) -> str:
    return inspect.getdoc(cls) or ""


def _first_sentence(cls: type[Stage]) -> str:
    return _purpose(cls).partition("\n")[0].partition(". ")[0].rstrip(".") + "."


def _of_example(cls: type[Stage]) -> Stage | None:
    """Return the stage of this kind in the kind's example."""
    if not cls.estimate.example:
        return None
    stages = Pipeline.from_yaml(cls.estimate.example).stages.values()
    return next(stage for stage in stages if isinstance(stage, cls))


def _own_prompts(stage: Stage | None) -> Iterator[PromptUse]:
    """Yield the templates of a stage, without those of the stages within it."""
    if stage is not None:
        body = "" if stage.graph is None else f"{stage.graph.key}."
        yield from (use for use in stage.prompts() if not body or not use.key.startswith(body))


def _parameters(kind: str) -> Iterator[Parameter]:
    schema = json_schema()
    of_kind = schema["$defs"][f"stage_{kind}"]
    for name, field in of_kind["properties"].items():
        if name == "kind":
            continue
        required = name in of_kind["required"]
        yield Parameter(name, _type(field, schema["$defs"]), required, _default(field), _said(field))


def _default(field: Schema) -> Any:
    """Return the default of a key; for a choice with one line, its `use`."""
    match field.get("default"):
        case [{"use": str(only)}]:
            return only
        case [] | None:
            return None
        case dict() as fields:  # of a class: those of its fields that say something
            return {key: value for key, value in fields.items() if value not in (None, [], {}, "")} or None
        case value:
            return value


def _described(place: Place, schema: Schema) -> dict[Place, str]:
    return {(*place, key): _said(field) for key, field in schema["properties"].items()}


def _said(field: Schema) -> str:
    return str(field.get("description", ""))


def _template(cls: type[Stage], use: PromptUse) -> TemplateUse:
    field = cls.model_fields.get(use.key)
    default = use.template if field is None or (field.default is None and use.key != "prompt") else field.default
    name = getattr(cls, "default_prompt", "") if default is None else str(default)
    return TemplateUse(use.key, name if _NAME.fullmatch(name) else "", (*_SEEN, *sorted(use.offers)))


def _calls(stage: Stage) -> Iterator[tuple[int, int]]:
    for items in (1, 10):
        calls = stage.estimate.calls(stage, items, None)
        if calls is not None:
            yield items, calls


def _supposed(cls: type[Stage]) -> Iterator[str]:
    low, likely, high = cls.estimate.lengths
    yield f"An answer in text has {likely:g} tokens with a limit of 2,000; of 100, 90 have from {low:g} to {high:g}."
    if cls.estimate.expects:
        yield cls.estimate.expects


def _type(schema: Schema, definitions: Schema) -> str:
    """Return a type in words: `whole number, at least 1`."""
    if "$ref" in schema:
        return _type(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema or "oneOf" in schema:
        parts = schema.get("anyOf") or schema["oneOf"]
        words = (_type(part, definitions) for part in parts if part.get("type") != "null")
        return " or ".join(dict.fromkeys(words))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("properties"):
        return f"mapping of {', '.join(schema['properties'])}"
    if schema.get("type") == "array" and schema.get("items"):
        return f"list of {_type(schema['items'], definitions)}"
    given = schema.get("type", ())
    names = [_TYPES[name] for name in ([given] if isinstance(given, str) else given)]
    bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema]
    return ", ".join([" or ".join(names) or "anything", *bounds])
