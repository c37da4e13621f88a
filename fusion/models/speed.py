"""Speed of models: latencies measured in this process, and the pace expected before any measurement."""

from collections import deque
from typing import Final, NamedTuple

from fusion.core.statistics import quantile
from fusion.models.base import ModelInfo

_KEPT: Final = 100
_ENOUGH: Final = 5


class Latencies:
    """Latencies of the last replies of each model, in seconds, shared by all runs of one Fusion.

    >>> latencies = Latencies()
    >>> for seconds in (1, 2, 3, 4, 50): latencies.add("m", seconds)
    >>> latencies.quantile("m")
    3
    """

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}

    def add(self, model: str, seconds: float) -> None:
        """Record the latency of a reply."""
        self._seconds.setdefault(model, deque(maxlen=_KEPT)).append(seconds)

    def quantile(self, model: str, share: float = 0.5) -> float | None:
        """Return the latency that this share of the last replies did not exceed; None for fewer than five."""
        known = self._seconds.get(model, ())
        return quantile(known, share) if len(known) >= _ENOUGH else None


class Pace(NamedTuple):
    """Seconds until a model starts on a call, and the tokens it then reads and writes per second."""

    first: float
    read: float
    write: float

    def seconds(self, taken: int, given: int) -> float:
        """Return the duration of a call with so many tokens of input and output."""
        return self.first + taken / self.read + given / self.write


_HOSTED: Final = Pace(first=0.7, read=5000, write=60)
"""A typical hosted model of 2026."""
_EMBEDDED: Final = {
    "local/tiny": Pace(first=0.05, read=300, write=120),
    "local/small": Pace(first=0.05, read=98, write=41),
    "local/strong": Pace(first=0.05, read=43, write=17),
}
"""The embedded models, measured on 2 threads."""


def pace_of(info: ModelInfo) -> Pace:
    """Return the expected pace of a model; for a GGUF file of the user, that of `local/strong`."""
    return _EMBEDDED.get(info.id, _EMBEDDED["local/strong"] if info.local else _HOSTED)
