"""Makes the calls of a stage: each with its content key, its events, and a Request that is built once."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from fusion.errors import FusionError, InputTooLongError
from fusion.events import CallCancelled, CallFailed, CallFinished, CallStarted, EventBase, Sink, Span, span
from fusion.models import structured
from fusion.models.base import Model, estimate_input
from fusion.stages.base import Answer, Ask
from fusion.types import CallKey, Failure, JsonMode, JsonSchema, Message, Reply, Request

__all__ = ["Caller"]


class Caller:
    """Asks one model for one stage, always on the same terms: what all its calls share is worked out once."""

    def __init__(
        self,
        model: Model,
        *,
        sink: Sink,
        run_id: str,
        stage: str,
        role: str,
        max_tokens: int,
        timeout: float,
        temperature: float | None,
        schema: JsonSchema | None,
    ) -> None:
        self.schema = schema
        self._model = model
        self._sink = sink
        self._run_id = run_id
        self._stage = stage
        self._role = role
        self.model_id = model.info.id
        self.max_tokens = max_tokens
        self._timeout = timeout
        self._temperature = temperature
        self._said: JsonSchema | None = None
        self._mode: JsonMode = "schema"
        if schema is not None:
            self._said, self._mode = structured.form(schema, model.info)
        self._begun: tuple[Message, hashlib._Hash] | None = None
        self._terms = hashlib.sha256(_plainly([model.info.id, max_tokens, temperature, self._said, self._mode]))

    def messages(self, ask: Ask) -> Sequence[Message]:
        """What is said to the model: with the shape in words where it takes no schema."""
        return ask.messages if ask.schema is None else structured.shaped(ask.messages, ask.schema, self._mode)

    async def call(self, ask: Ask) -> Answer:
        """Ask the model, in the schema's shape where there is one."""

        async def send(messages: Sequence[Message]) -> Reply:
            return await self._send(ask, messages)

        data = None
        if ask.schema is None:
            reply = await send(ask.messages)
        elif ask.parse:
            reply, data = await structured.complete(send, ask.messages, ask.schema, self._mode)
        else:
            reply = await send(self.messages(ask))
        return Answer(reply.text, data, self._model.info.id, reply.finish_reason)

    async def _send(self, ask: Ask, messages: Sequence[Message]) -> Reply:
        digest = self._digest(messages)
        request = Request(
            messages=tuple(messages),
            max_tokens=self.max_tokens,
            timeout=self._timeout,
            temperature=self._temperature,
            json_schema=self._said,
            json_mode=self._mode,
            key=CallKey(stage=self._stage, item=ask.item, step=ask.step, digest=digest),
        )
        self._check_fits(request)
        self._emit(CallStarted, ask, model=self._model.info.id, digest=digest)
        here = span.set(Span(self._sink, self._run_id, self._stage, ask.item))
        try:
            reply = await self._model.complete(request, ask.deltas)
        except asyncio.CancelledError:
            self._emit(CallCancelled, ask, model=self._model.info.id)
            raise
        except Exception as error:
            self._emit(CallFailed, ask, model=self._model.info.id, failure=_failure(error))
            raise
        finally:
            span.reset(here)
        self._emit(
            CallFinished,
            ask,
            asked=reply.asked,
            served=reply.served,
            digest=digest,
            usage=reply.usage,
            cost=reply.cost,
            latency=reply.latency,
            first_token=reply.first_token,
            finish_reason=reply.finish_reason,
        )
        return reply

    def _emit(self, kind: Callable[..., EventBase], ask: Ask, **more: Any) -> None:
        self._sink(
            kind(run_id=self._run_id, stage=self._stage, item=ask.item, step=ask.step, role=self._role, **more)
        )

    def _digest(self, messages: Sequence[Message]) -> str:
        """SHA-256 over everything that makes the call what it is."""
        begun = self._begun
        if begun is None or begun[0] is not messages[0]:  # mostly all begin with the same message, and a long one
            begun = self._begun = messages[0], _with(self._terms, messages[:1])
        return _with(begun[1], messages[1:]).hexdigest()

    def _check_fits(self, request: Request) -> None:
        """Refuse what is far too long for the model before it costs anything."""
        model, most = self._model.info, request.max_tokens
        context = model.context
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


def _with(digest: "hashlib._Hash", messages: Sequence[Message]) -> "hashlib._Hash":
    """The digest of what was there and the messages behind it."""
    digest = digest.copy()
    for message in messages:  # each behind its length, so that no two contents run together into the same text
        content = message.content.encode()
        digest.update(b"\n%s %d\n%s" % (message.role.encode(), len(content), content))
    return digest


def _plainly(terms: list[Any]) -> bytes:
    return json.dumps(terms, sort_keys=True).encode()


def _failure(error: Exception) -> Failure:
    if isinstance(error, FusionError):
        return error.as_failure()
    return Failure(reason=type(error).__name__, message=str(error) or "a fault of Fusion's own")
