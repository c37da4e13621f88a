"""Writing of chat completions: whole answers, usage and errors."""

from typing import Any

from fusion.core.result import Result
from fusion.core.types import ToolCall
from fusion.server.base import RefusedError, ServedRun, outcome_of


def completion(run: ServedRun, result: Result) -> dict[str, Any]:
    """Return a `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.tool_calls:
        message |= {"content": result.text or None, "tool_calls": [call_of(call) for call in result.tool_calls]}
    return {
        **head(run, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish_of(result), "logprobs": None}],
        "usage": usage_of(result),
        "fusion": outcome_of(result),
    }


def head(run: ServedRun, kind: str) -> dict[str, Any]:
    """Return the fields that every completion and chunk begins with."""
    return {"id": f"chatcmpl-{run.run_id}", "object": kind, "created": run.created, "model": run.model}


def call_of(call: ToolCall) -> dict[str, Any]:
    """Return a call of a tool of the caller."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def finish_of(result: Result) -> str:
    """Return the finish reason of an answer: stop, length, content_filter or tool_calls."""
    return "tool_calls" if result.tool_calls else result.finish_reason or "stop"


def usage_of(result: Result) -> dict[str, Any]:
    """Return the usage of a run over all its calls, with its cost in dollars as OpenRouter writes it."""
    usage, cost = result.usage, float(result.cost.usd)
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "cost": cost,
        "is_byok": False,
        "cost_details": {"upstream_inference_cost": cost},
    }


def error_body(error: RefusedError, run_id: str | None) -> dict[str, Any]:
    """Return an error as OpenAI writes it, with the id of its run if there is one."""
    body: dict[str, Any] = {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}
    return {"error": body} if run_id is None else {"error": body, "fusion": {"run": run_id}}
