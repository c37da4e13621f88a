"""What a benchmark spends: a call that arms share once, recorded or not, and what functions say that they cost."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Request
from fusion.bench import Report, Suite, run, tune
from fusion.core.errors import BudgetError, ModelTimeoutError
from fusion.core.types import Limits
from tests.bench.conftest import CHEAP, TWO_TIERS, knowing, model, sum_of

DOLLARS = {"cheap": 1, "strong": 10}
"""For a million tokens."""
ARMS = {
    "two": {"pipeline": "two.yaml"},
    "a": {"model": "replay:said.jsonl#cheap"},
    "b": {"model": "replay:said.jsonl#strong"},
}
ONCE = 20 + 20
"""Every item to both models."""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """20 sums with the answers of two models; the pipeline asks one, and the other where that is unsure."""
    rows: list[dict[str, Any]] = []
    for n in range(20):
        answers = {"cheap": "unsure" if n % 5 == 4 else f"{2 * n}", "strong": f"{2 * n}"}
        said = {name: {"text": text, "prompt_tokens": 90, "completion_tokens": 10} for name, text in answers.items()}
        rows.append({"id": f"q{n}", "prompt": f"What is {n}+{n}?", "gold": str(2 * n), "responses": said})
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("id", "prompt", "gold")
    items = [{name: row[name] for name in names} for row in rows]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    each = [f"{side}_usd_per_million_tokens" for side in ("input", "output")]
    prices = {name: dict.fromkeys(each, usd) for name, usd in DOLLARS.items()}
    (tmp_path / "prices.json").write_text(json.dumps({"models": prices}))
    two = TWO_TIERS.replace("[scripted/", f"[replay:{tmp_path / 'said.jsonl'}#")
    (tmp_path / "two.yaml").write_text(two)
    return tmp_path


@pytest.fixture
def replayed(recorded: Path) -> Callable[..., Report]:
    def start(*, out: str = "out", arms: Any = ARMS, concurrency: int = 16, **suite: Any) -> Report:
        given = {"tasks": {"sums": {"file": "sums.jsonl"}}, "scorer": "number", "on": "all", "arms": arms}
        more = {"max_tokens": 100, "baselines": [], "resamples": 2000}
        read = Suite.model_validate({**given, **more, **suite})
        with Fusion(profile="local") as fusion:
            return run(read, out=recorded / out, near=recorded, fusion=fusion, concurrency=concurrency)

    return start


def costs(report: Report) -> dict[str, tuple[Any, ...]]:
    return {one.arm: (one.cost, one.tokens, one.calls, one.escalated) for one in report.analysis.figures}


# Recorded models.


def test_a_recorded_call_that_arms_share_draws_on_the_budget_once(replayed: Callable[..., Report]) -> None:
    report = replayed(budget={"calls": ONCE})
    assert (len(report.results.items), report.results.stopped) == (20, "")
    assert sum(one.calls for one in report.results.outcomes) == ONCE + 20 + 4
    assert sum(one.reused for one in report.results.outcomes) == 20 + 4
    assert report.results.paid is not None
    assert report.results.paid.calls == ONCE
    once = 20 * 100e-6 * sum(DOLLARS.values())
    assert float(report.results.paid.usd) == pytest.approx(once)
    assert f"Paid in total: ${once:.5f} for 40 calls" in report.markdown()
    assert f"Paid in total: ${once:.5f} for 40 calls" in report.page()
    short = replayed(budget={"calls": ONCE - 1}, out="short")
    assert "would pass the calls limit" in short.results.stopped


def test_every_arm_still_pays_for_all_of_its_own(replayed: Callable[..., Report]) -> None:
    together = costs(replayed())
    for name, arm in ARMS.items():
        assert costs(replayed(arms={name: arm}, out=name))[name] == together[name]
    assert together["two"][0] == pytest.approx(100e-6 * (20 * DOLLARS["cheap"] + 4 * DOLLARS["strong"]))


def test_a_reply_that_is_recorded_has_no_latency_and_none_is_spoken_of(replayed: Callable[..., Report]) -> None:
    report = replayed()
    assert not any("latency" in note for note in report.analysis.notes)


@pytest.mark.parametrize("calls", [1, 7, 23])
def test_stopped_and_started_again_the_shared_calls_are_counted_once_too(
    replayed: Callable[..., Report], calls: int
) -> None:
    try:
        first = replayed(budget={"calls": calls}, concurrency=3)
    except BudgetError:
        first = None
    assert first is None or first.results.stopped
    whole = replayed(budget={"calls": ONCE})
    assert (len(whole.results.items), whole.results.stopped) == (20, "")
    assert costs(whole) == costs(replayed(out="at-once"))


def test_samples_are_calls_of_their_own(replayed: Callable[..., Report]) -> None:
    arms = {"a": ARMS["a"]}
    assert replayed(arms=arms, epochs=2, budget={"calls": 40}).results.stopped == ""
    assert replayed(arms=arms, epochs=2, budget={"calls": 39}, out="short").results.stopped


def test_what_a_search_spent_is_what_asking_would_have_come_to(recorded: Path) -> None:
    checks = "expression: {any: [\"'unsure' not in value\", \"'u' not in value\", \"value == 'so'\"]}"
    two = (recorded / "two.yaml").read_text().replace("expression: \"'unsure' not in value\"", checks)
    (recorded / "two.yaml").write_text(two)
    (recorded / "suite.yaml").write_text(
        "tasks: {sums: {file: sums.jsonl}}\nscorer: number\narms: {two: {pipeline: two.yaml}}\nmax_tokens: 100\n"
        "resamples: 2000\nbaselines: []\n"
    )
    with Fusion(profile="local") as fusion:
        tuned, _ = tune(recorded / "suite.yaml", out=recorded / "tuned", fusion=fusion)
        again, _ = tune(recorded / "suite.yaml", out=recorded / "tuned", fusion=fusion)
        capped, _ = tune(
            recorded / "suite.yaml", out=recorded / "capped", fusion=fusion, budget=Limits(calls=2 * tuned.items)
        )
    assert len(tuned.finalists) + len(tuned.dropped) == 3 + 2
    assert tuned.spent == Decimal(tuned.items * 100 * sum(DOLLARS.values())) / 1_000_000
    assert again.spent == tuned.spent
    assert not capped.stopped
    assert [(one.name, one.cost) for one in capped.finalists] == [(one.name, one.cost) for one in tuned.finalists]


# Starts, one after another.


def test_what_failed_attempts_may_have_cost_counts_in_the_next_start_too(
    items: Callable[..., Path], bench: Callable[..., Report]
) -> None:
    items(10)

    def failing(request: Request) -> Any:
        wrong = sum_of(request) == 6
        return ModelTimeoutError("late", model=CHEAP) if wrong else knowing(lambda total: False)(request)

    arms = {"a": {"model": CHEAP}}
    first = bench([model(CHEAP, failing)], arms=arms, store=True)
    again = bench([model(CHEAP, failing)], arms=arms, store=True)
    assert first.results.paid is not None
    assert first.results.paid.calls > 9
    assert again.results.paid == first.results.paid
    assert again.results.outcomes == first.results.outcomes


def test_two_arms_that_are_the_same_are_paid_once_in_every_start(
    items: Callable[..., Path], bench: Callable[..., Report], replayed: Callable[..., Report]
) -> None:
    items(10)
    live = {name: {"model": CHEAP} for name in "ab"}
    asked = [bench([model(CHEAP, knowing(lambda total: False))], arms=live, store=True) for _ in range(2)]
    recorded = [replayed(arms=dict.fromkeys("ab", ARMS["a"]), out="same") for _ in range(2)]
    paid = [one.results.paid for one in (*asked, *recorded)]
    assert [None if one is None else one.calls for one in paid] == [10] * 4


# Functions, which are held by nothing and say afterwards.


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """An arm that knows every sum, and says this of it."""

    def write(says: str) -> dict[str, str]:
        name = f"told_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(
            "asked = []\n\n\ndef add(prompt):\n    asked.append(prompt)\n"
            f"    return {{'text': str(eval(prompt[8:-1])), {says}}}\n"
        )
        return {"python": f"{name}:add"}

    return write


def test_what_a_function_says_it_cost_is_counted_and_ends_it_at_the_cap(
    items: Callable[..., Path], bench: Callable[..., Report], function: Callable[[str], dict[str, str]]
) -> None:
    items(40)
    arms = {"mine": function("'cost': 0.25, 'calls': 1")}
    given: dict[str, Any] = {"arms": arms, "options": {"concurrency": 4}}
    report = bench([], budget={"usd": "2"}, **given)
    assert 8 <= len(report.results.items) <= 8 + 3
    assert "the usd limit of 'the benchmark' is reached: limit $2, spent $2" in report.results.stopped
    again = bench([], budget={"usd": "2"}, **given)
    assert again.results.outcomes == report.results.outcomes
    whole = bench([], budget={"usd": "10"}, **given)
    assert (len(whole.results.items), whole.results.stopped) == (40, "")


def test_what_a_function_spent_is_gone_for_the_models_too(
    items: Callable[..., Path], bench: Callable[..., Report], function: Callable[[str], dict[str, str]]
) -> None:
    items(40)
    asked = model(CHEAP, knowing(lambda total: False))
    arms = {"mine": function("'calls': 3"), "a": {"model": CHEAP}}
    report = bench([asked], arms=arms, budget={"calls": 40}, options={"concurrency": 1})
    assert len(report.results.items) in (9, 10)
    assert 9 <= len(asked.requests) <= 13
    assert "calls limit of 'the benchmark'" in report.results.stopped


def test_a_function_that_says_nothing_is_said_to_be_beyond_the_limit(
    items: Callable[..., Path], bench: Callable[..., Report], function: Callable[[str], dict[str, str]]
) -> None:
    items(4)
    report = bench([], arms={"mine": function("")}, budget={"usd": "2"})
    assert "4 answers of mine report no cost: the limit of $2 leaves them out." in (report.analysis.notes)


def test_answers_of_a_file_were_paid_elsewhere(
    items: Callable[..., Path], bench: Callable[..., Report], tmp_path: Path
) -> None:
    items(4)
    rows = [{"id": f"q{n}", "text": str(2 * n), "cost": 5, "calls": 9} for n in range(4)]
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = bench([], arms={"theirs": {"outputs": "theirs.jsonl"}}, budget={"usd": "1"})
    assert (len(report.results.items), report.results.stopped) == (4, "")


def test_simulated_prices_draw_on_no_budget_the_second_time_either(
    items: Callable[..., Path], bench: Callable[..., Report]
) -> None:
    items(4)
    arms = {"a": {"model": CHEAP}}
    prices = {CHEAP: {"input": 2000, "output": 2000}}
    for _ in range(2):
        report = bench([model(CHEAP, knowing(lambda total: False))], arms=arms, prices=prices, budget={"usd": "1"})
        assert (len(report.results.items), report.results.stopped) == (4, "")
        assert report.analysis.figures[0].cost == pytest.approx(4 * 1100 * 2e-3)
