"""Flat rows: the fields of answers as columns, for CSV and Parquet."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from fusion.bulk.outputs.base import OutputRow

KEY: Final = "key"
STATUS: Final = "status"
USD: Final = "usd"
UNKNOWN: Final = "unknown_calls"
RUN: Final = "run"
FAILURE: Final = "failure"
ANSWER: Final = "answer"
_AFTER: Final = (STATUS, USD, UNKNOWN, RUN, FAILURE)


class FlatRows:
    """Rows as values by column: `key`, the fields of the answer, `status`, `usd`, `unknown_calls`, `run`, `failure`.

    Without `fields` the column `answer` holds the whole answer. A field named like a column of the map is the column
    `answer.NAME`.
    """

    def __init__(self, fields: Sequence[str] | None) -> None:
        self._fields = None if fields is None else tuple(fields)
        named: list[str] = []
        for field in (ANSWER,) if fields is None else fields:
            named.append(_free(field, {KEY, *_AFTER, *named}))
        self.columns = (KEY, *named, *_AFTER)

    def values(self, row: OutputRow) -> list[Any]:
        """Return the values of a row in the order of the columns."""
        failure = "" if row.failure is None else f"{row.failure.reason}: {row.failure.message}"
        return [row.key, *self._answer(row), row.status, known_usd(row), row.unknown_calls, row.run_id, failure]

    def _answer(self, row: OutputRow) -> list[Any]:
        if self._fields is None:
            return [None if row.status == "failed" else row.text if row.data is None else row.data]
        if row.status == "failed":
            return [None] * len(self._fields)
        return [field_of(row.data, field) for field in self._fields]


def known_usd(row: OutputRow) -> Decimal | None:
    """Return the known cost of a row; None, and never zero, if the cost of no call is known."""
    return row.usd or None if row.unknown_calls else row.usd


def field_of(data: Any, field: str) -> Any:
    """Return the field of nested objects that a dotted name names; None if there is none.

    >>> field_of({"by": {"name": "Ada"}, "a.b": 1}, "by.name"), field_of({"a.b": 1}, "a.b")
    ('Ada', 1)
    """
    if not isinstance(data, Mapping):
        return None
    if field in data:
        return data[field]
    at = field.find(".")
    while at >= 0:
        if field[:at] in data:
            return field_of(data[field[:at]], field[at + 1 :])
        at = field.find(".", at + 1)
    return None


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{ANSWER}.{name}"
    return name
