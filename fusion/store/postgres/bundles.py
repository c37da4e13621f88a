"""Bundles: many rows in one statement, which costs the server and the client less than a statement for each row."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from psycopg import Connection
from psycopg.types.numeric import FloatBinaryDumper, Int8BinaryDumper

from fusion.store.postgres.dialect import cursor_of, in_postgres
from fusion.store.sql import statements
from fusion.store.sql.statements import Values

_SIZES: Final = (32, 8)
"""Rows of a bundle; those that are left over go one by one."""
Types = Mapping[str, Mapping[str, str]]
"""Types of columns, by table and name."""


class _IntDumper(Int8BinaryDumper):
    oid = 0


class _FloatDumper(FloatBinaryDumper):
    oid = 0


class Bundles:
    """Sends statements for many rows on one connection, in its pipeline: in bundles where that is the same."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._rows = cursor_of(connection)
        # Every parameter is of the type that the statement gives it, also None: a bundle is prepared once.
        self._bundles = cursor_of(connection)
        self._bundles.adapters.register_dumper(int, _IntDumper)
        self._bundles.adapters.register_dumper(float, _FloatDumper)
        self._types = _types(connection)
        self._made: dict[tuple[str, int], str] = {}

    def execute(self, sql: str, rows: Sequence[Values]) -> None:
        """Execute a statement of the dialect for each row, in order."""
        for size in _SIZES if sql in _BUNDLED else ():
            if whole := len(rows) - len(rows) % size:
                self._bundles.executemany(self._bundle(sql, size), _flat(rows[:whole], size))
                rows = rows[whole:]
        if rows:
            self._rows.executemany(in_postgres(sql), rows)

    def _bundle(self, sql: str, size: int) -> str:
        found = self._made.get((sql, size))
        if found is None:
            found = self._made[sql, size] = _BUNDLED[sql](size, self._types)
        return found


def _flat(rows: Sequence[Values], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(rows), size):
        yield [value for row in rows[first : first + size] for value in row]


def _types(connection: "Connection[Any]") -> Types:
    found: dict[str, dict[str, str]] = {}
    query = (
        "SELECT table_name, column_name, udt_name FROM information_schema.columns"
        " WHERE table_schema = current_schema()"
    )
    for table, column, kind in connection.execute(query):
        found.setdefault(table, {})[column] = kind
    return found


def _values(size: int, names: Iterable[str], types: Mapping[str, str]) -> str:
    """Return a table `v` of rows of parameters with these columns."""
    columns = list(names)
    first = ", ".join(f"${place}::{types.get(name, 'text')}" for place, name in enumerate(columns, 1))
    others = (
        ", ".join(f"${row * len(columns) + place}" for place in range(1, len(columns) + 1)) for row in range(1, size)
    )
    rows = ", ".join(f"({one})" for one in (first, *others))
    return f"(VALUES {rows}) AS v ({', '.join(columns)})"


def _inserting(table: str, columns: tuple[str, ...]) -> Callable[[int, Types], str]:
    """Return what makes the statement that inserts rows of runs; those of unknown runs are left out."""

    def made(size: int, types: Types) -> str:
        rows = _values(size, (*columns, "run_id"), types[table])
        names = ", ".join(columns)
        return (
            f"INSERT INTO {table} (run, {names}) SELECT * FROM"
            f" (SELECT (SELECT run FROM runs WHERE runs.run_id = v.run_id) AS run, {names} FROM {rows}) AS found"
            " WHERE run IS NOT NULL ON CONFLICT DO NOTHING"
        )

    return made


def _bodies(size: int, types: Types) -> str:
    """Return the statement that inserts bodies of calls; those of unknown calls are left out."""
    names = ("body", "request", "text", "run_id", "number", "stage", "item", "step", "digest")
    rows = _values(size, names, {**types["calls"], **types["bodies"], "body": types["bodies"]["number"]})
    run = (
        "SELECT run FROM calls WHERE calls.run = (SELECT run FROM runs WHERE runs.run_id = v.run_id)"
        " AND calls.number = v.number AND calls.stage = v.stage AND coalesce(calls.item, -1) = coalesce(v.item, -1)"
        " AND calls.step = v.step AND calls.digest = v.digest"
    )
    return (
        f"INSERT INTO bodies (number, request, text, run) SELECT * FROM"
        f" (SELECT v.body, v.request, v.text, ({run}) AS run FROM {rows}) AS found"
        " WHERE run IS NOT NULL ON CONFLICT DO NOTHING"
    )


_BUNDLED: Final[dict[str, Callable[[int, Types], str]]] = {
    **{sql: _inserting(*given) for sql, given in statements.INSERTS.items()},
    statements.BODY: _bodies,
}
