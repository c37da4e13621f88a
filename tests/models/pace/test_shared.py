"""Rates of all processes of a store: together they never pass them."""

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusion.core.errors import StoreError
from fusion.core.types import Message, Request, Usage
from fusion.models.pace import Gate
from fusion.store.open import open_store

CALL = Request(messages=(Message(role="user", content="x" * 360),), max_tokens=100)


@pytest.mark.parametrize(
    ("rpm", "tpm", "callers", "calls"),
    [
        pytest.param(6000, None, 4, 12, id="many a second"),
        pytest.param(1200, None, 3, 5, id="20 a second"),
        pytest.param(None, 600_000, 3, 6, id="tokens"),
        pytest.param(3000, 900_000, 2, 8, id="both"),
        pytest.param(600, None, 1, 6, id="one process"),
    ],
)
def test_processes_together_keep_to_a_rate(
    tmp_path: Path, rpm: int | None, tpm: int | None, callers: int, calls: int
) -> None:
    """Each process has a gate of its own, and all of them one store."""
    store, passed = open_store(tmp_path / "runs.db"), list[float]()

    def process(_: int) -> None:
        gate = Gate(rpm=rpm, tpm=tpm, rates=lambda unit, seconds: store.accounts.book(unit, seconds))

        async def call() -> None:
            ticket = await gate.enter(CALL)
            passed.append(time.monotonic())
            gate.leave(ticket, Usage(input=100, output=100))

        async def main() -> None:
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                for _ in range(calls):
                    group.create_task(call())

        asyncio.run(main())

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(process, range(callers)))
    store.close()
    passed.sort()
    assert len(passed) == callers * calls
    space = max(60 / rpm if rpm else 0, 60 * 200 / tpm if tpm else 0)
    for first, last in itertools.combinations(range(0, len(passed), 3), 2):
        assert passed[last] - passed[first] >= (last - first) * space * 0.9 - 0.1
    assert passed[-1] - passed[0] >= (len(passed) - 1) * space * 0.7


def test_a_store_out_of_reach_admits_nothing_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.models.pace.shared._PAUSE", 0.01)
    broken, asked = threading.Event(), threading.Event()

    def book(unit: str, seconds: float) -> float:
        asked.set()
        if not broken.is_set():
            raise StoreError("the database is away")
        return 0.0

    async def main() -> None:
        gate = Gate(rpm=600, rates=book)
        waiting = asyncio.ensure_future(gate.enter(CALL))
        await asyncio.to_thread(asked.wait, 5)
        await asyncio.sleep(0.03)
        assert not waiting.done()
        broken.set()
        async with asyncio.timeout(5):
            await waiting

    asyncio.run(main())
