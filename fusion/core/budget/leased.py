"""Leased: a level whose limit all processes of a store share, spent from leases of its account."""

import asyncio
import time
from concurrent.futures import Executor
from functools import partial
from math import inf
from typing import Any, Final

from fusion.core.budget.accounts import Account, Bid, Calendar, Lender, Standing
from fusion.core.budget.amounts import NOTHING, UNITS, UNLIMITED, Amount, Caps, LimitName, Tally
from fusion.core.budget.budget import Budget
from fusion.core.budget.messages import exhausted
from fusion.core.budget.terms import JoinedTerm, PeriodTerm
from fusion.core.errors import BudgetError, FusionError, StoreError
from fusion.core.log import LOG
from fusion.core.types import Limits

BLOCKS: Final = 100
"""Blocks of a cap that are leased at once, one by one."""
_SHARE_OF_REST: Final = 8
_IDLE: Final = 1.0
"""Seconds without an attempt after which the rest of a lease is given back."""
_REPORTS: Final = 15
"""Beats between two reports of a level that is busy."""
_AHEAD: Final = 2
"""Times the spending between two reports that a busy level holds at most, so that 1,000 processes share a cap."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_PATIENCE: Final = 300.0
"""Seconds to wait for the leases of other processes that are in the way."""
_SETTLE_EVERY: Final = 8


class Leased(Budget):
    """A level that spends from leases of an account, of which `calendar` tells the period.

    While its lease lasts, it is a level like others. An amount that does not fit waits in the line for the next
    lease: a block of the cap, or the amount if that is larger. It raises BudgetError once the account refuses it. An
    amount that only the leases of other processes are in the way of waits for them.
    """

    def __init__(
        self,
        limits: Limits,
        lender: Lender,
        calendar: Calendar,
        executor: Executor,
        *,
        name: str,
        parent: Budget | None = None,
        declared_in: str = "",
    ) -> None:
        super().__init__(limits, name=name, parent=parent, declared_in=declared_in, strict_usd=limits.usd is not None)
        self.leases = (self, *self.leases)
        self.rest = UNLIMITED
        self._caps = Caps.of(limits)
        self._lender = lender
        self._calendar = calendar
        self._executor = executor
        self._past: list[PeriodTerm] = []
        self._pace: Tally | None = None
        """The spending between the last two reports, once there were two."""
        self._begin(calendar(time.time()))
        self._asked: asyncio.Future[Standing] | None = None
        """The bid without an answer yet; there is one at a time."""
        self._stalled = False
        """True while only attempts of its own are in the way of the first one in line."""
        self._waits_since: float | None = None
        self._pauses = 0
        self._retry: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._beats = 0
        self._closed = False

    @property
    def account(self) -> Account:
        """The account in its present period."""
        return self.term.account

    @property
    def standing(self) -> Standing | None:
        """The account as of the last exchange, if any."""
        return self.term.standing

    def draw(self, run_id: str, session: int, *, kept: bool) -> None:
        """Record that a session of a run draws on the account, before its first attempt."""
        self._lender.draw(self.account.name, run_id, session, kept=kept)

    # Attempts.

    def look(self) -> None:
        """Begin the next period once it is due."""
        if time.time() >= self._ends:
            self._roll()

    def begin(self) -> PeriodTerm:
        """Count an attempt in the present period."""
        self.term.flying += 1
        return self.term

    @property
    def booked(self) -> Tally:
        """A copy of what is reserved."""
        return self._reserved.plus(NOTHING)

    def joined(self, worst: Amount, before: Tally) -> JoinedTerm:
        """Take back what was reserved since `before` for an attempt that the account counts already."""
        aside = self._reserved.minus(before)
        self._reserved.add(NOTHING.minus(aside))
        return JoinedTerm(self, worst, aside)

    def set_aside(self, reserved: Tally, spent: Tally) -> None:
        """Take amounts out of those booked here."""
        self._reserved.add(NOTHING.minus(reserved))
        self._spent.add(NOTHING.minus(spent))

    def left_of(self, term: PeriodTerm, standing: Standing) -> Caps:
        """Return the amount that is neither spent, nor reserved here, nor leased to another process."""
        reserved = self._reserved if term is self.term else NOTHING

        def left(unit: LimitName, cap: Any) -> Any:
            spent, leased, mine = (getattr(one, unit) for one in (standing.spent, standing.leased, standing.open))
            others = spent - getattr(term.reported, unit) + leased - mine
            return max(cap - cap, cap - others - getattr(term.spent, unit) - getattr(reserved, unit))

        return self._caps.each(left)

    def end_late(self, term: PeriodTerm, actual: Tally) -> None:
        """Count an attempt in an earlier period, where it was reserved."""
        self._spent.add(NOTHING.minus(actual))
        term.spent.add(actual)
        if not term.flying:
            self._past.remove(term)
            self._finish(term)

    # Leases.

    @property
    def likely(self) -> Caps:
        return self._caps if self.standing is None else self._within_reach(self.standing)

    def lack(self, demand: Tally) -> None:
        if not (self._asked or self._retry is not None or self._closed or (self._stalled and self._is_flying)):
            self._bid(demand)

    async def ask(self, need: Tally) -> None:
        """Ask for a lease that has room for an amount; without one, nothing changes."""
        while self._asked is not None:
            await asyncio.wait([self._asked])
        if not self._closed and self.short(self.most, need, self._reserved) is not None:
            await asyncio.wait([self._bid(need)])

    @property
    def _is_flying(self) -> bool:
        return self.term.flying > 0 or bool(self._past)

    def _block(self) -> Tally:
        """Return the amount leased at once: a hundredth of the cap, and less of a rest that others share.

        It is what the level spends soon, once that is known.
        """
        block = Tally(**{unit: self._block_of(unit) for unit in UNITS})
        return block if self._pace is None else block.at_most(self._soon(self._pace))

    def _soon(self, pace: Tally) -> Tally:
        """Return the amount to lease for what is spent at a pace, or since it was measured."""
        since = self._spent.plus(self._reserved).minus(self._marked)
        most = pace.at_least(since)
        return Tally(**{unit: getattr(most, unit) * _AHEAD for unit in UNITS})

    def _block_of(self, unit: LimitName) -> Any:
        cap = getattr(self._caps, unit)
        if cap is None:
            return 0
        block = cap / BLOCKS if unit == "usd" else cap // BLOCKS
        if self.standing is None:
            return block
        rest = cap - getattr(self.standing.spent, unit) - getattr(self.standing.leased, unit)
        return max(0, min(block, rest / _SHARE_OF_REST if unit == "usd" else rest // _SHARE_OF_REST))

    def _bid(self, demand: Tally) -> "asyncio.Future[Standing]":
        """Ask for room for an amount: a block of the cap, or the amount if that is larger."""
        waits = self._waits_since is not None
        kept = self._kept(everything=not waits)
        least = self._reserved.plus(demand)
        most = self._reserved.plus(demand.at_least(self._block())).at_least(kept)
        bid = Bid(self._spent.amount(), kept.amount(), least.amount(), most.amount())
        return self._make(bid, demand, settle=waits and self._pauses % _SETTLE_EVERY == 0)

    def _report(self, *, everything: bool) -> "asyncio.Future[Standing]":
        """Report what was spent, and keep the whole lease, or what is reserved."""
        kept = self._kept(everything=everything).amount()
        return self._make(Bid(self._spent.amount(), kept, kept, kept), NOTHING)

    def _kept(self, *, everything: bool) -> Tally:
        """Return what a bid keeps in any case. Nothing beyond it is reserved until the answer."""
        kept = self._lasting() if everything else self._reserved.plus(NOTHING)
        self.most = self._caps.each(lambda unit, cap: getattr(self._spent, unit) + getattr(kept, unit))
        return kept

    def _lasting(self) -> Tally:
        """Return the part of the lease that is reserved or spent soon."""
        left = self.term.held.minus(self._spent).at_least(self._reserved)
        return left if self._pace is None else left.at_most(self._reserved.plus(self._soon(self._pace)))

    def _make(self, bid: Bid, demand: Tally, *, settle: bool = False) -> "asyncio.Future[Standing]":
        self._asked = self._send(self.term, bid, settle=settle)
        self._asked.add_done_callback(partial(self._answered, self.term, bid, demand))
        return self._asked

    def _send(self, term: PeriodTerm, bid: Bid, *, settle: bool) -> "asyncio.Future[Standing]":
        bid = bid._replace(first=not term.opened)
        term.asked = True
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._executor, partial(self._exchange, term.account, bid, settle=settle))

    def _exchange(self, account: Account, bid: Bid, *, settle: bool) -> Standing:
        if settle:
            self._lender.settle(account)
        return self._lender.exchange(account, bid)

    def _answered(self, term: PeriodTerm, bid: Bid, demand: Tally, answer: "asyncio.Future[Standing]") -> None:
        self._asked = None
        if answer.cancelled() or self._closed:
            return
        error = answer.exception()
        if error is not None:
            self.line.fail(self, _as_fault(error))
            return
        standing = answer.result()
        self._take(term, bid, standing)
        if term is self.term and not standing.granted:
            self._refused(demand, standing)
            return
        self._waits_since, self._stalled = None, False
        self.line.move()

    def _take(self, term: PeriodTerm, bid: Bid, standing: Standing) -> None:
        term.take(bid.spent, standing)
        if term is self.term:
            self.most = self._caps.each(lambda unit, cap: getattr(term.held, unit))
        if self._beat is None and not self._closed:
            self._beat = asyncio.get_running_loop().call_later(_IDLE, self._look_around)

    # Refusals.

    def _refused(self, demand: Tally, standing: Standing) -> None:
        """Wait for own attempts or those of other processes if they are in the way; else refuse what does not fit."""
        self._stalled = True
        within = self._within_reach(standing)
        if self.short(within, demand, self.floor()) is not None:
            others = standing.leased.minus(standing.open)
            beyond = within.each(lambda unit, cap: cap + getattr(others, unit))
            if self._waits_for(others) and self.short(beyond, demand, self.floor()) is None:
                self._pause()
                return
        self.rest = within
        self.dismiss()
        self.line.move()
        self.rest = UNLIMITED

    def _within_reach(self, standing: Standing) -> Caps:
        """Return the most that this level may spend and hold while others keep their leases."""

        def reach(unit: LimitName, cap: Any) -> Any:
            left = cap - getattr(standing.spent, unit) - getattr(standing.leased, unit)
            return getattr(self.term.held, unit) + max(0, left)

        return self._caps.each(reach)

    def _waits_for(self, others: Amount) -> bool:
        """Return True while it is worth to wait for the leases of others."""
        if others == NOTHING.amount():
            return False
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since, self._pauses = now, -1
        return now - self._waits_since < _PATIENCE

    def _pause(self) -> None:
        """Look again after a pause, the first time at once: the holders in the way may have died."""
        self._pauses += 1
        pause = 0.0 if self._pauses == 0 else min(_FIRST_PAUSE * 2 ** (self._pauses - 1), _LONGEST_PAUSE)
        self._retry = asyncio.get_running_loop().call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._retry, self._stalled = None, False
        self.look()
        self.line.move()

    def refusal(self, limit: LimitName, need: Tally, what: str, reserved: Tally) -> BudgetError:
        return exhausted(self, limit, need, what, reserved)

    # Periods.

    def _begin(self, account: Account) -> None:
        self.term = PeriodTerm(self, account)
        self._ends = inf if account.ends is None else account.ends
        self._spent = self.term.spent
        self._marked = Tally()
        self.most = self._caps.each(lambda unit, cap: cap - cap)

    def _roll(self) -> None:
        """Begin the next period; attempts in flight end in the one before."""
        old = self.term
        self._begin(self._calendar(time.time()))
        self._stalled, self._waits_since = False, None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if old.flying:
            self._past.append(old)
        else:
            self._finish(old)
        self.line.move()

    def _finish(self, term: PeriodTerm) -> None:
        """Report an earlier period, and give back its lease."""
        if term.asked or term.spent != NOTHING:
            done = self._send(term, Bid(term.spent.amount(), last=True), settle=False)
            done.add_done_callback(_log)

    def _look_around(self) -> None:
        """Give back the rest of an idle lease, and report the spending of a busy one now and then."""
        self._beat = None
        self.look()
        term, idle = self.term, not (self._is_flying or self.line.waiting)
        unused = term.held != self._spent.plus(self._reserved)
        changed = term.reported != self._spent
        if self._asked is None and term.opened and idle and (unused or changed):
            self._report(everything=False)
        if idle:
            return
        self._beats += 1
        if self._beats % _REPORTS == 0:
            self._mark()
            if self._asked is None and term.opened and (changed or self._lasting() != term.held.minus(self._spent)):
                self._report(everything=True)
        self._beat = asyncio.get_running_loop().call_later(_IDLE, self._look_around)

    def _mark(self) -> None:
        """Measure the pace since the last mark."""
        self._pace, self._marked = self._spent.minus(self._marked).at_least(NOTHING), self._spent.plus(NOTHING)

    async def report(self) -> None:
        """Report what was spent, and give back what no attempt reserves."""
        while self._asked is not None:
            await asyncio.wait([self._asked])
        if self.term.opened and not self._closed:
            await asyncio.wait([self._report(everything=False)])

    async def close(self) -> None:
        """Report all that was spent, and give back every lease."""
        self._closed = True
        for timer in (self._retry, self._beat):
            if timer is not None:
                timer.cancel()
        loop = asyncio.get_running_loop()
        for term in (*self._past, self.term):
            if term.asked or term.spent != NOTHING:
                try:
                    await self._send(term, Bid(term.spent.amount(), last=True), settle=False)
                except StoreError as error:
                    LOG.warning("%s", error)
        await loop.run_in_executor(self._executor, self._lender.close)


def _as_fault(error: BaseException) -> FusionError:
    return error if isinstance(error, FusionError) else StoreError(f"the account cannot be read: {error!r}")


def _log(done: "asyncio.Future[Standing]") -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        LOG.warning("%s", error)
