"""Set-up is what the README says: two commands, which install from the lock and run the demo or the tests."""

import os
import subprocess

import pytest

from tests.docs.pages import README, ROOT

pytestmark = pytest.mark.needs("make")


def test_set_up_is_two_commands() -> None:
    assert README.blocks[0].text == "make demo\nmake test\n"


def recipe(target: str) -> list[str]:
    """What `make` would do for a target on a fresh machine."""
    words = ["make", "--always-make", "--dry-run", "--no-print-directory", target]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON"))}
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    return [line for line in done.stdout.splitlines() if "sys.version_info" not in line]


def set_up(target: str, lock: str) -> list[str]:
    """The first commands of a recipe: they install this lock and mark the environment."""
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
    workers = "-n logical --maxprocesses 4 --dist loadgroup"
    assert recipe("test") == [*first, pull, f".venv/bin/python -m pytest {workers}"]


def test_the_gate_is_check_and_test() -> None:
    gate = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert gate == ["make clean", "make check", "make test"]
    assert recipe("check")[len(set_up("check", ".ci/requirements-dev.txt")) :] == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
        ".venv/bin/zensical build --strict --config-file docs/zensical.toml",
    ]
