"""Quotes: the likely cost of a request of chat completions, without a call."""

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fusion.quote.quote import Quote
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.dialects.chat.reading import read
from fusion.server.dialects.openrouter.choice import chosen
from fusion.server.guard.bodies import json_object
from fusion.server.runs.mapping import options_of
from fusion.server.service import Service

_QUEUE: Final = 8


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the route of `POST /v1/quote`, which computes one quote at a time."""
    turn, waiting = asyncio.Lock(), 0

    async def quote(request: Request) -> Response:
        nonlocal waiting
        async with service.bodies.of(request) as data:
            body = await json_object(data)
        served, asked = await chosen(service, request, read(body), body)
        if waiting >= _QUEUE:
            raise _busy()
        waiting += 1
        try:
            async with turn:
                found = await asyncio.to_thread(_quoted, service, served, asked)
        finally:
            waiting -= 1
        return Response(found.model_dump_json(), media_type="application/json")

    return [Route("/v1/quote", quote, methods=["POST"])]


def _quoted(service: Service, served: ServedPipeline, asked: ServedRequest) -> Quote:
    pipeline = service.catalog.load(served)
    options = options_of(pipeline, served, asked)
    return service.fusion.quote(
        options["prompt"], pipeline=pipeline, inputs=options["inputs"], budget=options["budget"]
    )


def _busy() -> RefusedError:
    return RefusedError(
        f"{_QUEUE} quotes wait already; try again later",
        status=429,
        kind="rate_limit_error",
        code="queue_full",
        final=False,
        retry_after=2,
    )
