"""Benchmarks of compound shapes: small parts of them run, and what their pages say is what they give."""

import re
from pathlib import Path

import pytest

from benchmarks.cascades import agree, costs
from benchmarks.cascades.recorded import DEEPSEEK, MINI, SETS, SONNET, tasks
from benchmarks.reviewing import review

ROOT = Path(__file__).parents[1]


def row(name: str) -> str:
    """The README's row of a shipped pipeline, its words about when to use it left out."""
    text = (ROOT / "README.md").read_text().partition("## The pipelines that ship")[2]
    line = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)[0]
    return "|".join(line.split("|")[3:])


@pytest.mark.parametrize("case", costs.CASES, ids=lambda case: f"{case.pipeline} {case.turn}".strip())
def test_the_readme_says_what_each_pipeline_costs(case: costs.Case) -> None:
    figure = costs.measured(case)
    said = [float(number) for number in re.findall(r"\d+\.\d+", row(case.pipeline))]
    assert any(abs(figure.cost - number) <= (0.005 if number < 2 else 0.05) for number in said), figure
    counts = re.findall(r"\d+(?= strong| cheap)", row(case.pipeline))
    if re.search("revised|sections", case.turn) or re.search("a line|tokens", row(case.pipeline)):
        return  # the row gives the calls of a part of it
    assert {str(calls) for calls in (figure.strong, figure.cheap) if calls} <= set(counts)


@pytest.mark.parametrize("of", SETS)
def test_a_way_worked_out_without_the_engine_is_what_the_engine_does(of: str) -> None:
    some = tasks(of, 40)
    way = agree.Way((DEEPSEEK, MINI, "gemini-1.5-flash"), SONNET)
    right, usd = agree.worked_out(some, way, float("inf"))
    pipeline, roles = agree.routed(dict.fromkeys(SETS, way))
    route = pipeline.stages["answer"].routes[of]  # type: ignore[attr-defined]
    alone = pipeline.model_copy(update={"stages": {"answer": route}})
    used = {role: model for role, model in roles.items() if role.startswith(of)}
    outcomes, _ = agree.through(some, {of: alone}, used)
    assert [outcome.right for outcome in outcomes] == right
    assert sum(outcome.usd for outcome in outcomes) == pytest.approx(usd)


def test_the_reviewers_figures_are_those_of_its_results() -> None:
    page = (ROOT / "benchmarks" / "reviewing" / "README.md").read_text()
    for line in review.lines(review.RESULTS):
        assert line in page
