"""Messages of the errors of budgets."""

import re
from typing import TYPE_CHECKING, Final, Literal

from fusion.core.budget.accounts import NO_AMOUNT
from fusion.core.budget.amounts import LimitName, Tally, dollars, shown
from fusion.core.errors import BudgetError

if TYPE_CHECKING:
    from fusion.core.budget.budget import Budget
    from fusion.core.budget.leased import Leased

_ADVICE: Final = {
    "usd": "lower `max_tokens`, or use a cheaper model",
    "tokens": "lower `max_tokens`, or shorten the input",
    "calls": "or ask for fewer items, members or revisions",
    "seconds": "or use a faster model",
}
"""Other ways than to raise a limit."""
_PASSED: Final = re.compile(r"would pass the (\w+) limit of '([^']+)'")


def overdue(level: "Budget", what: str) -> BudgetError:
    """Return the error of a call without time."""
    return BudgetError(
        f"no time is left for {what}: {level.title} may take {level.limits.seconds:g} s; {advice(level, 'seconds')}",
        limit="seconds",
        level=level.name,
    )


def unpriced(level: "Budget", what: str) -> BudgetError:
    """Return the error of a call whose price is unknown, under a limit in dollars."""
    assert level.limits.usd is not None
    return BudgetError(
        f"the price of {what} is not known, and {level.title} may spend {dollars(level.limits.usd)} at"
        " most: declare the price under `[prices]` in fusion.toml, limit `tokens` or `calls` in place"
        " of dollars, or use a model with a known price",
        limit="usd",
        level=level.name,
    )


def refused(level: "Budget", limit: LimitName, need: Tally, what: str, reserved: Tally) -> BudgetError:
    """Return the error of an amount that does not fit in a level."""
    aside = shown(limit, reserved)
    return BudgetError(
        f"{what} would pass the {limit} limit of {level.title}: limit {shown(limit, level.limits)}, spent"
        f" {shown(limit, Tally.of(level.spent))}, {f'kept for others {aside}, ' if getattr(reserved, limit) else ''}"
        f"needed up to {shown(limit, need)}; {advice(level, limit)}",
        limit=limit,
        level=level.name,
    )


def exhausted(level: "Leased", limit: LimitName, need: Tally, what: str, reserved: Tally) -> BudgetError:
    """Return the error of an amount for which an account has no room."""
    account, standing = level.account, level.standing
    spent, others = level.spent, NO_AMOUNT
    if standing is not None:
        own = level.spent.minus(level.term.reported.amount())
        spent, others = standing.spent.plus(own), standing.leased.minus(standing.open)
    leased, aside = shown(limit, Tally.of(others)), shown(limit, reserved)
    opens = f"it opens again at {account.opens}; " if account.opens else ""
    return BudgetError(
        f"{what} would pass the {limit} limit of {level.title}: limit {shown(limit, level.limits)}, spent"
        f" {shown(limit, Tally.of(spent))} {account.when},"
        f"{f' leased to other processes {leased},' if getattr(others, limit) else ''}"
        f"{f' kept for others {aside},' if getattr(reserved, limit) else ''}"
        f" needed up to {shown(limit, need)}; {opens}{advice(level, limit)}",
        limit=limit,
        level=level.name,
    )


def passed(message: str) -> tuple[str, str] | None:
    """Return the limit and the name of the level that the message of an error names, if it tells of a spent one.

    >>> passed("a call to 'm' would pass the calls limit of 'budgets.day' of fusion.toml: limit 2, spent 2")
    ('calls', 'budgets.day')
    """
    found = _PASSED.search(message)
    return None if found is None else (found[1], found[2])


def advice(level: "Budget", limit: LimitName | Literal["seconds"]) -> str:
    """Return the ways out of a reached limit."""
    return f"raise `{level.key(limit)}`, {_ADVICE[limit]}"
