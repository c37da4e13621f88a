"""SqlStore: what a store in a database does, whichever database it is."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.core.types import Reply
from fusion.store.accounts import map_account
from fusion.store.rows import Row
from fusion.store.sql.accounts import Executing, forget, lock_of
from fusion.store.sql.codec import unpack_reply
from fusion.store.sql.map_reads import OF_MAP
from fusion.store.sql.reads import RunReader
from fusion.store.sql.statements import OF_RUN
from fusion.store.sql.writer import WriterThread
from fusion.store.sql.writes import CacheHit

OF_RUNS = {
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
OF_MAPS = ("map_records", "map_rows", "map_lines", "runs")
"""Tables with rows of maps."""
_REMOVAL: Final = "removed runs"


class SqlStore(RunReader):
    """The part of a store that is the same in all databases. Its rows are written by one thread."""

    _writer: WriterThread[Row | CacheHit]

    @abstractmethod
    def _change(self, sql: str, *values: Any) -> int:
        """Execute a statement in a transaction of its own; return the number of rows that it changed."""

    @abstractmethod
    def _changing(self, name: str) -> AbstractContextManager[Executing]:
        """Return a transaction in which no other one changes what has this name."""

    @abstractmethod
    def _clear(self) -> None:
        """Delete the rows of removed runs, and free their space."""

    def _unlock(self, names: Iterable[str]) -> None:
        """Forget the locks of what was removed."""

    @abstractmethod
    def _bytes(self) -> int:
        """Return the size on disk."""

    def put(self, *rows: Row) -> None:
        self._writer.put(rows)

    async def written(self) -> None:
        await self._writer.written()

    def when_written(self, call: Callable[[StoreError | None], object]) -> None:
        self._writer.when_written(call)

    def flush(self) -> None:
        self._writer.flush()

    def _used(self, key: str, row: Any) -> Reply | None:
        """Return the reply in a row of the cache, if there is one, and mark it as used."""
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
        names, found = list(run_ids), 0
        with self._changing(_REMOVAL) as connection:
            for run_id in names:
                connection.execute("INSERT INTO removed SELECT run FROM runs WHERE run_id = ?", (run_id,))
                found += connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount
        self._unlock(names)
        self._clear()
        return found

    def remove_map(self, map_id: str) -> bool:
        self.flush()
        account = map_account(map_id)
        with self._changing(lock_of(account)) as connection:
            connection.execute(f"INSERT INTO removed SELECT run FROM runs WHERE map = {OF_MAP}", (map_id,))
            for table in OF_MAPS:
                connection.execute(f"DELETE FROM {table} WHERE map = {OF_MAP}", (map_id,))
            found = connection.execute("DELETE FROM maps WHERE map_id = ?", (map_id,)).rowcount
            forget(connection, account)
        self._unlock([map_id])
        self._clear()
        return bool(found)

    def sizes(self) -> Mapping[str, int]:
        counts = {name: int(self._one(f"SELECT count(*) FROM {name}")[0]) for name in ("runs", "calls", "attempts")}
        return {**counts, "cached": int(self._one("SELECT count(*) FROM cache")[0]), "bytes": self._bytes()}
