"""Contained: turns cancellations and timeouts from within a model into failures of its call."""

import asyncio
import time

from fusion.core.errors import ModelError, ModelTimeoutError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import departure
from fusion.models.base import ModelWrapper


class Contained(ModelWrapper):
    """A model whose own CancelledError or TimeoutError fails its call, and nothing else.

    A cancellation of the call itself passes through: it counts in `cancelling` of the running task. A reply without
    a latency gets the time that it took, and so does an error.

    Raises UsageError if the model returns anything but a Reply.
    """

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        begun = time.perf_counter()
        here = departure.get()
        if here is not None:
            here.begin(begun)
        try:
            reply = await self.inner.complete(request, on_delta)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._cancelled() from error
        except TimeoutError as error:
            raise self._timed_out(error) from error
        except ModelError as error:
            error.took = time.perf_counter() - begun
            if here is not None:
                here.end()
            raise
        if not isinstance(reply, Reply):
            raise UsageError(f"the model {self.info.id!r} returned {type(reply).__name__}; return a Reply")
        if not reply.latency:
            reply = reply.model_copy(update={"latency": time.perf_counter() - begun})
        return reply

    def _cancelled(self) -> ModelError:
        model = self.info.id
        return ModelError(
            f"{model!r} cancelled its own work (CancelledError in its code); catch it there, or raise a ModelError",
            model=model,
        )

    def _timed_out(self, error: TimeoutError) -> ModelTimeoutError:
        said = f": {error}" if str(error) else ""
        return ModelTimeoutError(f"{self.info.id!r} ended at a timeout of its own{said}", model=self.info.id)
