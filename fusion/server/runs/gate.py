"""Gate: bounds the runs at once; further requests wait their turn, and those beyond the queue are refused."""

import asyncio
import math
from collections import deque
from contextlib import suppress
from typing import Final

from fusion.server.base import RefusedError

_LONGEST: Final = 60
_SMOOTHING: Final = 0.2


class Gate:
    """Room for so many runs, first come first served, and for so many that wait."""

    def __init__(self, room: int, queue: int) -> None:
        self.running = 0
        self._room = room
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    def try_enter(self) -> bool:
        """Enter if there is room. Raises RefusedError if the queue is full, too."""
        if self.running < self._room and not self._waiting:
            self.running += 1
            return True
        if len(self._waiting) >= self._queue:
            raise RefusedError(
                f"{self.running} runs are under way and {len(self._waiting)} requests wait; try again later",
                status=429,
                kind="rate_limit_error",
                code="queue_full",
                final=False,
                retry_after=self._wait(),
            )
        return False

    async def enter(self) -> bool:
        """Enter once there is room."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            with suppress(ValueError):
                self._waiting.remove(turn)
            raise
        return True

    def leave(self, seconds: float | None = None) -> None:
        """Leave after a run of so many seconds; the next that waits enters."""
        if seconds is not None:
            self._seconds += _SMOOTHING * (seconds - self._seconds)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # or its client has just gone
                turn.set_result(None)
                return
        self.running -= 1

    def _wait(self) -> float:
        """Return the seconds after which there may be room."""
        return float(min(_LONGEST, math.ceil(self._seconds * (self.waiting + 1) / self._room)))
