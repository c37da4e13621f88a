"""Bodies of replies in OpenAI's format, and one request for both ways of asking."""

import json
from collections.abc import Sequence
from typing import Any

from fusion.core.errors import ModelError
from fusion.core.types import Reply
from fusion.models.base import ModelInfo
from fusion.models.providers.direct import direct
from tests.models.conformance import Collected, request
from tests.provider import Answer, Provider

USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
DONE = "data: [DONE]\n\n"


def whole(content: Any = "Oslo", finish: Any = "stop", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    """A completion with this content; further fields are of its message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    found = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return found if usage is None else {**found, "usage": usage}


def chunk(delta: Any, finish: Any = None, index: Any = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def chunks(*contents: Any, finish: Any = "stop", usage: Any = USAGE) -> list[dict[str, Any]]:
    """The chunks of a stream with these contents."""
    found = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": one}) for one in contents)]
    found.append(chunk({}, finish))
    return found if usage is None else [*found, {**chunk({}), "choices": [], "usage": usage}]


def event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


def stream(events: Sequence[Any]) -> str:
    """The body of a stream: JSON values become events, texts stay as they are."""
    return "".join(one if isinstance(one, str) else event(one) for one in events) + DONE


class Outcome:
    """What came of one request: a reply, or an error, and the pieces that were handed on."""

    def __init__(self, reply: Reply | None, error: ModelError | None, pieces: str) -> None:
        self.reply, self.error, self.pieces = reply, error, pieces

    @property
    def said(self) -> Any:
        """Text, finish reason and usage of the reply, or class and message of the error."""
        if self.reply is not None:
            return self.reply.text, self.reply.finish_reason, self.reply.usage
        return type(self.error).__name__, str(self.error)


async def ask(body: Any, *, streamed: bool, thinks: bool | None = None, **options: Any) -> Outcome:
    """Ask once, and be answered with a body: bytes, a text, or JSON."""
    asked = {name: options.pop(name) for name in ("max_tokens", "json_schema") if name in options}
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    with Provider(Answer(body=body, **options)) as provider:
        info = ModelInfo(id="mine", provider="mine", region="here")
        model = direct("openai/m", info=info, api_base=provider.url, api_key="none", thinks=thinks)
        pieces = Collected()
        try:
            reply = await model.complete(request("Capital of Norway?", **asked), pieces if streamed else None)
        except ModelError as error:
            return Outcome(None, error, "".join(pieces.pieces))
        assert len(provider.requests) == 1
    return Outcome(reply, None, "".join(pieces.pieces))


async def both(body: Any, **options: Any) -> Outcome:
    """Ask for a body whole and streamed; return the outcome, which is the same."""
    one = await ask(body, streamed=False, **options)
    other = await ask(body, streamed=True, **options)
    assert one.said == other.said
    if other.reply is not None:
        assert other.pieces == other.reply.text
    return other
