"""The answer of a run in pieces, while it is written: for `for` and for `async for`."""

import asyncio
import functools
import queue
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from fusion.core.events import Delta, EventBase, Restarted, RunFinished, Sink
from fusion.core.result import Result

if TYPE_CHECKING:
    from fusion.client.handle import RunHandle


_Finish = Callable[[Result], Result]


class _Pieces:
    """Picks the answer's pieces out of the events. An answer that broke off begins again, and `restarts` counts."""

    def __init__(self) -> None:
        self.restarts = 0
        self.any = False

    def of(self, event: EventBase) -> str | None:
        if isinstance(event, Delta):
            self.any = True
            return event.text
        if isinstance(event, Restarted):
            self.restarts += 1
        return None


class _Stream:
    """What both streams are: the pieces of a run's answer, and its end. One that nobody holds stops its run."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._handle: RunHandle | None = None
        self._finish: _Finish = lambda result: result
        self._result: Result | None = None

    @property
    def restarts(self) -> int:
        return self._pieces.restarts

    @property
    def handle(self) -> "RunHandle":
        """The run."""
        assert self._handle is not None
        return self._handle

    def _follow(self, handle: "RunHandle", finish: _Finish, over: Callable[[], None]) -> None:
        self._handle, self._finish = handle, finish
        handle.when_over(over)
        weakref.finalize(self, handle.stop).atexit = False


class RunStream(_Stream):
    """Iterate over the pieces of the answer; then `.result` holds the Result.

    What has been given cannot be taken back: where a stream broke and the answer was asked for anew, its pieces
    begin again (`.restarts` counts), and `.result.text` is the whole answer. Leaving its `with` block early stops
    the run. Raises RunFailed at the end of a run that failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: queue.SimpleQueue[EventBase | None] = queue.SimpleQueue()
        self.sink: Sink = self._events.put  # the run holds the queue, and not the stream

    def of(self, handle: "RunHandle", finish: _Finish) -> "RunStream":
        self._follow(handle, finish, functools.partial(self._events.put, None))
        return self

    @property
    def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            self._result = self._finish(self.handle.wait())
        return self._result

    def __iter__(self) -> Iterator[str]:
        while (event := self._events.get()) is not None and not isinstance(event, RunFinished):
            piece = self._pieces.of(event)
            if piece:
                yield piece
        self._events.put(None)  # for whoever iterates once more
        result = self.result
        if not self._pieces.any and result.text:
            yield result.text

    def __enter__(self) -> "RunStream":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.handle.over:
            self.handle.cancel()


class AsyncRunStream(_Stream):
    """`RunStream` for `async for`, on the loop that is running where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self._events: asyncio.Queue[EventBase | None] = asyncio.Queue()
        self._put = functools.partial(_put, asyncio.get_running_loop(), self._events)
        self.sink: Sink = self._put

    def of(self, handle: "RunHandle", finish: _Finish) -> "AsyncRunStream":
        self._follow(handle, finish, functools.partial(self._put, None))
        return self

    async def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            self._result = self._finish(await self.handle.wait_async())
        return self._result

    async def __aiter__(self) -> AsyncIterator[str]:
        while (event := await self._events.get()) is not None and not isinstance(event, RunFinished):
            piece = self._pieces.of(event)
            if piece:
                yield piece
        self._events.put_nowait(None)
        result = await self.result()
        if not self._pieces.any and result.text:
            yield result.text

    async def __aenter__(self) -> "AsyncRunStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.handle.over:
            await asyncio.to_thread(self.handle.cancel)


def _put(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[EventBase | None]", event: EventBase | None) -> None:
    with suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
        loop.call_soon_threadsafe(events.put_nowait, event)
