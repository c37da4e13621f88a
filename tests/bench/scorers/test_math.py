"""Which formulas are equal, and that nothing a model writes hangs the scorer or is run by it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.bench.scorers.math.equal import Algebra
from fusion.bench.scorers.math.latex import parse


@pytest.fixture(scope="module")
def algebra() -> Iterator[Algebra]:
    algebra = Algebra(seconds=5)
    yield algebra
    algebra.close()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\dfrac{3\sqrt{2}}{2}", r"\frac{3}{\sqrt2}"),
        (r"2\frac{1}{3}", "7/3"),
        (r"x^2 + 2x + 1", "(x+1)^2"),
        (r"\sqrt[3]{8}", "2"),
        (r"\sin^2{x} + \cos^2{x}", "1 + 0x"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
        (r"\{1, 2, 3\}", r"\{3, 1, 2\}"),
        ("1, 2", "2, 1"),
        ("x = 5", "5"),
        ("10,080", "10080"),
        (r"\binom{5}{2}", "10"),
        ("5!", "120"),
        (r"\log_2 8", "3"),
        ("[0, 1)", "[0, 1)"),
        (r"90^\circ", "90"),
        ("2^{-1}", "0.5"),
        ("-(-3)", "3"),
        (r"e^{i\pi}", "-1"),
        (r"12\text{ inches}", "12"),
    ],
)  # fmt: skip
def test_equal_formulas_are_equal(algebra: Algebra, left: str, right: str) -> None:
    assert algebra.equal(left, right)
    assert algebra.equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1/3", "0.33"),
        ("x+1", "y+1"),
        ("(1, 2)", "(2, 1)"),
        ("(1, 2)", "[1, 2]"),
        ("[0, 1)", "[0, 1]"),
        ("(1, 2)", "(1, 2, 3)"),
        (r"\{1, 1, 2\}", r"\{1, 2, 2\}"),
        ("x^2", "x^3"),
        ("", "0"),
        ("no answer", "5"),
        (r"1/0", r"2/0"),
    ],
)
def test_other_formulas_are_not(algebra: Algebra, left: str, right: str) -> None:
    assert not algebra.equal(left, right)


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^{9^9}}}",
        "99999!!!!",
        "(x+y+z)^{99999}",
        r"\binom{10^{30}}{10^{29}}",
        "(" * 1000,
        "-" * 300 + "1",
        "9" * 390,
        r"\sqrt" * 100,
        "^" * 50,
    ],
)
def test_what_would_not_end_is_ended(hostile: str) -> None:
    algebra = Algebra(seconds=1)
    try:
        assert not algebra.equal("7/2", "3.25")
        began = time.monotonic()
        assert not algebra.equal(hostile, "5/7")
        assert time.monotonic() - began < 5
        assert algebra.equal("7/2", "3.5")
    finally:
        algebra.close()


@pytest.mark.parametrize(
    "name", ["__import__('os').system('touch {}')", "open('{}','w')", 'exec(\'open("{}","w")\')']
)
def test_nothing_is_run(algebra: Algebra, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "run"
    assert not algebra.equal(name.format(mark), "1")
    assert not mark.exists()
    assert parse(name) is None


@given(st.text(max_size=60) | st.text(alphabet="0123456789x+-*/^(){}\\fracsqt!|,_ ", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    tree = parse(text)
    assert tree is None or isinstance(tree[0], str)
