"""Retrying: retries failed attempts with exponential backoff; no other place retries."""

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
from fusion.models.attempt import note_wait
from fusion.models.base import Model, ModelWrapper, TrackedDeltas, check_usable, in_words

ATTEMPTS: Final = 3
"""Attempts of one call, at most."""
_LONG: Final = 7_200


class Retrying(ModelWrapper):
    """A model with up to `attempts` attempts per call, as long as the errors are `retryable`.

    The backoff before attempt n+1 is uniform from 0 to min(`cap`, `base` * 2**(n-1)) seconds ("full jitter", AWS
    Architecture Blog, "Exponential Backoff And Jitter"), on top of the provider's Retry-After. `deadline` bounds the
    seconds from the first failure to the start of the last attempt (default: three times the request's timeout).

    With `patience`, which is for models with a fallback, only errors with a Retry-After of at most so many seconds
    are retried.

    An empty reply counts as a failed attempt. Once `on_delta.committed` is True there is no retry; before that,
    `on_delta.restart()` discards the chunks already sent.

    Raises the ModelError of the last attempt, with the number of attempts in its message.
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
        self._random = random or Random()  # noqa: S311 - jitter, not cryptography
        self._sleep = sleep
        self._clock = clock

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        deltas = None if on_delta is None else TrackedDeltas(on_delta)
        until: float | None = None
        number = 0
        while True:
            number += 1
            try:
                return check_usable(await self.inner.complete(request, deltas))
            except ModelError as error:
                if until is None:
                    until = self._clock() + (3 * request.timeout if self._deadline is None else self._deadline)
                wait = self._pause_after(error, number, deltas, until)
            if deltas is not None and deltas.any:
                deltas.restart()
            begun = time.perf_counter()
            await self._sleep(wait)
            note_wait("pause", begun)

    def _pause_after(self, error: ModelError, number: int, deltas: TrackedDeltas | None, until: float) -> float:
        """Return the backoff in seconds; raise the error if there is no further attempt. Emits AttemptFailed."""
        wait = max(0.0, error.retry_after or 0.0) + self._jitter(number)
        end = self._final_error(error, number, deltas, wait, until - self._clock())
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

    def _final_error(
        self, error: ModelError, number: int, deltas: TrackedDeltas | None, wait: float, left: float
    ) -> ModelError | None:
        """Return the error that ends the call; None if there is another attempt."""
        if not (error.retryable and self._has_patience(error)):
            return error if number == 1 else _after(error, number)
        if deltas is not None and deltas.committed:
            return _after(error, number, "not retried, since a part of the answer is already in use")
        if number >= self._attempts:
            return _after(error, number)
        if wait > left:
            when = f"in {wait:.1f} s" if wait < _LONG else in_words(wait)
            why = f"the next could start {when}, but only {max(left, 0.0):.1f} s are left"
            return _after(error, number, why)
        return None

    def _has_patience(self, error: ModelError) -> bool:
        if self._patience is None:
            return True
        return error.retry_after is not None and error.retry_after <= self._patience


def _after(error: ModelError, attempts: int, why: str = "") -> ModelError:
    """Return the error with the number of attempts in its message; its cause is the original."""
    final = copy.copy(error)
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    final.args = (f"{error} (after {times}{f'; {why}' if why else ''})",)
    final.__cause__ = error
    return final
