"""Rows: CPU and memory of many small runs of six calls each, in one process, with a store and without.

Every row is a run of its own on a model that answers at once, 64 at a time. Rounds of rows and of the same six calls
on the model alone, without Fusion, take turns, so that their ratio hardly depends on the load of the machine.

    python -m benchmarks.perf.rows [--repeat 5] [--rows 500] [--many 20000]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, Pipeline, ScriptedModel
from fusion.core.types import Message, Request

AT_ONCE = 64
CALLS = 6
PIPELINE = """
name: six
inputs: {text: a text}
stages:
  a: {kind: generate, role: bulk, prompt: "one {{ inputs.text }}"}
  b: {kind: generate, role: bulk, prompt: "two {{ a }}"}
  c: {kind: generate, role: bulk, prompt: "three {{ a }} {{ b }}"}
  d: {kind: generate, role: bulk, prompt: "four {{ inputs.text }}"}
  e: {kind: generate, role: bulk, prompt: "five {{ inputs.text }}"}
  f: {kind: generate, role: bulk, prompt: "six {{ c }} {{ d }} {{ e }}"}
output: f
"""


class Instant(ScriptedModel):
    """A model that answers at once, and keeps no request: those of a hundred thousand rows would fill the memory."""

    def __init__(self) -> None:
        super().__init__(self._answer, name="scripted/bulk")
        self.answered = 0

    def _answer(self, request: Request) -> str:
        self.answered += 1
        self.requests.clear()
        return "ok"


class Rows:
    """Return a client whose runs make six calls of a model that answers at once."""

    def __init__(self, fusion: Fusion, model: Instant) -> None:
        self._fusion = fusion
        self._model = model
        self._pipeline = Pipeline.from_yaml(PIPELINE)
        self._done = 0

    async def cpu_of(self, count: int) -> float:
        """Return CPU seconds of so many rows, each with another input."""
        return await self._timed(count, self._row)

    async def bare(self, count: int) -> float:
        """Return CPU seconds of the calls of so many rows on the model alone."""
        return await self._timed(count, self._calls)

    async def _timed(self, count: int, one: Callable[[int], Awaitable[object]]) -> float:
        numbers = iter(range(self._done, self._done + count))
        self._done += count

        async def work() -> None:
            for number in numbers:
                await one(number)

        before = self._model.answered
        began = time.process_time()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        seconds = time.process_time() - began
        assert self._model.answered - before == CALLS * count
        return seconds

    async def _row(self, number: int) -> None:
        result = await self._fusion.acomplete(f"text number {number}", pipeline=self._pipeline)
        assert (result.status, result.text) == ("ok", "ok")

    async def _calls(self, number: int) -> None:
        for call in range(CALLS):
            message = Message(role="user", content=f"call {call} text number {number}")
            await self._model.complete(Request(messages=(message,), max_tokens=1_000))


@asynccontextmanager
async def rows(*, stored: bool = False) -> AsyncIterator[Rows]:
    model = Instant()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "runs.db") if stored else None
        async with Fusion(profile="local", roles={"bulk": model}, store=store) as fusion:
            made = Rows(fusion, model)
            await made.cpu_of(2 * AT_ONCE)
            yield made


async def measure(count: int, repeat: int, *, stored: bool) -> tuple[list[float], list[float]]:
    """Return milliseconds of CPU for a row, and for its calls without Fusion, of several rounds."""
    async with rows(stored=stored) as made:
        pairs = [(await made.cpu_of(count), await made.bare(count)) for _ in range(repeat)]
    return [1e3 * row / count for row, _ in pairs], [1e3 * bare / count for _, bare in pairs]


async def growth(few: int, many: int, *, stored: bool = False) -> float:
    """Return the memory in MB that so many rows more add to a process that has worked a few."""
    async with rows(stored=stored) as made:
        await made.cpu_of(few)
        before = resident_mb()
        for _ in range(0, many, few):
            await made.cpu_of(few)
        return resident_mb() - before


def resident_mb() -> float:
    """Return the memory of this process, on Linux."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--many", type=int, default=20_000)
    given = parser.parse_args()
    print(machine())
    for stored, bar in ((False, 2.2), (True, 4.0)):
        taken, bare = asyncio.run(measure(given.rows, given.repeat, stored=stored))
        ratio = statistics.median(one / alone for one, alone in zip(taken, bare, strict=True))
        where = "with a store" if stored else "without a store"
        print(f"a row {where}: {spread(taken, '.2f')} ms CPU; bar {bar}")
        print(f"  its calls on the model alone: {spread(bare)} ms; {ratio:.1f} times that")
    if given.many:
        more = asyncio.run(growth(1_000, given.many))
        print(f"memory: {more:.1f} MB more after {given.many:,} further rows; bar 10")


if __name__ == "__main__":
    main()
