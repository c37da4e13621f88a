"""Attributes: fields that templates and expressions read of items, rows and data, and that no producer gives."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from fusion.core.errors import InputError, close_names
from fusion.core.types import DECISION_FIELDS, ITEM_FIELDS, JsonSchema
from fusion.pipeline.dataflow import Schemas, Use, item_offers_at, stages_within, uses_of
from fusion.pipeline.rows import Table
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Path, Prompts, is_template_name

_TEXTS: Final = re.compile(r"\.(?:splitlines|split)\([^()]*\)\s*$")
"""Ends an expression of texts, which have no fields."""
_READ_BY_NAME: Final = re.compile(r"\battribute\s*=\s*['\"]([\w.]+)['\"]")
_METHODS: Final = frozenset({"items", "keys", "values", "get", "count", "index", "copy"})
"""Methods of mappings and lists: reading one is no mistake."""
_MOST_LEVELS: Final = 30

Columns = Mapping[str, Set[str]]
"""Columns of the rows of inputs, by their names."""
Found = tuple[str, str, str]
"""A mistake: path of its stage, empty for the output; key; message."""


@dataclass(frozen=True)
class Shape:
    """Fields of the source and schema of the value of items, each None if unknown."""

    source: Set[str] | None = None
    value: JsonSchema | None = None
    origin: str = ""
    """The rows that the source is one of, for messages."""
    own: Set[str] = ITEM_FIELDS
    """Fields of the items themselves."""


class Attributes:
    """Finds attributes that do not exist, in the pipeline's own templates and expressions."""

    def __init__(self, pipeline: Pipeline, prompts: Prompts, schemas: Schemas, columns: Columns) -> None:
        self._pipeline = pipeline
        self._prompts = prompts
        self._schemas = schemas
        self._columns = columns
        within = stages_within(pipeline.stages)
        self._uses = {
            path: list(uses_of(stage, prompts, lambda key, message: None, item_offers_at(path, within)))
            for path, stage in within.items()
        }

    def flaws(self) -> Iterator[Found]:
        """Yield every attribute that no producer gives."""
        for path, uses in self._uses.items():
            shape = self._items_of(path)
            for use in uses:
                text = self._text(use)
                if text is not None:
                    for message in self._in(use.paths, text, shape if "item" in use.offers else None):
                        yield path, use.key, message
        for name, source in self._pipeline.outputs.items():
            paths = self._prompts.expression(source).paths
            for message in self._in(paths, source, None):
                yield "", name, message
        yield from self._of_table()

    def _of_table(self) -> Iterator[Found]:
        """Yield the mistakes in the columns of a table."""
        if not isinstance(table := self._pipeline.output, Table):
            return
        shape = self._over(self._pipeline.outputs[""])
        for name, source in table.expressions.items():
            for message in self._in(self._prompts.expression(source).paths, source, shape):
                yield "", f"columns.{name}", message
        known = None if table.expressions else _fields_of(shape)
        for name in () if known is None else table.names:
            if known is not None and name not in known:
                yield "", "columns", f"no item has a field {name!r}{close_names(name, known)}"

    def _text(self, use: Use) -> str | None:
        """Return the text of an expression or of a template of the author's; None for one that ships."""
        if use.shipped:
            return None
        found = self._prompts.library.template(use.source) if is_template_name(use.source) else None
        return use.source if found is None else found[0]

    def _in(self, paths: Set[Path], text: str, shape: Shape | None) -> Iterator[str]:
        for path in sorted(paths):
            if not _is_guarded(path, text):
                if path[0] == "item" and shape is not None:
                    yield from _item_flaws(path, shape)
                elif path[1:2] == ("data",) and path[0] in self._pipeline.stages:
                    yield from _data_flaws(path, 2, self._schemas.get(path[0], {}).get("schema"))
        for stage in {path[0] for path in paths if len(path) <= 2 and path[0] in self._pipeline.stages}:
            if len({path[0] for path in paths}) == 1:
                yield from self._by_name(stage, text)

    def _by_name(self, stage: str, text: str) -> Iterator[str]:
        """Check the attributes that filters read of a stage's items: `map(attribute="value.amount")`."""
        if not self._pipeline.stages[stage].output_fields[0].feed:
            return
        shape = self._made_by(stage)
        for found in _READ_BY_NAME.findall(text):
            yield from _item_flaws((stage, *found.split(".")), shape)

    def _items_of(self, path: str, level: int = 0) -> Shape:
        """Return the shape of the items that a stage works on."""
        over = next((use for use in self._uses.get(path, ()) if use.listed), None)
        if over is None or level > _MOST_LEVELS:
            return Shape()
        return self._over(over.source, level)

    def _over(self, expression: str, level: int = 0) -> Shape:
        """Return the shape of the items of an expression."""
        source = expression.strip()
        name, _, field = source.partition(".")
        if name == "inputs" and field in self._columns:
            return Shape(self._columns[field], None, f"no row of {field!r} has a column")
        if _TEXTS.search(source) and source.startswith("inputs."):
            return Shape(frozenset(), None, "an item that is a text has no field")
        stage = self._pipeline.stages.get(name)
        if stage is None or field not in ("", stage.output_fields[0].name) or not stage.output_fields[0].feed:
            return Shape()
        return self._made_by(name, level + 1)

    def _made_by(self, path: str, level: int = 0) -> Shape:
        """Return the shape of the items that a stage makes."""
        stage, before = self._pipeline.stages[path], self._items_of(path, level)
        if stage.passes_on:
            return before
        if not stage.keeps_sources:
            return Shape()
        own = ITEM_FIELDS | DECISION_FIELDS if stage.states_costs else ITEM_FIELDS
        return Shape(before.source, self._schemas.get(path, {}).get("schema"), before.origin, own)


def columns_of(values: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the columns of every input that is a table with rows."""
    return {
        name: frozenset(key for row in rows for key in row)
        for name, rows in values.items()
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
    }


def check_columns(pipeline: Pipeline, prompts: Prompts, values: Mapping[str, Any]) -> None:
    """Raise InputError if a template reads a column that no row of an input has."""
    columns = columns_of(values)
    if not columns:
        return
    for path, key, message in Attributes(pipeline, prompts, {}, columns).flaws():
        where = f"stages.{path.replace('/', '.')}.{key}" if path else f"output.{key}" if key else "output"
        raise InputError(f"{where}: {message}")


def _fields_of(shape: Shape) -> Set[str] | None:
    """Return the fields of items, of their values and their sources; None if those of either are unknown."""
    value = shape.value
    closed = value is not None and value.get("type") == "object" and value.get("additionalProperties") is False
    if shape.source is None or value is None or not closed:
        return None
    return {*shape.source, *shape.own, *value.get("properties", {})}


def _is_guarded(path: Path, text: str) -> bool:
    """Return True if the text tests the path, or gives a default for it."""
    first, *rest = map(re.escape, path)
    read = first + "".join(rf"(?:\.{name}|\[\s*['\"]{name}['\"]\s*\])" for name in rest)
    return bool(re.search(rf"\b{read}\s*(?:is\s+(?:not\s+)?(?:un)?defined\b|\|\s*(?:default|d)\b)", text))


def _item_flaws(path: Path, shape: Shape) -> Iterator[str]:
    """Yield the mistake of a path into an item, if any; the path begins with the name of the item or its stage."""
    match path[1:]:
        case ("value", *_):
            yield from _data_flaws(path, 2, shape.value)
        case ("source", column, *_) if shape.source:  # a text has methods
            yield from _column_flaws(path, column, shape, frozenset())
        case (column, *_) if column != "source":
            yield from _column_flaws(path, column, shape, shape.own)


def _column_flaws(path: Path, column: str, shape: Shape, own: Set[str]) -> Iterator[str]:
    if shape.source is not None and column not in shape.source | own | _METHODS:
        yield f"{'.'.join(path)}: {shape.origin} {column!r}{close_names(column, shape.source | own)}"


def _data_flaws(path: Path, at: int, schema: JsonSchema | None) -> Iterator[str]:
    """Yield the mistake of a path into data of a closed schema, if any."""
    while schema is not None and at < len(path):
        fields = schema.get("properties")
        if (
            schema.get("type") != "object"
            or not isinstance(fields, dict)
            or schema.get("additionalProperties") is not False
        ):
            return
        if path[at] not in fields:
            if path[at] not in _METHODS:
                yield f"{'.'.join(path)}: the schema has no field {path[at]!r}{close_names(path[at], fields)}"
            return
        schema, at = fields[path[at]], at + 1
