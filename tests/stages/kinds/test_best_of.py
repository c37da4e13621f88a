"""best_of: order of candidates, ways to choose, early stops, ties, failures, cost, resume, and mistakes."""

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Limits, Pipeline, Price, Request, Say, ScriptedModel
from fusion.core.errors import AuthenticationError, ContentFilterError, UsageError
from fusion.core.events import Decided, Noted
from fusion.pipeline.loader import check_text
from fusion.prompts.library import Library, shipped_root
from fusion.store.open import open_store
from tests.conftest import own_settings, pipeline, run, said
from tests.engine.test_resume import Stopping, interrupted_at

BEST = """
inputs: {task: {}}
stages:
  best: {kind: best_of, OPTIONS}
output: best
"""
THREE = "roles: [strong, middle, cheap], choose: "


def priced(name: str, script: Any, dollars: str) -> ScriptedModel:
    return ScriptedModel(
        script, name=f"scripted/{name}", price=Price(input=Decimal(dollars), output=Decimal(dollars))
    )


def three(cheap: Any = "cheap", middle: Any = "middle", strong: Any = "strong", **more: Any) -> dict[str, Any]:
    """Three models by their prices, and others."""
    prices = {"cheap": "0.000001", "middle": "0.000002", "strong": "0.000003"}
    scripts = {"cheap": cheap, "middle": middle, "strong": strong}
    return {**{name: priced(name, script, prices[name]) for name, script in scripts.items()}, **more}


def best(fusion: Any, options: str, models: dict[str, Any], prompt: str = "do it", **given: Any) -> Any:
    """Result, decision and events."""
    result, events = run(fusion(models), prompt, pipeline=pipeline(BEST.replace("OPTIONS", options)), **given)
    return result, next((event for event in events if isinstance(event, Decided)), None), events


def asked(models: dict[str, Any]) -> dict[str, int]:
    return {name: len(model.requests) for name, model in models.items() if model.requests}


# Ways to choose.

CHECKED = {
    "the cheapest passes": ("cheap right", "middle right", "strong right", "cheap right", 1),
    "the middle one passes": ("cheap", "middle right", "strong right", "middle right", 2),
    "the strong one passes": ("cheap", "middle", "strong right", "strong right", 3),
    "none passes, the cheapest is taken": ("cheap", "middle", "strong", "cheap", 3),
    "a failed one does not count": (ContentFilterError("no"), "middle", "strong right", "strong right", 3),
}


@pytest.mark.parametrize("way", ["checks: {contains: right}", "verify: {contains: right}"])
@pytest.mark.parametrize("case", CHECKED)
def test_the_first_candidate_that_passes_is_taken_from_the_cheapest_on(case: str, way: str, fusion: Any) -> None:
    *scripts, answer, calls = CHECKED[case]
    models = three(*scripts)
    result, decision, _ = best(fusion, THREE + "{" + way + "}", models)
    assert (result.text, sum(asked(models).values())) == (answer, calls)
    assert (
        decision.decision
        == {"cheap": "candidate-c", "middle": "candidate-b"}.get(answer[:6].strip(), "candidate-a")[:11]
    )
    passed = "right" in answer
    assert decision.confidence == float(passed)
    assert ("passed; " in decision.reason) == passed
    assert decision.reason.endswith(f"of 3 candidates, by scripted/{answer.split()[0]}")
    assert any("none passed" in note for note in result.notes) != passed


def test_without_a_candidate_that_passes_the_one_with_the_fewest_flaws_is_taken(fusion: Any) -> None:
    result, decision, _ = best(
        fusion, THREE + "{checks: {contains: [a, b], min_length: 9}}", three("none", "has a and b", "b alone, long")
    )
    assert result.text == "has a and b"
    result, decision, _ = best(fusion, THREE + "{checks: {contains: [a, b, q]}}", three("a", "a b", "ab"))
    assert result.text == "a b"  # as many flaws as the strong one has, and cheaper
    assert decision.reason == "none passed: it does not contain 'q'; 3 of 3 candidates, by scripted/middle"


def test_with_on_fail_fail_the_stage_fails(fusion: Any) -> None:
    result, _, _ = best(fusion, THREE + "{checks: {contains: right}}, on_fail: fail", three())
    assert result.error.message == "no candidate passed: it does not contain 'right'"


def test_a_judge_of_each_candidate_decides_with_its_confidence(fusion: Any) -> None:
    def judge(request: Request) -> Any:
        right = "middle" in said(request).partition("The answer:")[2]
        issue = [] if right else [{"quote": "", "problem": "it is wrong"}]
        return {"issues": issue, "verdict": "accept" if right else "revise", "confidence": 0.9 if right else 0.3}

    models = three(judge=ScriptedModel(judge, name="scripted/judge"))
    options = THREE + "{verify: {judge: {role: judge, confidence: 0.8}}}"
    result, decision, _ = best(fusion, options, models)
    assert (result.text, decision.confidence) == ("middle", 0.9)
    assert asked(models) == {"cheap": 1, "middle": 1, "judge": 2}
    assert [request.key.step for request in models["judge"].requests] == [
        "candidate-c-verdict",
        "candidate-b-verdict",
    ]
    assert "do it" in said(models["judge"].requests[0])


VOTES = {
    "all agree": (["7", "7", "7", "7", "7"], "7", 3, 1.0),
    "the majority is sure after three": (["7", "7", "7", "8", "8"], "7", 3, 1.0),
    "four are needed": (["7", "8", "7", "7", "8"], "7", 4, 0.75),
    "the last decides": (["7", "8", "7", "8", "8"], "8", 5, 0.6),
    "a tie goes to the first": (["7", "8", "9", "8", "7"], "7", 5, 0.4),
    "one has no number": (["none", "8", "8", "8", "7"], "8", 4, 0.75),
}


@pytest.mark.parametrize("case", VOTES)
def test_votes_are_counted_until_they_are_decided(case: str, fusion: Any) -> None:
    answers, text, calls, share = VOTES[case]
    model = ScriptedModel(lambda request: answers[request.sample], name="scripted/any")
    result, decision, _ = best(fusion, "roles: any, n: 5, choose: {vote: number}", {"any": model})
    assert result.text == text
    assert (len(model.requests), decision.confidence) == (calls, pytest.approx(share))


def test_without_anything_to_count_it_fails(fusion: Any) -> None:
    result, _, _ = best(fusion, THREE + "{vote: number}", three())
    assert result.error.message.startswith("no number could be read out of any of 3 candidates")


def comparing(order: str, *, biased: bool = False) -> Callable[[Request], Any]:
    """Prefers the answer that comes first in these words; a biased one always the first of the pair."""

    def script(request: Request) -> Any:
        words = said(request)
        first = words.partition("The first answer:")[2].partition("The second answer:")[0]
        second = words.partition("The second answer:")[2]
        worth = [next((order.index(one) for one in order.split() if one in part), 99) for part in (first, second)]
        return {"reason": "so", "better": "first" if biased or worth[0] < worth[1] else "second"}

    return script


PAIRS = {
    "the strong one wins": ("strong middle cheap", False, "strong", 4),
    "the middle one wins": ("middle strong cheap", False, "middle", 4),
    "the cheap one wins": ("cheap middle strong", False, "cheap", 4),
    "a judge of places decides nothing, and the cheaper is taken": ("strong", True, "cheap", 4),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_judge_of_pairs_reads_both_orders(case: str, fusion: Any) -> None:
    order, biased, answer, calls = PAIRS[case]
    models = three(judge=ScriptedModel(comparing(order, biased=biased), name="scripted/judge"))
    result, _, _ = best(fusion, THREE + "{judge: {role: judge, criteria: It is short.}}", models)
    assert (result.text, len(models["judge"].requests)) == (answer, calls)
    words = said(models["judge"].requests[0])
    assert "do it" in words
    assert "- It is short." in words
    steps = [request.key.step for request in models["judge"].requests]
    assert steps[:2] == ["candidate-c-candidate-b-1", "candidate-c-candidate-b-2"]


def test_equal_candidates_are_not_compared_and_a_failed_comparison_changes_nothing(fusion: Any) -> None:
    judge = ScriptedModel("no JSON", name="scripted/judge")
    result, _, _ = best(fusion, THREE + "{judge: judge}", three("one", "one", "other", judge=judge))
    assert result.text == "one"
    assert len(judge.requests) == 2  # asked once more for the right shape
    assert any("candidate-c-candidate-a: no comparison" in note for note in result.notes)


def test_a_judge_whose_fault_every_call_would_meet_ends_the_run(fusion: Any) -> None:
    judge = ScriptedModel(AuthenticationError("wrong key", model="judge"), name="scripted/judge")
    result, _, _ = best(fusion, THREE + "{judge: judge}", three(judge=judge))
    assert "wrong key" in result.error.message


SCORES = {
    "the longest": ("score: value | length", "strong", 3),
    "the shortest": ("score: 0 - value | length", "cheap", 3),
    "the number in it": ("score: number or 0", "cheap", 3),
    "equal ones go to the cheaper": ("score: '1'", "cheap", 3),
    "enough": ("score: value | length, enough: 6", "middle", 2),
    "never enough": ("score: value | length, enough: 60", "strong", 3),
}


@pytest.mark.parametrize("case", SCORES)
def test_the_highest_score_is_taken(case: str, fusion: Any) -> None:
    way, answer, calls = SCORES[case]
    models = three(strong="strongest")
    result, decision, _ = best(fusion, THREE + "{" + way + "}", models)
    assert (result.text.removesuffix("est"), sum(asked(models).values())) == (answer, calls)
    assert decision.reason.startswith("a score of ")


def test_a_score_that_is_no_number_is_an_error(fusion: Any) -> None:
    result, _, _ = best(fusion, THREE + "{score: value}", three())
    assert result.error.message == "the score of candidate-c is no number but 'cheap'"


SCORER = """
def words(value: str) -> int:
    "Count the words of a text."
    return len(value.split())

def says(value: str) -> str:
    return "much"

def broken(value: str) -> float:
    raise ValueError("no score for this")
"""


FUNCTIONS = {
    "best_scores:words": "a b c",
    "best_scores:broken": "best_scores:broken gives no score of candidate-c: ",
    "best_scores:says": "the score of candidate-c is no number but 'much'",
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_of_the_users_scores(
    function: str, fusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own_settings(tmp_path, monkeypatch)('[python]\nallow = ["best_scores:*"]\n')
    (settings.parent / "best_scores.py").write_text(SCORER)
    options = THREE + "{function: '" + function + "'}"
    result, _, _ = best(fusion, options, three("a", "a b c", "a b"))
    assert FUNCTIONS[function] in (result.text or result.error.message)


UNUSABLE = {
    "a_module:f": "function 'a_module:f' is not allowed",
    "best_scores:missing": "module 'best_scores' has no function 'missing'",
}


@pytest.mark.parametrize("function", UNUSABLE)
def test_a_function_that_cannot_be_had_is_refused_before_the_run(
    function: str, fusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own_settings(tmp_path, monkeypatch)('[python]\nallow = ["best_scores:*"]\n')
    (settings.parent / "best_scores.py").write_text(SCORER)
    with pytest.raises(UsageError, match=rf"stages\.best\.choose\.function: {UNUSABLE[function]}"):
        best(fusion, THREE + "{function: '" + function + "'}", three())


# Candidates.


def test_samples_of_one_role_are_calls_of_their_own(fusion: Any) -> None:
    model = ScriptedModel(lambda request: f"answer {request.sample}", name="scripted/any")
    options = "roles: any, n: 3, temperature: 0.9, choose: {score: number}"
    result, decision, _ = best(fusion, options, {"any": model})
    assert (result.text, decision.decision) == ("answer 2", "candidate-c")
    assert {request.temperature for request in model.requests} == {0.9}
    assert [request.key.step for request in model.requests] == ["candidate-a", "candidate-b", "candidate-c"]


def test_candidates_may_be_stages_of_any_kind(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  best:
    kind: best_of
    stages:
      plain: {kind: generate, role: strong, prompt: "P {{ inputs.task }}"}
      two: {kind: cascade, tiers: [cheap, middle], accept: {checks: {contains: never}}}
      shaped: {kind: generate, role: cheap, schema: {n: integer}, prompt: "S"}
    choose: {score: "10 if value is mapping else value | length"}
output: best
"""

    def cheap(request: Request) -> Any:
        return {"n": 7} if request.json_schema else "cheap"

    result, _ = run(fusion(three(cheap)), pipeline=pipeline(text))
    assert result.error is None
    assert (result.data, result.stages["best"].decision) == ({"n": 7}, "shaped")
    assert sorted(result.stages) == ["best", "best/plain", "best/shaped", "best/two"]


def test_a_judge_of_stages_is_shown_the_request(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  best:
    kind: best_of
    stages: {a: {kind: render, template: cheap}, b: {kind: generate, role: strong, prompt: P}}
    choose: {judge: judge}
output: best
"""
    models = {"strong": "strong", "judge": ScriptedModel(comparing("strong cheap"), name="scripted/judge")}
    result, _ = run(fusion(models), "the request", pipeline=pipeline(text))
    assert result.text == "strong"
    assert "the request" in said(models["judge"].requests[0])


def test_items_get_the_best_each(fusion: Any) -> None:
    options = THREE + "{checks: {contains: right}}, over: inputs.task.split(), prompt: 'Do {{ item.source }}'"

    def cheap(request: Request) -> str:
        return "cheap right" if said(request).endswith("x") else "cheap"

    models = three(cheap, "middle right")
    result, decision, _ = best(fusion, options, models, "x y z")
    assert [item.value for item in result.items] == ["cheap right", "middle right", "middle right"]
    assert [item.route for item in result.items] == ["candidate-c", "candidate-b", "candidate-b"]
    assert [item.by for item in result.items] == ["scripted/cheap", "scripted/middle", "scripted/middle"]
    assert result.items[0].reason == "passed; 1 of 3 candidates, by scripted/cheap"
    assert decision.decision == "candidate-b: 2, candidate-c: 1"


def test_items_go_through_inner_stages(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  best:
    kind: best_of
    over: inputs.task.split()
    stages:
      short: {kind: generate, role: cheap, prompt: "{{ item.source }}"}
      long: {kind: generate, role: strong, prompt: "{{ item.source }} long"}
    choose: {score: value | length}
output: best
"""
    echo = ScriptedModel(lambda request: said(request), name="scripted/echo")
    result, _ = run(fusion({"cheap": echo, "strong": echo}), "x y", pipeline=pipeline(text))
    assert [item.value for item in result.items] == ["x long", "y long"]


# Failures.

FAILED = {
    "all are refused": (ContentFilterError("no"), "no candidate: no"),
    "all are cut off": (Say("x" * 9000), "no candidate: 'scripted/cheap' was cut off"),
    "a fault that every call meets": (AuthenticationError("wrong key", model="any"), "wrong key"),
}


@pytest.mark.parametrize("case", FAILED)
def test_without_any_candidate_the_stage_fails(case: str, fusion: Any) -> None:
    script, message = FAILED[case]
    result, _, _ = best(fusion, THREE + "{checks: {contains: right}}", three(script, script, script))
    assert result.status == "failed"
    assert message in result.error.message


def test_a_candidate_that_fails_is_noted(fusion: Any) -> None:
    result, _, events = best(fusion, THREE + "{vote: text}", three(ContentFilterError("no"), "same", "same"))
    assert (result.status, result.text) == ("ok", "same")
    assert any(event.message == "candidate-c: no" for event in events if isinstance(event, Noted))


# Money.


@pytest.mark.parametrize(("calls", "answer"), [(1, "cheap"), (2, "cheap")])
def test_an_exhausted_budget_leaves_the_best_so_far(calls: int, answer: str, fusion: Any) -> None:
    text = BEST.replace("OPTIONS", THREE + "{checks: {contains: right}}") + "on_budget: finish"
    result, _ = run(fusion(three()), pipeline=pipeline(text), budget=Limits(calls=calls))
    assert (result.status, result.text, result.receipt.calls) == ("partial", answer, calls)
    result, _ = run(fusion(three()), pipeline=pipeline(text.replace("finish", "fail")), budget=Limits(calls=calls))
    assert (result.status, result.error.reason) == ("failed", "BudgetError")


BOUNDED = {
    "checks": ("checks: {contains: right}", 3),
    "verify": ("verify: {judge: judge}", 3 + 3 * 2),
    "vote": ("vote: text", 3),
    "judge": ("judge: judge", 3 + 2 * 4),
    "score": ("score: value | length, enough: 60", 3),
}


@pytest.mark.parametrize("case", BOUNDED)
def test_no_run_spends_more_than_its_quote_bounds(case: str, fusion: Any) -> None:
    way, most = BOUNDED[case]

    def judge(request: Request) -> Any:
        pair = "better" in json.dumps(request.json_schema)
        said_of_one = {"issues": [{"quote": "", "problem": "no"}], "verdict": "revise"}
        return {"reason": "so", "better": "second"} if pair else said_of_one

    own = {"judge": priced("judge", judge, "0.000005")} if "judge" in way else {}
    made = fusion(three(**own))
    given = pipeline(BEST.replace("OPTIONS", THREE + "{" + way + "}"))
    quote = made.quote("do it", pipeline=given)
    result, _ = run(made, pipeline=given)
    assert quote.calls.most == most
    assert result.receipt.calls <= quote.calls.most
    assert result.cost.usd <= quote.usd.cap
    assert quote.calls.likely <= quote.calls.high <= quote.calls.most


def test_a_preview_shows_the_first_candidate(fusion: Any) -> None:
    given = pipeline(BEST.replace("OPTIONS", THREE + "{checks: {contains: right}}"))
    (stage,) = fusion(three()).preview("do it", pipeline=given).stages
    assert (stage.most_calls, [(call.step, call.model) for call in stage.calls]) == (
        3,
        [("candidate-c", "scripted/cheap")],
    )


# Resume.


@pytest.mark.parametrize("number", range(1, 8))
def test_a_choice_that_was_stopped_at_any_call_goes_on_there(number: int, tmp_path: Path) -> None:
    def script(request: Request) -> Any:
        if request.json_schema:
            return {"reason": "so", "better": "second" if "answer 2" in said(request) else "same"}
        return f"answer {request.sample}"

    given = pipeline(BEST.replace("OPTIONS", "roles: any, n: 3, choose: {judge: any}"))
    whole = run(Fusion(model=ScriptedModel(script, name="stopping")), pipeline=given)[0]
    model = Stopping(script)
    store = open_store(tmp_path / "runs.db")
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, number, pipeline=given)
        assert first.status == "failed"
        again = fusion.resume(first.run_id)
    store.close()
    assert (again.status, again.text, again.receipt.calls) == ("ok", whole.text, 7)
    assert model.answered == Counter(dict.fromkeys(model.answered, 1))


# Mistakes.

MISTAKES = {
    "no candidates": ("choose: {vote: text}", "stages.best: give `roles`, which answer the prompt, or `stages`"),
    "one candidate": ("roles: a, choose: {vote: text}", "stages.best: the best of 1; it takes 2 to 26 candidates"),
    "too many": ("roles: [a, b], n: 20, choose: {vote: text}", "stages.best: the best of 40"),
    "no way": ("roles: [a, b], choose: {}", "stages.best.choose: nothing chooses; give one of `verify`"),
    "two ways": (
        "roles: [a, b], choose: {vote: text, judge: a}",
        "stages.best.choose: both `vote` and `judge` choose; give one of",
    ),
    "an unknown way": (
        "roles: [a, b], choose: {judg: a}",
        "stages.best.choose.judg: unknown key 'judg'; did you mean",
    ),
    "enough of a vote": ("roles: [a, b], choose: {vote: text, enough: 1}", "stages.best.choose: `enough` is a score"),
    "roles and stages": (
        "roles: [a, b], stages: {x: {kind: render, template: x}}, choose: {vote: text}",
        "stages.best: give `roles`",
    ),
    "a prompt of stages": (
        "prompt: x, stages: {x: {kind: render, template: x}, y: {kind: render, template: y}}, choose: {vote: text}",
        "stages.best: `prompt` has an effect with `roles` only",
    ),
    "a condition of a candidate": (
        "stages: {x: {kind: render, template: x, when: x}, y: {kind: render, template: y}}, choose: {vote: text}",
        "stages.best.stages: `when` of the candidate 'x' has no effect here",
    ),
    "samples without chance": (
        "roles: a, n: 3, temperature: 0, choose: {vote: text}",
        "stages.best: 3 candidates of a role at temperature 0 are all the same",
    ),
    "on_fail of a vote": (
        "roles: [a, b], choose: {vote: text}, on_fail: fail",
        "stages.best: `on_fail` has an effect with `verify` or `checks` only",
    ),
    "an unknown variable of a score": (
        "roles: [a, b], choose: {score: vale}",
        "test.yaml:4:56 stages.best.choose.score: no stage or variable 'vale'; did you mean 'value'?",
    ),
    "a judge that sees no task": (
        "roles: [a, b], choose: {judge: {role: a, prompt: '{{ first }} or {{ second }}'}}",
        "stages.best.choose.judge.prompt: a review has to see what it judges against",
    ),
    "a broken template": (
        "roles: [a, b], choose: {judge: {role: a, prompt: '{{ first'}}",
        "stages.best.choose.judge.prompt: ",
    ),
    "a bad shape": (
        "roles: [a, b], choose: {checks: {schema: {n: intger}}}",
        "stages.best.choose.checks.schema.n: ",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_their_place(case: str) -> None:
    options, message = MISTAKES[case]
    found = check_text(BEST.replace("OPTIONS", options), library=Library([shipped_root()]), file="test.yaml")
    assert message in "\n".join(map(str, found))


def test_it_reads_back_as_it_was_written() -> None:
    once = pipeline(BEST.replace("OPTIONS", THREE + "{judge: {role: strong, criteria: short}}"))
    assert Pipeline.from_yaml(once.to_yaml()) == once
    assert Pipeline.from_data(once.to_data()) == once
