"""Strict JSON: a parser that takes JSON only, and numbers that it can hold."""

import json
from typing import Any, Final, NoReturn

from fusion.core.types import whole_data

MAX_DIGITS: Final = 1_000


def loaded(text: str) -> Any:
    """Parse JSON, without lone surrogates in its texts. Raises ValueError or RecursionError.

    Refused are duplicate keys, NaN, Infinity, and numbers out of range such as 1e999.
    """
    data = DECODER.decode(text)
    return whole_data(data) if "\\u" in text else data


def number(text: str) -> int | float:
    """Return the value of a JSON number. Raises ValueError for one that is out of range."""
    return _float(text) if any(mark in text for mark in ".eE") else _int(text)


def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raises ValueError for a duplicate key, which is ambiguous."""
    data = dict(given)
    if len(data) < len(given):
        seen: set[str] = set()
        twice = next(key for key, _ in given if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice[:60]!r} in an object")
    return data


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits; the most is {MAX_DIGITS:,}")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_DIGITS else float("inf")
    if value in (float("inf"), float("-inf")) or (value == 0 and text.lower().partition("e")[0].strip("-0.")):
        raise ValueError(f"the number {text[:60]} is out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER: Final = json.JSONDecoder(
    object_pairs_hook=pairs, parse_float=_float, parse_int=_int, parse_constant=_constant
)
"""Decoder of strict JSON; its `raw_decode` reads one value out of a text."""
