"""Answers within a tolerance agree: in cascades, votes and self-consistency; what is no tolerance is refused."""

import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion import Fusion, ScriptedModel
from fusion.bench.baselines import most_frequent
from fusion.core.errors import PipelineError
from fusion.stages.text.extract import Extractor
from tests.conftest import pipeline

CASCADE = """
inputs: {{question: A question.}}
stages:
  answer:
    kind: cascade
    tiers: [{{roles: [a, b, c]}}, strong]
    accept: {{agree: {agree}, extract: {extract}}}
output: answer
"""
VOTE = """
inputs: {{question: A question.}}
stages:
  all: {{kind: panel, members: [a, b, c], min_ok: 3}}
  answer: {{kind: vote, over: all, extract: {extract}}}
output: {{text: answer.text, share: answer.confidence}}
"""


def ask(text: str, answers: list[str], **fields: Any) -> Any:
    given = dict(zip("abc", answers, strict=True))
    models = {
        f"scripted/{name}": ScriptedModel(answer, name=f"scripted/{name}")
        for name, answer in {**given, "strong": "it is 7"}.items()
    }
    roles = {name: f"scripted/{name}" for name in ("a", "b", "c", "strong") if name in text}
    with Fusion(models=models, roles=roles, profile="local") as fusion:
        return fusion.complete("How much?", pipeline=pipeline(text.format(**fields)))


HALF = "{read: number, tolerance: 0.5%}"


@pytest.mark.parametrize(
    ("answers", "agree", "extract", "text"),
    [
        (["100", "100.4", "9"], 2, HALF, "100"),
        (["9", "100.4 kg", "100 kg"], 2, HALF, "100.4 kg"),
        (["100", "100.6", "9"], 2, HALF, "it is 7"),
        (["100", "100.4", "100.8"], 3, HALF, "it is 7"),  # the third is too far from the first
        (["100.4", "100", "100.8"], 3, HALF, "100.4"),
        (["100", "100.4", "9"], 2, "number", "it is 7"),
        (["5", "6", "8"], 2, "{read: number, tolerance: 1}", "5"),
        (["90 minutes", "90 hours", "90"], 3, HALF, "it is 7"),
        (["90 minutes", "90", "90 min"], 3, HALF, "90 minutes"),
    ],
)
def test_a_cascade_accepts_answers_within_the_tolerance(
    answers: list[str], agree: int, extract: str, text: str
) -> None:
    assert ask(CASCADE, answers, agree=agree, extract=extract).text == text


@pytest.mark.parametrize(
    ("answers", "extract", "text", "share"),
    [
        (["100", "9", "100.4"], HALF, "100", 2 / 3),
        (["9", "100.4", "100"], HALF, "100.4", 2 / 3),
        (["100", "100.4", "100.8"], HALF, "100", 2 / 3),
        (["100.4", "100", "100.8"], HALF, "100.4", 1.0),
        (["1", "2", "2"], "number", "2", 2 / 3),
    ],
)
def test_a_vote_counts_answers_within_the_tolerance_together(
    answers: list[str], extract: str, text: str, share: float
) -> None:
    assert ask(VOTE, answers, extract=extract).data == {"text": text, "share": pytest.approx(share)}


def test_self_consistency_counts_them_together() -> None:
    extractor = Extractor(read="number", tolerance="1%")
    assert most_frequent(["5", "100", "6", "100.5", "7"], extractor) == "100"
    assert most_frequent(["5", "100", "5", "100.5", "99.5"], extractor) == "100"


@pytest.mark.parametrize("tolerance", ["0.5%", "5%", 3, 0.25, None])
def test_groups_are_about_their_first_answer_in_every_order(tolerance: Any) -> None:
    extractor = Extractor(read="number", tolerance=tolerance)
    drawn = random.Random(str(tolerance))
    for _ in range(30):
        answers = [extractor.extract(str(drawn.randint(95, 110))) for _ in range(4)]
        for order in permutations(answers):
            groups = extractor.groups(order)
            assert groups == extractor.groups(order)
            for one, first in zip(order, groups, strict=True):
                assert one is not None
                assert first is not None
                assert groups[first] == first
                reference = order[first]
                assert reference is not None
                assert extractor.same(one, reference)


@given(st.lists(st.sampled_from(["1", "1.0", "2", "2.0", "x", "3"]), max_size=8))
def test_without_a_tolerance_groups_are_those_of_equal_keys(texts: list[str]) -> None:
    extractor = Extractor(read="number")
    found = [extractor.extract(text) for text in texts]
    keys = [None if one is None else one.key for one in found]
    assert extractor.groups(found) == [None if key is None else keys.index(key) for key in keys]


@pytest.mark.parametrize(
    "tolerance",
    ["0", "0%", "100%", "150%", "-1", "-0.5%", "half", "", "nan", "inf", "1%%", "true", "[1]", "0.5 points"],
)
def test_what_is_no_tolerance_is_named_with_its_place(tolerance: str) -> None:
    words = f'"{tolerance}"' if tolerance not in ("true", "[1]") else tolerance
    with pytest.raises(PipelineError, match=r"(?s)tolerance.*(expected a share such as 0.5%|expected)"):
        ask(CASCADE, ["1", "1", "1"], agree=2, extract=f"{{read: number, tolerance: {words}}}")


@pytest.mark.parametrize("read", ["text", "code", "choice"])
def test_a_tolerance_needs_numbers(read: str) -> None:
    choices = ", choices: [a, b]" if read == "choice" else ""
    with pytest.raises(PipelineError, match=f"`tolerance` is for numbers; `read: {read}` has none"):
        ask(CASCADE, ["1", "1", "1"], agree=2, extract=f"{{read: {read}, tolerance: 1%{choices}}}")
