"""Chooser: the cheapest ways that are as good as the best single model, by cross-validation on dev."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion.bench.report.summary import is_level
from fusion.bench.tuner.pooling import Held, pooling
from fusion.bench.tuner.space import Space, Way
from fusion.bench.tuner.ways import Answers, Table
from fusion.core.errors import UsageError

FOLDS: Final = 8
ROUNDS: Final = 4
"""Cross-validations with other folds each."""
RATES: Final = (0.0, *map(float, np.geomspace(0.003, 1.0, 48)))
"""Prices of a right answer: the loss of accuracy that saves the whole cost of the best single model."""
_NEAR: Final = 2
"""Rates on each side whose held-out figures are averaged: one rate alone wins by luck."""

_TINY: Final = 1e-12

Floats = NDArray[np.float64]


class Single(NamedTuple):
    """A single model over all routes: its share of right answers, and its dollars an item."""

    model: str
    accuracy: float
    usd: float


class Chosen(NamedTuple):
    """The chosen way of each route, with the evidence of the cross-validation.

    `scores` and `usd` are those of held-out items by route, means over the rounds; `reference` those of the best
    single model. `level` are the single models within half a point of it, the most accurate first. `rate` is the
    trade-off: the loss of accuracy at which the whole cost of the best single model would be saved. It is None if no
    rate reached the wanted difference: the best single model itself is chosen. `considered` is the number of ways.
    """

    ways: dict[str, Way]
    rate: float | None
    scores: dict[str, Floats]
    usd: dict[str, Floats]
    level: tuple[Single, ...]
    reference: dict[str, tuple[Floats, Floats]]
    considered: int

    @property
    def difference(self) -> float:
        """The cross-validated difference to the best single model, a share."""
        ours, theirs = (np.concatenate(list(part)) for part in (self.scores.values(), self._reference(0)))
        return float((ours - theirs).mean())

    @property
    def cost_ratio(self) -> float:
        """The cross-validated cost, relative to the best single model; 0 if that costs nothing."""
        ours, theirs = (sum(float(one.sum()) for one in part) for part in (self.usd.values(), self._reference(1)))
        return ours / theirs if theirs else 0.0

    def _reference(self, part: int) -> Iterator[Floats]:
        return (one[part] for one in self.reference.values())


def choose(
    answers: Mapping[str, Answers],
    spaces: Mapping[str, Space],
    *,
    clusters: Mapping[str, Sequence[str]] | None = None,
    at_least: float = 0.0,
    seed: int = 0,
) -> Chosen:
    """Choose a way for each route: the cheapest whose cross-validated difference is at least `at_least`.

    All routes share a rate: the loss of accuracy for which a dollar may be saved. On each route the way with the
    largest shrunken score, less its cost at that rate, is taken (see `Pooling`). A rate is judged by the items of
    folds that did not choose: the cheapest rate wins whose difference to the best single model on dev is at least
    `at_least`, a share. `clusters` names for each item its document, which is never in two folds.

    Raises UsageError if no model has answers on every route, or for too many ways.
    """
    singles, draw = _singles(answers), np.random.default_rng(seed)
    best = singles[0]
    tables = {route: _Route(own, spaces[route], (clusters or {}).get(route), draw) for route, own in answers.items()}
    trial = _Trial(tables, best.usd)
    rate = trial.cheapest(best.accuracy + at_least)
    level = tuple(one for one in singles if is_level(one.accuracy, best.accuracy))
    ways = {
        route: Way((), best.model) if rate is None else one.table.way(one.best(rate / (best.usd or 1.0)))
        for route, one in tables.items()
    }
    reference = {route: _alone(own, best.model) for route, own in answers.items()}
    scores, usd = ({route: own[part] for route, own in reference.items()} for part in (0, 1))
    if rate is not None:
        scores, usd = trial.held_out(rate)
    return Chosen(ways, rate, scores, usd, level, reference, sum(len(one.table) for one in tables.values()))


def _singles(answers: Mapping[str, Answers]) -> list[Single]:
    """Return the models that are known on every route, the most accurate first, the cheapest of equals."""
    known = [set(own.models) for own in answers.values()]
    shared = [model for own in answers.values() for model in own.models if all(model in one for one in known)]
    if not shared:
        raise UsageError("no model has answers on every task set, so there is no single model to compare with")
    items = sum(len(own) for own in answers.values())
    found = []
    for model in dict.fromkeys(shared):
        scores, usd = zip(*(_alone(own, model) for own in answers.values()), strict=True)
        right, paid = (sum(float(one.sum()) for one in part) for part in (scores, usd))
        found.append(Single(model, right / items, paid / items))
    return sorted(found, key=lambda one: (-one.accuracy, one.usd, one.model))


def _alone(answers: Answers, model: str) -> tuple[Floats, Floats]:
    at = answers.models.index(model)
    return answers.scores[:, at], answers.usd[:, at]


class _Route:
    """The ways of one route: measured without each fold of each round, and on the fold itself.

    `scores` are shrunken means, `usd` means on the other folds; `own` holds the sums on the folds. All are way by
    round by fold.
    """

    def __init__(
        self, answers: Answers, space: Space, clusters: Sequence[str] | None, draw: np.random.Generator
    ) -> None:
        self.items = len(answers)
        self.table = Table(answers, space)
        self._pooling = pooling(self.table.layout)
        self.folds = _folds(clusters or range(self.items), draw)
        self.own = self.table.totals(self.folds, FOLDS)
        self._measure()

    def _measure(self) -> None:
        sizes = np.array([np.bincount(one, minlength=FOLDS) for one in self.folds])
        right, paid = self.own
        others = (right.sum(2, keepdims=True) - right) / np.maximum(self.items - sizes, 1)
        filled = sizes > 0  # a fold without items adds nothing, whatever is chosen for it
        held = Held(others[:, filled], (right / np.maximum(sizes, 1))[:, filled])
        self.scores = others
        self._fit, self.scores[:, filled] = self._pooling.fitted(held)
        self.usd = (paid.sum(2, keepdims=True) - paid) / np.maximum(self.items - sizes, 1)

    def best(self, price: float) -> int:
        """Return the way to take: the largest shrunken score less its cost, at a price in accuracy for a dollar."""
        scores, usd = (one[:, 0].sum(1) / max(self.items, 1) for one in self.own)
        return int(np.argmax(self._pooling.shrunk(scores[:, None], self._fit)[:, 0] - price * usd))


def _folds(clusters: Sequence[Any], draw: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each item, round by item; a cluster is never in two folds of a round."""
    numbers = np.unique(np.array(clusters), return_inverse=True)[1]
    dealt = np.tile(np.arange(numbers.max(initial=0) + 1) % FOLDS, (ROUNDS, 1))
    return draw.permuted(dealt, axis=1)[:, numbers]


class _Trial:
    """Cross-validation of all rates."""

    def __init__(self, routes: Mapping[str, _Route], unit: float) -> None:
        self._routes = routes
        self._prices = np.array(RATES) / (unit or 1.0)
        self._items = sum(one.items for one in routes.values())
        self._taken: dict[str, NDArray[np.int64]] = {}
        """By route the taken way, by round, fold and rate."""
        self.scores, self.usd = np.zeros(len(RATES)), np.zeros(len(RATES))
        for route, one in routes.items():
            self._judge(route, one)

    def _judge(self, route: str, one: _Route) -> None:
        taken = np.zeros((ROUNDS, FOLDS, len(RATES)), int)
        for at, price in enumerate(self._prices):
            ways = taken[:, :, at] = (one.scores - price * one.usd).argmax(0)
            for sums, own in ((self.scores, one.own.scores), (self.usd, one.own.usd)):
                sums[at] += np.take_along_axis(own, ways[None], 0).sum() / ROUNDS
        self._taken[route] = taken

    def cheapest(self, wanted: float) -> float | None:
        """Return the rate of the least cost with a held-out share of right answers of at least `wanted`.

        Both are averages over the rates near it.
        """
        scores, usd = (
            np.array([one[_near(at)].mean() for at in range(len(RATES))]) for one in (self.scores, self.usd)
        )
        fit = [at for at, score in enumerate(scores) if score / self._items >= wanted - _TINY]
        return RATES[min(fit, key=lambda at: (usd[at], -at))] if fit else None

    def held_out(self, rate: float) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Return scores and dollars of the held-out items at the rates near one, means over them and the rounds."""
        near = _near(RATES.index(rate))
        found = {route: self._held_out(route, near) for route in self._routes}
        return {route: one[0] for route, one in found.items()}, {route: one[1] for route, one in found.items()}

    def _held_out(self, route: str, rates: Sequence[int]) -> tuple[Floats, Floats]:
        one, taken = self._routes[route], self._taken[route]
        scores, usd = np.zeros(one.items), np.zeros(one.items)
        outcomes = {way: one.table.outcome(way) for way in np.unique(taken[:, :, rates]).tolist()}
        for round_, fold, at in itertools.product(range(ROUNDS), range(FOLDS), rates):
            right, paid = outcomes[int(taken[round_, fold, at])]
            its = one.folds[round_] == fold
            scores += np.where(its, right, 0.0)
            usd += np.where(its, paid, 0.0)
        return scores / (ROUNDS * len(rates)), usd / (ROUNDS * len(rates))


def _near(at: int) -> list[int]:
    """Return the indexes of the rates near one; the last of them counts again beyond the ends."""
    return [min(max(near, 0), len(RATES) - 1) for near in range(at - _NEAR, at + _NEAR + 1)]
