"""The answer of a run in pieces, while it is written: for `for` and for `async for`."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from fusion.events import Delta, EventBase, Restarted, RunFinished
from fusion.result import Result

if TYPE_CHECKING:
    from fusion.client import RunHandle

__all__ = ["AsyncRunStream", "RunStream"]

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


class RunStream:
    """Iterate over the pieces of the answer; then `.result` holds the Result.

    What has been given cannot be taken back: where a stream broke and the answer was asked for anew, its pieces
    begin again (`.restarts` counts), and `.result.text` is the whole answer. Leaving its `with` block early stops
    the run. Raises RunFailed at the end of a run that failed.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[EventBase] = queue.SimpleQueue()
        self._pieces = _Pieces()
        self._handle: RunHandle | None = None
        self._finish: _Finish = lambda result: result
        self._result: Result | None = None

    def of(self, handle: "RunHandle", finish: _Finish) -> "RunStream":
        self._handle, self._finish = handle, finish
        return self

    def sink(self, event: EventBase) -> None:
        self._events.put(event)

    @property
    def restarts(self) -> int:
        return self._pieces.restarts

    @property
    def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            assert self._handle is not None
            self._result = self._finish(self._handle.wait())
        return self._result

    def __iter__(self) -> Iterator[str]:
        while not isinstance(event := self._events.get(), RunFinished):
            piece = self._pieces.of(event)
            if piece:
                yield piece
        if not self._pieces.any and self.result.text:
            yield self.result.text
        assert self.result is not None

    def __enter__(self) -> "RunStream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._result is None and self._handle is not None:
            self._handle.cancel()


class AsyncRunStream:
    """`RunStream` for `async for`, on the loop that is running where it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[EventBase] = asyncio.Queue()
        self._pieces = _Pieces()
        self._handle: RunHandle | None = None
        self._finish: _Finish = lambda result: result
        self._result: Result | None = None

    def of(self, handle: "RunHandle", finish: _Finish) -> "AsyncRunStream":
        self._handle, self._finish = handle, finish
        return self

    def sink(self, event: EventBase) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    @property
    def restarts(self) -> int:
        return self._pieces.restarts

    async def result(self) -> Result:
        """The Result; waits for the end of the run. Raises RunFailed if it failed."""
        if self._result is None:
            assert self._handle is not None
            self._result = self._finish(await self._handle.wait_async())
        return self._result

    async def __aiter__(self) -> AsyncIterator[str]:
        while not isinstance(event := await self._events.get(), RunFinished):
            piece = self._pieces.of(event)
            if piece:
                yield piece
        result = await self.result()
        if not self._pieces.any and result.text:
            yield result.text

    async def __aenter__(self) -> "AsyncRunStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._result is None and self._handle is not None:
            await asyncio.to_thread(self._handle.cancel)
