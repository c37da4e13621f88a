"""Cached: answers equal requests from a cache, and sends each of them once."""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from fusion.core import budget
from fusion.core.errors import StoreError
from fusion.core.events import Noted, span
from fusion.core.log import LOG
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelWrapper
from fusion.store.base import RunLock, Store
from fusion.store.rows import Cached as CachedRow

_RECENT: Final = 1000
_SHORT: Final = 32
"""Digits of a key that identify it."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_PATIENCE: Final = 3
"""Timeouts of a request that another process may take before it is sent here too."""

Again = Callable[[], Awaitable[Reply]]
"""Sends the request again."""


class ReplyCache(ABC):
    """A cache of replies, for one event loop. `in_flight` holds the keys of requests being sent."""

    def __init__(self) -> None:
        self.in_flight: dict[str, asyncio.Event] = {}

    @abstractmethod
    async def find(self, key: str, again: Again) -> Reply | None:
        """Return the cached reply; None on a cache miss. `again` repeats the call, for caches without replies."""

    @abstractmethod
    def add(self, key: str, reply: Reply) -> None:
        """Add a reply."""

    @asynccontextmanager
    async def claimed(self, key: str, seconds: float) -> AsyncIterator[bool]:
        """Claim a request before it is sent; True if its reply may have been added meanwhile.

        A claim of another process is waited for, for so many seconds at most.
        """
        yield False


class RunCache(ReplyCache):
    """A cache of the replies of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._replies: dict[str, Reply] = {}

    async def find(self, key: str, again: Again) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply


class _Recent:
    """The latest replies, in memory."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self.get = self._replies.get

    def add(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply
        if len(self._replies) > _RECENT:
            self._replies.popitem(last=False)


class StoreCache(ReplyCache):
    """A cache of the replies of all runs of a store, with the latest in memory.

    A read error of the store is a cache miss, noted once per run.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._recent = _Recent()
        self._noted: set[str] = set()

    async def find(self, key: str, again: Again) -> Reply | None:
        try:
            return self._recent.get(key) or await self._store.cached(key)
        except StoreError as error:
            LOG.warning("cached replies cannot be read: %s", error)
            self._note(error)
            return None

    @asynccontextmanager
    async def claimed(self, key: str, seconds: float) -> AsyncIterator[bool]:
        """Claim a request in all processes of the store. The claim ends with its process."""
        lock = await self._claim(f"request-{key}", seconds)
        try:
            yield True
            with suppress(StoreError):
                await self._store.written()  # the reply, before another process looks for it
        finally:
            if lock is not None:
                lock.release()

    async def _claim(self, name: str, seconds: float) -> RunLock | None:
        """Return the lock of a request; None if another process has held it for too long."""
        until, pause = time.monotonic() + seconds, _FIRST_PAUSE
        try:
            while (lock := self._store.claim(name)) is None and time.monotonic() < until:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.5)
        except StoreError as error:
            LOG.warning("%s", error)
            return None
        return lock

    def _note(self, error: StoreError) -> None:
        here = span.get()
        if here is not None and here.run_id not in self._noted:
            self._noted.add(here.run_id)
            here.sink(Noted(run_id=here.run_id, message=f"cached replies cannot be read: {error}"))

    def add(self, key: str, reply: Reply) -> None:
        self._recent.add(key, reply)
        self._store.put(CachedRow(key, reply, time.time()))


class RecordedCache(ReplyCache):
    """A cache of the keys of all calls, for recorded models, which repeat a reply for free.

    A known call whose reply is not among the latest is repeated outside any budget.
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
        """Add the keys of earlier calls."""
        self._known.update(keys)

    def first(self, run_id: str) -> tuple[str, ...]:
        """Return and forget the keys of the calls that a run was the first to make."""
        return tuple(self._first.pop(run_id, ()))


class Cached(ModelWrapper):
    """A model whose replies are cached by model, parameters, messages, schema and sample number.

    Only complete replies are cached, no failures and no truncated ones. A request equal to one in flight waits for
    its reply, also in another process of the same store; if that fails or its process dies, the next one is sent.
    `sample` numbers repeats of a run.
    """

    def __init__(self, inner: Model, cache: ReplyCache, sample: int = 0) -> None:
        super().__init__(inner)
        self._cache = cache
        self._sample = sample

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        key = self._key(request)
        while True:
            found = await self._found(key, request, on_delta)
            if found is not None:
                return found
            waiting = self._cache.in_flight.get(key)
            if waiting is None:
                return await self._send(key, request, on_delta)
            await waiting.wait()

    async def _found(self, key: str, request: Request, on_delta: Deltas | None) -> Reply | None:
        found = await self._cache.find(key, lambda: self.inner.complete(request))
        if found is None:
            return None
        await asyncio.sleep(0)  # calls made at once begin before the first of them ends
        if on_delta is not None:
            on_delta.add(found.text)
        return found.model_copy(update={"reused": "cache"})

    async def _send(self, key: str, request: Request, on_delta: Deltas | None) -> Reply:
        done = self._cache.in_flight[key] = asyncio.Event()
        try:
            async with self._cache.claimed(key, _PATIENCE * request.timeout) as shared:
                found = await self._found(key, request, on_delta) if shared else None
                if found is not None:
                    return found
                reply = await self.inner.complete(request, on_delta)
                if reply.finish_reason == "stop":
                    self._cache.add(key, reply)
                return reply
        finally:
            del self._cache.in_flight[key]
            done.set()

    def _key(self, request: Request) -> str:
        """Return the SHA-256 (hex) of the content of a request and its sample numbers."""
        assert request.key is not None
        return hashlib.sha256(f"{request.key.digest} {request.sample} {self._sample}".encode()).hexdigest()
