"""cascade with `over`: each item has an answer of its own, and the decision on it."""

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, ModelInfo, PipelineError, Price, Request, Result, Say, ScriptedModel
from fusion.core.errors import AuthenticationError, ContentFilterError
from fusion.core.events import CallFinished, CallStarted, Decided, EventBase, ItemFinished
from fusion.core.types import Usage
from fusion.store.rows import RunFilter
from tests.conftest import pipeline, plan_text, run, said, subtasks
from tests.processes import exit_code

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"))
ROWS = """
inputs: {rows: {format: csv}}
stages:
  sort: {kind: cascade, over: inputs.rows, tiers: [%s, strong], %s, prompt: "N {{ item.n }}."}
output: sort
"""
AGREE = "accept: {agree: 2, extract: number}"


def rows(count: int) -> list[dict[str, Any]]:
    return [{"n": number, "tier": "gold"} for number in range(1, count + 1)]


def number_in(request: Request) -> int:
    return int(said(request).partition("N ")[2].partition(".")[0])


def sorted_by(
    fusion: Any, tier: str, options: str, models: dict[str, Any], *, count: int = 4, **more: Any
) -> tuple[Result, dict[str, ScriptedModel], list[EventBase]]:
    """Result, models and events of a cascade over rows. Prices are the same for all models."""
    made = {role: ScriptedModel(script, name=f"scripted/{role}", price=PRICE) for role, script in models.items()}
    given = {"inputs": {"rows": rows(count)}, "pipeline": pipeline(ROWS % (tier, options)), **more}
    result, events = run(fusion(made), None, **given)
    return result, made, events


def odd_is_hard(request: Request) -> str:
    """Answers an odd number as nobody else does."""
    number = number_in(request)
    return str(number if number % 2 == 0 else 1000 + number)


def plainly(request: Request) -> str:
    return str(number_in(request))


def steps(events: list[EventBase]) -> Counter[str]:
    return Counter(event.step for event in events if isinstance(event, CallStarted))


# Conditions.


def test_each_item_takes_its_own_way(fusion: Any) -> None:
    models = {"a": plainly, "b": odd_is_hard, "strong": "9"}
    result, made, events = sorted_by(fusion, "{roles: [a, b]}", AGREE, models)
    assert [item.value for item in result.items] == ["9", "2", "9", "4"]
    assert [item.tier for item in result.items] == [2, 1, 2, 1]
    assert [item.by for item in result.items] == ["scripted/strong", "scripted/a"] * 2
    assert [item.agreement for item in result.items] == [0.5, 1.0, 0.5, 1.0]
    assert [item.confidence for item in result.items] == [None, 1.0, None, 1.0]
    assert result.items[0].reason == "tier 1: 1 of 2 answers agree, 2 must; the last tier"
    assert result.items[1].reason == "2 of 2 answers agree"
    assert steps(events) == {"tier-1-a": 4, "tier-1-b": 4, "tier-2-a": 2}
    assert (result.receipt.cascades, result.receipt.escalated, result.receipt.escalation_rate) == (4, 2, 0.5)
    assert len(made["strong"].requests) == 2


def test_the_decision_is_in_events_results_and_json(fusion: Any) -> None:
    models = {"a": plainly, "b": odd_is_hard, "strong": "9"}
    result, _, events = sorted_by(fusion, "{roles: [a, b]}", AGREE, models, count=2)
    told = {event.item: event for event in events if isinstance(event, ItemFinished)}
    for item in result.stages["sort"].items:
        event = told[item.index]
        assert (event.tier, event.reason, event.agreement) == (item.tier, item.reason, item.agreement)
        assert event.cost == item.cost
    again = Result.model_validate_json(result.model_dump_json())
    assert again.items == result.items
    assert again.items[0].tier == 2
    assert [event.decision for event in events if isinstance(event, Decided)] == ["tier-1: 1, tier-2: 1"]
    assert result.stages["sort"].decision == "tier-1: 1, tier-2: 1"
    assert result.notes == ()


@pytest.mark.parametrize(
    ("tier", "options", "cheap", "tiers"),
    [
        ("a", "accept: {checks: {expression: 'value|int % 2 == 0'}}", plainly, [2, 1, 2, 1]),
        ("a", "accept: {checks: {expression: 'value|int == item.n'}}", odd_is_hard, [2, 1, 2, 1]),
        ("a", "accept: {judge: judge}", plainly, [2, 1, 2, 1]),
        ("a", "accept: {judge: judge, confidence: 0.95}", plainly, [2, 2, 2, 2]),
        ("a", "accept: {confidence: 0.8}", None, [2, 1, 2, 1]),
        ("{roles: a, samples: 3}", "accept: {agree: 2, extract: number}", plainly, [1, 1, 1, 1]),
        ("{roles: [a, b]}, {roles: a, accept: {judge: judge}}", AGREE, odd_is_hard, [3, 1, 3, 1]),
    ],
)
def test_every_condition_decides_item_by_item(
    fusion: Any, tier: str, options: str, cheap: Any, tiers: list[int]
) -> None:
    def sure(request: Request) -> Any:
        number = number_in(request)
        return {"answer": str(number), "confidence": 0.9 if number % 2 == 0 else 0.3}

    def judge(request: Request) -> Any:
        even = number_in(request) % 2 == 0
        return {"problem": "", "verdict": "accept" if even else "escalate", "confidence": 0.9}

    models = {"a": cheap or sure, "b": plainly, "judge": judge, "strong": "9"}
    used = {role: script for role, script in models.items() if re.search(rf"\b{role}\b", f"{tier} {options} strong")}
    result, _, _ = sorted_by(fusion, tier, options, used)
    assert [item.tier for item in result.items] == tiers, [item.reason for item in result.items]
    assert result.receipt.escalated == sum(number > 1 for number in tiers)


def test_nothing_is_asked_that_cannot_change_the_outcome_of_an_item(fusion: Any) -> None:
    result, made, _ = sorted_by(fusion, "{roles: a, samples: 5}", AGREE, {"a": plainly, "strong": "9"})
    assert len(made["a"].requests) == 8
    assert all(item.agreement == 1.0 for item in result.items)


# Cost.


def test_the_cost_of_items_adds_up_to_that_of_the_run(fusion: Any) -> None:
    used = Usage(input=10, output=5)

    def measured(request: Request) -> Say:
        return Say(odd_is_hard(request), usage=used)

    models = {"a": measured, "b": lambda request: Say(plainly(request), usage=used), "strong": "9"}
    result, _, _ = sorted_by(fusion, "{roles: [a, b]}", AGREE, models)
    costs = [item.cost for item in result.items if item.cost is not None]
    one = PRICE.of(used)
    assert [cost.measured for cost in costs] == [2 * one] * 4
    assert [cost.estimated > 0 for cost in costs] == [True, False, True, False]
    assert sum(item.usd or 0 for item in result.items) == result.cost.usd
    assert all(cost.usd == cost.measured + cost.estimated for cost in costs)


def test_a_cost_is_unknown_rather_than_nothing(fusion: Any) -> None:
    unpriced = ScriptedModel(
        "9", info=ModelInfo(id="scripted/strong", provider="scripted", price=None, json_schema=True)
    )
    made = {
        "a": ScriptedModel(plainly, name="scripted/a", price=PRICE),
        "b": ScriptedModel(odd_is_hard, name="scripted/b", price=PRICE),
        "strong": unpriced,
    }
    text = ROWS % ("{roles: [a, b]}", AGREE)
    result, _ = run(fusion(made), None, inputs={"rows": rows(2)}, pipeline=pipeline(text))
    escalated, accepted = result.items
    assert (escalated.usd, accepted.usd is None) == (None, False)
    assert escalated.cost is not None
    assert escalated.cost.unknown_calls == 1
    assert escalated.cost.estimated > 0
    assert json.loads(result.model_dump_json())["items"][0]["cost"]["usd"] is None


def test_a_failed_item_states_what_it_cost(fusion: Any) -> None:
    models = {"a": plainly, "b": odd_is_hard, "strong": ContentFilterError("not this", model="strong")}
    result, _, _ = sorted_by(fusion, "{roles: [a, b]}", AGREE, models, count=2)
    failed = result.stages["sort"].items[0]
    assert failed.failure is not None
    assert failed.tier is None
    assert (failed.usd or 0) > 0


# Failures and limits.


def test_members_that_fail_do_not_count_for_their_item(fusion: Any) -> None:
    def shaky(request: Request) -> Any:
        return ContentFilterError("no", model="a") if number_in(request) == 3 else plainly(request)

    result, _, events = sorted_by(fusion, "{roles: [a, b]}", AGREE, {"a": shaky, "b": plainly, "strong": "9"})
    assert [item.tier for item in result.items] == [1, 1, 2, 1]
    assert result.status == "ok"
    assert steps(events)["tier-2-a"] == 1


@pytest.mark.parametrize(
    ("options", "status", "lost"),
    [
        ("", "partial", 1),
        ("on_error: skip", "partial", 1),
        ("on_error: fail", "failed", 0),
        ("min_ok: 4", "failed", 0),
    ],
)
def test_an_item_that_fails_is_named_and_the_others_go_on(fusion: Any, options: str, status: str, lost: int) -> None:
    def strong(request: Request) -> Any:
        return ContentFilterError("not this", model="strong") if number_in(request) == 1 else "9"

    models = {"a": plainly, "b": odd_is_hard, "strong": strong}
    result, _, _ = sorted_by(fusion, "{roles: [a, b]}", ", ".join(filter(None, [AGREE, options])), models)
    assert result.status == status
    assert len(result.lost) == lost
    assert "not this" in (result.error.message if result.error else result.lost[0].failure.message)


def test_a_fault_that_all_calls_would_meet_ends_the_stage_after_a_few(fusion: Any) -> None:
    models = {"a": AuthenticationError("wrong key", model="a"), "b": plainly, "strong": "9"}
    result, made, _ = sorted_by(fusion, "{roles: [a, b]}", f"{AGREE}, concurrency: 2", models, count=50)
    assert "wrong key" in (result.error.message if result.error else "")
    assert len(made["a"].requests) <= 4
    assert not made["strong"].requests


def test_concurrency_bounds_the_items_at_work(fusion: Any) -> None:
    at_once, most = 0, 0

    async def counting(request: Request) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return plainly(request)

    sorted_by(
        fusion, "{roles: [a, b]}", f"{AGREE}, concurrency: 3", {"a": counting, "b": plainly, "strong": "9"}, count=20
    )
    assert 1 < most <= 3


def test_a_stage_that_is_late_keeps_what_it_has(fusion: Any) -> None:
    async def slow(request: Request) -> str:
        if number_in(request) > 2:
            await asyncio.Event().wait()
        return plainly(request)

    models = {"a": slow, "b": plainly, "strong": "9"}
    result, _, _ = sorted_by(fusion, "{roles: [a, b]}", f"{AGREE}, timeout: 0.3, min_ok: 2", models)
    assert result.status == "partial"
    assert [item.ok for item in result.stages["sort"].items] == [True, True, False, False]


def test_a_budget_that_ends_takes_the_tier_before(fusion: Any) -> None:
    """Of four items that would all be escalated, those beyond the budget keep their first answer."""
    models = {"a": plainly, "b": odd_is_hard, "strong": "9"}
    text = "on_budget: finish\nbudget: {calls: 10}\n" + ROWS % ("{roles: [a, b]}", f"{AGREE}, concurrency: 1")
    made = {role: ScriptedModel(script, name=f"scripted/{role}", price=PRICE) for role, script in models.items()}
    given = {"rows": [{"n": number} for number in (1, 3, 5, 7)]}
    result, _ = run(fusion(made), None, inputs=given, pipeline=pipeline(text))
    assert result.status == "partial"
    assert [item.tier for item in result.items][:3] == [2, 2, 2]
    last = result.stages["sort"].items[3]
    assert last.failure is not None or (last.tier == 1 and "exceeds the budget" in (last.reason or ""))
    assert result.receipt.calls <= 10


def test_an_answer_is_kept_where_the_next_tier_does_not_fit(fusion: Any) -> None:
    models = {"a": plainly, "b": odd_is_hard, "strong": "9"}
    text = "on_budget: finish\nbudget: {calls: 3}\n" + ROWS % ("{roles: [a, b]}", f"{AGREE}, concurrency: 1")
    made = {role: ScriptedModel(script, name=f"scripted/{role}", price=PRICE) for role, script in models.items()}
    result, _ = run(fusion(made), None, inputs={"rows": [{"n": 1}, {"n": 3}]}, pipeline=pipeline(text))
    assert [item.tier for item in result.items] == [2, None]
    assert result.status == "partial"


# The dataflow around it.

PLANNED = """
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: planner}
  work:
    kind: cascade
    over: plan
    tiers: [{roles: [a, b]}, strong]
    accept: {agree: 2, extract: number}
    prompt: "WORK {{ item.instructions }}, given {{ needed | map(attribute='value') | join(',') }}"
  %s
output: %s
"""


def numbered(request: Request) -> str:
    return "".join(c for c in said(request).partition(", given")[0] if c.isdigit()) or "0"


def planned(fusion: Any, parts: Any, stage: str, output: str, **models: Any) -> tuple[Result, list[EventBase]]:
    made = {"planner": parts, "a": numbered, "b": numbered, "strong": "the merged answer", **models}
    return run(fusion(made), pipeline=pipeline(PLANNED % (stage, output)))


def test_a_subtask_reads_the_results_that_it_needs(fusion: Any) -> None:
    parts = subtasks(3)
    parts[2]["needs"] = [1, 2]
    seen: list[str] = []

    def noting(request: Request) -> str:
        seen.append(said(request))
        return numbered(request)

    result, _ = planned(fusion, plan_text(parts), "", "work", a=noting)
    assert [item.value for item in result.items] == ["1", "2", "3"]
    assert any("given 1,2" in words for words in seen)


def test_items_are_answered_while_the_plan_is_still_written(fusion: Any) -> None:
    text = plan_text(subtasks(3))
    second = text.index('"title": "part 3"')
    begun = asyncio.Event()

    async def slow_plan(request: Request) -> Say:
        return Say(pieces=[text[:second], (0.4, text[second:])])

    def noting(request: Request) -> str:
        begun.set()
        return numbered(request)

    _, events = planned(fusion, slow_plan, "", "work", a=noting)
    first = next(at for at, event in enumerate(events) if isinstance(event, CallStarted) and event.stage == "work")
    written = next(at for at, event in enumerate(events) if isinstance(event, CallFinished) and event.stage == "plan")
    assert first < written


@pytest.mark.parametrize(
    ("stage", "output", "text"),
    [
        ("answer: {kind: merge, over: work, role: strong}", "answer", "the merged answer"),
        ("answer: {kind: merge, over: work, strategy: concat}", "answer", "1\n\n2"),
        (
            "page: {kind: render, template: '{% for one in work %}{{ one.tier }}/{{ one.agreement }} {% endfor %}'}",
            "page",
            "1/1.0 1/1.0 ",
        ),
        ("again: {kind: map, over: work, role: strong, prompt: 'AGAIN {{ item.tier }} {{ item }}'}", "again", None),
        ("check: {kind: review, over: work, role: reviewer}", "check", "1\n\n2"),
        ("won: {kind: vote, over: work, extract: number}", "won.confidence", "0.5"),
        ("again: {kind: cascade, over: work, tiers: [a, strong], accept: {checks: {contains: '#'}}}", "again", None),
    ],
)
def test_every_kind_reads_its_items(fusion: Any, stage: str, output: str, text: str | None) -> None:
    reviewer = {"issues": [], "verdict": "accept"}
    more = {"reviewer": reviewer} if "reviewer" in stage else {}
    result, _ = planned(fusion, plan_text(subtasks(2)), stage, output, **more)
    assert result.status == "ok", result.error
    assert text is None or result.text.strip() == text.strip()


def test_a_reviewer_sees_what_the_answer_was_written_from(fusion: Any) -> None:
    seen: list[str] = []

    def reviewer(request: Request) -> Any:
        seen.append(said(request))
        return {"issues": [], "verdict": "accept"}

    result, _ = planned(
        fusion,
        plan_text(subtasks(2)),
        "check: {kind: review, over: work, role: reviewer}",
        "check",
        reviewer=reviewer,
    )
    assert all("WORK do part" in words for words in seen)
    assert [item.tier for item in result.items] == [1, 1]


def test_the_decision_comes_before_a_column_of_its_name_once_it_is_made(fusion: Any) -> None:
    text = """
inputs: {rows: {format: csv}}
stages:
  sort:
    kind: cascade
    over: inputs.rows
    tiers: [a, strong]
    accept: {checks: {contains: "N"}}
    prompt: "N {{ item.n }}. {{ item.tier }}"
  page: {kind: render, template: "{% for one in sort %}{{ one.tier }} {{ one.source.tier }} {% endfor %}"}
output: page
"""
    model = ScriptedModel(lambda request: said(request), name="scripted/a")
    result, _ = run(fusion({"a": model, "strong": "N"}), None, inputs={"rows": rows(2)}, pipeline=pipeline(text))
    assert result.text == "1 gold 1 gold "
    assert all("gold" in said(request) for request in model.requests)


def test_texts_of_a_list_and_chunks_of_a_split_are_items_too(fusion: Any) -> None:
    text = """
inputs: {text: lines}
stages:
  parts: {kind: split, text: inputs.text, by: paragraphs}
  read: {kind: cascade, over: parts, tiers: [a, b], accept: {checks: {contains: x}}, prompt: "{{ item.text }}"}
  lines:
    kind: cascade
    over: inputs.text.splitlines() | select | list
    tiers: [a, b]
    accept: {checks: {contains: x}}
    prompt: "{{ item.source }}"
output: {parts: read | map(attribute="tier") | list, lines: lines | map(attribute="tier") | list}
"""
    model = ScriptedModel(lambda request: said(request), name="scripted/a")
    result, _ = run(fusion({"a": model, "b": "9"}), "a x\n\nb\n\nc x", pipeline=pipeline(text))
    assert result.data == {"parts": [1, 2, 1], "lines": [1, 2, 1]}


# Resume.


def killed_after(path: Path, number: int) -> None:
    """Run a cascade over rows in a process that is killed when its models are asked for the n-th time."""
    asked = 0

    def counting(script: Any) -> Any:
        def answer(request: Request) -> Any:
            nonlocal asked
            asked += 1
            if asked == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return script(request)

        return answer

    roles = {
        role: ScriptedModel(counting(script), name=f"scripted/{role}", price=PRICE)
        for role, script in (("a", plainly), ("b", odd_is_hard), ("strong", lambda request: "9"))
    }
    with Fusion(profile="local", roles=roles, store=path) as made:
        made.complete(
            inputs={"rows": rows(6)}, pipeline=pipeline(ROWS % ("{roles: [a, b]}", f"{AGREE}, concurrency: 2"))
        )


@pytest.mark.parametrize("number", [1, 4, 7, 11, 15])
def test_a_run_that_was_killed_asks_nothing_twice(number: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    assert exit_code(killed_after, path, number) == -signal.SIGKILL
    roles = {
        role: ScriptedModel(script, name=f"scripted/{role}", price=PRICE)
        for role, script in (("a", plainly), ("b", odd_is_hard), ("strong", lambda request: "9"))
    }
    with Fusion(profile="local", roles=roles, store=path) as made:
        (row,) = made.store.runs(RunFilter())
        events: list[EventBase] = []
        result = made.resume(row.run_id, on_event=events.append)
    assert [item.tier for item in result.items] == [2, 1, 2, 1, 2, 1]
    assert (result.receipt.cascades, result.receipt.escalated) == (6, 3)
    finished = [event for event in events if isinstance(event, CallFinished)]
    reused = sum(event.reused == "journal" for event in finished)
    assert reused + sum(len(model.requests) for model in roles.values()) == len(finished) == 15
    assert reused > 0 or number < 7
    assert sum((item.usd or Decimal(0) for item in result.items), Decimal(0)) == result.cost.usd


def test_a_lost_item_is_asked_again_and_no_other(fusion: Any, tmp_path: Path) -> None:
    refuses = True

    def strong(request: Request) -> Any:
        return ContentFilterError("no", model="strong") if refuses and number_in(request) == 3 else "9"

    models = {
        role: ScriptedModel(script, name=f"scripted/{role}")
        for role, script in {"a": plainly, "b": odd_is_hard, "strong": strong}.items()
    }
    made = fusion(models, store=tmp_path / "runs.db")
    text = pipeline(ROWS % ("{roles: [a, b]}", AGREE))
    first, _ = run(made, None, inputs={"rows": rows(4)}, pipeline=text)
    assert [part.item for part in first.lost] == [2]
    refuses, before = False, sum(len(model.requests) for model in models.values())
    again = made.resume(first.run_id)
    assert again.status == "ok"
    assert [item.tier for item in again.items] == [2, 1, 2, 1]
    assert sum(len(model.requests) for model in models.values()) - before == 3


# What is said before a run.


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("{tiers: [a, b], accept: {judge: a}, concurrency: 4}", "`concurrency` has an effect with `over` only"),
        ("{tiers: [a, b], accept: {judge: a}, min_ok: 4}", "`min_ok` has an effect with `over` only"),
        ("{tiers: [a, b], accept: {judge: a}, reads: item}", "`reads: item` has an effect with `over` only"),
        ("{tiers: [a, b], accept: {judge: a}, over: inputs}", "is not a list"),
        ("{tiers: [a, b], accept: {judge: a}, over: inputs.rows, on_error: escalate}", "'fail' or 'skip'"),
        ("{tiers: [a, b], accept: {judge: a}, over: sorted}", "no stage 'sorted'; did you mean 'sort'?"),
        ("{tiers: [a, b], accept: {judge: a}, prompt: '{{ item.n }}'}", "no stage or variable 'item'"),
    ],
)
def test_a_mistake_is_named_with_its_place(fusion: Any, stage: str, says: str) -> None:
    text = f"inputs: {{rows: {{format: csv}}}}\nstages:\n  sort: {{kind: cascade, {stage[1:]}\noutput: sort\n"
    with pytest.raises(PipelineError, match=r"test(\.yaml:3:\d+)? stages\.sort") as caught:
        fusion({"a": "1", "b": "2"}).complete(inputs={"rows": rows(1)}, pipeline=pipeline(text))
    assert says in str(caught.value)


# Before a run: checked, shown, quoted, explained, drawn.

TICKETS = """
inputs: {rows: {format: jsonl}}
stages:
  sort:
    kind: cascade
    over: inputs.rows
    tiers: [{roles: [a, b]}, strong]
    accept: {agree: 2}
    schema: {team: [billing, technical, sales]}
    prompt: "N {{ item.n }}."
output: {format: csv, columns: [n, team, tier]}
"""


def priced(fusion: Any) -> tuple[Fusion, list[ScriptedModel]]:
    models = {role: ScriptedModel("x", name=f"scripted/{role}", price=PRICE) for role in ("a", "b", "strong")}
    return fusion(models), list(models.values())


def test_the_calls_of_items_are_shown_without_any(fusion: Any) -> None:
    made, models = priced(fusion)
    (stage,) = made.preview(inputs={"rows": rows(3)}, pipeline=pipeline(TICKETS)).stages
    assert (stage.items, stage.most_calls) == (3, 3 * 6)
    assert [(call.item, call.step) for call in stage.calls] == [
        (item, step) for item in range(3) for step in ("tier-1-a", "tier-1-b")
    ]
    assert [call.messages[0].content for call in stage.calls[::2]] == ["N 1.", "N 2.", "N 3."]
    assert not any(model.requests for model in models)


def test_a_quote_counts_items_and_their_escalations(fusion: Any) -> None:
    made, models = priced(fusion)
    quote = made.quote(inputs={"rows": rows(30)}, pipeline=pipeline(TICKETS))
    assert quote.calls.most == 30 * 6
    assert 60 < quote.calls.likely < 90
    (stage,) = quote.stages
    strong = next(line for line in stage.lines if line.role == "strong")
    assert 2 <= strong.calls.likely <= 20
    assert not any(model.requests for model in models)


def test_explain_and_the_diagram_know_it(fusion: Any) -> None:
    from fusion.pipeline.diagram import draw
    from fusion.pipeline.reference.explain import explain
    from fusion.prompts.library import Library
    from fusion.prompts.template import Prompts

    for kind in ("cascade", "route"):
        told = explain(kind)
        assert "items (items, with `over`)" in told.fields
        assert {"over", "concurrency", "min_ok"} <= {parameter.name for parameter in told.parameters}
    drawn = draw(
        pipeline(PLANNED % ("answer: {kind: merge, over: work, role: strong}", "answer")), Prompts(Library.standard())
    )
    assert "plan.subtasks =>" in drawn
    assert "work.items =>" in drawn


def test_a_cascade_over_items_is_calibrated_without_its_items(fusion: Any) -> None:
    from fusion import calibrate
    from fusion.core.errors import InputError

    made, _ = priced(fusion)
    with pytest.raises(InputError, match="calibrate it without `over`"):
        calibrate(made, pipeline(TICKETS), [("1", "1")], target=0.1)


def test_a_judge_of_an_item_reads_its_task(fusion: Any) -> None:
    seen: list[str] = []

    def judge(request: Request) -> Any:
        seen.append(said(request))
        return {"problem": "", "verdict": "accept", "confidence": 1.0}

    result, _, _ = sorted_by(
        fusion, "a", "accept: {judge: judge}", {"a": plainly, "judge": judge, "strong": "9"}, count=2
    )
    assert [item.tier for item in result.items] == [1, 1]
    assert sorted(f"N {n}." in words for n in (1, 2) for words in seen) == [False, False, True, True]


def test_two_hundred_items_cost_no_more_cpu_than_a_map_beyond_their_calls(fusion: Any) -> None:
    """CPU of a call, at its lowest of several runs."""
    mapped = (
        ROWS.partition("  sort:")[0]
        + '  sort: {kind: map, over: inputs.rows, role: a, prompt: "N {{ item.n }}."}\noutput: sort\n'
    )

    def cpu(text: str, roles: list[str]) -> float:
        made = fusion({role: ScriptedModel("7", name=f"scripted/{role}") for role in roles})
        found = []
        for _ in range(4):
            begun = time.process_time()
            result, _ = run(made, None, inputs={"rows": rows(200)}, pipeline=pipeline(text))
            found.append((time.process_time() - begun) / result.receipt.calls)
        return min(found)

    tiered = ROWS % ("{roles: [a, b]}", "accept: {agree: 2}")
    assert cpu(tiered, ["a", "b", "strong"]) < 1.7 * cpu(mapped, ["a"])
