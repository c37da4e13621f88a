"""Fallback: where a model of a chain cannot answer, the next one is asked, and that is always said."""

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
from fusion.models.base import Heard, Model, ModelInfo


class Breaker:
    """Opens after `failures` outages in a row; from then on one call is let through every `rest` seconds.

    An outage is no answer in time, or no connection; whatever else a model says shows that it is there.
    """

    def __init__(self, *, failures: int = 3, rest: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._in_a_row = 0
        self._until = 0.0

    def lets_through(self) -> bool:
        """Whether a call may be sent now. The one that tries an open breaker keeps all others away meanwhile."""
        if self._in_a_row < self._failures:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._rest
        return True

    def worked(self) -> None:
        self._in_a_row = 0

    def failed(self, error: ModelError) -> None:
        if not isinstance(error, (ModelConnectionError, ModelTimeoutError)):
            self.worked()
            return
        self._in_a_row += 1
        self._until = self._clock() + self._rest

    def refusal(self, model: str) -> ModelError:
        """Why a model is not asked now."""
        left = max(0.0, self._until - self._clock())
        return ModelConnectionError(
            f"{model!r} was out of reach {self._in_a_row} times in a row; it is asked again in {left:.0f} s",
            model=model,
        )


class Member(NamedTuple):
    """One model of a chain: `hasty` tries again only what the provider itself says to, `patient` whatever may help.

    The hasty one is asked while others are left, the patient one where there is none. `concurrency` says how many
    calls it takes at once, where that is limited.
    """

    hasty: Model
    patient: Model
    breaker: Breaker
    concurrency: int | None = None

    @property
    def info(self) -> ModelInfo:
        return self.patient.info


class Fallback(Model):
    """A chain of models, of which the first that answers does.

    An error that `stops` (authentication, a bad request) ends the call: it would hide a mistake of the user's to
    go on. A context window too small goes to a member with a larger one, a content filter to another family;
    everything else to the next, one of another provider first. A member that is known to be out of reach is passed
    over while another is left.

    Each step is a FallbackTaken event; a reply says in `by` who gave it. Once `on_delta.committed` is true nobody
    else is asked; before that, pieces that were handed on are taken back with `on_delta.restart()`.

    `asked` is the model that replies give as asked for, by default the first member.

    Raises the last member's ModelError.
    """

    def __init__(self, members: Sequence[Member], *, asked: ModelInfo | None = None) -> None:
        self.info = asked or members[0].info
        self.first = members[0].info
        self._members = tuple(members)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        heard = None if on_delta is None else Heard(on_delta)
        left = list(self._members)
        tried: list[str] = []
        while True:
            member, left = self._next(left)
            tried.append(member.info.id)
            try:
                reply = await (member.hasty if left else member.patient).complete(request, heard)
            except ModelError as error:
                member.breaker.failed(error)
                left = _who_may(left, member.info, error)
                if not left or (heard is not None and heard.committed):
                    raise _ended(error, tried) from error
                self._say(member, left[0], error)
            else:
                member.breaker.worked()
                return self._by(member, reply)
            if heard is not None and heard.any:
                heard.restart()

    async def close(self) -> None:
        for member in self._members:
            await member.patient.close()

    def after(self, model_id: str) -> "Fallback | None":
        """The chain without this model and those before it; None where nobody is left."""
        ids = [member.info.id for member in self._members]
        left = self._members[ids.index(model_id) + 1 :] if model_id in ids else ()
        return Fallback(left, asked=self.info) if left else None

    def _next(self, left: list[Member]) -> tuple[Member, list[Member]]:
        """The member to ask now, and those who are left then."""
        for at, member in enumerate(left):
            if member.breaker.lets_through():
                for skipped in left[:at]:
                    self._say(skipped, member, skipped.breaker.refusal(skipped.info.id))
                return member, left[at + 1 :] + left[:at]
        return left[0], left[1:]

    def _say(self, failed: Member, following: Member, error: ModelError) -> None:
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


def _who_may(left: Sequence[Member], failed: ModelInfo, error: ModelError) -> list[Member]:
    """Those of the members left who may do better than the one that failed, the likeliest first."""
    if error.stops:
        return []
    if isinstance(error, ContextWindowError):
        return [member for member in left if _reads_more(member.info, failed)]
    if isinstance(error, ContentFilterError):
        return [member for member in left if member.info.family is None or member.info.family != failed.family]
    return sorted(left, key=lambda member: member.info.provider == failed.provider)


def _reads_more(one: ModelInfo, other: ModelInfo) -> bool:
    """Whether a model reads more at once than another; one that is not known to read less is worth asking."""
    return one.context is None or other.context is None or one.context > other.context


def _ended(error: ModelError, tried: Sequence[str]) -> ModelError:
    """The error to end with: of a chain that was tried, with who was asked."""
    if len(tried) == 1:
        return error
    ended = copy.copy(error)
    ended.args = (f"{error} (asked before it: {', '.join(tried[:-1])})",)
    return ended
