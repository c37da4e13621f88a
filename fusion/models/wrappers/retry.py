"""Retrying: tries a call again where that may help, with growing random pauses; the only place that does so."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from fusion.core.errors import ModelError, UsageError
from fusion.core.events import AttemptFailed, emit
from fusion.core.log import LOG
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Heard, Model, ModelWrapper, check_usable

ATTEMPTS: Final = 3
"""How often a model is asked at most for one call."""


class Retrying(ModelWrapper):
    """A model that is asked up to `attempts` times, as long as its errors are `retryable`.

    The pause before attempt n+1 is drawn evenly from 0 to min(`cap`, `base` * 2**(n-1)) seconds ("full jitter",
    AWS Architecture Blog, "Exponential Backoff And Jitter"), after what the provider's Retry-After asks for.
    `deadline` bounds the seconds from the first failure to the start of the last attempt (default: three times
    the request's timeout); waiting for a budget or a slot before the first attempt is no part of it.

    With `patience` there is somebody else to ask: only what the provider itself says may be tried again within so
    many seconds is.

    An empty reply counts as a failed attempt. Once `on_delta.committed` is true nothing is tried again; before
    that, pieces that were handed on are taken back with `on_delta.restart()`.

    Raises the last attempt's ModelError; its message says how many attempts there were.
    """

    def __init__(
        self,
        inner: Model,
        *,
        attempts: int = ATTEMPTS,
        base: float = 0.5,
        cap: float = 20.0,
        deadline: float | None = None,
        patience: float | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if attempts < 1:
            raise UsageError(f"the attempts of {inner.info.id!r} are {attempts}: give 1 or more")
        super().__init__(inner)
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._deadline = deadline
        self._patience = patience
        self._random = random or Random()  # noqa: S311 - spreads pauses, guards nothing
        self._sleep = sleep
        self._clock = clock

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        heard = None if on_delta is None else Heard(on_delta)
        until: float | None = None
        number = 0
        while True:
            number += 1
            try:
                return check_usable(await self.inner.complete(request, heard))
            except ModelError as error:
                if until is None:
                    until = self._clock() + (3 * request.timeout if self._deadline is None else self._deadline)
                wait = self._pause_after(error, number, heard, until)
            if heard is not None and heard.any:
                heard.restart()
            await self._sleep(wait)

    def _pause_after(self, error: ModelError, number: int, heard: Heard | None, until: float) -> float:
        """Seconds until the next attempt; raises the error when there is none. Says either in an event."""
        wait = max(0.0, error.retry_after or 0.0) + self._jitter(number)
        end = self._end(error, number, heard, wait, until - self._clock())
        emit(
            AttemptFailed,
            model=self.info.id,
            attempt=number,
            failure=error.as_failure(),
            wait=wait if end is None else None,
        )
        LOG.debug("%s: attempt %d failed: %s", self.info.id, number, error)
        if end is not None:
            raise end
        return wait

    def _jitter(self, number: int) -> float:
        return self._random.uniform(0, min(self._cap, self._base * 2 ** (number - 1)))

    def _end(
        self, error: ModelError, number: int, heard: Heard | None, wait: float, left: float
    ) -> ModelError | None:
        """The error to end with, or None when there is to be another attempt."""
        if not (error.retryable and self._is_patient(error)):
            return error if number == 1 else _after(error, number)
        if heard is not None and heard.committed:
            return _after(error, number, "not tried again, because a part of the answer is already in use")
        if number >= self._attempts:
            return _after(error, number)
        if wait > left:
            why = f"the next could start in {wait:.1f} s, but only {max(left, 0.0):.1f} s are left"
            return _after(error, number, why)
        return None

    def _is_patient(self, error: ModelError) -> bool:
        if self._patience is None:
            return True
        return error.retry_after is not None and error.retry_after <= self._patience


def _after(error: ModelError, attempts: int, why: str = "") -> ModelError:
    """The same error, saying how often it was tried; the original is its cause."""
    ended = copy.copy(error)
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    ended.args = (f"{error} (after {times}{f'; {why}' if why else ''})",)
    ended.__cause__ = error
    return ended
