"""Response: the object of the Responses API, from a run and its Result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fusion.core.errors import BudgetError, RateLimitError
from fusion.core.result import Result
from fusion.core.types import Failure, ToolCall
from fusion.server.base import INTERRUPTED, WAITING, outcome_of, waiting_words
from fusion.server.dialects.responses.functions import Functions, functions_of

PREFIX: Final = "resp_"
"""Beginning of the id of a response; the id of its run follows."""
Json = dict[str, Any]

_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CODES: Final = {
    BudgetError.__name__: "insufficient_quota",
    RateLimitError.__name__: "rate_limit_exceeded",
    INTERRUPTED: "server_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Facts of a response that are known before its end.

    `model` is the name of the model in the response, and `echo` has the fields that repeat the request.
    """

    run_id: str
    model: str
    created: int
    echo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def response_id(self) -> str:
        return f"{PREFIX}{self.run_id}"

    @property
    def functions(self) -> Functions:
        """The functions of the request."""
        return functions_of(self.echo.get("tools", ()))

    def output(self, result: Result, number: int = 1) -> list[Json]:
        """Return the items of an answer: its message, and its calls of tools. `number` is that of the message."""
        if result.status == "failed":
            return []
        status = "incomplete" if status_of(result) == "incomplete" else "completed"
        said = (
            [message_item(self.run_id, number, result.text, status)] if result.text or not result.tool_calls else []
        )
        return [*said, *self.calls(result)]

    def calls(self, result: Result) -> list[Json]:
        """Return the calls of tools of the client in an answer."""
        if not result.tool_calls:
            return []
        functions = self.functions
        numbered = enumerate(result.tool_calls, start=1)
        return [call_item(f"fc_{self.run_id}_{number}", call, functions) for number, call in numbered]

    def unfinished(self, status: str = "in_progress") -> Json:
        """Return the response before its end."""
        return {**self._frame(status), "output": [], "usage": None}

    @property
    def background(self) -> bool:
        """True for a run that goes on without its client."""
        return bool(self.echo.get("background"))

    def cut_off(self) -> Json:
        """Return the response of a run whose server ended before it."""
        message = f"the run was cut off; its events (`?stream=true`) or `fusion resume {self.run_id}` go on with it"
        return {**self.unfinished("failed"), "error": {"code": "server_error", "message": message}}

    def waiting(self, result: Result) -> Json:
        """Return the response of a run that waits for a person: it is in progress."""
        return {**self.unfinished(), "fusion": outcome_of(result)}

    def finished(self, result: Result, output: Sequence[Json]) -> Json:
        """Return the response of a run that has ended."""
        status = status_of(result)
        more = {
            "completed_at": int(result.started.timestamp() + result.seconds),
            "output": list(output),
            "usage": usage_of(result),
            "fusion": outcome_of(result),
        }
        if status == "incomplete":
            more["incomplete_details"] = {"reason": _REASONS[result.finish_reason or ""]}
        if result.status == "waiting":
            more["error"] = {"code": WAITING, "message": waiting_words(result)}
        elif status in ("failed", "cancelled"):
            more["error"] = error_of(result.error)
        return {**self._frame(status), **more}

    def _frame(self, status: str) -> Json:
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            **self.echo,
        }


def created_of(run_id: str, known: int) -> int:
    """Return the start of a run in seconds since 1970, by its id, which says it the same at any time."""
    try:
        return int(datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return known


def status_of(result: Result) -> str:
    """Return the status of a response by the API's words."""
    if result.status == "waiting":
        return "failed"  # for a stream, which has to end; the response itself is in progress
    if result.status == "failed":
        return "cancelled" if result.error is not None and result.error.reason == INTERRUPTED else "failed"
    return "incomplete" if result.finish_reason in _REASONS else "completed"


def error_of(failure: Failure | None) -> Json:
    """Return the error of a failed response.

    Clients send a request again after `server_error`. A run that failed has retried already, so its code is another.
    """
    if failure is None:
        return {"code": "server_error", "message": "the run failed"}
    return {"code": _CODES.get(failure.reason, "invalid_prompt"), "message": failure.message}


def usage_of(result: Result) -> Json:
    """Return the tokens and the cost of a run."""
    usage, usd = result.usage, float(result.cost.usd)
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
        "cost": usd,
        "cost_details": {"upstream_inference_cost": usd},
    }


def message_item(run_id: str, number: int, text: str, status: str = "completed") -> Json:
    """Return the message that is the answer. `number` counts the messages of a response from 1."""
    content = [text_part(text)] if status != "in_progress" else []
    return {
        "id": f"msg_{run_id}_{number}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def text_part(text: str) -> Json:
    """Return a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(item_id: str, call: ToolCall, functions: Functions) -> Json:
    """Return a call of a tool of the client, by the client's name of it. Codex needs the namespace apart."""
    named = functions.named(call.name)
    group = {} if named.namespace is None else {"namespace": named.namespace}
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call.id,
        "name": named.name,
        **group,
        "arguments": call.arguments,
        "status": "completed",
    }
