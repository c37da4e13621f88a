"""Bodies of the Responses API, as clients send them, read into requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.responses.dialect import Responses
from fusion.server.dialects.responses.kept import KeptResponses
from tests.conftest import FileStore
from tests.server.dialects import codex

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
ASKED = {"role": "user", "content": "a"}
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def read(tmp_path: Path) -> Any:
    store = FileStore(tmp_path)
    dialect = Responses(KeptResponses(store))
    yield lambda body: dialect.read({"model": "m", "input": "x", **body}, {})
    store.close()


def test_a_turn_of_codex_is_read(read: Any) -> None:
    body = codex.request("fusion/single", "Fix the test.")
    assert len(json.dumps(body)) > 40_000
    asked: ServedRequest = read(body)
    assert [one["role"] for one in asked.messages] == ["system", "system", "user", "user"]
    agents = [f"agents__agent_{number}" for number in range(20)]
    docs = ["mcp__docs__search", "mcp__docs__read"]
    assert sorted(tool.name for tool in asked.answer.tools) == sorted(
        ["shell_command", "update_plan", *agents, *docs]
    )
    assert (asked.answer.reasoning_effort, asked.stream) == ("medium", True)
    assert {"tools.web_search", "tools.custom", "store", "include"} <= set(asked.ignored)


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("hello", [{"role": "user", "content": "hello"}]),
        ([{"role": "user", "content": "hello"}], [{"role": "user", "content": "hello"}]),
        ([{"role": "developer", "content": "be short"}], [{"role": "system", "content": "be short"}]),
        (
            [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}],
            [{"role": "assistant", "content": "a"}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [{"role": "user", "content": "a\n\nb"}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "auto"}]}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": "data:x"}]}],
            [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:x", "filename": "a.pdf"}}]}],
        ),
        (
            [{"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "user", "content": "a"}],
            [{"role": "user", "content": "a"}],
        ),
        (
            [{"type": "item_reference", "id": "rs_1"}, {"role": "user", "content": "a"}],
            [{"role": "user", "content": "a"}],
        ),
    ],
)
def test_items_become_messages(read: Any, items: Any, messages: Any) -> None:
    assert read({"input": items}).messages == messages


def test_calls_and_their_results_become_messages(read: Any) -> None:
    call = {"type": "function_call", "id": "fc_1", "name": "weather", "arguments": "{}"}
    items = [
        {"role": "user", "content": "Weather in Oslo and Bergen?"},
        {**call, "call_id": "c1"},
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    _, called, first, second = read({"input": items}).messages
    assert [one["id"] for one in called["tool_calls"]] == ["c1", "c2"]
    assert (first["tool_call_id"], first["content"]) == ("c1", "rain")
    assert (second["tool_call_id"], second["content"]) == ("c2", "sun")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "weather"}, "weather"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            "required",
        ),
        ({"type": "web_search_preview"}, "auto"),
    ],
)
def test_a_choice_of_tools_is_read(read: Any, choice: Any, expected: str) -> None:
    assert read({"tools": [WEATHER], "tool_choice": choice}).answer.tool_choice == expected


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "name": "a", "strict": True, "schema": {"type": "object"}}, {"type": "object"}),
    ],
)
def test_a_format_is_read(read: Any, form: Any, schema: Any) -> None:
    assert read({"text": {"format": form}}).answer.json_schema == schema


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [3]}, "tools.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input.0.content.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input.0.output"),
        ({"input": [{"type": "item_reference", "id": "msg_20260101-000000-abcdef_1"}]}, "input.0"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_p": "much"}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"fusion": {"budget": {"usd": -1}}}, "fusion.budget"),
    ],
)
def test_a_wrong_field_is_refused(read: Any, given: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read(given)
    assert (refused.value.status in (400, 404), refused.value.param) == (True, param)


def test_limits_are_the_lower_ones_and_metadata_are_tags(read: Any) -> None:
    asked = read(
        {"max_cost": 0.1, "fusion": {"budget": {"usd": 0.5, "calls": 3}}, "metadata": {"team": "search", "a=b": "c"}}
    )
    assert (float(asked.budget.usd), asked.budget.calls) == (0.1, 3)
    assert asked.tags == {"team": "search"}
    assert asked.ignored == ("metadata.a=b",)
