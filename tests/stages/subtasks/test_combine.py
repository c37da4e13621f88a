"""Combination of subtasks' values by code: sums, extremes, lists and tables."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from fusion import Pipeline
from fusion.core.types import Item, Request
from fusion.stages.subtasks.combine import computed, is_shown
from tests.conftest import run, said


def items(*values: Any, kind: str = "number") -> list[Item]:
    return [
        Item(index=at, source={"title": f"Part {at + 1}", "value": kind}, value={"answer": "a", "value": value})
        for at, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("how", "values", "text"),
    [
        ("sum", (0.1, 0.2), "0.3"),
        ("sum", (1180.5, 20, 3), "1203.5"),
        ("sum", (10**17, 1), "100000000000000001"),
        ("sum", (-5, 5), "0"),
        ("difference", (3, 10.5), "7.5"),
        ("difference", (10.5, 3), "7.5"),
        ("average", (1, 2), "1.5"),
        ("average", (1, 1, 2), "1.333333"),
        ("average", (100, 300), "200"),
        ("count", (1, 2, 3), "3"),
        ("highest", (3, 9, 4), "Part 2: 9"),
        ("highest", (9, 9, 4), "Part 1, Part 2: 9"),
        ("lowest", (3, 9.5, 2.5), "Part 3: 2.5"),
        ("list", (3, 9), "- Part 1: 3\n- Part 2: 9"),
        ("table", (3, 9), "| Part | Value |\n| --- | --- |\n| Part 1 | 3 |\n| Part 2 | 9 |"),
    ],
)
def test_values_are_combined_exactly(how: str, values: tuple[float, ...], text: str) -> None:
    found = computed(how, items(*values))
    assert (found.text, found.values, found.missing) == (text, len(values), ())


@pytest.mark.parametrize(
    ("how", "given", "missing"),
    [
        ("sum", items(1, None), ("Part 2",)),
        ("sum", [*items(1), Item(index=1, source={"title": "Lost", "value": "number"})], ("Lost",)),
        ("sum", items("many"), ("Part 1",)),
        ("sum", items(True), ("Part 1",)),
        ("difference", items(1, 2, 3), ()),
        ("difference", items(1), ()),
        ("sum", [], ()),
    ],
)
def test_nothing_is_computed_where_a_value_is_missing(how: str, given: list[Item], missing: tuple[str, ...]) -> None:
    found = computed(how, given)
    assert not found.done
    assert found.missing == missing


@pytest.mark.parametrize(
    ("number", "text", "shown"),
    [
        (1180.5, "It is 1180.50.", True),
        (1180.5, "It is 1,180.50 crowns", True),
        (1180.5, "It is 1.180,50 crowns", True),
        (1180.5, "It is 1 180,50 crowns", True),
        (1180.5, "It is 1\u00a0180,5", True),
        (1180.5, "It is 1'180.50", True),
        (18420, "Containers: 18,420", True),
        (-3, "it fell by 3 degrees", True),
        (0.5, "0,50", True),
        (12, "It is 120, or 1.2, or 112.", False),
        (1180, "1180.50", False),
        (7, "seven", False),
        (4, "", False),
    ],
)
def test_a_number_is_in_what_was_shown_in_any_usual_form(number: float, text: str, shown: bool) -> None:
    assert is_shown(number, text) is shown


TABLE = "| Part | Value |\n| --- | --- |\n| Oslo | fee 0.1 |\n| Rome | fee 0.2 |\n| Bern | fee 12 |"
FEES = {"Oslo": "0.1", "Rome": "0.2", "Bern": "12"}
MATERIAL = "\n".join(f"The fee of {town} is {fee}." for town, fee in FEES.items())


def played(
    fusion: Any, combine: Any, kind: str, *, work: Any = None, towns: Mapping[str, str] = FEES, pipeline: Any = None
) -> Any:
    """Run a plan with a subtask for each town; give the result and the requests of each role."""
    asked: dict[str, list[Request]] = {"frontier": [], "bulk": []}

    def frontier(request: Request) -> str:
        asked["frontier"].append(request)
        properties = (request.json_schema or {}).get("properties", {})
        if "subtasks" in properties:
            head = {"goal": "g", "constraints": [], "merge_instructions": "m", "combine": combine}
            rest = {"needs": [], "difficulty": 1, "capabilities": [], "expected_output": "", "criteria": []}
            subtasks = [{"title": town, "instructions": f"Fee of {town}.", **rest, "value": kind} for town in towns]
            return json.dumps({**head, "subtasks": subtasks})
        return json.dumps({"issues": [], "verdict": "accept"}) if "verdict" in properties else "in words"

    def bulk(request: Request) -> str:
        asked["bulk"].append(request)
        text = said(request)
        town = next(town for town in FEES if f"Fee of {town}." in text)
        if work is not None:
            return str(work(town))
        value = float(FEES[town]) if kind == "number" else f"fee {FEES[town]}"
        return json.dumps({"answer": f"The fee is {FEES[town]}.", "value": value})

    given = {"pipeline": pipeline or "plan-execute-review", "inputs": {"context": MATERIAL}}
    result, _ = run(fusion({"frontier": frontier, "bulk": bulk}), "fees?", **given)
    return result, asked


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("sum", "number", "12.3"),
        ("average", "number", "4.1"),
        ("count", "number", "3"),
        ("highest", "number", "Bern: 12"),
        ("lowest", "number", "Oslo: 0.1"),
        ("list", "text", "- Oslo: fee 0.1\n- Rome: fee 0.2\n- Bern: fee 12"),
        (
            "table",
            "text",
            "| Part | Value |\n| --- | --- |\n| Oslo | fee 0.1 |\n| Rome | fee 0.2 |\n| Bern | fee 12 |",
        ),
    ],
)
def test_a_combination_that_is_the_whole_answer_needs_no_call(fusion: Any, how: str, kind: str, text: str) -> None:
    result, asked = played(fusion, {"how": how, "only": True}, kind)
    assert result.text == text
    assert len(asked["frontier"]) == 1 + 3  # the plan and three verdicts


def test_the_merger_reads_what_code_computed(fusion: Any) -> None:
    result, asked = played(fusion, {"how": "sum", "only": False}, "number")
    assert result.text == "in words"
    assert "sum of 3 values" in said(asked["frontier"][-1])
    assert "\n12.3\n" in said(asked["frontier"][-1])


def test_a_number_that_is_not_in_the_material_is_not_summed(fusion: Any) -> None:
    def work(town: str) -> str:
        return json.dumps({"answer": "a", "value": 99 if town == "Rome" else float(FEES[town])})

    result, asked = played(fusion, {"how": "sum", "only": True}, "number", work=work)
    assert result.text == "in words"
    assert "Computed" not in said(asked["frontier"][-1])
    assert any("value 99" in note and "left out" in note for note in result.notes)
    assert "answer: the sum is not computed: no value of Rome" in result.notes


@pytest.mark.parametrize(
    ("number", "total"),
    [
        ("0.2000000000000457", "12.3"),
        ("0.20000000000000457e-0", "12.3"),
        ("0.19999999999999998", "12.3"),
        ("2.0000000000000001e-1", "12.3"),
        ("-0.2000000000000001", "11.9"),
        ("0.2001", None),
        ("0.21", None),
        ("2", None),
        ("1e999", None),
        (f"1{'0' * 400}", None),
    ],
)
def test_digits_that_a_model_did_not_mean_are_dropped(fusion: Any, number: str, total: str | None) -> None:
    """Small models go on with a number after its end, where a grammar lets them."""
    work = lambda town: f'{{"answer": "a", "value": {number if town == "Rome" else FEES[town]}}}'  # noqa: E731
    result, _ = played(fusion, {"how": "sum", "only": True}, "number", work=work)
    assert result.text == (total or "in words")


@pytest.mark.parametrize("combine", [None, {"how": "median", "only": True}, "sum", {"only": True}, 5])
def test_without_a_known_combination_workers_write_text(fusion: Any, combine: Any) -> None:
    result, asked = played(fusion, combine, "number", work=lambda town: f"{town} is cheap")
    assert result.text == "in words"
    assert all(request.json_schema is None for request in asked["bulk"])


@pytest.mark.parametrize(
    "stages",
    [
        "work: {kind: map, over: plan, role: bulk, schema: {fee: number}}\n  end: {kind: merge, over: work}",
        'work: {kind: map, over: plan, role: bulk}\n  end: {kind: render, template: "{{ work }}"}',
        "end: {kind: merge, over: plan}",
    ],
)
def test_a_plan_is_not_asked_for_a_combination_that_no_stage_makes(fusion: Any, stages: str) -> None:
    head = "inputs: {task: t, context: {default: '', stdin: true}}\nstages:\n  plan: {kind: plan}\n  "
    text = f"{head}{stages.replace('end:', 'last:')}\noutput: last"
    work = lambda town: json.dumps({"fee": 1})  # noqa: E731 - a reply in one line
    _, asked = played(fusion, None, "none", work=work, pipeline=Pipeline.from_yaml(text))
    schema = asked["frontier"][0].json_schema
    assert schema is not None
    assert "combine" not in schema["properties"]
    assert "value" not in schema["properties"]["subtasks"]["items"]["properties"]


def test_joined_values_are_the_answers_without_their_figures(fusion: Any) -> None:
    text = """
inputs: {task: t, context: {default: "", stdin: true}}
stages:
  plan: {kind: plan}
  work: {kind: map, over: plan, role: bulk}
  joined: {kind: merge, over: work, strategy: concat, separator: " "}
  total: {kind: merge, over: work}
output: {joined: joined, total: total}
"""
    result, _ = played(fusion, {"how": "sum", "only": True}, "number", pipeline=Pipeline.from_yaml(text))
    assert result.data == {"joined": "The fee is 0.1. The fee is 0.2. The fee is 12.", "total": "12.3"}
