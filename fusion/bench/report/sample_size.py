"""Sample size: the number of items at which the interval of a difference excludes a bound."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

from fusion.bench.report.statistics import LEVEL, Clusters, cluster_totals

POWER: Final = 0.8
MOST: Final = 100_000
"""Above it no number is given: such a difference is not worth measuring."""
_TINY: Final = 1e-9


class Settling(NamedTuple):
    """The number of items that would settle a comparison, and the finding that they would show.

    `items` is None above MOST.
    """

    items: int | None
    shows: Literal["not worse", "a loss"]


def settling(
    first: Sequence[float], second: Sequence[float], margin: float, *, clusters: Clusters = None
) -> Settling:
    """Return the least number of items at which the interval excludes a loss beyond the margin, or shows a loss.

    Difference and discordance are taken to be as observed on the given items.
    """
    kept = items_to_exclude(first, second, -margin, clusters=clusters)
    lost = items_to_exclude(first, second, 0.0, clusters=clusters)
    mean = sum(first) / len(first) - sum(second) / len(second)
    candidates: list[tuple[float, Literal["not worse", "a loss"]]] = []
    if mean > -margin:
        candidates.append((kept, "not worse"))
    if mean < 0:
        candidates.append((lost, "a loss"))
    items, shows = min(candidates, key=lambda one: one[0], default=(math.inf, "not worse"))
    return Settling(None if items > MOST else math.ceil(items), shows)


def items_to_exclude(
    first: Sequence[float],
    second: Sequence[float],
    bound: float,
    *,
    clusters: Clusters = None,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """Return the number of items at which, in `power` of samples, the interval of a difference excludes `bound`.

    n = (z + z_power)^2 s^2 / (d - bound)^2, with the observed difference d and the variance s^2 of the differences by
    item. For right and wrong answers s^2 is b + c - d^2, with the shares b and c of items that only one side got
    right: Connor 1987, doi:10.2307/2531961. Items of one cluster count together. Where no item favours the side
    nearer to the bound, the interval is widened for unseen outcomes (Clopper and Pearson 1934), and n is at least
    what that takes. Infinite at a difference of `bound`.

    >>> right, wrong = [1.0] * 90 + [0.0] * 10, [1.0] * 80 + [0.0] * 10 + [1.0] * 10
    >>> math.ceil(items_to_exclude(right, wrong, -0.05))
    628
    """
    n = len(first)
    sizes = cluster_totals([1.0] * n, clusters)
    sums = cluster_totals([one - other for one, other in zip(first, second, strict=True)], clusters)
    mean, k = sum(sums) / n, len(sizes)
    distance = abs(mean - bound)
    if distance < _TINY:
        return math.inf
    spread = sum((total - mean * size) ** 2 for total, size in zip(sums, sizes, strict=True)) / n
    z = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(power)
    return max(spread * (z / distance) ** 2, _unseen(first, second, sums, mean, bound, level) * n / k)


def _unseen(
    first: Sequence[float], second: Sequence[float], sums: Sequence[float], mean: float, bound: float, level: float
) -> float:
    """Return the clusters at which an interval that is widened for unseen outcomes excludes the bound."""
    plain = len(sums) == len(first) and all(score in (0.0, 1.0) for score in (*first, *second))
    if not plain and max(sums) - min(sums) > _TINY:
        return 0.0
    below = bound < mean
    if (below and min(sums) < -_TINY) or (not below and max(sums) > _TINY):
        return 0.0
    rate = abs(mean - bound) / (1 + mean if below else 1 - mean)
    return math.log((1 - level) / 2) / math.log(1 - rate) if rate < 1 else 0.0
