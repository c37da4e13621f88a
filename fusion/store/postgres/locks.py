"""Locks of runs: advisory locks of one session, which the server frees when that session ends.

The server gives a session a lock that it has again, so a set in the process knows which are held.
"""

import hashlib
import os
import select
import threading
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import Connection

from fusion.core.errors import RunBusyError, StoreError
from fusion.core.log import LOG
from fusion.store.base import RunLock
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import connect, explained

_IS_HELD: Final = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = %s AND objid = %s)"
)
_ENDED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_LOW: Final = 0xFFFFFFFF


def key_of(name: str) -> int:
    """Return the key of a name's advisory lock: the first 8 bytes of its SHA-256, signed."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)


class SessionLock(RunLock):
    """A held lock. It is lost with the session."""

    def __init__(self, session: "LockSession", name: str) -> None:
        self._session: LockSession | None = session
        self._name = name
        self.calls: list[Callable[[StoreError], object]] = []

    def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.release(self._name)

    def when_lost(self, call: Callable[[StoreError], object]) -> None:
        session = self._session
        if session is not None and not session.watch(self, call):
            call(session.loss)


class LockSession:
    """One connection that holds locks until it is lost."""

    def __init__(self, address: Address, lost: Callable[[StoreError], object]) -> None:
        self._address = address
        self._lost = lost
        self._lock = threading.Lock()
        self._held: dict[str, SessionLock] = {}
        self._closing = False
        self.is_lost = False
        self.loss = StoreError(
            f"the connection to the store {address.where} was lost, and with it the lock of this run: another process"
            " may go on with it; resume it once the database is back"
        )
        self._connection: Connection[Any] = connect(address, "locks")
        threading.Thread(target=self._watch, name="fusion store locks", daemon=True).start()

    @property
    def is_free(self) -> bool:
        """True if no lock is held."""
        return not self._held

    def take(self, name: str) -> SessionLock | None:
        """Take a lock; None if it is held, by this process or another. Raises psycopg.Error, or the loss."""
        with self._lock:
            if self.is_lost:
                raise self.loss
            if name in self._held:
                return None
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (key_of(name),)).fetchone()
            if row is None or not row[0]:
                return None
            lock = self._held[name] = SessionLock(self, name)
            return lock

    def holds(self, name: str) -> bool:
        return name in self._held

    def release(self, name: str) -> None:
        """Release a lock; one of a lost session is free already."""
        with self._lock:
            if self._held.pop(name, None) is None or self.is_lost:
                return
            try:
                self._connection.execute("SELECT pg_advisory_unlock(%s)", (key_of(name),))
            except psycopg.Error as error:
                LOG.warning("a lock could not be released: %s", self._address.without_secrets(str(error)))

    def watch(self, lock: SessionLock, call: Callable[[StoreError], object]) -> bool:
        """Call this when the lock is lost; return False if it is lost already."""
        with self._lock:
            if self.is_lost:
                return False
            lock.calls.append(call)
            return True

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._connection.close()

    def _watch(self) -> None:
        """Wait for the end of the connection, which the kernel reports at once."""
        poll = select.poll()
        try:
            poll.register(self._connection.fileno(), _ENDED)
            poll.poll()
        except (psycopg.Error, OSError, ValueError):
            pass  # it ended before
        with self._lock:
            if self._closing:
                return
            self.is_lost = True
            calls = [call for lock in self._held.values() for call in lock.calls]
        self._connection.close()
        self._lost(self.loss)
        for call in calls:
            call(self.loss)


class AdvisoryLocks:
    """Locks of the runs of one store, in a session that is opened with the first lock.

    A lost session is replaced once all locks that it held have been released: until then its runs are ending.
    """

    def __init__(self, address: Address, lost: Callable[[StoreError], object]) -> None:
        self._address = address
        self._lost = lost
        self._lock = threading.Lock()
        self._session: LockSession | None = None
        self._process = os.getpid()

    def lock(self, run_id: str) -> RunLock:
        """Lock a run. Raises RunBusyError if it is locked."""
        found = self.claim(run_id)
        if found is None:
            raise RunBusyError(f"run {run_id!r} is being run already; wait for its end, or stop it first")
        return found

    def claim(self, name: str) -> RunLock | None:
        """Lock a name; None if it is locked."""
        try:
            return self._current().take(name)
        except psycopg.Error as error:
            raise explained(self._address, error) from error

    def is_held(self, name: str, connection: "Connection[Any]") -> bool:
        """Return True while a name is locked, by this process or another."""
        session = self._session
        if session is not None and not session.is_lost and session.holds(name):
            return True
        key = key_of(name)
        row = connection.execute(_IS_HELD, (key >> 32 & _LOW, key & _LOW)).fetchone()
        return row is not None and bool(row[0])

    def check(self) -> None:
        """Raise StoreError while runs of a lost session have not ended."""
        session = self._session
        if session is not None and session.is_lost and not session.is_free:
            raise session.loss

    def _current(self) -> LockSession:
        if os.getpid() != self._process:
            raise StoreError("the store was opened by another process, of which this is a child: open it here too")
        with self._lock:
            session = self._session
            if session is not None and session.is_lost and session.is_free:
                session = None
            if session is None:
                session = self._session = LockSession(self._address, self._lost)
            return session

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None and os.getpid() == self._process:
            session.close()
