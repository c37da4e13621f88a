"""The live APIs of the double: chat completions and messages, whole and streamed, and Gemini's."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.models.batches.double.calls import books
from tests.models.batches.double.replies import chunks, completion, events, generated, message, said, said_to_gemini


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", chat, name="openai.live"),
        web.post("/api/v1/chat/completions", chat, name="openrouter.live"),
        web.post("/v1/messages", messages, name="anthropic.live"),
        web.post("/v1beta/models/{model}:generateContent", generate, name="gemini.live"),
    ]


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    books(request).live(body, said(body))
    whole = completion(body, books(request).switches.reply)
    if not body.get("stream"):
        return web.json_response(whole)
    return await _streamed(request, [f"data: {json.dumps(one)}\n\n" for one in chunks(whole)] + ["data: [DONE]\n\n"])


async def messages(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    books(request).live(body, said(body))
    whole = message(body, books(request).switches.reply)
    if not body.get("stream"):
        return web.json_response(whole)
    return await _streamed(request, [f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events(whole)])


async def generate(request: web.Request) -> web.Response:
    body: Mapping[str, Any] = await request.json()
    books(request).live(body, said_to_gemini(body))
    return web.json_response(generated(request.match_info["model"], body, books(request).switches.reply))


async def _streamed(request: web.Request, pieces: list[str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece.encode())
    await response.write_eof()
    return response
