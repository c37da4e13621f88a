"""Pace: the size of slices and the number of rows ahead, by the time that rows take."""

from collections.abc import Sequence
from typing import Final

_SLICE: Final = 2.0
"""Seconds of work in a slice, if its rows ran one after the other."""
_LARGEST: Final = 100
_FIRST: Final = 4
"""Rows of a slice while the time of rows is not known."""
_AHEAD: Final = 2.0
"""Seconds of work that waits in the queue for each slot of a worker."""
_LEAST: Final = 2
"""Rows that run or wait for each slot, at least."""
_WEIGHT: Final = 0.2
"""Weight of new rows in the mean time of a row."""


class Pace:
    """Learns the time of a row: short rows go in slices of up to 100, long ones alone."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def add(self, seconds: Sequence[float]) -> None:
        """Learn from rows that have ended."""
        if not seconds:
            return
        mean = sum(seconds) / len(seconds)
        old = self._seconds
        self._seconds = mean if old is None else old + _WEIGHT * (mean - old)

    def size(self, waiting: int, workers: int, *, last: bool) -> int:
        """Return the number of rows of the next slice, of so many that wait; the `last` rows go in small slices."""
        by_time = _FIRST if self._seconds is None else int(_SLICE / max(self._seconds, 0.001))
        size = min(_LARGEST, by_time)
        if last:
            size = min(size, waiting // max(1, 2 * workers))
        return max(1, size)

    def ahead(self, capacity: int) -> int:
        """Return the number of rows to have in the queue or running, for so many slots of workers."""
        seconds = 1.0 if self._seconds is None else max(self._seconds, 0.001)
        return capacity * max(_LEAST, min(_LARGEST, 1 + int(_AHEAD / seconds)))
