"""route with `over`: each item takes a way of its own, whatever is at its end."""

import os
import re
import signal
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, PipelineError, Price, Request, Result, ScriptedModel
from fusion.core.errors import ContentFilterError
from fusion.core.events import CallFinished, CallStarted, EventBase, ItemFinished, StageStarted
from fusion.store.rows import RunFilter
from tests.conftest import pipeline, plan_text, run, said, subtasks
from tests.processes import exit_code

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"))
ROWS = """
inputs: {rows: {format: jsonl}}
stages:
  way:
    kind: route
    over: inputs.rows
    routes: %s
    text: item.text
    default: easy
    prompt: "{{ item.text }}"
    %s
output: way
"""
TEXTS = ["short", "a much longer text than that", "short too", "and another one that is long"]
BY_LENGTH = "rules: [{longer: 12, use: hard}]"


def by_role(role: str) -> Any:
    return lambda request: f"{role}: {said(request)}"


def routed(
    fusion: Any, routes: str, options: str, texts: list[str] = TEXTS, **models: Any
) -> tuple[Result, list[EventBase]]:
    text = ROWS % (routes, options)
    names = {name for name in ("bulk", "frontier", "judge") if re.search(rf"\b{name}\b", text)}
    roles = {name: by_role(name) for name in names} | models
    made = {
        role: model
        if isinstance(model, ScriptedModel)
        else ScriptedModel(model, name=f"scripted/{role}", price=PRICE)
        for role, model in roles.items()
    }
    given = {"rows": [{"text": one, "id": at} for at, one in enumerate(texts)]}
    return run(fusion(made), None, inputs=given, pipeline=pipeline(text))


ROLES = "{easy: bulk, hard: frontier}"


def classified(request: Request) -> Any:
    return {"route": "hard" if "long" in said(request) else "easy"}


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        (BY_LENGTH, ["the default", "rule 1"]),
        ("rules: [{when: 'item.id % 2 == 1', use: hard}]", ["the default", "rule 1"]),
        ("rules: [{matches: long, use: hard}]", ["the default", "rule 1"]),
        ("classifier: judge", ["'scripted/judge' chose it", "'scripted/judge' chose it"]),
        (
            "examples: [{text: short, use: easy}, {text: a longer long text that is another one, use: hard}]",
            ["example 1", "example 2"],
        ),
    ],
)
def test_each_item_takes_its_own_way(fusion: Any, options: str, reasons: list[str]) -> None:
    models = {"judge": classified} if "judge" in options else {}
    result, events = routed(fusion, ROLES, options, **models)
    assert [item.route for item in result.items] == ["easy", "hard", "easy", "hard"]
    roles = ["bulk", "frontier"] * 2
    assert [item.value for item in result.items] == [
        f"{role}: {text}" for role, text in zip(roles, TEXTS, strict=True)
    ]
    assert [item.by for item in result.items] == [f"scripted/{role}" for role in roles]
    for item, reason in zip(result.items, reasons, strict=False):
        assert item.reason is not None
        assert item.reason.startswith(reason)
    told = {event.item: event for event in events if isinstance(event, ItemFinished)}
    assert [told[at].route for at in range(4)] == ["easy", "hard", "easy", "hard"]
    assert result.stages["way"].decision == "easy: 2, hard: 2"
    assert sum(item.usd or 0 for item in result.items) == result.cost.usd


# What is at the end of a way.

INNER = {
    "generate": "{kind: generate, role: frontier, prompt: '{{ item.text }}'}",
    "cascade": "{kind: cascade, tiers: [bulk, frontier], accept: {checks: {contains: frontier}}, "
    "prompt: '{{ item.text }}'}",
    "map": "{kind: map, over: item.text.split(), role: frontier, prompt: '{{ item.source }}'}",
    "route": "{kind: route, routes: {one: frontier}, default: one, rules: [{longer: 1, use: one}], "
    "text: item.text, prompt: '{{ item.text }}'}",
    "panel": "{kind: panel, members: [bulk, frontier], prompt: '{{ item.text }}'}",
    "render": "{kind: render, template: 'frontier: {{ item.text }}'}",
}


@pytest.mark.parametrize("kind", list(INNER))
def test_a_way_may_end_in_a_stage_of_any_kind(fusion: Any, kind: str) -> None:
    result, events = routed(fusion, f"{{easy: bulk, hard: {INNER[kind]}}}", BY_LENGTH)
    assert result.status == "ok", result.error or result.failed
    values = [str(item.value) for item in result.items]
    assert all("frontier: " in values[at] for at in (1, 3))
    assert "another" in values[3]
    assert "another" not in values[1]
    assert sum(item.usd or 0 for item in result.items) == result.cost.usd
    started = [event.stage for event in events if isinstance(event, StageStarted)]
    assert started == ["way"]
    keys = Counter((event.stage, event.item, event.step) for event in events if isinstance(event, CallStarted))
    assert max(keys.values()) == 1
    if kind == "cascade":
        assert (result.receipt.cascades, result.receipt.escalated) == (2, 2)


PIPELINE = """
inputs: {text: A text.}
stages:
  words: {kind: map, over: inputs.text.split(), role: frontier, prompt: "{{ item.source }}"}
  sum: {kind: generate, role: frontier, prompt: "SUM {{ words | length }} {{ inputs.text }}"}
output: sum
"""


def test_a_way_may_end_in_a_pipeline(fusion: Any, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(PIPELINE)
    outer = tmp_path / "outer.yaml"
    routes = "{easy: bulk, hard: {kind: pipeline, pipeline: inner.yaml, inputs: {text: item.text}}}"
    outer.write_text(ROWS % (routes, BY_LENGTH))
    models = {
        role: ScriptedModel(by_role(role), name=f"scripted/{role}", price=PRICE) for role in ("bulk", "frontier")
    }
    rows = {"rows": [{"text": text} for text in TEXTS]}
    result, events = run(fusion(models), None, inputs=rows, pipeline=outer)
    assert [item.value for item in result.items] == [
        "bulk: short",
        f"frontier: SUM 6 {TEXTS[1]}",
        "bulk: short too",
        f"frontier: SUM 6 {TEXTS[3]}",
    ]
    assert result.receipt.calls == 2 + 2 * 7
    keys = Counter((event.stage, event.item, event.step) for event in events if isinstance(event, CallStarted))
    assert max(keys.values()) == 1
    assert sum(item.usd or 0 for item in result.items) == result.cost.usd
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["way"]


# Failures and resume.


@pytest.mark.parametrize(
    ("options", "status"), [(BY_LENGTH, "partial"), (f"{BY_LENGTH}\n    on_error: fail", "failed")]
)
@pytest.mark.parametrize("hard", ["frontier", INNER["generate"]])
def test_an_item_that_fails_is_named_and_the_others_go_on(fusion: Any, options: str, status: str, hard: str) -> None:
    def refusing(request: Request) -> Any:
        return ContentFilterError("not this", model="f") if "another" in said(request) else said(request)

    result, _ = routed(fusion, f"{{easy: bulk, hard: {hard}}}", options, frontier=refusing)
    assert result.status == status
    if status == "partial":
        assert [(part.stage, part.item) for part in result.lost] == [("way", 3)]
        assert [item.ok for item in result.items] == [True, True, True, False]
        assert result.items[3].cost is not None


def test_a_lost_item_is_asked_again_and_no_other(fusion: Any, tmp_path: Path) -> None:
    refuses = True

    def shaky(request: Request) -> Any:
        return ContentFilterError("no", model="f") if refuses and "another" in said(request) else said(request)

    models = {
        "bulk": ScriptedModel("easy", name="scripted/bulk"),
        "frontier": ScriptedModel(shaky, name="scripted/frontier"),
    }
    made = fusion(models, store=tmp_path / "runs.db")
    text = pipeline(ROWS % (f"{{easy: bulk, hard: {INNER['generate']}}}", BY_LENGTH))
    rows = {"rows": [{"text": one} for one in TEXTS]}
    first, _ = run(made, None, inputs=rows, pipeline=text)
    assert [part.item for part in first.lost] == [3]
    refuses, before = False, [len(model.requests) for model in models.values()]
    again = made.resume(first.run_id)
    assert again.status == "ok"
    assert [len(model.requests) for model in models.values()] == [before[0], before[1] + 1]


def killed_after(path: Path, number: int) -> None:
    asked = 0

    def counting(request: Request) -> Any:
        nonlocal asked
        asked += 1
        if asked == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return said(request)

    roles = {role: ScriptedModel(counting, name=f"scripted/{role}") for role in ("bulk", "frontier")}
    with Fusion(profile="local", roles=roles, store=path) as made:
        made.complete(
            inputs={"rows": [{"text": one} for one in TEXTS]},
            pipeline=pipeline(ROWS % (f"{{easy: bulk, hard: {INNER['map']}}}", f"{BY_LENGTH}\n    concurrency: 2")),
        )


@pytest.mark.parametrize("number", [2, 6, 11, 14])
def test_a_run_that_was_killed_asks_nothing_twice(number: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    assert exit_code(killed_after, path, number) == -signal.SIGKILL
    roles = {role: ScriptedModel(said, name=f"scripted/{role}") for role in ("bulk", "frontier")}
    with Fusion(profile="local", roles=roles, store=path) as made:
        (row,) = made.store.runs(RunFilter())
        events: list[EventBase] = []
        result = made.resume(row.run_id, on_event=events.append)
    assert [item.route for item in result.items] == ["easy", "hard", "easy", "hard"]
    assert [item.value for item in result.items][1] == TEXTS[1].split()
    finished = [event for event in events if isinstance(event, CallFinished)]
    reused = sum(event.reused == "journal" for event in finished)
    assert reused + sum(len(model.requests) for model in roles.values()) == len(finished) == 14


# Around it.


def test_subtasks_are_routed_while_the_plan_is_written_and_merged(fusion: Any) -> None:
    text = """
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: planner}
  work:
    kind: route
    over: plan
    text: item.title
    rules: [{matches: "2", use: hard}]
    routes: {easy: bulk, hard: frontier}
    default: easy
  check: {kind: review, over: work, role: reviewer}
  answer: {kind: merge, over: check, strategy: concat}
output: {text: answer.text, ways: "check | map(attribute='route') | list"}
"""
    models = {
        "planner": plan_text(subtasks(3)),
        "bulk": "by bulk",
        "frontier": "by frontier",
        "reviewer": {"issues": [], "verdict": "accept"},
    }
    result, _ = run(fusion(models), pipeline=pipeline(text))
    assert result.data["ways"] == ["easy", "hard", "easy"]
    assert result.data["text"].count("by bulk") == 2


@pytest.mark.parametrize(
    ("routes", "options", "says"),
    [
        (ROLES, "rules: [{when: 'item.idd', use: hard}]", "no row of 'rows' has a column 'idd'; did you mean 'id'?"),
        ("{easy: bulk, hard: {kind: generate, prompt: '{{ itm.text }}'}}", BY_LENGTH, "did you mean 'item'?"),
        (ROLES, f"{BY_LENGTH}\n    on_error: escalate", "'fail' or 'skip'"),
        (ROLES, f"{BY_LENGTH}\n    concurrency: 0", "at least 1"),
        ("{easy: bulk, hard: frontier}", "rules: [{longer: 3, use: hrd}]", "no route 'hrd'; did you mean 'hard'?"),
    ],
)
def test_a_mistake_is_named(fusion: Any, routes: str, options: str, says: str) -> None:
    with pytest.raises((PipelineError, Exception), match=re.escape(says)):
        routed(fusion, routes, options)


def test_calls_are_shown_and_quoted_without_any(fusion: Any) -> None:
    text = pipeline(ROWS % (f"{{easy: bulk, hard: {INNER['generate']}}}", BY_LENGTH))
    models = {role: ScriptedModel("x", name=f"scripted/{role}", price=PRICE) for role in ("bulk", "frontier")}
    made = fusion(models)
    rows = {"rows": [{"text": one} for one in TEXTS]}
    shown = made.preview(inputs=rows, pipeline=text)
    way, hard = shown.stages
    assert (way.items, way.most_calls) == (4, 4 * 4)
    assert [call.item for call in way.calls] == [0, 2]
    assert hard.calls[0].messages[0].content == TEXTS[1]
    quote = made.quote(inputs=rows, pipeline=text)
    assert 4 <= quote.calls.likely <= (quote.calls.most or 0)
    assert not any(model.requests for model in models.values())
