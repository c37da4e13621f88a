"""Pinned: a model as it was known when its run began, so that what is asked of it stays the same."""

from fusion.core.errors import FusionError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, ModelWrapper


class Pinned(ModelWrapper):
    """A model about which is known what was known before."""

    def __init__(self, inner: Model, info: ModelInfo) -> None:
        super().__init__(inner)
        self.info = info

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        return await self.inner.complete(request, on_delta)


class Unreachable(Model):
    """A model that cannot be asked any more: every call raises why. What it has answered before stays of use."""

    def __init__(self, info: ModelInfo, error: FusionError) -> None:
        self.info = info
        self._error = error

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        raise self._error
