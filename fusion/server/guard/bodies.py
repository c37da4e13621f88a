"""Bodies of requests: read within bounds, and parsed as one JSON object."""

import asyncio
from typing import Any, Final

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from fusion.server.dialects.base import RefusedError

_SECONDS: Final = 60.0
"""Seconds in which a body must have arrived."""
_LARGE: Final = 262_144
"""Bytes from which a body is parsed on another thread."""


async def read_json(request: Request, *, most: int) -> dict[str, Any]:
    """Return the JSON object of a body of at most so many bytes. Raises RefusedError."""
    return await parsed(await read_body(request, most=most))


async def parsed(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises RefusedError."""
    value = await asyncio.to_thread(_parsed, data) if len(data) > _LARGE else _parsed(data)
    if not isinstance(value, dict):
        raise RefusedError("the body is no JSON object")
    return value


async def read_body(request: Request, *, most: int) -> bytes:
    """Return a body of at most so many bytes. Raises RefusedError, before it is read if its length says enough."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    found = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for piece in request.stream():
                found += piece
                if len(found) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise RefusedError(f"the body did not arrive within {_SECONDS:.0f} s", status=408, final=False) from error
    except ClientDisconnect as error:
        raise RefusedError("the client is gone", status=400) from error
    return bytes(found)


def _parsed(data: bytes) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(f"the body is not valid JSON: {error}", code="invalid_json") from error


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        f"the body has more than {most:,} bytes (`max_body` in [server])", status=413, code="body_too_large"
    )
