"""Reservation: the worst case of one attempt, and the ledger that records it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from fusion.core.budget.amounts import Amount, Tally
from fusion.core.types import Request

if TYPE_CHECKING:
    from fusion.core.budget.budget import Budget
    from fusion.core.budget.line import Borrowed
    from fusion.core.budget.terms import Term

Closed = Literal["settled", "charged", "refunded"]


class Ledger(Protocol):
    """Write-ahead record of attempts and their outcomes; `session` is the session of the run."""

    session: int

    async def opened(self, request: Request, model: str, amount: Amount) -> int:
        """Record an attempt with its worst case before it is sent; return its number once it is on disk."""

    def drafted(self, request: Request, model: str, amount: Amount) -> tuple[int, Callable[[], None]]:
        """Return the number of an attempt, and the function that records it; until then nothing is kept of it."""

    def closed(self, number: int, state: Closed, amount: Amount, *, session: int | None = None) -> None:
        """Record the outcome and the cost of an attempt, of this session or an earlier one."""


class Reservation:
    """The worst case of one attempt, reserved until the attempt ends.

    The first `settle`, `charge` or `refund` closes it and later ones do nothing, so `finally: reservation.refund()`
    is safe. The limiter sets `sent` when the attempt gets its slot and may reach the provider. `entry` is its number
    in the ledger, if any.
    """

    __slots__ = ("_borrowed", "_budget", "_need", "_open", "_terms", "amount", "entry", "sent")

    def __init__(
        self,
        budget: "Budget",
        amount: Amount,
        need: Tally,
        borrowed: "Borrowed",
        terms: "Sequence[Term]" = (),
    ) -> None:
        self.amount = amount
        self.sent = False
        self.entry: int | None = None
        self._budget = budget
        self._need = need
        self._borrowed = borrowed
        self._terms = terms
        self._open = True

    def settle(self, actual: Amount) -> None:
        """Count `actual` as spent, in full even if it exceeds the reservation."""
        if self._open:
            self._open = False
            self._budget.settle(self._need, actual, self._borrowed, self._terms)

    def charge(self) -> None:
        """Count the whole reservation as spent, since the cost is unknown."""
        self.settle(self.amount)

    def refund(self) -> None:
        """Release the reservation: the attempt was not sent, or is not billed."""
        if self._open:
            self._open = False
            self._budget.give_back(self._need, self._borrowed, self._terms)
