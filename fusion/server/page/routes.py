"""Routes of the page: its files, its JSON, its streams, and the login."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusion.core.errors import UsageError
from fusion.core.types import Via
from fusion.server.base import RefusedError
from fusion.server.guard.bodies import read_json
from fusion.server.guard.callers import COOKIE, OPERATOR, caller_of
from fusion.server.page.launch import Launch
from fusion.server.page.queries import limit_of, number_of, required, which_of
from fusion.server.page.reports import Reports
from fusion.server.page.run import RunView
from fusion.server.page.runs import Runs
from fusion.server.page.stream import RunStream
from fusion.server.runs.runs import CALLER
from fusion.server.service import Service

STATIC: Final = Path(__file__).parent / "static"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_REPORT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
)
_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_FORM: Final = 4_000_000
"""Bytes of a form at most."""
_STREAMS: Final = 64
"""Streams at once at most."""
T = TypeVar("T")


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of the page and of its data."""
    page = _Page(service)
    api: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/runs": page.runs,
        "/runs/{id}": page.run,
        "/runs/{id}/items": page.items,
        "/runs/{id}/calls": page.calls,
        "/runs/{id}/calls/{number:int}": page.call,
        "/runs/{id}/events": page.events,
        "/runs/{id}/gates": page.gates,
        "/gates": page.open_gates,
        "/budgets": page.budgets,
        "/diff": page.diff,
        "/maps": page.maps,
        "/maps/{id}": page.map,
        "/maps/{id}/rows": page.rows,
        "/bench": page.reports,
        "/bench/{name}": page.report,
        "/pipelines": page.pipelines,
    }
    return [
        Route("/", page.index),
        *(Route(f"/api{path}", answer) for path, answer in api.items()),
        Route("/api/quote", page.quote, methods=["POST"]),
        Route("/api/runs", page.start, methods=["POST"]),
        Route("/api/runs/{id}/gates", page.answer, methods=["POST"]),
        Route("/login", page.login, methods=["POST"]),
        Route("/logout", page.logout, methods=["POST"]),
        Route("/bench/{name}/report.html", page.report_file),
        Mount("/static", _Headed(StaticFiles(directory=STATIC))),
    ]


class _Page:
    """Answers the requests of the page."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._runs = Runs(service.fusion.store, service.progress)
        self._launch = Launch(service)
        self._reports = Reports(service.table.reports)
        self._streams = 0

    async def index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=_HEADERS)

    # Runs.

    async def runs(self, request: Request) -> Response:
        which, query = which_of(request), request.query_params
        if (caller := _restricted(request)) is not None:
            which["tags"] = {**which["tags"], CALLER: caller}
        words, after, limit = query.get("q", ""), query.get("after"), limit_of(request)
        return await _json(lambda: self._runs.page(which, words=words, after=after, limit=limit))

    async def run(self, request: Request) -> Response:
        return await _json(lambda: self._view(request).whole())

    async def items(self, request: Request) -> Response:
        stage, offset, limit = required(request, "stage"), number_of(request, "offset", 0), limit_of(request)
        return await _json(lambda: self._view(request).items(stage, offset=offset, limit=limit))

    async def calls(self, request: Request) -> Response:
        stage, limit = request.query_params.get("stage"), limit_of(request)
        after = number_of(request, "after", 0)
        item = number_of(request, "item", 0) if request.query_params.get("item") else None
        return await _json(lambda: self._view(request).calls(stage=stage, item=item, after=after, limit=limit))

    async def call(self, request: Request) -> Response:
        return await _json(lambda: _found(lambda: self._view(request).call(request.path_params["number"])))

    async def events(self, request: Request) -> Response:
        """Answer with the events of a run after the `Last-Event-ID`, or after the number `after`."""
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() else number_of(request, "after", 0)
        view = await asyncio.to_thread(self._view, request)
        if self._streams >= _STREAMS:
            raise RefusedError("too many pages watch runs here; close one", status=503, final=False, retry_after=5)
        headers = {**_HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(
            self._counted(RunStream(view, after, lambda: self._service.runs.closing)),
            media_type="text/event-stream",
            headers=headers,
        )

    async def budgets(self, request: Request) -> Response:
        """Answer with the budgets of the store, which are those of all callers."""
        if _restricted(request) is not None:
            return await _json(lambda: {"budgets": []})
        return await _json(lambda: {"budgets": [one.model_dump(mode="json") for one in self._service.budgets()]})

    # Gates.

    async def open_gates(self, request: Request) -> Response:
        caller = _restricted(request)
        return await _json(lambda: {"gates": self._service.people.open(caller)})

    async def gates(self, request: Request) -> Response:
        return await _json(lambda: {"gates": self._view(request).gates()})

    async def answer(self, request: Request) -> Response:
        """Answer a gate of a run, and go on with the run. A caller's own name goes into the record."""
        view, asked = await asyncio.to_thread(self._view, request), await _form(request)
        caller = _restricted(request)
        via: Via = "page" if asked.pop("via", None) == "page" else "http"
        answer = await asyncio.to_thread(partial(self._service.people.answer, view.run_id, asked, by=caller, via=via))
        self._service.people.wake(view.run_id)
        return await _json(lambda: {"run_id": view.run_id, "answer": answer.model_dump(mode="json")})

    async def _counted(self, stream: RunStream) -> Any:
        self._streams += 1
        try:
            async for piece in stream:
                yield piece
        finally:
            self._streams -= 1

    async def diff(self, request: Request) -> Response:
        a, b = required(request, "a"), required(request, "b")
        if (caller := _restricted(request)) is not None:
            await asyncio.to_thread(lambda: [self._own(given, caller) for given in (a, b)])
        return await _json(lambda: _found(lambda: self._runs.diff(a, b)))

    def _view(self, request: Request) -> RunView:
        given, caller = request.path_params["id"], _restricted(request)
        return _found(lambda: self._runs.view(given)) if caller is None else self._own(given, caller)

    def _own(self, run_id: str, caller: str) -> RunView:
        """Return the view of a run of a caller, by its whole id. Raises RefusedError with status 404."""
        row = self._service.fusion.store.run(run_id)
        if row is None or row.tags.get(CALLER) != caller:
            raise RefusedError(f"no run {run_id!r} of yours", status=404, kind="not_found_error")
        return self._runs.view(row.run_id)

    # Maps.

    async def maps(self, request: Request) -> Response:
        which, limit = which_of(request), limit_of(request)
        if _restricted(request) is not None:
            return await _json(lambda: {"maps": []})  # they are made at the command line
        return await _json(lambda: {"maps": self._runs.history.maps(limit=limit, **which)})

    async def map(self, request: Request) -> Response:
        map_id = _map_id(request)
        return await _json(lambda: _found(lambda: self._runs.history.show_map(map_id)))

    async def rows(self, request: Request) -> Response:
        map_id, status, limit = _map_id(request), which_of(request).get("status", ()), limit_of(request)
        rows = self._runs.history.rows
        return await _json(lambda: _found(lambda: {"rows": list(rows(map_id, status=status, limit=limit))}))

    # Benchmarks.

    async def reports(self, request: Request) -> Response:
        return await _json(lambda: {"reports": self._reports.all()})

    async def report(self, request: Request) -> Response:
        return await _json(lambda: self._reports.one(request.path_params["name"]))

    async def report_file(self, request: Request) -> Response:
        path = await asyncio.to_thread(self._reports.page, request.path_params["name"])
        return FileResponse(path, headers={**_HEADERS, "content-security-policy": _REPORT_POLICY})

    # New runs.

    async def pipelines(self, request: Request) -> Response:
        return await _json(lambda: {"pipelines": self._launch.offered(caller_of(request))})

    async def quote(self, request: Request) -> Response:
        asked = await _form(request)
        return await _json(lambda: self._launch.quote(asked, caller_of(request)))

    async def start(self, request: Request) -> Response:
        run_id = await self._launch.start(await _form(request), caller_of(request), request.headers)
        await asyncio.to_thread(self._service.fusion.store.flush)
        return await _json(lambda: {"run_id": run_id}, status=201)

    # Login.

    async def login(self, request: Request) -> Response:
        """Keep the token of the request, which the guard knows, in a cookie of this site alone."""
        response = Response(status_code=204, headers=_HEADERS)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, token.strip(), httponly=True, samesite="strict", secure=secure)
        return response

    async def logout(self, request: Request) -> Response:
        response = Response(status_code=204, headers=_HEADERS)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _restricted(request: Request) -> str | None:
    """Return the caller if it sees its own runs alone; None without tokens, and for the operator."""
    caller = caller_of(request)
    return None if caller == OPERATOR else caller


def _map_id(request: Request) -> str:
    map_id: str = request.path_params["id"]
    if _restricted(request) is not None:
        raise RefusedError(f"no map {map_id!r} of yours", status=404, kind="not_found_error")
    return map_id


async def _form(request: Request) -> dict[str, Any]:
    """Return the body of a form. Raises RefusedError for content that a form of another site could send unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedError("send the form as application/json", status=415)
    return await read_json(request, most=_FORM)


async def _json(read: Callable[[], Any], *, status: int = 200) -> Response:
    """Answer with what `read` returns; it runs on another thread."""
    body = await asyncio.to_thread(lambda: to_json(read()))
    return Response(body, status, headers=_HEADERS, media_type="application/json")


def _found(read: Callable[[], T]) -> T:
    """Return what `read` returns. Raises RefusedError with status 404 for an id that means nothing."""
    try:
        return read()
    except UsageError as error:
        raise RefusedError(str(error), status=404, kind="not_found_error") from error


class _Headed:
    """Adds the headers of the page to the responses of an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, headed)
