"""Reviews: the wrong results that a reviewing stage caught, the right ones that it refused, and its worth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fusion.bench.report.figures import Equal, Pairing, ReviewFigures
from fusion.bench.report.frontier import PerItem, mixed
from fusion.bench.report.results import ArmRecord, Outcome, Results, Reviewed, Reviewing
from fusion.bench.report.statistics import Interval, wilson

_PASSED: Final = ("accept", "unreviewed")
"""Verdicts that let a result pass as it is."""
_RIGHT: Final = 1 - 1e-9

Compare = Callable[[str, str], Pairing]
"""Compares two arms."""
Against = Callable[[str, PerItem], Interval]
"""Returns the difference of an arm and computed scores."""


class Case(NamedTuple):
    """A result that was judged: refused or not, its score as it was worked and as it was passed on.

    `given` is False for a missing verdict, which refuses a result too, and for a result that was not reviewed.
    """

    refused: bool
    given: bool
    before: float
    after: float

    @property
    def was_right(self) -> bool:
        return self.before >= _RIGHT

    @property
    def is_right(self) -> bool:
        return self.after >= _RIGHT


def tally(cases: Sequence[Case]) -> dict[str, int]:
    """Return the counts of a review: of wrong results and those caught, of right ones and those refused."""
    wrong = [one for one in cases if not one.was_right]
    right = [one for one in cases if one.was_right]
    return {
        "judged": len(cases),
        "silent": sum(not one.given for one in cases),
        "wrong": len(wrong),
        "caught": sum(one.refused for one in wrong),
        "right": len(right),
        "refused": sum(one.refused for one in right),
        "repaired": sum(one.is_right for one in wrong),
        "spoiled": sum(not one.is_right for one in right),
    }


def share(count: int, of: int) -> Interval | None:
    """Return a share with Wilson's interval; None of nothing."""
    return wilson(count, of) if of else None


def review_figures(
    results: Results, columns: Mapping[str, PerItem | None], compare: Compare, against: Against
) -> tuple[ReviewFigures, ...]:
    """Return the figures of every reviewing stage of every pipeline. `columns` has scores and costs by arm."""
    return tuple(
        _figures(results, arm, stage, columns, compare, against)
        for arm in results.arms
        if arm.kind == "pipeline"
        for stage in dict.fromkeys(review.stage for one in _outcomes(results, arm.name) for review in one.reviews)
    )


def unscored(figures: Sequence[ReviewFigures]) -> Iterator[str]:
    """Yield a note for each review whose verdicts no gold value scores."""
    for one in figures:
        if one.unit is None:
            yield (
                f"The review {one.stage} of {one.arm} is not measured: no gold value tells which of its results are "
                "right. Name the right values of the items with `item_gold` in the task set, or leave `no_review` "
                "among the baselines."
            )


def _outcomes(results: Results, arm: str) -> list[Outcome]:
    return [one for rows in results.by_arm[arm].values() for one in rows]


def _figures(
    results: Results,
    arm: ArmRecord,
    stage: str,
    columns: Mapping[str, PerItem | None],
    compare: Compare,
    against: Against,
) -> ReviewFigures:
    plain = next((one.name for one in results.arms if one.of == arm.name and one.without == stage), None)
    reviews = [one for outcome in _outcomes(results, arm.name) for one in outcome.reviews if one.stage == stage]
    cases, unit = list(_item_cases(reviews)), "items"
    if not cases and plain is not None:
        cases, unit = list(_answer_cases(results, arm.name, stage, plain)), "answers"
    counts = tally(cases)
    costs = [one.cost for one in reviews]
    return ReviewFigures(
        arm=arm.name,
        stage=stage,
        kind=reviews[0].kind,
        unit=unit if cases else None,
        **counts,
        caught_share=share(counts["caught"], counts["wrong"]),
        refused_share=share(counts["refused"], counts["right"]),
        cost=None if None in costs else float(sum(cost for cost in costs if cost is not None)) / results.epochs,
        calls=sum(one.calls for one in reviews),
        seconds=sum(one.seconds for one in reviews),
        plain=None if plain is None else compare(arm.name, plain),
        equal=None if plain is None else _equal(results, arm.name, plain, columns, against),
    )


def _item_cases(reviews: Sequence[Reviewing]) -> Iterator[Case]:
    for one in (verdict for review in reviews for verdict in review.verdicts):
        if one.before is not None and one.after is not None:
            yield Case(_refuses(one), _given(one), one.before, one.after)


def _answer_cases(results: Results, arm: str, stage: str, plain: str) -> Iterator[Case]:
    """Yield each answer with a verdict: its score without the review is that of the arm without it."""
    without = {(one.item, one.epoch): one.score for one in _outcomes(results, plain)}
    for outcome in _outcomes(results, arm):
        verdicts = [one for review in outcome.reviews if review.stage == stage for one in _first(review)]
        before = without.get((outcome.item, outcome.epoch))
        if verdicts and before is not None:
            given = all(map(_given, verdicts))
            yield Case(any(map(_refuses, verdicts)), given, before, outcome.score)


def _first(review: Reviewing) -> list[Reviewed]:
    """Return the verdicts on the answer that would be taken without the review: of tiers, those of the first."""
    tiers = [one.tier for one in review.verdicts if one.tier is not None]
    return [one for one in review.verdicts if not tiers or one.tier == min(tiers)]


def _refuses(one: Reviewed) -> bool:
    return one.verdict not in _PASSED


def _given(one: Reviewed) -> bool:
    return one.verdict not in ("none", "unreviewed")


def _equal(
    results: Results, arm: str, plain: str, columns: Mapping[str, PerItem | None], against: Against
) -> Equal | None:
    """Return the comparison with the most accurate use of the same dollars without the review.

    The dollars of the review send a random share of the items to a single model in place of the pipeline.
    """
    ours, base = columns[arm], columns[plain]
    if ours is None or base is None:
        return None
    singles = {one.name: columns[one.name] for one in results.arms if one.kind == "model"}
    best, name, rate = base, "", 0.0
    for single, column in singles.items():
        if column is None:
            continue
        bought = _share_bought(ours.point[0], base.point[0], column.point[0])
        mix = mixed(base, column, bought)
        if mix.point[1] > best.point[1] + 1e-12:
            best, name, rate = mix, single, bought
    cost = best.point[0] / ours.point[0] if ours.point[0] else None
    return Equal(single=name, share=rate, difference=against(arm, best), cost_ratio=cost)


def _share_bought(money: float, base: float, single: float) -> float:
    """Return the share of items that a single model can answer in place of the pipeline for this money."""
    if single <= money:
        return 1.0
    return max(0.0, min(1.0, (money - base) / (single - base))) if single > base else 1.0
