"""SqliteStore: runs in one SQLite file, shared by threads, event loops and processes."""

import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.core.types import Reply
from fusion.store.accounts import Accounts
from fusion.store.base import RunLock
from fusion.store.rows import Row
from fusion.store.sqlite.accounts import SqliteAccounts
from fusion.store.sqlite.codec import unpack_reply
from fusion.store.sqlite.connections import OF_RUN, Connections, Synchronous, explained
from fusion.store.sqlite.locks import FileLocks
from fusion.store.sqlite.map_reads import OF_MAP
from fusion.store.sqlite.reads import SqliteReader
from fusion.store.sqlite.writer import WriterThread
from fusion.store.sqlite.writes import CacheHit, RowWriter

CACHE_BYTES: Final = 500_000_000
_TABLES: Final = {
    "sessions": "session",
    "calls": "number",
    "bodies": "number",
    "texts": "digest",
    "files": "digest",
    "attempts": "session, number",
    "decisions": "decision",
    "events": "number",
    "records": "run",
}
"""Tables with rows of runs, each with the columns that identify a row within its run."""
_ROWS: Final = 2000
_PAGES: Final = 2000
_REST: Final = 0.002


class SqliteStore(SqliteReader):
    """A store in an existing SQLite file of the newest version; `open_store` prepares it.

    `cache_bytes` bounds the cached replies, of which the least recently used are evicted.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> None:
        self.where = str(path)
        self._path = path
        self._connections = Connections(path, synchronous=synchronous)
        self._accounts = SqliteAccounts(self._connections.reading, self.where)
        self._locks = FileLocks(path.with_name(path.name + ".locks"))
        connection = self._connection()
        rows = RowWriter(connection, self.where, cache_bytes=cache_bytes)
        name = f"fusion store {path.name}"
        self._writer: WriterThread[Row | CacheHit] = WriterThread(rows.write, connection.close, name=name)
        self._end = weakref.finalize(self, _finish, self._writer, self._connections)

    def put(self, *rows: Row) -> None:
        self._writer.put(rows)

    async def written(self) -> None:
        await self._writer.written()

    def when_written(self, call: Callable[[StoreError | None], object]) -> None:
        self._writer.when_written(call)

    def flush(self) -> None:
        self._writer.flush()

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
        if row is None:
            return None
        self._writer.put((CacheHit(key, time.time()),))
        return unpack_reply(row[0])

    def clear_cache(self) -> int:
        self.flush()
        return self._change("DELETE FROM cache")

    def lose_open(self, run_id: str) -> int:
        self.flush()
        return self._change(
            f"UPDATE attempts SET state = 'lost', closed = ? WHERE state = 'open' AND run = {OF_RUN}",
            time.time(),
            run_id,
        )

    def remove(self, run_ids: Iterable[str]) -> int:
        self.flush()
        found = 0
        for run_id in run_ids:
            with self._reading() as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO removed SELECT run FROM runs WHERE run_id = ?", (run_id,))
                found += connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount
            self._locks.forget(run_id)
        self._clear()
        return found

    def remove_map(self, map_id: str) -> bool:
        self.flush()
        with self._reading() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"INSERT INTO removed SELECT run FROM runs WHERE map = {OF_MAP}", (map_id,))
            for table in ("map_records", "map_rows", "map_lines", "runs"):
                connection.execute(f"DELETE FROM {table} WHERE map = {OF_MAP}", (map_id,))
            found = connection.execute("DELETE FROM maps WHERE map_id = ?", (map_id,)).rowcount
        self._locks.forget(map_id)
        self._clear()
        return bool(found)

    def _clear(self) -> None:
        """Delete the rows of removed runs and free their space, in steps short enough not to block others."""
        for (run,) in self._all("SELECT run FROM removed"):
            for table, own in _TABLES.items():
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

    def sizes(self) -> Mapping[str, int]:
        counts = {name: int(self._one(f"SELECT count(*) FROM {name}")[0]) for name in ("runs", "calls", "attempts")}
        cached = int(self._one("SELECT count(*) FROM cache")[0])
        files = (self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm"))
        return {**counts, "cached": cached, "bytes": sum(file.stat().st_size for file in files if file.exists())}

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._connections.open()
        except sqlite3.Error as error:
            raise explained(self.where, error) from error


def _finish(writer: WriterThread[Any], connections: Connections) -> None:
    """Close a store, also one that is garbage-collected or open at exit."""
    writer.close()
    connections.close()
