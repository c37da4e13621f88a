"""Models: the served pipelines, listed as OpenAI does, or as Anthropic does to its clients."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fusion.pipeline.loader import LoadedPipeline
from fusion.server.catalog import ServedPipeline, without_deadline
from fusion.server.dialects.messages.names import listed_name, own_name
from fusion.server.guard.callers import caller_of
from fusion.server.service import Service

_Entry = tuple[ServedPipeline, LoadedPipeline]


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of the list of models and of one model."""

    async def all_models(request: Request) -> Response:
        found = await asyncio.to_thread(service.catalog.list, caller_of(request))
        found = [one for one in found if without_deadline(one[1]) is None]
        if _is_for_anthropic(request):
            data = [_anthropic(*one) for one in found]
            ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
            return JSONResponse({"data": data, "has_more": False, "first_id": None, "last_id": None, **ends})
        return JSONResponse({"object": "list", "data": [_openai(*one) for one in found]})

    async def one_model(request: Request) -> Response:
        one = service.catalog.find(own_name(request.path_params["id"]), caller_of(request))
        pipeline = await asyncio.to_thread(service.catalog.load, one)
        return JSONResponse((_anthropic if _is_for_anthropic(request) else _openai)(one, pipeline))

    return [Route("/v1/models", all_models), Route("/v1/models/{id:path}", one_model)]


def _is_for_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _openai(served: ServedPipeline, pipeline: LoadedPipeline) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": _created(pipeline),
        "owned_by": "fusion",
        "name": pipeline.pipeline.name,
        "description": pipeline.pipeline.description,
    }


def _anthropic(served: ServedPipeline, pipeline: LoadedPipeline) -> dict[str, Any]:
    at = datetime.fromtimestamp(_created(pipeline), UTC)
    return {
        "type": "model",
        "id": listed_name(served.name),
        "display_name": pipeline.pipeline.name,
        "created_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }


def _created(pipeline: LoadedPipeline) -> int:
    return 0 if pipeline.file is None else int(pipeline.file.stat().st_mtime)
