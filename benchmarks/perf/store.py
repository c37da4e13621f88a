"""The cost of keeping a run: rows a second, CPU and wall time per call, and the response time of a large store.

Each measurement of a call's cost has a process of its own, and a twin on a store that keeps nothing. A call is two
waits for the disk: its attempt before it is sent, and its end; a put is one wait for one row. With `--postgres`, the
store is a database, whose schema `fusion` is emptied: that of a URL, or of a server that is started for it.

    python -m benchmarks.perf.store [--repeat 5] [--calls 100000] [--postgres [URL]]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.distributed.cluster import cluster
from benchmarks.perf.figures import machine, spread
from fusion.core.types import CallKey, Message, Reply, Request, Usage
from fusion.store.base import Store
from fusion.store.encoding import as_json
from fusion.store.open import open_store
from fusion.store.rows import Attempt, AttemptEnd, Call, Noticed, Row, RunFilter, SessionStart, Started

SYSTEM = "You do one piece of work and answer with the result only. " * 20
ANSWER = "The billing system is moved in four steps, of which the second one takes the longest by far. " * 12
CONTEXT = "A document of a hundred kilobytes, which every call of the run reads. " * 1400
EVENTS = 20
PUTS = "#puts"
"""End of the name of a store of which single rows are measured."""
NOTED = as_json({"type": "noted", "message": "x" * 80})


class Cost(NamedTuple):
    """Milliseconds per call."""

    wall: float
    cpu: float


# What a run puts.


def started(run_id: str, at: float = 0.0) -> tuple[Row, ...]:
    about = Started(run_id, None, run_id, "plan", "mixed", at, {"team": "a"}, "full", "f", '{"inputs":{"task":"x"}}')
    return about, SessionStart(run_id, 1, at)


def opened(run_id: str, number: int) -> Attempt:
    price = Decimal("0.0123")
    return Attempt(run_id, 1, number, "work", number, "work", "bulk", "openai/one", 1.0 + number, price, 3000)


def finished(run_id: str, number: int, context: str = "") -> tuple[AttemptEnd, Call]:
    price = Decimal("0.0001") * (number % 97)
    usage = Usage(input=700, cached_read=500, output=200, reasoning=20)
    reply = Reply(
        text=f"{number} {ANSWER}",
        finish_reason="stop",
        usage=usage,
        asked="openai/one",
        served="one-2026",
        cost=price,
        latency=1.5,
        first_token=0.2,
    )
    messages = (
        Message(role="system", content=SYSTEM),
        Message(role="user", content=f"Part {number}: export, mapping, dry runs, and who signs for what. " * 10),
    )
    if context:
        messages = (Message(role="user", content=context), *messages)
    request = Request(messages=messages, max_tokens=2000, temperature=0.2)
    key = CallKey(stage="work", item=number, step="work", digest=f"{number:064x}")
    at = 2.0 + number
    return (
        AttemptEnd(run_id, 1, number, "settled", at, price, 900),
        Call(run_id, number, key, "bulk", "openai/one", "finished", at - 1, at, request, reply),
    )


class Nothing:
    """A store that keeps nothing, at no cost."""

    def put(self, *rows: Row) -> None: ...

    async def written(self) -> None:
        await asyncio.sleep(0)


# The cost of a call.


async def cost_of(work: Callable[[], Coroutine[Any, Any, None]], count: int, width: int) -> Cost:
    """Return what one of `count` writes costs, made by `width` tasks that do this work."""
    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(work())
    return Cost((time.perf_counter() - wall) / count * 1000, (time.process_time() - cpu) / count * 1000)


async def calls(store: Store | Nothing, count: int, width: int, context: str) -> Cost:
    """Write and await the rows of a run, `width` calls at once."""
    store.put(*started("r1"))
    await store.written()
    numbers = iter(range(1, count + 1))

    async def work() -> None:
        for number in numbers:
            store.put(opened("r1", number))
            await store.written()
            store.put(*finished("r1", number, context))
            await store.written()

    return await cost_of(work, count, width)


async def puts(store: Store | Nothing, count: int, width: int) -> Cost:
    """Write and await one row at a time, `width` tasks at once."""
    store.put(*started("r1"))
    await store.written()
    numbers = iter(range(1, count + 1))

    async def work() -> None:
        for number in numbers:
            store.put(finished("r1", number)[1])
            await store.written()

    return await cost_of(work, count, width)


def one_cost(kind: str, count: int, width: int, context: str) -> Cost:
    """Measure a kind of store in this process, without the time to create it."""
    if kind == "nothing":
        return asyncio.run(calls(Nothing(), count, width, context))
    if kind.startswith("postgresql://"):
        store = open_store(kind.removesuffix(PUTS))
        asyncio.run(calls(store, 50, width, context))
        store.remove(["r1"])
        cost = asyncio.run(puts(store, count, width) if kind.endswith(PUTS) else calls(store, count, width, context))
        store.remove(["r1"])
        store.close()
        return cost
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "runs.db", synchronous="FULL" if kind == "full" else "NORMAL")
        asyncio.run(calls(store, 50, width, context))
        store.remove(["r1"])
        cost = asyncio.run(calls(store, count, width, context))
        store.close()
        return cost


def added(kind: str, count: int, width: int, context: bool = False) -> Cost:
    """Return the cost of a call on a store, minus that on a store that keeps nothing."""
    with_store, without = (_apart(one, count, width, context) for one in (kind, "nothing"))
    return Cost(with_store.wall - without.wall, with_store.cpu - without.cpu)


def _apart(kind: str, count: int, width: int, context: bool) -> Cost:
    words = [sys.executable, "-m", "benchmarks.perf.store", "--one", kind, str(count), str(width), str(int(context))]
    return Cost(*json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))


# A large store.


def fill(store: Store, runs: int, calls_each: int) -> float:
    """Return seconds to write this many runs as fast as possible."""
    begun = time.perf_counter()
    for n in range(runs):
        run_id = f"run-{n:05}"
        store.put(*started(run_id, float(n)))
        for number in range(1, calls_each + 1):
            store.put(opened(run_id, number), *finished(run_id, number))
            if number % 5000 == 0:
                store.flush()
        store.put(*(Noticed(run_id, number, NOTED) for number in range(1, EVENTS)))
        store.flush()
    return time.perf_counter() - begun


@dataclass
class Answers:
    """Return seconds of a function."""

    listed: float
    shown: float
    parts: dict[str, float]


def answers(store: Store, run_id: str) -> Answers:
    """Return the times to list runs and to show one."""
    begun = time.perf_counter()
    assert len(store.runs(RunFilter(), limit=20)) >= 1
    listed = time.perf_counter() - begun
    parts: dict[str, float] = {}
    for name, read in {
        "run": store.run,
        "lines": store.lines,
        "index": lambda one: list(store.index(one)),
        "events": store.events,
        "spending": store.spending,
        "calls": lambda one: list(store.calls(one)),
        "attempts": lambda one: list(store.attempts(one)),
    }.items():
        begun = time.perf_counter()
        assert read(run_id)
        parts[name] = time.perf_counter() - begun
    return Answers(listed, sum(parts[name] for name in ("run", "lines", "index", "events")), parts)


def large(count: int) -> Iterator[str]:
    """Fill a store with `count` calls: in runs of 1,000, and all in one run."""
    for runs, each in ((max(1, count // 1000), min(count, 1000)), (1, count)):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(Path(folder) / "runs.db")
            seconds = fill(store, runs, each)
            found = answers(store, f"run-{runs - 1:05}")
            sizes = store.sizes()
            size = sizes["bytes"]
            yield (
                f"{runs:,} runs of {each:,} calls: written in {seconds:.1f} s"
                f" ({3 * runs * each / seconds:,.0f} rows/s), {size / 1e6:,.0f} MB"
            )
            yield f"  list {found.listed:.3f} s; show {found.shown:.3f} s"
            yield "  " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in found.parts.items())
            begun = time.perf_counter()
            store.remove([f"run-{n:05}" for n in range(runs)])
            yield f"  removed in {time.perf_counter() - begun:.1f} s, to {store.sizes()['bytes'] / 1e6:.1f} MB"
            store.close()


def in_postgres(url: str, repeat: int) -> None:
    """Print the costs on a database; without a URL, on a server of its own that syncs the disk."""
    with ExitStack() as stack:
        place = url or stack.enter_context(cluster()).url()
        for name, kind, count, width in (
            ("500 at once, a put", place + PUTS, 10_000, 500),
            ("one after another, a put", place + PUTS, 1000, 1),
            ("500 at once, a call", place, 10_000, 500),
            ("one after another, a call", place, 1000, 1),
        ):
            costs = [added(kind, count, width) for _ in range(repeat)]
            print(
                f"{name}: wall {spread([one.wall for one in costs])} ms, CPU {spread([one.cpu for one in costs])} ms"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--postgres", nargs="?", const="", metavar="URL", help="measure a store in PostgreSQL")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, count, width, context = given.one
        print(json.dumps(one_cost(kind, int(count), int(width), CONTEXT if int(context) else "")))
        return
    print(machine())
    if given.postgres is not None:
        in_postgres(given.postgres, given.repeat)
        return
    for name, kind, count, width, context in (
        ("500 at once", "normal", 10_000, 500, False),
        ("one after another", "normal", 2000, 1, False),
        ("500 at once, each with the same 100 KB", "normal", 10_000, 500, True),
        ("500 at once, FULL", "full", 10_000, 500, False),
        ("one after another, FULL", "full", 1000, 1, False),
    ):
        costs = [added(kind, count, width, context) for _ in range(given.repeat)]
        print(f"{name}: wall {spread([one.wall for one in costs])} ms, CPU {spread([one.cpu for one in costs])} ms")
    for line in large(given.calls):
        print(line)


if __name__ == "__main__":
    main()
