"""Models of one's own: what goes wrong inside of one fails its call; its info has a default, and its price counts."""

import asyncio
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Model, ModelInfo, Price, Reply, UsageError
from fusion.core.types import Deltas, Request, Usage
from tests.conftest import pipeline, run

GENERATE = "inputs: {t: What.}\nstages:\n  a: {kind: generate, role: bulk, prompt: 'say {{ inputs.t }}'}\noutput: a"
PIPELINES = {
    "generate": GENERATE,
    "map": "inputs: {t: What.}\nstages:\n"
    "  a: {kind: map, over: 'range(3) | list', role: bulk, prompt: '{{ item.source }}'}\noutput: a",
    "panel": "inputs: {t: What.}\nstages:\n"
    "  a: {kind: panel, members: [bulk, bulk], prompt: '{{ inputs.t }}'}\noutput: a",
    "plan": "inputs: {t: What.}\nstages:\n  a: {kind: plan, role: bulk}\n"
    "  b: {kind: map, over: a, role: bulk, prompt: '{{ item.title }}'}\noutput: b",
    "nested": "inputs: {t: What.}\nstages:\n"
    "  a: {kind: pipeline, pipeline: ./inner.yaml, inputs: {t: inputs.t}}\noutput: a",
}

SOON = "defaults: {patience: 1}\n"
"""A model that times out is not waited for until it is back."""


class Inner(Model):
    """Ends in a way of its own."""

    def __init__(self, how: str) -> None:
        self.how = how

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        if self.how == "a cancelled task":
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task
        elif self.how == "a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fail())
        elif self.how == "a future":
            waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            waiting.cancel()
            return await waiting
        elif self.how == "a timeout":
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        raise asyncio.CancelledError

    async def _fail(self) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("how", ["a cancelled task", "a group", "a future", "a timeout", "a bare error"])
@pytest.mark.parametrize("shape", sorted(PIPELINES))
def test_a_cancellation_within_a_model_fails_its_call(
    fusion: Any, without_pauses: None, tmp_path: Path, shape: str, how: str
) -> None:
    (tmp_path / "inner.yaml").write_text(f"name: inner\n{SOON}{GENERATE}\n")
    (tmp_path / "p.yaml").write_text(f"name: p\n{SOON}{PIPELINES[shape]}\n")
    result, _ = run(fusion({"bulk": Inner(how)}), pipeline=tmp_path / "p.yaml")
    assert result.status == "failed"
    assert result.error is not None
    assert "needs itself" not in result.error.message
    assert "own" in str(result.failed[0].failure.message)


def test_the_chain_goes_on_after_a_model_that_cancels_itself(fusion: Any) -> None:
    models = {"Inner": Inner("a future"), "own/good": Good()}
    text = GENERATE.replace("stages:", "roles: {bulk: {chain: [Inner, own/good]}}\nstages:")
    result, _ = run(fusion(models=models), pipeline=pipeline(text))
    assert (result.status, result.text) == ("ok", "fine")


def test_a_run_is_still_stopped_while_a_model_of_ones_own_waits(fusion: Any) -> None:
    waits = threading.Event()

    class Waiting(Model):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
            waits.set()
            await asyncio.sleep(60)
            raise AssertionError

    handle = fusion({"bulk": Waiting()}).start("x", pipeline=pipeline(GENERATE))
    assert waits.wait(30)
    handle.stop()
    assert handle.wait(30).error.reason == "Interrupted"
    assert handle.exit_code == 130


class Good(Model):
    info = ModelInfo(
        id="own/good", provider="own", price=Price(input=Decimal("0.001"), output=Decimal("0.01")), context=9000
    )

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        return Reply(
            text="fine", finish_reason="stop", usage=Usage(input=100, output=10), asked="own/good", served="own/good"
        )


def test_a_price_in_the_info_counts_for_budget_and_receipt(fusion: Any) -> None:
    made = fusion({"bulk": Good()})
    result, _ = run(made, pipeline=pipeline(GENERATE))
    assert result.cost.usd == Decimal("0.2")
    assert result.cost.unknown_calls == 0
    assert result.receipt.lines[0].price_source == "own info"
    refused, _ = run(made, pipeline=pipeline(GENERATE), budget={"usd": 0.1})
    assert (refused.error and refused.error.reason) == "BudgetError"


def test_without_an_info_the_class_names_the_model(fusion: Any) -> None:
    class Plain(Model):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
            return Reply(text="fine", finish_reason="stop", usage=Usage(), asked="Plain", served="Plain")

    result, _ = run(fusion({"bulk": Plain()}), pipeline=pipeline(GENERATE))
    assert (result.text, result.receipt.lines[0].model, result.cost.unknown_calls) == ("fine", "Plain", 1)


@pytest.mark.parametrize("info", ["mine", {"id": "mine"}, None])
@pytest.mark.parametrize("given", ["role", "model", "models"])
def test_an_info_of_another_type_is_refused_at_the_start(fusion: Any, info: Any, given: str) -> None:
    class Wrong(Model):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
            raise AssertionError

    wrong = Wrong()
    wrong.info = info
    options: dict[str, Any] = {
        "role": {"roles": {"bulk": wrong}},
        "model": {"model": wrong},
        "models": {"models": {"m": wrong}},
    }[given]
    with pytest.raises(UsageError, match="ModelInfo"):
        fusion(**options).complete("x", pipeline=pipeline(GENERATE))


def test_a_reply_of_another_type_is_named(fusion: Any) -> None:
    class Text(Model):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Any:
            return "fine"

    result, _ = run(fusion({"bulk": Text()}), pipeline=pipeline(GENERATE))
    assert result.error is not None
    assert "returned str; return a Reply" in result.error.message
