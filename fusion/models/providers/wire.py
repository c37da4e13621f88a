"""WireModel: a model reached by one HTTP request for each call, with errors of our own tree."""

import asyncio
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from fusion.core import budget
from fusion.core.errors import FusionError, ModelError, ParameterNameError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo
from fusion.models.providers.answers import Answers
from fusion.models.providers.errors import Refused, model_error, redacted_chain, refused_field
from fusion.models.providers.http.body import ACCEPTED, bound
from fusion.models.providers.http.exchange import Exchange
from fusion.models.providers.http.session import SESSIONS, Requests
from fusion.models.providers.reader.reply import ReplyBuilder, read
from fusion.models.redaction import Mask, Redactor

E = TypeVar("E", bound=Exchange)


class Signed(NamedTuple):
    """The headers of a request, and the keys in them."""

    headers: Mapping[str, str]
    secrets: tuple[str, ...] = ()


class WireModel(Model, Generic[E]):
    """Base of the models of a provider: asks once, reads the reply, and maps each failure to a ModelError.

    Replies and errors hold no keys: `api_key`, those of the environment, and those in the variables `key_names`. The
    wrapper Limited enforces the timeout of a request.

    A server that refuses a field of the request, but takes another name for it or none, is sent that from then on:
    `renamed` maps each such field to its other name, None to leave it out. The refused attempt raises
    ParameterNameError.

    `tracks_connections` is False if a library's own client makes the connections: every attempt then counts as sent.
    """

    def __init__(
        self,
        info: ModelInfo,
        *,
        api_key: str | None = None,
        served_as: str | None = None,
        key_names: Collection[str] = (),
        thinks: bool | None = False,
        tracks_connections: bool = True,
    ) -> None:
        self.info = info
        self.tracks_connections = tracks_connections
        self.renamed: dict[str, str | None] = {}
        self._redactor = Redactor(key_names, api_key)
        self._answers = Answers(info, served_as=served_as, thinks=thinks)

    @abstractmethod
    async def _exchange(self, request: Request, session: Requests) -> E:
        """Return the exchange of one call by this session, not yet sent."""

    @abstractmethod
    async def _ask(self, exchange: E, request: Request, reply: ReplyBuilder, *, stream: bool) -> None:
        """Send a request, and read its response into a reply."""

    def mask(self) -> Mask:
        """Return the mask of the current keys."""
        return self._redactor.mask()

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        return await self.complete_by(await SESSIONS.ready(), request, on_delta)

    async def complete_by(self, session: Requests, request: Request, on_delta: Deltas | None = None) -> Reply:
        """Return the reply to a request that this session sends."""
        exchange = await self._exchange(request, session)
        started = time.perf_counter()
        reply = self._answers.begin(request, on_delta, self._redactor.mask())
        try:
            await self._ask(exchange, request, reply, stream=on_delta is not None)
        except asyncio.CancelledError as error:
            self._note_unsent(exchange)
            error.__context__ = None
            raise
        except Exception as error:  # a provider's library raises anything
            if error is reply.thrown:
                raise
            self._note_unsent(exchange)
            if isinstance(error, FusionError):
                raise
            failure = self._error(error, exchange, reply)
        else:
            return self._answers.reply(reply, started)
        finally:
            exchange.close()
        raise failure  # outside the `except`, whose error would become its context and holds the raw response

    def _note_unsent(self, exchange: Exchange) -> None:
        """Mark the attempt as not sent if there was no connection to send it on."""
        reservation = budget.attempt.get()
        if reservation is not None and self.tracks_connections and not exchange.connected:
            reservation.sent = False

    def _error(self, error: Exception, exchange: Exchange, reply: ReplyBuilder) -> ModelError:
        """Return the error of our tree, with the library's exception as its cause, keys masked."""
        mask: Mask = reply.mask.also(exchange.secrets)
        text = "" if reply.finish else reply.text
        failure = model_error(error, self.info, exchange, mask, text=text, answered=reply.answered)
        refused = refused_field(exchange)
        if refused is not None and refused.taken not in self.renamed:
            failure = self._rename(refused)
        failure.__cause__ = redacted_chain(error, mask)
        return failure

    def _rename(self, refused: Refused) -> ModelError:
        field, other = refused
        self.renamed = {name: to for name, to in self.renamed.items() if name != other} | {field: other}
        takes = f"takes no {field!r}" if other is None else f"takes {other!r} in place of {field!r}"
        again = "without it" if other is None else "with it"
        return ParameterNameError(
            f"{self.info.id!r} {takes}, and is asked again {again}", model=self.info.id, retry_after=0.0
        )


class DirectModel(WireModel[Exchange]):
    """Base of models that Fusion's own HTTP client asks: of a server at `base`, by their `name` there.

    `path` is the path of a call at the server. `key` returns the key of each call; None for a server without one.
    `headers` are sent beside it.
    """

    path: ClassVar[str]

    def __init__(
        self,
        name: str,
        info: ModelInfo,
        *,
        base: str,
        key: Callable[[], str | None],
        headers: Mapping[str, str],
        **reading: Any,
    ) -> None:
        super().__init__(info, **reading)
        self.name = name
        self._url = with_path(base, self.path)
        self._key = key
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": ACCEPTED, **headers}

    @abstractmethod
    def body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """Return the body of a request."""

    def address(self, path: str) -> str:
        """Return the address of another path of the same server."""
        found = urlsplit(self._url)
        return urlunsplit(found._replace(path=found.path.removesuffix(self.path) + path))

    @abstractmethod
    def credentials(self, key: str) -> dict[str, str]:
        """Return the header that holds a key."""

    async def ready(self) -> None:
        await SESSIONS.ready()

    async def _exchange(self, request: Request, session: Requests) -> Exchange:
        return Exchange(session, bound(request.max_tokens))

    def signed(self) -> Signed:
        """Return the headers of a request with the key of this moment. Raises AuthenticationError without one."""
        key = self._key()
        return Signed(self._headers) if key is None else Signed({**self._headers, **self.credentials(key)}, (key,))

    async def _ask(self, exchange: Exchange, request: Request, reply: ReplyBuilder, *, stream: bool) -> None:
        headers, exchange.secrets = self.signed()
        await exchange.send(self._url, encoded(self.body(request, stream=stream)), headers)
        reply.mask_also(exchange.secrets)
        await read(exchange.blocks(), reply)


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON in UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def with_path(base: str, path: str) -> str:
    """Return the address of a path below a base URL, which may already end with it.

    >>> with_path("http://localhost:8000/v1/?a=b", "/chat/completions")
    'http://localhost:8000/v1/chat/completions?a=b'
    """
    address = urlsplit(base)
    return urlunsplit(address._replace(path=address.path.rstrip("/").removesuffix(path) + path))
