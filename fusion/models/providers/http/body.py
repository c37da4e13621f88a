"""Body of a response in blocks, unpacked, with a bound on its size on the wire and unpacked."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

from fusion.models.providers.reader.events import MalformedError, OversizedError

if TYPE_CHECKING:
    import aiohttp

ACCEPTED: Final = "gzip, deflate"
"""The content encodings that this module unpacks."""
_BLOCK: Final = 16_384
_LEAST: Final = 262_144
_OF_A_TOKEN: Final = 2_048
_MOST: Final = 67_108_864
_ERROR: Final = 65_536


def bound(max_tokens: int) -> int:
    """Return the largest body of a reply in bytes; a chunk of one token with its metadata is under 2 kB."""
    return min(_LEAST + _OF_A_TOKEN * max_tokens, _MOST)


async def blocks(response: "aiohttp.ClientResponse", most: int) -> AsyncIterator[bytes]:
    """Yield the unpacked body in small blocks, leaving the event loop free between them.

    Raises OversizedError beyond `most` bytes, MalformedError for a body that cannot be unpacked.
    """
    unpacker = _unpacker(response.headers.get("content-encoding", ""))
    size = 0
    async for raw in response.content.iter_any():
        for number, block in enumerate(unpacker.blocks(raw)):
            if number:
                await asyncio.sleep(0)
            size += len(block)
            if size > most:
                raise OversizedError(f"more than {most:,} bytes, which `max_tokens` cannot explain")
            yield block
    unpacker.end()


async def error_text(response: "aiohttp.ClientResponse") -> str:
    """Return the beginning of the body of an error response."""
    found: list[bytes] = []
    try:
        async for block in blocks(response, _ERROR):
            found.append(block)
    except (OversizedError, MalformedError):
        pass
    return b"".join(found).decode(errors="replace")


class _Plain:
    """A body without a content encoding."""

    def blocks(self, raw: bytes) -> Iterator[bytes]:
        for at in range(0, len(raw), _BLOCK):
            yield raw[at : at + _BLOCK]

    def end(self) -> None:
        """Accept any end."""


class _Unpacker:
    """A body in gzip or deflate, the latter with or without a header."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._packed: zlib._Decompress | None = None

    def blocks(self, raw: bytes) -> Iterator[bytes]:
        while raw:
            packed = self._packed = self._packed or self._new(raw)
            try:
                block = packed.decompress(raw, _BLOCK)
            except zlib.error as error:
                raise MalformedError(f"a body that its content-encoding does not fit ({error})") from error
            if block:
                yield block
            raw = packed.unconsumed_tail
            if packed.eof:
                raw, self._packed = packed.unused_data, None
            elif not raw and len(block) == _BLOCK:
                yield from self._pending(packed)

    def end(self) -> None:
        """Raise MalformedError if the body breaks off."""
        if self._packed is not None and not self._packed.eof:
            raise MalformedError("a packed body that breaks off")

    def _new(self, raw: bytes) -> "zlib._Decompress":
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        return zlib.decompressobj(zlib.MAX_WBITS if raw[0] & 0x0F == 8 else -zlib.MAX_WBITS)

    def _pending(self, packed: "zlib._Decompress") -> Iterator[bytes]:
        """Yield what is unpacked but did not fit into one block."""
        while block := packed.decompress(b"", _BLOCK):
            yield block
        if packed.eof:
            self._packed = None


def _unpacker(encoding: str) -> _Plain | _Unpacker:
    name = encoding.strip().lower().removeprefix("x-")
    if name in ("", "identity"):
        return _Plain()
    if name in ("gzip", "deflate"):
        return _Unpacker(gzip=name == "gzip")
    raise MalformedError(f"a body in the content-encoding {encoding!r:.40}, which was not asked for")
