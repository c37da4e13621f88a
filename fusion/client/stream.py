"""Streams of a run's answer, for `for` and `async for`."""

import asyncio
import functools
import queue
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from fusion.core.events import Delta, EventBase, Restarted, RunFinished, Sink
from fusion.core.result import Result

if TYPE_CHECKING:
    from fusion.client.handle import RunHandle


_Finish = Callable[[Result], Result]


class _Stream:
    """Base of both streams: the pieces of a run's answer and its Result. Its run stops if it is collected."""

    def __init__(self, put: Callable[[EventBase | None], None]) -> None:
        self.sink: Sink = put  # the run holds the queue, not the stream
        self.restarts = 0
        """Number of times that the answer broke off and began again."""
        self._put = put
        self._any = False
        self._handle: RunHandle | None = None
        self._finish: _Finish = lambda result: result
        self._result: Result | None = None

    @property
    def handle(self) -> "RunHandle":
        """The run."""
        assert self._handle is not None
        return self._handle

    def of(self, handle: "RunHandle", finish: _Finish) -> Self:
        """Follow a run; `finish` checks its Result."""
        self._handle, self._finish = handle, finish
        handle.when_over(functools.partial(self._put, None))
        weakref.finalize(self, handle.stop).atexit = False
        return self

    def _piece(self, event: EventBase) -> str:
        """The piece of the answer in an event; empty for other events."""
        if isinstance(event, Restarted):
            self.restarts += 1
        if not isinstance(event, Delta):
            return ""
        self._any = True
        return event.text


class RunStream(_Stream):
    """Iterate over the pieces of the answer; then `.result` holds the Result.

    If a stream breaks off and the request is made again, the pieces begin again and `.restarts` counts it;
    `.result.text` is the whole answer. Leaving the `with` block early stops the run. Raises RunFailed at the end of
    a run that failed.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[EventBase | None] = queue.SimpleQueue()
        super().__init__(self._events.put)

    @property
    def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            self._result = self._finish(self.handle.wait())
        return self._result

    def __iter__(self) -> Iterator[str]:
        while (event := self._events.get()) is not None and not isinstance(event, RunFinished):
            if piece := self._piece(event):
                yield piece
        self._events.put(None)  # ends a second iteration
        result = self.result
        if not self._any and result.text:
            yield result.text

    def __enter__(self) -> "RunStream":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.handle.over:
            self.handle.cancel()


class AsyncRunStream(_Stream):
    """`RunStream` for `async for`, on the loop that is running when it is made."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[EventBase | None] = asyncio.Queue()
        super().__init__(functools.partial(_put, asyncio.get_running_loop(), self._events))

    async def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            self._result = self._finish(await self.handle.wait_async())
        return self._result

    async def __aiter__(self) -> AsyncIterator[str]:
        while (event := await self._events.get()) is not None and not isinstance(event, RunFinished):
            if piece := self._piece(event):
                yield piece
        self._events.put_nowait(None)
        result = await self.result()
        if not self._any and result.text:
            yield result.text

    async def __aenter__(self) -> "AsyncRunStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.handle.over:
            await asyncio.to_thread(self.handle.cancel)


def _put(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[EventBase | None]", event: EventBase | None) -> None:
    with suppress(RuntimeError):  # the reader's loop is closed
        loop.call_soon_threadsafe(events.put_nowait, event)
