"""LoopThread: one private event loop in a thread of its own, independent of the caller's loop."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from fusion.core.errors import UsageError

T = TypeVar("T")


class Work(Generic[T]):
    """A coroutine under way on the private loop. `done` has its outcome once its task has ended.

    `if_cancelled` gives the result of a cancelled task, in place of a CancelledError.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], if_cancelled: Callable[[], T] | None
    ) -> None:
        self.done: Future[T] = Future()
        self._if_cancelled = if_cancelled
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._start, coroutine)

    def cancel(self) -> None:
        """Cancel the coroutine; `done` is set after its cleanup. Safe from every thread, at any time."""
        with suppress(RuntimeError):  # the loop is closed, so the task has ended
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._ended)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[T]) -> None:
        try:
            stopped = self._if_cancelled if task.cancelled() else None
            self.done.set_result(task.result() if stopped is None else stopped())
        except BaseException as error:  # noqa: BLE001 - raised again to those that wait for `done`
            self.done.set_exception(error)


class LoopThread:
    """An event loop whose thread starts at the first call. `close` cancels running tasks and ends the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = False

    def submit(self, coroutine: Coroutine[Any, Any, T], if_cancelled: Callable[[], T] | None = None) -> Work[T]:
        """Run a coroutine on the private loop. Raises UsageError where `check` does."""
        try:
            with self._lock:  # `close` ends everything submitted before it, and nothing is submitted after it
                self.check()
                return Work(self._running(), coroutine, if_cancelled)
        except UsageError:
            coroutine.close()
            raise

    def check(self) -> None:
        """Raise UsageError if nothing can be submitted: once closed, and in a process forked later."""
        if self._closed:
            raise UsageError("this Fusion is closed; make another one")
        if self._elsewhere:
            raise UsageError("this Fusion is at work in the process that this one was forked from; make one here")

    def check_outside(self, what: str) -> None:
        """Raise UsageError on the private loop's own thread, where a wait would deadlock."""
        if self.inside:
            raise UsageError(f"{what} from inside of `on_event`, on the thread that does the work; do it elsewhere")

    @property
    def inside(self) -> bool:
        """True for the private loop's own thread, which must not wait for itself."""
        return self._thread is threading.current_thread()

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel every task, wait for its end, await `last`, end the thread. A second call has no effect."""
        with self._lock:
            self._closed = True
            if self._elsewhere:
                return
            loop, thread = self._loop, self._thread
            self._loop = None
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_end(last), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @property
    def _elsewhere(self) -> bool:
        """True in a process forked from this one's: it has the loop, but not its thread."""
        return self._loop is not None and self._process != os.getpid()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._process = os.getpid()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="fusion-loop", daemon=True)
            self._thread.start()
        return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    stopped = False
    while not stopped:
        with suppress(SystemExit, KeyboardInterrupt):  # the outcome of one task; the others go on
            loop.run_forever()
            stopped = True


async def _end(last: Callable[[], Awaitable[None]]) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await last()
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
