"""How long each model took for its last calls: what patience with it is learned from."""

from collections import deque
from typing import Final

_KEPT: Final = 100
_ENOUGH: Final = 5


class Latencies:
    """Seconds of the last answers of each model, by its id. All runs of one Fusion share one record.

    >>> latencies = Latencies()
    >>> for seconds in (1, 2, 3, 4, 50): latencies.add("m", seconds)
    >>> latencies.quantile("m")
    3
    """

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}

    def add(self, model: str, seconds: float) -> None:
        self._seconds.setdefault(model, deque(maxlen=_KEPT)).append(seconds)

    def quantile(self, model: str, share: float = 0.5) -> float | None:
        """The time within which this share of the last answers came; None while there are too few to say."""
        known = sorted(self._seconds.get(model, ()))
        return known[min(int(share * len(known)), len(known) - 1)] if len(known) >= _ENOUGH else None
