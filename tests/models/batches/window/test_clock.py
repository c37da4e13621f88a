"""The clock of a run stands still while calls wait for batches; a budget takes back what goes on."""

import asyncio
from decimal import Decimal

import pytest

from fusion.core.budget import Amount, Budget
from fusion.core.errors import BudgetError
from fusion.core.types import Limits
from fusion.models.batches.window.clock import RunClock
from fusion.quote.simulate import in_virtual_time

pytestmark = pytest.mark.anyio


async def test_pauses_do_not_count() -> None:
    lost: list[float] = []
    clock = RunClock(lost.append)
    begun = clock()
    with clock.paused():
        assert clock.stands
        await asyncio.sleep(0.05)
        assert clock() == begun or clock() - begun < 0.02
    assert len(lost) == 1
    assert lost[0] >= 0.05
    assert clock() - begun < 0.04


async def test_pauses_within_each_other_count_once() -> None:
    lost: list[float] = []
    clock = RunClock(lost.append)
    with clock.paused(), clock.paused():
        await asyncio.sleep(0.02)
    assert len(lost) == 1


@pytest.mark.parametrize("seconds", [0.01, 0.03])
async def test_a_limit_ends_a_block(seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with RunClock().limit(seconds):
            await asyncio.sleep(5)


async def test_a_limit_waits_for_the_end_of_a_pause() -> None:
    clock, paused = RunClock(), False

    async def limited() -> None:
        nonlocal paused
        async with clock.limit(0.03):
            with clock.paused():
                await asyncio.sleep(0.1)
            paused = True
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await limited()
    assert paused


async def test_a_limit_set_within_a_pause_begins_after_it() -> None:
    clock = RunClock()
    async with clock.limit() as limit:
        with clock.paused():
            limit.set(0.05)
            await asyncio.sleep(0.1)


async def test_a_budget_moves_what_an_earlier_session_spent_back_to_reserved() -> None:
    run = Budget(Limits(usd=Decimal("0.010")))
    run.resume(Amount(Decimal("0.008"), 100, 2))
    stage = run.child(Limits(usd=Decimal("0.009")))
    stage.resume(Amount(Decimal("0.008"), 100, 2))
    again = stage.reclaim(Amount(Decimal("0.004"), 50))
    for level in (run, stage):
        assert (level.spent.usd, level.reserved.usd) == (Decimal("0.004"), Decimal("0.004"))
    again.settle(Amount(Decimal("0.001"), 20))
    for level in (run, stage):
        assert (level.spent.usd, level.reserved.usd, level.spent.calls) == (Decimal("0.005"), 0, 2)


async def test_a_level_without_an_earlier_session_reserves_anew() -> None:
    shared = Budget(Limits(usd=Decimal("0.010")))
    run = Budget(parent=shared)
    run.resume(Amount(Decimal("0.004"), 50, 1))
    again = run.reclaim(Amount(Decimal("0.004"), 50))
    assert (shared.spent.usd, shared.reserved.usd) == (0, Decimal("0.004"))
    again.refund()
    assert (shared.reserved.usd, run.spent.usd) == (0, 0)


async def test_a_reservation_waits_through_a_pause() -> None:
    clock = RunClock()
    run = Budget(Limits(calls=1, seconds=0.1), clock=clock)
    first = await run.reserve(Amount(None, 1))
    waiting = asyncio.ensure_future(run.reserve(Amount(None, 1)))
    with clock.paused():
        await asyncio.sleep(0.25)
        assert not waiting.done()
    first.refund()
    (await waiting).refund()


async def test_a_reservation_is_refused_once_the_clock_has_run_out() -> None:
    run = Budget(Limits(calls=1, seconds=0.05), clock=RunClock())
    first = await run.reserve(Amount(None, 1))
    with pytest.raises(BudgetError, match="no time is left"):
        await run.reserve(Amount(None, 1))
    first.refund()


def test_the_clock_is_that_of_its_loop() -> None:
    async def hour() -> float:
        clock = RunClock()
        begun = clock()
        await asyncio.sleep(3600)
        return clock() - begun

    assert in_virtual_time(hour) == 3600
