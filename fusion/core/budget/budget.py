"""Budget: a level of spending limits in a tree."""

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from fusion.core.budget.amounts import NOTHING, Amount, Caps, LimitName, Tally
from fusion.core.budget.line import Borrowed, Line, Obstacle, Waiter, capped, give_back_all
from fusion.core.budget.messages import overdue, refused, unpriced
from fusion.core.budget.reservation import Ledger, Reservation
from fusion.core.budget.terms import Draws, Term, end_all
from fusion.core.errors import BudgetError
from fusion.core.types import Limits

if TYPE_CHECKING:
    from fusion.core.budget.hold import Hold
    from fusion.core.budget.leased import Leased

_NO_LIMITS: Final = Limits()


class Budget:
    """Spending limits of a run, a stage or a part of one: a tree, with `parent` as the next level.

    `reserve` books an amount here and at every level above at once. An amount that does not fit because of other
    reservations waits for them, first come first served over the whole tree. Only a waiter blocked by a level of its
    own is overtaken, by those that do not share that level. An amount that could not fit even if all reservations
    were released raises BudgetError, also while it waits. An `essential` one borrows from what is held back, before
    it is refused.

    An amount with an unknown price is bounded by tokens and calls, and counted in `unknown_calls`. With
    `strict_usd`, which children inherit, it is refused under a level with a limit in dollars.

    `declared_in` is the file of settings that declares the budget as `name`; messages say it.

    >>> run = Budget(Limits(usd=Decimal("0.50")))
    >>> reservation = await run.reserve(Amount(Decimal("0.02"), tokens=3000))
    >>> reservation.settle(Amount(Decimal("0.004"), tokens=900))
    """

    covers = False
    """True for a level whose own amount covers the demand on those above."""

    def __init__(
        self,
        limits: Limits = _NO_LIMITS,
        *,
        name: str = "run",
        parent: "Budget | None" = None,
        clock: Callable[[], float] | None = None,
        strict_usd: bool = False,
        ledger: "Ledger | None" = None,
        declared_in: str = "",
    ) -> None:
        self.limits = limits
        self.name = name
        self.declared_in = declared_in
        self.parent = parent
        self.ledger: Ledger | None = parent.ledger if parent is not None and ledger is None else ledger
        self.strict_usd: bool = strict_usd or (parent is not None and parent.strict_usd)
        self.unknown_calls = 0
        self._loop: object = None
        self.clock: Callable[[], float] = clock or (parent.clock if parent is not None else time.monotonic)
        self._started: float | None = None
        self.most = self.rest = Caps.of(limits)
        """The most that may be spent and reserved: now, and once all reservations in flight are released."""
        self._spent = Tally()
        self._reserved = Tally()
        self._resumed = False
        self.holds: list[Hold] = []
        self.above: tuple[Budget, ...] = parent.levels if parent else ()
        self.timed = any(level.limits.seconds is not None for level in self.levels)
        self.tallest: dict[LimitName, list[tuple[Decimal | int, int, Waiter]]] = capped(limits)
        self._capped = any(level.tallest for level in self.above) or bool(self.tallest)
        self.line: Line = parent.line if parent else Line()
        self.queue: dict[int, Waiter] = {}
        self.leases: tuple[Leased, ...] = parent.leases if parent else ()
        """The levels here and above that spend from leases."""
        self.draws: Draws | None = None
        """Amounts spent of those, here and below; None where they are not counted apart."""

    def share(self, loop: object) -> bool:
        """Bind the budget to the loop of its first run; False for another loop, where it must not be used."""
        self._loop = self._loop or loop
        return self._loop is loop

    def child(self, limits: Limits = _NO_LIMITS, name: str = "stage") -> "Budget":
        """Return a new level below this one."""
        return Budget(limits, name=name, parent=self, clock=self.clock)

    @property
    def levels(self) -> "tuple[Budget, ...]":
        """This level and those above it."""
        return (self, *self.above)

    @property
    def title(self) -> str:
        """The quoted name, with the file that declares it, for messages."""
        return f"{self.name!r}{f' of {self.declared_in}' if self.declared_in else ''}"

    def key(self, limit: str) -> str:
        """Return the key that sets a limit, for messages: `budget.usd`, or that of the file that declares it."""
        return f"{self.name if self.declared_in else 'budget'}.{limit}"

    @property
    def spent(self) -> Amount:
        """The settled amount, here and below. Attempts of unknown price count tokens and calls only."""
        return self._spent.amount()

    @property
    def reserved(self) -> Amount:
        """The worst case of attempts in flight plus held-back amounts, here and below."""
        return self._reserved.amount()

    def start(self) -> None:
        """Start the clock of the `seconds` limit, unless it runs; the first reservation starts it too."""
        if self._started is None:
            self._started = self.clock()

    def resume(self, spent: Amount, *, unknown_calls: int = 0, seconds: float = 0.0) -> None:
        """Add the spending of earlier sessions, here and below, with the seconds already used.

        Levels above are unchanged: resume each by itself.
        """
        self._resumed = True
        self._spent.add(Tally.of(spent))
        self.unknown_calls += unknown_calls
        self._started = self.clock() - seconds

    def remaining_seconds(self) -> float | None:
        """Return the seconds until the first deadline of this level and those above; None without one."""
        return min(self.seconds_by_clock().values(), default=None)

    def seconds_by_clock(self) -> dict[Callable[[], float], float]:
        """Return the seconds until the first deadline of this level and those above, by the clocks of levels."""
        found: dict[Callable[[], float], float] = {}
        for level in self.levels:
            if level.limits.seconds is not None:
                left = max(0.0, level.seconds_left())
                found[level.clock] = min(left, found.get(level.clock, left))
        return found

    async def reserve(self, amount: Amount, what: str = "this call") -> Reservation:
        """Reserve `amount` at every level, waiting for other reservations to end; `what` is for messages.

        Raises BudgetError if it can never fit, or if a deadline passes first.
        """
        if self.timed:
            self._check_time(what)
        for lease in self.leases:
            lease.look()
        if amount.usd is None:
            self._check_priced(what)
        need = Tally.of(amount)
        if not self._capped or (self.line.blocked.isdisjoint(self.levels) and not self.obstacles(need)):
            return self.grant(amount, need, [])
        waiter = Waiter(self, amount, need, what)
        self.check_possible(waiter)
        if waiter.borrowed and self.line.blocked.isdisjoint(self.levels) and not self.obstacles(need):
            return self.grant(amount, need, waiter.borrowed)
        reservation = await self.line.wait(waiter)
        try:
            if self.timed:
                self._check_time(what)
        except BudgetError:
            reservation.refund()
            raise
        return reservation

    def reclaim(self, amount: Amount) -> Reservation:
        """Reserve an amount that an earlier session counted as spent, since its attempt goes on.

        Levels that count no earlier session reserve it anew, even beyond their limits. In accounts it stays counted.
        """
        need, back = Tally.of(amount), NOTHING.minus(Tally.of(amount))
        for level in self.levels:
            if level._resumed:
                level._spent.add(back)
                level.unknown_calls -= amount.usd is None
        if not self.leases:
            return self.grant(amount, need, [])
        before = [lease.booked for lease in self.leases]
        self.book(NOTHING, need)
        terms = [lease.joined(amount, was) for lease, was in zip(self.leases, before, strict=True)]
        return Reservation(self, amount, need, [], terms)

    def has_room(self, amount: Amount) -> bool:
        """Return True if an amount fits once all reservations in flight are released, as far as is known."""
        if not self._capped:
            return True
        need = Tally.of(amount)
        for level in self.levels:
            reserved = level.floor()
            if level.short(level.likely, need, reserved) is not None:
                return False
            need = level.beyond(need, reserved)
        return True

    async def lease_ahead(self, amount: Amount) -> None:
        """Ask the accounts above for room for an amount that is to be held back; without it, `hold` says so."""
        need = Tally.of(amount)
        for lease in self.leases:
            lease.look()
            if lease.short(lease.most, need, lease._reserved) is not None:
                await lease.ask(need)

    def count(self, amount: Amount) -> None:
        """Count an amount as spent without a reservation, such as that of another run."""
        self.settle(NOTHING, amount, [])

    def count_here(self, amount: Amount) -> None:
        """Count an amount as spent at this level, and not at those above, such as that of an earlier process."""
        self.enter(Tally.of(amount), NOTHING)
        if amount.usd is None:
            self.unknown_calls += amount.calls
        self.line.look_through((self,))

    def hold(self, amount: Amount, name: str = "held back") -> "Hold":
        """Hold `amount` back as a budget of its own. Raises BudgetError if it does not fit now.

        A reservation that would fit only without the held amount is refused at once.
        """
        need = Tally.of(amount)
        for level, limit, demand in self.obstacles(need):
            raise level.refusal(limit, demand, f"the part {name!r}", level._reserved)
        from fusion.core.budget.hold import Hold  # a hold is a budget itself

        return Hold(self, need, name)

    # Booking goes from the leaf up; each level returns the amount that the next one books.

    def grant(self, amount: Amount, need: Tally, borrowed: Borrowed) -> Reservation:
        """Reserve an amount that fits."""
        self.book(NOTHING, need)
        if not self.leases:
            return Reservation(self, amount, need, borrowed)
        return Reservation(self, amount, need, borrowed, [lease.begin() for lease in self.leases])

    def give_back(self, need: Tally, borrowed: Borrowed, terms: Sequence[Term] = ()) -> None:
        """Release what was reserved for an attempt."""
        self.book(NOTHING, NOTHING.minus(need))
        for term in terms:
            term.end(None)
        give_back_all(borrowed)
        self.line.move()

    def settle(self, need: Tally, actual: Amount, borrowed: Borrowed, terms: Sequence[Term] = ()) -> None:
        """Count what an attempt cost, in place of what was reserved for it."""
        self.book(Tally.of(actual), NOTHING.minus(need))
        if terms:
            end_all(terms, actual, (level.draws for level in self.levels if level.draws is not None))
        give_back_all(borrowed)
        if actual.usd is None:
            for level in self.levels:
                level.unknown_calls += actual.calls
        self.line.look_through(self.levels)

    def book(self, spent: Tally, reserved: Tally) -> None:
        """Count amounts as spent and reserved, here and above."""
        for level in self.levels:
            reserved = level.enter(spent, reserved)

    def enter(self, spent: Tally, reserved: Tally) -> Tally:
        """Count both here; return the amount to reserve one level above."""
        if spent is not NOTHING:
            self._spent.add(spent)
        held = self._reserved  # written out, not `add`: every call passes here, at every level, twice
        held.usd += reserved.usd
        held.tokens += reserved.tokens
        held.calls += reserved.calls
        return reserved

    # Checks: the limits in the way, now or once all reservations in flight are released.

    def obstacles(self, need: Tally, *, at_rest: bool = False) -> list[Obstacle]:
        """Return the levels where `need` does not fit, each with the limit and the demand on that level.

        `at_rest` computes it for the moment when all attempts in flight have been refunded.
        """
        found: list[Obstacle] = []
        for level in self.levels:
            reserved = level.floor() if at_rest else level._reserved
            limit = level.short(level.rest if at_rest else level.most, need, reserved)
            if limit is not None:
                found.append((level, limit, need))
            need = level.beyond(need, reserved)
        return found

    def short(self, most: Caps, need: Tally, reserved: Tally) -> LimitName | None:
        """Return the limit that `need` would pass, with `reserved` reserved here."""
        spent, (usd, tokens, calls) = self._spent, most
        if usd is not None and spent.usd + reserved.usd + need.usd > usd:
            return "usd"
        if tokens is not None and spent.tokens + reserved.tokens + need.tokens > tokens:
            return "tokens"
        if calls is not None and spent.calls + reserved.calls + need.calls > calls:
            return "calls"
        return None

    @property
    def likely(self) -> Caps:
        """The most that may be spent, as far as is known."""
        return self.rest

    def lack(self, demand: Tally) -> None:
        """Take in that an amount waits for room here."""

    def beyond(self, need: Tally, reserved: Tally) -> Tally:
        """Return the demand on the level above for `need`, with `reserved` reserved here."""
        return need

    def floor(self) -> Tally:
        """Return the amount that stays reserved without attempts in flight: the held-back part."""
        if not self.holds:
            return NOTHING
        floor = Tally()
        for hold in self.holds:
            floor.add(hold.claim(hold.floor()))
        return floor

    def check_possible(self, waiter: "Waiter") -> None:
        """Raise BudgetError if the amount can never fit. An essential one borrows from what others hold back."""
        while obstacles := self.obstacles(waiter.need, at_rest=True):
            level, limit, demand = obstacles[0]
            if not (waiter.essential and self._borrow(waiter, level, limit, demand)):
                error = level.refusal(limit, demand, waiter.what, level.floor())
                give_back_all(waiter.borrowed)
                raise error

    def _borrow(self, waiter: "Waiter", level: "Budget", limit: LimitName, demand: Tally) -> bool:
        """Take the excess of a demand over a level's limit from the holds there; False if they have too little."""
        excess = sum(getattr(one, limit) for one in (level._spent, level.floor(), demand))
        excess -= getattr(level.rest, limit)
        for hold in level.holds:
            free = getattr(hold.free(), limit)
            if hold not in self.levels and free > 0:
                part = Tally(**{limit: min(free, excess)})
                hold.pledge_anew(hold.pledge.minus(part))
                waiter.borrowed.append((hold, part))
                excess -= getattr(part, limit)
            if excess <= 0:
                return True
        return False

    def fitting(self, part: Tally) -> Tally:
        """Return the part of an amount that fits here now."""

        def most(limit: LimitName) -> Any:
            amount, cap = getattr(part, limit), getattr(self.most, limit)
            if cap is None:
                return amount
            return max(
                amount - amount, min(amount, cap - getattr(self._spent, limit) - getattr(self._reserved, limit))
            )

        return Tally(most("usd"), most("tokens"), most("calls"))

    def _check_priced(self, what: str) -> None:
        for level in self.levels:
            if level.strict_usd and level.limits.usd is not None:
                raise unpriced(level, what)

    def _check_time(self, what: str) -> None:
        for level in self.levels:
            if level.limits.seconds is not None:
                level.start()
                if level.seconds_left() <= 0:
                    raise overdue(level, what)

    def seconds_left(self) -> float:
        """Return the seconds until the deadline of this level, which has one."""
        seconds = self.limits.seconds
        assert seconds is not None
        return seconds if self._started is None else self._started + seconds - self.clock()

    def refusal(self, limit: LimitName, need: Tally, what: str, reserved: Tally) -> BudgetError:
        """Return the error of an amount that does not fit here, with `reserved` kept for others."""
        return refused(self, limit, need, what, reserved)

    # Waiting.

    def dismiss(self) -> None:
        """Refuse the waiters that demand more than this level can ever provide."""
        floor = self.floor()
        for limit, tallest in self.tallest.items():
            cap = getattr(self.rest, limit)
            if cap is None:
                continue
            room = cap - getattr(self._spent, limit) - getattr(floor, limit)
            kept = []
            while tallest and -tallest[0][0] > room:
                entry = heappop(tallest)
                waiter = entry[2]
                if waiter.waits and waiter.essential:  # it may borrow once it is the first in line
                    kept.append(entry)
                elif waiter.waits:
                    self.line.answer(waiter, self.refusal(limit, waiter.need, waiter.what, floor))
            for entry in kept:
                heappush(tallest, entry)
