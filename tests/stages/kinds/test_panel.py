"""panel: who answers, who does not and why, who is no longer waited for."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from fusion import ModelInfo, Panel, Price, Request, Say, ScriptedModel
from fusion.core.errors import AuthenticationError, ContentFilterError, ModelConnectionError, PipelineError
from fusion.core.events import AttemptCharged, CallCancelled, StageFinished
from fusion.stages.verification.labels import shuffled
from tests.conftest import pipeline, run

HANGS = Say("too late", delay=60)

pytestmark = pytest.mark.usefixtures("without_pauses")


def panel(members: str, more: str = "") -> Any:
    return pipeline(f"""
inputs: {{task: what}}
stages:
  panel: {{kind: panel, members: {members}{", " if more else ""}{more}}}
output: panel
""")


def models(**scripts: Any) -> dict[str, ScriptedModel]:
    return {role: ScriptedModel(script, name=f"scripted/{role}") for role, script in scripts.items()}


def answers(result: Any) -> dict[int, Any]:
    """What each member answered, by its number."""
    return {item.source["member"]: item.value for item in result.stages["panel"].items if item.ok}


def failures(result: Any) -> list[str]:
    return sorted(part.failure.message for part in result.failed if part.item is not None)


def steps(*asked: ScriptedModel) -> list[str]:
    return sorted(request.key.step for model in asked for request in model.requests if request.key)


# Who answers.


def test_roles_and_samples_answer_at_once_and_each_call_has_its_name(fusion: Any) -> None:
    asked = models(a="from a", b="from b")
    result, _ = run(fusion(asked), pipeline=panel("[a, {role: b, samples: 3}]"))
    assert result.status == "ok"
    assert answers(result) == {1: "from a", 2: "from b", 3: "from b", 4: "from b"}
    assert steps(*asked.values()) == ["member-a", *(f"member-b-sample-{n}" for n in (1, 2, 3))]
    assert len({request.messages for model in asked.values() for request in model.requests}) == 1


def test_samples_of_one_role(fusion: Any) -> None:
    asked = models(a=["one", "two", "three"])
    result, _ = run(fusion(asked), pipeline=panel("{role: a, samples: 3, temperature: 0.7}"))
    assert sorted(answers(result).values()) == ["one", "three", "two"]
    assert steps(*asked.values()) == ["sample-1", "sample-2", "sample-3"]
    assert {request.temperature for request in asked["a"].requests} == {0.7}


def test_members_are_asked_at_the_same_time(fusion: Any) -> None:
    asked = models(a=Say("x", delay=0.05))
    run(fusion(asked), pipeline=panel("{role: a, samples: 8}"))
    assert asked["a"].peak == 8


def test_members_on_embedded_models_are_asked_one_after_another(fusion: Any) -> None:
    running = {"now": 0, "most": 0}

    async def script(request: Request) -> str:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        await asyncio.sleep(0.01)
        running["now"] -= 1
        return "answer"

    price = Price(input=Decimal(0), output=Decimal(0))
    roles = {
        role: ScriptedModel(script, info=ModelInfo(id=f"own/{role}", provider="own", price=price, local=True))
        for role in ("a", "b")
    }
    result, _ = run(fusion(roles), pipeline=panel("[a, {role: b, samples: 3}]"))
    assert len(answers(result)) == 4
    assert running["most"] == 1


def test_answers_hold_to_a_schema(fusion: Any) -> None:
    asked = models(a={"n": 1}, b="no shape")
    result, _ = run(fusion(asked), pipeline=panel("[a, b]", "schema: {n: integer}"))
    assert answers(result) == {1: {"n": 1}}
    assert "member-b (b): 'scripted/b' replied twice with data that violates the schema" in failures(result)[0]


# Labels.


def test_labels_tell_nothing_and_stand_in_their_order(fusion: Any) -> None:
    firsts = set()
    for _ in range(20):
        result, _ = run(fusion(models(a="x", b="y", c="z")), pipeline=panel("[a, b, c]"))
        items = result.stages["panel"].items
        assert [item.source["label"] for item in items] == ["A", "B", "C"]
        firsts.add(items[0].source["member"])
    assert firsts == {1, 2, 3}


def test_the_order_depends_on_the_seed_alone() -> None:
    assert shuffled(9, "run stage") == shuffled(9, "run stage")
    assert sorted(shuffled(9, "run stage")) == list(range(9))
    assert len({tuple(shuffled(5, f"run {n}")) for n in range(50)}) > 20


# Who does not answer.


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (Say("   "), "empty answer"),
        (Say("I will not", finish_reason="content_filter"), "content filter"),
        (ContentFilterError("refused"), "refused"),
        (Say("cut o", finish_reason="length"), "cut off at its output limit"),
        (ModelConnectionError("dropped"), "dropped"),
        (AuthenticationError("wrong key"), "wrong key"),
    ],
)
def test_what_is_not_usable_does_not_count_and_is_named(fusion: Any, script: Any, says: str) -> None:
    result, _ = run(fusion(models(a="good", b=script, c="good")), pipeline=panel("[a, b, c]"))
    assert result.status == "partial"
    assert answers(result) == {1: "good", 3: "good"}
    (failure,) = failures(result)
    assert failure.startswith("member-b (b): ")
    assert says in failure


def test_too_few_answers_fail_the_stage_and_each_member_is_named(fusion: Any) -> None:
    asked = models(a="good", b=ModelConnectionError("b is down"), c=ModelConnectionError("c is down"))
    result, _ = run(fusion(asked), pipeline=panel("[a, b, c]", "min_ok: 2"))
    assert result.status == "failed"
    assert "1 of 3 members answered, 2 are needed" in result.error.message
    assert "member-b (b): b is down" in result.error.message
    assert "member-c (c): c is down" in result.error.message
    assert [item.value for item in result.items if item.ok] == ["good"]


def test_nobody_is_waited_for_once_min_ok_is_out_of_reach(fusion: Any) -> None:
    asked = models(a=HANGS, b=ModelConnectionError("down"))
    result, _ = run(fusion(asked), pipeline=panel("[a, b]", "min_ok: 2"))
    assert result.status == "failed"
    assert asked["a"].cancelled == 1
    assert result.seconds < 10


def test_a_key_that_no_member_has_ends_the_run_with_that(fusion: Any) -> None:
    asked = models(a=AuthenticationError("wrong key"), b=AuthenticationError("wrong key"))
    result, _ = run(fusion(asked), pipeline=panel("[a, b]"))
    assert (result.status, result.error.reason) == ("failed", "AuthenticationError")


def test_a_member_that_fails_ends_the_run_where_the_stage_says_so(fusion: Any) -> None:
    asked = models(a=HANGS, b=ModelConnectionError("down"))
    result, _ = run(fusion(asked), pipeline=panel("[a, b]", "on_error: fail"))
    assert (result.status, result.error.reason) == ("failed", "ModelConnectionError")
    assert asked["a"].cancelled == 1


# Who replaces whom.


def test_a_member_without_an_answer_is_replaced_by_the_next_one(fusion: Any) -> None:
    asked = models(a=ModelConnectionError("down"), b="good")
    result, _ = run(fusion(asked), pipeline=panel("[a, b]", "on_error: refill"))
    assert result.status == "ok"
    assert answers(result) == {1: "good", 2: "good"}
    assert steps(asked["b"]) == ["member-a-refill-1", "member-b"]
    assert [item.by for item in result.stages["panel"].items] == ["scripted/b"] * 2
    assert any("member-a has no answer (down" in note for note in result.notes)


def test_roles_that_replace_are_asked_in_their_order(fusion: Any) -> None:
    asked = models(a=ModelConnectionError("down"), b=Say(""), c="good")
    result, _ = run(fusion(asked), pipeline=panel("[a]", "on_error: refill, refill: [b, c]"))
    assert answers(result) == {1: "good"}
    assert steps(asked["c"]) == ["member-a-refill-2"]
    assert result.stages["panel"].items[0].source["role"] == "c"


def test_a_lone_sample_is_replaced_by_another_one(fusion: Any) -> None:
    def script(request: Request) -> Any:
        return Say("") if request.key and request.key.step == "sample-2" else "good"

    asked = models(a=script)
    result, _ = run(fusion(asked), pipeline=panel("{role: a, samples: 2}", "on_error: refill"))
    assert answers(result) == {1: "good", 2: "good"}
    assert "sample-2-refill-1" in steps(asked["a"])


# Who is no longer waited for.


def test_a_straggler_is_cancelled_counted_and_named(fusion: Any) -> None:
    asked = models(a=Say("a", delay=0.05), b=Say("b", delay=0.1), c=Say("c", delay=0.1), d=HANGS)
    result, events = run(fusion(asked), pipeline=panel("[a, b, c, d]"))
    assert result.status == "partial"
    assert answers(result) == {1: "a", 2: "b", 3: "c"}
    assert asked["d"].cancelled == 1
    assert failures(result) == ["member-d (d): no longer waited for: 3 of 4 have answered"]
    assert [event.model for event in events if isinstance(event, CallCancelled)] == ["scripted/d"]
    (charged,) = [event for event in events if isinstance(event, AttemptCharged)]
    assert charged.model == "scripted/d"
    assert result.seconds < 5


def test_a_set_grace_counts_from_the_answer_that_makes_enough(fusion: Any) -> None:
    asked = models(a=Say("a", delay=0.05), b=Say("b", delay=0.6), c=HANGS)
    result, _ = run(fusion(asked), pipeline=panel("[a, b, c]", "min_ok: 1, grace: 0.2"))
    assert answers(result) == {1: "a"}
    result, _ = run(fusion(asked), pipeline=panel("[a, b, c]", "min_ok: 1, grace: 2"))
    assert answers(result) == {1: "a", 2: "b"}
    result, _ = run(fusion(models(a="a", b="b", c=HANGS)), pipeline=panel("[a, b, c]", "min_ok: 2, grace: 0"))
    assert answers(result) == {1: "a", 2: "b"}


def test_a_model_that_is_known_to_be_slow_is_waited_for_longer(fusion: Any) -> None:
    asked = models(frontier=Say("slow", delay=0.6), bulk=Say("quick", delay=0.05))
    one = fusion(asked)
    first, _ = run(one, pipeline=panel("[frontier, {role: bulk, samples: 4}]"))
    assert 1 not in answers(first)
    run(one, pipeline=panel("{role: frontier, samples: 5}"))
    later, _ = run(one, pipeline=panel("[frontier, {role: bulk, samples: 4}]"))
    assert answers(later)[1] == "slow"


def test_a_stage_that_is_out_of_time_keeps_what_is_there(fusion: Any) -> None:
    result, events = run(
        fusion(models(a="good", b=HANGS, c=HANGS)), pipeline=panel("[a, b, c]", "timeout: 0.2, grace: 50")
    )
    assert answers(result) == {1: "good"}
    assert "not done within the stage's timeout of 0.2 s" in failures(result)[0]
    (finished,) = [event for event in events if isinstance(event, StageFinished)]
    assert finished.status == "ok"


def test_a_budget_that_runs_out_keeps_the_answers_that_were_paid(fusion: Any) -> None:
    text = panel("{role: a, samples: 4}")
    finishing = text.model_copy(update={"on_budget": "finish"})
    result, _ = run(fusion(models(a="good")), pipeline=finishing, budget={"calls": 2})
    assert (result.status, len(answers(result))) == ("partial", 2)
    result, _ = run(fusion(models(a="good")), pipeline=text, budget={"calls": 2})
    assert (result.status, result.error.reason) == ("failed", "BudgetError")


# Bad input.


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"members": []}, "a panel of 0; it has 1 to 26 members"),
        ({"members": ["a"] * 100}, "a panel of 100; it has 1 to 26 members"),
        ({"members": {"role": "a", "samples": 100}}, "a panel of 100"),
        ({"members": {"role": "a", "samples": 0}}, "expected at least 1"),
        ({"members": ["a", "b"], "min_ok": 3}, "min_ok 3 is more than the panel's 2 members"),
        ({"members": ["a"], "refill": ["b"]}, "no effect without `on_error: refill`"),
        ({"members": {"role": "a", "samples": 3}, "temperature": 0}, "3 samples of 'a' at temperature 0"),
        ({"members": ["a"], "role": "b"}, "unknown key 'role'"),
    ],
)
def test_a_panel_that_cannot_work_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Panel(**keys)
    assert says in str(caught.value)
