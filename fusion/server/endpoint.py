"""Endpoint: answers the requests of one dialect, whole or streamed."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fusion.client.telemetry.caller import within_caller
from fusion.core.errors import FusionError
from fusion.core.log import LOG
from fusion.server.base import Dialect, ServedRequest, refusal_of
from fusion.server.catalog import ServedPipeline, check_deadlines
from fusion.server.dialects.openrouter.choice import chosen, with_call
from fusion.server.guard.bodies import json_object
from fusion.server.guard.callers import caller_of
from fusion.server.refusals import header_text, refuse, refused, request_ids
from fusion.server.runs.identity import Identity
from fusion.server.runs.responses import RunResponse, while_connected
from fusion.server.runs.runs import AnyRun
from fusion.server.service import Service


class Endpoint:
    """Answers the requests of a dialect; an ASGI application."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self.service = service
        self.dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except FusionError as error:
            response = refuse(self.dialect, refused(error))
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Return the response of a request, once its run has begun."""
        async with self.service.bodies.of(request) as data:
            body = await json_object(data)
            served, asked = await chosen(self.service, request, await self.read(request, body), body)
            with within_caller(request.headers):
                run = await self.begun(request, served, asked, data)
        return await self.respond(request, run, asked)

    async def read(self, request: Request, body: Mapping[str, Any]) -> ServedRequest:
        """Return what a body asks for. Raises RefusedError with the field."""
        return self.dialect.read(body, request.headers)

    async def begun(self, request: Request, served: ServedPipeline, asked: ServedRequest, data: bytes) -> AnyRun:
        """Return the run of a request, with its client counted."""
        caller = caller_of(request)
        return await self.service.runs.begin(
            served,
            asked,
            caller=caller,
            identity=Identity.of(caller, request.url.path, data, request.headers),
            check=check_deadlines,
            wait=partial(while_connected, request.receive),
        )

    async def respond(self, request: Request, run: AnyRun, asked: ServedRequest) -> Response:
        """Return the answer of a run, streamed or whole."""
        headers = run_headers(run, asked)
        if asked.stream:
            return RunResponse(self.dialect.stream(run, asked), run, headers=headers)
        return await self._whole(request, run, asked, headers)

    async def _whole(
        self, request: Request, run: AnyRun, asked: ServedRequest, headers: Mapping[str, str]
    ) -> Response:
        try:
            result = await while_connected(request.receive, run.result())
        finally:
            run.leave()
        if result is None:
            return Response(status_code=499)  # the client is gone
        if (error := refusal_of(result)) is not None:
            return refuse(self.dialect, error, run.run_id)
        body = self.dialect.whole(run, result, asked)
        spent = {"x-fusion-status": result.status, "x-fusion-cost": f"{result.cost.usd:f}"}
        return JSONResponse(with_call(body, result, asked, self.service.fusion.store), headers={**headers, **spent})


def run_headers(run: AnyRun, asked: ServedRequest) -> dict[str, str]:
    """Return the headers of a response that tell of its run."""
    names = dict.fromkeys([*asked.ignored, *run.ignored])
    ignored = {"x-fusion-ignored": header_text(", ".join(names))} if names else {}
    if ignored:
        LOG.info("run %s: fields without an effect: %s", run.run_id, ignored["x-fusion-ignored"])
    return {**request_ids(run.run_id), "x-fusion-pipeline": header_text(run.pipeline), **ignored}
