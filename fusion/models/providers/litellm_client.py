"""HTTP clients for litellm: an exchange in the shape of litellm's own client, and one without network."""

import asyncio
import json as jsonlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from fusion.models.providers.http.body import ACCEPTED
from fusion.models.providers.http.exchange import Exchange
from fusion.models.providers.http.session import Requests

if TYPE_CHECKING:
    import httpx


Format = Literal["openai", "anthropic"]

_SECRET_HEADERS: Final = re.compile("(?i)auth|key|token|secret")
_SIGNED: Final = "AWS4-HMAC"  # a signature of each request, not a key
_END_MARK: Final = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
_ALREADY_DECODED: Final = ("content-encoding", "content-length", "transfer-encoding")
_FORMATS: Final[tuple[tuple[str, Format], ...]] = (("/chat/completions", "openai"), ("/v1/messages", "anthropic"))
"""Formats of replies, by the end of the address."""
_PRICED: Final = ("x-litellm-response-cost", "1")
"""Marks the cost as known, so that litellm skips two milliseconds of unused pricing."""


class SingleRequestClient(Exchange):
    """The HTTP client passed to litellm for one call.

    litellm's own clients repeat the request after some failures, and cost more than the rest of the call. This one
    sends it once. A reply in a known `format` stays unread, and litellm gets a stand-in. `extra` are the fields added
    to the request's body, `renamed` other names of its fields.
    """

    def __init__(self, session: Requests, most: int) -> None:
        super().__init__(session, most)
        self.extra: Mapping[str, Any] = {}
        self.renamed: Mapping[str, str | None] = {}
        self.format: Format | None = None
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
        if self._abandoned:
            raise asyncio.CancelledError
        if self._posted:
            raise ConnectionError("the request has been sent already")
        self._posted = True
        path = url.partition("?")[0]
        self.format = next((name for end, name in _FORMATS if path.endswith(end)), None)
        given = data if data is not None else content if content is not None else jsonlib.dumps(json)
        self.secrets = _secrets(headers or {})
        await self.send(url, self._body(given, stream), {**(headers or {}), "Accept-Encoding": ACCEPTED}, params)
        return await self._answer(url, stream)

    def abandon(self) -> bool:
        """Stop waiting for the response. Return True if the request was sent and must be cancelled."""
        self._abandoned = True
        return self._posted

    def __del__(self) -> None:
        """Do nothing, unlike litellm's clients."""

    def _body(self, given: Any, stream: bool) -> Any:
        """Return the request's body, with its further fields; a request in OpenAI's format says if it streams."""
        if not (self.extra or self.format):
            return given
        if not (self.extra or self.renamed) and isinstance(given, str) and '"stream":' not in given:
            return given if self.format != "openai" else f'{given.rstrip()[:-1]}, "stream": {str(stream).lower()}}}'
        fields = {**jsonlib.loads(given), **self.extra}
        if self.format == "openai":
            fields.setdefault("stream", stream)
        names = ((self.renamed.get(name, name), value) for name, value in fields.items())
        return jsonlib.dumps({name: value for name, value in names if name is not None})

    async def _answer(self, url: str, stream: bool) -> "httpx.Response":
        """Return the response to litellm. Raises httpx.HTTPStatusError if it is not 2xx."""
        import httpx

        assert self.response is not None
        assert self.status is not None
        request = httpx.Request("POST", url)
        if not self.ok:
            raise _status_error(httpx.Response(self.status, text=self.error_body, request=request))
        if self.format is not None:
            return _stand_in(request, self.format)
        headers = [(name, value) for name, value in self.headers.items() if name.lower() not in _ALREADY_DECODED]
        headers.append(_PRICED)
        if stream:
            return _streaming_response(self.blocks(), self.status, headers, request)
        content = await self.whole()
        return httpx.Response(self.status, headers=headers, content=content, request=request)


class WarmUpClient:
    """An HTTP client with a fixed response, without any network."""

    async def post(self, url: str, **_: Any) -> "httpx.Response":
        import httpx

        return _stand_in(httpx.Request("POST", url))

    def __del__(self) -> None:
        """Do nothing, unlike litellm's clients."""


def _stand_in(request: "httpx.Request", kind: Format = "openai") -> "httpx.Response":
    """Return a completion for litellm to parse in place of the real one, which it would change."""
    import httpx

    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "none", "choices": [choice]}
    message = {"id": "1", "type": "message", "role": "assistant", "content": [], "model": "none"}
    usage = {"input_tokens": 0, "output_tokens": 0}
    bodies = {
        "openai": {**whole, "service_tier": "default"},
        "anthropic": {**message, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage},
    }
    return httpx.Response(200, json=bodies[kind], headers=[_PRICED], request=request)


def _status_error(response: "httpx.Response") -> Exception:
    import httpx

    error = httpx.HTTPStatusError(f"status {response.status_code}", request=response.request, response=response)
    error.status_code = response.status_code  # type: ignore[attr-defined]  # litellm reads it here
    error.text = error.message = response.text  # type: ignore[attr-defined]  # and the body here
    return error


def _streaming_response(
    blocks: AsyncIterator[bytes], status: int, headers: list[tuple[str, str]], request: "httpx.Request"
) -> "httpx.Response":
    import httpx

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            rest = b""
            async for block in blocks:
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
    """Return the keys in the headers of a request."""
    values = [value for name, value in headers.items() if _SECRET_HEADERS.search(name)]
    return tuple(value.rpartition(" ")[2] for value in values if not value.startswith(_SIGNED))
