"""Budgets of a receipt: what a run spent of those that its store keeps, by period."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from fusion.core.budget import Account, Amount, Caps, Draws, LimitName, account_at
from fusion.core.budget.accounts import NO_AMOUNT
from fusion.core.budget.amounts import UNITS
from fusion.core.result import BudgetUse, LimitUse
from fusion.core.types import Balance, Value
from fusion.store.base import Store
from fusion.store.rows import Attempt, AttemptEnd, Decision

_TOLD: Final = "budgets of session "
"""Beginning of the names of decisions that keep the budgets which cover a session."""
_NO_DRAWS: Final = Draws()
_NO_NAMES: Final = frozenset[str]()


class _Kept(Value):
    """Budgets that cover a session, as they are kept."""

    budgets: tuple[Balance, ...]


class Drawn(NamedTuple):
    """An amount that a run spent of an account, with what is left of it, if that is known."""

    account: Account
    spent: Amount
    left: Caps | None = None


def told(run_id: str, session: int, budgets: tuple[Balance, ...]) -> Decision:
    """Return the row that keeps the budgets of a session, for the receipts of later ones."""
    return Decision(run_id, "", None, f"{_TOLD}{session}", _Kept(budgets=budgets).model_dump(mode="json"))


def drawn_before(store: Store, run_id: str) -> tuple[Drawn, ...]:
    """Return what the sessions of a run have spent of kept budgets so far, each attempt in the period it began in."""
    covering = dict(_covering(store.decisions(run_id)))
    if not covering:
        return ()
    return tuple(
        Drawn(account_at(one.name, _caps(one), one.per, attempt.opened), _cost(attempt, end))
        for attempt, end in store.attempts(run_id)
        if end is None or end.state != "refunded"
        for one in covering.get(attempt.session, ())
    )


def uses(
    before: Iterable[Drawn], draws: Draws = _NO_DRAWS, names: Collection[str] = _NO_NAMES
) -> tuple[BudgetUse, ...]:
    """Return what a run spent of kept budgets: before, and by the draws of its present session on those named."""
    now = [Drawn(term.account, spent.amount(), term.left) for term, spent in draws if term.account.name in names]
    sums: dict[tuple[str, str], Drawn] = {}
    for account, spent, left in (*before, *now):
        was = sums.get((account.name, account.period))
        sums[account.name, account.period] = Drawn(account, spent.plus(NO_AMOUNT if was is None else was.spent), left)
    return tuple(_use(one) for _, one in sorted(sums.items()))


def _covering(decisions: Iterable[Decision]) -> Iterator[tuple[int, tuple[Balance, ...]]]:
    for one in decisions:
        if not one.stage and one.name.startswith(_TOLD):
            yield int(one.name.removeprefix(_TOLD)), _Kept.model_validate(one.value).budgets


def _caps(balance: Balance) -> Caps:
    found: Mapping[str, Any] = balance.limits
    usd, tokens, calls = (found[unit].limit if unit in found else None for unit in UNITS)
    return Caps(usd, tokens, calls)


def _cost(attempt: Attempt, end: AttemptEnd | None) -> Amount:
    of = end or attempt
    return Amount(of.usd, of.tokens)


def _use(drawn: Drawn) -> BudgetUse:
    account, spent, left = drawn
    limits: dict[LimitName, LimitUse] = {}
    for unit in UNITS:
        limit = getattr(account.caps, unit)
        if limit is not None:
            rest = None if left is None else getattr(left, unit)
            limits[unit] = LimitUse(limit=limit, spent=getattr(spent, unit), left=rest)
    return BudgetUse(name=account.name, period=account.period, opens=account.opening, limits={**limits})
