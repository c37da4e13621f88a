"""The CPU cost of budgets, their queue and the wrappers around a model, and a test that no cap is ever passed.

python -m benchmarks.perf.budget [--trials 200]
"""

import argparse
import asyncio
import time
from decimal import Decimal
from random import Random

from benchmarks.perf.figures import machine
from fusion.core import budget
from fusion.core.budget import Amount, Budget, Reservation
from fusion.core.errors import BudgetError
from fusion.core.types import Limits, Message, Request
from fusion.models.base import Model
from fusion.models.providers.scripted import ScriptedModel
from fusion.models.wrappers.budget import Metered
from fusion.models.wrappers.limit import Limited
from fusion.models.wrappers.retry import Retrying

AMPLE = Limits(usd=Decimal(10**6), tokens=10**12, calls=10**9)
WORST, ACTUAL = Amount(Decimal("0.0213"), 3000), Amount(Decimal("0.0041"), 900)


async def uncontended(levels: int, times: int = 20_000) -> float:
    """Return microseconds of CPU for one reserve and settle without contention."""
    leaf = Budget(AMPLE)
    for _ in range(levels - 1):
        leaf = leaf.child(AMPLE)
    started = time.process_time()
    for _ in range(times):
        reservation = await leaf.reserve(WORST)
        reservation.settle(ACTUAL)
    return (time.process_time() - started) / times * 1e6


async def contended(waiters: int, *, at_stage: bool) -> float:
    """Return microseconds of CPU for a caller, including its task, if only ten of `waiters` fit at once."""
    narrow = Limits(usd=10 * WORST.usd + waiters) if WORST.usd else Limits()
    run = Budget(AMPLE if at_stage else narrow)
    stage = run.child(narrow if at_stage else AMPLE)
    (await stage.reserve(Amount(Decimal(waiters), 0))).charge()

    async def caller() -> None:
        reservation = await stage.reserve(WORST)
        await asyncio.sleep(0)
        reservation.refund()

    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(waiters):
            group.create_task(caller())
    return (time.process_time() - started) / waiters * 1e6


async def wrapped(times: int = 5000) -> dict[str, float]:
    """Return microseconds of CPU for a call through more and more wrappers."""
    scripted = ScriptedModel("A short answer.")
    limited = Limited(scripted, concurrency=16)
    metered = Metered(limited)
    models: dict[str, Model] = {
        "scripted": scripted,
        "limited > scripted": limited,
        "metered > limited > scripted": metered,
        "retrying > metered > limited > scripted": Retrying(metered),
    }
    asked = Request(messages=(Message(role="user", content="A question. " * 40),), max_tokens=500)
    budget.current.set(Budget(AMPLE).child(AMPLE))
    figures = {}
    for name, model in models.items():
        started = time.process_time()
        for _ in range(times):
            await model.complete(asked)
        figures[name] = (time.process_time() - started) / times * 1e6
    return figures


class Storm:
    """Runs callers on one tree with random costs, retries and cancellations.

    `highest` is the largest share of the cap that was spent and reserved at any time.
    """

    def __init__(self, seed: int, callers: int) -> None:
        self.random = Random(seed)
        self.callers = callers
        self.run = Budget(Limits(usd=Decimal(callers) / 8))
        self.stages = [self.run.child(limits) for limits in (Limits(usd=Decimal(callers) / 40), Limits(), Limits())]
        self.highest = Decimal(0)
        self.done = self.refused = 0

    def look(self) -> None:
        spent, reserved, cap = self.run.spent.usd, self.run.reserved.usd, self.run.limits.usd
        assert spent is not None
        assert reserved is not None
        assert cap is not None
        self.highest = max(self.highest, (spent + reserved) / cap)

    async def caller(self) -> None:
        stage = self.random.choice(self.stages)
        try:
            for _ in range(self.random.randint(1, 3)):
                worst = Amount(Decimal(self.random.randint(1, 999)) / 1000, 100)
                reservation = await stage.reserve(worst)
                await self.attempt(reservation)
        except BudgetError:
            self.refused += 1
        else:
            self.done += 1

    async def attempt(self, reservation: Reservation) -> None:
        try:
            self.look()
            await asyncio.sleep(0)
            if self.random.random() < 0.6 and reservation.amount.usd:
                reservation.settle(Amount(reservation.amount.usd * self.random.randint(0, 100) / 100, 50))
        finally:
            reservation.refund()
            self.look()

    async def blow(self) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.caller()) for _ in range(self.callers)]
            for _ in range(5):
                await asyncio.sleep(0)
                for task in self.random.choices(tasks, k=self.callers // 50):
                    task.cancel()


def storms(trials: int, callers: int) -> str:
    started = time.process_time()
    highest, left, done, refused = Decimal(0), Decimal(0), 0, 0
    for seed in range(trials):
        storm = Storm(seed, callers)
        asyncio.run(storm.blow())
        highest = max(highest, storm.highest)
        left += storm.run.reserved.usd or 0
        done += storm.done
        refused += storm.refused
    seconds = time.process_time() - started
    return (
        f"{trials} trials of {callers} callers: at most {highest:.4f} of the cap, {left:f} left reserved,"
        f" {done} done, {refused} refused, {trials * callers - done - refused} cancelled, {seconds:.1f} s CPU"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    print(machine())
    for levels in (1, 2, 3):
        best = min(asyncio.run(uncontended(levels)) for _ in range(3))
        print(f"reserve + settle, {levels} level(s), uncontended: {best:.1f} us")
    for at_stage in (False, True):
        for waiters in (100, 1000, 10_000):
            best = min(asyncio.run(contended(waiters, at_stage=at_stage)) for _ in range(2))
            print(f"{waiters:>6} waiters at the {'stage' if at_stage else 'run'}: {best:.1f} us per caller")
    for name, figure in asyncio.run(wrapped()).items():
        print(f"{name}: {figure:.1f} us per call")
    print(storms(trials, 1000))


if __name__ == "__main__":
    main()
