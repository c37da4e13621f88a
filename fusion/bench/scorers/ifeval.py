"""IFEval: checks the instructions of Zhou et al. 2023, arXiv:2311.07911, by its strict rules.

Two rules differ, since the originals need downloaded data. Sentences are counted by their punctuation, not by a
trained model. `english_lowercase` and `english_capital` check the letters, not the language. An item with
`language:response_language` cannot be scored.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.core.errors import UsageError

UNCHECKED: Final = frozenset({"language:response_language"})

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Inc|Ltd|Jr|Sr|Co|vs|e\.g|i\.e|[A-Z])\.", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")

Rule = Callable[..., bool]


def follows(name: str, text: str, given: Mapping[str, Any]) -> bool:
    """Return True if a text follows an instruction; an empty one never does. Raises UsageError for an unknown one."""
    rule = _RULES.get(name)
    if rule is None:
        why = "is not checked" if name in UNCHECKED else "is unknown"
        raise UsageError(f"the instruction {name!r} {why}; checked are: {', '.join(CHECKED)}")
    if not text.strip():
        return False
    known = {key: value for key, value in given.items() if value is not None}
    try:
        return rule(text, **known)
    except TypeError as error:
        raise UsageError(f"the instruction {name!r} does not take {sorted(known)}") from error


class Instructions(Scorer):
    """Scores 1 if all instructions are followed. The measure `instructions` is the share of followed ones."""

    def score(self, answer: Answer, gold: Any) -> Score:
        """Score an answer. The gold answer has the names and arguments of the instructions, as in IFEval's files."""
        try:
            names, given = gold["instruction_id_list"], gold["kwargs"]
            pairs = list(zip(names, given, strict=True))
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError("the gold answer of `ifeval` is {instruction_id_list: […], kwargs: […]}") from error
        kept = [follows(name, answer.text, values) for name, values in pairs]
        broken = [name for name, one in zip(names, kept, strict=True) if not one]
        return Score(
            value=float(all(kept)),
            answer=f"breaks {', '.join(broken)}" if broken else "follows all",
            measures={"instructions": sum(kept) / len(kept)},
        )


# The rules, with the argument names of IFEval.


def _related(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _words(text: str, *, relation: str, num_words: int) -> bool:
    return _related(len(re.findall(r"\w+", text)), relation, num_words)


def _sentences(text: str, *, relation: str, num_sentences: int) -> bool:
    plain = _ABBREVIATION.sub(lambda match: match.group().replace(".", ""), text)
    lines = [line for line in plain.splitlines() if re.search(r"\w", line)]
    count = sum(max(1, len([one for one in _SENTENCE_END.split(line) if re.search(r"\w", one)])) for line in lines)
    return _related(count, relation, num_sentences)


def _paragraphs(text: str, *, num_paragraphs: int) -> bool:
    pieces = re.split(r"\s?\*\*\*\s?", text)
    if any(not piece.strip() for piece in pieces[1:-1]):
        return False
    return sum(bool(piece.strip()) for piece in pieces) == num_paragraphs


def _nth_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    pieces = text.split("\n\n")
    count = sum(bool(piece.strip()) for piece in pieces)
    if nth_paragraph > count or not pieces[nth_paragraph - 1].strip():
        return False
    word = pieces[nth_paragraph - 1].split()[0].lstrip("'\"").lower()
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0] == first_word.lower()


def _existence(text: str, *, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _frequency(text: str, *, keyword: str, relation: str, frequency: int) -> bool:
    return _related(len(re.findall(re.escape(keyword.strip()), text, re.IGNORECASE)), relation, frequency)


def _forbidden(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letters(text: str, *, letter: str, let_relation: str, let_frequency: int) -> bool:
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


def _highlights(text: str, *, num_highlights: int) -> bool:
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(one.strip("*").strip()) for one in (*single, *double)) >= num_highlights


def _sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", text)) >= num_sections


def _bullets(text: str, *, num_bullets: int) -> bool:
    starred = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashed = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(starred) + len(dashed) == num_bullets


def _json(text: str) -> bool:
    bare = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _placeholders(text: str) -> int:
    """Return the number of `[…]` on a line."""
    count = 0
    for line in text.split("\n"):
        at = 0
        while (start := line.find("[", at)) >= 0 and (end := line.find("]", start)) >= 0:
            count, at = count + 1, end + 1
    return count


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start <= end - 3 and bool(line[start : end + 2].strip("<> "))


def _postscript(text: str, *, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(postscript_marker, re.escape(postscript_marker.strip().lower())), text.lower()))


def _two_responses(text: str) -> bool:
    pieces = text.split("******")
    responses = [piece.strip() for piece in pieces if piece.strip()]
    return all(piece.strip() for piece in pieces[1:-1]) and len(responses) == 2 and len({*responses}) == 2


def _capital_words(text: str, *, capital_relation: str, capital_frequency: int) -> bool:
    count = sum(word.isupper() for word in re.findall(r"\w[\w'-]*", text))
    return _related(count, capital_relation, capital_frequency)


_RULES: dict[str, Rule] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text: text.isupper(),
    "change_case:english_lowercase": lambda text: text.islower(),
    "combination:repeat_prompt": lambda text, *, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": lambda text, *, num_placeholders: (
        _placeholders(text) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text: any(option in text for option in _OPTIONS),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text: any(map(_has_title, text.split("\n"))),
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letters,
    "length_constraints:nth_paragraph_first_word": _nth_first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": lambda text, *, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
}
CHECKED: Final = tuple(sorted(_RULES))
