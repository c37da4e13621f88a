"""What is taken out of an answer, and which answers count as the same."""

import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.core.errors import PipelineError
from fusion.stages.text.extract import Extractor


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("She makes 9 * 2 = $18 every day", "18"),
        ("1,234.50 dollars", "2469/2"),
        ("it is -5", "-5"),
        ("from 3 to −4", "-4"),
        ("The answer is 12, not 15.", "12"),
        ("Answer: 3 + 4 = 7", "7"),
        ("**Answer:** $1,200 for 3 people", "1200"),
        ("long work with 99\n#### 42", "42"),
        (r"so \boxed{17} in the 3rd round", "17"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        (json.loads('"\\boxed{\\\\frac{1}{2}}"'), "1/2"),
        (r"the value is $\frac34$", "3/4"),
        ("50%", "50"),
        ("0.50", "1/2"),
        (".5", "1/2"),
        ("1e3", "1000"),
        ("6/8", "3/4"),
        ("3 / 0 or else 4", "4"),
        ("version v2 of X1", None),
        ("no number at all", None),
        ("", None),
        ("1e999", None),
        ("9" * 5000, None),
    ],
)
def test_numbers(text: str, key: str | None) -> None:
    found = Extractor(read="number").extract(text)
    assert (found and found.key) == key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("A dog would say D", "D"),
        ("The answer is B, not C.", "B"),
        ("**Answer: (A)** since B and C are wrong", "A"),
        (r"\boxed{D} and not A", "D"),
        ("a thing with no letter of its own", None),
        ("ABCD", None),
    ],
)
def test_letters_to_choose_from(text: str, value: str | None) -> None:
    found = Extractor(choices=("A", "B", "C", "D")).extract(text)
    assert (found and found.value) == value


def test_words_to_choose_from() -> None:
    extractor = Extractor(choices=("valid", "not  valid", "unknown"))
    said = [
        extractor.extract(text) for text in ("It is VALID.", "this is not valid", "invalid", "valid? No: unknown")
    ]
    assert [one and one.key for one in said] == ["valid", "not  valid", None, "unknown"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("[1, 2]", "[1,2]", True),
        ("[1, 2]", "(1, 2)", False),
        ("{'a': 1, 'b': 2}", '{"b": 2, "a": 1}', True),
        ("{3, 1}", "{1, 3}", True),
        ("[2, 1]", "[1, 2]", False),
        ("'abc'", '"abc"', True),
        ("abc", "'abc'", True),
        ("1", "'1'", False),
        ("1", "1.0", True),
        ("True", "true", True),
        ("True", "1", False),
        ("```python\n[1]\n```", "assert f(2) == [1]", True),
        ("'a\\d'", "'a\\\\d'", True),
        ("(1,)", "(1)", False),
    ],
)
def test_code_values(one: str, other: str, same: bool) -> None:
    extractor = Extractor(read="code")
    assert (extractor.key(one) == extractor.key(other)) is same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"reasoning": "r", "answer": "18"}', "18"),
        ('Here:\n```json\n{"answer": 18}\n```\nDone.', 18),
        ('{"reasoning": "two\nlines", "answer": [1]}', [1]),
        ("{'answer': 'single quotes',}", "single quotes"),
        ({"answer": {"deep": 1}}, {"deep": 1}),
        ('{"reasoning": "r"}', None),
        ("prose", None),
    ],
)
def test_a_path_into_json(text: Any, value: Any) -> None:
    found = Extractor(path="answer").extract(text)
    assert (found and found.value) == value


def test_path_pattern_and_reading_narrow_down_in_turn() -> None:
    text = '{"rows": [{"note": "total 5, due 7"}, {"note": "total 6, due 8"}]}'
    extractor = Extractor(path="$.rows[1].note", pattern=r"total (\d+)", read="number")
    found = extractor.extract(text)
    assert found is not None
    assert (found.text, found.value, found.key) == ("6", 6, "6")
    assert Extractor(path="rows[9]").extract(text) is None
    assert Extractor(pattern="never").extract(text) is None


@pytest.mark.parametrize(
    ("one", "other", "normalise"),
    [
        ("  The  Cat. ", "the cat", None),
        ("1,000", "1000.0", None),
        (r"\dfrac{1}{2}", r"\frac12", ("latex",)),
        (r"$\left( 3, \frac{\pi}{2} \right)$", r"(3, \frac{\pi}{2})", ("latex",)),
        (r"5\text{ cm}", "5 cm", ("latex",)),
        (r"90^\circ", "90", ("latex", "numbers")),
        (r"so \boxed{\sqrt3}", r"\sqrt{3}", ("latex",)),
        ("[1,2]", "[1, 2]", ("literals",)),
    ],
)
def test_texts_that_only_look_different(one: str, other: str, normalise: Any) -> None:
    extractor = Extractor(normalise=normalise)
    assert extractor.key(one) == extractor.key(other) is not None


def test_case_counts_where_it_is_not_normalised() -> None:
    extractor = Extractor(normalise=("numbers",))
    assert extractor.key("Rome") != extractor.key("rome")


@pytest.mark.parametrize(
    ("given_keys", "says"),
    [
        ({"pattern": "("}, "invalid regular expression"),
        ({"path": "a..[b"}, "not a path into JSON"),
        ({"read": "choice"}, "two `choices` or more"),
        ({"choices": ["A", "a "]}, "two `choices` or more"),
        ({"read": "number", "choices": ["1", "2"]}, "`choices` have an effect"),
        ({"read": "code", "normalise": ["case"]}, "`normalise` is for texts"),
    ],
)
def test_an_extractor_that_cannot_work_is_refused(given_keys: dict[str, Any], says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        Extractor(**given_keys)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(max_size=80), read=st.sampled_from(["text", "number", "choice", "code"]), path=st.booleans())
def test_whatever_a_model_writes_is_read_or_not_but_never_breaks_the_reader(text: str, read: Any, path: bool) -> None:
    choices = ("A", "B") if read == "choice" else ()
    extractor = Extractor(read=read, choices=choices, path="answer" if path else None)
    found = extractor.extract(text)
    assert found is None or found.key


def test_hostile_texts_are_read_in_time() -> None:
    for text in (
        "[" * 90_000,
        "answer is " * 9_000,
        "\\boxed{" * 9_000,
        "1," * 45_000,
        "{" * 5_000,
        "```\n" * 20_000,
    ):
        for extractor in (Extractor(read="number"), Extractor(read="code"), Extractor(choices=("A", "B"))):
            extractor.extract(text)


class Slow:
    """Garbage that lets other threads run while it is collected."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


def test_literals_are_read_in_many_threads_at_once() -> None:
    code = Extractor(read="code")
    deep = "[" * 60 + "1" + "]" * 60

    def read(_: int) -> str | None:
        [Slow() for _ in range(3)]
        found = code.extract(deep)
        return None if found is None else found.key

    before = gc.get_threshold()
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(2000))) == {deep}
    finally:
        gc.set_threshold(*before)
