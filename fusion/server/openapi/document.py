"""Document: the parts of the OpenAPI description put together, and its route."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import fusion
from fusion.server.openapi import chat, messages, operations, quote, responses, runs, shared
from fusion.server.service import Service

_PARTS = (chat, responses, messages, quote, shared, runs, operations)
_TAGS = {
    "chat": "Chat completions of OpenAI's API.",
    "responses": "Responses of OpenAI's API.",
    "messages": "Messages of Anthropic's API.",
    "models": "Pipelines that are served.",
    "runs": "Runs of the store, as the page shows them.",
    "operations": "Health and metrics.",
}


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document of the public API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fusion",
            "version": fusion.__version__,
            "description": "Compound models behind the APIs of OpenAI and Anthropic.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": {path: item for part in _PARTS for path, item in part.PATHS.items()},
        "components": {
            "schemas": {name: schema for part in _PARTS for name, schema in part.SCHEMAS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Token of a caller."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same token."},
            },
        },
    }


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the route of the document."""

    async def described(request: Request) -> Response:
        return Response(to_json(document()), media_type="application/json")

    return [Route("/openapi.json", described)]
