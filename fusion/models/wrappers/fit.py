"""Fitted: adapts the request of a stage to one model of its chain."""

from collections.abc import Mapping
from typing import Any

from fusion.core.errors import InputTooLongError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, ModelWrapper, estimate_request, tools_bound
from fusion.models.structured import shaped


class Fitted(ModelWrapper):
    """A model with its own request fields: `changes` replace those of the stage's request.

    For a model without strict schemas, the schema is added to the system prompt.

    Raises InputTooLongError, before sending, for a request far beyond its context window.
    """

    def __init__(self, inner: Model, changes: Mapping[str, Any]) -> None:
        super().__init__(inner)
        self._changes = dict(changes)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        if self._changes:
            request = request.model_copy(update=self._changes)
        check_fits(request, self.info)
        if request.json_schema is not None and request.json_mode == "object":
            messages = tuple(shaped(request.messages, request.json_schema, "object"))
            request = request.model_copy(update={"messages": messages})
        return await self.inner.complete(request, on_delta)


def check_fits(request: Request, model: ModelInfo) -> None:
    """Raise InputTooLongError for a request that is estimated to exceed the context window."""
    context, most = model.context, request.max_tokens
    if context is None:
        return
    size = sum([message.size for message in request.messages]) + tools_bound(request.tools)
    if size + most < context:  # fewer bytes than the window has tokens: it fits for certain
        return
    tokens = estimate_request(request)
    if tokens + most > context:
        raise InputTooLongError(
            f"the request has about {tokens:,} tokens and may get {most:,} more, {model.id!r} has room for "
            f"{context:,}: about {tokens + most - context:,} too many. Shorten the input, lower `max_tokens`, or "
            "give the role a model with a longer context",
            model=model.id,
        )
