"""Content: the messages of calls as the conventions write them, for traces that are asked to hold them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fusion.client.telemetry.names import INPUT_MESSAGES, INSTRUCTIONS, OUTPUT_MESSAGES
from fusion.client.telemetry.values import encodable
from fusion.core.types import CallKey, Message, Reply, Request

MOST: Final = 64_000
"""Characters of the texts in one attribute; the rest is cut, and the cut is said."""
_Heard = tuple[Request, Reply | None]
_Place = tuple[str, int | None, str, str]


class Contents:
    """Requests and replies of one run between the end of their call and that of its span."""

    def __init__(self) -> None:
        self._heard: dict[_Place, _Heard] = {}

    def hear(self, request: Request, reply: Reply | None) -> None:
        """Keep a request and its reply."""
        if request.key is not None:
            self._heard[_place(request.key)] = request, reply

    def attributes(self, key: _Place) -> Mapping[str, str]:
        """Return the attributes of a call's content, once."""
        heard = self._heard.pop(key, None)
        return {} if heard is None else _attributes(*heard)


def _place(key: CallKey) -> _Place:
    return key.stage, key.item, key.step, key.digest


def _attributes(request: Request, reply: Reply | None) -> dict[str, str]:
    system = [message for message in request.messages if message.role == "system"]
    others = [message for message in request.messages if message.role != "system"]
    found = {INPUT_MESSAGES: _Cut().messages(others)}
    if system:
        found[INSTRUCTIONS] = _Cut().texts(system)
    if reply is not None:
        answer = Message(role="assistant", content=reply.text, tool_calls=reply.tool_calls)
        found[OUTPUT_MESSAGES] = _Cut().messages([answer], finish_reason=reply.finish_reason)
    return found


class _Cut:
    """Writes messages as JSON until the bound of an attribute is reached."""

    def __init__(self) -> None:
        self._left = MOST

    def texts(self, messages: Sequence[Message]) -> str:
        return _json([self._part(message.content) for message in messages])

    def messages(self, messages: Sequence[Message], **more: Any) -> str:
        written: list[dict[str, Any]] = []
        for number, message in enumerate(messages):
            if self._left <= 0:
                written.append(_said(f"[{len(messages) - number} further messages are left out]"))
                break
            written.append({"role": message.role, "parts": self._parts(message), **more})
        return _json(written)

    def _parts(self, message: Message) -> list[dict[str, Any]]:
        if message.tool_call_id is not None:
            response = self._text(message.content)
            return [{"type": "tool_call_response", "id": message.tool_call_id, "response": response}]
        parts = [self._part(str(part)) for part in message.parts]
        return parts + [
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": self._text(call.arguments)}
            for call in message.tool_calls
        ]

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "text", "content": self._text(text)}

    def _text(self, text: str) -> str:
        kept = text[: max(0, self._left)]
        self._left -= len(kept)
        return kept if len(kept) == len(text) else f"{kept}[{len(text) - len(kept):,} characters are left out]"


def _said(text: str) -> dict[str, Any]:
    return {"role": "user", "parts": [{"type": "text", "content": text}]}


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return encodable(text, len(text))
