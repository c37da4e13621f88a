"""Statistics shared by measurements of speed, quotes and benchmark reports."""

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import TypeVar

Number = TypeVar("Number", float, Decimal)


def quantile(values: Iterable[Number], share: float) -> Number:
    """Return the value below which a share of all values is, interpolated linearly (Hyndman and Fan's type 7).

    >>> quantile([1.0, 2.0, 3.0, 50.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    between = ordered[high] - ordered[low]
    part = Decimal(place - low) if isinstance(between, Decimal) else place - low
    return ordered[low] + between * part


def wilson(right: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the score interval of a rate, valid at 0 and 1 too. Raises ValueError if `n` is 0.

    Wilson 1927, doi:10.1080/01621459.1927.10502953. For a sum of scores between 0 and 1 it is the interval of a rate
    of the same mean, which is wider than theirs.

    >>> low, high = wilson(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    from statistics import NormalDist  # takes 10 ms to load, and a run needs none of it

    if not 0 <= right <= n + 1e-9 or n == 0:
        raise ValueError(f"a rate of {right} in {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, share = min(1.0, right / n), z * z / n
    centre = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / n + share / (4 * n))
    return min(max(0.0, centre - half), rate), max(min(1.0, centre + half), rate)
