"""Fallback: a failed call goes to the next model of its chain, with an event; a model that is down is skipped."""

import asyncio
import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fusion.core.errors import (
    ContentFilterError,
    ContextWindowError,
    ModelError,
    OutageError,
)
from fusion.core.events import FallbackTaken, Span, emit, span
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import waiting
from fusion.models.base import Model, ModelInfo, TrackedDeltas


class Gate(Protocol):
    """The circuit breaker of a model, as its chain sees it."""

    @property
    def admits(self) -> bool:
        """True if a call would be sent now."""

    @property
    def busy(self) -> bool:
        """True until a long Retry-After of the model is over."""

    @property
    def limit(self) -> ModelError | None:
        """The error that asked for it."""

    def tell(self, here: Span | None) -> None:
        """Report an outage to a run that has not heard of it."""

    async def turn(self, seconds: float) -> bool:
        """Wait until a call would be sent; False if that takes longer."""

    def refusal(self) -> ModelError:
        """Return the error of a call that is not sent."""

    def given_up(self, patience: float) -> ModelError:
        """Return the error of a call that waited in vain."""


class Member(NamedTuple):
    """One model of a chain, under two retry policies. `concurrency` is the limit of its concurrent calls, if any.

    `primary` retries on Retry-After only, since another model is left; `last` retries every retryable error.
    """

    primary: Model
    last: Model
    breaker: Gate
    concurrency: int | None = None

    @property
    def info(self) -> ModelInfo:
        return self.last.info

    @property
    def is_ready(self) -> bool:
        """True if the model would take a call now."""
        return self.breaker.admits and not self.breaker.busy


class Fallback(Model):
    """A chain of models; the first that replies wins.

    An error that `stops` (authentication, bad request) ends the call, since it is a mistake of the user. After a
    ContextWindowError the call goes to members with a larger window, after a ContentFilterError to another family,
    after any other error to the next member, those of other providers first. A member that is down, or asked for a
    long pause, is skipped while others are left. Calls wait for the first that is back while all are down.

    Each step is a FallbackTaken event, and the reply names its model in `by`. Once `on_delta.committed` is True,
    there is no fallback; before that, `on_delta.restart()` discards the chunks already sent.

    `asked` is the model named as requested in replies, by default the first member.

    Raises the ModelError of the last member.
    """

    def __init__(self, members: Sequence[Member], *, asked: ModelInfo | None = None) -> None:
        self.info = asked or members[0].info
        self.first = members[0].info
        self._members = tuple(members)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        deltas = None if on_delta is None else TrackedDeltas(on_delta)
        left = list(self._members)
        tried: dict[str, None] = {}
        failed: tuple[Member, ModelError] | None = None
        while True:
            member, others = await self._next(left, request)
            if failed is not None:
                self._emit(failed[0], member, failed[1])
            tried[member.info.id] = None
            try:
                reply = await self._patience_for(member, others).complete(request, deltas)
            except ModelError as error:
                error.model = error.model or member.info.id
                left = _left(others, member, error)
                if not left or (deltas is not None and deltas.committed):
                    raise _with_chain(error, tuple(tried)) from error
                failed = member, error
            else:
                return self._by(member, reply)
            if deltas is not None and deltas.any:
                deltas.restart()

    async def close(self) -> None:
        for member in self._members:
            await member.last.close()

    def after(self, model_id: str) -> "Fallback | None":
        """Return the chain behind this model; None if it is the last or not a member."""
        ids = [member.info.id for member in self._members]
        left = self._members[ids.index(model_id) + 1 :] if model_id in ids else ()
        return Fallback(left, asked=self.info) if left else None

    async def _next(self, left: list[Member], request: Request) -> tuple[Member, list[Member]]:
        """Return the next member to call, and those left after it; wait while all are down."""
        while len(left) > 1:
            at = next((at for at, member in enumerate(left) if member.is_ready), None)
            if at is None:
                at = next((at for at, member in enumerate(left) if member.breaker.admits), None)
            if at is not None:
                for skipped in left[:at]:
                    self._skip(skipped, left[at])
                return left[at], left[at + 1 :] + left[:at]
            if request.on_outage == "fail":
                break
            await _first_turn([member.breaker for member in left], request.patience)
        return left[0], []

    def _patience_for(self, member: Member, others: Sequence[Member]) -> Model:
        return member.primary if any(other.is_ready for other in others) else member.last

    def _skip(self, skipped: Member, following: Member) -> None:
        gate = skipped.breaker
        gate.tell(span.get())
        self._emit(skipped, following, gate.limit if gate.admits and gate.limit is not None else gate.refusal())

    def _emit(self, failed: Member, following: Member, error: ModelError) -> None:
        emit(
            FallbackTaken,
            asked=self.info.id,
            failed=failed.info.id,
            model=following.info.id,
            failure=error.as_failure(),
        )

    def _by(self, member: Member, reply: Reply) -> Reply:
        by = reply.by or member.info.id  # a hedge names the model that replied
        if by == self.info.id:
            return reply
        return reply.model_copy(update={"asked": self.info.id, "by": by})


async def _first_turn(gates: Sequence[Gate], patience: float) -> None:
    """Wait until one of these breakers would let a call through. Raises OutageError once patience is over."""
    turns = [asyncio.ensure_future(gate.turn(patience)) for gate in gates]
    try:
        with waiting("pause"):
            for turn in asyncio.as_completed(turns):
                if await turn:
                    return
    finally:
        for one in turns:
            one.cancel()
    raise gates[0].given_up(patience)


def _left(others: Sequence[Member], failed: Member, error: ModelError) -> list[Member]:
    """Return the members to try after this error, in their order."""
    if isinstance(error, OutageError) and not error.stops:
        return [*others, failed] if others else []
    return _candidates(others, failed.info, error)


def _candidates(left: Sequence[Member], failed: ModelInfo, error: ModelError) -> list[Member]:
    """Return the members that may succeed after this error, the likeliest first."""
    if error.stops:
        return []
    if isinstance(error, ContextWindowError):
        return [member for member in left if _reads_more(member.info, failed)]
    if isinstance(error, ContentFilterError):
        return [member for member in left if member.info.family is None or member.info.family != failed.family]
    return sorted(left, key=lambda member: member.info.provider == failed.provider)


def _reads_more(one: ModelInfo, other: ModelInfo) -> bool:
    """Return True unless the context window is known to be no larger than the other."""
    return one.context is None or other.context is None or one.context > other.context


def _with_chain(error: ModelError, tried: Sequence[str]) -> ModelError:
    """Return the error with the models tried before it in its message."""
    if len(tried) == 1:
        return error
    final = copy.copy(error)
    final.args = (f"{error} (tried before it: {', '.join(tried[:-1])})",)
    return final
