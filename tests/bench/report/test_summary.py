"""The top of a report: the cheap single model that does it alone, level models, and a sentence for each arm."""

from typing import Any

import pytest

from fusion.bench.report.analysis import analyse
from fusion.bench.report.report import Report
from tests.bench.report.made import Column, made, right

STRONG: Column = ("model", right(1000, range(900, 1000)), 10)


def singles(**others: Column) -> dict[str, Column]:
    return {"strong": STRONG, **others}


def first_lines(arms: dict[str, Column], **more: Any) -> tuple[str, ...]:
    return analyse(made(arms, **more)).summary


# A single model that does it alone.


@pytest.mark.parametrize(
    ("scores", "cost", "words"),
    [
        (right(1000, range(899, 1000)), 2.8, "at 0.28 times the cost of strong: -0.1 points"),
        (right(1000, range(898, 1000)), 1, "at 0.10 times the cost of strong: -0.2 points"),
        (right(1000, range(897, 1000)), 5, "not worse by 1 point."),
        (right(1000, range(896, 1000)), 9.9, "at 0.99 times the cost of strong: -0.4 points"),
        (right(1000, [*range(50), *range(945, 1000)]), 3, "level within 0.5 points."),
    ],
)
def test_a_cheap_model_that_is_as_good_is_named_in_the_first_line(scores: list[int], cost: float, words: str) -> None:
    found = made(singles(flash=("model", scores, cost)))
    report = Report(found)
    first = report.analysis.summary[0]
    assert first.startswith("flash alone does it at ")
    assert words in first
    assert report.markdown().splitlines()[2].startswith("- **flash alone does it at ")
    assert f"<li><strong>{first}</strong></li>" in report.page()
    assert report.analysis.alone is not None
    assert report.analysis.alone.ratio == pytest.approx(cost / 10)


@pytest.mark.parametrize(
    "flash",
    [
        ("model", right(1000, range(880, 1000)), 1),  # two points less
        ("model", right(1000, range(900, 1000)), 10),  # no cheaper
        ("model", right(1000, range(900, 1000)), None),  # of unknown cost
        ("pipeline", right(1000, range(900, 1000)), 1),  # no single model
        ("model", right(1000, [*range(100), *range(994, 1000)]), 1),  # 0.6 points less, and not proved
    ],
)
def test_no_other_is_named(flash: Column) -> None:
    summary = first_lines(singles(flash=flash))
    assert "alone does it" not in summary[0]
    assert summary[0].startswith("Best single model")


def test_of_several_the_cheapest_is_named_and_the_margin_counts() -> None:
    level, worse = right(1000, range(898, 1000)), right(1000, range(870, 1000))
    arms = singles(fine=("model", level, 5), tiny=("model", worse, 1))
    assert first_lines(arms)[0].startswith("fine alone does it at 0.50")
    assert first_lines(arms, margin=0.05)[0].startswith("tiny alone does it at 0.10")
    found = analyse(made(arms, margin=0.05))
    assert [name for name, _ in found.beside] == ["tiny", "fine"]


# Level models.


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({}, "Best single model: strong."),
        ({"a": 899}, "Best single models: strong and a, level within 0.5 points."),
        ({"a": 895, "b": 896}, "Best single models: strong and b and a, level within 0.5 points."),
        ({"a": 894}, "Best single model: strong."),
        ({"a": 900}, "Best single models: strong and a, level within 0.5 points."),
    ],
)
def test_level_models_are_named_together_the_best_first(others: dict[str, int], words: str) -> None:
    arms = singles(**{name: ("model", right(1000, range(k, 1000)), 20) for name, k in others.items()})
    assert words in first_lines(arms)


def test_arms_are_shown_against_the_cheapest_level_model_too() -> None:
    arms = singles(
        level=("model", right(1000, range(897, 1000)), 4),
        mine=("pipeline", right(1000, range(905, 1000)), 5),
    )
    report = Report(made(arms))
    ((name, pairs),) = report.analysis.beside
    assert (name, report.analysis.best_single) == ("level", "strong")
    mine = next(one for one in pairs if one.arm == "mine")
    assert mine.difference.estimate == pytest.approx(0.008)
    assert mine.cost_ratio is not None
    assert mine.cost_ratio.estimate == pytest.approx(1.25)
    assert "## Against level, which is as good and cheaper" in report.markdown()
    assert "Against level, which is as good: +0.8 points" in report.analysis.summary[-1]
    assert "at 1.25 times its cost." in report.analysis.summary[-1]


# The sentence of an arm.


@pytest.mark.parametrize(
    ("wrong", "cost", "words"),
    [
        (range(950, 1000), 5, "mine gains 5.0 points (95% +3.7 to +6.4) over strong at 0.50 times its cost."),
        (range(850, 1000), 1, "mine loses 5.0 points (95% -6.6 to -3.8) against strong at 0.10 times its cost."),
        (range(900, 1000), 4, "mine is not worse than strong by 1 point, +0.0 points (95% -0.4 to +0.4), at 0.40"),
        (range(980, 1000), None, "over strong at an unknown cost."),
        (
            [*range(60), *range(960, 1000)],
            17,
            "against strong at 1.70 times its cost: 1,000 items cannot tell; about ",
        ),
    ],
)
def test_an_arm_gains_or_loses_for_so_much_of_the_cost(wrong: Any, cost: float | None, words: str) -> None:
    summary = first_lines(singles(mine=("pipeline", right(1000, wrong), cost)))
    assert words in summary[-1]


@pytest.mark.parametrize("kind", ["pipeline", "python", "outputs"])
@pytest.mark.parametrize("wrong", [(), (3,), (3, 4), range(0, 9, 2), (29,)])
def test_thirty_items_cannot_tell_and_the_report_says_how_many_would(kind: str, wrong: Any) -> None:
    arms: dict[str, Column] = {
        "strong": ("model", right(30, (0, 29)), 10),
        "mine": (kind, right(30, wrong), 3),
        "other": (kind, right(30, (7, 8)), 2),
    }
    *_, first, second = first_lines(arms)
    for sentence in (first, second):
        assert "30 items cannot tell; about " in sentence
        assert " would show " in sentence


def test_sentences_are_few_where_arms_are_many() -> None:
    arms = {f"a{k}": ("pipeline", right(1000, range(890 + k, 1000)), 1 + k) for k in range(9)}
    summary = first_lines(singles(**arms))
    assert len(summary) == 7
    assert summary[-1] == "4 more arms are in the table."


def test_without_a_single_model_there_is_no_claim() -> None:
    assert first_lines({"mine": ("pipeline", right(20), 1)}) == ()


def test_clusters_count_as_one_for_the_number_of_items() -> None:
    mine: Column = ("pipeline", right(60, (1, 5, 9)), 3)
    arms: dict[str, Column] = {"strong": ("model", right(60, (2, 6)), 10), "mine": mine}
    assert "60 items cannot tell" in first_lines(arms, clusters=6)[-1]
