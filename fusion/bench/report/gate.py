"""Gate: a condition on a benchmark, such as `accuracy >= best_single - 0.5pp and cost <= 0.5*best_single`.

A comparison reads one measure of the judged arm. An arm's name in it is the same measure of that arm. Numbers take
the units `%` and `pp` (both hundredths) and the prefix `$`. The grammar has comparisons and arithmetic only.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from fusion.core.errors import UsageError, close_names
from fusion.core.types import Value

BEST_SINGLE: Final = "best_single"
"""The single model with the highest accuracy; among equals, the cheapest."""

ENDS: Final = ("", "_low", "_high")
"""Endings of the measures with an interval."""
MEASURES: Final = (
    *(f"accuracy{end}" for end in ENDS),
    "cost",
    "cost_per_item",
    "failure_rate",
    "latency",
    "latency_p95",
    "tokens",
    *(f"{name}{end}" for name in ("difference", "cost_ratio") for end in ENDS),
)
"""Names of measures. `difference…` and `cost_ratio…` are against the best single model, with their interval."""

Measures = Mapping[str, float | None]
"""The measures of one arm; None where unknown."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\$?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?P<unit>%|pp\b)?|(?P<name>[A-Za-z_][\w./:@-]*)"
    r"|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sign><=|>=|==|!=|<|>|[-+*/()]))",
    re.IGNORECASE,
)
_MAX_LENGTH = 2_000
_MAX_DEPTH = 50
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True)
class _Chain:
    """Operands joined from left to right, by arithmetic or by the same `and` or `or`."""

    operands: tuple["_Operand", ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class _Comparison:
    text: str
    measure: str
    sign: str
    left: "_Operand"
    right: "_Operand"


_Operand = _Chain | _Comparison | float | str
"""Numbers are floats, and names are strings."""


class Check(Value):
    """One comparison of a gate and the values of its sides, None where unknown."""

    text: str
    left: float | None
    right: float | None
    passed: bool

    def __str__(self) -> str:
        sides = " against ".join("unknown" if side is None else f"{side:.6g}" for side in (self.left, self.right))
        return f"{self.text}: {'met' if self.passed else 'not met'} ({sides})"


class Judgement(Value):
    """The result of a gate for one arm, with every comparison."""

    arm: str
    passed: bool
    checks: tuple[Check, ...]


class Gate:
    """A parsed condition. Raises UsageError that quotes the place of a syntax error.

    >>> gate = Gate("accuracy >= best_single - 0.5pp and cost <= 0.5*best_single")
    >>> arms = {"mine": {"accuracy": 0.899, "cost": 1.0}, "best_single": {"accuracy": 0.90, "cost": 3.0}}
    >>> gate.judge("mine", arms).passed
    True
    """

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_LENGTH:
            raise UsageError(f"a gate of {len(text):,} characters; the most is {_MAX_LENGTH:,}")
        self.text = text
        self._test = _Parser(text).parse()

    def check(self, arms: Iterable[str]) -> None:
        """Raise UsageError for a name that is neither a measure nor one of `arms`."""
        known = dict.fromkeys(arms)
        for name in _names(self._test):
            if name not in MEASURES and name not in known:
                raise UsageError(_unknown(name, known))

    def judge(self, arm: str, arms: Mapping[str, Measures]) -> Judgement:
        """Evaluate the gate for an arm. An unknown number never passes. Raises UsageError for an unknown arm."""
        checks: list[Check] = []
        passed = _evaluate(self._test, arm, arms, checks)
        return Judgement(arm=arm, passed=passed, checks=tuple(checks))


def _evaluate(test: _Operand, arm: str, arms: Mapping[str, Measures], checks: list[Check]) -> bool:
    if isinstance(test, _Chain):
        sides = [_evaluate(side, arm, arms, checks) for side in test.operands]
        return all(sides) if test.signs[0] == "and" else any(sides)
    assert isinstance(test, _Comparison)
    left, right = (_number(side, test.measure, arm, arms) for side in (test.left, test.right))
    passed = left is not None and right is not None and _COMPARE[test.sign](_rounded(left), _rounded(right))
    checks.append(Check(text=test.text, left=left, right=right, passed=passed))
    return passed


def _rounded(value: float) -> float:
    """Drop the last digits, which are rounding errors of arithmetic on shares."""
    return float(f"{value:.12g}")


def _number(part: _Operand, measure: str, arm: str, arms: Mapping[str, Measures]) -> float | None:
    if isinstance(part, float):
        return part
    if isinstance(part, str):
        if part in MEASURES:
            return arms[arm].get(part)
        if part not in arms:
            raise UsageError(_unknown(part, arms))
        return arms[part].get(measure)
    assert isinstance(part, _Chain)
    value, *others = (_number(side, measure, arm, arms) for side in part.operands)
    for sign, right in zip(part.signs, others, strict=True):
        known = value is not None and right is not None and not (sign == "/" and right == 0)
        value = _ARITHMETIC[sign](value, right) if known else None  # type: ignore[arg-type] # both are known
    return value


def _unknown(name: str, arms: Iterable[str]) -> str:
    return f"the gate names {name!r}, which is neither a measure nor an arm{close_names(name, arms)}"


def _names(part: _Operand) -> list[str]:
    if isinstance(part, _Chain):
        return [name for side in part.operands for name in _names(side)]
    if isinstance(part, _Comparison):
        return [*_names(part.left), *_names(part.right)]
    return [part] if isinstance(part, str) else []


class _Token(NamedTuple):
    kind: str
    text: str
    end: int


class _Parser:
    """Recursive descent over the tokens: or, and, comparison, sum, product, sign, value.

    Its own grammar, not `ast`: the messages are the same in every version of Python.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*self._split(), _Token("end", "", len(text))]
        self._at = 0
        self._depth = 0

    def parse(self) -> _Operand:
        test = self._either()
        if self._token.kind != "end":
            raise self._error("`and`, `or` or the end")
        return test

    def _split(self) -> Iterator[_Token]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise UsageError(f"gate {self._text!r}: cannot read {self._text[at:end].strip()[:20]!r}")
            kind = match.lastgroup if match.lastgroup != "unit" else "number"
            yield _Token(str(kind), match.group().strip(), match.end())
            at = match.end()

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *words: str) -> str | None:
        word = self._token.text.lower()
        if self._token.kind not in ("name", "sign") or word not in words:
            return None
        self._at += 1
        return word

    def _chain(self, operand: Callable[[], _Operand], *signs: str) -> _Operand:
        operands, found = [operand()], []
        while sign := self._take(*signs):
            found.append(sign)
            operands.append(operand())
        return _Chain(tuple(operands), tuple(found)) if found else operands[0]

    def _either(self) -> _Operand:
        return self._chain(self._both, "or")

    def _both(self) -> _Operand:
        return self._chain(self._one, "and")

    def _one(self) -> _Operand:
        start = self._at
        if self._take("("):
            try:
                return self._brackets(self._either)
            except UsageError:  # the bracket belongs to a sum
                self._at = start
        return self._comparison()

    def _comparison(self) -> _Comparison:
        start = self._at
        left = self._sum()
        sign = self._take(*_COMPARE)
        if sign is None:
            raise self._error("one of <= >= == != < >")
        right = self._sum()
        text = self._before(self._at, since=start)
        names = dict.fromkeys(name for name in (*_names(left), *_names(right)) if name in MEASURES)
        if len(names) != 1:
            about = f"{len(names)} measures ({', '.join(names)})" if names else "no measure"
            raise UsageError(f"gate: {text!r} is about {about}; it needs one of: {', '.join(MEASURES)}")
        return _Comparison(text, next(iter(names)), sign, left, right)

    def _sum(self) -> _Operand:
        return self._chain(self._product, "+", "-")

    def _product(self) -> _Operand:
        return self._chain(self._value, "*", "/")

    def _value(self) -> _Operand:
        if self._take("-"):
            self._deepen()
            return _Chain((0.0, self._value()), ("-",))
        if self._take("("):
            return self._brackets(self._sum)
        kind, text, _ = self._token
        if kind not in ("number", "name", "quoted") or text.lower() in ("and", "or"):
            raise self._error("a number, a measure or an arm")
        self._at += 1
        return _parse_number(text) if kind == "number" else text.strip("'\"")

    def _brackets(self, content: Callable[[], _Operand]) -> _Operand:
        self._deepen()
        inner = content()
        if not self._take(")"):
            raise self._error("`)`")
        return inner

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"gate {self._text[:40]!r}…: more than {_MAX_DEPTH} brackets and signs")

    def _before(self, at: int, *, since: int = 0) -> str:
        """The text between two tokens."""
        begin = self._tokens[since - 1].end if since else 0
        return self._text[begin : self._tokens[at - 1].end].strip() if at else ""

    def _error(self, wanted: str) -> UsageError:
        got = "the end" if self._token.kind == "end" else repr(self._token.text)
        before = self._before(self._at)
        behind = f" behind {before!r}" if before else ""
        return UsageError(f"gate {self._text!r}: expected {wanted}{behind}, got {got}")


def _parse_number(text: str) -> float:
    bare = text.lstrip("$").lower()
    share = bare.endswith(("%", "pp"))
    return float(bare.removesuffix("%").removesuffix("pp")) / (100 if share else 1)
