"""The workflows of `.github`: they parse, test what the classifiers name, and publish without a token."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
PUBLISH = "pypa/gh-action-pypi-publish"


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((FOLDER / name).read_text())
    return loaded


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job.get("steps", []))


def test_every_platform_and_python_is_checked_and_tested() -> None:
    job = workflow("ci.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13", "3.14"],
    }
    commands = [step["run"] for step in steps(job) if "run" in step]
    assert commands == ["make check PYTHON=python", "make test PYTHON=python"]


def test_a_release_is_tested_built_checked_and_published_in_that_order() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert set(jobs["publish"]["needs"]) == {"ci", "build"}
    commands = "\n".join(step.get("run", "") for step in steps(jobs["build"]))
    wanted = [
        "fusion.__version__",
        "-m build",
        "twine check --strict",
        "tests/test_packaging.py",
        "pip install dist/*.whl",
    ]
    assert sorted(wanted, key=commands.index) == wanted


def test_only_the_publishing_job_can_sign_and_no_token_is_named() -> None:
    release = workflow("release.yml")
    assert release["permissions"] == workflow("ci.yml")["permissions"] == {"contents": "read"}
    signing = [name for name, job in release["jobs"].items() if "id-token" in job.get("permissions", {})]
    assert signing == ["publish"]
    (publish,) = [step for step in steps(release["jobs"]["publish"]) if step["uses"].startswith(PUBLISH)]
    assert publish["with"] == {"attestations": True}
    assert "secrets." not in (FOLDER / "release.yml").read_text()


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_actions_are_pinned_by_version(path: Path) -> None:
    used = [step["uses"] for job in workflow(path.name)["jobs"].values() for step in steps(job) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", one) for one in used)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_targets_name_is_one_of_the_makefile(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"run: make (\S+)", path.read_text()):
        assert re.search(rf"^{re.escape(target.replace('.venv', '$(VENV)'))}:", makefile, re.MULTILINE), target
