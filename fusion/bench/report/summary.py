"""Summary: what a benchmark found, in plain sentences for the top of its report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fusion.bench.report.figures import Alone, Mixing, Pairing
from fusion.bench.report.sample_size import MOST, Settling
from fusion.bench.report.statistics import Interval, Verdict, verdict

LEVEL_WITHIN: Final = 0.005
"""Single models are level if their accuracies differ by at most this share."""
MOST_SENTENCES: Final = 5
_TINY: Final = 1e-9
_RANKS: Final[Mapping[Verdict, int]] = {"better": 0, "not worse": 1, "inconclusive": 2, "worse": 3}


class Single(NamedTuple):
    """A single model: accuracy, cost, and difference to the best one, None for that itself."""

    name: str
    accuracy: float
    cost: float | None
    difference: Interval | None


def is_level(accuracy: float, best: float) -> bool:
    """Return True for a single model at most half a point less accurate than the best one."""
    return accuracy >= best - LEVEL_WITHIN - _TINY


def level_singles(singles: Sequence[Single], best: str) -> tuple[str, ...]:
    """Return the models at most half a point less accurate than the best one, which comes first."""
    top = next(one for one in singles if one.name == best)
    level = [one for one in singles if is_level(one.accuracy, top.accuracy) and one is not top]
    return (best, *(one.name for one in sorted(level, key=lambda one: (-one.accuracy, one.cost or 0, one.name))))


def as_good(singles: Sequence[Single], best: str, margin: float) -> list[Alone]:
    """Return the models that are as good as the best one and cheaper, cheapest first.

    As good is a model that is not worse by the margin, with its whole interval, or that is level with the best one.
    """
    top = next(one for one in singles if one.name == best)
    level = level_singles(singles, best)
    found = []
    for one in singles:
        if one.difference is None or not one.cost or not top.cost or one.cost >= top.cost:
            continue
        proved = verdict(one.difference, margin) in ("better", "not worse")
        if proved or one.name in level:
            found.append(
                Alone(
                    model=one.name,
                    against=best,
                    difference=one.difference,
                    ratio=one.cost / top.cost,
                    proved=proved,
                )
            )
    return sorted(found, key=lambda one: (one.ratio, one.model))


def alone_sentence(one: Alone, margin: float) -> str:
    """Return the sentence on a single model that is as good as the best one."""
    reason = f"not worse by {_points_of(margin)}" if one.proved else f"level within {_points_of(LEVEL_WITHIN)}"
    return (
        f"{one.model} alone does it at {one.ratio:.2f} times the cost of {one.against}: {_range(one.difference)}, "
        f"{reason}."
    )


def best_sentence(level: Sequence[str]) -> str:
    """Return the sentence on the best single model, and on those level with it."""
    if len(level) < 2:
        return f"Best single model: {level[0]}."
    return f"Best single models: {' and '.join(level)}, level within {_points_of(LEVEL_WITHIN)}."


class Contest(NamedTuple):
    """An arm against the best single model, on so many items; `settling` is None where its interval settles it.

    `beside` is the arm against the cheapest single model that is as good.
    """

    pairing: Pairing
    items: int
    settling: Settling | None
    beside: Pairing | None = None


def arm_sentences(contests: Sequence[Contest], margin: float) -> Iterator[str]:
    """Yield a sentence for each arm, the best first; of many, those of the first few."""
    ranked = sorted(contests, key=lambda one: (_RANKS[one.pairing.verdict], _ratio(one.pairing)))
    for one in ranked[:MOST_SENTENCES]:
        yield _arm_sentence(one, margin)
    if len(ranked) > MOST_SENTENCES:
        yield f"{len(ranked) - MOST_SENTENCES} more arms are in the table."


def mixing_sentence(one: Mixing) -> str:
    """Return the sentence on an arm against random mixing at its cost."""
    way = f"{one.share:.0%} {one.strong}, else {one.cheap}" if 0 < one.share < 1 else f"all {_only(one)}"
    cost = "" if 0 < one.share < 1 else f" {_cost(one.pairing)}"
    return (
        f"{one.arm} against random mixing at its cost ({way}): {_range(one.pairing.difference)}{cost}, "
        f"{one.pairing.verdict}."
    )


def _only(one: Mixing) -> str:
    return one.strong if one.share else one.cheap


def is_settled(difference: Interval, margin: float) -> bool:
    """Return True if an interval shows a gain, a loss, or no loss beyond the margin."""
    return difference.low > 0 or difference.high < 0 or difference.low >= -margin


def _arm_sentence(one: Contest, margin: float) -> str:
    pair, cost = one.pairing, _cost(one.pairing)
    interval, points = pair.difference, _points(abs(pair.difference.estimate))
    between = f"({_ends(interval)})"
    if interval.low > 0:
        said = f"{pair.arm} gains {points} {between} over {pair.against} {cost}"
    elif interval.high < 0:
        said = f"{pair.arm} loses {points} {between} against {pair.against} {cost}"
    elif interval.low >= -margin:
        said = f"{pair.arm} is not worse than {pair.against} by {_points_of(margin)}, {_range(interval)}, {cost}"
    else:
        said = f"{pair.arm} makes {_range(interval)} against {pair.against} {cost}: {_unsettled(one, margin)}"
    return f"{said}.{_beside(one.beside)}"


def _unsettled(one: Contest, margin: float) -> str:
    tell = f"{one.items:,} item{'s' * (one.items != 1)} cannot tell"
    if one.settling is None or one.settling.items is None:
        return f"{tell}; more than {MOST:,} would be needed"
    loss = "a loss" if one.settling.shows == "a loss" else f"that it loses no more than {_points_of(margin)}"
    loss = "that it loses nothing" if one.settling.shows == "not worse" and not margin else loss
    return f"{tell}; about {_rounded(max(one.settling.items, one.items + 1)):,} would show {loss}"


def _beside(pair: Pairing | None) -> str:
    if pair is None:
        return ""
    return f" Against {pair.against}, which is as good: {_range(pair.difference)} {_cost(pair)}."


def _cost(pair: Pairing) -> str:
    if pair.cost_ratio is None:
        return "at an unknown cost"
    return f"at {pair.cost_ratio.estimate:.2f} times its cost"


def _ratio(pair: Pairing) -> float:
    return float("inf") if pair.cost_ratio is None else pair.cost_ratio.estimate


def _rounded(number: int) -> int:
    """Return the number with two digits that count, rounded up."""
    step = 10 ** max(0, len(str(number)) - 2)
    return int(-(-number // step) * step)


def _range(interval: Interval) -> str:
    return f"{_signed(interval.estimate)} points ({_ends(interval)})"


def _ends(interval: Interval) -> str:
    return f"{interval.level:.0%} {_signed(interval.low)} to {_signed(interval.high)}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # never -0.0


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _points_of(share: float) -> str:
    return f"{100 * share:g} point{'' if abs(share - 0.01) < _TINY else 's'}"
