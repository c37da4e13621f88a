"""ItemCosts: adds up the events of the calls for each item of a stage to its cost."""

from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from fusion.core.events import AttemptCharged, BatchAttempt, CallFinished, EventBase, Sink
from fusion.core.types import ItemCost, Money

spending: ContextVar[Sink | None] = ContextVar("fusion_spending", default=None)
"""Sink of the calls in the inner stages and nested pipelines that work on one item."""


def spent(event: EventBase) -> None:
    """Add the cost of an event to the item at work, if it is of an inner stage or a nested pipeline."""
    sink = spending.get()
    if sink is not None:
        sink(event)


@dataclass
class _Sum:
    measured: Money = Decimal(0)
    estimated: Money = Decimal(0)
    unknown: int = 0


class ItemCosts:
    """A sink that adds up the costs of calls by the item that they are made for.

    Replies of an earlier process of the run count; those of a cache or of another run are free.
    """

    def __init__(self) -> None:
        self._sums: dict[int, _Sum] = {}

    def __call__(self, event: EventBase) -> None:
        if event.item is not None:
            self.add(event.item, event)

    def sink_of(self, item: int) -> Sink:
        """Return a sink that adds all calls to one item."""
        return partial(self.add, item)

    def add(self, item: int, event: EventBase) -> None:
        """Add the cost of an event to an item."""
        match event:
            case CallFinished(reused="cache" | "other run"):
                return
            case CallFinished():
                measured = event.usage.source == "measured"
            case AttemptCharged():
                measured = False
            case BatchAttempt(state="joined"):  # its charge is taken back
                self._take_back(item, event.cost)
                return
            case _:
                return
        total = self._sums.setdefault(item, _Sum())
        if event.cost is None:
            total.unknown += 1
        elif measured:
            total.measured += event.cost
        else:
            total.estimated += event.cost

    def _take_back(self, item: int, cost: Money | None) -> None:
        total = self._sums.setdefault(item, _Sum())
        total.unknown -= cost is None
        total.estimated -= cost or 0

    def of(self, item: int) -> ItemCost:
        """Return the cost of an item so far."""
        total = self._sums.get(item)
        if total is None:
            return ItemCost()
        usd = None if total.unknown else total.measured + total.estimated
        return ItemCost(usd=usd, measured=total.measured, estimated=total.estimated, unknown_calls=total.unknown)
