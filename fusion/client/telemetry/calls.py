"""Spans of calls, each made at once when its call has ended.

A tracer makes a span to be changed while work goes on: ten times the CPU of one whose content is known. So providers
of our own get finished spans, whose sampling follows from their run's; those of others are asked as usual.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, Tracer, get_current_span

from fusion import __version__
from fusion.client.telemetry.values import nanoseconds
from fusion.core.config import variable

Happened = tuple[str, datetime, dict[str, Any]]
"""Name, time and attributes of an event within a call."""
SCOPE: Final = "fusion"
"""Name of the scope of all spans."""
_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
)
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
"""Samplers that decide on a call as on its run."""


class EndedCall(NamedTuple):
    """A call that has ended, as a span. `began` and `ended` are nanoseconds since 1970; no `failed`: it went well."""

    name: str
    within: Context
    attributes: dict[str, Any]
    happened: Sequence[Happened]
    began: int
    ended: int
    failed: str | None = None


CallSpans = Callable[[EndedCall], None]
"""Makes the span of a call below a recorded span."""


def by_tracer(tracer: Tracer) -> CallSpans:
    """Return what has a tracer make the span of a call."""

    def make(call: EndedCall) -> None:
        span = tracer.start_span(
            call.name,
            context=call.within,
            kind=SpanKind.CLIENT,
            attributes=call.attributes,
            start_time=call.began,
        )
        for name, at, attributes in call.happened:
            span.add_event(name, attributes, nanoseconds(at))
        if call.failed is not None:
            span.set_status(Status(StatusCode.ERROR, call.failed))
        span.end(call.ended)

    return make


def finished(provider: SdkProvider, processors: Sequence[SpanProcessor]) -> CallSpans | None:
    """Return what gives finished spans to the processors of a provider, which are those that add nothing to a span.

    None if the `OTEL_` variables bound attributes or choose a sampler that may decide on a call by itself.
    """
    sampler = (variable("OTEL_TRACES_SAMPLER") or "always_on").removeprefix("parentbased_")
    if sampler not in _SAMPLERS or any(variable(name) for name in _LIMITS):
        return None
    scope, fine = InstrumentationScope(SCOPE, __version__), Status()

    def make(call: EndedCall) -> None:
        above = get_current_span(call.within).get_span_context()
        span = ReadableSpan(
            call.name,
            context=SpanContext(
                above.trace_id,
                provider.id_generator.generate_span_id(),
                is_remote=False,
                trace_flags=above.trace_flags,
            ),
            parent=above,
            resource=provider.resource,
            attributes=call.attributes,
            events=[Event(name, attributes, nanoseconds(at)) for name, at, attributes in call.happened],
            kind=SpanKind.CLIENT,
            status=fine if call.failed is None else Status(StatusCode.ERROR, call.failed),
            start_time=call.began,
            end_time=call.ended,
            instrumentation_scope=scope,
        )
        for processor in processors:
            processor.on_end(span)

    return make
