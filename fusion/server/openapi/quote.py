"""Quotes in the OpenAPI document."""

from typing import Final

from fusion.server.openapi.forms import COUNT, TEXT, Schema, body, listed, nullable, record, ref, refusals, reply

_DOLLARS: Final[Schema] = {"type": "string", "pattern": r"^[0-9.E+-]+$"}
_RANGE: Final = record({"low": COUNT, "likely": COUNT, "high": COUNT}, {"most": nullable(COUNT)})
_USD: Final = record({"low": _DOLLARS, "likely": _DOLLARS, "high": _DOLLARS}, {"cap": nullable(_DOLLARS)})

SCHEMAS: Final[dict[str, Schema]] = {
    "Quote": record(
        {
            "pipeline": TEXT,
            "calls": _RANGE,
            "input": _RANGE,
            "output": _RANGE,
            "usd": _USD,
            "stages": listed({"type": "object"}),
            "notes": listed(TEXT),
        },
        description="Likely calls, tokens, dollars and time of a run, and the cap that it cannot pass.",
    )
}
PATHS: Final[dict[str, Schema]] = {
    "/v1/quote": {
        "post": {
            "operationId": "quote",
            "summary": "Quote a chat completion, without a call.",
            "tags": ["models"],
            "requestBody": body(ref("ChatRequest")),
            "responses": {"200": reply("The quote.", ref("Quote")), **refusals("OpenAIError")},
        }
    }
}
