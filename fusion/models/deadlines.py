"""Deadlines: bounds the time of many attempts with one timer."""

import asyncio


class Deadlines:
    """The deadlines of all that may take `seconds`, each from the moment it begins.

    Nearly all end long before, so there is one timer for all of them: it fires at the first deadline, and is then set
    to that of the oldest one still open. An `asyncio.timeout(None)` is watched; it ends its block as ever.

    >>> async with asyncio.timeout(None) as clock:
    ...     deadlines.begin(clock)
    ...     try:
    ...         await work()
    ...     finally:
    ...         deadlines.end(clock)
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, clock: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._open[clock] = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_at(deadline, self._look)

    def end(self, clock: asyncio.Timeout) -> None:
        self._open.pop(clock, None)

    def _look(self) -> None:
        """End those whose time is over, and wait for the next."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for clock, deadline in list(self._open.items()):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._look)
                return
            del self._open[clock]
            clock.reschedule(now)
