"""Budgets: caps that hold, a line that is served in order, and nothing left reserved."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from fusion.core.budget import Amount, Budget, Hold, Reservation
from fusion.core.errors import BudgetError
from fusion.core.types import Limits

NOTHING = Amount(Decimal(0), 0, 0)


def usd(value: str | int, calls: int = 1) -> Amount:
    return Amount(Decimal(value), tokens=10, calls=calls)


def limits(**given: Any) -> Limits:
    return Limits(**given)


def dollars(value: str | int) -> Limits:
    return Limits(usd=Decimal(value))


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def begin(coroutine: Coroutine[Any, Any, Reservation]) -> "asyncio.Task[Reservation]":
    return asyncio.get_running_loop().create_task(coroutine)


def test_reserve_then_settle() -> None:
    async def main() -> None:
        run = Budget(limits(usd=Decimal(1), tokens=100, calls=5))
        stage = run.child(name="work")
        reservation = await stage.reserve(Amount(Decimal("0.4"), 50))
        assert run.reserved == stage.reserved == Amount(Decimal("0.4"), 50)
        assert run.spent == NOTHING
        reservation.settle(Amount(Decimal("0.1"), 20))
        assert run.reserved == stage.reserved == NOTHING
        assert run.spent == stage.spent == Amount(Decimal("0.1"), 20)

    asyncio.run(main())


def test_refund_and_charge() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        (await run.reserve(usd("0.4"))).refund()
        assert run.spent == run.reserved == NOTHING
        (await run.reserve(usd("0.4"))).charge()
        assert run.spent == usd("0.4")
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_reservation_is_closed_once() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        reservation = await run.reserve(usd("0.4"))
        reservation.settle(usd("0.1"))
        reservation.settle(usd("0.2"))
        reservation.refund()
        reservation.charge()
        assert run.spent == usd("0.1")
        assert run.reserved == NOTHING

    asyncio.run(main())


@pytest.mark.parametrize(
    ("cap", "amount", "words"),
    [
        (limits(usd=Decimal("0.5")), usd("0.6"), ("usd", "$0.50", "$0.60", "budget.usd")),
        (limits(tokens=5), usd(0), ("tokens", "limit 5", "10", "budget.tokens")),
        (limits(calls=1), usd(0, calls=2), ("calls", "limit 1", "2", "budget.calls")),
    ],
)
def test_what_can_never_fit_is_refused_at_once(cap: Limits, amount: Amount, words: tuple[str, ...]) -> None:
    async def main() -> None:
        stage = Budget(name="run").child(cap, "work")
        with pytest.raises(BudgetError) as caught:
            await stage.reserve(amount, "a call to 'm'")
        assert caught.value.limit == words[0]
        for word in (*words, "'work'", "a call to 'm'"):
            assert word in str(caught.value)

    asyncio.run(main())


def test_spent_money_is_named_in_the_refusal() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        (await run.reserve(usd("0.9"))).charge()
        with pytest.raises(BudgetError, match=r"'run': limit \$1\.00, spent \$0\.90, needed up to \$0\.20; raise"):
            await run.reserve(usd("0.2"))

    asyncio.run(main())


def test_a_level_above_refuses_too_and_books_nothing() -> None:
    async def main() -> None:
        run = Budget(dollars(1), name="the run")
        stage = run.child(dollars(5), "work")
        with pytest.raises(BudgetError, match="'the run'"):
            await stage.reserve(usd(2))
        assert stage.reserved == run.reserved == NOTHING

    asyncio.run(main())


def test_first_come_first_served() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        order: list[int] = []

        async def caller(number: int, cost: int) -> None:
            reservation = await run.reserve(usd(cost))
            order.append(number)
            await turns(3)
            reservation.refund()

        first = await run.reserve(usd(8))
        costs = [5, 1, 2, 9, 1]  # the small ones would fit at once, but came after one that does not
        async with asyncio.TaskGroup() as group:
            for number, cost in enumerate(costs):
                group.create_task(caller(number, cost))
            await turns()
            assert order == []
            first.refund()
        assert order == [0, 1, 2, 3, 4]
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_newcomer_does_not_overtake() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first = await run.reserve(usd(8))
        large = begin(run.reserve(usd(5)))
        await turns()
        small = begin(run.reserve(usd(1)))
        await turns()
        assert not small.done()
        first.refund()
        await turns()
        assert large.done()
        assert small.done()

    asyncio.run(main())


def test_a_waiter_held_by_its_own_level_is_passed_by_others() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        narrow, wide = run.child(dollars(1), "narrow"), run.child(name="wide")
        holder = await narrow.reserve(usd(1))
        held = begin(narrow.reserve(usd(1)))
        behind = begin(narrow.reserve(usd("0.1")))
        await turns()
        passing = await asyncio.wait_for(wide.reserve(usd(5)), 1)
        beneath = await asyncio.wait_for(wide.child(dollars(2), "part").reserve(usd(2)), 1)
        assert not held.done()
        assert not behind.done()
        holder.refund()
        await turns()
        assert held.done()
        assert not behind.done()
        (await held).refund()
        (await behind).refund()
        passing.refund()
        beneath.refund()
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_waiter_that_the_root_holds_blocks_every_level() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        one, other = run.child(name="one"), run.child(name="other")
        first = await one.reserve(usd(8))
        waiting = begin(one.reserve(usd(5)))
        await turns()
        late = begin(other.reserve(usd(1)))
        await turns()
        assert not late.done()
        first.refund()
        await turns()
        assert waiting.done()
        assert late.done()

    asyncio.run(main())


def test_parts_of_a_stage_are_served_in_the_order_of_the_stage() -> None:
    async def main() -> None:
        stage = Budget(name="run").child(dollars(10), "stage")
        parts = [stage.child(name=f"part{n}") for n in range(2)]
        holders = [await stage.reserve(usd(4)), await stage.reserve(usd(4))]
        large = begin(parts[0].reserve(usd(7)))
        await turns()
        small = begin(parts[1].reserve(usd(3)))
        await turns()
        holders[0].refund()  # enough for the small one, which came later
        await turns()
        assert not small.done()
        holders[1].refund()
        (await large).refund()
        (await small).refund()
        assert stage.reserved == NOTHING

    asyncio.run(main())


def test_a_cancelled_waiter_lets_the_next_pass() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first = await run.reserve(usd(8))
        large = begin(run.reserve(usd(5)))
        small = begin(run.reserve(usd(2)))
        await turns()
        assert not small.done()
        large.cancel()
        await turns()
        assert large.cancelled()
        (await asyncio.wait_for(small, 1)).refund()
        first.refund()
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_grant_to_one_that_was_cancelled_meanwhile_is_returned() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first = await run.reserve(usd(8))
        granted = begin(run.reserve(usd(5)))
        following = begin(run.reserve(usd(6)))
        await turns()
        first.refund()
        granted.cancel()  # it has its money already, but has not run since
        assert run.reserved == usd(5)
        await turns()
        assert granted.cancelled()
        assert run.reserved == usd(6)
        (await following).refund()
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_waiter_cancelled_but_not_yet_run_gets_nothing() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first = await run.reserve(usd(8))
        cancelled = begin(run.reserve(usd(5)))
        following = begin(run.reserve(usd(6)))
        await turns()
        cancelled.cancel()
        first.refund()
        assert run.reserved == usd(6)
        (await following).refund()
        assert cancelled.cancelled()

    asyncio.run(main())


def test_those_left_without_hope_are_refused_at_once_wherever_they_stand() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first, second = await run.reserve(usd(5)), await run.reserve(usd(5))
        modest = begin(run.reserve(usd(1)))
        tasks = [begin(run.reserve(usd(cost))) for cost in (7, 2, 6)]
        await turns()
        first.charge()
        await turns()
        assert modest.done() is False or isinstance(modest.result(), Reservation)
        hopeless = [task for task in tasks if task.done() and task.exception()]
        assert hopeless == [tasks[0], tasks[2]]
        second.refund()
        await turns()
        assert isinstance(tasks[1].result(), Reservation)

    asyncio.run(main())


def test_a_first_waiter_without_hope_lets_those_behind_it_pass() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        first = await run.reserve(usd(8))
        large, small = begin(run.reserve(usd(9))), begin(run.reserve(usd(2)))
        await turns()
        first.settle(usd(4))
        await turns()
        with pytest.raises(BudgetError, match=r"spent \$4\.00, needed up to \$9\.00"):
            await large
        (await small).refund()

    asyncio.run(main())


def test_over_delivery_is_counted_in_full_and_ends_it() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        reservation = await run.reserve(usd("0.9"))
        waiting = begin(run.reserve(usd("0.5")))
        await turns()
        reservation.settle(Amount(Decimal("1.5"), 10_000))
        assert run.spent == Amount(Decimal("1.5"), 10_000)
        with pytest.raises(BudgetError):
            await waiting
        with pytest.raises(BudgetError, match=r"spent \$1\.50"):
            await run.reserve(usd("0.0001"))
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_an_unknown_price_is_bounded_by_tokens_and_calls() -> None:
    async def main() -> None:
        run = Budget(limits(usd=Decimal("0.01"), tokens=100, calls=3))
        stage = run.child()
        for _ in range(3):
            (await stage.reserve(Amount(None, 30))).settle(Amount(None, 30))
        assert run.unknown_calls == stage.unknown_calls == 3
        assert run.spent == Amount(Decimal(0), 90, 3)
        with pytest.raises(BudgetError) as caught:
            await stage.reserve(Amount(None, 30))
        assert caught.value.limit == "tokens"

    asyncio.run(main())


def test_only_calls_that_were_made_at_an_unknown_cost_count_as_unknown() -> None:
    async def main() -> None:
        run = Budget()
        (await run.reserve(Amount(None, 30))).refund()
        (await run.reserve(Amount(None, 30))).settle(Amount(Decimal("0.2"), 30))
        assert run.unknown_calls == 0
        (await run.reserve(Amount(None, 30))).charge()
        assert run.unknown_calls == 1
        assert run.spent == Amount(Decimal("0.2"), 60, 2)

    asyncio.run(main())


def test_an_unknown_price_is_refused_under_dollars_given_by_hand() -> None:
    async def main() -> None:
        run = Budget(dollars(1), strict_usd=True)
        with pytest.raises(BudgetError, match="price of a call to 'm' is not known") as caught:
            await run.child().child().reserve(Amount(None, 30), "a call to 'm'")
        assert caught.value.limit == "usd"
        bounded = Budget(limits(tokens=100), strict_usd=True)
        (await bounded.reserve(Amount(None, 30))).refund()

    asyncio.run(main())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_count_from_the_start() -> None:
    async def main() -> None:
        clock = Clock()
        run = Budget(limits(seconds=60.0), clock=clock)
        assert run.remaining_seconds() == 60
        run.start()
        clock.now += 50
        stage = run.child(limits(seconds=5.0), "work")
        assert stage.remaining_seconds() == 5
        (await stage.reserve(usd(1))).refund()
        clock.now += 4
        run.start()
        assert stage.remaining_seconds() == 1
        assert run.remaining_seconds() == 6
        clock.now += 2
        with pytest.raises(BudgetError, match=r"'work' may take 5 s") as caught:
            await stage.reserve(usd(1))
        assert caught.value.limit == "seconds"
        (await run.reserve(usd(1))).refund()
        clock.now += 100
        assert run.remaining_seconds() == 0
        with pytest.raises(BudgetError, match=r"'run' may take 60 s"):
            await run.reserve(usd(1))
        assert Budget().remaining_seconds() is None

    asyncio.run(main())


def test_nobody_waits_beyond_a_deadline() -> None:
    async def main() -> None:
        run = Budget(limits(usd=Decimal(1), seconds=0.05))
        first = await run.reserve(usd(1))
        with pytest.raises(BudgetError, match="no time is left"):
            await asyncio.wait_for(run.reserve(usd(1)), 5)
        first.refund()
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_a_grant_past_the_deadline_is_returned() -> None:
    async def main() -> None:
        clock = Clock()
        run = Budget(limits(usd=Decimal(1), seconds=60.0), clock=clock)
        first = await run.reserve(usd(1))
        waiting = begin(run.reserve(usd(1)))
        await turns()
        clock.now += 61
        first.refund()
        with pytest.raises(BudgetError, match="no time is left"):
            await waiting
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_what_is_held_back_is_out_of_reach_for_others() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        held = run.hold(usd(4), "the merge")
        assert isinstance(held, Hold)
        assert run.reserved == usd(4)
        with pytest.raises(BudgetError, match=r"kept for others \$4\.00"):
            await run.child().reserve(usd(7))
        (await run.child().reserve(usd(6))).charge()
        reservation = await held.child().reserve(usd(3))
        assert run.reserved == usd(4)
        reservation.settle(usd(2))
        assert run.reserved == Amount(Decimal(2), 0, 0)
        assert run.spent == Amount(Decimal(8), 20, 2)
        held.release()
        held.release()
        assert run.reserved == NOTHING
        (await held.reserve(usd(2))).charge()
        assert run.spent == Amount(Decimal(10), 30, 3)

    asyncio.run(main())


def test_a_hold_that_does_not_fit_is_refused() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        with pytest.raises(BudgetError, match=r"the part 'end'.*needed up to \$2\.00"):
            run.hold(usd(2), "end")
        assert run.reserved == NOTHING

    asyncio.run(main())


def test_beyond_what_is_held_the_levels_above_are_asked() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        held = run.hold(usd(4))
        reservation = await held.reserve(usd(6))
        assert run.reserved == usd(6)
        other = await run.reserve(usd(4))
        waiting = begin(held.reserve(usd(1)))
        await turns()
        assert not waiting.done()
        reservation.settle(usd(5))
        assert (run.spent.usd, run.reserved.usd) == (5, 5)
        await turns()
        other.refund()
        (await waiting).refund()
        assert run.reserved.usd == 0
        with pytest.raises(BudgetError):
            await held.reserve(usd(6))

    asyncio.run(main())


def test_a_failed_attempt_leaves_its_hold_for_the_next() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        held = run.hold(usd(5))
        (await run.reserve(usd(5))).charge()
        for _ in range(3):
            (await held.reserve(usd(5))).refund()
            assert run.reserved == usd(5)
        (await held.reserve(usd(5))).charge()
        assert (run.spent.usd, run.reserved.usd) == (10, 0)

    asyncio.run(main())


def test_a_released_hold_serves_those_who_wait() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        held = run.hold(usd(4))
        under_way = await run.reserve(usd(6))
        waiting = begin(run.reserve(usd(5)))
        await turns()
        held.release()
        under_way.settle(usd(5))
        (await asyncio.wait_for(waiting, 1)).refund()

    asyncio.run(main())


def test_holds_within_holds_keep_to_what_the_outer_one_has() -> None:
    async def main() -> None:
        run = Budget(dollars(10))
        outer = run.hold(usd(6), "outer")
        inner = outer.child().hold(usd(4), "inner")
        assert run.reserved == usd(6)
        with pytest.raises(BudgetError):
            await run.reserve(usd(5))
        (await inner.reserve(usd(4))).charge()
        (await outer.reserve(usd(2, calls=0))).charge()
        assert (run.spent.usd, run.reserved.usd) == (6, 0)
        with pytest.raises(BudgetError):
            await inner.reserve(usd(5))
        (await inner.reserve(usd(4))).charge()
        assert run.spent.usd == 10

    asyncio.run(main())


COSTS = [Decimal(n) / 1000 for n in range(1000)]


class Storm:
    """Callers that reserve, retry, give up and are cancelled at random, with every booking watched."""

    def __init__(self, seed: int, callers: int) -> None:
        self.random = Random(seed)
        share = Decimal(callers)
        self.run = Budget(limits(usd=share / 8, tokens=callers * 120, calls=callers))
        self.held = self.run.hold(Amount(share / 50, callers * 10, callers // 20)) if seed % 8 == 0 else None
        caps = [limits(usd=share / 40), limits(tokens=callers * 25, calls=callers // 4), Limits()]
        self.stages = [self.run.child(cap, f"stage{n}") for n, cap in enumerate(caps)]
        self.stages += [self.stages[0].child(dollars(share / 90), "part")]
        if self.held:
            self.stages += [self.held, self.held.child(dollars(share / 60), "last")]
        self.callers = callers
        self.served = self.refused = self.cancelled = self.waited = 0

    async def caller(self) -> None:
        draw = self.random.random
        stage = self.stages[int(draw() * len(self.stages))]
        worst = Amount(None if draw() < 0.1 else COSTS[int(draw() * 1000)], int(draw() * 900))
        for _ in range(int(draw() * 2) + 1):
            reservation = await stage.reserve(worst)
            try:
                if draw() < 0.7:
                    await asyncio.sleep(0)
                outcome = draw()
                if outcome < 0.5:
                    share = COSTS[int(draw() * 1000)]
                    actual = None if worst.usd is None else worst.usd * share
                    reservation.settle(Amount(actual, int(worst.tokens * share)))
                    self.served += 1
                    return
                if outcome < 0.6:
                    reservation.charge()
            finally:
                reservation.refund()

    async def guarded(self) -> None:
        try:
            await self.caller()
        except BudgetError:
            self.refused += 1

    async def blow(self) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.guarded()) for _ in range(self.callers)]
            for _ in range(8):
                await asyncio.sleep(0)
                self.waited += sum(len(stage.queue) for stage in self.stages)
                for task in self.random.choices(tasks, k=self.callers // 50):
                    self.cancelled += task.cancel()


def watch(patch: pytest.MonkeyPatch) -> None:
    """From here on, every booking at every level is checked against the level's limits."""
    book = Budget.enter

    def checked(level: Budget, spent: Any, reserved: Any) -> Any:
        passed_on = book(level, spent, reserved)
        used, held, cap = level._spent, level._reserved, level.limits
        assert held.usd >= 0
        assert held.tokens >= 0
        assert held.calls >= 0
        assert cap.usd is None or used.usd + held.usd <= cap.usd
        assert cap.tokens is None or used.tokens + held.tokens <= cap.tokens
        assert cap.calls is None or used.calls + held.calls <= cap.calls
        return passed_on

    patch.setattr(Budget, "enter", checked)


def test_a_thousand_callers_at_once_never_pass_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch)
    seen: Counter[str] = Counter()
    for seed in range(30):
        storm = Storm(seed, 1000)
        asyncio.run(storm.blow())
        if storm.held:
            storm.held.release()
        for level in [storm.run, *storm.stages]:
            assert level.reserved == NOTHING
        seen.update({name: getattr(storm, name) for name in ("served", "refused", "cancelled", "waited")})
    assert min(seen.values()) > 1_500, seen


@pytest.mark.parametrize("where", ["root", "stage"])
def test_waking_a_long_line_costs_the_same_for_each(where: str) -> None:
    """Ten times as many waiters take about ten times as long, not a hundred times."""

    async def line(length: int) -> float:
        run = Budget(dollars(1) if where == "root" else Limits())
        stage = run.child(Limits() if where == "root" else dollars(1))

        async def caller() -> None:
            reservation = await stage.reserve(usd(1))
            await asyncio.sleep(0)
            reservation.refund()

        started = time.process_time()
        await asyncio.gather(*(caller() for _ in range(length)))
        return time.process_time() - started

    short = min(asyncio.run(line(300)) for _ in range(3))
    long = min(asyncio.run(line(3000)) for _ in range(2))
    assert long < 30 * short


def test_a_line_of_cancelled_callers_leaves_nothing_behind() -> None:
    async def main() -> None:
        run = Budget(dollars(1))
        first = await run.reserve(usd(1))
        tasks = [begin(run.reserve(usd(1))) for _ in range(500)]
        await turns()
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await turns()
        assert all(task.cancelled() for task in tasks)
        first.refund()
        (await asyncio.wait_for(run.reserve(usd(1)), 1)).refund()
        assert run.reserved == NOTHING

    asyncio.run(main())
