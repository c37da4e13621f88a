"""Bodies of the Messages API, read as chat messages and options of the answer."""

import base64
from typing import Any

import pytest

from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.messages.dialect import Messages

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PICTURE_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
WEATHER = {"name": "weather", "description": "Look it up.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Tromsø"}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Tromsø"}'},
}


def read(*turns: Any, **fields: Any) -> ServedRequest:
    body = {"model": "fusion/single", "max_tokens": 100, "messages": [*turns], **fields}
    return Messages().read(body, {})


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "call_1", "content": content, **more}


@pytest.mark.parametrize(
    ("content", "read_as"),
    [
        ("Hi", "Hi"),
        ([text("Hi", cache_control={"type": "ephemeral"})], "Hi"),
        ([text("One."), text(""), text("Two.")], "One.\n\nTwo."),
        ([text("See:"), PICTURE], [{"type": "text", "text": "See:"}, PICTURE_PART]),
        (
            [
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {**PICTURE["source"], "media_type": "application/pdf"},
                }
            ],
            [{"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"}}],
        ),
        (
            [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "note"}}],
            [{"type": "file", "file": {"file_data": "data:text/plain;base64,bm90ZQ=="}}],
        ),
        ([{"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}}], "a\n\nb"),
        (
            [{"type": "search_result", "title": "Ice", "source": "https://ice.example", "content": [text("cold")]}],
            "Ice (https://ice.example)\n\ncold",
        ),
    ],
    ids=["text", "block", "blocks", "picture", "pdf", "text file", "content", "search result"],
)
def test_a_user_message_is_read_with_its_files(content: Any, read_as: Any) -> None:
    assert read(user(content)).messages == [{"role": "user", "content": read_as}]


@pytest.mark.parametrize(
    ("content", "read_as"),
    [
        ([result("5 degrees")], "5 degrees"),
        ([result([text("5"), text("degrees")])], "5\n\ndegrees"),
        ([result("no such city", is_error=True)], "The tool failed:\n\nno such city"),
        ([result(None)], ""),
        (
            [result("5"), text("<system-reminder>be brief</system-reminder>")],
            "5\n\n<system-reminder>be brief</system-reminder>",
        ),
        ([result([text("See:"), PICTURE])], "See:\n\n[image, not shown]"),
    ],
    ids=["text", "blocks", "failed", "empty", "beside a reminder", "picture"],
)
def test_results_of_tools_end_the_conversation(content: Any, read_as: Any) -> None:
    asked = read(user("Weather?"), {"role": "assistant", "content": [text("I look."), USE]}, user(content))
    assert asked.messages == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": read_as},
    ]


@pytest.mark.parametrize(
    ("system", "turns", "read_as"),
    [
        ("Be kind.", [user("Hi")], "Be kind."),
        (
            [text("Be kind.", cache_control={"type": "ephemeral"}), text("Be brief.")],
            [user("Hi")],
            "Be kind.\n\nBe brief.",
        ),
        (None, [user("Hi"), {"role": "system", "content": "Agents: none."}], "Agents: none."),
        ("Be kind.", [{"role": "system", "content": [text("Brief.")]}, user("Hi")], "Be kind.\n\nBrief."),
        ("", [user("Hi")], None),
    ],
    ids=["text", "blocks", "a message behind", "both", "empty"],
)
def test_system_texts_are_one_prompt_before_all_turns(system: Any, turns: list[Any], read_as: str | None) -> None:
    first = [{"role": "system", "content": read_as}] if read_as else []
    assert read(*turns, system=system).messages == [*first, {"role": "user", "content": "Hi"}]


def test_options_go_to_the_answer() -> None:
    asked = read(
        user("Hi"),
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        tools=[WEATHER],
        metadata={"user_id": "ada"},
        stream=True,
    )
    answer = asked.answer
    assert (answer.max_tokens, answer.temperature, answer.top_p, answer.stop) == (100, 0.5, 0.9, ("END",))
    assert (answer.reasoning_effort, answer.json_schema) == ("low", {"type": "object"})
    assert [tool.model_dump() for tool in answer.tools] == [
        {"name": "weather", "description": "Look it up.", "parameters": {"type": "object"}}
    ]
    assert (asked.model, asked.stream, asked.tags, asked.ignored) == ("fusion/single", True, {"user": "ada"}, ())


@pytest.mark.parametrize(
    ("choice", "read_as"),
    [
        (None, "auto"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
    ],
)
def test_a_choice_of_tools_is_read(choice: Any, read_as: str) -> None:
    assert read(user("Hi"), tools=[WEATHER], tool_choice=choice).answer.tool_choice == read_as


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"top_k": 5, "service_tier": "auto"}, ("service_tier", "top_k")),
        ({"thinking": {"type": "adaptive"}, "context_management": {}}, ("context_management", "thinking")),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}, WEATHER]}, ("tools.web_search_20250305",)),
        ({"container": None, "mcp_servers": []}, ("mcp_servers",)),
        (
            {"messages": [user([{"type": "thinking", "thinking": "so", "signature": "x"}, text("Hi")])]},
            ("messages.content.thinking",),
        ),
        ({"some_future_field": 1}, ("some_future_field",)),
    ],
)
def test_fields_without_an_effect_are_named(fields: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert read(user("Hi"), **fields).ignored == ignored


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [user("Hi"), {"role": "assistant", "content": "He"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [user(5)]}, "messages.0.content"),
        ({"messages": [user([{"text": "Hi"}])]}, "messages.0.content.0"),
        ({"messages": [user([{"type": "text"}])]}, "messages.0.content.0.text"),
        ({"messages": [user([{"type": "hologram"}])]}, "messages.0.content.0"),
        (
            {"messages": [user([{"type": "image", "source": {"type": "url", "url": "https://a"}}])]},
            "messages.0.content.0.source",
        ),
        (
            {"messages": [user([{"type": "document", "source": {"type": "file", "file_id": "f"}}])]},
            "messages.0.content.0.source",
        ),
        ({"messages": [{"role": "system", "content": [PICTURE]}, user("Hi")]}, "messages.0.content.0"),
        ({"system": [{"type": "text"}]}, "system.0.text"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": ["a"] * 5}, "stop_sequences"),
        ({"tools": [{"name": "weather"}]}, "tools.0.input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "news"}}, "tool_choice.name"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as error:
        read(user("Hi"), **fields) if "messages" not in fields else read(**fields)
    assert (error.value.param, error.value.status, error.value.final) == (param, 400, True)
    assert param in str(error.value)


@pytest.mark.parametrize(
    ("user", "tags"),
    [
        ("ada", {"user": "ada"}),
        ('{"device_id": "d", "account_uuid": "", "session_id": "s-1"}', {"session": "s-1"}),
        ('{"device_id": "d"}', {}),
        ("1234", {"user": "1234"}),
        ("", {}),
        (None, {}),
    ],
)
def test_the_user_becomes_a_tag(user: str | None, tags: dict[str, str]) -> None:
    assert read({"role": "user", "content": "Hi"}, metadata={"user_id": user}).tags == tags


def test_a_listed_name_is_read_without_its_prefix() -> None:
    assert read(user("Hi"), model="anthropic/fusion/single").model == "fusion/single"
