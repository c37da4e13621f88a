"""Ledgered: writes every attempt down before it is made, so that no crash can hide what it may have cost."""

from fusion.core.budget import Amount, Budget, Closed, Reservation
from fusion.core.types import Request
from fusion.models.metered import Metered


class Ledgered(Metered):
    """A metered model whose attempts stand in the ledger of the budget that pays them, if that has one."""

    async def _begin(self, request: Request, reservation: Reservation, paying: Budget) -> None:
        if paying.ledger is not None:
            reservation.entry = await paying.ledger.opened(request, self.info.id, reservation.amount)

    def _end(self, reservation: Reservation, state: Closed, amount: Amount, paying: Budget) -> None:
        if paying.ledger is not None and reservation.entry is not None:
            paying.ledger.closed(reservation.entry, state, amount)
