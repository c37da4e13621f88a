"""Columns: scores and costs of a benchmark by item, and the figures and comparisons made from them."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, variance
from typing import Any, Final

from fusion.bench.report.figures import Disagreement, Figures, Gap, Mixing, Pairing, ReviewFigures
from fusion.bench.report.frontier import PerItem, Point, cost_at_quality, known_points, mixed, oracle, share_at_cost
from fusion.bench.report.results import ArmRecord, Outcome, Results
from fusion.bench.report.reviews import review_figures
from fusion.bench.report.sample_size import Settling, settling
from fusion.bench.report.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mixing,
    bootstrap_rate,
    bootstrap_ratio,
    holm,
    mcnemar,
    sign_flip,
    verdict,
    wilson,
)
from fusion.core.result import Times
from fusion.core.statistics import quantile

_GAP_LEVEL: Final = 0.99
ORACLE: Final = "oracle router"
MIXING: Final = "random mixing"
_SIDES: Final = ("dev", "test")


class Columns:
    """Results as columns: for each arm, one score and one cost an item, in the order of the items."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._clusters = [item.cluster or item.id for item in results.items]
        self._clustered = len(set(self._clusters)) < len(self._clusters)
        self._outcomes: dict[str, list[list[Outcome]]] = {
            arm.name: [results.by_arm[arm.name].get(item.id, []) for item in results.items] for arm in results.arms
        }
        self._scores = {
            name: [sum(one.score for one in rows) / max(len(rows), results.epochs) for rows in column]
            for name, column in self._outcomes.items()
        }
        self._costs = {name: _costs(column) for name, column in self._outcomes.items()}
        self._compared = {arm.name for arm in results.arms if not arm.of}
        """The arms that are compared with others than the one that they are made of."""

    def figures(self, arm: ArmRecord) -> Figures:
        column = self._outcomes[arm.name]
        outcomes = [one for rows in column for one in rows]
        costs = self._costs[arm.name]
        escalated = [one.escalated for one in outcomes if one.escalated is not None]
        delegated = [one.delegated for one in outcomes if one.delegated is not None]
        timed = [one for one in outcomes if one.timed]
        missing = sum(max(0, self._results.epochs - len(rows)) for rows in column)
        sets = self._sets()
        return Figures(
            arm=arm.name,
            kind=arm.kind,
            n=len(column),
            accuracy=self._rate(self._scores[arm.name]),
            cost=sum(costs) if costs is not None else None,
            unknown_costs=sum(one.cost is None for one in outcomes),
            failed=sum(one.failure is not None for one in outcomes) + missing,
            cut=sum(one.cut > 0 for one in outcomes),
            tokens=sum(one.usage.total for one in outcomes),
            calls=sum(one.calls for one in outcomes),
            escalated=fmean(escalated) if escalated else None,
            delegated=fmean(delegated) if delegated else None,
            latency=_latency([one.latency for one in timed]),
            times=_mean_times([one.times for one in timed if one.times is not None]),
            by_set={name: fmean([self._scores[arm.name][i] for i in rows]) for name, rows in sets.items()},
        )

    def pairings(self, best: str, figures: Sequence[Figures]) -> tuple[Pairing, ...]:
        singles = points([one for one in figures if one.kind == "model"])
        quality = {one.arm: one.accuracy.estimate for one in figures}
        return tuple(
            one.model_copy(update={"equal_quality_cost": cost_at_quality(singles, quality[one.arm])})
            for one in _adjusted(
                [self._pairing(one.arm, best) for one in figures if one.arm in self._compared - {best}]
            )
        )

    def by_set(self, best: str) -> tuple[tuple[str, Pairing], ...]:
        """Compare every arm with the best single model on each task set, if there are several."""
        sets = self._sets()
        return tuple(
            (name, one)
            for name, rows in sets.items()
            if len(sets) > 1
            for one in _adjusted(
                [self._pairing(arm, best, rows) for arm in self._scores if arm in self._compared - {best}]
            )
        )

    def at_equal_dollars(self) -> tuple[Pairing, ...]:
        """Compare every arm that is neither a single model nor a baseline with the measured baselines."""
        kinds = {arm.name: arm.kind for arm in self._results.arms}
        return _adjusted(
            [
                self._pairing(arm, other)
                for other in kinds
                for arm in kinds
                if other in self._compared and kinds[other] == "baseline" and kinds[arm] not in ("model", "baseline")
            ]
        )

    def baselines(self, mixings: Sequence[Mixing]) -> tuple[Figures, ...]:
        """Return the oracle over the single models, and each random mixing of two of them."""
        singles = self._singles()
        found = []
        if "oracle" in self._results.baselines and len(singles) > 1:
            found.append(self._baseline(ORACLE, oracle(singles)))
        for one in mixings:
            if 0 < one.share < 1:
                label = f"{MIXING} at the cost of {one.arm} ({one.share:.0%} to {one.strong}, else {one.cheap})"
                found.append(self._baseline(label, mixed(singles[one.cheap], singles[one.strong], one.share)))
        return tuple(found)

    def mixings(self) -> tuple[Mixing, ...]:
        """Compare every arm but single models and baselines with random mixing at the arm's cost."""
        singles = self._singles()
        if "random_mixing" not in self._results.baselines or len(singles) < 2:
            return ()
        strong = max(singles, key=lambda name: (sum(singles[name].scores), -sum(singles[name].costs)))
        if all(sum(singles[strong].costs) <= sum(one.costs) for one in singles.values()):
            return ()
        found = []
        for arm in self._results.arms:
            costs = self._costs[arm.name]
            if arm.kind not in ("model", "baseline") and costs is not None:
                cheap = self._cheap(arm, singles, strong, sum(costs))
                found.append(self._mixing(arm.name, cheap, strong, singles))
        adjusted = _adjusted([one.pairing for one in found])
        return tuple(one.model_copy(update={"pairing": pair}) for one, pair in zip(found, adjusted, strict=True))

    def settling(self, arm: str, other: str) -> Settling:
        """Return the number of items that would settle the comparison of two arms."""
        return settling(self._scores[arm], self._scores[other], self._results.margin, clusters=self._clusters)

    def _singles(self) -> dict[str, PerItem]:
        """Return the single models of known cost."""
        models = {arm.name for arm in self._results.arms if arm.kind == "model"}
        return {
            name: PerItem(scores=tuple(self._scores[name]), costs=tuple(costs))
            for name, costs in self._costs.items()
            if name in models and costs is not None
        }

    def _cheap(self, arm: ArmRecord, singles: Mapping[str, PerItem], strong: str, most: float) -> str:
        """Return the best of the arm's models below the strongest single and the arm in cost; else the cheapest."""
        total = {name: sum(one.costs) for name, one in singles.items()}
        own = [
            one.name
            for one in self._results.arms
            if one.name in singles and set(one.models) & set(arm.models)
            if total[one.name] < total[strong] and total[one.name] <= most
        ]
        if not own:
            return min(total, key=lambda name: total[name])
        return max(own, key=lambda name: (sum(singles[name].scores), -total[name]))

    def _mixing(self, arm: str, cheap: str, strong: str, singles: Mapping[str, PerItem]) -> Mixing:
        costs = self._costs[arm]
        assert costs is not None
        own = PerItem(scores=tuple(self._scores[arm]), costs=tuple(costs))
        low, high = singles[cheap], singles[strong]
        share = share_at_cost(low, high, sum(costs))
        mixture = mixed(low, high, share)
        rows = range(len(self._clusters))
        difference = bootstrap_mixing(
            *((one.scores, one.costs) for one in (own, low, high)), **self._resampling(rows)
        )
        p = sign_flip(own.scores, mixture.scores, **self._resampling(rows))
        pairing = Pairing(
            arm=arm,
            against=MIXING,
            difference=difference,
            cost_ratio=_flat(sum(costs) / sum(mixture.costs)),
            only_arm=sum(one > other for one, other in zip(own.scores, mixture.scores, strict=True)),
            only_other=sum(one < other for one, other in zip(own.scores, mixture.scores, strict=True)),
            p=p,
            adjusted=p,
            test="sign flips",
            verdict=verdict(difference, self._results.margin),
            equal_quality_cost=None,
        )
        return Mixing(arm=arm, cheap=cheap, strong=strong, share=share, pairing=pairing)

    def reviews(self) -> tuple[ReviewFigures, ...]:
        """Return the figures of every stage that reviews."""
        columns = {
            name: None if costs is None else PerItem(scores=tuple(self._scores[name]), costs=tuple(costs))
            for name, costs in self._costs.items()
        }
        resampling = self._resampling(range(len(self._clusters)))

        def against(arm: str, other: PerItem) -> Interval:
            return bootstrap_difference(self._scores[arm], other.scores, **resampling)

        return review_figures(self._results, columns, self._pairing, against)

    def gaps(self) -> tuple[Gap, ...]:
        sides = {side: [i for i, item in enumerate(self._results.items) if item.side == side] for side in _SIDES}
        if any(len(rows) < 2 for rows in sides.values()):
            return ()
        found = []
        for arm, scores in self._scores.items():
            others = [column for name, column in self._scores.items() if name != arm]
            usual = [fmean(row) for row in zip(*others, strict=True)] if others else [0.0] * len(scores)
            beyond = [one - other for one, other in zip(scores, usual, strict=True)]
            dev, test = ([beyond[i] for i in sides[side]] for side in _SIDES)
            excess = _welch(dev, test)
            means = [fmean([scores[i] for i in sides[side]]) for side in _SIDES]
            found.append(Gap(arm=arm, dev=means[0], test=means[1], excess=excess, flagged=excess.low > 0))
        return tuple(found)

    def disagreements(self) -> tuple[Disagreement, ...]:
        rows = zip(self._results.items, *self._scores.values(), strict=True)
        return tuple(
            Disagreement(item=item.id, task_set=item.task_set, scores=dict(zip(self._scores, scores, strict=True)))
            for item, *scores in rows
            if len(set(scores)) > 1
        )

    def _sets(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, item in enumerate(self._results.items):
            found.setdefault(item.task_set, []).append(index)
        return found

    def _rate(self, scores: Sequence[float]) -> Interval:
        if not self._clustered and _binary(scores):
            return wilson(round(sum(scores)), len(scores))
        return bootstrap_rate(scores, **self._resampling(range(len(scores))))

    def _baseline(self, name: str, arm: PerItem) -> Figures:
        cost, _ = arm.point
        return Figures(arm=name, kind="baseline", n=len(arm.scores), accuracy=self._rate(arm.scores), cost=cost)

    def _pairing(self, arm: str, other: str, rows: Sequence[int] | None = None) -> Pairing:
        rows = range(len(self._clusters)) if rows is None else rows
        one, two = ([self._scores[name][i] for i in rows] for name in (arm, other))
        resampling = self._resampling(rows)
        difference = bootstrap_difference(one, two, **resampling)
        ahead, behind = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((one, two), (two, one)))
        if _binary(one) and _binary(two) and len(set(resampling["clusters"])) == len(rows):
            test, p = "exact McNemar", mcnemar(ahead, behind)
        else:
            test, p = "sign flips", sign_flip(one, two, **resampling)
        return Pairing(
            arm=arm,
            against=other,
            difference=difference,
            cost_ratio=self._ratio(arm, other, rows),
            only_arm=ahead,
            only_other=behind,
            p=p,
            adjusted=p,
            test=test,
            verdict=verdict(difference, self._results.margin),
            equal_quality_cost=None,
        )

    def _ratio(self, arm: str, other: str, rows: Sequence[int]) -> Interval | None:
        ours, theirs = self._costs[arm], self._costs[other]
        if ours is None or theirs is None:
            return None
        try:
            return bootstrap_ratio([ours[i] for i in rows], [theirs[i] for i in rows], **self._resampling(rows))
        except ValueError:  # a cluster without cost
            return None

    def _resampling(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the clusters of these items, the number of resamples and the seed."""
        clusters = [self._clusters[i] for i in rows]
        return {"clusters": clusters, "resamples": self._results.resamples, "seed": self._results.seeds[0]}


def points(figures: Sequence[Figures]) -> list[Point]:
    """Return the points of arms with a known cost."""
    return known_points((one.arm, one.cost, one.accuracy.estimate) for one in figures)


def _flat(value: float) -> Interval:
    return Interval(estimate=value, low=value, high=value)


def _adjusted(pairings: Sequence[Pairing]) -> tuple[Pairing, ...]:
    """Return the pairings with p-values adjusted for their number."""
    p = holm({f"{one.arm}\0{one.against}": one.p for one in pairings})
    return tuple(one.model_copy(update={"adjusted": p[f"{one.arm}\0{one.against}"]}) for one in pairings)


def _costs(column: Sequence[Sequence[Outcome]]) -> list[float] | None:
    """Return the mean cost of each item over its epochs; None if one is unknown or there are none."""
    found: list[float] = []
    for rows in column:
        costs = [one.cost for one in rows]
        if any(cost is None for cost in costs):
            return None
        found.append(float(sum(cost for cost in costs if cost is not None)) / max(1, len(costs)))
    return found if any(column) else None


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _latency(seconds: Sequence[float]) -> tuple[float, float, float] | None:
    if not seconds:
        return None
    return quantile(seconds, 0.5), quantile(seconds, 0.9), quantile(seconds, 0.95)


def _mean_times(times: Sequence[Times]) -> Times | None:
    if not times:
        return None
    return Times(**{name: fmean(getattr(one, name) for one in times) for name in Times.model_fields})


def _welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the difference of the means of two samples. Welch 1947, doi:10.2307/2332510, with normal bounds."""
    estimate = fmean(first) - fmean(second)
    half = NormalDist().inv_cdf((1 + _GAP_LEVEL) / 2) * math.sqrt(
        variance(first) / len(first) + variance(second) / len(second)
    )
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, level=_GAP_LEVEL)
