"""App: the MCP server over HTTP, behind the guard of the server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import INVALID_REQUEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from fusion.core.errors import FusionError
from fusion.core.log import LOG
from fusion.server.base import RefusedError
from fusion.server.guard.callers import Callers
from fusion.server.guard.guard import Guard
from fusion.server.guard.hosts import Hosts
from fusion.server.mcp.server import GONE, Tools
from fusion.server.operations import health
from fusion.server.service import Service

PATH: Final = "/mcp"


def build(service: Service, *, callers: Callers, public: bool = False) -> Starlette:
    """Return the ASGI application of the tools of a service.

    A `public` server is reached under any host name, unless `allowed_hosts` names some.
    """
    table = service.table
    manager = StreamableHTTPSessionManager(Tools(service).server(), max_request_body_size=table.max_body)
    hosts = Hosts(table.allowed_hosts, table.allowed_origins, any_host=public)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            try:
                await service.fusion.awarm()
            except FusionError as error:
                LOG.warning("not warmed: %s", error)
            yield
            await service.runs.end()

    app = Starlette(
        routes=[Route(PATH, _Endpoint(manager)), *health.routes(service)],
        lifespan=life,
        middleware=[
            Middleware(
                Guard,
                hosts=hosts,
                callers=callers,
                requests=service.runs.tally.requests,
                shape=lambda path, headers: _SHAPE,
            )
        ],
    )
    app.state.service = service
    return app


class _Endpoint:
    """Passes requests to their sessions, with their caller, and tells calls that their client is gone."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        state = scope.setdefault("state", {})
        state[GONE] = gone
        if (caller := state.get("caller")) is not None:  # a session is for its own caller alone
            scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=caller, scopes=[]))

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            return message

        await self._manager.handle_request(scope, receiving, send)


class _Shape:
    """Shape of refusals: errors of JSON-RPC."""

    def refused(self, error: RefusedError, run_id: str | None = None) -> dict[str, Any]:
        """Return the body of an error response."""
        data: Mapping[str, Any] = {"code": error.code, "status": error.status}
        return {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": str(error), "data": data}}


_SHAPE: Final = _Shape()
