"""Nested spending limits: the worst case of every attempt is reserved before it and settled after it.

A run has a Budget, a stage may have one of its own beneath it, and every attempt of a call reserves at its
stage's budget, which books it at each level up to the run's. At every level, at every instant,

    spent + reserved <= limit

however many calls run at once; held-back amounts count as reserved. Only a provider that returns more than requested
can exceed a limit: the excess is counted in full, and every later reservation fails.

All of it runs on one event loop, and nothing is awaited between a check and its booking: there are no locks.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from heapq import heapify, heappop, heappush
from typing import Any, Final, Literal, NamedTuple, Protocol

from fusion.core.errors import BudgetError, UsageError
from fusion.core.types import Limits, Request

LimitName = Literal["usd", "tokens", "calls"]
Closed = Literal["settled", "charged", "refunded"]
_ZERO: Final = Decimal(0)
_LEAST: Final = 0.05
"""Seconds until a deadline whose clock stood still is looked at again, at least."""
_NO_LIMITS: Final = Limits()
_ADVICE: Final = {
    "usd": "lower `max_tokens`, or use a cheaper model",
    "tokens": "lower `max_tokens`, or shorten the input",
    "calls": "or ask for fewer items, members or revisions",
    "seconds": "or use a faster model",
}
"""Other ways than to raise a limit."""


class Amount(NamedTuple):
    """The cost of attempts, actual or worst case. `usd` is None if the price is unknown."""

    usd: Decimal | None
    tokens: int
    calls: int = 1


class _Tally:
    """A mutable sum of amounts; an unknown price adds no dollars."""

    __slots__ = ("calls", "tokens", "usd")

    def __init__(self, usd: Decimal = _ZERO, tokens: int = 0, calls: int = 0) -> None:
        self.usd = usd
        self.tokens = tokens
        self.calls = calls

    @classmethod
    def of(cls, amount: Amount) -> "_Tally":
        return cls(amount.usd or _ZERO, amount.tokens, amount.calls)

    def add(self, other: "_Tally") -> None:
        self.usd += other.usd
        self.tokens += other.tokens
        self.calls += other.calls

    def minus(self, other: "_Tally") -> "_Tally":
        return _Tally(self.usd - other.usd, self.tokens - other.tokens, self.calls - other.calls)

    def plus(self, other: "_Tally") -> "_Tally":
        return _Tally(self.usd + other.usd, self.tokens + other.tokens, self.calls + other.calls)

    def at_least(self, other: "_Tally") -> "_Tally":
        return _Tally(max(self.usd, other.usd), max(self.tokens, other.tokens), max(self.calls, other.calls))

    def amount(self) -> Amount:
        return Amount(self.usd, self.tokens, self.calls)


_NOTHING: Final = _Tally()


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

    __slots__ = ("_borrowed", "_budget", "_need", "_open", "amount", "entry", "sent")

    def __init__(self, budget: "Budget", amount: Amount, need: _Tally, borrowed: "_Borrowed") -> None:
        self.amount = amount
        self.sent = False
        self.entry: int | None = None
        self._budget = budget
        self._need = need
        self._borrowed = borrowed
        self._open = True

    def settle(self, actual: Amount) -> None:
        """Count `actual` as spent, in full even if it exceeds the reservation."""
        if self._open:
            self._open = False
            self._budget._settle(self._need, actual, self._borrowed)

    def charge(self) -> None:
        """Count the whole reservation as spent, since the cost is unknown."""
        self.settle(self.amount)

    def refund(self) -> None:
        """Release the reservation: the attempt was not sent, or is not billed."""
        if self._open:
            self._open = False
            self._budget._give_back(self._need, self._borrowed)


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
        self._clock: Callable[[], float] = clock or (parent._clock if parent is not None else time.monotonic)
        self._started: float | None = None
        self._max_usd, self._max_tokens, self._max_calls = limits.usd, limits.tokens, limits.calls
        self._spent = _Tally()
        self._reserved = _Tally()
        self._resumed = False
        self._holds: list[Hold] = []
        self._above: tuple[Budget, ...] = parent._chain if parent else ()
        self._timed = any(level.limits.seconds is not None for level in self._chain)
        self._tallest: dict[LimitName, list[tuple[Decimal | int, int, _Waiter]]] = _capped(limits)
        self._capped = any(level._tallest for level in self._above) or bool(self._tallest)
        self._line: _Line = parent._line if parent else _Line()
        self._queue: dict[int, _Waiter] = {}

    def share(self, loop: object) -> bool:
        """Bind the budget to the loop of its first run; False for another loop, where it must not be used."""
        self._loop = self._loop or loop
        return self._loop is loop

    def child(self, limits: Limits = _NO_LIMITS, name: str = "stage") -> "Budget":
        """Return a new level below this one."""
        return Budget(limits, name=name, parent=self, clock=self._clock)

    @property
    def _chain(self) -> "tuple[Budget, ...]":
        """This level and those above it."""
        return (self, *self._above)

    @property
    def title(self) -> str:
        """The quoted name, with the file that declares it, for messages."""
        return f"{self.name!r}{f' of {self.declared_in}' if self.declared_in else ''}"

    def key(self, limit: str) -> str:
        """Return the key that sets a limit, for messages: `budget.usd`, or that of the file that declares it."""
        return f"{self.name if self.declared_in else 'budget'}.{limit}"

    @property
    def levels(self) -> "tuple[Budget, ...]":
        """This budget and those above it."""
        return self._chain

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
            self._started = self._clock()

    def resume(self, spent: Amount, *, unknown_calls: int = 0, seconds: float = 0.0) -> None:
        """Add the spending of earlier sessions, here and below, with the seconds already used.

        Levels above are unchanged: resume each by itself.
        """
        self._resumed = True
        self._spent.add(_Tally.of(spent))
        self.unknown_calls += unknown_calls
        self._started = self._clock() - seconds

    def remaining_seconds(self) -> float | None:
        """Return the seconds until the first deadline of this level and those above; None without one."""
        return min(self.seconds_by_clock().values(), default=None)

    def seconds_by_clock(self) -> dict[Callable[[], float], float]:
        """Return the seconds until the first deadline of this level and those above, by the clocks of levels."""
        found: dict[Callable[[], float], float] = {}
        for level in self._chain:
            if level.limits.seconds is not None:
                left = max(0.0, level._seconds_left())
                found[level._clock] = min(left, found.get(level._clock, left))
        return found

    async def reserve(self, amount: Amount, what: str = "this call") -> Reservation:
        """Reserve `amount` at every level, waiting for other reservations to end; `what` is for messages.

        Raises BudgetError if it can never fit, or if a deadline passes first.
        """
        if self._timed:
            self._check_time(what)
        if amount.usd is None:
            self._check_priced(what)
        need = _Tally.of(amount)
        if not self._capped or (self._line.blocked.isdisjoint(self._chain) and not self._obstacles(need)):
            return self._grant(amount, need, [])
        waiter = _Waiter(self, amount, need, what)
        self._check_possible(waiter)
        if waiter.borrowed and self._line.blocked.isdisjoint(self._chain) and not self._obstacles(need):
            return self._grant(amount, need, waiter.borrowed)
        reservation = await self._line.wait(waiter)
        try:
            if self._timed:
                self._check_time(what)
        except BudgetError:
            reservation.refund()
            raise
        return reservation

    def reclaim(self, amount: Amount) -> Reservation:
        """Reserve an amount that an earlier session counted as spent, since its attempt goes on.

        Levels that count no earlier session reserve it anew, even beyond their limits.
        """
        need, back = _Tally.of(amount), _NOTHING.minus(_Tally.of(amount))
        for level in self._chain:
            if level._resumed:
                level._spent.add(back)
                level.unknown_calls -= amount.usd is None
        return self._grant(amount, need, [])

    def has_room(self, amount: Amount) -> bool:
        """Return True if an amount fits once all reservations in flight are released."""
        return not self._capped or not self._obstacles(_Tally.of(amount), at_rest=True)

    def count(self, amount: Amount) -> None:
        """Count an amount as spent without a reservation, such as that of another run."""
        self._settle(_NOTHING, amount, [])

    def count_here(self, amount: Amount) -> None:
        """Count an amount as spent at this level, and not at those above, such as that of an earlier process."""
        self._count(_Tally.of(amount), _NOTHING)
        if amount.usd is None:
            self.unknown_calls += amount.calls
        self._line.look_through((self,))

    def hold(self, amount: Amount, name: str = "held back") -> "Hold":
        """Hold `amount` back as a budget of its own. Raises BudgetError if it does not fit now.

        A reservation that would fit only without the held amount is refused at once.
        """
        need = _Tally.of(amount)
        for level, limit, demand in self._obstacles(need):
            raise level._refusal(limit, demand, f"the part {name!r}", level._reserved)
        return Hold(self, need, name)

    # Booking goes from the leaf up; each level returns the amount that the next one books.

    def _grant(self, amount: Amount, need: _Tally, borrowed: "_Borrowed") -> Reservation:
        self._book(_NOTHING, need)
        return Reservation(self, amount, need, borrowed)

    def _give_back(self, need: _Tally, borrowed: "_Borrowed") -> None:
        self._book(_NOTHING, _NOTHING.minus(need))
        _return(borrowed)
        self._line.move()

    def _settle(self, need: _Tally, actual: Amount, borrowed: "_Borrowed") -> None:
        self._book(_Tally.of(actual), _NOTHING.minus(need))
        _return(borrowed)
        if actual.usd is None:
            for level in self._chain:
                level.unknown_calls += actual.calls
        self._line.look_through(self._chain)

    def _book(self, spent: _Tally, reserved: _Tally) -> None:
        for level in self._chain:
            reserved = level._count(spent, reserved)

    def _count(self, spent: _Tally, reserved: _Tally) -> _Tally:
        """Count both here; return the amount to reserve one level above."""
        if spent is not _NOTHING:
            self._spent.add(spent)
        held = self._reserved  # written out, not `add`: every call passes here, at every level, twice
        held.usd += reserved.usd
        held.tokens += reserved.tokens
        held.calls += reserved.calls
        return reserved

    # Checks: the limits in the way, now or once all reservations in flight are released.

    def _obstacles(self, need: _Tally, *, at_rest: bool = False) -> list[tuple["Budget", LimitName, _Tally]]:
        """Return the levels where `need` does not fit, each with the limit and the demand on that level.

        `at_rest` computes it for the moment when all attempts in flight have been refunded.
        """
        found: list[tuple[Budget, LimitName, _Tally]] = []
        for level in self._chain:
            reserved = level._floor() if at_rest else level._reserved
            limit = level._short(need, reserved)
            if limit is not None:
                found.append((level, limit, need))
            need = level._beyond(need, reserved)
        return found

    def _short(self, need: _Tally, reserved: _Tally) -> LimitName | None:
        spent = self._spent
        if self._max_usd is not None and spent.usd + reserved.usd + need.usd > self._max_usd:
            return "usd"
        if self._max_tokens is not None and spent.tokens + reserved.tokens + need.tokens > self._max_tokens:
            return "tokens"
        if self._max_calls is not None and spent.calls + reserved.calls + need.calls > self._max_calls:
            return "calls"
        return None

    def _beyond(self, need: _Tally, reserved: _Tally) -> _Tally:
        """Return the demand on the level above for `need`, with `reserved` reserved here."""
        return need

    def _floor(self) -> _Tally:
        """Return the amount that stays reserved without attempts in flight: the held-back part."""
        if not self._holds:
            return _NOTHING
        floor = _Tally()
        for hold in self._holds:
            floor.add(hold._claim(hold._floor()))
        return floor

    def _check_possible(self, waiter: "_Waiter") -> None:
        """Raise BudgetError if the amount can never fit. An essential one borrows from what others hold back."""
        while obstacles := self._obstacles(waiter.need, at_rest=True):
            level, limit, demand = obstacles[0]
            if not (waiter.essential and self._borrow(waiter, level, limit, demand)):
                error = level._refusal(limit, demand, waiter.what, level._floor())
                _return(waiter.borrowed)
                raise error

    def _borrow(self, waiter: "_Waiter", level: "Budget", limit: LimitName, demand: _Tally) -> bool:
        """Take the excess of a demand over a level's limit from the holds there; False if they have too little."""
        excess = sum(getattr(one, limit) for one in (level._spent, level._floor(), demand))
        excess -= getattr(level.limits, limit)
        for hold in level._holds:
            free = getattr(hold._free(), limit)
            if hold not in self._chain and free > 0:
                part = _Tally(**{limit: min(free, excess)})
                hold._pledge_anew(hold._pledge.minus(part))
                waiter.borrowed.append((hold, part))
                excess -= getattr(part, limit)
            if excess <= 0:
                return True
        return False

    def _fitting(self, part: _Tally) -> _Tally:
        """Return the part of an amount that fits here now."""

        def most(limit: LimitName) -> Any:
            amount, cap = getattr(part, limit), getattr(self.limits, limit)
            if cap is None:
                return amount
            return max(
                amount - amount, min(amount, cap - getattr(self._spent, limit) - getattr(self._reserved, limit))
            )

        return _Tally(most("usd"), most("tokens"), most("calls"))

    def _check_priced(self, what: str) -> None:
        for level in self._chain:
            if level.strict_usd and level._max_usd is not None:
                raise BudgetError(
                    f"the price of {what} is not known, and {level.title} may spend {_dollars(level._max_usd)} at"
                    " most: declare the price under `[prices]` in fusion.toml, limit `tokens` or `calls` in place"
                    " of dollars, or use a model with a known price",
                    limit="usd",
                    level=level.name,
                )

    def _check_time(self, what: str) -> None:
        for level in self._chain:
            if level.limits.seconds is not None:
                level.start()
                if level._seconds_left() <= 0:
                    raise level._overdue(what)

    def _seconds_left(self) -> float:
        seconds = self.limits.seconds
        assert seconds is not None
        return seconds if self._started is None else self._started + seconds - self._clock()

    def _overdue(self, what: str) -> BudgetError:
        return BudgetError(
            f"no time is left for {what}: {self.title} may take {self.limits.seconds:g} s; {self._advice('seconds')}",
            limit="seconds",
            level=self.name,
        )

    def _advice(self, limit: LimitName | Literal["seconds"]) -> str:
        return f"raise `{self.key(limit)}`, {_ADVICE[limit]}"

    def _refusal(self, limit: LimitName, need: _Tally, what: str, reserved: _Tally) -> BudgetError:
        aside = _shown(limit, reserved)
        return BudgetError(
            f"{what} would pass the {limit} limit of {self.title}: limit {_shown(limit, self.limits)}, spent"
            f" {_shown(limit, self._spent)}, {f'kept for others {aside}, ' if getattr(reserved, limit) else ''}"
            f"needed up to {_shown(limit, need)}; {self._advice(limit)}",
            limit=limit,
            level=self.name,
        )

    # Waiting.

    def _dismiss(self) -> None:
        """Refuse the waiters that demand more than this level can ever provide."""
        floor = self._floor()
        for limit, tallest in self._tallest.items():
            room = getattr(self.limits, limit) - getattr(self._spent, limit) - getattr(floor, limit)
            kept = []
            while tallest and -tallest[0][0] > room:
                entry = heappop(tallest)
                waiter = entry[2]
                if waiter.waits and waiter.essential:  # it may borrow once it is the first in line
                    kept.append(entry)
                elif waiter.waits:
                    self._line.answer(waiter, self._refusal(limit, waiter.need, waiter.what, floor))
            for entry in kept:
                heappush(tallest, entry)


class Hold(Budget):
    """An amount held back. Reservations draw on it first, and on the levels above for the excess.

    The unused part of a reservation returns to it, so that a retry can draw on it again.
    """

    def __init__(self, parent: Budget, pledge: _Tally, name: str) -> None:
        super().__init__(name=name, parent=parent, clock=parent._clock)
        self._pledge = pledge
        self._released = False
        parent._book(_NOTHING, pledge)
        for level in self._bearers():
            level._holds.append(self)
        self._line.look_through(self._chain)

    @property
    def pledged(self) -> Amount:
        """The whole amount held back, used or not."""
        return self._pledge.amount()

    def release(self) -> None:
        """Release the rest; from now on this is an ordinary level. A second call does nothing."""
        self._released = True
        self._pledge_anew(_NOTHING)
        self._line.look_through(self._chain)

    def _pledge_anew(self, pledge: _Tally) -> None:
        """Hold this amount from now on, and book the difference above."""
        before = self._claim(self._reserved)
        self._pledge = pledge
        assert self.parent is not None
        self.parent._book(_NOTHING, self._claim(self._reserved).minus(before))

    def _free(self) -> _Tally:
        """Return the part of the hold that no reservation at rest needs."""
        floor = self._floor()
        return self._claim(floor).minus(floor)

    def _regain(self, part: _Tally) -> None:
        """Hold a borrowed part again, as far as the levels above have room for it."""
        if not self._released:
            for level in self._above:
                part = level._fitting(part)
            self._pledge_anew(self._pledge.plus(part))

    def _bearers(self) -> list[Budget]:
        """Return the levels that count this hold: up to the next hold, whose claim covers it above."""
        bearers: list[Budget] = []
        for level in self._above:
            bearers.append(level)
            if isinstance(level, Hold):
                break
        return bearers

    def _claim(self, reserved: _Tally) -> _Tally:
        """Return the amount reserved above for this hold, with `reserved` reserved in it."""
        return self._pledge.minus(self._spent).at_least(reserved)

    def _count(self, spent: _Tally, reserved: _Tally) -> _Tally:
        before = self._claim(self._reserved)
        super()._count(spent, reserved)
        return self._claim(self._reserved).minus(before)

    def _beyond(self, need: _Tally, reserved: _Tally) -> _Tally:
        return self._claim(reserved.plus(need)).minus(self._claim(reserved))


_Borrowed = list[tuple[Hold, _Tally]]
"""Parts that an essential reservation took from what others hold back, each with its hold."""


def _return(borrowed: _Borrowed) -> None:
    """Give borrowed parts back to their holds, as far as there is room."""
    while borrowed:
        hold, part = borrowed.pop()
        hold._regain(part)


class _Waiter:
    """A waiting reservation; `answer` resolves to a Reservation or the error that refuses it."""

    __slots__ = ("amount", "answer", "borrowed", "budget", "essential", "need", "number", "what")

    def __init__(self, budget: Budget, amount: Amount, need: _Tally, what: str) -> None:
        self.budget = budget
        self.amount = amount
        self.need = need
        self.what = what
        self.number = 0
        self.essential = essential.get()
        self.borrowed: _Borrowed = []
        self.answer: asyncio.Future[Reservation | BudgetError] = asyncio.get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        return not self.answer.done()


class _Line:
    """The queue of a tree, in order of arrival.

    Waiters at the same budget share all levels: if the first is blocked, so are all behind it. So only the first of
    each budget is examined (`_fronts`, a heap by number of arrival), and none once the root is blocked: a settlement
    costs a few steps, however many wait. `blocked` holds the levels where a waiter does not fit. A new reservation
    that needs one of them joins the end of the queue.
    """

    def __init__(self) -> None:
        self.blocked: set[Budget] = set()
        self._fronts: list[tuple[int, Budget]] = []
        self.waiting = 0
        self._arrived = 0

    async def wait(self, waiter: _Waiter) -> Reservation:
        self._enter(waiter)
        timer = self._timer(waiter)
        try:
            answer = await waiter.answer
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(answer, BudgetError):
            raise answer
        return answer

    def look_through(self, levels: tuple[Budget, ...]) -> None:
        """After spending or holding at these levels, refuse waiters that can never fit and serve those that do."""
        if self.waiting:
            for level in levels:
                level._dismiss()
            self.move()

    def move(self) -> None:
        """Serve the waiters that fit, in order; one that does not fit blocks the levels in its way."""
        self.blocked = blocked = set[Budget]()
        held: list[tuple[int, Budget]] = []
        while self._fronts and self._fronts[0][1]._chain[-1] not in blocked:
            number, budget = heappop(self._fronts)
            waiter = budget._queue.get(number)
            if waiter is None:
                continue
            if not waiter.waits or (blocked.isdisjoint(budget._chain) and self._serve(waiter, blocked)):
                self._leave(waiter)
            else:
                held.append((number, budget))
        for front in held:
            heappush(self._fronts, front)

    def answer(self, waiter: _Waiter, answer: Reservation | BudgetError) -> None:
        waiter.answer.set_result(answer)
        self._leave(waiter)

    def _serve(self, waiter: _Waiter, blocked: set[Budget]) -> bool:
        """Return True if the waiter has its answer now."""
        obstacles = waiter.budget._obstacles(waiter.need)
        if not obstacles:
            return self._grant(waiter)
        try:
            waiter.budget._check_possible(waiter)
        except BudgetError as error:
            waiter.answer.set_result(error)
            return True
        obstacles = waiter.budget._obstacles(waiter.need)  # fewer, if it has borrowed
        if not obstacles:
            return self._grant(waiter)
        blocked.update(level for level, _, _ in obstacles)
        return False

    def _grant(self, waiter: _Waiter) -> bool:
        waiter.answer.set_result(waiter.budget._grant(waiter.amount, waiter.need, waiter.borrowed))
        waiter.borrowed = []
        return True

    def _enter(self, waiter: _Waiter) -> None:
        self._arrived += 1
        self.waiting += 1
        waiter.number = self._arrived
        queue = waiter.budget._queue
        if not queue:
            heappush(self._fronts, (waiter.number, waiter.budget))
        queue[waiter.number] = waiter
        for level in waiter.budget._chain:
            for limit, tallest in level._tallest.items():
                _prune(tallest, 2 * self.waiting + 64)
                heappush(tallest, (-getattr(waiter.need, limit), waiter.number, waiter))
            if isinstance(level, Hold):  # the demand above a hold changes with the hold; `move` handles it
                break
        if self.blocked.isdisjoint(waiter.budget._chain):
            self.blocked.update(level for level, _, _ in waiter.budget._obstacles(waiter.need))

    def _leave(self, waiter: _Waiter) -> None:
        queue = waiter.budget._queue
        _return(waiter.borrowed)
        if queue.pop(waiter.number, None) is None:
            return
        self.waiting -= 1
        following = next(iter(queue), None)
        if following is not None and following > waiter.number:
            heappush(self._fronts, (following, waiter.budget))

    def _abandon(self, waiter: _Waiter) -> None:
        """Remove a cancelled waiter, refund a reservation granted meanwhile, and serve those behind it."""
        self._leave(waiter)
        answer = None if waiter.answer.cancelled() or waiter.waits else waiter.answer.result()
        if isinstance(answer, Reservation):
            answer.refund()
        else:
            self.move()

    def _timer(self, waiter: _Waiter) -> asyncio.TimerHandle | None:
        budget = waiter.budget
        if not budget._timed:
            return None
        timed = [level for level in budget._chain if level.limits.seconds is not None]
        first = min(timed, key=Budget._seconds_left)
        loop = asyncio.get_running_loop()
        return loop.call_later(max(0.0, first._seconds_left()), self._expire, waiter, first)

    def _expire(self, waiter: _Waiter, level: Budget) -> None:
        if not waiter.waits:
            return
        left = level._seconds_left()
        if left > 0:  # its clock stood still
            asyncio.get_running_loop().call_later(max(left, _LEAST), self._expire, waiter, level)
            return
        self.answer(waiter, level._overdue(waiter.what))
        self.move()


def _capped(limits: Limits) -> dict[LimitName, list[tuple[Decimal | int, int, _Waiter]]]:
    names: tuple[LimitName, ...] = ("usd", "tokens", "calls")
    return {name: [] for name in names if getattr(limits, name) is not None}


def _prune(tallest: list[tuple[Decimal | int, int, _Waiter]], most: int) -> None:
    """Drop waiters that are done, once they are the majority."""
    if len(tallest) > most:
        tallest[:] = [entry for entry in tallest if entry[2].waits]
        heapify(tallest)


def _shown(limit: LimitName, amounts: Limits | _Tally) -> str:
    amount = getattr(amounts, limit)
    return _dollars(amount) if limit == "usd" else str(amount)


def _dollars(amount: Decimal) -> str:
    whole, _, cents = f"{amount.normalize():f}".partition(".")
    return f"${whole}.{cents:0<2}"


current: ContextVar[Budget | None] = ContextVar("fusion_budget", default=None)
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


attempt: ContextVar[Reservation | None] = ContextVar("fusion_attempt", default=None)
"""The reservation of the running attempt, which the limiter marks as sent."""


BudgetGiven = Limits | Mapping[str, Any] | None
"""A budget as callers give it: limits, a mapping of them, or nothing."""


def limits_of(given: BudgetGiven) -> Limits | None:
    """Return the budget as Limits; None if none is given. Raises UsageError for an invalid one."""
    if given is None or isinstance(given, Limits):
        return given
    try:
        return Limits.model_validate(given)
    except ValueError as error:
        raise UsageError(f"budget {given!r}: give positive usd, tokens, calls or seconds") from error


def over(pipeline: Limits, given: Limits | None) -> Limits:
    """Return the limits of the pipeline, each overridden by the user's where one is set."""
    if given is None:
        return pipeline
    return Limits(**{**pipeline.model_dump(exclude_none=True), **given.model_dump(exclude_none=True)})
