"""Kind tool: one call of a tool, without a model, once or for each item."""

from typing import Any

import pytest

from fusion import Fusion, RunFailed
from fusion.core.errors import PipelineError
from fusion.core.types import ToolResult
from tests.stages.hands.doubles import Recorded, native, pipeline

ONCE = "kind: tool, tool: search, arguments: {q: inputs.q}"
EACH = "kind: tool, tool: search, over: inputs.q.split(), arguments: {q: item.source}"


def length(given: dict[str, Any]) -> ToolResult:
    return ToolResult(f"{given['q']} has {len(given['q'])}", {"length": len(given["q"])})


@pytest.mark.parametrize(
    ("output", "answer"),
    [("a", "ice has 3"), ("a.text", "ice has 3"), ("a.data.length", "3"), ("a.data.length + 1", "4")],
)
def test_text_and_data_of_one_call(output: str, answer: str) -> None:
    with Fusion(model=native("never"), tools=[Recorded(give=length)]) as fusion:
        assert fusion.complete("ice", pipeline=pipeline(ONCE, output=output)).text == answer


def test_items_are_called_for_at_once_and_in_order() -> None:
    tool = Recorded(give=length, seconds=0.01)
    with Fusion(model=native("never"), tools=[tool]) as fusion:
        result = fusion.complete("a bb ccc", pipeline=pipeline(EACH))
    assert [item.value for item in result.items] == [{"length": 1}, {"length": 2}, {"length": 3}]
    assert tool.most == 3
    assert [item.by for item in result.items] == ["search"] * 3


def test_a_failed_item_is_named_and_the_others_are_kept() -> None:
    def give(given: dict[str, Any]) -> ToolResult:
        return ToolResult("no such word", failed=True) if given["q"] == "bb" else length(given)

    with Fusion(model=native("never"), tools=[Recorded(give=give)]) as fusion:
        result = fusion.complete("a bb ccc", pipeline=pipeline(EACH))
    assert result.status == "partial"
    assert [item.ok for item in result.items] == [True, False, True]
    assert "tool 'search': no such word" in str(result.failed)


@pytest.mark.parametrize(
    ("keys", "failed"), [("on_error: fail", True), ("min_ok: 3", True), ("min_ok: 2", False), ("min_ok: 60%", False)]
)
def test_items_that_are_needed(keys: str, failed: bool) -> None:
    def give(given: dict[str, Any]) -> ToolResult:
        return ToolResult("no", failed=given["q"] == "bb")

    with Fusion(model=native("never"), tools=[Recorded(give=give)]) as fusion:
        if failed:
            with pytest.raises(RunFailed):
                fusion.complete("a bb ccc", pipeline=pipeline(f"{EACH}, {keys}"))
        else:
            assert fusion.complete("a bb ccc", pipeline=pipeline(f"{EACH}, {keys}")).status in ("ok", "partial")


def test_arguments_are_of_any_type() -> None:
    tool = Recorded(parameters={"type": "object"})
    keys = "arguments: {n: '1 + 2', on: 'true', list: '[inputs.q, 2]', map: \"{'k': inputs.q}\"}"
    with Fusion(model=native("never"), tools=[tool]) as fusion:
        fusion.complete("ice", pipeline=pipeline(f"kind: tool, tool: search, {keys}"))
    assert tool.calls == [{"n": 3, "on": True, "list": ["ice", 2], "map": {"k": "ice"}}]


def test_items_of_another_stage_are_arguments() -> None:
    tool = Recorded(parameters={"type": "object"})
    text = f"{EACH}}}, b: {{kind: tool, tool: all, arguments: {{of: a}}"
    everything = Recorded("all", parameters={"type": "object"})
    with Fusion(model=native("never"), tools=[tool, everything]) as fusion:
        fusion.complete("x y", pipeline=pipeline(text, output="b"))
    assert everything.calls == [{"of": ["found x", "found y"]}]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("kind: tool", "stages.a: the key 'tool' is missing"),
        ("kind: tool, tool: ''", "stages.a.tool: expected text of at least 1 characters"),
        ("kind: tool, tool: t, arguments: {q: inputs.z}", "stages.a.arguments.q: no input 'z'"),
        ("kind: tool, tool: t, arguments: {q: '1 +'}", "stages.a.arguments.q"),
        ("kind: tool, tool: t, arguments: [q]", "stages.a.arguments: expected a mapping"),
        ("kind: tool, tool: t, concurrency: 3", "`concurrency` has an effect with `over` only"),
        ("kind: tool, tool: t, max_result: 3", "stages.a.max_result: expected at least 16, got 3"),
        ("kind: tool, tool: t, role: bulk", "unknown key 'role'"),
        ("kind: tool, tool: t, on_unsure: never", "stages.a.on_unsure"),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_place(keys: str, said: str) -> None:
    with Fusion(model=native("never"), tools=[Recorded("t")]) as fusion, pytest.raises(PipelineError) as caught:
        fusion.complete("ice", pipeline=pipeline(keys))
    assert said in str(caught.value)


def test_unfit_arguments_fail_the_stage() -> None:
    tool = Recorded()
    text = "kind: tool, tool: search, arguments: {q: '3'}"
    with (
        Fusion(model=native("never"), tools=[tool]) as fusion,
        pytest.raises(RunFailed, match="expected string, got 3"),
    ):
        fusion.complete("ice", pipeline=pipeline(text))
    assert tool.calls == []
