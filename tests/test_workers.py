"""Tests in several processes: a file's tests share one, and long groups begin first."""

from pathlib import Path

import pytest

SHORT = "import pytest\n@pytest.mark.parametrize('number', range(4))\ndef test_it(number): pass\n"
MARKED = "@pytest.mark.%s\n@pytest.mark.parametrize('number', range(2))\ndef test_marked(number): pass\n"
NOTED = """
import os
pytest_plugins = ["tests.workers"]
def pytest_configure(config):
    config.addinivalue_line("markers", "local: l")
    config.addinivalue_line("markers", "wheel: w")
def pytest_runtest_setup(item):
    with open(PATH, "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + " " + item.nodeid.partition("@")[0] + "\\n")
"""


def test_a_file_has_one_worker_and_long_groups_begin(pytester: pytest.Pytester, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    pytester.makeconftest(NOTED.replace("PATH", repr(str(noted))))
    pytester.makepyfile(
        test_a=SHORT,
        test_b=SHORT,
        test_c=SHORT,
        test_d=SHORT + MARKED % "local",
        test_e=SHORT + MARKED % "xdist_group('own')",
        test_f="import pytest\n" + MARKED % "local",
    )
    words = "-p no:cacheprovider -p no:schemathesis -n 2 --dist loadgroup"
    done = pytester.runpytest_inprocess(*words.split())
    done.assert_outcomes(passed=26)
    order: dict[str, list[str]] = {}
    for line in noted.read_text().splitlines():
        worker, test = line.split()
        order.setdefault(worker, []).append(test.partition("[")[0])
    firsts = {tests[0] for tests in order.values()}
    assert firsts == {"test_d.py::test_marked", "test_e.py::test_marked"}
    for name in ("test_a", "test_b", "test_c", "test_d"):
        assert sum(f"{name}.py::test_it" in tests for tests in order.values()) == 1, name
    assert sum("test_f.py::test_marked" in tests for tests in order.values()) == 1
