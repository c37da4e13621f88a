"""Look runs up: open the store, resolve an id prefix, tell live runs from dead ones, remove old ones."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fusion.core.config import Settings
from fusion.core.errors import RunBusyError, UsageError
from fusion.core.events import Event, event_adapter
from fusion.store.accounts import settle_all
from fusion.store.base import Store
from fusion.store.rows import MapRow, RunFilter, RunRow, RunState, RunStatus
from fusion.store.slices import lock_of_worker

LATEST: Final = "latest"
"""Alias for the id of the run started last."""
ALL: Final = RunFilter()
_LOCK_SECONDS: Final = 30.0
"""Seconds to wait for another process that is starting a run."""
BLOCK: Final = 100
"""Runs that are removed at once. PostgreSQL has room for some thousand locks, of all processes together."""
_RUNNING: Final[tuple[RunStatus, ...]] = ("running",)
Kept = RunRow | MapRow
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


def id_of(row: Kept) -> str:
    """Return the id of a run or a map."""
    return row.map_id if isinstance(row, MapRow) else row.run_id


def row_lock(map_id: str, number: int) -> str:
    """Return the name of the lock of a row of a map, which a process holds that runs it for a driver elsewhere."""
    return f"{map_id}/{number}"


def rows_run(store: Store, map_id: str) -> bool:
    """Return True while rows of a map run that its driver, which may be gone, has sent elsewhere."""
    if not store.spans_machines:
        return False
    if store.slices.under_way(map_id) and any(one.alive for one in store.slices.workers()):
        return True
    return rows_locked(store, map_id) > 0


def rows_locked(store: Store, map_id: str) -> int:
    """Return the number of unfinished rows of a map that a process holds the locks of."""
    runs = store.map_runs(map_id, statuses=_RUNNING)
    return sum(store.is_locked(row_lock(map_id, run.row)) for _, run in runs if run.row is not None)


def bury_dead(store: Store) -> list[tuple[str, int]]:
    """Put the slices of workers back that have died: whose lock is free. Return their ids with the rows of each."""
    buried = []
    for worker in store.slices.late():
        lock = store.claim(lock_of_worker(worker))
        if lock is not None:
            try:
                buried.append((worker, store.slices.bury(worker)))
            finally:
                lock.release()
    return buried


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


def removing(store: Store, rows: Iterable[Kept], *, dry_run: bool = False) -> Iterator[Kept]:
    """Remove the runs and maps that no process runs, and yield each before it is gone.

    They go in blocks: one is locked, removed as a whole, and released before the next. With `dry_run` nothing goes.
    """
    if not dry_run:
        settle_all(store)
    for block in _blocks(rows):
        with ExitStack() as locks:
            free = [one for one in block if locks.enter_context(_free(store, one))]
            yield from free
            if not dry_run:
                _remove(store, free)


def _blocks(rows: Iterable[Kept]) -> Iterator[list[Kept]]:
    """Yield some runs at a time, in their order; a map is a block by itself."""
    block: list[Kept] = []
    for one in rows:
        if block and (len(block) == BLOCK or isinstance(one, MapRow) or isinstance(block[0], MapRow)):
            yield block
            block = []
        block.append(one)
    if block:
        yield block


@contextmanager
def _free(store: Store, row: Kept) -> Iterator[bool]:
    """Hold the lock of a run or map if no process runs it; yield False for another one."""
    with try_lock(store, id_of(row)) as is_free:
        yield is_free and not (isinstance(row, MapRow) and rows_run(store, row.map_id))


def _remove(store: Store, rows: Sequence[Kept]) -> None:
    for one in rows:
        if isinstance(one, MapRow):
            store.remove_map(one.map_id)
    if runs := [one.run_id for one in rows if isinstance(one, RunRow)]:
        store.remove(runs)


def remove_expired(store: Store, *, days: float) -> int:
    """Remove unlocked runs and maps started more than so many days ago, but waiting ones; return their number."""
    old = RunFilter(started_before=time.time() - days * 86400)
    rows: list[Kept] = [*store.runs(old), *store.maps(old)]
    return sum(1 for _ in removing(store, (one for one in rows if one.status != "waiting")))
