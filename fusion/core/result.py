"""Result of a run: the answer, the failed parts, the models that replied, and the receipt.

Money is a Decimal of US dollars, durations are seconds, and tokens are whole numbers.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any, Final, Literal

from pydantic import Field

from fusion.core.types import Failure, FinishReason, Gate, Item, Money, ToolCall, Usage, Value

_SHOWN: Final = 80
"""Characters of a text in the short form of a result."""
_LISTED: Final = 20
_NOT_GIVEN: Final = ("none", "unreviewed")
_CALL_ID: Final = re.compile(r"call_(.+)_[1-9]\d{0,5}")
_SOURCES: Final = ("measured", "estimated", "charged")


class Cost(Value):
    """Known cost in dollars, and the number of calls with unknown cost."""

    usd: Money = Decimal(0)
    unknown_calls: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost.sum_of((self, other))

    @staticmethod
    def sum_of(costs: Iterable["Cost"]) -> "Cost":
        """Return the sum of costs."""
        usd, unknown = Decimal(0), 0
        for one in costs:
            usd += one.usd
            unknown += one.unknown_calls
        return Cost(usd=usd, unknown_calls=unknown)

    def __str__(self) -> str:
        known = f"${self.usd:.4f}"
        return f"{known} and {self.unknown_calls} calls of unknown cost" if self.unknown_calls else known


def _in_html(part: "FailedPart") -> str:
    place = part.stage if part.item is None else f"{part.stage} {part.item + 1}"
    return f"{escape(place)}: {escape(part.failure.reason)}: {escape(part.failure.message)}"


class FailedPart(Value):
    """A failed stage, or a failed item of one, with its reason. `stage` is a path; `item` is an index."""

    stage: str
    item: int | None = None
    failure: Failure


class Served(Value):
    """A role with the model requested and the model that replied, over `calls` calls.

    `by` is the fallback that replied in place of `asked`, if any; `served` is the name in the provider's response.
    """

    role: str
    asked: str
    served: str
    by: str | None = None
    calls: int


class Spent(Value):
    """Tokens and their cost."""

    usage: Usage = Usage()
    cost: Cost = Cost()

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(usage=self.usage + other.usage, cost=self.cost + other.cost)


class Times(Value):
    """Seconds of a run by cause, along the chain of calls that its end waited for: they add up to its time.

    `model` is the time of models, from the request sent to the answer, and `tools` that of tools and of commands in
    the sandbox; the next six are waits of calls (see Waited). `own` is all else: Fusion itself, its store, and pauses
    between calls.
    """

    model: float = 0.0
    tools: float = 0.0
    library: float = 0.0
    budget: float = 0.0
    slot: float = 0.0
    pause: float = 0.0
    failed: float = 0.0
    batch: float = 0.0
    own: float = 0.0

    @property
    def waited(self) -> float:
        """The sum of the waits."""
        return self.library + self.budget + self.slot + self.pause + self.failed + self.batch

    @property
    def total(self) -> float:
        return self.model + self.tools + self.waited + self.own


class ReceiptLine(Value):
    """The calls of one stage to one model. `price_source` names the origin of the price.

    `asked` is the requested model if this one replied as its fallback. Of the `calls`, `failed` got no reply,
    `cancelled` were cancelled in flight, and `reused` were cache hits or came from another run. `retries` counts
    repeated attempts, `fallbacks` the calls that this model passed on to the next of its chain.

    `measured` holds the usage reported by the provider, `estimated` our own count where it reports none. `charged`
    is the cost of unusable replies, and an upper bound for attempts without a reply that may have been billed. It is
    part of `cost`, not of `usage`. `saved` is the original cost of the reused calls, which are free now.

    A line with `hedge` is that of attempts that lost against a second one for the same call.

    `cached` is the amount in dollars that prompt caches of the provider saved: the price of the same tokens without
    them, less their cost. It is negative if they were written and not read.

    Of the `calls`, `batched` came in a batch; `batch_saved` is the amount in dollars that this saved over live calls.
    """

    stage: str
    role: str
    model: str
    asked: str | None = None
    hedge: bool = False
    calls: int = 0
    failed: int = 0
    retries: int = 0
    fallbacks: int = 0
    cancelled: int = 0
    reused: int = 0
    batched: int = 0
    measured: Spent = Spent()
    estimated: Spent = Spent()
    charged: Spent = Spent()
    saved: Spent = Spent()
    cached: Money = Decimal(0)
    batch_saved: Money = Decimal(0)
    price_source: str = "unknown"

    @property
    def usage(self) -> Usage:
        """The tokens of all replies, cached ones excluded."""
        return Usage.sum_of(self._usages)

    @property
    def cost(self) -> Cost:
        """The cost of all replies, and the charges for attempts without one."""
        return Cost.sum_of(self._costs)

    @property
    def _usages(self) -> tuple[Usage, ...]:
        return self.measured.usage, self.estimated.usage

    @property
    def _costs(self) -> tuple[Cost, ...]:
        return self.measured.cost, self.estimated.cost, self.charged.cost


class LimitUse(Value):
    """A limit of a kept budget: the amount that a run spent of it, and what was left for all; None if not known."""

    limit: Money | int
    spent: Money | int
    left: Money | int | None = None


class BudgetUse(Value):
    """A kept budget that a run drew on, in the period named; `opens` is the begin of the next, None if there is none.

    `limits` are by unit: usd, tokens, calls. Amounts left are those at the run's end, as far as its process knew.
    """

    name: str
    period: str
    opens: datetime | None
    limits: dict[str, LimitUse]


class Receipt(Value):
    """The cost of a run by stage, role and model, over all its sessions; `seconds` is the time it was running.

    `times` splits `seconds` by cause. `saved_seconds` is the time that reused calls saved: the run would have taken
    so much longer with their latencies.

    `cascades` counts the answers taken by cascades, one for each item of a cascade with `over`; `escalated` those of
    a tier after the first. `escalation_rate` is their ratio, from 0 to 1; None without a cascade.

    `budgets` are those with a period that the run drew on, with what it spent of them and what is left.
    """

    lines: tuple[ReceiptLine, ...] = ()
    seconds: float = 0.0
    times: Times = Times()
    saved_seconds: float = 0.0
    tags: dict[str, str] = Field(default={})
    cascades: int = 0
    escalated: int = 0
    escalation_rate: float | None = None
    budgets: tuple[BudgetUse, ...] = Field(default=(), exclude_if=lambda budgets: not budgets)

    @property
    def cost(self) -> Cost:
        return Cost.sum_of(cost for line in self.lines for cost in line._costs)

    @property
    def usage(self) -> Usage:
        return Usage.sum_of(usage for line in self.lines for usage in line._usages)

    @property
    def calls(self) -> int:
        return sum(line.calls for line in self.lines)

    @property
    def reused(self) -> int:
        """The number of cache hits and of calls taken from another run."""
        return sum(line.reused for line in self.lines)

    @property
    def saved(self) -> Cost:
        """The original cost of the reused calls."""
        return Cost.sum_of(line.saved.cost for line in self.lines)

    @property
    def cached(self) -> Money:
        """The amount in dollars that prompt caches of providers saved."""
        return sum((line.cached for line in self.lines), Decimal(0))

    @property
    def batched(self) -> int:
        """The number of calls that came in a batch."""
        return sum(line.batched for line in self.lines)

    @property
    def batch_saved(self) -> Money:
        """The amount in dollars that batches saved over live calls."""
        return sum((line.batch_saved for line in self.lines), Decimal(0))


class Judged(Value):
    """The first verdict of a reviewer or judge on a result, before any revision.

    `item` is the index of the item, None for a whole answer, and `tier` the number of the cascade's tier.
    `verdict` is "accept", "revise", "escalate" or "reject"; "none" if the reviewer gave none, "unreviewed" if the
    result was passed on without a review. `by` is the model, or `checks`. `confidence` is from 0 to 1, if stated.
    `draft` is the result that was judged; it is no part of JSON data.
    """

    item: int | None = None
    tier: int | None = None
    verdict: str
    by: str = ""
    confidence: float | None = None
    draft: Any = Field(default=None, exclude=True, repr=False)

    @property
    def given(self) -> bool:
        """True for a verdict that was given."""
        return self.verdict not in _NOT_GIVEN


class StageResult(Value):
    """The outcome of one stage, with its finished items in order.

    `verdicts` are the first ones of a reviewer or judge, one for each result. `decision` is the name of the route, or
    of the tier of a cascade, that was chosen; `reason` explains it. With `over` it counts the items of each.
    """

    kind: str
    status: Literal["ok", "skipped", "failed", "cancelled", "waiting"]
    seconds: float = 0.0
    items: tuple[Item, ...] = ()
    verdicts: tuple[Judged, ...] = Field(default=(), exclude_if=lambda verdicts: not verdicts)
    failure: Failure | None = None
    decision: str | None = None
    reason: str = ""


class Result(Value):
    """The outcome of a run.

    `status` is "ok", "partial" (an answer that lacks the parts in `failed`), "failed", or "waiting": all work is done
    that does not depend on the answers of people to the open gates in `waiting`. `lost` are the failed parts
    beyond a `min_ok` that the author wrote; a resumed run asks for them again. `text` is the answer and
    `data` its JSON data, if the output is structured. `tool_calls` are tools of the caller that the answer wants
    called, with ids of this run. `finish_reason` is that of the answer's last call; None without an answer. `items`
    are the items of the output; if the run failed, those of the last stage that finished any. `error` is the cause of
    a failed run. `stages` are results by path, `models` the models that replied, `notes` messages for the user, and
    `tags` the user's labels. `started` is in UTC.
    """

    run_id: str
    pipeline: str
    profile: str
    started: datetime
    seconds: float = 0.0
    status: Literal["ok", "partial", "failed", "waiting"]
    text: str = ""
    data: Any = None
    tool_calls: tuple[ToolCall, ...] = Field(default=(), exclude_if=lambda calls: not calls)
    finish_reason: FinishReason | None = None
    items: tuple[Item, ...] = ()
    failed: tuple[FailedPart, ...] = ()
    lost: tuple[FailedPart, ...] = ()
    waiting: tuple[Gate, ...] = Field(default=(), exclude_if=lambda gates: not gates)
    error: Failure | None = None
    models: tuple[Served, ...] = ()
    usage: Usage = Usage()
    cost: Cost = Cost()
    stages: dict[str, StageResult] = Field(default_factory=dict)
    receipt: Receipt = Receipt()
    notes: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default={})

    def __repr__(self) -> str:
        answer = self.text if len(self.text) <= _SHOWN else f"{self.text[: _SHOWN - 1]}…"
        why = "" if self.error is None else f", error={str(self.error.message)[:_SHOWN]!r}"
        failed = f", failed={len(self.failed)}" if self.failed else ""
        return f"Result({self.run_id!r}, {self.status!r}, text={answer!r}{failed}{why}, cost={str(self.cost)!r})"

    def _repr_html_(self) -> str:
        """Return the answer, status, cost and failed parts for a notebook."""
        lost = "".join(f"<li>{_in_html(part)}</li>" for part in self.failed[:_LISTED])
        more = f"<li>and {len(self.failed) - _LISTED:,} more</li>" if len(self.failed) > _LISTED else ""
        why = "" if self.error is None else f"<p>{escape(self.error.reason)}: {escape(self.error.message)}</p>"
        about = " · ".join([self.status, f"{self.cost} ({self._cost_source})", f"{self.seconds:.1f} s", self.run_id])
        answer = f'<pre style="white-space: pre-wrap">{escape(self.text)}</pre>'
        return f"<div>{answer}{why}<p>{escape(about)}</p>{f'<ul>{lost}{more}</ul>' if lost else ''}</div>"

    @property
    def _cost_source(self) -> str:
        """The sources of the cost: measured by providers, estimated here, charged without a reply."""
        spent = {name: [getattr(line, name).cost for line in self.receipt.lines] for name in _SOURCES}
        found = [name for name, costs in spent.items() if any(cost.usd or cost.unknown_calls for cost in costs)]
        return ", ".join(found) or "nothing spent"

    def to_openai(self) -> dict[str, Any]:
        """Return the answer as an OpenAI chat completion.

        https://platform.openai.com/docs/api-reference/chat/object
        """
        finish = (self.finish_reason or "stop") if self.status == "ok" or self.tool_calls else "length"
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["content"] = self.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return {
            "id": f"chatcmpl-{self.run_id}",
            "object": "chat.completion",
            "created": int(self.started.timestamp()),
            "model": f"fusion/{self.pipeline}",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": self.usage.input,
                "completion_tokens": self.usage.output,
                "total_tokens": self.usage.total,
                "prompt_tokens_details": {"cached_tokens": self.usage.cached_read},
                "completion_tokens_details": {"reasoning_tokens": self.usage.reasoning},
            },
        }


def call_id(run_id: str, number: int) -> str:
    """Return the id of a call of a tool: unique among all runs.

    >>> call_id("20261130-050349-a1b2c3", 1)
    'call_20261130-050349-a1b2c3_1'
    """
    return f"call_{run_id}_{number}"


def run_of_call(given: str) -> str | None:
    """Return the id of the run that asked for a call of a tool; None for the id of another program.

    >>> run_of_call("call_20261130-050349-a1b2c3_1")
    '20261130-050349-a1b2c3'
    """
    found = _CALL_ID.fullmatch(given)
    return None if found is None else found[1]
