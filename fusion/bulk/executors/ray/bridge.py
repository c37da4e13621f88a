"""Bridge: the process that is connected to a Ray cluster for one map.

It takes rows from its standard input and writes their ends to its standard output. It ends once all rows have ended,
or when its input closes, as with the process of the map. Ray prints, changes signal handlers, and ends the connected
process when the head of the cluster is gone: the process of the map is kept apart from that.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

from fusion.bulk.executors.base import RowEnd
from fusion.bulk.executors.ends import packed
from fusion.bulk.executors.ray.cluster import Cluster
from fusion.bulk.executors.ray.messages import LONGEST, Order, line, lost
from fusion.bulk.executors.ray.pool import Pool
from fusion.core.errors import FusionError, first_error

_USAGE: Final = "RAY_USAGE_STATS_ENABLED"
_CONNECT: Final = "RAY_ENABLE_AUTO_CONNECT"
"""Set to 0, Ray does not start a cluster here if it is called after its connection was lost."""


def main() -> None:
    """Run the rows that come on standard input."""
    os.environ.setdefault(_USAGE, "0")
    os.environ[_CONNECT] = "0"
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # prints of Ray are no messages
    asyncio.run(_Bridge(out).run())


class _Bridge:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    async def run(self) -> None:
        """Run a map; a failure is the last message."""
        try:
            await self._connected(await _standard_input())
        except FusionError as error:
            self._tell(failed=error.as_failure().model_dump())
        except BaseExceptionGroup as group:
            first = first_error(group)
            if isinstance(first, ConnectionError):  # of Ray
                first = lost(str(first))
            if not isinstance(first, FusionError):
                raise
            self._tell(failed=first.as_failure().model_dump())
        else:
            self._tell(over=True)

    async def _connected(self, lines: asyncio.StreamReader) -> None:
        order = Order.model_validate_json(await lines.readline())
        cluster = await asyncio.to_thread(Cluster, order.address)
        pool = Pool(cluster, order, self._ended, lambda note: self._tell(note=note))
        try:
            await _to_end(pool, lines)
        finally:
            await pool.close()
            await asyncio.to_thread(cluster.close)

    def _ended(self, ends: Sequence[RowEnd]) -> None:
        if ends:
            self._tell(ends=packed(ends))

    def _tell(self, **message: Any) -> None:
        with suppress(BrokenPipeError):  # the map is gone, and so is the input
            self._out.write(line(**message))


async def _to_end(pool: Pool, lines: asyncio.StreamReader) -> None:
    """Run the rows of the input until all have ended, or the input has."""
    running = asyncio.ensure_future(pool.run())
    reading = asyncio.ensure_future(_read(pool, lines))
    try:
        await asyncio.wait([running, reading], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        running.cancel()
        reading.cancel()
        await asyncio.gather(running, reading, return_exceptions=True)


async def _read(pool: Pool, lines: asyncio.StreamReader) -> None:
    """Take rows until the input ends."""
    while message := await lines.readline():
        match json.loads(message):
            case {"rows": numbers}:
                pool.add(numbers)
            case {"over": True}:
                pool.no_more()


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LONGEST)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    main()
