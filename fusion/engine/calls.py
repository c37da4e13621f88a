"""Caller: makes the calls of a stage, each with its content key and its events."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from fusion.core.errors import ShapeError, failure_of
from fusion.core.events import (
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    EventBase,
    FallbackTaken,
    Sink,
    Span,
    span,
)
from fusion.core.params import merged
from fusion.core.types import CallKey, JsonSchema, Message, Reply, Request
from fusion.models import structured
from fusion.models.attempt import CallClock, clock
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog import refused
from fusion.models.speed import Latencies
from fusion.models.wrappers.fallback import Fallback, Member
from fusion.models.wrappers.fit import Fitted, check_fits
from fusion.models.wrappers.hedge import Hedged, Hedging
from fusion.models.wrappers.prompt_cache import Prefixes, marked_once, unmarked
from fusion.prompts.template import stable_prefix
from fusion.stages.context import Answer, Ask

_LOCAL_TIMEOUT: Final = 900.0
_TIMEOUT: Final = 120.0

Wrap = Callable[[Model, str], Model]
"""Wraps a model, called by a role, so that its calls are cached and recorded."""


class _Link(NamedTuple):
    """A chain of models, or its rest that starts with the model named `beginning`."""

    model: Model
    beginning: str = ""


class Terms:
    """Terms of the calls of one stage to one role: models, limits and parameters. All runs of a pipeline share them.

    `sent` are the fields of every request, `prefixes` the beginnings that requests have in common.
    """

    def __init__(
        self,
        chain: Sequence[Member],
        *,
        pipeline: str,
        stage: str,
        role: str,
        max_tokens: int,
        unsent: Mapping[str, Any],
        firm: Mapping[str, Any],
        soft: Mapping[str, Any],
        schema: JsonSchema | None,
        asked: Mapping[str, Any] | None = None,
        hedging: Hedging | None = None,
        batch: str = "auto",
        deadline: float | None = None,
    ) -> None:
        self.batch = batch
        self.deadline = deadline
        self.stage = stage
        self.role = role
        self.schema = schema
        self.info = chain[0].info
        self.max_tokens = max_tokens
        self.roomiest = max((member.info for member in chain), key=_room)
        limits = {"max_tokens": max_tokens, **unsent}

        def terms(model: ModelInfo) -> dict[str, Any]:
            limited = _limits(limits, model)
            params = _params(firm, soft, model)
            if asked is not None:
                params = _fitting(_params(_without(firm, asked), merged(asked, soft), model), limited)
            return {**limited, **params, **_shape(schema, model)}

        self.sent = terms(self.info)
        members = _fitted(chain, self.sent, terms)
        if hedging is not None:
            members = _hedged(members, hedging, f"{stage} {role}")
        self.model: Model = members[0].last if len(members) == 1 else Fallback(members)
        self.prefixes = Prefixes([member.info for member in chain], pipeline, stage)
        meant = {name: value for name, value in self.sent.items() if name not in unsent}
        self.meant = hashlib.sha256(_plainly([self.info.id, meant]))


class Caller:
    """Makes the calls of one stage to one role in one run."""

    def __init__(
        self,
        terms: Terms,
        *,
        sink: Sink,
        run_id: str,
        latencies: Latencies,
        wrap: Wrap,
        recurs: Callable[[], bool],
        batched: Callable[[Model, ModelInfo], Model] | None = None,
    ) -> None:
        self.schema = terms.schema
        self.model_id = terms.info.id
        self.max_tokens = terms.max_tokens
        self._terms = terms
        self._sink = sink
        self._latencies = latencies
        self._run_id = run_id
        self._stage = terms.stage
        self._role = terms.role
        self._wrap = wrap if batched is None else _in_batches(wrap, batched)
        self._link = _Link(self._wrap(terms.model, terms.role))
        self._recurs = recurs
        self._begun: tuple[Message, hashlib._Hash] | None = None

    def messages(self, ask: Ask) -> Sequence[Message]:
        """Return the messages to send: with the schema in words for a model that takes no schema."""
        mode = self._terms.sent.get("json_mode", "schema")
        return ask.messages if ask.schema is None else structured.shaped(ask.messages, ask.schema, mode)

    def key(self, ask: Ask) -> CallKey:
        """Return the content key of the first call: the same in every process."""
        return CallKey(stage=self._stage, item=ask.item, step=ask.step, digest=self._digest(ask, ask.messages, ""))

    async def call(self, ask: Ask) -> Answer:
        """Call the model, and parse its reply by the schema, if there is one."""
        data, keys = None, list[CallKey]()
        if ask.schema is None or not ask.parse:
            reply = await self._send(ask, self._link, keys, ask.messages)
        else:
            reply, data = await self._shaped(ask, ask.schema, keys)
        return Answer(reply.text, data, reply.writer, reply.finish_reason, tuple(keys), reply.tool_calls)

    async def _shaped(self, ask: Ask, schema: JsonSchema, keys: list[CallKey]) -> tuple[Reply, Any]:
        """Return a reply and its data, from the first model of the chain that keeps to the schema."""
        chain, link = self._terms.model, self._link
        while True:
            try:
                return await structured.complete(partial(self._send, ask, link, keys), ask.messages, schema)
            except ShapeError as error:
                following = chain.after(error.model) if isinstance(chain, Fallback) else None
                if following is None:
                    error.calls = tuple(keys)
                    raise
                self._sink(
                    FallbackTaken(
                        run_id=self._run_id,
                        stage=self._stage,
                        item=ask.item,
                        asked=self.model_id,
                        failed=error.model,
                        model=following.first.id,
                        role=self._role,
                        step=ask.step,
                        failure=error.as_failure(),
                    )
                )
                chain, link = following, _Link(self._wrap(following, self._role), following.first.id)

    async def _send(self, ask: Ask, link: "_Link", keys: list[CallKey], messages: Sequence[Message]) -> Reply:
        digest = self._digest(ask, messages, link.beginning)
        key = CallKey(stage=self._stage, item=ask.item, step=ask.step, digest=digest)
        keys.append(key)
        sent, cache_key = self._cacheable(messages)
        request = Request(
            messages=sent, key=key, sample=ask.sample, cache_key=cache_key, **self._terms.sent, **_tools(ask)
        )
        check_fits(request, self._terms.roomiest)
        self._emit(CallStarted, ask, model=self.model_id, digest=digest)
        here = span.set(Span(self._sink, self._run_id, self._stage, ask.item, self._role, ask.step))
        times = CallClock()
        timed = clock.set(times)
        try:
            reply = await link.model.complete(request, ask.deltas)
        except asyncio.CancelledError:
            self._emit(CallCancelled, ask, model=self.model_id, waited=times.waited())
            raise
        except Exception as error:
            failure = failure_of(error)
            self._emit(CallFailed, ask, model=self.model_id, failure=failure, waited=times.waited())
            raise
        finally:
            span.reset(here)
            clock.reset(timed)
        if reply.reused is None and reply.batch_saved is None:
            self._latencies.add(reply.writer, reply.latency)
        self._emit(
            CallFinished,
            ask,
            digest=digest,
            asked=reply.asked,
            served=reply.served,
            by=reply.by,
            usage=reply.usage,
            cost=reply.cost,
            latency=reply.latency,
            first_token=reply.first_token,
            finish_reason=reply.finish_reason,
            reused=reply.reused,
            waited=times.waited(),
            batch_saved=reply.batch_saved,
        )
        return reply

    def _cacheable(self, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str | None]:
        """Return messages with their stable parts, and a key for the prompt cache, if a cache pays for this stage."""
        if not any(message.stable for message in messages):
            return tuple(messages), None
        key = self._terms.prefixes.key(stable_prefix(messages)) if self._recurs() else None
        return (unmarked(messages) if key is None else marked_once(messages)), key

    def _emit(self, kind: Callable[..., EventBase], ask: Ask, **more: Any) -> None:
        self._sink(
            kind(run_id=self._run_id, stage=self._stage, item=ask.item, step=ask.step, role=self._role, **more)
        )

    def _digest(self, ask: Ask, messages: Sequence[Message], beginning: str) -> str:
        """SHA-256 over model, parameters, schema, messages and tools."""
        begun = self._begun
        if begun is None or begun[0] is not messages[0]:  # calls usually share their first message
            begun = self._begun = messages[0], _with(self._terms.meant, messages[:1])
        digest = _with(begun[1], messages[1:])
        if beginning:
            digest.update(b"\nfrom " + beginning.encode())
        if ask.tools:
            digest.update(b"\ntools " + _plainly([ask.tool_choice, *(tool.model_dump() for tool in ask.tools)]))
        return digest.hexdigest()


def _in_batches(wrap: Wrap, batched: Callable[[Model, ModelInfo], Model]) -> Wrap:
    """Return `wrap` with batches beneath it."""

    def wrapped(chain: Model, role: str) -> Model:
        first = chain.first if isinstance(chain, Fallback) else chain.info
        return wrap(batched(chain, first), role)

    return wrapped


def _tools(ask: Ask) -> dict[str, Any]:
    return {"tools": ask.tools, "tool_choice": ask.tool_choice} if ask.tools else {}


def _limits(wanted: Mapping[str, Any], model: ModelInfo) -> dict[str, Any]:
    limits = dict(wanted)
    if limits["timeout"] is None:
        limits["timeout"] = _LOCAL_TIMEOUT if model.local else _TIMEOUT
    if model.max_output is not None:
        limits["max_tokens"] = min(limits["max_tokens"], model.max_output)
    return limits


def _params(firm: Mapping[str, Any], soft: Mapping[str, Any], model: ModelInfo) -> dict[str, Any]:
    """All firm parameters, and the soft ones that the model takes."""
    wanted = merged(firm, soft)
    left_out = refused(model, wanted) - firm.keys()
    return {name: value for name, value in wanted.items() if name not in left_out}


def _without(params: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without those that others replace."""
    return {name: value for name, value in params.items() if name not in others or name == "extra"}


def _fitting(params: dict[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without a thinking budget that leaves nothing of the output limit for the answer."""
    budget = params.get("thinking_budget")
    unfit = budget is not None and budget >= limits["max_tokens"]
    return {name: value for name, value in params.items() if not (unfit and name == "thinking_budget")}


def _shape(schema: JsonSchema | None, model: ModelInfo) -> dict[str, Any]:
    if schema is None:
        return {}
    said, mode = structured.form(schema, model)
    return {"json_schema": said, "json_mode": mode}


def _fitted(
    chain: Sequence[Member], first: dict[str, Any], terms: Callable[[ModelInfo], dict[str, Any]]
) -> Sequence[Member]:
    """Return the chain with its own terms for each member that differs from the first one."""
    if len(chain) == 1 and first.get("json_mode") != "object":
        return chain
    members = []
    for member in chain:
        own = terms(member.info)
        unsaid = {name: Request.model_fields[name].get_default(call_default_factory=True) for name in first}
        changes = {name: value for name, value in {**unsaid, **own}.items() if value != first.get(name)}
        members.append(member._replace(primary=Fitted(member.primary, changes), last=Fitted(member.last, changes)))
    return members


def _hedged(chain: Sequence[Member], hedging: Hedging, stage: str) -> list[Member]:
    """Return the chain with late calls of each member asked of the ones behind it, too."""
    asked = chain[0].info

    def hedged(model: Model, member: Member, at: int) -> Hedged:
        rivals = chain[at + 1 :]
        return Hedged(model, rivals=rivals, itself=member.primary, stage=stage, asked=asked, hedging=hedging)

    return [
        member._replace(primary=hedged(member.primary, member, at), last=hedged(member.last, member, at))
        for at, member in enumerate(chain)
    ]


def _room(model: ModelInfo) -> float:
    """Context window of a model in tokens; unlimited if unknown."""
    return float("inf") if model.context is None else model.context


def _with(digest: "hashlib._Hash", messages: Sequence[Message]) -> "hashlib._Hash":
    """Return a digest extended by messages."""
    digest = digest.copy()
    for message in messages:  # length-prefixed, so that two contents never read as one
        content = message.content.encode()
        digest.update(b"\n%s %d\n%s" % (message.role.encode(), len(content), content))
        for at, file in message.files:
            digest.update(b"\n%d %s" % (at, file.digest.encode()))
        if message.tool_calls or message.tool_call_id is not None:
            calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
            digest.update(b"\ntool %s" % _plainly([message.tool_call_id, calls]))
    return digest


def _plainly(terms: list[Any]) -> bytes:
    return json.dumps(terms, sort_keys=True).encode()
