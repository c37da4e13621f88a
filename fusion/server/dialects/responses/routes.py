"""Routes of responses: created, read again, streamed again, cancelled and deleted."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fusion.client.history import History
from fusion.server.dialects.base import RefusedError, ServedRequest
from fusion.server.dialects.responses.dialect import Responses
from fusion.server.dialects.responses.kept import KeptResponse, KeptResponses, KeptRun
from fusion.server.dialects.responses.response import Json, output_of
from fusion.server.dialects.responses.stream import streamed
from fusion.server.endpoint import Endpoint, run_headers
from fusion.server.responses import RunResponse
from fusion.server.runs.live import LiveRun
from fusion.server.service import Service


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of `/v1/responses`."""
    kept = KeptResponses(service.fusion.store)
    one = "/v1/responses/{response_id}"
    earlier = EarlierResponses(service, kept)
    return [
        Route("/v1/responses", CreatedResponses(service, Responses(kept)), methods=["POST"]),
        Route(one, earlier.show, methods=["GET"]),
        Route(one, earlier.delete, methods=["DELETE"]),
        Route(f"{one}/cancel", earlier.cancel, methods=["POST"]),
    ]


class CreatedResponses(Endpoint):
    """Creates responses; one in the background is answered at once."""

    def __init__(self, service: Service, dialect: Responses) -> None:
        super().__init__(service, dialect)
        self._responses = dialect

    async def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServedRequest:
        """Return the request of a body, with the conversation that it continues."""
        return await asyncio.to_thread(self._responses.read, body, headers)

    async def respond(self, request: Request, run: LiveRun, asked: ServedRequest) -> Response:
        """Return the answer of a run, or the run itself if it goes on in the background."""
        if not asked.background or asked.stream:
            return await super().respond(request, run, asked)
        run.leave()
        return JSONResponse(self._responses.accepted(run, asked), headers=run_headers(run, asked))


class EarlierResponses:
    """Responses by their ids: of live runs, and of those in the store."""

    def __init__(self, service: Service, kept: KeptResponses) -> None:
        self._service = service
        self._kept = kept

    async def show(self, request: Request) -> Response:
        """Return a response, or its events after `starting_after`."""
        one = await self._find(request)
        live = self._service.runs.live(one.row.run_id)
        if request.query_params.get("stream") != "true":
            return JSONResponse(await self._shown(one, live))
        after = _number(request, "starting_after")
        if live is None or live.over:
            replayed = KeptRun(one, await asyncio.to_thread(self._result, one))
            return RunResponse(streamed(one.told, replayed, after=after), replayed, headers=_headers(one))
        live.join()
        return RunResponse(streamed(one.told, live, after=after), live, headers=_headers(one))

    async def cancel(self, request: Request) -> Response:
        """Stop a run, and return its response; that of a run that has ended is returned as it is."""
        one = await self._find(request)
        live = self._service.runs.live(one.row.run_id)
        if live is not None and not live.over:
            live.stop()
            await live.result()
        return JSONResponse(await self._shown(one, live), headers=_headers(one))

    async def delete(self, request: Request) -> Response:
        """Remove a run and all that was kept of it."""
        one = await self._find(request)
        await asyncio.to_thread(History(self._kept.store).remove, [one.row.run_id])
        return JSONResponse({"id": one.told.response_id, "object": "response", "deleted": True})

    async def _find(self, request: Request) -> KeptResponse:
        return await asyncio.to_thread(self._kept.find, request.path_params["response_id"])

    async def _shown(self, one: KeptResponse, live: LiveRun | None) -> Json:
        if live is not None and not live.over:
            return one.told.unfinished()
        result = await live.result() if live is not None else await asyncio.to_thread(self._result, one)
        return one.told.finished(result, output_of(result))

    def _result(self, one: KeptResponse) -> Any:
        if not one.is_over:
            raise RefusedError(
                f"response {one.told.response_id!r} has no answer: its run was cut off; `fusion resume "
                f"{one.row.run_id}` goes on with it",
                status=409,
                kind="conflict_error",
                code="response_unfinished",
            )
        return one.result()


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
