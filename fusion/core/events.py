"""What happens in a run, as one discriminated union of events, and the Sink that they go to.

Progress bars, `--events`, receipts and histories all read these events; nothing else reports progress.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from fusion.core.types import Failure, FinishReason, Money, Reuse, Usage, Value


class EventBase(Value):
    """What every event has: the run, the stage's path and the item it is about, and when (UTC)."""

    run_id: str = ""
    stage: str = ""
    item: int | None = None
    at: datetime = Field(default_factory=partial(datetime.now, UTC))


class RunStarted(EventBase):
    """A run begins. `roles` names the model behind every role that the pipeline may use.

    `session` counts how often it was taken up, and is above 1 for a run that is resumed. `parent` is the run whose
    finished calls it may use, `tags` are the user's own.
    """

    type: Literal["run_started"] = "run_started"
    pipeline: str
    profile: str
    roles: dict[str, str]
    stages: dict[str, str]
    session: int = 1
    parent: str | None = None
    tags: dict[str, str] = Field(default={})


class OfCall(EventBase):
    """Something about a call to a model; `role` is the one that is asked."""

    role: str = ""


class StageStarted(EventBase):
    """A stage has its first input."""

    type: Literal["stage_started"] = "stage_started"
    kind: str


class StageGrew(EventBase):
    """A stage knows of `known` items now; `final` when no more will come."""

    type: Literal["stage_grew"] = "stage_grew"
    known: int
    final: bool = False


class CallStarted(EventBase):
    """A call is asked for; it may wait for its budget and its slot before it is sent."""

    type: Literal["call_started"] = "call_started"
    step: str
    role: str
    model: str
    digest: str


class Delta(EventBase):
    """A piece of the text of a stage that feeds the run's answer."""

    type: Literal["delta"] = "delta"
    step: str
    text: str


class Restarted(EventBase):
    """The pieces of a reply so far are void: it begins again from nothing."""

    type: Literal["restarted"] = "restarted"
    step: str


class AttemptFailed(OfCall):
    """One try of a call failed. `wait` is the pause before the next one in seconds, None if this was the last."""

    type: Literal["attempt_failed"] = "attempt_failed"
    model: str
    attempt: int
    failure: Failure
    wait: float | None = None


class AttemptCharged(OfCall):
    """An attempt that gave no reply, or none that can be used, may have cost money: this is what was charged."""

    type: Literal["attempt_charged"] = "attempt_charged"
    model: str
    usage: Usage
    cost: Money | None = None


class FallbackTaken(OfCall):
    """A model of the chain of `asked` could not answer: the call goes on to `model`."""

    type: Literal["fallback_taken"] = "fallback_taken"
    asked: str
    failed: str
    model: str
    failure: Failure


class CallFinished(EventBase):
    """A reply has come. `cost` is in dollars, None where the price is unknown.

    `by` is the model of the chain that answered in place of the one asked for; `served` is the provider's own word.
    A reply that is `reused` costs nothing now: `cost` is then what it cost when it was made.
    """

    type: Literal["call_finished"] = "call_finished"
    step: str
    role: str
    asked: str
    served: str
    by: str | None = None
    digest: str
    usage: Usage
    cost: Money | None
    latency: float
    first_token: float | None
    finish_reason: FinishReason
    reused: Reuse | None = None


class CallFailed(EventBase):
    """A call ended without a reply."""

    type: Literal["call_failed"] = "call_failed"
    step: str
    role: str
    model: str
    failure: Failure


class CallCancelled(EventBase):
    """A call was given up while under way: its stage ran out of time, the run failed elsewhere or was stopped."""

    type: Literal["call_cancelled"] = "call_cancelled"
    step: str
    role: str
    model: str


class ItemFinished(EventBase):
    """An item is done with a stage, with a value or a failure."""

    type: Literal["item_finished"] = "item_finished"
    failure: Failure | None = None


class Noted(EventBase):
    """Something that the user should know and that stops nothing: a dropped edge, a skipped stage."""

    type: Literal["noted"] = "noted"
    message: str


class Decided(EventBase):
    """A stage takes one of several ways: a route the one named, a cascade the tier whose answer it takes.

    `escalated` is said by a cascade: whether it is another tier than the first one.
    """

    type: Literal["decided"] = "decided"
    decision: str
    reason: str
    confidence: float | None = None
    escalated: bool | None = None


class StageFinished(EventBase):
    """A stage has ended: ok, skipped or failed. `seconds` counts from its first input."""

    type: Literal["stage_finished"] = "stage_finished"
    kind: str
    status: Literal["ok", "skipped", "failed"]
    seconds: float
    failure: Failure | None = None


class RunFinished(EventBase):
    """The run has ended."""

    type: Literal["run_finished"] = "run_finished"
    status: Literal["ok", "partial", "failed"]
    seconds: float
    failure: Failure | None = None


Event = Annotated[
    RunStarted
    | StageStarted
    | StageGrew
    | CallStarted
    | Delta
    | Restarted
    | AttemptFailed
    | AttemptCharged
    | FallbackTaken
    | CallFinished
    | CallFailed
    | CallCancelled
    | ItemFinished
    | Noted
    | Decided
    | StageFinished
    | RunFinished,
    Field(discriminator="type"),
]
Sink = Callable[[EventBase], None]


def to_both(first: Sink, second: Sink | None) -> Sink:
    """A sink whose events go to both, to the first one first; the first itself where there is no second."""
    if second is None:
        return first

    def both(event: EventBase) -> None:
        first(event)
        second(event)

    return both


def event_adapter() -> "TypeAdapter[Event]":
    """Reads events back from JSON."""
    return TypeAdapter(Event)


class Span(NamedTuple):
    """Where in a run the current task is, and where its events go."""

    sink: Sink
    run_id: str
    stage: str = ""
    item: int | None = None
    role: str = ""


span: ContextVar[Span | None] = ContextVar("fusion_span", default=None)


def emit(kind: type[EventBase], **fields: object) -> None:
    """Send an event of this kind from the current place in the run; outside of a run it goes nowhere."""
    here = span.get()
    if here is not None:
        if issubclass(kind, OfCall):
            fields["role"] = here.role
        here.sink(kind(run_id=here.run_id, stage=here.stage, item=here.item, **fields))
