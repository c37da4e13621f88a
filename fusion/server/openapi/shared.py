"""Shared parts of the document: fields of Fusion's own, models, and health."""

from typing import Final

from fusion.server.openapi.forms import (
    COUNT,
    DOLLARS,
    FLAG,
    JSON_OBJECT,
    NAME,
    POSITIVE,
    TEXT,
    Schema,
    listed,
    nullable,
    only,
    parameter,
    record,
    ref,
    refusals,
    reply,
)

_LIMITS: Final = record(
    {},
    {
        "usd": nullable({"type": "number", "exclusiveMinimum": 0}),
        "tokens": nullable(POSITIVE),
        "calls": nullable(POSITIVE),
        "seconds": nullable({"type": "number", "exclusiveMinimum": 0}),
    },
    description="Limits of the run. A request may only lower those of the server.",
    additionalProperties=False,
)
_OWN: Final = record(
    {},
    {
        "inputs": nullable({"type": "object", "description": "Inputs of the pipeline by name."}),
        "budget": nullable(ref("Limits")),
        "tags": nullable({"type": "object", "additionalProperties": TEXT, "description": "Tags of the run."}),
        "max_cost": nullable({"type": "number", "exclusiveMinimum": 0, "description": "Most dollars of the run."}),
    },
    description="Fields of Fusion's own.",
    additionalProperties=False,
)
_OUTCOME: Final = record(
    {"run": TEXT, "status": only("ok", "partial")},
    {"cost": DOLLARS, "unknown_calls": COUNT, "lost": listed(JSON_OBJECT)},
    description="Run that answered: its status, its cost in dollars, and the parts that are lost.",
)
_PANEL: Final = {
    "enabled": nullable(FLAG),
    "preset": nullable(only("general-high", "general-budget", "general-fast")),
    "analysis_models": nullable(listed(NAME, minItems=1, maxItems=8)),
    "model": nullable(NAME),
    "max_completion_tokens": nullable(POSITIVE),
    "temperature": nullable({"type": "number", "minimum": 0, "maximum": 2}),
    "max_tool_calls": nullable({"type": "integer", "minimum": 1, "maximum": 16}),
}
_PLUGIN: Final = record({"id": NAME}, _PANEL, description="Plug-in of OpenRouter; `fusion` asks a panel of models.")
_MODEL: Final = record(
    {"id": NAME, "object": only("model"), "created": COUNT, "owned_by": TEXT},
    {"name": TEXT, "description": TEXT},
)
_ANTHROPIC_MODEL: Final = record(
    {"id": NAME, "type": only("model"), "display_name": TEXT, "created_at": {"type": "string", "format": "date-time"}}
)
_MODELS: Final = record({"object": only("list"), "data": listed(ref("Model"))})
_ANTHROPIC_MODELS: Final = record(
    {
        "data": listed(ref("AnthropicModel")),
        "has_more": {"type": "boolean"},
        "first_id": nullable(TEXT),
        "last_id": nullable(TEXT),
    }
)
_OPENAI_ERROR: Final = record(
    {"error": record({"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": nullable(TEXT)})},
    {"fusion": record({"run": TEXT})},
)
_ANTHROPIC_ERROR: Final = record(
    {
        "type": only("error"),
        "error": record({"type": TEXT, "message": TEXT}),
        "request_id": TEXT,
    }
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Limits": _LIMITS,
    "Plugin": _PLUGIN,
    "FusionFields": _OWN,
    "Outcome": _OUTCOME,
    "Model": _MODEL,
    "Models": _MODELS,
    "AnthropicModel": _ANTHROPIC_MODEL,
    "AnthropicModels": _ANTHROPIC_MODELS,
    "OpenAIError": _OPENAI_ERROR,
    "AnthropicError": _ANTHROPIC_ERROR,
    "AnyError": {"anyOf": [ref("OpenAIError"), ref("AnthropicError")]},
}

_VERSION = parameter("anthropic-version", "header", "Asks for the shape of Anthropic's API.")
_GUARDED = (401, 403, 421, 429, 503)

PATHS: Final[dict[str, Schema]] = {
    "/v1/models": {
        "get": {
            "operationId": "listModels",
            "summary": "List the pipelines that are served.",
            "tags": ["models"],
            "parameters": [_VERSION],
            "responses": {
                "200": reply("Models.", {"anyOf": [ref("Models"), ref("AnthropicModels")]}),
                **refusals("AnyError", *_GUARDED),
            },
        }
    },
    "/v1/models/{id}": {
        "get": {
            "operationId": "getModel",
            "summary": "Return one served pipeline.",
            "tags": ["models"],
            "parameters": [
                parameter("id", "path", "Name of the model; it may hold slashes.", NAME, required=True),
                _VERSION,
            ],
            "responses": {
                "200": reply("The model.", {"anyOf": [ref("Model"), ref("AnthropicModel")]}),
                **refusals("AnyError", 404, *_GUARDED),
            },
        }
    },
}
