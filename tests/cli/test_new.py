"""fusion new: a copy that is one's own, explained, and runs as it is."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from fusion.pipeline.json_schema import json_schema
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.prompts.template import is_template_name
from tests.cli.conftest import Command
from tests.cli.scripted import on_scripted_models

SHIPPED = sorted(Library.standard().pipelines)


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and scripted models."""
    monkeypatch.chdir(tmp_path)
    on_scripted_models(monkeypatch)
    return tmp_path


@pytest.mark.parametrize("shipped", SHIPPED)
def test_a_copy_validates_and_says_what_the_original_says(command: Command, desk: Path, shipped: str) -> None:
    done = command("new", "mine", "--from", shipped)
    assert (done.code, done.err) == (0, "")
    assert {file for file in done.out.splitlines() if not (desk / file).is_file()} == set()
    assert command("validate", "mine.yaml").code == 0
    copy, original = (
        Pipeline.load(desk / "mine.yaml"),
        Pipeline.load(Library.standard().pipelines[shipped]),
    )
    assert list(copy.stages) == list(original.stages)
    for name, stage in copy.stages.items():
        templates = {use.key for use in original.stages[name].prompts() if is_template_name(use.template)}
        assert all(use.template.startswith("mine/") for use in stage.prompts() if use.key in templates)
        assert untemplated(stage.model_dump()) == untemplated(original.stages[name].model_dump())
    assert (copy.inputs, copy.budget, copy.output) == (original.inputs, original.budget, original.output)


def untemplated(data: Any) -> Any:
    """The data of a stage and of those within it, without their templates, which a copy always names."""
    if not isinstance(data, dict):
        return data
    return {key: untemplated(part) for key, part in data.items() if not key.endswith("prompt")}


def test_a_copy_runs_as_it_is_and_as_it_is_changed(command: Command, desk: Path) -> None:
    command("new", "mine")
    done = command("run", "mine.yaml", "do it", "-m", "scripted/frontier", "-q")
    assert (done.code, done.out) == (0, "the answer\n")
    answer = desk / "prompts" / "mine" / "answer.md.j2"
    answer.write_text("{{ nothing.such }}")
    assert "no stage or variable 'nothing'" in command("validate", "mine.yaml").err


def test_it_needs_no_shipped_template(command: Command, desk: Path) -> None:
    command("new", "mine")
    included = re.findall(r'include "([^"]+)"', "".join(file.read_text() for file in desk.rglob("*.md.j2")))
    assert set(included) == {"mine/shared-opening", "mine/shared-files"}


def test_every_key_has_its_comment(command: Command, desk: Path) -> None:
    command("new", "mine")
    lines = (desk / "mine.yaml").read_text().splitlines()
    said = {above.strip() for above in lines if above.strip().startswith("#")}
    stage = json_schema()["$defs"]["stage_review"]["properties"]
    assert {f"# {stage[key]['description']}" for key in ("role", "over", "escalate_to", "revise_prompt")} <= said
    for above, line in itertools.pairwise(lines):
        key = re.match(r"( *)([a-z_]+):", line)
        if key and key[2] not in ("kind", "task", "context", "use"):
            assert above.strip().startswith("#"), line


def test_nothing_is_overwritten(command: Command, desk: Path) -> None:
    (desk / "mine.yaml").write_text("precious")
    done = command("new", "mine")
    assert (done.code, done.out) == (2, "")
    assert done.err == "fusion: 'mine.yaml' exists and is not overwritten; choose another name or remove it\n"
    assert [path.name for path in desk.rglob("*")] == ["mine.yaml"]
    assert (desk / "mine.yaml").read_text() == "precious"


def test_an_editors_schema_is_written_where_there_is_none(command: Command, desk: Path) -> None:
    (desk / "pipeline.schema.json").write_text("{}")
    assert "pipeline.schema.json" not in command("new", "mine").out
    assert (desk / "pipeline.schema.json").read_text() == "{}"
    (desk / "pipeline.schema.json").unlink()
    assert "pipeline.schema.json" in command("new", "other").out
    assert (desk / "pipeline.schema.json").read_text() == command("schema").out


def test_a_copy_of_ones_own_takes_its_schemas_along(command: Command, desk: Path) -> None:
    (desk / "old").mkdir()
    (desk / "old" / "shape.json").write_text('{"type": "object", "properties": {"name": {"type": "string"}}}')
    text = "stages: {a: {kind: generate, prompt: Name one., schema: shape.json}}\noutput: a\n"
    (desk / "old" / "old.yaml").write_text(text)
    done = command("new", "mine", "--from", "old/old.yaml")
    assert "shape.json" in done.out.splitlines()
    assert command("validate", "mine.yaml").code == 0
    assert "prompt: Name one." in (desk / "mine.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a/b"], "invalid pipeline name 'a/b'"),
        (["mine.yaml"], "invalid pipeline name 'mine.yaml'"),
        (["mine", "--from", "plan-execute"], "did you mean 'plan-execute-review'?"),
    ],
)
def test_what_cannot_be_made_is_said(command: Command, desk: Path, words: list[str], said: str) -> None:
    done = command("new", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert list(desk.iterdir()) == []


def test_a_name_whose_templates_are_there_already_is_refused(command: Command, desk: Path) -> None:
    (desk / "old.yaml").write_text("stages: {default: {kind: generate}}\noutput: default\n")
    done = command("new", "map", "--from", "old.yaml")
    assert (done.code, done.out) == (2, "")
    assert "the template 'map/default' exists already" in done.err
