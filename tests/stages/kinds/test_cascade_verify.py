"""cascade with `accept: {verify: …}`: an answer that does not pass a check goes to the next tier."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Price, Request, ScriptedModel
from fusion.core.errors import StageError
from fusion.core.events import Decided
from fusion.core.types import Finished
from fusion.pipeline.loader import check_text
from fusion.prompts.library import Library, shipped_root
from fusion.store.open import open_store
from tests.conftest import pipeline, run, said
from tests.engine.test_resume import Stopping, interrupted_at
from tests.stages.kinds.test_verify import Sandboxes
from tests.stages.kinds.test_verify import ends as ends

CASCADE = """
inputs: {task: {}, tests: {default: "assert answer() == 7", material: false}}
stages:
  answer: {kind: cascade, tiers: [bulk, second, frontier], accept: {verify: {VERIFY}OF_ACCEPT}OF_STAGE}
output: answer
"""
PASSES = Finished(0, "MARK\n", "", None)
FAILS = Finished(1, "", "AssertionError: 6 is not 7", None)
REVISE = {"issues": [{"quote": "", "problem": "it is wrong"}], "verdict": "revise"}
ACCEPT = {"issues": [], "verdict": "accept"}


def answered(
    fusion: Any, verify: str, *, of_accept: str = "", of_stage: str = "", prompt: str = "do it", **models: Any
) -> tuple[Any, list[Decided]]:
    """Result and decisions of one run of CASCADE."""
    roles = {"bulk": "from bulk", "second": "from second", "frontier": "from frontier", **models}
    text = CASCADE.replace("VERIFY", verify).replace("OF_ACCEPT", of_accept).replace("OF_STAGE", of_stage)
    result, events = run(fusion(roles), None, pipeline=pipeline(text), inputs={"task": prompt})
    return result, [event for event in events if isinstance(event, Decided)]


FREE = {
    "the first passes": ("contains: bulk", "from bulk", "tier-1", "accepted"),
    "the second passes": ("contains: second", "from second", "tier-2", "accepted"),
    "none passes": ("contains: nothing", "from frontier", "tier-3", "the last tier"),
    "an expression": ("expression: \"value == 'from second'\"", "from second", "tier-2", "accepted"),
    "a pattern": ('matches: "^from b"', "from bulk", "tier-1", "accepted"),
}


@pytest.mark.parametrize("case", FREE)
def test_the_first_answer_that_passes_is_taken(case: str, fusion: Any) -> None:
    verify, text, tier, reason = FREE[case]
    result, (decision,) = answered(fusion, verify)
    assert (result.text, decision.decision, decision.reason) == (text, tier, reason)


def test_tests_run_in_the_sandbox_and_their_log_is_the_reason(fusion: Any, ends: Callable[..., Sandboxes]) -> None:
    sandbox = ends(FAILS, PASSES)
    result, (decision,) = answered(fusion, 'python: "{{ inputs.tests }}"')
    assert (result.text, decision.decision) == ("from second", "tier-2")
    assert len(sandbox.commands) == 2
    assert result.notes == ("answer: tier 1: exit code 1",)


def test_a_check_that_cannot_be_made_fails_the_stage(fusion: Any, ends: Callable[..., Sandboxes]) -> None:
    ends(StageError("no sandbox: install bubblewrap"))
    result, _ = answered(fusion, "command: [python3, -c, pass]")
    assert result.error.message == "no sandbox: install bubblewrap"


def test_a_judge_reads_what_the_tier_was_shown(fusion: Any) -> None:
    judge = ScriptedModel([REVISE, ACCEPT], name="scripted/judge")
    result, _ = answered(fusion, "judge: {role: judge, criteria: short}", judge=judge)
    assert result.text == "from second"
    assert [request.key.step for request in judge.requests] == ["tier-1-verdict", "tier-2-verdict"]
    assert "do it" in said(judge.requests[0])
    assert "from bulk" in said(judge.requests[0])
    assert any("tier 1: it is wrong" in note for note in result.notes)


def test_it_comes_behind_the_checks_and_before_the_judge(fusion: Any) -> None:
    judge = ScriptedModel({"problem": "", "verdict": "accept", "confidence": 1}, name="scripted/judge")
    more = ", checks: {contains: from}, judge: judge"
    result, _ = answered(fusion, "contains: second", of_accept=more, judge=judge)
    assert (result.text, len(judge.requests)) == ("from second", 1)
    result, _ = answered(fusion, "contains: second", of_accept=", checks: {contains: front}")
    assert result.text == "from frontier"


def test_with_agreement_the_answer_that_agrees_is_checked(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  answer:
    kind: cascade
    tiers: [{roles: bulk, samples: 3}, frontier]
    accept: {agree: 2, extract: number, verify: {expression: number == 7}}
output: answer
"""
    for answers, expected in ((["7", "8", "7"], "7"), (["8", "7", "8"], "9")):
        bulk = ScriptedModel(lambda request, answers=answers: answers[request.sample], name="scripted/bulk")
        result, _ = run(fusion({"bulk": bulk, "frontier": "9"}), pipeline=pipeline(text))
        assert result.text == expected


def test_a_tier_may_have_a_check_of_its_own(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  answer:
    kind: cascade
    tiers: [{roles: bulk, accept: {verify: {contains: second}}}, second, frontier]
    accept: {verify: {contains: frontier}}
output: answer
"""
    models = {"bulk": "not second", "second": "from second", "frontier": "from frontier"}
    assert run(fusion(models), pipeline=pipeline(text))[0].text == "not second"


def test_items_are_checked_one_by_one(fusion: Any) -> None:
    bulk = ScriptedModel(lambda request: said(request)[-1], name="scripted/bulk")
    options = ", over: inputs.task.split(), prompt: 'Do {{ item.source }}'"
    verify = "expression: \"value == 'x' and item.value == value\""
    result, _ = answered(fusion, verify, of_stage=options, prompt="x y", bulk=bulk)
    assert [(item.value, item.tier) for item in result.items] == [("x", 1), ("from frontier", 3)]
    assert "tier 1: this does not hold of it" in result.items[1].reason


def test_no_run_spends_more_than_its_quote_bounds(fusion: Any) -> None:
    price = Price(input=Decimal("0.001"), output=Decimal("0.002"))
    roles = {
        name: ScriptedModel("x", name=f"scripted/{name}", price=price) for name in ("bulk", "second", "frontier")
    }
    roles["judge"] = ScriptedModel(REVISE, name="scripted/judge", price=price)
    made = fusion(roles)
    given = pipeline(CASCADE.replace("VERIFY", "judge: judge").replace("OF_ACCEPT", "").replace("OF_STAGE", ""))
    quote = made.quote("do it", pipeline=given)
    result, _ = run(made, pipeline=given)
    assert quote.calls.most == 3 + 3 * 2
    assert result.receipt.calls == 5
    assert result.cost.usd <= quote.usd.cap
    assert quote.calls.low < quote.calls.high


@pytest.mark.parametrize("number", range(1, 6))
def test_a_cascade_that_was_stopped_at_any_call_goes_on_there(number: int, tmp_path: Path) -> None:
    def script(request: Request) -> Any:
        return (REVISE if request.json_schema else None) or f"answer of {request.key.step}"  # type: ignore[union-attr]

    text = CASCADE.replace("VERIFY", "judge: any").replace("OF_ACCEPT", "").replace("OF_STAGE", "")
    given = pipeline(text.replace("[bulk, second, frontier]", "[any, any, any]"))
    model = Stopping(script)
    store = open_store(tmp_path / "runs.db")
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, number, pipeline=given)
        assert first.status == "failed"
        again = fusion.resume(first.run_id)
    store.close()
    assert (again.status, again.text, again.receipt.calls) == ("ok", "answer of tier-3-a", 5)
    assert model.answered == Counter(dict.fromkeys(model.answered, 1))


MISTAKES = {
    "nothing to check": ("", "stages.answer.accept.verify: no condition for an answer; give `python`"),
    "tests and a command": (
        "python: x, command: [y]",
        "stages.answer.accept.verify: `python` and `command` both run the code",
    ),
    "an unknown key": ("pyton: x", "stages.answer.accept.verify.pyton: unknown key 'pyton'; did you mean 'python'?"),
    "tests that read an answer": ("python: '{{ answer }}'", "stages.answer.accept.verify.python: "),
    "an unknown variable": (
        "expression: vale == 1",
        "stages.answer.accept.verify.expression: no stage or variable 'vale'; did you mean 'value'?",
    ),
    "a judge that sees no task": (
        "judge: {role: x, prompt: 'Is it good? {{ value }}'}",
        "stages.answer.accept.verify.judge.prompt: a review has to see what it judges against",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_their_place(case: str) -> None:
    verify, message = MISTAKES[case]
    text = CASCADE.replace("VERIFY", verify).replace("OF_ACCEPT", "").replace("OF_STAGE", "")
    found = check_text(text, library=Library([shipped_root()]), file="test.yaml")
    assert message in "\n".join(map(str, found))
