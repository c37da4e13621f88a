"""Combination of subtasks' values by code: sums, extremes, lists and tables, exact in decimals."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, Literal, NamedTuple, get_args

from fusion.core.schema import closed_object, enum, string
from fusion.core.types import Item, JsonSchema, as_text

How = Literal["sum", "difference", "average", "count", "highest", "lowest", "list", "table"]
HOW: Final[tuple[str, ...]] = get_args(How)
KINDS: Final = ("none", "number", "text")
"""Values that a subtask may have, for the combination."""

_OF_NUMBERS: Final = ("sum", "difference", "average", "highest", "lowest")
_EXACT: Final = Context(prec=60)
_GROUP: Final = 3  # digits
_PLACES: Final = Decimal("0.000001")  # of an average
_NUMBER = re.compile(r"\d[\d.,'’\u00a0\u202f]*")
_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)")

COMBINE_SCHEMA: Final[JsonSchema] = {
    "anyOf": [{"type": "null"}, closed_object({"how": enum(HOW), "only": {"type": "boolean"}})]
}


class Combine(NamedTuple):
    """A plan's choice of a combination; with `only` its result is the whole answer."""

    how: str
    only: bool


class Computed(NamedTuple):
    """A combination: its text, the number of its values, and the titles of the parts that lack one."""

    how: str
    text: str
    values: int
    missing: tuple[str, ...]

    @property
    def done(self) -> bool:
        return not self.missing and self.text != ""


def combine_of(given: Any) -> Combine | None:
    """Return the combination of a plan's head; None for none, or for one that is not in the list."""
    if not isinstance(given, Mapping) or given.get("how") not in HOW:
        return None
    return Combine(given["how"], given.get("only") is True)


def value_kind(item: Item) -> str | None:
    """Return the kind of value that a subtask has for the combination: number or text; None without one."""
    kind = item.source.get("value") if isinstance(item.source, Mapping) else None
    return kind if kind in ("number", "text") else None


def kind_of(how: Any) -> str:
    """Return the kind of value that a combination needs of each subtask."""
    return "number" if how in _OF_NUMBERS else "text"


def is_brief(item: Item) -> bool:
    """Return True for a subtask whose worker writes values only, without an answer in words."""
    return isinstance(item.source, Mapping) and item.source.get("brief") is True


def other_of(item: Item) -> str:
    """Return the second fact that a subtask is asked for, if its value is the highest or lowest; empty if none."""
    return str(item.source.get("other") or "") if isinstance(item.source, Mapping) else ""


def value_schema(item: Item) -> JsonSchema:
    """Return the schema of a worker's reply that has a value for the combination."""
    value = {"type": "number"} if value_kind(item) == "number" else string(500)
    answer = {} if is_brief(item) else {"answer": string(20_000)}
    other = {"other": {"anyOf": [{"type": "number"}, string(500), {"type": "null"}]}} if other_of(item) else {}
    return closed_object({**answer, "value": {"anyOf": [value, {"type": "null"}]}, **other})


def answer_of(item: Item) -> Any:
    """Return the value of an item, without its figure for the combination."""
    if value_kind(item) is None or not isinstance(item.value, Mapping):
        return item.value
    if "answer" in item.value:
        return item.value["answer"]
    return item.value.get("value") if set(item.value) == {"value"} else item.value


def is_shown(number: float, text: str) -> bool:
    """Return True if a number is in a text, in any usual way to write it: 1180.5, 1,180.50, 1.180,50 or 1 180,50."""
    wanted = _plain(Decimal(str(abs(number))))
    found = (*_NUMBER.findall(text), *_GROUPED.findall(text))
    return any(wanted in _readings(token) for token in found)


def _readings(token: str) -> set[str]:
    """Return the numbers that a token may mean: each of its marks may group digits, the last one may be a point."""
    bare = token.rstrip(".,'’\u00a0\u202f")
    digits = [part for part in re.split(r"[.,'’\u00a0\u202f ]", bare) if part]
    readings = {"".join(digits)} if all(len(part) == _GROUP for part in digits[1:]) else set()
    if len(digits) > 1 and all(len(part) == _GROUP for part in digits[1:-1]):
        readings.add("".join(digits[:-1]) + "." + digits[-1])
    return {_plain(Decimal(reading)) for reading in readings}


def computed(how: str, items: Sequence[Item]) -> Computed:
    """Return the combination of the values of all subtasks that have one."""
    parts = [item for item in items if value_kind(item) is not None]
    values = [(_title(item), _value(item, how), _other(item)) for item in parts]
    missing = tuple(title for title, value, other in values if value is None or other is None)
    given = [(title, value) for title, value, other in values if value is not None and other is not None]
    if missing or not given or (how == "difference" and len(given) != 2):
        return Computed(how, "", len(given), missing)
    others = {title: other for title, _, other in values if other}
    return Computed(how, _WAYS[how](given) if not others else _of_best(how, given, others), len(given), ())


_Values = Sequence[tuple[str, Any]]


def _value(item: Item, how: str) -> Any:
    """Return the value of an item: a Decimal for a combination of numbers; None if there is none."""
    value = item.value.get("value") if item.ok and isinstance(item.value, Mapping) else None
    if value is None or how not in _OF_NUMBERS:
        return value
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and not isinstance(value, bool) else None


def _other(item: Item) -> str | None:
    """Return the second fact of an item; empty if it is asked for none, None if it lacks it."""
    if not other_of(item):
        return ""
    value = item.value.get("other") if item.ok and isinstance(item.value, Mapping) else None
    return None if value is None or value == "" else _shown(value)


def _title(item: Item) -> str:
    return str(item.source.get("title") or f"part {item.index + 1}")


def _plain(number: Decimal) -> str:
    """Return a number without exponent and without zeros at its end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text.lstrip("0") or "0"


def _sum(values: _Values) -> Decimal:
    total = Decimal(0)
    for _, value in values:
        total = _EXACT.add(total, value)
    return total


def _average(values: _Values) -> str:
    return _plain(_EXACT.divide(_sum(values), Decimal(len(values))).quantize(_PLACES, context=_EXACT))


def _difference(values: _Values) -> str:
    (_, first), (_, second) = values
    return _plain(_EXACT.abs(_EXACT.subtract(first, second)))


def _extreme(choose: Callable[..., Decimal]) -> Callable[[_Values], str]:
    """Return the way that names every part with the extreme value."""

    def way(values: _Values) -> str:
        best = choose(value for _, value in values)
        return f"{', '.join(title for title, value in values if value == best)}: {_plain(best)}"

    return way


def _of_best(how: str, values: _Values, others: Mapping[str, str]) -> str:
    """Return the second fact of every part with the extreme value."""
    best = _CHOICES[how](value for _, value in values)
    return ", ".join(f"{title}: {others[title]}" for title, value in values if value == best)


def _shown(value: Any) -> str:
    return (
        _plain(Decimal(str(value)))
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else as_text(value)
    )


def _list(values: _Values) -> str:
    return "\n".join(f"- {title}: {_shown(value)}" for title, value in values)


def _table(values: _Values) -> str:
    rows = [("Part", "Value"), ("---", "---"), *((title, _shown(value)) for title, value in values)]
    return "\n".join(f"| {_cell(one)} | {_cell(other)} |" for one, other in rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


_CHOICES: Final[Mapping[str, Callable[..., Decimal]]] = {"highest": max, "lowest": min}
_WAYS: Final[Mapping[str, Callable[[_Values], str]]] = {
    "sum": lambda values: _plain(_sum(values)),
    "difference": _difference,
    "average": _average,
    "count": lambda values: str(len(values)),
    "highest": _extreme(max),
    "lowest": _extreme(min),
    "list": _list,
    "table": _table,
}
