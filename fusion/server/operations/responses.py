"""Routes of responses: created, read again, streamed again, cancelled and deleted."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fusion.client.history import History
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.openrouter.panel import PIPELINE
from fusion.server.dialects.responses.dialect import Responses, told_of
from fusion.server.dialects.responses.given import listed_input
from fusion.server.dialects.responses.kept import KeptResponse, KeptResponses
from fusion.server.dialects.responses.response import Json, Told
from fusion.server.dialects.responses.stream import Streamed, streamed
from fusion.server.endpoint import Endpoint, run_headers
from fusion.server.guard.callers import caller_of
from fusion.server.runs.kept import KeptRun
from fusion.server.runs.responses import RunResponse, while_connected
from fusion.server.runs.runs import AnyRun
from fusion.server.runs.said import said_of
from fusion.server.service import Service


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of `/v1/responses`."""
    kept = KeptResponses(service.fusion.store)
    one = "/v1/responses/{id}"
    earlier = EarlierResponses(service, kept)
    return [
        Route("/v1/responses", CreatedResponses(service, kept), methods=["POST"]),
        Route(one, earlier.show, methods=["GET"]),
        Route(one, earlier.delete, methods=["DELETE"]),
        Route(f"{one}/input_items", earlier.input_items, methods=["GET"]),
        Route(f"{one}/cancel", earlier.cancel, methods=["POST"]),
    ]


class CreatedResponses(Endpoint):
    """Creates responses; one in the background is answered at once."""

    def __init__(self, service: Service, kept: KeptResponses) -> None:
        super().__init__(service, Responses(kept))
        self._kept = kept

    async def read(self, request: Request, body: Mapping[str, Any]) -> ServedRequest:
        """Return what a body asks for, with the conversation that it continues."""
        dialect = Responses(self._kept.of(caller_of(request)))
        return await asyncio.to_thread(dialect.read, body, request.headers)

    async def respond(self, request: Request, run: AnyRun, asked: ServedRequest) -> Response:
        """Return the answer of a run, or the run itself if it goes on in the background."""
        if not asked.background or asked.stream:
            return await super().respond(request, run, asked)
        run.leave()
        return JSONResponse(told_of(run, asked).unfinished("queued"), headers=run_headers(run, asked))


class EarlierResponses:
    """Responses by their ids: of live runs, and of those in the store."""

    def __init__(self, service: Service, kept: KeptResponses) -> None:
        self._service = service
        self._kept = kept

    async def show(self, request: Request) -> Response:
        """Return a response, or its events after `starting_after`; a run that was cut off goes on with them."""
        one = await self._find(request)
        if request.query_params.get("stream") != "true":
            return JSONResponse(await self._shown(one), headers=_headers(one))
        after, told = _number(request, "starting_after"), one.told
        run = await self._taken_up(request, one, told)
        said = partial(said_of, self._kept.store, one.row.run_id)
        return RunResponse(streamed(Streamed(told, run, one.call, said), after=after), run, headers=_headers(one))

    async def input_items(self, request: Request) -> Response:
        """Return a page of the items of a response's own input."""
        one = await self._find(request)
        return JSONResponse(await asyncio.to_thread(listed_input, one, request.query_params), headers=_headers(one))

    async def cancel(self, request: Request) -> Response:
        """Stop a run, and return its response; that of a run that has ended is returned as it is."""
        one = await self._find(request)
        live = self._service.runs.live(one.row.run_id)
        if live is None:
            return JSONResponse(await self._shown(one), headers=_headers(one))
        live.stop()
        result = await live.result()
        return JSONResponse(one.told.finished(result, one.output(result)), headers=_headers(one))

    async def delete(self, request: Request) -> Response:
        """Remove a run and all that was kept of it."""
        one = await self._find(request)
        await asyncio.to_thread(History(self._kept.store).remove, [one.row.run_id])
        return JSONResponse({"id": one.told.response_id, "object": "response", "deleted": True})

    async def _find(self, request: Request) -> KeptResponse:
        kept = self._kept.of(caller_of(request))
        return await asyncio.to_thread(kept.find, request.path_params["id"])

    async def _taken_up(self, request: Request, one: KeptResponse, told: Told) -> AnyRun:
        """Return the run of a response: live, replayed, or gone on with if it was cut off."""
        run_id, runs = one.row.run_id, self._service.runs
        if runs.live(run_id) is None and one.has_ended:
            return KeptRun(await asyncio.to_thread(one.result), model=told.model)
        name = PIPELINE if one.call is not None else told.model
        served = self._service.catalog.find(name, caller_of(request))
        asked = ServedRequest(model=told.model, messages=(), stream=True, background=told.background)
        run = await runs.resume(run_id, served, asked, wait=partial(while_connected, request.receive))
        if run is None:
            raise RefusedError(
                f"response {told.response_id!r} was cut off and cannot go on: its prompts were not kept",
                status=404,
                kind="not_found_error",
                code="response_not_found",
            )
        return run

    async def _shown(self, one: KeptResponse) -> Json:
        live = self._service.runs.live(one.row.run_id)
        if live is not None:
            return one.told.unfinished()
        if one.row.ended is None:
            return one.told.cut_off()
        result = await asyncio.to_thread(one.result)
        if result.status == "waiting":
            return one.told.waiting(result)
        return one.told.finished(result, one.output(result))


def _number(request: Request, name: str) -> int:
    """Return a whole number of the query; -1 if there is none. Raises RefusedError."""
    given = request.query_params.get(name)
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit()):
        raise RefusedError(f"{name}: {given!r} is no number of an event; give one from 0", param=name)
    return int(given)


def _headers(one: KeptResponse) -> dict[str, str]:
    return {"x-fusion-run": one.row.run_id}
