"""Chat completions over real HTTP, by the openai SDK and by hand."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from fusion import Fusion, Say, ScriptedModel
from fusion.core.errors import BadRequestError, StageError
from fusion.core.types import Request, ToolCall, Usage
from tests.conftest import said
from tests.server.conftest import ECHO, Serve, Served, pipeline, serving

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n" + bytes(40)).decode()
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
DOCUMENT = """
name: document
inputs:
  question: {description: The question.}
  text: {description: A document., default: "", material: true}
stages:
  answer: {kind: generate, prompt: "{{ inputs.question }} | {{ material }}", max_tokens: 400}
output: answer
"""
TWO = """
name: two
inputs: {prompt: The question.}
stages:
  first: {kind: generate, prompt: "first {{ inputs.prompt }}", max_tokens: 50}
  answer: {kind: generate, prompt: "then {{ first }}", max_tokens: 50}
output: answer
"""
VOTE = """
name: vote
inputs: {prompt: The question.}
stages:
  panel: {kind: panel, members: {role: bulk, samples: 2}}
  answer: {kind: vote, over: panel, extract: text}
output: answer
"""
COST = {"prompt_tokens": 7, "completion_tokens": 3}


def answering(request: Request) -> Any:
    """Play a model: call the tool that is there, say what tools returned, fill a schema, else answer."""
    if request.messages[-1].role == "tool":
        return "It is " + " and ".join(one.content for one in request.messages if one.role == "tool")
    if request.json_schema is not None:
        return {"city": "Oslo", "degrees": 7}
    if request.tools and request.tool_choice != "none":
        calls = [ToolCall(id=f"x{n}", name="weather", arguments=json.dumps({"city": c})) for n, c in enumerate("AB")]
        return Say(tool_calls=calls)
    return Say(pieces=["the ", "whole ", "answer"], usage=Usage(input=7, output=3, cached_read=2, reasoning=1))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the module, on a model that answers as it is asked."""
    models = {role: ScriptedModel(answering, name=f"scripted/{role}") for role in ("frontier", "bulk")}
    texts = {"echo": ECHO, "document": DOCUMENT, "two": TWO, "vote": VOTE}
    store = tmp_path_factory.mktemp("chat") / "runs.db"
    with ExitStack() as running:
        fusion = running.enter_context(Fusion(profile="local", roles=models, store=store))
        pipelines = {name: pipeline(text) for name, text in texts.items()}
        yield running.enter_context(serving(fusion, models, pipelines=pipelines))


@pytest.fixture
def sdk(chat: Served) -> openai.OpenAI:
    return chat.openai()


def last(served: Served) -> Request:
    """The latest request to a model."""
    return served.models["frontier"].requests[-1]


def chunks(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, each of one `data:` line; comments are left out."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


# Answers.


def test_a_completion_is_the_answer_of_a_run(chat: Served, sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**chat.chat("What is it?"))
    answer = raw.parse()
    assert answer.choices[0].message.content == "the whole answer"
    assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "echo", "chat.completion")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.usage.model_extra is not None
    assert answer.usage.model_extra["cost"] == 0
    assert raw.headers["x-fusion-status"] == "ok"
    assert answer.id == f"chatcmpl-{raw.headers['x-fusion-run']}"
    assert chat.fusion.runs.find(raw.headers["x-fusion-run"]).status == "ok"


@pytest.mark.parametrize("usage", [None, False, True])
def test_a_stream_has_the_pieces_of_the_answer(chat: Served, usage: bool | None) -> None:
    options = {} if usage is None else {"stream_options": {"include_usage": usage}}
    answer = chat.post("/v1/chat/completions", chat.chat(stream=True, **options))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.endswith("data: [DONE]\n\n")
    found = chunks(answer.text)
    body = found[:-1] if usage else found
    assert body[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in body) == "the whole answer"
    assert [one["choices"][0]["finish_reason"] for one in body] == [None] * (len(body) - 1) + ["stop"]
    assert body[-1]["choices"][0]["delta"] == {}
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in found}) == 1
    if usage:
        assert (found[-1]["choices"], found[-1]["usage"]["total_tokens"]) == ([], 10)
        assert all(one["usage"] is None for one in body)


def test_the_async_sdk_streams(chat: Served) -> None:
    async def read() -> str:
        async with chat.async_openai() as client:
            stream = await client.chat.completions.create(**chat.chat(), stream=True)
            return "".join([one.choices[0].delta.content or "" async for one in stream])

    assert asyncio.run(read()) == "the whole answer"


def test_models_are_listed_as_the_client_knows_them(chat: Served, sdk: openai.OpenAI) -> None:
    assert {"echo", "vote"} <= {one.id for one in sdk.models.list()}
    assert sdk.models.retrieve("fusion/echo").id == "echo"
    with chat.client(headers={"anthropic-version": "2023-06-01"}) as client:
        listed = client.get("/v1/models").json()
    assert (listed["data"][0]["type"], listed["first_id"], listed["has_more"]) == ("model", "anthropic/echo", False)


# Options of the answer.


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ({"max_tokens": 30}, {"max_tokens": 30}),
        ({"max_completion_tokens": 20}, {"max_tokens": 20}),
        ({"max_tokens": 30, "max_completion_tokens": 20}, {"max_tokens": 20}),
        ({"max_tokens": 999_999}, {"max_tokens": 400}),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 3}, {"temperature": 0.5, "top_p": 0.9, "seed": 3}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["A", "B"]}, {"stop": ("A", "B")}),
        ({"n": 1, "stream": False, "temperature": None}, {"max_tokens": 400}),
    ],
)
def test_options_reach_the_model_that_answers(chat: Served, more: dict[str, Any], seen: dict[str, Any]) -> None:
    assert chat.post("/v1/chat/completions", chat.chat(**more)).status_code == 200
    request = last(chat)
    assert {name: getattr(request, name) for name in seen} == seen


def test_only_the_answer_has_the_options(chat: Served) -> None:
    before = len(chat.models["frontier"].requests)
    chat.post("/v1/chat/completions", chat.chat(model="two", temperature=0.3, max_tokens=9))
    first, answer = chat.models["frontier"].requests[before:]
    assert (first.max_tokens, answer.max_tokens) == (50, 9)
    assert (first.temperature, answer.temperature) == (None, 0.3)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"user": "me", "service_tier": "flex"}, "user, service_tier"),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs, top_logprobs"),
        (
            {"prompt_cache_key": "k", "verbosity": "low", "metadata": {"a": "b"}},
            "prompt_cache_key, verbosity, metadata",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0] (custom)"),
        ({"anything": {"at": ["all"]}, "null": None}, "anything"),
        ({"model": "vote", "temperature": 1, "max_tokens": 9}, "temperature, max_tokens"),
        ({"model": "vote", "tools": [WEATHER]}, "tools"),
    ],
)
def test_fields_without_an_effect_are_named_once(chat: Served, more: dict[str, Any], names: str) -> None:
    answer = chat.post("/v1/chat/completions", {**chat.chat(), **more})
    assert (answer.status_code, answer.headers["x-fusion-ignored"]) == (200, names)


class Weather(BaseModel):
    city: str
    degrees: int


def test_a_class_is_parsed(chat: Served, sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.parse(**chat.chat("Oslo?"), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=7)
    assert last(chat).json_schema is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": Weather.model_json_schema()}},
        {
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "strict": True,
                "schema": {"$schema": "http://json-schema.org/draft-07/schema#", **Weather.model_json_schema()},
            },
        },
    ],
)
def test_an_answer_has_the_form_that_is_asked_for(chat: Served, form: dict[str, Any], stream: bool) -> None:
    answer = chat.post("/v1/chat/completions", chat.chat(response_format=form, stream=stream))
    if stream:
        text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks(answer.text))
    else:
        text = answer.json()["choices"][0]["message"]["content"]
    assert json.loads(text) == {"city": "Oslo", "degrees": 7}


# Tools of the caller.


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_go_on(chat: Served, sdk: openai.OpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    before = len(chat.models["frontier"].requests)
    if stream:
        with sdk.chat.completions.stream(model="two", messages=messages, tools=[WEATHER]) as events:  # type: ignore[list-item]
            called = events.get_final_completion()
    else:
        called = sdk.chat.completions.create(model="two", messages=messages, tools=[WEATHER])  # type: ignore[list-item,assignment]
    choice = called.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [  # type: ignore[union-attr]
        ("weather", '{"city": "A"}'),
        ("weather", '{"city": "B"}'),
    ]
    messages.append(choice.message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": f"{n} degrees"} for n, call in enumerate(calls)]
    ended = sdk.chat.completions.create(model="two", messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert ended.choices[0].message.content == "It is 0 degrees and 1 degrees"
    asked = [said(request)[:5] for request in chat.models["frontier"].requests[before:]]
    assert asked.count("first") == 1  # earlier stages are not run again
    runs = [one.removeprefix("chatcmpl-") for one in (called.id, ended.id)]
    assert chat.fusion.runs.find(runs[1]).parent == runs[0]


@pytest.mark.parametrize("call_id", ["call_abc", "call_20200101-000000-aaaaaa_1", "toolu_1"])
def test_calls_of_another_program_are_turns_of_a_new_run(chat: Served, call_id: str) -> None:
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": [{"type": "text", "text": "7 degrees"}]},
    ]
    answer = chat.post("/v1/chat/completions", {"model": "echo", "messages": messages, "tools": [WEATHER]})
    assert answer.json()["choices"][0]["message"]["content"] == "It is 7 degrees"


def test_earlier_calls_of_tools_are_told_in_the_conversation(chat: Served) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "7 degrees"},
        {"role": "assistant", "content": "It is mild."},
        {"role": "user", "content": "And tomorrow?"},
    ]
    assert chat.post("/v1/chat/completions", {"model": "echo", "messages": messages}).status_code == 200
    words = said(last(chat))
    assert all(part in words for part in ("'weather'", "Oslo", "7 degrees", "It is mild.", "And tomorrow?"))


@pytest.mark.parametrize(
    ("choice", "seen"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
def test_the_choice_of_tools_reaches_the_model(chat: Served, choice: Any, seen: str) -> None:
    chat.post("/v1/chat/completions", chat.chat(tools=[WEATHER], tool_choice=choice))
    assert last(chat).tool_choice == seen


def test_a_caller_does_not_go_on_with_the_run_of_another(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_SECRET", "token-of-one")
    monkeypatch.setenv("TWO_SECRET", "token-of-two")
    served = serve(
        ScriptedModel(answering),
        pipelines={"two": pipeline(TWO)},
        table={"tokens": {"a": "ONE_SECRET", "b": "TWO_SECRET"}},
    )
    body = served.chat(model="two", tools=[WEATHER])
    called = served.post("/v1/chat/completions", body, **{"x-api-key": "token-of-one"}).json()
    message = called["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": one["id"], "content": "x"} for one in message["tool_calls"]]
    body["messages"] += [message, *results]
    for token, parent in (("token-of-two", None), ("token-of-one", called["fusion"]["run"])):
        answer = served.post("/v1/chat/completions", body, **{"x-api-key": token})
        assert answer.status_code == 200
        assert served.fusion.runs.find(answer.headers["x-fusion-run"]).parent == parent


# Messages.


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], ["a", "b"]),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}], ["Be brief."]),
        ([{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "x"}], ["Be kind."]),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "system", "content": "Late."},
                {"role": "user", "content": "y"},
            ],
            ["Late.", "y"],
        ),
        (
            [
                {"role": "user", "content": "old"},
                {"role": "assistant", "content": "older"},
                {"role": "user", "content": "new"},
            ],
            ["old", "older", "new"],
        ),
        ([{"role": "user", "content": "x", "name": "Ada"}], ["x"]),
    ],
)
def test_messages_are_prompt_conversation_and_system(chat: Served, messages: list[Any], words: list[str]) -> None:
    assert chat.post("/v1/chat/completions", {"model": "echo", "messages": messages}).status_code == 200
    assert all(word in said(last(chat)) for word in words)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "x.pdf"}},
    ],
)
def test_pictures_and_documents_are_attached(chat: Served, part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "What is it?"}, part]
    assert chat.post("/v1/chat/completions", chat.chat(content)).status_code == 200
    assert sum(len(message.files) for message in last(chat).messages) == 1


def text_file(text: bytes, kind: str = "text/plain", name: str = "notes.txt") -> dict[str, Any]:
    data = base64.b64encode(text).decode()
    return {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}", "filename": name}}


@pytest.mark.parametrize(
    ("model", "files", "seen"),
    [
        ("document", [b"the report"], "notes"),
        ("document", ["\ufeffBrüssel".encode()], "Br"),
        ("document", [b"one", b"two"], "two"),
        ("echo", [b"the report"], "<notes.txt"),
        ("vote", [b"the report"], "the report"),
    ],
)
def test_text_files_fill_the_material_or_go_before_the_prompt(
    chat: Served, model: str, files: list[bytes], seen: str
) -> None:
    content = [*map(text_file, files), {"type": "text", "text": "Sum up."}]
    assert chat.post("/v1/chat/completions", chat.chat(content, model=model)).status_code == 200
    words = said(chat.models["bulk" if model == "vote" else "frontier"].requests[-1])
    assert "Sum up." in words
    assert all(file.decode("utf-8-sig") in words for file in files)
    assert seen == "notes" or seen in words


def test_inputs_are_given_by_name(chat: Served, sdk: openai.OpenAI) -> None:
    extra = {"fusion": {"inputs": {"text": "the report"}, "tags": {"team": "search"}}}
    raw = sdk.chat.completions.with_raw_response.create(**chat.chat("Sum up.", model="document"), extra_body=extra)
    assert "the report" in said(last(chat))
    assert chat.fusion.runs.find(raw.headers["x-fusion-run"]).tags["team"] == "search"


# Refusals.


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}
                ]
            },
            None,
        ),
        ({"messages": [{"role": "user", "content": [text_file(b"\xff\xfe\xff")]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "y"}]},
            "messages",
        ),
        ({"n": 2}, "n"),
        ({"n": "two"}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [WEATHER, WEATHER]}, None),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}}, None),
        ({"model": "vote", "response_format": {"type": "json_object"}}, None),
        ({"model": "vote", "tools": [WEATHER], "tool_choice": "required"}, None),
        ({"fusion": {"budget": {"usd": 0}}}, "fusion.budget"),
        ({"fusion": {"budget": "cheap"}}, "fusion.budget"),
        ({"max_cost": -1}, "max_cost"),
        ({"max_cost": "dear"}, "max_cost"),
        ({"fusion": {"inputs": {"other": 1}}}, None),
        ({"fusion": {"tags": {"a": 1}}}, "fusion.tags"),
        ({"fusion": {"pipeline": "x"}}, "fusion.pipeline"),
        ({"fusion": []}, "fusion"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(chat: Served, more: dict[str, Any], param: str | None) -> None:
    calls = [len(model.requests) for model in chat.models.values()]
    answer = chat.post("/v1/chat/completions", {**chat.chat(), **more})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert error["param"] == param, error
    assert error["message"]
    assert calls == [len(model.requests) for model in chat.models.values()]


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (
            lambda sdk: sdk.chat.completions.create(model="ecko", messages=[{"role": "user", "content": "x"}]),
            404,
            "'echo'",
        ),
        (lambda sdk: sdk.completions.create(model="echo", prompt="x"), 404, "is_chat_model=True"),
        (lambda sdk: sdk.embeddings.create(model="echo", input="x"), 404, "/v1/embeddings"),
        (lambda sdk: sdk.models.retrieve("nothing/at/all"), 404, "no model"),
        (lambda sdk: sdk.chat.completions.list(), 405, "/v1/chat/completions"),
    ],
)
def test_errors_before_a_run_are_those_of_the_sdk(
    sdk: openai.OpenAI, call: Callable[[openai.OpenAI], Any], status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        call(sdk)
    assert caught.value.status_code == status
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (StageError("it broke"), "StageError"),
        (Say(pieces=["a part ", "of it"], error=BadRequestError("it broke")), "BadRequestError"),
        (Say(pieces=["one ", "two"], finish_reason=None), None),
    ],
)
def test_a_stream_that_fails_never_ends_as_if_it_were_whole(serve: Serve, script: Any, code: str | None) -> None:
    served = serve(script)
    text = served.post("/v1/chat/completions", served.chat(stream=True)).text
    found = chunks(text)
    assert "[DONE]" not in text
    assert found[-1]["choices"][0] == {
        "index": 0,
        "delta": {"content": ""},
        "finish_reason": "error",
        "logprobs": None,
    }
    assert code in (None, found[-1]["error"]["code"])
    assert all(one["choices"][0]["finish_reason"] is None for one in found[:-1])
    with pytest.raises(openai.APIError):
        list(served.openai().chat.completions.create(**served.chat(), stream=True))


def test_an_answer_that_begins_again_is_told(serve: Serve) -> None:
    broken = Say(pieces=["the old ", "words"], finish_reason=None)
    served = serve(ScriptedModel([broken, "other words", broken, "the old words, and more"]))
    for whole in (False, True):
        text = served.post("/v1/chat/completions", served.chat(stream=True)).text
        assert ("[DONE]" in text) is whole
        if whole:
            assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks(text)) == (
                "the old words, and more"
            )
        else:
            assert chunks(text)[-1]["error"]["code"] == "answer_restarted"


def test_the_finish_reason_is_that_of_the_answer(serve: Serve) -> None:
    served = serve(ScriptedModel([Say("cut off", finish_reason="length"), Say("x", finish_reason="content_filter")]))
    answer = served.post("/v1/chat/completions", served.chat(max_tokens=5))
    assert (answer.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "length")
    filtered = served.post("/v1/chat/completions", served.chat())
    assert (filtered.status_code, filtered.json()["error"]["code"]) == (422, "ContentFilterError")


@pytest.mark.parametrize("calls", [True, 7, "call", {"id": "1"}, [True], [{"function": "f"}]])
def test_calls_of_tools_that_are_no_calls_are_refused(serve: Serve, calls: Any) -> None:
    served = serve()
    body = served.chat() | {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}]}
    said = served.post("/v1/chat/completions", body)
    assert (said.status_code, said.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("end", ["\u0085", "\u2028", "\u2029"])
def test_line_ends_of_unicode_end_no_line_of_a_stream(serve: Serve, end: str) -> None:
    served = serve(lambda request: f"one{end}two")
    said = served.post("/v1/chat/completions", served.chat(stream=True))
    parts = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: {")]
    pieces = (choice["delta"].get("content") or "" for part in parts for choice in part["choices"])
    assert "".join(pieces) == f"one{end}two"
