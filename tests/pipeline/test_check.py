"""Dependencies and checks of pipelines."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.core.errors import PipelineError, Problem
from fusion.pipeline import diagram as drawing
from fusion.pipeline.check import check
from fusion.pipeline.dataflow import Dataflow
from fusion.pipeline.loader import check_file, check_text, load_file
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library, shipped_root
from fusion.prompts.template import Prompts
from fusion.stages.kinds.generate import Generate
from fusion.stages.kinds.map import Map

SHIPPED = Library([shipped_root()])

FOUR = """\
inputs:
  task: What is to be done.
stages:
  plan: {kind: plan, role: frontier, max_subtasks: 12}
  work:
    kind: map
    over: plan
    role: [{when: item.difficulty >= 4, use: frontier}, {use: bulk}]
    prompt: |
      For {{ plan.goal }} do only this part: {{ item.instructions }}
  review: {kind: review, over: work, escalate_to: frontier}
  answer: {kind: merge, over: review, prompt: "{{ items }} {{ plan.merge_instructions }} {{ inputs.task }}"}
output: {text: answer, goal: plan.goal}
"""


def problems_of(text: str, roles: list[str] | None = None) -> list[str]:
    return [str(problem) for problem in check_text(text, library=SHIPPED, file="pipe.yaml", roles=roles)]


def one_stage(body: str, more: str = "") -> list[str]:
    """The problems of a pipeline with a plan and one more stage, on line 4."""
    head = "inputs: {task: x}\nstages:\n  plan: {kind: plan}\n"
    return problems_of(f"{head}  it: {{{body}}}\n{more}output: it.text ~ plan.goal")


# Dependencies.


def test_dependencies_are_per_field() -> None:
    dataflow = Dataflow(Pipeline.from_yaml(FOUR), Prompts(SHIPPED))
    reads = {name: wiring.reads for name, wiring in dataflow.wirings.items()}
    assert reads["plan"] == set()
    assert reads["work"] == {("plan", "subtasks"), ("plan", "goal")}
    assert reads["review"] == {("work", "items")}
    assert reads["answer"] == {("review", "items"), ("plan", "merge_instructions")}
    assert dataflow.order == ("plan", "work", "review", "answer")


def test_needs_are_dependencies() -> None:
    pipeline = Pipeline(
        stages={"b": Generate(prompt="x y", needs=("a",)), "a": Generate(prompt="x y")}, output="b ~ a"
    )
    dataflow = Dataflow(pipeline, Prompts(SHIPPED))
    assert [edge for edge in dataflow.edges if edge.target == "b"] == [("a", "b", "text", False)]
    assert dataflow.order == ("a", "b")


def test_an_order_of_a_cycle_is_refused() -> None:
    pipeline = Pipeline(stages={"a": Generate(prompt="{{ b }}"), "b": Generate(prompt="{{ a }}")}, output="b")
    with pytest.raises(PipelineError, match="a cycle: a -> b -> a"):
        _ = Dataflow(pipeline, Prompts(SHIPPED)).order


# Checks.


def test_a_right_pipeline_has_no_problems() -> None:
    assert problems_of(FOUR, ["frontier", "bulk"]) == []
    assert problems_of(FOUR.replace("stages:", "roles: {bulk: a/b}\nstages:", 1), ["frontier"]) == []


@pytest.mark.parametrize("path", sorted(SHIPPED.pipelines.values()), ids=lambda path: path.stem)
def test_shipped_pipelines_are_right(path: Path) -> None:
    assert check_file(path, SHIPPED, roles=["frontier", "bulk", "second", "reviewer"]).problems == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("kind: map, over: pln", "4:25 stages.it.over: no stage 'pln'; did you mean 'plan'?"),
        (
            "kind: map, over: plan.subtask",
            "4:25 stages.it.over: 'plan' has no field 'subtask'; did you mean 'subtasks'?",
        ),
        (
            "kind: map, over: task",
            "4:25 stages.it.over: no stage or variable 'task'; the input is read as inputs.task",
        ),
        ("kind: map, over: inputs.tsk", "4:25 stages.it.over: no input 'tsk'; did you mean 'task'?"),
        (
            "kind: map, over: inputs",
            "4:25 stages.it.over: 'inputs' is not a list; name a list, such as a stage's items",
        ),
        (
            "kind: map, over: range",
            "4:25 stages.it.over: 'range' is not a list; name a list, such as a stage's items",
        ),
        ("kind: map, over: plan +", "4:25 stages.it.over: expression 'plan +': "),
        (
            'kind: generate, prompt: "{{ itm.x }}"',
            "4:32 stages.it.prompt: no stage or variable 'itm'; did you mean 'it'?",
        ),
        (
            'kind: map, over: plan, prompt: "{{ itm.x }}"',
            "4:39 stages.it.prompt: no stage or variable 'itm'; did you mean 'item'?",
        ),
        ('kind: generate, prompt: "{% if %}"', "4:32 stages.it.prompt: inline prompt line 1: Expected an expression"),
        (
            "kind: generate, prompt: map/defalt",
            "4:32 stages.it.prompt: no template 'map/defalt'; did you mean 'map/d",
        ),
        (
            'kind: generate, prompt: "{{ plan }} {{ plan.goal }}"',
            "4:32 stages.it.prompt: 'plan' is read both bare and as 'plan.goal'; say which field: plan.subtasks",
        ),
        ("kind: generate, needs: [plan, plam]", "4:38 stages.it.needs.1: no stage 'plam'; did you mean 'plan'?"),
        ('kind: generate, prompt: "{{ it }}"', "4:3 stages.it: the stage reads itself"),
        ("kind: generate, needs: [it]", "4:3 stages.it: the stage reads itself"),
        ("kind: generate, when: plan.gaol", "4:30 stages.it.when: 'plan' has no field 'gaol'; did you mean 'goal'?"),
        (
            "kind: generate, role: [{when: item.x, use: a}, {use: b}]",
            "4:38 stages.it.role.0.when: no stage or variable 'item'; did you mean 'it'?",
        ),
        (
            "kind: generate, schema: {a: strng, b: {c: {type: x, properties: {}}}}",
            "4:36 stages.it.schema.a: unknown type 'strng'; did you mean 'string'?",
        ),
        (
            "kind: generate, schema: gone.json",
            "4:32 stages.it.schema: there is no file 'gone.json' beside the pipeline",
        ),
    ],
)
def test_each_mistake_of_a_stage(body: str, expected: str) -> None:
    assert any(problem.startswith(f"pipe.yaml:{expected}") for problem in one_stage(body)), one_stage(body)


def test_a_value_is_not_a_list_of_items() -> None:
    more = "  many: {kind: map, over: it}\n  all: {kind: merge, over: it.text}\n"
    assert one_stage("kind: generate", more)[:2] == [
        "pipe.yaml:5:3 stages.many: 'many' is unused: neither a stage nor the output reads it",
        "pipe.yaml:5:27 stages.many.over: 'it' is one value, not a list; name a list, such as it.data, if it holds one",  # noqa: E501
    ]


def test_cycles_name_their_whole_path() -> None:
    text = """\
stages:
  c: {kind: generate, prompt: "{{ b }}"}
  a: {kind: generate, prompt: "{{ c }}"}
  b: {kind: generate, prompt: "{{ a.text }}"}
  x: {kind: generate, prompt: "{{ y }}"}
  y: {kind: generate, prompt: "{{ x }}"}
output: a ~ x
"""
    assert problems_of(text) == [
        "pipe.yaml:2:3 stages.c: a cycle: c -> a -> b -> c; each waits for the one before it",
        "pipe.yaml:5:3 stages.x: a cycle: x -> y -> x; each waits for the one before it",
    ]


def test_mistakes_of_the_output() -> None:
    text = "stages: {plan: {kind: plan}}\noutput: {a: pln, b: plan.goals, c: plan ~ plan.goal, d: 'a b', e: inputs.x}"
    found = problems_of(text)
    assert found[:3] == [
        "pipe.yaml:2:13 output.a: no stage 'pln'; did you mean 'plan'?",
        "pipe.yaml:2:21 output.b: 'plan' has no field 'goals'; did you mean 'goal'?",
        "pipe.yaml:2:36 output.c: 'plan' is read both bare and as 'plan.goal'; say which field: plan.subtasks",
    ]
    assert found[3].startswith("pipe.yaml:2:57 output.d: expression 'a b': ")
    assert found[4:] == ["pipe.yaml:2:67 output.e: no input 'x'; the pipeline has none"]


def test_a_stage_that_nobody_reads() -> None:
    text = "stages: {a: {kind: generate}, b: {kind: generate}}\noutput: b"
    assert problems_of(text) == ["pipe.yaml:1:10 stages.a: 'a' is unused: neither a stage nor the output reads it"]


def test_unknown_roles_where_the_roles_are_known() -> None:
    text = "stages: {a: {kind: generate, role: jugde}}\nroles: {judge: x/y}\noutput: a"
    assert problems_of(text) == []
    assert problems_of(text, ["bulk"]) == ["pipe.yaml:1:36 stages.a.role: no role 'jugde'; did you mean 'judge'?"]


def test_one_input_reads_standard_input() -> None:
    text = "inputs: {a: {stdin: true}, b: {stdin: true}}\nstages: {s: {kind: generate, prompt: hi there}}\noutput: s"
    assert problems_of(text) == [
        "pipe.yaml:1:39 inputs.b.stdin: standard input goes to 'a' already; only one can have it"
    ]


def test_a_stage_cannot_hide_behind_a_variable_of_a_kind() -> None:
    text = "stages:\n  failed: {kind: plan}\n  all: {kind: merge, over: failed}\noutput: all"
    assert problems_of(text) == [
        "pipe.yaml:2:3 stages.failed: rename the stage: all.prompt has a variable 'failed' of its own"
    ]


def test_a_broken_stage_hides_nothing_of_the_others_and_is_known() -> None:
    text = FOUR.replace("kind: map", "kind: mpa").replace("inputs.task", "inputs.tsk")
    assert problems_of(text) == [
        "pipe.yaml:6:11 stages.work.kind: no kind 'mpa'; did you mean 'map'?",
        "pipe.yaml:12:47 stages.answer.prompt: no input 'tsk'; did you mean 'task'?",
    ]


def test_nobody_is_said_to_be_unread_where_the_output_is_wrong() -> None:
    assert problems_of("stages: {a: {kind: generate}}\noutput: 5") == ["pipe.yaml:2:9 output: expected text, got 5"]


def test_a_pipeline_built_in_python_is_checked_without_positions() -> None:
    pipeline = Pipeline(
        name="mine", stages={"a": Generate(), "b": Map(over="c", prompt="do {{ item }}")}, output="a ~ b"
    )
    assert check(pipeline, prompts=Prompts(SHIPPED)) == [
        Problem("mine", 0, 0, "stages.b.over", "no stage 'c'; there are: a, b")
    ]
    assert str(check(pipeline, prompts=Prompts(SHIPPED))[0]) == "mine stages.b.over: no stage 'c'; there are: a, b"


# Files.


def test_a_file_is_loaded_with_the_templates_and_schemas_beside_it(tmp_path: Path) -> None:
    (tmp_path / "prompts" / "my").mkdir(parents=True)
    (tmp_path / "prompts" / "my" / "own.md.j2").write_text("do {{ inputs.task }}")
    (tmp_path / "shape.json").write_text('{"total": "number"}')
    path = tmp_path / "p.yaml"
    path.write_text(
        "inputs: {task: x}\nstages: {a: {kind: generate, prompt: my/own, schema: shape.json}}\noutput: a.data"
    )
    loaded = load_file(path, SHIPPED)
    pipeline, prompts = loaded.pipeline, loaded.prompts
    assert pipeline.name == "p"
    assert prompts.template("my/own").paths == {("inputs", "task")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0); save it as UTF-8"),
        (b"a\0b", "is a binary file, not text"),
        (b"x" * 300_000, "is larger than 262,144 bytes"),
        (b"a: [", "not YAML: "),
    ],
)
def test_files_that_are_no_pipelines(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    (problem,) = check_file(path, SHIPPED).problems
    assert message in str(problem)
    assert str(problem).startswith(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = check_file(tmp_path / "gone.yaml", SHIPPED).problems
    assert "No such file" in problem.message


def test_all_problems_are_raised_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("stages: {a: {kind: mpa}, b: {kind: generate, prompt: '{{ x }}'}}\noutput: c")
    with pytest.raises(PipelineError) as caught:
        load_file(path, SHIPPED)
    assert [problem.where for problem in caught.value.problems] == ["stages.a.kind", "stages.b.prompt", "output"]


def _mutated(draw: st.DrawFn) -> bytes:
    raw = FOUR.encode()
    for _ in range(draw(st.integers(1, 4))):
        lines = raw.splitlines(keepends=True) or [b""]
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["delete", "double", "move", "indent", "byte", "cut", "insert"])):
            case "delete":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "indent":
                lines[at] = b"  " + lines[at]
            case "byte":
                cut = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + draw(st.binary(min_size=1, max_size=2)) + lines[at][cut + 1 :]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "insert":
                cut = draw(st.integers(0, len(lines[at])))
                token = draw(
                    st.sampled_from([b"{{", b"}}", b"[", b"}", b": ", b"&a ", b"*a ", b"!!x ", b"- ", b"|", b"'"])
                )
                lines[at] = lines[at][:cut] + token + lines[at][cut:]
        raw = b"".join(lines)
    return raw


@settings(max_examples=100, deadline=None, database=None)
@given(raw=st.composite(_mutated)())
def test_whatever_is_done_to_a_file_there_are_problems_or_a_pipeline(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(raw)
    problems = check_file(path, SHIPPED, roles=["frontier", "bulk"]).problems
    if not problems:
        loaded = load_file(path, SHIPPED)
        assert set(loaded.dataflow.order) == set(loaded.pipeline.stages)
        assert drawing.draw(loaded.pipeline, loaded.prompts)
    assert problems == sorted(problems)


def test_a_check_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fusion.pipeline.loader import check_file; from fusion.prompts.library import Library;"
        f"assert check_file({str(SHIPPED.pipelines['plan-execute-review'])!r}, Library.standard()).problems == [];"
        "print([m for m in ('litellm', 'openai', 'aiohttp', 'networkx', 'jsonschema', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=shipped_root(), check=False
    )
    assert done.stdout == "[]\n", done.stderr
