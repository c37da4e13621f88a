"""Extraction of the answer from a text, in a form in which equal answers compare equal."""

import ast
import json
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from fusion.core.bounded import clock, patterns
from fusion.core.types import as_text
from fusion.core.validation import Authored
from fusion.models.structured import value_in
from fusion.stages.fields import Pattern, short_form
from fusion.stages.text.numbers import MOST_DIGITS, TOKEN, Number, numbers, of_match
from fusion.stages.text.tolerance import Tolerance, within

Normalisation = Literal["latex", "literals", "numbers", "case"]

_MOST: Final = 100_000
_PARSING: Final = threading.Lock()  # Python 3.11 counts the parser's depth over all threads, and fails
# Patterns are compiled by `re` at their first use: most pipelines extract nothing.
_FENCE = r"```[^\n`]*+\n?"
_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+)?|[-+−]?\.\d+"
_ONE_NUMBER = rf"\s*[$€£]?\s*({_NUMBER})\s*%?\s*"
_SAID = r"answer\W{0,4}(?:is|[:=])\W{0,6}?"
_SAID_NUMBER = rf"(?i:{_SAID}){TOKEN}(?![\w.]*\d|\s*[-+*/=×÷^(])"
_BEFORE_FRACTION = r"(\d)\s*(\\[dtc]?frac)"
_BEHIND_HASHES = r"####\s*(.+)"
_ASSERT = r"assert\b"
_PATH = r"\$?\.?([^.\[\]]+)|\[(\d+)\]"
_EATEN = (("\f", "\\f"), ("\b", "\\b"), ("\r", "\\r"))  # \frac, \boxed and \right after JSON has decoded them
_EATEN_TAB = r"\t(?=(?:ext|imes|frac|heta|an|au|o)\b|ext\{|frac\{)"
_LATEX = (
    (r"\\(?:left|right|displaystyle|limits|[!,;:> ])", ""),
    (r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\frac\s*\{\s*([-+]?[\d.]+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1/\2"),
    (r"\\(?:cdot|times)(?![a-zA-Z])", "*"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", ""),
    (r"\\([%$#&_{}])", r"\1"),
    (r"\\[()\[\]]|\$", ""),
)
_TIGHT = r"\s*([(){}\[\],+*/=<>^-])\s*"


class Extracted(NamedTuple):
    """An extracted answer: its text, its value, the key by which answers are compared, and the unit of a number."""

    text: str
    value: Any
    key: str
    unit: str | None = None


_NOTHING: Final = Extracted("''", "", "''")
"""The empty text as code: an answer in JSON may hold it without quotes of its own."""


def _is_path(path: str) -> str:
    if not path.strip("$.") or re.sub(_PATH, "", path):
        raise ValueError(f"{path!r} is not a path into JSON; write it as answer, $.result.value or rows[0].total")
    return path


class Extractor(Authored):
    r"""The extracted part of an answer: `path` and `pattern` narrow it down, `read` is its type.

    `text` is all that is left; `number` the marked one (`\boxed{}`, `####`, "the answer is"), else the last;
    `choice` one of `choices`, found in the same way; `code` a literal, from a code block or after `assert … ==`.

    >>> Extractor(read="number").extract("So she sells 9 eggs at $2: $1,018.00.").key
    '1018'
    """

    read: Literal["text", "number", "choice", "code"] = Field(default="text", description="Type of the answer.")
    path: Annotated[str, AfterValidator(_is_path)] | None = Field(
        default=None, description="Its path in JSON: answer, $.result.value, rows[0].total."
    )
    pattern: Pattern | None = Field(
        default=None, description="A regular expression: the first group of its last match, or all of it."
    )
    choices: tuple[str, ...] = Field(default=(), max_length=200, description="The possible answers.")
    normalise: tuple[Normalisation, ...] | None = Field(
        default=None, description="Steps that make texts comparable; by default numbers and case."
    )
    tolerance: Tolerance | None = Field(
        default=None, description="Difference at which numbers are still equal: a share such as 0.5%, or an amount."
    )

    @model_validator(mode="before")
    @classmethod
    def _choices_are_read(cls, given: Any) -> Any:
        return {"read": "choice", **given} if isinstance(given, Mapping) and given.get("choices") else given

    @model_validator(mode="after")
    def _fits(self) -> "Extractor":
        if self.read == "choice" and len(set(map(_folded, self.choices))) < 2:
            raise ValueError("`read: choice` needs two `choices` or more")
        if self.read != "choice" and self.choices:
            raise ValueError("`choices` have an effect with `read: choice` only")
        if self.read != "text" and self.normalise is not None:
            raise ValueError(f"`normalise` is for texts; `read: {self.read}` makes answers comparable by itself")
        if self.read != "number" and self.tolerance is not None:
            raise ValueError(f"`tolerance` is for numbers; `read: {self.read}` has none")
        if any(not choice.strip() for choice in self.choices):
            raise ValueError("a choice has no text")
        return self

    def extract(self, answer: Any) -> Extracted | None:
        """Return the answer in a text or in data, if any."""
        found = answer if self.path is None else _at(_data(answer), self.path)
        if found is None:
            return None
        text = as_text(found)[-_MOST:]
        if self.pattern is not None:
            matched = patterns.last(self.pattern, text)
            if matched is None:
                return None
            found = text = matched
        return self._read(found, text)

    def bare(self, answer: str) -> Extracted | None:
        """Return a bare answer, such as a known right one, wherever `path` and `pattern` look."""
        return self._read(answer, answer)

    def key(self, answer: str) -> str | None:
        """Return the comparison key of a bare answer."""
        found = self.bare(answer)
        return None if found is None else found.key

    def same(self, found: Extracted, reference: Extracted) -> bool:
        """Return True for equal answers: of numbers within the tolerance of the reference, in no other unit."""
        if self.read != "number":
            return found.key == reference.key
        if found.unit is not None and reference.unit is not None and found.unit != reference.unit:
            return False
        return within(Fraction(found.key), Fraction(reference.key), self.tolerance)

    def groups(self, answers: Sequence[Extracted | None]) -> list[int | None]:
        """Return for each answer the place of the first answer of its group; None for one that is none.

        An answer joins the first group whose first answer it is the same as, else it begins one.
        """
        firsts: list[int] = []
        found: list[int | None] = []
        for at, answer in enumerate(answers):
            if answer is None:
                found.append(None)
                continue
            first = next((one for one in firsts if self.same(answer, answers[one] or answer)), at)
            if first == at:
                firsts.append(at)
            found.append(first)
        return found

    def _read(self, found: Any, text: str) -> Extracted | None:
        match self.read:
            case "number":
                return _number(text)
            case "choice":
                return _choice(text, self.choices)
            case "code":
                return _code(text) or (_NOTHING if found == "" and self.path is not None else None)
        text = _boxed(text) or text if "latex" in (self.normalise or ()) else text
        bare = text.strip()
        value = bare if isinstance(found, str) else found
        key = self._comparable(bare)
        return Extracted(bare, value, key) if key else None

    def _comparable(self, text: str) -> str:
        steps = ("numbers", "case") if self.normalise is None else self.normalise
        if "latex" in steps:
            text = re.sub(_TIGHT, r"\1", _without_latex(text))
        text = " ".join(text.split()).rstrip(".").strip()
        if "literals" in steps and (literal := _literal(text)) is not None:
            return literal
        if "numbers" in steps and (number := _as_number(text)) is not None:
            return str(number)
        return _folded(text) if "case" in steps else text


ExtractorSpec = Annotated[
    Extractor,
    BeforeValidator(short_form("read")),
    WithJsonSchema({"anyOf": [{"enum": ["text", "number", "code"]}, Extractor.model_json_schema()]}),
]
"""An Extractor; short form: its type, as in `extract: number`."""


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


# The place of the answer.


def fences(text: str) -> list[str]:
    """Return the contents of the code blocks in a text, in their order."""
    blocks: list[str] = []
    opened: int | None = None
    for mark in re.finditer(_FENCE, text):
        clock.check()
        if opened is not None:
            blocks.append(text[opened : mark.start()])
            opened = None
        elif mark.group().endswith("\n"):
            opened = mark.end()
    return blocks


def _data(answer: Any) -> Any:
    """Return the JSON in an answer, whatever text is around it; None if none can be read."""
    if not isinstance(answer, str):
        return answer
    for text in (*reversed(fences(answer)), answer):
        if data := value_in(text):
            return data
    return None


def _at(data: Any, path: str) -> Any:
    """Return the value at a path in data, or None."""
    for name, index in re.findall(_PATH, path.removeprefix("$")):
        if isinstance(data, Mapping) and name in data:
            data = data[name]
        elif isinstance(data, (list, tuple)) and index and int(index) < len(data):
            data = data[int(index)]
        else:
            return None
    return data


def _boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}`."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start + 7 : at]
    return None


# The type of the answer.


def _number(text: str) -> Extracted | None:
    marked = _boxed(text)
    if marked is None and (behind := re.findall(_BEHIND_HASHES, text)):
        marked = behind[-1]
    if marked is not None and (found := _last_number(marked)):
        return found
    if said := list(re.finditer(_SAID_NUMBER, text)):
        return _of_number(of_match(said[-1]))
    return _last_number(text)


def _last_number(text: str) -> Extracted | None:
    mixed = re.sub(_BEFORE_FRACTION, r"\1 \2", text)
    return _of_number(next(numbers(_without_latex(mixed)), None))


def _of_number(number: Number | None) -> Extracted | None:
    if number is None:
        return None
    try:
        value = int(number.value) if number.value.denominator == 1 else float(number.value)
    except OverflowError:  # a fraction too large for a float
        return None
    return Extracted(number.text, value, str(number.value), number.unit)


def _as_number(text: str) -> Fraction | None:
    """Return the exact number that a text is, with or without separators, currency or percent sign."""
    whole = re.fullmatch(_ONE_NUMBER, text)
    if whole is None or len(text) > MOST_DIGITS:
        return None
    bare = whole.group(1).replace(",", "").replace("−", "-").replace(" ", "")
    upper, _, lower = bare.partition("/")
    if abs(int((re.findall(r"[eE]([-+]?\d+)", upper) or ["0"])[0])) > MOST_DIGITS or lower.strip("0") == "" != lower:
        return None
    return Fraction(upper) / Fraction(lower or 1)


def _choice(text: str, choices: tuple[str, ...]) -> Extracted | None:
    def words(choice: str) -> str:
        escaped = r"\s+".join(map(re.escape, choice.split()))
        return escaped if len(choice.strip()) == 1 else f"(?i:{escaped})"  # a lone "a" is mostly an article

    any_of = "|".join(words(choice) for choice in sorted(choices, key=len, reverse=True))
    one = re.compile(rf"(?<!\w)(?:{any_of})(?!\w)")
    marked = _boxed(text)
    said = re.findall(rf"(?i:{_SAID})({any_of})(?!\w)", text)
    found = (one.findall(marked) if marked else []) or said or one.findall(text)
    if not found and len(text.strip()) == 1:
        found = [text.strip()]
    meant = [choice for choice in choices if found and _folded(choice) == _folded(found[-1])]
    exact = [choice for choice in meant if choice == found[-1]] or meant
    return Extracted(found[-1], exact[0], exact[0]) if exact else None


def _code(text: str) -> Extracted | None:
    fenced = fences(text)
    bare = (fenced[-1] if fenced else text).strip().strip("`").strip()
    if (begun := re.search(_ASSERT, bare)) and (compared := bare.find("==", begun.end())) >= 0:
        bare = bare[compared + 2 :].strip() or bare
    if not bare:
        return None
    return Extracted(bare, bare, _literal(bare) or repr(bare))


def _literal(text: str) -> str | None:
    """Return the canonical form of a Python or JSON literal; None for other text."""
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
        return _canonical(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    try:
        return _canonical(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _canonical(value: Any) -> str:
    """Return one form for all equal literals: order counts in lists, not in sets and mappings."""
    match value:
        case dict():
            return "{" + ", ".join(sorted(f"{_canonical(k)}: {_canonical(v)}" for k, v in value.items())) + "}"
        case set():
            return "{" + ", ".join(sorted(map(_canonical, value))) + "}" if value else "set()"
        case list():
            return "[" + ", ".join(map(_canonical, value)) + "]"
        case tuple():
            return "(" + "".join(f"{_canonical(one)}, " for one in value) + ")"
        case float() if value.is_integer():
            return repr(int(value))
    return repr(value)


def _without_latex(text: str) -> str:
    """Return a formula without typesetting commands, and with plain fractions."""
    for eaten, meant in _EATEN:
        text = text.replace(eaten, meant)
    text = _boxed(re.sub(_EATEN_TAB, r"\\t", text)) or text
    for pattern, plain in _LATEX:
        text = re.sub(pattern, plain, text)
    return text
