"""Pipelines from YAML and back, their mistakes of form, and the JSON Schema of pipeline files."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from fusion.core.errors import PipelineError, UsageError
from fusion.core.params import Defaults, RoleSpec
from fusion.core.types import Limits
from fusion.core.yaml import read_yaml
from fusion.pipeline.json_schema import json_schema
from fusion.pipeline.spec import InputSpec, Pipeline, read
from fusion.prompts.library import Library, shipped_root
from fusion.stages.fields import RESERVED
from fusion.stages.kinds.generate import Generate
from fusion.stages.kinds.map import Map
from fusion.stages.kinds.merge import Merge
from fusion.stages.registry import kinds

WHOLE = """\
name: whole
description: Everything that a pipeline can say.
inputs:
  task: What is to be done.
  context: {default: "", stdin: true}
  style: {default: null}
budget: {usd: 0.50, seconds: 600}
on_budget: finish
defaults: {max_tokens: 1500, timeout: 60}
roles: {bulk: openai/some-model, judge: {chain: [anthropic/other], temperature: 0, concurrency: 4}}
stages:
  plan: {kind: plan, max_subtasks: 6}
  work:
    kind: map
    over: plan
    role: [{when: item.difficulty >= 4, use: frontier}, {use: bulk}]
    prompt: |
      Do only this part: {{ item.instructions }}

      No more.
    schema: {summary: string, figures: "list[number]"}
    budget: {usd: 0.1}
  answer: {kind: merge, over: work, default: {a: 1.0}}
output: {text: answer, goal: plan.goal}
"""


def problems_of(text: str) -> list[str]:
    return [str(problem) for problem in read(text, file="pipe.yaml").problems]


def test_a_whole_pipeline_is_read() -> None:
    pipeline = Pipeline.from_yaml(WHOLE)
    assert pipeline.inputs["task"] == InputSpec(description="What is to be done.")
    assert [spec.required for spec in pipeline.inputs.values()] == [True, False, False]
    assert pipeline.prompt_input == "task"
    assert pipeline.budget == Limits(usd=Decimal("0.5"), seconds=600)
    assert pipeline.roles["bulk"] == RoleSpec(chain=("openai/some-model",))
    assert pipeline.defaults == Defaults(max_tokens=1500, timeout=60)
    assert isinstance(pipeline.stages["work"], Map)
    assert pipeline.outputs == {"text": "answer", "goal": "plan.goal"}


def test_a_pipeline_and_its_yaml_are_the_same() -> None:
    pipeline = Pipeline.from_yaml(WHOLE)
    text = pipeline.to_yaml()
    assert Pipeline.from_yaml(text) == pipeline
    assert Pipeline.from_yaml(text).to_yaml() == text
    assert "  task: What is to be done.\n" in text
    assert "  bulk: openai/some-model\n" in text
    assert "    prompt: |\n      Do only" in text
    assert "concurrency: 16" not in text


@settings(max_examples=100, deadline=None, database=None)
@given(
    words=st.text(),
    prompt=st.text(min_size=1),
    default=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
        max_leaves=6,
    ),
)
@example(words="", prompt="0", default={"\x85": None, "\u2028a": "\x85", "ключ": "\n"})
def test_any_text_survives_yaml(words: str, prompt: str, default: object) -> None:
    pipeline = Pipeline(
        inputs={"a": InputSpec(description=words, default=default)},
        stages={"b": Generate(prompt=prompt)},
        output="b",
    )
    reading = read(pipeline.to_yaml())
    if reading.problems:
        assert all("digits" in problem.message or "surrogate" in problem.message for problem in reading.problems)
    else:
        assert reading.pipeline == pipeline


def test_a_pipeline_built_in_python() -> None:
    pipeline = Pipeline(name="hello", stages={"answer": Generate(prompt="Say hello.")}, output="answer")
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    with pytest.raises(ValidationError, match="frozen"):
        pipeline.name = "other"  # type: ignore[misc]


def test_the_name_is_the_file_s_own_by_default(tmp_path: Path) -> None:
    path = tmp_path / "my-work.yaml"
    path.write_text("stages: {a: {kind: generate}}\noutput: a")
    assert Pipeline.load(path).name == "my-work"
    with pytest.raises(UsageError, match="cannot read"):
        Pipeline.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Map(over="x", concurrency=0), ["Map concurrency: expected at least 1, got 0"]),
        (lambda: Map(over="x", promt="y"), ["Map promt: unknown key 'promt'; did you mean 'prompt'?"]),
        (lambda: RoleSpec(chain=("a/b", "a/b")), ["RoleSpec chain: 'a/b' is in the chain twice; list it once"]),
        (lambda: Defaults(timeout=-1), ["Defaults timeout: expected more than 0, got -1"]),
        (lambda: Merge(over="x", strategy="concat", role="y"), ["Merge: `strategy: concat` calls no model"]),
        (
            lambda: Pipeline(
                name=5, budget={"usd": -1}, stages={"a": {"kind": "map", "over": "x", "concurency": 3}}, output="a"
            ),
            [
                "Pipeline budget.usd: expected more than 0, got -1",
                "Pipeline name: expected text, got 5",
                "Pipeline stages.a.concurency: unknown key 'concurency'; did you mean 'concurrency'?",
            ],
        ),
    ],
)
def test_what_is_built_wrong_in_python_is_told_as_in_a_file(make: Any, says: list[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        make()
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == len(says)
    assert all(one.startswith(words) for one, words in zip(told, says, strict=True))


EVERYTHING_WRONG = """\
nmae: x
inputs: {Bad-Name: x, items: y, t: {stdn: true}, u: 5}
budget: {usd: lots, tokens: -1}
on_budget: stop
defaults: {max_tokens: many, timeout: .inf, temperature: 3}
roles: {bulk: {chain: []}, x: {}}
stages:
  a: {kind: mpa}
  b: {over: x}
  c: 5
  d: {kind: map, ovr: plan, concurrency: 0, role: [{use: a, whn: b}], schema: 5}
  e: {kind: map, over: a, output_schema: {a: string}, role: 5, needs: x}
  f: {kind: merge, over: a, strategy: concat, role: x}
  g: {kind: review, over: a, checks: {schma: 1, max_length: x}}
  h: {kind: generate, budget: {usdd: 1}, when: true, promptt: x, prompt: 5}
  i: {kind: generate, role: [{use: a}, {use: b}], max_tokens: 1.5}
  request: {kind: generate}
output: 5
extra: 1
"""


def test_every_mistake_is_reported_at_once_and_in_its_place() -> None:
    assert problems_of(EVERYTHING_WRONG) == [
        "pipe.yaml:1:1 nmae: unknown key 'nmae'; did you mean 'name'?",
        "pipe.yaml:2:10 inputs.Bad-Name: invalid name 'Bad-Name': use lowercase letters, digits and _, starting with "
        "a letter",
        "pipe.yaml:2:23 inputs.items: reserved name 'items': templates and results use it; choose another",
        "pipe.yaml:2:37 inputs.t.stdn: unknown key 'stdn'; did you mean 'stdin'?",
        "pipe.yaml:2:53 inputs.u: expected a mapping, got 5",
        "pipe.yaml:3:15 budget.usd: expected a number, got 'lots'",
        "pipe.yaml:3:29 budget.tokens: expected more than 0, got -1",
        "pipe.yaml:4:12 on_budget: expected 'fail' or 'finish', got 'stop'",
        "pipe.yaml:5:24 defaults.max_tokens: expected a whole number, got 'many'",
        "pipe.yaml:5:39 defaults.timeout: .inf is not a finite number",
        "pipe.yaml:5:58 defaults.temperature: expected at most 2, got 3",
        "pipe.yaml:6:23 roles.bulk.chain: a chain without a model; give at least one, as in [provider/model]",
        "pipe.yaml:6:28 roles.x: the key 'chain' is missing",
        "pipe.yaml:8:13 stages.a.kind: no kind 'mpa'; did you mean 'map'?",
        f"pipe.yaml:9:3 stages.b: the key 'kind' is missing; there are: {', '.join(sorted(kinds()))}",
        "pipe.yaml:10:6 stages.c: expected a stage, as in {kind: generate, …}",
        "pipe.yaml:11:18 stages.d.ovr: unknown key 'ovr'; did you mean 'over'?",
        "pipe.yaml:11:42 stages.d.concurrency: expected at least 1, got 0",
        "pipe.yaml:11:61 stages.d.role.0.whn: unknown key 'whn'; did you mean 'when'?",
        "pipe.yaml:11:79 stages.d.schema: expected a mapping or text, got 5",
        "pipe.yaml:12:27 stages.e.output_schema: unknown key 'output_schema'; did you mean 'schema'?",
        "pipe.yaml:12:61 stages.e.role: expected a list, got 5",
        "pipe.yaml:12:71 stages.e.needs: expected a list, got 'x'",
        "pipe.yaml:13:6 stages.f: `strategy: concat` calls no model, so these have no effect: role",
        "pipe.yaml:14:39 stages.g.checks.schma: unknown key 'schma'; did you mean 'schema'?",
        "pipe.yaml:14:61 stages.g.checks.max_length: expected a whole number, got 'x'",
        "pipe.yaml:15:32 stages.h.budget.usdd: unknown key 'usdd'; did you mean 'usd'?",
        "pipe.yaml:15:48 stages.h.when: expected text, got true",
        "pipe.yaml:15:54 stages.h.promptt: unknown key 'promptt'; did you mean 'prompt'?",
        "pipe.yaml:15:74 stages.h.prompt: expected text, got 5",
        "pipe.yaml:16:29 stages.i.role: every line but the last has a `when`, and the last has none: "
        "[{when: …, use: a}, {use: b}]",
        "pipe.yaml:16:63 stages.i.max_tokens: expected a whole number, got 1.5",
        "pipe.yaml:17:3 stages.request: reserved name 'request': templates and results use it; choose another",
        "pipe.yaml:18:9 output: expected text, got 5",
        "pipe.yaml:19:1 extra: unknown key 'extra'; there are: budget, defaults, description, inputs, name, "
        "on_budget, output, roles, stages",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", ["pipe.yaml:1:1: expected a mapping with the keys `stages` and `output`"]),
        ("null", ["pipe.yaml:1:1: expected a mapping with the keys `stages` and `output`"]),
        ("", ["pipe.yaml: the file is empty"]),
        ("name: x", ["pipe.yaml:1:1: the key 'output' is missing", "pipe.yaml:1:1: the key 'stages' is missing"]),
        ("stages: {}\noutput: a", ["pipe.yaml:1:9 stages: expected 1 or more entries, got 0"]),
        ("stages: 5\noutput: a", ["pipe.yaml:1:9 stages: expected a mapping, got 5"]),
        (
            "stgaes: {a: {kind: generate}}\noutput: {a: 5}",
            [
                "pipe.yaml:1:1 stgaes: unknown key 'stgaes'; did you mean 'stages'?",
                "pipe.yaml:2:13 output.a: expected text, got 5",
            ],
        ),
        (
            "stages: {a: {kind: generate, max_tokens: true}}\noutput: a",
            ["pipe.yaml:1:42 stages.a.max_tokens: expected a number, got true"],
        ),
        (
            "stages: {a: {kind: [x]}}\noutput: a",
            ["pipe.yaml:1:20 stages.a.kind: no kind ['x']; there are: "],
        ),
        (
            "stages: {range: {kind: generate}}\noutput: a",
            ["pipe.yaml:1:10 stages.range: reserved name 'range': it is a keyword of expressions; choose another"],
        ),
    ],
)
def test_mistakes_of_the_whole(text: str, expected: list[str]) -> None:
    found = problems_of(text)
    assert len(found) == len(expected)
    assert all(problem.startswith(begin) for problem, begin in zip(found, expected, strict=True))


def test_what_is_not_wrong_is_read_all_the_same() -> None:
    reading = read("stages: {a: {kind: mpa}, b: {kind: generate}}\nbudget: 5\noutput: b", file="pipe.yaml")
    assert reading.pipeline is not None
    assert set(reading.pipeline.stages) == {"b"}
    assert reading.unread == {"a"}
    assert len(reading.problems) == 2


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names(name: str) -> None:
    assert f"reserved name {name!r}" in problems_of(f"stages: {{{name}: {{kind: generate}}}}\noutput: a")[0]


# The JSON Schema.


def test_the_schema_beside_the_shipped_pipelines_is_current() -> None:
    path = shipped_root() / "pipelines" / "pipeline.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == json_schema(), "write it anew with `fusion schema`"


@pytest.mark.parametrize("path", sorted(Library([shipped_root()]).pipelines.values()), ids=lambda path: path.stem)
def test_shipped_pipelines_hold_to_the_schema(path: Path) -> None:
    data, problems, _ = read_yaml(path.read_text(encoding="utf-8"), file=str(path))
    assert problems == []
    assert list(Draft202012Validator(json_schema()).iter_errors(data)) == []


def test_the_schema_is_one_and_takes_short_forms() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(read_yaml(WHOLE, file="")[0])
    assert not validator.is_valid(read_yaml(EVERYTHING_WRONG, file="")[0])
    assert not validator.is_valid({"stages": {"a": {"kind": "generate", "ovr": "x"}}, "output": "a"})
    assert not validator.is_valid({"stages": {"a": {}}, "output": "a"})


ROUTE: dict[str, Any] = {"kind": "route", "rules": [{"longer": 5, "use": "a"}], "default": "a"}


@pytest.mark.parametrize(
    ("way", "valid"),
    [
        ("bulk", True),
        ({"kind": "generate", "prompt": "x"}, True),
        ({"kind": "pipeline", "pipeline": "single"}, True),
        ({**ROUTE, "routes": {"a": {"kind": "generate"}}}, True),
        ({"kind": "generate", "ovr": "x"}, False),
        ({"kind": "nothing"}, False),
        ({"kind": "map", "prompt": "x"}, False),
        ({"kind": "generate", "when": "true"}, False),
        ({**ROUTE, "routes": {"a": {"kind": "generate", "ovr": "x"}}}, False),
    ],
)
def test_a_stage_within_another_one_is_held_to_its_kind_too(way: Any, valid: bool) -> None:
    given = {"stages": {"s": {**ROUTE, "routes": {"a": way}}}, "output": "s"}
    assert Draft202012Validator(json_schema()).is_valid(given) is valid
