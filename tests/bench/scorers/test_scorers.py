"""What answers are worth by each scorer, and that a mistake of the benchmark's is never the model's."""

from typing import Any

import pytest

from fusion.bench.scorers.base import Answer, Score
from fusion.bench.scorers.ifeval import CHECKED, UNCHECKED, follows
from fusion.bench.scorers.registry import NAMES, scorer
from fusion.core.errors import FusionError, UsageError


def score(name: str, text: str, gold: Any, *, data: Any = None, **options: Any) -> Score:
    one = scorer(name, **options)
    try:
        return one.score(Answer(text=text, data=data), gold)
    finally:
        one.close()


@pytest.mark.parametrize(
    ("text", "gold", "tolerance", "value"),
    [
        ("1004", "1000", "0.5%", 1),
        ("1005", "1000", "0.5%", 1),
        ("1005.01", "1000", "0.5%", 0),
        ("995", "1000", "0.5%", 1),
        ("994.9", "1000", "0.5%", 0),
        ("-1004", "-1000", "0.5 %", 1),
        ("-1004", "1000", "0.5%", 0),
        ("0.001", "0", "5%", 0),
        ("3.14", "3.14159", 0.01, 1),
        ("3.14", "3.14159", "0.001", 0),
        ("12", "10", 2, 1),
        ("12.0000001", "10", 2, 0),
        ("about 3.1 million", "3,141,592", "2%", 1),
        ("12,5 %", "12.49", "0.5%", 1),
        ("1000", "1000", None, 1),
        ("1000.0001", "1000", None, 0),
    ],
)
def test_a_number_within_the_tolerance_of_the_gold_one_is_right(
    text: str, gold: str, tolerance: Any, value: int
) -> None:
    assert score("number", text, gold, tolerance=tolerance).value == value


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("12 kg", "12 kg", 1),
        ("12", "12 kg", 1),
        ("12 kilograms", "12 kg", 1),
        ("12 kg", "12", 1),
        ("12 g", "12 kg", 0),
        ("€12", "12 dollars", 0),
        ("12 EUR", "€12", 1),
        ("12%", "12", 1),
        ("12%", "0.12", 0),
        ("12 kg", "12%", 0),
        ("3.2 million", "3200000", 1),
        ("3.2 million", "3.2", 0),
        ("3.2 million", "3.2 million", 1),
        ("3.2", "3.2 million", 0),
        ("1.234,5 EUR", "1234.5", 1),
        ("1.234,5 EUR", "5", 0),
        ("1 234", "234", 0),
        ("90 minutes", "1.5 hours", 0),
    ],
)
def test_a_number_in_another_unit_or_magnitude_is_wrong(text: str, gold: str, value: int) -> None:
    assert score("number", text, gold).value == value


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ('{"answer": ""}', "''", 1),
        ('{"answer": "\'\'"}', "''", 1),
        ('{"answer": "\\"\\""}', "''", 1),
        ('```json\n{"reasoning": "x", "answer": ""}\n```', "''", 1),
        ('{"answer": ""}', "'a'", 0),
        ('{"answer": ""}', "[]", 0),
        ('{"answer": null}', "''", 0),
        ("", "''", 0),
        ('{"other": ""}', "''", 0),
    ],
)
def test_an_empty_text_in_json_is_code_for_an_empty_text(text: str, gold: str, value: int) -> None:
    assert score("code", text, gold, path="answer").value == value


@pytest.mark.parametrize("name", ["exact", "code", "math", "f1", "answer == gold", "judge"])
def test_a_tolerance_is_for_numbers_only(name: str) -> None:
    with pytest.raises(UsageError, match="`tolerance` has an effect with number only"):
        scorer(name, tolerance="1%")


BOOKED = {
    "records": [{"supplier": "Kapok Ltd", "euros": 3627}, {"supplier": "Elm & Co", "euros": 1596}],
    "total": 5223,
}


@pytest.mark.parametrize(
    ("name", "text", "gold", "value"),
    [
        ("number", "She makes $18 a day.", "9 * 2 = 18\n#### 18", 1),
        ("number", "The answer is 1,018.00", "1018", 1),
        ("number", "The answer is 17", "18", 0),
        ("number", "no idea", "18", 0),
        ("number", "", "18", 0),
        ("exact", " (B) ", "(B)", 1),
        ("exact", "Yes.", "yes", 1),
        ("exact", "no", "yes", 0),
        ("code", "```python\n[(1, 'a')]\n```", '[(1, "a")]', 1),
        ("code", "assert f(1) == {'b': 1, 'a': 2}", "{'a': 2, 'b': 1}", 1),
        ("code", "[1, 2]", "[2, 1]", 0),
        ("code", "__import__('os').getcwd()", "'/'", 0),
        ("math", r"So it is $\boxed{\frac{\sqrt{8}}{2}}$.", r"\sqrt{2}", 1),
        ("math", r"\dfrac{1}{2}", "0.5", 1),
        ("math", "7", "8", 0),
        ("exact_match", "The Beatles!", ["the Kinks", "Beatles"], 1),
        ("exact_match", "It was the Beatles", ["Beatles"], 0),
        ("contains", "It was the Beatles", ["Beatles"], 1),
        ("contains", "", ["The"], 0),
        ("f1", "the red car drives", ["red car"], 0.8),
        ("f1", "nothing", ["red car"], 0),
    ],
)
def test_an_answer_is_worth_what_it_is(name: str, text: str, gold: Any, value: float) -> None:
    assert score(name, text, gold).value == pytest.approx(value)


def test_an_answer_is_looked_for_where_it_is_said_to_stand() -> None:
    text = '{"reasoning": "6 * 7 = 42, less 2", "answer": "40"}'
    assert score("number", text, "40", path="answer") == Score(value=1, answer="40")
    assert score("number", "nonsense", "40", path="answer").value == 0
    assert score("number", "A: 3\nB: 4", "3", pattern=r"A: (\d+)").value == 1
    assert score("number", "prose", "3", path="n", data={"n": 3}).value == 1


@pytest.mark.parametrize(
    ("text", "data", "records", "total"),
    [
        ("Kapok Ltd: 3,627 euros\nElm & Co: 1596\nTotal: 5223", None, 1, 1),
        ("", {"records": [{"supplier": "kapok ltd", "euros": "3627"}], "total": 5223.0}, 2 / 3, 1),
        ('Here: [{"supplier": "Elm & Co", "amount": 1596}]', None, 2 / 3, 0),
        ("Kapok Ltd: 3627\n" * 2 + "Elm & Co: 1\nTotal 9", None, 0.4, 0),
        ("none", None, 0, 0),
        ("{" * 10_000, {"records": [None, 3, {"supplier": 5}], "total": True}, 0, 0),
    ],
)
def test_records_and_totals_are_read_from_data_json_or_lines(
    text: str, data: Any, records: float, total: float
) -> None:
    found = score("records", text, BOOKED, data=data)
    assert found.value == pytest.approx(records)
    assert found.measures["total"] == score("total", text, BOOKED, data=data).value == total


# Instructions.


@pytest.mark.parametrize(
    ("name", "given", "good", "bad"),
    [
        (
            "change_case:capital_word_frequency",
            {"capital_relation": "at least", "capital_frequency": 2},
            "A BIG cat",
            "a BIG cat",
        ),
        ("change_case:english_capital", {}, "ALL OF IT, 1", "Not"),
        ("change_case:english_lowercase", {}, "all of it", "Not"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Do it."}, " do it. Done", "Done. Do it."),
        ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a]"),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S y", "P.S. y"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\nP. S. y", "PS y"),
        ("detectable_format:constrained_response", {}, "My answer is maybe.", "maybe"),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "SECTION", "num_sections": 2},
            "SECTION 1 a SECTION 2 b",
            "SECTION 1",
        ),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b c**", "*a* ** **"),
        ("detectable_format:title", {}, "<<a title>>", "<< >>"),
        ("keywords:existence", {"keywords": ["cat", "do.g"]}, "a Cat, a do.g", "cat, dog"),
        ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "a CAT"),
        ("keywords:frequency", {"keyword": "a", "relation": "less than", "frequency": 2}, "a b", "a a"),
        ("keywords:letter_frequency", {"letter": "#", "let_relation": "at least", "let_frequency": 2}, "##", "#"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
            "a\n\n'So, b",
            "So\n\na",
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
        (
            "length_constraints:number_sentences",
            {"relation": "less than", "num_sentences": 3},
            "Dr. A. Bee went. She ran!",
            "A. b. Go. Run. No?",
        ),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two-three", "one two"),
        ("punctuation:no_comma", {}, "a b", "a, b"),
        ("startend:end_checker", {"end_phrase": "The end."}, 'x. "the END."', "The end. x"),
        ("startend:quotation", {}, '"a"', '"'),
    ],
)  # fmt: skip
def test_each_instruction_is_checked(name: str, given: dict[str, Any], good: str, bad: str) -> None:
    assert follows(name, good, given)
    assert not follows(name, bad, given)
    assert not follows(name, "  ", given)


def test_all_of_ifevals_instructions_are_checked_or_named_as_not() -> None:
    assert len(CHECKED) == 24
    assert set(UNCHECKED) == {"language:response_language"}
    with pytest.raises(UsageError, match="is not checked; checked are: change_case"):
        follows("language:response_language", "hallo", {"language": "de"})
    with pytest.raises(UsageError, match="is unknown"):
        follows("x:y", "hallo", {})
    with pytest.raises(UsageError, match="does not take"):
        follows("punctuation:no_comma", "hallo", {"num": 1})


def test_all_instructions_have_to_be_followed() -> None:
    gold = {
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["cat"], "num_words": None}],
    }
    assert score("ifeval", "a cat", gold) == Score(value=1, answer="follows all", measures={"instructions": 1})
    assert score("ifeval", "a dog", gold) == Score(
        value=0, answer="breaks keywords:existence", measures={"instructions": 0.5}
    )


# A user's own.


def marked(text: str, gold: Any) -> Any:
    return {"value": len(text) / 10, "length": len(text)} if gold == "length" else gold


def test_a_scorer_is_an_expression_or_a_function() -> None:
    assert score("gold|lower in answer|lower", "A CAT sat", "Cat").value == 1
    assert score("data.n == gold", "", 3, data={"n": 3}).value == 1
    assert score("data.n == gold", "", 3).value == 0
    assert score(f"{__name__}:marked", "a cat", "length") == Score(value=0.5, measures={"length": 5})
    assert score(f"{__name__}:marked", "", True).value == 1


@pytest.mark.parametrize(
    ("name", "gold", "words"),
    [
        ("exat", "x", "no scorer 'exat'; did you mean 'exact'?"),
        ("answer ==", "x", "expression 'answer =='"),
        ("anwser == gold", "x", "it can read: answer, data, gold"),
        ("gold.nothing", "x", "the scorer expression 'gold.nothing'"),
        ("answer|upper", "x", "a score is true, false or a number from 0 to 1"),
        ("no_such_module:f", "x", "no scorer 'no_such_module:f'"),
        (f"{__name__}:nothing", "x", "write it as module:function"),
        (f"{__name__}:NAMES", "x", "is not a function"),
        (f"{__name__}:marked", 2, "gave 2; a score is true, false"),
        (f"{__name__}:follows", 2, "failed: TypeError"),
        ("number", "none", "the gold answer 'none' is not a number"),
        ("ifeval", "x", "the gold answer of `ifeval` is"),
        ("records", {"total": 1}, "the gold answer of `invoices` is"),
        ("f1", {"a": 1}, "the gold answer of `f1` is a text or a list of texts"),
        ("f1", [], "the gold answer of `f1` is a text or a list of texts"),
    ],
)
def test_a_broken_scorer_and_a_gold_answer_it_cannot_use_are_mistakes(name: str, gold: Any, words: str) -> None:
    with pytest.raises(FusionError) as caught:
        score(name, "some text", gold)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_where_to_look_is_for_scorers_of_one_answer() -> None:
    with pytest.raises(UsageError, match="have an effect with code, exact, math, number only, not 'f1'"):
        scorer("f1", path="answer")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ifeval", "records", "total")])
@pytest.mark.parametrize("text", ["", "\0", "{" * 5000, "9" * 5000, "\\boxed{" * 500, "1e999999", "\ud800"])
def test_no_answer_makes_a_scorer_fail(name: str, text: str) -> None:
    assert score(name, text, "assert False" if name == "unit_tests" else "12").value == 0
