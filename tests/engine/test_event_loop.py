"""The event loop stays free while stages work on text of models: time-outs and limits hold at any instant."""

import time
from typing import Any

import pytest

from fusion import Say, ScriptedModel
from tests.conftest import pipeline, plan_text, run, said, subtasks
from tests.watchdog import watched

pytestmark = pytest.mark.usefixtures("without_pauses")

CATASTROPHE = "'(a|a)*$'"
WORDS = "a" * 40 + "!"
LONG = ("a" * 99 + " ") * 3_000
ASK = "  ask: {kind: panel, members: [{role: bulk, samples: 2}]}\n"
LOOP = "{% for i in range(100000) %}{{ (ask.text ~ i) | upper | length }}{% endfor %}"

STAGES = {
    "checks": ("  last: {kind: review, over: ask, role: bulk, checks: {matches: %s}, revisions: 0}\n", "StageError"),
    "extract": ("  last: {kind: vote, over: ask, extract: {pattern: %s}}\n", "StageError"),
    "route": (
        "  last: {kind: route, text: ask | map(attribute='value') | join, routes: {a: bulk, b: bulk}, default: a,\n"
        "    rules: [{matches: %s, use: b}]}\n",
        "PatternTimeoutError",
    ),
    "cascade": (
        "  last: {kind: cascade, tiers: [{roles: [bulk], accept: {checks: {matches: %s}}}, {roles: [bulk]}]}\n",
        None,
    ),
}


def result(fusion: Any, stages: str, reply: Any, output: str = "last", **keys: Any) -> Any:
    text = f"inputs: {{q: what}}\nstages:\n{stages}output: {output}\n"
    model = ScriptedModel(reply, name="scripted/bulk", respect_limit=False)
    return run(fusion({"bulk": model}), pipeline=pipeline(text), **keys)[0]


@pytest.mark.parametrize("reply", [WORDS, WORDS + " " * 5_000 + "?"], ids=["short", "long"])
@pytest.mark.parametrize("name", STAGES)
def test_a_pattern_that_never_ends_is_a_failure_and_never_a_pass(fusion: Any, name: str, reply: str) -> None:
    stages, failure = STAGES[name]
    given = ("" if name == "cascade" else ASK) + stages
    result(fusion, given % "'^a+'", "aa")  # all is loaded
    with watched() as watch:
        done = result(fusion, given % CATASTROPHE, reply)
    assert not watch.slow
    assert (done.error and done.error.reason) == failure
    if name in ("checks", "route"):
        assert "takes longer than 0.5 s" in done.error.message


@pytest.mark.parametrize(
    ("stages", "output"),
    [
        (f'  last: {{kind: render, template: "{LOOP}"}}\n', "last"),
        (f'  last: {{kind: generate, role: bulk, prompt: "{LOOP}"}}\n', "last"),
        ('  last: {kind: generate, role: bulk, when: "ask.text | upper | length > 5", prompt: x}\n', "last"),
        (
            "  last: {kind: map, over: ask.text.split(' '), role: bulk, concurrency: 64, prompt: x, min_ok: 1}\n",
            "last",
        ),
        ("  last: {kind: split, text: ask.text | upper, by: paragraphs}\n", "last | length"),
        ("  last: {kind: render, template: x}\n", "last.text ~ (ask.text.split() | map('upper') | sort | join)"),
    ],
    ids=["render", "prompt", "when", "over", "split", "output"],
)
def test_templates_and_expressions_over_long_text(
    fusion: Any, stages: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "  ask: {kind: generate, role: bulk, prompt: long}\n"
    result(fusion, ask + '  last: {kind: render, template: "{{ ask.text }}"}\n', "x")
    monkeypatch.setattr("fusion.prompts.limits.MAX_SECONDS", 1.5)
    with watched() as watch:
        done = result(fusion, ask + stages, lambda request: LONG if "long" in said(request) else "ok", output)
    assert done.status == "ok" or done.error.reason in ("PromptError", "TimeUpError")
    assert not watch.slow


@pytest.mark.parametrize("kind", ["render", "generate"])
def test_a_timeout_ends_a_stage_in_the_middle_of_a_template(fusion: Any, kind: str) -> None:
    loop = "{% for i in range(99999) %}{{ range(99999) | map('string') | join | length }}{% endfor %}"
    key = "template" if kind == "render" else "role: bulk, prompt"
    begun = time.monotonic()
    done = result(fusion, f'  last: {{kind: {kind}, timeout: 0.5, {key}: "{loop}"}}\n', "x")
    assert done.status == "failed"
    assert "0.5 s" in done.error.message
    assert time.monotonic() - begun < 5


def test_a_limit_in_seconds_ends_a_run_in_the_middle_of_work(fusion: Any) -> None:
    loop = "{% for i in range(99999) %}{{ range(99999) | map('string') | join | length }}{% endfor %}"
    begun = time.monotonic()
    done = result(fusion, f'  last: {{kind: render, template: "{loop}"}}\n', "x", budget={"seconds": 0.5})
    assert done.status == "failed"
    assert done.error.reason == "BudgetError"
    assert time.monotonic() - begun < 5


PLANS = {
    "pieces": '{"goal": "g", "subtasks": [' + "{}," * 60_000,
    "numbers": '{"goal": "g", "subtasks": [' + "1," * 100_000,
    "a long text": '{"goal": "g", "subtasks": [{"title": "' + "}" * 200_000,
    "a long head": '{"goal": "' + "}" * 200_000,
    "white space": '{"goal": "g", "subtasks": [' + " ," * 100_000,
    "no number": '{"goal": "g", "subtasks": [{"title": "a", "instructions": "b", "difficulty": NaN}]}',
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_no_plan_holds_the_event_loop(fusion: Any, name: str, streamed: bool) -> None:
    text = """
inputs: {q: what}
stages:
  plan: {kind: plan, role: bulk, max_subtasks: 3}
  work: {kind: merge, over: plan, strategy: concat}
output: work
"""
    good = plan_text(subtasks(1))
    plan = PLANS[name]
    pieces = [plan[at : at + 2_000] for at in range(0, len(plan), 2_000)]
    first = Say(pieces=pieces) if streamed else plan
    run(fusion({"bulk": ScriptedModel([good], name="scripted/bulk")}), pipeline=pipeline(text))
    model = ScriptedModel([first, *[good] * 9], name="scripted/bulk", respect_limit=False)
    with watched() as watch:
        done = run(fusion({"bulk": model}), pipeline=pipeline(text))[0]
    assert done.status == "ok"
    assert "part 1" in done.text
    assert not watch.slow


@pytest.mark.parametrize("value", ["'nan' | float", "[1e308 * 10]", "{'b': [-1e308 * 10]}"])
def test_an_answer_is_strict_json(fusion: Any, value: str) -> None:
    stages = "  last: {kind: render, template: x}\n"
    done = result(fusion, stages, "x", f'{{text: last.text, value: "{value}"}}')
    assert done.status == "failed"
    assert "which JSON cannot hold" in done.error.message
