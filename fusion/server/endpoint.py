"""Endpoint: answers the requests of one dialect, whole or streamed."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fusion.core.errors import FusionError, PolicyError, UsageError
from fusion.core.log import LOG
from fusion.server.bodies import read_json
from fusion.server.dialects.base import Dialect, RefusedError, ServedRequest, refusal_of
from fusion.server.responses import RunResponse, while_connected
from fusion.server.runs.live import LiveRun
from fusion.server.service import Service


class Endpoint:
    """Answers the requests of a dialect; an ASGI application."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except FusionError as error:
            response = refuse(self._dialect, refused(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        body = await read_json(request, most=self._service.table.max_body)
        asked = self._dialect.read(body, request.headers)
        run = await self._begun(asked, None)
        headers = run_headers(run, asked)
        if asked.stream:
            return RunResponse(self._dialect.stream(run, asked), run, headers=headers)
        return await self._whole(request, run, asked, headers)

    async def _begun(self, asked: ServedRequest, caller: str | None) -> LiveRun:
        served = self._service.catalog.find(asked.model, caller)
        run = await self._service.runs.begin(served, asked, caller=caller)
        run.join()
        return run

    async def _whole(
        self, request: Request, run: LiveRun, asked: ServedRequest, headers: Mapping[str, str]
    ) -> Response:
        try:
            result = await while_connected(request.receive, run.result())
        finally:
            run.leave()
        if result is None:
            return Response(status_code=499)  # the client is gone
        if (error := refusal_of(result)) is not None:
            return refuse(self._dialect, error, run.run_id)
        return JSONResponse(self._dialect.whole(run, result, asked), headers=headers)


def run_headers(run: LiveRun, asked: ServedRequest) -> dict[str, str]:
    """Return the headers of a response that tell of its run."""
    ignored = {"x-fusion-ignored": ", ".join(asked.ignored)} if asked.ignored else {}
    return {"x-fusion-run": run.run_id, "x-fusion-pipeline": run.pipeline, **ignored}


def refuse(dialect: Dialect, error: RefusedError, run_id: str | None = None) -> Response:
    """Return the response of an error in the dialect's shape."""
    headers = {"x-should-retry": "false"} if error.final else {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after))}"
    if run_id is not None:
        headers["x-fusion-run"] = run_id
    return JSONResponse(dialect.refused(error, run_id), status_code=error.status, headers=headers)


def refused(error: FusionError) -> RefusedError:
    """Return an error before a run as the refusal of a request."""
    match error:
        case RefusedError():
            return error
        case PolicyError():
            return RefusedError(str(error), status=403, kind="permission_error", code="policy")
        case UsageError():
            return RefusedError(str(error), param=None, code=type(error).__name__)
    LOG.error("request failed: %s", error)
    known: dict[str, Any] = {"status": error.http_status, "kind": "server_error"}
    return RefusedError(str(error), **known)
