"""LocalExecutor: runs rows on the event loop of this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fusion.bulk.executors.base import Executor, Job, RowEnd, Slice

_AHEAD: Final = 2
"""Rows that may be running or waiting to be taken, for each slot."""


class LocalExecutor(Executor):
    """Runs rows on the event loop of this process."""

    here = True

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
