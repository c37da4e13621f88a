"""Pipelines as models of litellm: whole and streamed, sync and async, with tools, schemas, costs and errors."""

import asyncio
import json
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Price, Request, Say, ScriptedModel
from fusion.core.errors import BadResponseError, InputError
from fusion.core.types import ToolCall
from fusion.plugins.chat import Pieces, spoken

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

    import fusion.plugins.litellm as plugin

HELLO = [{"role": "user", "content": "Weather in Oslo?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
WEATHER = {"type": "function", "function": {"name": "weather"}}
MISSED = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["b"]}}}
OTHER = {"role": "tool", "tool_call_id": "call_20200101-000000-abcdef_1", "content": "x"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://elsewhere.invalid/a.png"}}
OSLO = ToolCall(id="p1", name="weather", arguments='{"city": "Oslo"}')
PRICE = Price(input=Decimal("0.000001"), output=Decimal("0.000002"))


def saying(request: Request) -> Any:
    last = request.messages[-1]
    if last.role == "tool":
        return f"It is {last.content}."
    if request.json_schema is not None:
        return '{"n": 1}'
    return Say(tool_calls=(OSLO,)) if request.tools else Say(pieces=["a ", "plain ", "answer"])


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(saying, price=PRICE)


@pytest.fixture(autouse=True)
def fusion(model: ScriptedModel, tmp_path: Path) -> Iterator[Fusion]:
    with Fusion(model=model, store=tmp_path / "runs.db") as made:
        plugin.use(made)
        yield made
    plugin.use(None)


def whole(messages: Any, **options: Any) -> Any:
    return litellm.completion("fusion/single", messages=messages, **options)


def whole_async(messages: Any, **options: Any) -> Any:
    return asyncio.run(litellm.acompletion("fusion/single", messages=messages, **options))


def streamed(messages: Any, **options: Any) -> Any:
    return litellm.stream_chunk_builder(list(whole(messages, stream=True, **options)))


def streamed_async(messages: Any, **options: Any) -> Any:
    async def chunks() -> list[Any]:
        stream = await litellm.acompletion("fusion/single", messages=messages, stream=True, **options)
        return [chunk async for chunk in stream]

    return litellm.stream_chunk_builder(asyncio.run(chunks()))


WAYS = pytest.mark.parametrize("ask", [whole, whole_async, streamed, streamed_async])


@WAYS
def test_a_pipeline_answers(ask: Any) -> None:
    response = ask(HELLO)
    choice = response.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("a plain answer", "stop")
    assert response.usage.completion_tokens > 0


@WAYS
def test_a_tool_is_called_and_its_result_goes_on_with_the_run(ask: Any, model: ScriptedModel, fusion: Fusion) -> None:
    first = ask(HELLO, tools=TOOLS)
    (call,) = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "5 degrees"}
    second = ask([*HELLO, first.choices[0].message.model_dump(), result], tools=TOOLS)
    assert second.choices[0].message.content == "It is 5 degrees."
    assert [message.role for message in model.requests[-1].messages][-2:] == ["assistant", "tool"]
    newest, before = fusion.runs.list()
    assert newest.parent == before.run_id


def test_cost_run_and_ignored_fields_are_in_the_hidden_parameters(fusion: Fusion) -> None:
    response = whole(HELLO, metadata={"a": "b"}, extra_body={"shade": "low", "tags": {"team": "search"}})
    hidden = response._hidden_params
    (run,) = fusion.runs.list()
    assert hidden["fusion"]["run_id"] == run.run_id
    assert hidden["fusion"]["status"] == "ok"
    assert hidden["fusion"]["ignored"] == ["shade"]
    assert hidden["response_cost"] == float(run.cost.usd) > 0
    assert run.tags == {"team": "search"}


def test_options_that_the_pipeline_cannot_obey_are_named() -> None:
    response = litellm.completion("fusion/route-by-difficulty", messages=HELLO, seed=3, tools=TOOLS)
    assert response._hidden_params["fusion"]["ignored"] == ["tools"]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"temperature": 0.25}, {"temperature": 0.25}),
        ({"max_tokens": 30}, {"max_tokens": 30}),
        ({"max_completion_tokens": 20, "max_tokens": 30}, {"max_tokens": 20}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["A", "B"], "seed": 4, "top_p": 0.5}, {"stop": ("A", "B"), "seed": 4, "top_p": 0.5}),
        ({"extra_body": {"reasoning_effort": "low"}}, {"reasoning_effort": "low"}),
        ({"tools": TOOLS, "tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"tool_choice": "weather"},
        ),
    ],
)
def test_fields_reach_the_model_of_the_answer(
    given: dict[str, Any], seen: dict[str, Any], model: ScriptedModel
) -> None:
    whole(HELLO, **given)
    assert {name: getattr(model.requests[-1], name) for name in seen} == seen


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        {
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "strict": True,
                "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
            },
        },
    ],
)
@WAYS
def test_a_response_format_shapes_the_answer(ask: Any, form: dict[str, Any]) -> None:
    assert json.loads(ask(HELLO, response_format=form).choices[0].message.content) == {"n": 1}


@pytest.mark.parametrize(
    ("options", "kind", "status"),
    [
        ({"budget": {"usd": 0.0000001}}, "PaymentRequiredError", 402),
        ({"extra_body": {"budget": {"tokens": 1}}}, "PaymentRequiredError", 402),
        ({"inputs": {"nope": "x"}}, "BadRequestError", 400),
        ({"n": 2}, "BadRequestError", 400),
        ({"temperature": 3.0}, "BadRequestError", 400),
        ({"tools": [{"type": "web_search"}]}, "BadRequestError", 400),
        ({"extra_body": {"response_format": {"type": "grammar"}}}, "BadRequestError", 400),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "required": ["b"]}},
                }
            },
            "UnprocessableEntityError",
            422,
        ),
    ],
)
@pytest.mark.parametrize("ask", [whole, streamed_async])
def test_errors_are_those_of_litellm(ask: Any, options: dict[str, Any], kind: str, status: int) -> None:
    with pytest.raises(Exception) as caught:
        ask(HELLO, **options)
    assert (type(caught.value).__name__, getattr(caught.value, "status_code", None)) == (kind, status)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("fusion/nothing", HELLO),
        ("fusion/single", [{"role": "assistant", "content": "x"}]),
        (
            "fusion/single",
            [*HELLO, OTHER],
        ),
        ("fusion/fusion/single", HELLO),
        ("fusion/single", [{"role": "user", "content": [PICTURE]}]),
    ],
)
def test_requests_that_name_nothing_are_refused(name: str, messages: Any) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(name, messages=messages)


def test_a_role_cannot_be_a_pipeline_of_the_plug_in() -> None:
    from fusion import UsageError

    with Fusion(model="fusion/single") as other, pytest.raises(UsageError, match="no provider is known"):
        other.complete("x", pipeline="single")


def test_a_timeout_stops_the_run(tmp_path: Path) -> None:
    slow = ScriptedModel(Say("late", delay=30))
    with Fusion(model=slow) as made:
        plugin.use(made)
        with pytest.raises(litellm.Timeout):
            whole(HELLO, timeout=0.2)
        with pytest.raises(litellm.Timeout):
            whole_async(HELLO, timeout=0.2)
    assert slow.cancelled == 2


def test_an_answer_that_begins_again_with_other_words_ends_the_stream_with_an_error() -> None:
    pieces = Pieces()
    assert [pieces.new("one ", 0), pieces.new("two", 0)] == ["one ", "two"]
    assert [pieces.new("one ", 1), pieces.new("two three", 1), pieces.rest("one two three!")] == ["", " three", "!"]
    with pytest.raises(BadResponseError, match="began again"):
        pieces.new("other", 2)


def test_it_is_registered_once_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    plugin.register()
    whole(HELLO)
    assert [one["provider"] for one in litellm.custom_provider_map].count("fusion") == 1
    assert capfd.readouterr() == ("", "")


# Messages.

TEXT = {"type": "text", "text": "6"}


def call(run: str, number: int) -> dict[str, Any]:
    return {"id": f"call_{run}_{number}", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def result(run: str, number: int, text: Any = "5") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{run}_{number}", "content": text}


@pytest.mark.parametrize(
    ("more", "continues", "results", "turns"),
    [
        ([{"role": "assistant", "tool_calls": [call("r", 1)]}, result("r", 1)], "r", {"call_r_1": "5"}, 0),
        (
            [{"role": "assistant", "content": None, "tool_calls": [call("r-a_b", 1)]}, result("r-a_b", 1)],
            "r-a_b",
            {"call_r-a_b_1": "5"},
            0,
        ),
        (
            [result("r", 1), result("r", 2, [{"type": "text", "text": "6"}])],
            "r",
            {"call_r_1": "5", "call_r_2": "6"},
            0,
        ),
        ([result("r", 1), {"role": "user", "content": "go on"}], "r", {"call_r_1": "5"}, 1),
        ([result("r", 1), {"role": "assistant", "content": "5"}, {"role": "user", "content": "more"}], None, {}, 0),
        ([{"role": "tool", "tool_call_id": "toolu_9", "content": "5"}], None, {}, 0),
        ([result("r", 1), result("s", 1)], None, {}, 0),
    ],
)
def test_messages_that_end_in_results_go_on_with_their_run(
    more: Any, continues: Any, results: Any, turns: int
) -> None:
    found = spoken([{"role": "developer", "content": "Be brief."}, *HELLO, *more])
    assert (found.continues, found.results, len(found.turns)) == (continues, results, turns)
    if continues is None:
        assert [one["role"] for one in found.prompt][-1] == "user"
        assert all(isinstance(one["content"], str) for one in found.prompt)


def test_parts_of_results_are_texts() -> None:
    with pytest.raises(InputError, match="no text"):
        spoken([*HELLO, result("r", 1, [{"type": "image_url"}])])


def test_a_run_that_waits_for_a_person_is_an_error_that_names_it(fusion: Fusion, tmp_path: Path) -> None:
    (tmp_path / "asks.yaml").write_text(
        "inputs: {task: A task.}\nstages: {ask: {kind: gate, show: inputs.task}}\noutput: ask\n"
    )
    for stream in (False, True):
        with pytest.raises(Exception, match=r"waits for a person at 'ask': `fusion approve \S+` answers"):
            list(litellm.completion(f"fusion/{tmp_path / 'asks.yaml'}", messages=HELLO, stream=stream))
