"""A reviewer that is none, on the command line: it is said wherever roles are."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.scripted import on_scripted_models

REVIEWED = """
inputs: {task: what is to be done}
stages:
  work: {kind: map, over: "['a', 'b', 'c']", role: bulk, prompt: "do {{ item.source }}"}
  review: {kind: review, over: work, role: reviewer}
  answer: {kind: merge, over: review, strategy: concat, separator: ","}
output: answer
"""
NOTE = "unreviewed: 3 of 3 items; the role of the reviewer is none"


@pytest.fixture
def written(tmp_path: Path) -> str:
    (tmp_path / "reviewed.yaml").write_text(REVIEWED)
    return str(tmp_path / "reviewed.yaml")


def test_the_first_line_says_that_nothing_is_reviewed(
    command: Command, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    on_scripted_models(monkeypatch)
    done = command("run", written, "do it", "--role", "bulk=scripted/echo", "--role", "reviewer=none")
    assert done.code == 0, done.err
    assert "; bulk=scripted/echo, reviewer=none (unreviewed)" in done.err.splitlines()[0]
    assert NOTE in done.err


@pytest.mark.parametrize("words", [("quote",), ("run", "--dry-run")])
def test_previews_say_it_too(
    command: Command, monkeypatch: pytest.MonkeyPatch, written: str, words: tuple[str, ...]
) -> None:
    on_scripted_models(monkeypatch)
    roles = ("--role", "bulk=scripted/echo", "--role", "reviewer=none")
    done = command(words[0], written, "do it", *words[1:], *roles)
    assert done.code == 0, done.err
    assert "reviewer=none (unreviewed)" in done.out + done.err


def test_the_list_of_models_has_the_reviewer(command: Command) -> None:
    rows = [line.split() for line in command("models", "--all").out.splitlines()]
    assert ["local", "*", "reviewer", "none", "items", "pass", "unreviewed"] in rows
    assert any(row[:3] == ["openai", "reviewer", "openai/gpt-5.6"] for row in rows)
