"""Pipelines as tools: their arguments, journal, budget, failures, and the mistakes that a file is refused for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, RunFailed, ScriptedModel
from fusion.core.errors import ContentFilterError
from fusion.core.events import CallFinished
from fusion.core.types import ToolCall
from fusion.models.providers.scripted import Say
from fusion.pipeline.loader import check_file
from fusion.prompts.library import Library
from tests.conftest import run, said

INNER = """
description: Write about a topic.
inputs: {topic: What it is about, tone: {default: plain}, times: {default: 2}}
stages:
  draft: {kind: generate, role: bulk, prompt: "draft {{ inputs.topic }} {{ inputs.tone }} {{ inputs.times }}"}
  final: {kind: generate, role: bulk, prompt: "final {{ draft }}"}
output: final
"""
ONE = """
inputs: {task: {}}
stages:
  write: {kind: tool, tool: inner.yaml, arguments: {topic: inputs.task}%s}
output: write
"""
MODEL = """
inputs: {task: {}}
stages:
  work: {kind: generate, role: frontier, prompt: "work {{ inputs.task }}", tools: [inner.yaml]%s}
output: work
"""
Files = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(**texts: str) -> Path:
        for name, text in {"inner": INNER, **texts}.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / "outer.yaml"

    return write


def echo(role: str = "bulk") -> ScriptedModel:
    return ScriptedModel(lambda request: f"<{said(request)}>", name=f"scripted/{role}")


def calls(*arguments: str) -> Say:
    return Say(
        finish_reason="tool_calls",
        tool_calls=[ToolCall(id=f"c{at}", name="inner", arguments=one) for at, one in enumerate(arguments)],
    )


def problems(path: Path) -> list[str]:
    return [f"{problem.where}: {problem.message}" for problem in check_file(path, Library.standard()).problems]


def test_a_pipeline_is_called_without_a_model(fusion: Any, files: Files) -> None:
    bulk = echo()
    result, _ = run(fusion({"bulk": bulk}), "x", pipeline=files(outer=ONE % ""))
    assert result.text == "<final <draft x plain 2>>"
    assert [request.key.stage for request in bulk.requests if request.key] == [
        "write/inner/draft",
        "write/inner/final",
    ]


def test_a_model_calls_a_pipeline_with_arguments_by_its_inputs(fusion: Any, files: Files) -> None:
    frontier = ScriptedModel(
        [calls('{"topic": "a"}', '{"topic": "b", "times": 3}', '{"tone": "dry"}'), "done"], name="scripted/frontier"
    )
    result, events = run(fusion({"frontier": frontier, "bulk": echo()}), "x", pipeline=files(outer=MODEL % ""))
    assert result.text == "done"
    (tool,) = frontier.requests[0].tools
    assert (tool.name, tool.description) == ("inner", "Write about a topic.")
    assert tool.parameters["required"] == ["topic"]
    assert tool.parameters["properties"]["topic"] == {"type": "string", "description": "What it is about."}
    told = [message.content for message in frontier.requests[1].messages if message.role == "tool"]
    assert "<final <draft a plain 2>>" in told[0]
    assert "<final <draft b plain 3>>" in told[1]
    assert "the arguments do not fit the tool" in told[2]
    called = {event.stage for event in events if isinstance(event, CallFinished)}
    assert called == {"work", "work/inner/draft", "work/inner/final"}


def test_calls_over_items_are_apart(fusion: Any, files: Files) -> None:
    outer = """
inputs: {rows: {default: [a, b, a]}}
stages:
  write: {kind: tool, tool: inner.yaml, over: inputs.rows, arguments: {topic: item.source}}
output: write
"""
    bulk = echo()
    result, _ = run(fusion({"bulk": bulk}), None, pipeline=files(outer=outer))
    assert result.data == [f"<final <draft {one} plain 2>>" for one in "aba"]
    assert len({(key.stage, key.item, key.step) for request in bulk.requests if (key := request.key)}) == 6


def test_a_resumed_run_pays_no_call_of_a_pipeline_twice(files: Files, tmp_path: Path) -> None:
    seen: list[str] = []

    def reply(request: Any) -> Any:
        seen.append(said(request))
        return ValueError("down") if "final" in seen[-1] and len(seen) == 2 else f"<{seen[-1]}>"

    bulk = ScriptedModel(reply, name="scripted/bulk")
    with Fusion(profile="local", roles={"bulk": bulk}, store=tmp_path / "runs.db") as fusion:
        with pytest.raises(RunFailed) as failed:
            fusion.complete("x", pipeline=files(outer=ONE % ""))
        result = fusion.resume(failed.value.result.run_id)
    assert result.text == "<final <draft x plain 2>>"
    assert [one for one in seen if one.startswith("draft")] == ["draft x plain 2"]


@pytest.mark.parametrize(
    ("more", "budget", "code"),
    [
        (", budget: {calls: 1}", "", 4),
        ("", "budget: {calls: 1}", 4),
        ("", "", 3),
    ],
)
def test_budgets_around_a_pipeline_end_the_stage(
    fusion: Any, files: Files, more: str, budget: str, code: int
) -> None:
    inner = INNER if code == 4 else f"{INNER}\nbudget: {{calls: 1}}"
    path = files(inner=inner, outer=budget + ONE % more)
    with pytest.raises(RunFailed, match="calls") as failed:
        fusion({"bulk": echo()}).complete("x", pipeline=path)
    assert failed.value.exit_code == code


def test_the_own_budget_of_a_pipeline_is_a_failure_that_the_model_reads(fusion: Any, files: Files) -> None:
    frontier = ScriptedModel([calls('{"topic": "a"}'), "I could not"], name="scripted/frontier")
    path = files(inner=f"{INNER}\nbudget: {{calls: 1}}", outer=MODEL % "")
    result, _ = run(fusion({"frontier": frontier, "bulk": echo()}), "x", pipeline=path)
    assert (result.status, result.text) == ("ok", "I could not")
    assert "The call failed: " in frontier.requests[1].messages[-1].content


def test_lost_parts_of_a_pipeline_are_told(fusion: Any, files: Files) -> None:
    inner = """
inputs: {topic: What.}
stages:
  parts: {kind: split, text: inputs.topic, by: separator, separator: ","}
  work: {kind: map, over: parts, role: bulk, prompt: "{{ item.source.text }}"}
  whole: {kind: render, template: "{% for one in work %}{{ one.value or '-' }}{% endfor %}"}
output: whole
"""
    bulk = ScriptedModel(
        lambda one: ContentFilterError("blocked") if "b" in said(one) else said(one), name="scripted/bulk"
    )
    result, _ = run(fusion({"bulk": bulk}), "a,b,c", pipeline=files(inner=inner, outer=ONE % ""))
    assert result.text.startswith("a,-c\n[write/inner/work: ")


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        (ONE.replace("inner.yaml", "iner.yaml") % "", "stages.write.tool: "),
        (ONE.replace("inner.yaml", "pipeline:plan-execute-revew") % "", "plan-execute-review"),
        (ONE.replace("inner.yaml", "outer.yaml") % "", "the pipeline includes itself"),
        (MODEL.replace("[inner.yaml]", "[inner.yaml, sub/inner.yaml]") % "", "make tools of one name, 'inner'"),
        (ONE.replace("inner.yaml", "broken.yaml") % "", "'broken.yaml' has mistakes of its own"),
    ],
)
def test_pipelines_that_cannot_be_called_are_mistakes_of_the_file(files: Files, outer: str, message: str) -> None:
    path = files(outer=outer, broken="stages: {}\noutput: x")
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "inner.yaml").write_text(INNER)
    assert message in "\n".join(problems(path))


def test_a_quote_holds_the_calls_of_a_pipeline(fusion: Any, files: Files) -> None:
    quotes = fusion({"frontier": echo("frontier"), "bulk": echo()})
    without = quotes.quote("x", pipeline=files(outer=MODEL % ", max_tool_calls: 1"))
    path = files(outer=MODEL % ", max_tool_calls: 2")
    quote, inner = quotes.quote("x", pipeline=path), quotes.quote("x", pipeline=path.parent / "inner.yaml")
    lines = {line.stage for stage in quote.stages for line in stage.lines}
    assert {"work", "work/inner/draft", "work/inner/final"} <= lines
    assert quote.calls.most - without.calls.most == inner.calls.most
