"""Functions in namespaces, as Codex sends the tools of MCP servers, by the Responses API."""

from typing import Any, Final

import pytest

from fusion import Request, Say
from fusion.core.types import ToolCall
from tests.server.conftest import Serve, Served
from tests.server.dialects import codex
from tests.server.test_responses import Events, streamed


def codex_turns(served: Served) -> tuple[Events, Events]:
    """The events of a turn of Codex in which the model calls a tool, and of the next one, which has its result."""
    body = codex.request("echo", "Look it up.")
    first = streamed(served, body)
    (made,) = first[-1]["response"]["output"]
    result = {"type": "function_call_output", "call_id": made["call_id"], "output": "page 12"}
    kept = {name: made[name] for name in ("type", "name", "namespace", "arguments", "call_id") if name in made}
    return first, streamed(served, {**body, "input": [*body["input"], kept, result]})


@pytest.mark.parametrize(
    ("called", "name", "namespace"),
    [
        ("mcp__docs__search", "search", "mcp__docs"),
        ("mcp__docs__read", "read", "mcp__docs"),
        ("agents__agent_7", "agent_7", "agents"),
        ("update_plan", "update_plan", None),
        ("unknown__tool", "unknown__tool", None),
    ],
)
def test_codex_finds_a_call_by_its_namespace(serve: Serve, called: str, name: str, namespace: str | None) -> None:
    def model(request: Request) -> Say | str:
        results = [message.content for message in request.messages if message.role == "tool"]
        if results:
            return f"It is on {results[-1]}."
        return Say(tool_calls=(ToolCall(id="any", name=called, arguments="{}"),))

    served = serve(model)
    first, second = codex_turns(served)
    begun, done = (one["item"] for one in first if one["type"].startswith("response.output_item"))
    for item in (begun, done, first[-1]["response"]["output"][0]):
        assert (item["name"], item.get("namespace")) == (name, namespace)
    (arguments,) = [one for one in first if one["type"] == "response.function_call_arguments.done"]
    assert arguments["name"] == name
    assert second[-1]["response"]["output"][0]["content"][0]["text"] == "It is on page 12."
    again = served.models["frontier"].requests[-1]
    assert [call.name for message in again.messages for call in message.tool_calls] == [called]
    with served.client() as client:
        kept = client.get(f"/v1/responses/{first[-1]['response']['id']}").json()
    assert kept["output"] == first[-1]["response"]["output"]


PLAIN: Final = {"type": "function", "name": "a__x", "parameters": {"type": "object"}}
X: Final = {"type": "function", "name": "x"}


def allowed(mode: str, tool: dict[str, Any]) -> dict[str, Any]:
    """A choice among some tools."""
    return {"type": "allowed_tools", "mode": mode, "tools": [tool]}


def group(name: str | None, *names: str, **more: Any) -> dict[str, Any]:
    """A namespace of functions."""
    tools = [{"type": "function", "name": one, "parameters": {"type": "object"}} for one in names]
    return {"type": "namespace", "name": name, "tools": tools, **more}


@pytest.mark.parametrize(
    ("tools", "seen"),
    [
        ([group("mcp__a__", "x")], ["mcp__a__x"]),
        ([group("a", "x", "y"), group("b", "x")], ["a__x", "a__y", "b__x"]),
        ([group("crm.eu", "x y")], ["crm_eu__x_y"]),
        ([PLAIN, group("a", "x")], ["a__x", "a__x_2"]),
        ([group("a", "x"), group("a", "x", "y")], ["a__x", "a__y"]),
        ([group("a", tools=[{"type": "custom", "name": "patch"}])], []),
        ([group("n" * 60, "search")], [f"{'n' * 55}_c8510a53"]),
        ([group("a")], []),
    ],
)
def test_functions_of_namespaces_have_names_that_providers_take(
    serve: Serve, tools: list[dict[str, Any]], seen: list[str]
) -> None:
    served = serve("the answer")
    served.post("/v1/responses", {"model": "echo", "input": "hello", "tools": tools}).raise_for_status()
    assert [tool.name for tool in served.models["frontier"].requests[0].tools] == seen
    assert all(len(name) <= 64 for name in seen)


@pytest.mark.parametrize(
    ("choice", "chosen", "tools"),
    [
        ({"type": "function", "name": "search", "namespace": "docs"}, "docs__search", 3),
        ({"type": "function", "name": "read"}, "docs__read", 3),
        ({"type": "function", "name": "search"}, "search", 3),
        (
            allowed("required", {"type": "namespace", "name": "docs"}),
            "required",
            2,
        ),
        (allowed("auto", {"type": "function", "name": "read"}), "auto", 1),
    ],
)
def test_a_choice_names_a_function_of_a_namespace(
    serve: Serve, choice: dict[str, Any], chosen: str, tools: int
) -> None:
    served = serve("the answer")
    given = [{**PLAIN, "name": "search"}, group("docs", "search", "read")]
    served.post("/v1/responses", {"model": "echo", "input": "hello", "tools": given, "tool_choice": choice})
    asked = served.models["frontier"].requests[0]
    assert (asked.tool_choice, len(asked.tools)) == (chosen, tools)


@pytest.mark.parametrize(
    ("tools", "choice", "param", "said"),
    [
        ([group(None, "x")], "auto", "tools.0.name", "a namespace has a name"),
        ([group("a", "")], "auto", "tools.0.tools.0.name", "a function has a name"),
        (
            [group("a", "x"), group("b", "x")],
            {"type": "function", "name": "x"},
            "tool_choice.name",
            "2 functions 'x'",
        ),
        (
            [group("a", "x")],
            {"type": "function", "name": "x", "namespace": "b"},
            "tool_choice.name",
            "no function 'x'",
        ),
        ([group("a")], "required", "tool_choice", "no function of the client can be called"),
        ([{"type": "namespace", "name": "a", "tools": "x"}], "auto", "tools.0.tools", "list"),
    ],
)
def test_a_wrong_namespace_is_refused(serve: Serve, tools: Any, choice: Any, param: str, said: str) -> None:
    answer = serve("x").post(
        "/v1/responses", {"model": "echo", "input": "hello", "tools": tools, "tool_choice": choice}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert said in answer.json()["error"]["message"]
