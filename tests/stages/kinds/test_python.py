"""python: functions of the user's as stages, once and over items; their failures, time-outs, resumption, mistakes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, RunFailed, ScriptedModel
from fusion.core.config import Settings
from fusion.core.events import ToolFinished
from tests.cli.conftest import Command
from tests.cli.conftest import command as command
from tests.conftest import own_settings, run

MODULE = """
import asyncio
import threading
import time

CALLS = []
GATE = threading.Event()


def add(a: int, b: int = 1) -> int:
    CALLS.append(("add", a, b))
    return a + b


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


def titles(rows: list[dict[str, str]]) -> list[str]:
    return [row["title"] for row in rows]


def fail(text: str) -> str:
    CALLS.append(("fail", text))
    raise ValueError(f"no {text}")


def flaky(text: str) -> str:
    CALLS.append(("flaky", text))
    if len(CALLS) == 1:
        raise OSError("disk full")
    return text


def stuck(text: str) -> str:
    GATE.wait(20)
    return text


def odd(text: str) -> object:
    return object()
"""
Make = Callable[..., Fusion]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes Fusions that may call the functions of `st`."""
    (tmp_path / "st.py").write_text(MODULE)
    path = tmp_path / "fusion.toml"
    path.write_text('[python]\nallow = ["st:*"]\n')
    before, made = list(sys.path), list[Fusion]()

    def make(**options: Any) -> Fusion:
        made.append(Fusion(profile="local", settings=Settings.from_environment(config=path), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    if (module := sys.modules.pop("st", None)) is not None:
        module.GATE.set()
    sys.path[:] = before


def pipeline(stages: str, output: str = "a") -> Pipeline:
    return Pipeline.from_yaml(
        f"inputs: {{task: {{}}, rows: {{default: [1, 2, 3]}}}}\nstages:\n{stages}\noutput: {output}"
    )


def calls() -> list[Any]:
    found: list[Any] = sys.modules["st"].CALLS
    return found


@pytest.mark.parametrize(
    ("stage", "output", "data"),
    [
        ('{kind: python, function: "st:add", arguments: {a: "2"}}', "a.data", 3),
        ('{kind: python, function: "st:add", arguments: {a: "2", b: "5"}, effect: read}', "a.data", 7),
        ('{kind: python, function: "st:later", arguments: {text: inputs.task}}', "a.text", "X"),
        (
            '{kind: python, function: "st:titles", arguments: {rows: "[{\'title\': inputs.task}]"}}',
            "a.data",
            ["x"],
        ),
        (
            '{kind: python, function: "st:add", over: inputs.rows, arguments: {a: item.source}}',
            "a",
            [2, 3, 4],
        ),
    ],
)
def test_a_function_gives_text_or_data(make: Make, stage: str, output: str, data: Any) -> None:
    result, _ = run(make(), "x", pipeline=pipeline(f"  a: {stage}", output))
    assert (result.text if output == "a.text" else result.data) == data


def test_items_of_other_stages_are_arguments_by_their_values(make: Make) -> None:
    stages = """
  each: {kind: python, function: "st:add", over: inputs.rows, arguments: {a: item.source}}
  rows: {kind: map, over: inputs.rows, role: bulk, prompt: "{{ item.source }}", schema: {title: string}}
  a: {kind: python, function: "st:titles", arguments: {rows: rows}, needs: [each]}"""
    bulk = ScriptedModel(lambda request: {"title": request.messages[-1].content}, name="scripted/bulk")
    result, _ = run(make(roles={"bulk": bulk}), "x", pipeline=pipeline(stages, "{a: a.data, each: each}"))
    assert result.data == {"a": ["1", "2", "3"], "each": [2, 3, 4]}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ('function: "st:fail", arguments: {text: inputs.task}', "ValueError: no x"),
        ('function: "st:add", arguments: {a: inputs.task}', "$.a: expected integer"),
        ('function: "st:add", arguments: {}', "'a' is missing"),
        ('function: "st:add", arguments: {a: "1", c: "2"}', "'c'"),
        ('function: "st:odd", arguments: {text: inputs.task}', "it returned a object that JSON cannot hold"),
        (
            'function: "st:stuck", arguments: {text: inputs.task}, call_timeout: 0.1',
            "no result within 0.1 s",
        ),
        ('function: "st:stuck", arguments: {text: inputs.task}, timeout: 0.1', "timeout of 0.1 s"),
    ],
)
def test_failures_end_the_run_with_their_reason(make: Make, stage: str, message: str) -> None:
    with pytest.raises(RunFailed) as failed:
        make().complete("x", pipeline=pipeline(f"  a: {{kind: python, {stage}}}"))
    assert message in str(failed.value)
    assert failed.value.exit_code == 3


def test_a_failed_item_is_named_and_the_others_stay(make: Make) -> None:
    stage = '{kind: python, function: "st:add", over: inputs.rows, arguments: {a: item.source}}'
    result, _ = run(make(), "x", inputs={"rows": [1, "two", 3]}, pipeline=pipeline(f"  a: {stage}"))
    assert [item.value for item in result.items] == [2, None, 4]
    assert (result.status, result.failed[0].item) == ("partial", 1)


def test_a_resumed_run_calls_again_only_what_failed(make: Make, tmp_path: Path) -> None:
    stages = """
  first: {kind: python, function: "st:add", arguments: {a: "1"}}
  a: {kind: python, function: "st:flaky", arguments: {text: "'t' ~ first.text"}}"""
    stages = stages.replace("flaky", "fail")
    fusion = make(store=tmp_path / "runs.db")
    with pytest.raises(RunFailed) as failed:
        fusion.complete("x", pipeline=pipeline(stages))
    with pytest.raises(RunFailed):
        fusion.resume(failed.value.result.run_id)
    assert calls() == [("add", 1, 1), ("fail", "t2"), ("fail", "t2")]


def test_a_function_that_failed_for_a_while_succeeds_when_resumed(make: Make, tmp_path: Path) -> None:
    stage = '{kind: python, function: "st:flaky", arguments: {text: inputs.task}}'
    fusion = make(store=tmp_path / "runs.db")
    with pytest.raises(RunFailed, match="OSError: disk full") as failed:
        fusion.complete("x", pipeline=pipeline(f"  a: {stage}"))
    assert fusion.resume(failed.value.result.run_id).text == "x"


@pytest.mark.parametrize(
    ("effect", "seen"), [("", "write"), (", effect: read", "read"), (", effect: write", "write")]
)
def test_the_effect_is_write_unless_the_stage_says_read(make: Make, effect: str, seen: str) -> None:
    stage = f'{{kind: python, function: "st:add", arguments: {{a: "1"}}{effect}}}'
    _, events = run(make(), "x", pipeline=pipeline(f"  a: {stage}"))
    assert [event.effect for event in events if isinstance(event, ToolFinished)] == [seen]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'kind: python, function: "st:ad"',
            "3:31 stages.a.function: module 'st' has no function 'ad'",
        ),
        (
            'kind: python, function: "os:getcwd"',
            "stages.a.function: function 'os:getcwd' is not allowed: add `allow =",
        ),
        ('kind: python, function: "pipeline:x"', "'pipeline:x' is a pipeline; write a stage of the kind `pipeline`"),
        ("kind: python", "the key 'function' is missing"),
        ('kind: python, function: "st:add", effect: none', "stages.a.effect: expected 'read' or 'write'"),
        (
            'kind: python, function: "st:add", arguments: {a: inputs.tsk}',
            "stages.a.arguments.a: no input 'tsk'",
        ),
        ('kind: python, function: "st:add", concurrency: 2', "`concurrency` has an effect with `over` only"),
    ],
)
def test_mistakes_are_placed_by_validate(
    make: Make, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    own_settings(tmp_path, monkeypatch)('[python]\nallow = ["st:*"]\n')
    (tmp_path / "own" / "st.py").write_text(MODULE)
    path = tmp_path / "pipe.yaml"
    path.write_text(f"inputs: {{task: {{}}}}\nstages:\n  a: {{{text}}}\noutput: a\n")
    ran = command("validate", str(path))
    assert ran.code == 2
    assert message in ran.err + ran.out


def test_a_quote_and_a_preview_call_no_function(make: Make) -> None:
    stages = """
  rows: {kind: python, function: "st:titles", arguments: {rows: "[]"}}
  a: {kind: map, over: rows.data, role: bulk, prompt: "{{ item.source }}"}"""
    quote = make(roles={"bulk": ScriptedModel("a", name="scripted/bulk")}).quote("x", pipeline=pipeline(stages))
    assert quote.stages[0].kind == "python"
    assert calls() == []
