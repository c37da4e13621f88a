"""Markdown of the reference pages: tables, code marks, docstrings, and types as a reader says them."""

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

KEY_HEAD = ("key", "type", "default", "meaning")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def output(name: str) -> str:
    """An output field: `items` (items) is a feed."""
    field, _, feed = name.partition(" ")
    return f"{code(field)} {feed}".rstrip()


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def prose(doc: str | None) -> str:
    """A docstring without its examples."""
    text = inspect.cleandoc(doc or "")
    return re.split(r"\n*^>>>", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def first_sentence(doc: str | None) -> str:
    paragraph = " ".join(prose(doc).split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]


# Types and fields.


def type_name(annotation: Any) -> str:
    """A type as its source says it, without modules."""
    if annotation is None or annotation is type(None):
        return "None"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(one) for one in arguments)
    if arguments:
        inner = ", ".join("…" if one is Ellipsis else type_name(one) for one in arguments)
        return f"{type_name(origin)}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


def default_name(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        made = field.default_factory
        return repr(made()) if made in (dict, list) else "set by Fusion"
    default = field.default
    return type_name(type(default)) + "()" if isinstance(default, BaseModel) else str(default) or '""'


def field_rows(cls: type[BaseModel], without: Iterable[str] = ()) -> Iterator[list[str]]:
    for name, field in cls.model_fields.items():
        if name not in without:
            default = default_name(field)
            shown = default if default in ("required", "set by Fusion") else code(default)
            yield [code(name), code(type_name(field.annotation)), shown]


def property_rows(cls: type[BaseModel]) -> Iterator[list[str]]:
    for name, found in inspect.getmembers(cls, lambda one: isinstance(one, property)):
        if name in vars(cls) and found.fget is not None:
            kind = code(type_name(inspect.get_annotations(found.fget, eval_str=True)["return"]))
            yield [code(name), kind, "computed"]


def schema_type(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A type of a JSON Schema in words."""
    if "$ref" in field:
        return schema_type(definitions[field["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in field:
            parts = [schema_type(part, definitions) for part in field[key] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(parts))
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array" and field.get("items"):
        return f"list of {schema_type(field['items'], definitions)}"
    given = field.get("type", "anything")
    return given if isinstance(given, str) else " or ".join(given)


def schema_rows(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = field.get("default")
        shown = "" if default in (None, {}, [], "") else default
        yield [
            code(name),
            schema_type(field, definitions),
            "required" if required else code(shown),
            field.get("description", ""),
        ]


def long_form(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping of a definition that has a short form too."""
    return next((part for part in schema.get("anyOf", ()) if "properties" in part), schema)
