"""AnthropicBatches: Anthropic's Message Batches API.

https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from fusion.core.types import Request
from fusion.models.batches.base import BatchState, BatchStatus, Ended, Entry
from fusion.models.batches.provider import count, object_of, objects, part
from fusion.models.batches.unnamed import Listed, UnnamedBatches, own_id
from fusion.models.providers.wire import encoded

_PATH: Final = "/v1/messages/batches"
_PAGE: Final = 100
_COUNTS: Final = ("processing", "succeeded", "errored", "canceled", "expired")
_UNANSWERED: Final = ("expired", "canceled")


class AnthropicBatches(UnnamedBatches):
    """The batches of a model: rows are sent in one body, results come as one file."""

    most_rows = 100_000
    most_bytes = 255_999_000
    """The limit of 256 MB, less the body around the rows."""

    def line(self, entry: Entry) -> bytes:
        return encoded({"custom_id": entry.custom_id, "params": self._body(entry.request, stream=False)})

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        lines = await self._lines(self._tagged(entries, name))
        sent = await self._api.send("POST", _PATH, b'{"requests":[' + b",".join(lines) + b"]}")
        return self._noted(part(sent.data, "id"), name)

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._api.ask("GET", f"{_PATH}/{batch_id}")
        counts = batch.get("request_counts")
        return BatchState(
            status=_status(batch),
            total=_total(batch),
            done=count(counts, "succeeded"),
            failed=count(counts, "errored"),
            message="its results are archived" if batch.get("archived_at") else "",
        )

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        seen: set[str] = set()
        async for line in self._api.lines(f"{_PATH}/{batch_id}/results"):
            row = object_of(line)
            custom_id = own_id(row.get("custom_id"))
            if custom_id is not None and custom_id in requests and custom_id not in seen:
                seen.add(custom_id)
                yield await self._ended(custom_id, requests[custom_id], row.get("result"))

    async def cancel(self, batch_id: str) -> None:
        await self._api.ask("POST", f"{_PATH}/{batch_id}/cancel")

    async def _newest(self) -> AsyncIterator[Listed]:
        query: dict[str, str | int] = {"limit": _PAGE}
        while True:
            page = await self._api.ask("GET", _PATH, query=query)
            for one in objects(page, "data"):
                if not one.get("archived_at"):
                    created, is_open = _time(one.get("created_at")), _status(one) == "open"
                    yield Listed(str(one.get("id")), created, _total(one), is_open)
            if not page.get("has_more") or page.get("last_id") in (None, query.get("after_id")):
                return
            query["after_id"] = str(page["last_id"])

    async def _first(self, batch_id: str) -> str | None:
        async with aclosing(self._api.lines(f"{_PATH}/{batch_id}/results")) as lines:
            async for line in lines:
                if found := object_of(line).get("custom_id"):
                    return str(found)
        return None

    async def _ended(self, custom_id: str, request: Request, result: Any) -> Ended:
        kind = part(result, "type")
        if kind in _UNANSWERED:
            return self._unanswered(custom_id, str(kind))
        body = part(result, "message") if kind == "succeeded" else part(result, "error")
        return await self._answered(custom_id, request, 200, encoded(body if isinstance(body, dict) else {}))


def _total(batch: Mapping[str, Any]) -> int:
    return sum(count(batch, "request_counts", name) for name in _COUNTS)


def _status(batch: Mapping[str, Any]) -> BatchStatus:
    """Return the state of a batch; one that has ended is named after its rows without an answer."""
    if batch.get("archived_at"):
        return "failed"
    if batch.get("processing_status") != "ended":
        return "open"
    if count(batch, "request_counts", "canceled"):
        return "cancelled"
    return "expired" if count(batch, "request_counts", "expired") else "ended"


def _time(written: object) -> float:
    """Return a time of the provider's in seconds; infinity for one that cannot be read."""
    try:
        return datetime.fromisoformat(str(written)).timestamp()
    except ValueError:
        return float("inf")
