"""A reviewer, its template and its threshold are chosen by the wrong results that they catch."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, Price, Request, Say, ScriptedModel, Usage, calibrate_review
from fusion.client.calibration.reviews import CalibratedReview
from fusion.core.errors import InputError, PipelineError
from tests.conftest import said

REVIEW = """
inputs: {lines: The sums.}
roles: {bulk: {chain: [scripted/worker]}, frontier: {chain: [scripted/knows]}, other: {chain: [scripted/blind]}}
stages:
  read: {kind: map, over: inputs.lines.splitlines(), role: bulk, prompt: "Work: {{ item.source }}"}
  check:
    kind: review
    over: read
    role: frontier
    prompt: "Review: {{ item.source }} -> {{ item.value }}{% if confident %} How sure?{% endif %}"
    revisions: 1
    escalate_to: frontier
  answer: {kind: merge, over: check, role: frontier}
output: answer
"""
CASCADE = """
inputs: {question: A sum.}
roles: {bulk: {chain: [scripted/worker]}, frontier: {chain: [scripted/knows]}, other: {chain: [scripted/blind]}}
stages:
  answer:
    kind: cascade
    prompt: "Work: {{ inputs.question }}"
    tiers: [bulk, frontier]
    accept: {judge: frontier, judge_prompt: "Review: {{ inputs.question }} -> {{ candidate }}", confidence: 0.5}
output: answer
"""
SUM = re.compile(r"(\d+)\+(\d+)(?: -> (\d+))?")
Judge = Callable[[int, int], tuple[str, float]]


def stage_of(pipeline: Pipeline | None, name: str = "check") -> Any:
    assert pipeline is not None
    return pipeline.stages[name]


def read(text: str) -> tuple[int, int]:
    """The right value of the sum in a text, and the value that is judged."""
    found = SUM.search(text)
    assert found
    return int(found[1]) + int(found[2]), int(found[3] or -1)


def works(request: Request) -> Any:
    """Is off by one where the sum ends in 2: one in five."""
    right, _ = read(said(request))
    return Say(str(right + 1 if right % 10 == 2 else right), usage=Usage(input=100, output=10))


def reviewer(judge: Judge) -> Callable[[Request], Any]:
    def script(request: Request) -> Any:
        words = said(request)
        assert words.startswith("Review"), "nothing but the review is asked"
        verdict, confidence = judge(*read(words))
        issues = [] if verdict == "accept" else [{"quote": "", "problem": "wrong"}]
        asked = request.json_schema["properties"] if request.json_schema else {}
        if verdict not in asked["verdict"]["enum"]:  # that of a cascade's judge
            verdict = "escalate"
        known = {"issues": issues, "verdict": verdict, "confidence": confidence, "problem": "wrong"}
        reply = {name: known[name] for name in asked}
        return Say(json.dumps(reply), usage=Usage(input=1000, output=100))

    return script


KNOWS: Judge = lambda right, value: ("accept" if right == value else "revise", 0.9)  # noqa: E731
BLIND: Judge = lambda right, value: ("accept", 0.9)  # noqa: E731
STRICT: Judge = lambda right, value: ("revise", 0.9)  # noqa: E731
HALF: Judge = lambda right, value: ("accept" if right == value or right % 20 == 2 else "revise", 0.9)  # noqa: E731
UNSURE: Judge = lambda right, value: ("accept", 0.8 if right == value else 0.4)  # noqa: E731
JUDGES = {"knows": KNOWS, "blind": BLIND, "strict": STRICT, "half": HALF, "unsure": UNSURE}
DOLLARS = {"knows": "0.01", "blind": "0.001", "strict": "0.001", "half": "0.002", "unsure": "0.005"}


@pytest.fixture
def models() -> dict[str, ScriptedModel]:
    worker = ScriptedModel(works, name="scripted/worker")
    made = {
        name: ScriptedModel(
            reviewer(judge),
            name=f"scripted/{name}",
            price=Price(input=Decimal(DOLLARS[name]) / 2000, output=Decimal(DOLLARS[name]) / 200),
        )
        for name, judge in JUDGES.items()
    }
    return {"worker": worker, **made}


@pytest.fixture
def fusion(models: dict[str, ScriptedModel], tmp_path: Path) -> Iterator[Fusion]:
    known = {one.info.id: one for one in models.values()}
    with Fusion(profile="local", models=known, store=tmp_path / "calls.db") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return path

    return write


def examples(count: int = 8) -> list[tuple[str, Any]]:
    """Texts of five sums each, one of which is worked wrongly."""
    return [
        ("\n".join(f"{5 * at + n}+{5 * at + n}" for n in range(5)), [str(2 * (5 * at + n)) for n in range(5)])
        for at in range(count)
    ]


def chosen(fusion: Fusion, path: Path, *names: str, refuse: float = 0.2, **options: Any) -> CalibratedReview:
    reviewers = [f"scripted/{name}" for name in names]
    given = {"items": True, "stage": "check", **options}
    return calibrate_review(
        fusion, path, given.pop("examples", examples()), refuse=refuse, reviewers=reviewers, **given
    )


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (("knows", "blind", "strict"), "knows"),
        (("half", "knows"), "knows"),
        (("half", "blind"), "half"),
        (("strict", "half"), "half"),
        (("knows",), "knows"),
    ],
)
def test_the_reviewer_that_catches_most_is_chosen(
    fusion: Fusion, file: Any, names: tuple[str, ...], best: str
) -> None:
    found = chosen(fusion, file(REVIEW), *names)
    assert found.chosen is not None
    assert found.chosen.candidate.reviewer == f"scripted/{best}"
    assert [one.candidate.reviewer for one in found.candidates] == [f"scripted/{name}" for name in names]


@pytest.mark.parametrize("names", [("blind",), ("strict",), ("blind", "strict"), ("unsure",), ("blind", "unsure")])
def test_no_reviewer_is_chosen_if_none_pays(fusion: Fusion, file: Any, names: tuple[str, ...]) -> None:
    found = chosen(fusion, file(REVIEW), *names)
    assert (found.chosen, found.pipeline) == (None, None)
    assert "no reviewer pays" in found.reason
    assert "Leave the review out" in found.evidence


def test_figures_are_of_the_same_results_for_all(fusion: Fusion, file: Any, models: dict[str, ScriptedModel]) -> None:
    found = chosen(fusion, file(REVIEW), "knows", "blind", "strict", "half")
    figures = {
        one.candidate.reviewer.removeprefix("scripted/"): (one.wrong, one.caught, one.right, one.refused, one.calls)
        for one in found.candidates
    }
    assert figures == {
        "knows": (8, 8, 32, 0, 40),
        "blind": (8, 0, 32, 0, 40),
        "strict": (8, 8, 32, 32, 40),
        "half": (8, 4, 32, 0, 40),
    }
    assert [one.usd for one in found.candidates] == [
        Decimal("0.4"),
        Decimal("0.04"),
        Decimal("0.04"),
        Decimal("0.08"),
    ]
    assert len(models["worker"].requests) == 40  # once for all reviewers
    assert found.candidates[0].caught_interval[0] > 0.6
    assert found.candidates[1].caught_interval[1] == pytest.approx(0.369, abs=0.001)


def test_the_bound_is_shared_by_the_candidates(fusion: Fusion, file: Any) -> None:
    alone = chosen(fusion, file(REVIEW), "knows").candidates[0]
    among = chosen(fusion, file(REVIEW), "knows", "half", "blind").candidates[0]
    assert alone.bound == pytest.approx(1 - 0.1 ** (1 / 32))
    assert among.bound == pytest.approx(1 - (0.1 / 3) ** (1 / 32))


def test_the_cheapest_of_equals_is_chosen(fusion: Fusion, file: Any, models: dict[str, ScriptedModel]) -> None:
    found = chosen(fusion, file(REVIEW), "knows", "unsure", thresholds=[0.5])
    assert found.chosen is not None
    assert found.chosen.candidate.reviewer == "scripted/unsure"  # as good as the other one, for half the money


@pytest.mark.parametrize(
    ("thresholds", "best"),
    [([0.5], 0.5), ([0.0, 0.5], 0.5), ([0.3, 0.6, 0.9], 0.6), ([0.0], None), ([0.9], None)],
)
def test_thresholds_are_read_off_the_same_verdicts(
    fusion: Fusion,
    file: Any,
    models: dict[str, ScriptedModel],
    thresholds: list[float],
    best: float | None,
) -> None:
    found = chosen(fusion, file(REVIEW), "unsure", thresholds=thresholds)
    assert (None if found.chosen is None else found.chosen.candidate.threshold) == best
    assert len(found.candidates) == len(thresholds)
    assert len(models["unsure"].requests) == 40


def test_templates_are_candidates_too(fusion: Fusion, file: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts" / "own").mkdir(parents=True)
    (tmp_path / "prompts" / "own" / "mine.md.j2").write_text("Review again: {{ item.source }} -> {{ item.value }}")
    own = "Review: {{ item.source }} -> {{ item.value }}"
    found = chosen(fusion, file(REVIEW), "knows", "blind", prompts=["own/mine", own])
    assert [(one.candidate.reviewer, one.candidate.prompt) for one in found.candidates] == [
        ("scripted/knows", "own/mine"),
        ("scripted/knows", own),
        ("scripted/blind", "own/mine"),
        ("scripted/blind", own),
    ]
    assert stage_of(found.pipeline).prompt == "own/mine"


def test_the_stage_itself_is_the_candidate_by_default(fusion: Fusion, file: Any) -> None:
    found = calibrate_review(fusion, file(REVIEW), examples(), refuse=0.2, items=True)
    (one,) = found.candidates
    assert (one.candidate.reviewer, one.candidate.threshold, one.caught) == ("frontier", None, 8)
    assert stage_of(found.pipeline) == fusion.load(file(REVIEW)).stages["check"]


def test_roles_are_reviewers_too(fusion: Fusion, file: Any) -> None:
    found = calibrate_review(
        fusion, file(REVIEW), examples(), refuse=0.2, items=True, reviewers=["other", "frontier", "scripted/half"]
    )
    assert [one.caught for one in found.candidates] == [0, 8, 4]
    assert [one.use for one in stage_of(found.pipeline).role] == ["frontier"]
    assert found.pipeline is not None
    assert "reviewer" not in found.pipeline.roles


def test_the_written_pipeline_asks_the_chosen_model_in_that_stage_only(fusion: Fusion, file: Any) -> None:
    found = chosen(fusion, file(REVIEW), "half", "blind")
    assert found.pipeline is not None
    again = Pipeline.from_yaml(found.pipeline.to_yaml(comments={("stages", "check"): found.evidence}))
    assert again.roles["reviewer"].chain == ("scripted/half",)
    assert [one.use for one in stage_of(again).role] == ["reviewer"]
    assert (stage_of(again).revisions, stage_of(again).escalate_to) == (1, "frontier")
    assert again.roles["frontier"].chain == ("scripted/knows",)
    assert list(again.stages) == ["read", "check", "answer"]


# A cascade's judge.


@pytest.mark.parametrize(
    ("names", "thresholds", "best"),
    [
        (("knows", "blind"), (), ("knows", 0.5)),
        (("unsure",), (), ("unsure", 0.5)),
        (("unsure", "blind"), (0.0, 0.6), ("unsure", 0.6)),
        (("blind", "strict"), (), None),
        (("half", "knows"), (0.2,), ("knows", 0.2)),
    ],
)
def test_the_judge_of_a_cascade_is_chosen_too(
    fusion: Fusion,
    file: Any,
    models: dict[str, ScriptedModel],
    names: tuple[str, ...],
    thresholds: tuple[float, ...],
    best: tuple[str, float] | None,
) -> None:
    sums = [(f"{n}+{n}", str(2 * n)) for n in range(40)]
    found = chosen(fusion, file(CASCADE), *names, thresholds=thresholds, stage=None, items=False, examples=sums)
    assert {one.wrong for one in found.candidates} == {8}
    assert {one.calls for one in found.candidates} == {40}
    assert len(models["worker"].requests) == 40
    if best is None:
        assert found.chosen is None
        return
    assert found.chosen is not None
    assert (found.chosen.candidate.reviewer, found.chosen.candidate.threshold) == (f"scripted/{best[0]}", best[1])
    accept = stage_of(found.pipeline, "answer").accept
    assert (accept.judge, accept.confidence) == ("reviewer", best[1])


# Mistakes.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"examples": []}, "no examples to calibrate with"),
        ({"refuse": 0}, "`refuse` is 0; give a share between 0 and 1"),
        ({"delta": 1.5}, "`delta` is 1.5"),
        ({"thresholds": [2.0]}, "threshold 2.0: give a confidence from 0 to 1"),
        ({"stage": "read"}, "has no single review or cascade with a judge named 'read'; there are: check"),
        ({"items": False}, "the review judges 5 results of one example; give the right one of each"),
    ],
)
def test_mistakes_are_named(fusion: Fusion, file: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        chosen(fusion, file(REVIEW), "knows", **options)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("review/nothing", "review/nothing"),
        ("Review {{ nonsense }}", "nonsense"),
        ("Review {{ item.value", "prompt"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_before_any_call(
    fusion: Fusion, file: Any, models: dict[str, ScriptedModel], prompt: str, named: str
) -> None:
    with pytest.raises(PipelineError, match=named):
        chosen(fusion, file(REVIEW), "knows", prompts=[prompt])
    assert not models["worker"].requests


def test_a_review_in_batches_keeps_its_template(fusion: Fusion, file: Any) -> None:
    text = REVIEW.replace("    revisions: 1", "    revisions: 1\n    batch: 2")
    with pytest.raises(InputError, match="'check' judges 2 values in one call; set `batch: 1` to choose its prompt"):
        chosen(fusion, file(text), "knows", prompts=["review/line"])


@pytest.mark.parametrize(
    ("wrong", "right", "chosen_one"),
    [
        # of 8 wrong and 32 right results, so many are refused
        (1, 0, False),
        (2, 0, True),
        (1, 1, False),
        (2, 2, False),
        (3, 1, True),
    ],
)
def test_a_reviewer_no_better_than_chance_is_not_chosen(
    file: Any, models: dict[str, ScriptedModel], wrong: int, right: int, chosen_one: bool
) -> None:
    caught, refused = [2, 12, 22, 32, 42][:wrong], [4, 6, 8][:right]

    def judge(sum_of: int, value: int) -> tuple[str, float]:
        return ("revise" if sum_of in (refused if sum_of == value else caught) else "accept"), 0.9

    own = ScriptedModel(reviewer(judge), name="scripted/own")
    known = {one.info.id: one for one in (*models.values(), own)}
    with Fusion(profile="local", models=known) as other:
        found = chosen(other, file(REVIEW), "own", refuse=0.3)
    (one,) = found.candidates
    assert (one.caught, one.refused) == (wrong, right)
    assert (found.chosen is not None) is chosen_one


def test_nothing_wrong_is_nothing_to_catch(fusion: Fusion, file: Any) -> None:
    found = chosen(fusion, file(REVIEW), "knows", examples=[("4+4\n5+5", ["8", "10"])])
    assert found.reason == "no reviewer pays: none of the 2 results is wrong, so there is nothing to catch"


def test_results_without_a_known_right_one_are_left_out(fusion: Fusion, file: Any) -> None:
    found = chosen(fusion, file(REVIEW), "knows", examples=[("1+1\n4+4\n5+5\n6+6", ["2", None, "10"])])
    assert (found.candidates[0].wrong, found.candidates[0].right) == (1, 1)
