"""Connections to a SQLite file, and the messages of their errors."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.store.base import Synchronous

BUSY_SECONDS: Final = 10.0
_EXACT: Final = Context(prec=400)
_CHECKPOINT_PAGES: Final = 4000
_LOG_BYTES: Final = 64_000_000
_REASONS: Final = (
    ("disk is full", "the disk is full: make room, or choose another place"),
    ("readonly database", "it may only be read: allow writing, or choose another place"),
    ("unable to open", "it cannot be opened: the folder has to exist and allow writing"),
    ("not a database", "it is not a store, but some other file: choose another place"),
    ("malformed", "it is damaged: move it away, or choose another place"),
    ("disk i/o error", "the disk cannot be read or written: make room or repair it, or choose another place"),
    ("locked", "another process keeps it busy: try again once that is done"),
)


def explained(where: str, error: sqlite3.Error) -> StoreError:
    """Return an SQLite error as a StoreError that says what to do."""
    message = str(error)
    reason = next((words for sign, words in _REASONS if sign in message.lower()), None)
    return StoreError(f"the store {where}: {reason} ({message})" if reason else f"the store {where}: {message}")


class DecimalSum:
    """SQL aggregate `decimal_sum`: the exact sum of money, without unknown amounts."""

    def __init__(self) -> None:
        self._sum = Decimal(0)

    def step(self, kept: Any, /) -> None:
        if kept is not None:
            self._sum = _EXACT.add(self._sum, Decimal(kept))

    def finalize(self) -> Any:
        return str(self._sum)


class Connections:
    """Opens connections to one store, with a pool of idle ones for reading."""

    def __init__(self, path: Path, *, synchronous: Synchronous = "NORMAL") -> None:
        self.path = path
        self._synchronous = synchronous
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def open(self) -> sqlite3.Connection:
        """Open a connection, for one thread at a time. Raises sqlite3.Error; the file must exist."""
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            connection.create_aggregate("decimal_sum", 1, DecimalSum)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Borrow a connection for reading. Raises StoreError for any SQLite error in the block."""
        with self._lock:
            if self._closed:
                raise StoreError(f"the store {self.path} is closed")
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self.open()
            yield connection
        except sqlite3.Error as error:
            raise explained(str(self.path), error) from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close idle connections now, and the others when they are returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
