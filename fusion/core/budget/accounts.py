"""Accounts: caps that many processes share, what a holder asks of one, and the calendar of their periods."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from fusion.core.budget.amounts import Amount, Caps
from fusion.core.types import Per

NO_AMOUNT: Final = Amount(Decimal(0), tokens=0, calls=0)


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

    @property
    def when(self) -> str:
        """The period in words, for messages."""
        if not self.period:
            return "in all"
        return f"on {self.period} (UTC)" if self.period.count("-") == 2 else f"in {self.period} (UTC)"

    @property
    def opening(self) -> datetime | None:
        """The time at which the next period begins, in UTC; None if there is none."""
        return None if self.ends is None else datetime.fromtimestamp(self.ends, UTC)

    @property
    def opens(self) -> str:
        """That time in words; empty if there is none."""
        return "" if self.opening is None else f"{self.opening:%Y-%m-%d %H:%M} UTC"


Calendar = Callable[[float], Account]
"""Returns the account of a time, in seconds since 1970."""


class Bid(NamedTuple):
    """A holder's report and its wish, both absolute, so that a repeated one changes nothing.

    `spent` is all that it has spent of the account. It asks to hold `most`, and can use no less than `least`; where
    there is no room for that, it gives back all but `kept`. `first` opens its lease, `last` ends it.
    """

    spent: Amount = NO_AMOUNT
    kept: Amount = NO_AMOUNT
    least: Amount = NO_AMOUNT
    most: Amount = NO_AMOUNT
    first: bool = False
    last: bool = False


class Standing(NamedTuple):
    """The answer to a bid: the open lease of the holder, and the spent and leased amounts of the whole account.

    Without `granted` there is no room for `least`; the holder then has no more than it keeps.
    """

    granted: bool
    open: Amount
    spent: Amount
    leased: Amount


class Lender(Protocol):
    """One holder's access to the accounts of a store. Its methods block, and raise StoreError."""

    def exchange(self, account: Account, bid: Bid) -> Standing:
        """Make a bid."""

    def settle(self, account: Account) -> None:
        """Settle the leases of holders that have died."""

    def draw(self, account: str, run_id: str, session: int, *, kept: bool) -> None:
        """Record that a session of a run draws on the account, before its first attempt."""

    def close(self) -> None:
        """Release the lock of the holder."""


def account_at(name: str, caps: Caps, per: Per, now: float) -> Account:
    """Return the account of a budget in the calendar period of a time.

    >>> account_at("nightly", Caps(calls=9), "week", 1_796_000_000.0).period
    '2026-W48'
    """
    if per == "store":
        return Account(name, caps)
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        begins, ends, label = day, day + timedelta(days=1), f"{day:%Y-%m-%d}"
    elif per == "week":
        begins = day - timedelta(days=day.weekday())
        ends, label = begins + timedelta(days=7), f"{day:%G-W%V}"
    else:
        begins = day.replace(day=1)
        ends, label = (begins + timedelta(days=32)).replace(day=1), f"{day:%Y-%m}"
    return Account(name, caps, label, begins.timestamp(), ends.timestamp())
