"""Fitted: the request of a stage as one model of its chain takes it."""

from collections.abc import Mapping
from typing import Any

from fusion.core.errors import InputTooLongError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, ModelWrapper, estimate_input
from fusion.models.structured import shaped


class Fitted(ModelWrapper):
    """A model that is asked on terms of its own: `changes` are the fields of a request that differ for it.

    Where it takes any JSON object in place of a strict schema, the shape is said in words.

    Raises InputTooLongError, before anything is sent, for what is far too long for it.
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
    """Refuse what is far too long for the model before it costs anything."""
    context, most = model.context, request.max_tokens
    if context is None:
        return
    size = sum([message.size for message in request.messages])
    if size + most < context:  # fewer bytes than the context has tokens: it fits for certain
        return
    tokens = estimate_input(request.messages)
    if tokens + most > context:
        raise InputTooLongError(
            f"the request has about {tokens:,} tokens and may get {most:,} more, {model.id!r} has room for "
            f"{context:,}: about {tokens + most - context:,} too many. Shorten the input, lower `max_tokens`, or "
            "give the role a model with a longer context",
            model=model.id,
        )
