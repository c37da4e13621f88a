"""Routes beside the messages themselves: the probe of a client, and the count of tokens."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fusion.server.dialects.messages.count import tokens_of
from fusion.server.dialects.messages.names import own_name
from fusion.server.dialects.messages.request import parsed
from fusion.server.guard.bodies import json_object
from fusion.server.guard.callers import caller_of
from fusion.server.service import Service


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of `HEAD /` and of `POST /v1/messages/count_tokens`."""

    async def probe(request: Request) -> Response:
        return Response()

    async def count(request: Request) -> Response:
        async with service.bodies.of(request) as data:
            body = await json_object(data)
        service.catalog.find(own_name(parsed(body).model), caller_of(request))
        return JSONResponse({"input_tokens": await tokens_of(body)})

    return [
        Route("/", probe, methods=["HEAD"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]
