"""Items that flow between stages, their failures, and the limits of a run."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from fusion.core.types.texts import Attached, as_text
from fusion.core.types.value import Money, Value


class Failure(Value):
    """A failure as a value. `reason` is the class name of the error; `message` says what to do."""

    reason: str
    message: str


class ItemCost(Value):
    """The cost of the calls for one item, in dollars.

    `measured` is that of usage which providers reported, `estimated` that of usage counted here, with upper bounds of
    attempts without a reply. `unknown_calls` counts calls of unknown price. `usd` is the sum; None if a price is
    unknown. Answers of a cache, or of another run, are free.
    """

    usd: Money | None = Decimal(0)
    measured: Money = Decimal(0)
    estimated: Money = Decimal(0)
    unknown_calls: int = 0


_absent: Callable[[Any], bool] = lambda value: value is None  # noqa: E731


class Item(Value):
    """One element of a list that flows between stages.

    `source` is the original element (a subtask, a row, a chunk) and stays the same from stage to stage. `value` is
    the result of the last stage; `failure` is set instead if it failed. `by` is the id of the model that wrote the
    value, `confidence` is from 0 to 1. `needs` holds the indexes of earlier items whose results this one reads.
    A cascade or a route with `over` adds its decision: the number of the `tier` whose answer was taken or the name of
    the `route`, the `reason`, `agreement`, the share of answers that agree, and the `cost`.

    `shown` is the text that the value was written from: the user messages of its call. It is kept only while a later
    template reads it, and is no part of JSON data.

    Templates read the fields of `source` directly: `item.title` is `item.source.title`. A field of the item itself
    comes before a field of `source` with the same name. Those of a decision do so only in items that have one.
    """

    index: int
    source: Any = None
    value: Any = None
    failure: Failure | None = None
    by: str | None = None
    confidence: float | None = None
    needs: tuple[int, ...] = ()
    tier: int | None = Field(default=None, exclude_if=_absent)
    route: str | None = Field(default=None, exclude_if=_absent)
    reason: str | None = Field(default=None, exclude_if=_absent)
    agreement: float | None = Field(default=None, exclude_if=_absent)
    cost: ItemCost | None = Field(default=None, exclude_if=_absent)
    shown: Any = Field(default=None, exclude=True, repr=False)

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def usd(self) -> Money | None:
        """The cost in dollars; None if it is not stated, or the price of a call is unknown."""
        return None if self.cost is None else self.cost.usd

    @property
    def way(self) -> str | None:
        """The decision in words: `tier-2`, or the name of the route."""
        return self.route if self.tier is None else f"tier-{self.tier}"

    def __str__(self) -> str:
        return as_text(self.value)

    def worked(self, value: Any, by: str, shown: "Attached | None" = None) -> "Item":
        """Return the item with the value that the model `by` wrote, from `shown` if it is given."""
        given = self.shown if shown is None else shown
        return Item(index=self.index, source=self.source, value=value, by=by, needs=self.needs, shown=given)

    def failed(self, failure: Failure) -> "Item":
        """Return the item with a failure in place of its value."""
        return Item(index=self.index, source=self.source, failure=failure, by=self.by, needs=self.needs)


DECISION_FIELDS: Final = frozenset({"tier", "route", "reason", "agreement", "cost", "usd"})
"""Fields of an item that a decision fills: in other items they come after the fields of its source."""

ITEM_FIELDS: Final = (frozenset(Item.model_fields) | {"ok"}) - DECISION_FIELDS
"""Fields of an item itself: they come before the fields of its source."""


Per = Literal["day", "week", "month", "store"]
"""Calendar period of a budget that is kept in a store, in UTC; that of a `store` never ends."""


class Limits(Value):
    """Spending limits, each optional and independent of the others."""

    usd: Annotated[Money, Field(gt=0)] | None = Field(default=None, description="Dollars.")
    tokens: int | None = Field(default=None, gt=0, description="Tokens, input and output.")
    calls: int | None = Field(default=None, gt=0, description="Requests sent, refused ones too.")
    seconds: float | None = Field(default=None, gt=0, description="Seconds from the start.")

    def tighter(self, other: "Limits") -> "Limits":
        """Return the lower limit of the two for each unit."""
        if other == _UNLIMITED:
            return self
        given = [limits.model_dump(exclude_none=True) for limits in (self, other)]
        return Limits(**{name: min(one[name] for one in given if name in one) for one in given for name in one})


_UNLIMITED: Final = Limits()


class Share(Value):
    """A limit of a kept budget: what is spent, leased to processes, and left, in dollars, tokens or calls."""

    limit: Money | int
    spent: Money | int
    leased: Money | int
    left: Money | int


class Balance(Value):
    """A kept budget in its present period; `opens` is the begin of the next one, None if there is none.

    `limits` are by unit: usd, tokens, calls.
    """

    name: str
    per: Per
    period: str
    opens: datetime | None
    limits: dict[str, Share]
