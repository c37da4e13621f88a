"""accept by recomputation: a figure in an answer is computed again from the inputs or the item, and compared."""

import json
from typing import Any

import pytest

from fusion import PipelineError
from tests.conftest import pipeline, run

ROWS = [{"amount": "1180.50", "tax": 0.1}, {"amount": "640.00", "tax": 0.2}, {"amount": "2814.00", "tax": 0.3}]
ONE = """
inputs: {question: a question, rows: {format: jsonl}, limit: {default: "5000"}}
stages:
  total:
    kind: cascade
    tiers: [cheap, strong]
    %s
    prompt: "{{ inputs.question }} {{ inputs.rows | table }}"
output: total
"""
SUM = """accept: {checks: {expression: "number == inputs.rows | sum(attribute='amount')"}}"""


def accepted(fusion: Any, accept: str, answer: Any, **inputs: Any) -> bool:
    """True if the answer of the cheap model is taken."""
    made = fusion({"cheap": answer, "strong": "from the strong model"})
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    result, _ = run(made, "What is to be paid?", pipeline=pipeline(ONE % accept), inputs={"rows": rows, **inputs})
    assert result.status == "ok", result.error
    return bool(result.text != "from the strong model")


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ("4634.50", True),
        ("The total is 4,634.50 euros.", True),
        ("1,180.50 + 640.00 + 2,814.00 = 4,634.5", True),
        (r"So it is \boxed{4634.5}, of 3 rows.", True),
        ("#### 4,634.50", True),
        ("The total is 4,634.51 euros.", False),
        ("4,634.50 less 10% is 4,171.05", False),
        ("It cannot be said.", False),
        ("46,345.0", False),
    ],
)
def test_a_sum_is_recomputed_from_the_inputs(fusion: Any, answer: str, taken: bool) -> None:
    assert accepted(fusion, SUM, answer) == taken


@pytest.mark.parametrize(
    ("expression", "answer", "taken"),
    [
        ("number == inputs.rows | length", "There are 3 rows.", True),
        ("number == inputs.rows | length", "There are 4 rows.", False),
        ("number == inputs.rows | sum(attribute='tax')", "0.6", True),
        ("number == inputs.rows | map(attribute='amount') | map('float') | max", "The highest is 2,814.", True),
        ("number == inputs.rows | map(attribute='amount') | map('float') | max", "The highest is 1,180.50.", False),
        ("number is not none and number < inputs.limit | int", "4999", True),
        ("number is not none and number < inputs.limit | int", "5001", False),
        ("number is not none and number < inputs.limit | int", "many", False),
        ("(number - inputs.rows | sum(attribute='amount')) | abs < 0.01", "4634.504", True),
        ("'4634' in value and number > 0", "4634", True),
    ],
)
def test_other_figures_are_recomputed_by_expression(fusion: Any, expression: str, answer: str, taken: bool) -> None:
    accept = f'accept: {{checks: {{expression: "{expression}"}}}}'
    assert accepted(fusion, accept, answer) == taken


@pytest.mark.parametrize(("total", "taken"), [(4634.5, True), (4634.0, False)])
def test_fields_of_data_are_recomputed(fusion: Any, total: float, taken: bool) -> None:
    accept = """schema: {total: number}
    accept: {checks: {expression: "value.total == inputs.rows | sum(attribute='amount')"}}"""
    made = fusion({"cheap": {"total": total}, "strong": {"total": -1.0}})
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    text = (ONE % accept).replace("output: total", "output: total.data")
    result, _ = run(made, "What is to be paid?", pipeline=pipeline(text), inputs={"rows": rows})
    assert (result.data["total"] == total) == taken


def test_it_is_recomputed_beside_agreement_and_with_another_stage(fusion: Any) -> None:
    text = """
inputs: {question: a question}
stages:
  rows: {kind: generate, role: reader, schema: {lines: [{amount: number}]}}
  total:
    kind: cascade
    tiers: [{roles: [cheap, other]}, strong]
    accept: {agree: 2, extract: number, checks: {expression: "number == rows.data.lines | sum(attribute='amount')"}}
output: total.text
"""
    lines = {"lines": [{"amount": 2.5}, {"amount": 4}]}
    for cheap, other, taken in (("6.5", "It is 6.5", "6.5"), ("7", "7", "strong"), ("6.5", "7", "strong")):
        made = fusion({"reader": lines, "cheap": cheap, "other": other, "strong": "strong"})
        assert run(made, "How much?", pipeline=pipeline(text))[0].text == taken


OVER = """
inputs: {invoices: {format: jsonl}}
stages:
  totals:
    kind: cascade
    over: inputs.invoices
    tiers: [cheap, strong]
    prompt: "{{ item.source.name }}: {{ item.source.lines | table }}"
    accept: {checks: {expression: "%s"}}
output: totals.items
"""
INVOICES = [
    {"name": "A", "lines": [{"amount": 10}, {"amount": 20.5}], "count": 2},
    {"name": "B", "lines": [{"amount": 1}], "count": 1},
    {"name": "C", "lines": [], "count": 0},
]


@pytest.mark.parametrize(
    ("expression", "says", "tiers"),
    [
        ("number == item.source.lines | sum(attribute='amount')", {"A": "30.50", "B": "1", "C": "0"}, [1, 1, 1]),
        (
            "number == item.source.lines | sum(attribute='amount')",
            {"A": "31", "B": "It is 1.00", "C": "-"},
            [2, 1, 2],
        ),
        ("number == item.lines | sum(attribute='amount')", {"A": "30.5", "B": "2", "C": "0"}, [1, 2, 1]),
        ("number == item.source.count", {"A": "2 lines", "B": "2 lines", "C": "0"}, [1, 2, 1]),
        ("number == item.source.lines | length", {"A": "none", "B": "1", "C": "0"}, [2, 1, 1]),
        ("number <= inputs.invoices | length", {"A": "4", "B": "3", "C": "2"}, [2, 1, 1]),
    ],
)
def test_each_item_is_recomputed_from_its_own_source(
    fusion: Any, expression: str, says: dict[str, str], tiers: list[int]
) -> None:
    def cheap(request: Any) -> str:
        return says[request.messages[-1].content[0]]

    made = fusion({"cheap": cheap, "strong": "strong"})
    rows = "".join(json.dumps(row) + "\n" for row in INVOICES)
    result, _ = run(made, None, pipeline=pipeline(OVER % expression), inputs={"invoices": rows})
    assert [item.tier for item in result.items] == tiers
    refused = [item.reason for item in result.items if item.tier == 2]
    assert all(f"this does not hold of it: {expression}" in reason for reason in refused)


def test_a_review_recomputes_too(fusion: Any) -> None:
    text = """
inputs: {invoices: {format: jsonl}}
stages:
  work: {kind: map, over: inputs.invoices, role: cheap, prompt: "{{ item.source.name }}"}
  review:
    kind: review
    over: work
    role: strong
    revisions: 0
    checks: {expression: "number == item.source.count"}
output: review
"""
    made = fusion({"cheap": "It is 2.", "strong": {"issues": [], "verdict": "accept"}})
    rows = "".join(json.dumps(row) + "\n" for row in INVOICES)
    result, _ = run(made, None, pipeline=pipeline(text), inputs={"invoices": rows})
    assert "this does not hold of it: number == item.source.count" in json.dumps(
        [one.failure.message for one in result.failed]
    )


def test_a_stage_named_number_is_read_as_before(fusion: Any) -> None:
    text = """
inputs: {question: a question}
stages:
  number: {kind: generate, role: reader}
  total:
    kind: cascade
    tiers: [cheap, strong]
    accept: {checks: {expression: "number == 'seven'"}}
output: total.text
"""
    made = fusion({"reader": "seven", "cheap": "8", "strong": "9"})
    assert run(made, "How much?", pipeline=pipeline(text))[0].text == "8"


@pytest.mark.parametrize("name", ["numbr", "nmber", "item"])
def test_an_unknown_variable_is_said_at_validation(fusion: Any, name: str) -> None:
    with pytest.raises(PipelineError, match=f"no stage or variable '{name}'"):
        accepted(fusion, f'accept: {{checks: {{expression: "{name} == 1"}}}}', "1")
