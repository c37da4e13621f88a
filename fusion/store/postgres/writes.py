"""Writes of a PostgreSQL store: a batch of rows becomes one transaction, sent in one go."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import Connection, RawCursor, errors

from fusion.core.errors import StoreError
from fusion.store.postgres.address import Address
from fusion.store.postgres.bundles import Bundles
from fusion.store.postgres.connections import connect, explained, is_cut
from fusion.store.postgres.dialect import cursor_of
from fusion.store.postgres.news import NOTIFY, payloads
from fusion.store.rows import Row
from fusion.store.sql import statements
from fusion.store.sql.statements import Step, Values
from fusion.store.sql.writes import FILLED, CacheHit, RowWriter

_TRIES: Final = 6
_PAUSE: Final = 0.2
_CHECKED: Final = 0.01
"""Share of the bound of the cache that is added before its size is looked at again."""
_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure)


class PostgresWriter:
    """Writes rows, in one thread on one connection, which it opens anew if it is cut.

    A batch is written again after a cut, since a second time it changes nothing. `fence` adds a statement that fails
    where the locks of the runs are lost too, and raises StoreError where that is known.
    """

    def __init__(self, address: Address, *, cache_bytes: int, fence: Callable[[RawCursor[Any]], object]) -> None:
        self._address = address
        self._cache_bytes = cache_bytes
        self._fence = fence
        self._added = cache_bytes
        self._rows = RowWriter(address.where)
        self._connection: Connection[Any] | None = None
        self._bundles: Bundles | None = None

    def write(self, rows: Sequence[Row | CacheHit]) -> StoreError | None:
        """Write rows in order. Raises StoreError if none can be written; returns that of a single row."""
        steps, failure = self._rows.prepared(rows)
        parts = [part for step in steps for part in step.statements()]
        last: dict[str, int] = {}
        for run_id, number in (told for step in steps for told in step.told()):
            last[run_id] = max(number, last.get(run_id, 0))
        news = [(str(readable(one)),) for one in payloads(last)]
        for left in reversed(range(_TRIES)):
            try:
                self._write(parts, news)
                break
            except (psycopg.Error, UnicodeEncodeError) as error:
                self._drop()
                parts = self._after(error, parts, left)
        self._evict(steps)
        return failure

    def _write(self, parts: Iterable[tuple[str, list[Values]]], news: Sequence[Values]) -> None:
        cursor = self._cursor()
        bundles = self._bundles = self._bundles or Bundles(cursor.connection)
        with cursor.connection.pipeline():
            cursor.execute("BEGIN")
            self._fence(cursor)
            for sql, values in parts:
                bundles.execute(sql, values)
            cursor.execute("COMMIT")
            if news:  # behind the rows: the server makes transactions that notify one after another
                cursor.execute("BEGIN")
                cursor.execute("SET LOCAL synchronous_commit TO off")
                cursor.executemany(NOTIFY, news)
                cursor.execute("COMMIT")

    def _after(
        self, error: psycopg.Error | UnicodeEncodeError, parts: list[tuple[str, list[Values]]], left: int
    ) -> list[tuple[str, list[Values]]]:
        """Return what to write after an error. Raises StoreError if nothing can be."""
        if left and isinstance(error, _AGAIN):
            return parts
        if left and isinstance(error, psycopg.DataError | UnicodeEncodeError):
            return _readable(parts)
        if left and is_cut(error) and not any(sql == statements.SET_ASIDE for sql, _ in parts):
            time.sleep(_PAUSE * (_TRIES - 1 - left))
            return parts
        raise explained(self._address, error) from error

    def _cursor(self) -> "RawCursor[Any]":
        if self._connection is None:
            self._connection = connect(self._address, "writer")
        return cursor_of(self._connection)

    def _drop(self) -> None:
        """Close the connection: its transaction is rolled back."""
        connection, self._connection, self._bundles = self._connection, None, None
        if connection is not None:
            connection.close()

    def _evict(self, steps: Iterable[Step]) -> None:
        """Evict the least recently used replies if the cache is too large."""
        for step in steps:
            self._added += sum(int(values[2]) for values in step.values.get(statements.CACHED, ()))
        if self._added <= self._cache_bytes * _CHECKED:
            return
        self._added = 0
        try:
            self._shrink(self._cursor())
        except psycopg.Error as error:
            self._drop()
            raise explained(self._address, error) from error

    def _shrink(self, cursor: "RawCursor[Any]") -> None:
        row = cursor.execute("SELECT CAST(coalesce(sum(size), 0) AS bigint) FROM cache").fetchone()
        surplus = 0 if row is None else int(row[0]) - self._cache_bytes
        if surplus <= 0:
            return
        cursor.execute(
            "DELETE FROM cache WHERE key IN (SELECT key FROM"
            " (SELECT key, sum(size) OVER (ORDER BY used, at, key) - size AS before FROM cache) AS least"
            " WHERE before < $1)",
            (surplus + int(self._cache_bytes * (1 - FILLED)),),
        )

    def close(self) -> None:
        self._drop()


def _readable(parts: Iterable[tuple[str, list[Values]]]) -> list[tuple[str, list[Values]]]:
    """Return rows in which every text is one that a column can hold: without NUL and half characters."""
    return [(sql, [tuple(map(readable, row)) for row in rows]) for sql, rows in parts]


def readable(value: Any) -> Any:
    """Return a text without the characters that no column can hold, and any other value as it is."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
