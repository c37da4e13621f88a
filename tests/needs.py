"""Tests that need a command of the system: skipped without it and named in the last line of the run."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

PACKAGES = Path(__file__).parents[1] / ".ci" / "packages"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
MARKER = "needs(*names): commands of .ci/packages, or paths of devices, without which the test skips"


def packages() -> dict[str, str]:
    """The Debian package of each command that a test may need."""
    return {name: package for name, package, *_ in _listed()}


def _listed() -> Iterator[list[str]]:
    lines = (line.split() for line in PACKAGES.read_text().splitlines() if not line.startswith("#"))
    yield from lines


def command(name: str) -> str:
    """The path of a command, also of one in a folder that only .ci/packages names; empty where it is not there."""
    patterns = [pattern for one, _, *more in _listed() for pattern in more if one == name]
    beside = [str(folder) for pattern in patterns for folder in sorted(Path("/").glob(pattern.lstrip("/")))]
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *beside])) or ""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = {name: None for mark in item.iter_markers("needs") for name in mark.args}
        if reason := "; ".join(filter(None, map(missing, names))):
            item.add_marker(pytest.mark.skip(reason=reason))


def missing(name: str) -> str:
    """The reason to skip a test that needs this command or device; empty where it is there."""
    if name.startswith("/"):
        return "" if Path(name).exists() else f"needs {name}, which this platform lacks"
    if name not in packages():
        raise pytest.UsageError(f"needs({name!r}): add the command and its package to .ci/packages")
    return "" if command(name) else f"needs {name}: install {packages()[name]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refused((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refused((yield))


def _refused(report: Report) -> Report:
    """The report; a skip is a failure where the environment claims to have all that tests need."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("FUSION_TEST_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"{reason(report)} (FUSION_TEST_ALL=1 allows no skip)"
    return report


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else report.longreprtext


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Print the last line, below the terminal reporter's own."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and (skipped := reporter.stats.get("skipped")):
        reporter.write_line("skipped: " + ", ".join(f"{one.nodeid} ({reason(one)})" for one in skipped))
