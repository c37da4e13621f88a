"""Pictures of pipelines."""

import json

from fusion.pipeline.diagram import draw
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Prompts
from tests.pipeline.test_check import FOUR, SHIPPED


def test_a_picture_in_text() -> None:
    pipeline, prompts = Pipeline.from_yaml(FOUR), Prompts(SHIPPED)
    assert (
        draw(pipeline, prompts)
        == """\
pipeline
1  plan    plan    frontier
2  work    map     frontier, bulk  plan.goal ->, plan.subtasks =>
3  review  review  frontier        work.items =>
4  answer  merge   frontier        plan.merge_instructions ->, review.items =>
output text: answer
output goal: plan.goal
"""
    )


def test_a_picture_in_mermaid() -> None:
    pipeline = Pipeline.from_yaml(FOUR.replace("role: frontier", 'role: "front\\"er<b>"'))
    assert (
        draw(pipeline, Prompts(SHIPPED), "mermaid")
        == """\
flowchart TD
  s_plan["plan<br/>plan: front#34;er#60;b#62;"]
  s_work["work<br/>map: frontier, bulk"]
  s_review["review<br/>review: frontier"]
  s_answer["answer<br/>merge: frontier"]
  s_plan ==>|"goal, subtasks"| s_work
  s_work ==>|"items"| s_review
  s_review ==>|"items"| s_answer
  output_0(["output text"])
  s_answer --> output_0
  output_1(["output goal"])
  s_plan --> output_1
"""
    )


def test_a_picture_in_dot() -> None:
    pipeline = Pipeline.from_yaml(FOUR.replace("role: frontier", 'role: "front\\"er"'))
    assert (
        draw(pipeline, Prompts(SHIPPED), "dot")
        == """\
digraph "pipeline" {
  node [shape=box]
  s_plan [label="plan\\nplan: front\\"er"]
  s_work [label="work\\nmap: frontier, bulk"]
  s_review [label="review\\nreview: frontier"]
  s_answer [label="answer\\nmerge: frontier"]
  s_plan -> s_work [label="goal, subtasks", style=bold]
  s_work -> s_review [label="items", style=bold]
  s_review -> s_answer [label="items", style=bold]
  output_0 [label="output text", shape=oval]
  s_answer -> output_0
  output_1 [label="output goal", shape=oval]
  s_plan -> output_1
}
"""
    )


def test_a_picture_as_json() -> None:
    told = json.loads(draw(Pipeline.from_yaml(FOUR), Prompts(SHIPPED), "json"))
    assert [stage["name"] for stage in told["stages"]] == ["plan", "work", "review", "answer"]
    work = {"name": "work", "kind": "map", "level": 2, "roles": ["frontier", "bulk"], "fields": ["items"]}
    assert told["stages"][1] == work
    assert {"source": "plan", "target": "work", "field": "subtasks", "flows": True} in told["edges"]
    assert {"source": "plan", "target": "work", "field": "goal", "flows": False} in told["edges"]
    assert told["output"]["goal"] == {"expression": "plan.goal", "stages": ["plan"]}
