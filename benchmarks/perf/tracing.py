"""Tracing: CPU that traces and metrics add to a call, over the same run without them.

A map of calls to a model that answers at once runs in turn without traces, with spans that go nowhere, with those of
a provider that the program gives, and with spans that a collector in another process receives by OTLP. Figures are of
all threads, exports included. A bare span of the SDK with as many attributes as that of a call is measured in turn
with them, for machines of other speed.

    python -m benchmarks.perf.tracing [--repeat 9] [--calls 1000]
"""

import argparse
import http.server
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import set_span_in_context

from benchmarks.perf.engine import rows
from benchmarks.perf.figures import machine, spread
from fusion import Fusion, InputSpec, Map, Pipeline, ScriptedModel
from fusion.client.telemetry.providers import OwnProviders

PIPELINE = Pipeline(
    name="tracing",
    inputs={"task": InputSpec(description="what"), "rows": InputSpec(default=[])},
    stages={"work": Map(over="inputs.rows")},
    output="work",
)
WAYS = ("off", "recorded", "given", "exported", "bare")
_BARE = {f"an.attribute.{number}": f"value {number}" for number in range(14)}


class Nowhere(SpanExporter):
    """An exporter that drops every span."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Arm:
    """One way to run: without traces, with our own providers for an exporter, or with a provider of the program's."""

    def __init__(self, exporter: SpanExporter | None, *, given: bool = False) -> None:
        self._model = ScriptedModel("a short answer", name="scripted/bulk")
        self._provider: TracerProvider | None = None
        telemetry: bool | TracerProvider = False
        with ExitStack() as stack:
            if exporter is not None and given:
                self._provider = telemetry = TracerProvider(shutdown_on_exit=False)
                self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000))
            elif exporter is not None:
                own = OwnProviders([exporter], []).providers
                assert isinstance(own.traces, TracerProvider)
                self._provider, telemetry = own.traces, True
                stack.enter_context(mock.patch("fusion.client.telemetry.providers.providers_of", return_value=own))
            self._fusion = Fusion(profile="local", roles={"bulk": self._model}, telemetry=telemetry)

    def cpu_of(self, calls: int) -> float:
        """Return CPU seconds of a run of so many calls, until its spans are exported."""
        self._model.requests.clear()
        given = rows(calls)
        began = time.process_time()
        result = self._fusion.complete("the task", pipeline=PIPELINE, inputs={"rows": given})
        if self._provider is not None:
            self._provider.force_flush()
        seconds = time.process_time() - began
        assert len(result.items) == calls
        return seconds

    def close(self) -> None:
        self._fusion.close()


class Bare:
    """Spans of the SDK alone."""

    def __init__(self) -> None:
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=100_000))
        self._tracer = self._provider.get_tracer("bare")

    def cpu_of(self, spans: int) -> float:
        """Return CPU seconds of so many spans, until they are exported."""
        context = set_span_in_context(self._tracer.start_span("parent"))
        began = time.process_time()
        for number in range(spans):
            self._tracer.start_span("a span", context=context, attributes=_BARE, start_time=number).end(number + 1)
        self._provider.force_flush()
        return time.process_time() - began

    def close(self) -> None:
        self._provider.shutdown()


def measure(calls: int, repeat: int, ways: Sequence[str] = WAYS) -> dict[str, list[float]]:
    """Return microseconds of CPU a call by way, measured in turn."""
    with ExitStack() as stack:
        arms = {way: _arm(way, stack) for way in ways}
        for arm in arms.values():
            stack.callback(arm.close)
            arm.cpu_of(10)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeat):
            for way, arm in arms.items():
                taken[way].append(1e6 * arm.cpu_of(calls) / calls)
    return taken


def _arm(way: str, stack: ExitStack) -> Arm | Bare:
    if way == "bare":
        return Bare()
    if way == "exported":
        return Arm(OTLPSpanExporter(endpoint=stack.enter_context(_collector())))
    return Arm(None if way == "off" else Nowhere(), given=way == "given")


def added(taken: dict[str, list[float]], way: str) -> list[float]:
    """Return microseconds a call beyond those of the run without traces, pair by pair."""
    return [one - off for one, off in zip(taken[way], taken["off"], strict=True)]


@contextmanager
def _collector() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.perf.tracing", "--collect"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/traces"
        finally:
            process.kill()


class _Collecting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return


def collect() -> None:
    """Receive spans until the process is killed."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collecting)
    print(server.server_port, flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect:
        collect()
        return
    metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False))
    print(machine())
    taken = measure(given.calls, given.repeat)
    for way, figures in taken.items():
        print(f"{way:<9} {spread(figures, '.1f')} us CPU a call")
    for way in ("recorded", "given", "exported"):
        bar = "; bar 50" if way == "recorded" else ""
        more = added(taken, way)
        ratio = statistics.median(taken[way]) / statistics.median(taken["off"])
        bare = statistics.median(more) / statistics.median(taken["bare"])
        print(f"{way:<9} adds {spread(more, '.1f')} us a call{bar}; {ratio:.2f} x off, {bare:.2f} bare spans")


if __name__ == "__main__":
    main()
