"""merge with `strategy: tree`, and the pipeline map-reduce-document: long documents through short contexts."""

import re
from itertools import pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion import Price, Say, ScriptedModel
from fusion.core.events import CallFinished, Delta
from fusion.models.base import ModelInfo, estimate_input, estimate_tokens
from fusion.stages.subtasks.tree_merge import groups
from tests.conftest import pipeline, run, said

CONTEXT = 8_000
TREE = """
inputs: {rows: {default: []}}
stages:
  work: {kind: map, over: inputs.rows, role: bulk, prompt: "{{ item.value }}", max_tokens: 1000, min_ok: 0}
  answer: {kind: merge, over: work, strategy: tree%s}
output: answer
"""


def model(script: Any, role: str, context: int | None = CONTEXT) -> ScriptedModel:
    info = ModelInfo(
        id=f"scripted/{role}", provider="scripted", price=Price(input=0, output=0), context=context, json_schema=True
    )
    return ScriptedModel(script, info=info)


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"<(\d+)>", text)]


def joining(request: Any) -> str:
    """What a merger says that keeps every number, and fills its limit."""
    kept = " ".join(f"<{number}>" for number in numbers(said(request)))
    return kept + "." * max(int(request.max_tokens * 4 * 0.9) - len(kept), 0)


def merged(fusion: Any, sizes: list[int], options: str = "", **more: Any) -> Any:
    """Result, events and merger of one merge of parts of so many tokens."""
    rows = [f"<{n}>" + "x" * (size * 4 - len(f"<{n}>")) for n, size in enumerate(sizes)]
    merger = model(more.pop("script", joining), "frontier", more.pop("context", CONTEXT))
    bulk = ScriptedModel(lambda request: said(request), name="scripted/bulk", respect_limit=False)
    result, events = run(
        fusion({"frontier": merger, "bulk": bulk}, **more),
        None,
        pipeline=pipeline(TREE % options),
        inputs={"rows": rows},
    )
    return result, events, merger


def steps(events: list[Any]) -> list[str]:
    return sorted(event.step for event in events if isinstance(event, CallFinished) and event.stage == "answer")


# A long document.


def test_sixty_thousand_tokens_through_eight_thousand(fusion: Any) -> None:
    paragraphs = [f"<{n}> " + f"Ship {n} carried goods of many kinds. " * 10 for n in range(630)]
    document = "\n\n".join(paragraphs)
    assert 60_000 <= estimate_tokens(document) < 61_000

    def reader(request: Any) -> str:
        part = said(request).split("Your part:")[1].split("The words behind it")[0]
        kept = " ".join(f"<{number}>" for number in numbers(part))
        return kept + "." * (600 * 4 - len(kept))

    bulk, frontier = model(reader, "bulk"), model(joining, "frontier")
    one = fusion({"bulk": bulk, "frontier": frontier})
    result, events = run(one, "Which ships?", pipeline="map-reduce-document", inputs={"context": document})
    assert result.status == "ok"
    for request in (*bulk.requests, *frontier.requests):
        assert estimate_input(request.messages) + request.max_tokens <= CONTEXT
    chunks = [item.source["text"] for item in result.stages["parts"].items]
    assert "".join(chunks) == document
    assert len(bulk.requests) == len(chunks) == len({said(request) for request in bulk.requests})
    for chunk in chunks:
        assert sum(chunk in said(request) for request in bulk.requests) == 1
    assert numbers(result.text) == list(range(630))
    # A level writes a quarter of what the last call can read, three quarters of 8,000 - 2,000 less its own words:
    # 1,095 tokens. A call of it reads three quarters of 8,000 - 1,095, less its own words: 8 notes, or 5 such texts.
    assert len(chunks) == 42
    below = [f"merge-1-{n}" for n in range(1, ceil(42 / 8) + 1)] + [f"merge-2-{n}" for n in range(1, ceil(6 / 5) + 1)]
    assert steps(events) == ["merge", *below]
    assert {request.max_tokens for request in frontier.requests} == {1_095, 2_000}
    assert {line.stage: line.calls for line in result.receipt.lines} == {"notes": 42, "answer": 9}


# Levels.


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 200))
def test_groups_are_neighbours_as_few_and_as_even_as_can_be(sizes: list[int], room: int) -> None:
    found = groups(sizes, room)
    assert [at for group in found for at in group] == list(range(len(sizes)))
    sums = [sum(sizes[at] for at in group) for group in found]
    assert max(sums) <= room
    assert all(one + other > room for one, other in pairwise(sums)) or len(found) == _fewest(sizes, room)


def _fewest(sizes: list[int], room: int) -> int:
    count, used = 1, 0
    for size in sizes:
        count, used = (count + 1, size) if used + size > room else (count, used + size)
    return count


def test_what_fits_is_one_call_and_neighbours_come_together_evenly(fusion: Any) -> None:
    _, events, _ = merged(fusion, [300] * 5, ", max_tokens: 1000")
    assert steps(events) == ["merge"]
    result, events, merger = merged(fusion, [700] * 12, ", max_tokens: 1000")
    assert steps(events) == ["merge", "merge-1-1", "merge-1-2"]
    below = [numbers(said(request)) for request in merger.requests[:2]]
    assert sorted(below) == [list(range(6)), list(range(6, 12))]
    assert "Parts 1 to 6:" in said(merger.requests[-1])
    assert numbers(result.text) == list(range(12))


def test_a_context_that_nobody_knows_bounds_nothing_unless_max_input_does(fusion: Any) -> None:
    _, events, _ = merged(fusion, [700] * 30, context=None)
    assert steps(events) == ["merge"]
    _, events, merger = merged(fusion, [700] * 8, ", max_input: 5000", context=None)
    assert steps(events) == ["merge", "merge-1-1", "merge-1-2"]
    assert all(estimate_input(request.messages) <= 5000 for request in merger.requests)


@pytest.mark.parametrize(
    ("sizes", "options", "says"),
    [
        ([500, 9000, 500], "", "part 2 has about 9,0"),
        ([500] * 30, ", max_input: 500", "room for"),
        ([3000] * 4, ", max_tokens: 7900", "room for 0"),
    ],
)
def test_parts_that_can_never_fit_are_said(fusion: Any, sizes: list[int], options: str, says: str) -> None:
    result, _, merger = merged(fusion, sizes, options)
    assert (result.status, result.error.reason) == ("failed", "StageError")
    assert says in result.error.message
    assert "split the work into smaller parts" in result.error.message
    assert merger.requests == []


def test_a_level_that_fails_fails_the_stage_and_its_role_can_be_escalated(fusion: Any) -> None:
    def failing(request: Any) -> Any:
        return "" if "bring these neighbouring parts" in said(request) else "answer"

    result, _, _ = merged(fusion, [700] * 12, script=failing)
    assert result.status == "failed"
    assert "empty answer" in result.error.message
    _, events, _ = merged(
        fusion, [700] * 12, ", role: bulk, on_error: escalate, escalate_to: frontier", script="short"
    )
    assert steps(events) == ["merge"]


def test_failed_parts_are_told_to_the_last_call_only(fusion: Any) -> None:
    def worker(request: Any) -> Any:
        return Say("", finish_reason="content_filter") if said(request).startswith("bad") else said(request)

    merger = model(joining, "frontier")
    bulk = ScriptedModel(worker, name="scripted/bulk", respect_limit=False)
    rows = [*(f"<{n}>" + "x" * 2800 for n in range(12)), "bad"]
    result, _ = run(
        fusion({"frontier": merger, "bulk": bulk}), None, pipeline=pipeline(TREE % ""), inputs={"rows": rows}
    )
    assert result.status == "partial"
    told = ["Missing, because it could not be done" in said(request) for request in merger.requests]
    assert told == [False] * (len(told) - 1) + [True]


def test_only_the_last_call_is_streamed(fusion: Any) -> None:
    rows = [f"<{n}>" + "x" * 2800 for n in range(12)]
    bulk = ScriptedModel(lambda request: said(request), name="scripted/bulk", respect_limit=False)
    one = fusion({"frontier": model(joining, "frontier"), "bulk": bulk})
    seen: list[Any] = []
    stream = one.stream(None, pipeline=pipeline(TREE % ""), inputs={"rows": rows}, on_event=seen.append)
    assert "".join(stream) == stream.result.text
    assert {event.step for event in seen if isinstance(event, Delta)} == {"merge"}


def test_the_budget_holds_over_all_levels(fusion: Any) -> None:
    result, _, merger = merged(fusion, [700] * 12, ", budget: {calls: 2}")
    assert (result.status, result.error.reason) == ("failed", "BudgetError")
    assert len(merger.requests) == 2


def test_keys_of_a_tree_have_an_effect_there_only() -> None:
    for options in ("max_input: 5", "level_prompt: a/b"):
        with pytest.raises(Exception, match="`strategy: tree` only"):
            pipeline((TREE % f", {options}").replace("strategy: tree", "strategy: llm"))
