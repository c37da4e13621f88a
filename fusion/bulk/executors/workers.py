"""WorkersExecutor: puts the rows of a map into the queue of its store, which `fusion worker` serves."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

from fusion.bulk.executors.base import Executor, Job, RowEnd, Slice, same_terms
from fusion.bulk.executors.ends import unpacked
from fusion.bulk.executors.pace import Pace
from fusion.core.errors import StoreError
from fusion.store.base import Store
from fusion.store.slices import BEAT, Crew, Slices

_POLL: Final = 0.5
"""Seconds after which the queue is read without a notice from it."""
_REST: Final = 0.02
"""Seconds between two reads of the queue, in which ends gather."""
_STOPS: Final = 20.0
"""Seconds in which workers stop rows of a map that has ended early."""
_FEW: Final = 32
"""Rows that wait while no worker is known."""


class WorkersExecutor(Executor):
    """Runs rows on the workers that serve the store of the map. Raises UsageError for a store without a queue."""

    queues = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slices = store.slices

    async def run(self, job: Job, slices: AsyncIterator[Slice]) -> AsyncIterator[RowEnd]:
        one = _Pass(job, self._store, self._slices)
        await one.begin()
        tasks = [asyncio.create_task(work) for work in (one.feed(slices), one.put(), one.watch())]
        try:
            while not one.over:
                for end in await one.some():
                    yield end
                _raise_of(tasks)
            await one.close()
        except StoreError:
            one.leave()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await one.stop()

    async def close(self) -> None:
        return


class _Pass:
    """One pass over a map: rows on their way through the queue."""

    def __init__(self, job: Job, store: Store, slices: Slices) -> None:
        self._job = job
        self._terms = job.terms
        self._map_id = job.terms.map_id
        self._store = store
        self._slices = slices
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._pace = Pace()
        self._crew = Crew((), {})
        self._open: set[int] = set()
        """Rows that were asked for and have no end."""
        self._buffer: deque[int] = deque()
        """Rows that are not in the queue yet."""
        self._elsewhere: set[int] = set()
        """Rows that still run for an earlier pass."""
        self._early: dict[int, RowEnd] = {}
        """Ends of such rows that were not asked for yet."""
        self._fed = False
        self._closed = False
        self._told: set[str] = set()

    @property
    def over(self) -> bool:
        return self._fed and not self._open

    async def begin(self) -> None:
        """Take over what an earlier driver of the map has left."""
        before, running = await self._do(self._slices.open, self._map_id, self._terms.model_dump_json())
        self._elsewhere = set(running)
        if running and not same_terms(before, self._terms):
            await self._do(self._slices.stop, self._map_id)
        self._listener = await self._do(self._slices.listen, self._map_id, self._heard)
        self._crew = await self._do(self._slices.crew, self._map_id)

    async def feed(self, slices: AsyncIterator[Slice]) -> None:
        """Take the rows of slices, which are planned as rows end."""
        async for part in slices:
            for number in part.numbers:
                self._open.add(number)
                if number not in self._elsewhere and number not in self._early:
                    self._buffer.append(number)
            self._room.set()
        self._fed = True
        self._room.set()
        self._wake.set()

    async def put(self) -> None:
        """Queue rows as there is room, in slices of the size that suits their time."""
        while True:
            await self._room.wait()
            self._room.clear()
            while (count := min(len(self._buffer), self._window - len(self._open) + len(self._buffer))) > 0:
                size = self._pace.size(len(self._buffer), len(self._crew.fit), last=self._fed)
                await self._do(self._slices.put, self._map_id, _cut(self._buffer, count, size))

    @property
    def _window(self) -> int:
        """The most rows that are in the queue or run."""
        return min(self._job.concurrency, max(_FEW, self._pace.ahead(self._crew.capacity)))

    # Ends.

    async def some(self) -> list[RowEnd]:
        """Return ends of rows that were asked for, once there may be some."""
        await self._turn()
        busy = await self._do(self._slices.under_way, self._map_id) if self._elsewhere else frozenset()
        found = [one for text in await self._do(self._slices.ends, self._map_id) for one in unpacked(text)]
        self._pace.add([one.seconds for one in found if one.seconds])
        ends = [one for one in found if self._is_awaited(one)]
        ends += await self._from_elsewhere(busy)
        if ends:
            self._room.set()
            await asyncio.sleep(_REST)
        return ends

    async def _turn(self) -> None:
        """Wait for a notice from the queue, or for the time to look again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL):
                await self._wake.wait()
        self._wake.clear()

    def _is_awaited(self, end: RowEnd) -> bool:
        """Return True for the end of a row that was asked for, and runs nowhere else."""
        if end.number in self._elsewhere:
            self._early[end.number] = end
            return False
        awaited = end.number in self._open
        self._open.discard(end.number)
        return awaited

    async def _from_elsewhere(self, busy: frozenset[int]) -> list[RowEnd]:
        """Return ends of rows that ran for an earlier pass; those that have none, or have changed, run anew."""
        over = self._elsewhere - busy
        self._elsewhere -= over
        ends = []
        for number in sorted(self._open & (over | self._early.keys())):
            end = self._early.pop(number, None)
            run = None if end is None else await self._do(self._store.row_run, self._map_id, number)
            if end is not None and run is not None and run.run_id == end.run_id:
                self._open.discard(number)
                ends.append(end)
            else:
                self._buffer.append(number)
                self._room.set()
        return ends

    # Workers.

    async def watch(self) -> None:
        """Follow the workers, and say why nothing goes on."""
        while True:
            await asyncio.sleep(BEAT)
            self._crew = await self._do(self._slices.crew, self._map_id)
            self._room.set()
            if self._open:
                self._tell()

    def _tell(self) -> None:
        crew = self._crew
        for one in crew.workers:
            if one.worker in crew.refusals:
                self._say(f"worker {one.name} cannot run this map: {crew.refusals[one.worker]}")
        if not crew.fit:
            place = self._store.where
            self._say(f"no worker serves this map: it waits; start one with `fusion worker --store '{place}'`")

    def _say(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._job.note(message)

    # The end.

    async def close(self) -> None:
        """Forget the map in the queue."""
        self._closed = True
        await self._do(self._slices.close, self._map_id)

    def leave(self) -> None:
        """Leave what waits and runs to the next pass, since the store is lost."""
        self._closed = True

    async def stop(self) -> None:
        """End the pass early: withdraw what waits, and let workers stop what runs.

        A pass without the lock of its map leaves both to the next one, which may have begun.
        """
        self._listener.close()
        if self._closed or not self._job.holds():
            return
        self._closed = True
        with suppress(StoreError, TimeoutError):  # the next pass takes over what is left
            async with asyncio.timeout(_STOPS):
                await self._do(self._slices.stop, self._map_id)
                while await self._do(self._slices.under_way, self._map_id) and await self._has_workers():
                    await self._turn()
                await self._do(self._slices.close, self._map_id)

    async def _has_workers(self) -> bool:
        crew: Crew = await self._do(self._slices.crew, self._map_id)
        return bool(crew.workers)

    def _heard(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _do(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(work, *arguments)


def _cut(buffer: "deque[int]", count: int, size: int) -> Sequence[list[int]]:
    """Take so many rows from the front of a buffer, in parts of this size."""
    taken = [buffer.popleft() for _ in range(count)]
    return [taken[at : at + size] for at in range(0, count, size)]


def _raise_of(tasks: "Sequence[asyncio.Task[None]]") -> None:
    """Raise the error of a task that has failed."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
