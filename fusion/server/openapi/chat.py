"""Chat completions in the document: OpenAI's API."""

from typing import Final

from fusion.server.openapi.forms import (
    CALLER_HEADERS,
    COUNT,
    DOLLARS,
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
    record,
    ref,
    refusals,
    streamed,
)

_TEXT_PART: Final = record({"type": only("text"), "text": TEXT})
_IMAGE_PART: Final = record(
    {"type": only("image_url"), "image_url": either(TEXT, record({"url": TEXT}))},
    description="A picture as a base64 data URL.",
)
_FILE_PART: Final = record(
    {"type": only("file"), "file": record({"file_data": TEXT}, {"filename": nullable(TEXT)})},
    description="A PDF or a text as a base64 data URL.",
)
_CALL: Final = record(
    {"id": TEXT, "type": only("function"), "function": record({"name": TEXT, "arguments": TEXT})},
)
_TEXTS: Final = either(TEXT, listed(ref("ChatTextPart")))
_TURN: Final = either(
    record({"role": only("system", "developer"), "content": _TEXTS}),
    record(
        {
            "role": only("user"),
            "content": either(TEXT, listed(either(ref("ChatTextPart"), _IMAGE_PART, _FILE_PART))),
        }
    ),
    record({"role": only("assistant"), "content": _TEXTS}),
    record(
        {"role": only("assistant"), "tool_calls": listed(ref("ChatToolCall"), minItems=1)},
        {"content": nullable(_TEXTS)},
    ),
    record({"role": only("tool"), "content": _TEXTS, "tool_call_id": TEXT}),
)
_FUNCTION: Final = record(
    {"name": NAME}, {"description": nullable(TEXT), "parameters": nullable(JSON_OBJECT), "strict": nullable(FLAG)}
)
_TOOL: Final = record({"type": only("function"), "function": _FUNCTION})
_TOOL_CHOICE: Final = either(
    only("none", "auto", "required"),
    record({"type": only("function"), "function": record({"name": NAME})}),
)
_FORMAT: Final = either(
    record({"type": only("text", "json_object")}),
    record({"type": only("json_schema"), "json_schema": record({"schema": JSON_OBJECT}, {"name": TEXT})}),
)
_REQUEST: Final = record(
    {"model": NAME, "messages": listed(ref("ChatTurn"), minItems=1)},
    {
        "stream": nullable(FLAG),
        "stream_options": nullable(record({}, {"include_usage": nullable(FLAG)})),
        "tools": nullable(listed(ref("ChatTool"))),
        "tool_choice": nullable(_TOOL_CHOICE),
        "response_format": nullable(_FORMAT),
        "max_tokens": nullable(POSITIVE),
        "max_completion_tokens": nullable(POSITIVE),
        "n": nullable(only(1)),
        "seed": nullable({"type": "integer"}),
        "stop": nullable(either(TEXT, listed(TEXT, maxItems=4))),
        "temperature": nullable({"type": "number", "minimum": 0, "maximum": 2}),
        "top_p": nullable(SHARE),
        "reasoning_effort": nullable(only("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        "plugins": nullable(listed(ref("Plugin"))),
        "fusion": nullable(ref("FusionFields")),
        "max_cost": nullable({"type": "number", "exclusiveMinimum": 0, "description": "Most dollars of the run."}),
    },
)
_USAGE: Final = record(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": record({"cached_tokens": COUNT}, {"cache_write_tokens": COUNT}),
        "completion_tokens_details": record({"reasoning_tokens": COUNT}),
    },
    {"cost": DOLLARS, "is_byok": FLAG, "cost_details": record({"upstream_inference_cost": DOLLARS})},
)
_FINISH: Final = only("stop", "length", "tool_calls", "content_filter")
_COMPLETION: Final = record(
    {
        "id": TEXT,
        "object": only("chat.completion"),
        "created": COUNT,
        "model": TEXT,
        "choices": listed(
            record(
                {
                    "index": only(0),
                    "message": record(
                        {"role": only("assistant"), "content": nullable(TEXT)},
                        {"refusal": nullable(TEXT), "tool_calls": listed(ref("ChatToolCall"))},
                    ),
                    "finish_reason": _FINISH,
                }
            ),
            minItems=1,
            maxItems=1,
        ),
        "usage": ref("ChatUsage"),
    },
    {"fusion": ref("Outcome")},
)
_CALL_DELTA: Final = record(
    {"index": COUNT},
    {"id": TEXT, "type": only("function"), "function": record({}, {"name": TEXT, "arguments": TEXT})},
)
_DELTA: Final = record(
    {},
    {
        "role": only("assistant"),
        "content": nullable(TEXT),
        "refusal": nullable(TEXT),
        "tool_calls": listed(_CALL_DELTA),
    },
)
_CHUNK: Final = record(
    {
        "id": TEXT,
        "object": only("chat.completion.chunk"),
        "created": COUNT,
        "model": TEXT,
        "choices": listed(
            record(
                {
                    "index": only(0),
                    "delta": _DELTA,
                    "finish_reason": nullable(only("stop", "length", "tool_calls", "content_filter", "error")),
                }
            ),
            maxItems=1,
        ),
    },
    {
        "usage": nullable(ref("ChatUsage")),
        "error": record({"message": TEXT, "type": TEXT}),
        "fusion": JSON_OBJECT,
    },
)

SCHEMAS: Final[dict[str, Schema]] = {
    "ChatTextPart": _TEXT_PART,
    "ChatTurn": _TURN,
    "ChatTool": _TOOL,
    "ChatToolCall": _CALL,
    "ChatRequest": _REQUEST,
    "ChatUsage": _USAGE,
    "ChatCompletion": _COMPLETION,
    "ChatChunk": _CHUNK,
}

PATHS: Final[dict[str, Schema]] = {
    "/v1/chat/completions": {
        "post": {
            "operationId": "createChatCompletion",
            "summary": "Answer messages by a run of a pipeline, as OpenAI's chat completions do.",
            "tags": ["chat"],
            "parameters": CALLER_HEADERS,
            "requestBody": body(ref("ChatRequest")),
            "responses": {
                "200": streamed(
                    "The completion, or its chunks and `[DONE]`.",
                    ref("ChatCompletion"),
                    "ChatChunk",
                    headers=RUN_HEADERS,
                ),
                **refusals("OpenAIError"),
            },
        }
    },
    "/v1/completions": {
        "post": {
            "operationId": "createCompletion",
            "summary": "Refuse legacy completions, and name the setting that makes a client send chat completions.",
            "tags": ["chat"],
            "responses": refusals("OpenAIError"),
        }
    },
}
