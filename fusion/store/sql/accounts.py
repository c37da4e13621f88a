"""Accounts and shared rates in SQL: each exchange is one short transaction."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from math import inf
from typing import Any, Final, Protocol

from fusion.core.budget import Account, Amount, Bid, Caps, Standing
from fusion.core.budget.accounts import NO_AMOUNT
from fusion.core.errors import StoreError
from fusion.store.accounts import GRACE, AccountRow, Accounts, LeaseRow, settled
from fusion.store.sql.codec import pack_money, unpack_money


class Executing(Protocol):
    """Executes statements; the answer has `fetchone`, `fetchall` and `rowcount`."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Any: ...


Connecting = Callable[[], AbstractContextManager[Executing]]
Changing = Callable[[str], AbstractContextManager[Executing]]
"""Returns a transaction in which no other one changes what has this name."""
Clock = Callable[[Executing], float]

_UNITS: Final = ("usd", "tokens", "calls")
_OPENED: Final = (
    "INSERT INTO accounts (name, period, begins, ends) VALUES (?, ?, ?, ?) ON CONFLICT (name, period) DO NOTHING"
)
_ACCOUNT: Final = (
    "SELECT account, spent_usd, spent_tokens, spent_calls, open_usd, open_tokens, open_calls"
    " FROM accounts WHERE name = ? AND period = ?"
)
_LEASE: Final = (
    "SELECT holder, spent_usd, spent_tokens, spent_calls, open_usd, open_tokens, open_calls, at"
    " FROM leases WHERE account = ?"
)
_CHANGED: Final = (
    "UPDATE accounts SET cap_usd = ?, cap_tokens = ?, cap_calls = ?, spent_usd = ?, spent_tokens = ?,"
    " spent_calls = ?, open_usd = ?, open_tokens = ?, open_calls = ? WHERE account = ?"
)
_LEASED: Final = (
    "INSERT INTO leases"
    " (account, holder, spent_usd, spent_tokens, spent_calls, open_usd, open_tokens, open_calls, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account, holder) DO UPDATE SET spent_usd = excluded.spent_usd,"
    " spent_tokens = excluded.spent_tokens, spent_calls = excluded.spent_calls, open_usd = excluded.open_usd,"
    " open_tokens = excluded.open_tokens, open_calls = excluded.open_calls, at = excluded.at"
)
_ROWS: Final = (
    "SELECT name, period, begins, ends, cap_usd, cap_tokens, cap_calls, spent_usd, spent_tokens, spent_calls,"
    " open_usd, open_tokens, open_calls FROM accounts"
)
_HELD: Final = "SELECT account, name, begins, ends FROM accounts JOIN leases USING (account) WHERE holder = ?"
_KNOWN: Final = (
    "SELECT decimal_sum(attempts.usd), CAST(ifnull(sum(attempts.tokens), 0) AS bigint), count(attempts.number)"
    " FROM drawings JOIN runs USING (run_id)"
    " JOIN attempts ON attempts.run = runs.run AND attempts.session = drawings.session"
    " WHERE drawings.account = ? AND drawings.holder = ? AND attempts.state <> 'refunded'"
    " AND attempts.opened >= ? AND attempts.opened < ?"
)
_UNKNOWN: Final = (
    "SELECT 1 FROM drawings WHERE account = ? AND holder = ?"
    " AND NOT EXISTS (SELECT 1 FROM sessions JOIN runs USING (run)"
    " WHERE runs.run_id = drawings.run_id AND sessions.session = drawings.session)"
)

_FORGOTTEN: Final = (
    "DELETE FROM leases WHERE account IN (SELECT account FROM accounts WHERE name = ?)",
    "DELETE FROM drawings WHERE account = ?",
    "DELETE FROM accounts WHERE name = ?",
)


def forget(connection: Executing, name: str) -> None:
    """Remove an account with its leases, in the transaction of a connection."""
    for sql in _FORGOTTEN:
        connection.execute(sql, (name,))


class SqlAccounts(Accounts):
    """Accounts of a store whose connections `connecting` lends, and `changing` in a transaction.

    `clock` returns the time that is the same for all processes, in seconds since 1970.
    """

    def __init__(self, connecting: Connecting, changing: Changing, where: str, *, clock: Clock) -> None:
        self._clock = clock
        self._connecting = connecting
        self._changing = changing
        self._where = where

    def exchange(self, account: Account, holder: str, bid: Bid) -> Standing:
        with self._changing(lock_of(account.name)) as connection:
            if bid.first:
                connection.execute(_OPENED, (account.name, account.period, account.begins, account.ends))
            row = connection.execute(_ACCOUNT, (account.name, account.period)).fetchone()
            lease = None if row is None else _lease(connection, row[0], holder)
            if row is None or (lease is None and not bid.first):
                raise StoreError(
                    f"the store {self._where}: the lease of {account.name!r} was settled, since its holder had lost"
                    " its lock"
                )
            old = lease or LeaseRow(holder, NO_AMOUNT, NO_AMOUNT, 0.0)
            standing = _standing(account.caps, _amount(row[1:4]), _amount(row[4:7]), old, bid)
            caps, sums = account.caps, (*_packed(standing.spent), *_packed(standing.leased))
            connection.execute(_CHANGED, (pack_money(caps.usd), caps.tokens, caps.calls, *sums, row[0]))
            if bid.last:
                _end(connection, row[0], account.name, holder)
            else:
                held = (*_packed(bid.spent), *_packed(standing.open))
                connection.execute(_LEASED, (row[0], holder, *held, time.time()))
            return standing

    def rows(self, name: str | None = None) -> list[AccountRow]:
        of_name = "" if name is None else " WHERE name = ?"
        with self._connecting() as connection:
            found = connection.execute(
                f"{_ROWS}{of_name} ORDER BY name, period", () if name is None else (name,)
            ).fetchall()
        return [_account_row(row) for row in found]

    def leases(self, name: str, period: str = "") -> list[LeaseRow]:
        with self._connecting() as connection:
            row = connection.execute(_ACCOUNT, (name, period)).fetchone()
            found = [] if row is None else connection.execute(f"{_LEASE} ORDER BY holder", (row[0],)).fetchall()
        return [_lease_row(one) for one in found]

    def settle(self, holder: str) -> int:
        with self._connecting() as connection:
            held = connection.execute(_HELD, (holder,)).fetchall()
        return sum(self._settled(holder, *account) for account in held)

    def _settled(self, holder: str, number: int, name: str, begins: float | None, ends: float | None) -> bool:
        """Settle a lease of a dead holder; return False if it was settled meanwhile."""
        with self._changing(lock_of(name)) as connection:
            lease = _lease(connection, number, holder)
            if lease is None:
                return False
            spent = settled(lease, _known(connection, name, holder, begins, ends))
            _change(connection, number, spent.minus(lease.spent), NO_AMOUNT.minus(lease.open))
            _end(connection, number, name, holder)
            return True

    def clear(self, name: str) -> int:
        with self._changing(lock_of(name)) as connection:
            found: int = connection.execute(
                "UPDATE accounts SET spent_usd = '0', spent_tokens = 0, spent_calls = 0 WHERE name = ?", (name,)
            ).rowcount
            connection.execute(
                "DELETE FROM accounts WHERE name = ? AND account NOT IN (SELECT account FROM leases)", (name,)
            )
            return found

    def book(self, rate: str, seconds: float) -> float:
        with self._changing(f"rate {rate}") as connection:
            now = self._clock(connection)
            row = connection.execute("SELECT next FROM rates WHERE name = ?", (rate,)).fetchone()
            begins = now if row is None else max(now, float(row[0]))
            connection.execute(
                "INSERT INTO rates (name, next) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET next = excluded.next",
                (rate, begins + seconds),
            )
            return begins - now


def lock_of(name: str) -> str:
    """Return the name of a transaction that changes an account."""
    return f"account {name}"


def _standing(caps: Caps, spent: Amount, leased: Amount, old: LeaseRow, bid: Bid) -> Standing:
    """Return the account after a bid: the most of it that there is room for, else what the holder keeps."""
    new = bid.spent.minus(old.spent)
    spent, others = spent.plus(new), leased.minus(old.open)
    room = [_room(cap, used) for cap, used in zip(caps, spent.plus(others), strict=True)]
    granted = all(one >= least for one, least in zip(room, bid.least, strict=True))
    if granted:
        usd, tokens, calls = (min(one, most) for one, most in zip(room, bid.most, strict=True))
        opened = Amount(usd, tokens, calls)
    else:
        opened = old.open.minus(new).at_most(bid.kept).at_least(NO_AMOUNT)
    return Standing(granted, opened, spent, others.plus(opened))


def _room(cap: Any, used: Any) -> Any:
    return inf if cap is None else cap - used


def _known(connection: Executing, name: str, holder: str, begins: float | None, ends: float | None) -> Amount | None:
    """Return what the attempts of a holder sum up to; None if some are unknown."""
    if connection.execute(_UNKNOWN, (name, holder)).fetchone() is not None:
        return None
    of_period = (-inf if begins is None else begins, inf if ends is None else ends + GRACE)
    return _amount(connection.execute(_KNOWN, (name, holder, *of_period)).fetchone())


def _change(connection: Executing, number: int, spent: Amount, opened: Amount) -> None:
    row = connection.execute(f"{_ACCOUNT.partition(' WHERE')[0]} WHERE account = ?", (number,)).fetchone()
    after = (*_packed(_amount(row[1:4]).plus(spent)), *_packed(_amount(row[4:7]).plus(opened)))
    columns = ", ".join(f"{kind}_{unit} = ?" for kind in ("spent", "open") for unit in _UNITS)
    connection.execute(f"UPDATE accounts SET {columns} WHERE account = ?", (*after, number))


def _end(connection: Executing, number: int, name: str, holder: str) -> None:
    """Remove a lease, and what is known of its holder's runs once it holds no other lease of the name."""
    connection.execute("DELETE FROM leases WHERE account = ? AND holder = ?", (number, holder))
    connection.execute(
        "DELETE FROM drawings WHERE account = ?1 AND holder = ?2 AND NOT EXISTS"
        " (SELECT 1 FROM leases JOIN accounts USING (account) WHERE name = ?1 AND holder = ?2)",
        (name, holder),
    )


def _lease(connection: Executing, number: int, holder: str) -> LeaseRow | None:
    row = connection.execute(f"{_LEASE} AND holder = ?", (number, holder)).fetchone()
    return None if row is None else _lease_row(row)


def _lease_row(row: Any) -> LeaseRow:
    return LeaseRow(row[0], _amount(row[1:4]), _amount(row[4:7]), row[7])


def _account_row(row: Any) -> AccountRow:
    name, period, begins, ends, usd, tokens, calls = row[:7]
    account = Account(name, Caps(unpack_money(usd), tokens, calls), period, begins, ends)
    return AccountRow(account, _amount(row[7:10]), _amount(row[10:13]))


def _amount(row: Any) -> Amount:
    usd, tokens, calls = row
    return Amount(unpack_money(usd) or Decimal(0), tokens, calls)


def _packed(amount: Amount) -> tuple[str | None, int, int]:
    return pack_money(amount.usd or Decimal(0)), amount.tokens, amount.calls
