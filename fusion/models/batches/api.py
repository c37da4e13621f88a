"""Api: the HTTP calls of a batch API, with errors of our own tree and keys masked."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from fusion.core.errors import (
    BadRequestError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
)
from fusion.models.base import ModelInfo
from fusion.models.batches.carried import apart
from fusion.models.providers.errors import model_error, redacted_chain, said_of
from fusion.models.providers.http.exchange import Exchange
from fusion.models.providers.http.session import SESSIONS
from fusion.models.providers.reader.events import MalformedError, OversizedError
from fusion.models.providers.wire import Signed, encoded
from fusion.models.redaction import Mask

_SECONDS: Final = 60.0
"""Longest wait for a response, and for each part of a long one."""
_SLOWEST: Final = 100_000
"""Bytes a second of an upload that is still waited for."""
_ANSWER: Final = 2**26
"""Largest response that holds no results, in bytes."""
_RESULTS: Final = 2**34
_LONGEST: Final = 2**26
_NOT_HERE: Final = (404, 405, 410)
_IN_THREAD: Final = 2**20
"""Bytes from which on JSON is parsed in a thread."""

Query = Mapping[str, str | int] | None


class Sent(NamedTuple):
    """The response to a call: its headers by lower-case name, and its JSON; None for an empty body."""

    headers: Mapping[str, str]
    data: Any


class Api:
    """Calls for the batches of one model.

    `address` returns the address of a path, `signed` the headers with the key of this moment, `mask` the mask of the
    current keys.
    """

    def __init__(
        self,
        info: ModelInfo,
        address: Callable[[str], str],
        signed: Callable[[], Signed],
        mask: Callable[[], Mask],
    ) -> None:
        self._info = info
        self._address = address
        self._signed = signed
        self._mask = mask

    async def ask(
        self,
        method: str,
        path: str,
        fields: Mapping[str, Any] | None = None,
        *,
        query: Query = None,
        results: bool = False,
    ) -> dict[str, Any]:
        """Return the JSON object that a call is answered with; `fields` are its body.

        With `results`, the response may be as large as the results of a batch.
        """
        body = None if fields is None else encoded(fields)
        data = (await self.send(method, path, body, query=query, most=_RESULTS if results else _ANSWER)).data
        return data if isinstance(data, dict) else {}

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Query = None,
        most: int = _ANSWER,
    ) -> Sent:
        """Send a body of any kind; return the response, of at most `most` bytes. `path` may be a whole address."""
        exchange = Exchange(await SESSIONS.ready(), most)
        try:
            await self._open(exchange, method, path, body, headers or {}, query)
            data = await _json(b"".join([block async for block in _timed(exchange.blocks())]))
            return Sent({name.lower(): value for name, value in exchange.headers.items()}, data)
        except _faults() as error:
            failure = self._failure(error, exchange)
        finally:
            exchange.close()
        raise failure

    async def lines(self, path: str, query: Query = None) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a file as they come, without blank ones and those of more than 64 MiB."""
        exchange, lines = Exchange(await SESSIONS.ready(), _RESULTS), _Lines()
        failure: ModelError | None = None
        try:
            await self._open(exchange, "GET", path, None, {}, query)
            async for block in _timed(exchange.blocks()):
                for line in lines.feed(block):
                    yield line
            for line in lines.end():
                yield line
        except _faults() as error:
            failure = self._failure(error, exchange)
        finally:
            exchange.close()
        if failure is not None:
            raise failure

    def masked(self, text: object) -> str:
        """Return a text of the provider on one line, with keys masked."""
        return " ".join(self._mask().text(str(text or "")).split())

    async def _open(
        self,
        exchange: Exchange,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        query: Query,
    ) -> None:
        """Send a request, and wait for the beginning of its response. Raises MalformedError if it is an error."""
        signed = self._signed()
        exchange.secrets = signed.secrets
        data = None if body is None else io.BytesIO(body)
        url = path if "://" in path else self._address(path)
        with apart():
            async with asyncio.timeout(_SECONDS + len(body or b"") / _SLOWEST):
                await exchange.send(url, data, {**signed.headers, **headers}, query, method=method)
        if not exchange.ok:
            raise MalformedError("an error response")

    def _failure(self, error: Exception, exchange: Exchange) -> ModelError:
        """Return the error of our tree; a response that cannot be read leaves open what it was to say."""
        model, mask = self._info.id, self._mask().also(exchange.secrets)
        if isinstance(error, TimeoutError):
            return ModelTimeoutError(
                f"the batch API of {model!r} gives no answer in time; try again later", model=model
            )
        failure = model_error(error, self._info, exchange, mask)
        if exchange.ok:
            said = mask.text(str(error) or type(error).__name__)
            failure = ModelConnectionError(
                f"the batch API of {model!r} gives an unreadable answer: {said}", model=model
            )
        elif isinstance(failure, (BadRequestError, ContextWindowError)):
            said = said_of(exchange.status or 0, exchange.error_body, mask)
            if exchange.status in _NOT_HERE:
                failure = ModelError(f"{model!r} has no batch API, or no such batch, here: {said}", model=model)
            else:
                failure = BadRequestError(f"the batch API of {model!r} refuses the call: {said}", model=model)
        failure.__cause__ = redacted_chain(error, mask)
        return failure


def _faults() -> tuple[type[Exception], ...]:
    """Return the exceptions of a call that fails."""
    import aiohttp

    return aiohttp.ClientError, OSError, MalformedError, OversizedError


class _Lines:
    """Puts blocks together to lines."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the lines that a block completes."""
        first, *others = block.split(b"\n")
        self._add(first)
        for piece in others:
            yield from self.end()
            self._add(piece)

    def end(self) -> Iterator[bytes]:
        """Yield the line so far, unless it is blank or too long."""
        line = b"".join(self._pieces).strip()
        if line and self._size <= _LONGEST:
            yield line
        self._pieces, self._size = [], 0

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= _LONGEST:
            self._pieces.append(piece)


async def _timed(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the blocks of a body, each of which has its time."""
    while True:
        async with asyncio.timeout(_SECONDS):
            block = await anext(blocks, None)
        if block is None:
            return
        yield block


async def _json(raw: bytes) -> Any:
    """Return the JSON of a body. Raises MalformedError."""
    if not raw.strip():
        return None
    try:
        return await asyncio.to_thread(json.loads, raw) if len(raw) > _IN_THREAD else json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"no JSON ({type(error).__name__})") from error
