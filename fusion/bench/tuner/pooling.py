"""Pooling: the scores of ways, shrunk towards what the ways that share their models predict."""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion.bench.tuner.ways import Layout

Floats = NDArray[np.float64]
_RIDGE: Final = 1.0


class Held(NamedTuple):
    """Mean scores of the ways by fold: on the other folds, and on the fold itself."""

    others: Floats
    own: Floats


class Pooling:
    """An additive model of the scores of ways: one effect for each part that several ways share.

    Of thousands of ways the one with the best score on a few hundred items is the luckiest as well. Its score is
    therefore shrunk towards the prediction of the model (Efron and Morris, "Data analysis using Stein's estimator",
    JASA 70, 1975): `w` times its own score and 1 - `w` times the prediction. The effects are by ridge regression. `w`
    is that of the least squared error on folds that were held out.
    """

    def __init__(self, layout: Layout) -> None:
        columns: dict[Any, int] = {}
        rows = [
            [columns.setdefault(part, len(columns)) for part in _parts(*one, agree=layout.agree)]
            for one in layout.members
        ]
        self._effects = len(columns)
        widest = max((len(row) for row in rows), default=0)
        self._columns = np.array([row + [self._effects] * (widest - len(row)) for row in rows], int)

    def predicted(self, scores: Floats) -> Floats:
        """Return the prediction for each way. `scores` has a column for each measurement."""
        mean = scores.mean(0)
        effects = self._inverse @ self._summed(scores - mean)
        padded = np.vstack([effects, np.zeros((1, effects.shape[1]))])
        total: Floats = padded[self._columns].sum(1) + mean
        return total

    def weight(self, held: Held) -> float:
        """Return the weight of a way's own score, from 0 to 1: least squares over the folds."""
        predicted = self.predicted(held.others)
        own, seen = held.others - predicted, held.own - predicted
        square = float((own * own).sum())
        return min(1.0, max(0.0, float((own * seen).sum()) / square)) if square else 1.0

    def shrunk(self, scores: Floats, weight: float) -> Floats:
        """Return the scores, shrunk towards their predictions."""
        return weight * scores + (1 - weight) * self.predicted(scores)

    @cached_property
    def _inverse(self) -> Floats:
        """The inverse of the normal matrix of the ridge regression."""
        counts = np.zeros((self._effects + 1, self._effects + 1))
        for one in self._columns.T:
            for other in self._columns.T:
                np.add.at(counts, (one, other), 1.0)
        return np.asarray(np.linalg.inv(counts[:-1, :-1] + _RIDGE * np.eye(self._effects)), np.float64)

    def _summed(self, values: Floats) -> Floats:
        """Return the sum of the values of all ways that have an effect, effect by measurement."""
        sums = np.zeros((self._effects + 1, values.shape[1]))
        for columns in self._columns.T:
            for at, column in enumerate(values.T):
                sums[:, at] += np.bincount(columns, weights=column, minlength=self._effects + 1)
        return sums[:-1]


@lru_cache(maxsize=16)
def pooling(layout: Layout) -> Pooling:
    """Return the additive model of the ways of a layout."""
    return Pooling(layout)


def _parts(cheap: tuple[int, ...], last: int, *, agree: int) -> Iterator[tuple[Any, ...]]:
    """Yield the parts of a way that other ways share."""
    first, late = cheap[:agree], cheap[agree:]
    yield "last", last, len(cheap)
    if not cheap:
        return
    yield "first", first, len(cheap)
    yield from (("asked else", one, last) for one in first)
    for voter in late:
        yield "late", voter
        yield "asked else, late", voter, last
        yield from (("late for", one, voter) for one in first)
