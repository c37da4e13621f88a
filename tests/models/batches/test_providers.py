"""Runs in the batches of each provider: all items, at the batch price, whatever becomes of rows and batches."""

from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion
from fusion.models.batches.base import batch_price
from fusion.models.catalog import lookup
from tests.conftest import pipeline, run
from tests.models.batches.double import Double
from tests.models.batches.double.openrouter import COST
from tests.models.batches.double.replies import USAGE
from tests.models.batches.window.scripted import quick

MODELS = (
    "openai/gpt-5.6",
    "groq/llama-3.3-70b-versatile",
    "anthropic/claude-haiku-5-5",
    "openrouter/openai/gpt-5.6",
    "gemini/gemini-3.8-flash",
)
PIPELINE = """
name: notes
inputs: {notes: {}}
stages:
  read:
    kind: map
    over: inputs.notes.split(",")
    role: bulk
    concurrency: 30
    max_tokens: 100
    prompt: "Say {{ item.source }}"
output: read
"""
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "mixed": {"shuffle": True, "polls": 2},
    "lost rows": {"lose": 0.3},
    "failing rows": {"fail_rows": 0.3},
    "broken lines": {"malformed": 0.3},
    "expired": {"expire_batches": 1, "worked": 0.5},
    "failed": {"fail_batches": 1},
    "unanswered call": {"forget": {"create": 1}},
    "refused calls": {"refuse": {"create": [429], "state": [500, 503], "results": [500], "upload": [503]}},
    "broken download": {"break_off": 1},
}


@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_gets_every_answer(
    double: Double, model_id: str, fault: str, monkeypatch: pytest.MonkeyPatch, without_pauses: None
) -> None:
    double.set(**FAULTS[fault])
    notes = ",".join(f"note {number}" for number in range(20))
    with Fusion(model=model_id, settings=quick(poll=0.02, slowest_poll=0.05)) as fusion:
        result, _ = run(fusion, None, pipeline=pipeline(PIPELINE), inputs={"notes": notes}, batch=True)
    assert result.status == "ok"
    assert [item.value for item in result.items] == [f"echo: Say note {number}" for number in range(20)]
    counts = double.counts
    if fault in ("none", "mixed", "unanswered call", "refused calls", "broken download"):
        assert set(counts.bodies.values()) == {1}, "a row was worked on twice"
        assert not counts.live
        assert result.cost.usd == _half(model_id)
    elif fault == "expired":
        assert set(counts.bodies.values()) == {1}, "an answered row was sent again"


def _half(model_id: str) -> Decimal:
    """Return the cost of twenty rows in a batch."""
    if model_id.startswith("openrouter/"):
        return 20 * Decimal(str(COST))
    price, (taken, given) = batch_price(lookup(model_id), Decimal("0.5")), USAGE
    return Decimal(0) if price is None else 20 * (price.input * taken + price.output * given)
