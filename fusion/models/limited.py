"""Limited: gives every attempt a slot, so that a model has no more than so many at once, and bounds its time."""

import asyncio

from fusion.core import budget
from fusion.core.errors import ModelError, ModelTimeoutError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelWrapper
from fusion.models.deadlines import Deadlines


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
