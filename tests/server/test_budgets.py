"""Budgets with a period behind the server: refusals in each dialect, metrics, and the data of the page."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Price, Say, ScriptedModel, Usage
from tests.conftest import Write
from tests.server.conftest import Serve, Served, pipeline

SETTINGS = """
[budgets.team]
usd = 0.25
per = "month"
[budgets.all]
calls = 1000
per = "store"
tags = {}
[budgets.here]
usd = 9
"""
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 50},
    "/v1/responses": {"input": "hello"},
}
ONE = """
name: echo
description: Says it.
inputs: {prompt: The question.}
stages:
  answer: {kind: generate, prompt: "{{ inputs.prompt }}", max_tokens: 10}
output: answer
"""


def paid() -> ScriptedModel:
    """A call costs ten cents, and at most that."""
    price = Price(input=Decimal(0), output=Decimal("0.01"))
    said = Say("fine", usage=Usage(input=1, output=10))
    return ScriptedModel(lambda request: said, name="scripted/paid", price=price, respect_limit=False)


@pytest.fixture
def served(serve: Serve, write: Write, tmp_path: Path) -> Served:
    """A server within `team`, which has room for two calls."""
    write(SETTINGS)
    return serve(paid(), table={"within": "team"}, pipelines={"echo": pipeline(ONE)}, store=tmp_path / "runs.db")


def asked(served: Served, path: str) -> Any:
    return served.post(path, {"model": "echo", **BODIES[path]})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "insufficient_quota"),
        ("/v1/messages", "billing_error"),
        ("/v1/responses", "insufficient_quota"),
    ],
)
def test_a_spent_budget_refuses_with_its_name_and_the_end_of_its_period(served: Served, path: str, kind: str) -> None:
    assert [asked(served, path).status_code for _ in range(2)] == [200, 200]
    answer = asked(served, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (402, kind)
    assert re.search(r"'budgets\.team'.*opens again at \d{4}-\d\d-01 00:00 UTC", error["message"])
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_metrics_have_the_amounts_of_each_budget(served: Served) -> None:
    asked(served, "/v1/chat/completions")
    lines = served.metrics().splitlines()
    assert 'fusion_budget_limit_dollars{budget="team",per="month"} 0.25' in lines
    assert 'fusion_budget_limit_calls{budget="all",per="store"} 1000' in lines
    assert "# TYPE fusion_budget_spent_dollars gauge" in lines
    gauges = {line.partition("{")[0] for line in lines if line.startswith("fusion_budget_")}
    amounts = ("limit", "spent", "leased")
    assert gauges == {f"fusion_budget_{amount}_{unit}" for amount in amounts for unit in ("dollars", "calls")}
    taken = [float(line.split()[-1]) for line in lines if re.match(r"fusion_budget_(spent|leased)_dollars\{", line)]
    assert sum(taken) >= 0.1


def test_metrics_name_no_budget_where_there_is_none(echo: Served) -> None:
    assert "fusion_budget" not in echo.metrics()


def test_the_page_has_what_is_left_of_each_budget(served: Served) -> None:
    run_id = asked(served, "/v1/chat/completions").headers["x-fusion-run"]
    with served.client() as client:
        found = {one["name"]: one for one in client.get("/api/budgets").json()["budgets"]}
        receipt = client.get(f"/api/runs/{run_id}").json()["receipt"]
    assert found.keys() == {"team", "all"}
    assert found["team"]["limits"]["usd"]["limit"] == "0.25"
    assert {one["name"]: one["limits"] for one in receipt["budgets"]} == {
        "all": {"calls": {"limit": 1000, "spent": 1, "left": 999}},
        "team": {"usd": {"limit": "0.25", "spent": "0.10", "left": "0.15"}},
    }


def test_a_caller_that_sees_its_own_runs_alone_sees_no_budget(
    serve: Serve, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(SETTINGS)
    monkeypatch.setenv("ADA", "token of ada")
    monkeypatch.setenv("FUSION_SERVER_TOKEN", "operator")
    served = serve(paid(), table={"tokens": {"ada": "ADA"}})
    with served.client() as client:
        seen = {
            token: client.get("/api/budgets", headers={"authorization": f"Bearer {token}"}).json()["budgets"]
            for token in ("token of ada", "operator")
        }
    assert seen["token of ada"] == []
    assert [one["name"] for one in seen["operator"]] == ["all", "team"]
