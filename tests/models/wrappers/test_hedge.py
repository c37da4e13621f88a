"""Hedging: a late call is asked a second time, the first answer wins, and the other one is paid and reported."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, ModelInfo, Price, Request, RoleSpec, ScriptedModel, Usage
from fusion.core.errors import ModelConnectionError
from fusion.core.events import AttemptCharged, CallFinished, Delta, EventBase, HedgeSent
from fusion.core.result import Result
from fusion.models.providers.scripted import Say
from fusion.models.wrappers.hedge import Habit, Hedging
from tests.conftest import pipeline, run, said

MANY = """
inputs: {rows: What.}
stages:
  work:
    kind: map
    over: inputs.rows
    role: asked
    concurrency: 4
    max_tokens: 100
    prompt: "do {{ item.source }}"
%s
  answer: {kind: merge, over: work, strategy: concat, separator: ","}
output: answer
"""
QUICK = [f"quick {number}" for number in range(30)]
LATE = 60.0
"""Seconds of a reply that no test waits for."""
Chain = Callable[..., Fusion]


def answers(request: Request, *, late: int, seconds: float, seen: list[str]) -> Any:
    """Answer at once; the first `late` requests for a slow row take so many seconds."""
    text = said(request)
    if "slow" not in text:
        return Say("quick", delay=0.01, usage=Usage(input=10, output=10))
    seen.append(text)
    delay = seconds if len(seen) <= late else 0.01
    return Say("slow", delay=delay, usage=Usage(input=10, output=10))


def model(name: str, *, late: int = 0, seconds: float = LATE, price: str | None = "0.001") -> ScriptedModel:
    seen: list[str] = []
    cost = None if price is None else Price(input=Decimal(price), output=Decimal(price))
    info = ModelInfo(id=name, provider=name.partition("/")[0], price=cost)
    return ScriptedModel(lambda request: answers(request, late=late, seconds=seconds, seen=seen), info=info)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """Makes a Fusion whose role `asked` is a chain of these models."""
    made: list[Fusion] = []

    def make(*models: Model, **role: Any) -> Fusion:
        own = {one.info.id: one for one in models}
        role = {"hedge": "auto", **role}
        made.append(Fusion(profile="local", models=own, roles={"asked": RoleSpec(chain=tuple(own), **role)}))
        return made[-1]

    yield make
    for fusion in made:
        fusion.close()


def ask(fusion: Fusion, *rows: str, stage: str = "", **options: Any) -> tuple[Result, list[EventBase]]:
    return run(fusion, None, pipeline=pipeline(MANY % stage), inputs={"rows": [*rows]}, **options)


def hedges(events: list[EventBase]) -> list[tuple[str, str]]:
    return [(event.model, event.rival) for event in events if isinstance(event, HedgeSent)]


def test_a_late_call_of_a_single_model_is_asked_again(chain: Chain) -> None:
    one = model("a/one", late=1)
    fusion = chain(one)
    ask(fusion, *QUICK)
    result, events = ask(fusion, *QUICK[:5], "slow")
    assert (result.status, result.text) == ("ok", "quick,quick,quick,quick,quick,slow")
    assert hedges(events) == [("a/one", "a/one")]
    assert one.cancelled == 1
    assert result.seconds < LATE / 2


def test_a_late_call_of_a_chain_is_asked_of_the_next_model(chain: Chain) -> None:
    one, two = model("a/one", late=1), model("b/two")
    fusion = chain(one, two)
    ask(fusion, *QUICK)
    result, events = ask(fusion, *QUICK[:5], "slow")
    assert (result.status, hedges(events)) == ("ok", [("a/one", "b/two")])
    assert (one.cancelled, len(two.requests)) == (1, 1)
    assert [(used.asked, used.by, used.calls) for used in result.models] == [
        ("a/one", None, 5),
        ("a/one", "b/two", 1),
    ]


def test_the_attempt_that_lost_is_charged_and_has_a_line_of_its_own(chain: Chain) -> None:
    fusion = chain(model("a/one", late=1), model("b/two"))
    ask(fusion, *QUICK)
    result, events = ask(fusion, *QUICK[:5], "slow", budget={"usd": 100})
    (charged,) = [event for event in events if isinstance(event, AttemptCharged)]
    assert (charged.model, charged.hedge, charged.item) == ("a/one", True, 5)
    lines = {(line.model, line.hedge): line for line in result.receipt.lines}
    lost = lines["a/one", True]
    assert (lost.calls, lost.cancelled, lost.charged.cost.usd) == (0, 1, charged.cost)
    assert lines["b/two", False].asked == "a/one"
    assert lines["a/one", False].charged.cost.usd == 0
    assert result.cost.usd == sum(line.cost.usd for line in lines.values())


@pytest.mark.parametrize("place", ["role", "stage", "defaults"])
def test_it_may_be_asked_for_on_a_role_a_stage_or_all(chain: Chain, place: str) -> None:
    fusion = chain(model("a/one", late=1), hedge="auto" if place == "role" else None)
    stage = "    hedge: auto" if place == "stage" else ""
    text = MANY % stage if place != "defaults" else "defaults: {hedge: auto}" + MANY % ""
    for rows in (QUICK, [*QUICK[:5], "slow"]):
        result, events = run(fusion, None, pipeline=pipeline(text), inputs={"rows": rows})
    assert (result.status, len(hedges(events))) == ("ok", 1)


@pytest.mark.parametrize("role", [{"hedge": None}, {"hedge": "off"}])
def test_without_being_asked_for_nothing_is_sent_twice(chain: Chain, role: dict[str, Any]) -> None:
    one = model("a/one", late=1)
    fusion = chain(one, **role)
    ask(fusion, *QUICK)
    result, events = ask(fusion, "slow", stage="    timeout: 0.5\n    min_ok: 0")
    assert hedges(events) == []
    assert len(one.requests) == 31
    assert result.cost.usd


def test_off_on_a_stage_is_stronger_than_auto_on_its_role(chain: Chain) -> None:
    fusion = chain(model("a/one", late=1))
    ask(fusion, *QUICK, stage="    hedge: 'off'")
    _, events = ask(fusion, "slow", stage="    hedge: 'off'\n    timeout: 0.5\n    min_ok: 0")
    assert hedges(events) == []


def test_too_few_replies_teach_nothing(chain: Chain) -> None:
    fusion = chain(model("a/one", late=1))
    ask(fusion, *QUICK[:5])
    _, events = ask(fusion, "slow", stage="    timeout: 0.5\n    min_ok: 0")
    assert hedges(events) == []


def test_a_rival_that_fails_leaves_the_first_attempt_alone(chain: Chain) -> None:
    down = ScriptedModel(ModelConnectionError("gone"), info=ModelInfo(id="b/down", provider="b"))
    fusion = chain(model("a/one", late=1, seconds=1.5), down)
    ask(fusion, *QUICK)
    result, events = ask(fusion, *QUICK[:5], "slow")
    assert (result.status, result.text.rpartition(",")[2], hedges(events)) == ("ok", "slow", [("a/one", "b/down")])
    assert [(used.asked, used.by) for used in result.models] == [("a/one", None)]


def test_both_answers_are_the_calls_and_a_resumed_run_repeats_none(chain: Chain, tmp_path: Path) -> None:
    one, two = model("a/one", late=1), model("b/two")
    own = {model.info.id: model for model in (one, two)}
    role = RoleSpec(chain=tuple(own), hedge="auto")
    with Fusion(profile="local", models=own, roles={"asked": role}, store=tmp_path / "runs.db") as fusion:
        ask(fusion, *QUICK)
        result, _ = ask(fusion, *QUICK[:5], "slow")
        asked = len(one.requests), len(two.requests)
        again, events = run_again(fusion, result)
    assert (again.status, again.text) == ("ok", result.text)
    assert (len(one.requests), len(two.requests)) == asked
    assert {event.reused for event in events if isinstance(event, CallFinished)} <= {"journal"}


def run_again(fusion: Fusion, result: Result) -> tuple[Result, list[EventBase]]:
    events: list[EventBase] = []
    return fusion.resume(result.run_id, on_event=events.append), events


STREAMED = """
inputs: {row: What.}
stages: {answer: {kind: generate, role: asked, max_tokens: 100, prompt: "do {{ inputs.row }}"}}
output: answer
"""


def streamed(fusion: Fusion, row: str) -> tuple[Result, list[EventBase]]:
    events: list[EventBase] = []
    with fusion.stream(None, pipeline=pipeline(STREAMED), inputs={"row": row}, on_event=events.append) as pieces:
        list(pieces)
    return pieces.result, events


def stutter(request: Request, *, first: float, between: float) -> Any:
    if "slow" not in said(request):
        return Say(pieces=["qui", (0.01, "ck")])
    return Say(pieces=[(first, "lo"), (between, "ng")])


def test_a_reply_that_has_begun_is_not_hedged(chain: Chain) -> None:
    info = ModelInfo(id="a/one", provider="a")
    one = ScriptedModel(lambda request: stutter(request, first=0.0, between=0.5), info=info)
    fusion = chain(one, model("b/two"))
    for _ in range(25):
        streamed(fusion, "quick")
    result, events = streamed(fusion, "slow")
    assert (result.text, hedges(events)) == ("long", [])


def test_the_chunks_of_the_loser_are_never_shown(chain: Chain) -> None:
    info = ModelInfo(id="a/one", provider="a")
    one = ScriptedModel(lambda request: stutter(request, first=1.0, between=LATE), info=info)
    fusion = chain(one, model("b/two"))
    for _ in range(25):
        streamed(fusion, "quick")
    result, events = streamed(fusion, "slow")
    assert (result.text, hedges(events)) == ("slow", [("a/one", "b/two")])
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "slow"


# Latencies and allowance.


def test_a_tail_of_a_twentieth_is_late_whatever_the_sample() -> None:
    for slow in (2, 5, 8):
        habit = Habit()
        for number in range(100):
            habit.add(10.0 if number < slow else 1.0, Usage(input=10, output=10))
        assert habit.late is not None
        assert 1.0 <= habit.late <= 2.0


def test_lengths_that_vary_are_not_late() -> None:
    habit = Habit()
    for number in range(100):
        habit.add(1.0 + number / 100, Usage(input=10, output=10))
    assert habit.late == pytest.approx(2.25, abs=0.05)


def test_answers_that_were_given_up_keep_the_measure() -> None:
    habit = Habit()
    for _ in range(95):
        habit.add(1.0, Usage(input=10, output=10))
    before = habit.late
    for _ in range(5):
        habit.add(2.0)
    assert habit.late is not None
    assert before is not None
    assert habit.late >= before


@pytest.mark.parametrize("price", [Price(input=Decimal("0.01"), output=Decimal("0.02")), None])
def test_hedges_add_a_twentieth_of_the_spend_at_most(price: Price | None) -> None:
    info = ModelInfo(id="a/one", provider="a", price=price)
    hedging, usage = Hedging(), Usage(input=100, output=50)
    assert [hedging.allows(usage, info, info) for _ in range(8)] == [True] * 5 + [False] * 3
    each = Decimal(0) if price is None else price.of(usage)
    hedging._spent["r"] = each * 100, usage.total * 100
    assert [hedging.allows(usage, info, info) for _ in range(10)].count(True) == 5
