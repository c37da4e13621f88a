"""Accounts: caps that all processes of a store share, spent from leases.

A holder leases a part of an account, spends it by itself, and reports what it spent. At every instant

    spent + leased <= cap

over all holders, whatever they do at once. A lease counts as spent until its holder gives the rest back. A holder
keeps the lock of its name; where that is free, it has died, and its lease is settled by the attempts in its runs'
journals. What they do not tell stays spent.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

from fusion.core.budget import Account, Amount, Bid, Standing
from fusion.core.errors import StoreError

if TYPE_CHECKING:
    from fusion.store.base import RunLock, Store

GRACE: Final = 60.0
"""Seconds after the end of a period within which an attempt may have been reserved in it."""


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


class StoreLender:
    """One holder's access to the accounts of a store; it holds the lock of its name from its first bid on."""

    def __init__(self, store: "Store") -> None:
        self.holder = f"lease-{uuid4().hex}"
        self._store = store
        self._lock: RunLock | None = None
        self._unknown = False

    def exchange(self, account: Account, bid: Bid) -> Standing:
        """Make a bid. Raises StoreError."""
        if self._lock is None:
            self._lock = self._store.claim(self.holder)
            if self._lock is None:
                raise StoreError(
                    f"the store {self._store.where}: the lock {self.holder!r} is held by another process"
                )
        return self._store.accounts.exchange(account, self.holder, bid)

    def settle(self, account: Account) -> None:
        """Settle the leases of an account whose holders have died."""
        settle_dead(self._store, account.name, account.period)

    def draw(self, account: str, run_id: str, session: int, *, kept: bool) -> None:
        """Record that a session of a run draws on an account; of runs that are not kept, only that there are some."""
        if kept:
            self._store.put(Drawing(account, self.holder, run_id, session))
        elif not self._unknown:
            self._unknown = True
            self._store.put(Drawing(account, self.holder, "", 0))
            self._store.flush()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()


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


def settle_all(store: "Store") -> None:
    """Settle the leases of all holders that have died, while the runs that tell their spending are there."""
    for row in store.accounts.rows():
        if any(row.leased):
            settle_dead(store, row.account.name, row.account.period)


def settled(lease: LeaseRow, known: Amount | None) -> Amount:
    """Return what a holder that died has spent, by its attempts; None where they are not all known.

    What it reported is the least.
    """
    return lease.spent.plus(lease.open) if known is None else lease.spent.at_least(known)


def map_account(map_id: str) -> str:
    """Return the name of the account of a map whose rows run in several processes."""
    return f"map {map_id}"
