"""The README and the docs hold: every block runs as it is printed, and every name in the prose exists."""

import functools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import fusion
from fusion import Pipeline, ScriptedModel
from fusion.bench.suite import json_schema as suite_schema
from fusion.cli.app import application
from fusion.client.telemetry import names
from fusion.core.config import SettingsFile
from fusion.core.errors import BadRequestError
from fusion.pipeline.json_schema import json_schema as pipeline_schema
from fusion.prompts.library import shipped_root
from tests.docs.forks import forking
from tests.docs.pages import DOCS, MADE, QUICKSTART, README, REPOSITORY, ROOT, WRITTEN, Desk, Page

pytestmark = pytest.mark.needs("make")

TRACED = {value for value in vars(names).values() if isinstance(value, str)}
"""Names of attributes and metrics of traces."""
by_name = {"argvalues": [*WRITTEN, *MADE], "ids": lambda page: page.name}


def having(words: str, pages: list[Page]) -> dict[str, Any]:
    """The pages whose code marks hold something that begins so."""
    found = [page for page in pages if any(one.startswith(words) for one in page.inline)]
    assert found
    return {"argvalues": found, "ids": lambda page: page.name}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words of a command that runs Fusion on scripted models behind every profile."""
    with forking(tmp_path_factory.mktemp("forks"), ROOT) as words:
        yield words


# The blocks.


@pytest.mark.parametrize("page", [page for page in WRITTEN if page.blocks], ids=lambda page: page.name)
def test_a_page_is_worked_through_from_top_to_bottom_as_it_is_printed(
    page: Page, scripted: list[str], tmp_path: Path
) -> None:
    desk = Desk.scripted(tmp_path, scripted)
    if "/how-to/" in page.name:
        desk.lay_out(QUICKSTART)
        (tmp_path / "read.json").write_text('[{"supplier": "Nordic Paper", "amount": 1180.5}]')
    for block in page.blocks:
        if block.language == "text":
            continue
        printed = desk.work_through(block)
        assert block.output is None or printed == block.output
    if "-o answer.json" in page.text:
        assert (tmp_path / "answer.json").read_text().startswith('{"invoices": [{"supplier": "Nordic Paper"')


def test_the_example_of_the_readme_handles_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = ScriptedModel(BadRequestError("no such thing"), name="scripted/failing")
    whole = fusion.Fusion.__init__
    monkeypatch.setattr(fusion.Fusion, "__init__", functools.partialmethod(whole, model=failing))
    monkeypatch.chdir(tmp_path)
    (yaml,) = (block for block in README.blocks if block.language == "yaml")
    Desk(tmp_path).write(yaml.text)
    (tmp_path / "two.txt").write_text("Nordic Paper asks for 5.00\n")
    (python,) = (block for block in README.blocks if block.language == "python")
    exec(compile(python.text, "README.md", "exec"), {})
    assert re.fullmatch(r".*no such thing.*; it cost \$0\.?0*\n", capsys.readouterr().out)


@pytest.mark.parametrize("page", [page for page in MADE if page.blocks], ids=lambda page: page.name)
def test_the_pipelines_of_a_made_page_can_be_run(page: Page) -> None:
    for block in page.blocks:
        if block.language == "yaml":
            fusion.Fusion(profile="local").load(Pipeline.from_yaml(block.text))


@pytest.mark.local
def test_the_readme_prints_what_the_embedded_models_answer(tmp_path: Path) -> None:
    desk = Desk.scripted(tmp_path, [sys.executable, "-m", "fusion"])
    (yaml,) = (block for block in README.blocks if block.language == "yaml")
    desk.work_through(yaml)
    (run,) = (block for block in README.blocks if "fusion run total.yaml" in block.text)
    assert desk.work_through(run) == run.output


def test_the_pipeline_that_ships_is_printed_as_it_is() -> None:
    page = Page("docs/pages/how-to/write-a-pipeline.md")
    (printed,) = (Pipeline.from_yaml(block.text) for block in page.blocks if block.language == "yaml")
    assert printed == Pipeline.load(shipped_root() / "pipelines" / "plan-execute-review.yaml")


def test_a_first_pipeline_of_ones_own_takes_ten_commands_at_most() -> None:
    given = "".join(block.text for block in QUICKSTART.blocks if block.language == "sh")
    lines = given.partition("export ANTHROPIC")[0].splitlines()
    commands = [line for line in lines if line.startswith(("fusion ", "cat "))][2:]
    assert commands[0].startswith("cat > notes.txt")
    assert commands[1].startswith("fusion new ")
    assert commands[-1] == "fusion run invoices.yaml < notes.txt"
    assert len(commands) <= 10


def test_the_readme_shows_ten_lines_of_each_language() -> None:
    for language in ("yaml", "python"):
        (block,) = (block for block in README.blocks if block.language == language)
        assert len([line for line in block.text.splitlines() if line]) <= 10


# The prose.


@pytest.mark.parametrize("page", **having("make ", WRITTEN))
def test_targets_in_the_prose_are_there(page: Page) -> None:
    for words in page.inline:
        if words.startswith("make "):
            subprocess.run(["make", "--dry-run", words.split()[1]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", **having("fusion ", [README, *DOCS]))
def test_commands_in_the_prose_are_there(page: Page) -> None:
    for words in page.inline:
        if words.startswith("fusion ") and words not in (ROOT / "Makefile").read_text():
            command, rest = command_of(words.split()[1:])
            assert {word for word in rest if word.startswith("-")} <= options(command), words


@pytest.mark.parametrize("page", **having("-", WRITTEN))
def test_options_in_the_prose_are_there(page: Page) -> None:
    named = {words.split()[0] for words in page.inline if re.match(r"--?[a-z]", words)}
    assert named <= options(typer.main.get_command(application()))


@pytest.mark.wheel
def test_installs_in_the_prose_would_install_it() -> None:
    quick = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    found = {words for page in WRITTEN for words in page.inline if words.startswith("pip ")}
    assert len(found) >= 3
    for words in found:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(words), *quick], cwd=ROOT, check=True, capture_output=True, text=True
        )
        assert f"Would install compound-fusion-{fusion.__version__}" in done.stdout


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_keys_in_the_prose_are_there(page: Page) -> None:
    named = {found[1] for words in page.inline if (found := re.fullmatch(r"([a-z_]+):(?: .*)?", words))}
    assert named <= keys()


@pytest.mark.parametrize("page", **by_name)
def test_variables_in_the_prose_are_there(page: Page) -> None:
    told = {one for words in page.inline for one in re.findall(r"FUSION_[A-Z_]+", words)}
    assert told <= {variable for variable, _ in Page("docs/pages/reference/settings.md").table("variable")}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_python_names_in_the_prose_are_there(page: Page) -> None:
    for words in page.inline:
        if words in TRACED or words.startswith((names.TAG, names.ROWS)):
            continue
        if found := re.match(r"fusion\.(?!toml\b)([\w.]+)", words):
            named: Any = fusion
            for name in found[1].split("."):
                named = getattr(named, name) if named is not fusion or name != "stages" else Pipeline
        elif found := re.match(r"Fusion\(\)\.(\w+)", words):
            assert hasattr(fusion.Fusion, found[1]), words


@pytest.mark.parametrize("page", **by_name)
def test_links_inside_the_project_lead_somewhere(page: Page) -> None:
    for link in page.links:
        for prefix in (f"{REPOSITORY}/blob/main/", "https://raw.githubusercontent.com/compound-fusion/fusion/main/"):
            link = link.replace(prefix, f"{ROOT}/")
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path) if path else page.path
        assert target.exists(), link
        if anchor:
            assert anchor in Page(target.resolve().relative_to(ROOT).as_posix()).anchors, link


def test_links_of_the_readme_hold_on_a_package_index() -> None:
    assert [link for link in README.links if not link.startswith("https://")] == []


_OPENINGS = r"(?:^|[.:!?|>-] +|\n)(?:What|How|Where|Whether|Who|Whoever)\b"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_sentences_are_plain(page: Page) -> None:
    joined = re.sub(r"(?<!\n)\n(?![\n|#]|- )", " ", page.prose)
    prose = re.sub(r"`[^`]*`", "x", joined)
    assert re.findall(_OPENINGS, prose) == []
    assert re.findall(r"\b(?:[Nn]obody|[Ss]omebody|[Ww]hoever|is none)\b", prose) == []


def test_the_readme_and_the_how_to_pages_are_short() -> None:
    assert README.text.count("\n") <= 220
    for page in DOCS:
        if "/how-to/" in page.name:
            assert page.text.count("\n") <= 150, page.name


def test_every_page_is_in_the_navigation_once() -> None:
    nav = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(leaves(nav)) == sorted(page.name.removeprefix("docs/pages/") for page in DOCS)


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for one in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(one)]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words name, and the words behind its name."""
    command = typer.main.get_command(application())
    while words and not words[0].startswith("-") and not words[0].isupper() and hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options(command: Any) -> set[str]:
    """The options of a command and of all below it."""
    below = (options(one) for one in getattr(command, "commands", {}).values())
    own = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    return {*own, *command.context_settings.get("help_option_names", [])}.union(*below)


@cache
def keys() -> set[str]:
    """The keys of pipelines, suites and settings, however deep."""
    return {
        name
        for schema in (pipeline_schema(), suite_schema(), SettingsFile.model_json_schema())
        for name in keys_in(schema)
    } | {"any"}


def keys_in(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(keys_in, schema))
    if not isinstance(schema, dict):
        return set()
    own = schema.get("properties", {})
    return {*(own if isinstance(own, dict) else ())}.union(*map(keys_in, schema.values()))
