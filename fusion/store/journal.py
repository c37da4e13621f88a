"""Journal: one run's part of a store: what is finished and decided, and where everything new is written down."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from itertools import count
from typing import Any, Final, NamedTuple

from fusion.core import errors
from fusion.core.budget import Amount, Closed
from fusion.core.errors import BudgetError, FusionError, StoreError
from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    CallCancelled,
    CallFailed,
    Decided,
    EventBase,
    FallbackTaken,
    ItemFinished,
    Noted,
    Sink,
    StageFinished,
    StageStarted,
    span,
    to_both,
)
from fusion.core.types import CallKey, Failure, Reply, Request, Reuse
from fusion.store.base import Store
from fusion.store.outbox import Withheld
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    Call,
    CallState,
    Content,
    Decision,
    Ended,
    Noticed,
    Row,
    SetAside,
    Spending,
)

_KEPT_EVENTS: Final = frozenset(
    {
        AttemptCharged,
        AttemptFailed,
        CallCancelled,
        CallFailed,
        Decided,
        FallbackTaken,
        Noted,
        StageFinished,
        StageStarted,
    }
)
_PATIENCE: Final = 0.003
"""Seconds in which mostly some call that is about to be made waits for the disk anyway."""
_NOT_KEPT: Final = "its words are not kept"

_Place = tuple[str, int | None, str]
"""Stage, item and name of a decision."""
_Found = tuple[str, int]
"""A run, and the number of a call of it."""


class Asking(NamedTuple):
    """A call that is being made: what is asked, by which role of which model, and since when."""

    request: Request
    key: CallKey
    role: str
    asked: str
    started: float


class Journal:
    """What a run has finished, and what it finishes now.

    A call is known by its key: stage, item, step and a digest of its content. A finished one is answered from here;
    so is one that failed, where a finished one of the same item came of that. `others` are runs whose finished calls
    answer too: those that this one goes back to.

    What is finished is written behind the engine's back. Nobody outside hears of it, and no attempt that could rest
    on it is made, before it is on disk: rows are written in their order, and the one that opens an attempt is waited
    for.

    Where the store fails while the run is under way, the run goes on without it: `on_loss` is called once with the
    reason.

    It is used on one event loop, and is the Ledger of the run's budget.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        session: int = 1,
        content: Content = "full",
        on_loss: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run_id = run_id
        self.session = session
        self.content: Content = content
        self.on_loss = on_loss
        self._store = store
        self._clock = clock
        self._lost = False
        self._numbers = count(1)
        self._events = count(1)
        self._attempts = count(1)
        self._finished: dict[CallKey, _Found] = {}
        self._elsewhere: dict[CallKey, _Found] = {}
        self._failed: dict[CallKey, _Found] = {}
        self._decided: dict[_Place, Any] = {}
        self._spent: dict[str, Spending] = {}
        self._withheld = Withheld()
        self.seconds = 0.0
        """How long processes were at this run before."""

    # What was before.

    def resume(self, *, retry_budget: bool = False) -> int:
        """Take up what is kept of this run; how many finished calls that are.

        Attempts that were open when it died count in full from now on. With `retry_budget`, what was refused for want
        of budget is asked again.
        """
        store = self._store
        store.lose_open(self.run_id)
        self._load(self.run_id, self._finished, retry_budget=retry_budget)
        self._decided = {(one.stage, one.item, one.name): one.value for one in store.decisions(self.run_id)}
        calls, events = store.last_numbers(self.run_id)
        self._numbers, self._events = count(calls + 1), count(events + 1)
        self._spent = store.spending(self.run_id)
        row = store.run(self.run_id)
        self.seconds = 0.0 if row is None else row.seconds
        return len(self._finished)

    def reuse(self, run_ids: Iterable[str]) -> int:
        """Answer from the finished calls of these runs too, the first before the others; how many those are."""
        for run_id in run_ids:
            found: dict[CallKey, _Found] = {}
            self._load(run_id, found)
            self._elsewhere = {**found, **self._elsewhere}
            for one in self._store.decisions(run_id):
                self._decided.setdefault((one.stage, one.item, one.name), one.value)
        return len(self._elsewhere)

    def _load(self, run_id: str, into: dict[CallKey, _Found], *, retry_budget: bool = False) -> None:
        """The finished calls of a run, and of the failed ones those that are to fail again."""
        failed: list[tuple[CallKey, int]] = []
        last: dict[tuple[str, int | None], int] = {}
        for number, key, state in self._store.index(run_id):
            if state == "finished":
                into[key] = run_id, number
                last[key.stage, key.item] = number
            elif state == "failed":
                failed.append((key, number))
        for key, number in failed:
            if key in into:
                continue
            if last.get((key.stage, key.item), 0) > number or self._was_refused(run_id, number, retry_budget):
                self._failed[key] = run_id, number

    def _was_refused(self, run_id: str, number: int, retry_budget: bool) -> bool:
        """Whether a call failed for want of budget, which is decided once."""
        call = None if retry_budget else self._store.call(run_id, number)
        return call is not None and call.failure is not None and call.failure.reason == BudgetError.__name__

    def spent(self, prefix: str = "") -> tuple[Amount, int]:
        """What the stage of this path and those within it spent before, or all of them, and calls of unknown cost."""
        usd, tokens, calls, unknown = Decimal(0), 0, 0, 0
        for stage, one in self._spent.items():
            if not prefix or stage == prefix or stage.startswith(f"{prefix}/"):
                usd, tokens, calls = usd + one.usd, tokens + one.tokens, calls + one.calls
                unknown += one.unknown
        return Amount(usd, tokens, calls), unknown

    # Calls.

    async def answer(self, key: CallKey) -> Reply | None:
        """The reply to a call that is finished; None for one that is to be made.

        Raises the error of one that failed, where something finished came of it.
        """
        for kept, reuse in self._before:
            call = await self._read(kept[key]) if key in kept else None
            if call is not None and call.reply is not None:
                return self._taken(key, kept[key], call.reply, reuse)
        call = await self._read(self._failed[key]) if key in self._failed else None
        if call is not None and call.failure is not None:
            raise _as_error(call.failure, call.asked)
        return None

    @property
    def _before(self) -> tuple[tuple[dict[CallKey, _Found], Reuse], ...]:
        """The calls of before, and what a reply to one of them is."""
        if not (self._finished or self._elsewhere or self._failed):
            return ()
        return ((self._finished, "journal"), (self._elsewhere, "other run"))

    async def _read(self, found: _Found) -> Call | None:
        """A call of before; None where it cannot be read any more."""
        try:
            return await self._store.answer(*found)
        except StoreError as error:
            self._lose(error)
            return None

    def _taken(self, key: CallKey, found: _Found, reply: Reply, reuse: Reuse) -> Reply:
        """A reply that is used again. One of another run becomes one of this run too."""
        if reuse == "other run" and key not in self._finished:
            number = next(self._numbers)
            self._finished[key] = self.run_id, number
            try:
                call = self._store.call(*found)
            except StoreError as error:
                self._lose(error)
            else:
                if call is not None:
                    self._put(replace(call, run_id=self.run_id, number=number, reused=found[0]))
        return reply.model_copy(update={"reused": reuse})

    def finished(self, asking: Asking, reply: Reply) -> None:
        """Write a reply down."""
        digest = hashlib.sha256(reply.text.encode()).hexdigest() if self.content == "digest" else ""
        kept, reused = reply, reply.reused
        if reused is not None or self.content != "full":
            text = reply.text if self.content == "full" else ""
            kept = reply.model_copy(update={"reused": None, "text": text})
        self._put(self._call(asking, reply=kept, text_digest=digest, reused=reused))

    def failed(self, asking: Asking, error: FusionError) -> None:
        """Write down that a call has failed."""
        self._put(self._call(asking, state="failed", failure=self._unsaid(error.as_failure())))

    def set_aside(self, keys: tuple[CallKey, ...]) -> None:
        """What these calls replied cannot be used: on resume they are asked anew. They stay paid."""
        if keys:
            self._put(SetAside(self.run_id, keys))

    def _call(self, asking: Asking, *, state: CallState = "finished", **outcome: Any) -> Call:
        key, number = asking.key, next(self._numbers)
        if self.content == "off":  # no digest of what was asked: each call is one of its own
            key = key.model_copy(update={"digest": f"call {number}"})
        return Call(
            run_id=self.run_id,
            number=number,
            key=key,
            role=asking.role,
            asked=asking.asked,
            state=state,
            started=asking.started,
            ended=self._clock(),
            request=asking.request if self.content == "full" else None,
            **outcome,
        )

    # The ledger.

    async def opened(self, request: Request, model: str, amount: Amount) -> int:
        """Write down an attempt of at most this amount; its number, once that and all before it is on disk."""
        here, key = span.get(), request.key
        assert key is not None
        number = next(self._attempts)
        role = "" if here is None else here.role
        self._put(
            Attempt(
                self.run_id,
                self.session,
                number,
                key.stage,
                key.item,
                key.step,
                role,
                model,
                self._clock(),
                amount.usd,
                amount.tokens,
            )
        )
        await self.written()
        return number

    def closed(self, number: int, state: Closed, amount: Amount) -> None:
        """An attempt is over and cost this much."""
        usd, tokens = (Decimal(0), 0) if state == "refunded" else (amount.usd, amount.tokens)
        self._put(AttemptEnd(self.run_id, self.session, number, state, self._clock(), usd, tokens))

    # Decisions.

    def keep(self, stage: str, item: int | None, name: str, value: Any) -> None:
        """Decide something for good. It is on disk before the next attempt is made."""
        place = (stage, item, name)
        if place not in self._decided:
            self._decided[place] = value
            if self.content == "full":
                self._put(Decision(self.run_id, stage, item, name, value))

    def kept(self, stage: str, item: int | None, name: str) -> Any:
        """What was decided; None where nothing was."""
        return self._decided.get((stage, item, name))

    def is_finished(self, key: CallKey) -> bool:
        """Whether a call is finished, here or in a run that this one goes back to."""
        return key in self._finished or key in self._elsewhere

    # Events, and the end.

    def telling(self, sink: Sink) -> Sink:
        """The sink of the run's events: of what they tell, this one hears once it is on disk."""
        self._withheld.sink = sink
        return to_both(self._notice, self._withheld)

    async def tell(self) -> None:
        """As long as the run lasts, wait for the disk where no call does that is about to be made."""
        while True:
            await self._withheld.any()
            await asyncio.sleep(_PATIENCE)
            await self.written()

    def _notice(self, event: EventBase) -> None:
        """Keep an event that tells what no other row does."""
        if type(event) in _KEPT_EVENTS or (isinstance(event, ItemFinished) and event.failure is not None):
            body = event.model_dump(mode="json", exclude={"run_id"}, exclude_none=True)
            self._put(Noticed(self.run_id, next(self._events), self._without_words(body)))

    async def end(self, ended: Ended) -> None:
        """Write the end of the run down, and tell what is left to be told."""
        self._put(ended)
        try:
            await self.written()
        finally:
            self._withheld.hand_on(self._withheld.count)

    # Writing.

    def _without_words(self, body: dict[str, Any]) -> dict[str, Any]:
        """An event's data; where prompts may not be kept, without what may quote them."""
        if self.content == "full":
            return body
        if body["type"] == "noted":
            body["message"] = _NOT_KEPT
        if body["type"] == "decided":
            body["reason"] = _NOT_KEPT
        if "failure" in body:
            body["failure"]["message"] = _NOT_KEPT
        return body

    def _unsaid(self, failure: Failure) -> Failure:
        return failure if self.content == "full" else failure.model_copy(update={"message": _NOT_KEPT})

    def _put(self, *rows: Row) -> None:
        if not self._lost:
            self._store.put(*rows)

    async def written(self) -> None:
        """Wait until all of it is on disk, and tell of it."""
        before = self._withheld.count
        try:
            if not self._lost:
                await self._store.written()
        except StoreError as error:
            self._lose(error)
        self._withheld.hand_on(before)

    def _lose(self, error: StoreError) -> None:
        if not self._lost:
            self._lost = True
            self.on_loss(str(error))


def _as_error(failure: Failure, model: str) -> FusionError:
    """The error that a failure was made of."""
    kind = getattr(errors, failure.reason, None)
    if not (isinstance(kind, type) and issubclass(kind, FusionError)) or kind is errors.RunFailed:
        kind = errors.StageError
    error: FusionError = kind(failure.message)
    if isinstance(error, errors.ModelError):
        error.model = model
    return error
