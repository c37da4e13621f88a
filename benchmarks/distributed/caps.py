"""Caps: processes on one account and one rate, some of them killed: neither is ever passed.

Each process makes calls of random cost, 32 at once, each with its attempt in the journal, as a run does. Two of them
are killed with -9 in between and start again. The journal tells the truth: no sum of attempts may be above the cap,
and no window of time may hold more calls than the rate allows.

    python -m benchmarks.distributed.caps [--store sqlite|postgres] [--trials 20] [--calls 10000] [--processes 4]
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.perf.figures import machine, spread
from fusion.core.budget import Amount, Budget, Caps, Leased, account_at
from fusion.core.errors import BudgetError
from fusion.core.types import Limits, Message, Request
from fusion.models.pace import Gate
from fusion.store.accounts import StoreLender, settle_dead
from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.rows import Attempt, AttemptEnd, RunFilter, SessionStart, Started

NAME: Final = "caps"
_AT_ONCE: Final = 32
_CALL: Final = Request(messages=(Message(role="user", content="x"),), max_tokens=10)
_MEAN: Final = Decimal("0.005")
_SHARE: Final = Decimal("0.6")
"""Share of the calls that the cap pays for."""


class Trial(NamedTuple):
    """A trial: cap, spent by the journal, counted and leased by the account, calls, and the most of the rate."""

    cap: Decimal
    true: Decimal
    counted: Decimal
    leased: Decimal
    calls: int
    rate: float

    @property
    def holds(self) -> bool:
        """True if nothing was passed."""
        return self.true <= self.counted + self.leased <= self.cap and self.rate <= 1


async def spend(store: Store, run_id: str, calls: int, cap: Decimal, rpm: float) -> None:
    """Make calls on the account until it refuses them, each within the rate and in the journal."""
    dice, numbers, now = random.Random(run_id), iter(range(1, calls + 1)), time.time()
    limits = Limits(usd=cap)
    calendar = partial(account_at, NAME, Caps.of(limits), "store")
    gate = Gate(rpm=rpm, rates=lambda unit, seconds: store.accounts.book(f"{NAME} {unit}", seconds))
    started = Started(run_id, None, run_id, "caps", "none", now, {}, "off", run_id, None)
    store.put(started, SessionStart(run_id, 1, now))
    with ThreadPoolExecutor(1) as thread:
        level = Leased(limits, StoreLender(store), calendar, thread, name=NAME)
        level.draw(run_id, 1, kept=True)

        async def work(budget: Budget) -> None:
            for number in numbers:
                worst = _MEAN * dice.randint(2, 40) / 10
                try:
                    held = await budget.reserve(Amount(worst, 100))
                except BudgetError:
                    return
                ticket = await gate.enter(_CALL)
                at = time.time()
                store.put(Attempt(run_id, 1, number, "s", None, "w", "r", "m", at, worst, 100))
                await store.written()
                actual = worst * dice.randint(1, 10) / 10
                held.settle(Amount(actual, 50))
                store.put(AttemptEnd(run_id, 1, number, "settled", at, actual, 50))
                gate.leave(ticket)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work(level.child()))
        await level.close()


def trial(
    place: str, seed: int, *, calls: int, processes: int, rpm: float, kills: tuple[float, float] = (1, 4)
) -> Trial:
    """Run processes on a new store, kill two of them at random times, and start others in their place.

    `kills` are the least and the most seconds before each kill. Raises SystemExit if a process fails.
    """
    dice, cap = random.Random(seed), _MEAN * calls * _SHARE
    open_store(place).close()

    def start(name: str, share: int) -> "subprocess.Popen[bytes]":
        words = ("--spend", f"{seed}-{name}", str(share), str(cap), str(rpm), place)
        return subprocess.Popen([sys.executable, "-m", "benchmarks.distributed.caps", *words])

    share = calls // processes
    running = [start(f"p{number}", share) for number in range(processes)]
    for number in range(2):
        time.sleep(dice.uniform(*kills))
        victim = running[number]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        running.append(start(f"again{number}", share // 2))
    if codes := {process.wait() for process in running} - {0, -signal.SIGKILL}:
        raise SystemExit(f"processes of trial {seed} ended with {codes}")
    return _read(place, cap, rpm)


def _read(place: str, cap: Decimal, rpm: float) -> Trial:
    with closing(open_store(place)) as store:
        attempts = [pair for run in store.runs(RunFilter()) for pair in store.attempts(run.run_id)]
        costs = [(one if end is None else end).usd or Decimal(0) for one, end in attempts]
        true = sum(costs, Decimal(0))
        settle_dead(store, NAME)
        row = store.accounts.rows(NAME)[0]
        times = sorted(one.opened for one, _ in attempts)
    return Trial(cap, true, row.spent.usd or Decimal(0), row.leased.usd or Decimal(0), len(times), _most(times, rpm))


def _most(times: list[float], rpm: float, window: float = 2.0) -> float:
    """Return the most calls in a window of time, over those that the rate allows, with one more at its edge."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most / (window * rpm / 60 + 1)


def level_cost(calls: int = 20_000) -> tuple[float, float]:
    """Return the CPU seconds of a reservation and its end on a plain level, and on a leased one."""

    async def measure(budget: Budget) -> float:
        part, begun = Amount(Decimal("0.0001"), 10), time.process_time()
        for _ in range(calls):
            (await budget.reserve(part)).settle(part)
        return (time.process_time() - begun) / calls

    async def both() -> tuple[float, float]:
        limits = Limits(usd=Decimal(10 * calls))
        plain = await measure(Budget(limits).child())
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(open_store(f"{folder}/s.db")) as store,
            ThreadPoolExecutor(1) as thread,
        ):
            calendar = partial(account_at, NAME, Caps.of(limits), "day")
            level = Leased(limits, StoreLender(store), calendar, thread, name=NAME)
            leased = await measure(level.child())
            await level.close()
        return plain, leased

    return asyncio.run(both())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rpm", type=float, default=60_000)
    parser.add_argument("--spend", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.spend is not None:
        run_id, calls, cap, rpm, place = given.spend
        with closing(open_store(place)) as store:
            asyncio.run(spend(store, run_id, int(calls), Decimal(cap), float(rpm)))
        return
    print(machine())
    costs = [level_cost() for _ in range(5)]
    print("CPU us a reservation, plain ", spread([1e6 * one for one, _ in costs], ".1f"))
    print("CPU us a reservation, leased", spread([1e6 * one for _, one in costs], ".1f"))
    with ExitStack() as stack:
        place = places(given.store, stack)
        for seed in range(given.trials):
            one = trial(place(seed), seed, calls=given.calls, processes=given.processes, rpm=given.rpm)
            print(
                f"{seed:2} {'holds' if one.holds else 'PASSED'}: cap {one.cap} true {one.true:.4f}"
                f" counted {one.counted:.4f} leased {one.leased:.4f} calls {one.calls} rate {one.rate:.3f}",
                flush=True,
            )
    print(machine())


def places(kind: str, stack: ExitStack) -> Callable[[int], str]:
    """Return a new store of this kind for each trial, which the stack removes."""
    if kind == "sqlite":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return lambda seed: str(folder / f"{seed}.db")
    import psycopg

    from benchmarks.distributed.cluster import cluster

    made = stack.enter_context(cluster())

    def place(seed: int) -> str:
        with psycopg.connect(made.url(), autocommit=True) as connection:
            connection.execute(f"create database trial{seed}")
        return made.url(f"trial{seed}")

    return place


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
