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

_QUIET: Final = 1
"""Turns of the event loop without a new row, after which awaited rows are written."""
_TURNS: Final = 3
"""Turns of the event loop without a new row, after which rows that no future awaits are written."""
_PATIENCE: Final = 0.02
"""Seconds after which rows are written even if each turn of the event loop brings more."""

Done = Callable[[StoreError | None], object]
"""Called with the error of a write, None for none."""


@dataclass(slots=True)
class _Waiting:
    """Waiters of one event loop for a batch: calls, which come first, and futures."""

    calls: list[Done] = field(default_factory=list)
    futures: list[Future[None]] = field(default_factory=list)

    def resolve(self, failure: StoreError | None) -> None:
        for call in self.calls:
            call(failure)
        _resolve(self.futures, failure)


@dataclass(slots=True)
class _Batch(Generic[Row]):
    """Rows, and those that wait for them: event loops and threads. It is `urgent` if work waits for it."""

    rows: list[Row] = field(default_factory=list)
    loops: dict[AbstractEventLoop, _Waiting] = field(default_factory=dict)
    threads: list[ThreadFuture[None]] = field(default_factory=list)
    urgent: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.awaited)

    @property
    def awaited(self) -> bool:
        return bool(self.loops or self.threads)

    def of(self, loop: AbstractEventLoop) -> _Waiting:
        """Return the waiters of a loop."""
        found = self.loops.get(loop)
        if found is None:
            found = self.loops[loop] = _Waiting()
        return found

    def resolve(self, failure: StoreError | None) -> None:
        """Tell all waiters, with the error if there is one."""
        for loop, waiting in self.loops.items():
            try:
                loop.call_soon_threadsafe(waiting.resolve, failure)
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
            future.set_exception(_again(failure))


def _again(failure: StoreError) -> StoreError:
    """Return an error of the same kind and words, to be raised in another place."""
    return type(failure)(str(failure))


class _Here(threading.local):
    """The event loop of this thread that will wake the writer, if one will."""

    turning: AbstractEventLoop | None = None


class WriterThread(Generic[Row]):
    """Calls `write` with batches of rows in one thread; the first StoreError raised there ends all writing.

    A batch is written once its event loop has nothing more to add to it: the calls of many runs share one write.

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
        self._queued = 0
        self._here = _Here()
        self._signal: SimpleQueue[None] = SimpleQueue()
        self._signalled = False
        self._busy = False
        self._closing = False
        self._failure: StoreError | None = None
        self._unreported: StoreError | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Row]) -> None:
        """Queue rows; rows after a failure are dropped."""
        with self._lock:
            if self._failure is not None:
                return
            self._batch.rows.extend(rows)
            self._queued += 1
        self._wake_soon()

    async def written(self) -> None:
        """Wait until all rows queued so far are written; raise the StoreError if one could not be."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if (failure := self._failed()) is not None:
                raise failure
            if not (self._busy or self._batch):
                return
            future: Future[None] = loop.create_future()
            self._batch.of(loop).futures.append(future)
            self._batch.urgent = True
        self._wake_soon()
        await future

    def when_written(self, call: Done) -> None:
        """Call this on the running loop once all rows queued so far are written, before those that await it go on."""
        loop = asyncio.get_running_loop()
        with self._lock:
            failure = self._failed()
            if failure is None and (self._busy or self._batch):
                self._batch.of(loop).calls.append(call)
            else:
                loop.call_soon(call, failure)
        self._wake_soon()

    def flush(self) -> None:
        """`written` without an event loop: blocks."""
        done: ThreadFuture[None] = ThreadFuture()
        with self._lock:
            if (failure := self._failed()) is not None:
                raise failure
            self._batch.threads.append(done)
        self._wake()
        done.result()

    def fail(self, failure: StoreError) -> None:
        """Write nothing more: all that wait, now and later, are told of this error."""
        with self._lock:
            self._failure = self._failure or failure
        self._wake()

    def close(self, *, wait: bool = True) -> None:
        """Write the remaining rows and end the thread; return before that unless `wait`."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closing = True
        self._wake()
        if wait:
            self._thread.join()

    def _failed(self) -> StoreError | None:
        """Return the error to report to one that waits, if any."""
        if os.getpid() != self._process:
            return StoreError("the store was opened by another process, of which this is a child: open it here too")
        failure, self._unreported = self._failure or self._unreported, None
        return None if failure is None else _again(failure)

    def _wake_soon(self) -> None:
        """Wake the thread when the running loop adds no more rows; at once without a loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._wake()
            return
        if self._here.turning is not loop:
            self._here.turning = loop
            loop.call_soon(self._turn, loop, loop.time() + _PATIENCE, self._queued, 0)

    def _turn(self, loop: AbstractEventLoop, until: float, queued: int, quiet: int) -> None:
        """Count the turns of the loop that have brought no row."""
        quiet = 0 if self._queued != queued else quiet + 1
        if quiet < (_QUIET if self._batch.urgent else _TURNS) and loop.time() < until:
            loop.call_soon(self._turn, loop, until, self._queued, quiet)
            return
        self._here.turning = None
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._signalled:
                return
            self._signalled = True
        self._signal.put(None)

    def _work(self) -> None:
        ended = False
        while not ended:
            self._signal.get()
            with self._lock:
                self._signalled = False
                batch, self._batch = self._batch, _Batch()
                failure, ended = self._failure, self._closing
                self._busy = bool(batch)
                if ended and failure is None:
                    self._failure = StoreError("the store is closed")
            if batch:
                self._do(batch, failure)
        self._finish()

    def _do(self, batch: _Batch[Row], failure: StoreError | None) -> None:
        if failure is None and batch.rows:
            try:
                failure = self._write(batch.rows)
            except Exception as error:  # noqa: BLE001 - the border of the thread: no future may wait for ever
                failure = error if isinstance(error, StoreError) else StoreError(f"the store broke: {error!r}")
                self._failure = self._failure or failure
                LOG.warning("%s", failure)
        with self._lock:
            self._busy = False
            failure, self._unreported = failure or self._unreported, None
            if not batch.awaited:
                self._unreported = failure
        batch.resolve(failure)
