"""Look runs up: open the store, resolve an id prefix, tell live runs from dead ones, remove old ones."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fusion.core.config import Settings
from fusion.core.errors import RunBusyError, UsageError
from fusion.core.events import Event, event_adapter
from fusion.store.base import Store
from fusion.store.rows import MapRow, RunFilter, RunRow, RunState

LATEST: Final = "latest"
"""Alias for the id of the run started last."""
ALL: Final = RunFilter()
_LOCK_SECONDS: Final = 30.0
"""Seconds to wait for another process that is starting a run."""
StoreGiven = Store | Path | str | bool | None


def resolve_store(given: StoreGiven, settings: Settings) -> tuple[Store | None, bool]:
    """Return the store, if any, and True if it was opened here. Raises StoreError if it cannot be opened.

    True stands for the store of the settings. Opening it removes nothing.
    """
    if given is None or given is False:
        return None, False
    if isinstance(given, Store):
        return given, False
    from fusion.store.open import open_store

    options = settings.store
    place = options.place if given is True else given
    store = open_store(place, synchronous=options.synchronous, cache_bytes=options.cache_bytes)
    return store, True


def find_run(store: Store, given: str) -> RunRow:
    """Return the run with this id, id prefix, or `latest`. Raises UsageError for no run or several.

    A row of a map is found by its whole id.
    """
    row = next(iter(store.runs(RunFilter(), limit=1)), None) if given == LATEST else store.run(given)
    if row is not None:
        return row
    ids = store.run_ids(given) if given else []
    if len(ids) > 1:
        raise UsageError(f"several runs begin with {given!r}: {', '.join(ids)}; give more of the id")
    row = store.run(ids[0]) if ids else None
    if row is None:
        raise UsageError(_no_run(store, given))
    return row


def find_map(store: Store, given: str) -> MapRow | None:
    """Return the map with this id, id prefix, or `latest`, if it means a map and not a run.

    Raises UsageError if several maps, or runs and maps, begin with it.
    """
    if given == LATEST:
        latest, runs = store.maps(ALL, limit=1), store.runs(ALL, limit=1)
        return latest[0] if latest and (not runs or runs[0].started < latest[0].started) else None
    row = store.map(given)
    if row is not None or not given or store.run(given) is not None:
        return row
    ids = store.map_ids(given)
    if not ids:
        return None
    ids += store.run_ids(given)
    if len(ids) > 1:
        raise UsageError(f"several runs begin with {given!r}: {', '.join(ids)}; give more of the id")
    return store.map(ids[0])


def _no_run(store: Store, given: str) -> str:
    maps = store.map_ids(given) if given else []
    if maps:
        return f"{maps[0]!r} is a map, not a run: `fusion map` with `--id {maps[0]}` goes on with it"
    return f"no run {given!r} in {store.where}; `fusion runs list` names them"


def run_state(store: Store, row: RunRow) -> RunState:
    """Return the state of a run: an unfinished one is `running` while it is locked, else `died`."""
    return "died" if row.status == "running" and not store.is_locked(lock_of(row)) else row.status


def map_state(store: Store, row: MapRow) -> RunState:
    """Return the state of a map: an unfinished one is `running` while it is locked, else `died`."""
    return "died" if row.status == "running" and not store.is_locked(row.map_id) else row.status


def kept_events(store: Store, run_id: str, *, after: int = 0) -> Iterator[Event]:
    """Yield the events of a run that the store keeps, in order, from the one behind number `after` on."""
    adapter = event_adapter()
    for body in store.events(run_id, after=after):
        yield adapter.validate_python({"run_id": run_id, **body})


def lock_of(row: RunRow) -> str:
    """Return the name of the lock of a run: its own id, or that of the map whose row it is."""
    return row.map or row.run_id


@contextmanager
def try_lock(store: Store, run_id: str) -> Iterator[bool]:
    """Hold the lock of a run if it is free; yield False if another worker holds it."""
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
def exclusive(store: Store, name: str) -> Iterator[None]:
    """Hold the lock of this name, waiting for it. Raises RunBusyError after 30 seconds."""
    until = time.monotonic() + _LOCK_SECONDS
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


def remove_expired(store: Store, *, days: float) -> int:
    """Remove unlocked runs and maps started more than so many days ago, but waiting ones; return their number."""
    removed = 0
    for row in store.runs(RunFilter(started_before=time.time() - days * 86400)):
        if row.status == "waiting":
            continue
        with try_lock(store, row.run_id) as is_free:
            if is_free:
                removed += store.remove([row.run_id])
    for one in store.maps(RunFilter(started_before=time.time() - days * 86400)):
        if one.status == "waiting":
            continue
        with try_lock(store, one.map_id) as is_free:
            if is_free:
                removed += store.remove_map(one.map_id)
    return removed
