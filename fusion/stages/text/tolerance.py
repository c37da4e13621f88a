"""Tolerance: the difference within which two numbers count as equal."""

import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

_PERCENT: Final = r"\s*(.+?)\s*%\s*"
_EXPECTED: Final = "expected a share such as 0.5%, or an amount such as 0.01"


def bounds(tolerance: str | float) -> tuple[Fraction, Fraction]:
    """Return the amount, and the share of the reference, by which an equal number may differ; one of them is 0.

    >>> bounds("0.5%")
    (Fraction(0, 1), Fraction(1, 200))
    """
    share = re.fullmatch(_PERCENT, str(tolerance))
    number = Fraction(Decimal(share[1] if share is not None else str(tolerance)))
    return (Fraction(0), number / 100) if share is not None else (number, Fraction(0))


def within(number: Fraction, reference: Fraction, tolerance: str | float | None) -> bool:
    """Return True if a number is at most the tolerance away from the reference."""
    if tolerance is None:
        return number == reference
    amount, share = bounds(tolerance)
    return abs(number - reference) <= amount + share * abs(reference)


def _checked(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise ValueError(f"{_EXPECTED}, got {given!r}")
    try:
        amount, share = bounds(given)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise ValueError(f"{_EXPECTED}, got {given!r}") from error
    if not (amount > 0 or 0 < share < 1):
        raise ValueError(f"{_EXPECTED}, above 0 and below 100%; got {given!r}")
    return given if isinstance(given, str) or math.isfinite(given) else str(given)


Tolerance = Annotated[
    str | float,
    BeforeValidator(_checked),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "examples": ["0.5%", "0.01"]}]}
    ),
]
"""A share of the reference, such as 0.5%, or an amount."""
