"""Runs on scripted models: what flows when, what fails how, and what is left behind."""

import asyncio
import json
import threading
from decimal import Decimal
from typing import Any

import pytest

from fusion import Item, Limits, Price, RunFailed, Say, ScriptedModel, UsageError
from fusion.core.budget import Budget
from fusion.core.errors import AuthenticationError, BadRequestError, ModelTimeoutError
from fusion.core.events import (
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    ItemFinished,
    Noted,
    StageFinished,
)
from tests.conftest import ACCEPT, frontier, pipeline, plan_text, run, said, subtasks

MAP = """
inputs: {rows: {default: []}}
stages:
  work: {kind: map, over: inputs.rows, prompt: "Row: {{ item.value }}"}
output: work
"""


def test_the_main_job_plans_works_reviews_and_merges(fusion: Any) -> None:
    result, events = run(fusion({"frontier": frontier(3), "bulk": lambda request: "done: " + said(request)[-20:]}))
    assert (result.status, result.text) == ("ok", "the answer")
    assert {name: stage.status for name, stage in result.stages.items()} == dict.fromkeys(
        ("plan", "work", "review", "answer"), "ok"
    )
    assert [item.index for item in result.stages["work"].items] == [0, 1, 2]
    assert sum(isinstance(event, CallStarted) for event in events) == 1 + 3 + 3 + 1
    assert {(line.stage, line.role): line.calls for line in result.receipt.lines} == {
        ("plan", "frontier"): 1,
        ("work", "bulk"): 3,
        ("review", "reviewer"): 3,
        ("answer", "frontier"): 1,
    }


def test_a_subtask_is_worked_on_while_the_plan_is_still_being_written(fusion: Any) -> None:
    first_done = threading.Event()
    text = plan_text(subtasks(2))
    cut = text.index('{"title": "part 2"')

    async def planner(request: Any) -> Any:
        if "You are the planner" in said(request):
            return Say(pieces=[text[:cut], *([(0.01, "")] * 200), text[cut:]])
        return ACCEPT if "You are the reviewer" in said(request) else "merged"

    worked: list[bool] = []

    def worker(request: Any) -> str:
        worked.append(first_done.is_set())
        return "ok"

    def watch(event: Any) -> None:
        if isinstance(event, StageFinished) and event.stage == "plan":
            first_done.set()

    result = fusion({"frontier": planner, "bulk": worker}).complete("do it", on_event=watch)
    assert result.status == "ok"
    assert worked == [False, True]


def test_items_keep_their_order_whatever_order_they_finish_in(fusion: Any) -> None:
    delays = {"a": 0.06, "b": 0.03, "c": 0.0}

    def worker(request: Any) -> Say:
        row = said(request)[-1]
        return Say(row.upper(), delay=delays[row])

    result, events = run(fusion({"bulk": worker}), None, pipeline=pipeline(MAP), inputs={"rows": list("abc")})
    assert [item.value for item in result.items] == ["A", "B", "C"]
    assert result.data == ["A", "B", "C"]
    assert [event.item for event in events if isinstance(event, ItemFinished)] == [2, 1, 0]


def test_a_dependent_subtask_sees_what_it_needs_as_it_was_worked(fusion: Any) -> None:
    parts = subtasks(3)
    parts[2]["needs"] = [1]
    seen: list[str] = []

    def worker(request: Any) -> Any:
        words = said(request)
        seen.append(words)
        return Say("FIRST RESULT", delay=0.02) if "do part 1" in words else "other"

    result, _ = run(fusion({"frontier": _planned(parts), "bulk": worker}))
    assert result.status == "ok"
    third = next(words for words in seen if "do part 3" in words)
    assert "FIRST RESULT" in third
    assert all("FIRST RESULT" not in words for words in seen if "do part 2" in words)


def test_dependents_of_a_failed_subtask_fail_with_its_reason_and_the_rest_is_merged(fusion: Any) -> None:
    parts = subtasks(3)
    parts[1]["needs"] = [1]

    def worker(request: Any) -> Any:
        return _content_filter() if "do part 1" in said(request) else "fine"

    result, _ = run(fusion({"frontier": _planned(parts), "bulk": worker}))
    assert result.status == "partial"
    assert result.text == "the answer"
    failed = {part.item: part.failure.message for part in result.failed if part.stage == "work"}
    assert set(failed) == {0, 1}
    assert "refused" in failed[0]
    assert "item 1" in failed[1]
    assert "refused" in failed[1]


def _chain(length: int) -> list[Item]:
    return [Item(index=n, source=n, value=n, needs=(n - 1,) if n else ()) for n in range(length)]


def test_a_long_chain_of_needs_is_worked_one_after_the_other_and_fails_as_one(fusion: Any) -> None:
    worked, _ = run(fusion({"bulk": "ok"}), None, pipeline=pipeline(MAP), inputs={"rows": _chain(2000)})
    assert [item.value for item in worked.items] == ["ok"] * 2000
    bulk = ScriptedModel(lambda _: _content_filter(), name="scripted/bulk")
    text = MAP.replace("prompt:", "min_ok: 0, prompt:")
    failed, _ = run(fusion({"bulk": bulk}), None, pipeline=pipeline(text), inputs={"rows": _chain(2000)})
    assert len(bulk.requests) == 1
    assert {item.failure.reason for item in failed.items} == {"ContentFilterError"}
    assert len(failed.items) == 2000
    assert failed.items[-1].failure.message.startswith("item 1, which this one needs, failed: ")


def test_items_that_need_what_is_not_there_or_each_other_fail_and_hold_nobody_up(fusion: Any) -> None:
    rows = [Item(index=0, needs=(7,)), Item(index=1, needs=(2,)), Item(index=2, needs=(1,)), Item(index=3, value="d")]
    result, _ = run(fusion({"bulk": "ok"}), None, pipeline=pipeline(MAP), inputs={"rows": rows})
    assert [item.ok for item in result.items] == [False, False, False, True]
    assert "not among the items" in result.items[0].failure.message
    assert "needs itself" in result.items[1].failure.message


def test_a_timeout_fails_those_that_wait_for_others_too(fusion: Any) -> None:
    text = MAP.replace("prompt:", "timeout: 0.1, min_ok: 0, prompt:")
    slow = Say("never", delay=60)
    result, _ = run(fusion({"bulk": slow}), None, pipeline=pipeline(text), inputs={"rows": _chain(3)})
    assert [item.failure.reason for item in result.items] == ["StageError"] * 3


def test_the_first_root_cause_is_reported_and_everything_else_is_cancelled(fusion: Any) -> None:
    slow = ScriptedModel(Say("late", delay=30), name="scripted/slow")
    result, _ = run(
        fusion({"frontier": [AuthenticationError("the key is wrong")], "bulk": slow}),
        None,
        pipeline=pipeline("""
stages:
  one: {kind: generate, role: bulk, prompt: "one: write"}
  two: {kind: generate, role: frontier, prompt: "two: write"}
  all: {kind: generate, role: frontier, prompt: "{{ one }} {{ two }}"}
output: all
"""),
    )
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.reason == "AuthenticationError"
    assert result.stages["two"].status == "failed"
    assert result.stages["one"].status == "cancelled"
    assert (slow.cancelled, slow.in_flight) == (1, 0)


def test_every_call_that_begins_is_said_to_have_ended(fusion: Any) -> None:
    def worker(request: Any) -> Any:
        if said(request).endswith("a"):
            return "quick"
        return Say("never", delay=60) if said(request).endswith("b") else _content_filter()

    text = MAP.replace("prompt:", "timeout: 0.2, prompt:")
    _, events = run(fusion({"bulk": worker}), None, pipeline=pipeline(text), inputs={"rows": list("abc")})
    calls: dict[int | None, list[type]] = {}
    for event in events:
        if isinstance(event, (CallStarted, CallFinished, CallFailed, CallCancelled)):
            calls.setdefault(event.item, []).append(type(event))
    assert calls == {0: [CallStarted, CallFinished], 1: [CallStarted, CallCancelled], 2: [CallStarted, CallFailed]}


def test_a_fault_of_a_model_of_the_users_own_ends_its_call_too(fusion: Any) -> None:
    _, events = run(
        fusion({"bulk": lambda request: {}["no such key"]}), None, pipeline=pipeline(MAP), inputs={"rows": ["a"]}
    )
    (failed,) = [event for event in events if isinstance(event, CallFailed)]
    assert failed.failure.reason == "KeyError"


def test_a_wrong_key_stops_a_map_at_its_first_call(fusion: Any) -> None:
    bulk = ScriptedModel(lambda _: AuthenticationError("the key is wrong"), name="scripted/bulk")
    result, _ = run(fusion({"bulk": bulk}), None, pipeline=pipeline(MAP), inputs={"rows": list("abcdefghij" * 10)})
    assert result.status == "failed"
    assert len(bulk.requests) <= 16


def test_a_run_that_fails_raises_with_what_was_finished(fusion: Any) -> None:
    def bulk(request: Any) -> Any:
        return Say("ok") if "do part 1" in said(request) else Say(error=BadRequestError("no such model"), delay=0.05)

    with pytest.raises(RunFailed) as caught:
        fusion({"frontier": frontier(2), "bulk": bulk}).complete("do it")
    assert caught.value.exit_code == 3
    assert [item.value for item in caught.value.result.stages["work"].items] == ["ok"]
    assert isinstance(caught.value.__cause__, BadRequestError)


@pytest.mark.parametrize(
    ("work", "budget", "code"),
    [
        (BadRequestError("no such model"), None, 3),
        ("", None, 3),
        ("ok", {"calls": 1}, 4),
    ],
)
def test_a_run_that_fails_raises_with_the_exit_code_of_its_cause(
    fusion: Any, work: Any, budget: Any, code: int
) -> None:
    one = fusion({"bulk": lambda _: work})
    with pytest.raises(RunFailed) as caught:
        one.complete(pipeline=pipeline(MAP), inputs={"rows": ["a", "b"]}, budget=budget)
    assert caught.value.exit_code == code


def test_an_interrupt_and_an_internal_error_have_exit_codes_of_their_own(fusion: Any) -> None:
    def fail(event: Any) -> None:
        if isinstance(event, ItemFinished):
            raise KeyError("lost")

    stream = fusion({"bulk": Say("late", delay=60)}).stream(pipeline=pipeline(MAP), inputs={"rows": ["a"]})
    stream.handle.stop()
    with pytest.raises(RunFailed) as stopped:
        _ = stream.result
    with pytest.raises(RunFailed) as broken:
        fusion({"bulk": "ok"}).complete(pipeline=pipeline(MAP), inputs={"rows": ["a"]}, on_event=fail)
    assert (stopped.value.exit_code, broken.value.exit_code) == (130, 1)


def test_a_stage_that_is_skipped_gives_its_default_or_skips_its_readers(fusion: Any) -> None:
    text = """
inputs: {want: {default: false}}
stages:
  extra: {kind: generate, when: inputs.want, prompt: "extra: write", %s}
  reader: {kind: generate, prompt: "read: {{ extra }}"}
output: {answer: reader}
"""
    one = fusion({"frontier": lambda request: "got " + said(request)})
    with_default, _ = run(one, None, pipeline=pipeline(text % "default: nothing"))
    assert with_default.data == {"answer": "got read: nothing"}
    without, _ = run(one, None, pipeline=pipeline(text.replace(", %s", "")))
    assert without.status == "failed"
    assert "extra was skipped: `when: inputs.want` is false" in str(without.error)


def test_on_error_skip_lets_the_run_go_on_and_names_the_loss(fusion: Any) -> None:
    result, _ = run(
        fusion({"frontier": lambda request: "" if "bad" in said(request) else "good"}),
        None,
        pipeline=pipeline("""
stages:
  weak: {kind: generate, prompt: "a bad one", on_error: skip, default: none}
  answer: {kind: generate, prompt: "write: {{ weak }}"}
output: answer
"""),
    )
    assert (result.status, result.text) == ("partial", "good")
    assert [(part.stage, part.failure.reason) for part in result.failed] == [("weak", "BadResponseError")]


def test_on_error_escalate_asks_the_other_role(fusion: Any) -> None:
    one = fusion({"bulk": Say("cut", finish_reason="length"), "frontier": "whole"})
    result, events = run(
        one,
        None,
        pipeline=pipeline("""
stages:
  answer: {kind: generate, role: bulk, prompt: "write: it", on_error: escalate, escalate_to: frontier}
output: answer
"""),
    )
    assert (result.status, result.text) == ("ok", "whole")
    assert any(isinstance(event, Noted) and "asking 'frontier'" in event.message for event in events)


def test_a_stage_ends_at_its_timeout_and_a_map_keeps_what_is_done(fusion: Any) -> None:
    def worker(request: Any) -> Say:
        return Say("quick") if said(request).endswith("a") else Say("never", delay=60)

    text = MAP.replace("prompt:", "timeout: 0.2, prompt:")
    result, _ = run(fusion({"bulk": worker}), None, pipeline=pipeline(text), inputs={"rows": list("ab")})
    assert result.status == "partial"
    assert [(item.value, item.ok) for item in result.items] == [("quick", True), (None, False)]
    assert "timeout of 0.2 s" in result.items[1].failure.message

    strict, _ = run(
        fusion({"bulk": worker}),
        None,
        pipeline=pipeline(text.replace("timeout:", "min_ok: 2, timeout:")),
        inputs={"rows": list("ab")},
    )
    assert strict.status == "failed"
    assert "1 of 2 items are usable, 2 are needed" in strict.error.message


def test_on_error_fail_ends_the_run_at_the_first_failed_item(fusion: Any) -> None:
    text = MAP.replace("prompt:", "on_error: fail, prompt:")
    result, _ = run(
        fusion({"bulk": lambda request: _content_filter() if said(request).endswith("b") else "ok"}),
        None,
        pipeline=pipeline(text),
        inputs={"rows": list("abc")},
    )
    assert result.status == "failed"
    assert result.error.reason == "ContentFilterError"


def test_role_is_chosen_by_item(fusion: Any) -> None:
    parts = subtasks(2)
    parts[1]["difficulty"] = 5
    result, _ = run(fusion({"frontier": _planned(parts, work="hard"), "bulk": "easy"}))
    assert [item.value for item in result.stages["work"].items] == ["easy", "hard"]
    assert [item.by for item in result.stages["work"].items] == ["scripted/bulk", "scripted/frontier"]


def test_data_whose_keys_are_called_items_and_values_is_read_by_its_keys(fusion: Any) -> None:
    text = """
inputs: {row: {default: {}}}
stages:
  answer: {kind: generate, prompt: "see {{ inputs.row.items }} {{ inputs.row.values }} {{ inputs.row.keys }}"}
output: answer
"""
    row = {"items": [1], "values": "v", "keys": "k"}
    result, _ = run(fusion({"frontier": said}), None, pipeline=pipeline(text), inputs={"row": row})
    assert result.text == "see [1] v k"


def test_a_map_over_a_map_keeps_each_items_source(fusion: Any) -> None:
    text = """
inputs: {rows: {default: []}}
stages:
  one: {kind: map, over: inputs.rows, prompt: "one: {{ item.name }}"}
  two: {kind: map, over: one, prompt: "two: {{ item.name }} {{ item.value }}"}
output: two
"""
    rows = [{"name": f"n{n}"} for n in range(20)]
    result, _ = run(
        fusion({"bulk": lambda request: f"<{said(request)}>"}), None, pipeline=pipeline(text), inputs={"rows": rows}
    )
    assert result.data == [f"<two: n{n} <one: n{n}>>" for n in range(20)]


def test_an_input_too_long_for_the_model_is_refused_before_the_call(fusion: Any) -> None:
    from fusion import ModelInfo

    info = ModelInfo(id="scripted/short", provider="scripted", price=Price(input=0, output=0), context=1000)
    model = ScriptedModel("x", info=info)
    result, _ = run(fusion({"frontier": model, "bulk": model}), "long " * 4000)
    assert result.status == "failed"
    assert not model.requests
    assert "room for 1,000" in result.error.message
    assert "too many" in result.error.message
    assert "longer context" in result.error.message


def test_a_timeout_of_the_role_bounds_the_attempt(fusion: Any) -> None:
    model = ScriptedModel(Say("late", delay=30), name="scripted/late")
    text = """
roles: {slow: {chain: [scripted/late], timeout: 0.05}}
stages: {answer: {kind: generate, role: slow, prompt: "write: it"}}
output: answer
"""
    one = fusion({}, models={"scripted/late": model})
    handle = one.start(None, pipeline=pipeline(text))
    result = handle.wait()
    assert result.status == "failed"
    assert isinstance(handle.cause, ModelTimeoutError)
    assert len(model.requests) >= 1


class TestBudget:
    """Limits of runs, through the Python door."""

    PRICE = Price(input=Decimal("0.000001"), output=Decimal("0.00001"))

    def test_calls_are_never_more_than_the_limit(self, fusion: Any) -> None:
        bulk = ScriptedModel("ok", name="scripted/bulk")
        one = fusion({"bulk": bulk}, budget={"calls": 5})
        handle = one.start(None, pipeline=pipeline(MAP), inputs={"rows": list("abcdefghij")})
        result = handle.wait()
        assert (result.status, handle.exit_code) == ("failed", 4)
        assert result.error.reason == "BudgetError"
        assert len(bulk.requests) == 5

    def test_dollars_are_never_more_than_the_limit(self, fusion: Any) -> None:
        bulk = ScriptedModel("word " * 40, name="scripted/bulk", price=self.PRICE)
        one = fusion({"bulk": bulk}, budget={"usd": 0.02})
        short = MAP.replace("prompt:", "max_tokens: 100, prompt:")
        handle = one.start(None, pipeline=pipeline(short), inputs={"rows": list(range(200))})
        result = handle.wait()
        assert handle.exit_code == 4
        assert Decimal(0) < result.cost.usd <= Decimal("0.02")
        assert [item for item in result.items if item.ok]

    def test_finish_merges_what_could_be_afforded(self, fusion: Any) -> None:
        shipped = fusion().load("plan-execute-review").model_copy(update={"on_budget": "finish"})
        one = fusion({"frontier": frontier(10), "bulk": "done"})
        handle = one.start("do it", pipeline=shipped, budget={"calls": 8})
        result = handle.wait()
        assert (result.status, handle.exit_code) == ("partial", 4)
        assert result.text == "the answer"
        assert any(part.failure.reason == "BudgetError" for part in result.failed)

    def test_an_unknown_price_is_refused_under_a_dollar_limit_given_by_hand(self, fusion: Any) -> None:
        from fusion import ModelInfo

        model = ScriptedModel("x", info=ModelInfo(id="scripted/new", provider="scripted", json_schema=True))
        by_hand, _ = run(
            fusion({"bulk": model}, budget={"usd": 1}), None, pipeline=pipeline(MAP), inputs={"rows": ["a"]}
        )
        assert by_hand.status == "failed"
        assert "price" in by_hand.error.message
        in_file, _ = run(
            fusion({"bulk": model}), None, pipeline=pipeline("budget: {usd: 1}" + MAP), inputs={"rows": ["a"]}
        )
        assert in_file.status == "ok"
        assert in_file.cost.unknown_calls == 1

    def test_seconds_end_the_run(self, fusion: Any) -> None:
        bulk = ScriptedModel(Say("late", delay=60), name="scripted/bulk")
        handle = fusion({"bulk": bulk}, budget={"seconds": 0.1}).start(
            None, pipeline=pipeline(MAP), inputs={"rows": ["a"]}
        )
        result = handle.wait()
        assert (result.status, handle.exit_code) == ("failed", 4)
        assert "seconds" in result.error.message

    def test_seconds_of_a_shared_budget_end_the_run_too(self, fusion: Any) -> None:
        bulk = ScriptedModel(Say("late", delay=60), name="scripted/bulk")
        within = Budget(Limits(seconds=0.1), name="shared")
        handle = fusion({"bulk": bulk}).start(None, pipeline=pipeline(MAP), inputs={"rows": ["a"]}, within=within)
        assert (handle.wait().status, handle.exit_code) == ("failed", 4)
        assert [(stop.limit, stop.level) for stop in handle.budget_stops] == [("seconds", "shared")]

    def test_a_stages_own_budget_is_kept_inside_the_runs(self, fusion: Any) -> None:
        bulk = ScriptedModel("ok", name="scripted/bulk")
        text = MAP.replace("prompt:", "budget: {calls: 2}, prompt:")
        handle = fusion({"bulk": bulk}).start(None, pipeline=pipeline(text), inputs={"rows": list("abc")})
        assert handle.wait().error.reason == "BudgetError"
        assert len(bulk.requests) == 2

    def test_over_delivery_is_settled_and_seen(self, fusion: Any) -> None:
        from fusion import Usage

        usage = Usage(input=10, output=50_000)
        bulk = ScriptedModel(Say("x", usage=usage), name="scripted/bulk", price=self.PRICE)
        result, _ = run(fusion({"bulk": bulk}), None, pipeline=pipeline(MAP), inputs={"rows": ["a"]})
        assert result.usage.output == 50_000
        assert result.cost.usd == Decimal("0.50001")


def test_cancelling_gives_back_everything_and_says_what_was_done(fusion: Any) -> None:
    bulk = ScriptedModel(
        lambda request: Say("quick") if said(request).endswith("a") else Say("late", delay=60), name="scripted/bulk"
    )
    done = threading.Event()
    one = fusion({"bulk": bulk})
    handle = one.start(
        None,
        pipeline=pipeline(MAP),
        inputs={"rows": list("abc")},
        on_event=lambda event: done.set() if isinstance(event, ItemFinished) else None,
    )
    assert done.wait(5)
    result = handle.cancel()
    assert (result.status, handle.exit_code) == ("failed", 130)
    assert result.error.reason == "Interrupted"
    assert [item.value for item in result.items] == ["quick"]
    assert (bulk.cancelled, bulk.in_flight) == (2, 0)


def test_a_thousand_items_leave_no_task_behind(fusion: Any) -> None:
    one = fusion({"bulk": "ok"})
    result, _ = run(one, None, pipeline=pipeline(MAP), inputs={"rows": list(range(1000))})
    assert len(result.items) == 1000
    left = one._launcher.loop.submit(_tasks()).done.result()
    assert left == 1


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def _planned(parts: list[dict[str, Any]], *, work: str = "worked") -> Any:
    def script(request: Any) -> Any:
        words = said(request)
        if "You are the planner" in words:
            return plan_text(parts)
        if "You are the reviewer" in words:
            return json.dumps(ACCEPT)
        return work if "Do this one subtask" in words else "the answer"

    return script


def _content_filter() -> Exception:
    from fusion.core.errors import ContentFilterError

    return ContentFilterError("the provider refused the content")


def test_a_run_cannot_be_started_from_inside_an_event(fusion: Any) -> None:
    one = fusion({"bulk": "ok"})
    caught: list[Exception] = []

    def nested(event: Any) -> None:
        if not caught:
            try:
                one.start(None, pipeline=pipeline(MAP))
            except UsageError as error:
                caught.append(error)

    run_result = one.complete(None, pipeline=pipeline(MAP), inputs={"rows": ["a"]}, on_event=nested)
    assert run_result.status == "ok"
    assert len(caught) == 1


def test_a_stages_timeout_counts_from_its_first_item_and_no_item_is_lost_to_it(fusion: Any) -> None:
    text = """
stages:
  plan: {kind: plan, prompt: "plan"}
  work: {kind: map, over: plan, prompt: "{{ item.title }}", timeout: 0.2, min_ok: 1}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
    plan = plan_text(subtasks(3))
    second, third = plan.index("part 2"), plan.index("part 3")
    pieces = [(0.4, plan[:second]), plan[second:third], (0.5, plan[third:])]
    bulk = ScriptedModel(lambda r: said(r) if "1" in said(r) else Say("late", delay=30), name="scripted/bulk")
    one = fusion({"frontier": Say(pieces=pieces), "bulk": bulk})
    result, _ = run(one, None, pipeline=pipeline(text))
    assert (result.status, result.text) == ("partial", "part 1")
    assert [item.ok for item in result.stages["work"].items] == [True, False, False]
    assert all("stage's timeout of 0.2 s" in part.failure.message for part in result.failed)
    assert len(bulk.requests) == 2


def test_a_stages_time_counts_from_its_first_input(fusion: Any) -> None:
    result, events = run(
        fusion({"frontier": Say("late", delay=0.3), "bulk": "soon"}),
        None,
        pipeline=pipeline("""
stages:
  first: {kind: generate, role: frontier, prompt: "wait"}
  second: {kind: generate, role: bulk, prompt: "after {{ first }}"}
output: second
"""),
    )
    assert result.stages["first"].seconds >= 0.3
    assert result.stages["second"].seconds < 0.2
    finished = {event.stage: event.seconds for event in events if isinstance(event, StageFinished)}
    assert finished == {name: stage.seconds for name, stage in result.stages.items()}
