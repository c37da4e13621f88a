"""Reading of texts takes time in proportion to their length, whatever is in them."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from fusion.bench.scorers.base import Answer
from fusion.bench.scorers.ifeval import Instructions
from fusion.bench.scorers.math.latex import parse, parts
from fusion.bench.scorers.records import Records
from fusion.bench.scorers.squad import ReadingComprehension
from fusion.stages.text.checks import Checks
from fusion.stages.text.classify import capabilities, language, nearest
from fusion.stages.text.extract import Extractor

SIZE = 60_000
PIECES = [
    *' \n\t`{[(<*-_^$."\\1a/',
    *("1,", "111,", "a ", "A ", "A-", "A'", "1 / ", "1 ", "1e", "```\n", "```a", "Mr.", ". ", "#### "),
    *("total ", "answer is ", "answer!!!!", "assert ", "\\frac", "\\frac{1}{", "\\text{", "\\boxed{", "\\sqrt "),
    *("<think>", "[1 ", "{a ", '{"a":', "f(", "$=", "<<", "[a", "def f ", "import ", "@", "== "),
]
READERS: dict[str, Callable[[str], Any]] = {
    "text": Extractor(normalise=("latex", "literals", "numbers", "case")).extract,
    "number": Extractor(read="number").extract,
    "code": Extractor(read="code").extract,
    "choice": Extractor(read="choice", choices=("alpha beta", "b", "a a")).extract,
    "path": Extractor(path="answer").extract,
    "numbers of checks": lambda text: Checks(numbers_from="x").failures(text, evaluate=lambda source: text[:1000]),
    "capabilities": capabilities,
    "language": language,
    "nearest": lambda text: nearest(text, ["a b"]),
    "records": lambda text: Records().score(
        Answer(text=text), {"records": [{"supplier": "x", "euros": 1}], "total": 1}
    ),
    "comprehension": lambda text: ReadingComprehension().score(Answer(text=text), "x"),
    "latex": lambda text: (parse(text), parts(text)),
    "instructions": lambda text: Instructions().score(Answer(text=text), RULES),
}
GIVEN: dict[str, dict[str, Any]] = {
    "length_constraints:number_words": {"relation": "at least", "num_words": 1},
    "length_constraints:number_sentences": {"relation": "at least", "num_sentences": 1},
    "length_constraints:number_paragraphs": {"num_paragraphs": 1},
    "keywords:existence": {"keywords": ["a b"]},
    "keywords:forbidden_words": {"forbidden_words": ["a b"]},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "A", "num_sections": 1},
    "detectable_format:number_bullet_lists": {"num_bullets": 1},
    "detectable_format:json_format": {},
    "detectable_content:postscript": {"postscript_marker": "P.P.S"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_format:title": {},
}
RULES = {"instruction_id_list": list(GIVEN), "kwargs": list(GIVEN.values())}


@pytest.mark.parametrize("name", READERS)
def test_a_text_of_one_piece_again_and_again_is_read_in_time(name: str) -> None:
    for piece in PIECES:
        begun = time.thread_time()
        READERS[name](piece * (SIZE // len(piece)))
        assert time.thread_time() - begun < 2, repr(piece)
