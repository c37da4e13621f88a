"""How long a model takes for a call that nobody has made: by what it took lately, else by its kind."""

from typing import Final, NamedTuple

from fusion.models.base import ModelInfo


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
