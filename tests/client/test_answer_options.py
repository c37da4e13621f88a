"""Options of the stage that writes the answer: sampling, limits, schemas, tools; and runs that go on with results."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fusion import Fusion, Message, ModelInfo, Pipeline, Price, Request, RunFailed, Say, ScriptedModel, UsageError
from fusion.core.errors import ContentFilterError, InputError, PipelineError, StoreError
from fusion.core.events import Delta
from fusion.core.params import AnswerOptions
from fusion.core.result import run_of_call
from fusion.core.types import ToolCall
from fusion.engine.answering.effects import ignored_in

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
OSLO = ToolCall(id="p1", name="weather", arguments='{"city": "Oslo"}')
ROME = ToolCall(id="p2", name="weather", arguments='{"city": "Rome"}')

ENDS = {
    "generate": "stages: {answer: {kind: generate, role: bulk, temperature: 0.9, max_tokens: 100}}\noutput: answer",
    "generate.text": "stages: {answer: {kind: generate, role: bulk}}\noutput: answer.text",
    "merge": """
stages:
  parts: {kind: map, over: "['a', 'b']", role: bulk, prompt: "Part {{ item.source }}"}
  answer: {kind: merge, over: parts, role: frontier}
output: answer""",
    "tree": """
stages:
  parts: {kind: map, over: "['a', 'b', 'c', 'd']", role: bulk, prompt: "Part {{ item.source }}"}
  answer: {kind: merge, over: parts, role: frontier, strategy: tree, max_input: 1400, max_tokens: 100}
output: answer""",
    "synthesize": """
stages:
  panel: {kind: panel, members: [bulk, {role: bulk, temperature: 0.1}]}
  answer: {kind: synthesize, over: panel, role: frontier}
output: answer""",
    "nested": "stages: {report: {kind: pipeline, pipeline: single}}\noutput: report",
}
"""Pipelines by the kind of stage that writes their answer."""
OTHERS = {
    "cascade": """
stages: {answer: {kind: cascade, tiers: [bulk, frontier], accept: {checks: {contains: [a]}}}}
output: answer""",
    "panel": "stages: {answer: {kind: panel, members: [bulk]}}\noutput: answer",
    "map": """
stages: {answer: {kind: map, over: "['a']", role: bulk, prompt: "Do {{ item.source }}"}}
output: answer""",
    "concat": """
stages:
  parts: {kind: map, over: "['a', 'b']", role: bulk, prompt: "Part {{ item.source }}"}
  answer: {kind: merge, over: parts, strategy: concat}
output: answer""",
    "names": "stages: {a: {kind: generate, role: bulk}}\noutput: {first: a, again: a.text}",
    "expression": "stages: {a: {kind: generate, role: bulk}}\noutput: a ~ '!'",
    "vote": """
stages:
  panel: {kind: panel, members: {role: bulk, samples: 2}}
  answer: {kind: vote, over: panel, extract: text}
output: answer""",
}
"""Pipelines whose answer is that of no stage that obeys options."""


def of(text: str) -> Pipeline:
    return Pipeline.from_yaml(f"inputs: {{q: A question.}}\n{text}\n")


def saying(request: Request) -> Any:
    """Say the result of a tool; call the tool that is there; else answer."""
    if request.messages[-1].role == "tool":
        if request.json_schema is not None:
            return request.messages[-1].content
        return "It is " + " and ".join(one.content for one in request.messages if one.role == "tool")
    if request.json_schema is not None and not request.tools:
        return "{}"
    return Say(tool_calls=(OSLO,)) if request.tools else "a plain answer"


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(saying)


@pytest.fixture
def fusion(model: ScriptedModel, tmp_path: Path) -> Iterator[Fusion]:
    with Fusion(model=model, store=tmp_path / "runs.db") as made:
        yield made


# The stage that obeys.


@pytest.mark.parametrize("end", ENDS)
def test_the_stage_that_writes_the_answer_obeys_and_no_other(fusion: Fusion, model: ScriptedModel, end: str) -> None:
    answer = {"temperature": 0.25, "top_p": 0.5, "seed": 7, "stop": ["END"], "max_tokens": 60}
    result = fusion.complete("Why?", pipeline=of(ENDS[end]), answer=answer)
    last, before = model.requests[-1], model.requests[:-1]
    assert (last.temperature, last.top_p, last.seed, last.stop, last.max_tokens) == (0.25, 0.5, 7, ("END",), 60)
    assert all(one.seed is None and one.top_p is None for one in before)
    assert (result.finish_reason, result.tool_calls) == ("stop", ())
    assert ignored_in(result.notes) == ()


@pytest.mark.parametrize("end", ENDS)
def test_the_stage_that_writes_the_answer_calls_tools_of_the_caller(
    fusion: Fusion, model: ScriptedModel, end: str
) -> None:
    result = fusion.complete("Weather in Oslo?", pipeline=of(ENDS[end]), answer={"tools": [WEATHER]})
    assert [bool(one.tools) for one in model.requests] == [False] * (len(model.requests) - 1) + [True]
    assert (result.status, result.finish_reason, result.text, result.data) == ("ok", "tool_calls", "", None)
    (call,) = result.tool_calls
    assert (call.name, call.arguments) == ("weather", OSLO.arguments)
    assert run_of_call(call.id) == result.run_id
    before = len(model.requests)
    again = fusion.continue_run(result.run_id, {call.id: "5 degrees"})
    assert (again.text, again.finish_reason, again.tool_calls) == ("It is 5 degrees", "stop", ())
    assert len(model.requests) == before + 1
    assert fusion.runs.show(again.run_id).run.parent == result.run_id


@pytest.mark.parametrize("end", OTHERS)
def test_other_ends_ignore_what_does_no_harm_and_say_so_once(fusion: Fusion, model: ScriptedModel, end: str) -> None:
    answer = {"seed": 7, "max_tokens": 1000, "tools": [WEATHER]}
    result = fusion.complete("Why?", pipeline=of(OTHERS[end]), answer=answer)
    assert sorted(ignored_in(result.notes)) == ["max_tokens", "seed", "tools"]
    assert len([note for note in result.notes if "without an effect" in note]) == 1
    assert all(one.seed is None and not one.tools for one in model.requests)
    assert result.finish_reason == "stop"


@pytest.mark.parametrize("end", OTHERS)
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"json_schema": {}}, "json_schema"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        ({"turns": [{"role": "user", "content": "And then?"}]}, "turns"),
    ],
)
def test_other_ends_refuse_what_would_change_the_answer(
    fusion: Fusion, model: ScriptedModel, end: str, answer: dict[str, Any], name: str
) -> None:
    with pytest.raises(InputError, match=f"answer.{name}: .*ends with a generate, merge or synthesize stage"):
        fusion.complete("Why?", pipeline=of(OTHERS[end]), answer=answer)
    assert model.requests == []
    assert list(fusion.answer_effects(answer, pipeline=of(OTHERS[end])).refused) == [name]


def test_a_route_to_roles_obeys_sampling_and_limits(fusion: Fusion, model: ScriptedModel) -> None:
    ways = "routes: {a: bulk, b: frontier}, rules: [{longer: 9, use: b}], default: a"
    route = of(f"stages: {{answer: {{kind: route, {ways}}}}}\noutput: answer")
    result = fusion.complete("Why?", pipeline=route, answer={"seed": 7, "max_tokens": 2, "tools": [WEATHER]})
    assert (model.requests[-1].seed, model.requests[-1].max_tokens) == (7, 2)
    assert (result.text, result.finish_reason) == ("a plain ", "length")
    assert ignored_in(result.notes) == ("tools",)


def test_a_handle_and_effects_name_what_is_ignored_ahead_of_the_answer(fusion: Fusion) -> None:
    answer = AnswerOptions(seed=7, tools=({"name": "x"},))
    handle = fusion.start("Why?", pipeline=of(OTHERS["panel"]), answer=answer)
    assert handle.ignored == ("seed", "tools")
    assert tuple(fusion.answer_effects(answer, pipeline=of(OTHERS["panel"])).ignored) == ("seed", "tools")
    assert fusion.answer_effects(answer, pipeline=of(ENDS["merge"])).ignored == {}
    handle.wait()


def test_parameters_that_the_model_refuses_are_left_out_and_named(tmp_path: Path) -> None:
    info = ModelInfo(id="own/strict", provider="own", refuses=frozenset({"temperature", "thinking_budget"}))
    model = ScriptedModel("yes", info=info)
    plain = of("stages: {answer: {kind: generate, role: bulk}}\noutput: answer")
    with Fusion(model=model) as fusion:
        result = fusion.complete("Why?", pipeline=plain, answer={"temperature": 0.1, "top_p": 0.5})
    assert (model.requests[0].temperature, model.requests[0].top_p) == (None, 0.5)
    assert ignored_in(result.notes) == ("temperature",)


def test_a_thinking_budget_above_the_limit_is_left_out(fusion: Fusion, model: ScriptedModel) -> None:
    result = fusion.complete("Why?", pipeline=of(ENDS["generate"]), answer={"thinking_budget": 80, "max_tokens": 60})
    assert model.requests[0].thinking_budget is None
    assert ignored_in(result.notes) == ("thinking_budget",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperature": 3}, "temperature: expected at most 2"),
        ({"max_tokens": 0}, "max_tokens: expected more than 0"),
        ({"tols": []}, "unknown key 'tols'; did you mean 'tools'"),
        ({"tool_choice": "required"}, "needs `tools`"),
        ({"tool_choice": "clock", "tools": [WEATHER]}, "the tools are: 'weather'"),
        ({"tools": [WEATHER, WEATHER]}, "two tools have the name 'weather'"),
        ({"turns": [{"role": "system", "content": "x"}]}, "turn 1 is a system message"),
        ({"turns": [{"role": "assistant", "content": "x"}]}, "the last turn is the assistant's"),
        ({"turns": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, "result of 'c'"),
        ({"turns": [{"role": "assistant", "content": "", "tool_calls": [OSLO]}]}, "have no result: p1"),
        (5, "`answer` is 5; give AnswerOptions"),
        ({"json_schema": {"type": "object", "properties": {"a": {"pattern": "("}}}}, "answer.json_schema"),
    ],
)
def test_wrong_options_are_refused_before_any_call(
    fusion: Fusion, model: ScriptedModel, given: Any, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        fusion.complete("Why?", pipeline=of(ENDS["generate"]), answer=given)
    assert says in str(caught.value)
    assert isinstance(caught.value, (PipelineError, InputError, UsageError))
    assert model.requests == []


# Limits.


@pytest.mark.parametrize(
    ("own", "given", "text", "calls", "finish"),
    [
        (100, 2, "one two ", 1, "length"),
        (2, 100, "one two 3 four", 2, "stop"),
        (2, 4, "one two 3 four", 2, "stop"),
        (2, 3, "one two ", 1, "length"),
        (100, 50, "one two 3 four", 1, "stop"),
    ],
)
def test_the_lower_limit_holds_and_a_text_that_meets_that_of_the_caller_is_the_answer(
    own: int, given: int, text: str, calls: int, finish: str
) -> None:
    def writing(request: Request) -> str:
        return "3 four" if request.messages[-2].role == "assistant" else "one two 3 four"

    model = ScriptedModel(writing)
    plain = of(f"stages: {{answer: {{kind: generate, role: bulk, max_tokens: {own}}}}}\noutput: answer")
    with Fusion(model=model) as fusion:
        result = fusion.complete("Go on", pipeline=plain, answer={"max_tokens": given})
    assert (result.text, len(model.requests), result.finish_reason) == (text, calls, finish)


def test_without_a_limit_of_the_caller_a_text_that_is_cut_off_still_fails() -> None:
    short = of("stages: {answer: {kind: generate, role: bulk, max_tokens: 2, continuations: 0}}\noutput: answer")
    with Fusion(model=ScriptedModel("one two 3 four")) as fusion, pytest.raises(RunFailed, match="cut off") as caught:
        fusion.complete("Go on", pipeline=short, answer={"seed": 1})
    assert caught.value.result.finish_reason is None


def test_a_filtered_answer_says_so() -> None:
    with (
        Fusion(model=ScriptedModel(Say("x", finish_reason="content_filter"))) as fusion,
        pytest.raises(RunFailed) as caught,
    ):
        fusion.complete("Go on", pipeline=of(ENDS["generate"]))
    assert caught.value.result.finish_reason == "content_filter"


# Schemas.


@pytest.mark.parametrize(
    ("schema", "reply", "data"),
    [
        ({}, '{"a": [1]}', {"a": [1]}),
        ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, '{"n": 3}', {"n": 3}),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}, '{"n": 3}', {"n": 3}),
        ({"title": "Any"}, '{"n": 3}', {"n": 3}),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "object"}}}, '```json\n{"n": 3}\n```', {"n": 3}),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
    ],
)
@pytest.mark.parametrize("end", ["generate", "generate.text", "nested"])
def test_a_schema_of_the_caller_shapes_the_answer(end: str, schema: Any, reply: str, data: Any) -> None:
    with Fusion(model=ScriptedModel(reply)) as fusion:
        result = fusion.complete("Count", pipeline=of(ENDS[end]), answer={"json_schema": schema})
    if end != "generate.text":
        assert result.data == data
    assert json.loads(result.text) == data


def test_a_reply_that_misses_the_schema_is_asked_for_once_more() -> None:
    model = ScriptedModel(['{"n": "three"}', '{"n": 3}'])
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with Fusion(model=model) as fusion:
        assert fusion.complete("Count", pipeline=of(ENDS["generate"]), answer={"json_schema": schema}).data == {
            "n": 3
        }
    assert "is not of type" in model.requests[1].messages[-1].content or "'three'" in str(model.requests[1].messages)


def test_tools_and_a_schema_go_together(fusion: Fusion) -> None:
    answer = {"tools": [WEATHER], "json_schema": {}}
    first = fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer=answer)
    assert first.tool_calls
    second = fusion.continue_run(first.run_id, {first.tool_calls[0].id: '{"degrees": 5}'})
    assert (second.data, second.text) == ({"degrees": 5}, '{"degrees": 5}')


def test_a_class_and_a_schema_are_not_both_given(fusion: Fusion) -> None:
    class Shape(BaseModel):
        a: int

    with pytest.raises(UsageError, match="both shape the answer"):
        fusion.complete("x", pipeline=of(ENDS["generate"]), schema=Shape, answer={"json_schema": {}})


# Streams.


def test_text_beside_calls_of_tools_streams_at_once() -> None:
    said = Say(pieces=["Let me ", "look."], tool_calls=(OSLO, ROME))
    with (
        Fusion(model=ScriptedModel(said)) as fusion,
        fusion.stream("Weather?", pipeline=of(ENDS["generate"]), answer={"tools": [WEATHER]}) as stream,
    ):
        assert list(stream) == ["Let me ", "look."]
    assert stream.result.text == "Let me look."
    assert [call.name for call in stream.result.tool_calls] == ["weather", "weather"]
    assert len({call.id for call in stream.result.tool_calls}) == 2
    shown = stream.result.to_openai()["choices"][0]
    assert (shown["finish_reason"], len(shown["message"]["tool_calls"])) == ("tool_calls", 2)


# Records.


def test_a_record_without_options_keeps_its_fingerprint(fusion: Fusion) -> None:
    same = [{}, {"answer": None}, {"answer": {}}, {"answer": AnswerOptions()}, {"answer": {"tool_choice": "auto"}}]
    found = {_fingerprint(fusion, **options) for options in same}
    other = [
        {"seed": 1},
        {"seed": 2},
        {"max_tokens": 9},
        {"tools": [WEATHER]},
        {"json_schema": {}},
        {"turns": [{"role": "user", "content": "x"}]},
    ]
    assert len(found) == 1
    assert len(found | {_fingerprint(fusion, answer=one) for one in other}) == 1 + len(other)


def _fingerprint(fusion: Fusion, **options: Any) -> str:
    result = fusion.complete("Why?", pipeline=of(ENDS["generate"]), **options)
    row = fusion.store.run(result.run_id)
    assert row is not None
    return row.fingerprint


def test_a_resumed_run_keeps_its_options(tmp_path: Path) -> None:
    answer = {"tools": [WEATHER], "seed": 3, "turns": [{"role": "user", "content": "In Oslo."}]}
    with (
        Fusion(model=ScriptedModel(ContentFilterError("no")), store=tmp_path / "r.db") as fusion,
        pytest.raises(RunFailed) as caught,
    ):
        fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer=answer)
    model = ScriptedModel(saying)
    with Fusion(model=model, store=tmp_path / "r.db") as fusion:
        result = fusion.resume(caught.value.result.run_id)
    assert result.finish_reason == "tool_calls"
    assert (model.requests[0].seed, model.requests[0].messages[-1].content) == (3, "In Oslo.")


def test_the_quote_and_the_budget_count_tools_schema_and_turns(precise: None) -> None:
    price = Price(input="0.001", output="0.001")  # type: ignore[arg-type]
    big = [{"name": f"tool{n}", "description": "x" * 400} for n in range(5)]
    schema = {"type": "object", "description": "y" * 2000}
    answer = {"tools": big, "json_schema": schema, "turns": [{"role": "user", "content": "z" * 2000}]}
    with Fusion(model=ScriptedModel("yes", price=price)) as fusion:
        plain = fusion.quote("Why?", pipeline=of(ENDS["generate"]))
        quote = fusion.quote("Why?", pipeline=of(ENDS["generate"]), answer=answer)
        assert quote.input.likely > plain.input.likely + 1400
        assert quote.usd.cap is not None
        assert plain.usd.cap is not None
        assert quote.usd.cap > plain.usd.cap + 6
        with pytest.raises(RunFailed, match="budget"):
            fusion.complete("Why?", pipeline=of(ENDS["generate"]), answer={"tools": big}, budget={"usd": 1})
        fusion.complete("Why?", pipeline=of(ENDS["generate"]), budget={"usd": 1})


# Going on.


def test_a_run_goes_on_with_results_turn_by_turn(fusion: Fusion, model: ScriptedModel) -> None:
    first = fusion.complete("Weather in Oslo?", pipeline=of(ENDS["synthesize"]), answer={"tools": [WEATHER]})
    made = len(model.requests)
    second = fusion.continue_run(
        first.run_id,
        {first.tool_calls[0].id: "5 degrees"},
        answer={"turns": [{"role": "user", "content": "And in Rome?"}], "seed": 9},
        tags={"turn": "2"},
    )
    assert second.tool_calls[0].id not in {call.id for call in first.tool_calls}
    third = fusion.continue_run(second.run_id, {second.tool_calls[0].id: "20 degrees"})
    assert third.text == "It is 5 degrees and 20 degrees"
    assert (len(model.requests), second.tags, third.tags) == (made + 2, {"turn": "2"}, {"turn": "2"})
    assert model.requests[-1].seed == 9
    said = [message for message in model.requests[-1].messages if message.role in ("assistant", "tool")]
    ids = [call.id for message in said for call in message.tool_calls]
    assert ids[0] == OSLO.id
    assert len(set(ids)) == 2
    assert [message.tool_call_id for message in said if message.role == "tool"] == ids
    assert third.receipt.cost.usd == 0
    assert third.receipt.reused == made - 1


def test_a_run_that_ended_with_a_text_goes_on_with_a_further_turn(fusion: Fusion, model: ScriptedModel) -> None:
    first = fusion.complete("Why?", pipeline=of(ENDS["merge"]))
    turns = (Message(role="user", content="Shorter."),)
    second = fusion.continue_run(first.run_id, answer=AnswerOptions(turns=turns))
    assert second.text == "a plain answer"
    assert [one.content for one in model.requests[-1].messages[-2:]] == ["a plain answer", "Shorter."]


def test_a_forced_choice_is_free_once_its_result_is_there(fusion: Fusion, model: ScriptedModel) -> None:
    forced = {"tools": [WEATHER], "tool_choice": "required"}
    first = fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer=forced)
    fusion.continue_run(first.run_id, {first.tool_calls[0].id: "5"})
    assert [one.tool_choice for one in model.requests] == ["required", "auto"]


@pytest.mark.anyio
async def test_a_run_goes_on_awaited_and_streamed(fusion: Fusion) -> None:
    first = await fusion.acomplete("Weather?", pipeline=of(ENDS["generate"]), answer={"tools": [WEATHER]})
    results = {first.tool_calls[0].id: "5 degrees"}
    assert (await fusion.acontinue_run(first.run_id, results)).text == "It is 5 degrees"
    said: list[str] = []

    def listen(event: Any) -> None:
        if isinstance(event, Delta):
            said.append(event.text)

    await fusion.start_continue(first.run_id, results, stream=True, on_event=listen).wait_async()
    assert "".join(said) == "It is 5 degrees"


def _no_call(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    return fusion.complete("Why?", pipeline=of(ENDS["generate"])).run_id, {"x": "5"}


def _unknown(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    first = fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer={"tools": [WEATHER]})
    return first.run_id, {first.tool_calls[0].id: "5", "call_other_1": "6"}


def _missing(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    return _unknown(fusion)[0], {}


def _no_text(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    run_id, results = _unknown(fusion)
    return run_id, {next(iter(results)): 5}


def _panel(fusion: Fusion) -> tuple[str, dict[str, Any]]:
    return fusion.complete("Why?", pipeline=of(OTHERS["panel"])).run_id, {}


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (_no_call, "ended without calls of tools"),
        (_unknown, "has no call 'call_other_1'"),
        (_missing, "waits for the results of call_"),
        (_no_text, "is int; give a text"),
        (_panel, "does not end with a generate, merge or synthesize stage"),
        (lambda fusion: ("nothing", {}), "no run 'nothing'"),
    ],
)
def test_results_that_do_not_fit_are_refused(
    fusion: Fusion, case: Callable[[Fusion], tuple[str, dict[str, Any]]], says: str
) -> None:
    run_id, results = case(fusion)
    with pytest.raises(UsageError) as caught:
        fusion.continue_run(run_id, results)
    assert says in str(caught.value)


def test_a_failed_run_and_one_without_words_cannot_go_on(tmp_path: Path) -> None:
    with Fusion(model=ScriptedModel(ContentFilterError("no")), store=tmp_path / "a.db") as fusion:
        with pytest.raises(RunFailed) as caught:
            fusion.complete("Why?", pipeline=of(ENDS["generate"]))
        with pytest.raises(UsageError, match="no answer to go on from"):
            fusion.continue_run(caught.value.result.run_id, {})
    with Fusion(model=ScriptedModel(saying), store=tmp_path / "b.db", content="digest") as fusion:
        first = fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer={"tools": [WEATHER]})
        with pytest.raises(StoreError, match="were not kept"):
            fusion.continue_run(first.run_id, {first.tool_calls[0].id: "5"})
    with Fusion(model=ScriptedModel(saying)) as fusion:
        first = fusion.complete("Weather?", pipeline=of(ENDS["generate"]), answer={"tools": [WEATHER]})
        with pytest.raises(UsageError, match="runs are not kept here"):
            fusion.continue_run(first.run_id, {first.tool_calls[0].id: "5"})


def test_what_failed_before_fails_again_and_is_not_asked_anew(tmp_path: Path) -> None:
    def odd(request: Request) -> Any:
        if "Part b" in request.messages[-1].content:
            return ContentFilterError("no")
        return saying(request)

    model = ScriptedModel(odd)
    with Fusion(model=model, store=tmp_path / "a.db") as fusion:
        first = fusion.complete("Weather?", pipeline=of(ENDS["merge"]), answer={"tools": [WEATHER]})
        assert first.status == "partial"
        made = len(model.requests)
        second = fusion.continue_run(first.run_id, {first.tool_calls[0].id: "5"})
    assert (second.status, second.text, len(model.requests)) == ("partial", "It is 5", made + 1)
