"""What a run cost: measured, estimated, charged and unknown are never mixed."""

from decimal import Decimal
from typing import Any

from fusion import Price, Result, Say, ScriptedModel, Usage
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
