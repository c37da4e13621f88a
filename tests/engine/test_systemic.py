"""Faults that every further call would meet: a wide stage ends after a few calls, with one error."""

import json
from collections.abc import Callable, Iterator

import pytest

from fusion import Fusion, RoleSpec
from fusion.core.events import ItemFinished, RunFinished
from fusion.models.base import ModelInfo
from fusion.models.providers.direct import direct
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

FAULTS = {
    "wrong key": (Answer("Incorrect API key provided", status=401), "AuthenticationError"),
    "forbidden": (Answer("this key may not use the model", status=403), "AuthenticationError"),
    "no credit": (Answer("Insufficient credits", status=402), "AuthenticationError"),
    "quota": (Answer("You exceeded your current quota", status=429), "AuthenticationError"),
    "no such model": (Answer("The model `mock` does not exist", status=404), "BadRequestError"),
    "unknown model": (Answer("model not found", status=400), "BadRequestError"),
}
WIDE = """
stages:
  work: {kind: map, over: "range(200) | list", role: asked, concurrency: 16, prompt: "do {{ item.source }}"%s}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
REVIEWED = """
stages:
  work: {kind: map, over: "range(200) | list", role: fine, concurrency: 16, prompt: "do {{ item.source }}"}
  review: {kind: review, over: work, role: asked, concurrency: 16, prompt: "judge {{ item }} of {{ item.source }}"}
  answer: {kind: merge, over: review, strategy: concat}
output: answer
"""
Start = Callable[..., Fusion]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Fusion] = []

    def begin(**roles: Provider) -> Fusion:
        models = {
            role: direct(
                "openai/mock", info=ModelInfo(id=f"{role}/one", provider=role), api_base=one.url, api_key="sk-test"
            )
            for role, one in roles.items()
        }
        own = {model.info.id: model for model in models.values()}
        given = {role: RoleSpec(chain=(model.info.id,)) for role, model in models.items()}
        made.append(Fusion(profile="local", models=own, roles=given))
        return made[-1]

    yield begin
    for fusion in made:
        fusion.close()


def after(good: int, fault: Answer) -> Callable[[Seen], Answer]:
    """Answer the first requests, then meet every one with a fault."""
    seen: list[Seen] = []

    def answer(one: Seen) -> Answer:
        seen.append(one)
        return Answer("done") if len(seen) <= good else fault

    return answer


@pytest.mark.parametrize("fault", FAULTS)
def test_a_map_ends_after_a_few_calls_with_one_error(start: Start, fault: str) -> None:
    answer, reason = FAULTS[fault]
    with Provider(answer) as provider:
        result, events = run(start(asked=provider), None, pipeline=pipeline(WIDE % ""))
    assert (result.status, result.error and result.error.reason) == ("failed", reason)
    assert len(provider.requests) <= 16
    assert not [event for event in events if isinstance(event, ItemFinished)]
    assert result.cost.usd == 0
    assert not any(line.charged.usage.total for line in result.receipt.lines)


@pytest.mark.parametrize("fault", FAULTS)
def test_work_that_was_finished_or_under_way_is_kept(start: Start, fault: str) -> None:
    answer, reason = FAULTS[fault]
    with Provider(after(40, answer)) as provider:
        result, _ = run(start(asked=provider), None, pipeline=pipeline(WIDE % ""))
    assert (result.status, result.error and result.error.reason) == ("failed", reason)
    assert len(provider.requests) <= 40 + 16
    assert sum(item.ok for item in result.stages["work"].items) == 40


def test_a_slow_good_call_in_flight_is_not_thrown_away(start: Start) -> None:
    def answer(seen: Seen) -> Answer:
        slow = '"do 3"' in json.dumps(seen.body)
        return Answer("late but good", delay=0.5) if slow else Answer("wrong key", status=401)

    with Provider(answer) as provider:
        result, _ = run(start(asked=provider), None, pipeline=pipeline(WIDE % ""))
    assert [item.value for item in result.stages["work"].items] == ["late but good"]


def test_enough_items_by_the_authors_own_word_let_the_run_go_on(start: Start) -> None:
    with Provider(after(40, Answer("wrong key", status=401))) as provider:
        result, events = run(start(asked=provider), None, pipeline=pipeline(WIDE % ", min_ok: 30"))
    assert result.status == "partial"
    items = result.stages["work"].items
    assert (len(items), sum(item.ok for item in items)) == (200, 40)
    assert {item.failure.reason for item in items if item.failure} == {"AuthenticationError"}
    assert len(provider.requests) <= 40 + 16
    assert isinstance(events[-1], RunFinished)


def test_too_few_items_by_the_authors_own_word_end_the_run(start: Start) -> None:
    with Provider(after(40, Answer("wrong key", status=401))) as provider:
        result, _ = run(start(asked=provider), None, pipeline=pipeline(WIDE % ", min_ok: 50%"))
    assert (result.status, result.error and result.error.reason) == ("failed", "AuthenticationError")


@pytest.mark.parametrize("fault", ["wrong key", "no such model"])
def test_a_review_ends_after_a_few_calls_and_the_work_is_kept(start: Start, fault: str) -> None:
    answer, reason = FAULTS[fault]
    with Provider(answer) as broken, Provider(Answer("done")) as well:
        result, _ = run(start(asked=broken, fine=well), None, pipeline=pipeline(REVIEWED))
    assert (result.status, result.error and result.error.reason) == ("failed", reason)
    assert len(broken.requests) <= 16
    assert result.stages["work"].items
