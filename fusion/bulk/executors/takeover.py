"""Takeover: wait for rows that run elsewhere for an earlier driver of a map, whichever executor comes next."""

import asyncio
from typing import Final

from fusion.bulk.executors.base import Executor, Job, same_terms
from fusion.store.base import Store
from fusion.store.lookup import bury_dead, rows_locked

_LOOK: Final = 0.25
"""Seconds between two looks at what still runs."""
_LOOKS: Final = 3
"""Looks without a locked row after which none runs: a cluster whose driver died may begin one for a moment."""


async def taken_over(store: Store, job: Job, executor: Executor) -> bool:
    """Wait until no row of a map runs where this executor does not see it; return True if there were some.

    Rows that wait in the queue are withdrawn. Those that run end as they are, unless the terms have changed. The
    caller holds the lock of the map.
    """
    if not store.spans_machines:
        return False
    queued = not executor.queues and await _of_queue(store, job)
    locked = not executor.locks and await _of_locks(store, job)
    return queued or locked


async def _of_queue(store: Store, job: Job) -> bool:
    """Empty the queue of the map, and wait for the rows that workers run; return True if there were some."""
    slices, map_id, terms = store.slices, job.terms.map_id, job.terms.model_dump_json()
    before, running = await asyncio.to_thread(slices.open, map_id, terms)
    waited = bool(running)
    if running:
        job.note(_waits(len(running), "workers"))
        if not same_terms(before, job.terms):
            await asyncio.to_thread(slices.stop, map_id)
    while running:
        await asyncio.to_thread(bury_dead, store)
        await asyncio.sleep(_LOOK)
        _, running = await asyncio.to_thread(slices.open, map_id, terms)  # what dead workers had waits again
    await asyncio.to_thread(slices.close, map_id)
    return waited


async def _of_locks(store: Store, job: Job) -> bool:
    """Wait until no row is locked, at several looks in a row; return True if there were some."""
    map_id = job.terms.map_id
    locked = await asyncio.to_thread(rows_locked, store, map_id)
    if not locked:
        return False
    job.note(_waits(locked, "a Ray cluster"))
    free = 0
    while free < _LOOKS:
        await asyncio.sleep(_LOOK)
        free = 0 if await asyncio.to_thread(rows_locked, store, map_id) else free + 1
    return True


def _waits(rows: int, where: str) -> str:
    run = "row that still runs" if rows == 1 else "rows that still run"
    return f"waits for {rows:,} {run} on {where} for an earlier driver"
