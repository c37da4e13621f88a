"""Retention: removes the runs of a store that are older than the settings keep them, when a run ends."""

import asyncio
from typing import Final

from fusion.core.errors import FusionError
from fusion.core.log import LOG
from fusion.store.base import Store
from fusion.store.lookup import remove_expired


class Sweep:
    """The removal of old runs at the end of one run; `removed` is their number."""

    def __init__(self, store: Store | None, days: int | None) -> None:
        self.removed = 0
        self._store = store
        self._days = days

    async def apply(self) -> None:
        """Remove what is too old. A store that cannot be written is a warning of the log."""
        if self._store is None or self._days is None:
            return
        try:
            self.removed = await asyncio.to_thread(remove_expired, self._store, days=self._days)
        except FusionError as error:
            LOG.warning("old runs are not removed: %s", error)
        if self.removed:
            LOG.info("removed %d runs older than %d days", self.removed, self._days)


NOTHING: Final = Sweep(None, None)
"""The sweep of a run that ended earlier."""
