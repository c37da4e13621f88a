"""Calls: a request to a model, and its reply with usage and waits."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

from pydantic import Field

from fusion.core.types.messages import Message, ToolCall, ToolSpec
from fusion.core.types.value import FinishReason, JsonMode, JsonSchema, Money, OnOutage, Reuse, Value


class CallKey(Value):
    """Identity of a call, stable across sessions: its place in the run and a digest of its content.

    `stage` is a path, `item` an index, `step` the step within the item. `digest` is the SHA-256 (hex) of model,
    parameters, messages, output limit and schema.
    """

    stage: str
    item: int | None = None
    step: str
    digest: str


class Request(Value):
    """A request to a model.

    `max_tokens` limits the output, reasoning included; `thinking_budget` is the part of it for reasoning. `timeout`
    is in seconds for each attempt, measured from the moment it gets its slot. `extra` holds further fields of the
    HTTP body, named as the provider does. `json_schema` is the schema of the reply. `json_mode` is "schema" for the
    provider's strict mode, "object" for any JSON object. `tools` are the tools that the model may call, and
    `tool_choice` is "auto", "none", "required" or the name of one. `cache_key` names the provider's prompt cache to
    use; it changes no reply. `key`, `sample`, `on_outage` and `patience` are not sent; `sample` tells requests apart
    that ask the same and need replies of their own. `on_outage` says if a call waits while its last model is down, or
    fails. `patience` is the seconds for which failed attempts are repeated.
    """

    messages: tuple[Message, ...]
    max_tokens: int = Field(gt=0)
    timeout: float = Field(default=120.0, gt=0)
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    thinking_budget: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    json_schema: JsonSchema | None = None
    json_mode: JsonMode = "schema"
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    cache_key: str | None = None
    key: CallKey | None = None
    sample: int = 0
    on_outage: OnOutage = "wait"
    patience: float = Field(default=300.0, ge=0)


class Usage(Value):
    """Tokens of one or more calls, measured by the provider or estimated here.

    `input` includes `cached_read` and `cache_write`; `output` includes `reasoning`.
    """

    input: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    source: Literal["measured", "estimated"] = "measured"

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: "Usage") -> "Usage":
        return Usage.sum_of((self, other))

    @staticmethod
    def sum_of(usages: Iterable["Usage"]) -> "Usage":
        """Return the sum of usages: measured if all of them are."""
        taken = cached_read = cache_write = given = reasoning = 0
        measured = True
        for one in usages:
            taken += one.input
            cached_read += one.cached_read
            cache_write += one.cache_write
            given += one.output
            reasoning += one.reasoning
            measured = measured and one.source == "measured"
        return Usage(
            input=taken,
            cached_read=cached_read,
            cache_write=cache_write,
            output=given,
            reasoning=reasoning,
            source="measured" if measured else "estimated",
        )


class Waited(Value):
    """Seconds that a call waited before the request was sent that got its reply.

    `library` is the loading of libraries and weights, `budget` the wait for room in a budget, `slot` for a free slot,
    `pause` for a backoff, a rate limit, a provider's outage or a prompt cache that another call fills, and `failed`
    the duration of failed attempts. `batch` is the wait for a batch, from its first row to its results.
    """

    library: float = 0.0
    budget: float = 0.0
    slot: float = 0.0
    pause: float = 0.0
    failed: float = 0.0
    batch: float = 0.0


class Reply(Value):
    """A reply of a model.

    `asked` is the requested model, `by` the fallback that replied in its place, `served` the name in the provider's
    response. `cost` is in dollars; None if the price is unknown, never zero for unknown. `latency` and `first_token`
    are seconds since sending. `reused` is the origin of a reply that was not requested now, and is free: the journal
    of this run, another run, or the cache. `tool_calls` are the tools that the model wants called. `batch_saved` is
    set for a reply that came in a batch: the dollars that it saved over a live call, 0 if the price is unknown.
    """

    text: str
    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage
    asked: str
    served: str
    by: str | None = None
    cost: Money | None = None
    latency: float = 0.0
    first_token: float | None = None
    reused: Reuse | None = None
    batch_saved: Money | None = None

    @property
    def writer(self) -> str:
        """The id of the model that replied."""
        return self.by or self.asked


class Deltas(Protocol):
    """Receiver of the chunks of a streamed reply.

    `committed` is True once a chunk has been used irrevocably; from then on no wrapper may retry the call.
    """

    @property
    def committed(self) -> bool: ...

    def add(self, text: str) -> None:
        """Receive the next chunk."""

    def restart(self) -> None:
        """Discard the chunks received so far; the reply starts over."""


OnDelta = Callable[[str], None]
