"""Every arm is held to the suite's `max_tokens`, continuations included, and what is cut is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Request, ScriptedModel
from fusion.bench import Report
from fusion.core.errors import UsageError
from tests.bench.conftest import STRONG, model, sum_of

Bench = Callable[..., Report]
Items = Callable[..., Path]

LONG = " ".join(f"word{n}" for n in range(2000))


def long(request: Request) -> str:
    """Writes on and on, and never comes to the answer."""
    return LONG


def short(request: Request) -> str:
    return f"The answer is {sum_of(request)}"


STAGES = {
    "plain": "{kind: generate, role: frontier, prompt: generate/pass-through}",
    "higher": "{kind: generate, role: frontier, prompt: generate/pass-through, max_tokens: 5000}",
    "many": "{kind: generate, role: frontier, prompt: generate/pass-through, max_tokens: 900, continuations: 20}",
    "panel": "{kind: panel, members: [frontier, frontier], min_ok: 2, prompt: generate/pass-through}",
    "cascade": "{kind: cascade, tiers: [frontier, frontier], accept: {checks: {contains: nothing}}}",
}


def pipeline(place: Path, stage: str, output: str = "answer") -> dict[str, str]:
    place.write_text(f"inputs: {{question: A question.}}\nstages:\n  answer: {stage}\noutput: {output}\n")
    return {"pipeline": place.name}


@pytest.mark.parametrize("name", [*STAGES, "nested", "single"])
@pytest.mark.parametrize("most", [100, 1000])
def test_no_arm_writes_more_than_the_suite_allows(
    items: Items, bench: Bench, tmp_path: Path, name: str, most: int
) -> None:
    items(2)
    asked = model(STRONG, long)
    if name == "single":
        arm: dict[str, Any] = {"model": STRONG}
    elif name == "nested":
        pipeline(tmp_path / "inner.yaml", STAGES["plain"])
        inner = "{kind: pipeline, pipeline: inner.yaml, inputs: {question: request}}"
        arm = pipeline(tmp_path / "outer.yaml", inner)
    else:
        arm = pipeline(tmp_path / f"{name}.yaml", STAGES[name])
    arms = {"arm": {**arm, **({} if name == "single" else {"roles": {"frontier": STRONG}})}}
    report = bench([asked], arms=arms, max_tokens=most, baselines=())
    (figures,) = report.analysis.figures
    assert all(request.max_tokens <= most for request in asked.requests)
    written: dict[tuple[int, str], int] = {}
    for request in asked.requests:
        assert request.key is not None
        answer = sum_of(request), request.key.step.partition("-continued")[0]
        written[answer] = written.get(answer, 0) + request.max_tokens
    assert max(written.values()) <= most
    assert (figures.failed, figures.cut) == (2, 2)
    assert "arm reached its output limit in 2 of 2 answers." in report.analysis.notes
    if name == "single":
        assert len(asked.requests) == 2
        assert "| arm | model | 0.0% |" in report.markdown()


@pytest.mark.parametrize(
    ("own", "most", "calls"), [(100, 1000, 4), (100, 250, 2), (300, 1000, 3), (400, 399, 1), (50, 99, 1)]
)
def test_a_lower_limit_of_a_stage_counts_and_its_continuations_share_the_suites(
    items: Items, bench: Bench, tmp_path: Path, own: int, most: int, calls: int
) -> None:
    items(1)
    asked = model(STRONG, lambda request: LONG)
    stage = f"{{kind: generate, role: frontier, prompt: generate/pass-through, max_tokens: {own}}}"
    arm = {**pipeline(tmp_path / "one.yaml", stage), "roles": {"frontier": STRONG}}
    bench([asked], arms={"arm": arm}, max_tokens=most, baselines=())
    assert [request.max_tokens for request in asked.requests][:1] == [min(own, most)]
    assert len(asked.requests) <= calls
    assert sum(request.max_tokens for request in asked.requests) <= most


def test_an_arm_that_is_not_cut_has_no_caution(items: Items, bench: Bench) -> None:
    items(3)
    report = bench([model(STRONG, short)], arms={"arm": {"model": STRONG}}, baselines=())
    assert [one.cut for one in report.analysis.figures] == [0]
    assert not any("output limit" in note for note in report.analysis.notes)


def test_outside_of_a_benchmark_texts_are_continued_as_before(tmp_path: Path) -> None:
    asked = ScriptedModel(lambda request: LONG, name="scripted/long")
    pipeline(
        tmp_path / "one.yaml", "{kind: generate, role: frontier, prompt: generate/pass-through, max_tokens: 100}"
    )
    with Fusion(models={"scripted/long": asked}, roles={"frontier": "scripted/long"}, profile="local") as fusion:
        with pytest.raises(Exception, match="cut off at its output limit"):
            fusion.complete("What is 1+1?", pipeline=tmp_path / "one.yaml")
        free = len(asked.requests)
        with pytest.raises(Exception, match="cut off at its output limit"):
            fusion.using(answer_tokens=150).complete("What is 2+2?", pipeline=tmp_path / "one.yaml")
    assert free > 1
    assert len(asked.requests) - free == 1


def test_thinking_that_leaves_no_room_under_the_suites_limit_is_refused(
    items: Items, bench: Bench, tmp_path: Path
) -> None:
    items(1)
    (tmp_path / "think.yaml").write_text(
        "inputs: {question: A question.}\n"
        f"roles: {{frontier: {{chain: [{STRONG}], thinking_budget: 4000}}}}\n"
        "stages:\n  answer: {kind: generate, role: frontier, max_tokens: 8000}\noutput: answer\n"
    )
    with pytest.raises(UsageError, match="leaves nothing of `max_tokens` 2000"):
        bench([model(STRONG, short)], arms={"arm": {"pipeline": "think.yaml"}}, max_tokens=2000)
