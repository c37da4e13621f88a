"""Fallback: a failed call goes to the next model of its chain, with an event; circuit breakers skip dead models."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fusion.core.errors import (
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
)
from fusion.core.events import FallbackTaken, emit
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, TrackedDeltas


class Breaker:
    """Circuit breaker: opens after `failures` outages in a row, then lets one call through every `rest` seconds.

    An outage is a timeout or a connection error; any other response closes the breaker.
    """

    def __init__(self, *, failures: int = 3, rest: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._in_a_row = 0
        self._until = 0.0

    def lets_through(self) -> bool:
        """Return True if a call may be sent now. A trial call through an open breaker blocks others for `rest` s."""
        if self._in_a_row < self._failures:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._rest
        return True

    def succeed(self) -> None:
        """Record a reply."""
        self._in_a_row = 0

    def fail(self, error: ModelError) -> None:
        """Record an error."""
        if not isinstance(error, (ModelConnectionError, ModelTimeoutError)):
            self.succeed()
            return
        self._in_a_row += 1
        self._until = self._clock() + self._rest

    def refusal(self, model: str) -> ModelError:
        """Return the error of a call that the open breaker stops."""
        left = max(0.0, self._until - self._clock())
        return ModelConnectionError(
            f"{model!r} was unreachable {self._in_a_row} times in a row; the next attempt is in {left:.0f} s",
            model=model,
        )


class Member(NamedTuple):
    """One model of a chain, under two retry policies. `concurrency` is the limit of its concurrent calls, if any.

    `primary` retries on Retry-After only, since another model is left; `last` retries every retryable error.
    """

    primary: Model
    last: Model
    breaker: Breaker
    concurrency: int | None = None

    @property
    def info(self) -> ModelInfo:
        return self.last.info


class Fallback(Model):
    """A chain of models; the first that replies wins.

    An error that `stops` (authentication, bad request) ends the call, since it is a mistake of the user. After a
    ContextWindowError the call goes to members with a larger window, after a ContentFilterError to another family,
    after any other error to the next member, those of other providers first. An open circuit breaker skips its
    member while others are left.

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
        tried: list[str] = []
        while True:
            member, left = self._next(left)
            tried.append(member.info.id)
            try:
                reply = await (member.primary if left else member.last).complete(request, deltas)
            except ModelError as error:
                member.breaker.fail(error)
                error.model = error.model or member.info.id
                left = _candidates(left, member.info, error)
                if not left or (deltas is not None and deltas.committed):
                    raise _with_chain(error, tried) from error
                self._emit(member, left[0], error)
            else:
                member.breaker.succeed()
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

    def _next(self, left: list[Member]) -> tuple[Member, list[Member]]:
        """Return the next member to call, and those left after it."""
        for at, member in enumerate(left):
            if member.breaker.lets_through():
                for skipped in left[:at]:
                    self._emit(skipped, member, skipped.breaker.refusal(skipped.info.id))
                return member, left[at + 1 :] + left[:at]
        return left[0], left[1:]

    def _emit(self, failed: Member, following: Member, error: ModelError) -> None:
        emit(
            FallbackTaken,
            asked=self.info.id,
            failed=failed.info.id,
            model=following.info.id,
            failure=error.as_failure(),
        )

    def _by(self, member: Member, reply: Reply) -> Reply:
        if member.info.id == self.info.id:
            return reply
        return reply.model_copy(update={"asked": self.info.id, "by": member.info.id})


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
