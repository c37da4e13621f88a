"""Statistics: rates and paired differences with intervals and tests, over items in clusters.

Items of one document are not independent: every resampling draws whole clusters. Without `clusters` each item is
its own cluster.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from fusion.core.statistics import wilson as rate_interval
from fusion.core.types import Value

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]


MIN_RESAMPLES = 2_000
RESAMPLES = 10_000
LEVEL = 0.95
_TINY = 1e-9
"""The bound of rounding errors in arithmetic on shares."""
_CELLS = 4_000_000
"""The most weights drawn at once: 32 MB."""

Clusters = Sequence[Hashable] | None
"""The cluster of each item; None if each is its own."""

Verdict = Literal["better", "not worse", "inconclusive", "worse"]
_Statistic = Callable[..., "Floats"]
"""A function of columns of totals."""
Costed = tuple[Sequence[float], Sequence[float]]
"""Scores and costs by item."""


class Interval(Value):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Return the score interval of a rate, valid at 0 and 1 too. Raises ValueError if `n` is 0.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> interval = wilson(81, 263)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.2553, 0.3662)
    """
    low, high = rate_interval(successes, n, level=level)
    return Interval(estimate=successes / n, low=low, high=high, level=level)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of the numbers of items that only one side got right.

    McNemar 1947, doi:10.1007/BF02295996; the exact form is a binomial test of the discordant pairs at one half.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values by name, adjusted for multiple comparisons. Holm 1979, jstor.org/stable/4615733.

    >>> holm({"a": 0.01, "b": 0.04})
    {'a': 0.02, 'b': 0.04}
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(values, key=lambda name: values[name])):
        least = max(least, min(1.0, (len(values) - rank) * values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in values}


def verdict(difference: Interval, margin: float) -> Verdict:
    """Compare an interval with a margin fixed in advance: not worse if all of it is above -margin.

    Piaggio et al. 2012, doi:10.1001/jama.2012.87802.
    """
    if margin < 0:
        raise ValueError(f"a margin of {margin}; it is given as a share of 0 or more")
    if difference.low > 0:
        return "better"
    if difference.low >= -margin:
        return "not worse"
    return "worse" if difference.high < -margin else "inconclusive"


# Resampling.


def bootstrap_mean(
    values: Sequence[float],
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the mean with its interval by the cluster bootstrap."""
    return _bootstrap(
        [values, [1.0] * len(values)], lambda value, count: value / count, clusters, resamples, seed, level
    )


def bootstrap_rate(
    scores: Sequence[float], *, clusters: Clusters = None, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of scores from 0 to 1. If all are 0 or all are 1, the interval is widened."""
    found = bootstrap_mean(scores, clusters=clusters, resamples=resamples, seed=seed)
    least, most = min(scores), max(scores)
    n = len(cluster_totals(scores, clusters))
    return _with_unseen(found, n, none_below=least == 1, none_above=most == 0, least=0)


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of first minus second, scores from 0 to 1 on the same items. Pairs are drawn together.

    If right and wrong items favour one side only, or all differences are equal, the interval is widened for unseen
    outcomes.
    """
    _check_pairs(first, second)
    differences = [one - other for one, other in zip(first, second, strict=True)]
    found = bootstrap_mean(differences, clusters=clusters, resamples=resamples, seed=seed, level=level)
    least, most, n = min(differences), max(differences), len(cluster_totals(differences, clusters))
    whole = n == len(differences) and all(score in (0.0, 1.0) for score in (*first, *second))
    if not whole and most - least > _TINY:
        return found
    return _with_unseen(found, n, none_below=least > -_TINY, none_above=most < _TINY, least=-1)


def bootstrap_ratio(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the ratio of the totals on the same items. Raises ValueError if the second total can be 0."""
    _check_pairs(first, second)
    if not all(value > 0 for value in cluster_totals(second, clusters)):
        raise ValueError("no ratio over a total that can be 0")
    return _bootstrap([first, second], lambda one, other: one / other, clusters, resamples, seed, level)


def bootstrap_mixing(
    arm: Costed,
    cheap: Costed,
    strong: Costed,
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean score of an arm less that of random mixing at the arm's cost, on the same items.

    Each resample finds its own share of items for the strong arm, so that both sides cost the same in it. If no item
    of right and wrong ones favours one side, the interval is widened for unseen outcomes.
    """
    import numpy as np

    scores, costs = arm
    _check_pairs(scores, cheap[0])
    _check_pairs(scores, strong[0])

    def difference(own: Any, cost: Any, low: Any, low_cost: Any, high: Any, high_cost: Any, n: Any) -> Any:
        gap = high_cost - low_cost
        share = np.clip((cost - low_cost) / np.where(gap > 0, gap, np.inf), 0.0, 1.0)
        return (own - (1 - share) * low - share * high) / n

    columns = [scores, costs, *cheap, *strong, [1.0] * len(scores)]
    found = _bootstrap(columns, difference, clusters, resamples, seed, LEVEL)
    sums = [sum(column) for column in columns]
    share = float(difference(0.0, sums[1], 0.0, sums[3], -1.0, sums[5], 1.0))
    by_item = [
        one - (1 - share) * low - share * high for one, low, high in zip(scores, cheap[0], strong[0], strict=True)
    ]
    least, most, n = min(by_item), max(by_item), len(cluster_totals(by_item, clusters))
    whole = n == len(by_item) and all(score in (0.0, 1.0) for score in (*scores, *cheap[0], *strong[0]))
    if not whole and most - least > _TINY:
        return found
    return _with_unseen(found, n, none_below=least > -_TINY, none_above=most < _TINY, least=-1)


def sign_flip(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of a difference under random swaps of the sides, cluster by cluster.

    It replaces McNemar's test for scores between 0 and 1 and for clusters. The observed labels count as one of the
    draws, so p is never 0: Phipson and Smyth 2010, doi:10.2202/1544-6115.1585.
    """
    import numpy as np

    _check_pairs(first, second)
    totals = np.array(cluster_totals([one - other for one, other in zip(first, second, strict=True)], clusters))
    rng = np.random.default_rng(seed)
    bound = abs(totals.sum()) - 1e-9
    hits = 0
    for share in _shares(resamples, len(totals)):
        signs = rng.integers(0, 2, size=(share, len(totals))) * 2.0 - 1.0
        hits += int((np.abs(signs @ totals) >= bound).sum())
    return (hits + 1) / (resamples + 1)


def _with_unseen(found: Interval, n: int, *, none_below: bool, none_above: bool, least: float) -> Interval:
    """Widen the interval by the possible share of outcomes that none of n items shows, and so no resampling.

    The exact bound of a rate with no success: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404. An unseen
    outcome has the value `least` or 1.
    """
    unseen = 1 - ((1 - found.level) / 2) ** (1 / n)
    low, high = found.low, found.high
    if none_below:
        low = min(low, found.estimate - unseen * (found.estimate - least))
    if none_above:
        high = max(high, found.estimate + unseen * (1 - found.estimate))
    return found.model_copy(update={"low": low, "high": high})


def _bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: _Statistic,
    clusters: Clusters,
    resamples: int,
    seed: int,
    level: float,
) -> Interval:
    """Return the bias-corrected and accelerated interval of a statistic of totals, by resampling clusters.

    BCa, since a ratio of costs is skewed: Efron 1987, doi:10.1080/01621459.1987.10478410. Clusters as in Davison
    and Hinkley 1997, section 3.8.
    """
    import numpy as np

    if resamples < MIN_RESAMPLES:
        raise ValueError(f"{resamples} resamples; the least is {MIN_RESAMPLES:,}")
    if not columns[0]:
        raise ValueError("no items to resample")
    totals = np.array([cluster_totals(column, clusters) for column in columns], dtype=np.float64)
    n = totals.shape[1]
    parts = [weights.astype(np.float64) @ totals.T for weights in _weights(seed, resamples, n)]
    drawn = statistic(*np.concatenate(parts).T)
    estimate = float(statistic(*totals.sum(axis=1)))
    low, high = np.quantile(drawn, _bca_shares(drawn, estimate, _left_out(totals, statistic), level))
    return Interval(estimate=estimate, low=float(low), high=float(high), level=level)


@lru_cache(maxsize=4)
def _weights(seed: int, resamples: int, n: int) -> tuple["np.ndarray[Any, np.dtype[np.uint16]]", ...]:
    """Return the count of each of n clusters in each resample, in parts: the same draws for every arm."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def part(share: int) -> "np.ndarray[Any, np.dtype[np.uint16]]":
        places = np.arange(0, share * n, n, dtype=np.int32)[:, None]
        drawn = rng.integers(0, n, size=(share, n), dtype=np.int32) + places
        return np.bincount(drawn.ravel(), minlength=share * n).reshape(share, n).astype(np.uint16)

    return tuple(part(share) for share in _shares(resamples, n))


def _left_out(totals: "Floats", statistic: _Statistic) -> "Floats":
    """Return the statistic without each cluster in turn; empty if there is one cluster."""
    if totals.shape[1] == 1:
        return totals[0, :0]
    return statistic(*(totals.sum(axis=1, keepdims=True) - totals))


def _bca_shares(drawn: "Floats", estimate: float, left_out: "Floats", level: float) -> list[float]:
    """Return the quantiles of the interval's ends; plain percentiles if no correction can be computed."""
    import numpy as np

    tail = (1 - level) / 2
    normal = NormalDist()
    below = float((np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2)
    distances = left_out.mean() - left_out if len(left_out) else left_out
    spread = float((distances**2).sum())
    if not 0 < below < 1 or spread <= 0:
        return [tail, 1 - tail]
    bias, bend = normal.inv_cdf(below), float((distances**3).sum()) / (6 * spread**1.5)

    def moved(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return normal.cdf(bias + z / (1 - bend * z))

    return [moved(tail), moved(1 - tail)]


def cluster_totals(values: Sequence[float], clusters: Clusters) -> list[float]:
    """Return the sum of each cluster, in order of appearance."""
    if clusters is None:
        return list(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters")
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return list(sums.values())


def _shares(resamples: int, n: int) -> list[int]:
    """Return the sizes of the parts in which the resamples are drawn."""
    most = max(1, _CELLS // n)
    return [min(most, resamples - start) for start in range(0, resamples, most)]


def _check_pairs(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values; pairs are of the same items")
