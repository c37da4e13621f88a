"""Budgets as callers give them."""

from collections.abc import Mapping
from typing import Any

from fusion.core.errors import UsageError
from fusion.core.types import Limits

BudgetGiven = Limits | Mapping[str, Any] | None
"""A budget as callers give it: limits, a mapping of them, or nothing."""


def limits_of(given: BudgetGiven) -> Limits | None:
    """Return the budget as Limits; None if none is given. Raises UsageError for an invalid one."""
    if given is None or isinstance(given, Limits):
        return given
    try:
        return Limits.model_validate(given)
    except ValueError as error:
        raise UsageError(f"budget {given!r}: give positive usd, tokens, calls or seconds") from error


def over(pipeline: Limits, given: Limits | None) -> Limits:
    """Return the limits of the pipeline, each overridden by the user's where one is set."""
    if given is None:
        return pipeline
    return Limits(**{**pipeline.model_dump(exclude_none=True), **given.model_dump(exclude_none=True)})
