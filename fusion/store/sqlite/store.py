"""SqliteStore: runs in one SQLite file, shared by threads, event loops and processes."""

import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from fusion.core.types import Reply
from fusion.store.accounts import Accounts
from fusion.store.base import CACHE_BYTES, RunLock, Synchronous
from fusion.store.rows import Row
from fusion.store.sql.accounts import SqlAccounts
from fusion.store.sql.store import OF_RUNS, SqlStore
from fusion.store.sql.writer import WriterThread
from fusion.store.sql.writes import CacheHit
from fusion.store.sqlite.connections import Connections, explained
from fusion.store.sqlite.locks import FileLocks
from fusion.store.sqlite.writes import SqliteWriter

_ROWS: Final = 2000
_PAGES: Final = 2000
_REST: Final = 0.002


class SqliteStore(SqlStore):
    """A store in an existing SQLite file of the newest version; `open_store` prepares it.

    `cache_bytes` bounds the cached replies, of which the least recently used are evicted.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> None:
        self.where = str(path)
        self._path = path
        self._connections = Connections(path, synchronous=synchronous)
        self._accounts = SqlAccounts(
            self._connections.reading, self._changing, self.where, clock=lambda _: time.time()
        )
        self._locks = FileLocks(path.with_name(path.name + ".locks"))
        connection = self._connection()
        rows = SqliteWriter(connection, self.where, cache_bytes=cache_bytes)
        name = f"fusion store {path.name}"
        self._writer: WriterThread[Row | CacheHit] = WriterThread(rows.write, connection.close, name=name)
        self._end = weakref.finalize(self, _finish, self._writer, self._connections)

    def close(self) -> None:
        self._end()

    def lock(self, run_id: str) -> RunLock:
        return self._locks.lock(run_id)

    def claim(self, name: str) -> RunLock | None:
        return self._locks.claim(name)

    def is_locked(self, run_id: str) -> bool:
        return self._locks.is_locked(run_id)

    @property
    def accounts(self) -> Accounts:
        return self._accounts

    async def cached(self, key: str) -> Reply | None:
        row = self._one("SELECT reply FROM cache WHERE key = ?", key)
        return self._used(key, row)

    def _unlock(self, names: Iterable[str]) -> None:
        for name in names:
            self._locks.forget(name)

    def _clear(self) -> None:
        """Delete the rows of removed runs and free their space, in steps short enough not to block others."""
        for (run,) in self._all("SELECT run FROM removed"):
            for table, own in OF_RUNS.items():
                some = f"SELECT {own} FROM {table} WHERE run = ?1 LIMIT {_ROWS}"
                while self._change(f"DELETE FROM {table} WHERE run = ?1 AND ({own}) IN ({some})", run) == _ROWS:
                    time.sleep(_REST)
            self._change("DELETE FROM removed WHERE run = ?", run)
        free, before = self._free_pages(), 0
        while free != before:
            with self._reading() as connection:
                connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")  # `execute` would end at one page
            time.sleep(_REST)
            free, before = self._free_pages(), free
        self._all("PRAGMA wal_checkpoint(TRUNCATE)")

    def _free_pages(self) -> int:
        return int(self._one("PRAGMA freelist_count")[0])

    def _change(self, sql: str, *values: Any) -> int:
        with self._reading() as connection:
            return connection.execute(sql, values).rowcount

    def _bytes(self) -> int:
        files = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._connections.reading()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    @contextmanager
    def _changing(self, name: str) -> Iterator[sqlite3.Connection]:
        """Return a connection in a write transaction of its own."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _tagged(self, table: str, name: str, value: str) -> tuple[str, list[Any]]:
        found = f"SELECT 1 FROM json_each({table}.tags) AS tag WHERE tag.key = ? AND tag.value = ?"
        return f"EXISTS ({found})", [name, value]

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._connections.open()
        except sqlite3.Error as error:
            raise explained(self.where, error) from error


def _now(_: object) -> float:
    return time.time()


def _finish(writer: WriterThread[Any], connections: Connections) -> None:
    """Close a store, also one that is garbage-collected or open at exit."""
    writer.close()
    connections.close()
