"""Replies of the double: an echo of what the user said, the smallest value of a schema, or a call of a tool."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

USAGE = (20, 10)
"""Tokens of input and output of every reply."""


def said(body: Mapping[str, Any]) -> str:
    """Return the last text of the user, of a body in OpenAI's or Anthropic's format."""
    for message in reversed(body.get("messages") or []):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def said_to_gemini(body: Mapping[str, Any]) -> str:
    for content in reversed(body.get("contents") or []):
        if content.get("role") == "user":
            return "".join(part.get("text", "") for part in content["parts"])
    return ""


def completion(body: Mapping[str, Any], reply: str | None) -> dict[str, Any]:
    """Return a completion of OpenAI's."""
    form = body.get("response_format") or {}
    schema = form.get("json_schema", {}).get("schema") or ({} if form.get("type") == "json_object" else None)
    message: dict[str, Any] = {"role": "assistant", "content": _written(said(body), schema, reply)}
    finish = "stop"
    if body.get("tools") and body.get("tool_choice") != "none":
        tool = body["tools"][0]["function"]
        call = {"name": tool["name"], "arguments": json.dumps(smallest(tool["parameters"]))}
        message = {"role": "assistant", "content": None, "tool_calls": [_call(call)]}
        finish = "tool_calls"
    taken, given = USAGE
    usage = {"prompt_tokens": taken, "completion_tokens": given, "total_tokens": taken + given}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model"),
        "choices": [choice],
        "usage": usage,
    }


def chunks(whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a completion as a stream has it."""
    choice = whole["choices"][0]
    delta = dict(choice["message"])
    for number, call in enumerate(delta.get("tool_calls") or ()):
        call["index"] = number
    head = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    yield {**head, "choices": [], "usage": whole["usage"]}


def message(body: Mapping[str, Any], reply: str | None) -> dict[str, Any]:
    """Return a message of Anthropic's."""
    schema = (body.get("output_config") or {}).get("format", {}).get("schema")
    content: list[dict[str, Any]] = [{"type": "text", "text": _written(said(body), schema, reply)}]
    stop = "end_turn"
    if body.get("tools") and (body.get("tool_choice") or {}).get("type") != "none":
        tool = body["tools"][0]
        given = smallest(tool["input_schema"])
        content, stop = [{"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": given}], "tool_use"
    taken, given_tokens = USAGE
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": taken, "output_tokens": given_tokens},
    }


def events(whole: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a message as a stream has it: names of events, and their data."""
    yield "message_start", {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
    for index, block in enumerate(whole["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        delta = (
            {"type": "text_delta", "text": block["text"]}
            if block["type"] == "text"
            else {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        )
        yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    last = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": last, "usage": whole["usage"]}
    yield "message_stop", {"type": "message_stop"}


def generated(model: str, body: Mapping[str, Any], reply: str | None) -> dict[str, Any]:
    """Return a response of Gemini's."""
    config = body.get("generationConfig") or {}
    json_asked = config.get("response_mime_type") or config.get("responseMimeType")
    schema = config.get("responseJsonSchema") or config.get("response_json_schema") or config.get("response_schema")
    parts: list[dict[str, Any]] = [
        {"text": _written(said_to_gemini(body), (schema or {}) if json_asked else None, reply)}
    ]
    if body.get("tools"):
        tool = body["tools"][0]["function_declarations"][0]
        parts = [{"functionCall": {"name": tool["name"], "args": smallest(tool.get("parameters") or {})}}]
    taken, given = USAGE
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": taken,
            "candidatesTokenCount": given,
            "totalTokenCount": taken + given,
        },
        "modelVersion": model,
        "responseId": "r1",
    }


def smallest(schema: Mapping[str, Any]) -> Any:
    """Return the smallest value of a schema of objects, lists, texts and numbers."""
    kind = str(schema.get("type", "object")).lower()
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object":
        return {name: smallest(one) for name, one in (schema.get("properties") or {}).items()}
    return {"array": [], "string": "text", "integer": 1, "number": 1.5, "boolean": True}.get(kind)


def _written(text: str, schema: Mapping[str, Any] | None, reply: str | None) -> str:
    if reply is not None:
        return reply
    return f"echo: {text}" if schema is None else json.dumps(smallest(schema))


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": function}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, Mapping))
