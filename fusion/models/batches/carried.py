"""Carried: a response that a batch has brought, read by a model as if its own request had been answered."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from fusion.core import budget
from fusion.core.errors import ModelError
from fusion.core.types import Request
from fusion.models.attempt import attempt
from fusion.models.batches.base import Ended
from fusion.models.providers.http.session import connecting
from fusion.models.providers.wire import WireModel

if TYPE_CHECKING:
    import aiohttp

_JSON: Final = {"content-type": "application/json"}


class Carried:
    """A sender of requests that sends nothing: it answers with one response, and keeps the request in `sent`."""

    def __init__(self, status: int, body: bytes) -> None:
        self.sent: Any = None
        self._response = _Response(status, body)

    async def request(self, method: str, url: str, **options: Any) -> "aiohttp.ClientResponse":
        """Return the response to any request."""
        exchange = connecting.get()
        if exchange is not None:
            exchange.connected = True
        self.sent = options.get("data")
        return cast("aiohttp.ClientResponse", self._response)


class _Response:
    """As much of a response of aiohttp as an exchange reads."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = _JSON
        self._body = body

    @property
    def content(self) -> "_Response":
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield self._body

    def release(self) -> None:
        """Hold no connection."""


@contextmanager
def apart() -> Iterator[None]:
    """Keep a block from the live call in whose task it may run: its reservation, and the headers it learns from."""
    here, reserved = attempt.set(None), budget.attempt.set(None)
    try:
        yield
    finally:
        attempt.reset(here)
        budget.attempt.reset(reserved)


async def ended(model: WireModel[Any], custom_id: str, request: Request, status: int, body: bytes) -> Ended:
    """Return the end of a row, from the response to it."""
    with apart():
        try:
            reply = await model.complete_by(Carried(status, body), request)
        except ModelError as error:
            return Ended(custom_id, None, error)
    return Ended(custom_id, reply.model_copy(update={"cost": None, "latency": 0.0, "first_token": None}), None)
