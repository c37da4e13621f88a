"""Collectors of traces and metrics on loopback: one that keeps what it receives, and dead ones."""

import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Spans and metrics by name, as they came in."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.points: dict[str, list[Any]] = {}
        self.resource: dict[str, str] = {}
        self.endpoint = ""

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
                self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
            return
        for metrics_of in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in [one for scope in metrics_of.scope_metrics for one in scope.metrics]:
                data = metric.sum if metric.HasField("sum") else metric.histogram
                self.points.setdefault(metric.name, []).extend(data.data_points)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        collector.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


# Dead collectors.

Reply = Callable[[socket.socket], None]


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


DEAD: dict[str, Reply] = {
    "hangs": hang,
    "closes": lambda connection: None,
    "refuses": lambda connection: connection.sendall(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n"),
    "forbids": lambda connection: connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
    "speaks no HTTP": lambda connection: connection.sendall(b"\x00\x01garbage\r\n"),
}


@contextmanager
def dead(reply: Reply) -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(10)
            if reply is not hang:
                self.request.recv(65536)
            reply(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()
