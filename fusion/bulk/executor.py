"""Executor: runs the rows of a map in slices, here or elsewhere. The store is the truth: it may lose everything."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from fusion.core.types import Failure

_AHEAD: Final = 2
"""Rows that may be running or waiting to be taken, for each slot."""


class Slice(NamedTuple):
    """Rows of a map, by their numbers. Their inputs are in the store."""

    map_id: str
    numbers: tuple[int, ...]


class RowEnd(NamedTuple):
    """The end of a row; its answer is in the store.

    `stopped` is a row that a budget of many rows stopped, `waiting` one that waits for a person.
    """

    number: int
    run_id: str
    status: Literal["ok", "partial", "failed", "stopped", "waiting"]
    usd: Decimal
    failure: Failure | None


Work = Callable[[int], Awaitable[RowEnd]]
"""Runs one row of a map, by its number."""


class Job(NamedTuple):
    """A map to run: its id, the work on one row, and the number of rows at once."""

    map_id: str
    work: Work
    concurrency: int


class Executor(ABC):
    """Runs slices. Inputs and answers do not pass through it."""

    @abstractmethod
    def run(self, job: Job, slices: AsyncIterator[Slice]) -> AsyncIterator[RowEnd]:
        """Run the rows of the slices, and yield their ends in any order. Slices are taken as there is room."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the executor holds. A second call does nothing."""


class LocalExecutor(Executor):
    """Runs rows on the event loop of this process."""

    async def run(self, job: Job, slices: AsyncIterator[Slice]) -> AsyncIterator[RowEnd]:
        ends: asyncio.Queue[RowEnd | None] = asyncio.Queue()
        ahead = asyncio.Semaphore(job.concurrency * _AHEAD)
        feeding = asyncio.create_task(_feed(job, slices, ends, ahead))
        try:
            while (end := await ends.get()) is not None:
                ahead.release()
                yield end
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def close(self) -> None:
        return


async def _feed(
    job: Job, slices: AsyncIterator[Slice], ends: asyncio.Queue[RowEnd | None], ahead: asyncio.Semaphore
) -> None:
    """Start the rows of the slices as slots become free; put their ends, and None behind the last one.

    `ahead` bounds the rows that are running or whose ends are not taken yet.
    """
    free = asyncio.Semaphore(job.concurrency)

    async def one(number: int) -> None:
        try:
            ends.put_nowait(await job.work(number))
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as rows:
            async for part in slices:
                for number in part.numbers:
                    await ahead.acquire()
                    await free.acquire()
                    rows.create_task(one(number))
    finally:
        ends.put_nowait(None)
