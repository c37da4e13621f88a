"""loop: order of rounds, values carried on, its end, failures, cost, resume, and what a quote says."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Limits, Pipeline, Price, Request, ScriptedModel
from fusion.core.errors import ContentFilterError
from fusion.core.events import CallStarted, Decided, Noted, RoundStarted, StageFinished
from fusion.pipeline.loader import check_text
from fusion.prompts.library import Library, shipped_root
from fusion.store.open import open_store
from tests.conftest import pipeline, run, said
from tests.engine.test_resume import Stopping, interrupted_at

REFINE = """
inputs: {task: What is to be written.}
budget: {usd: 1000}
stages:
  refine:
    kind: loop
    max: 4
    body:
      draft:
        kind: generate
        role: writer
        prompt: "WRITE {{ loop.round }} {{ inputs.task }} / {{ loop.text or 'nothing' }} / {{ loop.notes }}"
      critique: {kind: generate, role: critic, schema: {issues: "list[string]"}, prompt: "READ {{ draft }}"}
    until: critique.data.issues | length == 0
    carry:
      text: draft
      notes: {first: "'begin with ' ~ inputs.task", next: critique.data.issues}
    output: draft
output: refine
"""


def writer(request: Request) -> str:
    """Writes the number of its round."""
    return f"draft {said(request).split()[1]}"


def critic(rounds: int) -> Callable[[Request], Any]:
    """Finds an issue until this round."""

    def script(request: Request) -> Any:
        number = int(said(request).split()[-1])
        return {"issues": [] if number >= rounds else [f"issue {number}"]}

    return script


def refined(fusion: Any, text: str = REFINE, *, rounds: int = 3, **options: Any) -> Any:
    """The result, its events, and the models of a loop."""
    models = {"writer": ScriptedModel(writer, name="scripted/w"), "critic": ScriptedModel(critic(rounds))}
    result, events = run(fusion(models), pipeline=pipeline(text), **options)
    return result, events, models


def test_rounds_run_in_order_until_the_expression_holds(fusion: Any) -> None:
    result, events, models = refined(fusion)
    assert (result.status, result.text) == ("ok", "draft 3")
    assert [said(request) for request in models["writer"].requests] == [
        "WRITE 1 do it / nothing / begin with do it",
        'WRITE 2 do it / draft 1 / ["issue 1"]',
        'WRITE 3 do it / draft 2 / ["issue 2"]',
    ]
    rounds = [event for event in events if isinstance(event, RoundStarted)]
    assert [(one.stage, one.number, one.most) for one in rounds] == [("refine", number, 4) for number in (1, 2, 3)]
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert (decided.stage, decided.decision, decided.reason) == ("refine", "round-3", "`until` holds")
    assert [event.stage for event in events if isinstance(event, CallStarted)] == [
        f"refine/{number}/{name}" for number in (1, 2, 3) for name in ("draft", "critique")
    ]


def test_every_round_is_in_the_result_and_the_receipt(fusion: Any) -> None:
    result, events, _ = refined(fusion, rounds=2)
    assert list(result.stages) == ["refine", *(f"refine/{n}/{s}" for n in (1, 2) for s in ("draft", "critique"))]
    assert result.stages["refine"].decision == "round-2"
    assert {line.stage: line.calls for line in result.receipt.lines} == {
        f"refine/{number}/{name}": 1 for number in (1, 2) for name in ("draft", "critique")
    }
    assert [event.stage for event in events if isinstance(event, StageFinished)][-1] == "refine"


def test_after_the_last_round_its_answer_is_taken_with_a_note(fusion: Any) -> None:
    result, _, models = refined(fusion, rounds=9)
    assert (result.status, result.text) == ("ok", "draft 4")
    assert len(models["critic"].requests) == 4
    assert result.notes == ("refine: `until` does not hold after 4 rounds: the last answer is taken",)


def test_with_on_max_fail_the_stage_fails(fusion: Any) -> None:
    result, _, _ = refined(fusion, REFINE.replace("max: 4", "max: 2\n    on_max: fail"), rounds=9)
    assert result.status == "failed"
    assert result.error.message == (
        "`until` does not hold after 2 rounds; raise `max`, or take the last answer by `on_max: answer`"
    )


GIVES = {
    "the last stage by default": (REFINE.replace("    output: draft\n", ""), {"issues": []}),
    "data of a shaped stage": (REFINE.replace("output: draft", "output: critique"), {"issues": []}),
    "no data of a text": (REFINE, None),
}


@pytest.mark.parametrize("case", GIVES)
def test_the_answer_is_that_of_the_stage_that_output_names(case: str, fusion: Any) -> None:
    text, data = GIVES[case]
    assert refined(fusion, text)[0].data == data


# Bodies.

BODIES = {
    "parallel stages": (
        "a: {kind: generate, role: m, prompt: A}\n      b: {kind: generate, role: m, prompt: B}\n"
        "      c: {kind: generate, role: m, prompt: 'C {{ a }} {{ b }}'}",
        "loop.round == 2",
        "C A! B!!",
        6,
    ),
    "items of an earlier stage": (
        "each: {kind: map, over: plan, role: m, prompt: 'E {{ item.source.number }}'}\n"
        "      c: {kind: merge, over: each, role: m, prompt: 'C {% for one in items %}{{ one.value }}{% endfor %}'}",
        "'true'",
        "C E 1!E 2!!",
        3,
    ),
    "a condition on the round": (
        "a: {kind: generate, role: m, prompt: A}\n"
        "      b: {kind: generate, role: m, when: loop.round == 2, default: none yet, prompt: B}\n"
        "      c: {kind: render, template: '{{ a }} {{ b }}'}",
        "loop.round == 2",
        "A! B!",
        3,
    ),
    "no model": ("c: {kind: render, template: '{{ loop.round }}'}", "loop.round >= 3", "3", 0),
    "a loop in the loop": (
        "inner: {kind: loop, max: 3, body: {a: {kind: generate, role: m,"
        " prompt: 'A {{ loop.round }} {{ loop.of }}'}}, until: loop.round == 2,"
        " carry: {of: {first: loop.round, next: loop.of}}}\n"
        "      c: {kind: render, template: 'C {{ inner }}'}",
        "loop.round == 2",
        "C A 2 2!",
        4,
    ),
    "a route": (
        "c: {kind: route, routes: {odd: m, even: {kind: generate, role: m, prompt: 'even {{ loop.round }}'}},"
        " rules: [{when: loop.round == 2, use: even}], default: odd}",
        "loop.round == 2",
        "even 2!",
        2,
    ),
    "a nested pipeline": (
        "c: {kind: pipeline, pipeline: single, inputs: {task: '\"T\" ~ loop.round'}}",
        "loop.round == 2",
        "T2!",
        2,
    ),
    "a value from a stage before": (
        "c: {kind: generate, role: m, prompt: 'C {{ plan | length }} {{ first.text }}'}",
        "first.text == 'F!'",
        "C 2 F!!",
        1,
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies(case: str, fusion: Any) -> None:
    body, until, answer, calls = BODIES[case]
    text = f"""
inputs: {{task: {{}}}}
stages:
  plan: {{kind: split, text: "'1 2'", by: separator, separator: " "}}
  first: {{kind: generate, role: other, prompt: F}}
  again:
    kind: loop
    needs: [plan, first]
    max: 3
    body:
      {body}
    until: {until}
output: again
"""
    model = ScriptedModel(lambda request: f"{said(request).strip().splitlines()[-1].strip()}!", name="scripted/m")
    models = {"m": model, "frontier": model, "other": ScriptedModel("F!")}
    models = {role: one for role, one in models.items() if f"role: {role}" in text or role in ("other", "frontier")}
    result, _ = run(fusion(models), pipeline=pipeline(text))
    assert result.error is None
    assert (result.text, len(model.requests)) == (answer, calls)


def test_independent_stages_of_a_round_run_at_once(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 2
    body:
      a: {kind: generate, role: m, prompt: "A {{ loop.round }}"}
      b: {kind: generate, role: m, prompt: "B {{ loop.round }}"}
      c: {kind: render, template: "{{ a }} {{ b }}"}
    until: "false"
output: again
"""
    model = ScriptedModel(lambda request: said(request), name="scripted/m", delay=0.02)
    result, _ = run(fusion({"m": model}), pipeline=pipeline(text))
    assert (result.text, model.peak, len(model.requests)) == ("A 2 B 2", 2, 4)


def test_a_loop_in_a_route_works_item_by_item(fusion: Any) -> None:
    text = """
inputs: {lines: {}}
stages:
  way:
    kind: route
    over: inputs.lines.split()
    routes:
      again:
        kind: loop
        max: 3
        body: {a: {kind: generate, role: m, prompt: "{{ item.source }} {{ loop.round }} {{ loop.before }}"}}
        until: loop.round == 2 or item.source == "x"
        carry: {before: a}
    rules: [{longer: 0, use: again}]
    default: again
output: way
"""
    model = ScriptedModel(lambda request: said(request).replace(" null", ""), name="scripted/m")
    result, _ = run(fusion({"m": model}), "x y", pipeline=pipeline(text))
    assert result.error is None
    assert [item.value for item in result.items] == ["x 1", "y 2 y 1"]
    assert sorted({line.stage for line in result.receipt.lines}) == ["way/again/1/a", "way/again/2/a"]


# Failures.


def test_a_failed_round_fails_the_loop(fusion: Any) -> None:
    bad = ScriptedModel(lambda one: ValueError("broken") if "WRITE 2" in said(one) else "draft 1", name="scripted/b")
    models = {"writer": bad, "critic": ScriptedModel(critic(9))}
    result, _ = run(fusion(models), pipeline=pipeline(REFINE))
    assert result.status == "failed"
    assert "broken" in result.error.message
    assert result.failed[0].stage == "refine/2/draft"


def test_a_skipped_stage_that_is_read_is_an_error_that_names_it(fusion: Any) -> None:
    text = REFINE.replace("critique: {kind: generate,", "critique: {kind: generate, when: loop.round == 1,")
    result, _, _ = refined(fusion, text)
    assert result.error.message.startswith("`until` cannot be evaluated: critique was skipped")
    text = text.replace("critique.data.issues | length == 0", "loop.round == 2").replace("output: draft\n", "\n", 1)
    result, _, _ = refined(fusion, text)
    assert result.error.message.startswith("there is no answer of refine/2/critique: critique was skipped")


def test_a_loop_that_may_be_skipped_gives_its_default(fusion: Any) -> None:
    text = REFINE.replace("max: 4", "max: 1\n    on_max: fail\n    on_error: skip\n    default: nothing")
    result, _, _ = refined(fusion, text, rounds=9)
    assert result.text == "nothing"


LOST = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 3
    body:
      each: {kind: map, over: "['a', 'b']", role: m, prompt: "{{ loop.round }} {{ item.source }}"}
      whole: {kind: merge, over: each, role: m, prompt: "{{ items | length }} of {{ loop.round }}"}
    until: each | selectattr("ok") | list | length == 2
output: again
"""


@pytest.mark.parametrize(("broken", "lost"), [("1 b", 0), ("3 b", 0), ("b", 1)])
def test_only_the_items_that_the_last_round_lost_are_lost(broken: str, lost: int, fusion: Any) -> None:
    def script(request: Request) -> Any:
        return ContentFilterError("no") if said(request).endswith(broken) else said(request)

    model = ScriptedModel(script, name="scripted/m")
    result, _ = run(fusion({"m": model}), pipeline=pipeline(LOST))
    assert result.error is None
    assert len(result.lost) == lost


# Money.

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.002"))


def priced(rounds: int = 9) -> dict[str, ScriptedModel]:
    return {
        "writer": ScriptedModel(writer, name="scripted/w", price=PRICE),
        "critic": ScriptedModel(critic(rounds), name="scripted/c", price=PRICE),
    }


@pytest.mark.parametrize(("calls", "answer", "made"), [(2, "draft 1", 2), (3, "draft 1", 2), (5, "draft 2", 4)])
def test_a_round_that_does_not_fit_ends_the_loop_with_the_answer_before(
    calls: int, answer: str, made: int, fusion: Any
) -> None:
    models = priced()
    result, events = run(fusion(models), pipeline=pipeline(REFINE + "on_budget: finish"), budget=Limits(calls=calls))
    assert (result.status, result.text) == ("partial", answer)
    assert result.receipt.calls == made
    assert any("exceeds the budget" in note for note in result.notes)
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert decided.reason.startswith(f"round {made // 2 + 1} exceeds the budget: ")


def test_without_finish_an_exhausted_budget_fails_the_run(fusion: Any) -> None:
    result, _ = run(fusion(priced()), pipeline=pipeline(REFINE), budget=Limits(calls=3))
    assert (result.status, result.error.reason) == ("failed", "BudgetError")


def test_a_budget_of_the_loop_is_that_of_all_rounds(fusion: Any) -> None:
    text = REFINE.replace("    max: 4", "    max: 4\n    budget: {calls: 4}") + "on_budget: finish"
    result, _ = run(fusion(priced()), pipeline=pipeline(text))
    assert (result.status, result.text, result.receipt.calls) == ("partial", "draft 2", 4)


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 9])
def test_no_run_spends_more_than_its_quote_bounds(rounds: int, fusion: Any) -> None:
    made = fusion(priced(rounds))
    quote = made.quote("do it", pipeline=pipeline(REFINE))
    result, _ = run(made, pipeline=pipeline(REFINE))
    assert quote.calls.most == 4 * (4 + 2)  # a draft with three continuations, a critique asked twice
    assert result.receipt.calls <= quote.calls.most
    assert result.cost.usd <= quote.usd.cap
    assert quote.calls.likely < quote.calls.high <= quote.calls.most
    assert [line.stage for line in quote.stages[0].lines] == ["refine/draft", "refine/critique"]


def test_a_preview_shows_the_first_round_and_counts_all(fusion: Any) -> None:
    shown = fusion(priced()).preview("do it", pipeline=pipeline(REFINE))
    outer, draft, critique = shown.stages
    assert (outer.name, outer.most_calls) == ("refine", 24)
    assert (draft.name, draft.calls[0].messages[0].content) == (
        "refine/draft",
        "WRITE 1 do it / nothing / begin with do it",
    )
    assert (critique.missing, critique.calls) == (("refine/draft.text",), ())


# Resume.


@pytest.mark.parametrize("number", range(1, 7))
def test_a_loop_that_was_stopped_at_any_call_goes_on_there(number: int, tmp_path: Path) -> None:
    script = critic(3)
    model = Stopping(lambda request: script(request) if request.json_schema else writer(request))
    store = open_store(tmp_path / "runs.db")
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, number, pipeline=pipeline(REFINE))
        assert first.status == "failed"
        again = fusion.resume(first.run_id)
    store.close()
    assert (again.status, again.text, again.receipt.calls) == ("ok", "draft 3", 6)
    assert model.answered == Counter(dict.fromkeys(model.answered, 1))


# Mistakes.

MISTAKES = {
    "no max": ("    max: 4\n", "", "test.yaml:5:3 stages.refine: the key 'max' is missing"),
    "too many rounds": ("max: 4", "max: 51", "test.yaml:7:10 stages.refine.max: expected at most 50, got 51"),
    "no rounds": ("max: 4", "max: 0", "test.yaml:7:10 stages.refine.max: expected at least 1, got 0"),
    "an unknown output": (
        "    output: draft",
        "    output: drft",
        "stages.refine: `output`: no stage 'drft' in the body; did you mean 'draft'?",
    ),
    "an unknown stage in until": (
        "until: critique",
        "until: critic",
        "test.yaml:14:12 stages.refine.until: no stage or variable 'critic'; did you mean 'critique'?",
    ),
    "an unknown field in until": (
        "critique.data.issues |",
        "critique.items |",
        "stages.refine.until: 'critique' has no field 'items'; there are: data, text",
    ),
    "an attribute that the schema lacks": (
        "critique.data.issues |",
        "critique.data.issue |",
        "stages.refine.until: critique.data.issue: the schema has no field 'issue'; did you mean 'issues'?",
    ),
    "data without a schema": (
        "text: draft\n",
        "text: draft.data\n",
        "stages.refine.carry.text.next: 'draft.data' is empty because 'draft' has no `schema`",
    ),
    "a first value from the body": (
        "first: \"'begin with ' ~ inputs.task\"",
        "first: draft",
        "stages.refine.carry.notes.first: no stage or variable 'draft'",
    ),
    "a carried value named round": (
        "text: draft\n",
        "round: draft\n",
        "stages.refine.carry: reserved name 'round'",
    ),
    "an unknown stage in a template": (
        "READ {{ draft }}",
        "READ {{ drafts }}",
        "stages.refine.body.critique.prompt: no stage or variable 'drafts'; did you mean 'draft'?",
    ),
    "a broken template in the body": (
        "READ {{ draft }}",
        "READ {{ draft",
        "stages.refine.body.critique.prompt: ",
    ),
    "an unknown kind in the body": (
        "critique: {kind: generate,",
        "critique: {kind: generat,",
        "stages.refine.body.critique.kind: no kind 'generat'; did you mean 'generate'?",
    ),
    "an unknown key in the body": (
        "critique: {kind: generate,",
        "critique: {kind: generate, rol: x,",
        "stages.refine.body.critique.rol: unknown key 'rol'; did you mean 'role'?",
    ),
    "a cycle in the body": (
        "kind: generate\n        role: writer",
        "kind: generate\n        needs: [critique]\n        role: writer",
        "stages.refine.body.draft: a cycle: draft -> critique -> draft",
    ),
    "a stage that nothing reads": (
        "    output: draft\n",
        "    output: draft\n  other: {kind: loop, max: 2, body: {b: {kind: render, template: x}, a: "
        "{kind: render, template: y}}, until: a}\n",
        "test.yaml:19:38 stages.other.body.b: 'b' is unused",
    ),
    "a need outside of the body": (
        "kind: generate\n        role: writer",
        "kind: generate\n        needs: [refine]\n        role: writer",
        "stages.refine.body.draft.needs.0: no stage 'refine'",
    ),
    "the name of a stage around": (
        "stages:\n",
        "stages:\n  draft: {kind: render, template: x}\n",
        "test.yaml:5:3 stages.draft: rename the stage: refine.until",
    ),
    "a reserved name": ("      draft:\n", "      loop:\n", "stages.refine.body.loop: reserved name 'loop'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_their_place(case: str) -> None:
    old, new, message = MISTAKES[case]
    assert old in REFINE
    assert message in flaws(REFINE.replace(old, new))


def flaws(text: str) -> str:
    return "\n".join(map(str, check_text(text, library=Library([shipped_root()]), file="test.yaml")))


def test_a_loop_reads_back_as_it_was_written() -> None:
    once = pipeline(REFINE)
    assert Pipeline.from_yaml(once.to_yaml()) == once
    assert Pipeline.from_data(once.to_data()) == once


def test_notes_of_rounds_are_sent_once(fusion: Any) -> None:
    _, events, _ = refined(fusion, rounds=9)
    assert sum("last answer is taken" in event.message for event in events if isinstance(event, Noted)) == 1
