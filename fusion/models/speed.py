"""How long each model took for its last calls: what patience with it is learned from."""

from collections import deque
from typing import Final, NamedTuple

from fusion.models.base import ModelInfo

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


class Pace(NamedTuple):
    """Seconds until a call begins to be worked on, and the tokens that are read and written in a second."""

    first: float
    read: float
    write: float

    def seconds(self, taken: int, given: int) -> float:
        """What a call of so many tokens in and out takes."""
        return self.first + taken / self.read + given / self.write


_ELSEWHERE: Final = Pace(first=0.7, read=5000, write=60)
"""A hosted model, where nothing else is known: what most of them do in 2026."""
_HERE: Final = {
    "local/tiny": Pace(first=0.05, read=300, write=120),
    "local/small": Pace(first=0.05, read=98, write=41),
    "local/strong": Pace(first=0.05, read=43, write=17),
}
"""The embedded models, as they were measured on 2 threads."""


def pace_of(info: ModelInfo) -> Pace:
    """The pace that is expected of a model; of a model file of the user's own that of the larger embedded one."""
    return _HERE.get(info.id, _HERE["local/strong"] if info.local else _ELSEWHERE)
