"""Accounts: caps that all processes of a store share, spent from leases.

A holder leases a part of an account, spends it by itself, and reports what it spent. At every instant

    spent + leased <= cap

over all holders, whatever they do at once. A lease counts as spent until its holder gives the rest back. A holder
keeps the lock of its name; where that is free, it has died, and its lease is settled by the attempts in its runs'
journals. What they do not tell stays spent.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from fusion.core.budget import Amount

if TYPE_CHECKING:
    from fusion.store.base import Store

NOTHING: Final = Amount(Decimal(0), tokens=0, calls=0)
GRACE: Final = 60.0
"""Seconds after the end of a period within which an attempt may have been reserved in it."""


class Caps(NamedTuple):
    """The most that an account may spend; None if unlimited."""

    usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None


class Account(NamedTuple):
    """A named account in one period, with its caps.

    `period` is its label, such as `2026-11-30`; empty for an account without end. `begins` and `ends` are its bounds
    in seconds since 1970.
    """

    name: str
    caps: Caps
    period: str = ""
    begins: float | None = None
    ends: float | None = None


class Bid(NamedTuple):
    """A holder's report and its wish, both absolute, so that a repeated one changes nothing.

    `spent` is all that it has spent of the account. `kept` is reserved for its attempts in flight. It asks to hold
    `most`, and can use no less than `least`. `first` opens its lease, `last` ends it.
    """

    spent: Amount = NOTHING
    kept: Amount = NOTHING
    least: Amount = NOTHING
    most: Amount = NOTHING
    first: bool = False
    last: bool = False


class Standing(NamedTuple):
    """The answer to a bid: the open lease of the holder, and the spent and leased amounts of the whole account.

    Without `granted` there is no room for `least`; the lease then stays as it was.
    """

    granted: bool
    open: Amount
    spent: Amount
    leased: Amount


class AccountRow(NamedTuple):
    """An account as it is stored, with the caps that were used last."""

    account: Account
    spent: Amount
    leased: Amount


class LeaseRow(NamedTuple):
    """An open lease of a holder. `at` is the time of its last report."""

    holder: str
    spent: Amount
    open: Amount
    at: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """A session of a run draws on the lease of a holder; it is on disk before the first attempt of the session.

    Of a run that is not kept, the attempts are unknown: the lease of a holder that dies then stays spent.
    """

    account: str
    holder: str
    run_id: str
    session: int


class Accounts(ABC):
    """The accounts and the shared rates of a store. Every method is thread-safe, blocks, and raises StoreError."""

    @abstractmethod
    def exchange(self, account: Account, holder: str, bid: Bid) -> Standing:
        """Take a holder's report, and lease to it what it asks for if the account has room.

        Raises StoreError if the holder has no lease, and the bid is not its `first`: it was settled.
        """

    @abstractmethod
    def rows(self, name: str | None = None) -> list[AccountRow]:
        """Return the accounts, or those of one name, by name and period."""

    @abstractmethod
    def leases(self, name: str, period: str = "") -> list[LeaseRow]:
        """Return the open leases of an account, by holder."""

    @abstractmethod
    def settle(self, holder: str) -> int:
        """End the leases of a holder that has died, by the attempts in its runs' journals; return their number.

        The caller must hold the lock of the holder.
        """

    @abstractmethod
    def clear(self, name: str) -> int:
        """Forget what was spent of an account, in all periods; open leases stay. Return the number of periods."""

    @abstractmethod
    def book(self, rate: str, seconds: float) -> float:
        """Book the next free time of a shared rate for so many seconds; return the seconds until it begins.

        Times that holders book never overlap.
        """


def settle_dead(store: "Store", name: str, period: str = "") -> int:
    """Settle the leases of an account whose holders have died; return the number of settled leases."""
    settled = 0
    for lease in store.accounts.leases(name, period):
        lock = store.claim(lease.holder)
        if lock is not None:
            try:
                settled += store.accounts.settle(lease.holder)
            finally:
                lock.release()
    return settled


def plus(one: Amount, other: Amount) -> Amount:
    """Return the sum of two amounts; an unknown price adds no dollars."""
    usd = (one.usd or Decimal(0)) + (other.usd or Decimal(0))
    return Amount(usd, one.tokens + other.tokens, one.calls + other.calls)


def minus(one: Amount, other: Amount) -> Amount:
    """Return the difference of two amounts."""
    usd = (one.usd or Decimal(0)) - (other.usd or Decimal(0))
    return Amount(usd, one.tokens - other.tokens, one.calls - other.calls)


def larger(one: Amount, other: Amount) -> Amount:
    """Return the larger of each quantity."""
    usd = max(one.usd or Decimal(0), other.usd or Decimal(0))
    return Amount(usd, max(one.tokens, other.tokens), max(one.calls, other.calls))


def settled(lease: LeaseRow, known: Amount | None) -> Amount:
    """Return what a holder that died has spent, by its attempts; None where they are not all known.

    What it reported is the least.
    """
    return plus(lease.spent, lease.open) if known is None else larger(lease.spent, known)
