"""Latency of arms: a call that arms share counts for each of them with the time that it took once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Request, Say
from fusion.bench import Report
from fusion.bench.report.results import Outcome
from fusion.core.result import Times
from tests.bench.conftest import CHEAP, STRONG, TWO_TIERS, knowing, model
from tests.conftest import said

Bench = Callable[..., Report]
Items = Callable[..., Path]

EACH = 0.4
"""Seconds of a call."""
PANEL = """
inputs: {question: A question.}
roles: {bulk: {chain: [scripted/cheap]}}
stages:
  several: {kind: panel, members: [{role: bulk, samples: 3}], prompt: generate/pass-through, max_tokens: 100}
  answer: {kind: generate, role: bulk, prompt: "{{ request }} / {{ several[0].value }}", max_tokens: 100}
output: answer
"""
COPY = TWO_TIERS + "# the same\n"
A, B = {"model": CHEAP}, {"model": STRONG}
TWO, SAME, SEVERAL = {"pipeline": "two.yaml"}, {"pipeline": "copy.yaml"}, {"pipeline": "panel.yaml"}

SHARED: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    "the first call of two": ({"a": A, "two": TWO}, {"a": 1, "two": 1}, 1),
    "all calls": ({"two": TWO, "same": SAME}, {"two": 1, "same": 1}, 1),
    "calls of several stages": ({"one": SEVERAL, "other": {**SEVERAL, "roles": {}}}, {"one": 2, "other": 2}, 1),
    "calls in flight": ({"a": A, "again": A}, {"a": 1, "again": 1}, 16),
    "calls in flight of several stages": ({"two": TWO, "same": SAME, "a": A}, {"two": 1, "same": 1, "a": 1}, 16),
}
"""Arms, the calls in turn of an answer of each, and the concurrency."""


@pytest.fixture(autouse=True)
def pipelines(tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(COPY)
    (tmp_path / "panel.yaml").write_text(PANEL)


def slow(name: str) -> Any:
    """Knows everything, and takes its time."""
    knows = knowing(lambda total: False)

    def script(request: Request) -> Say:
        return knows(request) if "/" not in said(request) else Say(said(request).rpartition("/")[2])

    return model(name, script, delay=EACH)


def medians(report: Report) -> dict[str, float]:
    return {one.arm: one.latency[0] for one in report.analysis.figures if one.latency is not None}


@pytest.mark.parametrize("what", SHARED)
def test_each_arm_has_the_latency_of_the_calls_that_it_shares(items: Items, bench: Bench, what: str) -> None:
    items(4)
    arms, in_turn, concurrency = SHARED[what]
    report = bench(
        [slow(CHEAP), slow(STRONG)],
        arms=arms,
        store=True,
        baselines=[],
        max_tokens=100,
        options={"concurrency": concurrency},
    )
    assert sum(one.reused for one in report.results.outcomes) > 0
    found = medians(report)
    models = {one.arm: one.times.model for one in report.analysis.figures if one.times is not None}
    for arm, calls in in_turn.items():
        assert found[arm] >= 0.95 * calls * EACH, arm
        assert models[arm] < (calls + 0.9) * EACH, arm


def test_the_latency_of_an_answer_is_split_by_cause(items: Items, bench: Bench) -> None:
    items(4)
    report = bench([slow(CHEAP), slow(STRONG)], arms={"a": A, "two": TWO}, store=True, baselines=[], max_tokens=100)
    for one in report.results.outcomes:
        assert one.times is not None
        assert one.times.total == pytest.approx(one.latency)
        assert one.times.model >= 0.9 * EACH
    assert "## Time of an answer\n\n| arm | mean | models |" in report.markdown()
    assert "<h2>Time of an answer</h2>" in report.page()


def test_a_call_of_an_earlier_start_counts_with_its_time(items: Items, bench: Bench) -> None:
    items(4)
    models = [slow(CHEAP), slow(STRONG)]
    first = bench(models, arms={"two": TWO, "b": B}, store=True, baselines=[], max_tokens=100)
    later = bench(models, arms={"two": TWO, "b": B, "a": A, "same": SAME}, store=True, baselines=[], max_tokens=100)
    assert len(models[0].requests) == 4
    found = medians(later)
    assert found["two"] == medians(first)["two"]
    assert found["a"] >= 0.95 * EACH
    assert found["same"] >= 0.95 * EACH


def test_the_answers_of_an_older_version_that_left_reused_calls_out_are_not_counted(
    items: Items, bench: Bench
) -> None:
    items(4)
    report = bench([slow(CHEAP), slow(STRONG)], arms={"a": A, "two": TWO}, store=True, baselines=[], max_tokens=100)
    old = [one.model_copy(update={"times": None, "latency": 0.001 if one.reused else 5}) for one in outcomes(report)]
    shown = Report(report.results.model_copy(update={"outcomes": tuple(old)}))
    assert set(medians(shown).values()) == {5.0}
    assert any("answers that shared no call with another arm" in note for note in shown.analysis.notes)
    assert "Time of an answer" not in shown.markdown()


def outcomes(report: Report) -> tuple[Outcome, ...]:
    return report.results.outcomes


def test_a_split_survives_the_file_of_results(items: Items, bench: Bench, tmp_path: Path) -> None:
    items(4)
    report = bench([slow(CHEAP)], arms={"a": A}, baselines=[], max_tokens=100)
    again = type(report.results).load(tmp_path / "out" / "results.json")
    assert again.outcomes == report.results.outcomes
    assert all(isinstance(one.times, Times) for one in again.outcomes)
