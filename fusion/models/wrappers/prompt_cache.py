"""Prompt caches of providers: the parts of requests worth keeping there, and one call that fills a cache first."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fusion.core.types import Deltas, Message, Reply, Request
from fusion.models.attempt import note_wait
from fusion.models.base import Model, ModelInfo, ModelWrapper, estimate_tokens

_LEAST: Final = (
    ("claude-opus-5", 512),
    ("claude-fable-5", 512),
    ("claude-mythos-5", 512),
    ("claude-haiku-4", 4096),
    ("claude-opus-4-5", 4096),
    ("claude-opus-4-6", 4096),
    ("claude-opus-4-7", 4096),
    ("claude-sonnet-4-6", 2048),
    ("claude-3-haiku", 2048),
    ("claude-3-5-haiku", 2048),
)
"""Fewest tokens that a cache keeps, by a part of the model's name.

https://platform.claude.com/docs/en/build-with-claude/prompt-caching, and the table of
https://docs.litellm.ai/docs/completion/prompt_caching (October 2026); the larger figure where the two differ.
"""
_LEAST_OF_OTHERS: Final = 1024
"""OpenAI's minimum, and Gemini's: https://platform.openai.com/docs/guides/prompt-caching."""
_LIVES: Final = 270.0
"""Seconds after its last use for which a cache is taken to live; Anthropic keeps it for five minutes."""
_PATIENCE: Final = 5.0
"""Most seconds that calls wait for the one that fills the cache: it is filled once the reply begins."""
_WORTH_A_MARK: Final = 200
"""Characters from which on the stable part of a further message gets the mark."""
_KEPT: Final = 1000
_DIGITS: Final = 32


def least_tokens(info: ModelInfo) -> int:
    """Return the fewest tokens that the provider's prompt cache keeps."""
    name = info.id.replace(".", "-")
    return next((least for part, least in _LEAST if part in name), _LEAST_OF_OTHERS)


def is_marked(info: ModelInfo) -> bool:
    """Return True for a model whose provider caches only what a request marks, and charges for it."""
    return info.family == "claude"


class Prefixes:
    """The stable beginnings of the calls of one stage, and their names in prompt caches.

    `scope` is what keeps a stage apart from others: its pipeline and its path.
    """

    def __init__(self, models: Sequence[ModelInfo], *scope: str) -> None:
        self._least = min(least_tokens(info) for info in models)
        self._scope = scope
        self._last: tuple[str, str | None] = ("", None)

    def key(self, prefix: str) -> str | None:
        """Return the name of a prefix; None for one that is too short to be cached."""
        if prefix != self._last[0]:
            self._last = (prefix, self._named(prefix))
        return self._last[1]

    def _named(self, prefix: str) -> str | None:
        if estimate_tokens(prefix) < self._least:
            return None
        digest = hashlib.sha256("\n".join([*self._scope, prefix]).encode(errors="replace"))
        return digest.hexdigest()[:_DIGITS]


def unmarked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages without stable parts."""
    return tuple(_unmarked(message) for message in messages)


def marked_once(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages with one stable part: the last one before the first text that varies, unless it is short."""
    last = 0
    for at, message in enumerate(messages):
        if at == 0 or message.stable >= _WORTH_A_MARK:
            last = at
        if message.stable < len(message.content):
            break
    return tuple(message if at == last else _unmarked(message) for at, message in enumerate(messages))


def _unmarked(message: Message) -> Message:
    return message.model_copy(update={"stable": 0}) if message.stable else message


@dataclass
class _Cache:
    """A prompt cache: the moment of its last use, and the end of the call that fills it, if one does."""

    used: float = float("-inf")
    filled: asyncio.Event | None = None


class Primed(ModelWrapper):
    """A model whose provider charges for filling a prompt cache: of equal prefixes, one call is sent first.

    The others wait until it ends, for a few seconds at most, so that they read what it has written. Calls of a prefix
    that was used lately, and those without one, are sent at once.
    """

    def __init__(
        self, inner: Model, *, patience: float = _PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(inner)
        self._patience = patience
        self._clock = clock
        self._caches: OrderedDict[str, _Cache] = OrderedDict()

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        if request.cache_key is None:
            return await self.inner.complete(request, on_delta)
        cache = self._cache(request.cache_key)
        if self._clock() - cache.used < _LIVES:
            return await self._use(cache, request, on_delta)
        if cache.filled is not None:
            await self._wait(cache.filled)
            return await self._use(cache, request, on_delta)
        filled = cache.filled = asyncio.Event()
        try:
            return await self._use(cache, request, on_delta)
        finally:
            cache.filled = None
            filled.set()

    async def _wait(self, filled: asyncio.Event) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._patience):
                await filled.wait()
        except TimeoutError:  # the cache is filled once the reply begins
            return
        finally:
            note_wait("pause", begun)

    async def _use(self, cache: _Cache, request: Request, on_delta: Deltas | None) -> Reply:
        reply = await self.inner.complete(request, on_delta)
        cache.used = self._clock()
        return reply

    def _cache(self, key: str) -> _Cache:
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = _Cache()
            if len(self._caches) > _KEPT:
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        return cache
