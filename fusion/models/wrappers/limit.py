"""Limited: gives every attempt a slot, so that a model has no more than so many at once, and bounds its time."""

import asyncio

from fusion.core import budget
from fusion.core.errors import ModelError, ModelTimeoutError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelWrapper


class Deadlines:
    """The deadlines of all that may take `seconds`, each from the moment it begins.

    Nearly all end long before, so there is one timer for all of them: it fires at the first deadline, and is then set
    to that of the oldest one still open. An `asyncio.timeout(None)` is watched; it ends its block as ever.

    >>> async with asyncio.timeout(None) as clock:
    ...     deadlines.begin(clock)
    ...     try:
    ...         await work()
    ...     finally:
    ...         deadlines.end(clock)
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, clock: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._open[clock] = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_at(deadline, self._look)

    def end(self, clock: asyncio.Timeout) -> None:
        self._open.pop(clock, None)

    def _look(self) -> None:
        """End those whose time is over, and wait for the next."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for clock, deadline in list(self._open.items()):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._look)
                return
            del self._open[clock]
            clock.reschedule(now)


class Limited(ModelWrapper):
    """A model that works on at most `concurrency` attempts at once, served in order of arrival.

    `slots` are shared with other models: an attempt takes one of its own model's and then one of those. From the
    moment it has both it is marked as sent in `budget.attempt`, and has `request.timeout` seconds to answer.

    Raises ModelTimeoutError when that time is over.
    """

    def __init__(self, inner: Model, *, concurrency: int, slots: asyncio.Semaphore | None = None) -> None:
        if concurrency < 1:
            raise UsageError(f"the concurrency of {inner.info.id!r} is {concurrency}: give 1 or more")
        super().__init__(inner)
        self._slots = asyncio.Semaphore(concurrency)
        self._shared = slots
        self._deadlines: dict[float, Deadlines] = {}  # by their seconds

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        async with self._slots:
            if self._shared is None:
                return await self._attempt(request, on_delta)
            async with self._shared:
                return await self._attempt(request, on_delta)

    async def _attempt(self, request: Request, on_delta: Deltas | None) -> Reply:
        reservation = budget.attempt.get()
        if reservation is not None:
            reservation.sent = True
        deadlines = self._deadlines.get(request.timeout)
        if deadlines is None:
            deadlines = self._deadlines[request.timeout] = Deadlines(request.timeout)
        clock = asyncio.timeout(None)
        try:
            async with clock:
                deadlines.begin(clock)
                return await self.inner.complete(request, on_delta)
        except (TimeoutError, ModelError) as error:
            # A door may turn the cancellation that ends its time into an error of its own.
            if not clock.expired():
                raise
            raise self._too_late(request.timeout) from error
        finally:
            deadlines.end(clock)

    def _too_late(self, seconds: float) -> ModelTimeoutError:
        model = self.info.id
        return ModelTimeoutError(
            f"{model!r} gave no whole answer within {seconds:g} s: raise `timeout` of its role or"
            " `defaults.timeout`, lower `max_tokens`, or use a faster model",
            model=model,
        )
