"""UnnamedBatches: base of the batch APIs that keep no names, whose batches are found by their rows."""

import hashlib
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final, NamedTuple

from fusion.core.errors import ModelConnectionError
from fusion.models.batches.base import Entry
from fusion.models.batches.provider import Check, DirectBatches
from fusion.models.providers.wire import DirectModel

_TAG: Final = 12
_AGAIN: Final = 60.0
"""Seconds after which an open batch is looked at again."""
_KEPT: Final = 31 * 86_400
"""Seconds for which a provider keeps results, and so the age of batches that are searched."""


class Listed(NamedTuple):
    """A batch in the provider's list: the time of its creation, the number of its rows, and if it is open."""

    batch_id: str
    created: float
    rows: int
    is_open: bool


class UnnamedBatches(DirectBatches):
    """Batches whose custom ids begin with a tag of their name, by which results tell which batch they are of."""

    def __init__(self, model: DirectModel, check: Check) -> None:
        super().__init__(model, check)
        self._tags: dict[str, str] = {}

    @abstractmethod
    def _newest(self) -> AsyncIterator[Listed]:
        """Yield the batches of the account that may be of this model, the newest first."""

    @abstractmethod
    async def _first(self, batch_id: str) -> str | None:
        """Return the custom id of one row of a batch that has ended; None if it has no results."""

    def size(self, entry: Entry) -> int:
        return super().size(entry) + _TAG + 1

    def _tagged(self, entries: Sequence[Entry], name: str) -> list[Entry]:
        """Return the rows under the custom ids that the provider knows them by."""
        tag = _tag_of(name)
        return [entry._replace(custom_id=f"{tag}-{entry.custom_id}") for entry in entries]

    def _noted(self, batch_id: Any, name: str) -> str:
        """Return the id of a new batch. Raises ModelConnectionError if there is none."""
        if not isinstance(batch_id, str) or not batch_id:
            raise self._lost()
        self._tags[batch_id] = _tag_of(name)
        return batch_id

    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        wanted, oldest, waits = _tag_of(name), time.time() - _KEPT, False
        async for batch in self._newest():
            if batch.created < oldest:
                break
            if batch.rows < len(custom_ids):
                continue
            if batch.is_open and batch.batch_id not in self._tags:
                waits = True
            elif await self._tag(batch.batch_id) == wanted:
                return batch.batch_id
        if waits:
            raise self._undecided()
        return None

    async def _tag(self, batch_id: str) -> str:
        """Return the tag of a batch that has ended, or that was submitted here."""
        if batch_id not in self._tags:
            found = await self._first(batch_id)
            self._tags[batch_id] = "" if found is None else found.partition("-")[0]
        return self._tags[batch_id]

    def _undecided(self) -> ModelConnectionError:
        model = self.info.id
        return ModelConnectionError(
            f"{model!r} does not tell the rows of open batches, one of which may be the one that is looked for",
            model=model,
            retry_after=_AGAIN,
        )


def own_id(custom_id: Any) -> str | None:
    """Return the custom id of a row without its tag; None for a row of another program."""
    if not isinstance(custom_id, str):
        return None
    tag, mark, own = custom_id.partition("-")
    return own if mark and len(tag) == _TAG else None


def _tag_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_TAG]
