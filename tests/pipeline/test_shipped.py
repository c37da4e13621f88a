"""The pipelines that ship: each holds, and does what it says on scripted models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Say, ScriptedModel
from fusion.core.config import Settings
from fusion.core.types import Deltas, Reply, Request, ToolCall
from fusion.models.base import ModelWrapper
from fusion.models.profiles import load_profiles
from fusion.models.providers.direct import of_local
from fusion.models.providers.local.local import LocalModels
from fusion.pipeline.loader import check_file
from fusion.prompts.library import Library, shipped_root
from tests.conftest import ACCEPT, pipeline, plan_text, run, said, subtasks

SHIPPED = sorted((shipped_root() / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_has_no_mistake_whatever_the_profile(path: Path) -> None:
    for profile in load_profiles().values():
        assert check_file(path, Library([shipped_root()]), roles=list(profile.roles)).problems == []


def test_single_is_one_call_over_the_same_inputs(fusion: Any) -> None:
    model = ScriptedModel("the answer", name="scripted/frontier")
    result, _ = run(fusion({"frontier": model}), "the task", pipeline="single", inputs={"context": "the material"})
    assert result.text == "the answer"
    (request,) = model.requests
    assert "the task" in said(request)
    assert "the material" in said(request)


def test_a_short_document_is_one_reading_and_one_answer(fusion: Any) -> None:
    bulk, frontier = ScriptedModel("a note", name="scripted/bulk"), ScriptedModel("answer", name="scripted/frontier")
    one = fusion({"bulk": bulk, "frontier": frontier})
    result, _ = run(one, "the task", pipeline="map-reduce-document", inputs={"context": "# Title\n\nFew words."})
    assert result.text == "answer"
    assert (len(bulk.requests), len(frontier.requests)) == (1, 1)
    assert 'part 1 of 1, which stands under "Title"' in said(bulk.requests[0])
    assert "the task" in said(bulk.requests[0])
    assert "a note" in said(frontier.requests[0])
    assert "Few words" not in said(frontier.requests[0])


def test_a_reader_sees_its_part_and_a_few_words_around_it_only(fusion: Any) -> None:
    paragraphs = [f"Paragraph {n}. " + f"word{n} " * 700 for n in range(6)]
    bulk = ScriptedModel("a note", name="scripted/bulk")
    one = fusion({"bulk": bulk, "frontier": "answer"})
    run(one, "the task", pipeline="map-reduce-document", inputs={"context": "\n\n".join(paragraphs)})
    assert len(bulk.requests) == 6
    for at, request in enumerate(bulk.requests):
        counts = [said(request).count(f"word{n} ") for n in range(6)]
        assert counts[at] == 700
        assert all(count < 80 for n, count in enumerate(counts) if n != at)


def test_two_cheap_models_that_agree_spare_the_strong_one(fusion: Any) -> None:
    for second, text in (("It is 12.", "12"), ("13", "strong: 14")):
        made = {"bulk": "12", "second": second, "frontier": "strong: 14"}
        models = {role: ScriptedModel(says, name=f"scripted/{role}") for role, says in made.items()}
        result, _ = run(fusion(models), "How many?", pipeline="agree-or-escalate")
        assert result.text == text
        assert len(models["frontier"].requests) == (text != "12")
        assert said(models["bulk"].requests[0]) == "How many?"


def test_an_easy_request_is_answered_by_the_model_that_calls_it_easy(fusion: Any) -> None:
    for route, text in (("easy", "cheap"), ("hard", "strong")):

        def bulk(request: Any, route: str = route) -> Any:
            return {"route": route} if request.json_schema else "cheap"

        models = {"bulk": ScriptedModel(bulk, name="scripted/bulk"), "frontier": "strong"}
        inputs = {"context": "the material"}
        result, _ = run(fusion(models), "the task", pipeline="route-by-difficulty", inputs=inputs)
        assert result.text == text
        assert "the task" in said(models["bulk"].requests[0])
    result, _ = run(fusion({"bulk": "cheap", "frontier": "strong"}), "long " * 1000, pipeline="route-by-difficulty")
    assert result.text == "strong"


# On the embedded models: small inputs, short answers.

ONE = "The flag of Ukraine is blue and yellow."
COLOURS = f"The flag of France is blue, white and red.\n{ONE}"
SMALL: dict[str, dict[str, Any]] = {
    "code-with-tests": {"task": "A function double(x) that returns twice x.", "examples": "assert double(2) == 4"},
    "agree-or-escalate": {"question": "What is 2 + 3? Answer with the number only."},
    "draft-approve": {"task": "Greet Ada in a sentence."},
    "fusion": {"task": "Which planet is the largest? Answer with its name."},
    "line-by-line": {"task": "Name the country.", "lines": ONE},
    "map-reduce-document": {"task": "Which colours has the flag of Ukraine?", "context": COLOURS},
    "plan-read-combine": {"task": "Which colours has the flag of Ukraine?", "context": COLOURS},
    "refine": {"task": "Greet Ada in a sentence."},
    "research": {"task": "Which colours has the flag of Ukraine?", "documents": COLOURS},
    "route-by-difficulty": {"task": "What is the capital of France? One word."},
    "self-fusion": {"task": "Which planet is the largest? Answer with its name."},
    "single": {"task": "What is the capital of France? One word."},
    "vote": {"question": 'What is 2 + 3? Begin at once with "Answer:".'},
}
WITHIN = """
inputs: {task: {}}
stages:
  answer:
    kind: route
    routes: {sum: {kind: pipeline, pipeline: agree-or-escalate}, other: {kind: pipeline, pipeline: single}}
    rules: [{matches: '[0-9]', use: sum}]
    default: other
output: answer
"""
ON_PROFILE = ("agree-or-escalate", "single")
"""Pipelines on the profile `local`, with their own limits; in the others one small model plays every role."""
OF_FORM = ("vote",)
"""Pipelines that need an answer in a form that the smallest model does not keep to."""
IN_DEMO = {"plan-execute-review"}
"""Pipelines that the demonstration runs, on that profile."""
MOST_TOKENS = 24
MOST_LETTERS = 20
MOST_ITEMS = 1


class Brief(ModelWrapper):
    """An embedded model that answers shortly, so that a pipeline runs whole whatever so small a model says.

    A text ends after some tokens, as if it were complete; data keep to a narrower schema of the same form.
    """

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        if request.json_schema is not None:
            narrow = request.model_copy(update={"json_schema": narrowed(request.json_schema)})
            return await self.inner.complete(narrow, on_delta)
        reply = await self.inner.complete(request.model_copy(update={"max_tokens": MOST_TOKENS}), on_delta)
        return reply.model_copy(update={"finish_reason": "stop"})


def narrowed(schema: Any) -> Any:
    """The schema with short texts, short lists, and one value to choose: "none", or the first."""
    if isinstance(schema, list):
        return [narrowed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    own: dict[str, Any] = {}
    if "enum" in schema:
        own = {"enum": ["none"] if "none" in schema["enum"] else schema["enum"][:1]}
    elif schema.get("type") == "string":
        own = {"maxLength": min(schema.get("maxLength", MOST_LETTERS), MOST_LETTERS)}
    elif schema.get("type") == "array":
        own = {"maxItems": max(MOST_ITEMS, schema.get("minItems", 0))}
    return {key: narrowed(part) for key, part in schema.items()} | own


@pytest.fixture(scope="module")
def embedded() -> Iterator[Fusion]:
    with Fusion(profile="local") as one:
        yield one


@pytest.fixture(scope="module")
def brief() -> Iterator[Fusion]:
    embedded = LocalModels(Settings.from_environment(), of_local)
    models = {f"local/{name}": Brief(embedded.model(f"local/{name}")) for name in ("tiny", "small")}
    with Fusion(profile="local", models=models, model="local/tiny") as one:
        yield one
    embedded.close()


def test_every_pipeline_that_ships_has_small_inputs() -> None:
    assert set(SMALL) == {path.stem for path in SHIPPED} - IN_DEMO


@pytest.mark.local
@pytest.mark.parametrize("name", ON_PROFILE)
def test_it_runs_on_the_embedded_models(embedded: Fusion, name: str) -> None:
    result, _ = run(embedded, None, pipeline=name, inputs=SMALL[name])
    assert result.status == "ok", (result.error, result.failed)
    assert result.text.strip()
    assert {one.asked for one in result.models} <= {"local/small", "local/strong"}
    assert all(line.price_source.startswith("local") for line in result.receipt.lines)


@pytest.mark.local
@pytest.mark.parametrize("name", sorted(set(SMALL) - set(ON_PROFILE)))
def test_it_runs_whole_on_a_small_model(brief: Fusion, name: str) -> None:
    model = "local/small" if name in OF_FORM else "local/tiny"
    result, _ = run(brief.using(model=model), None, pipeline=name, inputs=SMALL[name], on_gate=lambda gate: True)
    assert result.status in ("ok", "partial"), (result.error, result.failed)
    assert result.text.strip()
    assert {one.asked for one in result.models} == {model}
    assert all(line.price_source.startswith("local") for line in result.receipt.lines)


@pytest.mark.local
def test_nested_pipelines_run_on_the_embedded_models(embedded: Fusion) -> None:
    result, _ = run(embedded, "What is 2 + 3? Answer with the number only.", pipeline=pipeline(WITHIN))
    assert result.status == "ok", result.error
    assert result.stages["answer"].decision == "sum"
    assert result.receipt.cascades == 1
    assert "answer/sum/answer" in result.stages


def test_a_draft_is_revised_until_its_critic_finds_no_fault(fusion: Any) -> None:
    faults = [["It lacks a date."], []]
    models = {
        "bulk": ScriptedModel(["first draft", "second draft"], name="scripted/bulk"),
        "frontier": ScriptedModel([{"faults": found} for found in faults], name="scripted/frontier"),
    }
    result, _ = run(fusion(models), "the task", pipeline="refine", inputs={"context": "the material"})
    assert (result.status, result.text) == ("ok", "second draft")
    first, second = map(said, models["bulk"].requests)
    assert "the material" in first
    assert "draft of the answer" not in first
    assert "first draft" in second
    assert "- It lacks a date." in second
    assert all("the material" in said(request) for request in models["frontier"].requests)


def researcher(request: Any) -> Any:
    """A planner of one question, a searcher that cites what it finds, a reviewer and a writer."""
    words = said(request)
    if "You are the planner" in words:
        return plan_text(subtasks(1))
    if "You are the reviewer" in words:
        return ACCEPT
    if "out of these findings" in words:
        return "The ferry costs 40 kroner [documents 2: Fees]."
    if request.messages[-1].role != "tool":
        return Say("", tool_calls=(ToolCall(id="1", name="material_search", arguments='{"query": "ferry fee"}'),))
    return {"findings": [{"statement": "The ferry costs 40 kroner.", "source": "documents 2: Fees"}]}


DOCUMENTS = "# Times\n\nThe boat leaves at noon.\n\n# Fees\n\nThe ferry fee is 40 kroner.\n\n# Crew\n\nAda steers."


def test_research_finds_cites_and_merges(fusion: Any) -> None:
    models = {role: ScriptedModel(researcher, name=f"scripted/{role}") for role in ("bulk", "frontier", "reviewer")}
    inputs = {"documents": DOCUMENTS}
    result, events = run(fusion(models), "What does the ferry cost?", pipeline="research", inputs=inputs)
    assert (result.status, result.text) == ("ok", "The ferry costs 40 kroner [documents 2: Fees].")
    searched, found = models["bulk"].requests
    assert [tool.name for tool in searched.tools] == ["material_search"]
    assert "The ferry fee is 40 kroner." not in said(searched)
    assert "[documents 2: Fees]\n# Fees\n\nThe ferry fee is 40 kroner." in found.messages[-1].content
    assert "Ada steers" not in found.messages[-1].content
    assert "The ferry fee is 40 kroner." in said(models["reviewer"].requests[0])
    merged = said(models["frontier"].requests[-1])
    assert "The ferry costs 40 kroner. [documents 2: Fees]" in merged
    assert sorted((event.stage, event.status) for event in events if event.type == "tool_finished") == [
        ("find", "ok"),
        ("sections", "ok"),
    ]


def citing(*answers: str) -> Any:
    """A researcher whose answers are these, one after the other."""
    left = list(answers)

    def model(request: Any) -> Any:
        step = request.key.stage if request.key is not None else ""
        return left.pop(0) if step in ("draft", "answer") else researcher(request)

    return model


RIGHT = "The ferry costs 40 kroner [documents 2: Fees]."


@pytest.mark.parametrize(
    ("answers", "text", "passed"),
    [
        ([RIGHT], RIGHT, True),
        (["It costs 40 [documents 2]."], "It costs 40 [documents 2].", True),
        (["Ada steers [documents 3: Crew; documents 1: Times]."], None, True),
        (["It costs 40 [documents 2: Fees](x) [documents  2:\nFees]."], None, True),
        (["Nothing says so."], "Nothing says so.", True),
        (["It costs 40 [documents 9: Fees].", RIGHT], RIGHT, True),
        (["It costs 40 [documents 2: Tolls].", RIGHT], RIGHT, True),
        (["It costs 40 [web].", "It costs 40 [documents 7]."], "It costs 40 [documents 7].", False),
    ],
)
def test_research_lets_no_unknown_source_pass_in_silence(
    fusion: Any, answers: list[str], text: str | None, passed: bool
) -> None:
    script = citing(*answers)
    models = {role: ScriptedModel(script, name=f"scripted/{role}") for role in ("bulk", "frontier", "reviewer")}
    result, _ = run(fusion(models), "What?", pipeline="research", inputs={"documents": DOCUMENTS})
    assert (result.status, result.text) == ("ok", text or answers[0])
    assert (result.stages["answer"].decision == "passed") is passed
    assert any("did not pass the check" in note for note in result.notes) is not passed
    if len(answers) > 1:
        repaired = said(models["frontier"].requests[-1])
        assert "there is no source" in repaired
        assert "documents 3: Crew" in repaired
        assert "Ada steers." not in repaired


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("FEE", "[documents 2: Fees]"),
        ("the boat", "[documents 1: Times]"),
        ("steers", "[documents 3: Crew]"),
        ("zeppelin", "No section has a word of 'zeppelin'"),
    ],
)
def test_documents_are_searched_by_a_tool(fusion: Any, query: str, said: str) -> None:
    given = pipeline(
        "inputs: {query: x, documents: {material: true}}\n"
        "stages: {found: {kind: tool, tool: material.search, arguments: {query: inputs.query}}}\noutput: found\n"
    )
    result, _ = run(fusion({}), query, pipeline=given, inputs={"documents": DOCUMENTS})
    assert (result.status, result.text.startswith(said)) == ("ok", True), result.text


def test_a_search_without_documents_says_so(fusion: Any) -> None:
    given = pipeline(
        "inputs: {query: x}\n"
        "stages: {found: {kind: tool, tool: material.search, arguments: {query: inputs.query}}}\noutput: found\n"
    )
    result, _ = run(fusion({}), "ferry", pipeline=given)
    assert result.status == "failed"
    assert result.error is not None
    assert "There are no documents to search." in result.error.message


def test_a_draft_waits_for_a_person_who_may_edit_it(fusion: Any) -> None:
    models = {
        "bulk": ScriptedModel("a draft", name="scripted/bulk"),
        "frontier": ScriptedModel("a corrected text", name="scripted/frontier"),
    }
    one, inputs = fusion(models, store=True), {"context": "the material"}
    waiting, _ = run(one, "the task", pipeline="draft-approve", inputs=inputs)
    assert (waiting.status, waiting.text) == ("waiting", "")
    (gate,) = waiting.waiting
    assert (gate.place, gate.text, gate.ask) == ("approval", "a corrected text", "edit")
    asked = said(models["frontier"].requests[0])
    assert "a draft" in asked
    assert "the material" in asked
    edited, _ = run(one, "the task", pipeline="draft-approve", inputs=inputs, on_gate=lambda gate: "as edited")
    assert (edited.status, edited.text) == ("ok", "as edited")
    refused, _ = run(one, "the task", pipeline="draft-approve", inputs=inputs, on_gate=lambda gate: False)
    assert refused.status == "failed"
