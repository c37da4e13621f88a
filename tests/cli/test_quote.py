"""`fusion quote`: what a run may come to, in words and as JSON."""

import json
import re
from typing import Any

import pytest

from fusion import Request, ScriptedModel
from tests.cli.conftest import BARE, MANY, ONE, Command
from tests.cli.scripted import on_scripted_models


@pytest.fixture(autouse=True)
def scripted_models(monkeypatch: pytest.MonkeyPatch) -> None:
    on_scripted_models(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that reaches a model."""
    requests: list[Request] = []
    complete = ScriptedModel.complete

    async def noted(model: ScriptedModel, request: Request, on_delta: Any = None) -> Any:
        requests.append(request)
        return await complete(model, request, on_delta)

    monkeypatch.setattr(ScriptedModel, "complete", noted)
    return requests


def test_a_quote_has_the_graph_the_sums_and_the_cap(command: Command, pipeline: Any, asked: list[Request]) -> None:
    done = command("quote", pipeline(MANY), "a,b,c", "-m", "scripted/echo")
    assert (done.code, done.err, asked) == (0, "", [])
    first, _, head, work, answer, _, whole, cost = done.out.splitlines()
    assert first == "test: profile local; bulk=scripted/echo"
    assert head.split()[:4] == ["stage", "reads", "role", "model"]
    assert re.match(r"work +bulk +scripted/echo +3 ", work)
    assert re.match(r"answer +work\.items => +- +- ", answer)
    assert re.match(r"In all: 3( \(3-\d\))? calls, at most 12; [\d,]+( \([\d,-]+\))? tokens in, ", whole)
    assert cost == "Cost: $0.0000; never more than $0.0000, the sum of all worst cases"


def test_the_json_has_the_same_numbers(command: Command) -> None:
    words = ["quote", "plan-execute-review", "do it", "-i", "context=a report", "-m", "openai/gpt-5.6"]
    environment = pytest.MonkeyPatch()
    with environment.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-none")
        shown, data = command(*words), json.loads(command(*words, "--json").out)
    assert [stage["name"] for stage in data["stages"]] == ["plan", "work", "review", "answer"]
    usd, calls = data["usd"], data["calls"]
    assert float(usd["low"]) < float(usd["likely"]) < float(usd["high"]) <= float(usd["cap"]) == 0.5
    assert f"Cost: ${float(usd['likely']):.4f} (" in shown.out
    assert "never more than $0.5000, the budget" in shown.out
    assert f"In all: {calls['likely']} ({calls['low']}-{calls['high']}) calls, at most {calls['most']}" in shown.out


def test_options_are_those_of_a_run(command: Command, pipeline: Any) -> None:
    words = ["quote", pipeline(ONE), "say it", "--profile", "local", "--role", "bulk=scripted/echo"]
    done = command(*words, "--budget", "calls=2,usd=1", "--json", stdin=b"a note")
    data = json.loads(done.out)
    assert (data["limits"]["calls"], data["calls"]["most"], data["roles"]) == (2, 2, {"bulk": "scripted/echo"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs 'task'"),
        (["x", "--budget", "dollars=1"], "no limit 'dollars'"),
        (["x", "-m", "scripted/echo", "--profile", "local"], "-m sets the model of every role"),
        (["x", "--role", "bulk"], "give it as role=model"),
        (["x", "-i", "tsk=1"], "no input 'tsk'; did you mean 'task'?"),
    ],
)
def test_what_cannot_be_quoted_is_said(command: Command, pipeline: Any, words: list[str], said: str) -> None:
    done = command("quote", pipeline(ONE), *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_what_is_free_and_what_has_no_price_is_said(command: Command, pipeline: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENROUTER_API_KEY", "sk-none")
        done = command("quote", pipeline(BARE), "-m", "openrouter/nobody/knows-this")
    assert done.code == 0
    assert "unknown" in done.out.splitlines()[3]
    assert "Unknown price, not in the cost: openrouter/nobody/knows-this" in done.out


def test_on_a_terminal_the_table_fits_it(
    command: Command, pipeline: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fusion.cli.terminal.is_live", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "70")
    done = command("quote", pipeline(MANY), "a,b,c", "-m", "scripted/echo")
    assert done.code == 0
    assert "never more than $0.0000" in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= 70


def test_a_quote_needs_no_key_and_names_it(command: Command, pipeline: Any) -> None:
    words = ["quote", pipeline(MANY), "a,b,c", "--profile", "anthropic"]
    shown = command(*words)
    assert (shown.code, shown.err) == (0, "")
    note = "a run needs ANTHROPIC_API_KEY, which is not set"
    assert shown.out.splitlines()[-1] == f"Note: {note}"
    assert note in json.loads(command(*words, "--json").out)["notes"]
