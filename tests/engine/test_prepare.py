"""Preparing: the spec of a run, and one spec that the runs on many inputs share."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from fusion import Fusion, ScriptedModel
from fusion.core.config import Settings
from fusion.core.errors import InputError
from fusion.core.types import Asked, File, Limits, Turn
from fusion.engine.prepare import prepare, prepare_many
from fusion.engine.roles import Cast
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo
from fusion.models.gateway import Gateway
from fusion.pipeline.loader import LoadedPipeline, Loader
from fusion.prompts.library import Library
from tests.conftest import pipeline

PNG = File(media_type="image/png", data=b"\x89PNG\r\n\x1a\n0")
PLAIN = """
inputs: {task: what to do, tone: {default: dry}}
stages:
  a: {kind: generate, role: bulk, prompt: "{{ inputs.task }} {{ inputs.tone }}"}
output: a
"""
TABLE = """
inputs: {task: what to do, rows: {description: a table, format: csv}}
stages:
  a: {kind: map, over: inputs.rows, role: bulk, prompt: "{{ inputs.task }} {{ item.city }}"}
output: a
"""
HIDDEN = TABLE.replace("item.city", "item.value")
LINES = TABLE.replace("format: csv", "format: jsonl")
PICTURE = """
inputs: {task: what to do, photo: {format: image}}
stages:
  a: {kind: generate, role: bulk, prompt: "{{ inputs.task }} {{ inputs.photo }}"}
output: a
"""
MATERIAL = """
inputs: {task: what to do, text: {material: true, default: ""}}
stages:
  a: {kind: generate, role: bulk, prompt: "{{ request }} {{ material }}"}
output: a
"""


@pytest.fixture
def loader() -> Loader:
    return Loader(Library.standard())


def cast(settings: Settings | None = None, *, takes: Any = frozenset({"image"}), **changes: Any) -> Cast:
    settings = settings or Settings.from_environment()
    model = ScriptedModel("ok", info=ModelInfo(id="mine/one", provider="mine", takes=takes))
    given: dict[str, Any] = {"models": {}, "profile": None, "roles": {"bulk": model}, "model": None}
    return Cast(settings, Gateway(settings), **{**given, **changes})


def told(spec: RunSpec) -> Mapping[str, Any]:
    return {part.name: getattr(spec, part.name) for part in fields(spec)}


GOOD = [
    (PLAIN, None, {"task": "say it"}),
    (PLAIN, "say it", {}),
    (PLAIN, None, {"task": "say it", "tone": None}),
    (PLAIN, Asked("say it", system="be brief", conversation=(Turn("user", "hello"),)), {}),
    (TABLE, "count", {"rows": "city,size\nRome,3\nOslo,1\n"}),
    (TABLE, "count", {"rows": [{"city": "Rome"}]}),
    (LINES, "count", {"rows": '{"city": "Rome"}\n{"city": "Oslo"}\n'}),
    (PICTURE, "look", {"photo": PNG}),
    (MATERIAL, "read", {"text": "a long text"}),
    (MATERIAL, Asked("go on", conversation=(Turn("user", "hello"), Turn("assistant", "hi"))), {"text": "it"}),
]


@pytest.mark.parametrize(("text", "request_", "inputs"), GOOD)
def test_a_shared_spec_gives_the_spec_of_each_run(
    loader: Loader, text: str, request_: str | None, inputs: Mapping[str, Any]
) -> None:
    actors, loaded = cast(), loader.load(pipeline(text))
    terms: dict[str, Any] = {"limits": Limits(calls=9), "cache": "run", "sample": 2}
    shared = prepare_many(actors, loaded, **terms)
    alone = prepare(actors, loaded, request=request_, inputs=inputs, **terms)
    assert told(shared.with_inputs(inputs, request_)) == told(alone)
    assert (shared.request, shared.inputs) == ("", {})


BAD = [
    (PLAIN, None, {}, "needs 'task'"),
    (PLAIN, None, {"task": "x", "topic": "y"}, "no input 'topic'"),
    (PLAIN, "x", {"task": "y"}, "no required input left for the prompt"),
    (PLAIN, None, {"task": "\ud800"}, "is not text"),
    (PLAIN, None, {"task": {"made": object()}}, "holds object, which JSON cannot hold"),
    (PLAIN, None, {"task": PNG}, "the pipeline takes a text"),
    (TABLE, "count", {"rows": "town\nRome\n"}, "no row of 'rows' has a column 'city'"),
    (HIDDEN, "count", {"rows": "value\n1\n"}, "`item.value` is a field of every item"),
    (LINES, "count", {"rows": "{]"}, "rows"),
    (PICTURE, "look", {"photo": b"no picture"}, "photo"),
]


@pytest.mark.parametrize(("text", "request_", "inputs", "words"), BAD)
def test_a_shared_spec_refuses_the_inputs_that_a_run_alone_refuses(
    loader: Loader, text: str, request_: str | None, inputs: Mapping[str, Any], words: str
) -> None:
    actors, loaded = cast(), loader.load(pipeline(text))
    shared = prepare_many(actors, loaded)
    with pytest.raises(InputError, match=words) as alone:
        prepare(actors, loaded, request=request_, inputs=inputs)
    with pytest.raises(InputError) as together:
        shared.with_inputs(inputs, request_)
    assert str(together.value) == str(alone.value)


def test_a_picture_for_a_model_that_takes_none_is_refused_for_its_run_alone(loader: Loader) -> None:
    shared = prepare_many(cast(takes=frozenset()), loader.load(pipeline(MATERIAL)))
    assert shared.with_inputs({"text": "plain"}, "read").request == "read"
    with pytest.raises(InputError, match="which it does not take"):
        shared.with_inputs({"text": "plain"}, Asked("read", (PNG,)))


def test_an_input_is_missed_before_a_key(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    keyless = cast(roles={"bulk": "openai/gpt-5"})
    with pytest.raises(InputError, match="needs 'task'"):
        prepare(keyless, loader.load(pipeline(PLAIN)), inputs={})


def test_the_models_of_a_pipeline_are_found_once_for_each_cast(loader: Loader) -> None:
    actors, loaded, other = cast(), loader.load(pipeline(PLAIN)), loader.load(pipeline(MATERIAL))

    def roles(of: Cast, one: LoadedPipeline = loaded) -> Any:
        return prepare_many(of, one).roles

    assert roles(actors) is roles(actors)
    assert roles(actors, other) is not roles(actors)
    changed = actors.changed(profile="local", roles=None, model=None, defaults=None)
    assert roles(changed) is not roles(actors)
    assert prepare_many(changed, loaded).profile == "local"
    keyed = actors.with_keys(["OPENAI_API_KEY"])
    assert (keyed.profile.name, actors.profile.name) == ("openai", "local")


def test_the_models_of_an_edited_file_are_found_again(fusion: Any, tmp_path: Any) -> None:
    file = tmp_path / "one.yaml"
    strong = ScriptedModel("strong", name="mine/strong")
    runner: Fusion = fusion({"bulk": "weak"}, models={"mine/strong": strong})
    file.write_text(PLAIN)
    assert runner.complete("go", pipeline=file).text == "weak"
    file.write_text(f"roles: {{coder: mine/strong}}\n{PLAIN.replace('role: bulk', 'role: coder')}")
    assert runner.complete("go", pipeline=file).text == "strong"


def test_pipelines_that_are_gone_leave_nothing_behind(loader: Loader) -> None:
    actors = cast()
    for _ in range(200):
        prepare_many(actors, loader.load(pipeline(PLAIN)))
    assert len(actors._resolved) < 100
