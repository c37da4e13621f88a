"""What a run gives back: the answer, what failed, what was asked and served, and what it cost."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from fusion.core.types import Failure, Item, Money, Usage, Value


class Cost(Value):
    """Dollars that are known, and how many calls there are whose cost is not."""

    usd: Money = Decimal(0)
    unknown_calls: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(usd=self.usd + other.usd, unknown_calls=self.unknown_calls + other.unknown_calls)

    def __str__(self) -> str:
        known = f"${self.usd:.4f}"
        return f"{known} and {self.unknown_calls} calls of unknown cost" if self.unknown_calls else known


class FailedPart(Value):
    """A stage, or an item of one, that has no value, and why."""

    stage: str
    item: int | None = None
    failure: Failure


class Served(Value):
    """A role, the model asked for, and the one that answered.

    `by` is the model of the chain that did so in place of the one asked for; `served` is the provider's own word.
    """

    role: str
    asked: str
    served: str
    by: str | None = None
    calls: int


class Spent(Value):
    """Tokens, and the dollars for them as far as they are known."""

    usage: Usage = Usage()
    cost: Cost = Cost()

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(usage=self.usage + other.usage, cost=self.cost + other.cost)


class ReceiptLine(Value):
    """What one stage spent on one model. `price_source` says where the price comes from.

    `asked` is the model that was asked for, where this one took over from it. `fallbacks` counts the calls that this
    model could not answer and another one was asked for.

    `measured` is what the provider counted, `estimated` what we counted for replies without a usage of the
    provider's. `charged` is what replies cost that could not be used, and an upper bound for attempts that gave no
    reply but may have been billed: it is part of the cost and of what the budget counts, and no usage. `retries` are
    attempts that were made again. `cancelled` calls were given up while under way. `reused` calls were answered from
    the cache or another run, and cost nothing: `saved` is what they cost when they were made.
    """

    stage: str
    role: str
    model: str
    asked: str | None = None
    calls: int = 0
    failed: int = 0
    retries: int = 0
    fallbacks: int = 0
    cancelled: int = 0
    reused: int = 0
    measured: Spent = Spent()
    estimated: Spent = Spent()
    charged: Spent = Spent()
    saved: Spent = Spent()
    price_source: str = "unknown"

    @property
    def usage(self) -> Usage:
        """The tokens of all replies."""
        return self.measured.usage + self.estimated.usage

    @property
    def cost(self) -> Cost:
        """The dollars of all replies, and what was charged for attempts without one."""
        return self.measured.cost + self.estimated.cost + self.charged.cost


class Receipt(Value):
    """What a run cost, by stage and role, over all sessions of it. `seconds` are those in which it was run.

    `cascades` is how many cascades took an answer, `escalated` in how many of them it was not that of the first tier,
    and `escalation_rate` the share of these; None where there was none.
    """

    lines: tuple[ReceiptLine, ...] = ()
    seconds: float = 0.0
    tags: dict[str, str] = Field(default={})
    cascades: int = 0
    escalated: int = 0
    escalation_rate: float | None = None

    @property
    def cost(self) -> Cost:
        return sum((line.cost for line in self.lines), Cost())

    @property
    def usage(self) -> Usage:
        return sum((line.usage for line in self.lines), Usage())

    @property
    def calls(self) -> int:
        return sum(line.calls for line in self.lines)

    @property
    def reused(self) -> int:
        """Calls that were answered from the cache or another run."""
        return sum(line.reused for line in self.lines)

    @property
    def saved(self) -> Cost:
        """What those cost when they were made."""
        return sum((line.saved.cost for line in self.lines), Cost())


class StageResult(Value):
    """How one stage ended. `items` are those it finished, in their order.

    `decision` is the way that a route took, or the tier whose answer a cascade took; `reason` says why.
    """

    kind: str
    status: Literal["ok", "skipped", "failed", "cancelled"]
    seconds: float = 0.0
    items: tuple[Item, ...] = ()
    failure: Failure | None = None
    decision: str | None = None
    reason: str = ""


class Result(Value):
    """The outcome of a run.

    `status` is "ok", "partial" (an answer, but something in `failed` is not in it) or "failed". `text` is the
    answer; `data` its data where the pipeline gives one. `items` are those of the output, or, when the run failed,
    of the last stage that finished any.
    """

    run_id: str
    pipeline: str
    profile: str
    started: datetime
    seconds: float = 0.0
    status: Literal["ok", "partial", "failed"]
    text: str = ""
    data: Any = None
    items: tuple[Item, ...] = ()
    failed: tuple[FailedPart, ...] = ()
    error: Failure | None = None
    models: tuple[Served, ...] = ()
    usage: Usage = Usage()
    cost: Cost = Cost()
    stages: dict[str, StageResult] = Field(default_factory=dict)
    receipt: Receipt = Receipt()
    notes: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default={})

    def to_openai(self) -> dict[str, Any]:
        """The answer as an OpenAI chat completion (https://platform.openai.com/docs/api-reference/chat/object)."""
        finish = "stop" if self.status == "ok" else "length"
        return {
            "id": f"chatcmpl-{self.run_id}",
            "object": "chat.completion",
            "created": int(self.started.timestamp()),
            "model": f"fusion/{self.pipeline}",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": self.text}, "finish_reason": finish}
            ],
            "usage": {
                "prompt_tokens": self.usage.input,
                "completion_tokens": self.usage.output,
                "total_tokens": self.usage.total,
                "prompt_tokens_details": {"cached_tokens": self.usage.cached_read},
                "completion_tokens_details": {"reasoning_tokens": self.usage.reasoning},
            },
        }
