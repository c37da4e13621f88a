"""Messages in the document: Anthropic's API."""

from typing import Final

from fusion.server.openapi.forms import (
    CALLER_HEADERS,
    COUNT,
    FLAG,
    JSON_OBJECT,
    NAME,
    POSITIVE,
    RUN_HEADERS,
    SHARE,
    TEXT,
    Schema,
    body,
    either,
    listed,
    nullable,
    only,
    parameter,
    record,
    ref,
    refusals,
    reply,
    streamed,
)

_BASE64: Final = record({"type": only("base64"), "media_type": TEXT, "data": TEXT})
_TEXT_BLOCK: Final = record({"type": only("text"), "text": TEXT})
_IMAGE: Final = record({"type": only("image"), "source": _BASE64})
_TEXTS: Final = either(TEXT, listed(ref("TextBlock")))
_DOCUMENT: Final = record(
    {
        "type": only("document"),
        "source": either(
            _BASE64,
            record({"type": only("text"), "data": TEXT}, {"media_type": only("text/plain")}),
            record({"type": only("content"), "content": _TEXTS}),
        ),
    },
    {"title": nullable(TEXT)},
)
_SEARCH_RESULT: Final = record(
    {"type": only("search_result"), "title": TEXT, "source": TEXT, "content": listed(ref("TextBlock"))}
)
_TOOL_USE: Final = record({"type": only("tool_use"), "id": TEXT, "name": TEXT, "input": JSON_OBJECT})
_USER_BLOCKS: Final = [ref("TextBlock"), ref("ImageBlock"), ref("DocumentBlock"), ref("SearchResultBlock")]
_TOOL_RESULT: Final = record(
    {"type": only("tool_result"), "tool_use_id": TEXT},
    {"content": nullable(either(TEXT, listed(either(*_USER_BLOCKS)))), "is_error": nullable(FLAG)},
)
_THINKING: Final = record({"type": only("thinking", "redacted_thinking")})
_TURN: Final = either(
    record(
        {"role": only("user"), "content": either(TEXT, listed(either(*_USER_BLOCKS, ref("ToolResultBlock"))))},
    ),
    record(
        {
            "role": only("assistant"),
            "content": either(TEXT, listed(either(ref("TextBlock"), ref("ToolUseBlock"), _THINKING))),
        }
    ),
    record({"role": only("system"), "content": _TEXTS}),
)
_TOOL: Final = either(
    record(
        {"name": {"type": "string", "minLength": 1, "maxLength": 128}, "input_schema": JSON_OBJECT},
        {"type": nullable(only("custom")), "description": nullable(TEXT)},
    ),
    record(
        {
            "type": {
                "type": "string",
                "pattern": "^(bash|code_execution|computer|memory|text_editor|web_fetch|web_search)_[0-9]{8}$",
                "description": "Tool of Anthropic's servers; it has no effect here.",
            }
        },
        {"name": nullable({"type": "string", "minLength": 1, "maxLength": 128})},
    ),
)
_TOOL_CHOICE: Final = either(
    record({"type": only("auto", "any", "none")}, {"disable_parallel_tool_use": FLAG}),
    record({"type": only("tool"), "name": NAME}),
)
_FORMAT: Final = record({"type": only("json_schema"), "schema": JSON_OBJECT})
_OUTPUT_CONFIG: Final = record(
    {},
    {
        "effort": nullable(only("low", "medium", "high", "xhigh", "max")),
        "format": nullable(_FORMAT),
    },
)
_ASKED: Final = {
    "model": NAME,
    "messages": listed(ref("MessageTurn"), minItems=1),
}
_OPTIONS: Final = {
    "system": nullable(_TEXTS),
    "tools": nullable(listed(ref("MessageTool"))),
    "tool_choice": nullable(_TOOL_CHOICE),
    "output_config": nullable(_OUTPUT_CONFIG),
}
_REQUEST: Final = record(
    _ASKED,
    {
        **_OPTIONS,
        "max_tokens": nullable(POSITIVE),
        "stop_sequences": nullable(listed(TEXT, maxItems=4)),
        "temperature": nullable({"type": "number", "minimum": 0, "maximum": 1}),
        "top_p": nullable(SHARE),
        "metadata": nullable(record({}, {"user_id": nullable(TEXT)})),
        "stream": nullable(FLAG),
        "plugins": nullable(listed(ref("Plugin"))),
        "fusion": nullable(ref("FusionFields")),
    },
)
_USAGE: Final = record(
    {
        "input_tokens": COUNT,
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "output_tokens": COUNT,
    }
)
_STOPS: Final = only("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal")
_MESSAGE: Final = record(
    {
        "id": TEXT,
        "type": only("message"),
        "role": only("assistant"),
        "model": TEXT,
        "content": listed(either(ref("TextBlock"), ref("ToolUseBlock"))),
        "stop_reason": nullable(_STOPS),
        "stop_sequence": nullable(TEXT),
        "usage": ref("MessageUsage"),
    },
    {"fusion": ref("Outcome")},
)
_DELTA: Final = either(
    record({"type": only("text_delta"), "text": TEXT}),
    record({"type": only("input_json_delta"), "partial_json": TEXT}),
)
_EVENT: Final = either(
    record({"type": only("message_start"), "message": ref("Message")}),
    record({"type": only("ping")}),
    record(
        {
            "type": only("content_block_start"),
            "index": COUNT,
            "content_block": either(ref("TextBlock"), ref("ToolUseBlock")),
        }
    ),
    record({"type": only("content_block_delta"), "index": COUNT, "delta": _DELTA}),
    record({"type": only("content_block_stop"), "index": COUNT}),
    record(
        {
            "type": only("message_delta"),
            "delta": record({"stop_reason": _STOPS, "stop_sequence": nullable(TEXT)}),
            "usage": ref("MessageUsage"),
        }
    ),
    record({"type": only("message_stop")}, {"fusion": ref("Outcome")}),
    ref("AnthropicError"),
)

SCHEMAS: Final[dict[str, Schema]] = {
    "TextBlock": _TEXT_BLOCK,
    "ImageBlock": _IMAGE,
    "DocumentBlock": _DOCUMENT,
    "SearchResultBlock": _SEARCH_RESULT,
    "ToolUseBlock": _TOOL_USE,
    "ToolResultBlock": _TOOL_RESULT,
    "MessageTurn": _TURN,
    "MessageTool": _TOOL,
    "MessageRequest": _REQUEST,
    "CountRequest": record(_ASKED, _OPTIONS),
    "MessageUsage": _USAGE,
    "Message": _MESSAGE,
    "MessageEvent": _EVENT,
}

PATHS: Final[dict[str, Schema]] = {
    "/v1/messages": {
        "post": {
            "operationId": "createMessage",
            "summary": "Answer messages by a run of a pipeline, as Anthropic's API does.",
            "tags": ["messages"],
            "parameters": [
                *CALLER_HEADERS,
                parameter("anthropic-version", "header", "Version of Anthropic's API; it has no effect."),
                parameter("anthropic-beta", "header", "Features of Anthropic's API; they have no effect."),
            ],
            "requestBody": body(ref("MessageRequest")),
            "responses": {
                "200": streamed("The message, or its events.", ref("Message"), "MessageEvent", headers=RUN_HEADERS),
                **refusals("AnthropicError"),
            },
        }
    },
    "/v1/messages/count_tokens": {
        "post": {
            "operationId": "countTokens",
            "summary": "Return an upper bound of the tokens of a request, without a call to a model.",
            "tags": ["messages"],
            "requestBody": body(ref("CountRequest")),
            "responses": {
                "200": reply("The bound.", record({"input_tokens": COUNT})),
                **refusals("AnthropicError", 400, 401, 403, 404, 408, 413, 415, 421, 429, 431, 503),
            },
        }
    },
}
