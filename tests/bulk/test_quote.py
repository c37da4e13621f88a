"""A map is quoted from a sample of its rows: the cost of those that would run, with its error."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Price, Request, Say, ScriptedModel, UsageError
from fusion.core.errors import BadRequestError, InputError
from tests.conftest import pipeline, said

ONE = pipeline(
    "name: one\ninputs: {text: A ticket.}\noutput: answer\nstages:\n"
    "  answer: {kind: generate, role: bulk, prompt: '{{ inputs.text }}', max_tokens: 600}\n"
)
PRICE = Price(input=Decimal("0.000001"), output=Decimal("0.00001"))


@pytest.fixture
def model() -> ScriptedModel:
    def script(request: Request) -> Any:
        return BadRequestError("no", model="m/x") if "bad" in said(request) else Say("fine")

    return ScriptedModel(script, name="m/x", price=PRICE, respect_limit=False)


@pytest.fixture
def fusion(model: ScriptedModel, tmp_path: Path) -> Iterator[Fusion]:
    with Fusion(profile="local", model=model, store=tmp_path / "runs.db") as one:
        yield one


def table(folder: Path, texts: list[str]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"T{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def test_the_cost_is_that_of_all_rows_and_no_call_is_made(
    fusion: Fusion, model: ScriptedModel, tmp_path: Path
) -> None:
    few = fusion.quote_map(table(tmp_path, ["word"] * 10), pipeline=ONE, key="id", quoted=5)
    many = fusion.quote_map(table(tmp_path, ["word"] * 1000), pipeline=ONE, key="id", quoted=5)
    assert (few.rows, few.to_run, few.sampled, many.rows, many.sampled) == (10, 10, 5, 1000, 5)
    assert many.usd.likely == pytest.approx(100 * few.usd.likely)
    assert many.usd.low < many.usd.likely < many.usd.high
    assert many.calls.likely == 1000
    assert (many.usd.cap, model.requests, fusion.runs.maps()) == (None, [], ())
    assert many.most is not None
    assert many.most > many.usd.high


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_larger_sample_is_surer(fusion: Fusion, tmp_path: Path, count: int) -> None:
    texts = ["word " * (1 if n % 2 else 4000) for n in range(40)]
    path = table(tmp_path, texts)
    whole = fusion.quote_map(path, pipeline=ONE, key="id", quoted=12)
    part = fusion.quote_map(path, pipeline=ONE, key="id", quoted=count)
    assert part.usd.low <= whole.usd.likely <= part.usd.high
    assert part.usd.high - part.usd.low >= (whole.usd.high - whole.usd.low) * part.usd.likely / whole.usd.likely


@pytest.mark.parametrize(
    ("texts", "options", "found"),
    [
        (["a", "b", "bad"], {}, {"done": 2, "failed": 1, "to_run": 0}),
        (["a", "b", "bad"], {"retry_failed": True}, {"done": 2, "again": 1, "to_run": 1}),
        (["a", "c", "bad"], {}, {"done": 1, "changed": 1, "failed": 1, "to_run": 1}),
        (["a", "b", "bad", "new", "newer"], {}, {"done": 2, "failed": 1, "new": 2, "to_run": 2}),
        (["a", "b"], {"id": "other"}, {"new": 2, "done": 0, "to_run": 2}),
        (["a", "b", "bad"], {"limit": 1}, {"rows": 1, "done": 1}),
        (["a", "b", "bad"], {"sample": 2}, {"rows": 2}),
    ],
)
def test_rows_that_are_done_cost_nothing(
    fusion: Fusion, tmp_path: Path, texts: list[str], options: dict[str, Any], found: dict[str, int]
) -> None:
    given: dict[str, Any] = {"pipeline": ONE, "key": "id", "id": "m"}
    fusion.start_map(table(tmp_path, ["a", "b", "bad"]), **given).wait(30)
    quote = fusion.quote_map(table(tmp_path, texts), **{**given, **options})
    assert {name: getattr(quote, name) for name in found} == found
    assert bool(quote.usd.likely) is bool(quote.to_run)
    assert fusion.runs.show_map("m").map.rows == 3


@pytest.mark.parametrize("budget", [{"usd": 0.001}, {"usd": 5}, {"calls": 5}])
def test_a_budget_caps_the_cost(fusion: Fusion, tmp_path: Path, budget: dict[str, Any]) -> None:
    quote = fusion.quote_map(table(tmp_path, ["word"] * 100), pipeline=ONE, key="id", budget=budget)
    cap = budget.get("usd")
    assert quote.usd.cap == (None if cap is None else Decimal(str(cap)))
    assert cap is None or quote.usd.high <= Decimal(str(cap))


def test_batches_cost_about_half(tmp_path: Path) -> None:
    path = table(tmp_path, ["word"] * 30)
    with Fusion(model="openai/gpt-5-mini", profile="openai") as fusion:
        live = fusion.quote_map(path, pipeline=ONE, key="id", quoted=5)
        batched = fusion.quote_map(path, pipeline=ONE, key="id", quoted=5, batch=True)
    assert batched.usd.likely == pytest.approx(live.usd.likely / 2, rel=Decimal("0.02"))
    assert (live.batch, batched.batch) == (False, True)
    assert any("OPENAI_API_KEY" in note for note in live.notes)


def test_a_map_is_quoted_without_a_store_too(model: ScriptedModel, tmp_path: Path) -> None:
    with Fusion(profile="local", model=model) as fusion:
        quote = fusion.quote_map([{"text": "a"}, {"text": ""}, {"text": "c"}], pipeline=ONE)
    assert (quote.rows, quote.new, quote.failed) == (3, 2, 1)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "said"),
    [
        ("-", {}, UsageError, "standard input"),
        ("nothing.csv", {}, InputError, "no file or folder"),
        (iter([{"text": "a"}]), {}, UsageError, "only once"),
        ([{"text": "a"}], {"columns": {"txet": "text"}}, InputError, "txet"),
        ([{"text": "a"}], {"limit": 0}, UsageError, "limit is 0"),
        ([{"text": "a"}], {"concurrency": 0}, UsageError, "concurrency is 0"),
    ],
)
def test_what_cannot_be_quoted_is_told(
    fusion: Fusion, inputs: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fusion.quote_map(inputs, pipeline=ONE, **options)
