"""The command as a whole: help, version, exit codes, what is loaded, what is said of our own faults."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fusion import Fusion, Generate, Pipeline, ScriptedModel
from fusion.cli.app import application
from fusion.pipeline import loader
from tests.cli.conftest import Command, apart, start

HEAVY = ("litellm", "openai", "aiohttp", "networkx")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["validate", "plan-execute-review"]])
def test_help_and_validate_load_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from fusion.cli.app import run_command; code = run_command(sys.argv[1:]); "
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    import subprocess

    from tests.cli.conftest import environment

    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_loads_no_pydantic_either() -> None:
    process = start("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    _, imports = process.communicate(timeout=60)
    loaded = {line.rpartition(b"|")[2].strip() for line in imports.splitlines()}
    assert b"typer" in loaded
    assert not loaded & {b"pydantic", b"rich", b"asyncio"}


def test_every_exit_code_is_in_the_help(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130 "):
        assert f"\n    {code}" in done.out


def groups(command: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every group of commands."""
    if hasattr(command, "commands"):
        yield words
        for name, one in command.commands.items():
            yield from groups(one, *words, name)


@pytest.mark.parametrize("words", list(groups(typer.main.get_command(application()))))
def test_the_help_of_every_command_fits_its_line(
    words: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, listed = command(*words, "--help").out.partition("\nCommands:\n")
    lines = listed.partition("\n\n")[0].splitlines()
    assert len(lines) > 1
    assert [line for line in lines if line.endswith(("...", "…"))] == []


def test_the_version_is_one_line(command: Command) -> None:
    done = command("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("fusion 0.")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["run"], ["run", "x", "--nonsense"], ["graph", "x", "--format", "png"]]
)
def test_words_that_are_not_understood_are_usage_errors(command: Command, words: list[str]) -> None:
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert "Usage: fusion" in done.err
    assert "Traceback" not in done.err


def test_our_own_fault_is_one_line_and_exit_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "check_file", _broken)
    done = command("validate", "plan-execute-review")
    assert (done.code, done.out) == (1, "")
    assert done.err == ("fusion: internal error: KeyError: 'lost'; `fusion --debug …` shows the traceback\n")
    done = command("--debug", "validate", "plan-execute-review")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "KeyError: 'lost'" in done.err


@pytest.mark.parametrize(("budget", "code"), [(None, 3), ({"tokens": 1}, 4)])
def test_a_run_that_fails_within_a_command_gives_it_its_exit_code(
    command: Command, monkeypatch: pytest.MonkeyPatch, budget: dict[str, int] | None, code: int
) -> None:
    def run(*_: object, **__: object) -> None:
        one = Pipeline(stages={"answer": Generate(prompt="write it")}, output="answer")
        with Fusion(profile="local", model=ScriptedModel(""), budget=budget) as fusion:
            fusion.complete(pipeline=one)

    monkeypatch.setattr(loader, "check_file", run)
    done = command("validate", "plan-execute-review")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("fusion: ")


def test_the_module_runs_as_the_command() -> None:
    assert apart("--version").out.startswith("fusion 0.")


def test_pipelines_and_profiles_are_completed() -> None:
    env = {"_FUSION_COMPLETE": "complete_bash", "COMP_WORDS": "fusion run plan-", "COMP_CWORD": "2"}
    assert "plan-execute-review" in apart(env=env).out.split()
    env = {"_FUSION_COMPLETE": "complete_bash", "COMP_WORDS": "fusion run x --profile lo", "COMP_CWORD": "4"}
    assert apart(env=env).out.split() == ["local"]


def test_run_ids_are_completed_and_no_store_is_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    words = {"_FUSION_COMPLETE": "complete_bash", "COMP_WORDS": "fusion resume 2", "COMP_CWORD": "2"}
    env = {**words, "FUSION_STORE": str(path)}
    assert apart(env=env).out.strip() == ""
    assert not path.exists()
    with Fusion(model=ScriptedModel("x"), store=path) as fusion:
        fusion.complete("do it", pipeline="single")
        [run] = fusion.runs.list()
    assert apart(env=env).out.split() == [run.run_id]
    assert apart(env={**env, "COMP_WORDS": "fusion resume none"}).out.strip() == ""


def _broken(*_: object, **__: object) -> None:
    raise KeyError("lost")
