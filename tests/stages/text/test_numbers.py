"""Numbers are read with their thousands marks, decimal commas, magnitudes and units, and no other is made of them."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fusion.stages.text.extract import Extractor

NUMBER = Extractor(read="number")


def read(text: str) -> Fraction | None:
    found = NUMBER.extract(text)
    return None if found is None else Fraction(found.key)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.5 kg", "1234.5"),
        ("1.234,5 EUR", "1234.5"),
        ("Es sind 12.345,67 € im Jahr.", "12345.67"),
        ("1.234.567 people", "1234567"),
        ("1.234.567,89", "1234567.89"),
        ("12,34,567", "1234567"),
        ("1'234.50 CHF", "1234.5"),
        ("1’234’567", "1234567"),
        ("1\u00a0234", "1234"),
        ("1\u202f234\u202f567,5 km", "1234567.5"),
        ("1 234", "1234"),
        ("There are 12 345 678 of them.", "12345678"),
        ("$1,200", "1200"),
        ("-$1,200.50", "-1200.5"),
        ("€ 12,50", "12.5"),
        ("12,5 %", "12.5"),
        ("12 %", "12"),
        ("0,500", "0.5"),
        ("0,5", "0.5"),
        ("3.2 million", "3200000"),
        ("about 1.5 billion dollars", "1500000000"),
        ("5k", "5000"),
        ("2 thousand people", "2000"),
        ("€3bn", "3000000000"),
        ("-2.5 Million", "-2500000"),
        ("12kg", "12"),
        ("30°C", "30"),
        ("a 5-mile run", "5"),
        ("90min", "90"),
        ("3 1/2 cups", "3.5"),
        (r"\boxed{12\frac{1}{4}}", "12.25"),
        ("the answer is 1.234,5", "1234.5"),
        ("answer: 1 234,5 kg", "1234.5"),
        (r"\boxed{1{,}234}", "234"),
        ("#### 1,234", "1234"),
        ("#### 1 234", "1234"),
    ],
)
def test_marks_magnitudes_and_units(text: str, number: str) -> None:
    assert read(text) == Fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", "1234"),  # thousands, as in English
        ("1.234", "1.234"),  # a decimal point, as in English
        ("(1,2)", "2"),  # a pair
        ("[3, 4]", "4"),
        ("1,2,3", "3"),  # a list
        ("2,-1", "-1"),
        ("-10879,10879", "10879"),
        ("the answer is 35,27,19,11", "35"),  # the first of a list that is said
        ("from 90 85 100", "100"),  # three numbers, not one
        ("version 1.2.3", None),
        ("on 12.05.2024", None),
        ("5 and 1.2.3", "5"),
        ("1,000,50", None),
        ("x12 and 5y", None),
        ("4th and 2D", None),
        ("the answer is 100100_b", "100100"),
        ("the answer is 9n", "9"),
        ("10-5", "5"),
        ("5 m²", "5"),
        ("7 dozen", "7"),
    ],
)
def test_what_is_not_marked_for_certain_is_read_as_before(text: str, number: str | None) -> None:
    assert read(text) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5 kg", "kg"),
        ("5 kilograms", "kg"),
        ("5 Meters", "m"),
        ("12%", "%"),
        ("12 percent", "%"),
        ("€12", "EUR"),
        ("12 euros", "EUR"),
        ("12 $/h", None),
        ("5 km/h", "km/h"),
        ("5 km/s", None),
        ("5 apples", None),
        ("5 in total", None),
        ("5", None),
    ],
)
def test_known_units(text: str, unit: str | None) -> None:
    found = NUMBER.extract(text)
    assert found is not None
    assert found.unit == unit


MARKS = [(",", "."), (".", ","), ("'", "."), ("\u00a0", ","), ("\u202f", "."), ("\u2009", ","), (" ", ".")]
AROUND = [
    "{}",
    "The total is {}.",
    "**{}**",
    "so it is {} kg",
    "answer: {}",
    "({})",
    "= {} EUR",
    "{} of them, in all",
]


@given(
    st.integers(10**6, 10**15),
    st.integers(0, 999),
    st.sampled_from(MARKS),
    st.sampled_from(AROUND),
    st.booleans(),
)
def test_every_way_to_mark_thousands_gives_the_same_number(
    whole: int, part: int, marks: tuple[str, str], around: str, negative: bool
) -> None:
    thousands, decimal = marks
    written = f"{whole:,}".replace(",", thousands) + (f"{decimal}{part:03}" if part else "")
    sign = "-" if negative else ""
    expected = Fraction(f"{sign}{whole}.{part:03}")
    assert read(around.format(sign + written)) == expected


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.sampled_from(MARKS), st.sampled_from(AROUND))
def test_no_marking_makes_one_number_of_another(one: int, other: int, marks: tuple[str, str], around: str) -> None:
    assume(one != other)
    written = f"{one:,}".replace(",", marks[0])
    if marks[0] == "." and one < 10**6:
        assume(other * 1000 != one)  # 1.234 has a decimal point
    assert read(around.format(written)) != other


@given(st.text(alphabet="0123456789,.' \u00a0-+/e$€%km()", max_size=40))
def test_whatever_is_written_is_read_or_not(text: str) -> None:
    found = NUMBER.extract(text)
    assert found is None or Fraction(found.key) is not None
