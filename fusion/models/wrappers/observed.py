"""Observed: passes each request and its reply on to an observer of the run."""

from collections.abc import Callable

from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelWrapper

Hear = Callable[[Request, Reply | None], None]
"""Receives a request with its reply; None for a call that failed."""


class Observed(ModelWrapper):
    """A model of one run whose requests and replies are heard by an observer."""

    def __init__(self, inner: Model, hear: Hear) -> None:
        super().__init__(inner)
        self._hear = hear

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        reply: Reply | None = None
        try:
            reply = await self.inner.complete(request, on_delta)
        finally:
            self._hear(request, reply)
        return reply
