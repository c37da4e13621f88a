"""Cached: the same request is sent once; where it comes up again, its reply is there already."""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from fusion.core import budget
from fusion.core.errors import StoreError
from fusion.core.events import Noted, span
from fusion.core.log import LOG
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelWrapper
from fusion.store.base import Store
from fusion.store.rows import Cached as CachedRow

_RECENT: Final = 1000
_SHORT: Final = 32
"""Digits of a key that tell it from every other."""

Again = Callable[[], Awaitable[Reply]]
"""Sends the request anew."""


class ReplyCache(ABC):
    """Where replies are found again. One event loop uses it.

    `under_way` holds the requests that are being sent for it.
    """

    def __init__(self) -> None:
        self.under_way: dict[str, asyncio.Event] = {}

    @abstractmethod
    async def find(self, key: str, again: Again) -> Reply | None:
        """The reply to the same request, if there is one; `again` is for who keeps none."""

    @abstractmethod
    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply."""


class RunCache(ReplyCache):
    """The replies of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._replies: dict[str, Reply] = {}

    async def find(self, key: str, again: Again) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply


class _Recent:
    """The latest replies, at hand."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self.get = self._replies.get

    def add(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply
        if len(self._replies) > _RECENT:
            self._replies.popitem(last=False)


class StoreCache(ReplyCache):
    """The replies of all runs of a store. The latest are at hand before they are written.

    Where the store cannot be read the models are asked, and each run is told once.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._recent = _Recent()
        self._told: set[str] = set()

    async def find(self, key: str, again: Again) -> Reply | None:
        try:
            return self._recent.get(key) or await self._store.cached(key)
        except StoreError as error:
            LOG.warning("cached replies cannot be read: %s", error)
            self._tell(error)
            return None

    def _tell(self, error: StoreError) -> None:
        here = span.get()
        if here is not None and here.run_id not in self._told:
            self._told.add(here.run_id)
            here.sink(Noted(run_id=here.run_id, message=f"replies that are cached cannot be found: {error}"))

    def add(self, key: str, reply: Reply) -> None:
        self._recent.add(key, reply)
        self._store.put(CachedRow(key, reply, time.time()))


class RecordedCache(ReplyCache):
    """Knows which calls were made, and the latest replies: for recorded models, which say the same again for nothing.

    A call that is known is made again outside of every budget.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: set[str] = set()
        self._first: dict[str, list[str]] = {}
        self._recent = _Recent()

    async def find(self, key: str, again: Again) -> Reply | None:
        recent = self._recent.get(key)
        if recent is not None or key[:_SHORT] not in self._known:
            return recent
        paying = budget.current.set(None)
        try:
            return await again()
        finally:
            budget.current.reset(paying)

    def add(self, key: str, reply: Reply) -> None:
        self._known.add(key[:_SHORT])
        self._recent.add(key, reply)
        here = span.get()
        if here is not None:
            self._first.setdefault(here.run_id, []).append(key[:_SHORT])

    def know(self, keys: Iterable[str]) -> None:
        """These calls were made before."""
        self._known.update(keys)

    def first(self, run_id: str) -> tuple[str, ...]:
        """The calls that a run was the first to make; they are told once."""
        return tuple(self._first.pop(run_id, ()))


class Cached(ModelWrapper):
    """A model whose replies are found again by what was asked: model, parameters, messages, schema and samples.

    Only whole replies are kept, never failures nor what was cut off. Who asks what is being sent already waits for
    that reply; if it fails, the next one asks. `sample` is the run's own number among repeats.
    """

    def __init__(self, inner: Model, cache: ReplyCache, sample: int = 0) -> None:
        super().__init__(inner)
        self._cache = cache
        self._sample = sample

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        key = self._key(request)
        while True:
            found = await self._cache.find(key, lambda: self.inner.complete(request))
            if found is not None:
                if on_delta is not None:
                    on_delta.add(found.text)
                return found.model_copy(update={"reused": "cache"})
            waiting = self._cache.under_way.get(key)
            if waiting is None:
                return await self._sent(key, lambda: self.inner.complete(request, on_delta))
            await waiting.wait()

    async def _sent(self, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
        over = self._cache.under_way[key] = asyncio.Event()
        try:
            reply = await send()
            if reply.finish_reason == "stop":
                self._cache.add(key, reply)
            return reply
        finally:
            del self._cache.under_way[key]
            over.set()

    def _key(self, request: Request) -> str:
        """SHA-256 (hex) over what makes a request the same as another: its content, and its numbers among samples."""
        assert request.key is not None
        return hashlib.sha256(f"{request.key.digest} {request.sample} {self._sample}".encode()).hexdigest()
