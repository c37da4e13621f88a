"""How runs stand in a store: which one an id means, whether somebody is at it, what was spent, which are too old."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fusion.core.config import Settings
from fusion.core.errors import RunBusyError, UsageError
from fusion.store.base import Store
from fusion.store.rows import RunFilter, RunRow, RunState

LATEST: Final = "latest"
"""What stands for the id of the run that began last."""
_PATIENCE: Final = 30.0
"""Seconds to wait for somebody who is about to begin a run."""
StoreGiven = Store | Path | str | bool | None


def opened(given: StoreGiven, settings: Settings) -> tuple[Store | None, bool]:
    """The store that is meant, and whether it was opened here. Raises StoreError where it cannot be."""
    if given is None or given is False:
        return None, False
    if isinstance(given, Store):
        return given, False
    from fusion.store.sqlite.open import open_store

    said = settings.store
    path = said.path if given is True else given
    store = open_store(path, synchronous=said.synchronous, cache_bytes=said.cache_bytes)
    if said.retention is not None:
        forget(store, older_than=said.retention)
    return store, True


def found(store: Store, given: str) -> RunRow:
    """The run of an id, of the beginning of one, or the `latest`. Raises UsageError where it is not one run."""
    row = next(iter(store.runs(RunFilter(), limit=1)), None) if given == LATEST else store.run(given)
    if row is not None:
        return row
    ids = store.run_ids(given) if given else []
    if len(ids) > 1:
        raise UsageError(f"several runs begin with {given!r}: {', '.join(ids)}; give more of the id")
    row = store.run(ids[0]) if ids else None
    if row is None:
        raise UsageError(f"no run {given!r} in {store.where}; `fusion runs list` names them")
    return row


def status_of(store: Store, row: RunRow) -> RunState:
    """How a run stands: one that is not over is `running` while a process is at it, else it has `died`."""
    return "died" if row.status == "running" and not store.is_locked(row.run_id) else row.status


@contextmanager
def free(store: Store, run_id: str) -> Iterator[bool]:
    """Whether nobody is at a run; and nobody can be within."""
    try:
        lock = store.lock(run_id)
    except RunBusyError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def alone(store: Store, name: str) -> Iterator[None]:
    """Nobody else is within under this name; who comes waits. Raises RunBusyError where that takes too long."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock = store.lock(name)
            break
        except RunBusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def forget(store: Store, *, older_than: float) -> int:
    """Remove the runs that began more than so many days ago and nobody is at; how many those were."""
    rows = store.runs(RunFilter(started_before=time.time() - older_than * 86400))
    return store.remove([row.run_id for row in rows if not store.is_locked(row.run_id)]) if rows else 0
