"""Locks of runs: a file for each, which the kernel locks, and unlocks when the process that holds it is gone."""

import fcntl
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Final
from weakref import WeakSet

from fusion.core.errors import RunBusyError, StoreError
from fusion.store.base import RunLock

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES: Final = 5
_PAUSE: Final = 0.01


class FileLocks:
    """The locks of one store's runs, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lock(self, run_id: str) -> RunLock:
        """Lock a run. Raises RunBusyError where it is locked already, StoreError where that cannot be known."""
        path = self._path(run_id)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file = self._locked(path)
        except OSError as error:
            raise StoreError(f"run {run_id!r} cannot be locked: {error}") from error
        if file is None:
            raise RunBusyError(f"run {run_id!r} is being run already; wait for its end, or stop it first")
        return FileLock(path, file)

    def is_locked(self, run_id: str) -> bool:
        """True while somebody has locked a run."""
        try:
            file = os.open(self._path(run_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"whether run {run_id!r} is locked cannot be read: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def forget(self, run_id: str) -> None:
        """Remove what a process that was killed has left of its lock."""
        if self._path(run_id).exists():
            try:
                self.lock(run_id).release()
            except RunBusyError:
                return

    def _path(self, run_id: str) -> Path:
        plain = _PLAIN.fullmatch(run_id)
        return self._folder / (run_id if plain else "-" + hashlib.sha256(run_id.encode()).hexdigest())

    def _locked(self, path: Path) -> int | None:
        """The open file, locked; None where another one has it. Whoever only looks has it for no time at all."""
        for again in range(_TRIES):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                time.sleep(_PAUSE * (again + 1 < _TRIES))
                continue
            if _is_at(path, file):
                return file
            os.close(file)  # removed by the one who held it, between our opening and locking it
        return None


class FileLock(RunLock):
    """A lock that is held."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file: int | None = file
        _held.add(self)

    def release(self) -> None:
        file, self._file = self._file, None
        _held.discard(self)
        if file is not None:
            # Removed while it is still locked: whoever opened it meanwhile finds out that it is gone.
            self._path.unlink(missing_ok=True)
            os.close(file)

    def leave(self) -> None:
        """In a child process: the lock is its parent's, and must not outlive it here."""
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
