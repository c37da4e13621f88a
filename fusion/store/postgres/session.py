"""Session: the writer and the locks of a store in this process, which are lost together."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import RawCursor

from fusion.core.errors import StoreError, StoreLostError
from fusion.store.base import RunLock
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import failed
from fusion.store.postgres.locks import FENCE, LockSession
from fusion.store.postgres.writes import PostgresWriter
from fusion.store.rows import Row
from fusion.store.sql.writer import WriterThread
from fusion.store.sql.writes import CacheHit


class Session:
    """Writes rows, and holds locks from the first one on.

    If the connection of the locks is cut, or rows cannot be written, all locks are lost: another process may go on
    with the runs, so nothing more is written. What the writer has under way fails on the lock that the connection
    held. The session is over once its runs have released their locks; another one may then take its place.
    """

    def __init__(self, address: Address, *, cache_bytes: int) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._locks: LockSession | None = None
        self._loss: StoreError | None = None
        self._process = os.getpid()
        self._rows = PostgresWriter(address, cache_bytes=cache_bytes, fence=self._fence)
        self.writer: WriterThread[Row | CacheHit] = WriterThread(self._write, self._rows.close, name="fusion store")

    @property
    def is_over(self) -> bool:
        """True if nothing more is written, and no run holds a lock."""
        return self._loss is not None and (self._locks is None or self._locks.is_free)

    def claim(self, names: Sequence[str]) -> RunLock | None:
        """Lock names, all of them or none; None if one is locked. Raises StoreError."""
        try:
            return self._opened().take(names)
        except psycopg.Error as error:
            raise failed(self._address, error) from error

    def holds(self, name: str) -> bool:
        return self._locks is not None and self._loss is None and self._locks.holds(name)

    def close(self, *, wait: bool = True) -> None:
        """Write what is queued, then free the locks."""
        self.writer.close(wait=wait)
        with self._lock:
            locks, self._locks = self._locks, None
        if locks is not None and os.getpid() == self._process:
            locks.close()

    def _opened(self) -> LockSession:
        if os.getpid() != self._process:
            raise StoreError("the store was opened by another process, of which this is a child: open it here too")
        with self._lock:
            if self._loss is not None:
                raise self._loss
            if self._locks is None:
                self._locks = LockSession(self._address, self._cut)
            return self._locks

    def _write(self, rows: Sequence[Row | CacheHit]) -> StoreError | None:
        try:
            return self._rows.write(rows)
        except StoreError as error:
            self._lose(str(error))
            raise self._loss or error from error

    def _fence(self, cursor: "RawCursor[Any]") -> None:
        """Add the statement that fails once the locks are lost. Raises StoreLostError if that is known."""
        if self._loss is not None:
            raise self._loss
        if self._locks is not None:
            cursor.execute(FENCE, (self._locks.fence,))

    def _cut(self) -> None:
        self._lose(f"the store {self._address.where}: the connection that holds its locks was cut")

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._loss is not None:
                return
            loss = self._loss = StoreLostError(
                f"{reason}. Other processes may go on with the runs of this one, which ends them; resume them once"
                " the database can be reached and written"
            )
            locks = self._locks
        self.writer.fail(loss)
        if locks is not None:
            locks.lose(loss)
