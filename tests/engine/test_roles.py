"""A role chosen by what an item needs: by its difficulty, by the capabilities that it asks for."""

from typing import Any

import pytest

from fusion import UsageError
from tests.conftest import pipeline, plan_text, run, said, scripted, subtasks

BY_ABILITY = """
inputs: {task: what is to be done}
roles: {coder: {chain: [scripted/coder], temperature: 0}}
stages:
  plan: {kind: plan, role: frontier}
  work:
    kind: map
    over: plan
    role:
      - {when: "'code' in item.capabilities", use: coder}
      - {when: item.difficulty >= 4, use: frontier}
      - {use: bulk}
    prompt: "do {{ item.title }}"
  answer: {kind: merge, over: work, strategy: concat, separator: ","}
output: answer
"""
PARTS = [
    {"difficulty": 1, "capabilities": []},
    {"difficulty": 5, "capabilities": ["code", "math"]},
    {"difficulty": 4, "capabilities": ["law"]},
    {"difficulty": 3, "capabilities": ["code"]},
]


def test_the_first_line_that_holds_says_who_works(fusion: Any) -> None:
    parts = [{**subtask, **part} for subtask, part in zip(subtasks(4), PARTS, strict=True)]

    def frontier(request: Any) -> str:
        return plan_text(parts) if "You are the planner" in said(request) else "hard"

    coder = scripted("coded", "coder")
    runner = fusion({"frontier": frontier, "bulk": "easy"}, models={"scripted/coder": coder})
    result, _ = run(runner, pipeline=pipeline(BY_ABILITY))
    assert (result.status, result.text) == ("ok", "easy,coded,hard,coded")
    assert [item.by for item in result.stages["work"].items] == [
        "scripted/bulk", "scripted/coder", "scripted/frontier", "scripted/coder",
    ]  # fmt: skip
    assert {request.temperature for request in coder.requests} == {0}
    roles = {line.role: line.calls for line in result.receipt.lines if line.stage == "work"}
    assert roles == {"bulk": 1, "coder": 2, "frontier": 1}


def test_a_role_that_nobody_declares_is_a_mistake(fusion: Any) -> None:
    text = BY_ABILITY.replace("roles: {coder: {chain: [scripted/coder], temperature: 0}}\n", "")

    with pytest.raises(UsageError, match=r"stages\.work\.role\.0\.use: no role 'coder' in the pipeline or profile"):
        run(fusion({"frontier": "x", "bulk": "y"}), pipeline=pipeline(text))
