"""HTTP client of one call to a provider: sends the request exactly once, and always closes its response."""

import asyncio
import json as jsonlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import aiohttp
    import httpx


_SECRET_HEADERS: Final = re.compile("(?i)auth|key|token|secret")
_SIGNED: Final = "AWS4-HMAC"  # a signature of each request, not a key
_END_MARK: Final = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
_ALREADY_DECODED: Final = ("content-encoding", "content-length", "transfer-encoding")
_PRICED: Final = ("x-litellm-response-cost", "1")
"""Marks the cost as known, so that litellm skips two milliseconds of unused pricing."""


class SingleRequestClient:
    """The HTTP client passed to litellm for one call.

    litellm's own clients repeat the request after some failures, and cost more than the rest of the call. This one
    sends it once, by aiohttp, and keeps the status, headers and body of an error response. `secrets` are the keys in
    the request's headers, `extra` the fields added to its body.
    """

    def __init__(self, session: "aiohttp.ClientSession") -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.error_body = ""
        self.connection_error: Exception | None = None
        self.secrets: tuple[str, ...] = ()
        self.extra: Mapping[str, Any] = {}
        self.response: aiohttp.ClientResponse | None = None
        self._session = session
        self._posted = False
        self._abandoned = False

    async def post(
        self,
        url: str,
        data: Any = None,
        json: Any = None,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: Any = None,
        stream: bool = False,
        logging_obj: Any = None,
        files: Any = None,
        content: Any = None,
    ) -> "httpx.Response":
        """Send the request, with the interface of litellm's client; raise non-2xx statuses as httpx does."""
        import aiohttp

        if self._abandoned:
            raise asyncio.CancelledError
        if self._posted:
            raise ConnectionError("the request has been sent already")
        self._posted = True
        self.secrets = _secrets(headers or {})
        body = data if data is not None else content if content is not None else jsonlib.dumps(json)
        if self.extra:
            body = jsonlib.dumps({**jsonlib.loads(body), **self.extra})
        try:
            self.response = await self._session.post(
                url, data=body, params=params, headers=headers, allow_redirects=False
            )
            self.status, self.headers = self.response.status, dict(self.response.headers)
            if stream and 200 <= self.status < 300:
                return self._streamed(url)
            return self._whole(url, await self.response.read())
        except (aiohttp.ClientError, OSError) as error:
            self.connection_error = error
            raise ConnectionError(str(error)) from error

    def abandon(self) -> bool:
        """Stop waiting for the response. Return True if the request was sent and must be cancelled."""
        self._abandoned = True
        return self._posted

    def close(self) -> None:
        """Return the connection to its pool if the response was read completely, else close it."""
        if self.response is not None:
            self.response.release()

    def __del__(self) -> None:
        """Do nothing, unlike litellm's clients."""

    def _whole(self, url: str, body: bytes) -> "httpx.Response":
        import httpx

        assert self.status is not None
        response = httpx.Response(
            self.status, headers=self._kept_headers(), content=body, request=httpx.Request("POST", url)
        )
        if 200 <= self.status < 300:
            return response
        self.error_body = response.text
        raise _status_error(response)

    def _streamed(self, url: str) -> "httpx.Response":
        import httpx

        assert self.status is not None
        assert self.response is not None
        return _streaming_response(self.response, self.status, self._kept_headers(), httpx.Request("POST", url))

    def _kept_headers(self) -> list[tuple[str, str]]:
        kept = [(name, value) for name, value in self.headers.items() if name.lower() not in _ALREADY_DECODED]
        return [*kept, _PRICED]


class WarmUpClient:
    """An HTTP client with a fixed response, without any network."""

    async def post(self, url: str, **_: Any) -> "httpx.Response":
        import httpx

        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "warm-up", "choices": [choice]}
        return httpx.Response(200, json=whole, headers=[_PRICED], request=httpx.Request("POST", url))

    def __del__(self) -> None:
        """Do nothing, unlike litellm's clients."""


def _status_error(response: "httpx.Response") -> Exception:
    import httpx

    error = httpx.HTTPStatusError(f"status {response.status_code}", request=response.request, response=response)
    error.status_code = response.status_code  # type: ignore[attr-defined]  # litellm reads it here
    error.text = error.message = response.text  # type: ignore[attr-defined]  # and the body here
    return error


def _streaming_response(
    answer: "aiohttp.ClientResponse", status: int, headers: list[tuple[str, str]], request: "httpx.Request"
) -> "httpx.Response":
    import httpx

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            rest = b""
            async for block in answer.content.iter_any():
                lines, end, rest = (rest + block).rpartition(b"\n")
                if end:
                    yield _unmarked(lines + end)
            if rest:
                yield _unmarked(rest)

    return httpx.Response(status, headers=headers, stream=Body(), request=request)


def _unmarked(lines: bytes) -> bytes:
    """Turn the end mark into an SSE comment, since litellm mistakes it for a finish reason."""
    return _END_MARK.sub(b":", lines)


def _secrets(headers: Mapping[str, str]) -> tuple[str, ...]:
    values = [value for name, value in headers.items() if _SECRET_HEADERS.search(name)]
    return tuple(value.rpartition(" ")[2] for value in values if not value.startswith(_SIGNED))
