"""Code and tests as one program: no part of the code takes in a test."""

import pytest

from fusion.stages.verification.plain import plain

TESTS = 'check(add)\nassert add("""a""", "b") == "ab"'
CODE = "def check(one): assert one(1, 2) == 3\ndef add(a, b): return a + b"


@pytest.mark.parametrize(
    "end",
    [
        "\nx = lambda: \\",
        '\nx = """',
        "\nx = (",
        "\n@print",
        "\nif add:",
        "\nx = lambda:",
        "\nfor x in (), \\",
        "\n'",
    ],
)
def test_code_that_is_not_whole_goes_to_the_harness(end: str) -> None:
    assert plain(CODE, TESTS, "mark") is not None
    assert plain(CODE + end, TESTS, "mark") is None


@pytest.mark.parametrize("tests", ["  assert 1", "else: pass", "assert (", "def test_sum(): pass", "x" * 30_000])
def test_tests_that_are_not_whole_go_to_the_harness(tests: str) -> None:
    assert plain(CODE, tests, "mark") is None
