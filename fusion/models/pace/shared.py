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
"""Seconds that are booked at once, unless one admission takes longer."""
_LATE: Final = 0.02
_SHARE: Final = 0.1
"""Share of the space between two units by which a unit may be late."""
_PAUSE: Final = 1.0
"""Seconds until a failed booking is tried again."""

Book = Callable[[float], float]
"""Books so many seconds of a shared rate; returns the seconds until they begin."""


class SharedMeter(Meter):
    """Admits `rate` units a second over all processes: units pass in times that `book` gives to this one alone.

    A booked time that has passed is lost. `waiting` returns the number of calls that wait, `wake` is called when a
    booked time is known. While the store cannot be reached, nothing is admitted.
    """

    __slots__ = ("_asked", "_book", "_debt", "_ends", "_waiting", "_wake")

    def __init__(self, rate: float, book: Book, *, waiting: Callable[[], int], wake: Callable[[], None]) -> None:
        super().__init__(rate)
        self._book = book
        self._waiting = waiting
        self._wake = wake
        self._ends = 0.0
        self._debt = 0.0
        self._asked = False

    def delay(self, now: float, units: float = 1.0) -> float:
        start = max(self.next, now)
        if start + units / self.rate <= self._ends + self._tolerance:
            return start - now
        if not self._asked:
            self._ask(units / self.rate)
        return NEVER

    def correct(self, units: float) -> None:
        super().correct(units)
        if self.next > self._ends:
            self._debt += self.next - self._ends
            self.next = self._ends

    @property
    def _tolerance(self) -> float:
        return max(_LATE, _SHARE / self.rate)

    def _ask(self, seconds: float) -> None:
        """Book time for the calls that wait, at least for the first one; what was taken too much goes before."""
        self._asked = True
        debt, self._debt = self._debt, 0.0
        wanted = max(seconds, min(_LONGEST, seconds * max(self._waiting(), 1)))
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, self._book, debt + wanted)
        answer.add_done_callback(partial(self._answered, loop, debt, wanted))

    def _answered(
        self, loop: asyncio.AbstractEventLoop, debt: float, wanted: float, answer: "asyncio.Future[float]"
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
        self.next = loop.time() + answer.result() + debt
        self._ends = self.next + wanted
        self._wake()
