"""The command as a whole: help, version, exit codes, what is loaded, what is said of our own faults."""

import sys

import pytest

from fusion import Fusion, Generate, Pipeline, ScriptedModel
from fusion.pipeline import check as graph
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
    monkeypatch.setattr(graph, "check_file", _broken)
    done = command("validate", "plan-execute-review")
    assert (done.code, done.out) == (1, "")
    assert done.err == ("fusion: a fault of Fusion's own: KeyError: 'lost'; `fusion --debug …` shows the traceback\n")
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

    monkeypatch.setattr(graph, "check_file", run)
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


def _broken(*_: object, **__: object) -> None:
    raise KeyError("lost")
