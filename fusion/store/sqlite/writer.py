"""The thread that writes: what was put meanwhile goes to the disk in one go, and who waits for it is told once."""

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
"""Of a loop, in which what comes of a row that nobody waits for is mostly put too, and can be written with it."""


@dataclass(slots=True)
class _Batch(Generic[Row]):
    """Rows, and those who wait until they are written."""

    rows: list[Row] = field(default_factory=list)
    futures: dict[AbstractEventLoop, list[Future[None]]] = field(default_factory=dict)
    threads: list[ThreadFuture[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows or self.awaited)

    @property
    def awaited(self) -> bool:
        return bool(self.futures or self.threads)

    def tell(self, failure: StoreError | None) -> None:
        """Say to all that wait that the rows are written, or why they are not."""
        for loop, futures in self.futures.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures, failure)
            except RuntimeError:  # the loop was closed: nobody waits in it any more
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


class Writer(Generic[Row]):
    """Calls `write` with rows in a thread of its own; the first StoreError that it raises ends all writing.

    `write` gives back what a part of the rows met that did not keep it from writing the others. `finish` is called
    last, in the same thread.
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
        self._untold: StoreError | None = None
        self._scheduled: AbstractEventLoop | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Row]) -> None:
        """Take rows; those that come after a failure are forgotten."""
        with self._lock:
            if self._failure is not None:
                return
            self._batch.rows.extend(rows)
        self._wake_soon()

    async def written(self) -> None:
        """Wait until all that was put before is written, or raise why it could not be."""
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
        """`written`, in a thread without a loop."""
        done: ThreadFuture[None] = ThreadFuture()
        with self._lock:
            self._raise()
            self._batch.threads.append(done)
        self._wake()
        done.result()

    def close(self) -> None:
        """Write what is left, and end the thread."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join()

    def _raise(self) -> None:
        if os.getpid() != self._process:
            raise StoreError("the store was opened by another process, of which this is a child: open it here too")
        failure, self._untold = self._failure or self._untold, None
        if failure is not None:
            raise StoreError(str(failure))

    def _wake_soon(self) -> None:
        """Wake the thread at the end of the loop's turn, or some turns on where nobody waits: all goes in one go."""
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
            except Exception as error:  # noqa: BLE001 - the border of the thread: whoever waits must not wait for ever
                failure = error if isinstance(error, StoreError) else StoreError(f"the store broke: {error!r}")
                self._failure = failure
                LOG.warning("%s", failure)
        with self._lock:
            failure, self._untold = failure or self._untold, None
            if not batch.awaited:
                self._untold = failure
        batch.tell(failure)
