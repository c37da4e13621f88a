"""Traces of served runs: the span of the client is their parent."""

from typing import Any

import pytest

from tests.client.test_telemetry import Spans, attributes
from tests.server.conftest import Serve
from tests.server.test_security import DIALECTS, body_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
def test_the_span_of_a_client_is_the_parent_of_its_run(path: str, stream: bool, serve: Serve) -> None:
    spans = Spans()
    served = serve(telemetry=spans.provider)
    answer = served.post(path, body_of(path, stream=stream), traceparent=f"00-{TRACE}-{SPAN}-01")
    assert answer.status_code == 200
    run = spans.one("invoke_agent")
    assert run.parent is not None
    assert (f"{run.context.trace_id:032x}", f"{run.parent.span_id:016x}") == (TRACE, SPAN)
    assert attributes(run)["fusion.run.id"] == answer.headers["x-fusion-run"]


def test_the_span_of_a_client_is_the_parent_of_a_run_of_the_form(serve: Serve) -> None:
    spans = Spans()
    served = serve(telemetry=spans.provider)
    form = {"pipeline": "echo", "inputs": {"prompt": "hello"}}
    answer = served.post("/api/runs", form, traceparent=f"00-{TRACE}-{SPAN}-01")
    assert answer.status_code == 201
    run_id = answer.json()["run_id"]
    with served.client() as client, client.stream("GET", f"/v1/responses/resp_{run_id}?stream=true") as events:
        events.read()
    run = spans.one("invoke_agent")
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == SPAN
    assert attributes(run)["fusion.run.id"] == run_id


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": ""},
        {"traceparent": "00-0-0-01"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-01" * 400},
        {"traceparent": f"ff-{TRACE}-{SPAN}-01", "tracestate": "=,=;" * 1000},
        {"baggage": "a=b," * 5000},
    ],
    ids=["none", "empty", "short", "zeros", "long", "another version", "baggage"],
)
def test_a_trace_that_is_none_is_left_aside(headers: dict[str, Any], serve: Serve) -> None:
    spans = Spans()
    served = serve(telemetry=spans.provider)
    answer = served.post("/v1/chat/completions", body_of("/v1/chat/completions"), **headers)
    assert answer.status_code == 200
    assert spans.one("invoke_agent").parent is None


def test_a_client_that_is_not_sampled_leaves_its_run_untraced(serve: Serve) -> None:
    spans = Spans()
    served = serve(telemetry=spans.provider)
    answer = served.post("/v1/messages", body_of("/v1/messages"), traceparent=f"00-{TRACE}-{SPAN}-00")
    assert answer.status_code == 200
    assert spans.all == ()
