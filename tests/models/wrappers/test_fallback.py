"""Chains: who is asked when a model cannot answer, and what a run says of it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion, Message, Model, ModelInfo, Price, Request, RoleSpec, ScriptedModel
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
    UsageError,
)
from fusion.core.events import EventBase, FallbackTaken, Restarted
from fusion.core.result import Result
from fusion.models.providers.litellm import LiteLLMModel
from fusion.models.providers.scripted import Say, Script
from fusion.models.wrappers.breaker import Breaker
from fusion.models.wrappers.fallback import Fallback, Member
from tests.conftest import pipeline, run, said
from tests.provider import Answer, Provider

ONE = "stages: {answer: {kind: generate, role: asked, prompt: Say hello.}}\noutput: answer\n"
SHAPED = """
stages: {answer: {kind: generate, role: asked, prompt: Say hello., schema: {n: integer}}}
output: answer.data
"""
MANY = """
stages:
  work: {kind: map, over: "range(8) | list", role: asked, concurrency: 1, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat, separator: ","}
output: answer
"""


def model(name: str, script: Script, **more: Any) -> ScriptedModel:
    info = {"id": name, "provider": name.partition("/")[0], "price": Price(input=Decimal(0), output=Decimal(0))}
    return ScriptedModel(script, info=ModelInfo(**{**info, "json_schema": True, **more}))


Chain = Callable[..., Fusion]


@pytest.fixture
def chain() -> Iterator[Chain]:
    """Makes a Fusion whose role `asked` is a chain of these models."""
    made: list[Fusion] = []

    def make(*models: Model, **options: Any) -> Fusion:
        ids = tuple(one.info.id for one in models)
        own = {one.info.id: one for one in models}
        made.append(Fusion(profile="local", models=own, roles={"asked": RoleSpec(chain=ids)}, **options))
        return made[-1]

    yield make
    for fusion in made:
        fusion.close()


def taken(events: list[EventBase]) -> list[tuple[str, str, str]]:
    return [(one.failed, one.model, one.failure.reason) for one in events if isinstance(one, FallbackTaken)]


def answered(result: Result) -> list[tuple[str, str | None, str]]:
    return [(one.asked, one.by, one.served) for one in result.models]


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down"),
        RateLimitError("not for an hour", retry_after=3600),
        ModelTimeoutError("late"),
        ModelConnectionError("gone"),
        BadResponseError("nonsense"),
        ContextWindowError("too long"),
        ContentFilterError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_next_model_answers_and_that_is_said_everywhere(chain: Chain, error: ModelError) -> None:
    first, second = model("a/one", error), model("b/two", "hello")
    result, events = run(chain(first, second), None, pipeline=pipeline(ONE))
    assert (result.status, result.text) == ("ok", "hello")
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert taken(events) == [("a/one", "b/two", type(error).__name__)]
    assert answered(result) == [("a/one", "b/two", "b/two")]
    lines = {line.model: line for line in result.receipt.lines}
    assert (lines["a/one"].calls, lines["a/one"].fallbacks, lines["a/one"].asked) == (0, 1, None)
    assert (lines["b/two"].calls, lines["b/two"].role, lines["b/two"].asked) == (1, "asked", "a/one")


@pytest.mark.parametrize("error", [AuthenticationError("wrong key"), BadRequestError("no such model")])
def test_what_is_a_mistake_of_the_users_stops_the_run(chain: Chain, error: ModelError) -> None:
    first, second = model("a/one", error), model("b/two", "hello")
    result, events = run(chain(first, second), None, pipeline=pipeline(ONE))
    assert (result.status, len(second.requests), taken(events)) == ("failed", 0, [])
    assert result.error is not None
    assert result.error.reason == type(error).__name__


def test_what_the_provider_says_may_be_tried_again_soon_is_tried_again_there(chain: Chain) -> None:
    first = model("a/one", [RateLimitError("slow down", retry_after=0.01), "hello"])
    result, events = run(chain(first, model("b/two", "never")), None, pipeline=pipeline(ONE))
    assert (result.text, taken(events), len(first.requests)) == ("hello", [], 2)


def test_one_of_another_provider_comes_first(chain: Chain) -> None:
    gone = ModelConnectionError("gone")
    fusion = chain(model("a/one", gone), model("a/two", "never"), model("b/three", "hello"))
    result, events = run(fusion, None, pipeline=pipeline(ONE))
    assert (result.text, taken(events)) == ("hello", [("a/one", "b/three", "ModelConnectionError")])


def test_a_request_too_long_goes_to_who_reads_more_without_being_sent(chain: Chain) -> None:
    small, smaller = model("a/small", "never", context=3000), model("b/smaller", "never", context=2500)
    fusion = chain(small, smaller, model("a/large", "read", context=100_000))
    text = ONE.replace("Say hello.", f'"{"word " * 2000}"')
    result, events = run(fusion, None, pipeline=pipeline(text))
    assert (result.text, taken(events)) == ("read", [("a/small", "a/large", "InputTooLongError")])
    assert not small.requests
    assert not smaller.requests


def test_what_is_too_long_for_every_model_is_refused(chain: Chain) -> None:
    fusion = chain(model("a/small", "never", context=500), model("b/less", "never", context=300))
    result, events = run(fusion, None, pipeline=pipeline(ONE.replace("hello.", "hello." * 500)))
    assert result.error is not None
    assert (result.error.reason, taken(events)) == ("InputTooLongError", [])


def test_refused_content_goes_to_another_family(chain: Chain) -> None:
    refused = model("a/claude", ContentFilterError("no"), family="claude")
    same = model("b/claude", "never", family="claude")
    result, events = run(chain(refused, same, model("a/gpt", "hello", family="gpt")), None, pipeline=pipeline(ONE))
    assert (result.text, taken(events)) == ("hello", [("a/claude", "a/gpt", "ContentFilterError")])
    result, events = run(chain(refused, same), None, pipeline=pipeline(ONE))
    assert (result.status, taken(events), len(same.requests)) == ("failed", [], 0)


def test_an_answer_that_twice_has_not_the_shape_goes_to_the_next(chain: Chain) -> None:
    first = model("a/one", "I would rather not")
    second = model("b/two", "neither would I", json_schema=False)
    third = model("c/three", {"n": 7})
    result, events = run(chain(first, second, third), None, pipeline=pipeline(SHAPED))
    assert result.data == {"n": 7}
    assert taken(events) == [("a/one", "b/two", "ShapeError"), ("b/two", "c/three", "ShapeError")]
    assert [len(one.requests) for one in (first, second, third)] == [2, 2, 1]
    assert {(one.asked, one.by) for one in result.models} == {
        ("a/one", None),
        ("a/one", "b/two"),
        ("a/one", "c/three"),
    }


def test_each_model_is_told_of_the_shape_in_its_own_way(chain: Chain) -> None:
    strict = model("a/strict", ModelConnectionError("gone"))
    loose = model("b/loose", {"n": 7}, json_schema=False)
    result, _ = run(chain(strict, loose), None, pipeline=pipeline(SHAPED))
    assert result.data == {"n": 7}
    assert [one.json_mode for one in (strict.requests[0], loose.requests[0])] == ["schema", "object"]
    assert "JSON Schema" not in said(strict.requests[0])
    assert "JSON Schema" in said(loose.requests[0])


def test_each_model_has_its_own_output_limit(chain: Chain) -> None:
    first = model("a/one", ModelConnectionError("gone"), max_output=1000)
    second = model("b/two", "hello", max_output=300)
    run(chain(first, second), None, pipeline=pipeline(ONE))
    assert (first.requests[0].max_tokens, second.requests[0].max_tokens) == (1000, 300)


def test_a_stream_that_broke_off_begins_again_with_the_next(chain: Chain) -> None:
    first = model("a/one", Say(pieces=["half of "], error=BadResponseError("cut")))
    events: list[EventBase] = []
    with chain(first, model("b/two", "the whole")).stream(None, pipeline=pipeline(ONE), on_event=events.append) as s:
        list(s)
    assert s.result.text == "the whole"
    assert any(isinstance(event, Restarted) for event in events)


def test_nobody_else_is_asked_once_a_part_of_the_answer_is_in_use() -> None:
    class Committed:
        committed = True

        def add(self, text: str) -> None:
            assert text == "half of "

        def restart(self) -> None:
            raise AssertionError("it cannot be taken back")

    first = model("a/one", Say(pieces=["half of "], error=BadResponseError("cut")))
    second = model("b/two", "never")
    fallback = Fallback([Member(first, first, Breaker()), Member(second, second, Breaker())])
    asked = Request(messages=(Message(role="user", content="plan"),), max_tokens=50)
    with pytest.raises(BadResponseError, match=r"^cut$"):
        asyncio.run(fallback.complete(asked, Committed()))
    assert not second.requests


def test_when_all_fail_the_error_says_who_was_asked(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    last = model("b/two", [ContentFilterError("no")])
    result, events = run(chain(model("a/one", ModelConnectionError("gone")), last), None, pipeline=pipeline(ONE))
    assert result.error is not None
    assert (result.error.reason, result.error.message) == ("ContentFilterError", "no (tried before it: a/one)")
    assert len(taken(events)) == 1


def test_the_money_of_each_attempt_is_of_its_own_model(chain: Chain) -> None:
    dear, cheap = (
        Price(input=Decimal("0.01"), output=Decimal("0.01")),
        Price(input=Decimal(0), output=Decimal("0.001")),
    )
    fusion = chain(model("a/dear", ModelTimeoutError("late"), price=dear), model("b/cheap", "four", price=cheap))
    result, _ = run(fusion, None, pipeline=pipeline(ONE), budget={"usd": 100})
    lines = {line.model: line for line in result.receipt.lines}
    assert lines["a/dear"].charged.cost.usd > Decimal(10)
    assert lines["b/cheap"].estimated.cost.usd == Decimal("0.001")


def test_what_is_held_back_for_the_answer_bears_the_dearest_of_its_chain(chain: Chain) -> None:
    dear = Price(input=Decimal(0), output=Decimal("0.001"))
    text = """
on_budget: finish
budget: {usd: 1}
roles: {spender: scripted/spender}
stages:
  work: {kind: map, over: "range(40) | list", role: spender, max_tokens: 50, prompt: "{{ item.source }}"}
  answer: {kind: merge, over: work, role: asked, max_tokens: 400, prompt: "join {{ items | length }}"}
output: answer
"""
    spender = model("scripted/spender", "x" * 200, price=dear)
    fusion = chain(model("a/free", ModelConnectionError("gone")), model("b/dear", "joined", price=dear))
    fusion._cast.spec(spender)
    result, _ = run(fusion, None, pipeline=pipeline(text))
    assert (result.text, result.status) == ("joined", "partial")


def test_a_revision_goes_to_the_model_that_wrote(chain: Chain) -> None:
    text = """
stages:
  work: {kind: map, over: "['x']", role: asked, prompt: "write"}
  review: {kind: review, over: work, role: asked, revisions: 1, prompt: "judge {{ item }} of {{ item.source }}"}
  answer: {kind: merge, over: review, strategy: concat}
output: answer
"""
    first = model("a/one", lambda r: ModelConnectionError("gone") if said(r) == "write" else _verdict(r))
    second = model("b/two", lambda r: "first" if said(r) == "write" else "second")
    result, events = run(chain(first, second), None, pipeline=pipeline(text))
    assert (result.status, result.text) == ("ok", "second")
    assert len(taken(events)) == 1
    assert [item.by for item in result.stages["review"].items] == ["b/two"]


def _verdict(request: Any) -> Any:
    if "first" in said(request):
        return {"issues": [{"quote": "first", "problem": "not second"}], "verdict": "revise"}
    return {"issues": [], "verdict": "accept"}


# A model that is out of reach.


def test_a_model_that_is_down_does_not_cost_its_timeout_on_every_call(chain: Chain) -> None:
    down = model("a/down", ModelTimeoutError("late"))
    result, events = run(chain(down, model("b/up", "x")), None, pipeline=pipeline(MANY))
    assert (result.status, result.text) == ("ok", "x,x,x,x,x,x,x,x")
    assert len(down.requests) == 5
    assert [reason for _, _, reason in taken(events)] == ["ModelTimeoutError"] * 5 + ["OutageError"] * 3
    assert "'a/down' is down and was not asked: late" in str(events)


# Over HTTP.


def served(name: str, provider: Provider) -> LiteLLMModel:
    info = ModelInfo(id=name, provider=name.partition("/")[0])
    return LiteLLMModel("openai/mock", info=info, api_base=provider.url, api_key="sk-test")


@pytest.mark.parametrize("refusal", [Answer("busy", status=429), Answer("down", status=503), Answer(drop="before")])
def test_a_provider_that_refuses_everything_costs_one_call_more_at_most(chain: Chain, refusal: Answer) -> None:
    with Provider(refusal) as dead, Provider(Answer("done", model="two-2026")) as alive:
        result, events = run(chain(served("a/one", dead), served("b/two", alive)), None, pipeline=pipeline(MANY))
    calls = len(alive.requests)
    assert (result.status, calls) == ("ok", 8)
    assert 1 <= len(dead.requests) <= calls
    assert answered(result) == [("a/one", "b/two", "two-2026")]
    assert len(taken(events)) == calls
    assert sum(line.calls for line in result.receipt.lines) == calls


def test_a_limit_on_requests_is_refused_once_for_each_call(chain: Chain) -> None:
    with Provider(Answer("busy", status=429)) as dead, Provider(Answer("done", model="two-2026")) as alive:
        run(chain(served("a/one", dead), served("b/two", alive)), None, pipeline=pipeline(MANY))
    assert 1 <= len(dead.requests) <= 8
    assert len(alive.requests) == 8


def test_a_wrong_key_stops_at_the_first_provider(chain: Chain) -> None:
    with Provider(Answer("wrong key", status=401)) as refusing, Provider() as other:
        result, _ = run(chain(served("a/one", refusing), served("b/two", other)), None, pipeline=pipeline(ONE))
    assert (result.status, len(refusing.requests), len(other.requests)) == ("failed", 1, 0)
    assert json.loads(result.model_dump_json())["error"]["reason"] == "AuthenticationError"


# Models of a user's own.


def test_two_models_with_one_name_are_a_mistake() -> None:
    with pytest.raises(UsageError, match="two models have the id 'scripted/model'"):
        Fusion(roles={"a": ScriptedModel("x"), "b": ScriptedModel("y")})
    one = ScriptedModel("x")
    Fusion(roles={"a": one, "b": one}).close()
