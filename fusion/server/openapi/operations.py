"""Health, metrics and the document itself in the OpenAPI document."""

from typing import Any, Final

from fusion.server.openapi.forms import JSON_OBJECT, TEXT, Schema, only, record, refusals, reply

_OPEN: Final[dict[str, Any]] = {"tags": ["operations"], "security": [{}]}
_GUARDED: Final = (401, 403)

SCHEMAS: Final[dict[str, Schema]] = {}
PATHS: Final[dict[str, Schema]] = {
    "/healthz": {
        "get": {
            **_OPEN,
            "operationId": "alive",
            "summary": "Tell that the process answers.",
            "responses": {
                "200": reply("It does.", record({"status": only("ok"), "version": TEXT})),
                **refusals("AnyError", 403),
            },
        }
    },
    "/readyz": {
        "get": {
            **_OPEN,
            "operationId": "ready",
            "summary": "Tell if new requests are taken.",
            "responses": {
                "200": reply("They are.", record({"status": only("ok")})),
                "503": reply("The server stops.", record({"status": TEXT})),
                **refusals("AnyError", 403),
            },
        }
    },
    "/metrics": {
        "get": {
            "tags": ["operations"],
            "operationId": "metrics",
            "summary": "Return metrics in Prometheus' text format.",
            "responses": {
                "200": {"description": "Metrics.", "content": {"text/plain": {"schema": TEXT}}},
                **refusals("AnyError", *_GUARDED),
            },
        }
    },
    "/openapi.json": {
        "get": {
            "tags": ["operations"],
            "operationId": "describe",
            "summary": "Return this document.",
            "responses": {"200": reply("The document.", JSON_OBJECT), **refusals("AnyError", *_GUARDED)},
        }
    },
}
