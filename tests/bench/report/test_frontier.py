"""The frontier and what is read off it, on small examples that can be worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from fusion.bench.report.frontier import PerItem, Point, cost_at_quality, hull, mixed, oracle, pareto


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(name=f"p{index}", cost=cost, quality=quality) for index, (cost, quality) in enumerate(pairs)]


ARMS = points((1, 0.5), (2, 0.6), (3, 0.9), (4, 0.8), (3, 0.7), (9, 0.95))


def test_the_frontier_leaves_out_what_another_beats() -> None:
    assert [point.name for point in pareto(ARMS)] == ["p0", "p1", "p2", "p5"]
    assert [point.name for point in hull(ARMS)] == ["p0", "p2", "p5"]


def test_equal_quality_costs_what_mixing_two_arms_does() -> None:
    assert cost_at_quality(ARMS, 0.7) == pytest.approx(2.0)
    assert cost_at_quality(ARMS, 0.925) == pytest.approx(6.0)
    assert cost_at_quality(ARMS, 0.95) == pytest.approx(9.0)
    assert cost_at_quality(ARMS, 0.2) == 1.0
    assert cost_at_quality(ARMS, 0.96) is None
    assert cost_at_quality([], 0.5) is None


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 1)), min_size=3, max_size=30, unique=True))
def test_the_hull_is_scipys(pairs: list[tuple[float, float]]) -> None:
    # With a corner far right below and the origin, scipy's hull of the same points holds every one of ours.
    ours = hull(points(*pairs))
    corners = [(0.0, 0.0), (1000.0, 0.0), (1000.0, max(quality for _, quality in pairs))]
    cloud = np.array([*pairs, *corners])
    theirs = ConvexHull(cloud, qhull_options="QJ Pp")
    for point in ours[:-1]:
        inside = theirs.equations[:, :2] @ np.array([point.cost, point.quality]) + theirs.equations[:, 2]
        assert inside.max() <= 1e-6
    for cost, quality in pairs:
        at = cost_at_quality(points(*pairs), quality)
        assert at is not None
        assert at <= cost + 1e-9


def test_the_oracle_takes_the_cheapest_of_those_that_are_right() -> None:
    cheap = PerItem(scores=(1, 0, 0, 1), costs=(1, 1, 1, 1))
    strong = PerItem(scores=(1, 1, 0, 0), costs=(5, 5, 5, 5))
    best = oracle({"cheap": cheap, "strong": strong})
    assert best == PerItem(scores=(1, 1, 0, 1), costs=(1, 5, 1, 1))
    assert best.point == (8, 0.75)


def test_random_mixing_is_the_line_between_two_arms() -> None:
    cheap, strong = PerItem(scores=(1, 0), costs=(1, 1)), PerItem(scores=(1, 1), costs=(5, 7))
    assert mixed(cheap, strong, 0) == cheap
    assert mixed(cheap, strong, 1) == strong
    assert mixed(cheap, strong, 0.25) == PerItem(scores=(1, 0.25), costs=(2, 2.5))
    with pytest.raises(ValueError, match=r"a rate of 1\.5"):
        mixed(cheap, strong, 1.5)
