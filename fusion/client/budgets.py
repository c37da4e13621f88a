"""Shared budgets: the `[budgets.NAME]` of the settings, each one Budget for all runs of a loop."""

from collections.abc import Mapping
from typing import Final

from fusion.core.budget import Budget
from fusion.core.config import Settings
from fusion.core.config.tables import NamedBudget
from fusion.core.errors import UsageError, close_names

_EXAMPLE: Final = "`[budgets.nightly]` and `usd = 5`"


class SharedBudgets:
    """Budgets that runs on one loop share, by the name of their table."""

    def __init__(self, settings: Settings, loop: object) -> None:
        self._tables: Mapping[str, NamedBudget] = settings.budgets
        self._untrusted = settings.untrusted
        self._loop = loop
        self._made: dict[str, Budget] = {}

    def of(self, given: object) -> Budget | None:
        """Return the budget given by name or as a Budget, if any. Raises UsageError."""
        if given is None:
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
        table = self._tables.get(name)
        if table is None:
            raise UsageError(f"no [budgets.{name}] in your settings{self._hint(name)}")
        limits = table.limits
        made = Budget(limits, name=f"budgets.{name}", strict_usd=limits.usd is not None, declared_in=table.file)
        return self._made.setdefault(name, made)

    def _hint(self, name: str) -> str:
        if self._untrusted is not None and name in self._untrusted.content.budgets:
            path = self._untrusted.path
            return f"; that of {str(path)!r} counts once the file is trusted: fusion trust {path}"
        return close_names(name, self._tables) or f"; declare it in your own fusion.toml: {_EXAMPLE}"
