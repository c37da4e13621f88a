"""Frontier of cost and quality: Pareto front, convex hull, cost at equal quality, oracle, random mixing."""

from collections.abc import Iterable, Mapping, Sequence

from fusion.core.types import Value


class Point(Value):
    """The cost of an arm in dollars for all items, and its share of right ones."""

    name: str
    cost: float
    quality: float


class PerItem(Value):
    """Scores and dollars by item."""

    scores: tuple[float, ...]
    costs: tuple[float, ...]

    @property
    def point(self) -> tuple[float, float]:
        """The total cost and the mean score."""
        return sum(self.costs), sum(self.scores) / len(self.scores)


def known_points(rows: Iterable[tuple[str, float | None, float]]) -> list[Point]:
    """Return the points of names, costs and qualities; those of unknown cost are left out."""
    return [Point(name=name, cost=cost, quality=quality) for name, cost, quality in rows if cost is not None]


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both cost and quality, cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.cost, -one.quality, one.name)):
        if not kept or point.quality > kept[-1].quality:
            kept.append(point)
    return kept


def hull(points: Sequence[Point]) -> list[Point]:
    """Return the upper convex hull: the frontier of routers that send each item to one of two points at random.

    Provost and Fawcett 2001, doi:10.1023/A:1007601015854, for the same argument about classifiers.
    """
    kept: list[Point] = []
    for point in pareto(points):
        while len(kept) > 1 and not _bends_down(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def cost_at_quality(points: Sequence[Point], quality: float) -> float | None:
    """Return the least cost of a quality by mixing points of the hull; None if no point reaches it.

    >>> cost_at_quality([Point(name="a", cost=1, quality=0.5), Point(name="b", cost=3, quality=0.9)], 0.7)
    2.0
    """
    frontier = hull(points)
    if not frontier or quality > frontier[-1].quality:
        return None
    if quality <= frontier[0].quality:
        return frontier[0].cost
    right = next(index for index, point in enumerate(frontier) if point.quality >= quality)
    low, high = frontier[right - 1], frontier[right]
    share = (quality - low.quality) / (high.quality - low.quality)
    return low.cost + share * (high.cost - low.cost)


def oracle(arms: Mapping[str, PerItem]) -> PerItem:
    """Return the ceiling of routers over these arms: each item goes to the cheapest of its best-scoring arms."""
    columns = [list(zip(arm.scores, arm.costs, strict=True)) for arm in arms.values()]
    best = [min(row, key=lambda pair: (-pair[0], pair[1])) for row in zip(*columns, strict=True)]
    return PerItem(scores=tuple(score for score, _ in best), costs=tuple(cost for _, cost in best))


def mixed(cheap: PerItem, strong: PerItem, rate: float) -> PerItem:
    """Return the expected result by item of a router that sends a random share of the items to the strong arm.

    Each item is paid for once. A cascade pays twice where it escalates, and has to beat this all the same.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate of {rate}; it is a share between 0 and 1")

    def between(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
        return tuple((1 - rate) * low + rate * high for low, high in zip(one, other, strict=True))

    return PerItem(scores=between(cheap.scores, strong.scores), costs=between(cheap.costs, strong.costs))


def share_at_cost(cheap: PerItem, strong: PerItem, cost: float) -> float:
    """Return the share of items for the strong arm at which a random mixing of two arms has this expected cost.

    It is 0 if even the cheap arm costs more, and 1 if even the strong one costs less.

    >>> one, two = PerItem(scores=(0, 1), costs=(1, 1)), PerItem(scores=(1, 1), costs=(4, 4))
    >>> share_at_cost(one, two, 5.0)
    0.5
    """
    low, high = sum(cheap.costs), sum(strong.costs)
    if high <= low:
        return float(cost > low)
    return min(1.0, max(0.0, (cost - low) / (high - low)))


def _bends_down(first: Point, middle: Point, last: Point) -> bool:
    """True if the middle point is above the line from the first to the last."""
    rise = (middle.quality - first.quality) * (last.cost - first.cost)
    return rise > (last.quality - first.quality) * (middle.cost - first.cost)
