"""Schemas of answers: short types, a JSON Schema or a file of either become a bounded JSON Schema.

Short types: `{summary: string, figures: "list[number]", status: "one of: open, closed", note: string?}`. The types
are string, integer, number, boolean, `list[…]`, `one of: …`, a nested mapping, `[…]` with one type in it for a list
of these, and `[…]` with several words for one of the words. A trailing `?`, on the type or on the name, makes a field
optional: absent or null. A mapping that consists of JSON Schema keywords is a JSON Schema.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fusion.core.bounded.patterns import PatternError, compiled
from fusion.core.errors import UsageError, close_names
from fusion.core.paths import read_text
from fusion.core.schema.validator import ClassSchema, short, words
from fusion.core.types import JsonSchema
from fusion.core.yaml import Place, read_yaml

MAX_ITEMS = 200
MAX_LENGTH = 20_000
MAX_DEPTH = 32

_TYPES = ("string", "integer", "number", "boolean")
_JSON_TYPES = (*_TYPES, "object", "array", "null")
_FORMS = "string, integer, number, boolean, list[…], one of: a, b"
_FILE_SUFFIXES = (".json", ".yaml", ".yml")
_LIST = re.compile(r"list\s*\[(.*)\]", re.DOTALL)
_ONE_OF = re.compile(r"one of\s*:(.*)", re.DOTALL)
_MARKS = ("$schema", "$ref", "$defs", "properties", "items", "anyOf", "oneOf", "allOf", "enum", "const", "type")
_KEYWORDS = frozenset(
    """
    $schema $id $ref $defs $anchor $comment definitions type properties required additionalProperties
    patternProperties propertyNames minProperties maxProperties dependentRequired dependentSchemas items
    prefixItems contains minContains maxContains minItems maxItems uniqueItems unevaluatedItems
    unevaluatedProperties minLength maxLength pattern format minimum maximum exclusiveMinimum
    exclusiveMaximum multipleOf enum const anyOf oneOf allOf not if then else title description default
    examples deprecated readOnly writeOnly
    """.split()  # noqa: SIM905 - a list of them would fill a page
)
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS_OF_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SCHEMAS = ("items", "additionalProperties", "contains", "then", "else")


class Flaw(NamedTuple):
    """A mistake in a shape, with the path of its key."""

    path: Place
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(str(part) for part in self.path)}: {self.message}" if self.path else self.message


class Form(NamedTuple):
    """A short type: an example as it is written, the example as data, and its meaning."""

    written: str
    example: Mapping[str, Any]
    meaning: str


FORMS = (
    Form("note: string", {"note": "string"}, f"A text of at most {MAX_LENGTH:,} characters."),
    Form("count: integer", {"count": "integer"}, "A whole number."),
    Form("total: number", {"total": "number"}, "A number."),
    Form("paid: boolean", {"paid": "boolean"}, "True or false."),
    Form('sums: "list[number]"', {"sums": "list[number]"}, f"A list of at most {MAX_ITEMS} of a type."),
    Form('state: "one of: open, closed"', {"state": "one of: open, closed"}, "One of several words."),
    Form("state: [open, closed]", {"state": ["open", "closed"]}, "The same: a list of two words or more."),
    Form("by: {name: string}", {"by": {"name": "string"}}, "An object within the object, to any level."),
    Form("rows: [{name: string}]", {"rows": [{"name": "string"}]}, "A list of objects; a list with one type in it."),
    Form("note?: string", {"note?": "string"}, "An optional field, absent or null; also `note: string?`."),
)
"""Every short type. Fields are required, and no others are allowed."""


class _ShapeError(Exception):
    """A flaw that ends the parsing of one part of a shape."""

    def __init__(self, path: Place, message: str) -> None:
        self.flaw = Flaw(path, message)
        super().__init__(message)


def to_json_schema(shape: Mapping[str, Any] | str, *, near: Path | None = None) -> JsonSchema:
    """Return the JSON Schema of a shape, with every array and string bounded.

    A text names a file in the folder `near`. Raises UsageError with every flaw of the shape.

    >>> to_json_schema({"total": "number?"})["properties"]
    {'total': {'type': ['number', 'null']}}
    """
    schema, flaws = _read(shape, near)
    if flaws:
        raise UsageError("schema: " + "; ".join(str(flaw) for flaw in flaws))
    return schema


def check_shape(shape: Mapping[str, Any] | str, *, near: Path | None = None) -> list[Flaw]:
    """Return every flaw of a shape."""
    return _read(shape, near)[1]


def _read(shape: Any, near: Path | None) -> tuple[JsonSchema, list[Flaw]]:
    flaws: list[Flaw] = []
    try:
        if isinstance(shape, str):
            shape = _file(shape, near)
        if not isinstance(shape, Mapping):
            raise _ShapeError((), f"a shape is a mapping of names to types, not {short(shape)}")
        return _of_mapping(shape, (), flaws), flaws
    except _ShapeError as error:
        return {}, [*flaws, error.flaw]
    except RecursionError:
        return {}, [*flaws, Flaw((), "nested too deep")]


# Files.


def _file(name: str, near: Path | None) -> Any:
    if not name.endswith(_FILE_SUFFIXES):
        raise _ShapeError(
            (),
            f"{name!r} is not a schema file (.json, .yaml); write short types as a mapping: {{name: type}}",
        )
    folder = (near or Path.cwd()).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise _ShapeError((), f"{name!r} is outside of the pipeline's folder; put the schema beside the pipeline")
    if not path.is_file():
        raise _ShapeError((), f"there is no file {name!r} beside the pipeline")
    try:
        return _parsed(name, read_text(path))
    except UsageError as error:
        raise _ShapeError((), str(error)) from error


def _parsed(name: str, text: str) -> Any:
    if not name.endswith(".json"):
        data, problems, _ = read_yaml(text, file=name)
        if problems:
            raise _ShapeError((), "; ".join(str(problem) for problem in problems))
        return data
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _ShapeError((), f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise _ShapeError((), f"{name}: nested too deep") from error


# Short types.


def _of_mapping(shape: Mapping[str, Any], path: Place, flaws: list[Flaw]) -> JsonSchema:
    if len(path) > MAX_DEPTH:
        raise _ShapeError(path, f"nested deeper than {MAX_DEPTH} levels")
    if _is_json_schema(shape):
        return _of_json_schema(shape, path, flaws)
    if not shape:
        raise _ShapeError(path, "a shape needs at least one field")
    properties: dict[str, JsonSchema] = {}
    required: list[str] = []
    for key, given in shape.items():
        name = key.removesuffix("?")
        try:
            schema, optional = _of_type(given, (*path, key), flaws)
        except _ShapeError as error:
            flaws.append(error.flaw)
            continue
        if optional or name != key:
            schema = _nullable(schema)
        else:
            required.append(name)
        properties[name] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _of_type(given: Any, path: Place, flaws: list[Flaw]) -> tuple[JsonSchema, bool]:
    """Return the schema of one type, and True if it is optional."""
    if isinstance(given, Mapping):
        return _of_mapping(given, path, flaws), False
    if isinstance(given, list):
        if len(given) != 1:
            return _of_words(given, path), False
        return array(_of_type(given[0], (*path, 0), flaws)[0], MAX_ITEMS), False
    if not isinstance(given, str):
        raise _ShapeError(path, f"expected a type, got {short(given)}; there are: {_FORMS}")
    text = given.strip()
    return _of_text(text.removesuffix("?").strip(), path), text.endswith("?")


def _of_words(given: list[Any], path: Place) -> JsonSchema:
    """Return the schema of one of several words, none of which is a type."""
    texts = [value.strip() for value in given if isinstance(value, str) and value.strip()]
    types = [text for text in texts if text.removesuffix("?") in _TYPES or _LIST.fullmatch(text)]
    if not texts or types or len(texts) < len(given):
        raise _ShapeError(
            path,
            "a list of a shape holds one type, as [string] or [{name: string}], or the words of a choice, as "
            "[open, closed]; several fields of one element are a mapping",
        )
    return enum(dict.fromkeys(texts))


def _of_text(text: str, path: Place) -> JsonSchema:
    if text == "string":
        return string(MAX_LENGTH)
    if text in _TYPES:
        return {"type": text}
    if listed := _LIST.fullmatch(text):
        if len(text) > 200:
            raise _ShapeError(path, "a type of more than 200 characters")
        return array(_of_text(listed.group(1).strip(), path), MAX_ITEMS)
    if choice := _ONE_OF.fullmatch(text):
        values = list(dict.fromkeys(value.strip() for value in choice.group(1).split(",") if value.strip()))
        if not values:
            raise _ShapeError(path, "'one of:' needs values: 'one of: open, closed'")
        return enum(values)
    near = close_names(text, (*_TYPES, "list[…]", "one of: …")) if text else f"; there are: {_FORMS}"
    raise _ShapeError(path, f"unknown type {text!r}{near}")


def _nullable(schema: JsonSchema) -> JsonSchema:
    if not isinstance(schema.get("type"), str):
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


# JSON Schemas.


def _is_json_schema(shape: Mapping[str, Any]) -> bool:
    """Return True for the schema of an object, or for keywords only, unless they all read as short types."""
    if "$schema" in shape or (shape.get("type") == "object" and isinstance(shape.get("properties"), Mapping)):
        return True
    if not any(mark in shape for mark in _MARKS) or not all(key in _KEYWORDS for key in shape):
        return False
    if any(key in shape and not isinstance(shape[key], Mapping) for key in ("properties", "$defs")):
        return False
    if "type" in shape and shape["type"] not in _JSON_TYPES:
        return (
            isinstance(shape["type"], list) and bool(shape["type"]) and all(t in _JSON_TYPES for t in shape["type"])
        )
    all_short = all(isinstance(value, str) and value.removesuffix("?") in _TYPES for value in shape.values())
    return len(shape) == 1 or not all_short


def _of_json_schema(shape: Mapping[str, Any], path: Place, flaws: list[Flaw]) -> JsonSchema:
    try:
        schema: JsonSchema = json.loads(json.dumps(shape))
    except (TypeError, ValueError, RecursionError) as error:
        raise _ShapeError(path, f"a JSON Schema holds JSON only: {error}") from error
    found = [Flaw((*path, *flaw.path), flaw.message) for flaw in (*_against_metaschema(schema), *_references(schema))]
    flaws.extend(found)
    if found:
        return schema
    bounded: JsonSchema = _bounded(schema)
    return ClassSchema(bounded, shape.check) if isinstance(shape, ClassSchema) else bounded


def _against_metaschema(schema: JsonSchema) -> Iterator[Flaw]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema):
        for line in words(error):
            yield Flaw(tuple(error.absolute_path), f"not a JSON Schema: {line}")
    for at, pattern in (*_find(schema, "pattern"), *_patterned(schema)):
        try:
            compiled(pattern)
        except PatternError as error:
            yield Flaw(at, str(error))

    if "unevaluatedProperties" in json.dumps(schema):
        for at, _ in _patterned(schema):
            yield Flaw(at, "`patternProperties` goes with `additionalProperties`, not with `unevaluatedProperties`")


def _patterned(schema: Any, path: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield every pattern of `patternProperties`, with its place."""
    if isinstance(schema, dict) and isinstance(schema.get("patternProperties"), dict):
        yield from (((*path, "patternProperties", pattern), pattern) for pattern in schema["patternProperties"])
    for at, part in _parts(schema):
        yield from _patterned(part, (*path, *at))


def _references(schema: JsonSchema) -> Iterator[Flaw]:
    for at, target in _find(schema, "$ref"):
        if not target.startswith("#"):
            yield Flaw(at, f"{target!r} is not fetched; put what it refers to under $defs: '#/$defs/name'")
        elif not _resolves(schema, target):
            yield Flaw(at, f"there is no schema at {target!r}")


def _resolves(schema: Any, target: str) -> bool:
    at = schema
    for part in target.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(at, dict) or key not in at:
            return False
        at = at[key]
    return target == "#" or target.startswith("#/")


def _find(schema: Any, key: str, path: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield every text under the keyword `key`, with its place."""
    if isinstance(schema, dict) and isinstance(schema.get(key), str):
        yield (*path, key), schema[key]
    for at, part in _parts(schema):
        yield from _find(part, key, (*path, *at))


def _parts(schema: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the direct subschemas of a schema, with their places."""
    if not isinstance(schema, dict):
        return
    for key in (*_SCHEMAS, "not", "if", "propertyNames", "unevaluatedItems", "unevaluatedProperties"):
        if isinstance(schema.get(key), dict):
            yield (key,), schema[key]
    for key in _MAPS_OF_SCHEMAS:
        if isinstance(schema.get(key), dict):
            yield from (((key, name), part) for name, part in schema[key].items())
    for key in _LISTS_OF_SCHEMAS:
        if isinstance(schema.get(key), list):
            yield from (((key, index), part) for index, part in enumerate(schema[key]))


def _bounded(schema: Any) -> Any:
    """Return the schema with a bound on every array and string, since a weak model may not stop by itself."""
    if not isinstance(schema, dict):
        return schema
    bounded = dict(schema)
    for key in _SCHEMAS:
        if key in bounded:
            bounded[key] = _bounded(bounded[key])
    for key in _MAPS_OF_SCHEMAS:
        if key in bounded:
            bounded[key] = {name: _bounded(part) for name, part in bounded[key].items()}
    for key in _LISTS_OF_SCHEMAS:
        if key in bounded:
            bounded[key] = [_bounded(part) for part in bounded[key]]
    types = bounded.get("type")
    types = types if isinstance(types, list) else [types]
    if "string" in types and not {"maxLength", "enum", "const"} & bounded.keys():
        bounded["maxLength"] = max(MAX_LENGTH, bounded.get("minLength", 0))
    if "array" in types and not {"maxItems", "enum", "const"} & bounded.keys():
        bounded["maxItems"] = max(MAX_ITEMS, bounded.get("minItems", 0))
    return bounded


# Schemas built in code.


def string(most: int) -> JsonSchema:
    """Return the schema of a text of at most so many characters."""
    return {"type": "string", "maxLength": most}


def enum(values: Iterable[str]) -> JsonSchema:
    """Return the schema of one of these texts."""
    return {"type": "string", "enum": list(values)}


def array(items: JsonSchema, most: int, *, least: int = 0) -> JsonSchema:
    """Return the schema of a list of `least` to `most` items."""
    bounds = {"minItems": least, "maxItems": most} if least else {"maxItems": most}
    return {"type": "array", **bounds, "items": items}


def closed_object(properties: Mapping[str, JsonSchema]) -> JsonSchema:
    """Return the schema of an object with all of these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
