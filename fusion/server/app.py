"""App: the routes of the server, and its life."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fusion.client.client import Fusion
from fusion.core.config import ServerTable
from fusion.core.errors import FusionError
from fusion.core.log import LOG
from fusion.pipeline.loader import PipelineGiven
from fusion.server.base import RefusedError
from fusion.server.dialects.table import DIALECTS, dialect_at
from fusion.server.endpoint import Endpoint
from fusion.server.guard.callers import Callers
from fusion.server.guard.guard import Guard
from fusion.server.guard.hosts import Hosts
from fusion.server.openapi import document as openapi
from fusion.server.operations import health, legacy, messages, models, quote, responses
from fusion.server.page import routes as page
from fusion.server.refusals import refuse, refused
from fusion.server.service import Service

_ROUTES: Final[tuple[Callable[[Service], Sequence[BaseRoute]], ...]] = (
    models.routes,
    health.routes,
    quote.routes,
    legacy.routes,
    messages.routes,
    responses.routes,
    openapi.routes,
    page.routes,
)
"""Makers of the routes beside those of dialects."""


def build(
    fusion: Fusion,
    *,
    table: ServerTable | None = None,
    pipelines: Mapping[str, PipelineGiven] | None = None,
    public: bool = False,
    warm: bool = True,
) -> Starlette:
    """Return the ASGI application that serves the pipelines of a Fusion with a store.

    `table` is by default that of its settings. `pipelines` by the names that clients ask for replace those of it. A
    `public` server is reached under any host name, unless `allowed_hosts` names some, and needs tokens.
    With `warm`, libraries of models are loaded before the first request.
    Raises UsageError for a Fusion without a store, and for a token that is missing.
    """
    table = table or fusion.settings.server
    service = Service.of(fusion, table, pipelines)
    callers = Callers.needed(table, public=public)
    hosts = Hosts(table.allowed_hosts, table.allowed_origins, any_host=public)
    spoken = [Route(path, Endpoint(service, dialect), methods=["POST"]) for path, dialect in DIALECTS.items()]
    beside = [route for make in _ROUTES for route in make(service)]

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        try:
            if warm:
                await fusion.awarm()
        except FusionError as error:
            LOG.warning("not warmed: %s", error)
        keeping = asyncio.create_task(service.people.keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await service.runs.end()

    app = Starlette(
        routes=[*spoken, *beside],
        lifespan=life,
        middleware=[
            Middleware(Guard, hosts=hosts, callers=callers, requests=service.runs.tally.requests, shape=dialect_at)
        ],
        exception_handlers={FusionError: _failed, HTTPException: _unknown, Exception: _broken},
    )
    app.state.service = service
    return app


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, FusionError)
    return refuse(dialect_at(request.url.path, request.headers), refused(error))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path}: {error.detail}"
    refusal = RefusedError(words, status=error.status_code, kind="not_found_error")
    return refuse(dialect_at(request.url.path, request.headers), refusal)


async def _broken(request: Request, error: Exception) -> Response:
    refusal = RefusedError("internal error", status=500, kind="server_error", code="internal_error")
    return refuse(dialect_at(request.url.path, request.headers), refusal)
