"""Bodies of requests: read within bounds on size, time and memory, and parsed as one JSON object."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from fusion.server.base import RefusedError

_SECONDS: Final = 30.0
_LEAST_RATE: Final = 50_000
"""A body must have arrived within these seconds, and one more for so many bytes that came."""
_AT_ONCE: Final = 8
"""Bodies of the largest size that are held at once, by all requests together."""
_LARGE: Final = 262_144
"""Bytes from which a body is parsed on another thread."""
_MOST_BRACKETS: Final = 500_000
_HUGE: Final = re.compile(rb"[eE]\+?\d{3}")
"""Matches a number that may be infinite."""


class Bodies:
    """Reads bodies of at most so many bytes, and of eight times as many for all requests together."""

    def __init__(self, most: int) -> None:
        self.held = 0
        """Bytes of the bodies that are held now."""
        self._most = most

    @asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """Hold the body of a request. Raises RefusedError, before it is read if its length says enough."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._most:
            raise _too_large(f"{self._most:,} bytes (`max_body` in [server])")
        found = bytearray()
        try:
            await self._read(request, found)
            yield bytes(found)
        finally:
            self.held -= len(found)

    async def _read(self, request: Request, found: bytearray) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(began + _SECONDS) as limit:
                async for piece in request.stream():
                    found += piece
                    self.held += len(piece)
                    self._check(len(found))
                    limit.reschedule(began + _SECONDS + len(found) / _LEAST_RATE)
        except TimeoutError as error:
            raise RefusedError("the body did not arrive in time", status=408, code="timeout", final=False) from error
        except ClientDisconnect as error:
            raise RefusedError("the client is gone", status=499, final=False) from error

    def _check(self, size: int) -> None:
        if size > self._most:
            raise _too_large(f"{self._most:,} bytes (`max_body` in [server])")
        if self.held > _AT_ONCE * self._most:
            raise RefusedError(
                "too many large requests at once; try again later",
                status=503,
                kind="server_error",
                code="overloaded",
                final=False,
                retry_after=2,
            )


async def read_json(request: Request, *, most: int) -> dict[str, Any]:
    """Return the JSON object of a body of at most so many bytes. Raises RefusedError."""
    async with Bodies(most).of(request) as data:
        return await json_object(data)


async def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises RefusedError."""
    value = await asyncio.to_thread(_parsed, data) if len(data) > _LARGE else _parsed(data)
    if not isinstance(value, dict):
        raise RefusedError("the body is no JSON object", code="invalid_json")
    return value


def _parsed(data: bytes) -> Any:
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        raise _too_large(f"{_MOST_BRACKETS:,} brackets")
    try:
        value = from_json(data, allow_inf_nan=False)  # bounds its depth and its numbers
        if _HUGE.search(data):
            _check_finite(value)
    except ValueError as error:
        raise RefusedError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    return value


def _check_finite(value: Any) -> None:
    left = [value]
    while left:
        match left.pop():
            case float() as number if math.isinf(number):
                raise ValueError("number out of range")
            case list() as parts:
                left += parts
            case dict() as parts:
                left += parts.values()


def _too_large(words: str) -> RefusedError:
    return RefusedError(f"the body has more than {words}", status=413, code="body_too_large")
