"""plan: subtasks out of a stream, cut off, continued, wrong, too many, too few."""

import json
from typing import Any

from fusion import Say, ScriptedModel
from fusion.core.errors import ModelConnectionError
from tests.conftest import frontier, pipeline, plan_text, run, said, subtasks

PLAN = """
inputs: {task: what}
stages:
  plan: {kind: plan, max_subtasks: 12}
  work: {kind: map, over: plan}
output: {results: work, goal: plan.goal, constraints: plan.constraints, how: plan.merge_instructions}
"""


def planner(*replies: Any) -> ScriptedModel:
    return ScriptedModel(list(replies), name="scripted/frontier")


def worker() -> ScriptedModel:
    return ScriptedModel("done", name="scripted/bulk")


def test_goal_constraints_and_merge_instructions_are_fields(fusion: Any) -> None:
    result, _ = run(fusion({"frontier": planner(plan_text(subtasks(1))), "bulk": worker()}), pipeline=pipeline(PLAN))
    assert result.data == {"results": ["done"], "goal": "the goal", "constraints": ["short"], "how": "join"}


def test_a_plan_cut_off_after_5_of_12_is_continued_and_nothing_is_worked_twice(fusion: Any) -> None:
    text = plan_text(subtasks(12))
    cut = text.index('"title": "part 6"') + 20
    rest = json.dumps({"goal": "", "constraints": [], "merge_instructions": "", "subtasks": subtasks(12)[5:]})
    frontier_model, bulk = planner(Say(text[:cut], finish_reason="length"), rest), worker()
    result, _ = run(fusion({"frontier": frontier_model, "bulk": bulk}), pipeline=pipeline(PLAN))
    assert result.status == "ok"
    titles = [item.source["title"] for item in result.stages["work"].items]
    assert titles == [f"part {n}" for n in range(1, 13)]
    worked = [request.messages[-1].content for request in bulk.requests]
    assert len(worked) == len(set(worked)) == 12
    shown = json.loads(frontier_model.requests[1].messages[-2].content)
    assert [subtask["title"] for subtask in shown["subtasks"]] == titles[:5]
    assert "number 6" in frontier_model.requests[1].messages[-1].content


def test_a_stream_that_breaks_after_a_subtask_is_continued_not_retried(fusion: Any) -> None:
    text = plan_text(subtasks(3))
    cut = text.index('"title": "part 2"')
    rest = plan_text(subtasks(3)[1:])
    broken = Say(pieces=[text[:cut]], error=ModelConnectionError("the connection was dropped"))
    frontier_model, bulk = planner(broken, rest), worker()
    result, _ = run(fusion({"frontier": frontier_model, "bulk": bulk}), pipeline=pipeline(PLAN))
    assert [item.source["title"] for item in result.stages["work"].items] == ["part 1", "part 2", "part 3"]
    assert len(bulk.requests) == 3
    assert len(frontier_model.requests) == 2


def test_a_plan_that_is_prose_is_asked_for_once_more_with_its_errors(fusion: Any) -> None:
    frontier_model = planner("I would start by reading the text.", plan_text(subtasks(2)))
    result, _ = run(fusion({"frontier": frontier_model, "bulk": worker()}), pipeline=pipeline(PLAN))
    assert len(result.data["results"]) == 2
    again = frontier_model.requests[1].messages
    assert again[-2].content == "I would start by reading the text."
    assert "there is no JSON in the answer" in again[-1].content


def test_a_plan_that_is_prose_twice_fails_and_says_so(fusion: Any) -> None:
    result, _ = run(fusion({"frontier": lambda _: "no plan", "bulk": worker()}), pipeline=pipeline(PLAN))
    assert result.status == "failed"
    assert "no plan could be read, twice" in result.error.message


def test_a_plan_without_subtasks_is_asked_for_once_more_then_fails(fusion: Any) -> None:
    frontier_model = planner(plan_text([]), plan_text([]))
    result, _ = run(fusion({"frontier": frontier_model, "bulk": worker()}), pipeline=pipeline(PLAN))
    assert result.status == "failed"
    assert "subtasks" in result.error.message
    assert len(frontier_model.requests) == 2


def test_of_ten_thousand_subtasks_only_the_allowed_ones_are_taken(fusion: Any) -> None:
    bulk = worker()
    model = ScriptedModel(plan_text(subtasks(10_000)), name="scripted/frontier", respect_limit=False)
    result, _ = run(fusion({"frontier": model, "bulk": bulk}), pipeline=pipeline(PLAN))
    assert result.status == "ok"
    assert len(bulk.requests) == 12
    assert any("more than 12 subtasks" in note for note in result.notes)


def test_edges_that_lead_nowhere_are_dropped_and_said(fusion: Any) -> None:
    parts = subtasks(3)
    parts[0]["needs"] = [1, 2]
    parts[1]["needs"] = [1, 99, -4, True, "one"]
    parts[2]["needs"] = [1, 1, 2]
    result, _ = run(fusion({"frontier": planner(plan_text(parts)), "bulk": worker()}), pipeline=pipeline(PLAN))
    assert [item.needs for item in result.stages["plan"].items] == [(), (0,), (0, 1)]
    assert sum("not an earlier subtask" in note for note in result.notes) == 6


def test_schema_valid_lies_about_numbers_are_brought_into_bounds(fusion: Any) -> None:
    parts = subtasks(2)
    parts[0]["difficulty"], parts[1]["difficulty"] = 99, -7
    result, _ = run(fusion({"frontier": planner(plan_text(parts)), "bulk": worker()}), pipeline=pipeline(PLAN))
    assert [item.source["difficulty"] for item in result.stages["plan"].items] == [5, 1]


def test_a_number_is_not_taken_for_whole_while_its_digits_still_come(fusion: Any) -> None:
    text = plan_text(subtasks(1, difficulty=4))
    pieces = list(text)
    result, _ = run(fusion({"frontier": planner(Say(pieces=pieces)), "bulk": worker()}), pipeline=pipeline(PLAN))
    assert result.stages["plan"].items[0].source["difficulty"] == 4


def test_a_plan_inside_a_code_fence_or_with_slips_of_the_pen_is_read(fusion: Any) -> None:
    fenced = "Here it is:\n```json\n" + plan_text(subtasks(2)) + "\n```"
    slipped = plan_text(subtasks(1)).replace('"subtasks"', "'subtasks'")
    for text, count in ((fenced, 2), (slipped, 1)):
        result, _ = run(fusion({"frontier": planner(text), "bulk": worker()}), pipeline=pipeline(PLAN))
        assert len(result.stages["work"].items) == count


def test_the_word_subtasks_inside_a_string_does_not_begin_the_list(fusion: Any) -> None:
    plan = {
        "goal": 'say "subtasks": [{"title": "trap"}] aloud',
        "constraints": [],
        "merge_instructions": "",
        "subtasks": subtasks(1),
    }
    result, _ = run(fusion({"frontier": planner(json.dumps(plan)), "bulk": worker()}), pipeline=pipeline(PLAN))
    assert [item.source["title"] for item in result.stages["plan"].items] == ["part 1"]


def test_what_a_planner_writes_is_never_rendered_as_a_template(fusion: Any) -> None:
    parts = subtasks(1, instructions="{{ ''.__class__ }} {% for x in range(9) %}")
    bulk = worker()
    result, _ = run(fusion({"frontier": planner(plan_text(parts)), "bulk": bulk}), pipeline=pipeline(PLAN))
    assert result.status == "ok"
    assert "{{ ''.__class__ }} {% for x in range(9) %}" in said(bulk.requests[0])


def test_a_planner_that_fails_is_replaced_where_the_stage_escalates(fusion: Any) -> None:
    text = PLAN.replace("max_subtasks: 12", "role: bulk, on_error: escalate, escalate_to: frontier, max_subtasks: 12")
    bulk = ScriptedModel(lambda request: "" if "planner" in said(request) else "done", name="scripted/bulk")
    result, _ = run(fusion({"frontier": frontier(2), "bulk": bulk}), pipeline=pipeline(text))
    assert len(result.data["results"]) == 2
