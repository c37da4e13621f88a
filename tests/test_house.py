"""The house: its rooms, the size of every package, and the top level of the repository."""

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
ROOMS = {
    "cli",
    "bench",
    "bulk",
    "client",
    "plugins",
    "server",
    "quote",
    "engine",
    "pipeline",
    "stages",
    "models",
    "store",
    "tools",
    "prompts",
    "sandbox",
    "core",
}
"""A seventeenth needs a decision."""
BESIDE = {"__init__.py", "__main__.py", "py.typed"}
MOST = 14
CATALOGUES = {"fusion/stages/kinds", "fusion/cli/commands", "fusion/models/providers", "fusion/bench/scorers"}
"""Packages of peers behind one registry: they may hold more entries."""
PINNED = {"fusion"}
"""Packages whose entries a test of their own names."""
TOP = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"} | {
    "fusion",
    "prompts",
    "pipelines",
    "tests",
    "benchmarks",
    "docs",
}


def tracked() -> list[PurePosixPath]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [PurePosixPath(line) for line in listed.stdout.splitlines()]


def packages() -> Iterator[tuple[str, set[str]]]:
    """Packages of fusion with the names of their entries."""
    files = [path for path in tracked() if path.parts[0] == "fusion"]
    for folder in {parent for path in files for parent in path.parents if parent.parts}:
        inside = (path.relative_to(folder) for path in files if path.is_relative_to(folder))
        yield str(folder), {path.parts[0] for path in inside} - {"__init__.py"}


def test_the_rooms_are_the_pinned_ones() -> None:
    rooms = dict(packages())["fusion"] - BESIDE
    assert rooms == ROOMS


def test_no_package_but_a_catalogue_holds_more_than_fourteen_entries() -> None:
    free = CATALOGUES | PINNED
    large = {name: sorted(entries) for name, entries in packages() if len(entries) > MOST and name not in free}
    assert large == {}


def test_the_commands_are_at_most_twenty() -> None:
    assert len(dict(packages())["fusion/cli/commands"]) <= 20


def test_the_top_level_holds_nothing_else() -> None:
    assert {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")} <= TOP
