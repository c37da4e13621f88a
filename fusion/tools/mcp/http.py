"""HTTP: a server of tools that runs elsewhere, as a pair of message streams, with a bound on what it answers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fusion.tools.mcp.process import MOST_BYTES

_CONNECT: Final = 30.0
_READ: Final = 300.0


@asynccontextmanager
async def streams(url: str, *, headers: Mapping[str, str], seconds: float) -> AsyncIterator[tuple[Any, Any]]:
    """Yield the streams of a server's messages and of those to it; a call takes `seconds` at most."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Bounded(httpx2.AsyncByteStream):
        """The body of a response; raises StreamError for one that is too long."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > MOST_BYTES:
                    raise httpx2.StreamError(f"the answer is longer than {MOST_BYTES / 1e6:.0f} MB")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: httpx2.Response) -> None:
        if response.request.method != "GET":  # the stream of notices has no end, and its events a bound of their own
            response.stream = Bounded(response.stream)

    timeout = httpx2.Timeout(_CONNECT, read=max(_READ, seconds + _CONNECT))
    async with (
        httpx2.AsyncClient(headers=dict(headers), timeout=timeout, event_hooks={"response": [bound]}) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MOST_BYTES) as pair,
    ):
        yield pair
