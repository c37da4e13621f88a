"""Responses in the document: OpenAI's API of that name."""

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
    parameter,
    record,
    ref,
    refusals,
    reply,
    streamed,
)

_PART: Final = either(
    record({"type": only("input_text", "output_text", "text"), "text": TEXT}),
    record({"type": only("input_image"), "image_url": TEXT}, description="A picture as a base64 data URL."),
    record({"type": only("input_file"), "file_data": TEXT}, {"filename": nullable(TEXT)}),
)
_TEXT_PART: Final = record({"type": only("input_text", "output_text", "text"), "text": TEXT})
_ITEM: Final = either(
    record({"role": only("user"), "content": either(TEXT, listed(_PART))}, {"type": only("message")}),
    record(
        {"role": only("assistant", "system", "developer"), "content": either(TEXT, listed(_TEXT_PART))},
        {"type": only("message")},
    ),
    record(
        {"type": only("function_call"), "call_id": TEXT, "name": TEXT, "arguments": TEXT},
        {"namespace": nullable(TEXT)},
    ),
    record(
        {"type": only("function_call_output"), "call_id": TEXT, "output": either(TEXT, listed(_TEXT_PART))},
    ),
    record({"type": only("reasoning")}),
)
_FUNCTION: Final = record(
    {"type": only("function"), "name": NAME},
    {"description": nullable(TEXT), "parameters": nullable(JSON_OBJECT), "strict": nullable(FLAG)},
)
_TOOL: Final = either(
    _FUNCTION,
    record(
        {"type": only("namespace"), "name": NAME, "tools": listed(_FUNCTION)},
        {"description": nullable(TEXT)},
        description="Functions of the client under one name, such as those of an MCP server.",
    ),
    record(
        {"type": only("web_search", "file_search", "code_interpreter", "image_generation", "custom")},
        description="Tool of OpenAI's servers; it has no effect here.",
    ),
)
_TOOL_CHOICE: Final = either(
    only("none", "auto", "required"),
    record({"type": only("function"), "name": NAME}, {"namespace": nullable(NAME)}),
)
_FORMAT: Final = either(
    record({"type": only("text", "json_object")}),
    record({"type": only("json_schema"), "schema": JSON_OBJECT}, {"name": TEXT}),
)
_REQUEST: Final = record(
    {"model": NAME, "input": either(NAME, listed(ref("ResponseInputItem"), minItems=1))},
    {
        "instructions": nullable(TEXT),
        "tools": nullable(listed(ref("ResponseTool"))),
        "tool_choice": nullable(_TOOL_CHOICE),
        "text": nullable(record({}, {"format": nullable(_FORMAT)})),
        "max_output_tokens": nullable(POSITIVE),
        "reasoning": nullable(
            record({}, {"effort": nullable(only("none", "minimal", "low", "medium", "high", "xhigh", "max"))})
        ),
        "temperature": nullable({"type": "number", "minimum": 0, "maximum": 2}),
        "top_p": nullable(SHARE),
        "metadata": nullable({"type": "object", "additionalProperties": TEXT}),
        "stream": nullable(FLAG),
        "background": nullable(FLAG),
        "seed": nullable({"type": "integer"}),
        "stop": nullable(either(TEXT, listed(TEXT, maxItems=4))),
        "previous_response_id": nullable({"type": "string", "pattern": "^resp_"}),
        "plugins": nullable(listed(ref("Plugin"))),
        "fusion": nullable(ref("FusionFields")),
        "max_cost": nullable({"type": "number", "exclusiveMinimum": 0, "description": "Most dollars of the run."}),
    },
)
_USAGE: Final = record(
    {
        "input_tokens": COUNT,
        "input_tokens_details": record({"cached_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": record({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    },
    {"cost": DOLLARS, "cost_details": JSON_OBJECT},
)
_OUTPUT: Final = either(
    record(
        {
            "type": only("message"),
            "id": TEXT,
            "role": only("assistant"),
            "status": TEXT,
            "content": listed(record({"type": only("output_text"), "text": TEXT})),
        }
    ),
    record(
        {"type": only("function_call"), "id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT},
        {"namespace": TEXT},
    ),
    record({"type": {"type": "string", "pattern": "^openrouter:"}}),
)
_RESPONSE: Final = record(
    {
        "id": {"type": "string", "pattern": "^resp_"},
        "object": only("response"),
        "created_at": COUNT,
        "status": only("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
        "model": TEXT,
        "output": listed(_OUTPUT),
        "error": nullable(record({"code": TEXT, "message": TEXT})),
        "incomplete_details": nullable(record({"reason": TEXT})),
    },
    {"usage": nullable(ref("ResponseUsage")), "fusion": JSON_OBJECT, "completed_at": nullable(COUNT)},
)
_KINDS: Final = (
    "output_item.added",
    "output_item.done",
    "content_part.added",
    "content_part.done",
    "output_text.delta",
    "output_text.done",
    "function_call_arguments.delta",
    "function_call_arguments.done",
)
_EVENT: Final = either(
    record(
        {
            "type": only(*(f"response.{name}" for name in ("created", "in_progress", "completed", "incomplete"))),
            "sequence_number": COUNT,
            "response": ref("Response"),
        }
    ),
    record({"type": only("response.failed"), "sequence_number": COUNT, "response": ref("Response")}),
    record({"type": only(*(f"response.{name}" for name in _KINDS)), "sequence_number": COUNT, "output_index": COUNT}),
    record({"type": {"type": "string", "pattern": r"^response\.fusion_call\."}, "sequence_number": COUNT}),
    record({"type": only("error"), "sequence_number": COUNT, "code": nullable(TEXT), "message": TEXT}),
)

SCHEMAS: Final[dict[str, Schema]] = {
    "ResponseInputItem": _ITEM,
    "ResponseTool": _TOOL,
    "ResponseRequest": _REQUEST,
    "ResponseUsage": _USAGE,
    "Response": _RESPONSE,
    "ResponseEvent": _EVENT,
    "ResponseInputList": record(
        {"object": only("list"), "data": listed(JSON_OBJECT), "has_more": FLAG},
        {"first_id": nullable(TEXT), "last_id": nullable(TEXT)},
    ),
    "ResponseRemoval": record({"id": TEXT, "object": only("response"), "deleted": FLAG}),
}
_ID = parameter("id", "path", "Id of the response.", {"type": "string", "pattern": "^resp_"}, required=True)

PATHS: Final[dict[str, Schema]] = {
    "/v1/responses": {
        "post": {
            "operationId": "createResponse",
            "summary": "Answer an input by a run of a pipeline, as OpenAI's Responses API does.",
            "tags": ["responses"],
            "parameters": CALLER_HEADERS,
            "requestBody": body(ref("ResponseRequest")),
            "responses": {
                "200": streamed(
                    "The response, or its events.", ref("Response"), "ResponseEvent", headers=RUN_HEADERS
                ),
                **refusals("OpenAIError"),
            },
        }
    },
    "/v1/responses/{id}": {
        "get": {
            "operationId": "getResponse",
            "summary": "Return a response, or its events after a number; a run that was cut off goes on with them.",
            "tags": ["responses"],
            "parameters": [
                _ID,
                parameter("stream", "query", "`true` for the events.", only("true", "false")),
                parameter("starting_after", "query", "Number of the last event that is known.", COUNT),
            ],
            "responses": {
                "200": streamed("The response, or its events.", ref("Response"), "ResponseEvent"),
                **refusals("OpenAIError"),
            },
        },
        "delete": {
            "operationId": "deleteResponse",
            "summary": "Remove a run that has ended, and all that was kept of it.",
            "tags": ["responses"],
            "parameters": [_ID],
            "responses": {"200": reply("The removal.", ref("ResponseRemoval")), **refusals("OpenAIError")},
        },
    },
    "/v1/responses/{id}/input_items": {
        "get": {
            "operationId": "listInputItems",
            "summary": "Return the items of the input of a response, latest first.",
            "tags": ["responses"],
            "parameters": [
                _ID,
                parameter("limit", "query", "Items at most.", {"type": "integer", "minimum": 1, "maximum": 100}),
                parameter("order", "query", "`asc` for the first one first.", only("asc", "desc")),
                parameter("after", "query", "Id of the last item that is known.", TEXT),
            ],
            "responses": {"200": reply("A page of items.", ref("ResponseInputList")), **refusals("OpenAIError")},
        }
    },
    "/v1/responses/{id}/cancel": {
        "post": {
            "operationId": "cancelResponse",
            "summary": "Stop a run, and return its response.",
            "tags": ["responses"],
            "parameters": [_ID],
            "responses": {"200": reply("The response.", ref("Response")), **refusals("OpenAIError")},
        }
    },
}
