"""Retrying: retries failed attempts with exponential backoff; no other place retries."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from fusion.core import budget
from fusion.core.errors import ModelConnectionError, ModelError, ParameterNameError, RateLimitError, UsageError
from fusion.core.events import AttemptFailed, emit
from fusion.core.log import LOG
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import clock, note_wait
from fusion.models.base import Model, ModelWrapper, TrackedDeltas, check_usable, in_words
from fusion.models.pace import patience, spare

ATTEMPTS: Final = 3
"""Attempts of one call that may be billed, at most."""
_LONG: Final = 7_200


class Retrying(ModelWrapper):
    """A model whose failed attempts are repeated, as long as the errors are `retryable` and there is patience.

    Refused requests, rate limits and 5xx are repeated for `request.patience` seconds, which count from the first
    failure to the start of the last attempt. Waits for slots and pace put that off, to twice as long at most; the
    `seconds` of the budget end it. Attempts that may be billed are at most `attempts`, since each costs money:
    malformed and empty replies, timeouts, and connections lost after the request was sent. The probe of an outage is
    none of them.

    The backoff before attempt n+1 is uniform from 0 to min(`cap`, `base` * 2**(n-1)) seconds ("full jitter", AWS
    Architecture Blog, "Exponential Backoff And Jitter"), on top of the provider's Retry-After. After a rate limit it
    does not grow: the pace of the model spaces its requests.

    With `hasty`, which is for models with a fallback, only errors with a Retry-After of at most so many seconds are
    retried, and an attempt waits no longer than that for its pace.

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
        hasty: float | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if attempts < 1:
            raise UsageError(f"the attempts of {inner.info.id!r} are {attempts}: give 1 or more")
        super().__init__(inner)
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._hasty = hasty
        self._random = random or Random()  # noqa: S311 - jitter, not cryptography
        self._sleep = sleep
        self._clock = now

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        deltas = None if on_delta is None else TrackedDeltas(on_delta)
        tries = _Tries()
        while True:
            waited = _waited()
            try:
                return check_usable(await self._attempt(request, deltas, tries))
            except ModelError as error:
                self._count(tries, error, request, deltas, _waited() - waited)
                wait = self._pause_after(error, tries, deltas)
            if deltas is not None and deltas.any:
                deltas.restart()
            begun = time.perf_counter()
            await self._sleep(wait)
            note_wait("pause", begun)

    async def _attempt(self, request: Request, deltas: TrackedDeltas | None, tries: "_Tries") -> Reply:
        left = request.patience if tries.until is None else tries.until - self._clock()
        token = patience.set(left if self._hasty is None else min(left, self._hasty))
        other = spare.set(self._hasty is not None)
        try:
            return await self.inner.complete(request, deltas)
        finally:
            spare.reset(other)
            patience.reset(token)

    def _count(
        self, tries: "_Tries", error: ModelError, request: Request, deltas: TrackedDeltas | None, waited: float
    ) -> None:
        """Count a failed attempt, which waited so many seconds for slots and pace."""
        tries.number += 1
        tries.billed += not error.probe and (_may_be_billed(error) or (deltas is not None and deltas.any))
        if not isinstance(error, RateLimitError):
            tries.backoffs += 1
        if tries.until is None:
            paying = budget.current.get()
            left = None if paying is None else paying.remaining_seconds()
            tries.until = self._clock() + (request.patience if left is None else min(request.patience, left))
        else:
            shift = min(waited, request.patience - tries.shift)
            tries.shift += shift
            tries.until += shift

    def _pause_after(self, error: ModelError, tries: "_Tries", deltas: TrackedDeltas | None) -> float:
        """Return the backoff in seconds; raise the error if there is no further attempt. Emits AttemptFailed."""
        wait = max(0.0, error.retry_after or 0.0) + self._jitter(max(tries.backoffs, 1))
        end = self._final_error(error, tries, deltas, wait)
        emit(
            AttemptFailed,
            model=self.info.id,
            attempt=tries.number,
            failure=error.as_failure(),
            wait=wait if end is None else None,
        )
        LOG.debug("%s: attempt %d failed: %s", self.info.id, tries.number, error)
        if end is not None:
            raise end
        return wait

    def _jitter(self, number: int) -> float:
        return self._random.uniform(0, min(self._cap, self._base * 2 ** (number - 1)))

    def _final_error(
        self, error: ModelError, tries: "_Tries", deltas: TrackedDeltas | None, wait: float
    ) -> ModelError | None:
        """Return the error that ends the call; None if there is another attempt."""
        if not (error.retryable and self._has_patience(error)):
            return error if tries.number == 1 else _after(error, tries.number)
        if deltas is not None and deltas.committed:
            return _after(error, tries.number, "not retried, since a part of the answer is already in use")
        if self._is_spent(tries):
            return _after(error, tries.number)
        assert tries.until is not None
        left = tries.until - self._clock()
        if wait > left:
            when = f"in {wait:.1f} s" if wait < _LONG else in_words(wait)
            why = f"the next could start {when}, but only {max(left, 0.0):.1f} s are left"
            return _after(error, tries.number, why)
        return None

    def _is_spent(self, tries: "_Tries") -> bool:
        return tries.billed >= self._attempts

    def _has_patience(self, error: ModelError) -> bool:
        if self._hasty is None:
            return True
        return error.retry_after is not None and error.retry_after <= self._hasty


class _Tries:
    """The failed attempts of a call: all, those that may be billed, those that lengthen the backoff.

    `until` is the time of the last attempt, `shift` the seconds by which it was put off for waits.
    """

    __slots__ = ("backoffs", "billed", "number", "shift", "until")

    def __init__(self) -> None:
        self.number = self.billed = self.backoffs = 0
        self.shift = 0.0
        self.until: float | None = None


def _may_be_billed(error: ModelError) -> bool:
    return error.answered or not isinstance(error, (RateLimitError, ModelConnectionError, ParameterNameError))


def _waited() -> float:
    """Return the seconds that the call waited for slots, pace and budget so far."""
    here = clock.get()
    return 0.0 if here is None else here.slot + here.pause + here.budget


def _after(error: ModelError, attempts: int, why: str = "") -> ModelError:
    """Return the error with the number of attempts in its message; its cause is the original."""
    final = copy.copy(error)
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    final.args = (f"{error} (after {times}{f'; {why}' if why else ''})",)
    final.__cause__ = error
    return final
