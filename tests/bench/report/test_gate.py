"""What a gate says of an arm, and what is said of a gate that cannot be read."""

import pytest

from fusion.bench.report.gate import Gate
from fusion.core.errors import UsageError

ARMS = {
    "mine": {"accuracy": 0.90, "cost": 1.0, "latency": 2.0, "cost_ratio": 0.5, "difference_low": -0.004},
    "openai/gpt-4o": {"accuracy": 0.85, "cost": 1.5, "latency": 4.0},
    "best_single": {"accuracy": 0.905, "cost": 2.0, "latency": None},
}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("accuracy >= best_single - 0.5pp and cost <= 0.5*best_single", True),
        ("accuracy >= best_single - 0.4pp and cost <= 0.5*best_single", False),
        ("accuracy >= best_single or cost < best_single", True),
        ("accuracy >= best_single and cost < 1 or cost == 1", True),
        ("accuracy >= best_single and (cost < 1 or cost == 1)", False),
        ("accuracy > openai/gpt-4o", True),
        ("accuracy >= 'openai/gpt-4o' + 5%", True),
        ("accuracy > 'openai/gpt-4o' + 5%", False),
        ("accuracy > 'openai/gpt-4o' + 5.1%", False),
        ("cost <= $1.00", True),
        ("$0.99 >= cost", False),
        ("(cost + 1) * 2 <= best_single * (1 + 1)", True),
        ("difference_low >= -0.5pp", True),
        ("cost_ratio <= 0.5", True),
        ("cost / best_single <= 50%", True),
        ("cost / (best_single - 2) <= 50%", False),
    ],
)
def test_a_gate_compares_one_measure_with_the_same_of_another_arm(text: str, passed: bool) -> None:
    assert Gate(text).judge("mine", ARMS).passed is passed


def test_what_is_unknown_never_passes() -> None:
    assert not Gate("latency <= best_single").judge("mine", ARMS).passed
    assert not Gate("latency > best_single").judge("mine", ARMS).passed
    (check,) = Gate("latency_p95 <= 3").judge("mine", ARMS).checks
    assert str(check) == "latency_p95 <= 3: not met (unknown against 3)"


def test_every_comparison_is_shown_with_its_numbers() -> None:
    judgement = Gate("accuracy >= best_single - 0.5pp and cost <= 0.4*best_single").judge("mine", ARMS)
    assert [str(check) for check in judgement.checks] == [
        "accuracy >= best_single - 0.5pp: met (0.9 against 0.9)",
        "cost <= 0.4*best_single: not met (1 against 0.8)",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got the end"),
        ("accuracy", "expected one of <= >= == != < > behind 'accuracy', got the end"),
        ("accuracy >=", "expected a number, a measure or an arm behind 'accuracy >=', got the end"),
        ("accuracy => 1", "cannot read '=> 1'"),
        ("accuracy >= 1 cost <= 2", "expected `and`, `or` or the end behind 'accuracy >= 1', got 'cost'"),
        ("best_single >= 1", "is about no measure"),
        ("accuracy >= cost", "is about 2 measures (accuracy, cost)"),
        ("accuracy >= (best_single", "expected `)`"),
        ("accuracy >= __import__('os')", "got '('"),
        ("accuracy ** 9 >= 1", "expected a number"),
        ("(" * 60 + "accuracy >= 1", "more than 50 brackets"),
        ("-" * 600 + "accuracy >= 1", "more than 50 brackets"),
        ("accuracy >= " + "1+" * 2000 + "1", "the most is 2,000"),
    ],
)
def test_a_gate_that_cannot_be_read_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gate(text)
    assert words in str(caught.value)


def test_an_arm_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'best_singel', which is neither .*; did you mean 'best_single'\?"):
        Gate("accuracy >= best_singel").judge("mine", ARMS)


def test_a_name_that_nothing_can_be_said_of_is_found_before_there_is_anything_to_say() -> None:
    gate = Gate("accuracy >= best_single and (cost <= 2*mine or cost <= 'a b')")
    gate.check(["mine", "best_single", "a b"])
    with pytest.raises(
        UsageError, match=r"names 'a b', which is neither a measure nor an arm; there are: best_single, mine"
    ):
        gate.check(["mine", "best_single"])
