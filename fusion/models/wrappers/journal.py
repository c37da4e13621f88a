"""Journaled: replays finished calls from the journal, and records the others when they end."""

import asyncio
import time

from fusion.core.errors import FusionError
from fusion.core.types import CallKey, Deltas, Reply, Request, Waited
from fusion.models.attempt import clock
from fusion.models.base import Model, ModelInfo, ModelWrapper
from fusion.store.journal import Asking, Journal


class Pinned(ModelWrapper):
    """A model with the info it had when its run started."""

    def __init__(self, inner: Model, info: ModelInfo) -> None:
        super().__init__(inner)
        self.info = info

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        return await self.inner.complete(request, on_delta)


class Unreachable(Model):
    """A model that is no longer available: every call raises its error. The journal still replays its replies."""

    def __init__(self, info: ModelInfo, error: FusionError) -> None:
        self.info = info
        self._error = error

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        raise self._error


class Journaled(ModelWrapper):
    """A model of one run, whose calls are recorded in the journal of the run.

    A reply is returned at once; the ledger makes sure that it is on disk before a dependent call is sent. A recorded
    failure on which a finished call depends is raised again.
    """

    def __init__(self, inner: Model, journal: Journal, role: str) -> None:
        super().__init__(inner)
        self._journal = journal
        self._role = role

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        key = request.key
        assert key is not None
        kept = await self._journal.answer(key)
        if kept is not None:
            await asyncio.sleep(0)  # calls made at once begin before the first of them ends
            if on_delta is not None:
                on_delta.add(kept.text)
            return kept
        return await self._record(request, key, on_delta)

    async def _record(self, request: Request, key: CallKey, on_delta: Deltas | None) -> Reply:
        journal = self._journal
        asking = Asking(request, key, self._role, self.info.id, time.time())
        try:
            reply = await self.inner.complete(request, on_delta)
        except FusionError as error:
            journal.failed(asking, error, _waited())
            raise
        journal.finished(asking, reply, _waited())
        return reply


def _waited() -> Waited | None:
    """Return the waits of the current call."""
    here = clock.get()
    return None if here is None else here.waited()
