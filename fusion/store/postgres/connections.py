"""Connections to a database, and the messages of their errors."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakSet

import psycopg
from psycopg import Connection, errors

from fusion.core.errors import StoreError, StoreLostError
from fusion.store.postgres.address import Address

READERS: Final = 4
"""Connections for reading that a process has at most."""
PATIENCE: Final = 15.0
"""Seconds to wait for a connection for reading."""
_LINES: Final = 3
_BY_KIND: Final = (
    (errors.DiskFull, "the disk of the server is full: make room there"),
    (errors.InsufficientPrivilege, "the user may not do this: grant it the rights that the documentation names"),
    (errors.ReadOnlySqlTransaction, "it may only be read: name a server and a user that may write"),
    (errors.TooManyConnections, "the server has no connection left: raise max_connections, or end others"),
    (errors.UndefinedTable, "its tables are gone: open it again"),
)
_BY_WORDS: Final = (
    ("password authentication failed", "set PGPASSWORD, or name the right password in a passfile"),
    ("no password supplied", "set PGPASSWORD, or name the password in a passfile"),
    ("no pg_hba.conf entry", "pg_hba.conf of the server has to admit this user from here"),
    ("could not translate host name", "correct the host in the URL"),
    ("failed to resolve host", "correct the host in the URL"),
    ("role ", "correct the user in the URL, or create it"),
    ("database ", "correct the database in the URL, or create it: createdb"),
    ("permission denied for database", "grant the user CONNECT and CREATE on the database"),
    ("unrecognized configuration parameter", "Fusion needs PostgreSQL 14 or newer"),
    ("unsupported startup parameter", "connect to the server itself: this pooler holds no locks"),
    ("too many clients", "the server has no connection left: raise max_connections, or end others"),
    ("remaining connection slots", "the server has no connection left: raise max_connections, or end others"),
    ("connection refused", "start the server, or correct host and port in the URL"),
    ("no such file or directory", "start the server, or correct the host in the URL"),
    ("timeout expired", "the server does not answer: correct host and port in the URL, or try again"),
    ("starting up", "the server is starting: try again"),
    ("shutting down", "the server is stopping: try again once it is up"),
    ("does not support ssl", "give sslmode=prefer in the URL, or set up SSL on the server"),
)
_NOT_THERE: Final = ("role ", "database ")
"""Beginnings of messages that only count where something "does not exist"."""


def explained(address: Address, error: BaseException) -> StoreError:
    """Return an error of the database as a StoreError that says what to do, without secrets."""
    message = address.without_secrets(_told(error))
    advice = next((words for kind, words in _BY_KIND if isinstance(error, kind)), None) or _advice(message.lower())
    told = f"the store {address.where}: "
    return StoreError(f"{told}{advice} ({message})" if advice else f"{told}{message}")


def failed(address: Address, error: BaseException) -> StoreError:
    """Return an error of a store that is open: a StoreLostError if its connection is cut."""
    told = explained(address, error)
    return StoreLostError(f"{told}; the same command goes on once it is back") if is_cut(error) else told


def _advice(message: str) -> str | None:
    absent = "does not exist" in message
    return next((say for sign, say in _BY_WORDS if sign in message and (absent or sign not in _NOT_THERE)), None)


def _told(error: BaseException) -> str:
    """Return the message of an error on one line, without the program's own framing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = "; ".join(line for line in lines[:_LINES] if not line.startswith("Is the server running"))
    return told.removeprefix("connection failed: ").removeprefix("connection is bad: ") or type(error).__name__


def is_cut(error: BaseException) -> bool:
    """Return True for an error of a connection that is lost, after which another one may succeed."""
    if isinstance(error, errors.QueryCanceled | errors.LockNotAvailable | errors.DiskFull):
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def connect(address: Address, purpose: str, options: str = "") -> "Connection[Any]":
    """Open a connection in which each statement is a transaction of its own. Raises psycopg.Error.

    `options` are settings of the server for it.
    """
    opened: Connection[Any] = Connection.connect(address.of_connection(purpose, options), autocommit=True)
    _opened.add(opened)
    opened.execute("SET search_path = fusion")  # a pooler may ignore the options
    return opened


class Readers:
    """Connections for reading, and for single statements that change rows: some at most, opened as they are needed.

    An error of one is known at once, unlike in a pool that connects in the background. `purpose` names them,
    `options` are settings of the server for them.
    """

    def __init__(self, address: Address, purpose: str = "reader", *, most: int = READERS, options: str = "") -> None:
        self._address = address
        self._purpose = purpose
        self._options = options
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Connection[Any]] = []
        self._free = threading.BoundedSemaphore(most)
        self._closed = False

    @contextmanager
    def lent(self) -> "Iterator[Connection[Any]]":
        """Borrow a connection. Raises StoreError for any error of the database in the block."""
        if os.getpid() != self._process:
            raise StoreError("the store was opened by another process, of which this is a child: open it here too")
        if not self._free.acquire(timeout=PATIENCE):
            raise StoreError(f"the store {self._address.where}: all its connections for reading are in use")
        try:
            with self._one() as connection:
                yield connection
        except psycopg.Error as error:
            if is_cut(error):
                self._drop_idle()
            raise failed(self._address, error) from error
        finally:
            self._free.release()

    @contextmanager
    def _one(self) -> "Iterator[Connection[Any]]":
        with self._lock:
            if self._closed:
                raise StoreError(f"the store {self._address.where} is closed")
            connection = self._idle.pop() if self._idle else None
        connection = connection or connect(self._address, self._purpose, self._options)
        try:
            yield connection
        finally:
            with self._lock:
                is_kept = not (self._closed or connection.closed)
                if is_kept:
                    self._idle.append(connection)
            if not is_kept:
                connection.close()

    def _drop_idle(self) -> None:
        """Close idle connections: they were cut with the one that failed."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the connections; those in use, when they are given back."""
        with self._lock:
            self._closed = True
        if os.getpid() == self._process:
            self._drop_idle()


_opened: "WeakSet[Connection[Any]]" = WeakSet()


def _leave_all() -> None:
    """Close the sockets in a forked child without a word to the server, which still serves the parent."""
    for connection in list(_opened):
        try:
            os.close(connection.fileno())
        except (psycopg.Error, OSError):
            continue
    _opened.clear()


os.register_at_fork(after_in_child=_leave_all)
