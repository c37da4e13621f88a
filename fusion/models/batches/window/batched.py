"""Batched: asks in batches of the provider, and goes on live with what they do not answer in time."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

from fusion.core import budget
from fusion.core.errors import ModelError
from fusion.core.events import AttemptCharged, AttemptFailed, emit, span
from fusion.core.types import CallKey, Deltas, Reply, Request
from fusion.models.attempt import note_wait, place, waiting
from fusion.models.base import Model, ModelWrapper, check_usable
from fusion.models.batches.base import BATCHES, Ended
from fusion.models.batches.window.clock import RunClock
from fusion.models.batches.window.payment import Payment, Purse
from fusion.models.batches.window.row import Left, Row
from fusion.models.batches.window.window import Window
from fusion.models.wrappers.budget import NOT_BILLED
from fusion.store.base import NullJournal
from fusion.store.batches import BatchPlace

_Outcome = Reply | Left | ModelError


class Batched(ModelWrapper):
    """A chain of models whose calls go to its first model in batches.

    A call that fails in a batch, or is missing in its results, is sent once more in the next batch, then live; one
    that cannot succeed there, or is late, is made live at once. `deadline` returns the time, in seconds since 1970,
    at which a call is late. The clock of the run stands still while it waits.

    The place of a call is in the journal before its batch is submitted, and the provider's id of that batch before it
    is looked at, so that a later session of the run joins it.
    """

    def __init__(
        self,
        inner: Model,
        window: Window,
        purse: Purse,
        *,
        journal: NullJournal,
        clock: RunClock,
        deadline: Callable[[], float | None],
    ) -> None:
        super().__init__(inner)
        self._window = window
        self._purse = purse
        self._journal = journal
        self._clock = clock
        self._deadline = deadline

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        reply = await self._in_batches(request)
        if reply is None:
            return await self.inner.complete(request, on_delta)
        if on_delta is not None:
            on_delta.add(reply.text)
        return reply

    async def _in_batches(self, request: Request) -> Reply | None:
        """Return the reply that came in a batch; None for a call to make live."""
        key = request.key
        assert key is not None
        places = self._journal.in_batches(key)
        tries = sum(one.batch_id is not None for one in places)
        before = places[-1] if places else None
        while before is not None or (tries < BATCHES and not self._is_late()):
            keeper = _Keeper(self._journal, key, before)
            tries += before is None
            outcome = await self._sent(request, keeper, before)
            before = None
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, Left) and outcome.why == "unsent":
                continue
            if not self._goes_on(outcome, tries):
                return None
        return None

    def _goes_on(self, outcome: Left | ModelError, tries: int) -> bool:
        """Return True if another batch may answer the call."""
        if isinstance(outcome, Left):
            return outcome.why == "missing"
        emit(AttemptFailed, model=self._window.info.id, attempt=max(tries, 1), failure=outcome.as_failure(), wait=0.0)
        return outcome.retryable

    async def _sent(self, request: Request, keeper: "_Keeper", before: BatchPlace | None) -> _Outcome:
        """Send a call in the next batch, or wait for the batch of an earlier session; pay for its end."""
        begun = time.perf_counter()
        payment = await self._payment(request, keeper, before)
        note_wait("budget", begun)
        row = self._row(request, keeper)
        try:
            if before is None:
                outcome = await self._outcome(self._window.send(row), payment, request)
            else:
                outcome = await self._outcome(self._window.join(row, before.name, before.batch_id), payment, request)
        except BaseException:
            self._part(row, payment)
            raise
        return outcome

    async def _payment(self, request: Request, keeper: "_Keeper", before: BatchPlace | None) -> Payment:
        paying = budget.current.get()
        if before is not None and before.run_id == keeper.run_id:
            return self._purse.rejoin(before, paying, self._journal)
        payment = await self._purse.reserve(request, paying)
        keeper.pay(payment)
        return payment

    def _row(self, request: Request, keeper: "_Keeper") -> Row:
        late = self._deadline()
        until = None if late is None else asyncio.get_running_loop().time() + late - time.time()
        return Row(keeper.row, request, keeper, model=self._window.info.id, span=span.get(), deadline=until)

    async def _outcome(self, work: Awaitable[Ended | Left], payment: Payment, request: Request) -> _Outcome:
        """Wait for the end of a row, without a place among the items of its stage, and pay for it."""
        here = place.get()
        if here is not None:
            here.leave()
        try:
            with self._clock.paused(), waiting("batch"):
                ended = await work
            outcome = await self._paid(ended, payment, request)
        except BaseException:
            if here is not None:
                here.enter()
            raise
        if here is not None:
            await here.back()
        return outcome

    async def _paid(self, ended: Ended | Left, payment: Payment, request: Request) -> _Outcome:
        if isinstance(ended, Left):
            payment.charge() if ended.billed else payment.refund()
            return ended
        if ended.reply is None:
            assert ended.error is not None
            return _failed(ended.error, payment)
        reply = self._named(self._purse.priced(ended.reply))
        payment.settle(reply)
        await self._purse.learn(request, reply, payment)
        try:
            return check_usable(reply)
        except ModelError as error:  # no other event reports its cost
            emit(AttemptCharged, model=self._window.info.id, usage=reply.usage, cost=reply.cost)
            return error

    def _named(self, reply: Reply) -> Reply:
        by = self._window.info.id
        return reply.model_copy(update={"asked": self.info.id, "by": None if by == self.info.id else by})

    def _part(self, row: Row, payment: Payment) -> None:
        """Pay for a call that its run does not wait for any more."""
        if not row.sent:
            payment.refund()
        elif self._journal.joins:
            payment.leave()
        else:
            payment.charge()

    def _is_late(self) -> bool:
        late = self._deadline()
        return late is not None and late <= time.time()


def _failed(error: ModelError, payment: Payment) -> ModelError:
    """Pay for a row that failed at the provider; return its error."""
    if not getattr(error, "sent", True):
        payment.refund()
    elif isinstance(error, NOT_BILLED) and not error.answered:
        payment.refuse()
    else:
        payment.charge()
    return error


class _Keeper:
    """Keeps the place of one call in the journal of its run."""

    def __init__(self, journal: NullJournal, key: CallKey, before: BatchPlace | None) -> None:
        here = span.get()
        self.run_id = "" if here is None else here.run_id
        self.lasting = journal.joins
        self.disk = journal.disk
        self.written: Callable[[], Awaitable[None]] = journal.written
        self._journal = journal
        self._key = key
        self._payment: Payment | None = None
        self._place = before or BatchPlace(self.run_id, "", _row_id(self.run_id, key), 0.0)

    @property
    def row(self) -> str:
        return self._place.row

    def pay(self, payment: Payment) -> None:
        """Note the attempt that pays for the call; keep the place in a batch of another run as one of this run."""
        self._payment = payment
        usd, tokens, _ = payment.worst
        self._place = self._place._replace(run_id=self.run_id, attempt=payment.entry, usd=usd, tokens=tokens)
        if self._place.name:
            payment.write()
            self._journal.enter_batch(self._key, self._place._replace(batch_id=None))
            if self._place.batch_id is not None:
                self._journal.enter_batch(self._key, self._place)

    def enter(self, name: str) -> None:
        if self._payment is not None:
            self._payment.write()
        self._place = self._place._replace(name=name, at=time.time(), batch_id=None)
        self._journal.enter_batch(self._key, self._place)

    def known(self, batch_id: str) -> None:
        self._place = self._place._replace(batch_id=batch_id)
        self._journal.enter_batch(self._key, self._place)


def _row_id(run_id: str, key: CallKey) -> str:
    """Return a new custom id of a call: no other batch has it."""
    parts: Sequence[object] = (run_id, key.stage, key.item, key.step, key.digest)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"{digest[:40]}-{secrets.token_hex(4)}"
