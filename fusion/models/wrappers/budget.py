"""Metered: reserves the worst case of every attempt in the budget, and settles it to the actual cost."""

import time
from decimal import Decimal
from typing import Final

from fusion.core import budget
from fusion.core.budget import Amount, Budget, Closed, Reservation
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    ContextWindowError,
    ModelConnectionError,
    RateLimitError,
)
from fusion.core.events import AttemptCharged, emit
from fusion.core.types import Deltas, Reply, Request, Usage
from fusion.models.attempt import note_wait
from fusion.models.base import Model, ModelWrapper, Price, TrackedDeltas, input_bound, is_usable
from fusion.models.tokens import Margins, TokenBounds

NOT_BILLED: Final = (
    AuthenticationError,
    BadRequestError,
    ContextWindowError,
    ModelConnectionError,
    RateLimitError,
)
REFUSED: Final = Amount(Decimal(0), tokens=0)
"""A request that was sent and refused: one call, at no cost."""


class WorstCase:
    """Bounds of a call to one model: its input by bytes, or by a tokenizer with a margin, and its cost."""

    def __init__(
        self, model_id: str, price: Price | None, *, tokens: TokenBounds | None = None, margins: Margins | None = None
    ) -> None:
        self._model_id = model_id
        self._price = price
        self._tokens = tokens or TokenBounds()
        self._margins = margins or Margins()

    async def of(self, request: Request, paying: Budget) -> tuple[int, Amount]:
        """Return bounds of the input and of the cost: by bytes, or by the tokenizer where those do not fit."""
        bound = input_bound(request)
        most = self._at_most(bound, request.max_tokens)
        if self._model_id not in self._margins and paying.has_room(most):
            return bound, most
        bound = self._margins.over(self._model_id, await self._tokens.of(request))
        return bound, self._at_most(bound, request.max_tokens)

    async def learn(self, request: Request, usage: Usage, bound: int) -> None:
        """Raise the margin of a model that counts more than was expected."""
        if usage.source == "measured" and usage.input > bound:
            self._margins.learn(self._model_id, await self._tokens.of(request), usage.input)

    def _at_most(self, taken: int, given: int) -> Amount:
        return Amount(None if self._price is None else self._price.bound(taken, given), taken + given)


class Metered(ModelWrapper):
    """A model whose attempts are paid from `budget.current`; without a budget, nothing is counted.

    An attempt that was not sent is refunded. One that the provider refused counts as a call, at no cost. Any other
    attempt without a reply (timed out, cancelled, connection lost) may have been billed: its whole reservation is
    charged, with an AttemptCharged event. An unusable reply gets that event too. The inner Limited marks attempts as
    sent; a ModelConnectionError with `sent=False` says that no connection was made.

    The input of a request is bounded by its bytes; where that does not fit the budget, by a tokenizer with a margin.
    A provider that counts more is settled in full, and raises the margin of its model.

    If the budget has a ledger, every attempt is on disk before it is sent.

    Raises BudgetError if the attempt does not fit into the budget.
    """

    def __init__(self, inner: Model, *, tokens: TokenBounds | None = None, margins: Margins | None = None) -> None:
        super().__init__(inner)
        self._worst = WorstCase(inner.info.id, inner.info.price, tokens=tokens, margins=margins)
        self._what = f"a call to {inner.info.id!r}"

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        paying = budget.current.get()
        if paying is None:
            return await self.inner.complete(request, on_delta)
        bound, most = await self._worst.of(request, paying)
        begun = time.perf_counter()
        reservation = await paying.reserve(most, self._what)
        note_wait("budget", begun)
        deltas = None if on_delta is None else TrackedDeltas(on_delta)
        running = budget.attempt.set(reservation)
        try:
            await self._begin(request, reservation, paying)
            reply = await self.inner.complete(request, deltas)
        except BaseException as error:
            begun = (deltas is not None and deltas.any) or getattr(error, "answered", False)
            if not reservation.sent or not (begun or getattr(error, "sent", True)):
                reservation.refund()
                self._end(reservation, "refunded", reservation.amount, paying)
            elif begun or not isinstance(error, NOT_BILLED):
                self._charge(reservation, Usage(input=bound, output=request.max_tokens, source="estimated"))
                self._end(reservation, "charged", reservation.amount, paying)
            else:
                reservation.settle(REFUSED)
                self._end(reservation, "settled", REFUSED, paying)
            raise
        finally:
            budget.attempt.reset(running)
        cost = self._cost(reply)
        if cost != reply.cost:
            reply = reply.model_copy(update={"cost": cost})
        amount = Amount(cost, reply.usage.total)
        reservation.settle(amount)
        await self._worst.learn(request, reply.usage, bound)
        self._end(reservation, "settled", amount, paying)
        if not is_usable(reply):  # no other event reports its cost
            emit(AttemptCharged, model=self.info.id, usage=reply.usage, cost=cost)
        return reply

    async def _begin(self, request: Request, reservation: Reservation, paying: Budget) -> None:
        if paying.ledger is not None:
            reservation.entry = await paying.ledger.opened(request, self.info.id, reservation.amount)

    def _end(self, reservation: Reservation, state: Closed, amount: Amount, paying: Budget) -> None:
        if paying.ledger is not None and reservation.entry is not None:
            paying.ledger.closed(reservation.entry, state, amount)

    def _cost(self, reply: Reply) -> Decimal | None:
        if reply.cost is None and self.info.price is not None:
            return self.info.price.of(reply.usage)
        return reply.cost

    def _charge(self, reservation: Reservation, worst: Usage) -> None:
        reservation.charge()
        emit(AttemptCharged, model=self.info.id, usage=worst, cost=reservation.amount.usd)
