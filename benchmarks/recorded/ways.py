"""Ways: sets of cheap models that must agree, with a strong model to escalate to; computed from single answers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fusion.bench.report.results import Results
from fusion.stages.text.extract import Extractor

EXTRACT = {
    "gsm8k": Extractor(read="number", path="answer"),
    "cruxeval": Extractor(read="code", path="answer"),
    "math_l5": Extractor(path="answer", normalise=("latex", "numbers", "case")),
}
"""The comparison of answers on each route of the pipelines."""


class Way(NamedTuple):
    """Cheap models of which two must agree, and the strong one. The third answers only if the first two differ.

    Without cheap models the strong one answers at once.
    """

    cheap: tuple[str, ...]
    strong: str


class Table(NamedTuple):
    """Scores and dollars of every way over some items, way by item."""

    ways: tuple[Way, ...]
    scores: np.ndarray
    costs: np.ndarray


class Answers:
    """The single models' answers to the items of one route: scores, dollars, and the compared values."""

    def __init__(self, results: Results, items: Sequence[str], route: str) -> None:
        self.models = [arm.name for arm in results.arms if arm.kind == "model"]
        rows = [[results.by_arm[model][item][0] for model in self.models] for item in items]
        self.scores = np.array([[one.score for one in row] for row in rows])
        self.costs = np.array([[float(one.cost or 0) for one in row] for row in rows])
        found = [[EXTRACT[route].extract(one.text) if one.failure is None else None for one in row] for row in rows]
        self._keys = [[None if one is None else one.key for one in row] for row in found]

    def undominated(self, among: np.ndarray) -> list[int]:
        """Return the models that no cheaper one beats on these items, cheapest first."""
        costs, scores = self.costs[among].sum(0), self.scores[among].sum(0)
        kept: list[int] = []
        for model in sorted(range(len(self.models)), key=lambda one: (costs[one], -scores[one])):
            if not kept or scores[model] > scores[kept[-1]]:
                kept.append(model)
        return kept

    def table(self, models: Sequence[int]) -> Table:
        """Return every way over these models."""
        rows = list(self._rows(models))
        return Table(
            tuple(row[0] for row in rows), np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        )

    def _rows(self, models: Sequence[int]) -> Iterator[tuple[Way, Any, Any]]:
        r, c, names = self.scores, self.costs, self.models
        same = {(a, b): self._same(a, b) for a in models for b in models if a != b}
        for strong in models:
            yield Way((), names[strong]), r[:, strong], c[:, strong]
            others = [one for one in models if one != strong]
            for a, b in combinations(others, 2):
                agree = same[a, b]
                costs = c[:, a] + c[:, b] + np.where(agree, 0, c[:, strong])
                yield Way((names[a], names[b]), names[strong]), np.where(agree, r[:, a], r[:, strong]), costs
                for third in others:
                    if third in (a, b):
                        continue
                    late = ~agree & (same[a, third] | same[b, third])
                    scores = np.where(same[a, third], r[:, a], r[:, b])
                    scores = np.where(agree, r[:, a], np.where(late, scores, r[:, strong]))
                    more = np.where(agree, 0, c[:, third]) + np.where(agree | late, 0, c[:, strong])
                    yield Way((names[a], names[b], names[third]), names[strong]), scores, c[:, a] + c[:, b] + more

    def _same(self, a: int, b: int) -> np.ndarray:
        return np.array([keys[a] is not None and keys[a] == keys[b] for keys in self._keys])


class _Step(NamedTuple):
    """Ways for some of the routes: the number of right answers, the cost, and their indexes in the tables."""

    right: float
    usd: float
    ways: tuple[int, ...]


def chosen(tables: Mapping[str, Table], draws: Mapping[str, np.ndarray], most: Sequence[float]) -> dict[str, Way]:
    """Return for each route the choice of most draws, since one draw also chooses by luck.

    `draws` is a matrix of the items of a route, draw by item. A draw chooses the most accurate combination that costs
    at most the given dollars on it.
    """
    totals = {route: (draws[route] @ table.scores.T, draws[route] @ table.costs.T) for route, table in tables.items()}
    votes: dict[str, Counter[int]] = {route: Counter() for route in tables}
    for draw, usd in enumerate(most):
        fronts = [list(_front(scores[draw], costs[draw])) for scores, costs in totals.values()]
        for route, way in zip(tables, _best(fronts, usd), strict=True):
            votes[route][way] += 1
    return {route: tables[route].ways[found.most_common(1)[0][0]] for route, found in votes.items()}


def _best(fronts: Iterable[Sequence[_Step]], most: float) -> tuple[int, ...]:
    """Return a way of each front: the most accurate combination within the given dollars."""
    steps = [_Step(0.0, 0.0, ())]
    for front in fronts:
        steps = _undominated(
            _Step(one.right + more.right, one.usd + more.usd, (*one.ways, *more.ways))
            for one in steps
            for more in front
            if one.usd + more.usd <= most
        )
    return steps[-1].ways


def _front(scores: np.ndarray, costs: np.ndarray) -> Iterator[_Step]:
    """Yield the ways that no other beats in both cost and accuracy, cheapest first."""
    order = np.lexsort((-scores, costs))
    best = np.maximum.accumulate(scores[order])
    for at in order[np.flatnonzero(np.diff(best, prepend=-1.0) > 0)]:
        yield _Step(float(scores[at]), float(costs[at]), (int(at),))


def _undominated(steps: Iterable[_Step]) -> list[_Step]:
    """Return the points that no other beats in both, cheapest first."""
    kept: list[_Step] = []
    for one in sorted(steps, key=lambda one: (one.usd, -one.right)):
        if not kept or one.right > kept[-1].right:
            kept.append(one)
    return kept
