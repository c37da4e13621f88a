"""PostgresStore: runs in a PostgreSQL database, shared by machines."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from psycopg import Connection

from fusion.core.errors import RunBusyError, StoreError
from fusion.core.types import Reply
from fusion.store.accounts import Accounts
from fusion.store.base import CACHE_BYTES, RunLock, StoreAddress, Subscription
from fusion.store.encoding import as_json
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import Readers, is_cut
from fusion.store.postgres.dialect import cursor_of, in_postgres
from fusion.store.postgres.locks import is_held, key_of
from fusion.store.postgres.news import News
from fusion.store.postgres.session import Session
from fusion.store.postgres.slices import PostgresSlices
from fusion.store.postgres.writes import readable
from fusion.store.rows import Call, Row
from fusion.store.slices import Slices
from fusion.store.sql.accounts import Executing, SqlAccounts
from fusion.store.sql.store import OF_RUNS, SqlStore

_RUNS: Final = 100
"""Removed runs whose rows are deleted at once."""
_LISTED: Final = (
    "(SELECT CAST(value AS bigint) FROM jsonb_array_elements_text(CAST(CAST(? AS text) AS jsonb)) AS value)"
)


class PostgresStore(SqlStore):
    """A store in a database of the newest version; `open_store` prepares it.

    `cache_bytes` bounds the cached replies, of which the least recently used are evicted.
    """

    spans_machines = True

    def __init__(self, address: Address, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.where = address.where
        self._readers = Readers(address)
        self._accounts = SqlAccounts(self._executing, self._changing, self.where, clock=_now)
        self._slices = PostgresSlices(address)
        self._news = News(address)
        self._address = address
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._session = Session(address, cache_bytes=cache_bytes)
        self._writer = self._session.writer
        self._end = weakref.finalize(self, _finish, self._session, self._slices, self._news, self._readers)

    def close(self) -> None:
        self._end()

    def put(self, *rows: Row) -> None:
        if self._session.is_over:
            self._renew()
        self._writer.put(rows)

    def _renew(self) -> None:
        """Put a new session in the place of one that is over, unless the store is closed."""
        with self._lock:
            if not (self._session.is_over and self._end.alive):
                return
            self._end.detach()
            self._session.close(wait=False)
            self._session = Session(self._address, cache_bytes=self._cache_bytes)
            self._writer = self._session.writer
            self._end = weakref.finalize(self, _finish, self._session, self._slices, self._news, self._readers)

    # Locks.

    def lock(self, run_id: str) -> RunLock:
        found = self.claim_all([run_id])
        if found is None:
            raise RunBusyError(f"run {run_id!r} is being run already; wait for its end, or stop it first")
        return found

    def claim(self, name: str) -> RunLock | None:
        return self.claim_all([name])

    def claim_all(self, names: Sequence[str]) -> RunLock | None:
        if self._session.is_over:
            self._renew()
        return self._session.claim(names)

    def is_locked(self, run_id: str) -> bool:
        if self._session.holds(run_id):
            return True
        with self._reading() as connection:
            return is_held(run_id, connection)

    @property
    def address(self) -> StoreAddress:
        return self._address.shared

    @property
    def slices(self) -> Slices:
        return self._slices

    @property
    def accounts(self) -> Accounts:
        return self._accounts

    def follow(self, run_id: str, call: Callable[[], object]) -> Subscription:
        return self._news.follow(run_id, call)

    # Reading and changing.

    def _reading(self) -> "AbstractContextManager[Connection[Any]]":
        return self._readers.lent()

    @contextmanager
    def _executing(self) -> Iterator[Executing]:
        with self._reading() as connection:
            yield _Statements(connection)

    @contextmanager
    def _changing(self, name: str) -> Iterator[Executing]:
        """Return a transaction in which no other one changes what has this name."""
        with self._reading() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (key_of(f"changing {name}"),))
            yield _Statements(connection)

    def _all(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._found(sql, values)
        except StoreError as error:
            if error.__cause__ is None or not is_cut(error.__cause__):
                raise
        return self._found(sql, values)  # on another connection

    def _found(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        with self._reading() as connection:
            return cursor_of(connection).execute(in_postgres(sql), tuple(map(readable, values))).fetchall()

    def _change(self, sql: str, *values: Any) -> int:
        with self._reading() as connection:
            return cursor_of(connection).execute(in_postgres(sql), values).rowcount

    def _tagged(self, table: str, name: str, value: str) -> tuple[str, list[Any]]:
        tags = {as_json({name: value})[1:-1], as_json({name: value, "\ud800": ""})[1:-1].rpartition(",")[0]}
        places = [f"{before}{tag}" for tag in sorted(tags) for before in "{,"]
        return f"({' OR '.join(f'strpos({table}.tags, ?) > 0' for _ in places)})", list(places)

    async def answer(self, run_id: str, number: int) -> Call | None:
        return await asyncio.to_thread(self._call, run_id, number, with_request=False)

    async def cached(self, key: str) -> Reply | None:
        return self._used(key, await asyncio.to_thread(self._one, "SELECT reply FROM cache WHERE key = ?", key))

    def _clear(self) -> None:
        """Delete the rows of removed runs; the server's autovacuum frees their space."""
        runs = [run for (run,) in self._all("SELECT run FROM removed")]
        for at in range(0, len(runs), _RUNS):
            some = as_json(runs[at : at + _RUNS])
            for table in (*OF_RUNS, "removed"):
                self._change(f"DELETE FROM {table} WHERE run IN {_LISTED}", some)

    def _bytes(self) -> int:
        tables = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('fusion')"
        return int(
            self._one(f"SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS bigint) FROM ({tables}) t")[0]
        )


class _Statements:
    """Executes statements of the dialect on a connection."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._cursor = cursor_of(connection)

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Any:
        return self._cursor.execute(in_postgres(sql), values)


def _now(connection: Executing) -> float:
    query = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
    return float(connection.execute(query).fetchone()[0])


def _finish(session: Session, slices: PostgresSlices, news: News, readers: Readers) -> None:
    """Close a store, also one that is garbage-collected or open at exit."""
    session.close()
    slices.close_all()
    news.close()
    readers.close()
