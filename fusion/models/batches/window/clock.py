"""RunClock: the time of a run, without the time in which calls of it wait for their batches."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager


class RunClock:
    """Seconds of a run; the clock stands still while a call is in a batch. One event loop uses it.

    `on_pause` is called with the seconds of each pause once it ends.
    """

    def __init__(self, on_pause: Callable[[float], None] = lambda seconds: None) -> None:
        self._on_pause = on_pause
        self._time = _time_of_loop()
        self._lost = 0.0
        self._waiting = 0
        self._since = 0.0
        self._limits: set[Limit] = set()

    def __call__(self) -> float:
        """Return the time now, comparable only with other times of this clock."""
        return (self._since if self._waiting else self._time()) - self._lost

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during a block; it goes on once no block is left."""
        if not self._waiting:
            self._since = self._time()
            for limit in self._limits:
                limit.stop()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._go_on(self._time() - self._since)

    def _go_on(self, seconds: float) -> None:
        self._lost += seconds
        for limit in self._limits:
            limit.go_on()
        self._on_pause(seconds)

    @asynccontextmanager
    async def limit(self, seconds: float | None = None) -> "AsyncIterator[Limit]":
        """Raise TimeoutError in a block after so many seconds of this clock; without seconds, once it is set."""
        async with asyncio.timeout(None) as timeout:
            limit = Limit(self, timeout)
            self._limits.add(limit)
            try:
                limit.set(seconds)
                yield limit
            finally:
                self._limits.discard(limit)

    @property
    def stands(self) -> bool:
        """True while a call waits for its batch."""
        return self._waiting > 0


def _time_of_loop() -> Callable[[], float]:
    """Return the time of the running event loop, which may be virtual, as that of a simulated run is."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return time.monotonic


class Limit:
    """The time limit of one block, by a RunClock."""

    def __init__(self, clock: RunClock, timeout: asyncio.Timeout) -> None:
        self._clock = clock
        self._timeout = timeout
        self._until: float | None = None

    def set(self, seconds: float | None) -> None:
        """End the block after so many seconds from now; with None, never."""
        self._until = None if seconds is None else self._clock() + seconds
        if not self._clock.stands:
            self.go_on()

    def stop(self) -> None:
        """Stop counting."""
        if not self._timeout.expired():
            self._timeout.reschedule(None)

    def go_on(self) -> None:
        """Count again."""
        if not self._timeout.expired():
            left = None if self._until is None else self._until - self._clock()
            self._timeout.reschedule(None if left is None else asyncio.get_running_loop().time() + left)
