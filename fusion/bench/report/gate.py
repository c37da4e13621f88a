"""Gate: what a benchmark has to meet, such as `accuracy >= best_single - 0.5pp and cost <= 0.5*best_single`.

A comparison is about one measure of the arm that is judged; an arm's name in it stands for the same measure of that
arm. Numbers may carry `%` or `pp` (both hundredths) or `$`. Nothing is evaluated but comparisons and arithmetic.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

from fusion.core.errors import UsageError, close_names
from fusion.core.types import Value

BEST_SINGLE: Final = "best_single"
"""The single model of the highest accuracy; of equal ones, the cheapest."""

MEASURES: Final = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "cost",
    "cost_per_item",
    "failure_rate",
    "latency",
    "latency_p95",
    "tokens",
    "difference",
    "difference_low",
    "difference_high",
    "cost_ratio",
    "cost_ratio_low",
    "cost_ratio_high",
)
"""What can be compared. `difference…` and `cost_ratio…` are against the best single model, with their interval."""

Measures = Mapping[str, float | None]
"""The measures of one arm; None where one is unknown."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\$?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?P<unit>%|pp\b)?|(?P<name>[A-Za-z_][\w./:@-]*)"
    r"|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sign><=|>=|==|!=|<|>|[-+*/()]))",
    re.IGNORECASE,
)
_MAX = 2_000
_DEEP = 50
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


class _Number(Value):
    kind: Literal["number"] = "number"
    value: float


class _Name(Value):
    kind: Literal["name"] = "name"
    name: str


class _Sum(Value):
    kind: Literal["sum"] = "sum"
    sign: str
    left: "_Part"
    right: "_Part"


class _Comparison(Value):
    kind: Literal["comparison"] = "comparison"
    text: str
    measure: str
    sign: str
    left: "_Part"
    right: "_Part"


class _Joined(Value):
    kind: Literal["joined"] = "joined"
    word: Literal["and", "or"]
    left: "_Test"
    right: "_Test"


_Part = _Number | _Name | _Sum
_Test = _Comparison | _Joined


class Check(Value):
    """One comparison of a gate, with both sides worked out; None where a number in it is unknown."""

    text: str
    left: float | None
    right: float | None
    passed: bool

    def __str__(self) -> str:
        sides = " against ".join("unknown" if side is None else f"{side:.6g}" for side in (self.left, self.right))
        return f"{self.text}: {'met' if self.passed else 'not met'} ({sides})"


class Judgement(Value):
    """Whether an arm meets the gate, and every comparison of it."""

    arm: str
    passed: bool
    checks: tuple[Check, ...]


class Gate:
    """A parsed condition. Raises UsageError that shows where it cannot be read.

    >>> gate = Gate("accuracy >= best_single - 0.5pp and cost <= 0.5*best_single")
    >>> arms = {"mine": {"accuracy": 0.899, "cost": 1.0}, "best_single": {"accuracy": 0.90, "cost": 3.0}}
    >>> gate.judge("mine", arms).passed
    True
    """

    def __init__(self, text: str) -> None:
        if len(text) > _MAX:
            raise UsageError(f"a gate of {len(text):,} characters; the most is {_MAX:,}")
        self.text = text
        self._test = _Reading(text).whole()

    def check(self, arms: Iterable[str]) -> None:
        """Raise UsageError for a name that is neither a measure nor one of these arms."""
        known = dict.fromkeys(arms)
        for name in _named(self._test):
            if name not in MEASURES and name not in known:
                raise UsageError(_unknown(name, known))

    def judge(self, arm: str, arms: Mapping[str, Measures]) -> Judgement:
        """What the gate says of an arm. An unknown number never passes. Raises UsageError for an arm not there."""
        checks: list[Check] = []
        passed = _judged(self._test, arm, arms, checks)
        return Judgement(arm=arm, passed=passed, checks=tuple(checks))


def _judged(test: _Test, arm: str, arms: Mapping[str, Measures], checks: list[Check]) -> bool:
    if test.kind == "joined":
        sides = [_judged(side, arm, arms, checks) for side in (test.left, test.right)]
        return all(sides) if test.word == "and" else any(sides)
    left, right = (_worked(side, test.measure, arm, arms) for side in (test.left, test.right))
    passed = left is not None and right is not None and _COMPARE[test.sign](_rounded(left), _rounded(right))
    checks.append(Check(text=test.text, left=left, right=right, passed=passed))
    return passed


def _rounded(value: float) -> float:
    """Without the last digits, which arithmetic on shares leaves behind."""
    return float(f"{value:.12g}")


def _worked(part: _Part, measure: str, arm: str, arms: Mapping[str, Measures]) -> float | None:
    if part.kind == "number":
        return part.value
    if part.kind == "name":
        return _measure(part.name, measure, arm, arms)
    left, right = (_worked(side, measure, arm, arms) for side in (part.left, part.right))
    if left is None or right is None or (part.sign == "/" and right == 0):
        return None
    return _ARITHMETIC[part.sign](left, right)


def _measure(name: str, measure: str, arm: str, arms: Mapping[str, Measures]) -> float | None:
    if name in MEASURES:
        return arms[arm].get(name)
    if name not in arms:
        raise UsageError(_unknown(name, arms))
    return arms[name].get(measure)


def _unknown(name: str, arms: Iterable[str]) -> str:
    return f"the gate names {name!r}, which is neither a measure nor an arm{close_names(name, arms)}"


def _named(test: _Test) -> list[str]:
    if test.kind == "joined":
        return [*_named(test.left), *_named(test.right)]
    return [*_names(test.left), *_names(test.right)]


class _Reading:
    """A recursive descent over the tokens: or, and, comparison, sum, product, sign, value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def whole(self) -> _Test:
        test = self._either()
        if self._at < len(self._tokens):
            raise self._error("`and`, `or` or the end")
        return test

    def _split(self) -> Iterable[tuple[str, str, int]]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise UsageError(f"gate {self._text!r}: cannot read {self._text[at:end].strip()[:20]!r}")
            kind = match.lastgroup if match.lastgroup != "unit" else "number"
            yield str(kind), match.group().strip(), match.end()
            at = match.end()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at][:2] if self._at < len(self._tokens) else ("end", "")

    def _takes(self, *words: str) -> str | None:
        kind, text = self._peek()
        if kind in ("name", "sign") and text.lower() in words:
            self._at += 1
            return text.lower()
        return None

    def _either(self) -> _Test:
        test = self._both()
        while self._takes("or"):
            test = _Joined(word="or", left=test, right=self._both())
        return test

    def _both(self) -> _Test:
        test = self._one()
        while self._takes("and"):
            test = _Joined(word="and", left=test, right=self._one())
        return test

    def _one(self) -> _Test:
        start = self._at
        if self._takes("("):
            try:
                return self._inner()
            except UsageError:  # the bracket was one of a sum
                self._at = start
        return self._comparison()

    def _inner(self) -> _Test:
        self._deeper()
        test = self._either()
        self._closed()
        return test

    def _comparison(self) -> _Test:
        start = self._at
        left = self._sum()
        sign = self._takes(*_COMPARE)
        if sign is None:
            raise self._error("one of <= >= == != < >")
        right = self._sum()
        begin = self._tokens[start - 1][2] if start else 0
        text = self._text[begin : self._tokens[self._at - 1][2]].strip()
        names = dict.fromkeys(name for name in (*_names(left), *_names(right)) if name in MEASURES)
        if len(names) != 1:
            said = f"{len(names)} measures ({', '.join(names)})" if names else "no measure"
            raise UsageError(f"gate: {text!r} is about {said}; it needs one of: {', '.join(MEASURES)}")
        return _Comparison(text=text, measure=next(iter(names)), sign=sign, left=left, right=right)

    def _sum(self) -> _Part:
        part = self._product()
        while sign := self._takes("+", "-"):
            part = _Sum(sign=sign, left=part, right=self._product())
        return part

    def _product(self) -> _Part:
        part = self._value()
        while sign := self._takes("*", "/"):
            part = _Sum(sign=sign, left=part, right=self._value())
        return part

    def _value(self) -> _Part:
        if self._takes("-"):
            self._deeper()
            return _Sum(sign="-", left=_Number(value=0), right=self._value())
        if self._takes("("):
            self._deeper()
            part = self._sum()
            self._closed()
            return part
        kind, text = self._peek()
        if kind not in ("number", "name", "quoted") or text.lower() in ("and", "or"):
            raise self._error("a number, a measure or an arm")
        self._at += 1
        return _number(text) if kind == "number" else _Name(name=text.strip("'\""))

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEP:
            raise UsageError(f"gate {self._text[:40]!r}…: more than {_DEEP} brackets and signs")

    def _closed(self) -> None:
        if not self._takes(")"):
            raise self._error("`)`")

    def _error(self, wanted: str) -> UsageError:
        got = repr(self._peek()[1]) if self._at < len(self._tokens) else "the end"
        before = self._text[: self._tokens[self._at - 1][2]].strip() if self._at else ""
        behind = f" behind {before!r}" if before else ""
        return UsageError(f"gate {self._text!r}: expected {wanted}{behind}, got {got}")


def _number(text: str) -> _Number:
    bare = text.lstrip("$").lower()
    share = bare.endswith(("%", "pp"))
    return _Number(value=float(bare.removesuffix("%").removesuffix("pp")) / (100 if share else 1))


def _names(part: _Part) -> list[str]:
    if part.kind == "sum":
        return [*_names(part.left), *_names(part.right)]
    return [part.name] if part.kind == "name" else []
