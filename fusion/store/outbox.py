"""Withheld: the events of a run that tell of what is not on disk yet; who listens hears of them once it is."""

import asyncio
from collections import deque

from fusion.core.events import CallFinished, EventBase, Sink


class Withheld:
    """A sink that hands events on in their order: from a call that is finished on, not before `hand_on`.

    One that was finished by an earlier session is on disk already. `count` is how many were withheld until now.
    """

    def __init__(self) -> None:
        self.sink: Sink = lambda event: None
        self.count = 0
        self._events: deque[EventBase] = deque()
        self._came = asyncio.Event()

    def __call__(self, event: EventBase) -> None:
        if self._events or (isinstance(event, CallFinished) and event.reused != "journal"):
            self._events.append(event)
            self.count += 1
            self._came.set()
        else:
            self.sink(event)

    def hand_on(self, count: int) -> None:
        """Hand the first so many on, all those that are not yet; then raise the first fault that one of them met."""
        fault: Exception | None = None
        while self._events and self.count - len(self._events) < count:
            try:
                self.sink(self._events.popleft())
            except Exception as error:  # noqa: BLE001 - of who listens, and no reason to keep from it what comes next
                fault = fault or error
        if fault is not None:
            raise fault

    async def any(self) -> None:
        """Wait until there are some that were not waited for before."""
        await self._came.wait()
        self._came.clear()
