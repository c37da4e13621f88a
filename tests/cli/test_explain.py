"""fusion explain: what it says is what the kinds are and do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, Request, ScriptedModel
from fusion.core.events import CallStarted
from fusion.core.schema import FORMS, check_shape, to_json_schema
from fusion.core.types import ToolResult, ToolSpec
from fusion.core.yaml import read_yaml
from fusion.stages.registry import kinds
from fusion.tools.base import Tool, Toolbox
from tests.cli.conftest import Command
from tests.conftest import plan_text, run, said, subtasks

TEXT = "Anna wants a bridge.\nBerta wants a boat.\nClara wants a plan."


def test_without_a_kind_every_kind_has_a_line(command: Command) -> None:
    done = command("explain")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == [*kinds(), "shapes"]
    assert all(len(line.split()) > 3 for line in done.out.splitlines())


@pytest.mark.parametrize("kind", kinds())
def test_a_kind_is_explained_whole(command: Command, kind: str) -> None:
    done = command("explain", kind)
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.split())
    for name, field in kinds()[kind].model_fields.items():
        if name != "kind":
            assert field.description is not None
            assert f" {field.alias or name} " in words
            assert " ".join(field.description.split()) in words
    for output in kinds()[kind].outputs:
        assert output.name in words
    assert "Cost" in done.out
    assert kinds()[kind].estimate.example
    assert all(f"  {line}" in done.out for line in kinds()[kind].estimate.example.splitlines())


def test_a_template_says_what_it_sees(command: Command) -> None:
    done = command("explain", "review")
    assert (
        "revise_prompt: review/revise, sees inputs, request, the stages named in it, confident, criteria, issues"
        in done.out
    )


def test_a_kind_that_is_not_there(command: Command) -> None:
    done = command("explain", "marge")
    assert (done.code, done.out) == (2, "")
    assert done.err == "fusion: no kind 'marge'; did you mean 'merge'?\n"


def test_short_types_are_explained_as_they_are(command: Command) -> None:
    done = command("explain", "shapes")
    assert (done.code, done.err) == (0, "")
    for form in FORMS:
        assert form.written in done.out
        assert json.dumps(to_json_schema(form.example)["properties"].popitem()[1]) in done.out
    shape, problems, _ = read_yaml(done.out.partition("Example\n  schema:\n")[2], file="example")
    assert not problems
    assert not check_shape(shape)
    assert command("explain", "shape").err == "fusion: no kind 'shape'; did you mean 'shapes'?\n"


class Told(Tool):
    """A tool that says the same to everything."""

    effect = "read"
    spec = ToolSpec(name="told", parameters={"type": "object"})

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        return ToolResult("12 degrees", {"degrees": 12})


class AnyTool(Toolbox):
    """A toolbox with a tool, or a function, for every name."""

    async def find(self, name: str) -> tuple[Tool, ...]:
        return (Told(),)

    def check(self, name: str) -> None:
        """Take every name."""


@pytest.mark.parametrize("kind", kinds())
def test_an_example_is_valid_and_runs(fusion: Callable[..., Fusion], kind: str) -> None:
    result, events = run(
        fusion(model=ScriptedModel(willing, name="scripted/willing"), tools=AnyTool()),
        TEXT,
        pipeline=example(kind),
        on_gate=lambda gate: True,
    )
    assert result.status == "ok"
    assert result.text
    assert_bounded(example(kind), events)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("more", [{}, {"on_error": "escalate", "escalate_to": "frontier"}])
def test_the_most_calls_hold_whatever_models_say(
    fusion: Callable[..., Fusion], kind: str, more: dict[str, Any]
) -> None:
    pipeline = example(kind)
    changed = {name: stage.model_copy(update=more) for name, stage in pipeline.stages.items()}
    pipeline = pipeline.model_copy(update={"stages": changed})
    for script in (useless, never_content, cut_off):
        _, events = run(
            fusion(model=ScriptedModel(script, name="scripted/difficult"), tools=AnyTool()),
            TEXT,
            pipeline=pipeline,
            on_gate=lambda gate: True,
        )
        assert_bounded(pipeline, events)


def example(kind: str) -> Pipeline:
    return Pipeline.from_yaml(kinds()[kind].estimate.example, file="example.yaml")


def assert_bounded(pipeline: Pipeline, events: list[Any]) -> None:
    """No stage makes more calls than it says that it makes at most."""
    for name, stage in pipeline.stages.items():
        made = sum(isinstance(event, CallStarted) and event.stage == name for event in events)
        most = stage.estimate.calls(stage, 6 if "plan" in pipeline.stages else 3, None)
        assert (most is None) == (stage.kind == "pipeline")  # which makes none itself
        assert made <= (most or 0)


def willing(request: Request) -> Any:
    """A plan of three, or something in the shape that is asked for."""
    if "You are the planner" in said(request):
        return plan_text(subtasks(3))
    return "done" if request.json_schema is None else of_shape(request.json_schema)


def useless(request: Request) -> str:
    return plan_text(subtasks(3)) if "You are the planner" in said(request) else "no shape at all"


def never_content(request: Request) -> Any:
    """Wants everything revised."""
    if "verdict" in str(request.json_schema):
        return {"issues": [{"quote": "", "problem": "wrong"}], "verdict": "revise"}
    return willing(request)


def cut_off(request: Request) -> str:
    return plan_text(subtasks(3))[:400]


def of_shape(schema: dict[str, Any]) -> Any:
    """The least that holds to a schema."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {name: of_shape(part) for name, part in schema["properties"].items()}
        case "array":
            return [of_shape(schema["items"])] * schema.get("minItems", 0)
        case "string":
            return "word"
        case "boolean":
            return True
        case _:
            return 1


def test_what_a_quote_supposes_of_a_kind_is_said(command: Command) -> None:
    said = command("explain", "review").out
    assert "Assumed in a quote\n  An answer in text has 200 tokens" in said
    assert "75 of 100 verdicts accept" in said
    assert "Supposed" not in command("explain", "vote").out


def test_an_explanation_fits_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = command("explain", "map").out
    monkeypatch.setattr("fusion.cli.terminal.width_of", lambda stream: 80)
    for words in (["explain", "map"], ["explain"]):
        assert max(map(len, command(*words).out.splitlines())) <= 80
    assert sorted(command("explain", "map").out.split()) == sorted(wide.split())


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_an_explanation_shows_nothing_of_the_inside(command: Command, kind: str) -> None:
    said = command("explain", kind).out
    keys = said[said.index("\nKeys\n") : said.index("\nOutput fields")]
    assert (
        re.findall(r"\bnull\b|\[\]|\{\}|Undefined|<class|object at|FieldInfo|(?<!\w)_[a-z]\w*|/home|/root", keys)
        == []
    )
    assert str(Path.home()) not in said
