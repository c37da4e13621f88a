"""`on_budget: finish`: an answer wherever `fail` has one, and a partial one where that stops."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fusion import Fusion, Limits, Pipeline, Price, Result, Say, ScriptedModel
from fusion.core.types import Usage
from fusion.models.tokens import InlineBounds
from tests.conftest import plan_text, run, subtasks
from tests.engine.test_random_runs import pipelines
from tests.stages.hands.doubles import Recorded, call, calls, results

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.002"))
EXAMPLES = settings(
    max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def steady(share: float) -> ScriptedModel:
    """Answers alike whatever it reads, and uses this share of what a call may cost by its closer bound."""
    bounds = InlineBounds()

    def script(request: Any) -> Say:
        usage = Usage(input=int(bounds.now(request) * share), output=int(request.max_tokens * share))
        return Say(_answer(request), usage=usage)

    return ScriptedModel(script, name="scripted/steady", price=PRICE, respect_limit=False)


def _answer(request: Any) -> str:
    properties = (request.json_schema or {}).get("properties", {})
    if "subtasks" in properties:
        return plan_text(subtasks(4))
    if "problem" in properties:
        return json.dumps({"problem": "", "verdict": "accept", "confidence": 0.9})
    if "route" in properties:
        return json.dumps({"route": properties["route"]["enum"][0]})
    if "confidence" in properties and "answer" in properties:
        return json.dumps({"answer": "5", "confidence": 0.9})
    if "verdict" in properties:
        return json.dumps({"issues": [], "verdict": "accept"})
    if "verdicts" in properties:
        return json.dumps({"verdicts": [{"number": 1, "issues": [], "verdict": "accept"}]})
    if "consensus" in properties:
        lists = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots", "evidence")
        return json.dumps({**{key: [] for key in lists}, "confidence": 0.9, "vote_settles": True})
    return json.dumps({"n": 1, "t": None}) if "n" in properties else "5"


def untimed(pipeline: Pipeline) -> Pipeline:
    """The pipeline without limits of its own, and without the luck of timing."""
    calm = {"timeout": None, "budget": None}
    stages = {name: stage.model_copy(update=calm) for name, stage in pipeline.stages.items()}
    stages = {
        name: stage.model_copy(update={"grace": None}) if stage.kind == "panel" else stage
        for name, stage in stages.items()
    }
    return pipeline.model_copy(update={"stages": stages, "budget": Limits()})


def outcome(pipeline: Pipeline, on_budget: str, budget: Limits, share: float, prompt: str | None = None) -> Result:
    with Fusion(profile="local", model=steady(share)) as fusion:
        changed = pipeline.model_copy(update={"on_budget": on_budget})
        return run(fusion, prompt, pipeline=changed, budget=budget)[0]


@st.composite
def caps(draw: st.DrawFn) -> dict[str, float]:
    """Some of the four limits, each as a multiple of what the run takes without any."""
    names = draw(st.lists(st.sampled_from(["usd", "tokens", "calls"]), min_size=1, max_size=2, unique=True))
    return {name: draw(st.sampled_from([0.8, 1.0, 1.3, 2.0, 3.0, 5.0, 8.0])) for name in names}


def limits(caps: dict[str, float], spent: Any, usage: int, calls: int, timed: bool) -> Limits:
    given: dict[str, Any] = {"seconds": 60} if timed else {}
    if "usd" in caps:
        given["usd"] = Decimal(str(round(float(spent) * caps["usd"], 6))) or Decimal(1)
    if "tokens" in caps:
        given["tokens"] = max(1, int(usage * caps["tokens"]))
    if "calls" in caps:
        given["calls"] = max(1, int(calls * caps["calls"]))
    return Limits(**given)


@EXAMPLES
@given(pipeline=pipelines(), caps=caps(), share=st.sampled_from([0.05, 0.3, 1.0]), timed=st.booleans())
def test_finish_has_an_answer_wherever_fail_has_one(
    pipeline: Pipeline, caps: dict[str, float], share: float, timed: bool
) -> None:
    pipeline = untimed(pipeline)
    free = outcome(pipeline, "fail", Limits(), share)
    assume(free.status != "failed")
    usage = sum(line.measured.usage.total for line in free.receipt.lines)
    budget = limits(caps, free.cost.usd, usage, free.receipt.calls, timed)
    if outcome(pipeline, "fail", budget, share).status != "failed":
        result = outcome(pipeline, "finish", budget, share)
        assert result.status != "failed", (budget, result.error)


INNER = """
name: inner
inputs: {task: What.}
defaults: {max_tokens: 80}
stages:
  m: {kind: map, over: "range(5) | list", role: bulk, prompt: "in {{ item.source }} {{ inputs.task }}"}
  r: {kind: review, over: m, role: bulk, prompt: "judge {{ item.source }}: {{ item }}"}
  out: {kind: merge, over: r, role: bulk, prompt: "merge"}
output: out
"""
TIGHT = {
    "nested pipelines": """
stages:
  a: {kind: pipeline, pipeline: ./inner.yaml, inputs: {task: inputs.task}}
  b: {kind: pipeline, pipeline: ./inner.yaml, inputs: {task: "'other ' ~ inputs.task"}}
  answer: {kind: generate, role: bulk, prompt: "join {{ a }} {{ b }}"}
output: answer
""",
    "a nested pipeline as the last stage": """
stages:
  work: {kind: map, over: "range(3) | list", role: bulk, prompt: "do {{ item.source }}"}
  answer: {kind: pipeline, pipeline: ./inner.yaml, inputs: {task: "work.items | length | string"}}
output: answer
""",
    "items of which the merge needs three": """
stages:
  work: {kind: map, over: "range(4) | list", role: bulk, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, min_ok: 3, role: bulk, prompt: "merge {{ items | length }}"}
output: answer
""",
    "a plan before it": """
stages:
  plan: {kind: plan, role: bulk, prompt: plan}
  work: {kind: map, over: plan, role: bulk, prompt: "do {{ item.title }}"}
  answer: {kind: merge, over: work, role: bulk, prompt: merge}
output: answer
""",
    "a panel and its synthesis": """
stages:
  panel: {kind: panel, members: [{role: bulk, samples: 3}], prompt: answer, min_ok: 2}
  answer: {kind: synthesize, over: panel, role: bulk, prompt: "write {{ answers | length }}"}
output: answer
""",
    "a chain of single calls": """
stages:
  first: {kind: generate, role: bulk, prompt: "draft {{ inputs.task }}", max_tokens: 400}
  second: {kind: generate, role: bulk, prompt: "better {{ first }}", max_tokens: 400}
  answer: {kind: generate, role: bulk, prompt: "best {{ second }}", max_tokens: 400}
output: answer
""",
}


@pytest.mark.parametrize("name", TIGHT)
@pytest.mark.parametrize("times", ["1.0", "1.4", "2.5"])
def test_a_tight_limit_in_dollars_leaves_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, times: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("inner.yaml").write_text(INNER)
    Path("tight.yaml").write_text(f"inputs: {{task: What.}}\ndefaults: {{max_tokens: 80}}{TIGHT[name]}")
    pipeline = Pipeline.from_yaml(Path("tight.yaml").read_text(), file="tight.yaml")
    spent = outcome(pipeline, "fail", Limits(), 0.2, prompt="go").cost.usd
    budget = Limits(usd=spent * Decimal(times))
    results = {mode: outcome(pipeline, mode, budget, 0.2, prompt="go") for mode in ("fail", "finish")}
    assert results["finish"].status != "failed" or results["fail"].status == "failed", results["finish"].error
    assert all(result.cost.usd <= budget.usd for result in results.values() if budget.usd is not None)


def test_what_was_borrowed_is_held_again_for_the_last_stage(fusion: Any) -> None:
    text = """
inputs: {task: What.}
on_budget: finish
defaults: {max_tokens: 1000}
stages:
  draft: {kind: generate, role: bulk, prompt: "draft {{ inputs.task }}"}
  work: {kind: map, over: "range(30) | list", role: bulk, prompt: "{{ draft }} {{ item.source }}", concurrency: 1}
  answer: {kind: merge, over: work, role: bulk, prompt: "merge"}
output: answer
"""
    result, _ = run(fusion({"bulk": steady(0.3)}), "go", pipeline=Pipeline.from_yaml(text), budget=Limits(usd="3.4"))
    assert result.status == "partial"
    assert 1 <= sum(item.ok for item in result.stages["work"].items) < 30


ALL_NEEDED = """
inputs: {task: What.}
defaults: {max_tokens: 80}
stages:
  work: {kind: map, over: "range(4) | list", role: bulk, min_ok: 4, concurrency: 1, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, min_ok: 4, role: bulk, prompt: "merge {{ items | length }}"}
output: answer
"""


@pytest.mark.parametrize("times", ["2.0", "2.2", "2.6"])
def test_a_refusal_that_borrowing_paid_for_leaves_the_run_whole(times: str) -> None:
    pipeline = Pipeline.from_yaml(ALL_NEEDED)
    spent = outcome(pipeline, "fail", Limits(), 0.2, prompt="go").cost.usd
    result = outcome(pipeline, "finish", Limits(usd=spent * Decimal(times)), 0.2, prompt="go")
    assert (result.status, result.failed) == ("ok", ())


HANDED = """
inputs: {task: What.}
defaults: {max_tokens: 50}
stages:
  work: {kind: map, over: "range(20) | list", role: bulk, prompt: "work {{ item.source }}"}
  answer: {kind: generate, role: frontier, prompt: "sum {{ work | length }}", tools: [search]%s}
output: answer
"""


def searching(steps: int) -> ScriptedModel:
    """Calls a tool in each step but the last, then answers."""

    def script(request: Any) -> Any:
        if request.tools and len(results(request)) < steps - 1:
            return calls(call("search", q="ice"))
        return Say("the sum" if request.tools else "worked", usage=Usage(input=40, output=5))

    return ScriptedModel(script, name="own/native", price=PRICE)


@pytest.mark.parametrize(
    ("keys", "budget", "steps", "worked"),
    [
        ("", {"calls": 10}, 5, 5),
        (", advisor: {role: frontier}", {"calls": 10}, 5, 5),
        (", max_steps: 3", {"calls": 10}, 3, 7),
        (", max_steps: 2", {"calls": 10}, 2, 8),
        (", max_steps: 8", {"calls": 100}, 8, 20),
        (", max_steps: 3, max_tool_calls: 2", {"usd": 200}, 3, 20),
        (", max_steps: 4", {"calls": 6}, 3, 3),
    ],
)
def test_the_steps_of_a_last_stage_with_tools_are_held_back(
    keys: str, budget: dict[str, Any], steps: int, worked: int
) -> None:
    pipeline = Pipeline.from_yaml(f"on_budget: finish\n{HANDED % keys}")
    tool = Recorded()
    with Fusion(profile="local", model=searching(steps), tools=[tool]) as fusion:
        result, _ = run(fusion, "x", pipeline=pipeline, budget=budget)
    assert (result.status, result.text) == ("ok" if worked == 20 else "partial", "the sum"), result.error
    assert len(tool.calls) == steps - 1
    assert len([item for item in result.stages["work"].items if item.ok]) == worked
