"""fusion run --dry-run and fusion render: what would be asked, as it would be asked, and no call."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Request, ScriptedModel
from fusion.prompts.library import Library
from tests.cli.conftest import BARE, MANY, ONE, Command, apart
from tests.cli.scripted import on_scripted_models
from tests.conftest import frontier, plan_text, run, subtasks

SHAPED = """
inputs: {words: words}
stages:
  work: {kind: map, over: "inputs.words.split(',')", role: bulk, schema: {n: integer}, prompt: "do {{ item.source }}"}
  check: {kind: review, over: work, role: frontier, checks: {max_length: 100}, criteria: It is right.}
output: check
"""


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    on_scripted_models(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that reaches a model."""
    requests: list[Request] = []
    complete = ScriptedModel.complete

    async def noted(model: ScriptedModel, request: Request, on_delta: Any = None) -> Any:
        requests.append(request)
        return await complete(model, request, on_delta)

    monkeypatch.setattr(ScriptedModel, "complete", noted)
    return requests


# A dry run.


def test_a_dry_run_shows_stages_models_prompts_and_bounds(command: Command, asked: list[Request]) -> None:
    done = command("run", "plan-execute-review", "do it", "--dry-run", "-m", "scripted/frontier")
    assert (done.code, done.err, asked) == (0, "", [])
    assert "plan (plan): frontier=scripted/frontier\n  at most 4 calls" in done.out
    assert "  plan by scripted/frontier (frontier): about " in done.out
    assert "  --- user ---\n  You are the planner." in done.out
    bounds = "at most 12 items, at most 48 calls"
    assert f"work (map): frontier=scripted/frontier, bulk=scripted/frontier\n  {bounds}" in done.out
    assert "depends on plan.subtasks, which a run makes first" in done.out
    assert "Limits: usd 0.50, seconds 1800" in done.out.replace("0.5,", "0.50,")


def test_a_dry_run_counts_the_items_of_an_input(command: Command, pipeline: Any, asked: list[Request]) -> None:
    done = command("run", pipeline(MANY), "a,b,c", "--dry-run", "-m", "scripted/echo")
    assert (done.code, asked) == (0, [])
    assert "at most 3 items, at most 12 calls, each answered in at most 2,000 tokens" in done.out
    assert "--- user ---\n  do a" in done.out
    assert "do b" not in done.out
    assert "at most 3 items, no call" in done.out
    assert "In all: at most 12 calls, retries not counted; at most 24,000 tokens out" in done.out


def test_a_dry_run_as_json_has_every_call_whole(command: Command, pipeline: Any) -> None:
    text = "x" * 5000
    done = command("run", pipeline(MANY), f"a,{text}", "--dry-run", "--json", "-m", "scripted/echo")
    (work, answer) = json.loads(done.out)["stages"]
    assert [call["messages"][0]["content"] for call in work["calls"]] == ["do a", f"do {text}"]
    assert (answer["missing"], answer["most_calls"]) == (["work.items"], 0)
    shown = command("run", pipeline(MANY), text, "--dry-run", "-m", "scripted/echo").out
    assert "more characters]" in shown
    assert text not in shown


@pytest.mark.parametrize("words", [["--events"], ["--events-to", "f"], ["-o", "f"], ["-q"], ["-v"]])
def test_what_has_no_effect_on_a_dry_run_is_refused(command: Command, pipeline: Any, words: list[str]) -> None:
    done = command("run", pipeline(BARE), "--dry-run", *words)
    assert (done.code, done.out) == (2, "")
    assert f"{words[0]} has no effect with --dry-run" in done.err


def test_a_dry_run_says_what_a_run_would_refuse(command: Command, pipeline: Any) -> None:
    done = command("run", pipeline(ONE), "--dry-run", "-m", "scripted/echo")
    assert done.code == 2
    assert "needs 'task'" in done.err


# The messages of a stage.


def test_messages_are_those_that_a_run_sends(command: Command, pipeline: Any, asked: list[Request]) -> None:
    path, words = pipeline(SHAPED), ["1,2", "-m", "scripted/echo", "--json"]
    work = json.loads(command("render", path, "work", *words, "--item", "2").out)
    given = '[{"index": 0, "source": "1", "value": {"n": 1}}]'
    check = json.loads(command("render", path, "check", *words, "--with", f"work={given}").out)
    assert (asked, work["step"], check["step"]) == ([], "work", "verdict")

    def script(request: Request) -> Any:
        return {"issues": [], "verdict": "accept"} if "verdict" in str(request.json_schema) else {"n": 1}

    with Fusion(profile="local", model=ScriptedModel(script, name="scripted/echo")) as fusion:
        fusion.complete("1,2", pipeline=path)
    sent = [[message.model_dump(mode="json") for message in request.messages] for request in asked]
    assert work["messages"] in sent
    assert check["messages"] in sent
    assert work["max_tokens"] == check["max_tokens"] * 2 == asked[0].max_tokens


def test_messages_go_to_standard_output_and_the_rest_to_standard_error(command: Command, pipeline: Any) -> None:
    done = command("render", pipeline(ONE), "answer", "say hello", "-m", "scripted/echo", stdin=b"a note")
    assert (done.code, done.out) == (0, "--- user ---\nsay hello / a note\n")
    assert done.err == "answer by scripted/echo (bulk): about 5 tokens in, at most 2,000 out\n"


def test_another_stages_result_is_given(command: Command, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(subtasks(2)))
    words = ["render", "plan-execute-review", "work", "do it", "-m", "scripted/echo"]
    done = command(*words, "--with", f"plan=@{plan}", "--item", "2")
    assert done.code == 0
    assert "Do this one subtask and nothing else: part 2" in done.out
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert "'work' depends on plan.subtasks, which a run makes first; give it: --with plan.subtasks=@FILE" in done.err


def test_the_items_of_a_result_can_be_given_as_they_are(command: Command, tmp_path: Path) -> None:
    done = command("run", "plan-execute-review", "do it", "-m", "scripted/frontier", "--json", "-q")
    items = tmp_path / "items.json"
    items.write_text(json.dumps(json.loads(done.out)["stages"]["review"]["items"]))
    done = command(
        "render", "plan-execute-review", "answer", "do it", "-m", "scripted/frontier", "--with", f"review=@{items}"
    )
    assert done.code == 0
    assert "part 3:\n<part " in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wrk"], "no stage 'wrk'; did you mean 'work'?"),
        (["work", "--item", "4"], "'work' has 3 items, and no item 4"),
        (["answer", "--with", "work=5"], "'work' is a list of items; give a JSON list"),
        (["answer", "--with", "work=[1"], "--with work: it begins like JSON and cannot be read as JSON"),
        (["answer", "--with", "work=[1]"], "'answer' calls no model"),
        (["answer", "--with", "wrok=[1]"], "no stage 'wrok'; did you mean 'work'?"),
        (["answer", "--with", "work.text=[1]"], "'work' has no field 'text'"),
        (["answer", "--with", "work"], "--with 'work': give it as stage=@file"),
        (["answer", "--with", "work=[]", "--with", "work=[]"], "--with work=… is given twice"),
        (["answer", "--with", "work=@none.json"], "--with work: cannot read 'none.json'"),
    ],
)
def test_what_cannot_be_shown_is_said(command: Command, pipeline: Any, words: list[str], said: str) -> None:
    stage, *more = words
    done = command("render", pipeline(MANY), stage, "a,b,c", "-m", "scripted/echo", *more)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_template_that_fails_on_its_data_says_where(command: Command, pipeline: Any) -> None:
    text = MANY.replace("item.source }}", "item.source.name }}")
    done = command("render", pipeline(text), "work", "a,b", "-m", "scripted/echo")
    assert (done.code, done.out) == (2, "")
    assert "has no attribute 'name'" in done.err


def test_what_waits_for_a_condition_says_so(command: Command, pipeline: Any) -> None:
    text = ONE.replace("kind: generate", "kind: generate, when: inputs.context != ''")
    done = command("run", pipeline(text), "x", "--dry-run", "-m", "scripted/echo")
    assert "only when inputs.context != ''" in done.out


def test_stages_are_completed() -> None:
    words = "fusion render plan-execute-review re"
    env = {"_FUSION_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    assert apart(env=env).out.split() == ["review"]
    env = {"_FUSION_COMPLETE": "complete_bash", "COMP_WORDS": "fusion explain ma", "COMP_CWORD": "2"}
    assert apart(env=env).out.split() == ["map"]


# From Python.


@pytest.mark.parametrize("shipped", sorted(Library.standard().pipelines))
def test_no_run_makes_more_calls_than_its_preview_says(
    fusion: Callable[..., Fusion], asked: list[Request], shipped: str
) -> None:
    made = fusion(model=ScriptedModel(frontier(5), name="scripted/all"))
    inputs = {name: "one\ntwo" for name, one in made.load(shipped).inputs.items() if one.required}
    most = made.preview(pipeline=shipped, inputs=inputs).most_calls
    assert asked == []
    run(made, None, pipeline=shipped, inputs=inputs, on_gate=lambda gate: True)
    assert asked
    assert most is None or len(asked) <= most


def test_a_value_in_the_place_of_a_plan(fusion: Callable[..., Fusion]) -> None:
    made = fusion(model=ScriptedModel([], name="scripted/none"))
    plan = json.loads(plan_text(subtasks(3)))["subtasks"]
    shown = made.preview("do it", given={"plan": plan}, stage="work", item=1)
    assert [call.item for stage in shown.stages for call in stage.calls] == [1]


# What stands within a stage.

INNER = """
inputs: {topic: what}
stages:
  draft: {kind: generate, role: bulk, continuations: 0, prompt: "draft {{ inputs.topic }}"}
  final: {kind: generate, role: frontier, continuations: 0, prompt: "final {{ draft }}"}
output: final
"""
OUTER = """
inputs: {task: what}
stages:
  sub: {kind: pipeline, pipeline: inner.yaml, inputs: {topic: "'about ' ~ inputs.task"}}
  last: {kind: pipeline, pipeline: inner.yaml, inputs: {topic: sub.text}}
output: last
"""
WAYS = """
inputs: {task: what}
stages:
  answer:
    kind: route
    routes:
      easy: bulk
      hard: {kind: pipeline, pipeline: inner.yaml, inputs: {topic: inputs.task}}
      long: {kind: panel, members: {role: bulk, samples: 5}, prompt: "long {{ inputs.task }}"}
    %s
    default: easy
output: answer
"""


@pytest.fixture
def beside(tmp_path: Path) -> Callable[[str], Path]:
    """A pipeline's file, with `inner.yaml` beside it."""

    def write(text: str) -> Path:
        (tmp_path / "inner.yaml").write_text(INNER)
        (tmp_path / "outer.yaml").write_text(text)
        return tmp_path / "outer.yaml"

    return write


def test_the_calls_of_a_pipeline_within_a_stage_are_shown(
    command: Command, beside: Callable[[str], Path], asked: list[Request]
) -> None:
    done = command("run", str(beside(OUTER)), "cats", "--dry-run", "-m", "scripted/echo")
    assert (done.code, asked) == (0, [])
    assert "sub (pipeline)\n  at most 2 calls" in done.out
    assert "sub/draft (generate): bulk=scripted/echo\n  at most 1 call" in done.out
    assert "  --- user ---\n  draft about cats" in done.out
    assert "depends on sub/draft.text, which a run makes first\n" in done.out
    assert "last/draft (generate): bulk=scripted/echo\n  at most 1 call" in done.out
    assert "In all: at most 4 calls" in done.out


def test_a_pipeline_within_a_stage_is_bounded_as_it_runs(
    fusion: Callable[..., Fusion], beside: Callable[[str], Path], asked: list[Request]
) -> None:
    made = fusion(model=ScriptedModel(lambda request: "x", name="scripted/all"))
    shown = made.preview("cats", pipeline=beside(OUTER))
    stages = {stage.name: stage for stage in shown.stages}
    assert list(stages) == ["sub", "sub/draft", "sub/final", "last", "last/draft", "last/final"]
    assert [stages[name].most_calls for name in ("sub", "sub/draft", "last")] == [2, 1, 2]
    assert shown.most_calls == 4
    assert stages["last/draft"].missing == ("sub.text",)
    (call,) = stages["sub/draft"].calls
    run(made, "cats", pipeline=beside(OUTER))
    assert call.messages == asked[0].messages
    assert (call.stage, len(asked)) == (asked[0].key.stage, 4)


@pytest.mark.parametrize(
    ("rules", "prompt", "names", "most"),
    [
        ("rules: [{matches: hard, use: hard}]", "easy", ["answer"], 1),
        ("rules: [{matches: hard, use: hard}]", "hard", ["answer", "answer/hard", "answer/hard/draft"], 2),
        ("rules: [{matches: long, use: long}]", "long", ["answer", "answer/long"], 5),
        ("classifier: bulk", "any", ["answer", "answer/hard", "answer/hard/draft", "answer/long"], 7),
    ],
)
def test_the_way_that_a_route_takes_is_shown_and_every_one_where_a_model_chooses(
    fusion: Callable[..., Fusion],
    beside: Callable[[str], Path],
    rules: str,
    prompt: str,
    names: list[str],
    most: int,
) -> None:
    made = fusion(model=ScriptedModel([], name="scripted/none"))
    shown = made.preview(prompt, pipeline=beside(WAYS % rules))
    assert [stage.name for stage in shown.stages if stage.calls or stage.within.count("/") < 1] == names
    assert shown.most_calls == most
    calls = {call.stage: call.messages[-1].content for stage in shown.stages for call in stage.calls}
    assert calls.get("answer/hard/draft", f"draft {prompt}") == f"draft {prompt}"
    assert calls.get("answer/long", f"long {prompt}") == f"long {prompt}"
    assert set(calls) >= {name for name in names if name in ("answer/long", "answer/hard/draft")}


def test_neither_a_dry_run_nor_render_needs_a_key(command: Command, pipeline: Any) -> None:
    path = pipeline(ONE)
    note = "a run needs OPENAI_API_KEY, which is not set"
    shown = command("run", path, "x", "--dry-run", "-m", "openai/gpt-5.6")
    assert (shown.code, shown.err) == (0, "")
    assert f"\nNote: {note}\n" in shown.out
    as_json = json.loads(command("run", path, "x", "--dry-run", "-m", "openai/gpt-5.6", "--json").out)
    assert as_json["notes"] == [note]
    rendered = command("render", path, "answer", "x", "-m", "openai/gpt-5.6")
    assert rendered.code == 0
    assert rendered.err.splitlines()[0] == f"note: {note}"
    assert command("run", path, "x", "-m", "openai/gpt-5.6").code == 2


SECTIONS = """
name: sections
inputs: {document: {description: A text., stdin: true}}
stages:
  chunks: {kind: split, text: inputs.document, by: BY}
  notes: {kind: map, over: chunks, role: bulk, prompt: "{{ item.number }} {{ item.text }}"}
output: notes
"""


@pytest.mark.parametrize(("by", "count"), [("headings", 3), ("paragraphs", 3), ("tokens", 1)])
def test_chunks_are_previewed_without_a_run(command: Command, pipeline: Any, by: str, count: int) -> None:
    given = (pipeline(SECTIONS.replace("BY", by)), "-i", "document=before\n\n# A\none\n\n# B\ntwo", "--json")
    shown = json.loads(command("run", *given, "--dry-run").out)
    assert [stage["items"] for stage in shown["stages"]] == [None, count]
    assert len(shown["stages"][1]["calls"]) == count
    assert not shown["stages"][1]["missing"]


@pytest.mark.parametrize(("item", "text"), [(1, "1 before"), (2, "2 # A\none"), (3, "3 # B\ntwo")])
def test_the_prompt_of_a_chunk_is_rendered_without_a_run(
    command: Command, pipeline: Any, item: int, text: str
) -> None:
    path = pipeline(SECTIONS.replace("BY", "headings"))
    done = command("render", path, "notes", "-i", "document=before\n\n# A\none\n\n# B\ntwo", "--item", str(item))
    assert done.code == 0
    assert text in done.out
