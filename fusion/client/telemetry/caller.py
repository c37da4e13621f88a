"""Caller: the span of another program that asked for a run, as the headers of its request name it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_TRACING: Final = "fusion.client.telemetry.telemetry"


@contextmanager
def within_caller(headers: Mapping[str, str]) -> Iterator[None]:
    """Make the span that a request names in `traceparent` the parent of runs that start here, if runs are traced.

    A span that is current already stays so.
    """
    if _TRACING not in sys.modules:
        yield
        return
    from opentelemetry import context, propagate, trace

    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
