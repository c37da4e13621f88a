"""One HTTP request to a provider and its answer: sent exactly once, closed whatever happens."""

import asyncio
import json as jsonlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import aiohttp
    import httpx


_SECRET_HEADERS: Final = re.compile("(?i)auth|key|token|secret")
_SIGNED: Final = "AWS4-HMAC"  # another signature in each request, and no key
_END_MARK: Final = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
_ALREADY_DECODED: Final = ("content-encoding", "content-length", "transfer-encoding")
_PRICED: Final = ("x-litellm-response-cost", "1")
"""Says that the cost is known: litellm then spares itself two milliseconds of pricing that nobody reads."""


class Exchange:
    """The HTTP client that litellm is given for one call.

    litellm's own clients send a second request after some failures, and cost more than the rest of the call. This
    one sends what it is told by aiohttp, once, and keeps what came back, so that status, headers and words of a
    refusal are known as they were.
    """

    def __init__(self, session: "aiohttp.ClientSession") -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.words = ""
        self.broken: Exception | None = None
        self.secrets: tuple[str, ...] = ()
        self.extra: Mapping[str, Any] = {}
        self.answer: aiohttp.ClientResponse | None = None
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
        """Send the request, as litellm asks its own client to; a status that is not 2xx is raised as httpx does."""
        import aiohttp

        if self._abandoned:
            raise asyncio.CancelledError
        if self._posted:
            raise ConnectionError("the request was sent once already")
        self._posted = True
        self.secrets = _secrets(headers or {})
        body = data if data is not None else content if content is not None else jsonlib.dumps(json)
        if self.extra:
            body = jsonlib.dumps({**jsonlib.loads(body), **self.extra})
        try:
            self.answer = await self._session.post(
                url, data=body, params=params, headers=headers, allow_redirects=False
            )
            self.status, self.headers = self.answer.status, dict(self.answer.headers)
            if stream and 200 <= self.status < 300:
                return self._streamed(url)
            return self._whole(url, await self.answer.read())
        except (aiohttp.ClientError, OSError) as error:
            self.broken = error
            raise ConnectionError(str(error)) from error

    def abandon(self) -> bool:
        """Nobody waits for the answer any more. True where the request is under way and has to be cancelled."""
        self._abandoned = True
        return self._posted

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, and close it if not."""
        if self.answer is not None:
            self.answer.release()

    def __del__(self) -> None:
        """Nothing is left to do: what litellm's clients do here is not for this one."""

    def _whole(self, url: str, body: bytes) -> "httpx.Response":
        import httpx

        assert self.status is not None
        response = httpx.Response(
            self.status, headers=self._kept_headers(), content=body, request=httpx.Request("POST", url)
        )
        if 200 <= self.status < 300:
            return response
        self.words = response.text
        raise _refusal(response)

    def _streamed(self, url: str) -> "httpx.Response":
        import httpx

        assert self.status is not None
        assert self.answer is not None
        return _streaming_response(self.answer, self.status, self._kept_headers(), httpx.Request("POST", url))

    def _kept_headers(self) -> list[tuple[str, str]]:
        kept = [(name, value) for name, value in self.headers.items() if name.lower() not in _ALREADY_DECODED]
        return [*kept, _PRICED]


class Rehearsal:
    """A client that answers by itself."""

    async def post(self, url: str, **_: Any) -> "httpx.Response":
        import httpx

        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "rehearsal", "choices": [choice]}
        return httpx.Response(200, json=whole, headers=[_PRICED], request=httpx.Request("POST", url))

    def __del__(self) -> None:
        """As an Exchange."""


def _refusal(response: "httpx.Response") -> Exception:
    import httpx

    error = httpx.HTTPStatusError(f"status {response.status_code}", request=response.request, response=response)
    error.status_code = response.status_code  # type: ignore[attr-defined]  # litellm reads it from here
    error.text = error.message = response.text  # type: ignore[attr-defined]  # and the words from here
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
    """litellm takes the end mark for a finish reason, which it is not: it becomes an SSE comment."""
    return _END_MARK.sub(b":", lines)


def _secrets(headers: Mapping[str, str]) -> tuple[str, ...]:
    values = [value for name, value in headers.items() if _SECRET_HEADERS.search(name)]
    return tuple(value.rpartition(" ")[2] for value in values if not value.startswith(_SIGNED))
