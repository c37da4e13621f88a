"""Streams of chat completions: chunks as the answer comes, and an error in place of a whole end."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fusion.core.events import Delta, Restarted
from fusion.core.result import Result
from fusion.server.dialects.base import RefusedError, ServedRun, outcome_of, refusal_of, sse
from fusion.server.dialects.chat.writing import error_body, finish_of, head, usage_of

_DONE = b"data: [DONE]\n\n"


async def chunks(run: ServedRun, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Yield the chunks of a run. A stream that ends without `[DONE]` has an error in its last chunk."""
    chunk = _Chunk(run, {"usage": None} if include_usage else {})
    yield chunk.choice({"role": "assistant", "content": "", "refusal": None})
    async for event in run:
        match event:
            case Delta():
                yield chunk.choice({"content": event.text})
            case Restarted():
                yield chunk.error(restarted(run))
                return
    result = await run.result()
    if (error := refusal_of(result)) is not None:
        yield chunk.error(error)
        return
    for end in _ends(chunk, run, result, include_usage=include_usage):
        yield end


def _ends(chunk: "_Chunk", run: ServedRun, result: Result, *, include_usage: bool) -> list[bytes]:
    last = chunk.choice({}, finish=finish_of(result), fusion=outcome_of(run, result))
    usage = [chunk.of(choices=[], usage=usage_of(result))] if include_usage else []
    return [last, *usage, _DONE]


def restarted(run: ServedRun) -> RefusedError:
    """Return the error of a stream whose answer began again after a part of it was sent."""
    return RefusedError(
        f"the answer broke off and began again; run {run.run_id} goes on, and the same request again gets all of it",
        status=502,
        kind="server_error",
        code="answer_restarted",
        final=False,
    )


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
