"""Telemetry: observes runs and maps, and makes spans and metrics of their events."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, TraceFlags, Tracer

from fusion import __version__
from fusion.client.telemetry import names
from fusion.client.telemetry.calls import SCOPE, CallSpans, by_tracer
from fusion.client.telemetry.content import Contents
from fusion.client.telemetry.metrics import Metrics, metrics_of
from fusion.client.telemetry.providers import Providers
from fusion.client.telemetry.spans import RunSpans
from fusion.client.telemetry.values import encodable, nanoseconds
from fusion.core.events import (
    AttemptCharged,
    CallCancelled,
    CallFailed,
    CallFinished,
    EventBase,
    MapFinished,
    MapStarted,
    RunFinished,
    Sink,
)
from fusion.core.log import LOG
from fusion.engine.durable import Observation, Observer, Session
from fusion.engine.run_spec import RunSpec

_TRACE: Final = "trace"
"""Name of the decision that holds the first trace of a run."""


class Telemetry(Observer):
    """Traces runs. The span of a run has the caller's current span as its parent.

    The runs of rows of a map have traces of their own, linked to the span of the map: one trace of many thousand
    rows is more than trace stores take.
    """

    def __init__(
        self,
        tracer: Tracer,
        calls: CallSpans,
        metrics: Metrics,
        *,
        content: bool,
        note: str | None,
        row_of: "_Map | None" = None,
    ) -> None:
        self._tracer = tracer
        self._calls = calls
        self._metrics = metrics
        self._content = content
        self._note = note
        self._map = row_of

    @classmethod
    def of(cls, providers: Providers, *, content: bool, note: str | None) -> "Telemetry":
        """Return the telemetry that goes to these providers; `note` is said in each run."""
        tracer = providers.traces.get_tracer(SCOPE, __version__)
        calls = providers.calls or by_tracer(tracer)
        return cls(tracer, calls, metrics_of(providers.metrics), content=content, note=note)

    def of_run(self, spec: RunSpec, session: Session) -> Observation | None:
        if self._note is not None and self._map is None:
            session.note([self._note])
        counts = _Counts(self._metrics, spec.pipeline.name)
        try:
            span = self._run_span(spec, session)
        except Exception as error:  # noqa: BLE001 - a sampler or processor of the user's; the run goes on
            LOG.warning("run %s is not traced: %s: %s", session.run_id, type(error).__name__, error)
            return Observation(guarded(counts.take, session.run_id))
        if not span.is_recording():
            return Observation(guarded(counts.take, session.run_id))
        contents = Contents() if self._content else None
        spans = RunSpans(self._tracer, self._calls, span, session.run_id, contents)

        def take(event: EventBase) -> None:
            spans.take(event)
            counts.take(event)

        return Observation(guarded(take, session.run_id), None if contents is None else contents.hear)

    def of_map(self, started: MapStarted) -> tuple[Observer, Sink | None]:
        span = self._tracer.start_span(
            f"map {encodable(started.pipeline)}",
            attributes={
                names.MAP: encodable(started.run_id),
                names.PIPELINE: encodable(started.pipeline),
                names.PROFILE: encodable(started.profile),
                **_tags(started.tags),
            },
            start_time=nanoseconds(started.at),
        )
        own = _Map(span, started.run_id)
        rows = Telemetry(self._tracer, self._calls, self._metrics, content=self._content, note=self._note, row_of=own)
        return rows, guarded(own.take, started.run_id)

    def _run_span(self, spec: RunSpec, session: Session) -> Span:
        origin, journal = session.origin, session.journal
        attributes: dict[str, Any] = {
            names.OPERATION: names.INVOKE_AGENT,
            names.AGENT: encodable(spec.pipeline.name),
            names.PIPELINE: encodable(spec.pipeline.name),
            names.PROFILE: encodable(spec.profile),
            names.RUN: session.run_id,
            names.SESSION: origin.session,
            **_tags(dict(origin.tags)),
        }
        if origin.parent is not None:
            attributes[names.PARENT] = origin.parent
        earlier = [_kept(journal.kept("", None, f"{_TRACE} {one}")) for one in (session.run_id, origin.parent) if one]
        links = [Link(context) for context in earlier if context is not None]
        context = get_current()
        if self._map is not None:
            attributes[names.MAP] = encodable(self._map.map_id)
            links.append(Link(self._map.span.get_span_context()))
            context = Context()
        span = self._tracer.start_span(
            f"{names.INVOKE_AGENT} {encodable(spec.pipeline.name)}",
            context=context,
            attributes=attributes,
            links=links,
        )
        here = span.get_span_context()
        if here.is_valid and here.trace_flags.sampled:
            ids = [trace.format_trace_id(here.trace_id), trace.format_span_id(here.span_id)]
            journal.keep("", None, f"{_TRACE} {session.run_id}", ids)
        return span


class _Map:
    """The span of a map, which its rows are linked to."""

    def __init__(self, span: Span, map_id: str) -> None:
        self.span = span
        self.map_id = map_id

    def take(self, event: EventBase) -> None:
        if not isinstance(event, MapFinished):
            return
        rows = {"ok": event.ok, "partial": event.partial, "failed": event.failed, "waiting": event.waiting}
        self.span.set_attributes({f"{names.ROWS}{name}": count for name, count in rows.items()})
        self.span.set_attribute(names.STATUS, event.status)
        if event.failure is not None:
            self.span.set_attribute(names.ERROR, event.failure.reason)
            self.span.set_status(Status(StatusCode.ERROR, event.failure.reason))
        self.span.end(nanoseconds(event.at))


class _Counts:
    """Counts the calls of one run, and the run."""

    def __init__(self, metrics: Metrics, pipeline: str) -> None:
        self._metrics = metrics
        self._pipeline = pipeline

    def take(self, event: EventBase) -> None:
        receive = _RECEIVERS.get(type(event))
        if receive is not None:
            receive(self, event)

    def _finished(self, event: CallFinished) -> None:
        model = event.by or event.asked
        if event.reused is None:
            self._metrics.call_ended(model, "ok", latency=event.latency, cost=event.cost, usage=event.usage)
        else:
            self._metrics.call_ended(model, "reused")

    def _failed(self, event: CallFailed) -> None:
        self._metrics.call_ended(event.model, "failed", reason=event.failure.reason)

    def _cancelled(self, event: CallCancelled) -> None:
        self._metrics.call_ended(event.model, "cancelled")

    def _charged(self, event: AttemptCharged) -> None:
        self._metrics.call_ended(event.model, "charged", cost=event.cost, usage=event.usage, calls=0)

    def _run_finished(self, event: RunFinished) -> None:
        self._metrics.run_ended(self._pipeline, event.status, event.seconds)


_RECEIVERS: Final[Mapping[type[EventBase], Callable[[_Counts, Any], None]]] = {
    CallFinished: _Counts._finished,
    CallFailed: _Counts._failed,
    CallCancelled: _Counts._cancelled,
    AttemptCharged: _Counts._charged,
    RunFinished: _Counts._run_finished,
}


def guarded(take: Sink, run_id: str) -> Sink:
    """Return a sink that receives no more events after a fault of its own, and raises none."""
    faults: list[Exception] = []

    def sink(event: EventBase) -> None:
        if faults:
            return
        try:
            take(event)
        except Exception as error:  # noqa: BLE001 - a trace never fails a run
            faults.append(error)
            LOG.warning("run %s is traced no further: %s: %s", run_id, type(error).__name__, error)

    return sink


def _tags(tags: dict[str, str]) -> dict[str, str]:
    return {f"{names.TAG}{encodable(name, 100)}": encodable(value) for name, value in tags.items()}


def _kept(value: Any) -> SpanContext | None:
    """Return the context of a span from its ids as they are kept with a run."""
    if not (isinstance(value, Sequence) and len(value) == 2):
        return None
    trace_id, span_id = value
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1))
