"""Anthropic's message batches, as the double speaks them."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.models.batches.double.calls import batch_of, books, file_of, line_of, refused
from tests.models.batches.double.replies import message, said
from tests.models.batches.double.state import Batch, Outcome, Row

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TYPES = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/messages/batches", create, name="anthropic.create"),
        web.get("/v1/messages/batches", listed, name="anthropic.list"),
        web.get("/v1/messages/batches/{batch_id}", state, name="anthropic.state"),
        web.get("/v1/messages/batches/{batch_id}/results", results, name="anthropic.results"),
        web.post("/v1/messages/batches/{batch_id}/cancel", cancel, name="anthropic.cancel"),
    ]


async def create(request: web.Request) -> web.Response:
    if request.headers.get("anthropic-version") is None:
        return refused(400, "anthropic-version: header is required")
    try:
        rows = [_row(row) for row in (await request.json())["requests"]]
        batch = books(request).create("anthropic", "", rows[0].body["model"], rows)
    except (ValueError, KeyError) as error:
        return refused(400, f"invalid rows: {error}")
    return web.json_response(_shown(request, batch))


async def listed(request: web.Request) -> web.Response:
    desk = books(request)
    found, after = desk.newest("anthropic"), request.query.get("after_id")
    ids = [batch.id for batch in found]
    begin = ids.index(after) + 1 if after in ids else 0
    page = found[begin : begin + min(int(request.query.get("limit", 20)), desk.switches.page)]
    more = begin + len(page) < len(found)
    ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
    return web.json_response({"data": [_shown(request, one) for one in page], "has_more": more, **ends})


async def state(request: web.Request) -> web.Response:
    return web.json_response(_shown(request, batch_of(request, polled=True)))


async def cancel(request: web.Request) -> web.Response:
    books(request).cancel(request.match_info["batch_id"])
    return web.json_response(_shown(request, batch_of(request)))


async def results(request: web.Request) -> web.StreamResponse:
    batch, switches = batch_of(request), books(request).switches
    if not batch.ended:
        return refused(404, "the batch has no results yet")
    lines = [line_of(one, _line(batch, one, switches.reply, switches.row_status)) for one in batch.outcomes]
    return await file_of(request, b"".join(lines))


def _row(row: Mapping[str, Any]) -> Row:
    if not _CUSTOM_ID.fullmatch(row["custom_id"]) or "stream" in row["params"]:
        raise ValueError("a row with a wrong custom_id, or a stream")
    return Row(row["custom_id"], row["params"], said(row["params"]))


def _line(batch: Batch, outcome: Outcome, reply: str | None, status: int) -> dict[str, Any]:
    row = outcome.row
    if outcome.kind == "unanswered":
        ending: dict[str, Any] = {"type": "canceled" if batch.fate == "cancelled" else "expired"}
    elif outcome.kind == "error":
        error = {"type": _TYPES.get(status, "api_error"), "message": "the row failed"}
        ending = {"type": "errored", "error": {"type": "error", "error": error, "request_id": "r"}}
    else:
        ending = {"type": "succeeded", "message": message(row.body, reply)}
    return {"custom_id": row.custom_id, "result": ending}


def _shown(request: web.Request, batch: Batch) -> dict[str, Any]:
    unanswered = batch.count("unanswered")
    failed = batch.ended and batch.fate == "failed"  # a batch of this API has no such state: all its rows fail
    counts = {
        "processing": 0 if batch.ended else len(batch.rows),
        "succeeded": batch.count("answered"),
        "errored": len(batch.rows) if failed else batch.count("error"),
        "canceled": unanswered if batch.fate == "cancelled" else 0,
        "expired": unanswered if batch.fate == "expired" else 0,
    }
    url = f"{request.url.origin()}/v1/messages/batches/{batch.id}/results"
    created = datetime.fromtimestamp(batch.created, UTC).isoformat()
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else "in_progress",
        "request_counts": counts,
        "created_at": created,
        "ended_at": created if batch.ended else None,
        "expires_at": created,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": url if batch.ended else None,
    }
