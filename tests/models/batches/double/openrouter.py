"""OpenRouter's batches, as the double speaks them: rows and results are in the bodies of calls."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.models.batches.double.calls import batch_of, books, refused
from tests.models.batches.double.replies import USAGE, completion, said
from tests.models.batches.double.state import Batch, Outcome, Row

COST = 0.0001
"""Dollars that every answered row costs."""
_STATUS = {"ended": "completed", "failed": "failed", "expired": "expired", "cancelled": "cancelled"}


def routes() -> list[web.RouteDef]:
    return [
        web.post("/api/v1/batches", create, name="openrouter.create"),
        web.get("/api/v1/batches", listed, name="openrouter.list"),
        web.get("/api/v1/batches/{batch_id}", state, name="openrouter.state"),
    ]


async def create(request: web.Request) -> web.Response:
    fields = json.loads(await request.text())
    names = list(fields)
    if names[-1] != "requests" or not {"endpoint", "model"} <= set(names):
        return refused(400, "endpoint and model have to come before requests")
    try:
        rows = [_row(row, fields["model"]) for row in fields["requests"]]
        batch = books(request).create("openrouter", json.dumps(fields.get("provider")), fields["model"], rows)
    except (ValueError, KeyError) as error:
        return refused(400, f"invalid rows: {error}")
    return web.json_response(_shown(batch), status=202)


async def listed(request: web.Request) -> web.Response:
    desk = books(request)
    found, after = desk.newest("openrouter"), request.query.get("after")
    ids = [batch.id for batch in found]
    begin = ids.index(after) + 1 if after in ids else 0
    page = found[begin : begin + min(int(request.query.get("limit", 20)), desk.switches.page)]
    more, last = begin + len(page) < len(found), page[-1].id if page else None
    return web.json_response(
        {"object": "list", "data": [_shown(one) for one in page], "has_more": more, "last_id": last}
    )


async def state(request: web.Request) -> web.StreamResponse:
    batch, switches = batch_of(request, polled=True), books(request).switches
    results = None
    if batch.ended and batch.fate != "failed":
        results = [_line(batch, one, switches.reply, switches.row_status) for one in batch.outcomes if one.whole]
    return web.json_response({**_shown(batch), "results": results})


def _row(row: Mapping[str, Any], model: str) -> Row:
    body = row["body"]
    if body.get("model", model) != model or body.get("stream") or "provider" in body:
        raise ValueError("a row of another model, a stream, or with preferences of its own")
    return Row(row["custom_id"], body, said(body))


def _line(batch: Batch, outcome: Outcome, reply: str | None, status: int) -> dict[str, Any]:
    row = outcome.row
    head = {"id": f"r-{row.custom_id}", "custom_id": row.custom_id}
    if outcome.kind == "unanswered":
        kind = "batch_cancelled" if batch.fate == "cancelled" else "batch_expired"
        return {**head, "response": None, "error": {"type": kind, "message": "not run", "param": None}}
    if outcome.kind == "error":
        body: dict[str, Any] = {"error": {"message": "the row failed", "code": status}}
        return {**head, "response": {"status_code": status, "request_id": None, "body": body}, "error": None}
    body = completion(row.body, reply)
    body["usage"] |= {"cost": COST, "is_byok": False}
    return {**head, "response": {"status_code": 200, "request_id": None, "body": body}, "error": None}


def _shown(batch: Batch) -> dict[str, Any]:
    answered, failed = batch.count("answered"), batch.ended and batch.fate == "failed"
    taken, given = USAGE
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": batch.model,
        "completion_window": "24h",
        "status": _STATUS[batch.fate] if batch.ended else "in_progress",
        "created_at": int(batch.created),
        "expires_at": None,
        "finalized_at": None,
        "provider": None,
        "request_counts": {"total": len(batch.rows), "completed": answered, "failed": batch.count("error")},
        "error": {"message": "line 1: a row is invalid"} if failed else None,
        "usage": {"prompt_tokens": taken * answered, "completion_tokens": given * answered} if batch.ended else None,
        "results": None,
    }
