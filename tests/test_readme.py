"""The README holds: its commands, pipelines and Python run as they are printed, and say what it says they do."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import fusion
from fusion import Pipeline
from fusion.cli.app import application
from fusion.cli.exits import EPILOG
from fusion.models.profiles import load_profiles
from fusion.prompts.library import shipped_root
from fusion.stages.registry import kinds

pytestmark = pytest.mark.needs("make")

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block, and what the one right behind it says, if that shows an output."""

    language: str
    text: str
    output: str | None


def blocks() -> list[Block]:
    found = [(match[1], match[2]) for match in _FENCE.finditer(TEXT)]
    outputs = [text if language == "text" else None for language, text in [*found[1:], ("", "")]]
    return [Block(*block, output) for block, output in zip(found, outputs, strict=True)]


PROSE = _FENCE.sub("", TEXT)
INLINE = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))


@dataclass(frozen=True)
class Desk:
    """A folder in which the README is worked through; `fusion` and `make` are commands there."""

    folder: Path

    def shell(self, text: str) -> str:
        """What a shell block prints, when every command of it goes well."""
        return self._run("bash", "-euo", "pipefail", "-c", text)

    def python(self, text: str) -> str:
        (self.folder / "block.py").write_text(text)
        return self._run("fusion-python", "block.py")

    def write(self, text: str) -> str:
        """Write a pipeline into the file that has its name."""
        path = self.folder / f"{Pipeline.from_yaml(text).name}.yaml"
        path.write_text(text)
        return path.name

    def command(self, name: str, *words: str) -> None:
        """Make a command of this name, which is really another one."""
        (self.folder / "bin").mkdir(exist_ok=True)
        script = self.folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)

    def _run(self, *words: str) -> str:
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(self.folder),
        }
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """`make` says what it would do; `fusion` runs on scripted models behind every profile."""
    made = Desk(tmp_path)
    made.command("make", str(shutil.which("make")), "--always-make", "--dry-run", "--directory", str(ROOT))
    for name in ("fusion", "fusion-python"):
        made.command(name, sys.executable, "-m", "tests.answering")
    return made


# The blocks.


def test_it_is_worked_through_from_top_to_bottom_as_it_is_printed(desk: Desk) -> None:
    worked = dict.fromkeys(("sh", "yaml", "python", "toml"), 0)
    for block in blocks():
        if block.language == "text":
            continue
        said = work_through(desk, block)
        assert block.output is None or said == block.output
        worked[block.language] += 1
    assert min(worked.values()) >= 1
    assert worked["sh"] >= 2
    assert (desk.folder / "answer.json").read_text().startswith('{"invoices": [{"supplier": "Nordic Paper"')


def work_through(desk: Desk, block: Block) -> str:
    match block.language:
        case "sh":
            return desk.shell(block.text)
        case "python":
            return desk.python(block.text)
        case "yaml":
            return desk.shell(f"fusion validate {desk.write(block.text)}")
        case "toml":
            (desk.folder / "settings").mkdir()
            (desk.folder / "settings" / "fusion.toml").write_text(block.text)
            return desk.shell(
                "cd settings && fusion models | grep '(endpoint)  *vllm  *VLLM_KEY: not set  *free  *free'"
            )
    raise AssertionError(f"a block in {block.language!r}: nobody checks that")


@pytest.mark.local
def test_a_readers_own_pipeline_gives_what_is_printed_on_the_embedded_models(desk: Desk) -> None:
    desk.command("fusion", sys.executable, "-m", "fusion")
    for block in blocks():
        if block.language == "yaml" or "cat > notes.txt" in block.text:
            work_through(desk, block)
        elif block.text == "fusion run invoices.yaml < notes.txt\n":
            assert desk.shell(block.text) == block.output
            return
    raise AssertionError("the README runs no pipeline of the reader's own")


def test_the_pipeline_that_ships_is_printed_as_it_is() -> None:
    printed = {Pipeline.from_yaml(block.text).name: block.text for block in blocks() if block.language == "yaml"}
    shipped = Pipeline.load(shipped_root() / "pipelines" / "plan-execute-review.yaml")
    assert Pipeline.from_yaml(printed[shipped.name]) == shipped


def test_a_first_pipeline_of_ones_own_takes_ten_commands_at_most() -> None:
    section = TEXT.partition("## Your own pipeline in ten minutes\n")[2].partition("With a provider's\nkey")[0]
    given = "".join(text for language, text in _FENCE.findall(section) if language == "sh")
    commands = [line for line in given.splitlines() if line.startswith(("fusion ", "cat "))]
    assert commands[1].startswith("fusion new ")
    assert commands[-1] == "fusion run invoices.yaml < notes.txt"
    assert len(commands) <= 10


# Set-up.


def test_set_up_is_two_commands() -> None:
    assert next(block.text for block in blocks()) == "make demo\nmake test\n"


def recipe(target: str) -> list[str]:
    """What `make` would do for a target on a fresh machine."""
    words = ["make", "--always-make", "--dry-run", "--no-print-directory", target]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON"))}
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    return [line for line in done.stdout.splitlines() if "sys.version_info" not in line]


def set_up(target: str, lock: str) -> list[str]:
    """The recipe's first commands, which end when they have marked the environment; they install this lock."""
    lines = recipe(target)
    marked = next(number for number, line in enumerate(lines) if line.startswith("touch "))
    assert lines[:3] == [
        "python3 -m venv .venv",
        f".venv/bin/python -m pip install --quiet --no-compile --require-hashes --requirement {lock}",
        ".venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .",
    ]
    return lines[: marked + 1]


def test_make_demo_sets_up_fetches_the_models_and_runs_the_demo() -> None:
    first = set_up("demo", ".ci/requirements.txt")
    assert first[-1] == "touch .venv/.demo"
    assert recipe("demo") == [*first, ".venv/bin/fusion models pull small strong", ".venv/bin/fusion demo"]


def test_make_test_sets_up_more_in_the_same_place_and_runs_every_test() -> None:
    pull = ".venv/bin/fusion models pull tiny small strong"
    first = set_up("test", ".ci/requirements-dev.txt")
    assert first[-1] == "touch .venv/.demo .venv/.test"
    assert recipe("test") == [*first, pull, ".venv/bin/python -m pytest"]


def test_the_gate_is_check_and_test() -> None:
    gate = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert gate == ["make clean", "make check", "make test"]
    assert recipe("check")[len(set_up("check", ".ci/requirements-dev.txt")) :] == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
    ]


# The prose.


@pytest.mark.parametrize("words", [words for words in INLINE if words.startswith("make ")])
def test_targets_in_the_prose_are_there(words: str) -> None:
    assert recipe(words.split()[1])


@pytest.mark.parametrize("words", [words for words in INLINE if words.startswith("fusion ")])
def test_commands_in_the_prose_are_there(words: str) -> None:
    if words in (ROOT / "Makefile").read_text():
        return  # and so `make` runs it
    command, rest = application_command(), words.split()[1:]
    while rest and not rest[0].startswith("-") and commands(command):
        command = commands(command)[rest.pop(0)]
    assert {word for word in rest if word.startswith("-")} <= options(command)


@pytest.mark.wheel
@pytest.mark.parametrize("words", [words for words in INLINE if words.startswith("pip ")])
def test_installs_in_the_prose_would_install_it(words: str) -> None:
    quick = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(words), *quick], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert f"Would install compound-fusion-{fusion.__version__}" in done.stdout


def test_options_in_the_prose_are_there() -> None:
    told = {words.split()[0] for words in INLINE if re.match(r"--?[a-z]", words)}
    assert told
    assert told <= options(application_command())


def application_command() -> Any:
    return typer.main.get_command(application())


def commands(command: Any) -> dict[str, Any]:
    return getattr(command, "commands", {})


def options(command: Any) -> set[str]:
    """The options of a command and of all below it."""
    below = (options(one) for one in commands(command).values())
    own = (option for parameter in command.params for option in parameter.opts)
    return {*own, *command.context_settings.get("help_option_names", [])}.union(*below)


def table(heading: str) -> Iterator[list[str]]:
    """The rows of the table whose first column has this heading, without their code marks."""
    found = re.search(rf"^\| {heading} \|.*\n\|[- |]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found is not None
    for line in found[1].splitlines():
        yield [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


def test_the_kinds_are_those_that_there_are() -> None:
    fields = {kind: [field.name for field in cls.outputs] for kind, cls in kinds().items()}
    assert {kind: said.split(", ") for kind, _, said in table("kind")} == fields


def test_the_profiles_are_those_that_there_are_and_in_their_order() -> None:
    rows = []
    for name, one in load_profiles().items():
        variables = ", ".join(one.keys) or (f"those of {one.providers} others" if one.providers else "none")
        rows.append([name, variables, "when asked for" if one.explicit else "when set" if one.keys else "else"])
    assert list(table("profile")) == rows


def test_the_exit_codes_are_those_of_the_help() -> None:
    in_help = set(re.findall(r"^  (\d+) ", EPILOG, re.MULTILINE))
    assert {code for code, _ in table("code")} == in_help
