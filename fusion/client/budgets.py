"""Shared budgets: the `[budgets.NAME]` of the settings, as levels above the runs of a loop."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from fusion.core.budget import Account, Budget, Caps, Leased, LimitName, account_at
from fusion.core.budget.accounts import NO_AMOUNT
from fusion.core.config import Settings
from fusion.core.config.tables import NamedBudget
from fusion.core.errors import UsageError, close_names
from fusion.core.types import Balance, Limits, Per, Share
from fusion.store.accounts import Accounts, StoreLender, map_account, settle_dead
from fusion.store.base import Store

_EXAMPLE: Final = "`[budgets.nightly]` and `usd = 5`"
UNITS: Final[tuple[LimitName, ...]] = ("usd", "tokens", "calls")
_NO_TAGS: Final[Mapping[str, str]] = {}


def balances(store: Store, settings: Settings) -> list[Balance]:
    """Return the budgets of the settings that the store keeps, after those of dead processes are settled."""
    kept = {name: table for name, table in settings.budgets.items() if table.per is not None}
    for name, table in kept.items():
        settle_dead(store, name, account_of(name, table).period)
    return [_balance(store, name, table) for name, table in sorted(kept.items())]


def account_of(name: str, table: NamedBudget) -> Account:
    """Return the account of a kept budget in its present period."""
    assert table.per is not None
    return account_at(name, Caps.of(table.limits), table.per, time.time())


def _balance(store: Store, name: str, table: NamedBudget) -> Balance:
    account = account_of(name, table)
    row = next((row for row in store.accounts.rows(name) if row.account.period == account.period), None)
    spent, leased = (NO_AMOUNT, NO_AMOUNT) if row is None else (row.spent, row.leased)
    limits: dict[str, Share] = {}
    for unit in UNITS:
        cap = getattr(account.caps, unit)
        if cap is not None:
            used, held = getattr(spent, unit), getattr(leased, unit)
            limits[unit] = Share(limit=cap, spent=used, leased=held, left=max(cap - cap, cap - used - held))
    assert table.per is not None
    return Balance(name=name, per=table.per, period=account.period, opens=account.opening, limits=limits)


def begin_anew(store: Store, settings: Settings, name: str) -> None:
    """Forget what was spent of a kept budget. Raises UsageError for another one."""
    kept = [one for one, table in settings.budgets.items() if table.per is not None]
    if name not in kept:
        raise UsageError(f"no [budgets.{name}] with a period in your settings{close_names(name, kept)}")
    store.accounts.clear(name)


class SharedBudgets:
    """Budgets that runs on one loop share.

    One without a period is a single level, by the name of its table. One with a period is an account of the store,
    and each combination of such budgets has levels of its own, which lease from it: one run is within the budget
    that it names and those that cover its tags.
    """

    def __init__(self, settings: Settings, loop: object, store: Store | None) -> None:
        self._tables: Mapping[str, NamedBudget] = settings.budgets
        self._untrusted = settings.untrusted
        self._loop = loop
        self._store = store
        self._made: dict[str, Budget] = {}
        self._combined: dict[tuple[int, tuple[str, ...]], Budget] = {}
        self._leased: list[Leased] = []
        self._thread: ThreadPoolExecutor | None = None

    def of(self, given: object, tags: Mapping[str, str] = _NO_TAGS) -> Budget | None:
        """Return the budget of a run with these tags, if any; `given` is a name or a Budget. Raises UsageError."""
        root, names = self._given(given), self._kept(given, tags)
        return self._leasing(root, names) if names else root

    def ahead(self, given: object, tags: Mapping[str, str] = _NO_TAGS) -> tuple[Limits | None, list[Balance]]:
        """Return what `of` would hold a run to: the limits of one process, and what is left of kept budgets."""
        root, store = self._given(given), self._store
        limits = None if root is None else root.limits
        if store is None:
            return limits, []
        return limits, [_balance(store, name, self._tables[name]) for name in self._kept(given, tags)]

    def of_map(self, map_id: str, limits: Limits, above: Budget | None) -> Budget:
        """Return the budget of a map whose rows run in several processes, an account of the store."""
        made = self._lease(map_account(map_id), limits, "store", name="the map", parent=above)
        self._leased.append(made)
        return made

    def left(self, within: Budget | None) -> list[Balance]:
        """Return what is left of the kept budgets of a run."""
        if within is None or self._store is None:
            return []
        names = [lease.account.name for lease in within.leases]
        return [_balance(self._store, name, self._tables[name]) for name in names if name in self._tables]

    async def left_at_end(self, within: Budget | None) -> list[Balance]:
        """Return what is left of the kept budgets of a map that has ended. Raises StoreError."""
        names = set() if within is None else {lease.account.name for lease in within.leases}
        for lease in tuple(self._leased):
            if lease.account.name in names:
                await lease.report()
        return await asyncio.to_thread(self.left, within)

    def check(self, name: str) -> None:
        """Raise UsageError for a budget by name that other processes cannot share."""
        if self._given(name) is not None:
            raise UsageError(
                f"[budgets.{name}] is a budget of one process, and this work runs in several: give it a period, such"
                ' as `per = "day"`, or `per = "store"` for one without end'
            )

    async def close(self) -> None:
        """Report what was spent of accounts, and give back every lease."""
        leased, self._leased = self._leased, []
        for one in leased:
            await one.close()
        if self._thread is not None:
            self._thread.shutdown()

    def _kept(self, given: object, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Return the names of the kept budgets that a run is within: the given one, and those that cover its tags."""
        names = {name for name, table in self._tables.items() if table.covers(tags)}
        if isinstance(given, str) and self._tables[given].per is not None:
            names.add(given)
        return tuple(sorted(names))

    def _given(self, given: object) -> Budget | None:
        """Return the single level of a budget; None if there is none, or if it is an account."""
        if given is None:
            return None
        if isinstance(given, str) and self._table(given).per is not None:
            return None
        found = self._named(given) if isinstance(given, str) else given
        if not isinstance(found, Budget):
            raise UsageError(
                f"within={given!r}: give the name of a [budgets.NAME] of your settings, or one Budget to all runs"
                " that share it: Budget(Limits(usd=20))"
            )
        if not found.share(self._loop):
            raise UsageError("this Budget is shared by runs of another Fusion; give each Fusion one of its own")
        return found

    def _named(self, name: str) -> Budget:
        if name not in self._made:
            table = self._table(name)
            limits = table.limits
            self._made[name] = Budget(
                limits, name=f"budgets.{name}", strict_usd=limits.usd is not None, declared_in=table.file
            )
        return self._made[name]

    def _leasing(self, root: Budget | None, names: tuple[str, ...]) -> Budget:
        """Return the level beneath `root` that leases from all these accounts."""
        key = id(root), names
        if key not in self._combined:
            level = root
            for name in names:
                table = self._tables[name]
                assert table.per is not None
                made = self._lease(
                    name, table.limits, table.per, name=f"budgets.{name}", parent=level, declared_in=table.file
                )
                self._leased.append(made)
                level = made
            assert level is not None
            self._combined[key] = level
        return self._combined[key]

    def _lease(
        self, account: str, limits: Limits, per: Per, *, name: str, parent: Budget | None, declared_in: str = ""
    ) -> Leased:
        if self._store is None:
            raise UsageError(
                f"[{name}]{f' of {declared_in}' if declared_in else ''} counts the runs of all processes in a store,"
                " and these runs have none: give one with `--store` or `Fusion(store=True)`, and leave out --no-store"
            )
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="fusion-budgets")
        made = Leased(
            limits,
            StoreLender(self._store),
            partial(account_at, account, Caps.of(limits), per),
            self._thread,
            name=name,
            parent=parent,
            declared_in=declared_in,
        )
        made.share(self._loop)
        return made

    def _table(self, name: str) -> NamedBudget:
        table = self._tables.get(name)
        if table is None:
            raise UsageError(f"no [budgets.{name}] in your settings{self._hint(name)}")
        return table

    def _hint(self, name: str) -> str:
        if self._untrusted is not None and name in self._untrusted.content.budgets:
            path = self._untrusted.path
            return f"; that of {str(path)!r} counts once the file is trusted: fusion trust {path}"
        return close_names(name, self._tables) or f"; declare it in your own fusion.toml: {_EXAMPLE}"


def shared_rates(settings: Settings, store: Store | None) -> Accounts | None:
    """Return the accounts in which processes book the rates of models, if they share them. Raises UsageError."""
    said = [layer.shared for layer in settings.ceilings if layer.shared is not None]
    if any(said):
        if store is None:
            raise UsageError("`shared` in [limits] holds rates for all processes of a store: give one")
        return store.accounts
    return store.accounts if store is not None and store.spans_machines and not said else None
