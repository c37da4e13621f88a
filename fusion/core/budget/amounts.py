"""Amounts: the cost of attempts, and sums of them."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from fusion.core.types import Limits

LimitName = Literal["usd", "tokens", "calls"]
UNITS: Final[tuple[LimitName, ...]] = ("usd", "tokens", "calls")
ZERO: Final = Decimal(0)


class Caps(NamedTuple):
    """The most that may be spent; None if unlimited."""

    usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None

    @classmethod
    def of(cls, limits: Limits) -> "Caps":
        return cls(limits.usd, limits.tokens, limits.calls)

    def each(self, of: Callable[[LimitName, Any], Any]) -> "Caps":
        """Return new caps from the unit and the amount of each one that is set."""
        usd, tokens, calls = (None if cap is None else of(unit, cap) for unit, cap in zip(UNITS, self, strict=True))
        return Caps(usd, tokens, calls)


UNLIMITED: Final = Caps()


class Amount(NamedTuple):
    """The cost of attempts, actual or worst case. `usd` is None if the price is unknown."""

    usd: Decimal | None
    tokens: int
    calls: int = 1

    def plus(self, other: "Amount") -> "Amount":
        """Return the sum; an unknown price adds no dollars."""
        usd = (self.usd or ZERO) + (other.usd or ZERO)
        return Amount(usd, self.tokens + other.tokens, self.calls + other.calls)

    def minus(self, other: "Amount") -> "Amount":
        """Return the difference; an unknown price takes no dollars away."""
        usd = (self.usd or ZERO) - (other.usd or ZERO)
        return Amount(usd, self.tokens - other.tokens, self.calls - other.calls)

    def at_least(self, other: "Amount") -> "Amount":
        """Return the larger of each quantity."""
        usd = max(self.usd or ZERO, other.usd or ZERO)
        return Amount(usd, max(self.tokens, other.tokens), max(self.calls, other.calls))

    def at_most(self, other: "Amount") -> "Amount":
        """Return the smaller of each quantity."""
        usd = min(self.usd or ZERO, other.usd or ZERO)
        return Amount(usd, min(self.tokens, other.tokens), min(self.calls, other.calls))


class Tally:
    """A mutable sum of amounts; an unknown price adds no dollars."""

    __slots__ = ("calls", "tokens", "usd")

    def __init__(self, usd: Decimal = ZERO, tokens: int = 0, calls: int = 0) -> None:
        self.usd = usd
        self.tokens = tokens
        self.calls = calls

    @classmethod
    def of(cls, amount: Amount) -> "Tally":
        return cls(amount.usd or ZERO, amount.tokens, amount.calls)

    def add(self, other: "Tally") -> None:
        self.usd += other.usd
        self.tokens += other.tokens
        self.calls += other.calls

    def minus(self, other: "Tally") -> "Tally":
        return Tally(self.usd - other.usd, self.tokens - other.tokens, self.calls - other.calls)

    def plus(self, other: "Tally") -> "Tally":
        return Tally(self.usd + other.usd, self.tokens + other.tokens, self.calls + other.calls)

    def at_least(self, other: "Tally") -> "Tally":
        return Tally(max(self.usd, other.usd), max(self.tokens, other.tokens), max(self.calls, other.calls))

    def at_most(self, other: "Tally") -> "Tally":
        return Tally(min(self.usd, other.usd), min(self.tokens, other.tokens), min(self.calls, other.calls))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self.amount() == other.amount()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def amount(self) -> Amount:
        return Amount(self.usd, self.tokens, self.calls)


NOTHING: Final = Tally()


def shown(limit: LimitName, amounts: Caps | Limits | Tally) -> str:
    amount = getattr(amounts, limit)
    return dollars(amount) if limit == "usd" else str(amount)


def dollars(amount: Decimal) -> str:
    whole, _, cents = f"{amount.normalize():f}".partition(".")
    return f"${whole}.{cents:0<2}"
