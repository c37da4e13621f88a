"""Count of the tokens of a request, for `POST /v1/messages/count_tokens`."""

import base64
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from fusion.core.types import Message, Request
from fusion.models.tokens import TokenBounds
from fusion.pipeline.inputs.media import turn_of
from fusion.server.dialects.messages.content import PLAIN
from fusion.server.dialects.messages.request import parsed, tools_of, transcript_of


async def tokens_of(body: Mapping[str, Any]) -> int:
    """Return an upper bound of the input tokens of a request. Raises RefusedError with the field."""
    request = parsed(body)
    transcript = transcript_of(request)
    texts = [*transcript.system, *(to_json(tool.model_dump()).decode() for tool in tools_of(request))]
    messages = [Message(role="system", content=text) for text in texts]
    turns = [_turn(at, turn) for at, turn in enumerate(transcript.turns)]
    return await TokenBounds().of(Request(messages=(*messages, *turns), max_tokens=1))


def _turn(at: int, turn: Mapping[str, Any]) -> Message:
    """Return a turn with its files; texts of files and calls of tools are counted as text."""
    content = turn["content"] or ""
    parts = [_text(content)] if isinstance(content, str) else [*map(_counted, content)]
    calls = [_text(to_json(call).decode()) for call in turn.get("tool_calls", ())]
    return turn_of(at, {"role": "user", "content": [*parts, *calls]})


def _counted(part: dict[str, Any]) -> dict[str, Any]:
    url = part["file"]["file_data"] if part["type"] == "file" else ""
    plain = url.startswith(PLAIN)
    return _text(base64.b64decode(url.removeprefix(PLAIN)).decode()) if plain else part


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
