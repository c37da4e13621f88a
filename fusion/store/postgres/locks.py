"""Locks of runs: advisory locks of one session, which the server frees when that session ends.

The server gives a session a lock that it has again, so a set in the process knows which are held.
"""

import hashlib
import secrets
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import Connection

from fusion.core.errors import StoreError
from fusion.core.log import LOG
from fusion.store.base import RunLock
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import connect

Told = Callable[[StoreError], object]

FENCE: Final = "SELECT 1 / (1 - CAST(pg_try_advisory_xact_lock_shared($1) AS integer))"
"""Divides by zero, which ends the transaction, if the session that holds the lock `$1` is over."""
_IS_HELD: Final = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = %s AND objid = %s)"
)
_TAKE: Final = "SELECT key, pg_try_advisory_lock(key) FROM unnest(%s::bigint[]) key"
_RELEASE: Final = "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) key"
_ENDED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_LOW: Final = 0xFFFFFFFF


def key_of(name: str) -> int:
    """Return the key of a name's advisory lock: the first 8 bytes of its SHA-256, signed."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)


def is_held(name: str, connection: "Connection[Any]") -> bool:
    """Return True while any session holds the lock of a name."""
    key = key_of(name)
    row = connection.execute(_IS_HELD, (key >> 32 & _LOW, key & _LOW)).fetchone()
    return row is not None and bool(row[0])


class SessionLock(RunLock):
    """Locks of one or several names, held as one. They are lost with the session."""

    def __init__(self, session: "LockSession", names: Sequence[str]) -> None:
        self._session: LockSession | None = session
        self._names = names
        self.told: list[Told] = []

    def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.release(self._names)

    def when_lost(self, call: Told) -> None:
        if self._session is not None:
            self._session.watch(self, call)


class LockSession:
    """One connection that holds locks; `cut` is called, on a thread of its own, if it ends before it is closed.

    `fence` is the key of a lock that it holds as long as it lives.
    """

    def __init__(self, address: Address, cut: Callable[[], object]) -> None:
        self._address = address
        self._cut = cut
        self._lock = threading.Lock()
        self._held: dict[str, SessionLock] = {}
        self._loss: StoreError | None = None
        self._closing = False
        self.fence = secrets.randbits(63)
        self._connection: Connection[Any] = connect(address, "locks")
        self._connection.execute("SELECT pg_advisory_lock(%s)", (self.fence,))
        threading.Thread(target=self._watch, name="fusion store locks", daemon=True).start()

    @property
    def is_free(self) -> bool:
        """True if no lock is held."""
        return not self._held

    def take(self, names: Sequence[str]) -> SessionLock | None:
        """Take locks; None if one is held, by this process or another. Raises psycopg.Error, or the loss."""
        with self._lock:
            if self._loss is not None:
                raise self._loss
            if any(name in self._held for name in names):
                return None
            found = self._connection.execute(_TAKE, ([key_of(name) for name in names],)).fetchall()
            if not all(taken for _, taken in found):
                self._connection.execute(_RELEASE, ([key for key, taken in found if taken],))
                return None
            lock = SessionLock(self, names)
            self._held.update(dict.fromkeys(names, lock))
            return lock

    def holds(self, name: str) -> bool:
        return name in self._held

    def release(self, names: Sequence[str]) -> None:
        """Release locks; those of a lost session are free already."""
        with self._lock:
            if not [name for name in names if self._held.pop(name, None)] or self._loss is not None:
                return
            try:
                self._connection.execute(_RELEASE, ([key_of(name) for name in names],))
            except psycopg.Error as error:
                LOG.warning("a lock could not be released: %s", self._address.without_secrets(str(error)))

    def watch(self, lock: SessionLock, call: Told) -> None:
        """Call this when a lock is lost; at once if it is."""
        with self._lock:
            loss = self._loss
            if loss is None:
                lock.told.append(call)
        if loss is not None:
            call(loss)

    def lose(self, loss: StoreError) -> None:
        """End the session, and tell of all its locks that they are lost."""
        with self._lock:
            self._loss = self._loss or loss
            self._closing = True
            calls = [call for lock in set(self._held.values()) for call in lock.told]
        self._connection.close()
        for call in calls:
            with suppress(RuntimeError):  # its loop is closed: the run is over
                call(loss)

    def close(self) -> None:
        self._closing = True
        self._connection.close()

    def _watch(self) -> None:
        """Wait for the end of the connection, which the kernel reports at once."""
        poll = select.poll()
        try:
            poll.register(self._connection.fileno(), _ENDED)
            poll.poll()
        except (psycopg.Error, OSError, ValueError):
            LOG.debug("the connection of the locks has ended")
        if not self._closing:
            self._cut()
