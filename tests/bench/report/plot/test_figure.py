"""The figure names its points at the points, where nothing covers a name, and tells cost in two units."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.bench.report.analysis import analyse
from fusion.bench.report.figures import Figures
from fusion.bench.report.plot.figure import figure
from fusion.bench.report.plot.labels import Box, Label, placed
from fusion.bench.report.statistics import Interval
from tests.bench.report.made import Column, made

INSIDE = Box(0, 0, 1300, 800)
SOME = Figures(arm="a", kind="model", n=1, accuracy=Interval(estimate=1, low=1, high=1), cost=1)


def arms(count: int, *, name: str = "arm", kinds: tuple[str, ...] = ("model", "pipeline")) -> dict[str, Column]:
    drawn = random.Random(count)
    hard = [drawn.random() for _ in range(60)]
    found: dict[str, Column] = {}
    for at in range(count):
        skill = drawn.uniform(0.4, 1.0)
        cost = 10 ** drawn.uniform(-4, 0)
        found[f"{name} {at}"] = (kinds[at % len(kinds)], [int(one < skill) for one in hard], cost)
    return found


@pytest.mark.parametrize("count", [1, 5, 20])
def test_few_and_many_arms_are_drawn(count: int) -> None:
    png = figure(analyse(made(arms(count))), title="some arms")
    assert png is not None
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name",
    ["$x^2$ and $", "a\nb", "x" * 300, "<script>", "ü 漢字", "provider/with/a/long/path/to/some-model", "{{ a }}"],
)
def test_no_name_breaks_the_figure(name: str) -> None:
    found = arms(4, name=name, kinds=("model", "python", "outputs", "pipeline"))
    assert figure(analyse(made(found)), title=name) is not None


@pytest.mark.parametrize("cost", [1e-9, 1e-4, 1, 5000, 1e7])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_costs_of_every_size_are_drawn(cost: float, others: int) -> None:
    found: dict[str, Column] = {"best": ("model", [1] * 20, cost)}
    found |= {f"m{k}": ("pipeline", [0] * 10 + [1] * 10, cost * 2**k) for k in range(others)}
    assert figure(analyse(made(found)), title="t") is not None


@pytest.mark.parametrize("cost", [None, 0])
def test_arms_without_a_cost_are_left_out(cost: float | None) -> None:
    assert figure(analyse(made({"a": ("model", [1, 0], cost)})), title="t") is None
    both: dict[str, Column] = {"a": ("model", [1, 0], cost), "b": ("pipeline", [1, 1], 0.1)}
    assert figure(analyse(made(both)), title="t") is not None


def test_the_same_results_give_the_same_picture() -> None:
    found = analyse(made(arms(9)))
    assert figure(found, title="t") == figure(found, title="t")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(150, 1150), st.floats(100, 700)), min_size=1, max_size=20), st.integers(20, 160))
def test_no_name_covers_another_or_a_point_while_there_is_room(points: list[tuple[float, float]], width: int) -> None:
    labels = [Label(SOME, "name", x, y, width, 14) for x, y in points]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    boxes = [place.box for place in placed(labels, marks, [], INSIDE, 1.8)]
    assert all(INSIDE.holds(box) for box in boxes)
    crowded = any(sum(abs(x - a) < 260 and abs(y - b) < 120 for a, b in points) > 4 for x, y in points)
    if not crowded:
        assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
        assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)


def test_twenty_spread_points_are_all_named_free_and_near() -> None:
    drawn = random.Random(7)
    points = [(drawn.uniform(100, 1200), drawn.uniform(60, 740)) for _ in range(20)]
    labels = [Label(SOME, "name", x, y, 150, 14) for x, y in points]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    lines = [Box(x - 1, y - 70, x + 1, y + 70) for x, y in points]
    found = placed(labels, marks, lines, INSIDE, 1.8)
    boxes = [place.box for place in found]
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)
    assert sum(place.distance > 60 for place in found) <= 2
