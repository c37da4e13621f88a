"""Random mixing costs what the arm costs, and every arm is compared with it on the same items."""

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.bench.report.analysis import analyse
from fusion.bench.report.frontier import PerItem, mixed, share_at_cost
from fusion.bench.report.report import Report
from tests.bench.report.made import made, right

N = 100
CHEAP, STRONG = right(N, range(60, 100)), right(N, range(95, 100))
ALL = {"mine": ("cheap", "strong")}


def arms(scores: list[int], cost: float | None, kind: str = "pipeline") -> dict[str, tuple[str, list[int], object]]:
    return {"cheap": ("model", CHEAP, 1), "strong": ("model", STRONG, 5), "mine": (kind, scores, cost)}


@pytest.mark.parametrize(
    ("cost", "share"), [(1, 0.0), (2, 0.25), (3, 0.5), (4.6, 0.9), (5, 1.0), (0.5, 0.0), (7, 1.0)]
)
@pytest.mark.parametrize("kind", ["pipeline", "python", "outputs"])
def test_the_share_of_the_strong_model_costs_what_the_arm_costs(cost: float, share: float, kind: str) -> None:
    (mixing,) = analyse(made(arms(STRONG, cost, kind), models=ALL)).mixings  # type: ignore[arg-type]
    assert (mixing.cheap, mixing.strong, mixing.share) == ("cheap", "strong", pytest.approx(share))
    accuracy = (1 - share) * fmean(CHEAP) + share * fmean(STRONG)
    assert mixing.pairing.difference.estimate == pytest.approx(0.95 - accuracy)
    ratio = mixing.pairing.cost_ratio
    assert ratio is not None
    assert ratio.estimate == pytest.approx(cost / (1 + 4 * share))


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (0.5, "mine costs less than cheap alone (0.50 times): no random mixing is so cheap"),
        (7, "mine costs more than strong alone (1.40 times): random mixing at its cost is strong on every item"),
        (3, None),
        (1, None),
        (5, None),
    ],
)
def test_an_arm_outside_of_the_costs_of_its_models_is_said(cost: float, words: str | None) -> None:
    notes = analyse(made(arms(STRONG, cost), models=ALL)).notes  # type: ignore[arg-type]
    found = [note for note in notes if "random mixing" in note]
    assert len(found) == (words is not None)
    assert words is None or found[0].startswith(words)


def test_a_cascade_no_better_than_a_coin_is_not_better_and_a_good_one_is() -> None:
    drawn = random.Random(3)
    coin = [drawn.choice(pair) for pair in zip(CHEAP, STRONG, strict=True)]
    (lucky,) = analyse(made(arms(coin, 3), models=ALL)).mixings  # type: ignore[arg-type]
    assert lucky.pairing.difference.low < 0 < lucky.pairing.difference.high
    (good,) = analyse(made(arms(STRONG, 2), models=ALL)).mixings  # type: ignore[arg-type]
    assert good.pairing.difference.low > 0
    assert good.pairing.verdict == "better"
    assert good.pairing.p < 0.01


def test_a_cheap_model_that_costs_more_than_the_arm_gives_way_to_a_cheaper_one_of_it() -> None:
    found = {**arms(STRONG, 0.8), "tiny": ("model", right(N, range(50, 100)), 0.1)}
    (mixing,) = analyse(made(found, models={"mine": ("tiny", "cheap", "strong")})).mixings  # type: ignore[arg-type]
    assert mixing.cheap == "tiny"
    assert 0 < mixing.share < 1


def test_costs_that_differ_by_item_are_met_in_sum_and_the_interval_knows_of_them() -> None:
    drawn = random.Random(5)
    low, high = [drawn.expovariate(1) for _ in range(N)], [drawn.expovariate(0.2) for _ in range(N)]
    own = [(one + other) / 2 for one, other in zip(low, high, strict=True)]
    flat = [sum(own) / N] * N
    columns = {"cheap": ("model", CHEAP, low), "strong": ("model", STRONG, high)}
    (with_items,) = analyse(made({**columns, "mine": ("pipeline", STRONG, own)}, models=ALL)).mixings
    (without,) = analyse(made({**columns, "mine": ("pipeline", STRONG, flat)}, models=ALL)).mixings
    assert with_items.share == pytest.approx(0.5)
    assert without.share == pytest.approx(0.5)
    one, other = with_items.pairing.difference, without.pairing.difference
    assert one.estimate == pytest.approx(other.estimate)
    assert other.high - other.low > one.high - one.low


@pytest.mark.parametrize(
    "change",
    [
        {"mine": ("pipeline", STRONG, None)},
        {"cheap": ("model", CHEAP, None)},
        {"cheap": ("model", CHEAP, 9)},
        {"cheap": ("pipeline", CHEAP, 1)},
        {"strong": ("model", STRONG, None)},
    ],
)
def test_where_nothing_can_be_mixed_the_report_says_so(change: dict[str, object]) -> None:
    found = analyse(made({**arms(STRONG, 3), **change}, models=ALL))  # type: ignore[arg-type]
    assert found.mixings == ()
    assert any(note.startswith("Random mixing is not computed") for note in found.notes)


def test_a_suite_that_wants_no_mixing_gets_none() -> None:
    found = analyse(made(arms(STRONG, 3), models=ALL, baselines=("singles",)))  # type: ignore[arg-type]
    assert (found.mixings, found.baselines) == ((), ())
    assert not any("mixing" in note for note in found.notes)


def test_the_report_has_a_row_for_each_arm() -> None:
    report = Report(made(arms(STRONG, 2), models=ALL))  # type: ignore[arg-type]
    assert "## Against random mixing at equal dollars" in report.markdown()
    assert "| mine | 25.0% strong | cheap | +26.25 |" in report.markdown()
    assert "Against random mixing at equal dollars" in report.page()


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=20),
    st.floats(0.001, 300),
)
def test_the_mixing_costs_the_wanted_sum_or_is_one_of_its_two_models(
    costs: list[tuple[float, float]], wanted: float
) -> None:
    cheap = PerItem(scores=(0.0,) * len(costs), costs=tuple(min(pair) for pair in costs))
    strong = PerItem(scores=(1.0,) * len(costs), costs=tuple(max(pair) for pair in costs))
    share = share_at_cost(cheap, strong, wanted)
    cost, quality = mixed(cheap, strong, share).point
    assert quality == pytest.approx(share)
    if 0 < share < 1:
        assert cost == pytest.approx(wanted)
    elif share == 0:
        assert wanted <= sum(cheap.costs) * (1 + 1e-9)
    else:
        assert wanted >= sum(strong.costs) * (1 - 1e-9)
