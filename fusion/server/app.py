"""App: the routes of the server, and its life."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fusion.client.client import Fusion
from fusion.core.config import ServerTable
from fusion.core.errors import FusionError
from fusion.pipeline.loader import PipelineGiven
from fusion.server import listing
from fusion.server.dialects.base import RefusedError
from fusion.server.dialects.messages import routes as messages
from fusion.server.dialects.responses import routes as responses
from fusion.server.dialects.table import DIALECTS, dialect_at
from fusion.server.endpoint import Endpoint, refuse, refused
from fusion.server.service import Service

_ROUTES: Final[tuple[Callable[[Service], Sequence[BaseRoute]], ...]] = (
    listing.routes,
    messages.routes,
    responses.routes,
)
"""Makers of the routes beside those of dialects."""


def build(
    fusion: Fusion,
    *,
    table: ServerTable | None = None,
    pipelines: Mapping[str, PipelineGiven] | None = None,
) -> Starlette:
    """Return the ASGI application that serves the pipelines of a Fusion with a store.

    `table` is by default that of its settings. `pipelines` by the names that clients ask for replace those of it.
    Raises UsageError for a Fusion without a store.
    """
    service = Service.of(fusion, table or fusion.settings.server, pipelines)
    spoken = [Route(path, Endpoint(service, dialect), methods=["POST"]) for path, dialect in DIALECTS.items()]
    beside = [route for make in _ROUTES for route in make(service)]

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await fusion.awarm()
        yield

    handlers = {FusionError: _failed, HTTPException: _unknown}
    return Starlette(routes=[*spoken, *beside], lifespan=life, exception_handlers=handlers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, FusionError)
    return refuse(dialect_at(request.url.path, request.headers), refused(error))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path}: {error.detail}"
    refusal = RefusedError(words, status=error.status_code, kind="not_found_error")
    return refuse(dialect_at(request.url.path, request.headers), refusal)
