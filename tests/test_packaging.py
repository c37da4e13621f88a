"""The project as it is shipped: locks, metadata, wheel and sdist, and that it works wherever it is installed."""

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fusion
from tests.needs import missing

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = ROOT / ".ci" / "requirements.txt"
DEV_LOCK = ROOT / ".ci" / "requirements-dev.txt"
REPOSITORY = PROJECT["project"]["urls"]["Repository"]
LICENCES = PROJECT["project"]["license-files"]
LIBRARY = "fusion/_library/"
EXTRAS = ("local", "parquet", "server", "otel", "mcp", "monty", "postgres", "ray", "bench")
APART = Path("benchmarks", "clients", "jobs")
"""Jobs of clients, each in an environment of its own."""

# What a user who sits elsewhere may do: run a shipped pipeline, with its shipped templates, on models of his own.
SCRIPT = """
import json
from fusion import Fusion, Request, ScriptedModel

PART = {"title": "t", "instructions": "count to three", "needs": [], "difficulty": 1, "capabilities": [],
        "expected_output": "a line", "criteria": []}
PLAN = {"goal": "g", "constraints": [], "merge_instructions": "m", "subtasks": [PART]}

def answer(request: Request) -> str:
    words = "".join(message.content for message in request.messages)
    if "You are the planner" in words:
        return json.dumps(PLAN)
    if "You are the reviewer" in words:
        return json.dumps({"issues": [], "verdict": "accept"})
    return "one two three" if "count to three" in words else "all of: one" if "one two three" in words else "?"

model = ScriptedModel(answer, name="scripted/all")
with Fusion(profile="local", model=model) as fusion:
    result = fusion.complete("count", pipeline="plan-execute-review")
print(result.status, result.text, len(model.requests))
"""

# A pipeline that shows a model its input and nothing else, as recordings are asked.
ASK = """
inputs: {question: {}}
stages: {answer: {kind: generate, role: bulk, prompt: generate/pass-through}}
output: answer
"""

# The public API as a user's type checker sees it; what is wrong in it has to be seen as well.
TYPED = """
import asyncio
from decimal import Decimal
from typing import assert_type

from pydantic import BaseModel

from fusion import Cost, Fusion, Generate, InputSpec, Item, Map, Pipeline, Request, Result, RunFailed, ScriptedModel
from fusion import complete

class Town(BaseModel):
    name: str

def answer(request: Request) -> str:
    return request.messages[0].content

pipeline = Pipeline(
    name="towns",
    inputs={"task": InputSpec()},
    stages={"work": Map(over="inputs.task"), "answer": Generate(prompt="{{ work }}")},
    output="answer",
)
with Fusion(roles={"bulk": ScriptedModel(answer, name="scripted/bulk")}, budget={"usd": 0.5}) as fusion:
    result = fusion.complete("hello", pipeline=pipeline, schema=Town)
    assert_type(result, Result)
    assert_type(result.cost, Cost)
    assert_type(result.cost.usd, Decimal)
    assert_type(result.items, tuple[Item, ...])
    for piece in fusion.stream("hello", pipeline=pipeline):
        assert_type(piece, str)

async def later() -> Result:
    return await fusion.acomplete("hello", inputs={"context": "there"})

try:
    assert_type(asyncio.run(later()), Result)
except RunFailed as failed:
    assert_type(failed.result, Result)
complete("hello", pipline="typo")
Fusion(profile=5)
"""


# What is declared.


def requirements(*extras: str) -> list[Requirement]:
    """What the project needs itself, and for these extras."""
    project = PROJECT["project"]
    named = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    return [Requirement(one) for one in named]


@pytest.mark.parametrize(
    "requirement",
    [*requirements(*EXTRAS, "dev"), *map(Requirement, ["hatchling>=1.27"])],
    ids=str,
)
def test_every_dependency_has_a_floor_and_is_not_below_it_here(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert operators <= {">=", "<"}
    assert version(requirement.name) in requirement.specifier


def test_the_build_needs_nothing_that_the_development_extra_lacks() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["project"]["optional-dependencies"]["dev"])


def imported(*folders: str) -> set[str]:
    """The distributions of every import in these folders that is neither the standard library's nor our own."""
    owners = packages_distributions()
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / APART):
                continue
            for name in imports_of(path) - sys.stdlib_module_names - {"fusion", "tests", "benchmarks"}:
                found.add(canonicalize_name(owners[name][0]))
    return found


def imports_of(path: Path) -> set[str]:
    """The top names of all that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def declared(*extras: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements(*extras)}


def test_what_the_package_imports_is_what_it_declares() -> None:
    parts = {"pydantic-core", "llm", "pydantic-monty-client"}  # halves that others pin; the host of a plug-in
    unseen = {"uvloop", "opentelemetry-sdk", "pydantic-monty"}  # of uvicorn; below the exporter; of its client
    assert imported("fusion") - parts == declared(*EXTRAS) - unseen


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    assert imported("tests", "benchmarks") <= declared(*EXTRAS, "dev") | {"pydantic-core"}


# The locks.


def locked(lock: Path) -> dict[str, list[tuple[str, str]]]:
    """The versions of each name in a lock, each with its entry."""
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE))
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in filter(None, entries):
        head = re.match(r"([a-z0-9-]+)==([^ ;]+)", entry)
        assert head is not None, entry
        found.setdefault(head[1], []).append((head[2], entry))
    return found


@pytest.mark.parametrize(
    ("lock", "requirement"),
    [
        *((DEV_LOCK, requirement) for requirement in requirements(*EXTRAS, "dev")),
        *((LOCK, requirement) for requirement in requirements("local", "server")),
        *((LOCK, Requirement(backend)) for backend in PROJECT["build-system"]["requires"]),
    ],
    ids=str,
)
def test_a_lock_holds_every_dependency_in_a_version_that_is_allowed(lock: Path, requirement: Requirement) -> None:
    versions = locked(lock).get(canonicalize_name(requirement.name), [])
    assert versions
    assert all(pinned in requirement.specifier for pinned, _ in versions)


def test_the_smaller_lock_is_a_part_of_the_larger_one() -> None:
    """So that installing the larger one adds to the environment of the smaller one."""
    hashes = {name: [(pinned, sums(entry)) for pinned, entry in found] for name, found in locked(DEV_LOCK).items()}
    assert len(locked(LOCK)) < 0.7 * len(hashes)
    for name, found in locked(LOCK).items():
        assert [(pinned, sums(entry)) for pinned, entry in found] == hashes[name]


def sums(entry: str) -> list[str]:
    return re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)


def test_the_smaller_lock_holds_nothing_of_tests_and_benchmarks() -> None:
    assert not {"pytest", "mypy", "matplotlib", "numpy", "scipy", "sympy", "zensical"} & set(locked(LOCK))


@pytest.mark.parametrize("lock", [LOCK, DEV_LOCK], ids=lambda lock: lock.name)
def test_a_lock_has_hashes_for_everything(lock: Path) -> None:
    for versions in locked(lock).values():
        for _, entry in versions:
            assert sums(entry), entry


@pytest.mark.parametrize("lock", [LOCK, DEV_LOCK], ids=lambda lock: lock.name)
def test_a_lock_names_no_address_and_no_place(lock: Path) -> None:
    text = lock.read_text()
    assert "make lock" in text.splitlines()[1]
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted| @ |^-|(^|\s)/", text, re.MULTILINE)


# The description and its links.

_LINK = re.compile(r"\]\(([^)\s]+)|<(?:a|img|source)\s[^>]*?(?:href|src|srcset)=\"([^\"]+)\"")
_OURS = re.compile(
    rf"{REPOSITORY}/(?:blob|tree|raw)/main/([^#?]+)|https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)"
)


def links(text: str) -> list[str]:
    return [markdown or html for markdown, html in _LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))]


def headings(text: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_of_the_description_hold_on_a_package_index() -> None:
    """Each is absolute, or a heading of the page itself; those to the repository's files name one that exists."""
    text = (ROOT / "README.md").read_text()
    assert links(text)
    for link in links(text):
        assert link.startswith("https://") or link in headings(text), link
        if ours := _OURS.match(link):
            assert (ROOT / (ours[1] or ours[2])).exists(), link


def test_the_projects_addresses_name_files_that_are_there() -> None:
    urls = PROJECT["project"]["urls"]
    assert set(urls) == {"Repository", "Documentation", "Changelog", "Issues"}
    assert urls["Changelog"] == f"{REPOSITORY}/blob/main/CHANGELOG.md"
    assert all(url.startswith("https://") for url in urls.values())


def test_the_classifiers_name_every_python_that_is_tested() -> None:
    named = [one for one in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert named == [f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)]


# The licences of others.


def test_every_task_set_of_others_has_its_licence_shipped() -> None:
    data = ROOT / "benchmarks" / "data"
    table = (data / "README.md").read_text()
    notices = (data / "LICENSE-MIT").read_text()
    for path in sorted(kept("benchmarks/data")):
        name = path.removeprefix("benchmarks/data/")
        if name == "README.md" or "LICENSE" in name:
            assert name == "README.md" or path in LICENCES
            continue
        (licence,) = re.findall(rf"^\| `{re.escape(name)}` .*\| ([^|]+) \|$", table, re.MULTILINE)
        assert licence.startswith(("MIT", "Apache-2.0"))
        assert "MIT" not in licence or name in notices, name


# Wheel and sdist.


@dataclass(frozen=True)
class Built:
    """A wheel from the checkout, a source distribution, and a wheel made from that."""

    wheel: Path
    sdist: Path
    again: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    straight, round_about = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("round")
    build("--wheel", "--outdir", str(straight))
    build("--outdir", str(round_about))
    return Built(*straight.glob("*.whl"), *round_about.glob("*.tar.gz"), *round_about.glob("*.whl"))


def build(*words: str, root: Path = ROOT) -> None:
    """Build the project with what is installed: nothing is fetched."""
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", *words, str(root)], check=True, env=clean())


def clean(**more: str) -> dict[str, str]:
    """This environment without what would lead to this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def kept(*folders: str) -> set[str]:
    """The files of these folders that the project keeps: git's list, or all of an unpacked sdist."""
    if (ROOT / ".git").exists():
        if reason := missing("git"):
            pytest.skip(reason)
        listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True)
        return set(filter(None, listed.stdout.decode().split("\0")))
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


@pytest.mark.wheel
def test_the_wheel_ships_prompts_and_pipelines_as_they_are_kept_and_nothing_else(built: Built) -> None:
    inside = names(built.wheel)
    assert {name.removeprefix(LIBRARY) for name in inside if name.startswith(LIBRARY)} == kept("prompts", "pipelines")
    info = {name for name in inside if ".dist-info/" in name}
    assert {name for name in inside - info if not name.startswith(LIBRARY)} == kept("fusion")
    assert {"fusion/py.typed", "fusion/models/profiles/profiles.toml"} < inside
    assert {name.rpartition(".dist-info/")[2] for name in info} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", *(f"licenses/{path}" for path in LICENCES),
    }  # fmt: skip


@pytest.mark.wheel
def test_the_wheel_holds_the_licences_as_they_are_kept(built: Built) -> None:
    for path in LICENCES:
        assert metadata(built.wheel, f"licenses/{path}") == (ROOT / path).read_text()


@pytest.mark.wheel
def test_a_package_index_takes_both_and_shows_the_description(built: Built) -> None:
    words = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(built.sdist), str(built.wheel)]
    done = subprocess.run(words, capture_output=True, text=True, env=clean())
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


@pytest.mark.wheel
def test_the_sdist_builds_the_same_wheel(built: Built) -> None:
    assert built.again.name == built.wheel.name
    assert names(built.again) == names(built.wheel)
    with zipfile.ZipFile(built.again) as again, zipfile.ZipFile(built.wheel) as straight:
        assert {name: again.read(name) for name in again.namelist()} == {
            name: straight.read(name) for name in straight.namelist()
        }


@pytest.mark.wheel
def test_what_git_ignores_is_not_shipped(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    (unpacked / "prompts" / "map" / "__pycache__").mkdir()
    for name in ("prompts/map/__pycache__/old.md.j2", "pipelines/old.pyc", "fusion/old.pyc"):
        (unpacked / name).write_text("old")
    build("--wheel", "--outdir", str(tmp_path / "dist"), root=unpacked)
    assert names(*(tmp_path / "dist").iterdir()) == names(built.wheel)


@pytest.mark.wheel
def test_the_sdist_holds_what_make_needs(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert kept("tests", "benchmarks", "prompts", "pipelines", "fusion") <= inside
    assert {"pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", *LICENCES} <= inside
    assert kept(".ci", ".github", "docs") <= inside


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(
            next(entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}"))
        ).decode()


@pytest.mark.wheel
def test_the_metadata_says_what_it_is(built: Built) -> None:
    said: Message = Parser().parsestr(metadata(built.wheel, "METADATA"))
    assert (said["Name"], said["License-Expression"]) == ("compound-fusion", "Apache-2.0")
    assert said["Requires-Python"] == ">=3.11"
    assert sorted(said.get_all("Provides-Extra", [])) == sorted([*EXTRAS, "dev"])
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_all("License-File") == LICENCES
    assert f"Changelog, {REPOSITORY}/blob/main/CHANGELOG.md" in said.get_all("Project-URL", [])
    assert "fusion = fusion.__main__:main" in metadata(built.wheel, "entry_points.txt")


# Installed, in new environments, far from the checkout.


@dataclass(frozen=True)
class Place:
    """An environment in which the project is found in one way: its Python, its command, where the package lies."""

    python: Path
    command: tuple[str, ...]
    package: Path
    env: dict[str, str]
    elsewhere: Path

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(words, cwd=self.elsewhere, env=self.env, capture_output=True, text=True, timeout=120)

    def fusion(self, *words: str) -> str:
        """What the command says on standard output, when it goes well and says nothing else."""
        done = self.run(*self.command, *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


def environment(folder: Path) -> tuple[Path, Path]:
    """Python and site-packages of a new environment that has the dependencies that are installed here.

    They stand behind its own on the path, and no `.pth` of theirs is read: an editable install of the project
    here is not one there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, env=clean())
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    here = dict.fromkeys(str(Path(owner).resolve()) for owner in sys.path if owner.endswith("-packages"))
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")
    return python, site


def install(python: Path, *words: str) -> None:
    given = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*given, "--no-build-isolation", "--ignore-installed", *words], check=True, env=clean())


@pytest.fixture(scope="module", params=["wheel", "editable", "checkout"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(request.param)
    python, site = environment(folder / "environment")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    env = clean(XDG_CONFIG_HOME=str(folder), FUSION_MODELS_DIR=str(folder / "models"))
    script = (str(python.with_name("fusion")),)
    if request.param == "wheel":
        install(python, str(request.getfixturevalue("built").wheel))
        return Place(python, script, site / "fusion", env, elsewhere)
    if request.param == "editable":
        install(python, "--editable", str(ROOT))
        return Place(python, script, ROOT / "fusion", env, elsewhere)
    env["PYTHONPATH"] = str(ROOT)
    return Place(python, (str(python), "-m", "fusion"), ROOT / "fusion", env, elsewhere)


@pytest.mark.wheel
class TestEverywhere:
    def test_the_package_is_the_one_that_was_put_there(self, place: Place) -> None:
        done = place.run(str(place.python), "-c", "import fusion; print(fusion.__file__)")
        assert (done.stdout, done.stderr) == (f"{place.package / '__init__.py'}\n", "")

    def test_the_command_knows_its_version(self, place: Place) -> None:
        assert place.fusion("--version") == f"fusion {fusion.__version__}\n"

    def test_the_recorded_demo_is_played_without_weights(self, place: Place) -> None:
        assert "| North Quay | Ingrid Solberg | 18,420 | 2 |" in place.fusion("demo", "--recorded", "-q")

    def test_shipped_pipelines_are_found(self, place: Place) -> None:
        assert place.fusion("validate", "plan-execute-review") == "plan-execute-review: ok\n"
        assert "review" in place.fusion("graph", "plan-execute-review")

    def test_the_schema_is_the_shipped_one(self, place: Place) -> None:
        assert place.fusion("schema") == (ROOT / "pipelines" / "pipeline.schema.json").read_text()

    def test_models_and_profiles_are_listed(self, place: Place) -> None:
        assert "local/small" in place.fusion("models")

    def test_a_shipped_pipeline_runs_with_its_shipped_templates(self, place: Place) -> None:
        done = place.run(str(place.python), "-W", "error", "-c", SCRIPT)
        assert (done.stdout, done.stderr) == ("ok all of: one 4\n", "")

    def test_a_users_type_checker_sees_the_public_api(self, place: Place) -> None:
        script = place.elsewhere / "typed.py"
        script.write_text(TYPED)
        words = ("-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(place.elsewhere / "cache"))
        done = place.run(sys.executable, *words, "--python-executable", str(place.python), str(script))
        assert done.stderr == ""
        lines = [line for line in done.stdout.splitlines() if "error:" in line]
        assert [line.partition("error: ")[2].partition(";")[0] for line in lines] == [
            'Unexpected keyword argument "pipline" for "complete"',
            'Argument "profile" to "Fusion" has incompatible type "int"',
        ]


# Without extras: the wheel and what it declares, nothing else.


def link_dependencies(site: Path) -> None:
    """Link the installed distributions that the project declares, without extras, and all that these declare."""
    waiting, seen = requirements(), set[str]()
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        here = f"{canonicalize_name(requirement.name)}{sorted(extras)}"
        if here in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(here)
        installed = distribution(requirement.name)
        for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
        declared = [Requirement(one) for one in installed.requires or ()]
        waiting += [
            Requirement(str(one).partition(";")[0])
            for one in declared
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""})
        ]


@pytest.fixture(scope="module")
def bare(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with the wheel, a recording of a model in the working directory, and no extra."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True, env=clean())
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    link_dependencies(site)
    install(python, str(built.wheel))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    reply = {"text": "This.", "prompt_tokens": 10, "completion_tokens": 100}
    (elsewhere / "said.jsonl").write_text(json.dumps({"id": "a", "prompt": "What?", "responses": {"m": reply}}))
    (elsewhere / "items.jsonl").write_text(json.dumps({"prompt": "What?", "gold": "This."}))
    (elsewhere / "own.gguf").write_bytes(b"GGUF")
    (elsewhere / "ask.yaml").write_text(ASK)
    places = {"XDG_CONFIG_HOME": folder, "FUSION_MODELS_DIR": folder / "models", "FUSION_STORE": folder / "runs.db"}
    env = clean(**{name: str(path) for name, path in places.items()})
    return Place(python, (str(python.with_name("fusion")),), site / "fusion", env, elsewhere)


@pytest.mark.wheel
class TestWithoutExtras:
    def test_no_extra_is_there(self, bare: Place) -> None:
        code = "import importlib.util as u, sys; print([name for name in sys.argv[1:] if u.find_spec(name)])"
        done = bare.run(
            str(bare.python), "-c", code, "xllamacpp", "pyarrow", "matplotlib", "numpy", "sympy", "pytest", "litellm"
        )
        assert (done.stdout, done.stderr) == ("['litellm']\n", "")

    def test_help_and_validation_work(self, bare: Place) -> None:
        assert "fusion" in bare.fusion("--help")
        assert bare.fusion("validate", "plan-execute-review") == "plan-execute-review: ok\n"

    def test_scripted_models_run_a_shipped_pipeline(self, bare: Place) -> None:
        done = bare.run(str(bare.python), "-W", "error", "-c", SCRIPT)
        assert (done.stdout, done.stderr) == ("ok all of: one 4\n", "")

    def test_a_recorded_model_answers(self, bare: Place) -> None:
        done = bare.run(*bare.command, "run", "ask.yaml", "What?", "--model", "replay:said.jsonl#m", "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "This.\n", "")

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (("run", "single", "hi", "--model", "local:own.gguf"), "pip install 'compound-fusion[local]'"),
            (
                ("bench", "items.jsonl", "--model", "replay:said.jsonl#m", "--scorer", "exact"),
                "a benchmark needs numpy and matplotlib; install the extra: pip install 'compound-fusion[bench]'",
            ),
            (
                ("map", "single", "items.jsonl", "--on", "ray", "--model", "replay:said.jsonl#m"),
                "pip install 'compound-fusion[ray]'",
            ),
        ],
    )
    def test_a_missing_extra_is_named(self, bare: Place, words: tuple[str, ...], hint: str) -> None:
        done = bare.run(*bare.command, *words)
        assert done.returncode == 2
        assert hint in done.stderr
        assert "Traceback" not in done.stderr
