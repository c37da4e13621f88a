"""OpenAI's files and batches, as the double speaks them."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.models.batches.double.calls import batch_of, books, file_of, line_of, refused
from tests.models.batches.double.replies import completion, said
from tests.models.batches.double.state import Batch, Outcome, Row

_STATUS = {"ended": "completed", "failed": "failed", "expired": "expired", "cancelled": "cancelled"}


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/files", upload, name="openai.upload"),
        web.delete("/v1/files/{file_id}", delete, name="openai.delete"),
        web.get("/v1/files/{file_id}/content", content, name="openai.results"),
        web.post("/v1/batches", create, name="openai.create"),
        web.get("/v1/batches", listed, name="openai.list"),
        web.get("/v1/batches/{batch_id}", state, name="openai.state"),
        web.post("/v1/batches/{batch_id}/cancel", cancel, name="openai.cancel"),
    ]


async def upload(request: web.Request) -> web.Response:
    form = await request.post()
    file = form["file"]
    if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
        return refused(400, "a file with the purpose batch is expected")
    file_id = f"file-{books(request).number()}"
    raw = file.file.read()
    books(request).files[file_id] = raw
    return web.json_response({"id": file_id, "object": "file", "purpose": "batch", "bytes": len(raw)})


async def delete(request: web.Request) -> web.Response:
    books(request).files.pop(request.match_info["file_id"], None)
    return web.json_response({"deleted": True})


async def create(request: web.Request) -> web.Response:
    fields = await request.json()
    raw = books(request).files.get(fields["input_file_id"])
    if raw is None or fields.get("completion_window") != "24h" or fields.get("endpoint") != "/v1/chat/completions":
        return refused(400, "input_file_id, endpoint and completion_window are expected")
    try:
        rows = [_row(json.loads(line)) for line in raw.decode().splitlines()]
        name = (fields.get("metadata") or {}).get("fusion_batch", "")
        batch = books(request).create("openai", name, rows[0].body["model"], rows)
    except (ValueError, KeyError) as error:
        return refused(400, f"invalid rows: {error}")
    return web.json_response(_shown(batch, fields.get("metadata")))


async def listed(request: web.Request) -> web.Response:
    desk = books(request)
    found, after = desk.newest("openai"), request.query.get("after")
    ids = [batch.id for batch in found]
    begin = ids.index(after) + 1 if after in ids else 0
    size = min(int(request.query.get("limit", 20)), desk.switches.page)
    page = found[begin : begin + size]
    return web.json_response(
        {"object": "list", "data": [_shown(batch) for batch in page], "has_more": begin + size < len(found)}
    )


async def state(request: web.Request) -> web.Response:
    return web.json_response(_shown(batch_of(request, polled=True)))


async def cancel(request: web.Request) -> web.Response:
    books(request).cancel(request.match_info["batch_id"])
    return web.json_response(_shown(batch_of(request)))


async def content(request: web.Request) -> web.StreamResponse:
    kind, _, batch_id = request.match_info["file_id"].partition("-of-")
    batch = books(request).look(batch_id, polled=False)
    if batch is None:
        return refused(404, "no such file")
    reply = books(request).switches.reply
    status = books(request).switches.row_status
    wanted = [one for one in batch.outcomes if (one.kind == "answered") == (kind == "output")]
    return await file_of(request, b"".join(line_of(one, _line(batch, one, reply, status)) for one in wanted))


def _row(line: Mapping[str, Any]) -> Row:
    if line["method"] != "POST" or line["url"] != "/v1/chat/completions" or "stream" in line["body"]:
        raise ValueError("a row that is no POST of a chat completion")
    return Row(line["custom_id"], line["body"], said(line["body"]))


def _line(batch: Batch, outcome: Outcome, reply: str | None, status: int) -> dict[str, Any]:
    row = outcome.row
    head = {"id": f"batch_req_{row.custom_id}", "custom_id": row.custom_id}
    if outcome.kind == "unanswered":
        code = "batch_cancelled" if batch.fate == "cancelled" else "batch_expired"
        return {**head, "response": None, "error": {"code": code, "message": "This request was not executed."}}
    if outcome.kind == "error":
        body: dict[str, Any] = {"error": {"message": "the row failed", "type": "server_error", "code": None}}
        return {**head, "response": {"status_code": status, "request_id": "r", "body": body}, "error": None}
    body = completion(row.body, reply)
    return {**head, "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def _shown(batch: Batch, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    answered, others = batch.count("answered"), len(batch.outcomes) - batch.count("answered")
    failed = batch.ended and batch.fate == "failed"
    error = {"code": "invalid_json_line", "message": "a line is no JSON", "line": 1, "param": None}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "status": _STATUS[batch.fate] if batch.ended else "in_progress",
        "errors": {"object": "list", "data": [error]} if failed else None,
        "output_file_id": f"output-of-{batch.id}" if answered else None,
        "error_file_id": f"errors-of-{batch.id}" if others else None,
        "created_at": int(batch.created),
        "request_counts": {"total": len(batch.rows), "completed": answered, "failed": batch.count("error")},
        "metadata": metadata if metadata is not None else {"fusion_batch": batch.name},
    }
