"""Payment: the money of one call in a batch, from its reservation to its end."""

from collections.abc import Callable
from decimal import Decimal

from fusion.core.budget import Amount, Budget, Closed, Reservation
from fusion.core.events import AttemptCharged, BatchAttempt, emit
from fusion.core.types import Reply, Request, Usage
from fusion.models.base import Price
from fusion.models.wrappers.budget import REFUSED, WorstCase
from fusion.store.base import NullJournal
from fusion.store.batches import BatchPlace


class Purse:
    """Pays for the calls of one model in batches, out of the budget of each run."""

    def __init__(self, model_id: str, price: Price | None, live: Price | None, worst: WorstCase) -> None:
        self.model_id = model_id
        self._price = price
        self._live = live
        self._worst = worst

    async def reserve(self, request: Request, paying: Budget | None) -> "Payment":
        """Reserve the worst case of a call. Its attempt is in the ledger once it is to be sent."""
        if paying is None:
            return Payment(self.model_id)
        bound, most = await self._worst.of(request, paying)
        payment = Payment(self.model_id, paying, await paying.reserve(most, f"a call to {self.model_id!r}"), bound)
        payment.draft(request)
        return payment

    def rejoin(self, place: BatchPlace, paying: Budget | None, journal: NullJournal) -> "Payment":
        """Take up the attempt of an earlier session, whose worst case is counted until now.

        An attempt that has ended before is paid for: there is nothing to pay.
        """
        if paying is None or place.attempt is None or not journal.is_lost(place.attempt):
            return Payment(self.model_id)
        payment = Payment(self.model_id, paying, paying.reclaim(place.worst), entry=place.attempt)
        payment.tell("joined")
        return payment

    def priced(self, reply: Reply) -> Reply:
        """Return a reply with its cost in a batch, and what that saved."""
        cost = self._price.of(reply.usage) if reply.cost is None and self._price is not None else reply.cost
        live = None if self._live is None else self._live.of(reply.usage)
        saved = Decimal(0) if cost is None or live is None else max(live - cost, Decimal(0))
        return reply.model_copy(update={"cost": cost, "batch_saved": saved})

    async def learn(self, request: Request, reply: Reply, payment: "Payment") -> None:
        """Raise the margin of a model that counts more input than was expected."""
        if payment.bound:
            await self._worst.learn(request, reply.usage, payment.bound)


class Payment:
    """The reservation of one attempt, and its entry in the ledger by session and number.

    Without a budget, nothing is counted. The first end counts.
    """

    def __init__(
        self,
        model_id: str,
        paying: Budget | None = None,
        reservation: Reservation | None = None,
        bound: int = 0,
        entry: tuple[int, int] | None = None,
    ) -> None:
        self.bound = bound
        self.entry = entry
        self._model_id = model_id
        self._ledger = None if paying is None else paying.ledger
        self._reservation = reservation
        self._write: Callable[[], None] = lambda: None

    @property
    def worst(self) -> Amount:
        return Amount(None, 0) if self._reservation is None else self._reservation.amount

    def draft(self, request: Request) -> None:
        """Number the attempt, for the ledger. A kill before it is to be sent leaves nothing of it to pay for."""
        if self._ledger is not None:
            number, self._write = self._ledger.drafted(request, self._model_id, self.worst)
            self.entry = self._ledger.session, number

    def write(self) -> None:
        """Record the attempt with its worst case, before it is sent; a second call does nothing."""
        write, self._write = self._write, lambda: None
        write()

    def settle(self, reply: Reply) -> None:
        """Count what a reply cost."""
        self._end("settled", Amount(reply.cost, reply.usage.total))

    def refund(self) -> None:
        """Count nothing: the call is not sent, or not billed."""
        self._end("refunded", self.worst)

    def refuse(self) -> None:
        """Count a call that the provider refused, at no cost."""
        self._end("settled", REFUSED)

    def charge(self) -> None:
        """Count the worst case, since the call may be billed."""
        if self._reservation is not None:
            usage = Usage(input=self.worst.tokens, source="estimated")
            emit(AttemptCharged, model=self._model_id, usage=usage, cost=self.worst.usd)
        self._end("charged", self.worst)

    def leave(self) -> None:
        """Count the worst case until a later session joins the batch again; the ledger keeps the attempt open."""
        if self._reservation is not None:
            self.tell("left")
            self._reservation.charge()
            self._reservation = None

    def tell(self, state: str) -> None:
        usage = Usage(input=self.worst.tokens, source="estimated")
        emit(BatchAttempt, model=self._model_id, state=state, usage=usage, cost=self.worst.usd)

    def _end(self, state: Closed, amount: Amount) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            return
        reservation.refund() if state == "refunded" else reservation.settle(amount)
        if self._ledger is not None and self.entry is not None:
            session, number = self.entry
            self._ledger.closed(number, state, amount, session=session)
