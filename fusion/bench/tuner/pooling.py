"""Pooling: the scores of ways, shrunk towards what the ways that share their models predict."""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion.bench.tuner.ways import Layout

Floats = NDArray[np.float64]
_PENALTIES: Final = (1.0, 10.0, 30.0, 100.0, 300.0)


class Held(NamedTuple):
    """Mean scores of the ways by fold: on the other folds, and on the fold itself."""

    others: Floats
    own: Floats


class Fit(NamedTuple):
    """The ridge penalty of the effects, and the weight of a way's own score, from 0 to 1."""

    penalty: float
    weight: float


class Pooling:
    """An additive model of the scores of ways: one effect for each part that several ways share.

    Of thousands of ways the one with the best score on a few hundred items is the luckiest as well. Its score is
    therefore shrunk towards the prediction of the model (Efron and Morris, "Data analysis using Stein's estimator",
    JASA 70, 1975): `weight` times its own score and 1 - `weight` times the prediction. The effects are by ridge
    regression (Hoerl and Kennard, Technometrics 12, 1970). Penalty and weight are those of the least squared error
    on folds that were held out.
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

    def fitted(self, held: Held) -> tuple[Fit, Floats]:
        """Return the fit that predicts the held-out folds best, and the scores on the other folds shrunk by it."""
        rotated, mean = self._rotated(held.others), held.others.mean(0)
        found = []
        for penalty in _PENALTIES:
            predicted = self._predicted(rotated, mean, penalty)
            own, seen = held.others - predicted, held.own - predicted
            square = float((own * own).sum())
            weight = min(1.0, max(0.0, float((own * seen).sum()) / square)) if square else 1.0
            found.append((float(((seen - weight * own) ** 2).sum()), Fit(penalty, weight), predicted))
        _, fit, predicted = min(found, key=lambda one: one[:2])
        return fit, _mixed(held.others, predicted, fit)

    def shrunk(self, scores: Floats, fit: Fit) -> Floats:
        """Return the scores, shrunk towards their predictions. `scores` has a column for each measurement."""
        return _mixed(scores, self._predicted(self._rotated(scores), scores.mean(0), fit.penalty), fit)

    def _rotated(self, scores: Floats) -> Floats:
        """Return the sums by effect in the axes of the normal matrix, in which it is diagonal."""
        rotated: Floats = self._axes[1].T @ self._summed(scores - scores.mean(0))
        return rotated

    def _predicted(self, rotated: Floats, mean: Floats, penalty: float) -> Floats:
        lengths, axes = self._axes
        effects = axes @ (rotated / (lengths + penalty)[:, None])
        padded = np.vstack([effects, np.zeros((1, effects.shape[1]))])
        total: Floats = padded[self._columns].sum(1) + mean
        return total

    @cached_property
    def _axes(self) -> tuple[Floats, Floats]:
        """The eigenvalues and eigenvectors of the normal matrix: the number of ways with each pair of effects."""
        counts = np.zeros((self._effects + 1, self._effects + 1))
        for one in self._columns.T:
            for other in self._columns.T:
                np.add.at(counts, (one, other), 1.0)
        lengths, axes = np.linalg.eigh(counts[:-1, :-1])
        return lengths, axes

    def _summed(self, values: Floats) -> Floats:
        """Return the sum of the values of all ways that have an effect, effect by measurement."""
        sums = np.zeros((self._effects + 1, values.shape[1]))
        for columns in self._columns.T:
            for at, column in enumerate(values.T):
                sums[:, at] += np.bincount(columns, weights=column, minlength=self._effects + 1)
        return sums[:-1]


def _mixed(scores: Floats, predicted: Floats, fit: Fit) -> Floats:
    return fit.weight * scores + (1 - fit.weight) * predicted


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
