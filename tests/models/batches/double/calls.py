"""Calls of the double: what each API has in common, before and after the work that a call is for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tests.models.batches.double.state import Batch, Books, Outcome

BOOKS: web.AppKey[Books] = web.AppKey("books", Books)
_BLOCK = 16_384


def books(request: web.Request) -> Books:
    return request.app[BOOKS]


def refused(status: int, why: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error in the format that all the APIs understand."""
    error = {"message": why, "type": "error", "code": status}
    return web.json_response({"type": "error", "error": error}, status=status, headers=headers)


def batch_of(request: web.Request, *, polled: bool = False) -> Batch:
    """Return the batch that a call names. Raises HTTPNotFound."""
    batch = books(request).look(request.match_info["batch_id"], polled=polled)
    if batch is None:
        raise web.HTTPNotFound(text='{"error": {"message": "no such batch"}}')
    return batch


@web.middleware
async def guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse and forget calls as the switches say; the kind of a call is the end of its route's name."""
    kind = (request.match_info.route.name or "").rpartition(".")[2]
    desk = books(request)
    if not kind:
        return await handler(request)
    status = desk.take("refuse", kind)
    if status is not None:
        await request.read()
        again = desk.switches.retry_after
        return refused(status, f"refused {kind}", {} if again is None else {"retry-after": str(again)})
    if desk.switches.key is not None and desk.switches.key != _key(request):
        await request.read()
        return refused(401, f"wrong key {_key(request)}")
    if kind in desk.switches.hang:
        await request.read()
        await asyncio.Event().wait()
    response = await handler(request)
    if desk.take("forget", kind) and request.transport is not None:
        request.transport.abort()
    return response


def line_of(outcome: Outcome, line: Mapping[str, Any]) -> bytes:
    """Return a line of results, broken if the switches say so."""
    raw = json.dumps(line, ensure_ascii=False).encode()
    return (raw if outcome.whole else raw[: len(raw) // 2]) + b"\n"


async def file_of(request: web.Request, content: bytes) -> web.StreamResponse:
    """Send a file of results: whole, cut within a line, or broken off with the connection."""
    desk = books(request)
    if desk.switches.truncate:
        content = content[: -len(content.rstrip().rpartition(b"\n")[2]) // 2 - 1]
    response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
    response.content_length = len(content)
    await response.prepare(request)
    breaks = desk.breaks_off()
    async for block in _blocks(content[: len(content) // 2] if breaks else content):
        await response.write(block)
    if breaks and request.transport is not None:
        request.transport.close()
        return response
    await response.write_eof()
    return response


async def _blocks(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), _BLOCK):
        yield content[at : at + _BLOCK]


def _key(request: web.Request) -> str:
    headers = request.headers
    bearer = headers.get("authorization", "").rpartition(" ")[2]
    return headers.get("x-api-key") or headers.get("x-goog-api-key") or bearer
