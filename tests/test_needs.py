"""A test without its system package skips, and the run's last line names it; a complete machine allows no skip."""

import re
from pathlib import Path

import pytest

from tests.needs import packages

ROOT = Path(__file__).parents[1]
SUITE = """
import pytest

@pytest.mark.needs("git")
def test_that_works_with_git():
    pass

@pytest.mark.needs("/dev/absent")
def test_that_fills_a_device():
    pass

def test_that_gives_up():
    pytest.skip("no luck")

def test_of_its_own():
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite of four tests, on a machine where no command is installed."""
    monkeypatch.delenv("FUSION_TEST_ALL", raising=False)
    pytester.makeconftest("pytest_plugins = ['tests.needs']")
    pytester.makepyfile(test_suite=SUITE)
    monkeypatch.setenv("PATH", str(pytester.path))
    return pytester


def test_what_is_missing_is_skipped_and_named_in_the_last_line(suite: pytest.Pytester) -> None:
    done = suite.runpytest_inprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, skipped=3)
    assert done.ret == 0
    assert done.outlines[-1] == (
        "skipped: test_suite.py::test_that_works_with_git (needs git: install git), "
        "test_suite.py::test_that_fills_a_device (needs /dev/absent, which this platform lacks), "
        "test_suite.py::test_that_gives_up (no luck)"
    )


def test_with_everything_there_nothing_is_skipped_or_said(suite: pytest.Pytester) -> None:
    git = suite.path / "git"
    git.touch(mode=0o755)
    done = suite.runpytest_inprocess("-k", "git or own")
    done.assert_outcomes(passed=2, deselected=2)
    assert "skipped" not in done.outlines[-1]


def test_a_skip_fails_where_all_is_to_run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_TEST_ALL", "1")
    done = suite.runpytest_inprocess()
    done.assert_outcomes(passed=1, failed=1, errors=2)
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*needs git: install git (FUSION_TEST_ALL=1 allows no skip)*"])


def test_a_module_that_skips_fails_too(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_TEST_ALL", "1")
    suite.makepyfile(test_module="import pytest\npytest.importorskip('absent_module')")
    done = suite.runpytest_inprocess("test_module.py")
    done.assert_outcomes(errors=1)


def test_a_command_that_no_package_brings_is_refused(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_other="import pytest\n@pytest.mark.needs('absent')\ndef test_it(): pass")
    done = suite.runpytest_inprocess("test_other.py")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*needs('absent'): add the command and its package to .ci/packages*"])


def test_the_gate_installs_what_tests_need_and_allows_no_skip() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert "< <(grep -v '^#' .ci/packages)" in gate
    assert "export FUSION_TEST_ALL=1" in gate
    named = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r'(?:mark\.needs|missing)\("(\w+)"\)', path.read_text())
    }
    assert named == set(packages())


def test_workers_name_what_they_skip_and_fail_on_it_too(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = suite.runpytest_inprocess("-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup")
    done.assert_outcomes(passed=1, skipped=3)
    assert done.outlines[-1].startswith("skipped: ")
    assert "test_suite.py::test_that_works_with_git (needs git: install git)" in done.outlines[-1]
    monkeypatch.setenv("FUSION_TEST_ALL", "1")
    assert suite.runpytest_inprocess("-p", "no:cacheprovider", "-n", "1").ret == 1
