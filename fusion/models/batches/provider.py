"""ProviderBatches: base of the batch APIs whose rows are live requests of one model."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from fusion.core.errors import BadRequestError, ModelConnectionError
from fusion.core.types import Request
from fusion.models.base import ModelInfo
from fusion.models.batches.base import BatchDoor, Ended, Entry
from fusion.models.batches.carried import ended
from fusion.models.providers.wire import WireModel

Check = Callable[[Request], None]

_AT_ONCE: Final = 50
"""Rows that are written or read before other tasks have their turn."""


class ProviderBatches(BatchDoor):
    """The batches of a model that also answers live.

    `check` raises for a request that must not be sent, as it does before a live call.
    """

    def __init__(self, info: ModelInfo, model: WireModel[Any], check: Check) -> None:
        self.info = info
        self._model = model
        self._check = check

    @abstractmethod
    def line(self, entry: Entry) -> bytes:
        """Return a row as it is sent, without the end of its line."""

    def size(self, entry: Entry) -> int:
        self._check(entry.request)
        return len(self.line(entry)) + 1

    async def _lines(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return the rows of a batch. Raises BadRequestError for a batch that the provider would refuse."""
        if not entries or len(entries) > self.most_rows:
            raise self._unfit(f"{len(entries):,} rows; it takes 1 to {self.most_rows:,}")
        if len({entry.custom_id for entry in entries}) < len(entries):
            raise self._unfit("two rows of one custom id")
        lines = [line async for line in paced(map(self._checked_line, entries))]
        size = sum(map(len, lines)) + len(lines)
        if size > self.most_bytes:
            raise self._unfit(f"{size:,} bytes; it takes {self.most_bytes:,} at most")
        return lines

    def _checked_line(self, entry: Entry) -> bytes:
        self._check(entry.request)
        return self.line(entry)

    def _unfit(self, why: str) -> BadRequestError:
        return BadRequestError(f"a batch for {self.info.id!r} has {why}", model=self.info.id)

    async def _answered(self, custom_id: str, request: Request, status: int, body: bytes) -> Ended:
        """Return the end of a row that got this response."""
        return await ended(self._model, custom_id, request, status, body)

    def _unanswered(self, custom_id: str, why: str) -> Ended:
        """Return the end of a row that was not worked on."""
        model = self.info.id
        message = f"the batch of {model!r} ended before this row was answered ({why})"
        return Ended(custom_id, None, ModelConnectionError(message, model=model, sent=False))

    def _lost(self) -> ModelConnectionError:
        """Return the error of a response without the id of the new batch, which may exist."""
        model = self.info.id
        return ModelConnectionError(f"the batch API of {model!r} gives no id of the new batch", model=model)


async def paced(given: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield what takes time to make, leaving the event loop free now and then."""
    for number, one in enumerate(given, 1):
        yield one
        if not number % _AT_ONCE:
            await asyncio.sleep(0)


def part(data: Any, *names: str) -> Any:
    """Return a value within nested objects of JSON; None if it is missing.

    >>> part({"a": {"b": 1}}, "a", "b")
    1
    """
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def count(data: Any, *names: str) -> int:
    """Return a count within nested objects of JSON, a number or its text; 0 if it is missing."""
    found = part(data, *names)
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
