"""Tools of the client in each API: called by the answer stage, whose run goes on with their results."""

import json
from typing import Any, ClassVar

import httpx
import pytest

from fusion import Request, Say
from fusion.core.types import ToolCall
from tests.server.conftest import ECHO, Serve, Served, pipeline

OSLO = ToolCall(id="p1", name="weather", arguments='{"city": "Oslo"}')
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
MERGED = """
name: merged
inputs: {prompt: The question.}
stages:
  parts: {kind: map, over: "['a', 'b']", role: bulk, prompt: "Part {{ item.source }}"}
  answer: {kind: merge, over: parts, role: frontier}
output: answer
"""
PIPELINES = {"echo": pipeline(ECHO), "merged": pipeline(MERGED)}


def saying(request: Request) -> Any:
    """Call the tool that is there, then say its result."""
    if request.messages[-1].role == "tool":
        return f"It is {request.messages[-1].content}"
    return Say(tool_calls=(OSLO,)) if request.tools else "a plain answer"


class Chat:
    """Chat completions: requests with a tool, the call in an answer, and the conversation with its result."""

    path = "/v1/chat/completions"
    tools: ClassVar[dict[str, Any]] = {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    }

    def asked(self, model: str) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": "Weather?"}], **self.tools}

    def call(self, answer: dict[str, Any]) -> tuple[str, Any]:
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        return call["id"], json.loads(call["function"]["arguments"])

    def told(self, body: dict[str, Any], answer: dict[str, Any], call: str) -> dict[str, Any]:
        result = {"role": "tool", "tool_call_id": call, "content": "5 degrees"}
        return {**body, "messages": [*body["messages"], answer["choices"][0]["message"], result]}

    def text(self, answer: dict[str, Any]) -> str:
        return str(answer["choices"][0]["message"]["content"])


class Responses:
    path = "/v1/responses"
    tools: ClassVar[dict[str, Any]] = {"tools": [{"type": "function", "name": "weather", "parameters": PARAMETERS}]}

    def asked(self, model: str) -> dict[str, Any]:
        return {"model": model, "input": [{"role": "user", "content": "Weather?"}], **self.tools}

    def call(self, answer: dict[str, Any]) -> tuple[str, Any]:
        (call,) = [item for item in answer["output"] if item["type"] == "function_call"]
        return call["call_id"], json.loads(call["arguments"])

    def told(self, body: dict[str, Any], answer: dict[str, Any], call: str) -> dict[str, Any]:
        result = {"type": "function_call_output", "call_id": call, "output": "5 degrees"}
        return {**body, "input": [*body["input"], *answer["output"], result]}

    def text(self, answer: dict[str, Any]) -> str:
        return str(answer["output"][0]["content"][0]["text"])


class Messages:
    path = "/v1/messages"
    tools: ClassVar[dict[str, Any]] = {"tools": [{"name": "weather", "input_schema": PARAMETERS}]}

    def asked(self, model: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": "Weather?"}]
        return {"model": model, "max_tokens": 200, "messages": turns, **self.tools}

    def call(self, answer: dict[str, Any]) -> tuple[str, Any]:
        assert answer["stop_reason"] == "tool_use"
        (call,) = [block for block in answer["content"] if block["type"] == "tool_use"]
        return call["id"], call["input"]

    def told(self, body: dict[str, Any], answer: dict[str, Any], call: str) -> dict[str, Any]:
        said = {"role": "assistant", "content": answer["content"]}
        result = [{"type": "tool_result", "tool_use_id": call, "content": "5 degrees"}]
        return {**body, "messages": [*body["messages"], said, {"role": "user", "content": result}]}

    def text(self, answer: dict[str, Any]) -> str:
        return str(answer["content"][0]["text"])


APIS = [Chat(), Responses(), Messages()]
every_api = pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)


def post(served: Served, api: Any, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer: httpx.Response = served.post(api.path, body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


@every_api
@pytest.mark.parametrize("model", PIPELINES)
def test_a_run_goes_on_with_the_results_of_its_calls(serve: Serve, api: Any, model: str) -> None:
    served = serve(saying, pipelines=PIPELINES)
    asked = api.asked(model)
    answer = post(served, api, asked)
    call, arguments = api.call(answer)
    assert arguments == {"city": "Oslo"}
    before = len(served.models["bulk"].requests), len(served.models["frontier"].requests)
    told = post(served, api, api.told(asked, answer, call))
    assert api.text(told) == "It is 5 degrees"
    after = len(served.models["bulk"].requests), len(served.models["frontier"].requests)
    assert after == (before[0], before[1] + 1)  # earlier stages are not run again


@every_api
def test_results_of_calls_that_are_not_known_here_are_told_to_a_new_run(serve: Serve, api: Any) -> None:
    served = serve(saying, pipelines=PIPELINES)
    answer = post(served, api, asked := api.asked("merged"))
    call, _ = api.call(answer)
    body = json.loads(json.dumps(api.told(asked, answer, call)).replace(call, "call_elsewhere"))
    assert api.text(post(served, api, body)) == "It is 5 degrees"
    assert len(served.models["bulk"].requests) == 4


@every_api
def test_results_of_a_run_of_another_pipeline_are_told_to_a_new_run(serve: Serve, api: Any) -> None:
    served = serve(saying, pipelines=PIPELINES)
    answer = post(served, api, asked := api.asked("echo"))
    body = {**api.told(asked, answer, api.call(answer)[0]), "model": "merged"}
    assert api.text(post(served, api, body)) == "It is 5 degrees"
    assert len(served.models["bulk"].requests) == 2


@pytest.mark.parametrize(("caller", "calls"), [("ada", 2), ("bob", 4)])
def test_a_run_goes_on_for_its_own_caller_alone(
    serve: Serve, caller: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADA", "token-of-ada")
    monkeypatch.setenv("BOB", "token-of-bob")
    served = serve(saying, pipelines=PIPELINES, table={"tokens": {"ada": "ADA", "bob": "BOB"}})
    api = Chat()
    answer = served.post(api.path, asked := api.asked("merged"), authorization="Bearer token-of-ada").json()
    body = api.told(asked, answer, api.call(answer)[0])
    told = served.post(api.path, body, authorization=f"Bearer token-of-{caller}").json()
    assert api.text(told) == "It is 5 degrees"
    assert len(served.models["bulk"].requests) == calls


@every_api
def test_results_that_are_missing_are_refused(serve: Serve, api: Any) -> None:
    two = Say(tool_calls=(OSLO, OSLO.model_copy(update={"id": "p2"})))
    served = serve(lambda request: two)
    answer = post(served, api, asked := api.asked("echo"))
    calls = json.dumps(answer).count("call_")
    assert calls >= 2
    run = answer["fusion"]["run"]
    refused = post(served, api, api.told(asked, answer, f"call_{run}_1"), 400)
    assert f"call_{run}_2" in refused["error"]["message"]


def test_calls_of_tools_are_streamed(serve: Serve) -> None:
    served = serve(saying)
    text = served.post(Chat.path, {**Chat().asked("echo"), "stream": True}).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    (delta,) = [one for chunk in chunks for one in chunk["choices"] if "tool_calls" in one["delta"]]
    (call,) = delta["delta"]["tool_calls"]
    assert (call["index"], call["function"]) == (0, {"name": "weather", "arguments": OSLO.arguments})
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@every_api
@pytest.mark.parametrize("forced", [True, False], ids=["forced", "auto"])
def test_a_pipeline_without_an_answer_stage_refuses_forced_tools_alone(serve: Serve, api: Any, forced: bool) -> None:
    text = "name: joined\ninputs: {prompt: A question.}\nstages: {a: {kind: generate, role: bulk}}\noutput: a ~ '!'\n"
    served = serve(saying, pipelines={"joined": pipeline(text)})
    choice: Any = {"type": "any"} if isinstance(api, Messages) else "required"
    body = {**api.asked("joined"), **({"tool_choice": choice} if forced else {})}
    answer = post(served, api, body, 400 if forced else 200)
    assert forced or api.text(answer) == "a plain answer!"


@pytest.mark.parametrize("parameters", [[1], "text", 5, True])
def test_parameters_that_are_no_schema_are_refused(serve: Serve, parameters: Any) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    refused = post(serve(), Chat(), {**Chat().asked("echo"), "tools": tools}, 400)
    assert "parameters" in refused["error"]["message"]
