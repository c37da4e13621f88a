"""Anthropic's format of replies, translated to chunks of OpenAI's.

https://docs.anthropic.com/en/api/messages-streaming
"""

import json
from typing import Any, Final

_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
_JSON_TOOL: Final = "json_tool_call"
"""The tool by which litellm asks for JSON; its input is the answer."""


class MessageFormat:
    """Translates the events of one message, or a whole message."""

    def __init__(self) -> None:
        self._answers: set[str] = set()
        self._called: set[str] = set()

    def chunk(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a whole message or an event as a completion or chunk; one without choices for other events."""
        kind = data.get("type")
        if kind == "message":
            return self._whole(data)
        if kind == "message_start":
            message = data.get("message")
            message = message if isinstance(message, dict) else {}
            return {"model": message.get("model"), "usage": _usage(message.get("usage"))}
        if kind == "content_block_start":
            return self._begun(data.get("content_block"), data.get("index"))
        if kind == "content_block_delta":
            return self._piece(data.get("delta"), data.get("index"))
        if kind == "message_delta":
            delta = data.get("delta")
            reason = delta.get("stop_reason") if isinstance(delta, dict) else None
            return {**_choice(None, reason), "usage": _usage(data.get("usage"))}
        return {}

    def _whole(self, data: dict[str, Any]) -> dict[str, Any]:
        content = data.get("content")
        parts = [self._block(one, None) for one in content] if isinstance(content, list) else content
        blocks = content if isinstance(content, list) else []
        calls = [_call(one, at, one.get("input")) for at, one in enumerate(blocks) if _is_call(one)]
        found = _choice(parts, data.get("stop_reason"), calls)
        return {**found, "model": data.get("model"), "usage": _usage(data.get("usage"))}

    def _begun(self, block: Any, index: Any) -> dict[str, Any]:
        if _is_call(block):
            self._called.add(repr(index))
            return _choice(None, calls=[_call(block, index, block.get("input") or None)])
        return _choice([self._block(block, index)])

    def _piece(self, delta: Any, index: Any) -> dict[str, Any]:
        if repr(index) in self._called and isinstance(delta, dict) and delta.get("type") == "input_json_delta":
            return _choice(None, calls=[{"index": index, "function": {"arguments": delta.get("partial_json")}}])
        return _choice([self._delta(delta, index)])

    def _block(self, block: Any, index: Any) -> Any:
        """Return a content block as a part, and remember one whose deltas are the answer."""
        if not isinstance(block, dict) or block.get("type") != "tool_use" or block.get("name") != _JSON_TOOL:
            return block
        self._answers.add(repr(index))
        given = block.get("input")
        return json.dumps(given) if given else ""

    def _delta(self, delta: Any, index: Any) -> Any:
        if not isinstance(delta, dict):
            return delta
        kind = delta.get("type")
        if kind == "text_delta":
            return {"type": "text", **{name: value for name, value in delta.items() if name != "type"}}
        if kind == "input_json_delta" and repr(index) in self._answers:
            return delta.get("partial_json")
        return delta


def _is_call(block: Any) -> bool:
    """Return True for a call of a tool that is not the answer."""
    return isinstance(block, dict) and block.get("type") == "tool_use" and block.get("name") != _JSON_TOOL


def _call(block: dict[str, Any], index: Any, given: Any) -> dict[str, Any]:
    function = {"name": block.get("name"), "arguments": None if given is None else json.dumps(given)}
    return {"index": index, "id": block.get("id"), "function": function}


def _choice(content: Any, reason: Any = None, calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    delta = {"content": content, "tool_calls": calls} if calls else {"content": content}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _usage(given: Any) -> Any:
    """Return a usage whose input includes cached tokens, which Anthropic counts apart."""
    if not isinstance(given, dict) or "input_tokens" not in given:
        return given
    counts = [given["input_tokens"], *(given.get(name) or 0 for name in _CACHED)]
    if any(isinstance(count, bool) or not isinstance(count, (int, float)) for count in counts):
        return given
    return {**{name: value for name, value in given.items() if name != "input_tokens"}, "prompt_tokens": sum(counts)}
