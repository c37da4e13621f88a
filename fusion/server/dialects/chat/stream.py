"""Streams of chat completions: chunks as the answer comes, and an error in place of a whole end."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fusion.server.base import RefusedError, ServedRun, outcome_of, sse
from fusion.server.dialects.chat.writing import call_of, error_body, finish_of, head, usage_of
from fusion.server.dialects.pieces import AnswerPieces

_DONE = b"data: [DONE]\n\n"


async def chunks(run: ServedRun, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Yield the chunks of a run. A stream that ends without `[DONE]` has an error in its last chunk."""
    chunk = _Chunk(run, {"usage": None} if include_usage else {})
    yield chunk.choice({"role": "assistant", "content": "", "refusal": None})
    pieces = AnswerPieces(run)
    try:
        async for text in pieces:
            yield chunk.choice({"content": text})
    except RefusedError as error:
        yield chunk.error(error)
        return
    result = pieces.result
    for at, call in enumerate(result.tool_calls):
        yield chunk.choice({"tool_calls": [{"index": at, **call_of(call)}]})
    yield chunk.choice({}, finish=finish_of(result), fusion=outcome_of(result))
    if include_usage:
        yield chunk.of(choices=[], usage=usage_of(result))
    yield _DONE


class _Chunk:
    """Writes the chunks of one run."""

    def __init__(self, run: ServedRun, more: dict[str, Any]) -> None:
        self._run_id = run.run_id
        self._head = head(run, "chat.completion.chunk")
        self._more = more

    def choice(self, delta: dict[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self.of(choices=[choice], **{**self._more, **more})

    def error(self, error: RefusedError) -> bytes:
        body = error_body(error, self._run_id)
        return self.choice({"content": ""}, finish="error", **body)

    def of(self, **fields: Any) -> bytes:
        return sse(json.dumps({**self._head, **fields}, separators=(",", ":")))
