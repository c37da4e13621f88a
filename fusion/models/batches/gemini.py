"""GeminiBatches: the Batch API of Gemini.

https://ai.google.dev/gemini-api/docs/batch-api

Rows are the bodies that litellm makes for live calls, and replies are read by it.
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from fusion.core.config import secret, variable
from fusion.core.errors import AuthenticationError, ModelConnectionError, ModelTimeoutError
from fusion.core.types import Request
from fusion.models.base import ModelInfo, input_bound
from fusion.models.batches.api import Api
from fusion.models.batches.base import BatchState, BatchStatus, Ended, Entry
from fusion.models.batches.carried import Carried, apart
from fusion.models.batches.provider import (
    Check,
    ProviderBatches,
    count,
    in_one_line,
    object_of,
    objects,
    part,
    unsent,
)
from fusion.models.providers.http.body import ACCEPTED
from fusion.models.providers.litellm import LiteLLMModel
from fusion.models.providers.wire import Signed, encoded

_BASE: Final = "https://generativelanguage.googleapis.com/v1beta"
_KEY: Final = "GEMINI_API_KEY"
_PAGE: Final = 100
_AROUND: Final = 1_000
"""Bytes of a row around its messages, at most."""
_STATUS: Final[dict[str, BatchStatus]] = {
    "SUCCEEDED": "ended",
    "PARTIALLY_SUCCEEDED": "ended",
    "FAILED": "failed",
    "EXPIRED": "expired",
    "CANCELLED": "cancelled",
}
_STATUSES: Final = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 13: 500, 14: 503, 16: 401}
"""Statuses of HTTP by the codes of google.rpc.Code."""
_CANCELLED: Final = 1
_ANY: Final = encoded(
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "-"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
    }
)
"""A response for litellm, of which only the request counts."""


class GeminiBatches(ProviderBatches):
    """The batches of a model: rows are uploaded as a file, results come as one."""

    most_rows = 50_000
    most_bytes = 2_000_000_000

    def __init__(self, info: ModelInfo, check: Check, key_names: Collection[str] = ()) -> None:
        model = LiteLLMModel(info.id, info=info, api_key=secret(_KEY), key_names=key_names)
        super().__init__(info, model, check)
        self._name = info.id.partition("/")[2]
        self._base = (variable("GEMINI_API_BASE") or _BASE).rstrip("/")
        self._api = Api(info, self._address, self._signed, model.mask)

    def size(self, entry: Entry) -> int:
        """Return an upper bound of the bytes of a row."""
        self._check(entry.request)
        messages, tools = entry.request.messages, entry.request.tools
        files = sum([len(file.url) for message in messages for _, file in message.files])
        return 2 * input_bound(entry.request) + files + len(repr(tools)) + _AROUND

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        file = await self._upload(await self._lines(entries), name)
        fields = {"batch": {"displayName": name, "inputConfig": {"fileName": file}}}
        return await self._created(f"/models/{self._name}:batchGenerateContent", fields, "name")

    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        query: dict[str, str | int] = {"pageSize": _PAGE}
        while True:
            page = await self._api.ask("GET", "/batches", query=query)
            for one in objects(page, "operations"):
                if part(one, "metadata", "displayName") == name and part(one, "name"):
                    return str(one["name"])
            if page.get("nextPageToken") in (None, "", query.get("pageToken")):
                return None
            query["pageToken"] = str(page["nextPageToken"])

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._api.ask("GET", f"/{batch_id}")
        stats = part(batch, "metadata", "batchStats")
        return BatchState(
            status=_status(batch),
            total=count(stats, "requestCount"),
            done=count(stats, "successfulRequestCount"),
            failed=count(stats, "failedRequestCount"),
            message=self._api.masked(part(batch, "error", "message")),
        )

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        batch = await self._api.ask("GET", f"/{batch_id}")
        file = part(batch, "metadata", "output", "responsesFile") or part(batch, "response", "responsesFile")
        if not isinstance(file, str):
            return
        seen: set[str] = set()
        async for line in self._api.lines(self._beside("/download", f"/{file}:download"), {"alt": "media"}):
            row = object_of(line)
            custom_id = row.get("key")
            if isinstance(custom_id, str) and custom_id in requests and custom_id not in seen:
                seen.add(custom_id)
                yield await self._ended(custom_id, requests[custom_id], row)

    async def cancel(self, batch_id: str) -> None:
        await self._api.ask("POST", f"/{batch_id}:cancel")

    async def _line(self, entry: Entry) -> bytes:
        """Return a row, with the body that litellm makes of its request."""
        carried = Carried(200, _ANY)
        with apart():
            await self._model.complete_by(carried, entry.request)
        return in_one_line({"key": entry.custom_id, "request": json.loads(carried.sent)})

    async def _upload(self, lines: Sequence[bytes], name: str) -> str:
        """Return the name of the file of these rows. Every error says that there is no batch of them."""
        body = b"\n".join(lines) + b"\n"
        try:
            return await self._uploaded(body, name)
        except (ModelConnectionError, ModelTimeoutError) as error:
            raise unsent(error) from error

    async def _uploaded(self, body: bytes, name: str) -> str:
        about = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(len(body)),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        fields = encoded({"file": {"displayName": name}})
        begun = await self._api.send("POST", self._beside("/upload", "/files"), fields, about)
        place = begun.headers.get("x-goog-upload-url", "")
        if urlsplit(place)[:2] != urlsplit(self._base)[:2]:  # the key is sent to no other server
            raise self._lost()
        how = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"}
        file = part((await self._api.send("POST", place, body, how)).data, "file", "name")
        if not isinstance(file, str) or not file:
            raise self._lost()
        return file

    async def _ended(self, custom_id: str, request: Request, row: Mapping[str, Any]) -> Ended:
        response = row.get("response")
        if isinstance(response, dict):
            return await self._answered(custom_id, request, 200, encoded(response))
        error = row.get("error") or row.get("status") or {"message": "no response"}
        code = count(error, "code")
        if code == _CANCELLED:
            return self._unanswered(custom_id, self._api.masked(part(error, "message") or "cancelled"))
        status = _STATUSES.get(code, code if 400 <= code < 600 else 500)
        return await self._answered(custom_id, request, status, encoded({"error": error}))

    def _address(self, path: str) -> str:
        return self._base + path

    def _beside(self, kind: str, path: str) -> str:
        """Return the address of a path for files, whose kind comes before the version of the API."""
        base = urlsplit(self._base)
        return urlunsplit(base._replace(path=kind + base.path + path))

    def _signed(self) -> Signed:
        key = secret(_KEY)
        if key is None:
            model = self.info.id
            raise AuthenticationError(f"{model!r} needs a key, and {_KEY} is not set; set it", model=model)
        headers = {"Content-Type": "application/json", "Accept-Encoding": ACCEPTED, "x-goog-api-key": key}
        return Signed(headers, (key,))


def _status(batch: Mapping[str, Any]) -> BatchStatus:
    """Return the state of an operation: named `BATCH_STATE_…` or `JOB_STATE_…`."""
    state = str(part(batch, "metadata", "state") or "").partition("_STATE_")[2]
    if state in _STATUS:
        return _STATUS[state]
    if not batch.get("done"):
        return "open"
    return "failed" if batch.get("error") else "ended"
