"""ProviderBatches: base of the batch APIs whose rows are live requests of one model."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from fusion.core.errors import BadRequestError, ModelConnectionError, ModelError
from fusion.core.types import Request
from fusion.models.base import ModelInfo
from fusion.models.batches.api import Api
from fusion.models.batches.base import BatchDoor, Ended, Entry
from fusion.models.batches.carried import ended
from fusion.models.providers.wire import DirectModel, WireModel, encoded

Check = Callable[[Request], None]

_AT_ONCE: Final = 50
"""Rows that are written before other tasks have their turn."""
_ENDS: Final = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))
"""Ends of lines to Unicode, beside those that JSON escapes anyway."""


class ProviderBatches(BatchDoor):
    """The batches of a model that also answers live.

    `check` raises for a request that must not be sent, as it does before a live call.
    """

    _api: Api

    def __init__(self, info: ModelInfo, model: WireModel[Any], check: Check) -> None:
        self.info = info
        self._model = model
        self._check = check

    @abstractmethod
    async def _line(self, entry: Entry) -> bytes:
        """Return a row as it is sent, without the end of its line."""

    async def _lines(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return the rows of a batch. Raises BadRequestError for a batch that the provider would refuse."""
        if not entries or len(entries) > self.most_rows:
            raise self._unfit(f"{len(entries):,} rows; it takes 1 to {self.most_rows:,}")
        if len({entry.custom_id for entry in entries}) < len(entries):
            raise self._unfit("two rows of one custom id")
        lines = [line async for line in self._written(entries)]
        size = sum(map(len, lines)) + len(lines)
        if size > self.most_bytes:
            raise self._unfit(f"{size:,} bytes; it takes {self.most_bytes:,} at most")
        return lines

    async def _written(self, entries: Sequence[Entry]) -> AsyncIterator[bytes]:
        """Yield the rows as they are sent, leaving the event loop free now and then."""
        for number, entry in enumerate(entries, 1):
            self._check(entry.request)
            yield await self._line(entry)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)

    def _unfit(self, why: str) -> BadRequestError:
        return BadRequestError(f"a batch for {self.info.id!r} has {why}", model=self.info.id)

    async def _created(self, path: str, fields: Mapping[str, Any], name: str) -> str:
        """Return the id of a new batch of uploaded rows, which `name` names. A refusal is for the sake of no row."""
        try:
            found = (await self._api.ask("POST", path, fields)).get(name)
        except BadRequestError as error:
            raise ModelError(str(error), model=error.model) from error
        if not isinstance(found, str) or not found:
            raise self._lost()
        return found

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


class DirectBatches(ProviderBatches):
    """The batches of a model that Fusion's own HTTP client asks."""

    def __init__(self, model: DirectModel, check: Check) -> None:
        super().__init__(model.info, model, check)
        self._body = model.body
        self._api = Api(model.info, model.address, model.signed, model.mask)

    @abstractmethod
    def line(self, entry: Entry) -> bytes:
        """Return a row as it is sent, without the end of its line."""

    def size(self, entry: Entry) -> int:
        self._check(entry.request)
        return len(self.line(entry)) + 1

    async def _line(self, entry: Entry) -> bytes:
        return self.line(entry)


def unsent(error: ModelError) -> ModelConnectionError:
    """Return the error of a step before the batch, which therefore does not exist."""
    return ModelConnectionError(str(error), model=error.model, retry_after=error.retry_after, sent=False)


def in_one_line(fields: Mapping[str, Any]) -> bytes:
    """Return JSON without any character that some programs take for the end of a line."""
    line = encoded(fields)
    for end, escaped in _ENDS:
        line = line.replace(end, escaped)
    return line


def object_of(line: bytes) -> dict[str, Any]:
    """Return a line of results; an empty object for one that is broken."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def part(data: Any, *names: str) -> Any:
    """Return a value within nested objects of JSON; None if it is missing.

    >>> part({"a": {"b": 1}}, "a", "b")
    1
    """
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def objects(data: Any, name: str) -> list[dict[str, Any]]:
    """Return the objects in a list of JSON; an empty list if it is missing."""
    found = part(data, name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def count(data: Any, *names: str) -> int:
    """Return a count within nested objects of JSON, a number or its text; 0 if it is missing."""
    found = part(data, *names)
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
