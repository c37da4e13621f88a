"""Kinds of stages: the built-in ones, and those of plug-ins."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import pytest

from fusion.core.errors import UsageError
from fusion.pipeline.spec import Pipeline
from fusion.stages import OutputField, Stage, StageContext, registry
from tests.conftest import pipeline, run


class Shout(Stage):
    """A kind of a plug-in."""

    kind: Literal["shout"] = "shout"
    words: str
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"),)

    async def run(self, ctx: StageContext) -> None:
        ctx.outputs.give("text", self.words.upper())


class Whisper(Shout):
    kind: Literal["shout"] = "shout"


class Unnamed(Shout):
    kind: str = "unnamed"  # type: ignore[assignment]


class Second(Shout):
    kind: Literal["map"] = "map"  # type: ignore[assignment]


class WithoutOutputs(Stage):
    kind: Literal["mute"] = "mute"

    async def run(self, ctx: StageContext) -> None: ...


class Idle(Stage):
    kind: Literal["idle"] = "idle"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"),)


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs entry points for the time of a test."""

    def install(*values: str) -> None:
        found = [EntryPoint(name=f"p{n}", value=value, group=registry.GROUP) for n, value in enumerate(values)]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: found)
        registry.kinds.cache_clear()

    yield install
    registry.kinds.cache_clear()


def test_the_built_in_kinds() -> None:
    assert {"generate", "plan", "map", "review", "merge"} <= set(registry.kinds())
    assert [cls.__name__ for cls in registry.kinds().values() if registry._flaw(cls)] == []
    assert all(cls.model_fields["kind"].default == kind for kind, cls in registry.kinds().items())


def test_a_pipeline_loads_the_kinds_that_it_uses() -> None:
    code = (
        "import sys; from fusion import Pipeline;"
        "Pipeline.from_yaml('stages: {a: {kind: generate, prompt: Hi.}}\\noutput: a');"
        "print(*sorted(name for name in sys.modules if name.startswith('fusion.stages.kinds.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fusion.stages.kinds.generate"]


def test_a_plug_in_cannot_replace_a_built_in_kind(plug_ins: Any) -> None:
    plug_ins(f"{__name__}:Second")
    with pytest.raises(
        UsageError, match="two stages are of the kind 'map': Map of Fusion and Second of the plug-in 'p0'"
    ):
        registry.kinds()


def test_a_plug_in_is_a_kind_like_any_other(plug_ins: Any) -> None:
    plug_ins(f"{__name__}:Shout")
    pipeline = Pipeline.from_yaml("stages: {a: {kind: shout, words: hi}}\noutput: a")
    assert type(pipeline.stages["a"]).__name__ == "Shout"
    assert "words: hi" in pipeline.to_yaml()


DEBATE: Final = """
inputs: {topic: A topic.}
stages:
  talk: {kind: debate, role: bulk}
  back: {kind: reverse, over: talk, role: bulk}
  all: {kind: merge, over: back, strategy: concat, separator: " "}
output: all
"""


@pytest.mark.parametrize(("store", "kept"), [(False, "nothing"), (True, "for")])
def test_a_plug_in_made_of_the_public_names_runs(
    plug_ins: Any, fusion: Any, tmp_path: Path, store: bool, kept: str
) -> None:
    plug_ins("tests.stages.plugin:Debate", "tests.stages.plugin:Reverse")
    where = {"store": tmp_path / "runs.db"} if store else {}
    made = fusion({"bulk": lambda request: request.messages[-1].content.partition(":")[0]}, **where)
    result, events = run(made, "tea", pipeline=pipeline(DEBATE))
    assert result.text == "rof tsniaga"
    assert [event.item for event in events if event.type == "item_finished" and event.stage == "talk"] == [0, 1]
    assert any(event.type == "noted" and event.message == f"2 sides, {kept} kept" for event in events)
    assert made.preview("tea", pipeline=pipeline(DEBATE)).stages[0].most_calls == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:X", "the plug-in 'p0' (no_such_module:X) cannot be loaded: ModuleNotFoundError"),
        (
            "builtins:int",
            "int of the plug-in 'p0' is no kind of stage: it is not a subclass of fusion.stages.Stage",
        ),
        (f"{__name__}:Unnamed", "Unnamed of the plug-in 'p0' is no kind of stage: it needs one name of its own"),
        (
            f"{__name__}:WithoutOutputs",
            "WithoutOutputs of the plug-in 'p0' is no kind of stage: it declares no output",
        ),
        (f"{__name__}:Idle", "Idle of the plug-in 'p0' is no kind of stage: it does not define run"),
    ],
)
def test_a_broken_plug_in_is_named(plug_ins: Any, value: str, message: str) -> None:
    plug_ins(value)
    with pytest.raises(UsageError) as caught:
        registry.kinds()
    assert str(caught.value).startswith(message)


def test_two_of_one_kind_are_refused(plug_ins: Any) -> None:
    plug_ins(f"{__name__}:Shout", f"{__name__}:Whisper")
    with pytest.raises(
        UsageError, match="two stages are of the kind 'shout': Shout of the plug-in 'p0' and Whisper of"
    ):
        registry.kinds()
