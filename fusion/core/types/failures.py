"""Failures of many parts, with equal faults counted together."""

import re
from typing import Final

from fusion.core.types.items import Failure
from fusion.core.types.value import Value

_FIGURES: Final = re.compile(r"('[^']*')|\b(?=[a-z_-]*\d)[0-9a-z_-]{8,}\b|\d+(?:[.,]\d+)*", re.IGNORECASE)
_ATTEMPTS: Final = re.compile(r" \(after \d+ attempts?[^()]*\)")
_KINDS_AT_MOST: Final = 100
_KEYS_AT_MOST: Final = 3
_OTHER: Final = Failure(reason="Other", message="other failures, each of them different")


class FoldedFailure(Value):
    """Equal failures: the first one, their count, and the keys of the first parts that they failed."""

    failure: Failure
    count: int
    keys: tuple[str, ...]


class FailureFold:
    """Folds failures that differ only in figures and ids. Its size is bounded, however many come.

    >>> fold = FailureFold()
    >>> fold.add(Failure(reason="RateLimitError", message="try again in 1.9 s"), "row 1")
    >>> fold.add(Failure(reason="RateLimitError", message="try again in 0.4 s"), "row 2")
    >>> [(one.count, one.keys) for one in fold.folded]
    [(2, ('row 1', 'row 2'))]
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[Failure, list[str]]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, failure: Failure, key: str) -> None:
        """Count a failure of the part with this key."""
        kind = failure.reason, pattern(failure.message)
        if kind not in self._found and len(self._found) >= _KINDS_AT_MOST:
            failure, kind = _OTHER, (_OTHER.reason, "")
        _, keys = self._found.setdefault(kind, (failure, []))
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if len(keys) < _KEYS_AT_MOST:
            keys.append(key)

    @property
    def folded(self) -> tuple[FoldedFailure, ...]:
        """The failures, the most frequent first."""
        folded = (
            FoldedFailure(failure=failure, count=self._counts[kind], keys=tuple(keys))
            for kind, (failure, keys) in self._found.items()
        )
        return tuple(sorted(folded, key=lambda one: -one.count))


def pattern(text: str) -> str:
    """Return a text with its figures and ids made equal, those in quotes aside, to compare faults.

    The number of attempts makes no difference.

    >>> pattern("'gpt-5.6' (429): try again in 1.9 s, request 4f0a91bc2d")
    "'gpt-5.6' (#): try again in # s, request #"
    """
    return _FIGURES.sub(lambda found: found[1] or "#", _ATTEMPTS.sub("", text))
