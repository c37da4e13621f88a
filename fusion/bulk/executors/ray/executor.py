"""RayExecutor: runs rows on a Ray cluster, through a process that is connected to it."""

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import BinaryIO, Final

from fusion.bulk.executors.base import Executor, Job, RowEnd, Slice
from fusion.bulk.executors.ends import unpacked
from fusion.bulk.executors.ray.messages import LONGEST, Order, error_of, line, lost
from fusion.core.errors import FusionError, UsageError
from fusion.store.base import Store

_BRIDGE: Final = "fusion.bulk.executors.ray.bridge"
_STOP_SECONDS: Final = 25.0
"""Seconds in which rows may be interrupted and the cluster left."""
_TAIL: Final = 2000


class RayExecutor(Executor):
    """Runs rows on every node of a Ray cluster.

    `address` is that of the cluster, None for the one of RAY_ADDRESS or of this machine; if there is none, one is
    started. Raises UsageError without Ray, and for a store that other machines cannot open.
    """

    locks = True

    def __init__(self, address: str | None, store: Store) -> None:
        if find_spec("ray") is None:
            raise UsageError("Ray is not installed: run `pip install 'compound-fusion[ray]'`")
        self._address = address
        self._store = store.address

    async def run(self, job: Job, slices: AsyncIterator[Slice]) -> AsyncIterator[RowEnd]:
        url, concurrency = self._store.url, job.concurrency
        order = Order(address=self._address, place=url, concurrency=concurrency, terms=job.terms)
        with tempfile.TemporaryFile() as said:
            process = await _started(said, self._store.secrets)
            feeding = asyncio.create_task(_feed(process, order, slices))
            try:
                async for ends in _told(process, job, said):
                    for end in ends:
                        yield end
                await feeding
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                await _stopped(process)

    async def close(self) -> None:
        return


async def _started(said: BinaryIO, secrets: Mapping[str, str]) -> Process:
    """Start the connected process, out of reach of the signals of a terminal.

    A cluster that it starts on this machine inherits its environment; others have theirs.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _BRIDGE),
        stdin=PIPE,
        stdout=PIPE,
        stderr=said,
        env={**os.environ, **secrets},
        limit=LONGEST,
        start_new_session=True,
    )


async def _feed(process: Process, order: Order, slices: AsyncIterator[Slice]) -> None:
    """Send the order, then rows as they are planned. The end of the process is told by its output."""
    assert process.stdin is not None
    with suppress(ConnectionError):
        process.stdin.write(order.model_dump_json().encode() + b"\n")
        async for part in slices:
            process.stdin.write(line(rows=part.numbers))
            await process.stdin.drain()
        process.stdin.write(line(over=True))
        await process.stdin.drain()


async def _told(process: Process, job: Job, said: BinaryIO) -> AsyncIterator[list[RowEnd]]:
    """Yield the ends of rows until all have ended. Raises FusionError if they cannot."""
    assert process.stdout is not None
    while message := await process.stdout.readline():
        match json.loads(message):
            case {"ends": str(ends)}:
                yield list(unpacked(ends))
            case {"note": str(note)}:
                job.note(note)
            case {"failed": failure}:
                raise error_of(failure)
            case {"over": True}:
                return
    raise await _lost(process, said)


async def _lost(process: Process, said: BinaryIO) -> FusionError:
    """Return the error of a connection whose process has ended, with the last line that it wrote."""
    code = await process.wait()
    said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL))
    lines = said.read().decode("utf-8", "replace").splitlines()
    last = next((line.strip("| ") for line in reversed(lines) if any(map(str.isalnum, line))), "")
    return lost(f"exit {code}: {last}" if last else f"exit {code}")


async def _stopped(process: Process) -> None:
    """End the connected process: its rows stop first, and are recorded as interrupted."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
