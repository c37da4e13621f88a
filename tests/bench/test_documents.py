"""The suite on documents: a plan from headings against everything in one call, on scripted models."""

import json
from pathlib import Path

import pytest

from benchmarks.reading.measure import YEARBOOKS, measure, measure_yearbooks
from benchmarks.reading.yearbooks import models
from fusion import Fusion
from fusion.bench import Suite, run

DOCUMENTS = Path(__file__).parents[2] / "benchmarks" / "suites" / "documents"


def test_the_scripted_suite_runs_and_the_plan_is_right_and_cheap(tmp_path: Path) -> None:
    suite = Suite.load(DOCUMENTS / "scripted.yaml")
    few = suite.tasks["yearbooks_60"].model_copy(update={"sample": 3})
    arms = {name: suite.arms[name] for name in ("plan-read-combine", "one call")}
    suite = suite.model_copy(update={"tasks": {"yearbooks_60": few}, "arms": arms, "resamples": 1000})
    with Fusion(profile="local", models=models(), store=None) as fusion:
        report = run(suite, out=tmp_path / "out", near=DOCUMENTS, fusion=fusion)
    outcomes = {(one.arm, one.item): one for one in report.results.outcomes}
    assert {one.score for (arm, _), one in outcomes.items() if arm == "plan-read-combine"} == {1.0}
    for (arm, item), one in outcomes.items():
        if arm == "one call":
            assert (outcomes["plan-read-combine", item].cost or 0) < (one.cost or 0) / 2
    assert all(item.cluster is not None for item in report.results.items)


@pytest.mark.parametrize("kind", ["sum", "difference", "highest", "lowest", "join"])
def test_a_question_of_each_kind_is_answered_and_the_strong_model_reads_a_twentieth(kind: str) -> None:
    rows = [json.loads(line) for line in YEARBOOKS.read_text("utf-8").splitlines()]
    reading, right = measure_yearbooks([row for row in rows if row["kind"] == kind][:1])
    assert right == 1
    assert reading.ratio < 0.06


def test_of_60_sections_five_named_cost_the_strong_model_less_than_a_third() -> None:
    assert measure(5).ratio < 0.3
