"""OpenAIBatches: OpenAI's Batch API, and that of servers that speak it.

https://platform.openai.com/docs/api-reference/batch
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

from fusion.core.errors import ModelConnectionError, ModelTimeoutError
from fusion.core.types import Request
from fusion.models.batches.base import BatchState, BatchStatus, Ended, Entry
from fusion.models.batches.provider import DirectBatches, count, in_one_line, object_of, objects, part, unsent

_ENDPOINT: Final = "/v1/chat/completions"
_NAME: Final = "fusion_batch"
"""The key of our name in the metadata of a batch."""
_KEPT: Final = 31 * 86_400
"""Seconds for which a provider keeps results, and so the age of batches that are searched."""
_PAGE: Final = 100
_UNANSWERED: Final = ("batch_expired", "batch_cancelled")
"""Codes of rows that were not worked on."""
_STATUS: Final[dict[str, BatchStatus]] = {
    "completed": "ended",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}


class OpenAIBatches(DirectBatches):
    """The batches of a model: rows are uploaded as a file, results come as two files, of replies and of errors."""

    most_rows = 50_000
    most_bytes = 200_000_000

    def line(self, entry: Entry) -> bytes:
        body = self._body(entry.request, stream=False)
        body.pop("stream", None)
        return in_one_line({"custom_id": entry.custom_id, "method": "POST", "url": _ENDPOINT, "body": body})

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        file_id = await self._upload(await self._lines(entries))
        fields = {
            "input_file_id": file_id,
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "metadata": {_NAME: name},
        }
        return await self._created("/batches", fields, "id")

    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        oldest = time.time() - _KEPT
        async for one in self._newest():
            if part(one, "metadata", _NAME) == name:
                return str(one["id"])
            if 0 < count(one, "created_at") < oldest:
                return None
        return None

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._api.ask("GET", f"/batches/{batch_id}")
        return BatchState(
            status=_STATUS.get(str(batch.get("status")), "open"),
            total=count(batch, "request_counts", "total"),
            done=count(batch, "request_counts", "completed"),
            failed=count(batch, "request_counts", "failed"),
            message=self._api.masked("; ".join(map(_words, objects(batch.get("errors"), "data")))),
        )

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        batch = await self._api.ask("GET", f"/batches/{batch_id}")
        seen: set[str] = set()
        for file_id in filter(None, (batch.get("output_file_id"), batch.get("error_file_id"))):
            async for line in self._api.lines(f"/files/{file_id}/content"):
                row = object_of(line)
                custom_id = row.get("custom_id")
                if isinstance(custom_id, str) and custom_id in requests and custom_id not in seen:
                    seen.add(custom_id)
                    yield await self._ended(custom_id, requests[custom_id], row)

    async def cancel(self, batch_id: str) -> None:
        await self._api.ask("POST", f"/batches/{batch_id}/cancel")

    async def _newest(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the batches of the account, the newest first."""
        query: dict[str, str | int] = {"limit": _PAGE}
        while True:
            page = await self._api.ask("GET", "/batches", query=query)
            batches = [one for one in objects(page, "data") if isinstance(one.get("id"), str)]
            for one in batches:
                yield one
            if not batches or not page.get("has_more") or batches[-1]["id"] == query.get("after"):
                return
            query["after"] = batches[-1]["id"]

    async def _upload(self, lines: Sequence[bytes]) -> str:
        """Return the id of the file of these rows. Every error says that there is no batch of them."""
        body, kind = _form(lines)
        try:
            sent = await self._api.send("POST", "/files", body, {"Content-Type": kind})
        except (ModelConnectionError, ModelTimeoutError) as error:
            raise unsent(error) from error
        found = part(sent.data, "id")
        if not isinstance(found, str) or not found:
            raise unsent(self._lost())
        return found

    async def _ended(self, custom_id: str, request: Request, row: Mapping[str, Any]) -> Ended:
        response, error = row.get("response"), row.get("error")
        status = count(response, "status_code")
        if isinstance(response, dict) and (status or not error):
            body = json.dumps(response.get("body")).encode()
            return await self._answered(custom_id, request, status or 500, body)
        if part(error, "code") in _UNANSWERED:
            return self._unanswered(custom_id, str(part(error, "message") or part(error, "code")))
        return await self._answered(custom_id, request, 200, json.dumps({"error": error or "no response"}).encode())


def _form(lines: Sequence[bytes]) -> tuple[bytes, str]:
    """Return a form with the file of these rows, and its content type."""
    mark = uuid.uuid4().hex
    purpose = f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    file = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
    head = f"{purpose}{file}Content-Type: application/jsonl\r\n\r\n".encode()
    return b"".join(
        (head, b"\n".join(lines), b"\n", f"\r\n--{mark}--\r\n".encode())
    ), f"multipart/form-data; boundary={mark}"


def _words(error: Any) -> str:
    """Return one error of a whole batch in words."""
    line, said, code = part(error, "line"), part(error, "message"), part(error, "code")
    place = f"line {line}: " if line else ""
    return f"{place}{said or 'no reason given'}{f' ({code})' if code else ''}"
