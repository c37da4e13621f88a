"""Responses of runs: streams that end with their client, and waits that do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fusion.server.runs.runs import AnyRun

T = TypeVar("T")

PING_SECONDS: Final = 15.0
_ESCAPES: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Line ends of Unicode in UTF-8, at which clients split a stream though it knows CR and LF only, and their JSON."""
_PING: Final = b": ping\n\n"
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class RunResponse(Response):
    """Server-sent events of a run. Its client is counted until it has all or is gone."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], run: AnyRun, *, headers: Mapping[str, str]) -> None:
        self._events = events
        self._run = run
        self._sent = time.monotonic()
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(receive, send)
        finally:
            self._run.leave()

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as group:
            pump = group.create_task(self._pump(send))
            beside = [group.create_task(_watch(receive, pump.cancel)), group.create_task(self._ping(send))]
            pump.add_done_callback(lambda _: [one.cancel() for one in beside])

    async def _pump(self, send: Send) -> None:
        async for piece in self._events:
            self._sent = time.monotonic()
            await send(_body(_one_line(piece)))
        await send(_body(b"", more=False))

    async def _ping(self, send: Send) -> None:
        while True:
            due = self._sent + PING_SECONDS - time.monotonic()
            if due <= 0:
                self._sent = time.monotonic()
                await send(_body(_PING))
            else:
                await asyncio.sleep(due)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns; None if the client goes away before."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        watch = group.create_task(_watch(receive, task.cancel))
        task.add_done_callback(lambda _: watch.cancel())
    return None if task.cancelled() else task.result()


async def _watch(receive: Receive, end: Callable[[], object]) -> None:
    """Call `end` once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    end()


def _one_line(piece: bytes) -> bytes:
    """Return events in JSON without line ends of Unicode."""
    for end, escape in _ESCAPES:
        piece = piece.replace(end, escape)
    return piece


def _body(piece: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}
