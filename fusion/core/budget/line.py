"""Line: the queue of the reservations that wait in one tree of budgets."""

import asyncio
from decimal import Decimal
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from fusion.core.budget.amounts import UNITS, Amount, LimitName, Tally
from fusion.core.budget.context import essential
from fusion.core.budget.messages import overdue
from fusion.core.budget.reservation import Reservation
from fusion.core.errors import BudgetError, FusionError
from fusion.core.types import Limits

if TYPE_CHECKING:
    from fusion.core.budget.budget import Budget
    from fusion.core.budget.hold import Hold

_LEAST: Final = 0.05
"""Seconds until a deadline whose clock stood still is looked at again, at least."""

Borrowed = list[tuple["Hold", Tally]]
"""Parts that an essential reservation took from what others hold back, each with its hold."""


def give_back_all(borrowed: Borrowed) -> None:
    """Give borrowed parts back to their holds, as far as there is room."""
    while borrowed:
        hold, part = borrowed.pop()
        hold.regain(part)


Obstacle = tuple["Budget", LimitName, Tally]
"""A level where an amount does not fit, the limit in the way, and the demand on that level."""


class Waiter:
    """A waiting reservation; `answer` resolves to a Reservation or the error that refuses it."""

    __slots__ = ("amount", "answer", "borrowed", "budget", "essential", "need", "number", "what")

    def __init__(self, budget: "Budget", amount: Amount, need: Tally, what: str) -> None:
        self.budget = budget
        self.amount = amount
        self.need = need
        self.what = what
        self.number = 0
        self.essential = essential.get()
        self.borrowed: Borrowed = []
        self.answer: asyncio.Future[Reservation | FusionError] = asyncio.get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        return not self.answer.done()


class Line:
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

    async def wait(self, waiter: Waiter) -> Reservation:
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
        if isinstance(answer, Reservation):
            return answer
        raise answer

    def look_through(self, levels: "tuple[Budget, ...]") -> None:
        """After spending or holding at these levels, refuse waiters that can never fit and serve those that do."""
        if self.waiting:
            for level in levels:
                level.dismiss()
            self.move()

    def move(self) -> None:
        """Serve the waiters that fit, in order; one that does not fit blocks the levels in its way."""
        blocked: set[Budget] = set()
        self.blocked = blocked
        held: list[tuple[int, Budget]] = []
        while self._fronts and self._fronts[0][1].levels[-1] not in blocked:
            number, budget = heappop(self._fronts)
            waiter = budget.queue.get(number)
            if waiter is None:
                continue
            if not waiter.waits or (blocked.isdisjoint(budget.levels) and self._serve(waiter, blocked)):
                self._leave(waiter)
            else:
                held.append((number, budget))
        for front in held:
            heappush(self._fronts, front)

    def answer(self, waiter: Waiter, answer: Reservation | FusionError) -> None:
        waiter.answer.set_result(answer)
        self._leave(waiter)

    def fail(self, level: "Budget", error: FusionError) -> None:
        """Refuse all that wait beneath a level whose account fails."""
        fronts = [budget for _, budget in self._fronts if level in budget.levels]
        for waiter in [waiter for budget in fronts for waiter in budget.queue.values()]:
            if waiter.waits:
                self.answer(waiter, error)
        self.move()

    def _serve(self, waiter: Waiter, blocked: "set[Budget]") -> bool:
        """Return True if the waiter has its answer now."""
        obstacles = waiter.budget.obstacles(waiter.need)
        if not obstacles:
            return self._grant(waiter)
        try:
            waiter.budget.check_possible(waiter)
        except BudgetError as error:
            waiter.answer.set_result(error)
            return True
        obstacles = waiter.budget.obstacles(waiter.need)  # fewer, if it has borrowed
        if not obstacles:
            return self._grant(waiter)
        _block(obstacles, blocked)
        return False

    def _grant(self, waiter: Waiter) -> bool:
        waiter.answer.set_result(waiter.budget.grant(waiter.amount, waiter.need, waiter.borrowed))
        waiter.borrowed = []
        return True

    def _enter(self, waiter: Waiter) -> None:
        self._arrived += 1
        self.waiting += 1
        waiter.number = self._arrived
        queue = waiter.budget.queue
        if not queue:
            heappush(self._fronts, (waiter.number, waiter.budget))
        queue[waiter.number] = waiter
        for level in waiter.budget.levels:
            for limit, tallest in level.tallest.items():
                _prune(tallest, 2 * self.waiting + 64)
                heappush(tallest, (-getattr(waiter.need, limit), waiter.number, waiter))
            if level.covers:  # the demand above a hold changes with the hold; `move` handles it
                break
        if self.blocked.isdisjoint(waiter.budget.levels):
            _block(waiter.budget.obstacles(waiter.need), self.blocked)

    def _leave(self, waiter: Waiter) -> None:
        queue = waiter.budget.queue
        give_back_all(waiter.borrowed)
        if queue.pop(waiter.number, None) is None:
            return
        self.waiting -= 1
        following = next(iter(queue), None)
        if following is not None and following > waiter.number:
            heappush(self._fronts, (following, waiter.budget))

    def _abandon(self, waiter: Waiter) -> None:
        """Remove a cancelled waiter, refund a reservation granted meanwhile, and serve those behind it."""
        self._leave(waiter)
        answer = None if waiter.answer.cancelled() or waiter.waits else waiter.answer.result()
        if isinstance(answer, Reservation):
            answer.refund()
        else:
            self.move()

    def _timer(self, waiter: Waiter) -> asyncio.TimerHandle | None:
        budget = waiter.budget
        if not budget.timed:
            return None
        timed = [level for level in budget.levels if level.limits.seconds is not None]
        first = min(timed, key=lambda level: level.seconds_left())
        loop = asyncio.get_running_loop()
        return loop.call_later(max(0.0, first.seconds_left()), self._expire, waiter, first)

    def _expire(self, waiter: Waiter, level: "Budget") -> None:
        if not waiter.waits:
            return
        left = level.seconds_left()
        if left > 0:  # its clock stood still
            asyncio.get_running_loop().call_later(max(left, _LEAST), self._expire, waiter, level)
            return
        self.answer(waiter, overdue(level, waiter.what))
        self.move()


def _block(obstacles: "list[Obstacle]", blocked: "set[Budget]") -> None:
    """Mark the levels in the way of a waiter, and tell them what they lack."""
    for level, _, demand in obstacles:
        blocked.add(level)
        level.lack(demand)


def capped(limits: Limits) -> dict[LimitName, list[tuple[Decimal | int, int, Waiter]]]:
    """Return an empty heap for each limit that is set."""
    return {name: [] for name in UNITS if getattr(limits, name) is not None}


def _prune(tallest: list[tuple[Decimal | int, int, Waiter]], most: int) -> None:
    """Drop waiters that are done, once they are the majority."""
    if len(tallest) > most:
        tallest[:] = [entry for entry in tallest if entry[2].waits]
        heapify(tallest)
