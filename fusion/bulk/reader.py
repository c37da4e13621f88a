"""Reader: reads a source in a thread of its own, a bounded number of rows ahead."""

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from heapq import heappush, heappushpop
from itertools import islice
from typing import Any, Final

from fusion.bulk.options import Choice
from fusion.bulk.sources import RowSource, SourceRow
from fusion.core.types import File

_WAITING: Final = 8_000_000
"""Characters and bytes of all rows that wait."""


class RowReader:
    """Rows of a source for an event loop. A row is handed on as soon as it is there, also from a slow stream."""

    def __init__(self, source: Iterator[SourceRow], *, ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._rows: deque[tuple[SourceRow, int]] = deque()
        self._size = 0
        self._turn = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._error: BaseException | None = None
        self._over = self._closed = False
        threading.Thread(target=self._read, name="fusion-rows", daemon=True).start()

    async def some(self, most: int) -> list[SourceRow]:
        """Return at least one row and at most so many; none at the end. Raises the source's error behind them."""
        while True:
            with self._turn:
                taken = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
                self._size -= sum([size for _, size in taken])
                over, error = self._over and not self._rows, self._error
                self._came.clear()
                self._turn.notify()
            if taken or self._closed:
                return [] if self._closed else [row for row, _ in taken]
            if over and error is not None:
                raise error
            if over:
                return []
            await self._came.wait()

    def close(self) -> None:
        """Read no more rows; a thread that waits for a slow stream is left to itself."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._came.set()

    def _read(self) -> None:
        try:
            for row in self._source:
                if not self._put(row):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the rows are taken
            self._error = error
        finally:
            with self._turn:
                self._over = True
            self._wake()

    def _put(self, row: SourceRow) -> bool:
        """Put a row once there is room; return False once closed."""
        size = _size_of(row.values)
        with self._turn:
            while not (self._closed or self._has_room(size)):
                self._turn.wait()
            self._rows.append((row, size))
            self._size += size
            first = len(self._rows) == 1
        if first:
            self._wake()
        return not self._closed

    def _has_room(self, size: int) -> bool:
        """Return True for a row that may wait, one of any size alone."""
        return not self._rows or (len(self._rows) < self._ahead and self._size + size <= _WAITING)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._came.set)


def _size_of(value: Any) -> int:
    """Return the characters and bytes of a row's values, about."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, File):
        return len(value.data)
    if isinstance(value, Mapping):
        return sum([_size_of(part) for part in value.values()])
    return sum([_size_of(part) for part in value]) if isinstance(value, (list, tuple)) else 8


def chosen(source: RowSource, choice: Choice, key_of: Callable[[SourceRow], str]) -> Iterator[SourceRow]:
    """Yield the chosen rows of a source in their order; its files are closed at the end."""
    rows = source.rows()
    try:
        first = islice(rows, choice.limit)
        yield from first if choice.sample is None else _drawn(first, choice.sample, key_of)
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()


def _drawn(rows: Iterator[SourceRow], most: int, key_of: Callable[[SourceRow], str]) -> list[SourceRow]:
    """Return the rows with the smallest hashes of their keys, in one pass that holds no others."""
    heap: list[tuple[int, int, SourceRow]] = []
    for at, row in enumerate(rows):
        rank = -int.from_bytes(hashlib.sha256(key_of(row).encode()).digest()[:8], "big")
        one = (rank, -at, row)
        if len(heap) < most:
            heappush(heap, one)
        else:
            heappushpop(heap, one)
    return [row for _, _, row in sorted(heap, key=lambda one: -one[1])]
