"""Fusion.runs: what is kept of runs is what they said of themselves, however they ended."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Price, Result, Say, ScriptedModel, Usage, UsageError
from fusion.client.history.run_types import RunDetails
from fusion.core.errors import BadRequestError, RunBusyError, StoreError
from tests.conftest import pipeline, run, said

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"))
WORK = """
inputs: {rows: what to work on}
stages:
  work: {kind: map, over: inputs.rows, role: bulk, prompt: "do {{ item.value }}", max_tokens: 10, concurrency: 2}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
ROWS = ["a", "b", "c", "d"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def answers(request: Any) -> Any:
    """Refuses `bad`, never ends with `slow`, measures nothing of `c`."""
    words = said(request)
    if "bad" in words:
        return BadRequestError("no such thing", model="scripted/bulk")
    if "slow" in words:
        return Say("late", delay=3600)
    return Say(f"did {words}", usage=None if "do c" in words else Usage(input=9, output=3))


def made(fusion: Any, place: Path, **options: Any) -> Any:
    model = ScriptedModel(answers, name="scripted/bulk", price=PRICE, respect_limit=False)
    return fusion({"bulk": model}, store=place, **options)


def agrees(details: RunDetails, result: Result) -> None:
    """What the history says of a run is what the run said of itself."""
    assert details.receipt.lines == result.receipt.lines
    assert (details.run.cost, details.run.calls) == (result.cost, result.receipt.calls)
    assert details.run.run_id == result.run_id
    assert details.models == result.models
    finished = [call for call in details.calls if call.state != "failed" and call.reused is None]
    assert len(finished) == result.receipt.calls
    replies = sum((line.measured.cost.usd + line.estimated.cost.usd for line in result.receipt.lines), Decimal(0))
    assert sum((call.cost or 0 for call in finished), Decimal(0)) == replies


def test_a_finished_run(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ROWS}, tags={"team": "x"})
    details = one.runs.show(result.run_id)
    agrees(details, result)
    assert (details.run.status, details.run.tags, details.run.sessions) == ("ok", {"team": "x"}, 1)
    assert details.receipt == result.receipt
    assert [(stage.stage, stage.status, stage.calls) for stage in details.stages] == [
        ("work", "ok", 4),
        ("answer", "ok", 0),
    ]
    assert one.runs.result("latest") == result
    assert one.runs.pipeline(result.run_id).stages.keys() == {"work", "answer"}


def test_a_failed_run(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["a", "bad", "b"]})
    assert result.status == "failed"
    details = one.runs.show(result.run_id)
    agrees(details, result)
    assert (details.run.status, details.run.failure) == ("failed", result.error)
    assert details.failed == result.failed
    assert [call.failure.reason for call in details.calls if call.failure is not None] == ["BadRequestError"]


def interrupted(one: Any) -> Result:
    """A run that was stopped when one call was done and another one under way."""
    handle = one.start(pipeline=pipeline(WORK), inputs={"rows": ["a", "slow", "b", "c"]}, on_event=None)
    while not [line for line in one.runs.list() if line.calls >= 4]:  # the ledger's: three settled, one open
        pass
    return handle.cancel()


def test_an_interrupted_run_and_one_that_is_resumed(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    result = interrupted(one)
    details = one.runs.show(result.run_id)
    agrees(details, result)
    assert details.run.status == "interrupted"
    assert details.receipt.lines[0].cancelled == 1
    quick = ScriptedModel(lambda request: "quick", name="scripted/bulk", price=PRICE, respect_limit=False)
    again = fusion({"bulk": quick}, store=place).resume(result.run_id)
    assert len(quick.requests) == 1
    details = one.runs.show(result.run_id)
    agrees(details, again)
    assert (details.run.status, details.run.sessions, details.run.calls) == ("ok", 2, 4)
    assert one.runs.list()[0] == details.run == one.runs.find(result.run_id[:20])


def test_a_run_that_is_not_over_shows_what_its_ledger_says(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    handle = one.start(pipeline=pipeline(WORK), inputs={"rows": ["slow", "a"]})
    while one.runs.find("latest").calls < 2 or not one.runs.show("latest").calls:
        pass
    details = one.runs.show(handle.run_id)
    assert (details.run.status, details.run.ended) == ("running", None)
    assert details.receipt.cost == details.run.cost
    assert details.receipt.cost.usd > 0
    assert details.stages[0].status == "open"
    with pytest.raises(RunBusyError, match="is being run"):
        one.runs.remove([handle.run_id])
    with pytest.raises(RunBusyError, match="is being run"):
        one.resume(handle.run_id)
    with pytest.raises(UsageError, match="has not ended"):
        one.runs.result(handle.run_id)
    assert one.runs.prune(keep=0) == ()
    handle.cancel()
    assert one.runs.remove([handle.run_id]) == (handle.run_id,)
    assert one.runs.list() == ()


@pytest.mark.parametrize("content", ["digest", "off"])
def test_where_texts_are_not_kept_the_figures_are_the_same_and_no_word_is_there(
    fusion: Any, place: Path, content: Any
) -> None:
    one = made(fusion, place, content=content)
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["hush", "bad"]})
    details = one.runs.show(result.run_id)
    plain = [line.model_copy(update={"price_source": "unknown"}) for line in result.receipt.lines]
    assert [*details.receipt.lines] == plain
    assert details.run.cost == result.cost
    call = one.runs.call(result.run_id, details.calls[0].number)
    assert (call.messages, call.text) == (None, None)
    assert bool(call.digest) is (content == "digest")
    document = "".join(one.runs.export(result.run_id))
    assert (json.loads(document)["record"], json.loads(document)["result"]) == (None, None)
    assert "hush" not in document
    assert "no such thing" not in document
    with pytest.raises(StoreError, match="were not kept"):
        one.runs.pipeline(result.run_id)
    told = one.runs.diff(result.run_id, result.run_id)
    assert (told.pipeline, told.inputs, told.models, told.answer) == (None, None, None, None)
    assert {*told.counts} <= ({"same"} if content == "digest" else {"not kept"})


def test_what_was_reused_cost_nothing_and_says_where_it_came_from(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    first, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["a", "b"]}, cache="shared")
    second, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["a", "z"]}, cache="shared")
    details = one.runs.show(second.run_id)
    agrees(details, second)
    assert {call.item: call.reused for call in details.calls} == {0: "cache", 1: None}
    assert details.receipt.saved.usd > 0
    assert details.run.cost.usd < one.runs.find(first.run_id).cost.usd
    assert one.runs.diff(first.run_id, second.run_id).counts == {"same": 1, "different": 1}


def test_an_export_holds_every_call_with_its_words(fusion: Any, place: Path) -> None:
    one = made(fusion, place)
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ROWS})
    document = json.loads("".join(one.runs.export("latest")))
    assert Result.model_validate(document["result"]) == result
    assert sorted(call["messages"][-1]["content"] for call in document["calls"]) == [f"do {row}" for row in ROWS]
    assert document["receipt"] == json.loads(result.receipt.model_dump_json())
    paid = sum(Decimal(attempt["end"]["usd"]) for attempt in document["attempts"])
    assert paid == result.cost.usd


def test_without_a_store_there_is_no_history(fusion: Any) -> None:
    one = fusion({"bulk": "x"})
    assert one.keeps is None
    with pytest.raises(UsageError, match="runs are not kept here"):
        one.runs  # noqa: B018 - that it is asked for is what fails
