"""Stream: a run as server-sent events, from the store and from the live part of a run of this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic_core import to_json

from fusion.server.page.board import Board, KeptEvent
from fusion.server.page.run import RunView
from fusion.store.base import Subscription

_LIVE: Final = 0.2
"""Seconds between two looks at a run of this process."""
_ELSEWHERE: Final = 1.0
"""Seconds between two looks at a run of another process."""
_TOLD: Final = 5.0
"""The same where the store tells of what is new: it does not of single calls."""
_STATES: Final = 0.5
"""Seconds between two messages with the state of a run of this process."""
_PING: Final = 15.0
_PIECE: Final = 200_000
"""Most characters of an answer in one message."""


class RunStream:
    """The events of one run from the number `after` on.

    `event` messages are the events that the store keeps, each with its number as id, so that a browser that connects
    again gets the rest. `state` messages have what changed in the state of the run and of its stages. `text` messages
    have the next piece of the answer, `plan` messages the titles of its subtasks. `end` is the last message. A stream
    ends without it once the server is `closing`.
    """

    def __init__(self, view: RunView, after: int = 0, closing: Callable[[], bool] = lambda: False) -> None:
        self._view = view
        self._closing = closing
        self._after = after
        self._state: dict[str, Any] = {}
        self._stages: dict[str, Any] = {}
        self._told = 0.0
        self._titles = 0
        self._pieces = 0
        self._restarts = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        board = await asyncio.to_thread(lambda: self._view.board)
        news = asyncio.Event()
        follower = self._follow(news, asyncio.get_running_loop()) if board.live is None else None
        try:
            async for messages in self._messages(board, news, _TOLD if follower else _ELSEWHERE):
                yield messages
        finally:
            if follower is not None:
                follower.close()

    def _follow(self, news: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Subscription | None:
        """Set `news` when another process has written of the run, if the store tells."""

        def heard() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)

        return self._view.store.follow(self._view.run_id, heard)

    async def _messages(self, board: Board, news: asyncio.Event, elsewhere: float) -> AsyncIterator[bytes]:
        sent = time.monotonic()
        yield b"retry: 1000\n\n"
        while not self._closing():
            messages = b"".join(await asyncio.to_thread(lambda: list(self._look(board))))
            if messages or time.monotonic() - sent >= _PING:
                yield messages or b": ping\n\n"
                sent = time.monotonic()
            if board.over:
                yield _message("end", {"status": board.status})
                return
            await self._due(news, elsewhere if board.live is None else _LIVE)

    async def _due(self, news: asyncio.Event, seconds: float) -> None:
        """Wait for news, so many seconds at most, or until the server closes."""
        until = time.monotonic() + seconds
        while not (news.is_set() or self._closing()) and (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _ELSEWHERE)):
                    await news.wait()
        news.clear()

    def _look(self, board: Board) -> Iterator[bytes]:
        """Yield what is new."""
        for kept in board.refresh():
            if kept.number > self._after:
                yield _kept(kept)
        yield from self._changes(board)
        yield from self._plan(board)
        yield from self._text(board)

    def _changes(self, board: Board) -> Iterator[bytes]:
        """Yield what changed in the state, from time to time and at the end."""
        if not board.over and time.monotonic() - self._told < _STATES:
            return
        state = board.state()
        stages = {path: stage for path, stage in state["stages"].items() if self._stages.get(path) != stage}
        changed = {
            name: value for name, value in state.items() if self._state.get(name) != value and name != "stages"
        }
        self._state, self._stages = state, state["stages"]
        if stages or changed.keys() - {"now", "seconds"}:
            self._told = time.monotonic()
            yield _message("state", {**changed, "now": state["now"], "stages": stages})

    def _plan(self, board: Board) -> Iterator[bytes]:
        live = board.live
        if live is not None and len(live.titles) == self._titles:
            return
        titles = board.plan()
        if len(titles) != self._titles:
            self._titles = len(titles)
            yield _message("plan", {"titles": titles})

    def _text(self, board: Board) -> Iterator[bytes]:
        live = board.live
        if live is None:
            return
        restarts, pieces = live.restarts, live.pieces
        again = restarts != self._restarts or self._pieces == 0
        if restarts != self._restarts:
            self._restarts, self._pieces = restarts, 0
        count = len(pieces)
        if count > self._pieces:
            text = "".join(pieces[self._pieces : count])[-_PIECE:]
            self._pieces = count
            yield _message("text", {"text": text, "again": again})


def _kept(kept: KeptEvent) -> bytes:
    body = to_json(kept.event, exclude_none=True)
    return b"id: %d\nevent: event\ndata: %b\n\n" % (kept.number, body)


def _message(kind: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), to_json(data))
