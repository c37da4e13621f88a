"""What a run cost: measured, estimated, charged and unknown are never mixed."""

from decimal import Decimal
from typing import Any

from fusion import Price, Result, Say, ScriptedModel, Usage
from fusion.cli.views.receipt import receipt_lines
from fusion.models.base import ModelInfo
from tests.conftest import pipeline, run, said

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"))
WORK = """
inputs: {rows: what to work on}
stages:
  work: {kind: map, over: inputs.rows, prompt: "do {{ item.value }}", max_tokens: 10}
  answer: {kind: merge, over: work, strategy: concat}
roles: {bulk: {chain: [scripted/bulk], timeout: 0.2}}
output: answer
"""


def answers(request: Any) -> Say:
    """Counts the tokens of `measured`, leaves those of `estimated` out, and is too late at first with `late`."""
    words = said(request)
    if "late" in words:
        return Say("x", delay=30)
    return Say("four", usage=Usage(input=10, output=2) if "measured" in words else None)


def test_what_was_charged_for_attempts_without_a_reply_is_a_bound_and_no_usage(fusion: Any) -> None:
    model = ScriptedModel(answers, name="scripted/bulk", price=PRICE)
    one = fusion(models={"scripted/bulk": model})
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["measured", "estimated", "late"]})
    (line,) = result.receipt.lines
    late = sum("late" in said(request) for request in model.requests)
    assert (line.calls, line.failed, line.retries) == (2, 1, late - 1)
    assert line.measured.usage == Usage(input=10, output=2)
    assert line.measured.cost.usd == Decimal("0.03")
    assert line.estimated.usage.source == "estimated"
    assert line.estimated.cost.usd == PRICE.of(line.estimated.usage)
    assert line.charged.usage.output == 10 * late
    assert line.charged.cost.usd == PRICE.of(line.charged.usage)
    assert result.usage == line.measured.usage + line.estimated.usage
    assert result.cost.usd == sum(part.cost.usd for part in (line.measured, line.estimated, line.charged))
    assert Result.model_validate_json(result.model_dump_json()) == result


def test_unknown_cost_is_counted_and_never_zero(fusion: Any) -> None:
    info = ModelInfo(id="scripted/bulk", provider="scripted")
    one = fusion(models={"scripted/bulk": ScriptedModel(answers, info=info)})
    result, _ = run(one, None, pipeline=pipeline(WORK), inputs={"rows": ["measured", "estimated"]})
    (line,) = result.receipt.lines
    assert (line.measured.cost.unknown_calls, line.estimated.cost.unknown_calls) == (1, 1)
    assert result.cost.unknown_calls == 2
    assert "no price is known for 'scripted/bulk'" in result.notes[0]


def test_a_receipt_says_how_many_cascades_were_escalated_and_the_result_which_tier_answered(fusion: Any) -> None:
    text = """
inputs: {task: what}
stages:
  one: {kind: cascade, tiers: [{roles: [a, b]}, strong], accept: {agree: 2, extract: number}}
  two: {kind: cascade, tiers: [{roles: [a, a]}, strong], accept: {agree: 2, extract: number}}
  way: {kind: route, routes: {short: a, long: strong}, rules: [{longer: 99, use: long}], default: short}
output: {one: one.text, two: two.text, way: way.text}
"""
    models = {"a": "5", "b": "6", "strong": "9"}
    result, _ = run(fusion(models), "How many?", pipeline=pipeline(text))
    assert result.data == {"one": "9", "two": "5", "way": "5"}
    receipt = result.receipt
    assert (receipt.cascades, receipt.escalated, receipt.escalation_rate) == (2, 1, 0.5)
    assert [result.stages[name].decision for name in ("one", "two", "way")] == ["tier-2", "tier-1", "short"]
    assert result.stages["two"].reason == "2 of 2 answers agree"
    assert "1 of 2 cascades escalated" in receipt_lines(result)[-1]


def test_without_a_cascade_there_is_no_rate(fusion: Any) -> None:
    result, _ = run(fusion({"frontier": "x"}), "do it", pipeline="single")
    assert (result.receipt.cascades, result.receipt.escalation_rate) == (0, None)
    assert "escalated" not in receipt_lines(result)[-1]
