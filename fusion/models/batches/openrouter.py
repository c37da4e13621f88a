"""OpenRouterBatches: OpenRouter's Batch API.

https://openrouter.ai/docs/guides/features/batch-api
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from fusion.core.types import Request
from fusion.models.batches.base import BatchState, BatchStatus, Ended, Entry
from fusion.models.batches.provider import Check, count, objects, part
from fusion.models.batches.unnamed import Listed, UnnamedBatches, own_id
from fusion.models.providers.openai import OpenAIModel
from fusion.models.providers.wire import encoded

_PATH: Final = "/batches"
_PAGE: Final = 100
_ROUTING: Final = frozenset({"only", "allow_fallbacks"})
"""Preferences of providers that a batch knows."""
_STATUS: Final[dict[str, BatchStatus]] = {
    "completed": "ended",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
_UNANSWERED: Final = ("expired", "cancel")


class OpenRouterBatches(UnnamedBatches):
    """The batches of a model: rows are sent in one body, results come with the state. They cannot be cancelled."""

    most_rows = 5_000
    most_bytes = 199_999_000
    """The limit of 200 MB, less the body around the rows."""

    def __init__(self, model: OpenAIModel, check: Check) -> None:
        super().__init__(model, check)
        self._name = model.name

    def takes(self, request: Request) -> bool:
        """Return False for files, and for preferences of providers that a batch does not know."""
        routing = request.extra.get("provider")
        known = routing is None or (isinstance(routing, dict) and routing.keys() <= _ROUTING)
        return known and not any(message.files for message in request.messages)

    def line(self, entry: Entry) -> bytes:
        body = self._body(entry.request, stream=False)
        for name in ("stream", "provider"):
            body.pop(name, None)
        return encoded({"custom_id": entry.custom_id, "body": body})

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        lines = await self._lines(self._tagged(entries, name))
        fields = {"endpoint": "/v1/chat/completions", "model": self._name, **self._routing(entries)}
        body = encoded(fields)[:-1] + b',"requests":[' + b",".join(lines) + b"]}"  # requests have to be last
        return self._noted(part((await self._api.send("POST", _PATH, body)).data, "id"), name)

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._api.ask("GET", f"{_PATH}/{batch_id}", results=True)
        failed = count(batch, "request_counts", "failed")
        return BatchState(
            status=_STATUS.get(str(batch.get("status")), "open"),
            total=count(batch, "request_counts", "total"),
            done=count(batch, "request_counts", "completed"),
            failed=failed,
            message=self._api.masked(part(batch, "error", "message")),
        )

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        seen: set[str] = set()
        for row in objects(await self._api.ask("GET", f"{_PATH}/{batch_id}", results=True), "results"):
            custom_id = own_id(row.get("custom_id"))
            if custom_id is not None and custom_id in requests and custom_id not in seen:
                seen.add(custom_id)
                yield await self._ended(custom_id, requests[custom_id], row)

    async def cancel(self, batch_id: str) -> None:
        """Leave the batch as it is: the API has no call for that."""

    async def _newest(self) -> AsyncIterator[Listed]:
        query: dict[str, str | int] = {"limit": _PAGE}
        while True:
            page = await self._api.ask("GET", _PATH, query=query)
            for one in objects(page, "data"):
                if one.get("model") in (self._name, None):
                    rows, is_open = count(one, "request_counts", "total"), str(one.get("status")) not in _STATUS
                    yield Listed(str(one.get("id")), count(one, "created_at"), rows, is_open)
            if not page.get("has_more") or page.get("last_id") in (None, query.get("after")):
                return
            query["after"] = str(page["last_id"])

    async def _first(self, batch_id: str) -> str | None:
        rows = objects(await self._api.ask("GET", f"{_PATH}/{batch_id}", results=True), "results")
        return next((str(row["custom_id"]) for row in rows if row.get("custom_id")), None)

    def _routing(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """Return the preferences of providers, which a batch has for all its rows."""
        given = [entry.request.extra.get("provider") for entry in entries]
        if any(one != given[0] for one in given):
            raise self._unfit("rows with several preferences of providers")
        return {} if given[0] is None else {"provider": given[0]}

    async def _ended(self, custom_id: str, request: Request, row: Mapping[str, Any]) -> Ended:
        response, error = row.get("response"), row.get("error")
        if isinstance(response, dict):
            body, status = response.get("body"), count(response, "status_code")
            end = await self._answered(
                custom_id, request, status or 200, encoded(body if isinstance(body, dict) else {})
            )
            return _with_cost(end, part(body, "usage"))
        said = f"{part(error, 'type')} {part(error, 'error_type')} {part(error, 'message')}".lower()
        if any(word in said for word in _UNANSWERED):
            return self._unanswered(custom_id, self._api.masked(part(error, "message") or "no response"))
        return await self._answered(custom_id, request, 200, encoded({"error": error or "no response"}))


def _with_cost(end: Ended, usage: Any) -> Ended:
    """Return the end of a row with the cost that the provider reports, unless the key of another pays for it."""
    cost = part(usage, "cost")
    known = isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 <= cost < float("inf")
    if end.reply is None or not known or part(usage, "is_byok"):
        return end
    return end._replace(reply=end.reply.model_copy(update={"cost": Decimal(str(cost))}))
