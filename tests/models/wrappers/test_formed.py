"""Tools over a schema, for models that call none by themselves."""

import json
from typing import Any

import pytest

from fusion import Fusion, ModelInfo, Pipeline, Say, ScriptedModel
from fusion.core.errors import BadResponseError, ShapeError
from fusion.core.schema import validate
from fusion.core.types import File, Message, Reply, Request, ToolCall, ToolSpec, Usage
from fusion.models.catalog import calls_tools, lookup
from fusion.models.structured.partial import FieldDeltas, text_of
from fusion.models.wrappers.formed import Formed, form_of

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolSpec(name="weather", description="The weather of a city.", parameters=CITY)
CLOCK = ToolSpec(name="clock")
OSLO = ToolCall(id="p1", name="weather", arguments='{"city": "Oslo"}')
HERE = ModelInfo(id="local/small", provider="local", local=True, json_schema=True)


class Heard:
    """Deltas as they were received; a restart is None."""

    committed = False

    def __init__(self) -> None:
        self.said: list[str | None] = []

    def add(self, text: str) -> None:
        self.said.append(text)

    def restart(self) -> None:
        self.said.append(None)


def asked(*more: Message, tools: tuple[ToolSpec, ...] = (WEATHER, CLOCK), **fields: Any) -> Request:
    messages = (Message(role="user", content="Weather in Oslo?"), *more)
    return Request(messages=messages, max_tokens=500, tools=tools, **fields)


async def replied(script: Any, request: Request, heard: Heard | None = None) -> tuple[Reply, ScriptedModel]:
    model = ScriptedModel(script, info=HERE)
    return await Formed(model).complete(request, heard), model


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        ('{"tool": "weather", "arguments": {"city": "Oslo"}}', "weather", {"city": "Oslo"}),
        ('{"tool": "clock", "arguments": {}}', "clock", {}),
        ('{"tool": "clock", "arguments": {"zone": [1, {"a": "ø"}]}}', "clock", {"zone": [1, {"a": "ø"}]}),
        ('```json\n{"tool": "weather", "arguments": {"city": "Oslo"}}\n```', "weather", {"city": "Oslo"}),
        ('I call {"tool": "weather", "arguments": {"city": "Oslo"}}', "weather", {"city": "Oslo"}),
    ],
)
async def test_a_tool_that_the_reply_names_is_called(said: str, name: str, arguments: Any) -> None:
    reply, model = await replied(said, asked())
    (call,) = reply.tool_calls
    assert (call.name, json.loads(call.arguments), reply.text, reply.finish_reason) == (
        name,
        arguments,
        "",
        "tool_calls",
    )
    (sent,) = model.requests
    assert sent.tools == ()
    assert sent.json_schema is not None
    assert "- weather: The weather of a city." in sent.messages[0].content


@pytest.mark.parametrize("said", ["It is cold.", "Two\nlines", 'a "quote" and \\', "ø ☃ 😀", "{}"])
async def test_an_answer_is_its_text_and_streams_out_of_the_form(said: str) -> None:
    form = json.dumps({"answer": said})
    heard = Heard()
    pieces = [form[at : at + 3] for at in range(0, len(form), 3)]
    reply, _ = await replied(Say(pieces=pieces), asked(), heard)
    assert (reply.text, reply.tool_calls, reply.finish_reason) == (said, (), "stop")
    assert "".join(piece or "" for piece in heard.said) == said


async def test_a_call_of_a_tool_streams_nothing() -> None:
    heard = Heard()
    await replied('{"tool": "clock", "arguments": {"answer": "no"}}', asked(), heard)
    assert heard.said == []


async def test_a_reply_that_misses_the_form_is_asked_for_once_more_and_paid() -> None:
    usage = Usage(input=10, output=5)
    script = [Say('{"tool": "news", "arguments": {}}', usage=usage), Say('{"answer": "Cold."}', usage=usage)]
    heard = Heard()
    reply, model = await replied(script, asked(), heard)
    assert (reply.text, reply.usage.input, reply.usage.output, reply.cost) == ("Cold.", 20, 10, None)
    assert "cannot be used" in model.requests[1].messages[-1].content
    assert heard.said == [None, "Cold."]


@pytest.mark.parametrize(
    ("said", "error"),
    [("no JSON at all", ShapeError), ('{"tool": "weather", "arguments": {}}', ShapeError), ('{"answer": " "}', None)],
)
async def test_a_reply_without_any_use_fails(said: str, error: type[Exception] | None) -> None:
    with pytest.raises(error or BadResponseError):
        await replied(said, asked())


async def test_a_truncated_answer_keeps_its_words() -> None:
    reply, _ = await replied(Say('{"answer": "It is co\\u00', finish_reason="length"), asked())
    assert (reply.text, reply.finish_reason) == ("It is co", "length")


@pytest.mark.parametrize(
    ("choice", "takes", "refuses"),
    [
        ("auto", ['{"answer": "x"}', '{"tool": "clock", "arguments": {}}'], ['{"tool": "news", "arguments": {}}']),
        ("required", ['{"tool": "clock", "arguments": {}}'], ['{"answer": "x"}']),
        ("clock", ['{"tool": "clock", "arguments": {}}'], ['{"tool": "weather", "arguments": {"city": "O"}}']),
        ("weather", ['{"tool": "weather", "arguments": {"city": "O"}}'], ['{"tool": "weather", "arguments": {}}']),
        ("auto", ['{"answer": ""}'], ['{"answer": "x", "tool": "clock"}', '{"answer": 5}']),
    ],
)
def test_the_form_holds_to_the_choice(choice: str, takes: list[str], refuses: list[str]) -> None:
    form = form_of((WEATHER, CLOCK), choice, None)
    assert all(validate(json.loads(one), form) == [] for one in takes)
    assert all(validate(json.loads(one), form) for one in refuses)


def test_definitions_of_tools_and_of_the_answer_keep_apart() -> None:
    def pointing(kind: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/Part"}, "b": {"type": "array", "items": {"$ref": "#/$defs/Part"}}},
            "$defs": {"Part": {"anyOf": [{"type": kind}, {"$ref": "#/$defs/Other"}]}, "Other": {"type": "null"}},
        }

    tools = (
        ToolSpec(name="one", parameters=pointing("string")),
        ToolSpec(name="two", parameters=pointing("integer")),
    )
    form = form_of(tools, "auto", {"$ref": "#/definitions/Top", "definitions": {"Top": {"type": "boolean"}}})
    good = [
        {"tool": "one", "arguments": {"a": "x", "b": ["y", None]}},
        {"tool": "two", "arguments": {"a": 1, "b": [2]}},
        {"answer": True},
    ]
    bad = [{"tool": "one", "arguments": {"a": 1}}, {"tool": "two", "arguments": {"b": ["x"]}}, {"answer": "x"}]
    assert all(validate(one, form) == [] for one in good)
    assert all(validate(one, form) for one in bad)


async def test_a_schema_of_the_answer_is_a_part_of_the_form() -> None:
    heard = Heard()
    reply, _ = await replied('{"answer": {"city": "Oslo"}}', asked(json_schema=CITY), heard)
    assert (json.loads(reply.text), heard.said) == ({"city": "Oslo"}, [])


async def test_turns_of_tools_become_messages_that_any_model_reads() -> None:
    picture = File(media_type="image/png", data=b"x")
    turns = (
        Message(role="assistant", content="Let me look.", tool_calls=(OSLO, OSLO.model_copy(update={"id": "p2"}))),
        Message(role="tool", content="5 degrees", tool_call_id="p1"),
        Message(role="tool", content="snow </result>", tool_call_id="p2"),
        Message(role="user", content="In words.", files=((3, picture),)),
    )
    _, model = await replied('{"answer": "Cold."}', asked(*turns))
    said = model.requests[0].messages
    assert [one.role for one in said] == ["system", "user", "assistant", "user"]
    assert not any(one.tool_calls or one.tool_call_id for one in said)
    assert said[2].content.count('{"tool": "weather", "arguments": {"city": "Oslo"}}') == 2
    for words in ("The result of weather:", "5 degrees", "snow </result>", "In words."):
        assert words in said[3].content
    assert said[3].parts[1] == picture
    assert said[3].content.endswith("In words.")


@pytest.mark.parametrize("fields", [{"tools": ()}, {"tool_choice": "none"}])
async def test_without_tools_to_call_there_is_no_form(fields: dict[str, Any]) -> None:
    turns = (
        Message(role="assistant", content="", tool_calls=(OSLO,)),
        Message(role="tool", content="5 degrees", tool_call_id="p1"),
    )
    reply, model = await replied("Cold.", asked(*turns, **fields))
    assert reply.text == "Cold."
    (sent,) = model.requests
    assert (sent.json_schema, sent.tools) == (None, ())
    assert [one.role for one in sent.messages] == ["user", "assistant", "user"]


async def test_equal_calls_have_an_id_of_their_own_in_each_conversation() -> None:
    said = '{"tool": "weather", "arguments": {"city": "Oslo"}}'
    first = (await replied(said, asked()))[0].tool_calls[0]
    again = (await replied(said, asked()))[0].tool_calls[0]
    turns = (
        Message(role="assistant", content="", tool_calls=(first,)),
        Message(role="tool", content="?", tool_call_id=first.id),
    )
    later = (await replied(said, asked(*turns)))[0].tool_calls[0]
    assert first.id == again.id != later.id


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", ""),
        ('{"ans', ""),
        ('{"answer": "', ""),
        (' {\n "answer" : "ab', "ab"),
        ('{"answer": "a\\', "a"),
        ('{"answer": "a\\u00e', "a"),
        ('{"answer": "a\\u00e9', "aé"),
        ('{"answer": "\\ud83d', ""),
        ('{"answer": "\\ud83d\\ude00"', "😀"),
        ('{"answer": "a\\"b"} more', 'a"b'),
        ('{"tool": "answer"', ""),
        ('{"answer": 5}', ""),
    ],
)
def test_the_text_of_a_field_is_read_as_far_as_it_has_come(raw: str, text: str) -> None:
    assert text_of("answer", raw) == text
    heard = Heard()
    deltas = FieldDeltas(heard, "answer")
    for letter in raw:
        deltas.add(letter)
    assert "".join(piece or "" for piece in heard.said) == text


@pytest.mark.parametrize(
    ("model", "native"),
    [
        ("local/small", False),
        ("openai/gpt-5.6", True),
        ("deepseek/deepseek-reasoner", False),
        ("ollama/llama2", False),
        ("mycompany/unknown", True),
    ],
)
def test_the_catalog_tells_which_models_call_tools(model: str, native: bool) -> None:
    assert calls_tools(lookup(model)) is native


# The embedded model itself.


@pytest.mark.local
def test_an_embedded_model_calls_a_tool_and_answers_from_its_result(tmp_path: Any) -> None:
    tools = [{"name": "weather", "description": "The weather of a city now.", "parameters": CITY}]
    pipe = Pipeline.from_yaml(
        "inputs: {q: A question.}\nstages: {a: {kind: generate, role: bulk, temperature: 0}}\noutput: a\n"
    )
    with Fusion(model="local/small", store=tmp_path / "runs.db") as fusion:
        first = fusion.complete("What is the weather in Oslo now?", pipeline=pipe, answer={"tools": tools})
        (call,) = first.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})
        second = fusion.continue_run(first.run_id, {call.id: "7 degrees and rain"})
    assert second.tool_calls == ()
    assert "7" in second.text
