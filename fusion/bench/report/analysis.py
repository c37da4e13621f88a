"""Analysis: what the results of a benchmark say, with an interval on every figure that is claimed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist, fmean, variance
from typing import Final

from pydantic import Field

from fusion.bench.report.frontier import PerItem, Point, cost_at_quality, hull, mixed, oracle
from fusion.bench.report.gate import BEST_SINGLE, Measures
from fusion.bench.report.results import ArmRecord, Outcome, Results
from fusion.bench.report.statistics import (
    Interval,
    Verdict,
    bootstrap_difference,
    bootstrap_rate,
    bootstrap_ratio,
    holm,
    mcnemar,
    sign_flip,
    verdict,
    wilson,
)
from fusion.core.statistics import quantile
from fusion.core.types import Value

_GAP_LEVEL: Final = 0.99
ORACLE: Final = "oracle router"
MIXING: Final = "random mixing"


class Figures(Value):
    """One arm, or a baseline that is worked out of others. Dollars are for all items once; None where unknown."""

    arm: str
    kind: str
    n: int
    accuracy: Interval
    cost: float | None
    unknown_costs: int = 0
    failed: int = 0
    tokens: int = 0
    calls: int = 0
    escalated: float | None = None
    delegated: float | None = None
    latency: tuple[float, float, float] | None = None
    """Seconds: median, 90th and 95th percentile."""
    by_set: dict[str, float] = Field(default_factory=dict)


class Pairing(Value):
    """An arm against another on the same items. `p` is McNemar's, or by sign flips where clusters ask it."""

    arm: str
    against: str
    difference: Interval
    cost_ratio: Interval | None
    only_arm: int
    only_other: int
    p: float
    adjusted: float
    test: str
    verdict: Verdict
    equal_quality_cost: float | None
    """What the single models cost at this arm's accuracy, by the hull of their points."""


class Gap(Value):
    """How much better an arm is on dev than on test, beyond what the other arms are: what was seen shows here."""

    arm: str
    dev: float
    test: float
    excess: Interval
    flagged: bool


class Split(Value):
    """An item on which the arms disagree."""

    item: str
    task_set: str
    scores: dict[str, float]


class Analysis(Value):
    """Everything that a report shows."""

    best_single: str | None
    figures: tuple[Figures, ...]
    baselines: tuple[Figures, ...]
    pairings: tuple[Pairing, ...]
    by_set: tuple[tuple[str, Pairing], ...]
    at_equal_dollars: tuple[Pairing, ...]
    """Every arm that is no single model, against the self-consistency of a cheap one for the same money."""
    frontier: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    disagreements: tuple[Split, ...]
    notes: tuple[str, ...]

    def measures(self) -> dict[str, Measures]:
        """What a gate compares, by arm; the best single model under its own name too."""
        found: dict[str, Measures] = {one.arm: _measures(one, self.pairings) for one in self.figures}
        if self.best_single is not None:
            found[BEST_SINGLE] = found[self.best_single]
        return found


def analyse(results: Results) -> Analysis:
    """The figures of every arm, each arm against the best single model, and what there is to be careful about."""
    work = _Work(results)
    figures = tuple(work.figures(arm) for arm in results.arms)
    best = _best_single(figures)
    pairings = work.pairings(best, figures) if best is not None else ()
    gaps, baselines = work.gaps(), work.baselines()
    return Analysis(
        best_single=best,
        figures=figures,
        baselines=baselines,
        pairings=pairings,
        by_set=work.by_set(best) if best is not None else (),
        at_equal_dollars=work.at_equal_dollars(),
        frontier=tuple(hull(_points(figures))),
        gaps=gaps,
        disagreements=work.disagreements(),
        notes=(
            *_notes(results, figures, best),
            *_unmixed(results, figures, baselines),
            *_bounds(results),
            *_flags(gaps),
        ),
    )


def _best_single(figures: Sequence[Figures]) -> str | None:
    singles = [one for one in figures if one.kind == "model"]
    if not singles:
        return None
    return min(singles, key=lambda one: (-one.accuracy.estimate, _or_endless(one.cost), one.arm)).arm


def _or_endless(cost: float | None) -> float:
    return math.inf if cost is None else cost


def _points(figures: Sequence[Figures]) -> list[Point]:
    return [Point(name=f.arm, cost=f.cost, quality=f.accuracy.estimate) for f in figures if f.cost is not None]


class _Work:
    """The results as columns: for each arm, one score and one cost an item, in the items' order."""

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

    def figures(self, arm: ArmRecord) -> Figures:
        column = self._outcomes[arm.name]
        said = [one for rows in column for one in rows]
        costs = self._costs[arm.name]
        escalated = [one.escalated for one in said if one.escalated is not None]
        delegated = [one.delegated for one in said if one.delegated is not None]
        latencies = [one.latency for one in said if one.failure is None and one.latency > 0 and not one.reused]
        missing = sum(max(0, self._results.epochs - len(rows)) for rows in column)
        return Figures(
            arm=arm.name,
            kind=arm.kind,
            n=len(column),
            accuracy=self._rate(self._scores[arm.name]),
            cost=sum(costs) if costs is not None else None,
            unknown_costs=sum(one.cost is None for one in said),
            failed=sum(one.failure is not None for one in said) + missing,
            tokens=sum(one.usage.total for one in said),
            calls=sum(one.calls for one in said),
            escalated=fmean(escalated) if escalated else None,
            delegated=fmean(delegated) if delegated else None,
            latency=_quantiles(latencies) if latencies else None,
            by_set={name: fmean([self._scores[arm.name][i] for i in rows]) for name, rows in self._sets().items()},
        )

    def pairings(self, best: str, figures: Sequence[Figures]) -> tuple[Pairing, ...]:
        arms = [one.arm for one in figures if one.arm != best]
        everything = range(len(self._clusters))
        found = [self._pairing(arm, best, everything) for arm in arms]
        adjusted = holm({one.arm: one.p for one in found})
        singles = _points([one for one in figures if one.kind == "model"])
        quality = {one.arm: one.accuracy.estimate for one in figures}
        return tuple(
            one.model_copy(
                update={
                    "adjusted": adjusted[one.arm],
                    "equal_quality_cost": cost_at_quality(singles, quality[one.arm]),
                }
            )
            for one in found
        )

    def by_set(self, best: str) -> tuple[tuple[str, Pairing], ...]:
        """Every arm against the best single on each task set alone: the losses show."""
        sets = self._sets()
        if len(sets) < 2:
            return ()
        found: list[tuple[str, Pairing]] = []
        for name, rows in sets.items():
            ones = [self._pairing(arm, best, rows) for arm in self._scores if arm != best]
            adjusted = holm({one.arm: one.p for one in ones})
            found += [(name, one.model_copy(update={"adjusted": adjusted[one.arm]})) for one in ones]
        return tuple(found)

    def at_equal_dollars(self) -> tuple[Pairing, ...]:
        """Every arm that is neither single model nor baseline against the baselines that were run."""
        kinds = {arm.name: arm.kind for arm in self._results.arms}
        everything = range(len(self._clusters))
        found = [
            self._pairing(arm, other, everything)
            for other in kinds
            for arm in kinds
            if kinds[other] == "baseline" and kinds[arm] not in ("model", "baseline")
        ]
        adjusted = holm({f"{one.arm}\0{one.against}": one.p for one in found})
        return tuple(one.model_copy(update={"adjusted": adjusted[f"{one.arm}\0{one.against}"]}) for one in found)

    def baselines(self) -> tuple[Figures, ...]:
        """The oracle over the single models, and random mixing at the rate of each arm that escalates."""
        kinds = {arm.name: arm for arm in self._results.arms}
        singles = {
            name: PerItem(scores=tuple(self._scores[name]), costs=tuple(costs))
            for name, costs in self._costs.items()
            if kinds[name].kind == "model" and costs is not None
        }
        if len(singles) < 2:
            return ()
        wanted = self._results.baselines
        found = [self._worked_out(ORACLE, oracle(singles))] if "oracle" in wanted else []
        if "random_mixing" not in wanted:
            return tuple(found)
        strong = max(singles, key=lambda name: (sum(singles[name].scores), -sum(singles[name].costs)))
        for name, arm in kinds.items():
            rate = self.figures(arm).escalated
            if rate is None:
                continue
            cheap = self._otherwise(arm, singles, strong)
            if cheap != strong:
                label = f"{MIXING} as often as {name} ({rate:.0%} to {strong}, else {cheap})"
                found.append(self._worked_out(label, mixed(singles[cheap], singles[strong], rate)))
        return tuple(found)

    def _otherwise(self, arm: ArmRecord, singles: Mapping[str, PerItem], strong: str) -> str:
        """The best of the arm's own models that are cheaper than the strongest single; the cheapest single else."""
        own = [
            one.name
            for one in self._results.arms
            if one.name in singles and set(one.models) & set(arm.models)
            if sum(singles[one.name].costs) < sum(singles[strong].costs)
        ]
        if not own:
            return min(singles, key=lambda name: sum(singles[name].costs))
        return max(own, key=lambda name: (sum(singles[name].scores), -sum(singles[name].costs)))

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

    def disagreements(self) -> tuple[Split, ...]:
        found = []
        for index, item in enumerate(self._results.items):
            scores = {arm: column[index] for arm, column in self._scores.items()}
            if len(set(scores.values())) > 1:
                found.append(Split(item=item.id, task_set=item.task_set, scores=scores))
        return tuple(found)

    def _sets(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, item in enumerate(self._results.items):
            found.setdefault(item.task_set, []).append(index)
        return found

    def _rate(self, scores: Sequence[float]) -> Interval:
        if not self._clustered and _binary(scores):
            return wilson(round(sum(scores)), len(scores))
        return bootstrap_rate(scores, clusters=self._clusters, resamples=self._results.resamples, seed=self._seed)

    def _worked_out(self, name: str, arm: PerItem) -> Figures:
        cost, _ = arm.point
        return Figures(arm=name, kind="baseline", n=len(arm.scores), accuracy=self._rate(arm.scores), cost=cost)

    def _pairing(self, arm: str, other: str, rows: Sequence[int]) -> Pairing:
        one, two = ([self._scores[name][i] for i in rows] for name in (arm, other))
        clusters = [self._clusters[i] for i in rows]
        options = {"resamples": self._results.resamples, "seed": self._seed}
        difference = bootstrap_difference(one, two, clusters=clusters, **options)
        ahead, behind = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((one, two), (two, one)))
        if _binary(one) and _binary(two) and len(set(clusters)) == len(clusters):
            test, p = "exact McNemar", mcnemar(ahead, behind)
        else:
            test, p = "sign flips", sign_flip(one, two, clusters=clusters, **options)
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
        one, two = [ours[i] for i in rows], [theirs[i] for i in rows]
        try:
            return bootstrap_ratio(
                one,
                two,
                clusters=[self._clusters[i] for i in rows],
                resamples=self._results.resamples,
                seed=self._seed,
            )
        except ValueError:  # a cluster that cost nothing
            return None

    @property
    def _seed(self) -> int:
        return self._results.seeds[0]


_SIDES = ("dev", "test")


def _costs(column: Sequence[Sequence[Outcome]]) -> list[float] | None:
    """Dollars of each item, the mean over its epochs; None where one is unknown or there are none."""
    found: list[float] = []
    for rows in column:
        costs = [one.cost for one in rows]
        if any(cost is None for cost in costs):
            return None
        found.append(float(sum(cost for cost in costs if cost is not None)) / max(1, len(costs)))
    return found if any(column) else None


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    return quantile(values, 0.5), quantile(values, 0.9), quantile(values, 0.95)


def _welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The difference of two means of different items. Welch 1947, doi:10.2307/2332510, with the normal's bounds."""
    estimate = fmean(first) - fmean(second)
    half = NormalDist().inv_cdf((1 + _GAP_LEVEL) / 2) * math.sqrt(
        variance(first) / len(first) + variance(second) / len(second)
    )
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, level=_GAP_LEVEL)


def _measures(one: Figures, pairings: Sequence[Pairing]) -> Mapping[str, float | None]:
    pair = next((pairing for pairing in pairings if pairing.arm == one.arm), None)
    ratio = pair.cost_ratio if pair is not None else None
    return {
        "accuracy": one.accuracy.estimate,
        "accuracy_low": one.accuracy.low,
        "accuracy_high": one.accuracy.high,
        "cost": one.cost,
        "cost_per_item": one.cost / one.n if one.cost is not None else None,
        "failure_rate": one.failed / one.n,
        "latency": one.latency[0] if one.latency else None,
        "latency_p95": one.latency[2] if one.latency else None,
        "tokens": one.tokens,
        "difference": pair.difference.estimate if pair else None,
        "difference_low": pair.difference.low if pair else None,
        "difference_high": pair.difference.high if pair else None,
        "cost_ratio": ratio.estimate if ratio else None,
        "cost_ratio_low": ratio.low if ratio else None,
        "cost_ratio_high": ratio.high if ratio else None,
    }


def _notes(results: Results, figures: Sequence[Figures], best: str | None) -> list[str]:
    """What a reader has to know before believing a figure."""
    found = list(results.notes)
    if results.stopped:
        found.append(f"Stopped early: {results.stopped}. The figures are of the items that every arm was asked.")
    if best is None:
        found.append("No single model was measured: nothing here says whether a pipeline beats one.")
    for arm, rows in results.by_arm.items():
        said = [one for ones in rows.values() for one in ones]
        alone = sum(not one.reused for one in said)
        if alone < len(said) and any(one.latency for one in said):
            found.append(
                f"The latency of {arm} is of the {alone} of {len(said)} answers that shared no call with another arm."
            )
    for one in figures:
        if one.failed:
            found.append(f"{one.arm} failed on {one.failed} of {one.n * results.epochs}: each counts as wrong.")
        if one.cost is None:
            found.append(f"The cost of {one.arm} is not known: {one.unknown_costs or 'all'} of its outcomes lack it.")
    return found


def _unmixed(results: Results, figures: Sequence[Figures], baselines: Sequence[Figures]) -> Iterator[str]:
    """Said where random mixing is wanted, an arm escalates, and there is nothing to mix."""
    wanted = "random_mixing" in results.baselines and any(one.escalated is not None for one in figures)
    if wanted and not any(one.arm.startswith(MIXING) for one in baselines):
        yield (
            "Random mixing is not worked out: that takes two single models of known cost, and the best of them must "
            "not be the cheapest too."
        )


def _bounds(results: Results) -> Iterator[str]:
    for arm, rows in results.by_arm.items():
        charged = sum(part.charged for ones in rows.values() for one in ones for part in one.spent)
        if charged:
            yield (
                f"${charged:.4f} of the cost of {arm} are upper bounds, for attempts that gave no usable answer and "
                "may be billed all the same."
            )


def _flags(gaps: Sequence[Gap]) -> Iterator[str]:
    for gap in gaps:
        if gap.flagged:
            yield (
                f"{gap.arm} is better on dev than on test, beyond what the other arms are: it may have been chosen "
                "on those items, or know them. Its figures claim nothing."
            )
