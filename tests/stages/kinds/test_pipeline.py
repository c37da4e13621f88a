"""pipeline: another pipeline as a stage, with its inputs, budget, events and keys nested in this one's."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, PipelineError, PipelineStage, ScriptedModel
from fusion.core.events import Decided, Event, event_adapter
from fusion.pipeline.loader import check_file
from fusion.prompts.library import Library
from tests.conftest import run, said

INNER = """
name: inner
inputs: {topic: What it is about., tone: {default: plain}}
stages:
  draft: {kind: generate, role: bulk, prompt: "draft {{ inputs.topic }} {{ inputs.tone }}"}
  final: {kind: generate, role: frontier, prompt: "final {{ draft }}"}
output: final
"""
OUTER = """
inputs: {task: {}}
stages:
  first: {kind: generate, role: bulk, prompt: "first {{ inputs.task }}"}
  sub: {kind: pipeline, pipeline: inner.yaml, inputs: {topic: first.text}%s}
  last: {kind: generate, role: bulk, prompt: "last {{ sub }}"}
output: last
"""


def echo(role: str) -> ScriptedModel:
    return ScriptedModel(lambda request: f"<{said(request)}>", name=f"scripted/{role}")


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / "outer.yaml"

    return write


def problems(path: Path) -> list[str]:
    return [f"{problem.where}: {problem.message}" for problem in check_file(path, Library.standard()).problems]


def test_a_pipeline_is_a_stage_of_another(fusion: Any, files: Any) -> None:
    bulk, strong = echo("bulk"), echo("frontier")
    result, events = run(
        fusion({"bulk": bulk, "frontier": strong}), "x", pipeline=files(inner=INNER, outer=OUTER % "")
    )
    assert result.text == "<last <final <draft <first x> plain>>>"
    keys = [request.key for request in (*bulk.requests, *strong.requests)]
    assert [key.stage for key in keys] == ["first", "sub/draft", "last", "sub/final"]
    assert {event.stage for event in events} == {"", "first", "sub", "sub/draft", "sub/final", "last"}
    assert [event.type for event in events].count("run_started") == 1
    assert [event.type for event in events].count("run_finished") == 1
    assert list(result.stages) == ["first", "sub", "sub/draft", "sub/final", "last"]
    assert [line.stage for line in result.receipt.lines] == ["first", "sub/draft", "sub/final", "last"]


def test_an_input_that_is_not_given_takes_the_request_and_data_comes_along(fusion: Any, files: Any) -> None:
    inner = INNER.replace('"final {{ draft }}"', '"final {{ draft }}", schema: {a: integer}')
    outer = "inputs: {task: {}}\nstages: {sub: {kind: pipeline, pipeline: inner.yaml}}\noutput: sub.data"
    bulk = echo("bulk")
    result, _ = run(fusion({"bulk": bulk, "frontier": {"a": 1}}), "x", pipeline=files(inner=inner, outer=outer))
    assert result.data == {"a": 1}
    assert said(bulk.requests[0]) == "draft x plain"


def test_items_are_given_as_what_they_hold(fusion: Any, files: Any) -> None:
    outer = """
    stages:
      each: {kind: map, over: "['a', 'b']", role: bulk, prompt: "do {{ item.source }}"}
      sub: {kind: pipeline, pipeline: inner.yaml, inputs: {topic: each}}
    output: sub
    """
    one = fusion({"bulk": echo("bulk"), "frontier": echo("frontier")})
    result, _ = run(one, None, pipeline=files(inner=INNER, outer=outer))
    assert result.text == """<final <draft ["<do a>", "<do b>"] plain>>"""


def test_its_own_budget_holds_within_the_stages_and_the_runs(fusion: Any, files: Any) -> None:
    roles = {"bulk": echo("bulk"), "frontier": echo("frontier")}
    for inner, outer, limit in (
        (f"budget: {{calls: 1}}\n{INNER}", OUTER % "", "'inner'"),
        (INNER, OUTER % ", budget: {calls: 1}", "'sub'"),
        (INNER, f"budget: {{calls: 2}}\n{OUTER % ''}", "'run'"),
    ):
        handle = fusion(roles).start("x", pipeline=files(inner=inner, outer=outer))
        result = handle.wait()
        assert (result.status, handle.exit_code) == ("failed", 4)
        assert f"the calls limit of {limit}" in result.error.message


MANY = """
budget: {calls: %d}
on_budget: finish
inputs: {rows: {format: jsonl}}
stages:
  work: {kind: map, over: inputs.rows, role: bulk, prompt: "do {{ item.source }}"}
  sub: %s
output: sub
"""
INLINE = "{kind: pipeline, pipeline: inner.yaml, inputs: {topic: work}}"
ROUTED = f"{{kind: route, routes: {{only: {INLINE}}}, rules: [{{longer: 0, use: only}}], default: only, text: work}}"


@pytest.mark.parametrize("stage", [INLINE, ROUTED])
def test_what_it_needs_is_held_back_where_the_run_is_to_finish(fusion: Any, files: Any, stage: str) -> None:
    bulk = echo("bulk")
    handle = fusion({"bulk": bulk, "frontier": echo("frontier")}).start(
        None, pipeline=files(inner=INNER, outer=MANY % (6, stage)), inputs={"rows": list(range(20))}
    )
    result = handle.wait()
    assert (result.status, handle.exit_code) == ("partial", 4)
    assert result.text.startswith("<final <draft ")
    assert sum(item.ok for item in result.stages["work"].items) == 4  # six calls, two of them held back


def test_within_it_the_last_stage_is_kept_in_hand_too(fusion: Any, files: Any) -> None:
    inner = """
inputs: {topic: {}}
stages:
  each: {kind: map, over: "[1, 2, 3, 4, 5, 6, 7, 8, 9]", role: bulk, prompt: "{{ item.source }} {{ inputs.topic }}"}
  joined: {kind: merge, over: each, role: frontier, prompt: "merged {{ items|length }}"}
output: joined
"""
    for text in (inner, f"budget: {{calls: 6}}\n{inner}"):
        one = fusion({"bulk": echo("bulk"), "frontier": echo("frontier")})
        handle = one.start(
            None, pipeline=files(inner=text, outer=MANY % (8, INLINE)), inputs={"rows": list(range(20))}
        )
        result = handle.wait()
        assert (result.status, handle.exit_code) == ("partial", 4)
        assert result.text == "<merged 1>"


def test_what_fails_within_it_is_named_and_can_be_skipped(fusion: Any, files: Any) -> None:
    from fusion.core.errors import ContentFilterError

    roles = {"bulk": echo("bulk"), "frontier": ContentFilterError("no", model="scripted/frontier")}
    result, _ = run(fusion(roles), "x", pipeline=files(inner=INNER, outer=OUTER % ""))
    assert result.status == "failed"
    assert [part.stage for part in result.failed] == ["sub/final"]
    result, _ = run(fusion(roles), "x", pipeline=files(inner=INNER, outer=OUTER % ", on_error: skip, default: none"))
    assert (result.status, result.text) == ("partial", "<last none>")


def test_its_roles_are_the_users_then_its_own_then_those_around_it(files: Any) -> None:
    models = {name: echo(name) for name in ("inner", "outer", "given")}
    inner = INNER.replace("name: inner", "name: inner\nroles: {frontier: scripted/inner}")
    outer = OUTER % "" + "roles: {frontier: scripted/outer, bulk: scripted/outer}"
    known = {model.info.id: model for model in models.values()}
    path = files(inner=inner, outer=outer)
    with Fusion(profile="local", models=known) as one:
        one.complete("x", pipeline=path)
    assert [len(models[name].requests) for name in ("inner", "outer", "given")] == [1, 3, 0]
    with Fusion(profile="local", models=known, roles={"frontier": "scripted/given"}) as one:
        one.complete("x", pipeline=path)
    assert [len(models[name].requests) for name in ("inner", "outer", "given")] == [1, 6, 1]


def test_a_stage_that_is_out_of_time_ends_the_pipeline_within(fusion: Any, files: Any) -> None:
    slow = ScriptedModel("late", name="scripted/frontier", delay=60)
    one = fusion({"bulk": echo("bulk"), "frontier": slow})
    result, _ = run(one, "x", pipeline=files(inner=INNER, outer=OUTER % ", timeout: 0.2"))
    assert "not done within the stage's timeout of 0.2 s" in result.error.message
    assert (slow.cancelled, slow.in_flight) == (1, 0)


def test_an_edited_file_of_it_is_read_again(fusion: Any, files: Any) -> None:
    import os

    one = fusion({"bulk": echo("bulk"), "frontier": echo("frontier")})
    path = files(inner=INNER, outer=OUTER % "")
    assert "plain" in one.complete("x", pipeline=path).text
    files(inner=INNER.replace("plain", "grand"))
    os.utime(path.with_name("inner.yaml"), ns=(1, 1))
    assert "grand" in one.complete("x", pipeline=path).text


def test_its_answer_streams(fusion: Any, files: Any) -> None:
    from fusion import Say

    outer = "inputs: {task: {}}\nstages: {sub: {kind: pipeline, pipeline: inner.yaml}}\noutput: sub"
    one = fusion({"bulk": echo("bulk"), "frontier": Say(pieces=["one ", "two"])})
    assert list(one.stream("x", pipeline=files(inner=INNER, outer=outer))) == ["one ", "two"]


def test_a_pipeline_that_includes_itself_is_found_before_the_run(files: Any) -> None:
    itself = "inputs: {t: {}}\nstages: {a: {kind: pipeline, pipeline: outer.yaml}}\noutput: a"
    assert problems(files(outer=itself)) == ["stages.a.pipeline: the pipeline includes itself: outer -> outer"]
    a = itself.replace("outer.yaml", "b.yaml")
    found = problems(files(outer=a, b=itself))
    assert len(found) == 1
    assert "the pipeline includes itself: outer -> b -> outer" in found[0]


def test_pipelines_do_not_stand_in_each_other_without_end(files: Any) -> None:
    text = "inputs: {t: {}}\nstages: {a: {kind: pipeline, pipeline: %s.yaml}}\noutput: a"
    chain = {f"p{n}": text % f"p{n + 1}" for n in range(12)}
    (found,) = problems(files(outer=text % "p0", p12=INNER.replace("name: inner", ""), **chain))
    assert "pipelines within pipelines, more than 8 deep" in found


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("pipeline: no-such-pipeline", "a.pipeline: no pipeline 'no-such-pipeline'"),
        ("pipeline: gone.yaml", "a.pipeline: 'gone.yaml' does not exist"),
        ("pipeline: broken.yaml", "a.pipeline: 'broken.yaml' has mistakes of its own"),
        ("pipeline: inner.yaml, inputs: {topc: request}", "a.inputs.topc: 'inner.yaml' has no input 'topc'; did you"),
        ("pipeline: two.yaml", "a.pipeline: 'two.yaml' needs 'tone' too; give it under `inputs`"),
        ("pipeline: inner.yaml, inputs: {topic: nobody}", "a.inputs.topic: no stage or variable 'nobody'"),
        ("pipelin: inner.yaml", "a: unknown key 'pipelin'; did you mean 'pipeline'?"),
    ],
)
def test_what_is_wrong_with_a_pipeline_stage_is_said_at_validation(files: Any, stage: str, says: str) -> None:
    two = INNER.replace("{default: plain}", "{}")
    outer = f"inputs: {{t: {{}}}}\nstages: {{a: {{kind: pipeline, {stage}}}}}\noutput: a"
    found = problems(files(outer=outer, inner=INNER, two=two, broken=INNER.replace("draft }}", "drft }}")))
    assert any(says.removeprefix("a") in line for line in found), found


def test_pipelines_of_python_run_others_by_name(fusion: Any) -> None:
    from fusion import InputSpec, Pipeline

    built = Pipeline(
        inputs={"task": InputSpec()}, stages={"sub": PipelineStage(pipeline="plan-execute-review")}, output="sub"
    )
    from tests.conftest import frontier

    result, _ = run(fusion({"frontier": frontier(2), "bulk": "done"}), pipeline=built)
    assert result.text == "the answer"
    assert result.stages["sub/work"].items[1].value == "done"
    with pytest.raises(PipelineError, match="no pipeline 'nothing'"):
        fusion().complete(
            "x", pipeline=built.model_copy(update={"stages": {"sub": PipelineStage(pipeline="nothing")}})
        )


def test_decisions_are_events_that_can_be_read_back() -> None:
    event: Event = Decided(run_id="r", stage="s", decision="hard", reason="rule 1")
    assert event_adapter().validate_json(event.model_dump_json()) == event


def test_each_file_is_read_once_however_deep(files: Any, monkeypatch: pytest.MonkeyPatch, fusion: Any) -> None:
    leaf = "stages: {a: {kind: generate, role: bulk, prompt: leaf}}\noutput: a"
    twice = "stages: {a: {kind: pipeline, pipeline: %s}, b: {kind: pipeline, pipeline: %s}}\noutput: a ~ b"
    names = ["outer", "one", "two", "three", "leaf"]
    path = files(leaf=leaf, **{a: twice % (f"{b}.yaml", f"{b}.yaml") for a, b in pairwise(names)})
    reads: list[str] = []
    real = io.open

    def counting(file: Any, *more: Any, **options: Any) -> Any:
        reads.append(Path(file).name if isinstance(file, (str, Path)) else "")
        return real(file, *more, **options)

    monkeypatch.setattr(io, "open", counting)
    assert problems(path) == []
    assert [reads.count(f"{name}.yaml") for name in names] == [1] * 5
    result, _ = run(fusion({"bulk": echo("bulk")}), None, pipeline=path)
    assert result.text == "<leaf>" * 16
    assert [reads.count(f"{name}.yaml") for name in names] == [2] * 5


def test_a_pipeline_that_two_stages_run_is_refused_where_it_is_too_deep(files: Any) -> None:
    leaf = "stages: {a: {kind: generate, role: bulk, prompt: leaf}}\noutput: a"
    names = ["outer", *(f"p{at}" for at in range(9)), "leaf"]
    one = "stages: {a: {kind: pipeline, pipeline: %s.yaml}}\noutput: a"
    path = files(leaf=leaf, **{a: one % b for a, b in pairwise(names)})
    assert "pipelines within pipelines, more than 8 deep" in problems(path)[0]
    short = "stages: {a: {kind: pipeline, pipeline: p4.yaml}, b: {kind: pipeline, pipeline: p0.yaml}}\noutput: a ~ b"
    (path.parent / "outer.yaml").write_text(short)
    assert [line.partition(":")[0] for line in problems(path)] == ["stages.b.pipeline"]
