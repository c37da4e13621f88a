"""The budget of the running work, its reservation, and its claim on what is held back."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion.core.budget.budget import Budget
    from fusion.core.budget.reservation import Reservation

current: "ContextVar[Budget | None]" = ContextVar("fusion_budget", default=None)
"""The budget of the running stage; without one, nothing is counted."""

essential: ContextVar[bool] = ContextVar("fusion_essential", default=False)
"""True in work without which the run has no answer: it may borrow from what is held back for the last stages."""


@contextmanager
def optional() -> Iterator[None]:
    """Do work without which the run has an answer: it borrows nothing."""
    outer = essential.set(False)
    try:
        yield
    finally:
        essential.reset(outer)


attempt: "ContextVar[Reservation | None]" = ContextVar("fusion_attempt", default=None)
"""The reservation of the running attempt, which the limiter marks as sent."""
