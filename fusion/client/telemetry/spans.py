"""Spans of one run, made from its events after the fact: the run, its stages, its calls of models and of tools."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from fusion.client.telemetry import names
from fusion.client.telemetry.calls import CallSpans, EndedCall, Happened
from fusion.client.telemetry.content import Contents
from fusion.client.telemetry.values import encodable, model_name, nanoseconds
from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    BatchEnded,
    BatchSubmitted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CommandFinished,
    Decided,
    EventBase,
    FallbackTaken,
    HedgeSent,
    OfCall,
    OutageChanged,
    Paused,
    RunFinished,
    StageFinished,
    StageStarted,
    ToolFinished,
)
from fusion.core.types import Failure, Usage

_Attributes = dict[str, Any]
_Place = tuple[str, int | None, str]


@dataclass(slots=True)
class _Open:
    """A call under way, with what has happened to it so far."""

    started: CallStarted
    happened: list[Happened] = field(default_factory=list)
    retries: int = 0


class _Kind(NamedTuple):
    """Calls of one stage and role to one model: the name of their spans, and the attributes that they share."""

    name: str
    attributes: _Attributes


@dataclass(slots=True)
class _Totals:
    """Sums over the calls of a run that it paid for itself."""

    calls: int = 0
    retries: int = 0
    usd: Decimal = Decimal(0)
    unpriced: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    reasoning: int = 0

    def add(self, cost: Decimal | None, usage: Usage) -> None:
        if cost is None:
            self.unpriced += 1
        else:
            self.usd += cost
        self.tokens_in += usage.input
        self.tokens_out += usage.output
        self.cached += usage.cached_read
        self.reasoning += usage.reasoning

    def attributes(self) -> _Attributes:
        return {
            names.CALLS: self.calls,
            names.RETRIES: self.retries,
            names.COST: float(self.usd),
            names.UNPRICED: self.unpriced,
            names.TOKENS_IN: self.tokens_in,
            names.TOKENS_OUT: self.tokens_out,
            names.TOKENS_CACHED: self.cached,
            names.TOKENS_REASONING: self.reasoning,
        }


class RunSpans:
    """Makes the spans of one run below the span `run`, which it ends. `contents` holds prompts and replies, if asked.

    Messages of failures may quote a prompt or a reply: without `contents`, spans name the kind of a failure alone.
    """

    def __init__(self, tracer: Tracer, calls: CallSpans, run: Span, run_id: str, contents: Contents | None) -> None:
        self._tracer = tracer
        self._make_call = calls
        self._run = run
        self._run_id = run_id
        self._contents = contents
        self._within: dict[str, Context] = {"": trace.set_span_in_context(run, Context())}
        self._stages: dict[str, Span] = {}
        self._calls: dict[_Place, _Open] = {}
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._totals = _Totals()

    def take(self, event: EventBase) -> None:
        """Receive an event of the run."""
        receive = _RECEIVERS.get(type(event))
        if receive is not None:
            receive(self, event)

    # Stages.

    def _stage_started(self, event: StageStarted) -> None:
        self._close(event.stage, event.at)
        span = self._tracer.start_span(
            f"stage {encodable(event.stage)}",
            context=self._parent(event.stage.rpartition("/")[0]),
            attributes={
                names.STAGE: encodable(event.stage),
                names.KIND: encodable(event.kind),
                names.RUN: self._run_id,
            },
            start_time=nanoseconds(event.at),
        )
        self._stages[event.stage] = span
        self._within[event.stage] = trace.set_span_in_context(span, Context())

    def _stage_finished(self, event: StageFinished) -> None:
        span = self._stages.get(event.stage)
        if span is None:  # it is skipped: no input came
            self._stage_started(StageStarted(stage=event.stage, kind=event.kind, at=event.at))
            span = self._stages[event.stage]
        span.set_attribute(names.STATUS, event.status)
        self._fail(span, event.failure)
        self._close(event.stage, event.at)

    def _close(self, stage: str, at: datetime) -> None:
        span = self._stages.pop(stage, None)
        if span is not None:
            span.end(nanoseconds(at))

    def _parent(self, stage: str) -> Context:
        """Return the context of a stage's span, or of the nearest one above it."""
        while stage not in self._within:
            stage = stage.rpartition("/")[0]
        return self._within[stage]

    def _span_at(self, stage: str) -> Span:
        return trace.get_current_span(self._parent(stage))

    # Calls.

    def _call_started(self, event: CallStarted) -> None:
        self._calls[event.stage, event.item, event.step] = _Open(event)

    def _happened(self, name: str, event: OfCall, attributes: _Attributes) -> _Open | None:
        """Keep what happens to a call for its span; what belongs to no open call goes to the stage."""
        call = self._calls.get((event.stage, event.item, event.step)) if event.step else None
        if call is None:
            self._span_at(event.stage).add_event(name, attributes, nanoseconds(event.at))
        else:
            call.happened.append((name, event.at, attributes))
        return call

    def _attempt_failed(self, event: AttemptFailed) -> None:
        attributes: _Attributes = {
            names.REQUEST_MODEL: model_name(event.model).name,
            names.ERROR: event.failure.reason,
            names.ATTEMPT: event.attempt,
        }
        if event.wait is not None:
            attributes[names.BACKOFF] = event.wait
        call = self._happened("attempt failed", event, self._with_words(attributes, event.failure))
        if event.wait is not None:
            self._totals.retries += 1
            if call is not None:
                call.retries += 1

    def _fallback(self, event: FallbackTaken) -> None:
        attributes = {
            names.FAILED: encodable(event.failed),
            names.REQUEST_MODEL: model_name(event.model).name,
            names.ERROR: event.failure.reason,
        }
        self._happened("fallback", event, self._with_words(attributes, event.failure))

    def _hedge(self, event: HedgeSent) -> None:
        self._happened("hedge", event, {names.RIVAL: encodable(event.rival), names.AFTER: event.after})

    def _paused(self, event: Paused) -> None:
        self._happened("rate limited", event, {names.WAIT: event.wait})

    def _charged(self, event: AttemptCharged) -> None:
        self._totals.add(event.cost, event.usage)
        cost = {} if event.cost is None else {names.COST: float(event.cost)}
        self._happened("attempt charged", event, {names.REQUEST_MODEL: model_name(event.model).name, **cost})

    def _finished(self, event: CallFinished) -> None:
        more: _Attributes = {names.REUSED: event.reused} if event.reused else self._paid(event)
        more[names.RESPONSE_MODEL] = encodable(event.served)
        more[names.FINISH_REASONS] = (event.finish_reason,)
        if event.by is not None:
            more[names.FALLBACK] = encodable(event.by)
        if event.waited is not None:
            more[names.WAITED] = round(sum(vars(event.waited).values()), 6)
        self._end_call(event, event.asked, more)

    def _failed(self, event: CallFailed) -> None:
        self._end_call(event, event.model, {}, event.failure)

    def _cancelled(self, event: CallCancelled) -> None:
        self._end_call(event, event.model, {names.STATUS: "cancelled"})

    def _paid(self, event: CallFinished) -> _Attributes:
        """Count a reply that was paid for now; return its tokens, its dollars and the time to its first chunk."""
        usage = event.usage
        self._totals.add(event.cost, usage)
        found: _Attributes = {names.INPUT_TOKENS: usage.input, names.OUTPUT_TOKENS: usage.output}
        if event.cost is not None:
            found[names.COST] = float(event.cost)
        if usage.cached_read:
            found[names.CACHE_READ] = usage.cached_read
        if usage.cache_write:
            found[names.CACHE_CREATION] = usage.cache_write
        if usage.reasoning:
            found[names.REASONING] = usage.reasoning
        if event.first_token is not None:
            found[names.FIRST_CHUNK] = event.first_token
        return found

    def _end_call(
        self,
        event: CallFinished | CallFailed | CallCancelled,
        asked: str,
        more: _Attributes,
        failure: Failure | None = None,
    ) -> None:
        call = self._calls.pop((event.stage, event.item, event.step), None)
        kind = self._kinds.get((event.stage, event.role, asked)) or self._kind_of(event.stage, event.role, asked)
        more.update(kind.attributes)
        more[names.STEP] = event.step
        if event.item is not None:
            more[names.ITEM] = event.item
        if call is not None:
            more.update(self._found(call))
        self._totals.calls += 1
        if failure is not None:
            more[names.ERROR] = failure.reason
        self._make_call(
            EndedCall(
                kind.name,
                self._parent(event.stage),
                more,
                () if call is None else call.happened,
                nanoseconds(event.at if call is None else call.started.at),
                nanoseconds(event.at),
                None if failure is None else self._words(failure),
            )
        )

    def _found(self, call: _Open) -> _Attributes:
        """Return the retries of a call, and its content if it is asked for."""
        found: _Attributes = {names.RETRIES: call.retries} if call.retries else {}
        if self._contents is not None:
            begun = call.started
            found.update(self._contents.attributes((begun.stage, begun.item, begun.step, begun.digest)))
        return found

    def _kind_of(self, stage: str, role: str, asked: str) -> _Kind:
        provider, model = model_name(asked)
        attributes = {
            names.OPERATION: names.CHAT,
            names.PROVIDER: provider,
            names.REQUEST_MODEL: model,
            names.RUN: self._run_id,
            names.STAGE: stage,
            names.ROLE: role,
        }
        kind = self._kinds[stage, role, asked] = _Kind(f"{names.CHAT} {model}", attributes)
        return kind

    # Calls of tools, and commands.

    def _tool_finished(self, event: ToolFinished) -> None:
        attributes: _Attributes = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL: encodable(event.tool),
            names.EFFECT: event.effect,
            names.STEP: event.step,
            names.STATUS: event.status,
        }
        if self._contents is not None and event.arguments:
            attributes[names.TOOL_ARGUMENTS] = encodable(event.arguments)
        self._act(f"{names.EXECUTE_TOOL} {encodable(event.tool)}", event, attributes, event.failure)

    def _command_finished(self, event: CommandFinished) -> None:
        attributes: _Attributes = {
            names.PROGRAM: encodable(event.program),
            names.SANDBOX: event.by,
            names.EXIT_CODE: event.code,
        }
        if event.stopped_by is not None:
            attributes[names.ERROR] = event.stopped_by
        self._act(f"command {encodable(event.program)}", event, attributes)

    def _act(
        self, name: str, event: ToolFinished | CommandFinished, own: _Attributes, failure: Failure | None = None
    ) -> None:
        """Make the span of an act that has ended; one out of the journal took no time."""
        attributes = {**own, names.RUN: self._run_id, names.STAGE: event.stage}
        if event.item is not None:
            attributes[names.ITEM] = event.item
        if event.reused:
            attributes[names.REUSED] = "journal"
        end = nanoseconds(event.at)
        span = self._tracer.start_span(
            name,
            context=self._parent(event.stage),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            start_time=end - (0 if event.reused else round(event.seconds * 1e9)),
        )
        self._fail(span, failure)
        span.end(end)

    # The run.

    def _decided(self, event: Decided) -> None:
        attributes: _Attributes = {names.DECISION: encodable(event.decision)}
        if event.item is not None:
            attributes[names.ITEM] = event.item
        if event.confidence is not None:
            attributes[names.CONFIDENCE] = event.confidence
        self._span_at(event.stage).add_event("decision", attributes, nanoseconds(event.at))

    def _outage(self, event: OutageChanged) -> None:
        attributes = {names.REQUEST_MODEL: model_name(event.model).name, names.OUTAGE: event.state}
        self._run.add_event("outage", attributes, nanoseconds(event.at))

    def _batch(self, event: BatchSubmitted | BatchEnded) -> None:
        attributes = {names.REQUEST_MODEL: model_name(event.model).name, names.BATCH: encodable(event.batch)}
        name = "batch submitted" if isinstance(event, BatchSubmitted) else "batch ended"
        self._happened(name, event, attributes)

    def _run_finished(self, event: RunFinished) -> None:
        for stage in list(self._stages):
            self._close(stage, event.at)
        self._run.set_attributes({names.STATUS: event.status, **self._totals.attributes()})
        self._fail(self._run, event.failure)
        self._run.end(nanoseconds(event.at))

    def _fail(self, span: Span, failure: Failure | None) -> None:
        if failure is not None:
            span.set_attribute(names.ERROR, failure.reason)
            span.set_status(Status(StatusCode.ERROR, self._words(failure)))

    def _words(self, failure: Failure) -> str:
        return failure.reason if self._contents is None else encodable(failure.message)

    def _with_words(self, attributes: _Attributes, failure: Failure) -> _Attributes:
        return attributes if self._contents is None else {**attributes, names.MESSAGE: encodable(failure.message)}


_RECEIVERS: Final[Mapping[type[EventBase], Callable[[RunSpans, Any], object]]] = {
    StageStarted: RunSpans._stage_started,
    StageFinished: RunSpans._stage_finished,
    CallStarted: RunSpans._call_started,
    AttemptFailed: RunSpans._attempt_failed,
    FallbackTaken: RunSpans._fallback,
    HedgeSent: RunSpans._hedge,
    Paused: RunSpans._paused,
    AttemptCharged: RunSpans._charged,
    CallFinished: RunSpans._finished,
    CallFailed: RunSpans._failed,
    CallCancelled: RunSpans._cancelled,
    ToolFinished: RunSpans._tool_finished,
    CommandFinished: RunSpans._command_finished,
    Decided: RunSpans._decided,
    OutageChanged: RunSpans._outage,
    BatchSubmitted: RunSpans._batch,
    BatchEnded: RunSpans._batch,
    RunFinished: RunSpans._run_finished,
}
