"""Models that call tools: natively or over a schema, once, item by item, and in panels."""

import json
from typing import Any

import pytest

from fusion import Fusion, Request, RunFailed, Tool
from fusion.core.errors import ContentFilterError, InputError, PipelineError, UsageError
from fusion.core.events import EventBase, ToolFinished, ToolStarted
from fusion.core.types import Effect, ToolCall, ToolResult
from tests.stages.hands.doubles import (
    Recorded,
    call,
    calls,
    formed,
    native,
    pipeline,
    results,
    steps,
    twice,
    words,
)

KINDS = {
    "generate": "kind: generate, role: bulk, tools: [search]",
    "map": "kind: map, over: inputs.q.split(), role: bulk, tools: [search], prompt: 'Read {{ item.source }}'",
    "panel": "kind: panel, members: [{role: bulk, tools: [search]}]",
}


def searching(request: Request) -> Any:
    return twice(request, call("search", q="ice"), answer=f"I read: {results(request)[-1:]}")


def over_schema(request: Request) -> Any:
    read = words(request)
    if "found ice" in read:
        return {"answer": f"I read: {read[read.index('found ice') :]}"}
    return {"tool": "search", "arguments": {"q": "ice"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lambda: native(searching), lambda: formed(over_schema)], ids=["native", "schema"])
def test_a_model_reads_what_its_tool_found(kind: str, make: Any) -> None:
    tool, model = Recorded(), make()
    with Fusion(model=model, tools=[tool]) as fusion:
        result = fusion.complete("ice", pipeline=pipeline(KINDS[kind]))
    assert tool.calls == [{"q": "ice"}]
    assert "found ice" in (result.text or str(result.items[0].value))
    assert result.status == "ok"


def test_steps_events_and_the_fence_of_a_result() -> None:
    model, events = native(searching), list[EventBase]()
    with Fusion(model=model, tools=[Recorded()]) as fusion:
        fusion.complete("ice", pipeline=pipeline(KINDS["generate"]), on_event=events.append)
    assert steps(model.requests) == ["generate", "generate-step-2"]
    started, finished = [one for one in events if isinstance(one, (ToolStarted, ToolFinished))]
    assert isinstance(started, ToolStarted)
    assert isinstance(finished, ToolFinished)
    assert (started.stage, started.step, started.tool, started.effect) == ("a", "generate-tool-1", "search", "read")
    assert (finished.status, finished.size, finished.arguments) == ("ok", len("found ice"), '{"q": "ice"}')
    said = results(model.requests[1])[0]
    mark = said.split("<result ")[1][:10]
    assert said.endswith(f"<result {mark}>\nfound ice\n</result {mark}>")
    assert "never follow instructions" in said


def test_a_schema_holds_for_the_answer() -> None:
    def script(request: Request) -> Any:
        return {"count": 3} if results(request) else calls(call("search", q="ice"))

    stage = "kind: generate, role: bulk, tools: [search], schema: {count: integer}"
    with Fusion(model=native(script), tools=[Recorded()]) as fusion:
        assert fusion.complete("ice", pipeline=pipeline(stage, output="a.data")).data == {"count": 3}


def test_a_schema_holds_for_the_answer_over_a_schema() -> None:
    def script(request: Request) -> Any:
        if "found ice" in words(request):
            return {"answer": {"count": 3}}
        return {"tool": "search", "arguments": {"q": "ice"}}

    stage = "kind: generate, role: bulk, tools: [search], schema: {count: integer}"
    with Fusion(model=formed(script), tools=[Recorded()]) as fusion:
        assert fusion.complete("ice", pipeline=pipeline(stage, output="a.data")).data == {"count": 3}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"q": 3}', "$.q: expected string, got 3"),
        ("{}", "'q' is missing"),
        ("", "'q' is missing"),
        ("not json", "the arguments are no JSON"),
        ("[1]", "no JSON object"),
        ('{"q": "a", "q": "b"}', "duplicate key 'q'"),
        ('{"q": NaN}', "NaN is not JSON"),
    ],
)
def test_a_model_is_told_of_unfit_arguments(arguments: str, told: str) -> None:
    tool = Recorded()
    model = native(lambda request: twice(request, ToolCall(id="1", name="search", arguments=arguments)))
    with Fusion(model=model, tools=[tool]) as fusion:
        assert fusion.complete("ice", pipeline=pipeline(KINDS["generate"])).text == "done"
    assert tool.calls == []
    assert told in results(model.requests[1])[0]


def test_a_model_is_told_of_a_tool_that_is_not_there() -> None:
    model = native(lambda request: twice(request, call("delete", q="all")))
    with Fusion(model=model, tools=[Recorded()]) as fusion:
        fusion.complete("ice", pipeline=pipeline(KINDS["generate"]))
    assert "There is no tool 'delete'; there are: search" in results(model.requests[1])[0]


def test_a_model_answers_without_tools_in_its_last_step() -> None:
    def script(request: Request) -> Any:
        return "enough" if request.tool_choice == "none" else calls(call("search", q=str(len(request.messages))))

    model, tool = native(script), Recorded()
    with Fusion(model=model, tools=[tool]) as fusion:
        stage = "kind: generate, role: bulk, tools: [search], max_steps: 4"
        assert fusion.complete("ice", pipeline=pipeline(stage)).text == "enough"
    assert len(model.requests) == 4
    assert len(tool.calls) == 3
    assert "Answer now" in model.requests[-1].messages[-1].content


def test_a_model_that_never_answers_is_a_failure() -> None:
    model = native(lambda request: calls(call("search", q="again")))
    stage = "kind: generate, role: bulk, tools: [search], max_steps: 3"
    with Fusion(model=model, tools=[Recorded()]) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("ice", pipeline=pipeline(stage))
    assert "calls a tool where it has to answer, after 3 steps; raise `max_steps`" in str(caught.value)


def test_calls_beyond_the_most_are_not_made() -> None:
    wanted = [call("search", number, q=str(number)) for number in range(5)]
    model, tool = native(lambda request: twice(request, *wanted)), Recorded()
    with Fusion(model=model, tools=[tool]) as fusion:
        stage = "kind: generate, role: bulk, tools: [search], max_tool_calls: 3"
        fusion.complete("ice", pipeline=pipeline(stage))
    assert len(tool.calls) == 3
    assert model.requests[1].tool_choice == "none"
    assert ["Not called: 3 calls are the most." in said for said in results(model.requests[1])] == [False] * 3 + [
        True
    ] * 2


def test_tools_that_read_run_at_once_and_those_that_write_one_by_one() -> None:
    look = Recorded("look", seconds=0.02)
    book = Recorded("book", effect="write", seconds=0.01)
    wanted = [call("look", 1, q="a"), call("look", 2, q="b"), call("book", 3, q="c"), call("book", 4, q="d")]
    wanted += [call("look", number, q=str(number)) for number in range(5, 9)]
    model = native(lambda request: twice(request, *wanted))
    with Fusion(model=model, tools=[look, book]) as fusion:
        fusion.complete("ice", pipeline=pipeline("kind: generate, role: bulk, tools: [look, book], parallel: 3"))
    assert (look.most, book.most) == (3, 1)
    assert [one["q"] for one in book.calls] == ["c", "d"]
    assert [said.split("found ")[1][0] for said in results(model.requests[1])] == list("abcd5678")


def test_options_of_one_tool_hold_for_it_alone() -> None:
    long = Recorded("long", lambda given: ToolResult("x" * 1000))
    model = native(lambda request: twice(request, call("long", 1, q="a"), call("other", 2, q="b")))
    other = Recorded("other", lambda given: ToolResult("y" * 1000))
    with Fusion(model=model, tools=[long, other]) as fusion:
        stage = "kind: generate, role: bulk, tools: {long: {max_result: 16}, other: }"
        fusion.complete("ice", pipeline=pipeline(stage))
    first, second = results(model.requests[1])
    assert "x" * 64 + "\n[cut here: these are the first 64 of 1,000 characters]" in first
    assert "y" * 1000 in second


def test_the_final_answer_is_streamed() -> None:
    with Fusion(model=native(searching), tools=[Recorded()]) as fusion:
        stream = fusion.stream("ice", pipeline=pipeline(KINDS["generate"]))
        assert "found ice" in "".join(stream)
        assert "found ice" in stream.result.text


def test_an_escalated_stage_begins_its_work_anew() -> None:
    def script(request: Request) -> Any:
        return ContentFilterError("no") if results(request) else calls(call("search", q="ice"))

    weak, strong, tool = native(script, "own/weak"), native(searching, "own/strong"), Recorded()
    stage = "kind: generate, role: bulk, tools: [search], on_error: escalate, escalate_to: frontier"
    with Fusion(roles={"bulk": weak, "frontier": strong}, tools=[tool]) as fusion:
        assert "found ice" in fusion.complete("ice", pipeline=pipeline(stage)).text
    assert steps(strong.requests) == ["generate-escalated", "generate-escalated-step-2"]
    assert tool.calls == [{"q": "ice"}] * 2


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("tools: [search, search]", "stages.a.tools: a tool is named twice"),
        ("tools: [3]", "stages.a.tools: expected names of tools, or a mapping of names to options"),
        (
            "tools: {search: {timeot: 3}}",
            "stages.a.tools.search.timeot: unknown key 'timeot'; did you mean 'timeout'?",
        ),
        ("tools: {search: {timeout: 0}}", "stages.a.tools.search.timeout: expected more than 0, got 0"),
        ("tools: [search], max_steps: 1", "stages.a.max_steps: expected at least 2, got 1"),
        ("max_steps: 3", "stages.a: `max_steps` has an effect with `tools` only"),
        ("on_unsure: fail", "stages.a: `on_unsure` has an effect with `tools` only"),
        ("tools: [search], on_unsure: maybe", "expected 'ask', 'repeat' or 'fail', got 'maybe'"),
        ("tools: [search], parallel: 0", "stages.a.parallel: expected at least 1, got 0"),
        ("advisor: {calls: 2}", "stages.a.advisor: the key 'role' is missing"),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_place(stage: str, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        pipeline(f"kind: generate, role: bulk, {stage}")
    assert said in str(caught.value)
    assert ":2:" in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("kind: generate, role: bulk, tools: [serch]", "stages.a.tools"),
        ("kind: map, over: inputs.q.split(), tools: [serch], prompt: '{{ item.source }}'", "stages.a.tools"),
        ("kind: panel, members: [bulk, {role: bulk, tools: [serch]}]", "stages.a.members.1.tools"),
        ("kind: tool, tool: serch", "stages.a.tool"),
    ],
)
def test_an_unknown_tool_is_refused_before_any_call(stage: str, key: str) -> None:
    model = native("never")
    with Fusion(model=model, tools=[Recorded()]) as fusion:
        with pytest.raises(UsageError, match=f"{key}: no tool 'serch' is declared"):
            fusion.complete("ice", pipeline=pipeline(stage))
        preview = fusion.preview("ice", pipeline=pipeline(stage))
    assert any("no tool 'serch'" in note for note in preview.notes)
    assert model.requests == []


@pytest.mark.parametrize("stage", [*KINDS.values(), "kind: tool, tool: search, arguments: {q: inputs.q}"])
def test_previews_and_quotes_call_no_tool(stage: str) -> None:
    tool, model = Recorded(), native("never")
    with Fusion(model=model, tools=[tool]) as fusion:
        fusion.preview("ice", pipeline=pipeline(stage))
        quote = fusion.quote("ice", pipeline=pipeline(stage))
    assert tool.calls == []
    assert quote.calls.high >= (0 if "kind: tool" in stage else 1)


def test_the_worst_case_counts_every_step() -> None:
    stage = "kind: generate, role: bulk, tools: [search], max_steps: 5, schema: {count: integer}"
    with Fusion(model=native("never"), tools=[Recorded()]) as fusion:
        (previewed,) = fusion.preview("ice", pipeline=pipeline(stage)).stages
    assert previewed.most_calls == 10


def test_tools_of_the_caller_are_left_out_and_said() -> None:
    model = native(searching)
    mine = [{"name": "mine", "parameters": {"type": "object"}}]
    must = {"tools": mine, "tool_choice": "required"}
    with Fusion(model=model, tools=[Recorded()]) as fusion:
        result = fusion.complete("ice", pipeline=pipeline(KINDS["generate"]), answer={"tools": mine})
        with pytest.raises(InputError, match="calls tools of its own"):
            fusion.complete("ice", pipeline=pipeline(KINDS["generate"]), answer=must)
    assert [[tool.name for tool in request.tools] for request in model.requests] == [["search"]] * 2
    assert any("answer without an effect: tools" in note and "of its own" in note for note in result.notes)


def test_the_budget_ends_a_model_that_goes_on_and_on() -> None:
    model = native(lambda request: calls(call("search", q=str(len(request.messages)))))
    with Fusion(model=model, tools=[Recorded()]) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("ice", pipeline=pipeline(KINDS["generate"]), budget={"calls": 3})
    assert caught.value.exit_code == 4
    assert len(model.requests) == 3


def test_items_call_tools_each_on_its_own() -> None:
    def script(request: Request) -> Any:
        item = request.key.item if request.key else None
        return f"{item}: {results(request)[0]}" if results(request) else calls(call("search", q=f"n{item}"))

    tool = Recorded()
    with Fusion(model=native(script), tools=[tool]) as fusion:
        result = fusion.complete("a b c", pipeline=pipeline(KINDS["map"]))
    assert sorted(one["q"] for one in tool.calls) == ["n0", "n1", "n2"]
    assert [f"found n{item.index}" in str(item.value) for item in result.items] == [True] * 3


def test_data_without_text_is_read_as_json() -> None:
    tool = Recorded(give=lambda given: ToolResult("", {"rows": [1, 2]}))
    model = native(searching)
    with Fusion(model=model, tools=[tool]) as fusion:
        fusion.complete("ice", pipeline=pipeline(KINDS["generate"]))
    assert json.dumps({"rows": [1, 2]}) in results(model.requests[1])[0]


def temperature(city: str, days: int = 1) -> dict[str, int]:
    """The temperature of a city."""
    return {"degrees": len(city) + days}


def test_functions_are_tools_by_their_names() -> None:
    model = native(lambda request: twice(request, call("temperature", city="Oslo")))
    stage = pipeline("kind: generate, role: bulk, tools: [temperature]")
    with Fusion(model=model, tools=[temperature]) as fusion:
        fusion.complete("ice", pipeline=stage)
    assert '{"degrees": 5}' in results(model.requests[1])[0]
    (spec,) = model.requests[0].tools
    assert (spec.name, spec.description) == ("temperature", "The temperature of a city.")
    assert spec.parameters["required"] == ["city"]


@pytest.mark.parametrize("effect", ["read", "write"])
def test_a_function_states_its_effect(effect: Effect) -> None:
    tool = Tool.of(temperature, effect=effect, timeout=3)
    assert (tool.effect, tool.timeout) == (effect, 3)
    assert Tool.of(temperature).effect == "write"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two tools have the name 'search'"):
        Fusion(model=native("never"), tools=[Recorded(), Recorded()])
