"""Locks of runs: advisory locks of one session, which the server frees when that session ends.

The server gives a session a lock that it has again, so a set in the process knows which are held.
"""

import hashlib
import os
import select
import threading
from collections.abc import Callable, Sequence
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
_TAKE: Final = "SELECT key, pg_try_advisory_lock(key) FROM unnest(%s::bigint[]) key"
_RELEASE: Final = "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) key"
_ENDED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_LOW: Final = 0xFFFFFFFF


def key_of(name: str) -> int:
    """Return the key of a name's advisory lock: the first 8 bytes of its SHA-256, signed."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)


class SessionLock(RunLock):
    """Locks of one or several names, held as one. They are lost with the session."""

    def __init__(self, session: "LockSession", names: Sequence[str]) -> None:
        self._session: LockSession | None = session
        self._names = names
        self.calls: list[Callable[[StoreError], object]] = []

    def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.release(self._names)

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

    def take(self, names: Sequence[str]) -> SessionLock | None:
        """Take locks; None if one is held, by this process or another. Raises psycopg.Error, or the loss."""
        with self._lock:
            if self.is_lost:
                raise self.loss
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
            if not [name for name in names if self._held.pop(name, None)] or self.is_lost:
                return
            try:
                self._connection.execute(_RELEASE, ([key_of(name) for name in names],))
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
            calls = [call for lock in set(self._held.values()) for call in lock.calls]
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

    def claim(self, *names: str) -> RunLock | None:
        """Lock names, all of them or none; None if one is locked."""
        try:
            return self._current().take(names)
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
