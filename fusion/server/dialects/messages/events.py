"""Events of a streamed message, each with its name, as the SDK drops those without one."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from pydantic_core import to_json

from fusion.core.result import Result
from fusion.server.base import RefusedError, ServedRun, outcome_of, sse
from fusion.server.dialects.messages.answer import begun, error_of, stop_reason, tool_use, usage_of
from fusion.server.dialects.pieces import AnswerPieces


async def events_of(run: ServedRun) -> AsyncIterator[bytes]:
    """Yield the events of a run's answer; an error event is the last one of a run that fails."""
    pieces = AnswerPieces(run)
    blocks = _Blocks()
    yield _event("message_start", message=begun(run))
    yield _event("ping")
    try:
        async for piece in pieces:
            for event in blocks.text(piece):
                yield event
    except RefusedError as error:
        yield _named("error", error_of(error, run.run_id))
        return
    for event in blocks.end(pieces.result):
        yield event
    yield _event("message_stop", fusion=outcome_of(pieces.result))


class _Blocks:
    """Blocks of a message: at most one of text, then one for each call of a tool."""

    def __init__(self) -> None:
        self._count = 0

    def text(self, piece: str) -> Iterator[bytes]:
        if not self._count:
            yield self._start({"type": "text", "text": ""})
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})

    def end(self, result: Result) -> Iterator[bytes]:
        """Yield the rest of a message from its Result."""
        if self._count:
            yield self._stop()
        for call in result.tool_calls:
            block = tool_use(call)
            yield self._start({**block, "input": {}})
            written = to_json(block["input"]).decode()
            delta = {"type": "input_json_delta", "partial_json": written}
            yield _event("content_block_delta", index=self._count - 1, delta=delta)
            yield self._stop()
        over = {"stop_reason": stop_reason(result), "stop_sequence": None}
        yield _event("message_delta", delta=over, usage=usage_of(result.usage))

    def _start(self, block: dict[str, Any]) -> bytes:
        self._count += 1
        return _event("content_block_start", index=self._count - 1, content_block=block)

    def _stop(self) -> bytes:
        return _event("content_block_stop", index=self._count - 1)


def _event(name: str, **fields: Any) -> bytes:
    return _named(name, {"type": name, **fields})


def _named(name: str, body: dict[str, Any]) -> bytes:
    return sse(to_json(body).decode(), name)
