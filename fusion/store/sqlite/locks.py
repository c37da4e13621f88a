"""Locks of runs: one file each, locked by the kernel, which unlocks it when its process ends."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakSet

from fusion.core.errors import RunBusyError, StoreError
from fusion.store.base import RunLock

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES: Final = 5
_PAUSE: Final = 0.01


class FileLocks:
    """Locks of the runs of one store, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lock(self, run_id: str) -> RunLock:
        """Lock a run. Raises RunBusyError if it is locked, StoreError if the lock file is not accessible."""
        path = self._path(run_id)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file = self._locked(path)
        except OSError as error:
            raise StoreError(f"run {run_id!r} cannot be locked: {error}") from error
        if file is None:
            raise RunBusyError(f"run {run_id!r} is being run already; wait for its end, or stop it first")
        return FileLock(path, file)

    def claim(self, name: str) -> RunLock | None:
        """Lock a name; None if it is locked. Raises StoreError if the lock file is not accessible."""
        path = self._path(name)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file = self._locked(path, tries=1)
        except OSError as error:
            raise StoreError(f"the lock {path} is not accessible: {error}") from error
        return None if file is None else FileLock(path, file)

    def is_locked(self, run_id: str) -> bool:
        """Return True while a run is locked."""
        try:
            file = os.open(self._path(run_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"the lock of run {run_id!r} cannot be read: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def forget(self, run_id: str) -> None:
        """Remove the lock file that a killed process has left behind; a holder removes its own."""
        if self._path(run_id).exists() and (lock := self.claim(run_id)) is not None:
            lock.release()

    def _path(self, run_id: str) -> Path:
        plain = _PLAIN.fullmatch(run_id)
        return self._folder / (run_id if plain else "-" + hashlib.sha256(run_id.encode()).hexdigest())

    def _locked(self, path: Path, *, tries: int = _TRIES) -> int | None:
        """Return the open, locked file; None if it is held. Retries outlast the brief locks of `is_locked`."""
        for again in range(tries):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                time.sleep(_PAUSE * (again + 1 < tries))
                continue
            if _is_at(path, file):
                return file
            os.close(file)  # removed by its holder between our opening and locking it
        return None


class FileLock(RunLock):
    """A held lock."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file: int | None = file
        _held.add(self)

    def release(self) -> None:
        file, self._file = self._file, None
        _held.discard(self)
        if file is not None:
            # Removed while still locked: a process that has opened it meanwhile detects the removal.
            self._path.unlink(missing_ok=True)
            os.close(file)

    def when_lost(self, call: Callable[[StoreError], object]) -> None:
        """Do nothing: the kernel frees the lock with its process, and no sooner."""

    def leave(self) -> None:
        """Close the file in a forked child, where the lock must not outlive its parent."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


_held: "WeakSet[FileLock]" = WeakSet()


def _leave_all() -> None:
    for lock in list(_held):
        lock.leave()
    _held.clear()


os.register_at_fork(after_in_child=_leave_all)


def _is_at(path: Path, file: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
