"""Health, metrics and quotes of a server."""

import re
from decimal import Decimal

import pytest

from fusion import ScriptedModel
from fusion.core.errors import StageError
from fusion.models.base import Price
from fusion.server.openapi.document import document
from tests.server import contract
from tests.server.conftest import Serve, Served


def metrics(served: Served) -> dict[str, float]:
    """The samples of the metrics, each line of which must be as Prometheus reads it."""
    with served.client() as client:
        said = client.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in said.text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.E+-]+', line) for line in lines), said.text
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_server_is_alive_and_ready(echo: Served) -> None:
    with echo.client() as client:
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/readyz").json() == {"status": "ok"}


def test_metrics_count_requests_runs_and_money(serve: Serve) -> None:
    model = ScriptedModel(
        ["the answer", StageError("it broke"), "more"],
        name="scripted/dear",
        price=Price(input=Decimal(1), output=Decimal(1000)),
    )
    served = serve({"frontier": model})
    for status in (200, 422, 200):
        assert served.post("/v1/chat/completions", served.chat()).status_code == status
    assert served.post("/v1/chat/completions", {}).status_code == 400
    assert served.post("/nothing-of-this-name", {}).status_code == 404
    found = metrics(served)
    assert found['fusion_requests_total{path="/v1/chat/completions",status="200"}'] == 2
    assert found['fusion_requests_total{path="/v1/chat/completions",status="400"}'] == 1
    assert found['fusion_requests_total{path="other",status="404"}'] == 1
    assert found['fusion_runs_total{pipeline="echo",status="ok"}'] == 2
    assert found['fusion_runs_total{pipeline="echo",status="failed"}'] == 1
    assert (found["fusion_runs_in_flight"], found["fusion_queue_length"], found["fusion_body_bytes"]) == (0, 0, 0)
    assert found["fusion_cost_dollars_total"] > 0
    assert found['fusion_tokens_total{kind="output"}'] > 0


def test_a_quote_makes_no_call(serve: Serve) -> None:
    served = serve()
    said = served.post("/v1/quote", served.chat("What is it?"))
    assert said.status_code == 200
    quote = document()["paths"]["/v1/quote"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    contract.conforms(quote, said.json(), "/v1/quote")
    assert (said.json()["pipeline"], said.json()["calls"]["likely"]) == ("echo", 1)
    assert not any(model.requests for model in served.models.values())


@pytest.mark.parametrize(
    ("more", "status", "word"),
    [
        ({"model": "nothing"}, 404, "no model"),
        ({"messages": []}, 400, "messages"),
        ({"fusion": {"budget": {"usd": -1}}}, 400, "fusion.budget"),
        ({"fusion": {"inputs": {"other": "x"}}}, 400, "no input 'other'"),
        ({"model": 7}, 400, "model"),
    ],
)
def test_a_quote_refuses_as_a_run_does(echo: Served, more: dict[str, object], status: int, word: str) -> None:
    said = echo.post("/v1/quote", {**echo.chat(), **more})
    assert (said.status_code, word in said.json()["error"]["message"]) == (status, True), said.text
