"""replay: recorded answers come back as they were, with their tokens and prices; nothing is made up."""

import gzip
import json
import lzma
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, RunFailed
from fusion.core.errors import UsageError
from tests.conftest import pipeline

ASK = """
inputs: {question: {}}
stages: {answer: {kind: generate, role: bulk, prompt: generate/pass-through%s}}
output: answer
"""
SHIPPED = Path(__file__).parents[3] / "benchmarks" / "data" / "recorded"


def row(prompt: str, **texts: str) -> dict[str, Any]:
    answers = {m: {"text": t, "prompt_tokens": 10, "completion_tokens": 100} for m, t in texts.items()}
    return {"id": prompt, "prompt": prompt, "responses": answers}


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., str]:
    """Writes a recording, and says its path."""

    def write(*rows: Any, name: str = "some.jsonl", opened: Any = open) -> str:
        path = tmp_path / name
        with opened(path, "wt", encoding="utf-8") as file:
            file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows)
        return str(path)

    return write


def ask(model: str, question: str = "\nWhat is it?\n", options: str = "") -> Any:
    with Fusion(profile="local", roles={"bulk": model}) as fusion:
        return fusion.complete(question, pipeline=pipeline(ASK % options))


@pytest.mark.parametrize(("suffix", "opened"), [("", open), (".xz", lzma.open), (".gz", gzip.open)])
def test_a_recorded_answer_comes_back_with_its_tokens(recorded: Any, suffix: str, opened: Any) -> None:
    path = recorded(row("\nWhat is it?\n", a="This.", b="That."), name=f"some.jsonl{suffix}", opened=opened)
    result = ask(f"replay:{path}#b")
    assert result.text == "That."
    assert (result.usage.input, result.usage.output, result.usage.source) == (10, 100, "measured")
    assert result.models[0].served == "b"
    assert result.cost.unknown_calls == 1


def test_the_prices_beside_it_are_the_cost(recorded: Any, tmp_path: Path) -> None:
    prices = {"models": {"a": {"input_usd_per_million_tokens": 0.1, "output_usd_per_million_tokens": 3}}}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    result = ask(f"replay:{recorded(row('What is it?', a='This.'))}#a")
    assert result.cost.usd == Decimal("0.000301")
    assert result.receipt.lines[0].price_source == "prices.json beside the recording"


@pytest.mark.parametrize(
    ("given", "usd"),
    [(0.0012, "0.0012"), ("0.00120", "0.0012"), (0, "0"), (3, "3"), (1e-7, "1e-7"), ("0.1", "0.1")],
)
def test_a_recorded_cost_is_the_cost_as_billed(recorded: Any, tmp_path: Path, given: Any, usd: str) -> None:
    prices = {"models": {"a": {"input_usd_per_million_tokens": 9, "output_usd_per_million_tokens": 9}}}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    said = row("What is it?", a="This.", b="That.")
    said["responses"]["a"]["cost"] = given
    result = ask(f"replay:{recorded(said)}#a")
    assert (result.cost.usd, result.cost.unknown_calls) == (Decimal(usd), 0)
    assert result.receipt.lines[0].measured.cost.usd == Decimal(usd)
    assert result.receipt.lines[0].price_source == "the recording, as billed"
    assert ask(f"replay:{recorded(said)}#b").receipt.lines[0].price_source == "unknown"


@pytest.mark.parametrize("priced", [True, False])
def test_replies_without_a_cost_are_paid_by_the_price_if_there_is_one(
    recorded: Any, tmp_path: Path, priced: bool
) -> None:
    if priced:
        prices = {"models": {"a": {"input_usd_per_million_tokens": 1, "output_usd_per_million_tokens": 1}}}
        (tmp_path / "prices.json").write_text(json.dumps(prices))
    rows = [row("What is it?", a="This."), row("Who is it?", a="They.")]
    rows[0]["responses"]["a"]["cost"] = 0.5
    model = f"replay:{recorded(*rows)}#a"
    billed, other = ask(model), ask(model, "Who is it?")
    listed = "prices.json beside the recording" if priced else "unknown"
    assert other.receipt.lines[0].price_source == f"the recording, as billed, for 1 of 2 replies; else {listed}"
    assert billed.cost.usd == Decimal("0.5")
    assert (other.cost.usd, other.cost.unknown_calls) == ((Decimal("0.00011"), 0) if priced else (Decimal(0), 1))


@pytest.mark.parametrize(("limit", "priced", "usd"), [(50, True, "0.06"), (50, False, "0.06"), (100, True, "0.11")])
def test_a_reply_that_is_cut_costs_its_share(
    recorded: Any, tmp_path: Path, limit: int, priced: bool, usd: str
) -> None:
    if priced:
        prices = {"models": {"a": {"input_usd_per_million_tokens": 2, "output_usd_per_million_tokens": 2}}}
        (tmp_path / "prices.json").write_text(json.dumps(prices))
    said = row("What is it?", a="This is what it is, " * 10)
    said["responses"]["a"]["cost"] = "0.11"
    options = f", max_tokens: {limit}, continuations: 0"
    try:
        result = ask(f"replay:{recorded(said)}#a", options=options)
    except RunFailed as failed:
        result = failed.result
    assert result.cost.usd == Decimal(usd)


def test_a_budget_in_dollars_holds_over_recorded_costs(recorded: Any) -> None:
    said = row("What is it?", a="This.")
    said["responses"]["a"]["cost"] = "0.11"
    with Fusion(profile="local", roles={"bulk": f"replay:{recorded(said)}#a"}) as fusion:
        assert (
            fusion.complete("What is it?", pipeline=pipeline(ASK % ", max_tokens: 100"), budget={"usd": 9}).text
            == "This."
        )
        with pytest.raises(RunFailed, match="budget"):
            fusion.complete("What is it?", pipeline=pipeline(ASK % ", max_tokens: 100"), budget={"usd": 0.01})


@pytest.mark.parametrize("given", [-1, "-0.1", "free", True, [1], float("nan"), "Infinity", {"usd": 1}, ""])
def test_a_cost_that_is_no_amount_is_named_with_its_line(recorded: Any, given: Any) -> None:
    said = row("What is it?", a="This.")
    said["responses"]["a"]["cost"] = given
    with pytest.raises(UsageError, match=r"some\.jsonl:1: `cost` of 'a': expected dollars as billed, 0 or more"):
        ask(f"replay:{recorded(said)}#a")


def test_a_prompt_without_a_record_is_refused_and_ends_the_run(recorded: Any) -> None:
    model = f"replay:{recorded(row('What is it?', a='This.'))}#a"
    with pytest.raises(RunFailed, match=r"holds no reply of 'a' to this prompt: 'Who is it\?'"):
        ask(model, "Who is it?", ", on_error: skip")


def test_what_would_need_new_text_fails(recorded: Any) -> None:
    model = f"replay:{recorded(row('What is it?', a='This.'))}#a"
    with pytest.raises(RunFailed, match="holds no reply of"):
        ask(model, "What is it?", ", schema: {answer: string}")


def test_a_recorded_answer_can_have_the_shape_asked_for(recorded: Any) -> None:
    model = f"replay:{recorded(row('What is it?', a=json.dumps({'answer': 'this'})))}#a"
    assert ask(model, "What is it?", ", schema: {answer: string}").data == {"answer": "this"}


def test_an_answer_beyond_the_limit_is_cut_off(recorded: Any) -> None:
    model = f"replay:{recorded(row('What is it?', a='This.'))}#a"
    with pytest.raises(RunFailed, match="to this prompt: 'Your answer was cut off"):
        ask(model, "What is it?", ", max_tokens: 99")


def test_a_folder_holds_many_recordings(recorded: Any, tmp_path: Path) -> None:
    recorded(row("one", a="1"), name="one.jsonl")
    recorded(row("two", a="2"), name="two.jsonl")
    assert [ask(f"replay:{tmp_path}#a", question).text for question in ("one", "two")] == ["1", "2"]


def test_a_model_is_named_by_the_beginning_of_its_name_alone(recorded: Any) -> None:
    path = recorded(row("What is it?", **{"gpt-mini": "mini", "gpt-large": "large", "o": "o"}))
    assert ask(f"replay:{path}#gpt-m").text == "mini"
    with pytest.raises(UsageError, match="'gpt' may be any of gpt-large, gpt-mini"):
        ask(f"replay:{path}#gpt")
    with pytest.raises(UsageError, match="no replies of 'gtp-mini'; did you mean 'gpt-mini'"):
        ask(f"replay:{path}#gtp-mini")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("replay:some.jsonl", "write it as replay:FILE#MODEL"),
        ("replay:#a", "write it as replay:FILE#MODEL"),
        ("replay:no-such.jsonl#a", "cannot read the recording 'no-such.jsonl': No such file"),
    ],
)
def test_a_model_that_is_no_recording_is_refused_before_the_run(model: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(model)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("no json", r"some\.jsonl:1: invalid JSON"),
        ("[]", "a record needs `prompt`"),
        ('{"prompt": "p", "responses": {"a": {"text": "t"}}}', "a record needs `prompt`"),
    ],
)
def test_a_broken_recording_is_named_with_its_line(recorded: Any, line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(f"replay:{recorded(line)}#a")


def test_broken_compression_and_prices_and_an_empty_folder_are_named(recorded: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recording in"):
        ask(f"replay:{tmp_path}#a")
    broken = recorded("not compressed", name="broken.jsonl.xz")
    with pytest.raises(UsageError, match="cannot read the recording"):
        ask(f"replay:{broken}#a")
    path = recorded(row("What is it?", a="This."))
    (tmp_path / "prices.json").write_text('{"models": {"a": {}}}')
    with pytest.raises(UsageError, match="holds no prices"):
        ask(f"replay:{path}#a")


def test_the_recordings_that_lie_in_the_benchmarks_can_be_read() -> None:
    with lzma.open(SHIPPED / "zeroeval_gsm8k.jsonl.xz", "rt") as lines:
        first = json.loads(next(lines))
    result = ask(f"replay:{SHIPPED}#gpt-4o-mini", first["prompt"])
    assert result.text == first["responses"]["gpt-4o-mini-2024-07-18"]["text"].strip()
    assert result.cost.usd > 0


@pytest.mark.parametrize(
    "stage",
    [
        "{kind: judge, over: panel, role: replayed, on_error: fail}",
        "{kind: synthesize, over: panel, role: replayed}",
        "{kind: plan, role: replayed, needs: [panel]}",
    ],
)
def test_stages_that_need_new_text_of_it_end_the_run(recorded: Any, stage: str) -> None:
    text = f"""
inputs: {{question: {{}}}}
stages:
  panel: {{kind: panel, members: [replayed, other], prompt: generate/pass-through}}
  last: {stage}
output: last
"""
    recording = recorded(row("What is it?", a="This.", b="That."))
    with Fusion(roles={"replayed": f"replay:{recording}#a", "other": f"replay:{recording}#b"}) as fusion:
        with pytest.raises(RunFailed, match="holds no reply of") as caught:
            fusion.complete("What is it?", pipeline=pipeline(text))
        assert [item.value for item in caught.value.result.stages["panel"].items if item.ok]
        assert caught.value.result.stages["last"].status == "failed"
