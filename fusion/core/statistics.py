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
