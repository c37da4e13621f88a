"""Providers of traces and metrics: the user's own ones, else those that the `OTEL_` variables describe."""

import atexit
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as OwnMeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider as OwnTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import TracerProvider

from fusion import __version__
from fusion.client.telemetry.calls import CallSpans, finished
from fusion.core.config import variable
from fusion.core.errors import UsageError, close_names

PATIENCE: Final = 1.0
"""Seconds that the end of a process waits for its last spans."""
_QUEUE: Final = 16_384
"""Spans that wait to be sent at most, unless OTEL_BSP_MAX_QUEUE_SIZE says another number."""
_LOCAL: Final = "http://localhost:4318"
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class Providers(NamedTuple):
    """Providers of traces and metrics, and what makes the spans of calls if the tracer need not."""

    traces: TracerProvider
    metrics: MeterProvider
    calls: CallSpans | None = None


def providers_of(given: TracerProvider | None) -> Providers:
    """Return the providers that runs use: the given one, else those set by the program, else our own.

    Raises UsageError for a variable with a value that cannot be used.
    """
    if given is not None:
        return Providers(given, metrics.get_meter_provider())
    set_here = trace.get_tracer_provider()
    if not isinstance(set_here, trace.ProxyTracerProvider):
        return Providers(set_here, metrics.get_meter_provider())
    return _own(os.getpid()).providers


def send(seconds: float = PATIENCE) -> bool:
    """Send all spans and metrics that wait, and close our own providers; return False if it took too long."""
    if _own.cache_info().currsize == 0:
        return True
    return _own(os.getpid()).close(seconds)


def collector() -> str:
    """Return the address of the collector, without a password in it."""
    given = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") or _LOCAL
    try:
        address = urlsplit(given)
        return f"{address.scheme}://{address.hostname}{f':{address.port}' if address.port else ''}{address.path}"
    except ValueError:
        return "the collector"


class OwnProviders:
    """Our own providers, which end with the process, for these exporters or those that the variables name."""

    def __init__(
        self, spans: Sequence[SpanExporter] | None = None, figures: Sequence[MetricExporter] | None = None
    ) -> None:
        if spans is None:
            spans = _exporters("traces", lambda: ConsoleSpanExporter(out=sys.stderr))
        if figures is None:
            figures = _exporters("metrics", lambda: ConsoleMetricExporter(out=sys.stderr))
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())  # or faults would go to standard error
        resource = Resource.create({"service.name": variable("OTEL_SERVICE_NAME") or "fusion", **_VERSION})
        self.unsent = 0
        self._traces = OwnTracerProvider(resource=resource, shutdown_on_exit=False)
        size = None if variable("OTEL_BSP_MAX_QUEUE_SIZE") else _QUEUE
        processors = [BatchSpanProcessor(_Watched(exporter, self), max_queue_size=size) for exporter in spans]
        for processor in processors:
            self._traces.add_span_processor(processor)
        self._calls = finished(self._traces, processors)
        readers: list[MetricReader] = [PeriodicExportingMetricReader(exporter) for exporter in figures]
        self._metrics = OwnMeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        self._asked, self._closed = threading.Event(), threading.Event()
        # Started ahead: an interpreter that ends starts no thread.
        threading.Thread(target=self._close_when_asked, name="fusion-telemetry", daemon=True).start()
        atexit.register(self.close, PATIENCE)

    @property
    def providers(self) -> Providers:
        return Providers(self._traces, self._metrics, self._calls)

    def close(self, seconds: float) -> bool:
        """Send what waits, for at most this time. A second call returns at once."""
        if self._asked.is_set():
            return self._closed.is_set() and not self.unsent
        self._asked.set()
        return self._closed.wait(seconds) and not self.unsent

    def _close_when_asked(self) -> None:
        self._asked.wait()
        metrics_closed = threading.Thread(target=self._metrics.shutdown, daemon=True)
        metrics_closed.start()
        self._traces.shutdown()
        metrics_closed.join()
        self._closed.set()


_VERSION: Final = {"service.version": __version__}
_own: Final = functools.lru_cache(maxsize=1)(lambda process: OwnProviders())


class _Watched(SpanExporter):
    """An exporter whose lost spans are counted."""

    def __init__(self, inner: SpanExporter, owner: OwnProviders) -> None:
        self._inner = inner
        self._owner = owner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._owner.unsent += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _exporters(signal: str, console: Callable[[], Any]) -> list[Any]:
    """Return the exporters that `OTEL_TRACES_EXPORTER` or `OTEL_METRICS_EXPORTER` names; by default OTLP."""
    name = f"OTEL_{signal.upper()}_EXPORTER"
    words = [word.strip() for word in (variable(name) or "otlp").split(",") if word.strip()]
    return [
        console() if word == "console" else _exporter(signal, name, word) for word in words if word.lower() != "none"
    ]


def _exporter(signal: str, variable_name: str, word: str) -> Any:
    entry = _otlp(signal) if word == "otlp" else word
    group = entry_points(group=f"opentelemetry_{signal}_exporter")
    if entry not in group.names:
        known = {"otlp", "none", *group.names}
        what = f"{word!r} with the protocol {_protocol(signal)!r}" if word == "otlp" else repr(word)
        raise UsageError(
            f"{variable_name}: no exporter {what} is installed{close_names(word, known - {word})}; install its "
            "package, or give `otlp`, `console` or `none`"
        )
    try:
        return group[entry].load()()
    except Exception as error:
        raise UsageError(f"{variable_name}: the exporter {word!r} cannot be made: {error}") from error


def _protocol(signal: str) -> str:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    return variable(own, "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"


def _otlp(signal: str) -> str:
    return _OTLP.get(_protocol(signal), _protocol(signal))
