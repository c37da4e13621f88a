"""Guard: the first to see a request; refuses by its headers, before its body is read."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusion.server.base import RefusalShape, RefusedError
from fusion.server.guard.callers import Callers
from fusion.server.guard.hosts import Hosts
from fusion.server.refusals import refuse

OPEN: Final = {"/healthz", "/readyz", "/"}
"""Paths that need no token: the page itself holds no data."""
_APIS: Final = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
_COUNTED: Final = frozenset({*_APIS, *OPEN, "/v1/models", "/v1/quote", "/metrics", "/mcp"})
"""Paths that the metrics name."""
_FILES: Final = "/static/"
_MOST_HEADERS: Final = 32_768
_OWN: Final = ("run", "pipeline", "ignored", "status", "cost")
_EXPOSED: Final = ", ".join(["retry-after", "x-should-retry", *(f"x-fusion-{name}" for name in _OWN)])


class Guard:
    """Checks host, origin, size of headers and token of every request, then passes it on with its caller.

    `requests` counts responses by path and status. `shape` gives the shape in which a refusal is written.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        callers: Callers,
        *,
        requests: Counter[tuple[str, int]],
        shape: Callable[[str, Mapping[str, str]], RefusalShape],
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._callers = callers
        self._requests = requests
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, self._counted(scope["path"], send))

    def _counted(self, path: str, send: Send) -> Send:
        """Return a `send` that counts the response."""
        shown = path if path in _COUNTED else "other"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests[shown, message["status"]] += 1
            await send(message)

        return sending

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            _check_size(scope)
            origin = self._hosts.check(headers, headers.getlist("host"))
            if origin is not None and scope["method"] == "OPTIONS":
                await _preflight(origin, headers)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = self._caller(scope, headers)
        except RefusedError as error:
            await refuse(self._shape(scope["path"], headers), error)(scope, receive, send)
            return
        await self._app(scope, receive, send if origin is None else _for_page(send, origin))

    def _caller(self, scope: Scope, headers: Headers) -> str | None:
        if scope["method"] in ("GET", "HEAD") and (scope["path"] in OPEN or scope["path"].startswith(_FILES)):
            return None
        return self._callers.caller(headers)


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["path"]) + len(scope["query_string"]) > _MOST_HEADERS:
        raise RefusedError(
            f"the headers have more than {_MOST_HEADERS:,} bytes", status=431, code="headers_too_large"
        )


def _preflight(origin: str, headers: Headers) -> Response:
    return Response(
        status_code=204,
        headers={
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": headers.get("access-control-request-headers", ""),
            "access-control-max-age": "600",
            "vary": "origin",
        },
    )


def _for_page(send: Send, origin: str) -> Send:
    """Return a `send` that lets the page of an allowed origin read the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = _EXPOSED
            headers.add_vary_header("origin")
        await send(message)

    return sending
