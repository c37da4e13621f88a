"""fusion validate, schema and graph."""

import json
from pathlib import Path

from fusion.pipeline.json_schema import json_schema
from tests.cli.conftest import Command

GOOD = "stages: {answer: {kind: generate, prompt: Say hello.}}\noutput: answer\n"
BAD = "colour: red\nstages:\n  answer: {kind: generate, prompt: 'Say {{ hello }}.'}\noutput: anser\n"


def test_all_mistakes_of_all_files_come_at_once(command: Command, tmp_path: Path) -> None:
    good, bad, worse = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    good.write_text(GOOD)
    bad.write_text(BAD)
    worse.write_bytes(b"\x00\xff\xfe\x01")
    done = command("validate", str(bad), str(good), str(worse), "no-such-pipeline")
    assert done.code == 2
    assert done.out == f"{good}: ok\n"
    assert f"{bad}:1:1 colour" in done.err
    assert f"{bad}:3:" in done.err
    assert "'hello'" in done.err
    assert f"{bad}:4:" in done.err
    assert "did you mean 'answer'?" in done.err
    assert "worse.yaml" in done.err
    assert "no pipeline 'no-such-pipeline'" in done.err


def test_a_shipped_pipeline_is_validated_by_name(command: Command) -> None:
    done = command("validate", "plan-execute-review")
    assert (done.code, done.out, done.err) == (0, "plan-execute-review: ok\n", "")


def test_nothing_to_validate_is_a_usage_error(command: Command) -> None:
    assert command("validate").code == 2


def test_the_schema_is_json(command: Command) -> None:
    done = command("schema")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == json_schema()


def test_a_graph_is_drawn_in_every_format(command: Command) -> None:
    done = command("graph", "plan-execute-review")
    assert done.code == 0
    assert "review" in done.out
    done = command("graph", "plan-execute-review", "--format", "mermaid")
    assert done.out.startswith("flowchart")
    assert command("graph", "plan-execute-review", "--format", "dot").out.startswith(
        'digraph "plan-execute-review" {'
    )
    told = json.loads(command("graph", "plan-execute-review", "--format", "json").out)
    assert [stage["name"] for stage in told["stages"]] == ["plan", "work", "review", "answer"]


def test_a_graph_of_a_broken_file_is_its_mistakes(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    done = command("graph", str(tmp_path / "bad.yaml"))
    assert (done.code, done.out) == (2, "")
    assert "colour" in done.err
