"""Limited: bounds the concurrent attempts of a model, and the time of each."""

import asyncio
import time
from typing import Final

from fusion.core import budget
from fusion.core.errors import ModelError, ModelTimeoutError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import note_wait
from fusion.models.base import Model, ModelWrapper

_LATE: Final = 0.25
"""Seconds by which a timer is late only if the process was stopped or busy."""


class Deadlines:
    """The deadlines of all attempts with the same timeout, on one timer.

    Nearly all attempts end long before their deadline, so the timer fires at the first one and is then set to that
    of the oldest attempt still open. Each deadline reschedules an `asyncio.timeout(None)`.

    >>> async with asyncio.timeout(None) as timeout:
    ...     deadlines.begin(timeout)
    ...     try:
    ...         await work()
    ...     finally:
    ...         deadlines.end(timeout)
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._graced: set[asyncio.Timeout] = set()
        self._open: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._open[timeout] = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_at(deadline, self._fire)

    def end(self, timeout: asyncio.Timeout) -> None:
        self._open.pop(timeout, None)
        self._graced.discard(timeout)

    def _fire(self) -> None:
        """Expire the timeouts whose deadline has passed, and set the timer for the next."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._put_off(now)
        for timeout, deadline in sorted(self._open.items(), key=lambda pair: pair[1]):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._fire)
                return
            self.end(timeout)
            timeout.reschedule(now)

    def _put_off(self, now: float) -> None:
        """Put off the deadlines that passed while the process was stopped."""
        late = now - min(self._open.values(), default=now)
        if late < _LATE:
            return
        for timeout, deadline in self._open.items():
            if deadline <= now and timeout not in self._graced:
                self._graced.add(timeout)
                self._open[timeout] = now + min(late, self._seconds)


class Limited(ModelWrapper):
    """A model with at most `concurrency` concurrent attempts, first come first served.

    `slots` are shared with other models: an attempt takes a slot of its own model, then one of those. With both, it
    is marked as sent in `budget.attempt`, and has `request.timeout` seconds to reply. Providers leave that to it.
    Loading the model's library is part of no attempt. Loading, the wait for slots and a failed attempt are waits of
    the call.

    Raises ModelTimeoutError when the time is over.
    """

    def __init__(self, inner: Model, *, concurrency: int, slots: asyncio.Semaphore | None = None) -> None:
        if concurrency < 1:
            raise UsageError(f"the concurrency of {inner.info.id!r} is {concurrency}: give 1 or more")
        super().__init__(inner)
        self._slots = asyncio.Semaphore(concurrency)
        self._shared = slots
        self._deadlines: dict[float, Deadlines] = {}  # by their seconds

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        begun = time.perf_counter()
        await self.inner.ready()
        begun = note_wait("library", begun)
        async with self._slots:
            if self._shared is None:
                return await self._timed(request, on_delta, note_wait("slot", begun))
            async with self._shared:
                return await self._timed(request, on_delta, note_wait("slot", begun))

    async def _timed(self, request: Request, on_delta: Deltas | None, begun: float) -> Reply:
        try:
            return await self._attempt(request, on_delta)
        except Exception:
            note_wait("failed", begun)
            raise

    async def _attempt(self, request: Request, on_delta: Deltas | None) -> Reply:
        reservation = budget.attempt.get()
        if reservation is not None:
            reservation.sent = True
        deadlines = self._deadlines.get(request.timeout)
        if deadlines is None:
            deadlines = self._deadlines[request.timeout] = Deadlines(request.timeout)
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                deadlines.begin(timeout)
                return await self.inner.complete(request, on_delta)
        except (TimeoutError, ModelError) as error:
            # A provider may turn the cancellation at its deadline into another error.
            if not timeout.expired():
                raise
            raise self._timed_out(request.timeout) from error
        finally:
            deadlines.end(timeout)

    def _timed_out(self, seconds: float) -> ModelTimeoutError:
        model = self.info.id
        return ModelTimeoutError(
            f"{model!r} gave no complete reply within {seconds:g} s: raise `timeout` of its role or"
            " `defaults.timeout`, lower `max_tokens`, or use a faster model",
            model=model,
        )
