"""Calls of runs in batches: sent together, at half the price, and made live where a batch does not answer."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion, Say
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.core.events import (
    AttemptFailed,
    BatchEnded,
    BatchProgressed,
    BatchSubmitted,
    CallFinished,
    EventBase,
    FallbackTaken,
)
from tests.conftest import pipeline, run
from tests.models.batches.window.scripted import HALF, LIVE, BatchModel, Provider, quick

Make = Callable[..., Fusion]
MAP = """
name: notes
inputs: {notes: {}}
stages:
  read:
    kind: map
    over: inputs.notes.split(",")
    role: bulk
    prompt: "Say {{ item.source }}"
    max_tokens: 100
    OPTIONS
output: read
"""


CHAIN = "roles: {bulk: {chain: [scripted/first, other/second]}}"


def notes(count: int) -> str:
    return ",".join(f"note {n}" for n in range(count))


def mapped(
    fusion: Make, model: Any, count: int = 5, *, options: str = "on_error: skip", batch: bool = True, **more: Any
) -> tuple[Any, list[EventBase]]:
    """Run a map of so many notes."""
    one = fusion({"bulk": model}, settings=quick(**more.pop("times", {})), **more.pop("made", {}))
    return run(
        one,
        None,
        pipeline=pipeline(MAP.replace("OPTIONS", options)),
        inputs={"notes": notes(count)},
        batch=batch,
        **more,
    )


def of(kind: type[EventBase], events: list[EventBase]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_calls_of_a_stage_go_together_at_half_the_price(fusion: Make) -> None:
    provider = Provider(polls=2)
    model = BatchModel(provider)
    result, events = mapped(fusion, model, 5)
    assert result.status == "ok"
    assert [item.value for item in result.items] == [f"answer to Say note {n}" for n in range(5)]
    assert (len(provider.submitted), len(provider.sent), model.live) == (1, 5, [])
    assert result.cost.usd == 5 * HALF
    assert (result.receipt.batched, result.receipt.batch_saved) == (5, 5 * (LIVE - HALF))
    assert result.receipt.times.batch > 0
    assert result.receipt.lines[0].measured.cost.usd == 5 * HALF
    (submitted,) = of(BatchSubmitted, events)
    (ended,) = of(BatchEnded, events)
    assert (submitted.stage, submitted.role, submitted.batch, submitted.calls) == ("read", "bulk", "batch_1", 5)
    assert (ended.status, ended.calls, ended.answered) == ("ended", 5, 5)
    assert all(event.waited.batch > 0 for event in of(CallFinished, events))
    assert len(of(BatchProgressed, events)) <= 2


@pytest.mark.parametrize(
    ("batch", "options", "in_batch"),
    [
        (False, "", False),
        (False, "batch: auto", False),
        (False, "batch: always", True),
        (True, "batch: off", False),
        (True, "batch: auto", True),
        (True, "batch: always", True),
        (True, "", True),
    ],
)
def test_a_stage_says_if_its_calls_go_in_batches(fusion: Make, batch: bool, options: str, in_batch: bool) -> None:
    provider = Provider()
    result, _ = mapped(fusion, BatchModel(provider), 2, options=options, batch=batch)
    assert result.status == "ok"
    assert bool(provider.submitted) is in_batch


@pytest.mark.parametrize(
    "where", ["roles: {bulk: {chain: [scripted/batch], batch: always}}", "defaults: {batch: always}"]
)
def test_a_role_and_the_defaults_may_say_it_too(fusion: Make, where: str) -> None:
    provider = Provider()
    text = MAP.replace("OPTIONS", "").replace("inputs:", f"{where}\ninputs:", 1)
    one = fusion(models={"scripted/batch": BatchModel(provider)}, settings=quick(), model="scripted/batch")
    if where.startswith("roles"):
        one = fusion(models={"scripted/batch": BatchModel(provider)}, settings=quick())
    result, _ = run(one, None, pipeline=pipeline(text), inputs={"notes": notes(2)})
    assert (result.status, len(provider.sent)) == ("ok", 2)


class TestRows:
    def test_results_may_come_in_any_order(self, fusion: Make) -> None:
        result, _ = mapped(fusion, BatchModel(Provider(reverse=True)), 7)
        assert [item.value for item in result.items] == [f"answer to Say note {n}" for n in range(7)]

    def test_a_second_result_of_a_row_changes_nothing(self, fusion: Make) -> None:
        result, _ = mapped(fusion, BatchModel(Provider(answer=lambda text: [text, "again", text])), 4)
        assert [item.value for item in result.items] == [f"Say note {n}" for n in range(4)]
        assert result.cost.usd == 4 * HALF

    @pytest.mark.parametrize(
        "error",
        [
            ModelConnectionError("it broke"),
            RateLimitError("too fast"),
            ModelTimeoutError("expired"),
            BadResponseError("garbled"),
            ModelConnectionError("not worked on", sent=False),
        ],
    )
    def test_a_row_that_fails_goes_into_the_next_batch(self, fusion: Make, error: ModelError) -> None:
        tries: dict[str, int] = {}

        def answer(text: str) -> Any:
            tries[text] = tries.get(text, 0) + 1
            return error if text == "Say note 1" and tries[text] == 1 else text

        provider = Provider(answer=answer)
        model = BatchModel(provider)
        result, events = mapped(fusion, model, 3)
        assert (result.status, model.live) == ("ok", [])
        assert provider.submitted[1:] == [["Say note 1"]]
        assert [event.failure.reason for event in of(AttemptFailed, events)] == [type(error).__name__]

    @pytest.mark.parametrize("lost", [[], ModelConnectionError("it broke"), BadResponseError("garbled"), ""])
    def test_a_row_that_fails_twice_is_made_live(self, fusion: Make, lost: Any) -> None:
        provider = Provider(answer=lambda text: lost if text == "Say note 1" else text)
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3)
        assert [item.value for item in result.items] == ["Say note 0", "live", "Say note 2"]
        assert (provider.sent.count("Say note 1"), model.live) == (2, ["Say note 1"])
        assert result.receipt.batched == 2

    @pytest.mark.parametrize("error", [BadRequestError("no such field"), ContextWindowError("too long")])
    def test_a_row_that_no_batch_can_answer_is_made_live_at_once(self, fusion: Make, error: ModelError) -> None:
        provider = Provider(answer=lambda text: error if text == "Say note 1" else text)
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3)
        assert (provider.sent.count("Say note 1"), model.live) == (1, ["Say note 1"])
        assert result.status == "ok"

    def test_a_live_call_after_a_batch_falls_back(self, fusion: Make) -> None:
        provider = Provider(answer=lambda text: [])
        first = BatchModel(provider, ModelConnectionError("down"), name="scripted/first")
        second = BatchModel(Provider(), "the other", name="other/second")
        one = fusion(
            models={"scripted/first": first, "other/second": second},
            settings=quick(),
        )
        text = MAP.replace("OPTIONS", "").replace("inputs:", f"{CHAIN}\ninputs:", 1)
        result, events = run(one, None, pipeline=pipeline(text), inputs={"notes": notes(2)}, batch=True)
        assert [item.value for item in result.items] == ["the other", "the other"]
        assert len(of(FallbackTaken, events)) == 2
        assert len(provider.submitted) == 2


class TestWholeBatches:
    @pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
    def test_one_that_ends_early_is_sent_again(self, fusion: Make, status: Any) -> None:
        provider = Provider(ends=[(status, "out of luck")])
        answers = provider.answer
        provider.answer = lambda text: [] if provider.read == 1 else answers(text)
        model = BatchModel(provider)
        result, events = mapped(fusion, model, 4)
        assert (result.status, model.live, len(provider.submitted)) == ("ok", [], 2)
        assert [event.status for event in of(BatchEnded, events)] == [status, "ended"]
        assert of(BatchEnded, events)[0].message == "out of luck"
        charged = 0 if status in ("failed", "expired") else 4
        assert (result.receipt.lines[0].charged.cost.usd > 0) is bool(charged)

    def test_rows_that_were_answered_before_it_expired_are_kept(self, fusion: Make) -> None:
        provider = Provider(ends=[("expired", "")])
        provider.answer = lambda text: [] if provider.read == 1 and text in ("Say note 1", "Say note 3") else text
        result, _ = mapped(fusion, BatchModel(provider), 4)
        assert provider.submitted[1:] == [["Say note 1", "Say note 3"]]
        assert result.cost.usd == 4 * HALF

    @pytest.mark.parametrize(
        "error",
        [AuthenticationError("wrong key"), ModelError("not here"), ContextWindowError("file too large")],
    )
    def test_one_that_is_refused_is_made_live(self, fusion: Make, error: ModelError) -> None:
        provider = Provider(refuse=[error])
        model = BatchModel(provider)
        result, events = mapped(fusion, model, 3)
        assert (result.status, len(model.live), provider.sent) == ("ok", 3, [])
        (ended,) = of(BatchEnded, events)
        assert (ended.status, ended.message) == ("refused", str(error))
        assert result.cost.usd == 3 * LIVE

    def test_one_that_is_refused_for_its_content_is_halved(self, fusion: Make) -> None:
        provider = Provider(refuse=[BadRequestError("too large"), BadRequestError("too large")])
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 8)
        assert (result.status, model.live) == ("ok", [])
        assert sorted(len(one) for one in provider.submitted) == [2, 2, 4]
        assert sorted(provider.sent) == sorted(f"Say note {n}" for n in range(8))

    def test_a_single_call_that_is_refused_is_made_live(self, fusion: Make) -> None:
        provider = Provider(refuse=[BadRequestError("no")] * 3)
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 2)
        assert (result.status, sorted(model.live), provider.sent) == ("ok", ["Say note 0", "Say note 1"], [])

    @pytest.mark.parametrize(
        "error",
        [RateLimitError("slow down"), ModelConnectionError("no route", sent=False), ModelTimeoutError("slow")],
    )
    def test_a_submission_that_fails_is_repeated(self, fusion: Make, error: ModelError) -> None:
        provider = Provider(refuse=[error, error])
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3)
        assert (result.status, model.live, len(provider.submitted)) == ("ok", [], 1)

    def test_a_submission_that_keeps_failing_is_made_live(self, fusion: Make) -> None:
        provider = Provider(refuse=[RateLimitError("quota")] * 20)
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3)
        assert (result.status, len(model.live)) == ("ok", 3)

    @pytest.mark.parametrize("error", [ModelConnectionError("it broke off"), ModelTimeoutError("no answer")])
    def test_a_batch_whose_id_was_lost_is_found_by_its_name(self, fusion: Make, error: ModelError) -> None:
        provider = Provider(lose=[error])
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3)
        assert (result.status, model.live, len(provider.submitted)) == ("ok", [], 1)
        assert len(provider.looked) == 1

    def test_failed_looks_at_a_batch_are_repeated(self, fusion: Make) -> None:
        provider = Provider(broken_states=[ModelConnectionError("gone")] * 8)
        result, _ = mapped(fusion, BatchModel(provider), 3)
        assert (result.status, len(provider.submitted)) == ("ok", 1)

    def test_results_that_break_off_are_read_again(self, fusion: Make) -> None:
        provider = Provider(broken_results=[ModelConnectionError("gone")] * 2)
        result, _ = mapped(fusion, BatchModel(provider), 4)
        assert result.cost.usd == 4 * HALF
        assert len(provider.submitted) == 1

    def test_a_batch_that_cannot_be_read_is_charged_and_made_live(self, fusion: Make) -> None:
        provider = Provider(broken_states=[AuthenticationError("no longer")] * 9)
        model = BatchModel(provider)
        result, events = mapped(fusion, model, 2)
        assert (result.status, len(model.live)) == ("ok", 2)
        assert [event.status for event in of(BatchEnded, events)] == ["lost"]
        assert result.receipt.lines[0].charged.cost.usd > 0


class TestSizes:
    def test_a_batch_has_no_more_rows_than_the_provider_takes(self, fusion: Make) -> None:
        provider = Provider()
        result, _ = mapped(fusion, BatchModel(provider, most_rows=3), 8)
        assert (result.status, sorted(len(one) for one in provider.submitted)) == ("ok", [2, 3, 3])

    def test_a_batch_has_no_more_bytes_than_the_provider_takes(self, fusion: Make) -> None:
        provider = Provider()
        result, _ = mapped(fusion, BatchModel(provider, most_bytes=3 * len("Say note 1") + 1), 7)
        assert (result.status, sorted(len(one) for one in provider.submitted)) == ("ok", [1, 3, 3])

    def test_a_call_that_no_batch_takes_is_made_live(self, fusion: Make) -> None:
        provider = Provider()
        model = BatchModel(provider, most_bytes=4)
        result, _ = mapped(fusion, model, 2)
        assert (result.status, len(model.live), provider.submitted) == ("ok", 2, [])

    @pytest.mark.parametrize("given", ["true", "1", "yes", "{a: 1}", "[1]"])
    def test_a_kind_of_call_that_no_batch_holds_is_made_live(self, fusion: Make, given: str) -> None:
        provider = Provider()
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 2, options=f"extra: {{live: {given}}}")
        assert (result.status, len(model.live), provider.submitted) == ("ok", 2, [])

    def test_more_calls_wait_until_open_batches_end(self, fusion: Make) -> None:
        provider = Provider(polls=1)
        result, _ = mapped(fusion, BatchModel(provider), 9, times={"open_rows": 4})
        assert (result.status, [len(one) for one in provider.submitted]) == ("ok", [4, 4, 1])

    def test_more_items_than_the_concurrency_of_a_stage_are_in_a_batch(self, fusion: Make) -> None:
        provider = Provider()
        result, _ = mapped(fusion, BatchModel(provider), 40, options="concurrency: 2", times={"quiet": 1.0})
        assert (result.status, len(provider.submitted)) == ("ok", 1)

    def test_live_calls_after_a_batch_keep_to_the_concurrency(self, fusion: Make) -> None:
        model = BatchModel(
            Provider(answer=lambda text: BadRequestError("no")), lambda request: Say("live", delay=0.005)
        )
        result, _ = mapped(fusion, model, 12, options="concurrency: 3")
        assert (result.status, len(model.live)) == ("ok", 12)
        assert model.peak <= 3


class TestDeadline:
    def test_what_is_late_is_made_live_and_charged(self, fusion: Make) -> None:
        provider = Provider(hold=True)
        model = BatchModel(provider)
        result, events = mapped(fusion, model, 3, options="deadline: 0.2")
        assert (result.status, len(model.live), provider.cancelled) == ("ok", 3, ["batch_1"])
        assert [event.status for event in of(BatchEnded, events)] == ["late"]
        charged = result.receipt.lines[0].charged.cost.usd
        assert result.cost.usd == 3 * LIVE + charged
        assert charged > 0

    def test_a_batch_in_time_is_not_late(self, fusion: Make) -> None:
        provider = Provider(polls=1)
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3, options="deadline: 60")
        assert (model.live, result.cost.usd) == ([], 3 * HALF)

    def test_a_batch_that_ended_by_then_is_read(self, fusion: Make) -> None:
        provider = Provider()
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3, options="deadline: 0.2", times={"poll": 60.0, "slowest_poll": 60.0})
        assert (model.live, result.cost.usd) == ([], 3 * HALF)

    def test_calls_that_still_gather_are_late_too(self, fusion: Make) -> None:
        provider = Provider()
        model = BatchModel(provider)
        result, _ = mapped(fusion, model, 3, options="deadline: 0.1", times={"quiet": 60.0})
        assert (result.status, len(model.live), provider.submitted) == ("ok", 3, [])
        assert result.cost.usd == 3 * LIVE

    def test_calls_of_a_batch_that_is_late_in_part_are_waited_for(self, fusion: Make) -> None:
        provider = Provider(hold=True)
        model = BatchModel(provider)
        text = MAP.replace("OPTIONS", "deadline: 0.2").replace(
            "output: read",
            "  other:\n    kind: map\n    over: inputs.notes.split(',')\n    role: bulk\n"
            '    prompt: "Tell {{ item.source }}"\noutput: {read: read, other: other}',
        )

        def on_event(event: EventBase) -> None:
            if isinstance(event, BatchEnded):
                provider.hold = False

        one = fusion({"bulk": model}, settings=quick())
        result = one.complete(pipeline=pipeline(text), inputs={"notes": notes(2)}, batch=True, on_event=on_event)
        assert sorted(model.live) == ["Say note 0", "Say note 1"]
        assert result.data["other"] == ["answer to Tell note 0", "answer to Tell note 1"]
        assert provider.cancelled == []


class TestTime:
    @pytest.mark.parametrize(
        "limit", ["timeout: 0.3", "budget: {seconds: 0.3}", "timeout: 0.3\n    budget: {seconds: 0.3}"]
    )
    def test_time_in_a_batch_does_not_count(self, fusion: Make, limit: str) -> None:
        provider = Provider(polls=15)
        result, _ = mapped(fusion, BatchModel(provider), 3, options=limit, budget={"seconds": 0.4})
        assert result.status == "ok"
        assert result.seconds > 0.5

    def test_time_outside_of_batches_counts(self, fusion: Make) -> None:
        from fusion import Say

        model = BatchModel(Provider(answer=lambda text: BadRequestError("no")), lambda request: Say("live", delay=5))
        result, _ = mapped(fusion, model, 2, budget={"seconds": 0.3})
        assert (result.status, result.error.reason) == ("failed", "BudgetError")

    def test_members_of_a_panel_wait_for_each_other(self, fusion: Make) -> None:
        text = """
name: council
inputs: {task: {}}
stages:
  three:
    kind: panel
    members: [{role: quick}, {role: slow}]
    prompt: "Say {{ inputs.task }}"
    min_ok: 1
    grace: 0.1
output: three.answers
"""
        slow = BatchModel(Provider(polls=12), name="scripted/slow")
        one = fusion({"quick": BatchModel(Provider(), name="scripted/quick"), "slow": slow}, settings=quick())
        result, _ = run(one, "yes", pipeline=pipeline(text), batch=True)
        assert [item.ok for item in result.items] == [True, True]


class TestBudget:
    def test_the_worst_case_at_the_batch_price_is_reserved(self, fusion: Make) -> None:
        live, _ = mapped(fusion, BatchModel(Provider()), 1, batch=False, budget={"usd": "0.0007"})
        batched, _ = mapped(fusion, BatchModel(Provider()), 1, budget={"usd": "0.0007"})
        assert (live.status, batched.status) == ("failed", "ok")

    def test_a_cap_holds_whatever_is_in_batches(self, fusion: Make) -> None:
        provider = Provider()
        result, _ = mapped(fusion, BatchModel(provider), 30, budget={"usd": "0.003"})
        assert result.cost.usd <= Decimal("0.003")

    def test_calls_that_do_not_fit_beside_others_go_into_a_later_batch(self, fusion: Make) -> None:
        provider = Provider()
        result, _ = mapped(fusion, BatchModel(provider), 6, budget={"usd": "0.0025"})
        assert result.status == "ok"
        assert len(provider.submitted) > 1
        assert result.cost.usd == 6 * HALF

    def test_a_call_that_is_not_sent_costs_nothing(self, fusion: Make) -> None:
        result, _ = mapped(fusion, BatchModel(Provider(refuse=[AuthenticationError("no")])), 2)
        assert result.cost.usd == 2 * LIVE
        assert result.receipt.lines[0].charged.cost.usd == 0

    def test_failed_rows_cost_nothing_where_the_provider_bills_none(self, fusion: Make) -> None:
        error = ModelConnectionError("not worked on", sent=False)
        provider = Provider()
        provider.answer = lambda text: error if provider.read == 1 else text
        result, _ = mapped(fusion, BatchModel(provider), 3)
        assert result.cost.usd == 3 * HALF


def test_two_runs_share_a_batch(fusion: Make) -> None:
    provider = Provider()
    one = fusion({"bulk": BatchModel(provider)}, settings=quick(quiet=0.2))
    given = pipeline(MAP.replace("OPTIONS", ""))
    handles = [one.start(pipeline=given, inputs={"notes": notes(2)}, batch=True) for _ in range(3)]
    results = [handle.wait() for handle in handles]
    assert [len(sent) for sent in provider.submitted] == [6]
    assert [result.cost.usd for result in results] == [2 * HALF] * 3


def test_a_planner_hands_over_its_whole_reply(fusion: Make) -> None:
    from tests.conftest import plan_text, subtasks

    def answer(text: str) -> Any:
        return plan_text(subtasks(3)) if not text.startswith("do part") else f"done {text}"

    text = """
name: planned
inputs: {task: {}}
stages:
  plan: {kind: plan, role: bulk}
  work: {kind: map, over: plan, role: bulk, prompt: "{{ item.instructions }}"}
output: work
"""
    provider = Provider(answer=answer)
    one = fusion({"bulk": BatchModel(provider)}, settings=quick())
    result, _ = run(one, "go", pipeline=pipeline(text), batch=True)
    assert [item.value for item in result.items] == [f"done do part {n}" for n in (1, 2, 3)]
    assert [len(sent) for sent in provider.submitted] == [1, 3]


@pytest.mark.parametrize(
    ("options", "batch", "says"),
    [
        ("batch: always", False, "stages.read: `batch: always` has no effect on role 'bulk'"),
        ("", True, "`--batch` has no effect on role 'bulk'"),
        ("batch: auto", True, "`--batch` has no effect on role 'bulk'"),
    ],
)
def test_a_model_without_a_batch_api_is_named(fusion: Make, options: str, batch: bool, says: str) -> None:
    result, _ = mapped(fusion, "live", 2, options=options, batch=batch)
    assert result.status == "ok"
    assert any(says in note and "made live" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "batch"), [("batch: off", True), ("", False), ("batch: auto", False), ("batch: off", False)]
)
def test_a_model_without_a_batch_api_is_not_named_otherwise(fusion: Make, options: str, batch: bool) -> None:
    result, _ = mapped(fusion, "live", 2, options=options, batch=batch)
    assert not any("batch" in note for note in result.notes)
