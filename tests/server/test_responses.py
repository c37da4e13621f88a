"""OpenAI's Responses API over real HTTP, by the openai SDK and by hand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from fusion import Request, Say
from fusion.core.types import ToolCall
from fusion.server.runs.said import keep_said
from fusion.store.base import Store
from fusion.store.journal import Journal
from tests.conftest import said
from tests.server.conftest import Serve, Served
from tests.server.dialects import codex

Events = list[dict[str, Any]]
LONG = "The quick brown fox jumps over the lazy dog, and then it rests for a while in the shade. " * 3


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, whose names are those of their types."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            body = json.loads(line[6:])
            assert body["type"] == name
            yield body


def streamed(served: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    with served.client() as client, client.stream("POST", "/v1/responses", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        return list(events(answer.iter_lines()))


def again(served: Served, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    query = {"stream": "true", **({} if after is None else {"starting_after": str(after)})}
    with served.client() as client, client.stream("GET", f"/v1/responses/{response_id}", params=query) as answer:
        assert answer.status_code == 200, answer.read()
        return list(events(answer.iter_lines()))


def test_a_response_is_the_answer_of_a_run(serve: Serve) -> None:
    served = serve("the answer")
    raw = served.openai().responses.with_raw_response.create(model="echo", input="What is it?")
    made = raw.parse()
    run_id = raw.headers["x-fusion-run"]
    assert made.id == f"resp_{run_id}"
    assert (made.status, made.output_text, made.model) == ("completed", "the answer", "echo")
    assert made.usage is not None
    assert made.usage.total_tokens > 0
    assert json.loads(raw.text)["usage"]["cost"] == 0.0
    assert served.fusion.runs.find(run_id).status == "ok"


def test_a_stream_has_the_events_that_codex_takes(serve: Serve) -> None:
    served = serve(Say(pieces=["the whole ", "answer, in pieces ", "as they came"]))
    found = streamed(served, {"model": "echo", "input": "hello"})
    kinds = list(dict.fromkeys(one["type"] for one in found))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    deltas = [one["delta"] for one in found if one["type"] == "response.output_text.delta"]
    assert (
        "".join(deltas)
        == "the whole answer, in pieces as they came"
        == found[-1]["response"]["output"][0]["content"][0]["text"]
    )


class City(BaseModel):
    name: str
    people: int


def test_the_sdk_parses_an_answer(serve: Serve) -> None:
    served = serve('{"name": "Bergen", "people": 291940}')
    parsed = served.openai().responses.parse(model="echo", input="Which city?", text_format=City)
    assert parsed.output_parsed == City(name="Bergen", people=291_940)


def test_the_sdk_streams_an_answer(serve: Serve) -> None:
    served = serve(Say(pieces=LONG.split(" ")))
    with served.openai().responses.stream(model="echo", input="hello") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text


def test_a_response_is_retrieved_and_deleted(serve: Serve) -> None:
    served = serve("the answer")
    client = served.openai()
    made = client.responses.create(model="echo", input="hello", metadata={"team": "search"}, temperature=0.5)
    found = client.responses.retrieve(made.id)
    assert found == made
    assert (found.metadata, found.temperature) == ({"team": "search"}, 0.5)
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as refused:
        client.responses.retrieve(made.id)
    assert refused.value.code == "response_not_found"


@pytest.mark.parametrize("cut", range(0, 26, 3))
def test_a_stream_is_taken_up_again(serve: Serve, cut: int) -> None:
    served = serve(Say(pieces=[f"{word} " for word in LONG.split()]))
    whole = streamed(served, {"model": "echo", "input": "hello"})
    assert len(whole) > 16
    rest = again(served, whole[0]["response"]["id"], whole[cut % len(whole)]["sequence_number"])
    assert rest == whole[cut % len(whole) + 1 :]
    assert len(served.models["frontier"].requests) == 1


def test_a_conversation_goes_on(serve: Serve) -> None:
    served = serve(["Ada", "Ada again"])
    client = served.openai()
    first = client.responses.create(model="echo", input="My name is Ada.", instructions="Be short.")
    client.responses.create(model="echo", input="What is it?", previous_response_id=first.id)
    words = said(served.models["frontier"].requests[1])
    assert "My name is Ada." in words
    assert "What is it?" in words
    assert "Be short." not in words


@pytest.mark.parametrize("given", ["resp_none", "msg_1", "", "resp_20260101-000000-abcdef"])
def test_an_unknown_previous_response_is_refused(serve: Serve, given: str) -> None:
    served = serve()
    with pytest.raises(openai.NotFoundError) as refused:
        served.openai().responses.create(model="echo", input="x", previous_response_id=given)
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "previous_response_not_found")


def test_a_failed_run_is_not_tried_again(serve: Serve) -> None:
    served = serve(Say(error=RuntimeError("no")))
    answer = served.post("/v1/responses", {"model": "echo", "input": "hello"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (422, "false")


def test_a_response_in_the_background_goes_on(serve: Serve) -> None:
    served = serve(Say("the answer", delay=0.2))
    client = served.openai()
    made = client.responses.create(model="echo", input="hello", background=True)
    assert made.status == "queued"
    assert again(served, made.id)[-1]["type"] == "response.completed"
    assert client.responses.retrieve(made.id).output_text == "the answer"


def test_a_response_is_cancelled(serve: Serve) -> None:
    asked = threading.Event()

    def script(request: Request) -> Say:
        asked.set()
        return Say("the answer", delay=30)

    client = serve(script).openai()
    made = client.responses.create(model="echo", input="hello", background=True)
    assert asked.wait(10)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "echo"}, "input"),
        ({"model": "echo", "input": []}, "input"),
        ({"model": "echo", "input": [3]}, "input.0"),
        ({"model": "echo", "input": [{"role": "boss", "content": "x"}]}, "input.0.role"),
        ({"model": "echo", "input": "x", "temperature": 9}, "temperature"),
        ({"model": "echo", "input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"model": "echo", "input": "x", "conversation": "conv_1"}, "conversation"),
        ({"model": "echo", "input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"model": "echo", "input": "x", "max_cost": -1}, "max_cost"),
        ({"model": "none", "input": "x"}, "model"),
    ],
)
def test_a_wrong_field_is_named(serve: Serve, body: dict[str, Any], param: str) -> None:
    error = serve().post("/v1/responses", body).json()["error"]
    assert error["param"] == param


class Broken:
    """A script whose first answer stops in the middle and waits; the next one is whole."""

    def __init__(self, first: str, then: str) -> None:
        self._answers = [Say(pieces=[first, (60, "…")]), Say(pieces=then.split(" "))]
        self.calls = 0

    def __call__(self, request: Request) -> Say:
        self.calls += 1
        if self.calls > 1:
            words = self._answers[1].pieces or ()
            return Say(pieces=[f"{word} " for word in words])
        return self._answers[0]


def stopped(served: Served, run_id: str, status: str) -> None:
    """Wait for the end of a run whose client went away."""
    for _ in range(2000):
        if served.fusion.runs.find(run_id).status == status:
            return
        time.sleep(0.005)
    raise AssertionError("the run goes on")


def left(
    served: Served, body: dict[str, Any], enough: Callable[[Events], bool], status: str = "interrupted"
) -> Events:
    """Read a stream until it is enough, and go away."""
    found: Events = []
    with served.client() as client, client.stream("POST", "/v1/responses", json={**body, "stream": True}) as answer:
        for event in events(answer.iter_lines()):
            found.append(event)
            if enough(found):
                break
    stopped(served, found[0]["response"]["id"].removeprefix("resp_"), status)
    return found


def deltas(found: list[dict[str, Any]]) -> dict[str, str]:
    """The text of each message by its id, as its deltas give it."""
    texts: dict[str, str] = {}
    for one in found:
        if one["type"] == "response.output_text.delta":
            texts[one["item_id"]] = texts.get(one["item_id"], "") + one["delta"]
    return texts


@pytest.mark.parametrize("known", [1, 2, 3])
@pytest.mark.parametrize("other", ["", "Quite another beginning. "], ids=["same words", "other words"])
def test_a_run_that_stopped_with_its_client_goes_on(serve: Serve, known: int, other: str) -> None:
    script = Broken(LONG[:100], other + LONG)
    served = serve(script)
    before = left(
        served,
        {"model": "echo", "input": "hello"},
        lambda found: [one["type"] for one in found].count("response.output_text.delta") == known,
    )
    rest = again(served, before[0]["response"]["id"], before[-1]["sequence_number"])
    whole = [*before, *rest]
    assert [one["sequence_number"] for one in whole] == list(range(len(whole)))
    last = whole[-1]["response"]["output"][0]
    assert deltas(whole)[last["id"]] == last["content"][0]["text"]
    assert last["content"][0]["text"].startswith(other or LONG[:20])
    assert len(deltas(whole)) == (2 if other else 1)
    assert script.calls == 2
    assert again(served, before[0]["response"]["id"], 0) == whole[1:]


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": False,
}


def caller(request: Request) -> Say | str:
    """A model that asks for the weather, and tells what the tool said."""
    results = [message.content for message in request.messages if message.role == "tool"]
    if results:
        return f"It is {results[-1]}."
    call = ToolCall(id="any", name="weather", arguments='{"place": "Oslo"}')
    return Say(tool_calls=(call,), finish_reason="tool_calls")


@pytest.mark.parametrize("way", ["items", "previous_response_id", "references"])
def test_results_of_tools_continue_the_run(serve: Serve, way: str) -> None:
    served = serve(caller)
    client = served.openai()
    question: Any = {"role": "user", "content": "Weather in Oslo?"}
    first = client.responses.create(model="echo", input=[question], tools=[WEATHER])
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"place": "Oslo"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    given: dict[str, Any] = {
        "items": {"input": [question, call.to_dict(), result]},
        "references": {"input": [question, {"type": "item_reference", "id": call.id}, result]},
        "previous_response_id": {"input": [result], "previous_response_id": first.id},
    }[way]
    second = client.responses.create(model="echo", tools=[WEATHER], **given)
    assert second.output_text == "It is sunny."
    third = client.responses.create(model="echo", input="Sure?", previous_response_id=second.id)
    assert third.output[0].type == "function_call" or third.output_text


def test_calls_of_tools_are_streamed(serve: Serve) -> None:
    found = streamed(serve(caller), {"model": "echo", "input": "Weather in Oslo?", "tools": [WEATHER]})
    kinds = [one["type"].removeprefix("response.") for one in found]
    assert kinds[2:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert found[-1]["response"]["output"] == [found[-2]["item"]]


def test_codex_gets_its_answer(serve: Serve) -> None:
    served = serve("Done.")
    body = codex.request("echo", "Fix it.")
    with served.client() as client, client.stream("POST", "/v1/responses", json=body) as answer:
        found = list(events(answer.iter_lines()))
        ignored = answer.headers["x-fusion-ignored"].split(", ")
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Done."
    assert {one for one in ignored if one.startswith("tools")} == {"tools.web_search", "tools.custom"}
    asked = served.models["frontier"].requests[0]
    agents = [f"agents__agent_{number}" for number in range(20)]
    docs = ["mcp__docs__search", "mcp__docs__read"]
    assert [tool.name for tool in asked.tools] == ["shell_command", "update_plan", *agents, *docs]
    assert [tool.description for tool in asked.tools[-2:]] == [
        "mcp__docs: Docs of the team.\n\nRuns search.",
        "Runs read.",
    ]


@pytest.mark.parametrize("after", [0, 2, 5])
def test_the_sdk_takes_a_stream_up_again(serve: Serve, after: int) -> None:
    with serve(LONG).openai() as client:
        made = client.responses.create(model="echo", input="hello")
        with client.responses.retrieve(made.id, stream=True, starting_after=after) as stream:
            rest = list(stream)
        with client.responses.stream(response_id=made.id, starting_after=after) as followed:
            assert followed.get_final_response().output_text == LONG
    assert [one.sequence_number for one in rest] == list(range(after + 1, after + 1 + len(rest)))
    assert rest[-1].type == "response.completed"


@pytest.mark.parametrize("given", ["x", "-1", "1.5", ""])
def test_a_number_that_is_none_is_refused(serve: Serve, given: str) -> None:
    served = serve("the answer")
    made = served.openai().responses.create(model="echo", input="hello")
    with served.client() as client:
        query = {"stream": "true", "starting_after": given}
        assert client.get(f"/v1/responses/{made.id}", params=query).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")],
)
def test_a_caller_finds_its_own_responses_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setenv("ADA", "a" * 20)
    monkeypatch.setenv("BOB", "b" * 20)
    served = serve("the answer", table={"tokens": {"ada": "ADA", "bob": "BOB"}})
    made = served.openai(api_key="a" * 20).responses.create(model="echo", input="hello")
    statuses = []
    for token in ("b" * 20, "a" * 20):
        with served.client(headers={"authorization": f"Bearer {token}"}) as client:
            statuses.append(client.request(method, f"/v1/responses/{made.id}{path}").status_code)
    assert statuses == [404, 200]
    with pytest.raises(openai.NotFoundError):
        served.openai(api_key="b" * 20).responses.create(model="echo", input="x", previous_response_id=made.id)


@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_response_of_which_nothing_is_kept_cannot_be_continued(serve: Serve, content: str) -> None:
    served = serve("the answer", content=content)
    client = served.openai()
    made = client.responses.create(model="echo", input="hello")
    assert made.output_text == "the answer"
    for ask in (lambda: client.responses.retrieve(made.id), lambda: again_of(client, made.id)):
        with pytest.raises(openai.NotFoundError):
            ask()


def again_of(client: openai.OpenAI, response_id: str) -> Any:
    return client.responses.create(model="echo", input="x", previous_response_id=response_id)


@pytest.mark.parametrize("known", [1, 3])
@pytest.mark.parametrize("other", ["", "Quite another beginning. "], ids=["same words", "other words"])
def test_a_run_whose_server_died_goes_on_in_a_new_message(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, known: int, other: str
) -> None:
    async def nothing(self: Journal, result: Any, *, interrupted: bool) -> None:
        """The process dies before the end of the run is on disk."""

    def unknown(store: Store, run_id: str, text: str | None) -> None:
        """A dead process keeps nothing of what it said."""
        if text is None:
            keep_said(store, run_id, text)

    monkeypatch.setattr("fusion.server.runs.runs.keep_said", unknown)
    served = serve(Broken(LONG[:100], other + LONG))
    with monkeypatch.context() as dying:
        dying.setattr(Journal, "end", nothing)
        body = {"model": "echo", "input": "hello"}
        before = left(
            served,
            body,
            lambda found: [one["type"] for one in found].count("response.output_text.delta") == known,
            status="died",
        )
    rest = again(served, before[0]["response"]["id"], before[-1]["sequence_number"])
    assert rest[0]["sequence_number"] == 1_000_000
    last = rest[-1]["response"]["output"][0]
    assert {name: text.strip() for name, text in deltas(rest).items()} == {last["id"]: (other + LONG).strip()}
    assert last["id"] not in deltas(before)
    assert again(served, before[0]["response"]["id"], 1_000_003) == rest[4:]
