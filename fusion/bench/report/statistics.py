"""Rates and paired differences with their intervals and tests, over items that may belong together in clusters.

Items of one document are no independent evidence: every resampling here draws whole clusters. Without `clusters`
each item is one of its own.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fusion.core.types import Value

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]


MIN_RESAMPLES = 2_000
RESAMPLES = 10_000
LEVEL = 0.95
_TINY = 1e-9
"""What arithmetic on shares leaves behind."""
_CELLS = 4_000_000
"""The most weights that are drawn at once: 32 MB."""

Clusters = Sequence[Hashable] | None
"""For each item, what it belongs to; None where each stands alone."""

Verdict = Literal["better", "not worse", "inconclusive", "worse"]


class Interval(Value):
    """An estimate and the bounds that hold it at a level of confidence."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL


class _Statistic(Protocol):
    def __call__(self, *totals: "Floats") -> "Floats": ...


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """The score interval of a rate, which is right at 0 and 1 too. Raises ValueError where there is nothing to rate.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> interval = wilson(81, 263)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.2553, 0.3662)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a rate of {successes} in {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, share = successes / n, z * z / n
    centre = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / n + share / (4 * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(estimate=rate, low=min(low, rate), high=max(high, rate), level=level)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that the items which one alone got right fall so unevenly by chance.

    McNemar 1947, doi:10.1007/BF02295996; the exact form is a binomial test of the discordant pairs at one half.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values made good for there being several, by name. Holm 1979, jstor.org/stable/4615733.

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
    """What an interval says against a margin that was fixed before: non-inferior where all of it lies above -margin.

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
    """The mean, with the interval of the cluster bootstrap."""
    return _bootstrap([values, [1.0] * len(values)], _mean, clusters, resamples, seed, level)


def bootstrap_rate(
    scores: Sequence[float], *, clusters: Clusters = None, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of scores from 0 to 1. Where none, or all, are whole, it allows for what so few may hide."""
    found = bootstrap_mean(scores, clusters=clusters, resamples=resamples, seed=seed)
    least, most = min(scores), max(scores)
    n = len(_totals(scores, clusters))
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
    """The mean of first less second, scores from 0 to 1 on the same items: a pair is drawn or left together.

    Where items that are right or wrong speak for one side alone, or nothing differs from item to item, the interval
    allows for what so few may hide.
    """
    _check_pairs(first, second)
    differences = [one - other for one, other in zip(first, second, strict=True)]
    found = bootstrap_mean(differences, clusters=clusters, resamples=resamples, seed=seed, level=level)
    least, most, n = min(differences), max(differences), len(_totals(differences, clusters))
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
    """The total of first over the total of second on the same items. Raises ValueError where the second can be 0."""
    _check_pairs(first, second)
    if not all(value > 0 for value in _totals(second, clusters)):
        raise ValueError("no ratio over a total that can be 0")
    return _bootstrap([first, second], _ratio, clusters, resamples, seed, level)


def sign_flip(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """The two-sided p-value that the difference comes of which side was called first, cluster by cluster.

    The test to McNemar's for scores between 0 and 1 and for clusters. The observed labels count as one of the
    draws, so that it is never 0: Phipson and Smyth 2010, doi:10.2202/1544-6115.1585.
    """
    import numpy as np

    _check_pairs(first, second)
    totals = np.array(_totals([one - other for one, other in zip(first, second, strict=True)], clusters))
    rng = np.random.default_rng(seed)
    bound = abs(totals.sum()) - 1e-9
    hits = 0
    for share in _shares(resamples, len(totals)):
        signs = rng.integers(0, 2, size=(share, len(totals))) * 2.0 - 1.0
        hits += int((np.abs(signs @ totals) >= bound).sum())
    return (hits + 1) / (resamples + 1)


def _with_unseen(found: Interval, n: int, *, none_below: bool, none_above: bool, least: float) -> Interval:
    """The interval with the share of all that can be what none of n was, which no resampling of them shows.

    The exact bound of a rate of which nothing was seen: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404. What
    was not seen is worth `least`, or 1, at most.
    """
    unseen = 1 - ((1 - found.level) / 2) ** (1 / n)
    low, high = found.low, found.high
    if none_below:
        low = min(low, found.estimate - unseen * (found.estimate - least))
    if none_above:
        high = max(high, found.estimate + unseen * (1 - found.estimate))
    return found.model_copy(update={"low": low, "high": high})


def _mean(*totals: "Floats") -> "Floats":
    value, count = totals
    return value / count


def _ratio(*totals: "Floats") -> "Floats":
    first, second = totals
    return first / second


def _bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: _Statistic,
    clusters: Clusters,
    resamples: int,
    seed: int,
    level: float,
) -> Interval:
    """The bias-corrected and accelerated interval of a statistic of totals, over clusters drawn with replacement.

    BCa and not plain percentiles, since a ratio of costs is skewed: Efron 1987, doi:10.1080/01621459.1987.10478410;
    clusters as in Davison and Hinkley 1997, section 3.8.
    """
    import numpy as np

    if resamples < MIN_RESAMPLES:
        raise ValueError(f"{resamples} resamples; the least is {MIN_RESAMPLES:,}")
    if not columns[0]:
        raise ValueError("no items to resample")
    totals = np.array([_totals(column, clusters) for column in columns], dtype=np.float64)
    n = totals.shape[1]
    parts = [weights.astype(np.float64) @ totals.T for weights in _weights(seed, resamples, n)]
    drawn = statistic(*np.concatenate(parts).T)
    estimate = float(statistic(*totals.sum(axis=1)))
    low, high = np.quantile(drawn, _bca_shares(drawn, estimate, _left_out(totals, statistic), level))
    return Interval(estimate=estimate, low=float(low), high=float(high), level=level)


@lru_cache(maxsize=4)
def _weights(seed: int, resamples: int, n: int) -> tuple["np.ndarray[Any, np.dtype[np.uint16]]", ...]:
    """How often each of n clusters is in each of the resamples, in parts: the same draws for every arm."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def part(share: int) -> "np.ndarray[Any, np.dtype[np.uint16]]":
        places = np.arange(0, share * n, n, dtype=np.int32)[:, None]
        drawn = rng.integers(0, n, size=(share, n), dtype=np.int32) + places
        return np.bincount(drawn.ravel(), minlength=share * n).reshape(share, n).astype(np.uint16)

    return tuple(part(share) for share in _shares(resamples, n))


def _left_out(totals: "Floats", statistic: _Statistic) -> "Floats":
    """The statistic without each cluster in turn; nothing where there is only one."""
    if totals.shape[1] == 1:
        return totals[0, :0]
    return statistic(*(totals.sum(axis=1, keepdims=True) - totals))


def _bca_shares(drawn: "Floats", estimate: float, left_out: "Floats", level: float) -> list[float]:
    """The shares of the draws at which the interval ends; plain percentiles where no correction can be worked out."""
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


def _totals(values: Sequence[float], clusters: Clusters) -> list[float]:
    """The sum of each cluster, in the order in which the clusters come up."""
    if clusters is None:
        return list(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters")
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return list(sums.values())


def _shares(resamples: int, n: int) -> list[int]:
    """How many resamples are drawn at once, until all are."""
    most = max(1, _CELLS // n)
    return [min(most, resamples - start) for start in range(0, resamples, most)]


def _check_pairs(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values; pairs are of the same items")
