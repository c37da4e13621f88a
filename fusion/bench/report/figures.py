"""Figures: the values that a report shows."""

from collections.abc import Sequence

from pydantic import Field

from fusion.bench.report.frontier import Point
from fusion.bench.report.gate import BEST_SINGLE, ENDS, Measures
from fusion.bench.report.statistics import Interval, Verdict
from fusion.core.result import Times
from fusion.core.types import Value


class Figures(Value):
    """The figures of an arm, or of a baseline computed from others. Costs are in dollars for all items once."""

    arm: str
    kind: str
    n: int
    accuracy: Interval
    cost: float | None
    unknown_costs: int = 0
    failed: int = 0
    cut: int = 0
    """The answers with a call that reached its output limit."""
    tokens: int = 0
    calls: int = 0
    escalated: float | None = None
    delegated: float | None = None
    latency: tuple[float, float, float] | None = None
    """Seconds: median, 90th and 95th percentile."""
    times: Times | None = None
    """The mean latency by cause."""
    by_set: dict[str, float] = Field(default_factory=dict)


class Pairing(Value):
    """The comparison of two arms on the same items. `p` is by McNemar's test, or by sign flips over clusters."""

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
    """The cost of mixed single models at this arm's accuracy, on the hull of their points."""


class Equal(Value):
    """An arm against the most accurate use of its dollars without a review.

    `share` of the items go to the model `single`, the others to the arm without the review; a share of 0 is that arm
    alone. `cost_ratio` is the cost of this use over that of the arm; None if the arm is free.
    """

    single: str
    share: float
    difference: Interval
    cost_ratio: float | None


class ReviewFigures(Value):
    """The figures of a stage that reviews, over all epochs; `cost` is in dollars for all items once.

    `unit` names the results that it judged: items, or whole answers; None if no gold value tells which are right. Of
    the `wrong` ones it `caught` some, of the `right` ones it `refused` some: its first verdict was not to accept.
    `silent` results have no verdict. `repaired` results were wrong and are right in the end, `spoiled` ones were
    right and are wrong or missing.
    """

    arm: str
    stage: str
    kind: str
    unit: str | None
    judged: int
    silent: int
    wrong: int
    caught: int
    caught_share: Interval | None
    right: int
    refused: int
    refused_share: Interval | None
    repaired: int
    spoiled: int
    cost: float | None
    calls: int
    seconds: float
    plain: Pairing | None
    """The arm against itself without the review."""
    equal: Equal | None


class Mixing(Value):
    """Random mixing at the cost of an arm: the share of items that the strongest single model is asked, else `cheap`.

    A share of 0 is of an arm that costs less than `cheap`, one of 1 of an arm that costs more than `strong`.
    """

    arm: str
    cheap: str
    strong: str
    share: float
    pairing: Pairing
    """The arm against the mixing. Its `cost_ratio` is 1, except for a share of 0 or 1."""


class Alone(Value):
    """A single model that is as good as the best one, and cheaper.

    Its interval to the best one is above minus the margin (`proved`), or it is level with it: at most half a point
    less accurate on these items.
    """

    model: str
    against: str
    difference: Interval
    ratio: float
    """Its cost, relative to that of the best single model."""
    proved: bool


class Gap(Value):
    """The advantage of an arm on dev over test, beyond that of the other arms: a sign of overfitting."""

    arm: str
    dev: float
    test: float
    excess: Interval
    flagged: bool


class Disagreement(Value):
    """An item with different scores of the arms."""

    item: str
    task_set: str
    scores: dict[str, float]


class Analysis(Value):
    """The contents of a report."""

    best_single: str | None
    """The most accurate single model; of several, the cheapest."""
    level: tuple[str, ...] = ()
    """The single models at most half a point less accurate than the best one, which comes first."""
    alone: Alone | None = None
    """The cheapest single model that is as good as the best one, if it is another."""
    summary: tuple[str, ...] = ()
    """Plain sentences for the top of a report: a single model that does it alone, then each arm."""
    figures: tuple[Figures, ...]
    baselines: tuple[Figures, ...]
    pairings: tuple[Pairing, ...]
    beside: tuple[tuple[str, tuple[Pairing, ...]], ...] = ()
    """The same against each cheaper single model that is as good as the best one, by its name."""
    by_set: tuple[tuple[str, Pairing], ...]
    mixings: tuple[Mixing, ...] = ()
    """Every arm that is not a single model, against random mixing of two single models at the same cost."""
    at_equal_dollars: tuple[Pairing, ...]
    """Every arm that is not a single model, against self-consistency of a cheap model at the same cost."""
    frontier: tuple[Point, ...]
    reviews: tuple[ReviewFigures, ...] = ()
    gaps: tuple[Gap, ...]
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]

    def measures(self) -> dict[str, Measures]:
        """Return the measures for a gate by arm; those of the best single model also as `best_single`."""
        found: dict[str, Measures] = {one.arm: _measures(one, self.pairings) for one in self.figures}
        if self.best_single is not None:
            found[BEST_SINGLE] = found[self.best_single]
        return found


def _measures(one: Figures, pairings: Sequence[Pairing]) -> Measures:
    pair = next((pairing for pairing in pairings if pairing.arm == one.arm), None)
    return {
        **_interval("accuracy", one.accuracy),
        "cost": one.cost,
        "cost_per_item": one.cost / one.n if one.cost is not None else None,
        "failure_rate": one.failed / one.n,
        "latency": one.latency[0] if one.latency else None,
        "latency_p95": one.latency[2] if one.latency else None,
        "tokens": one.tokens,
        **_interval("difference", pair.difference if pair else None),
        **_interval("cost_ratio", pair.cost_ratio if pair else None),
    }


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
    return {f"{name}{end}": value for end, value in zip(ENDS, values, strict=True)}
