"""Gemini's files and batches, as the double speaks them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.models.batches.double.calls import batch_of, books, file_of, line_of, refused
from tests.models.batches.double.replies import generated, said_to_gemini
from tests.models.batches.double.state import Batch, Outcome, Row

_STATES = {"ended": "SUCCEEDED", "failed": "FAILED", "expired": "EXPIRED", "cancelled": "CANCELLED"}
_CODES = {400: 3, 429: 8, 500: 13, 503: 14}


def routes() -> list[web.RouteDef]:
    return [
        web.post("/upload/v1beta/files", begin, name="gemini.upload"),
        web.post("/uploading/{file_id}", upload, name="gemini.content"),
        web.post("/v1beta/models/{model}:batchGenerateContent", create, name="gemini.create"),
        web.get("/v1beta/batches", listed, name="gemini.list"),
        web.get("/v1beta/batches/{batch_id}", state, name="gemini.state"),
        web.post("/v1beta/batches/{batch_id}:cancel", cancel, name="gemini.cancel"),
        web.get("/download/v1beta/files/{batch_id}:download", results, name="gemini.results"),
    ]


async def begin(request: web.Request) -> web.Response:
    wanted = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    if any(request.headers.get(name) != value for name, value in wanted.items()):
        return refused(400, "a resumable upload is expected")
    place = f"{request.url.origin()}/uploading/file-{books(request).number()}"
    return web.json_response({}, headers={"X-Goog-Upload-URL": place})


async def upload(request: web.Request) -> web.Response:
    if request.headers.get("X-Goog-Upload-Command") != "upload, finalize":
        return refused(400, "upload, finalize is expected")
    file_id = request.match_info["file_id"]
    books(request).files[file_id] = await request.read()
    return web.json_response({"file": {"name": f"files/{file_id}", "state": "ACTIVE"}})


async def create(request: web.Request) -> web.Response:
    batch_fields = (await request.json())["batch"]
    raw = books(request).files.get(batch_fields["inputConfig"]["fileName"].removeprefix("files/"))
    if raw is None:
        return refused(400, "no such file")
    try:
        rows = [_row(json.loads(line)) for line in raw.decode().splitlines()]
        batch = books(request).create("gemini", batch_fields["displayName"], request.match_info["model"], rows)
    except (ValueError, KeyError) as error:
        return refused(400, f"invalid rows: {error}")
    return web.json_response(_shown(batch))


async def listed(request: web.Request) -> web.Response:
    desk = books(request)
    found, begin_at = desk.newest("gemini"), int(request.query.get("pageToken", 0))
    size = min(int(request.query.get("pageSize", 20)), desk.switches.page)
    answer: dict[str, Any] = {"operations": [_shown(one) for one in found[begin_at : begin_at + size]]}
    if begin_at + size < len(found):
        answer["nextPageToken"] = str(begin_at + size)
    return web.json_response(answer)


async def state(request: web.Request) -> web.Response:
    return web.json_response(_shown(batch_of(request, polled=True)))


async def cancel(request: web.Request) -> web.Response:
    books(request).cancel(request.match_info["batch_id"])
    return web.json_response({})


async def results(request: web.Request) -> web.StreamResponse:
    batch, switches = batch_of(request), books(request).switches
    if request.query.get("alt") != "media":
        return refused(400, "alt=media is expected")
    lines = [line_of(one, _line(batch, one, switches.reply, switches.row_status)) for one in batch.outcomes]
    return await file_of(request, b"".join(lines))


def _row(line: Mapping[str, Any]) -> Row:
    return Row(line["key"], line["request"], said_to_gemini(line["request"]))


def _line(batch: Batch, outcome: Outcome, reply: str | None, status: int) -> dict[str, Any]:
    row = outcome.row
    if outcome.kind == "unanswered":
        return {"key": row.custom_id, "error": {"code": 1, "message": "the batch ended"}}
    if outcome.kind == "error":
        return {"key": row.custom_id, "error": {"code": _CODES.get(status, 13), "message": "the row failed"}}
    return {"key": row.custom_id, "response": generated(batch.model, row.body, reply)}


def _shown(batch: Batch) -> dict[str, Any]:
    state = _STATES[batch.fate] if batch.ended else "RUNNING"
    metadata: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": f"models/{batch.model}",
        "displayName": batch.name,
        "state": f"BATCH_STATE_{state}",
        "createTime": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "batchStats": {
            "requestCount": str(len(batch.rows)),
            "successfulRequestCount": str(batch.count("answered")),
            "failedRequestCount": str(batch.count("error")),
        },
    }
    if batch.outcomes:
        metadata["output"] = {"responsesFile": f"files/{batch.id}"}
    shown = {"name": f"batches/{batch.id}", "metadata": metadata, "done": batch.ended}
    if batch.ended and batch.fate == "failed":
        shown["error"] = {"code": 3, "message": "line 1: a row is invalid"}
    return shown
