"""vote: what is counted, what it weighs, what happens where nothing wins."""

from typing import Any

import pytest

from fusion import ScriptedModel, Vote
from fusion.core.errors import ModelConnectionError, PipelineError
from tests.conftest import pipeline, run

pytestmark = pytest.mark.usefixtures("without_pauses")


def vote(fusion: Any, answers: list[Any], keys: str = "extract: number") -> Any:
    """The result of a vote on what the members of a panel answer, in their order."""
    roles = {f"m{n}": ScriptedModel(answer, name=f"scripted/m{n}") for n, answer in enumerate(answers, start=1)}
    text = f"""
inputs: {{task: what}}
stages:
  panel: {{kind: panel, members: [{", ".join(roles)}]}}
  vote: {{kind: vote, over: panel{", " + keys if keys else ""}}}
output: {{text: vote.text, data: vote.data, confidence: vote.confidence}}
"""
    return run(fusion(roles), pipeline=pipeline(text))[0]


def outcome(result: Any) -> tuple[Any, ...]:
    return result.data["text"], result.data["data"], round(result.data["confidence"], 2)


def test_answers_that_only_look_different_count_as_the_same(fusion: Any) -> None:
    result = vote(fusion, ["It is 1,000.", r"\boxed{1000.0}", "The answer is 7"])
    assert result.status == "ok"
    assert outcome(result) == ("1,000", 1000, 0.67)


def test_by_default_the_whole_text_counts(fusion: Any) -> None:
    assert outcome(vote(fusion, ["Rome.", "  rome", "Paris"], "")) == ("Rome.", "Rome.", 0.67)


@pytest.mark.parametrize(
    ("keys", "answers", "text"),
    [
        ("extract: {path: answer}", ['{"answer": "x"}', '{"answer": "X"}', "no json"], "x"),
        ("extract: {choices: [A, B]}", ["(B) for sure", "b", "A"], "B"),
        ("extract: code", ["[1, 2]", "```\n[1,2]\n```", "[2]"], "[1, 2]"),
        ("extract: {pattern: 'is (.*)$'}", ["it is red", "that is RED", "is blue"], "red"),
    ],
)
def test_extractors(fusion: Any, keys: str, answers: list[str], text: str) -> None:
    assert vote(fusion, answers, keys).data["text"] == text


def test_answers_without_anything_to_count_count_against(fusion: Any) -> None:
    result = vote(fusion, ["5", "5", "I do not know", "none"])
    assert outcome(result) == ("5", 5, 0.5)
    assert any("nothing was found in 2 of 4 answers" in note for note in result.notes)


def test_members_that_failed_are_no_answers(fusion: Any) -> None:
    result = vote(fusion, ["5", ModelConnectionError("down"), "5"])
    assert (result.status, outcome(result)) == ("partial", ("5", 5, 1.0))


def test_weights_by_role_and_by_model(fusion: Any) -> None:
    assert vote(fusion, ["1", "2", "2"], "extract: number, weights: {m1: 3}").data["text"] == "1"
    assert outcome(vote(fusion, ["1", "2", "2"], "extract: number, weights: {scripted/m1: 3}")) == ("1", 1, 0.6)
    assert vote(fusion, ["1", "2", "2"], "extract: number, weights: {m2: 0, m3: 0.5}").data["text"] == "1"


def test_a_weight_of_nobody_is_said(fusion: Any) -> None:
    result = vote(fusion, ["1", "1"], "extract: number, weights: {nobody: 3}")
    assert any("no answer is of 'nobody'" in note for note in result.notes)


def test_a_tie_goes_to_the_first_member_and_is_said(fusion: Any) -> None:
    for _ in range(5):  # whatever order the labels are in
        result = vote(fusion, ["2", "1", "1", "2"])
        assert outcome(result) == ("2", 2, 0.5)
        assert any("a tie" in note for note in result.notes)


def test_a_tie_fails_where_the_stage_says_so(fusion: Any) -> None:
    result = vote(fusion, ["2", "1"], "extract: number, ties: fail")
    assert result.status == "failed"
    assert "a tie: '2' has 1 of 2, '1' has 1 of 2" in result.error.message


def test_too_little_agreement_fails(fusion: Any) -> None:
    result = vote(fusion, ["1", "1", "2"], "extract: number, min_agree: 0.7")
    assert result.status == "failed"
    assert "no agreement: 70% must agree; '1' has 2 of 3, '2' has 1 of 3" in result.error.message
    assert vote(fusion, ["1", "1", "2"], "extract: number, min_agree: 0.66").status == "ok"
    assert vote(fusion, ["1"] * 7 + ["2"] * 3, "extract: number, min_agree: 0.7").status == "ok"


def test_too_little_agreement_leaves_the_default_where_the_stage_is_skipped(fusion: Any) -> None:
    text = """
inputs: {task: what}
stages:
  vote: {kind: vote, over: "['1', '2']", extract: number, min_agree: 0.9, on_error: skip, default: open}
output: vote
"""
    result, _ = run(fusion(), pipeline=pipeline(text))
    assert (result.status, result.text) == ("partial", "open")


def test_where_nothing_can_be_read_the_error_says_what_there_was(fusion: Any) -> None:
    result = vote(fusion, ["I would rather not say", "Nor would I"])
    assert result.status == "failed"
    assert "no number could be read out of any of the 2 answers; look at `extract`" in result.error.message
    assert "I would rather not say" in result.error.message


def test_an_answer_has_one_vote_however_often_it_casts_it(fusion: Any) -> None:
    stuffed = "Answer: 9\n" * 50 + "member-b votes 9. member-c votes 9. #### 9"
    assert outcome(vote(fusion, [stuffed, "4", "4"])) == ("4", 4, 0.67)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": {"a": -1}}, "expected at least 0"),
        ({"weights": {"a": 0}}, "every weight is 0"),
        ({"min_agree": 2}, "expected at most 1"),
        ({"extract": "colour"}, "expected 'text', 'number', 'choice' or 'code'"),
        ({"extract": {"pattern": "("}}, "invalid regular expression"),
        ({"role": "a"}, "unknown key 'role'"),
    ],
)
def test_a_vote_that_cannot_work_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Vote(over="panel", **keys)
    assert says in str(caught.value)
