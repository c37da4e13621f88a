"""Writes of a SQLite store: a batch of rows becomes one transaction."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from fusion.core.errors import StoreError
from fusion.store.rows import Row
from fusion.store.sql import statements
from fusion.store.sql.statements import Step
from fusion.store.sql.writes import FILLED, CacheHit, RowWriter
from fusion.store.sqlite.connections import explained

_BUSY_TRIES: Final = 6


class SqliteWriter:
    """Writes rows, in one thread on one connection."""

    def __init__(self, connection: sqlite3.Connection, where: str, *, cache_bytes: int) -> None:
        self._connection = connection
        self._where = where
        self._cache_bytes = cache_bytes
        self._rows = RowWriter(where)

    def write(self, rows: Sequence[Row | CacheHit]) -> StoreError | None:
        """Write rows in order. Raises StoreError if none can be written; returns that of a single row."""
        steps, failure = self._rows.prepared(rows)
        try:
            self._begin()
            try:
                for step in steps:
                    for sql, values in step.statements():
                        self._connection.executemany(sql, values)
                self._evict(steps)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise explained(self._where, error) from error
        return failure

    def _begin(self) -> None:
        for left in reversed(range(_BUSY_TRIES)):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not left:
                    raise

    def _evict(self, steps: Iterable[Step]) -> None:
        """Evict the least recently used replies if the cache is too large."""
        if not any(statements.CACHED in step.values for step in steps):
            return
        total = int(self._connection.execute("SELECT bytes FROM cache_total").fetchone()[0])
        if total <= self._cache_bytes:
            return
        least: list[tuple[str]] = []
        for key, size in self._connection.execute("SELECT key, size FROM cache ORDER BY used, at"):
            if total <= self._cache_bytes * FILLED:
                break
            least.append((key,))
            total -= size
        self._connection.executemany("DELETE FROM cache WHERE key = ?", least)
