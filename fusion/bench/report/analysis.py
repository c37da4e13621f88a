"""Analysis: the figures of a benchmark, with an interval on every claim."""

from collections.abc import Iterator, Sequence
from typing import Any

from fusion.bench.report.columns import Columns, points
from fusion.bench.report.figures import Analysis, Figures, Gap, Mixing, Pairing
from fusion.bench.report.frontier import hull
from fusion.bench.report.results import Results
from fusion.bench.report.reviews import unscored
from fusion.bench.report.summary import (
    Contest,
    Single,
    alone_sentence,
    arm_sentences,
    as_good,
    best_sentence,
    is_settled,
    level_singles,
)


def analyse(results: Results) -> Analysis:
    """Return the figures of every arm, its comparison with the best single model, and notes of caution."""
    columns = Columns(results)
    figures = tuple(columns.figures(arm) for arm in results.arms)
    best = _best_single(figures)
    gaps, mixings, reviews = columns.gaps(), columns.mixings(), columns.reviews()
    baselines = columns.baselines(mixings)
    return Analysis(
        **_against_singles(results, columns, figures, best),
        figures=figures,
        baselines=baselines,
        by_set=columns.by_set(best) if best is not None else (),
        mixings=mixings,
        at_equal_dollars=columns.at_equal_dollars(),
        frontier=tuple(hull(points(figures))),
        reviews=reviews,
        gaps=gaps,
        disagreements=columns.disagreements(),
        notes=(
            *_notes(results, figures, best),
            *unscored(reviews),
            *_unmixed(results, mixings),
            *_outside(mixings),
            *_bounds(results),
            *_flags(gaps),
        ),
    )


def _best_single(figures: Sequence[Figures]) -> str | None:
    singles = [one for one in figures if one.kind == "model"]
    if not singles:
        return None
    return min(singles, key=lambda one: (-one.accuracy.estimate, one.cost is None, one.cost or 0, one.arm)).arm


def _against_singles(
    results: Results, columns: Columns, figures: Sequence[Figures], best: str | None
) -> dict[str, Any]:
    """Return the comparisons with the best single model and with those that are as good, and what they say."""
    if best is None:
        return {"best_single": None, "pairings": ()}
    pairings = columns.pairings(best, figures)
    pairs = {one.arm: one for one in pairings}
    singles = [
        Single(one.arm, one.accuracy.estimate, one.cost, pairs[one.arm].difference if one.arm in pairs else None)
        for one in figures
        if one.kind == "model"
    ]
    level, good = level_singles(singles, best), as_good(singles, best, results.margin)
    level_and_cheap = [one.model for one in good if one.model in level]
    others = dict.fromkeys([one.model for one in good[:1]] + level_and_cheap[:1])
    beside = tuple((other, columns.pairings(other, figures)) for other in others)
    contests = _contests(results, columns, pairings, beside[0][1] if beside else ())
    sentences = [alone_sentence(good[0], results.margin)] if good else []
    return {
        "best_single": best,
        "level": level,
        "alone": good[0] if good else None,
        "summary": (*sentences, best_sentence(level), *arm_sentences(contests, results.margin)),
        "pairings": pairings,
        "beside": beside,
    }


def _contests(
    results: Results, columns: Columns, pairings: Sequence[Pairing], beside: Sequence[Pairing]
) -> list[Contest]:
    kinds = {arm.name: arm.kind for arm in results.arms}
    others = {one.arm: one for one in beside}
    return [
        Contest(
            one,
            len(results.items),
            None if is_settled(one.difference, results.margin) else columns.settling(one.arm, one.against),
            others.get(one.arm),
        )
        for one in pairings
        if kinds[one.arm] not in ("model", "baseline")
    ]


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
        if one.cut:
            yield f"{one.arm} reached its output limit in {one.cut} of {one.n * results.epochs} answers."
        if one.cost is None:
            yield f"The cost of {one.arm} is not known: {one.unknown_costs or 'all'} of its outcomes lack it."


def _unmixed(results: Results, mixings: Sequence[Mixing]) -> Iterator[str]:
    """Yield a note if random mixing is wanted, an arm could be compared, and no two models can be mixed."""
    wanted = "random_mixing" in results.baselines and any(arm.kind == "pipeline" for arm in results.arms)
    if wanted and not mixings:
        yield (
            "Random mixing is not computed: it needs an arm and two single models of known cost, and the best of the "
            "models must not be the cheapest."
        )


def _outside(mixings: Sequence[Mixing]) -> Iterator[str]:
    """Yield a note for each arm whose cost no mixing of its two models has."""
    for one in mixings:
        ratio = one.pairing.cost_ratio.estimate if one.pairing.cost_ratio is not None else 1.0
        if one.share == 0 and ratio < 1:
            yield (
                f"{one.arm} costs less than {one.cheap} alone ({ratio:.2f} times): no random mixing is so cheap, and "
                f"{one.arm} is compared with {one.cheap} itself."
            )
        if one.share == 1 and ratio > 1:
            yield (
                f"{one.arm} costs more than {one.strong} alone ({ratio:.2f} times): random mixing at its cost is "
                f"{one.strong} on every item, and money is left over."
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
