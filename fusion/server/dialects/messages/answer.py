"""Answers of the Messages API: the message of a run, its usage, and errors."""

import json
from typing import Any, Final
from uuid import uuid4

from fusion.core.result import Result
from fusion.core.types import FinishReason, ToolCall, Usage
from fusion.server.base import RefusedError, ServedRun, outcome_of

_STOPS: Final[dict[FinishReason | None, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def message_of(run: ServedRun, result: Result) -> dict[str, Any]:
    """Return the message of a run that has answered."""
    text = [{"type": "text", "text": result.text}] if result.text else []
    content = [*text, *map(tool_use, result.tool_calls)]
    return {
        **begun(run),
        "content": content,
        "stop_reason": stop_reason(result),
        "usage": usage_of(result.usage),
        "fusion": outcome_of(result),
    }


def begun(run: ServedRun) -> dict[str, Any]:
    """Return the message of a run that has answered nothing yet."""
    return {
        "id": f"msg_{run.run_id}",
        "type": "message",
        "role": "assistant",
        "model": run.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(Usage()),
    }


def stop_reason(result: Result) -> str:
    """Return the end of an answer in the words of this API."""
    return _STOPS.get(result.finish_reason, "end_turn")


def tool_use(call: ToolCall) -> dict[str, Any]:
    """Return a call of a tool as a block; arguments that are no JSON object are under `arguments`."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)}


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return {"arguments": text}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return tokens; those of prompt caches are counted apart from the input."""
    return {
        "input_tokens": usage.input - usage.cached_read - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_read,
        "output_tokens": usage.output,
    }


def error_of(error: RefusedError, run_id: str | None) -> dict[str, Any]:
    """Return the body of an error, also for the event of a stream."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    said = {"type": kind, "message": str(error)}
    return {"type": "error", "error": said, "request_id": f"req_{run_id or uuid4().hex}"}
