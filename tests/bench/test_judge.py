"""Open answers, scored by a model: of another family, in both orders, with their agreement, and labelled."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import ModelInfo, Price, Request, Say, ScriptedModel, Usage
from fusion.bench import Report
from fusion.bench.suite import Suite
from fusion.core.errors import BadResponseError, PipelineError, UsageError
from tests.conftest import said

Bench = Callable[..., Report]
REFERENCE = "the reference"
JUDGED = {"by": "judge", "model": "scripted/judge"}


def model(name: str, script: Any, family: str | None) -> ScriptedModel:
    price = Price(input=Decimal("0.000001"), output=Decimal("0.00001"))
    info = ModelInfo(
        id=name, provider="scripted", price=price, price_source="scripted", family=family, json_schema=True
    )
    return ScriptedModel(script, info=info)


def answering(request: Request) -> Any:
    """A good answer to even tasks, a bad one to odd ones."""
    number = int(said(request).split()[-1])
    return Say("good" if number % 2 == 0 else "bad", usage=Usage(input=100, output=10))


def places(request: Request) -> tuple[str, str]:
    """What stands first and second before the judge."""
    shown = said(request).partition("The first answer:")[2].partition("What makes")[0]
    first, second = shown.split("The second answer:")
    kinds = [next(word for word in ("good", "bad", REFERENCE) if word in text) for text in (first, second)]
    return kinds[0], kinds[1]


def fair(request: Request) -> Any:
    """Good is better than the reference, and bad is worse."""
    rank = {"good": 2, REFERENCE: 1, "bad": 0}
    first, second = (rank[one] for one in places(request))
    return {"reason": "so it is", "better": "first" if first > second else "second"}


def biased(request: Request) -> Any:
    """Whatever stands first is better."""
    return {"reason": "it stands first", "better": "first"}


@pytest.fixture
def tasks(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "prompt": f"Write about {n}", "gold": REFERENCE} for n in range(10)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))


def measured(bench: Bench, judge: Any, **more: Any) -> tuple[Report, ScriptedModel]:
    asked = model("scripted/judge", judge, "claude")
    contestant = model("scripted/writer", answering, "gpt")
    arms = {"a": {"model": "scripted/writer"}}
    return bench([contestant, asked], arms=arms, scorer=JUDGED, **more), asked


@pytest.mark.usefixtures("tasks")
def test_each_answer_is_compared_in_both_orders_and_the_report_says_so(bench: Bench) -> None:
    report, judge = measured(bench, fair)
    assert report.analysis.figures[0].accuracy.estimate == 0.5
    assert {one.score for one in report.results.outcomes} == {0.0, 1.0}
    assert len(judge.requests) == 10 * 2
    (note,) = [note for note in report.results.notes if "scored by a model" in note]
    assert "sums was scored by a model, scripted/judge: each answer against the reference in both orders" in note
    assert "agree in 100% of 10 answers" in note
    assert "is charged to no arm" in note
    assert note in report.analysis.notes
    assert report.analysis.figures[0].cost == pytest.approx(10 * (100 * 1e-6 + 10 * 1e-5))


@pytest.mark.usefixtures("tasks")
def test_a_judge_that_goes_by_the_place_decides_nothing(bench: Bench) -> None:
    report, _ = measured(bench, biased)
    assert {one.score for one in report.results.outcomes} == {0.5}
    assert any("agree in 0% of 10 answers" in note for note in report.results.notes)


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("gpt", "'scripted/judge' is of the family 'gpt', like the contestant 'scripted/writer'"),
        (None, "is unknown"),
    ],
)
def test_a_judge_of_a_contestants_family_is_refused(family: str | None, words: str, bench: Bench) -> None:
    judge = model("scripted/judge", fair, family)
    writer = model("scripted/writer", answering, "gpt")
    with pytest.raises(UsageError, match=words):
        bench([writer, judge], arms={"a": {"model": "scripted/writer"}}, scorer=JUDGED)
    assert writer.requests == judge.requests == []


@pytest.mark.usefixtures("tasks")
def test_a_family_that_is_not_known_is_said(bench: Bench) -> None:
    models = [model("scripted/judge", fair, "claude"), model("scripted/writer", answering, None)]
    report = bench(models, arms={"a": {"model": "scripted/writer"}}, scorer=JUDGED)
    assert any(
        "may be of the family of scripted/writer: theirs is not known" in note for note in report.results.notes
    )


@pytest.mark.usefixtures("tasks")
def test_whose_answers_a_function_or_a_file_gives_is_not_known_and_said(bench: Bench, tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "text": "good"} for n in range(10)]
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    judge = model("scripted/judge", fair, "theirs")
    report = bench([judge], scorer=JUDGED, arms={"they": {"outputs": "theirs.jsonl"}})
    assert "the judge of sums may be of the family of they: theirs is not known." in report.analysis.notes


@pytest.mark.usefixtures("tasks")
def test_a_verdict_that_does_not_come_ends_it_and_is_asked_for_again(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"the judge scripted/judge gave no verdict: .* the answers are kept"):
        measured(bench, lambda request: BadResponseError("no answer", model="scripted/judge"))
    report, judge = measured(bench, fair)
    assert report.analysis.figures[0].accuracy.estimate == 0.5
    again, unasked = measured(bench, biased)
    assert unasked.requests == []
    assert again.results.outcomes == report.results.outcomes
    assert judge.requests


def test_a_judge_without_a_model_is_told() -> None:
    text = "tasks: {a: {file: a.csv}}\nscorer: {by: judge}\narms: {a: {model: x/y}}\n"
    with pytest.raises(PipelineError, match="`by: judge` needs the judge's `model`"):
        Suite.from_yaml(text)
    with pytest.raises(PipelineError, match="have an effect with `by: judge` only"):
        Suite.from_yaml(text.replace("by: judge", "by: exact, model: x/y"))
