"""Reader: reads a source in a thread of its own, a bounded number of rows ahead."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from fusion.bulk.sources import SourceRow


class RowReader:
    """Rows of a source for an event loop. A row is handed on as soon as it is there, also from a slow stream."""

    def __init__(self, source: Iterator[SourceRow], *, ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._rows: deque[SourceRow] = deque()
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
                rows = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
                over, error = self._over and not self._rows, self._error
                self._came.clear()
                self._turn.notify()
            if rows or self._closed:
                return [] if self._closed else rows
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
        with self._turn:
            while len(self._rows) >= self._ahead and not self._closed:
                self._turn.wait()
            self._rows.append(row)
            first = len(self._rows) == 1
        if first:
            self._wake()
        return not self._closed

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._came.set)
