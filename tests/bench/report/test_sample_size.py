"""The number of items that would settle a comparison is the one at which a simulated comparison is settled."""

import math
import random

import pytest

from fusion.bench.report.sample_size import MOST, items_to_exclude, settling
from fusion.bench.report.statistics import bootstrap_difference
from tests.bench.report.made import right


def pairs(both: int, first: int, second: int, neither: int = 0) -> tuple[list[float], list[float]]:
    """Return the scores of two arms on so many items that both, one, the other and neither got right."""
    one = [1.0] * (both + first) + [0.0] * (second + neither)
    other = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    return one, other


CASES = [
    (90, 5, 5, -0.05),
    (70, 15, 15, -0.1),
    (80, 4, 16, 0.0),
    (60, 10, 30, 0.0),
    (85, 10, 5, -0.03),
    (50, 25, 25, -0.08),
]


@pytest.mark.parametrize(("both", "first", "second", "bound"), CASES)
def test_four_of_five_simulated_samples_of_this_size_exclude_the_bound(
    both: int, first: int, second: int, bound: float
) -> None:
    n = math.ceil(items_to_exclude(*pairs(both, first, second), bound))
    kinds = random.Random(f"{both} {first} {second}")
    excluded = 0
    for _ in range(70):
        drawn = kinds.choices([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)], weights=[both, first, second], k=n)
        one, other = zip(*drawn, strict=True)
        interval = bootstrap_difference(one, other, resamples=2000)
        excluded += interval.low > bound or interval.high < bound
    assert 0.66 <= excluded / 70 <= 0.92


@pytest.mark.parametrize("n", [10, 30, 100, 300])
def test_without_a_difference_the_width_of_unseen_outcomes_counts(n: int) -> None:
    same = right(n)
    items = math.ceil(items_to_exclude(same, same, -0.01))
    assert items == 368
    enough, too_few = right(items), right(items - 1)
    assert bootstrap_difference(enough, enough, resamples=2000).low >= -0.01
    assert bootstrap_difference(too_few, too_few, resamples=2000).low < -0.01


@pytest.mark.parametrize(
    ("both", "first", "second", "margin", "shows"),
    [
        (26, 2, 2, 0.01, "not worse"),
        (28, 0, 2, 0.01, "a loss"),
        (26, 0, 4, 0.1, "a loss"),
        (20, 4, 6, 0.2, "not worse"),
        (25, 2, 3, 0.0, "a loss"),
    ],
)
def test_the_finding_that_needs_fewer_items_is_named(
    both: int, first: int, second: int, margin: float, shows: str
) -> None:
    assert settling(*pairs(both, first, second), margin).shows == shows


@pytest.mark.parametrize(
    ("both", "first", "second", "margin"), [(26, 2, 2, 0.0), (0, 15, 15, 0.001), (5, 12, 12, 0.005)]
)
def test_a_number_that_cannot_be_reached_is_none(both: int, first: int, second: int, margin: float) -> None:
    assert settling(*pairs(both, first, second), margin).items is None
    assert MOST == 100_000


@pytest.mark.parametrize("times", [2, 5, 10])
def test_items_of_one_document_count_as_one(times: int) -> None:
    one, other = pairs(90, 5, 5)
    alone = items_to_exclude(one, other, -0.05)
    repeated = [score for score in one for _ in range(times)], [score for score in other for _ in range(times)]
    clusters = [at for at in range(100) for _ in range(times)]
    assert items_to_exclude(*repeated, -0.05, clusters=clusters) == pytest.approx(times * alone)
    assert items_to_exclude(*repeated, -0.05) == pytest.approx(alone)


def test_the_formula_is_connors_for_right_and_wrong_answers() -> None:
    one, other = pairs(80, 4, 16)
    z = 1.959964 + 0.841621
    assert items_to_exclude(one, other, 0.0) == pytest.approx(z**2 * (0.2 - 0.12**2) / 0.12**2, rel=1e-5)
