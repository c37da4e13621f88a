"""SharedMeter: spaces units evenly in time over all processes of a store, by booked times."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from fusion.core.errors import StoreError
from fusion.core.log import LOG
from fusion.models.pace.meter import Meter

NEVER: Final = float("inf")
_LONGEST: Final = 1.0
"""Seconds that are booked at once for calls that wait, unless one admission takes longer."""
_SHORTEST: Final = 0.1
_LATENCIES: Final = 4
"""Latencies of the store that a booked time is worth at least."""
_SHARE: Final = 0.1
"""Share of the space between two units by which a unit may be late."""
_PAUSE: Final = 1.0
"""Seconds until a failed booking is tried again."""

Book = Callable[[float], float]
"""Books so many seconds of a shared rate; returns the seconds until they begin."""


class SharedMeter(Meter):
    """Admits `rate` units a second over all processes: units pass in times that `book` gives to this one alone.

    A booked time that has passed is lost, and what the latency of the store takes of it. `waiting` returns the number
    of calls that wait, `wake` is called when a booked time is known. While the store is out of reach, nothing passes.
    """

    __slots__ = ("_asked", "_book", "_debt", "_ends", "_latency", "_waiting", "_wake")

    def __init__(self, rate: float, book: Book, *, waiting: Callable[[], int], wake: Callable[[], None]) -> None:
        super().__init__(rate)
        self._book = book
        self._waiting = waiting
        self._wake = wake
        self._ends = 0.0
        self._debt = 0.0
        self._latency = 0.0
        self._asked = False

    def delay(self, now: float, units: float = 1.0) -> float:
        start = max(self.next, now)
        if start + units / self.rate <= self._ends + _SHARE / self.rate:
            return start - now
        if not self._asked:
            self._ask(units / self.rate)
        return NEVER

    def correct(self, units: float) -> None:
        super().correct(units)
        if self.next > self._ends:
            self._debt += self.next - self._ends
            self.next = self._ends

    def _ask(self, seconds: float) -> None:
        """Book time for the calls that wait, at least for the first one; what was taken too much goes before."""
        self._asked = True
        debt, self._debt = self._debt, 0.0
        least = max(_SHORTEST, _LATENCIES * self._latency, seconds * self._waiting())
        wanted = max(seconds, min(_LONGEST, least))
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, self._booked, loop.time, debt + wanted)
        answer.add_done_callback(partial(self._answered, loop, debt, wanted))

    def _booked(self, clock: Callable[[], float], seconds: float) -> tuple[float, float, float]:
        """Return the seconds until a booked time begins, and the times before and after the booking."""
        before = clock()
        return self._book(seconds), before, clock()

    def _answered(
        self,
        loop: asyncio.AbstractEventLoop,
        debt: float,
        wanted: float,
        answer: "asyncio.Future[tuple[float, float, float]]",
    ) -> None:
        self._asked = False
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            if not isinstance(error, StoreError):
                raise error
            LOG.warning("a shared rate waits for the store: %s", error)
            self._debt += debt
            loop.call_later(_PAUSE, self._wake)
            return
        delay, before, after = answer.result()
        self._latency = after - before
        self.next = after + delay + debt
        self._ends = before + delay + debt + wanted  # the clock of the store was read in between
        if wanted <= 1 / self.rate:
            self._ends = self.next + wanted  # for one unit, which may be late by the latency
        self._wake()
