"""Leased levels: many processes on one account never pass its cap, and lose none of it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

import pytest

from fusion.core.budget import Account, Amount, Bid, Budget, Caps, Leased, Standing, account_at, essential
from fusion.core.budget.accounts import NO_AMOUNT
from fusion.core.errors import BudgetError, StoreError
from fusion.core.types import Limits, Per


def usd(amount: str, tokens: int = 0, calls: int = 1) -> Amount:
    return Amount(Decimal(amount), tokens, calls)


class Bank:
    """An account in memory, for several holders; its sum never passes the caps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.spent: dict[str, dict[int, Amount]] = {}
        self.open: dict[str, dict[int, Amount]] = {}
        self.exchanges = 0
        self.excess = False
        self.settled: list[str] = []
        self.dead: set[int] = set()
        self.error: StoreError | None = None
        self.held: threading.Event | None = None

    def total(self, period: str = "") -> Amount:
        return sum_of(self.spent.get(period, {}).values()).plus(sum_of(self.open.get(period, {}).values()))

    def exchange(self, holder: int, account: Account, bid: Bid) -> Standing:
        if self.held is not None:
            assert self.held.wait(5)
        with self.lock:
            if self.error is not None:
                raise self.error
            self.exchanges += 1
            spent = self.spent.setdefault(account.period, {})
            opened = self.open.setdefault(account.period, {})
            new = bid.spent.minus(spent.get(holder, NO_AMOUNT))
            spent[holder] = bid.spent
            others = sum_of(one for number, one in opened.items() if number != holder)
            used = sum_of(spent.values()).plus(others)
            room = [None if cap is None else cap - one for cap, one in zip(account.caps, used, strict=True)]
            granted = all(one is None or one >= least for one, least in zip(room, bid.least, strict=True))
            if granted:
                pairs = zip(room, bid.most, strict=True)
                opened[holder] = Amount(*(most if one is None else min(one, most) for one, most in pairs))  # type: ignore[type-var, arg-type]
            else:
                opened[holder] = opened.get(holder, NO_AMOUNT).minus(new).at_most(bid.kept).at_least(NO_AMOUNT)
            if bid.last:
                opened.pop(holder)
            if not self.excess:
                total = self.total(account.period)
                assert all(cap is None or one <= cap for one, cap in zip(total, account.caps, strict=True))
            mine = opened.get(holder, NO_AMOUNT)
            return Standing(granted, mine, sum_of(spent.values()), others.plus(mine))


class Teller:
    """One holder's access to a bank."""

    def __init__(self, bank: Bank, holder: int) -> None:
        self.bank = bank
        self.holder = holder
        self.closed = False

    def exchange(self, account: Account, bid: Bid) -> Standing:
        return self.bank.exchange(self.holder, account, bid)

    def settle(self, account: Account) -> None:
        self.bank.settled.append(account.period)
        for holder in self.bank.dead:
            self.bank.open[account.period].pop(holder, None)

    def draw(self, account: str, run_id: str, session: int, *, kept: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


def sum_of(amounts: Any) -> Amount:
    total = NO_AMOUNT
    for one in amounts:
        total = total.plus(one)
    return total


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def bank() -> Bank:
    return Bank()


Make = Callable[..., Leased]


@pytest.fixture
def make(executor: Executor, bank: Bank) -> Make:
    def make(limits: Limits, holder: int = 0, *, per: Per = "store", parent: Budget | None = None) -> Leased:
        calendar = partial(account_at, "nightly", Caps.of(limits), per)
        name = "budgets.nightly"
        return Leased(
            limits, Teller(bank, holder), calendar, executor, name=name, parent=parent, declared_in="fusion.toml"
        )

    return make


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await main

    asyncio.run(bounded())


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds; `run` bounds the time."""
    while not condition():
        await asyncio.sleep(0.002)


DOLLAR = Limits(usd=Decimal(1))


def test_a_block_pays_for_many_attempts(make: Make, bank: Bank) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        child = level.child()
        for _ in range(10):
            (await child.reserve(usd("0.001"))).settle(usd("0.001"))
        assert bank.exchanges == 1
        assert level.standing is not None
        assert level.standing.open == Amount(Decimal("0.01"), 0, 1)
        (await child.reserve(usd("0.001"))).settle(usd("0.001"))
        assert bank.exchanges == 2
        await level.close()
        assert bank.total() == usd("0.011", calls=11)
        assert bank.open[""] == {}

    run(main())


@pytest.mark.parametrize(
    ("limits", "need", "opened"),
    [
        pytest.param(DOLLAR, usd("0.001"), usd("0.01"), id="a hundredth"),
        pytest.param(DOLLAR, usd("0.4"), usd("0.4"), id="one worst case"),
        pytest.param(DOLLAR, usd("1"), usd("1"), id="all of it"),
        pytest.param(Limits(tokens=5000), usd("1", 7), Amount(Decimal(1), 50, 1), id="tokens"),
        pytest.param(Limits(calls=50), usd("1", 7), usd("1", 7), id="calls, fewer than a hundred"),
        pytest.param(Limits(calls=900), usd("1", 7), Amount(Decimal(1), 7, 9), id="calls"),
    ],
)
def test_a_lease_is_a_block_or_one_worst_case(make: Make, limits: Limits, need: Amount, opened: Amount) -> None:
    async def main() -> None:
        level = make(limits)
        await level.reserve(need)
        assert level.standing is not None
        assert level.standing.open == opened

    run(main())


@pytest.mark.parametrize("settled", [0, 1, 5])
def test_a_busy_level_gives_back_what_it_does_not_spend_soon(
    make: Make, bank: Bank, monkeypatch: pytest.MonkeyPatch, settled: int
) -> None:
    monkeypatch.setattr("fusion.core.budget.leased._IDLE", 0.01)
    monkeypatch.setattr("fusion.core.budget.leased._REPORTS", 3)

    async def main() -> None:
        level = make(DOLLAR)
        long = await level.reserve(usd("0.0001"))
        for _ in range(settled):
            (await level.reserve(usd("0.0001"))).settle(usd("0.0001"))
        assert level.standing is not None
        assert level.standing.open.usd == Decimal("0.01")
        await wait_until(lambda: level.standing is not None and (level.standing.open.usd or 0) <= Decimal("0.0015"))
        assert (bank.total().usd or 0) >= long.amount.usd
        many = await asyncio.gather(*(level.reserve(usd("0.0001")) for _ in range(50)))
        for one in (long, *many):
            one.settle(usd("0.0001"))
        await level.close()
        assert bank.total() == usd(str(Decimal("0.0001") * (51 + settled)), calls=51 + settled)

    run(main())


@pytest.mark.parametrize(
    ("limits", "part", "limit", "says"),
    [
        pytest.param(
            DOLLAR, usd("0.3"), "usd", r"limit \$1\.00, spent \$0\.90 in all, needed up to \$0\.30", id="usd"
        ),
        pytest.param(Limits(tokens=100), usd("9", 30), "tokens", "limit 100, spent 90 in all, needed", id="tokens"),
        pytest.param(Limits(calls=3), usd("9"), "calls", "limit 3, spent 3 in all, needed up to 1", id="calls"),
    ],
)
def test_the_account_refuses_what_it_has_no_room_for(
    make: Make, limits: Limits, part: Amount, limit: str, says: str
) -> None:
    async def main() -> None:
        level = make(limits)
        for _ in range(3):
            (await level.child().reserve(part)).charge()
        with pytest.raises(BudgetError, match=says) as caught:
            await level.child().reserve(part, "a call")
        assert (caught.value.limit, caught.value.level) == (limit, "budgets.nightly")
        assert "raise `budgets.nightly" in str(caught.value)
        assert not level.has_room(part)
        with pytest.raises(BudgetError):
            await level.reserve(part)
        assert level.reserved == NO_AMOUNT

    run(main())


def test_own_attempts_in_the_way_are_waited_for(make: Make) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        first = await level.reserve(usd("0.9"))
        waiting = asyncio.ensure_future(level.child().reserve(usd("0.6")))
        small = asyncio.ensure_future(level.child().reserve(usd("0.01")))
        refused = asyncio.ensure_future(level.child().reserve(usd("1.1")))
        with pytest.raises(BudgetError):
            await refused
        await asyncio.sleep(0.02)
        assert not waiting.done()
        first.settle(usd("0.2"))
        (await waiting).charge()
        (await small).charge()
        assert level.spent == usd("0.81", calls=3)

    run(main())


def test_leases_of_others_in_the_way_are_waited_for(make: Make, bank: Bank) -> None:
    async def main() -> None:
        one, other = make(DOLLAR, 1), make(DOLLAR, 2)
        held = await one.reserve(usd("0.9"))
        waiting = asyncio.ensure_future(other.reserve(usd("0.5")))
        await wait_until(lambda: bool(bank.settled))
        assert not waiting.done()
        held.settle(usd("0.1"))
        await one.close()
        (await waiting).charge()
        with pytest.raises(BudgetError, match=r"spent \$0\.60 in all"):
            await other.reserve(usd("0.5"))

    run(main())


def test_a_dead_holder_in_the_way_is_settled(make: Make, bank: Bank) -> None:
    async def main() -> None:
        await make(DOLLAR, 1).reserve(usd("0.9"))
        bank.dead.add(1)
        (await make(DOLLAR, 2).reserve(usd("0.5"))).charge()
        assert bank.settled == [""]

    run(main())


def test_the_rest_comes_back_when_idle(make: Make, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.core.budget.leased._IDLE", 0.01)

    async def main() -> None:
        level = make(DOLLAR)
        held = await level.reserve(usd("0.2"))
        await asyncio.sleep(0.05)
        assert bank.open[""][0].usd == Decimal("0.2")
        held.settle(usd("0.1"))
        await wait_until(lambda: bank.open[""][0] == NO_AMOUNT)
        assert bank.total() == usd("0.1")
        exchanges = bank.exchanges
        await asyncio.sleep(0.05)
        assert bank.exchanges == exchanges
        (await level.reserve(usd("0.9"))).charge()

    run(main())


def test_more_than_the_reservation_counts_in_full(make: Make, bank: Bank) -> None:
    bank.excess = True

    async def main() -> None:
        level = make(DOLLAR)
        (await level.reserve(usd("0.5"))).settle(usd("1.5"))
        with pytest.raises(BudgetError, match=r"spent \$1\.50 in all"):
            await level.reserve(usd("0.1"))
        level.count(usd("0.25"))
        await level.close()
        assert bank.total() == usd("1.75", calls=2)

    run(main())


def test_a_store_that_fails_ends_what_waits(make: Make, bank: Bank) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        bank.error = StoreError("the disk is full")
        waiting = [asyncio.ensure_future(level.child().reserve(usd("0.1"))) for _ in range(3)]
        for one in waiting:
            with pytest.raises(StoreError, match="the disk is full"):
                await one
        bank.error = None
        (await level.reserve(usd("0.1"))).charge()

    run(main())


def test_a_waiter_that_is_cancelled_leaves_the_line(make: Make, bank: Bank) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        bank.held = threading.Event()
        waiting = [asyncio.ensure_future(level.child().reserve(usd("0.3"))) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        bank.held.set()
        (await waiting[1]).refund()
        assert level.reserved == NO_AMOUNT

    run(main())


def test_an_essential_call_borrows_from_what_the_account_holds_for_others(make: Make) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        await level.lease_ahead(usd("0.8"))
        hold = level.hold(usd("0.8"))
        with pytest.raises(BudgetError, match=r"kept for others \$0\.80"):
            await level.child().reserve(usd("0.5"))
        essential.set(True)
        held = await level.child().reserve(usd("0.5"))
        held.settle(usd("0.1"))
        (await hold.reserve(usd("0.8"))).charge()
        assert level.spent == usd("0.9", calls=2)
        hold.release()
        assert level.reserved == NO_AMOUNT

    run(main())


def test_what_does_not_fit_is_not_held_back(make: Make) -> None:
    async def main() -> None:
        level = make(DOLLAR)
        await level.lease_ahead(usd("1.2"))
        with pytest.raises(BudgetError):
            level.hold(usd("1.2"))
        assert level.reserved == NO_AMOUNT

    run(main())


def test_unknown_prices_are_refused_under_a_cap_in_dollars(make: Make) -> None:
    async def main() -> None:
        with pytest.raises(BudgetError, match="the price of this call is not known"):
            await make(DOLLAR).child().reserve(Amount(None, 10))
        (await make(Limits(tokens=100)).child().reserve(Amount(None, 10))).charge()

    run(main())


def test_two_accounts_both_hold(make: Make) -> None:
    async def main() -> None:
        above = make(Limits(calls=3), 1, per="month")
        level = make(DOLLAR, 2, parent=above).child(Limits(seconds=60.0))
        for _ in range(2):
            (await level.reserve(usd("0.4"))).charge()
        with pytest.raises(BudgetError, match="the usd limit"):
            await level.reserve(usd("0.4"))
        (await level.reserve(usd("0.1"))).charge()
        with pytest.raises(BudgetError, match="the calls limit"):
            await level.reserve(usd("0.1"))

    run(main())


def test_a_joined_attempt_stays_counted_where_it_was(make: Make, bank: Bank) -> None:
    bank.excess = True

    async def main() -> None:
        level = make(DOLLAR)
        stage = level.child(DOLLAR)
        (await stage.reserve(usd("0.9"))).charge()
        for actual in (usd("0.05"), usd("0.4"), None):
            joined = stage.reclaim(usd("0.3"))
            assert level.reserved == NO_AMOUNT
            joined.refund() if actual is None else joined.settle(actual)
        assert (level.spent.usd, level.reserved) == (Decimal("1.0"), NO_AMOUNT)
        assert stage.reserved == NO_AMOUNT

    run(main())


# Periods.


class Clock:
    """The wall clock of leased levels."""

    def __init__(self, patch: pytest.MonkeyPatch, *at: int) -> None:
        self.now = datetime(*at, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]
        patch.setattr("fusion.core.budget.leased.time.time", lambda: self.now)


@pytest.mark.parametrize(
    ("per", "at", "label", "begins", "ends"),
    [
        ("day", (2026, 11, 30, 23, 59, 59), "2026-11-30", (2026, 11, 30), (2026, 12, 1)),
        ("day", (2026, 12, 31), "2026-12-31", (2026, 12, 31), (2027, 1, 1)),
        ("week", (2026, 11, 30), "2026-W49", (2026, 11, 30), (2026, 12, 7)),
        ("week", (2027, 1, 3, 23), "2026-W53", (2026, 12, 28), (2027, 1, 4)),
        ("month", (2026, 12, 31, 23, 59), "2026-12", (2026, 12, 1), (2027, 1, 1)),
        ("month", (2028, 2, 29), "2028-02", (2028, 2, 1), (2028, 3, 1)),
    ],
)
def test_periods_are_those_of_the_calendar(
    per: Per, at: tuple[int, ...], label: str, begins: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    def stamp(given: tuple[int, ...]) -> float:
        return datetime(*given, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]

    account = account_at("nightly", Caps(), per, stamp(at))
    assert account == Account("nightly", Caps(), label, stamp(begins), stamp(ends))


def test_attempts_count_in_the_period_where_they_were_reserved(
    make: Make, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, 2026, 11, 30, 23, 59, 59)

    async def main() -> None:
        level = make(DOLLAR, per="day")
        run = level.child()
        (await run.reserve(usd("0.2"))).charge()
        late, refunded = await run.reserve(usd("0.5")), await run.reserve(usd("0.3"))
        with pytest.raises(BudgetError, match=r"on 2026-11-30 \(UTC\).*it opens again at 2026-12-01 00:00 UTC"):
            await run.reserve(usd("1.1"))
        clock.now += 1
        (await run.reserve(usd("0.1"))).settle(usd("0.05"))
        assert level.account.period == "2026-12-01"
        refunded.refund()
        late.settle(usd("0.4"))
        await wait_until(lambda: bank.open["2026-11-30"] == {})
        assert bank.total("2026-11-30") == usd("0.6", calls=2)
        await level.close()
        assert bank.total("2026-12-01") == usd("0.05", calls=1)
        assert level.spent == usd("0.05")
        assert run.spent == usd("0.65", calls=3)
        assert level.reserved == NO_AMOUNT

    run(main())


def test_a_call_that_waits_goes_on_in_the_next_period(
    make: Make, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, 2026, 11, 30, 23)

    async def main() -> None:
        one, other = make(DOLLAR, 1, per="day"), make(DOLLAR, 2, per="day")
        await one.reserve(usd("0.9"))
        waiting = asyncio.ensure_future(other.child().reserve(usd("0.5")))
        await wait_until(lambda: bool(bank.settled))
        clock.now += 3600
        (await waiting).charge()
        await other.close()
        assert bank.total("2026-12-01") == usd("0.5")

    run(main())


# Many at once.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limits", [DOLLAR, Limits(tokens=2000), Limits(usd=Decimal(2), calls=150)])
def test_many_processes_never_pass_the_cap_and_leave_little_of_it(
    make: Make, bank: Bank, seed: int, limits: Limits
) -> None:
    refusals = 0

    async def caller(budget: Budget, random: Random) -> None:
        nonlocal refusals
        for _ in range(8):
            worst = Amount(Decimal(random.randint(1, 60)) / 1000, random.randint(1, 60))
            try:
                held = await budget.reserve(worst)
            except BudgetError:
                refusals += 1
                return
            await asyncio.sleep(random.choice((0, 0, 0.001)))
            assert worst.usd is not None
            actual = Amount(worst.usd * random.randint(1, 10) / 10, random.randint(1, worst.tokens))
            random.choice((held.charge, held.refund, partial(held.settle, actual), partial(held.settle, actual)))()

    def process(number: int) -> Amount:
        """One process: a loop of its own, with a few runs."""

        async def main() -> Amount:
            level = make(limits, number)
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                for one in range(25):
                    stage = level.child(Limits(calls=20)).child()
                    group.create_task(caller(stage, Random(f"{seed} {number} {one}")))
            assert level.reserved == NO_AMOUNT
            await level.close()
            return level.spent

        return asyncio.run(main())

    with ThreadPoolExecutor(4) as pool:
        spent = sum_of(pool.map(process, range(4)))
    assert bank.open[""] == {}
    assert bank.total() == spent
    caps = [(one, cap) for one, cap in zip(spent, Caps.of(limits), strict=True) if cap is not None]
    assert all(one <= cap for one, cap in caps)
    assert refusals
    assert max(one / cap for one, cap in caps) > Decimal("0.9")  # type: ignore[operator, type-var]
