"""Node: one process that runs slices of any map of its store."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from fusion.bulk.executors.base import MAP_BUDGET, RowEnd, Slice, Terms
from fusion.bulk.executors.recorded import NodeParts, recorded_spec
from fusion.bulk.executors.worker import Worker
from fusion.core.budget import Budget
from fusion.core.errors import StoreError, UnfitError, UsageError, WorkerLostError, first_error
from fusion.core.types import Limits
from fusion.store.base import RunLock
from fusion.store.lookup import row_lock
from fusion.store.rows import RunRow

GRACE: Final = 30.0
"""Seconds in which running rows may end, once a node drains."""
_MAPS: Final = 8
"""Passes whose specs are kept ready."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 1.0
"""Seconds between two tries for a lock that another process holds."""

Ended = Callable[[RowEnd], None]


class Node:
    """Runs slices of maps on one event loop: the store has the pipeline, this process has models, keys and tools.

    `concurrency` rows of all maps run at once. A row without an end can be resumed, here or by another node.
    """

    def __init__(self, parts: NodeParts, *, concurrency: int) -> None:
        self.concurrency = concurrency
        self._parts = parts
        self._store = parts.store
        self._free = asyncio.Semaphore(concurrency)
        self._workers: OrderedDict[tuple[str, int], Worker] = OrderedDict()
        self._making = asyncio.Lock()
        self._rows: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def running(self) -> int:
        """The number of rows that run now."""
        return len(self._rows)

    @property
    def draining(self) -> bool:
        """True once no more rows begin here."""
        return self._draining

    async def run(self, terms: Terms, part: Slice, ended: Ended, *, lock: bool = True) -> None:
        """Run the rows of a slice under its lock, and call `ended` with the end of each.

        The lock is waited for: that of a dead process comes free, and a live one runs the slice itself. Without
        `lock` the caller sees to it that no other process runs these rows. A row without an end was left, since the
        node drains. Cancellation interrupts the rows that run.

        Raises UnfitError before any row if they cannot run here, StoreError if the store fails.
        """
        worker = await self._worker(terms)
        async with self._locked(part if lock else None), asyncio.TaskGroup() as group:
            for row, inputs in await asyncio.to_thread(self._store.row_runs, part.map_id, part.numbers):
                if _is_done(row, terms):
                    ended(_end_of(row))
                elif await self._has_slot():
                    self._begin(group, worker, row, inputs, ended)

    async def give_up(self, terms: Terms, part: Slice, ended: Ended, *, reason: str, lock: bool = True) -> None:
        """End the rows of a slice as failed, for this reason, without running them."""
        worker = await self._worker(terms)
        async with self._locked(part if lock else None):
            for row, inputs in await asyncio.to_thread(self._store.row_runs, part.map_id, part.numbers):
                done = _is_done(row, terms)
                ended(_end_of(row) if done else await worker.give_up(row, inputs, WorkerLostError(reason)))

    async def drain(self, grace: float = GRACE) -> None:
        """Begin no more rows, let the running ones end for `grace` seconds, and interrupt the others."""
        self._draining = True
        if not self._rows:
            return
        _, late = await asyncio.wait(self._rows, timeout=grace)
        for row in late:
            row.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _worker(self, terms: Terms) -> Worker:
        """Return the worker of a pass, made once: slices of it may begin together."""
        key = terms.map_id, terms.number
        async with self._making:
            if key not in self._workers:
                spec = await asyncio.to_thread(recorded_spec, self._parts, terms)
                within = await asyncio.to_thread(self._budget, terms)
                self._workers[key] = Worker(self._parts.recorder, terms.map_id, spec, within=within)
        self._workers.move_to_end(key)
        if len(self._workers) > _MAPS:
            self._workers.popitem(last=False)
        return self._workers[key]

    def _budget(self, terms: Terms) -> Budget:
        """Return the budget of a map, which its rows on all nodes spend from. Raises UnfitError."""
        budgets, limits = self._parts.budgets, terms.budget or Limits()
        try:
            parent = budgets.of(terms.within, terms.tags)
        except StoreError:
            raise
        except UsageError as error:
            raise UnfitError(str(error)) from error
        if (limits.usd, limits.tokens, limits.calls) == (None, None, None):
            return Budget(name=MAP_BUDGET, parent=parent)
        untimed = limits.model_copy(update={"seconds": None})  # the time is watched where the map was started
        return budgets.of_map(terms.map_id, untimed, parent)

    @asynccontextmanager
    async def _locked(self, part: Slice | None) -> AsyncIterator[None]:
        """Hold the locks of the rows of a slice, once all are free; none without a slice.

        Each row has its own: another slice with one of them, such as that of a dead process, may begin elsewhere.
        Raises StoreError if they are lost, and the first error of the rows.
        """
        task, loop, losses = asyncio.current_task(), asyncio.get_running_loop(), list[StoreError]()
        lock: RunLock | None = None
        assert task is not None

        def lost(loss: StoreError) -> None:
            losses.append(loss)
            loop.call_soon_threadsafe(task.cancel)

        try:
            if part is not None:
                lock = await self._free_lock([row_lock(part.map_id, number) for number in part.numbers])
                lock.when_lost(lost)
            yield
        except asyncio.CancelledError:
            if not losses:
                raise
            task.uncancel()
            raise losses[0] from None
        except BaseExceptionGroup as errors:
            raise (losses[0] if losses else first_error(errors)) from errors
        finally:
            if lock is not None:
                lock.release()

    async def _free_lock(self, names: Sequence[str]) -> RunLock:
        """Return these locks as one, once all are free."""
        wait = _FIRST_WAIT
        while (lock := await self._claimed(names)) is None:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        return lock

    async def _claimed(self, names: Sequence[str]) -> RunLock | None:
        """Return these locks as one; None if any is held. A cancelled wait gives them back."""
        claim = asyncio.ensure_future(asyncio.to_thread(self._store.claim_all, names))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            claim.add_done_callback(_release)
            raise

    async def _has_slot(self) -> bool:
        """Take a slot for a row once one is free; return False if no more rows begin."""
        if not self._draining:
            await self._free.acquire()
            if self._draining:
                self._free.release()
        return not self._draining

    def _begin(
        self, group: asyncio.TaskGroup, worker: Worker, row: RunRow, inputs: Mapping[str, Any], ended: Ended
    ) -> None:
        async def one() -> None:
            ended(await worker.work_on(row, inputs))

        task = group.create_task(one())
        self._rows.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._rows.discard(task)
        self._free.release()


def _release(claim: "asyncio.Future[RunLock | None]") -> None:
    if not claim.cancelled() and claim.exception() is None and (lock := claim.result()) is not None:
        lock.release()


def _is_done(row: RunRow, terms: Terms) -> bool:
    """Return True for a row that has its end, such as from a process that died before it told."""
    return row.status == "ok" or (row.status in ("partial", "failed") and not terms.retry_failed)


def _end_of(row: RunRow) -> RowEnd:
    assert row.row is not None
    assert row.status in ("ok", "partial", "failed")
    return RowEnd(row.row, row.run_id, row.status, row.usd, row.failure)
