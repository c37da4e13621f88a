"""Events: the progress of a run as one discriminated union, and the Sink that receives them.

The live view, `--events`, receipts and histories read these events; there is no other progress report. Seconds are
floats, money is a Decimal of US dollars, and `model`, `asked` and `by` are model ids.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache, partial
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from fusion.core.types import (
    AskedFor,
    Balance,
    Effect,
    Failure,
    FinishReason,
    ItemCost,
    Money,
    Reuse,
    StoppedBy,
    Usage,
    Value,
    Verdict,
    Via,
    Waited,
)


class EventBase(Value):
    """Fields of every event. `stage` is a path such as `review/revise`; `item` is an index; `at` is in UTC."""

    run_id: str = ""
    stage: str = ""
    item: int | None = None
    at: datetime = Field(default_factory=partial(datetime.now, UTC))


class RunStarted(EventBase):
    """A run starts or resumes.

    `roles` maps each role to the id of its first model, `stages` each stage to its kind. `session` counts the times
    the run was started or resumed, from 1. `parent` is the id of the run whose finished calls are reused, if any.
    `budgets` are those of the store that it is within, with what is left of them.
    """

    type: Literal["run_started"] = "run_started"
    pipeline: str
    profile: str
    roles: dict[str, str]
    stages: dict[str, str]
    session: int = 1
    parent: str | None = None
    tags: dict[str, str] = Field(default={})
    budgets: tuple[Balance, ...] = ()


class OfCall(EventBase):
    """Base of events about a call; `role` is the role of the model, `step` the step of the call within its item."""

    role: str = ""
    step: str = ""


class StageStarted(EventBase):
    """A stage receives its first input. `kind` is the kind of the stage."""

    type: Literal["stage_started"] = "stage_started"
    kind: str


class RoundStarted(EventBase):
    """A loop starts a round of its body: `number` from 1, of at most `most`.

    Events of the stages in it name them by the round, as in `refine/2/draft`.
    """

    type: Literal["round_started"] = "round_started"
    number: int
    most: int


class StageGrew(EventBase):
    """A stage has received `known` items so far; `final` if no more follow.

    `title` is the title of the newest item, such as a plan's subtask; empty if it has none.
    """

    type: Literal["stage_grew"] = "stage_grew"
    known: int
    final: bool = False
    title: str = ""


class CallStarted(EventBase):
    """A call starts; it may wait for its budget and a slot before it is sent.

    `step` is the step of the call within its item, `digest` the SHA-256 (hex) of its content.
    """

    type: Literal["call_started"] = "call_started"
    step: str
    role: str
    model: str
    digest: str


class Delta(EventBase):
    """A chunk of streamed text from a stage that writes the answer of the run."""

    type: Literal["delta"] = "delta"
    step: str
    text: str


class Restarted(EventBase):
    """The streamed reply starts over; discard the chunks received so far."""

    type: Literal["restarted"] = "restarted"
    step: str


class AttemptFailed(OfCall):
    """An attempt of a call failed.

    `attempt` counts from 1. `wait` is the backoff before the next attempt in seconds; None if there is none.
    """

    type: Literal["attempt_failed"] = "attempt_failed"
    model: str
    attempt: int
    failure: Failure
    wait: float | None = None


class Paused(OfCall):
    """Calls to a model wait for its rate limit; sent once a pause to each run that waits.

    `rate` is in requests a second; None if only a time is known, such as that of a Retry-After. `wait` is the time
    until the next request may be sent, in seconds.
    """

    type: Literal["paused"] = "paused"
    model: str
    rate: float | None = None
    wait: float


class AttemptCharged(OfCall):
    """A charge for an attempt without a usable reply that the provider may have billed.

    `usage` and `cost` are upper bounds if no reply arrived; `cost` is None if the price is unknown. `hedge` is set
    for an attempt that lost against a second one for the same call.
    """

    type: Literal["attempt_charged"] = "attempt_charged"
    model: str
    usage: Usage
    cost: Money | None = None
    hedge: bool = False


class HedgeSent(OfCall):
    """A call to `model` took longer than `after` seconds, and was sent to `rival` too; the first answer wins."""

    type: Literal["hedge_sent"] = "hedge_sent"
    model: str
    rival: str
    after: float


class FallbackTaken(OfCall):
    """The model `failed` of a chain failed; the call falls back to `model`. `asked` is the first of the chain."""

    type: Literal["fallback_taken"] = "fallback_taken"
    asked: str
    failed: str
    model: str
    failure: Failure


class BatchSubmitted(OfCall):
    """Calls of a stage are in a batch. `calls` of its `rows` are of this stage; `batch` is the provider's id.

    `joined` is set for a batch that an earlier session of the run submitted.
    """

    type: Literal["batch_submitted"] = "batch_submitted"
    model: str
    batch: str
    calls: int
    rows: int
    joined: bool = False


class BatchProgressed(OfCall):
    """A batch goes on: of its `rows`, so many are `done` or `failed`."""

    type: Literal["batch_progressed"] = "batch_progressed"
    model: str
    batch: str
    done: int
    failed: int
    rows: int


class BatchEnded(OfCall):
    """A batch is over for calls of a stage, after so many seconds.

    `status` is that of the provider; "refused" for a batch that was not taken, "late" for calls whose deadline has
    passed, "lost" for a batch that can no longer be read. Of the `calls`, `answered` have their reply; the others go
    into the next batch or to the live API. `message` is the reason, if any.
    """

    type: Literal["batch_ended"] = "batch_ended"
    model: str
    batch: str
    status: Literal["ended", "failed", "expired", "cancelled", "refused", "late", "lost"]
    calls: int
    answered: int
    seconds: float
    message: str = ""


class BatchAttempt(OfCall):
    """The worst case of a call in a batch counts as spent, or no longer.

    It is `left` when the session ends before the batch does, and counts; it is `joined` when a later session waits
    for that batch again, and the charge is taken back.
    """

    type: Literal["batch_attempt"] = "batch_attempt"
    model: str
    state: Literal["left", "joined"]
    usage: Usage
    cost: Money | None = None


class OutageChanged(EventBase):
    """The circuit breaker of a model opened, lets a probe through, or closed.

    `seconds` is the time until the next probe, or the duration of the outage so far if the breaker probes or closed.
    `failure` is the last one; None once the breaker is closed.
    """

    type: Literal["outage_changed"] = "outage_changed"
    model: str
    state: Literal["open", "probing", "closed"]
    seconds: float
    failure: Failure | None = None


class CallFinished(EventBase):
    """A call received its reply.

    `cost` is None if the price is unknown. `asked` is the requested model, `by` the fallback that replied in its
    place, `served` the name in the provider's response. `latency` and `first_token` are seconds since the request was
    sent that got the reply; `waited` is the time before it, None if the call did not wait. `reused` is set if the
    reply comes from the journal or a cache: it is free now, and `cost` and `latency` are the original ones.
    `batch_saved` is set for a reply that came in a batch: the dollars that it saved over a live call.
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
    waited: Waited | None = None
    batch_saved: Money | None = None


class CallFailed(EventBase):
    """A call ended without a reply, after all retries and fallbacks. `waited` is its time by cause."""

    type: Literal["call_failed"] = "call_failed"
    step: str
    role: str
    model: str
    failure: Failure
    waited: Waited | None = None


class CallCancelled(EventBase):
    """A call was cancelled in flight: its stage timed out, or the run failed or was stopped.

    `waited` is the time that it waited; the rest of its time an attempt was under way.
    """

    type: Literal["call_cancelled"] = "call_cancelled"
    step: str
    role: str
    model: str
    waited: Waited | None = None


class ToolStarted(EventBase):
    """A tool is called. `step` is the step of the call within its item.

    `arguments` is the beginning of its arguments as JSON; empty where prompts are not kept.
    """

    type: Literal["tool_started"] = "tool_started"
    step: str
    tool: str
    effect: Effect
    arguments: str = ""


class ToolFinished(EventBase):
    """A call of a tool ended after so many seconds, with a result of `size` characters, before it was cut.

    `failure` is set for a call that failed, was late or had unfit arguments; the model reads it. `status` is
    "cancelled" if the stage or run ended first, or may not repeat the call. `reused` is set for a result out of the
    journal: the tool was not called again, and `seconds` are the original ones.
    """

    type: Literal["tool_finished"] = "tool_finished"
    step: str
    tool: str
    effect: Effect
    status: Literal["ok", "failed", "cancelled"]
    seconds: float
    size: int = 0
    failure: Failure | None = None
    reused: bool = False
    arguments: str = ""


class CommandFinished(EventBase):
    """A command in the sandbox ended after so many seconds.

    `program` is its first word, `by` the sandbox that ran it. A negative `code` is the signal that ended it;
    `stopped_by` is the limit that stopped it, if any. `reused` is set for the end of an equal command that ran
    before: it did not run again, and `seconds` are the original ones.
    """

    type: Literal["command_finished"] = "command_finished"
    program: str
    by: str
    code: int
    stopped_by: StoppedBy | None = None
    seconds: float
    reused: bool = False


class ItemFinished(EventBase):
    """A stage finished an item, with a value or a failure.

    A cascade or route that works item by item adds its decision: the `tier` that answered or the name of the `route`,
    the `reason`, the `confidence` and `agreement` from 0 to 1, if known, and the `cost` of the item's calls.
    """

    type: Literal["item_finished"] = "item_finished"
    failure: Failure | None = None
    tier: int | None = None
    route: str | None = None
    reason: str | None = None
    confidence: float | None = None
    agreement: float | None = None
    cost: ItemCost | None = None


class Noted(EventBase):
    """A notice for the user that does not stop the run, such as a skipped stage."""

    type: Literal["noted"] = "noted"
    message: str


class Decided(EventBase):
    """A stage chose a branch: `decision` is the name of a route, the tier of a cascade, or the last round of a loop.

    `reason` is for people; `confidence` is from 0 to 1, if known. `escalated` is set by a cascade: True if the tier
    is not the first.
    """

    type: Literal["decided"] = "decided"
    decision: str
    reason: str
    confidence: float | None = None
    escalated: bool | None = None


class GateOpened(EventBase):
    """A stage asks a person, and the run does all else meanwhile. `text` is what is shown.

    `ask` is the form of the answer: approve, edit or data. `deadline` is in UTC, None without one.
    """

    type: Literal["gate_opened"] = "gate_opened"
    title: str = ""
    who: str = ""
    ask: AskedFor
    text: str
    deadline: datetime | None = None


class GateAnswered(EventBase):
    """A person answered a gate, or its deadline passed. `by` is the person, `via` the way; `answered` is in UTC."""

    type: Literal["gate_answered"] = "gate_answered"
    answer: Verdict
    by: str
    via: Via
    answered: datetime


class StageFinished(EventBase):
    """A stage ended, or waits for a person. `seconds` counts from its first input."""

    type: Literal["stage_finished"] = "stage_finished"
    kind: str
    status: Literal["ok", "skipped", "failed", "waiting"]
    seconds: float
    failure: Failure | None = None


class RunFinished(EventBase):
    """The run ended, or waits for a person; no event of it follows. `seconds` counts from its start."""

    type: Literal["run_finished"] = "run_finished"
    status: Literal["ok", "partial", "failed", "waiting"]
    seconds: float
    failure: Failure | None = None


class MapStarted(EventBase):
    """A map starts or resumes: one pipeline over many rows, each of them a run. `run_id` is the id of the map.

    `expected` is the number of rows in the inputs, None if it is unknown. `passes` counts the times the map was
    started, from 1. `stages` maps each stage of the pipeline to its kind. `budgets` are those of the store that cover
    the map, with what is left of them.
    """

    type: Literal["map_started"] = "map_started"
    pipeline: str
    profile: str
    source: str
    output: str
    expected: int | None = None
    passes: int = 1
    concurrency: int
    roles: dict[str, str]
    stages: dict[str, str]
    tags: dict[str, str] = Field(default={})
    budgets: tuple[Balance, ...] = ()


class RowFinished(EventBase):
    """A row of a map is done; `run_id` is that of its run. `position` is its place in the inputs, from 1.

    `kept` is True for a row that was done in an earlier pass, with its cost then. `fraction` is the share of the
    inputs read so far, 0 to 1, None if it is unknown.
    """

    type: Literal["row_finished"] = "row_finished"
    map: str
    number: int
    key: str
    position: int
    status: Literal["ok", "partial", "failed"]
    kept: bool = False
    usd: Money | None = None
    unknown_calls: int = 0
    seconds: float = 0.0
    fraction: float | None = None
    failure: Failure | None = None


class MapFinished(EventBase):
    """A map ends. `run_id` is the id of the map; the counts are those of the rows in its inputs.

    `waiting` are those without an end; `held` of them wait for a person.
    """

    type: Literal["map_finished"] = "map_finished"
    status: Literal["ok", "partial", "failed", "interrupted", "waiting"]
    ok: int
    partial: int
    failed: int
    waiting: int
    held: int = 0
    seconds: float
    failure: Failure | None = None


Event = Annotated[
    RunStarted
    | StageStarted
    | RoundStarted
    | StageGrew
    | CallStarted
    | Delta
    | Restarted
    | AttemptFailed
    | Paused
    | AttemptCharged
    | FallbackTaken
    | HedgeSent
    | BatchSubmitted
    | BatchProgressed
    | BatchEnded
    | BatchAttempt
    | OutageChanged
    | CallFinished
    | CallFailed
    | CallCancelled
    | ToolStarted
    | ToolFinished
    | CommandFinished
    | ItemFinished
    | Noted
    | Decided
    | GateOpened
    | GateAnswered
    | StageFinished
    | RunFinished
    | MapStarted
    | RowFinished
    | MapFinished,
    Field(discriminator="type"),
]
Sink = Callable[[EventBase], None]


def to_both(first: Sink, second: Sink | None) -> Sink:
    """Return a sink that passes each event to `first`, then to `second` if there is one."""
    if second is None:
        return first

    def both(event: EventBase) -> None:
        first(event)
        second(event)

    return both


@cache
def event_adapter() -> "TypeAdapter[Event]":
    """Return the adapter that validates events read from JSON."""
    return TypeAdapter(Event)


class Span(NamedTuple):
    """Position of the current task in its run, and the sink of its events."""

    sink: Sink
    run_id: str
    stage: str = ""
    item: int | None = None
    role: str = ""
    step: str = ""


span: ContextVar[Span | None] = ContextVar("fusion_span", default=None)


def emit(kind: type[EventBase], **fields: object) -> None:
    """Send an event of this class with the position of the current span; outside a run, do nothing."""
    here = span.get()
    if here is not None:
        if issubclass(kind, OfCall):
            fields.update(role=here.role, step=here.step)
        here.sink(kind(run_id=here.run_id, stage=here.stage, item=here.item, **fields))
