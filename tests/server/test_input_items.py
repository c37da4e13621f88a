"""Items of the input of a response, as the SDK lists them."""

import base64
from typing import Any, Final

import pytest

from fusion import Request, Say
from fusion.core.types import ToolCall
from tests.server.conftest import Serve, Served

PNG: Final = f"data:image/png;base64,{base64.b64encode(bytes([137, *b'PNG', 13, 10, 26, 10])).decode()}"
USER: Final = ("message", "user", "input_text")
TOOLS: Final = [{"type": "namespace", "name": "docs", "tools": [{"type": "function", "name": "search"}]}]


def model(request: Request) -> Say | str:
    """Calls the first tool once, then answers."""
    if request.tools and request.messages[-1].role != "tool":
        return Say(tool_calls=(ToolCall(id="a", name=request.tools[0].name, arguments="{}"),))
    return "the answer"


def listed(served: Served, response_id: str, **query: Any) -> list[dict[str, Any]]:
    with served.openai() as client:
        return [item.to_dict() for item in client.responses.input_items.list(response_id, **query)]


def made_of(served: Served, given: Any) -> str:
    """The id of a response to an input."""
    made: str = served.post("/v1/responses", {"model": "echo", "input": given}).json()["id"]
    return made


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


PICTURE: Final = [{"type": "input_text", "text": "what is it?"}, {"type": "input_image", "image_url": PNG}]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("hello", [USER]),
        ([turn("developer", "Be brief."), turn("user", "hello")], [("message", "system", "input_text"), USER]),
        (
            [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
            [USER, ("message", "assistant", "output_text"), USER],
        ),
        ([turn("user", PICTURE)], [(*USER, "input_image")]),
        ([{"type": "reasoning", "summary": []}, turn("user", "hello")], [USER]),
    ],
)
def test_the_input_of_a_response_is_listed(serve: Serve, given: Any, seen: list[tuple[str, ...]]) -> None:
    served = serve(model)
    with served.openai() as client:
        made = client.responses.create(model="echo", input=given, instructions="not an item")
    items = listed(served, made.id, order="asc")
    assert [(item["type"], item["role"], *(part["type"] for part in item["content"])) for item in items] == seen
    assert listed(served, made.id) == items[::-1]
    assert len({item["id"] for item in items}) == len(items)


def test_calls_and_results_of_tools_are_items(serve: Serve) -> None:
    served = serve(model)
    body: dict[str, Any] = {"model": "echo", "input": [{"role": "user", "content": "hello"}], "tools": TOOLS}
    (call,) = served.post("/v1/responses", body).json()["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "page 12"}
    second = served.post("/v1/responses", {**body, "input": [*body["input"], call, result]}).json()
    first, called, told = listed(served, second["id"], order="asc")
    assert first["content"][0]["text"] == "hello"
    assert (called["name"], called["namespace"], called["call_id"]) == ("search", "docs", call["call_id"])
    assert (told["call_id"], told["output"]) == (call["call_id"], "page 12")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_pages_are_followed(serve: Serve, limit: int) -> None:
    served = serve(model)
    turns = [{"role": "user" if at % 2 == 0 else "assistant", "content": str(at)} for at in range(5)]
    made = made_of(served, turns)
    with served.client() as client:
        page = client.get(f"/v1/responses/{made}/input_items", params={"limit": limit}).json()
    assert (len(page["data"]), page["has_more"]) == (min(limit, 5), limit < 5)
    assert [item["content"][0]["text"] for item in listed(served, made, limit=limit)] == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("limit=x", 400, "limit"),
        ("order=up", 400, "order"),
        ("after=in_x_1", 400, "after"),
        (None, 404, "response_id"),
    ],
)
def test_a_wrong_query_is_refused(serve: Serve, path: str | None, status: int, param: str) -> None:
    served = serve(model)
    made = made_of(served, "hello")
    with served.client() as client:
        where = f"{made}/input_items?{path}" if path else "resp_nowhere/input_items"
        answer = client.get(f"/v1/responses/{where}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
