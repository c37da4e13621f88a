"""Table: an output of rows, one for each item, written as CSV or JSONL."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from fusion.core.errors import PromptError, close_names
from fusion.core.types import DECISION_FIELDS, ITEM_FIELDS, Failure, Item
from fusion.core.validation import Authored
from fusion.pipeline.rows.cells import csv_line, json_line

FORMATS = ("csv", "jsonl")


def _names(given: Sequence[str]) -> Sequence[str]:
    """Return names of columns, each once."""
    seen: set[str] = set()
    for name in given:
        if not name.strip():
            raise ValueError("a column has no name; the first line of a table names its columns")
        if name.strip() in seen:
            raise ValueError(f"two columns are named {name.strip()!r}")
        seen.add(name.strip())
    return given


def _checked(given: dict[str, str]) -> dict[str, str]:
    _names(list(given))
    return given


Columns = Annotated[
    Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_names), Tag("names")]
    | Annotated[dict[str, str], Field(min_length=1), AfterValidator(_checked), Tag("expressions")],
    Discriminator(lambda given: "expressions" if isinstance(given, Mapping) else "names"),
]


class Table(Authored):
    """Rows as the answer of a pipeline: a row for each item, in their order, also for those that failed."""

    format: Literal["csv", "jsonl"] = Field(description="Format of the text: CSV with a header, or JSONL.")
    over: str | None = Field(
        default=None,
        description="Items or rows: an expression; by default the items of the last stage that has some.",
    )
    columns: Columns = Field(
        description="Columns: names of fields, or a mapping of names to expressions over `item` and `inputs`."
    )
    guard: bool = Field(
        default=True, description="Put an apostrophe before texts that a spreadsheet takes for formulas."
    )

    @model_validator(mode="after")
    def _only_csv_is_guarded(self) -> "Table":
        if "guard" in self.model_fields_set and self.format != "csv":
            raise ValueError("`guard` has an effect with `format: csv` only")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, as the header has them."""
        return tuple(name.strip() for name in self.columns)

    @property
    def expressions(self) -> dict[str, str]:
        """The expressions by column; none for columns that name fields."""
        return dict(self.columns) if isinstance(self.columns, dict) else {}

    def written(self, items: Iterable[Item], evaluate: Callable[[str, Item], Any]) -> "Written":
        """Return the rows of items and their text; `evaluate` returns the value of an expression for an item.

        Raises PromptError for an expression that fails on a usable item, and for a field that no item has.
        """
        items = list(items)
        if self.expressions:
            rows = [self._evaluated(item, evaluate) for item in items]
        else:
            rows = [{name: _field(item, name) for name in self.names} for item in items]
            _check_fields(self.names, items)
        return Written(self._text(rows), [{name: _plain(value) for name, value in row.items()} for row in rows])

    def _evaluated(self, item: Item, evaluate: Callable[[str, Item], Any]) -> dict[str, Any]:
        row = {}
        for name, source in self.expressions.items():
            try:
                row[name.strip()] = evaluate(source, item)
            except PromptError as error:
                if item.ok:
                    raise PromptError(f"column {name!r} of item {item.index + 1}: {error}") from error
                row[name.strip()] = None  # its value, which the expression reads, does not exist
        return row

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        if self.format == "jsonl":
            return "".join([json_line({name: _plain(value) for name, value in row.items()}) for row in rows])
        lines = [csv_line(self.names, guard=self.guard)]
        lines += [csv_line(map(_cell, row.values()), guard=self.guard) for row in rows]
        return "".join(lines)


class Written(NamedTuple):
    """A written table: its text, and its rows by column."""

    text: str
    rows: list[dict[str, Any]]


def is_table(given: Any) -> bool:
    """Return True for an output that is meant as a table, rather than as a mapping of names to expressions."""
    if isinstance(given, Table):
        return True
    if not isinstance(given, Mapping):
        return False
    return given.get("format") in FORMATS or isinstance(given.get("columns"), (Mapping, list, tuple))


def _field(item: Item, name: str) -> Any:
    """Return the field of an item, of its value or its source, in this order; None if there is none."""
    if name in ITEM_FIELDS or (name in DECISION_FIELDS and item.cost is not None):
        return getattr(item, name)
    for part in (item.value, item.source):
        if isinstance(part, Mapping) and name in part:
            return part[name]
    return None


def _check_fields(names: Iterable[str], items: Sequence[Item]) -> None:
    """Raise PromptError for a field that no item has, if any item has its value."""
    usable = [item for item in items if item.ok]
    parts = [part for item in usable for part in (item.value, item.source) if isinstance(part, Mapping)]
    known = {*ITEM_FIELDS, *(key for part in parts for key in part)}
    known |= DECISION_FIELDS if any(item.cost is not None for item in usable) else set()
    for name in names:
        if usable and name not in known:
            raise PromptError(f"no item has a field {name!r}{close_names(name, known)}")


def _plain(value: Any) -> Any:
    """Return a value as JSON data: an item as its value, a failure as text, money as a number."""
    match value:
        case Item():
            return _plain(value.value)
        case Failure():
            return f"{value.reason}: {value.message}"
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case None | str() | bool() | int() | float():
            return value
        case Mapping():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    return _plain(value.model_dump()) if isinstance(value, BaseModel) else str(value)


def _cell(value: Any) -> Any:
    return value if isinstance(value, Decimal) else _plain(value)
