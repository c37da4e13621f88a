"""From Python: warming up, a cap over many runs, and how a Result looks."""

import asyncio
import json
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from fusion import Budget, Fusion, Limits, Price, RunFailed, Say, ScriptedModel, UsageError
from fusion.core.types import Usage
from tests.cli.conftest import environment
from tests.conftest import pipeline

ONE = pipeline(
    "inputs: {t: What.}\noutput: a\n"
    "stages: {a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}', max_tokens: 10}}\n"
)
MANY = pipeline(
    "inputs: {t: What.}\noutput: a\nstages:\n"
    "  a: {kind: map, over: 'range(30) | list', role: bulk, prompt: 'do {{ item.source }} <b>', max_tokens: 10}\n"
)


def paid(text: Any = "fine") -> ScriptedModel:
    price = Price(input=Decimal(0), output=Decimal("0.01"))
    return ScriptedModel(
        lambda request: Say(text, usage=Usage(input=1, output=10)), name="m/paid", price=price, respect_limit=False
    )


def test_a_cap_over_many_runs_ends_them_as_a_budget_of_their_own_does() -> None:
    cap = Budget(Limits(usd=Decimal("0.25")), name="the day")
    with Fusion(profile="local", model=paid()) as fusion:
        for _ in range(2):
            assert fusion.complete("x", pipeline=ONE, within=cap).status == "ok"
        with pytest.raises(RunFailed, match="'the day'") as caught:
            fusion.complete("x", pipeline=ONE, within=cap)
        assert caught.value.exit_code == 4
        with pytest.raises(RunFailed, match="'the day'"):
            asyncio.run(fusion.acomplete("x", pipeline=ONE, within=cap))
        with pytest.raises(RunFailed, match="'the day'"):
            list(fusion.stream("x", pipeline=ONE, within=cap))
        assert fusion.start("x", pipeline=ONE, within=cap).wait(30).status == "failed"
        assert fusion.complete("x", pipeline=ONE).status == "ok"
    assert cap.spent.usd == Decimal("0.20")


@pytest.mark.parametrize("given", [5, "5", Limits(usd=Decimal(5)), {"usd": 5}])
def test_a_cap_of_another_type_is_refused_before_any_call(given: Any) -> None:
    model = paid()
    with Fusion(profile="local", model=model) as fusion, pytest.raises(UsageError, match=r"one Budget|declare it"):
        fusion.complete("x", pipeline=ONE, within=given)
    assert model.requests == []


def test_a_cap_belongs_to_the_runs_of_one_fusion() -> None:
    cap = Budget(Limits(calls=10))
    with Fusion(profile="local", model=paid()) as one, Fusion(profile="local", model=paid()) as other:
        one.complete("x", pipeline=ONE, within=cap)
        one.using(profile="local").complete("x", pipeline=ONE, within=cap)
        with pytest.raises(UsageError, match="another Fusion"):
            other.complete("x", pipeline=ONE, within=cap)


WARM = """
import json, sys
from fusion import Fusion
with Fusion(profile="openai") as fusion:
    before = "aiohttp" in sys.modules
    fusion.warm()
    print(json.dumps([before, "aiohttp" in sys.modules]))
"""


def test_warm_loads_the_library_ahead_of_the_first_call() -> None:
    env = environment(OPENAI_API_KEY="sk-none", PYTHONWARNINGS="")
    done = subprocess.run([sys.executable, "-c", WARM], env=env, capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout) == [False, True]


def test_warm_is_awaited_too_and_refused_once_closed() -> None:
    with Fusion(profile="local", model=paid()) as fusion:
        asyncio.run(fusion.awarm())
        fusion.warm()
    with pytest.raises(UsageError, match="closed"):
        fusion.warm()


@pytest.mark.parametrize("text", ["", "fine", "a line\n" * 5000, "日本語" * 2000, "'\"\\" * 500])
def test_a_result_fits_a_screen(text: str) -> None:
    with Fusion(profile="local", model=paid(text or "x")) as fusion:
        for shape in (ONE, MANY):
            result = fusion.complete("x", pipeline=shape)
            assert len(repr(result)) < 400
            assert repr(result).startswith(f"Result({result.run_id!r}, 'ok'")


def test_a_notebook_shows_answer_status_cost_and_what_failed() -> None:
    def script(request: Any) -> Any:
        bad = "do 3 " in request.messages[-1].content
        return Say("<script>alert(1)</script> & more", finish_reason="content_filter" if bad else "stop")

    with Fusion(profile="local", model=ScriptedModel(script, name="m/mixed", respect_limit=False)) as fusion:
        result = fusion.complete("x", pipeline=MANY)
    shown = result._repr_html_()
    assert result.status == "partial"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown
    assert "<script" not in shown
    assert "partial · $0.0000" in shown
    assert "<li>a 4: ContentFilterError: " in shown
    assert "http" not in shown
