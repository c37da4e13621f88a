"""Window: gathers the calls of all runs to one model, and sends them in batches."""

import asyncio
import contextvars
import secrets
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from fusion.core.config.tables import BatchesTable
from fusion.core.log import LOG
from fusion.models.base import ModelInfo, Price
from fusion.models.batches.base import BatchDoor, Ended
from fusion.models.batches.window.batch import Batch
from fusion.models.batches.window.row import Left, Row

_AT_MOST: Final = 6
"""Quiet times after which calls are sent even if more keep coming."""
_JOINING: Final = 0.1
"""Part of the quiet time in which rows that join a batch again gather."""


class Window:
    """The batches of one model. `times` are those of all windows.

    Rows gather until none has come for the quiet time, or the batch is full: by the rows or bytes that the provider
    takes, or by the rows that may be open at once. More wait until an open batch ends.
    """

    def __init__(self, door: BatchDoor, times: BatchesTable) -> None:
        self.door = door
        self._times = times
        self._waiting: dict[str, Row] = {}
        self._bytes = 0
        self._first = self._latest = 0.0
        self._changed = asyncio.Event()
        self._gathering = False
        self._batches: dict[str, Batch] = {}
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> ModelInfo:
        return self.door.info

    @property
    def price(self) -> Price | None:
        """The price of a call in a batch; None if it is unknown."""
        return self.door.price

    async def send(self, row: Row) -> Ended | Left:
        """Send a row in the next batch, and return its end."""
        if not self.door.takes(row.request):
            return Left("refused", False, f"a batch of {self.info.id!r} does not hold such a call")
        row.size = self.door.size(row.entry)
        if row.size > self.door.most_bytes:
            most = f"a batch takes {self.door.most_bytes:,}"
            return Left("refused", False, f"the call has {row.size:,} bytes, and {most}")
        now = self._now()
        self._first = self._first if self._waiting else now
        self._latest = now
        self._waiting[row.custom_id] = row
        self._bytes += row.size
        if not self._gathering:
            self._gathering = True
            self._start(self._gather())
        elif self._is_full() or row.deadline is not None:
            self._changed.set()
        return await self._end_of(row)

    async def join(self, row: Row, name: str, batch_id: str | None) -> Ended | Left:
        """Wait for a row of a batch that an earlier session sent, and return its end.

        Without the provider's id, the batch is looked for by its name; it may not exist.
        """
        row.sent = True
        batch = self._batches.get(name)
        if batch is None or batch.over:
            batch = self._new_batch(name, [], batch_id)
            self._start(self._rejoin(batch))
        batch.add(row)
        return await self._end_of(row)

    async def close(self) -> None:
        """Stop looking at batches. They go on at the provider."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end_of(self, row: Row) -> Ended | Left:
        try:
            return await row.outcome
        except asyncio.CancelledError:
            self._forget(row)
            raise

    def _forget(self, row: Row) -> None:
        """Drop a row that its run does not wait for any more."""
        if self._waiting.pop(row.custom_id, None) is not None:
            self._bytes -= row.size
        for batch in list(self._batches.values()):
            batch.forget(row)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that belongs to no run."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # Gathering.

    async def _gather(self) -> None:
        """Send the waiting rows, batch by batch, until none is left."""
        try:
            while self._waiting:
                await self._quiet()
                rows = self._taken()
                if rows:
                    self._start(self._run(self._new_batch(f"fusion-{secrets.token_hex(12)}", rows)))
        finally:
            self._gathering = False

    async def _quiet(self) -> None:
        """Wait until the next batch is due, and there is room for it; drop the rows that are late by then."""
        while self._waiting:
            now = self._now()
            self._drop_late(now)
            due = min(self._latest + self._times.quiet, self._first + _AT_MOST * self._times.quiet)
            if self._room > 0 and (self._is_full() or due <= now):
                return
            deadlines = [row.deadline for row in self._waiting.values() if row.deadline is not None]
            until = min([*([due] if self._room > 0 else []), *deadlines], default=None)
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                pass

    @property
    def _room(self) -> int:
        """Rows that may be sent now."""
        most: int = self._times.open_rows
        return min(most - self._open, self.door.most_rows)

    def _is_full(self) -> bool:
        return 0 < self._room <= len(self._waiting) or self._bytes >= self.door.most_bytes

    def _taken(self) -> list[Row]:
        """Take the rows of the next batch, in the order in which they came."""
        rows: list[Row] = []
        size = 0
        for row in self._waiting.values():
            if len(rows) >= self._room or size + row.size > self.door.most_bytes:
                break
            rows.append(row)
            size += row.size
        for row in rows:
            del self._waiting[row.custom_id]
        self._bytes -= size
        return rows

    def _drop_late(self, now: float) -> None:
        for row in [row for row in self._waiting.values() if row.is_late(now)]:
            del self._waiting[row.custom_id]
            self._bytes -= row.size
            row.end(Left("late", False))

    # Batches.

    def _new_batch(self, name: str, rows: Iterable[Row], batch_id: str | None = None) -> Batch:
        batch = Batch(self.door, self._times, name, rows, batch_id, crowded=lambda: self._others_open(name))
        self._batches[name] = batch
        return batch

    def _others_open(self, name: str) -> bool:
        return any(one.batch_id is not None for one in self._batches.values() if one.name != name)

    async def _run(self, batch: Batch) -> None:
        size = len(batch.rows)
        self._open += size
        try:
            parts = await batch.submit()
            for rows in parts:
                self._start(self._run(self._new_batch(f"fusion-{secrets.token_hex(12)}", rows)))
            if not parts:
                await batch.follow(self._times.poll)
        except Exception as error:  # noqa: BLE001 - it ends the calls, not the window
            LOG.exception("a batch ended with an internal error")
            batch.fail(error)
        finally:
            self._open -= size
            self._end(batch)

    async def _rejoin(self, batch: Batch) -> None:
        size = 0
        try:
            await asyncio.sleep(_JOINING * self._times.quiet)
            size = len(batch.rows)
            self._open += size
            if await batch.find():
                await batch.follow(0.0)
        except Exception as error:  # noqa: BLE001 - it ends the calls, not the window
            LOG.exception("a batch ended with an internal error")
            batch.fail(error)
        finally:
            self._open -= size
            self._end(batch)

    def _end(self, batch: Batch) -> None:
        batch.over = True
        if self._batches.get(batch.name) is batch:
            del self._batches[batch.name]
        self._changed.set()
