"""Analysis: the figures of a benchmark, with an interval on every claim."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist, fmean, variance
from typing import Any, Final

from fusion.bench.report.figures import Analysis, Disagreement, Figures, Gap, Pairing, ReviewFigures
from fusion.bench.report.frontier import PerItem, Point, cost_at_quality, hull, known_points, mixed, oracle
from fusion.bench.report.results import ArmRecord, Outcome, Results
from fusion.bench.report.reviews import review_figures, unscored
from fusion.bench.report.statistics import (
    Interval,
    bootstrap_difference,
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


def analyse(results: Results) -> Analysis:
    """Return the figures of every arm, its comparison with the best single model, and notes of caution."""
    columns = _Columns(results)
    figures = tuple(columns.figures(arm) for arm in results.arms)
    best = _best_single(figures)
    pairings = columns.pairings(best, figures) if best is not None else ()
    gaps, baselines, reviews = columns.gaps(), columns.baselines(), columns.reviews()
    return Analysis(
        best_single=best,
        figures=figures,
        baselines=baselines,
        pairings=pairings,
        by_set=columns.by_set(best) if best is not None else (),
        at_equal_dollars=columns.at_equal_dollars(),
        frontier=tuple(hull(_points(figures))),
        reviews=reviews,
        gaps=gaps,
        disagreements=columns.disagreements(),
        notes=(
            *_notes(results, figures, best),
            *unscored(reviews),
            *_unmixed(results, figures, baselines),
            *_bounds(results),
            *_flags(gaps),
        ),
    )


def _best_single(figures: Sequence[Figures]) -> str | None:
    singles = [one for one in figures if one.kind == "model"]
    if not singles:
        return None
    return min(singles, key=lambda one: (-one.accuracy.estimate, one.cost is None, one.cost or 0, one.arm)).arm


def _points(figures: Sequence[Figures]) -> list[Point]:
    return known_points((one.arm, one.cost, one.accuracy.estimate) for one in figures)


class _Columns:
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
        return Figures(
            arm=arm.name,
            kind=arm.kind,
            n=len(column),
            accuracy=self._rate(self._scores[arm.name]),
            cost=sum(costs) if costs is not None else None,
            unknown_costs=sum(one.cost is None for one in outcomes),
            failed=sum(one.failure is not None for one in outcomes) + missing,
            tokens=sum(one.usage.total for one in outcomes),
            calls=sum(one.calls for one in outcomes),
            escalated=fmean(escalated) if escalated else None,
            delegated=fmean(delegated) if delegated else None,
            latency=_latency([one.latency for one in timed]),
            times=_mean_times([one.times for one in timed if one.times is not None]),
            by_set={name: fmean([self._scores[arm.name][i] for i in rows]) for name, rows in self._sets().items()},
        )

    def pairings(self, best: str, figures: Sequence[Figures]) -> tuple[Pairing, ...]:
        singles = _points([one for one in figures if one.kind == "model"])
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

    def baselines(self) -> tuple[Figures, ...]:
        """Return the oracle over the single models, and random mixing at the rate of each arm that escalates."""
        kinds = {arm.name: arm for arm in self._results.arms}
        singles = {
            name: PerItem(scores=tuple(self._scores[name]), costs=tuple(costs))
            for name, costs in self._costs.items()
            if kinds[name].kind == "model" and costs is not None
        }
        if len(singles) < 2:
            return ()
        wanted = self._results.baselines
        found = [self._baseline(ORACLE, oracle(singles))] if "oracle" in wanted else []
        if "random_mixing" not in wanted:
            return tuple(found)
        strong = max(singles, key=lambda name: (sum(singles[name].scores), -sum(singles[name].costs)))
        for name, arm in kinds.items():
            rate = self.figures(arm).escalated
            if rate is None:
                continue
            cheap = self._cheap(arm, singles, strong)
            if cheap != strong:
                label = f"{MIXING} as often as {name} ({rate:.0%} to {strong}, else {cheap})"
                found.append(self._baseline(label, mixed(singles[cheap], singles[strong], rate)))
        return tuple(found)

    def _cheap(self, arm: ArmRecord, singles: Mapping[str, PerItem], strong: str) -> str:
        """Return the best of the arm's models below the strongest single in cost, else the cheapest single."""
        own = [
            one.name
            for one in self._results.arms
            if one.name in singles and set(one.models) & set(arm.models)
            if sum(singles[one.name].costs) < sum(singles[strong].costs)
        ]
        if not own:
            return min(singles, key=lambda name: sum(singles[name].costs))
        return max(own, key=lambda name: (sum(singles[name].scores), -sum(singles[name].costs)))

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


def _notes(results: Results, figures: Sequence[Figures], best: str | None) -> Iterator[str]:
    """Yield the notes of caution."""
    yield from results.notes
    if results.stopped:
        yield f"Stopped early: {results.stopped}. The figures are of the items that every arm was asked."
    if best is None:
        yield "No single model was measured: nothing here says whether a pipeline beats one."
    for arm, rows in results.by_arm.items():
        outcomes = [one for ones in rows.values() for one in ones]
        alone = sum(one.times is not None or not one.reused for one in outcomes)
        if alone < len(outcomes) and any(one.latency for one in outcomes):
            yield (
                f"The latency of {arm} is of the {alone} of {len(outcomes)} answers that shared no call with another "
                "arm."
            )
    for one in figures:
        if one.failed:
            yield f"{one.arm} failed on {one.failed} of {one.n * results.epochs}: each counts as wrong."
        if one.cost is None:
            yield f"The cost of {one.arm} is not known: {one.unknown_costs or 'all'} of its outcomes lack it."


def _unmixed(results: Results, figures: Sequence[Figures], baselines: Sequence[Figures]) -> Iterator[str]:
    """Yield a note if random mixing is wanted, an arm escalates, and no two models can be mixed."""
    wanted = "random_mixing" in results.baselines and any(one.escalated is not None for one in figures)
    if wanted and not any(one.arm.startswith(MIXING) for one in baselines):
        yield (
            "Random mixing is not computed: it needs two single models of known cost, and the best of them must not "
            "be the cheapest."
        )


def _bounds(results: Results) -> Iterator[str]:
    for arm, rows in results.by_arm.items():
        charged = sum(part.charged for ones in rows.values() for one in ones for part in one.spent)
        if charged:
            yield (
                f"${charged:.4f} of the cost of {arm} are upper bounds, for attempts that gave no usable answer and "
                "may still be billed."
            )


def _flags(gaps: Sequence[Gap]) -> Iterator[str]:
    for gap in gaps:
        if gap.flagged:
            yield (
                f"{gap.arm} is better on dev than on test, beyond what the other arms are: it may have been chosen "
                "on those items, or have seen them. Its figures prove nothing."
            )
