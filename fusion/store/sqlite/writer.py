"""Writer thread: batches queued rows into one write, then wakes the waiters."""

import asyncio
import os
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from fusion.core.errors import StoreError
from fusion.core.log import LOG

Row = TypeVar("Row")

_TURNS: Final = 3
"""Turns of the event loop before an unawaited row is written, so that the rows that follow join its batch."""


@dataclass(slots=True)
class _Batch(Generic[Row]):
    """Rows, and the futures that wait for them."""

    rows: list[Row] = field(default_factory=list)
    futures: dict[AbstractEventLoop, list[Future[None]]] = field(default_factory=dict)
    threads: list[ThreadFuture[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows or self.awaited)

    @property
    def awaited(self) -> bool:
        return bool(self.futures or self.threads)

    def resolve(self, failure: StoreError | None) -> None:
        """Resolve all futures, with the error if there is one."""
        for loop, futures in self.futures.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures, failure)
            except RuntimeError:  # the loop is closed, and its waiters with it
                continue
        _resolve(self.threads, failure)


def _resolve(futures: Sequence[Future[None] | ThreadFuture[None]], failure: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(StoreError(str(failure)))


class WriterThread(Generic[Row]):
    """Calls `write` with batches of rows in one thread; the first StoreError raised there ends all writing.

    `write` returns an error that concerns some rows only; the others are written. `finish` is called last, in the
    same thread.
    """

    def __init__(
        self, write: Callable[[Sequence[Row]], StoreError | None], finish: Callable[[], object], *, name: str
    ) -> None:
        self._write = write
        self._finish = finish
        self._lock = threading.Lock()
        self._batch: _Batch[Row] = _Batch()
        self._signal: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._closing = False
        self._failure: StoreError | None = None
        self._unreported: StoreError | None = None
        self._scheduled: AbstractEventLoop | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Row]) -> None:
        """Queue rows; rows after a failure are dropped."""
        with self._lock:
            if self._failure is not None:
                return
            self._batch.rows.extend(rows)
        self._wake_soon()

    async def written(self) -> None:
        """Wait until all rows queued so far are written; raise the StoreError if one could not be."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._raise()
            if not self._awake and not self._batch:
                return
            future: Future[None] = loop.create_future()
            self._batch.futures.setdefault(loop, []).append(future)
        self._wake_soon()
        await future

    def flush(self) -> None:
        """`written` without an event loop: blocks."""
        done: ThreadFuture[None] = ThreadFuture()
        with self._lock:
            self._raise()
            self._batch.threads.append(done)
        self._wake()
        done.result()

    def close(self) -> None:
        """Write the remaining rows and end the thread."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join()

    def _raise(self) -> None:
        if os.getpid() != self._process:
            raise StoreError("the store was opened by another process, of which this is a child: open it here too")
        failure, self._unreported = self._failure or self._unreported, None
        if failure is not None:
            raise StoreError(str(failure))

    def _wake_soon(self) -> None:
        """Wake the thread after this turn of the event loop, or some turns later if no future waits."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._wake()
            return
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self._turn, loop, _TURNS)

    def _turn(self, loop: AbstractEventLoop, left: int) -> None:
        if left and not self._batch.awaited:
            loop.call_soon(self._turn, loop, left - 1)
            return
        self._scheduled = None
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._awake:
                return
            self._awake = True
        self._signal.put(None)

    def _work(self) -> None:
        while True:
            self._signal.get()
            while (batch := self._next()) is not None:
                self._do(batch)
            if self._closing:
                break
        self._finish()

    def _next(self) -> _Batch[Row] | None:
        with self._lock:
            batch = self._batch
            if not batch:
                self._awake = False
                if self._closing and self._failure is None:
                    self._failure = StoreError("the store is closed")
                return None
            self._batch = _Batch()
            return batch

    def _do(self, batch: _Batch[Row]) -> None:
        failure = self._failure
        if failure is None and batch.rows:
            try:
                failure = self._write(batch.rows)
            except Exception as error:  # noqa: BLE001 - the border of the thread: no future may wait for ever
                failure = error if isinstance(error, StoreError) else StoreError(f"the store broke: {error!r}")
                self._failure = failure
                LOG.warning("%s", failure)
        with self._lock:
            failure, self._unreported = failure or self._unreported, None
            if not batch.awaited:
                self._unreported = failure
        batch.resolve(failure)
